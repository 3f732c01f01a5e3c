//! Network namespaces and interfaces.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

use super::check;

/// ioctl_nsfs(2): the CLONE_NEW* flag of the namespace that a descriptor stands for.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
/// include/uapi/asm-generic/socket.h, Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// include/uapi/linux/sockios.h
const SIOCGIFTXQLEN: libc::c_ulong = 0x8942;
const SIOCSIFTXQLEN: libc::c_ulong = 0x8943;

/// Whether `fd` is a network namespace: on nsfs, and of type net.
pub fn is_network_namespace(fd: impl AsFd) -> Result<bool, Errno> {
    if nix::sys::statfs::fstatfs(fd.as_fd())?.filesystem_type().0 as i64 != libc::NSFS_MAGIC {
        return Ok(false);
    }
    // SAFETY: NS_GET_NSTYPE takes no argument; on nsfs, which was checked, it only returns a
    // number.
    let kind = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    Ok(check(kind.into())? == libc::CLONE_NEWNET as libc::c_long)
}

/// The oldest kernel with all that the programs need: of that, the cookie came last. Older ones say
/// ENOPROTOOPT.
pub const OLDEST_KERNEL: &str = "5.14";

/// The cookie of the network namespace of `socket`: never used again while the machine is up.
/// socket(7).
pub fn namespace_cookie(socket: impl AsFd) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`.
    check(unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &mut len,
        )
        .into()
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

/// One request of netdevice(7), of a number that reads and writes an `ifreq` and nothing else.
fn interface_ioctl(
    socket: impl AsFd,
    number: libc::c_ulong,
    request: &mut libc::ifreq,
) -> Result<(), Errno> {
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the callers' numbers read the name from, and read or write one member of, the ifreq.
    let answer = unsafe { libc::ioctl(socket, number as _, request) };
    check(answer.into()).map(drop)
}

/// The flags of interface `name`, in the request that asked for them.
fn flags(socket: impl AsFd, name: &str) -> Result<(libc::ifreq, libc::c_short), Errno> {
    let mut request = interface_request(name);
    interface_ioctl(socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: after SIOCGIFFLAGS the union holds the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((request, flags))
}

/// Whether interface `name` in the network namespace of `socket` is up (netdevice(7),
/// SIOCGIFFLAGS).
pub fn interface_is_up(socket: impl AsFd, name: &str) -> Result<bool, Errno> {
    let (_, flags) = flags(socket, name)?;
    Ok(flags & libc::IFF_UP as libc::c_short != 0)
}

/// Brings interface `name` up. Needs CAP_NET_ADMIN (netdevice(7), SIOCSIFFLAGS).
pub fn bring_up(socket: impl AsFd, name: &str) -> Result<(), Errno> {
    let (mut request, flags) = flags(&socket, name)?;
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    interface_ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

/// The length of the transmit queue of interface `name` in the network namespace of `socket`
/// (netdevice(7), SIOCGIFTXQLEN).
pub fn queue_length(socket: impl AsFd, name: &str) -> Result<i32, Errno> {
    let mut request = interface_request(name);
    interface_ioctl(socket, SIOCGIFTXQLEN, &mut request)?;
    // SAFETY: after SIOCGIFTXQLEN the union holds an int; this member is one.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// Sets the length of the transmit queue of interface `name`. Needs CAP_NET_ADMIN (netdevice(7),
/// SIOCSIFTXQLEN).
pub fn set_queue_length(socket: impl AsFd, name: &str, length: i32) -> Result<(), Errno> {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_ifindex = length;
    // SAFETY: SIOCSIFTXQLEN only reads the ifreq.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCSIFTXQLEN as _, &request) }.into())
        .map(drop)
}

/// Sends an IP packet, of a family with this number among Ethernet's protocols, through the interface
/// with this index in the network namespace of a packet socket (packet(7), SOCK_DGRAM), past routes
/// and rules.
pub fn send_through(
    socket: impl AsFd,
    index: u32,
    protocol: libc::c_int,
    packet: &[u8],
) -> Result<(), Errno> {
    // SAFETY: sockaddr_ll is plain data, for which all zeroes are a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as libc::c_ushort;
    to.sll_protocol = (protocol as u16).to_be();
    to.sll_ifindex = index as libc::c_int;
    // SAFETY: the kernel reads as many bytes of `packet` and of `to` as these have.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    check(sent as libc::c_long).map(drop)
}
