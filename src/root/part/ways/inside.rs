//! What belongs inside: a table of nftables, and routes of our own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use super::{TABLE, WHAT, Way, cidr, listed_elsewhere, listed_here, set};
use crate::host::{set_sysctl, sysctl};
use crate::netlink::{AddressFamily, Netlink, Network, NetworkV6, Packets, Route, in_namespace};
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
/// Inside: the one where queries find no way.
const NAMES: u32 = 17_251_002;
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
        text += &quiet(way);
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
    let mut names = "";
    if way.locked {
        for (name, kind, is_v4) in [("resolvers", "ipv4_addr", true), ("resolvers_v6", "ipv6_addr", false)] {
            let servers = way.resolvers.iter().filter(|server| server.is_ipv4() == is_v4);
            text += &set("set", name, kind, servers.map(ToString::to_string).collect());
        }
        text += "chain names {\nip daddr @resolvers return\nip6 daddr @resolvers_v6 return\ndrop\n}\n";
        names = "meta l4proto { tcp, udp } th dport 53 jump names\n";
    }
    text += &chain(
        "leaving_beside",
        "filter hook postrouting priority mangle",
        &[format!("oifname \"{INSIDE}\" jump beside")],
    );
    // Of all answers, those to what came by the veth. What is for the host must not be passed on by it.
    text + &format!(
        "chain beside {{\nct direction reply ct mark {MARK:#x} return\n\
         ip daddr @bypassed return\nip6 daddr @bypassed_v6 return\n{names}\
         ip daddr @host {ports} ip ttl set 1 return\nip6 daddr @host_v6 {ports} ip6 hoplimit set 1 return\n{rest}}}\n"
    )
}

/// A socket that is bound to the veth does not follow the routes of the tunnel, and asks for no names. [`queries`] leads
/// its query to where there is no route, for which IPv4 takes whatever is asked for to be on the link (net/ipv4/route.c,
/// ip_route_output_key_hash_rcu). Everything else goes to the host, or on by it.
fn quiet(way: &Way) -> String {
    if !way.quiet {
        return String::new();
    }
    let query = format!("oifname \"{INSIDE}\" meta l4proto {{ tcp, udp }} th dport 53 ip daddr != @bypassed");
    let rule = format!("{query} rt ip nexthop != {} drop", way.subnet.host());
    chain("asking", "filter hook output priority raw", &[rule])
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
    if way.quiet {
        inside.add_route(EVERYWHERE, NAMES, None)?;
        queries().iter().try_for_each(|packets| inside.add_rule(packets, NAMES, PRIORITY - 1))?;
    }
    let wanted = beside_v4(&way, &addresses_of_host(&site.host, &way)?.0);
    // To an address that was the host's, for one.
    let is_stale = |route: &&Route| route.table == BESIDE && !wanted.contains(&route.network);
    inside.routes()?.iter().filter(is_stale).try_for_each(|route| inside.delete_route(route))?;
    for network in way.bypassed_v4() {
        // Should the device go, the tunnel does not get it.
        inside.add_route(network, BESIDE, None)?;
    }
    for network in wanted {
        let is_own = network == network_of(way.subnet);
        inside.add_route(network, BESIDE, Some(if is_own { (index, None) } else { hop }))?;
    }
    inside.add_rule(&Packets::All, BESIDE, PRIORITY + 1)
}

/// The networks beside the tunnel. Its server must not choose who is behind the address of the gateway, so the veth's own
/// is one of them.
fn beside_v4(way: &Way, host: &[Ipv4Addr]) -> Vec<Network> {
    let others = host.iter().filter(|address| **address != way.subnet.host());
    let host = others.map(|address| Network { address: *address, prefix: 32 });
    way.bypassed_v4().chain(host).chain([network_of(way.subnet)]).collect()
}

/// The same for IPv6.
fn beside_v6(way: &Way, pair: &Pair, host: &[Ipv6Addr]) -> Vec<NetworkV6> {
    let host = host.iter().filter(|address| **address != pair.host).map(|address| (*address, 128));
    way.bypassed_v6().chain(host).chain([pair.network()]).collect()
}

/// Queries by sockets that are bound to the veth, for which the routes of the tunnel do not count.
fn queries() -> [Packets<'static>; 2] {
    [Protocol::Udp, Protocol::Tcp].map(|protocol| Packets::Bound { device: INSIDE, protocol, port: 53 })
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
    if way.quiet {
        inside.add_route_v6(EVERYWHERE_V6, NAMES, None)?;
        queries().iter().try_for_each(|packets| add_rule(packets, NAMES, PRIORITY - 1))?;
    }
    let wanted = beside_v6(way, pair, host);
    let is_stale = |(network, table): &&(NetworkV6, u32)| *table == BESIDE && !wanted.contains(network);
    let delete = |(network, table): &(NetworkV6, u32)| inside.delete_route_v6(*network, *table);
    inside.routes_v6()?.iter().filter(is_stale).try_for_each(delete)?;
    for network in way.bypassed_v6() {
        inside.add_route_v6(network, BESIDE, None)?;
    }
    for network in wanted {
        let is_own = network == pair.network();
        inside.add_route_v6(network, BESIDE, Some(if is_own { (index, None) } else { hop }))?;
    }
    add_rule(&Packets::All, BESIDE, PRIORITY + 1)
}

/// Whether all that [`route_v6`] makes is there, and nothing else.
fn is_routed_v6(inside: &Netlink, way: &Way, pair: &Pair, host: &[Ipv6Addr]) -> Result<bool> {
    let routes = inside.routes_v6()?;
    let mut rules = Vec::new();
    if way.published_v6().next().is_some() {
        if !routes.contains(&(EVERYWHERE_V6, ANSWERS)) {
            return Ok(false);
        }
        rules.push(MARKED);
        rules.extend(udp_ports(way.published_v6()).map(Packets::Udp));
    }
    if way.has_tunnel {
        rules.push(Packets::All);
        rules.extend(queries().into_iter().filter(|_| way.quiet));
    }
    let beside: Vec<NetworkV6> =
        routes.iter().filter(|(_, table)| *table == BESIDE).map(|(network, _)| *network).collect();
    let wanted = beside_v6(way, pair, host);
    let is_right = beside.iter().all(|network| wanted.contains(network));
    let is_right = is_right && (!way.has_tunnel || wanted.iter().all(|network| beside.contains(network)));
    Ok(is_right && has_rules(inside, AddressFamily::Inet6, &rules)?)
}

fn has_rules(inside: &Netlink, family: AddressFamily, rules: &[Packets]) -> Result<bool> {
    for packets in rules {
        if !inside.has_rule_of(family, packets)? {
            return Ok(false);
        }
    }
    Ok(true)
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
    let mut rules = Vec::new();
    if !way.published.is_empty() {
        rules.push(MARKED);
        rules.extend(udp_ports(way.published.iter()).filter(|_| way.killed).map(Packets::Udp));
    }
    if way.has_tunnel {
        rules.push(Packets::All);
        rules.extend(queries().into_iter().filter(|_| way.quiet));
    }
    let (listed, set, routes, ruled) = in_namespace(deep.file.as_fd(), || {
        let is_set = |(name, value): &(&str, &str)| sysctl(name).is_ok_and(|now| now.as_deref() == Some(*value));
        let inside = Netlink::here()?;
        let ruled = has_rules(&inside, AddressFamily::Inet, &rules)?;
        if let Some(pair) = &way.ipv6 {
            routed_v6 = is_routed_v6(&inside, &way, pair, &host.1)?;
        }
        Ok((listed_here(), sysctls(&way).iter().all(is_set), inside.routes()?, ruled))
    })?;
    if listed != wanted || !set {
        found.push(Finding::degraded(WHAT, "the rules inside are not those that were made"));
    }
    let in_table = |table: u32| {
        let routes = routes.iter().filter(move |route| route.table == table && route.unicast);
        routes.map(|route| route.network).collect::<Vec<_>>()
    };
    let (beside, answers) = (in_table(BESIDE), in_table(ANSWERS));
    let wanted = if way.has_tunnel { beside_v4(&way, &host.0) } else { Vec::new() };
    let same = wanted.iter().all(|network| beside.contains(network)) && beside.iter().all(|one| wanted.contains(one));
    let answered = way.published.is_empty() || answers.contains(&EVERYWHERE);
    if !same || !answered || !ruled || !routed_v6 {
        found.push(Finding::degraded(WHAT, "the routes inside are not as built, or for addresses that the host had"));
    }
    Ok(found)
}
