//! NFQUEUE, by the crate `nfq`. What the crate cannot do is done here on its socket.
//!
//! - **One message configures.** Each setter of the crate waits for an acknowledgement and discards packets
//!   that are read meanwhile; these packets then stay in the kernel for ever. A restarted daemon finds rules
//!   in place, and packets arrive at once. So one message without acknowledgement configures everything, and
//!   the result is checked by reading `/proc/net/netfilter/nfnetlink_queue`.
//! - **The socket is found** among the process's descriptors, since the crate does not expose it. It is
//!   needed for its receive buffer (the default holds 256 packets, whatever the queue's length), a time
//!   limit, close-on-exec, and to read it in batches.
//! - A full queue is fail-open: the packet goes on, without a mark, to the chain behind the queue. Large
//!   packets arrive unsegmented (GSO), since only headers are read.
//!
//! Two kinds of queue are read in two ways. The crate needs two system calls for each packet, and allocates
//! memory, which takes a third of a worker's time under load. So new flows are read and answered in batches,
//! without the crate (`flows.rs`, `message.rs`). Fragments are few, and large, since they may have to be
//! held. Each must be answered before the fragments that it releases are sent in. So they are read one by
//! one, by the crate (`fragments.rs`).
//!
//! Verdicts must be sent by the socket that is bound, in the order of the packets (the kernel looks them up
//! in a list).

#![allow(unsafe_code)]
#![expect(clippy::wildcard_enum_match_arm, reason = "Errno is open")]

mod flows;
mod fragments;
mod message;

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

pub use flows::FlowQueue;
pub use fragments::FragmentQueue;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        socket::{
            MsgFlags, NetlinkAddr, getsockname, sendto, setsockopt,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::{TimeVal, TimeValLike},
    },
};
use thiserror::Error;

use super::{
    netlink::{Writer, byte, message_type, narrow},
    process,
};
use crate::{io::QueueError, model::ids::QueueNum, packet::HEADER_BYTES_MAX, shm::stats::QueueLine};

/// The size limits of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// How many packets may wait for a verdict; a further packet fails open.
    pub packets_max: u32,
    /// How many bytes of each packet are copied. The crate's buffer holds 16384, with less than 1 KiB of
    /// attributes.
    pub copy_bytes: u16,
    /// The socket's receive buffer; a packet that does not fit fails open. The kernel allows twice this size,
    /// for its own overhead, and never uses more.
    pub buffer_bytes: usize,
}

impl Capacity {
    /// The capacity of a queue of new flows. A copy of [`HEADER_BYTES_MAX`] takes less than 2 KiB of kernel
    /// memory.
    pub const FLOWS: Self =
        Self { packets_max: 8192, copy_bytes: HEADER_BYTES_MAX, buffer_bytes: 8192 * 2048 };
    /// The capacity of the queue of fragments. They are copied whole, since they may have to be held: jumbo
    /// frames of 9000 bytes fit. The buffer holds a queue full of ordinary fragments, or a fifth as many
    /// jumbo frames.
    pub const FRAGMENTS: Self = Self { packets_max: 4096, copy_bytes: 9216, buffer_bytes: 4096 * 2048 };
}

/// How long an idle worker waits before it takes its next turn.
const IDLE: Duration = Duration::from_millis(200);
const QUEUES_FILE: &str = "net/netfilter/nfnetlink_queue";
const NFQNL_MSG_CONFIG: u16 = message_type(libc::NFNL_SUBSYS_QUEUE, libc::NFQNL_MSG_CONFIG);
const NFQNL_CFG_CMD_BIND: u8 = byte(libc::NFQNL_CFG_CMD_BIND);
const NFQNL_COPY_PACKET: u8 = byte(libc::NFQNL_COPY_PACKET);
const NFQA_CFG_CMD: u16 = narrow(libc::NFQA_CFG_CMD);
const NFQA_CFG_PARAMS: u16 = narrow(libc::NFQA_CFG_PARAMS);
const NFQA_CFG_QUEUE_MAXLEN: u16 = narrow(libc::NFQA_CFG_QUEUE_MAXLEN);
const NFQA_CFG_MASK: u16 = narrow(libc::NFQA_CFG_MASK);
const NFQA_CFG_FLAGS: u16 = narrow(libc::NFQA_CFG_FLAGS);
/// Fail open, and GSO: see above.
const FLAGS: u32 = (libc::NFQA_CFG_F_FAIL_OPEN | libc::NFQA_CFG_F_GSO).cast_unsigned();

/// Why a queue was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kernel cannot queue to user space.
    #[error(
        "the kernel has no nfnetlink_queue: `modprobe nfnetlink_queue` (a module of Debian's linux-image-amd64)"
    )]
    NoKernelPart,
    /// Another process listens to the queue.
    #[error("queue {} is held by {holder}; end it or choose other queues", .queue.0)]
    Held {
        /// The queue's number.
        queue: QueueNum,
        /// The process that holds the queue.
        holder: String,
    },
    /// The process may not open this queue.
    #[error("queue {}: not allowed; lbd needs CAP_NET_ADMIN", .0.0)]
    NotAllowed(QueueNum),
    /// A system call failed.
    #[error("queue {}: {doing}: {error}", .queue.0)]
    Os {
        /// The queue's number.
        queue: QueueNum,
        /// What was tried.
        doing: &'static str,
        /// The error of the system call.
        error: io::Error,
    },
}

/// Listens to queue `number` with this capacity. Returns the crate's queue, and a second descriptor of its
/// socket.
fn listen(number: QueueNum, capacity: Capacity) -> Result<(nfq::Queue, OwnedFd), OpenError> {
    let os = |doing| move |error: io::Error| OpenError::Os { queue: number, doing, error };
    if let Some(line) = queue_line(number) {
        return Err(OpenError::Held { queue: number, holder: holder(line.portid) });
    }
    let before = netfilter_sockets().map_err(os("listing descriptors"))?;
    let mut inner = nfq::Queue::open().map_err(|error| match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT) => OpenError::NoKernelPart,
        _ => os("opening a netlink socket")(error),
    })?;
    // Report losses, so that they can be counted.
    inner.set_recv_enobufs(true).map_err(os("asking for overruns"))?;
    let after = netfilter_sockets().map_err(os("listing descriptors"))?;
    let mut new = after.difference(&before);
    let (Some(&fd), None) = (new.next(), new.next()) else {
        return Err(os("finding its socket")(io::Error::other("not exactly one new netfilter socket")));
    };
    // SAFETY: `fd` was opened by `inner` just now, which keeps it open for the rest of this function.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|e| os("setting close-on-exec")(e.into()))?;
    setsockopt(&socket, RcvBufForce, &capacity.buffer_bytes).map_err(|error| match error {
        Errno::EPERM => OpenError::NotAllowed(number),
        error => os("enlarging its receive buffer")(error.into()),
    })?;
    let idle = TimeVal::milliseconds(i64::try_from(IDLE.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&socket, ReceiveTimeout, &idle).map_err(|e| os("setting its time limit")(e.into()))?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(fd, configuration(number, capacity).bytes(), &kernel, MsgFlags::empty())
        .map_err(|e| os("configuring it")(e.into()))?;
    let ours: NetlinkAddr = getsockname(fd).map_err(|e| os("asking for its port")(e.into()))?;
    match queue_line(number) {
        Some(line) if line.portid == ours.pid() => {
            let socket = socket.try_clone_to_owned().map_err(os("cloning its descriptor"))?;
            Ok((inner, socket))
        }
        Some(line) => Err(OpenError::Held { queue: number, holder: holder(line.portid) }),
        None => match inner.recv().map_err(|error| error.raw_os_error()) {
            Err(Some(libc::EPERM)) => Err(OpenError::NotAllowed(number)),
            Err(Some(libc::EINVAL | libc::EOPNOTSUPP)) => Err(OpenError::NoKernelPart),
            Err(code) => Err(os("binding it")(io::Error::from_raw_os_error(code.unwrap_or(libc::EIO)))),
            Ok(_) => Err(os("binding it")(io::Error::other(format!("{QUEUES_FILE} does not list it")))),
        },
    }
}

fn classify(error: io::Error) -> QueueError {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => QueueError::Overrun,
        Some(libc::ENOENT) => QueueError::TooLate,
        Some(libc::EPERM | libc::EBADF | libc::ENODEV) => QueueError::Closed(error),
        _ => QueueError::Other(error),
    }
}

/// Builds the one message that binds a queue and sets all its options (`nfnetlink_queue.h`,
/// `nfqnl_recv_config`).
fn configuration(queue: QueueNum, capacity: Capacity) -> Writer {
    let [r0, r1, r2, r3] = u32::from(capacity.copy_bytes).to_be_bytes();
    let [high, low] = queue.0.to_be_bytes();
    let mut message = Writer::default();
    message.message(NFQNL_MSG_CONFIG, 0, 0, [0, 0, high, low], |message| {
        message.value(NFQA_CFG_CMD, &[NFQNL_CFG_CMD_BIND, 0, 0, 0]);
        message.value(NFQA_CFG_PARAMS, &[r0, r1, r2, r3, NFQNL_COPY_PACKET]);
        message.number(NFQA_CFG_QUEUE_MAXLEN, capacity.packets_max);
        message.number(NFQA_CFG_FLAGS, FLAGS);
        message.number(NFQA_CFG_MASK, FLAGS);
    });
    message
}

/// Returns all queues of this network namespace that have a listener, as read from a file in `proc`.
///
/// # Errors
/// Returns an error if the kernel has no such file: then it cannot queue, or not yet.
pub fn queue_lines(proc: &Path) -> io::Result<Vec<QueueLine>> {
    Ok(fs::read_to_string(proc.join(QUEUES_FILE))?.lines().filter_map(parse_line).collect())
}

/// As [`queue_lines`], of the network namespace of the calling thread.
///
/// # Errors
/// As [`queue_lines`].
pub fn queue_lines_here() -> io::Result<Vec<QueueLine>> {
    queue_lines(Path::new("/proc/thread-self"))
}

fn queue_line(number: QueueNum) -> Option<QueueLine> {
    // Where this thread has opened its socket.
    queue_lines_here().ok()?.into_iter().find(|line| line.queue == number.0)
}

fn parse_line(line: &str) -> Option<QueueLine> {
    let fields: Vec<u64> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let &[queue, portid, waiting, _mode, copy_range, dropped, user_dropped, packets, ..] = &fields[..] else {
        return None;
    };
    let (queue, portid) = (u16::try_from(queue).ok()?, u32::try_from(portid).ok()?);
    Some(QueueLine { queue, portid, waiting, copy_range, dropped, user_dropped, packets })
}

/// Describes the owner of a netlink port: the process of that number, since the first socket of a process
/// gets the process ID as its port.
fn holder(port: u32) -> String {
    process(port.into()).unwrap_or_else(|| format!("netlink port {port}"))
}

/// Returns the descriptors of this process that are netfilter netlink sockets.
fn netfilter_sockets() -> io::Result<BTreeSet<RawFd>> {
    let mut sockets = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if socket_option(fd, libc::SO_DOMAIN) == Some(libc::AF_NETLINK)
            && socket_option(fd, libc::SO_PROTOCOL) == Some(libc::NETLINK_NETFILTER)
        {
            sockets.insert(fd);
        }
    }
    Ok(sockets)
}

/// Returns an integer option of a socket; `None` if `fd` is not a socket.
fn socket_option(fd: RawFd, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&value)).ok()?;
    let pointer = (&raw mut value).cast();
    // SAFETY: the pointers are to live variables of the size that `len` says; a bad descriptor is only an
    // error.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, pointer, &raw mut len) };
    (result == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_list_of_queues() {
        let line = "    0   4242     3 2   256    10    20      300  1";
        let expected = QueueLine {
            queue: 0,
            portid: 4242,
            waiting: 3,
            copy_range: 256,
            dropped: 10,
            user_dropped: 20,
            packets: 300,
        };
        assert_eq!(parse_line(line), Some(expected));
        assert_eq!(parse_line("    0   1234"), None);
        assert_eq!(parse_line("x"), None);
    }

    #[test]
    fn one_message_has_all_settings_of_a_queue() {
        let byte = |of: libc::c_int| u8::try_from(of).unwrap();
        let expected = |queue: [u8; 2], copy: u32, length: u32| {
            let [copy, length] = [copy, length].map(u32::to_be_bytes);
            let flags = [0, 0, 0, 1 | 4]; // fail open, GSO
            [
                &64u32.to_ne_bytes()[..],
                &[byte(libc::NFQNL_MSG_CONFIG), byte(libc::NFNL_SUBSYS_QUEUE), 1, 0], // and NLM_F_REQUEST
                &[0; 10],
                &queue,
                &[8, 0, byte(libc::NFQA_CFG_CMD), 0, byte(libc::NFQNL_CFG_CMD_BIND), 0, 0, 0],
                &[9, 0, byte(libc::NFQA_CFG_PARAMS), 0],
                &copy,
                &[byte(libc::NFQNL_COPY_PACKET), 0, 0, 0],
                &[8, 0, byte(libc::NFQA_CFG_QUEUE_MAXLEN), 0],
                &length,
                &[8, 0, byte(libc::NFQA_CFG_FLAGS), 0],
                &flags,
                &[8, 0, byte(libc::NFQA_CFG_MASK), 0],
                &flags,
            ]
            .concat()
        };
        let flows = configuration(QueueNum(0x0102), Capacity::FLOWS);
        assert_eq!(flows.bytes(), expected([1, 2], 256, 8192));
        let fragments = configuration(QueueNum(10), Capacity::FRAGMENTS);
        assert_eq!(fragments.bytes(), expected([0, 10], 9216, 4096));
    }
}
