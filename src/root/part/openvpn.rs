//! OpenVPN: each `vpn=` is one daemon, `openvpn --daemon openvpn-NAME --config FILE`.
//!
//! Without the kill switch, the daemon runs in the namespace and sees its files in /etc. Under the kill switch, it runs
//! outside and sets no addresses and routes itself; `.tunnel-hook` (see [`crate::verb::tunnel_hook`]) moves its device
//! into the namespace and sets them there. build starts the connection through the daemon's management socket and
//! follows it until it is established.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io::{IsTerminal, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::{Finding, Part, Site, netns as netns_part, pushed};
use crate::daemon;
use crate::host::{set_sysctl, sysctl};
use crate::netlink::in_namespace;
use crate::prompt;
use crate::seen::Subject;
use crate::tool;
use crate::tunnel;
use crate::tunnel::management::Management;
use runns_privileged::{Privilege, netns, view};
use runns_shared::config::is_domain;
use runns_shared::error::{Context, Error, Result, words as cause};
use runns_shared::escape::{escape, show};
use runns_shared::inside::{Inside, Route};
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::Daemon;
use runns_shared::trusted::{self, Trust};
use runns_shared::tunnel::TunnelState;
use runns_sys::process::{self, Fork};

const PROGRAM: &str = "openvpn";
/// From SIGTERM to SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// Options that run scripts on events that we handle ourselves.
const SCRIPTS: [&str; 5] = ["up", "down", "route-up", "route-pre-down", "ipchange"];
/// How long OpenVPN may take to report why it does not start.
const EXPLANATION: Duration = Duration::from_secs(3);

/// The part.
pub struct OpenVpn;

impl Part for OpenVpn {
    fn describe(&self, plan: &Plan) -> Option<String> {
        let files: Vec<String> = plan.request.vpn.iter().map(show).collect();
        (!files.is_empty()).then(|| format!("OpenVPN ({}): {}", daemon_name(plan), files.join(", ")))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let files = site.plan().request.vpn.clone();
        if !files.is_empty() {
            tunnel::make_directories(&site.plan().request.name)?;
            write_hosts(site)?;
            turn_ipv6_off(site)?;
            if site.wait.is_none() && pushed::decides(site.plan()) {
                warn("name servers that the VPN server pushes are not used with --no-wait: set DNS or Resolve");
            }
        }
        for (index, config) in files.iter().enumerate() {
            let daemon = start(site, index, config)?;
            site.record.daemons.push(daemon);
            site.save()?;
            if let Some(patience) = site.wait {
                follow(site, index, config, patience)?;
            }
        }
        Ok(())
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let stopped = daemon::stop_all(&daemons(site), PATIENCE)? | daemon::stop_found(|| unrecorded(site), PATIENCE)?;
        site.record.daemons.clear();
        tunnel::remove_directories(&site.plan().request.name)?;
        Ok(stopped)
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        Ok((0..subject.record.plan.request.vpn.len()).filter_map(|index| look(subject, index)).collect())
    }

    fn mend(&self, site: &mut Site, found: &[Finding]) -> Result<()> {
        let files = site.plan().request.vpn.clone();
        let broken =
            |(_, config): &(usize, &std::path::PathBuf)| found.iter().any(|finding| finding.what == what(config));
        let mut errors = Vec::new();
        for (index, config) in files.iter().enumerate().filter(broken) {
            errors.extend(restart(site, index, config).err());
        }
        Error::all(errors).map_or(Ok(()), Err)
    }
}

/// The namespace's daemons: those in the record, and those of a build that was killed before it could record them.
pub fn daemons(site: &Site) -> Vec<Daemon> {
    site.record.daemons.iter().cloned().chain(unrecorded(site)).collect()
}

/// Checks the program and the configuration files before anything is created. OpenVPN runs programs that these files
/// name, as root, so nobody but root may be able to write them.
pub fn check(plan: &Plan) -> Result<()> {
    if plan.request.vpn.is_empty() {
        return Ok(());
    }
    tool::need(PROGRAM, "openvpn")?;
    for config in &plan.request.vpn {
        let text = trusted::read(config, Trust::Strict)?;
        let scripts: Vec<&str> = options(&text).map(|(option, _)| option).filter(|o| SCRIPTS.contains(o)).collect();
        if !scripts.is_empty() {
            let (file, scripts) = (show(config), scripts.join(", "));
            warn(&format!("{file}: left out: {scripts} (these scripts would change the host's own resolver)"));
        }
        if options(&text).any(|(option, _)| option == "chroot") {
            return Err(Error::new(
                format!("use {}", show(config)),
                "chroot would hide runns-exec's hooks from OpenVPN",
            ));
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(Error::new("start OpenVPN", "/dev/net/tun does not exist").hint("sudo modprobe tun"));
    }
    Ok(())
}

/// The options of a configuration, each with its first argument. Lines of inline files are taken for options too, which
/// does no harm.
fn options(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let option = words.next()?;
        Some((option.strip_prefix("--").unwrap_or(option), words.next().unwrap_or_default()))
    })
}

/// What the daemons are called in the system log.
fn daemon_name(plan: &Plan) -> String {
    format!("{PROGRAM}-{}", plan.request.name)
}

/// OpenVPN daemons of this namespace that are not in the record.
fn unrecorded(site: &Site) -> Vec<Daemon> {
    let Some(identity) = site.record.identity else { return Vec::new() };
    let request = &site.plan().request;
    let candidates = if request.kill_switch { daemon::outside() } else { daemon::in_namespace(identity.inode) };
    of_namespace(&request.name, candidates)
}

/// Those of the processes that are OpenVPN daemons of namespace `name`.
fn of_namespace(name: &NetnsName, candidates: Vec<i32>) -> Vec<Daemon> {
    let sockets = tunnel::private_directory(name);
    candidates
        .into_iter()
        .filter(|pid| {
            let words = daemon::command_line(*pid);
            let ours = |pair: &[String]| pair[0] == "--management" && Path::new(&pair[1]).starts_with(&sockets);
            daemon::is_roots(*pid) && words.windows(2).any(ours)
        })
        .filter_map(|pid| Daemon::identify(pid, Path::new("")))
        .collect()
}

/// IPv6=no: disables IPv6 on the device that OpenVPN will create inside, whatever the server pushes.
fn turn_ipv6_off(site: &Site) -> Result<()> {
    const DEFAULT: &str = "net/ipv6/conf/default/disable_ipv6";
    let Some(namespace) = netns_part::open_built(site)?.filter(|_| site.plan().request.ipv6 == Some(false)) else {
        return Ok(());
    };
    in_namespace(namespace.as_fd(), || if sysctl(DEFAULT)?.is_some() { set_sysctl(DEFAULT, "1") } else { Ok(()) })
}

/// Resolves the servers' names outside and writes a hosts(5) file for the daemons: the namespace's own resolver may be
/// reachable only through the tunnel that they are to set up.
fn write_hosts(site: &Site) -> Result<()> {
    let request = &site.plan().request;
    if request.kill_switch {
        return Ok(());
    }
    let mut lines = String::new();
    for config in &request.vpn {
        for name in remotes(&trusted::read(config, Trust::Strict)?) {
            let addresses = tool::addresses_of(&name);
            if addresses.is_empty() {
                warn(&format!("{}: the server's name {name} was not found outside", show(config)));
            }
            addresses.iter().for_each(|address| lines.push_str(&format!("{address} {name}\n")));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let path = tunnel::hosts_file(&request.name);
    std::fs::write(&path, lines + &host).cannot(|| format!("write {}", show(&path)))
}

/// The host names in the `remote` lines of a configuration; addresses need no lookup.
fn remotes(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (_, host) in options(text).filter(|(option, _)| *option == "remote") {
        let is_name = host.parse::<std::net::IpAddr>().is_err() && is_domain(host);
        if is_name && !names.iter().any(|known| known == host) {
            names.push(host.to_string());
        }
    }
    names
}

/// Starts one daemon. OpenVPN goes into the background by itself once it has read its configuration.
fn start(site: &Site, index: usize, config: &Path) -> Result<Daemon> {
    let cannot = || format!("start OpenVPN with {}", show(config));
    let words = words(site, index, config, true)?;
    // The daemon's parent exits. As subreaper, this process then becomes the daemon's parent and so learns its pid.
    process::set_child_subreaper(true).cannot(cannot)?;
    let result = match process::fork().cannot(cannot)? {
        Fork::Child => end_child(become_openvpn(site, config, words, None)),
        Fork::Parent(pid) => wait(pid).and_then(|()| adopted(site, config)),
    };
    process::set_child_subreaper(false).cannot(cannot)?;
    result.map_err(|error| {
        let reason = explain(site, index, config).unwrap_or_else(|| error.cause().to_string());
        Error::new(cannot(), reason).hint(format!("the system log may say more, under {}", daemon_name(site.plan())))
    })
}

fn end_child(result: Result<Infallible>) -> ! {
    let Err(error) = result;
    output::complain_error(&error);
    process::exit_now(1)
}

/// The daemon's command line. Options after `--config` override those in the file.
fn words(site: &Site, index: usize, config: &Path, background: bool) -> Result<Vec<CString>> {
    let request = &site.plan().request;
    let directory = config.parent().unwrap_or(Path::new("/"));
    let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let mut words = vec![text(tool::need(PROGRAM, "openvpn")?.as_os_str().as_bytes())];
    let mut add = |more: &[&[u8]]| words.extend(more.iter().map(|word| text(word)));
    if background {
        add(&[b"--daemon", daemon_name(site.plan()).as_bytes()]);
    }
    add(&[b"--config", config.as_os_str().as_bytes(), b"--cd", directory.as_os_str().as_bytes()]);
    let socket = tunnel::socket(&request.name, index);
    add(&[b"--management", socket.as_os_str().as_bytes(), b"unix"]);
    if site.wait.is_some() {
        add(&[b"--management-hold", b"--management-query-passwords"]);
    }
    let program = std::env::current_exe().cannot(|| "find this program's own executable")?;
    let hook = |event: &str| format!("\"{}\" .tunnel-hook {event} {} {index}", program.display(), request.name);
    let (route_up, version) = (hook(if request.kill_switch { "route-up" } else { "none" }), version());
    add(&[b"--script-security", b"2", b"--up", hook("up").as_bytes(), b"--down", hook("down").as_bytes()]);
    add(&[b"--up-restart", b"--route-up", route_up.as_bytes()]);
    add(&[b"--route-pre-down", hook("none").as_bytes(), b"--ipchange", hook("none").as_bytes()]);
    // The hooks need root after a reconnect as well.
    add(&[b"--user", b"root", b"--group", b"root"]);
    if request.kill_switch {
        add(&[b"--ifconfig-noexec", b"--route-noexec"]);
        // A name that no other device has, so that the hook cannot move the wrong one.
        let kind = device_type(&trusted::read(config, Trust::Strict)?);
        add(&[b"--dev", format!("rvpn{}-{index}", site.plan().number.get()).as_bytes()]);
        add(&[b"--dev-type", kind.as_bytes()]);
        // A device of the kernel's driver (DCO) belongs to the network namespace in which it was created.
        if version >= (2, 6) {
            add(&[b"--disable-dco"]);
        }
    }
    // The default updown command would change the host's own resolver (openvpn(8) of 2.7).
    if version >= (2, 7) {
        add(&[b"--dns-updown", b"disable"]);
    }
    if request.ipv6 == Some(false) {
        for option in ["ifconfig-ipv6", "route-ipv6", "redirect-gateway ipv6"] {
            add(&[b"--pull-filter", b"ignore", option.as_bytes()]);
        }
    }
    Ok(words)
}

/// OpenVPN's version; 0.0 if it does not report one.
fn version() -> (u32, u32) {
    let said = tool::run(PROGRAM, &["--version"], "").unwrap_or_default();
    parse_version(&said).unwrap_or_default()
}

/// From `OpenVPN 2.6.14 x86_64-...` or `OpenVPN 2.7_rc1 ...`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("OpenVPN ")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// tun or tap, as in the configuration.
fn device_type(text: &str) -> &'static str {
    let given = |wanted: &str| options(text).filter(|(option, _)| *option == wanted).last().map(|(_, value)| value);
    let name = given("dev-type").or(given("dev")).unwrap_or_default();
    if name.starts_with("tap") { "tap" } else { "tun" }
}

/// In the child: enters the namespace and its view of the file system as `runns-exec NAME` does (but not under the kill
/// switch), and executes OpenVPN. Its output goes to `said`.
fn become_openvpn(site: &Site, config: &Path, words: Vec<CString>, said: Option<&OwnedFd>) -> Result<Infallible> {
    // Without a terminal, it asks for passwords through the management socket.
    setsid().cannot(|| "start a session")?;
    site.lock.close_on_exec()?;
    let null = nix::fcntl::open(
        "/dev/null",
        nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .cannot(|| "open /dev/null")?;
    dup2_stdin(null.as_fd()).cannot(|| "redirect input")?;
    let output = said.unwrap_or(&null);
    dup2_stdout(output.as_fd()).cannot(|| "redirect output")?;
    let request = &site.plan().request;
    let directory = config.parent().unwrap_or(Path::new("/"));
    if !request.kill_switch {
        enter(site)?;
    }
    nix::unistd::chdir(directory).cannot(|| format!("enter {}", show(directory)))?;
    dup2_stderr(output.as_fd()).cannot(|| "redirect error output")?;
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    let environment = CString::new(format!("PATH={}", tool::PATH)).unwrap_or_default();
    let errno = process::execute(words[0], &words, &[&environment]);
    Err(Error::new("execute OpenVPN", cause(errno)))
}

/// Enters the namespace and its view of the file system, as members of the group enter it.
fn enter(site: &Site) -> Result<()> {
    let name = &site.plan().request.name;
    let privilege = Privilege::take()?;
    let namespace = netns::open(name)?;
    let (entered, _) = netns::enter(&privilege, &namespace, site.record.identity.as_ref())?;
    view::make(&privilege, &entered, name, &site.record.files)?;
    let hosts = tunnel::hosts_file(name);
    if hosts.exists() {
        view::cover_hosts(&privilege, &hosts)?;
    }
    Ok(())
}

fn wait(pid: Pid) -> Result<()> {
    loop {
        match waitpid(pid, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(WaitStatus::Exited(_, code)) => {
                return Err(Error::new("start OpenVPN", format!("it exited with status {code}")));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Err(Error::new("start OpenVPN", format!("it was killed by {signal}")));
            }
            Ok(_) => {}
            Err(errno) => return Err(errno).cannot(|| "wait for OpenVPN"),
        }
    }
}

/// The daemon that has become our child: the one that is not in the record yet.
fn adopted(site: &Site, config: &Path) -> Result<Daemon> {
    let is_known = |pid: &i32| site.record.daemons.iter().any(|daemon| daemon.pid == *pid);
    for pid in daemon::children().into_iter().filter(|pid| !is_known(pid)) {
        if let Ok(WaitStatus::StillAlive) = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            if let Some(daemon) = Daemon::identify(pid, config) {
                return Ok(daemon);
            }
        }
    }
    Err(Error::new("start OpenVPN", "it exited at once"))
}

/// Finds out why OpenVPN did not start. A daemon reports errors to the system log only, so OpenVPN is started again in
/// the foreground, where it fails in the same way and prints the reason.
fn explain(site: &Site, index: usize, config: &Path) -> Option<String> {
    let said = memfd_create(c"openvpn", MFdFlags::MFD_CLOEXEC).ok()?;
    let words = words(site, index, config, false).ok()?;
    match process::fork().ok()? {
        Fork::Child => end_child(become_openvpn(site, config, words, Some(&said))),
        Fork::Parent(pid) => {
            let deadline = Instant::now() + EXPLANATION;
            while let Ok(WaitStatus::StillAlive) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                if Instant::now() > deadline {
                    let _ = kill(pid, Signal::SIGKILL);
                    let _ = waitpid(pid, None);
                    return None;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    last_line(said)
}

/// The last line that is not empty or boilerplate.
fn last_line(said: OwnedFd) -> Option<String> {
    let mut file = std::fs::File::from(said);
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.take(1 << 16).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    const EMPTY_WORDS: [&str; 3] = ["Use --help for more", "Exiting due to fatal error", "Please correct these errors"];
    let telling = |line: &&str| !line.trim().is_empty() && !EMPTY_WORDS.iter().any(|words| line.contains(words));
    text.lines().rfind(telling).map(|line| escape(line.trim().as_bytes()))
}

/// Follows a daemon until it is connected and its device is set up in the namespace.
fn follow(site: &Site, index: usize, config: &Path, patience: Duration) -> Result<()> {
    let name = &site.plan().request.name;
    let shown = show(config);
    let cannot = |error: Error| {
        let hint = error.hint_text().map(str::to_string);
        let error = Error::new(format!("bring up the tunnel of {shown}"), error.cause());
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    };
    let deadline = Instant::now() + patience;
    let progress = |step: &str| {
        if std::io::stderr().is_terminal() {
            output::complain(&format!("{shown}: {step}"));
        }
    };
    let is_alive = || site.record.daemons.last().is_some_and(Daemon::is_running);
    let mut management = Management::connect(&tunnel::socket(name, index), deadline, &is_alive).map_err(cannot)?;
    let ask = |kind: &str, with_user: bool| ask(&shown, kind, with_user);
    management.wait(deadline, &ask, &progress).map_err(cannot)?;
    if !TunnelState::load(name, index).up {
        return Err(cannot(Error::new("connect", "it is connected, but its device could not be set up inside"))
            .hint(format!("the system log says why, under {} and runns-exec", daemon_name(site.plan()))));
    }
    Ok(())
}

/// Asks for a password on the terminal.
fn ask(shown: &str, kind: &str, with_user: bool) -> Result<(String, String)> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(
            "ask",
            format!("it needs a password ({}), and there is no terminal to ask on", escape(kind.as_bytes())),
        )
        .hint("put it into a file that only root can read, and set auth-user-pass or askpass to that file"));
    }
    let user = if with_user { prompt::ask(&format!("{shown}: user name: "), true)? } else { String::new() };
    let what = if with_user { "password" } else { "password of the private key" };
    Ok((user, prompt::ask(&format!("{shown}: {what}: "), false)?))
}

fn what(config: &Path) -> String {
    format!("tunnel of {}", show(config))
}

fn look(subject: &Subject, index: usize) -> Option<Finding> {
    let request = &subject.record.plan.request;
    let tunnel = tunnel::condition(subject, index);
    let by_device = |route: &Route| route.device == tunnel.state.device && route.network.0.is_ipv4();
    let routes = subject.inside.as_ref().map(Inside::routes);
    let lost = routes.as_ref().and_then(|routes| {
        let everywhere = routes.iter().any(|route| by_device(route) && route.network.1 <= 1);
        let beside = |route: &Route| route.network.1 == 32 && route.device == runns_shared::plan::INSIDE;
        match request.kill_switch {
            true if !everywhere => Some("its default route is gone"),
            // OpenVPN adds a route to the server itself (redirect-gateway in openvpn(8)).
            false if everywhere && !routes.iter().any(beside) => Some("the route to its server is gone"),
            _ => None,
        }
    });
    let how = tunnel.reason.or(lost.map(str::to_string))?;
    let finding = Finding::degraded(what(&tunnel.config), how);
    Some(Finding { fatal: request.kill_switch, ..finding })
}

/// Stops a tunnel's daemon, if it still runs, and starts it anew. If it does not connect in time, it goes on trying.
fn restart(site: &mut Site, index: usize, config: &Path) -> Result<()> {
    let name = site.plan().request.name.clone();
    let (old, kept) = site.record.daemons.drain(..).partition(|daemon: &Daemon| daemon.config == config);
    site.record.daemons = kept;
    daemon::stop_all(&old, PATIENCE)?;
    site.save()?;
    // What it said last is no longer true, but its name servers are those that the namespace has.
    let state = TunnelState { up: false, reason: None, ..TunnelState::load(&name, index) };
    tunnel::make_directories(&name)?;
    tunnel::save(&state, &name, index)?;
    write_hosts(site)?;
    turn_ipv6_off(site)?;
    let daemon = start(site, index, config)?;
    site.record.daemons.push(daemon);
    site.save()?;
    site.wait.map_or(Ok(()), |patience| follow(site, index, config, patience))
}

/// Whether a daemon of namespace `name` runs outside, as under the kill switch.
pub fn runs_outside(name: &NetnsName) -> bool {
    !of_namespace(name, daemon::outside()).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_servers() {
        let text = "client\nremote a.example 1194 udp\nremote 192.0.2.1\n<connection>\nremote b.example\n</connection>\n\
                    remote a.example 443 tcp\nremote-cert-tls server\nremote $(x)\n";
        assert_eq!(remotes(text), ["a.example", "b.example"]);
    }

    #[test]
    fn versions_and_devices() {
        assert_eq!(parse_version("OpenVPN 2.6.14 x86_64-pc-linux-gnu [SSL (OpenSSL)]\n"), Some((2, 6)));
        assert_eq!(parse_version("OpenVPN 2.7_rc1 x86_64"), Some((2, 7)));
        assert_eq!(parse_version("OpenVPN"), None);
        assert_eq!(device_type("client\ndev tap\n"), "tap");
        assert_eq!(device_type("dev myvpn\ndev-type tap\n"), "tap");
        assert_eq!(device_type("--dev tun3\n"), "tun");
    }
}
