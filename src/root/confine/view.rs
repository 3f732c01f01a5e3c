//! A daemon's view of the file system: a new root with what it needs and nothing else.
//!
//! The root is a tmpfs, read-only in the end. In it are the host's programs and libraries, some
//! files of /etc, /dev/null and other devices, copies of the files that the daemon's configuration
//! names, and what [`View::show`] adds. There is no /home, /root, /var, /srv, /boot, /proc or /sys,
//! no /run but for what is shown, and no private key of anybody else.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use runns_shared::error::{Context, Error, Result, words};
use runns_shared::escape::show;
use runns_shared::trusted::kind;
use runns_sys::mount::{self as api, Attributes};

/// The host's programs and libraries. On most systems all but /usr are symbolic links into it.
const PROGRAMS: [&str; 8] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
];
/// What libraries read: the loader's cache, the settings and certificates of TLS libraries, the
/// time zone, and how names are looked up.
const OF_ETC: [&str; 17] = [
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/protocols",
    "/etc/services",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
    "/etc/crypto-policies",
    "/etc/ld-musl-aarch64.path",
    "/etc/ld-musl-x86_64.path",
    "/etc/pkcs11",
    "/etc/gnutls",
];
const DEVICES: [&str; 3] = ["/dev/null", "/dev/urandom", "/dev/random"];
/// Where the new root is assembled, in a mount namespace of its own: a directory that every system
/// has. What it covers was opened before.
const WORKPLACE: &CStr = c"/usr";
/// Bytes that copies may take.
const SIZE: &CStr = c"64m";

/// A copy of a file, readable by the daemon alone.
pub struct Copy {
    /// Its path, absolute and without `..`.
    pub at: PathBuf,
    /// What is in it.
    pub contents: Vec<u8>,
    /// Whether it is a program.
    pub executable: bool,
    /// Device and inode of the file that it was made of, if everybody may read that.
    pub original: Option<(u64, u64)>,
}

/// Something of the host's that is shown.
struct Shown {
    from: PathBuf,
    at: PathBuf,
    writable: bool,
}

/// A view to be made.
#[derive(Default)]
pub struct View {
    shown: Vec<Shown>,
    copies: Vec<Copy>,
    directories: Vec<PathBuf>,
}

impl View {
    /// Programs, libraries and devices.
    pub fn new() -> Self {
        let mut view = Self::default();
        for path in PROGRAMS.iter().chain(&OF_ETC).chain(&DEVICES) {
            view.show(path, path);
        }
        view
    }

    /// Shows `from` at `at`, read-only, if it is there when the view is made.
    pub fn show(&mut self, from: impl AsRef<Path>, at: impl AsRef<Path>) {
        self.shown.push(Shown {
            from: from.as_ref().into(),
            at: at.as_ref().into(),
            writable: false,
        });
    }

    /// Shows the directory `path` at its own place, such that whoever may write to it can.
    pub fn show_writable(&mut self, path: &Path) {
        self.shown.push(Shown {
            from: path.into(),
            at: path.into(),
            writable: true,
        });
    }

    /// Adds a copy.
    pub fn copy(&mut self, copy: Copy) {
        self.copies.push(copy);
    }

    /// Adds a directory, empty unless there is something in it anyway.
    pub fn directory(&mut self, path: &Path) {
        self.directories.push(path.into());
    }

    /// Makes the view in a new mount namespace and moves the calling process to it. Copies belong
    /// to `user`. The program that it executes there is in the same SELinux domain. Needs to be
    /// root; the process must have one thread.
    pub fn enter(&self, user: u32) -> Result<()> {
        super::keep_selinux_domain()?;
        unshare(CloneFlags::CLONE_NEWNS).cannot(|| "unshare the mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .cannot(|| "make the mount namespace private")?;
        // Opened before the new root covers any of it.
        let mut trees = Vec::new();
        for shown in &self.shown {
            trees.extend(source(shown)?.map(|source| (shown, source)));
        }
        let root = new_root()?;
        for (shown, source) in &trees {
            place(&root, shown, source).map_err(|error| {
                Error::new(format!("show {}", show(&shown.from)), error.cause())
            })?;
        }
        for (number, copy) in self.copies.iter().enumerate() {
            put(&root, number, copy, &copy.at, user)
                .map_err(|error| error.within(format!("copy {}", show(&copy.at))))?;
        }
        for directory in &self.directories {
            make_directory(&root, directory)
                .map_err(|error| error.within(format!("create {}", show(directory))))?;
        }
        nix::unistd::pivot_root(".", ".").cannot(|| "change the root")?;
        umount2(".", MntFlags::MNT_DETACH).cannot(|| "leave the old root")?;
        nix::unistd::chdir("/").cannot(|| "enter the new root")?;
        api::restrict(root.as_fd(), Attributes::RDONLY, false)
            .cannot(|| "make the new root read-only")
    }
}

/// What stands at a path of the host's.
enum Source {
    /// A copy of its mount; whether it is a directory.
    Tree(OwnedFd, bool),
    /// A symbolic link, which the view gets as well.
    Link(PathBuf),
}

/// Opens what is to be shown; `None` if it is not there.
fn source(shown: &Shown) -> Result<Option<Source>> {
    let cannot = || format!("open {}", show(&shown.from));
    // /lib64 and the like are the same links in the view. A link in /etc may lead to what is not in
    // the view.
    if shown.from.parent() == Some(Path::new("/")) {
        if let Ok(target) = std::fs::read_link(&shown.from) {
            return Ok(Some(Source::Link(target)));
        }
    }
    let place = match open(&shown.from, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        place => place.cannot(cannot)?,
    };
    let kind = kind(&fstat(&place).cannot(cannot)?);
    let tree = api::clone_tree(place.as_fd(), true).cannot(cannot)?;
    let device = matches!(kind, SFlag::S_IFCHR);
    let allowed = if device {
        Attributes::NOSUID_NOEXEC
    } else {
        Attributes::NOSUID_NODEV
    };
    let allowed = if shown.writable {
        allowed.with(Attributes::NOSUID_NOEXEC)
    } else {
        allowed.with(Attributes::RDONLY)
    };
    api::restrict(tree.as_fd(), allowed, true).cannot(cannot)?;
    Ok(Some(Source::Tree(tree, kind == SFlag::S_IFDIR)))
}

/// Mounts the new root and makes it the working directory.
fn new_root() -> Result<OwnedFd> {
    let options = [(c"mode", c"0755"), (c"size", SIZE)];
    let root = api::new_filesystem(
        c"tmpfs",
        c"runns-exec:view",
        &options,
        Attributes::NOSUID_NODEV,
    )
    .cannot(|| "create a new root")?;
    let workplace =
        open(WORKPLACE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).cannot(|| "open /usr")?;
    api::attach(root.as_fd(), workplace.as_fd(), c"").cannot(|| "mount the new root")?;
    nix::unistd::fchdir(&root).cannot(|| "enter the new root")?;
    Ok(root)
}

/// `path` from the working directory. Nothing in it leads upwards: the result is below the new
/// root.
fn below(path: &Path) -> PathBuf {
    let mut below = PathBuf::from(".");
    below.extend(
        normal(path)
            .components()
            .filter(|component| matches!(component, Component::Normal(_))),
    );
    below
}

/// `path` without `.` and `..`, by its text alone.
pub fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            _ => {}
        }
    }
    normal
}

fn place(root: &OwnedFd, shown: &Shown, source: &Source) -> Result<()> {
    let at = below(&shown.at);
    make_parents(&at).cannot(|| "create a directory")?;
    match source {
        Source::Link(target) => std::os::unix::fs::symlink(target, &at).cannot(|| "create a link"),
        Source::Tree(tree, is_directory) => {
            if *is_directory {
                std::fs::create_dir_all(&at).cannot(|| "create a directory")?;
            } else if !at.exists() {
                File::create(&at).cannot(|| "create a file")?;
            }
            let at = CString::new(at.as_os_str().as_bytes()).unwrap_or_default();
            api::attach(tree.as_fd(), root.as_fd(), &at).cannot(|| "mount it")
        }
    }
}

fn make_parents(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)
}

/// What is at `path` in the new root, where symlinks lead to what they will lead to once it is the
/// root; `None` if there is nothing.
fn find(root: &OwnedFd, path: &Path) -> Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    match openat2(root, path, how) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        found => found
            .map(Some)
            .cannot(|| "look for it in the daemon's view"),
    }
}

/// The directory `path` in the new root. It is made if it is not there; where a symlink of /usr or
/// so leads to it, in the place to which that leads.
fn make_directory(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    if let Some(directory) = find(root, path)? {
        return Ok(directory);
    }
    let (above, name) = split(path)?;
    let parent = make_directory(root, above)?;
    if let Ok(target) = readlinkat(&parent, name) {
        return make_directory(root, &above.join(target));
    }
    mkdirat(&parent, name, Mode::from_bits_truncate(0o755)).cannot(|| "create a directory")?;
    find(root, path)?.ok_or_else(|| Error::new("create a directory", words(Errno::ENOENT)))
}

fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    path.parent()
        .zip(path.file_name())
        .ok_or_else(|| Error::new("make it", words(Errno::ENOENT)))
}

/// Puts a copy in its place, `at`. What the view shows there, the file itself, needs no copy;
/// anything else, and a file that only root can read, is covered by it.
fn put(root: &OwnedFd, number: usize, copy: &Copy, at: &Path, user: u32) -> Result<()> {
    let Some(found) = find(root, at)? else {
        let (above, name) = split(at)?;
        let parent = make_directory(root, above)?;
        return match readlinkat(&parent, name) {
            Ok(target) => put(root, number, copy, &above.join(target), user),
            Err(_) => write(&parent, name, copy, user).cannot(|| "write it"),
        };
    };
    let stat = fstat(&found).cannot(|| "look at it in the daemon's view")?;
    if copy.original == Some((stat.st_dev, stat.st_ino)) {
        return Ok(());
    }
    let hidden = OsString::from(format!(".copy{number}"));
    write(root, &hidden, copy, user).cannot(|| "write it")?;
    let file = openat(
        root,
        hidden.as_os_str(),
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .cannot(|| "open it")?;
    let tree = api::clone_tree(file.as_fd(), false).cannot(|| "open it")?;
    api::restrict(tree.as_fd(), Attributes::RDONLY, false).cannot(|| "make it read-only")?;
    api::attach(tree.as_fd(), found.as_fd(), c"").cannot(|| "mount it")
}

/// Writes a copy. It belongs to the daemon, with no rights for others: OpenVPN warns about keys
/// that others can read.
fn write(directory: &OwnedFd, name: &OsStr, copy: &Copy, user: u32) -> std::io::Result<()> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(
        directory,
        name,
        flags,
        Mode::from_bits_truncate(0o600),
    )?);
    file.write_all(&copy.contents)?;
    std::os::unix::fs::fchown(&file, Some(user), Some(user))?;
    file.set_permissions(std::fs::Permissions::from_mode(if copy.executable {
        0o500
    } else {
        0o400
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_placed_outside_the_new_root() {
        assert_eq!(
            below(Path::new("/etc/openvpn/../../../../etc/x")),
            Path::new("./etc/x")
        );
        assert_eq!(below(Path::new("/..")), Path::new("."));
        assert_eq!(
            normal(Path::new("/etc/openvpn/./../keys/a")),
            Path::new("/etc/keys/a")
        );
    }
}
