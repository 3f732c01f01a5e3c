//! Routes inside that lead past the tunnel, and what makes a reply take them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;

use crate::facts;
use crate::facts::exceptions::WHAT;
use crate::facts::inside::Facts;
use crate::facts::ipv6::is_there;
use crate::facts::veth::{INSIDE, Veth};
use crate::finding::Finding;
use crate::kernel::netlink::{
    AddressFamily, EVERYWHERE, EVERYWHERE_V6, Netlink, Packets, Route, in_namespace,
};
use crate::kernel::sysctl::{set_sysctl, sysctl};
use crate::part::Site;
use crate::seen::Subject;
use crate::table::inside::{MARK, udp_ports};
use runns_shared::error::Result;
use runns_shared::exceptions::{Port, Protocol};
use runns_shared::plan::Plan;

/// The table for replies to what came in by the veth, and the one that precedes all routes of
/// tunnels.
const ANSWERS: u32 = 17_251_000;
const BESIDE: u32 = 17_251_001;
/// The one in which queries find no route.
const NAMES: u32 = 17_251_002;
/// The one that leads replies of servers on 127.0.0.1 to lo. Any other device would refuse their
/// source address (ip_route_output_key_hash_rcu, net/ipv4/route.c), before the table inside can give
/// them the address of the veth.
const LOOPBACK: u32 = 17_251_003;
/// The index of lo (LOOPBACK_IFINDEX, include/net/flow.h).
const LO: u32 = 1;
/// Of the rules that lead to them: ahead of those for OpenVPN's own packets, which have 1000 and
/// more.
const PRIORITY: u32 = 900;
/// Of those that are asked last, behind the main and the default table (ip-rule(8)).
const PRIORITY_AFTER_ALL: u32 = 32_768;
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
    let Some(veth) = Veth::of(site.plan())? else {
        return Ok(());
    };
    sysctls(&veth)
        .iter()
        .try_for_each(|(name, value)| set_sysctl(name, value))
}

/// What leads past the tunnel by one family.
struct Family {
    family: AddressFamily,
    everywhere: IpNet,
    gateway: IpAddr,
    /// The subnet of the veth pair. The tunnel's server must not choose who is behind the address
    /// of the gateway.
    own: IpNet,
    bypassed: Vec<IpNet>,
    /// The host's other addresses.
    host: Vec<IpNet>,
    /// Whether ports are published.
    publishes: bool,
    /// The UDP ports inside whose sockets need a route of last resort: without a default route, one
    /// that has no connection is refused before the table inside sees its packet.
    udp: Vec<u16>,
    /// The ports inside that a server on 127.0.0.1 may have.
    loopback: BTreeSet<Port>,
}

impl Family {
    /// Those that the veth has.
    fn all(veth: &Veth, facts: &Facts) -> Vec<Self> {
        let gateway = veth.subnet.host();
        let others = facts.host.iter().filter(|address| **address != gateway);
        let v4 = Self {
            family: AddressFamily::Inet,
            everywhere: EVERYWHERE.into(),
            gateway: gateway.into(),
            own: veth.subnet.network().into(),
            bypassed: veth.bypassed_v4().map(IpNet::V4).collect(),
            host: others.map(|address| IpAddr::V4(*address).into()).collect(),
            publishes: !veth.published.is_empty(),
            udp: udp_ports(veth.published.iter())
                .filter(|_| veth.killed)
                .collect(),
            loopback: veth.ports_v4().collect(),
        };
        let v6 = veth.ipv6.map(|pair| {
            let others = facts
                .host_v6
                .iter()
                .filter(|address| **address != pair.host);
            Self {
                family: AddressFamily::Inet6,
                everywhere: EVERYWHERE_V6.into(),
                gateway: pair.host.into(),
                own: pair.network().into(),
                bypassed: veth.bypassed_v6().map(IpNet::V6).collect(),
                host: others.map(|address| IpAddr::V6(*address).into()).collect(),
                publishes: veth.published_v6().next().is_some(),
                udp: udp_ports(veth.published_v6()).collect(),
                loopback: BTreeSet::new(),
            }
        });
        [v4].into_iter().chain(v6).collect()
    }

    /// The networks beside the tunnel.
    fn beside(&self) -> Vec<IpNet> {
        let networks = self.bypassed.iter().chain(&self.host);
        networks.chain([&self.own]).copied().collect()
    }

    /// The rules by which packets find the routes, each with its table and priority.
    fn rules(&self, veth: &Veth) -> Vec<(Packets<'static>, u32, u32)> {
        let mut rules = Vec::new();
        if self.publishes {
            rules.push((MARKED, ANSWERS, PRIORITY));
            let after_all = |port: &u16| (Packets::Udp(*port), ANSWERS, PRIORITY_AFTER_ALL);
            rules.extend(self.udp.iter().map(after_all));
            let to_lo = |port: &Port| (Packets::Loopback(*port), LOOPBACK, PRIORITY - 2);
            rules.extend(self.loopback.iter().map(to_lo));
        }
        if veth.has_tunnel {
            if veth.quiet {
                rules.extend(queries().map(|packets| (packets, NAMES, PRIORITY - 1)));
            }
            rules.push((Packets::All, BESIDE, PRIORITY + 1));
        }
        rules
    }

    /// Sets the routes up, and then the rules that lead to them.
    fn route(&self, veth: &Veth, inside: &Netlink, index: u32) -> Result<()> {
        let hop = Some((index, Some(self.gateway)));
        if self.publishes {
            inside.add_route(self.everywhere, ANSWERS, hop)?;
        }
        if !self.loopback.is_empty() {
            inside.add_route(self.everywhere, LOOPBACK, Some((LO, None)))?;
        }
        if veth.has_tunnel {
            if veth.quiet {
                inside.add_route(self.everywhere, NAMES, None)?;
            }
            let wanted = self.beside();
            // To an address that was the host's, for one.
            let is_stale =
                |route: &&Route| route.table == BESIDE && !wanted.contains(&route.network);
            inside
                .routes_of(self.family)?
                .iter()
                .filter(is_stale)
                .try_for_each(|route| inside.delete_route(route))?;
            for network in &self.bypassed {
                // Should the device go, the tunnel does not get it.
                inside.add_route(*network, BESIDE, None)?;
            }
            for network in wanted {
                let is_own = network == self.own;
                inside.add_route(
                    network,
                    BESIDE,
                    if is_own { Some((index, None)) } else { hop },
                )?;
            }
        }
        self.rules(veth)
            .iter()
            .try_for_each(|(packets, table, priority)| {
                inside.add_rule_of(self.family, packets, *table, *priority)
            })
    }

    /// Whether a route in one of these tables is one that [`Self::route`] sets up.
    fn has(&self, way: &Veth, route: &Route) -> bool {
        match route.table {
            ANSWERS => self.publishes,
            LOOPBACK => !self.loopback.is_empty(),
            NAMES => way.has_tunnel && way.quiet,
            _ => way.has_tunnel && self.beside().contains(&route.network),
        }
    }

    /// Whether all that [`Self::route`] sets up is there, and nothing else.
    fn is_routed(&self, veth: &Veth, inside: &Netlink) -> Result<bool> {
        let routes = inside.routes_of(self.family)?;
        let beside: Vec<IpNet> = routes
            .iter()
            .filter(|route| route.table == BESIDE && route.unicast)
            .map(|route| route.network)
            .collect();
        let wanted = if veth.has_tunnel {
            self.beside()
        } else {
            Vec::new()
        };
        let is_same = wanted.iter().all(|network| beside.contains(network))
            && beside.iter().all(|network| wanted.contains(network));
        let has = |table| {
            routes
                .iter()
                .any(|route| route.is_to(self.everywhere, table))
        };
        let leads_back =
            (!self.publishes || has(ANSWERS)) && (self.loopback.is_empty() || has(LOOPBACK));
        if !is_same || !leads_back {
            return Ok(false);
        }
        for (packets, ..) in self.rules(veth) {
            if !inside.has_rule_of(self.family, &packets)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Sets up the routes inside. The device is up by now.
pub fn route(site: &Site, inside: &Netlink, index: u32) -> Result<()> {
    let facts = facts::inside::gather(&site.host, site.plan(), None)?;
    let veth = leads(&facts);
    let families = veth.map_or(Vec::new(), |veth| Family::all(veth, &facts));
    for (family, veth) in families.iter().zip(veth.iter().cycle()) {
        family.route(veth, inside, index)?;
    }
    if site.record.earlier.is_empty() {
        return Ok(());
    }
    // Those of earlier plans.
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let own = families.iter().find(|own| own.family == family);
        remove_others(inside, family, own.zip(veth))?;
    }
    Ok(())
}

/// Takes the routes of last resort from published UDP ports, unless the kill switch is on: it is the
/// table of the kill switch alone that lets nothing but answers take them.
pub fn close(plan: &Plan, earlier: &[Plan], inside: &Netlink) -> Result<()> {
    if plan.request.kill_switch {
        return Ok(());
    }
    let published = earlier
        .iter()
        .flat_map(|plan| &plan.request.exceptions.published);
    udp_ports(published).try_for_each(|port| inside.delete_rules(&Packets::Udp(port)).map(drop))
}

/// Removes all of it, for a namespace whose veth is gone.
pub fn unroute(inside: &Netlink) -> Result<()> {
    [AddressFamily::Inet, AddressFamily::Inet6]
        .into_iter()
        .try_for_each(|family| remove_others(inside, family, None))
}

/// Removes our rules and routes of a family except those that it has now.
fn remove_others(
    inside: &Netlink,
    family: AddressFamily,
    now: Option<(&Family, &Veth)>,
) -> Result<()> {
    if family == AddressFamily::Inet6 && !is_there()? {
        return Ok(());
    }
    let rules = now.map_or(Vec::new(), |(own, veth)| own.rules(veth));
    let kept: Vec<Packets> = rules.into_iter().map(|(packets, ..)| packets).collect();
    inside.delete_other_rules(family, &kept)?;
    let is_kept = |route: &Route| now.is_some_and(|(own, veth)| own.has(veth, route));
    let is_stale = |route: &&Route| {
        [ANSWERS, BESIDE, NAMES, LOOPBACK].contains(&route.table) && !is_kept(route)
    };
    inside
        .routes_of(family)?
        .iter()
        .filter(is_stale)
        .try_for_each(|route| inside.delete_route(route))
}

/// Queries by sockets that are bound to the veth, for which the routes of the tunnel do not count.
fn queries() -> [Packets<'static>; 2] {
    [Protocol::Udp, Protocol::Tcp].map(|protocol| Packets::Bound {
        device: INSIDE,
        protocol,
        port: 53,
    })
}

fn sysctls(veth: &Veth) -> &'static [(&'static str, &'static str)] {
    // A server's socket is marked as the connection was that it accepted, and the way back is
    // looked up by the mark.
    const MARKED: [(&str, &str); 2] = [
        ("net/ipv4/tcp_fwmark_accept", "1"),
        ("net/ipv4/conf/eth0/src_valid_mark", "1"),
    ];
    if veth.published.is_empty() {
        &[]
    } else {
        &MARKED
    }
}

/// What is wrong with routes and settings, which belong to the veth and are repaired with it.
pub fn look_inside(subject: &Subject) -> Result<Vec<Finding>> {
    let facts = facts::inside::gather(subject.seen.netlink()?, &subject.record.plan, None)?;
    let mut found = Vec::new();
    let (Some(veth), Some(deep)) = (leads(&facts), subject.deep()?) else {
        return Ok(found);
    };
    let families = Family::all(veth, &facts);
    let (is_set, is_routed) = in_namespace(deep.file.as_fd(), || {
        let is_set = |(name, value): &(&str, &str)| {
            sysctl(name).is_ok_and(|now| now.as_deref() == Some(*value))
        };
        let inside = Netlink::here()?;
        let mut is_routed = true;
        for family in &families {
            is_routed = is_routed && family.is_routed(veth, &inside)?;
        }
        Ok((sysctls(veth).iter().all(is_set), is_routed))
    })?;
    if !is_set {
        found.push(Finding::degraded(WHAT, "settings inside have changed"));
    }
    if !is_routed {
        found.push(Finding::degraded(
            WHAT,
            "the routes inside have changed, or are for addresses that the host no longer has",
        ));
    }
    Ok(found)
}
