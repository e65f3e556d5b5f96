//! Forgets flows that are pinned: with `steering = "every-packet"` nobody looks at their entries, which would be found,
//! old as they are, by whoever has the same addresses and ports when connections are pinned again.
//!
//! All entries are read (a dump, in as many answers as it takes), and those that are meant deleted one by one, each by
//! the attributes with which the kernel named it: a request of its own that selects by mark and by address prefix is
//! nothing the kernel knows.

use std::{io, net::IpAddr};

use super::{
    CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_MARK, CTA_TUPLE_IP, CTA_TUPLE_ORIG, Conntrack, IPCTNL_MSG_CT_GET,
    IPCTNL_MSG_CT_NEW, PATIENCE,
};
use crate::{
    ids::MarkMask,
    sys::netlink::{
        DUMP_BYTES_MAX, HEADER_BYTES, HEADERS_BYTES, NLM_F_ACK, NLM_F_DUMP, Writer, attribute, dump, kind,
        netfilter,
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
        let socket = netfilter(PATIENCE)?;
        let mut request = Writer::default();
        request.message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, 1, [0; 4], |_| {});
        let mut forgotten = 0;
        dump(&socket, &request, &mut vec![0; DUMP_BYTES_MAX], |message| {
            if let Some(entry) = read(message)?
                && entry.mark & mask.bits() != 0
                && to(entry.to)
            {
                forgotten += u64::from(self.delete(&entry)?);
            }
            Ok(())
        })?;
        Ok(forgotten)
    }

    /// Whether it was still there.
    fn delete(&mut self, entry: &Entry<'_>) -> io::Result<bool> {
        let asked = self.ask(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, entry.family, |request| {
            for (kind, value) in entry.named_by.into_iter().flatten() {
                request.value(kind, value);
            }
        });
        match asked {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
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

/// The flow of a message; `None` for one of no interest, which has no addresses.
fn read(message: &[u8]) -> io::Result<Option<Entry<'_>>> {
    if kind(message) != Some(IPCTNL_MSG_CT_NEW) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(entry(message))
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

    #[test]
    fn an_entry_is_read_whatever_it_holds() {
        let message = |kind: u16, fill: &dyn Fn(&mut Writer)| {
            let mut message = Writer::default();
            message.message(kind, 0, 1, [2, 0, 0, 0], fill);
            message
        };
        let addresses = |tuple: &mut Writer| {
            tuple.nested(CTA_TUPLE_IP, |ip| {
                ip.value(1, &[10, 0, 0, 1]);
                ip.value(CTA_IP_V4_DST, &[10, 0, 0, 2]);
            });
        };
        let mut tuple = Writer::default();
        addresses(&mut tuple);
        let whole = message(IPCTNL_MSG_CT_NEW, &|entry| {
            entry.nested(CTA_TUPLE_ORIG, addresses);
            entry.value(CTA_ID, &[1, 2, 3, 4]);
            entry.value(CTA_MARK, &[0, 0, 1, 2]);
        });
        let named_by = [Some((CTA_TUPLE_ORIG, tuple.bytes())), None, Some((CTA_ID, &[1, 2, 3, 4][..]))];
        let entry = Entry { family: 2, mark: 0x102, to: IpAddr::from([10, 0, 0, 2]), named_by };
        assert_eq!(read(whole.bytes()).unwrap(), Some(entry));
        let bare = message(IPCTNL_MSG_CT_NEW, &|entry| entry.value(CTA_MARK, &[0, 0, 1, 2]));
        assert_eq!(read(bare.bytes()).unwrap(), None);
        assert!(read(message(9, &|_| {}).bytes()).is_err());
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
