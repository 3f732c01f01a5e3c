//! Plans: made from requests, and checked before anything is changed.

use ipnet::{IpNet, Ipv4Net};

use crate::confine;
use crate::facts::ipv6::Pair;
use crate::facts::resolver;
use crate::kernel::netlink::Netlink;
use crate::walk;
use crate::wanted::Wanted;
use runns_privileged::netns;
use runns_shared::error::{Error, Result};
use runns_shared::escape::escape;
use runns_shared::exceptions::{HostAccess, Port, Protocol};
use runns_shared::name::NetnsName;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::Record;
use runns_shared::request::Request;
use runns_shared::subnet::{MAX_NUMBER, Number, PREFIX, RANGE, Subnet};

/// The shortest prefix of a route that makes its network taken: shorter ones are defaults and
/// halves of them.
const SHORTEST_TAKEN: u8 = 8;

/// Decides on a name, if none was asked for, and a subnet.
pub fn choose(wanted: &Wanted, host: &Netlink) -> Result<Plan> {
    wanted.files_exist()?;
    let taken = Taken::find(host, &wanted.request)?;
    let Some(name) = &wanted.name else {
        return next_vpn(wanted, &taken, host);
    };
    let preferred = name
        .vpn_number()
        .and_then(Number::new)
        .filter(|number| taken.is_free(*number));
    let number = preferred.or_else(|| Number::all().find(|number| taken.is_free(*number)));
    let number = number.ok_or_else(|| taken.exhausted())?;
    if let Some(subnet) = wanted.request.subnet {
        let overlaps = |network: &&Ipv4Net| overlap(network, &subnet.network());
        if let Some(taken) = taken.networks.iter().find(overlaps) {
            return Err(is_taken(subnet, taken));
        }
    }
    decided(wanted, name.clone(), number)
}

/// `vpnX`, X one more than the greatest there is; further where its subnet or interface is
/// taken.
fn next_vpn(wanted: &Wanted, taken: &Taken, host: &Netlink) -> Result<Plan> {
    let there = std::fs::read_dir(netns::DIRECTORY)
        .into_iter()
        .flatten()
        .flatten();
    let there = there.filter_map(|entry| NetnsName::new(entry.file_name()).ok());
    let names = taken.names.iter().cloned().chain(there);
    let greatest = names
        .filter_map(|name| name.vpn_number())
        .max()
        .unwrap_or(0);
    let mut number = greatest;
    loop {
        number = number.saturating_add(1);
        let free = Number::new(number).ok_or_else(|| {
            if Number::all().any(|number| taken.is_free(number)) {
                Error::new("choose a name", "no number is left above the highest vpnX")
            } else {
                taken.exhausted()
            }
        })?;
        let name = NetnsName::new(format!("vpn{number}"))?;
        let interface = wanted.interface_of(&name);
        let interface_taken =
            wanted.interface.is_none() && host.link(interface.as_str())?.is_some();
        if taken.is_free(free) && !interface_taken {
            return decided(wanted, name, free);
        }
    }
}

/// Names and networks that are in use.
struct Taken {
    /// Of what was built.
    names: Vec<NetnsName>,
    /// Networks of the host's addresses and routes, and of what was built.
    networks: Vec<Ipv4Net>,
    /// Whether each number is: by another namespace or, where the subnet follows from it, by the
    /// networks.
    numbers: Vec<bool>,
}

impl Taken {
    fn find(host: &Netlink, request: &Request) -> Result<Self> {
        let (names, reserved) = Record::names_and_numbers()?;
        let (known, unknown): (Vec<_>, Vec<_>) = names
            .iter()
            .cloned()
            .partition(|name| reserved.contains_key(name));
        let mut networks: Vec<Ipv4Net> =
            known.iter().map(|name| reserved[name].network()).collect();
        for (name, text) in Record::texts(unknown)? {
            networks.push(number_of(&name, &text)?.network());
        }
        let mut numbers = vec![false; usize::from(MAX_NUMBER) + 1];
        for number in reserved.values() {
            numbers[usize::from(number.get())] = true;
        }
        for number in networks.iter().filter_map(|used| Number::of(used.addr())) {
            numbers[usize::from(number.get())] = true;
        }
        networks.extend(of_host(host)?);
        // Daemons and devices have the number, too, whose subnet may be another one.
        let counts = request.has_veth() && request.subnet.is_none();
        for network in networks.iter().filter(|_| counts) {
            let is_in = |number: &Number| overlap(network, &number.network());
            // A network of 256 addresses or less is in one of ours, or in none.
            match (network.prefix_len() >= PREFIX, Number::of(network.addr())) {
                (true, Some(number)) => numbers[usize::from(number.get())] = true,
                (true, None) => {}
                (false, _) => Number::all()
                    .filter(is_in)
                    .for_each(|number| numbers[usize::from(number.get())] = true),
            }
        }
        Ok(Self {
            names,
            networks,
            numbers,
        })
    }

    fn is_free(&self, number: Number) -> bool {
        !self.numbers[usize::from(number.get())]
    }

    /// No number is free: the widest network in the way.
    fn exhausted(&self) -> Error {
        let is_in_range = |network: &&Ipv4Net| {
            Number::of(network.addr()).is_some() || network.contains(&RANGE.addr())
        };
        let in_range = self.networks.iter().filter(is_in_range);
        let widest = in_range.min_by_key(|network| network.prefix_len());
        let cause = match widest {
            Some(network) if network.prefix_len() <= RANGE.prefix_len() => {
                format!(
                    "the host has an address or a route in {network}, which covers all of {RANGE}"
                )
            }
            Some(network) => {
                format!("the host and other namespaces use all of {RANGE}, {network} among others")
            }
            None => format!("other namespaces use all of {RANGE}"),
        };
        let hint = "set Subnet= in its section to a free network, 10.201.0.0/24 for example";
        Error::new("find a subnet", cause).hint(hint)
    }
}

/// The number in a record. Reading all of it takes several times as long, for each of perhaps a
/// thousand.
fn number_of(name: &NetnsName, text: &str) -> Result<Number> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        number: u32,
    }
    let cannot = |cause: String| Error::new(format!("read the record of {name}"), cause);
    let numbered: Numbered =
        serde_json::from_str(text).map_err(|error| cannot(error.to_string()))?;
    Number::new(numbered.number).ok_or_else(|| cannot("there is no such subnet".to_string()))
}

/// The plan for what is asked for, with this name and number.
pub fn decided(wanted: &Wanted, name: NetnsName, number: Number) -> Result<Plan> {
    let request = &wanted.request;
    let access = request.exceptions.access(request.has_tunnel());
    let mut plan = Plan {
        resolver: None,
        interface: wanted.interface_of(&name),
        name,
        request: request.clone(),
        number,
        host: None,
        host_v6: None,
    };
    plan.resolver = resolver::decide(&plan)?;
    let is_reached = request.has_veth() && access != HostAccess::No;
    plan.host = is_reached.then(|| plan.subnet().host().into());
    // Only a client that goes on to the next address finds the server that listens on the other.
    let is_tcp = |port: &Port| port.protocol == Protocol::Tcp;
    if access.localhost().iter().any(is_tcp) {
        plan.host_v6 = Pair::of(&plan)?.map(|pair| pair.host.into());
    }
    Ok(plan)
}

/// Whether traffic leaves outside the tunnel while that is down.
pub fn is_leaky(plan: &Plan) -> bool {
    plan.request.has_tunnel() && !plan.request.kill_switch
}

/// What is said of such a plan.
pub const LEAKY: &str =
    "traffic leaves unprotected, by the host's own uplink, while the tunnel is down";

/// Checks that no other interface has the name of the veth.
pub fn check_interface(plan: &Plan, host: &Netlink) -> Result<()> {
    let request = &plan.request;
    if request.has_veth() && host.link(plan.interface.as_str())?.is_some() {
        return Err(Error::new(
            format!("create interface {}", plan.interface),
            "an interface of that name exists already",
        )
        .hint("choose another with -i or InterfaceIn"));
    }
    Ok(())
}

/// Checks what the parts of a plan need.
pub fn check_parts(plan: &Plan, host: &Netlink) -> Result<()> {
    let request = &plan.request;
    if !request.has_veth() && request.uplink.is_some() {
        return Err(Error::new(
            "build",
            "an uplink has no effect with KillSwitch=yes, which creates no veth pair",
        ));
    }
    if let Some(uplink) = &request.uplink {
        if host.link(uplink.as_str())?.is_none() {
            return Err(Error::new(
                format!("use uplink {}", escape(uplink.as_str().as_bytes())),
                "there is no such interface",
            )
            .hint("ip -br link lists the existing ones"));
        }
    }
    for name in request.access.unknown_names() {
        warn(&format!(
            "AllowUsers or AllowGroups names {}, which no account has",
            escape(name.as_bytes())
        ));
    }
    confine::check(plan)?;
    // That of the namespace itself, the first, is for one that is to be made.
    let [_, parts @ ..] = walk::all();
    parts.iter().try_for_each(|part| part.check(plan))
}

/// Checks that nothing of the host is in the subnet of a veth pair that is to be made later than its
/// namespace.
pub fn check_subnet(plan: &Plan, host: &Netlink) -> Result<()> {
    let subnet = plan.subnet();
    let overlaps = |network: &&Ipv4Net| overlap(network, &subnet.network());
    match of_host(host)?.iter().find(overlaps) {
        Some(taken) => Err(is_taken(subnet, taken)),
        None => Ok(()),
    }
}

/// The error of a subnet in which the host has something.
pub fn is_taken(subnet: Subnet, by: &Ipv4Net) -> Error {
    let cause = format!("the host has an address or a route in {by}");
    Error::new(format!("use Subnet={subnet}"), cause).hint("choose another network")
}

/// The networks of the host's addresses and routes.
pub fn of_host(host: &Netlink) -> Result<Vec<Ipv4Net>> {
    let addresses = host.addresses()?.into_iter();
    let mut networks: Vec<Ipv4Net> = addresses.map(|(_, network)| network).collect();
    let routes = host.routes()?.into_iter();
    let routes = routes.filter_map(|route| match route.network {
        IpNet::V4(network) => Some(network),
        IpNet::V6(_) => None,
    });
    networks.extend(routes.filter(|network| network.prefix_len() >= SHORTEST_TAKEN));
    Ok(networks)
}

/// Whether two networks have an address in common.
pub fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.addr()) || other.contains(&one.addr())
}
