//! The key and the peers of a WireGuard device, compared with those of its file. Keys come from
//! wg(8)'s output, are compared, and go nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::wgquick::{Prefix, prefix};
use crate::kernel::tool;
use runns_shared::error::Result;

/// What decides with whom a device talks, and about what. Endpoints are not part of it: peers move.
#[derive(PartialEq, Eq, Default)]
pub struct Peers {
    /// The device's public key.
    own: String,
    /// The peers' preshared keys, by public key.
    peers: BTreeMap<String, Option<String>>,
    /// The peer that each network belongs to.
    networks: BTreeMap<IpNet, String>,
}

impl Peers {
    /// What `device` has, which is its name for wg(8) in the calling thread's network namespace.
    pub fn of(device: &str) -> Result<Self> {
        Ok(Self::from_dump(&tool::ask(
            "wg",
            &["show", device, "dump"],
            "",
        )?))
    }

    /// From `wg show DEVICE dump`: a line of the device, then one of each peer (wg(8)). It names each
    /// network once. Userspace implementations, which also write this, may list very many.
    fn from_dump(said: &str) -> Self {
        let mut lines = said.lines();
        let own = lines.next().and_then(|line| line.split('\t').nth(1));
        let mut peers = Self {
            own: own.unwrap_or_default().to_string(),
            ..Self::default()
        };
        for line in lines {
            let words: Vec<&str> = line.split('\t').collect();
            if let [key, preshared, _, networks, ..] = words[..] {
                peers.share(key, preshared);
                peers.allow(key, networks);
            }
        }
        peers
    }

    /// What a device has that got this input of `wg setconf`.
    pub fn wanted(setconf: &str) -> Result<Self> {
        let private = values(setconf).find(|(name, _)| *name == "PrivateKey");
        // The kernel stores a private key with some bits set (RFC 7748, 5), so public ones are compared.
        let own = tool::run("wg", &["pubkey"], private.map_or("", |(_, key)| key))?;
        Ok(Self::from_setconf(setconf, own.trim()))
    }

    fn from_setconf(setconf: &str, own: &str) -> Self {
        let mut peers = Self {
            own: own.to_string(),
            ..Self::default()
        };
        for section in setconf.split("[Peer]\n").skip(1) {
            let value = |wanted| move |(name, value)| (name == wanted).then_some(value);
            let Some(key) = values(section).find_map(value("PublicKey")) else {
                continue;
            };
            // The kernel passes over the device's own key (drivers/net/wireguard/netlink.c).
            if key == own {
                continue;
            }
            peers.add(key);
            if let Some(preshared) = values(section).find_map(value("PresharedKey")) {
                peers.share(key, preshared);
            }
            for networks in values(section).filter_map(value("AllowedIPs")) {
                peers.allow(key, networks);
            }
        }
        peers
    }

    /// A section of a file replaces the networks of an earlier one with the same peer.
    fn add(&mut self, key: &str) {
        self.networks.retain(|_, peer| peer != key);
        self.peers.entry(key.to_string()).or_default();
    }

    /// All zero bits mean that there is none.
    fn share(&mut self, key: &str, preshared: &str) {
        let is_none =
            preshared == "(none)" || preshared.trim_end_matches('=').chars().all(|c| c == 'A');
        self.peers
            .insert(key.to_string(), (!is_none).then(|| preshared.to_string()));
    }

    /// A network has one peer, the last that it was given to.
    fn allow(&mut self, key: &str, networks: &str) {
        let network = |word: &str| {
            let word = word.trim();
            let alone = || word.parse::<IpAddr>().ok().map(IpNet::from);
            word.parse()
                .ok()
                .or_else(alone)
                .map(|net: IpNet| net.trunc())
        };
        let networks = networks.split(',').filter_map(network);
        self.networks
            .extend(networks.map(|network| (network, key.to_string())));
    }

    /// Whether both have the same private key.
    pub fn has_key_of(&self, other: &Self) -> bool {
        self.own == other.own
    }

    /// What is wrong with a device that has these, where `wanted` was set.
    pub fn wrong(&self, wanted: &Self) -> Option<&'static str> {
        if self.own != wanted.own {
            Some("another private key")
        } else if self.peers != wanted.peers {
            Some("other peers than its file")
        } else if self.networks != wanted.networks {
            Some("other AllowedIPs than its file")
        } else {
            None
        }
    }
}

/// How long a session lives at most, in seconds (Reject-After-Time, section 6.1 of the WireGuard
/// paper). While packets are sent, another handshake takes place well before.
const SESSION: i64 = 180;
/// By when the first handshake must have taken place: it is tried every five seconds.
const FIRST: i64 = 30;

/// Networks of a peer to which packets are sent: of the first ones, another peer may have a part.
const MOST: usize = 8;
/// Bytes of the message that begins a handshake (section 5.4.2 of the WireGuard paper), which count as
/// received: the server may send it again and again although nothing reaches it, and others may send
/// a copy. The answer to one of ours has 92 bytes, and what a session carries 32 and more.
const INITIATION: u64 = 148;

/// What has passed between a device and one of its peers.
struct Contact {
    /// Whether it is known where to send packets to.
    has_endpoint: bool,
    /// The same, unless it has a zone.
    endpoint: Option<SocketAddr>,
    /// Some of its networks.
    networks: Vec<Prefix>,
    /// Seconds since the epoch, by the clock as it was then; 0 for never.
    handshake: i64,
    /// Bytes, of which WireGuard counts only those that it could authenticate.
    received: u64,
    /// Whether it has a persistent keepalive.
    keepalive: bool,
}

impl Contact {
    /// Whether this peer has answered since it was as `earlier`, which takes a packet of ours that has
    /// reached it: a handshake is complete, or a session is alive. Handshakes are compared, not their
    /// times, since somebody may have set the clock.
    fn has_answered_since(&self, earlier: Option<&Self>) -> bool {
        let (handshake, received) = earlier.map_or((0, 0), |peer| (peer.handshake, peer.received));
        let more = self.received.saturating_sub(received);
        self.handshake > 0 && (self.handshake != handshake || more % INITIATION != 0)
    }
}

/// What has passed between a device and its peers, by their public keys.
pub struct Contacts(BTreeMap<String, Contact>);

impl Contacts {
    /// Of `device`, which is its name for wg(8) in the calling thread's network namespace.
    pub fn of(device: &str) -> Result<Self> {
        tool::ask("wg", &["show", device, "dump"], "").map(|said| Self::from_dump(&said))
    }

    /// From `wg show DEVICE dump`: a line of the device, then one of each peer (wg(8)).
    fn from_dump(said: &str) -> Self {
        let peer = |line: &str| {
            let words: Vec<&str> = line.split('\t').collect();
            let [
                key,
                _,
                endpoint,
                networks,
                handshake,
                received,
                _,
                keepalive,
            ] = words[..]
            else {
                return None;
            };
            let networks = networks.split(',').filter_map(|word| prefix(word).ok());
            let contact = Contact {
                has_endpoint: endpoint != "(none)",
                endpoint: endpoint.parse().ok(),
                networks: networks.take(MOST).collect(),
                handshake: handshake.parse().unwrap_or(0),
                received: received.parse().unwrap_or(0),
                keepalive: keepalive != "off",
            };
            Some((key.to_string(), contact))
        };
        Self(said.lines().skip(1).filter_map(peer).collect())
    }

    /// Whether a peer has answered lately. One that did so in the future did it before somebody set
    /// the clock back.
    pub fn is_fresh(&self, now: i64) -> bool {
        let is_fresh =
            |peer: &Contact| peer.handshake > 0 && (0..=SESSION).contains(&(now - peer.handshake));
        self.0.values().any(is_fresh)
    }

    /// Whether none of the peers has answered lately, on a device that was set up at `start`: the
    /// server may be gone, nobody may have sent anything, or somebody may have set the clock. A
    /// first handshake may still take place.
    pub fn is_idle(&self, start: i64, now: i64) -> bool {
        !self.is_fresh(now)
            && (self.latest_handshake() > 0 || !(0..=FIRST).contains(&(now - start)))
    }

    /// The time of the latest handshake, in seconds since the epoch; 0 for never.
    pub fn latest_handshake(&self) -> i64 {
        let times = self.0.values().map(|peer| peer.handshake);
        times.max().unwrap_or(0)
    }

    /// Whether something is sent to a peer again and again, which therefore should answer.
    pub fn keep_alive(&self) -> bool {
        self.0.values().any(|peer| peer.keepalive)
    }

    /// Whether this side can begin to talk to each peer.
    pub fn has_all_endpoints(&self) -> bool {
        self.0.values().all(|peer| peer.has_endpoint)
    }

    /// Networks of all peers, to which packets can be sent.
    pub fn networks(&self) -> Vec<Prefix> {
        let networks = self.0.values().flat_map(|peer| &peer.networks);
        networks.copied().collect()
    }

    /// Whether a peer has answered since `earlier`, whatever the clock says.
    pub fn answered_since(&self, earlier: &Self) -> bool {
        let mut peers = self.0.iter();
        peers.any(|(key, peer)| peer.has_answered_since(earlier.0.get(key)))
    }

    /// The input of `wg setconf` with the addresses that servers have now, and what differs from
    /// those that the device uses. One that is still among a name's addresses stays, and so does that
    /// of a server without a name, which may have moved by itself.
    pub fn moved(
        &self,
        setconf: &str,
        addresses: impl Fn(&str) -> Vec<IpAddr>,
    ) -> (String, Vec<String>) {
        let mut differs = Vec::new();
        let sections = setconf.split("[Peer]\n").map(|section| {
            let value = |wanted| move |(name, value)| (name == wanted).then_some(value);
            let key = values(section).find_map(value("PublicKey"));
            let used = key.and_then(|key| self.0.get(key));
            let used = used.and_then(|peer| peer.endpoint);
            let named = values(section).find_map(value("Endpoint"));
            let (Some(used), Some(named)) = (used, named) else {
                return section.to_string();
            };
            let (name, port) = named.rsplit_once(':').unwrap_or((named, ""));
            let found = server_name(named).map_or(Vec::new(), &addresses);
            let now = match (found.first(), port.parse()) {
                (Some(first), Ok(port)) if !found.contains(&used.ip()) => {
                    SocketAddr::new(*first, port)
                }
                _ => used,
            };
            if now != used {
                differs.push(format!("{name}: {} -> {}", used.ip(), now.ip()));
            }
            section.replace(
                &format!("Endpoint = {named}\n"),
                &format!("Endpoint = {now}\n"),
            )
        });
        let text = sections.collect::<Vec<_>>().join("[Peer]\n");
        (text, differs)
    }
}

/// The host name in HOST:PORT, unless that is an address.
pub fn server_name(endpoint: &str) -> Option<&str> {
    let (host, _) = endpoint.rsplit_once(':')?;
    (runns_shared::config::is_domain(host) && host.parse::<IpAddr>().is_err()).then_some(host)
}

/// The addresses of servers' names.
#[derive(Default)]
pub struct Addresses(BTreeMap<String, Vec<IpAddr>>);

impl Addresses {
    /// Of the servers in these inputs of `wg setconf`, all looked up at once.
    pub fn look_up<'a>(setconfs: impl Iterator<Item = &'a str>) -> Self {
        let endpoints = setconfs
            .flat_map(values)
            .filter(|(key, _)| *key == "Endpoint");
        let names = endpoints.filter_map(|(_, endpoint)| server_name(endpoint));
        let names: BTreeSet<String> = names.map(str::to_string).collect();
        let names: Vec<String> = names.into_iter().collect();
        let found = tool::addresses_of_all(&names);
        Self(names.into_iter().zip(found).collect())
    }

    /// Those of `name`; none if it was not found.
    pub fn of(&self, name: &str) -> Vec<IpAddr> {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// The lines `NAME = VALUE`.
fn values(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once(" = "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of peers, each with its latest handshake and the bytes received.
    fn contacts(peers: &[(i64, u64)]) -> Contacts {
        let line = |(number, (handshake, received)): (usize, &(i64, u64))| {
            format!("key{number}\t(none)\t192.0.2.1:1\t::/0\t{handshake}\t{received}\t9\toff\n")
        };
        let lines: String = peers.iter().enumerate().map(line).collect();
        Contacts::from_dump(&format!("private\town\t51820\toff\n{lines}"))
    }

    #[test]
    fn a_tunnel_is_idle_without_a_late_handshake() {
        let is_idle = |handshakes: &[i64], now: i64| {
            let peers: Vec<(i64, u64)> = handshakes.iter().map(|time| (*time, 9)).collect();
            contacts(&peers).is_idle(1000, now)
        };
        for (handshakes, now, wanted) in [
            (&[1001][..], 1010, false),
            (&[1001], 1181, false),
            (&[1001], 1182, true),
            // One of them is enough.
            (&[0, 1900], 2000, false),
            // The first one takes its time.
            (&[0], 1010, false),
            (&[0], 1040, true),
            // The clock was set back.
            (&[2000], 1999, true),
            (&[0], 999, true),
            // The clock says that the epoch has just begun.
            (&[0], 100, true),
        ] {
            assert_eq!(is_idle(handshakes, now), wanted, "{handshakes:?} at {now}");
        }
    }

    #[test]
    fn only_what_takes_a_packet_of_ours_is_an_answer() {
        for (before, now, wanted) in [
            ((1000, 92), (1000, 92), false),
            // A session is alive, with or without an initiation.
            ((1000, 92), (1000, 92 + 32), true),
            ((1000, 92), (1000, 92 + 148 + 32), true),
            ((1000, 92), (1000, 92 + 148), false),
            ((0, 0), (0, 2 * 148), false),
            ((0, 148), (0, 148 + 92), false),
            // A handshake, whatever the clock says, and whoever began it.
            ((0, 0), (1000, 92), true),
            ((1000, 92), (1007, 92 + 92), true),
            ((1000, 92), (400, 92 + 148), true),
            // The same peer, set anew.
            ((1000, 92), (0, 0), false),
            ((1000, 92), (0, 148), false),
        ] {
            let answered = contacts(&[now]).answered_since(&contacts(&[before]));
            assert_eq!(answered, wanted, "{before:?}, {now:?}");
        }
        let (before, new) = (contacts(&[(1000, 92)]), [(1000, 92), (1001, 92)]);
        assert!(contacts(&new).answered_since(&before), "a new peer");
    }

    #[test]
    fn a_question_takes_only_what_the_device_has() {
        let of = |endpoint: &str, networks: &str| {
            let peer = format!("one\t(none)\t{endpoint}\t{networks}\t0\t0\t0\toff\n");
            Contacts::from_dump(&format!("private\town\t51820\toff\n{peer}"))
        };
        let all: Vec<String> = (0..20)
            .map(|number| format!("10.0.{number}.0/24"))
            .collect();
        let known = of("[fe80::1%eth0]:51820", &all.join(","));
        assert!(known.has_all_endpoints());
        assert_eq!(known.networks().len(), MOST);
        let unknown = of("(none)", "(none)");
        assert!(!unknown.has_all_endpoints() && unknown.networks().is_empty());
    }

    #[test]
    fn names_of_servers_that_moved() {
        let contacts = Contacts::from_dump(
            "x\none\t(none)\t192.0.2.1:5\t::/0\t0\t0\t0\toff\ntwo\t(none)\t192.0.2.2:5\t::/0\t0\t0\t0\toff\n",
        );
        let setconf = "[Interface]\nPrivateKey = x\n[Peer]\nEndpoint = a.test:5\nPublicKey = one\n\
                       [Peer]\nPublicKey = two\nEndpoint = 198.51.100.1:5\n";
        let moved = |to: &'static [&'static str]| {
            contacts.moved(setconf, |_| {
                to.iter().map(|one| one.parse().unwrap()).collect()
            })
        };
        for same in [&[][..], &["192.0.2.9", "192.0.2.1"]] {
            assert_eq!(moved(same).1, [""; 0], "{same:?}");
        }
        let (text, differs) = moved(&["192.0.2.9", "192.0.2.8"]);
        assert_eq!(differs, ["a.test: 192.0.2.1 -> 192.0.2.9"]);
        let wanted = setconf
            .replace("a.test", "192.0.2.9")
            .replace("198.51.100.1", "192.0.2.2");
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_device_has_what_its_file_says() {
        let setconf = "[Interface]\nPrivateKey = x\n[Peer]\nPublicKey = one\nEndpoint = 192.0.2.1:1\n\
                       AllowedIPs = 10.1.2.3/8, 192.0.2.7\nAllowedIPs = ::/0\n\
                       [Peer]\nPublicKey = two\nPresharedKey = secret\nAllowedIPs = 192.0.2.7/32\n[Peer]\nPublicKey = own\n";
        let dump = "clamped\town\t51820\toff\n\
                    one\t(none)\t192.0.2.9:1\t10.0.0.0/8,::/0\t0\t0\t0\toff\n\
                    two\tsecret\t(none)\t192.0.2.7/32\t0\t0\t0\toff\n";
        let wanted = Peers::from_setconf(setconf, "own");
        let wrong = |dump: &str| Peers::from_dump(dump).wrong(&wanted);
        assert_eq!(wrong(dump), None);
        assert_eq!(
            wrong(&dump.replace("own", "new")),
            Some("another private key")
        );
        for changed in [
            dump.replace("secret", "(none)"),
            dump.replace("two", "three"),
            dump.lines().take(2).collect::<Vec<_>>().join("\n"),
        ] {
            assert_eq!(wrong(&changed), Some("other peers than its file"));
        }
        assert_eq!(
            wrong(&dump.replace(",::/0", "")),
            Some("other AllowedIPs than its file")
        );
    }
}
