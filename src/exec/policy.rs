//! Who may enter what. The group that may execute the program is not decided here, but by the file's mode.

use std::ffi::CStr;

use nix::unistd::{getegid, getgid, getgroups, getuid};

use runns_privileged::capability::caller_is_root;
use runns_privileged::netns::{self, Netns};
use runns_shared::access::Access;
use runns_shared::config::{Config, DEFAULT_PATH};
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::name::{NetnsName, RESERVED};
use runns_shared::record::{Record, State};
use runns_shared::suggest::nearest;

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

    /// Whether `access` lets the caller in: it has no list, or the caller is in one.
    fn is_in(&self, access: &Access) -> Result<bool> {
        Ok(!access.is_restricted() || access.names(self.uid, own_groups)?)
    }
}

/// The process's own groups, not those that /etc/group would give its user.
fn own_groups() -> Result<Vec<u32>> {
    let mut groups: Vec<u32> =
        getgroups().cannot(|| "read the process's groups")?.iter().map(|gid| gid.as_raw()).collect();
    groups.extend([getgid().as_raw(), getegid().as_raw()]);
    Ok(groups)
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
            return Err(refuse(name, "it is being built, or its build was interrupted")
                .hint(format!("if no build is running: sudo runns-exec clean {name}")));
        }
        Some(State::Cleaning) => {
            return Err(refuse(name, "it is being cleaned, or its clean was interrupted")
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
    let hint = did_you_mean(name, config).unwrap_or_else(|| {
        format!(
            "root can build it (sudo runns-exec build -n {name}), or open every namespace to the group (AllowUnmanaged=yes \
             before the first section of {DEFAULT_PATH})"
        )
    });
    error.hint(hint)
}

/// Opens namespace `name`; if there is none, the error says what may have been meant.
pub fn open(name: &NetnsName) -> Result<Netns> {
    netns::open(name).map_err(|error| match netns::is_missing(name) {
        true => {
            let config = Config::load_default().unwrap_or_default();
            let hint = did_you_mean(name, &config);
            error.hint(hint.unwrap_or_else(|| "runns-exec status and ip netns list show the existing ones".to_string()))
        }
        false => error,
    })
}

/// What may have been meant by `name`: a namespace, a section or a subcommand, whichever is nearest.
fn did_you_mean(name: &NetnsName, config: &Config) -> Option<String> {
    let mut names = Record::names().unwrap_or_default();
    names.extend(netns::names().unwrap_or_default());
    names.extend(config.sections.iter().map(|section| section.netns.clone()));
    let sections = config.sections.iter().map(|section| section.name.as_str());
    let words = names.iter().map(NetnsName::as_str).chain(sections).chain(RESERVED);
    let near = nearest(name.as_str(), words.filter(|word| *word != name.as_str() || !names.contains(name)))?;
    let section = config.sections.iter().find(|section| section.name == near);
    Some(match section {
        _ if names.iter().any(|known| known.as_str() == near) => format!("did you mean {near}?"),
        Some(section) => format!("did you mean {}, the namespace of section [{near}]?", section.netns),
        None => format!("did you mean runns-exec {near}?"),
    })
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

    /// Who may enter, for people; `None` if that is everybody who may execute the program.
    pub fn who(&self) -> Option<String> {
        let access = &self.record.as_ref()?.plan.request.access;
        let list = |one: &str, several: &str, names: &Option<Vec<String>>| {
            names.as_ref().map(|names| {
                let what = if names.len() == 1 { one } else { several };
                format!("{what} {}", escape(names.join(", ").as_bytes()))
            })
        };
        let users = list("user", "users", &access.users);
        let groups = list("members of group", "members of groups", &access.groups);
        let lists: Vec<String> = [users, groups].into_iter().flatten().collect();
        (!lists.is_empty()).then(|| lists.join(" and "))
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
