//! The report of `runns-exec status`. Everything in it may be known to every member of the group:
//! no keys, no names of users at the other end.

use std::os::fd::AsFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::difference::{self, Difference, SECTION};
use crate::facts::ipv6::Pair;
use crate::facts::{exceptions, resolver, uplinks};
use crate::finding::{About, Finding};
use crate::kernel::netlink::{AddressFamily, Netlink, in_namespace};
use crate::kernel::text_table::{Heading, terminal_width, whole_columns};
use crate::kernel::zone::Zone;
use crate::part::wireguard;
use crate::seen::{Seen, Subject};
use crate::tunnel::{self, Condition};
use crate::{probe, repair, walk};
use runns_shared::error::{Error, Result};
use runns_shared::escape::{one_line, show};
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::plan::Plan;
use runns_shared::proc::{Network, Proc};
use runns_shared::record::{Record, State};

/// How a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it was built.
    Ok,
    /// Not as it was built.
    Degraded,
    /// Nothing gets through, or nobody can enter.
    Down,
    /// There is only a section that describes it.
    #[serde(rename = "not built")]
    NotBuilt,
}

/// One namespace.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    namespace: String,
    /// How it is.
    pub state: Health,
    /// Its address on the veth, if it has one.
    address: Option<String>,
    uplink: Option<String>,
    kill_switch: bool,
    resolver: Option<Resolver>,
    tunnels: Vec<Tunnel>,
    /// `None` if they cannot be counted.
    processes: Option<usize>,
    /// The exceptions to the tunnel that were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<String>,
    problems: Vec<Problem>,
    /// Where its section says something else by now. It is as it was built nevertheless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    differences: Vec<Difference>,
    /// The command that applies them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    apply: Option<String>,
    /// What only root can look at.
    unseen: Vec<String>,
    /// Whether there is no record that could be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unknown: bool,
}

impl Status {
    /// Members of the group cannot enter: there is an error in the configuration.
    fn close(&mut self, error: &Error) {
        if self.state != Health::NotBuilt {
            self.state = Health::Down;
        }
        self.problems.push(Problem {
            what: format!("configuration: {error} (only root can enter namespaces)"),
            cure: "correct it; all errors are shown by: sudo runns-exec config".to_string(),
        });
    }
}

/// Something that is not as it was built.
#[derive(Debug, Serialize, Deserialize)]
struct Problem {
    what: String,
    cure: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Resolver {
    from: String,
    servers: Vec<String>,
    locked: bool,
}

/// One tunnel.
#[derive(Debug, Serialize, Deserialize)]
struct Tunnel {
    config: String,
    device: String,
    up: bool,
    /// RFC 3339; since when it is up or down.
    since: Option<String>,
    /// What is wrong with it.
    reason: Option<String>,
    received: Option<u64>,
    sent: Option<u64>,
    /// RFC 3339; WireGuard only, and known to root only.
    handshake: Option<String>,
    /// Bytes received and sent per second since an earlier look.
    #[serde(skip)]
    rate: Option<(u64, u64)>,
}

/// A namespace with its record, as far as that can be read; `None` if it was not built.
pub type Named = (NetnsName, Result<Option<Record>>);

fn record((_, record): &Named) -> Option<&Record> {
    record.as_ref().ok()?.as_ref()
}

/// How each namespace is.
pub fn look<'a>(named: &'a [Named], seen: &'a Seen) -> Vec<Status> {
    let (counts, zone) = (count(named, seen), Zone::of_user());
    let examine = |named: &'a Named| {
        let subject = Subject::new(record(named)?, seen);
        let found = repair::look(&subject);
        Some(Examined { subject, found })
    };
    let mut examined: Vec<Option<Examined>> = named.iter().map(examine).collect();
    examined.iter_mut().flatten().for_each(look_around);
    ask_servers(examined.iter_mut().flatten().collect());
    try_firewall(examined.iter_mut().flatten().collect());
    examined.iter_mut().flatten().for_each(look_again);
    let status = |(((name, record), examined), count): (
        (&Named, Option<Examined>),
        Option<usize>,
    )| match (examined, record) {
        (Some(examined), _) => status(examined, count, &zone),
        (None, Err(error)) => unreadable(name, error),
        (None, Ok(_)) => Status {
            kill_switch: has_kill_switch(name, seen),
            ..not_built(name)
        },
    };
    let statuses = named.iter().zip(examined).zip(counts).map(status);
    let mut statuses: Vec<Status> = statuses.collect();
    if let (_, Some(error)) = seen.configuration() {
        statuses.iter_mut().for_each(|status| status.close(error));
    }
    statuses
}

/// A namespace, and what is wrong with it.
struct Examined<'a> {
    subject: Subject<'a>,
    found: Vec<Finding>,
}

fn has_way(subject: &Subject) -> bool {
    let uplink = subject.record.plan.request.uplink.as_ref();
    subject
        .seen
        .routes()
        .and_then(|routes| uplinks::has_way(uplink, routes))
        .unwrap_or(false)
}

/// Adds what is wrong with the host itself, which no build repairs: nobody can ask for names, or
/// the host has no way out.
fn look_around(namespace: &mut Examined) {
    let subject = &namespace.subject;
    let plan = &subject.record.plan;
    if let Some(how) = resolver::unreachable(plan).filter(|_| !asks_itself(subject)) {
        let cure = format!("{}, then: {}", resolver::cure(plan), repair::change(plan));
        namespace
            .found
            .push(Finding::down("the resolver", how).cure(cure));
    }
    let request = &plan.request;
    if request.kill_switch || request.uplink.is_some() || has_way(subject) {
        return;
    }
    let has_ipv6 = |host: &Netlink| {
        let routes = host.routes_of(AddressFamily::Inet6)?;
        Ok(routes.iter().any(uplinks::leads_out))
    };
    let has_ipv6 = subject.seen.netlink().and_then(has_ipv6).unwrap_or(false);
    let leaves = Pair::of(plan).is_ok_and(|pair| pair.is_some_and(|pair| pair.leaves));
    let cure = match (has_ipv6, leaves) {
        (true, true) => return,
        (true, false) => {
            "it has an IPv6 default route: set IPv6=yes in the section of a namespace without a tunnel"
        }
        (false, _) => "connect the host",
    };
    let how = "it has no IPv4 default route";
    namespace
        .found
        .push(Finding::degraded("the host", how).cure(cure));
}

/// Whether a resolver listens inside. Only root can find out.
fn asks_itself(subject: &Subject) -> bool {
    /// `0.0.0.0:53` or `127.0.0.1:53`, `:::53` or `::1:53`, and the state of a socket that is bound
    /// (proc(5), /proc/net/udp).
    fn listens(text: &str) -> bool {
        let is_bound = |line: &str| {
            let local = line.split_whitespace().nth(1)?;
            Some(local.ends_with(":0035"))
        };
        text.lines().filter_map(is_bound).any(|is_it| is_it)
    }
    let Ok(Some(deep)) = subject.deep() else {
        return false;
    };
    let read = || {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        Ok(["udp", "udp6"].map(|file| read(file).unwrap_or_default()))
    };
    in_namespace(deep.file.as_fd(), read).is_ok_and(|texts| texts.iter().any(|text| listens(text)))
}

/// Asks the servers of WireGuard tunnels that are idle, and adds a finding for each that does not
/// answer.
fn ask_servers(mut examined: Vec<&mut Examined>) {
    let namespaces: Vec<(&Subject, &[Finding])> = examined
        .iter()
        .map(|namespace| (&namespace.subject, &*namespace.found))
        .collect();
    for (at, finding) in wireguard::examine_servers(&namespaces) {
        examined[at].found.push(finding);
    }
}

/// Looks whether it is still the namespace that was examined, which took its time.
fn look_again(namespace: &mut Examined) {
    let record = namespace.subject.record;
    let is_same = |now: Record| now.state == State::Built && now.identity == record.identity;
    let now = Record::load(&record.plan.name);
    if record.state == State::Built && !now.is_ok_and(|now| now.is_some_and(is_same)) {
        let how = "it was removed or built anew meanwhile";
        let cure = format!("sudo runns-exec status {}", record.plan.name);
        namespace.found = vec![Finding::down("examination", how).cure(cure)];
    }
}

/// Sends a packet from every namespace that should be able to send one, and adds a finding for each
/// from which it does not get through the host's firewall. Only root can do so. While the rule is
/// missing that keeps such packets on the host, none is sent.
fn try_firewall(examined: Vec<&mut Examined>) {
    let is_tried = |namespace: &&mut Examined| {
        let subject = &namespace.subject;
        let is_hindered = namespace.found.iter().any(|finding| match finding.about {
            About::Firewall => true,
            // Without the kill switch, packets leave through the host.
            About::Tunnel(_) => false,
            About::Other => finding.fatal,
        });
        let has_veth = subject.seen.root && !subject.record.plan.request.kill_switch;
        has_veth && !is_hindered && has_way(subject)
    };
    let tried: Vec<&mut Examined> = examined.into_iter().filter(is_tried).collect();
    if tried.is_empty() {
        return;
    }
    let subjects: Vec<&Subject> = tried.iter().map(|namespace| &namespace.subject).collect();
    let passed = probe::pass(&subjects);
    let failed = |error: &Error| Finding::degraded("examination", error.to_string());
    for (at, namespace) in tried.into_iter().enumerate() {
        match &passed {
            Ok(passed) if passed[at] == Some(false) => namespace.found.push(Finding::down(
                "the host's firewall",
                "lets nothing through (build names the rule, if it can find it)",
            )),
            Ok(_) => {}
            Err(error) => namespace.found.push(failed(error)),
        }
    }
}

fn unreadable(name: &NetnsName, cause: &Error) -> Status {
    Status {
        state: Health::Down,
        problems: vec![Problem {
            what: format!("record: {cause}"),
            cure: format!("sudo runns-exec clean {name}, then build it again"),
        }],
        ..not_built(name)
    }
}

fn not_built(name: &NetnsName) -> Status {
    Status {
        namespace: name.to_string(),
        state: Health::NotBuilt,
        address: None,
        uplink: None,
        kill_switch: false,
        resolver: None,
        tunnels: Vec::new(),
        processes: None,
        open: None,
        problems: Vec::new(),
        differences: Vec::new(),
        apply: None,
        unseen: Vec::new(),
        unknown: true,
    }
}

/// Whether the section of this namespace asks for it.
fn has_kill_switch(name: &NetnsName, seen: &Seen) -> bool {
    let mut sections = seen.configuration().0.sections.iter();
    sections.any(|section| section.netns == *name && section.request.kill_switch)
}

/// How many processes are in each namespace, its own daemons not counted.
fn count(named: &[Named], seen: &Seen) -> Vec<Option<usize>> {
    let records: Vec<Option<&Record>> = named.iter().map(record).collect();
    let mut counts: Vec<Option<usize>> = records
        .iter()
        .map(|record| {
            record
                .filter(|_| seen.sees_processes())?
                .identity
                .map(|_| 0)
        })
        .collect();
    let Ok(proc) = Proc::open() else {
        return vec![None; named.len()];
    };
    for pid in proc.pids().unwrap_or_default() {
        let Some(network) = proc.network(pid) else {
            continue;
        };
        let is_inside = |record: &&Record| {
            record.identity.is_some_and(|identity| match network {
                Network::Inode(inode) => inode == identity.inode,
                Network::ProcInode(inode) => inode == identity.proc_inode,
            }) && !record
                .daemons
                .iter()
                .chain(&record.keepers)
                .any(|daemon| daemon.pid == pid)
        };
        let place = records
            .iter()
            .position(|record| record.as_ref().is_some_and(is_inside));
        if let Some(count) = place.and_then(|place| counts[place].as_mut()) {
            *count += 1;
        }
    }
    counts
}

fn status(examined: Examined, processes: Option<usize>, zone: &Zone) -> Status {
    let Examined { subject, found } = examined;
    let subject = &subject;
    let (plan, seen) = (&subject.record.plan, subject.seen);
    let request = &plan.request;
    let state = found.iter().map(|finding| {
        if finding.fatal {
            Health::Down
        } else {
            Health::Degraded
        }
    });
    let indices = 0..request.tunnels().count();
    let tunnels = indices.map(|index| tunnel(subject, &found, index, zone));
    let tunnels = tunnels.collect();
    let differences = differences(subject);
    Status {
        namespace: plan.name.to_string(),
        state: state.max().unwrap_or(Health::Ok),
        address: request
            .has_veth()
            .then(|| format!("{}/{}", plan.subnet().inside(), plan.subnet().prefix())),
        uplink: request.uplink.as_ref().map(ToString::to_string),
        kill_switch: request.kill_switch,
        resolver: resolver::current(plan).map(|resolver| Resolver {
            from: resolver.from.clone(),
            servers: resolver.servers.iter().map(ToString::to_string).collect(),
            locked: resolver.lock,
        }),
        tunnels,
        processes,
        open: exceptions::opened(plan),
        problems: problems(found, plan, seen),
        apply: (!differences.is_empty()).then(|| apply(plan, &differences)),
        differences,
        unseen: unseen(subject).into_iter().map(str::to_string).collect(),
        unknown: false,
    }
}

fn problems(found: Vec<Finding>, plan: &Plan, seen: &Seen) -> Vec<Problem> {
    let again = || repair::command(plan, seen.config());
    let problem = |finding: Finding| Problem {
        what: one_line(&finding.to_string()),
        cure: one_line(&finding.cure.clone().unwrap_or_else(again)),
    };
    found.into_iter().map(problem).collect()
}

/// The command that brings the namespace to its section.
fn apply(plan: &Plan, differences: &[Difference]) -> String {
    let request = &plan.request;
    if differences.iter().any(|one| one.option == SECTION) {
        return format!("sudo runns-exec clean {}", plan.name);
    }
    let is_fixed = |one: &Difference| one.is_fixed(request.has_veth());
    match differences.iter().any(is_fixed) {
        true => repair::again(&plan.name, request),
        false => repair::change(plan),
    }
}

/// Where the section and what was built differ. What files contain is compared for root alone.
fn differences(subject: &Subject) -> Vec<Difference> {
    let (record, seen) = (subject.record, subject.seen);
    let is_whole = record.state == State::Built
        && record.earlier.is_empty()
        && record.plan.request.section.is_some();
    let Some(config) = seen.config().filter(|_| is_whole) else {
        return Vec::new();
    };
    let mut differences = difference::from_section(record, config);
    if seen.root {
        differences.extend(difference::contents(&record.plan));
    }
    differences
}

fn unseen(subject: &Subject) -> Vec<&'static str> {
    if subject.seen.root {
        return Vec::new();
    }
    let plan = &subject.record.plan;
    let parts = walk::all().into_iter().filter(|part| part.is_in(plan));
    let mut unseen: Vec<&str> = parts.filter_map(|part| part.unseen(plan)).collect();
    if subject.inside.is_none() && !subject.replaced {
        unseen.push("the inside of the namespace");
    }
    if !subject.seen.sees_processes() {
        unseen.push("processes of other users");
    }
    unseen
}

fn tunnel(subject: &Subject, found: &[Finding], index: usize, zone: &Zone) -> Tunnel {
    let Condition {
        config,
        state,
        counters,
        reason,
        is_down,
    } = tunnel::condition(subject, index);
    let is_its = |finding: &&Finding| finding.fatal && finding.about == About::Tunnel(index);
    let fault = found.iter().find(is_its);
    let time = |seconds: i64| (seconds > 0).then(|| zone.rfc3339(seconds));
    let wireguard = index.checked_sub(subject.record.plan.request.daemons());
    Tunnel {
        config: show(config),
        device: state.device,
        up: !is_down && fault.is_none(),
        since: time(state.since),
        reason: reason.or_else(|| fault.map(|finding| finding.how.clone())),
        received: counters.map(|(received, _)| received),
        sent: counters.map(|(_, sent)| sent),
        handshake: wireguard
            .and_then(|index| wireguard::last_handshake(subject.record, index))
            .and_then(time),
        rate: None,
    }
}

/// Sets what went through each tunnel per second since the `earlier` look, so long ago.
pub fn set_rates(statuses: &mut [Status], earlier: &[Status], ago: Duration) {
    let per_second = |now: Option<u64>, then: Option<u64>| {
        // A device that was replaced counts from zero.
        let bytes = now?.checked_sub(then?)?;
        Some((bytes as f64 / ago.as_secs_f64()).round() as u64)
    };
    for status in statuses {
        let before = earlier
            .iter()
            .find(|before| before.namespace == status.namespace);
        let Some(before) = before else { continue };
        for tunnel in &mut status.tunnels {
            let mut tunnels = before.tunnels.iter();
            let before = tunnels.find(|before| before.config == tunnel.config);
            tunnel.rate = before.and_then(|before| {
                let received = per_second(tunnel.received, before.received)?;
                Some((received, per_second(tunnel.sent, before.sent)?))
            });
        }
    }
}

/// A rate in three digits at most, with a unit: `1.5 kB`.
fn amount(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB"].into_iter();
    let scaled = units.scan(bytes as f64, |value, unit| {
        let current = *value;
        *value /= 1000.0;
        Some((current, unit))
    });
    let mut fitting = scaled.filter(|(value, unit)| *value < 999.5 || *unit == "GB");
    match fitting.next() {
        Some((value, unit)) if unit != "B" && value < 9.95 => format!("{value:.1} {unit}"),
        Some((value, unit)) => format!("{value:.0} {unit}"),
        None => NOTHING.to_string(),
    }
}

/// A column of the table.
struct Column {
    heading: Heading,
    cell: fn(&Status) -> String,
    /// Only in a table that is drawn again and again.
    is_live: bool,
}

const fn column(heading: &'static str, cell: fn(&Status) -> String) -> Column {
    Column {
        heading: Heading(heading, false),
        cell,
        is_live: false,
    }
}

const fn live(heading: &'static str, cell: fn(&Status) -> String) -> Column {
    Column {
        heading: Heading(heading, true),
        cell,
        is_live: true,
    }
}

/// For each tunnel, one of its rates.
fn rates(status: &Status, choose: fn((u64, u64)) -> u64) -> String {
    let rate = |tunnel: &Tunnel| {
        let rate = tunnel.rate.map(|rate| amount(choose(rate)));
        rate.unwrap_or(NOTHING.to_string())
    };
    let rates: Vec<String> = status.tunnels.iter().map(rate).collect();
    if rates.is_empty() {
        NOTHING.to_string()
    } else {
        rates.join(", ")
    }
}

/// Where there is nothing to say.
const NOTHING: &str = "-";

/// The columns that a narrow terminal shows, too: up to TUNNEL.
const ALWAYS_SHOWN: usize = 3;

const COLUMNS: [Column; 9] = [
    column("NAMESPACE", |status| status.namespace.clone()),
    column("STATE", |status| word(status.state).to_string()),
    column("TUNNEL", |status| {
        let word = |tunnel: &Tunnel| {
            let file = tunnel.config.rsplit('/').next().unwrap_or_default();
            format!("{file} {}", if tunnel.up { "up" } else { "down" })
        };
        let tunnels: Vec<String> = status.tunnels.iter().map(word).collect();
        if tunnels.is_empty() {
            NOTHING.to_string()
        } else {
            tunnels.join(", ")
        }
    }),
    live("RX/s", |status| rates(status, |(received, _)| received)),
    live("TX/s", |status| rates(status, |(_, sent)| sent)),
    column("DNS", |status| match &status.resolver {
        _ if status.unknown => NOTHING.to_string(),
        Some(resolver) if resolver.locked => format!("{} (locked)", resolver.servers.join(" ")),
        Some(resolver) => resolver.servers.join(" "),
        None => "the host's".to_string(),
    }),
    column("ADDRESS", |status| {
        status.address.clone().unwrap_or(NOTHING.to_string())
    }),
    column("UPLINK", |status| match &status.uplink {
        _ if status.unknown => NOTHING.to_string(),
        _ if status.kill_switch => "the tunnel only".to_string(),
        Some(uplink) => format!("{uplink} only"),
        None => "any".to_string(),
    }),
    column("PROCESSES", |status| {
        status
            .processes
            .map_or(NOTHING.to_string(), |count| count.to_string())
    }),
];

fn word(state: Health) -> &'static str {
    match state {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Down => "down",
        Health::NotBuilt => "not built",
    }
}

/// The table; below each namespace a line for each thing that is wrong; at the end what was not
/// looked at. One that `is_live` has the rates of tunnels, too.
pub fn table(statuses: &[Status], is_live: bool) -> String {
    let columns = COLUMNS.iter().filter(|column| is_live || !column.is_live);
    let headings: Vec<Heading> = columns.clone().map(|column| column.heading).collect();
    let cells = |status: &Status| {
        let columns = columns.clone();
        columns
            .map(|column| one_line(&(column.cell)(status)))
            .collect()
    };
    let rows: Vec<Vec<String>> = statuses.iter().map(cells).collect();
    let coloured = output::is_coloured();
    let table = whole_columns(&headings, &rows, terminal_width(), ALWAYS_SHOWN);
    let mut table = table.into_iter();
    let mut text = table.next().unwrap_or_default() + "\n";
    for (line, status) in table.zip(statuses) {
        let line = if coloured {
            in_colour(&line, status.state)
        } else {
            line
        };
        text.push_str(&format!("{line}\n"));
        if let Some(open) = &status.open {
            text.push_str(&format!("  {}\n", one_line(open)));
        }
        for problem in &status.problems {
            text.push_str(&format!("  {}; fix: {}\n", problem.what, problem.cure));
        }
        for difference in &status.differences {
            if difference.option == SECTION {
                text.push_str(&format!(
                    "  its section [{}] is no longer in the configuration; remove the namespace: {}\n",
                    one_line(&difference.built),
                    one_line(status.apply.as_deref().unwrap_or_default())
                ));
                continue;
            }
            text.push_str(&format!(
                "  differs from its section: {}; apply it: {}\n",
                one_line(&difference.to_string()),
                one_line(status.apply.as_deref().unwrap_or_default())
            ));
        }
    }
    let mut unseen: Vec<&str> = Vec::new();
    for what in statuses.iter().flat_map(|status| &status.unseen) {
        if !unseen.contains(&what.as_str()) {
            unseen.push(what);
        }
    }
    if !unseen.is_empty() {
        text.push_str(&format!(
            "not checked (needs root): {}; run sudo runns-exec status\n",
            unseen.join(", ")
        ));
    }
    text
}

/// The line with the word for the state, the first after the name, in green, yellow or red.
fn in_colour(line: &str, state: Health) -> String {
    let colour = match state {
        Health::Ok => 32,
        Health::Degraded => 33,
        Health::Down => 31,
        Health::NotBuilt => return line.to_string(),
    };
    let Some((name, rest)) = line.split_once("  ") else {
        return line.to_string();
    };
    let word = word(state);
    format!(
        "{name}  {}",
        rest.replacen(word, &format!("\x1b[{colour}m{word}\x1b[0m"), 1)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_state_is_coloured() {
        assert_eq!(
            in_colour("down  down      x", Health::Down),
            "down  \x1b[31mdown\x1b[0m      x"
        );
        assert_eq!(
            in_colour("a     ok  x ok", Health::Ok),
            "a      \x1b[32mok\x1b[0m  x ok".replacen("      ", "     ", 1)
        );
        assert_eq!(in_colour("cut", Health::Ok), "cut");
    }

    #[test]
    fn rates_have_three_digits() {
        let rates = [
            0,
            999,
            1000,
            9_949,
            9_950,
            999_499,
            999_500,
            5_000_000_000_000,
        ];
        let shown = [
            "0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "5000 GB",
        ];
        assert_eq!(rates.map(amount), shown);
    }

    /// As one `status --json` prints it, and a `status --watch` that called it reads it.
    #[test]
    fn what_is_printed_as_json_is_shown_alike() {
        let record = Error::new("read the record", "it is empty");
        let name = NetnsName::new("work").unwrap();
        let statuses = [unreadable(&name, &record), not_built(&name)];
        let text = serde_json::to_string(&statuses).unwrap();
        let read: Vec<Status> = serde_json::from_str(&text).unwrap();
        assert_eq!(table(&read, true), table(&statuses, true));
    }

    #[test]
    fn the_worst_finding_decides() {
        assert!(Health::Ok < Health::Degraded && Health::Degraded < Health::Down);
    }
}
