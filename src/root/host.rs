//! What builds change on the host itself, outside any one namespace. The original values are kept
//! in /run/runns until they are restored.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::record::DIRECTORY;

use crate::kernel::file::make_directory;
use crate::lock::Lock;
use runns_shared::trusted::{self, Trust};

/// Cannot be mistaken for a record: no namespace name starts with a dot.
const FILE: &str = ".host";

/// The state of the host before the first build, as far as builds have changed it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostState {
    /// The sysctls that turning IPv4 forwarding on overwrites, with their original values;
    /// ip_forward itself first.
    pub forwarding: Option<Vec<(String, String)>>,
    /// The same for IPv6.
    pub forwarding_v6: Option<Vec<(String, String)>>,
    /// The number of each uplink that a namespace is bound to (see [`crate::facts::uplinks`]).
    pub uplinks: BTreeMap<String, u8>,
    /// The original rp_filter of each uplink on which it was made loose.
    pub rp_filter: BTreeMap<String, String>,
    /// Whether builds brought about firewalld's own copy of the zone `runns`.
    pub firewalld_zone: bool,
    /// Directories that builds created, each before those below it.
    pub directories: Vec<PathBuf>,
    /// Whether a build made /run/netns a mount point.
    pub netns_mount: bool,
    /// What the network namespace of pid 1 had before a build marked it (see
    /// [`runns_privileged::netns::OF_PID_1`]).
    pub before_mark: Option<i32>,
}

/// The host before a build, as far as that build has changed it.
#[derive(Debug, Default)]
pub struct Before {
    /// What earlier builds had changed.
    pub state: HostState,
    /// Sysctls, with the values that they had.
    pub sysctls: Vec<(String, String)>,
}

fn path() -> PathBuf {
    Path::new(DIRECTORY).join(FILE)
}

impl HostState {
    /// Reads the state. If there is no file, builds have left nothing changed.
    pub fn load() -> Result<Self> {
        let path = path();
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_str(&trusted::read(&path, Trust::Strict)?).map_err(|error| {
            let path = show(&path);
            Error::new(format!("read {path}"), error).hint(format!(
                "it is damaged: end the programs in all namespaces, then sudo rm {path}, and build each namespace again; \
                 after the last clean, restore IPv4 and IPv6 forwarding and rp_filter of the host yourself"
            ))
        })
    }

    /// Applies `change` to the state and saves it; removes the file when nothing is left to
    /// restore.
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
        let text = serde_json::to_string_pretty(&state)
            .map_err(|error| Error::new("write the host's state", error))?;
        lock.write_file(&path(), &text)
    }
}

/// Creates `directory` if it does not exist, for clean to remove. It is recorded as ours first, so
/// that clean knows of it even if this build is killed in between.
pub fn make_directory_for_now(lock: &Lock, directory: &Path) -> Result<()> {
    if std::fs::symlink_metadata(directory).is_err() {
        HostState::update(lock, |host| {
            if !host.directories.iter().any(|known| known == directory) {
                host.directories.push(directory.to_path_buf());
            }
        })?;
    }
    make_directory(directory, 0o755)
}

/// Removes a directory that a build created, if it is empty.
pub fn remove_made_directory(lock: &Lock, directory: &Path) -> Result<()> {
    let is_made = |made: &PathBuf| made == directory;
    if !HostState::load()?.directories.iter().any(is_made) {
        return Ok(());
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => return Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).cannot(|| format!("remove {}", show(directory)));
        }
        _ => {}
    }
    HostState::update(lock, |host| host.directories.retain(|made| !is_made(made)))
}
