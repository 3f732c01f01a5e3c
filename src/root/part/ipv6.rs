//! IPv6 on the veth pair, for what needs it: `IPv6=yes` without a tunnel, ports that are published
//! by IPv6, servers of the host and networks beside the tunnel. Nothing else has it.
//!
//! Both ends have an address of fd72:756e:6e73:X::/64, where X is the number of the namespace (a
//! network of local addresses, RFC 4193). What leaves the host has the host's address as its
//! source, as with IPv4. No device gets a link-local address, and none listens to router
//! advertisements; the ends are told each other's hardware address.
//!
//! Forwarding is a matter of the whole host (ip-sysctl.rst, conf/all/forwarding). To turn it on
//! makes every device behave as a router's, which forgets the default routes that it learnt from
//! routers and learns no new ones (RFC 4861, 6.2). So each device is told at once to behave as
//! before.

use std::net::{IpAddr, Ipv6Addr};

use super::{Part, Site, forwarding};
use crate::facts::ipv6::{FORWARDING, LENGTH, Pair, is_there, leaves};
use crate::facts::routed;
use crate::finding::Finding;
use crate::host::{HostState, restore_sysctls, set_sysctl, sysctl};
use crate::lock::Lock;
use crate::netlink::{Hardware, Link, MAIN_TABLE, Netlink};
use crate::seen::Subject;
use runns_shared::error::{Context, Error, Result};
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State};

/// Metric of the default route inside, as `ip -6 route add` gives it.
const METRIC: u32 = 1024;
/// Of the route to a device's own subnet (IP6_RT_PRIO_ADDRCONF).
const KERNEL_METRIC: u32 = 256;

/// The accept_ra with which a device keeps what it learnt from routers although it becomes a
/// router's.
const KEEPS_LEARNT: &str = "2";
const INTERFACES: &str = "net/ipv6/conf";

/// Checks, before anything is made, that a namespace that is to have IPv6 can have it.
pub fn check(plan: &Plan) -> Result<()> {
    if leaves(&plan.request) && !is_there()? {
        return Err(Error::new("build with IPv6=yes", "this kernel has no IPv6"));
    }
    Ok(())
}

/// The part.
pub struct Ipv6;

impl Part for Ipv6 {
    fn is_in(&self, plan: &Plan) -> bool {
        !matches!(Pair::of(plan), Ok(None))
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
    let name = &site.plan().request.name;
    // One that cannot be read may have it.
    let has_it = |record: &Record| {
        record.plan.request.name != *name && !matches!(Pair::of(&record.plan), Ok(None))
    };
    Ok(unreadable.iter().any(|other| other != name) || records.iter().any(has_it))
}

/// Saves what turning forwarding on will change, if it is off; what may not be forwarded follows
/// from it.
pub fn remember(lock: &Lock) -> Result<()> {
    let mut state = HostState::load()?;
    foresee(&mut state)?;
    HostState::update(lock, |host| host.forwarding_v6 = state.forwarding_v6)
}

/// The state as [`remember`] would leave it.
pub fn foresee(state: &mut HostState) -> Result<()> {
    if sysctl(FORWARDING)?.as_deref() != Some("0") || state.forwarding_v6.is_some() {
        return Ok(());
    }
    let mut saved = vec![(FORWARDING.to_string(), "0".to_string())];
    let is_others = |(name, _): &(String, String)| {
        routed::interface_of(name).is_none_or(|name| !routed::is_own(name))
    };
    let listening = devices("accept_ra")?
        .into_iter()
        .filter(|(_, value)| value == "1");
    saved.extend(
        devices("forwarding")?
            .into_iter()
            .chain(listening)
            .filter(is_others),
    );
    state.forwarding_v6 = Some(saved);
    Ok(())
}

fn turn_forwarding_on(site: &mut Site) -> Result<()> {
    if sysctl(FORWARDING)?.as_deref() == Some("1") {
        return Ok(());
    }
    remember(site.lock)?;
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

/// A setting of each device, and of those to come.
fn devices(setting: &str) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/sys/{INTERFACES}");
    let mut values = Vec::new();
    for entry in std::fs::read_dir(&path).cannot(|| format!("list {path}"))? {
        let device = entry
            .cannot(|| format!("list {path}"))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        let name = format!("{INTERFACES}/{device}/{setting}");
        if let Some(value) = sysctl(&name)?.filter(|_| device != "all") {
            values.push((name, value));
        }
    }
    values.sort();
    Ok(values)
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

/// Sets up an end, in the calling thread's network namespace; the device may be up. Without a pair,
/// IPv6 is off there.
pub fn set_up(device: &str, pair: Option<&Pair>) -> Result<()> {
    let setting = |name: &str| format!("{INTERFACES}/{device}/{name}");
    let set = |name: &str, value: &str| {
        if sysctl(&setting(name))?.is_none() {
            Ok(())
        } else {
            set_sysctl(&setting(name), value)
        }
    };
    if pair.is_none() {
        return set("disable_ipv6", "1");
    }
    SETTINGS
        .iter()
        .try_for_each(|(name, value)| set(name, value))
}

/// Of a device that is to have no address but what it is given, which is in use at once.
const SETTINGS: [(&str, &str); 6] = [
    ("accept_ra", "0"),
    ("addr_gen_mode", "1"),
    ("accept_dad", "0"),
    ("dad_transmits", "0"),
    ("accept_redirects", "0"),
    ("disable_ipv6", "0"),
];

/// Whether the calling thread's network namespace has the default route that the pair is to have.
pub fn is_routed(pair: &Pair) -> Result<bool> {
    let everywhere = ((Ipv6Addr::UNSPECIFIED, 0), MAIN_TABLE);
    Ok(!pair.leaves || Netlink::here()?.routes_v6()?.contains(&everywhere))
}

/// Whether an end is set up so, in the calling thread's network namespace.
pub fn is_set_up(device: &str) -> Result<bool> {
    let is_set = |(name, value): &(&str, &str)| {
        Ok(sysctl(&format!("{INTERFACES}/{device}/{name}"))?.is_none_or(|now| now == *value))
    };
    SETTINGS
        .iter()
        .map(is_set)
        .collect::<Result<Vec<bool>>>()
        .map(|all| all.into_iter().all(|set| set))
}

/// Gives an end its address, and tells it where the other is. The device is up.
pub fn fill(side: &Netlink, link: &Link, own: Ipv6Addr, other: (Ipv6Addr, Hardware)) -> Result<()> {
    side.add_ip(link.index, own.into(), LENGTH)?;
    let network = Pair::network_of(own);
    // The kernel adds it with the address, and not again if somebody has removed it.
    if !side.routes_v6()?.contains(&(network, MAIN_TABLE)) {
        side.add_device_route((network.0.into(), LENGTH), link.index, None, KERNEL_METRIC)?;
    }
    side.add_neighbour(link.index, other.0.into(), other.1)
}

/// The route inside by which all IPv6 leaves.
pub fn route(inside: &Netlink, index: u32, pair: &Pair) -> Result<()> {
    if !pair.leaves {
        return Ok(());
    }
    inside.add_device_route(
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        index,
        Some(pair.host.into()),
        METRIC,
    )
}
