//! The events that lbd waits for, all at once: signals, a new state in the region, and changes of links,
//! addresses, routes or rules by other programs.
//!
//! - The region: a writer that publishes a state also touches the file ([`Region::update`]). inotify reports
//!   this, and also reports when the file loses its name. Counters are stored in the mapping, which does not
//!   touch the file.
//! - Routing: the groups of rtnetlink (`linux/rtnetlink.h`). Only routes that concern lbd wake it: on a host
//!   with the full Internet routing table some route changes all the time. Changes of routes and rules by lbd
//!   itself carry its own port and are ignored. If the kernel had no room for more messages, lbd assumes a
//!   change.
//!
//! lbd does not wait for changes of nf_tables, but polls for them: see `control.rs`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::Inotify,
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
        },
    },
};

use super::{
    netlink::{DUMP_BYTES_MAX, HEADER_BYTES, attribute, kind, messages, word},
    region::Region,
    signal::{Request, Signals},
};
use crate::plan::routing;

const GROUPS: u32 = libc::RTMGRP_LINK as u32
    | libc::RTMGRP_IPV4_IFADDR as u32
    | libc::RTMGRP_IPV4_ROUTE as u32
    | libc::RTMGRP_IPV4_RULE as u32
    | libc::RTMGRP_IPV6_IFADDR as u32
    | libc::RTMGRP_IPV6_ROUTE as u32
    // RTNLGRP_IPV6_RULE.
    | 1 << 18;
/// `struct rtmsg`.
const ROUTE_HEADER_BYTES: usize = 12;
/// Offsets of a route's table and protocol in the message.
const TABLE_AT: usize = HEADER_BYTES + 4;
const PROTOCOL_AT: usize = HEADER_BYTES + 5;

/// The events that have occurred while lbd waited; none if the time limit has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The signal that was received.
    pub signal: Option<Request>,
    /// A state was published, or the region has lost its name.
    pub region: bool,
    /// Another program has changed links, addresses, routes or rules.
    pub routing: bool,
}

/// Everything that lbd waits for, except the region.
pub struct Events {
    signals: Signals,
    routing: OwnedFd,
    /// The netlink port of the socket by which lbd changes routes and rules.
    own_port: u32,
    buffer: Vec<u8>,
}

impl Events {
    /// Starts to listen in the network namespace of the calling thread. Changes from now on are reported,
    /// except changes of routes and rules that come from the netlink socket with `own_port`.
    ///
    /// # Errors
    /// Returns an error if a system call fails.
    pub fn open(signals: Signals, own_port: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let routing = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(routing.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { signals, routing, own_port, buffer: vec![0; DUMP_BYTES_MAX] })
    }

    /// Waits at most `limit` for any event, including a change of `region`, which this lbd follows.
    ///
    /// # Errors
    /// Returns an error if a system call fails.
    pub fn wait(&mut self, limit: Duration, region: &Region) -> io::Result<Seen> {
        // Round up: after a shorter wait the caller would loop with nothing to do.
        let limit = limit.as_nanos().div_ceil(1_000_000);
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let wanted = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut polled = vec![wanted(self.signals.as_fd()), wanted(self.routing.as_fd())];
        polled.extend(region.watch().map(|watch| wanted(watch.as_fd())));
        match poll(&mut polled, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Seen {
            signal: self.signals.read()?,
            region: region_changed(region)?,
            routing: self.routing_changed()?,
        })
    }

    /// Reads all messages that have arrived.
    fn routing_changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match recv(self.routing.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(bytes) => {
                    let of_others = |message| is_concern(message, self.own_port);
                    changed |= messages(&self.buffer[..bytes]).any(of_others);
                }
                Err(Errno::EAGAIN) => return Ok(changed),
                // Messages were lost.
                Err(Errno::ENOBUFS) => changed = true,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn region_changed(region: &Region) -> io::Result<bool> {
    match region.watch().map(Inotify::read_events) {
        None | Some(Err(Errno::EAGAIN)) => Ok(false),
        Some(events) => Ok(!events?.is_empty()),
    }
}

/// Reports whether lbd must act on this message: another program has changed something that concerns lbd.
fn is_concern(message: &[u8], own_port: u32) -> bool {
    let of_others = word(message, 12) != Some(own_port);
    match kind(message) {
        Some(libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR) => true,
        Some(libc::RTM_NEWRULE | libc::RTM_DELRULE) => of_others,
        Some(libc::RTM_NEWROUTE | libc::RTM_DELROUTE) => of_others && is_our_route(message),
        Some(_) | None => false,
    }
}

/// Reports whether the route is ours or is in one of our tables.
fn is_our_route(message: &[u8]) -> bool {
    let (Some(&table), Some(&protocol)) = (message.get(TABLE_AT), message.get(PROTOCOL_AT)) else {
        return false;
    };
    let attributes = message.get(HEADER_BYTES + ROUTE_HEADER_BYTES..).unwrap_or_default();
    let table =
        attribute(attributes, libc::RTA_TABLE).and_then(|table| word(table, 0)).unwrap_or(table.into());
    protocol == routing::PROTOCOL || routing::target_of_table(table).is_some()
}

#[cfg(test)]
mod tests;
