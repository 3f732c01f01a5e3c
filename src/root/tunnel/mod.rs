//! Tunnels: their devices, their configuration and control, and their files in /run/runns/NAME.d.

pub mod attempts;
pub mod check;
pub mod credentials;
pub mod daemons;
pub mod device;
pub mod environment;
pub mod event;
pub mod keeper;
pub mod knock;
pub mod launch;
pub mod login;
pub mod management;
pub mod openconnect;
pub mod openvpn;
pub mod options;
pub mod peers;
pub mod post;
pub mod profile;
pub mod rehearsal;
pub mod said;
pub mod servers;
pub mod source;
pub mod wgquick;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::name::NetnsName;
use runns_shared::tunnel::{TunnelState, directory, state_file};

use crate::kernel::file;
use crate::seen::Subject;

/// What `runns-exec import` keeps, in a directory for each section.
pub const IMPORTED: &str = "/etc/runns";
/// In such a directory: user name and password, a line each, for a file that asks for them.
pub const LOGIN: &str = "auth";

/// The directory of what the daemons need, which only root can enter.
pub fn private_directory(name: &NetnsName) -> PathBuf {
    directory(name).join("private")
}

/// Where the keeper of tunnel `index` has a file system for its daemon, in the keeper's mount
/// namespace only.
pub fn daemon_directory(name: &NetnsName, index: usize) -> PathBuf {
    private_directory(name).join(index.to_string())
}

/// The one directory in which the daemon of tunnel `index` may write.
pub fn own_directory(name: &NetnsName, index: usize) -> PathBuf {
    daemon_directory(name, index).join("own")
}

/// The management socket of tunnel `index`.
pub fn socket(name: &NetnsName, index: usize) -> PathBuf {
    own_directory(name, index).join("management")
}

/// The addresses of servers that build found, in the format of hosts(5).
pub fn hosts_file(name: &NetnsName) -> PathBuf {
    directory(name).join("hosts")
}

/// The file with what tunnel `index` was started with (see [`started_with`]).
fn start_file(name: &NetnsName, index: usize) -> PathBuf {
    private_directory(name).join(format!("{index}.start"))
}

/// A digest of everything that a tunnel depends on: its kind and its options, and the contents of
/// its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// That of these values.
    pub fn of(values: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        values.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// What tunnel `index` was started with; `None` if it was not, or is being exchanged. Only root can
/// read it: a weak password could be guessed from the digest of the file that it is in.
pub fn started_with(name: &NetnsName, index: usize) -> Option<Digest> {
    let text = std::fs::read_to_string(start_file(name, index)).ok()?;
    text.trim().parse().ok().map(Digest)
}

/// Records what tunnel `index` was started with.
pub fn note_start(name: &NetnsName, index: usize, digest: Digest) -> Result<()> {
    file::write(&start_file(name, index), digest.0.to_string())
}

/// Forgets what was recorded of tunnel `index`.
pub fn forget(name: &NetnsName, index: usize) -> Result<()> {
    for path in [start_file(name, index), state_file(name, index)] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).cannot(|| format!("remove {}", show(&path)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Creates the namespace's directories.
pub fn make_directories(name: &NetnsName) -> Result<()> {
    for (path, mode) in [(directory(name), 0o755), (private_directory(name), 0o700)] {
        file::make_own_directory(&path, mode)?;
    }
    Ok(())
}

/// Removes the namespace's directories with their contents; returns whether they existed.
pub fn remove_directories(name: &NetnsName) -> Result<bool> {
    let path = directory(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        removed => removed
            .map(|()| true)
            .cannot(|| format!("remove {}", show(&path))),
    }
}

/// Writes the state of tunnel `index`.
pub fn save(state: &TunnelState, name: &NetnsName, index: usize) -> Result<()> {
    let text = serde_json::to_string(state)
        .map_err(|error| Error::new("write a tunnel's state", error))?;
    file::write(&state_file(name, index), text)
}

/// How a tunnel is.
pub struct Condition {
    /// Its configuration file.
    pub config: PathBuf,
    /// What was last recorded.
    pub state: TunnelState,
    /// The bytes that its device has received and sent, if the device is there.
    pub counters: Option<(u64, u64)>,
    /// What is wrong with it.
    pub reason: Option<String>,
    /// Nothing goes through it.
    pub is_down: bool,
}

/// How tunnel `index` of a namespace is. What could not be seen is taken to be as it was last
/// recorded.
pub fn condition(subject: &Subject, index: usize) -> Condition {
    let (record, request) = (subject.record, &subject.record.plan.request);
    let config = request.tunnels().nth(index).unwrap_or(Path::new(""));
    let state = TunnelState::load(&record.plan.name, index);
    let daemon = record.daemons.iter().find(|daemon| daemon.config == config);
    let dead = daemon.is_some_and(|daemon| !daemon.is_running()) && subject.seen.sees_processes();
    let keeper = record.keepers.iter().find(|keeper| keeper.config == config);
    let alone = keeper.is_some_and(|keeper| !keeper.is_running()) && subject.seen.sees_processes();
    let devices = subject.inside.as_ref().map(|inside| inside.devices());
    let counters = devices
        .as_ref()
        .and_then(|all| all.iter().find(|(device, _)| *device == state.device));
    let gone = devices.is_some() && counters.is_none();
    let down = counters.is_some()
        && subject
            .inside
            .as_ref()
            .is_some_and(|inside| !inside.is_up(&state.device));
    let is_down = dead || !state.up || gone || down;
    let reason = match &state.reason {
        Some(reason) if dead => Some(format!("its daemon has exited: {reason}")),
        None if dead => Some("its daemon has exited without a message (killed?)".to_string()),
        Some(reason) if !state.up => Some(reason.clone()),
        None if !state.up => Some("not connected".to_string()),
        _ if gone => Some("its device is gone".to_string()),
        _ if down => Some("its device is down".to_string()),
        _ if alone => Some("its keeper has exited, so it will not survive a reconnect".to_string()),
        _ => None,
    };
    Condition {
        config: config.to_path_buf(),
        counters: counters.map(|(_, counts)| *counts),
        reason,
        is_down,
        state,
    }
}
