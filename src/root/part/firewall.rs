//! The host's table (see [`crate::table::host`]) and what lets namespaces' traffic pass the tables
//! of iptables. Both are for all namespaces at once: a build adds its own to the records, and loads
//! the table that follows from them.

use std::path::Path;

use super::{Part, Site, forwarding, ipv6};
use crate::facts::{self, Own, ipv6::Pair, uplinks::Bound};
use crate::finding::Finding;
use crate::host::HostState;
use crate::iptables::{self, Passing};
use crate::lock::Lock;
use crate::nfnetlink::generation_here;
use crate::nft::{self, Listed, Loaded};
use crate::seen::Subject;
use crate::table::host;
use crate::tool;
use runns_shared::error::Result;
use runns_shared::plan::Plan;
use runns_shared::record::Record;
use runns_shared::trusted::{self, Trust};

/// The text of the host's table, for runns-firewall.service and for /etc/nftables.conf to include.
const TEXT: &str = "/run/runns/host.nft";

/// The generation and digest of the table as it was loaded last (see [`Loaded`]). If they are not
/// known, there is no such file.
const LOADED: &str = "/run/runns/.table";

/// What findings are about.
pub const WHAT: &str = "firewall";

/// The part.
pub struct Firewall;

impl Part for Firewall {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.has_veth()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        plan.request
            .has_veth()
            .then(|| format!("NAT and forwarding for {}", plan.subnet()))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        if let Some(uplink) = &site.plan().request.uplink {
            Bound::reserve(site.lock, uplink)?;
        }
        // What the host forwarded before is known before it forwards more.
        forwarding::remember(site.lock)?;
        if Pair::of(site.plan())?.is_some() {
            ipv6::remember(site.lock)?;
        }
        load(site.lock, Own::With(site.plan()))
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        load(site.lock, Own::Without(&site.plan().request.name)).map(|()| true)
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        if subject.seen.root {
            subject.seen.once(WHAT, look)
        } else {
            Ok(Vec::new())
        }
    }

    fn unseen(&self, _plan: &Plan) -> Option<&'static str> {
        Some("firewall rules, whether traffic gets through the host's firewall")
    }

    fn mend(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        load(site.lock, Own::With(site.plan()))
    }
}

/// Loads the host's table, and has iptables' tables let pass what it lets pass.
pub fn load(lock: &Lock, own: Own) -> Result<()> {
    let facts = facts::gather(own, &HostState::load()?)?;
    let body = facts.as_ref().map_or(String::new(), host::text);
    let text = nft::replacement(&body);
    let passing = facts.as_ref().map_or(Passing::default(), facts::passing);
    if facts.is_none() {
        // Without nft there is no table either.
        if tool::find("nft").is_some() {
            nft::load(&text)?;
        }
        lock.remove_file(Path::new(TEXT))?;
        lock.remove_file(Path::new(LOADED))?;
        return iptables::accept(passing);
    }
    let loaded = Loaded::load(&text, &body)?;
    lock.write_file(Path::new(TEXT), &text)?;
    match loaded.and_then(|loaded| serde_json::to_string(&loaded).ok()) {
        Some(loaded) => lock.write_file(Path::new(LOADED), &loaded)?,
        None => lock.remove_file(Path::new(LOADED))?,
    }
    iptables::accept(passing)
}

/// Removes a table that nothing needs any more, which a clean that was killed has left.
pub fn unload_unused(lock: &Lock) -> Result<()> {
    if !Path::new(TEXT).exists() || facts::gather(Own::Nobody, &HostState::load()?)?.is_some() {
        return Ok(());
    }
    load(lock, Own::Nobody)
}

/// The table that a build of `plan` would load; empty if it needs none.
pub fn planned(plan: &Plan) -> Result<String> {
    let mut state = HostState::load()?;
    forwarding::foresee(&mut state)?;
    if Pair::of(plan)?.is_some() {
        ipv6::foresee(&mut state)?;
    }
    let Some(mut facts) = facts::gather(Own::With(plan), &state)? else {
        return Ok(String::new());
    };
    if let Some(uplink) = &plan.request.uplink {
        facts
            .uplinks
            .insert(uplink.to_string(), Bound::planned(uplink)?);
    }
    Ok(host::text(&facts))
}

/// Whether the table is what follows from the records.
fn look() -> Result<Vec<Finding>> {
    let state = HostState::load()?;
    let Some(facts) = facts::gather(Own::Nobody, &state)? else {
        return Ok(Vec::new());
    };
    let body = host::text(&facts);
    let mut found = Vec::new();
    let loaded: Option<Loaded> = trusted::read_if_there(Path::new(LOADED), Trust::Strict)?
        .and_then(|text| serde_json::from_str(&text).ok());
    if !loaded.is_some_and(|loaded| loaded.holds(generation_here(), &body)) {
        let (here, wanted) = (Listed::here()?, Listed::of(&body)?);
        // What a record that cannot be read permits is still there, until the table is loaded
        // again.
        let differences = match Record::readable()?.1.is_empty() {
            true => here.differences(&wanted),
            false => here.differences_but_for_elements(&wanted),
        };
        if here.is_empty() {
            // Without it there is no address translation, and so no answer to what gets out.
            found.push(Finding::down(
                WHAT,
                "the nftables table 'inet runns' is gone (flushed?)",
            ));
        } else if !differences.is_empty() {
            found.push(Finding::degraded(
                WHAT,
                format!(
                    "changed in the nftables table 'inet runns': {}",
                    differences.join(", ")
                ),
            ));
        }
    }
    for program in iptables::missing(facts::passing(&facts))? {
        found.push(Finding::degraded(
            WHAT,
            format!("rules of {program} that let traffic of namespaces pass are missing"),
        ));
    }
    Ok(found)
}

/// Checks, before anything is built, that there is a program to load the table with.
pub fn check() -> Result<()> {
    tool::need("nft", "nftables").map(drop)
}
