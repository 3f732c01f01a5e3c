//! The host's table (see [`crate::table::host`]) and what lets namespaces' traffic pass the tables
//! of iptables. Both are for all namespaces at once: a build adds its own to the records, and loads
//! the table that follows from them.

mod listener;

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use super::{Part, Site};
use crate::facts::{self, Own, forwarding, ipv6::Pair, uplinks::Bound, veth::Veth};
use crate::finding::{About, Finding};
use crate::host::HostState;
use crate::kernel::iptables;
use crate::kernel::nfnetlink::generation_here;
use crate::kernel::nft::Listed;
use crate::kernel::tool;
use crate::seen::Subject;
use crate::table::{host, load};
use runns_shared::error::{Error, Result};
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::Record;

/// What findings are about.
const WHAT: &str = "firewall";

/// The part.
pub struct Firewall;

impl Part for Firewall {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.has_veth()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        Some(format!("NAT and forwarding for {}", plan.subnet()))
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        check(plan)
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        prepare(site)?;
        load::host(site.lock, Own::With(site.plan()))
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        load::host(site.lock, Own::Without(&site.plan().name)).map(|()| true)
    }

    fn change(&self, site: &mut Site) -> Result<()> {
        if !self.is_in(site.plan()) {
            return Ok(());
        }
        prepare(site)?;
        if look()?.is_empty() {
            return Ok(());
        }
        load::host(site.lock, Own::With(site.plan()))
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        if subject.seen.root {
            let found = subject.seen.once(WHAT, look)?;
            let of_firewall = |finding: Finding| finding.about(About::Firewall);
            Ok(found.into_iter().map(of_firewall).collect())
        } else {
            Ok(Vec::new())
        }
    }

    fn unseen(&self, _plan: &Plan) -> Option<&'static str> {
        Some("firewall rules, whether traffic gets through the host's firewall")
    }

    fn repair(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        load::host(site.lock, Own::With(site.plan()))
    }
}

/// Records what the table's text depends on.
fn prepare(site: &Site) -> Result<()> {
    if let Some(uplink) = &site.plan().request.uplink {
        Bound::reserve(site.lock, uplink)?;
    }
    // What the host forwarded before is known before it forwards more.
    forwarding::remember(site.lock)?;
    if Pair::of(site.plan())?.is_some() {
        forwarding::remember_v6(site.lock)?;
    }
    Ok(())
}

/// The table that a build of `plan` would load; empty if it needs none.
pub fn planned(plan: &Plan) -> Result<String> {
    let mut state = HostState::load()?;
    forwarding::foresee(&mut state)?;
    if Pair::of(plan)?.is_some() {
        forwarding::foresee_v6(&mut state)?;
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
    if !load::loaded()?.is_some_and(|loaded| loaded.holds(generation_here(), &body)) {
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
            format!("the rules of {program} that accept the namespaces' traffic are missing"),
        ));
    }
    Ok(found)
}

/// Whether the host has this address: asked by binding a socket, which sends nothing.
fn is_of_host(address: IpAddr) -> bool {
    !UdpSocket::bind((address, 0)).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

/// Checks that there is nft(8), and that each published port is free.
fn check(plan: &Plan) -> Result<()> {
    let Some(veth) = Veth::of(plan)? else {
        return Ok(());
    };
    tool::need("nft", "nftables")?;
    if !plan.request.exceptions.bypassed.is_empty() && !plan.request.has_tunnel() {
        warn("Bypass has no effect: there is no tunnel");
    }
    for port in &veth.published {
        let taken = |by: String| {
            Error::new(
                format!("publish port {}", port.port),
                format!("{by} uses it"),
            )
            .hint("choose another, PORT:INSIDE, or one address, ADDRESS:PORT:INSIDE")
        };
        for record in Record::all()?
            .iter()
            .filter(|record| record.plan.name != plan.name)
        {
            let theirs = &record.plan.request.exceptions.published;
            if theirs.iter().any(|other| other.conflicts(port)) {
                return Err(taken(format!("namespace {}", record.plan.name)));
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
