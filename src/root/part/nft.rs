//! The tables and chains of nftables that iptables' nft backend shares with the rest of the system.

use runns_shared::error::{Error, Result};
use serde_json::Value;

use crate::tool;

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
