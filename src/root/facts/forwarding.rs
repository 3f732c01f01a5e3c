//! What turning forwarding on changes on the host, which is known before it is changed.

use crate::facts::ipv6::FORWARDING as IPV6_FORWARDING;
use crate::facts::routed;
use crate::host::HostState;
use crate::kernel::sysctl::sysctl;
use crate::lock::Lock;
use runns_shared::error::{Context, Result};

/// The sysctl that turns IPv4 forwarding on.
pub const IP_FORWARD: &str = "net/ipv4/ip_forward";
const INTERFACES: &str = "net/ipv4/conf";
const INTERFACES_V6: &str = "net/ipv6/conf";

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

/// The current values of ip_forward and then of all sysctls that writing it overwrites.
pub fn overwritten() -> Result<Vec<(String, String)>> {
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

/// Saves what turning forwarding on will change, if it is off; what may not be forwarded follows
/// from it.
pub fn remember_v6(lock: &Lock) -> Result<()> {
    let mut state = HostState::load()?;
    foresee_v6(&mut state)?;
    HostState::update(lock, |host| host.forwarding_v6 = state.forwarding_v6)
}

/// The state as [`remember_v6`] would leave it.
pub fn foresee_v6(state: &mut HostState) -> Result<()> {
    if sysctl(IPV6_FORWARDING)?.as_deref() != Some("0") || state.forwarding_v6.is_some() {
        return Ok(());
    }
    let mut saved = vec![(IPV6_FORWARDING.to_string(), "0".to_string())];
    let is_others = |(name, _): &(String, String)| {
        routed::interface_of(name).is_none_or(|name| !routed::is_own(name))
    };
    let listening = devices("accept_ra")?
        .into_iter()
        .filter(|(_, value)| value == "1");
    saved.extend(
        devices("forwarding")?
            .into_iter()
            .chain(listening)
            .filter(is_others),
    );
    state.forwarding_v6 = Some(saved);
    Ok(())
}

/// An IPv6 setting of each device, and of those to come.
pub fn devices(setting: &str) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/sys/{INTERFACES_V6}");
    let mut values = Vec::new();
    for entry in std::fs::read_dir(&path).cannot(|| format!("list {path}"))? {
        let device = entry
            .cannot(|| format!("list {path}"))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        let name = format!("{INTERFACES_V6}/{device}/{setting}");
        if let Some(value) = sysctl(&name)?.filter(|_| device != "all") {
            values.push((name, value));
        }
    }
    values.sort();
    Ok(values)
}
