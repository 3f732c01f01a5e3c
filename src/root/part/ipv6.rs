//! IPv6 on the veth pair, for what needs it: `IPv6=yes` without a tunnel, ports that are published by IPv6, servers of
//! the host and networks beside the tunnel. Nothing else has it.
//!
//! Both ends have an address of fd72:756e:6e73:X::/64, where X is the number of the namespace (a network of local
//! addresses, RFC 4193). What leaves the host has the host's address as its source, as with IPv4. No device gets a
//! link-local address, and none listens to router advertisements; the ends are told each other's hardware address.
//!
//! Forwarding is a matter of the whole host (ip-sysctl.rst, conf/all/forwarding). To turn it on makes every device behave
//! as a router's, which forgets the default routes that it learnt from routers and learns no new ones (RFC 4861, 6.2). So
//! each device is told at once to behave as before.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use super::{Finding, Part, Site, firewall, forwarding};
use crate::host::{HostState, restore_sysctls, set_sysctl, sysctl};
use crate::lock::Lock;
use crate::netlink::{Hardware, Link, MAIN_TABLE, Netlink, NetworkV6};
use crate::seen::Subject;
use runns_shared::error::{Context, Error, Result};
use runns_shared::neighbours::HostAccess;
use runns_shared::plan::{Plan, Request};
use runns_shared::record::{Record, State};

/// The prefix of all subnets, and its length; "runns" in ASCII.
pub const PREFIX: &str = "fd72:756e:6e73::/48";
const FIRST: [u16; 3] = [0xfd72, 0x756e, 0x6e73];
/// Of each subnet.
const LENGTH: u8 = 64;
/// Metric of the default route inside, as `ip -6 route add` gives it.
const METRIC: u32 = 1024;
/// Of the route to a device's own subnet (IP6_RT_PRIO_ADDRCONF).
const KERNEL_METRIC: u32 = 256;

/// The accept_ra with which a device keeps what it learnt from routers although it becomes a router's.
const KEEPS_LEARNT: &str = "2";
const ALL: &str = "net/ipv6/conf/all/forwarding";
const INTERFACES: &str = "net/ipv6/conf";

/// The addresses of a pair, and what it has them for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The host's end.
    pub host: Ipv6Addr,
    /// The namespace's end.
    pub inside: Ipv6Addr,
    /// Whether all IPv6 leaves by it.
    pub leaves: bool,
}

impl Pair {
    /// That of the plan's veth pair, if it has IPv6.
    pub fn of(plan: &Plan) -> Result<Option<Self>> {
        if !is_asked(&plan.request)? || !is_there()? {
            return Ok(None);
        }
        let address = |last| {
            let [a, b, c] = FIRST;
            Ipv6Addr::new(a, b, c, plan.number.get(), 0, 0, 0, last)
        };
        Ok(Some(Self { host: address(1), inside: address(2), leaves: leaves(&plan.request) }))
    }

    /// The subnet.
    pub fn network(&self) -> NetworkV6 {
        (masked(self.host), LENGTH)
    }
}

fn masked(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() >> (128 - LENGTH) << (128 - LENGTH))
}

fn leaves(request: &Request) -> bool {
    request.ipv6 == Some(true) && !request.has_tunnel()
}

fn is_asked(request: &Request) -> Result<bool> {
    let neighbours = &request.neighbours;
    if !request.has_veth() || request.ipv6 == Some(false) {
        return Ok(false);
    }
    let beside = request.has_tunnel()
        && (neighbours.access(true)? != HostAccess::Ports(Vec::new())
            || neighbours.bypassed()?.iter().any(|network| network.0.is_ipv6()));
    Ok(leaves(request) || beside || neighbours.published()?.iter().any(|port| port.has_ipv6()))
}

/// Whether this kernel has IPv6.
fn is_there() -> Result<bool> {
    Ok(sysctl(ALL)?.is_some())
}

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
    fn describe(&self, plan: &Plan) -> Option<String> {
        let pair = Pair::of(plan).ok()??;
        let out = if pair.leaves { ", default route and NAT" } else { "" };
        Some(format!("IPv6 on the veth pair ({}/{LENGTH} - {}/{LENGTH}{out}), IPv6 forwarding", pair.host, pair.inside))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        firewall::accept_ipv6(site)?;
        turn_forwarding_on(site)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let removed = firewall::forget_ipv6(site)?;
        // The rules that keep the host from being a router go with the last such namespace. A failed build restores what it
        // changed itself.
        if site.record.state != State::Building && heir(site)?.is_none() && forwarding::relied_on()?.is_none() {
            restore_forwarding(site.lock)?;
        }
        Ok(removed)
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        if !subject.seen.has_sysctl(ALL, "1")? {
            found.push(Finding::degraded("IPv6 forwarding", "off"));
        }
        if subject.seen.root {
            let veth = &subject.record.plan.request.interface;
            found.extend(subject.seen.once("IPv6 firewall", || firewall::look_ipv6(veth))?);
        }
        Ok(found)
    }
}

/// Whether another namespace has IPv6 on its veth pair.
pub fn heir(site: &Site) -> Result<Option<Plan>> {
    let plans = Record::all()?.into_iter().map(|record| record.plan);
    for plan in plans.filter(|plan| plan.request.name != site.plan().request.name) {
        if Pair::of(&plan)?.is_some() {
            return Ok(Some(plan));
        }
    }
    Ok(None)
}

/// Saves what turning forwarding on will change, if it is off; what may not be forwarded follows from it.
pub fn remember(lock: &Lock) -> Result<()> {
    let now = sysctl(ALL)?;
    if now.as_deref() != Some("0") || HostState::load()?.forwarding_v6.is_some() {
        return Ok(());
    }
    let mut saved = vec![(ALL.to_string(), "0".to_string())];
    let is_others = |(name, _): &(String, String)| interface_of(name).is_none_or(|name| !super::transit::is_own(name));
    let listening = devices("accept_ra")?.into_iter().filter(|(_, value)| value == "1");
    saved.extend(devices("forwarding")?.into_iter().chain(listening).filter(is_others));
    HostState::update(lock, |host| host.forwarding_v6 = Some(saved))
}

fn turn_forwarding_on(site: &mut Site) -> Result<()> {
    if sysctl(ALL)?.as_deref() == Some("1") {
        return Ok(());
    }
    remember(site.lock)?;
    let before = devices("forwarding")?;
    site.before.sysctls.extend(sysctl(ALL)?.map(|now| (ALL.to_string(), now)).into_iter().chain(before.clone()));
    let listening: Vec<(String, String)> =
        devices("accept_ra")?.into_iter().filter(|(_, value)| value == "1").collect();
    let kept: Vec<(String, String)> =
        listening.iter().map(|(name, _)| (name.clone(), KEEPS_LEARNT.to_string())).collect();
    let turned = restore_sysctls(&kept).and_then(|()| set_sysctl(ALL, "1")).and_then(|()| restore_sysctls(&before));
    turned.and(restore_sysctls(&listening))
}

/// A setting of each device, and of those to come.
fn devices(setting: &str) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/sys/{INTERFACES}");
    let mut values = Vec::new();
    for entry in std::fs::read_dir(&path).cannot(|| format!("list {path}"))? {
        let device = entry.cannot(|| format!("list {path}"))?.file_name().to_string_lossy().into_owned();
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
    let Some(before) = HostState::load()?.forwarding_v6 else { return Ok(false) };
    // Of these, only what a build left that was killed: anybody may have chosen another value since.
    let is_chosen = |name: &str| Ok(name.ends_with("/accept_ra") && sysctl(name)?.as_deref() != Some(KEEPS_LEARNT));
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

/// The interface that a setting is of.
fn interface_of(setting: &str) -> Option<&str> {
    setting.strip_prefix("net/ipv6/conf/")?.split('/').next()
}

/// The interfaces for which the host was no router before builds turned forwarding on: from them, nothing new is
/// forwarded.
pub fn not_routed() -> Result<BTreeSet<String>> {
    let Some(before) = HostState::load()?.forwarding_v6 else { return Ok(BTreeSet::new()) };
    let known = before.iter().filter_map(|(name, _)| interface_of(name)).map(str::to_string);
    let known = known.filter(|name| name != "all" && name != "default");
    Ok(known.chain(super::transit::cards()).filter(|name| name != "lo" && !super::transit::is_own(name)).collect())
}

/// Sets up an end, in the calling thread's network namespace; the device may be up. Without a pair, IPv6 is off there.
pub fn set_up(device: &str, pair: Option<&Pair>) -> Result<()> {
    let setting = |name: &str| format!("{INTERFACES}/{device}/{name}");
    let set = |name: &str, value: &str| {
        if sysctl(&setting(name))?.is_none() { Ok(()) } else { set_sysctl(&setting(name), value) }
    };
    if pair.is_none() {
        return set("disable_ipv6", "1");
    }
    SETTINGS.iter().try_for_each(|(name, value)| set(name, value))
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
    SETTINGS.iter().map(is_set).collect::<Result<Vec<bool>>>().map(|all| all.into_iter().all(|set| set))
}

/// Gives an end its address, and tells it where the other is. The device is up.
pub fn fill(side: &Netlink, link: &Link, own: Ipv6Addr, other: (Ipv6Addr, Hardware)) -> Result<()> {
    side.add_ip(link.index, own.into(), LENGTH)?;
    let network = (masked(own), LENGTH);
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
    inside.add_device_route((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0), index, Some(pair.host.into()), METRIC)
}
