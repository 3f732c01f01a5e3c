//! The keeper's post beside a daemon, whichever kind that is: its connections to build and to the
//! kernel, and the tunnel's device and state. What the daemon says is its [`Client`]'s business.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::device::{Setup, install, route_beside, set_up};
use super::launch::{Tunnel, inside_name, outside_name};
use super::management::LONGEST;
use super::wgquick::Prefix;
use crate::etc_netns;
use crate::facts::{pushed, resolver};
use crate::kernel::netlink::Netlink;
use crate::table::load;
use crate::tunnel;
use runns_shared::clock;
use runns_shared::error::{Error, Result};
use runns_shared::log;
use runns_shared::plan::{FROM_TUNNEL, Resolver};
use runns_shared::record::{Daemon, Record, State};
use runns_shared::request::Dns;
use runns_shared::tunnel::TunnelState;
use runns_sys::process::pidfd_signal;

/// How long the daemon may take to open its management socket, and to end.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Bytes that wait for build to read them.
const UNSENT: usize = 1 << 20;

/// A kind of daemon, as its keeper knows it. What it says is hostile: the worst that it can lead to
/// is a device in the namespace with wrong addresses and routes, or name servers of the server's
/// choice.
pub trait Client {
    /// Where it can be heard, until it closes that.
    fn streams(&self) -> [Option<BorrowedFd<'_>>; 2];

    /// Handles what it says on one of these streams; whether it said anything.
    fn hear(&mut self, which: usize, post: &mut Post) -> Result<bool>;

    /// Handles a line from build.
    fn take(&mut self, line: &str, post: &mut Post);

    /// It was told to end, and may wait for an answer.
    fn leave(&mut self) {}

    /// It has ended: handles what it left unheard. A process that it left behind can keep its end
    /// of a stream open, and go on writing.
    fn last_words(&mut self, post: &mut Post) -> Result<()>;
}

/// What the server wants the tunnel to be.
pub struct Pushed {
    /// The device; its name and order are the tunnel's.
    pub setup: Setup,
    /// Networks that are reached outside the tunnel, unless that is the only way out.
    pub beside: Vec<Prefix>,
    /// Name servers and search domains.
    pub dns: Dns,
}

/// How often a daemon may come up and go down. Each time, root changes devices, routes, the firewall
/// and files for it, and a daemon that was taken over could ask for that without end. One that is
/// honest takes a second at least to connect again. What exceeds it ends the tunnel.
pub struct Pace {
    left: u32,
    /// When it was one more the last time.
    grown: Instant,
}

impl Pace {
    /// So often at once; after that, once a second.
    const MOST: u32 = 60;

    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self {
            left: Self::MOST,
            grown: now,
        }
    }

    fn take(&mut self, now: Instant) -> Result<()> {
        let seconds = now.saturating_duration_since(self.grown).as_secs();
        self.grown += Duration::from_secs(seconds);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(seconds).min(Self::MOST);
        self.left = left.checked_sub(1).ok_or_else(|| {
            Error::new(
                "set up the tunnel",
                "the daemon came up and went down too often",
            )
        })?;
        Ok(())
    }
}

/// Bytes that are received in pieces, as lines.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The lines that are complete with these bytes; `None` if one is too long.
    pub fn add(&mut self, bytes: &[u8]) -> Option<Vec<String>> {
        self.0.extend_from_slice(bytes);
        let end = self
            .0
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let complete: Vec<u8> = self.0.drain(..end).collect();
        let lines = complete
            .split(|byte| *byte == b'\n')
            .map(|line| String::from_utf8_lossy(line).trim_end().to_string());
        (self.0.len() <= LONGEST).then(|| lines.filter(|line| !line.is_empty()).collect())
    }
}

/// Reads what is there; `None` at the end.
pub fn receive(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    match stream.read(&mut bytes) {
        Ok(0) => None,
        Ok(length) => {
            bytes.truncate(length);
            Some(bytes)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Some(Vec::new())
        }
        Err(_) => None,
    }
}

/// The keeper's part that is the same for all kinds of daemons.
pub struct Post {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// Its daemon.
    pub daemon: Daemon,
    /// The daemon, for signals and to wait for its end.
    pub pidfd: OwnedFd,
    /// The connection to build, as long as that waits.
    pub build: Option<UnixStream>,
    /// Lines for build for which there was no room in the socket.
    pub unsent: Vec<u8>,
    /// Whether build follows the connection.
    pub follow: bool,
    /// How the tunnel's device was set up last.
    pub setup: Option<Setup>,
    /// Whether the tunnel's device is set up.
    pub up: bool,
    /// Whether the daemon is connected.
    pub connected: bool,
    /// How often it may still come up and go down.
    pub pace: Pace,
}

impl Post {
    /// Logs what went wrong.
    pub fn complain(&self, result: Result<()>) {
        if let Err(error) = result {
            log::refused(|| format!("tunnel of {}: {error}", self.tunnel.name()));
        }
    }

    /// Whether it gets there is up to build. One that was stopped does not read, and loses lines in
    /// the end; one that has ended may have left a word that is still to be read.
    pub fn tell_build(&mut self, line: &str) {
        if self.build.is_some() && self.unsent.len() + line.len() < UNSENT {
            self.unsent
                .extend_from_slice(format!("{line}\n").as_bytes());
            self.send_build();
        }
    }

    /// Sends what waits for build.
    pub fn send_build(&mut self) {
        let Some(build) = &mut self.build else { return };
        while let Ok(sent @ 1..) = build.write(&self.unsent) {
            self.unsent.drain(..sent);
        }
    }

    /// Whether nobody else answers the daemon.
    pub fn is_alone(&self) -> bool {
        self.build.is_none() || !self.follow
    }

    /// Records the tunnel's state.
    pub fn save(&self, state: TunnelState) {
        self.complain(tunnel::save(&state, self.tunnel.name(), self.tunnel.index));
    }

    /// Records that the tunnel is down. A known reason replaces an unknown one, but stays itself.
    pub fn note_down(&self, reason: Option<&str>) {
        self.note(reason, false);
    }

    /// Records that it is down because its session has ended.
    pub fn note_end(&self, reason: Option<&str>) {
        self.note(reason, true);
    }

    fn note(&self, reason: Option<&str>, ended: bool) {
        let state = TunnelState::load(self.tunnel.name(), self.tunnel.index);
        let keeps = reason.is_none() && !state.up;
        let down = TunnelState {
            up: false,
            reason: match keeps {
                true => state.reason.clone(),
                false => reason.map(str::to_string),
            },
            ended: ended || keeps && state.ended,
            since: if state.up { clock::now() } else { state.since },
            ..state.clone()
        };
        // A daemon can repeat itself without end.
        if down != state {
            self.save(down);
        }
    }

    /// The device is about to be closed. The daemon attaches to it when it connects again.
    ///
    /// # Errors
    ///
    /// If this happens too often: see [`Pace`].
    pub fn go_down(&mut self, reason: Option<&str>) -> Result<()> {
        self.pace.take(Instant::now())?;
        (self.up, self.connected) = (false, false);
        self.note_down(reason);
        let made = self
            .tunnel
            .clear_device()
            .or_else(|_| self.tunnel.make_device())
            .and_then(|()| self.tunnel.make_way());
        self.complain(made);
        Ok(())
    }

    /// The tunnel is up: sets up its device, unless that has stayed what it was.
    ///
    /// # Errors
    ///
    /// If this happens too often: see [`Pace`].
    pub fn come_up(&mut self, pushed: Pushed) -> Result<()> {
        self.pace.take(Instant::now())?;
        let Pushed { setup, beside, dns } = pushed;
        let result = self.set_up(setup, &beside).and_then(|()| self.came_up(dns));
        self.up = result.is_ok();
        self.complain(result);
        Ok(())
    }

    /// Sets the device up inside. One that is set up already stays as it is, unless the server now
    /// wants other routes: it does not gather what a server wants one time after the other.
    fn set_up(&mut self, mut setup: Setup, beside: &[Prefix]) -> Result<()> {
        let tunnel = &self.tunnel;
        setup.name = inside_name(tunnel.index);
        setup.order = tunnel.index as u32;
        let namespace = tunnel.namespace()?;
        let inside = Netlink::inside(namespace.as_fd())?;
        if !tunnel.kill_switch() {
            route_beside(&inside, beside, tunnel.way(&inside)?, setup.order)?;
        }
        match self.setup.as_ref().filter(|_| self.up) {
            Some(earlier) if *earlier == setup => return Ok(()),
            Some(earlier) if earlier.addresses != setup.addresses => {
                return Err(Error::new(
                    "set up the tunnel",
                    "the server assigned other addresses than before",
                ));
            }
            Some(_) => {
                // Its routes go with it.
                inside.set_down(inside.need_link(&setup.name)?.index)?;
                set_up(&inside, &namespace, &setup)?;
            }
            None if tunnel.outside => {
                let name = outside_name(&tunnel.record.plan, tunnel.index);
                install(&Netlink::here()?, &name, &namespace, &setup)?;
            }
            None => set_up(&inside, &namespace, &setup)?,
        }
        self.setup = Some(setup);
        Ok(())
    }

    /// Records that the tunnel is up, and updates the resolver and the DNS lock if the pushed name
    /// servers have changed.
    fn came_up(&self, dns: Dns) -> Result<()> {
        let name = self.tunnel.name();
        let record = self.record_now()?;
        let before = pushed::collect(&record.plan);
        let state = TunnelState {
            device: inside_name(self.tunnel.index),
            up: true,
            reason: None,
            ended: false,
            since: clock::now(),
            servers: dns.servers,
            search: dns.search,
        };
        tunnel::save(&state, name, self.tunnel.index)?;
        let now = pushed::collect(&record.plan);
        // The resolver is decided at the end of build.
        let follows = |resolver: &&Resolver| resolver.from == FROM_TUNNEL;
        let is_built = record.state == State::Built;
        let resolver = record.plan.resolver.as_ref().filter(follows);
        if !is_built || resolver.is_none() || now == before || now.servers.is_empty() {
            return Ok(());
        }
        self.provide(record)
    }

    /// Brings the resolver and the table inside to what the tunnels provide now. A change does not
    /// wait for this: it records its plan first, and whatever of the earlier plan was written after
    /// that is replaced.
    fn provide(&self, mut record: Record) -> Result<()> {
        let mut has_changed = false;
        loop {
            let resolver = resolver::current(&record.plan);
            if has_changed || resolver.as_ref().is_some_and(|resolver| resolver.lock) {
                let file = self.tunnel.namespace()?;
                load::inside(&record.plan, &file, &Netlink::here()?)?;
            }
            if let Some(resolver) = resolver {
                etc_netns::rewrite(self.tunnel.name(), &resolver)?;
            }
            let now = self.record_now()?;
            if now.plan == record.plan {
                return Ok(());
            }
            (record, has_changed) = (now, true);
        }
    }

    fn record_now(&self) -> Result<Record> {
        Record::load(self.tunnel.name())?
            .filter(|record| record.identity == self.tunnel.record.identity)
            .ok_or_else(|| Error::new("set up a tunnel", "the namespace is gone"))
    }

    /// Ends the daemon.
    pub fn stop(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut signal = Signal::SIGTERM;
        let _ = pidfd_signal(&self.pidfd, signal);
        while self.daemon.is_running() {
            if Instant::now() > deadline && signal == Signal::SIGTERM {
                signal = Signal::SIGKILL;
                let _ = pidfd_signal(&self.pidfd, signal);
            }
            let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, 100u16);
            let _ = waitpid(Pid::from_raw(self.daemon.pid), Some(WaitPidFlag::WNOHANG));
        }
        self.tunnel.remove_device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let after = |seconds: u64| begin + Duration::from_millis(seconds * 1000 + 1);
        // Once a second, without end.
        assert!((0..1000).all(|second| pace.take(after(second)).is_ok()));
        let at_once = |pace: &mut Pace, now| (0..100).filter(|_| pace.take(now).is_ok()).count();
        assert_eq!(at_once(&mut pace, after(2000)), 60);
        assert_eq!(at_once(&mut pace, after(2003)), 3);
    }

    #[test]
    fn lines_in_pieces() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b">STATE:1,CONN").unwrap(), [""; 0]);
        assert_eq!(
            lines.add(b"ECTED\r\nSUCCESS\n\n>x").unwrap(),
            [">STATE:1,CONNECTED", "SUCCESS"]
        );
        assert!(lines.add(&vec![b'x'; LONGEST + 1]).is_none());
    }
}
