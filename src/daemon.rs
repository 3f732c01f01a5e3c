//! Other processes that build and clean deal with: known by pid and start time, or by the inode of their network
//! namespace; signalled through a pidfd that was opened before they were looked at, so that a pid that is used again
//! is never hit.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::record::Daemon;
use crate::sys::process::{pidfd_open, pidfd_signal};

/// How long processes have to go after SIGKILL; only one that hangs in the kernel needs longer.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// How often it is looked whether new processes have come.
const ROUND: Duration = Duration::from_millis(200);

/// State and start time from the text of /proc/PID/stat (proc_pid_stat(5)): fields 3 and 22. The second field is in
/// parentheses and may contain anything.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&text))
}

/// The process `pid` as it is known later; `None` if it has ended.
pub fn identify(pid: i32, config: &Path) -> Option<Daemon> {
    let (state, start_time) = stat(pid)?;
    (!matches!(state, 'Z' | 'X')).then(|| Daemon { pid, start_time, config: config.to_path_buf() })
}

/// Whether the daemon still runs.
pub fn is_running(daemon: &Daemon) -> bool {
    stat(daemon.pid).is_some_and(|(state, start_time)| start_time == daemon.start_time && !matches!(state, 'Z' | 'X'))
}

fn pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether process `pid` is in the network namespace of this inode.
fn is_in_namespace(pid: i32, inode: u64) -> bool {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/net"));
    link.is_ok_and(|link| link.to_str() == Some(&format!("net:[{inode}]")))
}

/// The processes in the network namespace of this inode, but not this one. Needs root to see everybody's.
pub fn in_namespace(inode: u64) -> Vec<i32> {
    let own = std::process::id() as i32;
    pids().into_iter().filter(|pid| *pid != own && is_in_namespace(*pid, inode)).collect()
}

/// The words of a process's command line; none if it has ended.
pub fn command_line(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split_terminator('\0').map(str::to_string).collect()
}

/// Whether the process is root's own.
pub fn is_roots(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| ids.split_whitespace().all(|id| id == "0"))
}

/// The children of this process.
pub fn children() -> Vec<i32> {
    let own = std::process::id();
    let parent = |pid: i32| {
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    pids().into_iter().filter(|pid| parent(*pid) == Some(own)).collect()
}

/// Ends the daemons that still run; whether there were any.
pub fn stop_all(daemons: &[Daemon], patience: Duration) -> Result<bool> {
    terminate(|| daemons.iter().filter_map(|daemon| open(daemon.pid, |_| is_running(daemon))).collect(), patience)
}

/// Ends every process in the network namespace of this inode, also those that come meanwhile; whether there were any.
pub fn empty_namespace(inode: u64, patience: Duration) -> Result<bool> {
    terminate(
        || in_namespace(inode).into_iter().filter_map(|pid| open(pid, |pid| is_in_namespace(pid, inode))).collect(),
        patience,
    )
}

/// A process to be ended.
struct Target {
    pid: i32,
    pidfd: OwnedFd,
}

/// Opens a pidfd, then looks whether it is (still) the process that is meant.
fn open(pid: i32, is_meant: impl Fn(i32) -> bool) -> Option<Target> {
    let pidfd = pidfd_open(Pid::from_raw(pid)).ok()?;
    is_meant(pid).then_some(Target { pid, pidfd })
}

/// SIGTERM, and when `patience` is over SIGKILL, until `find` finds nobody any more.
fn terminate(find: impl Fn() -> Vec<Target>, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let mut asked = BTreeSet::new();
    loop {
        let targets = find();
        if targets.is_empty() {
            return Ok(!asked.is_empty());
        }
        let now = Instant::now();
        if now > deadline + AFTER_KILL {
            let pids: Vec<String> = targets.iter().map(|target| target.pid.to_string()).collect();
            return Err(Error::new(
                format!("end the processes {}", pids.join(", ")),
                "they are still there after SIGKILL",
            ));
        }
        for target in &targets {
            let signal = if now >= deadline { Signal::SIGKILL } else { Signal::SIGTERM };
            if asked.insert(target.pid) || signal == Signal::SIGKILL {
                match pidfd_signal(&target.pidfd, signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(Error::new(format!("signal process {}", target.pid), errno.desc())),
                }
            }
        }
        let left = if now < deadline { deadline - now } else { ROUND };
        wait_for_one(&targets, left.min(ROUND));
    }
}

/// Waits until one of the processes has ended, at most so long.
fn wait_for_one(targets: &[Target], longest: Duration) {
    let mut fds: Vec<PollFd> =
        targets.iter().map(|target| PollFd::new(target.pidfd.as_fd(), PollFlags::POLLIN)).collect();
    let longest = u16::try_from(longest.as_millis()).unwrap_or(u16::MAX);
    let _ = poll(&mut fds, PollTimeout::from(longest));
    reap();
}

/// Reaps children that have ended, daemons that this process adopted.
fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_hostile_names() {
        let line = "42 (a) S (b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 8 9";
        assert_eq!(parse_stat(line), Some(('S', 777)));
        assert_eq!(parse_stat("42 (a"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_is_known() {
        let daemon = identify(std::process::id() as i32, Path::new("")).unwrap();
        assert!(is_running(&daemon));
        assert!(!is_running(&Daemon { start_time: daemon.start_time + 1, ..daemon }));
    }
}
