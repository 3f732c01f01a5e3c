//! nftables through nft(8): our table, loaded whole in one transaction, and read back as the kernel
//! has it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kernel::netlink::in_thread;
use crate::kernel::nfnetlink::generation_here;
use crate::kernel::tool;
use runns_shared::error::{Context, Error, Result};

/// The table of runns-exec, on the host and in each namespace.
pub const TABLE: &str = "inet runns";

/// The text that replaces the table, whatever it contains, by `body`. Without a body the table is
/// removed. nft(8) deletes only what exists, so it is created first.
pub fn replacement(body: &str) -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n{body}")
}

/// The text that replaces the table by `body` but keeps the elements that packets have added to
/// those sets of `body` that exist already: which way a flow has taken must not be forgotten.
pub fn renewal(body: &str) -> Result<String> {
    // Nothing to replace: nft(8) would wait until no packet could still meet what it deletes.
    if is_untouched() {
        return Ok(body.to_string());
    }
    let terse = list(&["-t", "list", "table", "inet", "runns"])?;
    let kept = |name: &str| {
        body.contains(&format!(" set {name} {{")) || body.contains(&format!("\nset {name} {{"))
    };
    let dynamic: Vec<&str> = sets(&terse)
        .filter(|set| is_dynamic(set))
        .filter_map(|set| set["name"].as_str())
        .collect();
    if !dynamic.iter().any(|name| kept(name)) {
        return Ok(replacement(body));
    }
    let mut text = format!("flush table {TABLE}\n");
    let objects = terse
        .iter()
        .flatten()
        .filter(|(kind, _)| ["chain", "set", "map"].contains(&kind.as_str()));
    let named = objects.filter_map(|(kind, value)| Some((kind, value["name"].as_str()?)));
    let gone: Vec<(&String, &str)> = named
        .filter(|(_, name)| !(dynamic.contains(name) && kept(name)))
        .collect();
    // Chains first: maps of verdicts could name them, and their rules name sets.
    for wanted in [true, false] {
        for (kind, name) in gone.iter().filter(|(kind, _)| (*kind == "chain") == wanted) {
            text += &format!("delete {kind} {TABLE} {name}\n");
        }
    }
    Ok(text + body)
}

/// Loads a text in one transaction, in the calling thread's network namespace: all of it takes
/// effect, or nothing.
pub fn load(text: &str) -> Result<()> {
    tool::run("nft", &["-f", "-"], text).map(drop)
}

/// A set or map with its elements, in the syntax of nft(8). The elements are sorted, so that the
/// text does not depend on the order in which they were found.
pub fn set(kind: &str, name: &str, types: &str, mut elements: Vec<String>) -> String {
    elements.sort_unstable();
    elements.dedup();
    let elements = match elements.is_empty() {
        true => String::new(),
        false => format!(" elements = {{ {} }};", elements.join(", ")),
    };
    format!("    {kind} {name} {{ type {types};{elements} }}\n")
}

/// A text as it was loaded: while nothing in the namespace's ruleset has changed since, the kernel
/// holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The generation of the ruleset that loading brought about, which every change increments
    /// (NFT_MSG_GETGEN).
    generation: u64,
    /// A digest of the text.
    digest: u64,
}

impl Loaded {
    /// Loads the table of this body in the calling thread's network namespace, by `commands`.
    /// `None` if somebody else changed the ruleset at the same time, or the kernel tells no
    /// generation: then it is not known what the ruleset was.
    pub fn load(commands: &str, body: &str) -> Result<Option<Self>> {
        let before = generation_here();
        load(commands)?;
        let after = generation_here();
        let is_ours = before
            .zip(after)
            .is_some_and(|(before, after)| after == before + 1);
        Ok(after.filter(|_| is_ours).map(|generation| Self {
            generation,
            digest: digest(body),
        }))
    }

    /// Whether a ruleset of this generation has the table of this body.
    pub fn holds(&self, generation: Option<u64>, body: &str) -> bool {
        generation == Some(self.generation) && self.digest == digest(body)
    }

    /// As a record keeps it.
    pub fn to_record(self) -> [u64; 2] {
        [self.generation, self.digest]
    }

    /// From a record.
    pub fn from_record([generation, digest]: [u64; 2]) -> Self {
        Self { generation, digest }
    }
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// What the kernel holds of our table: each object (`set open`, `chain forwarding`) with all that
/// belongs to it, without what changes by itself (handles, elements that packets add).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed(BTreeMap<String, Vec<String>>);

impl Listed {
    /// The table in the calling thread's network namespace; empty if there is none.
    pub fn here() -> Result<Self> {
        let mut objects = list(&["-t", "list", "table", "inet", "runns"])?;
        // Packets may have added hundreds of thousands of elements, which are of no interest: the
        // others are asked for alone.
        let is_small = sets(&objects).all(|set| set["size"].as_u64().unwrap_or_default() <= FEW);
        if is_small {
            return Ok(Self::of_objects(&list(&[
                "list", "table", "inet", "runns",
            ])?));
        }
        for (kind, value) in objects
            .iter_mut()
            .flatten()
            .filter(|(kind, _)| *kind == "set" || *kind == "map")
        {
            if let Some(name) = value["name"]
                .as_str()
                .filter(|_| !is_dynamic(value))
                .map(str::to_string)
            {
                let one = list(&["list", kind, "inet", "runns", &name])?;
                let found = one.into_iter().find_map(|mut object| object.remove(kind));
                *value = found.unwrap_or_default();
            }
        }
        Ok(Self::of_objects(&objects))
    }

    /// The table as the kernel would hold it after this body was loaded: it is loaded into a
    /// network namespace that exists only for this purpose.
    pub fn of(body: &str) -> Result<Self> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).cannot(|| "create a network namespace")?;
            load(body)?;
            Self::here()
        })
    }

    fn of_objects(objects: &[Map<String, Value>]) -> Self {
        let mut listed = BTreeMap::<String, Vec<String>>::new();
        for (kind, value) in objects
            .iter()
            .flatten()
            .filter(|(kind, _)| *kind != "metainfo")
        {
            // A rule belongs to its chain, where the order counts.
            let (kind, name) = match kind.as_str() {
                "rule" => ("chain", &value["chain"]),
                kind => (kind, &value["name"]),
            };
            let key = format!("{kind} {}", name.as_str().unwrap_or_default());
            listed
                .entry(key)
                .or_default()
                .push(steady(value).to_string());
        }
        Self(listed)
    }

    /// Whether there is no table in the calling thread's network namespace, or no nft(8) that could
    /// have loaded one.
    pub fn is_absent() -> Result<bool> {
        Ok(tool::find("nft").is_none() || !exists()?)
    }

    /// Whether there is no table.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same, if the elements of some namespaces are not known: sets may have more than those of
    /// `wanted`.
    pub fn differences_but_for_elements(&self, wanted: &Self) -> Vec<String> {
        let mut found = self.differences(wanted);
        found.retain(|key| {
            match (
                self.0.get(key).map(Vec::as_slice),
                wanted.0.get(key).map(Vec::as_slice),
            ) {
                (Some([here]), Some([wanted])) => !has_elements_of(here, wanted),
                _ => true,
            }
        });
        found
    }

    /// The objects that differ from those of `wanted`, missing and additional ones included.
    pub fn differences(&self, wanted: &Self) -> Vec<String> {
        let changed = |(key, value): &(&String, &Vec<String>)| self.0.get(*key) != Some(*value);
        let lost = wanted.0.iter().filter(changed).map(|(key, _)| key.clone());
        let added = self
            .0
            .keys()
            .filter(|key| !wanted.0.contains_key(*key))
            .cloned();
        lost.chain(added).collect()
    }
}

/// An object without its handle, without the elements of a set that packets add to, and with those
/// of others sorted.
fn steady(object: &Value) -> Value {
    let mut object = object.clone();
    let Some(fields) = object.as_object_mut() else {
        return object;
    };
    fields.remove("handle");
    // That of elements, which nft 1.1.7 prints.
    fields.remove("count");
    if fields.contains_key(TIMEOUT) {
        fields.remove("elem");
    } else if let Some(Value::Array(elements)) = fields.get_mut("elem") {
        elements.sort_by_key(Value::to_string);
    }
    object
}

/// Whether a set is another one with more elements.
fn has_elements_of(set: &str, other: &str) -> bool {
    let parse = |text: &str| -> Option<(Vec<Value>, Value)> {
        let mut value: Value = serde_json::from_str(text).ok()?;
        let elements = value
            .as_object_mut()?
            .remove("elem")
            .and_then(|elements| elements.as_array().cloned());
        Some((elements.unwrap_or_default(), value))
    };
    let (Some((elements, set)), Some((others, other))) = (parse(set), parse(other)) else {
        return false;
    };
    set == other && others.iter().all(|element| elements.contains(element))
}

/// Sets of ours to which packets add elements have a timeout, and no others.
const TIMEOUT: &str = "timeout";
/// Elements that are read without hesitation.
const FEW: u64 = 65_536;

fn is_dynamic(set: &Value) -> bool {
    !set[TIMEOUT].is_null()
}

fn sets(objects: &[Map<String, Value>]) -> impl Iterator<Item = &Value> {
    objects.iter().filter_map(|object| object.get("set"))
}

/// What nft(8) lists in JSON, object by object; nothing if there is no table.
fn list(arguments: &[&str]) -> Result<Vec<Map<String, Value>>> {
    if is_untouched() {
        return Ok(Vec::new());
    }
    match tool::run("nft", &[&["-j"], arguments].concat(), "") {
        Ok(text) => parse(&text),
        Err(_) if !exists()? => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Result<Vec<Map<String, Value>>> {
    let wrong = |cause: &dyn std::fmt::Display| Error::new("read our nftables table", cause);
    let listing: Value = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    let objects = listing["nftables"]
        .as_array()
        .ok_or_else(|| wrong(&"the output of nft is not a list of objects"))?;
    Ok(objects
        .iter()
        .filter_map(Value::as_object)
        .cloned()
        .collect())
}

/// Whether the table exists in the calling thread's network namespace.
fn exists() -> Result<bool> {
    Ok(!is_untouched()
        && tool::run("nft", &["list", "tables"], "")?
            .lines()
            .any(|line| line == "table inet runns"))
}

/// Whether nothing was ever loaded in the calling thread's network namespace: its generation begins
/// with 1 (net/netfilter/nf_tables_api.c, nf_tables_init_net).
fn is_untouched() -> bool {
    generation_here() == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(elements: &str, rules: &[&str]) -> Listed {
        let rules: String = rules
            .iter()
            .enumerate()
            .map(|(at, rule)| {
                format!(r#",{{"rule":{{"chain":"c","handle":{at},"expr":"{rule}"}}}}"#)
            })
            .collect();
        let text = format!(
            r#"{{"nftables":[{{"metainfo":{{"version":"1"}}}},{{"table":{{"name":"runns","handle":7}}}},
            {{"set":{{"name":"s","handle":3,"elem":[{elements}]}}}},
            {{"set":{{"name":"d","timeout":60,"count":{},"elem":[{elements}]}}}},{{"chain":{{"name":"c"}}}}{rules}]}}"#,
            elements.len()
        );
        Listed::of_objects(&parse(&text).unwrap())
    }

    #[test]
    fn differences_are_named_by_object() {
        let wanted = listed("1,2", &["a", "b"]);
        assert!(listed("2,1", &["a", "b"]).differences(&wanted).is_empty());
        assert_eq!(listed("2, 3", &["a", "b"]).differences(&wanted), ["set s"]);
        assert_eq!(listed("1,2", &["b", "a"]).differences(&wanted), ["chain c"]);
        assert_eq!(Listed::default().differences(&wanted).len(), 4);
        assert_eq!(wanted.differences(&Listed::default()).len(), 4);
        assert!(
            listed("1,2,3", &["a", "b"])
                .differences_but_for_elements(&wanted)
                .is_empty()
        );
        assert_eq!(
            listed("1,3", &["a", "b"]).differences_but_for_elements(&wanted),
            ["set s"]
        );
        assert_eq!(
            listed("1,2,3", &["a"]).differences_but_for_elements(&wanted),
            ["chain c"]
        );
    }

    #[test]
    fn a_text_does_not_depend_on_the_order_of_facts() {
        let text =
            |elements: [&str; 2]| set("set", "s", "ifname", elements.map(str::to_string).to_vec());
        assert_eq!(text(["\"b\"", "\"a\""]), text(["\"a\"", "\"b\""]));
        assert_eq!(
            set("set", "s", "ifname", Vec::new()),
            "    set s { type ifname; }\n"
        );
    }
}
