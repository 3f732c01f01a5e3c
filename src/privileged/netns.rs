//! Opens a network namespace by name, and enters what was opened.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, lstat, stat};

use crate::Privilege;
use runns_shared::error::{Context, Error, Result, words};
use runns_shared::inside::{FILES, Inside};
use runns_shared::name::NetnsName;
use runns_shared::output::step;
use runns_shared::proc::read_file;
use runns_shared::record::Identity;
use runns_shared::trusted;
use runns_sys::{net, process};

/// The directory of named network namespaces (ip-netns(8)).
pub const DIRECTORY: &str = "/run/netns";

/// The longest text that a namespace shows of itself, in bytes: 100,000 routes are longer than a server sends.
const MAX_INSIDE: u64 = 16 << 20;

/// An open file of /run/netns that is a network namespace.
pub struct Netns {
    name: NetnsName,
    directory: OwnedFd,
    file: OwnedFd,
    stat: FileStat,
}

/// Proof that the calling process is in the network namespace. Only [`enter`] returns one.
pub struct Entered {
    _private: (),
}

/// Opens /run/netns/`name` without following a symbolic link and without blocking. It must be a network namespace.
pub fn open(name: &NetnsName) -> Result<Netns> {
    let cannot = |cause: &str| Error::new(format!("open namespace {name}"), cause);
    let missing = || cannot("there is no such namespace");
    let directory = trusted::directory(Path::new(DIRECTORY))?.ok_or_else(missing)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = openat(&directory, name.as_str(), flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ENOENT => missing(),
        Errno::ELOOP => cannot("it is a symbolic link"),
        errno => cannot(&words(errno)),
    })?;
    if !net::is_network_namespace(&file).map_err(|errno| cannot(&words(errno)))? {
        return Err(cannot("it is not a network namespace"));
    }
    let stat = fstat(&file).map_err(|errno| cannot(&words(errno)))?;
    Ok(Netns { name: name.clone(), directory, file, stat })
}

/// Whether /run/netns/`name` does not exist.
pub fn is_missing(name: &NetnsName) -> bool {
    lstat(&Path::new(DIRECTORY).join(name.as_str())) == Err(Errno::ENOENT)
}

/// The valid names in /run/netns, sorted.
pub fn names() -> Result<Vec<NetnsName>> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.cannot(|| format!("list {DIRECTORY}"))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(NetnsName::new(entry.cannot(|| format!("list {DIRECTORY}"))?.file_name()));
    }
    names.sort_unstable();
    Ok(names)
}

impl Netns {
    /// The inode number of the namespace, which identifies the processes in it.
    pub fn inode(&self) -> u64 {
        self.stat.st_ino
    }

    /// Whether /run/netns/`other` is the same namespace.
    pub fn is_also(&self, other: &NetnsName) -> Result<bool> {
        match fstatat(&self.directory, other.as_str(), AtFlags::empty()) {
            Err(Errno::ENOENT) => Ok(false),
            stat => Ok(stat.cannot(|| format!("inspect namespace {other}"))?.st_ino == self.stat.st_ino),
        }
    }

    /// The open namespace file.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }
}

/// Enters `netns`, checks that it is the one described by `expected`, and brings up its loopback interface. Without
/// `expected` (runns-exec did not build the namespace), it must at least not be the host's own.
pub fn enter(privilege: &Privilege, netns: &Netns, expected: Option<&Identity>) -> Result<(Entered, u64)> {
    let name = &netns.name;
    let cannot = |cause: &str| Error::new(format!("enter namespace {name}"), cause);
    step(|| format!("entering network namespace {name} (inode {})", netns.inode()));
    privilege.raised(Capability::CAP_SYS_ADMIN, || {
        setns(netns.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| cannot(&words(errno)))
    })?;
    let probe = local_socket()?;
    let cookie = net::namespace_cookie(&probe).map_err(|errno| cannot(&words(errno)))?;
    match expected {
        Some(expected) if expected.cookie != cookie => {
            return Err(cannot("it is another namespace than the one that was built under this name")
                .hint(format!("sudo runns-exec clean {name} removes the record of the one that was built")));
        }
        Some(_) => {}
        None => refuse_host_namespace().map_err(|cause| cannot(&cause))?,
    }
    // clean removes the name before it looks for processes. If the name still exists, clean will see this process.
    let now = fstatat(&netns.directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|_| cannot("it has just been removed"))?;
    if (now.st_dev, now.st_ino) != (netns.stat.st_dev, netns.stat.st_ino) {
        return Err(cannot("it has just been replaced"));
    }
    if !net::interface_is_up(&probe, "lo").cannot(|| "inspect the loopback interface")? {
        step(|| "bringing loopback up".to_string());
        privilege.raised(Capability::CAP_NET_ADMIN, || {
            net::bring_up(&probe, "lo").cannot(|| "bring the loopback interface up")
        })?;
    }
    Ok((Entered { _private: () }, cookie))
}

/// Refuses the host's own network namespace under another name, which would provide no isolation. /proc/PID/net/dev has
/// a different inode number in every network namespace, and anyone may stat that of pid 1.
fn refuse_host_namespace() -> Result<(), String> {
    let inode = |path: &str| stat(path).map(|stat| stat.st_ino).map_err(|errno| format!("{path}: {}", words(errno)));
    if inode("/proc/self/net/dev")? == inode("/proc/1/net/dev")? {
        return Err("it is the host's own network namespace".to_string());
    }
    Ok(())
}

/// An unbound local socket: it belongs to the calling thread's namespace, and the interface ioctls work on any socket.
fn local_socket() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .cannot(|| "make a socket in the namespace")
}

/// The numbers that identify the network namespace of the calling thread.
pub fn identity_here() -> Result<Identity> {
    let probe = local_socket()?;
    let inode = |path: &str| stat(path).map(|stat| stat.st_ino).cannot(|| format!("inspect {path}"));
    Ok(Identity {
        cookie: net::namespace_cookie(&probe).cannot(|| "read the namespace's cookie")?,
        inode: inode("/proc/thread-self/ns/net")?,
        proc_inode: inode("/proc/thread-self/net/dev")?,
    })
}

/// Runs `look` inside the namespace called `name`, and returns to the previous one. If it cannot return, the process
/// exits.
fn visit<T>(privilege: &Privilege, name: &NetnsName, look: impl FnOnce() -> Result<T>) -> Result<T> {
    let netns = open(name)?;
    let home = std::fs::File::open("/proc/self/ns/net").cannot(|| "open /proc/self/ns/net")?;
    let go = |place: BorrowedFd| {
        privilege.raised(Capability::CAP_SYS_ADMIN, || {
            setns(place, CloneFlags::CLONE_NEWNET).cannot(|| format!("look into namespace {name}"))
        })
    };
    go(netns.file.as_fd())?;
    let result = look();
    if let Err(error) = go(home.as_fd()) {
        process::die(&format!("runns-exec: cannot come back from namespace {name}: {error}\n"));
    }
    result
}

/// What the namespace called `name` shows of itself inside.
pub fn look_inside(privilege: &Privilege, name: &NetnsName) -> Result<Inside> {
    visit(privilege, name, || {
        let text = |file: &&str| {
            let place = if file.starts_with("net/") { "/proc/thread-self" } else { "/proc" };
            let bytes = read_file(Path::new(place).join(file), MAX_INSIDE).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        };
        let mut inside = Inside {
            name: name.to_string(),
            identity: identity_here()?,
            up: Vec::new(),
            files: FILES.iter().map(text).collect(),
        };
        let probe = local_socket()?;
        let is_up = |device: &String| net::interface_is_up(&probe, device).unwrap_or(false);
        inside.up = inside.devices().into_iter().map(|(device, _)| device).filter(is_up).collect();
        Ok(inside)
    })
}

/// The numbers of the namespaces with these names. One that cannot be entered is left out.
pub fn identify(privilege: &Privilege, names: &[&NetnsName]) -> Vec<Identity> {
    let one =
        |name: &&NetnsName| visit(privilege, name, identity_here).inspect_err(|error| step(|| error.to_string())).ok();
    names.iter().filter_map(one).collect()
}
