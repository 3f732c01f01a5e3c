//! Network namespaces and interface flags.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

use super::check;

/// ioctl_nsfs(2): the CLONE_NEW* flag of the namespace that a descriptor stands for.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
/// include/uapi/asm-generic/socket.h, Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Whether `fd` is a network namespace: on nsfs, and of type net.
pub fn is_network_namespace(fd: impl AsFd) -> Result<bool, Errno> {
    if nix::sys::statfs::fstatfs(fd.as_fd())?.filesystem_type().0 as i64 != libc::NSFS_MAGIC {
        return Ok(false);
    }
    // SAFETY: NS_GET_NSTYPE takes no argument; on nsfs, which was checked, it only returns a number.
    let kind = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    Ok(check(kind.into())? == libc::CLONE_NEWNET as libc::c_long)
}

/// The cookie of the network namespace of `socket`: never used again while the machine is up. socket(7).
pub fn namespace_cookie(socket: impl AsFd) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`.
    check(unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::getsockopt(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &mut len).into()
    })?;
    Ok(cookie)
}

/// A request for the interface `name`, otherwise all zeroes.
pub(crate) fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = libc::IFNAMSIZ - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// IFF_* of an interface, as far as [`flags`] returns them (netdevice(7)).
pub type Flags = libc::c_short;
/// The interface is up.
pub const UP: Flags = libc::IFF_UP as Flags;

/// The flags of interface `name` in the network namespace of `socket` (netdevice(7), SIOCGIFFLAGS).
pub fn flags(socket: impl AsFd, name: &str) -> Result<Flags, Errno> {
    let mut request = interface_request(name);
    // SAFETY: SIOCGIFFLAGS reads the name from and writes the flags to the ifreq.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request) }.into())?;
    // SAFETY: after SIOCGIFFLAGS the union holds the flags.
    Ok(unsafe { request.ifr_ifru.ifru_flags })
}

/// Sets the flags `set` of interface `name`, and clears `clear`. Needs CAP_NET_ADMIN (netdevice(7), SIOCSIFFLAGS).
pub fn change_flags(socket: impl AsFd, name: &str, set: Flags, clear: Flags) -> Result<(), Errno> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = flags(&socket, name)? & !clear | set;
    // SAFETY: SIOCSIFFLAGS only reads the ifreq.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) }.into()).map(drop)
}
