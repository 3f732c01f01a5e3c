//! The processes that build and clean deal with. They are identified by pid and start time, or by
//! the inode of their network namespace, and signalled through a pidfd that was opened before they
//! were identified, so that a reused pid is never signalled.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use runns_shared::error::{Context, Error, Result, words};
use runns_shared::proc::{Network, Proc, parse_command_line};
use runns_shared::record::Daemon;
use runns_sys::process::{pidfd_open, pidfd_signal};

/// How long processes may take to end after SIGKILL. Longer takes one that is stuck in the kernel,
/// and one that a tracer holds.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// How much of a command line is of interest, in bytes.
const COMMAND: usize = 1024;
/// How often to look for new processes.
const ROUND: Duration = Duration::from_millis(200);

/// A child that leaves the session of the process that forked it, and what that one reads from and
/// writes to.
pub struct Detached(File);

impl Detached {
    /// Starts a session, without a terminal. Messages still reach the parent's.
    pub fn begin() -> Result<Self> {
        setsid().cannot(|| "start a session")?;
        let null = File::options().read(true).write(true).open("/dev/null");
        null.map(Self).cannot(|| "open /dev/null")
    }

    /// Replaces input, output and error output; what is `None` is /dev/null from here on.
    pub fn redirect(
        self,
        input: Option<BorrowedFd>,
        output: Option<BorrowedFd>,
        errors: Option<BorrowedFd>,
    ) -> Result<()> {
        let null = self.0.as_fd();
        dup2_stdin(input.unwrap_or(null)).cannot(|| "redirect input")?;
        dup2_stdout(output.unwrap_or(null)).cannot(|| "redirect output")?;
        dup2_stderr(errors.unwrap_or(null)).cannot(|| "redirect error output")
    }
}

/// The pids of all processes.
pub fn all() -> Vec<i32> {
    Proc::open()
        .and_then(|proc| proc.pids())
        .unwrap_or_default()
}

/// The processes with a thread in the network namespace with this inode, without the calling one.
/// Only root sees everybody's.
pub fn in_namespace(inode: u64) -> Result<Vec<i32>> {
    let proc = Proc::open()?;
    let own = std::process::id() as i32;
    let is_inside = |pid: &i32| *pid != own && proc.has_thread_in(*pid, Network::Inode(inode));
    Ok(proc.pids()?.into_iter().filter(is_inside).collect())
}

/// Opens the network namespace of a thread of process `pid`, if it is one that `is_meant`.
pub fn open_namespace(pid: i32, is_meant: impl Fn(&OwnedFd) -> bool) -> Option<OwnedFd> {
    Proc::open().ok()?.process(pid)?.open_network(is_meant)
}

/// Ends the processes that `find` returns, and searches again until there are none: a daemon that
/// is just going into the background is two processes for a moment. One that forks all the time is
/// left to [`crate::confine::end_user`].
pub fn stop_found(find: impl Fn() -> Vec<Daemon>, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience + AFTER_KILL;
    let mut stopped = false;
    loop {
        let daemons = find();
        if daemons.is_empty() || Instant::now() > deadline {
            return Ok(stopped);
        }
        match stop_all(&daemons, patience)? {
            true => stopped = true,
            // Those that it found have ended, and nobody has waited for them yet.
            false => std::thread::sleep(ROUND),
        }
    }
}

/// Waits for the end of a child, which is killed if it takes longer than `patience`. It is still
/// alive after that if it gets no processor, or a tracer holds it.
pub fn wait_or_kill(child: Pid, patience: Duration) -> nix::Result<WaitStatus> {
    wait_for_end(child, patience);
    // Of a child that has exited, the status stays.
    let _ = kill(child, Signal::SIGKILL);
    wait_for_end(child, AFTER_KILL);
    waitpid(child, Some(WaitPidFlag::WNOHANG))
}

/// Waits until a child has ended, for at most `patience`.
fn wait_for_end(child: Pid, patience: Duration) {
    let deadline = Instant::now() + patience;
    let pidfd = pidfd_open(child);
    while let Ok(pidfd) = &pidfd {
        let left = deadline.saturating_duration_since(Instant::now());
        let longest = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, longest) != Err(Errno::EINTR) {
            break;
        }
    }
}

/// The beginning of a process's command line, split into arguments; empty if it has ended.
pub fn command_line(pid: i32) -> Vec<String> {
    let text = Proc::open()
        .ok()
        .and_then(|proc| proc.process(pid)?.command_line(COMMAND))
        .unwrap_or_default();
    parse_command_line(&text)
        .iter()
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// The process's real user id; `None` if it has ended.
pub fn user_of(pid: i32) -> Option<u32> {
    Proc::open().ok()?.process(pid)?.real_uid()
}

/// The children of the calling process.
pub fn children() -> Vec<i32> {
    let own = std::process::id() as i32;
    all()
        .into_iter()
        .filter(|pid| is_child(*pid, own))
        .collect()
}

fn is_child(pid: i32, parent: i32) -> bool {
    let stat = Proc::open().ok().and_then(|proc| proc.process(pid)?.stat());
    stat.is_some_and(|stat| stat.ppid == parent && !stat.has_ended())
}

/// The parent of a process; `None` if it has ended.
pub fn parent_of(pid: i32) -> Option<i32> {
    Some(Proc::open().ok()?.process(pid)?.stat()?.ppid)
}

/// Ends those of the daemons that are still running; returns whether there were any.
pub fn stop_all(daemons: &[Daemon], patience: Duration) -> Result<bool> {
    let find = || {
        daemons
            .iter()
            .filter_map(|daemon| open(daemon.pid, || daemon.is_running()))
            .collect()
    };
    terminate(|| Ok(find()), patience)
}

/// Ends every process in the network namespace with this inode except those that are spared,
/// including those that enter meanwhile; returns whether there were any.
pub fn empty_namespace(
    inode: u64,
    patience: Duration,
    is_spared: impl Fn(i32) -> bool,
) -> Result<bool> {
    let find = || {
        let proc = Proc::open()?;
        let is_meant = |pid| proc.has_thread_in(pid, Network::Inode(inode)) && !is_spared(pid);
        Ok(in_namespace(inode)?
            .into_iter()
            .filter_map(|pid| open(pid, || is_meant(pid)))
            .collect())
    };
    terminate(find, patience)
}

/// A process to end.
struct Target {
    pid: i32,
    pidfd: OwnedFd,
}

/// Opens a pidfd, then checks that the pid is (still) that of the process that is meant.
fn open(pid: i32, is_meant: impl Fn() -> bool) -> Option<Target> {
    let pidfd = pidfd_open(Pid::from_raw(pid)).ok()?;
    is_meant().then_some(Target { pid, pidfd })
}

/// Sends SIGTERM, and SIGKILL once `patience` has elapsed, until `find` returns no process, or only
/// such as have been killed, or end by themselves, and are held by a tracer.
fn terminate(find: impl Fn() -> Result<Vec<Target>>, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let mut asked = BTreeSet::new();
    loop {
        let now = Instant::now();
        let mut targets = find()?;
        if now > deadline + AFTER_KILL {
            targets.retain(|target| !is_doomed(target.pid));
        }
        if targets.is_empty() {
            return Ok(!asked.is_empty());
        }
        if now > deadline + AFTER_KILL {
            let pids: Vec<String> = targets
                .iter()
                .map(|target| target.pid.to_string())
                .collect();
            return Err(Error::new(
                format!("end the processes {}", pids.join(", ")),
                "they are still running after SIGKILL",
            ));
        }
        for target in &targets {
            let signal = if now >= deadline {
                Signal::SIGKILL
            } else {
                Signal::SIGTERM
            };
            if asked.insert(target.pid) || signal == Signal::SIGKILL {
                match pidfd_signal(&target.pidfd, signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => {
                        return Err(Error::new(
                            format!("signal process {}", target.pid),
                            words(errno),
                        ));
                    }
                }
            }
        }
        let left = if now < deadline {
            deadline - now
        } else {
            ROUND
        };
        wait_for_one(&targets, left.min(ROUND));
    }
}

/// Whether a process executes nothing any more.
fn is_doomed(pid: i32) -> bool {
    let is_doomed = |proc: Proc| proc.process(pid).is_none_or(|process| process.is_doomed());
    Proc::open().is_ok_and(is_doomed)
}

/// Waits until one of the processes has ended, for at most `longest`.
fn wait_for_one(targets: &[Target], longest: Duration) {
    let mut fds: Vec<PollFd> = targets
        .iter()
        .map(|target| PollFd::new(target.pidfd.as_fd(), PollFlags::POLLIN))
        .collect();
    let longest = u16::try_from(longest.as_millis()).unwrap_or(u16::MAX);
    let _ = poll(&mut fds, PollTimeout::from(longest));
    reap();
}

/// Reaps children that have ended: daemons of which this process has become the parent.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}
