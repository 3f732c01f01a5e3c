//! Exceptions to the tunnel, for people: published ports, servers of the host, networks that bypass
//! it.

use ipnet::IpNet;

use super::veth::Veth;
use runns_shared::exceptions::{HostAccess, Port};
use runns_shared::plan::Plan;
use runns_shared::request::Request;

/// What findings are about.
pub const WHAT: &str = "ways beside the tunnel";

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
        HostAccess::No => words.push("no server of the host is reached".to_string()),
        HostAccess::Ports(ports) => {
            let ports: Vec<String> = ports.iter().map(Port::to_string).collect();
            words.push(format!(
                "ports {} of the host are reached",
                ports.join(", ")
            ));
        }
    }
    if !way.bypassed.is_empty() {
        let networks: Vec<String> = way.bypassed.iter().map(IpNet::to_string).collect();
        let uplink = request
            .uplink
            .as_ref()
            .map_or("the uplink".to_string(), ToString::to_string);
        words.push(format!("{} by {uplink}", networks.join(", ")));
    }
    words.join("; ")
}

/// What was opened on purpose, for `status` and `check`; nothing if nothing was.
pub fn opened(plan: &Plan) -> Option<String> {
    let way = Veth::of(plan).ok()??;
    let is_asked = plan.request.exceptions.any();
    is_asked.then(|| words(&plan.request, &way))
}
