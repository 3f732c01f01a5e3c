//! `runns-exec list`: the processes in named network namespaces. A process belongs to the namespace
//! of its main thread, or of another thread if that has ended.

use std::collections::HashMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, lstat, stat};
use nix::unistd::getuid;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::policy;
use runns_privileged::capability::renounce;
use runns_privileged::netns::DEVICES_OF_PID_1;
use runns_privileged::{Privilege, netns};
use runns_shared::account;
use runns_shared::clock::{self, Zone};
use runns_shared::error::{Context, Error, Result, status};
use runns_shared::escape::escape;
use runns_shared::name::NetnsName;
use runns_shared::output::{print, print_json, step, warn};
use runns_shared::proc::{Network, Proc, Process, parse_command_line};
use runns_shared::record::{Identity, Record};
use runns_shared::suggest::nearest;
use runns_shared::table::{Heading, lines, terminal_width};
use runns_sys::process;

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Only these namespaces; all if empty.
    pub names: Vec<OsString>,
    /// Everybody's processes.
    pub all: bool,
    /// Pids only.
    pub quiet: bool,
    /// JSON.
    pub json: bool,
}

/// How much of a command line is listed, in bytes: MAX_ARG_STRLEN (linux/binfmts.h), the longest
/// argument that can be given to a program. All together get `ALL_COMMANDS`, and after that each
/// the least.
const COMMAND: RangeInclusive<usize> = 256..=128 << 10;
const ALL_COMMANDS: usize = 8 << 20;

/// Lists.
pub fn run(options: &Options) -> Result<()> {
    let mut namespaces = Namespaces::new(if options.names.is_empty() {
        named()?
    } else {
        chosen(&options.names)?
    });
    // By namespace; in each of them by pid, as the kernel lists them.
    let mut found: Vec<Vec<Found>> = namespaces.named.iter().map(|_| Vec::new()).collect();
    let mut room = ALL_COMMANDS;
    for_each_process(&mut namespaces, options.all, |at, pid, uid, process| {
        let detail = if options.quiet {
            None
        } else {
            Some(Detail::read(uid, process, &mut room)?)
        };
        found[at].push(Found { at, pid, detail });
        Some(())
    })?;
    if options.all && std::fs::metadata(DEVICES_OF_PID_1).is_err() {
        warn("/proc hides other users' processes (hidepid): only your own are listed");
    }
    let found: Vec<Found> = found.into_iter().flatten().collect();
    if options.quiet {
        return print(
            &found
                .iter()
                .map(|found| format!("{}\n", found.pid))
                .collect::<String>(),
        );
    }
    // From here on files are read that the environment names, and the result is printed.
    let _unprivileged = renounce()?;
    let zone = Zone::of_user();
    let rows = rows(found, &namespaces.named, &zone);
    if options.json {
        return print_json(&rows);
    }
    print(&table(&rows, terminal_width()))
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

/// Calls `work` for each process in one of the namespaces, with the index of the namespace, pid,
/// real uid and process. Without `all`, only for the caller's own processes.
fn for_each_process(
    namespaces: &mut Namespaces,
    all: bool,
    mut work: impl FnMut(usize, i32, u32, &Process) -> Option<()>,
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
            Some(uid) if all || uid == own => work(at, pid, uid, &process),
            _ => None,
        };
    }
    Ok(())
}

/// A process in the namespace with this index.
struct Found {
    at: usize,
    pid: i32,
    detail: Option<Detail>,
}

/// What -q does not print.
struct Detail {
    uid: u32,
    ppid: i32,
    start_time: u64,
    /// Its arguments, each with a NUL behind it.
    command: Vec<u8>,
}

impl Detail {
    /// Reads it; `None` if the process has ended meanwhile. The command line is taken off the
    /// `room` that there is.
    fn read(uid: u32, process: &Process, room: &mut usize) -> Option<Self> {
        let mut command = process.command_line((*room).clamp(*COMMAND.start(), *COMMAND.end()))?;
        *room = room.saturating_sub(command.len());
        let stat = process.stat()?;
        if parse_command_line(&command).is_empty() {
            command = [b"[", stat.comm.as_slice(), b"]"].concat();
        }
        Some(Self {
            uid,
            ppid: stat.ppid,
            start_time: stat.start_time,
            command,
        })
    }
}

/// What is printed of one process.
struct Row<'a> {
    zone: &'a Zone,
    namespace: &'a NetnsName,
    pid: i32,
    ppid: i32,
    uid: u32,
    user: String,
    /// It is the daemon of a tunnel.
    is_daemon: bool,
    /// Seconds since the epoch.
    started: i64,
    command: Vec<u8>,
}

fn rows<'a>(found: Vec<Found>, named: &'a [Named], zone: &'a Zone) -> Vec<Row<'a>> {
    if found.is_empty() {
        return Vec::new();
    }
    // Each uid is looked up once.
    let mut users: Vec<(u32, String)> = Vec::new();
    let mut name_of = |uid: u32| match users.iter().find(|(known, _)| *known == uid) {
        Some((_, name)) => name.clone(),
        None => {
            let name = account::user_by_id(uid).map_or_else(|| uid.to_string(), |user| user.name);
            users.push((uid, name.clone()));
            name
        }
    };
    let (boot, ticks) = (clock::boot_time(), process::clock_ticks());
    let mut row = |found: Found| {
        let detail = found.detail?;
        let since_boot = detail.start_time.saturating_mul(1_000_000_000 / ticks);
        let started = boot.saturating_add_unsigned(since_boot) / 1_000_000_000;
        let namespace = &named[found.at].name;
        let user = name_of(detail.uid);
        Some(Row {
            zone,
            namespace,
            pid: found.pid,
            ppid: detail.ppid,
            uid: detail.uid,
            // The user IDs of daemons have no names.
            is_daemon: user.starts_with(|c: char| c.is_ascii_digit())
                && is_daemon(namespace, found.pid, detail.start_time),
            user,
            started,
            command: detail.command,
        })
    };
    found.into_iter().filter_map(&mut row).collect()
}

/// Whether a process is the daemon of a tunnel, as the namespace's record says.
fn is_daemon(namespace: &NetnsName, pid: i32, start_time: u64) -> bool {
    let record = Record::load(namespace).ok().flatten();
    record.is_some_and(|record| {
        let mut daemons = record.daemons.iter();
        daemons.any(|daemon| (daemon.pid, daemon.start_time) == (pid, start_time))
    })
}

/// A column of the JSON and, if it has a heading, of the table.
struct Column {
    heading: Option<&'static str>,
    right: bool,
    field: &'static str,
    cell: fn(&Row) -> String,
    value: fn(&Row) -> Value,
}

/// The last column is cut at the terminal's width.
const COLUMNS: [Column; 7] = [
    Column {
        heading: Some("NAMESPACE"),
        right: false,
        field: "namespace",
        cell: |row| row.namespace.to_string(),
        value: |row| row.namespace.as_str().into(),
    },
    Column {
        heading: Some("PID"),
        right: true,
        field: "pid",
        cell: |row| row.pid.to_string(),
        value: |row| row.pid.into(),
    },
    Column {
        heading: None,
        right: true,
        field: "ppid",
        cell: |_| String::new(),
        value: |row| row.ppid.into(),
    },
    Column {
        heading: None,
        right: true,
        field: "uid",
        cell: |_| String::new(),
        value: |row| row.uid.into(),
    },
    Column {
        heading: Some("USER"),
        right: false,
        field: "user",
        cell: |row| match row.is_daemon {
            true => "(tunnel)".to_string(),
            false => escape(row.user.as_bytes()),
        },
        value: |row| row.user.as_str().into(),
    },
    Column {
        heading: Some("STARTED"),
        right: false,
        field: "started",
        cell: |row| row.zone.table(row.started),
        value: |row| row.zone.rfc3339(row.started).into(),
    },
    Column {
        heading: Some("COMMAND"),
        right: false,
        field: "command",
        cell: |row| escape(&parse_command_line(&row.command).join(&b' ')),
        value: |row| {
            parse_command_line(&row.command)
                .iter()
                .map(|word| String::from_utf8_lossy(word))
                .collect()
        },
    },
];

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            COLUMNS
                .iter()
                .map(|column| (column.field, (column.value)(self))),
        )
    }
}

/// The table: a heading, and a line for each row.
fn table(rows: &[Row], width: Option<usize>) -> String {
    let columns: Vec<(Heading, &Column)> = COLUMNS
        .iter()
        .filter_map(|column| {
            column
                .heading
                .map(|heading| (Heading(heading, column.right), column))
        })
        .collect();
    let headings: Vec<Heading> = columns.iter().map(|(heading, _)| *heading).collect();
    let cells = rows
        .iter()
        .map(|row| {
            columns
                .iter()
                .map(|(_, column)| (column.cell)(row))
                .collect()
        })
        .collect();
    lines(&headings, cells, width)
        .into_iter()
        .map(|line| line + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static ZONE: LazyLock<Zone> = LazyLock::new(Zone::of_user);

    fn row(namespace: &NetnsName) -> Row<'_> {
        let command = b"sh\0\x1b[2J\xff \xe2\x80\xae\0".to_vec();
        Row {
            zone: &ZONE,
            namespace,
            pid: 7,
            ppid: 1,
            uid: 1000,
            is_daemon: false,
            user: "b\u{fc}r\t".into(),
            started: 0,
            command,
        }
    }

    #[test]
    fn a_line_of_the_table_is_one_line() {
        let name = NetnsName::new("vpn1").unwrap();
        let text = table(&[row(&name)], None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("NAMESPACE  PID  USER ") && lines[0].ends_with("  COMMAND"),
            "{text}"
        );
        assert!(
            lines[1].starts_with("vpn1         7  b\u{fc}r\\t  "),
            "{text}"
        );
        assert!(lines[1].ends_with("sh \\x1b[2J\\xff \\u{202e}"), "{text}");
        assert_eq!(
            lines[0].find("COMMAND"),
            lines[1].find("sh").map(|at| at - 1),
            "\u{fc} is two bytes wide"
        );
    }

    #[test]
    fn without_processes_there_is_the_heading_alone() {
        assert_eq!(table(&[], None), "NAMESPACE  PID  USER  STARTED  COMMAND\n");
        assert_eq!(serde_json::to_string(&Vec::<Row>::new()).unwrap(), "[]");
    }

    #[test]
    fn json_has_the_fields_of_the_manual_in_order() {
        let name = NetnsName::new("vpn1").unwrap();
        let text = serde_json::to_string(&row(&name)).unwrap();
        let start = "{\"namespace\":\"vpn1\",\"pid\":7,\"ppid\":1,\"uid\":1000,\"user\":\"b\u{fc}r\\t\",\"started\":\"";
        assert!(text.starts_with(start), "{text}");
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["command"][1], "\u{1b}[2J\u{fffd} \u{202e}");
    }

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
