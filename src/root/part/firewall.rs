//! NAT and forwarding rules on the host. Every rule carries the namespace's tag as its comment, and undo removes what
//! carries it, read back from the tables themselves: what is removed cannot drift from what was made.
//!
//! One `iptables-restore --noflush` for each backend makes all rules of a table at once, or none.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::{Part, Site, nft, probe};
use crate::host::HostState;
use crate::tool;
use runns_shared::error::{Context, Error, Result};
use runns_shared::plan::{Plan, tag};
use runns_shared::record::State;

/// Waits for the lock of the tables as long as another program holds it (iptables(8), -w).
const WAIT: &str = "-w";

/// The two sets of tables that iptables programs can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Nft,
    Legacy,
}

impl Backend {
    const BOTH: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The one that plain `iptables` means here.
    fn primary() -> Result<Self> {
        let restore = tool::need("iptables-restore", "iptables")?;
        let target = restore.canonicalize().cannot(|| "find the program iptables-restore")?;
        Ok(if target.to_string_lossy().contains("legacy") { Self::Legacy } else { Self::Nft })
    }

    /// The program of this backend that does `what`; plain `iptables-WHAT` where there is only that.
    fn program(self, what: &str) -> Result<Option<String>> {
        let named = match self {
            Self::Nft => format!("iptables-nft-{what}"),
            Self::Legacy => format!("iptables-legacy-{what}"),
        };
        if tool::find(&named).is_some() {
            return Ok(Some(named));
        }
        Ok((Self::primary()? == self).then(|| format!("iptables-{what}")))
    }

    /// All rules, as iptables-save prints them; nothing if the backend is not installed.
    fn save(self) -> Result<String> {
        match self.program("save")? {
            // The legacy program would load modules only to say that there are no tables.
            Some(_) if self == Self::Legacy && !legacy_is_used() => Ok(String::new()),
            Some(program) => tool::run(&program, &[], ""),
            None => Ok(String::new()),
        }
    }

    fn restore(self, rules: &str) -> Result<()> {
        match self.program("restore")? {
            Some(program) => tool::run(&program, &["--noflush", WAIT], rules).map(drop),
            None => Err(Error::new("change the firewall", "iptables-restore of this backend is not installed")),
        }
    }
}

fn legacy_is_used() -> bool {
    std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|names| !names.trim().is_empty())
}

/// The part.
pub struct Firewall;

impl Part for Firewall {
    fn describe(&self, plan: &Plan) -> Option<String> {
        (!plan.request.kill_switch)
            .then(|| format!("NAT and forwarding for {} (rules with the comment {})", plan.number, plan.tag()))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan().clone();
        let primary = Backend::primary()?;
        for backend in Backend::BOTH {
            let before = backend.save()?;
            if backend == primary {
                remember_new_tables(site, backend)?;
                backend.restore(&rules(&plan, site.probe))?;
            } else if has_forward_rules(&before) {
                backend.restore(&filter_rules(&plan))?;
            }
        }
        Ok(())
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        if site.record.state == State::Building && tool::find("nft").is_some() {
            probe::remove_trace()?;
        }
        let tag = tag(&site.plan().request.name);
        let mut removed = false;
        for backend in Backend::BOTH {
            let rules = deletions(&backend.save()?, &tag);
            if !rules.is_empty() {
                backend.restore(&rules)?;
                removed = true;
            }
        }
        forget_new_tables(site)?;
        Ok(removed)
    }
}

/// Makes the rules anew, after the plan changed: the new ones are there before the old ones go.
pub fn replace(site: &mut Site) -> Result<()> {
    let tag = site.plan().tag();
    let mut old = Vec::new();
    for backend in Backend::BOTH {
        old.push((backend, deletions(&backend.save()?, &tag)));
    }
    Firewall.apply(site)?;
    for (backend, rules) in old {
        if !rules.is_empty() {
            backend.restore(&rules)?;
        }
    }
    Ok(())
}

/// Checks, before anything is made, that there is a firewall to put rules into.
pub fn check() -> Result<()> {
    Backend::primary().map(drop)
}

/// All rules. The drops stand in mangle, where no accept of another program comes before them.
fn rules(plan: &Plan, probe: Option<Ipv4Addr>) -> String {
    let (interface, subnet) = (&plan.request.interface, plan.number);
    let comment = format!("-m comment --comment {}", plan.tag());
    let uplink = plan
        .request
        .uplink
        .as_ref()
        .map_or(String::new(), |uplink| format!("-A FORWARD -i {interface} ! -o {uplink} {comment} -j DROP\n"));
    let probe = probe.map_or(String::new(), |target| format!("-I POSTROUTING 1 {}\n", probe::rule(plan, target)));
    format!(
        "*mangle\n\
         {probe}\
         -A PREROUTING -i {interface} ! -s {subnet} {comment} -j DROP\n\
         -A FORWARD -o {interface} -m conntrack ! --ctstate RELATED,ESTABLISHED {comment} -j DROP\n\
         {uplink}\
         COMMIT\n\
         {}\
         *nat\n\
         -A POSTROUTING -s {subnet} ! -o {interface} {comment} -j MASQUERADE\n\
         COMMIT\n",
        filter_rules(plan)
    )
}

/// Forwarding accepted, ahead of every policy and rule.
fn filter_rules(plan: &Plan) -> String {
    let (interface, subnet) = (&plan.request.interface, plan.number);
    let comment = format!("-m comment --comment {}", plan.tag());
    format!(
        "*filter\n\
         -I FORWARD 1 -o {interface} -d {subnet} -m conntrack --ctstate RELATED,ESTABLISHED {comment} -j ACCEPT\n\
         -I FORWARD 1 -i {interface} -s {subnet} {comment} -j ACCEPT\n\
         COMMIT\n"
    )
}

/// Whether the filter table's FORWARD chain has a policy or rule that could drop something.
fn has_forward_rules(saved: &str) -> bool {
    table_lines(saved, "filter").iter().any(|line| {
        line.starts_with("-A FORWARD ") || (line.starts_with(":FORWARD ") && !line.starts_with(":FORWARD ACCEPT"))
    })
}

/// The lines of one table of iptables-save's output.
fn table_lines<'a>(saved: &'a str, table: &str) -> Vec<&'a str> {
    let head = format!("*{table}");
    saved.lines().skip_while(|line| *line != head).skip(1).take_while(|line| *line != "COMMIT").collect()
}

/// The names of the tables in iptables-save's output.
fn tables(saved: &str) -> BTreeSet<&str> {
    saved.lines().filter_map(|line| line.strip_prefix('*')).collect()
}

/// Input for iptables-restore that deletes every rule whose comment is exactly `tag`; empty if there is none.
pub fn deletions(saved: &str, tag: &str) -> String {
    let mut input = String::new();
    for table in tables(saved) {
        let lines = table_lines(saved, table);
        let ours: Vec<&str> = lines.into_iter().filter(|line| has_comment(line, tag)).collect();
        if !ours.is_empty() {
            input.push_str(&format!("*{table}\n"));
            for rule in ours {
                input.push_str(&rule.replacen("-A ", "-D ", 1));
                input.push('\n');
            }
            input.push_str("COMMIT\n");
        }
    }
    input
}

/// Whether the rule, as iptables prints it, has the comment `tag`.
pub fn has_comment(rule: &str, tag: &str) -> bool {
    let mut words = rule.split(' ');
    rule.starts_with("-A ")
        && words.any(|word| word == "--comment")
        && words.next().is_some_and(|comment| comment.trim_matches('"') == tag)
}

/// The chains that the rules stand in.
const CHAINS: [(&str, &str); 5] = [
    ("mangle", "PREROUTING"),
    ("mangle", "FORWARD"),
    ("mangle", "POSTROUTING"),
    ("filter", "FORWARD"),
    ("nat", "POSTROUTING"),
];

/// iptables' nft backend makes tables and chains when they are first used. Those that were not there before are
/// removed again.
fn remember_new_tables(site: &Site, backend: Backend) -> Result<()> {
    if backend != Backend::Nft {
        return Ok(());
    }
    let there = nft::chains()?;
    let new = CHAINS
        .iter()
        .filter(|(table, chain)| !there.iter().any(|known| known.table == *table && known.chain == *chain));
    let new: Vec<(String, String)> = new.map(|(table, chain)| (table.to_string(), chain.to_string())).collect();
    HostState::update(site.lock, |host| {
        for (table, chain) in new {
            if !there.iter().any(|known| known.table == table) && !host.nft_tables.contains(&table) {
                host.nft_tables.push(table.clone());
            }
            if !host.nft_chains.contains(&(table.clone(), chain.clone())) {
                host.nft_chains.push((table, chain));
            }
        }
    })
}

/// Removes the chains and tables that builds brought about and that nobody has put anything into since.
fn forget_new_tables(site: &Site) -> Result<()> {
    let host = HostState::load()?;
    if host.nft_chains.is_empty() || tool::find("nft").is_none() {
        return Ok(());
    }
    let there = nft::chains()?;
    let in_use = |table: &str, chain: &str| {
        there.iter().any(|known| known.table == table && known.chain == chain && known.in_use)
    };
    let (used, unused): (Vec<_>, Vec<_>) = host.nft_chains.into_iter().partition(|(table, chain)| in_use(table, chain));
    let gone = |table: &str, chain: &str| unused.iter().any(|(t, c)| t == table && c == chain);
    let empty_after = |table: &str| there.iter().all(|known| known.table != table || gone(&known.table, &known.chain));
    let (empty, kept): (Vec<_>, Vec<_>) = host.nft_tables.into_iter().partition(|table| empty_after(table));
    let is_there = |table: &str, chain: &str| there.iter().any(|known| known.table == table && known.chain == chain);
    let mut commands: String = unused
        .iter()
        .filter(|(table, chain)| is_there(table, chain))
        .map(|(table, chain)| format!("delete chain ip {table} {chain}\n"))
        .collect();
    let emptied = empty.iter().filter(|table| there.iter().any(|known| known.table == **table));
    commands.extend(emptied.map(|table| format!("delete table ip {table}\n")));
    if !commands.is_empty() {
        tool::run("nft", &["-f", "-"], &commands)?;
    }
    HostState::update(site.lock, |host| {
        host.nft_chains = used;
        host.nft_tables = kept;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [1:2]\n\
        -A FORWARD -i vpn1 -m comment --comment \"runns:vpn1\" -j ACCEPT\n\
        -A FORWARD -i vpn11 -m comment --comment \"runns:vpn11\" -j ACCEPT\nCOMMIT\n\
        *nat\n-A POSTROUTING -s 172.24.1.0/24 -m comment --comment runns:vpn1 -j MASQUERADE\n\
        -A POSTROUTING -m comment --comment \"x --comment runns:vpn1 y\" -j RETURN\nCOMMIT\n";

    #[test]
    fn only_what_carries_the_tag_is_deleted() {
        assert_eq!(
            deletions(SAVED, "runns:vpn1"),
            "*filter\n-D FORWARD -i vpn1 -m comment --comment \"runns:vpn1\" -j ACCEPT\nCOMMIT\n\
             *nat\n-D POSTROUTING -s 172.24.1.0/24 -m comment --comment runns:vpn1 -j MASQUERADE\nCOMMIT\n"
        );
        assert_eq!(deletions(SAVED, "runns:vpn"), "");
    }

    #[test]
    fn a_forward_chain_that_drops_is_seen() {
        assert!(has_forward_rules(SAVED));
        assert!(!has_forward_rules("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"));
        assert!(!has_forward_rules(""));
    }
}
