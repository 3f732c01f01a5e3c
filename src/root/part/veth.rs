//! The veth pair: InterfaceIn on the host, eth0 inside, and the namespace's default route through it.

use std::os::fd::AsFd;

use super::{Part, Site, netns, probe, uplink};
use crate::host::{set_sysctl, sysctl};
use crate::netlink::{MAIN_TABLE, Netlink, Network, in_namespace};
use runns_shared::error::{Error, Result};
use runns_shared::plan::{PREFIX, Plan};

/// The name of the device inside.
pub const INSIDE: &str = "eth0";

/// The part.
pub struct Veth;

impl Part for Veth {
    fn describe(&self, plan: &Plan) -> Option<String> {
        let (interface, number) = (&plan.request.interface, plan.number);
        (!plan.request.kill_switch).then(|| {
            format!(
                "veth pair {interface} ({}/{PREFIX}) - {INSIDE} ({}/{PREFIX}, default route via {})",
                number.host(),
                number.inside(),
                number.host()
            )
        })
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan().clone();
        let namespace =
            netns::open_built(site)?.ok_or_else(|| Error::new("create the veth pair", "the namespace is gone"))?;
        let (interface, number) = (&plan.request.interface, plan.number);
        site.host.add_veth(interface, uplink::UNBOUND_GROUP, INSIDE, &namespace)?;
        disable_ipv6(interface.as_str())?;
        // Forwarding may be on for the host and yet off for new interfaces.
        set_sysctl(&format!("net/ipv4/conf/{interface}/forwarding"), "1")?;
        let link = site.host.need_link(interface.as_str())?;
        uplink::bind(site, link.index)?;
        site.host.add_address(link.index, Network { address: number.host(), prefix: PREFIX })?;
        site.host.set_up(link.index)?;
        in_namespace(namespace.as_fd(), || disable_ipv6(INSIDE))?;
        let inside = Netlink::inside(namespace.as_fd())?;
        let link = inside.need_link(INSIDE)?;
        inside.add_address(link.index, Network { address: number.inside(), prefix: PREFIX })?;
        inside.set_up(link.index)?;
        let everywhere = Network { address: std::net::Ipv4Addr::UNSPECIFIED, prefix: 0 };
        inside.add_route(everywhere, MAIN_TABLE, Some((link.index, Some(number.host()))))?;
        // Now traffic must get through; a tunnel that waits for its server would only say that nobody answers.
        site.probe.take().map_or(Ok(()), |target| probe::run(site, target))
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        match site.host.link(site.plan().request.interface.as_str())? {
            Some(link) if link.veth => site.host.delete_link(link.index).map(|()| true),
            _ => Ok(false),
        }
    }
}

/// Disables IPv6 on `interface` in the calling thread's network namespace. This is done before it is brought up, so
/// that it never gets a link-local address.
fn disable_ipv6(interface: &str) -> Result<()> {
    let name = format!("net/ipv6/conf/{interface}/disable_ipv6");
    // On a kernel without IPv6 there is no such sysctl.
    if sysctl(&name)?.is_none() { Ok(()) } else { set_sysctl(&name, "1") }
}
