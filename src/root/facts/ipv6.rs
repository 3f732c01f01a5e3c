//! Whether a veth pair has IPv6, and which addresses. Both ends have one of fd72:756e:6e73:X::/64,
//! where X is the number of the namespace (a network of local addresses, RFC 4193).

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::kernel::sysctl::sysctl;
use runns_shared::error::Result;
use runns_shared::exceptions::{HostAccess, Published};
use runns_shared::plan::Plan;
use runns_shared::request::Request;

/// The first words of all subnets: "runns" in ASCII. With a length of 48 bits, the prefix in
/// `table/host.nft`.
const FIRST: [u16; 3] = [0xfd72, 0x756e, 0x6e73];
/// The network of all of them.
pub const ALL: Ipv6Net = Ipv6Net::new_assert(
    Ipv6Addr::new(FIRST[0], FIRST[1], FIRST[2], 0, 0, 0, 0, 0),
    48,
);
/// The prefix length of each subnet.
pub const LENGTH: u8 = 64;
/// The sysctl that turns IPv6 forwarding on, on the whole host. Without IPv6 in the kernel there is
/// none.
pub const FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// The addresses of a pair, and what it has them for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The host's end.
    pub host: Ipv6Addr,
    /// The namespace's end.
    pub inside: Ipv6Addr,
    /// Whether all IPv6 leaves by it.
    pub leaves: bool,
}

impl Pair {
    /// That of the plan's veth pair, if it has IPv6 on this host.
    pub fn of(plan: &Plan) -> Result<Option<Self>> {
        Self::on(plan, is_there()?)
    }

    /// The same on a host that has IPv6, or not.
    pub fn on(plan: &Plan, has_ipv6: bool) -> Result<Option<Self>> {
        if !has_ipv6 || !is_asked(&plan.request) {
            return Ok(None);
        }
        let address = |last| {
            let [a, b, c] = FIRST;
            Ipv6Addr::new(a, b, c, plan.number.get(), 0, 0, 0, last)
        };
        Ok(Some(Self {
            host: address(1),
            inside: address(2),
            leaves: leaves(&plan.request),
        }))
    }

    /// The subnet.
    pub fn network(&self) -> Ipv6Net {
        Self::network_of(self.host)
    }

    /// The subnet that an address of a pair is in.
    pub fn network_of(address: Ipv6Addr) -> Ipv6Net {
        Ipv6Net::new_assert(address, LENGTH).trunc()
    }
}

/// Whether all IPv6 of the namespace leaves through its veth pair.
pub fn leaves(request: &Request) -> bool {
    request.ipv6 == Some(true) && !request.has_tunnel()
}

/// Whether the veth pair is to have IPv6.
pub fn is_asked(request: &Request) -> bool {
    let exceptions = &request.exceptions;
    if !request.has_veth() || request.ipv6 == Some(false) {
        return false;
    }
    let beside = request.has_tunnel()
        && (exceptions.access(true) != HostAccess::No
            || exceptions
                .bypassed
                .iter()
                .any(|network| network.addr().is_ipv6()));
    // A server that listens on ::1 alone has no other way in.
    let is_opened = |access: &HostAccess| !access.localhost().is_empty();
    leaves(request)
        || beside
        || exceptions.published.iter().any(Published::has_ipv6)
        || exceptions.host_access.as_ref().is_some_and(is_opened)
}

/// Whether tunnels have IPv6. A host without it (ipv6.disable=1) takes theirs as IPv6=no does.
pub fn in_tunnels(request: &Request) -> bool {
    request.ipv6 != Some(false) && is_there().unwrap_or(true)
}

/// Whether this kernel has IPv6.
pub fn is_there() -> Result<bool> {
    Ok(sysctl(FORWARDING)?.is_some())
}
