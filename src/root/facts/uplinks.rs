//! Uplinks that namespaces are bound to. Each has a number, from which the group of its veths, the
//! mark of their packets and a routing table follow: they belong to the uplink, not to the
//! namespace.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

use ipnet::{IpNet, Ipv4Net};

use super::ipv6;
use crate::host::HostState;
use crate::kernel::netlink::rules::Lead;
use crate::kernel::netlink::{AddressFamily, Hop, Link, Netlink, OWN_TABLES, Packets, Route};
use crate::lock::Lock;
use runns_shared::error::{Error, Result};
use runns_shared::name::IfaceName;
use runns_shared::plan::Plan;

/// Group (`ip link set group`) of the veths whose traffic leaves as the host routes it; that of
/// uplink N is N more.
const GROUPS: u32 = 0x7275_6e00;
/// The group of a veth whose traffic leaves as the host routes it.
pub const UNBOUND_GROUP: u32 = GROUPS;
/// The mark of uplink N is N more in the highest byte, which is ours alone.
const MARKS: u8 = 0x80;
const MARK_MASK: u32 = 0xff00_0000;
/// The table of uplink N is N more.
const TABLES: u32 = 17_250_000;
/// Uplinks that can be told apart. Of the other marks, 0xfe is that of packets for servers of the
/// host, and 0xff that of replies that leave as the host routes them (see `table/host.nft`).
const MOST: u8 = 0x7d;

/// A destination as programs have it, which no list of reserved networks contains:
/// a.root-servers.net.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);

/// An uplink that namespaces are bound to, by the number under which the host's tables have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(u8);

impl Bound {
    /// The number of `uplink`; `None` if no namespace is bound to it yet.
    pub fn to(uplink: &IfaceName) -> Result<Option<Self>> {
        Ok(HostState::load()?
            .uplinks
            .get(uplink.as_str())
            .copied()
            .map(Self))
    }

    /// One with this number, as [`HostState::uplinks`] has them.
    pub fn numbered(number: u8) -> Self {
        Self(number)
    }

    /// The number of `uplink`, or the one that it would get.
    pub fn planned(uplink: &IfaceName) -> Result<Self> {
        let uplinks = HostState::load()?.uplinks;
        let known = uplinks.get(uplink.as_str()).copied();
        let number = known
            .or_else(|| (1..=MOST).find(|number| !uplinks.values().any(|taken| taken == number)));
        number.map(Self).ok_or_else(|| {
            Error::new(
                format!("use uplink {uplink}"),
                "too many uplinks are in use",
            )
        })
    }

    /// The number of `uplink`, a new one if it has none.
    pub fn reserve(lock: &Lock, uplink: &IfaceName) -> Result<Self> {
        let bound = Self::planned(uplink)?;
        HostState::update(lock, |host| {
            host.uplinks.insert(uplink.to_string(), bound.0);
        })?;
        Ok(bound)
    }

    /// All uplinks that namespaces are bound to.
    pub fn of(state: &HostState) -> BTreeMap<String, Self> {
        state
            .uplinks
            .iter()
            .map(|(uplink, number)| (uplink.clone(), Self(*number)))
            .collect()
    }

    /// The uplink whose veths are in this group.
    pub fn uplink_of(group: u32) -> Result<Option<IfaceName>> {
        let bound = Self::of(&HostState::load()?)
            .into_iter()
            .find(|(_, bound)| bound.group() == group);
        bound.map(|(uplink, _)| IfaceName::new(uplink)).transpose()
    }

    /// The group of its veths.
    pub fn group(self) -> u32 {
        GROUPS + u32::from(self.0)
    }

    /// The mark of the packets that arrive on them.
    pub fn mark(self) -> u32 {
        u32::from(MARKS + self.0) << 24
    }

    /// The table in which they are looked up.
    pub fn table(self) -> u32 {
        TABLES + u32::from(self.0)
    }

    /// Those packets, for a routing rule.
    pub fn packets(self) -> Packets<'static> {
        Packets::Marked {
            mark: self.mark(),
            mask: MARK_MASK,
        }
    }

    /// The rule of a family that leads `packets` of these senders to the table.
    pub fn lead<'a>(
        self,
        family: AddressFamily,
        packets: Packets<'a>,
        senders: &'a Senders,
    ) -> Lead<'a> {
        Lead {
            family,
            packets,
            mark: self.mark(),
            table: self.table(),
            interfaces: &senders.interfaces,
            networks: &senders.networks,
        }
    }
}

/// The veth pairs as the host's routing rules see them: interfaces, and where packets come from.
pub struct Senders {
    interfaces: Vec<String>,
    networks: Vec<IpNet>,
}

impl Senders {
    /// Those that are there, and that of a plan.
    pub fn of(links: &[Link], addresses: &[(u32, Ipv4Net)], plan: Option<&Plan>) -> Self {
        let own = |link: &&Link| is_own_group(link.group);
        let is_own = |index: u32| links.iter().filter(own).any(|link| link.index == index);
        let there = links.iter().filter(own).map(|link| link.name.clone());
        let networks = addresses.iter().filter(|(index, _)| is_own(*index));
        let networks = networks.map(|(_, address)| address.trunc().into());
        let planned = plan.map(|plan| (plan.interface.to_string(), plan.subnet().network()));
        let (interface, network) = planned.unzip();
        Self {
            interfaces: there.chain(interface).collect(),
            networks: networks
                .chain(network.map(IpNet::V4))
                .chain([IpNet::V6(ipv6::ALL)])
                .collect(),
        }
    }
}

/// Whether a device is in one of our groups.
pub fn is_own_group(group: u32) -> bool {
    group & 0xffff_ff00 == GROUPS
}

/// Whether traffic of the namespace has a way out of the host: `None` if it has none, `Some(None)`
/// if it goes everywhere, else an address in the only network that it reaches.
pub fn reachable(host: &Netlink, uplink: Option<&IfaceName>) -> Result<Option<Option<Ipv4Addr>>> {
    let Some(uplink) = uplink else {
        // Connecting a datagram socket looks the route up and sends nothing (udp(7)).
        let connected =
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect((FAR, 9)));
        return Ok(connected.is_ok().then_some(None));
    };
    let routes = host.routes()?;
    let link = host.need_link(uplink.as_str())?;
    if !link.up {
        return Ok(None);
    }
    if default_hop(&routes, link.index).is_some() {
        return Ok(Some(None));
    }
    let own = host
        .addresses()?
        .into_iter()
        .find(|(index, _)| *index == link.index)
        .map(|(_, subnet)| subnet);
    // Its first or second address: whichever is not the host's own.
    let neighbour = own
        .filter(|subnet| subnet.prefix_len() <= 30)
        .and_then(|subnet| subnet.hosts().find(|address| *address != subnet.addr()));
    Ok(neighbour.map(Some))
}

/// Whether what a namespace sends to the Internet has a way out of the host by its routes.
pub fn has_way(uplink: Option<&IfaceName>, routes: &[Route]) -> Result<bool> {
    let bound = match uplink {
        Some(uplink) => match Bound::to(uplink)? {
            Some(bound) => Some(bound.table()),
            None => return Ok(false),
        },
        None => None,
    };
    Ok(match bound {
        Some(table) => routes
            .iter()
            .any(|route| is_default(route) && route.table == table),
        None => routes.iter().any(leads_out),
    })
}

/// Whether a route of the host's own leads everywhere, or to half of it as VPNs have it.
pub fn leads_out(route: &Route) -> bool {
    is_default(route) && !OWN_TABLES.contains(&route.table)
}

fn is_default(route: &Route) -> bool {
    route.unicast && route.network.prefix_len() <= 1
}

/// The next hop of the host's best default route through device `index`. The two halves into which
/// VPNs split a default route count as default routes.
pub fn default_hop(routes: &[Route], index: u32) -> Option<Hop> {
    routes
        .iter()
        .filter(|route| leads_out(route))
        .filter_map(|route| {
            Some((
                route.metric,
                *route.hops.iter().find(|(hop, _)| *hop == index)?,
            ))
        })
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, hop)| hop)
}
