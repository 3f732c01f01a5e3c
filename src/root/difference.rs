//! Where what is asked for and what was built differ, option by option.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::part::{daemon, wireguard};
use crate::wanted::{Given, Wanted};
use runns_shared::config::{Config, Section};
use runns_shared::escape::{escape, show};
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::plan::Plan;
use runns_shared::record::Record;
use runns_shared::request::Request;
use runns_shared::trusted;

/// An option that was built with another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The option, as the manual spells it.
    pub option: String,
    /// The value that the namespace was built with, for people.
    pub built: String,
    /// The value that is asked for.
    pub section: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {} -> {}", self.option, self.built, self.section)
    }
}

/// Options that cannot change while the namespace exists. What PostBuild set up inside is not known,
/// and so cannot be removed.
const FIXED: [&str; 2] = ["NetworkNamespace", "PostBuild"];
/// Those of a veth pair, once there is one.
const OF_VETH: [&str; 2] = ["InterfaceIn", "Subnet"];

impl Difference {
    /// Whether the namespace, which has a veth pair or not, has to be cleaned and built again for it.
    pub fn is_fixed(&self, has_veth: bool) -> bool {
        FIXED.contains(&self.option.as_str())
            || (has_veth && OF_VETH.contains(&self.option.as_str()))
    }
}

/// The section itself, as if it were an option: its name.
pub const SECTION: &str = "section";

/// Of an option that is absent.
const NOT_SET: &str = "not set";

/// Where what was built and what is asked for, with this name, differ.
pub fn between(built: &Plan, name: &NetnsName, asked: &Wanted) -> Vec<Difference> {
    let interface = asked.interface_of(name);
    let asked = values(name, &interface, &asked.request);
    values(&built.name, &built.interface, &built.request)
        .into_iter()
        .zip(asked)
        .filter(|((_, built), (_, asked))| built != asked)
        .map(|((option, built), (_, section))| Difference {
            option: option.to_string(),
            built,
            section,
        })
        .collect()
}

/// Where what was built and its section, with the options that it was built with, differ; nothing if
/// it was not built from one of the configuration.
pub fn from_section(record: &Record, config: &Config) -> Vec<Difference> {
    let request = &record.plan.request;
    let Some(built_from) = &request.section else {
        return Vec::new();
    };
    let is_its = |section: &&Section| section.name.eq_ignore_ascii_case(built_from);
    let Some(section) = config.sections.iter().find(is_its) else {
        return vec![Difference {
            option: SECTION.to_string(),
            built: built_from.clone(),
            section: NOT_SET.to_string(),
        }];
    };
    let mut wanted = Wanted::of_section(section, request.section.clone());
    // The section may have got a port since that an option named.
    let _ = wanted.add(&Given::of(&request.given));
    let name = wanted.name.as_ref().unwrap_or(&section.netns);
    between(&record.plan, name, &wanted)
}

/// Files that have other contents than when the plan was carried out. Only root can tell.
pub fn contents(plan: &Plan) -> Vec<Difference> {
    let request = &plan.request;
    let changed = |option: &str, file: &PathBuf| Difference {
        option: option.to_string(),
        built: show(file),
        section: "the same file, with other contents".to_string(),
    };
    let vpn = request.vpn.iter().enumerate();
    let vpn = vpn.filter(|(index, _)| daemon::has_changed(plan, *index));
    let openconnect = request.openconnect.iter();
    let openconnect = openconnect.filter(|_| daemon::has_changed(plan, request.vpn.len()));
    let wireguard = request.wireguard.iter().enumerate();
    let wireguard = wireguard.filter(|(index, _)| wireguard::has_changed(plan, *index));
    let text = plan.resolver.as_ref().and_then(|own| own.text.as_ref());
    let resolve = request
        .resolve
        .iter()
        .filter(|file| trusted::read_named(file).ok().as_ref() != text);
    vpn.map(|(_, file)| changed("vpn", file))
        .chain(openconnect.flat_map(|one| {
            let options = one.options.iter();
            options.map(|file| changed("OpenConnectOptions", file))
        }))
        .chain(wireguard.map(|(_, file)| changed("WireGuard", file)))
        .chain(resolve.map(|file| changed("Resolve", file)))
        .collect()
}

fn strings(words: &[impl ToString]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn text(value: Option<String>) -> String {
    value.unwrap_or(NOT_SET.to_string())
}

fn list(words: Vec<String>) -> String {
    text((!words.is_empty()).then(|| words.join(", ")))
}

fn values(
    name: &NetnsName,
    interface: &IfaceName,
    request: &Request,
) -> Vec<(&'static str, String)> {
    let switch = |on: bool| if on { "yes" } else { "no" }.to_string();
    let names = |names: &Option<Vec<String>>| {
        let names = names.iter().flatten();
        list(names.map(|name| escape(name.as_bytes())).collect())
    };
    let dns = request.dns.as_ref().map(|dns| {
        let servers = dns.servers.iter().map(ToString::to_string);
        let words: Vec<String> = servers.chain(dns.search.iter().cloned()).collect();
        words.join(", ")
    });
    let openconnect = request.openconnect.as_ref();
    let mut values = vec![
        ("NetworkNamespace", name.to_string()),
        (SECTION, text(request.section.clone())),
        ("InterfaceIn", interface.to_string()),
        (
            "InterfaceOut",
            text(request.uplink.as_ref().map(ToString::to_string)),
        ),
        ("Resolve", text(request.resolve.as_ref().map(show))),
        ("DNS", text(dns)),
        ("DNSLock", text(request.dns_lock.map(switch))),
        ("vpn", list(request.vpn.iter().map(show).collect())),
        (
            "OpenConnect",
            text(openconnect.map(|one| escape(one.server.as_bytes()))),
        ),
        (
            "OpenConnectOptions",
            text(openconnect.and_then(|one| one.options.as_ref()).map(show)),
        ),
        (
            "OpenConnectPassword",
            text(openconnect.and_then(|one| one.password.as_ref()).map(show)),
        ),
        (
            "WireGuard",
            list(request.wireguard.iter().map(show).collect()),
        ),
        (
            "WG_QUICK_USERSPACE_IMPLEMENTATION",
            text(request.userspace.as_ref().map(show)),
        ),
        ("KillSwitch", switch(request.kill_switch)),
        ("IPv6", text(request.ipv6.map(switch))),
        ("AllowUsers", names(&request.access.users)),
        ("AllowGroups", names(&request.access.groups)),
        ("NoNewPrivs", switch(request.no_new_privs)),
    ];
    values.extend(other_values(request));
    values
}

fn other_values(request: &Request) -> [(&'static str, String); 8] {
    let exceptions = &request.exceptions;
    [
        ("Publish", list(strings(&exceptions.published))),
        (
            "HostAccess",
            text(exceptions.host_access.as_ref().map(ToString::to_string)),
        ),
        ("Bypass", list(strings(&exceptions.bypassed))),
        (
            "Subnet",
            text(request.subnet.map(|subnet| subnet.to_string())),
        ),
        ("MTU", text(request.mtu.map(|mtu| mtu.to_string()))),
        ("PostBuild", text(request.post_build.as_ref().map(show))),
        ("PreClean", text(request.pre_clean.as_ref().map(show))),
        (
            "HookTimeout",
            text(request.hook_timeout.map(|time| time.to_string())),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use runns_shared::record::State;
    use runns_shared::subnet::Number;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("/etc/runns.conf")).unwrap()
    }

    fn differences(built: &str, now: &str) -> Vec<String> {
        let before = config(built);
        let section = &before.sections[0];
        let plan = Plan {
            name: section.netns.clone(),
            interface: section.netns.default_interface(),
            request: Request {
                section: Some(section.name.clone()),
                ..section.request.clone()
            },
            number: Number::new(0).unwrap(),
            resolver: None,
            host: None,
            host_v6: None,
        };
        let record = Record::new(State::Built, plan);
        let found = from_section(&record, &config(now));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_option_that_differs_is_named() {
        assert_eq!(
            differences(
                "[Work]\nvpn=/a\nvpn=/b\nPublish=80\nMTU=1400\n",
                "[work]\nNetworkNamespace=Work\nKillSwitch=yes\nvpn=/a\nMTU=1400\nPublish=80\nPublish=81\n"
            ),
            [
                "vpn: /a, /b -> /a",
                "KillSwitch: no -> yes",
                "Publish: 80:80/tcp -> 80:80/tcp, 81:81/tcp"
            ]
        );
        assert_eq!(
            differences("[work]\nAllowUsers=a,b\n", "[work]\n"),
            ["AllowUsers: a, b -> not set"]
        );
    }

    #[test]
    fn the_order_of_different_options_does_not_matter() {
        let same = differences(
            "[work]\nPublish=80\nMTU=1400\n",
            "[work]\nMTU=1400\nPublish=80\n",
        );
        assert!(same.is_empty(), "{same:?}");
    }
}
