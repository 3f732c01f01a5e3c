//! OpenVPN's management interface (management-notes.txt of its sources), as build uses it through
//! the daemon's keeper: it reports the progress of the connection and why it failed, and asks for
//! passwords.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;

/// The longest line that is read from the socket, in bytes. OpenVPN's own are at most some 10 KiB.
pub const LONGEST: usize = 1 << 16;
/// How many lines of the daemon's log are kept for the hint of an error.
const LAST_LINES: usize = 5;
/// How many characters of each are shown. OpenVPN's longest are lists of pushed options.
const SHOWN: usize = 400;

/// A line from the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The state of the connection: OpenVPN's name for it, and its description.
    State(String, String),
    /// It needs a password: `Auth` (with a user name) or `Private Key`.
    Need(String, bool),
    /// The other end refused the password of this kind.
    Refused(String),
    /// It is exiting, for this reason.
    Fatal(String),
    /// A line of its log.
    Log(String),
    /// The tunnel came up or is going down: UP or DOWN. Variables follow.
    UpDown(String),
    /// A variable of that event, `NAME=VALUE`; `END` after the last.
    Variable(String),
    /// Anything else.
    Other,
}

/// Parses one line.
pub fn parse(line: &str) -> Event {
    let Some((kind, rest)) = line.strip_prefix('>').and_then(|line| line.split_once(':')) else {
        return Event::Other;
    };
    let quoted = || rest.split('\'').nth(1).unwrap_or_default().to_string();
    match kind {
        "STATE" => {
            let mut fields = rest.split(',').skip(1);
            let state = fields.next().unwrap_or_default().to_string();
            Event::State(state, fields.next().unwrap_or_default().to_string())
        }
        "PASSWORD" if rest.starts_with("Need ") => {
            Event::Need(quoted(), rest.contains("username/password"))
        }
        "PASSWORD" if rest.starts_with("Verification Failed") => Event::Refused(quoted()),
        "FATAL" => Event::Fatal(rest.to_string()),
        "UPDOWN" => match rest.strip_prefix("ENV,") {
            Some(variable) => Event::Variable(variable.to_string()),
            None => Event::UpDown(rest.to_string()),
        },
        "LOG" => Event::Log(rest.splitn(3, ',').nth(2).unwrap_or_default().to_string()),
        _ => Event::Other,
    }
}

/// A state in plain words; `None` for states that are not worth showing.
pub fn describe_state(state: &str) -> Option<&'static str> {
    Some(match state {
        "RESOLVE" => "resolving the server's name",
        "TCP_CONNECT" | "WAIT" => "connecting",
        "AUTH" | "AUTH_PENDING" => "authenticating",
        "GET_CONFIG" => "getting the configuration",
        "ASSIGN_IP" | "ADD_ROUTES" => "setting up the device",
        "RECONNECTING" => "connecting again",
        "CONNECTED" => "connected",
        _ => return None,
    })
}

/// The reason for a failure, in plain words: that of the latest line in the daemon's log that has a
/// known one.
pub fn reason(lines: &[String]) -> Option<&'static str> {
    const REASONS: [(&str, &str); 12] = [
        // Patterns and reasons; the first pattern that a line contains decides.
        (
            "AUTH_FAILED",
            "authentication failed: the server refused user name or password",
        ),
        ("certificate has expired", "a certificate has expired"),
        (
            "certificate is not yet valid",
            "a certificate is not valid yet (is the clock right?)",
        ),
        (
            "VERIFY ERROR",
            "the server's certificate could not be verified",
        ),
        (
            "VERIFY KU ERROR",
            "the server's certificate is not a server certificate",
        ),
        (
            "VERIFY EKU ERROR",
            "the server's certificate is not a server certificate",
        ),
        (
            "Cannot resolve host address",
            "the server's name was not found",
        ),
        ("RESOLVE: Cannot", "the server's name was not found"),
        ("Connection refused", "the server refused the connection"),
        ("Network is unreachable", "the server cannot be reached"),
        ("TLS key negotiation failed", "no answer from the server"),
        (
            "TLS Error: TLS handshake failed",
            "the TLS handshake with the server failed",
        ),
    ];
    lines.iter().rev().find_map(|line| {
        REASONS
            .iter()
            .find(|(sign, _)| line.contains(sign))
            .map(|(_, reason)| *reason)
    })
}

/// What is said of a daemon that closed its socket.
const EXITED: &str = "OpenVPN exited";

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
    reader: BufReader<UnixStream>,
    lines: VecDeque<String>,
    state: String,
}

/// Asks for the password of a kind, and for the user name too if the second argument says so;
/// returns user name and password.
pub type Credentials<'a> = &'a dyn Fn(&str, bool) -> Result<(String, String)>;

impl Management {
    /// A connection by way of the daemon's keeper.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            reader: BufReader::new(stream),
            lines: VecDeque::new(),
            state: String::new(),
        }
    }

    /// Sends a command.
    pub fn send(&mut self, command: &str) -> Result<()> {
        match self
            .reader
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
        {
            Err(error) if hung_up(&error) => Err(self.failure(EXITED)),
            written => written.cannot(|| "talk to OpenVPN"),
        }
    }

    /// Lets the daemon connect, and follows it until it is connected. `progress` is called with
    /// each step.
    pub fn wait(
        &mut self,
        deadline: Instant,
        credentials: Credentials,
        progress: &dyn Fn(&str),
    ) -> Result<()> {
        for command in ["hold off", "hold release"] {
            self.send(command)?;
        }
        loop {
            match parse(&self.line(deadline)?) {
                Event::State(state, _) if state == "CONNECTED" => {
                    progress("connected");
                    return Ok(());
                }
                Event::State(state, remark) => {
                    describe_state(&state).into_iter().for_each(progress);
                    self.state = state;
                    if remark == "auth-failure" {
                        self.lines.push_back("AUTH_FAILED".to_string());
                    }
                }
                Event::Need(kind, with_user) => {
                    self.answer(&kind, credentials(&kind, with_user)?, with_user)?
                }
                Event::Refused(_) => return Err(self.failure("AUTH_FAILED")),
                Event::Fatal(cause) => return Err(self.failure(&cause)),
                Event::Log(line) => {
                    let fatal = line.contains("VERIFY ERROR") || line.contains("AUTH_FAILED");
                    self.keep(line);
                    if fatal {
                        return Err(self.failure(""));
                    }
                }
                // UpDown and Variable are the keeper's business, which does not pass them on.
                Event::UpDown(_) | Event::Variable(_) | Event::Other => {}
            }
        }
    }

    fn keep(&mut self, line: String) {
        if self.lines.len() == LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().take(SHOWN).collect());
    }

    /// Answers a request for a password, which goes through the socket only.
    fn answer(
        &mut self,
        kind: &str,
        (user, password): (String, String),
        with_user: bool,
    ) -> Result<()> {
        let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        if with_user {
            self.send(&format!("username {} {}", quote(kind), quote(&user)))?;
        }
        self.send(&format!("password {} {}", quote(kind), quote(&password)))
    }

    /// Reads the next line, waiting until `deadline`.
    pub fn line(&mut self, deadline: Instant) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || runns_sys::process::was_interrupted() {
                return Err(self.timeout());
            }
            // Wait in short intervals, so that a signal is noticed.
            let turn = left.min(Duration::from_millis(500));
            self.reader
                .get_mut()
                .set_read_timeout(Some(turn))
                .cannot(|| "talk to OpenVPN")?;
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return Err(self.failure(EXITED)),
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
                    ) => {}
                Err(error) if hung_up(&error) => return Err(self.failure(EXITED)),
                Err(error) => return Err(error).cannot(|| "talk to OpenVPN"),
            }
        }
    }

    fn timeout(&self) -> Error {
        let cause = match self.state.as_str() {
            _ if runns_sys::process::was_interrupted() => "interrupted by a signal",
            // It reports nothing while it waits for a name to be resolved.
            "" | "RESOLVE" => {
                "the server's name was not found in time (is it right, and does the host's DNS work?)"
            }
            "WAIT" | "TCP_CONNECT" | "CONNECTING" => "no answer from the server",
            "AUTH" => "the server did not complete the authentication in time",
            "GET_CONFIG" => "the server did not send the configuration in time",
            _ => "the connection was not established in time",
        };
        self.with_log(reason(&self.all_lines()).unwrap_or(cause))
    }

    fn all_lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// The failure, with a known reason from `cause` or the log if there is one, else with `cause`
    /// or, if that is empty, the last line of the log.
    fn failure(&self, cause: &str) -> Error {
        let mut lines = self.all_lines();
        lines.push(cause.to_string());
        let last: String = lines
            .iter()
            .rfind(|line| !line.is_empty())
            .into_iter()
            .flat_map(|line| line.chars())
            .take(SHOWN)
            .collect();
        self.with_log(reason(&lines).unwrap_or(&escape(last.as_bytes())))
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
            error.hint(format!("its log ends with: {}", log.join(" | ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_protocol() {
        let state = parse(">STATE:1700000000,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,");
        assert_eq!(state, Event::State("CONNECTED".into(), "SUCCESS".into()));
        assert_eq!(
            parse(">PASSWORD:Need 'Auth' username/password"),
            Event::Need("Auth".into(), true)
        );
        assert_eq!(
            parse(">PASSWORD:Need 'Private Key' password"),
            Event::Need("Private Key".into(), false)
        );
        assert_eq!(
            parse(">PASSWORD:Verification Failed: 'Auth'"),
            Event::Refused("Auth".into())
        );
        assert_eq!(parse(">LOG:1700000000,W,a,b"), Event::Log("a,b".into()));
        assert_eq!(parse(">UPDOWN:UP"), Event::UpDown("UP".into()));
        assert_eq!(
            parse(">UPDOWN:ENV,dev=tun0"),
            Event::Variable("dev=tun0".into())
        );
        assert_eq!(parse("SUCCESS: hold release succeeded"), Event::Other);
        assert_eq!(parse(">"), Event::Other);
    }

    #[test]
    fn the_latest_reason_counts() {
        let lines = [
            "TLS key negotiation failed to occur".to_string(),
            "VERIFY ERROR: certificate has expired".into(),
        ];
        assert_eq!(reason(&lines), Some("a certificate has expired"));
        assert_eq!(reason(&["all is well".to_string()]), None);
    }
}
