//! Reads what sets and maps hold, by netlink. The nft command would read every element of all tables first, those of
//! services' tables and of `pending` too.
//!
//! A request names table and set (`NFT_MSG_GETSETELEM`), and the kernel dumps it in as many messages as it takes. Each says
//! in its header which generation of the ruleset it is of; where that changes on the way, elements may have been left out
//! or told twice, and the dump begins again.

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
        DUMP_BYTES_MAX, HEADER_BYTES, HEADERS_BYTES, NLM_F_DUMP, Writer, attribute, attributes, dump, kind,
        netfilter, take,
    },
};

/// How long an answer may take: the kernel may be busy with a transaction of somebody else's.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often a dump begins again.
const TRIES: usize = 16;
/// Where a message's generation is, behind family and version.
const GENERATION_AT: usize = HEADER_BYTES + 2;
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

/// A connection to nf_tables, to read by. After an error it is of no use: the rest of a dump may be in it.
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
            let asked = Some(self.sequence);
            match missing(take(&self.buffer[..bytes], asked, |message| read_all(message, mark, &mut found)))?
            {
                Some(false) => {}
                Some(true) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    fn dump<T>(&mut self, set: &str, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        for _ in 0..TRIES {
            match missing(self.try_dump(set, &read))? {
                Some(None) => {}
                Some(Some(elements)) => return Ok(elements),
                None => return Ok(Vec::new()),
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
        let (mut elements, mut generation, mut changed) = (Vec::new(), None, false);
        dump(&self.socket, &request, &mut self.buffer, |message| {
            let of: Option<&[u8; 2]> = message.get(GENERATION_AT..).and_then(|of| of.first_chunk());
            changed |= *generation.get_or_insert(of.copied()) != of.copied();
            read_all(message, read, &mut elements)
        })?;
        Ok((!changed).then_some(elements))
    }
}

/// `None` where what was asked for is not there.
fn missing<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Adds the elements in a message.
fn read_all<T>(message: &[u8], read: impl Fn(&[u8]) -> Option<T>, elements: &mut Vec<T>) -> io::Result<()> {
    if kind(message) != Some(NFT_MSG_NEWSETELEM) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let all = message.get(HEADERS_BYTES..).unwrap_or_default();
    for (_, element) in attributes(attribute(all, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default()) {
        elements.push(read(element).ok_or(io::ErrorKind::InvalidData)?);
    }
    Ok(())
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
        mark: data_value(element),
    })
}

fn data_value(element: &[u8]) -> Option<u32> {
    value(element, NFTA_SET_ELEM_DATA)?.try_into().ok().map(u32::from_ne_bytes)
}

fn mark(element: &[u8]) -> Option<(u32, u32)> {
    let number = |of| value(element, of)?.try_into().ok().map(u32::from_ne_bytes);
    Some((number(NFTA_SET_ELEM_KEY)?, number(NFTA_SET_ELEM_DATA)?))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::sys::{namespace::in_namespace, nft::nft};

    #[test]
    fn what_is_no_message_about_elements_is_refused() {
        let read = |kind: u16, attributes: &[u8]| {
            let mut message = Writer::default();
            message.message(kind, 0, 1, [NFPROTO_INET, 0, 0, 7], |message| message.value(9, attributes));
            let mut elements = Vec::new();
            read_all(message.bytes(), raw, &mut elements).map(|()| elements)
        };
        assert_eq!(read(NFT_MSG_NEWSETELEM, &[1]).unwrap(), []);
        assert!(read(NFT_MSG_NEWSETELEM + 1, &[]).is_err());
        assert!(read_all(&[0; 3], raw, &mut Vec::new()).is_err());
    }

    #[test]
    fn what_is_cut_short_is_no_element() {
        let mut element = Writer::default();
        element.nested(NFTA_SET_ELEM_DATA, |data| data.value(NFTA_DATA_VALUE, &[1, 2, 3, 4]));
        assert_eq!((raw(element.bytes()), mark(element.bytes())), (None, None));
        element.nested(NFTA_SET_ELEM_KEY, |key| key.value(NFTA_DATA_VALUE, &7u32.to_ne_bytes()));
        assert_eq!(mark(element.bytes()), Some((7, u32::from_ne_bytes([1, 2, 3, 4]))));
        for cut in 0..element.bytes().len() {
            assert_eq!(mark(&element.bytes()[..cut]), None, "{cut}");
        }
    }

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn a_dump_amid_which_the_ruleset_changes_begins_again() {
        in_namespace(|| {
            let elements: Vec<String> = (0..4000).map(|n| n.to_string()).collect();
            let set = format!("set s {{ type mark; elements = {{ {} }}; }}", elements.join(", "));
            nft("a test", &["-f", "-"], Some(&format!("table inet {TABLE} {{ {set}\n}}\n"))).unwrap();
            // Amid the first dump somebody adds an element.
            let told = Cell::new(0);
            let read = Reader::open().unwrap().dump("s", |element| {
                told.set(told.get() + 1);
                if told.get() == 100 {
                    let text = format!("add element inet {TABLE} s {{ 10000 }}\n");
                    nft("a test", &["-f", "-"], Some(&text)).unwrap();
                }
                raw(element)
            });
            let mut keys: Vec<Vec<u8>> = read.unwrap().into_iter().map(|element| element.key).collect();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), 4001);
            assert!(told.get() > 2 * 4000, "{told:?}");
            assert_eq!(Reader::open().unwrap().elements("nothing").unwrap(), []);
        });
    }
}
