//! Links, addresses, routes and rules, through rtnetlink(7). No other file uses the rtnetlink crate
//! and its runtime (except [`rules`], which belongs to it), and the program that enters namespaces
//! contains neither.

pub mod rules;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use futures_util::{Stream, StreamExt};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
pub use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::IpProtocol;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::rule::{
    RuleAction, RuleAttribute, RuleMessage, RulePortRange, RuleUidRange,
};
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use rtnetlink::{Handle, IpVersion, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

use runns_shared::error::{Context, Error, Result, words};
use runns_shared::exceptions::{Port, Protocol};
use runns_shared::name::IfaceName;

/// The routing tables that are ours. Rules that lead to them are ours, too.
pub const OWN_TABLES: RangeInclusive<u32> = 17_240_000..=17_259_999;

/// The protocol of rules and routes of our own. systemd-networkd removes those of every other
/// protocol when it starts (networkd.conf(5), ManageForeignRoutes and
/// ManageForeignRoutingPolicyRules).
const OWN_PROTOCOL: RouteProtocol = RouteProtocol::Kernel;

/// RT_TABLE_MAIN (rtnetlink(7)).
pub const MAIN_TABLE: u32 = 254;

/// An rtnetlink socket in one network namespace.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

/// A hardware address, as Ethernet has it.
pub type Hardware = [u8; 6];

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its interface index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Its group (`ip link set group`); 0 unless somebody chose one.
    pub group: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its hardware address.
    pub hardware: Vec<u8>,
    /// The index of the device that it is linked to: of a veth, that of the other end, in the
    /// namespace where that is.
    pub peer: Option<u32>,
}

/// All of IPv4.
pub const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
/// All of IPv6.
pub const EVERYWHERE_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);

/// Where a route leads: the index of a device, and the gateway if there is one.
pub type Hop = (u32, Option<IpAddr>);

/// A route of either family, in any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its destination.
    pub network: IpNet,
    /// Its next hops.
    pub hops: Vec<Hop>,
    /// Its table.
    pub table: u32,
    /// Its metric; the lowest is preferred.
    pub metric: u32,
    /// Whether it is a unicast route, not a local, broadcast or unreachable one.
    pub unicast: bool,
    message: RouteMessage,
}

impl Route {
    /// Whether it leads to `network`, and is in `table`.
    pub fn is_to(&self, network: impl Into<IpNet>, table: u32) -> bool {
        self.unicast && self.network == network.into() && self.table == table
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn here() -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            let runtime = Builder::new_current_thread().enable_io().build()?;
            let guard = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            drop(guard);
            runtime.spawn(connection);
            Ok(Self { runtime, handle })
        };
        open().cannot(|| "open an rtnetlink socket")
    }

    /// Opens a socket in the network namespace `file`; the socket stays in it.
    pub fn inside(file: BorrowedFd) -> Result<Self> {
        in_namespace(file, Self::here)
    }

    fn act(
        &self,
        what: &str,
        work: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<()> {
        self.runtime
            .block_on(work)
            .map_err(|error| Error::new(what, cause(&error)))
    }

    fn collect<T>(
        &self,
        what: &str,
        stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
    ) -> Result<Vec<T>> {
        let all = async {
            stream
                .collect::<Vec<_>>()
                .await
                .into_iter()
                .collect::<Result<Vec<T>, _>>()
        };
        self.runtime
            .block_on(all)
            .map_err(|error| Error::new(what, cause(&error)))
    }

    /// All devices.
    pub fn links(&self) -> Result<Vec<Link>> {
        Ok(self
            .collect("list the interfaces", self.handle.link().get().execute())?
            .iter()
            .map(link)
            .collect())
    }

    /// The device called `name`, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name.to_string());
        match self
            .runtime
            .block_on(request.execute().collect::<Vec<_>>())
            .into_iter()
            .next()
        {
            Some(Err(error)) if code(&error) == Some(Errno::ENODEV) => Ok(None),
            Some(Err(error)) => Err(Error::new(
                format!("look for interface {name}"),
                cause(&error),
            )),
            found => Ok(found.and_then(|message| message.ok()).as_ref().map(link)),
        }
    }

    /// The device called `name`; it is an error if there is none.
    pub fn need_link(&self, name: &str) -> Result<Link> {
        self.link(name)?.ok_or_else(|| {
            Error::new(
                format!("use interface {name}"),
                "there is no such interface",
            )
        })
    }

    /// The IPv4 addresses of all devices, each with its device's index.
    pub fn addresses(&self) -> Result<Vec<(u32, Ipv4Net)>> {
        let v4 = |(index, address, prefix)| match address {
            IpAddr::V4(address) => Some((index, Ipv4Net::new(address, prefix).ok()?)),
            IpAddr::V6(_) => None,
        };
        Ok(self
            .addresses_of(AddressFamily::Inet)?
            .into_iter()
            .filter_map(v4)
            .collect())
    }

    /// The IPv6 addresses of all devices, each with its device's index.
    pub fn addresses_v6(&self) -> Result<Vec<(u32, Ipv6Addr)>> {
        let v6 = |(index, address, _)| match address {
            IpAddr::V6(address) => Some((index, address)),
            IpAddr::V4(_) => None,
        };
        Ok(self
            .addresses_of(AddressFamily::Inet6)?
            .into_iter()
            .filter_map(v6)
            .collect())
    }

    /// Removes the IPv4 addresses of device `index`.
    pub fn remove_addresses(&self, index: u32) -> Result<()> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let messages = self.collect("list the addresses", request.execute())?;
        messages
            .into_iter()
            .filter(|message| message.header.index == index)
            .try_for_each(|message| {
                self.act(
                    "remove an address",
                    self.handle.address().del(message).execute(),
                )
            })
    }

    /// The addresses of a family: its device's index, itself, and its prefix length.
    fn addresses_of(&self, family: AddressFamily) -> Result<Vec<(u32, IpAddr, u8)>> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = family;
        let messages = self.collect("list the addresses", request.execute())?;
        let address = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        };
        let one = |message: &rtnetlink::packet_route::address::AddressMessage| {
            let address = message.attributes.iter().find_map(address)?;
            Some((message.header.index, address, message.header.prefix_len))
        };
        Ok(messages.iter().filter_map(one).collect())
    }

    /// The IPv4 routes of all tables.
    pub fn routes(&self) -> Result<Vec<Route>> {
        self.routes_of(AddressFamily::Inet)
    }

    /// The routes of a family, of all tables.
    pub fn routes_of(&self, family: AddressFamily) -> Result<Vec<Route>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let messages = self.collect(
            "list the routes",
            self.handle.route().get(request).execute(),
        )?;
        // A kernel without IPv6 lists the routes of the families that it has.
        let is_asked = |message: &RouteMessage| message.header.address_family == family;
        Ok(messages
            .into_iter()
            .filter(is_asked)
            .filter_map(route)
            .collect())
    }

    /// Creates a veth pair: `host` here, in `group`, and `inside` in the network namespace `netns`,
    /// each with a hardware address; both are down.
    pub fn add_veth(
        &self,
        (host, hardware): (&IfaceName, Hardware),
        group: u32,
        (inside, hardware_inside): (&str, Hardware),
        netns: impl AsFd,
    ) -> Result<()> {
        let peer = LinkUnspec::new_with_name(inside)
            .address(hardware_inside.to_vec())
            .setns_by_fd(netns.as_fd().as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .name(host.as_str())
            .address(hardware.to_vec())
            .link_group(group)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.act(
            &format!("create the veth pair {host}"),
            self.handle.link().add(pair).execute(),
        )
    }

    /// Sets the hardware address of device `index`.
    pub fn set_hardware(&self, index: u32, hardware: Hardware) -> Result<()> {
        let message = LinkUnspec::new_with_index(index)
            .address(hardware.to_vec())
            .build();
        self.act(
            "set the hardware address of an interface",
            self.handle.link().change(message).execute(),
        )
    }

    /// Has the kernel take `address` for a neighbour with this hardware address behind device
    /// `index`, and never ask.
    pub fn add_neighbour(&self, index: u32, address: IpAddr, hardware: Hardware) -> Result<()> {
        let request = self
            .handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&hardware);
        self.act(
            "add a neighbour",
            request.state(NeighbourState::Permanent).replace().execute(),
        )
    }

    /// Brings device `index` up.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.act(
            "bring an interface up",
            self.handle.link().change(message).execute(),
        )
    }

    /// Takes device `index` down.
    pub fn set_down(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).down().build();
        self.act(
            "take an interface down",
            self.handle.link().change(message).execute(),
        )
    }

    /// Renames device `index`, which is brought down for it: kernels before 6.2 rename no device
    /// that is up.
    pub fn rename(&self, index: u32, name: &str) -> Result<()> {
        let renamed = LinkUnspec::new_with_index(index).name(name).build();
        self.set_down(index)?;
        self.act(
            &format!("rename an interface to {name}"),
            self.handle.link().change(renamed).execute(),
        )
    }

    /// Puts device `index` into `group`.
    pub fn set_group(&self, index: u32, group: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).link_group(group).build();
        self.act(
            "set the group of an interface",
            self.handle.link().change(message).execute(),
        )
    }

    /// Marks every packet that arrives on device `index` with `mark`, before it is routed: a filter
    /// of tc-bpf(8), which no firewall removes. One that is there already is replaced.
    pub fn mark_arriving(&self, index: u32, mark: u32) -> Result<()> {
        const WHAT: &str = "mark the packets of an interface";
        /// linux/if_ether.h
        const ETH_P_ALL: u16 = 3;
        let program = runns_sys::bpf::marking_classifier(mark).cannot(|| WHAT)?;
        self.act(
            WHAT,
            self.handle
                .qdisc()
                .replace(index as i32)
                .ingress()
                .execute(),
        )?;
        let mut filter = TcMessage::with_index(index as i32);
        filter.header.parent = TcHandle {
            major: TcHandle::CLSACT.major,
            minor: TcHandle::MIN_INGRESS,
        };
        filter.header.handle = TcHandle { major: 0, minor: 1 };
        // Priority and protocol.
        filter.header.info = u32::from(TcHandle {
            major: 1,
            minor: ETH_P_ALL.to_be(),
        });
        let option = |option| TcOption::Bpf(option);
        filter.attributes = vec![
            TcAttribute::Kind(TcFilterBpf::KIND.to_string()),
            TcAttribute::Options(vec![
                option(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
                option(TcFilterBpfOption::ProgName(mark_name(mark))),
                option(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewTrafficFilter(filter));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut handle = self.handle.clone();
        self.act(WHAT, async move {
            let mut answers = handle.request(message)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
            }
            Ok(())
        })
    }

    /// Removes what [`Self::mark_arriving`] set up, if anything.
    pub fn unmark_arriving(&self, index: u32) -> Result<()> {
        let mut request = self.handle.qdisc().del(index as i32);
        request.message_mut().header.parent = TcHandle::INGRESS;
        self.forgiving(
            "stop marking the packets of an interface",
            request.execute(),
        )
    }

    /// Whether the packets that arrive on device `index` are marked with `mark`.
    pub fn marks_arriving(&self, index: u32, mark: u32) -> Result<bool> {
        let filters = self
            .handle
            .traffic_filter(index as i32)
            .get()
            .ingress()
            .execute();
        let name = TcOption::Bpf(TcFilterBpfOption::ProgName(mark_name(mark)));
        let is_ours = |filter: &TcMessage| {
            filter.attributes.iter().any(
                |part| matches!(part, TcAttribute::Options(options) if options.contains(&name)),
            )
        };
        Ok(self
            .collect("list the filters of an interface", filters)?
            .iter()
            .any(is_ours))
    }

    /// Removes device `index`. It is not an error if it is gone already.
    pub fn delete_link(&self, index: u32) -> Result<()> {
        self.forgiving(
            "remove an interface",
            self.handle.link().del(index).execute(),
        )
    }

    /// Removes every device but loopback. One that the kernel cannot remove, such as a network
    /// card, which returns to the host when the namespace ends, is taken down.
    pub fn strip(&self) -> Result<()> {
        /// include/net/flow.h: loopback is the first device of every namespace.
        const LOOPBACK_IFINDEX: u32 = 1;
        let others = || {
            Ok(self
                .links()?
                .into_iter()
                .filter(|link| link.index != LOOPBACK_IFINDEX))
        };
        for link in others()? {
            match self
                .runtime
                .block_on(self.handle.link().del(link.index).execute())
            {
                Err(error) if code(&error) == Some(Errno::EOPNOTSUPP) => {}
                removed => self.forgiving(&format!("remove interface {}", link.name), async {
                    removed
                })?,
            }
        }
        others()?
            .filter(|link| link.up)
            .try_for_each(|link| self.set_down(link.index))
    }

    /// Adds an IPv4 address to device `index`.
    pub fn add_address(&self, index: u32, network: Ipv4Net) -> Result<()> {
        let request =
            self.handle
                .address()
                .add(index, IpAddr::V4(network.addr()), network.prefix_len());
        self.act("add an address", request.execute())
    }

    /// Adds an address of either family to device `index`. It is not an error if the device has it
    /// already.
    pub fn add_ip(&self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        self.act(
            "add an address",
            self.handle
                .address()
                .add(index, address, prefix)
                .replace()
                .execute(),
        )
    }

    /// Adds a route of either family through device `index`, via `gateway` if there is one. Of
    /// several routes to one network, the kernel uses the one with the lowest metric.
    pub fn add_device_route(
        &self,
        to: IpNet,
        index: u32,
        gateway: Option<IpAddr>,
        metric: u32,
    ) -> Result<()> {
        let what = "add a route";
        let wrong = || Error::new(what, "its addresses are of different families");
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.addr(), to.prefix_len())
            .map_err(|_| wrong())?
            .output_interface(index)
            .priority(metric)
            .protocol(RouteProtocol::Boot);
        if let Some(gateway) = gateway {
            route = route.gateway(gateway).map_err(|_| wrong())?;
        } else if to.addr().is_ipv4() {
            route = route.scope(rtnetlink::packet_route::route::RouteScope::Link);
        }
        self.act(
            what,
            self.handle.route().add(route.build()).replace().execute(),
        )
    }

    /// Creates an in-kernel WireGuard device; returns `false` if this kernel does not support
    /// WireGuard.
    pub fn add_wireguard(&self, name: &str) -> Result<bool> {
        let device = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Wireguard)
            .name(name)
            .build();
        match self
            .runtime
            .block_on(self.handle.link().add(device).execute())
        {
            Ok(()) => Ok(true),
            Err(error) if code(&error) == Some(Errno::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(Error::new(
                format!("create the WireGuard device {name}"),
                cause(&error),
            )),
        }
    }

    /// Moves device `index` to the network namespace `netns` and renames it to `name`; it is down
    /// there.
    pub fn move_link(&self, index: u32, netns: impl AsFd, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index)
            .setns_by_fd(netns.as_fd().as_raw_fd())
            .name(name)
            .build();
        self.act(
            &format!("move device {name} into the namespace"),
            self.handle.link().change(message).execute(),
        )
    }

    /// Sets the MTU of device `index`.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.act("set an MTU", self.handle.link().change(message).execute())
    }

    /// Adds a route to `network` to `table`: through `hop`, or an unreachable route if that is
    /// `None`.
    pub fn add_route(&self, network: impl Into<IpNet>, table: u32, hop: Option<Hop>) -> Result<()> {
        let what = "add a route";
        let wrong = || Error::new(what, "its addresses are of different families");
        let network = network.into();
        // The main table is only written to inside the namespace: the route gets the protocol that
        // `ip route add` gives it.
        let protocol = if table == MAIN_TABLE {
            RouteProtocol::Boot
        } else {
            OWN_PROTOCOL
        };
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(network.addr(), network.prefix_len())
            .map_err(|_| wrong())?
            .table_id(table)
            .protocol(protocol);
        route = match hop {
            Some((index, Some(gateway))) => {
                let route = route
                    .output_interface(index)
                    .gateway(gateway)
                    .map_err(|_| wrong())?;
                // Our own table has no route to the gateway's subnet.
                if table == MAIN_TABLE {
                    route
                } else {
                    route.onlink()
                }
            }
            Some((index, None)) if network.addr().is_ipv4() => route
                .output_interface(index)
                .scope(rtnetlink::packet_route::route::RouteScope::Link),
            Some((index, None)) => route.output_interface(index),
            // The highest metric: the kernel prefers every other route.
            None => route.kind(RouteType::Unreachable).priority(u32::MAX),
        };
        self.act(
            what,
            self.handle.route().add(route.build()).replace().execute(),
        )
    }

    /// Removes a route that was listed.
    pub fn delete_route(&self, route: &Route) -> Result<()> {
        self.forgiving(
            "remove a route",
            self.handle.route().del(route.message.clone()).execute(),
        )
    }

    /// Adds a rule with `priority` that looks up what `packets` describes in `table`, unless it is
    /// there.
    pub fn add_rule(&self, packets: &Packets, table: u32, priority: u32) -> Result<()> {
        self.add_rule_of(AddressFamily::Inet, packets, table, priority)
    }

    /// The same for packets of a family.
    pub fn add_rule_of(
        &self,
        family: AddressFamily,
        packets: &Packets,
        table: u32,
        priority: u32,
    ) -> Result<()> {
        let mut request = self
            .handle
            .rule()
            .add()
            .priority(priority)
            .action(RuleAction::ToTable)
            .table_id(table);
        let message = request.message_mut();
        message.header.family = family;
        if let Packets::Loopback(_) = packets {
            message.header.src_len = Ipv4Addr::BITS as u8;
        }
        let attributes = &mut message.attributes;
        attributes.extend(packets.attributes());
        attributes.push(RuleAttribute::Protocol(OWN_PROTOCOL));
        match self.runtime.block_on(request.execute()) {
            Err(error) if code(&error) != Some(Errno::EEXIST) => {
                Err(Error::new("add a routing rule", cause(&error)))
            }
            _ => Ok(()),
        }
    }

    /// Adds a rule that looks up the packets of processes with this user id in `table` (ip-rule(8),
    /// uidrange), unless there is one with this priority.
    pub fn add_user_rule(&self, user: u32, table: u32, priority: u32) -> Result<()> {
        let mut request = self
            .handle
            .rule()
            .add()
            .v4()
            .priority(priority)
            .table_id(table)
            .action(RuleAction::ToTable);
        let range = RuleUidRange {
            start: user,
            end: user,
        };
        request
            .message_mut()
            .attributes
            .push(RuleAttribute::UidRange(range));
        match self.runtime.block_on(request.execute()) {
            Err(error) if code(&error) != Some(Errno::EEXIST) => {
                Err(Error::new("add a routing rule", cause(&error)))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is a rule that looks up the packets of processes with this user id in `table`.
    pub fn has_user_rule(&self, user: u32, table: u32) -> Result<bool> {
        let wanted = [
            RuleAttribute::UidRange(RuleUidRange {
                start: user,
                end: user,
            }),
            RuleAttribute::Table(table),
        ];
        let rules = self.collect(
            "list the routing rules",
            self.handle.rule().get(IpVersion::V4).execute(),
        )?;
        // A table whose number fits into the header has no attribute.
        let is_it = |rule: &RuleMessage| {
            rule.attributes.contains(&wanted[0])
                && (rule.attributes.contains(&wanted[1]) || u32::from(rule.header.table) == table)
        };
        Ok(rules.iter().any(is_it))
    }

    /// Our rules of a family.
    fn own_rules(&self, family: AddressFamily) -> Result<Vec<RuleMessage>> {
        let is_own = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::Table(table) if OWN_TABLES.contains(table));
        let ours = |rule: &RuleMessage| rule.attributes.iter().any(is_own);
        Ok(self.rules(family)?.into_iter().filter(ours).collect())
    }

    /// Our rules for `packets`, whatever table they look them up in.
    fn rules_of(&self, family: AddressFamily, packets: &Packets) -> Result<Vec<RuleMessage>> {
        let rules = self.own_rules(family)?.into_iter();
        Ok(rules.filter(|rule| packets.are_those_of(rule)).collect())
    }

    /// Removes our rules of a family except those for `kept`.
    pub fn delete_other_rules(&self, family: AddressFamily, kept: &[Packets]) -> Result<()> {
        let is_kept = |rule: &RuleMessage| kept.iter().any(|packets| packets.are_those_of(rule));
        let rules = self.own_rules(family)?.into_iter();
        rules
            .filter(|rule| !is_kept(rule))
            .try_for_each(|rule| self.delete_rule(rule))
    }

    fn delete_rule(&self, rule: RuleMessage) -> Result<()> {
        self.forgiving(
            "remove a routing rule",
            self.handle.rule().del(rule).execute(),
        )
    }

    /// Whether there is a rule of ours for `packets`.
    pub fn has_rule(&self, packets: &Packets) -> Result<bool> {
        self.has_rule_of(AddressFamily::Inet, packets)
    }

    /// The same for packets of a family.
    pub fn has_rule_of(&self, family: AddressFamily, packets: &Packets) -> Result<bool> {
        Ok(!self.rules_of(family, packets)?.is_empty())
    }

    /// Removes our rules for `packets`; returns how many there were.
    pub fn delete_rules(&self, packets: &Packets) -> Result<usize> {
        self.delete_rules_of(AddressFamily::Inet, packets)
    }

    /// The same for packets of a family.
    pub fn delete_rules_of(&self, family: AddressFamily, packets: &Packets) -> Result<usize> {
        let rules = self.rules_of(family, packets)?;
        let count = rules.len();
        rules
            .into_iter()
            .try_for_each(|rule| self.delete_rule(rule))?;
        Ok(count)
    }

    /// Like [`Self::act`], but it is not an error if the object is gone already.
    fn forgiving(
        &self,
        what: &str,
        work: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<()> {
        let gone = |error: &rtnetlink::Error| {
            matches!(
                code(error),
                Some(Errno::ENODEV | Errno::ENOENT | Errno::ESRCH)
            )
        };
        match self.runtime.block_on(work) {
            Err(error) if !gone(&error) => Err(Error::new(what, cause(&error))),
            _ => Ok(()),
        }
    }
}

/// The packets that a routing rule is for.
pub enum Packets<'a> {
    /// All.
    All,
    /// Those that arrive on an interface.
    From(&'a IfaceName),
    /// UDP from a local port.
    Udp(u16),
    /// Those from a port of 127.0.0.1.
    Loopback(Port),
    /// Those to a port by sockets that are bound to a device (SO_BINDTODEVICE).
    Bound {
        /// The device.
        device: &'a str,
        /// The protocol.
        protocol: Protocol,
        /// The port that they are sent to.
        port: u16,
    },
    /// Those whose mark, as far as the mask reaches, is this.
    Marked {
        /// The mark.
        mark: u32,
        /// The mask.
        mask: u32,
    },
}

impl Packets<'_> {
    /// Whether a rule is for these packets.
    fn are_those_of(&self, rule: &RuleMessage) -> bool {
        use RuleAttribute::{FwMark, Iifname, Oifname, Source, SourcePortRange};
        let has = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
        let is_source = |attribute: &RuleAttribute| matches!(attribute, Source(_));
        let is_certain = rule.attributes.iter().any(|attribute| {
            matches!(
                attribute,
                FwMark(_) | Iifname(_) | Oifname(_) | SourcePortRange(_)
            )
        });
        let own = self.attributes();
        own.iter().all(has)
            && (!matches!(self, Packets::All) || !is_certain)
            && own.iter().any(is_source) == rule.attributes.iter().any(is_source)
    }

    fn attributes(&self) -> Vec<RuleAttribute> {
        match self {
            Self::All => Vec::new(),
            Self::From(interface) => vec![RuleAttribute::Iifname(interface.to_string())],
            Self::Udp(port) => vec![
                RuleAttribute::IpProtocol(IpProtocol::Udp),
                RuleAttribute::SourcePortRange(only(*port)),
            ],
            Self::Loopback(port) => vec![
                RuleAttribute::Source(Ipv4Addr::LOCALHOST.into()),
                RuleAttribute::IpProtocol(number(port.protocol)),
                RuleAttribute::SourcePortRange(only(port.number)),
            ],
            Self::Bound {
                device,
                protocol,
                port,
            } => vec![
                RuleAttribute::Oifname((*device).to_string()),
                RuleAttribute::IpProtocol(number(*protocol)),
                RuleAttribute::DestinationPortRange(only(*port)),
            ],
            Self::Marked { mark, mask } => {
                vec![RuleAttribute::FwMark(*mark), RuleAttribute::FwMask(*mask)]
            }
        }
    }
}

fn only(port: u16) -> RulePortRange {
    RulePortRange {
        start: port,
        end: port,
    }
}

fn number(protocol: Protocol) -> IpProtocol {
    match protocol {
        Protocol::Tcp => IpProtocol::Tcp,
        Protocol::Udp => IpProtocol::Udp,
    }
}

/// What the filter that sets `mark` is called.
fn mark_name(mark: u32) -> String {
    format!("runns:{mark:#x}")
}

/// Runs `work` in a new thread in the network namespace `file`. /proc/sys/net is that namespace's
/// there, and sockets that it opens stay in the namespace.
pub fn in_namespace<T: Send>(
    file: BorrowedFd,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let enter = || {
        setns(file, CloneFlags::CLONE_NEWNET).cannot(|| "enter the network namespace")?;
        work()
    };
    in_thread(enter)
}

/// Runs `work` in a new thread, so that the namespaces that it enters do not affect the caller.
pub fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        // Not Scope::spawn, which panics if the kernel refuses to create a thread.
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, work)
            .cannot(|| "start a thread")?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::new(
                "enter a network namespace",
                "the thread for it panicked",
            ))
        })
    })
}

fn code(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(Errno::from_raw(message.raw_code().abs())),
        _ => None,
    }
}

fn cause(error: &rtnetlink::Error) -> String {
    code(error).map_or_else(|| error.to_string(), |errno| words(errno).to_string())
}

fn link(message: &LinkMessage) -> Link {
    let name = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
    let veth = message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    });
    let up = message.header.flags.contains(LinkFlags::Up);
    let group = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Group(group) => Some(*group),
            _ => None,
        });
    let group = group.unwrap_or_default();
    let peer = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        });
    let hardware = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Address(address) => Some(address.clone()),
            _ => None,
        });
    let hardware = hardware.unwrap_or_default();
    let mtu = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    let mtu = mtu.unwrap_or_default();
    Link {
        index: message.header.index,
        name: name.unwrap_or_default(),
        up,
        veth,
        group,
        mtu,
        hardware,
        peer,
    }
}

/// A route; `None` if its family is neither IPv4 nor IPv6.
fn route(message: RouteMessage) -> Option<Route> {
    let mut address = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut table, mut metric) = (u32::from(message.header.table), 0);
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => address = address_of(destination)?,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(paths) => {
                hops.extend(
                    paths
                        .iter()
                        .map(|path| (path.interface_index, gateway(&path.attributes))),
                );
            }
            RouteAttribute::Oif(index) => hops.push((*index, gateway(&message.attributes))),
            _ => {}
        }
    }
    Some(Route {
        network: IpNet::new(address, message.header.destination_prefix_length).ok()?,
        hops,
        table,
        metric,
        unicast: message.header.kind == RouteType::Unicast,
        message,
    })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => address_of(gateway),
        _ => None,
    })
}
