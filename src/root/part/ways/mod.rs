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

mod host;
mod inside;
mod listener;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use super::ipv6::{self, Pair};
use super::{Finding, Part, Site};
use crate::netlink::{Network, NetworkV6, in_thread};
use crate::seen::Subject;
use crate::tool;
use nix::sched::{CloneFlags, unshare};
use runns_shared::error::{Context, Error, Result};
use runns_shared::name::IfaceName;
use runns_shared::neighbours::{Cidr, HostAccess, Port, Published, Subnet};
use runns_shared::output::warn;
use runns_shared::plan::{Plan, Request};
use runns_shared::record::Record;

pub use host::follow;
pub use inside::{look_inside, route, set_up};

/// Our table, on the host and inside.
const TABLE: &str = "inet runns";
/// What an answer is marked with that leaves as the host routes it; see [`super::uplink`] for the other marks.
pub const ANSWER: &str = "0xff000000/0xff000000";
/// What a packet for a server of the host is marked with that the section lets through.
pub const TO_HOST: &str = "0xfe000000/0xff000000";
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
    resolvers: Vec<IpAddr>,
    uplink: Option<IfaceName>,
    /// The addresses of the veth pair, if it has IPv6.
    ipv6: Option<Pair>,
    /// Servers of the host are reached because the section says so.
    asks: bool,
    has_tunnel: bool,
    /// The tunnel is the only other way.
    killed: bool,
    /// The tunnel is not, but names are asked of `resolvers` alone or, if there are none, through the tunnel.
    locked: bool,
    /// Sockets that are bound to the veth ask for no names.
    quiet: bool,
}

impl Way {
    /// `None` if the plan has a veth on which nothing is forbidden and nothing published, or no veth.
    fn of(plan: &Plan) -> Result<Option<Self>> {
        let request = &plan.request;
        let access = request.neighbours.access(request.has_tunnel())?;
        let published = request.neighbours.published()?;
        let ipv6 = Pair::of(plan)?;
        let asks = asks_for_host(request)?;
        let is_open = access == HostAccess::Yes && published.is_empty() && !request.has_tunnel() && ipv6.is_none();
        let is_open = is_open && !asks;
        if !request.has_veth() || is_open {
            return Ok(None);
        }
        let is_pushed = |resolver: &&runns_shared::plan::Resolver| resolver.from != super::pushed::FROM;
        // One of the host's would be one more way out, which nobody has named.
        let resolvers = plan.resolver.as_ref().filter(is_pushed).filter(|_| !request.kill_switch);
        let resolvers = resolvers.map_or(&[][..], |resolver| &resolver.servers[..]);
        let is_locked = plan.resolver.as_ref().is_some_and(|resolver| resolver.lock);
        Ok(Some(Self {
            interface: request.interface.to_string(),
            subnet: plan.subnet(),
            published,
            access,
            bypassed: if request.has_tunnel() { request.neighbours.bypassed()? } else { Vec::new() },
            resolvers: resolvers.to_vec(),
            uplink: request.uplink.clone(),
            ipv6,
            asks,
            has_tunnel: request.has_tunnel(),
            killed: request.kill_switch,
            locked: is_locked && request.has_tunnel() && !request.kill_switch,
            quiet: request.dns_lock != Some(false) && request.has_tunnel() && !request.kill_switch,
        }))
    }
}

impl Way {
    /// The addresses of the veth pair of a family, the host's and that inside; `None` if it has none.
    fn ends(&self, is_v4: bool) -> Option<(IpAddr, IpAddr)> {
        if is_v4 {
            return Some((self.subnet.host().into(), self.subnet.inside().into()));
        }
        self.ipv6.map(|pair| (pair.host.into(), pair.inside.into()))
    }

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

/// Whether the section says that servers of the host are reached, which opens the host's firewall for them.
pub fn asks_for_host(request: &Request) -> Result<bool> {
    let says = request.neighbours.all("HostAccess").next().is_some();
    Ok(request.has_veth() && says && request.neighbours.access(true)? != HostAccess::Ports(Vec::new()))
}

/// Follows a change of the namespace's resolver, on the host and inside.
pub fn follow_resolver(site: &Site) -> Result<()> {
    if Way::of(site.plan())?.is_none() {
        return Ok(());
    }
    host::make(site)?;
    set_up(site)
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
        host::make(site)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        host::replace(&host::others(site)?)?;
        Ok(true)
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        if subject.seen.root { subject.seen.once(WHAT, host::look) } else { Ok(Vec::new()) }
    }

    fn unseen(&self, _plan: &Plan) -> Option<&'static str> {
        Some("rules for ways beside the tunnel")
    }

    fn mend(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        host::make(site)
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

/// Whether the host has this address: asked by binding a socket, which sends nothing.
fn is_of_host(address: IpAddr) -> bool {
    !UdpSocket::bind((address, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

/// Checks, before anything is made, that each published port is free, and that there is nft(8).
pub fn check(plan: &Plan) -> Result<()> {
    let Some(way) = Way::of(plan)? else { return Ok(()) };
    tool::need("nft", "nftables")?;
    if plan.request.neighbours.all("Bypass").next().is_some() && !plan.request.has_tunnel() {
        warn("Bypass has no effect: there is no tunnel");
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
        if let Some(by) = listener::of(port) {
            return Err(taken(by));
        }
        if let Some(address) = port.address.filter(|address| !is_of_host(*address)) {
            warn(&format!("this host has no address {address}: {port} cannot be reached until it does"));
        }
    }
    Ok(())
}
/// A set or map with its elements.
fn set(kind: &str, name: &str, types: &str, elements: Vec<String>) -> String {
    let elements =
        if elements.is_empty() { String::new() } else { format!("elements = {{ {} }};", elements.join(", ")) };
    format!("{kind} {name} {{ type {types}; {elements} }}\n")
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
