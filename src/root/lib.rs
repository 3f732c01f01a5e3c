//! The program for root, which builds and removes namespaces. It has no file capabilities, so it
//! can do only what its caller can; a caller other than root gets an error that says so.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`verb`] | build, clean, config, import, launcher, list, log and status |
//! | [`report`] | how namespaces are |
//! | [`walk`], [`repair`], [`salvage`] | the parts in their order; what can be told without a record |
//! | [`part`] | the parts of a namespace: one file creates and removes each part |
//! | [`tunnel`], [`probe`] | devices, files and keepers of tunnels; trying the host's firewall |
//! | [`mod@import`] | providers' files: read with their owner's rights, checked, kept |
//! | [`table`], [`seen`], [`finding`] | our nftables tables; what can be seen, and what is wrong |
//! | [`facts`] | what the host and the records say, gathered once |
//! | [`lock`], [`host`], [`namespace`], [`etc_netns`], [`confine`] | records, and what daemons may do |
//! | [`kernel`] | what the kernel and other programs offer |
//!
//! Each imports only from its own row and those below it, which `rooms.rs` tests.

#![forbid(unsafe_code)]

pub mod cli;
pub mod confine;
pub mod difference;
pub mod etc_netns;
pub mod facts;
pub mod finding;
pub mod host;
pub mod import;
pub mod kernel;
pub mod lock;
pub mod namespace;
pub mod part;
pub mod plans;
pub mod probe;
pub mod repair;
pub mod report;
pub mod salvage;
pub mod seen;
pub mod table;
pub mod tunnel;
pub mod verb;
pub mod walk;
pub mod wanted;

#[cfg(test)]
mod rooms;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use cli::Request;
use nix::sys::stat::SFlag;
use runns_shared::error::{Context, Result, status};
use runns_shared::handed_over;
use runns_shared::output;
use runns_shared::trusted;
use runns_sys::process::{self, Invocation};

/// Runs the program and returns its exit status.
pub fn run(invocation: Invocation) -> i32 {
    output::die_on_panic(status::FAILED);
    match dispatch(&invocation) {
        Ok(true) => 0,
        Ok(false) => status::FAILED.into(),
        Err(error) => {
            output::complain_error(&error);
            wait_for_journal();
            error.status().unwrap_or(status::FAILED).into()
        }
    }
}

/// systemd-journald finds out by the pid to which unit a message belongs. In a unit, standard error
/// is its socket; a process that ended at once would have its last words missing from `systemctl
/// status`.
fn wait_for_journal() {
    let is_socket = nix::sys::stat::fstat(std::io::stderr())
        .is_ok_and(|stat| trusted::kind(&stat) == SFlag::S_IFSOCK);
    if is_socket {
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
}

/// Whether all is well.
fn dispatch(invocation: &Invocation) -> Result<bool> {
    process::make_undumpable().cannot(|| "make the process non-dumpable")?;
    process::open_standard_descriptors()
        .cannot(|| "open /dev/null in place of a closed descriptor")?;
    // A daemon that got a descriptor of our caller's, such as one of a directory, could leave its
    // view of the file system.
    process::let_nothing_be_inherited()
        .cannot(|| "keep the caller's descriptors from other programs")?;
    let mut words: Vec<OsString> = invocation
        .arguments
        .iter()
        .map(|word| OsString::from_vec(word.to_bytes().to_vec()))
        .collect();
    if let Some(tunnel::keeper::NAME) = words.get(1).and_then(|word| word.to_str()) {
        return tunnel::keeper::run(&words[2..]).map(|()| true);
    }
    let handed_over = handed_over::take(&mut words)?;
    let parsed = cli::parse(words)?;
    if parsed.verbose {
        output::be_verbose();
    }
    match parsed.request {
        Request::Build(options) => verb::build::run(options)?,
        Request::Clean(options) => verb::clean::run(options)?,
        Request::Config(options) => return verb::config::run(&options),
        Request::Import(options) => verb::import::run(options)?,
        Request::Launcher(options) => verb::launcher::run(&options)?,
        Request::List { json } => verb::list::run(json, handed_over)?,
        Request::Log(options) => verb::log::run(&options)?,
        Request::Status(options) => return verb::status::run(&options, handed_over),
        Request::Print(text) => output::print(&text)?,
    }
    Ok(true)
}
