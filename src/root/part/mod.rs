//! What a namespace consists of. Each part makes, unmakes and examines itself in one file; [`all`] is their order. build,
//! status and repair walk it forwards; clean, and a build that failed, walk it backwards.

pub mod dns_lock;
pub mod firewall;
pub mod firewalld;
pub mod forwarding;
pub mod hook;
pub mod ipv6;
pub mod netns;
pub mod nft;
pub mod openvpn;
pub mod probe;
pub mod pushed;
pub mod repair;
pub mod resolver;
pub mod transit;
pub mod uplink;
pub mod veth;
pub mod ways;
pub mod wireguard;

use std::fs::File;
use std::path::PathBuf;

use crate::host::{Before, HostState, restore_sysctls};
use crate::lock::Lock;
use crate::netlink::Netlink;
use crate::seen::Subject;
use runns_shared::error::{Error, Result};
use runns_shared::plan::Plan;
use runns_shared::record::Record;

/// Where a part is made or unmade.
pub struct Site<'a> {
    /// The namespace: its plan, and what of it is there.
    pub record: Record,
    /// The turn.
    pub lock: &'a Lock,
    /// The host's network.
    pub host: Netlink,
    /// The namespace, held open: it is reached even when its name is gone, and no other one gets its inode number. If
    /// `None`, it is what the name leads to.
    pub namespace: Option<File>,
    /// How long to wait for each tunnel; not at all if `None`.
    pub wait: Option<std::time::Duration>,
    /// The host before this build, which is restored if it fails.
    pub before: Before,
}

impl Site<'_> {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.record.plan
    }

    /// Writes the record, so that a clean after SIGKILL knows what the next step makes.
    pub fn save(&self) -> Result<()> {
        self.lock.save(&self.record)
    }

    /// After a build that failed: forwarding and the like are again as they were before that build.
    fn restore_host(&self) -> Result<()> {
        restore_sysctls(&self.before.sysctls)?;
        HostState::update(self.lock, |host| {
            host.forwarding = self.before.state.forwarding.clone();
            host.forwarding_v6 = self.before.state.forwarding_v6.clone();
        })
    }

    /// After a build that failed: removes the directories that it created, as far as nobody uses them.
    fn remove_directories(&self) -> Result<()> {
        let now = HostState::load()?.directories;
        let is_new = |directory: &&PathBuf| !self.before.state.directories.contains(directory);
        now.iter().rev().filter(is_new).try_for_each(|directory| netns::remove_made_directory(self, directory))
    }
}

/// Something that is not as it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is: `interface vpn1`.
    pub what: String,
    /// What is wrong with it: `down`.
    pub how: String,
    /// Nothing gets through.
    pub fatal: bool,
    /// What the administrator has to do; if `None`, building again mends it.
    pub cure: Option<String>,
}

impl Finding {
    /// The namespace works, but not as it was built.
    pub fn degraded(what: impl Into<String>, how: impl Into<String>) -> Self {
        Self { what: what.into(), how: how.into(), fatal: false, cure: None }
    }

    /// Nothing gets through.
    pub fn down(what: impl Into<String>, how: impl Into<String>) -> Self {
        Self { fatal: true, ..Self::degraded(what, how) }
    }

    /// Building again does not mend it; this does.
    pub fn cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.how)
    }
}

/// One part of a namespace.
pub trait Part {
    /// What it is, in a line for build's report; `None` if this plan does not have it.
    fn describe(&self, plan: &Plan) -> Option<String>;

    /// Makes it.
    fn apply(&self, site: &mut Site) -> Result<()>;

    /// Unmakes it, as far as it is there; whether anything was. It may be called on what was never made, or only
    /// half.
    fn undo(&self, site: &mut Site) -> Result<bool>;

    /// Compares it with what was built, from the kernel's own state, and changes nothing: what is wrong.
    fn look(&self, subject: &Subject) -> Result<Vec<Finding>>;

    /// What of it only root can look at, in a word or two; `None` if that is nothing.
    fn unseen(&self, _plan: &Plan) -> Option<&'static str> {
        None
    }

    /// Whether it carries only what goes beside a tunnel that is the only way out.
    fn is_beside(&self) -> bool {
        false
    }

    /// Whether it is a way out of the namespace.
    fn is_way_out(&self) -> bool {
        false
    }

    /// Makes it as it was built again, where `found` says that it is not, and touches nothing else.
    fn mend(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        self.apply(site)
    }
}

/// The parts, in the order in which they are made: whatever restricts traffic before what carries it.
pub fn all() -> [&'static dyn Part; 14] {
    [
        &netns::NetworkNamespace,
        &firewall::Firewall,
        &firewalld::Firewalld,
        &forwarding::Forwarding,
        &uplink::Uplink,
        &ways::Ways,
        &ipv6::Ipv6,
        &veth::Veth,
        &resolver::Resolver,
        &dns_lock::DnsLock,
        &openvpn::OpenVpn,
        &wireguard::WireGuard,
        &pushed::PushedResolver,
        &hook::PostBuild,
    ]
}

/// Makes all parts that the plan has, up to the first failure.
pub fn build(site: &mut Site) -> Result<()> {
    for part in all() {
        let Some(what) = part.describe(site.plan()) else { continue };
        runns_shared::output::step(|| format!("making {what}"));
        interrupted().and_then(|()| part.apply(site))?;
    }
    Ok(())
}

fn interrupted() -> Result<()> {
    if runns_sys::process::was_interrupted() {
        return Err(Error::new("go on", "interrupted by a signal"));
    }
    Ok(())
}

/// What was removed, and what could not be.
type Undone = (Vec<String>, Vec<Error>);

/// Unmakes all parts of a build that failed, and what it changed on the host, going on past errors, which it returns.
pub fn undo(site: &mut Site) -> Vec<Error> {
    let mut errors = cut_off(site).1;
    errors.extend(site.restore_host().err());
    errors.extend(undo_rest(site).1);
    errors.extend(site.remove_directories().err());
    errors
}

/// Takes the ways out from the namespace, and their keys with them: whoever holds it open, by a descriptor or a socket, is
/// left with nothing. A tunnel's daemon can still take leave of its server. Whatever else is inside goes with the name (see
/// [`netns::withdraw`]).
pub fn cut_off(site: &mut Site) -> Undone {
    let reserved = if site.plan().request.has_tunnel() { veth::reserve_for_daemons(site) } else { Ok(()) };
    // If that failed, the veth pair goes before the tunnels.
    let first: Option<&'static dyn Part> = if reserved.is_err() { Some(&veth::Veth) } else { None };
    let (removed, mut errors) =
        undo_each(site, first.into_iter().chain(all().into_iter().rev().filter(|part| part.is_way_out())));
    errors.extend(reserved.err());
    (removed, errors)
}

/// Unmakes the other parts, in the reverse order of that in which they are made.
pub fn undo_rest(site: &mut Site) -> Undone {
    undo_each(site, all().into_iter().rev().filter(|part| !part.is_way_out()))
}

fn undo_each(site: &mut Site, parts: impl Iterator<Item = &'static dyn Part>) -> Undone {
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    for part in parts {
        // What this namespace does not have is somebody else's, whatever its name.
        if part.describe(site.plan()).is_none() {
            continue;
        }
        match part.undo(site) {
            Ok(true) => removed.extend(part.describe(site.plan())),
            Ok(false) => {}
            Err(error) => errors.push(error),
        }
    }
    (removed, errors)
}
