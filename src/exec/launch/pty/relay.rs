//! The relay: the process that the caller started. It moves bytes between the caller's descriptors
//! and the command's terminal ([`Carrier`]), passes signals on, stops when the command stops and
//! ends as the command ends.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::carrier::{Carrier, Flow, Side};
use super::messages::{End, MonitorEnd, Order, RelayEnd, Report, Target, connection};
use super::monitor::{self, Assignment};
use super::signals::{Received, Signals, stop};
use super::terminal::{Line, Outer, Standing, outer_size};
use super::{Progress, Start};
use crate::launch::detach;
use runns_shared::error::{Context, Error, Result};
use runns_sys::process::{self, Fork};

/// How often to look whether the shell has put a background job into the foreground, in
/// milliseconds: it does not say so to a job that is running.
const FOREGROUND_TICK: u16 = 300;
/// How long the last output may be stuck, in milliseconds, after a signal has asked to end.
/// Otherwise there is no limit.
const LAST_PATIENCE: u16 = 1000;

/// Starts monitor and command, and ends as the command does. Returns only if it was not executed,
/// or its end is not known.
pub fn run(start: &Start, line: Line, progress: Progress) -> Result<Infallible> {
    let mut relay = Relay::launch(start, line, progress)?;
    let result = relay.work();
    if result.is_ok() {
        let patience = if relay.asked_to_end {
            Some(LAST_PATIENCE)
        } else {
            None
        };
        relay.carrier.deliver_last(&relay.signals, patience);
    } else {
        relay.give_up();
    }
    relay.release_terminal();
    let monitor = relay.monitor_pid;
    // The monitor ends when it sees that the relay's end of the connection is closed.
    drop(relay);
    let _ = waitpid(monitor, None);
    match result? {
        End::Exited(status) => process::exit_now(status),
        End::Signaled(signal) => process::end_by_signal(signal),
    }
}

/// What poll(2) waits for.
#[derive(Clone, Copy)]
enum Source {
    Outcome,
    Signals,
    Monitor,
    Client,
    Bytes(Side),
}

/// What is made before the fork.
struct Parts {
    outer: Option<Outer>,
    foreground: bool,
    signals: Signals,
    monitor: RelayEnd,
    relay: MonitorEnd,
}

impl Parts {
    fn make() -> Result<Self> {
        let outer = Outer::find()?;
        let foreground = outer.as_ref().is_none_or(Outer::is_for_command);
        let signals = Signals::of(&SigSet::all())?;
        let (monitor, relay) = connection()?;
        Ok(Self {
            outer,
            foreground,
            signals,
            monitor,
            relay,
        })
    }
}

struct Relay {
    monitor: RelayEnd,
    monitor_pid: Pid,
    /// Open until it is known whether the command was executed; no byte is moved before.
    outcome: Option<OwnedFd>,
    /// The command's process, once it is there.
    command: Option<Pid>,
    /// Who waits for the command's pid, until it is known that they have it.
    client: Option<OwnedFd>,
    signals: Signals,
    carrier: Carrier,
    /// The caller's terminal, if input is one.
    outer: Option<Outer>,
    /// Whether the command is to be in the foreground of its terminal, and gets input.
    foreground: bool,
    /// Orders about the foreground that the monitor has not carried out yet. Until then a key would
    /// signal the wrong process group, so none is passed on.
    unsettled: u32,
    /// Whether the command's terminal is about to go, or has gone.
    hanging_up: bool,
    /// Whether a signal has come that ends most programs.
    asked_to_end: bool,
    /// Whether there is a shell that can stop and continue this job.
    job_control: bool,
    ended: Option<End>,
}

impl Relay {
    /// Forks the monitor. An error is also reported through `progress`.
    fn launch(start: &Start, line: Line, progress: Progress) -> Result<Self> {
        let Progress {
            outcome,
            failure,
            client,
        } = progress;
        match Parts::make().and_then(|parts| Ok((parts, process::fork().cannot(|| "fork")?))) {
            Err(error) => {
                detach::report(failure, &error);
                Err(error)
            }
            Ok((parts, Fork::Child)) => {
                let keep = client.is_none();
                drop((parts.monitor, parts.signals, outcome, client));
                let (slave, outer) = (line.into_slave(), parts.outer.map(Outer::into_terminal));
                let assignment = Assignment {
                    relay: parts.relay,
                    slave,
                    outer,
                    foreground: parts.foreground,
                    keep,
                };
                monitor::run(start, assignment, failure)
            }
            Ok((parts, Fork::Parent(monitor_pid))) => {
                process::close_inherited();
                let Parts {
                    outer,
                    foreground,
                    signals,
                    monitor,
                    ..
                } = parts;
                let (carrier, job_control) = (Carrier::new(line), client.is_none());
                Ok(Self {
                    monitor,
                    monitor_pid,
                    outcome,
                    command: None,
                    client,
                    signals,
                    carrier,
                    outer,
                    foreground,
                    unsettled: 0,
                    hanging_up: false,
                    asked_to_end: false,
                    job_control,
                    ended: None,
                })
            }
        }
    }

    /// Until the command's end.
    fn work(&mut self) -> Result<End> {
        while self.ended.is_none() {
            for (source, found) in self.wait()? {
                match source {
                    Source::Outcome => self.hear_outcome()?,
                    Source::Signals => drop(self.take_signals()),
                    Source::Monitor => self.hear_monitor()?,
                    Source::Client => self.hear_client()?,
                    Source::Bytes(side) => self.advance(side, found),
                }
            }
            if !self.foreground {
                self.follow();
            }
            self.carrier.tell_end_of_input();
        }
        self.hear_outcome()?;
        self.ended
            .ok_or_else(|| Error::new("follow the command", "its exit status is unknown"))
    }

    /// Waits for something to do.
    fn wait(&self) -> Result<Vec<(Source, PollFlags)>> {
        let wanted = self.wanted();
        let mut fds: Vec<PollFd> = wanted
            .iter()
            .map(|(_, fd, events)| PollFd::new(*fd, *events))
            .collect();
        match poll(&mut fds, self.patience()) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno).cannot(|| "wait for the terminal"),
        }
        let found = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let found = wanted.iter().map(|(source, ..)| *source).zip(found);
        Ok(found.filter(|(_, found)| !found.is_empty()).collect())
    }

    fn wanted(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let read = PollFlags::POLLIN;
        let mut wanted = Vec::with_capacity(6);
        if let Some(outcome) = &self.outcome {
            wanted.push((Source::Outcome, outcome.as_fd(), read));
        }
        wanted.push((Source::Signals, self.signals.as_fd(), read));
        wanted.push((Source::Monitor, self.monitor.as_fd(), read));
        wanted.extend(
            self.client
                .as_ref()
                .map(|client| (Source::Client, client.as_fd(), read)),
        );
        if self.outcome.is_none() {
            let bytes = self.carrier.wanted(self.foreground && self.unsettled == 0);
            let bytes = bytes
                .into_iter()
                .filter(|(side, ..)| *side == Side::Output || !self.hanging_up);
            wanted.extend(bytes.map(|(side, fd, events)| (Source::Bytes(side), fd, events)));
        }
        wanted
    }

    fn patience(&self) -> PollTimeout {
        let follow = (self.outer.is_some() && !self.foreground).then_some(FOREGROUND_TICK);
        self.carrier
            .patience()
            .into_iter()
            .chain(follow)
            .min()
            .map_or(PollTimeout::NONE, PollTimeout::from)
    }

    /// Whether the command was executed. From then on the caller's terminal is the command's.
    fn hear_outcome(&mut self) -> Result<()> {
        if let Some(outcome) = self.outcome.take() {
            detach::hear(outcome)?;
            self.follow();
        }
        Ok(())
    }

    fn hear_monitor(&mut self) -> Result<()> {
        match self.monitor.receive()? {
            Some(Report::Forked(pid)) => self.command = Some(Pid::from_raw(pid)),
            Some(Report::Executed) => self.tell_pid(),
            Some(Report::Settled) => self.settled(),
            Some(Report::Stopped { signal, foreground }) => {
                self.command_stopped(signal, foreground)
            }
            Some(Report::Ended(end)) => self.ended = Some(end),
            None => {
                // What it had to say about a failed start comes first.
                self.hear_outcome()?;
                return Err(Error::new("follow the command", "its monitor was killed"));
            }
        }
        Ok(())
    }

    /// Who waits for the pid sees the end of the connection if it cannot be written.
    fn tell_pid(&self) {
        if let (Some(client), Some(pid)) = (&self.client, self.command) {
            let _ = send(
                client.as_raw_fd(),
                &pid.as_raw().to_ne_bytes(),
                MsgFlags::MSG_NOSIGNAL,
            );
        }
    }

    /// Whether who waited for the pid has passed it on. If not, nobody knows of the command.
    fn hear_client(&mut self) -> Result<()> {
        let Some(client) = &self.client else {
            return Ok(());
        };
        if recv(client.as_raw_fd(), &mut [0], MsgFlags::empty()) != Ok(1) {
            return Err(Error::new("start the command", "the caller has gone"));
        }
        self.client = None;
        self.order(Order::Keep);
        Ok(())
    }

    /// Kills a command of which nobody has been told: its monitor may be gone.
    fn give_up(&self) {
        if let (Some(_), Some(pid)) = (&self.client, self.command) {
            let _ = process::signal(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL as i32);
        }
    }

    /// Sends the monitor an order. That it has gone is seen when it is listened to.
    fn order(&self, order: Order) {
        let _ = self.monitor.send(&order);
    }

    fn order_foreground(&mut self) {
        self.unsettled += 1;
        self.order(Order::Foreground(self.foreground));
    }

    fn order_signal(&self, signal: Signal, to: Target) {
        self.order(Order::Signal {
            number: signal as i32,
            to,
        });
    }

    fn advance(&mut self, side: Side, found: PollFlags) {
        if side == Side::Output
            && !self.foreground
            && self.outer.as_ref().is_some_and(Outer::stops_output)
        {
            return self.suspend(Signal::SIGTTOU);
        }
        match self.carrier.advance(side, found) {
            Flow::Goes => {}
            Flow::Refused
                if self
                    .outer
                    .as_ref()
                    .is_some_and(|outer| outer.standing() == Standing::Others) =>
            {
                self.follow();
            }
            Flow::Refused | Flow::HungUp => self.hang_up(),
        }
    }

    /// The caller's terminal or output has gone: the command's goes as well, and it learns so as
    /// from any terminal. By the signal first: a write that fails before would be an error to it.
    fn hang_up(&mut self) {
        if !self.hanging_up {
            self.hanging_up = true;
            self.release_terminal();
            (self.outer, self.foreground) = (None, true);
            self.order_signal(Signal::SIGHUP, Target::Group);
            self.order_signal(Signal::SIGCONT, Target::Group);
            self.order_foreground();
        }
    }

    /// The monitor has carried out an order about the foreground, and those before it.
    fn settled(&mut self) {
        self.unsettled = self.unsettled.saturating_sub(1);
        if self.hanging_up && self.unsettled == 0 {
            self.carrier.hang_up();
        }
    }

    /// Does what the signals that have come ask for; tells whether one of them was SIGCONT.
    fn take_signals(&mut self) -> bool {
        let mut continued = false;
        while let Some(signal) = self.signals.next() {
            continued |= signal.number == Signal::SIGCONT as i32;
            self.take_signal(&signal);
        }
        continued
    }

    /// Everything is passed on to the command alone, as it would have got it by pid; keys and job
    /// control are for process groups.
    fn take_signal(&mut self, signal: &Received) {
        let number = signal.number;
        self.asked_to_end |= signal.asks_to_end();
        match Signal::try_from(number) {
            Ok(Signal::SIGCHLD) => {}
            Ok(Signal::SIGPIPE) if signal.is_own() => {}
            Ok(Signal::SIGWINCH) => self.resize(),
            Ok(Signal::SIGCONT) => self.resume(),
            Ok(Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTSTP) if signal.is_from_kernel() => {
                self.press(number)
            }
            Ok(Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU) => {
                self.order(Order::Signal {
                    number,
                    to: Target::Group,
                });
            }
            Ok(Signal::SIGHUP) if signal.is_from_kernel() => {
                self.order_signal(Signal::SIGHUP, Target::Group)
            }
            _ => self.order(Order::Signal {
                number,
                to: Target::Command,
            }),
        }
    }

    /// A key was pressed while the caller's terminal was not raw. The kernel delivers it to
    /// programs of any user, but only the monitor knows whom it is for while the command is on its
    /// way into the foreground.
    fn press(&mut self, number: i32) {
        self.follow();
        let settled = self.foreground && self.unsettled == 0 && self.outcome.is_none();
        let pressed = settled
            && self
                .carrier
                .line()
                .is_some_and(|line| line.press(number).is_ok());
        if !pressed {
            self.order(Order::Signal {
                number,
                to: Target::Foreground,
            });
        }
    }

    fn resize(&self) {
        if let (Some(size), Some(line)) = (outer_size(), self.carrier.line()) {
            // Without its terminal the command has no size to know.
            let _ = line.set_size(&size);
        }
    }

    /// Looks whose the caller's terminal is, and takes it or lets it go.
    fn follow(&mut self) {
        let Some(outer) = self.outer.as_mut().filter(|_| self.outcome.is_none()) else {
            return;
        };
        let standing = outer.standing();
        let now = standing == Standing::Ours && outer.is_wanted();
        if standing == Standing::Gone {
            return self.hang_up();
        }
        if now && !outer.is_raw() {
            // The monitor has to know first: this process may be killed right after.
            if let Ok(taken) = outer.prepare() {
                let _ = self.monitor.send(&Order::Outer(Some(taken)));
                let _ = outer.make_raw();
            }
            self.resize();
        } else if !now {
            outer.doubt();
        }
        if now != self.foreground {
            self.foreground = now;
            self.order_foreground();
        }
    }

    /// The caller's terminal as the caller had it.
    fn release_terminal(&mut self) {
        if let Some(outer) = &mut self.outer {
            outer.restore();
            self.order(Order::Outer(None));
        }
    }

    /// The command was stopped, and had its terminal's foreground or not.
    fn command_stopped(&mut self, number: i32, had_foreground: bool) {
        let Ok(signal) = Signal::try_from(number) else {
            return;
        };
        if matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU) && !had_foreground {
            // It wants the terminal. If we have it, so can the command.
            if let Some(outer) = &mut self.outer {
                outer.want();
            }
            self.follow();
            if self.foreground {
                return self.resume_command();
            }
        }
        match (self.job_control, signal) {
            (true, _) => self.suspend(signal),
            // Who stopped it will continue it; the terminal stops no job of which no shell knows.
            (false, Signal::SIGSTOP) => {}
            (false, _) => self.resume_command(),
        }
    }

    /// Stops as the command did, until the shell continues the job.
    fn suspend(&mut self, signal: Signal) {
        if self.foreground {
            self.carrier.show();
        }
        self.release_terminal();
        let stopped = stop(signal);
        let continued = self.take_signals();
        if continued && stopped.is_ok() {
            return;
        }
        // It was not stopped: the group is orphaned. A read from the terminal would fail for ever,
        // which is told to the command as the end of input; to let it try again and again would
        // take all of a processor.
        if matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU) {
            self.carrier.end_input();
            (self.outer, self.foreground) = (None, true);
        }
        self.resume();
    }

    /// The job goes on, in the foreground or in the background.
    fn resume(&mut self) {
        if let Some(outer) = &mut self.outer {
            outer.doubt();
        }
        self.follow();
        self.resize();
        self.resume_command();
    }

    fn resume_command(&mut self) {
        self.order_foreground();
        self.order_signal(Signal::SIGCONT, Target::Group);
    }
}
