//! The processes that run for the tunnels of a namespace.

use std::path::Path;

use super::keeper;
use crate::confine;
use crate::kernel::daemon;
use runns_shared::plan::Plan;
use runns_shared::record::{Daemon, Record};

/// The namespace's daemons and their keepers: those in the record, and those of a build that was
/// killed before it could record them.
pub fn all(record: &Record) -> Vec<Daemon> {
    let recorded = record.daemons.iter().chain(&record.keepers).cloned();
    recorded
        .chain(record.plans().flat_map(unrecorded))
        .collect()
}

/// Processes of this namespace that are not in the record: keepers, which are root's, and whatever
/// has the user id of one of its daemons, which nothing else has.
pub fn unrecorded(plan: &Plan) -> Vec<Daemon> {
    let users: Vec<u32> = (0..plan.request.daemons())
        .map(|index| confine::user(plan, index))
        .collect();
    let is_ours = |pid: &i32| match daemon::user_of(*pid) {
        Some(0) => {
            daemon::command_line(*pid).get(1..3)
                == Some(&[keeper::NAME.to_string(), plan.name.to_string()])
                && is_this_program(*pid)
        }
        Some(user) => users.contains(&user),
        None => false,
    };
    daemon::all()
        .into_iter()
        .filter(is_ours)
        .filter_map(|pid| Daemon::identify(pid, Path::new("")))
        .collect()
}

/// Whether a process is left alone where a namespace is emptied: one that runs for its tunnels, or
/// a `status` of root's that looks inside.
pub fn is_spared(record: &Record) -> impl Fn(i32) -> bool {
    let own = all(record);
    move |pid| {
        let is_it = |daemon: &Daemon| daemon.pid == pid && daemon.is_running();
        own.iter().any(is_it) || is_looking(pid)
    }
}

/// Whether this is another process of root's that runs this program outside and has only a thread
/// inside, or a tool that it asks there.
fn is_looking(pid: i32) -> bool {
    let looks = |pid: i32| {
        let is_other = i64::from(pid) != i64::from(std::process::id());
        is_other && daemon::user_of(pid) == Some(0) && is_outside(pid) && is_this_program(pid)
    };
    looks(pid) || daemon::parent_of(pid).is_some_and(looks)
}

/// Whether a process is in the network namespace of this one.
pub fn is_outside(pid: i32) -> bool {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    namespace(&pid.to_string()).is_some_and(|theirs| namespace("self") == Some(theirs))
}

/// Whether a process runs this program, or the one that it has replaced since.
fn is_this_program(pid: i32) -> bool {
    let program = |pid: &str| {
        std::fs::read_link(format!("/proc/{pid}/exe")).map(|path| path.display().to_string())
    };
    let (Ok(own), Ok(theirs)) = (program("self"), program(&pid.to_string())) else {
        return false;
    };
    theirs.trim_end_matches(" (deleted)") == own.trim_end_matches(" (deleted)")
}
