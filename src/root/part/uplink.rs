//! InterfaceOut: packets that arrive on the veth leave through one uplink or not at all, whatever the host's own routes
//! are. A rule that precedes all others looks them up in a table of our own, with a default route through the uplink
//! and an unreachable route of a higher metric. When the link goes down, the kernel removes the former; the latter
//! stays.

use std::net::Ipv4Addr;

use super::{Part, Site};
use crate::host::{HostState, set_sysctl, sysctl};
use crate::netlink::{Netlink, Network, Route};
use runns_shared::error::Result;
use runns_shared::name::IfaceName;
use runns_shared::output::warn;
use runns_shared::plan::{MAX_NUMBER, Plan};
use runns_shared::record::Record;

/// The table of the subnet with number 0; that of number X is `TABLES + X`.
const TABLES: u32 = 17_240_000;
/// Precedes every rule except the one for local addresses, which has priority 0 (ip-rule(8)).
const PRIORITY: u32 = 1;
const EVERYWHERE: Network = Network { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };

/// The part.
pub struct Uplink;

fn table(plan: &Plan) -> u32 {
    TABLES + u32::from(plan.number.get())
}

fn is_own_table(table: u32) -> bool {
    (TABLES..=TABLES + u32::from(MAX_NUMBER)).contains(&table)
}

impl Part for Uplink {
    fn describe(&self, plan: &Plan) -> Option<String> {
        plan.request.uplink.as_ref().map(|uplink| format!("uplink {uplink} and no other (table {})", table(plan)))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan().clone();
        let Some(uplink) = &plan.request.uplink else { return Ok(()) };
        let table = table(&plan);
        // The unreachable route comes first, so that an interrupted build fails closed.
        site.host.add_route(EVERYWHERE, table, None)?;
        if !site.host.has_rule(&plan.request.interface)? {
            site.host.add_rule(&plan.request.interface, table, PRIORITY)?;
        }
        set_routes(&site.host, table, uplink)?;
        loosen_reverse_path_filter(site, uplink)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let plan = site.plan().clone();
        let rules = site.host.delete_rules(&plan.request.interface)?;
        let table = table(&plan);
        let routes: Vec<Route> = site.host.routes()?.into_iter().filter(|route| route.table == table).collect();
        for route in &routes {
            site.host.delete_route(route)?;
        }
        restore_reverse_path_filter(site, None)?;
        Ok(rules + routes.len() > 0)
    }
}

/// Replaces the routes in `table`, except the unreachable one, with those of `uplink`.
fn set_routes(host: &Netlink, table: u32, uplink: &IfaceName) -> Result<()> {
    let link = host.need_link(uplink.as_str())?;
    let routes = host.routes()?;
    for route in routes.iter().filter(|route| route.table == table && route.unicast) {
        host.delete_route(route)?;
    }
    if let Some(hop) = default_hop(&routes, link.index) {
        return host.add_route(EVERYWHERE, table, Some(hop));
    }
    let subnets: Vec<Network> =
        host.addresses()?.into_iter().filter(|(index, _)| *index == link.index).map(|(_, subnet)| subnet).collect();
    warn(&format!("{uplink} has no gateway: only its own subnets ({}) are reachable", subnets.len()));
    for subnet in subnets {
        host.add_route(masked(subnet), table, Some((link.index, None)))?;
    }
    Ok(())
}

/// Whether traffic of the namespace has a way out of the host: `None` if it has none, `Some(None)` if it goes everywhere,
/// else an address in the only network that it reaches.
pub fn reachable(site: &Site) -> Result<Option<Option<Ipv4Addr>>> {
    let routes = site.host.routes()?;
    let Some(uplink) = &site.plan().request.uplink else {
        let by_default = |route: &Route| route.unicast && route.network.prefix <= 1 && !is_own_table(route.table);
        return Ok(routes.iter().any(by_default).then_some(None));
    };
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

/// The next hop of the host's best default route through device `index`. The two halves into which VPNs split a default
/// route count as default routes.
fn default_hop(routes: &[Route], index: u32) -> Option<(u32, Option<Ipv4Addr>)> {
    routes
        .iter()
        .filter(|route| route.unicast && route.network.prefix <= 1 && !is_own_table(route.table))
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
fn loosen_reverse_path_filter(site: &Site, uplink: &IfaceName) -> Result<()> {
    let name = rp_filter(uplink.as_str());
    let now = sysctl(&name)?.unwrap_or_default();
    let all = sysctl(&rp_filter("all"))?.unwrap_or_default();
    if now.as_str().max(all.as_str()) != "1" {
        return Ok(());
    }
    HostState::update(site.lock, |host| {
        host.rp_filter.entry(uplink.to_string()).or_insert(now);
    })?;
    set_sysctl(&name, "2")
}

/// Restores what was changed for uplinks that the namespace no longer uses, after it was moved to another one.
pub fn forget_other_uplinks(site: &Site) -> Result<()> {
    restore_reverse_path_filter(site, site.plan().request.uplink.as_ref())
}

/// Restores the reverse path filter of uplinks that no built namespace uses any more. Of this namespace, only `kept`
/// counts as used.
fn restore_reverse_path_filter(site: &Site, kept: Option<&IfaceName>) -> Result<()> {
    let others = Record::all()?;
    for (uplink, value) in HostState::load()?.rp_filter {
        let used = kept.is_some_and(|kept| kept.as_str() == uplink)
            || others.iter().any(|record| {
                let request = &record.plan.request;
                request.name != site.plan().request.name
                    && request.uplink.as_ref().is_some_and(|name| name.as_str() == uplink)
            });
        if !used {
            if sysctl(&rp_filter(&uplink))?.is_some() {
                set_sysctl(&rp_filter(&uplink), &value)?;
            }
            HostState::update(site.lock, |host| {
                host.rp_filter.remove(&uplink);
            })?;
        }
    }
    Ok(())
}

fn rp_filter(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/rp_filter")
}
