//! `runns-exec build --change`: brings what is built to what its section says now, under the programs
//! that run inside. Nothing is touched that does not differ.

use crate::difference::{self, Difference};
use crate::facts::pushed;
use crate::kernel::netlink::Netlink;
use crate::part::{Site, daemon, firewall, wireguard};
use crate::plans::{LEAKY, check_interface, check_parts, check_subnet, decided, is_leaky};
use crate::table::load;
use crate::wanted::Wanted;
use crate::{repair, walk};
use runns_shared::error::{Error, Result};
use runns_shared::escape::one_line;
use runns_shared::log;
use runns_shared::output::{self, warn};
use runns_shared::plan::{Plan, Resolver};
use runns_shared::record::{Record, State};
use runns_sys::process;

/// The record of the namespace that was built from the section, whatever it was called then.
pub fn recorded(wanted: &Wanted) -> Result<Option<Record>> {
    let by_name = wanted.recorded()?;
    let Some(section) = wanted
        .request
        .section
        .as_ref()
        .filter(|_| by_name.is_none())
    else {
        return Ok(by_name);
    };
    let is_its = |record: &Record| {
        let built_from = record.plan.request.section.as_ref();
        built_from.is_some_and(|name| name.eq_ignore_ascii_case(section))
    };
    Ok(Record::all()?.into_iter().find(is_its))
}

/// What a namespace is to become.
struct Change {
    plan: Plan,
    differences: Vec<Difference>,
}

impl Change {
    /// What has to change for the namespace to be what is asked for.
    fn of(wanted: &Wanted, record: &Record) -> Result<Self> {
        let built = &record.plan;
        let name = &built.name;
        let refuse = |cause: String| {
            Error::new(format!("change namespace {name}"), cause)
                .hint(repair::again(name, &wanted.request))
        };
        if record.state != State::Built {
            let cause = "an earlier build or clean of it was interrupted";
            return Err(refuse(cause.to_string()));
        }
        let asked = wanted.name.as_ref().unwrap_or(name);
        let mut differences = difference::between(built, asked, wanted);
        let has_veth = record.plans().any(|plan| plan.request.has_veth());
        if let Some(fixed) = differences
            .iter()
            .find(|difference| difference.is_fixed(has_veth))
        {
            return Err(refuse(format!(
                "{} cannot change while it exists ({} -> {})",
                fixed.option, fixed.built, fixed.section
            )));
        }
        let mut plan = decided(wanted, name.clone(), built.number)?;
        let resolver_changed = plan.resolver != built.resolver && !pushed::decides(&plan);
        let mut contents = difference::contents(built);
        contents.retain(|one| !differences.iter().any(|known| known.option == one.option));
        differences.extend(contents);
        if differences.is_empty() && resolver_changed {
            differences.push(Difference {
                option: "resolver".to_string(),
                built: servers(built.resolver.as_ref()),
                section: servers(plan.resolver.as_ref()),
            });
        }
        // Until its tunnels provide one, it keeps the one that it has: another one could be outside
        // of them.
        let is_own = |resolver: &Resolver| resolver.text.is_some();
        if pushed::decides(&plan) && built.resolver.as_ref().is_none_or(is_own) {
            plan.resolver.clone_from(&built.resolver);
        }
        Ok(Self { plan, differences })
    }

    /// Whether there is anything to do.
    fn is_needed(&self, record: &Record) -> bool {
        !self.differences.is_empty() || !record.earlier.is_empty()
    }

    /// Everything that can be known before the first change.
    fn check(&self, record: &Record, host: &Netlink) -> Result<()> {
        let had_veth = record.plans().any(|plan| plan.request.has_veth());
        if self.plan.request.has_veth() && !had_veth {
            check_interface(&self.plan, host)?;
            check_subnet(&self.plan, host)?;
        }
        check_parts(&self.plan, host)
    }

    /// A line for each difference, which begins with these words.
    fn lines(&self, start: &str, verb: &str) -> String {
        let line = |difference: &Difference| {
            format!("{start}{verb} {}\n", one_line(&difference.to_string()))
        };
        self.differences.iter().map(line).collect()
    }
}

fn servers(resolver: Option<&Resolver>) -> String {
    let Some(resolver) = resolver else {
        return "the host's".to_string();
    };
    let servers: Vec<String> = resolver.servers.iter().map(ToString::to_string).collect();
    format!("{} ({})", resolver.from, servers.join(", "))
}

/// Changes what is built, and prints lines that begin with `start`; returns whether there was
/// anything to change.
pub fn run(site: &mut Site, wanted: &Wanted, start: &str) -> Result<bool> {
    let change = Change::of(wanted, &site.record)?;
    if !change.is_needed(&site.record) {
        return Ok(false);
    }
    change.check(&site.record, &site.host)?;
    let name = change.plan.name.clone();
    if site.open_namespace()?.is_none() {
        let cause = "its name no longer refers to the namespace that was built";
        return Err(Error::new(format!("change namespace {name}"), cause)
            .hint(repair::again(&name, &wanted.request)));
    }
    let was_leaky = is_leaky(site.plan());
    let (lines, logged) = (change.lines(start, "changed"), change.lines("", "changed"));
    apply(site, change.plan)
        .inspect_err(|error| log::refused(|| format!("change of {name}: {error}")))?;
    log::notice(|| format!("{name}: {}", logged.trim_end().replace('\n', "; ")));
    if is_leaky(site.plan()) && !was_leaky {
        warn(LEAKY);
    }
    output::print(&lines)?;
    repair::run(site).map(|_| true)
}

/// Says what [`run`] would do; returns whether that is anything.
pub fn rehearse(wanted: &Wanted, record: &Record, start: &str) -> Result<bool> {
    let change = Change::of(wanted, record)?;
    if !change.is_needed(record) {
        return Ok(false);
    }
    change.check(record, &Netlink::here()?)?;
    daemon::rehearse(&change.plan)?;
    output::print(&change.lines(start, "would change"))?;
    if !record.earlier.is_empty() {
        output::print(&format!(
            "{start}would finish a change that was interrupted\n"
        ))?;
    }
    let table = firewall::planned(&change.plan)?;
    if !table.is_empty() && !load::is_loaded(&table)? {
        output::print(&format!("would load this nftables table:\n{table}"))?;
    }
    Ok(true)
}

/// Brings the namespace to `plan` or, if that fails, back to what it was.
fn apply(site: &mut Site, plan: Plan) -> Result<()> {
    let whole = site.record.earlier.first().unwrap_or(site.plan()).clone();
    let is_same = whole.request == plan.request;
    begin(site, plan)?;
    let Err(error) = finish(site) else {
        return Ok(());
    };
    // Only the contents of files have changed, and the old ones are gone.
    if is_same {
        return Err(unfinished(site, &error, None));
    }
    // Whoever interrupted it wants it to be as before.
    process::forget_interrupts();
    match begin(site, whole).and_then(|()| finish(site)) {
        Ok(()) => {
            let cause = format!("{error}; the change was undone");
            let hint = error.hint_text().map(str::to_string);
            let name = &site.plan().name;
            let failed = Error::new(format!("change namespace {name}"), cause);
            Err(hint.into_iter().fold(failed, Error::hint))
        }
        Err(second) => Err(unfinished(site, &error, Some(&second))),
    }
}

/// Puts `plan` in the place of the one that stands, which is kept until all of it is done.
fn begin(site: &mut Site, plan: Plan) -> Result<()> {
    let old = std::mem::replace(&mut site.record.plan, plan);
    if !site.record.earlier.contains(&old) {
        site.record.earlier.push(old);
    }
    let plan = site.plan();
    let is_exchanged = (0..plan.request.daemons()).any(|index| !daemon::is_started(plan, index))
        || (0..plan.request.wireguard.len()).any(|index| !wireguard::is_started(plan, index));
    site.record.closed = is_exchanged && !plan.request.kill_switch;
    site.save()
}

/// Does what is left to do of a change.
pub fn finish(site: &mut Site) -> Result<()> {
    site.lock.save_hosts(site.plan())?;
    walk::change(site)?;
    site.record.earlier.clear();
    site.save()
}

/// The error of a change that ended half-way.
fn unfinished(site: &Site, error: &Error, second: Option<&Error>) -> Error {
    let plan = site.plan();
    let back = second.map_or(String::new(), |second| {
        format!("; undoing it failed as well: {second}")
    });
    let left = if site.record.closed || plan.request.kill_switch {
        "until it is finished, nothing leaves outside its tunnels"
    } else {
        "it is incomplete"
    };
    Error::new(
        format!("change namespace {}", plan.name),
        format!("{error}{back}; {left}"),
    )
    .hint(repair::change(plan))
}
