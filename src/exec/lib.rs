//! The program with capabilities. This file is the map: command line -> subcommand -> exit status.
//!
//! | module | what it does | capabilities |
//! |---|---|---|
//! | [`cli`], [`commands`] | the command line | permitted, none raised |
//! | [`policy`] | who may enter what | permitted, none raised |
//! | [`verb`] | enter, list, check, status | raised only inside `runns_privileged` |
//! | [`launch`] | becoming the command | gone |
//! | [`root_program`] | `build`, `clean`, ..., and what prints `list` and `status`: executes the program for root | gone |
//!
//! Only the crate `runns_privileged` can raise a capability. `runns_shared` is what both programs
//! have in common.

#![forbid(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod launch;
pub mod policy;
pub mod root_program;
pub mod verb;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use cli::Request;
use runns_shared::error::{Context, Result};
use runns_shared::output;
use runns_sys::process::{self, Invocation};

/// Runs the program, and returns its exit status.
pub fn run(invocation: Invocation) -> i32 {
    let words: Vec<OsString> = invocation
        .arguments
        .iter()
        .map(|word| OsString::from_vec(word.to_bytes().to_vec()))
        .collect();
    let failed = cli::failure_status(&words);
    output::die_on_panic(failed);
    match dispatch(words, &invocation) {
        Ok(()) => 0,
        Err(error) => {
            output::complain_error(&error);
            error.status().unwrap_or(failed).into()
        }
    }
}

fn dispatch(words: Vec<OsString>, invocation: &Invocation) -> Result<()> {
    // First of all: from now on no other process of the same user can trace or read this one
    // (ptrace(2)).
    process::make_undumpable().cannot(|| "make the process non-dumpable")?;
    process::open_standard_descriptors()
        .cannot(|| "open /dev/null in place of a closed descriptor")?;
    let parsed = cli::parse(words)?;
    if parsed.verbose {
        output::be_verbose();
    }
    let Invocation {
        arguments,
        environment,
    } = invocation;
    match parsed.request {
        Request::Enter(options) => {
            verb::enter::run(options, environment).map(|never| match never {})
        }
        Request::Check(options) => verb::check::run(&options),
        Request::List(options) => verb::list::run(&options, arguments, environment),
        Request::Status(options) => {
            verb::status::run(&options, arguments, environment).map(|never| match never {})
        }
        Request::OfRoot => root_program::execute("run this subcommand", arguments, environment)
            .map(|never| match never {}),
        Request::Print(text) => output::print(&text),
    }
}
