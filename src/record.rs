//! /run/runns: one record a built namespace, and the lock that builds and cleans take turns by.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::name::NetnsName;
use crate::plan::Plan;
use crate::text::show;
use crate::trusted::{self, Trust};

/// Where records are.
pub const DIRECTORY: &str = "/run/runns";
const LOCK: &str = "/run/runns/lock";
const SUFFIX: &str = ".json";
/// Extension of a file that is being written.
const HALF_WRITTEN: &str = "new";

/// How far the namespace has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// SO_NETNS_COOKIE: never used again while the machine is up.
    pub cookie: u64,
    /// Inode of the namespace on nsfs; used again after its end.
    pub inode: u64,
    /// Inode of its /proc/PID/net/dev; used again after its end.
    pub proc_inode: u64,
}

/// A daemon that runs for the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Process id.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot; with the pid it names one process.
    pub start_time: u64,
    /// The configuration file it was started with.
    pub config: PathBuf,
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How far it is.
    pub state: State,
    /// What it shall consist of.
    #[serde(flatten)]
    pub plan: Plan,
    /// Which namespace it is; absent before there is one.
    pub identity: Option<Identity>,
    /// Files below /etc/netns/NAME that build made and that must be there when somebody enters.
    #[serde(default)]
    pub files: Vec<String>,
    /// Daemons.
    #[serde(default)]
    pub daemons: Vec<Daemon>,
}

/// Where the record of `name` is.
pub fn path(name: &NetnsName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}{SUFFIX}"))
}

impl Record {
    /// The record of `name`; `None` if it was not built. A file that is not root's is an error.
    pub fn load(name: &NetnsName) -> Result<Option<Self>> {
        let path = path(name);
        let Some(text) = trusted::read_if_there(&path, Trust::Strict)? else { return Ok(None) };
        let record = Self::parse(&text).map_err(|cause| Error::new(format!("read {}", show(&path)), cause))?;
        if record.plan.request.name != *name {
            return Err(Error::new(format!("use {}", show(&path)), "it is of another namespace"));
        }
        Ok(Some(record))
    }

    /// Parses a record's text.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The names of all records, sorted.
    pub fn names() -> Result<Vec<NetnsName>> {
        let mut names = Vec::new();
        let entries = match std::fs::read_dir(DIRECTORY) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
            entries => entries.cannot(|| format!("list {DIRECTORY}"))?,
        };
        for entry in entries {
            let file = entry.cannot(|| format!("list {DIRECTORY}"))?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(SUFFIX));
            names.extend(name.and_then(|name| NetnsName::new(name).ok()));
        }
        names.sort();
        Ok(names)
    }

    /// All records. One that can't be read is an error: what it would have said about a namespace is not known.
    pub fn all() -> Result<Vec<Self>> {
        let records: Result<Vec<Option<Self>>> = Self::names()?.iter().map(Self::load).collect();
        Ok(records?.into_iter().flatten().collect())
    }

    /// Writes the record, replacing an earlier one at once.
    pub fn save(&self, lock: &Lock) -> Result<()> {
        let text = serde_json::to_string_pretty(self).cannot_json("write a record")?;
        lock.write_file(&path(&self.plan.request.name), &text)
    }

    /// Removes the record. None is no error.
    pub fn remove(&self, _lock: &Lock) -> Result<()> {
        let path = path(&self.plan.request.name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).cannot(|| format!("remove {}", show(&path)))
            }
            _ => Ok(()),
        }
    }
}

trait JsonContext<T> {
    fn cannot_json(self, action: &str) -> Result<T>;
}

impl<T> JsonContext<T> for Result<T, serde_json::Error> {
    fn cannot_json(self, action: &str) -> Result<T> {
        self.map_err(|error| Error::new(action, error))
    }
}

/// The turn of one build or clean: while it lives, nobody else changes what is built.
pub struct Lock {
    file: Flock<File>,
}

impl Lock {
    /// Waits for the turn. Makes /run/runns if there is none. The file is 0600, so that only root can hold it.
    pub fn take() -> Result<Self> {
        loop {
            make_directory(Path::new(DIRECTORY))?;
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
                .open(LOCK);
            let file = match file {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                file => file.cannot(|| format!("open {LOCK}"))?,
            };
            let file = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| errno)
                .cannot(|| format!("lock {LOCK}"))?;
            // Inherited by the tools that are run: should this process be killed, the next one waits for its tool too.
            let lock = Self { file };
            lock.inherit()?;
            let held = lock.file.metadata().cannot(|| format!("lock {LOCK}"))?.ino();
            // The holder before us may have removed the file with the last record.
            if std::fs::symlink_metadata(LOCK).is_ok_and(|now| now.ino() == held) {
                remove_half_written()?;
                return Ok(lock);
            }
        }
    }

    /// Writes `text` to `path` in /run/runns by way of a temporary file: whoever reads sees the old or the new text.
    pub fn write_file(&self, path: &Path, text: &str) -> Result<()> {
        let temporary = path.with_extension(HALF_WRITTEN);
        let write = || -> std::io::Result<()> {
            let _ = std::fs::remove_file(&temporary);
            let mut file = File::options().create_new(true).write(true).mode(0o644).open(&temporary)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&temporary, path)
        };
        write().cannot(|| format!("write {}", show(path)))
    }

    /// In a child that becomes a daemon: it does not inherit the turn.
    pub fn close_on_exec(&self) -> Result<()> {
        fcntl(&*self.file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop).cannot(|| format!("let go of {LOCK}"))
    }

    /// What is run next inherits the turn again.
    pub fn inherit(&self) -> Result<()> {
        fcntl(&*self.file, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).cannot(|| format!("keep {LOCK}"))
    }

    /// Gives the turn back; where nothing is recorded any more, /run/runns goes too.
    pub fn release(self) {
        let left = std::fs::read_dir(DIRECTORY).map_or(1, |entries| {
            entries.filter(|entry| entry.as_ref().map_or(true, |entry| entry.path() != Path::new(LOCK))).count()
        });
        if left == 0 {
            let _ = std::fs::remove_file(LOCK);
            let _ = std::fs::remove_dir(DIRECTORY);
        }
        drop(self.file);
    }
}

/// Removes what a build or clean that was killed had begun to write.
fn remove_half_written() -> Result<()> {
    for entry in std::fs::read_dir(DIRECTORY).cannot(|| format!("list {DIRECTORY}"))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == HALF_WRITTEN) {
            std::fs::remove_file(entry.path()).cannot(|| format!("remove {}", show(entry.path())))?;
        }
    }
    Ok(())
}

/// Makes a directory of mode 0755 whatever the umask; one that is there must be root's.
pub fn make_directory(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, mode).cannot(|| format!("make {}", show(path)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let (_, stat) = trusted::locate(path, Trust::Strict)?;
            if trusted::kind(&stat) != nix::sys::stat::SFlag::S_IFDIR {
                return Err(Error::new(format!("use {}", show(path)), "it is not a directory"));
            }
            Ok(())
        }
        Err(error) => Err(error).cannot(|| format!("make {}", show(path))),
    }
}
