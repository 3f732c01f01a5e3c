//! `runns-exec build`: check everything, decide what the namespace shall consist of, make it part
//! by part.

use std::path::Path;
use std::time::{Duration, Instant};

pub use super::asked::Options;
use super::boot::Unit;
use super::{change, prepare, summary};
use crate::difference;
use crate::finding::Finding;
use crate::host::{Before, HostState};
use crate::import::store;
use crate::kernel::netlink::Netlink;
use crate::kernel::sysctl::sysctl;
use crate::lock::Lock;
use crate::part::{Part, Site, Wait, daemon, firewall, netns::NetworkNamespace, pushed, wireguard};
use crate::plans::{self, LEAKY, check_interface, check_parts, is_leaky};
use crate::seen::{Seen, Subject};
use crate::tunnel::check::warn_of_service;
use crate::tunnel::openconnect::session::Session;
use crate::tunnel::peers::Addresses;
use crate::wanted::Wanted;
use crate::{repair, walk};
use runns_shared::config::{Config, DEFAULT_PATH};
use runns_shared::error::{Error, Result};
use runns_shared::escape::show;
use runns_shared::log;
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State, etc_here};

/// How long a build of everything that does not wait for tunnels waits for other builds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to get the lock for addresses that were looked up before to be used.
const FRESH: Duration = Duration::from_secs(1);

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
    let result = store::recover().and_then(|()| {
        let wanted = Wanted::new(&options)?;
        let unit = unit(&wanted, &options)?;
        let repaired = build(&wanted, &lock, &options, session)?;
        Ok((unit, repaired))
    });
    lock.release();
    let (unit, repaired) = result.map_err(name_lock)?;
    all_right(wait_for_servers(Vec::from_iter(repaired), options.wait))?;
    unit.map_or(Ok(()), |unit| unit.enable())
}

/// What was built before and is as it was built, but for servers that may not answer.
struct Repaired {
    record: Record,
    /// What there is to say of it.
    text: String,
}

/// Waits until servers answer, without keeping others waiting. Says what there is to say of the
/// namespaces whose servers do; returns the errors of the others.
fn wait_for_servers(repaired: Vec<Repaired>, wait: Option<Wait>) -> Vec<Error> {
    let records: Vec<&Record> = repaired.iter().map(|one| &one.record).collect();
    let silent = wait.map(|wait| wireguard::wait_for_servers(&records, wait.time));
    let silent = silent.unwrap_or_default();
    let is_silent = |at: usize| silent.iter().any(|(silent, _)| *silent == at);
    let answering = repaired
        .iter()
        .enumerate()
        .filter(|(at, _)| !is_silent(*at));
    let texts: String = answering.map(|(_, one)| one.text.as_str()).collect();
    let printed = output::print(&texts);
    silent
        .into_iter()
        .map(|(_, error)| error)
        .chain(printed.err())
        .collect()
}

/// Complains about all errors but the last, which it returns.
fn all_right(mut errors: Vec<Error>) -> Result<()> {
    let last = errors.pop();
    errors.iter().for_each(output::complain_error);
    last.map_or(Ok(()), Err)
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

/// Builds everything again that is built, or brings it to what its section says. What fails does not
/// keep the others from being repaired.
fn build_all(options: &Options) -> Result<()> {
    let (lock, addresses) = lock_with_addresses(options)?;
    let result = build_each(options, &lock, &addresses);
    lock.release();
    let (repaired, mut errors) = result?;
    errors.extend(wait_for_servers(repaired, options.wait));
    all_right(errors)
}

/// Takes the lock, with the addresses that servers had a moment ago. Nobody has to wait while they
/// are looked up, which takes longest where the network has just changed. Those that were looked up
/// before a long wait for the lock may have changed since, so they are looked up once more; if that
/// happens again, none are known.
fn lock_with_addresses(options: &Options) -> Result<(Lock, Addresses)> {
    let (lock, addresses) = look_up_and_lock(options)?;
    if let Some(addresses) = addresses {
        return Ok((lock, addresses));
    }
    lock.release();
    let (lock, addresses) = look_up_and_lock(options)?;
    if addresses.is_none() {
        warn(
            "the servers of WireGuard tunnels keep their addresses: builds by others took too long",
        );
    }
    Ok((lock, addresses.unwrap_or_default()))
}

/// The same once; the addresses are `None` after a long wait for the lock.
fn look_up_and_lock(options: &Options) -> Result<(Lock, Option<Addresses>)> {
    let names = Record::names()?;
    let records = names.iter().filter(|_| !options.dry_run);
    let records: Vec<Record> = records
        .filter_map(|name| Record::load(name).ok()?)
        .collect();
    let addresses = wireguard::addresses(&records.iter().collect::<Vec<_>>());
    let begin = Instant::now();
    // A script that follows changes of the network does not wait as long as others like.
    let lock = match options.wait {
        Some(_) => Lock::take(),
        None => Lock::take_within(PATIENCE),
    }?;
    Ok((lock, (begin.elapsed() < FRESH).then_some(addresses)))
}

fn build_each(
    options: &Options,
    lock: &Lock,
    addresses: &Addresses,
) -> Result<(Vec<Repaired>, Vec<Error>)> {
    if options.change && !options.dry_run {
        store::recover()?;
    }
    let config = options.change.then(Config::load_default).transpose()?;
    let (mut repaired, mut errors) = (Vec::new(), Vec::new());
    for name in Record::names()? {
        match build_again(&name, lock, options, config.as_ref(), addresses) {
            Ok(one) => repaired.extend(one),
            Err(error) => errors.push(error),
        }
    }
    Ok((repaired, errors))
}

/// Brings one namespace to what its section in `config` says, or repairs it.
fn build_again(
    name: &NetnsName,
    lock: &Lock,
    options: &Options,
    config: Option<&Config>,
    addresses: &Addresses,
) -> Result<Option<Repaired>> {
    let again = || format!("sudo runns-exec clean {name}, then build it again");
    let Some(record) = Record::load(name).map_err(|error| error.hint(again()))? else {
        return Ok(None);
    };
    if record.state != State::Built {
        return Err(interrupted(name));
    }
    let wanted = match (config, &record.plan.request.section) {
        (Some(config), Some(section)) => {
            let section = config.section(section, Path::new(DEFAULT_PATH));
            let section = section.map_err(|error| {
                let error = error.as_cause_of(format!("change namespace {name}"));
                error.hint(format!("sudo runns-exec clean {name}"))
            })?;
            let wanted = Wanted::of_section(section, Some(section.name.clone()));
            Some(wanted.of_built(&record))
        }
        _ => None,
    };
    let start = format!("{name}: ");
    let change = Some(start.as_str());
    if options.dry_run {
        let rehearsed = match wanted {
            Some(wanted) => rehearse_built(&wanted, &record, change),
            None => rehearse_repair(&record),
        };
        return rehearsed.map(|()| None);
    }
    let site = site_of(record, lock, options)?;
    match wanted {
        Some(wanted) => build_built(site, &wanted, change, Some(addresses)),
        None => repair(site, Some(addresses)).map(Some),
    }
}

/// The place where what is built already is worked on.
fn site_of<'a>(record: Record, lock: &'a Lock, options: &Options) -> Result<Site<'a>> {
    Ok(Site {
        record,
        lock,
        host: Netlink::here()?,
        namespace: None,
        wait: options.wait,
        session: None,
        before: Before::default(),
    })
}

/// Says what building again would do. `change` is with what each line about a change begins, if one
/// is to be made.
fn rehearse_built(wanted: &Wanted, record: &Record, change: Option<&str>) -> Result<()> {
    if let Some(start) = change {
        if change::rehearse(wanted, record, start)? {
            return Ok(());
        }
    }
    standing(wanted, record)?;
    rehearse_repair(record)
}

/// Changes what is built, or repairs it, with the addresses of servers if they are known. `change` is
/// as for [`rehearse_built`].
fn build_built(
    mut site: Site,
    wanted: &Wanted,
    change: Option<&str>,
    addresses: Option<&Addresses>,
) -> Result<Option<Repaired>> {
    if let Some(start) = change {
        if change::run(&mut site, wanted, start)? {
            return Ok(None);
        }
    }
    standing(wanted, &site.record)?;
    repair(site, addresses).map(Some)
}

/// Says what building would do.
fn rehearse(wanted: &Wanted, with_change: bool) -> Result<()> {
    if let Some((record, wanted)) = recorded(wanted, with_change)? {
        return rehearse_built(&wanted, &record, with_change.then_some(""));
    }
    let host = Netlink::here()?;
    let plan = plans::choose(wanted, &host)?;
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

/// The record of what is to be built, repaired or changed, and what is asked for together with the
/// options that it was built with.
fn recorded(wanted: &Wanted, with_change: bool) -> Result<Option<(Record, Wanted)>> {
    let record = if with_change {
        change::recorded(wanted)
    } else {
        wanted.recorded()
    };
    Ok(record?.map(|record| {
        let wanted = wanted.of_built(&record);
        (record, wanted)
    }))
}

/// Builds what is wanted or, if it is built already, changes or repairs it.
fn build(
    wanted: &Wanted,
    lock: &Lock,
    options: &Options,
    session: Option<Session>,
) -> Result<Option<Repaired>> {
    if session.is_some() && wanted.request.openconnect.is_none() {
        let cause = "the section has no OpenConnect";
        return Err(Error::new("use --authenticated", cause));
    }
    if let Some((record, wanted)) = recorded(wanted, options.change)? {
        let site = Site {
            session,
            ..site_of(record, lock, options)?
        };
        return build_built(site, &wanted, options.change.then_some(""), None);
    }
    let host = Netlink::here()?;
    let plan = plans::choose(wanted, &host)?;
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
        wait: options.wait,
        session,
        before,
    };
    let name = site.plan().name.clone();
    if let Err(error) = walk::build(&mut site).and_then(|()| finish(&mut site)) {
        log::refused(|| format!("build of {name} failed: {error}"));
        return Err(give_up(&mut site, error));
    }
    let plan = site.plan();
    if is_leaky(plan) {
        warn(LEAKY);
    }
    warn_of_service(plan);
    log::notice(|| format!("built {name}: {}", summary::parts(plan).join("; ")));
    output::print(&summary::built(plan)).map(|()| None)
}

/// Undoes a build that failed with `error`. What could not be undone stays recorded, for clean.
fn give_up(site: &mut Site, error: Error) -> Error {
    let mut left = walk::undo(site);
    if left.is_empty() {
        left.extend(site.lock.remove(&site.record).err());
    } else {
        site.record.state = State::Cleaning;
        left.extend(site.save().err());
    }
    if left.is_empty() {
        return error;
    }
    for error in &left {
        output::complain_error(error);
    }
    let name = &site.plan().name;
    error.hint(format!(
        "to remove what is left: sudo runns-exec clean {name}"
    ))
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
            "it is built already, with different settings: {}",
            differences.join("; ")
        );
        let error = Error::new(format!("build namespace {name}"), cause);
        return Err(match &wanted.request.section {
            Some(section) => error.hint(format!(
                "to change it under running programs: {}",
                repair::change_command(section, &wanted.request.given)
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
fn repair(mut site: Site, addresses: Option<&Addresses>) -> Result<Repaired> {
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
    let moved = match addresses {
        Some(addresses) => wireguard::follow_names(&site, addresses)?,
        None => wireguard::follow_names(&site, &wireguard::addresses(&[&site.record]))?,
    };
    for moved in &moved {
        output::print(&format!("repaired endpoint {moved}\n"))?;
    }
    let text = match repaired + moved.len() {
        0 => as_asked(&site.record),
        _ => {
            log::notice(|| format!("repaired {name}"));
            format!("{name} repaired\n")
        }
    };
    Ok(Repaired {
        record: site.record,
        text,
    })
}

/// Everything that can be known before the first change.
fn check(plan: &Plan, host: &Netlink) -> Result<()> {
    check_interface(plan, host)?;
    NetworkNamespace.check(plan)?;
    check_parts(plan, host)
}
