//! What is asked for, by a section, the command line, or both: pure data, kept in the record.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::access::Access;
use crate::exceptions::Exceptions;
use crate::json::{self, Fields};
use crate::name::IfaceName;
use crate::subnet::Subnet;

/// Name servers and search domains, as a line of a WireGuard configuration has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// At least one.
    pub servers: Vec<IpAddr>,
    /// Domains to search (resolv.conf(5)).
    pub search: Vec<String>,
}

impl Dns {
    /// From a record.
    pub fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            servers: fields.list("servers", json::address),
            search: fields.list("search", json::text),
        })
    }
}

/// A tunnel of openconnect(8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenConnect {
    /// OpenConnect: the server, as openconnect takes it: a name, an address or a URL.
    pub server: String,
    /// OpenConnectOptions: a configuration file of openconnect, an absolute path.
    pub options: Option<PathBuf>,
    /// OpenConnectPassword: a file with the password, an absolute path.
    pub password: Option<PathBuf>,
}

impl OpenConnect {
    /// From a record.
    fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            server: fields.required("server", json::text)?,
            options: fields.optional("options", json::absolute_path),
            password: fields.optional("password", json::absolute_path),
        })
    }
}

/// What a namespace shall have, but for its name and those of its devices: two equal requests make
/// the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Request {
    /// The section that it comes from, if that is one of /etc/runns.conf.
    pub section: Option<String>,
    /// The options of build that said something else than the section, or more: `--out=eth1`.
    pub given: Vec<String>,
    /// InterfaceOut: the uplink, if a certain one.
    pub uplink: Option<IfaceName>,
    /// Resolve: the file that becomes its resolv.conf, an absolute path.
    pub resolve: Option<PathBuf>,
    /// That file was named on the command line, by root himself: it need not be root's.
    pub resolve_named: bool,
    /// DNS: the servers and search domains that become its resolv.conf.
    pub dns: Option<Dns>,
    /// DNSLock: whether every query goes to its resolver; by default if it has one.
    pub dns_lock: Option<bool>,
    /// OpenVPN configurations, absolute paths in order.
    pub vpn: Vec<PathBuf>,
    /// OpenConnect and what belongs to it.
    pub openconnect: Option<OpenConnect>,
    /// WireGuard configurations, absolute paths in order.
    pub wireguard: Vec<PathBuf>,
    /// WG_QUICK_USERSPACE_IMPLEMENTATION: the program that drives WireGuard devices where the
    /// kernel does not, by its name or absolute path; wireguard-go by default.
    pub userspace: Option<PathBuf>,
    /// KillSwitch: the tunnel is the only way out, but for the exceptions; if there are none, there
    /// is no veth.
    pub kill_switch: bool,
    /// IPv6: whether it goes through the tunnel; by default if the tunnel has it.
    pub ipv6: Option<bool>,
    /// Publish, HostAccess, Bypass.
    #[serde(flatten)]
    pub exceptions: Exceptions,
    /// The subnet of the veth pair, instead of that of its number.
    pub subnet: Option<Subnet>,
    /// The MTU of the veth pair, in bytes.
    pub mtu: Option<u32>,
    /// The program that root runs inside when all is built, an absolute path.
    pub post_build: Option<PathBuf>,
    /// The program that root runs inside before anything is removed, an absolute path.
    pub pre_clean: Option<PathBuf>,
    /// How long either may take, in seconds.
    pub hook_timeout: Option<u32>,
    /// AllowUsers and AllowGroups: who may enter.
    pub access: Access,
    /// Commands run with no_new_privs.
    pub no_new_privs: bool,
}

impl Request {
    /// From a record.
    pub fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            section: fields.optional("section", json::text),
            given: fields.list("given", json::text),
            uplink: fields.optional("uplink", IfaceName::from_json),
            resolve: fields.optional("resolve", json::path),
            resolve_named: fields.flag("resolve_named"),
            dns: fields.optional("dns", |value| Fields::read(value, Dns::from_fields)),
            dns_lock: fields.optional("dns_lock", json::flag),
            vpn: fields.list("vpn", json::path),
            openconnect: fields.optional("openconnect", |value| {
                Fields::read(value, OpenConnect::from_fields)
            }),
            wireguard: fields.list("wireguard", json::path),
            userspace: fields.optional("userspace", json::path),
            kill_switch: fields.flag("kill_switch"),
            ipv6: fields.optional("ipv6", json::flag),
            exceptions: Exceptions::from_fields(fields)?,
            subnet: fields.optional("subnet", |value| json::parsed(value, Subnet::parse)),
            mtu: fields.optional("mtu", json::short_number),
            post_build: fields.optional("post_build", json::absolute_path),
            pre_clean: fields.optional("pre_clean", json::absolute_path),
            hook_timeout: fields.optional("hook_timeout", json::short_number),
            access: fields.required("access", |value| Fields::read(value, Access::from_fields))?,
            no_new_privs: fields.flag("no_new_privs"),
        })
    }

    /// Whether there is a veth pair.
    pub fn has_veth(&self) -> bool {
        !self.kill_switch || self.exceptions.any()
    }

    /// Whether there is a tunnel at all.
    pub fn has_tunnel(&self) -> bool {
        self.tunnels().next().is_some()
    }

    /// The configurations of all tunnels, in the order of their numbers: the files of OpenVPN, the
    /// server of OpenConnect, the files of WireGuard.
    pub fn tunnels(&self) -> impl Iterator<Item = &Path> {
        let openconnect = self.openconnect.iter().map(|one| Path::new(&one.server));
        let vpn = self.vpn.iter().map(PathBuf::as_path);
        let wireguard = self.wireguard.iter().map(PathBuf::as_path);
        vpn.chain(openconnect).chain(wireguard)
    }

    /// How many of them, the first, have a daemon that learns from its server what the device gets.
    pub fn daemons(&self) -> usize {
        self.vpn.len() + usize::from(self.openconnect.is_some())
    }
}
