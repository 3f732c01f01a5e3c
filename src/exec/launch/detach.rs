//! --detach: starts the command in the background, in a session of its own. A pipe that is closed on exec shows whether
//! the command was executed.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, isatty, pipe2, setsid};

use super::Program;
use runns_privileged::Unprivileged;
use runns_shared::error::{Context, Error, Result, status};
use runns_shared::output;
use runns_shared::trusted::kind;
use runns_sys::process::{self, Fork, STANDARD};

/// Starts `program` in the background, prints its pid and ends this process.
pub fn start(unprivileged: &Unprivileged, program: &Program) -> Result<Infallible> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).cannot(|| "make a pipe")?;
    match process::fork().cannot(|| "fork")? {
        Fork::Child => {
            drop(read);
            let Err(error) = become_background().and_then(|()| program.execute(unprivileged));
            report(write, &error);
            process::exit_now(status::ENTER_FAILED.into())
        }
        Fork::Parent(pid) => {
            drop(write);
            outcome(read)?;
            announce(pid)?;
            process::exit_now(0)
        }
    }
}

/// Starts a session without input, and without an output whose end somebody may wait for.
pub fn become_background() -> Result<()> {
    setsid().cannot(|| "start a session")?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).cannot(|| "open /dev/null")?;
    dup2_stdin(null.as_fd()).cannot(|| "redirect input")?;
    if is_waited_for(STANDARD[1]) {
        dup2_stdout(null.as_fd()).cannot(|| "redirect output")?;
    }
    if is_waited_for(STANDARD[2]) {
        dup2_stderr(null.as_fd()).cannot(|| "redirect error output")?;
    }
    Ok(())
}

/// Whether somebody may wait for the end of `output`: it is a terminal, or a pipe or socket, as with a command
/// substitution or sshd(8). A file is kept.
fn is_waited_for(output: BorrowedFd) -> bool {
    isatty(output).unwrap_or(false)
        || fstat(output).is_ok_and(|stat| matches!(kind(&stat), SFlag::S_IFIFO | SFlag::S_IFSOCK))
}

/// Sends `error` through the pipe: its exit status, then its message.
pub fn report(pipe: OwnedFd, error: &Error) {
    let status = error.status().unwrap_or(status::ENTER_FAILED);
    let message = error.to_wire();
    let _ = File::from(pipe).write_all(&[&[status], message.as_bytes()].concat());
}

/// Waits until the pipe is closed. Anything read from it before is the error.
pub fn outcome(pipe: OwnedFd) -> Result<()> {
    let mut bytes = Vec::new();
    File::from(pipe).read_to_end(&mut bytes).cannot(|| "read the outcome of the start")?;
    match bytes.split_first() {
        None => Ok(()),
        Some((status, message)) => Err(Error::from_wire(&String::from_utf8_lossy(message)).with_status(*status)),
    }
}

/// Prints the pid of the command. If that fails the command is killed, because nobody would know of it.
pub fn announce(pid: Pid) -> Result<()> {
    output::print(&format!("{pid}\n")).inspect_err(|_| {
        let _ = kill(pid, Signal::SIGKILL);
    })
}
