//! What each server said while build waits for one of them. OpenVPN goes from one to the next by
//! itself, and begins again after the last.

use std::collections::BTreeMap;

use runns_shared::escape::escape;

/// How many servers are told of in an error.
const TOLD: usize = 8;
/// How many are remembered at most.
const MOST: usize = 256;

/// Why a server was not used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    words: String,
    weight: Weight,
    /// Whether it is of an earlier attempt.
    is_old: bool,
}

/// How much a reason tells. One that tells more is not replaced by what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It follows from every other.
    Consequence,
    /// Nothing came back.
    Silence,
    /// The cause.
    Cause,
    /// Trying that server again cannot help.
    Final,
    /// It is of the file, and no server can help.
    Fatal,
}

/// All attempts.
#[derive(Debug, Default)]
pub struct Attempts {
    /// By the order in which they were first tried.
    servers: Vec<String>,
    said: BTreeMap<String, Said>,
    current: Option<String>,
    /// Whether OpenVPN has come back to one that it had tried.
    came_round: bool,
}

impl Attempts {
    /// An attempt at `server` begins, if it does not go on. True for the first that is a repetition.
    pub fn begin(&mut self, server: &str) -> bool {
        let known = self.servers.iter().any(|known| known == server);
        if !known && self.servers.len() < MOST {
            self.servers.push(server.to_string());
        }
        self.current = Some(server.to_string());
        if let Some(said) = self.said.get_mut(server) {
            said.is_old = true;
        }
        let first = known && !self.came_round;
        self.came_round |= known;
        first
    }

    /// The server that is being tried gave a reason.
    pub fn note(&mut self, words: &str, weight: Weight) {
        let server = self.current.clone().unwrap_or_default();
        let said = Said {
            words: words.to_string(),
            weight,
            is_old: false,
        };
        let keeps =
            |old: &Said| old.weight > weight && (!old.is_old || old.weight >= Weight::Final);
        if !self.said.get(&server).is_some_and(keeps) && self.said.len() < MOST {
            self.said.insert(server, said);
        }
    }

    /// Whether none can be used: every server was tried, or the cause is in the file.
    pub fn are_hopeless(&self) -> bool {
        let weight = |server: &String| self.said.get(server).map(|said| said.weight);
        let is_final = |server: &String| weight(server) == Some(Weight::Final);
        self.said.values().any(|said| said.weight == Weight::Fatal)
            || (self.came_round && self.servers.iter().all(is_final))
    }

    /// Whether OpenVPN has come back to a server that it had tried.
    pub fn came_round(&self) -> bool {
        self.came_round
    }

    /// What went wrong. `silent` is said of a server that gave no reason.
    pub fn summary(&self, silent: &str) -> Option<String> {
        let words = |server: &String| {
            let said = self.said.get(server);
            said.map_or(silent.to_string(), |said| said.words.clone())
        };
        match &self.servers[..] {
            [] => self.said.get("").map(|said| said.words.clone()),
            [server] => self.said.get(server).map(|said| said.words.clone()),
            servers => {
                let mut told: Vec<String> = servers
                    .iter()
                    .take(TOLD)
                    .map(|server| format!("{}: {}", escape(server.as_bytes()), words(server)))
                    .collect();
                if servers.len() > TOLD {
                    told.push(format!("and {} more", servers.len() - TOLD));
                }
                Some(format!(
                    "none of {} servers: {}",
                    servers.len(),
                    told.join("; ")
                ))
            }
        }
    }
}

/// The server in a line of the log with which an attempt begins: `TCP/UDP: Preserving recently used
/// remote address: [AF_INET]192.0.2.1:1194`, or `RESOLVE: Cannot resolve host address:
/// vpn.example:1194 (...)` (socket.c of OpenVPN's sources).
pub fn server_in(line: &str) -> Option<&str> {
    if let Some(name) = line.strip_prefix("RESOLVE: Cannot resolve host address: ") {
        return name.split(' ').next();
    }
    let address = line.strip_prefix("TCP/UDP: Preserving recently used remote address: ")?;
    Some(match address.trim().strip_prefix('[')?.split_once(']')? {
        ("AF_INET" | "AF_INET6", address) => address,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_server_said() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.summary("silent"), None);
        assert!(!attempts.begin("a:1"));
        attempts.note("bad certificate", Weight::Final);
        attempts.note("the TLS handshake failed", Weight::Consequence);
        assert_eq!(attempts.summary("").as_deref(), Some("bad certificate"));
        assert!(!attempts.are_hopeless() && !attempts.begin("b:2"));
        assert_eq!(
            attempts.summary("no answer").as_deref(),
            Some("none of 2 servers: a:1: bad certificate; b:2: no answer")
        );
        assert!(attempts.begin("a:1") && !attempts.begin("a:1"));
        assert!(!attempts.are_hopeless(), "b may still answer");
        attempts.begin("b:2");
        attempts.note("bad certificate", Weight::Final);
        assert!(attempts.are_hopeless());
    }

    #[test]
    fn the_address_of_an_attempt() {
        let line = "TCP/UDP: Preserving recently used remote address: [AF_INET]192.0.2.1:1200";
        assert_eq!(server_in(line), Some("192.0.2.1:1200"));
        let line = "TCP/UDP: Preserving recently used remote address: [AF_INET6]2001:db8::1:1194";
        assert_eq!(server_in(line), Some("2001:db8::1:1194"));
        let line = "RESOLVE: Cannot resolve host address: a.test:1194 (Name or service not known)";
        assert_eq!(server_in(line), Some("a.test:1194"));
        assert_eq!(server_in("UDPv4 link remote: [AF_UNSPEC]"), None);
        // A line that quotes the server.
        let quoting = format!("PUSH: Received control message: 'PUSH_REPLY,{line}'");
        assert_eq!(server_in(&quoting), None);
    }
}
