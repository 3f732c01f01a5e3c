//! `runns-exec status [NAME]`: how what was built is. Everything shown may be known to every member of the group: no
//! keys, no names of users at the other end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use caps::Capability;
use serde::Serialize;

use crate::daemon;
use crate::error::{Error, Result, status};
use crate::name::NetnsName;
use crate::netlink::in_thread;
use crate::part::wireguard;
use crate::plan::PREFIX;
use crate::privileged::{Privilege, netns};
use crate::proc::{Network, Proc};
use crate::record::{Record, State};
use crate::sys::clock;
use crate::text::{self, nearest, show};
use crate::tunnel::TunnelState;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Only this namespace, not checked yet.
    pub name: Option<OsString>,
    /// As JSON.
    pub json: bool,
}

/// One namespace.
#[derive(Debug, Serialize)]
struct Status {
    namespace: String,
    state: State,
    /// Its address on the veth, if it has one.
    address: Option<String>,
    uplink: Option<String>,
    kill_switch: bool,
    resolver: Option<Resolver>,
    tunnels: Vec<Tunnel>,
    processes: usize,
}

#[derive(Debug, Serialize)]
struct Resolver {
    from: String,
    servers: Vec<String>,
    locked: bool,
}

/// One tunnel.
#[derive(Debug, Serialize)]
struct Tunnel {
    config: String,
    device: String,
    up: bool,
    /// RFC 3339; since when it is up or down.
    since: Option<String>,
    /// Why it is not up.
    reason: Option<String>,
    received: Option<u64>,
    sent: Option<u64>,
    /// RFC 3339; WireGuard only, and known to root only.
    handshake: Option<String>,
}

/// Prints the state of what was built.
pub fn run(options: &Options) -> Result<()> {
    let records = records(options)?;
    let processes = processes(&records);
    let statuses: Vec<Status> = records.iter().zip(processes).map(|(record, count)| of(record, count)).collect();
    if options.json {
        let json = serde_json::to_string_pretty(&statuses).map_err(|error| Error::new("write JSON", error))?;
        return text::print(&format!("{json}\n"));
    }
    text::print(&statuses.iter().map(line).collect::<String>())
}

fn records(options: &Options) -> Result<Vec<Record>> {
    let Some(name) = &options.name else { return Record::all() };
    let name = NetnsName::new(name).map_err(|error| error.with_status(status::USAGE))?;
    Record::load(&name)?.map(|record| vec![record]).ok_or_else(|| {
        let error = Error::new(format!("show namespace {name}"), "runns-exec did not build it");
        let names = Record::names().unwrap_or_default();
        match nearest(name.as_str(), names.iter().map(NetnsName::as_str)) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error,
        }
    })
}

/// How many processes are in each namespace; its own daemons do not count.
fn processes(records: &[Record]) -> Vec<usize> {
    let mut counts = vec![0; records.len()];
    let Ok(proc) = Proc::open() else { return counts };
    for pid in proc.pids().unwrap_or_default() {
        let Some(network) = proc.network(pid) else { continue };
        let place = records.iter().position(|record| {
            record.identity.is_some_and(|identity| match network {
                Network::Inode(inode) => inode == identity.inode,
                Network::ProcInode(inode) => inode == identity.proc_inode,
            }) && !record.daemons.iter().any(|daemon| daemon.pid == pid)
        });
        place.into_iter().for_each(|place| counts[place] += 1);
    }
    counts
}

fn of(record: &Record, processes: usize) -> Status {
    let request = &record.plan.request;
    let counters = counters(&request.name).unwrap_or_default();
    let tunnels = request.vpn.iter().chain(&request.wireguard).enumerate();
    Status {
        namespace: request.name.to_string(),
        state: record.state,
        address: (!request.kill_switch).then(|| format!("{}/{PREFIX}", record.plan.number.inside())),
        uplink: request.uplink.as_ref().map(ToString::to_string),
        kill_switch: request.kill_switch,
        resolver: record.plan.resolver.as_ref().map(|resolver| Resolver {
            from: resolver.from.clone(),
            servers: resolver.servers.iter().map(ToString::to_string).collect(),
            locked: resolver.lock,
        }),
        tunnels: tunnels.map(|(index, config)| tunnel(record, index, config, &counters)).collect(),
        processes,
    }
}

/// Bytes received and sent by each device of a namespace.
type Counters = BTreeMap<String, (u64, u64)>;

fn tunnel(record: &Record, index: usize, config: &Path, counters: &Counters) -> Tunnel {
    let request = &record.plan.request;
    let state = TunnelState::load(&request.name, index);
    let daemon = record.daemons.iter().find(|daemon| daemon.config == config);
    let dead = daemon.is_some_and(|daemon| !daemon::is_running(daemon));
    let there = counters.get(&state.device);
    // Where the namespace could not be looked into, what the daemon last said counts.
    let gone = state.up && !counters.is_empty() && there.is_none();
    let up = state.up && !dead && !gone;
    let reason = match (up, dead, &state.reason) {
        (true, ..) => None,
        (_, true, None) => Some("its daemon has ended without a word (killed?)".to_string()),
        (_, true, Some(reason)) => Some(format!("its daemon has ended: {reason}")),
        (_, false, Some(reason)) => Some(reason.clone()),
        (_, false, None) if gone => Some("its device is gone".to_string()),
        _ => Some("not connected".to_string()),
    };
    let time = |seconds: i64| (seconds > 0).then(|| clock::local(seconds).rfc3339());
    let wireguard = index.checked_sub(request.vpn.len());
    Tunnel {
        config: show(config),
        device: state.device,
        up,
        since: time(state.since),
        reason,
        received: there.map(|(received, _)| *received),
        sent: there.map(|(_, sent)| *sent),
        handshake: wireguard.and_then(|index| wireguard::last_handshake(record, index)).and_then(time),
    }
}

/// The devices of the namespace, from a thread that enters it for a moment; `None` if it cannot.
fn counters(name: &NetnsName) -> Option<Counters> {
    let privilege = Privilege::take().ok()?;
    let look = || {
        let netns = netns::open(name)?;
        privilege.raised(Capability::CAP_SYS_ADMIN, || netns::visit(&netns))?;
        Ok(parse_counters(&fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default()))
    };
    in_thread(look).ok()
}

/// Parses /proc/net/dev (proc_pid_net(5)): two lines of heads, then `DEVICE: RECEIVED ... SENT ...`.
fn parse_counters(text: &str) -> Counters {
    let device = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        Some((name.trim().to_string(), (numbers.first()?.parse().ok()?, numbers.get(8)?.parse().ok()?)))
    };
    text.lines().skip(2).filter_map(device).collect()
}

fn line(status: &Status) -> String {
    let mut parts = vec![status.namespace.clone()];
    if status.state != State::Built {
        parts.push("not complete: a build or clean is at it, or was cut short".to_string());
    }
    parts.extend(status.address.clone());
    parts.push(match (&status.uplink, status.kill_switch) {
        (_, true) => "kill switch".to_string(),
        (Some(uplink), _) => format!("by {uplink} only"),
        (None, _) => "by any uplink".to_string(),
    });
    parts.push(match &status.resolver {
        Some(resolver) => {
            let lock = if resolver.locked { ", locked" } else { "" };
            format!("DNS {} (from {}{lock})", resolver.servers.join(" "), resolver.from)
        }
        None => "the host's DNS".to_string(),
    });
    parts.extend(status.tunnels.iter().map(tunnel_words));
    parts.push(format!("{} process{}", status.processes, if status.processes == 1 { "" } else { "es" }));
    format!("{}\n", text::one_line(&parts.join("; ")))
}

fn tunnel_words(tunnel: &Tunnel) -> String {
    let since = tunnel.since.as_ref().map_or(String::new(), |since| format!(" since {since}"));
    if !tunnel.up {
        return format!("{} DOWN{since}: {}", tunnel.config, tunnel.reason.as_deref().unwrap_or("not connected"));
    }
    let mut words = format!("{} up{since} on {}", tunnel.config, tunnel.device);
    if let (Some(received), Some(sent)) = (tunnel.received, tunnel.sent) {
        words.push_str(&format!(", {} received, {} sent", bytes(received), bytes(sent)));
    }
    if let Some(handshake) = &tunnel.handshake {
        words.push_str(&format!(", last handshake {handshake}"));
    }
    words
}

/// A number of bytes with a binary unit.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_devices() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes ...\n    lo:  10 1 0 0 0 0 0 0  20 1 0 0 0 0 0 0\n  \
                    tun0: 3000 5 0 0 0 0 0 0 4000 6 0 0 0 0 0 0\nbroken\n";
        let counters = parse_counters(text);
        assert_eq!(counters.get("tun0"), Some(&(3000, 4000)));
        assert_eq!(counters.len(), 2);
    }

    #[test]
    fn numbers_of_bytes() {
        assert_eq!((bytes(1023), bytes(1536), bytes(3 << 30)), ("1023 B".into(), "1.5 KiB".into(), "3.0 GiB".into()));
    }
}
