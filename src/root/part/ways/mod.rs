//! Exceptions to the tunnel: published ports, servers of the host, networks that bypass it. Their
//! rules stand in the tables ([`crate::table`]); here is what else they need: routes inside, and
//! free ports on the host.

mod listener;
mod routes;

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use crate::facts::veth::Veth;
use crate::tool;
use runns_shared::error::{Error, Result};
use runns_shared::neighbours::{Cidr, HostAccess, Port};
use runns_shared::output::warn;
use runns_shared::plan::{Plan, Request};
use runns_shared::record::Record;

pub use routes::{look_inside, prepare, route};

/// What findings are about.
const WHAT: &str = "ways beside the tunnel";
/// What a plan lets through or keeps out, for build's report; `None` where that goes without
/// saying.
pub fn described(plan: &Plan) -> Option<String> {
    let veth = Veth::of(plan).ok()??;
    let is_plain = veth.access == HostAccess::Yes
        && veth.published.is_empty()
        && !veth.has_tunnel
        && !veth.asks;
    (!is_plain).then(|| format!("{WHAT}: {}", words(&plan.request, &veth)))
}

/// What is open, for people.
fn words(request: &Request, way: &Veth) -> String {
    let mut words: Vec<String> = way
        .published
        .iter()
        .map(|port| format!("port {port} of the host leads inside"))
        .collect();
    match &way.access {
        HostAccess::Yes => words.push("all servers of the host are reached".to_string()),
        HostAccess::Ports(ports) if ports.is_empty() => {
            words.push("no server of the host is reached".to_string())
        }
        HostAccess::Ports(ports) => {
            let ports: Vec<String> = ports.iter().map(Port::to_string).collect();
            words.push(format!(
                "ports {} of the host are reached",
                ports.join(", ")
            ));
        }
    }
    if !way.bypassed.is_empty() {
        let networks: Vec<String> = way.bypassed.iter().map(cidr).collect();
        let uplink = request
            .uplink
            .as_ref()
            .map_or("the uplink".to_string(), ToString::to_string);
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
    let way = Veth::of(plan).ok()??;
    is_asked.then(|| words(&plan.request, &way))
}

/// Whether the host has this address: asked by binding a socket, which sends nothing.
fn is_of_host(address: IpAddr) -> bool {
    !UdpSocket::bind((address, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

/// Checks, before anything is made, that each published port is free, and that there is nft(8).
pub fn check(plan: &Plan) -> Result<()> {
    let Some(way) = Veth::of(plan)? else {
        return Ok(());
    };
    tool::need("nft", "nftables")?;
    if plan.request.neighbours.all("Bypass").next().is_some() && !plan.request.has_tunnel() {
        warn("Bypass has no effect: there is no tunnel");
    }
    for port in &way.published {
        let taken = |by: String| {
            Error::new(
                format!("publish port {}", port.port),
                format!("{by} has it"),
            )
            .hint("choose another, PORT:INSIDE, or one address, ADDRESS:PORT:INSIDE")
        };
        for record in Record::all()?
            .iter()
            .filter(|record| record.plan.request.name != plan.request.name)
        {
            let theirs = record
                .plan
                .request
                .neighbours
                .published()
                .unwrap_or_default();
            if theirs.iter().any(|other| other.conflicts(port)) {
                return Err(taken(format!("namespace {}", record.plan.request.name)));
            }
        }
        if let Some(by) = listener::of(port) {
            return Err(taken(by));
        }
        if let Some(address) = port.address.filter(|address| !is_of_host(*address)) {
            warn(&format!(
                "this host has no address {address}: {port} cannot be reached until it does"
            ));
        }
    }
    Ok(())
}
