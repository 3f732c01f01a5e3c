//! runns-exec runs programs in network namespaces, as the user who asks. This file is the map:
//!
//! command line ([`cli`]) -> one of six verbs ([`command`]) -> exit status.
//!
//! | module | what it knows |
//! |---|---|
//! | [`name`], [`config`], [`plan`], [`record`] | what a namespace shall consist of, as data |
//! | [`policy`], [`trusted`], [`account`] | who may enter, and which files are root's alone |
//! | [`privileged`] | capabilities, entering, mounts: the part to review first |
//! | [`launch`] | becoming the command, after privileges are gone |
//! | [`part`], [`host`], [`netlink`], [`tool`] | what a namespace consists of, made and unmade |
//! | [`tunnel`] | how VPN tunnels are, and what they are made from |
//! | [`proc`], [`daemon`] | other processes |
//! | [`sys`] | system calls; the only `unsafe` code |

#![deny(unsafe_code)]

#[forbid(unsafe_code)]
pub mod account;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod command;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod daemon;
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod host;
#[forbid(unsafe_code)]
pub mod launch;
#[forbid(unsafe_code)]
pub mod log;
#[forbid(unsafe_code)]
pub mod name;
#[forbid(unsafe_code)]
pub mod netlink;
#[forbid(unsafe_code)]
pub mod part;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
pub mod policy;
#[forbid(unsafe_code)]
pub mod privileged;
#[forbid(unsafe_code)]
pub mod proc;
#[forbid(unsafe_code)]
pub mod record;
#[allow(unsafe_code)]
pub mod sys;
#[forbid(unsafe_code)]
pub mod text;
#[forbid(unsafe_code)]
pub mod tool;
#[forbid(unsafe_code)]
pub mod trusted;
#[forbid(unsafe_code)]
pub mod tunnel;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use cli::Request;
use error::{Context, Result};
use sys::process::{self, Invocation};

#[global_allocator]
static ALLOCATOR: process::Allocator = process::Allocator;

/// The program: what it was started with to its exit status.
pub fn run(invocation: Invocation) -> i32 {
    std::panic::set_hook(Box::new(|panic| {
        process::die(&format!("runns-exec: cannot go on: defect: {}\n", text::one_line(&panic.to_string())))
    }));
    let words: Vec<OsString> =
        invocation.arguments.iter().map(|word| OsString::from_vec(word.to_bytes().to_vec())).collect();
    let failed = cli::failure_status(&words);
    process::set_fatal_status(failed);
    match dispatch(words, &invocation) {
        Ok(()) => 0,
        Err(error) => {
            text::complain_error(&error);
            error.status().unwrap_or(failed).into()
        }
    }
}

fn dispatch(words: Vec<OsString>, invocation: &Invocation) -> Result<()> {
    // Non-dumpable first of all: no other process of the same user can trace or read this one (ptrace(2)).
    process::make_undumpable()?;
    process::open_standard_descriptors().cannot(|| "open /dev/null in place of a closed descriptor")?;
    if let Some(command::hook::NAME) = words.get(1).and_then(|word| word.to_str()) {
        return command::hook::run(&words[2..], &invocation.environment);
    }
    let parsed = cli::parse(words)?;
    if parsed.verbose {
        text::be_verbose();
    }
    match parsed.request {
        Request::Enter(options) => command::enter::run(options, &invocation.environment).map(|never| match never {}),
        Request::Build(options) => command::build::run(options),
        Request::Check(options) => command::check::run(&options),
        Request::Clean(options) => command::clean::run(options),
        Request::List(options) => command::list::run(&options),
        Request::Status(options) => command::status::run(&options),
        Request::Print(text) => text::print(&text),
    }
}
