//! Files that root alone decides: reached only through directories that are root's and that nobody
//! else can write, looked at and opened by descriptor, so that what was checked is what is used.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlink};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, lstat};

use crate::error::{Context, Error, Result, words};
use crate::escape::{quote_path, show};

/// Symlinks followed for one path, as many as the kernel follows (path_resolution(7)).
const MAX_SYMLINKS: usize = 40;
/// Bytes that a file of text may have; all files read here are written by people.
pub const MAX_TEXT: u64 = 1 << 20;

/// How far a path is trusted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Every directory is root's and writable by nobody else.
    Strict,
    /// A sticky directory of root's (/tmp) may stand on the way: nobody else can replace root's
    /// files in it.
    AllowSticky,
}

/// What kind of file `stat` is of.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Why `stat` is not of a file that only root decides, or nothing.
pub fn objection(stat: &FileStat) -> Option<String> {
    if stat.st_uid != 0 {
        return Some(format!("it belongs to uid {}, not to root", stat.st_uid));
    }
    if kind(stat) != SFlag::S_IFLNK && stat.st_mode & 0o022 != 0 {
        return Some(format!(
            "users other than root can write to it (mode {:04o})",
            stat.st_mode & 0o7777
        ));
    }
    None
}

/// Directories that belong to this program, and to `ip netns`.
const OURS: [&str; 5] = [
    "/run/netns",
    "/run/runns",
    "/etc/netns",
    "/etc/runns",
    "/etc/runns.conf.d",
];

/// Checks one file or directory; `path` is for the message. A directory is not ours to change,
/// unless it is one of `OURS`: the hint for /home/nina must not be to give it to root.
pub fn check(stat: &FileStat, path: &Path) -> Result<()> {
    objection(stat).map_or(Ok(()), |why| {
        let error = Error::new(format!("trust {}", show(path)), why);
        let is_ours = OURS.iter().any(|ours| path.starts_with(ours));
        let file = quote_path(path).filter(|_| kind(stat) == SFlag::S_IFREG || is_ours);
        Err(match file {
            None => error,
            Some(file) if stat.st_uid != 0 => error.hint(format!("sudo chown root:root {file}")),
            Some(file) => error.hint(format!("sudo chmod go-w {file}")),
        })
    })
}

/// Where `path` leads, without symlinks, and what is there; `None` if there is no such file. What is
/// on the way was checked, symlinks and the last component included: nobody but root can have it
/// lead elsewhere afterwards.
fn resolve(path: &Path, trust: Trust) -> Result<Option<(PathBuf, FileStat)>> {
    walk(path, &mut |stat, reached| {
        let sticky = trust == Trust::AllowSticky && is_sticky(stat);
        if sticky && stat.st_uid == 0 {
            return Ok(());
        }
        check(stat, reached)
    })
}

/// Whether it is a directory in which nobody can replace others' files.
pub fn is_sticky(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFDIR && stat.st_mode & 0o1000 != 0
}

/// What is called with each directory, symlink and file on a path.
pub type Look<'a> = &'a mut dyn FnMut(&FileStat, &Path) -> Result<()>;

/// Follows `path` and shows what is on the way to `look`, the last component included. Returns where
/// it leads, without symlinks, and what is there; `None` if there is no such file.
pub fn walk(path: &Path, look: Look) -> Result<Option<(PathBuf, FileStat)>> {
    let cannot = |errno: Errno| Error::new(format!("open {}", show(path)), words(errno));
    if !path.is_absolute() {
        return Err(Error::new(
            format!("open {}", show(path)),
            "the path is not absolute",
        ));
    }
    let mut pending = components(path);
    let mut reached = PathBuf::from("/");
    let mut last = lstat(&reached).map_err(cannot)?;
    look(&last, &reached)?;
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            reached.pop();
            last = lstat(&reached).map_err(cannot)?;
            continue;
        }
        reached.push(&name);
        let stat = match lstat(&reached) {
            Err(Errno::ENOENT) => return Ok(None),
            stat => stat.map_err(cannot)?,
        };
        look(&stat, &reached)?;
        if kind(&stat) == SFlag::S_IFLNK {
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(cannot(Errno::ELOOP));
            }
            let target = readlink(&reached).map_err(cannot)?;
            reached.pop();
            if Path::new(&target).is_absolute() {
                reached = PathBuf::from("/");
            }
            pending.extend(components(Path::new(&target)));
            last = lstat(&reached).map_err(cannot)?;
        } else {
            last = stat;
        }
    }
    Ok(Some((reached, last)))
}

/// Opens the file at `path`, and checks what was opened.
fn open_as(path: &Path, trust: Trust, flags: OFlag) -> Result<Option<(OwnedFd, FileStat)>> {
    let Some((real, stat)) = resolve(path, trust)? else {
        return Ok(None);
    };
    let cannot = || format!("open {}", show(path));
    // Some devices act as soon as they are opened: a watchdog starts, a tape rewinds.
    if !flags.contains(OFlag::O_PATH) && kind(&stat) != SFlag::S_IFDIR {
        regular(&stat, path)?;
    }
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = nix::fcntl::open(&real, flags, Mode::empty()).cannot(cannot)?;
    let stat = fstat(&file).cannot(cannot)?;
    check(&stat, &real)?;
    Ok(Some((file, stat)))
}

fn missing(path: &Path) -> Error {
    Error::new(format!("open {}", show(path)), words(Errno::ENOENT))
}

/// Opens `path` for its place only (O_PATH). Every directory on the way, every symlink, and the
/// file are checked.
pub fn locate(path: &Path, trust: Trust) -> Result<(OwnedFd, FileStat)> {
    open_as(path, trust, OFlag::O_PATH)?.ok_or_else(|| missing(path))
}

/// Opens the directory `path`, strictly; `None` if it is not there.
pub fn directory(path: &Path) -> Result<Option<OwnedFd>> {
    let found = open_as(path, Trust::Strict, OFlag::O_RDONLY)?;
    match &found {
        Some((_, stat)) if kind(stat) != SFlag::S_IFDIR => Err(Error::new(
            format!("use {}", show(path)),
            "it is not a directory",
        )),
        _ => Ok(found.map(|(directory, _)| directory)),
    }
}

/// [`locate`], strictly, for the `path` of something in `directory`, which was located and is on
/// `path` itself. All but a symlink is found in `directory` at once.
pub fn locate_in(directory: impl AsFd, path: &Path) -> Result<(OwnedFd, FileStat)> {
    let cannot = || format!("open {}", show(path));
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let place = openat(
        directory,
        path.file_name().unwrap_or_default(),
        flags,
        Mode::empty(),
    )
    .cannot(cannot)?;
    let stat = fstat(&place).cannot(cannot)?;
    if kind(&stat) == SFlag::S_IFLNK {
        return locate(path, Trust::Strict);
    }
    check(&stat, path)?;
    Ok((place, stat))
}

/// The components of `path`, last first.
fn components(path: &Path) -> Vec<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// Opens a regular file for reading, without blocking; `None` if it is not there.
pub fn open_if_there(path: &Path, trust: Trust) -> Result<Option<(File, FileStat)>> {
    let Some((file, stat)) = open_as(path, trust, OFlag::O_RDONLY)? else {
        return Ok(None);
    };
    regular(&stat, path)?;
    Ok(Some((File::from(file), stat)))
}

fn regular(stat: &FileStat, path: &Path) -> Result<()> {
    match kind(stat) {
        SFlag::S_IFREG => Ok(()),
        SFlag::S_IFDIR => Err(Error::new(
            format!("read {}", show(path)),
            "it is a directory",
        )),
        _ => Err(Error::new(
            format!("read {}", show(path)),
            "it is not a regular file",
        )),
    }
}

/// The whole text of a trusted file of at most [`MAX_TEXT`] bytes, without NUL bytes; `None` if it
/// is not there.
pub fn read_if_there(path: &Path, trust: Trust) -> Result<Option<String>> {
    open_if_there(path, trust)?
        .map(|(file, _)| text(file, path))
        .transpose()
}

/// [`read_if_there`], for text in any encoding.
pub fn read_bytes_if_there(path: &Path, trust: Trust) -> Result<Option<Vec<u8>>> {
    open_if_there(path, trust)?
        .map(|(file, _)| bytes(file, path))
        .transpose()
}

/// [`read_bytes_if_there`], where its absence is an error.
pub fn read_bytes(path: &Path, trust: Trust) -> Result<Vec<u8>> {
    read_bytes_if_there(path, trust)?.ok_or_else(|| missing(path))
}

/// [`read_if_there`], strictly, for the `path` of a file in `directory`, which was opened by
/// [`directory`] and is on `path` itself. A symlink is an error, and so is a mount: a sandbox that
/// shows only some of the files attaches each of them.
pub fn read_in(directory: &OwnedFd, path: &Path) -> Result<Option<String>> {
    let cannot = || format!("open {}", show(path));
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    let file = match openat2(directory, path.file_name().unwrap_or_default(), how) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::EXDEV) => {
            let cause = "a file system is mounted on it, which may hide another file";
            return Err(Error::new(cannot(), cause));
        }
        file => file.cannot(cannot)?,
    };
    let stat = fstat(&file).cannot(cannot)?;
    check(&stat, path)?;
    regular(&stat, path)?;
    text(File::from(file), path).map(Some)
}

/// Whether the directory `name` of / is a mount.
pub fn is_mounted_on_root(name: &str) -> Result<bool> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV);
    let path = Path::new("/").join(name);
    match openat2(AT_FDCWD, &path, how) {
        Err(Errno::EXDEV) => Ok(true),
        opened => opened
            .map(|_| false)
            .cannot(|| format!("open {}", show(&path))),
    }
}

/// [`read_if_there`], where its absence is an error.
pub fn read(path: &Path, trust: Trust) -> Result<String> {
    read_if_there(path, trust)?.ok_or_else(|| missing(path))
}

/// The whole text of a file that the caller, root, names itself; it need not be root's, but a
/// regular file of text.
pub fn read_named(path: &Path) -> Result<String> {
    text(open_named(path)?, path)
}

/// Opens a file as [`read_named`] does.
pub fn open_named(path: &Path) -> Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file =
        nix::fcntl::open(path, flags, Mode::empty()).cannot(|| format!("open {}", show(path)))?;
    regular(
        &fstat(&file).cannot(|| format!("read {}", show(path)))?,
        path,
    )?;
    Ok(File::from(file))
}

/// All that is in `file`; an error if that is more than `most` bytes. `path` is for the message.
pub fn contents(file: File, path: &Path, most: u64) -> Result<Vec<u8>> {
    // Room for most of them, so that one read does.
    let mut bytes = Vec::with_capacity(4096);
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .cannot(|| format!("read {}", show(path)))?;
    if bytes.len() as u64 > most {
        return Err(Error::new(
            format!("read {}", show(path)),
            format!("it is larger than {} MiB", most >> 20),
        ));
    }
    Ok(bytes)
}

fn bytes(file: File, path: &Path) -> Result<Vec<u8>> {
    let bytes = contents(file, path, MAX_TEXT)?;
    if bytes.contains(&0) {
        return Err(Error::new(
            format!("read {}", show(path)),
            "it is not a text file: it contains a NUL byte",
        ));
    }
    Ok(bytes)
}

fn text(file: File, path: &Path) -> Result<String> {
    String::from_utf8(bytes(file, path)?)
        .map_err(|_| Error::new(format!("read {}", show(path)), "it is not UTF-8 text"))
}

/// A path as the kernel gave it.
pub fn path_from_bytes(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Whether an entry of /etc/netns/NAME is left out: hidden files and editors' backups, as `ip netns
/// exec` does.
pub fn is_skipped_entry(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".") || name.as_bytes().ends_with(b"~")
}
