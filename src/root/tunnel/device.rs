//! A tunnel's device: created outside, moved into the namespace, and set up there.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use ipnet::IpNet;

use super::wgquick::Prefix;
use crate::kernel::netlink::{Hop, Netlink, in_namespace};
use crate::kernel::sysctl::{set_sysctl, sysctl};
use runns_shared::error::{Context, Result};
use runns_shared::inside::Inside;
use runns_sys::tun::{self, Header, Kind};

/// The destinations of the default routes of both families.
pub const EVERYWHERE: [Prefix; 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
];

/// Metric of the first tunnel's routes. It is not 0, for which IPv6 substitutes another value
/// (IP6_RT_PRIO_USER).
const FIRST_METRIC: u32 = 10;

/// How a device is to be set up inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Setup {
    /// Its name inside.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// Its MTU; unchanged if `None`.
    pub mtu: Option<u32>,
    /// Networks that are reached through it, each with its gateway if there is one.
    pub routes: Vec<(Prefix, Option<IpAddr>)>,
    /// The tunnel's position among those of the namespace: of several routes to one network, that
    /// of the first tunnel is used.
    pub order: u32,
    /// Whether to split a default route into halves, which take precedence over the namespace's
    /// other default route.
    pub split_default: bool,
}

/// Moves device `outside` into the namespace `file` and sets it up there. An earlier device with
/// the same name is removed first.
pub fn install(host: &Netlink, outside: &str, file: &File, setup: &Setup) -> Result<()> {
    let device = host.need_link(outside)?;
    let inside = Netlink::inside(file.as_fd())?;
    if let Some(old) = inside.link(&setup.name)? {
        inside.delete_link(old.index)?;
    }
    host.move_link(device.index, file, &setup.name)?;
    set_up(&inside, file, setup)
}

/// Sets up a device that is in the namespace `file` and has no addresses yet.
pub fn set_up(inside: &Netlink, file: &File, setup: &Setup) -> Result<()> {
    let has_ipv6 = setup.addresses.iter().any(|(address, _)| address.is_ipv6());
    in_namespace(file.as_fd(), || ipv6(&setup.name, has_ipv6))?;
    fill(inside, setup, has_ipv6)
}

/// Sets up a device in the namespace `file` again. What it has already is not touched.
pub fn restore(file: &File, setup: &Setup) -> Result<()> {
    set_up(&Netlink::inside(file.as_fd())?, file, setup)
}

/// What is wrong with a device that was set up, or nothing.
pub fn wrong(inside: &Inside, setup: &Setup) -> Option<String> {
    if !inside.has_device(&setup.name) {
        return Some(format!("its device {} is gone", setup.name));
    }
    if !inside.is_up(&setup.name) {
        return Some(format!("its device {} is down", setup.name));
    }
    if let Some((address, _)) = setup
        .addresses
        .iter()
        .find(|(address, _)| !inside.has_address(*address))
    {
        return Some(format!(
            "its device {} has lost the address {address}",
            setup.name
        ));
    }
    let has_ipv6 = setup.addresses.iter().any(|(address, _)| address.is_ipv6());
    let mut routes = setup
        .routes
        .iter()
        .flat_map(|(network, _)| parts(*network, setup.split_default));
    let lost = routes.find(|part| {
        (has_ipv6 || part.0.is_ipv4()) && !inside.has_route(masked(*part), &setup.name)
    });
    lost.map(masked)
        .map(|(address, prefix)| format!("the route to {address}/{prefix} is gone"))
}

fn parts(network: Prefix, split_default: bool) -> Vec<Prefix> {
    if split_default {
        halves(network)
    } else {
        vec![network]
    }
}

fn fill(inside: &Netlink, setup: &Setup, has_ipv6: bool) -> Result<()> {
    let link = inside.need_link(&setup.name)?;
    if let Some(mtu) = setup.mtu {
        inside.set_mtu(link.index, mtu)?;
    }
    for (address, prefix) in &setup.addresses {
        inside.add_ip(link.index, *address, *prefix)?;
    }
    inside.set_up(link.index)?;
    for (network, gateway) in &setup.routes {
        if network.0.is_ipv6() && !has_ipv6 {
            continue;
        }
        for part in parts(*network, setup.split_default) {
            inside.add_device_route(
                destination(part)?,
                link.index,
                *gateway,
                FIRST_METRIC + setup.order,
            )?;
        }
    }
    Ok(())
}

/// Routes `networks` by `hop`, a device inside and its gateway, in place of the routes that an
/// earlier call for the same tunnel made.
pub fn route_beside(inside: &Netlink, networks: &[Prefix], hop: Hop, order: u32) -> Result<()> {
    let metric = FIRST_METRIC + order;
    let is_ours = |route: &crate::kernel::netlink::Route| {
        route.metric == metric && route.hops.iter().any(|to| to.0 == hop.0)
    };
    for route in inside.routes()?.iter().filter(|route| is_ours(route)) {
        inside.delete_route(route)?;
    }
    for network in networks {
        inside.add_device_route(destination(*network)?, hop.0, hop.1, metric)?;
    }
    Ok(())
}

/// Creates a persistent TUN or TAP device in the calling thread's network namespace, for a process
/// with this user id to attach to.
pub fn create_for(name: &str, kind: Kind, user: u32) -> Result<()> {
    let cannot = || format!("create the device {name}");
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .cannot(|| "open /dev/net/tun")?;
    tun::create(&tun, name, kind, Header::None).cannot(cannot)?;
    tun::give(&tun, user).cannot(cannot)
}

/// Turns IPv6 on `device` on or off; it is off if the device has no IPv6 address.
fn ipv6(device: &str, on: bool) -> Result<()> {
    let name = format!("net/ipv6/conf/{device}/disable_ipv6");
    if sysctl(&name)?.is_none() {
        Ok(())
    } else {
        set_sysctl(&name, if on { "0" } else { "1" })
    }
}

/// A default route as its two halves; any other network unchanged.
fn halves(network: Prefix) -> Vec<Prefix> {
    match network {
        (IpAddr::V4(_), 0) => {
            vec![
                network_of(Ipv4Addr::UNSPECIFIED.into(), 1),
                network_of(Ipv4Addr::new(128, 0, 0, 0).into(), 1),
            ]
        }
        (IpAddr::V6(_), 0) => {
            vec![
                network_of(Ipv6Addr::UNSPECIFIED.into(), 1),
                network_of(Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0).into(), 1),
            ]
        }
        other => vec![other],
    }
}

fn network_of(address: IpAddr, prefix: u8) -> Prefix {
    (address, prefix)
}

/// The network of a route.
fn destination((address, prefix): Prefix) -> Result<IpNet> {
    let network = IpNet::new(address, prefix).map_err(|error| error.to_string());
    network
        .map(|network| network.trunc())
        .cannot(|| format!("add a route to {address}/{prefix}"))
}

/// The network's address: the bits after the prefix are cleared.
fn masked((address, prefix): Prefix) -> Prefix {
    let address = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    };
    (address, prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::wgquick::prefix;

    #[test]
    fn networks_are_masked() {
        assert_eq!(
            masked(prefix("10.1.2.3/8").unwrap()),
            prefix("10.0.0.0/8").unwrap()
        );
        assert_eq!(
            masked(prefix("10.1.2.3/0").unwrap()),
            prefix("0.0.0.0/0").unwrap()
        );
        assert_eq!(
            masked(prefix("fd00::1/64").unwrap()),
            prefix("fd00::/64").unwrap()
        );
        assert_eq!(halves(EVERYWHERE[0]).len(), 2);
        assert_eq!(halves(prefix("10.0.0.0/8").unwrap()).len(), 1);
    }
}
