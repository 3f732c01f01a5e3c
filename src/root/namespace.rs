//! The network namespace that a record is about, and no other: names and inode numbers are used
//! again, cookies are not.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::kernel::daemon;
use crate::kernel::netlink::in_namespace;
use runns_privileged::netns::{DIRECTORY, identity_here};
use runns_shared::error::{Context, Result};
use runns_shared::name::NetnsName;
use runns_shared::record::Record;
use runns_sys::net;

/// The path of namespace `name`.
pub fn path(name: &NetnsName) -> PathBuf {
    Path::new(DIRECTORY).join(name.as_str())
}

/// Opens the namespace at the recorded name; `None` if there is none, or if it is not the one that
/// was built.
pub fn open_recorded(record: &Record) -> Result<Option<File>> {
    let path = path(&record.plan.name);
    let Some(identity) = record.identity else {
        return Ok(None);
    };
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = match File::options().read(true).custom_flags(flags).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.cannot(|| format!("open {}", path.display()))?,
    };
    if !net::is_network_namespace(&file).unwrap_or(false)
        || file.metadata().map(|data| data.ino()).ok() != Some(identity.inode)
    {
        return Ok(None);
    }
    let cookie = in_namespace(file.as_fd(), identity_here)?.cookie;
    Ok((cookie == identity.cookie).then_some(file))
}

/// Opens the namespace that was built through a process in it. Another namespace may have its inode
/// number by now; the cookie tells them apart.
pub fn open_by_process(record: &Record) -> Option<File> {
    let identity = record.identity?;
    let is_built = |file: &OwnedFd| {
        in_namespace(file.as_fd(), identity_here).is_ok_and(|here| here.cookie == identity.cookie)
    };
    let open = |pid| daemon::open_namespace(pid, is_built).map(File::from);
    daemon::in_namespace(identity.inode)
        .ok()?
        .into_iter()
        .find_map(open)
}
