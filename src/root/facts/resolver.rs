//! Which resolver a namespace has.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::ipv6::Pair;
use super::pushed;
use crate::etc_netns::{NSSWITCH, RESOLV_CONF, directory, is_marked, text_of};
use crate::kernel::file::of_option;
use runns_shared::error::Result;
use runns_shared::escape::show;
use runns_shared::name::NetnsName;
use runns_shared::output::warn;
use runns_shared::plan::{FROM_TUNNEL, Plan, Resolver};
use runns_shared::request::Dns;
use runns_shared::request::Request;
use runns_shared::resolv_conf::{OWN_MODULES, servers};
use runns_shared::trusted::{self, Trust};

/// The host's own.
pub const HOST_FILE: &str = "/etc/resolv.conf";
/// The servers behind the stub of systemd-resolved (systemd-resolved.service(8)).
const UPSTREAM_FILE: &str = "/run/systemd/resolve/resolv.conf";

/// Decides which resolver the namespace gets, and reads the files that it is made from.
pub fn decide(plan: &Plan) -> Result<Option<Resolver>> {
    let (name, request) = (&plan.name, &plan.request);
    let own = directory(name).join(RESOLV_CONF);
    let (from, text) = if let Some(file) = &request.resolve {
        let text = if request.resolve_named {
            trusted::read_named(file)?
        } else {
            trusted::read(file, Trust::Strict)
                .map_err(|error| of_option("Resolve", file, 644, &error))?
        };
        (show(file), Some(text))
    } else if let Some(dns) = &request.dns {
        ("DNS".to_string(), Some(text_of(dns)))
    } else if own.exists() && !is_marked(&own) {
        (show(&own), None)
    } else if let Some((file, text)) = of_host(plan)? {
        (show(file), Some(text))
    } else {
        return Ok(None);
    };
    let servers = match &text {
        Some(text) => servers(text),
        None => servers(&trusted::read(&own, Trust::Strict)?),
    };
    decided((name, request), from, text, servers).map(Some)
}

/// The resolver that asks the servers of `dns`.
pub fn from_dns(plan: &Plan, from: &str, dns: &Dns) -> Result<Resolver> {
    decided(
        (&plan.name, &plan.request),
        from.to_string(),
        Some(text_of(dns)),
        dns.servers.clone(),
    )
}

fn decided(
    (name, request): (&NetnsName, &Request),
    from: String,
    text: Option<String>,
    servers: Vec<IpAddr>,
) -> Result<Resolver> {
    let reachable = servers.iter().any(|server| !server.is_loopback());
    if !reachable && request.dns_lock == Some(true) {
        warn("DNSLock=yes has no effect: the resolver is a loopback address, or there is none");
    }
    let lock = reachable && request.dns_lock != Some(false);
    Ok(Resolver {
        from,
        text,
        servers,
        lock,
        nsswitch: nsswitch(name)?,
    })
}

/// The host's servers, if the namespace cannot simply use the host's own file: because that lists
/// only loopback servers, or because the namespace is to be locked to its current servers.
fn of_host(plan: &Plan) -> Result<Option<(&'static Path, String)>> {
    let as_it_is = plan.request.dns_lock == Some(true);
    let host = trusted::read_named(Path::new(HOST_FILE)).unwrap_or_default();
    let upstream = Path::new(UPSTREAM_FILE);
    if only_loopback(&host) && upstream.exists() {
        let text = trusted::read_named(upstream)?;
        if !only_loopback(&text) {
            return Ok(Some((upstream, text)));
        }
    }
    // A tunnel is there for the namespace's queries as well.
    let access = plan.request.exceptions.access(false);
    let is_opened = access.localhost().iter().any(|port| port.number == 53);
    if asks_localhost(&host) && is_opened && !plan.request.has_tunnel() {
        return Ok(Some((Path::new(HOST_FILE), at_gateway(&host, plan))));
    }
    Ok(as_it_is.then_some((Path::new(HOST_FILE), host)))
}

/// Whether 127.0.0.1 and no server outside is asked.
fn asks_localhost(text: &str) -> bool {
    only_loopback(text) && servers(text).contains(&Ipv4Addr::LOCALHOST.into())
}

/// `text` with the host's end of the veth pair as the only server.
fn at_gateway(text: &str, plan: &Plan) -> String {
    let is_other = |line: &&str| !line.trim_start().starts_with("nameserver");
    let others: Vec<&str> = text.lines().filter(is_other).collect();
    let server = format!("nameserver {}\n", plan.subnet().host());
    others.iter().fold(server, |text, line| text + line + "\n")
}

/// What gives programs inside a resolver that they can reach, in words.
pub fn cure(plan: &Plan) -> &'static str {
    let host = trusted::read_named(Path::new(HOST_FILE)).unwrap_or_default();
    if asks_localhost(&host) && !plan.request.has_tunnel() {
        "set DNS= or Resolve=, or HostAccess=localhost:53,localhost:53/udp for the one on 127.0.0.1"
    } else {
        "set DNS= or Resolve="
    }
}

/// Whether only loopback servers are asked. If the file lists none, the C library asks 127.0.0.1.
pub fn only_loopback(text: &str) -> bool {
    servers(text).iter().all(IpAddr::is_loopback)
}

/// Why programs inside cannot ask any server of their resolver, or nothing. What the section names
/// itself may well be a server inside.
pub fn unreachable(plan: &Plan) -> Option<String> {
    let resolver = current(plan);
    let (from, servers) = match &resolver {
        Some(resolver) if resolver.servers.is_empty() => return None,
        Some(resolver) => (resolver.from.clone(), resolver.servers.clone()),
        None => {
            let text = trusted::read_named(Path::new(HOST_FILE)).unwrap_or_default();
            (HOST_FILE.to_string(), servers(&text))
        }
    };
    let is_host_s = plan.request.dns.is_none() && plan.request.resolve.is_none();
    let has_ipv6 = plan.request.has_tunnel() || Pair::of(plan).is_ok_and(|pair| pair.is_some());
    let how = objection(&servers, has_ipv6)?;
    (is_host_s || !servers.iter().all(IpAddr::is_loopback))
        .then(|| format!("{from} lists only {how}"))
}

/// The addresses of servers, none of which leads anywhere from inside.
fn objection(servers: &[IpAddr], has_ipv6: bool) -> Option<&'static str> {
    // If there is none, the C library asks 127.0.0.1.
    let usable = |server: &&IpAddr| !server.is_loopback() && !is_link_local(server);
    let mut usable = servers.iter().filter(usable).peekable();
    if usable.peek().is_none() {
        let is_loopback = servers.iter().all(IpAddr::is_loopback);
        return Some(match is_loopback {
            true => "loopback servers, which programs inside cannot reach",
            false => "servers on a link of the host, which programs inside cannot reach",
        });
    }
    let is_lost = !has_ipv6 && usable.all(|server| server.is_ipv6());
    is_lost.then_some("IPv6 servers, and programs inside have no IPv6")
}

/// Whether an address counts on one link only (RFC 4291, 2.5.6), which is none of the namespace's.
pub fn is_link_local(server: &IpAddr) -> bool {
    matches!(server, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The host's nsswitch.conf with a `hosts:` line that asks no service of the host. `None` if the
/// host has no such file (the C library's default asks files and DNS only), or if the administrator
/// provided one for the namespace.
fn nsswitch(name: &NetnsName) -> Result<Option<String>> {
    let (host, own) = (
        Path::new("/etc").join(NSSWITCH),
        directory(name).join(NSSWITCH),
    );
    if !host.exists() || (own.exists() && !is_marked(&own)) {
        return Ok(None);
    }
    Ok(Some(without_host_modules(&trusted::read_named(&host)?)))
}

/// `text` with only [`OWN_MODULES`] left in its `hosts:` lines, and dns added if it is missing.
fn without_host_modules(text: &str) -> String {
    let mut lines = String::new();
    let mut seen = false;
    for line in text.lines() {
        match line.trim_start().split_once(':') {
            Some((database, modules)) if database.trim_end() == "hosts" => {
                seen = true;
                lines.push_str(&format!("hosts: {}\n", own_modules(modules)));
            }
            _ => lines.push_str(&format!("{line}\n")),
        }
    }
    if !seen {
        lines.push_str("hosts: files dns\n");
    }
    lines
}

/// The modules of a line that ask no service. Actions on results (`[NOTFOUND=return]`) are dropped
/// with the other modules.
fn own_modules(line: &str) -> String {
    let line = line.split('#').next().unwrap_or_default();
    let mut modules: Vec<&str> = Vec::new();
    for module in line
        .split_whitespace()
        .filter(|word| OWN_MODULES.contains(word))
    {
        if !modules.contains(&module) {
            modules.push(module);
        }
    }
    if !modules.contains(&"dns") {
        modules.push("dns");
    }
    modules.join(" ")
}

/// The resolver that the namespace has now: the one that was built, with the servers that its
/// tunnels provide by now.
pub fn current(plan: &Plan) -> Option<Resolver> {
    let built = plan.resolver.as_ref()?;
    let dns = pushed::collect(plan);
    if built.from != FROM_TUNNEL || dns.servers.is_empty() {
        return Some(built.clone());
    }
    Some(Resolver {
        text: Some(text_of(&dns)),
        servers: dns.servers,
        ..built.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_are_told_apart() {
        assert!(only_loopback("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(only_loopback("nameserver ::1\n"));
        assert!(only_loopback(""));
        assert!(!only_loopback("nameserver 127.0.0.1\nnameserver 9.9.9.9\n"));
        assert!(!only_loopback("nameserver\tfe80::1%eth0\n"));
        assert_eq!(
            servers("# nameserver 1.1.1.1\nnameserver 8.8.8.8 # x\n"),
            ["8.8.8.8".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn servers_that_lead_nowhere_from_inside() {
        let objection = |text: &str, has_ipv6| super::objection(&servers(text), has_ipv6);
        let loopback = objection("nameserver 127.0.0.1\nnameserver ::1\n", true).unwrap();
        assert_eq!(objection("", true), Some(loopback));
        assert_ne!(
            objection("nameserver fe80::1%up0\n", true).unwrap(),
            loopback
        );
        assert_eq!(
            objection("nameserver fe80::1%up0\nnameserver 9.9.9.9\n", false),
            None
        );
        assert!(
            objection("nameserver 2001:db8::1\n", false)
                .unwrap()
                .contains("IPv6")
        );
        assert_eq!(objection("nameserver 2001:db8::1\n", true), None);
    }

    #[test]
    fn hosts_line_asks_no_service() {
        let hosts = |line: &str| without_host_modules(&format!("passwd: files\nhosts: {line}\n"));
        assert_eq!(
            hosts("files mdns4_minimal [NOTFOUND=return] dns mymachines myhostname # x"),
            "passwd: files\nhosts: files dns myhostname\n"
        );
        assert_eq!(
            hosts("files resolve [!UNAVAIL=return]"),
            "passwd: files\nhosts: files dns\n"
        );
        assert_eq!(
            without_host_modules("passwd: files"),
            "passwd: files\nhosts: files dns\n"
        );
    }
}
