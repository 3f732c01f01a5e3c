//! Opens a network namespace by name, and enters what was opened.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
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
const LOOPBACK: &str = "lo";
const OWN_DEVICES: &str = "/proc/self/net/dev";
/// A file that everybody may inspect, unless /proc hides processes of others (proc(5), hidepid).
pub const DEVICES_OF_PID_1: &str = "/proc/1/net/dev";

/// The longest text that a namespace shows of itself, in bytes: 100,000 routes are longer than a
/// server sends.
const MAX_INSIDE: u64 = 16 << 20;

/// An open file of /run/netns that is a network namespace.
pub struct Netns {
    name: NetnsName,
    directory: OwnedFd,
    file: OwnedFd,
    stat: FileStat,
}

/// The mark of every namespace that build creates: the length of the loopback interface's transmit
/// queue. Loopback has no queue, so that it changes nothing, and it takes CAP_NET_ADMIN to change
/// it. It is read without /proc, /sys or /run, which a caller can hide from this program, and so
/// says that there is a record even to somebody who does not see one.
pub const BUILT: i32 = 1725;
/// The mark of the namespace of pid 1, where that is not the kernel's initial one.
pub const OF_PID_1: i32 = 1726;
/// Inode of the initial network namespace since Linux 6.18 (NET_NS_INIT_INO,
/// include/uapi/linux/nsfs.h). Other namespaces have numbers from PROC_DYNAMIC_FIRST, 0xF0000000,
/// on.
const INITIAL_INODE: u64 = 0xEFFF_FFF9;
/// Its cookie before: the first one that was given (gen_cookie_next, include/linux/cookie.h).
const INITIAL_COOKIE: u64 = 1;

/// A namespace that the calling process has just entered, and in which it has not changed anything.
pub struct Arrival<'a> {
    netns: &'a Netns,
    /// The namespace's cookie.
    pub cookie: u64,
    /// [`BUILT`], [`OF_PID_1`], or none of them.
    mark: i32,
}

/// Proof that the calling process is in the network namespace. Only [`enter`] returns one.
pub struct Entered {
    /// A socket of the namespace.
    probe: OwnedFd,
}

/// Opens /run/netns/`name` without following a symbolic link and without blocking. It must be a
/// network namespace.
pub fn open(name: &NetnsName) -> Result<Netns> {
    let cannot = |cause: &str| Error::new(format!("open namespace {name}"), cause);
    let missing = || cannot("there is no such namespace");
    let directory = trusted::directory(Path::new(DIRECTORY))?.ok_or_else(missing)?;
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    let file =
        openat(&directory, name.as_str(), flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOENT => missing(),
            // Where the link leads can change at any time; what is bound cannot.
            Errno::ELOOP => cannot("it is a symbolic link").hint(format!(
                "bind its target instead: sudo sh -c 'cd {DIRECTORY} && ns=$(readlink {name}) && rm {name} && touch {name} && \
                 mount --bind \"$ns\" {name}'"
            )),
            errno => cannot(&words(errno)),
        })?;
    if !net::is_network_namespace(&file).map_err(|errno| cannot(&words(errno)))? {
        return Err(cannot("it is not a network namespace"));
    }
    let stat = fstat(&file).map_err(|errno| cannot(&words(errno)))?;
    Ok(Netns {
        name: name.clone(),
        directory,
        file,
        stat,
    })
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
        names.extend(NetnsName::new(
            entry.cannot(|| format!("list {DIRECTORY}"))?.file_name(),
        ));
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
            stat => Ok(
                stat.cannot(|| format!("inspect namespace {other}"))?.st_ino == self.stat.st_ino
            ),
        }
    }

    /// The open namespace file.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }
}

impl Arrival<'_> {
    fn cannot(&self, cause: &str) -> Error {
        Error::new(format!("enter namespace {}", self.netns.name), cause)
    }

    /// Whether build created it.
    pub fn is_built(&self) -> bool {
        self.mark == BUILT
    }

    /// Fails unless it is the namespace that `built` describes.
    pub fn must_be(&self, built: &Identity) -> Result<()> {
        if self.cookie == built.cookie {
            return Ok(());
        }
        let name = &self.netns.name;
        Err(self
            .cannot("another namespace has this name now")
            .hint(format!(
                "to remove the record of the one that was built: sudo runns-exec clean {name}"
            )))
    }

    /// Fails if it is the host's own namespace under another name, which would provide no
    /// isolation. The kernel's initial namespace is known by its number. Where pid 1 lives in
    /// another one (a container), that bears a mark from the first build on; until then only /proc
    /// tells, in which a sandbox may show a pid 1 of its own.
    pub fn must_not_be_the_hosts(&self) -> Result<()> {
        let is_the_hosts = || {
            is_that_of_pid_1()
                .map_err(|error| error.as_cause_of(format!("enter namespace {}", self.netns.name)))
        };
        if self.mark == OF_PID_1 || is_initial(self.netns.inode(), self.cookie) || is_the_hosts()? {
            return Err(self.cannot("it is the host's own network namespace"));
        }
        Ok(())
    }
}

/// Whether these are the numbers of the kernel's initial network namespace.
pub fn is_initial(inode: u64, cookie: u64) -> bool {
    inode == INITIAL_INODE || cookie == INITIAL_COOKIE
}

/// Whether the calling process is in the network namespace of pid 1. /proc/PID/net/dev has a
/// different inode number in every network namespace, and anyone may stat that of pid 1.
pub fn is_that_of_pid_1() -> Result<bool> {
    let own = stat(OWN_DEVICES).cannot(|| format!("inspect {OWN_DEVICES}"))?;
    let first = stat(DEVICES_OF_PID_1).map_err(|errno| match errno {
        // ESRCH if the caller could not be told so otherwise (fs/proc/base.c).
        Errno::ENOENT | Errno::EACCES | Errno::EPERM | Errno::ESRCH => {
            let hint = "sudo mount -o remount,gid=$(getent group runns | cut -d: -f3) /proc";
            Error::new("inspect pid 1", "/proc hides it (hidepid)").hint(hint)
        }
        errno => Error::new("inspect pid 1", words(errno)),
    })?;
    Ok(own.st_ino == first.st_ino)
}

/// Enters `netns` if `admit`, which is asked inside, does not refuse. Nothing inside is changed.
pub fn enter(
    privilege: &Privilege,
    netns: &Netns,
    admit: impl FnOnce(&Arrival) -> Result<()>,
) -> Result<Entered> {
    step(|| {
        format!(
            "entering network namespace {} (inode {})",
            netns.name,
            netns.inode()
        )
    });
    join(privilege, netns.file.as_fd(), || {
        format!("enter namespace {}", netns.name)
    })?;
    arrive(netns, admit).inspect_err(|_| leave(privilege))
}

/// `action` is what this is for.
fn join(
    privilege: &Privilege,
    namespace: BorrowedFd,
    action: impl FnOnce() -> String,
) -> Result<()> {
    privilege.raised(Capability::CAP_SYS_ADMIN, || {
        setns(namespace, CloneFlags::CLONE_NEWNET).cannot(action)
    })
}

/// Looks at the namespace that was joined, and asks `admit`.
fn arrive(netns: &Netns, admit: impl FnOnce(&Arrival) -> Result<()>) -> Result<Entered> {
    let cannot = |cause: &str| Error::new(format!("enter namespace {}", netns.name), cause);
    let probe = local_socket()?;
    let cookie = cookie(&probe).map_err(|error| cannot(error.cause()))?;
    let mark = net::queue_length(&probe, LOOPBACK).cannot(|| "inspect the loopback interface")?;
    admit(&Arrival {
        netns,
        cookie,
        mark,
    })?;
    // clean removes the name before it looks for processes. If the name still exists, clean will
    // see this process.
    let now = fstatat(
        &netns.directory,
        netns.name.as_str(),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(|_| cannot("it has just been removed"))?;
    if (now.st_dev, now.st_ino) != (netns.stat.st_dev, netns.stat.st_ino) {
        return Err(cannot("it has just been replaced"));
    }
    Ok(Entered { probe })
}

/// Leaves a namespace in which the caller may not be for an empty one. Anybody can read
/// /proc/PID/net of a process, and the caller can keep this one from ending, by a terminal or a
/// pipe that takes no message. If it cannot leave, it ends at once, without one.
fn leave(privilege: &Privilege) {
    let emptied = privilege.raised(Capability::CAP_SYS_ADMIN, || {
        unshare(CloneFlags::CLONE_NEWNET).cannot(|| "leave the namespace")
    });
    if emptied.is_err() {
        process::die("");
    }
}

impl Entered {
    /// Brings up the loopback interface, if it is down: what changes the namespace comes last, when
    /// nothing can be refused any more.
    pub fn bring_up_loopback(&self, privilege: &Privilege) -> Result<()> {
        if net::interface_is_up(&self.probe, LOOPBACK)
            .cannot(|| "inspect the loopback interface")?
        {
            return Ok(());
        }
        step(|| "bringing loopback up".to_string());
        privilege.raised(Capability::CAP_NET_ADMIN, || {
            net::bring_up(&self.probe, LOOPBACK).cannot(|| "bring the loopback interface up")
        })
    }
}

/// An unbound local socket: it belongs to the calling thread's namespace, and the interface ioctls
/// work on any socket.
fn local_socket() -> Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .cannot(|| "create a socket in the namespace")
}

/// Marks the calling thread's network namespace, which only root may do, by [`BUILT`] or
/// [`OF_PID_1`], or gives it back what it had.
pub fn mark_here(mark: i32) -> Result<()> {
    net::set_queue_length(local_socket()?, LOOPBACK, mark)
        .cannot(|| "set the queue length of the loopback interface")
}

/// What the calling thread's network namespace is marked by, or has in place of a mark.
pub fn mark_of_here() -> Result<i32> {
    net::queue_length(local_socket()?, LOOPBACK).cannot(|| "inspect the loopback interface")
}

/// The cookie of the namespace of `socket`.
fn cookie(socket: &OwnedFd) -> Result<u64> {
    let cookie = net::namespace_cookie(socket);
    cookie.map_err(|errno| {
        let cause = if errno == Errno::ENOPROTOOPT {
            format!(
                "this kernel is too old: Linux {} or later is required",
                net::OLDEST_KERNEL
            )
        } else {
            words(errno)
        };
        Error::new("read the namespace's cookie", cause)
    })
}

/// The numbers that identify the network namespace of the calling thread.
pub fn identity_here() -> Result<Identity> {
    let probe = local_socket()?;
    let inode = |path: &str| {
        stat(path)
            .map(|stat| stat.st_ino)
            .cannot(|| format!("inspect {path}"))
    };
    Ok(Identity {
        cookie: cookie(&probe)?,
        inode: inode("/proc/thread-self/ns/net")?,
        proc_inode: inode("/proc/thread-self/net/dev")?,
    })
}

/// Runs `look` inside `netns` if `admit` does not refuse, and returns to the previous namespace. If
/// it cannot return, the process ends.
pub fn visit<T>(
    privilege: &Privilege,
    netns: &Netns,
    admit: impl FnOnce(&Arrival) -> Result<()>,
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let home = std::fs::File::open("/proc/self/ns/net").cannot(|| "open /proc/self/ns/net")?;
    join(privilege, netns.file.as_fd(), || {
        format!("look into namespace {}", netns.name)
    })?;
    let result = arrive(netns, admit).and_then(|_| look());
    if join(privilege, home.as_fd(), || "come back".to_string()).is_err() {
        process::die("");
    }
    result
}

/// What the calling thread's network namespace, which was entered as `name`, shows of itself
/// inside.
pub fn look_here(name: &NetnsName) -> Result<Inside> {
    let text = |file: &&str| {
        let place = if file.starts_with("net/") {
            "/proc/thread-self"
        } else {
            "/proc"
        };
        let bytes = read_file(Path::new(place).join(file), MAX_INSIDE).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let mut inside = Inside {
        name: name.to_string(),
        identity: identity_here()?,
        marked: mark_of_here()? == BUILT,
        up: Vec::new(),
        files: FILES.iter().map(text).collect(),
    };
    let probe = local_socket()?;
    let is_up = |device: &String| net::interface_is_up(&probe, device).unwrap_or(false);
    inside.up = inside
        .devices()
        .into_iter()
        .map(|(device, _)| device)
        .filter(is_up)
        .collect();
    Ok(inside)
}
