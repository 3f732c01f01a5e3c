//! `.tunnel-hook EVENT NAME INDEX ...`: what OpenVPN runs when a tunnel of ours comes up or goes down (its options
//! --up, --route-up and --down). It is in no help text, and no namespace can have its name.
//!
//! What the server pushed is in environment variables (openvpn(8), "Environmental Variables"). Every address is parsed;
//! nothing is passed on as text.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use crate::daemon;
use crate::netlink::{Netlink, in_namespace};
use crate::part::{dns_lock, netns, pushed, resolver};
use crate::tool;
use crate::tunnel;
use crate::tunnel::device::{EVERYWHERE, Setup, install};
use crate::tunnel::wgquick::Prefix;
use runns_privileged::capability::refuse_user_namespace;
use runns_shared::clock;
use runns_shared::config::{Dns, is_domain};
use runns_shared::error::{Error, Result};
use runns_shared::log;
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::record::{Record, State};
use runns_shared::tunnel::TunnelState;
use runns_sys::process;

/// The subcommand's name, which no namespace can have.
pub const NAME: &str = ".tunnel-hook";
/// How many variables of a kind are read at most; the server decides how many there are.
const MOST: usize = 256;

/// Environment variables by name, without those that are not UTF-8.
type Variables<'a> = BTreeMap<&'a str, &'a str>;

/// Handles one event. Callers other than the namespace's OpenVPN are refused.
pub fn run(words: &[OsString], environment: &[&CStr]) -> Result<()> {
    refuse_user_namespace("handle an event of a tunnel")?;
    let (event, name, index) = parse(words)?;
    if !nix::unistd::geteuid().is_root() || !is_our_openvpn(nix::unistd::getppid().as_raw(), &name, index) {
        return Err(wrong());
    }
    let result =
        handle(event, name, index, environment).inspect_err(|error| log::refused(|| format!("tunnel: {error}")));
    match event {
        // OpenVPN exits if these fail; a working tunnel must not go down because its state cannot be written.
        "up" | "down" => Ok(()),
        _ => result,
    }
}

fn parse(words: &[OsString]) -> Result<(&str, NetnsName, usize)> {
    let [event, name, index, ..] = words else { return Err(wrong()) };
    let index = index.to_str().and_then(|index| index.parse().ok()).filter(|index| *index < MOST);
    Ok((event.to_str().ok_or_else(wrong)?, NetnsName::new(name)?, index.ok_or_else(wrong)?))
}

/// Whether process `pid` is the daemon of tunnel `index` of namespace `name`: it runs as root, and its command line
/// names the tunnel's management socket.
fn is_our_openvpn(pid: i32, name: &NetnsName, index: usize) -> bool {
    let socket = tunnel::socket(name, index);
    let words = daemon::command_line(pid);
    daemon::is_roots(pid) && words.windows(2).any(|pair| pair[0] == "--management" && Path::new(&pair[1]) == socket)
}

fn wrong() -> Error {
    Error::new("handle an event of a tunnel", "this is for OpenVPN to call")
}

fn handle(event: &str, name: NetnsName, index: usize, environment: &[&CStr]) -> Result<()> {
    let variables: Variables =
        environment.iter().filter_map(|variable| variable.to_str().ok()?.split_once('=')).collect();
    process::clear_environment(tool::PATH_C);
    let record = Record::load(&name)?.ok_or_else(wrong)?;
    match event {
        "down" => {
            let reason = variables.get("signal").map(|signal| why_down(signal).to_string());
            let state = TunnelState { up: false, reason, since: clock::now(), ..TunnelState::load(&name, index) };
            tunnel::save(&state, &name, index)
        }
        // Under the kill switch, only a device that stayed inside while the connection was lost (a restart) needs this.
        // A new device is handled by route-up.
        "up" if record.plan.request.kill_switch => match variables.get("script_context") {
            Some(&"restart") => came_up(&record, index, inside_name(index), &variables),
            _ => Ok(()),
        },
        "up" => came_up(&record, index, device_name(&variables)?, &variables),
        "route-up" => {
            move_in(&record, index, &device_name(&variables)?, &variables)?;
            came_up(&record, index, inside_name(index), &variables)
        }
        // Overrides scripts in the configuration, and does nothing.
        "none" => Ok(()),
        _ => Err(wrong()),
    }
}

/// Why a tunnel went down, from OpenVPN's name for it (init.c and sig.c of its sources).
fn why_down(signal: &str) -> &'static str {
    match signal {
        "sigterm" | "sigint" => "it was stopped",
        "auth-failure" => "authentication failed",
        "ping-restart" | "ping-exit" => "the server does not answer any more",
        "tls-error" => "the TLS negotiation failed",
        "connection-reset" | "remote-exit" => "the server closed the connection",
        "server_poll" => "no answer from the server",
        _ => "the connection was lost",
    }
}

/// The device's name inside the namespace, under the kill switch.
fn inside_name(index: usize) -> String {
    format!("tun{index}")
}

fn device_name(variables: &Variables) -> Result<String> {
    IfaceName::new(variables.get("dev").copied().unwrap_or_default()).map(String::from)
}

/// Records that the tunnel is up, and updates the resolver and the DNS lock if the pushed name servers have changed.
fn came_up(record: &Record, index: usize, device: String, variables: &Variables) -> Result<()> {
    let name = &record.plan.request.name;
    let dns = pushed_dns(variables);
    let before = pushed::collect(&record.plan);
    let since = clock::now();
    let state = TunnelState { device, up: true, reason: None, since, servers: dns.servers, search: dns.search };
    tunnel::save(&state, name, index)?;
    let now = pushed::collect(&record.plan);
    let follows = record.plan.resolver.as_ref().is_some_and(|resolver| resolver.from == pushed::FROM);
    if record.state != State::Built || !follows || now == before || now.servers.is_empty() {
        return Ok(());
    }
    if record.plan.resolver.as_ref().is_some_and(|resolver| resolver.lock) {
        let file = netns::open_recorded(record)?.ok_or_else(|| Error::new("lock DNS", "the namespace is gone"))?;
        in_namespace(file.as_fd(), || dns_lock::relock_here(&now.servers, &record.plan.tag()))?;
    }
    resolver::rewrite(name, pushed::FROM, &now)
}

/// Under the kill switch: moves the device into the namespace and sets it up with what the server pushed.
fn move_in(record: &Record, index: usize, outside: &str, variables: &Variables) -> Result<()> {
    let inside = inside_name(index);
    let file =
        netns::open_recorded(record)?.ok_or_else(|| Error::new("move a tunnel's device", "the namespace is gone"))?;
    let with_ipv6 = record.plan.request.ipv6 != Some(false);
    let mut addresses: Vec<Prefix> = Vec::new();
    addresses.extend(address_v4(variables));
    addresses.extend(address_v6(variables).filter(|_| with_ipv6));
    // The network of a tap device has a gateway; a tun device has only one peer, and needs none.
    let gateway =
        if variables.get("dev_type") == Some(&"tap") { address(variables, "route_vpn_gateway") } else { None };
    let mut routes: Vec<(Prefix, Option<IpAddr>)> =
        pushed_routes(variables).into_iter().map(|route| (route, gateway)).collect();
    // The tunnel is the only way out, so it gets the default route whether or not the server pushed one.
    routes.extend(
        EVERYWHERE
            .map(|everywhere| (everywhere, gateway.filter(|gateway| gateway.is_ipv4() == everywhere.0.is_ipv4()))),
    );
    let mtu = variables.get("tun_mtu").and_then(|mtu| mtu.parse().ok()).filter(|mtu| (576..=65535).contains(mtu));
    let order = index as u32;
    let setup = Setup { name: inside, addresses, mtu, routes, order, split_default: false };
    install(&Netlink::here()?, outside, &file, &setup)
}

fn address(variables: &Variables, name: &str) -> Option<IpAddr> {
    variables.get(name)?.parse().ok()
}

fn address_v4(variables: &Variables) -> Option<Prefix> {
    let local = address(variables, "ifconfig_local").filter(IpAddr::is_ipv4)?;
    Some((local, mask_length(variables, "ifconfig_netmask").unwrap_or(32)))
}

fn address_v6(variables: &Variables) -> Option<Prefix> {
    let local = address(variables, "ifconfig_ipv6_local").filter(IpAddr::is_ipv6)?;
    let bits = variables.get("ifconfig_ipv6_netbits").and_then(|bits| bits.parse().ok()).filter(|bits| *bits <= 128);
    Some((local, bits.unwrap_or(128)))
}

/// The prefix length of a netmask such as 255.255.255.0.
fn mask_length(variables: &Variables, name: &str) -> Option<u8> {
    let IpAddr::V4(mask) = address(variables, name)? else { return None };
    let bits = mask.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() == 32 || bits == u32::MAX).then_some(bits.leading_ones() as u8)
}

/// The networks that the server wants to be reached through the tunnel.
fn pushed_routes(variables: &Variables) -> Vec<Prefix> {
    let v4 = |index: usize| {
        let network = address(variables, &format!("route_network_{index}")).filter(IpAddr::is_ipv4)?;
        Some((network, mask_length(variables, &format!("route_netmask_{index}"))?))
    };
    let v6 = |index: usize| {
        let (network, bits) = variables.get(format!("route_ipv6_network_{index}").as_str())?.split_once('/')?;
        Some((network.parse().ok().filter(IpAddr::is_ipv6)?, bits.parse().ok().filter(|bits| *bits <= 128)?))
    };
    (1..=MOST).map_while(v4).chain((1..=MOST).map_while(v6)).collect()
}

/// Whether the server may push this address as a name server: it must not choose what runs on the namespace's loopback.
fn is_server(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

/// The pushed name servers and search domains: `dhcp-option DNS`, `DNS6`, `DOMAIN` and `DOMAIN-SEARCH`, and the
/// variables of `dns server` and `dns search-domains`.
fn pushed_dns(variables: &Variables) -> Dns {
    let mut dns = Dns { servers: Vec::new(), search: Vec::new() };
    let mut server = |text: &str| {
        let address = text.parse::<IpAddr>().ok().filter(|address| is_server(*address));
        if let Some(address) = address.filter(|address| !dns.servers.contains(address)) {
            dns.servers.push(address);
        }
    };
    for priority in 0..=8 {
        for index in 1..=8 {
            variables
                .get(format!("dns_server_{priority}_address_{index}").as_str())
                .copied()
                .into_iter()
                .for_each(&mut server);
        }
    }
    let mut domains: Vec<&str> =
        (1..=MOST).map_while(|index| variables.get(format!("dns_search_domain_{index}").as_str()).copied()).collect();
    for index in 1..=MOST {
        let Some(option) = variables.get(format!("foreign_option_{index}").as_str()) else { break };
        match option.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            ["dhcp-option", "DNS" | "DNS6", address] => server(address),
            ["dhcp-option", "DOMAIN" | "DOMAIN-SEARCH", domain] => domains.push(domain),
            _ => {}
        }
    }
    dns.search = domains.into_iter().filter(|domain| is_domain(domain)).map(str::to_string).collect();
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_parsed_never_pasted() {
        let variables = Variables::from([
            ("foreign_option_1", "dhcp-option DNS 10.8.0.1"),
            ("foreign_option_2", "dhcp-option DNS 10.8.0.2\nnameserver 6.6.6.6"),
            ("foreign_option_3", "dhcp-option DOMAIN example.org"),
            ("foreign_option_4", "dhcp-option DOMAIN $(reboot)"),
            ("foreign_option_5", "dhcp-option DNS 127.0.0.1"),
            ("foreign_option_6", "dhcp-option DNS6 ::ffff:127.0.0.53"),
            ("dns_server_0_address_1", "fd00::1"),
        ]);
        let dns = pushed_dns(&variables);
        assert_eq!(dns.servers, ["fd00::1".parse::<IpAddr>().unwrap(), "10.8.0.1".parse().unwrap()]);
        assert_eq!(dns.search, ["example.org"]);
    }

    #[test]
    fn masks_and_routes() {
        let variables = Variables::from([
            ("ifconfig_local", "10.8.0.2"),
            ("ifconfig_netmask", "255.255.255.0"),
            ("route_network_1", "10.0.0.0"),
            ("route_netmask_1", "255.0.0.0"),
            ("route_network_2", "10.0.0.0; reboot"),
            ("route_ipv6_network_1", "2000::/3"),
        ]);
        assert_eq!(address_v4(&variables), Some(("10.8.0.2".parse().unwrap(), 24)));
        assert_eq!(pushed_routes(&variables).len(), 2);
        assert_eq!(mask_length(&Variables::from([("m", "255.0.255.0")]), "m"), None);
    }
}
