//! The key and the peers of a WireGuard device, compared with those of its file. Keys come from
//! wg(8)'s output, are compared, and go nowhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

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

    /// From `wg show DEVICE dump`: a line of the device, then one of each peer (wg(8)).
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
                peers.add(key);
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

    /// A section of a peer replaces an earlier one's networks.
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

/// The lines `NAME = VALUE`.
fn values(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once(" = "))
}

#[cfg(test)]
mod tests {
    use super::*;

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
