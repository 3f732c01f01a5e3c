//! What OpenVPN asks for through its management interface: user names, passwords, and one-time
//! codes (management-notes.txt of its sources, "Challenge/Response Protocol").
//!
//! The user name and password of `auth-user-pass FILE` are given by us as well: a daemon that reads
//! the file itself would ask for a code on its terminal, which it does not have.

use std::collections::BTreeMap;

use super::credentials::LONGEST;
use super::event::{Need, quoted};
use super::profile::Profile;
use runns_shared::error::{Error, Result};
use runns_shared::escape::escape;

/// Characters of a text of the server's that are shown.
const SHOWN: usize = 200;
/// Characters of its question that are shown in a prompt.
const LONGEST_QUESTION: usize = 60;
/// What OpenVPN calls the login to the VPN (UP_TYPE_AUTH in its sources).
pub const AUTH: &str = "Auth";
/// What it calls those to proxies, with the options that name them.
const PROXIES: [(&str, &str, &str); 2] = [
    ("HTTP Proxy", "http-proxy", "HTTP proxy"),
    ("SOCKS Proxy", "socks-proxy", "SOCKS proxy"),
];

/// A question: what it is about, and whether the answer may be seen.
pub struct Question<'a> {
    /// In a few words: `VPN password`.
    pub what: &'a str,
    /// Whether the answer is shown while it is typed.
    pub echo: bool,
}

/// Asks on the terminal; `None` where there is none.
pub type Ask<'a> = &'a dyn Fn(&Question) -> Result<Option<String>>;

/// Who is there to ask, and what is known without.
pub struct Login<'a> {
    profile: &'a Profile,
    ask: Ask<'a>,
    /// The command to type where somebody can be asked.
    by_hand: &'a str,
    /// The server's question after a login that was not enough (CRV1).
    challenge: Option<Challenge>,
    /// Passwords of keys by their kind. The daemon forgets them with a login that failed.
    keys: BTreeMap<String, String>,
}

/// A dynamic challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Challenge {
    text: String,
    echo: bool,
    needs_answer: bool,
    state: String,
    user: String,
}

impl Challenge {
    /// From `CRV1:FLAGS:STATE:USER:TEXT`, with the user name in base64, which can hide a line
    /// break: what follows it would be a command for the daemon or its keeper.
    fn parse(reason: &str) -> Option<Self> {
        let mut fields = reason.strip_prefix("CRV1:")?.splitn(4, ':');
        let flags: Vec<&str> = fields.next()?.split(',').collect();
        let (state, user) = (fields.next()?, decode(fields.next()?)?);
        let user = String::from_utf8(user).ok()?;
        if user.contains(char::is_control) {
            return None;
        }
        Some(Self {
            text: fields.next()?.to_string(),
            echo: flags.contains(&"E"),
            needs_answer: flags.contains(&"R"),
            state: state.to_string(),
            user,
        })
    }
}

/// Whether the server asks for a one-time code by this reason for a failed login.
pub fn is_challenge(reason: &str) -> bool {
    reason.starts_with("CRV1:")
}

impl<'a> Login<'a> {
    /// For the tunnel of this file.
    pub fn new(profile: &'a Profile, ask: Ask<'a>, by_hand: &'a str) -> Self {
        Self {
            profile,
            ask,
            by_hand,
            challenge: None,
            keys: BTreeMap::new(),
        }
    }

    /// The commands that answer what OpenVPN needs.
    pub fn answer(&mut self, need: &Need) -> Result<Vec<String>> {
        let (user, password) = match need.kind.as_str() {
            AUTH => self.auth(need)?,
            kind => self.other(kind, need.with_user)?,
        };
        let command = |verb: &str, word: &str| {
            if word.len() > LONGEST {
                let cause =
                    format!("it has more than {LONGEST} bytes, which OpenVPN does not take");
                return Err(Error::new(format!("send the {verb}"), cause));
            }
            Ok(format!("{verb} {} {}", quoted(&need.kind), quoted(word)))
        };
        let mut commands = Vec::new();
        if need.with_user {
            commands.push(command("username", &user)?);
        }
        commands.push(command("password", &password)?);
        Ok(commands)
    }

    /// User name and password for the VPN, with a one-time code if one is asked for.
    fn auth(&mut self, need: &Need) -> Result<(String, String)> {
        if let Some(challenge) = self.challenge.take() {
            let response = match challenge.needs_answer {
                true => self.code(&challenge.text, challenge.echo)?,
                false => String::new(),
            };
            let answer = format!("CRV1::{}::{response}", challenge.state);
            return Ok((challenge.user, answer));
        }
        let known = self.profile.credentials()?;
        let user = match &known {
            Some(known) => known.user.clone(),
            None => self.need_word("VPN user name", true, AUTH)?,
        };
        let password = match known.and_then(|known| known.password) {
            Some(password) => password,
            None => self.need_word("VPN password", false, AUTH)?,
        };
        let Some(challenge) = &need.challenge else {
            return Ok((user, password));
        };
        let code = self.code(&challenge.text, challenge.echo)?;
        let answer = match challenge.concatenate {
            true => format!("{password}{code}"),
            false => format!(
                "SCRV1:{}:{}",
                encode(password.as_bytes()),
                encode(code.as_bytes())
            ),
        };
        Ok((user, answer))
    }

    /// What a proxy, a private key or a token needs.
    fn other(&mut self, kind: &str, with_user: bool) -> Result<(String, String)> {
        if let Some(password) = self.keys.get(kind).filter(|_| !with_user) {
            return Ok((String::new(), password.clone()));
        }
        let whose = self.whose(kind);
        let user = match with_user {
            true => self.need_word(&format!("{whose} user name"), true, kind)?,
            false => String::new(),
        };
        let password = self.need_word(&format!("{whose} password"), false, kind)?;
        if !with_user {
            self.keys.insert(kind.to_string(), password.clone());
        }
        Ok((user, password))
    }

    /// Who asks for a password of this kind.
    fn whose(&self, kind: &str) -> String {
        let Some((_, option, words)) = PROXIES.iter().find(|(name, ..)| *name == kind) else {
            return match kind {
                "Private Key" => "private key".to_string(),
                kind => escape(kind.as_bytes()),
            };
        };
        let mut proxies: Vec<String> = Vec::new();
        for line in self.profile.all(option) {
            let words: Vec<_> = line.arguments().iter().take(2).collect();
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            let address = escape(words.join(":").as_bytes());
            if !proxies.contains(&address) {
                proxies.push(address);
            }
        }
        format!("{words} {}", proxies.join(" or "))
    }

    fn need_word(&self, what: &str, echo: bool, kind: &str) -> Result<String> {
        (self.ask)(&Question { what, echo })?.ok_or_else(|| {
            let kind = escape(kind.as_bytes());
            Error::new(
                "ask",
                format!("it needs a password ({kind}), and there is no terminal to ask on"),
            )
            .hint("put it into a file that only root can read, and set auth-user-pass or askpass to that file")
        })
    }

    /// A one-time code. There is no file that it could be in.
    fn code(&self, text: &str, echo: bool) -> Result<String> {
        let what = code_words(text);
        (self.ask)(&Question { what: &what, echo })?.ok_or_else(|| {
            Error::new(
                "ask",
                format!("it needs a {what}, and there is no terminal to ask on"),
            )
            .hint(self.by_hand)
        })
    }

    /// The server refused the password of this kind. An error if there is nothing more to say to
    /// it, as OpenVPN itself would end: its default is `auth-retry none`.
    pub fn refused(&mut self, kind: &str, reason: Option<&str>) -> Result<Refusal> {
        if kind == AUTH {
            if let Some(reason) = reason.filter(|reason| is_challenge(reason)) {
                self.challenge = Challenge::parse(reason);
                return match self.challenge {
                    Some(_) => Ok(Refusal::Challenge),
                    None => Err(Error::new(
                        "log in",
                        "the server asks for a code in a way that cannot be read",
                    )),
                };
            }
            return match is_final(reason, self.profile) {
                true => Err(Error::new("log in", refusal(reason, self.profile))),
                false => Ok(Refusal::Retried),
            };
        }
        if self.keys.remove(kind).is_some() {
            let whose = self.whose(kind);
            return Err(Error::new(
                "log in",
                format!("the password of the {whose} is wrong"),
            ));
        }
        Ok(Refusal::Retried)
    }

    /// Why a login was refused, in words.
    pub fn refusal(&self, kind: &str, reason: Option<&str>) -> String {
        match kind {
            AUTH => refusal(reason, self.profile),
            kind => format!("the {} refused user name or password", self.whose(kind)),
        }
    }

    /// What the server says in the middle of a login (`INFOMSG`): the command that answers it, or
    /// what the user is to do.
    pub fn message(&self, message: &str) -> Result<Reply> {
        if let Some((flags, text)) = message
            .strip_prefix("CR_TEXT:")
            .and_then(|rest| rest.split_once(':'))
        {
            let code = self.code(text, flags.split(',').any(|flag| flag == "E"))?;
            return Ok(Reply::Send(format!(
                "cr-response {}",
                encode(code.as_bytes())
            )));
        }
        Ok(match url(message) {
            Some(url) => Reply::Tell(format!(
                "to log in, open {} in a browser",
                escape(url.as_bytes())
            )),
            None => Reply::Nothing,
        })
    }
}

/// What follows a refused login.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server wants a one-time code; OpenVPN asks for it next.
    Challenge,
    /// OpenVPN tries again.
    Retried,
}

/// What follows a message of the server's.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A command for OpenVPN.
    Send(String),
    /// Words for the user.
    Tell(String),
    /// None is needed.
    Nothing,
}

/// The address in `OPEN_URL:URL` or `WEB_AUTH:FLAGS:URL`.
fn url(message: &str) -> Option<&str> {
    let url = match message.strip_prefix("WEB_AUTH:") {
        Some(rest) => rest.split_once(':')?.1,
        None => message.strip_prefix("OPEN_URL:")?,
    };
    (url.starts_with("https://") || url.starts_with("http://")).then_some(url)
}

/// Whether a refused login is not to be sent again.
pub fn is_final(reason: Option<&str>, profile: &Profile) -> bool {
    let retry = profile.value("auth-retry").unwrap_or_default();
    let temporary = reason.is_some_and(|reason| reason.starts_with("TEMP"));
    !(retry == "interact" || retry == "nointeract" || temporary)
}

/// Why the server refused a login, in its own words if it gave any.
pub fn refusal(reason: Option<&str>, profile: &Profile) -> String {
    match reason {
        Some(reason) if is_challenge(reason) => {
            let text = Challenge::parse(reason).map(|challenge| challenge.text);
            format!("the server asks for a new {}", code_words(&text.unwrap_or_default()))
        }
        Some(reason) => {
            let reason: String = reason.chars().take(SHOWN).collect();
            format!("the server refused the login: {}", escape(reason.as_bytes()))
        }
        None if profile.value("auth-user-pass").is_none() => {
            "authentication failed: the server refused the login without a reason; the file has no auth-user-pass"
                .to_string()
        }
        None => "authentication failed: the server refused user name or password".to_string(),
    }
}

/// What cannot be answered while nobody is there.
pub fn unanswered(need: &Need) -> String {
    match &need.challenge {
        Some(challenge) => format!("the server asks for a new {}", code_words(&challenge.text)),
        None => format!("it asks for a password ({})", escape(need.kind.as_bytes())),
    }
}

/// What the server wants in the middle of a login, if nobody is there.
pub fn unanswered_message(message: &str) -> Option<String> {
    if let Some(rest) = message.strip_prefix("CR_TEXT:") {
        let text = rest.split_once(':').map_or("", |(_, text)| text);
        return Some(format!("the server asks for a new {}", code_words(text)));
    }
    url(message).map(|url| {
        let url: String = url.chars().take(SHOWN).collect();
        format!(
            "the server wants a login in a browser, at {}",
            escape(url.as_bytes())
        )
    })
}

/// The question of a prompt. Blanks in it cannot wrap the line into what looks like another prompt.
fn code_words(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text: String = words.join(" ").chars().take(LONGEST_QUESTION).collect();
    if text.is_empty() {
        "one-time code".to_string()
    } else {
        format!("one-time code ({})", escape(text.as_bytes()))
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 (RFC 4648, 4).
fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | u32::from(*three.get(at).unwrap_or(&0))
        });
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() {
                digit as char
            } else {
                '='
            });
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let digits = text.trim_end_matches('=').as_bytes();
    for four in digits.chunks(4) {
        let mut bits = 0;
        for at in 0..4 {
            let digit = match four.get(at) {
                Some(digit) => DIGITS.iter().position(|known| known == digit)?,
                None => 0,
            };
            bits = bits << 6 | digit as u32;
        }
        let whole = four.len().checked_sub(1).filter(|whole| *whole > 0)?;
        bytes.extend(&bits.to_be_bytes()[1..=whole]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64() {
        // The test vectors of RFC 4648, 10.
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain.as_bytes()), coded);
            assert_eq!(decode(coded).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(decode("Y"), None);
        assert_eq!(decode("Zg\n="), None);
    }

    #[test]
    fn a_dynamic_challenge() {
        let challenge = Challenge::parse("CRV1:R,E:Om01:Y3Ix:Please: enter PIN").unwrap();
        assert_eq!((challenge.user.as_str(), challenge.echo), ("cr1", true));
        assert_eq!(challenge.text, "Please: enter PIN");
        assert!(challenge.needs_answer && challenge.state == "Om01");
        assert_eq!(Challenge::parse("CRV1:R:x:!:y"), None);
        assert_eq!(Challenge::parse("expired"), None);
        for user in ["x\nkeeper: stay\n", "x\r", "x\0y", "\u{85}"] {
            let reason = format!("CRV1:E:s:{}:t", encode(user.as_bytes()));
            assert_eq!(Challenge::parse(&reason), None, "{user:?}");
        }
    }

    #[test]
    fn a_question_stays_on_its_line() {
        assert_eq!(code_words("  "), "one-time code");
        let text = format!("PIN){}\u{3000}\u{a0}sudo password:", " ".repeat(150));
        assert_eq!(code_words(&text), "one-time code (PIN) sudo password:)");
        assert!(code_words(&"x".repeat(200)).len() < 80);
    }

    #[test]
    fn addresses_of_a_login() {
        assert_eq!(url("OPEN_URL:https://a/b:c"), Some("https://a/b:c"));
        assert_eq!(url("WEB_AUTH:hidden,external:http://a"), Some("http://a"));
        assert_eq!(url("WEB_AUTH::javascript:x"), None);
    }
}
