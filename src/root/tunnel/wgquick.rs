//! The configuration files of wg-quick(8), as providers hand them out. Options that a tunnel does
//! not need are ignored and listed in [`Config::left_out`]. Keys stay in [`Config::setconf`], which
//! goes only to wg(8)'s standard input.

use std::net::{IpAddr, Ipv6Addr};

use runns_shared::config::is_domain;
use runns_shared::error::{Error, Result};
use runns_shared::name::IfaceName;
use runns_shared::request::Dns;

/// An address with its prefix length.
pub type Prefix = (IpAddr, u8);

/// The contents of a file.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Addresses of the device.
    pub addresses: Vec<Prefix>,
    /// DNS servers and search domains.
    pub dns: Option<Dns>,
    /// MTU of the device.
    pub mtu: Option<u32>,
    /// The peers' AllowedIPs.
    pub allowed: Vec<Prefix>,
    /// The input for `wg setconf`. It contains the keys, so it is never shown.
    pub setconf: String,
    /// The options that were left out.
    pub left_out: Vec<String>,
    /// The peers' endpoints.
    pub endpoints: Vec<String>,
}

/// Options of `[Interface]` that only wg-quick knows and that would change the host; they are left
/// out.
const LEFT_OUT: [&str; 6] = [
    "table",
    "saveconfig",
    "preup",
    "postup",
    "predown",
    "postdown",
];
/// Options that wg(8) itself understands.
const OF_INTERFACE: [&str; 3] = ["privatekey", "listenport", "fwmark"];
const OF_PEER: [&str; 5] = [
    "publickey",
    "presharedkey",
    "allowedips",
    "endpoint",
    "persistentkeepalive",
];

/// Those of them that are keys.
const KEYS: [&str; 3] = ["privatekey", "publickey", "presharedkey"];

/// The options of AmneziaWG, which hide what WireGuard's packets look like.
const OF_AMNEZIA: [&str; 17] = [
    "jc",
    "jmin",
    "jmax",
    "s1",
    "s2",
    "s3",
    "s4",
    "h1",
    "h2",
    "h3",
    "h4",
    "i1",
    "i2",
    "i3",
    "i4",
    "i5",
    "advancedsecurity",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Interface,
    Peer,
}

/// Parses a file. Messages name lines and options but never quote values, which could be keys.
pub fn parse(text: &str) -> Result<Config> {
    let mut config = Config::default();
    let mut place = Place::Nowhere;
    // A file written on Windows may begin with a byte order mark.
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let wrong = |why: &str| Error::new("read it", format!("line {}: {why}", index + 1));
        if line.is_empty() {
            continue;
        }
        if line.starts_with('[') {
            place = match line.to_ascii_lowercase().as_str() {
                "[interface]" => Place::Interface,
                "[peer]" => Place::Peer,
                _ => return Err(wrong("unknown section; it must be [Interface] or [Peer]")),
            };
            config.setconf.push_str(if place == Place::Peer {
                "[Peer]\n"
            } else {
                "[Interface]\n"
            });
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("neither [section] nor key = value"))?;
        let (key, value) = (key.trim(), value.trim());
        config
            .option(place, key, value)
            .map_err(|error| wrong(error.cause()))?;
    }
    if !config.setconf.contains("PrivateKey") {
        return Err(Error::new("read it", "there is no PrivateKey"));
    }
    if config.endpoints.is_empty() {
        return Err(Error::new("read it", "no peer has an Endpoint"));
    }
    Ok(config)
}

impl Config {
    /// Whether this side can begin to talk to each peer.
    pub fn has_all_endpoints(&self) -> bool {
        self.endpoints.len() == self.setconf.split("[Peer]\n").skip(1).count()
    }

    fn option(&mut self, place: Place, key: &str, value: &str) -> Result<()> {
        let low = key.to_ascii_lowercase();
        let wrong = |why: &str| Error::new("read it", format!("{key}: {why}"));
        if KEYS.contains(&low.as_str()) && !is_key(value) {
            return Err(wrong("it is not a key, which has 44 characters of base64"));
        }
        match (place, low.as_str()) {
            (Place::Nowhere, _) => return Err(wrong("it is before the first section")),
            (Place::Interface, "address") => self
                .addresses
                .extend(prefixes(value).map_err(|e| wrong(e.cause()))?),
            (Place::Interface, "dns") => {
                self.add_dns(value).map_err(|error| wrong(error.cause()))?
            }
            (Place::Interface, "mtu") => {
                let mtu = value.parse().ok().filter(|mtu| (576..=65535).contains(mtu));
                self.mtu = Some(mtu.ok_or_else(|| wrong("it must be 576 to 65535"))?);
            }
            (Place::Interface, low) if LEFT_OUT.contains(&low) => {
                self.left_out.push(key.to_string())
            }
            (Place::Interface, low) if OF_INTERFACE.contains(&low) => self.pass_on(key, low, value),
            (Place::Peer, low) if OF_PEER.contains(&low) => {
                if low == "allowedips" {
                    self.allowed
                        .extend(prefixes(value).map_err(|error| wrong(error.cause()))?);
                }
                if low == "endpoint" {
                    if !is_endpoint(value) {
                        return Err(wrong("it is not HOST:PORT"));
                    }
                    self.endpoints.push(value.to_string());
                }
                self.pass_on(key, low, value);
            }
            (_, low) if OF_AMNEZIA.contains(&low) => {
                return Err(wrong(
                    "an option of AmneziaWG, a different protocol: ask the provider for a WireGuard file",
                ));
            }
            _ => return Err(wrong("unknown option")),
        }
        Ok(())
    }

    /// Adds a line for wg(8), with the option in its usual spelling.
    fn pass_on(&mut self, key: &str, low: &str, value: &str) {
        let usual = match low {
            "privatekey" => "PrivateKey",
            "listenport" => "ListenPort",
            "fwmark" => "FwMark",
            "publickey" => "PublicKey",
            "presharedkey" => "PresharedKey",
            "allowedips" => "AllowedIPs",
            "endpoint" => "Endpoint",
            "persistentkeepalive" => "PersistentKeepalive",
            _ => key,
        };
        self.setconf.push_str(&format!("{usual} = {value}\n"));
    }

    fn add_dns(&mut self, value: &str) -> Result<()> {
        // `~DOMAIN` has the names in DOMAIN asked of these servers (resolved.conf(5)). They are
        // asked for all names.
        let words: Vec<&str> = value
            .split([',', ' ', '\t'])
            .filter(|word| !word.is_empty() && !word.starts_with('~'))
            .collect();
        if words.is_empty() {
            return Ok(());
        }
        let more = runns_shared::config::dns_words(&words.join(","))?;
        let dns = self.dns.get_or_insert(Dns {
            servers: Vec::new(),
            search: Vec::new(),
        });
        dns.servers.extend(more.servers);
        dns.search.extend(more.search);
        Ok(())
    }
}

/// Whether wg(8) takes it for a key: 32 bytes in base64, which leave the last two bits of the last
/// digit unused (key_from_base64 in encoding.c).
fn is_key(word: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
    match word.as_bytes() {
        [digits @ .., last, b'='] if digits.len() == 42 => {
            digits.iter().all(|byte| is_digit(*byte)) && b"AEIMQUYcgkosw048".contains(last)
        }
        _ => false,
    }
}

/// Whether it is HOST:PORT, an address of IPv6 in brackets, perhaps with a zone (RFC 4007, 11).
fn is_endpoint(word: &str) -> bool {
    let Some((host, port)) = word.rsplit_once(':') else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_host = match bare.split_once('%') {
        Some((address, zone)) => {
            address.parse::<Ipv6Addr>().is_ok() && IfaceName::new(zone).is_ok()
        }
        None => bare.parse::<IpAddr>().is_ok() || is_domain(bare),
    };
    is_host && port.parse::<u16>().is_ok()
}

/// Addresses with or without a prefix length, separated by commas or blanks.
fn prefixes(value: &str) -> Result<Vec<Prefix>> {
    value
        .split([',', ' ', '\t'])
        .filter(|word| !word.is_empty())
        .map(prefix)
        .collect()
}

/// One address. Without a prefix length, it stands for a single host.
pub fn prefix(word: &str) -> Result<Prefix> {
    let wrong = || {
        Error::new(
            "read an address",
            "it is not an address, or its prefix length is wrong",
        )
    };
    let (address, length) = word
        .split_once('/')
        .map_or((word, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = length
        .map_or(Ok(longest), str::parse::<u8>)
        .map_err(|_| wrong())?;
    if length > longest {
        Err(wrong())
    } else {
        Ok((address, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# provider\n[interface]\nPrivateKey=YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE= # mine\naddress = 10.2.0.2/32, fd00::2/128\n\
        Address=10.3.0.2\nDNS = 10.2.0.1, example.org\nMTU = 1380\nPostUp = iptables -A x\nTable = off\n\n\
        [Peer]\npublickey = YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=\nPresharedKey = Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M=\nAllowedIPs = 0.0.0.0/0,::/0\nEndpoint = vpn.example:51820\n\
        PersistentKeepalive = 25\n[PEER]\nPublicKey = ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ=\nAllowedIPs = 10.9.0.0/16\n";

    #[test]
    fn a_providers_file() {
        let config = parse(FILE).unwrap();
        assert_eq!(config.addresses.len(), 3);
        assert_eq!(config.addresses[2], ("10.3.0.2".parse().unwrap(), 32));
        assert_eq!(config.allowed.len(), 3);
        assert_eq!(
            (config.mtu, config.left_out),
            (Some(1380), vec!["PostUp".to_string(), "Table".to_string()])
        );
        assert_eq!(config.dns.unwrap().search, ["example.org"]);
        assert!(
            config
                .setconf
                .starts_with("[Interface]\nPrivateKey = YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=\n[Peer]\nPublicKey = YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=\n")
        );
        assert!(!config.setconf.contains("MTU") && !config.setconf.contains("Address"));
    }

    #[test]
    fn keys_and_endpoints_are_those_that_wg_takes() {
        let key = "aKQkHzyFqC8wYWnKfXFyJB8oIIUXSnG0JjBlPPrMqGA";
        assert!(is_key(&format!("{key}=")));
        for bad in [
            "x",
            "",
            key,
            &format!("{key}=="),
            &format!("{}B=", &key[..42]),
            &format!("-{}=", &key[1..]),
        ] {
            assert!(!is_key(bad), "{bad}");
        }
        for good in [
            "vpn.example:51820",
            "192.0.2.1:1",
            "[2001:db8::1]:51820",
            "[fe80::1%eth0]:51820",
        ] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in [
            "192.0.2.1",
            "192.0.2.1:x",
            "192.0.2.1:65536",
            ":51820",
            "a b:1",
            "vpn.example:",
        ] {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }

    #[test]
    fn messages_never_show_a_key() {
        for text in [
            "[Interface]\nPrivateKey = secret\n",
            "[Interface]\nPrivateKey secret\n",
            "[Interface]\nPrivatKey = secret\n",
            "PrivateKey = secret\n",
        ] {
            let error = parse(text)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(!error.is_empty() && !error.contains("secret"), "{error}");
        }
    }
}
