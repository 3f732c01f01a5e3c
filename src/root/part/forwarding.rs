//! IPv4 forwarding on the host. Turning it on overwrites other sysctls (inet_forward_change in
//! net/ipv4/devinet.c), so all of them are saved first; `clean -f` restores them once no built
//! namespace is left.

use super::{Part, Site};
use crate::facts::forwarding::{IP_FORWARD, overwritten, remember};
use crate::finding::Finding;
use crate::host::HostState;
use crate::kernel::sysctl::{restore_sysctls, set_sysctl, sysctl};
use crate::lock::Lock;
use crate::seen::Subject;
use runns_shared::error::Result;
use runns_shared::plan::Plan;
use runns_shared::record::Record;

/// The part.
pub struct Forwarding;

impl Part for Forwarding {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.has_veth()
    }

    fn describe(&self, _plan: &Plan) -> Option<String> {
        Some("IPv4 forwarding".to_string())
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

/// Whether a build turned forwarding on and no built namespace is left that needs it.
pub fn is_left_on() -> Result<bool> {
    let host = HostState::load()?;
    Ok((host.forwarding.is_some() || host.forwarding_v6.is_some()) && Record::names()?.is_empty())
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
