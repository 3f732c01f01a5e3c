//! What openconnect prints, and what it means. Its messages are those of version 9; an unknown one is
//! shown as it stands.

use super::options::{Options, shown};
use runns_shared::error::Error;

/// The beginnings of lines that tell of a step only.
const STEPS: [&str; 12] = [
    "POST http",
    "GET http",
    "Connected to ",
    "SSL negotiation with ",
    "Attempting to connect to ",
    "XML POST enabled",
    "SSL connection failure: ",
    "Failed to open HTTPS connection",
    "Failed to complete authentication",
    "Failed to connect to host ",
    "Creating SSL connection failed",
    "Unknown error; exiting",
];

/// Whether a line tells of a step only, or follows from an earlier one.
pub fn is_step(line: &str) -> bool {
    line.is_empty() || STEPS.iter().any(|step| line.starts_with(step))
}

/// Whether it asks for a group, and which there are: `GROUP: [a|b]:`.
pub fn groups(prompt: &str) -> Option<Vec<&str>> {
    let list = prompt.split_once('[')?.1.split_once("]:")?.0;
    Some(list.split('|').collect())
}

/// Whether it asks if a certificate is to be trusted.
pub fn asks_to_trust(prompt: &str) -> bool {
    prompt.starts_with("Enter 'yes' to accept")
}

/// Whether a server says that what was typed is wrong. There is no other sign of it: openconnect
/// prints the server's own words, in any language, and asks again.
pub fn is_refusal(line: &str) -> bool {
    const WORDS: [&str; 8] = [
        "fail",
        "denied",
        "incorrect",
        "invalid",
        "wrong",
        "reject",
        "unauthor",
        "try again",
    ];
    let line = line.to_lowercase();
    WORDS.iter().any(|word| line.contains(word))
}

/// What is between two pieces of a line.
fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = line.split_once(start)?.1;
    Some(rest.split_once(end)?.0)
}

/// The fingerprint that openconnect computed of the server's certificate.
fn fingerprint(lines: &[String]) -> Option<&str> {
    let mut words = lines.iter().flat_map(|line| line.split_whitespace());
    let of_one = |c: char| c.is_ascii_alphanumeric() || "+/=:-".contains(c);
    words.find(|word| {
        word.starts_with("pin-sha256:") && word.len() < 100 && word.chars().all(of_one)
    })
}

/// Why a login failed, from all that was printed.
pub fn failure(lines: &[String], options: &Options) -> Error {
    let find = |start: &str| lines.iter().rev().find_map(|line| line.strip_prefix(start));
    let has = |words: &str| lines.iter().any(|line| line.contains(words));
    let error = |cause: String| Error::new("log in", cause);
    let mismatch = has("specified via --servercert match");
    let unverified = find("Server certificate verify failed: ");
    if mismatch || unverified.is_some() || has("failed verification") {
        let cause = match unverified {
            _ if mismatch => "servercert= is the fingerprint of another certificate".to_string(),
            Some(why) => shown(why),
            None => "its issuer is unknown".to_string(),
        };
        let fingerprint = fingerprint(lines).unwrap_or_default();
        return error(format!(
            "the server's certificate does not verify: {cause}; its fingerprint is {fingerprint}"
        ))
        .hint(options.advise(
            &format!("servercert={fingerprint}"),
            "if the server's administrator confirms that",
        ));
    }
    if has("csd-wrapper") || has("CSD hostscan") || has("hostscan") {
        return error(
            "the server requires that its own program examines this machine (CSD or HIP), which runns-exec does not \
             run"
                .to_string(),
        )
        .hint("log in as yourself: openconnect --authenticate SERVER | sudo runns-exec build -s SECTION --authenticated");
    }
    let group = lines
        .iter()
        .rev()
        .find_map(|line| between(line, "Auth choice \"", "\" not available"));
    if let Some(group) = group {
        return error(format!("the server has no group {}", shown(group)))
            .hint("correct authgroup= in the file of OpenConnectOptions");
    }
    connection(lines)
        .or_else(|| refusal(lines))
        .map_or_else(|| error(last(lines)), error)
}

/// Why there is no connection to the server.
fn connection(lines: &[String]) -> Option<String> {
    lines.iter().rev().find_map(|line| {
        if let Some(rest) = line.strip_prefix("getaddrinfo failed for host ") {
            return Some(format!("the server's name was not found: {}", shown(rest)));
        }
        let refused = ["Failed to connect to ", "Failed to reconnect to "]
            .iter()
            .find_map(|start| line.strip_prefix(start))
            .filter(|rest| !rest.starts_with("host "));
        refused.map(|rest| format!("cannot connect to the server {}", shown(rest)))
    })
}

/// Whether the server refused what was typed, in its own words.
fn refusal(lines: &[String]) -> Option<String> {
    let said: Vec<&String> = lines.iter().filter(|line| !is_step(line)).collect();
    let words = said.iter().rev().find(|line| is_refusal(line))?;
    Some(format!("the server refused the login: {}", shown(words)))
}

/// The last line that is not a mere step.
fn last(lines: &[String]) -> String {
    let telling = |line: &&String| !is_step(line);
    let last = lines.iter().rfind(telling).or(lines.last());
    last.map_or("openconnect exited".to_string(), |line| shown(line))
}

/// How much a line of the daemon's tells of why the tunnel is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It tried.
    Attempt,
    /// It gave up.
    End,
}

/// Why the tunnel is down, if a line of the daemon's tells.
pub fn reason(line: &str) -> Option<(Weight, String)> {
    const ENDS: [(&str, &str); 7] = [
        (
            "Session terminated by server",
            "the session has ended: the server ended it",
        ),
        (
            "Cookie was rejected by server",
            "the session has ended: the server does not accept it any more",
        ),
        (
            "Cookie is no longer valid",
            "the session has ended: the server does not accept it any more",
        ),
        ("User cancelled", "it was stopped"),
        ("User canceled", "it was stopped"),
        ("User detached", "it was stopped"),
        (
            "Reconnect failed",
            "the session has ended: the server could not be reached again in time",
        ),
    ];
    if let Some((_, words)) = ENDS.iter().find(|(start, _)| line.starts_with(start)) {
        return Some((Weight::End, words.to_string()));
    }
    // That of DTLS only ends DTLS.
    if line.starts_with("CSTP Dead Peer Detection detected dead peer") {
        let words = "the server does not answer any more";
        return Some((Weight::Attempt, words.to_string()));
    }
    connection(&[line.to_string()]).map(|words| (Weight::Attempt, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_prompt() {
        assert_eq!(groups("GROUP: [a|b c]:").unwrap(), ["a", "b c"]);
        assert_eq!(groups("Password:"), None);
    }

    #[test]
    fn why_a_tunnel_is_down() {
        let words = |line: &str| reason(line).map(|(_, words)| words);
        assert!(
            words("Cookie was rejected by server; exiting.")
                .unwrap()
                .contains("session has ended")
        );
        assert!(words("Failed to reconnect to host 192.0.2.1: x").is_none());
        assert_eq!(words("Send BYE packet: Server request"), None);
    }
}
