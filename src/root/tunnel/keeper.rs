//! `.tunnel-keeper NAME INDEX MODE`: the process beside a tunnel's daemon that does for it what
//! needs root. build starts it, it starts the daemon, and it ends with the daemon. It is in no help
//! text, and no namespace can have its name.
//!
//! It hears what the daemon says ([`Client`]). When the tunnel is up, it sets up the device with what
//! the server pushed and, under the kill switch, moves it into the namespace.
//!
//! As long as build waits for the tunnel, lines are passed on between it and the daemon.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use caps::Capability;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::launch::{Configuration, Tunnel};
use super::openconnect::client::OpenConnect;
use super::openvpn::client::OpenVpn;
use super::post::{Client, Lines, PATIENCE, Pace, Post, receive};
use super::said::{FAILED, SEPARATOR, STARTED, STAY};
use crate::confine;
use crate::kernel::denial::name_denial;
use crate::kernel::tool;
use runns_privileged::capability::refuse_user_namespace;
use runns_shared::error::{Context, Error, Result};
use runns_shared::log;
use runns_shared::name::NetnsName;
use runns_shared::record::Record;
use runns_sys::process::{self, pidfd_open};

/// The subcommand's name, which no namespace can have.
pub const NAME: &str = ".tunnel-keeper";
/// The mode in which build waits for the tunnel, and answers questions for passwords.
pub const FOLLOW: &str = "follow";
/// The mode in which build does not.
pub const ALONE: &str = "alone";
/// How often to look for a changed resolv.conf while the daemon is not connected.
const ROUND: Duration = Duration::from_secs(2);
/// The same while servers are looked up. OpenVPN connects again after a second.
const SHORT_ROUND: Duration = Duration::from_millis(100);

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
    match Keeper::start((name, index), follow, &mut build) {
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
    Error::new("keep a tunnel", "only build can start it")
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

struct Keeper {
    post: Post,
    client: Box<dyn Client>,
    build_lines: Lines,
    /// Whether to go on without build.
    stay: bool,
    signals: SignalFd,
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    heard: [bool; 2],
    build: bool,
    ended: bool,
    stopped: bool,
}

impl Keeper {
    fn start(
        (name, index): (NetnsName, usize),
        follow: bool,
        build: &mut Option<UnixStream>,
    ) -> Result<Self> {
        let record = Record::load(&name)?.ok_or_else(wrong)?;
        let tunnel = Tunnel::new(record, index)?;
        tunnel.prepare()?;
        let begin = SystemTime::now();
        let remove_device = |_: &Error| drop(tunnel.remove_device());
        let (daemon, client): (_, Box<dyn Client>) = match &tunnel.configuration {
            Configuration::OpenVpn(profile) => {
                let started = OpenVpn::start(&tunnel, profile, follow);
                started.map(|(daemon, client)| (daemon, Box::new(client) as _))
            }
            Configuration::OpenConnect(options) => {
                let started = OpenConnect::start(&tunnel, options, build.as_mut());
                started.map(|(daemon, client)| (daemon, Box::new(client) as _))
            }
        }
        .map_err(|error| name_denial(error, tunnel.configuration.program(), begin))
        .inspect_err(remove_device)?;
        let pidfd = pidfd_open(Pid::from_raw(daemon.pid)).cannot(|| "watch the daemon")?;
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
        let post = Post {
            tunnel,
            daemon,
            pidfd,
            build: build.take(),
            unsent: Vec::new(),
            follow,
            setup: None,
            up: false,
            connected: false,
            pace: Pace::new(Instant::now()),
        };
        Ok(Self {
            post,
            client,
            build_lines: Lines::default(),
            stay: false,
            signals,
        })
    }

    fn run(&mut self) -> Result<()> {
        let served = self.serve().or_else(|error| self.give_up(error));
        // What came last says why.
        if let Some(mut build) = self.post.build.take() {
            let patient = build
                .set_nonblocking(false)
                .and_then(|()| build.set_write_timeout(Some(PATIENCE)));
            let _ = patient.and_then(|()| build.write_all(&self.post.unsent));
        }
        served
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            let ready = self.wait()?;
            if ready.stopped {
                return self.stop();
            }
            for (which, _) in ready.heard.iter().enumerate().filter(|(_, heard)| **heard) {
                self.client.hear(which, &mut self.post)?;
            }
            if ready.build {
                self.hear_build();
                self.post.send_build();
            }
            if ready.ended {
                return self.ended();
            }
            if self.post.build.is_none() && !self.stay {
                return self.stop();
            }
            let servers = &mut self.post.tunnel.servers;
            if self.post.connected {
                servers.rest();
                continue;
            }
            servers.follow();
            if !servers.is_looking() {
                // It fails if the daemon has filled the file system that they share, and harms
                // nobody else.
                let _ = self.post.tunnel.refresh();
            }
        }
    }

    /// Waits until there is something to do: with the daemon's streams, build's socket, the
    /// daemon's end, a signal.
    fn wait(&self) -> Result<Ready> {
        let none = self.post.pidfd.as_fd();
        fn watch<'a>(fd: Option<BorrowedFd<'a>>, none: BorrowedFd<'a>) -> PollFd<'a> {
            match fd {
                Some(fd) => PollFd::new(fd, PollFlags::POLLIN),
                None => PollFd::new(none, PollFlags::empty()),
            }
        }
        let to_build = if self.post.unsent.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        };
        let [first, second] = self.client.streams();
        let build = self.post.build.as_ref().map(AsFd::as_fd);
        let there = [
            first.is_some(),
            second.is_some(),
            build.is_some(),
            true,
            true,
        ];
        let mut fds = [
            watch(first, none),
            watch(second, none),
            watch(build, none),
            watch(Some(none), none),
            watch(Some(self.signals.as_fd()), none),
        ];
        if build.is_some() {
            fds[2].set_events(to_build);
        }
        let longest = match self.post.connected {
            true => None,
            false if self.post.tunnel.servers.is_looking() => Some(SHORT_ROUND),
            false => Some(ROUND),
        };
        let longest = longest.map_or(PollTimeout::NONE, |longest| {
            PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, longest) {
            Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
            polled => polled.map(drop).cannot(|| "wait for the daemon")?,
        }
        let ready = |at: usize| there[at] && fds[at].any().unwrap_or(false);
        Ok(Ready {
            heard: [ready(0), ready(1)],
            build: ready(2),
            ended: ready(3),
            stopped: ready(4),
        })
    }

    fn hear_build(&mut self) {
        let lines = self
            .post
            .build
            .as_mut()
            .and_then(receive)
            .and_then(|bytes| self.build_lines.add(&bytes));
        for line in lines.as_deref().unwrap_or_default() {
            if line == STAY {
                self.stay = true
            } else {
                self.client.take(line, &mut self.post)
            }
        }
        if lines.is_none() {
            self.post.build = None;
        }
    }

    /// Ends the daemon.
    fn stop(&mut self) -> Result<()> {
        self.client.leave();
        self.post.stop()
    }

    /// Ends a daemon that cannot be kept. The reason is for build as long as that waits, then for
    /// status.
    fn give_up(&mut self, error: Error) -> Result<()> {
        self.post.note_down(Some(error.cause()));
        self.post
            .unsent
            .extend_from_slice(format!(">FATAL:{}\n", error.cause()).as_bytes());
        self.stop().and(Err(error))
    }

    /// The daemon has ended by itself, or was killed. It may have said why.
    fn ended(&mut self) -> Result<()> {
        self.client.last_words(&mut self.post)?;
        self.post.note_down(None);
        self.post.tunnel.remove_device()
    }
}
