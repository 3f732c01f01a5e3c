//! Turning forwarding on makes the host a router, for its neighbours as well. Where builds did that, what arrives by an
//! interface that did not forward before is dropped when it would be forwarded, unless it is a reply, or a connection
//! that the host itself redirects, as for the published port of a container.
//!
//! Bridges and tunnels that other programs set up later are not concerned: such a program found forwarding on and relies
//! on it.

use std::collections::BTreeSet;
use std::path::Path;

use super::uplink::{Bound, is_own_group};
use crate::host::HostState;
use runns_shared::error::Result;
use runns_shared::name::IfaceName;

/// What may not be forwarded (iptables-extensions(8), conntrack), as iptables-save prints it.
pub const NEW: &str = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT";

/// The interfaces from which nothing may be forwarded: those that did not forward before builds turned it on, network
/// cards that came later, and the uplinks that namespaces are bound to. None if the host forwarded before. `own` is the
/// veth that is about to be created.
pub fn interfaces(own: &IfaceName) -> Result<BTreeSet<String>> {
    let Some(before) = HostState::load()?.forwarding else { return Ok(BTreeSet::new()) };
    let before = || before.iter().filter_map(|(name, value)| Some((interface_of_sysctl(name)?, value)));
    let later = cards().into_iter().chain(Bound::all()?.into_iter().map(|(uplink, _)| uplink));
    let later = later.filter(|name| !before().any(|(known, _)| known == name));
    let off = before().filter(|(_, value)| *value == "0").map(|(name, _)| name.to_string());
    // iptables would take other names for patterns or more words.
    let concerned = |name: &String| IfaceName::new(name).is_ok() && name != own.as_str() && !is_own(name);
    Ok(off.chain(later).filter(concerned).collect())
}

/// All devices, and those that have no parent device.
const DIRECTORY: &str = "/sys/class/net";
const SOFTWARE: &str = "/sys/devices/virtual/net";

/// Network cards: what is not a device of software.
pub fn cards() -> BTreeSet<String> {
    let names = |directory| -> BTreeSet<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    &names(DIRECTORY) - &names(SOFTWARE)
}

/// Whether it is the veth of a namespace.
pub fn is_own(interface: &str) -> bool {
    let group = std::fs::read_to_string(Path::new(DIRECTORY).join(interface).join("netdev_group")).unwrap_or_default();
    group.trim().parse().is_ok_and(is_own_group)
}

fn interface_of_sysctl(name: &str) -> Option<&str> {
    name.strip_prefix("net/ipv4/conf/")?.strip_suffix("/forwarding")
}
