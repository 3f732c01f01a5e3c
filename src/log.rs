//! The audit trail: lines to syslog (facility authpriv). Logging never blocks and its absence stops nothing.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

use syslog::{Facility, LogFormat, Severity};

use crate::sys::clock;

/// Longest message; what is longer is cut here and marked.
const LONGEST: usize = 1024;

/// The lines of RFC 3164 as syslog(3) writes them: `<PRI>Mon DD HH:MM:SS runns-exec[PID]: MESSAGE`.
struct LocalFormat;

impl LogFormat<&str> for LocalFormat {
    fn format<W: Write>(&self, to: &mut W, severity: Severity, message: &str) -> syslog::Result<()> {
        let priority = Facility::LOG_AUTHPRIV as u32 | severity as u32;
        let time = clock::local(clock::now()).syslog();
        let pid = std::process::id();
        write!(to, "<{priority}>{time} runns-exec[{pid}]: {message}").map_err(syslog::Error::Write)
    }
}

/// One line of priority notice. `message` is escaped already.
pub fn notice(message: &str) {
    send(Severity::LOG_NOTICE, message);
}

/// One line of priority warning: something was refused.
pub fn refused(message: &str) {
    send(Severity::LOG_WARNING, message);
}

fn send(severity: Severity, message: &str) {
    let mut line = Vec::with_capacity(message.len() + 64);
    if LocalFormat.format(&mut line, severity, &cut(message)).is_err() {
        return;
    }
    let Ok(socket) = UnixDatagram::unbound() else { return };
    let _ = socket.set_nonblocking(true).and_then(|()| socket.connect("/dev/log")).and_then(|()| socket.send(&line));
}

/// `message`, at most [`LONGEST`] bytes of it, never half a character.
fn cut(message: &str) -> String {
    if message.len() <= LONGEST {
        return message.to_string();
    }
    let mut end = LONGEST - 3;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"é".repeat(2000));
        assert!(long.len() <= LONGEST && long.ends_with("..."));
    }
}
