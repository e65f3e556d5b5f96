//! Changes the ruleset, wholly or not at all, by one batch of messages. All changes of nf_tables go this way.
//!
//! A batch has a message that begins it, then the changes in the order in which they were added, then a message
//! that ends it. The kernel requires it in one piece (`nfnetlink_rcv_batch`), so the buffers of the socket are as
//! large as that. Elements are written here, by the ten thousand; rules that nft cannot express are written by
//! libnftnl (`native.rs`), and answers are judged by libmnl. Each error comes unasked, with the number of the refused
//! message; that there were none is asked for once.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sys::socket::{
    MsgFlags, recv, send, setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};

use super::{
    NftError,
    messages::{
        NFT_MSG_NEWSETELEM, NFTA_LIST_ELEM, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
        NFTA_SET_ELEM_LIST_SET_ID, names,
    },
    reader::PATIENCE,
};
use crate::sys::netlink::{
    DUMP_BYTES_MAX, NFPROTO_INET, NFPROTO_UNSPEC, NLM_F_ACK, NLM_F_CREATE, Writer, byte, messages, narrow,
    netfilter, sequence,
};

/// Enough for most transactions, and for the answers, since each error repeats its message.
const BUFFER_BYTES: usize = 16 << 20;
/// When a message has this many bytes of elements, the next ones go into another message. All elements of a
/// message are in one attribute of 65531 bytes at most, and none takes more than 500.
const ELEMENTS_BYTES: usize = 60_000;
const NFNL_MSG_BATCH_BEGIN: u16 = narrow(libc::NFNL_MSG_BATCH_BEGIN);
const NFNL_MSG_BATCH_END: u16 = narrow(libc::NFNL_MSG_BATCH_END);
/// A batch is for nf_tables, and of no family.
const BATCH_HEADER: [u8; 4] = [NFPROTO_UNSPEC, 0, 0, byte(libc::NFNL_SUBSYS_NFTABLES)];

/// How many transactions of this process the kernel has put in force. Each has made one generation, but for those that changed nothing.
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
        self.batch.message(kind, flags, self.last(), [NFPROTO_INET, 0, 0, 0], fill);
    }

    /// Adds messages of this kind about elements of a set, as many as these elements need. `number` identifies a
    /// set that this transaction makes, and that has no name yet. `write` writes the attributes of an element.
    pub(super) fn add_elements<T>(
        &mut self,
        kind: u16,
        what: &str,
        set: &str,
        number: Option<u32>,
        elements: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Writer, T),
    ) {
        let flags = if kind == NFT_MSG_NEWSETELEM { NLM_F_CREATE } else { 0 };
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.add(kind, flags, what, |message| {
                names(message, NFTA_SET_ELEM_LIST_SET, set);
                if let Some(number) = number {
                    message.number(NFTA_SET_ELEM_LIST_SET_ID, number);
                }
                message.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    let full = list.bytes().len() + ELEMENTS_BYTES;
                    while list.bytes().len() < full
                        && let Some(element) = elements.next()
                    {
                        list.nested(NFTA_LIST_ELEM, |attributes| write(attributes, element));
                    }
                });
            });
        }
    }

    /// The number of the last message.
    fn last(&self) -> u32 {
        u32::try_from(self.what.len()).expect("messages are few")
    }

    /// Puts it in force.
    ///
    /// # Errors
    /// The first thing that the kernel refuses.
    pub(super) fn commit(self) -> Result<(), NftError> {
        let changes = !self.is_empty();
        #[cfg(test)]
        COMMITS.set(COMMITS.get() + usize::from(changes));
        let socket = open(self.batch.bytes().len());
        let opened = |error| NftError::Netlink { what: "the whole transaction".to_owned(), error };
        self.commit_by(&socket.map_err(opened)?)?;
        TAKEN.fetch_add(changes.into(), Ordering::Relaxed);
        Ok(())
    }

    /// As [`Transaction::commit`], but by a socket of a network namespace whose ruleset is not in force.
    pub(super) fn commit_by(mut self, socket: &OwnedFd) -> Result<(), NftError> {
        if self.is_empty() {
            return Ok(());
        }
        self.batch.add_flags(self.last_at, NLM_F_ACK);
        let last = self.last();
        self.batch.message(NFNL_MSG_BATCH_END, 0, last + 1, BATCH_HEADER, |_| {});
        exchange(socket, self.batch.bytes(), last).map_err(|(sequence, error)| {
            let index = sequence.and_then(|sequence| usize::try_from(sequence).ok()?.checked_sub(1));
            let what = index.and_then(|index| self.what.get(index));
            let what = what.map_or_else(|| "the whole transaction".to_owned(), Clone::clone);
            NftError::Netlink { what, error }
        })
    }
}

/// libmnl reads messages in place, and requires this alignment.
#[repr(align(8))]
struct Answers([u8; DUMP_BYTES_MAX]);

/// Sends a batch, and waits until message `last` of it is done, which is when all are. An error comes with the number of
/// the message that is refused.
fn exchange(socket: &OwnedFd, batch: &[u8], last: u32) -> Result<(), (Option<u32>, io::Error)> {
    let nothing = |error: io::Error| (None, error);
    send(socket.as_raw_fd(), batch, MsgFlags::empty()).map_err(|error| nothing(error.into()))?;
    let mut answers = Box::new(Answers([0; DUMP_BYTES_MAX]));
    loop {
        let bytes = recv(socket.as_raw_fd(), &mut answers.0, MsgFlags::empty());
        let bytes = bytes.map_err(|error| nothing(error.into()))?;
        for answer in messages(answers.0.get(..bytes).unwrap_or_default()) {
            let of = sequence(answer);
            // The socket takes messages of the kernel alone, whatever port it has.
            mnl::cb_run(answer, 0, 0).map_err(|error| (of, error))?;
            if of == Some(last) {
                return Ok(());
            }
        }
    }
}

/// Opens a socket that takes a batch of this size, and at least of [`BUFFER_BYTES`], in the network namespace of the
/// calling thread.
pub(super) fn open(batch_bytes: usize) -> io::Result<OwnedFd> {
    let socket = netfilter(PATIENCE)?;
    setsockopt(&socket, SndBufForce, &BUFFER_BYTES.max(batch_bytes))?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
    Ok(socket)
}
