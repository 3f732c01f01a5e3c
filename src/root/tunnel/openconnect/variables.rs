//! What an OpenConnect server wants the tunnel to be, in the variables of vpnc-script(8). openconnect
//! may have been taken over by its server, so all of it is hostile: every address is parsed, nothing
//! is passed on as text, and there is a limit to how much is kept ([`crate::tunnel::environment::Room`]).

use std::net::IpAddr;

use crate::tunnel::device::{EVERYWHERE, Setup};
use crate::tunnel::environment::{MOST, Variables, is_server, mask_length};
use crate::tunnel::post::Pushed;
use crate::tunnel::wgquick::Prefix;
use runns_shared::config::is_domain;
use runns_shared::request::Dns;

/// Why the script was called.
pub const REASON: &str = "reason";

/// Whether a variable is of any use.
pub fn is_used(name: &str) -> bool {
    const NUMBERED: [&str; 3] = ["CISCO_SPLIT_", "CISCO_IPV6_SPLIT_", "INTERNAL_IP"];
    [REASON, "CISCO_DEF_DOMAIN"].contains(&name)
        || NUMBERED.iter().any(|start| name.starts_with(start))
}

/// What the server wants. If the tunnel is the only way out, it gets the default routes, whatever
/// the server says. `ipv6` is whether the namespace may have IPv6.
pub fn pushed(variables: &Variables, only_way: bool, ipv6: bool) -> Pushed {
    let mut addresses = Vec::new();
    addresses.extend(address_v4(variables));
    addresses.extend(address_v6(variables).filter(|_| ipv6));
    let dns = dns(variables);
    let has_ipv6 = addresses.iter().any(|(address, _)| address.is_ipv6());
    let includes = [
        networks(variables, "CISCO_SPLIT_INC"),
        networks(variables, "CISCO_IPV6_SPLIT_INC"),
    ];
    let mut routes: Vec<Prefix> = Vec::new();
    for (everywhere, included) in EVERYWHERE.into_iter().zip(&includes) {
        // A family without a list goes through the tunnel as a whole.
        if only_way || included.is_empty() {
            routes.push(everywhere);
        }
        routes.extend(included);
    }
    // The servers may be outside of what is included, or among what is excluded.
    let whole = |address: &IpAddr| (*address, if address.is_ipv4() { 32 } else { 128 });
    routes.extend(dns.servers.iter().filter(|_| !only_way).map(whole));
    let beside = if only_way {
        Vec::new()
    } else {
        // The veth pair leads to IPv4 alone. 0.0.0.0/32 stands for the client's own network.
        let excluded = networks(variables, "CISCO_SPLIT_EXC").into_iter();
        excluded
            .filter(|(address, _)| !address.is_unspecified())
            .collect()
    };
    // The least that IPv6 needs (RFC 8200).
    let least = if has_ipv6 { 1280 } else { 576 };
    let mtu = variables.get("INTERNAL_IP4_MTU");
    let mtu = mtu.and_then(|mtu| mtu.parse().ok());
    Pushed {
        setup: Setup {
            addresses,
            mtu: mtu.filter(|mtu| (least..=65535).contains(mtu)),
            routes: routes.into_iter().map(|network| (network, None)).collect(),
            split_default: !only_way,
            ..Setup::default()
        },
        beside,
        dns,
    }
}

fn address(variables: &Variables, name: &str) -> Option<IpAddr> {
    variables.get(name)?.parse().ok()
}

/// The address that a device may have.
fn own_address(variables: &Variables, name: &str) -> Option<IpAddr> {
    address(variables, name).filter(|address| is_server(*address))
}

fn bits(variables: &Variables, name: &str, most: u8) -> Option<u8> {
    let bits = variables.get(name)?.parse().ok();
    bits.filter(|bits| *bits <= most)
}

fn address_v4(variables: &Variables) -> Option<Prefix> {
    let own = own_address(variables, "INTERNAL_IP4_ADDRESS").filter(IpAddr::is_ipv4)?;
    let bits = bits(variables, "INTERNAL_IP4_NETMASKLEN", 32);
    // A network with everything in it is a default route.
    Some((own, bits.filter(|bits| *bits > 0).unwrap_or(32)))
}

/// INTERNAL_IP6_NETMASK is ADDRESS/BITS; without it, INTERNAL_IP6_ADDRESS is the address alone.
fn address_v6(variables: &Variables) -> Option<Prefix> {
    let of_netmask = || {
        let (address, bits) = variables.get("INTERNAL_IP6_NETMASK")?.split_once('/')?;
        let bits: u8 = bits.parse().ok()?;
        Some((address.parse().ok()?, bits))
    };
    let alone = || Some((own_address(variables, "INTERNAL_IP6_ADDRESS")?, 128));
    let fits = |(address, bits): &Prefix| {
        address.is_ipv6() && is_server(*address) && (1..=128).contains(bits)
    };
    of_netmask().filter(fits).or_else(|| alone().filter(fits))
}

/// The networks of a numbered list: its length, then `LIST_N_ADDR` and `LIST_N_MASKLEN` from 0 on.
fn networks(variables: &Variables, list: &str) -> Vec<Prefix> {
    let ipv6 = list.contains("IPV6");
    let length = variables.get(list).and_then(|length| length.parse().ok());
    let present = |index: &usize| variables.contains_key(&format!("{list}_{index}_ADDR"));
    let network = |index: usize| {
        let name = |what: &str| format!("{list}_{index}_{what}");
        let network = address(variables, &name("ADDR"))?;
        let bits = bits(variables, &name("MASKLEN"), if ipv6 { 128 } else { 32 })
            .or_else(|| mask_length(variables, &name("MASK")))?;
        (network.is_ipv6() == ipv6).then_some((network, bits))
    };
    let indices = (0..length.unwrap_or(0)).take_while(present);
    indices.filter_map(network).collect()
}

fn dns(variables: &Variables) -> Dns {
    let words = |name: &str| {
        let text = variables.get(name).map(String::as_str).unwrap_or_default();
        text.split([' ', ',']).filter(|word| !word.is_empty())
    };
    let mut dns = Dns {
        servers: Vec::new(),
        search: Vec::new(),
    };
    for word in words("INTERNAL_IP4_DNS").chain(words("INTERNAL_IP6_DNS")) {
        let server = word.parse().ok().filter(|server| is_server(*server));
        let fresh = server.filter(|server| !dns.servers.contains(server));
        dns.servers
            .extend(fresh.filter(|_| dns.servers.len() < MOST));
    }
    let domains = words("CISCO_DEF_DOMAIN").filter(|domain| is_domain(domain));
    dns.search = domains.map(str::to_string).take(MOST).collect();
    dns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::wgquick::prefix;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    const WHOLE: [(&str, &str); 5] = [
        ("INTERNAL_IP4_ADDRESS", "10.7.0.2"),
        ("INTERNAL_IP4_NETMASKLEN", "24"),
        ("INTERNAL_IP4_MTU", "1434"),
        ("INTERNAL_IP4_DNS", "10.7.0.1 10.7.0.1 127.0.0.1"),
        ("INTERNAL_IP6_NETMASK", "fd77::2/64"),
    ];

    fn routes(pushed: &Pushed) -> Vec<Prefix> {
        pushed
            .setup
            .routes
            .iter()
            .map(|(network, _)| *network)
            .collect()
    }

    #[test]
    fn a_whole_tunnel() {
        let pushed = pushed(&variables(&WHOLE), false, true);
        let expected = [
            prefix("10.7.0.2/24").unwrap(),
            prefix("fd77::2/64").unwrap(),
        ];
        assert_eq!(pushed.setup.addresses, expected);
        assert_eq!(pushed.setup.mtu, Some(1434));
        assert_eq!(routes(&pushed)[..2], EVERYWHERE);
        assert_eq!(pushed.dns.servers, ["10.7.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn split_includes_and_excludes() {
        let mut all = variables(&WHOLE);
        all.extend(variables(&[
            ("CISCO_SPLIT_INC", "2"),
            ("CISCO_SPLIT_INC_0_ADDR", "10.0.0.0"),
            ("CISCO_SPLIT_INC_0_MASKLEN", "8"),
            ("CISCO_SPLIT_INC_1_ADDR", "192.168.0.0"),
            ("CISCO_SPLIT_INC_1_MASK", "255.255.0.0"),
            ("CISCO_SPLIT_EXC", "2"),
            ("CISCO_SPLIT_EXC_0_ADDR", "0.0.0.0"),
            ("CISCO_SPLIT_EXC_0_MASKLEN", "32"),
            ("CISCO_SPLIT_EXC_1_ADDR", "10.9.0.0"),
            ("CISCO_SPLIT_EXC_1_MASKLEN", "16"),
        ]));
        let without = pushed(&all, false, true);
        let network = |text: &str| prefix(text).unwrap();
        assert_eq!(
            routes(&without),
            [
                network("10.0.0.0/8"),
                network("192.168.0.0/16"),
                EVERYWHERE[1],
                network("10.7.0.1/32")
            ]
        );
        assert_eq!(without.beside, [network("10.9.0.0/16")]);
        // Without includes, the name servers have routes of their own as well.
        all.insert("CISCO_SPLIT_INC".to_string(), "0".to_string());
        let excluded = pushed(&all, false, false);
        assert!(routes(&excluded).contains(&network("10.7.0.1/32")));
        let only_way = pushed(&all, true, false);
        assert!(routes(&only_way).starts_with(&EVERYWHERE[..1]) && only_way.beside.is_empty());
        assert_eq!(only_way.setup.addresses.len(), 1);
    }

    #[test]
    fn hostile_text_is_no_address() {
        let pushed = pushed(
            &variables(&[
                ("INTERNAL_IP4_ADDRESS", "10.7.0.2; reboot"),
                ("INTERNAL_IP4_NETMASKLEN", "0"),
                ("INTERNAL_IP4_MTU", "-1"),
                (
                    "INTERNAL_IP4_DNS",
                    "$(reboot) ::1 fd77::2\nnameserver fd77::1",
                ),
                ("CISCO_DEF_DOMAIN", "corp.test $(reboot) a\noptions"),
                ("CISCO_SPLIT_INC", "18446744073709551615"),
                ("CISCO_SPLIT_INC_0_ADDR", "10.0.0.0/8"),
            ]),
            true,
            true,
        );
        assert!(pushed.setup.addresses.is_empty() && pushed.setup.mtu.is_none());
        assert_eq!(pushed.dns.servers, ["fd77::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(pushed.dns.search, ["corp.test"]);
    }
}
