//! Questions on the terminal.

use std::io::{BufRead, Write};
use std::os::fd::AsFd;

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
    let mut answer = String::new();
    let result = wait_for_line().and_then(|()| {
        let read = stdin.lock().read_line(&mut answer);
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
    Ok(answer.trim_end_matches('\n').to_string())
}
