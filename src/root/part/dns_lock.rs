//! DNSLock: rules inside the namespace redirect every packet to port 53 to the namespace's resolver, whatever its
//! destination address, and reject it if the resolver has no address of the packet's family.
//!
//! Queries to 127.0.0.53 and other loopback addresses are redirected as well, which needs route_localnet
//! (ip-sysctl.rst). That setting alone would also admit packets from the tunnel that are addressed to servers on
//! 127.0.0.1 or claim to come from there, so packets to or from 127.0.0.0/8 are dropped unless they arrive on lo.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;

use super::{Part, Site, firewall, netns};
use crate::host::{set_sysctl, sysctl};
use crate::netlink::in_namespace;
use crate::tool;
use runns_shared::error::{Error, Result};
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
        in_namespace(file.as_fd(), || lock_here(servers, &plan.tag()))
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        // The rules disappear with the namespace. If it still exists, as after a failed build, they are removed here.
        let Some(file) = namespace(site)?.filter(|_| locked(site.plan()).is_some()) else { return Ok(false) };
        let tag = site.plan().tag();
        in_namespace(file.as_fd(), || {
            set_sysctl(ROUTE_LOCALNET, "0")?;
            remove(&existing(&tag)?)
        })
    }
}

/// Locks DNS in the calling thread's network namespace.
fn lock_here(servers: &[IpAddr], tag: &str) -> Result<()> {
    // The rules come first, so that route_localnet admits nothing before they are in place.
    if sysctl(&format!("{IPV6}/conf/all/disable_ipv6"))?.is_some() {
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
