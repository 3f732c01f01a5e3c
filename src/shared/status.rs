//! The report of `runns-exec status [NAME]`. Everything in it may be known to every member of the group: no keys, no
//! names of users at the other end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::clock::Zone;
use crate::error::{Error, Result, status};
use crate::name::NetnsName;
use crate::plan::PREFIX;
use crate::proc::{Network, Proc};
use crate::record::{Record, State};

use crate::escape::{one_line, show};
use crate::output;
use crate::suggest::nearest;
use crate::tunnel::TunnelState;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Only this namespace, not checked yet.
    pub name: Option<OsString>,
    /// As JSON.
    pub json: bool,
}

/// What the program that asks can find out, and the other perhaps cannot.
pub struct Sources<'a> {
    /// The text of /proc/net/dev inside a namespace.
    pub devices: &'a dyn Fn(&NetnsName) -> Option<String>,
    /// When a peer of a namespace's WireGuard device last answered, in seconds since the epoch; 0 for never.
    pub last_handshake: &'a dyn Fn(&Record, usize) -> Option<i64>,
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
    /// Why it is not up, or what is wrong with it although it is.
    reason: Option<String>,
    received: Option<u64>,
    sent: Option<u64>,
    /// RFC 3339; WireGuard only, and known to root only.
    handshake: Option<String>,
}

/// Prints the state of what was built, by its `records`.
pub fn print(records: &[Record], options: &Options, sources: &Sources) -> Result<()> {
    let (processes, zone) = (processes(records), Zone::of_user());
    let viewer = Viewer { sources, zone };
    let statuses: Vec<Status> =
        records.iter().zip(processes).map(|(record, count)| viewer.status(record, count)).collect();
    if options.json {
        return crate::output::print_json(&statuses);
    }
    output::print(&statuses.iter().map(line).collect::<String>())
}

/// The records that the command line asks for.
pub fn records(options: &Options) -> Result<Vec<Record>> {
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

/// Bytes received and sent by each device of a namespace.
type Counters = Vec<(String, (u64, u64))>;

/// Who looks: with what sources, and in what time zone.
struct Viewer<'a> {
    sources: &'a Sources<'a>,
    zone: Zone,
}

impl Viewer<'_> {
    fn status(&self, record: &Record, processes: usize) -> Status {
        let request = &record.plan.request;
        let counters = (self.sources.devices)(&request.name).map_or_else(Counters::new, |text| parse_counters(&text));
        let tunnels = 0..request.vpn.len() + request.wireguard.len();
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
            tunnels: tunnels.map(|index| self.tunnel(record, index, &counters)).collect(),
            processes,
        }
    }

    fn tunnel(&self, record: &Record, index: usize, counters: &Counters) -> Tunnel {
        let request = &record.plan.request;
        let config = request.vpn.iter().chain(&request.wireguard).nth(index).map_or(Path::new(""), PathBuf::as_path);
        let state = TunnelState::load(&request.name, index);
        let daemon = record.daemons.iter().find(|daemon| daemon.config == config);
        let dead = daemon.is_some_and(|daemon| !daemon.is_running());
        let keeper = record.keepers.iter().find(|keeper| keeper.config == config);
        let alone = keeper.is_some_and(|keeper| !keeper.is_running());
        let there = counters.iter().find(|(device, _)| *device == state.device).map(|(_, counts)| counts);
        // Where the namespace could not be looked into, what the daemon last said counts.
        let gone = state.up && !counters.is_empty() && there.is_none();
        let up = state.up && !dead && !gone;
        let reason = match (up, dead, &state.reason) {
            (true, ..) if alone => {
                Some("its keeper has exited: clean and build again before it has to reconnect".to_string())
            }
            (true, ..) => None,
            (_, true, None) => Some("its daemon has exited without a message (killed?)".to_string()),
            (_, true, Some(reason)) => Some(format!("its daemon has exited: {reason}")),
            (_, false, Some(reason)) => Some(reason.clone()),
            (_, false, None) if gone => Some("its device is gone".to_string()),
            _ => Some("not connected".to_string()),
        };
        let time = |seconds: i64| (seconds > 0).then(|| self.zone.rfc3339(seconds));
        let wireguard = index.checked_sub(request.vpn.len());
        Tunnel {
            config: show(config),
            device: state.device,
            up,
            since: time(state.since),
            reason,
            received: there.map(|(received, _)| *received),
            sent: there.map(|(_, sent)| *sent),
            handshake: wireguard.and_then(|index| (self.sources.last_handshake)(record, index)).and_then(time),
        }
    }
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
        parts.push("incomplete: a build or clean is running, or was interrupted".to_string());
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
    format!("{}\n", one_line(&parts.join("; ")))
}

fn tunnel_words(tunnel: &Tunnel) -> String {
    let since = tunnel.since.as_ref().map_or(String::new(), |since| format!(" since {since}"));
    if !tunnel.up {
        return format!("{} DOWN{since}: {}", tunnel.config, tunnel.reason.as_deref().unwrap_or("not connected"));
    }
    let mut words = format!("{} up{since} on {}", tunnel.config, tunnel.device);
    if let Some(reason) = &tunnel.reason {
        words.push_str(&format!(", but {reason}"));
    }
    if let (Some(received), Some(sent)) = (tunnel.received, tunnel.sent) {
        words.push_str(&format!(", {} received, {} sent", bytes(received), bytes(sent)));
    }
    if let Some(handshake) = &tunnel.handshake {
        words.push_str(&format!(", last handshake {handshake}"));
    }
    words
}

/// A number of bytes with a binary unit, rounded to tenths.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut tenths, mut unit) = (count.saturating_mul(10), None);
    for next in UNITS {
        if tenths < 10240 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = Some(next);
    }
    match unit {
        None => format!("{count} B"),
        Some(unit) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_devices() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes ...\n    lo:  10 1 0 0 0 0 0 0  20 1 0 0 0 0 0 0\n  \
                    tun0: 3000 5 0 0 0 0 0 0 4000 6 0 0 0 0 0 0\nbroken\n";
        let counters = parse_counters(text);
        assert_eq!(counters[1], ("tun0".to_string(), (3000, 4000)));
        assert_eq!(counters.len(), 2);
    }

    #[test]
    fn numbers_of_bytes() {
        assert_eq!((bytes(1023), bytes(1536), bytes(3 << 30)), ("1023 B".into(), "1.5 KiB".into(), "3.0 GiB".into()));
    }
}
