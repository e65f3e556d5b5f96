//! A queue of new flows. One system call receives the waiting packets, up to [`BATCH`] at a time, and one
//! answers them. The worker does not wait to fill a batch: a single packet is one. Before it sleeps, a worker
//! may poll for more packets for a while, since waking up takes longer than a decision
//! (`balancer.busy_poll_us`).
//!
//! An error that the kernel reports about one verdict of a batch is a message of its own among the next
//! packets. If the kernel has no memory for a batch of verdicts, the batch is sent again, [`SENDS_MAX`]
//! times; after that its packets wait until lbd ends.

#![allow(unsafe_code)]

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, NetlinkAddr, sendto},
};

use super::{Capacity, OpenError, classify, listen, message};
use crate::{
    balance::Verdict,
    io::{BatchQueue, QueueError},
    model::ids::{MarkMask, QueueNum},
    sys::{clock, netlink::Writer},
};

/// How many packets are received at a time, at most. With 64, a packet of a full batch costs the same and a
/// single packet costs more, since every system call gets the description of each buffer.
const BATCH: usize = 32;

/// How often verdicts are sent that the kernel has no memory for.
const SENDS_MAX: usize = 1000;

/// The copied bytes of a packet; and, with room to spare, headers and other attributes, which take less than
/// 256 bytes.
const MESSAGE_BYTES_MAX: usize = Capacity::FLOWS.copy_bytes as usize + 768;

type Buffer = [u8; MESSAGE_BYTES_MAX];

/// A queue of new flows that this process listens to.
pub struct FlowQueue {
    socket: OwnedFd,
    number: QueueNum,
    mask: MarkMask,
    flags: MsgFlags,
    buffers: Box<[Buffer; BATCH]>,
    /// How many bytes each buffer holds of a message that has to be answered.
    received: Vec<usize>,
    verdicts: Writer,
}

impl FlowQueue {
    /// Listens to queue `number`. Only bits within `mask` are set in marks.
    ///
    /// # Errors
    /// Returns an error if another process listens, or the kernel cannot queue.
    pub fn open(number: QueueNum, mask: MarkMask) -> Result<Self, OpenError> {
        // The crate's own descriptor is closed here; the queue lives as long as `socket`.
        let (_, socket) = listen(number, Capacity::FLOWS)?;
        Ok(Self {
            socket,
            number,
            mask,
            flags: MsgFlags::MSG_WAITFORONE,
            buffers: Box::new([[0; MESSAGE_BYTES_MAX]; BATCH]),
            received: Vec::with_capacity(BATCH),
            verdicts: Writer::default(),
        })
    }
}

#[cfg(test)]
impl FlowQueue {
    /// Makes the socket's buffer hold only a few messages, for tests.
    pub(crate) fn narrow(&self) {
        nix::sys::socket::setsockopt(&self.socket, nix::sys::socket::sockopt::RcvBuf, &0).unwrap();
    }
}

impl BatchQueue for FlowQueue {
    fn number(&self) -> QueueNum {
        self.number
    }

    fn receive(&mut self, busy_poll: Duration) -> Result<usize, QueueError> {
        self.received.clear();
        let may_wait = !self.flags.contains(MsgFlags::MSG_DONTWAIT);
        let since = (may_wait && !busy_poll.is_zero()).then(clock::now);
        loop {
            let polls = since.is_some_and(|since| since.elapsed() < busy_poll);
            let flags = if polls { self.flags | MsgFlags::MSG_DONTWAIT } else { self.flags };
            match receive(&self.socket, &mut self.buffers, &mut self.received, flags) {
                Err(Errno::EAGAIN | Errno::EINTR) if polls => std::hint::spin_loop(),
                Ok(()) | Err(Errno::EAGAIN | Errno::EINTR) => return Ok(self.received.len()),
                Err(error) => return Err(classify(error.into())),
            }
        }
    }

    fn wait_no_more(&mut self) {
        self.flags |= MsgFlags::MSG_DONTWAIT;
    }

    fn answer(&mut self, mut decide: impl FnMut(&[u8]) -> Verdict) -> Vec<QueueError> {
        let mut errors = Vec::new();
        self.verdicts.clear();
        for (buffer, bytes) in self.buffers.iter().zip(self.received.drain(..)) {
            for packet in message::packets(&buffer[..bytes]) {
                match packet {
                    Ok(packet) => {
                        let verdict = decide(packet.bytes);
                        message::write(&mut self.verdicts, self.number, packet, verdict, self.mask);
                    }
                    Err(error) => errors.push(error),
                }
            }
        }
        if !self.verdicts.bytes().is_empty() {
            errors.extend(send(&self.socket, self.verdicts.bytes()).err().map(|error| match error {
                // When sending, this error does not mean that packets were lost.
                Errno::ENOBUFS => QueueError::Other(error.into()),
                error => classify(error.into()),
            }));
        }
        errors
    }
}

fn send(socket: &OwnedFd, verdicts: &[u8]) -> nix::Result<()> {
    let kernel = NetlinkAddr::new(0, 0);
    let mut again = 1..SENDS_MAX;
    loop {
        match sendto(socket.as_raw_fd(), verdicts, &kernel, MsgFlags::empty()) {
            Err(Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR) if again.next().is_some() => {
                std::thread::yield_now();
            }
            sent => return sent.map(drop),
        }
    }
}

/// Receives messages, one into each buffer, and records how many bytes each has.
fn receive(
    socket: &OwnedFd,
    buffers: &mut [Buffer; BATCH],
    received: &mut Vec<usize>,
    flags: MsgFlags,
) -> nix::Result<()> {
    let mut places = buffers
        .each_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
    let mut headers = places.each_mut().map(|place| libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: place,
            msg_iovlen: 1,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    });
    let (fd, headers_max) = (socket.as_raw_fd(), libc::c_uint::try_from(BATCH).unwrap_or(0));
    // SAFETY: there are as many headers as is said; each points to a place, and that to a buffer, which
    // nothing else touches and which live until after the call; the kernel writes no more than the length
    // that a place says.
    let count =
        unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), headers_max, flags.bits(), ptr::null_mut()) };
    let count = usize::try_from(Errno::result(count)?).unwrap_or(0);
    // The received part of a message that was larger than its buffer.
    received
        .extend(headers.iter().take(count).map(|header| (header.msg_len as usize).min(MESSAGE_BYTES_MAX)));
    Ok(())
}
