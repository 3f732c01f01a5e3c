//! Loading the two tables.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use super::{host as host_table, inside as inside_table};
use crate::facts::{self, Own, resolver};
use crate::host::HostState;
use crate::kernel::iptables::{self, Passing};
use crate::kernel::netlink::{Netlink, in_namespace};
use crate::kernel::nft::{self, Listed, Loaded};
use crate::kernel::sysctl::set_sysctl;
use crate::kernel::tool;
use crate::lock::Lock;
use runns_shared::error::Result;
use runns_shared::plan::Plan;
use runns_shared::trusted::{self, Trust};

/// The text of the host's table, for runns-firewall.service and for /etc/nftables.conf to include.
const TEXT: &str = "/run/runns/host.nft";

/// The generation and digest of the table as it was loaded last (see [`Loaded`]). If they are not
/// known, there is no such file.
const LOADED: &str = "/run/runns/.table";

/// Has the kernel translate and route what the DNS lock sends to servers on loopback addresses.
pub const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";

/// Loads the host's table, and has iptables' tables let pass what it lets pass.
pub fn host(lock: &Lock, own: Own) -> Result<()> {
    let facts = facts::gather(own, &HostState::load()?)?;
    let body = facts.as_ref().map_or(String::new(), host_table::text);
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
    host(lock, Own::Nobody)
}

/// The host's table as it was loaded last, if that is known.
pub fn loaded() -> Result<Option<Loaded>> {
    let text = trusted::read_if_there(Path::new(LOADED), Trust::Strict)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Whether this table of the host was loaded last.
pub fn is_loaded(body: &str) -> Result<bool> {
    let text = trusted::read_if_there(Path::new(TEXT), Trust::Strict)?;
    Ok(text.is_some_and(|text| text == nft::replacement(body)))
}

/// Loads the table inside that follows from the plan and the resolver that the namespace has now.
pub fn inside(plan: &Plan, namespace: &File, host: &Netlink) -> Result<Option<Loaded>> {
    let resolver = resolver::current(plan);
    let facts = facts::inside::gather(host, plan, resolver.as_ref())?;
    in_namespace(namespace.as_fd(), || inside_here(&facts))
}

/// Loads the table in the calling thread's network namespace, whatever it contained: at no moment
/// is one without the lock that had it before. As long as route_localnet is on, the rules are in
/// place that keep it from admitting anything.
fn inside_here(facts: &facts::inside::Facts) -> Result<Option<Loaded>> {
    let body = inside_table::text(facts);
    if facts.locked.is_none() {
        set_sysctl(ROUTE_LOCALNET, "0")?;
    }
    // A namespace without any rule of ours needs no nft.
    let loaded = match body.is_empty() && Listed::is_absent()? {
        true => None,
        false => load_body(&body)?,
    };
    if facts.locked.is_some() {
        set_sysctl(ROUTE_LOCALNET, "1")?;
    }
    Ok(loaded)
}

/// Loads the table with what packets have added to its sets or, where somebody has changed these
/// sets, without.
fn load_body(body: &str) -> Result<Option<Loaded>> {
    Loaded::load(&nft::renewal(body)?, body)
        .or_else(|_| Loaded::load(&nft::replacement(body), body))
}
