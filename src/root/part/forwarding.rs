//! IPv4 forwarding on the host. Turning it on overwrites other sysctls (inet_forward_change in
//! net/ipv4/devinet.c), so all of them are saved first; `clean -f` restores them once no built
//! namespace is left.

use super::{Part, Site};
use crate::finding::Finding;
use crate::host::{HostState, restore_sysctls, set_sysctl, sysctl};
use crate::lock::Lock;
use crate::seen::Subject;
use runns_shared::error::{Context, Result};
use runns_shared::plan::Plan;
use runns_shared::record::Record;

const IP_FORWARD: &str = "net/ipv4/ip_forward";
const INTERFACES: &str = "net/ipv4/conf";

/// The part.
pub struct Forwarding;

impl Part for Forwarding {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.has_veth()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        plan.request
            .has_veth()
            .then(|| "IPv4 forwarding".to_string())
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        if sysctl(IP_FORWARD)?.as_deref() == Some("1") {
            return Ok(());
        }
        remember(site.lock)?;
        site.before.sysctls.extend(overwritten()?);
        set_sysctl(IP_FORWARD, "1")
    }

    /// Nothing to do: it is up to clean to call [`restore`], and a failed build restores all that
    /// it changed on the host.
    fn undo(&self, _site: &mut Site) -> Result<bool> {
        Ok(false)
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let is_on = subject.seen.has_sysctl(IP_FORWARD, "1")?;
        Ok(if is_on {
            Vec::new()
        } else {
            vec![Finding::down("IPv4 forwarding", "off")]
        })
    }
}

/// Saves the sysctls that turning forwarding on will overwrite; nothing if it is on.
pub fn remember(lock: &Lock) -> Result<()> {
    let mut state = HostState::load()?;
    foresee(&mut state)?;
    HostState::update(lock, |host| host.forwarding = state.forwarding)
}

/// The state as [`remember`] would leave it.
pub fn foresee(state: &mut HostState) -> Result<()> {
    if sysctl(IP_FORWARD)?.as_deref() != Some("1") && state.forwarding.is_none() {
        state.forwarding = Some(overwritten()?);
    }
    Ok(())
}

/// Whether a build turned forwarding on and no built namespace is left that needs it.
pub fn is_left_on() -> Result<bool> {
    let host = HostState::load()?;
    Ok((host.forwarding.is_some() || host.forwarding_v6.is_some()) && Record::names()?.is_empty())
}

/// A bridge that was set up while builds had forwarding turned on, and that forwards: what set it
/// up (Docker, libvirt) found forwarding on and relies on it.
pub fn relied_on() -> Result<Option<String>> {
    let before = HostState::load()?.forwarding.unwrap_or_default();
    for entry in std::fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let forwarding = format!("{INTERFACES}/{name}/forwarding");
        let is_new = !before.iter().any(|(known, _)| *known == forwarding);
        if is_new
            && entry.path().join("bridge").exists()
            && sysctl(&forwarding)?.as_deref() == Some("1")
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Restores the host's sysctls of IPv4 forwarding; returns whether there was anything to restore.
pub fn restore(lock: &Lock) -> Result<bool> {
    let Some(before) = HostState::load()?.forwarding else {
        return Ok(false);
    };
    restore_sysctls(&before)?;
    HostState::update(lock, |host| host.forwarding = None)?;
    Ok(true)
}

/// The current values of ip_forward and then of all sysctls that writing it overwrites.
fn overwritten() -> Result<Vec<(String, String)>> {
    let mut names = vec![
        IP_FORWARD.to_string(),
        format!("{INTERFACES}/all/accept_redirects"),
    ];
    let path = format!("/proc/sys/{INTERFACES}");
    let mut interfaces = Vec::new();
    for entry in std::fs::read_dir(&path).cannot(|| format!("list {path}"))? {
        interfaces.push(
            entry
                .cannot(|| format!("list {path}"))?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    interfaces.sort();
    names.extend(
        interfaces
            .iter()
            .filter(|name| *name != "all")
            .map(|name| format!("{INTERFACES}/{name}/forwarding")),
    );
    let mut values = Vec::new();
    for name in names {
        if let Some(value) = sysctl(&name)? {
            values.push((name, value));
        }
    }
    Ok(values)
}
