//! Examines the parts of a namespace in their order, and makes those as they were built that no
//! longer are.

use crate::finding::Finding;
use crate::part::{Part, Site};
use crate::probe;
use crate::seen::{Seen, Subject};
use crate::walk::all;
use runns_shared::config::Config;
use runns_shared::error::{Error, Result};
use runns_shared::escape::{one_line, quote, show};
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State};
use runns_shared::request::Request;

/// All that is not as it was built.
pub fn look(subject: &Subject) -> Vec<Finding> {
    let name = &subject.record.plan.name;
    let unfinished = |what: &str| {
        let cure = format!("wait for it; if it was interrupted: sudo runns-exec clean {name}");
        vec![Finding::down(what, "not finished").cure(cure)]
    };
    match subject.record.state {
        State::Building => unfinished("build"),
        State::Cleaning => unfinished("clean"),
        State::Built => half_changed(subject.record)
            .into_iter()
            .chain(all().into_iter().flat_map(|part| look_at(part, subject)))
            .collect(),
    }
}

/// A change that failed half-way, or that was killed.
fn half_changed(record: &Record) -> Option<Finding> {
    let finding = if record.closed {
        Finding::down
    } else {
        Finding::degraded
    };
    let cure = change(&record.plan);
    (!record.earlier.is_empty()).then(|| finding("change", "not finished").cure(cure))
}

fn look_at(part: &dyn Part, subject: &Subject) -> Vec<Finding> {
    let plan = &subject.record.plan;
    if !part.is_in(plan) {
        return Vec::new();
    }
    let found = part.look(subject).unwrap_or_else(|error| {
        let how = format!("cannot {}: {}", error.action(), error.cause());
        vec![
            Finding::degraded("examination", how)
                .cure(error.hint_text().unwrap_or("see the message").to_string()),
        ]
    });
    // The tunnel works without what is beside it.
    let is_fatal = !plan.request.kill_switch || !part.is_beside();
    found
        .into_iter()
        .map(|finding| Finding {
            fatal: finding.fatal && is_fatal,
            ..finding
        })
        .collect()
}

/// Looks anew at one part of the namespace.
fn look_again(part: &dyn Part, record: &Record) -> Vec<Finding> {
    let seen = Seen::new(Vec::new());
    look_at(part, &Subject::new(record, &seen))
}

/// Repairs what is broken, and nothing else. The parts that restrict traffic come first, and what
/// cannot be repaired ends it: nothing that carries traffic is restored without them. Says each thing
/// that it repaired; returns how many there were.
pub fn run(site: &mut Site) -> Result<usize> {
    let mut repaired = 0;
    for part in all() {
        let found = look_again(part, &site.record);
        if found.is_empty() {
            continue;
        }
        let what = found
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        if let Some(finding) = found.iter().find(|finding| finding.cure.is_some()) {
            return Err(unrepairable(finding));
        }
        output::step(|| format!("repairing {what}"));
        part.repair(site, &found)
            .map_err(|error| error.as_cause_of(format!("repair {what}")))?;
        let left = look_again(part, &site.record);
        if let Some(finding) = left.first() {
            return Err(unrepairable(finding));
        }
        repaired += found.len();
        output::print(
            &found
                .iter()
                .map(|finding| format!("repaired {}\n", one_line(&finding.to_string())))
                .collect::<String>(),
        )?;
    }
    if !site.plan().request.kill_switch {
        probe::run(site)?;
    }
    Ok(repaired)
}

fn unrepairable(finding: &Finding) -> Error {
    let error = Error::new(format!("repair {}", finding.what), &finding.how);
    finding
        .cure
        .iter()
        .fold(error, |error, cure| error.hint(cure))
}

/// The command that builds what a section and these options say.
pub fn section_command(section: &str, given: &[String]) -> String {
    let given = given.iter().map(|word| format!(" {}", quote(word)));
    format!(
        "sudo runns-exec build -s {}{}",
        quote(section),
        given.collect::<String>()
    )
}

/// The command that removes a namespace, and builds it again by what `request` says.
pub fn again(name: &NetnsName, request: &Request) -> String {
    let clean = format!("sudo runns-exec clean {name}");
    match &request.section {
        Some(section) => format!("{clean} && {}", section_command(section, &request.given)),
        None => format!("{clean}, then build it again"),
    }
}

/// The command that brings what is built to what its section and these options say.
pub fn change_command(section: &str, given: &[String]) -> String {
    format!("{} --change", section_command(section, given))
}

/// [`change_command`] for what was built by this plan.
pub fn change(plan: &Plan) -> String {
    let request = &plan.request;
    let section = request.section.as_deref();
    change_command(section.unwrap_or(plan.name.as_str()), &request.given)
}

/// The command that builds, or repairs, what was built by this plan.
pub fn command(plan: &Plan, config: Option<&Config>) -> String {
    let request = &plan.request;
    let mut words = vec!["sudo runns-exec build".to_string()];
    let section = request.section.as_ref().and_then(|section| {
        words.push(format!("-s {}", quote(section)));
        config?
            .sections
            .iter()
            .find(|known| known.name.eq_ignore_ascii_case(section))
    });
    let by_section = request.section.is_some();
    let mut add = |option: &str, value: Option<String>, default: Option<String>| {
        if let Some(value) = value.filter(|value| Some(value) != default.as_ref()) {
            words.push(format!("{option} {}", quote(&value)));
        }
    };
    let text = |value: &dyn ToString| value.to_string();
    let name = plan.name.to_string();
    let known = section
        .map(|section| section.netns.to_string())
        .or(by_section.then(|| name.clone()));
    add("-n", Some(name), known);
    let interface = plan.interface.to_string();
    let default = section.and_then(|section| section.interface_in.as_ref().map(|name| text(name)));
    let default = default.or_else(|| Some(plan.name.default_interface().to_string()));
    add("-i", Some(interface), default);
    if !by_section || section.is_some() {
        let uplink =
            section.and_then(|section| section.request.uplink.as_ref().map(|name| text(name)));
        add("-o", request.uplink.as_ref().map(|name| text(name)), uplink);
    }
    let of_section = section.map(|section| &section.request.exceptions.published);
    for port in &request.exceptions.published {
        if of_section.is_none_or(|ports| !ports.contains(port)) {
            add("--publish", Some(port.to_string()), None);
        }
    }
    if request.resolve_named {
        add("-r", request.resolve.as_ref().map(show), None);
    }
    words.join(" ")
}
