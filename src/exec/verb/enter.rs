//! `runns-exec [OPTIONS] NAME [--] [COMMAND [ARG]...]`: enters a namespace, drops all privileges,
//! executes the command.

use std::convert::Infallible;
use std::ffi::{CStr, OsString};
use std::io::IsTerminal;

use nix::unistd::{getpid, getuid};

use crate::launch::handover;
use crate::launch::{self, Mode, Program};
use crate::policy::{self, Decision};
use runns_privileged::view::{self, Wanted};
use runns_privileged::{Privilege, Unprivileged, netns};
use runns_shared::account;
use runns_shared::error::Result;
use runns_shared::escape::{escape, show};
use runns_shared::hosts;
use runns_shared::log;
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::output::step;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// The namespace, not checked yet.
    pub name: OsString,
    /// Command and arguments; the user's shell if empty.
    pub words: Vec<OsString>,
    /// How to start it.
    pub mode: Mode,
    /// Set no_new_privs for the command.
    pub no_new_privs: bool,
}

/// Returns only if entering failed.
pub fn run(options: Options, environment: &[&CStr]) -> Result<Infallible> {
    let shown = escape(options.name.as_encoded_bytes());
    enter(options, environment).inspect_err(|error| {
        // If the command itself failed, it has been logged already.
        if error.status().is_none() {
            log::refused(|| format!("{} netns={shown}: {error}", caller()));
        }
    })
}

fn enter(options: Options, environment: &[&CStr]) -> Result<Infallible> {
    let name = NetnsName::new(&options.name)?;
    let mut program = Program::new(options.words, environment, &name, options.no_new_privs);
    let (unprivileged, decision) = go_in(&name)?;
    if decision.no_new_privs {
        step(|| "setting no_new_privs for the command (NoNewPrivs=yes)".to_string());
        program.forbid_new_privs();
    }
    if policy::is_sudo(environment) {
        output::complain_hint(
            "with sudo the command runs as root; members of group runns do not need sudo",
        );
    }
    log::notice(|| format!("{} netns={name} command={}", caller(), program.describe()));
    for warning in handover::warnings(&program) {
        output::warn(&warning);
    }
    step(|| format!("executing {}", program.describe()));
    launch::start(&unprivileged, &program, options.mode)
}

/// Enters namespace `name` according to all rules, and drops all privileges.
pub fn go_in(name: &NetnsName) -> Result<(Unprivileged, Decision)> {
    let privilege = Privilege::take()?;
    let mut decision = policy::decide(name)?;
    let namespace = decision.open()?;
    let entered = netns::enter(&privilege, &namespace, |arrival| decision.admit(arrival))?;
    let record = decision.record.as_ref();
    let files = record.map_or(&[][..], |record| &record.files);
    view::make(
        &privilege,
        &entered,
        name,
        &Wanted {
            files,
            hosts: record.and_then(|record| hosts::lines(&record.plan)),
        },
    )?;
    entered.bring_up_loopback(&privilege)?;
    step(|| "dropping all capabilities".to_string());
    Ok((privilege.give_up(entered)?, decision))
}

/// The caller, for the log.
fn caller() -> String {
    let uid = getuid().as_raw();
    let user = account::user_by_id(uid).map_or(String::new(), |user| {
        format!("({})", escape(user.name.as_bytes()))
    });
    let tty = match std::io::stdin().is_terminal() {
        true => std::fs::read_link("/proc/self/fd/0").ok(),
        false => None,
    };
    let tty = tty.map_or("none".to_string(), show);
    format!("uid={uid}{user} pid={} tty={tty}", getpid())
}
