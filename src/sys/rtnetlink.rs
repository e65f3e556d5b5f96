//! Tunnel devices, routes and rules in the kernel, through rtnetlink: reads the present ones, and applies
//! [`Op`]s.
//!
//! This is a blocking interface to an asynchronous crate. It has its own runtime, on the caller's thread, in
//! the caller's network namespace. Only the control thread uses it; no packet waits for it.
//!
//! A change is never assumed to be in place: [`Routing::converge`] reads everything back.

mod batch;
#[allow(clippy::wildcard_enum_match_arm, reason = "enums of another crate, which grow with every release")]
mod host;
mod inbound;
#[allow(clippy::wildcard_enum_match_arm, reason = "enums of another crate, which grow with every release")]
mod links;
#[allow(clippy::wildcard_enum_match_arm, reason = "enums of another crate, which grow with every release")]
mod routes;
#[allow(clippy::wildcard_enum_match_arm, reason = "enums of another crate, which grow with every release")]
mod rules;
#[allow(clippy::wildcard_enum_match_arm, reason = "enums of another crate, which grow with every release")]
mod underlay;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use batch::{Batch, Change};
use futures_util::{Stream, StreamExt};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use crate::host::{Link, Local, Way};
use crate::plan::{
    routing::{
        ALIAS_PREFIX, Desired, Device, Diff, DiffError, FRAGMENTS_DEVICE, Note, Op, Route, RoutingNow, diff,
    },
    tunnel::Ends,
};

/// What the alias of the TUN device of fragments says.
const FRAGMENTS_USER: &str = "fragments";
/// At most this many differences are named in [`RoutingError::Drift`].
const DRIFT_SHOWN_MAX: usize = 10;

/// Why routing could not be read or set up.
#[derive(Debug, Error)]
pub enum RoutingError {
    /// The runtime or the socket could not be opened.
    #[error("rtnetlink cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// Reading failed.
    #[error("{what} cannot be read: {source}")]
    Read {
        /// Links, routes or rules.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// A change failed. The changes before it were made.
    #[error("{op}: {source}{hint}")]
    Apply {
        /// The operation that failed, in words.
        op: String,
        /// The kernel's error.
        source: io::Error,
        /// What to do about it; empty, or begins with `": "`.
        hint: String,
    },
    /// Something that belongs to another program is in the way.
    #[error(transparent)]
    InTheWay(#[from] DiffError),
    /// Every change was accepted, but the result differs.
    #[error("{count} differences remain after all changes were accepted; another program changes the same things, or \
             the kernel does not do as told: {}", shown.join("; "))]
    Drift {
        /// How many more changes would be needed.
        count: usize,
        /// The first of these changes.
        shown: Vec<String>,
    },
}

impl RoutingError {
    /// Returns the operation that the kernel refused, in words.
    #[must_use]
    pub fn refused(&self) -> Option<&String> {
        match self {
            Self::Apply { op, .. } => Some(op),
            Self::Open(_) | Self::Read { .. } | Self::InTheWay(_) | Self::Drift { .. } => None,
        }
    }

    /// Reports whether the kernel refused a route because its next hop, or the device to it, is out of reach.
    fn is_unreachable(&self, op: &Op) -> bool {
        let Self::Apply { source, .. } = self else { return false };
        // EINVAL is "Nexthop has invalid gateway".
        let codes = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENETDOWN, libc::EINVAL];
        matches!(op, Op::AddRoute(_) | Op::ReplaceRoute(_))
            && source.raw_os_error().is_some_and(|code| codes.contains(&code))
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many changes were made; 0 if everything was right already.
    pub changes: usize,
    /// Notes for a person.
    pub notes: Vec<Note>,
}

/// A connection to the kernel's routing.
pub struct Routing {
    runtime: Runtime,
    handle: Handle,
    batch: Batch,
    /// The indexes of devices by name, as last read.
    indexes: BTreeMap<String, u32>,
    announce: Announce,
}

/// A function that gets the number of a device.
type Announce = Box<dyn Fn(u32)>;

impl Routing {
    /// Opens a connection in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Returns an error if the runtime or the socket cannot be opened.
    pub fn open() -> Result<Self, RoutingError> {
        Self::open_announcing(|_| {})
    }

    /// As [`Routing::open`], but calls `announce` with the number of every device by which fragments arrive from
    /// the tier ([`Device::is_from_tier`]), before the device is set up.
    ///
    /// # Errors
    /// As [`Routing::open`].
    pub fn open_announcing(announce: impl Fn(u32) + 'static) -> Result<Self, RoutingError> {
        let runtime = Builder::new_current_thread().enable_io().build().map_err(RoutingError::Open)?;
        let entered = runtime.enter();
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(RoutingError::Open)?;
        runtime.spawn(connection);
        drop(entered);
        let batch = Batch::open().map_err(RoutingError::Open)?;
        Ok(Self { runtime, handle, batch, indexes: BTreeMap::new(), announce: Box::new(announce) })
    }

    /// Returns the netlink port by which routes and rules are changed. The kernel states this port when it
    /// reports the changes to other sockets.
    ///
    /// # Errors
    /// Returns an error if a system call fails.
    pub fn port(&self) -> io::Result<u32> {
        self.batch.port()
    }

    /// Reads the present devices, routes and rules, and what the tunnels of `desired` depend on.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub fn current(&mut self, desired: &Desired) -> Result<RoutingNow, RoutingError> {
        let Self { runtime, handle, indexes, .. } = self;
        runtime.block_on(async {
            let links::Links { devices, indexes: by_name, mtu_bytes, vrfs } = links::current(handle)
                .await
                .map_err(|source| RoutingError::Read { what: "links", source })?;
            *indexes = by_name;
            let ends: BTreeSet<Ends> = desired.devices.values().map(|device| device.tunnel.ends).collect();
            let underlay_mtu_bytes = underlay::mtu_bytes(handle, &ends, &mtu_bytes)
                .await
                .map_err(|source| RoutingError::Read { what: "routes to the ends of tunnels", source })?;
            let (routes, foreign_main) = routes::current(handle, indexes)
                .await
                .map_err(|source| RoutingError::Read { what: "routes", source })?;
            let (rules, foreign_rules) = rules::current(handle)
                .await
                .map_err(|source| RoutingError::Read { what: "rules", source })?;
            Ok(RoutingNow { devices, routes, rules, foreign_main, foreign_rules, vrfs, underlay_mtu_bytes })
        })
    }

    /// Reads the routes of ours that announce VIPs.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub fn announcing(&mut self) -> Result<BTreeSet<Route>, RoutingError> {
        let Self { runtime, handle, .. } = self;
        let read = |source| RoutingError::Read { what: "routes that announce VIPs", source };
        runtime.block_on(routes::announcing(handle)).map_err(read)
    }

    /// Adds and removes routes that announce VIPs, until there are these and no others. Returns how many changes
    /// that were.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer, or refuses.
    pub fn announce(&mut self, wanted: &BTreeSet<Route>) -> Result<usize, RoutingError> {
        let now = self.announcing()?;
        let gone = now.difference(wanted).cloned().map(Op::RemoveRoute);
        let ops: Vec<Op> = gone.chain(wanted.difference(&now).cloned().map(Op::AddRoute)).collect();
        self.apply(&ops)?;
        Ok(ops.len())
    }

    /// Reads the host's own devices, and what the kernel delivers to it.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub fn host(&mut self) -> Result<(BTreeMap<String, Link>, Vec<Local>), RoutingError> {
        let Self { runtime, handle, .. } = self;
        let read = |source| RoutingError::Read { what: "devices and addresses", source };
        runtime.block_on(host::current(handle)).map_err(read)
    }

    /// Returns the destinations of those of these ways that the kernel has no route for.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot be asked.
    pub fn unreachable(&mut self, ways: &[Way]) -> Result<Vec<IpAddr>, RoutingError> {
        let Self { runtime, handle, .. } = self;
        let read = |source| RoutingError::Read { what: "routes to backends", source };
        runtime.block_on(underlay::unreachable(handle, ways)).map_err(read)
    }

    /// Makes these changes, in this order.
    ///
    /// # Errors
    /// Returns the first refusal of the kernel. Neighbouring additions, or removals, of routes and rules are
    /// sent together, so some that follow the refused one may have been made. Removing something that is
    /// already gone is no error.
    pub fn apply(&mut self, ops: &[Op]) -> Result<(), RoutingError> {
        self.make(ops, |_, refusal| Err(refusal))
    }

    /// As [`Routing::apply`], but continues if a next hop is out of reach, and returns those refusals.
    ///
    /// # Errors
    /// Returns the first refusal for another reason.
    pub fn apply_reachable(&mut self, ops: &[Op]) -> Result<Vec<RoutingError>, RoutingError> {
        let mut refused = Vec::new();
        self.make(ops, |op, refusal| {
            if !refusal.is_unreachable(op) {
                return Err(refusal);
            }
            refused.push(refusal);
            Ok(())
        })?;
        Ok(refused)
    }

    /// Makes these changes. Continues after a refusal if `refused` returns `Ok`.
    fn make(
        &mut self,
        ops: &[Op],
        mut refused: impl FnMut(&Op, RoutingError) -> Result<(), RoutingError>,
    ) -> Result<(), RoutingError> {
        // A removal is sent after the additions that replace what it removes, so that a refused addition
        // prevents it.
        let together = |one: &Op, next: &Op| {
            !one.is_of_device() && !next.is_of_device() && one.removes() == next.removes()
        };
        for ops in ops.chunk_by(together).flat_map(|ops| ops.chunks(batch::MESSAGES_MAX)) {
            let changes: Option<Vec<_>> = ops.iter().map(|op| change_of(op, &self.indexes)).collect();
            let results = if let Some(changes) = changes {
                self.send(changes)?
            } else {
                let Self { runtime, handle, indexes, announce, .. } = self;
                ops.iter().map(|op| runtime.block_on(apply(handle, indexes, announce, op))).collect()
            };
            for (op, result) in ops.iter().zip(results) {
                let result = if op.removes() { gone_is_fine(result) } else { result };
                if let Err(source) = result {
                    let hint = hint(op, &source);
                    refused(op, RoutingError::Apply { op: op.to_string(), source, hint })?;
                }
            }
        }
        Ok(())
    }

    /// Makes these changes in one send. Returns the result of each.
    fn send(&mut self, changes: Vec<io::Result<Change>>) -> Result<Vec<io::Result<()>>, RoutingError> {
        let (mut results, mut sent, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (change, place) in changes.into_iter().zip(0..) {
            results.push(change.map(|change| {
                sent.push(change);
                places.push(place);
            }));
        }
        let what = "what became of changes of routes and rules";
        let refused = self.batch.send(sent).map_err(|source| RoutingError::Read { what, source })?;
        for (place, error) in refused {
            results[places[place]] = Err(error);
        }
        Ok(results)
    }

    /// Makes the TUN device of fragments ready for use. Returns whether anything had to be changed.
    ///
    /// # Errors
    /// Returns an error if there is no such device, or the kernel refuses.
    pub fn set_up_fragments_device(&mut self) -> Result<bool, RoutingError> {
        let right = self.is_fragments_device_right();
        let Self { runtime, handle, .. } = self;
        let changed = right.and_then(|right| {
            if !right {
                runtime.block_on(async {
                    let index = links::index(handle, FRAGMENTS_DEVICE).await?;
                    let alias = format!("{ALIAS_PREFIX} {FRAGMENTS_USER}");
                    // Packets that are sent in may be larger; but below 1280 the device would have no IPv6.
                    let mtu_bytes = Some(1500);
                    let settings =
                        links::Settings { name: FRAGMENTS_DEVICE, alias: &alias, mtu_bytes, inbound: true };
                    links::ready(handle, index, settings).await
                })?;
            }
            Ok(!right)
        });
        changed.map_err(|source| {
            let op = format!("set up device {FRAGMENTS_DEVICE}");
            RoutingError::Apply { op, source, hint: String::new() }
        })
    }

    /// Reports whether the TUN device of fragments is ready for use.
    ///
    /// # Errors
    /// Returns an error if there is no such device (ENODEV), or the kernel does not answer.
    pub fn is_fragments_device_right(&mut self) -> io::Result<bool> {
        let Self { runtime, handle, .. } = self;
        let now = runtime.block_on(links::now(handle, FRAGMENTS_DEVICE))?;
        let users = now.alias.strip_prefix(ALIAS_PREFIX).map(str::trim);
        Ok(now.ready && now.inbound && users == Some(FRAGMENTS_USER))
    }

    /// Makes the kernel agree with `desired`, and reads the result back.
    ///
    /// # Errors
    /// Returns an error if something is in the way, the kernel refuses a change, or differences remain.
    pub fn converge(&mut self, desired: &Desired) -> Result<Applied, RoutingError> {
        let Diff { ops, notes } = diff(&self.current(desired)?, desired)?;
        if ops.is_empty() {
            return Ok(Applied { changes: 0, notes });
        }
        self.apply(&ops)?;
        let left = diff(&self.current(desired)?, desired)?.ops;
        if !left.is_empty() {
            let shown = left.iter().take(DRIFT_SHOWN_MAX).map(Op::to_string).collect();
            return Err(RoutingError::Drift { count: left.len(), shown });
        }
        Ok(Applied { changes: ops.len(), notes })
    }

    /// Removes all of our devices, and with them their routes. Returns how many there were.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn remove_devices(&mut self) -> Result<usize, RoutingError> {
        let none = Desired::default();
        let mut ops = diff(&self.current(&none)?, &none)?.ops;
        ops.retain(|op| matches!(op, Op::RemoveDevice(_)));
        self.apply(&ops)?;
        Ok(ops.len())
    }

    /// Removes everything that is ours.
    ///
    /// # Errors
    /// As [`Routing::converge`].
    pub fn cleanup(&mut self) -> Result<Applied, RoutingError> {
        self.converge(&Desired::default())
    }
}

async fn apply(
    handle: &mut Handle,
    indexes: &mut BTreeMap<String, u32>,
    announce: &Announce,
    op: &Op,
) -> io::Result<()> {
    match op {
        Op::AddDevice(device) => {
            links::add(handle, device).await?;
            let made = set_up_new(handle, indexes, announce, device).await;
            if made.is_err() {
                // A half-made device would only be in the way.
                indexes.remove(&device.name);
                let _ = links::remove(handle, &device.name).await;
            }
            made
        }
        Op::Ready(device) => {
            let index = links::index(handle, &device.name).await?;
            ready(handle, index, announce, device).await
        }
        Op::RemoveDevice(name) => {
            indexes.remove(name);
            links::remove(handle, name).await
        }
        // `Batch` makes these changes.
        Op::AddRoute(_) | Op::ReplaceRoute(_) | Op::RemoveRoute(_) | Op::AddRule(..) | Op::RemoveRule(..) => {
            Ok(())
        }
    }
}

/// Returns the message for a change of a route or rule; `None` for a change of a device.
fn change_of(op: &Op, indexes: &BTreeMap<String, u32>) -> Option<io::Result<Change>> {
    match op {
        Op::AddRoute(route) => Some(routes::addition(indexes, route)),
        Op::ReplaceRoute(route) => Some(routes::replacement(indexes, route)),
        Op::RemoveRoute(route) => Some(routes::removal(indexes, route)),
        Op::AddRule(family, rule) => Some(Ok(rules::addition(*family, rule))),
        Op::RemoveRule(family, rule) => Some(Ok(rules::removal(*family, rule))),
        Op::AddDevice(_) | Op::Ready(_) | Op::RemoveDevice(_) => None,
    }
}

async fn set_up_new(
    handle: &mut Handle,
    indexes: &mut BTreeMap<String, u32>,
    announce: &Announce,
    device: &Device,
) -> io::Result<()> {
    let index = links::index(handle, &device.name).await?;
    indexes.insert(device.name.clone(), index);
    if device.is_entrance() {
        links::configure(handle, index, device.into()).await
    } else {
        ready(handle, index, announce, device).await
    }
}

async fn ready(handle: &mut Handle, index: u32, announce: &Announce, device: &Device) -> io::Result<()> {
    if device.is_from_tier() {
        announce(index);
    }
    links::ready(handle, index, device.into()).await
}

/// Removing something that is already gone counts as success.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.raw_os_error() {
        Some(libc::ENODEV | libc::ESRCH | libc::ENOENT) => Ok(()),
        Some(_) | None => Err(error),
    })
}

/// Returns what a person can do about a refusal.
fn hint(op: &Op, error: &io::Error) -> String {
    let errno = error.raw_os_error().unwrap_or(0);
    let advice = match (op, errno) {
        (_, libc::EPERM | libc::EACCES) => {
            "needs CAP_NET_ADMIN (and a writable /proc/sys for new devices)".to_owned()
        }
        (Op::AddDevice(device), libc::EOPNOTSUPP | libc::ENOENT | libc::EINVAL | libc::EPROTONOSUPPORT) => {
            let module = device.tunnel.kind().module();
            let encap = device.tunnel.encap_module().map(|module| format!(" {module}")).unwrap_or_default();
            format!(
                "the kernel may lack {module}{encap}: modprobe -a {module}{encap} (in Debian's linux-image-amd64; \
                 cloud kernels lack some modules)"
            )
        }
        (Op::AddDevice(device), libc::EEXIST) => {
            format!(
                "another program made {} or a tunnel with its ends just now; see: ip -d link show",
                device.name
            )
        }
        (Op::Ready(_) | Op::AddDevice(_) | Op::AddRoute(_) | Op::AddRule(..), libc::EAFNOSUPPORT) => {
            "the device has no IPv6: ipv6.disable=1, or an MTU below 1280".to_owned()
        }
        (Op::AddRoute(_), libc::ENETUNREACH | libc::EHOSTUNREACH) => {
            "the next hop must be on a network of this machine (ip route get ADDRESS)".to_owned()
        }
        (Op::AddRoute(_), libc::EINVAL) => {
            "a next hop must be another machine's address on a network of this one".to_owned()
        }
        (Op::AddRoute(_) | Op::ReplaceRoute(_), libc::EEXIST) => {
            "another program has a route in the same place (ip route show table all)".to_owned()
        }
        (
            Op::AddDevice(_)
            | Op::Ready(_)
            | Op::RemoveDevice(_)
            | Op::AddRoute(_)
            | Op::ReplaceRoute(_)
            | Op::RemoveRoute(_)
            | Op::AddRule(..)
            | Op::RemoveRule(..),
            _,
        ) => return String::new(),
    };
    format!(": {advice}")
}

/// Sends a change of a device and waits for the kernel's answer.
async fn change(handle: &mut Handle, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = request(handle, message)?;
    while let Some(answer) = answers.next().await {
        inner(answer)?;
    }
    Ok(())
}

/// Requests all objects of one kind.
async fn dump(
    handle: &mut Handle,
    message: RouteNetlinkMessage,
    mut take: impl FnMut(RouteNetlinkMessage),
) -> io::Result<()> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = request(handle, message)?;
    while let Some(answer) = answers.next().await {
        inner(answer)?.map(&mut take);
    }
    Ok(())
}

fn request(
    handle: &mut Handle,
    message: NetlinkMessage<RouteNetlinkMessage>,
) -> io::Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>> {
    handle.request(message).map_err(|error| io::Error::other(error.to_string()))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "a non-exhaustive enum of another crate")]
fn inner(answer: NetlinkMessage<RouteNetlinkMessage>) -> io::Result<Option<RouteNetlinkMessage>> {
    match answer.payload {
        NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
