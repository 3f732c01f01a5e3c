//! `.tunnel-keeper NAME INDEX MODE`: the process beside an OpenVPN daemon that does for it what
//! needs root. build starts it, it starts the daemon, and it ends with the daemon. It is in no help
//! text, and no namespace can have its name.
//!
//! It holds the daemon's management socket (management-notes.txt of OpenVPN's sources). When the
//! daemon says that the tunnel is up, it sets up the device with what the server pushed and, under
//! the kill switch, moves it into the namespace. What comes through that socket is hostile: the
//! worst that it can lead to is a device in the namespace with wrong addresses and routes, or name
//! servers of the server's choice.
//!
//! As long as build waits for the tunnel, lines are passed on between it and the daemon.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use caps::Capability;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::device::{install, route_beside, set_up};
use super::environment::{Room, Routing, Variables, is_used, pushed_dns, routes_beside, setup};
use super::event::{Event, Need, line_of, parse, reason};
use super::launch::{PROGRAM, Tunnel, inside_name, outside_name};
use super::login::{self, Login};
use super::management::LONGEST;
use crate::etc_netns;
use crate::facts::ipv6::in_tunnels;
use crate::facts::{pushed, resolver};
use crate::kernel::denial::name_denial;
use crate::kernel::netlink::Netlink;
use crate::kernel::tool;
use crate::table::load;
use crate::{confine, tunnel};
use runns_privileged::capability::refuse_user_namespace;
use runns_shared::clock;
use runns_shared::error::{Context, Error, Result};
use runns_shared::log;
use runns_shared::name::NetnsName;
use runns_shared::plan::FROM_TUNNEL;
use runns_shared::record::{Daemon, Record, State};
use runns_shared::tunnel::TunnelState;
use runns_sys::process::{self, pidfd_open, pidfd_signal};

/// The subcommand's name, which no namespace can have.
pub const NAME: &str = ".tunnel-keeper";
/// The mode in which build waits for the tunnel, and answers questions for passwords.
pub const FOLLOW: &str = "follow";
/// The mode in which build does not.
pub const ALONE: &str = "alone";
/// To build: the daemon runs, with this pid.
pub const STARTED: &str = "keeper: started ";
/// To build: the daemon could not be started; the cause, and the hint behind [`SEPARATOR`].
pub const FAILED: &str = "keeper: failed ";
/// Between cause and hint.
pub const SEPARATOR: char = '\u{1f}';
/// From build: go on when build has ended. Without it, the end of build is the end of the tunnel.
pub const STAY: &str = "keeper: stay";
/// How long the daemon may take to open its management socket, and to end.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often to look for a changed resolv.conf while the daemon is not connected.
const ROUND: Duration = Duration::from_secs(2);
/// Bytes that wait for build to read them.
const UNSENT: usize = 1 << 20;
/// How often to read what a daemon that has ended left in its socket: a process that it left behind
/// can go on writing.
const LAST_WORDS: usize = 64;

/// What the keeper may still do once it has started the daemon.
const KEPT: [Capability; 4] = [
    // Links, addresses, routes and iptables, inside and outside.
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    // setns(2) to the namespace.
    Capability::CAP_SYS_ADMIN,
    // Signals to the daemon, which has another user.
    Capability::CAP_KILL,
];

/// Starts a daemon and looks after it until it ends.
pub fn run(words: &[OsString]) -> Result<()> {
    refuse_user_namespace("keep a tunnel")?;
    let (name, index, follow) = parse_words(words)?;
    let build = nix::unistd::geteuid()
        .is_root()
        .then(build_socket)
        .flatten()
        .ok_or_else(wrong)?;
    process::clear_environment(tool::PATH_C);
    let mut build = Some(build);
    match Keeper::start(name, index, follow, &mut build) {
        Ok(mut keeper) => keeper
            .run()
            .inspect_err(|error| log::refused(|| format!("tunnel: {error}"))),
        Err(error) => {
            let hint = error.hint_text().unwrap_or_default();
            let line = format!("{FAILED}{}{SEPARATOR}{hint}\n", error.cause());
            build.and_then(|mut build| build.write_all(line.as_bytes()).ok());
            Err(error)
        }
    }
}

fn parse_words(words: &[OsString]) -> Result<(NetnsName, usize, bool)> {
    let [name, index, mode] = words else {
        return Err(wrong());
    };
    let index = index
        .to_str()
        .and_then(|index| index.parse().ok())
        .ok_or_else(wrong)?;
    let follow = match mode.to_str() {
        Some(FOLLOW) => true,
        Some(ALONE) => false,
        _ => return Err(wrong()),
    };
    Ok((NetnsName::new(name)?, index, follow))
}

fn wrong() -> Error {
    Error::new("keep a tunnel", "this is for build to start")
}

/// The connection to build, which is standard input.
fn build_socket() -> Option<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
    use std::os::fd::AsRawFd;
    let input = process::STANDARD[0];
    let address: SockaddrStorage = getsockname(input.as_raw_fd()).ok()?;
    (address.family() == Some(AddressFamily::Unix)).then_some(())?;
    Some(UnixStream::from(input.try_clone_to_owned().ok()?))
}

/// Bytes that are received in pieces, as lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// The lines that are complete with these bytes; `None` if one is too long.
    fn add(&mut self, bytes: &[u8]) -> Option<Vec<String>> {
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
fn receive(stream: &mut UnixStream) -> Option<Vec<u8>> {
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

struct Keeper {
    tunnel: Tunnel,
    daemon: Daemon,
    /// The daemon, for signals and to wait for its end.
    pidfd: OwnedFd,
    /// The daemon's management socket, until it closes it.
    management: Option<UnixStream>,
    lines: Lines,
    build: Option<UnixStream>,
    build_lines: Lines,
    /// Lines for build for which there was no room in the socket.
    unsent: Vec<u8>,
    /// Whether build follows the connection.
    follow: bool,
    /// Whether the login had a one-time code.
    coded: bool,
    /// Whether the login was refused, and is not to be sent again.
    denied: bool,
    /// Whether to go on without build.
    stay: bool,
    signals: SignalFd,
    /// The variables of an event that is being received, and whether it is "up".
    event: Option<(bool, Variables, Room)>,
    /// What the server pushed, as far as the daemon reported it.
    pushed: Option<(Vec<String>, Room)>,
    /// Whether the tunnel's device is set up.
    up: bool,
    connected: bool,
}

impl Keeper {
    fn start(
        name: NetnsName,
        index: usize,
        follow: bool,
        build: &mut Option<UnixStream>,
    ) -> Result<Self> {
        let record = Record::load(&name)?.ok_or_else(wrong)?;
        let tunnel = Tunnel::new(record, index)?;
        tunnel.prepare()?;
        let begin = SystemTime::now();
        let started = tunnel
            .start(follow)
            .and_then(|daemon| connect(&tunnel, &daemon).map(|stream| (daemon, stream)))
            .map_err(|error| name_denial(error, PROGRAM, begin));
        let (daemon, management) = started.inspect_err(|_| drop(tunnel.remove_device()))?;
        let pidfd = pidfd_open(Pid::from_raw(daemon.pid)).cannot(|| "watch OpenVPN")?;
        confine::limit(&KEPT.into_iter().collect())?;
        let mut stopping = SigSet::empty();
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
            .into_iter()
            .for_each(|signal| stopping.add(signal));
        stopping.thread_block().cannot(|| "block signals")?;
        let signals =
            SignalFd::with_flags(&stopping, SfdFlags::SFD_CLOEXEC).cannot(|| "receive signals")?;
        if let Some(build) = build.as_mut() {
            build
                .write_all(format!("{STARTED}{}\n", daemon.pid).as_bytes())
                .cannot(|| "answer build")?;
            build.set_nonblocking(true).cannot(|| "answer build")?;
        }
        let mut keeper = Self {
            tunnel,
            daemon,
            pidfd,
            management: Some(management),
            lines: Lines::default(),
            build: build.take(),
            build_lines: Lines::default(),
            unsent: Vec::new(),
            follow,
            coded: false,
            denied: false,
            stay: false,
            signals,
            event: None,
            pushed: None,
            up: false,
            connected: false,
        };
        keeper.send("state on");
        keeper.send("log on");
        if !follow {
            keeper.send("hold off");
            keeper.send("hold release");
        }
        Ok(keeper)
    }

    /// Sends a command to the daemon. One that does not read has only itself to blame.
    fn send(&mut self, command: &str) {
        let line = match line_of(command) {
            Ok(line) => line,
            Err(error) => return self.complain(Err(error)),
        };
        let sent = self
            .management
            .as_mut()
            .map(|stream| stream.write_all(&line));
        if sent.is_some_and(|sent| sent.is_err()) {
            self.management = None;
        }
    }

    fn run(&mut self) -> Result<()> {
        let served = self.serve().or_else(|error| self.give_up(error));
        // What came last says why.
        if let Some(mut build) = self.build.take() {
            let patient = build
                .set_nonblocking(false)
                .and_then(|()| build.set_write_timeout(Some(PATIENCE)));
            let _ = patient.and_then(|()| build.write_all(&self.unsent));
        }
        served
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            let [management, build, ended, stopped] = self.wait()?;
            if stopped {
                return self.stop();
            }
            if management {
                self.hear()?;
            }
            if build {
                self.hear_build();
                self.send_build();
            }
            if ended {
                return self.ended();
            }
            if self.build.is_none() && !self.stay {
                return self.stop();
            }
            if !self.connected {
                // It fails if the daemon has filled the file system that they share, and harms
                // nobody else.
                let _ = self.tunnel.refresh();
            }
        }
    }

    /// Waits until there is something to do: with the daemon's socket, build's socket, the daemon's
    /// end, a signal.
    fn wait(&self) -> Result<[bool; 4]> {
        let none = self.pidfd.as_fd();
        let to_build = if self.unsent.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        };
        let watch = |fd, (there, flags): (bool, PollFlags)| {
            PollFd::new(fd, if there { flags } else { PollFlags::empty() })
        };
        let management = (self.management.is_some(), PollFlags::POLLIN);
        let build = (self.build.is_some(), to_build);
        let mut fds = [
            watch(
                self.management.as_ref().map_or(none, AsFd::as_fd),
                management,
            ),
            watch(self.build.as_ref().map_or(none, AsFd::as_fd), build),
            watch(none, (true, PollFlags::POLLIN)),
            watch(self.signals.as_fd(), (true, PollFlags::POLLIN)),
        ];
        let longest = if self.connected {
            PollTimeout::NONE
        } else {
            PollTimeout::try_from(ROUND).unwrap_or(PollTimeout::MAX)
        };
        match poll(&mut fds, longest) {
            Err(nix::errno::Errno::EINTR) => return Ok([false; 4]),
            polled => polled.map(drop).cannot(|| "wait for OpenVPN")?,
        }
        let ready = |fd: &PollFd| fd.any().unwrap_or(false);
        Ok([
            management.0 && ready(&fds[0]),
            build.0 && ready(&fds[1]),
            ready(&fds[2]),
            ready(&fds[3]),
        ])
    }

    fn complain(&self, result: Result<()>) {
        if let Err(error) = result {
            log::refused(|| format!("tunnel of {}: {error}", self.tunnel.name()));
        }
    }

    /// Handles what the daemon says, and passes it on to build; returns whether it said anything.
    fn hear(&mut self) -> Result<bool> {
        let Some(bytes) = self.management.as_mut().and_then(receive) else {
            self.management = None;
            return Ok(false);
        };
        let lines = self.lines.add(&bytes);
        let lines = lines
            .ok_or_else(|| Error::new("talk to OpenVPN", "it sent a line that is too long"))?;
        for line in lines {
            // The device is set up before build learns that the tunnel is.
            self.handle(&line)?;
            // The variables are the keeper's business, and there may be many.
            if line.starts_with(">UPDOWN:") {
                continue;
            }
            self.tell_build(&line);
        }
        Ok(!bytes.is_empty())
    }

    /// Whether it gets there is up to build. One that was stopped does not read, and loses lines in
    /// the end; one that has ended may have left a word that is still to be read.
    fn tell_build(&mut self, line: &str) {
        if self.build.is_some() && self.unsent.len() + line.len() < UNSENT {
            self.unsent
                .extend_from_slice(format!("{line}\n").as_bytes());
            self.send_build();
        }
    }

    fn send_build(&mut self) {
        let Some(build) = &mut self.build else { return };
        while let Ok(sent @ 1..) = build.write(&self.unsent) {
            self.unsent.drain(..sent);
        }
    }

    fn hear_build(&mut self) {
        let lines = self
            .build
            .as_mut()
            .and_then(receive)
            .and_then(|bytes| self.build_lines.add(&bytes));
        for line in lines.as_deref().unwrap_or_default() {
            if line == STAY {
                self.stay = true
            } else {
                self.send(line)
            }
        }
        if lines.is_none() {
            self.build = None;
        }
    }

    fn handle(&mut self, line: &str) -> Result<()> {
        match parse(line) {
            Event::UpDown(what) => {
                self.event = Some((what == "UP", Variables::new(), Room::VARIABLES))
            }
            Event::Variable(text) if text == "END" => match self.event.take() {
                Some((true, variables, _)) => self.come_up(&variables),
                Some((false, ..)) => self.go_down(None),
                None => {}
            },
            Event::Variable(text) => {
                let named = text.split_once('=').filter(|(name, _)| is_used(name));
                if let (Some((_, variables, room)), Some((name, value))) = (&mut self.event, named)
                {
                    room.take(&text)?;
                    variables.insert(name.to_string(), value.to_string());
                }
            }
            Event::State(state, remark) => self.note_state(&state, &remark),
            Event::Fatal(cause) => self.note_down(reason(&[cause]).as_deref()),
            Event::Need(need) => {
                self.coded |= need.challenge.is_some();
                // As long as build follows, it answers.
                if self.is_alone() {
                    self.answer(&need);
                }
            }
            Event::Refused(kind, reason) if kind == login::AUTH => self.refused(reason.as_deref()),
            Event::Message(message) if self.is_alone() && !self.connected => {
                if let Some(words) = login::unanswered_message(&message) {
                    self.note_down(Some(&words));
                }
            }
            Event::Log(text) => self.note_pushed(&text)?,
            _ => {}
        }
        Ok(())
    }

    /// Whether nobody else answers the daemon.
    fn is_alone(&self) -> bool {
        self.build.is_none() || !self.follow
    }

    /// OpenVPN sends the login again when it connects again. With a code that holds only once, this
    /// fails.
    fn refused(&mut self, reason: Option<&str>) {
        let mut words = login::refusal(reason, &self.tunnel.profile);
        let asks = reason.is_some_and(login::is_challenge);
        if self.coded && !asks && reason.is_none() {
            words = "the server asks for a new one-time code".to_string();
        }
        self.coded |= asks;
        self.denied = login::is_final(reason, &self.tunnel.profile);
        self.note_down(Some(&words));
    }

    /// Answers from the file of `auth-user-pass`. A one-time code is in no file, and nobody is there
    /// to be asked. A login that was refused is not repeated until somebody builds again.
    fn answer(&mut self, need: &Need) {
        if self.denied && need.kind == login::AUTH {
            return;
        }
        let nobody = |_: &login::Question| Ok(None);
        let answer = Login::new(&self.tunnel.profile, &nobody, "").answer(need);
        match answer {
            Ok(commands) => commands.iter().for_each(|command| self.send(command)),
            Err(_) => self.note_down(Some(&login::unanswered(need))),
        }
    }

    fn note_state(&mut self, state: &str, remark: &str) {
        match state {
            "CONNECTED" => {
                (self.connected, self.denied) = (true, false);
                // With persist-tun, the device has stayed, and nothing that was pushed has changed.
                if self.up {
                    let state = TunnelState::load(self.tunnel.name(), self.tunnel.index);
                    if !state.up {
                        self.save(TunnelState {
                            up: true,
                            reason: None,
                            since: clock::now(),
                            ..state
                        });
                    }
                }
            }
            "RECONNECTING" | "EXITING" => {
                self.connected = false;
                self.pushed = None;
                // It was the token that the server took no longer, not the login.
                self.denied &= remark != "auth-failure (auth-token)";
                self.note_down(why_down(remark));
            }
            _ => {}
        }
    }

    /// `PUSH: Received control message: 'PUSH_REPLY,OPTION,OPTION...'`, of which there may be
    /// several.
    fn note_pushed(&mut self, text: &str) -> Result<()> {
        let options = text.strip_prefix("PUSH: Received control message: 'PUSH_REPLY,");
        if let Some(options) = options {
            let (pushed, room) = self.pushed.get_or_insert((Vec::new(), Room::PUSHED));
            for option in options.trim_end_matches('\'').split(',') {
                room.take(option)?;
                pushed.push(option.to_string());
            }
        }
        Ok(())
    }

    fn save(&self, state: TunnelState) {
        self.complain(tunnel::save(&state, self.tunnel.name(), self.tunnel.index));
    }

    /// Records that the tunnel is down. A known reason replaces an unknown one, but stays itself.
    fn note_down(&self, reason: Option<&str>) {
        let state = TunnelState::load(self.tunnel.name(), self.tunnel.index);
        let (since, earlier) = if state.up {
            (clock::now(), None)
        } else {
            (state.since, state.reason.clone())
        };
        let reason = reason.map(str::to_string).or(earlier);
        self.save(TunnelState {
            up: false,
            reason,
            since,
            ..state
        });
    }

    /// The device is about to be closed: a new one takes its place, to which the daemon attaches
    /// when it connects again.
    fn go_down(&mut self, reason: Option<&str>) {
        (self.up, self.connected) = (false, false);
        self.note_down(reason);
        let made = self
            .tunnel
            .make_device()
            .and_then(|()| self.tunnel.make_way());
        self.complain(made);
    }

    fn come_up(&mut self, variables: &Variables) {
        let result = self
            .set_up(variables)
            .and_then(|()| self.came_up(variables));
        self.up = result.is_ok();
        self.complain(result);
    }

    /// Sets the device up inside.
    fn set_up(&self, variables: &Variables) -> Result<()> {
        let tunnel = &self.tunnel;
        let request = tunnel.request();
        let only_way = tunnel.kill_switch();
        let pushed = self.pushed.as_ref().map(|(options, _)| options.as_slice());
        let routing = Routing {
            only_way,
            ipv6: in_tunnels(request),
            pushed,
        };
        let mut setup = setup(variables, &tunnel.profile, &routing);
        setup.name = inside_name(tunnel.index);
        setup.order = tunnel.index as u32;
        let namespace = tunnel.namespace()?;
        let inside = Netlink::inside(namespace.as_fd())?;
        if !only_way {
            let beside = routes_beside(variables);
            route_beside(&inside, &beside, tunnel.way(&inside)?, setup.order)?;
        }
        if tunnel.outside {
            let name = outside_name(&tunnel.record.plan, tunnel.index);
            return install(&Netlink::here()?, &name, &namespace, &setup);
        }
        set_up(&inside, &namespace, &setup)
    }

    /// Records that the tunnel is up, and updates the resolver and the DNS lock if the pushed name
    /// servers have changed.
    fn came_up(&self, variables: &Variables) -> Result<()> {
        let name = self.tunnel.name();
        // The resolver is decided at the end of build.
        let record = Record::load(name)?
            .filter(|record| record.identity == self.tunnel.record.identity)
            .ok_or_else(wrong)?;
        let dns = pushed_dns(variables);
        let before = pushed::collect(&record.plan);
        let state = TunnelState {
            device: inside_name(self.tunnel.index),
            up: true,
            reason: None,
            since: clock::now(),
            servers: dns.servers,
            search: dns.search,
        };
        tunnel::save(&state, name, self.tunnel.index)?;
        let now = pushed::collect(&record.plan);
        let follows = record
            .plan
            .resolver
            .as_ref()
            .is_some_and(|resolver| resolver.from == FROM_TUNNEL);
        if record.state != State::Built || !follows || now == before || now.servers.is_empty() {
            return Ok(());
        }
        let resolver = resolver::current(&record.plan);
        if resolver.as_ref().is_some_and(|resolver| resolver.lock) {
            let file = self.tunnel.namespace()?;
            load::inside(&record.plan, &file, &Netlink::here()?)?;
        }
        etc_netns::rewrite(name, FROM_TUNNEL, &now)
    }

    /// Ends the daemon.
    fn stop(&mut self) -> Result<()> {
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

    /// Ends a daemon that cannot be kept. The reason is for build as long as that waits, then for
    /// status.
    fn give_up(&mut self, error: Error) -> Result<()> {
        self.note_down(Some(error.cause()));
        self.unsent
            .extend_from_slice(format!(">FATAL:{}\n", error.cause()).as_bytes());
        self.stop().and(Err(error))
    }

    /// The daemon has ended by itself, or was killed.
    fn ended(&mut self) -> Result<()> {
        // It may have said why. A process that it left behind can keep its end of the socket open.
        let unblocked = self
            .management
            .as_ref()
            .map(|stream| stream.set_nonblocking(true));
        if matches!(unblocked, Some(Ok(()))) {
            for _ in 0..LAST_WORDS {
                if !self.hear()? {
                    break;
                }
            }
        }
        self.note_down(None);
        self.tunnel.remove_device()
    }
}

/// Connects to the daemon's management socket, which it opens when it has read its configuration.
/// It is on hold until then, and has not yet heard from its server.
fn connect(tunnel: &Tunnel, daemon: &Daemon) -> Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(tunnel::socket(tunnel.name(), tunnel.index)) {
            Ok(stream) => {
                stream
                    .set_write_timeout(Some(PATIENCE))
                    .cannot(|| "talk to OpenVPN")?;
                return Ok(stream);
            }
            Err(_) if !daemon.is_running() => {
                return Err(Error::new("talk to OpenVPN", "it exited at once"));
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(error).cannot(|| "talk to OpenVPN");
            }
            // Nothing announces the socket: poll for it.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Why a tunnel went down, from OpenVPN's name for it (init.c and sig.c of its sources); `None` if
/// it was told before.
fn why_down(signal: &str) -> Option<&'static str> {
    Some(match signal {
        "SIGTERM" | "SIGINT" | "sigterm" | "sigint" => "it was stopped",
        "auth-failure" => return None,
        "ping-restart" | "ping-exit" => "the server does not answer any more",
        "tls-error" => "the TLS negotiation failed",
        "connection-reset" | "remote-exit" => "the server closed the connection",
        "server_poll" => "no answer from the server",
        _ => "the connection was lost",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
