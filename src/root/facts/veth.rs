//! A namespace's veth pair, and what the section lets through it.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::ipv6::{Pair, is_there};
use runns_shared::error::Result;
use runns_shared::exceptions::{HostAccess, Port, Published};
use runns_shared::name::IfaceName;
use runns_shared::plan::{FROM_TUNNEL, Plan};
use runns_shared::subnet::{Number, Subnet};

/// The name of the end inside.
pub const INSIDE: &str = "eth0";

/// A veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// The end on the host.
    pub interface: IfaceName,
    /// The number of the namespace.
    pub number: Number,
    /// Its IPv4 subnet.
    pub subnet: Subnet,
    /// Its IPv6 addresses, if it has any.
    pub ipv6: Option<Pair>,
    /// The uplink that the namespace is bound to.
    pub uplink: Option<IfaceName>,
    /// Ports of the host that are forwarded into the namespace.
    pub published: Vec<Published>,
    /// The servers of the host that programs inside can connect to.
    pub access: HostAccess,
    /// They can because the section says so, not by default.
    pub asks: bool,
    /// Networks that are reached through the veth although there is a tunnel.
    pub bypassed: Vec<IpNet>,
    /// Name servers of the administrator's choice, which are always reached.
    pub resolvers: Vec<IpAddr>,
    /// The namespace has a tunnel.
    pub has_tunnel: bool,
    /// Whatever is not named here goes through the tunnel or nowhere.
    pub killed: bool,
    /// It is not so, but names are asked of `resolvers` alone or, if there are none, through the
    /// tunnel.
    pub locked: bool,
    /// Sockets that are bound to the veth ask for no names.
    pub quiet: bool,
}

impl Veth {
    /// That of a plan on this host; `None` if it has none.
    pub fn of(plan: &Plan) -> Result<Option<Self>> {
        Self::on(plan, is_there()?)
    }

    /// The same on a host that has IPv6, or not.
    pub fn on(plan: &Plan, has_ipv6: bool) -> Result<Option<Self>> {
        let request = &plan.request;
        if !request.has_veth() {
            return Ok(None);
        }
        // With the kill switch, one of the host's would be a way out that nobody has named.
        let own = plan
            .resolver
            .as_ref()
            .filter(|resolver| resolver.from != FROM_TUNNEL && !request.kill_switch);
        let leaks = request.has_tunnel() && !request.kill_switch;
        let is_locked = plan.resolver.as_ref().is_some_and(|resolver| resolver.lock);
        Ok(Some(Self {
            interface: plan.interface.clone(),
            number: plan.number,
            subnet: plan.subnet(),
            ipv6: Pair::on(plan, has_ipv6)?,
            uplink: request.uplink.clone(),
            published: request.exceptions.published.clone(),
            access: request.exceptions.access(request.has_tunnel()),
            asks: request.exceptions.names_host(),
            bypassed: if request.has_tunnel() {
                request.exceptions.bypassed.clone()
            } else {
                Vec::new()
            },
            resolvers: own.map_or(Vec::new(), |resolver| resolver.servers.clone()),
            has_tunnel: request.has_tunnel(),
            killed: request.kill_switch,
            locked: is_locked && leaks,
            quiet: request.dns_lock != Some(false) && leaks,
        }))
    }

    /// The addresses of the veth pair of a family, the host's and that inside; `None` if it has
    /// none.
    pub fn ends(&self, is_v4: bool) -> Option<(IpAddr, IpAddr)> {
        if is_v4 {
            return Some((self.subnet.host().into(), self.subnet.inside().into()));
        }
        self.ipv6.map(|pair| (pair.host.into(), pair.inside.into()))
    }

    /// The ports of servers on loopback addresses of the host that programs inside can connect to.
    pub fn localhost(&self) -> &[Port] {
        self.access.localhost()
    }

    /// The IPv4 networks of [`Self::bypassed`].
    pub fn bypassed_v4(&self) -> impl Iterator<Item = Ipv4Net> {
        self.bypassed.iter().filter_map(|network| match network {
            IpNet::V4(network) => Some(*network),
            IpNet::V6(_) => None,
        })
    }

    /// The IPv6 networks of [`Self::bypassed`].
    pub fn bypassed_v6(&self) -> impl Iterator<Item = Ipv6Net> {
        self.bypassed.iter().filter_map(|network| match network {
            IpNet::V4(_) => None,
            IpNet::V6(network) => Some(*network),
        })
    }

    /// The ports inside that are published by IPv4.
    pub fn ports_v4(&self) -> impl Iterator<Item = Port> {
        self.published
            .iter()
            .filter(|port| port.has_ipv4())
            .map(Published::port_inside)
    }

    /// The published ports that are reached by IPv6.
    pub fn published_v6(&self) -> impl Iterator<Item = &Published> {
        self.published
            .iter()
            .filter(|port| self.ipv6.is_some() && port.has_ipv6())
    }
}
