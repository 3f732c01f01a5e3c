//! IPv6 on the two ends. No device gets a link-local address, and none listens to router
//! advertisements; the ends are told each other's hardware address.

use std::net::Ipv6Addr;

use crate::facts::ipv6::{LENGTH, Pair};
use crate::kernel::netlink::{
    AddressFamily, EVERYWHERE_V6, Hardware, Link, MAIN_TABLE, Netlink, Route,
};
use crate::kernel::sysctl::{set_sysctl, sysctl};
use runns_shared::error::Result;

/// Metric of the default route inside, as `ip -6 route add` gives it.
const METRIC: u32 = 1024;
/// Of the route to a device's own subnet (IP6_RT_PRIO_ADDRCONF).
const KERNEL_METRIC: u32 = 256;

const INTERFACES: &str = "net/ipv6/conf";

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
    let leaves = |route: &Route| route.is_to(EVERYWHERE_V6, MAIN_TABLE);
    Ok(!pair.leaves
        || Netlink::here()?
            .routes_of(AddressFamily::Inet6)?
            .iter()
            .any(leaves))
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
    let routes = side.routes_of(AddressFamily::Inet6)?;
    if !routes.iter().any(|route| route.is_to(network, MAIN_TABLE)) {
        side.add_device_route(network.into(), link.index, None, KERNEL_METRIC)?;
    }
    side.add_neighbour(link.index, other.0.into(), other.1)
}

/// The route inside by which all IPv6 leaves.
pub fn route(inside: &Netlink, index: u32, pair: &Pair) -> Result<()> {
    if !pair.leaves {
        return Ok(());
    }
    inside.add_device_route(EVERYWHERE_V6.into(), index, Some(pair.host.into()), METRIC)
}
