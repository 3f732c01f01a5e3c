//! What the table inside a namespace depends on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::uplinks::is_own_group;
use super::veth::Veth;
use crate::kernel::netlink::Netlink;
use runns_shared::error::Result;
use runns_shared::exceptions::HostAccess;
use runns_shared::plan::{Plan, Resolver};

/// What the table depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The veth pair, if there is one.
    pub veth: Option<Veth>,
    /// The host's IPv4 addresses that programs inside connect to through the veth.
    pub host: Vec<Ipv4Addr>,
    /// The IPv6 addresses.
    pub host_v6: Vec<Ipv6Addr>,
    /// The resolver's addresses, if DNS is locked to them.
    pub locked: Option<Vec<IpAddr>>,
}

/// The facts for a plan that has this resolver now.
pub fn gather(host: &Netlink, plan: &Plan, resolver: Option<&Resolver>) -> Result<Facts> {
    let veth = Veth::of(plan)?;
    let addresses = veth
        .as_ref()
        .filter(|veth| veth.has_tunnel)
        .map(|veth| addresses_of_host(host, veth));
    let (host, host_v6) = addresses.transpose()?.unwrap_or_default();
    let locked = resolver
        .filter(|resolver| resolver.lock)
        .map(|resolver| resolver.servers.clone());
    Ok(Facts {
        veth,
        host,
        host_v6,
        locked,
    })
}

/// The addresses by which the host is reached from the namespace beside the tunnel: all that the
/// host has or, if only the resolver is reached, that of the resolver.
fn addresses_of_host(host: &Netlink, veth: &Veth) -> Result<(Vec<Ipv4Addr>, Vec<Ipv6Addr>)> {
    let groups: Vec<u32> = host
        .links()?
        .iter()
        .filter(|link| is_own_group(link.group))
        .map(|link| link.index)
        .collect();
    let all: Vec<Ipv4Addr> = host
        .addresses()?
        .into_iter()
        .filter(|(index, network)| !groups.contains(index) && !network.addr().is_loopback())
        .map(|(_, network)| network.addr())
        .chain([veth.subnet.host()])
        .collect();
    let reached = |address: &Ipv4Addr| {
        veth.access != HostAccess::No || veth.resolvers.contains(&IpAddr::V4(*address))
    };
    let mut reached: Vec<Ipv4Addr> = all.into_iter().filter(reached).collect();
    reached.sort_unstable();
    reached.dedup();
    let mut reached_v6 = Vec::new();
    if let Some(pair) = veth.ipv6.filter(|_| veth.access != HostAccess::No) {
        let is_other =
            |address: &Ipv6Addr| !address.is_loopback() && !address.is_unicast_link_local();
        let theirs = host
            .addresses_v6()?
            .into_iter()
            .filter(|(index, _)| !groups.contains(index));
        reached_v6.extend(
            theirs
                .map(|(_, address)| address)
                .filter(is_other)
                .chain([pair.host]),
        );
        reached_v6.sort_unstable();
        reached_v6.dedup();
    }
    Ok((reached, reached_v6))
}
