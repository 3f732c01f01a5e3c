//! `runns-exec build`: check everything, decide what the namespace shall consist of, make it part
//! by part.

use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::boot::Unit;
use super::{change, prepare, summary, word};
use crate::difference;
use crate::finding::Finding;
use crate::host::{Before, HostState};
use crate::kernel::netlink::Netlink;
use crate::kernel::sysctl::sysctl;
use crate::lock::Lock;
use crate::part::{Part, Site, Wait, daemon, firewall, netns::NetworkNamespace, pushed, wireguard};
use crate::plans::{
    LEAKY, check_interface, check_parts, decided, is_leaky, is_taken, of_host, overlap,
};
use crate::seen::{Seen, Subject};
use crate::tunnel::openconnect::session::{LARGEST, Session};
use crate::wanted::Wanted;
use crate::{repair, walk};
use runns_privileged::netns;
use runns_shared::config::{Config, DEFAULT_PATH};
use runns_shared::error::{Context, Error, Result, status};
use runns_shared::escape::{escape, quote, show};
use runns_shared::exceptions::Published;
use runns_shared::log;
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::output;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State, etc_here};
use runns_shared::request::Request;
use runns_shared::subnet::{MAX_NUMBER, Number, PREFIX, RANGE};

/// How long to wait for a tunnel unless another time is asked for.
pub const WAIT: Wait = Wait {
    time: Duration::from_secs(30),
    fixed: false,
};

/// How long a build of everything that does not wait for tunnels waits for other builds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// A section, or a namespace that was built; neither -n nor -s is given with it.
    pub word: Option<OsString>,
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
    /// Everything that is built; nothing else is asked for then.
    pub all: bool,
    /// Change what is built already to what is asked for.
    pub change: bool,
    /// Read the session of an OpenConnect login from standard input.
    pub authenticated: bool,
    /// Have systemd build it at each boot.
    pub at_boot: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// How long to wait for each tunnel; not at all if `None`.
    pub wait: Option<Wait>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            word: None,
            name: None,
            section: None,
            interface: None,
            uplink: None,
            resolve: None,
            publish: Vec::new(),
            config: None,
            all: false,
            change: false,
            authenticated: false,
            at_boot: false,
            dry_run: false,
            wait: Some(WAIT),
        }
    }
}

impl Options {
    /// The session on standard input, if there is to be one.
    fn session(&self) -> Result<Option<Session>> {
        if !self.authenticated {
            return Ok(None);
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let error = Error::new("read a session", "standard input is a terminal");
            return Err(error.hint(
                "openconnect --authenticate SERVER | sudo runns-exec build -s SECTION --authenticated",
            ));
        }
        let mut text = Vec::new();
        stdin
            .take(LARGEST)
            .read_to_end(&mut text)
            .cannot(|| "read standard input")?;
        Session::parse(&String::from_utf8_lossy(&text)).map(Some)
    }
}

/// Builds a namespace.
pub fn run(options: Options) -> Result<()> {
    prepare("build")?;
    if options.all {
        return build_all(&options);
    }
    if options.dry_run {
        let wanted = Wanted::new(&options)?;
        let unit = unit(&wanted, &options)?;
        rehearse(&wanted, options.change)?;
        return unit.map_or(Ok(()), |unit| unit.rehearse());
    }
    // Others do not have to wait until somebody has logged in.
    let session = options.session()?;
    let lock = Lock::take()?;
    // What the configuration says by now: another build or clean may have taken its time.
    let result = Wanted::new(&options).and_then(|wanted| {
        let unit = unit(&wanted, &options)?;
        build(&wanted, &lock, &options, session)?;
        Ok(unit)
    });
    lock.release();
    result
        .map_err(name_lock)?
        .map_or(Ok(()), |unit| unit.enable())
}

/// The unit that is to build it at each boot, if one is.
fn unit(wanted: &Wanted, options: &Options) -> Result<Option<Unit>> {
    let find = || Unit::find(wanted.request.section.as_deref());
    options.at_boot.then(find).transpose()
}

/// Whatever lacks a module fails with words of its own.
fn name_lock(error: Error) -> Error {
    let is_locked = sysctl("kernel/modules_disabled").is_ok_and(|now| now.as_deref() == Some("1"));
    if !is_locked {
        return error;
    }
    error.hint(
        "kernel.modules_disabled=1 keeps the kernel from loading modules; to load those that a built namespace uses at each \
         boot: lsmod | awk 'NR > 1 { print $1 }' | sudo tee /etc/modules-load.d/runns-exec.conf",
    )
}

/// Builds everything again that is built. What fails does not keep the others from being repaired.
fn build_all(options: &Options) -> Result<()> {
    // A script that follows changes of the network keeps others waiting.
    let lock = match options.wait {
        Some(_) => Lock::take(),
        None => Lock::take_within(PATIENCE),
    }?;
    let mut errors = Vec::new();
    for name in Record::names()? {
        errors.extend(build_again(&name, &lock, options).err());
    }
    lock.release();
    if let Some(last) = errors.pop() {
        errors.iter().for_each(output::complain_error);
        return Err(last);
    }
    Ok(())
}

fn build_again(name: &NetnsName, lock: &Lock, options: &Options) -> Result<()> {
    let again = || format!("sudo runns-exec clean {name}, then build it again");
    let Some(record) = Record::load(name).map_err(|error| error.hint(again()))? else {
        return Ok(());
    };
    if record.state != State::Built {
        return Err(interrupted(name));
    }
    if options.dry_run {
        return rehearse_repair(&record);
    }
    repair(Site {
        record,
        lock,
        host: Netlink::here()?,
        namespace: None,
        wait: options.wait,
        session: None,
        before: Before::default(),
    })
}

/// Says what building would do.
fn rehearse(wanted: &Wanted, with_change: bool) -> Result<()> {
    if let Some(record) = recorded(wanted, with_change)? {
        if with_change && change::rehearse(wanted, &record)? {
            return Ok(());
        }
        standing(wanted, &record)?;
        return rehearse_repair(&record);
    }
    let host = Netlink::here()?;
    let plan = wanted.plan(&host)?;
    check(&plan, &host)?;
    daemon::rehearse(&plan)?;
    output::print(&summary::planned(&plan))?;
    let table = firewall::planned(&plan)?;
    if !table.is_empty() {
        output::print(&format!("would load this nftables table:\n{table}"))?;
    }
    match &plan.request.pre_clean {
        Some(path) => output::print(&format!(
            "clean would run {} inside first (PreClean)\n",
            show(path)
        )),
        None => Ok(()),
    }
}

fn rehearse_repair(record: &Record) -> Result<()> {
    let seen = Seen::new(Vec::new());
    let found = repair::look(&Subject::new(record, &seen));
    if found.is_empty() {
        return output::print(&as_asked(record));
    }
    let line = |finding: &Finding| match &finding.cure {
        Some(cure) => format!("cannot repair {finding}; fix: {cure}\n"),
        None => format!("would repair {finding}\n"),
    };
    output::print(&found.iter().map(line).collect::<String>())
}

/// The record of what is to be built, repaired or changed.
fn recorded(wanted: &Wanted, with_change: bool) -> Result<Option<Record>> {
    if with_change {
        change::recorded(wanted)
    } else {
        wanted.recorded()
    }
}

fn build(wanted: &Wanted, lock: &Lock, options: &Options, session: Option<Session>) -> Result<()> {
    let host = Netlink::here()?;
    let wait = options.wait;
    if session.is_some() && wanted.request.openconnect.is_none() {
        let cause = "the section has no OpenConnect";
        return Err(Error::new("use --authenticated", cause));
    }
    if let Some(record) = recorded(wanted, options.change)? {
        let mut site = Site {
            record,
            lock,
            host,
            namespace: None,
            wait,
            session,
            before: Before::default(),
        };
        if options.change && change::run(&mut site, wanted)? {
            return Ok(());
        }
        standing(wanted, &site.record)?;
        return repair(site);
    }
    let plan = wanted.plan(&host)?;
    check(&plan, &host)?;
    let before = Before {
        state: HostState::load()?,
        sysctls: Vec::new(),
    };
    let mut site = Site {
        record: begin(lock, plan)?,
        lock,
        host,
        namespace: None,
        wait,
        session,
        before,
    };
    let name = site.plan().name.clone();
    if let Err(error) = walk::build(&mut site).and_then(|()| finish(&mut site)) {
        for error in walk::undo(&mut site) {
            output::complain_error(&error);
        }
        lock.remove(&site.record)?;
        log::refused(|| format!("build of {name} failed: {error}"));
        return Err(error);
    }
    let plan = site.plan();
    if is_leaky(plan) {
        warn(LEAKY);
    }
    started_by_openvpn_service(plan);
    log::notice(|| format!("built {name}: {}", summary::parts(plan).join("; ")));
    output::print(&summary::built(plan))
}

/// Warns of tunnels that Debian's openvpn.service starts as well, for the whole host, at boot: its
/// generator takes each /etc/openvpn/*.conf unless AUTOSTART says otherwise (openvpn-generator of
/// the package).
fn started_by_openvpn_service(plan: &Plan) {
    const GENERATOR: &str = "/usr/lib/systemd/system-generators/openvpn-generator";
    let settings = std::fs::read_to_string("/etc/default/openvpn").unwrap_or_default();
    let is_none =
        |line: &str| line.trim() == "AUTOSTART=none" || line.trim() == "AUTOSTART=\"none\"";
    if !Path::new(GENERATOR).exists() || settings.lines().any(is_none) {
        return;
    }
    let is_started = |file: &&PathBuf| {
        file.parent() == Some(Path::new("/etc/openvpn"))
            && file
                .extension()
                .is_some_and(|extension| extension == "conf")
    };
    let files: Vec<String> = plan
        .request
        .vpn
        .iter()
        .filter(is_started)
        .map(show)
        .collect();
    if !files.is_empty() {
        warn(&format!(
            "openvpn.service starts {} for the whole host at the next boot; move it to /etc/openvpn/client, or use \
             runns-exec import",
            files.join(", ")
        ));
    }
}

/// Records what is about to be built.
fn begin(lock: &Lock, plan: Plan) -> Result<Record> {
    let record = Record {
        etc: etc_here(),
        ..Record::new(State::Building, plan)
    };
    lock.save(&record)
        .and_then(|()| lock.reserve(&record))
        .inspect_err(|_| drop(lock.remove(&record)))?;
    Ok(record)
}

/// All parts are made: from now on, the namespace may be entered.
fn finish(site: &mut Site) -> Result<()> {
    site.lock.save_hosts(site.plan())?;
    site.record.state = State::Built;
    // One whose record could not be saved is not built.
    site.save()
        .inspect_err(|_| site.record.state = State::Building)?;
    // From now on the keepers of tunnels follow new name servers; some may have come before.
    let followed = pushed::follow(site);
    if followed.is_err() {
        // Nobody enters while it is undone.
        site.record.state = State::Building;
        site.save()?;
    }
    followed
}

fn interrupted(name: &NetnsName) -> Error {
    let cause = "an earlier build or clean of it was interrupted";
    Error::new(format!("build namespace {name}"), cause)
        .hint(format!("sudo runns-exec clean {name}, then build it again"))
}

/// What is recorded under this name is what was asked for, or it is in the way.
fn standing(wanted: &Wanted, record: &Record) -> Result<()> {
    let name = record.plan.name.clone();
    if record.state != State::Built {
        return Err(interrupted(&name));
    }
    let differences = difference::between(&record.plan, &name, wanted);
    if !differences.is_empty() {
        let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
        let cause = format!(
            "it is built already, with other settings: {}",
            differences.join("; ")
        );
        let error = Error::new(format!("build namespace {name}"), cause);
        return Err(match &wanted.request.section {
            Some(section) => error.hint(format!(
                "to change it under running programs: {}",
                repair::change_command(section)
            )),
            None => error.hint(format!("sudo runns-exec clean {name}, then build it again")),
        });
    }
    let by_section = wanted.request.section.is_some();
    for changed in difference::contents(&record.plan)
        .iter()
        .filter(|_| by_section)
    {
        warn(&format!(
            "{} has changed since {name} was built; build --change applies it",
            changed.built
        ));
    }
    Ok(())
}

fn as_asked(record: &Record) -> String {
    format!("{} is built already, as asked\n", record.plan.name)
}

/// Finishes a change that was interrupted, and repairs what is no longer as it was built.
fn repair(mut site: Site) -> Result<()> {
    let name = site.plan().name.clone();
    if !site.record.earlier.is_empty() {
        change::finish(&mut site)?;
        output::print(&format!("finished the change of {name}\n"))?;
    }
    site.lock.save_hosts(site.plan())?;
    let etc = etc_here();
    if site.record.etc != etc {
        site.record.etc = etc;
        site.save()?;
    }
    let repaired = repair::run(&mut site)
        .inspect_err(|error| log::refused(|| format!("build of {name}: {error}")))?;
    let moved = wireguard::follow_names(&site)?;
    for moved in &moved {
        output::print(&format!("repaired endpoint {moved}\n"))?;
    }
    if repaired + moved.len() == 0 {
        return output::print(&as_asked(&site.record));
    }
    log::notice(|| format!("repaired {name}"));
    output::print(&format!("{name} repaired\n"))
}

impl Wanted {
    fn new(options: &Options) -> Result<Self> {
        let usage = |error: Error| error.with_status(status::USAGE);
        let name = options.name.as_ref().map(NetnsName::new);
        let interface = options.interface.as_ref().map(IfaceName::new);
        let uplink = options.uplink.as_ref().map(IfaceName::new);
        let mut wanted = Self {
            name: name.transpose().map_err(usage)?,
            interface: interface.transpose().map_err(usage)?,
            request: Request {
                uplink: uplink.transpose().map_err(usage)?,
                ..Request::default()
            },
        };
        let path = absolute(options.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH)))?;
        // A configuration that is wrong is told also where no section of it is asked for.
        let config = if options.config.is_some() {
            Config::load(&path)?
        } else {
            Config::load_default()?
        };
        if let Some((first, second)) = config.ambiguity() {
            warn(&format!(
                "[{}] and [{}] both name namespace {}: until one of them is changed, only root can enter namespaces",
                first.name, second.name, first.netns
            ));
        }
        let given = options.section.as_ref();
        let section = match &options.word {
            Some(word) => wanted.take_word(&word.to_string_lossy(), &config)?,
            None => given.map(|section| section.to_string_lossy().into_owned()),
        };
        if let Some(section) = section {
            let section = config.section(&section, &path)?;
            let of_default = path == Path::new(DEFAULT_PATH);
            wanted.take(section, of_default.then(|| section.name.clone()));
        }
        if let Some(file) = &options.resolve {
            wanted.request.resolve = Some(absolute(file)?);
            wanted.request.resolve_named = true;
            wanted.request.dns = None;
        }
        for word in &options.publish {
            let mut publish = |word: &str| {
                let port = Published::parse(word)?;
                wanted.request.exceptions.publish(port)
            };
            let word = word.to_string_lossy();
            publish(&word).map_err(|error| {
                let action = format!("publish {}", escape(word.as_bytes()));
                usage(error.within(action))
            })?;
        }
        Ok(wanted)
    }

    /// Takes what a word alone says: returns the section to take the rest from, unless it names
    /// what was built without one.
    fn take_word(&mut self, word: &str, config: &Config) -> Result<Option<String>> {
        word::is_one_thing("build", word, config, |owner| {
            let build =
                |option: &str, of: &str| format!("sudo runns-exec build {option} {}", quote(of));
            let first = owner.map_or(build("-n", word), |owner| build("-s", owner));
            [first, build("-s", word)]
        })?;
        let section = word::section(word, config).map(|section| section.name.clone());
        if section
            .as_ref()
            .is_some_and(|name| name.eq_ignore_ascii_case(word))
        {
            return Ok(section);
        }
        self.name = NetnsName::new(word).ok();
        if let Some(Record { plan, .. }) = self.recorded()? {
            let section = plan.request.section.clone();
            if section.is_none() {
                self.take_built(plan);
            }
            return Ok(section);
        }
        if section.is_some() {
            return Ok(section);
        }
        let (near, is_name) = (word::near(word, config), self.name.is_some());
        let unknown = word::unknown("build", word, near.as_deref());
        Err(match near {
            None if is_name => unknown.hint(format!(
                "to build a namespace of this name: sudo runns-exec build -n {word}"
            )),
            _ => unknown,
        })
    }

    /// Decides on a name, if none was asked for, and a subnet.
    fn plan(&self, host: &Netlink) -> Result<Plan> {
        self.files_exist()?;
        let taken = Taken::find(host, &self.request)?;
        let Some(name) = &self.name else {
            return self.next_vpn(&taken, host);
        };
        let preferred = name
            .vpn_number()
            .and_then(Number::new)
            .filter(|number| taken.is_free(*number));
        let number = preferred.or_else(|| Number::all().find(|number| taken.is_free(*number)));
        let number = number.ok_or_else(|| taken.exhausted())?;
        if let Some(subnet) = self.request.subnet {
            let overlaps = |network: &&Ipv4Net| overlap(network, &subnet.network());
            if let Some(taken) = taken.networks.iter().find(overlaps) {
                return Err(is_taken(subnet, taken));
            }
        }
        decided(self, name.clone(), number)
    }

    /// Checks that the files that options name are there; an error says which option it is.
    fn files_exist(&self) -> Result<()> {
        let request = &self.request;
        let of = |option: &'static str| move |file: &PathBuf| (option, file.clone());
        let openconnect = request.openconnect.as_ref();
        let options = openconnect.and_then(|one| one.options.as_ref());
        let password = openconnect.and_then(|one| one.password.as_ref());
        let resolve = request.resolve.as_ref().filter(|_| !request.resolve_named);
        let files = request.vpn.iter().map(of("vpn"));
        let files = files
            .chain(request.wireguard.iter().map(of("WireGuard")))
            .chain(resolve.map(of("Resolve")))
            .chain(options.map(of("OpenConnectOptions")))
            .chain(password.map(of("OpenConnectPassword")))
            .chain(request.post_build.as_ref().map(of("PostBuild")))
            .chain(request.pre_clean.as_ref().map(of("PreClean")));
        for (option, file) in files {
            let found = file.symlink_metadata();
            if found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                let section = request.section.as_ref();
                let section = section.map_or(String::new(), |section| {
                    format!("[{}] ", escape(section.as_bytes()))
                });
                let cause = format!("No such file or directory ({section}{option}=)");
                return Err(Error::new(format!("open {}", show(&file)), cause));
            }
        }
        Ok(())
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
                if Number::all().any(|number| taken.is_free(number)) {
                    Error::new("choose a name", "no number is left above the highest vpnX")
                } else {
                    taken.exhausted()
                }
            })?;
            let name = NetnsName::new(format!("vpn{number}"))?;
            let interface = self.interface_of(&name);
            let interface_taken =
                self.interface.is_none() && host.link(interface.as_str())?.is_some();
            if taken.is_free(free) && !interface_taken {
                return decided(self, name, free);
            }
        }
    }
}

/// `path` from the root; it need not exist.
fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().as_bytes().is_empty() {
        return Err(Error::new("use ''", "the path is empty"));
    }
    std::path::absolute(path).cannot(|| format!("use {}", show(path)))
}

/// Names and networks that are in use.
struct Taken {
    /// Of what was built.
    names: Vec<NetnsName>,
    /// Networks of the host's addresses and routes, and of what was built.
    networks: Vec<Ipv4Net>,
    /// Whether each number is: by another namespace or, where the subnet follows from it, by the
    /// networks.
    numbers: Vec<bool>,
}

impl Taken {
    fn find(host: &Netlink, request: &Request) -> Result<Self> {
        let (names, reserved) = Record::names_and_numbers()?;
        let (known, unknown): (Vec<_>, Vec<_>) = names
            .iter()
            .cloned()
            .partition(|name| reserved.contains_key(name));
        let mut networks: Vec<Ipv4Net> =
            known.iter().map(|name| reserved[name].network()).collect();
        for (name, text) in Record::texts(unknown)? {
            networks.push(number_of(&name, &text)?.network());
        }
        let mut numbers = vec![false; usize::from(MAX_NUMBER) + 1];
        for number in reserved.values() {
            numbers[usize::from(number.get())] = true;
        }
        for number in networks.iter().filter_map(|used| Number::of(used.addr())) {
            numbers[usize::from(number.get())] = true;
        }
        networks.extend(of_host(host)?);
        // Daemons and devices have the number, too, whose subnet may be another one.
        let counts = request.has_veth() && request.subnet.is_none();
        for network in networks.iter().filter(|_| counts) {
            let is_in = |number: &Number| overlap(network, &number.network());
            // A network of 256 addresses or less is in one of ours, or in none.
            match (network.prefix_len() >= PREFIX, Number::of(network.addr())) {
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

    /// No number is free: the widest network in the way.
    fn exhausted(&self) -> Error {
        let is_in_range = |network: &&Ipv4Net| {
            Number::of(network.addr()).is_some() || network.contains(&RANGE.addr())
        };
        let in_range = self.networks.iter().filter(is_in_range);
        let widest = in_range.min_by_key(|network| network.prefix_len());
        let cause = match widest {
            Some(network) if network.prefix_len() <= RANGE.prefix_len() => {
                format!(
                    "the host has an address or a route in {network}, which covers all of {RANGE}"
                )
            }
            Some(network) => {
                format!("the host and other namespaces use all of {RANGE}, {network} among others")
            }
            None => format!("other namespaces use all of {RANGE}"),
        };
        let hint = "set Subnet= in its section to a free network, 10.201.0.0/24 for example";
        Error::new("find a subnet", cause).hint(hint)
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

/// Everything that can be known before the first change.
fn check(plan: &Plan, host: &Netlink) -> Result<()> {
    check_interface(plan, host)?;
    NetworkNamespace.check(plan)?;
    check_parts(plan, host)
}
