//! --detach: starts the command in the background, in a session of its own. A pipe is closed when
//! it is executed, or has failed to be.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, isatty, pipe2, setsid};

use super::Program;
use runns_privileged::Unprivileged;
use runns_shared::error::{Context, Error, Result, status, words};
use runns_shared::output;
use runns_shared::trusted::kind;
use runns_sys::process::{self, STANDARD, Starting};

/// Starts `program` in the background, prints its pid and ends this process.
pub fn start(unprivileged: &Unprivileged, program: &Program) -> Result<Infallible> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).cannot(|| "create a pipe")?;
    match process::fork_to_execute().cannot(|| "fork")? {
        None => {
            drop(read);
            let Err(error) = become_background().and_then(|()| program.execute(unprivileged));
            report(write, &error);
            process::exit_now(status::ENTER_FAILED.into())
        }
        Some(command) => {
            drop(write);
            match outcome(read, &command).and_then(|()| announce(command.pid)) {
                Ok(()) => process::exit_now(0),
                // Nobody knows of it.
                Err(error) => Err(match command.end() {
                    Ok(()) => error,
                    Err(errno) => error.hint(format!(
                        "process {} is still running: {}",
                        command.pid,
                        words(errno)
                    )),
                }),
            }
        }
    }
}

/// Starts a session without input, and without an output whose end somebody may wait for.
pub fn become_background() -> Result<()> {
    setsid().cannot(|| "start a session")?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .cannot(|| "open /dev/null")?;
    dup2_stdin(null.as_fd()).cannot(|| "redirect input")?;
    if is_waited_for(STANDARD[1]) {
        dup2_stdout(null.as_fd()).cannot(|| "redirect output")?;
    }
    if is_waited_for(STANDARD[2]) {
        dup2_stderr(null.as_fd()).cannot(|| "redirect error output")?;
    }
    Ok(())
}

/// Whether somebody may wait for the end of `output`: it is a terminal, or a pipe or socket, as
/// with a command substitution or sshd(8). A file is kept.
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

/// Waits until `command` was executed; its process has the other end of the pipe.
pub fn outcome(pipe: OwnedFd, command: &Starting) -> Result<()> {
    const START: &str = "start the command";
    hear(pipe)?;
    match command.has_executed().cannot(|| START)? {
        true => Ok(()),
        false => Err(Error::new(
            START,
            "its process was killed before it was executed",
        )),
    }
}

/// Waits until the pipe is closed. Anything read from it before is the error.
pub fn hear(pipe: OwnedFd) -> Result<()> {
    let mut bytes = Vec::new();
    File::from(pipe)
        .read_to_end(&mut bytes)
        .cannot(|| "read the outcome of the start")?;
    match bytes.split_first() {
        None => Ok(()),
        Some((status, message)) => {
            Err(Error::from_wire(&String::from_utf8_lossy(message)).with_status(*status))
        }
    }
}

/// Prints the pid of the command.
pub fn announce(pid: Pid) -> Result<()> {
    output::print(&format!("{pid}\n"))
}
