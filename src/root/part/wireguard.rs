//! WireGuard: each `WireGuard=` is one device. It is created outside, where its UDP socket stays and its peers'
//! endpoints are resolved, and then moved into the namespace. On a kernel without WireGuard, a userspace implementation
//! drives the device, as with wg-quick(8).
//!
//! Keys go from the file to wg(8)'s standard input and nowhere else: not into arguments, files, logs or messages.

use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Part, Site, netns};
use crate::daemon;
use crate::host::make_directory_for_now;
use crate::netlink::in_namespace;
use crate::tool;
use crate::tunnel;
use crate::tunnel::device::{Setup, install};
use crate::tunnel::wgquick::{self, Config};
use runns_shared::clock;
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::{escape, show};
use runns_shared::output;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::{Daemon, Record};
use runns_shared::trusted::{self, Trust};
use runns_shared::tunnel::TunnelState;
use runns_sys::process;

/// Where userspace implementations have the sockets through which wg(8) talks to them.
const SOCKETS: &str = "/run/wireguard";
const USERSPACE: &str = "wireguard-go";
/// From SIGTERM to SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// MTU if the file sets none: that of Ethernet less WireGuard's overhead. wg-quick(8) uses the same unless the route to
/// the peer suggests another, which is not examined here.
const MTU: u32 = 1420;

/// The part.
pub struct WireGuard;

impl Part for WireGuard {
    fn describe(&self, plan: &Plan) -> Option<String> {
        let files: Vec<String> = plan.request.wireguard.iter().map(show).collect();
        (!files.is_empty()).then(|| format!("WireGuard: {}", files.join(", ")))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let files = site.plan().request.wireguard.clone();
        if !files.is_empty() {
            tunnel::make_directories(&site.plan().request.name)?;
        }
        for (index, file) in files.iter().enumerate() {
            let device =
                Device { number: index, outside: outside_name(site.plan(), index), inside: format!("wg{index}") };
            bring_up(site, file, &device).map_err(|error| {
                let hint = error.hint_text().map(str::to_string);
                let error = Error::new(format!("bring up the tunnel of {}", show(file)), error.cause());
                match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            })?;
        }
        Ok(())
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let plan = site.plan().clone();
        let mut removed = false;
        for index in 0..plan.request.wireguard.len() {
            let outside = outside_name(&plan, index);
            // The userspace implementation ends with its device; one that had not finished its start is found by name.
            removed |= daemon::stop_found(|| userspace_daemons(&plan, &outside), PATIENCE)?;
            // If it was killed, its socket is left behind.
            let _ = std::fs::remove_file(Path::new(SOCKETS).join(format!("{outside}.sock")));
            if let Some(link) = site.host.link(&outside)? {
                site.host.delete_link(link.index)?;
                removed = true;
            }
            if let Some(namespace) = netns::open_built(site)? {
                let inside = crate::netlink::Netlink::inside(namespace.as_fd())?;
                if let Some(link) = inside.link(&format!("wg{index}"))? {
                    inside.delete_link(link.index)?;
                    removed = true;
                }
            }
        }
        netns::remove_made_directory(site, Path::new(SOCKETS))?;
        tunnel::remove_directories(&plan.request.name)?;
        Ok(removed)
    }
}

/// One device and its names.
struct Device {
    number: usize,
    outside: String,
    inside: String,
}

/// The device's name outside. It is unique because no two namespaces have the same subnet number.
fn outside_name(plan: &Plan, index: usize) -> String {
    format!("rwg{}-{index}", plan.number.get())
}

/// Checks tools and files before anything is created.
pub fn check(plan: &Plan) -> Result<()> {
    if plan.request.wireguard.is_empty() {
        return Ok(());
    }
    tool::need("wg", "wireguard-tools")?;
    if let Some(program) = plan.request.userspace.as_ref().filter(|program| program.is_absolute()) {
        trusted::locate(program, Trust::Strict)?;
    }
    for file in &plan.request.wireguard {
        let config = read(file)?;
        if !config.left_out.is_empty() {
            warn(&format!("{}: left out: {}", show(file), config.left_out.join(", ")));
        }
        if plan.request.ipv6 == Some(false) && config.addresses.iter().all(|(address, _)| address.is_ipv6()) {
            return Err(Error::new(format!("use {}", show(file)), "it has only IPv6 addresses, and IPv6=no is set"));
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Config> {
    wgquick::parse(&trusted::read(file, Trust::Strict)?)
        .map_err(|error| Error::new(format!("use {}", show(file)), error.cause()))
}

fn bring_up(site: &mut Site, file: &Path, device: &Device) -> Result<()> {
    let plan = site.plan().clone();
    let namespace = netns::open_built(site)?.ok_or_else(|| Error::new("create the device", "the namespace is gone"))?;
    let mut config = read(file)?;
    config.setconf = resolve_endpoints(&config.setconf)?;
    let in_kernel = site.host.add_wireguard(&device.outside)?;
    if !in_kernel {
        let daemon = start_userspace(site, file, device)?;
        site.record.daemons.push(daemon);
        site.save()?;
    }
    configure(&device.outside, &config.setconf)?;
    let with_ipv6 = plan.request.ipv6 != Some(false);
    let wanted = |prefix: &&wgquick::Prefix| with_ipv6 || prefix.0.is_ipv4();
    let setup = Setup {
        name: device.inside.clone(),
        addresses: config.addresses.iter().filter(wanted).copied().collect(),
        mtu: Some(config.mtu.unwrap_or(MTU)),
        routes: config.allowed.iter().filter(wanted).map(|network| (*network, None)).collect(),
        order: (plan.request.vpn.len() + device.number) as u32,
        split_default: !plan.request.kill_switch,
    };
    install(&site.host, &device.outside, &namespace, &setup)?;
    if let Some(patience) = site.wait {
        output::step(|| format!("waiting for the first handshake of {}", device.inside));
        wait_for_handshake(&namespace, device, &config, in_kernel, patience)?;
    }
    let dns = config.dns.unwrap_or(runns_shared::config::Dns { servers: Vec::new(), search: Vec::new() });
    let state = TunnelState {
        device: device.inside.clone(),
        up: true,
        reason: None,
        since: clock::now(),
        servers: dns.servers,
        search: dns.search,
    };
    tunnel::save(&state, &plan.request.name, plan.request.vpn.len() + device.number)
}

/// Starts the userspace implementation that drives the device where the kernel does not. It goes into the background by
/// itself.
fn start_userspace(site: &Site, file: &Path, device: &Device) -> Result<Daemon> {
    let name = userspace(site.plan());
    let program = tool::find(&name).ok_or_else(|| {
        Error::new(
            "create the device",
            format!("this kernel has no WireGuard, and there is no program {name} in {}", tool::PATH),
        )
        .hint("install wireguard-go, or a kernel with the wireguard module")
    })?;
    let cannot = || format!("start {name}");
    make_directory_for_now(site.lock, Path::new(SOCKETS))?;
    process::set_child_subreaper(true).cannot(cannot)?;
    site.lock.close_on_exec()?;
    let started = tool::run(&program.to_string_lossy(), &[&device.outside], "");
    site.lock.inherit()?;
    let adopted = started.map(|_| adopted(site.plan(), &device.outside));
    process::set_child_subreaper(false).cannot(cannot)?;
    let adopted = adopted?;
    let daemon = adopted.ok_or_else(|| Error::new(cannot(), "it exited at once"))?;
    Ok(Daemon { config: file.to_path_buf(), ..daemon })
}

/// The userspace implementation in the background, of which this process has become the parent. Its command line is
/// empty for a moment during execve(2), hence the repeated search.
fn adopted(plan: &Plan, outside: &str) -> Option<Daemon> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let found = userspace_daemons(plan, outside).into_iter().next();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The userspace implementation: a name, or an absolute path.
fn userspace(plan: &Plan) -> String {
    plan.request.userspace.as_ref().map_or(USERSPACE.to_string(), |program| program.to_string_lossy().into_owned())
}

/// Root's processes that drive the device called `outside`: the program itself, or its interpreter if it is a script.
fn userspace_daemons(plan: &Plan, outside: &str) -> Vec<Daemon> {
    let program = userspace(plan);
    let program = Path::new(&program).file_name();
    daemon::outside()
        .into_iter()
        .filter(|pid| {
            let words = daemon::command_line(*pid);
            daemon::user_of(*pid) == Some(0)
                && words.last().is_some_and(|word| word == outside)
                && words.iter().take(2).any(|word| Path::new(word).file_name() == program)
        })
        .filter_map(|pid| Daemon::identify(pid, Path::new("")))
        .collect()
}

/// Replaces host names of endpoints with addresses: wg(8) would retry for minutes on a name that does not resolve.
fn resolve_endpoints(setconf: &str) -> Result<String> {
    let mut text = String::new();
    for line in setconf.lines() {
        match line.strip_prefix("Endpoint = ") {
            Some(endpoint) => text.push_str(&format!("Endpoint = {}\n", resolve(endpoint)?)),
            None => text.push_str(&format!("{line}\n")),
        }
    }
    Ok(text)
}

/// HOST:PORT with the host name replaced with its address, resolved outside as the host's own programs resolve it.
fn resolve(endpoint: &str) -> Result<String> {
    let wrong = |why: &str| Error::new("find the server", format!("Endpoint {}: {why}", escape(endpoint.as_bytes())));
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(|| wrong("it is not HOST:PORT"))?;
    let port: u16 = port.parse().map_err(|_| wrong("it is not HOST:PORT"))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = match bare.parse() {
        Ok(address) => address,
        Err(_) if runns_shared::config::is_domain(bare) => {
            *tool::addresses_of(bare).first().ok_or_else(|| wrong("the server's name was not found"))?
        }
        Err(_) => return Err(wrong("it is not HOST:PORT")),
    };
    Ok(std::net::SocketAddr::new(address, port).to_string())
}

/// Sets the device's keys and peers. The error output of wg may quote a key, so it is not passed on.
fn configure(device: &str, setconf: &str) -> Result<()> {
    tool::run("wg", &["setconf", device, "/dev/stdin"], setconf).map(drop).map_err(|_| {
        Error::new("set keys and peers", "wg did not accept them: a key, port or network in the file is wrong")
    })
}

/// Waits for the first handshake with any peer.
fn wait_for_handshake(
    namespace: &File,
    device: &Device,
    config: &Config,
    in_kernel: bool,
    patience: Duration,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        // WireGuard starts no handshake until it has a packet to send.
        in_namespace(namespace.as_fd(), || knock(config))?;
        if latest_handshake(namespace, device, in_kernel)? > 0 {
            return Ok(());
        }
        if process::was_interrupted() {
            return Err(Error::new("wait", "interrupted by a signal"));
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                "wait",
                "no answer from the server (no handshake): is the endpoint right, and does the server know the key?",
            ));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends an empty packet to the discard port (RFC 863) of an address behind each peer.
fn knock(config: &Config) -> Result<()> {
    for (network, prefix) in &config.allowed {
        let target = match (network, prefix) {
            (address, 32 | 128) => *address,
            (IpAddr::V4(address), 1..) => IpAddr::V4(std::net::Ipv4Addr::from_bits(address.to_bits() | 1)),
            (IpAddr::V4(_), _) => IpAddr::V4(std::net::Ipv4Addr::new(240, 0, 0, 9)),
            (IpAddr::V6(_), _) => continue,
        };
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        if let Ok(socket) = UdpSocket::bind(any) {
            // Whether it arrives does not matter: it has to be sent only to start a handshake.
            let _ = socket.send_to(&[], (target, 9));
        }
    }
    Ok(())
}

/// The time of the latest handshake on the namespace's WireGuard device `index`, in seconds since the epoch, 0 for
/// never; `None` if the caller is not root, or if it cannot be found out.
pub fn last_handshake(record: &Record, index: usize) -> Option<i64> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let namespace = netns::open_recorded(record).ok()??;
    let outside = outside_name(&record.plan, index);
    let in_kernel = userspace_daemons(&record.plan, &outside).is_empty();
    let device = Device { number: index, outside, inside: format!("wg{index}") };
    latest_handshake(&namespace, &device, in_kernel).ok()
}

/// The time of the latest handshake, in seconds since the epoch; 0 for never.
fn latest_handshake(namespace: &File, device: &Device, in_kernel: bool) -> Result<i64> {
    let show = |device: &str| tool::run("wg", &["show", device, "latest-handshakes"], "");
    // A userspace implementation is reached through its socket, which has the device's outside name; the kernel has to
    // be asked inside the namespace.
    let said =
        if in_kernel { in_namespace(namespace.as_fd(), || show(&device.inside))? } else { show(&device.outside)? };
    Ok(said.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse().ok()).max().unwrap_or(0))
}
