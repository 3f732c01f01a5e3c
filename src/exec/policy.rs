//! Who may enter what. The group that may execute the program is not decided here, but by the
//! file's mode.

use std::ffi::CStr;

use nix::unistd::{getegid, getgid, getgroups, getuid};

use crate::commands;
use runns_privileged::Privilege;
use runns_privileged::capability::caller_is_root;
use runns_privileged::netns::{self, Arrival, Netns};
use runns_shared::access::Access;
use runns_shared::config::{self, Config, DEFAULT_PATH, Section};
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::{escape, quote, show};
use runns_shared::name::NetnsName;
use runns_shared::record::{DIRECTORY, Record, State, etc_here};
use runns_shared::suggest::nearest;
use runns_shared::trusted;

/// The process that asks.
struct Caller {
    uid: u32,
    root: bool,
}

impl Caller {
    /// The calling process, by its real uid.
    fn current() -> Self {
        Self {
            uid: getuid().as_raw(),
            root: caller_is_root(),
        }
    }

    /// Whether `access` lets the caller in: it has no list, or the caller is in one.
    fn is_in(&self, access: &Access) -> Result<bool> {
        Ok(!access.is_restricted() || access.names(self.uid, own_groups)?)
    }
}

/// The process's own groups, not those that /etc/group would give its user.
fn own_groups() -> Result<Vec<u32>> {
    let mut groups: Vec<u32> = getgroups()
        .cannot(|| "read the process's groups")?
        .iter()
        .map(|gid| gid.as_raw())
        .collect();
    groups.extend([getgid().as_raw(), getegid().as_raw()]);
    Ok(groups)
}

/// What the records and the configuration say about entering a namespace by its name.
pub struct Decision {
    name: NetnsName,
    /// Its record, if runns-exec built it.
    pub record: Option<Record>,
    /// All records, if none of this name says which namespace was built: one of them may be that of
    /// another name.
    others: Vec<Record>,
    config: Config,
    caller: Caller,
    /// Whether the command gets no_new_privs; known when the namespace is open.
    pub no_new_privs: bool,
}

fn refuse(name: &NetnsName, cause: impl std::fmt::Display) -> Error {
    Error::new(format!("enter namespace {name}"), cause)
}

/// Nobody enters while a build or a clean is at it, root included.
fn check_finished(name: &NetnsName, record: Option<&Record>) -> Result<()> {
    let (cause, work) = match record.map(|record| record.state) {
        Some(State::Building) => ("it is being built, or its build was interrupted", "build"),
        Some(State::Cleaning) => ("it is being cleaned, or its clean was interrupted", "clean"),
        Some(State::Built) | None => return Ok(()),
    };
    let hint = format!("if no {work} is running: sudo runns-exec clean {name}");
    Err(refuse(name, cause).hint(hint))
}

/// Decides by name, before anything is opened. Root is refused only by the record's state, whatever
/// the configuration is like.
pub fn decide(name: &NetnsName) -> Result<Decision> {
    let caller = Caller::current();
    let record = Record::load(name)?;
    check_finished(name, record.as_ref())?;
    let decision = |record, others, config, caller| Decision {
        name: name.clone(),
        record,
        others,
        config,
        caller,
        no_new_privs: false,
    };
    if caller.root {
        return Ok(decision(
            record,
            Vec::new(),
            Config::load_default().unwrap_or_default(),
            caller,
        ));
    }
    let text = config::Text::read()?;
    if let Some(missing) = text.missing {
        believe_absence(name, record.as_ref(), missing)?;
    }
    let config = text.parse()?;
    if let Some((first, second)) = config.ambiguity() {
        let cause = format!(
            "[{}] and [{}] both name namespace {}",
            first.name, second.name, first.netns
        );
        return Err(Error::new(format!("use {}", show(&second.file)), cause));
    }
    let named = config.sections.iter().any(|section| section.netns == *name);
    if record.is_none() && !named && !config.allow_unmanaged {
        return Err(unmanaged(name, &config));
    }
    let identified = record
        .as_ref()
        .is_some_and(|record| record.identity.is_some());
    let others = if identified {
        Vec::new()
    } else {
        Record::all()?
    };
    let decision = decision(record, others, config, caller);
    decision
        .check(&Vec::from_iter(&decision.record), None)
        .map(drop)?;
    Ok(decision)
}

/// Whether /etc/runns.conf or /etc/runns.conf.d, which is not there, does not exist: in the /etc of
/// a sandbox it may be `missing`, with the lists that it has today. Such an /etc is another than
/// that in which the namespace was built, and it is a mount.
fn believe_absence(name: &NetnsName, record: Option<&Record>, missing: &str) -> Result<()> {
    let cause = match record {
        Some(record) if record.etc.is_some() && record.etc != etc_here() => {
            "/etc is not the one that the namespace was built in"
        }
        None if trusted::is_mounted_on_root("etc")? => "/etc is a mount, which may hide it",
        _ => return Ok(()),
    };
    let command = match missing {
        DEFAULT_PATH => "touch",
        _ => "mkdir",
    };
    Err(
        refuse(name, format!("{missing} is missing, and {cause}")).hint(format!(
            "run it outside the sandbox; if there is none: sudo {command} {missing}"
        )),
    )
}

/// Runs `look` inside the namespace called `name`, if the caller may enter it.
pub fn visit<T>(
    privilege: &Privilege,
    name: &NetnsName,
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let mut decision = decide(name)?;
    netns::visit(
        privilege,
        &decision.open()?,
        |arrival| decision.admit(arrival),
        look,
    )
}

fn unmanaged(name: &NetnsName, config: &Config) -> Error {
    let error = refuse(
        name,
        format!("runns-exec did not build it, and {DEFAULT_PATH} does not name it"),
    );
    let hint = did_you_mean(name, config).unwrap_or_else(|| {
        format!(
            "root can build it (sudo runns-exec build -n {name}), or open every namespace to the group (AllowUnmanaged=yes \
             before the first section of {DEFAULT_PATH})"
        )
    });
    error.hint(hint)
}

/// What may have been meant by `name`: a namespace, a section or a subcommand, whichever is
/// nearest.
fn did_you_mean(name: &NetnsName, config: &Config) -> Option<String> {
    let mut names = Record::names().unwrap_or_default();
    names.extend(netns::names().unwrap_or_default());
    names.extend(config.sections.iter().map(|section| section.netns.clone()));
    let sections = config.sections.iter().map(|section| section.name.as_str());
    let words = names
        .iter()
        .map(NetnsName::as_str)
        .chain(sections)
        .chain(commands::words());
    let near = nearest(
        name.as_str(),
        words.filter(|word| *word != name.as_str() || !names.contains(name)),
    )?;
    let section = config.sections.iter().find(|section| section.name == near);
    Some(match section {
        _ if names.iter().any(|known| known.as_str() == near) => format!("did you mean {near}?"),
        Some(section) => format!(
            "did you mean {}, the namespace of section [{near}]?",
            section.netns
        ),
        None => format!("did you mean runns-exec {near}?"),
    })
}

/// How to build the namespace that a section describes.
fn how_to_build(name: &NetnsName, config: &Config) -> Option<String> {
    let mut sections = config.sections.iter();
    let section = &sections.find(|section| section.netns == *name)?.name;
    let build = format!("sudo runns-exec build -s {}", quote(section));
    // systemd has an escaping of its own for what is no name of ours (systemd.unit(5)).
    Some(match NetnsName::new(section) {
        Ok(unit) => {
            format!("{build}  # or, also at each boot: sudo systemctl enable --now runns@{unit}")
        }
        Err(_) => build,
    })
}

impl Decision {
    /// Opens the namespace, whose lists under other names must allow, too; if there is none, the
    /// error says what may have been meant.
    pub fn open(&mut self) -> Result<Netns> {
        let name = &self.name;
        let netns = netns::open(name).map_err(|error| match netns::is_missing(name) {
            true => {
                let config = Config::load_default().unwrap_or_default();
                let hint = how_to_build(name, &config).or_else(|| did_you_mean(name, &config));
                error.hint(hint.unwrap_or_else(|| {
                    "runns-exec status and ip netns list show the existing ones".to_string()
                }))
            }
            false => error,
        })?;
        let mut records: Vec<&Record> = self.record.iter().collect();
        for other in &self.others {
            let inode = other.identity.map(|identity| identity.inode);
            if inode == Some(netns.inode()) && netns.is_also(&other.plan.name)? {
                records.push(other);
            }
        }
        let sections = self.check(&records, Some(&netns))?;
        let by_record = records.iter().any(|record| is_without_privileges(record));
        self.no_new_privs =
            by_record || sections.iter().any(|section| section.request.no_new_privs);
        Ok(netns)
    }

    /// Whether the caller may stay where it has just arrived: it is the namespace of the record or,
    /// without a record, one that runns-exec did not build, as far as the namespace itself says.
    pub fn admit(&mut self, arrival: &Arrival) -> Result<()> {
        match self
            .record
            .as_ref()
            .and_then(|record| record.identity.as_ref())
        {
            Some(built) => return arrival.must_be(built),
            None => arrival.must_not_be_the_hosts()?,
        }
        if self.caller.root {
            return Ok(());
        }
        // A record whose own name no longer leads to it was not found when it was opened.
        let is_same = |record: &&Record| {
            record
                .identity
                .is_some_and(|identity| identity.cookie == arrival.cookie)
        };
        let same: Vec<&Record> = self.others.iter().filter(is_same).collect();
        if same.is_empty() && arrival.is_built() {
            let hint = format!(
                "enter it outside the sandbox, which may hide {DIRECTORY}; if the record is lost, root has to end the programs \
                 in it, then: sudo ip netns delete {}",
                self.name
            );
            return Err(
                refuse(&self.name, "runns-exec built it, but its record is missing").hint(hint),
            );
        }
        let sections = self.check(&same, None)?;
        let by_record = same.iter().any(|record| is_without_privileges(record));
        self.no_new_privs |=
            by_record || sections.iter().any(|section| section.request.no_new_privs);
        Ok(())
    }

    /// These `records` of the namespace must be of one that is complete, and their lists and those
    /// of today's sections for it, which it returns, must allow.
    fn check(&self, records: &[&Record], netns: Option<&Netns>) -> Result<Vec<&Section>> {
        let sections = self.sections(records, netns)?;
        if self.caller.root {
            return Ok(sections);
        }
        for section in &sections {
            self.check_list(&section.request.access)?;
        }
        for record in records {
            if record.state != State::Built {
                let cause = format!(
                    "it is namespace {}, which is being built or cleaned",
                    record.plan.name
                );
                return Err(refuse(&self.name, cause));
            }
            record
                .plans()
                .try_for_each(|plan| self.check_list(&plan.request.access))?;
        }
        Ok(sections)
    }

    /// Today's sections, as far as they restrict anything, that name the namespace, that one of its
    /// `records` comes from, or whose name leads to `netns`, too.
    fn sections(&self, records: &[&Record], netns: Option<&Netns>) -> Result<Vec<&Section>> {
        let is_of_record = |section: &Section| {
            records.iter().map(|record| &record.plan).any(|plan| {
                let built_from = plan.request.section.as_deref();
                section.netns == plan.name
                    || built_from.is_some_and(|name| name.eq_ignore_ascii_case(&section.name))
            })
        };
        let mut found = Vec::new();
        for section in &self.config.sections {
            if !section.request.access.is_restricted() && !section.request.no_new_privs {
                continue;
            }
            let named = section.netns == self.name || is_of_record(section);
            if named || netns.map_or(Ok(false), |netns| netns.is_also(&section.netns))? {
                found.push(section);
            }
        }
        Ok(found)
    }

    fn check_list(&self, access: &Access) -> Result<()> {
        match self.caller.is_in(access)? {
            true => Ok(()),
            false => Err(refuse(
                &self.name,
                "AllowUsers and AllowGroups do not let you in",
            )),
        }
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
}

/// Whether its commands run with no_new_privs.
fn is_without_privileges(record: &Record) -> bool {
    record.plans().any(|plan| plan.request.no_new_privs)
}

/// Root by way of sudo, in whose hands the command becomes root's too.
pub fn is_sudo(environment: &[&CStr]) -> bool {
    caller_is_root()
        && environment
            .iter()
            .any(|variable| variable.to_bytes().starts_with(b"SUDO_UID="))
}
