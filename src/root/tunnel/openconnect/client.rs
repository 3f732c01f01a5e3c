//! An OpenConnect daemon: `openconnect --cookie-on-stdin --script ...`, in the foreground and confined,
//! and what its keeper does about what it says.
//!
//! Its standard input is a socket of its keeper's. It reads the cookie there; after that, its script
//! writes the variables of vpnc-script(8) to it, and waits until the keeper has set up the device.
//! All that is hostile.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::unistd::Pid;

use super::login::Build;
use super::options::{Options, shown};
use super::said::{Weight, is_step, reason};
use super::session::Session;
use super::variables::{REASON, is_used, pushed};
use crate::facts::ipv6::in_tunnels;
use crate::kernel::syslog::Journal;
use crate::tunnel::environment::{Room, Variables};
use crate::tunnel::launch::{Tunnel, end_child};
use crate::tunnel::post::{Client, Lines, Post, receive};
use runns_shared::error::{Context, Error, Result};
use runns_shared::record::Daemon;
use runns_sys::process::{self, Fork};

/// What openconnect gives to `sh -c` as its script. Nothing of it depends on anything: it hands the
/// variables over, each with a NUL behind it and one more after the last, and waits for a line.
const SCRIPT: &[u8] = b"{ env -0; printf '\\0'; } >&0; read -r done";
/// Bytes of a variable: what the kernel allows, MAX_ARG_STRLEN.
const LONGEST_VARIABLE: usize = 128 << 10;
/// How often to read what a daemon that has ended left in its sockets.
const LAST_WORDS: usize = 64;
/// The streams of [`Client::streams`].
const OUTPUT: usize = 0;

/// An OpenConnect daemon.
pub struct OpenConnect {
    journal: Journal,
    /// Its standard output and error, until it closes them.
    output: Option<UnixStream>,
    lines: Lines,
    /// Its standard input.
    script: Option<UnixStream>,
    /// The beginning of a variable.
    partial: Vec<u8>,
    /// The variables of a call of the script that is being received.
    variables: Variables,
    room: Room,
    /// Why the tunnel is down.
    reason: Option<(Weight, String)>,
    /// The last line, for want of a better reason.
    last: String,
}

impl OpenConnect {
    /// Logs in, if build has no session, and starts a daemon.
    pub fn start(
        tunnel: &Tunnel,
        options: &Options,
        build: Option<&mut UnixStream>,
    ) -> Result<(Daemon, Self)> {
        let cannot = || "start OpenConnect";
        let build = build.ok_or_else(|| Error::new("log in", "build has ended"))?;
        let session = Build::new(build).session(tunnel, options)?;
        let words = words(tunnel, options, &session)?;
        let (mut script, its_input) = UnixStream::pair().cannot(cannot)?;
        let (output, its_output) = UnixStream::pair().cannot(cannot)?;
        let (its_input, its_output) = (OwnedFd::from(its_input), OwnedFd::from(its_output));
        // Before there is anybody to wait for: it fits into the socket.
        script
            .write_all(session.cookie_line().as_bytes())
            .cannot(cannot)?;
        let stdio = [Some(&its_input), Some(&its_output), Some(&its_output)];
        let pid = match process::fork().cannot(cannot)? {
            Fork::Child => end_child(tunnel.become_daemon(&words, options.directory(), stdio)),
            Fork::Parent(pid) => pid,
        };
        for stream in [&script, &output] {
            stream.set_nonblocking(true).cannot(cannot)?;
        }
        let daemon = Daemon::identify(Pid::as_raw(pid), tunnel.config())
            .ok_or_else(|| Error::new("start OpenConnect", "it exited at once"))?;
        let client = Self {
            journal: Journal::new(tunnel.daemon_name()),
            output: Some(output),
            lines: Lines::default(),
            script: Some(script),
            partial: Vec::new(),
            variables: Variables::new(),
            room: Room::VARIABLES,
            reason: None,
            last: String::new(),
        };
        Ok((daemon, client))
    }

    /// Handles what it prints; whether it printed anything.
    fn hear_output(&mut self, post: &mut Post) -> Result<bool> {
        let Some(bytes) = self.output.as_mut().and_then(receive) else {
            self.output = None;
            return Ok(false);
        };
        let lines = self.lines.add(&bytes);
        let lines = lines.ok_or_else(|| {
            Error::new(
                "listen to OpenConnect",
                "it printed a line that is too long",
            )
        })?;
        for line in lines {
            self.journal.line(&line);
            if let Some((weight, words)) = reason(&line) {
                if self
                    .reason
                    .as_ref()
                    .is_none_or(|(known, _)| *known <= weight)
                {
                    self.reason = Some((weight, words));
                }
                if !post.connected {
                    self.note_down(post);
                }
            }
            post.tell_build(&format!(">LOG:0,,{line}"));
            if !is_step(&line) {
                self.last = line;
            }
        }
        Ok(!bytes.is_empty())
    }

    /// Handles what its script hands over; whether that was anything.
    fn hear_script(&mut self, post: &mut Post) -> Result<bool> {
        let Some(bytes) = self.script.as_mut().and_then(receive) else {
            self.script = None;
            return Ok(false);
        };
        for byte in &bytes {
            match byte {
                0 => self.end_variable(post)?,
                _ if self.partial.len() < LONGEST_VARIABLE => self.partial.push(*byte),
                _ => {
                    return Err(Error::new(
                        "listen to OpenConnect",
                        "a variable is too long",
                    ));
                }
            }
        }
        Ok(!bytes.is_empty())
    }

    fn end_variable(&mut self, post: &mut Post) -> Result<()> {
        let text = std::mem::take(&mut self.partial);
        if text.is_empty() {
            let variables = std::mem::take(&mut self.variables);
            self.room = Room::VARIABLES;
            self.called(&variables, post)?;
            // The script goes on. If it does not read, it has only itself to blame.
            if let Some(script) = &mut self.script {
                let _ = script.write(b"\n");
            }
            return Ok(());
        }
        let text = String::from_utf8_lossy(&text);
        if let Some((name, value)) = text.split_once('=').filter(|(name, _)| is_used(name)) {
            self.room.take(&text)?;
            self.variables.insert(name.to_string(), value.to_string());
        }
        Ok(())
    }

    /// The script was called (openconnect's vpnc-script has the list of reasons).
    fn called(&mut self, variables: &Variables, post: &mut Post) -> Result<()> {
        match variables.get(REASON).map(String::as_str) {
            Some("connect" | "reconnect") => {
                let tunnel = &post.tunnel;
                let (only_way, ipv6) = (tunnel.kill_switch(), in_tunnels(tunnel.request()));
                (post.connected, self.reason) = (true, None);
                post.come_up(pushed(variables, only_way, ipv6))?;
                post.tell_build(">STATE:0,CONNECTED,");
            }
            Some("attempt-reconnect") => {
                post.connected = false;
                self.note_down(post);
            }
            _ => {}
        }
        Ok(())
    }

    fn note_down(&self, post: &Post) {
        match &self.reason {
            Some((Weight::End, words)) => post.note_end(Some(words)),
            Some((Weight::Attempt, words)) => post.note_down(Some(words)),
            None => post.note_down(Some("the connection was lost")),
        }
    }
}

impl Client for OpenConnect {
    fn streams(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [
            self.output.as_ref().map(AsFd::as_fd),
            self.script.as_ref().map(AsFd::as_fd),
        ]
    }

    fn hear(&mut self, which: usize, post: &mut Post) -> Result<bool> {
        match which {
            OUTPUT => self.hear_output(post),
            _ => self.hear_script(post),
        }
    }

    fn take(&mut self, _line: &str, _post: &mut Post) {}

    /// Its script may be waiting for an answer.
    fn leave(&mut self) {
        self.script = None;
    }

    fn last_words(&mut self, post: &mut Post) -> Result<()> {
        for _ in 0..LAST_WORDS {
            if !self.hear_output(post)? {
                break;
            }
        }
        let words = match &self.reason {
            Some((_, words)) => words.clone(),
            // One that was killed while it was connected said nothing of that.
            None if post.connected && !self.last.contains("exiting") => String::new(),
            None => shown(&self.last),
        };
        // The session was its own, and goes with it.
        post.note_end((!words.is_empty()).then_some(words.as_str()));
        if !words.is_empty() {
            post.tell_build(&format!(">FATAL:{words}"));
        }
        Ok(())
    }
}

/// The daemon's command line. Options after the file's take their place.
fn words(tunnel: &Tunnel, options: &Options, session: &Session) -> Result<Vec<CString>> {
    let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let mut words = options.words()?;
    let device = tunnel.device();
    for word in [
        b"--cookie-on-stdin".as_slice(),
        b"--non-inter",
        b"--interface",
        device.as_bytes(),
        b"--script",
        SCRIPT,
    ] {
        words.push(text(word));
    }
    if !in_tunnels(tunnel.request()) {
        words.push(text(b"--disable-ipv6"));
    }
    words.extend(session.words());
    Ok(words)
}
