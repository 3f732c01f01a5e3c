//! DNSLock: rules inside the namespace redirect every packet to port 53 to the namespace's resolver, whatever its
//! destination address, and reject it if the resolver has no address of the packet's family.
//!
//! Queries to 127.0.0.53 and other loopback addresses are redirected as well, which needs route_localnet
//! (ip-sysctl.rst). That setting alone would also admit packets from the tunnel that are addressed to servers on
//! 127.0.0.1 or claim to come from there, so packets to or from 127.0.0.0/8 are dropped unless they arrive on lo.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, unshare};

use super::{Finding, Part, Site, firewall, netns, resolver};
use crate::host::{set_sysctl, sysctl};
use crate::netlink::{in_namespace, in_thread};
use crate::seen::Subject;
use crate::tool;
use runns_shared::error::{Context, Error, Result};
use runns_shared::plan::Plan;

const ROUTE_LOCALNET: &str = "net/ipv4/conf/all/route_localnet";
const IPV6: &str = "net/ipv6";

/// The part.
pub struct DnsLock;

/// The servers to which a plan locks DNS; `None` without the lock.
fn locked(plan: &Plan) -> Option<&[IpAddr]> {
    plan.resolver.as_ref().filter(|resolver| resolver.lock).map(|resolver| resolver.servers.as_slice())
}

impl Part for DnsLock {
    fn describe(&self, plan: &Plan) -> Option<String> {
        let servers: Vec<String> = locked(plan)?.iter().map(ToString::to_string).collect();
        Some(format!("DNS lock: every query goes to {}", servers.join(" or ")))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan().clone();
        let Some(servers) = locked(&plan) else { return Ok(()) };
        let file = namespace(site)?.ok_or_else(|| Error::new("lock DNS", "the namespace is gone"))?;
        in_namespace(file.as_fd(), || lock_here(servers, &plan.tag()))?;
        remember(site, generation(&file)?)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        // The rules disappear with the namespace. If it still exists, as after a failed build, they are removed here.
        if locked(site.plan()).is_none() {
            return Ok(false);
        }
        let Some(file) = netns::open_recorded(&site.record)? else { return Ok(false) };
        let tag = site.plan().tag();
        in_namespace(file.as_fd(), || {
            set_sysctl(ROUTE_LOCALNET, "0")?;
            remove(&existing(&tag)?)
        })
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        look(subject)
    }

    fn unseen(&self, plan: &Plan) -> Option<&'static str> {
        locked(plan).map(|_| "DNS lock rules")
    }

    fn mend(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        let Some(resolver) = resolver::current(site.plan()).filter(|resolver| resolver.lock) else { return Ok(()) };
        let file = namespace(site)?.ok_or_else(|| Error::new("lock DNS", "the namespace is gone"))?;
        let tag = site.plan().tag();
        in_namespace(file.as_fd(), || lock_again_here(&resolver.servers, &tag))?;
        remember(site, generation(&file)?)
    }
}

/// Locks DNS in the calling thread's network namespace.
fn lock_here(servers: &[IpAddr], tag: &str) -> Result<()> {
    // The rules come first, so that route_localnet admits nothing before they are in place.
    if has_ipv6()? {
        tool::run("ip6tables-restore", &["--noflush", "-w"], &rules(Family::V6, servers, tag))?;
    }
    tool::run("iptables-restore", &["--noflush", "-w"], &rules(Family::V4, servers, tag))?;
    set_sysctl(ROUTE_LOCALNET, "1")
}

/// Locks DNS in the calling thread's network namespace to other servers than before. The old rules precede the new ones
/// and match every query until they are removed, so that there is no moment without the lock.
pub fn relock_here(servers: &[IpAddr], tag: &str) -> Result<()> {
    let old = existing(tag)?;
    lock_here(servers, tag)?;
    remove(&old).map(drop)
}

/// For each restore program, the input that deletes the rules tagged `tag` in the calling thread's network namespace.
fn existing(tag: &str) -> Result<Vec<(&'static str, String)>> {
    let mut input = Vec::new();
    for (save, restore) in [("iptables-save", "iptables-restore"), ("ip6tables-save", "ip6tables-restore")] {
        let rules = firewall::deletions(&tool::run(save, &[], "")?, tag);
        if !rules.is_empty() {
            input.push((restore, rules));
        }
    }
    Ok(input)
}

fn remove(rules: &[(&'static str, String)]) -> Result<bool> {
    for (restore, rules) in rules {
        tool::run(restore, &["--noflush", "-w"], rules)?;
    }
    Ok(!rules.is_empty())
}

fn namespace(site: &Site) -> Result<Option<File>> {
    netns::open_built(site)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Input for iptables-restore or ip6tables-restore.
fn rules(family: Family, servers: &[IpAddr], tag: &str) -> String {
    let comment = format!("-m comment --comment {tag}");
    let of_family: Vec<&IpAddr> = servers.iter().filter(|server| server.is_ipv4() == (family == Family::V4)).collect();
    let target = of_family.iter().find(|server| !server.is_loopback());
    let (mut nat, mut filter, mut raw) = (String::new(), String::new(), String::new());
    for protocol in ["udp", "tcp"] {
        let query = format!("-p {protocol} -m {protocol} --dport 53 {comment}");
        for server in &of_family {
            nat.push_str(&format!("-A OUTPUT -d {server} {query} -j ACCEPT\n"));
            filter.push_str(&format!("-A OUTPUT -d {server} {query} -j ACCEPT\n"));
        }
        let reject = if protocol == "tcp" { "REJECT --reject-with tcp-reset" } else { "REJECT" };
        match target {
            // IPv6 has no route_localnet: a query to ::1 stays there, where nobody answers.
            Some(server) => {
                nat.push_str(&format!("-A OUTPUT {query} -j DNAT --to-destination {server}\n"));
                // Its source may be a loopback address, or that of the device by which it would have left.
                nat.push_str(&format!(
                    "-A POSTROUTING -d {server} {query} -m conntrack --ctstate DNAT -j MASQUERADE\n"
                ));
                filter.push_str(&format!("-A OUTPUT {query} -j {reject}\n"));
            }
            None => filter.push_str(&format!("-A OUTPUT {query} -j {reject}\n")),
        }
    }
    if family == Family::V4 {
        for end in ["-d", "-s"] {
            raw.push_str(&format!("-A PREROUTING ! -i lo {end} 127.0.0.0/8 {comment} -j DROP\n"));
        }
    }
    let table = |name: &str, rules: &str| {
        if rules.is_empty() { String::new() } else { format!("*{name}\n{rules}COMMIT\n") }
    };
    table("raw", &raw) + &table("filter", &filter) + &table("nat", &nat)
}

fn has_ipv6() -> Result<bool> {
    Ok(sysctl(&format!("{IPV6}/conf/all/disable_ipv6"))?.is_some())
}

/// The programs of a family that print and change the rules.
const fn programs(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("iptables-save", "iptables-restore"),
        Family::V6 => ("ip6tables-save", "ip6tables-restore"),
    }
}

fn families() -> Result<Vec<Family>> {
    Ok(if has_ipv6()? { vec![Family::V6, Family::V4] } else { vec![Family::V4] })
}

/// Makes the rules of the lock the first of their chains, in the calling thread's network namespace, and removes older
/// ones. Each table changes in one step: at no moment is one without the lock that had it before.
fn lock_again_here(servers: &[IpAddr], tag: &str) -> Result<()> {
    for family in families()? {
        let (save, restore) = programs(family);
        let old = firewall::deletions(&tool::run(save, &[], "")?, tag);
        tool::run(restore, &["--noflush", "-w"], &replacement(&old, &rules(family, servers, tag)))?;
    }
    set_sysctl(ROUTE_LOCALNET, "1")
}

/// Input for iptables-restore: for each table first its deletions, then its rules, each put before those of others.
fn replacement(deletions: &str, rules: &str) -> String {
    let tables = |input: &str| -> Vec<(String, Vec<String>)> {
        let mut tables: Vec<(String, Vec<String>)> = Vec::new();
        for line in input.lines().filter(|line| *line != "COMMIT") {
            match (line.strip_prefix('*'), tables.last_mut()) {
                (Some(table), _) => tables.push((table.to_string(), Vec::new())),
                (None, Some((_, lines))) => lines.push(line.to_string()),
                (None, None) => {}
            }
        }
        tables
    };
    let mut merged = tables(deletions);
    for (table, lines) in tables(rules) {
        // The last one first: each goes to the head of its chain.
        let inserted = lines.iter().rev().map(|rule| rule.replacen("-A ", "-I ", 1));
        match merged.iter_mut().find(|(known, _)| *known == table) {
            Some((_, known)) => known.extend(inserted),
            None => merged.push((table, inserted.collect())),
        }
    }
    merged.iter().map(|(table, lines)| format!("*{table}\n{}\nCOMMIT\n", lines.join("\n"))).collect()
}

/// Whether the rules are there, and nothing precedes them.
///
/// Reading them takes two programs for each namespace. As long as the generation of the namespace's ruleset is the one
/// that was recorded after the lock was made, nothing in it has changed, and they need not be read.
fn look(subject: &Subject) -> Result<Vec<Finding>> {
    const WHAT: &str = "DNS lock";
    let plan = &subject.record.plan;
    let (Some(inside), Some(resolver)) = (&subject.inside, resolver::current(plan)) else { return Ok(Vec::new()) };
    if !resolver.lock {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    if inside.sysctl(ROUTE_LOCALNET).is_some_and(|on| on != "1") {
        found.push(Finding::degraded(WHAT, "route_localnet is off: queries to loopback addresses get lost"));
    }
    let Some(deep) = subject.deep()? else { return Ok(found) };
    let as_built = plan.resolver.as_ref().is_some_and(|built| built.servers == resolver.servers);
    let recorded = subject.record.lock_generation;
    if as_built && recorded.is_some() && deep.generation == recorded {
        return Ok(found);
    }
    let tag = plan.tag();
    let wanted = made_elsewhere(&resolver.servers, &tag)?;
    let there = in_namespace(deep.file.as_fd(), saved_here)?;
    if !wanted.iter().zip(&there).all(|(wanted, there)| begins_with(there, wanted)) {
        let found_any = there.iter().any(|saved| saved.lines().any(|line| firewall::has_comment(line, &tag)));
        let how = if found_any { "its rules are not those that were made" } else { "its rules are gone" };
        found.push(Finding::degraded(WHAT, how));
    }
    Ok(found)
}

/// The rules of both families in the calling thread's network namespace, as iptables-save prints them.
fn saved_here() -> Result<Vec<String>> {
    families()?.into_iter().map(|family| tool::run(programs(family).0, &[], "")).collect()
}

/// What iptables-save prints of a lock that has just been made: in a network namespace of its own, which ends here.
fn made_elsewhere(servers: &[IpAddr], tag: &str) -> Result<Vec<String>> {
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).cannot(|| "create a network namespace")?;
        lock_here(servers, tag)?;
        saved_here()
    })
}

/// Whether each chain of `there` begins with the rules that it has in `wanted`, both as iptables-save prints them.
fn begins_with(there: &str, wanted: &str) -> bool {
    let (there, wanted) = (chains(there), chains(wanted));
    wanted.iter().all(|(chain, rules)| {
        let known = there.iter().find(|(known, _)| known == chain).map_or(&[][..], |(_, rules)| rules.as_slice());
        known.starts_with(rules)
    })
}

/// The rules of each chain that has any; the chain is preceded by its table.
fn chains(saved: &str) -> Vec<(String, Vec<&str>)> {
    let mut chains: Vec<(String, Vec<&str>)> = Vec::new();
    let mut table = "";
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let Some(rule) = line.strip_prefix("-A ") else { continue };
        let chain = format!("{table} {}", rule.split(' ').next().unwrap_or_default());
        match chains.iter_mut().find(|(known, _)| *known == chain) {
            Some((_, rules)) => rules.push(line),
            None => chains.push((chain, vec![line])),
        }
    }
    chains
}

/// Records the generation of the ruleset in which the lock was just made or seen.
pub fn remember(site: &mut Site, generation: Option<u64>) -> Result<()> {
    if site.record.lock_generation == generation {
        return Ok(());
    }
    site.record.lock_generation = generation;
    site.save()
}

/// The generation of the nftables ruleset of `namespace`, which every change of it increments (NFT_MSG_GETGEN). `None` if
/// iptables means the legacy tables here, which have none.
pub fn generation(namespace: &File) -> Result<Option<u64>> {
    if firewall::is_legacy()? {
        return Ok(None);
    }
    in_namespace(namespace.as_fd(), || Ok(crate::nfnetlink::generation_here()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_family_is_rejected() {
        let servers: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let v4 = rules(Family::V4, &servers, "runns:a");
        assert!(v4.contains("DNAT --to-destination 10.0.0.1\n") && !v4.contains("DNAT --to-destination 10.0.0.2"));
        assert!(v4.contains("-A OUTPUT -d 10.0.0.2 -p udp"));
        let v6 = rules(Family::V6, &servers, "runns:a");
        assert!(!v6.contains("*nat") && v6.contains("REJECT"));
        assert!(
            v4.lines().chain(v6.lines()).filter(|line| line.starts_with("-A")).all(|line| line.contains("runns:a"))
        );
    }
}
