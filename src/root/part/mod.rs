//! What a namespace consists of. Each part creates, removes and examines itself in one file, and
//! knows nothing of the others; [`crate::walk`] has their order. `example.rs` is a whole one, as a
//! pattern for the next.

pub mod daemon;
#[cfg(test)]
mod example;
pub mod firewall;
pub mod firewalld;
pub mod forwarding;
pub mod hook;
pub mod inside;
pub mod ipv6;
pub mod netns;

pub mod pushed;
pub mod resolver;
pub mod uplink;
pub mod veth;
pub mod wireguard;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use crate::finding::Finding;
use crate::host::{Before, HostState, remove_made_directory};
use crate::kernel::netlink::Netlink;
use crate::kernel::nft::Loaded;
use crate::kernel::sysctl::restore_sysctls;
use crate::lock::Lock;
use crate::namespace::open_recorded;
use crate::seen::Subject;
use crate::table::load;
use crate::tunnel::openconnect::session::Session;
use runns_shared::error::{Context, Error, Result};
use runns_shared::plan::Plan;
use runns_shared::record::Record;

/// How long to wait for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The time.
    pub time: Duration,
    /// Whether it holds also for a tunnel with several servers, of which the first may be silent.
    pub fixed: bool,
}

/// Where a part is made or unmade.
pub struct Site<'a> {
    /// The namespace: its plan, and what of it is there.
    pub record: Record,
    /// The turn.
    pub lock: &'a Lock,
    /// The host's network.
    pub host: Netlink,
    /// The namespace, held open: it is reached even when its name is gone, and no other one gets
    /// its inode number. If `None`, it is what the name leads to.
    pub namespace: Option<File>,
    /// How long to wait for each tunnel; not at all if `None`.
    pub wait: Option<Wait>,
    /// The session of OpenConnect that somebody has logged in to (build --authenticated).
    pub session: Option<Session>,
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

    /// Opens the namespace that was built: the one that is held or, if none is, that at the
    /// recorded name.
    pub fn open_namespace(&self) -> Result<Option<File>> {
        match &self.namespace {
            Some(held) => held
                .try_clone()
                .map(Some)
                .cannot(|| "open the namespace once more"),
            None => open_recorded(&self.record),
        }
    }

    /// Loads the table inside, as it follows from the plan and the resolver, and records that.
    pub fn load_inside(&mut self) -> Result<()> {
        let namespace = self
            .open_namespace()?
            .ok_or_else(|| Error::new("load the rules inside", "the namespace is gone"))?;
        let loaded = load::inside(self.plan(), &namespace, &self.host)?;
        self.record.inside = loaded.map(Loaded::to_record);
        self.save()
    }

    /// After a build that failed: forwarding and the like are again as they were before that build.
    pub fn restore_host(&self) -> Result<()> {
        restore_sysctls(&self.before.sysctls)?;
        HostState::update(self.lock, |host| {
            host.forwarding = self.before.state.forwarding.clone();
            host.forwarding_v6 = self.before.state.forwarding_v6.clone();
        })
    }

    /// After a build that failed: removes the directories that it created, as far as nobody uses
    /// them.
    pub fn remove_directories(&self) -> Result<()> {
        let now = HostState::load()?.directories;
        let is_new = |directory: &&PathBuf| !self.before.state.directories.contains(directory);
        now.iter()
            .rev()
            .filter(is_new)
            .try_for_each(|directory| remove_made_directory(self.lock, directory))
    }
}

/// One part of a namespace.
pub trait Part {
    /// Whether this plan has it: a function of the plan alone, which cannot fail.
    fn is_in(&self, plan: &Plan) -> bool;

    /// What it is, in a line for build's report, of a plan that has it; `None` if there is nothing
    /// to say.
    fn describe(&self, plan: &Plan) -> Option<String>;

    /// Checks whatever can be known before the first change, also for a plan that does not have
    /// it: what was asked for may be what this host lacks.
    fn check(&self, _plan: &Plan) -> Result<()> {
        Ok(())
    }

    /// Makes it.
    fn apply(&self, site: &mut Site) -> Result<()>;

    /// Unmakes it, as far as it is there; whether anything was. It may be called on what was never
    /// made, or only half.
    fn undo(&self, site: &mut Site) -> Result<bool>;

    /// When the plan has taken the place of earlier ones (see [`crate::walk::change`]): removes what
    /// of it only they had. It may be called again.
    fn end(&self, site: &mut Site) -> Result<()> {
        let was_in = site.record.earlier.iter().any(|plan| self.is_in(plan));
        if was_in && !self.is_in(site.plan()) {
            self.undo(site)?;
        }
        Ok(())
    }

    /// After that: makes it as the plan has it, and leaves alone what is so already. It may be
    /// called again.
    fn change(&self, site: &mut Site) -> Result<()> {
        let always_was = site.record.earlier.iter().all(|plan| self.is_in(plan));
        if always_was || !self.is_in(site.plan()) {
            return Ok(());
        }
        self.apply(site)
    }

    /// Compares it with what was built, from the kernel's own state, and changes nothing: what is
    /// wrong.
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
    fn repair(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        self.apply(site)
    }
}
