//! `runns-exec list`: prints the processes that runns-exec found in named network namespaces.

use std::collections::HashMap;

use runns_shared::account;
use runns_shared::clock;
use runns_shared::error::{Error, Result};
use runns_shared::escape::escape;
use runns_shared::handed_over;
use runns_shared::listed::Listed;
use runns_shared::output::{print, print_json};
use runns_shared::proc::parse_command_line;
use runns_shared::record::Record;
use runns_sys::process;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::kernel::text_table::{Heading, lines, terminal_width};
use crate::kernel::zone::Zone;

/// Prints what was handed over, as JSON or as a table.
pub fn run(json: bool, handed_over: Option<Vec<u8>>) -> Result<()> {
    let bytes = handed_over.ok_or_else(|| {
        Error::new("list processes", "runns-exec has to find them").hint("run runns-exec list")
    })?;
    let found =
        Listed::from_bytes(&bytes).ok_or_else(|| handed_over::wrong("it is something else"))?;
    let zone = Zone::of_user();
    let rows = rows(found, &zone);
    if json {
        return print_json(&rows);
    }
    print(&table(&rows, terminal_width()))
}

/// What is printed of one process.
struct Row<'a> {
    zone: &'a Zone,
    process: Listed,
    user: String,
    /// It is the daemon of a tunnel.
    is_daemon: bool,
    /// Seconds since the epoch.
    started: i64,
}

fn rows(found: Vec<Listed>, zone: &Zone) -> Vec<Row<'_>> {
    // Each uid is looked up once.
    let mut users: HashMap<u32, String> = HashMap::new();
    let mut name_of = |uid: u32| {
        let name = || account::user_by_id(uid).map_or_else(|| uid.to_string(), |user| user.name);
        users.entry(uid).or_insert_with(name).clone()
    };
    let (boot, ticks) = (clock::boot_time(), process::clock_ticks());
    let row = |process: Listed| {
        let since_boot = process.start_time.saturating_mul(1_000_000_000 / ticks);
        let user = name_of(process.uid);
        Row {
            zone,
            // The user IDs of daemons have no names.
            is_daemon: user.starts_with(|c: char| c.is_ascii_digit()) && is_daemon(&process),
            user,
            started: boot.saturating_add_unsigned(since_boot) / 1_000_000_000,
            process,
        }
    };
    found.into_iter().map(row).collect()
}

/// Whether a process is the daemon of a tunnel, as the namespace's record says.
fn is_daemon(process: &Listed) -> bool {
    let record = Record::load(&process.namespace).ok().flatten();
    record.is_some_and(|record| {
        let mut daemons = record.daemons.iter();
        daemons.any(|daemon| (daemon.pid, daemon.start_time) == (process.pid, process.start_time))
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
        cell: |row| row.process.namespace.to_string(),
        value: |row| row.process.namespace.as_str().into(),
    },
    Column {
        heading: Some("PID"),
        right: true,
        field: "pid",
        cell: |row| row.process.pid.to_string(),
        value: |row| row.process.pid.into(),
    },
    Column {
        heading: None,
        right: true,
        field: "ppid",
        cell: |_| String::new(),
        value: |row| row.process.ppid.into(),
    },
    Column {
        heading: None,
        right: true,
        field: "uid",
        cell: |_| String::new(),
        value: |row| row.process.uid.into(),
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
        cell: |row| escape(&parse_command_line(&row.process.command).join(&b' ')),
        value: |row| {
            parse_command_line(&row.process.command)
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

    use runns_shared::name::NetnsName;

    use super::*;

    static ZONE: LazyLock<Zone> = LazyLock::new(Zone::of_user);

    fn row() -> Row<'static> {
        let process = Listed {
            namespace: NetnsName::new("vpn1").unwrap(),
            pid: 7,
            ppid: 1,
            uid: 1000,
            start_time: 0,
            command: b"sh\0\x1b[2J\xff \xe2\x80\xae\0".to_vec(),
        };
        Row {
            zone: &ZONE,
            process,
            user: "b\u{fc}r\t".into(),
            is_daemon: false,
            started: 0,
        }
    }

    #[test]
    fn a_line_of_the_table_is_one_line() {
        let text = table(&[row()], None);
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
        let text = serde_json::to_string(&row()).unwrap();
        let start = "{\"namespace\":\"vpn1\",\"pid\":7,\"ppid\":1,\"uid\":1000,\"user\":\"b\u{fc}r\\t\",\"started\":\"";
        assert!(text.starts_with(start), "{text}");
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["command"][1], "\u{1b}[2J\u{fffd} \u{202e}");
    }
}
