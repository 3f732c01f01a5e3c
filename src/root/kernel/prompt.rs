//! Questions on the terminal, and how long something may still take.

use std::io::{BufRead, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::one_line;
use runns_sys::process::was_interrupted;

/// Writes a question, which may be a server's, to stderr, on one line and without a newline.
fn prompt(question: &str) {
    let _ = std::io::stderr().write_all(one_line(question).as_bytes());
}

/// How often to look whether a signal has come.
const ROUND: u16 = 200;

/// Waits until a line was typed; a signal ends that.
fn wait_for_line() -> Result<()> {
    let stdin = std::io::stdin();
    loop {
        if was_interrupted() {
            return Err(Error::new("ask", "interrupted by a signal"));
        }
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, ROUND) {
            Ok(1..) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).cannot(|| "wait for the answer"),
        }
    }
}

/// Asks a question on the terminal and reads the answer from stdin, which must be that terminal.
/// Without `echo`, the answer is not shown while it is typed.
pub fn ask(question: &str, echo: bool) -> Result<String> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).cannot(|| "read the terminal's mode")?;
    if !echo {
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).cannot(|| "set the terminal's mode")?;
    }
    // Only now: what is typed before would be thrown away (TCSAFLUSH).
    prompt(question);
    let mut answer = Vec::new();
    let result = wait_for_line().and_then(|()| {
        let read = stdin.lock().read_until(b'\n', &mut answer);
        match read.cannot(|| "read the answer")? {
            0 => Err(Error::new("read the answer", "end of input")),
            _ => Ok(()),
        }
    });
    if !echo {
        let _ = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
        let _ = std::io::stderr().write_all(b"\n");
    }
    result?;
    let text = String::from_utf8(answer).map_err(|_| {
        Error::new(
            "read the answer",
            "it is not UTF-8 text: set the terminal to UTF-8",
        )
    })?;
    Ok(text.trim_end_matches('\n').to_string())
}

/// A line on the terminal, without a newline, with the time that is left for something. Without a
/// terminal it is not written.
#[derive(Debug)]
pub struct Countdown {
    what: String,
    shown: String,
}

impl Countdown {
    /// Of something that somebody waits for; nothing is written yet.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            shown: String::new(),
        }
    }

    /// Writes the line, over the one that is there, if it differs.
    pub fn show(&mut self, left: Duration) {
        let line = format!("{}: {} s left", self.what, left.as_secs_f64().ceil());
        if line == self.shown || !std::io::stderr().is_terminal() {
            return;
        }
        self.clear();
        let _ = std::io::stderr().write_all(line.as_bytes());
        self.shown = line;
    }

    /// Removes the line, with what every terminal knows.
    pub fn clear(&mut self) {
        let width = std::mem::take(&mut self.shown).len();
        if width > 0 {
            let _ = std::io::stderr().write_all(format!("\r{:width$}\r", "").as_bytes());
        }
    }
}
