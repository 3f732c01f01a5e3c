//! What a namespace shall consist of: pure data, made from the command line and a section, kept in
//! the record.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::Serialize;

use crate::access::Access;
use crate::config::Dns;
use crate::json::{self, Fields};
use crate::name::{IfaceName, NetnsName};
use crate::neighbours::{Neighbours, Subnet};

/// Numbers X that exist: 172.24.0.0/24 to 172.31.255.0/24.
pub const MAX_NUMBER: u16 = 2047;

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

    /// The network's address; its prefix length is [`PREFIX`].
    pub fn network(self) -> Ipv4Addr {
        self.address(0)
    }
}

/// Prefix length of every subnet.
pub const PREFIX: u8 = 24;

/// The device inside.
pub const INSIDE: &str = "eth0";

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{PREFIX}", self.network())
    }
}

/// What was asked for, by options and section together: two equal requests make the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// The namespace.
    pub name: NetnsName,
    /// The section that it comes from, if that is one of /etc/runns.conf.
    pub section: Option<String>,
    /// The host's end of the veth pair.
    pub interface: IfaceName,
    /// The uplink, if a certain one.
    pub uplink: Option<IfaceName>,
    /// The file that becomes its resolv.conf.
    pub resolve: Option<PathBuf>,
    /// That file was named on the command line, by root himself: it need not be root's.
    pub resolve_named: bool,
    /// The servers and search domains that become its resolv.conf.
    pub dns: Option<Dns>,
    /// Whether every query goes to its resolver; by default if it has one.
    pub dns_lock: Option<bool>,
    /// OpenVPN configurations.
    pub vpn: Vec<PathBuf>,
    /// WireGuard configurations.
    pub wireguard: Vec<PathBuf>,
    /// The program that drives WireGuard devices where the kernel does not; wireguard-go by
    /// default.
    pub userspace: Option<PathBuf>,
    /// The tunnel is the only way out, but for what `neighbours` opens; if that is nothing, there
    /// is no veth.
    pub kill_switch: bool,
    /// Whether IPv6 goes through the tunnel; by default if the tunnel has it.
    pub ipv6: Option<bool>,
    /// Ports, the host, the LAN, subnet and MTU, hooks.
    pub neighbours: Neighbours,
    /// Who may enter.
    pub access: Access,
    /// Commands run with no_new_privs.
    pub no_new_privs: bool,
}

/// The origin of a resolver that the tunnels provide.
pub const FROM_TUNNEL: &str = "the tunnel";

/// A resolver of the namespace's own. A namespace without one uses the host's resolv.conf, as it
/// is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resolver {
    /// Where it comes from, for people.
    pub from: String,
    /// The text of resolv.conf; `None` if the administrator's own file in /etc/netns/NAME is used.
    pub text: Option<String>,
    /// The servers that it names.
    pub servers: Vec<IpAddr>,
    /// Every query goes to these servers, wherever it is addressed.
    pub lock: bool,
    /// The text of nsswitch.conf that asks no service of the host's; `None` if there is none to
    /// replace.
    pub nsswitch: Option<String>,
}

/// The request, and what was decided for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What was asked for.
    #[serde(flatten)]
    pub request: Request,
    /// The number, and that of the subnet unless the section says which one.
    pub number: Number,
    /// Its resolver.
    pub resolver: Option<Resolver>,
    /// The host's address for those inside, if they reach any server of it: that of the name
    /// host.runns.
    pub host: Option<IpAddr>,
}

impl Request {
    /// From a record. Fields that a record of an older version lacks have the value that stood for
    /// them then.
    fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            name: fields.required("name", NetnsName::from_json)?,
            section: fields.optional("section", json::text),
            interface: fields.required("interface", IfaceName::from_json)?,
            uplink: fields.optional("uplink", IfaceName::from_json),
            resolve: fields.optional("resolve", json::path),
            resolve_named: fields.flag("resolve_named"),
            dns: fields.optional("dns", |value| Fields::read(value, Dns::from_fields)),
            dns_lock: fields.optional("dns_lock", json::flag),
            vpn: fields.list("vpn", json::path),
            wireguard: fields.list("wireguard", json::path),
            userspace: fields.optional("userspace", json::path),
            kill_switch: fields.flag("kill_switch"),
            ipv6: fields.optional("ipv6", json::flag),
            neighbours: Neighbours(fields.list("neighbours", json::text)),
            access: fields.required("access", |value| Fields::read(value, Access::from_fields))?,
            no_new_privs: fields.flag("no_new_privs"),
        })
    }

    /// Whether there is a veth pair.
    pub fn has_veth(&self) -> bool {
        !self.kill_switch || self.neighbours.opens()
    }

    /// Whether there is a tunnel at all.
    pub fn has_tunnel(&self) -> bool {
        !self.vpn.is_empty() || !self.wireguard.is_empty()
    }
}

impl Resolver {
    fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            from: fields.required("from", json::text)?,
            text: fields.optional("text", json::text),
            servers: fields.list("servers", json::address),
            lock: fields.flag("lock"),
            nsswitch: fields.optional("nsswitch", json::text),
        })
    }
}

impl Plan {
    /// From a record.
    pub fn from_fields(fields: &Fields) -> json::Result<Self> {
        let number = fields.required("number", json::number)?;
        let number = u32::try_from(number).ok().and_then(Number::new);
        Ok(Self {
            request: Request::from_fields(fields)?,
            number: number.ok_or("field number: there is no such subnet")?,
            resolver: fields.optional("resolver", |value| {
                Fields::read(value, Resolver::from_fields)
            }),
            host: fields.optional("host", json::address),
        })
    }

    /// The subnet of the veth pair.
    pub fn subnet(&self) -> Subnet {
        let own = self.request.neighbours.own_subnet().ok().flatten();
        own.unwrap_or(Subnet {
            network: self.number.network(),
            prefix: PREFIX,
        })
    }

    /// The tag of everything that this namespace puts into tables shared with others.
    pub fn tag(&self) -> String {
        tag(&self.request.name)
    }
}

/// The tag of everything that namespace `name` puts into tables shared with others.
pub fn tag(name: &NetnsName) -> String {
    format!("runns:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
