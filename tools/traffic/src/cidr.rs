//! The addresses that clients come from: a prefix, taken in order from its first address, none skipped (the
//! network's and the broadcast address are addresses like any other here), and from the start again when the
//! prefix is used up. Of an IPv6 prefix shorter than a /64 that is the first address of each /64, since hosts have whole
//! ones and are told apart by them. The addresses must be the host's own; `ip route add local CIDR dev lo` makes a whole prefix so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// A prefix of source addresses, without bits beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr(IpNet);

impl Cidr {
    /// The address of the given index, counted from the prefix's first and starting over after its last.
    pub(crate) fn nth(&self, index: u64) -> IpAddr {
        let prefix_len = self.0.prefix_len();
        let networks = matches!(self.0, IpNet::V6(_)) && prefix_len < 64;
        let host_bits = if networks { 64 - prefix_len } else { self.0.max_prefix_len() - prefix_len };
        let index = if host_bits < 64 { index & ((1 << host_bits) - 1) } else { index };
        match self.0 {
            IpNet::V4(net) => {
                let host = u32::try_from(index).unwrap_or(u32::MAX); // host_bits <= 32: it fits
                IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits() | host))
            }
            IpNet::V6(net) => {
                let index = if networks { u128::from(index) << 64 } else { index.into() };
                IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | index))
            }
        }
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = match text.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| {
                "expected ADDRESS/LENGTH, as in 50.0.0.0/16 or 2000::/112 (or one address)".to_owned()
            })?,
        };
        if net.trunc() != net {
            return Err(format!(
                "the address has bits beyond the prefix's length; {} is meant?",
                net.trunc()
            ));
        }
        Ok(Self(net))
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nth(cidr: &str, index: u64) -> String {
        cidr.parse::<Cidr>().unwrap().nth(index).to_string()
    }

    #[test]
    fn addresses_come_in_order_none_skipped_and_start_over() {
        for (cidr, index, address) in [
            ("50.0.0.0/16", 0, "50.0.0.0"),
            ("50.0.0.0/16", 255, "50.0.0.255"),
            ("50.0.0.0/16", 256, "50.0.1.0"),
            ("50.0.0.0/16", 65535, "50.0.255.255"),
            ("50.0.0.0/16", 65536, "50.0.0.0"),
            ("10.1.2.3/32", 7, "10.1.2.3"),
            ("10.1.2.3", 7, "10.1.2.3"),
            ("0.0.0.0/0", u64::MAX, "255.255.255.255"),
            ("2000::/112", 65535, "2000::ffff"),
            ("2000::/112", 65537, "2000::1"),
            ("2000::/64", u64::MAX, "2000::ffff:ffff:ffff:ffff"),
            ("2000:1::/48", 0, "2000:1::"),
            ("2000:1::/48", 4999, "2000:1:0:1387::"),
            ("2000:1::/48", 65536, "2000:1::"),
            ("2000::/63", 3, "2000:0:0:1::"),
            ("::/0", u64::MAX, "ffff:ffff:ffff:ffff::"),
            ("::1/128", 9, "::1"),
        ] {
            assert_eq!(nth(cidr, index), address, "{cidr} {index}");
        }
    }

    #[test]
    fn a_wrong_prefix_is_refused_with_what_is_allowed() {
        for text in ["", "50.0.0.0/33", "50.0.0/16", "2000::/129", "a/b", "1.2.3.4/"] {
            assert!(text.parse::<Cidr>().unwrap_err().contains("50.0.0.0/16"), "{text}");
        }
        assert!("50.0.0.1/16".parse::<Cidr>().unwrap_err().contains("50.0.0.0/16 is meant"));
    }

    proptest! {
        #[test]
        fn every_address_lies_in_the_prefix(bits: u128, length in 0u8..=128, index: u64) {
            let net = ipnet::Ipv6Net::new(Ipv6Addr::from_bits(bits), length).unwrap().trunc();
            let address = Cidr(net.into()).nth(index);
            prop_assert!(IpNet::from(net).contains(&address), "{address}");
        }
    }
}
