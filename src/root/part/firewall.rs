//! NAT and forwarding rules on the host. They are the same for all namespaces, whose veths they know by their group
//! (`ip link set group`): a packet meets the same number of rules, however many namespaces there are.
//!
//! Every rule carries the tag of one namespace as its comment, its owner. When the owner is cleaned, another namespace
//! inherits them; with the last namespace they go. What is removed is read back from the tables themselves, so it cannot
//! drift from what was made.
//!
//! One `iptables-restore --noflush` for each backend makes all rules of a table at once, or none.

use std::collections::BTreeSet;

use super::uplink::Bound;
use super::{Finding, Part, Site, forwarding, ipv6, nft, probe, transit, uplink, ways};
use crate::host::HostState;
use crate::seen::Subject;
use crate::tool;
use runns_shared::error::{Context, Error, Result};
use runns_shared::name::IfaceName;
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State, VERSION};

/// Waits for the lock of the tables as long as another program holds it (iptables(8), -w).
const WAIT: &str = "-w";

/// The two sets of tables that iptables programs can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Nft,
    Legacy,
    NftV6,
    LegacyV6,
}

impl Backend {
    const BOTH: [Self; 2] = [Self::Nft, Self::Legacy];
    const BOTH_V6: [Self; 2] = [Self::NftV6, Self::LegacyV6];

    /// The one that plain `iptables` means here.
    fn primary() -> Result<Self> {
        let restore = tool::need("iptables-restore", "iptables")?;
        let target = restore.canonicalize().cannot(|| "find the program iptables-restore")?;
        Ok(if target.to_string_lossy().contains("legacy") { Self::Legacy } else { Self::Nft })
    }

    /// The program of this backend that does `what`; plain `iptables-WHAT` where there is only that.
    fn program(self, what: &str) -> Result<Option<String>> {
        let (name, backend, of_v4) = match self {
            Self::Nft => ("iptables", "nft", Self::Nft),
            Self::Legacy => ("iptables", "legacy", Self::Legacy),
            Self::NftV6 => ("ip6tables", "nft", Self::Nft),
            Self::LegacyV6 => ("ip6tables", "legacy", Self::Legacy),
        };
        let named = format!("{name}-{backend}-{what}");
        if tool::find(&named).is_some() {
            return Ok(Some(named));
        }
        Ok((Self::primary()? == of_v4)
            .then(|| format!("{name}-{what}"))
            .filter(|program| tool::find(program).is_some()))
    }

    /// All rules, as iptables-save prints them; nothing if the backend is not installed.
    fn save(self) -> Result<String> {
        match self.program("save")? {
            // The legacy program would load modules only to say that there are no tables.
            Some(_) if self == Self::Legacy && !legacy_is_used("ip") => Ok(String::new()),
            Some(_) if self == Self::LegacyV6 && !legacy_is_used("ip6") => Ok(String::new()),
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

fn legacy_is_used(family: &str) -> bool {
    std::fs::read_to_string(format!("/proc/net/{family}_tables_names")).is_ok_and(|names| !names.trim().is_empty())
}

/// One rule as iptables-save prints it, but for its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    table: &'static str,
    chain: &'static str,
    /// Whether it has to precede all rules of others.
    first: bool,
    matches: String,
    target: &'static str,
    /// The same in nft(8)'s words, for [`make_native`]; empty if it has no place there.
    nft: String,
}

impl Rule {
    /// Without the command (`-A`), as in iptables-save without quotes.
    fn text(&self, tag: &str) -> String {
        format!("{} {} -m comment --comment {tag} -j {}", self.chain, self.matches, self.target)
    }
}

/// What all namespaces need, `veth` included, which may not be there yet. The drops stand in mangle, where no accept of
/// another program precedes them.
fn rules(veth: &IfaceName) -> Result<Vec<Rule>> {
    const NFT_FROM: &str = "iifgroup & 0xffffff00 == 0x72756e00";
    const NFT_TO: &str = "oifgroup & 0xffffff00 == 0x72756e00";
    let own = |direction: &str| format!("-m devgroup --{direction}-group {}", uplink::ANY_GROUP);
    let (from, to) = (own("src"), own("dst"));
    let rule = |table, chain, (matches, target): (String, &'static str), nft: String| Rule {
        table,
        chain,
        first: false,
        matches,
        target,
        nft,
    };
    let forward = |matches: String, nft: String| rule("mangle", "FORWARD", (matches, "DROP"), nft + " drop");
    // The namespace's own source address alone: the route back to it leads to where the packet comes from.
    // Of a connection that is known already, it was looked up when the connection began.
    let source = (format!("{from} -m conntrack ! --ctstate ESTABLISHED -m rpfilter --invert"), "DROP");
    let mut rules = vec![
        rule("mangle", "PREROUTING", source, format!("{NFT_FROM} ct state != established fib saddr . iif oif 0 drop")),
        forward(format!("{to} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"), not_asked_for(NFT_TO)),
    ];
    // By the group of the veth and by the mark of what arrives on it, so that either may be lost.
    for (uplink, bound) in Bound::all()? {
        let (group, mark) = (bound.group(), bound.mark());
        rules.push(forward(
            format!("! -o {uplink} -m devgroup --src-group {group:#x} -m mark ! --mark {}", ways::ANSWER),
            format!("oifname != \"{uplink}\" iifgroup {group:#x} meta mark & 0xff000000 != 0xff000000"),
        ));
        rules.push(forward(
            format!("! -o {uplink} -m mark --mark {mark:#x}/0xff000000"),
            format!("oifname != \"{uplink}\" meta mark & 0xff000000 == {mark:#x}"),
        ));
    }
    for interface in transit::interfaces(veth)? {
        let nft = not_asked_for(&format!("iifname \"{interface}\""));
        rules.push(forward(format!("-i {interface} {}", transit::NEW), nft));
    }
    // A namespace takes the way for as wide as its veth, and may never hear that it is narrower (RFC 2923, 2.1).
    for (group, nft) in [(&from, NFT_FROM), (&to, NFT_TO)] {
        let matches = format!("-p tcp {group} -m tcp --tcp-flags SYN,RST SYN");
        let nft = format!("{nft} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu");
        rules.push(rule("mangle", "FORWARD", (matches, CLAMP), nft));
    }
    let mark = format!("{NFT_FROM} meta mark set meta mark & 0x00ffffff | 0x80000000");
    rules.push(rule("mangle", "FORWARD", (from.clone(), MARK), mark));
    // Behind all that could drop a packet before, and ahead of all that could do so here.
    let tried = format!("-m mark --mark {} {}", uplink::MASQUERADED, probe::MATCHES);
    rules.push(Rule { first: true, ..rule("mangle", "POSTROUTING", (tried, "DROP"), String::new()) });
    let accept =
        |matches: String| Rule { first: true, ..rule("filter", "FORWARD", (matches, "ACCEPT"), String::new()) };
    rules.push(accept(from.clone()));
    rules.push(accept(format!("{to} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT")));
    let to_host = (format!("{from} -m mark --mark {}", ways::TO_HOST), "ACCEPT");
    rules.push(Rule { first: true, ..rule("filter", "INPUT", to_host, String::new()) });
    let masquerade = (format!("-m mark --mark {}", uplink::MASQUERADED), "MASQUERADE");
    let nft = "meta mark & 0xff000000 == 0x80000000 masquerade".to_string();
    rules.push(rule("nat", "POSTROUTING", masquerade, nft));
    Ok(rules)
}

/// What belongs to no connection that was opened from inside or redirected by the host, for nft(8): of a packet that
/// belongs to none at all, the status says nothing, and a rule that asks for it does not match.
fn not_asked_for(matches: &str) -> String {
    format!(
        "{matches} ct state {{ invalid, untracked }} drop\n{matches} ct state != {{ established, related }} ct status & dnat == 0"
    )
}

/// The greatest segment is what the way takes in both directions. Not every kernel has it.
const CLAMP: &str = "TCPMSS --clamp-mss-to-pmtu";

/// POSTROUTING does not know by which interface a packet came; the mark tells it.
const MARK: &str = "MARK --set-xmark 0x80000000/0xff000000";

/// What findings are about.
pub const WHAT: &str = "firewall";

/// The part.
pub struct Firewall;

impl Part for Firewall {
    fn describe(&self, plan: &Plan) -> Option<String> {
        plan.request
            .has_veth()
            .then(|| format!("NAT and forwarding for {} (rules with a comment runns:NAME)", plan.subnet()))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        if let Some(uplink) = &site.plan().request.uplink {
            Bound::reserve(site.lock, uplink)?;
        }
        // The rules are there before the host forwards anything.
        forwarding::remember(site.lock)?;
        let plan = site.plan();
        let rules = rules(&plan.request.interface)?;
        let primary = Backend::primary()?;
        for backend in Backend::BOTH {
            let saved = Saved::of(backend)?;
            let is_primary = backend == primary;
            if !is_primary && !has_forward_rules(&saved.0) {
                continue;
            }
            let owner = saved.owner().unwrap_or_else(|| plan.tag());
            let opens = saved.opens_host() || ways::asks_for_host(&plan.request)?;
            let input = saved.change(&saved.needed(&rules, is_primary, opens), &owner, None);
            if !input.is_empty() {
                if backend == Backend::Nft && !saved.has_all_chains() {
                    remember_new_chains(site)?;
                }
                let without = || {
                    let rules: Vec<Rule> = rules.iter().filter(|rule| rule.target != CLAMP).cloned().collect();
                    backend.restore(&saved.change(&saved.needed(&rules, is_primary, opens), &owner, None))
                };
                backend.restore(&input).or_else(|error| without().map_err(|_| error))?;
            }
        }
        Ok(())
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        if site.record.state == State::Building && tool::find("nft").is_some() {
            probe::remove_trace()?;
        }
        let tag = site.plan().tag();
        let heir = heir(site)?;
        let rules = if heir.is_some() { rules(&site.plan().request.interface)? } else { Vec::new() };
        let primary = Backend::primary()?;
        let mut removed = false;
        for backend in Backend::BOTH {
            let saved = Saved::of(backend)?;
            removed |= saved.0.lines().any(|line| has_comment(line, &tag));
            let is_primary = backend == primary;
            let is_used = is_primary || saved.owner().is_some();
            let opens = saved.opens_host() && opens_host(Some(site))?;
            let wanted = if is_used { saved.needed(&rules, is_primary, opens) } else { Vec::new() };
            let owner = saved.owner().filter(|owner| *owner != tag).or(heir.clone()).unwrap_or_default();
            let input = saved.change(&wanted, &owner, Some(&tag));
            if !input.is_empty() {
                backend.restore(&input)?;
            }
        }
        if heir.is_none() {
            // Left if firewalld has been removed from the host since.
            if has_native() {
                make_native(site, None)?;
            }
            forget_new_tables(site)?;
        }
        Ok(removed)
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        if !subject.seen.root {
            return Ok(Vec::new());
        }
        let plan = &subject.record.plan;
        let found = subject.seen.once(WHAT, || look(&plan.request.interface))?;
        if !found.is_empty() && subject.record.version < VERSION {
            return Ok(vec![Finding::degraded(WHAT, uplink::AS_BEFORE)]);
        }
        Ok(found)
    }

    fn unseen(&self, _plan: &Plan) -> Option<&'static str> {
        Some("firewall rules, whether traffic gets through the host's firewall")
    }
}

/// The rules that have to be there and are not, which is the same for all namespaces. Those that stand in our own table of
/// nftables need not be in iptables' tables as well, which firewalld may have flushed.
fn look(veth: &IfaceName) -> Result<Vec<Finding>> {
    let (rules, opens) = (rules(veth)?, opens_host(None));
    let primary = Backend::primary()?;
    let has_native = has_native();
    let mut missing: Vec<Rule> = Vec::new();
    let mut count = 0;
    for backend in Backend::BOTH {
        let saved = Saved::of(backend)?;
        let all = backend == primary && !has_native;
        if all || has_forward_rules(&saved.0) {
            let needed = saved.needed(&rules, all, saved.expects(&opens));
            count += needed.iter().filter(|rule| rule.target != CLAMP).count();
            missing.extend(needed.into_iter().filter(|rule| !saved.has(rule) && rule.target != CLAMP));
        }
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let how = if missing.len() == count {
        "NAT and forwarding rules are gone (flushed?)".to_string()
    } else {
        format!("{} of {count} NAT and forwarding rules are gone", missing.len())
    };
    // Without these, there are no answers to what gets out.
    let fatal = missing.iter().any(|rule| rule.table == "nat" || rule.target == MARK);
    Ok(vec![Finding { fatal, ..Finding::degraded(WHAT, how) }])
}

/// Whether the rules stand in a table of nftables as well.
pub fn has_native() -> bool {
    tool::find("nft").is_some() && tool::run("nft", &["list", "table", "ip", "runns"], "").is_ok()
}

/// The table of nftables in which the rules stand once more where somebody flushes the tables of iptables.
const NATIVE: &str = "ip runns";

/// Puts the rules into a table of nftables of our own as well, whatever it contained; with no namespace left that needs
/// them, the table is removed.
pub fn make_native(site: &Site, owner: Option<&str>) -> Result<()> {
    let mut commands = format!("add table {NATIVE}\ndelete table {NATIVE}\n");
    if let Some(owner) = owner {
        let rules = rules(&site.plan().request.interface)?;
        let chains = [
            ("mangle", "PREROUTING", "type filter hook prerouting priority mangle"),
            ("mangle", "FORWARD", "type filter hook forward priority mangle"),
            ("nat", "POSTROUTING", "type nat hook postrouting priority srcnat"),
        ];
        commands.push_str(&format!("table {NATIVE} {{\n"));
        for (table, chain, hook) in chains {
            commands.push_str(&format!("chain {chain} {{ {hook}; policy accept;\n"));
            for rule in rules.iter().filter(|rule| rule.table == table && rule.chain == chain && !rule.nft.is_empty()) {
                commands.push_str(&format!("{} comment \"{owner}\"\n", rule.nft));
            }
            commands.push_str("}\n");
        }
        commands.push_str("}\n");
    }
    tool::run("nft", &["-f", "-"], &commands).map(drop)
}

/// Whether a section says that servers of the host are reached, that of `gone` not counted.
fn opens_host(gone: Option<&Site>) -> Result<bool> {
    for plan in Record::all()?.into_iter().map(|record| record.plan) {
        let is_gone = gone.is_some_and(|site| site.plan().request.name == plan.request.name);
        if !is_gone && ways::asks_for_host(&plan.request)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the rules of this namespace alone, which builds up to version 0.1.0 made.
pub fn remove_old(site: &Site) -> Result<()> {
    for backend in Backend::BOTH {
        let saved = Saved::of(backend)?;
        let own = TABLES
            .iter()
            .flat_map(|table| table_lines(&saved.0, table).into_iter().map(move |line| (table, line)))
            .filter(|(_, line)| !is_shared(line) && has_comment(line, &site.plan().tag()));
        let input: String =
            own.map(|(table, line)| format!("*{table}\n{}\nCOMMIT\n", line.replacen("-A", "-D", 1))).collect();
        if !input.is_empty() {
            backend.restore(&input)?;
        }
    }
    Ok(())
}

/// The tag of another namespace that needs the rules, if there is one.
pub fn heir(site: &Site) -> Result<Option<String>> {
    let own = &site.plan().request.name;
    let records = Record::all()?;
    let mut plans = records.iter().map(|record| &record.plan);
    Ok(plans.find(|plan| plan.request.name != *own && plan.request.has_veth()).map(Plan::tag))
}

/// Lets what namespaces send and get by IPv6 pass the FORWARD chain of ip6tables, where that could drop something. What
/// may pass is decided in the table of [`super::ways`].
pub fn accept_ipv6(site: &Site) -> Result<()> {
    let rules = rules(&site.plan().request.interface)?;
    for backend in Backend::BOTH_V6 {
        let saved = Saved::of(backend)?;
        let opens = saved.opens_host() || ways::asks_for_host(&site.plan().request)?;
        let rules = saved.needed(&rules, false, opens);
        if saved.lets_not_all_pass(&rules) {
            let owner = saved.owner().unwrap_or_else(|| site.plan().tag());
            let input = saved.change(&rules, &owner, None);
            if !input.is_empty() {
                backend.restore(&input)?;
            }
        }
    }
    Ok(())
}

/// Removes them, unless another namespace needs them; returns whether there were any.
pub fn forget_ipv6(site: &Site) -> Result<bool> {
    let tag = site.plan().tag();
    let heir = ipv6::heir(site)?.map(|plan| plan.tag());
    let rules = rules(&site.plan().request.interface)?;
    let mut removed = false;
    for backend in Backend::BOTH_V6 {
        let saved = Saved::of(backend)?;
        let Some(owner) = saved.owner() else { continue };
        removed = true;
        let owner = if owner == tag { heir.clone().unwrap_or_default() } else { owner };
        let opens = saved.opens_host() && opens_host(Some(site))?;
        let wanted = if heir.is_some() { saved.needed(&rules, false, opens) } else { Vec::new() };
        let input = saved.change(&wanted, &owner, Some(&tag));
        if !input.is_empty() {
            backend.restore(&input)?;
        }
    }
    Ok(removed)
}

/// Whether they are missing where they are needed, which is the same for all namespaces.
pub fn look_ipv6(veth: &IfaceName) -> Result<Vec<Finding>> {
    let (rules, opens) = (rules(veth)?, opens_host(None));
    for backend in Backend::BOTH_V6 {
        let saved = Saved::of(backend)?;
        let rules = saved.needed(&rules, false, saved.expects(&opens));
        if saved.lets_not_all_pass(&rules) && !rules.iter().all(|rule| saved.has(rule)) {
            return Ok(vec![Finding::degraded(WHAT, "rules that let IPv6 pass are gone")]);
        }
    }
    Ok(Vec::new())
}

/// The rules of a backend, as iptables-save prints them, without quotes round the words of comments.
struct Saved(String);

impl Saved {
    fn of(backend: Backend) -> Result<Self> {
        Ok(Self(backend.save()?))
    }

    /// What the backend has to contain: all rules or, if `iptables` means the other one, those that let traffic pass. That
    /// for the host itself is among them if a section `opens` it and the INPUT chain could drop something.
    fn needed(&self, rules: &[Rule], is_primary: bool, opens: bool) -> Vec<Rule> {
        let opens = opens && self.could_drop("INPUT");
        let is_needed = |rule: &&Rule| (is_primary || rule.table == "filter") && (rule.chain != "INPUT" || opens);
        rules.iter().filter(is_needed).cloned().collect()
    }

    /// Whether the rule for the host itself is to be there. Where a record cannot be read, it is right as it is.
    fn expects(&self, opens: &Result<bool>) -> bool {
        opens.as_ref().map_or_else(|_| self.opens_host(), |opens| *opens)
    }

    /// Whether the rule for the host itself is there.
    fn opens_host(&self) -> bool {
        self.shared("filter").iter().any(|rule| rule.starts_with("INPUT "))
    }

    /// Whether any of these rules has something to do here.
    fn lets_not_all_pass(&self, rules: &[Rule]) -> bool {
        has_forward_rules(&self.0) || rules.iter().any(|rule| rule.chain == "INPUT")
    }

    /// Whether a chain of the filter table has a policy, or a rule of others, that could drop something.
    fn could_drop(&self, chain: &str) -> bool {
        let (rule, policy, accepts) = (format!("-A {chain} "), format!(":{chain} "), format!(":{chain} ACCEPT"));
        table_lines(&self.0, "filter").iter().any(|line| {
            (line.starts_with(&rule) && !is_shared(line)) || (line.starts_with(&policy) && !line.starts_with(&accepts))
        })
    }

    /// Those rules of `table` that are for all namespaces, as [`Rule::text`] has them, whoever owns them.
    fn shared(&self, table: &str) -> Vec<String> {
        let lines = table_lines(&self.0, table).into_iter().filter(|line| is_shared(line));
        lines.filter_map(|line| line.strip_prefix("-A ")).map(unquoted).collect()
    }

    /// Whether a rule is there, whoever owns it.
    fn has(&self, rule: &Rule) -> bool {
        self.shared(rule.table).iter().any(|text| {
            let owner = text.split("--comment ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            *text == rule.text(owner)
        })
    }

    /// Whether all chains exist in which the rules stand.
    fn has_all_chains(&self) -> bool {
        CHAINS.iter().all(|(table, chain)| {
            let head = format!(":{chain} ");
            table_lines(&self.0, table).iter().any(|line| line.starts_with(&head))
        })
    }

    /// The tag of the namespace that owns the rules for all namespaces.
    fn owner(&self) -> Option<String> {
        let all = TABLES.iter().flat_map(|table| self.shared(table));
        all.filter_map(|rule| rule.split("--comment ").nth(1)?.split(' ').next().map(str::to_string)).next()
    }

    /// Input for iptables-restore that makes the rules for all namespaces those that are `wanted`, and takes out what
    /// else `gone` has as its comment. Each table changes in one step. Empty if there is nothing to change.
    fn change(&self, wanted: &[Rule], owner: &str, gone: Option<&str>) -> String {
        let mut input = String::new();
        for table in TABLES {
            let rules: Vec<&Rule> = wanted.iter().filter(|rule| rule.table == table).collect();
            let texts: Vec<String> = rules.iter().map(|rule| rule.text(owner)).collect();
            let there = self.shared(table);
            let own = table_lines(&self.0, table).into_iter();
            let own = own.filter(|line| !is_shared(line) && gone.is_some_and(|tag| has_comment(line, tag)));
            let mut lines: Vec<String> = own.map(|line| line.replacen("-A", "-D", 1)).collect();
            if there != texts || !self.precede(&rules, owner) {
                lines.extend(there.iter().map(|rule| format!("-D {rule}")));
                let insert = |(rule, text): (&&Rule, &String)| {
                    if rule.first { format!("-I {}", text.replacen(' ', " 1 ", 1)) } else { format!("-A {text}") }
                };
                let (first, rest): (Vec<_>, Vec<_>) = rules.iter().zip(&texts).partition(|(rule, _)| rule.first);
                lines.extend(first.into_iter().rev().map(insert));
                lines.extend(rest.into_iter().map(insert));
            }
            if !lines.is_empty() {
                input.push_str(&format!("*{table}\n{}\nCOMMIT\n", lines.join("\n")));
            }
        }
        input
    }

    /// Whether those of `rules` that have to precede all others do.
    fn precede(&self, rules: &[&Rule], owner: &str) -> bool {
        let chains: BTreeSet<(&str, &str)> = rules.iter().map(|rule| (rule.table, rule.chain)).collect();
        chains.into_iter().all(|(table, chain)| {
            let first: Vec<&&Rule> = rules.iter().filter(|rule| rule.first && rule.chain == chain).collect();
            let command = format!("-A {chain} ");
            let lines = table_lines(&self.0, table).into_iter().filter(|line| line.starts_with(&command));
            lines.take(first.len()).map(unquoted).eq(first.iter().map(|rule| format!("-A {}", rule.text(owner))))
        })
    }
}

/// The tables that contain our rules.
const TABLES: [&str; 3] = ["mangle", "filter", "nat"];

/// Some versions of iptables-save put quotes round every comment.
fn unquoted(rule: &str) -> String {
    rule.replace('"', "")
}

/// Whether a rule, as iptables-save prints it, is one of those for all namespaces.
fn is_shared(rule: &str) -> bool {
    let signs = ["-group 0x72756e", "/0xff000000 ", transit::NEW];
    rule.starts_with("-A ")
        && rule.contains("--comment")
        && signs.iter().any(|sign| rule.contains(sign))
        && is_tagged(rule)
}

fn is_tagged(rule: &str) -> bool {
    let comment = rule.split("--comment ").nth(1).unwrap_or_default();
    comment.trim_start_matches('"').starts_with("runns:")
}

/// Whether plain `iptables` means the legacy tables here.
pub fn is_legacy() -> Result<bool> {
    Ok(Backend::primary()? == Backend::Legacy)
}

/// Checks, before anything is made, that there is a firewall to put rules into.
pub fn check() -> Result<()> {
    Backend::primary().map(drop)
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
fn remember_new_chains(site: &Site) -> Result<()> {
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
