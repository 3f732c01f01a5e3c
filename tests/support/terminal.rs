//! A terminal and the user at it: types input and waits for output.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::{Gid, Uid, fchown};

use super::command::Runner;
use super::{PATIENCE, wait_until};

/// A pseudo-terminal of 100 columns and 30 rows, and the leader of its session.
pub struct Terminal {
    master: File,
    /// Kept open to read its modes.
    slave: File,
    leader: Child,
    shown: Vec<u8>,
    /// The modes before the leader was started.
    pub modes: Termios,
}

impl Terminal {
    /// Starts `words` on a new terminal owned by the user.
    pub fn start(runner: &Runner, words: &[&str]) -> Self {
        // Close-on-exec from the start, so that programs that other tests start do not hold it
        // open.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("posix_openpt");
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .expect("unlock the terminal");
        let path = ptsname_r(&master).expect("ptsname");
        let slave =
            File::from(open(path.as_str(), flags, Mode::empty()).expect("open the terminal"));
        let master = File::from(OwnedFd::from(master));
        resize(&slave, 30, 100);
        let id = runner
            .command(&["id", "-u"])
            .output()
            .expect("start id")
            .stdout;
        let id: u32 = String::from_utf8_lossy(&id).trim().parse().expect("a uid");
        fchown(&slave, Some(Uid::from_raw(id)), Some(Gid::from_raw(5)))
            .expect("chown the terminal");
        let modes = tcgetattr(&slave).expect("tcgetattr");
        let share = || Stdio::from(slave.try_clone().expect("duplicate a descriptor"));
        let leader = runner
            .command(&[&["setsid", "--ctty"], words].concat())
            .stdin(share())
            .stdout(share())
            .stderr(share())
            .spawn()
            .expect("start nsenter");
        Self {
            master,
            slave,
            leader,
            shown: Vec::new(),
            modes,
        }
    }

    /// An interactive shell with job control, whose prompt is `$ `.
    pub fn shell(runner: &Runner) -> Self {
        let runner = runner.env("PS1", "$ ").env("TERM", "dumb");
        let mut terminal = Self::start(&runner, &["bash", "--norc", "--noediting", "-i"]);
        terminal.expect("$ ");
        terminal
    }

    /// Types `bytes`.
    #[track_caller]
    pub fn enter(&mut self, bytes: impl AsRef<[u8]>) {
        self.master.write_all(bytes.as_ref()).expect("type");
    }

    /// Waits until `text` is shown; returns the output up to its end.
    #[track_caller]
    pub fn expect(&mut self, text: impl AsRef<[u8]>) -> Vec<u8> {
        let text = text.as_ref();
        let start = Instant::now();
        loop {
            if let Some(at) = self
                .shown
                .windows(text.len())
                .position(|window| window == text)
            {
                return self.shown.drain(..at + text.len()).collect();
            }
            let (wanted, shown) = (
                String::from_utf8_lossy(text),
                String::from_utf8_lossy(&self.shown),
            );
            assert!(
                start.elapsed() < PATIENCE,
                "not shown: {wanted:?}, but {shown:?}"
            );
            self.look(100);
        }
    }

    /// Reads output, waiting for it at most `patience` milliseconds.
    fn look(&mut self, patience: u16) {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, patience).is_ok_and(|ready| ready > 0) {
            let mut bytes = [0; 4096];
            let length = self.master.read(&mut bytes).unwrap_or(0);
            self.shown.extend_from_slice(&bytes[..length]);
        }
    }

    /// Whether input reaches the program unprocessed.
    pub fn is_raw(&self) -> bool {
        let raw = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        !tcgetattr(&self.slave)
            .expect("tcgetattr")
            .local_flags
            .intersects(raw)
    }

    /// Waits until the terminal is in raw mode.
    #[track_caller]
    pub fn wait_raw(&self) {
        wait_until("raw mode", || self.is_raw().then_some(()));
    }

    /// Waits until the terminal's modes are `modes`, those from before.
    #[track_caller]
    pub fn wait_modes(&self, modes: &Termios) {
        wait_until("the modes from before", || {
            (tcgetattr(&self.slave).ok()? == *modes).then_some(())
        });
    }

    /// Its current modes.
    pub fn modes_now(&self) -> Termios {
        tcgetattr(&self.slave).expect("tcgetattr")
    }

    /// Changes its size.
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.slave, rows, columns);
    }

    /// Waits for the leader's end; returns its exit status, or 128 + signal.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let status = wait_until("the end", || {
            self.look(10);
            self.leader.try_wait().expect("wait")
        });
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    /// Hangs up the terminal; the leader can still be waited for.
    pub fn close(self) -> Child {
        self.leader
    }
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    let input = terminal.try_clone().expect("duplicate a descriptor");
    let words = ["rows", &rows.to_string(), "cols", &columns.to_string()].map(str::to_string);
    assert!(
        Command::new("stty")
            .args(words)
            .stdin(input)
            .status()
            .expect("start stty")
            .success()
    );
}
