//! The tables of iptables, in which other programs drop what they do not know: rules at the head of
//! FORWARD and INPUT let the traffic of namespaces pass. They forbid nothing; what may pass is
//! decided in our own table, which comes first.
//!
//! A chain that could drop nothing needs no rule, unless it is the one that plain `iptables` means:
//! there the next program to set a policy will set it. No program of iptables need be installed.

use iptables::IPTables;

use crate::kernel::tool;
use runns_shared::error::{Error, Result};

/// The table of all rules.
const FILTER: &str = "filter";
/// The rules of FORWARD and that of INPUT. Their comment, by which they are known again, is
/// `runns`.
const FORWARD: [&str; 2] = [
    "FORWARD -m devgroup --src-group 0x72756e00/0xffffff00 -m comment --comment runns -j ACCEPT",
    "FORWARD -m devgroup --dst-group 0x72756e00/0xffffff00 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -m comment --comment runns -j ACCEPT",
];
const INPUT: [&str; 1] = [
    "INPUT -m devgroup --src-group 0x72756e00/0xffffff00 -m mark --mark 0xfe000000/0xff000000 -m comment --comment runns -j ACCEPT",
];
const COMMENT: &str = "-m comment --comment runns -j ";

/// What has to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passing {
    /// Through the host, by IPv4.
    pub ipv4: bool,
    /// Through the host, by IPv6.
    pub ipv6: bool,
    /// To servers of the host that a section names.
    pub host: bool,
}

/// Puts the rules at the heads of their chains, where they are not, and removes those that are not
/// wanted.
pub fn accept(passing: Passing) -> Result<()> {
    Tables::all().iter().try_for_each(|tables| {
        let rules = Rules::of(tables)?;
        let commands = &tables.commands;
        let is_needed = |chain: &str| tables.is_plain || rules.could_drop(chain);
        for (chain, wanted) in tables.wanted(passing, is_needed) {
            if rules.begins_with(chain, wanted) {
                continue;
            }
            for rule in rules.ours(chain) {
                tables.check("remove a rule", commands.delete(FILTER, chain, rule))?;
            }
            for rule in wanted.iter().rev().filter_map(|rule| rule.split_once(' ')) {
                tables.check("add a rule", commands.insert(FILTER, chain, rule.1, 1))?;
            }
        }
        Ok(())
    })
}

/// The programs in whose tables a rule is missing that has an effect. Whether rules of others come
/// first is not asked (Docker puts its own there, which let pass what is not theirs): whether
/// traffic gets through is tried.
pub fn missing(passing: Passing) -> Result<Vec<&'static str>> {
    let mut programs = Vec::new();
    for tables in Tables::all() {
        let rules = Rules::of(&tables)?;
        let wanted = tables.wanted(passing, |chain| rules.could_drop(chain));
        if wanted
            .iter()
            .any(|(chain, wanted)| !rules.has(chain, wanted))
        {
            programs.push(tables.commands.cmd);
        }
    }
    Ok(programs)
}

/// One of the four sets of tables: of IPv4 or IPv6, and of the nft or the legacy backend.
struct Tables {
    commands: IPTables,
    is_v6: bool,
    /// Plain `iptables` means this one.
    is_plain: bool,
}

impl Tables {
    /// Those of which a program is installed.
    fn all() -> Vec<Self> {
        const PROGRAMS: [[&str; 3]; 2] = [
            ["iptables", "iptables-nft", "iptables-legacy"],
            ["ip6tables", "ip6tables-nft", "ip6tables-legacy"],
        ];
        let mut all = Vec::new();
        for [plain, nft, legacy] in PROGRAMS {
            let is_v6 = plain == "ip6tables";
            let Some(program) = tool::find(plain).and_then(|path| path.canonicalize().ok()) else {
                continue;
            };
            let is_legacy = program.to_string_lossy().contains("legacy");
            let other = if is_legacy { nft } else { legacy };
            let tables = |cmd, is_plain| Self {
                commands: IPTables {
                    cmd,
                    has_check: true,
                    has_wait: true,
                    is_numeric: false,
                },
                is_v6,
                is_plain,
            };
            all.push(tables(plain, true));
            // The legacy programs would load modules only to say that there are no tables.
            if tool::find(other).is_some() && (is_legacy || legacy_is_used(is_v6)) {
                all.push(tables(other, false));
            }
        }
        all
    }

    /// The rules that have to be in each chain, as far as it needs any.
    fn wanted(
        &self,
        passing: Passing,
        is_needed: impl Fn(&str) -> bool,
    ) -> [(&'static str, &'static [&'static str]); 2] {
        let passes = if self.is_v6 {
            passing.ipv6
        } else {
            passing.ipv4
        };
        let if_needed = |wanted: &'static [&'static str], chain: &'static str, asked: bool| {
            (
                chain,
                if asked && is_needed(chain) {
                    wanted
                } else {
                    &[]
                },
            )
        };
        [
            if_needed(&FORWARD, "FORWARD", passes),
            if_needed(&INPUT, "INPUT", passes && passing.host),
        ]
    }

    fn check<T>(
        &self,
        verb: &str,
        result: std::result::Result<T, Box<dyn std::error::Error>>,
    ) -> Result<T> {
        result.map_err(|error| {
            Error::new(
                format!("{verb} with {}", self.commands.cmd),
                error.to_string().trim(),
            )
        })
    }
}

fn legacy_is_used(is_v6: bool) -> bool {
    let file = if is_v6 {
        "/proc/net/ip6_tables_names"
    } else {
        "/proc/net/ip_tables_names"
    };
    std::fs::read_to_string(file).is_ok_and(|names| names.lines().any(|name| name == FILTER))
}

/// The filter table, as `iptables -S` prints it; without the quotes that some versions put round
/// comments.
struct Rules(Vec<String>);

impl Rules {
    fn of(tables: &Tables) -> Result<Self> {
        let output = tables.check("list the rules", tables.commands.execute(FILTER, "-S"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('"', "");
        if !output.status.success() {
            let cause = text(&output.stderr);
            return Err(Error::new(
                format!("list the rules with {}", tables.commands.cmd),
                cause.trim(),
            ));
        }
        Ok(Self(
            text(&output.stdout).lines().map(str::to_string).collect(),
        ))
    }

    /// The rules of a chain, without `-A`.
    fn chain(&self, chain: &str) -> impl Iterator<Item = &str> {
        let rules = self.0.iter().filter_map(|line| line.strip_prefix("-A "));
        rules.filter(move |rule| rule.split(' ').next() == Some(chain))
    }

    /// The specifications of our rules in a chain.
    fn ours(&self, chain: &str) -> impl Iterator<Item = &str> {
        self.chain(chain)
            .filter(|rule| is_ours(rule))
            .filter_map(|rule| Some(rule.split_once(' ')?.1))
    }

    /// Whether a chain has these rules.
    fn has(&self, chain: &str, wanted: &[&str]) -> bool {
        wanted
            .iter()
            .all(|rule| self.chain(chain).any(|there| there == *rule))
    }

    /// Whether a chain begins with these rules, and has no other of ours.
    fn begins_with(&self, chain: &str, wanted: &[&str]) -> bool {
        self.chain(chain)
            .take(wanted.len())
            .eq(wanted.iter().copied())
            && self.ours(chain).count() == wanted.len()
    }

    /// Whether the policy of a chain, or a rule of somebody else, could drop something.
    fn could_drop(&self, chain: &str) -> bool {
        let policy = format!("-P {chain} ");
        self.0.iter().any(|line| {
            line.strip_prefix(&policy)
                .is_some_and(|policy| policy != "ACCEPT")
        }) || self.chain(chain).any(|rule| !is_ours(rule))
    }
}

fn is_ours(rule: &str) -> bool {
    rule.contains(COMMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> Rules {
        Rules(lines.iter().map(|line| line.to_string()).collect())
    }

    #[test]
    fn what_could_drop_is_seen() {
        let forward = format!("-A {}", FORWARD[0]);
        assert!(!rules(&["-P FORWARD ACCEPT", &forward]).could_drop("FORWARD"));
        assert!(rules(&["-P FORWARD DROP"]).could_drop("FORWARD"));
        assert!(rules(&["-P FORWARD ACCEPT", "-A FORWARD -j DOCKER-USER"]).could_drop("FORWARD"));
        assert!(!rules(&["-P INPUT DROP"]).could_drop("FORWARD"));
        assert!(!rules(&[]).could_drop("FORWARD"));
    }

    #[test]
    fn our_rules_come_first_or_are_missing() {
        let [from, to] = FORWARD.map(|rule| format!("-A {rule}"));
        assert!(rules(&[&from, &to, "-A FORWARD -j ufw"]).begins_with("FORWARD", &FORWARD));
        let behind = rules(&["-A FORWARD -j ufw", &from, &to]);
        assert!(behind.has("FORWARD", &FORWARD) && !behind.begins_with("FORWARD", &FORWARD));
        assert!(!rules(&[&from, &to, &from]).begins_with("FORWARD", &FORWARD));
        assert!(!rules(&[&from]).begins_with("FORWARD", &[]));
        let foreign = rules(&["-A FORWARD -m comment --comment runnsx -j ACCEPT"]);
        assert_eq!(
            (
                foreign.ours("FORWARD").count(),
                foreign.begins_with("FORWARD", &[])
            ),
            (0, true)
        );
    }
}
