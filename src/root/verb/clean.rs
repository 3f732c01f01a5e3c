//! `runns-exec clean`: removes what the record says that build created; with -r, moves a namespace
//! to another uplink.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use super::{boot, prepare, word};
use crate::etc_netns;
use crate::facts::{self, Own};
use crate::host::Before;
use crate::kernel::daemon;
use crate::kernel::netlink::Netlink;
use crate::kernel::prompt::ask;
use crate::lock::Lock;
use crate::namespace;
use crate::part::hook::{self, Moment};
use crate::part::{Part, Site, firewalld, forwarding, ipv6, netns, uplink, veth};
use crate::salvage;
use crate::table::load;
use crate::tunnel::daemons;
use crate::walk;
use runns_shared::config::{Config, DEFAULT_PATH};
use runns_shared::error::{Error, Result, status};
use runns_shared::escape::{escape, one_line, quote};
use runns_shared::log;
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::output;
use runns_shared::record::{self, Record, State};

/// How many processes are listed before they are ended.
const LISTED: usize = 100;

/// Which namespace to clean. Names are not validated yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// By its name or its section's, whichever it is.
    Word(OsString),
    /// By its name.
    Name(OsString),
    /// By the section from which it was built.
    Section(OsString),
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Which namespace.
    pub target: Target,
    /// -f
    pub disable_forward: bool,
    /// -k
    pub kill: bool,
    /// --timeout: from SIGTERM to SIGKILL.
    pub timeout: Duration,
    /// -r
    pub reattach: Option<OsString>,
}

/// Removes a namespace, or moves it to another uplink.
pub fn run(options: Options) -> Result<()> {
    prepare("clean")?;
    let usage = |error: Error| error.with_status(status::USAGE);
    let uplink = options
        .reattach
        .as_ref()
        .map(IfaceName::new)
        .transpose()
        .map_err(usage)?;
    let lock = Lock::take()?;
    let result = find(&options.target).and_then(|name| match uplink {
        Some(uplink) => reattach(&lock, &name, uplink),
        None => clean(&lock, &name, &options),
    });
    lock.release();
    result
}

/// The namespace to clean.
fn find(target: &Target) -> Result<NetnsName> {
    match target {
        Target::Word(word) => by_word(word),
        Target::Name(name) => {
            NetnsName::new(name).map_err(|error| error.with_status(status::USAGE))
        }
        Target::Section(section) => by_section(&section.to_string_lossy()),
    }
}

/// A namespace of which something is there, or else that of a section. A name of which nothing is
/// left is no error, unless it is near enough to another to be a mistake for it.
fn by_word(word: &OsString) -> Result<NetnsName> {
    // Even if the configuration contains an error, what was built can be removed.
    let config = Config::load_default().unwrap_or_default();
    word::is_one_thing("clean", &word.to_string_lossy(), &config, |_| {
        let word = quote(&word.to_string_lossy());
        ["-n", "-s"].map(|option| format!("sudo runns-exec clean {option} {word}"))
    })?;
    let name = NetnsName::new(word).map_err(|error| error.with_status(status::USAGE));
    let is_there = |name: &&NetnsName| {
        let paths = [
            record::path(name),
            namespace::path(name),
            etc_netns::directory(name),
        ];
        paths.iter().any(|path| path.symlink_metadata().is_ok())
    };
    if let Some(name) = name.as_ref().ok().filter(is_there) {
        return Ok(name.clone());
    }
    let word = word.to_string_lossy();
    let built_from_it = |record: &Record| {
        let section = record.plan.request.section.as_ref();
        section.is_some_and(|section| section.eq_ignore_ascii_case(&word))
    };
    let section = word::section(&word, &config);
    if section.is_some_and(|section| section.name.eq_ignore_ascii_case(&word))
        || Record::readable()?.0.iter().any(built_from_it)
    {
        return by_section(&word);
    }
    if let Some(section) = section {
        return Ok(section.netns.clone());
    }
    // Every vpnX is near the others, and so are the shortest names.
    let is_distinct = |name: &NetnsName| word.len() > 2 && name.vpn_number().is_none();
    let may_be_mistyped = name.as_ref().map_or(true, is_distinct);
    match word::near(&word, &config).filter(|_| may_be_mistyped) {
        Some(near) => Err(word::unknown("clean", &word, Some(&near))),
        None => name,
    }
}

/// The namespace of a section, which is looked up in the records first: the configuration may have
/// changed since the build.
fn by_section(section: &str) -> Result<NetnsName> {
    let built: Vec<NetnsName> = Record::all()?
        .into_iter()
        .map(|record| record.plan)
        .filter(|plan| {
            let built_from = plan.request.section.as_ref();
            built_from.is_some_and(|built| built.eq_ignore_ascii_case(section))
        })
        .map(|plan| plan.name)
        .collect();
    match &built[..] {
        [name] => Ok(name.clone()),
        [] => Ok(Config::load_default()?
            .section(section, Path::new(DEFAULT_PATH))?
            .netns
            .clone()),
        several => {
            let names: Vec<&str> = several.iter().map(NetnsName::as_str).collect();
            Err(Error::new(
                format!("clean section {}", escape(section.as_bytes())),
                format!(
                    "several namespaces were built from it: {}",
                    names.join(", ")
                ),
            )
            .hint("choose one of them with -n"))
        }
    }
}

fn clean(lock: &Lock, name: &NetnsName, options: &Options) -> Result<()> {
    let loaded = Record::load(name);
    if let Err(error) = &loaded {
        output::warn(&format!("{error}; cleaning {name} from what is left"));
    }
    let is_salvaged = loaded.is_err();
    let Some(record) = loaded.or_else(|_| salvage::reconstruct(name).map(Some))? else {
        return clean_without_record(lock, name, options);
    };
    let namespace =
        namespace::open_recorded(&record)?.or_else(|| namespace::open_by_process(&record));
    let mut site = Site {
        record,
        lock,
        host: Netlink::here()?,
        namespace,
        wait: None,
        session: None,
        before: Before::default(),
    };
    let identity = site.namespace.as_ref().and(site.record.identity);
    let inside = identity.map(|identity| identity.inode);
    let others = inside.map_or(Ok(Vec::new()), |inode| strangers(&site, inode))?;
    if !others.is_empty() && !options.kill {
        confirm(name, &others)?;
    }
    run_hook(&site);
    // From here on nobody can enter: the record forbids it. The name goes after the devices, which
    // a clean that follows one that was killed finds by it, and before the processes, which
    // something may start again.
    site.record.state = State::Cleaning;
    site.save()?;
    let (removed, mut errors) = remove(&mut site, inside, options);
    if is_salvaged {
        // Nobody knows what it had of these.
        errors.extend(ipv6::Ipv6.undo(&mut site).err());
    }
    if errors.is_empty() {
        errors.extend(lock.remove(&site.record).err());
    }
    log::notice(|| format!("cleaned {name}: removed {}", removed.join("; ")));
    let lines = removed
        .iter()
        .map(|part| format!("removed {}\n", one_line(part)));
    let last = finish(lock, options).unwrap_or_else(|error| {
        errors.push(error);
        String::new()
    });
    let next = at_boot(&site.record);
    output::print(&lines.chain(next).chain([last]).collect::<String>())?;
    match Error::all(errors) {
        Some(error) => {
            log::refused(|| format!("clean of {name}: {error}"));
            Err(error.hint(format!(
                "the record is kept; to try again: sudo runns-exec clean {name}"
            )))
        }
        None => Ok(()),
    }
}

/// A line for the report if its unit builds the namespace again at the next boot. systemd, which
/// cleans when it stops the unit, need not be told.
fn at_boot(record: &Record) -> Option<String> {
    let is_systemd = nix::unistd::getppid().as_raw() == 1;
    let section = record.plan.request.section.as_deref();
    let unit = section.filter(|_| !is_systemd).and_then(boot::enabled)?;
    Some(format!(
        "{unit} builds it again at the next boot; to prevent this: sudo systemctl disable {unit}\n"
    ))
}

/// Runs PreClean in a namespace that was built. Whatever becomes of it, the rest is removed.
fn run_hook(site: &Site) {
    if site.record.state != State::Built {
        return;
    }
    if let Err(error) = hook::run(site, Moment::Cleaned) {
        output::warn(&format!("{error}; going on without it"));
    }
}

/// Removes all parts, and ends the processes in the namespace with the inode `inside`, going on
/// past errors. Returns what was removed, and what could not be.
fn remove(site: &mut Site, inside: Option<u64>, options: &Options) -> (Vec<String>, Vec<Error>) {
    let (mut removed, mut errors) = walk::cut_off(site);
    let withdrawn = netns::withdraw(site).unwrap_or_else(|error| {
        errors.push(error);
        false
    });
    if let Some(inode) = inside {
        // Even if no process was found: one may have entered just before the name was removed.
        let is_spared = daemons::is_spared(&site.record);
        errors.extend(daemon::empty_namespace(inode, options.timeout, is_spared).err());
    }
    let (rest, failed) = walk::undo_rest(site);
    removed.extend(rest);
    removed.extend(
        netns::NetworkNamespace
            .describe(site.plan())
            .filter(|_| withdrawn),
    );
    errors.extend(failed);
    (removed, errors)
}

/// Restores forwarding if that was asked for and no built namespace is left. Returns a line for the
/// report, which also says so if forwarding is left on.
fn finish(lock: &Lock, options: &Options) -> Result<String> {
    if !forwarding::is_left_on()? {
        return Ok(String::new());
    }
    if !options.disable_forward {
        return Ok("left IPv4 forwarding on (clean -f restores it)\n".to_string());
    }
    if let Some(bridge) = facts::forwarding::relied_on()? {
        return Ok(format!(
            "left IPv4 forwarding on: {bridge}, created since the build, needs it\n"
        ));
    }
    let restored = ipv6::restore_forwarding(lock)? | forwarding::restore(lock)?;
    // What kept the host from being a router is no longer needed.
    load::host(lock, Own::Nobody)?;
    Ok(if restored {
        "restored IPv4 forwarding\n".to_string()
    } else {
        String::new()
    })
}

/// Without a record, an existing namespace is not ours, but marked files may be left, as after a
/// reboot.
fn clean_without_record(lock: &Lock, name: &NetnsName, options: &Options) -> Result<()> {
    let path = namespace::path(name);
    if std::fs::symlink_metadata(&path).is_ok() {
        return Err(Error::new(
            format!("clean namespace {name}"),
            "runns-exec did not build it",
        )
        .hint(format!(
            "remove it with the tool that created it, for instance: sudo ip netns delete {name}"
        )));
    }
    let mut report = String::new();
    if etc_netns::remove_leftovers(name)? {
        report.push_str(&format!(
            "removed the files that an earlier build left in /etc/netns/{name}\n"
        ));
    } else {
        report.push_str(&format!("{name}: there is nothing to clean\n"));
    }
    report.push_str(&finish(lock, options)?);
    load::unload_unused(lock)?;
    output::print(&report)
}

/// The processes in the namespace that clean would end.
fn strangers(site: &Site, inode: u64) -> Result<Vec<i32>> {
    let is_spared = daemons::is_spared(&site.record);
    let mut inside = daemon::in_namespace(inode)?;
    inside.retain(|pid| !is_spared(*pid));
    Ok(inside)
}

/// Lists the processes and asks whether to end them. Anything but a yes is an error, as is the lack
/// of a terminal.
fn confirm(name: &NetnsName, pids: &[i32]) -> Result<()> {
    let refuse = |cause: &str| Error::new(format!("clean namespace {name}"), cause);
    let shown = |pid: &i32| {
        format!(
            "{pid} ({})",
            escape(daemon::command_line(*pid).join(" ").as_bytes())
        )
    };
    let mut list: Vec<String> = pids.iter().take(LISTED).map(shown).collect();
    if pids.len() > LISTED {
        list.push(format!("and {} more", pids.len() - LISTED));
    }
    if !std::io::stdin().is_terminal() {
        return Err(
            refuse(&format!("processes are running in it: {}", list.join(", ")))
                .hint("--kill ends them"),
        );
    }
    for line in &list {
        output::complain(&format!("running in {name}: {line}"));
    }
    let which = match pids.len() {
        1 => "this process",
        _ => "these processes",
    };
    let answer = ask(&format!("End {which} in {name}? [y/N] "), true)?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(refuse(
        "processes are running in it, and you did not answer yes",
    ))
}

/// Moves the namespace to another uplink; its processes keep running.
fn reattach(lock: &Lock, name: &NetnsName, uplink: IfaceName) -> Result<()> {
    let record = Record::load(name)?.ok_or_else(|| {
        Error::new(
            format!("move namespace {name}"),
            "runns-exec did not build it",
        )
        .hint("runns-exec list")
    })?;
    if record.state != State::Built {
        return Err(Error::new(
            format!("move namespace {name}"),
            "an earlier build or clean of it was interrupted",
        ));
    }
    let mut site = Site {
        record,
        lock,
        host: Netlink::here()?,
        namespace: None,
        wait: None,
        session: None,
        before: Before::default(),
    };
    site.host.need_link(uplink.as_str())?;
    site.record.plan.request.uplink = Some(uplink.clone());
    site.save()?;
    // Nothing leaks in between: the new table has its unreachable route before anything is looked
    // up in it, and the rules of both uplinks are there while the veth goes from one to the other.
    uplink::Uplink.apply(&mut site)?;
    load::host(lock, Own::With(site.plan()))?;
    let link = site.host.need_link(site.plan().interface.as_str())?;
    veth::bind(&site, link.index)?;
    uplink::forget_unused(&site, Some(&uplink))?;
    load::host(lock, Own::With(site.plan()))?;
    if firewalld::Firewalld.is_in(site.plan()) {
        firewalld::Firewalld.apply(&mut site)?;
    }
    log::notice(|| format!("moved {name} to uplink {uplink}"));
    output::print(&format!("{name} now uses uplink {uplink}\n"))
}
