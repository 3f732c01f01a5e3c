//! WireGuard: each `WireGuard=` is one device. It is created outside, where its UDP socket stays
//! and its peers' endpoints are resolved, and then moved into the namespace. On a kernel without
//! WireGuard, a userspace implementation drives the device, as with wg-quick(8).
//!
//! Keys go from the file to wg(8)'s standard input, and are compared with its output; they go
//! nowhere else: not into arguments, files, logs or messages.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use caps::Capability;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

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
use crate::tunnel::knock::knock;
use crate::tunnel::peers::{Addresses, Contacts, Peers, server_name};
use crate::tunnel::source;
use crate::tunnel::wgquick::{self, Config, Prefix};
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
/// How long a server may take to answer status. WireGuard sends a first packet that is lost again
/// after five seconds (Rekey-Timeout, section 6.1 of the WireGuard paper).
const FIRST_ANSWER: Duration = Duration::from_secs(8);
/// The same where there was a session: it may still be alive, and a server with nothing to say
/// confirms what it got after ten seconds; or only this end may hold it for alive, and gives it up
/// after fifteen (Keepalive-Timeout, and that plus Rekey-Timeout).
const ANSWER: Duration = Duration::from_secs(20);
/// From one packet to the next.
const ROUND: Duration = Duration::from_secs(1);
/// From one look for an answer to the next.
const PAUSE: Duration = Duration::from_millis(50);
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
        let wait = site.wait;
        bring_up(site, file, &device, wait).map_err(|error| error.within(bring_up_words(file)))?;
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
    let found = daemon::stop_found(|| userspace_daemons(plan, device.number), PATIENCE);
    // Also if one of them did not end: it may have seen to that.
    confine::end_user(device.user(plan))?;
    let mut removed = found?;
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

/// Creates a device and, if `wait` says so, waits for its first handshake.
fn bring_up(site: &mut Site, file: &Path, device: &Device, wait: Option<Wait>) -> Result<()> {
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
    if let Some(Wait { time, .. }) = wait {
        output::step(|| format!("waiting for the first handshake of {}", device.inside));
        let reached = Reached::new(&plan, &namespace, device.number);
        let question = Question::new(reached, Some(time));
        let answers = ask([((), question)].into_iter());
        let answer = answers.into_iter().next();
        answer.map_or(Ok(()), |((), answer)| answer.into_result())?;
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
    let wanted = |prefix: &&Prefix| with_ipv6 || prefix.0.is_ipv4();
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
    let addresses = Addresses::look_up([setconf].into_iter());
    let mut text = String::new();
    for line in setconf.lines() {
        match line.strip_prefix("Endpoint = ") {
            Some(endpoint) => {
                let resolved = resolve(endpoint, &addresses)?;
                text.push_str(&format!("Endpoint = {resolved}\n"));
            }
            None => text.push_str(&format!("{line}\n")),
        }
    }
    Ok(text)
}

/// HOST:PORT with the host name replaced with its address, resolved outside as the host's own
/// programs resolve it.
fn resolve(endpoint: &str, addresses: &Addresses) -> Result<String> {
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
        Err(_) => {
            let name = server_name(endpoint).ok_or_else(|| wrong("it is not HOST:PORT"))?;
            let found = addresses.of(name).into_iter().next();
            found.ok_or_else(|| wrong("the server's name was not found"))?
        }
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

/// The time of the latest handshake on the namespace's WireGuard device `index`, in seconds since
/// the epoch, 0 for never; `None` if the caller is not root, or if it cannot be found out.
pub fn last_handshake(record: &Record, index: usize) -> Option<i64> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let namespace = namespace::open_recorded(record).ok()??;
    let contacts = Reached::new(&record.plan, &namespace, index).wg(Contacts::of);
    Some(contacts.ok()?.latest_handshake())
}

/// A device in its namespace.
struct Reached<'a> {
    namespace: &'a File,
    inside: String,
    /// Its name outside, if a userspace implementation drives it.
    outside: Option<String>,
}

impl<'a> Reached<'a> {
    fn new(plan: &Plan, namespace: &'a File, index: usize) -> Self {
        let Device {
            outside, inside, ..
        } = Device::new(plan, index);
        let is_driven = !userspace_daemons(plan, index).is_empty();
        Self {
            namespace,
            inside,
            outside: is_driven.then_some(outside),
        }
    }

    /// Calls `wg` with the device's name for wg(8). A userspace implementation is reached through
    /// its socket, which has the device's outside name; the kernel has to be asked inside.
    fn wg<T: Send>(&self, wg: impl FnOnce(&str) -> Result<T> + Send) -> Result<T> {
        match &self.outside {
            Some(outside) => wg(outside),
            None => in_namespace(self.namespace.as_fd(), || wg(&self.inside)),
        }
    }

    /// The addresses that it has inside.
    fn own_addresses(&self) -> Result<Vec<IpAddr>> {
        let inside = Netlink::inside(self.namespace.as_fd())?;
        let index = inside.need_link(&self.inside)?.index;
        let v4 = inside.addresses()?.into_iter();
        let v4 = v4.map(|(index, network)| (index, IpAddr::from(network.addr())));
        let v6 = inside.addresses_v6()?.into_iter();
        // The kernel gives a TUN device a link-local one as well, which no peer knows.
        let v6 = v6.filter(|(_, address)| !address.is_unicast_link_local());
        let v6 = v6.map(|(index, address)| (index, IpAddr::from(address)));
        let own = v4.chain(v6).filter(|(of, _)| *of == index);
        Ok(own.map(|(_, address)| address).collect())
    }
}

fn what(file: &Path) -> String {
    format!("tunnel of {}", show(file))
}

fn look(subject: &Subject, index: usize, file: &Path) -> Option<Finding> {
    let plan = &subject.record.plan;
    let condition = tunnel::condition(subject, place(plan, index));
    let about = About::Tunnel(place(plan, index));
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

/// A question to the servers of a tunnel of which nobody has heard lately. Without traffic there are
/// no handshakes, so one that nobody uses looks like one whose server is gone.
struct Question<'a> {
    device: Reached<'a>,
    /// The device's own addresses.
    own: Vec<IpAddr>,
    /// What had passed before.
    before: Contacts,
    /// How long an answer may take.
    patience: Duration,
    /// Until when. It begins with the first packet: before, nobody can answer, and the drivers of
    /// other devices may take their time.
    deadline: Option<Instant>,
    /// When the next packet is sent.
    next: Instant,
    /// Whether one was sent.
    is_asked: bool,
    /// Why the last packet could not be sent.
    obstacle: Option<Error>,
}

/// What became of a question.
enum Answer {
    Answered,
    Silent,
    NotAsked(Error),
}

impl Answer {
    fn into_result(self) -> Result<()> {
        match self {
            Self::Answered => Ok(()),
            Self::Silent => Err(Error::new(
                "wait",
                "no answer from the server (no handshake): is the endpoint right, and does the server know the key?",
            )),
            Self::NotAsked(error) => Err(error.as_cause_of("ask the server")),
        }
    }
}

impl<'a> Question<'a> {
    /// One that waits for so long, or as long as suits the device; `None` if the servers need not
    /// be asked.
    fn new(device: Reached<'a>, patience: Option<Duration>) -> Result<Option<Self>> {
        check_for_signal()?;
        let before = device.wg(Contacts::of)?;
        if before.is_fresh(clock::now()) {
            return Ok(None);
        }
        let patience = patience.unwrap_or(match before.latest_handshake() {
            0 => FIRST_ANSWER,
            _ => ANSWER,
        });
        Ok(Some(Self {
            own: device.own_addresses()?,
            device,
            before,
            patience,
            deadline: None,
            next: Instant::now(),
            is_asked: false,
            obstacle: None,
        }))
    }

    /// Whether silence would say that something is wrong. A peer without an endpoint may be the one
    /// that others wait for, and one that has called may be gone by now: its address is in the device,
    /// but not in the file of tunnel `index`. If that was changed since, the device has to do.
    fn has_respondent(&self, plan: &Plan, index: usize) -> bool {
        let dials_all = match has_changed(plan, index) {
            true => Ok(self.before.has_all_endpoints()),
            false => read(&plan.request.wireguard[index]).map(|file| file.has_all_endpoints()),
        };
        self.before.keep_alive() || dials_all.unwrap_or(true)
    }

    /// Looks for an answer, and sends a packet if it is time; `None` while it is open.
    fn go_on(&mut self) -> Option<Answer> {
        match check_for_signal().and_then(|()| self.device.wg(Contacts::of)) {
            Err(error) => return Some(Answer::NotAsked(error)),
            Ok(now) if now.answered_since(&self.before) => return Some(Answer::Answered),
            Ok(_) => {}
        }
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let obstacle = self.obstacle.take();
            return Some(obstacle.map_or(Answer::Silent, Answer::NotAsked));
        }
        if now >= self.next {
            self.next = now + ROUND;
            self.send();
        }
        None
    }

    /// Sends a packet. From the first one on, the server has time to answer; until one can be sent,
    /// there is as much time to try.
    fn send(&mut self) {
        let networks = self.before.networks();
        let knock = || knock(&self.device.inside, &self.own, &networks);
        self.obstacle = in_namespace(self.device.namespace.as_fd(), knock).err();
        let is_first = self.obstacle.is_none() && !self.is_asked;
        self.is_asked |= is_first;
        if is_first || self.deadline.is_none() {
            self.deadline = Some(Instant::now() + self.patience);
        }
    }
}

/// An error if a signal asked to stop.
fn check_for_signal() -> Result<()> {
    match process::was_interrupted() {
        true => Err(Error::new("wait", "interrupted by a signal")),
        false => Ok(()),
    }
}

/// Asks all at once, and returns the answers in the order of what they are about. Whoever need not
/// be asked has none.
fn ask<'a, T: Ord>(
    questions: impl Iterator<Item = (T, Result<Option<Question<'a>>>)>,
) -> Vec<(T, Answer)> {
    let (mut open, mut answers) = (Vec::new(), Vec::new());
    for (about, question) in questions {
        match question {
            Ok(None) => {}
            Ok(Some(question)) => open.push((about, question)),
            Err(error) => answers.push((about, Answer::NotAsked(error))),
        }
    }
    while !open.is_empty() {
        for (about, mut question) in std::mem::take(&mut open) {
            match question.go_on() {
                Some(answer) => answers.push((about, answer)),
                None => open.push((about, question)),
            }
        }
        if !open.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
    answers.sort_by(|(one, _), (other, _)| one.cmp(other));
    answers
}

/// The question that status has for tunnel `index`, if it has one.
fn question<'a>(subject: &'a Subject, index: usize) -> Result<Option<Question<'a>>> {
    let plan = &subject.record.plan;
    let Some(deep) = subject.deep()? else {
        return Ok(None);
    };
    let since = TunnelState::load(&plan.name, place(plan, index)).since;
    let device = Reached::new(plan, &deep.file, index);
    let question = Question::new(device, None)?;
    let is_due = |asked: &Question| {
        asked.has_respondent(plan, index) && asked.before.is_idle(since, clock::now())
    };
    Ok(question.filter(is_due))
}

/// Asks the servers of idle tunnels in these namespaces. Returns what is wrong with those that do
/// not answer, each with the place of its namespace. Only root can do so.
pub fn examine_servers(namespaces: &[(&Subject, &[Finding])]) -> Vec<(usize, Finding)> {
    let file = |at: usize, index: usize| {
        let (subject, _) = namespaces[at];
        &subject.record.plan.request.wireguard[index]
    };
    let about = |at: usize, index: usize| {
        let (subject, _) = namespaces[at];
        About::Tunnel(place(&subject.record.plan, index))
    };
    let questions = namespaces
        .iter()
        .enumerate()
        .flat_map(|(at, (subject, found))| {
            let indices = 0..subject.record.plan.request.wireguard.len();
            let is_known = move |index: &usize| {
                found
                    .iter()
                    .any(|finding| finding.about == about(at, *index))
            };
            let unknown = indices.filter(move |index| !is_known(index));
            unknown.map(move |index| ((at, index), question(subject, index)))
        });
    let finding = |((at, index), answer)| {
        let what = what(file(at, index));
        let finding = match answer {
            Answer::Answered => return None,
            Answer::Silent => Finding::down(what, "its server does not answer"),
            Answer::NotAsked(error) => {
                Finding::degraded(what, format!("its server could not be asked: {error}"))
            }
        };
        Some((at, finding.about(about(at, index))))
    };
    ask(questions).into_iter().filter_map(finding).collect()
}

/// Waits until the servers of all tunnels in these namespaces answer, which others may change
/// meanwhile. Returns the errors, each with the place of its namespace.
pub fn wait_for_servers(records: &[&Record], patience: Duration) -> Vec<(usize, Error)> {
    let opened: Vec<_> = records
        .iter()
        .map(|record| namespace::open_recorded(record))
        .collect();
    let question = |plan: &Plan, at: usize, index: usize| {
        let gone = || Error::new("open the namespace", "it is gone");
        let namespace = opened[at].as_ref().map_err(Clone::clone)?;
        let namespace = namespace.as_ref().ok_or_else(gone)?;
        let device = Reached::new(plan, namespace, index);
        let question = Question::new(device, Some(patience))?;
        Ok(question.filter(|asked| asked.has_respondent(plan, index)))
    };
    let question = &question;
    let questions = records.iter().enumerate().flat_map(|(at, record)| {
        let indices = 0..record.plan.request.wireguard.len();
        indices.map(move |index| ((at, index), question(&record.plan, at, index)))
    });
    let error = |((at, index), answer): ((usize, usize), Answer)| {
        let file = &records[at].plan.request.wireguard[index];
        let error = answer.into_result().err()?;
        Some((at, error.within(bring_up_words(file))))
    };
    ask(questions).into_iter().filter_map(error).collect()
}

/// The addresses that the servers of these namespaces' tunnels have now.
pub fn addresses(records: &[&Record]) -> Addresses {
    let files = records
        .iter()
        .flat_map(|record| &record.plan.request.wireguard);
    let setconfs: Vec<String> = files
        .filter_map(|file| Some(read(file).ok()?.setconf))
        .collect();
    Addresses::look_up(setconfs.iter().map(String::as_str))
}

/// Gives the devices the addresses that their servers have now. Returns what differs. A name that
/// was not found keeps its address.
pub fn follow_names(site: &Site, addresses: &Addresses) -> Result<Vec<String>> {
    let Some(namespace) = site.open_namespace()? else {
        return Ok(Vec::new());
    };
    let plan = site.plan();
    let mut all_moved = Vec::new();
    for (index, file) in plan.request.wireguard.iter().enumerate() {
        if has_changed(plan, index) {
            continue;
        }
        let device = Reached::new(plan, &namespace, index);
        let contacts = device.wg(Contacts::of)?;
        let (text, moved) = contacts.moved(&read(file)?.setconf, |name| addresses.of(name));
        if !moved.is_empty() {
            // Unlike setconf, it leaves sessions alone.
            device.wg(|name| configure_by("syncconf", name, &text))?;
        }
        all_moved.extend(moved);
    }
    Ok(all_moved)
}

/// What is wrong with the device's key and peers. A file that was changed since is no measure.
fn wrong_peers(subject: &Subject, device: &Device, config: &Config) -> Option<String> {
    let plan = &subject.record.plan;
    if has_changed(plan, device.number) {
        return None;
    }
    let namespace = &subject.deep().ok()??.file;
    let wanted = Peers::wanted(&config.setconf).ok()?;
    let wrong = Reached::new(plan, namespace, device.number)
        .wg(Peers::of)
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
        return device::restore(&namespace, &setup(site.plan(), device, &config));
    }
    remove(site, site.plan(), device)?;
    remove_renamed(site, &namespace, &config)?;
    site.record.daemons.retain(|daemon| daemon.config != file);
    site.save()?;
    tunnel::make_directories(&site.plan().name)?;
    // The servers of all tunnels are waited for at the end.
    bring_up(site, file, device, None)
}

/// Gives the device the key and the peers of its file, unless it has them.
fn restore_peers(site: &Site, namespace: &File, device: &Device, config: &Config) -> Result<()> {
    let reached = Reached::new(site.plan(), namespace, device.number);
    let wanted = Peers::wanted(&config.setconf)?;
    let is_right = |has: Peers| has == wanted;
    if has_changed(site.plan(), device.number) || reached.wg(Peers::of).is_ok_and(is_right) {
        return Ok(());
    }
    let setconf = resolve_endpoints(&config.setconf)?;
    reached.wg(|name| configure(name, &setconf))
}
