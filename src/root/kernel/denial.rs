//! What a security module (AppArmor, SELinux) denied to a program that did not start. The program
//! itself only sees EACCES, and says something else.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use nix::fcntl::OFlag;

use runns_shared::error::Error;
use runns_shared::escape::escape;

/// The kernel's log, and the log of auditd(8), which keeps the kernel from writing to its own.
const LOGS: [&str; 2] = ["/dev/kmsg", "/var/log/audit/audit.log"];
/// As much as is read of the end of a file.
const END: u64 = 64 << 10;
/// The longest record of /dev/kmsg (PRINTKRB_RECORD_MAX, kernel/printk/internal.h).
const LONGEST: usize = 8 << 10;

/// An error of `program`, which was started at `begin`, with the denial as its cause if the logs
/// have one.
pub fn name_denial(error: Error, program: &str, begin: SystemTime) -> Error {
    let begin = begin
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64());
    let texts = LOGS.map(|log| end_of(log).unwrap_or_default());
    let denial = texts
        .iter()
        .flat_map(|text| text.lines().rev())
        .find_map(|line| Denial::parse(line, program, begin));
    match denial {
        Some(denial) => Error::new(error.action(), &denial.cause).hint(denial.hint),
        None => error,
    }
}

/// One line of the log.
#[derive(Debug, PartialEq, Eq)]
struct Denial {
    cause: String,
    hint: String,
}

impl Denial {
    /// What the line says, if it is a denial to `program` that is not older than `begin`, in seconds
    /// since the epoch.
    fn parse(line: &str, program: &str, begin: f64) -> Option<Self> {
        let time = line.split_once("audit(")?.1.split(':').next()?;
        let value = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}="))?;
            let value = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => rest.split_whitespace().next(),
            };
            value.map(|value| escape(value.as_bytes()))
        };
        let is_recent = time.parse::<f64>().is_ok_and(|time| time >= begin);
        if !is_recent || value("comm")? != program {
            return None;
        }
        let object = value("name").or_else(|| value("path"));
        let object = object.map_or_else(String::new, |name| format!(" to {name}"));
        if line.contains("apparmor=\"DENIED\"") {
            let (profile, operation) = (value("profile")?, value("operation")?);
            return Some(Self {
                cause: format!("AppArmor's profile {profile} denied {program} {operation}{object}"),
                hint: format!(
                    "add a rule to /etc/apparmor.d/local/{profile}, then: sudo systemctl reload apparmor"
                ),
            });
        }
        let denied = line.split_once("avc:  denied  {")?.1.split('}').next()?;
        let (context, class) = (value("scontext")?, value("tclass")?);
        let denied = escape(denied.trim().as_bytes());
        Some(Self {
            cause: format!("SELinux denied {program} ({context}) {denied} of a {class}{object}"),
            hint: format!("sudo ausearch -m AVC -c {program}"),
        })
    }
}

/// The end of a log.
fn end_of(log: &str) -> std::io::Result<String> {
    let mut file = std::fs::File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(log)?;
    let mut text = Vec::new();
    if let Ok(length) = file.metadata().map(|file| file.len()) {
        // One of the kernel's log has no length.
        if length > 0 {
            file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
        }
    }
    let mut record = vec![0; LONGEST];
    loop {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&record[..length]),
            // A record was overwritten before it was read (Documentation/ABI/testing/dev-kmsg).
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials() {
        let apparmor = "4,1,2,-;audit: type=1400 audit(1764297000.123:45): apparmor=\"DENIED\" operation=\"mknod\" class=\"file\" \
                        profile=\"openvpn\" name=\"/run/runns/a.d/private/0/own/socket\" pid=7 comm=\"openvpn\" requested_mask=\"c\"";
        let cause =
            |line, program, begin| Denial::parse(line, program, begin).map(|denial| denial.cause);
        assert_eq!(
            cause(apparmor, "openvpn", 1764297000.0).unwrap(),
            "AppArmor's profile openvpn denied openvpn mknod to /run/runns/a.d/private/0/own/socket"
        );
        assert_eq!(cause(apparmor, "wg", 0.0), None);
        assert_eq!(
            cause(apparmor, "openvpn", 1764297001.0),
            None,
            "an older one"
        );
        assert_eq!(cause("audit(x): comm=", "openvpn", 0.0), None);
        let selinux = "type=AVC msg=audit(1764297000.123:45): avc:  denied  { search } for  pid=7 comm=\"openvpn\" name=\"/\" \
                       dev=\"tmpfs\" scontext=system_u:system_r:openvpn_t:s0 tcontext=system_u:object_r:tmpfs_t:s0 tclass=dir permissive=0";
        assert_eq!(
            cause(selinux, "openvpn", 1764297000.0).unwrap(),
            "SELinux denied openvpn (system_u:system_r:openvpn_t:s0) search of a dir to /"
        );
        let mapped = selinux
            .replace("{ search }", "{ map }")
            .replace(" name=", " path=");
        assert_eq!(
            cause(&mapped, "openvpn", 1764297000.0).unwrap(),
            "SELinux denied openvpn (system_u:system_r:openvpn_t:s0) map of a dir to /"
        );
    }
}
