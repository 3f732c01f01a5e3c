//! What an OpenVPN daemon says through its management socket (management-notes.txt of its sources),
//! and what its keeper does about it. The socket is hostile.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::start::Start;
use crate::facts::ipv6::in_tunnels;
use crate::tunnel::environment::{
    Room, Routing, Variables, is_used, pushed_dns, routes_beside, setup,
};
use crate::tunnel::event::{Event, Need, line_of, parse, reason};
use crate::tunnel::launch::Tunnel;
use crate::tunnel::login::{self, Login};
use crate::tunnel::post::{Client, Lines, PATIENCE, Post, Pushed, receive};
use crate::tunnel::profile::Profile;
use crate::tunnel::socket;
use runns_shared::clock;
use runns_shared::error::{Context, Error, Result};
use runns_shared::record::Daemon;
use runns_shared::tunnel::TunnelState;

/// How often to read what a daemon that has ended left in its socket.
const LAST_WORDS: usize = 64;

/// An OpenVPN daemon.
pub struct OpenVpn {
    profile: Arc<Profile>,
    /// The daemon's management socket, until it closes it.
    management: Option<UnixStream>,
    lines: Lines,
    /// Whether the login had a one-time code.
    coded: bool,
    /// Whether the login was refused, and is not to be sent again.
    denied: bool,
    /// The variables of an event that is being received, and whether it is "up".
    event: Option<(bool, Variables, Room)>,
    /// What the server pushed, as far as the daemon reported it.
    pushed: Option<(Vec<String>, Room)>,
}

impl OpenVpn {
    /// Starts a daemon and connects to it. Unless build is to let it do so, it connects to its
    /// server at once.
    pub fn start(tunnel: &Tunnel, profile: &Arc<Profile>, follow: bool) -> Result<(Daemon, Self)> {
        let start = Start { tunnel, profile };
        let daemon = start.run(follow)?;
        let mut client = Self {
            profile: Arc::clone(profile),
            management: Some(connect(tunnel, &daemon)?),
            lines: Lines::default(),
            coded: false,
            denied: false,
            event: None,
            pushed: None,
        };
        let mut commands = vec!["state on", "log on"];
        if !follow {
            commands.extend(["hold off", "hold release"]);
        }
        for command in commands {
            client.send(command)?;
        }
        Ok((daemon, client))
    }

    /// Sends a command to the daemon. One that does not read has only itself to blame.
    fn send(&mut self, command: &str) -> Result<()> {
        let line = line_of(command)?;
        let sent = self
            .management
            .as_mut()
            .map(|stream| stream.write_all(&line));
        if sent.is_some_and(|sent| sent.is_err()) {
            self.management = None;
        }
        Ok(())
    }

    fn handle(&mut self, line: &str, post: &mut Post) -> Result<()> {
        match parse(line) {
            Event::UpDown(what) => {
                self.event = Some((what == "UP", Variables::new(), Room::VARIABLES))
            }
            Event::Variable(text) if text == "END" => match self.event.take() {
                Some((true, variables, _)) => self.come_up(&variables, post)?,
                Some((false, ..)) => post.go_down(None)?,
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
            Event::State(state, remark) => self.note_state(&state, &remark, post),
            Event::Fatal(cause) => post.note_down(reason(&[cause]).as_deref()),
            Event::Need(need) => {
                self.coded |= need.challenge.is_some();
                // As long as build follows, it answers.
                if post.is_alone() {
                    self.answer(&need, post);
                }
            }
            Event::Refused(kind, reason) if kind == login::AUTH => {
                self.refused(reason.as_deref(), post)
            }
            Event::Message(message) if post.is_alone() && !post.connected => {
                if let Some(words) = login::unanswered_message(&message) {
                    post.note_down(Some(&words));
                }
            }
            Event::Log(text) => self.note_pushed(&text)?,
            _ => {}
        }
        Ok(())
    }

    /// OpenVPN sends the login again when it connects again. With a code that holds only once, this
    /// fails.
    fn refused(&mut self, reason: Option<&str>, post: &mut Post) {
        let mut words = login::refusal(reason, &self.profile);
        let asks = reason.is_some_and(login::is_challenge);
        if self.coded && !asks && reason.is_none() {
            words = "the server asks for a new one-time code".to_string();
        }
        self.coded |= asks;
        self.denied = login::is_final(reason, &self.profile);
        post.note_down(Some(&words));
    }

    /// Answers from the file of `auth-user-pass`. A one-time code is in no file, and nobody is there
    /// to be asked. A login that was refused is not repeated until somebody builds again.
    fn answer(&mut self, need: &Need, post: &mut Post) {
        if self.denied && need.kind == login::AUTH {
            return;
        }
        let nobody = |_: &login::Question| Ok(None);
        let answer = Login::new(&self.profile, &nobody, "").answer(need);
        match answer {
            Ok(commands) => commands
                .iter()
                .for_each(|command| post.complain(self.send(command))),
            Err(_) => post.note_down(Some(&login::unanswered(need))),
        }
    }

    fn note_state(&mut self, state: &str, remark: &str, post: &mut Post) {
        match state {
            "CONNECTED" => {
                (post.connected, self.denied) = (true, false);
                // With persist-tun, the device has stayed, and nothing that was pushed has changed.
                if post.up {
                    let state = TunnelState::load(post.tunnel.name(), post.tunnel.index);
                    if !state.up {
                        post.save(TunnelState {
                            up: true,
                            reason: None,
                            ended: false,
                            since: clock::now(),
                            ..state
                        });
                    }
                }
            }
            "RECONNECTING" | "EXITING" => {
                post.connected = false;
                self.pushed = None;
                // It was the token that the server took no longer, not the login.
                self.denied &= remark != "auth-failure (auth-token)";
                post.note_down(why_down(remark));
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

    fn come_up(&mut self, variables: &Variables, post: &mut Post) -> Result<()> {
        let tunnel = &post.tunnel;
        let pushed = self.pushed.as_ref().map(|(options, _)| options.as_slice());
        let routing = Routing {
            only_way: tunnel.kill_switch(),
            ipv6: in_tunnels(tunnel.request()),
            pushed,
        };
        post.come_up(Pushed {
            setup: setup(variables, &self.profile, &routing),
            beside: routes_beside(variables),
            dns: pushed_dns(variables),
        })
    }
}

impl Client for OpenVpn {
    fn streams(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [self.management.as_ref().map(AsFd::as_fd), None]
    }

    fn hear(&mut self, _which: usize, post: &mut Post) -> Result<bool> {
        let Some(bytes) = self.management.as_mut().and_then(receive) else {
            self.management = None;
            return Ok(false);
        };
        let lines = self.lines.add(&bytes);
        let lines = lines
            .ok_or_else(|| Error::new("talk to OpenVPN", "it sent a line that is too long"))?;
        for line in lines {
            // The device is set up before build learns that the tunnel is.
            self.handle(&line, post)?;
            // The variables are the keeper's business, and there may be many.
            if line.starts_with(">UPDOWN:") {
                continue;
            }
            post.tell_build(&line);
        }
        Ok(!bytes.is_empty())
    }

    fn take(&mut self, line: &str, post: &mut Post) {
        post.complain(self.send(line));
    }

    fn last_words(&mut self, post: &mut Post) -> Result<()> {
        let unblocked = self
            .management
            .as_ref()
            .map(|stream| stream.set_nonblocking(true));
        if matches!(unblocked, Some(Ok(()))) {
            for _ in 0..LAST_WORDS {
                if !self.hear(0, post)? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Connects to the daemon's management socket, which it opens when it has read its configuration.
/// It is on hold until then, and has not yet heard from its server.
fn connect(tunnel: &Tunnel, daemon: &Daemon) -> Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket(tunnel.name(), tunnel.index)) {
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
