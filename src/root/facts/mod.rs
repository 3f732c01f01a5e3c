//! What the host and the records say, gathered once: the tables are pure functions of it.

pub mod exceptions;
pub mod forwarding;
pub mod inside;
pub mod ipv6;
pub mod pushed;
pub mod resolver;
pub mod routed;
pub mod uplinks;
pub mod veth;

use std::collections::{BTreeMap, BTreeSet};

use runns_shared::error::Result;
use runns_shared::name::NetnsName;
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State};

use crate::host::HostState;
use crate::kernel::iptables::Passing;
use crate::kernel::netlink::Netlink;
use uplinks::{Bound, is_own_group};
use veth::Veth;

/// A namespace whose plan counts, whatever its record says.
#[derive(Debug, Clone, Copy)]
pub enum Own<'a> {
    /// None: all is as the records say.
    Nobody,
    /// It is being built, or changed.
    With(&'a Plan),
    /// It is being removed.
    Without(&'a NetnsName),
}

/// What the host's table depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The veth pairs of all namespaces that have one and whose record can be read.
    pub veths: Vec<Veth>,
    /// The uplinks that namespaces are bound to.
    pub uplinks: BTreeMap<String, Bound>,
    /// The IPv4 subnets of all veth pairs, also those whose record cannot be read.
    pub subnets: BTreeSet<String>,
    /// Interfaces for which the host was no IPv4 router before builds made it one.
    pub not_routed: BTreeSet<String>,
    /// The same for IPv6.
    pub not_routed_v6: BTreeSet<String>,
}

/// Gathers them: all namespaces that were built to the end, and the one that is
/// being built. A record that cannot be read permits nothing, and neither does an unfinished one.
/// `None` if there is nothing to guard.
pub fn gather(own: Own, state: &HostState) -> Result<Option<Facts>> {
    let (records, unreadable) = Record::readable()?;
    let name = match own {
        Own::Nobody => None,
        Own::With(plan) => Some(&plan.name),
        Own::Without(name) => Some(name),
    };
    let others = || {
        records
            .iter()
            .filter(|record| Some(&record.plan.name) != name)
    };
    let is_guarded = others().any(|record| record.plan.request.has_veth())
        || unreadable.iter().any(|one| Some(one) != name);
    // Looking into /proc/sys takes the longer the more network namespaces there are.
    let has_ipv6 = ipv6::is_there()?;
    let mut veths = Vec::new();
    for record in others().filter(|record| record.state == State::Built) {
        // Options that this version cannot read permit nothing either.
        veths.extend(Veth::on(&record.plan, has_ipv6).ok().flatten());
    }
    if let Some(plan) = own_plan(own) {
        veths.extend(Veth::on(plan, has_ipv6)?);
    }
    // As long as the host forwards because of us, it must not do so for others.
    let is_router = state.forwarding.is_some() || state.forwarding_v6.is_some();
    if veths.is_empty() && !is_guarded && !is_router {
        return Ok(None);
    }
    let mut subnets: BTreeSet<String> = others()
        .map(|record| &record.plan)
        .chain(own_plan(own))
        .filter(|plan| plan.request.has_veth())
        .map(|plan| plan.subnet().to_string())
        .collect();
    if !unreadable.is_empty() {
        subnets.extend(linked_subnets()?);
    }
    veths.sort_by(|one, other| one.interface.cmp(&other.interface));
    let is_others = |name: &String| !veths.iter().any(|veth| veth.interface.as_str() == name);
    Ok(Some(Facts {
        uplinks: Bound::of(state),
        subnets,
        not_routed: routed::not_routed(state)
            .into_iter()
            .filter(is_others)
            .collect(),
        not_routed_v6: routed::not_routed_v6(state)
            .into_iter()
            .filter(is_others)
            .collect(),
        veths,
    }))
}

fn own_plan(own: Own<'_>) -> Option<&Plan> {
    match own {
        Own::With(plan) => Some(plan),
        Own::Nobody | Own::Without(_) => None,
    }
}

/// The IPv4 subnets of the veths that the host has: the kernel knows them by their group.
fn linked_subnets() -> Result<Vec<String>> {
    let host = Netlink::here()?;
    let own: BTreeSet<u32> = host
        .links()?
        .into_iter()
        .filter(|link| is_own_group(link.group))
        .map(|link| link.index)
        .collect();
    let subnets = host
        .addresses()?
        .into_iter()
        .filter(|(index, _)| own.contains(index))
        .map(|(_, address)| address.trunc().to_string());
    Ok(subnets.collect())
}

/// What has to pass iptables' tables.
pub fn passing(facts: &Facts) -> Passing {
    Passing {
        ipv4: !facts.veths.is_empty(),
        ipv6: facts.veths.iter().any(|veth| veth.ipv6.is_some()),
        host: facts.veths.iter().any(|veth| veth.asks),
    }
}
