//! What builds changed on the host itself, outside any one namespace: kept in /run/runns until it is as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::record::DIRECTORY;

use crate::lock::{Lock, make_directory};
use runns_shared::trusted::{self, Trust};

/// Its name keeps it apart from records: no namespace's name starts with a dot.
const FILE: &str = ".host";

/// The host as it was before the first build, as far as builds changed it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostState {
    /// Sysctls as they were before IPv4 forwarding was turned on, ip_forward itself first.
    pub forwarding: Option<Vec<(String, String)>>,
    /// rp_filter of uplinks, as it was before it was made loose.
    pub rp_filter: BTreeMap<String, String>,
    /// Directories that build made, each before those below it.
    pub directories: Vec<PathBuf>,
    /// /run/netns was made a mount of its own.
    pub netns_mount: bool,
    /// Tables of iptables' nft backend that were not there before.
    pub nft_tables: Vec<String>,
    /// The same of chains, with their tables.
    pub nft_chains: Vec<(String, String)>,
}

fn path() -> PathBuf {
    Path::new(DIRECTORY).join(FILE)
}

impl HostState {
    /// Reads it; none is the host as it was.
    pub fn load() -> Result<Self> {
        let path = path();
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_str(&trusted::read(&path, Trust::Strict)?)
            .map_err(|error| Error::new(format!("read {}", show(&path)), error))
    }

    /// Changes and keeps it. Nothing left to restore: nothing kept.
    pub fn update(lock: &Lock, change: impl FnOnce(&mut Self)) -> Result<()> {
        let before = Self::load()?;
        let mut state = before.clone();
        change(&mut state);
        if state == before {
            return Ok(());
        }
        if state == Self::default() {
            return std::fs::remove_file(path()).cannot(|| format!("remove {}", show(path())));
        }
        let text = serde_json::to_string_pretty(&state).map_err(|error| Error::new("write the host's state", error))?;
        lock.write_file(&path(), &text)
    }
}

/// Makes `directory`, if it is not there, for clean to remove again. That it is ours is written down first: a build
/// that is killed in between leaves nothing unknown.
pub fn make_directory_for_now(lock: &Lock, directory: &Path) -> Result<()> {
    if std::fs::symlink_metadata(directory).is_err() {
        HostState::update(lock, |host| {
            if !host.directories.iter().any(|known| known == directory) {
                host.directories.push(directory.to_path_buf());
            }
        })?;
    }
    make_directory(directory)
}

/// Reads the sysctl `name` (a path below /proc/sys), without its line end; `None` if this kernel or network namespace
/// has none of that name.
pub fn sysctl(name: &str) -> Result<Option<String>> {
    let path = Path::new("/proc/sys").join(name);
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        value => Ok(Some(value.cannot(|| format!("read {}", show(&path)))?.trim().to_string())),
    }
}

/// Writes the sysctl `name`, if it differs.
pub fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    if sysctl(name)?.as_deref() == Some(value) {
        return Ok(());
    }
    std::fs::write(&path, value).cannot(|| format!("write {value} to {}", show(&path)))
}
