//! The program for root: `runns-exec build` and its like are executed by it, with no capability left.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::SFlag;
use runns_privileged::capability::{refuse_user_namespace, renounce};
use runns_shared::error::{Context, Error, Result, words};
use runns_shared::escape::show;
use runns_shared::output::step;
use runns_shared::trusted::{self, Trust};
use runns_sys::process;

/// From PREFIX, the directory above the one that this program is in.
const PLACE: &str = "libexec/runns-exec/runns-exec-root";

/// Becomes the program for root, with the same arguments and environment.
pub fn execute(arguments: &[&CStr], environment: &[&CStr]) -> Result<Infallible> {
    // In there everybody can be root, and nothing is root's.
    refuse_user_namespace("build or clean")?;
    let _unprivileged = renounce()?;
    let path = find()?;
    step(|| format!("executing {}", show(&path)));
    let path_c = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let errno = process::execute(&path_c, arguments, environment);
    Err(Error::new(format!("execute {}", show(&path)), words(errno)))
}

/// Where it is: found from this program's own file, and root's with every directory above it.
fn find() -> Result<PathBuf> {
    const OWN: &str = "/proc/self/exe";
    let own = std::fs::read_link(OWN).cannot(|| format!("read {OWN}"))?;
    let prefix = own.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let path = prefix.join(PLACE);
    let (_, stat) = trusted::locate(&path, Trust::Strict)
        .map_err(|error| error.hint("install it with install/install.sh, which puts both programs in place"))?;
    if trusted::kind(&stat) != SFlag::S_IFREG {
        return Err(Error::new(format!("execute {}", show(&path)), "it is not a regular file"));
    }
    Ok(path)
}
