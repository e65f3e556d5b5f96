//! What lbd waits for, all at once: signals, a state that is published in the region, and other programs that change links, addresses,
//! routes or rules.
//!
//! - The region: a program that publishes a state touches the file then ([`Region::update`]), which inotify reports, as it does when the
//!   file loses its name. Counters are stored in the mapping and touch nothing.
//! - Routing: the groups of rtnetlink (`linux/rtnetlink.h`). Of routes only those of lbd and in its tables count: a host with all routes
//!   of the Internet has some change each moment. lbd's own changes of routes and rules carry its own port and are left out; changes of
//!   links count, also those by lbd, since Linux 6.1 does not say. Where the kernel had no room for more messages, something may have
//!   changed.
//!
//! Changes of nf_tables are not waited for but asked for: see `control.rs`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::Inotify,
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
            socket, sockopt::RcvBufForce,
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
    | 1 << (libc::RTNLGRP_IPV6_RULE - 1);
/// Of the socket: some ten thousand messages.
const BUFFER_BYTES: usize = 4 << 20;
/// `struct rtmsg`.
const ROUTE_HEADER_BYTES: usize = 12;
/// Where a route's table and protocol are in it.
const TABLE_AT: usize = HEADER_BYTES + 4;
const PROTOCOL_AT: usize = HEADER_BYTES + 5;

/// What has happened while lbd waited; nothing, when the time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A signal has come.
    pub signal: Option<Request>,
    /// A state was published, or the region has lost its name.
    pub region: bool,
    /// Links, addresses, routes or rules were changed, by another program as far as the kernel says.
    pub routing: bool,
}

/// Everything that lbd waits for, but for the region.
pub struct Events {
    signals: Signals,
    routing: OwnedFd,
    /// The port by which lbd changes routes and rules.
    own_port: u32,
    buffer: Vec<u8>,
}

impl Events {
    /// In the network namespace of the calling thread. Changes from now on are seen, but those of routes and rules that come from the
    /// netlink socket with `own_port`.
    ///
    /// # Errors
    /// Returns an error if the operating system refuses.
    pub fn open(signals: Signals, own_port: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let routing = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        // While lbd is busy, many may come. Without the right to it the default must do.
        let _ = setsockopt(&routing, RcvBufForce, &BUFFER_BYTES);
        bind(routing.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { signals, routing, own_port, buffer: vec![0; DUMP_BYTES_MAX] })
    }

    /// Waits for any of them, for a change of `region`, which is followed, or until `control` is readable, at
    /// most `limit`.
    ///
    /// # Errors
    /// Returns an error if the operating system refuses.
    pub fn wait(
        &mut self,
        limit: Duration,
        region: &Region,
        control: Option<BorrowedFd<'_>>,
    ) -> io::Result<Seen> {
        // Rounded up: a shorter wait would wake the caller before anything is due.
        let limit = limit.as_nanos().div_ceil(1_000_000);
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let wanted = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut polled = vec![wanted(self.signals.as_fd()), wanted(self.routing.as_fd())];
        polled.extend(region.watch().map(|watch| wanted(watch.as_fd())));
        polled.extend(control.map(wanted));
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

    /// Takes all that has come.
    fn routing_changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match recv(self.routing.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(bytes) => {
                    let of_others = |message| is_concern(message, self.own_port);
                    changed |= messages(&self.buffer[..bytes]).any(of_others);
                }
                Err(Errno::EAGAIN) => return Ok(changed),
                // Messages are lost.
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

/// Whether this message may be about a change by another program that concerns lbd.
fn is_concern(message: &[u8], own_port: u32) -> bool {
    let of_others = word(message, 12) != Some(own_port);
    match kind(message) {
        Some(libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR) => true,
        Some(libc::RTM_NEWRULE | libc::RTM_DELRULE) => of_others,
        Some(libc::RTM_NEWROUTE | libc::RTM_DELROUTE) => of_others && is_our_route(message),
        Some(_) | None => false,
    }
}

/// Whether it is a route of ours, or stands in a table of ours.
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
