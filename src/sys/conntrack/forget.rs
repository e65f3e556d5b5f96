//! Deletes the entries of pinned flows. With `steering = "every-packet"` nothing reads these entries. Without
//! the deletion, a new flow with the same addresses and ports would match an old entry when connections are
//! pinned again.

use std::{io, net::IpAddr};

use super::{Conntrack, dump::Request};
use crate::model::ids::MarkMask;

impl Conntrack {
    /// Deletes the entries that have any bit of `mask` set in their mark and whose destination fulfils `to`.
    /// Returns how many were deleted.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot be asked or refuses a deletion; some entries may be deleted
    /// then.
    pub fn forget(&mut self, mask: MarkMask, to: impl Fn(IpAddr) -> bool) -> io::Result<u64> {
        let mut meant = Vec::new();
        self.dump(None, |entry| {
            if entry.mark().0 & mask.bits() != 0 && entry.to().is_some_and(&to) {
                meant.push((entry.name(), Request::Delete));
            }
            Ok(())
        })?;
        let changed = self.change(&meant)?;
        changed.refused.map_or(Ok(changed.done), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::{
        balance::flow_table::FlowTable as _,
        sys::{
            conntrack::tests::packet,
            namespace::{in_namespace, shell},
            nft::nft,
        },
    };

    #[test]
    #[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
    fn the_kernel_forgets_what_is_pinned_and_nothing_else() {
        in_namespace(|| {
            // Port 11 gets a mark of others alone, port 10 gets none, and all other ports get a mark with our
            // bits.
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
                // More flows than one answer of the dump holds.
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
                assert_eq!(conntrack.lookup(&flow).unwrap().is_some(), kept, "{address} {port}");
            }
            assert_eq!(conntrack.forget(MarkMask::DEFAULT, |to| to.is_ipv6()).unwrap(), 0);
        });
    }
}
