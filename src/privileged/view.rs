//! The command's view of the file system: a private mount namespace in which /sys shows the
//! namespace's network devices and each file of /etc/netns/NAME covers its namesake in /etc.
//!
//! All mounts are made from descriptors, so that the entry that was checked is the entry that is
//! mounted. The view is a slave of the host's mount namespace: mounts and unmounts on the host
//! reach it, its own never reach the host.
//!
//! Before files are covered, all of /etc is bound onto itself, and the entries are mounted in that
//! copy. When runns-exec is started inside another namespace, a single unmount therefore removes
//! everything that the outer one mounted there. The source of the outer /sys, which only a
//! privileged process can have set, shows that there is an outer view. A sandbox in between, such
//! as firejail(1), replaces that /sys and binds our /etc once more: what is left in it of an outer
//! view is recognized by what is mounted, and unmounted file by file.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use caps::Capability;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, stat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::getuid;

use crate::Privilege;
use crate::netns::Entered;
use runns_shared::error::{AtLimit, Cause, Context, Error, MOUNT_NAMESPACES, MOUNTS, Result};
use runns_shared::escape::show;
use runns_shared::hosts;
use runns_shared::name::NetnsName;
use runns_shared::output::step;
use runns_shared::proc::read_file;
use runns_shared::trusted::{self, Trust};
use runns_sys::mount::{self as api, Attributes};

/// The directory of per-namespace files of /etc (ip-netns(8)).
pub const ETC_NETNS: &str = "/etc/netns";
/// Directories with the sockets of the host's name services: nscd(8), systemd-resolved(8),
/// avahi-daemon(8). build creates those that are missing, so that a service that is started later
/// is covered too.
pub const NAME_SERVICES: [&str; 4] = [
    "/run/nscd",
    "/var/run/nscd",
    "/run/systemd/resolve",
    "/run/avahi-daemon",
];
/// The file whose presence makes a namespace's resolver its own.
const RESOLV_CONF: &str = "resolv.conf";
/// The file with the name of the host itself.
const HOSTS: &str = "hosts";
/// The empty directory that build keeps, to cover [`NAME_SERVICES`] by. No name of a namespace starts
/// with a dot.
pub const EMPTY: &str = "/run/runns/.empty";
/// Source of the empty directories that cover [`NAME_SERVICES`] where build keeps none.
const MASK: &CStr = c"runns-exec:mask";
/// Source of the sysfs of a view without files of its own.
const MARK: &CStr = c"runns-exec";
/// Source of the sysfs of a view that has a copy of /etc.
const MARK_ETC: &CStr = c"runns-exec:etc";

/// /sys before it is covered.
struct Sys {
    place: OwnedFd,
    /// The id of its mount; `None` on kernels without listmount(2) and statmount(2).
    id: Option<u64>,
}

/// An entry of /etc/netns/NAME, checked and open.
struct Entry {
    name: OsString,
    place: OwnedFd,
}

/// What else a view has to have.
pub struct Wanted<'a> {
    /// Files that must exist: those of the record.
    pub files: &'a [String],
    /// What is added to /etc/hosts, if programs inside reach the host (see [`hosts::lines`]).
    pub hosts: Option<String>,
}

/// Creates the view of namespace `name`, which the calling process has entered. Capabilities are
/// raised for the mount calls only; what is mounted is opened and checked without.
pub fn make(
    privilege: &Privilege,
    _entered: &Entered,
    name: &NetnsName,
    wanted: &Wanted,
) -> Result<()> {
    let cwd = nix::unistd::getcwd().ok();
    let (sys, undone) = privilege.raised(Capability::CAP_SYS_ADMIN, || {
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|errno| AtLimit(errno, MOUNT_NAMESPACES))
            .cannot(|| "unshare the mount namespace")?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
            .cannot(|| "make the mount namespace a slave of the host's")?;
        undo_outer_view()
    })?;
    let entries = entries(name)?;
    if let Some(missing) = wanted
        .files
        .iter()
        .find(|file| !entries.iter().any(|entry| entry.name == file.as_str()))
    {
        let path = Path::new(ETC_NETNS).join(name.as_str()).join(missing);
        return Err(Error::new(
            format!("put {} in place", show(path)),
            "it was removed after the namespace was built",
        )
        .hint(format!("sudo runns-exec clean {name}, and build it again")));
    }
    let own_resolver = entries.iter().any(|entry| entry.name == RESOLV_CONF);
    let (services, empty) = match own_resolver {
        true => (name_services()?, kept_empty_directory()),
        false => (Vec::new(), None),
    };
    let has_hosts = entries.iter().any(|entry| entry.name == HOSTS);
    let hosts = match &wanted.hosts {
        Some(lines) if !has_hosts => hosts(privilege, name, lines)?,
        _ => None,
    };
    let covers_etc = hosts.is_some() || !entries.is_empty();
    say(undone, name, &entries, &services);
    privilege.raised(Capability::CAP_SYS_ADMIN, || {
        cover_sys(&sys, if covers_etc { MARK_ETC } else { MARK })?;
        if covers_etc {
            cover_etc(name, &entries, hosts)?;
        }
        mask(&services, empty)
    })?;
    enter_again(cwd, undone || covers_etc)
}

/// A detached mount of a file: the host's /etc/hosts, and `lines` with the name of the host itself.
/// `None` if the host has no such file. It is the one that build left, if that is up to date, or
/// else one that belongs to the caller, who made it, and whom the mount does not let write to it.
fn hosts(privilege: &Privilege, name: &NetnsName, lines: &str) -> Result<Option<OwnedFd>> {
    const WHAT: &str = "create a hosts file for the namespace";
    let Some((seconds, nanoseconds, size)) = hosts::stamp()? else {
        return Ok(None);
    };
    step(|| {
        format!(
            "putting a copy with the line '{}' in place of {}",
            lines.trim().replace("\n\n", ", "),
            hosts::HOSTS
        )
    });
    if let Ok((place, stat)) = trusted::locate(&hosts::path(name), Trust::Strict) {
        if (stat.st_mtime, stat.st_mtime_nsec, stat.st_size as u64)
            == (seconds, nanoseconds, size + lines.len() as u64)
        {
            return privilege.raised(Capability::CAP_SYS_ADMIN, || {
                api::clone_tree(place.as_fd(), false)
                    .map(Some)
                    .cannot(|| WHAT)
            });
        }
    }
    let Some(text) = hosts::text_with(lines)? else {
        return Ok(None);
    };
    let user = CString::new(getuid().to_string()).unwrap_or_default();
    let options = [(c"uid", &*user), (c"mode", c"0700")];
    let directory = privilege.raised(Capability::CAP_SYS_ADMIN, || {
        api::new_filesystem(c"tmpfs", MASK, &options, Attributes::NOSUID_NODEV_NOEXEC)
            .cannot(|| WHAT)
    })?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mut file =
        File::from(openat(&directory, hosts::PREFIX, flags, Mode::empty()).cannot(|| WHAT)?);
    file.write_all(&text).cannot(|| WHAT)?;
    fchmod(&file, Mode::from_bits_truncate(0o444)).cannot(|| WHAT)?;
    drop(file);
    let place = openat(
        &directory,
        hosts::PREFIX,
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .cannot(|| WHAT)?;
    privilege.raised(Capability::CAP_SYS_ADMIN, || {
        api::restrict(directory.as_fd(), Attributes::RDONLY, false).cannot(|| WHAT)?;
        // Only what is mounted can be copied, on kernels before 6.15; nobody else sees this mount
        // namespace.
        let (etc, _) = trusted::locate(Path::new("/etc"), Trust::Strict)?;
        attach(directory.as_fd(), etc.as_fd(), c"").cannot(|| WHAT)?;
        let tree = api::clone_tree(place.as_fd(), false).cannot(|| WHAT)?;
        umount2("/etc", MntFlags::MNT_DETACH).cannot(|| WHAT)?;
        Ok(Some(tree))
    })
}

fn say(undone: bool, name: &NetnsName, entries: &[Entry], services: &[(&str, OwnedFd)]) {
    if undone {
        step(|| "undid the view of the namespace that runns-exec was started in".to_string());
    }
    for entry in entries {
        step(|| {
            format!(
                "putting {ETC_NETNS}/{name}/{0} in place of /etc/{0}",
                show(&entry.name)
            )
        });
    }
    for (path, _) in services {
        step(|| format!("covering {path}, where a name service of the host listens"));
    }
}

/// Enters the working directory again, by name, if it has been covered; `changed` means that more
/// than /sys has been. No capability is raised, because the caller chooses the working directory.
fn enter_again(cwd: Option<PathBuf>, changed: bool) -> Result<()> {
    let covered = |path: &Path| {
        let is_in = |above: &str| {
            let rest = path.as_os_str().as_bytes().strip_prefix(above.as_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        };
        is_in("/sys") || changed && (is_in("/etc") || NAME_SERVICES.into_iter().any(is_in))
    };
    match cwd {
        Some(cwd) if covered(&cwd) => nix::unistd::chdir(&cwd).cannot(|| {
            format!(
                "enter the working directory {} in the namespace",
                show(&cwd)
            )
        }),
        _ => Ok(()),
    }
}

/// Removes the view of an outer runns-exec. Returns the /sys below it, and whether there was such a
/// view.
fn undo_outer_view() -> Result<(Sys, bool)> {
    let mut undone = false;
    loop {
        let sys = must_find("/sys")?;
        let (id, source) = mount_at(&sys, "/sys")?;
        if source != MARK.to_bytes() && source != MARK_ETC.to_bytes() {
            undone |= undo_behind_sandbox()?;
            return Ok((Sys { place: sys, id }, undone));
        }
        for path in NAME_SERVICES {
            while let Some(place) = find(path)? {
                if !is_mask(&place, path)? {
                    break;
                }
                unmount(path)?;
            }
        }
        unmount("/sys")?;
        if source == MARK_ETC.to_bytes() {
            unmount("/etc")?;
        }
        undone = true;
    }
}

fn attach(tree: BorrowedFd, place: BorrowedFd, name: &CStr) -> Result<(), AtLimit> {
    api::attach(tree, place, name).map_err(|errno| AtLimit(errno, MOUNTS))
}

fn unmount(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .cannot(|| format!("unmount the outer namespace's {}", show(path)))
}

/// Removes what is left of an outer view whose /sys somebody has replaced; whether there was
/// anything. A view that covers anything but /sys has mounted an /etc, and so has a sandbox in it.
/// What the sandbox itself has covered stays so.
fn undo_behind_sandbox() -> Result<bool> {
    let etc = must_find("/etc")?;
    if mounted_at(&etc)?.is_none() {
        return Ok(false);
    }
    let mut places = mounts_below(unique_id(&etc, "/etc")?, "/etc")?;
    places.extend(NAME_SERVICES.map(PathBuf::from));
    let mut undone = false;
    for path in places {
        while let Some(place) = find(&path)? {
            if !is_of_a_view(&path, &place)? {
                break;
            }
            unmount(&path)?;
            undone = true;
        }
    }
    Ok(undone)
}

/// Whether `place`, at `path`, is the root of one of the mounts that [`make`] puts on files of /etc
/// and on directories of name services, or of a copy of one. Only root can have mounted these files
/// there.
fn is_of_a_view(path: &Path, place: &OwnedFd) -> Result<bool> {
    let Some(id) = mounted_at(place)? else {
        return Ok(false);
    };
    match path.strip_prefix("/etc").ok().and_then(Path::to_str) {
        // Anybody may give a file system of FUSE such a source (fusermount3(1), fsname).
        None => {
            Ok(NAME_SERVICES.iter().any(|known| path == Path::new(known)) && is_mask(place, path)?)
        }
        Some(name) => {
            Ok(is_entry(&root_of(place, path, id)?, name) || is_target_of_entry(place, name))
        }
    }
}

/// Whether `place`, at `path`, is an empty directory of ours, or of a copy of one.
fn is_mask(place: &OwnedFd, path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    if mount_at(place, path)?.1 == MASK.to_bytes() {
        return Ok(true);
    }
    let Some(id) = mounted_at(place)? else {
        return Ok(false);
    };
    Ok(is_kept_empty_directory(&root_of(place, path, id)?))
}

/// Whether `root`, what of its file system is mounted, is [`EMPTY`], as seen from the root of that
/// file system. A directory that has been removed since has a suffix.
fn is_kept_empty_directory(root: &[u8]) -> bool {
    let root = String::from_utf8_lossy(root);
    let root = root.trim_end_matches("//deleted");
    root != "/" && EMPTY.ends_with(root) && root.ends_with("/.empty")
}

/// Whether `root`, what of its file system is mounted on the file `name` of /etc, is that of some
/// /etc/netns/NAME, or a hosts file of ours. A file that has been replaced since has a suffix.
fn is_entry(root: &[u8], name: &str) -> bool {
    let root = String::from_utf8_lossy(root);
    let mut parts = root.trim_end_matches("//deleted").rsplit('/');
    let (last, directory, above) = (parts.next(), parts.next(), parts.next());
    last == Some(name)
        && directory.is_some_and(|name| NetnsName::new(name).is_ok())
        && above == Some("netns")
        || name == HOSTS && last.is_some_and(|last| last.starts_with(hosts::PREFIX))
}

/// Whether it is the file that a symbolic link of that name in some /etc/netns/NAME leads to.
fn is_target_of_entry(place: &OwnedFd, name: &str) -> bool {
    let Ok(mounted) = fstat(place) else {
        return false;
    };
    let is_same = |path: PathBuf| {
        stat(&path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (mounted.st_dev, mounted.st_ino))
    };
    let directories = std::fs::read_dir(ETC_NETNS).into_iter().flatten().flatten();
    directories
        .into_iter()
        .any(|directory| is_same(directory.path().join(name)))
}

/// The existing directories of the host's name services; one that has two names is listed once.
fn name_services() -> Result<Vec<(&'static str, OwnedFd)>> {
    let mut seen = Vec::new();
    let mut services = Vec::new();
    for path in NAME_SERVICES {
        let Some(place) = find(path)? else { continue };
        let stat = fstat(&place).cannot(|| format!("inspect {path}"))?;
        let identity = (stat.st_dev, stat.st_ino);
        if trusted::kind(&stat) == SFlag::S_IFDIR && !seen.contains(&identity) {
            seen.push(identity);
            services.push((path, place));
        }
    }
    Ok(services)
}

/// Covers the directories of the host's name services by an empty one that belongs to root, the one
/// that is `kept` if there is one: a program that looks for their sockets finds none, and asks the
/// namespace's resolver.
fn mask(services: &[(&str, OwnedFd)], kept: Option<OwnedFd>) -> Result<()> {
    let mut mask: Option<OwnedFd> = None;
    for (path, place) in services {
        let tree = match &mask {
            Some(mask) => {
                api::clone_tree(mask.as_fd(), false).cannot(|| "copy the empty directory")?
            }
            None => empty_directory(kept.as_ref())?,
        };
        attach(tree.as_fd(), place.as_fd(), c"").cannot(|| format!("cover {path}"))?;
        mask.get_or_insert(tree);
    }
    Ok(())
}

/// [`EMPTY`], if it is there and root's.
fn kept_empty_directory() -> Option<OwnedFd> {
    let (place, stat) = trusted::locate(Path::new(EMPTY), Trust::Strict).ok()?;
    (trusted::kind(&stat) == SFlag::S_IFDIR).then_some(place)
}

/// A mount of an empty directory that belongs to root, read-only for root's programs inside as well:
/// of the one that is `kept`, which costs less than a new tmpfs.
fn empty_directory(kept: Option<&OwnedFd>) -> Result<OwnedFd> {
    const WHAT: &str = "create an empty directory";
    let attributes = Attributes::NOSUID_NODEV_NOEXEC.with(Attributes::RDONLY);
    if let Some(kept) = kept {
        let tree = api::clone_tree(kept.as_fd(), false).cannot(|| WHAT)?;
        api::restrict(tree.as_fd(), attributes, false).cannot(|| WHAT)?;
        return Ok(tree);
    }
    let options = [
        (c"ro", c""),
        (c"mode", c"0555"),
        (c"uid", c"0"),
        (c"gid", c"0"),
    ];
    api::new_filesystem(c"tmpfs", MASK, &options, attributes).cannot(|| WHAT)
}

/// Opens `path` with O_PATH; `None` if it does not exist (any longer).
fn find(path: impl AsRef<Path>) -> Result<Option<OwnedFd>> {
    let path = path.as_ref();
    match open(
        path,
        OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::ENOENT) => Ok(None),
        place => place.map(Some).cannot(|| format!("open {}", show(path))),
    }
}

fn must_find(path: &str) -> Result<OwnedFd> {
    find(path)?.ok_or_else(|| Error::new(format!("open {path}"), Errno::ENOENT.describe()))
}

/// The mount that contains `place`, which is at `path`: its id, if the kernel reports it, and its
/// source.
fn mount_at(place: &OwnedFd, path: impl AsRef<Path>) -> Result<(Option<u64>, Vec<u8>)> {
    let path = path.as_ref();
    match api::mount_of(place).and_then(|id| Ok((Some(id), api::mount_source(id)?))) {
        Err(Errno::ENOSYS) => {
            let mount = mountinfo()?.into_iter().rfind(|mount| mount.point == path);
            Ok((None, mount.map_or(Vec::new(), |mount| mount.source)))
        }
        mount => mount.cannot(|| format!("find out what is mounted on {}", show(path))),
    }
}

/// The id of the mount that contains `place`, which is at `path`, if the kernel reports it.
fn unique_id(place: &OwnedFd, path: &str) -> Result<Option<u64>> {
    match api::mount_of(place) {
        Err(Errno::ENOSYS) => Ok(None),
        id => id
            .map(Some)
            .cannot(|| format!("find out what is mounted on {path}")),
    }
}

/// If `place` is the root of a mount, the id of that in mountinfo.
fn mounted_at(place: &OwnedFd) -> Result<Option<u64>> {
    api::mounted_at(place).cannot(|| "find out whether something is mounted")
}

/// What of its file system is mounted on `path`, which is `place`; `id` is that of the mount in
/// mountinfo.
fn root_of(place: &OwnedFd, path: &Path, id: u64) -> Result<Vec<u8>> {
    match api::mount_of(place).and_then(api::mount_root) {
        Err(Errno::ENOSYS) => {
            let mount = mountinfo()?.into_iter().find(|mount| mount.id == id);
            Ok(mount.map_or(Vec::new(), |mount| mount.root))
        }
        root => root.cannot(|| format!("find out what is mounted on {}", show(path))),
    }
}

/// Mounts the namespace's sysfs on /sys, and on it again what was mounted below the old one.
fn cover_sys(sys: &Sys, mark: &CStr) -> Result<()> {
    let submounts = copies_below(sys)?;
    let flags = fstatvfs(&sys.place).cannot(|| "inspect /sys")?.flags();
    let mut attributes = Attributes::NOSUID_NODEV_NOEXEC;
    if flags.contains(FsFlags::ST_RDONLY) {
        attributes = attributes.with(Attributes::RDONLY);
    }
    let sysfs = api::new_filesystem(c"sysfs", mark, &[], attributes)
        .cannot(|| "create a sysfs for the namespace")?;
    attach(sysfs.as_fd(), sys.place.as_fd(), c"")
        .cannot(|| "mount the namespace's sysfs on /sys")?;
    for (path, tree) in submounts {
        // For instance the directory of a device that the namespace does not have.
        let Some(target) = find(&path)? else { continue };
        attach(tree.as_fd(), target.as_fd(), c"")
            .cannot(|| format!("mount {} again", show(&path)))?;
    }
    Ok(())
}

/// Copies of everything mounted below /sys: one for each topmost mount, including what is mounted
/// below it.
fn copies_below(sys: &Sys) -> Result<Vec<(PathBuf, OwnedFd)>> {
    let mut copies = Vec::new();
    for path in mounts_below(sys.id, "/sys")? {
        let Some(place) = find(&path)? else { continue };
        let tree = api::clone_tree(place.as_fd(), true)
            .cannot(|| format!("copy the mount {}", show(&path)))?;
        copies.push((path, tree));
    }
    Ok(copies)
}

/// The topmost mount points below `above`, where the mount with this `id` is.
fn mounts_below(id: Option<u64>, above: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    match id {
        None => paths = children_by_mountinfo(&mountinfo()?, above),
        Some(id) => {
            for mount in
                api::descendants(id).cannot(|| format!("list what is mounted below {above}"))?
            {
                match api::mount_point(mount) {
                    // Unmounted on the host since it was listed.
                    Err(Errno::ENOENT) => {}
                    point => paths.push(trusted::path_from_bytes(
                        point.cannot(|| format!("find out what is mounted below {above}"))?,
                    )),
                }
            }
        }
    }
    paths.retain(|path| path.starts_with(above) && path != Path::new(above));
    // listmount(2) also returns what is mounted below those, which is copied with them.
    paths.sort_unstable();
    paths.dedup_by(|below, above| below.starts_with(&*above));
    Ok(paths)
}

/// The checked entries of /etc/netns/`name`; none if there is no such directory.
fn entries(name: &NetnsName) -> Result<Vec<Entry>> {
    let path = Path::new(ETC_NETNS).join(name.as_str());
    let Some(directory) = trusted::directory(&path)? else {
        return Ok(Vec::new());
    };
    let cannot = || format!("list {}", show(&path));
    let mut directory = Dir::from_fd(directory).cannot(cannot)?;
    let names = names_in(&mut directory).cannot(cannot)?;
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let path = path.join(&name);
        let (place, stat) = trusted::locate_in(&directory, &path)?;
        if !matches!(trusted::kind(&stat), SFlag::S_IFREG | SFlag::S_IFDIR) {
            return Err(Error::new(
                format!("use {}", show(&path)),
                "it is neither a regular file nor a directory",
            ));
        }
        entries.push(Entry { name, place });
    }
    Ok(entries)
}

fn names_in(directory: &mut Dir) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in directory.iter() {
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if !trusted::is_skipped_entry(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Binds /etc onto itself and mounts each entry in the copy, over its namesake.
fn cover_etc(name: &NetnsName, entries: &[Entry], hosts: Option<OwnedFd>) -> Result<()> {
    let (old, _) = trusted::locate(Path::new("/etc"), Trust::Strict)?;
    let etc = api::clone_tree(old.as_fd(), true).cannot(|| "copy the mount of /etc")?;
    attach(etc.as_fd(), old.as_fd(), c"").cannot(|| "bind /etc onto itself")?;
    if let Some(hosts) = hosts {
        attach(hosts.as_fd(), etc.as_fd(), c"hosts")
            .cannot(|| "put a copy in place of /etc/hosts")?;
    }
    for Entry { name: entry, place } in entries {
        let shown = show(entry);
        let action = || format!("put {ETC_NETNS}/{name}/{shown} in place of /etc/{shown}");
        let tree = api::clone_tree(place.as_fd(), true).cannot(action)?;
        let target = CString::new(entry.as_bytes()).unwrap_or_default();
        api::attach(tree.as_fd(), etc.as_fd(), &target).map_err(|errno| {
            let error = Error::new(action(), AtLimit(errno, MOUNTS).describe());
            if errno == Errno::ENOENT {
                error.hint(format!("sudo touch /etc/{shown}"))
            } else {
                error
            }
        })?;
    }
    Ok(())
}

/// A line of /proc/self/mountinfo, for kernels without listmount and statmount
/// (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    parent: u64,
    /// What of its file system is mounted.
    root: Vec<u8>,
    point: PathBuf,
    source: Vec<u8>,
}

/// Longer than that of any machine; a user may have many file systems mounted (fusermount3(1)),
/// with long names.
const MAX_MOUNTINFO: u64 = 64 << 20;

fn mountinfo() -> Result<Vec<Mount>> {
    let text =
        read_file("/proc/self/mountinfo", MAX_MOUNTINFO).cannot(|| "read /proc/self/mountinfo")?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse_mount)
        .collect())
}

/// Parses one line of mountinfo.
pub fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse().ok();
    let (id, parent) = (number(fields.next())?, number(fields.next())?);
    let root = unescape_octal(fields.nth(1)?);
    let point = trusted::path_from_bytes(unescape_octal(fields.next()?));
    let source = unescape_octal(fields.skip_while(|field| *field != b"-").nth(2)?);
    Some(Mount {
        id,
        parent,
        root,
        point,
        source,
    })
}

/// Decodes `\040` and the like, which the kernel writes for blanks in mountinfo.
fn unescape_octal(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) if *first == b'\\' => {
                bytes.push(code);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

fn children_by_mountinfo(mounts: &[Mount], above: &str) -> Vec<PathBuf> {
    let Some(above) = mounts.iter().rfind(|mount| mount.point == Path::new(above)) else {
        return Vec::new();
    };
    mounts
        .iter()
        .filter(|mount| mount.parent == above.id)
        .map(|mount| mount.point.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let mount = parse_mount(line).unwrap();
        assert_eq!(
            (mount.id, mount.parent, mount.point.as_path()),
            (36, 35, Path::new("/mnt 2"))
        );
        assert_eq!(
            (mount.root.as_slice(), mount.source.as_slice()),
            (&b"/mnt1"[..], &b"/dev/root"[..])
        );
        assert_eq!(parse_mount(b"36 35 98:0"), None);
        assert_eq!(unescape_octal(b"a\\"), b"a\\");
        assert_eq!(unescape_octal(b"\\777"), b"\\777");
    }

    #[test]
    fn masks_of_a_view() {
        for ours in ["/run/runns/.empty", "/runns/.empty//deleted", "/.empty"] {
            assert!(is_kept_empty_directory(ours.as_bytes()), "{ours}");
        }
        for other in [
            "/",
            "",
            "/runns",
            "/home/eve/.empty",
            ".empty",
            "/run/runns/.empty/x",
        ] {
            assert!(!is_kept_empty_directory(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn entries_of_a_view() {
        let is_ours = |root: &str, name: &str| is_entry(root.as_bytes(), name);
        assert!(is_ours("/etc/netns/w/resolv.conf", "resolv.conf"));
        assert!(
            is_ours("/netns/w/resolv.conf//deleted", "resolv.conf"),
            "/etc is a file system"
        );
        assert!(is_ours("/runns/.hosts-w", "hosts") && is_ours("/.hosts-", "hosts"));
        assert!(
            !is_ours("/etc/netns/w/resolv.conf", "hosts")
                && !is_ours("/runns/.hosts-w", "resolv.conf")
        );
        assert!(
            !is_ours("/", "netns")
                && !is_ours("/netns/w", "w")
                && !is_ours("/firejail/mnt/hosts", "hosts")
        );
    }
}
