//! The hosts file of a namespace: the host's own, and a line with the name of the host.
//!
//! build leaves one in /run/runns, with the time of the host's file as its own. Whoever enters uses it as long as the two
//! agree, and makes one anew if they don't: it costs more, and root alone could keep it.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::name::NetnsName;
use crate::record::DIRECTORY;

/// The host's.
pub const HOSTS: &str = "/etc/hosts";

/// What the names of those begin with that build leaves.
pub const PREFIX: &str = ".hosts-";

/// Where build leaves that of `name`.
pub fn path(name: &NetnsName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{PREFIX}{name}"))
}

/// The line that is added.
pub fn line(host: IpAddr) -> String {
    format!("\n{host} host.runns\n")
}

/// Seconds, nanoseconds, and size: as long as they are the same, so is the file.
pub type Stamp = (i64, i64, u64);

/// That of the host's file; `None` if there is none.
pub fn stamp() -> Option<Stamp> {
    let data = std::fs::metadata(HOSTS).ok()?;
    Some((data.mtime(), data.mtime_nsec(), data.size()))
}
