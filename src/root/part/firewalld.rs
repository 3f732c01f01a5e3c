//! firewalld(1) forwards nothing from interfaces that it knows nothing of. The veth is put into the
//! zone `runns`, whose target is ACCEPT: which packets may pass is decided by the rules of
//! [`super::firewall`]. The binding is permanent, so it outlasts a reload or a restart of
//! firewalld, and in force at once. An interface that the administrator has put into another zone
//! stays there.
//!
//! When firewalld before version 2 is reloaded, it flushes the tables of iptables as well, whoever
//! filled them. So the rules of [`super::firewall`] stand in a table of nftables of our own, too.
//!
//! firewalld is asked over D-Bus (firewalld.dbus(5)), with busctl(1), and while it does not run,
//! its offline tool changes its files.

use std::path::Path;

use super::{Part, Site};
use crate::finding::Finding;
use crate::host::HostState;
use crate::kernel::tool;
use crate::seen::Subject;
use runns_shared::error::{Context, Error, Result};
use runns_shared::name::IfaceName;
use runns_shared::output::{step, warn};
use runns_shared::plan::Plan;

/// The zone, which the package and the installer bring along.
const ZONE: &str = "runns";
/// Stands in until firewalld is reloaded, if it was started before it could know the zone.
const STAND_IN: &str = "trusted";
/// firewalld's copy of the zone, which it writes when an interface is added permanently; and its
/// backup.
const ZONE_FILE: &str = "/etc/firewalld/zones/runns.xml";
const BACKUP: &str = "/etc/firewalld/zones/runns.xml.old";

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const RUNTIME: [&str; 2] = [
    "/org/fedoraproject/FirewallD1",
    "org.fedoraproject.FirewallD1.zone",
];
const PERMANENT: [&str; 2] = [
    "/org/fedoraproject/FirewallD1/config",
    "org.fedoraproject.FirewallD1.config",
];
const PERMANENT_ZONE: &str = "org.fedoraproject.FirewallD1.config.zone";

/// The part.
pub struct Firewalld;

impl Part for Firewalld {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.has_veth()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        is_installed().then(|| format!("{} in zone {ZONE} of firewalld", plan.interface))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        if !is_installed() {
            return Ok(());
        }
        let interface = &site.plan().interface;
        if !Path::new(ZONE_FILE).exists() {
            HostState::update(site.lock, |host| host.firewalld_zone = true)?;
        }
        if is_running() {
            add(interface)
        } else {
            add_offline(interface)
        }
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        if !is_installed() {
            return Ok(false);
        }
        let interface = &site.plan().interface;
        let removed = if is_running() {
            remove(interface)?
        } else {
            remove_offline(interface)?
        };
        forget_zone_file(site)?;
        Ok(removed)
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let seen = subject.seen;
        if !seen.root {
            return Ok(Vec::new());
        }
        let interface = &subject.record.plan.interface;
        let mut found = Vec::new();
        let running = seen.text("firewalld", || Ok(is_running().to_string()))? == "true";
        // All interfaces that firewalld has in zones, as busctl(1) prints them.
        if running
            && !seen
                .text("zones", zones)?
                .contains(&format!("\"{interface}\""))
        {
            found.push(Finding::down(
                "firewalld",
                format!("{interface} is in none of its zones"),
            ));
        }
        Ok(found)
    }
}

/// Whether this host has firewalld. Without it there is nothing to do.
fn is_installed() -> bool {
    tool::find("firewall-offline-cmd").is_some()
}

/// Whether firewalld owns its name on the bus.
fn is_running() -> bool {
    const BUS: &str = "org.freedesktop.DBus";
    let asked = [
        "call",
        BUS,
        "/org/freedesktop/DBus",
        BUS,
        "NameHasOwner",
        "s",
        SERVICE,
    ];
    tool::find("busctl").is_some()
        && tool::run("busctl", &asked, "").is_ok_and(|answer| answer.trim() == "b true")
}

/// Calls a method of the interface and object `of`; returns what it answers, as busctl(1) prints
/// it.
fn call(of: &[&str], method: &[&str]) -> Result<String> {
    let arguments = [
        &["--system", "--auto-start=no", "call", SERVICE],
        of,
        method,
    ]
    .concat();
    tool::run("busctl", &arguments, "")
        .map_err(|error| Error::new("talk to firewalld", error.cause()))
}

/// The zone that `interface` is bound to.
fn zone_of(of: [&str; 2], interface: &IfaceName) -> Result<Option<String>> {
    let answer = call(&of, &["getZoneOfInterface", "s", interface.as_str()])?;
    Ok(word(&answer).filter(|zone| !zone.is_empty()))
}

/// The zones with the interfaces that are bound to them.
fn zones() -> Result<String> {
    call(&RUNTIME, &["getActiveZones"])
}

/// The string that busctl(1) prints as `s "TEXT"` or `o "TEXT"`.
fn word(answer: &str) -> Option<String> {
    answer
        .trim()
        .split_once(' ')
        .map(|(_, text)| text.trim_matches('"').to_string())
}

/// The D-Bus object of the permanent zone, which is created if there is none.
fn permanent_zone() -> Result<String> {
    let zone = || call(&PERMANENT, &["getZoneByName", "s", ZONE]);
    let answer = match zone() {
        Ok(answer) => answer,
        Err(_) => call(
            &PERMANENT,
            &["addZone2", "sa{sv}", ZONE, "1", "target", "s", "ACCEPT"],
        )?,
    };
    word(&answer).ok_or_else(|| Error::new("talk to firewalld", "it has no object for its zone"))
}

fn add(interface: &IfaceName) -> Result<()> {
    let permanent = zone_of(PERMANENT, interface)?;
    if permanent.as_deref().is_some_and(|zone| zone != ZONE) {
        step(|| {
            format!(
                "firewalld has {interface} in zone {}",
                permanent.unwrap_or_default()
            )
        });
        return Ok(());
    }
    if permanent.is_none() {
        let zone = permanent_zone()?;
        call(
            &[&zone, PERMANENT_ZONE],
            &["addInterface", "s", interface.as_str()],
        )?;
    }
    if zone_of(RUNTIME, interface)?.is_none() {
        let add = |zone: &str| call(&RUNTIME, &["addInterface", "ss", zone, interface.as_str()]);
        if add(ZONE).is_err() {
            warn(&format!(
                "firewalld reads the zone {ZONE} when it is reloaded; until then, {interface} is in zone {STAND_IN}"
            ));
            add(STAND_IN)?;
        }
    }
    Ok(())
}

fn remove(interface: &IfaceName) -> Result<bool> {
    let permanent = zone_of(PERMANENT, interface)?.is_some_and(|zone| zone == ZONE);
    if permanent {
        call(
            &[&permanent_zone()?, PERMANENT_ZONE],
            &["removeInterface", "s", interface.as_str()],
        )?;
    }
    let runtime = zone_of(RUNTIME, interface)?;
    if let Some(zone) = runtime.filter(|zone| zone == ZONE || (permanent && zone == STAND_IN)) {
        call(
            &RUNTIME,
            &["removeInterface", "ss", &zone, interface.as_str()],
        )?;
    }
    Ok(permanent)
}

fn offline(arguments: &[&str]) -> Result<String> {
    tool::run("firewall-offline-cmd", arguments, "")
        .map_err(|error| Error::new("change the files of firewalld", error.cause()))
}

fn add_offline(interface: &IfaceName) -> Result<()> {
    // It fails if there is no zone.
    if offline(&[&format!("--get-zone-of-interface={interface}")]).is_ok() {
        return Ok(());
    }
    if !offline(&["--get-zones"])?
        .split_whitespace()
        .any(|zone| zone == ZONE)
    {
        offline(&[&format!("--new-zone={ZONE}")])?;
        offline(&[&format!("--zone={ZONE}"), "--set-target=ACCEPT"])?;
    }
    offline(&[
        &format!("--zone={ZONE}"),
        &format!("--add-interface={interface}"),
    ])
    .map(drop)
}

fn remove_offline(interface: &IfaceName) -> Result<bool> {
    let zone = std::fs::read_to_string(ZONE_FILE).unwrap_or_default();
    if !zone.contains(&format!("<interface name=\"{interface}\"/>")) {
        return Ok(false);
    }
    offline(&[
        &format!("--zone={ZONE}"),
        &format!("--remove-interface={interface}"),
    ])
    .map(|_| true)
}

/// Removes firewalld's copy of the zone if builds brought it about and nothing is left in it.
fn forget_zone_file(site: &Site) -> Result<()> {
    if !HostState::load()?.firewalld_zone {
        return Ok(());
    }
    let zone = std::fs::read_to_string(ZONE_FILE).unwrap_or_default();
    const OTHERS: [&str; 8] = [
        "<interface",
        "<source",
        "<service",
        "<port",
        "<protocol",
        "<rule",
        "<forward-port",
        "<masquerade",
    ];
    if OTHERS.iter().any(|element| zone.contains(element)) {
        return Ok(());
    }
    // A zone that is not shipped has no defaults, and goes altogether.
    if !zone.is_empty() && is_running() {
        let object = permanent_zone()?;
        call(&[&object, PERMANENT_ZONE], &["loadDefaults"])
            .or_else(|_| call(&[&object, PERMANENT_ZONE], &["remove"]))?;
    }
    for file in [ZONE_FILE, BACKUP] {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).cannot(|| format!("remove {file}"));
            }
            _ => {}
        }
    }
    HostState::update(site.lock, |host| host.firewalld_zone = false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_busctl() {
        assert_eq!(word("s \"runns\"\n").unwrap(), "runns");
        assert_eq!(word("s \"\"\n").unwrap(), "");
        assert_eq!(
            word("o \"/org/fedoraproject/FirewallD1/config/zone/3\"").unwrap(),
            "/org/fedoraproject/FirewallD1/config/zone/3"
        );
        assert_eq!(word("\n"), None);
    }
}
