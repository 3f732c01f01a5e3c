//! Who may enter what. The group that may execute the program is not decided here, but by the file's mode.

use std::ffi::CStr;

use nix::unistd::{getegid, getgid, getgroups, getuid};

use crate::account;
use crate::config::{Access, Config, DEFAULT_PATH};
use crate::error::{Context, Error, Result};
use crate::name::NetnsName;
use crate::privileged::capability::caller_is_root;
use crate::privileged::netns::Netns;
use crate::record::{Record, State};
use crate::text::{escape, nearest};

/// The process that asks.
struct Caller {
    uid: u32,
    root: bool,
}

impl Caller {
    /// The calling process, by its real uid.
    fn current() -> Self {
        Self { uid: getuid().as_raw(), root: caller_is_root() }
    }

    /// Whether `access` lets the caller in: it has no list, or the caller is in one. A name that no account has lets
    /// nobody in.
    fn is_in(&self, access: &Access) -> Result<bool> {
        let user = |name: &String| numeric(name).or_else(|| account::uid_of(name)) == Some(self.uid);
        if !access.is_restricted() || access.users.iter().flatten().any(user) {
            return Ok(true);
        }
        let Some(names) = &access.groups else { return Ok(false) };
        let groups = own_groups()?;
        Ok(names
            .iter()
            .any(|name| numeric(name).or_else(|| account::gid_of(name)).is_some_and(|gid| groups.contains(&gid))))
    }
}

/// The process's own groups, not those that /etc/group would give its user.
fn own_groups() -> Result<Vec<u32>> {
    let mut groups: Vec<u32> =
        getgroups().cannot(|| "read the process's groups")?.iter().map(|gid| gid.as_raw()).collect();
    groups.extend([getgid().as_raw(), getegid().as_raw()]);
    Ok(groups)
}

/// The number that `name` is, if it is written as one.
fn numeric(name: &str) -> Option<u32> {
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok()).flatten()
}

/// The names in the lists that no account has: they let nobody in.
pub fn unknown_names(access: &Access) -> Vec<String> {
    let users = access.users.iter().flatten().filter(|name| numeric(name).or_else(|| account::uid_of(name)).is_none());
    let groups =
        access.groups.iter().flatten().filter(|name| numeric(name).or_else(|| account::gid_of(name)).is_none());
    users.chain(groups).cloned().collect()
}

/// What the record and the configuration say about entering a namespace by its name.
pub struct Decision {
    /// Its record, if runns-exec built it.
    pub record: Option<Record>,
    config: Config,
    caller: Caller,
}

fn refuse(name: &NetnsName, cause: impl std::fmt::Display) -> Error {
    Error::new(format!("enter namespace {name}"), cause)
}

/// Decides by name, before anything is opened. For root only the record's state counts.
pub fn decide(name: &NetnsName) -> Result<Decision> {
    let caller = Caller::current();
    let record = Record::load(name)?;
    match record.as_ref().map(|record| record.state) {
        Some(State::Building) => {
            return Err(refuse(name, "it is being built, or its build was cut short")
                .hint(format!("if no build is running: sudo runns-exec clean {name}")));
        }
        Some(State::Cleaning) => {
            return Err(refuse(name, "it is being cleaned away, or its clean was cut short")
                .hint(format!("if no clean is running: sudo runns-exec clean {name}")));
        }
        Some(State::Built) | None => {}
    }
    if caller.root {
        return Ok(Decision { record, config: Config::default(), caller });
    }
    let config = Config::load_default()?;
    if let Some((first, second)) = config.ambiguity() {
        let cause = format!("[{}] and [{}] both name namespace {}", first.name, second.name, first.netns);
        return Err(Error::new(format!("use {DEFAULT_PATH}"), cause));
    }
    let named = config.sections.iter().any(|section| section.netns == *name);
    if record.is_none() && !named && !config.allow_unmanaged {
        return Err(unmanaged(name, &config));
    }
    let decision = Decision { record, config, caller };
    decision.check_lists(name)?;
    Ok(decision)
}

fn unmanaged(name: &NetnsName, config: &Config) -> Error {
    let error = refuse(name, format!("runns-exec did not build it, and {DEFAULT_PATH} does not name it"));
    let built = Record::names().unwrap_or_default();
    let known = built.iter().chain(config.sections.iter().map(|section| &section.netns)).map(NetnsName::as_str);
    match nearest(name.as_str(), known) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!(
            "root can build it (sudo runns-exec build -n {name}) or open it (AllowUnmanaged=yes before the first section of {DEFAULT_PATH})"
        )),
    }
}

impl Decision {
    /// The lists of today's configuration, for the namespace and for the section it was built from, and those that it
    /// was built with: each must allow.
    fn check_lists(&self, name: &NetnsName) -> Result<()> {
        let request = self.record.as_ref().map(|record| &record.plan.request);
        let built_from = request.and_then(|request| request.section.as_deref());
        let today = self.config.sections.iter().filter(|section| {
            section.netns == *name || built_from.is_some_and(|built| built.eq_ignore_ascii_case(&section.name))
        });
        let lists = today.map(|section| &section.access).chain(request.map(|request| &request.access));
        self.check_all(name, lists)
    }

    /// Who may enter, for people; `None` if that is everybody who may run the program.
    pub fn who(&self) -> Option<String> {
        let access = &self.record.as_ref()?.plan.request.access;
        let list = |what: &str, names: &Option<Vec<String>>| {
            names.as_ref().map(|names| format!("{what} {}", escape(names.join(", ").as_bytes())))
        };
        let lists: Vec<String> =
            [list("users", &access.users), list("groups", &access.groups)].into_iter().flatten().collect();
        (!lists.is_empty()).then(|| lists.join(" or "))
    }

    fn check_all<'a>(&self, name: &NetnsName, lists: impl IntoIterator<Item = &'a Access>) -> Result<()> {
        for access in lists {
            if !self.caller.is_in(access)? {
                return Err(refuse(name, "AllowUsers and AllowGroups do not let you in"));
            }
        }
        Ok(())
    }

    /// The same namespace can have several names. Called after it was entered, with its `cookie`: the lists of every
    /// name that is known for it must allow.
    pub fn check_other_names(&self, name: &NetnsName, netns: &Netns, cookie: u64) -> Result<()> {
        if self.caller.root {
            return Ok(());
        }
        for section in &self.config.sections {
            if section.access.is_restricted() && section.netns != *name && netns.is_also(&section.netns)? {
                self.check_all(name, [&section.access])?;
            }
        }
        if self.record.is_some() {
            return Ok(());
        }
        for record in Record::all()? {
            if record.identity.is_some_and(|identity| identity.cookie == cookie) {
                let built = record.plan.request.name.clone();
                if record.state != State::Built {
                    return Err(refuse(name, format!("it is namespace {built}, which is being built or cleaned")));
                }
                self.check_all(name, [&record.plan.request.access])?;
                let section = record.plan.request.section.as_deref().unwrap_or_default();
                let today = self
                    .config
                    .sections
                    .iter()
                    .filter(|known| known.netns == built || known.name.eq_ignore_ascii_case(section));
                self.check_all(name, today.map(|section| &section.access))?;
            }
        }
        Ok(())
    }
}

/// Root by way of sudo, in whose hands the command becomes root's too.
pub fn is_sudo(environment: &[&CStr]) -> bool {
    caller_is_root() && environment.iter().any(|variable| variable.to_bytes().starts_with(b"SUDO_UID="))
}
