//! The subnets of veth pairs.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::exceptions;

/// Numbers X that exist: 172.24.0.0/24 to 172.31.255.0/24.
pub const MAX_NUMBER: u16 = 2047;
/// The network of all their subnets.
pub const RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 24, 0, 0), 13);

/// The number X of a namespace: its subnet is 172.(24 + X / 256).(X % 256).0/24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Number(u16);

impl Number {
    /// X, if there is such a number.
    pub fn new(number: u32) -> Option<Self> {
        u16::try_from(number)
            .ok()
            .filter(|number| *number <= MAX_NUMBER)
            .map(Self)
    }

    /// All numbers, the lowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=MAX_NUMBER).map(Self)
    }

    /// That of the subnet that contains `address`.
    pub fn of(address: Ipv4Addr) -> Option<Self> {
        let [first, high, low, _] = address.octets();
        let number = u16::from_be_bytes([high.checked_sub(24)?, low]);
        Self::new(number.into()).filter(|_| first == 172)
    }

    /// X itself.
    pub fn get(self) -> u16 {
        self.0
    }

    fn address(self, host: u8) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(172, 24 + high, low, host)
    }

    /// The host's end.
    pub fn host(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The namespace's end.
    pub fn inside(self) -> Ipv4Addr {
        self.address(2)
    }

    /// The network.
    pub fn network(self) -> Ipv4Net {
        Ipv4Net::new_assert(self.address(0), PREFIX)
    }
}

/// Prefix length of every subnet.
pub const PREFIX: u8 = 24;

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.network().fmt(f)
    }
}

/// The IPv4 network of a veth pair: the first address is the host's, the second that inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Subnet(Ipv4Net);

impl Subnet {
    /// One that hosts can have, at least a /30.
    pub fn parse(word: &str) -> Result<Self> {
        let wrong = |cause: &str| Error::new("read a subnet", cause);
        let IpNet::V4(network) = exceptions::network(word)? else {
            return Err(wrong("expected an IPv4 network such as 192.0.2.0/24"));
        };
        if !(8..=30).contains(&network.prefix_len()) {
            return Err(wrong("its prefix length must be from 8 to 30"));
        }
        let address = network.addr();
        if address.is_loopback() || address.octets()[0] == 0 || address.octets()[0] >= 224 {
            return Err(wrong("hosts cannot have such addresses"));
        }
        Ok(Self(network))
    }

    /// That of a number.
    pub fn of(number: Number) -> Self {
        Self(number.network())
    }

    /// The network.
    pub fn network(&self) -> Ipv4Net {
        self.0
    }

    /// Its prefix length.
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The host's end.
    pub fn host(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// The namespace's end.
    pub fn inside(&self) -> Ipv4Addr {
        self.at(2)
    }

    fn at(&self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.addr().to_bits() + place)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        let subnet = Subnet::parse("10.1.2.4/30").unwrap();
        assert_eq!(
            (subnet.host(), subnet.inside()),
            (Ipv4Addr::new(10, 1, 2, 5), Ipv4Addr::new(10, 1, 2, 6))
        );
        for bad in [
            "10.1.2.5/30",
            "10.1.2.4/31",
            "10.0.0.0/7",
            "127.0.0.0/8",
            "224.0.0.0/24",
            "10.1.2.4",
            "x/24",
            "0.0.0.0/8",
        ] {
            assert!(Subnet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_subnets() {
        assert_eq!(Number::new(5).unwrap().to_string(), "172.24.5.0/24");
        assert_eq!(
            Number::new(256).unwrap().inside(),
            Ipv4Addr::new(172, 25, 0, 2)
        );
        assert_eq!(
            Number::new(2047).unwrap().host(),
            Ipv4Addr::new(172, 31, 255, 1)
        );
        assert_eq!(Number::new(2048), None);
        assert_eq!(Number::all().count(), 2048);
        assert!(Number::all().all(|number| Number::of(number.inside()) == Some(number)));
        assert_eq!(Number::of(Ipv4Addr::new(172, 23, 0, 1)), None);
        assert_eq!(Number::of(Ipv4Addr::new(172, 32, 0, 1)), None);
        assert_eq!(Number::of(Ipv4Addr::new(10, 24, 0, 1)), None);
    }
}
