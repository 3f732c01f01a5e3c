//! The table on the host: all that runns-exec forbids, marks, translates or counts there, for all
//! namespaces at once.
//!
//! What forbids goes by the interface group of the veths, which the kernel holds (`ip link set
//! group`). What permits goes by sets that come from the records. So a record that cannot be read
//! loses its permissions, and no guard with them. The number of rules that a packet meets does not
//! depend on the number of namespaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Element, port_element, quoted};
use crate::facts::Facts;
use crate::facts::uplinks::Bound;
use crate::facts::veth::Veth;
use crate::kernel::nft::{TABLE, set};
use runns_shared::exceptions::{HostAccess, Protocol, Published};

/// The chains, which are the same on every host.
const CHAINS: &str = include_str!("host.nft");
/// Those that only servers on loopback addresses of the host need.
const LOCALHOST: &str = include_str!("localhost.nft");
/// Those that only published ports need.
const PUBLISHING: &str = include_str!("publishing.nft");

/// The whole table.
pub fn text(facts: &Facts) -> String {
    let mut text = format!(
        "table {TABLE} {{\n{}{}{}{CHAINS}",
        permissions(&facts.veths),
        uplinks(facts),
        TEST_PACKETS
    );
    if facts.veths.iter().any(|veth| !veth.localhost().is_empty()) {
        text += &localhost(&facts.veths);
        text += LOCALHOST;
    }
    if facts.veths.iter().any(|veth| !veth.published.is_empty()) {
        text += &published(&facts.veths);
        text += PUBLISHING;
    }
    text + "}\n"
}

/// Test packets that are under way, and those that got through, as long as a build waits for them.
const TEST_PACKETS: &str = "    set probing { type ifname . ipv4_addr . inet_service; size 65536; flags dynamic,timeout; timeout 10s; }
    set passed { type ifname . inet_service; size 65536; flags dynamic,timeout; timeout 10s; }\n";

/// The veths that are in a set, by their names.
fn named(veths: &[Veth], is_in: impl Fn(&Veth) -> bool) -> Vec<String> {
    veths
        .iter()
        .filter(|veth| is_in(veth))
        .map(|veth| quoted(&veth.interface))
        .collect()
}

/// What belongs to each veth, behind its name.
fn with_veth(veths: &[Veth], of: impl Fn(&Veth) -> Vec<String>) -> Vec<String> {
    let elements = |veth: &Veth| {
        let name = quoted(&veth.interface);
        let of_veth = of(veth).into_iter();
        of_veth.map(move |one| format!("{name} . {one}")).collect()
    };
    veths
        .iter()
        .flat_map(|veth| -> Vec<String> { elements(veth) })
        .collect()
}

/// The ports of the host that programs inside can connect to.
fn host_ports(veth: &Veth) -> Vec<String> {
    veth.access.ports().iter().map(port_element).collect()
}

/// The address and ports of the veth at which programs inside reach servers on a loopback address
/// of the host.
fn localhost_ports(veth: &Veth, is_v4: bool) -> Vec<String> {
    let ends = veth.ends(is_v4).into_iter();
    ends.flat_map(|(host, _)| {
        let at_host = move |port| format!("{host} . {}", port_element(port));
        veth.localhost().iter().map(at_host)
    })
    .collect()
}

/// What stands for namespaces on lo, where such servers see an address of 127.114.0.0/16, by the
/// namespace's number. Replies to it never leave the host, for which the kernel would refuse their
/// source address (ip-sysctl.rst, route_localnet). By IPv6 it does not.
fn localhost(veths: &[Veth]) -> String {
    let (mut peers, mut to) = (Vec::new(), Vec::new());
    let (mut from, mut from_v6) = (BTreeSet::new(), BTreeSet::new());
    for veth in veths.iter().filter(|veth| !veth.localhost().is_empty()) {
        let [high, low] = veth.number.get().to_be_bytes();
        let peer = Ipv4Addr::new(127, 114, high, low);
        peers.push(format!("{} : {peer}", quoted(&veth.interface)));
        to.push(format!("{peer} : {}", veth.subnet.inside()));
        for port in veth.localhost().iter().map(port_element) {
            from.insert(format!("{peer} . {port} : {}", veth.subnet.host()));
            from_v6.extend(
                veth.ipv6
                    .map(|pair| format!("{} . {port} : {}", pair.inside, pair.host)),
            );
        }
    }
    let answer = |kind: &str| format!("{kind} . inet_proto . inet_service : {kind}");
    let (v4, v6) = (answer("ipv4_addr"), answer("ipv6_addr"));
    [
        set("map", "localhost_peers", "ifname : ipv4_addr", peers),
        set("map", "localhost_to", "ipv4_addr : ipv4_addr", to),
        set("map", "localhost_from", &v4, from.into_iter().collect()),
        set(
            "map",
            "localhost_from_v6",
            &v6,
            from_v6.into_iter().collect(),
        ),
    ]
    .concat()
}

/// The sets that say what namespaces may do.
fn permissions(veths: &[Veth]) -> String {
    let named = |is_in: &dyn Fn(&Veth) -> bool| named(veths, is_in);
    let resolvers = |is_v4| {
        let of = |veth: &Veth| Element::of_family(Element::addresses(&veth.resolvers), is_v4);
        with_veth(veths, of)
    };
    let bypassed = |is_v4| {
        let of = |veth: &Veth| Element::of_family(Element::networks(&veth.bypassed), is_v4);
        with_veth(veths, of)
    };
    let leaving = |family: &str, leaves: &dyn Fn(&Veth) -> bool| -> Vec<String> {
        let veths = named(leaves).into_iter();
        veths.map(|veth| format!("{family} . {veth}")).collect()
    };
    let leaving = [
        leaving("ipv4", &|veth| !veth.killed),
        leaving("ipv6", &|veth| veth.ipv6.is_some_and(|pair| pair.leaves)),
    ];
    let is_open = |veth: &Veth| veth.access == HostAccess::Yes;
    let ports = "ifname . inet_proto . inet_service";
    let at = |address: &str| format!("ifname . {address} . inet_proto . inet_service");
    let localhost = |is_v4| with_veth(veths, |veth| localhost_ports(veth, is_v4));
    let (v4, v6) = ("ifname . ipv4_addr", "ifname . ipv6_addr");
    let intervals = |types: &str| format!("{types}; flags interval");
    [
        set("set", "open", "ifname", named(&is_open)),
        set(
            "set",
            "opened",
            "ifname",
            named(&|veth| veth.asks && is_open(veth)),
        ),
        set("set", "host_ports", ports, with_veth(veths, host_ports)),
        set("set", "localhost", &at("ipv4_addr"), localhost(true)),
        set("set", "localhost_v6", &at("ipv6_addr"), localhost(false)),
        set("set", "resolvers", v4, resolvers(true)),
        set("set", "resolvers_v6", v6, resolvers(false)),
        set("set", "locked", "ifname", named(&|veth| veth.locked)),
        set("set", "leaving", "nf_proto . ifname", leaving.concat()),
        set("set", "bypassed", &intervals(v4), bypassed(true)),
        set("set", "bypassed_v6", &intervals(v6), bypassed(false)),
    ]
    .concat()
}

/// The sets that forbid: the subnets of veths, the uplinks, by group and by mark, and the interfaces
/// for which the host is no router.
fn uplinks(facts: &Facts) -> String {
    let each = |element: &dyn Fn(&str, Bound) -> String| -> Vec<String> {
        facts
            .uplinks
            .iter()
            .map(|(uplink, bound)| element(&quoted(uplink), *bound))
            .collect()
    };
    let of_family = |family: &str, names: &BTreeSet<String>| -> Vec<String> {
        names
            .iter()
            .map(|name| format!("{family} . {}", quoted(name)))
            .collect()
    };
    let not_routed = [
        of_family("ipv4", &facts.not_routed),
        of_family("ipv6", &facts.not_routed_v6),
    ];
    let subnets = facts.subnets.iter().map(ToString::to_string).collect();
    [
        set("set", "subnets", "ipv4_addr; flags interval", subnets),
        set(
            "set",
            "uplinks",
            "devgroup . ifname",
            each(&|uplink, bound| format!("{:#x} . {uplink}", bound.group())),
        ),
        set(
            "set",
            "bound_marks",
            "mark",
            each(&|_, bound| format!("{:#x}", bound.mark())),
        ),
        set(
            "set",
            "uplink_marks",
            "mark . ifname",
            each(&|uplink, bound| format!("{:#x} . {uplink}", bound.mark())),
        ),
        set(
            "map",
            "group_marks",
            "devgroup : mark",
            each(&|_, bound| format!("{:#x} : {:#x}", bound.group(), bound.mark())),
        ),
        set(
            "map",
            "came_through",
            "ifname : mark",
            each(&|uplink, bound| format!("{uplink} : {:#x}", bound.mark())),
        ),
        set(
            "set",
            "not_routed",
            "nf_proto . ifname",
            not_routed.concat(),
        ),
    ]
    .concat()
}

/// The published ports: for each protocol and family, those of any address of the host and those of
/// a certain one, and the host's address on the veth for those that are reached by the loopback
/// address.
fn published(veths: &[Veth]) -> String {
    let families = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| [(protocol, true), (protocol, false)]);
    families
        .map(|(protocol, is_v4)| maps(veths, protocol, is_v4))
        .collect()
}

fn maps(veths: &[Veth], protocol: Protocol, is_v4: bool) -> String {
    let (mut any, mut at, mut gate) = (Vec::new(), Vec::new(), Vec::new());
    for (veth, (host, inside)) in veths
        .iter()
        .filter_map(|veth| Some((veth, veth.ends(is_v4)?)))
    {
        let is_meant = |port: &&Published| {
            let has_family = if is_v4 {
                port.has_ipv4()
            } else {
                port.has_ipv6()
            };
            has_family && port.port.protocol == protocol
        };
        for port in veth.published.iter().filter(is_meant) {
            let (number, target) = (port.port.number, format!("{inside} . {}", port.inside));
            let address = port.address.filter(|address| !address.is_unspecified());
            match address {
                None => any.push(format!("{number} : {target}")),
                Some(address) => at.push(format!("{address} . {number} : {target}")),
            }
            let loopback = [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ];
            if address.is_none_or(|address| loopback.contains(&address)) {
                gate.push(format!("{number} : {host}"));
            }
        }
    }
    let (kind, family) = if is_v4 {
        ("ipv4_addr", "")
    } else {
        ("ipv6_addr", "_v6")
    };
    let name = |what: &str| format!("{what}_{protocol}{family}");
    [
        set(
            "map",
            &name("any"),
            &format!("inet_service : {kind} . inet_service"),
            any,
        ),
        set(
            "map",
            &name("at"),
            &format!("{kind} . inet_service : {kind} . inet_service"),
            at,
        ),
        set(
            "map",
            &name("gate"),
            &format!("inet_service : {kind}"),
            gate,
        ),
    ]
    .concat()
}
