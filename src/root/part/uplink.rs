//! InterfaceOut: packets that arrive on the veth leave through one uplink or not at all, whatever
//! the host's own routes are. They are marked when they arrive, by a filter on the device itself,
//! which no flush of a firewall removes. A routing rule that comes before those of others (see
//! [`crate::kernel::netlink::rules`]) looks up what is marked in a table of our own, with a default
//! route through the uplink and an unreachable route of a higher metric. When the link goes down,
//! the kernel removes the former; the latter stays.
//!
//! Mark, rule and table belong to the uplink, not to the namespace: a packet meets as many rules as
//! there are uplinks.

use ipnet::{IpNet, Ipv4Net};

use super::{Part, Site};
use crate::facts::ipv6::is_there;
use crate::facts::uplinks::{Bound, Senders, default_hop};
use crate::finding::Finding;
use crate::host::HostState;
use crate::kernel::netlink::rules::Place;
use crate::kernel::netlink::{
    AddressFamily, EVERYWHERE, EVERYWHERE_V6, Hop, Link, Netlink, Packets, Route,
};
use crate::kernel::sysctl::{LOOSE, filters_strictly, rp_filter, set_sysctl, sysctl};
use crate::seen::Seen;
use crate::seen::Subject;
use runns_shared::error::Result;
use runns_shared::name::IfaceName;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::Record;

/// The part.
pub struct Uplink;

impl Part for Uplink {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.uplink.is_some()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        plan.request
            .uplink
            .as_ref()
            .map(|uplink| format!("uplink: {uplink} only"))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let Some(uplink) = site.plan().request.uplink.clone() else {
            return Ok(());
        };
        let bound = Bound::reserve(site.lock, &uplink)?;
        // The unreachable route comes first, so that an interrupted build fails closed.
        site.host.add_route(EVERYWHERE, bound.table(), None)?;
        let plan = Some(site.plan());
        let senders = Senders::of(&site.host.links()?, &site.host.addresses()?, plan);
        let rule = bound.lead(AddressFamily::Inet, bound.packets(), &senders);
        site.host.lead(&rule)?;
        set_routes(&site.host, bound.table(), &uplink)?;
        close_ipv6(&site.host, bound, &senders)?;
        loosen_reverse_path_filter(site, &uplink)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let rules = site
            .host
            .delete_rules(&Packets::From(&site.plan().interface))?;
        Ok(forget_unused(site, None)? | (rules > 0))
    }

    /// Nothing yet: it goes when the veth is bound to another one.
    fn end(&self, _site: &mut Site) -> Result<()> {
        Ok(())
    }

    fn change(&self, site: &mut Site) -> Result<()> {
        let uplink = &site.plan().request.uplink;
        let mut earlier = site.record.earlier.iter();
        if uplink.is_none() || earlier.all(|plan| plan.request.uplink == *uplink) {
            return Ok(());
        }
        self.repair(site, &[])
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let Some(uplink) = &subject.record.plan.request.uplink else {
            return Ok(Vec::new());
        };
        // The same for all namespaces that are bound to it.
        subject
            .seen
            .once(&format!("uplink {uplink}"), || look(subject.seen, uplink))
    }

    fn repair(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        self.apply(site)?;
        let uplink = site.plan().request.uplink.as_ref();
        uplink.map_or(Ok(()), |uplink| {
            set_sysctl(&forwarding(uplink.as_str()), "1")
        })
    }
}

/// Removes what stands for uplinks that no namespace is bound to any more; returns whether there
/// were any. Of this namespace, only `kept` counts.
pub fn forget_unused(site: &Site, kept: Option<&IfaceName>) -> Result<bool> {
    let others = Record::all()?;
    let is_used = |uplink: &str| {
        kept.is_some_and(|kept| kept.as_str() == uplink)
            || others.iter().map(|record| &record.plan).any(|plan| {
                plan.name != site.plan().name
                    && plan
                        .request
                        .uplink
                        .as_ref()
                        .is_some_and(|name| name.as_str() == uplink)
            })
    };
    let host = HostState::load()?;
    let mut removed = false;
    for (uplink, number) in host.uplinks.iter().filter(|(uplink, _)| !is_used(uplink)) {
        let bound = Bound::numbered(*number);
        site.host.delete_rules(&bound.packets())?;
        delete_table(&site.host, AddressFamily::Inet, bound.table())?;
        site.host
            .delete_rules_of(AddressFamily::Inet6, &bound.packets())?;
        delete_table(&site.host, AddressFamily::Inet6, bound.table())?;
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

/// IPv6 of a namespace leaves as the host routes it, and the firewall sees to it that this is the
/// uplink. Its table takes the mark from the packets; without the table, the mark leads them to an
/// unreachable route.
fn close_ipv6(host: &Netlink, bound: Bound, senders: &Senders) -> Result<()> {
    if !is_there()? {
        return Ok(());
    }
    host.add_route(EVERYWHERE_V6, bound.table(), None)?;
    host.lead(&bound.lead(AddressFamily::Inet6, bound.packets(), senders))
}

fn delete_table(host: &Netlink, family: AddressFamily, table: u32) -> Result<()> {
    host.routes_of(family)?
        .iter()
        .filter(|route| route.table == table)
        .try_for_each(|route| host.delete_route(route))
}

/// A destination and its next hop.
type Way = (IpNet, Hop);

/// The routes, beside the unreachable one, by which traffic is to leave through `uplink`:
/// everywhere by its gateway or, if it has none, to its own subnets.
fn wanted_routes(addresses: &[(u32, Ipv4Net)], routes: &[Route], link: &Link) -> Vec<Way> {
    if let Some(hop) = default_hop(routes, link.index) {
        return vec![(EVERYWHERE.into(), hop)];
    }
    let own = addresses.iter().filter(|(index, _)| *index == link.index);
    own.map(|(_, subnet)| (subnet.trunc().into(), (link.index, None)))
        .collect()
}

/// Has `table` contain the routes of `uplink`. Those that are right already are not touched: other
/// namespaces use them.
fn set_routes(host: &Netlink, table: u32, uplink: &IfaceName) -> Result<()> {
    let routes = host.routes()?;
    let wanted = wanted_routes(
        &host.addresses()?,
        &routes,
        &host.need_link(uplink.as_str())?,
    );
    if !wanted.iter().any(|(network, _)| network.prefix_len() == 0) {
        warn(&format!(
            "{uplink} has no gateway: only its own subnets ({}) are reachable",
            wanted.len()
        ));
    }
    let in_table = routes
        .iter()
        .filter(|route| route.table == table && route.unicast);
    let (right, wrong): (Vec<&Route>, Vec<&Route>) =
        in_table.partition(|route| is_wanted(route, &wanted));
    for (network, hop) in wanted
        .iter()
        .filter(|hop| !right.iter().any(|route| is_wanted(route, &[**hop])))
    {
        host.add_route(*network, table, Some(*hop))?;
    }
    // One to the same network has been replaced by the new one.
    for route in wrong
        .iter()
        .filter(|route| !wanted.iter().any(|(network, _)| *network == route.network))
    {
        host.delete_route(route)?;
    }
    Ok(())
}

fn is_wanted(route: &Route, wanted: &[Way]) -> bool {
    wanted
        .iter()
        .any(|(network, hop)| *network == route.network && route.hops == [*hop])
}

/// Makes the reverse path filter of `uplink` loose if it is strict. Replies arrive on the uplink
/// although the host's own route to their sender may use another one; a strict filter (RFC 3704)
/// drops them, a loose one does not.
fn loosen_reverse_path_filter(site: &mut Site, uplink: &IfaceName) -> Result<()> {
    let name = rp_filter(uplink.as_str());
    if !is_strict(uplink)? {
        return Ok(());
    }
    let now = sysctl(&name)?.unwrap_or_default();
    HostState::update(site.lock, |host| {
        host.rp_filter
            .entry(uplink.to_string())
            .or_insert_with(|| now.clone());
    })?;
    set_sysctl(&name, LOOSE)?;
    site.before.sysctls.push((name, now));
    Ok(())
}

fn is_strict(uplink: &IfaceName) -> Result<bool> {
    let now = sysctl(&rp_filter(uplink.as_str()))?;
    Ok(filters_strictly(
        now.as_deref(),
        sysctl(&rp_filter("all"))?.as_deref(),
    ))
}

fn forwarding(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/forwarding")
}

fn look(seen: &Seen, uplink: &IfaceName) -> Result<Vec<Finding>> {
    let what = format!("uplink {uplink}");
    let mut found = Vec::new();
    let Some(bound) = Bound::to(uplink)? else {
        return Ok(vec![Finding::down(
            what,
            "the record of its routing table is missing",
        )]);
    };
    let routes = seen.routes()?;
    let in_table: Vec<&Route> = routes
        .iter()
        .filter(|route| route.table == bound.table())
        .collect();
    if !in_table
        .iter()
        .any(|route| !route.unicast && route.network == EVERYWHERE.into())
    {
        found.push(Finding::degraded(
            &what,
            "the route that keeps traffic from other uplinks is gone",
        ));
    }
    found.extend(look_at_rules(seen, bound, &what)?);
    let Some(link) = seen.link(uplink.as_str())? else {
        found.push(Finding::down(&what, "there is no such interface").cure(format!(
            "when {uplink} is back, build again; or move the namespace: sudo runns-exec clean NAME -r IFACE"
        )));
        return Ok(found);
    };
    found.extend(look_at_routes(seen, link, &in_table, &what)?);
    if is_strict(uplink)? {
        found.push(Finding::degraded(
            &what,
            "rp_filter is strict and may drop replies",
        ));
    }
    if !seen.has_sysctl(&forwarding(uplink.as_str()), "1")? {
        found.push(Finding::down(&what, "it does not forward"));
    }
    Ok(found)
}

/// What is wrong with the routing rules. Whether one of somebody else's that comes first leads
/// anything elsewhere, the veth pair finds out.
fn look_at_rules(seen: &Seen, bound: Bound, what: &str) -> Result<Vec<Finding>> {
    let senders = Senders::of(seen.links()?, seen.addresses()?, None);
    let mut found = Vec::new();
    let families = [
        (AddressFamily::Inet, "its routing rule", true),
        (
            AddressFamily::Inet6,
            "its routing rule for IPv6",
            is_there()?,
        ),
    ];
    for (family, name, _) in families.into_iter().filter(|(.., is_there)| *is_there) {
        let lead = bound.lead(family, bound.packets(), &senders);
        found.extend(match seen.netlink()?.place(&lead)? {
            Place::Ahead => None,
            Place::Missing if family == AddressFamily::Inet => {
                Some(Finding::down(what, format!("{name} is gone")))
            }
            Place::Missing => Some(Finding::degraded(what, format!("{name} is gone"))),
            Place::Behind(rival) => Some(Finding::degraded(
                what,
                format!("{name} comes after another program's ({rival})"),
            )),
            Place::Crowding => Some(Finding::degraded(
                what,
                format!("{name} leaves no room for those of other programs"),
            )),
        });
    }
    Ok(found)
}

/// What is wrong with the uplink itself, or with the routes that lead through it, as its table has
/// them.
fn look_at_routes(
    seen: &Seen,
    link: &Link,
    in_table: &[&Route],
    what: &str,
) -> Result<Option<Finding>> {
    let wanted = wanted_routes(seen.addresses()?, seen.routes()?, link);
    let unicast = || in_table.iter().filter(|route| route.unicast);
    let has = |way: &Way| unicast().any(|route| is_wanted(route, &[*way]));
    let down = |how: &str| Finding::down(what, how);
    Ok(if !link.up {
        let cure = format!("sudo ip link set {} up, then build again", link.name);
        Some(down("down").cure(cure))
    } else if wanted.is_empty() {
        Some(down("no address and no route").cure("configure it, then build again"))
    } else if !wanted.iter().all(has) || !unicast().all(|route| is_wanted(route, &wanted)) {
        Some(down("its routes differ from the host's"))
    } else {
        None
    })
}
