//! `runns-exec log NAME|SECTION [-f]`: what the journal, or else the system log, has about a
//! namespace: its tunnels' daemons, its unit, builds, cleans and who entered. It needs no privilege
//! and has none: everybody sees what journalctl(1) or the files let them see.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::kernel::zone::Zone;
use runns_shared::config::Config;
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::name::NetnsName;
use runns_shared::output::{complain, print};
use runns_shared::record::Record;

use super::word;
use crate::kernel::tool;
use crate::tunnel::launch;

/// Where the messages of daemons and of authorization go, on Debian and on Red Hat.
const FILES: [&str; 5] = [
    "/var/log/syslog",
    "/var/log/messages",
    "/var/log/daemon.log",
    "/var/log/auth.log",
    "/var/log/secure",
];
/// systemd-journald's socket: without it there may be a journal of earlier times, but no new line.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// How many lines there are before those that are still to come, as with tail(1).
const LAST: usize = 10;
/// How many lines of files are sorted.
const MOST: usize = 200_000;
/// The name under which runns-exec itself writes.
const OWN: &str = "runns-exec";

/// What the command line asks for; the word is not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// A namespace's name or a section's.
    pub word: OsString,
    /// Go on with what is written from now on.
    pub follow: bool,
}

/// Prints the log.
pub fn run(options: &Options) -> Result<()> {
    let subject = Subject::of_word(&options.word.to_string_lossy())?;
    match tool::find("journalctl").is_some() && Path::new(JOURNAL).exists() {
        true => subject.journal(options.follow),
        false => subject.files(options.follow),
    }
}

/// What the lines are about.
struct Subject {
    netns: NetnsName,
    /// The units of its sections.
    units: BTreeSet<String>,
    /// The names under which its tunnels' daemons write.
    daemons: Vec<String>,
}

impl Subject {
    fn of_word(word: &str) -> Result<Self> {
        let config = Config::load_default().unwrap_or_default();
        let built = Record::names().unwrap_or_default();
        let is_there = |name: &NetnsName| {
            built.contains(name) || Path::new("/run/netns").join(name.as_str()).exists()
        };
        let netns = match NetnsName::new(word).ok().filter(is_there) {
            Some(name) => name,
            None => match word::section(word, &config) {
                Some(section) => section.netns.clone(),
                None => {
                    let near = word::near(word, &config);
                    return Err(word::unknown("show the log of", word, near.as_deref()));
                }
            },
        };
        let record = Record::load(&netns).ok().flatten();
        let built_from = record.and_then(|record| record.plan.request.section);
        let own = config.sections.iter().filter(|own| own.netns == netns);
        let names = own.map(|section| section.name.clone()).chain(built_from);
        Ok(Self {
            units: names.map(|name| format!("runns@{name}.service")).collect(),
            daemons: launch::log_names(&netns),
            netns,
        })
    }

    /// Whether a message of this program is about the namespace: `built NAME: ...`, `user=alice
    /// netns=NAME command=...`.
    fn is_named_in(&self, message: &str) -> bool {
        for word in message.split_whitespace() {
            let name = word.strip_prefix("netns=").unwrap_or(word);
            if name.strip_suffix(':').unwrap_or(name) == self.netns.as_str() {
                return true;
            }
            if word.ends_with(':') || word.starts_with("command=") {
                return false;
            }
        }
        false
    }

    fn is_in(&self, name: &str, unit: Option<&str>, message: &str) -> bool {
        self.daemons.iter().any(|daemon| daemon == name)
            || unit.is_some_and(|unit| self.units.contains(unit))
            || name == OWN && self.is_named_in(message)
    }

    fn journal(&self, follow: bool) -> Result<()> {
        let zone = Zone::of_user();
        let mut last = VecDeque::new();
        let (mut cursor, mut any) = (None, false);
        each_line(self.journalctl(&[]), |line| {
            let Some(entry) = Entry::parse(line) else {
                return Ok(());
            };
            let shown = self.shown(&entry, &zone);
            cursor = entry.cursor;
            let Some(shown) = shown else { return Ok(()) };
            any = true;
            if !follow {
                return print(&shown);
            }
            last.push_back(shown);
            last.drain(..last.len().saturating_sub(LAST));
            Ok(())
        })?;
        if !follow {
            self.complain_of_nothing(any);
            return Ok(());
        }
        print(&last.into_iter().collect::<String>())?;
        let after = cursor.map_or("--lines=0".to_string(), |cursor: String| {
            format!("--after-cursor={cursor}")
        });
        let new = self.journalctl(&["--follow", "--no-tail", &after]);
        each_line(new, |line| {
            let entry = Entry::parse(line);
            match entry.and_then(|entry| self.shown(&entry, &zone)) {
                Some(shown) => print(&shown),
                None => Ok(()),
            }
        })
    }

    fn journalctl(&self, options: &[&str]) -> Command {
        let fields = "MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,UNIT,_SYSTEMD_UNIT";
        let mut matches = vec![format!("SYSLOG_IDENTIFIER={OWN}")];
        let daemons = self.daemons.iter();
        matches.extend(daemons.map(|daemon| format!("SYSLOG_IDENTIFIER={daemon}")));
        for unit in &self.units {
            matches.extend([format!("UNIT={unit}"), format!("_SYSTEMD_UNIT={unit}")]);
        }
        let mut command = tool("journalctl");
        command
            .args(["--no-pager", "--output=json"])
            .arg(format!("--output-fields={fields}"))
            .args(options)
            // A plus sign means or (journalctl(1)).
            .args(matches.join("\n+\n").lines());
        command
    }

    fn shown(&self, entry: &Entry, zone: &Zone) -> Option<String> {
        let Entry {
            name, pid, message, ..
        } = entry;
        let is_in = entry
            .units
            .iter()
            .map(|unit| Some(unit.as_str()))
            .chain([None])
            .any(|unit| self.is_in(name, unit, message));
        let (time, name) = (zone.table(entry.time), escape(name.as_bytes()));
        let message = escape(message.as_bytes());
        is_in.then(|| format!("{time} {name}[{}]: {message}\n", escape(pid.as_bytes())))
    }

    fn files(&self, follow: bool) -> Result<()> {
        let open = FILES.map(|path| (path, File::open(path)));
        let readable = open
            .into_iter()
            .filter_map(|(path, file)| Some((path, file.ok()?)));
        let readable: Vec<(&str, File)> = readable.collect();
        if readable.is_empty() {
            let cause = format!("there is no journal, and none of {}", FILES.join(", "));
            let error = Error::new("read the log", cause + " can be read");
            return Err(match nix::unistd::geteuid().is_root() {
                true => error,
                false => error.hint(format!("sudo runns-exec log {}", self.netns)),
            });
        }
        let paths: Vec<&str> = readable.iter().map(|(path, _)| *path).collect();
        let mut found = VecDeque::new();
        for (_, file) in readable {
            for line in BufReader::new(file).split(b'\n') {
                let line = line.cannot(|| "read the log")?;
                let text = String::from_utf8_lossy(&line);
                if let Some(time) = self.time_of(&text) {
                    found.push_back((time, escape(&line)));
                    found.drain(..found.len().saturating_sub(MOST));
                }
            }
        }
        // One message may be in several files.
        let mut lines = Vec::from(found);
        lines.sort();
        lines.dedup();
        let from = if follow {
            lines.len().saturating_sub(LAST)
        } else {
            0
        };
        let shown = lines[from..].iter().map(|(_, line)| format!("{line}\n"));
        print(&shown.collect::<String>())?;
        if !follow {
            self.complain_of_nothing(!lines.is_empty());
            return Ok(());
        }
        let mut tail = tool("tail");
        tail.args(["-q", "-n", "0", "-F", "--"]).args(paths);
        each_line(tail, |line| match self.time_of(line) {
            Some(_) => print(&format!("{}\n", escape(line.as_bytes()))),
            None => Ok(()),
        })
    }

    /// When a line of a file was written, in a form that can be sorted, if it is about the
    /// namespace. Lines begin with the time, as RFC 3339 or RFC 3164 have it, and the host.
    fn time_of(&self, line: &str) -> Option<String> {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        let time = match first.starts_with(|c: char| c.is_ascii_digit()) {
            true => first.to_string(),
            false => {
                const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
                let month = MONTHS.find(first)? / 3;
                let day: u8 = words.next()?.parse().ok()?;
                format!("{month:02} {day:02} {}", words.next()?)
            }
        };
        words.next()?;
        let tag = words.next()?;
        let name = tag.split(['[', ':']).next()?;
        let message = line.split_once(tag)?.1;
        let of_unit = |unit: &&String| message.contains(unit.as_str());
        let unit = self.units.iter().find(of_unit);
        self.is_in(name, unit.map(String::as_str), message)
            .then_some(time)
    }

    fn complain_of_nothing(&self, any: bool) {
        if !any {
            complain(&format!(
                "there is nothing about {} that you may read",
                self.netns
            ));
        }
    }
}

/// An entry of the journal, in the format of `journalctl --output=json`.
struct Entry {
    cursor: Option<String>,
    /// In seconds since the epoch.
    time: i64,
    name: String,
    pid: String,
    message: String,
    /// The unit that it comes from, and the one that it is about.
    units: Vec<String>,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let entry: Value = serde_json::from_str(line).ok()?;
        let text = |field: &str| match entry.get(field)? {
            Value::String(text) => Some(text.clone()),
            // Bytes that are no text.
            Value::Array(bytes) => {
                let bytes = bytes.iter().filter_map(Value::as_u64);
                let bytes: Vec<u8> = bytes.filter_map(|byte| byte.try_into().ok()).collect();
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ => None,
        };
        let microseconds: i64 = text("__REALTIME_TIMESTAMP")?.parse().ok()?;
        Some(Self {
            cursor: text("__CURSOR"),
            time: microseconds / 1_000_000,
            name: text("SYSLOG_IDENTIFIER").unwrap_or_default(),
            pid: text("SYSLOG_PID")
                .or_else(|| text("_PID"))
                .unwrap_or_default(),
            message: text("MESSAGE").unwrap_or_default(),
            units: [text("UNIT"), text("_SYSTEMD_UNIT")]
                .into_iter()
                .flatten()
                .collect(),
        })
    }
}

/// A program with the caller's rights; what it complains of is said.
fn tool(program: &str) -> Command {
    let mut command = Command::new(tool::find(program).unwrap_or_default());
    command
        .env_clear()
        .env("PATH", tool::PATH)
        .stdin(Stdio::null());
    command
}

/// Calls `show` with each line of what a program prints. It is ended if that fails.
fn each_line(mut command: Command, mut show: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let cannot = || "read the log";
    let mut child: Child = command.stdout(Stdio::piped()).spawn().cannot(cannot)?;
    let lines = child.stdout.take().into_iter();
    let mut lines = lines.flat_map(|output| BufReader::new(output).split(b'\n'));
    let result = lines.try_for_each(|line| {
        let line = line.cannot(cannot)?;
        show(&String::from_utf8_lossy(&line))
    });
    if result.is_err() {
        let _ = child.kill();
    }
    let _ = child.wait();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            netns: NetnsName::new("work").unwrap(),
            units: ["runns@job.service".to_string()].into(),
            daemons: vec!["openvpn-work".to_string()],
        }
    }

    #[test]
    fn lines_of_files() {
        let time = |line: &str| subject().time_of(line);
        for (line, is_in) in [
            ("Nov  8 03:04:05 host openvpn-work[7]: Exiting", true),
            ("Nov  8 03:04:05 host openvpn-works[7]: Exiting", false),
            ("Nov  8 03:04:05 host runns-exec[7]: built work: a", true),
            (
                "Nov  8 03:04:05 host runns-exec[7]: built other: work",
                false,
            ),
            (
                "Nov  8 03:04:05 host runns-exec[7]: uid=1 netns=work command=x",
                true,
            ),
            (
                "Nov  8 03:04:05 host runns-exec[7]: uid=1 netns=a command=ls work",
                false,
            ),
            (
                "Nov  8 03:04:05 host systemd[1]: runns@job.service: Failed",
                true,
            ),
            ("Nov  8 03:04:05 host bash[1]: built work: a", false),
        ] {
            let wanted = is_in.then(|| "10 08 03:04:05".to_string());
            assert_eq!(time(line), wanted, "{line}");
        }
        let line = "2026-11-08T03:04:05.123+01:00 host runns-exec[7]: build of work failed: x";
        assert_eq!(time(line).as_deref(), Some("2026-11-08T03:04:05.123+01:00"));
        assert_eq!(time("nonsense"), None);
    }
}
