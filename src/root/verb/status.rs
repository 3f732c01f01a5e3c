//! `runns-exec status [NAME]...`: compares what was built with what is there.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;

use crate::report::{self, Health, Named};
use crate::seen::Seen;
use runns_shared::error::{Context, Error, Result, status};
use runns_shared::inside::{HANDED_OVER, Inside};
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::record::Record;
use runns_shared::suggest::nearest;
use runns_shared::trusted::MAX_TEXT;

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Only these namespaces; all if empty.
    pub names: Vec<OsString>,
    /// As JSON.
    pub json: bool,
}

/// Prints the state of what was built, with what runns-exec saw inside if it was called by a member
/// of the group; returns whether all is ok.
pub fn run(options: &Options, handed_over: Vec<Inside>) -> Result<bool> {
    let seen = Seen::new(handed_over);
    let statuses = report::look(&named(options)?, &seen);
    if options.json {
        output::print_json(&statuses)?
    } else {
        report::print(&statuses)?
    }
    Ok(statuses.iter().all(|status| status.state == Health::Ok))
}

/// The namespaces that the command line asks for, with their records.
fn named(options: &Options) -> Result<Vec<Named>> {
    // A record may be removed after its name was listed.
    let load = |name: NetnsName| match Record::load(&name) {
        Ok(record) => record.map(|record| (name, Ok(record))),
        Err(error) => Some((name, Err(error))),
    };
    if options.names.is_empty() {
        return Ok(Record::names()?.into_iter().filter_map(load).collect());
    }
    let name = |word| NetnsName::new(word).map_err(|error| error.with_status(status::USAGE));
    let mut names = options.names.iter().map(name).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| load(name.clone()).ok_or_else(|| unknown(&name)))
        .collect()
}

fn unknown(name: &NetnsName) -> Error {
    let error = Error::new(
        format!("show namespace {name}"),
        "runns-exec did not build it",
    );
    let names = Record::names().unwrap_or_default();
    match nearest(name.as_str(), names.iter().map(NetnsName::as_str)) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error,
    }
}

/// Takes what runns-exec saw inside the namespaces, and the words that say where it is, from the
/// command line. Nobody is shown more by it than they could see themselves: it is only believed.
pub fn take_handed_over(words: &mut Vec<OsString>) -> Result<Vec<Inside>> {
    if words.get(1).is_none_or(|word| word != HANDED_OVER) {
        return Ok(Vec::new());
    }
    let wrong =
        |cause: &str| Error::new("read what was seen inside", cause).with_status(status::USAGE);
    let descriptor = words
        .get(2)
        .and_then(|word| word.to_str())
        .and_then(|word| word.parse::<u32>().ok());
    let path = format!(
        "/proc/self/fd/{}",
        descriptor.ok_or_else(|| wrong("no descriptor is named"))?
    );
    let mut text = String::new();
    // Opened anew: read from its beginning.
    let file = File::open(&path).cannot(|| format!("open {path}"))?;
    file.take(MAX_TEXT * 64)
        .read_to_string(&mut text)
        .cannot(|| format!("read {path}"))?;
    words.drain(1..3);
    Inside::from_text(&text).ok_or_else(|| wrong("it is something else"))
}
