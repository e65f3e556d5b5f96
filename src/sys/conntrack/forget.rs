//! Forgets flows that are pinned: with `steering = "every-packet"` nobody looks at their entries, which would be found,
//! old as they are, by whoever has the same addresses and ports when connections are pinned again.
//!
//! All entries are read (a dump, in as many answers as it takes), and those that are meant deleted one by one, each by
//! the attributes with which the kernel named it: a request of its own that selects by mark and by address prefix is
//! nothing the kernel knows.

use std::{io, net::IpAddr, os::fd::AsRawFd as _};

use nix::sys::socket::{MsgFlags, recv, send};

use super::{
    CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_MARK, CTA_TUPLE_IP, CTA_TUPLE_ORIG, Conntrack, IPCTNL_MSG_CT_GET,
    IPCTNL_MSG_CT_NEW, Request,
};
use crate::{
    ids::MarkMask,
    sys::netlink::{
        DUMP_BYTES_MAX, HEADER_BYTES, HEADERS_BYTES, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR,
        attribute, done, kind, messages, word,
    },
};

const IPCTNL_MSG_CT_DELETE: u16 = 1 << 8 | 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

impl Conntrack {
    /// Deletes the entries that have some of these bits in their mark and go to such an address. Says how many.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or does not do it; some may be deleted then.
    pub fn forget(&mut self, mask: MarkMask, to: impl Fn(IpAddr) -> bool) -> io::Result<u64> {
        if let Some(error) = self.missing() {
            return Err(error);
        }
        // The dump goes on while entries are deleted, so it has a socket of its own.
        let dump = Self::open()?;
        let request = Request::of_family(IPCTNL_MSG_CT_GET, NLM_F_DUMP, 0, dump.sequence);
        send(dump.socket.as_raw_fd(), request.ended().bytes(), MsgFlags::empty())?;
        let mut answers = vec![0; DUMP_BYTES_MAX];
        let mut forgotten = 0;
        loop {
            let bytes = recv(dump.socket.as_raw_fd(), &mut answers, MsgFlags::empty())?;
            for message in messages(&answers[..bytes]) {
                match read(message)? {
                    Part::Done => return Ok(forgotten),
                    Part::Entry(entry) if entry.mark & mask.bits() != 0 && to(entry.to) => {
                        forgotten += u64::from(self.delete(&entry)?);
                    }
                    Part::Entry(_) | Part::Other => {}
                }
            }
        }
    }

    /// Whether it was still there.
    fn delete(&mut self, entry: &Entry<'_>) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Request::of_family(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, entry.family, self.sequence);
        for (kind, value) in entry.named_by.into_iter().flatten() {
            request.attribute(kind, value);
        }
        match self.ask(&request.ended()) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What a message of a dump is.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Entry(Entry<'a>),
    /// The last one.
    Done,
    /// An entry of no interest: it has no addresses.
    Other,
}

/// A flow, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    family: u8,
    mark: u32,
    to: IpAddr,
    /// The attributes that tell it from all others.
    named_by: [Option<(u16, &'a [u8])>; 3],
}

fn read(message: &[u8]) -> io::Result<Part<'_>> {
    let unreadable = || io::Error::from(io::ErrorKind::InvalidData);
    match kind(message).ok_or_else(unreadable)? {
        NLMSG_DONE => done(message).map(|()| Part::Done),
        NLMSG_ERROR => {
            let error = word(message, HEADER_BYTES).ok_or_else(unreadable)?.cast_signed();
            Err(io::Error::from_raw_os_error(error.saturating_neg()))
        }
        IPCTNL_MSG_CT_NEW => Ok(entry(message).map_or(Part::Other, Part::Entry)),
        _ => Err(unreadable()),
    }
}

fn entry(message: &[u8]) -> Option<Entry<'_>> {
    let &family = message.get(HEADER_BYTES)?;
    let attributes = message.get(HEADERS_BYTES..)?;
    let tuple = attribute(attributes, CTA_TUPLE_ORIG)?;
    let addresses = attribute(tuple, CTA_TUPLE_IP)?;
    let four = || Some(IpAddr::from(*attribute(addresses, CTA_IP_V4_DST)?.first_chunk::<4>()?));
    let six = || Some(IpAddr::from(*attribute(addresses, CTA_IP_V6_DST)?.first_chunk::<16>()?));
    let to = four().or_else(six)?;
    // The kernel leaves out a mark of 0.
    let mark = attribute(attributes, CTA_MARK).and_then(|mark| mark.first_chunk().copied());
    let named_by = [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID].map(|kind| Some((kind, attribute(attributes, kind)?)));
    Some(Entry { family, mark: mark.map_or(0, u32::from_be_bytes), to, named_by })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::{
        io::Pins as _,
        sys::{
            conntrack::tests::packet,
            namespace::{in_namespace, shell},
            nft::nft,
        },
    };

    fn made(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        attribute.extend(value);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        attribute
    }

    fn message(kind: u16, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + rest.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], rest].concat()
    }

    #[test]
    fn a_dump_is_read_whatever_it_holds() {
        let addresses = made(0x8001, &[made(1, &[10, 0, 0, 1]), made(2, &[10, 0, 0, 2])].concat());
        let (tuple, id, mark) = (made(0x8001, &addresses), made(12, &[1, 2, 3, 4]), made(8, &[0, 0, 1, 2]));
        let whole = message(0x100, &[&[2, 0, 0, 0], &tuple[..], &id, &mark].concat());
        let bare = message(0x100, &[&[2, 0, 0, 0], &mark[..]].concat());
        let done = message(NLMSG_DONE, &[0; 4]);
        let buffer = [whole, bare, done, vec![200, 0, 0, 0]].concat();
        let parts: Vec<Part<'_>> = messages(&buffer).map(|message| read(message).unwrap()).collect();
        let named_by = [Some((1, &addresses[..])), None, Some((12, &[1, 2, 3, 4][..]))];
        let entry = Entry { family: 2, mark: 0x102, to: IpAddr::from([10, 0, 0, 2]), named_by };
        assert_eq!(parts, [Part::Entry(entry), Part::Other, Part::Done]);
        let cut_short = message(NLMSG_DONE, &(-libc::EINTR).to_ne_bytes());
        assert_eq!(read(&cut_short).unwrap_err().raw_os_error(), Some(libc::EINTR));
        let error = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&error).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(read(&message(9, &[])).is_err());
    }

    #[test]
    #[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
    fn the_kernel_forgets_what_is_pinned_and_nothing_else() {
        in_namespace(|| {
            // To port 11 with a mark of others alone, to 10 with none, else with ours.
            let rules = "table inet t { chain c { type filter hook output priority 0
                meta l4proto != udp accept
                udp dport 10 accept
                udp dport 11 ct mark set 0x50000 accept
                ct mark set 0x50017; }\n}\n";
            nft("a test", &["-f", "-"], Some(rules)).unwrap();
            shell("ip link set lo up");
            let mut conntrack = Conntrack::open().unwrap();
            let mut flows = Vec::new();
            for address in ["127.0.0.1", "127.0.0.2", "::1"] {
                let from = if address == "::1" { "::1" } else { "127.0.0.1" };
                let socket = UdpSocket::bind((from, 0)).unwrap();
                // More than one answer of the dump holds.
                for port in (9..12).chain(1000..1500) {
                    socket.send_to(b"x", (address, port)).unwrap();
                    flows.push((
                        packet(17, from, address, (socket.local_addr().unwrap().port(), port)),
                        port,
                        address,
                    ));
                }
            }
            let forgotten = conntrack.forget(MarkMask::DEFAULT, |to| to != IpAddr::from([127, 0, 0, 2]));
            assert_eq!(forgotten.unwrap(), 2 * 501);
            for (flow, port, address) in flows {
                let kept = address == "127.0.0.2" || matches!(port, 10 | 11);
                assert_eq!(conntrack.mark_of(&flow).unwrap().is_some(), kept, "{address} {port}");
            }
            assert_eq!(conntrack.forget(MarkMask::DEFAULT, |to| to.is_ipv6()).unwrap(), 0);
        });
    }
}
