//! Capabilities as values: [`Privilege`] stands for "may be raised", [`Unprivileged`] for "gone for good".
//!
//! | capability | for |
//! |---|---|
//! | CAP_SYS_ADMIN | setns(2) to a network namespace, unshare(2) of the mount namespace, the mount calls in it |
//! | CAP_NET_ADMIN | SIOCSIFFLAGS: loopback up, where it is down |

use std::path::Path;

use caps::Capability;
use nix::unistd::{geteuid, getuid};

use super::netns::Entered;
use crate::error::{Context, Error, Result};
use crate::sys::capability::{self, Sets};

/// Inode of the initial user namespace's file (PROC_USER_INIT_INO, include/linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Capabilities may be raised.
pub struct Privilege {
    /// The sets between two raises.
    resting: Sets,
    root: bool,
}

/// No capability is left (or the caller is root, whose sets are his own). Only [`Privilege::give_up`] makes one.
pub struct Unprivileged {
    _private: (),
}

/// Whether the caller is root, for whom no policy holds and whose capability sets stay as they are.
pub fn caller_is_root() -> bool {
    getuid().is_root() && geteuid().is_root()
}

impl Privilege {
    /// Checks that the capabilities are there; says which of the many ways to lose them it was.
    pub fn take() -> Result<Self> {
        refuse_user_namespace("enter a namespace")?;
        let resting = capability::get().cannot(|| "read capabilities")?;
        for needed in [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN] {
            if resting.permitted & needed.bitmask() == 0 {
                return Err(why_missing(needed));
            }
        }
        Ok(Self { resting, root: caller_is_root() })
    }

    /// Runs `work` with `needed` in the effective set, and takes it out again whatever comes of the work. (For root,
    /// who has it there already, nothing changes.)
    pub fn raised<T>(&self, needed: Capability, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let raised = Sets { effective: self.resting.effective | needed.bitmask(), ..self.resting };
        capability::set(&raised).cannot(|| format!("raise {needed}"))?;
        let result = work();
        capability::set(&self.resting).cannot(|| format!("lower {needed}"))?;
        result
    }

    /// Gives all capabilities up for good, and looks whether they are gone. It takes the proof that the namespace was
    /// entered: there is no other way to an [`Unprivileged`].
    pub fn give_up(self, _entered: Entered) -> Result<Unprivileged> {
        if !self.root {
            let none = Sets::default();
            // The ambient set goes with the permitted one: the kernel keeps it within that.
            capability::set(&none).cannot(|| "drop capabilities")?;
            if capability::get().cannot(|| "read capabilities")? != none {
                return Err(Error::new("drop capabilities", "some are still there"));
            }
        }
        Ok(Unprivileged { _private: () })
    }
}

/// In a user namespace other than the initial one every capability is worth nothing outside it, and /run/netns may
/// hold whatever its maker mounted there.
pub fn refuse_user_namespace(action: &str) -> Result<()> {
    let namespace = nix::sys::stat::stat("/proc/self/ns/user").cannot(|| "look at /proc/self/ns/user")?;
    if namespace.st_ino != INITIAL_USER_NAMESPACE {
        return Err(Error::new(action, "this process is inside a user namespace (a container or sandbox)")
            .hint("run it outside, where the namespaces are"));
    }
    Ok(())
}

/// Why a program with file capabilities did not get them (capabilities(7), execve(2), security/commoncap.c).
fn why_missing(capability: Capability) -> Error {
    let missing = |cause: &str| Error::new("get the capabilities of the program file", cause);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let bounding = u64::from_str_radix(field("CapBnd").unwrap_or("0"), 16).unwrap_or(0);
    if field("NoNewPrivs") == Some("1") {
        return missing("no_new_privs is set: the caller's sandbox forbids programs to gain privileges")
            .hint("start it outside the sandbox (NoNewPrivileges=, bwrap, flatpak, snap, setpriv)");
    }
    if field("TracerPid").is_some_and(|pid| pid != "0") {
        return missing("this process is being traced").hint("run it without strace or debugger, or trace it as root");
    }
    if bounding & capability.bitmask() == 0 {
        return missing(&format!("{capability} is not in the bounding set"))
            .hint("a container or service manager took it away (CapabilityBoundingSet=, --cap-drop)");
    }
    let executable = Path::new("/proc/self/exe");
    if nix::sys::statvfs::statvfs(executable).is_ok_and(|fs| fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID))
    {
        return missing("the program is on a file system that is mounted nosuid")
            .hint("install it on one that is not, or remount that one with suid");
    }
    if !crate::sys::process::has_file_capabilities(c"/proc/self/exe") {
        return missing("the program file has none").hint("install it with install/install.sh, which sets them");
    }
    missing("the caller shares its file-system state with another process (CLONE_FS)")
}
