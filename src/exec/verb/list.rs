//! `runns-exec list`: finds the processes in named network namespaces. A process belongs to the
//! namespace of its main thread, or of another thread if that has ended. The program for root prints
//! them: names of users, times of day and columns need no capability.

use std::collections::HashMap;
use std::ffi::{CStr, OsString};
use std::ops::RangeInclusive;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, lstat, stat};
use nix::unistd::getuid;

use crate::{policy, root_program};
use runns_privileged::netns::DEVICES_OF_PID_1;
use runns_privileged::{Privilege, netns};
use runns_shared::error::{Context, Error, Result, status};
use runns_shared::listed::Listed;
use runns_shared::name::NetnsName;
use runns_shared::output::{print, step, warn};
use runns_shared::proc::{Network, Proc, Process, parse_command_line};
use runns_shared::record::{Identity, Record};
use runns_shared::suggest::nearest;

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Only these namespaces; all if empty.
    pub names: Vec<OsString>,
    /// Everybody's processes.
    pub all: bool,
    /// Pids only.
    pub quiet: bool,
}

/// How much of a command line is listed, in bytes: MAX_ARG_STRLEN (linux/binfmts.h), the longest
/// argument that can be given to a program. All together get `ALL_COMMANDS`, and after that each
/// the least.
const COMMAND: RangeInclusive<usize> = 256..=128 << 10;
const ALL_COMMANDS: usize = 8 << 20;

/// Prints the pids, or executes the program for root, which prints the rest.
pub fn run(options: &Options, arguments: &[&CStr], environment: &[&CStr]) -> Result<()> {
    let mut namespaces = Namespaces::new(if options.names.is_empty() {
        named()?
    } else {
        chosen(&options.names)?
    });
    // By namespace; in each of them by pid, as the kernel lists them.
    let mut found: Vec<Vec<u8>> = namespaces.named.iter().map(|_| Vec::new()).collect();
    let mut room = ALL_COMMANDS;
    for_each_process(
        &mut namespaces,
        options.all,
        |named, at, pid, uid, process| {
            found[at].extend(match options.quiet {
                true => format!("{pid}\n").into_bytes(),
                false => listed(&named.name, pid, uid, process, &mut room)?.to_bytes(),
            });
            Some(())
        },
    )?;
    if options.all && std::fs::metadata(DEVICES_OF_PID_1).is_err() {
        warn("/proc hides other users' processes (hidepid): only your own are listed");
    }
    let found = found.concat();
    if options.quiet {
        return print(&String::from_utf8_lossy(&found));
    }
    root_program::execute_with("list processes", &found, arguments, environment)
        .map(|never| match never {})
}

/// A namespace with a name.
struct Named {
    name: NetnsName,
    inode: u64,
}

/// All namespaces in /run/netns, sorted by name. Files with invalid names, and other files, are
/// ignored.
fn named() -> Result<Vec<Named>> {
    let nsfs = stat("/proc/self/ns/net")
        .cannot(|| "inspect /proc/self/ns/net")?
        .st_dev;
    // Ignored if it has been removed since the directory was read, or is an empty file.
    let namespace = |name| {
        look(&name)
            .ok()
            .filter(|stat| stat.st_dev == nsfs)
            .map(|stat| Named {
                name,
                inode: stat.st_ino,
            })
    };
    Ok(netns::names()?.into_iter().filter_map(namespace).collect())
}

fn look(name: &NetnsName) -> Result<FileStat, Errno> {
    lstat(&Path::new(netns::DIRECTORY).join(name.as_str()))
}

/// The namespaces that the command line names.
fn chosen(words: &[OsString]) -> Result<Vec<Named>> {
    let name = |word| NetnsName::new(word).map_err(|error| error.with_status(status::USAGE));
    let mut names = words.iter().map(name).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    let namespace = |name| match look(&name) {
        Err(Errno::ENOENT) => Err(unknown(&name)),
        _ => netns::open(&name).map(|netns| Named {
            name,
            inode: netns.inode(),
        }),
    };
    names.into_iter().map(namespace).collect()
}

fn unknown(name: &NetnsName) -> Error {
    let error = Error::new(
        format!("list namespace {name}"),
        "there is no such namespace",
    );
    let known = named().unwrap_or_default();
    match nearest(name.as_str(), known.iter().map(|known| known.name.as_str())) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint("ip netns list shows the existing ones"),
    }
}

/// The namespaces to be listed, and what is known of their numbers. Each source is consulted only
/// when a process is found that the previous ones do not identify.
struct Namespaces {
    /// By name.
    named: Vec<Named>,
    /// From the inode number of a namespace to its index in `named`; of several names, the first.
    by_inode: HashMap<u64, Option<usize>>,
    /// From the inode number of a /proc/PID/net/dev to an index in `named`, or to none.
    by_proc_inode: HashMap<u64, Option<usize>>,
    asked: Asked,
}

#[derive(PartialEq, Eq)]
enum Asked {
    Nothing,
    Records,
    Everything,
}

impl Namespaces {
    fn new(named: Vec<Named>) -> Self {
        let by_inode = named
            .iter()
            .enumerate()
            .rev()
            .map(|(at, named)| (named.inode, Some(at)))
            .collect();
        Self {
            named,
            by_inode,
            by_proc_inode: HashMap::new(),
            asked: Asked::Nothing,
        }
    }

    /// The index in `named` of a process's namespace.
    fn find(&mut self, network: Network) -> Option<usize> {
        let inode = match network {
            Network::Inode(inode) => return self.by_inode.get(&inode).copied().flatten(),
            Network::ProcInode(inode) => inode,
        };
        if self.asked == Asked::Nothing {
            self.ask_own_and_records();
            self.asked = Asked::Records;
        }
        if let Some(known) = self.by_proc_inode.get(&inode) {
            return *known;
        }
        if self.asked == Asked::Records {
            self.ask_namespaces();
            self.asked = Asked::Everything;
        }
        *self.by_proc_inode.entry(inode).or_insert(None)
    }

    fn learn(&mut self, inode: u64, proc_inode: u64) {
        self.by_proc_inode
            .insert(proc_inode, self.by_inode.get(&inode).copied().flatten());
    }

    /// This process's own namespace, usually the host's, and the recorded ones. A record that
    /// cannot be read, or that does not describe the namespace which has the name now, is ignored.
    fn ask_own_and_records(&mut self) {
        let inode = |path: &str| stat(path).map(|stat| stat.st_ino).ok();
        if let (Some(own), Some(own_proc)) =
            (inode("/proc/self/ns/net"), inode("/proc/self/net/dev"))
        {
            self.learn(own, own_proc);
        }
        for at in 0..self.named.len() {
            let Ok(Some(record)) = Record::load(&self.named[at].name) else {
                continue;
            };
            if let Some(identity) = record
                .identity
                .filter(|identity| identity.inode == self.named[at].inode)
            {
                self.learn(identity.inode, identity.proc_inode);
            }
        }
    }

    /// Enters each namespace whose number is still unknown, if the caller may enter it. In those
    /// that it may not enter, and without privilege, other users' processes are not listed.
    fn ask_namespaces(&mut self) {
        let known: Vec<usize> = self.by_proc_inode.values().flatten().copied().collect();
        let unknown = self
            .by_inode
            .values()
            .flatten()
            .filter(|at| !known.contains(at));
        let names: Vec<&NetnsName> = unknown.map(|at| &self.named[*at].name).collect();
        if names.is_empty() {
            return;
        }
        let said = |error: &Error| step(|| format!("not listing other users' processes: {error}"));
        let Ok(privilege) = Privilege::take().inspect_err(said) else {
            return;
        };
        let identify = |name| {
            policy::visit(&privilege, name, netns::identity_here)
                .inspect_err(said)
                .ok()
        };
        let identities: Vec<Identity> = names.into_iter().filter_map(identify).collect();
        identities
            .iter()
            .for_each(|identity| self.learn(identity.inode, identity.proc_inode));
    }
}

/// Calls `work` for each process in one of the namespaces, with the namespace and its index, pid,
/// real uid and process. Without `all`, only for the caller's own processes.
fn for_each_process(
    namespaces: &mut Namespaces,
    all: bool,
    mut work: impl FnMut(&Named, usize, i32, u32, &Process) -> Option<()>,
) -> Result<()> {
    if namespaces.named.is_empty() {
        return Ok(());
    }
    let own = getuid().as_raw();
    let proc = Proc::open()?;
    for pid in proc.pids()? {
        let Some(network) = proc.network(pid) else {
            continue;
        };
        if namespaces.find(network).is_none() {
            continue;
        }
        // From here on through the process's directory: the pid may have been reused.
        let Some(process) = proc.process(pid) else {
            continue;
        };
        let Some(at) = process
            .network()
            .and_then(|network| namespaces.find(network))
        else {
            continue;
        };
        match process.real_uid() {
            Some(uid) if all || uid == own => work(&namespaces.named[at], at, pid, uid, &process),
            _ => None,
        };
    }
    Ok(())
}

/// Reads what is listed of a process; `None` if it has ended meanwhile. The command line is taken
/// off the `room` that there is.
fn listed(
    namespace: &NetnsName,
    pid: i32,
    uid: u32,
    process: &Process,
    room: &mut usize,
) -> Option<Listed> {
    let mut command = process.command_line((*room).clamp(*COMMAND.start(), *COMMAND.end()))?;
    *room = room.saturating_sub(command.len());
    let stat = process.stat()?;
    if parse_command_line(&command).is_empty() {
        command = [b"[", stat.comm.as_slice(), b"]"].concat();
    }
    Some(Listed {
        namespace: namespace.clone(),
        pid,
        ppid: stat.ppid,
        uid,
        start_time: stat.start_time,
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_names_for_a_namespace_the_first_is_shown() {
        let named = |name: &str, inode| Named {
            name: NetnsName::new(name).unwrap(),
            inode,
        };
        let mut namespaces = Namespaces::new(vec![named("a", 10), named("b", 20), named("c", 10)]);
        assert_eq!(namespaces.find(Network::Inode(10)), Some(0));
        assert_eq!(namespaces.find(Network::Inode(20)), Some(1));
        assert_eq!(namespaces.find(Network::Inode(30)), None);
    }
}
