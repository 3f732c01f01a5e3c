//! IPv6 on the veth pair, for what needs it: `IPv6=yes` without a tunnel, ports that are published
//! by IPv6, servers of the host and networks beside the tunnel. Nothing else has it.
//!
//! Both ends have an address of fd72:756e:6e73:X::/64, where X is the number of the namespace (a
//! network of local addresses, RFC 4193). What leaves the host has the host's address as its
//! source, as with IPv4.
//!
//! Forwarding is a matter of the whole host (ip-sysctl.rst, conf/all/forwarding). To turn it on
//! makes every device behave as a router's, which forgets the default routes that it learnt from
//! routers and learns no new ones (RFC 4861, 6.2). So each device is told at once to behave as
//! before.

use super::{Part, Site};
use crate::facts::forwarding::{self, devices, remember_v6};
use crate::facts::ipv6::{FORWARDING, LENGTH, Pair, is_asked, is_there, leaves};
use crate::finding::Finding;
use crate::host::HostState;
use crate::kernel::sysctl::{restore_sysctls, set_sysctl, sysctl};
use crate::lock::Lock;
use crate::seen::Subject;
use runns_shared::error::{Error, Result};
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State};

/// The accept_ra with which a device keeps what it learnt from routers although it becomes a
/// router's.
const KEEPS_LEARNT: &str = "2";

/// Checks, before anything is made, that a namespace that is to have IPv6 can have it.
fn check(plan: &Plan) -> Result<()> {
    if leaves(&plan.request) && !is_there()? {
        return Err(Error::new("build with IPv6=yes", "this kernel has no IPv6"));
    }
    if plan.request.has_tunnel() && plan.request.ipv6.is_none() && !is_there()? {
        warn("this host has no IPv6 (ipv6.disable=1): tunnels do not use it, as with IPv6=no");
    }
    Ok(())
}

/// The part.
pub struct Ipv6;

impl Part for Ipv6 {
    fn is_in(&self, plan: &Plan) -> bool {
        is_asked(&plan.request)
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        let pair = Pair::of(plan).ok()??;
        let out = if pair.leaves {
            ", default route and NAT"
        } else {
            ""
        };
        Some(format!(
            "IPv6 on the veth pair ({}/{LENGTH} - {}/{LENGTH}{out}), IPv6 forwarding",
            pair.host, pair.inside
        ))
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        check(plan)
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        turn_forwarding_on(site)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        // The rules that keep the host from being a router go with the last such namespace. A
        // failed build restores what it changed itself.
        if site.record.state == State::Building
            || another_has_it(site)?
            || forwarding::relied_on()?.is_some()
        {
            return Ok(false);
        }
        restore_forwarding(site.lock)
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        if !subject.seen.has_sysctl(FORWARDING, "1")? {
            found.push(Finding::degraded("IPv6 forwarding", "off"));
        }
        Ok(found)
    }
}

/// Whether another namespace has IPv6 on its veth pair.
fn another_has_it(site: &Site) -> Result<bool> {
    let (records, unreadable) = Record::readable()?;
    let name = &site.plan().name;
    // One that cannot be read may have it.
    let has_it = |record: &Record| record.plan.name != *name && is_asked(&record.plan.request);
    Ok(unreadable.iter().any(|other| other != name) || records.iter().any(has_it))
}

fn turn_forwarding_on(site: &mut Site) -> Result<()> {
    // It is on, or this kernel has no IPv6.
    if sysctl(FORWARDING)?.as_deref() != Some("0") {
        return Ok(());
    }
    remember_v6(site.lock)?;
    let before = devices("forwarding")?;
    site.before.sysctls.extend(
        sysctl(FORWARDING)?
            .map(|now| (FORWARDING.to_string(), now))
            .into_iter()
            .chain(before.clone()),
    );
    let listening: Vec<(String, String)> = devices("accept_ra")?
        .into_iter()
        .filter(|(_, value)| value == "1")
        .collect();
    let kept: Vec<(String, String)> = listening
        .iter()
        .map(|(name, _)| (name.clone(), KEEPS_LEARNT.to_string()))
        .collect();
    let turned = restore_sysctls(&kept)
        .and_then(|()| set_sysctl(FORWARDING, "1"))
        .and_then(|()| restore_sysctls(&before));
    turned.and(restore_sysctls(&listening))
}

/// Restores forwarding; whether there was anything to restore.
pub fn restore_forwarding(lock: &Lock) -> Result<bool> {
    let Some(before) = HostState::load()?.forwarding_v6 else {
        return Ok(false);
    };
    // Of these, only what a build left that was killed: anybody may have chosen another value
    // since.
    let is_chosen = |name: &str| {
        Ok(name.ends_with("/accept_ra") && sysctl(name)?.as_deref() != Some(KEEPS_LEARNT))
    };
    let mut ours = Vec::new();
    for (name, value) in before {
        if !is_chosen(&name)? {
            ours.push((name, value));
        }
    }
    restore_sysctls(&ours)?;
    HostState::update(lock, |host| host.forwarding_v6 = None)?;
    Ok(true)
}
