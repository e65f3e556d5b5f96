//! The outer addresses of a balancer: one of each family at most.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The outer addresses of a balancer. Stored as a list, IPv4 first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OuterAddresses {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl OuterAddresses {
    /// Returns the addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Reports whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Returns the address of the same family as `other`.
    #[must_use]
    pub fn like(&self, other: IpAddr) -> Option<IpAddr> {
        match other {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    /// Adds an address. Returns false if there was one of its family already.
    pub fn add(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.replace(address).is_none(),
            IpAddr::V6(address) => self.v6.replace(address).is_none(),
        }
    }
}

impl Serialize for OuterAddresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for OuterAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut addresses = Self::default();
        for address in Vec::<IpAddr>::deserialize(deserializer)? {
            if !addresses.add(address) {
                return Err(D::Error::custom("two addresses of one family"));
            }
        }
        Ok(addresses)
    }
}
