//! The veth pair: InterfaceIn on the host, eth0 inside, and the namespace's default route through
//! it.

mod ipv6;
mod routes;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use ipnet::Ipv4Net;

use super::{Part, Site};
use crate::facts::ipv6::Pair;
use crate::facts::uplinks::{Bound, FAR, Senders, UNBOUND_GROUP, is_own_group};
use crate::facts::veth::{INSIDE, Veth as Facts};
use crate::finding::Finding;
use crate::kernel::netlink::rules::Way;
use crate::kernel::netlink::{
    AddressFamily, EVERYWHERE, Hardware, Link, MAIN_TABLE, Netlink, Packets, Route, in_namespace,
};
use crate::kernel::sysctl::{LOOSE, filters_strictly, rp_filter, set_sysctl};
use crate::probe;
use crate::seen::Subject;
use runns_shared::error::{Error, Result};
use runns_shared::output::step;
use runns_shared::plan::Plan;
use runns_shared::record::Record;
use runns_shared::subnet::Subnet;

/// The hardware addresses of the two ends, of a kind that anybody may assign (RFC 7042, 2.1). Each
/// pair is a link of its own, so all have the same. Each end is told the other's for good:
/// neighbours that have to be asked for fill a table that has room for 1024 on the whole machine
/// (arp(7), gc_thresh3). An address that is chosen here is left alone by systemd-udevd, which would
/// replace one of the kernel's (systemd.link(5), MACAddressPolicy).
const HARDWARE_HOST: Hardware = [0x0a, b'r', b'u', b'n', b's', 1];
const HARDWARE_INSIDE: Hardware = [0x0a, b'r', b'u', b'n', b's', 2];

/// The part.
pub struct Veth;

impl Part for Veth {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.has_veth()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        let (interface, subnet) = (&plan.interface, plan.subnet());
        Some(format!(
            "veth pair {interface} ({}/{prefix}) - {INSIDE} ({}/{prefix}, {})",
            subnet.host(),
            subnet.inside(),
            if plan.request.kill_switch {
                "no default route".to_string()
            } else {
                format!("default route via {}", subnet.host())
            },
            prefix = subnet.prefix(),
        ))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let namespace = site
            .open_namespace()?
            .ok_or_else(|| Error::new("create the veth pair", "the namespace is gone"))?;
        create(site, &namespace)?;
        set_up(site, &namespace, true)?;
        // Now traffic must get through; a tunnel that waits for its server would only say that
        // nobody answers.
        if site.plan().request.kill_switch {
            Ok(())
        } else {
            probe::run(site)
        }
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let mut removed = false;
        if let Some(link) = site
            .host
            .link(site.plan().interface.as_str())?
            .filter(|link| link.veth)
        {
            site.host.delete_link(link.index)?;
            removed = true;
        }
        // The host's end may have another name by now.
        if let Some(namespace) = site.open_namespace()? {
            let inside = Netlink::inside(namespace.as_fd())?;
            if let Some(link) = inside.link(INSIDE)?.filter(|link| link.veth) {
                inside.delete_link(link.index)?;
                removed = true;
            }
        }
        Ok(removed)
    }

    fn end(&self, site: &mut Site) -> Result<()> {
        if self.is_in(site.plan()) || !self.undo(site)? {
            return Ok(());
        }
        match site.open_namespace()? {
            Some(namespace) => routes::unroute(&Netlink::inside(namespace.as_fd())?),
            None => Ok(()),
        }
    }

    fn change(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan();
        if !self.is_in(plan)
            || site
                .record
                .earlier
                .iter()
                .all(|earlier| is_same(earlier, plan))
        {
            return Ok(());
        }
        self.repair(site, &[])
    }

    fn is_way_out(&self) -> bool {
        true
    }

    fn is_beside(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        look(subject)
    }

    fn repair(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        let namespace = site
            .open_namespace()?
            .ok_or_else(|| Error::new("repair the veth pair", "the namespace is gone"))?;
        let name = site.plan().interface.clone();
        let inside = Netlink::inside(namespace.as_fd())?;
        let taken = site.host.link(name.as_str())?;
        let Some((outer, inner)) = pair(&site.host.links()?, &inside.links()?, name.as_str())
        else {
            match taken {
                Some(link) if !link.veth || !is_own_group(link.group) => {
                    return Err(Error::new(
                        format!("create interface {name}"),
                        "an interface of that name exists already",
                    )
                    .hint("rename or remove that interface, then build again"));
                }
                Some(link) => site.host.delete_link(link.index)?,
                None => {}
            }
            if let Some(link) = inside.link(INSIDE)? {
                inside.delete_link(link.index)?;
            }
            // The firewall is not tried: the packet would go into a tunnel that stands inside.
            create(site, &namespace)?;
            return set_up(site, &namespace, true);
        };
        if outer.name != name.as_str() {
            site.host.rename(outer.index, name.as_str())?;
        }
        if inner.name != INSIDE {
            inside.rename(inner.index, INSIDE)?;
        }
        set_up(site, &namespace, false)
    }
}

fn create(site: &Site, namespace: &File) -> Result<()> {
    let ends = (
        (&site.plan().interface, HARDWARE_HOST),
        (INSIDE, HARDWARE_INSIDE),
    );
    site.host.add_veth(ends.0, UNBOUND_GROUP, ends.1, namespace)
}

/// Sets both ends up. What is so already is not touched.
fn set_up(site: &Site, namespace: &File, is_new: bool) -> Result<()> {
    let pair = Pair::of(site.plan())?;
    set_up_outside(site, pair.as_ref(), is_new)?;
    set_up_inside(site, namespace, pair.as_ref(), is_new)
}

fn set_up_outside(site: &Site, pair: Option<&Pair>, is_new: bool) -> Result<()> {
    let (interface, subnet) = (&site.plan().interface, site.plan().subnet());
    // Before it is brought up, so that it never gets a link-local address.
    ipv6::set_up(interface.as_str(), pair)?;
    // Forwarding may be on for the host and yet off for new interfaces.
    set_sysctl(&forwarding(interface.as_str()), "1")?;
    // Where marks count for the reverse path filter (src_valid_mark, which wg-quick(8) turns on), a
    // strict one would look for the namespace behind its uplink. Our table checks source addresses.
    set_sysctl(&rp_filter(interface.as_str()), LOOSE)?;
    let link = site.host.need_link(interface.as_str())?;
    bind(site, link.index)?;
    if let Some(mtu) = mtu(site) {
        site.host.set_mtu(link.index, mtu)?;
    }
    site.host
        .add_ip(link.index, subnet.host().into(), subnet.prefix())?;
    site.host.set_up(link.index)?;
    let other = (subnet.inside(), HARDWARE_INSIDE);
    introduce(&site.host, &link, HARDWARE_HOST, other)?;
    if let Some(pair) = pair {
        ipv6::fill(&site.host, &link, pair.host, (pair.inside, HARDWARE_INSIDE))?;
    }
    // A new one has all routes.
    if is_new {
        Ok(())
    } else {
        restore_subnet(&site.host, &link, subnet)
    }
}

fn set_up_inside(site: &Site, namespace: &File, pair: Option<&Pair>, is_new: bool) -> Result<()> {
    let subnet = site.plan().subnet();
    in_namespace(namespace.as_fd(), || {
        ipv6::set_up(INSIDE, pair)?;
        set_reverse_path_filter(site.record.closed)?;
        routes::prepare(site)
    })?;
    let inside = Netlink::inside(namespace.as_fd())?;
    let link = inside.need_link(INSIDE)?;
    if let Some(mtu) = mtu(site) {
        inside.set_mtu(link.index, mtu)?;
    }
    inside.add_ip(link.index, subnet.inside().into(), subnet.prefix())?;
    inside.set_up(link.index)?;
    let other = (subnet.host(), HARDWARE_HOST);
    introduce(&inside, &link, HARDWARE_INSIDE, other)?;
    if let Some(pair) = pair {
        ipv6::fill(&inside, &link, pair.inside, (pair.host, HARDWARE_HOST))?;
        ipv6::route(&inside, link.index, pair)?;
    }
    if !is_new {
        restore_subnet(&inside, &link, subnet)?;
    }
    routes::route(site, &inside, link.index)?;
    if has_default_route(&site.record) {
        add_default_route(&inside, link.index, subnet)
    } else {
        remove_default_route(&inside, link.index)
    }
}

/// A namespace begins with the values of the host's first one (net/ipv4/devinet.c). Strict, the
/// filter drops what a tunnel's server answers, to which only the daemon's packets have a route by
/// this device. While the namespace is closed, nothing else has any route to it, for which even a
/// loose filter drops it.
fn set_reverse_path_filter(is_closed: bool) -> Result<()> {
    if !is_closed {
        return set_sysctl(&rp_filter(INSIDE), LOOSE);
    }
    // The greater of the two counts.
    ["all", INSIDE]
        .into_iter()
        .try_for_each(|device| set_sysctl(&rp_filter(device), "0"))
}

/// The MTU of both ends; unchanged if `None`.
fn mtu(site: &Site) -> Option<u32> {
    /// ETH_DATA_LEN, which a veth is created with (drivers/net/veth.c).
    const MTU: u32 = 1500;
    let own = site.plan().request.mtu;
    own.or((!site.record.earlier.is_empty()).then_some(MTU))
}

/// Whether two plans have the same veth pair, with the same routes.
fn is_same(one: &Plan, other: &Plan) -> bool {
    let view = |plan: &Plan| Some((Facts::of(plan).ok()??, plan.request.mtu));
    view(one).is_some_and(|one| Some(one) == view(other))
}

/// Whether everything leaves through the veth pair for which there is no other route.
fn has_default_route(record: &Record) -> bool {
    !record.plan.request.kill_switch && !record.closed
}

fn add_default_route(inside: &Netlink, index: u32, subnet: Subnet) -> Result<()> {
    inside.add_route(
        EVERYWHERE,
        MAIN_TABLE,
        Some((index, Some(subnet.host().into()))),
    )
}

/// Takes the way out beside the tunnels, if the plan has none, or until they have been exchanged.
/// What bypasses them on purpose goes on.
pub fn close(site: &Site) -> Result<()> {
    if !has_default_route(&site.record) {
        reserve_for_daemons(site)?;
    }
    if let Some(namespace) = site.open_namespace()? {
        let inside = Netlink::inside(namespace.as_fd())?;
        routes::close(site.plan(), &site.record.earlier, &inside)?;
        if site.record.closed && inside.link(INSIDE)?.is_some() {
            in_namespace(namespace.as_fd(), || set_reverse_path_filter(true))?;
        }
    }
    let leaves =
        |plan: &Plan| Pair::of(plan).is_ok_and(|pair| pair.is_some_and(|pair| pair.leaves));
    if leaves(site.plan()) || !site.record.earlier.iter().any(leaves) {
        return Ok(());
    }
    // The kernel removes all IPv6 routes through the device. Those that the plan has come back.
    site.open_namespace()?.map_or(Ok(()), |namespace| {
        in_namespace(namespace.as_fd(), || ipv6::set_up(INSIDE, None))
    })
}

/// Gives that way out back.
pub fn open(site: &mut Site) -> Result<()> {
    site.record.closed = false;
    site.save()?;
    let request = &site.plan().request;
    if !request.has_veth() || !has_default_route(&site.record) {
        return Ok(());
    }
    let namespace = site
        .open_namespace()?
        .ok_or_else(|| Error::new("route the traffic inside", "the namespace is gone"))?;
    let inside = Netlink::inside(namespace.as_fd())?;
    let index = inside.need_link(INSIDE)?.index;
    in_namespace(namespace.as_fd(), || set_reverse_path_filter(false))?;
    add_default_route(&inside, index, site.plan().subnet())
}

fn remove_default_route(inside: &Netlink, index: u32) -> Result<()> {
    let leads_here = |route: &&Route| {
        let by_veth = route.hops.iter().any(|(hop, _)| *hop == index);
        route.table == MAIN_TABLE && route.network == EVERYWHERE.into() && by_veth
    };
    inside
        .routes()?
        .iter()
        .filter(leads_here)
        .try_for_each(|route| inside.delete_route(route))
}

/// Leaves the veth pair to the tunnels' daemons, which have a route of their own: a program that
/// loses its tunnel finds no other way out.
pub fn reserve_for_daemons(site: &Site) -> Result<()> {
    let Some(namespace) = site.open_namespace()? else {
        return Ok(());
    };
    let inside = Netlink::inside(namespace.as_fd())?;
    inside
        .link(INSIDE)?
        .map_or(Ok(()), |link| remove_default_route(&inside, link.index))
}

/// Binds the veth with this index to the namespace's uplink: its group, and the mark of what
/// arrives on it.
pub fn bind(site: &Site, index: u32) -> Result<()> {
    let request = &site.plan().request;
    let Some(bound) = request
        .uplink
        .as_ref()
        .map(Bound::to)
        .transpose()?
        .flatten()
    else {
        site.host.set_group(index, UNBOUND_GROUP)?;
        // As long as it was bound, these led to its uplink.
        if !site.record.earlier.is_empty() {
            site.host
                .delete_rules(&Packets::From(&site.plan().interface))?;
            site.host.unmark_arriving(index)?;
        }
        return Ok(());
    };
    let interface = &site.plan().interface;
    let by_interface = Packets::From(interface);
    if let Err(error) = site.host.mark_arriving(index, bound.mark()) {
        // Kernels without the filter (CONFIG_NET_CLS_BPF): a rule for each such interface.
        step(|| format!("using a routing rule for {interface} alone: {error}"));
        let (links, addresses) = (site.host.links()?, site.host.addresses()?);
        let senders = Senders::of(&links, &addresses, Some(site.plan()));
        let rule = bound.lead(AddressFamily::Inet, Packets::From(interface), &senders);
        site.host.lead(&rule)?;
    } else {
        site.host.delete_rules(&by_interface)?;
    }
    site.host.set_group(index, bound.group())
}

/// Gives an end its hardware address, unless it has it, and tells it the other's.
fn introduce(
    side: &Netlink,
    link: &Link,
    own: Hardware,
    other: (Ipv4Addr, Hardware),
) -> Result<()> {
    if link.hardware != own {
        side.set_hardware(link.index, own)?;
    }
    side.add_neighbour(link.index, other.0.into(), other.1)
}

fn forwarding(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/forwarding")
}

/// The two ends, whatever they are called now: each has the other's index as its peer. An index is
/// unique only within a namespace, so of several such pairs the one with the right names is meant,
/// if there is one.
pub fn pair(outside: &[Link], inside: &[Link], name: &str) -> Option<(Link, Link)> {
    let inner = |outer: &&Link| inside.iter().find(|inner| is_pair(outer, inner));
    let pairs = outside
        .iter()
        .filter(|link| link.veth)
        .filter_map(|outer| Some((outer, inner(&outer)?)));
    let best = pairs.min_by_key(|(outer, inner)| {
        (
            outer.name != name,
            inner.name != INSIDE,
            !is_own_group(outer.group),
        )
    });
    best.map(|(outer, inner)| (outer.clone(), inner.clone()))
}

fn is_pair(outer: &Link, inner: &Link) -> bool {
    inner.veth && outer.peer == Some(inner.index) && inner.peer == Some(outer.index)
}

fn look(subject: &Subject) -> Result<Vec<Finding>> {
    let interface = &subject.record.plan.interface;
    let mut found = match subject.seen.link(interface.as_str())? {
        Some(link) => look_outside(subject, link)?,
        None => vec![missing(subject)?],
    };
    let Some(inside) = &subject.inside else {
        return Ok(found);
    };
    let what = format!("interface {INSIDE} inside");
    let subnet = subject.record.plan.subnet();
    if !inside.has_device(INSIDE) {
        found.push(Finding::down(what, "gone"));
        return Ok(found);
    }
    let down = |how: &str| Finding::down(&what, how);
    if !inside.is_up(INSIDE) {
        found.push(down("down"));
    } else if !inside.has_address(subnet.inside().into()) {
        found.push(down(&format!(
            "without its address {}/{}",
            subnet.inside(),
            subnet.prefix()
        )));
    } else {
        let network = (subnet.network().addr().into(), subnet.prefix());
        let by_default = |route: &runns_shared::inside::Route| {
            route.network == (Ipv4Addr::UNSPECIFIED.into(), 0)
                && route.device == INSIDE
                && route.gateway == Some(subnet.host().into())
        };
        if !inside.has_route(network, INSIDE) {
            found.push(down("the route to its subnet is gone"));
        }
        let routes = inside.routes();
        match (
            has_default_route(subject.record),
            routes.iter().any(by_default),
        ) {
            (true, false) => found.push(down("the default route is gone")),
            (false, true) => found.push(down("has an unexpected default route")),
            _ => {}
        }
    }
    if found.is_empty() {
        found.extend(routes::look_inside(subject)?);
    }
    let value = |device: &str| inside.sysctl(&rp_filter(device));
    if filters_strictly(value(INSIDE), value("all")) {
        found.push(Finding::degraded(
            &what,
            "rp_filter is strict and drops the replies of tunnel servers",
        ));
    }
    found.extend(look_at_ipv6(subject, &what)?);
    Ok(found)
}

/// IPv6 inside.
fn look_at_ipv6(subject: &Subject, what: &str) -> Result<Option<Finding>> {
    let Some(inside) = &subject.inside else {
        return Ok(None);
    };
    let off = inside
        .sysctl("net/ipv6/conf/eth0/disable_ipv6")
        .is_none_or(|off| off == "1");
    let how = match Pair::of(&subject.record.plan)? {
        None if off => return Ok(None),
        None => "IPv6 is on",
        Some(_) if off => "IPv6 is off",
        Some(pair) if !inside.has_address(pair.inside.into()) => "without its IPv6 address",
        Some(pair)
            if !inside.has_route(
                (pair.network().addr().into(), pair.network().prefix_len()),
                INSIDE,
            ) =>
        {
            "the route to its IPv6 subnet is gone"
        }
        Some(pair) => match subject.deep()? {
            Some(deep) if !in_namespace(deep.file.as_fd(), || ipv6::is_set_up(INSIDE))? => {
                "its IPv6 settings have changed"
            }
            Some(deep) if !in_namespace(deep.file.as_fd(), || ipv6::is_routed(&pair))? => {
                "the IPv6 default route is gone"
            }
            _ => return Ok(None),
        },
    };
    Ok(Some(Finding::degraded(what, how)))
}

/// The host's end has another name, or is gone.
fn missing(subject: &Subject) -> Result<Finding> {
    let interface = &subject.record.plan.interface;
    let what = format!("interface {interface}");
    if let Some(inside) = subject.deep()? {
        if let Some((outer, _)) = pair(subject.seen.links()?, &inside.links, interface.as_str()) {
            return Ok(Finding::degraded(
                what,
                format!("renamed to {}", outer.name),
            ));
        }
    }
    Ok(Finding::down(what, "gone"))
}

fn look_outside(subject: &Subject, link: &Link) -> Result<Vec<Finding>> {
    let plan = &subject.record.plan;
    let interface = &plan.interface;
    let what = format!("interface {interface}");
    let seen = subject.seen;
    let mut found = Vec::new();
    let subnet = plan.subnet();
    let address = Ipv4Net::new_assert(subnet.host(), subnet.prefix());
    if subject
        .deep()?
        .is_some_and(|inside| !inside.links.iter().any(|inner| is_pair(link, inner)))
    {
        return Ok(vec![Finding::down(what, "not linked to the namespace")]);
    }
    if !link.up {
        found.push(Finding::down(&what, "down"));
    }
    let inner = subject
        .deep()?
        .and_then(|inside| inside.links.iter().find(|inner| is_pair(link, inner)));
    if let Some(mtu) = plan.request.mtu {
        if link.mtu != mtu || inner.is_some_and(|inner| inner.mtu != mtu) {
            found.push(Finding::degraded(&what, format!("its MTU is not {mtu}")));
        }
    }
    if link.hardware != HARDWARE_HOST
        || inner.is_some_and(|inner| inner.hardware != HARDWARE_INSIDE)
    {
        found.push(Finding::down(
            &what,
            "the hardware address of one end has changed",
        ));
    }
    if !seen.addresses()?.contains(&(link.index, address)) {
        found.push(Finding::down(
            &what,
            format!("without its address {address}"),
        ));
    } else if link.up
        && !seen
            .routes()?
            .iter()
            .any(|route| is_subnet(route, link, subnet))
    {
        found.push(Finding::down(&what, "the route to its subnet is gone"));
    }
    if !seen.has_sysctl(&forwarding(interface.as_str()), "1")? {
        found.push(Finding::down(&what, "it does not forward"));
    }
    found.extend(look_at_ipv6_outside(subject, link, &what)?);
    found.extend(look_at_binding(subject, link, &what)?);
    Ok(found)
}

/// Whether the host's end is bound to the namespace's uplink.
fn look_at_binding(subject: &Subject, link: &Link, what: &str) -> Result<Option<Finding>> {
    let plan = &subject.record.plan;
    let bound = plan.request.uplink.as_ref().map(Bound::to);
    let bound = bound.transpose()?.flatten();
    if link.group != bound.map_or(UNBOUND_GROUP, Bound::group) {
        return Ok(Some(Finding::down(
            what,
            "in the wrong interface group: the firewall's rules do not match it",
        )));
    }
    let Some(bound) = bound else {
        return Ok(None);
    };
    let host = subject.seen.netlink()?;
    let is_bound = host.marks_arriving(link.index, bound.mark())?
        || host.has_rule(&Packets::From(&plan.interface))?;
    if !is_bound {
        let how = "arriving packets are not marked for the uplink";
        return Ok(Some(Finding::down(what, how)));
    }
    look_at_way(subject, link, bound, what)
}

/// Whether the kernel would send what arrives through the uplink: it is asked, since the rules of
/// others may come first.
fn look_at_way(
    subject: &Subject,
    link: &Link,
    bound: Bound,
    what: &str,
) -> Result<Option<Finding>> {
    let plan = &subject.record.plan;
    let from = plan.subnet().inside().into();
    let host = subject.seen.netlink()?;
    let uplink = plan.request.uplink.as_ref();
    let uplink = uplink.map_or(Ok(None), |uplink| subject.seen.link(uplink.as_str()))?;
    let index = uplink.map(|link| link.index);
    Ok(
        match host.way((from, FAR.into()), link.index, bound.mark())? {
            Way::Through(hop) if Some(hop) != index => {
                let links = subject.seen.links()?;
                let other = links.iter().find(|link| link.index == hop);
                let other = other.map_or("another interface", |link| &link.name);
                let how =
                    format!("another program's routing rules send arriving packets to {other}");
                Some(Finding::down(what, how + ", where they are dropped"))
            }
            Way::Refused if link.up => {
                let how = "the reverse path filter drops arriving packets";
                Some(Finding::down(what, how))
            }
            _ => None,
        },
    )
}

/// IPv6 on the host's end.
fn look_at_ipv6_outside(subject: &Subject, link: &Link, what: &str) -> Result<Option<Finding>> {
    let Some(pair) = Pair::of(&subject.record.plan)? else {
        let is_off = subject
            .seen
            .has_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", link.name), "1")?;
        return Ok((!is_off).then(|| Finding::degraded(what, "IPv6 is on")));
    };
    let host = subject.seen.netlink()?;
    let has_route = host
        .routes_of(AddressFamily::Inet6)?
        .iter()
        .any(|route| route.is_to(pair.network(), MAIN_TABLE));
    let how = if !link.up {
        return Ok(None);
    } else if !has_route || !host.addresses_v6()?.contains(&(link.index, pair.host)) {
        "without its IPv6 address, or the route to its subnet"
    } else if !ipv6::is_set_up(&link.name)? {
        "its IPv6 settings have changed"
    } else {
        return Ok(None);
    };
    Ok(Some(Finding::degraded(what, how)))
}

/// Adds the route to the subnet, which the kernel adds with the address and not again if it was
/// removed.
fn restore_subnet(host: &Netlink, link: &Link, subnet: Subnet) -> Result<()> {
    if host
        .routes()?
        .iter()
        .any(|route| is_subnet(route, link, subnet))
    {
        return Ok(());
    }
    host.add_route(subnet.network(), MAIN_TABLE, Some((link.index, None)))
}

fn is_subnet(route: &Route, link: &Link, subnet: Subnet) -> bool {
    route.table == MAIN_TABLE
        && route.unicast
        && route.network == subnet.network().into()
        && route.hops.iter().any(|(index, _)| *index == link.index)
}
