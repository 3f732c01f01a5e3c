//! The parts of a namespace in their order. build, status and repair walk it forwards; clean, and a
//! build that failed, walk it backwards.

use crate::facts::Own;
use crate::part::{
    Part, Site, daemon, firewall, firewalld, forwarding, hook, inside, ipv6, netns, pushed,
    resolver, uplink, veth, wireguard,
};
use crate::table::load;
use runns_shared::error::{Error, Result};

/// The parts, in the order in which they are made: whatever restricts traffic before what carries
/// it.
pub fn all() -> [&'static dyn Part; 13] {
    [
        &netns::NetworkNamespace,
        &firewall::Firewall,
        &firewalld::Firewalld,
        &forwarding::Forwarding,
        &uplink::Uplink,
        &ipv6::Ipv6,
        &inside::Inside,
        &veth::Veth,
        &resolver::Resolver,
        &daemon::Daemons,
        &wireguard::WireGuard,
        &pushed::PushedResolver,
        &hook::PostBuild,
    ]
}

/// Makes all parts that the plan has, up to the first failure.
pub fn build(site: &mut Site) -> Result<()> {
    for part in all() {
        if !part.is_in(site.plan()) {
            continue;
        }
        if let Some(what) = part.describe(site.plan()) {
            runns_shared::output::step(|| format!("creating {what}"));
        }
        interrupted().and_then(|()| part.apply(site))?;
    }
    Ok(())
}

/// Brings what is there of the earlier plans to what the plan has, up to the first failure. The ways
/// out that the plan does not have go before anything else, and those beside tunnels that are
/// exchanged come back behind them: at no moment does more get out than by one of the plans. It may
/// be called again, after it failed or was killed.
pub fn change(site: &mut Site) -> Result<()> {
    veth::close(site)?;
    for part in all().into_iter().rev() {
        part.end(site)?;
    }
    for part in all() {
        interrupted()?;
        part.change(site)?;
    }
    veth::open(site)?;
    let uplink = site.plan().request.uplink.clone();
    if uplink::forget_unused(site, uplink.as_ref())? {
        load::host(site.lock, Own::With(site.plan()))?;
    }
    Ok(())
}

fn interrupted() -> Result<()> {
    if runns_sys::process::was_interrupted() {
        return Err(Error::new("go on", "interrupted by a signal"));
    }
    Ok(())
}

/// What was removed, and what could not be.
type Undone = (Vec<String>, Vec<Error>);

/// Unmakes all parts of a build that failed, and what it changed on the host, going on past errors,
/// which it returns.
pub fn undo(site: &mut Site) -> Vec<Error> {
    let mut errors = cut_off(site).1;
    errors.extend(site.restore_host().err());
    errors.extend(undo_rest(site).1);
    errors.extend(site.remove_directories().err());
    errors
}

/// Takes the ways out from the namespace, and their keys with them: whoever holds it open, by a
/// descriptor or a socket, is left with nothing. A tunnel's daemon can still take leave of its
/// server. Whatever else is inside goes with the name (see [`netns::withdraw`]).
pub fn cut_off(site: &mut Site) -> Undone {
    let reserved = if site.plan().request.has_tunnel() {
        veth::reserve_for_daemons(site)
    } else {
        Ok(())
    };
    // If that failed, the veth pair goes before the tunnels.
    let first: Option<&'static dyn Part> = if reserved.is_err() {
        Some(&veth::Veth)
    } else {
        None
    };
    let (removed, mut errors) = undo_each(
        site,
        first
            .into_iter()
            .chain(all().into_iter().rev().filter(|part| part.is_way_out())),
    );
    errors.extend(reserved.err());
    (removed, errors)
}

/// Unmakes the other parts, in the reverse order of that in which they are made.
pub fn undo_rest(site: &mut Site) -> Undone {
    undo_each(
        site,
        all().into_iter().rev().filter(|part| !part.is_way_out()),
    )
}

fn undo_each(site: &mut Site, parts: impl Iterator<Item = &'static dyn Part>) -> Undone {
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    let plans = site.record.plans().cloned().collect::<Vec<_>>();
    // Should it be killed while another one stands in the place of the plan, the next clean has to
    // know of all.
    if !site.record.earlier.is_empty() {
        site.record.earlier.clone_from(&plans);
    }
    for part in parts {
        for plan in &plans {
            // What this namespace does not have is somebody else's, whatever its name.
            if !part.is_in(plan) {
                continue;
            }
            site.record.plan.clone_from(plan);
            match part.undo(site) {
                Ok(true) => removed.extend(part.describe(plan)),
                Ok(false) => {}
                Err(error) => errors.push(error),
            }
        }
    }
    removed.dedup();
    (removed, errors)
}
