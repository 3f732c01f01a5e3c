//! Tunnels: what is known of each while it runs, kept in /run/runns/NAME.d by the process that knows it.

pub mod device;
pub mod management;
pub mod wgquick;

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::name::NetnsName;
use crate::record::DIRECTORY;
use crate::text::show;

/// The state of one tunnel. Anyone may read it: no keys, no names of users.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelState {
    /// The device inside.
    pub device: String,
    /// Whether it is up.
    pub up: bool,
    /// Why it is not up, if that is known.
    pub reason: Option<String>,
    /// Since when, in seconds since the epoch.
    pub since: i64,
    /// Name servers that the other end named.
    pub servers: Vec<IpAddr>,
    /// Search domains that the other end named, checked to be domains.
    pub search: Vec<String>,
}

/// Where the states and sockets of a namespace's tunnels are.
pub fn directory(name: &NetnsName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}.d"))
}

/// The directory of its management sockets, which only root can enter.
pub fn private_directory(name: &NetnsName) -> PathBuf {
    directory(name).join("private")
}

/// The management socket of tunnel `index`.
pub fn socket(name: &NetnsName, index: usize) -> PathBuf {
    private_directory(name).join(format!("{index}.sock"))
}

/// The hosts(5) file of the namespace's daemons.
pub fn hosts_file(name: &NetnsName) -> PathBuf {
    directory(name).join("hosts")
}

fn state_file(name: &NetnsName, index: usize) -> PathBuf {
    directory(name).join(format!("{index}.json"))
}

/// Makes the directories.
pub fn make_directories(name: &NetnsName) -> Result<()> {
    for (path, mode) in [(directory(name), 0o755), (private_directory(name), 0o700)] {
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).cannot(|| format!("make {}", show(&path)));
            }
            _ => {}
        }
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).cannot(|| format!("make {}", show(&path)))?;
    }
    Ok(())
}

/// Removes them with all that is in them; whether they were there.
pub fn remove_directories(name: &NetnsName) -> Result<bool> {
    let path = directory(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).cannot(|| format!("remove {}", show(&path))),
    }
}

impl TunnelState {
    /// The state of tunnel `index`; the default one if nothing is known.
    pub fn load(name: &NetnsName, index: usize) -> Self {
        let text = std::fs::read_to_string(state_file(name, index)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Replaces what is known of tunnel `index`.
    pub fn save(&self, name: &NetnsName, index: usize) -> Result<()> {
        let path = state_file(name, index);
        let temporary = path.with_extension("new");
        let text = serde_json::to_string(self).map_err(|error| Error::new("write a tunnel's state", error))?;
        let write = || -> std::io::Result<()> {
            let _ = std::fs::remove_file(&temporary);
            let mut file = File::options().create_new(true).write(true).mode(0o644).open(&temporary)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&temporary, &path)
        };
        write().cannot(|| format!("write {}", show(&path)))
    }
}
