//! What an OpenVPN server pushed, in the variables that OpenVPN passes on when a tunnel comes up
//! (openvpn(8), "Environmental Variables"). OpenVPN itself may have been taken over by its server,
//! so all of it is hostile: every address is parsed, nothing is passed on as text, and there is a
//! limit to how much is kept ([`Room`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::device::{EVERYWHERE, Setup};
use super::options::Line;
use super::profile::Profile;
use super::wgquick::Prefix;
use runns_shared::config::is_domain;
use runns_shared::error::{Error, Result};
use runns_shared::request::Dns;

/// How many name servers and search domains are used at most. A resolver asks three servers
/// (resolv.conf(5)).
pub const MOST: usize = 64;
/// The variables that are read here, and the beginnings of those that are numbered.
const NAMES: [&str; 10] = [
    "ifconfig_local",
    "ifconfig_netmask",
    "ifconfig_remote",
    "ifconfig_ipv6_local",
    "ifconfig_ipv6_netbits",
    "route_net_gateway",
    "route_vpn_gateway",
    "route_redirect_gateway_ipv4",
    "route_redirect_gateway_ipv6",
    "tun_mtu",
];
const NUMBERED: [&str; 7] = [
    "dns_search_domain_",
    "dns_server_",
    "foreign_option_",
    "route_gateway_",
    "route_ipv6_network_",
    "route_netmask_",
    "route_network_",
];

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Whether a variable is of any use.
pub fn is_used(name: &str) -> bool {
    NAMES.contains(&name) || NUMBERED.iter().any(|start| name.starts_with(start))
}

/// Room for what the daemon reports, in bytes. Nobody else limits that: OpenVPN's own limits do not
/// bind a daemon that was taken over. What exceeds it ends the tunnel, since a route that were left
/// out would lead beside it.
pub struct Room(usize);

/// What a short text takes in memory beside its bytes.
const OVERHEAD: usize = 128;

impl Room {
    /// For the variables of one event: some 17000 routes.
    pub const VARIABLES: Self = Self(8 << 20);
    /// For the options of one connection. A message with some of them has at most 1 KiB
    /// (PUSH_BUNDLE_SIZE).
    pub const PUSHED: Self = Self(2 << 20);

    /// Takes room for a text.
    pub fn take(&mut self, text: &str) -> Result<()> {
        let left = self.0.checked_sub(text.len() + OVERHEAD);
        self.0 = left.ok_or_else(|| {
            Error::new(
                "set up the tunnel",
                "the daemon reported too many routes or options",
            )
        })?;
        Ok(())
    }
}

/// Where the routes lead to.
pub struct Routing<'a> {
    /// Whether the tunnel is the only way out.
    pub only_way: bool,
    /// Whether the namespace may have IPv6.
    pub ipv6: bool,
    /// The options that the server pushed, as far as OpenVPN reported them; `None` if it did not.
    pub pushed: Option<&'a [String]>,
}

/// How the tunnel's device is to be set up: its addresses, and the networks behind it.
pub fn setup(variables: &Variables, profile: &Profile, routing: &Routing) -> Setup {
    let mut addresses: Vec<Prefix> = Vec::new();
    addresses.extend(address_v4(variables));
    addresses.extend(address_v6(variables).filter(|_| routing.ipv6));
    // The network of a tap device has a gateway; a tun device has only one peer, and needs none.
    let gateway = if profile.is_tap() {
        address(variables, "route_vpn_gateway")
    } else {
        None
    };
    let through = |networks: Vec<Prefix>| networks.into_iter().map(|network| (network, gateway));
    let bypass = if routing.only_way {
        Vec::new()
    } else {
        routes_beside(variables)
    };
    let bypass: BTreeSet<Prefix> = bypass.into_iter().collect();
    let mut routes: Vec<(Prefix, Option<IpAddr>)> = through(pushed_routes(variables))
        .filter(|(network, _)| !bypass.contains(network))
        .collect();
    if !profile.is_tap() {
        routes.extend(
            address(variables, "ifconfig_remote")
                .filter(IpAddr::is_ipv4)
                .map(|peer| ((peer, 32), None)),
        );
    }
    // If the tunnel is the only way out, it gets the default route whether or not the server pushed
    // one.
    let redirected = if routing.only_way {
        [true; 2]
    } else {
        redirected(variables, profile, routing.pushed)
    };
    for (everywhere, _) in EVERYWHERE
        .into_iter()
        .zip(redirected)
        .filter(|(_, redirected)| *redirected)
    {
        routes.push((
            everywhere,
            gateway.filter(|gateway| gateway.is_ipv4() == everywhere.0.is_ipv4()),
        ));
    }
    let mtu = variables
        .get("tun_mtu")
        .and_then(|mtu| mtu.parse().ok())
        .filter(|mtu| (576..=65535).contains(mtu));
    Setup {
        addresses,
        mtu,
        routes,
        split_default: !routing.only_way,
        ..Setup::default()
    }
}

/// Whether the default routes of IPv4 and IPv6 lead through the tunnel (`redirect-gateway` in the
/// configuration, or pushed). Where nothing is known about what was pushed, they do, so that
/// nothing leaves beside it.
fn redirected(variables: &Variables, profile: &Profile, pushed: Option<&[String]>) -> [bool; 2] {
    // Variables of OpenVPN 2.7; earlier ones set none if the routes are left to others.
    let reported = ["route_redirect_gateway_ipv4", "route_redirect_gateway_ipv6"]
        .map(|name| variables.get(name).is_some_and(|value| value != "0"));
    if reported != [false; 2] {
        return reported;
    }
    let pulls = profile.value("client").or(profile.value("pull")).is_some();
    let pushed = match pushed {
        None if pulls => return [true; 2],
        pushed => pushed
            .unwrap_or_default()
            .iter()
            .filter(|option| profile.accepts(option)),
    };
    let pushed = pushed.filter_map(|option| Line::parse(option.as_bytes()));
    // In OpenVPN, !ipv4 also undoes an earlier redirect-gateway. Here, a server undoes nothing of
    // the file's.
    profile
        .lines()
        .iter()
        .cloned()
        .chain(pushed)
        .fold([false; 2], |[v4, v6], line| {
            let has = |wanted: &str| line.arguments().iter().any(|flag| flag == wanted);
            match line.option() {
                "redirect-gateway" => [v4 || !has("!ipv4"), v6 || has("ipv6")],
                "redirect-private" => [v4, v6 || has("ipv6")],
                _ => [v4, v6],
            }
        })
}

/// The networks for which the configuration or the server names the gateway beside the tunnel
/// (`net_gateway`).
pub fn routes_beside(variables: &Variables) -> Vec<Prefix> {
    let Some(beside) = address(variables, "route_net_gateway") else {
        return Vec::new();
    };
    let is_beside =
        |index: &usize| address(variables, &format!("route_gateway_{index}")) == Some(beside);
    let routes = indices(variables, "route_network_").filter(is_beside);
    routes
        .filter_map(|index| route_v4(variables, index))
        .collect()
}

fn address(variables: &Variables, name: &str) -> Option<IpAddr> {
    variables.get(name)?.parse().ok()
}

fn address_v4(variables: &Variables) -> Option<Prefix> {
    let local = address(variables, "ifconfig_local").filter(IpAddr::is_ipv4)?;
    Some((
        local,
        mask_length(variables, "ifconfig_netmask").unwrap_or(32),
    ))
}

fn address_v6(variables: &Variables) -> Option<Prefix> {
    let local = address(variables, "ifconfig_ipv6_local").filter(IpAddr::is_ipv6)?;
    let bits = variables
        .get("ifconfig_ipv6_netbits")
        .and_then(|bits| bits.parse().ok())
        .filter(|bits| *bits <= 128);
    Some((local, bits.unwrap_or(128)))
}

/// The prefix length of a netmask such as 255.255.255.0.
pub fn mask_length(variables: &Variables, name: &str) -> Option<u8> {
    let IpAddr::V4(mask) = address(variables, name)? else {
        return None;
    };
    let bits = mask.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() == 32 || bits == u32::MAX)
        .then_some(bits.leading_ones() as u8)
}

/// The networks that the server wants to be reached through the tunnel.
fn pushed_routes(variables: &Variables) -> Vec<Prefix> {
    let v6 = |index: usize| {
        let (network, bits) = variables
            .get(format!("route_ipv6_network_{index}").as_str())?
            .split_once('/')?;
        Some((
            network.parse().ok().filter(IpAddr::is_ipv6)?,
            bits.parse().ok().filter(|bits| *bits <= 128)?,
        ))
    };
    let v4 = indices(variables, "route_network_").filter_map(|index| route_v4(variables, index));
    v4.chain(indices(variables, "route_ipv6_network_").filter_map(v6))
        .collect()
}

/// The numbers from 1 on for which there is a variable.
fn indices<'a>(variables: &'a Variables, start: &'a str) -> impl Iterator<Item = usize> + 'a {
    (1..).take_while(move |index| variables.contains_key(format!("{start}{index}").as_str()))
}

fn route_v4(variables: &Variables, index: usize) -> Option<Prefix> {
    let network = address(variables, &format!("route_network_{index}")).filter(IpAddr::is_ipv4)?;
    Some((
        network,
        mask_length(variables, &format!("route_netmask_{index}"))?,
    ))
}

/// Whether the server may push this address as a name server: it must not choose what runs on the
/// namespace's loopback.
pub fn is_server(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

/// The pushed name servers and search domains: `dhcp-option DNS`, `DNS6`, `DOMAIN` and
/// `DOMAIN-SEARCH`, and the variables of `dns server` and `dns search-domains`.
pub fn pushed_dns(variables: &Variables) -> Dns {
    let mut dns = Dns {
        servers: Vec::new(),
        search: Vec::new(),
    };
    let mut server = |text: &str| {
        let address = text
            .parse::<IpAddr>()
            .ok()
            .filter(|address| is_server(*address));
        let room = dns.servers.len() < MOST;
        if let Some(address) = address.filter(|address| room && !dns.servers.contains(address)) {
            dns.servers.push(address);
        }
    };
    for priority in 0..=8 {
        for index in 1..=8 {
            variables
                .get(format!("dns_server_{priority}_address_{index}").as_str())
                .map(String::as_str)
                .into_iter()
                .for_each(&mut server);
        }
    }
    let numbered = |start: &'static str| {
        indices(variables, start)
            .filter_map(move |index| variables.get(format!("{start}{index}").as_str()))
    };
    let mut domains: Vec<&str> = numbered("dns_search_domain_").map(String::as_str).collect();
    for option in numbered("foreign_option_") {
        match option.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            ["dhcp-option", "DNS" | "DNS6", address] => server(address),
            ["dhcp-option", "DOMAIN" | "DOMAIN-SEARCH", domain] => domains.push(domain),
            _ => {}
        }
    }
    dns.search = domains
        .into_iter()
        .filter(|domain| is_domain(domain))
        .map(str::to_string)
        .take(MOST)
        .collect();
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<const N: usize>(pairs: [(&str, &str); N]) -> Variables {
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .into()
    }

    #[test]
    fn what_is_pushed_is_parsed_never_pasted() {
        let variables = variables([
            ("foreign_option_1", "dhcp-option DNS 10.8.0.1"),
            (
                "foreign_option_2",
                "dhcp-option DNS 10.8.0.2\nnameserver 6.6.6.6",
            ),
            ("foreign_option_3", "dhcp-option DOMAIN example.org"),
            ("foreign_option_4", "dhcp-option DOMAIN $(reboot)"),
            ("foreign_option_5", "dhcp-option DNS 127.0.0.1"),
            ("foreign_option_6", "dhcp-option DNS6 ::ffff:127.0.0.53"),
            ("dns_server_0_address_1", "fd00::1"),
        ]);
        let dns = pushed_dns(&variables);
        assert_eq!(
            dns.servers,
            [
                "fd00::1".parse::<IpAddr>().unwrap(),
                "10.8.0.1".parse().unwrap()
            ]
        );
        assert_eq!(dns.search, ["example.org"]);
    }

    #[test]
    fn masks_and_routes() {
        let pushed = variables([
            ("ifconfig_local", "10.8.0.2"),
            ("ifconfig_netmask", "255.255.255.0"),
            ("route_network_1", "10.0.0.0"),
            ("route_netmask_1", "255.0.0.0"),
            ("route_network_2", "10.0.0.0; reboot"),
            ("route_ipv6_network_1", "2000::/3"),
        ]);
        assert_eq!(address_v4(&pushed), Some(("10.8.0.2".parse().unwrap(), 24)));
        assert_eq!(pushed_routes(&pushed).len(), 2);
        assert_eq!(mask_length(&variables([("m", "255.0.255.0")]), "m"), None);
    }

    #[test]
    fn the_default_route() {
        let profile = |text: &str| Profile::of_text(text);
        let pushed = [
            "route 10.0.0.0 255.0.0.0".to_string(),
            "redirect-gateway def1 ipv6".to_string(),
        ];
        let none = Variables::new();
        let client = profile("client\n");
        assert_eq!(redirected(&none, &client, Some(&pushed)), [true, true]);
        assert_eq!(
            redirected(&none, &client, Some(&pushed[..1])),
            [false, false]
        );
        assert_eq!(
            redirected(&none, &client, None),
            [true, true],
            "nothing is known"
        );
        assert_eq!(
            redirected(&none, &profile("client\nroute-nopull\n"), Some(&pushed)),
            [false, false]
        );
        assert_eq!(
            redirected(&none, &profile("redirect-gateway !ipv4 ipv6\n"), None),
            [false, true]
        );
        assert_eq!(
            redirected(
                &none,
                &profile("setenv opt redirect-gateway def1\n"),
                Some(&[])
            ),
            [true, false]
        );
        assert_eq!(
            redirected(
                &none,
                &profile("client\nredirect-private ipv6\n"),
                Some(&[])
            ),
            [false, true]
        );
        let quoted = [
            "\"redirect-gateway\" def1".to_string(),
            "setenv opt redirect-gateway".to_string(),
        ];
        assert_eq!(
            redirected(&none, &client, Some(&quoted[..1])),
            [true, false]
        );
        assert_eq!(
            redirected(&none, &client, Some(&quoted[1..])),
            [false, false],
            "setenv opt is for files"
        );
        assert_eq!(
            redirected(
                &variables([("route_redirect_gateway_ipv4", "1")]),
                &client,
                None
            ),
            [true, false]
        );
    }

    #[test]
    fn routes_beside_the_tunnel() {
        let pushed = variables([
            ("route_net_gateway", "172.24.0.1"),
            ("route_network_1", "192.0.2.0"),
            ("route_netmask_1", "255.255.255.0"),
            ("route_gateway_1", "172.24.0.1"),
            ("route_network_2", "198.51.100.0"),
            ("route_netmask_2", "255.255.255.0"),
            ("route_gateway_2", "10.8.0.1"),
        ]);
        let routing = |only_way| Routing {
            only_way,
            ipv6: true,
            pushed: Some(&[]),
        };
        let profile = Profile::of_text("client\n");
        let networks = |only_way| -> Vec<Prefix> {
            setup(&pushed, &profile, &routing(only_way))
                .routes
                .into_iter()
                .map(|(network, _)| network)
                .collect()
        };
        assert_eq!(routes_beside(&pushed), [("192.0.2.0".parse().unwrap(), 24)]);
        assert_eq!(networks(false), [("198.51.100.0".parse().unwrap(), 24)]);
        assert_eq!(networks(true).len(), 4, "nothing is beside the only way");
    }
}
