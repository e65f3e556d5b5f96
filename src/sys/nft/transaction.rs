//! Changes the ruleset, wholly or not at all. A transaction must be one message to the kernel (`nfnetlink_rcv_batch`), so the
//! socket's buffers are as large as that.

use std::{
    io,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sys::socket::{
    MsgFlags, recv, send, setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};

use super::{NftError, messages::NFPROTO_INET, reader::PATIENCE};
use crate::sys::netlink::{
    DUMP_BYTES_MAX, NLM_F_ACK, NLMSG_ERROR, Writer, done, kind, messages, netfilter, sequence,
};

/// Enough for most transactions, and for the answers, since each error repeats its message.
const BUFFER_BYTES: usize = 16 << 20;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
/// A batch is for `NFNL_SUBSYS_NFTABLES`, of no family.
const BATCH_HEADER: [u8; 4] = [0, 0, 0, 10];

/// How many transactions of this process the kernel has taken. Each has made one generation, but for those that changed nothing.
pub(super) static TAKEN: AtomicU32 = AtomicU32::new(0);

#[cfg(test)]
thread_local! {
    /// How many transactions this thread has sent.
    pub(super) static COMMITS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Messages that are in force together.
pub(super) struct Transaction {
    batch: Writer,
    /// What each message is about, for errors.
    what: Vec<String>,
    last_at: usize,
}

impl Transaction {
    pub(super) fn new() -> Self {
        let mut batch = Writer::default();
        batch.message(NFNL_MSG_BATCH_BEGIN, 0, 0, BATCH_HEADER, |_| {});
        Self { batch, what: Vec::new(), last_at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.what.is_empty()
    }

    /// Adds a message of family inet.
    pub(super) fn add(
        &mut self,
        kind: u16,
        flags: u16,
        what: impl Into<String>,
        fill: impl FnOnce(&mut Writer),
    ) {
        self.what.push(what.into());
        self.last_at = self.batch.bytes().len();
        let sequence = u32::try_from(self.what.len()).expect("messages are few");
        self.batch.message(kind, flags, sequence, [NFPROTO_INET, 0, 0, 0], fill);
    }

    /// Puts it in force.
    ///
    /// # Errors
    /// The first thing that the kernel refuses.
    pub(super) fn commit(mut self) -> Result<(), NftError> {
        if self.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        COMMITS.set(COMMITS.get() + 1);
        // Errors come unasked; that there were none is asked for once.
        self.batch.add_flags(self.last_at, NLM_F_ACK);
        let last = u32::try_from(self.what.len()).expect("messages are few");
        self.batch.message(NFNL_MSG_BATCH_END, 0, last + 1, BATCH_HEADER, |_| {});
        exchange(self.batch.bytes(), last).map_err(|(sequence, error)| {
            let index = sequence.and_then(|sequence| usize::try_from(sequence).ok()?.checked_sub(1));
            let what = index.and_then(|index| self.what.get(index));
            let what = what.map_or_else(|| "the whole transaction".to_owned(), Clone::clone);
            NftError::Netlink { what, error }
        })?;
        TAKEN.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Sends a batch, and waits until message `last` of it is done, which is when all are. An error comes with the number of
/// the message that is refused.
fn exchange(batch: &[u8], last: u32) -> Result<(), (Option<u32>, io::Error)> {
    let nothing = |error: io::Error| (None, error);
    let errno = |error: nix::Error| nothing(error.into());
    let socket = netfilter(PATIENCE).map_err(nothing)?;
    setsockopt(&socket, SndBufForce, &BUFFER_BYTES.max(batch.len())).map_err(errno)?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES).map_err(errno)?;
    send(socket.as_raw_fd(), batch, MsgFlags::empty()).map_err(errno)?;
    let mut answers = vec![0; DUMP_BYTES_MAX];
    loop {
        let bytes = recv(socket.as_raw_fd(), &mut answers, MsgFlags::empty()).map_err(errno)?;
        for message in messages(&answers[..bytes]).filter(|message| kind(message) == Some(NLMSG_ERROR)) {
            done(message).map_err(|error| (sequence(message), error))?;
            if sequence(message) == Some(last) {
                return Ok(());
            }
        }
    }
}
