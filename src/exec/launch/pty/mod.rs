//! --pty: the command on a pseudo-terminal of its own.
//!
//! | process | file | what it is |
//! |---|---|---|
//! | relay | `relay` | the process that the caller started: carries bytes and signals, stops and ends as the command does |
//! | monitor | `monitor` | leader of the new session, the command's parent; puts the caller's terminal right if the relay is killed |
//! | command | | in a process group of its own, in the foreground of the new terminal |
//!
//! Relay and monitor speak in `messages`. The caller's terminal is `terminal::Outer`, the new one
//! is `terminal::Line`, whose master only the relay has. Nothing here holds a capability, and until
//! the command is executed every process is non-dumpable.

mod carrier;
mod messages;
mod modes;
mod monitor;
mod relay;
mod signals;
mod stream;
mod terminal;

use std::convert::Infallible;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, pipe2};

use super::{Program, detach};
use runns_privileged::Unprivileged;
use runns_shared::error::{Context, Error, Result, status};
use runns_sys::process::{self, Fork};
use signals::Inherited;
use terminal::Line;

/// What the command's process needs to become the command.
struct Start<'a> {
    unprivileged: &'a Unprivileged,
    program: &'a Program,
    inherited: Inherited,
}

/// The ends of the pipes through which the start is followed.
struct Progress {
    /// Tells that the command was executed (it closes) or why not. None where another process
    /// listens.
    outcome: Option<OwnedFd>,
    /// The other end of it, for the command's process.
    failure: OwnedFd,
    /// A connection to who wants to know the command's pid, if anybody does: who has passed it on
    /// answers with a byte.
    client: Option<OwnedFd>,
}

/// Starts `program` on a new pseudo-terminal and ends as it ends; with `detach` in the background,
/// where what it writes is read and thrown away. Returns only if the command could not be started.
pub fn start(unprivileged: &Unprivileged, program: &Program, detach: bool) -> Result<Infallible> {
    let line = Line::open()?;
    let start = Start {
        unprivileged,
        program,
        inherited: Inherited::hold()?,
    };
    let (outcome, failure) = pipe2(OFlag::O_CLOEXEC).cannot(|| "create a pipe")?;
    if detach {
        return in_background(&start, line, outcome, failure);
    }
    relay::run(
        &start,
        line,
        Progress {
            outcome: Some(outcome),
            failure,
            client: None,
        },
    )
}

/// Runs the relay in a session of its own, and waits in this process until the command was
/// executed.
fn in_background(
    start: &Start,
    line: Line,
    outcome: OwnedFd,
    failure: OwnedFd,
) -> Result<Infallible> {
    let (relay, client) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .cannot(|| "create a socket pair")?;
    match process::fork().cannot(|| "fork")? {
        Fork::Child => {
            drop((outcome, relay));
            let Err(error) = background_relay(start, line, failure, client);
            // It was reported where the command's pid would have been.
            process::exit_now(error.status().unwrap_or(status::ENTER_FAILED).into())
        }
        Fork::Parent(pid) => {
            drop((line, failure, client));
            let relay = File::from(relay);
            let told = detach::hear(outcome)
                .and_then(|()| command_pid(&relay))
                .and_then(detach::announce);
            if let Err(error) = told.and_then(|()| confirm(&relay)) {
                // The relay ends the command, then itself.
                drop(relay);
                let _ = waitpid(pid, None);
                return Err(error);
            }
            process::exit_now(0)
        }
    }
}

fn background_relay(
    start: &Start,
    line: Line,
    failure: OwnedFd,
    client: OwnedFd,
) -> Result<Infallible> {
    match detach::become_background().and_then(|()| discard_output()) {
        Ok(()) => relay::run(
            start,
            line,
            Progress {
                outcome: None,
                failure,
                client: Some(client),
            },
        ),
        Err(error) => {
            detach::report(failure, &error);
            Err(error)
        }
    }
}

/// What the relay writes, and so holds open, is nothing of the caller's.
fn discard_output() -> Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .cannot(|| "open /dev/null")?;
    dup2_stdout(null.as_fd())
        .and_then(|()| dup2_stderr(null.as_fd()))
        .cannot(|| "redirect output")
}

/// Tells the relay that the command is known of. It has gone already if the command has ended.
fn confirm(relay: &File) -> Result<()> {
    match send(relay.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL) {
        Err(Errno::EPIPE) => Ok(()),
        sent => sent.map(drop).cannot(|| "answer the relay"),
    }
}

/// The command's pid, which the relay writes when it has been executed.
fn command_pid(mut relay: &File) -> Result<Pid> {
    let mut pid = [0; size_of::<i32>()];
    match relay.read_exact(&mut pid) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(Error::new("start the command", "its relay was killed"))
        }
        read => read
            .map(|()| Pid::from_raw(i32::from_ne_bytes(pid)))
            .cannot(|| "read the pid from the relay"),
    }
}
