//! Processes as /proc shows them (proc(5)). The parsers are pure functions; what they cannot read
//! is `None`, which callers take for a process that has ended.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::read;

use crate::error::{Context, Result};

/// The longest file of a process that this program reads whole. What it looks for stands in the
/// first lines.
const LONGEST: usize = 4096;
/// The directory of a process's threads.
const TASKS: &str = "task";
const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// What this program needs of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The second field: the program's name, at most 15 bytes, whatever the process made of it.
    pub comm: Vec<u8>,
    /// Field 3: R, S, D and so on; Z and X have ended.
    pub state: u8,
    /// The parent's pid.
    pub ppid: i32,
    /// Field 9: what the kernel has noted of the thread (PF_* in linux/sched.h).
    pub flags: u32,
    /// Field 20: the number of threads, a main thread that has ended included.
    pub threads: u32,
    /// Field 22: when the process started, in clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Whether the thread is ending, and executes nothing any more.
    fn is_exiting(&self) -> bool {
        /// PF_EXITING and, earlier, PF_POSTCOREDUMP (Linux 5.16 and later).
        const EXITING: u32 = 0x4 | 0x8;
        self.flags & EXITING != 0
    }
}

/// Parses /proc/PID/stat. The name stands in parentheses, and may contain blanks and parentheses
/// itself.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    let start = text.iter().position(|byte| *byte == b'(')?;
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let comm = text.get(start + 1..end)?.to_vec();
    // From the third field on.
    let mut fields = std::str::from_utf8(&text[end + 1..])
        .ok()?
        .split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let ppid = fields.next()?.parse().ok()?;
    let flags = fields.nth(4)?.parse().ok()?;
    let threads = fields.nth(10)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        comm,
        state,
        ppid,
        flags,
        threads,
        start_time,
    })
}

/// The first word of a line of /proc/PID/status (proc_pid_status(5)) that begins with `field`.
fn word_of<'a>(status: &'a [u8], field: &str) -> Option<&'a str> {
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(field.as_bytes()))?;
    std::str::from_utf8(line)
        .ok()?
        .split_ascii_whitespace()
        .next()
}

/// The real uid, from the text of /proc/PID/status: the first number of the line `Uid:`.
pub fn parse_real_uid(status: &[u8]) -> Option<u32> {
    word_of(status, "Uid:")?.parse().ok()
}

/// Whether SIGKILL is pending for the process as a whole, from the text of /proc/PID/status.
pub fn parse_killed(status: &[u8]) -> Option<bool> {
    let pending = u64::from_str_radix(word_of(status, "ShdPnd:")?, 16).ok()?;
    Some(pending & 1 << (9 - 1) != 0)
}

/// The file at `path`, which must not be longer than `longest` bytes: somebody else decides what is
/// in it.
pub fn read_file(path: impl AsRef<Path>, longest: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(longest + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        Err(Errno::EFBIG.into())
    } else {
        Ok(bytes)
    }
}

/// The words of /proc/PID/cmdline (proc_pid_cmdline(5)): each ends with a NUL, but for what a
/// process wrote over them itself. None for a kernel thread.
pub fn parse_command_line(bytes: &[u8]) -> Vec<Vec<u8>> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// The inode of a namespace, from what /proc/PID/ns/net links to: `net:[4026531840]`
/// (namespaces(7)).
pub fn parse_namespace_link(link: &[u8]) -> Option<u64> {
    std::str::from_utf8(link.strip_prefix(b"net:[")?.strip_suffix(b"]")?)
        .ok()?
        .parse()
        .ok()
}

/// How the network namespace of a process is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// By the namespace's own inode.
    Inode(u64),
    /// By the inode of /proc/PID/net/dev alone, which every network namespace has one of: another
    /// user's process.
    ProcInode(u64),
}

/// /proc, open.
pub struct Proc(OwnedFd);

impl Stat {
    /// Whether the process has ended, and only its parent has not looked yet. The state is that of
    /// the main thread, after whose end the others go on (pthread_exit(3)).
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

impl Proc {
    /// Opens it.
    pub fn open() -> Result<Self> {
        open("/proc", DIRECTORY, Mode::empty())
            .map(Self)
            .cannot(|| "open /proc")
    }

    /// All processes there are, the lowest pid first: the kernel lists them so (proc_pid_readdir in
    /// fs/proc/base.c).
    pub fn pids(&self) -> Result<Vec<i32>> {
        numbers(self.0.as_fd(), ".").cannot(|| "list /proc")
    }

    /// The network namespace of process `pid`, by one system call for the caller's own processes:
    /// see [`Process::network`].
    pub fn network(&self, pid: i32) -> Option<Network> {
        network(self.0.as_fd(), &format!("{pid}/"))
    }

    /// Whether any thread of process `pid` is in this network namespace: each may be in one of its
    /// own (setns(2)). On a machine with many threads, asking all of them takes ten times as long
    /// as asking for [`Self::network`].
    pub fn has_thread_in(&self, pid: i32, network: Network) -> bool {
        let (at, prefix) = (self.0.as_fd(), format!("{pid}/"));
        let is_it = |of_thread| (of_thread == network).then_some(());
        network_of_thread(at, &prefix)
            .and_then(is_it)
            .or_else(|| find_thread(at, &prefix, is_it))
            .is_some()
    }

    /// Opens the directory of process `pid`. Whatever gets the same pid later is not seen through
    /// it.
    pub fn process(&self, pid: i32) -> Option<Process> {
        openat(&self.0, pid.to_string().as_str(), DIRECTORY, Mode::empty())
            .ok()
            .map(Process)
    }
}

/// One process: its directory in /proc. After the process has ended, all of it is `None`.
pub struct Process(OwnedFd);

impl Process {
    /// The network namespace of its main thread; of another one if that has ended
    /// (pthread_exit(3)).
    pub fn network(&self) -> Option<Network> {
        network(self.0.as_fd(), "")
    }

    /// The names of its threads' directories, below that of the process.
    fn threads(&self) -> impl Iterator<Item = String> {
        let threads = numbers(self.0.as_fd(), TASKS).unwrap_or_default();
        threads
            .into_iter()
            .map(|thread| format!("{TASKS}/{thread}"))
    }

    /// Its name, parent and start.
    pub fn stat(&self) -> Option<Stat> {
        parse_stat(&self.read("stat", LONGEST)?)
    }

    /// Its real uid.
    pub fn real_uid(&self) -> Option<u32> {
        parse_real_uid(&self.read("status", LONGEST)?)
    }

    /// Whether it has been killed, or ends by itself, and only its end is outstanding: it executes
    /// nothing any more. A tracer can delay the end as long as it likes (ptrace(2), BUGS). Of what
    /// ends already, the kernel does not note that it was killed.
    pub fn is_doomed(&self) -> bool {
        let status = self.read("status", LONGEST);
        if status.and_then(|status| parse_killed(&status)) == Some(true) {
            return true;
        }
        let mut threads = self.threads().peekable();
        let is_exiting = |thread: String| {
            let stat = self.read(&format!("{thread}/stat"), LONGEST);
            stat.and_then(|stat| parse_stat(&stat))
                .is_some_and(|stat| stat.is_exiting())
        };
        threads.peek().is_some() && threads.all(is_exiting)
    }

    /// The first `longest` bytes of its command line, for [`parse_command_line`]. With
    /// PR_SET_MM_MAP (prctl(2)), anybody makes it as long as an address space. A main thread that
    /// has ended has none any more.
    pub fn command_line(&self, longest: usize) -> Option<Vec<u8>> {
        let text = self.read("cmdline", longest)?;
        if !text.is_empty() {
            return Some(text);
        }
        let of_thread = |thread| {
            self.read(&format!("{thread}/cmdline"), longest)
                .filter(|text| !text.is_empty())
        };
        self.threads().find_map(of_thread).or(Some(text))
    }

    /// Opens the network namespace of one of its threads, if it is one that `is_meant`.
    pub fn open_network(&self, is_meant: impl Fn(&OwnedFd) -> bool) -> Option<OwnedFd> {
        let open = |thread: String| {
            openat(
                &self.0,
                format!("{thread}/ns/net").as_str(),
                OFlag::O_RDONLY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .ok()
        };
        self.threads().filter_map(open).find(is_meant)
    }

    fn read(&self, name: &str, longest: usize) -> Option<Vec<u8>> {
        let file = openat(
            &self.0,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        // Files in /proc have no size: without asking for it, most of them take two reads.
        let (mut bytes, mut page) = (Vec::new(), [0; 4096]);
        while bytes.len() < longest {
            let room = page.len().min(longest - bytes.len());
            match read(&file, &mut page[..room]).ok()? {
                0 => break,
                length => bytes.extend_from_slice(&page[..length]),
            }
        }
        Some(bytes)
    }
}

/// The numbers among the names in directory `path` below `at`.
fn numbers(at: BorrowedFd, path: &str) -> nix::Result<Vec<i32>> {
    let mut directory = Dir::openat(at, path, DIRECTORY, Mode::empty())?;
    let mut numbers = Vec::new();
    for entry in directory.iter() {
        numbers.extend(
            entry?
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse::<i32>().ok()),
        );
    }
    Ok(numbers)
}

/// The network namespace of the process whose directory is `prefix` below `at`.
fn network(at: BorrowedFd, prefix: &str) -> Option<Network> {
    network_of_thread(at, prefix).or_else(|| find_thread(at, prefix, Some))
}

/// The first thing that `find` makes of the network namespace of a thread, if the process has
/// several.
fn find_thread<T>(
    at: BorrowedFd,
    prefix: &str,
    mut find: impl FnMut(Network) -> Option<T>,
) -> Option<T> {
    let tasks = format!("{prefix}{TASKS}");
    // Each thread counts as a link, beside the two of any directory (proc_task_getattr in
    // fs/proc/base.c).
    if fstatat(at, tasks.as_str(), AtFlags::empty()).ok()?.st_nlink <= 3 {
        return None;
    }
    let tasks = openat(at, tasks.as_str(), DIRECTORY, Mode::empty()).ok()?;
    let threads = numbers(tasks.as_fd(), ".").ok()?;
    threads.into_iter().find_map(|thread| {
        network_of_thread(tasks.as_fd(), &format!("{thread}/")).and_then(&mut find)
    })
}

/// The network namespace of the thread whose directory is `prefix` below `at`, the main thread for
/// that of a process; none after its end.
fn network_of_thread(at: BorrowedFd, prefix: &str) -> Option<Network> {
    let path = |name: &str| {
        Path::new(OsStr::from_bytes(
            &[prefix.as_bytes(), name.as_bytes()].concat(),
        ))
        .to_path_buf()
    };
    match readlinkat(at, &path("ns/net")) {
        Ok(link) => parse_namespace_link(link.as_bytes()).map(Network::Inode),
        // Not ours to trace (ptrace(2), PTRACE_MODE_READ_FSCREDS).
        Err(Errno::EACCES | Errno::EPERM) => {
            let stat = fstatat(at, &path("net/dev"), AtFlags::empty()).ok()?;
            Some(Network::ProcInode(stat.st_ino))
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let line =
            b"42 (a) S 7 (\xff\n b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 8 9\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            (stat.comm.as_slice(), stat.ppid, stat.start_time),
            (&b"a) S 7 (\xff\n b"[..], 1, 777)
        );
        assert_eq!((stat.flags, stat.threads), (4194560, 1));
        assert!(!stat.is_exiting());
        assert!(!stat.has_ended());
        let zombie = |threads| {
            parse_stat(format!("1 (x) Z 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 {threads} 0 9").as_bytes())
        };
        assert!(zombie(1).unwrap().has_ended() && !zombie(2).unwrap().has_ended());
        for broken in [
            &b""[..],
            b"42",
            b"42 (a",
            b"42 )a(",
            b"42 (a)",
            b"42 (a) S x",
            b"42 (a) S 1 2 3",
        ] {
            assert_eq!(parse_stat(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn status_gives_the_real_uid() {
        let status = b"Name:\tUid:\\n5\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\n";
        assert_eq!(parse_real_uid(status), Some(1000));
        assert_eq!(parse_real_uid(b"Uid:\t4294967295\t0"), Some(u32::MAX));
        assert_eq!(parse_real_uid(b"Uid:\n"), None);
        assert_eq!(parse_real_uid(b"Name:\tx\n"), None);
    }

    #[test]
    fn status_gives_pending_signals() {
        let killed = |status: &[u8]| parse_killed(status);
        let pending = b"SigPnd:\t0000000000000100\nShdPnd:\t0000000000004000\n";
        assert_eq!(killed(pending), Some(false));
        assert_eq!(killed(b"ShdPnd:\t0000000000004100\n"), Some(true));
        assert_eq!(killed(b"ShdPnd:\tx\n"), None);
        assert_eq!(killed(b"Name:\tShdPnd:\n"), None);
    }

    #[test]
    fn command_lines() {
        let words = |bytes: &[u8]| parse_command_line(bytes);
        assert_eq!(words(b"sh\0-c\0\0"), [&b"sh"[..], b"-c", b""]);
        assert_eq!(words(b"title: of its own"), [b"title: of its own"]);
        assert!(words(b"").is_empty() && words(b"\0").is_empty());
    }

    #[test]
    fn namespace_links() {
        assert_eq!(
            parse_namespace_link(b"net:[4026531840]"),
            Some(4_026_531_840)
        );
        for bad in [&b"mnt:[1]"[..], b"net:[]", b"net:[1", b"net:[-1]", b""] {
            assert_eq!(parse_namespace_link(bad), None);
        }
    }

    #[test]
    fn this_process_is_seen() {
        let proc = Proc::open().unwrap();
        let own = std::process::id() as i32;
        assert!(proc.pids().unwrap().contains(&own));
        let process = proc.process(own).unwrap();
        assert_eq!(process.network(), proc.network(own));
        assert!(matches!(process.network(), Some(Network::Inode(_))));
        assert_eq!(process.real_uid(), Some(nix::unistd::getuid().as_raw()));
        assert_eq!(
            process.stat().unwrap().ppid,
            nix::unistd::getppid().as_raw()
        );
        assert!(!process.command_line(4096).unwrap().is_empty());
        assert_eq!(process.command_line(2).unwrap().len(), 2);
        assert!(proc.process(i32::MAX).is_none());
    }
}
