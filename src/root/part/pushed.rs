//! The name servers that tunnels provide, pushed by the server of a daemon or listed in a WireGuard
//! file. They become the namespace's resolver if the section sets neither Resolve nor DNS.

use super::{Part, Site};
use crate::etc_netns;
use crate::facts::Own;
use crate::facts::pushed::{collect, decides, is_outside};
use crate::facts::resolver::{decide, from_dns};
use crate::finding::Finding;
use crate::seen::Subject;
use crate::table::load;
use runns_shared::error::Result;
use runns_shared::output::warn;
use runns_shared::plan::{FROM_TUNNEL, Plan};
use runns_shared::tunnel::TunnelState;

/// The part.
pub struct PushedResolver;

/// Tells which servers are not used.
fn warn_of_refused(plan: &Plan) {
    let states =
        (0..plan.request.tunnels().count()).map(|index| TunnelState::load(&plan.name, index));
    for server in states
        .flat_map(|state| state.servers)
        .filter(|server| is_outside(plan, *server))
    {
        warn(&format!(
            "ignoring the name server {server} of the tunnel: queries to it would leave outside the tunnel"
        ));
    }
}

/// Brings the namespace's resolver to what the tunnels provide now.
pub fn follow(site: &mut Site) -> Result<()> {
    if !decides(site.plan()) {
        return Ok(());
    }
    let (plan, dns) = (site.plan(), collect(site.plan()));
    let resolver = if dns.servers.is_empty() {
        decide(plan)?
    } else {
        Some(from_dns(plan, FROM_TUNNEL, &dns)?)
    };
    if resolver == plan.resolver {
        return Ok(());
    }
    site.record.plan.resolver.clone_from(&resolver);
    site.save()?;
    etc_netns::exchange(site.lock, &mut site.record, resolver.as_ref())?;
    site.load_inside()?;
    if site.plan().request.has_veth() {
        load::host(site.lock, Own::With(site.plan()))?;
    }
    Ok(())
}

impl Part for PushedResolver {
    fn is_in(&self, plan: &Plan) -> bool {
        decides(plan)
    }

    fn describe(&self, _plan: &Plan) -> Option<String> {
        Some("resolver from the tunnel, if it provides one".to_string())
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        warn_of_refused(site.plan());
        let dns = collect(site.plan());
        if dns.servers.is_empty() {
            return Ok(());
        }
        etc_netns::remove(site.lock, &site.plan().name)?;
        site.record.files.clear();
        let resolver = from_dns(site.plan(), FROM_TUNNEL, &dns)?;
        site.record.plan.resolver = Some(resolver);
        site.save()?;
        etc_netns::write(site.lock, &mut site.record)?;
        site.load_inside()?;
        if site.plan().request.has_veth() {
            load::host(site.lock, Own::With(site.plan()))
        } else {
            Ok(())
        }
    }

    /// Nothing to do: the parts Resolver and Inside remove their files and rules.
    fn undo(&self, _site: &mut Site) -> Result<bool> {
        Ok(false)
    }

    /// Until the tunnels have been exchanged, the resolver was that of the earlier plan.
    fn change(&self, site: &mut Site) -> Result<()> {
        if decides(site.plan()) {
            warn_of_refused(site.plan());
        }
        follow(site)
    }

    /// Nothing to do: the parts Resolver and Inside look at their files and rules.
    fn look(&self, _subject: &Subject) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}
