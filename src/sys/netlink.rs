//! Netlink messages as bytes (RFC 3549, `linux/netlink.h`), for what no crate supports of connection tracking,
//! queues and nf_tables, and the answers to requests. A message has a header of 16 bytes, for netfilter a second
//! one of 4, then attributes. Each attribute has its length and kind, and is padded to a multiple of 4. Numbers
//! are in the machine's byte order unless a subsystem defines another.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::{TimeVal, TimeValLike as _},
};

/// Size of the netlink header: length, type, flags, sequence number, port.
pub(super) const HEADER_BYTES: usize = 16;
/// Size of the netlink and the netfilter header together.
pub(super) const HEADERS_BYTES: usize = HEADER_BYTES + 4;
const NLM_F_REQUEST: u16 = narrow(libc::NLM_F_REQUEST);
pub(super) const NLM_F_ACK: u16 = narrow(libc::NLM_F_ACK);
pub(super) const NLM_F_DUMP: u16 = narrow(libc::NLM_F_DUMP);
pub(super) const NLM_F_CREATE: u16 = narrow(libc::NLM_F_CREATE);
pub(super) const NLM_F_APPEND: u16 = narrow(libc::NLM_F_APPEND);
pub(super) const NLMSG_ERROR: u16 = narrow(libc::NLMSG_ERROR);
const NLMSG_DONE: u16 = narrow(libc::NLMSG_DONE);
const NLA_F_NESTED: u16 = narrow(libc::NLA_F_NESTED);
const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | narrow(libc::NLA_F_NET_BYTEORDER));
/// The families of the netfilter header.
pub(super) const NFPROTO_UNSPEC: u8 = byte(libc::NFPROTO_UNSPEC);
pub(super) const NFPROTO_INET: u8 = byte(libc::NFPROTO_INET);
pub(super) const NFPROTO_IPV4: u8 = byte(libc::NFPROTO_IPV4);
pub(super) const NFPROTO_IPV6: u8 = byte(libc::NFPROTO_IPV6);
/// An answer of a dump has 32 KiB at most (`netlink_dump` in `net/netlink/af_netlink.c`).
pub(super) const DUMP_BYTES_MAX: usize = 64 * 1024;

/// Returns a constant of libc, where each is a `c_int`, in the width that the kernel's headers have it.
#[expect(clippy::panic, reason = "ends the compilation")]
pub(super) const fn narrow(constant: libc::c_int) -> u16 {
    match constant.to_le_bytes() {
        [low, high, 0, 0] => u16::from_le_bytes([low, high]),
        _ => panic!("it has more than 16 bits"),
    }
}

/// As [`narrow`], for what is one byte.
#[expect(clippy::panic, reason = "ends the compilation")]
pub(super) const fn byte(constant: libc::c_int) -> u8 {
    match constant.to_le_bytes() {
        [byte, 0, 0, 0] => byte,
        _ => panic!("it has more than 8 bits"),
    }
}

/// Returns the type of a message of a netfilter subsystem (`linux/netfilter/nfnetlink.h`).
pub(super) const fn message_type(subsystem: libc::c_int, message: libc::c_int) -> u16 {
    narrow(subsystem << 8 | message)
}

/// Opens a socket to netfilter in the network namespace of the calling thread. `patience` is how long an
/// answer may take.
pub(super) fn netfilter(patience: Duration) -> io::Result<OwnedFd> {
    open(SockProtocol::NetlinkNetFilter, patience)
}

/// As [`netfilter`], but to another netlink protocol.
pub(super) fn open(protocol: SockProtocol, patience: Duration) -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    await_kernel(&socket, patience)?;
    Ok(socket)
}

/// Makes only the kernel able to answer on this socket, and sets how long an answer may take.
pub(super) fn await_kernel(socket: &impl AsFd, patience: Duration) -> io::Result<()> {
    let limit = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
    setsockopt(socket, ReceiveTimeout, &limit)?;
    Ok(connect(socket.as_fd().as_raw_fd(), &NetlinkAddr::new(0, 0))?)
}

/// Iterates over the messages in this buffer. An incomplete message at the end is left out.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::try_from(word(bytes, 0)?).ok()?;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER_BYTES)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Returns the number at offset `at`.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

/// Returns the type in the message's header.
pub(super) fn kind(message: &[u8]) -> Option<u16> {
    message.get(4..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// Sends a request for a dump, and passes each message of the answers to `each`. Answers are received into
/// `buffer`.
///
/// # Errors
/// Returns the kernel's refusal, an error if the dump is incomplete, or the error of `each`, which ends the
/// dump.
pub(super) fn dump(
    socket: &OwnedFd,
    request: &Writer,
    buffer: &mut [u8],
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    send(socket.as_raw_fd(), request.bytes(), MsgFlags::empty())?;
    let asked = sequence(request.bytes());
    loop {
        let bytes = recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?;
        if take(&buffer[..bytes], asked, &mut each)? {
            return Ok(());
        }
    }
}

/// Sends `count` requests with consecutive sequence numbers, `first` and so on, and waits until the last, which
/// must ask for an acknowledgement, is done. The kernel handles them one by one, also after a refusal. Passes each
/// refusal to `refused`, with the place of the request. Answers are received into `buffer`.
///
/// # Errors
/// Returns an error if a system call fails.
pub(super) fn change_all(
    socket: &OwnedFd,
    requests: &[u8],
    (first, count): (u32, usize),
    buffer: &mut [u8],
    mut refused: impl FnMut(usize, io::Error),
) -> io::Result<()> {
    send(socket.as_raw_fd(), requests, MsgFlags::empty())?;
    loop {
        let bytes = recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?;
        for answer in messages(&buffer[..bytes]).filter(|answer| kind(answer) == Some(NLMSG_ERROR)) {
            // Other answers are about requests that were given up.
            let place = sequence(answer).and_then(|of| usize::try_from(of.wrapping_sub(first)).ok());
            let Some(place) = place.filter(|place| *place < count) else { continue };
            if let Err(error) = done(answer) {
                refused(place, error);
            }
            if place + 1 == count {
                return Ok(());
            }
        }
    }
}

/// Passes each message of these answers to request `asked` to `each`. Returns whether the answers have ended,
/// without an error.
///
/// # Errors
/// Returns the kernel's error, or that of `each`.
pub(super) fn take(
    answers: &[u8],
    asked: Option<u32>,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    // Other messages answer a request that was given up.
    for message in messages(answers).filter(|message| sequence(message) == asked) {
        match kind(message) {
            Some(NLMSG_DONE | NLMSG_ERROR) => return done(message).map(|()| true),
            _ => each(message)?,
        }
    }
    Ok(false)
}

/// Reads an error message, or the last message of a dump: success, or the kernel's error.
pub(super) fn done(message: &[u8]) -> io::Result<()> {
    match word(message, HEADER_BYTES).map(u32::cast_signed) {
        Some(error @ ..0) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        Some(0) => Ok(()),
        Some(_) | None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Returns the sequence number in a message's header. An answer has that of its request.
pub(super) fn sequence(message: &[u8]) -> Option<u32> {
    word(message, 8)
}

/// Iterates over the attributes in these bytes, as kind and value. Ends at the first one that cannot be read.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[l0, l1, k0, k1] = bytes.first_chunk()?;
        let (length, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

/// As [`attributes`], but returns each attribute with its header and padding, to be written again unchanged.
pub(super) fn whole_attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, value) = attributes(bytes).next()?;
        let length = (4 + value.len()).next_multiple_of(4).min(bytes.len());
        let (whole, rest) = bytes.split_at(length);
        bytes = rest;
        Some((kind, whole))
    })
}

/// Returns the number in the attribute of kind `wanted`, which is in network byte order.
pub(super) fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    attribute(bytes, wanted)?.first_chunk().copied().map(u32::from_be_bytes)
}

/// Returns the text in the attribute of kind `wanted`.
pub(super) fn text(bytes: &[u8], wanted: u16) -> Option<&str> {
    CStr::from_bytes_until_nul(attribute(bytes, wanted)?).ok()?.to_str().ok()
}

/// Returns the value of the attribute of kind `wanted`.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// Builds messages.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Adds a request to netfilter. `family` is its netfilter header: address family, version, resource in
    /// network byte order.
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: [u8; 4],
        fill: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]); // the length, see below
        self.0.extend(kind.to_ne_bytes());
        self.0.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend([0; 4]); // port
        self.0.extend(family);
        fill(self);
        let length = u32::try_from(self.0.len() - start).expect("attributes are short").to_ne_bytes();
        self.0[start..start + 4].copy_from_slice(&length);
    }

    /// Adds flags to the message that begins at offset `at`.
    pub(super) fn add_flags(&mut self, at: usize, flags: u16) {
        if let Some(field) = self.0.get_mut(at + 6..).and_then(|rest| rest.first_chunk_mut::<2>()) {
            *field = (u16::from_ne_bytes(*field) | flags).to_ne_bytes();
        }
    }

    /// Adds an attribute that is a C string.
    pub(super) fn text(&mut self, kind: u16, text: &str) {
        self.nested_as(kind, |writer| {
            writer.0.extend(text.as_bytes());
            writer.0.push(0);
        });
    }

    /// Adds an attribute that is a number in network byte order.
    pub(super) fn number(&mut self, kind: u16, number: u32) {
        self.value(kind, &number.to_be_bytes());
    }

    /// Adds attributes that are written already.
    pub(super) fn whole(&mut self, attributes: &[u8]) {
        self.0.extend(attributes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute with this value.
    pub(super) fn value(&mut self, kind: u16, value: &[u8]) {
        self.nested_as(kind, |writer| writer.0.extend(value));
    }

    /// Adds an attribute that contains others, 65531 bytes at most.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nested_as(kind | NLA_F_NESTED, fill);
    }

    fn nested_as(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]); // the length, see below
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let length =
            u16::try_from(self.0.len() - start).expect("callers keep attributes short").to_ne_bytes();
        self.0[start..start + 2].copy_from_slice(&length);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Removes all messages, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the messages that were written.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::socketpair;

    use super::*;

    fn message(kind: u16, sequence: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + rest.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2], &sequence.to_ne_bytes(), &[0; 4], rest]
            .concat()
    }

    /// Returns whether the answers have ended, and the kinds of the messages that were passed on.
    fn taken(answers: &[Vec<u8>]) -> (io::Result<bool>, Vec<u16>) {
        let mut kinds = Vec::new();
        let ended = take(&answers.concat(), Some(7), |message| {
            kinds.extend(kind(message));
            Ok(())
        });
        (ended, kinds)
    }

    #[test]
    fn answers_end_where_the_kernel_says_so() {
        let (one, two, done) =
            (message(20, 7, &[]), message(21, 7, &[1; 8]), message(NLMSG_DONE, 7, &[0; 4]));
        assert!(matches!(taken(&[one.clone(), two.clone()]), (Ok(false), kinds) if kinds == [20, 21]));
        assert!(matches!(taken(&[one.clone(), done, two.clone()]), (Ok(true), kinds) if kinds == [20]));
        let others = [message(NLMSG_ERROR, 6, &[255; 4]), message(20, 8, &[]), two.clone()];
        assert!(matches!(taken(&others), (Ok(false), kinds) if kinds == [21]), "of other requests");
        for cut in 1..two.len() {
            let cut = two[..cut].to_vec();
            assert!(matches!(taken(&[one.clone(), cut]), (Ok(false), kinds) if kinds == [20]), "cut short");
        }
    }

    #[test]
    fn each_refusal_has_the_place_of_its_request() {
        let (ours, kernels) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let answer = |sequence, code: i32| message(NLMSG_ERROR, sequence, &(-code).to_ne_bytes());
        // Requests of before, two that are refused, other messages, and the acknowledgement of the last.
        let (first, count) = (u32::MAX, 4);
        let early = [answer(first - 1, libc::EPERM), answer(3, 0), answer(first, libc::ENOENT)].concat();
        let late = [message(20, 2, &[]), answer(1, libc::EEXIST), answer(2, 0), answer(first, libc::EPERM)];
        for answers in [early, late.concat()] {
            send(kernels.as_raw_fd(), &answers, MsgFlags::empty()).unwrap();
        }
        let mut refused = Vec::new();
        change_all(&ours, &[7; 16], (first, count), &mut [0; 1024], |place, error| {
            refused.push((place, error.raw_os_error().unwrap()));
        })
        .unwrap();
        assert_eq!(refused, [(0, libc::ENOENT), (2, libc::EEXIST)]);
        let mut sent = [0; 32];
        assert_eq!(recv(kernels.as_raw_fd(), &mut sent, MsgFlags::empty()).unwrap(), 16);
    }

    #[test]
    fn errors_of_the_kernel_are_returned() {
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            for code in [libc::EINTR, libc::EPERM, libc::ENOENT] {
                let (refused, _) = taken(&[message(kind, 7, &(-code).to_ne_bytes())]);
                assert_eq!(refused.unwrap_err().raw_os_error(), Some(code));
            }
            for unreadable in [&[0; 3][..], &1i32.to_ne_bytes()] {
                let (unreadable, _) = taken(&[message(kind, 7, unreadable)]);
                assert_eq!(unreadable.unwrap_err().kind(), io::ErrorKind::InvalidData);
            }
        }
        let ended = take(&message(20, 7, &[]), Some(7), |_| Err(io::ErrorKind::Other.into()));
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::Other);
    }
}
