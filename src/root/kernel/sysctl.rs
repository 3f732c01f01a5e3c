//! The kernel's settings (proc(5), /proc/sys) of the calling thread's network namespace.

use std::path::Path;

use runns_shared::error::{Context, Result};
use runns_shared::escape::show;

/// Reads the sysctl `name` (a path below /proc/sys), without its newline; `None` if this kernel or
/// network namespace does not have it.
pub fn sysctl(name: &str) -> Result<Option<String>> {
    let path = Path::new("/proc/sys").join(name);
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        value => Ok(Some(
            value
                .cannot(|| format!("read {}", show(&path)))?
                .trim()
                .to_string(),
        )),
    }
}

/// The sysctl by which a device drops what comes from an address that it has no route to.
pub fn rp_filter(device: &str) -> String {
    format!("net/ipv4/conf/{device}/rp_filter")
}

/// The value of [`rp_filter`] with which a route by any device will do.
pub const LOOSE: &str = "2";

/// Whether a route has to lead out by the same device. The greater of the device's value and that
/// for all counts (ip-sysctl.rst).
pub fn filters_strictly(device: Option<&str>, all: Option<&str>) -> bool {
    device.max(all) == Some("1")
}

/// Gives sysctls their earlier values, as far as they still exist: an interface may have been
/// removed.
pub fn restore_sysctls(before: &[(String, String)]) -> Result<()> {
    for (name, value) in before {
        if sysctl(name)?.is_some() {
            set_sysctl(name, value)?;
        }
    }
    Ok(())
}

/// Writes the sysctl `name`, unless it has this value already.
pub fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    if sysctl(name)?.as_deref() == Some(value) {
        return Ok(());
    }
    std::fs::write(&path, value).cannot(|| format!("write {value} to {}", show(&path)))
}
