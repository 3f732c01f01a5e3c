//! The name servers that tunnels provide, pushed by an OpenVPN server or listed in a WireGuard file. They become the
//! namespace's resolver if the section sets neither Resolve nor DNS.

use super::{Part, Site, firewall, inside::Inside, resolver};
use crate::facts::Own;
use crate::finding::Finding;
use crate::seen::Subject;
use runns_shared::config::Dns;
use runns_shared::error::Result;
use runns_shared::output::warn;
use runns_shared::plan::{FROM_TUNNEL, Plan};
use runns_shared::tunnel::TunnelState;
use std::net::{IpAddr, UdpSocket};

/// The part.
pub struct PushedResolver;

/// Whether the resolver is left to the tunnels.
pub fn decides(plan: &Plan) -> bool {
    let request = &plan.request;
    let own = plan.resolver.as_ref().is_some_and(|resolver| resolver.text.is_none());
    request.has_tunnel() && request.resolve.is_none() && request.dns.is_none() && !own
}

/// The servers and search domains of all tunnels, in the order of the tunnels.
pub fn collect(plan: &Plan) -> Dns {
    let mut dns = Dns { servers: Vec::new(), search: Vec::new() };
    for index in 0..plan.request.vpn.len() + plan.request.wireguard.len() {
        let state = TunnelState::load(&plan.request.name, index);
        // What a WireGuard file names is the administrator's choice; what a server pushes is not.
        let is_pushed = index < plan.request.vpn.len();
        dns.servers.extend(state.servers.into_iter().filter(|server| !is_pushed || !is_outside(plan, *server)));
        dns.search.extend(state.search);
    }
    dns
}

/// Whether an address is reached outside the tunnel: the server of the tunnel must not have names asked for there.
fn is_outside(plan: &Plan, server: IpAddr) -> bool {
    // ::ffff:192.0.2.1 is asked as 192.0.2.1.
    let server = server.to_canonical();
    let bypassed = plan.request.neighbours.bypassed().unwrap_or_default();
    let subnet = plan.subnet();
    let own = (IpAddr::V4(subnet.network), subnet.prefix);
    bypassed.iter().chain([&own]).any(|network| contains(*network, server)) || is_of_host(server)
}

/// Tells which pushed servers are not used.
fn warn_of_refused(plan: &Plan) {
    let states = (0..plan.request.vpn.len()).map(|index| TunnelState::load(&plan.request.name, index));
    for server in states.flat_map(|state| state.servers).filter(|server| is_outside(plan, *server)) {
        warn(&format!("ignoring the name server {server} of the tunnel: it would be asked outside the tunnel"));
    }
}

fn contains((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    network.is_ipv4() == address.is_ipv4() && (bits(network) ^ bits(address)) & mask == 0
}

/// Whether the host has this address: asked by binding a socket, which sends nothing.
fn is_of_host(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

impl Part for PushedResolver {
    fn is_in(&self, plan: &Plan) -> bool {
        decides(plan)
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        decides(plan).then(|| "resolver from the tunnel, if it provides one".to_string())
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        warn_of_refused(site.plan());
        let dns = collect(site.plan());
        if dns.servers.is_empty() {
            return Ok(());
        }
        resolver::Resolver.undo(site)?;
        site.record.files.clear();
        let resolver = resolver::from_dns(&site.plan().request, FROM_TUNNEL, &dns)?;
        site.record.plan.resolver = Some(resolver);
        site.save()?;
        resolver::Resolver.apply(site)?;
        Inside.apply(site)?;
        if site.plan().request.has_veth() { firewall::load(site.lock, Own::With(site.plan())) } else { Ok(()) }
    }

    /// Nothing to do: the parts Resolver and Inside remove their files and rules.
    fn undo(&self, _site: &mut Site) -> Result<bool> {
        Ok(false)
    }

    /// Nothing to do: the parts Resolver and Inside look at their files and rules.
    fn look(&self, _subject: &Subject) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}
