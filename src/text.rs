//! Text for people: escaping of untrusted bytes, names that were nearly right, output that may fail.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Context, Error, Result};

/// `bytes` as text on one line: UTF-8 stays, but control characters, invalid bytes, backslashes and the characters
/// that change the direction or visibility of text are written as `\n`, `\x1b` or `\u{202e}`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() && u32::from(c) < 0x100 => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if is_invisible(c) => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// `text` on one line: like [`escape`], but what is escaped already stays as it is.
pub fn one_line(text: &str) -> String {
    escape(text.as_bytes()).replace("\\\\", "\\")
}

/// Format and separator characters: they move the cursor, reorder text or show nothing.
fn is_invisible(character: char) -> bool {
    matches!(u32::from(character),
        0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb
        | 0xe0000..=0xe007f)
}

/// [`escape`] for a path.
pub fn show(path: impl AsRef<Path>) -> String {
    escape(path.as_ref().as_os_str().as_bytes())
}

/// The candidate nearest to `word` that is near enough to be what was meant, compared without case.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance (Levenshtein) in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// Writes a result to stdout. A closed pipe or descriptor and a full disk are errors, not a panic.
pub fn print(text: &str) -> Result<()> {
    // Not std's Stdout, which takes a closed descriptor for a success.
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().cannot(|| "write to standard output")?;
    File::from(stdout).write_all(text.as_bytes()).cannot(|| "write to standard output")
}

/// Writes one line `runns-exec: ...` to stderr; nobody can be told if that fails.
pub fn complain(text: &str) {
    let _ = std::io::stderr().write_all(format!("runns-exec: {text}\n").as_bytes());
}

/// Writes a question to stderr, without a line end.
pub fn prompt(question: &str) {
    let _ = std::io::stderr().write_all(question.as_bytes());
}

/// Asks a question on the terminal that is stdin; with `echo` false, what is typed is not shown.
pub fn ask(question: &str, echo: bool) -> Result<String> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    prompt(question);
    let before = tcgetattr(&stdin).cannot(|| "read the terminal's mode")?;
    if !echo {
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).cannot(|| "set the terminal's mode")?;
    }
    let mut answer = String::new();
    let result = stdin.lock().read_line(&mut answer).cannot(|| "read the answer");
    if !echo {
        let _ = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
        prompt("\n");
    }
    result?;
    Ok(answer.trim_end_matches('\n').to_string())
}

/// Writes one line `hint: ...` to stderr.
pub fn complain_hint(text: &str) {
    let _ = std::io::stderr().write_all(format!("hint: {text}\n").as_bytes());
}

/// Says an error: one line, and its hint on another, in one write so that lines of other programs stay apart.
pub fn complain_error(error: &Error) {
    let hint = error.hint_text().map_or(String::new(), |hint| format!("hint: {hint}\n"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_keeps_one_line_and_shows_everything() {
        assert_eq!(escape(b"plain \xc3\xa9"), "plain é");
        assert_eq!(escape(b"a\nb\x1b[31m\\\xff"), "a\\nb\\x1b[31m\\\\\\xff");
        assert_eq!(escape("\u{202e}evil\u{9b}".as_bytes()), "\\u{202e}evil\\x9b");
    }

    #[test]
    fn nearest_finds_what_was_meant() {
        assert_eq!(nearest("interfacein", ["Resolve", "InterfaceIn", "InterfaceOut"]), Some("InterfaceIn"));
        assert_eq!(nearest("Resolv", ["Resolve", "vpn"]), Some("Resolve"));
        assert_eq!(nearest("zzz", ["Resolve", "vpn"]), None);
    }
}
