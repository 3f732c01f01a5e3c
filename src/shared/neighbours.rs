//! What a section says of a namespace's neighbours: the ports of the host that lead inside, the
//! host, and the LAN.
//!
//! The program that enters namespaces has no use for it and keeps the words as they stand. They are
//! read where they are needed, and all of them before anything is built.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};

/// The options, as the manual spells them.
pub const OPTIONS: [&str; 8] = [
    "Publish",
    "HostAccess",
    "Bypass",
    "Subnet",
    "MTU",
    "PostBuild",
    "PreClean",
    "HookTimeout",
];
/// Those that open a way.
const OPENING: [&str; 3] = ["Publish", "HostAccess", "Bypass"];

/// The lines of the section with these options, each `OPTION=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Neighbours(pub Vec<String>);

/// When root runs a program inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// When all is built.
    Built,
    /// Before anything is removed.
    Cleaned,
}

/// A program that root runs inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The option that names it.
    pub option: &'static str,
    /// Its absolute path.
    pub path: PathBuf,
    /// How long it may take.
    pub timeout: Duration,
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
    /// Those on these ports; none of any other.
    Ports(Vec<Port>),
}

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// Its address; the bits after the prefix are 0.
    pub network: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
}

impl Neighbours {
    /// The values of an option.
    pub fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter_map(move |line| line.strip_prefix(option)?.strip_prefix('='))
    }

    /// The value of an option that stands once at most.
    fn one<'a>(&'a self, option: &'a str) -> Option<&'a str> {
        self.all(option).next()
    }

    /// The lines that open a way.
    pub fn opening(&self) -> impl Iterator<Item = &str> {
        let opens = |(option, value): (&str, &str)| {
            OPENING.contains(&option) && !value.eq_ignore_ascii_case("no")
        };
        self.0
            .iter()
            .map(String::as_str)
            .filter(move |line| line.split_once('=').is_some_and(opens))
    }

    /// Reads all options; the error names the option.
    pub fn check(&self) -> Result<()> {
        self.published()?;
        self.access(false)?;
        self.bypassed()?;
        self.own_subnet()?;
        self.own_mtu()?;
        self.hook(Moment::Built)?;
        self.hook(Moment::Cleaned).map(drop)
    }

    /// Whether a way is asked for that needs a veth pair even where the tunnel is the only way out.
    pub fn opens(&self) -> bool {
        self.opening().next().is_some()
    }

    /// The published ports. Two of them may not have an address and a port of the host in common.
    pub fn published(&self) -> Result<Vec<Published>> {
        let mut all: Vec<Published> = Vec::new();
        for word in self.all("Publish") {
            let one = published(word).ok_or_else(|| {
                wrong(
                    "Publish",
                    word,
                    "expected [ADDRESS:]PORT[:INSIDE][/tcp|/udp], an IPv6 address in brackets",
                )
            })?;
            if let Some(other) = all.iter().find(|other| other.conflicts(&one)) {
                return Err(wrong(
                    "Publish",
                    word,
                    &format!("{other} has this port already"),
                ));
            }
            all.push(one);
        }
        Ok(all)
    }

    /// Which servers of the host are reached. Unless HostAccess says so: all without a tunnel, none
    /// with one.
    pub fn access(&self, has_tunnel: bool) -> Result<HostAccess> {
        let Some(words) = self.one("HostAccess") else {
            return Ok(if has_tunnel {
                HostAccess::Ports(Vec::new())
            } else {
                HostAccess::Yes
            });
        };
        match words.to_ascii_lowercase().as_str() {
            "yes" => return Ok(HostAccess::Yes),
            "no" => return Ok(HostAccess::Ports(Vec::new())),
            _ => {}
        }
        let ports: Option<Vec<Port>> = split(words).map(port).collect();
        ports
            .filter(|ports| !ports.is_empty())
            .map(HostAccess::Ports)
            .ok_or_else(|| {
                wrong(
                    "HostAccess",
                    words,
                    "expected yes, no, or ports such as 143/tcp,53/udp",
                )
            })
    }

    /// The networks of Bypass.
    pub fn bypassed(&self) -> Result<Vec<Cidr>> {
        let Some(words) = self.one("Bypass") else {
            return Ok(Vec::new());
        };
        let networks: Result<Vec<Cidr>> = split(words).map(|word| cidr("Bypass", word)).collect();
        let networks = networks?;
        if networks.is_empty() {
            return Err(wrong("Bypass", words, "it names no network"));
        }
        if networks.iter().any(|network| network.1 == 0) {
            return Err(wrong(
                "Bypass",
                words,
                "nothing would be left for the tunnel",
            ));
        }
        // One that is a part of another says nothing new.
        let is_part = |at: usize, part: &Cidr| {
            let covers = |(other, whole): (usize, &Cidr)| {
                other != at
                    && whole.1 <= part.1
                    && (whole != part || other < at)
                    && masked(part.0, whole.1) == whole.0
                    && whole.0.is_ipv4() == part.0.is_ipv4()
            };
            networks.iter().enumerate().any(covers)
        };
        Ok(networks
            .iter()
            .enumerate()
            .filter(|(at, part)| !is_part(*at, part))
            .map(|(_, network)| *network)
            .collect())
    }

    /// Subnet, at least a /30.
    pub fn own_subnet(&self) -> Result<Option<Subnet>> {
        let Some(word) = self.one("Subnet") else {
            return Ok(None);
        };
        let subnet = subnet("Subnet", word)?;
        if !(8..=30).contains(&subnet.prefix) {
            return Err(wrong(
                "Subnet",
                word,
                "its prefix length must be from 8 to 30",
            ));
        }
        let address = subnet.network;
        if address.is_loopback() || address.octets()[0] == 0 || address.octets()[0] >= 224 {
            return Err(wrong("Subnet", word, "hosts cannot have such addresses"));
        }
        Ok(Some(subnet))
    }

    /// MTU, in bytes.
    pub fn own_mtu(&self) -> Result<Option<u32>> {
        let Some(word) = self.one("MTU") else {
            return Ok(None);
        };
        // The least that IPv4 hosts have to cope with (RFC 791), and the most that a veth has.
        let mtu = word.parse().ok().filter(|mtu| (576..=65535).contains(mtu));
        mtu.map(Some)
            .ok_or_else(|| wrong("MTU", word, "expected a number of bytes from 576 to 65535"))
    }

    /// What runs inside at this moment.
    pub fn hook(&self, moment: Moment) -> Result<Option<Hook>> {
        let option = moment.option();
        let Some(path) = self.one(option) else {
            return Ok(None);
        };
        if !path.starts_with('/') {
            return Err(wrong(option, path, "a path must start with /"));
        }
        let seconds = self.one("HookTimeout").unwrap_or("30");
        let number = seconds
            .parse()
            .ok()
            .filter(|seconds| (1..=86_400).contains(seconds));
        let number = number
            .ok_or_else(|| wrong("HookTimeout", seconds, "expected seconds, from 1 to 86400"))?;
        Ok(Some(Hook {
            option,
            path: path.into(),
            timeout: Duration::from_secs(number),
        }))
    }
}

impl Moment {
    /// The option that says what runs then.
    fn option(self) -> &'static str {
        match self {
            Self::Built => "PostBuild",
            Self::Cleaned => "PreClean",
        }
    }
}

fn wrong(option: &str, word: &str, why: &str) -> Error {
    Error::new(
        "build",
        format!(
            "{option}: cannot be '{}': {why}",
            crate::escape::escape(word.as_bytes())
        ),
    )
}

fn split(words: &str) -> impl Iterator<Item = &str> {
    words
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

/// A network of either family: its address and its prefix length.
pub type Cidr = (IpAddr, u8);

fn cidr(option: &str, word: &str) -> Result<Cidr> {
    let expected = || wrong(option, word, "expected a network such as 192.0.2.0/24");
    let (address, prefix) = word
        .split_once('/')
        .map_or((word, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| expected())?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(all), |prefix| {
        prefix.parse().ok().filter(|length| *length <= all)
    });
    let prefix = prefix.ok_or_else(expected)?;
    let network = masked(address, prefix);
    if network != address {
        return Err(wrong(
            option,
            word,
            &format!("the address of that network is {network}/{prefix}"),
        ));
    }
    Ok((network, prefix))
}

/// The address with the bits after the prefix cleared; of a prefix that is too long, the address
/// itself.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let rest = |all: u32| all.saturating_sub(u32::from(prefix));
    match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(
            address.to_bits() & u32::MAX.checked_shl(rest(32)).unwrap_or(0),
        )),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & u128::MAX.checked_shl(rest(128)).unwrap_or(0),
        )),
    }
}

fn subnet(option: &str, word: &str) -> Result<Subnet> {
    match cidr(option, word)? {
        (IpAddr::V4(network), prefix) => Ok(Subnet { network, prefix }),
        (IpAddr::V6(_), _) => Err(wrong(
            option,
            word,
            "expected an IPv4 network such as 192.0.2.0/24",
        )),
    }
}

impl Subnet {
    /// The address at this place, from 0.
    fn at(&self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + place)
    }

    /// The host's end: the first address.
    pub fn host(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// The namespace's end: the second address.
    pub fn inside(&self) -> Ipv4Addr {
        self.at(2)
    }
}

impl Published {
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

    /// Whether it is for connections by IPv4.
    pub fn has_ipv4(&self) -> bool {
        self.address.is_none_or(|address| address.is_ipv4())
    }

    /// Whether it is for connections by IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.address.is_none_or(|address| address.is_ipv6())
    }
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

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(publish: &[&str]) -> Neighbours {
        Neighbours(
            publish
                .iter()
                .map(|word| format!("Publish={word}"))
                .collect(),
        )
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
            .published()
            .unwrap()
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
            assert!(of(&[bad]).published().is_err(), "{bad}");
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
            assert!(of(&pair).published().is_err(), "{pair:?}");
        }
        for pair in [
            ["80", "80/udp"],
            ["127.0.0.1:80", "127.0.0.2:80"],
            ["0.0.0.0:80", "[::1]:80"],
        ] {
            assert!(of(&pair).published().is_ok(), "{pair:?}");
        }
    }

    #[test]
    fn access_to_the_host() {
        let of = |words: &str| Neighbours(vec![format!("HostAccess={words}")]);
        assert_eq!(of("Yes").access(true).unwrap(), HostAccess::Yes);
        assert_eq!(
            of("no").access(false).unwrap(),
            HostAccess::Ports(Vec::new())
        );
        let HostAccess::Ports(ports) = of("143, 53/udp").access(true).unwrap() else {
            panic!()
        };
        assert_eq!(
            ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["143/tcp", "53/udp"]
        );
        assert!(of("maybe").access(true).is_err() && of(",").access(true).is_err());
        let default = Neighbours::default();
        assert_eq!(default.access(false).unwrap(), HostAccess::Yes);
        assert_eq!(default.access(true).unwrap(), HostAccess::Ports(Vec::new()));
    }

    #[test]
    fn networks() {
        let of = |word: &str| Neighbours(vec![format!("Subnet={word}")]).own_subnet();
        let subnet = of("10.1.2.4/30").unwrap().unwrap();
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
            assert!(of(bad).is_err(), "{bad}");
        }
        let bypass = Neighbours(vec!["Bypass=192.0.2.0/24, 198.51.100.7".to_string()]);
        assert_eq!(
            bypass.bypassed().unwrap()[1],
            ("198.51.100.7".parse().unwrap(), 32)
        );
        let of = |words: &str| {
            Neighbours(vec![format!("Bypass={words}")])
                .bypassed()
                .unwrap()
        };
        assert_eq!(
            of("192.0.2.0/24, 192.0.2.0/25, 192.0.2.0/24, 2001:db8::/32, 2001:db8:1::/48").len(),
            2
        );
        assert_eq!(
            of("192.0.2.128/25, 192.0.2.0/25"),
            [
                ("192.0.2.128".parse().unwrap(), 25),
                ("192.0.2.0".parse().unwrap(), 25)
            ]
        );
        for bad in ["0.0.0.0/0", "::/0", "2001:db8::1/64", "2001:db8::/129", ","] {
            assert!(
                Neighbours(vec![format!("Bypass={bad}")])
                    .bypassed()
                    .is_err(),
                "{bad}"
            );
        }
    }
}
