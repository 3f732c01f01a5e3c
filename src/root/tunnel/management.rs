//! OpenVPN's management interface (management-notes.txt of its sources), as build uses it through
//! the daemon's keeper: it reports the progress of the connection and why it failed, and asks for
//! passwords.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::attempts::{Attempts, Weight, server_in};
use super::event::{Event, SHOWN, describe_state, is_noise, line_of, parse, reason, reason_in};
use super::login::{Login, Refusal, Reply};
use crate::kernel::prompt::Countdown;
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::name::NetnsName;
use runns_sys::process;

/// What people call OpenVPN's daemon.
pub const OPENVPN: &str = "OpenVPN";
/// The longest line that is read from the socket, in bytes. OpenVPN's own are at most some 10 KiB.
pub const LONGEST: usize = 1 << 16;
/// How many lines of the daemon's log are kept for the hint of an error.
const LAST_LINES: usize = 3;

/// The time that is added for the rest of logins, whatever the server says, and however often.
const MOST_PENDING: Duration = Duration::from_secs(600);

/// How much longer the server gives for the rest of a login (`AUTH_PENDING,timeout SECONDS`).
fn pending(state: &str, remark: &str) -> Duration {
    let seconds = remark
        .strip_prefix("timeout ")
        .filter(|_| state == "AUTH_PENDING");
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(MOST_PENDING)
}

/// Whether the daemon closed the socket. A daemon that is killed before it read all that was sent
/// resets the connection (unix(7)).
fn hung_up(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// A connection to a daemon.
pub struct Management {
    kind: &'static str,
    /// The namespace.
    name: NetnsName,
    /// What the daemon is called in the system log.
    log: String,
    reader: BufReader<UnixStream>,
    lines: VecDeque<String>,
    state: String,
    attempts: Attempts,
}

/// How long to wait for a connection.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the beginning, or from when every server was tried.
    pub least: Duration,
    /// Until every server was tried.
    pub most: Duration,
}

/// Until when to wait for a connection.
struct Deadline {
    at: Instant,
    /// What the server says does not move it beyond this.
    last: Instant,
}

impl Deadline {
    fn new(at: Instant) -> Self {
        Self {
            at,
            last: at + MOST_PENDING,
        }
    }

    fn extend(&mut self, to: Instant) {
        self.at = self.at.max(to.min(self.last));
    }

    fn shorten(&mut self, to: Instant) {
        self.at = self.at.min(to);
    }

    fn shift(&mut self, by: Duration) {
        self.at += by;
        self.last += by;
    }
}

/// How build follows a connection until it is established.
pub struct Follow<'a> {
    /// Answers what the daemon asks for.
    pub login: Login<'a>,
    /// How long.
    pub patience: Patience,
    /// The command that waits until every server was tried, if this one may not.
    pub longer: Option<String>,
    /// The `auth-retry` of the file.
    pub retry: &'a str,
    /// Is told each step.
    pub progress: &'a dyn Fn(&str),
    /// Is told what the user has to do.
    pub tell: &'a dyn Fn(&str),
}

impl Management {
    /// A connection to the daemon of `program` in namespace `name`, through its keeper. `kind` is
    /// what people call the daemon.
    pub fn new(stream: UnixStream, kind: &'static str, program: &str, name: &NetnsName) -> Self {
        Self {
            kind,
            name: name.clone(),
            log: format!("{program}-{name}"),
            reader: BufReader::new(stream),
            lines: VecDeque::new(),
            state: String::new(),
            attempts: Attempts::default(),
        }
    }

    /// The daemon is in this state (`state` in management-notes.txt), which it does not tell itself.
    pub fn enter(&mut self, state: &str) {
        self.state = state.to_string();
    }

    /// Sends a command.
    pub fn send(&mut self, command: &str) -> Result<()> {
        match self.reader.get_mut().write_all(&line_of(command)?) {
            Err(error) if hung_up(&error) => Err(self.exited()),
            written => written.cannot(|| format!("talk to {}", self.kind)),
        }
    }

    /// Lets the daemon connect, and follows it until it is connected.
    pub fn wait(&mut self, mut follow: Follow) -> Result<()> {
        // It asks again after a login that was not enough, instead of exiting.
        let asks_again = follow.retry != "nointeract";
        if asks_again {
            self.send("auth-retry interact")?;
        }
        let connected = self.connect(&mut follow);
        // However this ends, the daemon may stay, and would send a refused login again and again.
        if asks_again && follow.retry != "interact" {
            let restored = self.send("auth-retry none");
            return connected.and(restored);
        }
        connected
    }

    fn connect(&mut self, follow: &mut Follow) -> Result<()> {
        for command in ["hold off", "hold release"] {
            self.send(command)?;
        }
        let mut deadline = Deadline::new(Instant::now() + follow.patience.most);
        loop {
            let line = self
                .line(deadline.at)
                .map_err(|error| match &follow.longer {
                    Some(longer) if self.ran_out(deadline.at) => {
                        Error::new("connect", error.cause()).hint(longer)
                    }
                    _ => error,
                })?;
            match parse(&line) {
                Event::State(state, _) if state == "CONNECTED" => {
                    (follow.progress)("connected");
                    return Ok(());
                }
                event => {
                    // The time in which somebody types does not count.
                    let before = Instant::now();
                    let asks = matches!(event, Event::Need(_) | Event::Message(_));
                    self.handle(event, follow, &mut deadline)?;
                    if asks {
                        deadline.shift(before.elapsed());
                    }
                }
            }
        }
    }

    /// Handles what the daemon says before it is connected, which can move the deadline.
    fn handle(&mut self, event: Event, follow: &mut Follow, deadline: &mut Deadline) -> Result<()> {
        match event {
            Event::State(state, remark) => {
                describe_state(&state).into_iter().for_each(follow.progress);
                let more = pending(&state, &remark);
                self.state = state;
                deadline.extend(Instant::now() + more);
            }
            Event::Need(need) => {
                for command in follow.login.answer(&need)? {
                    self.send(&command)?;
                }
            }
            Event::Refused(kind, reason) => self.refused(follow, &kind, reason.as_deref())?,
            Event::Message(message) => match follow.login.message(&message)? {
                Reply::Send(command) => self.send(&command)?,
                Reply::Tell(words) => (follow.tell)(&words),
                Reply::Nothing => {}
            },
            Event::Fatal(cause) => return Err(self.failure(&cause)),
            Event::Log(line) => {
                let came_round = self.note(&line);
                self.keep(line);
                if self.attempts.are_hopeless() {
                    return Err(self.failure(""));
                }
                if came_round {
                    deadline.shorten(Instant::now() + follow.patience.least);
                }
            }
            // UpDown and Variable are the keeper's business, which does not pass them on.
            Event::UpDown(_) | Event::Variable(_) | Event::Other => {}
        }
        Ok(())
    }

    /// Whether the time is up before every server was tried.
    fn ran_out(&self, deadline: Instant) -> bool {
        Instant::now() >= deadline && !self.attempts.came_round()
    }

    /// A login that was not accepted.
    fn refused(&mut self, follow: &mut Follow, kind: &str, reason: Option<&str>) -> Result<()> {
        match follow.login.refused(kind, reason) {
            Ok(Refusal::Retried) => {
                let words = follow.login.refusal(kind, reason);
                (follow.progress)(&words);
                self.attempts.note(&words, Weight::Cause);
                Ok(())
            }
            // With nointeract, it would send the old login again.
            Ok(Refusal::Challenge) if follow.retry == "nointeract" => self.send("forget-passwords"),
            Ok(Refusal::Challenge) => Ok(()),
            Err(error) => Err(self.with_log(error.cause())),
        }
    }

    /// Notes what a line of the log says of a server; whether every server was tried now.
    fn note(&mut self, line: &str) -> bool {
        let came_round = server_in(line).is_some_and(|server| self.attempts.begin(server));
        if let Some((words, weight)) = reason_in(line) {
            self.attempts.note(&words, weight);
        }
        came_round
    }

    /// Keeps a line for the hint of an error, if it tells something.
    fn keep(&mut self, line: String) {
        if line.is_empty() || is_noise(&line) {
            return;
        }
        if self.lines.len() == LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().take(SHOWN).collect());
    }

    /// Reads the next line, waiting until `deadline`. A terminal shows the time that is left.
    pub fn line(&mut self, deadline: Instant) -> Result<String> {
        let mut countdown = Countdown::new(format!("waiting for the tunnel of {}", self.name));
        let line = self.read_line(deadline, &mut countdown);
        countdown.clear();
        line
    }

    fn read_line(&mut self, deadline: Instant, countdown: &mut Countdown) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || process::was_interrupted() {
                return Err(self.timeout());
            }
            // Wait in short intervals, so that a signal is noticed.
            let turn = left.min(Duration::from_millis(500));
            self.reader
                .get_mut()
                .set_read_timeout(Some(turn))
                .cannot(|| format!("talk to {}", self.kind))?;
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return Err(self.exited()),
                Ok(_) if bytes.len() > LONGEST => {
                    return Err(self.failure("it sent a line that is too long"));
                }
                Ok(_) if bytes.ends_with(b"\n") => {
                    return Ok(String::from_utf8_lossy(&bytes).trim_end().to_string());
                }
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    countdown.show(deadline.saturating_duration_since(Instant::now()));
                }
                Err(error) if hung_up(&error) => return Err(self.exited()),
                Err(error) => return Err(error).cannot(|| format!("talk to {}", self.kind)),
            }
        }
    }

    /// Of a daemon that closed its socket.
    fn exited(&self) -> Error {
        self.failure(&format!("{} exited", self.kind))
    }

    /// Waits until a daemon that connects by itself is connected.
    pub fn wait_until_connected(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        loop {
            match parse(&self.line(deadline)?) {
                Event::State(state, _) if state == "CONNECTED" => return Ok(()),
                Event::Fatal(cause) => return Err(self.failure(&cause)),
                Event::Log(line) => self.keep(line),
                _ => {}
            }
        }
    }

    fn timeout(&self) -> Error {
        let cause = match self.state.as_str() {
            _ if process::was_interrupted() => "interrupted by a signal",
            "" if self.kind != OPENVPN => "no answer from the server",
            // It reports nothing while it waits for a name to be resolved.
            "" | "RESOLVE" => {
                "the server's name was not found in time (is it right, and does the host's DNS work?)"
            }
            "WAIT" | "TCP_CONNECT" | "CONNECTING" => "no answer from the server",
            "AUTH" => "the server did not complete the authentication in time",
            "GET_CONFIG" => "the server did not send the configuration in time",
            _ => "the connection was not established in time",
        };
        let error = self.with_log(&self.attempts.summary(cause).unwrap_or(cause.to_string()));
        match process::was_interrupted() {
            true => self.with_log(cause),
            false => error,
        }
    }

    /// The failure, with a known reason from `cause` or of the servers if there is one, else with
    /// `cause` or, if that is empty, the last line of the log.
    fn failure(&self, cause: &str) -> Error {
        let known = reason(&[cause.to_string()]).or_else(|| self.attempts.summary("no answer"));
        let last = || self.lines.back().map_or("", String::as_str);
        let cause = match cause {
            _ if known.is_some() => known.unwrap_or_default(),
            "" => escape(last().as_bytes()),
            cause => escape(cause.chars().take(SHOWN).collect::<String>().as_bytes()),
        };
        self.with_log(&cause)
    }

    fn with_log(&self, cause: &str) -> Error {
        let log: Vec<String> = self
            .lines
            .iter()
            .map(|line| escape(line.as_bytes()))
            .collect();
        let error = Error::new("connect", cause);
        if log.is_empty() {
            error
        } else {
            error.hint(format!(
                "runns-exec log {}  # or journalctl -t {}; last lines: {}",
                self.name,
                self.log,
                log.join(" | ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_server_cannot_put_the_deadline_off_for_ever() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadline = Deadline::new(at(30));
        for seconds in [100, 400, 1000] {
            deadline.extend(at(seconds) + pending("AUTH_PENDING", "timeout 86400"));
            assert!(deadline.at <= at(630));
        }
        assert_eq!(deadline.at, at(630));
        // The time in which somebody types is not the server's.
        deadline.shift(Duration::from_secs(5));
        assert_eq!(deadline.at, at(635));
        deadline.shorten(at(40));
        deadline.extend(at(9000));
        assert_eq!(deadline.at, at(635));
    }

    #[test]
    fn several_lines_are_not_sent() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let name = NetnsName::new("work").unwrap();
        let mut management = Management::new(ours, OPENVPN, "openvpn", &name);
        let error = management.send("username \"Auth\" \"x\nkeeper: stay\"");
        assert!(error.is_err());
        drop(management);
        assert_eq!(theirs.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}
