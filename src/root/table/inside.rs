//! The table inside a namespace: the DNS lock, and what keeps exceptions to the tunnel apart from
//! it.
//!
//! DNS lock: every packet to port 53 is redirected to the namespace's resolver, whatever its
//! destination address, and rejected if the resolver has no address of the packet's family. Queries
//! to 127.0.0.53 and other loopback addresses are redirected as well, which needs route_localnet
//! (ip-sysctl.rst). That setting alone would also admit packets from the tunnel that are addressed
//! to servers on 127.0.0.1 or claim to come from there, so packets to or from 127.0.0.0/8 are
//! dropped unless they arrive on lo.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use super::{Element, port_element};
use crate::facts::inside::Facts;
use crate::facts::veth::{INSIDE, Veth};
use crate::kernel::nft::{TABLE, set};
use runns_shared::exceptions::{HostAccess, Port, Protocol, Published};

/// What belongs to a connection that came in by the veth.
pub const MARK: u32 = 0x7275_0001;

/// How long a peer is remembered that has hardly been answered: as long as by connection tracking
/// (30 s, nf_conntrack_proto_udp.c). And any other: longer than there (120 s), in case the program
/// sends something after a while.
const FRESH: &str = "30s";
const KNOWN: &str = "5m";
/// New peers of one address: a second, and at once.
const RATE: u32 = 20;
const BURST: u32 = 400;

/// The whole table; nothing if nothing has to be kept apart.
pub fn text(facts: &Facts) -> String {
    let veth = facts
        .veth
        .as_ref()
        .filter(|veth| veth.has_tunnel || !veth.published.is_empty());
    let text = veth.map_or(String::new(), |veth| exceptions(veth, facts))
        + &facts
            .locked
            .as_ref()
            .map_or(String::new(), |servers| dns_lock(servers));
    if text.is_empty() {
        text
    } else {
        format!("table {TABLE} {{\n{text}}}\n")
    }
}

/// See above.
fn dns_lock(servers: &[IpAddr]) -> String {
    let of_family = |is_v4| Element::of_family(Element::addresses(servers), is_v4);
    let target = |is_v4: bool| {
        servers
            .iter()
            .find(|server| server.is_ipv4() == is_v4 && !server.is_loopback())
    };
    let mut text = set("set", "resolvers", "ipv4_addr", of_family(true));
    text += &set("set", "resolvers_v6", "ipv6_addr", of_family(false));
    let (mut redirect, mut sources) = (String::new(), String::new());
    // IPv6 has no route_localnet: a query to ::1 stays there, where nobody answers.
    for (family, target) in [("ip", target(true)), ("ip6", target(false))] {
        let Some(target) = target else { continue };
        redirect += &format!("        dnat {family} to {target}\n");
        // Its source may be a loopback address, or that of the interface through which it would
        // have left.
        sources += &format!(
            "        {family} daddr {target} meta l4proto {{ tcp, udp }} th dport 53 ct status dnat masquerade\n"
        );
    }
    text + &DNS_LOCK
        .replace("REDIRECT\n", &redirect)
        .replace("SOURCES\n", &sources)
}

const DNS_LOCK: &str = include_str!("dns_lock.nft");

/// What keeps published ports, the host and networks that bypass the tunnel apart from it.
fn exceptions(veth: &Veth, facts: &Facts) -> String {
    let shared = Shared::of(veth);
    let mut text = coming_and_going(veth, &shared);
    // Sets that a renewal keeps come first, as they do then.
    text.extend(shared.iter().map(Shared::chains));
    if veth.ports_v4().next().is_some() {
        text += &to_loopback(veth);
    }
    if veth.has_tunnel {
        text += &set(
            "set",
            "host",
            "ipv4_addr",
            facts.host.iter().map(ToString::to_string).collect(),
        );
        text += &set(
            "set",
            "host_v6",
            "ipv6_addr",
            facts.host_v6.iter().map(ToString::to_string).collect(),
        );
        for (name, kind, is_v4) in [
            ("bypassed", "ipv4_addr", true),
            ("bypassed_v6", "ipv6_addr", false),
        ] {
            let networks = Element::of_family(Element::networks(&veth.bypassed), is_v4);
            text += &set("set", name, &format!("{kind}; flags interval"), networks);
        }
        text += &from_outside(veth);
        text += &by_the_tunnel(veth, &shared);
        text += &beside(veth);
        text += &quiet(veth);
    }
    text
}

/// What comes in by the veth, and what answers it.
fn coming_and_going(veth: &Veth, shared: &[Shared]) -> String {
    let by_veth = format!("iifname \"{INSIDE}\"");
    let mut arriving = vec![format!("{by_veth} ct state new ct mark set {MARK:#x}")];
    if veth.published.is_empty() {
        return if veth.killed {
            chain(
                "arriving",
                "filter hook prerouting priority mangle",
                &arriving,
            )
        } else {
            String::new()
        };
    }
    arriving.push(format!(
        "{by_veth} ct mark {MARK:#x} meta mark set {MARK:#x}"
    ));
    if veth.has_tunnel {
        // An error message about a flow that is not known here could be about one that runs through
        // the tunnel.
        arriving.push(format!(
            "{by_veth} meta l4proto {{ icmp, ipv6-icmp }} ct state invalid drop"
        ));
    }
    let answers = format!("ct direction reply ct mark {MARK:#x}");
    let mut leaving = vec![format!("{answers} meta mark set {MARK:#x}")];
    let mut source = Vec::new();
    for one in shared {
        let suffix = one.suffix;
        arriving.push(format!(
            "{by_veth} ct direction original {} jump from_client{suffix}",
            one.dport()
        ));
        source.push(format!("{} jump to_peer{suffix}", one.sport()));
        leaving.push(format!("{answers} {} jump to_client{suffix}", one.sport()));
    }
    let mut text = chain(
        "arriving",
        "filter hook prerouting priority mangle",
        &arriving,
    );
    if veth.ports_v4().next().is_some() {
        source.push(answer_from_loopback(veth));
    }
    if !source.is_empty() {
        // Ahead of connection tracking, which has to see by which address the packet leaves.
        text += &chain("source", "route hook output priority -310", &source);
    }
    text + &chain("leaving", "route hook output priority mangle", &leaving)
}

/// The replies of servers that listen on 127.0.0.1 alone leave by the veth, with its address.
fn answer_from_loopback(veth: &Veth) -> String {
    let ports = "meta l4proto . th sport @on_loopback";
    let from = format!("ip saddr 127.0.0.1 ip daddr != 127.0.0.0/8 {ports}");
    // What has no connection yet is not for the veth, where there is a tunnel.
    let answers = if veth.has_tunnel {
        "tcp flags & (syn | ack) != syn"
    } else {
        ""
    };
    let address = veth.subnet.inside();
    format!("{from} {answers} ip saddr set {address} meta mark set {MARK:#x}")
}

/// Servers inside that listen on 127.0.0.1 alone get the packets to a published port for which there
/// is no socket at the address of the veth. Their replies are routed to lo at first (see
/// `part/veth/routes.rs`), and get the address of the veth before they are tracked. So
/// route_localnet, with which others could send there, has no part in it. A socket counts in any
/// state: one that waits for the end of a connection (TIME-WAIT) has the server's port as well.
fn to_loopback(veth: &Veth) -> String {
    let ports: BTreeSet<Port> = veth.ports_v4().collect();
    let inside = veth.subnet.inside();
    set(
        "set",
        "on_loopback",
        "inet_proto . inet_service",
        ports.iter().map(port_element).collect(),
    ) + &chain(
        "to_loopback",
        "filter hook input priority 110",
        &[format!(
            "iifname \"{INSIDE}\" ct direction original ip daddr {inside} meta l4proto . th dport @on_loopback jump unheard"
        )],
    ) + "chain unheard {\nsocket transparent 0 return\nsocket transparent 1 return\nip daddr set 127.0.0.1\n}\n"
}

/// A chain of a hook.
fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    format!("chain {name} {{ type {hook};\n{}\n}}\n", rules.join("\n"))
}

/// UDP ports of one family that are published, where a tunnel is another way out. A server that
/// listens on all addresses answers from the address of the tunnel, before connection tracking
/// could tell what it answers. So it is remembered by which way each peer of such a port talks to
/// it: `clients` by the veth, `tunnelled` by the tunnel, `heard` by the tunnel while it has not been
/// answered. The way that comes first keeps the peer as long as packets come by it, and a peer that
/// the program has sent to through the tunnel stays there as long as packets come from anywhere;
/// what comes by the other way is dropped, since the program would answer both from one socket.
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
    /// See [`Veth::killed`].
    killed: bool,
}

impl Shared {
    fn of(veth: &Veth) -> Vec<Self> {
        if !veth.has_tunnel {
            return Vec::new();
        }
        let v4 = Self {
            suffix: "",
            protocol: "ip",
            kind: "ipv4_addr",
            neighbour: "ip saddr",
            inside: veth.subnet.inside().into(),
            ports: udp_ports(veth.published.iter().filter(|port| port.has_ipv4())).collect(),
            killed: veth.killed,
        };
        let v6 = veth.ipv6.map(|pair| Self {
            suffix: "_v6",
            protocol: "ip6",
            kind: "ipv6_addr",
            neighbour: "ip6 saddr & ffff:ffff:ffff:ffff::",
            inside: pair.inside.into(),
            ports: udp_ports(veth.published_v6()).collect(),
            killed: veth.killed,
        });
        [Some(v4), v6]
            .into_iter()
            .flatten()
            .filter(|shared| !shared.ports.is_empty())
            .collect()
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
        let family = if self.protocol == "ip" {
            "ipv4"
        } else {
            "ipv6"
        };
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        format!("meta nfproto {family} udp {end} {{ {} }}", ports.join(", "))
    }

    /// An element stands for a peer's address, its port, and ours, and is renewed by each packet.
    /// One address gets [`BURST`] elements of `clients` and of `heard`, and [`RATE`] a second: a
    /// whole /24 does not fill them in [`FRESH`]. A full set still serves the peers that are in it, and
    /// what it cannot take is dropped: nothing is sent to a peer whose way is not known.
    fn chains(&self) -> String {
        let Self {
            suffix: s,
            protocol: ip,
            kind,
            neighbour,
            inside,
            ..
        } = self;
        let from = format!("{ip} saddr . udp sport . udp dport");
        let to = format!("{ip} daddr . udp dport . udp sport");
        let peers = "inet_service . inet_service; flags dynamic,timeout; size 262144";
        // Under the kill switch, anything else that the veth would get is meant for the tunnel,
        // which is down.
        let beside = if self.killed {
            format!("{ip} daddr @bypassed{s} return\n{ip} daddr @host{s} return")
        } else {
            format!("oifname \"{INSIDE}\" return")
        };
        format!(
            "set clients{s} {{ type {kind} . {peers}; timeout {FRESH}; }}\n\
             set tunnelled{s} {{ type {kind} . {peers}; timeout {KNOWN}; }}\n\
             set heard{s} {{ type {kind} . {peers}; timeout {FRESH}; }}\n\
             set neighbours{s} {{ type {kind}; flags dynamic,timeout; size 65536; timeout 1m; }}\n\
             set talkers{s} {{ type {kind}; flags dynamic,timeout; size 65536; timeout 1m; }}\n\
             chain from_client{s} {{\n\
             {from} @tunnelled{s} update @tunnelled{s} {{ {from} timeout {KNOWN} }} drop\n\
             {from} @heard{s} drop\n\
             ct status assured update @clients{s} {{ {from} timeout {KNOWN} }} return\n\
             {from} != @clients{s} update @neighbours{s} {{ {neighbour} limit rate over {RATE}/second burst {BURST} packets }} drop\n\
             update @clients{s} {{ {from} timeout {FRESH} }} return\n\
             drop\n}}\n\
             chain from_tunnel{s} {{\n\
             {from} @clients{s} drop\n\
             ct status assured update @tunnelled{s} {{ {from} timeout {KNOWN} }} return\n\
             {from} @tunnelled{s} update @tunnelled{s} {{ {from} timeout {KNOWN} }} return\n\
             {from} != @heard{s} update @talkers{s} {{ {neighbour} limit rate over {RATE}/second burst {BURST} packets }} drop\n\
             update @heard{s} {{ {from} timeout {FRESH} }} return\n\
             drop\n}}\n\
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

/// What may come from outside, should the host let more through, and be answered: published ports,
/// and what the host itself sends. A connection to a port that is published no longer ends.
fn from_outside(veth: &Veth) -> String {
    let inside = |port: &Published| port_element(&port.port_inside());
    let ports = veth.published.iter().map(inside);
    let of_host = |end: &str| {
        let v6 = veth
            .ipv6
            .map(|pair| format!("ip6 {end} {} return\n", pair.host));
        format!("ip {end} {} return\n", veth.subnet.host()) + &v6.unwrap_or_default()
    };
    let asks = format!(
        "iifname \"{INSIDE}\" ct state {{ new, established }} ct direction original jump from_outside"
    );
    set(
        "set",
        "published",
        "inet_proto . inet_service",
        ports.collect(),
    ) + &chain(
        "entering",
        "filter hook prerouting priority mangle",
        &[asks],
    ) + &format!(
        "chain from_outside {{\n{}meta l4proto . th dport @published return\ndrop\n}}\n\
         chain answering {{\nct state related return\n{}meta l4proto . th sport @published return\ndrop\n}}\n",
        of_host("saddr"),
        of_host("daddr")
    )
}

/// What leaves by the veth beside a tunnel. Under the kill switch, whatever is not named is
/// dropped.
fn beside(veth: &Veth) -> String {
    let mut text = String::new();
    let kind = "inet_proto . inet_service";
    let (mut ports, mut localhost) = ("", String::new());
    if veth.killed && veth.access != HostAccess::Yes {
        let of = |ports: &[Port]| ports.iter().map(port_element).collect();
        text += &set("set", "host_ports", kind, of(veth.access.ports()));
        ports = "meta l4proto . th dport @host_ports";
        if !veth.localhost().is_empty() {
            text += &set("set", "localhost", kind, of(veth.localhost()));
            localhost = to_localhost(veth);
        }
    }
    let rest = if veth.killed { "drop\n" } else { "" };
    let mut names = "";
    if veth.locked {
        for (name, kind, is_v4) in [
            ("named", "ipv4_addr", true),
            ("named_v6", "ipv6_addr", false),
        ] {
            let servers = veth
                .resolvers
                .iter()
                .filter(|server| server.is_ipv4() == is_v4);
            text += &set(
                "set",
                name,
                kind,
                servers.map(ToString::to_string).collect(),
            );
        }
        text += "chain names {\nip daddr @named return\nip6 daddr @named_v6 return\ndrop\n}\n";
        names = "meta l4proto { tcp, udp } th dport 53 jump names\n";
    }
    text += &chain(
        "leaving_beside",
        "filter hook postrouting priority mangle",
        &[format!("oifname \"{INSIDE}\" jump beside")],
    );
    // Of all answers, those to what came by the veth. What is for the host must not be passed on by
    // it.
    text + &format!(
        "chain beside {{\nct direction reply ct mark {MARK:#x} goto answering\n\
         ip daddr @bypassed return\nip6 daddr @bypassed_v6 return\n{names}\
         ip daddr @host {ports} ip ttl set 1 return\nip6 daddr @host_v6 {ports} ip6 hoplimit set 1 return\n\
         {localhost}{rest}}}\n"
    )
}

/// The ports at the host's end of the veth that lead to servers on its loopback addresses.
fn to_localhost(veth: &Veth) -> String {
    let rule = |protocol: &str, host: &dyn Display, limit: &str| {
        format!(
            "{protocol} daddr {host} meta l4proto . th dport @localhost {protocol} {limit} set 1 return\n"
        )
    };
    let v6 = veth.ipv6.map(|pair| rule("ip6", &pair.host, "hoplimit"));
    rule("ip", &veth.subnet.host(), "ttl") + &v6.unwrap_or_default()
}

/// A socket that is bound to the veth does not follow the routes of the tunnel, and asks for no
/// names. A routing rule leads its query to where there is no route, for which IPv4 takes whatever
/// is asked for to be on the link (net/ipv4/route.c, ip_route_output_key_hash_rcu). Everything else
/// goes to the host, or on by it.
fn quiet(veth: &Veth) -> String {
    if !veth.quiet {
        return String::new();
    }
    let query = format!(
        "oifname \"{INSIDE}\" meta l4proto {{ tcp, udp }} th dport 53 ip daddr != @bypassed"
    );
    let rule = format!("{query} rt ip nexthop != {} drop", veth.subnet.host());
    chain(
        "by_bound_sockets",
        "filter hook output priority raw",
        &[rule],
    )
}

/// What comes by a tunnel as if it were from what is beside it, or for the veth's own network,
/// would be answered or passed on beside the tunnel: whoever serves the tunnel would reach the LAN.
fn by_the_tunnel(veth: &Veth, shared: &[Shared]) -> String {
    let mut rules = vec![
        "ip saddr @bypassed drop".to_string(),
        "ip saddr @host drop".to_string(),
    ];
    rules.extend([
        "ip6 saddr @bypassed_v6 drop".to_string(),
        "ip6 saddr @host_v6 drop".to_string(),
    ]);
    rules.extend(["saddr", "daddr"].map(|end| format!("ip {end} {} drop", veth.subnet)));
    if let Some(network) = veth.ipv6.map(|pair| pair.network()) {
        rules.extend(["saddr", "daddr"].map(|end| format!("ip6 {end} {network} drop")));
    }
    rules.extend(
        shared
            .iter()
            .map(|one| format!("{} jump from_tunnel{}", one.dport(), one.suffix)),
    );
    rules.insert(0, format!("iifname {{ \"lo\", \"{INSIDE}\" }} return"));
    chain(
        "by_the_tunnel",
        "filter hook prerouting priority mangle - 1",
        &rules,
    )
}

/// The ports inside that are published by UDP.
pub fn udp_ports<'a>(published: impl Iterator<Item = &'a Published>) -> impl Iterator<Item = u16> {
    published
        .filter(|port| port.port.protocol == Protocol::Udp)
        .map(|port| port.inside)
}
