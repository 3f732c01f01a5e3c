//! Native nftables chains (firewalld's, an administrator's): whether one of them certainly drops what the namespace
//! sends. In nftables every base chain has a veto, so no rule of ours could help.
//!
//! The ruleset is read as JSON (libnftables-json(5)) and walked with three-valued logic: a match that is not
//! understood may or may not hold. Only a packet that no way through the chain lets pass counts as dropped.

use serde_json::Value;

use crate::tool;
use runns_shared::error::{Error, Result};
use runns_shared::plan::Plan;

/// How deep jumps go (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 16;

/// The chain that drops the namespace's traffic, as `FAMILY TABLE CHAIN`.
pub fn dropping_chain(plan: &Plan) -> Result<Option<String>> {
    if tool::find("nft").is_none() {
        return Ok(None);
    }
    let text = tool::run("nft", &["-j", "list", "ruleset"], "")?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let ruleset: Value = serde_json::from_str(&text).map_err(|error| Error::new("read the nftables ruleset", error))?;
    let packet = Packet {
        input: plan.request.interface.to_string(),
        output: plan.request.uplink.as_ref().map(ToString::to_string),
        source: plan.number.inside().to_string(),
    };
    Ok(dropping_chain_of(&ruleset, &packet))
}

/// Everything in nftables; nothing if `nft` is not installed.
fn ruleset() -> Result<Value> {
    if tool::find("nft").is_none() {
        return Ok(Value::Null);
    }
    let text = tool::run("nft", &["-j", "list", "ruleset"], "")?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).map_err(|error| Error::new("read the nftables ruleset", error))
}

/// A chain of family ip.
pub struct Chain {
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// It has rules, or a policy other than accept.
    pub in_use: bool,
}

/// The chains of family ip, where iptables' nft backend has its own.
pub fn chains() -> Result<Vec<Chain>> {
    let ruleset = ruleset()?;
    let objects = ruleset["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let rules: Vec<&Value> = objects.iter().filter_map(|object| object.get("rule")).collect();
    let chains = objects.iter().filter_map(|object| object.get("chain")).filter(|chain| chain["family"] == "ip");
    Ok(chains
        .map(|chain| {
            let has_rules = rules.iter().any(|rule| {
                rule["family"] == "ip" && rule["table"] == chain["table"] && rule["chain"] == chain["name"]
            });
            let word = |key: &str| chain[key].as_str().unwrap_or_default().to_string();
            let accepts = chain["policy"].is_null() || chain["policy"] == "accept";
            Chain { table: word("table"), chain: word("name"), in_use: has_rules || !accepts }
        })
        .collect())
}

/// The first packet of a connection from the namespace.
struct Packet {
    input: String,
    output: Option<String>,
    source: String,
}

/// What is known of a match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

/// What can become of the packet.
#[derive(Clone, Copy, Default)]
struct Fate {
    accepted: bool,
    dropped: bool,
    /// It leaves the chain at its end, or by `return`.
    through: bool,
}

impl Fate {
    const DROPPED: Self = Self { accepted: false, dropped: true, through: false };
    const ACCEPTED: Self = Self { accepted: true, dropped: false, through: false };
    const THROUGH: Self = Self { accepted: false, dropped: false, through: true };
}

fn dropping_chain_of(ruleset: &Value, packet: &Packet) -> Option<String> {
    let objects = ruleset["nftables"].as_array()?;
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    let mut forward = chains.filter(|chain| {
        chain["hook"] == "forward" && chain["type"] == "filter" && (chain["family"] == "ip" || chain["family"] == "inet")
            // Those of iptables' nft backend, where our own rules come first.
            && !(chain["family"] == "ip" && chain["table"] == "filter" && chain["name"] == "FORWARD")
            && !(chain["family"] == "ip" && chain["table"] == "mangle" && chain["name"] == "FORWARD")
    });
    forward
        .find(|chain| {
            let walk = Walk { objects, family: &chain["family"], table: &chain["table"], packet };
            let fate = walk.chain(&chain["name"], 0);
            let dropped = fate.dropped || (fate.through && chain["policy"] == "drop");
            dropped && !fate.accepted && !(fate.through && chain["policy"] != "drop")
        })
        .map(|chain| {
            let word = |key: &str| chain[key].as_str().unwrap_or_default().to_string();
            format!("{} {} {}", word("family"), word("table"), word("name"))
        })
}

/// A walk through the chains of one table.
struct Walk<'a> {
    objects: &'a [Value],
    family: &'a Value,
    table: &'a Value,
    packet: &'a Packet,
}

impl Walk<'_> {
    fn chain(&self, name: &Value, depth: usize) -> Fate {
        let mut fate = Fate::THROUGH;
        if depth > DEEPEST {
            return Fate { accepted: true, dropped: true, through: true };
        }
        let rules =
            self.objects.iter().filter_map(|object| object.get("rule")).filter(|rule| {
                rule["family"] == *self.family && rule["table"] == *self.table && rule["chain"] == *name
            });
        let mut returned = false;
        for rule in rules {
            let (truth, end) = self.rule(rule["expr"].as_array().map_or(&[], Vec::as_slice), depth);
            let Some(End { fate: then, returns }) = end.filter(|_| truth != Truth::No) else { continue };
            fate.accepted |= then.accepted;
            fate.dropped |= then.dropped;
            returned |= returns;
            if truth == Truth::Yes && !then.through {
                return Fate { through: returned, ..fate };
            }
        }
        fate
    }

    /// Whether a rule's matches hold, and how it ends.
    fn rule(&self, expressions: &[Value], depth: usize) -> (Truth, Option<End>) {
        let mut truth = Truth::Yes;
        for expression in expressions {
            let Some((kind, body)) = expression.as_object().and_then(|object| object.iter().next()) else { continue };
            match kind.as_str() {
                "match" => truth = both(truth, self.matches(body)),
                "counter" | "log" | "comment" | "mangle" | "notrack" => {}
                "accept" | "queue" => return (truth, Some(End::of(Fate::ACCEPTED))),
                "drop" | "reject" => return (truth, Some(End::of(Fate::DROPPED))),
                "return" => return (truth, Some(End { fate: Fate::default(), returns: true })),
                "jump" => return (truth, Some(End::of(self.chain(&body["target"], depth + 1)))),
                "goto" => {
                    let fate = self.chain(&body["target"], depth + 1);
                    return (truth, Some(End { fate: Fate { through: false, ..fate }, returns: fate.through }));
                }
                "vmap" => return (Truth::Maybe, Some(End::of(self.map(body, depth)))),
                _ => truth = both(truth, Truth::Maybe),
            }
        }
        (truth, None)
    }

    /// A verdict map: every verdict whose key may be the packet's.
    fn map(&self, body: &Value, depth: usize) -> Fate {
        let mut fate = Fate::THROUGH;
        let Some(entries) = body["data"]["set"].as_array() else {
            return Fate { accepted: true, dropped: true, through: true };
        };
        for entry in entries {
            if self.holds(&body["key"], &entry[0]) != Truth::No {
                let (_, end) = self.rule(std::slice::from_ref(&entry[1]), depth);
                let then = end.map_or(Fate::default(), |end| end.fate);
                fate.accepted |= then.accepted;
                fate.dropped |= then.dropped;
            }
        }
        fate
    }

    fn matches(&self, body: &Value) -> Truth {
        let truth = self.holds(&body["left"], &body["right"]);
        match (body["op"].as_str(), truth) {
            (Some("==" | "in"), truth) => truth,
            (Some("!="), Truth::Yes) => Truth::No,
            (Some("!="), Truth::No) => Truth::Yes,
            _ => Truth::Maybe,
        }
    }

    /// Whether the packet's `left` is, or is among, `right`.
    fn holds(&self, left: &Value, right: &Value) -> Truth {
        if let Some(set) = right["set"].as_array().or(right.as_array()) {
            let truths: Vec<Truth> = set.iter().map(|one| self.holds(left, one)).collect();
            return if truths.contains(&Truth::Yes) {
                Truth::Yes
            } else if truths.contains(&Truth::Maybe) {
                Truth::Maybe
            } else {
                Truth::No
            };
        }
        if left["ct"]["key"] == "state" {
            return known(right.as_str(), |state| state == "new");
        }
        match left["meta"]["key"].as_str() {
            Some("iifname" | "iif") => known(right.as_str(), |pattern| is_interface(pattern, &self.packet.input)),
            Some("oifname" | "oif") => match &self.packet.output {
                Some(output) => known(right.as_str(), |pattern| is_interface(pattern, output)),
                None => known(right.as_str(), |pattern| is_interface(pattern, &self.packet.input)).not_yes(),
            },
            Some("nfproto") => known(right.as_str(), |family| family == "ipv4"),
            Some("protocol") => known(right.as_str(), |family| family == "ip"),
            _ if left["payload"]["protocol"] == "ip6" || left["payload"]["protocol"] == "icmpv6" => Truth::No,
            _ if left["payload"]["protocol"] == "ip" && left["payload"]["field"] == "saddr" && right.is_string() => {
                known(right.as_str(), |address| address == self.packet.source)
            }
            _ => Truth::Maybe,
        }
    }
}

/// How a rule ends.
struct End {
    fate: Fate,
    returns: bool,
}

impl End {
    fn of(fate: Fate) -> Self {
        Self { fate, returns: false }
    }
}

impl Truth {
    /// The packet does not go out where it came in; where else it goes is not known.
    fn not_yes(self) -> Self {
        if self == Self::Yes { Self::No } else { Self::Maybe }
    }
}

fn known(value: Option<&str>, holds: impl Fn(&str) -> bool) -> Truth {
    match value {
        Some(value) if holds(value) => Truth::Yes,
        Some(_) => Truth::No,
        None => Truth::Maybe,
    }
}

fn both(one: Truth, other: Truth) -> Truth {
    match (one, other) {
        (Truth::No, _) | (_, Truth::No) => Truth::No,
        (Truth::Yes, Truth::Yes) => Truth::Yes,
        _ => Truth::Maybe,
    }
}

/// `pattern` may end in `*`.
fn is_interface(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dropped(policy: &str, rules: Vec<Value>) -> bool {
        let mut objects = vec![json!({"chain": {"family": "inet", "table": "fw", "name": "fwd", "type": "filter",
            "hook": "forward", "prio": 10, "policy": policy}})];
        for expr in rules {
            let chain = if expr.is_array() { "fwd" } else { "sub" };
            let expr = if expr.is_array() { expr } else { expr["sub"].clone() };
            objects.push(json!({"rule": {"family": "inet", "table": "fw", "chain": chain, "expr": expr}}));
        }
        let packet = Packet { input: "vpn1".into(), output: None, source: "172.24.1.2".into() };
        dropping_chain_of(&json!({"nftables": objects}), &packet).is_some()
    }

    fn equal(key: &str, right: Value) -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}})
    }

    #[test]
    fn policy_decides_where_no_rule_does() {
        assert!(dropped("drop", vec![]));
        assert!(!dropped("accept", vec![]));
        assert!(!dropped("drop", vec![json!([equal("iifname", json!("vpn*")), {"accept": null}])]));
        assert!(dropped("drop", vec![json!([equal("iifname", json!("eth0")), {"accept": null}])]));
        assert!(dropped("drop", vec![json!([equal("iifname", json!({"set": ["lo", "eth0"]})), {"accept": null}])]));
    }

    #[test]
    fn established_traffic_does_not_count() {
        let state =
            json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}});
        assert!(dropped("accept", vec![json!([state, {"accept": null}]), json!([{"reject": {"type": "icmpx"}}])]));
    }

    #[test]
    fn doubt_is_not_a_drop() {
        let mark = equal("mark", json!(7));
        assert!(!dropped("drop", vec![json!([mark, {"accept": null}])]));
        assert!(!dropped("accept", vec![json!([mark, {"drop": null}])]));
        assert!(dropped("accept", vec![json!([mark, {"drop": null}]), json!([{"drop": null}])]));
        assert!(!dropped("drop", vec![json!([equal("oifname", json!("eth0")), {"accept": null}])]));
    }

    #[test]
    fn jumps_are_followed() {
        let jump = json!([{"jump": {"target": "sub"}}]);
        assert!(dropped("accept", vec![jump.clone(), json!({"sub": [{"drop": null}]})]));
        assert!(!dropped("accept", vec![jump.clone(), json!({"sub": [{"accept": null}]}), json!([{"drop": null}])]));
        assert!(dropped("drop", vec![jump, json!({"sub": [{"return": null}]})]));
    }
}
