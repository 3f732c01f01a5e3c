//! The subcommands, one per file.

mod asked;
mod boot;
pub mod build;
pub mod change;
pub mod clean;
pub mod config;
pub mod import;
pub mod launcher;
pub mod list;
pub mod log;
pub mod status;
mod summary;
mod watch;
mod word;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use runns_privileged::capability::refuse_user_namespace;
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::quote_path;
use runns_sys::process::{self, Disposition};

use crate::kernel::tool;

/// This command, for root; `None` if a message cannot show it as it is.
fn as_root() -> Option<String> {
    let words = std::fs::read("/proc/self/cmdline").ok()?;
    let words = words.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    let words: Option<Vec<String>> = words
        .skip(1)
        .map(|word| quote_path(OsStr::from_bytes(word)))
        .collect();
    Some(format!("sudo runns-exec {}", words?.join(" ")))
}

/// What root's commands need before anything else: root, the host's own namespaces, a clean
/// environment, signals that do not cut them short.
fn prepare(verb: &str) -> Result<()> {
    refuse_user_namespace(verb)?;
    if !nix::unistd::geteuid().is_root() {
        let error = Error::new(verb, "only root can");
        return Err(match as_root() {
            Some(command) => error.hint(command),
            None => error,
        });
    }
    for kind in ["net", "mnt"] {
        let namespace = |pid: &str| {
            std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))
                .cannot(|| format!("look at /proc/{pid}/ns/{kind}"))
        };
        if namespace("self")? != namespace("1")? {
            let what = if kind == "net" { "network" } else { "mount" };
            return Err(Error::new(
                verb,
                format!("this shell is not in the {what} namespace of the host's pid 1"),
            )
            .hint("run it on the host itself, outside ip netns exec, containers and sandboxes"));
        }
    }
    process::set_disposition(nix::sys::signal::Signal::SIGPIPE, Disposition::Ignore)
        .cannot(|| "ignore SIGPIPE")?;
    process::catch_interrupts().cannot(|| "catch signals")?;
    process::clear_environment(tool::PATH_C);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(())
}
