//! The monitor: leader of the command's session and the command's parent. It tells the relay what
//! becomes of the command, and signals it in the relay's name. All signals are blocked in it: what
//! can end it is SIGKILL, and the end of the relay.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::SetArg;
use nix::unistd::{
    Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpgid, getpgrp, getpid, pipe2, setpgid, setsid,
    tcgetpgrp, tcsetpgrp,
};

use super::Start;
use super::messages::{End, MonitorEnd, Order, Report, Target};
use super::modes::Taken;
use super::signals::Signals;
use crate::launch::detach;
use runns_shared::error::{Context, Result, status};
use runns_sys::process::{self, Change, Starting};
use runns_sys::tty;

/// What the relay gives the monitor.
pub struct Assignment {
    /// The other end of it is the relay's.
    pub relay: MonitorEnd,
    /// The command's terminal.
    pub slave: OwnedFd,
    /// The caller's terminal, to be put right if the relay cannot.
    pub outer: Option<OwnedFd>,
    /// Whether the command starts in the foreground.
    pub foreground: bool,
    /// Whether the command is hung up on, not killed, if the relay goes: from the start, or after
    /// [`Order::Keep`].
    pub keep: bool,
}

/// The monitor's process, from fork to exit. Why the command was not executed goes to `failure`.
pub fn run(start: &Start, assignment: Assignment, failure: OwnedFd) -> ! {
    let Assignment {
        relay,
        slave,
        outer,
        foreground,
        keep,
    } = assignment;
    let forked = lead_session(&slave).and_then(|()| {
        let pipe = pipe2(OFlag::O_CLOEXEC).cannot(|| "create a pipe")?;
        Ok((pipe, process::fork_to_execute().cannot(|| "fork")?))
    });
    match forked {
        Err(error) => {
            detach::report(failure, &error);
            process::exit_now(status::ENTER_FAILED.into())
        }
        Ok(((outcome, own_failure), None)) => {
            drop((outcome, failure));
            let Err(error) = become_command(start, &slave, foreground);
            detach::report(own_failure, &error);
            process::exit_now(status::ENTER_FAILED.into())
        }
        Ok(((outcome, own_failure), Some(command))) => {
            drop(own_failure);
            // Both processes do it: neither can know who is first. It fails if the command was
            // executed already.
            let _ = setpgid(command.pid, command.pid);
            process::close_inherited();
            let pending = Some((outcome, failure));
            let mut monitor = Monitor {
                relay,
                slave,
                outer,
                taken: None,
                command,
                pending,
                keep,
                stopped: false,
                ended: false,
            };
            // Without the relay or its own descriptors nothing is left to do but to clean up.
            let _ = monitor.watch();
            monitor.clean_up();
            process::exit_now(0)
        }
    }
}

/// A session of its own with the new terminal, which is 0, 1 and 2 from now on.
fn lead_session(slave: &OwnedFd) -> Result<()> {
    setsid().cannot(|| "start a session")?;
    tty::make_controlling(slave).cannot(|| "make the pseudo-terminal the controlling one")?;
    dup2_stdin(slave)
        .and_then(|()| dup2_stdout(slave))
        .and_then(|()| dup2_stderr(slave))
        .cannot(|| "redirect input and output to the pseudo-terminal")
}

/// The command's process, until it is the command. Signals are blocked at first: setting the
/// foreground group from the background would stop it (tcsetpgrp(3)).
fn become_command(start: &Start, slave: &OwnedFd, foreground: bool) -> Result<Infallible> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).cannot(|| "create a process group")?;
    if foreground {
        tcsetpgrp(slave, getpid()).cannot(|| "take the foreground of the pseudo-terminal")?;
    }
    start.inherited.give_back()?;
    start.program.execute(start.unprivileged)
}

struct Monitor {
    relay: MonitorEnd,
    slave: OwnedFd,
    outer: Option<OwnedFd>,
    taken: Option<Taken>,
    command: Starting,
    /// Until the command has been executed: where its process tells why not, and where to pass that
    /// on.
    pending: Option<(OwnedFd, OwnedFd)>,
    keep: bool,
    stopped: bool,
    ended: bool,
}

impl Monitor {
    /// Until the relay has gone. It is still there for it after the command's end: the caller's
    /// terminal is raw yet.
    fn watch(&mut self) -> Result<()> {
        let signals = Signals::of(&SigSet::from(Signal::SIGCHLD))?;
        self.relay
            .send(&Report::Forked(self.command.pid.as_raw()))?;
        loop {
            let outcome = self
                .pending
                .as_ref()
                .map_or(signals.as_fd(), |(outcome, _)| outcome.as_fd());
            let mut fds = [self.relay.as_fd(), signals.as_fd(), outcome]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result.cannot(|| "wait for the command")?,
            };
            let [told, changed, known] = fds.map(|fd| fd.any().unwrap_or(true));
            if let Some((outcome, failure)) = self.pending.take_if(|_| known) {
                self.tell_outcome(outcome, failure)?;
                // It may have ended since, without another signal.
                self.report_changes()?;
            }
            if changed {
                while signals.next().is_some() {}
                self.report_changes()?;
            }
            if told {
                match self.relay.receive()? {
                    Some(order) => self.obey(order)?,
                    None => return Ok(()),
                }
            }
        }
    }

    /// Tells those who wait for it whether the command was executed: the end of `failure` alone
    /// says so to the relay.
    fn tell_outcome(&mut self, outcome: OwnedFd, failure: OwnedFd) -> Result<()> {
        match detach::outcome(outcome, &self.command) {
            Ok(()) => self.relay.send(&Report::Executed),
            Err(error) => {
                self.ended = true;
                detach::report(failure, &error);
                self.relay
                    .send(&Report::Ended(End::Exited(status::ENTER_FAILED.into())))
            }
        }
    }

    /// Tells the relay what became of the command.
    fn report_changes(&mut self) -> Result<()> {
        while !self.ended {
            let end = match self.command.change() {
                Ok(None) => break,
                Ok(Some(Change::Stopped(signal))) => {
                    self.stopped = true;
                    let foreground =
                        tcgetpgrp(&self.slave).is_ok_and(|group| group == self.group());
                    self.relay.send(&Report::Stopped { signal, foreground })?;
                    continue;
                }
                Ok(Some(Change::Exited(status))) => End::Exited(status),
                Ok(Some(Change::Signaled(signal))) => End::Signaled(signal),
                // Nobody else waits for it; if it is not there, its status cannot be known.
                Err(_) => End::Exited(status::ENTER_FAILED.into()),
            };
            (self.ended, self.stopped) = (true, false);
            // What it left behind in its group learns of the terminal's end as all in the
            // foreground do.
            self.set_foreground(true);
            self.relay.send(&Report::Ended(end))?;
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Outer(taken) => self.taken = taken,
            Order::Keep => self.keep = true,
            Order::Signal { number, to } => self.signal(number, to),
            Order::Foreground(on) => {
                self.set_foreground(on);
                self.relay.send(&Report::Settled)?;
            }
        }
        Ok(())
    }

    /// The command into the foreground or background. A job that its own shell put into the
    /// foreground stays there, unless it is the command that has to go on and has not got the
    /// terminal.
    fn set_foreground(&mut self, on: bool) {
        let (now, own) = (tcgetpgrp(&self.slave).ok(), getpgrp());
        let next = match on {
            true if self.stopped || now == Some(own) => self.group(),
            false if now == Some(self.group()) => own,
            _ => return,
        };
        // It fails if the terminal was hung up, or the group has ended; the kernel takes groups of
        // this session only.
        let _ = tcsetpgrp(&self.slave, next);
    }

    /// Who has gone meanwhile cannot be signalled any more; nor can a program of another user
    /// (setuid).
    fn signal(&mut self, number: i32, to: Target) {
        if self.ended {
            return;
        }
        let group = match to {
            Target::Command => None,
            Target::Group => Some(self.group()),
            Target::Foreground => match tcgetpgrp(&self.slave) {
                Ok(group) if group != getpgrp() => Some(group),
                _ => Some(self.group()),
            },
        };
        let target = group.map_or(self.command.pid, |group| Pid::from_raw(-group.as_raw()));
        let _ = process::signal(target, number);
        if number == Signal::SIGCONT as i32 {
            self.stopped = false;
        }
    }

    /// The command's process group: it may have made itself another.
    fn group(&self) -> Pid {
        getpgid(Some(self.command.pid)).unwrap_or(self.command.pid)
    }

    /// The relay has gone, in peace or by SIGKILL: then the terminal still has its modes. What is
    /// left of the command learns that its terminal is gone, as from any terminal. One of which
    /// nobody has been told is killed.
    fn clean_up(&mut self) {
        if !self.keep && !self.ended {
            let _ = self.command.end();
        }
        if let (Some(outer), Some(taken)) = (&self.outer, &self.taken) {
            taken.restore(outer, SetArg::TCSANOW);
        }
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            self.signal(signal as i32, Target::Group);
        }
    }
}
