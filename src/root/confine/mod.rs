//! What the daemons of tunnels are confined to: a user and a group that nothing else on the machine
//! has, no capability, no new privileges, and a view of the file system with little more than
//! programs and libraries ([`view`]).
//!
//! Their servers are on the Internet, so they are treated as if they were compromised. A process
//! that still has user id 0 would be trusted by every service that asks for the peer's user
//! (systemd, D-Bus), and could write to files of root's.

pub mod view;

use std::path::Path;
use std::time::Duration;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

use crate::kernel::{daemon, tool};
use runns_shared::error::{Context, Error, Result};
use runns_shared::plan::Plan;
use runns_shared::subnet::MAX_NUMBER;
use runns_sys::process::{self, Fork};

/// The first of the user ids. systemd's list (UIDS-GIDS.md) has 65536 to 524287 as unused, and
/// subordinate ids, which containers use, begin at 100000 (SUB_UID_MIN in login.defs(5)).
const FIRST_USER: u32 = 65536;
/// How many ids each namespace has: 2048 numbers of namespaces times 16 is 32768, so the last id is
/// 98303.
pub const USERS: u32 = 16;
/// The user and group id of the OpenVPN that only reads a file: the one after all daemons'. Its
/// processes are never those of a build, which ends what has a daemon's id.
pub const READER: u32 = FIRST_USER + (MAX_NUMBER as u32 + 1) * USERS;
/// The real and saved user id of a process that ends those of a daemon ([`end_user`]).
const ENDER: u32 = READER + 1;
/// How long that may take. It does next to nothing, but they may keep all processors busy.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many such processes are tried, one after the other.
const TRIES: usize = 5;

/// Processes and threads that a daemon may have; the runtime of wireguard-go starts some for each
/// processor.
const MOST_THREADS: u64 = 512;

/// The user and group id of the daemon of tunnel `index`, counted over all kinds. Each daemon has
/// its own, so that one cannot trace or signal another, or open its files. Only tunnels after the
/// sixteenth of one namespace share one.
pub fn user(plan: &Plan, index: usize) -> u32 {
    let index = u32::try_from(index).unwrap_or(u32::MAX).min(USERS - 1);
    FIRST_USER + u32::from(plan.number.get()) * USERS + index
}

/// Checks that the ids of the plan's daemons belong to nobody else.
pub fn check(plan: &Plan) -> Result<()> {
    let mut users = (0..plan.request.tunnels().count()).map(|index| user(plan, index));
    users.try_for_each(check_user)?;
    if plan.request.has_tunnel() {
        check_user(ENDER)?;
    }
    Ok(())
}

/// Checks that an id belongs to nobody else.
pub fn check_user(user: u32) -> Result<()> {
    let refuse = |owner: &str| {
        Err(Error::new(
            "start a tunnel's daemon",
            format!("its user id, {user}, belongs to {owner}"),
        )
        .hint("the ids 65536 to 98305 are meant for these daemons, see runns-exec(8)"))
    };
    // getent(1) also knows accounts that are not in /etc/passwd.
    for database in ["passwd", "group"] {
        if let Some(account) = tool::run("getent", &[database, &user.to_string()], "")
            .ok()
            .filter(|a| !a.is_empty())
        {
            return refuse(account.split(':').next().unwrap_or_default());
        }
    }
    let subordinate = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    match subordinate
        .lines()
        .find_map(|line| subordinate_owner(line, user))
    {
        Some(owner) => refuse(&format!("the subordinate ids of {owner}")),
        None => Ok(()),
    }
}

/// The owner of a line of /etc/subuid (subuid(5)), if the ids in it include `user`.
fn subordinate_owner(line: &str, user: u32) -> Option<&str> {
    let mut fields = line.trim().split(':');
    let (owner, first, count) = (
        fields.next()?,
        fields.next()?.parse::<u32>().ok()?,
        fields.next()?.parse().ok()?,
    );
    user.checked_sub(first)
        .is_some_and(|offset| offset < count)
        .then_some(owner)
}

/// Ends every process of a user that only one tunnel's daemon has. The kernel signals all of them
/// at once (kill(2), pid -1), so that none escapes by forking.
pub fn end_user(user: u32) -> Result<()> {
    let cannot = || format!("end the processes of user {user}");
    for _ in 0..TRIES {
        match process::fork().cannot(cannot)? {
            Fork::Child => process::exit_now(i32::from(kill_all_of(user).is_err())),
            Fork::Parent(child) => {
                if let Ok(WaitStatus::Exited(_, 0)) = daemon::wait_or_kill(child, PATIENCE) {
                    return Ok(());
                }
            }
        }
    }
    Err(Error::new(cannot(), "they could not be signalled"))
}

/// In the child. Its effective user lets it signal them. To stop or kill it, they would need its real
/// or saved one (kill(2)), and to trace it, all three (ptrace(2)). The effective one is enough to have
/// it run after all others (sched_setscheduler(2)): until it has it, it runs before all others, so
/// they have next to no time for that. Should they succeed nevertheless, it holds no lock.
fn kill_all_of(user: u32) -> nix::Result<()> {
    process::close_all()?;
    // Containers may forbid it.
    let _ = process::run_first();
    let own = Uid::from_raw(ENDER);
    setresuid(own, Uid::from_raw(user), own)?;
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        // There is nobody.
        Err(Errno::ESRCH) => Ok(()),
        killed => killed,
    }
}

/// Has the next program executed in the SELinux domain of the calling process, where SELinux is on.
/// Policies move OpenVPN to a domain (`openvpn_t`) that may not use the file systems of its [`view`],
/// and what confines daemons here is to be the same everywhere. Needs /proc, which a view lacks.
fn keep_selinux_domain() -> Result<()> {
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        return Ok(());
    }
    let cannot = || "keep the SELinux domain";
    let own = std::fs::read("/proc/thread-self/attr/current").cannot(cannot)?;
    std::fs::write("/proc/thread-self/attr/exec", own).cannot(cannot)
}

/// What a daemon may keep.
pub struct Identity {
    /// Its user and group id.
    pub user: u32,
    /// The one capability that it needs, if any.
    pub capability: Option<Capability>,
    /// Whether it may lock all of its memory (mlockall(2)).
    pub lock_memory: bool,
}

/// Becomes an unprivileged process with this identity, for good. Whatever fails here must end the
/// process.
pub fn give_up_root(identity: &Identity) -> Result<()> {
    process::leave_session_keyring().cannot(|| "leave the session keyring")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).cannot(|| "forbid core dumps")?;
    setrlimit(Resource::RLIMIT_NPROC, MOST_THREADS, MOST_THREADS)
        .cannot(|| "limit the number of threads")?;
    if identity.lock_memory {
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
            .cannot(|| "permit locked memory")?;
    }
    let kept: CapsHashSet = identity.capability.into_iter().collect();
    limit_bounding_set(&kept)?;
    nix::sys::prctl::set_keepcaps(!kept.is_empty()).cannot(|| "keep a capability")?;
    let (user, group) = (Uid::from_raw(identity.user), Gid::from_raw(identity.user));
    setgroups(&[]).cannot(|| "leave root's groups")?;
    setresgid(group, group, group).cannot(|| "change the group")?;
    setresuid(user, user, user).cannot(|| "change the user")?;
    // Inheritable comes first: what leaves it or the permitted set leaves the ambient set too.
    for (set, wanted) in [
        (CapSet::Inheritable, &kept),
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
    ] {
        caps::set(None, set, wanted).map_err(|error| Error::new("drop capabilities", error))?;
    }
    caps::set(None, CapSet::Ambient, &kept)
        .map_err(|error| Error::new("keep a capability", error))?;
    nix::sys::prctl::set_no_new_privs().cannot(|| "set no_new_privs")?;
    verify(identity, &kept)
}

/// Reduces the bounding set to `kept`: no program that is executed later can have more, whoever
/// runs it.
fn limit_bounding_set(kept: &CapsHashSet) -> Result<()> {
    let all = caps::read(None, CapSet::Bounding)
        .map_err(|error| Error::new("read capabilities", error))?;
    for capability in all.difference(kept) {
        caps::drop(None, CapSet::Bounding, *capability)
            .map_err(|error| Error::new("reduce the bounding set", error))?;
    }
    Ok(())
}

/// Reduces what the calling process, which stays root, and whatever it executes can have to `kept`.
pub fn limit(kept: &CapsHashSet) -> Result<()> {
    limit_bounding_set(kept)?;
    limit_thread(kept)?;
    nix::sys::prctl::set_no_new_privs().cannot(|| "set no_new_privs")
}

/// Drops the capabilities of the calling thread, which stays root. Under no_new_privs, what it
/// executes has none either (capabilities(7)).
pub fn drop_capabilities() -> Result<()> {
    limit_thread(&CapsHashSet::new())
}

fn limit_thread(kept: &CapsHashSet) -> Result<()> {
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let now = caps::read(None, set).map_err(|error| Error::new("read capabilities", error))?;
        let wanted = now.intersection(kept).copied().collect();
        caps::set(None, set, &wanted).map_err(|error| Error::new("drop capabilities", error))?;
    }
    Ok(())
}

/// Reads back what [`give_up_root`] did.
fn verify(identity: &Identity, kept: &CapsHashSet) -> Result<()> {
    let wrong = |what: &str| Error::new("give up root's privileges", what.to_string());
    for set in [
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
        CapSet::Bounding,
        CapSet::Ambient,
    ] {
        let now = caps::read(None, set).map_err(|error| Error::new("read capabilities", error))?;
        // A namespace is sometimes built by a process that lacks a capability itself.
        if !now.is_subset(kept) {
            return Err(wrong("some capabilities are left"));
        }
    }
    let ids = nix::unistd::getresuid().cannot(|| "read the user")?;
    if [ids.real, ids.effective, ids.saved] != [Uid::from_raw(identity.user); 3] {
        return Err(wrong("the user ID is not that of the daemon"));
    }
    // Root could come back only here.
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(wrong("the process could become root again"));
    }
    Ok(())
}

/// Enters `directory`, in the view that the process has by now.
pub fn enter_directory(directory: &Path) -> Result<()> {
    nix::unistd::chdir(directory)
        .cannot(|| format!("enter {}", runns_shared::escape::show(directory)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids() {
        assert_eq!(subordinate_owner("alice:65000:1000", 65536), Some("alice"));
        assert_eq!(subordinate_owner("alice:65000:536", 65536), None);
        assert_eq!(subordinate_owner("alice:100000:65536", 65536), None);
        assert_eq!(subordinate_owner("broken", 65536), None);
    }
}
