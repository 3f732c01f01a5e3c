//! What a tunnel's daemon needs, whichever kind it is: its device, its way to the server, its view of
//! the file system and its user. [`super::openvpn`] and [`super::openconnect`] start one in it,
//! confined as [`crate::confine`] describes.
//!
//! The daemon runs in the namespace or, under the kill switch and where the veth pair does not lead
//! to its servers, outside. In either place it configures nothing itself: its device is made for it
//! beforehand, and its keeper gives that device the addresses and routes which the server pushed. So
//! it needs no capability.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Seek};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::device;
use super::management;
use super::openconnect::{self, options::Options};
use super::profile::{self, Profile};
use super::servers::Servers;
use crate::confine::{
    self, Identity,
    view::{Copy, View},
};
use crate::facts::veth::INSIDE;
use crate::kernel::daemon::Detached;
use crate::kernel::file;
use crate::kernel::netlink::{EVERYWHERE, Hop, MAIN_TABLE, Netlink, Route, in_namespace};
use crate::kernel::tool;
use crate::namespace;
use crate::tunnel;
use crate::tunnel::device::route_beside;
use runns_privileged::view::ETC_NETNS;
use runns_shared::error::{Context, Error, Result, words as cause};
use runns_shared::escape::{escape, show};
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::plan::Plan;
use runns_shared::record::Record;
use runns_shared::request::Request;
use runns_shared::trusted;
use runns_sys::process;
use runns_sys::tun::Kind;

/// Files of /etc that may change while the daemon runs, and that it reads again.
const LIVE: [&str; 3] = ["resolv.conf", "hosts", "nsswitch.conf"];
/// The bytes of one of them. Lists of advertisers make a hosts file large.
const LARGEST_LIVE: u64 = 8 << 20;
/// Inside the namespace, the table with the daemons' way to their servers. It is not
/// [`MAIN_TABLE`].
const BESIDE_TABLE: u32 = 172;
/// Priority of the first daemon's rule for that table; that of the main table is 32766.
const BESIDE_RULE: u32 = 1000;

/// The names under which the daemons of a namespace write to the system log.
pub fn log_names(name: &NetnsName) -> Vec<String> {
    let programs = [profile::PROGRAM, openconnect::PROGRAM];
    programs.map(|program| format!("{program}-{name}")).into()
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

/// What the daemon of a tunnel is told.
pub enum Configuration {
    /// A file of OpenVPN's.
    OpenVpn(Arc<Profile>),
    /// A server of OpenConnect's, and its options.
    OpenConnect(Box<Options>),
}

impl Configuration {
    /// That of tunnel `index`, one of those with a daemon.
    pub fn read(request: &Request, index: usize) -> Result<Self> {
        match (request.vpn.get(index), &request.openconnect) {
            (Some(file), _) => Profile::read(file).map(|profile| Self::OpenVpn(Arc::new(profile))),
            (None, Some(one)) if index == request.vpn.len() => {
                Options::read(one).map(|options| Self::OpenConnect(Box::new(options)))
            }
            _ => Err(Error::new("start a tunnel", "there is no such tunnel")),
        }
    }

    /// The kind of daemon, as people call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OpenVpn(_) => management::OPENVPN,
            Self::OpenConnect(_) => "OpenConnect",
        }
    }

    /// Its program.
    pub fn program(&self) -> &'static str {
        match self {
            Self::OpenVpn(_) => profile::PROGRAM,
            Self::OpenConnect(_) => openconnect::PROGRAM,
        }
    }

    /// What the daemon is called in the system log.
    pub fn daemon_name(&self, plan: &Plan) -> String {
        format!("{}-{}", self.program(), plan.name)
    }

    /// The host names of servers and proxies; addresses need no lookup.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::OpenVpn(profile) => profile.names(),
            Self::OpenConnect(options) => options.names(),
        }
    }

    /// Copies of the files that the daemon reads.
    pub fn copies(&self) -> Result<Vec<Copy>> {
        match self {
            Self::OpenVpn(profile) => profile.copies(),
            Self::OpenConnect(options) => options.copies(),
        }
    }

    fn device(&self) -> Kind {
        match self {
            Self::OpenVpn(profile) if profile.is_tap() => Kind::Tap,
            _ => Kind::Tun,
        }
    }

    fn directory(&self) -> &Path {
        match self {
            Self::OpenVpn(profile) => profile.directory(),
            Self::OpenConnect(options) => options.directory(),
        }
    }

    fn is_beyond_veth(&self, addresses_of: &dyn Fn(&str) -> Vec<IpAddr>) -> bool {
        match self {
            Self::OpenVpn(profile) => profile.is_beyond_veth(addresses_of),
            Self::OpenConnect(options) => options.is_beyond_veth(addresses_of),
        }
    }
}

/// A tunnel with a daemon.
pub struct Tunnel {
    /// The namespace's record, as it was when the tunnel was started.
    pub record: Record,
    /// Its position among the tunnels.
    pub index: usize,
    /// Its configuration.
    pub configuration: Configuration,
    /// The daemon's user id.
    pub user: u32,
    /// Whether the daemon runs outside of the namespace.
    pub outside: bool,
    /// The servers that are looked up for the daemon; none if it runs outside.
    pub servers: Servers,
}

impl Tunnel {
    /// Tunnel `index` of a namespace.
    pub fn new(record: Record, index: usize) -> Result<Self> {
        let configuration = Configuration::read(&record.plan.request, index)?;
        let user = confine::user(&record.plan, index);
        let request = &record.plan.request;
        let mut servers = Servers::known(&record.plan.name, configuration.names());
        let beyond = configuration.is_beyond_veth(&|name| servers.addresses_of(name));
        if beyond && !request.kill_switch && request.uplink.is_some() {
            let cause = "its servers have only IPv6 or loopback addresses, or its file names an address of the host \
                         (local, bind-dev): it cannot connect through one uplink alone";
            return Err(Error::new("start a tunnel", cause)
                .hint("remove InterfaceOut, or use a server with an IPv4 address"));
        }
        let outside = beyond || request.kill_switch;
        if outside {
            servers = Servers::known(&record.plan.name, Vec::new());
        }
        Ok(Self {
            outside,
            servers,
            record,
            index,
            configuration,
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

    /// The configuration file, or the server.
    pub fn config(&self) -> &Path {
        let mut all = self.request().tunnels();
        all.nth(self.index).unwrap_or(Path::new(""))
    }

    /// What the daemon is called in the system log.
    pub fn daemon_name(&self) -> String {
        self.configuration.daemon_name(&self.record.plan)
    }

    /// The hint that leads to its log.
    pub fn log_hint(&self) -> String {
        let name = &self.record.plan.name;
        format!(
            "runns-exec log {name}  # or journalctl -t {}",
            self.daemon_name()
        )
    }

    /// The name of its device, where the daemon is.
    pub fn device(&self) -> String {
        if self.outside {
            outside_name(&self.record.plan, self.index)
        } else {
            inside_name(self.index)
        }
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
            let mut text = match name {
                "hosts" => self.servers.hosts().into_bytes(),
                _ => Vec::new(),
            };
            text.extend(read_live(&self.source(name))?);
            let copy = etc.join(name);
            if std::fs::read(&copy).ok().as_ref() != Some(&text) {
                file::overwrite(&copy, text)?;
            }
        }
        Ok(())
    }

    /// Where the daemon's file `name` of /etc comes from.
    fn source(&self, name: &str) -> PathBuf {
        let own = Path::new(ETC_NETNS).join(self.name().as_str()).join(name);
        if own.exists() && !self.outside {
            own
        } else {
            Path::new("/etc").join(name)
        }
    }

    /// Makes the device to which the daemon attaches, in place of an earlier one.
    pub fn make_device(&self) -> Result<()> {
        let kind = self.configuration.device();
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

    /// Leaves the device to a daemon that is about to close it and attach to it again: down, without
    /// addresses and routes, where and with the name that it was made with. It keeps its index, to
    /// which sockets of programs may be bound (SO_BINDTODEVICE, socket(7)).
    pub fn clear_device(&self) -> Result<()> {
        let namespace = self.namespace()?;
        let inside = Netlink::inside(namespace.as_fd())?;
        let Some(device) = inside.link(&inside_name(self.index))? else {
            return self.make_device();
        };
        // With this, it loses its routes and IPv6 addresses.
        inside.set_down(device.index)?;
        inside.remove_addresses(device.index)?;
        if !self.outside {
            return Ok(());
        }
        let host = File::open("/proc/thread-self/ns/net").cannot(|| "open the host's namespace")?;
        let name = outside_name(&self.record.plan, self.index);
        inside.move_link(device.index, &host, &name)
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
            inside.need_link(INSIDE)?.index,
            Some(self.record.plan.subnet().host().into()),
        ))
    }

    /// In the child: becomes the confined daemon, in the directory `at` of its view, with these
    /// standard descriptors; /dev/null stands for those that are `None`.
    pub fn become_daemon(
        &self,
        words: &[CString],
        at: &Path,
        stdio: [Option<&OwnedFd>; 3],
    ) -> Result<Infallible> {
        // Without a terminal, it asks for passwords where its keeper hears it.
        let [input, output, errors] = stdio.map(|fd| fd.map(AsFd::as_fd));
        Detached::begin()?.redirect(input, output, errors)?;
        let view = self.view()?;
        if !self.outside {
            setns(self.namespace()?.as_fd(), CloneFlags::CLONE_NEWNET)
                .cannot(|| "enter the network namespace")?;
        }
        view.enter(self.user)?;
        confine::enter_directory(at)?;
        let lock_memory = match &self.configuration {
            Configuration::OpenVpn(profile) => profile.value("mlock").is_some(),
            Configuration::OpenConnect(_) => false,
        };
        confine::give_up_root(&Identity {
            user: self.user,
            capability: None,
            lock_memory,
        })?;
        let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
        let environment = CString::new(format!("PATH={}", tool::PATH)).unwrap_or_default();
        let errno = process::execute(words[0], &words, &[&environment]);
        let kind = self.configuration.kind();
        Err(Error::new(format!("execute {kind}"), cause(errno)))
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
        self.configuration
            .copies()?
            .into_iter()
            .for_each(|copy| view.copy(copy));
        // Where it is not there, the daemon is to say so.
        let directory = self.configuration.directory();
        if directory.is_dir() {
            view.directory(directory);
        }
        Ok(view)
    }
}

/// What is in a file of /etc that the daemon reads again; nothing if it is not there.
fn read_live(path: &Path) -> Result<Vec<u8>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    trusted::open_named(path)
        .and_then(|file| trusted::contents(file, path, LARGEST_LIVE))
        .map_err(|error| error.as_cause_of("start a tunnel"))
}

/// Whether the packets of the daemon of tunnel `index` leave by the veth pair (see
/// [`Tunnel::make_way`]), looked at inside.
pub fn has_way(inside: &Netlink, plan: &Plan, index: usize) -> Result<bool> {
    let leads_out = |route: &Route| route.is_to(EVERYWHERE, BESIDE_TABLE);
    Ok(inside.routes()?.iter().any(leads_out)
        && inside.has_user_rule(confine::user(plan, index), BESIDE_TABLE)?)
}

/// Removes the devices of tunnel `index`, outside and in the namespace, and the routes beside it;
/// returns whether there were any devices.
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
        // What the tunnel's server wanted beside it goes with it.
        let veth = inside.link(INSIDE)?;
        if let Some(veth) = veth.filter(|_| !plan.request.kill_switch) {
            route_beside(&inside, &[], (veth.index, None), index as u32)?;
        }
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

/// Ends a child that was to become a daemon, with what it printed as the reason.
pub fn end_child(result: Result<Infallible>) -> ! {
    let Err(error) = result;
    output::complain_error(&error);
    process::exit_now(1)
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
