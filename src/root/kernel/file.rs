//! Files that are there whole or not at all, whatever happens while they are written: a full disk,
//! a quota, SIGKILL.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::O_NOFOLLOW;
use nix::sys::stat::lstat;

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::{quote_path, show};
use runns_shared::trusted::{self, Trust};

/// Begin and end of the name of a file that is not complete yet. Nothing in /etc/netns/NAME that is
/// so called is shown to programs inside, and no namespace can have such a name.
const UNFINISHED: (&str, &str) = (".", "~");

/// Where the text of `path` is written first.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(UNFINISHED.0);
    name.push(path.file_name().unwrap_or_default());
    name.push(UNFINISHED.1);
    path.with_file_name(name)
}

/// The command that makes `copy`, of a file in somebody else's directory, with that user's rights: it
/// could be a link to what only root can read. `None` if all directories are root's, or if there is
/// more in the names than letters, digits and blanks.
pub fn copy_command(path: &Path, copy: &Path, mode: u32) -> Option<String> {
    let foreign = |directory: &Path| {
        let stat = lstat(directory).ok()?;
        (stat.st_uid != 0).then_some(stat.st_uid)
    };
    let owner = path.ancestors().skip(1).find_map(foreign)?;
    let is_plain = |path: &&Path| {
        let mut bytes = path.as_os_str().as_bytes().iter();
        bytes.all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@ ".contains(byte))
    };
    let [path, copy] = [path, copy].map(|path| Some(path).filter(is_plain).and_then(quote_path));
    let (path, copy) = (path?, copy?);
    Some(format!(
        "sudo -u '#{owner}' cat {path} | sudo install -m {mode} /dev/stdin {copy}"
    ))
}

/// The error for a file of root's that an option of a section names, and that cannot be used.
pub fn of_option(option: &str, path: &Path, mode: u32, error: &Error) -> Error {
    let refused = Error::new(format!("use {option} {}", show(path)), error);
    let mut name = OsString::from("runns-");
    name.push(path.file_name().unwrap_or_default());
    let copy = Path::new("/etc").join(name);
    match (copy_command(path, &copy, mode), error.hint_text()) {
        (Some(command), _) => {
            refused.hint(format!("{command}  # then set {option}={}", show(copy)))
        }
        (None, Some(hint)) => refused.hint(hint),
        (None, None) => refused,
    }
}

/// Writes a file of mode 0644, in place of an earlier one: a reader finds either the old text or
/// the new.
pub fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    let unfinished = unfinished(path);
    let write = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&unfinished);
        let mut file = File::options()
            .create_new(true)
            .write(true)
            .mode(0o644)
            .open(&unfinished)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_ref())?;
        // Some file systems, such as NFS, tell only now that there is no room.
        nix::unistd::close(file)?;
        std::fs::rename(&unfinished, path)
    };
    write()
        .inspect_err(|_| drop(std::fs::remove_file(&unfinished)))
        .cannot(|| format!("write {}", show(path)))
}

/// Replaces the text of a file where it is, for processes that have it mounted: they would not see
/// one that is renamed. Room for the text is reserved first, and it is never shorter than it is to
/// be.
pub fn overwrite(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    let (text, flags) = (text.as_ref(), O_NOFOLLOW);
    let write = || -> std::io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags)
            .open(path)?;
        let length = text.len().try_into().unwrap_or(i64::MAX);
        match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length.max(1)) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        file.write_all(text)?;
        file.set_len(text.len() as u64)
    };
    write().cannot(|| format!("change {}", show(path)))
}

/// Removes what a process that was killed has left of `path`; returns whether there was anything.
pub fn remove_unfinished(path: &Path) -> bool {
    std::fs::remove_file(unfinished(path)).is_ok()
}

/// Removes what processes that were killed have left in `directory`.
pub fn remove_all_unfinished(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)
        .cannot(|| format!("list {}", show(directory)))?
        .flatten()
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(UNFINISHED.0) && name.ends_with(UNFINISHED.1) {
            std::fs::remove_file(entry.path())
                .cannot(|| format!("remove {}", show(entry.path())))?;
        }
    }
    Ok(())
}

/// Creates a directory with this mode, whatever the umask. An existing one, whose mode stays, must
/// be owned by root and writable by nobody else.
pub fn make_directory(path: &Path, mode: u32) -> Result<()> {
    if create_directory(path, mode)? {
        return set_mode(path, mode);
    }
    let (_, stat) = trusted::locate(path, Trust::Strict)?;
    if trusted::kind(&stat) != nix::sys::stat::SFlag::S_IFDIR {
        return Err(Error::new(
            format!("use {}", show(path)),
            "it is not a directory",
        ));
    }
    Ok(())
}

/// Creates a directory inside one that only this program writes to. An existing one gets the mode,
/// too.
pub fn make_own_directory(path: &Path, mode: u32) -> Result<()> {
    create_directory(path, mode)?;
    set_mode(path, mode)
}

/// Whether it was created; not if it existed.
fn create_directory(path: &Path, mode: u32) -> Result<bool> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        created => created
            .map(|()| true)
            .cannot(|| format!("create {}", show(path))),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .cannot(|| format!("set the mode of {}", show(path)))
}
