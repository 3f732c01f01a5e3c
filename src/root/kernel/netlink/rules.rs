//! The place of a rule that leads the packets of namespaces to the table of their uplink, among the
//! rules of others.
//!
//! A rule that is added without a priority, as wg-quick(8) adds two, gets one less than the second
//! rule in the list has, and 0 where that has 0 (`fib_default_rule_pref`, net/core/fib_rules.c). So
//! each such rule becomes the second in its turn, ahead of those before it, as long as the number of
//! the second leaves room. A rule of ours with priority 1 would take the room away: both of
//! wg-quick's would get 0, and rules with the same number are asked in the order in which they were
//! added, which is the wrong one.
//!
//! Ours therefore takes the number that the kernel itself would choose: one less than the first
//! rule that could match the same packets. The rules of others keep their order, before and
//! afterwards. The price: rules that are added later without a priority come ahead of ours, as they
//! come ahead of everybody's except the one for local addresses, which is the first. The only place
//! that would hold against them is before that one, where they would come out in the wrong order
//! again. Until a build moves ours ahead, forwarding drops what they lead to another interface.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};

use super::{Netlink, OWN_TABLES, Packets, cause, code};
use nix::errno::Errno;
use runns_shared::error::{Error, Result};

/// RT_TABLE_LOCAL (rtnetlink(7)).
const LOCAL_TABLE: u32 = 255;
/// Rules that must find room, one by one, between the first rule and ours.
const ROOM: u32 = 16;
/// What a rule without a priority would get that is the only one besides the kernel's own.
const FIRST: u32 = 32_766;

/// How far ahead of its place a rule may be. Each VPN that comes and goes has it move ahead a little;
/// then it moves back, before there is no room left.
const FAR: u32 = 1000;

/// A rule of ours, and the packets that it is for as the rules of others see them.
pub struct Lead<'a> {
    /// The family.
    pub family: AddressFamily,
    /// The packets.
    pub packets: Packets<'a>,
    /// The mark that they have.
    pub mark: u32,
    /// The table in which they are to be looked up.
    pub table: u32,
    /// The interfaces on which they arrive.
    pub interfaces: &'a [String],
    /// The networks that they come from.
    pub networks: &'a [IpNet],
}

/// Where such a rule is.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Ahead of all others that could match its packets.
    Ahead,
    /// Behind this one.
    Behind(String),
    /// Where it leaves no room for the rules of others.
    Crowding,
    /// Nowhere.
    Missing,
}

/// Where a packet goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the device with this index.
    Through(u32),
    /// Nowhere: no route, or an unreachable one.
    Nowhere,
    /// Nowhere: its source address is not valid for the device that it arrived on.
    Refused,
}

impl Lead<'_> {
    /// Whether a rule could match these packets.
    fn could_match(&self, rule: &RuleMessage) -> bool {
        if rule.header.flags.contains(RuleFlags::Invert) {
            return true;
        }
        let mask = rule
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RuleAttribute::FwMask(mask) => Some(*mask),
                _ => None,
            });
        rule.attributes.iter().all(|attribute| match attribute {
            RuleAttribute::FwMark(mark) => (mark ^ self.mark) & mask.unwrap_or(u32::MAX) == 0,
            RuleAttribute::Iifname(name) => self.interfaces.contains(name),
            // A packet that is forwarded has none yet.
            RuleAttribute::Oifname(_) => false,
            // For the devices of a VRF, which a veth of ours is not in.
            RuleAttribute::L3MDev(is_set) => !is_set,
            RuleAttribute::Source(address) => IpNet::new(*address, rule.header.src_len)
                .is_ok_and(|from| self.networks.iter().any(|own| overlap(&from, own))),
            _ => true,
        })
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

fn priority(rule: &RuleMessage) -> u32 {
    let of = |attribute: &RuleAttribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    };
    rule.attributes.iter().find_map(of).unwrap_or(0)
}

fn table(rule: &RuleMessage) -> u32 {
    let of = |attribute: &RuleAttribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    };
    let in_header = u32::from(rule.header.table);
    rule.attributes.iter().find_map(of).unwrap_or(in_header)
}

fn is_own(rule: &RuleMessage) -> bool {
    OWN_TABLES.contains(&table(rule))
}

/// The first rule of somebody else's that could match the packets. That for local addresses is no
/// rival.
fn rival<'a>(rules: &'a [RuleMessage], lead: &Lead) -> Option<&'a RuleMessage> {
    let is_rival =
        |rule: &&RuleMessage| !is_own(rule) && table(rule) != LOCAL_TABLE && lead.could_match(rule);
    rules.iter().find(is_rival)
}

/// The number that the kernel would choose for a rule ahead of this one.
fn number_before(rival: Option<&RuleMessage>) -> u32 {
    rival.map_or(FIRST, priority).saturating_sub(1)
}

/// Whether a rule with this priority would be the second in the list, from which the kernel derives
/// the priority of others.
fn would_be_second(rules: &[RuleMessage], number: u32) -> bool {
    let others = rules.iter().filter(|rule| !is_own(rule)).skip(1);
    others.into_iter().all(|rule| priority(rule) > number)
}

fn place(rules: &[RuleMessage], lead: &Lead) -> Place {
    let is_it = |rule: &&RuleMessage| {
        is_own(rule) && table(rule) == lead.table && lead.packets.are_those_of(rule)
    };
    let Some(own) = rules.iter().find(is_it) else {
        return Place::Missing;
    };
    match rival(rules, lead) {
        Some(rival) if priority(rival) <= priority(own) => Place::Behind(describe(rival)),
        _ if priority(own) < ROOM && would_be_second(rules, priority(own)) => Place::Crowding,
        rival if number_before(rival) > priority(own) + FAR => Place::Crowding,
        _ => Place::Ahead,
    }
}

fn describe(rule: &RuleMessage) -> String {
    format!("priority {}, table {}", priority(rule), table(rule))
}

impl Netlink {
    /// The rules of a family, in the order in which the kernel asks them.
    pub(super) fn rules(&self, family: AddressFamily) -> Result<Vec<RuleMessage>> {
        let version = if family == AddressFamily::Inet6 {
            IpVersion::V6
        } else {
            IpVersion::V4
        };
        let request = self.handle.rule().get(version);
        self.collect("list the routing rules", request.execute())
    }

    /// Where the rule is.
    pub fn place(&self, lead: &Lead) -> Result<Place> {
        Ok(place(&self.rules(lead.family)?, lead))
    }

    /// Adds the rule ahead of all others that could match its packets, or moves it there. At no
    /// moment is it missing.
    pub fn lead(&self, lead: &Lead) -> Result<()> {
        let rules = self.rules(lead.family)?;
        let rival = rival(&rules, lead);
        let number = number_before(rival);
        if number == 0 || (number < ROOM && would_be_second(&rules, number)) {
            let rival = rival.map_or_else(String::new, describe);
            return Err(Error::new(
                "add a routing rule",
                format!("another one ({rival}) leaves no room ahead of it"),
            )
            .hint("give that rule a greater priority: ip rule"));
        }
        self.add_rule_of(lead.family, &lead.packets, lead.table, number)?;
        self.rules_of(lead.family, &lead.packets)?
            .into_iter()
            .filter(|rule| priority(rule) != number || table(rule) != lead.table)
            .try_for_each(|rule| self.delete_rule(rule))
    }

    /// Where the kernel would send a packet with this mark that arrives on a device: nothing is
    /// sent.
    pub fn way(&self, (from, to): (IpAddr, IpAddr), device: u32, mark: u32) -> Result<Way> {
        let (mut message, is_v4) = (RouteMessage::default(), to.is_ipv4());
        let length = if is_v4 { 32 } else { 128 };
        message.header.address_family = if is_v4 {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        message.header.destination_prefix_length = length;
        message.header.source_prefix_length = length;
        message.attributes = vec![
            RouteAttribute::Destination(address(to)),
            RouteAttribute::Source(address(from)),
            RouteAttribute::Iif(device),
            RouteAttribute::Mark(mark),
        ];
        let request = self.handle.route().get(message).execute();
        let what = "ask for a route";
        let found = self.runtime.block_on(async {
            use futures_util::TryStreamExt;
            request.try_collect::<Vec<_>>().await
        });
        match found {
            Ok(routes) => {
                let hop = |attribute: &RouteAttribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                };
                let mut hops = routes.iter().flat_map(|route| &route.attributes);
                Ok(hops.find_map(hop).map_or(Way::Nowhere, Way::Through))
            }
            Err(error) => match code(&error) {
                Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES) => Ok(Way::Nowhere),
                // Of a reverse path filter, or of an address that no source can have.
                Some(Errno::EXDEV | Errno::EINVAL) => Ok(Way::Refused),
                _ => Err(Error::new(what, cause(&error))),
            },
        }
    }
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(number: u32, of_table: u32, more: &[RuleAttribute]) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.attributes = vec![
            RuleAttribute::Priority(number),
            RuleAttribute::Table(of_table),
        ];
        rule.attributes.extend_from_slice(more);
        rule
    }

    #[test]
    fn the_place_is_judged_by_the_rules_that_could_match() {
        let networks = ["172.24.1.0/24".parse().unwrap()];
        let interfaces = ["w".to_string()];
        let lead = Lead {
            family: AddressFamily::Inet,
            packets: Packets::Marked {
                mark: 0x8100_0000,
                mask: 0xff00_0000,
            },
            mark: 0x8100_0000,
            table: *OWN_TABLES.start(),
            interfaces: &interfaces,
            networks: &networks,
        };
        let own = |number| rule(number, lead.table, &lead.packets.attributes());
        let place = |rules: &[RuleMessage]| super::place(rules, &lead);
        let (local, main) = (rule(0, 255, &[]), rule(32_766, 254, &[]));
        let at = |number| vec![local.clone(), own(number), main.clone()];
        assert_eq!(place(&[local.clone(), main.clone()]), Place::Missing);
        assert_eq!(place(&at(32_765)), Place::Ahead);
        assert_eq!(place(&at(1)), Place::Crowding);
        assert_eq!(place(&at(32_765 - FAR)), Place::Ahead);
        assert_eq!(place(&at(32_764 - FAR)), Place::Crowding);
        let behind = |other: RuleMessage| {
            let rules = [local.clone(), other, own(32_765), main.clone()];
            matches!(place(&rules), Place::Behind(_))
        };
        let mut inverted = rule(7, 51_820, &[RuleAttribute::FwMark(51_820)]);
        assert!(!behind(inverted.clone()));
        inverted.header.flags = RuleFlags::Invert;
        assert!(behind(inverted));
        assert!(behind(rule(5270, 52, &[])));
        let tailscale = [
            RuleAttribute::FwMark(0x8_0000),
            RuleAttribute::FwMask(0xff_0000),
        ];
        assert!(!behind(rule(5210, 254, &tailscale)));
        assert!(!behind(rule(5, 9, &[RuleAttribute::Oifname("w".into())])));
        assert!(behind(rule(5, 9, &[RuleAttribute::Iifname("w".into())])));
        assert!(!behind(rule(5, 9, &[RuleAttribute::Iifname("lo".into())])));
        let mut from = rule(5, 9, &[RuleAttribute::Source([172, 24, 1, 9].into())]);
        from.header.src_len = 32;
        assert!(behind(from.clone()));
        from.header.src_len = 0;
        from.attributes = vec![RuleAttribute::Source([10, 0, 0, 1].into())];
        from.header.src_len = 32;
        assert!(!behind(from));
    }
}
