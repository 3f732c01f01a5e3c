//! Logs in to an OpenConnect server: `openconnect --authenticate`, confined as the daemon will be, on
//! a pseudo-terminal. What it asks is a line without an end; whether the answer may be seen is told
//! by the terminal's mode. The session that it prints in the end goes to a pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, posix_openpt, unlockpt};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, pipe2};

use super::options::{Options, shown};
use super::said::{asks_to_trust, failure, groups, is_refusal, is_step};
use super::session::{LARGEST, Session};
use crate::kernel::daemon::wait_or_kill;
use crate::kernel::syslog::Journal;
use crate::tunnel::launch::{Tunnel, end_child};
use crate::tunnel::post::{Lines, PATIENCE, receive};
use crate::tunnel::said::{
    ANSWER, LOG_IN, LOGIN, MESSAGE, NO_ANSWER, QUESTION, SEPARATOR, SESSION,
};
use runns_shared::error::{Context, Error, Result};
use runns_sys::process::{self, Fork};
use runns_sys::tty::open_peer;

/// How long a line has to stay without an end to be a question. openconnect writes each at once.
const SETTLED: Duration = Duration::from_millis(200);
/// How many questions are asked at most, however often the server goes on.
const MOST_QUESTIONS: usize = 32;
/// How many lines are kept.
const MOST_LINES: usize = 256;
/// How often to read what it left on its terminal.
const LAST_WORDS: usize = 64;
/// The longest answer; openconnect reads 1024 bytes.
const LONGEST_ANSWER: usize = 1000;

/// The connection to build before the daemon runs: lines, one side after the other.
pub struct Build<'a> {
    stream: &'a mut UnixStream,
    lines: Lines,
}

impl<'a> Build<'a> {
    /// Over this stream.
    pub fn new(stream: &'a mut UnixStream) -> Self {
        Self {
            stream,
            lines: Lines::default(),
        }
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        let sent = self.stream.write_all(line.as_bytes());
        sent.cannot(|| "talk to build")
    }

    /// The next line, of which there is one at a time.
    fn hear(&mut self) -> Result<String> {
        loop {
            let lines = receive(self.stream).and_then(|bytes| self.lines.add(&bytes));
            match lines {
                None => return Err(Error::new("log in", "build has ended")),
                Some(lines) => {
                    if let Some(line) = lines.into_iter().next() {
                        return Ok(line);
                    }
                }
            }
        }
    }

    /// The session that build has, or that somebody logs in to.
    pub fn session(&mut self, tunnel: &Tunnel, options: &Options) -> Result<Session> {
        self.say(LOGIN)?;
        match self.hear()?.as_str() {
            LOG_IN => Login::start(tunnel, options, self)?.run(),
            said => match said.strip_prefix(SESSION) {
                Some(session) => Session::from_line(session),
                None => Err(Error::new("log in", "build sent an unexpected answer")),
            },
        }
    }
}

/// A login that goes on.
struct Login<'a, 'b> {
    options: &'a Options,
    build: &'a mut Build<'b>,
    journal: Journal,
    /// The password of the file, until it is used.
    password: Option<String>,
    pid: Pid,
    master: PtyMaster,
    /// Its other side, for its mode. It stays open, so that the end is not taken for an error.
    slave: OwnedFd,
    output: File,
    session: Vec<u8>,
    lines: Vec<String>,
    /// How many of these were there at the last answer.
    answered: usize,
    /// The beginning of a line.
    partial: Vec<u8>,
    /// Whether the rest of the line is what the terminal shows of an answer.
    echoes: bool,
    questions: usize,
}

impl<'a, 'b> Login<'a, 'b> {
    fn start(tunnel: &Tunnel, options: &'a Options, build: &'a mut Build<'b>) -> Result<Self> {
        let cannot = || "start openconnect";
        let password = options.read_password()?;
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let master = posix_openpt(flags).cannot(|| "open /dev/ptmx")?;
        unlockpt(&master).cannot(|| "unlock the pseudo-terminal")?;
        let slave = open_peer(&master).cannot(|| "open the pseudo-terminal")?;
        let (output, its_output) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).cannot(cannot)?;
        let mut words = options.words()?;
        words.extend([c"--authenticate".into(), c"--".into()]);
        words.push(std::ffi::CString::new(options.server.as_str()).unwrap_or_default());
        let stdio = [Some(&slave), Some(&its_output), Some(&slave)];
        let pid = match process::fork().cannot(cannot)? {
            Fork::Child => end_child(tunnel.become_daemon(&words, options.directory(), stdio)),
            Fork::Parent(pid) => pid,
        };
        Ok(Self {
            journal: Journal::new(tunnel.daemon_name()),
            options,
            build,
            password,
            pid,
            master,
            slave,
            output: File::from(output),
            session: Vec::new(),
            lines: Vec::new(),
            answered: 0,
            partial: Vec::new(),
            echoes: false,
            questions: 0,
        })
    }

    /// Goes on until it has ended.
    fn run(mut self) -> Result<Session> {
        let talked = self.talk();
        let status = self.end(if talked.is_ok() {
            PATIENCE
        } else {
            Duration::ZERO
        });
        talked?;
        match status {
            Ok(WaitStatus::Exited(_, 0)) => Session::parse(&String::from_utf8_lossy(&self.session)),
            _ => Err(failure(&self.lines, self.options)),
        }
    }

    /// Waits for its end. One that has closed its output, and goes on, is killed.
    fn end(&self, patience: Duration) -> nix::Result<WaitStatus> {
        wait_or_kill(self.pid, patience)
    }

    fn talk(&mut self) -> Result<()> {
        // The child has the only other end of it.
        let mut changed = Instant::now();
        loop {
            let settled = changed + SETTLED;
            let waits = !self.partial.is_empty() && !self.echoes;
            let longest = match waits {
                true => settled.saturating_duration_since(Instant::now()),
                false => Duration::from_secs(1),
            };
            let longest =
                PollTimeout::try_from(longest.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(self.master.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.output.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.build.stream.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, longest) {
                Err(Errno::EINTR) => continue,
                polled => polled.cannot(|| "wait for openconnect")?,
            };
            let [said, printed, build] = fds.map(|fd| fd.any().unwrap_or(false));
            if build {
                // It answers questions only, so it has ended.
                return Err(Error::new("log in", "build has ended"));
            }
            if said {
                self.hear()?;
                changed = Instant::now();
            }
            if printed && self.print()? {
                return (0..LAST_WORDS).try_for_each(|_| self.hear());
            }
            if waits && Instant::now() >= settled {
                self.prompted()?;
                changed = Instant::now();
            }
        }
    }

    /// Reads what it printed for a shell; whether that is the end.
    fn print(&mut self) -> Result<bool> {
        let mut bytes = [0; 4096];
        match self.output.read(&mut bytes) {
            Ok(0) => Ok(true),
            Ok(length) => {
                self.session.extend_from_slice(&bytes[..length]);
                match self.session.len() as u64 > LARGEST {
                    true => Err(Error::new("log in", "openconnect printed too much")),
                    false => Ok(false),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).cannot(|| "read what openconnect printed"),
        }
    }

    /// Reads some of what it wrote to the terminal. There may be no end of it.
    fn hear(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        let length = nix::unistd::read(&self.master, &mut bytes).unwrap_or(0);
        for byte in &bytes[..length] {
            match byte {
                b'\n' => self.end_line()?,
                b'\r' => {}
                // What is too long is no message.
                _ if self.partial.len() < 4096 => self.partial.push(*byte),
                _ => {}
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        let line = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.echoes) {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).trim().to_string();
        self.journal.line(&line);
        if !is_step(&line) {
            self.build.say(&format!("{MESSAGE}{}", shown(&line)))?;
        }
        if self.lines.len() < MOST_LINES {
            self.lines.push(line);
        }
        Ok(())
    }

    /// It waits for an answer.
    fn prompted(&mut self) -> Result<()> {
        let prompt = String::from_utf8_lossy(&self.partial).trim().to_string();
        let hidden = tcgetattr(&self.slave)
            .cannot(|| "read the pseudo-terminal's mode")
            .map(|mode| !mode.local_flags.contains(LocalFlags::ECHO))?;
        let new = &self.lines[self.answered.min(self.lines.len())..];
        let refused =
            self.questions > 0 && new.iter().any(|line| !is_step(line) && is_refusal(line));
        if asks_to_trust(&prompt) || refused {
            return Err(failure(&self.lines, self.options));
        }
        let no_group = new.iter().any(|line| line.contains("Auth choice"));
        if let Some(groups) = groups(&prompt).filter(|_| no_group) {
            let error = failure(&self.lines, self.options);
            let hint = error.hint_text().unwrap_or_default().to_string();
            let cause = format!("{}; it has {}", error.cause(), shown(&groups.join(", ")));
            return Err(Error::new("log in", cause).hint(hint));
        }
        self.questions += 1;
        if self.questions > MOST_QUESTIONS {
            return Err(Error::new("log in", "the server keeps asking"));
        }
        let answer = match self.password.take_if(|_| hidden) {
            Some(password) => password,
            None => self.ask(&prompt, hidden)?,
        };
        self.answer(&answer)
    }

    /// Has build ask whoever is there.
    fn ask(&mut self, prompt: &str, hidden: bool) -> Result<String> {
        let echo = if hidden { '-' } else { '+' };
        self.build
            .say(&format!("{QUESTION}{echo}{}", shown(prompt)))?;
        let said = self.build.hear()?;
        let answer = said.strip_prefix(ANSWER);
        match answer.and_then(|answer| answer.strip_suffix(SEPARATOR)) {
            Some(answer) => Ok(answer.to_string()),
            None if said == NO_ANSWER => Err(self.nobody(prompt, hidden)),
            None => Err(Error::new("log in", "build sent an unexpected answer")),
        }
    }

    fn nobody(&self, prompt: &str, hidden: bool) -> Error {
        let cause = format!(
            "the server asks for {}, and there is no terminal to ask on",
            shown(prompt.trim_end_matches(':'))
        );
        let error = Error::new("log in", cause);
        // Of Array it is a field to type into.
        let is_group = groups(prompt).is_some() || prompt == "authgroup:";
        match (hidden, is_group) {
            (true, _) if self.options.password.is_none() => {
                error.hint("put the password into a file that only root can read, and name that in OpenConnectPassword=")
            }
            (true, _) => error.hint("a one-time code has to be typed: build it on a terminal"),
            (false, true) => error.hint("set authgroup= in the file of OpenConnectOptions"),
            (false, false) => error.hint("set user= in the file of OpenConnectOptions"),
        }
    }

    fn answer(&mut self, answer: &str) -> Result<()> {
        // The terminal would take a control character for a key.
        if answer.contains(char::is_control) || answer.len() > LONGEST_ANSWER {
            let cause = "the answer is too long, or has a control character in it";
            return Err(Error::new("log in", cause));
        }
        self.answered = self.lines.len();
        self.partial.clear();
        self.echoes = true;
        let line = format!("{answer}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match nix::unistd::write(&self.master, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).cannot(|| "answer openconnect"),
            }
        }
        Ok(())
    }
}
