//! The mount API by descriptors (Linux 5.2: open_tree, move_mount, fsopen; 6.8: listmount,
//! statmount), for which neither libc nor nix has functions. Constants are from
//! include/uapi/linux/mount.h.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::check;

const SYS_MOUNT_SETATTR: libc::c_long = 442;
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const STATX_MNT_ID_UNIQUE: libc::c_uint = 0x4000;
const STATMOUNT_MNT_ROOT: u64 = 0x8;
const STATMOUNT_MNT_POINT: u64 = 0x10;
const STATMOUNT_SB_SOURCE: u64 = 0x200;
/// Bytes of the fixed part of `struct statmount`; strings follow it.
const STATMOUNT_HEADER: usize = 512;

/// MOUNT_ATTR_* of fsmount(2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attributes(pub libc::c_uint);
impl Attributes {
    /// Read-only by mount, not by superblock.
    pub const RDONLY: Self = Self(0x1);
    /// nosuid, nodev and noexec.
    pub const NOSUID_NODEV_NOEXEC: Self = Self(0x2 | 0x4 | 0x8);
    /// nosuid and nodev.
    pub const NOSUID_NODEV: Self = Self(0x2 | 0x4);
    /// nosuid and noexec.
    pub const NOSUID_NOEXEC: Self = Self(0x2 | 0x8);
    /// Both sets of attributes.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the system call that returned `fd` has just made it; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }
}

/// A detached copy of the mount that `fd` (O_PATH is enough) is on, rooted at `fd` itself; with
/// `recursive`, also of what is mounted below it. Needs CAP_SYS_ADMIN over the mount namespace.
/// open_tree(2).
pub fn clone_tree(fd: BorrowedFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the path is a NUL-terminated constant; open_tree touches no other memory of ours.
    check(unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), flags) })
        .map(owned)
}

/// Mounts the detached `tree` on `name` below `dir` (`""`: on `dir` itself). A symlink at `name` is
/// covered, not followed. move_mount(2).
pub fn attach(tree: BorrowedFd, dir: BorrowedFd, name: &CStr) -> Result<(), Errno> {
    let mut flags = MOVE_MOUNT_F_EMPTY_PATH;
    if name.is_empty() {
        flags |= MOVE_MOUNT_T_EMPTY_PATH;
    }
    // SAFETY: both paths are NUL-terminated; move_mount only reads them.
    check(unsafe {
        let (tree, dir) = (tree.as_raw_fd(), dir.as_raw_fd());
        libc::syscall(
            libc::SYS_move_mount,
            tree,
            c"".as_ptr(),
            dir,
            name.as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// A new, detached mount of file system type `kind`; `options` are mount options, an empty value is
/// a flag. `source` is what mountinfo shows as the mount's source. fsopen(2), fsconfig(2),
/// fsmount(2).
pub fn new_filesystem(
    kind: &CStr,
    source: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: Attributes,
) -> Result<OwnedFd, Errno> {
    // SAFETY: `kind` is NUL-terminated and only read.
    let fs = owned(check(unsafe {
        libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC)
    })?);
    let configure = |command: libc::c_uint,
                     key: *const libc::c_char,
                     value: *const libc::c_char| {
        // SAFETY: key and value are null or NUL-terminated strings that outlive the call, as the
        // commands want them.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, key, value, 0) })
            .map(drop)
    };
    configure(FSCONFIG_SET_STRING, c"source".as_ptr(), source.as_ptr())?;
    for (key, value) in options {
        if value.is_empty() {
            configure(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null())?;
        } else {
            configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
        }
    }
    configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    // SAFETY: fsmount takes numbers only.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            fs.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes.0,
        )
    })
    .map(owned)
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets `attributes` on the mount whose root is `mount`; with `recursive`, also on what is mounted
/// below it. Attributes that are set already stay. mount_setattr(2), Linux 5.12.
pub fn restrict(mount: BorrowedFd, attributes: Attributes, recursive: bool) -> Result<(), Errno> {
    let wanted = MountAttributes {
        set: attributes.0.into(),
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let (mount, size) = (mount.as_raw_fd(), size_of::<MountAttributes>());
    // SAFETY: the path is NUL-terminated; the kernel reads `size` bytes of `wanted`.
    check(unsafe {
        libc::syscall(
            SYS_MOUNT_SETATTR,
            mount,
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size,
        )
    })
    .map(drop)
}

/// The unique id of the mount that `fd` is on. ENOSYS on kernels before 6.8.
pub fn mount_of(fd: impl AsFd) -> Result<u64, Errno> {
    let stat = inspect(fd, STATX_MNT_ID_UNIQUE)?;
    if stat.stx_mask & STATX_MNT_ID_UNIQUE == 0 {
        return Err(Errno::ENOSYS);
    }
    Ok(stat.stx_mnt_id)
}

/// If `fd` is the root of a mount, the id of that mount in mountinfo. statx(2), Linux 5.8.
pub fn mounted_at(fd: impl AsFd) -> Result<Option<u64>, Errno> {
    let stat = inspect(fd, libc::STATX_MNT_ID)?;
    Ok((stat.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0).then_some(stat.stx_mnt_id))
}

fn inspect(fd: impl AsFd, mask: libc::c_uint) -> Result<libc::statx, Errno> {
    // SAFETY: an all-zero statx is a valid value, which the call fills in; the path is
    // NUL-terminated.
    unsafe {
        let mut stat: libc::statx = std::mem::zeroed();
        let fd = fd.as_fd().as_raw_fd();
        check(libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, mask, &mut stat).into())?;
        Ok(stat)
    }
}

/// `struct mnt_id_req`, version 0.
#[repr(C)]
struct MountRequest {
    size: u32,
    reserved: u32,
    mount_id: u64,
    param: u64,
}

impl MountRequest {
    fn new(mount_id: u64, param: u64) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            reserved: 0,
            mount_id,
            param,
        }
    }
}

/// The ids of all mounts below `mount`, at any depth. listmount(2), Linux 6.8.
pub fn descendants(mount: u64) -> Result<Vec<u64>, Errno> {
    let mut ids = Vec::new();
    let mut page = [0u64; 256];
    loop {
        let request = MountRequest::new(mount, ids.last().copied().unwrap_or(0));
        // SAFETY: `request` says its own size; the kernel writes at most `page.len()` ids to
        // `page`.
        let count = check(unsafe {
            libc::syscall(
                SYS_LISTMOUNT,
                &request as *const MountRequest,
                page.as_mut_ptr(),
                page.len(),
                0,
            )
        })? as usize;
        ids.extend_from_slice(&page[..count]);
        if count < page.len() {
            return Ok(ids);
        }
    }
}

/// Where `mount` is mounted, as a path from the caller's root. statmount(2), Linux 6.8.
pub fn mount_point(mount: u64) -> Result<Vec<u8>, Errno> {
    statmount_string(mount, STATMOUNT_MNT_POINT, 108)
}

/// What of its file system is mounted, as a path from the root of that. statmount(2), Linux 6.8.
pub fn mount_root(mount: u64) -> Result<Vec<u8>, Errno> {
    statmount_string(mount, STATMOUNT_MNT_ROOT, 104)
}

/// The source of `mount`, the first field after the dash in mountinfo's lines. statmount(2), Linux
/// 6.13; empty where the kernel does not say.
pub fn mount_source(mount: u64) -> Result<Vec<u8>, Errno> {
    statmount_string(mount, STATMOUNT_SB_SOURCE, 124)
}

/// The string of `struct statmount` whose offset stands at byte `field` of it.
fn statmount_string(mount: u64, mask: u64, field: usize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0u8; STATMOUNT_HEADER + 512];
    loop {
        let request = MountRequest::new(mount, mask);
        // SAFETY: `request` says its own size; the kernel writes at most `buffer.len()` bytes to
        // `buffer`.
        let result = check(unsafe {
            libc::syscall(
                SYS_STATMOUNT,
                &request as *const MountRequest,
                buffer.as_mut_ptr(),
                buffer.len(),
                0,
            )
        });
        match result {
            Err(Errno::EOVERFLOW) if buffer.len() < 1 << 20 => buffer = vec![0; buffer.len() * 4],
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    let number = |at: usize, len: usize| {
        buffer[at..at + len]
            .iter()
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    if number(8, 8) & mask == 0 {
        return Err(Errno::ENOSYS);
    }
    let start = STATMOUNT_HEADER + number(field, 4) as usize;
    let text = buffer.get(start..).ok_or(Errno::EOVERFLOW)?;
    Ok(text
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec())
}
