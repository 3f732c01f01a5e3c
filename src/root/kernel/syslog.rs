//! Lines of a daemon's for the system log, under the daemon's name.

use std::os::unix::net::UnixDatagram;

use runns_shared::escape::one_line;

/// Characters of a line that are kept.
const LONGEST: usize = 1000;
/// Facility daemon, severity info (RFC 3164, 4.1.1).
const PRIORITY: u8 = 3 << 3 | 6;

/// Where its lines go.
pub struct Journal {
    name: String,
    socket: Option<UnixDatagram>,
}

impl Journal {
    /// Of a daemon with this name.
    pub fn new(name: String) -> Self {
        let socket = UnixDatagram::unbound().ok();
        // A log that does not read stops nobody.
        let socket = socket.filter(|socket| socket.set_nonblocking(true).is_ok());
        Self { name, socket }
    }

    /// Logs a line, if there is a log.
    pub fn line(&self, text: &str) {
        let text: String = text.chars().take(LONGEST).collect();
        let (name, pid) = (&self.name, std::process::id());
        let line = format!("<{PRIORITY}>{name}[{pid}]: {}", one_line(&text));
        if let Some(socket) = &self.socket {
            // By its name each time: the log may have been restarted.
            let _ = socket.send_to(line.as_bytes(), "/dev/log");
        }
    }
}
