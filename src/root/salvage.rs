//! A record that cannot be read (truncated, damaged, or of another version) says nothing about its
//! namespace. clean goes by what is there: the namespace at the recorded name, the veth that is
//! linked to it, and what carries its tag.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use crate::confine;
use crate::facts::uplinks::{Bound, is_own_group};
use crate::kernel::netlink::{Link, Netlink, in_namespace};
use crate::part::veth::pair;
use runns_privileged::netns::{self, Netns, identity_here};
use runns_shared::error::{Error, Result};
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::plan::Plan;
use runns_shared::record::{Identity, Record, State};
use runns_shared::request::Request;
use runns_shared::subnet::{Number, PREFIX};
use runns_shared::tunnel::directory;

/// A record from which the namespace `name` can be cleaned.
pub fn reconstruct(name: &NetnsName) -> Result<Record> {
    let host = Netlink::here()?;
    // The host's own, under another name, is nothing to remove.
    let here = identity_here()?.cookie;
    let identify = |namespace: Netns| {
        Ok((
            in_namespace(namespace.file().as_fd(), identity_here)?,
            namespace,
        ))
    };
    let found = netns::open(name)
        .ok()
        .map(identify)
        .transpose()?
        .filter(|(identity, _)| identity.cookie != here);
    let (identity, namespace) = found.unzip();
    let veth = veth(&host, name, namespace.as_ref())?;
    let number = number(&host, name, veth.as_ref())?;
    // The part that stops daemons and removes their files is asked if there are any. Nobody knows how
    // many.
    let tunnels = std::iter::repeat_n(directory(name), confine::USERS as usize);
    let tunnels = tunnels.take_while(|directory| directory.exists());
    let request = Request {
        uplink: veth
            .as_ref()
            .map(|link| Bound::uplink_of(link.group))
            .transpose()?
            .flatten(),
        vpn: tunnels.collect(),
        ..Request::default()
    };
    let plan = Plan {
        name: name.clone(),
        interface: veth.as_ref().map_or_else(
            || Ok(name.default_interface()),
            |link| IfaceName::new(&link.name),
        )?,
        request,
        number,
        resolver: None,
        host: None,
        host_v6: None,
    };
    // No namespace has this one: what is at its name is an empty file, if anything.
    let nothing = Identity {
        cookie: 0,
        inode: 0,
        proc_inode: 0,
    };
    Ok(Record {
        identity: identity.or(Some(nothing)),
        ..Record::new(State::Cleaning, plan)
    })
}

/// The host's end of the veth pair: the device that is linked to one in the namespace or, if that
/// is gone, a veth of ours with the name that it has by default.
fn veth(host: &Netlink, name: &NetnsName, namespace: Option<&Netns>) -> Result<Option<Link>> {
    let default = name.default_interface();
    let links = host.links()?;
    if let Some(namespace) = namespace {
        let inside = Netlink::inside(namespace.file().as_fd())?.links()?;
        return Ok(pair(&links, &inside, default.as_str()).map(|(outer, _)| outer));
    }
    let is_ours =
        |link: &Link| link.name == default.as_str() && link.veth && is_own_group(link.group);
    Ok(links.into_iter().find(is_ours))
}

/// Its number: that of the host's address, or the one that a file reserves for it. If there is
/// neither, one that no namespace has, so that what goes by the number is nobody's.
fn number(host: &Netlink, name: &NetnsName, link: Option<&Link>) -> Result<Number> {
    let (names, reserved) = Record::names_and_numbers()?;
    let of_link = link
        .map(|link| number_of(host, link))
        .transpose()?
        .flatten();
    if let Some(number) = of_link.or_else(|| reserved.get(name).copied()) {
        return Ok(number);
    }
    let recorded = names.iter().filter_map(|name| Record::load(name).ok()?);
    let mut taken: Vec<Number> = recorded.map(|record| record.plan.number).collect();
    taken.extend(reserved.into_values());
    let free = Number::all()
        .filter(|number| !taken.contains(number))
        .last();
    free.ok_or_else(|| Error::new(format!("clean {name}"), "every number has a namespace"))
}

/// The number of the subnet, by the address of the host's end.
fn number_of(host: &Netlink, link: &Link) -> Result<Option<Number>> {
    let is_own = |address: Ipv4Addr| Number::all().find(|number| number.host() == address);
    let addresses = host.addresses()?.into_iter();
    let own =
        addresses.filter(|(index, network)| *index == link.index && network.prefix_len() == PREFIX);
    Ok(own.filter_map(|(_, network)| is_own(network.addr())).next())
}
