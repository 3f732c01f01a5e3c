//! Routes inside that lead past the tunnel, and what makes a reply take them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use crate::facts;
use crate::facts::exceptions::WHAT;
use crate::facts::inside::Facts;
use crate::facts::ipv6::Pair;
use crate::facts::veth::{INSIDE, Veth};
use crate::finding::Finding;
use crate::kernel::netlink::{
    AddressFamily, Netlink, Network, NetworkV6, Packets, Route, in_namespace,
};
use crate::kernel::sysctl::{set_sysctl, sysctl};
use crate::part::Site;
use crate::seen::Subject;
use crate::table::inside::{MARK, udp_ports};
use runns_shared::error::Result;
use runns_shared::neighbours::{Protocol, Subnet};

/// The table for replies to what came in by the veth, and the one that precedes all routes of
/// tunnels.
const ANSWERS: u32 = 17_251_000;
const BESIDE: u32 = 17_251_001;
/// The one in which queries find no route.
const NAMES: u32 = 17_251_002;
/// Of the rules that lead to them: ahead of those for OpenVPN's own packets, which have 1000 and
/// more.
const PRIORITY: u32 = 900;
/// Of those that are asked last, behind the main and the default table (ip-rule(8)).
const PRIORITY_AFTER_ALL: u32 = 32_768;
const EVERYWHERE: Network = Network {
    address: Ipv4Addr::UNSPECIFIED,
    prefix: 0,
};
const EVERYWHERE_V6: NetworkV6 = (Ipv6Addr::UNSPECIFIED, 0);
const MARKED: Packets = Packets::Marked {
    mark: MARK,
    mask: u32::MAX,
};

/// Whether anything leads past the tunnel, or in.
fn leads(facts: &Facts) -> Option<&Veth> {
    facts
        .veth
        .as_ref()
        .filter(|veth| veth.has_tunnel || !veth.published.is_empty())
}

/// Sets what replies need, in the calling thread's network namespace, where the veth is.
pub fn prepare(site: &Site) -> Result<()> {
    let Some(way) = Veth::of(site.plan())? else {
        return Ok(());
    };
    sysctls(&way)
        .iter()
        .try_for_each(|(name, value)| set_sysctl(name, value))
}

/// Sets up the routes inside. The device is up by now.
pub fn route(site: &Site, inside: &Netlink, index: u32) -> Result<()> {
    let facts = facts::inside::gather(&site.host, site.plan(), None)?;
    let Some(way) = leads(&facts) else {
        return Ok(());
    };
    let hop = (index, Some(way.subnet.host()));
    if let Some(pair) = &way.ipv6 {
        route_v6(inside, index, way, pair, &facts.host_v6)?;
    }
    if !way.published.is_empty() {
        inside.add_route(EVERYWHERE, ANSWERS, Some(hop))?;
        inside.add_rule(&MARKED, ANSWERS, PRIORITY)?;
    }
    if way.killed {
        // Without a default route, a socket that has no connection is refused before the table
        // inside sees its packet.
        for port in udp_ports(way.published.iter()) {
            inside.add_rule(&Packets::Udp(port), ANSWERS, PRIORITY_AFTER_ALL)?;
        }
    }
    if !way.has_tunnel {
        return Ok(());
    }
    if way.quiet {
        inside.add_route(EVERYWHERE, NAMES, None)?;
        queries()
            .iter()
            .try_for_each(|packets| inside.add_rule(packets, NAMES, PRIORITY - 1))?;
    }
    let wanted = beside_v4(way, &facts.host);
    // To an address that was the host's, for one.
    let is_stale = |route: &&Route| route.table == BESIDE && !wanted.contains(&route.network);
    inside
        .routes()?
        .iter()
        .filter(is_stale)
        .try_for_each(|route| inside.delete_route(route))?;
    for network in way.bypassed_v4() {
        // Should the device go, the tunnel does not get it.
        inside.add_route(network, BESIDE, None)?;
    }
    for network in wanted {
        let is_own = network == network_of(way.subnet);
        inside.add_route(
            network,
            BESIDE,
            Some(if is_own { (index, None) } else { hop }),
        )?;
    }
    inside.add_rule(&Packets::All, BESIDE, PRIORITY + 1)
}

/// The networks beside the tunnel. Its server must not choose who is behind the address of the
/// gateway, so the veth's own is one of them.
fn beside_v4(way: &Veth, host: &[Ipv4Addr]) -> Vec<Network> {
    let others = host.iter().filter(|address| **address != way.subnet.host());
    let host = others.map(|address| Network {
        address: *address,
        prefix: 32,
    });
    way.bypassed_v4()
        .chain(host)
        .chain([network_of(way.subnet)])
        .collect()
}

/// The same for IPv6.
fn beside_v6(way: &Veth, pair: &Pair, host: &[Ipv6Addr]) -> Vec<NetworkV6> {
    let host = host
        .iter()
        .filter(|address| **address != pair.host)
        .map(|address| (*address, 128));
    way.bypassed_v6()
        .chain(host)
        .chain([pair.network()])
        .collect()
}

/// Queries by sockets that are bound to the veth, for which the routes of the tunnel do not count.
fn queries() -> [Packets<'static>; 2] {
    [Protocol::Udp, Protocol::Tcp].map(|protocol| Packets::Bound {
        device: INSIDE,
        protocol,
        port: 53,
    })
}

/// The same for IPv6.
fn route_v6(
    inside: &Netlink,
    index: u32,
    way: &Veth,
    pair: &Pair,
    host: &[Ipv6Addr],
) -> Result<()> {
    let hop = (index, Some(pair.host));
    let add_rule = |packets: &Packets, table, priority| {
        inside.add_rule_of(AddressFamily::Inet6, packets, table, priority)
    };
    if way.published_v6().next().is_some() {
        inside.add_route_v6(EVERYWHERE_V6, ANSWERS, Some(hop))?;
        add_rule(&MARKED, ANSWERS, PRIORITY)?;
        for port in udp_ports(way.published_v6()) {
            add_rule(&Packets::Udp(port), ANSWERS, PRIORITY_AFTER_ALL)?;
        }
    }
    if !way.has_tunnel {
        return Ok(());
    }
    if way.quiet {
        inside.add_route_v6(EVERYWHERE_V6, NAMES, None)?;
        queries()
            .iter()
            .try_for_each(|packets| add_rule(packets, NAMES, PRIORITY - 1))?;
    }
    let wanted = beside_v6(way, pair, host);
    let is_stale =
        |(network, table): &&(NetworkV6, u32)| *table == BESIDE && !wanted.contains(network);
    let delete = |(network, table): &(NetworkV6, u32)| inside.delete_route_v6(*network, *table);
    inside
        .routes_v6()?
        .iter()
        .filter(is_stale)
        .try_for_each(delete)?;
    for network in way.bypassed_v6() {
        inside.add_route_v6(network, BESIDE, None)?;
    }
    for network in wanted {
        let is_own = network == pair.network();
        inside.add_route_v6(
            network,
            BESIDE,
            Some(if is_own { (index, None) } else { hop }),
        )?;
    }
    add_rule(&Packets::All, BESIDE, PRIORITY + 1)
}

/// Whether all that [`route_v6`] makes is there, and nothing else.
fn is_routed_v6(inside: &Netlink, way: &Veth, pair: &Pair, host: &[Ipv6Addr]) -> Result<bool> {
    let routes = inside.routes_v6()?;
    let mut rules = Vec::new();
    if way.published_v6().next().is_some() {
        if !routes.contains(&(EVERYWHERE_V6, ANSWERS)) {
            return Ok(false);
        }
        rules.push(MARKED);
        rules.extend(udp_ports(way.published_v6()).map(Packets::Udp));
    }
    if way.has_tunnel {
        rules.push(Packets::All);
        rules.extend(queries().into_iter().filter(|_| way.quiet));
    }
    let beside: Vec<NetworkV6> = routes
        .iter()
        .filter(|(_, table)| *table == BESIDE)
        .map(|(network, _)| *network)
        .collect();
    let wanted = beside_v6(way, pair, host);
    let is_right = beside.iter().all(|network| wanted.contains(network));
    let is_right =
        is_right && (!way.has_tunnel || wanted.iter().all(|network| beside.contains(network)));
    Ok(is_right && has_rules(inside, AddressFamily::Inet6, &rules)?)
}

fn has_rules(inside: &Netlink, family: AddressFamily, rules: &[Packets]) -> Result<bool> {
    for packets in rules {
        if !inside.has_rule_of(family, packets)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn network_of(subnet: Subnet) -> Network {
    Network {
        address: subnet.network,
        prefix: subnet.prefix,
    }
}

fn sysctls(way: &Veth) -> &'static [(&'static str, &'static str)] {
    // A server's socket is marked as the connection was that it accepted, and the way back is
    // looked up by the mark.
    const MARKED: [(&str, &str); 2] = [
        ("net/ipv4/tcp_fwmark_accept", "1"),
        ("net/ipv4/conf/eth0/src_valid_mark", "1"),
    ];
    if way.published.is_empty() {
        &[]
    } else {
        &MARKED
    }
}

/// What is wrong with routes and settings, which belong to the veth and are repaired with it.
pub fn look_inside(subject: &Subject) -> Result<Vec<Finding>> {
    let facts = facts::inside::gather(subject.seen.netlink()?, &subject.record.plan, None)?;
    let mut found = Vec::new();
    let Some(way) = leads(&facts) else {
        return Ok(found);
    };
    let Some(deep) = subject.deep()? else {
        return Ok(found);
    };
    let mut routed_v6 = true;
    let mut rules = Vec::new();
    if !way.published.is_empty() {
        rules.push(MARKED);
        rules.extend(
            udp_ports(way.published.iter())
                .filter(|_| way.killed)
                .map(Packets::Udp),
        );
    }
    if way.has_tunnel {
        rules.push(Packets::All);
        rules.extend(queries().into_iter().filter(|_| way.quiet));
    }
    let (set, routes, ruled) = in_namespace(deep.file.as_fd(), || {
        let is_set = |(name, value): &(&str, &str)| {
            sysctl(name).is_ok_and(|now| now.as_deref() == Some(*value))
        };
        let inside = Netlink::here()?;
        let ruled = has_rules(&inside, AddressFamily::Inet, &rules)?;
        if let Some(pair) = &way.ipv6 {
            routed_v6 = is_routed_v6(&inside, way, pair, &facts.host_v6)?;
        }
        Ok((sysctls(way).iter().all(is_set), inside.routes()?, ruled))
    })?;
    if !set {
        found.push(Finding::degraded(WHAT, "settings inside have changed"));
    }
    let in_table = |table: u32| {
        let routes = routes
            .iter()
            .filter(move |route| route.table == table && route.unicast);
        routes.map(|route| route.network).collect::<Vec<_>>()
    };
    let (beside, answers) = (in_table(BESIDE), in_table(ANSWERS));
    let wanted = if way.has_tunnel {
        beside_v4(way, &facts.host)
    } else {
        Vec::new()
    };
    let same = wanted.iter().all(|network| beside.contains(network))
        && beside.iter().all(|one| wanted.contains(one));
    let answered = way.published.is_empty() || answers.contains(&EVERYWHERE);
    if !same || !answered || !ruled || !routed_v6 {
        found.push(Finding::degraded(
            WHAT,
            "the routes inside are not as built, or for addresses that the host had",
        ));
    }
    Ok(found)
}
