//! Ways beside the tunnel: published ports, servers of the host, networks that bypass the tunnel.
//!
//! On the host all of it stands in one table of nftables, the same number of rules for all namespaces: sets and maps know
//! them by the name of the veth. The table is made anew from the records whenever one of them changes, in one step.
//!
//! Inside, a table of nftables and routes of our own see to it that an answer leaves as its question came, whatever
//! routes a tunnel has set. A server that listens on all addresses answers by UDP from the address of the tunnel; so the
//! clients of published ports are remembered, and the source of what goes to them is corrected.
//!
//! With IPv6, all that may be forwarded is decided here, since a namespace has IPv6 only for certain ways.
//!
//! A connection to 127.0.0.1 or ::1 gets the host's address on the veth as its source before it is tracked, and its answers get
//! the other address back. So nothing has to be allowed that opens the loopback addresses of the host to namespaces
//! (ip-sysctl.rst, route_localnet).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;

use super::ipv6::{self, Pair};
use super::{Finding, Part, Site, netns, uplink::Bound, uplink::is_own_group, veth::INSIDE};
use crate::host::{set_sysctl, sysctl};
use crate::netlink::{AddressFamily, Netlink, Network, NetworkV6, Packets, in_namespace, in_thread};
use crate::seen::Subject;
use crate::tool;
use nix::sched::{CloneFlags, unshare};
use runns_shared::error::{Context, Error, Result};
use runns_shared::name::IfaceName;
use runns_shared::neighbours::{Cidr, HostAccess, Port, Protocol, Published, Subnet};
use runns_shared::plan::{Plan, Request};
use runns_shared::record::{Record, State};

/// Our table, on the host and inside.
const TABLE: &str = "inet runns";
/// What an answer is marked with that leaves as the host routes it; see [`super::uplink`] for the other marks.
pub const ANSWER: &str = "0xff000000/0xff000000";
const OWN: &str = "iifgroup & 0xffffff00 == 0x72756e00";
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
/// What findings are about.
const WHAT: &str = "ways beside the tunnel";

/// The part.
pub struct Ways;

/// What one namespace has.
struct Way {
    interface: String,
    subnet: Subnet,
    published: Vec<Published>,
    access: HostAccess,
    bypassed: Vec<Cidr>,
    resolvers: Vec<Ipv4Addr>,
    uplink: Option<IfaceName>,
    /// The addresses of the veth pair, if it has IPv6.
    ipv6: Option<Pair>,
    has_tunnel: bool,
    /// The tunnel is the only other way.
    killed: bool,
}

impl Way {
    /// `None` if the plan has a veth on which nothing is forbidden and nothing published, or no veth.
    fn of(plan: &Plan) -> Result<Option<Self>> {
        let request = &plan.request;
        let access = request.neighbours.access(request.has_tunnel())?;
        let published = request.neighbours.published()?;
        let ipv6 = Pair::of(plan)?;
        let is_open = access == HostAccess::Yes && published.is_empty() && !request.has_tunnel() && ipv6.is_none();
        if !request.has_veth() || is_open {
            return Ok(None);
        }
        let is_pushed = |resolver: &&runns_shared::plan::Resolver| resolver.from != super::pushed::FROM;
        // One of the host's would be one more way out, which nobody has named.
        let resolvers = plan.resolver.as_ref().filter(is_pushed).filter(|_| !request.kill_switch);
        let resolvers = resolvers.map_or(&[][..], |resolver| &resolver.servers[..]);
        Ok(Some(Self {
            interface: request.interface.to_string(),
            subnet: plan.subnet(),
            published,
            access,
            bypassed: if request.has_tunnel() { request.neighbours.bypassed()? } else { Vec::new() },
            resolvers: resolvers.iter().filter_map(v4).collect(),
            uplink: request.uplink.clone(),
            ipv6,
            has_tunnel: request.has_tunnel(),
            killed: request.kill_switch,
        }))
    }
}

impl Way {
    /// The networks of IPv4 that bypass the tunnel.
    fn bypassed_v4(&self) -> impl Iterator<Item = Network> {
        self.bypassed.iter().filter_map(|(address, prefix)| Some(Network { address: v4(address)?, prefix: *prefix }))
    }

    /// Those of IPv6.
    fn bypassed_v6(&self) -> impl Iterator<Item = NetworkV6> {
        self.bypassed.iter().filter_map(|(address, prefix)| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some((*address, *prefix)),
        })
    }

    /// The published ports of IPv6, if the veth pair has it.
    fn published_v6(&self) -> impl Iterator<Item = &Published> {
        self.published.iter().filter(|port| self.ipv6.is_some() && port.has_ipv6())
    }
}

fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

impl Part for Ways {
    fn describe(&self, plan: &Plan) -> Option<String> {
        let way = Way::of(plan).ok()??;
        Some(format!("{WHAT}: {}", words(&plan.request, &way)))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        if Pair::of(site.plan())?.is_some() {
            ipv6::remember(site.lock)?;
        }
        make(site)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        replace(&others(site)?)?;
        Ok(true)
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        if subject.seen.root { subject.seen.once(WHAT, look_at_host) } else { Ok(Vec::new()) }
    }

    fn unseen(&self, _plan: &Plan) -> Option<&'static str> {
        Some("rules for ways beside the tunnel")
    }

    fn mend(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        make(site)
    }
}

/// What is open, for people.
fn words(request: &Request, way: &Way) -> String {
    let mut words: Vec<String> =
        way.published.iter().map(|port| format!("port {port} of the host leads inside")).collect();
    match &way.access {
        HostAccess::Yes => words.push("all servers of the host are reached".to_string()),
        HostAccess::Ports(ports) if ports.is_empty() => words.push("no server of the host is reached".to_string()),
        HostAccess::Ports(ports) => {
            let ports: Vec<String> = ports.iter().map(Port::to_string).collect();
            words.push(format!("ports {} of the host are reached", ports.join(", ")));
        }
    }
    if !way.bypassed.is_empty() {
        let networks: Vec<String> = way.bypassed.iter().map(cidr).collect();
        let uplink = request.uplink.as_ref().map_or("the uplink".to_string(), ToString::to_string);
        words.push(format!("{} by {uplink}", networks.join(", ")));
    }
    words.join("; ")
}

fn cidr((address, prefix): &Cidr) -> String {
    format!("{address}/{prefix}")
}

/// What was opened on purpose, for `status` and `check`; nothing if nothing was.
pub fn opened(plan: &Plan) -> Option<String> {
    let neighbours = &plan.request.neighbours;
    let is_asked = neighbours.opening().next().is_some();
    let way = Way::of(plan).ok()??;
    is_asked.then(|| words(&plan.request, &way))
}

/// Checks, before anything is made, that each published port is free, and that there is nft(8).
pub fn check(plan: &Plan) -> Result<()> {
    let Some(way) = Way::of(plan)? else { return Ok(()) };
    tool::need("nft", "nftables")?;
    if plan.request.neighbours.all("Bypass").next().is_some() && !plan.request.has_tunnel() {
        runns_shared::output::warn("Bypass has no effect: there is no tunnel");
    }
    for port in &way.published {
        let taken = |by: String| {
            Error::new(format!("publish port {}", port.port), format!("{by} has it"))
                .hint("choose another, PORT:INSIDE, or one address, ADDRESS:PORT:INSIDE")
        };
        for record in Record::all()?.iter().filter(|record| record.plan.request.name != plan.request.name) {
            let theirs = record.plan.request.neighbours.published().unwrap_or_default();
            if theirs.iter().any(|other| other.conflicts(port)) {
                return Err(taken(format!("namespace {}", record.plan.request.name)));
            }
        }
        if let Some(by) = listener(port) {
            return Err(taken(by));
        }
    }
    Ok(())
}

/// The program that listens on the host's port, in words.
fn listener(port: &Published) -> Option<String> {
    let protocol = port.port.protocol.to_string();
    let sockets = ["", "6"].into_iter().flat_map(|family| {
        let text = std::fs::read_to_string(format!("/proc/net/{protocol}{family}")).unwrap_or_default();
        text.lines().skip(1).map(str::to_string).collect::<Vec<_>>()
    });
    let inode = sockets.filter_map(|line| listening(&line, port)).next()?;
    let link = format!("socket:[{inode}]");
    let holds = |pid: &i32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == Path::new(&link)))
    };
    let process = crate::daemon::all().into_iter().find(holds);
    Some(process.map_or("another program of the host".to_string(), |pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{} (pid {pid})", runns_shared::escape::escape(name.trim().as_bytes()))
    }))
}

/// The inode of the socket in a line of /proc/net/tcp, tcp6, udp or udp6 (proc(5)) if it would get what is published.
fn listening(line: &str, port: &Published) -> Option<u64> {
    /// TCP_LISTEN and, of UDP, TCP_CLOSE: a socket that is not connected (net/tcp_states.h).
    const STATES: [&str; 2] = ["0A", "07"];
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, number) = fields.get(1)?.split_once(':')?;
    if u16::from_str_radix(number, 16).ok()? != port.port.number || !STATES.contains(fields.get(3)?) {
        return None;
    }
    let words: Option<Vec<[u8; 4]>> = address.as_bytes().chunks(8).map(word).collect();
    let bytes = words?.concat();
    let address = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    // A socket on :: usually takes IPv4 connections as well (ipv6(7), IPV6_V6ONLY).
    let theirs = if address.is_unspecified() { None } else { Some(address) };
    let theirs = if theirs.is_none() && address.is_ipv4() { Some(address) } else { theirs };
    Published { address: theirs, ..*port }.conflicts(port).then(|| fields.get(9)?.parse().ok()).flatten()
}

/// Eight hexadecimal digits: four bytes, printed as a number of the machine.
fn word(digits: &[u8]) -> Option<[u8; 4]> {
    Some(u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?.to_ne_bytes())
}

/// Makes the host's table from the records, this namespace included.
fn make(site: &Site) -> Result<()> {
    let mut plans = others(site)?;
    plans.push(site.plan().clone());
    replace(&plans)
}

/// Has the host's table, if there is one, follow a change of the uplinks, with this namespace or without it.
pub fn follow(site: &Site, included: bool) -> Result<()> {
    let mut plans = others(site)?;
    plans.extend(included.then(|| site.plan().clone()));
    if ways(&plans)?.0.is_empty() { Ok(()) } else { replace(&plans) }
}

fn others(site: &Site) -> Result<Vec<Plan>> {
    let plans = Record::all()?.into_iter().map(|record| record.plan);
    Ok(plans.filter(|plan| plan.request.name != site.plan().request.name).collect())
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
fn replace(plans: &[Plan]) -> Result<()> {
    let (ways, uplinks) = ways(plans)?;
    if ways.is_empty() && tool::find("nft").is_none() {
        return Ok(());
    }
    let text = if ways.is_empty() { String::new() } else { table(&ways, &uplinks)? };
    tool::run("nft", &["-f", "-"], &format!("add table {TABLE}\ndelete table {TABLE}\n{text}")).map(drop)
}

/// A set or map with its elements.
fn set(kind: &str, name: &str, types: &str, elements: Vec<String>) -> String {
    let elements =
        if elements.is_empty() { String::new() } else { format!("elements = {{ {} }};", elements.join(", ")) };
    format!("{kind} {name} {{ type {types}; {elements} }}\n")
}

/// The host's table.
fn table(ways: &[Way], uplinks: &BTreeSet<&IfaceName>) -> Result<String> {
    let mut text = format!("table {TABLE} {{\n");
    let closed = ways.iter().filter(|way| way.access != HostAccess::Yes);
    text += &set("set", "closed", "ifname", closed.clone().map(|way| quoted(&way.interface)).collect());
    let ports = closed.clone().flat_map(|way| {
        let HostAccess::Ports(ports) = &way.access else { return Vec::new() };
        ports.iter().map(|port| format!("{} . {} . {}", quoted(&way.interface), port.protocol, port.number)).collect()
    });
    text += &set("set", "host_ports", "ifname . inet_proto . inet_service", ports.collect());
    let resolvers = closed.flat_map(|way| {
        way.resolvers.iter().map(|server| format!("{} . {server}", quoted(&way.interface))).collect::<Vec<_>>()
    });
    text += &set("set", "resolvers", "ifname . ipv4_addr", resolvers.collect());
    let killed = ways.iter().filter(|way| way.killed);
    text += &set("set", "killed", "ifname", killed.map(|way| quoted(&way.interface)).collect());
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
        text += &maps(ways, protocol);
    }
    let uplinks: String = Bound::all()?
        .iter()
        .filter(|(uplink, _)| uplinks.iter().any(|known| known.as_str() == uplink))
        .map(|(uplink, bound)| format!("  iifname \"{uplink}\" ct mark set {:#x}\n", bound.mark()))
        .collect();
    text += &CHAINS.replace("UPLINKS\n", &uplinks).replace("OWN", OWN).replace("NETWORK_V6", ipv6::PREFIX);
    Ok(text + "}\n")
}

fn quoted(interface: impl std::fmt::Display) -> String {
    format!("\"{interface}\"")
}

/// The published ports of a protocol, those of any address and those of a certain one; and the address of the host on
/// the veth for those by which 127.0.0.1 is reached.
fn maps(ways: &[Way], protocol: &str) -> String {
    let is_of = |port: &&Published| port.port.protocol.to_string() == protocol;
    let (mut any, mut at, mut gate) = (Vec::new(), Vec::new(), Vec::new());
    for (way, pair) in ways.iter().filter_map(|way| Some((way, way.ipv6?))) {
        for port in way.published_v6().filter(is_of) {
            let (number, target) = (port.port.number, format!("{} . {}", pair.inside, port.inside));
            let address = port.address.filter(|address| !address.is_unspecified());
            match address {
                None => any.push(format!("{number} : {target}")),
                Some(address) => at.push(format!("{address} . {number} : {target}")),
            }
            if address.is_none_or(|address| address.is_loopback()) {
                gate.push(format!("{number} : {}", pair.host));
            }
        }
    }
    let of_ipv6 = set("map", &format!("any_{protocol}_v6"), "inet_service : ipv6_addr . inet_service", any)
        + &set("map", &format!("at_{protocol}_v6"), "ipv6_addr . inet_service : ipv6_addr . inet_service", at)
        + &set("map", &format!("gate_{protocol}_v6"), "inet_service : ipv6_addr", gate);
    let (mut any, mut at, mut gate) = (Vec::new(), Vec::new(), Vec::new());
    for way in ways {
        let ours = way.published.iter().filter(is_of).filter(|port| port.has_ipv4());
        for port in ours {
            let (number, target) = (port.port.number, format!("{} . {}", way.subnet.inside(), port.inside));
            let address = port.address.as_ref().and_then(v4).filter(|address| !address.is_unspecified());
            match address {
                None => any.push(format!("{number} : {target}")),
                Some(address) => at.push(format!("{address} . {number} : {target}")),
            }
            if address.is_none_or(|address| address == Ipv4Addr::LOCALHOST) {
                gate.push(format!("{number} : {}", way.subnet.host()));
            }
        }
    }
    of_ipv6
        + &set("map", &format!("any_{protocol}"), "inet_service : ipv4_addr . inet_service", any)
        + &set("map", &format!("at_{protocol}"), "ipv4_addr . inet_service : ipv4_addr . inet_service", at)
        + &set("map", &format!("gate_{protocol}"), "inet_service : ipv4_addr", gate)
}

/// OWN: what arrives on the veth of a namespace. UPLINKS: a line for each uplink to which namespaces are bound, by which
/// the answers to what came in there leave again.
const CHAINS: &str = "
chain arriving { type filter hook prerouting priority mangle - 1;
  OWN ip6 saddr != NETWORK_V6 drop
  OWN meta nfproto ipv6 fib saddr . iif oif 0 drop
  iifname @closed jump host
  OWN ct direction reply ct mark & 0x80000000 != 0 meta mark set ct mark
}
chain host {
  fib daddr type unicast return
  ct state established,related return
  iifname . meta l4proto . th dport @host_ports return
  iifname . ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 return
  drop
}
chain forwarding { type filter hook forward priority mangle - 1;
  meta nfproto ipv6 OWN jump leaving_v6
  meta nfproto ipv6 oifgroup & 0xffffff00 == 0x72756e00 jump arriving_v6
  iifname @not_routed_v6 meta nfproto ipv6 ct state != { established, related } ct status & dnat == 0 drop
  iifname @killed jump killed
  oifgroup & 0xffffff00 == 0x72756e00 ct status dnat ct state new jump came_by
}
chain killed {
  ct direction reply return
  iifname . ip daddr @bypassed return
  iifname . ip6 daddr @bypassed_v6 return
  drop
}
chain leaving_v6 {
  oifgroup & 0xffffff00 == 0x72756e00 drop
  ct direction reply return
  iifname @bound iifname . oifname != @uplinks drop
  iifname @leaving_v6 return
  iifname . ip6 daddr @bypassed_v6 return
  drop
}
chain arriving_v6 {
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

/// The table inside.
fn table_inside(way: &Way, (host, host_v6): &(Vec<Ipv4Addr>, Vec<Ipv6Addr>)) -> String {
    let mut text = format!("table {TABLE} {{\n");
    if !way.published.is_empty() {
        let of_ipv6 = way.ipv6.map_or(String::new(), |pair| {
            format!(
                "ip6 daddr . udp dport . udp sport @clients_v6 ip6 saddr set {} meta mark set {MARK:#x}\n",
                pair.inside
            )
        });
        text += &format!(
            "set clients {{ type ipv4_addr . inet_service . inet_service; flags dynamic,timeout; timeout 3m; size 65536; }}\n\
             set clients_v6 {{ type ipv6_addr . inet_service . inet_service; flags dynamic,timeout; timeout 3m; size 65536; }}\n\
             chain arriving {{ type filter hook prerouting priority mangle;\n\
             iifname \"{INSIDE}\" ct state new ct mark set {MARK:#x}\n\
             iifname \"{INSIDE}\" ct mark {MARK:#x} meta mark set {MARK:#x}\n\
             iifname \"{INSIDE}\" ct direction original ip protocol udp update @clients {{ ip saddr . udp sport . udp dport }}\n\
             iifname \"{INSIDE}\" ct direction original meta nfproto ipv6 update @clients_v6 {{ ip6 saddr . udp sport . udp dport }}\n}}\n\
             chain source {{ type route hook output priority -310;\n\
             ip daddr . udp dport . udp sport @clients ip saddr set {inside} meta mark set {MARK:#x}\n{of_ipv6}}}\n\
             chain leaving {{ type route hook output priority mangle;\n\
             ct direction reply ct mark {MARK:#x} meta mark set {MARK:#x}\n}}\n",
            inside = way.subnet.inside(),
        );
    }
    if way.killed {
        text += &set("set", "host", "ipv4_addr", host.iter().map(ToString::to_string).collect());
        text += &set("set", "host_v6", "ipv6_addr", host_v6.iter().map(ToString::to_string).collect());
        for (name, kind, is_v4) in [("bypassed", "ipv4_addr", true), ("bypassed_v6", "ipv6_addr", false)] {
            let networks = way.bypassed.iter().filter(|network| network.0.is_ipv4() == is_v4);
            text += &set("set", name, &format!("{kind}; flags interval"), networks.map(cidr).collect());
        }
        text += &format!(
            "chain leaving_beside {{ type filter hook postrouting priority mangle;\noifname \"{INSIDE}\" jump beside\n}}\n\
             chain beside {{\nct direction reply return\nip daddr @bypassed return\nip daddr @host return\n\
             ip6 daddr @bypassed_v6 return\nip6 daddr @host_v6 return\ndrop\n}}\n"
        );
    }
    text + "}\n"
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
    let reached = |address: &Ipv4Addr| way.access != HostAccess::Ports(Vec::new()) || way.resolvers.contains(address);
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

/// The table on the host, which is the same for all namespaces.
fn look_at_host() -> Result<Vec<Finding>> {
    let built = Record::all()?.into_iter().filter(|record| record.state == State::Built);
    let plans: Vec<Plan> = built.map(|record| record.plan).collect();
    let (ways, uplinks) = ways(&plans)?;
    if listed_elsewhere(&table(&ways, &uplinks)?)? == listed_here() {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::degraded(WHAT, "the table 'inet runns' of nftables is not as it was made (flushed?)")])
}

/// Our table as nft(8) prints it, without the elements that come and go; nothing if there is none.
fn listed_here() -> String {
    let text = tool::run("nft", &["-s", "-t", "list", "table", "inet", "runns"], "").unwrap_or_default();
    let elements = tool::run("nft", &["-s", "list", "table", "inet", "runns"], "").unwrap_or_default();
    let mut sorted: Vec<String> = elements.split(|c: char| c.is_whitespace() || c == ',').map(str::to_string).collect();
    if text.contains("set clients") {
        return text;
    }
    sorted.sort_unstable();
    text + &sorted.join(" ")
}

/// What nft(8) would print of this table: it is made in a network namespace of its own, which ends here.
fn listed_elsewhere(table: &str) -> Result<String> {
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).cannot(|| "create a network namespace")?;
        tool::run("nft", &["-f", "-"], table)?;
        Ok(listed_here())
    })
}
