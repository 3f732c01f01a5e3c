//! Starts an OpenVPN daemon: `openvpn --daemon openvpn-NAME --config FILE`, confined as
//! [`crate::confine`] describes.
//!
//! The daemon runs in the namespace or, under the kill switch and where the veth pair does not lead
//! to its servers, outside. In either place it configures nothing itself: its device is made for it beforehand, and its keeper gives that
//! device the addresses and routes which the server pushed. So it needs no capability, and executes
//! nothing.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Seek};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::device;
use super::profile::Profile;
use crate::confine::{self, Identity, view::View};
use crate::facts::ipv6::in_tunnels;
use crate::kernel::daemon::{self, Detached};
use crate::kernel::file;
use crate::kernel::netlink::{EVERYWHERE, Hop, MAIN_TABLE, Netlink, Route, in_namespace};
use crate::kernel::tool;
use crate::namespace;
use crate::tunnel;
use runns_privileged::view::ETC_NETNS;
use runns_shared::error::{Context, Error, Result, words as cause};
use runns_shared::escape::{escape, show};
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::plan::Plan;
use runns_shared::record::{Daemon, Record};
use runns_shared::request::Request;
use runns_shared::trusted;
use runns_sys::process::{self, Fork};
use runns_sys::tun::Kind;

/// OpenVPN's program.
pub const PROGRAM: &str = "openvpn";
/// How long OpenVPN may take to report why it does not start.
const EXPLANATION: Duration = Duration::from_secs(3);
/// Files of /etc that may change while the daemon runs, and that it reads again.
const LIVE: [&str; 3] = ["resolv.conf", "hosts", "nsswitch.conf"];
/// The bytes of one of them. Lists of advertisers make a hosts file large.
const LARGEST_LIVE: u64 = 8 << 20;
/// Inside the namespace, the table with the daemons' way to their servers. It is not
/// [`MAIN_TABLE`].
const BESIDE_TABLE: u32 = 172;
/// Priority of the first daemon's rule for that table; that of the main table is 32766.
const BESIDE_RULE: u32 = 1000;

/// What the daemons are called in the system log.
pub fn daemon_name(plan: &Plan) -> String {
    log_name(&plan.name)
}

/// The name under which the daemons of a namespace write to the system log.
pub fn log_name(name: &NetnsName) -> String {
    format!("{PROGRAM}-{name}")
}

/// Under the kill switch, the name of a device before it is moved into the namespace. It is unique
/// because no two namespaces have the same number.
pub fn outside_name(plan: &Plan, index: usize) -> String {
    format!("rvpn{}-{index}", plan.number.get())
}

/// The name of a device in the namespace.
pub fn inside_name(index: usize) -> String {
    format!("tun{index}")
}

/// One OpenVPN tunnel of a namespace.
pub struct Tunnel {
    /// The namespace's record, as it was when the tunnel was started.
    pub record: Record,
    /// Its position among the tunnels.
    pub index: usize,
    /// Its configuration.
    pub profile: Profile,
    /// The daemon's user id.
    pub user: u32,
    /// Whether the daemon runs outside of the namespace.
    pub outside: bool,
}

impl Tunnel {
    /// Tunnel `index` of a namespace.
    pub fn new(record: Record, index: usize) -> Result<Self> {
        let file = record
            .plan
            .request
            .vpn
            .get(index)
            .ok_or_else(|| Error::new("start a tunnel", "there is no such tunnel"))?;
        let profile = Profile::read(file)?;
        let user = confine::user(&record.plan, index);
        let request = &record.plan.request;
        let beyond = profile.is_beyond_veth(&|name| in_hosts(&record.plan.name, name));
        if beyond && !request.kill_switch && request.uplink.is_some() {
            let cause = "its servers have only IPv6 addresses, or are on this host's loopback: the veth pair leads to neither, \
                         and outside, its packets would leave through any uplink";
            return Err(Error::new("start a tunnel", cause)
                .hint("remove InterfaceOut, or use a server with an IPv4 address"));
        }
        Ok(Self {
            outside: beyond || request.kill_switch,
            record,
            index,
            profile,
            user,
        })
    }

    /// The namespace's name.
    pub fn name(&self) -> &NetnsName {
        &self.record.plan.name
    }

    /// What was asked for.
    pub fn request(&self) -> &Request {
        &self.record.plan.request
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.request().vpn[self.index]
    }

    fn directory(&self) -> &Path {
        self.config().parent().unwrap_or(Path::new("/"))
    }

    /// The namespace; it is an error if it is gone.
    pub fn namespace(&self) -> Result<File> {
        namespace::open_recorded(&self.record)?
            .ok_or_else(|| Error::new("set up a tunnel", "the namespace is gone"))
    }

    /// Whether the tunnel is the only way out.
    pub fn kill_switch(&self) -> bool {
        self.request().kill_switch
    }

    /// Prepares what the daemon needs: its directory, which nobody else sees, its files of /etc,
    /// its device, and its way to the server. The process gets a mount namespace of its own, in
    /// which the directory is.
    pub fn prepare(&self) -> Result<()> {
        let base = tunnel::daemon_directory(self.name(), self.index);
        file::make_own_directory(&base, 0o755)?;
        unshare(CloneFlags::CLONE_NEWNS).cannot(|| "unshare the mount namespace")?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
            .cannot(|| "make the mount namespace a slave")?;
        mount_tmpfs(&base, "mode=0755,size=24m,nr_inodes=64")?;
        file::make_own_directory(&base.join("etc"), 0o755)?;
        let own = tunnel::own_directory(self.name(), self.index);
        file::make_own_directory(&own, 0o700)?;
        mount_tmpfs(&own, "mode=0700,size=1m,nr_inodes=64")?;
        std::os::unix::fs::chown(&own, Some(self.user), Some(self.user))
            .cannot(|| format!("give away {}", show(&own)))?;
        self.refresh()?;
        self.make_device()?;
        self.make_way()
    }

    /// Copies the files of /etc that the daemon reads again when it connects again, as far as they
    /// have changed. A file that is replaced by renaming, as resolv.conf often is, would stay the
    /// old one in the daemon's view if it were mounted there.
    pub fn refresh(&self) -> Result<()> {
        let etc = tunnel::daemon_directory(self.name(), self.index).join("etc");
        for name in LIVE {
            let text = read_live(&self.source(name))?;
            let copy = etc.join(name);
            if std::fs::read(&copy).ok().as_ref() != Some(&text) {
                file::overwrite(&copy, text)?;
            }
        }
        Ok(())
    }

    /// Where the daemon's file `name` of /etc comes from.
    fn source(&self, name: &str) -> PathBuf {
        let own = [
            Path::new(ETC_NETNS).join(self.name().as_str()).join(name),
            tunnel::hosts_file(self.name()),
        ];
        let of_host = Path::new("/etc").join(name);
        match own {
            _ if self.outside => of_host,
            [_, hosts] if name == "hosts" && hosts.exists() => hosts,
            [own, _] if own.exists() => own,
            _ => of_host,
        }
    }

    /// Makes the device to which the daemon attaches, in place of an earlier one.
    pub fn make_device(&self) -> Result<()> {
        let kind = if self.profile.is_tap() {
            Kind::Tap
        } else {
            Kind::Tun
        };
        self.remove_device()?;
        if self.outside {
            return device::create_for(
                &outside_name(&self.record.plan, self.index),
                kind,
                self.user,
            );
        }
        let namespace = self.namespace()?;
        in_namespace(namespace.as_fd(), || {
            device::create_for(&inside_name(self.index), kind, self.user)
        })
    }

    /// Removes the device, wherever it is.
    pub fn remove_device(&self) -> Result<()> {
        let namespace = namespace::open_recorded(&self.record)?;
        remove_devices(&self.record.plan, &Netlink::here()?, namespace, self.index).map(drop)
    }

    /// For a daemon in the namespace: its own packets leave by the veth pair, whatever routes lead
    /// into the tunnel.
    pub fn make_way(&self) -> Result<()> {
        if self.outside {
            return Ok(());
        }
        let inside = Netlink::inside(self.namespace()?.as_fd())?;
        let way = self.way(&inside)?;
        const { assert!(BESIDE_TABLE != MAIN_TABLE) };
        inside.add_route(EVERYWHERE, BESIDE_TABLE, Some(way))?;
        inside.add_user_rule(self.user, BESIDE_TABLE, BESIDE_RULE + self.index as u32)
    }

    /// The device and the gateway by which the namespace's traffic leaves beside the tunnel.
    pub fn way(&self, inside: &Netlink) -> Result<Hop> {
        Ok((
            inside.need_link(crate::facts::veth::INSIDE)?.index,
            Some(self.record.plan.subnet().host().into()),
        ))
    }

    /// Starts the daemon, which goes into the background by itself once it has read its
    /// configuration. With `ask`, it asks for passwords.
    pub fn start(&self, ask: bool) -> Result<Daemon> {
        let cannot = || format!("start OpenVPN with {}", show(self.config()));
        let words = self.words(ask, true)?;
        // The daemon's parent exits. As subreaper, this process then becomes the daemon's parent
        // and so learns its pid.
        process::set_child_subreaper(true).cannot(cannot)?;
        let result = match process::fork().cannot(cannot)? {
            Fork::Child => end_child(self.become_daemon(&words, None)),
            Fork::Parent(pid) => wait(pid).and_then(|()| adopted(self.config())),
        };
        result.map_err(|error| {
            let reason = self
                .explain(ask)
                .unwrap_or_else(|| error.cause().to_string());
            let error = Error::new(cannot(), reason);
            match self.profile.advice() {
                Some(advice) => error.hint(advice),
                None => error.hint(format!("journalctl -t {}", daemon_name(&self.record.plan))),
            }
        })
    }

    /// The daemon's command line. Options after `--config` override those in the file, but `--cd`
    /// only keeps the daemon in the directory that it is in by then, when it goes into the
    /// background.
    fn words(&self, ask: bool, background: bool) -> Result<Vec<CString>> {
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let mut words = vec![text(tool::need(PROGRAM, "openvpn")?.as_os_str().as_bytes())];
        let mut add = |more: &[&[u8]]| words.extend(more.iter().map(|word| text(word)));
        if background {
            add(&[b"--daemon", daemon_name(&self.record.plan).as_bytes()]);
        }
        let (config, directory) = (
            self.config().as_os_str(),
            self.profile.directory().as_os_str(),
        );
        add(&[
            b"--config",
            config.as_bytes(),
            b"--cd",
            directory.as_bytes(),
        ]);
        let socket = tunnel::socket(self.name(), self.index);
        // It waits for its keeper before it connects, so that the keeper sees every event.
        add(&[
            b"--management",
            socket.as_os_str().as_bytes(),
            b"unix",
            b"--management-hold",
            b"--management-up-down",
        ]);
        let answered = self.profile.credentials()?.is_some();
        if ask || answered {
            add(&[b"--management-query-passwords"]);
        }
        // Its keeper answers from the file (see `login`).
        if answered {
            add(&[b"--auth-user-pass"]);
        }
        add(script_security(&self.profile));
        let own = tunnel::own_directory(self.name(), self.index);
        add(&[
            b"--tmp-dir",
            own.as_os_str().as_bytes(),
            b"--ifconfig-noexec",
            b"--route-noexec",
        ]);
        let device = if self.outside {
            outside_name(&self.record.plan, self.index)
        } else {
            inside_name(self.index)
        };
        add(&[
            b"--dev",
            device.as_bytes(),
            b"--dev-type",
            if self.profile.is_tap() {
                b"tap"
            } else {
                b"tun"
            },
        ]);
        words.extend(self.adjustments());
        Ok(words)
    }

    /// The options that depend on the file, the section and OpenVPN's version.
    fn adjustments(&self) -> Vec<CString> {
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let mut words = Vec::new();
        let mut add = |more: &[&[u8]]| words.extend(more.iter().map(|word| text(word)));
        // Below 3, OpenVPN does not report what the server pushed.
        let verb = self.profile.value("verb");
        let verb = verb.and_then(|verb| verb.parse::<u8>().ok());
        if verb.is_none_or(|verb| verb < 3) {
            add(&[b"--verb", b"3"]);
        }
        let version = version();
        // The kernel's driver (DCO) is controlled with CAP_NET_ADMIN.
        if version >= (2, 6) {
            add(&[b"--disable-dco"]);
        }
        // The default updown command would change the host's own resolver (openvpn(8) of 2.7).
        if version >= (2, 7) {
            add(&[b"--dns-updown", b"disable"]);
        }
        if !in_tunnels(self.request()) {
            for option in ["ifconfig-ipv6", "route-ipv6", "redirect-gateway ipv6"] {
                add(&[b"--pull-filter", b"ignore", option.as_bytes()]);
            }
        }
        words
    }

    /// In the child: becomes the confined daemon. Its output goes to `said`.
    fn become_daemon(&self, words: &[CString], said: Option<&OwnedFd>) -> Result<Infallible> {
        // Without a terminal, it asks for passwords through the management socket.
        let output = said.map(AsFd::as_fd);
        Detached::begin()?.redirect(None, output, output)?;
        let view = self.view()?;
        if !self.outside {
            setns(self.namespace()?.as_fd(), CloneFlags::CLONE_NEWNET)
                .cannot(|| "enter the network namespace")?;
        }
        view.enter(self.user)?;
        confine::enter_directory(self.directory())?;
        let lock_memory = self.profile.value("mlock").is_some();
        confine::give_up_root(&Identity {
            user: self.user,
            capability: None,
            lock_memory,
        })?;
        let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
        let environment = CString::new(format!("PATH={}", tool::PATH)).unwrap_or_default();
        let errno = process::execute(words[0], &words, &[&environment]);
        Err(Error::new("execute OpenVPN", cause(errno)))
    }

    fn view(&self) -> Result<View> {
        let name = self.name();
        let mut view = View::new();
        view.show("/dev/net/tun", "/dev/net/tun");
        view.show("/dev/log", "/dev/log");
        let etc = tunnel::daemon_directory(name, self.index).join("etc");
        for file in LIVE {
            view.show(etc.join(file), Path::new("/etc").join(file));
        }
        view.show_writable(&tunnel::own_directory(name, self.index));
        self.profile
            .copies()?
            .into_iter()
            .for_each(|copy| view.copy(copy));
        // Where it is not there, the daemon is to say so.
        if self.profile.directory().is_dir() {
            view.directory(self.profile.directory());
        }
        Ok(view)
    }

    /// Finds out why OpenVPN did not start. A daemon reports errors to the system log only, so
    /// OpenVPN is started again in the foreground, where it fails in the same way and prints the
    /// reason.
    fn explain(&self, ask: bool) -> Option<String> {
        let said = memfd_create(c"openvpn", MFdFlags::MFD_CLOEXEC).ok()?;
        let words = self.words(ask, false).ok()?;
        match process::fork().ok()? {
            Fork::Child => end_child(self.become_daemon(&words, Some(&said))),
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
}

/// What keeps OpenVPN from executing anything. tls-verify checks the server, and so is the one
/// script that is not left out.
pub fn script_security(profile: &Profile) -> &'static [&'static [u8]] {
    match profile.value("tls-verify") {
        None => &[b"--script-security", b"0"],
        Some(_) => &[],
    }
}

/// The addresses that the namespace's hosts(5) file for its daemons has for a name.
fn in_hosts(namespace: &NetnsName, name: &str) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(tunnel::hosts_file(namespace)).unwrap_or_default();
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|known| known == name).then_some(address)
    };
    text.lines().filter_map(address).collect()
}

/// What is in a file of /etc that the daemon reads again; nothing if it is not there.
pub fn read_live(path: &Path) -> Result<Vec<u8>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    trusted::contents(trusted::open_named(path)?, path, LARGEST_LIVE)
}

/// Whether the packets of the daemon of tunnel `index` leave by the veth pair (see
/// [`Tunnel::make_way`]), looked at inside.
pub fn has_way(inside: &Netlink, plan: &Plan, index: usize) -> Result<bool> {
    let leads_out = |route: &Route| route.is_to(EVERYWHERE, BESIDE_TABLE);
    Ok(inside.routes()?.iter().any(leads_out)
        && inside.has_user_rule(confine::user(plan, index), BESIDE_TABLE)?)
}

/// Removes the devices of tunnel `index`, outside and in the namespace; returns whether there were
/// any.
pub fn remove_devices(
    plan: &Plan,
    host: &Netlink,
    namespace: Option<File>,
    index: usize,
) -> Result<bool> {
    let mut removed = false;
    if let Some(link) = host.link(&outside_name(plan, index))? {
        host.delete_link(link.index)?;
        removed = true;
    }
    if let Some(namespace) = namespace {
        let inside = Netlink::inside(namespace.as_fd())?;
        if let Some(link) = inside.link(&inside_name(index))? {
            inside.delete_link(link.index)?;
            removed = true;
        }
    }
    Ok(removed)
}

/// Mounts a file system in memory.
pub fn mount_tmpfs(at: &Path, options: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("runns-exec:daemon"),
        at,
        Some("tmpfs"),
        flags,
        Some(options),
    )
    .cannot(|| format!("mount {}", show(at)))
}

/// Ends a child that was to become OpenVPN, with what it printed as the reason.
pub fn end_child(result: Result<Infallible>) -> ! {
    let Err(error) = result;
    output::complain_error(&error);
    process::exit_now(1)
}

/// OpenVPN's version; 0.0 if it does not report one.
fn version() -> (u32, u32) {
    let said = tool::run(PROGRAM, &["--version"], "").unwrap_or_default();
    parse_version(&said).unwrap_or_default()
}

/// From `OpenVPN 2.6.14 x86_64-...` or `OpenVPN 2.7_rc1 ...`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said
        .strip_prefix("OpenVPN ")?
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn wait(pid: Pid) -> Result<()> {
    loop {
        match waitpid(pid, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(WaitStatus::Exited(_, code)) => {
                return Err(Error::new(
                    "start OpenVPN",
                    format!("it exited with status {code}"),
                ));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Err(Error::new(
                    "start OpenVPN",
                    format!("it was killed by {signal}"),
                ));
            }
            Ok(_) => {}
            Err(errno) => return Err(errno).cannot(|| "wait for OpenVPN"),
        }
    }
}

/// The daemon that has become our child, the only one.
fn adopted(config: &Path) -> Result<Daemon> {
    for pid in daemon::children() {
        if let Ok(WaitStatus::StillAlive) = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG))
        {
            if let Some(daemon) = Daemon::identify(pid, config) {
                return Ok(daemon);
            }
        }
    }
    Err(Error::new("start OpenVPN", "it exited at once"))
}

/// The last line that is not empty or boilerplate.
pub fn last_line(said: OwnedFd) -> Option<String> {
    let mut file = File::from(said);
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.take(1 << 16).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The last is for what fails in our own child.
    const EMPTY_WORDS: [&str; 4] = [
        "Use --help for more",
        "Exiting due to fatal error",
        "Please correct these errors",
        "hint: ",
    ];
    let telling = |line: &&str| {
        !line.trim().is_empty() && !EMPTY_WORDS.iter().any(|words| line.contains(words))
    };
    text.lines()
        .rfind(telling)
        .map(|line| escape(line.trim().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(
            parse_version("OpenVPN 2.6.14 x86_64-pc-linux-gnu [SSL (OpenSSL)]\n"),
            Some((2, 6))
        );
        assert_eq!(parse_version("OpenVPN 2.7_rc1 x86_64"), Some((2, 7)));
        assert_eq!(parse_version("OpenVPN"), None);
    }
}
