//! rtnetlink as the parts use it, checked with ip(8).

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::Ipv4Net;
use runns_exec_root::kernel::netlink::{Hardware, MAIN_TABLE, Netlink, Packets};
use runns_shared::name::IfaceName;

use crate::support::Net;

const OUTER: Hardware = [0x0a, 0, 0, 0, 0, 1];
const INNER: Hardware = [0x0a, 0, 0, 0, 0, 2];

fn network(address: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new(address.into(), prefix).unwrap()
}

fn veth() -> (Net, Net, Netlink, u32) {
    let (host, inside) = (Net::new(), Net::new());
    let netlink = Netlink::inside(host.file().as_fd()).unwrap();
    netlink
        .add_veth(
            (&IfaceName::new("vpn1").unwrap(), OUTER),
            7,
            ("eth0", INNER),
            inside.file(),
        )
        .unwrap();
    let index = netlink.need_link("vpn1").unwrap().index;
    (host, inside, netlink, index)
}

#[test]
fn a_pair_has_one_end_in_each_namespace() {
    let (host, inside, netlink, index) = veth();
    let link = netlink.need_link("vpn1").unwrap();
    assert!(link.veth && !link.up);
    assert!(inside.ip("-br link show eth0").starts_with("eth0"));
    assert!(netlink.link("eth0").unwrap().is_none());
    netlink.set_up(index).unwrap();
    netlink
        .add_address(index, network([172, 24, 1, 1], 24))
        .unwrap();
    assert!(
        host.ip("-o -4 address show dev vpn1")
            .contains("172.24.1.1/24")
    );
    assert!(link.group == 7 && host.ip("-o link show dev vpn1").contains("group 7 "));
    netlink.set_group(index, 8).unwrap();
    assert!(host.ip("-o link show dev vpn1").contains("group 8 "));
    assert!(
        netlink
            .addresses()
            .unwrap()
            .contains(&(index, network([172, 24, 1, 1], 24)))
    );
    assert!(
        host.ip("-o link show dev vpn1")
            .contains("link/ether 0a:00:00:00:00:01")
    );
    assert!(
        inside
            .ip("-o link show dev eth0")
            .contains("link/ether 0a:00:00:00:00:02")
    );
    netlink.set_hardware(index, INNER).unwrap();
    assert!(
        host.ip("-o link show dev vpn1")
            .contains("link/ether 0a:00:00:00:00:02")
    );
    netlink
        .add_neighbour(index, IpAddr::from([172, 24, 1, 2]), INNER)
        .unwrap();
    assert!(
        host.ip("neighbour show dev vpn1")
            .contains("172.24.1.2 lladdr 0a:00:00:00:00:02 PERMANENT")
    );
    let again = netlink.add_veth(
        (&IfaceName::new("vpn1").unwrap(), OUTER),
        7,
        ("eth1", INNER),
        inside.file(),
    );
    assert!(again.is_err(), "the name is taken");
    netlink.delete_link(index).unwrap();
    netlink
        .delete_link(index)
        .expect("what is gone is no error");
    assert_eq!(inside.ip("-br link show type veth"), "");
}

#[test]
fn what_arrives_is_marked_before_it_is_routed() {
    let (host, inside, netlink, index) = veth();
    host.ip("address add 172.24.1.1/24 dev vpn1");
    host.ip("link set vpn1 up");
    inside.ip("address add 172.24.1.2/24 dev eth0");
    inside.ip("link set eth0 up");
    host.ip("rule add fwmark 0x82000000/0xff000000 lookup 99 priority 1");
    host.ip("route add prohibit default table 99");
    inside.ip("route add default via 172.24.1.1");
    host.ip("route add blackhole default");
    // The host does not forward at all yet, so only the rule's own answer tells that the mark was
    // there.
    let answer = || -> String {
        let ping = ["ping", "-c", "1", "-W", "5", "203.0.113.1"];
        let output = std::process::Command::new("nsenter")
            .args([&format!("--net={}", inside.path())])
            .args(ping)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let forward = std::process::Command::new("nsenter")
        .args([
            &format!("--net={}", host.path()),
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
        ])
        .status()
        .unwrap();
    assert!(forward.success());
    assert!(!netlink.marks_arriving(index, 0x8200_0000).unwrap());
    netlink.mark_arriving(index, 0x8100_0000).unwrap();
    assert!(!answer().contains("Packet filtered"), "another mark");
    netlink
        .mark_arriving(index, 0x8200_0000)
        .expect("one that is there is replaced");
    assert!(
        netlink.marks_arriving(index, 0x8200_0000).unwrap()
            && !netlink.marks_arriving(index, 0x8100_0000).unwrap()
    );
    assert!(answer().contains("Packet filtered"), "{}", answer());
}

#[test]
fn a_table_that_fails_closed() {
    let (host, inside, netlink, index) = veth();
    let eth0 = Netlink::inside(inside.file().as_fd()).unwrap();
    eth0.set_up(eth0.need_link("eth0").unwrap().index).unwrap();
    netlink.set_up(index).unwrap();
    netlink
        .add_address(index, network([172, 24, 1, 1], 24))
        .unwrap();
    let everywhere = network([0, 0, 0, 0], 0);
    netlink.add_route(everywhere, 17_240_001, None).unwrap();
    netlink
        .add_route(
            everywhere,
            17_240_001,
            Some((index, Some(IpAddr::from([172, 24, 1, 2])))),
        )
        .unwrap();
    let table = || host.ip("route show table 17240001");
    assert!(
        table().contains("default via 172.24.1.2 dev vpn1")
            && table().contains("unreachable default"),
        "{}",
        table()
    );
    host.ip("link set vpn1 down");
    assert!(
        !table().contains("vpn1") && table().contains("unreachable default"),
        "{}",
        table()
    );
    let routes = netlink.routes().unwrap();
    let own: Vec<_> = routes
        .iter()
        .filter(|route| route.table == 17_240_001)
        .collect();
    assert!(
        own.len() == 1 && !own[0].unicast && own[0].network == everywhere.into(),
        "{own:?}"
    );
    netlink.delete_route(own[0]).unwrap();
    netlink
        .delete_route(own[0])
        .expect("what is gone is no error");
    assert!(
        netlink
            .routes()
            .unwrap()
            .iter()
            .all(|route| route.table != 17_240_001)
    );
}

#[test]
fn only_rules_of_our_own_go() {
    let (host, _inside, netlink, _) = veth();
    let vpn1 = IfaceName::new("vpn1").unwrap();
    host.ip("rule add iif vpn1 lookup 99 priority 7");
    host.ip("rule add fwmark 0x99000000/0xff000000 lookup 99 priority 8");
    let by_mark = Packets::Marked {
        mark: 0x8100_0000,
        mask: 0xff00_0000,
    };
    for (packets, shown) in [
        (Packets::From(&vpn1), "iif vpn1"),
        (by_mark, "fwmark 0x81000000/0xff000000"),
    ] {
        netlink.add_rule(&packets, 17_240_001, 1).unwrap();
        netlink
            .add_rule(&packets, 17_240_001, 1)
            .expect("what is there is no error");
        let rules = host.ip("rule show");
        assert!(
            rules.contains(&format!("1:\tfrom all {shown} lookup 17240001")),
            "{rules}"
        );
        assert!(netlink.has_rule(&packets).unwrap());
        assert_eq!(netlink.delete_rules(&packets).unwrap(), 1);
        assert_eq!(netlink.delete_rules(&packets).unwrap(), 0);
        assert!(!netlink.has_rule(&packets).unwrap());
    }
    assert!(
        host.ip("rule show")
            .contains("fwmark 0x99000000/0xff000000 lookup 99"),
        "somebody else's stays"
    );
    assert!(
        host.ip("rule show")
            .contains("7:\tfrom all iif vpn1 lookup 99"),
        "somebody else's stays"
    );
}

#[test]
fn routes_of_all_tables_and_kinds_are_listed() {
    let (host, _inside, netlink, index) = veth();
    netlink.set_up(index).unwrap();
    for route in [
        "10.1.0.0/16 dev vpn1",
        "blackhole 10.2.0.0/16 table 500",
        "10.3.0.0/16 nexthop dev vpn1 nexthop dev lo",
    ] {
        host.ip(&format!("route add {route}"));
    }
    let routes = netlink.routes().unwrap();
    let find = |address| {
        routes
            .iter()
            .find(|route| route.network == network(address, 16).into())
            .unwrap()
    };
    assert_eq!(
        (find([10, 1, 0, 0]).table, find([10, 1, 0, 0]).hops[0]),
        (MAIN_TABLE, (index, None))
    );
    assert_eq!(
        (find([10, 2, 0, 0]).table, find([10, 2, 0, 0]).unicast),
        (500, false)
    );
    assert_eq!(find([10, 3, 0, 0]).hops.len(), 2);
}
