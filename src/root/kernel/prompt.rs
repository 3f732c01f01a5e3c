//! Questions on the terminal.

use std::io::{BufRead, Write};

use runns_shared::error::{Context, Result};
use runns_shared::escape::one_line;

/// Writes a question, which may be a server's, to stderr, on one line and without a newline.
pub fn prompt(question: &str) {
    let _ = std::io::stderr().write_all(one_line(question).as_bytes());
}

/// Asks a question on the terminal and reads the answer from stdin, which must be that terminal.
/// Without `echo`, the answer is not shown while it is typed.
pub fn ask(question: &str, echo: bool) -> Result<String> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).cannot(|| "read the terminal's mode")?;
    if !echo {
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).cannot(|| "set the terminal's mode")?;
    }
    // Only now: what is typed before would be thrown away (TCSAFLUSH).
    prompt(question);
    let mut answer = String::new();
    let result = stdin
        .lock()
        .read_line(&mut answer)
        .cannot(|| "read the answer");
    if !echo {
        let _ = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
        let _ = std::io::stderr().write_all(b"\n");
    }
    result?;
    Ok(answer.trim_end_matches('\n').to_string())
}
