//! Exceptions to the tunnel, for people: published ports, servers of the host, networks that bypass
//! it.

use ipnet::IpNet;

use super::veth::Veth;
use runns_shared::exceptions::HostAccess;
use runns_shared::plan::Plan;
use runns_shared::request::Request;

/// What findings are about.
pub const WHAT: &str = "exceptions to the tunnel";

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
fn words(request: &Request, veth: &Veth) -> String {
    let published = veth
        .published
        .iter()
        .map(|port| format!("port {port} published"));
    let access = match &veth.access {
        HostAccess::Yes => "all servers".to_string(),
        HostAccess::No => "none".to_string(),
        ports => ports.to_string(),
    };
    let mut words: Vec<String> = published.collect();
    words.push(format!("host access: {access}"));
    if !veth.bypassed.is_empty() {
        let networks: Vec<String> = veth.bypassed.iter().map(IpNet::to_string).collect();
        let uplink = request.uplink.as_ref();
        let uplink = uplink.map_or("the uplink", |name| name.as_str());
        words.push(format!("bypass: {} through {uplink}", networks.join(", ")));
    }
    words.join("; ")
}

/// What was opened on purpose, for `status` and `check`; nothing if nothing was.
pub fn opened(plan: &Plan) -> Option<String> {
    let veth = Veth::of(plan).ok()??;
    let is_asked = plan.request.exceptions.any();
    is_asked.then(|| words(&plan.request, &veth))
}
