//! InterfaceOut: packets that arrive on the veth leave through one uplink or not at all, whatever the host's own routes
//! are. They are marked when they arrive, by a filter on the device itself, which no flush of a firewall removes. A
//! routing rule that precedes all others looks up what is marked in a table of our own, with a default route through
//! the uplink and an unreachable route of a higher metric. When the link goes down, the kernel removes the former; the
//! latter stays.
//!
//! Mark, rule and table belong to the uplink, not to the namespace: a packet meets as many rules as there are uplinks.

use std::net::{Ipv4Addr, UdpSocket};

use super::{Finding, Part, Site, probe::FAR, ways};
use crate::host::{HostState, set_sysctl, sysctl};
use crate::lock::Lock;
use crate::netlink::{Link, Netlink, Network, OWN_TABLES, Packets, Route};
use crate::seen::Seen;
use crate::seen::Subject;
use runns_shared::error::{Error, Result};
use runns_shared::name::IfaceName;
use runns_shared::output::{step, warn};
use runns_shared::plan::Plan;
use runns_shared::record::Record;

/// Group (`ip link set group`) of the veths whose traffic leaves as the host routes it; that of uplink N is N more.
const GROUPS: u32 = 0x7275_6e00;
/// What all our groups have in common, as `-m devgroup` takes it (iptables-extensions(8)).
pub const ANY_GROUP: &str = "0x72756e00/0xffffff00";
/// The mark of uplink N is N more in the highest byte, which is ours alone.
const MARKS: u8 = 0x80;
const MARK_MASK: u32 = 0xff00_0000;
/// The mark of what is to be masqueraded, with its mask.
pub const MASQUERADED: &str = "0x80000000/0xff000000";
/// The table of uplink N is N more.
const TABLES: u32 = 17_250_000;
/// Uplinks that can be told apart.
const MOST: u8 = 0x7d;
/// Up to version 0.1.0 each namespace had a table: that of the subnet with number X was X more.
const OLD_TABLES: u32 = 17_240_000;
/// What is said of a namespace that such a version built. It works, but its rules are its own.
pub const AS_BEFORE: &str = "built by an earlier version of runns-exec";
/// Precedes every rule except the one for local addresses, which has priority 0 (ip-rule(8)).
const PRIORITY: u32 = 1;
const EVERYWHERE: Network = Network { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };

/// The part.
pub struct Uplink;

/// An uplink that namespaces are bound to, by the number under which the host's tables have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(u8);

impl Bound {
    /// The number of `uplink`; `None` if no namespace is bound to it yet.
    pub fn to(uplink: &IfaceName) -> Result<Option<Self>> {
        Ok(HostState::load()?.uplinks.get(uplink.as_str()).copied().map(Self))
    }

    /// The number of `uplink`, a new one if it has none.
    pub fn reserve(lock: &Lock, uplink: &IfaceName) -> Result<Self> {
        let host = HostState::load()?;
        if let Some(number) = host.uplinks.get(uplink.as_str()) {
            return Ok(Self(*number));
        }
        let free = (1..=MOST).find(|number| !host.uplinks.values().any(|taken| taken == number));
        let number = free.ok_or_else(|| Error::new(format!("use uplink {uplink}"), "too many uplinks are in use"))?;
        HostState::update(lock, |host| {
            host.uplinks.insert(uplink.to_string(), number);
        })?;
        Ok(Self(number))
    }

    /// All uplinks that namespaces are bound to, each with its number.
    pub fn all() -> Result<Vec<(String, Self)>> {
        Ok(HostState::load()?.uplinks.into_iter().map(|(uplink, number)| (uplink, Self(number))).collect())
    }

    /// The uplink whose veths are in this group.
    pub fn uplink_of(group: u32) -> Result<Option<IfaceName>> {
        let bound = Self::all()?.into_iter().find(|(_, bound)| bound.group() == group);
        bound.map(|(uplink, _)| IfaceName::new(uplink)).transpose()
    }

    /// The group of its veths.
    pub fn group(self) -> u32 {
        GROUPS + u32::from(self.0)
    }

    /// The mark of the packets that arrive on them.
    pub fn mark(self) -> u32 {
        u32::from(MARKS + self.0) << 24
    }

    /// The table in which they are looked up.
    pub fn table(self) -> u32 {
        TABLES + u32::from(self.0)
    }

    fn packets(self) -> Packets<'static> {
        Packets::Marked { mark: self.mark(), mask: MARK_MASK }
    }
}

/// The group of a veth whose traffic leaves as the host routes it.
pub const UNBOUND_GROUP: u32 = GROUPS;

/// Whether a device is in one of our groups.
pub fn is_own_group(group: u32) -> bool {
    group & 0xffff_ff00 == GROUPS
}

impl Part for Uplink {
    fn describe(&self, plan: &Plan) -> Option<String> {
        plan.request.uplink.as_ref().map(|uplink| format!("uplink {uplink} and no other"))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let Some(uplink) = site.plan().request.uplink.clone() else { return Ok(()) };
        let bound = Bound::reserve(site.lock, &uplink)?;
        // The unreachable route comes first, so that an interrupted build fails closed.
        site.host.add_route(EVERYWHERE, bound.table(), None)?;
        site.host.add_rule(&bound.packets(), bound.table(), PRIORITY)?;
        set_routes(&site.host, bound.table(), &uplink)?;
        // Answers to what comes in by it leave by it, of other namespaces as well.
        ways::follow(site, true)?;
        loosen_reverse_path_filter(site, &uplink)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let rules = site.host.delete_rules(&Packets::From(&site.plan().request.interface))?;
        let routes = remove_old(site)?;
        let forgotten = forget_unused(site, None)?;
        ways::follow(site, false)?;
        Ok(forgotten | (rules + routes > 0))
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let Some(uplink) = &subject.record.plan.request.uplink else { return Ok(Vec::new()) };
        if Bound::to(uplink)?.is_none()
            && subject.seen.netlink()?.has_rule(&Packets::From(&subject.record.plan.request.interface))?
        {
            return Ok(vec![Finding::degraded(format!("uplink {uplink}"), AS_BEFORE)]);
        }
        // The same for all namespaces that are bound to it.
        subject.seen.once(&format!("uplink {uplink}"), || look(subject.seen, uplink))
    }

    fn mend(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        self.apply(site)?;
        let uplink = site.plan().request.uplink.as_ref();
        uplink.map_or(Ok(()), |uplink| set_sysctl(&forwarding(uplink.as_str()), "1"))
    }
}

/// Binds the veth with this index to the namespace's uplink: its group, and the mark of what arrives on it.
pub fn bind(site: &Site, index: u32) -> Result<()> {
    let request = &site.plan().request;
    let Some(bound) = request.uplink.as_ref().map(Bound::to).transpose()?.flatten() else {
        return site.host.set_group(index, UNBOUND_GROUP);
    };
    let by_interface = Packets::From(&request.interface);
    if let Err(error) = site.host.mark_arriving(index, bound.mark()) {
        // Kernels without the filter (CONFIG_NET_CLS_BPF): a rule for each such interface.
        step(|| format!("using a routing rule for {} alone: {error}", request.interface));
        site.host.delete_rules(&by_interface)?;
        site.host.add_rule(&by_interface, bound.table(), PRIORITY)?;
    } else {
        site.host.delete_rules(&by_interface)?;
    }
    site.host.set_group(index, bound.group())
}

/// Removes what stands for uplinks that no namespace is bound to any more; returns whether there were any. Of this
/// namespace, only `kept` counts.
pub fn forget_unused(site: &Site, kept: Option<&IfaceName>) -> Result<bool> {
    let others = Record::all()?;
    let is_used = |uplink: &str| {
        kept.is_some_and(|kept| kept.as_str() == uplink)
            || others.iter().map(|record| &record.plan.request).any(|request| {
                request.name != site.plan().request.name
                    && request.uplink.as_ref().is_some_and(|name| name.as_str() == uplink)
            })
    };
    let host = HostState::load()?;
    let mut removed = false;
    for (uplink, number) in host.uplinks.iter().filter(|(uplink, _)| !is_used(uplink)) {
        let bound = Bound(*number);
        site.host.delete_rules(&bound.packets())?;
        delete_table(&site.host, bound.table())?;
        HostState::update(site.lock, |host| {
            host.uplinks.remove(uplink);
        })?;
        removed = true;
    }
    for (uplink, value) in host.rp_filter.iter().filter(|(uplink, _)| !is_used(uplink)) {
        if sysctl(&rp_filter(uplink))?.is_some() {
            set_sysctl(&rp_filter(uplink), value)?;
        }
        HostState::update(site.lock, |host| {
            host.rp_filter.remove(uplink);
        })?;
    }
    Ok(removed)
}

/// Empties the table of this namespace alone, which builds up to version 0.1.0 made; returns how many routes it had.
pub fn remove_old(site: &Site) -> Result<usize> {
    delete_table(&site.host, OLD_TABLES + u32::from(site.plan().number.get()))
}

fn delete_table(host: &Netlink, table: u32) -> Result<usize> {
    let routes: Vec<Route> = host.routes()?.into_iter().filter(|route| route.table == table).collect();
    for route in &routes {
        host.delete_route(route)?;
    }
    Ok(routes.len())
}

/// A destination and its next hop.
type Hop = (Network, (u32, Option<Ipv4Addr>));

/// The routes, beside the unreachable one, by which traffic is to leave through `uplink`: everywhere by its gateway or,
/// if it has none, to its own subnets.
fn wanted_routes(addresses: &[(u32, Network)], routes: &[Route], link: &Link) -> Vec<Hop> {
    if let Some(hop) = default_hop(routes, link.index) {
        return vec![(EVERYWHERE, hop)];
    }
    let own = addresses.iter().filter(|(index, _)| *index == link.index);
    own.map(|(_, subnet)| (masked(*subnet), (link.index, None))).collect()
}

/// Has `table` contain the routes of `uplink`. Those that are right already are not touched: other namespaces use them.
fn set_routes(host: &Netlink, table: u32, uplink: &IfaceName) -> Result<()> {
    let routes = host.routes()?;
    let wanted = wanted_routes(&host.addresses()?, &routes, &host.need_link(uplink.as_str())?);
    if !wanted.iter().any(|(network, _)| network.prefix == 0) {
        warn(&format!("{uplink} has no gateway: only its own subnets ({}) are reachable", wanted.len()));
    }
    let in_table = routes.iter().filter(|route| route.table == table && route.unicast);
    let (right, wrong): (Vec<&Route>, Vec<&Route>) = in_table.partition(|route| is_wanted(route, &wanted));
    for (network, hop) in wanted.iter().filter(|hop| !right.iter().any(|route| is_wanted(route, &[**hop]))) {
        host.add_route(*network, table, Some(*hop))?;
    }
    // One to the same network has been replaced by the new one.
    for route in wrong.iter().filter(|route| !wanted.iter().any(|(network, _)| *network == route.network)) {
        host.delete_route(route)?;
    }
    Ok(())
}

fn is_wanted(route: &Route, wanted: &[Hop]) -> bool {
    wanted.iter().any(|(network, hop)| *network == route.network && route.hops == [*hop])
}

/// Whether traffic of the namespace has a way out of the host: `None` if it has none, `Some(None)` if it goes everywhere,
/// else an address in the only network that it reaches.
pub fn reachable(site: &Site) -> Result<Option<Option<Ipv4Addr>>> {
    let Some(uplink) = &site.plan().request.uplink else {
        // Connecting a datagram socket looks the route up and sends nothing (udp(7)).
        let connected = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect((FAR, 9)));
        return Ok(connected.is_ok().then_some(None));
    };
    let routes = site.host.routes()?;
    let link = site.host.need_link(uplink.as_str())?;
    if !link.up {
        return Ok(None);
    }
    if default_hop(&routes, link.index).is_some() {
        return Ok(Some(None));
    }
    let own = site.host.addresses()?.into_iter().find(|(index, _)| *index == link.index).map(|(_, subnet)| subnet);
    // Its first or second address: whichever is not the host's own.
    let neighbour = own.filter(|subnet| subnet.prefix <= 30).map(|subnet| {
        let first = masked(subnet).address.to_bits() + 1;
        Ipv4Addr::from_bits(if first == subnet.address.to_bits() { first + 1 } else { first })
    });
    Ok(neighbour.map(Some))
}

/// Whether what a namespace sends to the Internet has a way out of the host.
pub fn has_way(subject: &Subject) -> Result<bool> {
    let bound = match &subject.record.plan.request.uplink {
        Some(uplink) => match Bound::to(uplink)? {
            Some(bound) => Some(bound.table()),
            None => return Ok(false),
        },
        None => None,
    };
    let leads_out = |route: &Route| {
        let is_its = bound.map_or(!OWN_TABLES.contains(&route.table), |table| route.table == table);
        route.unicast && route.network.prefix <= 1 && is_its
    };
    Ok(subject.seen.routes()?.iter().any(leads_out))
}

/// The next hop of the host's best default route through device `index`. The two halves into which VPNs split a default
/// route count as default routes.
fn default_hop(routes: &[Route], index: u32) -> Option<(u32, Option<Ipv4Addr>)> {
    routes
        .iter()
        .filter(|route| route.unicast && route.network.prefix <= 1 && !OWN_TABLES.contains(&route.table))
        .filter_map(|route| Some((route.metric, *route.hops.iter().find(|(hop, _)| *hop == index)?)))
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, hop)| hop)
}

fn masked(network: Network) -> Network {
    let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix.min(32))).unwrap_or(0);
    Network { address: Ipv4Addr::from_bits(network.address.to_bits() & mask), ..network }
}

/// Makes the reverse path filter of `uplink` loose if it is strict. Replies arrive on the uplink although the host's
/// own route to their sender may use another one; a strict filter (RFC 3704) drops them, a loose one does not.
fn loosen_reverse_path_filter(site: &mut Site, uplink: &IfaceName) -> Result<()> {
    let name = rp_filter(uplink.as_str());
    if !filters_strictly(uplink)? {
        return Ok(());
    }
    let now = sysctl(&name)?.unwrap_or_default();
    HostState::update(site.lock, |host| {
        host.rp_filter.entry(uplink.to_string()).or_insert_with(|| now.clone());
    })?;
    set_sysctl(&name, "2")?;
    site.before.sysctls.push((name, now));
    Ok(())
}

fn rp_filter(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/rp_filter")
}

/// The greater of the device's value and that of all counts (ip-sysctl.rst).
fn filters_strictly(uplink: &IfaceName) -> Result<bool> {
    let now = sysctl(&rp_filter(uplink.as_str()))?.unwrap_or_default();
    Ok(now.max(sysctl(&rp_filter("all"))?.unwrap_or_default()) == "1")
}

fn forwarding(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/forwarding")
}

fn look(seen: &Seen, uplink: &IfaceName) -> Result<Vec<Finding>> {
    let what = format!("uplink {uplink}");
    let mut found = Vec::new();
    let Some(bound) = Bound::to(uplink)? else {
        return Ok(vec![Finding::down(what, "the host's tables have nothing for it")]);
    };
    let routes = seen.routes()?;
    let in_table: Vec<&Route> = routes.iter().filter(|route| route.table == bound.table()).collect();
    if !in_table.iter().any(|route| !route.unicast && route.network == EVERYWHERE) {
        found.push(Finding::degraded(&what, "the route that keeps traffic from other uplinks is gone"));
    }
    if !seen.netlink()?.has_rule(&bound.packets())? {
        found.push(Finding::down(&what, "its routing rule is gone"));
    }
    let Some(link) = seen.link(uplink.as_str())? else {
        found.push(Finding::down(&what, "there is no such interface").cure(format!(
            "when {uplink} is back, build again; or move the namespace: sudo runns-exec clean NAME -r IFACE"
        )));
        return Ok(found);
    };
    let wanted = wanted_routes(seen.addresses()?, routes, link);
    let has = |hop: &Hop| in_table.iter().any(|route| route.unicast && is_wanted(route, std::slice::from_ref(hop)));
    if !link.up {
        found.push(Finding::down(&what, "down").cure(format!("sudo ip link set {uplink} up, then build again")));
    } else if wanted.is_empty() {
        found.push(Finding::down(&what, "no address and no route").cure("configure it, then build again".to_string()));
    } else if !wanted.iter().all(has) || in_table.iter().any(|route| route.unicast && !is_wanted(route, &wanted)) {
        found.push(Finding::down(&what, "its routes are not those of the host"));
    }
    if filters_strictly(uplink)? {
        found.push(Finding::degraded(&what, "rp_filter is strict and may drop replies"));
    }
    if !seen.has_sysctl(&forwarding(uplink.as_str()), "1")? {
        found.push(Finding::down(&what, "it does not forward"));
    }
    Ok(found)
}
