//! What belongs inside: a table of nftables, and routes of our own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use super::{TABLE, WHAT, Way, cidr, listed_elsewhere, listed_here, set};
use crate::host::{set_sysctl, sysctl};
use crate::netlink::{AddressFamily, Netlink, Network, NetworkV6, Packets, in_namespace};
use crate::part::ipv6::Pair;
use crate::part::{Finding, Site, netns, uplink::is_own_group, veth::INSIDE};
use crate::seen::Subject;
use crate::tool;
use runns_shared::error::{Error, Result};
use runns_shared::neighbours::{HostAccess, Protocol, Published, Subnet};

/// Inside: what belongs to a connection that came in by the veth.
const MARK: u32 = 0x7275_0001;
/// Inside: the table for what is so marked, and the one that precedes all routes of tunnels.
const ANSWERS: u32 = 17_251_000;
const BESIDE: u32 = 17_251_001;
/// Of the rules that lead to them: ahead of those for OpenVPN's own packets, which have 1000 and more.
const PRIORITY: u32 = 900;
/// Of those that are asked last, behind the main and the default table (ip-rule(8)).
const PRIORITY_AFTER_ALL: u32 = 32_768;
const EVERYWHERE: Network = Network { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };
const EVERYWHERE_V6: NetworkV6 = (Ipv6Addr::UNSPECIFIED, 0);
const MARKED: Packets = Packets::Marked { mark: MARK, mask: u32::MAX };

/// How long a peer is remembered that has hardly been answered: as long as by connection tracking (30 s,
/// nf_conntrack_proto_udp.c). And any other: longer than there (120 s), in case the program sends something after a while.
const FRESH: &str = "30s";
const KNOWN: &str = "5m";
/// New clients of one neighbour: a second, and at once.
const RATE: u32 = 20;
const BURST: u32 = 400;

/// The table inside.
fn table_inside(way: &Way, (host, host_v6): &(Vec<Ipv4Addr>, Vec<Ipv6Addr>)) -> String {
    let mut text = format!("table {TABLE} {{\n");
    let shared = Shared::of(way);
    text += &coming_and_going(way, &shared);
    text.extend(shared.iter().map(Shared::chains));
    if way.has_tunnel {
        text += &set("set", "host", "ipv4_addr", host.iter().map(ToString::to_string).collect());
        text += &set("set", "host_v6", "ipv6_addr", host_v6.iter().map(ToString::to_string).collect());
        for (name, kind, is_v4) in [("bypassed", "ipv4_addr", true), ("bypassed_v6", "ipv6_addr", false)] {
            let networks = way.bypassed.iter().filter(|network| network.0.is_ipv4() == is_v4);
            text += &set("set", name, &format!("{kind}; flags interval"), networks.map(cidr).collect());
        }
        text += &by_the_tunnel(way, &shared);
        text += &beside(way);
    }
    text + "}\n"
}

/// What comes in by the veth, and what answers it.
fn coming_and_going(way: &Way, shared: &[Shared]) -> String {
    let by_veth = format!("iifname \"{INSIDE}\"");
    let mut arriving = vec![format!("{by_veth} ct state new ct mark set {MARK:#x}")];
    if way.published.is_empty() {
        return if way.killed {
            chain("arriving", "filter hook prerouting priority mangle", &arriving)
        } else {
            String::new()
        };
    }
    arriving.push(format!("{by_veth} ct mark {MARK:#x} meta mark set {MARK:#x}"));
    if way.has_tunnel {
        // An error message about a flow that is not known here could be about one that runs through the tunnel.
        arriving.push(format!("{by_veth} meta l4proto {{ icmp, ipv6-icmp }} ct state invalid drop"));
    }
    let answers = format!("ct direction reply ct mark {MARK:#x}");
    let mut leaving = vec![format!("{answers} meta mark set {MARK:#x}")];
    let mut source = Vec::new();
    for one in shared {
        let suffix = one.suffix;
        arriving.push(format!("{by_veth} ct direction original {} jump from_client{suffix}", one.dport()));
        source.push(format!("{} jump to_peer{suffix}", one.sport()));
        leaving.push(format!("{answers} {} jump to_client{suffix}", one.sport()));
    }
    let mut text = chain("arriving", "filter hook prerouting priority mangle", &arriving);
    if !source.is_empty() {
        // Ahead of connection tracking, which has to see by which address the packet leaves.
        text += &chain("source", "route hook output priority -310", &source);
    }
    text + &chain("leaving", "route hook output priority mangle", &leaving)
}

/// A chain of a hook.
fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    format!("chain {name} {{ type {hook};\n{}\n}}\n", rules.join("\n"))
}

/// UDP ports of one family that are published, where a tunnel is another way out. A server that listens on all addresses
/// answers from the address of the tunnel, before connection tracking could tell what it answers. So it is remembered by
/// which way each peer of such a port talks to it: `clients` by the veth, `tunnelled` by the tunnel. The way that comes
/// first keeps the peer; what comes by the other is dropped, since the program would answer both from one socket.
struct Shared {
    /// Of the names of sets and chains.
    suffix: &'static str,
    /// The protocol, as nft(8) calls it.
    protocol: &'static str,
    /// The type of its addresses.
    kind: &'static str,
    /// What counts as one neighbour: of IPv6, everybody may have all addresses of a network.
    neighbour: &'static str,
    /// The address of the veth inside.
    inside: IpAddr,
    ports: BTreeSet<u16>,
    /// See [`Way::killed`].
    killed: bool,
}

impl Shared {
    fn of(way: &Way) -> Vec<Self> {
        if !way.has_tunnel {
            return Vec::new();
        }
        let v4 = Self {
            suffix: "",
            protocol: "ip",
            kind: "ipv4_addr",
            neighbour: "ip saddr",
            inside: way.subnet.inside().into(),
            ports: udp_ports(way.published.iter().filter(|port| port.has_ipv4())).collect(),
            killed: way.killed,
        };
        let v6 = way.ipv6.map(|pair| Self {
            suffix: "_v6",
            protocol: "ip6",
            kind: "ipv6_addr",
            neighbour: "ip6 saddr & ffff:ffff:ffff:ffff::",
            inside: pair.inside.into(),
            ports: udp_ports(way.published_v6()).collect(),
            killed: way.killed,
        });
        [Some(v4), v6].into_iter().flatten().filter(|shared| !shared.ports.is_empty()).collect()
    }

    /// Packets to the ports.
    fn dport(&self) -> String {
        self.packets("dport")
    }

    /// Packets from the ports.
    fn sport(&self) -> String {
        self.packets("sport")
    }

    fn packets(&self, end: &str) -> String {
        let family = if self.protocol == "ip" { "ipv4" } else { "ipv6" };
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        format!("meta nfproto {family} udp {end} {{ {} }}", ports.join(", "))
    }

    /// An element stands for a peer's address, its port, and ours, and is renewed by each packet. One neighbour gets
    /// [`BURST`] elements of `clients` and [`RATE`] a second, so that a whole /24 does not fill it in [`FRESH`]. A full set
    /// still serves the peers that are in it, and what it cannot take is dropped: nothing is sent to a peer whose way is
    /// not known.
    fn chains(&self) -> String {
        let Self { suffix: s, protocol: ip, kind, neighbour, inside, .. } = self;
        let from = format!("{ip} saddr . udp sport . udp dport");
        let to = format!("{ip} daddr . udp dport . udp sport");
        let peers = "inet_service . inet_service; flags dynamic,timeout; size 262144";
        // Under the kill switch, anything else that the veth would get is meant for the tunnel, which is down.
        let beside = if self.killed {
            format!("{ip} daddr @bypassed{s} return\n{ip} daddr @host{s} return")
        } else {
            format!("oifname \"{INSIDE}\" return")
        };
        format!(
            "set clients{s} {{ type {kind} . {peers}; timeout {FRESH}; }}\n\
             set tunnelled{s} {{ type {kind} . {peers}; timeout {KNOWN}; }}\n\
             set neighbours{s} {{ type {kind}; flags dynamic,timeout; size 65536; timeout 1m; }}\n\
             chain from_client{s} {{\n\
             {from} @tunnelled{s} drop\n\
             ct status assured update @clients{s} {{ {from} timeout {KNOWN} }} return\n\
             {from} != @clients{s} update @neighbours{s} {{ {neighbour} limit rate over {RATE}/second burst {BURST} packets }} drop\n\
             update @clients{s} {{ {from} timeout {FRESH} }} return\n\
             drop\n}}\n\
             chain from_tunnel{s} {{\n\
             {from} @clients{s} drop\n\
             ct status assured update @tunnelled{s} {{ {from} timeout {KNOWN} }} return\n\
             {from} != @tunnelled{s} update @tunnelled{s} {{ {from} timeout {FRESH} }}\n}}\n\
             chain to_peer{s} {{\n\
             {to} @clients{s} {to} != @tunnelled{s} {ip} saddr set {inside} meta mark set {MARK:#x} return\n\
             oifname \"lo\" return\n{beside}\n\
             update @tunnelled{s} {{ {to} timeout {KNOWN} }} return\n\
             drop\n}}\n\
             chain to_client{s} {{\n\
             ct status assured update @clients{s} {{ {to} timeout {KNOWN} }} return\n\
             update @clients{s} {{ {to} timeout {FRESH} }}\n}}\n"
        )
    }
}

/// What leaves by the veth beside a tunnel. Under the kill switch, whatever is not named is dropped.
fn beside(way: &Way) -> String {
    let mut text = String::new();
    let ports = match &way.access {
        HostAccess::Ports(ports) if way.killed => {
            let ports = ports.iter().map(|port| format!("{} . {}", port.protocol, port.number));
            text += &set("set", "host_ports", "inet_proto . inet_service", ports.collect());
            "meta l4proto . th dport @host_ports"
        }
        _ => "",
    };
    let rest = if way.killed { "drop\n" } else { "" };
    text += &chain(
        "leaving_beside",
        "filter hook postrouting priority mangle",
        &[format!("oifname \"{INSIDE}\" jump beside")],
    );
    // Of all answers, those to what came by the veth.
    text + &format!(
        "chain beside {{\nct direction reply ct mark {MARK:#x} return\nip daddr @bypassed return\n\
         ip daddr @host {ports} return\nip6 daddr @bypassed_v6 return\nip6 daddr @host_v6 {ports} return\n{rest}}}\n"
    )
}

/// What comes by a tunnel as if it were from what is beside it, or for the veth's own network, would be answered or passed
/// on beside the tunnel: whoever serves the tunnel would reach the LAN.
fn by_the_tunnel(way: &Way, shared: &[Shared]) -> String {
    let mut rules = vec!["ip saddr @bypassed drop".to_string(), "ip saddr @host drop".to_string()];
    rules.extend(["ip6 saddr @bypassed_v6 drop".to_string(), "ip6 saddr @host_v6 drop".to_string()]);
    rules.extend(["saddr", "daddr"].map(|end| format!("ip {end} {} drop", way.subnet)));
    if let Some((network, prefix)) = way.ipv6.map(|pair| pair.network()) {
        rules.extend(["saddr", "daddr"].map(|end| format!("ip6 {end} {network}/{prefix} drop")));
    }
    rules.extend(shared.iter().map(|one| format!("{} jump from_tunnel{}", one.dport(), one.suffix)));
    rules.insert(0, format!("iifname {{ \"lo\", \"{INSIDE}\" }} return"));
    chain("by_the_tunnel", "filter hook prerouting priority mangle - 1", &rules)
}

/// The addresses by which the host is reached from the namespace beside the tunnel: all that the host has or, if only
/// the resolver is reached, that of the resolver.
fn addresses_of_host(host: &Netlink, way: &Way) -> Result<(Vec<Ipv4Addr>, Vec<Ipv6Addr>)> {
    let groups: Vec<u32> =
        host.links()?.iter().filter(|link| is_own_group(link.group)).map(|link| link.index).collect();
    let all: Vec<Ipv4Addr> = host
        .addresses()?
        .into_iter()
        .filter(|(index, network)| !groups.contains(index) && !network.address.is_loopback())
        .map(|(_, network)| network.address)
        .chain([way.subnet.host()])
        .collect();
    let reached = |address: &Ipv4Addr| {
        way.access != HostAccess::Ports(Vec::new()) || way.resolvers.contains(&IpAddr::V4(*address))
    };
    let mut reached: Vec<Ipv4Addr> = all.into_iter().filter(reached).collect();
    reached.sort_unstable();
    reached.dedup();
    let mut reached_v6 = Vec::new();
    if let Some(pair) = way.ipv6.filter(|_| way.access != HostAccess::Ports(Vec::new())) {
        let is_other = |address: &Ipv6Addr| !address.is_loopback() && !address.is_unicast_link_local();
        let theirs = host.addresses_v6()?.into_iter().filter(|(index, _)| !groups.contains(index));
        reached_v6.extend(theirs.map(|(_, address)| address).filter(is_other).chain([pair.host]));
        reached_v6.sort_unstable();
        reached_v6.dedup();
    }
    Ok((reached, reached_v6))
}

/// Sets up what belongs inside, on the veth, which is there and may be up. What forbids comes first.
pub fn set_up(site: &Site) -> Result<()> {
    let Some(way) = Way::of(site.plan())? else { return Ok(()) };
    let file = netns::open_built(site)?.ok_or_else(|| Error::new("set up the ways inside", "the namespace is gone"))?;
    let host = addresses_of_host(&site.host, &way)?;
    let text = format!("add table {TABLE}\ndelete table {TABLE}\n{}", table_inside(&way, &host));
    in_namespace(file.as_fd(), || {
        tool::run("nft", &["-f", "-"], &text)?;
        for (name, value) in sysctls(&way) {
            set_sysctl(name, value)?;
        }
        Ok(())
    })
}

/// Sets up the routes inside. The device is up by now.
pub fn route(site: &Site, inside: &Netlink, index: u32) -> Result<()> {
    let Some(way) = Way::of(site.plan())? else { return Ok(()) };
    let hop = (index, Some(way.subnet.host()));
    if let Some(pair) = &way.ipv6 {
        route_v6(inside, index, &way, pair, &addresses_of_host(&site.host, &way)?.1)?;
    }
    if !way.published.is_empty() {
        inside.add_route(EVERYWHERE, ANSWERS, Some(hop))?;
        inside.add_rule(&MARKED, ANSWERS, PRIORITY)?;
    }
    if way.killed {
        // Without a default route, a socket that has no connection is refused before the table inside sees its packet.
        for port in udp_ports(way.published.iter()) {
            inside.add_rule(&Packets::Udp(port), ANSWERS, PRIORITY_AFTER_ALL)?;
        }
    }
    if !way.has_tunnel {
        return Ok(());
    }
    // The server must not choose who is behind the address of the gateway.
    inside.add_route(network_of(way.subnet), BESIDE, Some((index, None)))?;
    for network in way.bypassed_v4() {
        // Should the device go, the tunnel does not get it.
        inside.add_route(network, BESIDE, None)?;
        inside.add_route(network, BESIDE, Some(hop))?;
    }
    let gate = way.subnet.host();
    let host = addresses_of_host(&site.host, &way)?;
    for address in host.0.iter().filter(|address| **address != gate) {
        inside.add_route(Network { address: *address, prefix: 32 }, BESIDE, Some(hop))?;
    }
    inside.add_rule(&Packets::All, BESIDE, PRIORITY + 1)
}

/// The same for IPv6.
fn route_v6(inside: &Netlink, index: u32, way: &Way, pair: &Pair, host: &[Ipv6Addr]) -> Result<()> {
    let hop = (index, Some(pair.host));
    let add_rule =
        |packets: &Packets, table, priority| inside.add_rule_of(AddressFamily::Inet6, packets, table, priority);
    if way.published_v6().next().is_some() {
        inside.add_route_v6(EVERYWHERE_V6, ANSWERS, Some(hop))?;
        add_rule(&MARKED, ANSWERS, PRIORITY)?;
        for port in udp_ports(way.published_v6()) {
            add_rule(&Packets::Udp(port), ANSWERS, PRIORITY_AFTER_ALL)?;
        }
    }
    if !way.has_tunnel {
        return Ok(());
    }
    inside.add_route_v6(pair.network(), BESIDE, Some((index, None)))?;
    for network in way.bypassed_v6() {
        inside.add_route_v6(network, BESIDE, None)?;
        inside.add_route_v6(network, BESIDE, Some(hop))?;
    }
    for address in host.iter().filter(|address| **address != pair.host) {
        inside.add_route_v6((*address, 128), BESIDE, Some(hop))?;
    }
    add_rule(&Packets::All, BESIDE, PRIORITY + 1)
}

/// Whether all that [`route_v6`] makes is there.
fn is_routed_v6(inside: &Netlink, way: &Way, pair: &Pair, host: &[Ipv6Addr]) -> Result<bool> {
    let routes = inside.routes_v6()?;
    let has_rule = |packets: &Packets| inside.has_rule_of(AddressFamily::Inet6, packets);
    if way.published_v6().next().is_some() {
        let mut ports = udp_ports(way.published_v6());
        let is_last = ports.all(|port| has_rule(&Packets::Udp(port)).unwrap_or(false));
        if !routes.contains(&(EVERYWHERE_V6, ANSWERS)) || !has_rule(&MARKED)? || !is_last {
            return Ok(false);
        }
    }
    let beside = host.iter().filter(|address| **address != pair.host).map(|address| (*address, 128));
    let mut beside = beside.chain(way.bypassed_v6()).chain([pair.network()]);
    Ok(!way.has_tunnel || has_rule(&Packets::All)? && beside.all(|network| routes.contains(&(network, BESIDE))))
}

fn network_of(subnet: Subnet) -> Network {
    Network { address: subnet.network, prefix: subnet.prefix }
}

/// The ports inside that are published by UDP.
fn udp_ports<'a>(published: impl Iterator<Item = &'a Published>) -> impl Iterator<Item = u16> {
    published.filter(|port| port.port.protocol == Protocol::Udp).map(|port| port.inside)
}

fn sysctls(way: &Way) -> &'static [(&'static str, &'static str)] {
    // A server's socket is marked as the connection was that it accepted, and the way back is looked up by the mark.
    const MARKED: [(&str, &str); 2] = [("net/ipv4/tcp_fwmark_accept", "1"), ("net/ipv4/conf/eth0/src_valid_mark", "1")];
    if way.published.is_empty() { &[] } else { &MARKED }
}

/// What is wrong inside, where all of it belongs to the veth and is mended with it.
pub fn look_inside(subject: &Subject) -> Result<Vec<Finding>> {
    let Some(way) = Way::of(&subject.record.plan)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let Some(deep) = subject.deep()? else { return Ok(found) };
    let host = addresses_of_host(subject.seen.netlink()?, &way)?;
    let wanted = listed_elsewhere(&table_inside(&way, &host))?;
    let mut routed_v6 = true;
    let inside = in_namespace(deep.file.as_fd(), || {
        let is_set = |(name, value): &(&str, &str)| sysctl(name).is_ok_and(|now| now.as_deref() == Some(*value));
        let inside = Netlink::here()?;
        let mut last: Vec<u16> = if way.killed { udp_ports(way.published.iter()).collect() } else { Vec::new() };
        last.retain(|port| !inside.has_rule(&Packets::Udp(*port)).unwrap_or(true));
        let rules = (inside.has_rule(&Packets::All)?, inside.has_rule(&MARKED)? && last.is_empty());
        if let Some(pair) = &way.ipv6 {
            routed_v6 = is_routed_v6(&inside, &way, pair, &host.1)?;
        }
        Ok((listed_here(), sysctls(&way).iter().all(is_set), inside.routes()?, rules))
    })?;
    let (listed, set, routes, (leads_beside, leads_back)) = inside;
    if listed != wanted || !set {
        found.push(Finding::degraded(WHAT, "the rules inside are not those that were made"));
    }
    let has = |network: Network, table: u32| {
        routes.iter().any(|route| route.network == network && route.table == table && route.unicast)
    };
    let mut beside: Vec<Network> = way.bypassed_v4().chain([network_of(way.subnet)]).collect();
    beside.extend(
        host.0
            .iter()
            .filter(|address| **address != way.subnet.host())
            .map(|address| Network { address: *address, prefix: 32 }),
    );
    let lost = way.has_tunnel && !beside.iter().all(|network| has(*network, BESIDE));
    let lost = lost || (way.has_tunnel && !leads_beside);
    let answered = way.published.is_empty() || (leads_back && has(EVERYWHERE, ANSWERS));
    if lost || !answered || !routed_v6 {
        found.push(Finding::degraded(WHAT, "routes inside are gone"));
    }
    Ok(found)
}
