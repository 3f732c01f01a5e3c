//! Executes the program for root, which has all subcommands except exec, check and list, without any
//! capability.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, stat};
use runns_privileged::capability::{refuse_user_namespace, renounce};
use runns_shared::error::{Context, Error, Result, words};
use runns_shared::escape::show;
use runns_shared::output::step;
use runns_shared::trusted::{self, Trust};
use runns_sys::process;

/// Its path below PREFIX, the parent of the directory that contains this program.
const PLACE: &str = "libexec/runns-exec/runns-exec-root";

/// Executes the program for root with the same arguments and environment.
/// `action` is what it is for.
pub fn execute(action: &str, arguments: &[&CStr], environment: &[&CStr]) -> Result<Infallible> {
    // In a user namespace anybody can be root, and nothing belongs to the real one.
    refuse_user_namespace(action)?;
    let _unprivileged = renounce()?;
    let path = find()?;
    step(|| format!("executing {}", show(&path)));
    let path_c = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let errno = process::execute(&path_c, arguments, environment);
    Err(Error::new(format!("execute {}", show(&path)), words(errno)))
}

/// Its path, derived from that of this program. It and every directory above it must belong to
/// root.
fn find() -> Result<PathBuf> {
    const OWN: &str = "/proc/self/exe";
    let own = std::fs::read_link(OWN).cannot(|| format!("read {OWN}"))?;
    let prefix = own
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/"));
    let path = prefix.join(PLACE);
    for directory in path.ancestors().skip(1) {
        let objection = stat(directory).ok().as_ref().and_then(trusted::objection);
        if let Some(cause) = objection {
            return Err(Error::new(format!("trust {}", show(directory)), cause).hint(
                "install it elsewhere, with PREFIX=/opt/runns-exec for example, or install the package",
            ));
        }
    }
    let (_, found) = trusted::locate(&path, Trust::Strict).map_err(|error| {
        error.hint("install it with install/install.sh, which puts both programs in place")
    })?;
    if trusted::kind(&found) != SFlag::S_IFREG {
        return Err(Error::new(
            format!("execute {}", show(&path)),
            "it is not a regular file",
        ));
    }
    Ok(path)
}
