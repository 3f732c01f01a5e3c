//! `runns-exec build`: check everything, decide what the namespace shall consist of, make it part
//! by part.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::prepare;
use crate::confine;
use crate::facts::resolver;
use crate::finding::Finding;
use crate::host::{Before, HostState};
use crate::kernel::netlink::{Netlink, Network};
use crate::lock::Lock;
use crate::part::{Site, Wait, firewall};
use crate::seen::{Seen, Subject};
use crate::{repair, walk};
use runns_privileged::netns;
use runns_shared::config::{Config, DEFAULT_PATH, Dns, Section};
use runns_shared::error::{Context, Error, Result, status};
use runns_shared::escape::{escape, one_line, show};
use runns_shared::log;
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::neighbours::{HostAccess, Moment, Neighbours};
use runns_shared::output;
use runns_shared::output::warn;
use runns_shared::plan::{MAX_NUMBER, Number, PREFIX, Plan, Request};
use runns_shared::record::{Record, State, VERSION, etc_here};

/// The shortest prefix of a route that makes its network taken: shorter ones are defaults and
/// halves of them.
const SHORTEST_TAKEN: u8 = 8;

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// -n
    pub name: Option<OsString>,
    /// -s
    pub section: Option<OsString>,
    /// -i
    pub interface: Option<OsString>,
    /// -o
    pub uplink: Option<OsString>,
    /// -r
    pub resolve: Option<PathBuf>,
    /// --publish, each.
    pub publish: Vec<OsString>,
    /// --config
    pub config: Option<PathBuf>,
    /// Change nothing.
    pub dry_run: bool,
    /// How long to wait for each tunnel; not at all if `None`.
    pub wait: Option<Wait>,
}

/// Builds a namespace.
pub fn run(options: Options) -> Result<()> {
    prepare("build")?;
    let wanted = Wanted::new(&options)?;
    if options.dry_run {
        return rehearse(&wanted);
    }
    let lock = Lock::take()?;
    let result = build(&wanted, &lock, options.wait);
    lock.release();
    result
}

/// Says what building would do.
fn rehearse(wanted: &Wanted) -> Result<()> {
    if let Some(record) = wanted.recorded()? {
        standing(wanted, &record)?;
        let seen = Seen::new(Vec::new());
        let found = repair::look(&Subject::new(&record, &seen));
        if found.is_empty() {
            return output::print(&as_asked(&record));
        }
        let line = |finding: &Finding| match &finding.cure {
            Some(cure) => format!("cannot mend {finding}; mend it: {cure}\n"),
            None => format!("would mend {finding}\n"),
        };
        return output::print(&found.iter().map(line).collect::<String>());
    }
    let host = Netlink::here()?;
    let plan = wanted.plan(&host)?;
    check(&plan, &host)?;
    output::print(&report("would make", &plan, None))?;
    let table = firewall::planned(&plan)?;
    if !table.is_empty() {
        output::print(&format!("would load this nftables table:\n{table}"))?;
    }
    match plan.request.neighbours.hook(Moment::Cleaned)? {
        Some(hook) => output::print(&format!(
            "clean would run {} inside first (PreClean)\n",
            show(&hook.path)
        )),
        None => Ok(()),
    }
}

fn build(wanted: &Wanted, lock: &Lock, wait: Option<Wait>) -> Result<()> {
    let host = Netlink::here()?;
    if let Some(record) = wanted.recorded()? {
        standing(wanted, &record)?;
        return mend(Site {
            record,
            lock,
            host,
            namespace: None,
            wait,
            before: Before::default(),
        });
    }
    let plan = wanted.plan(&host)?;
    check(&plan, &host)?;
    let before = Before {
        state: HostState::load()?,
        sysctls: Vec::new(),
    };
    let record = Record {
        version: VERSION,
        state: State::Building,
        plan,
        identity: None,
        files: Vec::new(),
        daemons: Vec::new(),
        keepers: Vec::new(),
        inside: None,
        etc: etc_here(),
    };
    lock.save(&record)
        .and_then(|()| lock.reserve(&record))
        .inspect_err(|_| drop(lock.remove(&record)))?;
    let mut site = Site {
        record,
        lock,
        host,
        namespace: None,
        wait,
        before,
    };
    let name = site.plan().request.name.clone();
    if let Err(error) = walk::build(&mut site).and_then(|()| finish(&mut site)) {
        for error in walk::undo(&mut site) {
            output::complain_error(&error);
        }
        lock.remove(&site.record)?;
        log::refused(|| format!("build of {name} failed: {error}"));
        return Err(error);
    }
    let plan = site.plan();
    if plan.request.has_tunnel() && !plan.request.kill_switch {
        warn("traffic leaves unprotected, by the host's own uplink, while the tunnel is down");
    }
    log::notice(|| format!("built {name}: {}", parts(plan).join("; ")));
    output::print(&report("made", plan, Some(&site.record)))
}

/// All parts are made: from now on, the namespace may be entered.
fn finish(site: &mut Site) -> Result<()> {
    site.lock.save_hosts(site.plan())?;
    site.record.state = State::Built;
    // One whose record could not be saved is not built.
    site.save()
        .inspect_err(|_| site.record.state = State::Building)
}

/// The parts of a plan, a line each.
fn parts(plan: &Plan) -> Vec<String> {
    walk::all()
        .iter()
        .filter(|part| part.is_in(plan))
        .filter_map(|part| part.describe(plan))
        .collect()
}

fn report(verb: &str, plan: &Plan, record: Option<&Record>) -> String {
    let mut lines: Vec<String> = parts(plan)
        .iter()
        .map(|part| format!("{verb} {}\n", one_line(part)))
        .collect();
    if record.is_some() {
        lines.push(format!(
            "enter it: runns-exec {} [COMMAND]\n",
            plan.request.name
        ));
    }
    lines.concat()
}

/// What is recorded under this name is what was asked for, or it is in the way.
fn standing(wanted: &Wanted, record: &Record) -> Result<()> {
    let name = record.plan.request.name.clone();
    let refuse = |cause: &str| {
        Err(Error::new(format!("build namespace {name}"), cause)
            .hint(format!("sudo runns-exec clean {name}, then build it again")))
    };
    if record.state != State::Built {
        return refuse("an earlier build or clean of it was interrupted");
    }
    if wanted.request(name.clone()) != record.plan.request {
        return refuse("it is built already, but differently");
    }
    Ok(())
}

fn as_asked(record: &Record) -> String {
    format!("{} is built already, as asked\n", record.plan.request.name)
}

/// Mends what is no longer as it was built.
fn mend(mut site: Site) -> Result<()> {
    let name = site.plan().request.name.clone();
    site.lock.save_hosts(site.plan())?;
    let etc = etc_here();
    if site.record.etc != etc {
        site.record.etc = etc;
        site.save()?;
    }
    let mended = repair::run(&mut site)
        .inspect_err(|error| log::refused(|| format!("build of {name}: {error}")))?;
    if mended == 0 {
        return output::print(&as_asked(&site.record));
    }
    log::notice(|| format!("mended {name}"));
    output::print(&format!("{name} is as it was built again\n"))
}

/// What the command line and the section ask for, with checked names.
struct Wanted {
    name: Option<NetnsName>,
    section: Option<String>,
    interface: Option<IfaceName>,
    uplink: Option<IfaceName>,
    resolve: Option<PathBuf>,
    resolve_named: bool,
    dns: Option<Dns>,
    dns_lock: Option<bool>,
    vpn: Vec<PathBuf>,
    wireguard: Vec<PathBuf>,
    userspace: Option<PathBuf>,
    kill_switch: bool,
    ipv6: Option<bool>,
    neighbours: Neighbours,
    access: runns_shared::access::Access,
    no_new_privs: bool,
}

impl Wanted {
    fn new(options: &Options) -> Result<Self> {
        let usage = |error: Error| error.with_status(status::USAGE);
        let name = options
            .name
            .as_ref()
            .map(NetnsName::new)
            .transpose()
            .map_err(usage)?;
        let interface = options
            .interface
            .as_ref()
            .map(IfaceName::new)
            .transpose()
            .map_err(usage)?;
        let uplink = options
            .uplink
            .as_ref()
            .map(IfaceName::new)
            .transpose()
            .map_err(usage)?;
        let path = options
            .config
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
        let path = absolute(&path)?;
        // A configuration that is wrong is told also where no section of it is asked for.
        let config = if options.config.is_some() {
            Config::load(&path)?
        } else {
            Config::load_default()?
        };
        let section = match &options.section {
            Some(section) => Some(config.section(&section.to_string_lossy(), &path)?),
            None => None,
        };
        if let Some((first, second)) = config.ambiguity() {
            warn(&format!(
                "[{}] and [{}] both name namespace {}: as long as they do, only root can enter any",
                first.name, second.name, first.netns
            ));
        }
        for section in &config.sections {
            let place = escape(section.name.as_bytes());
            let of_file = |error: Error| {
                Error::new(
                    format!("use {}", show(&section.file)),
                    format!("[{place}] {}", error.cause()),
                )
            };
            section.neighbours.check().map_err(of_file)?;
        }
        let mut neighbours =
            section.map_or_else(Neighbours::default, |section| section.neighbours.clone());
        neighbours.0.extend(
            options
                .publish
                .iter()
                .map(|word| format!("Publish={}", word.to_string_lossy())),
        );
        neighbours.check().map_err(usage)?;
        let of_default = path == Path::new(DEFAULT_PATH);
        Ok(Self {
            name: name.or_else(|| section.map(|section| section.netns.clone())),
            section: section
                .filter(|_| of_default)
                .map(|section| section.name.clone()),
            interface: interface
                .or_else(|| section.and_then(|section| section.interface_in.clone())),
            uplink: uplink.or_else(|| section.and_then(|section| section.interface_out.clone())),
            resolve_named: options.resolve.is_some(),
            resolve: match &options.resolve {
                Some(file) => Some(absolute(file)?),
                None => section.and_then(|section| section.resolve.clone()),
            },
            dns: section
                .and_then(|section| section.dns.clone())
                .filter(|_| options.resolve.is_none()),
            dns_lock: section.and_then(|section| section.dns_lock),
            vpn: section.map_or(Vec::new(), |section: &Section| section.vpn.clone()),
            wireguard: section.map_or(Vec::new(), |section| section.wireguard.clone()),
            userspace: section.and_then(|section| section.userspace.clone()),
            kill_switch: section.is_some_and(|section| section.kill_switch),
            ipv6: section.and_then(|section| section.ipv6),
            neighbours,
            access: section.map_or_else(Default::default, |section| section.access.clone()),
            no_new_privs: section.is_some_and(|section| section.no_new_privs),
        })
    }

    /// The record of the namespace that is asked for.
    fn recorded(&self) -> Result<Option<Record>> {
        let Some(name) = &self.name else {
            return Ok(None);
        };
        let hint = || format!("sudo runns-exec clean {name}, then build it again");
        Record::load(name).map_err(|error| error.hint(hint()))
    }

    /// The request for a namespace called `name`.
    fn request(&self, name: NetnsName) -> Request {
        Request {
            interface: self
                .interface
                .clone()
                .unwrap_or_else(|| name.default_interface()),
            name,
            section: self.section.clone(),
            uplink: self.uplink.clone(),
            resolve: self.resolve.clone(),
            resolve_named: self.resolve_named,
            dns: self.dns.clone(),
            dns_lock: self.dns_lock,
            vpn: self.vpn.clone(),
            wireguard: self.wireguard.clone(),
            userspace: self.userspace.clone(),
            kill_switch: self.kill_switch,
            ipv6: self.ipv6,
            neighbours: self.neighbours.clone(),
            access: self.access.clone(),
            no_new_privs: self.no_new_privs,
        }
    }

    /// Decides on a name, if none was asked for, and a subnet.
    fn plan(&self, host: &Netlink) -> Result<Plan> {
        let taken = Taken::find(host)?;
        let Some(name) = &self.name else {
            return self.next_vpn(&taken, host);
        };
        let preferred = name
            .vpn_number()
            .and_then(Number::new)
            .filter(|number| taken.is_free(*number));
        let number = preferred.or_else(|| Number::all().find(|number| taken.is_free(*number)));
        let number = number.ok_or_else(|| {
            Error::new("find a subnet", "172.24.0.0 to 172.31.255.0 are all taken")
        })?;
        let request = self.request(name.clone());
        if let Some(subnet) = request.neighbours.own_subnet()? {
            let wanted = Network {
                address: subnet.network,
                prefix: subnet.prefix,
            };
            if let Some(taken) = taken
                .networks
                .iter()
                .find(|network| network.overlaps(&wanted))
            {
                let by = format!(
                    "the host has an address or a route in {}/{}",
                    taken.address, taken.prefix
                );
                return Err(
                    Error::new(format!("use Subnet={subnet}"), by).hint("choose another network")
                );
            }
        }
        decided(request, number)
    }

    /// `vpnX`, X one more than the greatest there is; further where its subnet or interface is
    /// taken.
    fn next_vpn(&self, taken: &Taken, host: &Netlink) -> Result<Plan> {
        let there = std::fs::read_dir(netns::DIRECTORY)
            .into_iter()
            .flatten()
            .flatten();
        let there = there.filter_map(|entry| NetnsName::new(entry.file_name()).ok());
        let names = taken.names.iter().cloned().chain(there);
        let greatest = names
            .filter_map(|name| name.vpn_number())
            .max()
            .unwrap_or(0);
        let mut number = greatest;
        loop {
            number = number.saturating_add(1);
            let free = Number::new(number).ok_or_else(|| {
                Error::new("choose a name", "no number is left above the greatest vpnX")
            })?;
            let request = self.request(NetnsName::new(format!("vpn{number}"))?);
            let interface_taken =
                self.interface.is_none() && host.link(request.interface.as_str())?.is_some();
            if taken.is_free(free) && !interface_taken {
                return decided(request, free);
            }
        }
    }
}

fn decided(request: Request, number: Number) -> Result<Plan> {
    let resolver = resolver::decide(&request)?;
    let access = request.neighbours.access(request.has_tunnel())?;
    let mut plan = Plan {
        request,
        number,
        resolver,
        host: None,
    };
    let is_reached = plan.request.has_veth() && access != HostAccess::Ports(Vec::new());
    plan.host = is_reached.then(|| plan.subnet().host().into());
    Ok(plan)
}

/// `path` from the root; it need not exist.
fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().as_bytes().is_empty() {
        return Err(Error::new("use ''", "it is not a path"));
    }
    std::path::absolute(path).cannot(|| format!("use {}", show(path)))
}

/// Names and networks that are in use.
struct Taken {
    /// Of what was built.
    names: Vec<NetnsName>,
    /// Networks of the host's addresses and routes, and of what was built.
    networks: Vec<Network>,
    /// Whether each subnet is, by its number.
    numbers: Vec<bool>,
}

impl Taken {
    fn find(host: &Netlink) -> Result<Self> {
        let (names, reserved) = Record::names_and_numbers()?;
        let (known, unknown): (Vec<_>, Vec<_>) = names
            .iter()
            .cloned()
            .partition(|name| reserved.contains_key(name));
        let mut networks: Vec<Network> = known.iter().map(|name| subnet(reserved[name])).collect();
        for (name, text) in Record::texts(unknown)? {
            networks.push(subnet(number_of(&name, &text)?));
        }
        networks.extend(host.addresses()?.into_iter().map(|(_, network)| network));
        let routes = host.routes()?.into_iter().map(|route| route.network);
        networks.extend(routes.filter(|network| network.prefix >= SHORTEST_TAKEN));
        let mut numbers = vec![false; usize::from(MAX_NUMBER) + 1];
        for network in &networks {
            let is_in = |number: &Number| network.overlaps(&subnet(*number));
            // A network of 256 addresses or less is in one of ours, or in none.
            match (network.prefix >= PREFIX, Number::of(network.address)) {
                (true, Some(number)) => numbers[usize::from(number.get())] = true,
                (true, None) => {}
                (false, _) => Number::all()
                    .filter(is_in)
                    .for_each(|number| numbers[usize::from(number.get())] = true),
            }
        }
        Ok(Self {
            names,
            networks,
            numbers,
        })
    }

    fn is_free(&self, number: Number) -> bool {
        !self.numbers[usize::from(number.get())]
    }
}

/// The number in a record. Reading all of it takes several times as long, for each of perhaps a
/// thousand.
fn number_of(name: &NetnsName, text: &str) -> Result<Number> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        number: u32,
    }
    let cannot = |cause: String| Error::new(format!("read the record of {name}"), cause);
    let numbered: Numbered =
        serde_json::from_str(text).map_err(|error| cannot(error.to_string()))?;
    Number::new(numbered.number).ok_or_else(|| cannot("there is no such subnet".to_string()))
}

fn subnet(number: Number) -> Network {
    Network {
        address: number.network(),
        prefix: PREFIX,
    }
}

/// Everything that can be known before the first change.
fn check(plan: &Plan, host: &Netlink) -> Result<()> {
    let request = &plan.request;
    if !request.has_veth() && request.uplink.is_some() {
        return Err(Error::new(
            "build",
            "an uplink has no effect with KillSwitch=yes, which creates no veth pair",
        ));
    }
    if request.has_veth() && host.link(request.interface.as_str())?.is_some() {
        return Err(Error::new(
            format!("make interface {}", request.interface),
            "an interface of that name exists already",
        )
        .hint("choose another with -i or InterfaceIn"));
    }
    if let Some(uplink) = &request.uplink {
        if host.link(uplink.as_str())?.is_none() {
            return Err(Error::new(
                format!("use uplink {}", escape(uplink.as_str().as_bytes())),
                "there is no such interface",
            )
            .hint("ip -br link lists the existing ones"));
        }
    }
    for name in request.access.unknown_names() {
        warn(&format!(
            "AllowUsers or AllowGroups names {}, which no account has",
            escape(name.as_bytes())
        ));
    }
    confine::check(plan)?;
    walk::all().iter().try_for_each(|part| part.check(plan))
}
