//! The table inside the namespace (see [`crate::table::inside`]), which is loaded before the veth
//! comes up.

use std::os::fd::AsFd;

use super::{Part, Site};
use crate::facts::{self, exceptions, resolver};
use crate::finding::Finding;
use crate::kernel::netlink::in_namespace;
use crate::kernel::nfnetlink::generation_here;
use crate::kernel::nft::{self, Listed, Loaded};
use crate::kernel::sysctl::set_sysctl;
use crate::kernel::tool;
use crate::namespace;
use crate::seen::Subject;
use crate::table::inside::text;
use crate::table::load::ROUTE_LOCALNET;
use runns_shared::error::Result;
use runns_shared::plan::Plan;

/// What findings are about.
const WHAT: &str = "rules inside";

/// The part.
pub struct Inside;

impl Part for Inside {
    fn is_in(&self, plan: &Plan) -> bool {
        let request = &plan.request;
        let is_locked = plan.resolver.as_ref().is_some_and(|resolver| resolver.lock);
        let exceptions = &request.exceptions;
        is_locked
            || request.has_tunnel()
            || !exceptions.published.is_empty()
            || exceptions.host_access.is_some()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        let locked = plan
            .resolver
            .as_ref()
            .filter(|resolver| resolver.lock)
            .map(|resolver| {
                let servers: Vec<String> =
                    resolver.servers.iter().map(ToString::to_string).collect();
                format!("DNS lock: every query goes to {}", servers.join(" or "))
            });
        let lines: Vec<String> = exceptions::described(plan)
            .into_iter()
            .chain(locked)
            .collect();
        // Without any, the tunnel may bring a resolver.
        Some(if lines.is_empty() {
            WHAT.to_string()
        } else {
            lines.join("; ")
        })
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        if self.is_in(plan) {
            tool::need("nft", "nftables").map(drop)
        } else {
            Ok(())
        }
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        site.load_inside()
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        // The table disappears with the namespace. If that still exists, as after a failed build,
        // it is removed here.
        let Some(file) = namespace::open_recorded(&site.record)? else {
            return Ok(false);
        };
        in_namespace(file.as_fd(), || {
            set_sysctl(ROUTE_LOCALNET, "0")?;
            nft::load(&nft::replacement("")).map(|()| true)
        })
    }

    fn change(&self, site: &mut Site) -> Result<()> {
        if self.is_in(site.plan()) && !holds(site)? {
            site.load_inside()?;
        }
        Ok(())
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        look(subject)
    }

    fn unseen(&self, plan: &Plan) -> Option<&'static str> {
        plan.resolver
            .as_ref()
            .filter(|resolver| resolver.lock)
            .map(|_| "DNS lock rules")
    }

    fn repair(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        site.load_inside()
    }
}

/// Whether the namespace has the table that was loaded last, and that is the one that follows from
/// the plan.
fn holds(site: &Site) -> Result<bool> {
    let Some(file) = site.open_namespace()? else {
        return Ok(false);
    };
    let resolver = resolver::current(site.plan());
    let body = text(&facts::inside::gather(
        &site.host,
        site.plan(),
        resolver.as_ref(),
    )?);
    let generation = in_namespace(file.as_fd(), || Ok(generation_here()))?;
    let recorded = site.record.inside.map(Loaded::from_record);
    Ok(recorded.is_some_and(|loaded| loaded.holds(generation, &body)))
}

fn look(subject: &Subject) -> Result<Vec<Finding>> {
    let plan = &subject.record.plan;
    let Some(inside) = &subject.inside else {
        return Ok(Vec::new());
    };
    let resolver = resolver::current(plan);
    let mut found = Vec::new();
    let is_locked = resolver.as_ref().is_some_and(|resolver| resolver.lock);
    if is_locked && inside.sysctl(ROUTE_LOCALNET).is_some_and(|on| on != "1") {
        found.push(Finding::degraded(
            "DNS lock",
            "route_localnet is off: queries to loopback addresses are lost",
        ));
    }
    let Some(deep) = subject.deep()? else {
        return Ok(found);
    };
    let facts = facts::inside::gather(subject.seen.netlink()?, plan, resolver.as_ref())?;
    let body = text(&facts);
    let recorded = subject.record.inside.map(Loaded::from_record);
    if body.is_empty() || recorded.is_some_and(|loaded| loaded.holds(deep.generation, &body)) {
        return Ok(found);
    }
    let here = in_namespace(deep.file.as_fd(), Listed::here)?;
    let differences = here.differences(&Listed::of(&body)?);
    if here.is_empty() {
        found.push(Finding::degraded(WHAT, "gone (flushed?)"));
    } else if !differences.is_empty() {
        found.push(Finding::degraded(
            WHAT,
            format!("changed: {}", differences.join(", ")),
        ));
    }
    Ok(found)
}
