//! The packet that has WireGuard start a handshake, which it does only if there is one to send. It
//! carries nothing, and its hop limit is used up at the peer, so that no stranger gets it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::libc::{ETH_P_IP, ETH_P_IPV6};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::wgquick::Prefix;
use runns_shared::error::{Context, Error, Result, words};
use runns_sys::net;

/// Nothing follows the header (RFC 8200, 4.7; the number holds for IPv4, too).
const NO_NEXT_HEADER: u8 = 59;
const HOPS: u8 = 1;
/// Addresses to which nothing is ever routed (RFC 1112, 4; RFC 6666).
const NOBODY: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 9);
const NOBODY6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 9);

/// Sends a packet to each of the peers' `networks`, through `device` in the calling thread's network
/// namespace. A packet socket passes over routes, rules, and whatever programs inside can use up,
/// such as ports. It is an error if nothing could be sent to any peer.
pub fn knock(device: &str, own: &[IpAddr], networks: &[Prefix]) -> Result<()> {
    let cannot = || format!("send a packet through {device}");
    let index = if_nametoindex(device).cannot(cannot)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Of protocol 0, it receives nothing.
    let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None).cannot(cannot)?;
    let send = |network: &Prefix| {
        let (protocol, packet) = packet(own, behind(*network));
        net::send_through(&socket, index, protocol, &packet)
    };
    let results: Vec<_> = networks.iter().map(send).collect();
    if results.iter().any(|result| result.is_ok()) {
        return Ok(());
    }
    let failure = results.into_iter().find_map(|result| result.err());
    let cause = failure.map_or("its peers have no AllowedIPs".to_string(), words);
    Err(Error::new(cannot(), cause))
}

/// An address in this network.
fn behind((network, prefix): Prefix) -> IpAddr {
    let Ok(network) = IpNet::new(network, prefix) else {
        return network;
    };
    [IpAddr::from(NOBODY), NOBODY6.into()]
        .into_iter()
        .find(|nobody| network.contains(nobody))
        .unwrap_or(network.network())
}

/// An empty packet to `target` from the device's own address, with the number of its family among
/// Ethernet's protocols.
fn packet(own: &[IpAddr], target: IpAddr) -> (i32, Vec<u8>) {
    let mut own = own.iter().copied();
    match target {
        IpAddr::V4(target) => {
            let own = own.find_map(|own| match own {
                IpAddr::V4(own) => Some(own),
                IpAddr::V6(_) => None,
            });
            // RFC 791, 3.1.
            let mut header = vec![0x45, 0, 0, 20, 0, 0, 0, 0, HOPS, NO_NEXT_HEADER, 0, 0];
            header.extend(own.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
            header.extend(target.octets());
            let checksum = checksum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            (ETH_P_IP, header)
        }
        IpAddr::V6(target) => {
            let own = own.find_map(|own| match own {
                IpAddr::V4(_) => None,
                IpAddr::V6(own) => Some(own),
            });
            // RFC 8200, 3.
            let mut header = vec![0x60, 0, 0, 0, 0, 0, NO_NEXT_HEADER, HOPS];
            header.extend(own.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
            header.extend(target.octets());
            (ETH_P_IPV6, header)
        }
    }
}

/// The checksum of an IPv4 header in which it is still zero (RFC 1071).
fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    // Twenty bytes have at most a carry of 9, which cannot carry again more than once.
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::wgquick::prefix;

    #[test]
    fn addresses_behind_a_peer() {
        for (network, wanted) in [
            ("10.66.0.7/24", "10.66.0.0"),
            ("10.9.0.9/32", "10.9.0.9"),
            ("0.0.0.0/0", "240.0.0.9"),
            ("128.0.0.0/1", "240.0.0.9"),
            ("0.0.0.0/1", "0.0.0.0"),
            ("fd00::1/64", "fd00::"),
            ("::/0", "100::9"),
        ] {
            let wanted: IpAddr = wanted.parse().unwrap();
            assert_eq!(behind(prefix(network).unwrap()), wanted, "{network}");
        }
    }

    /// The example of a checksum that is widely used, of 192.168.0.1 and 192.168.0.199.
    #[test]
    fn checksums() {
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
            0xc7,
        ];
        assert_eq!(checksum(&header), 0xb861);
    }
}
