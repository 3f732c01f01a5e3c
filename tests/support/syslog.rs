//! A receiver of log lines at /dev/log on a host.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};

use super::PATIENCE;

/// Collects lines as long as this value lives.
pub struct Syslog {
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Syslog {
    /// Binds /dev/log in the mount namespace of process `pid`.
    pub fn start(pid: i32) -> Self {
        let bound = std::thread::spawn(move || {
            let mounts =
                std::fs::File::open(format!("/proc/{pid}/ns/mnt")).expect("open a mount namespace");
            unshare(CloneFlags::CLONE_FS).expect("unshare the working directory");
            setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)
                .expect("enter the host's mount namespace");
            let socket = UnixDatagram::bind("/dev/log").expect("bind /dev/log");
            std::fs::set_permissions("/dev/log", PermissionsExt::from_mode(0o666))
                .expect("open /dev/log to all");
            socket
        });
        let socket = bound.join().expect("bind /dev/log");
        let (end, stop) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("make a pipe");
        let lines = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let seen = Arc::clone(&lines);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let mut events = [
                    PollFd::new(socket.as_fd(), PollFlags::POLLIN),
                    PollFd::new(end.as_fd(), PollFlags::empty()),
                ];
                poll(&mut events, PollTimeout::NONE).expect("poll");
                if events[1].any() == Some(true) {
                    return;
                }
                let length = socket.recv(&mut buffer).expect("receive a log line");
                seen.0
                    .lock()
                    .expect("log")
                    .push(String::from_utf8_lossy(&buffer[..length]).into_owned());
                seen.1.notify_all();
            }
        });
        Self {
            lines,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// All lines of runns-exec so far.
    pub fn ours(&self) -> Vec<String> {
        let lines = self.lines.0.lock().expect("log");
        lines
            .iter()
            .filter(|line| line.contains(">runns-exec["))
            .cloned()
            .collect()
    }

    /// Waits for a line that contains all `parts`.
    #[track_caller]
    pub fn wait_for(&self, parts: &[&str]) -> String {
        let start = Instant::now();
        let mut lines = self.lines.0.lock().expect("log");
        loop {
            if let Some(line) = lines
                .iter()
                .find(|line| parts.iter().all(|part| line.contains(part)))
            {
                return line.clone();
            }
            let left = PATIENCE.checked_sub(start.elapsed());
            let left =
                left.unwrap_or_else(|| panic!("no log line with {parts:?} among {lines:#?}"));
            lines = self.lines.1.wait_timeout(lines, left).expect("log").0;
        }
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
