//! TUN and TAP devices (Documentation/networking/tuntap.rst of the kernel).

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

use super::{check, net::interface_request};

/// Layer 3 or layer 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// What stands before each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Nothing.
    None,
    /// Flags and protocol, `struct tun_pi`.
    Information,
    /// A virtio header, with which many packets are handed over at once (IFF_VNET_HDR).
    Offload,
}

/// Creates the device `name` in the network namespace in which `tun`, a new descriptor of
/// /dev/net/tun, was opened. It disappears when `tun` is closed, unless it is made persistent.
pub fn create(tun: impl AsFd, name: &str, kind: Kind, header: Header) -> Result<(), Errno> {
    let mut request = interface_request(name);
    let kind = if kind == Kind::Tap {
        libc::IFF_TAP
    } else {
        libc::IFF_TUN
    };
    let header = match header {
        Header::None => libc::IFF_NO_PI,
        Header::Information => 0,
        Header::Offload => libc::IFF_NO_PI | libc::IFF_VNET_HDR,
    };
    request.ifr_ifru.ifru_flags = (kind | header) as libc::c_short;
    // SAFETY: TUNSETIFF reads name and flags from the ifreq, and writes the name to it.
    check(
        unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETIFF as _, &mut request) }.into(),
    )
    .map(drop)
}

/// Makes the device of `tun` persistent, and lets processes with this user id attach to it without
/// a capability.
pub fn give(tun: impl AsFd, uid: u32) -> Result<(), Errno> {
    let tun = tun.as_fd().as_raw_fd();
    // SAFETY: both take a number as argument.
    check(unsafe { libc::ioctl(tun, libc::TUNSETOWNER as _, libc::c_ulong::from(uid)) }.into())?;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(tun, libc::TUNSETPERSIST as _, 1 as libc::c_ulong) }.into())
        .map(drop)
}
