//! `runns-exec status [NAME|SECTION]...`: compares what was built with what is there.

use std::collections::HashSet;
use std::ffi::OsString;

use super::{watch, word};
use crate::report::{self, Health, Named};
use crate::seen::Seen;
use runns_shared::config::Config;
use runns_shared::error::{Error, Result, status};
use runns_shared::handed_over;
use runns_shared::inside::Inside;
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::record::Record;

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Only these namespaces and sections; all if empty.
    pub words: Vec<OsString>,
    /// As JSON.
    pub json: bool,
    /// Again and again.
    pub watch: bool,
}

/// Prints the state of what was built, with what runns-exec saw inside if it was called by a member
/// of the group; returns whether all is ok.
pub fn run(options: &Options, handed_over: Option<Vec<u8>>) -> Result<bool> {
    let handed_over = String::from_utf8(handed_over.unwrap_or_default())
        .ok()
        .and_then(|text| Inside::from_text(&text))
        .ok_or_else(|| handed_over::wrong("it is something else"))?;
    if options.watch {
        return watch::run(&options.words);
    }
    let seen = Seen::new(handed_over);
    let (config, wrong) = seen.configuration();
    let statuses = report::look(&named(options, config, wrong)?, &seen);
    // No row tells it.
    if let Some(error) = wrong.filter(|_| statuses.is_empty()) {
        return Err(error.clone());
    }
    if options.json {
        output::print_json(&statuses)?
    } else {
        output::print(&report::table(&statuses, false))?
    }
    // A section that nobody asked for need not be built.
    let is_fine = |state: Health| match state {
        Health::Ok => true,
        Health::NotBuilt => options.words.is_empty() && wrong.is_none(),
        Health::Degraded | Health::Down => false,
    };
    Ok(statuses.iter().all(|status| is_fine(status.state)))
}

/// The namespaces that the command line asks for, with their records.
fn named(options: &Options, config: &Config, wrong: Option<&Error>) -> Result<Vec<Named>> {
    let mut all = all(config)?;
    if options.words.is_empty() {
        return Ok(all);
    }
    let mut meant = HashSet::new();
    for word in &options.words {
        let text = word.to_string_lossy();
        let section = word::section(&text, config);
        let is_meant = |(name, record): &&Named| {
            name.as_str() == text
                || section.is_some_and(|section| section.netns == *name)
                || built_from(record).is_some_and(|section| section.eq_ignore_ascii_case(&text))
        };
        let names: Vec<NetnsName> = all
            .iter()
            .filter(is_meant)
            .map(|(name, _)| name.clone())
            .collect();
        if names.is_empty() {
            let near = word::near(&text, config);
            // It may be a section that cannot be read.
            if let Some(error) = wrong {
                return Err(error.clone());
            }
            if near.is_none() {
                NetnsName::new(word).map_err(|error| error.with_status(status::USAGE))?;
            }
            return Err(word::unknown("show", &text, near.as_deref()));
        }
        meant.extend(names);
    }
    all.retain(|(name, _)| meant.contains(name));
    Ok(all)
}

/// All namespaces that were built, and those of the sections that are not, by their names.
fn all(config: &Config) -> Result<Vec<Named>> {
    let load = |name: NetnsName| {
        let record = Record::load(&name);
        (name, record)
    };
    // A record may be removed after its name was listed.
    let mut all: Vec<Named> = Record::names()?
        .into_iter()
        .map(load)
        .filter(|(_, record)| !matches!(record, Ok(None)))
        .collect();
    let mut known: HashSet<NetnsName> = all.iter().map(|(name, _)| name.clone()).collect();
    let built: HashSet<String> = all
        .iter()
        .filter_map(|(_, record)| built_from(record))
        .map(str::to_ascii_lowercase)
        .collect();
    for section in &config.sections {
        if !built.contains(&section.name.to_ascii_lowercase())
            && known.insert(section.netns.clone())
        {
            all.push((section.netns.clone(), Ok(None)));
        }
    }
    all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(all)
}

/// The section that a namespace was built from.
fn built_from(record: &Result<Option<Record>>) -> Option<&str> {
    let plan = &record.as_ref().ok()?.as_ref()?.plan;
    plan.request.section.as_deref()
}
