//! Reads nf_tables by netlink, and only what is asked for: the nft command first reads the tables of all
//! programs, and crashes on some of them.
//!
//! An answer may consist of many messages, and a look of many answers. The header of each message has the
//! generation of the ruleset that it belongs to. If the generation changes during a look, something may be
//! missing or duplicated, and the look begins again.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv, send};

use super::{
    NftError,
    messages::{NFT_MSG_GETGEN, NFTA_GEN_ID},
};
use crate::sys::netlink::{
    DUMP_BYTES_MAX, HEADER_BYTES, HEADERS_BYTES, NFPROTO_INET, NLM_F_ACK, NLM_F_DUMP, Writer, dump, kind,
    netfilter, number, take,
};

/// How long an answer may take: the kernel may be busy with another program's transaction.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often a look is tried.
const TRIES: usize = 16;
/// Offset of a message's generation, after family and version.
const GENERATION_AT: usize = HEADER_BYTES + 2;

#[cfg(test)]
thread_local! {
    /// How many dumps this thread has asked for.
    pub(super) static DUMPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A connection for reading nf_tables. After an error it is useless, since the rest of an answer may still
/// arrive.
pub(super) struct Reader {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    generation: Option<[u8; 2]>,
    changed: bool,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Ask {
    /// All objects of this family.
    All(u8),
    /// The object that is named, of family inet.
    One,
}

impl Reader {
    /// Opens a connection in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self::over(netfilter(PATIENCE)?))
    }

    /// Reads by this socket, in its network namespace.
    pub(super) fn over(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0, buffer: vec![0; DUMP_BYTES_MAX], generation: None, changed: false }
    }

    /// Returns the generation of the ruleset, which changes with every change of a rule or set in any table.
    /// Elements that packets add to sets do not change it.
    fn generation(&mut self) -> io::Result<u32> {
        let mut generation = None;
        self.ask(
            NFT_MSG_GETGEN,
            Ask::One,
            |_| {},
            |_, answer| {
                generation = number(answer, NFTA_GEN_ID);
                Ok(())
            },
        )?;
        generation.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Runs `look`, and repeats it until the ruleset did not change meanwhile.
    pub(super) fn look<T>(&mut self, mut look: impl FnMut(&mut Self) -> io::Result<T>) -> io::Result<T> {
        for _ in 0..TRIES {
            (self.generation, self.changed) = (None, false);
            match look(self) {
                // Something that was read a moment ago is gone.
                Err(error) if self.generation.is_some() && is_missing(&error) => {}
                seen => {
                    if seen.is_err() || !self.changed {
                        return seen;
                    }
                }
            }
        }
        Err(io::Error::other("it is changed all the time"))
    }

    /// Sends a request, as a part of a look, and passes the family and attributes of each answer to `each`.
    pub(super) fn ask(
        &mut self,
        get: u16,
        ask: Ask,
        fill: impl FnOnce(&mut Writer),
        mut each: impl FnMut(u8, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        #[cfg(test)]
        DUMPS.set(DUMPS.get() + usize::from(matches!(ask, Ask::All(_))));
        // An acknowledgement ends an answer in the same way as the end of a dump.
        let (family, flags) = match ask {
            Ask::All(family) => (family, NLM_F_DUMP),
            Ask::One => (NFPROTO_INET, NLM_F_ACK),
        };
        let mut request = Writer::default();
        request.message(get, flags, self.sequence, [family, 0, 0, 0], fill);
        let Self { socket, buffer, generation, changed, .. } = self;
        dump(socket, &request, buffer, |message| {
            let of = message.get(GENERATION_AT..).and_then(|of| of.first_chunk()).copied();
            let of: [u8; 2] = of.ok_or(io::ErrorKind::InvalidData)?;
            *changed |= *generation.get_or_insert(of) != of;
            each(message[HEADER_BYTES], answer_to(get, message)?)
        })
    }

    /// Sends a request of family inet that gets `count` answers, and passes the attributes of each to `each`.
    pub(super) fn ask_each(
        &mut self,
        get: u16,
        count: usize,
        fill: impl FnOnce(&mut Writer),
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let asked = Some(self.sequence);
        let mut request = Writer::default();
        request.message(get, 0, self.sequence, [NFPROTO_INET, 0, 0, 0], fill);
        send(self.socket.as_raw_fd(), request.bytes(), MsgFlags::empty())?;
        let mut answers = 0;
        while answers < count {
            let bytes = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            let ended = take(&self.buffer[..bytes], asked, |message| {
                answers += 1;
                each(answer_to(get, message)?)
            })?;
            if ended {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }
}

/// Returns the connection, which is opened when it is first needed.
pub(super) fn opened(reader: &mut Option<Reader>) -> io::Result<&mut Reader> {
    match reader {
        Some(reader) => Ok(reader),
        None => Ok(reader.insert(Reader::open()?)),
    }
}

/// Returns the generation of the ruleset, by a connection that is opened when it is first needed.
pub(super) fn generation(reader: &mut Option<Reader>) -> Result<u32, NftError> {
    let generation = opened(reader).and_then(Reader::generation);
    // After an error it is useless.
    generation
        .inspect_err(|_| *reader = None)
        .map_err(|error| NftError::Table { what: "the generation", error })
}

/// Returns the attributes of an answer, a message of type `NFT_MSG_NEW...` to a request of type
/// `NFT_MSG_GET...`.
pub(super) fn answer_to(get: u16, message: &[u8]) -> io::Result<&[u8]> {
    if kind(message) != Some(get - 1) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(message.get(HEADERS_BYTES..).unwrap_or_default())
}

/// Reports whether the error means that the requested object does not exist.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::elements::TABLE,
        sys::{
            namespace::in_namespace,
            nft::{
                messages::{NFT_MSG_GETSETELEM, NFT_MSG_NEWSETELEM},
                nft,
            },
        },
    };

    #[test]
    fn what_answers_something_else_is_refused() {
        let message = |kind: u16| {
            let mut message = Writer::default();
            message.message(kind, 0, 1, [NFPROTO_INET, 0, 0, 7], |message| message.value(9, &[1]));
            message
        };
        let (right, wrong) = (message(NFT_MSG_NEWSETELEM), message(NFT_MSG_NEWSETELEM + 1));
        assert_eq!(answer_to(NFT_MSG_GETSETELEM, right.bytes()).unwrap(), [5, 0, 9, 0, 1, 0, 0, 0]);
        assert!(answer_to(NFT_MSG_GETSETELEM, wrong.bytes()).is_err());
        assert!(answer_to(NFT_MSG_GETSETELEM, &[0; 3]).is_err());
    }

    #[test]
    #[ignore = "needs root and nf_tables"]
    fn a_look_amid_which_the_ruleset_changes_begins_again() {
        in_namespace(|| {
            let elements: Vec<String> = (0..4000).map(|n| n.to_string()).collect();
            let set = format!("set s {{ type mark; elements = {{ {} }}; }}", elements.join(", "));
            nft("a test", &["-f", "-"], Some(&format!("table inet {TABLE} {{ {set}\n}}\n"))).unwrap();
            // During the first look another program adds an element.
            let mut read = 0;
            let mut reader = Reader::open().unwrap();
            let seen = reader.look(|reader| {
                let mut seen = Vec::new();
                reader.dump("s", |element| {
                    read += 1;
                    if read == 100 {
                        let text = format!("add element inet {TABLE} s {{ 10000 }}\n");
                        nft("a test", &["-f", "-"], Some(&text)).unwrap();
                    }
                    seen.push(element.to_vec());
                })?;
                Ok(seen)
            });
            let mut seen = seen.unwrap();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 4001);
            assert!(read > 2 * 4000, "{read}");
            let nothing = reader.look(|reader| reader.dump("nothing", |_| panic!("nothing is there")));
            nothing.unwrap();
        });
    }
}
