//! Lines of OpenVPN's management interface (management-notes.txt of its sources).

use super::attempts::Weight;
use runns_shared::error::{Error, Result};
use runns_shared::escape::escape;

/// How many characters of a line of the log are shown. OpenVPN's longest are lists of pushed
/// options.
pub const SHOWN: usize = 200;

/// A line from the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The state of the connection: OpenVPN's name for it, and its description.
    State(String, String),
    /// It needs a password.
    Need(Need),
    /// The other end refused the password of this kind, perhaps with a reason.
    Refused(String, Option<String>),
    /// The server says something in the middle of a login.
    Message(String),
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

/// What it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Need {
    /// OpenVPN's word for what the password is for: `Auth`, `Private Key`, `HTTP Proxy`.
    pub kind: String,
    /// Whether it needs a user name as well.
    pub with_user: bool,
    /// The question for a one-time code that comes with it.
    pub challenge: Option<StaticChallenge>,
}

/// The question of `static-challenge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticChallenge {
    /// The question.
    pub text: String,
    /// Whether the answer may be seen.
    pub echo: bool,
    /// Whether the answer follows the password, without a separator (from OpenVPN 2.7).
    pub concatenate: bool,
}

impl Need {
    /// From `Need 'KIND' username/password SC:FLAGS,TEXT`.
    fn parse(rest: &str) -> Self {
        let (kind, rest) = quotation(rest);
        let challenge = rest.split_once(" SC:").and_then(|(_, challenge)| {
            let (flags, text) = challenge.split_once(',')?;
            let flags: u32 = flags.parse().ok()?;
            Some(StaticChallenge {
                text: text.to_string(),
                echo: flags & 1 != 0,
                concatenate: flags & 2 != 0,
            })
        });
        Self {
            kind: kind.to_string(),
            with_user: rest.starts_with(" username/password"),
            challenge,
        }
    }
}

/// What stands between the first two apostrophes, and what follows.
fn quotation(text: &str) -> (&str, &str) {
    let inside = text.split_once('\'').map_or("", |(_, inside)| inside);
    inside.split_once('\'').unwrap_or((inside, ""))
}

/// Parses one line.
pub fn parse(line: &str) -> Event {
    let Some((kind, rest)) = line.strip_prefix('>').and_then(|line| line.split_once(':')) else {
        return Event::Other;
    };
    match kind {
        "STATE" => {
            let mut fields = rest.split(',').skip(1);
            let state = fields.next().unwrap_or_default().to_string();
            Event::State(state, fields.next().unwrap_or_default().to_string())
        }
        "PASSWORD" if rest.starts_with("Need ") => Event::Need(Need::parse(rest)),
        "PASSWORD" if rest.starts_with("Verification Failed") => {
            let (kind, rest) = quotation(rest);
            let reason = rest
                .split_once("['")
                .and_then(|(_, reason)| reason.strip_suffix("']"));
            Event::Refused(kind.to_string(), reason.map(str::to_string))
        }
        "INFOMSG" => Event::Message(rest.to_string()),
        "FATAL" => Event::Fatal(rest.to_string()),
        "UPDOWN" => match rest.strip_prefix("ENV,") {
            Some(variable) => Event::Variable(variable.to_string()),
            None => Event::UpDown(rest.to_string()),
        },
        "LOG" => Event::Log(rest.splitn(3, ',').nth(2).unwrap_or_default().to_string()),
        _ => Event::Other,
    }
}

/// A word of a command, as OpenVPN reads it.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What is written for a command; an error if it would be read as several.
pub fn line_of(command: &str) -> Result<Vec<u8>> {
    if command.contains(['\n', '\r', '\0']) {
        let cause = "a user name, password or code contains a line break";
        return Err(Error::new("talk to OpenVPN", cause));
    }
    Ok(format!("{command}\n").into_bytes())
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

/// Whether a line of the daemon's log is about its own work, and says nothing about why a
/// connection failed.
pub fn is_noise(line: &str) -> bool {
    const STARTS: [&str; 24] = [
        "MANAGEMENT:",
        "OpenVPN 2",
        "library versions:",
        "DCO version:",
        "NOTE:",
        "Note:",
        "Socket Buffers:",
        "TCP/UDP: Preserving",
        "UDPv",
        "TCPv",
        "UDP link",
        "TCP link",
        "Attempting to establish",
        "Control Channel",
        "Data Channel",
        "Restart pause",
        "SIGUSR1[",
        "SIGTERM[",
        "TUN/TAP device",
        "TLS: Initial packet",
        "TLS_ERROR: BIO read",
        "TLS Error: TLS object",
        "VERIFY OK",
        "VERIFY KU OK",
    ];
    STARTS.iter().any(|start| line.starts_with(start))
}

/// Why a connection failed, in plain words.
type Reason = (String, Weight);

/// How lines about certificates and about the socket begin. Others quote what the server sent.
const CERTIFICATE: &[&str] = &["VERIFY ERROR", "WARNING: Your certificate"];
const SOCKET: &[&str] = &["read ", "write ", "TCP: connect to "];
/// Beginnings of a line, what it contains, and the reason; the first that matches decides.
const REASONS: [(&[&str], &str, &str, Weight); 11] = [
    (
        &["OpenSSL: error:"],
        "key values mismatch",
        "the private key does not belong to the certificate",
        Weight::Fatal,
    ),
    (
        &["Cannot load private key file"],
        "",
        "the private key cannot be loaded: the file is damaged, or its password is wrong",
        Weight::Fatal,
    ),
    (
        CERTIFICATE,
        "certificate has expired",
        "a certificate has expired",
        Weight::Final,
    ),
    (
        CERTIFICATE,
        "certificate is not yet valid",
        "a certificate is not valid yet (is the clock right?)",
        Weight::Final,
    ),
    (
        &["VERIFY ERROR"],
        "",
        "the server's certificate could not be verified",
        Weight::Final,
    ),
    (
        &["VERIFY KU ERROR", "VERIFY EKU ERROR"],
        "",
        "the server's certificate is not a server certificate",
        Weight::Final,
    ),
    (
        &["RESOLVE: Cannot"],
        "",
        "the server's name was not found",
        Weight::Cause,
    ),
    (
        SOCKET,
        "Connection refused",
        "the server refused the connection",
        Weight::Cause,
    ),
    (
        SOCKET,
        "Network is unreachable",
        "the server cannot be reached",
        Weight::Cause,
    ),
    (
        &["TLS Error: TLS key negotiation failed"],
        "",
        "no answer from the server",
        Weight::Silence,
    ),
    (
        &["TLS Error: TLS handshake failed"],
        "",
        "the TLS handshake with the server failed",
        Weight::Consequence,
    ),
];

/// The reason in a line of the daemon's log, if it has a known one.
pub fn reason_in(line: &str) -> Option<Reason> {
    // What the server offers and the file does not accept, or the reverse: a cipher, say.
    if let Some(cause) = line.strip_prefix("OPTIONS ERROR: ") {
        let cause: String = cause.chars().take(SHOWN).collect();
        return Some((escape(cause.as_bytes()), Weight::Final));
    }
    if let Some(names) = line.strip_prefix("VERIFY X509NAME ERROR: ") {
        let names: String = names.chars().take(SHOWN).collect();
        let words = "the server's certificate has another name";
        let reason = format!("{words}: {}", escape(names.as_bytes()));
        return Some((reason, Weight::Final));
    }
    let begins = |starts: &[&str]| starts.iter().any(|start| line.starts_with(start));
    let found = REASONS
        .iter()
        .find(|(starts, sign, ..)| begins(starts) && line.contains(sign));
    found.map(|(_, _, reason, weight)| (reason.to_string(), *weight))
}

/// The reason of the latest line that has a known one.
pub fn reason(lines: &[String]) -> Option<String> {
    let latest = lines.iter().rev().find_map(|line| reason_in(line));
    latest.map(|(reason, _)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_protocol() {
        let state = parse(">STATE:1700000000,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,");
        assert_eq!(state, Event::State("CONNECTED".into(), "SUCCESS".into()));
        let need = |kind: &str, with_user, challenge| {
            Event::Need(Need {
                kind: kind.to_string(),
                with_user,
                challenge,
            })
        };
        assert_eq!(
            parse(">PASSWORD:Need 'Auth' username/password"),
            need("Auth", true, None)
        );
        let challenge = StaticChallenge {
            text: "Your PIN, please".into(),
            echo: true,
            concatenate: false,
        };
        assert_eq!(
            parse(">PASSWORD:Need 'Auth' username/password SC:1,Your PIN, please"),
            need("Auth", true, Some(challenge))
        );
        assert_eq!(
            parse(">PASSWORD:Need 'Private Key' password"),
            need("Private Key", false, None)
        );
        assert_eq!(
            parse(">PASSWORD:Verification Failed: 'Auth'"),
            Event::Refused("Auth".into(), None)
        );
        assert_eq!(
            parse(">PASSWORD:Verification Failed: 'Auth' ['CRV1:R:x:YQ==:It's a PIN']"),
            Event::Refused("Auth".into(), Some("CRV1:R:x:YQ==:It's a PIN".into()))
        );
        assert_eq!(
            parse(">INFOMSG:CR_TEXT:R:PIN"),
            Event::Message("CR_TEXT:R:PIN".into())
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
    fn what_tells_nothing_of_a_failure() {
        for line in [
            "MANAGEMENT: >STATE:1700000000,RESOLVE,,,,,,",
            "TCP/UDP: Preserving recently used remote address: [AF_INET]192.0.2.1:1194",
            "UDPv4 link local: (not bound)",
        ] {
            assert!(is_noise(line), "{line}");
        }
        for line in [
            "AUTH: Received control message: AUTH_FAILED",
            "VERIFY ERROR: x",
        ] {
            assert!(!is_noise(line), "{line}");
        }
    }

    #[test]
    fn a_command_is_one_line() {
        assert_eq!(line_of("hold off").unwrap(), b"hold off\n");
        for command in ["a\nkeeper: stay", "a\rb", "a\0b", "a\n"] {
            assert!(line_of(command).is_err(), "{command:?}");
        }
    }

    #[test]
    fn the_latest_reason_counts() {
        let lines = [
            "TLS Error: TLS key negotiation failed to occur within 60 seconds".to_string(),
            "VERIFY ERROR: depth=0, error=certificate has expired: CN=server".into(),
        ];
        assert_eq!(
            reason(&lines),
            Some("a certificate has expired".to_string())
        );
        assert_eq!(reason(&["all is well".to_string()]), None);
        for (line, words) in [
            (
                "read UDPv4 [ECONNREFUSED]: Connection refused (fd=3,code=111)",
                "the server refused the connection",
            ),
            (
                "TCP: connect to [AF_INET]192.0.2.1:1194 failed: Network is unreachable",
                "the server cannot be reached",
            ),
            (
                "WARNING: Your certificate has expired!",
                "a certificate has expired",
            ),
        ] {
            assert_eq!(reason(&[line.to_string()]).as_deref(), Some(words));
            // A line that quotes the server.
            let quoting = format!("PUSH: Received control message: 'PUSH_REPLY,{line}'");
            assert_eq!(reason_in(&quoting), None);
        }
    }
}
