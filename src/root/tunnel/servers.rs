//! The addresses of a daemon's servers and proxies. A daemon in the namespace cannot look them up:
//! the namespace's resolver may be reachable only through the tunnel. build looks them up on the
//! host, and the keeper does so again while the tunnel is down, because a server may have moved.

use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::hosts_file;
use crate::confine;
use crate::kernel::{file, tool};
use runns_shared::error::Result;
use runns_shared::name::NetnsName;

/// How long to wait until the first lookup, at least and for each name. Then it is twice as long
/// from one to the next, up to the most.
const REST: Duration = Duration::from_secs(10);
const REST_EACH: Duration = Duration::from_secs(1);
const MOST_REST: Duration = Duration::from_secs(300);

/// What a lookup finds, in the order of the names.
type Found = Vec<Vec<IpAddr>>;

/// The servers of one daemon.
pub struct Servers {
    names: Vec<String>,
    addresses: Found,
    /// Those that build found.
    of_build: Found,
    lookup: Option<JoinHandle<Found>>,
    /// When the last lookup ended.
    ended: Instant,
    /// How long to wait until the next one.
    rest: Duration,
}

impl Servers {
    /// These names, with the addresses that build has found.
    pub fn known(namespace: &NetnsName, names: Vec<String>) -> Self {
        let text = std::fs::read_to_string(hosts_file(namespace)).unwrap_or_default();
        let of_build: Found = names.iter().map(|name| in_hosts(&text, name)).collect();
        Self {
            addresses: of_build.clone(),
            of_build,
            rest: rest(&names),
            names,
            lookup: None,
            ended: Instant::now(),
        }
    }

    /// Looks the names up, and waits for it. Returns those that were not found: they keep the
    /// addresses that they had, because the host may be without a network.
    pub fn look_up(&mut self) -> Vec<String> {
        let mut missing = Vec::new();
        let each = self.names.iter().zip(&mut self.addresses);
        for ((name, known), found) in each.zip(tool::addresses_of_all(&self.names)) {
            match found.is_empty() {
                true => missing.push(name.clone()),
                false => *known = found,
            }
        }
        missing
    }

    fn each(&self) -> impl Iterator<Item = (&String, &Vec<IpAddr>)> {
        self.names.iter().zip(&self.addresses)
    }

    /// The addresses of `name`.
    pub fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let found = self.each().find(|(known, _)| *known == name);
        found.map_or(Vec::new(), |(_, addresses)| addresses.clone())
    }

    /// The lines of hosts(5).
    pub fn hosts(&self) -> String {
        let line = |name: &str, address: &IpAddr| format!("{address} {name}\n");
        self.each()
            .flat_map(|(name, addresses)| addresses.iter().map(move |one| line(name, one)))
            .collect()
    }

    /// Looks the names up again when it is time to. It does not wait for the answers, which may take
    /// until the host's resolver gives up, but takes those that are there.
    pub fn follow(&mut self) {
        if let Some(lookup) = self.lookup.take_if(|lookup| lookup.is_finished()) {
            self.take(lookup.join().unwrap_or_default());
            self.ended = Instant::now();
            self.rest = (self.rest * 2).min(MOST_REST.max(self.rest));
        }
        if self.is_looking() || self.names.is_empty() || self.ended.elapsed() < self.rest {
            return;
        }
        let names = self.names.clone();
        // The answers come from whom the host's resolver asks.
        let look_up = move || {
            let dropped = confine::drop_capabilities();
            dropped.map_or(Vec::new(), |()| tool::addresses_of_all(&names))
        };
        self.lookup = std::thread::Builder::new().spawn(look_up).ok();
    }

    /// The tunnel is up: when it is down again, the first lookup is soon.
    pub fn rest(&mut self) {
        self.rest = rest(&self.names);
        self.ended = Instant::now();
    }

    /// Whether a lookup takes place.
    pub fn is_looking(&self) -> bool {
        self.lookup.is_some()
    }

    /// Takes the addresses that were found. Those of build stay behind them: an answer may be wrong,
    /// or name only addresses that the daemon cannot reach.
    fn take(&mut self, found: Found) {
        let each = self.addresses.iter_mut().zip(&self.of_build);
        for ((known, of_build), mut found) in each.zip(found) {
            if !found.is_empty() {
                let new = |address: &&IpAddr| !found.contains(address);
                let behind: Vec<IpAddr> = of_build.iter().filter(new).copied().collect();
                found.extend(behind);
                *known = found;
            }
        }
    }
}

fn rest(names: &[String]) -> Duration {
    REST.max(REST_EACH * names.len() as u32)
}

/// Stores what build found, for the keepers of the namespace.
pub fn store(namespace: &NetnsName, found: &[Servers]) -> Result<()> {
    let text: String = found.iter().map(Servers::hosts).collect();
    file::write(&hosts_file(namespace), text)
}

/// The addresses that lines of hosts(5) have for a name.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|known| known == name).then_some(address)
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_comes_before_what_build_found() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let names = vec!["a.test".to_string(), "b.test".into()];
        let mut servers = Servers::known(&NetnsName::new("none").unwrap(), names);
        servers.of_build[0] = vec![address("192.0.2.1")];
        servers.take(vec![vec![address("192.0.2.1")], Vec::new()]);
        assert_eq!(servers.hosts(), "192.0.2.1 a.test\n");
        servers.take(vec![
            Vec::new(),
            vec![address("192.0.2.2"), address("2001:db8::2")],
        ]);
        let text = "192.0.2.1 a.test\n192.0.2.2 b.test\n2001:db8::2 b.test\n";
        assert_eq!(servers.hosts(), text);
        assert_eq!(in_hosts(text, "b.test"), servers.addresses_of("b.test"));
        servers.take(vec![vec![address("192.0.2.9")], Vec::new()]);
        servers.take(vec![vec![address("192.0.2.8")], Vec::new()]);
        let both = ["192.0.2.8", "192.0.2.1"].map(address);
        assert_eq!(servers.addresses_of("a.test"), both);
    }
}
