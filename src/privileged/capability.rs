//! Capabilities as values: [`Privilege`] permits raising them, [`Unprivileged`] proves that they
//! are gone for good.
//!
//! | capability | for |
//! |---|---|
//! | CAP_SYS_ADMIN | setns(2) to a network namespace, unshare(2) of the mount namespace, the mount calls in it; unshare(2) of the network namespace, to leave it |
//! | CAP_NET_ADMIN | SIOCSIFFLAGS, to bring up loopback if it is down |

use std::path::Path;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{geteuid, getuid};
use runns_shared::error::{Context, Error, Result};

use crate::netns::Entered;

/// Inode of the initial user namespace's file (PROC_USER_INIT_INO, include/linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Permission to raise capabilities.
pub struct Privilege {
    root: bool,
}

/// Proof that no capability is left, or that the caller is root, who keeps theirs. Only
/// [`Privilege::give_up`] and [`renounce`] return one.
pub struct Unprivileged {
    _private: (),
}

/// Whether the caller is root, to whom no policy applies and whose capability sets are left
/// unchanged.
pub fn caller_is_root() -> bool {
    getuid().is_root() && geteuid().is_root()
}

impl Privilege {
    /// Checks that both capabilities are permitted. If they are not, the error says how they were
    /// lost.
    pub fn take() -> Result<Self> {
        refuse_user_namespace("enter a namespace")?;
        for needed in [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN] {
            if !has(CapSet::Permitted, needed)? {
                return Err(why_missing(needed));
            }
        }
        Ok(Self {
            root: caller_is_root(),
        })
    }

    /// Runs `work` with `needed` in the effective set, and lowers it again whether or not `work`
    /// succeeds. If root has it there already, it stays.
    pub fn raised<T>(&self, needed: Capability, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.root && has(CapSet::Effective, needed)? {
            return work();
        }
        let cannot = |verb: &str, error: CapsError| Error::new(format!("{verb} {needed}"), error);
        if self.root {
            caps::raise(None, CapSet::Effective, needed).map_err(|error| cannot("raise", error))?;
            let result = work();
            caps::drop(None, CapSet::Effective, needed).map_err(|error| cannot("lower", error))?;
            return result;
        }
        // Nobody else has anything in the effective set.
        caps::set(None, CapSet::Effective, &CapsHashSet::from([needed]))
            .map_err(|error| cannot("raise", error))?;
        let result = work();
        caps::clear(None, CapSet::Effective).map_err(|error| cannot("lower", error))?;
        result
    }

    /// Drops all capabilities for good and checks that they are gone. It requires the proof that
    /// the namespace was entered, so that nothing of the caller's can run earlier.
    pub fn give_up(self, _entered: Entered) -> Result<Unprivileged> {
        renounce()
    }
}

/// Drops all capabilities without entering a namespace. Root keeps theirs.
pub fn renounce() -> Result<Unprivileged> {
    if !caller_is_root() {
        // Whatever leaves the permitted or the inheritable set leaves the ambient set too
        // (cap_capset in security/commoncap.c). Dropping the permitted set drops the effective one
        // with it.
        for set in [CapSet::Permitted, CapSet::Inheritable] {
            caps::clear(None, set).map_err(|error| Error::new("drop capabilities", error))?;
        }
        if runns_sys::process::has_capabilities().cannot(|| "read capabilities")? {
            return Err(Error::new("drop capabilities", "some are still there"));
        }
    }
    Ok(Unprivileged { _private: () })
}

fn has(set: CapSet, capability: Capability) -> Result<bool> {
    caps::has_cap(None, set, capability).map_err(|error| Error::new("read capabilities", error))
}

/// Fails in any user namespace but the initial one: there, capabilities have no effect on the host,
/// and /run/netns may be whatever the creator of the user namespace mounted.
pub fn refuse_user_namespace(action: &str) -> Result<()> {
    let namespace =
        nix::sys::stat::stat("/proc/self/ns/user").cannot(|| "inspect /proc/self/ns/user")?;
    if namespace.st_ino != INITIAL_USER_NAMESPACE {
        return Err(Error::new(
            action,
            "this process is inside a user namespace (a container or sandbox)",
        )
        .hint("run it outside, on the host"));
    }
    Ok(())
}

/// Why the program did not get its file capabilities (capabilities(7), execve(2),
/// security/commoncap.c).
fn why_missing(capability: Capability) -> Error {
    let missing = |cause: &str| Error::new("get the capabilities of the program file", cause);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let bounding = u64::from_str_radix(field("CapBnd").unwrap_or("0"), 16).unwrap_or(0);
    if field("NoNewPrivs") == Some("1") {
        return missing(
            "no_new_privs is set: the caller's sandbox forbids programs to gain privileges",
        )
        .hint("start it outside the sandbox (NoNewPrivileges=, bwrap, flatpak, snap, setpriv)");
    }
    if field("TracerPid").is_some_and(|pid| pid != "0") {
        return missing("this process is being traced")
            .hint("run it without strace or a debugger, or trace it as root");
    }
    if bounding & capability.bitmask() == 0 {
        return missing(&format!("{capability} is not in the bounding set")).hint(
            "a container or service manager took it away (CapabilityBoundingSet=, --cap-drop)",
        );
    }
    let executable = Path::new("/proc/self/exe");
    if nix::sys::statvfs::statvfs(executable)
        .is_ok_and(|fs| fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID))
    {
        return missing("the program is on a file system that is mounted nosuid")
            .hint("install it on another one, or remount this one with suid");
    }
    if !runns_sys::process::has_file_capabilities(c"/proc/self/exe") {
        return missing("the program file has none")
            .hint("install it with install/install.sh, which sets them");
    }
    missing("the caller shares its file-system state with another process (CLONE_FS)")
}
