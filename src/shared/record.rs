//! /run/runns: one record a built namespace, and the lock that builds and cleans take turns by.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::escape::show;
use crate::json::{self, Fields};
use crate::name::NetnsName;
use crate::plan::Plan;
use crate::proc::{Proc, Stat};
use crate::subnet::Number;
use crate::trusted::{self, Trust};

/// Where records are.
pub const DIRECTORY: &str = "/run/runns";
const SUFFIX: &str = ".json";
const RESERVATION: &str = ".number-";

/// The version of records that are written now. It grows with each change after which an earlier
/// release would misread one; a release reads its own and those of the last one.
pub const VERSION: u64 = 4;

/// How far the namespace has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// build is at it, or was killed.
    Building,
    /// Complete.
    Built,
    /// clean is at it, or was killed.
    Cleaning,
}

/// The numbers by which a network namespace is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// SO_NETNS_COOKIE: never used again while the machine is up.
    pub cookie: u64,
    /// Inode of the namespace on nsfs; used again after its end.
    pub inode: u64,
    /// Inode of its /proc/PID/net/dev; used again after its end.
    pub proc_inode: u64,
}

/// A daemon that runs for the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Daemon {
    /// Process id.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot; with the pid it names one process.
    pub start_time: u64,
    /// The configuration file it was started with.
    pub config: PathBuf,
}

impl State {
    fn from_json(value: &Value) -> json::Result<Self> {
        match value.as_str() {
            Some("building") => Ok(Self::Building),
            Some("built") => Ok(Self::Built),
            Some("cleaning") => Ok(Self::Cleaning),
            _ => Err("it is neither building, built nor cleaning".to_string()),
        }
    }
}

impl Identity {
    fn from_fields(fields: &Fields) -> json::Result<Self> {
        let number = |name| fields.required(name, json::number);
        Ok(Self {
            cookie: number("cookie")?,
            inode: number("inode")?,
            proc_inode: number("proc_inode")?,
        })
    }
}

impl Daemon {
    fn from_fields(fields: &Fields) -> json::Result<Self> {
        let pid = i32::try_from(fields.required("pid", json::number)?)
            .map_err(|_| "field pid: there is no such pid")?;
        let start_time = fields.required("start_time", json::number)?;
        Ok(Self {
            pid,
            start_time,
            config: fields.required("config", json::path)?,
        })
    }

    /// The process `pid` as it is known later; `None` if it has ended.
    pub fn identify(pid: i32, config: &Path) -> Option<Self> {
        Some(Self {
            pid,
            start_time: running(pid)?.start_time,
            config: config.to_path_buf(),
        })
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        running(self.pid).is_some_and(|stat| stat.start_time == self.start_time)
    }
}

fn running(pid: i32) -> Option<Stat> {
    Proc::open()
        .ok()?
        .process(pid)?
        .stat()
        .filter(|stat| !stat.has_ended())
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Which version of records it is.
    pub version: u64,
    /// How far it is.
    pub state: State,
    /// What it shall consist of.
    #[serde(flatten)]
    pub plan: Plan,
    /// While it is being changed, or if a change was not finished: the plans before this one, of
    /// which something may still be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Plan>,
    /// Until its tunnels have been exchanged, it has no way out beside them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// Which namespace it is; absent before there is one.
    pub identity: Option<Identity>,
    /// Files below /etc/netns/NAME that build made and that must be there when somebody enters.
    pub files: Vec<String>,
    /// Daemons.
    pub daemons: Vec<Daemon>,
    /// The process beside each OpenVPN daemon that sets up what its tunnel needs, with the same
    /// configuration file.
    pub keepers: Vec<Daemon>,
    /// The table inside as it was loaded last: the generation of the namespace's ruleset, and a
    /// digest of the text.
    pub inside: Option<[u64; 2]>,
    /// Device and inode number of the /etc that build saw: only in this one does the absence of
    /// /etc/runns.conf mean that there is none.
    pub etc: Option<Vec<u64>>,
}

/// The value of [`Record::etc`] for the /etc that this process sees.
pub fn etc_here() -> Option<Vec<u64>> {
    nix::sys::stat::stat("/etc")
        .ok()
        .map(|stat| vec![stat.st_dev, stat.st_ino])
}

/// Where the record of `name` is.
pub fn path(name: &NetnsName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}{SUFFIX}"))
}

/// The file that says, by its name alone, that a namespace has a number. It spares a build the
/// reading of all records, which are the truth. No name of a namespace starts with a dot.
pub fn reservation(number: Number, name: &NetnsName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{RESERVATION}{}-{name}", number.get()))
}

/// The namespace whose record this file is.
fn name_of(file: &str) -> Option<NetnsName> {
    NetnsName::new(file.strip_suffix(SUFFIX)?).ok()
}

/// The files in the directory of records.
fn files() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.cannot(|| format!("list {DIRECTORY}"))?,
    };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        Ok(entry
            .cannot(|| format!("list {DIRECTORY}"))?
            .file_name()
            .to_string_lossy()
            .into_owned())
    };
    entries.map(name).collect()
}

impl Record {
    /// One of which nothing is there yet.
    pub fn new(state: State, plan: Plan) -> Self {
        Self {
            version: VERSION,
            state,
            plan,
            earlier: Vec::new(),
            closed: false,
            identity: None,
            files: Vec::new(),
            daemons: Vec::new(),
            keepers: Vec::new(),
            inside: None,
            etc: None,
        }
    }

    /// The plan, and those before it of a change that is not finished. What any of them forbids is
    /// forbidden.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.earlier.iter().chain([&self.plan])
    }

    /// The record of `name`; `None` if it was not built. A file that is not root's is an error.
    pub fn load(name: &NetnsName) -> Result<Option<Self>> {
        let text = trusted::read_if_there(&path(name), Trust::Strict)?;
        text.map(|text| Self::of(name, &text)).transpose()
    }

    /// The record of `name`, which has this text.
    fn of(name: &NetnsName, text: &str) -> Result<Self> {
        let path = path(name);
        let record = Self::parse(text)
            .map_err(|cause| Error::new(format!("read {}", show(&path)), cause))?;
        if record.plan.name != *name {
            return Err(Error::new(
                format!("use {}", show(&path)),
                "it belongs to another namespace",
            ));
        }
        Ok(record)
    }

    /// Parses a record's text.
    pub fn parse(text: &str) -> json::Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Fields::read(&value, Self::from_fields)
    }

    fn from_fields(fields: &Fields) -> json::Result<Self> {
        let version = fields.required("version", json::number)?;
        if version != VERSION {
            let which = if version > VERSION {
                "a later"
            } else {
                "an earlier"
            };
            return Err(format!(
                "{which} version of runns-exec wrote it, in format {version}; this one reads format {VERSION}"
            ));
        }
        Ok(Self {
            version,
            state: fields.required("state", State::from_json)?,
            plan: Plan::from_fields(fields)?,
            earlier: fields.list("earlier", |value| Fields::read(value, Plan::from_fields)),
            closed: fields.flag("closed"),
            identity: fields.optional("identity", |value| {
                Fields::read(value, Identity::from_fields)
            }),
            files: fields.list("files", json::text),
            daemons: fields.list("daemons", |value| Fields::read(value, Daemon::from_fields)),
            keepers: fields.list("keepers", |value| Fields::read(value, Daemon::from_fields)),
            inside: fields.list("inside", json::number).try_into().ok(),
            etc: fields.optional("etc", |value| json::list(value, json::number)),
        })
    }

    /// The names of all records, and the number of each namespace that has reserved it by a file
    /// (see [`reservation`]).
    pub fn names_and_numbers() -> Result<(Vec<NetnsName>, HashMap<NetnsName, Number>)> {
        let files = files()?;
        let reserved = |file: &String| {
            let (number, name) = file.strip_prefix(RESERVATION)?.split_once('-')?;
            Some((
                NetnsName::new(name).ok()?,
                Number::new(number.parse().ok()?)?,
            ))
        };
        Ok((
            files.iter().filter_map(|file| name_of(file)).collect(),
            files.iter().filter_map(reserved).collect(),
        ))
    }

    /// The names of all records, sorted.
    pub fn names() -> Result<Vec<NetnsName>> {
        let mut names: Vec<NetnsName> = files()?.iter().filter_map(|file| name_of(file)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// All records. One that can't be read is an error: what it would have said about a namespace
    /// is not known.
    pub fn all() -> Result<Vec<Self>> {
        Self::texts(Self::names()?)?
            .iter()
            .map(|(name, text)| Self::of(name, text))
            .collect()
    }

    /// All records that can be read, and the names of those that cannot.
    pub fn readable() -> Result<(Vec<Self>, Vec<NetnsName>)> {
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        let Some(directory) = trusted::directory(Path::new(DIRECTORY))? else {
            return Ok((records, unreadable));
        };
        for name in Self::names()? {
            let text = trusted::read_in(&directory, &path(&name));
            match text.and_then(|text| text.map(|text| Self::of(&name, &text)).transpose()) {
                Ok(record) => records.extend(record),
                Err(_) => unreadable.push(name),
            }
        }
        Ok((records, unreadable))
    }

    /// The texts of these namespaces' records.
    pub fn texts(names: Vec<NetnsName>) -> Result<Vec<(NetnsName, String)>> {
        let Some(directory) = trusted::directory(Path::new(DIRECTORY))? else {
            return Ok(Vec::new());
        };
        let read = |name: NetnsName| {
            Ok(trusted::read_in(&directory, &path(&name))?.map(|text| (name, text)))
        };
        let texts: Result<Vec<Option<(NetnsName, String)>>> = names.into_iter().map(read).collect();
        Ok(texts?.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_are_refused() {
        let cause =
            |version: u64| Record::parse(&format!("{{\"version\":{version}}}")).unwrap_err();
        assert!(cause(VERSION + 1).starts_with("a later version"));
        assert!(cause(VERSION - 1).starts_with("an earlier version"));
        assert_eq!(cause(VERSION), "field state is missing");
        assert_eq!(Record::parse("{}").unwrap_err(), "field version is missing");
    }

    #[test]
    fn this_process_is_known() {
        let daemon = Daemon::identify(std::process::id() as i32, Path::new("")).unwrap();
        assert!(daemon.is_running());
        assert!(
            !Daemon {
                start_time: daemon.start_time + 1,
                ..daemon
            }
            .is_running()
        );
    }
}
