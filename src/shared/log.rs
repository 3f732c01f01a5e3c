//! The audit trail: lines to syslog (facility authpriv). Logging never blocks and its absence stops
//! nothing.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::escape::one_line;
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

/// Longest message; what is longer is cut here and marked.
const LONGEST: usize = 1024;

/// The lines of RFC 3164 as syslog(3) writes them, but for the time, which every receiver sets when
/// it is missing (section 4.3.2): `<PRI>runns-exec[PID]: MESSAGE`. No file of time zones, named by
/// the environment or not, is read.
struct LocalFormat;

impl LogFormat<&str> for LocalFormat {
    fn format<W: Write>(
        &self,
        to: &mut W,
        severity: Severity,
        message: &str,
    ) -> syslog::Result<()> {
        let priority = Facility::LOG_AUTHPRIV as u32 | severity as u32;
        let pid = std::process::id();
        write!(to, "<{priority}>runns-exec[{pid}]: {message}").map_err(syslog::Error::Write)
    }
}

/// One line of priority notice. It is made only if there is a log.
pub fn notice<T: AsRef<str>>(message: impl FnOnce() -> T) {
    if let Some(mut logger) = logger() {
        let _ = logger.notice(cut(message().as_ref()).as_str());
    }
}

/// One line of priority warning: something was refused.
pub fn refused<T: AsRef<str>>(message: impl FnOnce() -> T) {
    if let Some(mut logger) = logger() {
        let _ = logger.warning(cut(message().as_ref()).as_str());
    }
}

/// syslog's own connection would wait as long as the log's queue is full, so it gets a socket that
/// does not.
fn logger() -> Option<Logger<LoggerBackend, LocalFormat>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None).ok()?;
    let socket = UnixDatagram::from(socket);
    socket.connect("/dev/log").ok()?;
    Some(Logger::new(LoggerBackend::Unix(socket), LocalFormat))
}

/// `message` on one line, at most [`LONGEST`] bytes of it, never half a character.
fn cut(message: &str) -> String {
    let message = one_line(message);
    if message.len() <= LONGEST {
        return message;
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
