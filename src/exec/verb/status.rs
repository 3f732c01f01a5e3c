//! `runns-exec status [NAME|SECTION]...`. The program for root prints it, for everybody: it knows the parts
//! of a namespace and speaks netlink. For a member of the group, who may not enter a namespace
//! without this program's capabilities, this program looks inside first and hands over what it saw.

use std::convert::Infallible;
use std::ffi::{CStr, OsString};

use crate::{policy, root_program};
use runns_privileged::Privilege;
use runns_privileged::capability::caller_is_root;
use runns_privileged::netns::{self, Arrival};
use runns_shared::error::Result;
use runns_shared::inside::Inside;
use runns_shared::name::NetnsName;
use runns_shared::output::step;
use runns_shared::record::Record;

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Only these namespaces and sections; all if empty.
    pub words: Vec<OsString>,
    /// As JSON.
    pub json: bool,
}

/// Executes the program for root, which prints the state of what was built.
pub fn run(options: &Options, arguments: &[&CStr], environment: &[&CStr]) -> Result<Infallible> {
    const VERB: &str = "show the state of namespaces";
    if caller_is_root() {
        return root_program::execute(VERB, arguments, environment);
    }
    root_program::execute_with(VERB, look(options).as_bytes(), arguments, environment)
}

/// Looks into the namespaces that the caller may enter. What is in the texts is in the caller's
/// hands as soon as this program has executed the other one. Namespaces that are left out are
/// reported as not seen.
fn look(options: &Options) -> String {
    let mut names = Record::names().unwrap_or_default();
    let is_name = |word: &OsString| names.iter().any(|name| name.as_str() == word);
    // A section may stand for any of them.
    if !options.words.is_empty() && options.words.iter().all(is_name) {
        names.retain(|name| options.words.iter().any(|word| word == name.as_str()));
    }
    let privilege = match Privilege::take() {
        Ok(privilege) => privilege,
        Err(error) => {
            step(|| error.to_string());
            return String::new();
        }
    };
    let look = |name: &NetnsName| {
        look_into(&privilege, name).inspect_err(|error| step(|| error.to_string()))
    };
    names
        .iter()
        .filter_map(|name| look(name).ok())
        .map(|inside| inside.to_text())
        .collect()
}

/// Looks into one. If it is another one than the record says, this is all that is told of it.
fn look_into(privilege: &Privilege, name: &NetnsName) -> Result<Inside> {
    let mut decision = policy::decide(name)?;
    let netns = decision.open()?;
    let mut refused = None;
    let admit = |arrival: &Arrival| {
        decision
            .admit(arrival)
            .inspect_err(|_| refused = Some(arrival.cookie))
    };
    match (
        netns::visit(privilege, &netns, admit, || netns::look_here(name)),
        refused,
    ) {
        (Err(_), Some(cookie)) => Ok(Inside::closed(name, cookie)),
        (inside, _) => inside,
    }
}
