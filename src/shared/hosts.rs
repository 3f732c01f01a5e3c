//! The hosts file of a namespace: the host's own, and lines with the name of the host.
//!
//! build leaves one in /run/runns, with the time of the host's file as its own. Whoever enters uses
//! it as long as the two agree, and makes one anew if they don't: it costs more, and root alone
//! could keep it.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::stat;

use crate::error::{Context, Result};
use crate::name::NetnsName;
use crate::plan::Plan;
use crate::record::DIRECTORY;

/// The host's.
pub const HOSTS: &str = "/etc/hosts";

/// What the names of ours begin with, by which a mount of one is recognized.
pub const PREFIX: &str = ".hosts-";

/// Where build leaves that of `name`.
pub fn path(name: &NetnsName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{PREFIX}{name}"))
}

/// The lines that are added; `None` if there are none.
pub fn lines(plan: &Plan) -> Option<String> {
    let line = |host: IpAddr| format!("\n{host} host.runns\n");
    let second = plan.host_v6.map_or_else(String::new, line);
    plan.host.map(|host| line(host) + &second)
}

/// Seconds, nanoseconds, and size: as long as they are the same, so is the file.
pub type Stamp = (i64, i64, u64);

/// That of the host's file; `None` if there is none. Nothing but its absence lets anybody go
/// without a copy of it.
pub fn stamp() -> Result<Option<Stamp>> {
    match stat(HOSTS) {
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno).cannot(|| format!("inspect {HOSTS}")),
        Ok(stat) => Ok(Some((
            stat.st_mtime,
            stat.st_mtime_nsec,
            stat.st_size as u64,
        ))),
    }
}

/// The text of the host's file and `lines`; `None` if there is no such file.
pub fn text_with(lines: &str) -> Result<Option<Vec<u8>>> {
    match std::fs::read(HOSTS) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).cannot(|| format!("read {HOSTS}")),
        Ok(mut text) => {
            text.extend_from_slice(lines.as_bytes());
            Ok(Some(text))
        }
    }
}
