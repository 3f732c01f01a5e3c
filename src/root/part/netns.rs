//! The network namespace itself, at /run/netns/NAME, as ip-netns(8) creates it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::{Part, Site};
use crate::finding::Finding;
use crate::host::{HostState, make_directory_for_now, remove_made_directory};
use crate::kernel::netlink::{Netlink, in_namespace, in_thread};
use crate::kernel::sysctl::{set_sysctl, sysctl};
use crate::lock::Lock;
use crate::namespace::{open_by_process, open_recorded, path};
use crate::seen::Subject;
use runns_privileged::netns::{
    BUILT, DIRECTORY, OF_PID_1, identity_here, is_initial, is_that_of_pid_1, mark_here,
    mark_of_here,
};
use runns_shared::error::{AtLimit, Context, Error, NET_NAMESPACES, Result};
use runns_shared::escape::show;
use runns_shared::plan::Plan;
use runns_shared::record::{Identity, Record};
use runns_sys::net;

/// Limits that are to have the same values inside as on the host.
const INHERITED: [&str; 2] = [
    "net/ipv4/ping_group_range",
    "net/ipv4/ip_unprivileged_port_start",
];

/// One of them, with its value on the host.
type Limit = (&'static str, Option<String>);

/// The part.
pub struct NetworkNamespace;

impl Part for NetworkNamespace {
    fn is_in(&self, _plan: &Plan) -> bool {
        true
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        Some(format!("network namespace {}", path(&plan.name).display()))
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        // What this kernel may lack.
        identity_here()?;
        let name = &plan.name;
        let place = path(name);
        if std::fs::symlink_metadata(&place).is_err() {
            return Ok(());
        }
        Err(Error::new(
            format!("build namespace {name}"),
            format!(
                "{} exists already, and runns-exec did not build it",
                show(&place)
            ),
        )
        .hint("choose another name, or remove it: sudo ip netns delete NAME"))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let name = site.plan().name.clone();
        prepare_directory(site)?;
        mark_host(site.lock)?;
        let (identity, file) = create(&limits()?)?;
        // The identity is recorded first: from now on, clean can tell whether what is at the name
        // is ours.
        site.record.identity = Some(identity);
        site.save()?;
        let file = site.namespace.insert(file);
        let path = path(&name);
        make_place(&path)?;
        attach(file, &path)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let removed = withdraw(site)?;
        leave_directory(site)?;
        unmark_host(site.lock)?;
        Ok(removed)
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        look(subject)
    }

    fn repair(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        mark_host(site.lock)?;
        if open_recorded(&site.record)?.is_none() {
            attach_again(site)?;
        }
        let file = open_recorded(&site.record)?
            .ok_or_else(|| Error::new("enter the namespace", "it is gone"))?;
        let limits = limits()?;
        in_namespace(file.as_fd(), || set_up_here(&limits))
    }
}

/// Leaves nothing inside but loopback, and then removes the name, so that nobody can enter any
/// more, if it leads to the namespace of the record or is the empty file of a build that was
/// killed; returns whether it did. As long as something is left inside, the name stays: nothing
/// else may lead there.
pub fn withdraw(site: &Site) -> Result<bool> {
    if let Some(namespace) = site.open_namespace()? {
        Netlink::inside(namespace.as_fd())?.strip()?;
    }
    let path = path(&site.plan().name);
    let Ok(stat) = std::fs::symlink_metadata(&path) else {
        return Ok(false);
    };
    let ours = open_recorded(&site.record)?.is_some();
    let half_made = site.record.identity.is_some()
        && stat.is_file()
        && stat.len() == 0
        && stat.mode() & 0o7777 == 0
        && stat.dev()
            == std::fs::metadata(DIRECTORY)
                .cannot(|| format!("inspect {DIRECTORY}"))?
                .dev();
    if ours {
        umount2(&path, MntFlags::MNT_DETACH).cannot(|| format!("unmount {}", path.display()))?;
    }
    if !ours && !half_made {
        return Ok(false);
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        removed => removed
            .map(|()| true)
            .cannot(|| format!("remove {}", path.display())),
    }
}

/// Creates a network namespace in a short-lived thread; returns its identity and a descriptor that
/// keeps it alive.
fn create(limits: &[Limit]) -> Result<(Identity, File)> {
    let make = || -> Result<(Identity, File)> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| AtLimit(errno, NET_NAMESPACES))
            .cannot(|| "create a network namespace")?;
        let file =
            File::open("/proc/thread-self/ns/net").cannot(|| "open the new network namespace")?;
        set_up_here(limits)?;
        Ok((identity_here()?, file))
    };
    in_thread(make)
}

/// Whether the calling thread's network namespace is that of pid 1 and lacks the mark by which it
/// is known if it is not the kernel's initial one. The mark of a namespace that was built, in which
/// a container runs, does as well.
fn host_lacks_mark() -> Result<bool> {
    let here = identity_here()?;
    Ok(is_that_of_pid_1()?
        && !is_initial(here.inode, here.cookie)
        && ![BUILT, OF_PID_1].contains(&mark_of_here()?))
}

fn mark_host(lock: &Lock) -> Result<()> {
    if host_lacks_mark()? {
        let before = mark_of_here()?;
        HostState::update(lock, |host| host.before_mark = Some(before))?;
        mark_here(OF_PID_1)?;
    }
    Ok(())
}

/// Removes the mark if a build set it and this is the last namespace.
fn unmark_host(lock: &Lock) -> Result<()> {
    let Some(before) = HostState::load()?
        .before_mark
        .filter(|_| Record::names().is_ok_and(|names| names.len() <= 1))
    else {
        return Ok(());
    };
    mark_here(before)?;
    HostState::update(lock, |host| host.before_mark = None)
}

/// Makes /run/netns a shared mount point, as ip-netns(8) does: unmounting a namespace there then
/// unmounts it in every mount namespace.
fn prepare_directory(site: &Site) -> Result<()> {
    let directory = Path::new(DIRECTORY);
    make_directory_for_now(site.lock, directory)?;
    let share = || {
        mount(
            None::<&str>,
            directory,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    if share() == Err(Errno::EINVAL) {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        HostState::update(site.lock, |host| host.netns_mount = true)?;
        mount(Some(directory), directory, None::<&str>, bind, None::<&str>)
            .cannot(|| format!("mount {DIRECTORY}"))?;
        share().cannot(|| format!("share {DIRECTORY}"))?;
    }
    Ok(())
}

/// Removes /run/netns if a build created it and it is empty.
fn leave_directory(site: &Site) -> Result<()> {
    let directory = Path::new(DIRECTORY);
    let host = HostState::load()?;
    let empty = || std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if !empty() {
        return Ok(());
    }
    if host.netns_mount {
        match umount2(directory, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL) => {
                HostState::update(site.lock, |host| host.netns_mount = false)?
            }
            Err(errno) => return Err(errno).cannot(|| format!("unmount {DIRECTORY}")),
        }
    }
    remove_made_directory(site.lock, directory)
}

fn limits() -> Result<Vec<Limit>> {
    INHERITED
        .iter()
        .map(|name| Ok((*name, sysctl(name)?)))
        .collect()
}

/// Sets up the calling thread's network namespace: its limits, its mark, and loopback.
fn set_up_here(limits: &[Limit]) -> Result<()> {
    for (name, value) in limits {
        if let Some(value) = value {
            set_sysctl(name, value)?;
        }
    }
    // A namespace begins with the host's value, and would pass on what a tunnel's server sends
    // (net/ipv4/devinet.c).
    set_sysctl("net/ipv4/ip_forward", "0")?;
    mark_here(BUILT)?;
    let socket = std::os::unix::net::UnixDatagram::unbound().cannot(|| "create a socket")?;
    net::bring_up(&socket, "lo").cannot(|| "bring the loopback interface up")
}

/// Creates the empty file on which the namespace is mounted.
fn make_place(path: &Path) -> Result<()> {
    let place = File::options()
        .write(true)
        .create_new(true)
        .mode(0o000)
        .open(path);
    place
        .map(drop)
        .cannot(|| format!("create {}", path.display()))
}

fn attach(namespace: &impl AsRawFd, path: &Path) -> Result<()> {
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    mount(
        Some(source.as_str()),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .cannot(|| format!("mount the namespace on {}", path.display()))
}

/// Gives a namespace whose name is gone, but which has processes in it, its name back.
fn attach_again(site: &Site) -> Result<()> {
    let path = path(&site.plan().name);
    let file = open_by_process(&site.record).ok_or_else(|| {
        Error::new(
            format!("mount the namespace on {}", path.display()),
            "no process is in it any more",
        )
    })?;
    prepare_directory(site)?;
    match std::fs::symlink_metadata(&path) {
        Ok(stat) if !stat.is_file() || stat.len() > 0 || is_nsfs(&stat) => {
            return Err(Error::new(
                format!("mount the namespace on {}", path.display()),
                "another file is in its place",
            ));
        }
        Ok(_) => {}
        Err(_) => make_place(&path)?,
    }
    attach(&file, &path)
}

/// Whether it is a file of the file system of namespaces, that of /proc/self/ns/net.
fn is_nsfs(stat: &std::fs::Metadata) -> bool {
    std::fs::metadata("/proc/self/ns/net").is_ok_and(|own| own.dev() == stat.dev())
}

fn look(subject: &Subject) -> Result<Vec<Finding>> {
    let name = &subject.record.plan.name;
    let place = path(name);
    let (what, anew) = (
        show(&place),
        format!("sudo runns-exec clean {}, then build it again", name),
    );
    let Some(inside) = &subject.inside else {
        let mounted = std::fs::symlink_metadata(&place).ok();
        return Ok(match (mounted.filter(is_nsfs), &subject.closed) {
            (Some(_), _) if subject.replaced => {
                vec![Finding::down(what, "another namespace").cure(anew)]
            }
            // Nothing inside will be looked at.
            (Some(_), Some(error)) => return Err(error.clone()),
            // Whoever may not enter it does not know more.
            (Some(_), None) => Vec::new(),
            (None, _) if subject.seen.root && open_by_process(subject.record).is_none() => {
                vec![
                    Finding::down(what, "gone, and no process is left in the namespace").cure(anew),
                ]
            }
            (None, _) => vec![Finding::down(what, "not mounted: nobody can enter")],
        });
    };
    let mut found = Vec::new();
    if subject.seen.root && host_lacks_mark()? {
        found.push(Finding::degraded(
            "mark of the host's namespace",
            "missing: it could be entered under another name",
        ));
    }
    if !inside.is_up("lo") {
        found.push(Finding::degraded("loopback inside", "down"));
    }
    if !inside.marked {
        found.push(Finding::degraded(
            "mark inside",
            "gone: if its record were lost, the namespace would look unmanaged",
        ));
    }
    for name in INHERITED {
        let host = sysctl(name)?;
        if let Some(now) = inside
            .sysctl(name)
            .filter(|now| host.as_ref().is_some_and(|host| host != now))
        {
            let name = name.rsplit('/').next().unwrap_or(name);
            found.push(Finding::degraded(
                format!("{name} inside"),
                format!("{now}, which differs from the host's value"),
            ));
        }
    }
    Ok(found)
}
