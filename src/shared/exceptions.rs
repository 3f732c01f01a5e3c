//! Exceptions to the tunnel: published ports, servers of the host, networks that bypass it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::json::{self, Fields};

/// What a section lets through beside the tunnel, or keeps out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Exceptions {
    /// Publish. No two of them have an address and a port of the host in common.
    #[serde(rename = "publish")]
    pub published: Vec<Published>,
    /// HostAccess, if given.
    pub host_access: Option<HostAccess>,
    /// Bypass. None of them is a part of another.
    #[serde(rename = "bypass")]
    pub bypassed: Vec<IpNet>,
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// A port of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number, not 0.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A port of the host by which a port inside is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The address of the host, if only that one.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub port: Port,
    /// The port inside.
    pub inside: u16,
}

/// Which servers on the host are reached from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAccess {
    /// All.
    Yes,
    /// None.
    No,
    /// Those on certain ports, at least one.
    Ports {
        /// At any address of the host.
        any: Vec<Port>,
        /// At the loopback addresses, which host.runns stands for inside.
        localhost: Vec<Port>,
    },
}

impl Exceptions {
    /// From a record.
    pub fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            published: fields.list("publish", |value| json::parsed(value, Published::parse)),
            host_access: fields.optional("host_access", |value| {
                json::parsed(value, HostAccess::parse)
            }),
            bypassed: fields.list("bypass", |value| json::parsed(value, network)),
        })
    }

    /// Publishes one more port.
    pub fn publish(&mut self, port: Published) -> Result<()> {
        if let Some(other) = self.published.iter().find(|other| other.conflicts(&port)) {
            return Err(wrong(format!("{other} already uses this port")));
        }
        self.published.push(port);
        Ok(())
    }

    /// Which servers of the host are reached. Unless HostAccess says so: all without a tunnel, none
    /// with one.
    pub fn access(&self, has_tunnel: bool) -> HostAccess {
        let default = if has_tunnel {
            HostAccess::No
        } else {
            HostAccess::Yes
        };
        self.host_access.clone().unwrap_or(default)
    }

    /// Whether the section names servers of the host.
    pub fn names_host(&self) -> bool {
        self.host_access
            .as_ref()
            .is_some_and(|access| *access != HostAccess::No)
    }

    /// Whether anything is opened that needs a veth pair even where the tunnel is the only way out.
    pub fn any(&self) -> bool {
        !self.published.is_empty() || self.names_host() || !self.bypassed.is_empty()
    }

    /// What is opened, as the options of a section.
    pub fn opening(&self) -> Vec<String> {
        let published = self.published.iter().map(|port| format!("Publish={port}"));
        let access = self.host_access.iter().filter(|_| self.names_host());
        let bypass = list(&self.bypassed);
        published
            .chain(access.map(|access| format!("HostAccess={access}")))
            .chain((!bypass.is_empty()).then(|| format!("Bypass={bypass}")))
            .collect()
    }
}

fn wrong(cause: impl fmt::Display) -> Error {
    Error::new("read an exception to the tunnel", cause)
}

fn list(words: &[impl ToString]) -> String {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    words.join(",")
}

/// The words of a list.
pub fn words(value: &str) -> impl Iterator<Item = &str> {
    value
        .split([',', ' ', '\t'])
        .filter(|word| !word.is_empty())
}

/// `PORT[/tcp|/udp]`.
fn port(word: &str) -> Option<Port> {
    let (number, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some(Port {
        number: port_number(number)?,
        protocol,
    })
}

/// Digits alone, which rules out the sign that `parse` would take.
fn port_number(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|number| digits && *number != 0)
}

impl HostAccess {
    /// `yes`, `no`, or a list of ports, each `[localhost:]PORT[/tcp|/udp]`.
    pub fn parse(value: &str) -> Result<Self> {
        match value.to_ascii_lowercase().as_str() {
            "yes" => return Ok(Self::Yes),
            "no" => return Ok(Self::No),
            _ => {}
        }
        let expected = || wrong("expected yes, no, or ports such as 143,53/udp,localhost:8080");
        let (mut any, mut localhost) = (Vec::new(), Vec::new());
        for word in words(value) {
            let (ports, word) = match word.strip_prefix(LOCALHOST) {
                Some(word) => (&mut localhost, word),
                None => (&mut any, word),
            };
            ports.push(port(word).ok_or_else(expected)?);
        }
        if any.is_empty() && localhost.is_empty() {
            return Err(expected());
        }
        Ok(Self::Ports { any, localhost })
    }

    /// The ports that are reached at any address of the host, if only certain ports are.
    pub fn ports(&self) -> &[Port] {
        match self {
            Self::Ports { any, .. } => any,
            Self::Yes | Self::No => &[],
        }
    }

    /// The ports of servers that listen on the host's loopback addresses.
    pub fn localhost(&self) -> &[Port] {
        match self {
            Self::Ports { localhost, .. } => localhost,
            Self::Yes | Self::No => &[],
        }
    }
}

/// What precedes the port of a server on a loopback address.
const LOCALHOST: &str = "localhost:";

/// A network; of an address alone, the one that has only this address.
pub fn network(word: &str) -> Result<IpNet> {
    let network: IpNet = word
        .parse()
        .or_else(|_| word.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| wrong("expected a network such as 192.0.2.0/24"))?;
    if network.trunc() != network {
        let right = network.trunc();
        return Err(wrong(format!("the address of that network is {right}")));
    }
    Ok(network)
}

/// The networks of Bypass.
pub fn networks(value: &str) -> Result<Vec<IpNet>> {
    let networks: Vec<IpNet> = words(value).map(network).collect::<Result<_>>()?;
    if networks.is_empty() {
        return Err(wrong("it names no network"));
    }
    if networks.iter().any(|network| network.prefix_len() == 0) {
        return Err(wrong("nothing would be left for the tunnel"));
    }
    // One that is a part of another says nothing new.
    let is_part = |at: usize, part: &IpNet| {
        let covers = |(other, whole): (usize, &IpNet)| {
            other != at && whole.contains(part) && (whole != part || other < at)
        };
        networks.iter().enumerate().any(covers)
    };
    let parts = networks.iter().enumerate();
    Ok(parts
        .filter(|(at, part)| !is_part(*at, part))
        .map(|(_, network)| *network)
        .collect())
}

impl Published {
    /// `[ADDRESS:]PORT[:INSIDE][/tcp|/udp]`.
    pub fn parse(word: &str) -> Result<Self> {
        published(word).ok_or_else(|| {
            wrong("expected [ADDRESS:]PORT[:INSIDE][/tcp|/udp], an IPv6 address in brackets")
        })
    }

    /// Whether a connection could be meant for both.
    pub fn conflicts(&self, other: &Self) -> bool {
        let all = |address: Option<IpAddr>| match address {
            None => (true, true),
            Some(address) => (
                address == IpAddr::from([0; 4]),
                address == IpAddr::from([0u16; 8]),
            ),
        };
        let same_address = match (self.address, other.address) {
            (Some(one), Some(other)) if one == other => true,
            (None, _) | (_, None) => true,
            (Some(one), Some(another)) => {
                one.is_ipv4() == another.is_ipv4() && {
                    let (ours, theirs) = (all(self.address), all(other.address));
                    ours.0 || ours.1 || theirs.0 || theirs.1
                }
            }
        };
        self.port == other.port && same_address
    }

    /// The port inside.
    pub fn port_inside(&self) -> Port {
        Port {
            number: self.inside,
            ..self.port
        }
    }

    /// Whether it is for connections by IPv4.
    pub fn has_ipv4(&self) -> bool {
        self.address.is_none_or(|address| address.is_ipv4())
    }

    /// Whether it is for connections by IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.address.is_none_or(|address| address.is_ipv6())
    }
}

fn published(word: &str) -> Option<Published> {
    let (address, rest) = match word.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once("]:")?;
            (Some(IpAddr::V6(address.parse().ok()?)), rest)
        }
        None => match word.split_once(':') {
            Some((address, rest)) if address.contains('.') => {
                (Some(IpAddr::V4(address.parse().ok()?)), rest)
            }
            _ => (None, word),
        },
    };
    let (ports, protocol) = rest.split_once('/').unwrap_or((rest, "tcp"));
    let (outside, inside) = ports.split_once(':').unwrap_or((ports, ports));
    let port = port(&format!("{outside}/{protocol}"))?;
    let usable = |address: &IpAddr| !address.is_multicast();
    address.as_ref().is_none_or(usable).then_some(Published {
        address,
        port,
        inside: port_number(inside)?,
    })
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(address) => write!(f, "{address}:")?,
            None => {}
        }
        write!(
            f,
            "{}:{}/{}",
            self.port.number, self.inside, self.port.protocol
        )
    }
}

impl fmt::Display for HostAccess {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::No => f.write_str("no"),
            Self::Ports { any, localhost } => {
                f.write_str(&list(any))?;
                for (at, port) in localhost.iter().enumerate() {
                    let comma = if any.is_empty() && at == 0 { "" } else { "," };
                    write!(f, "{comma}{LOCALHOST}{port}")?;
                }
                Ok(())
            }
        }
    }
}

impl Serialize for Published {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for HostAccess {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(publish: &[&str]) -> Result<Exceptions> {
        let mut exceptions = Exceptions::default();
        for word in publish {
            exceptions.publish(Published::parse(word)?)?;
        }
        Ok(exceptions)
    }

    #[test]
    fn published_ports() {
        let words = [
            "8080",
            "8081:80",
            "127.0.0.1:53:5353/udp",
            "[::1]:443/tcp",
            "192.0.2.2:9000:1",
        ];
        let shown: Vec<String> = of(&words)
            .unwrap()
            .published
            .iter()
            .map(ToString::to_string)
            .collect();
        let wanted = [
            "8080:8080/tcp",
            "8081:80/tcp",
            "127.0.0.1:53:5353/udp",
            "[::1]:443:443/tcp",
            "192.0.2.2:9000:1/tcp",
        ];
        assert_eq!(shown, wanted);
        for bad in [
            "",
            "0",
            "65536",
            "x",
            "80:0",
            "80/sctp",
            "::1:80",
            "[::1]80",
            "192.0.2:80",
            "+80",
            "80:80:80",
            "[80",
            "224.0.0.1:80",
        ] {
            assert!(of(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_port_is_published_once() {
        for pair in [
            ["80", "127.0.0.1:80:81"],
            ["80", "80:81"],
            ["0.0.0.0:80", "127.0.0.1:80"],
            ["[::]:80", "[::1]:80"],
        ] {
            assert!(of(&pair).is_err(), "{pair:?}");
        }
        for pair in [
            ["80", "80/udp"],
            ["127.0.0.1:80", "127.0.0.2:80"],
            ["0.0.0.0:80", "[::1]:80"],
        ] {
            assert!(of(&pair).is_ok(), "{pair:?}");
        }
    }

    #[test]
    fn access_to_the_host() {
        let of = HostAccess::parse;
        assert_eq!(of("Yes").unwrap(), HostAccess::Yes);
        assert_eq!(of("no").unwrap(), HostAccess::No);
        let ports = of("143, 53/udp").unwrap();
        assert_eq!(ports.to_string(), "143/tcp,53/udp");
        assert_eq!(of(&ports.to_string()).unwrap(), ports);
        for bad in [
            "maybe",
            ",",
            "localhost:",
            "localhost",
            "80,localhost:0",
            "localhost:yes",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        for (value, shown) in [
            ("localhost:8080", "localhost:8080/tcp"),
            (
                "localhost:53/udp, 80,localhost:53",
                "80/tcp,localhost:53/udp,localhost:53/tcp",
            ),
        ] {
            let access = of(value).unwrap();
            assert_eq!(access.to_string(), shown);
            assert_eq!(of(shown).unwrap(), access);
        }
        let default = Exceptions::default();
        assert_eq!(default.access(false), HostAccess::Yes);
        assert_eq!(default.access(true), HostAccess::No);
        assert!(!default.any());
    }

    #[test]
    fn networks_that_bypass() {
        let of = |value: &str| networks(value).map(|networks| list(&networks));
        assert_eq!(
            of("192.0.2.0/24, 198.51.100.7").unwrap(),
            "192.0.2.0/24,198.51.100.7/32"
        );
        assert_eq!(
            of("192.0.2.0/24, 192.0.2.0/25, 192.0.2.0/24, 2001:db8::/32, 2001:db8:1::/48").unwrap(),
            "192.0.2.0/24,2001:db8::/32"
        );
        assert_eq!(
            of("192.0.2.128/25, 192.0.2.0/25").unwrap(),
            "192.0.2.128/25,192.0.2.0/25"
        );
        for bad in ["0.0.0.0/0", "::/0", "2001:db8::1/64", "2001:db8::/129", ","] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
