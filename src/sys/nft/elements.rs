//! Reads what sets and maps hold, by netlink. The nft command would read every element of all tables first, those of
//! services' tables and of `pending` too.
//!
//! A request names table and set (`NFT_MSG_GETSETELEM`), and the kernel dumps it in as many messages as it takes. If the
//! ruleset changes meanwhile the kernel says so, and the dump begins again.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv, send};

use super::tables::put;
use crate::{
    plan::elements::{Raw, TABLE},
    sys::netlink::{
        DUMP_BYTES_MAX, HEADER_BYTES, HEADERS_BYTES, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, Writer, attribute,
        attributes, kind, messages, netfilter, word,
    },
};

/// How long an answer may take: the kernel may be busy with a transaction of somebody else's.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often a dump begins again.
const TRIES: usize = 16;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Of family inet (`NFPROTO_INET`).
pub(super) const NFPROTO_INET: u8 = 1;
/// The subsystem `NFNL_SUBSYS_NFTABLES`, and its messages (`linux/netfilter/nf_tables.h`).
const NF_TABLES: u16 = 10 << 8;
pub(super) const NFT_MSG_NEWSETELEM: u16 = NF_TABLES | 12;
pub(super) const NFT_MSG_GETSETELEM: u16 = NF_TABLES | 13;
pub(super) const NFT_MSG_DELSETELEM: u16 = NF_TABLES | 14;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;

/// A connection to nf_tables, to read by.
pub(super) struct Reader {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Reader {
    /// Opens one in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: netfilter(PATIENCE)?, sequence: 0, buffer: vec![0; DUMP_BYTES_MAX] })
    }

    /// The elements of a set of ours that has no data but chains; none where there is no such set.
    pub(super) fn elements(&mut self, set: &str) -> io::Result<Vec<Raw>> {
        self.dump(set, raw)
    }

    /// The elements of a map of ours from numbers to marks.
    pub(super) fn marks(&mut self, map: &str) -> io::Result<Vec<(u32, u32)>> {
        self.dump(map, mark)
    }

    /// These elements of a map of ours from numbers to marks; `None` where not all are there.
    pub(super) fn some_marks(&mut self, map: &str, keys: &[u32]) -> io::Result<Option<Vec<(u32, u32)>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let named: Vec<_> = keys.iter().map(|&key| (key, None)).collect();
        let mut request = Writer::default();
        request.message(NFT_MSG_GETSETELEM, 0, self.sequence, [NFPROTO_INET, 0, 0, 0], |request| {
            put(request, map, &named);
        });
        send(self.socket.as_raw_fd(), request.bytes(), MsgFlags::empty())?;
        let mut found = Vec::new();
        // One answer for each.
        while found.len() < keys.len() {
            let bytes = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for message in messages(&self.buffer[..bytes]) {
                match read_part(message)? {
                    Part::Missing | Part::Done => return Ok(None),
                    Part::Elements(list) => {
                        for (_, element) in attributes(list) {
                            found.push(mark(element).ok_or(io::ErrorKind::InvalidData)?);
                        }
                    }
                }
            }
        }
        Ok(Some(found))
    }

    fn dump<T>(&mut self, set: &str, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        for _ in 0..TRIES {
            if let Some(elements) = self.try_dump(set, &read)? {
                return Ok(elements);
            }
        }
        Err(io::Error::other("it is changed all the time"))
    }

    /// `None` where the ruleset was changed meanwhile.
    fn try_dump<T>(&mut self, set: &str, read: &impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<Vec<T>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Writer::default();
        request.message(NFT_MSG_GETSETELEM, NLM_F_DUMP, self.sequence, [NFPROTO_INET, 0, 0, 0], |request| {
            request.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            request.text(NFTA_SET_ELEM_LIST_SET, set);
        });
        send(self.socket.as_raw_fd(), request.bytes(), MsgFlags::empty())?;
        let (mut elements, mut interrupted) = (Vec::new(), false);
        loop {
            let bytes = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for message in messages(&self.buffer[..bytes]) {
                if word(message, 8) != Some(self.sequence) {
                    continue;
                }
                interrupted |= flags(message) & NLM_F_DUMP_INTR != 0;
                match read_part(message)? {
                    Part::Done => return Ok((!interrupted).then_some(elements)),
                    Part::Missing => return Ok(Some(Vec::new())),
                    Part::Elements(list) => {
                        for (_, element) in attributes(list) {
                            elements.push(read(element).ok_or(io::ErrorKind::InvalidData)?);
                        }
                    }
                }
            }
        }
    }
}

fn flags(message: &[u8]) -> u16 {
    message.get(6..).and_then(|flags| flags.first_chunk()).map_or(0, |flags| u16::from_ne_bytes(*flags))
}

/// What a message of a dump is.
enum Part<'a> {
    Elements(&'a [u8]),
    Done,
    /// There is no such table or set.
    Missing,
}

fn read_part(message: &[u8]) -> io::Result<Part<'_>> {
    let unreadable = || io::Error::from(io::ErrorKind::InvalidData);
    match kind(message).ok_or_else(unreadable)? {
        NLMSG_DONE => Ok(Part::Done),
        NLMSG_ERROR => {
            let error = word(message, HEADER_BYTES).ok_or_else(unreadable)?.cast_signed().saturating_neg();
            if error == libc::ENOENT { Ok(Part::Missing) } else { Err(io::Error::from_raw_os_error(error)) }
        }
        NFT_MSG_NEWSETELEM => {
            let all = message.get(HEADERS_BYTES..).unwrap_or_default();
            Ok(Part::Elements(attribute(all, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default()))
        }
        _ => Err(unreadable()),
    }
}

fn value(element: &[u8], of: u16) -> Option<&[u8]> {
    attribute(attribute(element, of)?, NFTA_DATA_VALUE)
}

fn raw(element: &[u8]) -> Option<Raw> {
    let flags = attribute(element, NFTA_SET_ELEM_FLAGS).and_then(|flags| flags.first_chunk());
    let verdict = attribute(element, NFTA_SET_ELEM_DATA).and_then(|data| attribute(data, NFTA_DATA_VERDICT));
    let goto = match verdict {
        None => None,
        Some(verdict) => {
            let chain = CStr::from_bytes_with_nul(attribute(verdict, NFTA_VERDICT_CHAIN)?).ok()?;
            Some(chain.to_str().ok()?.to_owned())
        }
    };
    Some(Raw {
        key: value(element, NFTA_SET_ELEM_KEY)?.to_vec(),
        ends_range: flags.is_some_and(|flags| u32::from_be_bytes(*flags) & NFT_SET_ELEM_INTERVAL_END != 0),
        key_end: value(element, NFTA_SET_ELEM_KEY_END).map(<[u8]>::to_vec),
        goto,
    })
}

fn mark(element: &[u8]) -> Option<(u32, u32)> {
    let number = |of| value(element, of)?.try_into().ok().map(u32::from_ne_bytes);
    Some((number(NFTA_SET_ELEM_KEY)?, number(NFTA_SET_ELEM_DATA)?))
}
