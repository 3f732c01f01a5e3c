//! The subcommands, one per file.

mod asked;
mod boot;
pub mod build;
pub mod change;
pub mod clean;
pub mod config;
pub mod import;
pub mod launcher;
pub mod log;
pub mod status;
mod summary;
mod watch;
mod word;

use runns_privileged::capability::refuse_user_namespace;
use runns_shared::error::{Context, Error, Result};
use runns_sys::process::{self, Disposition};

use crate::kernel::tool;

/// What root's commands need before anything else: root, the host's own namespaces, a clean
/// environment, signals that do not cut them short.
fn prepare(verb: &str) -> Result<()> {
    refuse_user_namespace(verb)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(verb, "only root can").hint(format!("sudo runns-exec {verb} ...")));
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
