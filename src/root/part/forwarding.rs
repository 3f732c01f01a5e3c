//! IPv4 forwarding on the host. Turning it on overwrites other sysctls (inet_forward_change in net/ipv4/devinet.c),
//! so all of them are kept, and given back by `clean -f` once no built namespace is left.

use super::{Part, Site};
use crate::host::{HostState, set_sysctl, sysctl};
use crate::lock::Lock;
use runns_shared::error::{Context, Result};
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State};

const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// The part.
pub struct Forwarding;

impl Part for Forwarding {
    fn describe(&self, plan: &Plan) -> Option<String> {
        (!plan.request.kill_switch).then(|| "IPv4 forwarding".to_string())
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        if sysctl(IP_FORWARD)?.as_deref() == Some("1") {
            return Ok(());
        }
        if HostState::load()?.forwarding.is_none() {
            let before = overwritten()?;
            HostState::update(site.lock, |host| host.forwarding = Some(before))?;
        }
        set_sysctl(IP_FORWARD, "1")
    }

    /// Nothing, after a build that succeeded: clean decides, by [`restore`]. A build that failed leaves nothing
    /// behind, unless other namespaces stand on it.
    fn undo(&self, site: &mut Site) -> Result<bool> {
        if site.record.state == State::Building && Record::names()?.len() <= 1 {
            return restore(site.lock);
        }
        Ok(false)
    }
}

/// Whether forwarding is on because of a build, with nothing that needs it.
pub fn is_left_on() -> Result<bool> {
    Ok(HostState::load()?.forwarding.is_some() && Record::names()?.is_empty())
}

/// Gives the host its forwarding back; whether there was anything to give back.
pub fn restore(lock: &Lock) -> Result<bool> {
    let Some(before) = HostState::load()?.forwarding else { return Ok(false) };
    for (name, value) in &before {
        // The sysctls of an interface that went away meanwhile went with it.
        if sysctl(name)?.is_some() {
            set_sysctl(name, value)?;
        }
    }
    HostState::update(lock, |host| host.forwarding = None)?;
    Ok(true)
}

/// ip_forward, then everything that writing it overwrites, as it is now.
fn overwritten() -> Result<Vec<(String, String)>> {
    const INTERFACES: &str = "net/ipv4/conf";
    let mut names = vec![IP_FORWARD.to_string(), format!("{INTERFACES}/all/accept_redirects")];
    let path = format!("/proc/sys/{INTERFACES}");
    let mut interfaces = Vec::new();
    for entry in std::fs::read_dir(&path).cannot(|| format!("list {path}"))? {
        interfaces.push(entry.cannot(|| format!("list {path}"))?.file_name().to_string_lossy().into_owned());
    }
    interfaces.sort();
    names.extend(interfaces.iter().filter(|name| *name != "all").map(|name| format!("{INTERFACES}/{name}/forwarding")));
    let mut values = Vec::new();
    for name in names {
        if let Some(value) = sysctl(&name)? {
            values.push((name, value));
        }
    }
    Ok(values)
}
