//! The name servers that tunnels provide, and which of them count.

use std::net::{IpAddr, UdpSocket};

use ipnet::IpNet;

use runns_shared::plan::Plan;
use runns_shared::request::Dns;
use runns_shared::tunnel::TunnelState;

/// Whether the resolver is left to the tunnels.
pub fn decides(plan: &Plan) -> bool {
    let request = &plan.request;
    let own = plan
        .resolver
        .as_ref()
        .is_some_and(|resolver| resolver.text.is_none());
    request.has_tunnel() && request.resolve.is_none() && request.dns.is_none() && !own
}

/// The servers and search domains of all tunnels, in the order of the tunnels.
pub fn collect(plan: &Plan) -> Dns {
    let mut dns = Dns {
        servers: Vec::new(),
        search: Vec::new(),
    };
    for index in 0..plan.request.tunnels().count() {
        let state = TunnelState::load(&plan.name, index);
        let servers = state.servers.into_iter();
        dns.servers
            .extend(servers.filter(|server| !is_outside(plan, *server)));
        dns.search.extend(state.search);
    }
    dns
}

/// Whether an address is reached outside the tunnel. Neither the server of a tunnel nor its file,
/// which may be a provider's, is to have names asked for there; who wants that has `DNS=`.
pub fn is_outside(plan: &Plan, server: IpAddr) -> bool {
    // ::ffff:192.0.2.1 is asked as 192.0.2.1.
    let server = server.to_canonical();
    let own = IpNet::V4(plan.subnet().network());
    let bypassed = &plan.request.exceptions.bypassed;
    bypassed
        .iter()
        .chain([&own])
        .any(|network| network.contains(&server))
        || is_of_host(server)
}

/// Whether the host has this address: asked by binding a socket, which sends nothing.
fn is_of_host(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
