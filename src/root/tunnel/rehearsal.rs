//! Has OpenVPN itself read files, for import and for a build that changes nothing: confined like the
//! daemon, in a network namespace of its own that leads nowhere, up to where it would begin to
//! connect.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};

use super::launch::{end_child, last_line, mount_tmpfs};
use super::openvpn::start::script_security;
use super::profile::{PROGRAM, Profile};
use crate::confine::{
    self, Identity, READER,
    view::{Copy, View},
};
use crate::kernel::daemon::Detached;
use crate::kernel::tool;
use runns_shared::error::{Context, Error, Result, words as words_of};
use runns_sys::net;
use runns_sys::process::{self, Fork};

/// How long it may take to read its options.
const PATIENCE: Duration = Duration::from_secs(15);
/// The port of its management interface, on which it waits once it has read them; in hexadecimal as
/// well, as in /proc/PID/net/tcp, where state 0A is LISTEN (proc(5)).
const PORT: (&str, &str) = ("7505", ":1D51 00000000:0000 0A");

/// How many files that OpenVPN refuses are named.
const NAMED: usize = 5;

/// What OpenVPN is to read.
pub struct Reading {
    /// What it is read for, for messages: a verb and the file.
    pub action: String,
    /// The file's name for OpenVPN, which begins in the file's directory.
    pub name: PathBuf,
    /// What is in it.
    pub profile: Profile,
    /// The file itself, and those that it names.
    pub copies: Vec<Copy>,
    /// Whether user name and password are known, and so are left out of the copies.
    pub answered: bool,
    /// The file that can be edited if OpenVPN refuses it, and the command that edits it.
    pub edit: Option<(PathBuf, &'static str)>,
}

/// An error that names what OpenVPN refuses of these. Several of them are read at the same time:
/// each takes some hundredths of a second, and an archive may contain hundreds.
pub fn read_by_openvpn(readings: impl Iterator<Item = Result<Reading>>) -> Result<()> {
    let mut readings = readings.peekable();
    if readings.peek().is_some() {
        tool::need(PROGRAM, "openvpn")?;
        confine::check_user(READER)?;
    }
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let mut errors = Vec::new();
    while readings.peek().is_some() {
        let some = readings.by_ref().take(at_once);
        let started: Vec<_> = some.map(|one| Reader::start(one?)).collect();
        let ended = started.into_iter().map(|reader| reader?.end());
        errors.extend(ended.filter_map(Result::err));
        if process::was_interrupted() {
            return Err(Error::new(
                "have OpenVPN read the file",
                "interrupted by a signal",
            ));
        }
    }
    errors.truncate(NAMED);
    Error::all(errors).map_or(Ok(()), Err)
}

/// An OpenVPN that reads a file.
struct Reader {
    reading: Reading,
    pid: Pid,
    said: OwnedFd,
}

impl Reader {
    fn start(reading: Reading) -> Result<Self> {
        let parent = getpid();
        let cannot = || reading.action.clone();
        let said = memfd_create(c"openvpn", MFdFlags::MFD_CLOEXEC).cannot(cannot)?;
        let words = words(&reading)?;
        match process::fork().cannot(cannot)? {
            Fork::Child => end_child(become_reader(reading, &words, parent, &said)),
            Fork::Parent(pid) => Ok(Self { reading, pid, said }),
        }
    }

    /// An error if it refuses the file.
    fn end(self) -> Result<()> {
        // Of one that refuses it, nothing is left, and its pid may be somebody else's.
        if !wait(self.pid) {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
            return Ok(());
        }
        let cause =
            last_line(self.said).unwrap_or_else(|| "OpenVPN does not start with it".to_string());
        let Reading { profile, edit, .. } = &self.reading;
        let advice = edit
            .as_ref()
            .and_then(|(file, sed)| profile.advice_for(&cause, file, sed));
        let error = Error::new(self.reading.action, cause);
        Err(match advice {
            Some(advice) => error.hint(advice),
            None => error,
        })
    }
}

/// Whether it ends before it listens. One that takes too long is given the benefit of the doubt.
fn wait(pid: Pid) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let sockets = format!("/proc/{pid}/net/tcp");
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let host = namespace("self");
    while Instant::now() < deadline && !process::was_interrupted() {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            _ => return true,
        }
        // Until it is in a namespace of its own, the sockets are those of the host.
        let apart = namespace(&pid.to_string()).is_some_and(|own| Some(own) != host);
        let listens = || std::fs::read_to_string(&sockets).is_ok_and(|all| all.contains(PORT.1));
        if apart && listens() {
            return false;
        }
        // Nothing announces the socket.
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

fn words(reading: &Reading) -> Result<Vec<CString>> {
    let program = tool::need(PROGRAM, "openvpn")?;
    let profile = &reading.profile;
    let mut words = vec![
        program.as_os_str().as_bytes(),
        b"--config",
        reading.name.as_os_str().as_bytes(),
        b"--cd",
        profile.directory().as_os_str().as_bytes(),
        b"--management",
        b"127.0.0.1",
        PORT.0.as_bytes(),
        b"--management-hold",
        b"--management-query-passwords",
        b"--tmp-dir",
        b"/tmp",
        b"--ifconfig-noexec",
        b"--route-noexec",
    ];
    words.extend(script_security(profile));
    if reading.answered {
        words.push(b"--auth-user-pass");
    }
    let words = words.into_iter();
    Ok(words
        .map(|word| CString::new(word).unwrap_or_default())
        .collect())
}

/// In the child: becomes OpenVPN, confined. Its output goes to `said`.
fn become_reader(
    reading: Reading,
    words: &[CString],
    parent: Pid,
    said: &OwnedFd,
) -> Result<Infallible> {
    let output = Some(said.as_fd());
    Detached::begin()?.redirect(None, output, output)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).cannot(|| "unshare namespaces")?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
        .cannot(|| "make the mount namespace a slave")?;
    let socket = UnixDatagram::unbound().cannot(|| "create a socket")?;
    net::bring_up(&socket, "lo").cannot(|| "bring the loopback interface up")?;
    mount_tmpfs(
        Path::new("/tmp"),
        &format!("mode=0700,uid={READER},gid={READER},size=1m,nr_inodes=64"),
    )?;
    let mut view = View::new();
    view.show_writable(Path::new("/tmp"));
    let (file, directory) = (reading.profile.file(), reading.profile.directory());
    reading.copies.into_iter().for_each(|copy| view.copy(copy));
    if directory.is_dir() {
        view.directory(directory);
    }
    view.enter(READER)?;
    // Where a relative `cd` in the file begins.
    confine::enter_directory(file.parent().unwrap_or(Path::new("/")))?;
    confine::give_up_root(&Identity {
        user: READER,
        capability: None,
        // It ends before it locks any.
        lock_memory: false,
    })?;
    // A change of the user would take it back (PR_SET_PDEATHSIG, prctl(2)).
    set_pdeathsig(Signal::SIGKILL).cannot(|| "end with the parent")?;
    if getppid() != parent {
        return Err(Error::new("use the file", "interrupted"));
    }
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    let environment = CString::new(format!("PATH={}", tool::PATH)).unwrap_or_default();
    let errno = process::execute(words[0], &words, &[&environment]);
    Err(Error::new("execute OpenVPN", words_of(errno)))
}
