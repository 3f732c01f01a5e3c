//! What a network namespace shows of itself to a process inside: the texts of /proc that describe
//! its devices, addresses and routes (proc_pid_net(5)). The program with capabilities collects
//! them; only the program for root reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::name::NetnsName;
use crate::record::Identity;

/// The files, below /proc/thread-self for `net/` and below /proc for `sys/`.
pub const FILES: [&str; 11] = [
    "net/dev",
    "net/route",
    "net/fib_trie",
    "net/if_inet6",
    "net/ipv6_route",
    "sys/net/ipv4/ping_group_range",
    "sys/net/ipv4/ip_unprivileged_port_start",
    "sys/net/ipv4/conf/all/route_localnet",
    "sys/net/ipv6/conf/eth0/disable_ipv6",
    "sys/net/ipv4/conf/eth0/rp_filter",
    "sys/net/ipv4/conf/all/rp_filter",
];

/// What was seen inside of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The name by which it was entered.
    pub name: String,
    /// Which namespace it is.
    pub identity: Identity,
    /// Whether it bears the mark of a namespace that was built.
    pub marked: bool,
    /// The devices that are up.
    pub up: Vec<String>,
    /// The texts of [`FILES`]; empty for those that this kernel does not have.
    pub files: Vec<String>,
}

/// An IPv4 route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The device that it leads to.
    pub device: String,
    /// Its destination.
    pub network: (IpAddr, u8),
    /// Its gateway, if there is one.
    pub gateway: Option<IpAddr>,
    /// Of several routes to the same destination, the one with the lowest is used.
    pub metric: u32,
}

/// RTF_REJECT (linux/route.h, linux/ipv6_route.h): an unreachable route.
const REJECT: u32 = 0x200;

impl Inside {
    /// A namespace in which nothing was looked at but which one it is.
    pub fn closed(name: &NetnsName, cookie: u64) -> Self {
        let identity = Identity {
            cookie,
            inode: 0,
            proc_inode: 0,
        };
        let files = FILES.iter().map(|_| String::new()).collect();
        Self {
            name: name.to_string(),
            identity,
            marked: false,
            up: Vec::new(),
            files,
        }
    }

    /// For another process: every field ends with a NUL byte, which none contains.
    pub fn to_text(&self) -> String {
        let Identity {
            cookie,
            inode,
            proc_inode,
        } = self.identity;
        let up = self.up.join(" ");
        let marked = u8::from(self.marked);
        format!(
            "{}\0{cookie}\0{inode}\0{proc_inode}\0{marked}\0{up}\0{}\0",
            self.name,
            self.files.join("\0")
        )
    }

    /// What another process wrote, several one after the other; `None` if it is not that.
    pub fn from_text(text: &str) -> Option<Vec<Self>> {
        let fields: Vec<&str> = text.split_terminator('\0').collect();
        let inside = |fields: &[&str]| {
            let number = |at: usize| fields.get(at)?.parse().ok();
            let files: Vec<String> = fields
                .get(6..)?
                .iter()
                .map(|text| text.to_string())
                .collect();
            (files.len() == FILES.len()).then_some(())?;
            Some(Self {
                name: fields[0].to_string(),
                identity: Identity {
                    cookie: number(1)?,
                    inode: number(2)?,
                    proc_inode: number(3)?,
                },
                marked: fields[4] == "1",
                up: fields[5].split_whitespace().map(str::to_string).collect(),
                files,
            })
        };
        fields.chunks(6 + FILES.len()).map(inside).collect()
    }

    fn text(&self, file: &str) -> &str {
        let place = FILES.iter().position(|known| *known == file);
        place
            .and_then(|place| self.files.get(place))
            .map_or("", String::as_str)
    }

    fn lines(&self, file: &str) -> impl Iterator<Item = &str> {
        self.text(file).lines()
    }

    /// The sysctl `name` (a path below /proc/sys), if it is one of [`FILES`] and this kernel has
    /// it.
    pub fn sysctl(&self, name: &str) -> Option<&str> {
        Some(self.text(&format!("sys/{name}")).trim()).filter(|text| !text.is_empty())
    }

    /// All devices, each with the bytes that it has received and sent.
    pub fn devices(&self) -> Vec<(String, (u64, u64))> {
        let device = |line: &str| {
            let (name, numbers) = line.split_once(':')?;
            let numbers: Vec<&str> = numbers.split_whitespace().collect();
            Some((
                name.trim().to_string(),
                (
                    numbers.first()?.parse().ok()?,
                    numbers.get(8)?.parse().ok()?,
                ),
            ))
        };
        self.lines("net/dev").skip(2).filter_map(device).collect()
    }

    /// Whether there is a device called `name`.
    pub fn has_device(&self, name: &str) -> bool {
        self.devices().iter().any(|(device, _)| device == name)
    }

    /// Whether `device` is up.
    pub fn is_up(&self, device: &str) -> bool {
        self.up.iter().any(|name| name == device)
    }

    /// Whether this is an address of the namespace's own.
    pub fn has_address(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.addresses_v4().contains(&address),
            IpAddr::V6(address) => self.lines("net/if_inet6").any(|line| {
                line.split(' ')
                    .next()
                    .and_then(|digits| u128::from_str_radix(digits, 16).ok())
                    == Some(address.to_bits())
            }),
        }
    }

    /// The local addresses, of whatever device: in the trie of routes, `|-- ADDRESS` precedes `/32
    /// host LOCAL`.
    fn addresses_v4(&self) -> Vec<Ipv4Addr> {
        let (mut addresses, mut last) = (Vec::new(), None::<Ipv4Addr>);
        for line in self.lines("net/fib_trie").map(str::trim) {
            if let Some(address) = line.strip_prefix("|-- ") {
                last = address.parse().ok();
            } else if line == "/32 host LOCAL" {
                addresses.extend(last);
            }
        }
        addresses
    }

    /// The unicast routes of both families.
    pub fn routes(&self) -> Vec<Route> {
        let v4 = routes_v4(self.text("net/route"));
        v4.chain(self.lines("net/ipv6_route").filter_map(route_v6))
            .collect()
    }

    /// Whether there is a route to `network` by `device`.
    pub fn has_route(&self, network: (IpAddr, u8), device: &str) -> bool {
        self.routes()
            .iter()
            .any(|route| route.network == network && route.device == device)
    }
}

/// The unicast routes in the text of /proc/net/route.
pub fn routes_v4(text: &str) -> impl Iterator<Item = Route> {
    text.lines().skip(1).filter_map(route_v4)
}

/// `eth0 000118AC 00000000 0001 0 0 METRIC 00FFFFFF ...`: addresses are in the byte order of the
/// network, printed as numbers.
fn route_v4(line: &str) -> Option<Route> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
    let address = |at: usize| number(at).map(|bits| Ipv4Addr::from(bits.to_ne_bytes()));
    let (network, gateway, mask) = (address(1)?, address(2)?, address(7)?);
    (number(3)? & REJECT == 0).then(|| Route {
        device: words[0].to_string(),
        network: (network.into(), mask.to_bits().count_ones() as u8),
        gateway: (!gateway.is_unspecified()).then(|| gateway.into()),
        metric: words[6].parse().unwrap_or(u32::MAX),
    })
}

/// `DESTINATION PREFIX SOURCE PREFIX GATEWAY METRIC REFERENCES USE FLAGS DEVICE`, all in
/// hexadecimal.
fn route_v6(line: &str) -> Option<Route> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| {
        u128::from_str_radix(words.get(at)?, 16)
            .ok()
            .map(Ipv6Addr::from_bits)
    };
    let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
    let (network, prefix, gateway) = (address(0)?, number(1)?, address(4)?);
    (number(8)? & REJECT == 0).then_some(())?;
    Some(Route {
        device: words.get(9)?.to_string(),
        network: (network.into(), u8::try_from(prefix).ok()?),
        gateway: (!gateway.is_unspecified()).then(|| gateway.into()),
        metric: number(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(files: &[(&str, &str)]) -> Inside {
        let text = |file: &&str| {
            files
                .iter()
                .find(|(name, _)| name == file)
                .map_or("", |(_, text)| text)
                .to_string()
        };
        let files = FILES.iter().map(text).collect();
        let identity = Identity {
            cookie: 1,
            inode: 2,
            proc_inode: 3,
        };
        Inside {
            name: "a".into(),
            identity,
            marked: true,
            up: vec!["lo".into()],
            files,
        }
    }

    #[test]
    fn devices_and_their_counters() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes ...\n    lo:  10 1 0 0 0 0 0 0  20 1 0 0 0 0 0 0\n  \
                    tun0: 3000 5 0 0 0 0 0 0 4000 6 0 0 0 0 0 0\nbroken\n";
        let inside = inside(&[("net/dev", text)]);
        assert_eq!(inside.devices()[1], ("tun0".to_string(), (3000, 4000)));
        assert_eq!(inside.devices().len(), 2);
        assert!(inside.has_device("lo") && !inside.has_device("eth0"));
        assert!(inside.is_up("lo") && !inside.is_up("tun0"));
    }

    #[test]
    fn routes_and_addresses_of_both_families() {
        let inside = inside(&[
            (
                "net/route",
                "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                 eth0\t00000000\t010018AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                 eth0\t000018AC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nbroken\n",
            ),
            (
                "net/fib_trie",
                "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 172.24.0.0\n        /24 link UNICAST\n     |-- 172.24.0.2\n        /32 host LOCAL\n",
            ),
            (
                "net/if_inet6",
                "fd000000000000000000000000000001 02 40 00 80    wg0\n",
            ),
            (
                "net/ipv6_route",
                "20000000000000000000000000000000 03 00000000000000000000000000000000 00 00000000000000000000000000000000 0000000a 00000001 00000000 00000001      wg0\n\
                 00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n",
            ),
        ]);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(
            inside.has_route((address("0.0.0.0"), 0), "eth0")
                && inside.has_route((address("172.24.0.0"), 24), "eth0")
        );
        assert_eq!(inside.routes()[0].gateway, Some(address("172.24.0.1")));
        assert!(inside.has_route((address("2000::"), 3), "wg0"));
        assert_eq!(inside.routes().len(), 3, "the unreachable one is none");
        assert!(
            inside.has_address(address("172.24.0.2")) && !inside.has_address(address("172.24.0.0"))
        );
        assert!(inside.has_address(address("fd00::1")) && !inside.has_address(address("fd00::2")));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let inside = inside(&[("net/dev", "a\n"), (FILES[8], "1\n")]);
        let text = inside.to_text().repeat(2);
        assert_eq!(Inside::from_text(&text), Some(vec![inside.clone(), inside]));
        assert_eq!(Inside::from_text(""), Some(Vec::new()));
        for broken in ["x", "\0", &text[2..], &text[..text.len() - 4]] {
            assert_ne!(
                Inside::from_text(broken).map(|list| list.len()),
                Some(2),
                "{broken:?}"
            );
        }
    }
}
