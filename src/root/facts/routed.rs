//! Turning forwarding on makes the host a router, for its neighbours as well. Where builds did
//! that, what arrives by an interface that did not forward before is dropped when it would be
//! forwarded, unless it is a reply, or a connection that the host itself redirects, as for the
//! published port of a container.
//!
//! Bridges and tunnels that other programs set up later are not concerned: such a program found
//! forwarding on and relies on it.

use std::collections::BTreeSet;
use std::path::Path;

use super::uplinks::{Bound, is_own_group};
use crate::host::HostState;
use runns_shared::name::IfaceName;

/// The interfaces from which nothing may be forwarded: those that did not forward before builds
/// turned it on, network cards that came later, and the uplinks that namespaces are bound to. None
/// if the host forwarded before.
pub fn not_routed(state: &HostState) -> BTreeSet<String> {
    let Some(before) = &state.forwarding else {
        return BTreeSet::new();
    };
    let before = || {
        before
            .iter()
            .filter_map(|(name, value)| Some((interface_of_sysctl(name)?, value)))
    };
    let later = cards().into_iter().chain(Bound::of(state).into_keys());
    let later = later.filter(|name| !before().any(|(known, _)| known == name));
    let off = before()
        .filter(|(_, value)| *value == "0")
        .map(|(name, _)| name.to_string());
    // Other names could not stand in a rule.
    let concerned = |name: &String| IfaceName::new(name).is_ok() && !is_own(name);
    off.chain(later).filter(concerned).collect()
}

/// All devices, and those that have no parent device.
const DIRECTORY: &str = "/sys/class/net";
const SOFTWARE: &str = "/sys/devices/virtual/net";

/// Network cards: what is not a device of software.
pub fn cards() -> BTreeSet<String> {
    let names = |directory| -> BTreeSet<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };
    &names(DIRECTORY) - &names(SOFTWARE)
}

/// Whether it is the veth of a namespace.
pub fn is_own(interface: &str) -> bool {
    let group = std::fs::read_to_string(Path::new(DIRECTORY).join(interface).join("netdev_group"))
        .unwrap_or_default();
    group.trim().parse().is_ok_and(is_own_group)
}

fn interface_of_sysctl(name: &str) -> Option<&str> {
    name.strip_prefix("net/ipv4/conf/")?
        .strip_suffix("/forwarding")
}

/// The interface that a setting is of.
pub fn interface_of(setting: &str) -> Option<&str> {
    setting.strip_prefix("net/ipv6/conf/")?.split('/').next()
}

/// The interfaces for which the host was no router before builds turned forwarding on: from them,
/// nothing new is forwarded.
pub fn not_routed_v6(state: &HostState) -> BTreeSet<String> {
    let Some(before) = &state.forwarding_v6 else {
        return BTreeSet::new();
    };
    let known = before
        .iter()
        .filter_map(|(name, _)| interface_of(name))
        .map(str::to_string);
    known
        .chain(cards())
        .filter(|name| IfaceName::new(name).is_ok() && !is_own(name))
        .collect()
}
