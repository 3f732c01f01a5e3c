//! The configuration, /etc/runns.conf: INI text to checked values. The only file that knows
//! rust-ini.
//!
//! The text is checked line by line first, because this program's grammar is narrower than any INI
//! library's: what another reader might take as a continuation, a quote or a second separator is an
//! error or plain text here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption};
use serde::Serialize;

use crate::access::Access;
use crate::error::{Error, Result};
use crate::escape::{escape, show};
use crate::json::{self, Fields};
use crate::name::{IfaceName, NetnsName};
use crate::neighbours::{self, Neighbours};
use crate::suggest::nearest;
use crate::trusted::{self, Trust};

/// Where the configuration is, if not named on the command line.
pub const DEFAULT_PATH: &str = "/etc/runns.conf";

/// The options of a section, as they are spelled in the manual.
pub const OPTIONS: [&str; 22] = [
    "NetworkNamespace",
    "InterfaceIn",
    "InterfaceOut",
    "Resolve",
    "DNS",
    "DNSLock",
    "vpn",
    "WireGuard",
    "KillSwitch",
    "IPv6",
    "Publish",
    "HostAccess",
    "Bypass",
    "Subnet",
    "MTU",
    "PostBuild",
    "PreClean",
    "HookTimeout",
    USERSPACE,
    "AllowUsers",
    "AllowGroups",
    "NoNewPrivs",
];
/// Options that may stand more than once in a section.
const REPEATABLE: [&str; 3] = ["vpn", "WireGuard", "Publish"];
/// Called as wg-quick(8) calls it.
const USERSPACE: &str = "WG_QUICK_USERSPACE_IMPLEMENTATION";
/// The option before the first section.
const GLOBAL_OPTION: &str = "AllowUnmanaged";

/// Name servers and search domains, as a line of a WireGuard configuration has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// At least one.
    pub servers: Vec<IpAddr>,
    /// Domains to search (resolv.conf(5)).
    pub search: Vec<String>,
}

impl Dns {
    /// From a record.
    pub fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            servers: fields.list("servers", json::address),
            search: fields.list("search", json::text),
        })
    }
}

/// One section: one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The name in brackets.
    pub name: String,
    /// NetworkNamespace, or the section's name.
    pub netns: NetnsName,
    /// InterfaceIn.
    pub interface_in: Option<IfaceName>,
    /// InterfaceOut.
    pub interface_out: Option<IfaceName>,
    /// Resolve, an absolute path.
    pub resolve: Option<PathBuf>,
    /// DNS.
    pub dns: Option<Dns>,
    /// DNSLock, if given.
    pub dns_lock: Option<bool>,
    /// vpn, absolute paths in order.
    pub vpn: Vec<PathBuf>,
    /// WireGuard, absolute paths in order.
    pub wireguard: Vec<PathBuf>,
    /// WG_QUICK_USERSPACE_IMPLEMENTATION: a program's name, or an absolute path.
    pub userspace: Option<PathBuf>,
    /// KillSwitch.
    pub kill_switch: bool,
    /// IPv6, if given.
    pub ipv6: Option<bool>,
    /// The options of that module.
    pub neighbours: Neighbours,
    /// AllowUsers and AllowGroups.
    pub access: Access,
    /// NoNewPrivs.
    pub no_new_privs: bool,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// AllowUnmanaged: the group may enter every named namespace.
    pub allow_unmanaged: bool,
    /// In the file's order.
    pub sections: Vec<Section>,
}

impl Config {
    /// Reads `path`, which must be root's.
    pub fn load(path: &Path) -> Result<Self> {
        let trust = if path == Path::new(DEFAULT_PATH) {
            Trust::Strict
        } else {
            Trust::AllowSticky
        };
        Self::parse(&trusted::read(path, trust)?, path)
    }

    /// Reads /etc/runns.conf; no such file is an empty configuration.
    pub fn load_default() -> Result<Self> {
        Ok(Self::load_if_there()?.unwrap_or_default())
    }

    /// Reads /etc/runns.conf; `None` if there is no such file.
    pub fn load_if_there() -> Result<Option<Self>> {
        let path = Path::new(DEFAULT_PATH);
        if let Some(text) = trusted::read_if_there(path, Trust::Strict)? {
            return Self::parse(&text, path).map(Some);
        }
        // A link that leads nowhere may do so only in the caller's view.
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Err(Error::new(
                format!("read {DEFAULT_PATH}"),
                "it is a symbolic link that leads nowhere",
            )),
        }
    }

    /// Parses `text`; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let text = check_lines(text, path)?;
        let option = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            enabled_indented_mutiline_value: false,
            ..Default::default()
        };
        let ini = Ini::load_from_str_opt(&text, option)
            .map_err(|error| refuse(path, error.to_string()))?;
        let mut config = Self::default();
        for (section, properties) in ini.iter() {
            let section = section.map(restore);
            let values = properties
                .iter()
                .map(|(key, value)| (key, restore(value)))
                .collect();
            let options = Options {
                path,
                section: section.as_deref(),
                values,
            };
            match &section {
                None => config.allow_unmanaged = options.globals()?,
                Some(name) => config.sections.push(options.section(name)?),
            }
        }
        Ok(config)
    }

    /// The section called `name`, compared without case.
    pub fn section(&self, name: &str, path: &Path) -> Result<&Section> {
        self.sections
            .iter()
            .find(|section| section.name.eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let error = refuse(
                    path,
                    format!("there is no section [{}]", escape(name.as_bytes())),
                );
                match nearest(
                    name,
                    self.sections.iter().map(|section| section.name.as_str()),
                ) {
                    Some(near) => error.hint(format!("did you mean [{near}]?")),
                    None => error,
                }
            })
    }

    /// A namespace that two sections name: nobody can say whose options hold for it.
    pub fn ambiguity(&self) -> Option<(&Section, &Section)> {
        self.sections.iter().enumerate().find_map(|(at, first)| {
            self.sections[at + 1..]
                .iter()
                .find(|second| second.netns == first.netns)
                .map(|second| (first, second))
        })
    }
}

fn refuse(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(format!("use {}", show(path)), why)
}

/// Stands for a backslash in the text that rust-ini sees: it would join a line that ends with one
/// and the next, and take `\]` for a part of a section's name. No line has this character of its
/// own: control characters are refused.
const BACKSLASH: char = '\x01';

/// What rust-ini read, as it stood in the file.
fn restore(text: &str) -> String {
    text.replace(BACKSLASH, "\\")
}

/// The text as rust-ini shall see it, each line checked: empty, a comment, `[section]` or
/// `key=value`.
fn check_lines(text: &str, path: &Path) -> Result<String> {
    let mut sections: Vec<String> = Vec::new();
    let mut clean = String::with_capacity(text.len());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let wrong = |why: &str| {
            refuse(
                path,
                format!("line {}: {why}: {}", index + 1, escape(line.as_bytes())),
            )
        };
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(wrong("control character"));
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest
                .strip_suffix(']')
                .map(str::trim)
                .ok_or_else(|| wrong("section without ']'"))?;
            if name.is_empty() || name.contains(['[', ']']) {
                return Err(wrong("bad section name"));
            }
            if sections
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
            {
                return Err(wrong("this section stands here a second time"));
            }
            sections.push(name.to_string());
            clean.push_str(&format!("[{name}]\n"));
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("neither a comment, [section] nor key=value"))?;
        let key = key.trim();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(wrong("bad option name"));
        }
        clean.push_str(&format!("{key}={}\n", value.trim()));
    }
    Ok(clean.replace('\\', &BACKSLASH.to_string()))
}

/// The options of one section while they are being read.
struct Options<'a> {
    path: &'a Path,
    section: Option<&'a str>,
    values: Vec<(&'a str, String)>,
}

impl Options<'_> {
    fn refuse(&self, option: &str, why: impl std::fmt::Display) -> Error {
        let place = self
            .section
            .map_or("before the first section".to_string(), |name| {
                format!("[{}]", escape(name.as_bytes()))
            });
        refuse(
            self.path,
            format!("{place} {}: {why}", escape(option.as_bytes())),
        )
    }

    /// Refuses options that are not in `known`, single-valued ones that repeat, and empty values.
    fn check(&self, known: &[&str]) -> Result<()> {
        for (at, (key, value)) in self.values.iter().enumerate() {
            let Some(name) = known.iter().find(|name| name.eq_ignore_ascii_case(key)) else {
                let error = self.refuse(key, "unknown option");
                let global = self.section.is_some() && GLOBAL_OPTION.eq_ignore_ascii_case(key);
                return Err(match nearest(key, known.iter().copied()) {
                    _ if global => {
                        error.hint(format!("{GLOBAL_OPTION} stands before the first section"))
                    }
                    Some(near) => error.hint(format!("did you mean {near}?")),
                    None => error.hint(format!("the options here are {}", known.join(", "))),
                });
            };
            if value.is_empty() {
                return Err(self.refuse(name, "no value"));
            }
            let repeated = self.values[..at]
                .iter()
                .any(|(earlier, _)| earlier.eq_ignore_ascii_case(key));
            if repeated && !REPEATABLE.contains(name) {
                return Err(self.refuse(name, "given twice"));
            }
        }
        Ok(())
    }

    fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.values
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(option))
            .map(|(_, value)| value.as_str())
    }

    fn one<T>(&self, option: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
        self.all(option)
            .next()
            .map(|value| self.parse(option, value, parse))
            .transpose()
    }

    fn parse<T>(&self, option: &str, value: &str, parse: impl Fn(&str) -> Result<T>) -> Result<T> {
        parse(value).map_err(|error| {
            self.refuse(
                option,
                format!(
                    "cannot be '{}': {}",
                    escape(value.as_bytes()),
                    error.cause()
                ),
            )
        })
    }

    fn globals(&self) -> Result<bool> {
        if let Some((key, _)) = self
            .values
            .iter()
            .find(|(key, _)| OPTIONS.iter().any(|name| name.eq_ignore_ascii_case(key)))
        {
            return Err(self.refuse(key, "this option belongs in a section"));
        }
        self.check(&[GLOBAL_OPTION])?;
        Ok(self.one(GLOBAL_OPTION, yes_or_no)?.unwrap_or(false))
    }

    /// Under the kill switch the tunnel is the only way out: there is one, and without a veth
    /// nothing that is for one.
    fn check_kill_switch(&self, on: bool) -> Result<()> {
        let given = |option: &str| {
            self.values
                .iter()
                .any(|(key, _)| key.eq_ignore_ascii_case(option))
        };
        if on && !given("vpn") && !given("WireGuard") {
            return Err(self.refuse(
                "KillSwitch",
                "without vpn or WireGuard there would be no way out at all",
            ));
        }
        const OF_VETH: [&str; 4] = ["InterfaceIn", "InterfaceOut", "Subnet", "MTU"];
        let has_veth = !on || self.neighbours().opens();
        match OF_VETH.into_iter().find(|option| !has_veth && given(option)) {
            Some(option) => Err(self.refuse(
                option,
                "has no effect with KillSwitch=yes, which creates no veth pair without Publish, HostAccess or Bypass",
            )),
            None => Ok(()),
        }
    }

    fn neighbours(&self) -> Neighbours {
        let line = |(key, value): &(&str, String)| {
            let option = neighbours::OPTIONS
                .iter()
                .find(|option| option.eq_ignore_ascii_case(key))?;
            Some(format!("{option}={value}"))
        };
        Neighbours(self.values.iter().filter_map(line).collect())
    }

    fn section(&self, name: &str) -> Result<Section> {
        self.check(&OPTIONS)?;
        let netns = match self.one("NetworkNamespace", |value| NetnsName::new(value))? {
            Some(netns) => netns,
            None => NetnsName::new(name).map_err(|error| {
                self.refuse(
                    "NetworkNamespace",
                    format!(
                        "is not given, and the section's name cannot be it: {}",
                        error.cause()
                    ),
                )
            })?,
        };
        if self.all("Resolve").next().is_some() && self.all("DNS").next().is_some() {
            return Err(self.refuse(
                "DNS",
                "cannot be combined with Resolve: both name the servers to ask",
            ));
        }
        let kill_switch = self.one("KillSwitch", yes_or_no)?.unwrap_or(false);
        self.check_kill_switch(kill_switch)?;
        Ok(Section {
            name: name.to_string(),
            netns,
            interface_in: self.one("InterfaceIn", |value| IfaceName::new(value))?,
            interface_out: self.one("InterfaceOut", |value| IfaceName::new(value))?,
            resolve: self.one("Resolve", absolute)?,
            dns: self.one("DNS", dns)?,
            dns_lock: self.one("DNSLock", yes_or_no)?,
            vpn: self
                .all("vpn")
                .map(|value| self.parse("vpn", value, absolute))
                .collect::<Result<_>>()?,
            wireguard: self
                .all("WireGuard")
                .map(|value| self.parse("WireGuard", value, absolute))
                .collect::<Result<_>>()?,
            userspace: self.one(USERSPACE, program)?,
            kill_switch,
            ipv6: self.one("IPv6", yes_or_no)?,
            neighbours: self.neighbours(),
            access: Access {
                users: self.one("AllowUsers", list)?,
                groups: self.one("AllowGroups", list)?,
            },
            no_new_privs: self.one("NoNewPrivs", yes_or_no)?.unwrap_or(false),
        })
    }
}

fn yes_or_no(value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Error::new("read a switch", "it must be yes or no")),
    }
}

/// A program: its name, to be looked for among root's, or its absolute path.
fn program(value: &str) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    if path.is_absolute() || !value.contains(['/', ' ', '\t']) && value != ".." && value != "." {
        return Ok(path);
    }
    Err(Error::new(
        "use a program",
        "expected the name of a program, or a path that starts with /",
    ))
}

fn absolute(value: &str) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Error::new("use a path", "a path must start with /"))
    }
}

/// Addresses, then search domains, by commas or blanks.
fn dns(value: &str) -> Result<Dns> {
    let dns = dns_words(value)?;
    if dns.servers.is_empty() {
        return Err(Error::new("read DNS", "it names no server's address"));
    }
    Ok(dns)
}

/// Addresses and search domains; there may be none of either.
pub fn dns_words(value: &str) -> Result<Dns> {
    let mut dns = Dns {
        servers: Vec::new(),
        search: Vec::new(),
    };
    for word in value
        .split([',', ' ', '\t'])
        .filter(|word| !word.is_empty())
    {
        match word.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() || address.is_multicast() => {
                return Err(Error::new(
                    "read DNS",
                    format!("{address} is not the address of a server"),
                ));
            }
            Ok(address) => dns.servers.push(address),
            Err(_) if is_domain(word) => dns.search.push(word.to_string()),
            Err(_) => {
                let cause = if word.contains('@') {
                    "a domain cannot have servers of its own; name a resolver that asks them, such as dnsmasq \
                     --server=/DOMAIN/ADDRESS on the host"
                } else {
                    "expected addresses, then search domains"
                };
                return Err(Error::new("read DNS", cause));
            }
        }
    }
    Ok(dns)
}

/// A domain name: letters, digits, hyphens, underscores and dots, and not the number that a
/// mistyped address is.
pub fn is_domain(word: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    word.len() <= 253
        && word.trim_end_matches('.').split('.').all(label)
        && word.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// A list by commas or blanks.
fn list(value: &str) -> Result<Vec<String>> {
    let names: Vec<String> = value
        .split([',', ' ', '\t'])
        .filter(|name| !name.is_empty())
        .map(str::to_string)
        .collect();
    match names
        .iter()
        .find(|name| name.contains([':', '/', '"', '\'']))
    {
        _ if names.is_empty() => Err(Error::new("read a list", "it names nobody")),
        Some(_) => Err(Error::new(
            "read a list",
            "expected names or numbers, separated by commas or blanks",
        )),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new(DEFAULT_PATH))
    }

    fn refused(text: &str, parts: &[&str]) {
        let error = parse(text).expect_err(text);
        let said = format!("{error}\n{}", error.hint_text().unwrap_or_default());
        for part in ["/etc/runns.conf"].iter().chain(parts) {
            assert!(said.contains(part), "{said:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_domain_has_no_servers_of_its_own() {
        let text = "[work]\nDNS=corp.example@192.0.2.53\n";
        let error = Config::parse(text, Path::new("/etc/runns.conf"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("corp.example@192.0.2.53") && error.contains("dnsmasq"),
            "{error}"
        );
    }

    #[test]
    fn the_sample_of_the_manual() {
        let config = parse(
            "# comment\nAllowUnmanaged = no\n[work]\nNetworkNamespace=vpnWork\ninterfacein = vpnWorkd\n\
             vpn=/etc/openvpn/work.conf\nVPN=/etc/openvpn/myvps.conf\n; another\nAllowUsers=alice, bob 1000\n",
        )
        .unwrap();
        let work = &config.sections[0];
        assert_eq!(
            (work.name.as_str(), work.netns.as_str()),
            ("work", "vpnWork")
        );
        assert_eq!(work.interface_in.as_ref().unwrap().as_str(), "vpnWorkd");
        assert_eq!(
            work.vpn,
            [
                PathBuf::from("/etc/openvpn/work.conf"),
                PathBuf::from("/etc/openvpn/myvps.conf")
            ]
        );
        assert_eq!(
            work.access.users.as_deref().unwrap(),
            ["alice", "bob", "1000"]
        );
        assert!(config.section("WORK", Path::new("/x")).is_ok());
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        let config = parse("[a]\nvpn=/etc/a b#c;d=\"e\\n.conf\n").unwrap();
        assert_eq!(
            config.sections[0].vpn,
            [PathBuf::from("/etc/a b#c;d=\"e\\n.conf")]
        );
        let quoted = parse("[a]\nResolve=\"/etc/x\"\n");
        assert!(quoted.is_err(), "quotes are part of the value");
        let config =
            parse("[a\\]\nNetworkNamespace=a\nvpn=/etc/x\\\nAllowUsers=alice\n[b]\n").unwrap();
        assert_eq!(
            (
                config.sections[0].name.as_str(),
                config.sections[1].name.as_str()
            ),
            ("a\\", "b")
        );
        assert_eq!(config.sections[0].vpn, [PathBuf::from("/etc/x\\")]);
        assert_eq!(
            config.sections[0].access.users.as_deref(),
            Some(&["alice".to_string()][..])
        );
    }

    #[test]
    fn refusals_name_file_section_and_option() {
        refused(
            "[w]\nInterfaceInn=a\n",
            &["[w]", "InterfaceInn", "did you mean InterfaceIn?"],
        );
        refused("[w]\nColour=red\n", &["[w]", "Colour", "unknown option"]);
        refused(
            "[w]\nKillSwitch=yes\n",
            &["[w]", "KillSwitch", "no way out"],
        );
        refused(
            "[w]\nKillSwitch=yes\nvpn=/x\nInterfaceOut=eth0\n",
            &["[w]", "InterfaceOut"],
        );
        refused(
            "[w]\nInterfaceIn=a\nInterfaceIn=b\n",
            &["[w]", "InterfaceIn", "twice"],
        );
        refused("[w]\n[W]\n", &["second time"]);
        refused("[w]\nInterfaceIn=a+\n", &["[w]", "InterfaceIn", "a+"]);
        refused("[w]\nResolve=x\n", &["Resolve", "start with /"]);
        refused("[w w]\n", &["[w w]", "NetworkNamespace"]);
        refused("[w]\nnonsense\n", &["line 2"]);
        refused("[w]\nResolve:/etc/x\n", &["line 2"]);
        refused("[w]\nAllowUsers=,\n", &["AllowUsers", "nobody"]);
        refused("[w]\nAllowUnmanaged=yes\n", &["before the first section"]);
        refused("Resolve=/x\n", &["belongs in a section"]);
        refused("AllowUnmanaged=maybe\n", &["AllowUnmanaged", "maybe"]);
        refused("[w]\nvpn=\n", &["vpn", "no value"]);
        refused(
            "[w]\nWG_QUICK_USERSPACE_IMPLEMENTATION=bin/x\n",
            &["[w]", "WG_QUICK_USERSPACE_IMPLEMENTATION"],
        );
    }

    #[test]
    fn name_servers() {
        let config = parse("[w]\nDNS=10.0.0.1, fd00::1 example.org,lan\ndnslock=no\n").unwrap();
        let dns = config.sections[0].dns.clone().unwrap();
        assert_eq!(
            dns.servers,
            [
                "10.0.0.1".parse::<IpAddr>().unwrap(),
                "fd00::1".parse().unwrap()
            ]
        );
        assert_eq!(
            (dns.search, config.sections[0].dns_lock),
            (vec!["example.org".into(), "lan".into()], Some(false))
        );
        refused("[w]\nDNS=example.org\n", &["[w]", "DNS", "no server"]);
        refused("[w]\nDNS=10.0.0\n", &["[w]", "DNS", "10.0.0"]);
        refused("[w]\nDNS=0.0.0.0\n", &["[w]", "DNS"]);
        refused("[w]\nDNS=1.1.1.1 a$b\n", &["[w]", "DNS"]);
        refused("[w]\nDNS=1.1.1.1\nResolve=/x\n", &["[w]", "Resolve"]);
        refused("[w]\nDNSLock=1\n", &["[w]", "DNSLock", "yes or no"]);
    }

    #[test]
    fn two_sections_with_one_namespace_are_found() {
        assert!(
            parse("[a]\n[b]\nNetworkNamespace=a\n")
                .unwrap()
                .ambiguity()
                .is_some()
        );
        assert!(parse("[a]\n[b]\n").unwrap().ambiguity().is_none());
    }

    #[test]
    fn the_manual_has_every_option_and_no_other() {
        let manual = include_str!("../../docs/runns.conf.5");
        let mut documented: Vec<&str> = manual
            .lines()
            .filter_map(|line| line.strip_prefix(".It Va "))
            .collect();
        let mut options: Vec<&str> = OPTIONS.iter().copied().chain([GLOBAL_OPTION]).collect();
        documented.sort_unstable();
        options.sort_unstable();
        assert_eq!(documented, options);
    }

    #[test]
    fn the_installed_sample_is_empty_and_would_be_valid() {
        let sample = include_str!("../../install/runns.conf");
        assert_eq!(parse(sample).unwrap(), Config::default());
        let mut given = Vec::new();
        let line = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => {
                given.push(setting.split('=').next().unwrap_or_default().to_string());
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        };
        let text: String = sample.lines().map(line).collect();
        assert_eq!(parse(&text).unwrap().sections.len(), 2);
        for option in OPTIONS {
            assert!(
                given.iter().any(|given| given == option),
                "the sample lacks {option}"
            );
        }
    }
}
