//! Has OpenVPN itself read files, for import and for a build that changes nothing: confined like the
//! daemon, in a network namespace of its own that leads nowhere, up to where it would begin to
//! connect.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpid, getppid};

use super::attempts::Weight;
use super::event::{Event, parse, quoted, reason_in};
use super::launch::{end_child, last_line, mount_tmpfs};
use super::openvpn::start::script_security;
use super::profile::{PROGRAM, Profile};
use crate::confine::{
    self, Identity, READER,
    view::{Copy, View},
};
use crate::kernel::daemon::{Detached, wait_or_kill};
use crate::kernel::netlink::in_namespace;
use crate::kernel::tool;
use runns_shared::error::{Context, Error, Result, words as words_of};
use runns_shared::escape::escape;
use runns_sys::net;
use runns_sys::process::{self, Fork};

/// How long it may take to read its options, its keys and its certificates.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long to wait without a look at the time, and at signals.
const TURN: Duration = Duration::from_millis(200);
/// The port of its management interface, on which it waits once it has read them.
const PORT: u16 = 7505;
/// The same in /proc/PID/net/tcp, where state 0A is LISTEN (proc(5)).
const LISTENS: &str = ":1D51 00000000:0000 0A";
/// States in which it connects, or tries to again.
const CONNECTS: [&str; 4] = ["RESOLVE", "TCP_CONNECT", "WAIT", "RECONNECTING"];
/// The bytes that are read of what it says there.
const MOST_SAID: u64 = 1 << 20;

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
        let refusal = self.refusal();
        let _ = wait_or_kill(self.pid, Duration::ZERO);
        let Err(reason) = refusal else {
            return Ok(());
        };
        let cause = reason
            .or_else(|| last_line(self.said))
            .unwrap_or_else(|| "OpenVPN does not start with it".to_string());
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

    /// Waits until it has read all. `Err` if it refuses the file, with the reason if its last words
    /// do not tell it. One that takes too long is given the benefit of the doubt.
    fn refusal(&self) -> Result<(), Option<String>> {
        let deadline = Instant::now() + PATIENCE;
        while is_time_left(deadline) {
            if has_ended(self.pid) {
                return Err(None);
            }
            if let Some(management) = connect(self.pid) {
                let profile = &self.reading.profile;
                // Without TLS, it would open the device next, which is not there.
                let has_tls = !profile.which(&["client", "tls-client"]).is_empty();
                return match has_tls {
                    true => follow(&management, deadline),
                    false => Ok(()),
                };
            }
            // Nothing announces the socket.
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

fn is_time_left(deadline: Instant) -> bool {
    Instant::now() < deadline && !process::was_interrupted()
}

/// Whether this child has ended. It is not waited for.
fn has_ended(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
}

/// A connection to its management interface, once it has read its options and listens.
fn connect(pid: Pid) -> Option<TcpStream> {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).ok()?;
    let own = std::fs::metadata("/proc/self/ns/net").ok()?;
    // Until it is in a namespace of its own, the sockets are those of the host.
    if namespace.metadata().ok()?.ino() == own.ino() {
        return None;
    }
    let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    let connect = || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        TcpStream::connect_timeout(&address, TURN).cannot(|| "talk to OpenVPN")
    };
    let listens = sockets.contains(LISTENS);
    listens.then(|| in_namespace(namespace.as_fd(), connect).ok())?
}

/// What OpenVPN says, until the deadline or a signal: it could go on for ever.
struct Said<'a> {
    management: &'a TcpStream,
    deadline: Instant,
}

impl Read for Said<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while is_time_left(self.deadline) {
            match self.management.read(buffer) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                said => return said,
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}

/// Lets it load its keys and certificates, which it does after the hold and before it connects. Any
/// login does, since it reaches no server.
fn follow(management: &TcpStream, deadline: Instant) -> Result<(), Option<String>> {
    // It is logged at this level when all is loaded (do_init_frame_tls in init.c of its sources).
    const LOADED: &str = "Control Channel MTU parms";
    const BEGIN: &str = "log on\nverb 4\nmute 0\nstate on\nhold off\nhold release\n";
    let mut writer = management;
    // If it has ended, so do the lines.
    let _ = management.set_read_timeout(Some(TURN));
    let _ = management.set_write_timeout(Some(TURN));
    let _ = writer.write_all(BEGIN.as_bytes());
    let said = Said {
        management,
        deadline,
    };
    for line in BufReader::new(said.take(MOST_SAID)).split(b'\n') {
        match line {
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(()),
            Err(_) => break,
            Ok(line) => match parse(String::from_utf8_lossy(&line).trim_end()) {
                Event::Need(need) if need.with_user => {
                    let kind = quoted(&need.kind);
                    let login = format!("username {kind} x\npassword {kind} x\n");
                    let _ = writer.write_all(login.as_bytes());
                }
                // The password of a key.
                Event::Need(_) => return Ok(()),
                Event::State(state, _) if CONNECTS.contains(&state.as_str()) => return Ok(()),
                Event::Log(line) if line.starts_with(LOADED) => return Ok(()),
                // It goes to its output only later.
                Event::Fatal(cause) => return Err(Some(escape(cause.as_bytes()))),
                Event::Log(line) => {
                    if let Some((reason, Weight::Fatal)) = reason_in(&line) {
                        return Err(Some(reason));
                    }
                }
                _ => {}
            },
        }
    }
    Err(None)
}

fn words(reading: &Reading) -> Result<Vec<CString>> {
    let program = tool::need(PROGRAM, "openvpn")?;
    let profile = &reading.profile;
    let port = PORT.to_string();
    let mut words = vec![
        program.as_os_str().as_bytes(),
        b"--suppress-timestamps",
        b"--config",
        reading.name.as_os_str().as_bytes(),
        b"--cd",
        profile.directory().as_os_str().as_bytes(),
        b"--management",
        b"127.0.0.1",
        port.as_bytes(),
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
    let lock_memory = reading.profile.value("mlock").is_some();
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
        lock_memory,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_openvpn_that_goes_on_for_ever_is_followed_only_so_long() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let management = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut openvpn, _) = listener.accept().unwrap();
        let talk = std::thread::spawn(move || {
            while openvpn.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let started = Instant::now();
        let followed = follow(&management, started + TURN);
        assert_eq!(followed, Ok(()));
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        drop(management);
        talk.join().unwrap();
    }
}
