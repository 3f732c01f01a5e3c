//! What runns-exec hands over to the program for root as it executes it, because that program could
//! not see it without capabilities: a file in memory, whose descriptor stands before the arguments.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;

use crate::error::{Context, Error, Result, status};

/// The word before the number of the descriptor. No subcommand or namespace can have its name.
pub const WORD: &str = ".handed-over";

/// How much it can be, in bytes.
const MOST: u64 = 256 << 20;

/// Takes what was handed over, and the words that say where it is, from the command line. It is
/// believed: it shows nobody more than they could write there themselves.
pub fn take(words: &mut Vec<OsString>) -> Result<Option<Vec<u8>>> {
    if words.get(1).is_none_or(|word| word != WORD) {
        return Ok(None);
    }
    let descriptor = words
        .get(2)
        .and_then(|word| word.to_str())
        .and_then(|word| word.parse::<u32>().ok());
    let descriptor = descriptor.ok_or_else(|| wrong("no descriptor is named"))?;
    let path = format!("/proc/self/fd/{descriptor}");
    // Opened anew: read from its beginning.
    let file = File::open(&path).cannot(|| format!("open {path}"))?;
    let mut bytes = Vec::new();
    file.take(MOST)
        .read_to_end(&mut bytes)
        .cannot(|| format!("read {path}"))?;
    words.drain(1..3);
    Ok(Some(bytes))
}

/// The error for what runns-exec has not written.
pub fn wrong(cause: &str) -> Error {
    Error::new("read what runns-exec found", cause).with_status(status::USAGE)
}
