//! The name servers that tunnels provide, pushed by an OpenVPN server or listed in a WireGuard file. They become the
//! namespace's resolver if the section sets neither Resolve nor DNS.

use super::{Finding, Part, Site, dns_lock::DnsLock, resolver, ways};
use crate::seen::Subject;
use runns_shared::config::Dns;
use runns_shared::error::Result;
use runns_shared::plan::Plan;
use runns_shared::tunnel::TunnelState;

/// The part.
pub struct PushedResolver;

/// The origin that is recorded for a resolver of this part.
pub const FROM: &str = "the tunnel";

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
        dns.servers.extend(state.servers);
        dns.search.extend(state.search);
    }
    dns
}

impl Part for PushedResolver {
    fn describe(&self, plan: &Plan) -> Option<String> {
        decides(plan).then(|| "resolver from the tunnel, if it provides one".to_string())
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let dns = collect(site.plan());
        if dns.servers.is_empty() {
            return Ok(());
        }
        DnsLock.undo(site)?;
        resolver::Resolver.undo(site)?;
        site.record.files.clear();
        let resolver = resolver::from_dns(&site.plan().request, FROM, &dns)?;
        site.record.plan.resolver = Some(resolver);
        site.save()?;
        resolver::Resolver.apply(site)?;
        DnsLock.apply(site)?;
        ways::follow_resolver(site)
    }

    /// Nothing to do: the parts Resolver and DnsLock remove their files and rules.
    fn undo(&self, _site: &mut Site) -> Result<bool> {
        Ok(false)
    }

    /// Nothing to do: the parts Resolver and DnsLock look at their files and rules.
    fn look(&self, _subject: &Subject) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}
