//! What the programs say: results on stdout, everything else on stderr.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::error::{Context, Error, Result};
use crate::escape::{escape_json, one_line};

/// Writes a result to stdout. A closed pipe or descriptor and a full disk are errors, not a panic.
pub fn print(text: &str) -> Result<()> {
    // Not std's Stdout, which takes a closed descriptor for a success.
    let stdout = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .cannot(|| "write to standard output")?;
    File::from(stdout)
        .write_all(text.as_bytes())
        .cannot(|| "write to standard output")
}

/// Whether stdout is a terminal that shows colours, of somebody who wants them (no-color.org).
pub fn is_coloured() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal()
        && !unwanted
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes a result to stdout as JSON, on one line.
pub fn print_json(result: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(result).cannot(|| "write JSON")?;
    print(&(escape_json(&text) + "\n"))
}

/// Writes one line `runns-exec: ...` to stderr; nobody can be told if that fails.
pub fn complain(text: &str) {
    let _ = std::io::stderr().write_all(format!("runns-exec: {}\n", one_line(text)).as_bytes());
}

/// Writes one line `hint: ...` to stderr.
pub fn complain_hint(text: &str) {
    let _ = std::io::stderr().write_all(hint(text).as_bytes());
}

fn hint(text: &str) -> String {
    format!("hint: {}\n", one_line(text))
}

/// Says an error: one line, and its hint on another, in one write so that lines of other programs
/// stay apart.
pub fn complain_error(error: &Error) {
    let hint = error.hint_text().map_or(String::new(), hint);
    let _ = std::io::stderr().write_all(format!("runns-exec: {error}\n{hint}").as_bytes());
}

/// Whether `-v` was given.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Says each step from now on.
pub fn be_verbose() {
    VERBOSE.store(true, Ordering::Relaxed);
}

/// Says a step on stderr, if that was asked for.
pub fn step(text: impl FnOnce() -> String) {
    if VERBOSE.load(Ordering::Relaxed) {
        complain(&text());
    }
}

/// A warning: the work goes on.
pub fn warn(text: &str) {
    complain(&format!("warning: {text}"));
}

/// A panic (a defect) is one line on stderr, and ends the process with `status`.
pub fn die_on_panic(status: u8) {
    runns_sys::process::set_fatal_status(status);
    std::panic::set_hook(Box::new(|panic| {
        let text = one_line(&panic.to_string());
        runns_sys::process::die(&format!("runns-exec: cannot go on: defect: {text}\n"))
    }));
}
