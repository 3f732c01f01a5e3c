//! The table on the host, which is the same for all namespaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{TABLE, WHAT, Way, cidr, listed_elsewhere, listed_here, set};
use crate::part::uplink::Bound;
use crate::part::{Finding, Site, ipv6};
use crate::tool;
use runns_shared::error::Result;
use runns_shared::name::IfaceName;
use runns_shared::neighbours::{HostAccess, Published};
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State};

/// See [`super::TO_HOST`].
const MARK_TO_HOST: &str = "meta mark set meta mark & 0x00ffffff | 0xfe000000";
const OWN: &str = "iifgroup & 0xffffff00 == 0x72756e00";

/// Makes the host's table from the records, this namespace included.
pub fn make(site: &Site) -> Result<()> {
    let mut plans = others(site)?;
    plans.push(site.plan().clone());
    replace(&plans)
}

/// Has the host's table, if there is one, follow a change of the uplinks, with this namespace or without it.
pub fn follow(site: &Site, included: bool) -> Result<()> {
    // Where a record cannot be read, nobody knows better than the table.
    let Ok(mut plans) = others(site) else { return Ok(()) };
    plans.extend(included.then(|| site.plan().clone()));
    if ways(&plans)?.0.is_empty() { Ok(()) } else { replace(&plans) }
}

/// The plans of all other namespaces.
pub fn others(site: &Site) -> Result<Vec<Plan>> {
    Ok(built()?.into_iter().filter(|plan| plan.request.name != site.plan().request.name).collect())
}

/// The plans of what was built to the end.
fn built() -> Result<Vec<Plan>> {
    let built = Record::all()?.into_iter().filter(|record| record.state == State::Built);
    Ok(built.map(|record| record.plan).collect())
}

/// The ways of all plans, and the uplinks that they are bound to.
fn ways(plans: &[Plan]) -> Result<(Vec<Way>, BTreeSet<&IfaceName>)> {
    let mut ways = Vec::new();
    for plan in plans {
        ways.extend(Way::of(plan)?);
    }
    Ok((ways, plans.iter().filter_map(|plan| plan.request.uplink.as_ref()).collect()))
}

/// Makes the host's table anew or, if no plan has anything for it, removes it.
pub fn replace(plans: &[Plan]) -> Result<()> {
    let (ways, uplinks) = ways(plans)?;
    if ways.is_empty() && tool::find("nft").is_none() {
        return Ok(());
    }
    let text = if ways.is_empty() { String::new() } else { table(&ways, &uplinks)? };
    tool::run("nft", &["-f", "-"], &format!("add table {TABLE}\ndelete table {TABLE}\n{text}")).map(drop)
}

/// The host's table.
fn table(ways: &[Way], uplinks: &BTreeSet<&IfaceName>) -> Result<String> {
    let mut text = format!("table {TABLE} {{\n");
    let closed = ways.iter().filter(|way| way.access != HostAccess::Yes);
    text += &set("set", "closed", "ifname", closed.clone().map(|way| quoted(&way.interface)).collect());
    let opened = ways.iter().filter(|way| way.asks && way.access == HostAccess::Yes);
    text += &set("set", "opened", "ifname", opened.map(|way| quoted(&way.interface)).collect());
    let ports = closed.clone().flat_map(|way| {
        let HostAccess::Ports(ports) = &way.access else { return Vec::new() };
        ports.iter().map(|port| format!("{} . {} . {}", quoted(&way.interface), port.protocol, port.number)).collect()
    });
    text += &set("set", "host_ports", "ifname . inet_proto . inet_service", ports.collect());
    for (name, kind, is_v4) in [("resolvers", "ipv4_addr", true), ("resolvers_v6", "ipv6_addr", false)] {
        let asking = ways.iter().filter(|way| way.access != HostAccess::Yes || way.locked);
        let servers = asking.flat_map(|way| {
            let of_family = way.resolvers.iter().filter(move |server| server.is_ipv4() == is_v4);
            of_family.map(|server| format!("{} . {server}", quoted(&way.interface)))
        });
        text += &set("set", name, &format!("ifname . {kind}"), servers.collect());
    }
    let killed = ways.iter().filter(|way| way.killed);
    text += &set("set", "killed", "ifname", killed.map(|way| quoted(&way.interface)).collect());
    let locked = ways.iter().filter(|way| way.locked);
    text += &set("set", "locked", "ifname", locked.map(|way| quoted(&way.interface)).collect());
    for (name, kind, is_v4) in [("bypassed", "ipv4_addr", true), ("bypassed_v6", "ipv6_addr", false)] {
        let networks = ways.iter().flat_map(|way| {
            let of_family = way.bypassed.iter().filter(move |network| network.0.is_ipv4() == is_v4);
            of_family.map(|network| format!("{} . {}", quoted(&way.interface), cidr(network)))
        });
        text += &set("set", name, &format!("ifname . {kind}; flags interval"), networks.collect());
    }
    let leaving = ways.iter().filter(|way| way.ipv6.is_some_and(|pair| pair.leaves));
    text += &set("set", "leaving_v6", "ifname", leaving.map(|way| quoted(&way.interface)).collect());
    let bound: Vec<(String, String)> =
        ways.iter().filter_map(|way| Some((quoted(&way.interface), quoted(way.uplink.as_ref()?.as_str())))).collect();
    text += &set("set", "bound", "ifname", bound.iter().map(|(veth, _)| veth.clone()).collect());
    let pairs = bound.iter().map(|(veth, uplink)| format!("{veth} . {uplink}"));
    text += &set("set", "uplinks", "ifname . ifname", pairs.collect());
    let not_routed = ipv6::not_routed()?.into_iter().filter(|name| IfaceName::new(name).is_ok());
    text += &set("set", "not_routed_v6", "ifname", not_routed.map(quoted).collect());
    for protocol in ["tcp", "udp"] {
        text += &maps(ways, protocol, true);
        text += &maps(ways, protocol, false);
    }
    let uplinks: String = Bound::all()?
        .iter()
        .filter(|(uplink, _)| uplinks.iter().any(|known| known.as_str() == uplink))
        .map(|(uplink, bound)| format!("  iifname \"{uplink}\" ct mark set {:#x}\n", bound.mark()))
        .collect();
    text += &CHAINS
        .replace("UPLINKS\n", &uplinks)
        .replace("OWN", OWN)
        .replace("NETWORK_V6", ipv6::PREFIX)
        .replace("TO_HOST", MARK_TO_HOST);
    Ok(text + "}\n")
}

fn quoted(interface: impl std::fmt::Display) -> String {
    format!("\"{interface}\"")
}

/// The published ports of a protocol and a family, those of any address and those of a certain one; and the address of
/// the host on the veth for those by which the loopback address is reached.
fn maps(ways: &[Way], protocol: &str, is_v4: bool) -> String {
    let (mut any, mut at, mut gate) = (Vec::new(), Vec::new(), Vec::new());
    for (way, (host, inside)) in ways.iter().filter_map(|way| Some((way, way.ends(is_v4)?))) {
        let of_family = |port: &&Published| if is_v4 { port.has_ipv4() } else { port.has_ipv6() };
        let ours = way.published.iter().filter(|port| port.port.protocol.to_string() == protocol);
        for port in ours.filter(of_family) {
            let (number, target) = (port.port.number, format!("{inside} . {}", port.inside));
            let address = port.address.filter(|address| !address.is_unspecified());
            match address {
                None => any.push(format!("{number} : {target}")),
                Some(address) => at.push(format!("{address} . {number} : {target}")),
            }
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            if address.is_none_or(|address| loopback.contains(&address)) {
                gate.push(format!("{number} : {host}"));
            }
        }
    }
    let (kind, family) = if is_v4 { ("ipv4_addr", "") } else { ("ipv6_addr", "_v6") };
    let name = |what: &str| format!("{what}_{protocol}{family}");
    set("map", &name("any"), &format!("inet_service : {kind} . inet_service"), any)
        + &set("map", &name("at"), &format!("{kind} . inet_service : {kind} . inet_service"), at)
        + &set("map", &name("gate"), &format!("inet_service : {kind}"), gate)
}

/// OWN: what arrives on the veth of a namespace. UPLINKS: a line for each uplink to which namespaces are bound, by which
/// the answers to what came in there leave again. What the inside means for the host itself has a time to live of 1, so
/// that it is not passed on to whoever has got an address that was the host's; what is still the host's may be redirected
/// by others (a container's port, say) and gets a time to live as usual.
const CHAINS: &str = "
chain arriving { type filter hook prerouting priority mangle - 1;
  OWN ip6 saddr != NETWORK_V6 drop
  iifname != lo iifgroup & 0xffffff00 != 0x72756e00 ip6 saddr NETWORK_V6 drop
  OWN meta nfproto ipv6 fib saddr . iif oif 0 drop
  OWN ip ttl 1 fib daddr type local ip ttl set 64
  OWN ip6 hoplimit 1 fib daddr type local ip6 hoplimit set 64
  iifname @closed jump host
  iifname @opened fib daddr type local TO_HOST
  OWN ct direction reply ct mark & 0x80000000 != 0 meta mark set ct mark
}
chain host {
  fib daddr type unicast return
  iifname . meta l4proto . th dport @host_ports TO_HOST return
  iifname . ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 TO_HOST return
  iifname . ip6 daddr @resolvers_v6 meta l4proto { tcp, udp } th dport 53 TO_HOST return
  ct state established,related return
  drop
}
chain forwarding { type filter hook forward priority mangle - 1;
  OWN oifgroup & 0xffffff00 == 0x72756e00 drop
  meta nfproto ipv6 OWN jump leaving_v6
  meta nfproto ipv6 oifgroup & 0xffffff00 == 0x72756e00 jump arriving_v6
  iifname @not_routed_v6 meta nfproto ipv6 jump arriving_v6
  iifname @killed jump killed
  iifname @locked meta l4proto { tcp, udp } th dport 53 jump names
  oifgroup & 0xffffff00 == 0x72756e00 ct status dnat ct state new jump came_by
}
chain killed {
  ct direction reply return
  iifname . ip daddr @bypassed return
  iifname . ip6 daddr @bypassed_v6 return
  drop
}
chain names {
  iifname . ip daddr @resolvers return
  iifname . ip6 daddr @resolvers_v6 return
  iifname . ip daddr @bypassed return
  iifname . ip6 daddr @bypassed_v6 return
  drop
}
chain leaving_v6 {
  tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  ct direction reply return
  iifname @bound iifname . oifname != @uplinks drop
  iifname @leaving_v6 return
  iifname . ip6 daddr @bypassed_v6 return
  drop
}
chain arriving_v6 {
  tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  ct state established,related return
  ct status dnat return
  drop
}
chain masquerade_v6 { type nat hook postrouting priority srcnat;
  ip6 saddr NETWORK_V6 oifgroup & 0xffffff00 != 0x72756e00 masquerade
}
chain came_by {
  ct mark set 0xff000000
UPLINKS
}
chain published { type nat hook prerouting priority dstnat - 10;
  OWN return
  ip daddr 127.0.0.0/8 return
  ip6 daddr ::1 return
  fib daddr type local jump leads_inside
}
chain published_here { type nat hook output priority -110;
  fib daddr type local jump leads_inside
}
chain leads_inside {
  dnat ip to ip daddr . tcp dport map @at_tcp
  dnat ip to ip daddr . udp dport map @at_udp
  dnat ip to tcp dport map @any_tcp
  dnat ip to udp dport map @any_udp
  dnat ip6 to ip6 daddr . tcp dport map @at_tcp_v6
  dnat ip6 to ip6 daddr . udp dport map @at_udp_v6
  dnat ip6 to tcp dport map @any_tcp_v6
  dnat ip6 to udp dport map @any_udp_v6
}
chain loopback { type route hook output priority -310;
  ip saddr 127.0.0.1 ip daddr 127.0.0.1 ip saddr set tcp dport map @gate_tcp
  ip saddr 127.0.0.1 ip daddr 127.0.0.1 ip saddr set udp dport map @gate_udp
  ip6 saddr ::1 ip6 daddr ::1 ip6 saddr set tcp dport map @gate_tcp_v6
  ip6 saddr ::1 ip6 daddr ::1 ip6 saddr set udp dport map @gate_udp_v6
}
chain loopback_back { type filter hook input priority 110;
  OWN ct direction reply ip saddr 127.0.0.1 ip daddr set 127.0.0.1
  OWN ct direction reply ip6 saddr ::1 ip6 daddr set ::1
}
";
/// The table on the host, which is the same for all namespaces.
pub fn look() -> Result<Vec<Finding>> {
    let plans = built()?;
    let (ways, uplinks) = ways(&plans)?;
    if listed_elsewhere(&table(&ways, &uplinks)?)? == listed_here() {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::degraded(WHAT, "the table 'inet runns' of nftables is not as it was made (flushed?)")])
}
