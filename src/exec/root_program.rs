//! Executes the program for root without any capability: it has all subcommands except exec and
//! check, and prints what list finds.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{SFlag, stat};
use runns_privileged::capability::{refuse_user_namespace, renounce};
use runns_shared::error::{Context, Error, Result, words};
use runns_shared::escape::show;
use runns_shared::handed_over;
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

/// The same, handing over what took capabilities to see.
pub fn execute_with(
    action: &str,
    handed_over: &[u8],
    arguments: &[&CStr],
    environment: &[&CStr],
) -> Result<Infallible> {
    let mut file =
        File::from(memfd_create(c"runns", MFdFlags::empty()).cannot(|| "create a file in memory")?);
    file.write_all(handed_over)
        .cannot(|| "write a file in memory")?;
    let descriptor = CString::new(file.as_raw_fd().to_string()).unwrap_or_default();
    let word = CString::new(handed_over::WORD).unwrap_or_default();
    let (program, words) = arguments.split_first().unwrap_or((&c"runns-exec", &[]));
    let arguments = [&[*program, &*word, &*descriptor], words].concat();
    execute(action, &arguments, environment)
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
