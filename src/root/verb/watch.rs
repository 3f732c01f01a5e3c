//! `status --watch`: shows the table again and again, with what goes through each tunnel. Each look
//! is a call of runns-exec, which sees the inside of namespaces for a member of the group as well.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::kernel::text_table::width_of;
use crate::kernel::tool;
use crate::report::{self, Status};
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::output;
use runns_sys::tty;

/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(2);
/// Moves the cursor to the upper left corner, and clears everything behind it (console_codes(4)).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Shows the table until somebody presses Ctrl-C, which ends this process: no mode of the terminal
/// is changed. Returns false if a look has failed and said why.
pub fn run(words: &[OsString]) -> Result<bool> {
    if !std::io::stdout().is_terminal() {
        let cause = "standard output is not a terminal";
        let error = Error::new("watch namespaces", cause);
        return Err(error.hint("without --watch, status prints the table once; --json adds what tunnels have received and sent"));
    }
    let mut earlier: Option<(Instant, Vec<Status>)> = None;
    loop {
        let Some(mut statuses) = look(words)? else {
            return Ok(false);
        };
        let now = Instant::now();
        if let Some((then, earlier)) = &earlier {
            report::set_rates(&mut statuses, earlier, now - *then);
        }
        output::print(&format!(
            "{CLEAR}{}",
            fitting(&report::table(&statuses, true))
        ))?;
        earlier = Some((now, statuses));
        std::thread::sleep(PERIOD);
    }
}

/// What one `status` says; `None` if it failed.
fn look(words: &[OsString]) -> Result<Option<Vec<Status>>> {
    let program = tool::prefix()?.join("bin/runns-exec");
    let looked = Command::new(&program)
        .args(["status", "--json", "--"])
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .cannot(|| format!("execute {}", show(&program)))?;
    if looked.stdout.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&looked.stdout)
        .map(Some)
        .cannot(|| "read what status prints")
}

/// The lines that fit on the terminal.
fn fitting(text: &str) -> String {
    let size = tty::window_size(std::io::stdout()).ok();
    let size = size.filter(|size| size.ws_row > 1 && size.ws_col > 0);
    let Some((rows, columns)) = size.map(|size| (size.ws_row.into(), size.ws_col.into())) else {
        return text.to_string();
    };
    cut(text, rows, columns)
}

/// As many lines as fit into so many rows, the cursor's included, and how many are left out.
fn cut(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let height = |line: &&str| width(line).max(1).div_ceil(columns);
    if lines.iter().map(height).sum::<usize>() < rows {
        return text.to_string();
    }
    let mut used = 0;
    let fits = |line: &&&str| {
        used += height(line);
        used + 2 <= rows
    };
    let shown: Vec<&str> = lines.iter().take_while(fits).copied().collect();
    format!(
        "{}\nmore lines: {}\n",
        shown.join("\n"),
        lines.len() - shown.len()
    )
}

/// The columns of a line that may have coloured words: `ESC [ NUMBER m`.
fn width(line: &str) -> usize {
    let mut pieces = line.split('\x1b');
    let first = pieces.next().map_or(0, width_of);
    let rest = pieces.filter_map(|piece| Some(width_of(piece.split_once('m')?.1)));
    first + rest.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_do_not_fit_are_counted() {
        let text = "NAME\none\ntwo is too long\nthree\n";
        assert_eq!(cut(text, 6, 10), text);
        assert_eq!(cut(text, 5, 10), "NAME\none\nmore lines: 2\n");
        assert_eq!(cut(text, 5, 20), text);
        assert_eq!(cut(text, 3, 20), "NAME\nmore lines: 3\n");
    }

    #[test]
    fn colours_have_no_width() {
        assert_eq!(width("a  \x1b[32mok\x1b[0m  b"), 8);
    }
}
