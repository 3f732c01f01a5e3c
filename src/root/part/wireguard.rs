//! WireGuard: each `WireGuard=` is one device. It is created outside, where its UDP socket stays
//! and its peers' endpoints are resolved, and then moved into the namespace. On a kernel without
//! WireGuard, a userspace implementation drives the device, as with wg-quick(8).
//!
//! Keys go from the file to wg(8)'s standard input, and are compared with its output; they go
//! nowhere else: not into arguments, files, logs or messages.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use caps::Capability;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Part, Site, Wait};
use crate::confine::{self, Identity, view::View};
use crate::facts::ipv6::in_tunnels;
use crate::finding::{About, Finding};
use crate::host::{make_directory_for_now, remove_made_directory};
use crate::kernel::daemon::{self, Detached};
use crate::kernel::denial::name_denial;
use crate::kernel::netlink::{Netlink, in_namespace};
use crate::kernel::tool;
use crate::lock::Lock;
use crate::namespace;
use crate::seen::Subject;
use crate::tunnel;
use crate::tunnel::Digest;
use crate::tunnel::device::{self, Setup, install};
use crate::tunnel::peers::{Contacts, Peers};
use crate::tunnel::source;
use crate::tunnel::wgquick::{self, Config};
use runns_shared::clock;
use runns_shared::error::{Context, Error, Result, words as words_of};
use runns_shared::escape::{escape, show};
use runns_shared::name::IfaceName;
use runns_shared::output;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::{Daemon, Record};
use runns_shared::trusted::{self, Trust};
use runns_shared::tunnel::TunnelState;
use runns_sys::process::{self, Fork};
use runns_sys::tun::{self, Header, Kind};

/// Where userspace implementations have the sockets through which wg(8) talks to them.
const SOCKETS: &str = "/run/wireguard";
const USERSPACE: &str = "wireguard-go";
/// From SIGTERM to SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server that was silent may take to answer where nobody waits for tunnels.
const SHORT: Duration = Duration::from_secs(3);
/// How long an idle tunnel's server may take: a first packet that is lost is sent again after five
/// seconds (Rekey-Timeout, section 6.1 of the WireGuard paper).
const ASKED: Duration = Duration::from_secs(8);
/// From one question to the next.
const ROUND: Duration = Duration::from_millis(50);
/// MTU if the file sets none: that of Ethernet less WireGuard's overhead. wg-quick(8) uses the same
/// unless the route to the peer suggests another, which is not examined here.
const MTU: u32 = 1420;

/// The part.
pub struct WireGuard;

impl Part for WireGuard {
    fn is_in(&self, plan: &Plan) -> bool {
        !plan.request.wireguard.is_empty()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        let files: Vec<String> = plan.request.wireguard.iter().map(show).collect();
        Some(format!("WireGuard: {}", files.join(", ")))
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        check(plan)
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        bring_up_those(site, |_| true)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let plan = site.plan().clone();
        let mut removed = false;
        for index in 0..plan.request.wireguard.len() {
            removed |= remove(site, &plan, &Device::new(&plan, index))?;
        }
        remove_made_directory(site.lock, Path::new(SOCKETS))?;
        tunnel::remove_directories(&plan.name)?;
        Ok(removed)
    }

    fn end(&self, site: &mut Site) -> Result<()> {
        for plan in site.record.earlier.clone() {
            for (index, file) in plan.request.wireguard.iter().enumerate() {
                if !is_started(site.plan(), index) {
                    // From now on, it is not taken for one that runs.
                    tunnel::forget(&plan.name, place(&plan, index))?;
                    remove(site, &plan, &Device::new(&plan, index))?;
                    site.record.daemons.retain(|daemon| daemon.config != *file);
                }
            }
        }
        if !self.is_in(site.plan()) {
            remove_made_directory(site.lock, Path::new(SOCKETS))?;
        }
        site.save()
    }

    fn change(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan().clone();
        let is_new = |index: &usize| !is_started(&plan, *index);
        // A change that was killed may have left something of it.
        for index in (0..plan.request.wireguard.len()).filter(is_new) {
            remove(site, &plan, &Device::new(&plan, index))?;
        }
        bring_up_those(site, |index| is_new(&index))
    }

    fn is_way_out(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let files = &subject.record.plan.request.wireguard;
        Ok(files
            .iter()
            .enumerate()
            .filter_map(|(index, file)| look(subject, index, file))
            .collect())
    }

    fn unseen(&self, plan: &Plan) -> Option<&'static str> {
        (!plan.request.wireguard.is_empty())
            .then_some("addresses, routes, peers and handshakes of WireGuard devices")
    }

    fn repair(&self, site: &mut Site, found: &[Finding]) -> Result<()> {
        let files = site.plan().request.wireguard.clone();
        let mut errors = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let place = place(site.plan(), index);
            let is_its = |finding: &Finding| finding.about == About::Tunnel(place);
            if found.iter().any(is_its) {
                let repaired = repair(site, file, &Device::new(site.plan(), index));
                errors.extend(
                    repaired
                        .map_err(|error| error.within(bring_up_words(file)))
                        .err(),
                );
            }
        }
        Error::all(errors).map_or(Ok(()), Err)
    }
}

/// Brings up the tunnels that are `meant`.
fn bring_up_those(site: &mut Site, meant: impl Fn(usize) -> bool) -> Result<()> {
    let files = site.plan().request.wireguard.clone();
    for (index, file) in files.iter().enumerate().filter(|(index, _)| meant(*index)) {
        tunnel::make_directories(&site.plan().name)?;
        let device = Device::new(site.plan(), index);
        bring_up(site, file, &device).map_err(|error| error.within(bring_up_words(file)))?;
    }
    Ok(())
}

/// The place of WireGuard tunnel `index` among all tunnels of a plan.
fn place(plan: &Plan, index: usize) -> usize {
    plan.request.daemons() + index
}

/// What tunnel `index` of a plan depends on.
fn digest(plan: &Plan, index: usize) -> Result<Digest> {
    let request = &plan.request;
    let file = &request.wireguard[index];
    Ok(Digest::of((
        "WireGuard",
        // Its device and its user.
        (index, request.daemons()),
        file,
        trusted::read_bytes(file, Trust::Strict)?,
        &request.userspace,
        request.kill_switch,
        request.ipv6,
    )))
}

/// Whether something that tunnel `index` depends on has changed since it was started.
pub fn has_changed(plan: &Plan, index: usize) -> bool {
    tunnel::started_with(&plan.name, place(plan, index)).is_some() && !is_started(plan, index)
}

/// Whether tunnel `index` of a plan is the one that was started.
pub fn is_started(plan: &Plan, index: usize) -> bool {
    let started = tunnel::started_with(&plan.name, place(plan, index));
    let has_it = index < plan.request.wireguard.len() && started.is_some();
    has_it && digest(plan, index).ok() == started
}

fn bring_up_words(file: &Path) -> String {
    format!("bring up the tunnel of {}", show(file))
}

/// One device and its names.
struct Device {
    number: usize,
    outside: String,
    inside: String,
}

impl Device {
    fn new(plan: &Plan, index: usize) -> Self {
        Self {
            number: index,
            outside: outside_name(plan, index),
            inside: format!("wg{index}"),
        }
    }

    /// Where wg(8) looks for the socket of its userspace implementation.
    fn socket(&self) -> PathBuf {
        Path::new(SOCKETS).join(format!("{}.sock", self.outside))
    }

    /// The user id of its userspace implementation.
    fn user(&self, plan: &Plan) -> u32 {
        confine::user(plan, place(plan, self.number))
    }
}

/// Removes a device and the program that drives it; returns whether there was anything.
fn remove(site: &Site, plan: &Plan, device: &Device) -> Result<bool> {
    let mut removed = daemon::stop_found(|| userspace_daemons(plan, device.number), PATIENCE)?;
    confine::end_user(device.user(plan))?;
    let _ = std::fs::remove_file(device.socket());
    if let Some(link) = site.host.link(&device.outside)? {
        site.host.delete_link(link.index)?;
        removed = true;
    }
    if let Some(namespace) = site.open_namespace()? {
        let inside = Netlink::inside(namespace.as_fd())?;
        if let Some(link) = inside.link(&device.inside)? {
            inside.delete_link(link.index)?;
            removed = true;
        }
    }
    Ok(removed)
}

/// The device's name outside. It is unique because no two namespaces have the same subnet number.
fn outside_name(plan: &Plan, index: usize) -> String {
    format!("rwg{}-{index}", plan.number.get())
}

/// Checks tools and files before anything is created.
fn check(plan: &Plan) -> Result<()> {
    if plan.request.wireguard.is_empty() {
        return Ok(());
    }
    tool::need("wg", "wireguard-tools")?;
    if let Some(program) = plan
        .request
        .userspace
        .as_ref()
        .filter(|program| program.is_absolute())
    {
        trusted::locate(program, Trust::Strict)?;
    }
    for file in &plan.request.wireguard {
        let config = read(file)?;
        if !config.left_out.is_empty() {
            warn(&format!(
                "{}: ignoring {}",
                show(file),
                config.left_out.join(", ")
            ));
        }
        if !in_tunnels(&plan.request)
            && config
                .addresses
                .iter()
                .all(|(address, _)| address.is_ipv6())
        {
            return Err(Error::new(
                format!("use {}", show(file)),
                "it has only IPv6 addresses, and there is no IPv6 on this host, or IPv6=no is set",
            ));
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Config> {
    // What is no UTF-8 can only stand in comments, or is for wg(8) to refuse.
    let text = source::read(file, source::Kind::WireGuard)?;
    wgquick::parse(&String::from_utf8_lossy(&text))
        .map_err(|error| error.within(format!("use {}", show(file))))
}

fn bring_up(site: &mut Site, file: &Path, device: &Device) -> Result<()> {
    let plan = site.plan().clone();
    let namespace = site
        .open_namespace()?
        .ok_or_else(|| Error::new("create the device", "the namespace is gone"))?;
    let digest = digest(&plan, device.number)?;
    let begin = SystemTime::now();
    let mut config = read(file)?;
    config.setconf = resolve_endpoints(&config.setconf)?;
    let in_kernel = site.host.add_wireguard(&device.outside)?;
    if !in_kernel {
        let fwmark = config.setconf.contains("\nFwMark = ");
        let daemon = start_userspace(site, file, device, fwmark)?;
        site.record.daemons.push(daemon);
        site.save()?;
    }
    configure(&device.outside, &config.setconf).map_err(|error| {
        match site.record.daemons.last() {
            Some(daemon) if !in_kernel && !daemon.is_running() => {
                let error = Error::new("start the device's driver", EXITED);
                name_denial(error, &userspace(&plan), begin)
            }
            _ => name_denial(error, "wg", begin),
        }
    })?;
    install(
        &site.host,
        &device.outside,
        &namespace,
        &setup(&plan, device, &config),
    )?;
    if let Some(Wait { time, .. }) = site.wait {
        output::step(|| format!("waiting for the first handshake of {}", device.inside));
        wait_for_handshake(&namespace, device, &config, in_kernel, time)?;
    }
    let dns = config.dns.unwrap_or(runns_shared::request::Dns {
        servers: Vec::new(),
        search: Vec::new(),
    });
    let state = TunnelState {
        device: device.inside.clone(),
        up: true,
        reason: None,
        ended: false,
        since: clock::now(),
        servers: dns.servers,
        search: dns.search,
    };
    let place = place(&plan, device.number);
    tunnel::save(&state, &plan.name, place)?;
    tunnel::note_start(&plan.name, place, digest)
}

/// How the device is set up inside.
fn setup(plan: &Plan, device: &Device, config: &Config) -> Setup {
    let with_ipv6 = in_tunnels(&plan.request);
    let wanted = |prefix: &&wgquick::Prefix| with_ipv6 || prefix.0.is_ipv4();
    Setup {
        name: device.inside.clone(),
        addresses: config.addresses.iter().filter(wanted).copied().collect(),
        mtu: Some(config.mtu.unwrap_or(MTU)),
        routes: config
            .allowed
            .iter()
            .filter(wanted)
            .map(|network| (*network, None))
            .collect(),
        order: place(plan, device.number) as u32,
        split_default: !plan.request.kill_switch,
    }
}

/// Starts the userspace implementation that drives the device where the kernel does not. It gets
/// the device and its socket as open descriptors, in the variables that wireguard-go(8) has for
/// them, and so needs no capability.
fn start_userspace(site: &Site, file: &Path, device: &Device, fwmark: bool) -> Result<Daemon> {
    let name = userspace(site.plan());
    let program = tool::find(&name).ok_or_else(|| {
        Error::new(
            "create the device",
            format!(
                "this kernel has no WireGuard, and there is no program {name} in {}",
                tool::PATH
            ),
        )
        .hint("install wireguard-go, or a kernel with the wireguard module")
    })?;
    let cannot = || format!("start {name}");
    // Whatever an earlier driver has left would have the same user.
    confine::end_user(device.user(site.plan()))?;
    make_directory_for_now(site.lock, Path::new(SOCKETS))?;
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .cannot(|| "open /dev/net/tun")?;
    tun::create(&tun, &device.outside, Kind::Tun, header(&program))
        .cannot(|| format!("create the device {}", device.outside))?;
    let identity = Identity {
        user: device.user(site.plan()),
        // SO_MARK (socket(7)).
        capability: fwmark.then_some(Capability::CAP_NET_ADMIN),
        lock_memory: false,
    };
    let socket = listen(&device.socket(), identity.user)?;
    let userspace = Userspace {
        program,
        device,
        identity,
        tun: tun.into(),
        socket: socket.into(),
        lock: site.lock,
    };
    match process::fork().cannot(cannot)? {
        Fork::Child => {
            let Err(error) = userspace.become_it();
            output::complain_error(&error);
            process::exit_now(1)
        }
        Fork::Parent(pid) => {
            Daemon::identify(pid.as_raw(), file).ok_or_else(|| Error::new(cannot(), EXITED))
        }
    }
}

/// Said of a userspace implementation that has ended.
const EXITED: &str = "it exited at once: it must take its device and socket from WG_TUN_FD and WG_UAPI_FD, as \
                      wireguard-go does, and run without a capability";

/// The socket through which wg(8) talks to the userspace implementation. It is root's only by
/// root's right to open everything: the daemon watches it.
fn listen(path: &Path, user: u32) -> Result<UnixListener> {
    let cannot = || format!("create {}", show(path));
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).cannot(cannot)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).cannot(cannot)?;
    std::os::unix::fs::chown(path, Some(user), Some(user)).cannot(cannot)?;
    Ok(listener)
}

/// What the program expects before each packet, by the version that it reports. wireguard-go cannot
/// be told, and does not ask the device (tun/tun_linux.go of its sources); other programs, such as
/// boringtun, expect nothing.
fn header(program: &Path) -> Header {
    /// The first version of wireguard-go with the virtio header.
    const OFFLOAD: u32 = 20230223;
    let said = tool::run(&program.to_string_lossy(), &["--version"], "").unwrap_or_default();
    let Some(version) = said.strip_prefix("wireguard-go v0.0.") else {
        return Header::None;
    };
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    if digits.parse::<u32>().is_ok_and(|version| version < OFFLOAD) {
        Header::Information
    } else {
        Header::Offload
    }
}

/// A userspace implementation that is about to be executed.
struct Userspace<'a> {
    program: PathBuf,
    device: &'a Device,
    identity: Identity,
    tun: OwnedFd,
    socket: OwnedFd,
    lock: &'a Lock,
}

impl Userspace<'_> {
    /// In the child: becomes the confined program.
    fn become_it(&self) -> Result<Infallible> {
        let detached = Detached::begin()?;
        let mut view = View::new();
        view.show(&self.program, &self.program);
        for place in [
            self.device.socket(),
            Path::new("/var").join(
                self.device
                    .socket()
                    .strip_prefix("/")
                    .unwrap_or(Path::new("")),
            ),
        ] {
            view.show(self.device.socket(), place);
        }
        view.enter(self.identity.user)?;
        // Until here, a clean waits for it. From here on, it finds it by its user, and another process
        // of that user may stop it.
        self.lock.close_in_child()?;
        confine::give_up_root(&self.identity)?;
        // It sets an MTU at its start, for which it lacks the capability. build sets the right one.
        process::pretend_to_set_mtu().cannot(|| "filter system calls")?;
        for fd in [&self.tun, &self.socket] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).cannot(|| "pass on a descriptor")?;
        }
        let variables = [
            format!("PATH={}", tool::PATH),
            "WG_PROCESS_FOREGROUND=1".to_string(),
            format!("WG_TUN_FD={}", self.tun.as_raw_fd()),
            format!("WG_UAPI_FD={}", self.socket.as_raw_fd()),
        ];
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let words = [
            text(&self.program.to_string_lossy()),
            text(&self.device.outside),
        ];
        let variables = variables.map(|variable| text(&variable));
        detached.redirect(None, None, None)?;
        let errno = process::execute(&words[0], &refer(&words), &refer(&variables));
        Err(Error::new("execute it", words_of(errno)))
    }
}

fn refer(strings: &[CString]) -> Vec<&CStr> {
    strings.iter().map(CString::as_c_str).collect()
}

/// The userspace implementation: a name, or an absolute path.
fn userspace(plan: &Plan) -> String {
    plan.request
        .userspace
        .as_ref()
        .map_or(USERSPACE.to_string(), |program| {
            program.to_string_lossy().into_owned()
        })
}

/// The processes that drive the device: nothing else has their user id.
fn userspace_daemons(plan: &Plan, index: usize) -> Vec<Daemon> {
    let user = confine::user(plan, place(plan, index));
    let is_its = |pid: &i32| daemon::user_of(*pid) == Some(user);
    daemon::all()
        .into_iter()
        .filter(is_its)
        .filter_map(|pid| Daemon::identify(pid, Path::new("")))
        .collect()
}

/// Replaces host names of endpoints with addresses: wg(8) would retry for minutes on a name that
/// does not resolve.
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

/// HOST:PORT with the host name replaced with its address, resolved outside as the host's own
/// programs resolve it.
fn resolve(endpoint: &str) -> Result<String> {
    let wrong = |why: &str| {
        Error::new(
            "find the server",
            format!("Endpoint {}: {why}", escape(endpoint.as_bytes())),
        )
    };
    let (host, port) = endpoint
        .rsplit_once(':')
        .ok_or_else(|| wrong("it is not HOST:PORT"))?;
    let port: u16 = port.parse().map_err(|_| wrong("it is not HOST:PORT"))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Some((address, zone)) = bare.split_once('%') {
        // A link-local address (RFC 4007, 11), of an interface outside.
        let is_right =
            address.parse::<std::net::Ipv6Addr>().is_ok() && IfaceName::new(zone).is_ok();
        let zoned = is_right.then(|| format!("[{bare}]:{port}"));
        return zoned.ok_or_else(|| wrong("it is not HOST:PORT"));
    }
    let address: IpAddr = match bare.parse() {
        Ok(address) => address,
        Err(_) if runns_shared::config::is_domain(bare) => *tool::addresses_of(bare)
            .first()
            .ok_or_else(|| wrong("the server's name was not found"))?,
        Err(_) => return Err(wrong("it is not HOST:PORT")),
    };
    Ok(std::net::SocketAddr::new(address, port).to_string())
}

/// Sets the device's keys and peers. The error output of wg may quote a key, so it is not passed
/// on.
fn configure(device: &str, setconf: &str) -> Result<()> {
    configure_by("setconf", device, setconf)
}

fn configure_by(verb: &str, device: &str, setconf: &str) -> Result<()> {
    tool::ask("wg", &[verb, device, "/dev/stdin"], setconf)
        .map(drop)
        .map_err(|_| {
            Error::new(
                "set keys and peers",
                "wg did not accept the file: a key, port or network in it is wrong",
            )
        })
}

/// Waits for a handshake with any peer, if there was none lately.
fn wait_for_handshake(
    namespace: &File,
    device: &Device,
    config: &Config,
    in_kernel: bool,
    patience: Duration,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        if with_name(namespace, device, in_kernel, Contacts::of)?.is_fresh(clock::now()) {
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
        // WireGuard starts no handshake until it has a packet to send.
        knock(namespace, device, config)?;
        std::thread::sleep(ROUND);
    }
}

/// Sends an empty packet through the device, whatever other routes there are, to the discard port
/// (RFC 863) of addresses behind each peer. Returns whether any could be sent; whether it arrives
/// does not matter.
fn knock(namespace: &File, device: &Device, config: &Config) -> Result<bool> {
    /// Networks of a peer that are tried: of the first ones, another peer may have a part.
    const MOST: usize = 8;
    let own: Vec<IpAddr> = config.addresses.iter().map(|(own, _)| *own).collect();
    let name = OsString::from(&device.inside);
    let send = |target: IpAddr| -> std::io::Result<usize> {
        let any: IpAddr = match target {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        setsockopt(&socket, sockopt::BindToDevice, &name)?;
        socket.send_to(&[], (target, 9))
    };
    let reach = |networks: &[wgquick::Prefix]| {
        let targets = networks.iter().filter_map(|network| behind(network, &own));
        let sent = targets.filter(|target| send(*target).is_ok());
        sent.take(MOST).count() > 0
    };
    in_namespace(namespace.as_fd(), || {
        let reached = config.networks_of_peers().map(|networks| reach(&networks));
        Ok(reached.filter(|reached| *reached).count() > 0)
    })
}

/// An address in a network of a peer's that is none of the device's own, for which nothing would
/// be sent.
fn behind((network, prefix): &wgquick::Prefix, own: &[IpAddr]) -> Option<IpAddr> {
    /// As many as are tried: more than the own addresses that a file gives in one network.
    const MOST: u128 = 64;
    let first = |bits: u128, length: u8| {
        let size = 1_u128.checked_shl(u32::from(length - prefix)).unwrap_or(0);
        let start = bits & !size.wrapping_sub(1);
        // All but the network's own address, where it is not the only one.
        let last = size.saturating_sub(1).clamp(0, MOST);
        (last.min(1)..=last).map(move |host| start + host)
    };
    match network {
        // Addresses to which nothing is ever routed (RFC 1112, 4; RFC 6666).
        IpAddr::V4(_) if *prefix == 0 => Some(std::net::Ipv4Addr::new(240, 0, 0, 9).into()),
        IpAddr::V6(_) if *prefix == 0 => {
            Some(std::net::Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 9).into())
        }
        IpAddr::V4(address) => first(address.to_bits().into(), 32)
            .map(|bits| IpAddr::V4(std::net::Ipv4Addr::from_bits(bits as u32)))
            .find(|address| !own.contains(address)),
        IpAddr::V6(address) => first(address.to_bits(), 128)
            .map(|bits| IpAddr::V6(std::net::Ipv6Addr::from_bits(bits)))
            .find(|address| !own.contains(address)),
    }
}

/// The time of the latest handshake on the namespace's WireGuard device `index`, in seconds since
/// the epoch, 0 for never; `None` if the caller is not root, or if it cannot be found out.
pub fn last_handshake(record: &Record, index: usize) -> Option<i64> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let namespace = namespace::open_recorded(record).ok()??;
    let outside = outside_name(&record.plan, index);
    let in_kernel = userspace_daemons(&record.plan, index).is_empty();
    let device = Device {
        number: index,
        outside,
        inside: format!("wg{index}"),
    };
    latest_handshake(&namespace, &device, in_kernel).ok()
}

/// Calls `wg` with the device's name for wg(8). A userspace implementation is reached through its
/// socket, which has the device's outside name; the kernel has to be asked inside the namespace.
fn with_name<T>(
    namespace: &File,
    device: &Device,
    in_kernel: bool,
    wg: impl FnOnce(&str) -> Result<T> + Send,
) -> Result<T>
where
    T: Send,
{
    if in_kernel {
        in_namespace(namespace.as_fd(), || wg(&device.inside))
    } else {
        wg(&device.outside)
    }
}

/// The time of the latest handshake, in seconds since the epoch; 0 for never.
fn latest_handshake(namespace: &File, device: &Device, in_kernel: bool) -> Result<i64> {
    let said = with_name(namespace, device, in_kernel, |device| {
        tool::ask("wg", &["show", device, "latest-handshakes"], "")
    })?;
    Ok(said
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .max()
        .unwrap_or(0))
}

fn what(file: &Path) -> String {
    format!("tunnel of {}", show(file))
}

fn look(subject: &Subject, index: usize, file: &Path) -> Option<Finding> {
    let plan = &subject.record.plan;
    let condition = tunnel::condition(subject, place(plan, index));
    let about = About::Tunnel(place(plan, index));
    if let Some(how) = silence(subject, index) {
        return Some(Finding::down(what(file), how).about(about));
    }
    let is_down = condition.is_down;
    let how = condition.reason.or_else(|| {
        let inside = subject.inside.as_ref().filter(|_| subject.seen.root)?;
        match read(file) {
            Ok(config) => {
                let device = Device::new(plan, index);
                device::wrong(inside, &setup(plan, &device, &config))
                    .or_else(|| wrong_peers(subject, &device, &config))
            }
            Err(error) => Some(format!("its file cannot be used: {}", error.cause())),
        }
    })?;
    Some(Finding {
        fatal: is_down || plan.request.kill_switch,
        ..Finding::degraded(what(file), how).about(about)
    })
}

/// That the peers of a device no longer answer, for people.
fn silence(subject: &Subject, index: usize) -> Option<String> {
    let plan = &subject.record.plan;
    let state = TunnelState::load(&plan.name, place(plan, index));
    let namespace = &subject.deep().ok()??.file;
    let in_kernel = userspace_daemons(plan, index).is_empty();
    let contacts = with_name(
        namespace,
        &Device::new(plan, index),
        in_kernel,
        Contacts::of,
    );
    let silence = contacts.ok()?.silence(state.since, clock::now())?;
    Some(match silence / 60 {
        0 => format!("its server has not answered for {silence} seconds"),
        minutes => format!("its server has not answered for {minutes} min"),
    })
}

/// A tunnel of which nobody has heard lately. Without traffic there are no handshakes, so one that
/// nobody uses looks like one whose server is gone.
struct Idle<'a> {
    /// The place of its namespace among those that are looked at.
    at: usize,
    file: &'a Path,
    namespace: &'a File,
    device: Device,
    in_kernel: bool,
    config: Config,
    place: usize,
}

impl<'a> Idle<'a> {
    /// Tunnel `index`, if it is one, and its servers can be asked. A peer without an endpoint cannot,
    /// and a file that was changed since does not say how.
    fn of(at: usize, subject: &'a Subject, index: usize) -> Option<Self> {
        let plan = &subject.record.plan;
        let file = &plan.request.wireguard[index];
        let idle = Self {
            at,
            file,
            namespace: &subject.deep().ok()??.file,
            device: Device::new(plan, index),
            in_kernel: userspace_daemons(plan, index).is_empty(),
            config: read(file).ok()?,
            place: place(plan, index),
        };
        let is_idle = || is_idle(plan, idle.namespace, &idle.device);
        let can_be_asked = idle.config.has_all_endpoints() && !has_changed(plan, index);
        (can_be_asked && is_idle().ok()?).then_some(idle)
    }

    fn is_silent(&self) -> bool {
        with_name(self.namespace, &self.device, self.in_kernel, Contacts::of)
            .is_ok_and(|contacts| !contacts.is_fresh(clock::now()))
    }

    /// Returns whether anything could be sent.
    fn knock(&self) -> bool {
        knock(self.namespace, &self.device, &self.config).unwrap_or(false)
    }
}

/// Whether nobody has heard of the servers lately.
fn is_idle(plan: &Plan, namespace: &File, device: &Device) -> Result<bool> {
    let in_kernel = userspace_daemons(plan, device.number).is_empty();
    let since = TunnelState::load(&plan.name, place(plan, device.number)).since;
    let contacts = with_name(namespace, device, in_kernel, Contacts::of)?;
    Ok(contacts.is_idle(since, clock::now()))
}

/// Asks the servers of idle tunnels in these namespaces, all at once. Returns those that do not
/// answer, each with the place of its namespace. Only root can do so.
pub fn ask(namespaces: &[(&Subject, &[Finding])]) -> Vec<(usize, Finding)> {
    let mut idle = Vec::new();
    for (at, (subject, found)) in namespaces.iter().enumerate() {
        let plan = &subject.record.plan;
        let is_known = |index: usize| {
            let about = About::Tunnel(place(plan, index));
            found.iter().any(|finding| finding.about == about)
        };
        let others = (0..plan.request.wireguard.len()).filter(|index| !is_known(*index));
        idle.extend(others.filter_map(|index| Idle::of(at, subject, index)));
    }
    let deadline = Instant::now() + ASKED;
    while !idle.is_empty() && Instant::now() < deadline {
        idle.retain(Idle::knock);
        std::thread::sleep(ROUND);
        idle.retain(Idle::is_silent);
    }
    let finding = |idle: &Idle| {
        let how = "its server does not answer";
        let about = About::Tunnel(idle.place);
        (idle.at, Finding::down(what(idle.file), how).about(about))
    };
    idle.iter().map(finding).collect()
}

/// Waits until the servers of what is built answer, as a build does at first.
pub fn wait_for_servers(site: &Site) -> Result<()> {
    let (Some(wait), Some(namespace)) = (&site.wait, site.open_namespace()?) else {
        return Ok(());
    };
    let plan = site.plan();
    for (index, file) in plan.request.wireguard.iter().enumerate() {
        let config = read(file)?;
        let device = Device::new(plan, index);
        let can_be_asked = config.has_all_endpoints() && !has_changed(plan, index);
        if can_be_asked && is_idle(plan, &namespace, &device)? {
            let in_kernel = userspace_daemons(plan, index).is_empty();
            wait_for_handshake(&namespace, &device, &config, in_kernel, wait.time)
                .map_err(|error| error.within(bring_up_words(file)))?;
        }
    }
    Ok(())
}

/// Looks the names of servers up again, and gives the devices the addresses that are new. Returns
/// what differs. A name that is not found keeps its address.
pub fn follow_names(site: &Site) -> Result<Vec<String>> {
    let Some(namespace) = site.open_namespace()? else {
        return Ok(Vec::new());
    };
    let files = &site.plan().request.wireguard;
    let mut moved = Vec::new();
    for (index, file) in files.iter().enumerate() {
        if !has_changed(site.plan(), index) {
            let device = Device::new(site.plan(), index);
            moved.extend(follow_names_of(site.plan(), &namespace, &device, file)?);
        }
    }
    Ok(moved)
}

fn follow_names_of(
    plan: &Plan,
    namespace: &File,
    device: &Device,
    file: &Path,
) -> Result<Vec<String>> {
    let in_kernel = userspace_daemons(plan, device.number).is_empty();
    let contacts = with_name(namespace, device, in_kernel, Contacts::of)?;
    let (text, moved) = contacts.moved(&read(file)?.setconf, tool::addresses_of);
    if !moved.is_empty() {
        // Unlike setconf, it leaves sessions alone.
        with_name(namespace, device, in_kernel, |name| {
            configure_by("syncconf", name, &text)
        })?;
    }
    Ok(moved)
}

/// What is wrong with the device's key and peers. A file that was changed since is no measure.
fn wrong_peers(subject: &Subject, device: &Device, config: &Config) -> Option<String> {
    let plan = &subject.record.plan;
    if has_changed(plan, device.number) {
        return None;
    }
    let namespace = &subject.deep().ok()??.file;
    let in_kernel = userspace_daemons(plan, device.number).is_empty();
    let wanted = Peers::wanted(&config.setconf).ok()?;
    let wrong = with_name(namespace, device, in_kernel, Peers::of)
        .map_or(Some("no keys that can be read"), |peers| {
            peers.wrong(&wanted)
        })?;
    Some(format!("its device {} has {wrong}", device.inside))
}

/// Removes kernel devices with the key of `config` under other names than ours: they would answer
/// in its place.
fn remove_renamed(site: &Site, namespace: &File, config: &Config) -> Result<()> {
    let plan = site.plan();
    let names: Vec<String> = (0..plan.request.wireguard.len())
        .map(|index| Device::new(plan, index).inside)
        .collect();
    let wanted = Peers::wanted(&config.setconf)?;
    let inside = Netlink::inside(namespace.as_fd())?;
    for link in inside.links()? {
        let has_key = || Ok(Peers::of(&link.name).is_ok_and(|peers| peers.has_key_of(&wanted)));
        if !names.contains(&link.name) && in_namespace(namespace.as_fd(), has_key)? {
            inside.delete_link(link.index)?;
        }
    }
    Ok(())
}

/// Sets the device up again or, if it or the program that drives it is gone, creates it anew.
fn repair(site: &mut Site, file: &Path, device: &Device) -> Result<()> {
    let namespace = site
        .open_namespace()?
        .ok_or_else(|| Error::new("create the device", "the namespace is gone"))?;
    let is_there = Netlink::inside(namespace.as_fd())?
        .link(&device.inside)?
        .is_some();
    let is_driven = site
        .record
        .daemons
        .iter()
        .all(|daemon| daemon.config != file || daemon.is_running());
    let is_recorded = TunnelState::load(&site.plan().name, place(site.plan(), device.number)).up;
    let config = read(file)?;
    if is_there && is_driven && is_recorded {
        restore_peers(site, &namespace, device, &config)?;
        device::restore(&namespace, &setup(site.plan(), device, &config))?;
        return answer(site, &namespace, device, file);
    }
    remove(site, site.plan(), device)?;
    remove_renamed(site, &namespace, &config)?;
    site.record.daemons.retain(|daemon| daemon.config != file);
    site.save()?;
    tunnel::make_directories(&site.plan().name)?;
    bring_up(site, file, device)
}

/// Where the server does not answer, tries the addresses that it has now.
fn answer(site: &Site, namespace: &File, device: &Device, file: &Path) -> Result<()> {
    let plan = site.plan();
    let in_kernel = userspace_daemons(plan, device.number).is_empty();
    let since = TunnelState::load(&plan.name, place(plan, device.number)).since;
    let contacts = with_name(namespace, device, in_kernel, Contacts::of)?;
    if contacts.silence(since, clock::now()).is_none() || has_changed(plan, device.number) {
        return Ok(());
    }
    for moved in follow_names_of(plan, namespace, device, file)? {
        output::print(&format!("repaired endpoint {moved}\n"))?;
    }
    let time = site.wait.as_ref().map_or(SHORT, |wait| wait.time);
    wait_for_handshake(namespace, device, &read(file)?, in_kernel, time)
}

/// Gives the device the key and the peers of its file, unless it has them.
fn restore_peers(site: &Site, namespace: &File, device: &Device, config: &Config) -> Result<()> {
    let in_kernel = userspace_daemons(site.plan(), device.number).is_empty();
    let wanted = Peers::wanted(&config.setconf)?;
    let has = with_name(namespace, device, in_kernel, Peers::of);
    if has_changed(site.plan(), device.number) || has.is_ok_and(|has| has == wanted) {
        return Ok(());
    }
    let setconf = resolve_endpoints(&config.setconf)?;
    with_name(namespace, device, in_kernel, |name| {
        configure(name, &setconf)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_behind_a_peer_is_not_the_devices_own() {
        let own = ["10.66.0.1", "fd00::1", "10.9.0.9"].map(|own| own.parse().unwrap());
        for (network, wanted) in [
            ("10.66.0.0/24", Some("10.66.0.2")),
            ("10.66.0.7/24", Some("10.66.0.2")),
            ("10.66.1.0/24", Some("10.66.1.1")),
            ("10.66.0.0/31", None),
            ("10.9.0.9/32", None),
            ("10.9.0.8/32", Some("10.9.0.8")),
            ("0.0.0.0/0", Some("240.0.0.9")),
            ("0.0.0.0/1", Some("0.0.0.1")),
            ("fd00::/64", Some("fd00::2")),
            ("::/0", Some("100::9")),
            ("8000::/1", Some("8000::1")),
        ] {
            let found = behind(&wgquick::prefix(network).unwrap(), &own);
            assert_eq!(
                found,
                wanted.map(|wanted| wanted.parse().unwrap()),
                "{network}"
            );
        }
    }
}
