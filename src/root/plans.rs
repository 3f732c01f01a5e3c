//! Plans: made from requests, and checked before anything is changed.

use ipnet::{IpNet, Ipv4Net};

use crate::confine;
use crate::facts::ipv6::Pair;
use crate::facts::resolver;
use crate::kernel::netlink::Netlink;
use crate::walk;
use crate::wanted::Wanted;
use runns_shared::error::{Error, Result};
use runns_shared::escape::escape;
use runns_shared::exceptions::{HostAccess, Port, Protocol};
use runns_shared::name::NetnsName;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::subnet::{Number, Subnet};

/// The shortest prefix of a route that makes its network taken: shorter ones are defaults and
/// halves of them.
const SHORTEST_TAKEN: u8 = 8;

/// The plan for what is asked for, with this name and number.
pub fn decided(wanted: &Wanted, name: NetnsName, number: Number) -> Result<Plan> {
    let request = &wanted.request;
    let access = request.exceptions.access(request.has_tunnel());
    let mut plan = Plan {
        resolver: None,
        interface: wanted.interface_of(&name),
        name,
        request: request.clone(),
        number,
        host: None,
        host_v6: None,
    };
    plan.resolver = resolver::decide(&plan)?;
    let is_reached = request.has_veth() && access != HostAccess::No;
    plan.host = is_reached.then(|| plan.subnet().host().into());
    // Only a client that goes on to the next address finds the server that listens on the other.
    let is_tcp = |port: &Port| port.protocol == Protocol::Tcp;
    if access.localhost().iter().any(is_tcp) {
        plan.host_v6 = Pair::of(&plan)?.map(|pair| pair.host.into());
    }
    Ok(plan)
}

/// Whether traffic leaves outside the tunnel while that is down.
pub fn is_leaky(plan: &Plan) -> bool {
    plan.request.has_tunnel() && !plan.request.kill_switch
}

/// What is said of such a plan.
pub const LEAKY: &str =
    "traffic leaves unprotected, by the host's own uplink, while the tunnel is down";

/// Checks that no other interface has the name of the veth.
pub fn check_interface(plan: &Plan, host: &Netlink) -> Result<()> {
    let request = &plan.request;
    if request.has_veth() && host.link(plan.interface.as_str())?.is_some() {
        return Err(Error::new(
            format!("create interface {}", plan.interface),
            "an interface of that name exists already",
        )
        .hint("choose another with -i or InterfaceIn"));
    }
    Ok(())
}

/// Checks what the parts of a plan need.
pub fn check_parts(plan: &Plan, host: &Netlink) -> Result<()> {
    let request = &plan.request;
    if !request.has_veth() && request.uplink.is_some() {
        return Err(Error::new(
            "build",
            "an uplink has no effect with KillSwitch=yes, which creates no veth pair",
        ));
    }
    if let Some(uplink) = &request.uplink {
        if host.link(uplink.as_str())?.is_none() {
            return Err(Error::new(
                format!("use uplink {}", escape(uplink.as_str().as_bytes())),
                "there is no such interface",
            )
            .hint("ip -br link lists the existing ones"));
        }
    }
    for name in request.access.unknown_names() {
        warn(&format!(
            "AllowUsers or AllowGroups names {}, which no account has",
            escape(name.as_bytes())
        ));
    }
    confine::check(plan)?;
    // That of the namespace itself, the first, is for one that is to be made.
    let [_, parts @ ..] = walk::all();
    parts.iter().try_for_each(|part| part.check(plan))
}

/// Checks that nothing of the host is in the subnet of a veth pair that is to be made later than its
/// namespace.
pub fn check_subnet(plan: &Plan, host: &Netlink) -> Result<()> {
    let subnet = plan.subnet();
    let overlaps = |network: &&Ipv4Net| overlap(network, &subnet.network());
    match of_host(host)?.iter().find(overlaps) {
        Some(taken) => Err(is_taken(subnet, taken)),
        None => Ok(()),
    }
}

/// The error of a subnet in which the host has something.
pub fn is_taken(subnet: Subnet, by: &Ipv4Net) -> Error {
    let cause = format!("the host has an address or a route in {by}");
    Error::new(format!("use Subnet={subnet}"), cause).hint("choose another network")
}

/// The networks of the host's addresses and routes.
pub fn of_host(host: &Netlink) -> Result<Vec<Ipv4Net>> {
    let addresses = host.addresses()?.into_iter();
    let mut networks: Vec<Ipv4Net> = addresses.map(|(_, network)| network).collect();
    let routes = host.routes()?.into_iter();
    let routes = routes.filter_map(|route| match route.network {
        IpNet::V4(network) => Some(network),
        IpNet::V6(_) => None,
    });
    networks.extend(routes.filter(|network| network.prefix_len() >= SHORTEST_TAKEN));
    Ok(networks)
}

/// Whether two networks have an address in common.
pub fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.addr()) || other.contains(&one.addr())
}
