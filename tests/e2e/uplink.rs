//! InterfaceOut: through that uplink or not at all.

use crate::support::{Host, Net, Snapshot, WebServer};

pub const ASK: &str = "curl -sS --max-time 2 http://203.0.113.5/";

/// A host with two uplinks that lead to the same web site; its default route is through eth0.
pub struct TwoUplinks {
    pub host: Host,
    pub first: WebServer,
    _second: WebServer,
    pub net: Net,
}

pub fn two_uplinks() -> TwoUplinks {
    let host = Host::new();
    let net = Net::new();
    host.add_uplink("eth1", "198.18.0.2/24", &net, "198.18.0.1/24");
    host.ok("ip route add default via 198.18.0.1 dev eth1 metric 500");
    for net in [&host.internet.net, &net] {
        net.ip("address add 203.0.113.5/32 dev lo");
    }
    let first = host.internet.net.serve("203.0.113.5:80", "first");
    let second = net.serve("203.0.113.5:80", "second");
    TwoUplinks {
        host,
        first,
        _second: second,
        net,
    }
}

#[test]
fn traffic_leaves_by_the_uplink_or_not_at_all() {
    let TwoUplinks { host, first, .. } = &two_uplinks();
    host.configure("[out]\nInterfaceOut=eth1\n");
    let alice = host.user("alice");
    let before = Snapshot::of(host);
    assert_eq!(alice.ok(ASK), "first 192.0.2.2");
    host.ok("runns-exec build -s out");
    let inside = format!("runns-exec out -- {ASK}");
    assert_eq!(alice.ok(&inside), "second 198.18.0.2");
    assert_eq!(alice.ok(ASK), "first 192.0.2.2");
    // A VPN for the whole host adds both halves of a default route; the namespace is not affected.
    host.ok("ip route add 0.0.0.0/1 via 192.0.2.1 && ip route add 128.0.0.0/1 via 192.0.2.1");
    assert_eq!(alice.ok(&inside), "second 198.18.0.2");
    host.ok("ip route del 0.0.0.0/1 && ip route del 128.0.0.0/1");
    // When the link goes down, nothing leaves through the other one.
    let seen = first.requests().len();
    host.ok("ip link set eth1 down");
    assert_ne!(alice.run(&inside).status, 0);
    host.ok("ip link set eth1 up");
    assert_ne!(
        alice.run(&inside).status,
        0,
        "it is up again, but has lost its routes"
    );
    assert_eq!(
        first.requests().len(),
        seen,
        "something left by the wrong uplink"
    );
    host.ok("ip route add default via 198.18.0.1 dev eth1 metric 500");
    host.ok("runns-exec clean -n out -r eth1");
    assert_eq!(alice.ok(&inside), "second 198.18.0.2");
    host.ok("ip link set eth1 down; ip link set eth1 up; ip route add default via 198.18.0.1 dev eth1 metric 500");
    host.ok("runns-exec build -s out");
    assert_eq!(
        alice.ok(&inside),
        "second 198.18.0.2",
        "building again restores it as well"
    );
    assert_eq!(first.requests().len(), seen);
    host.ok("runns-exec clean out -f");
    before.assert_same(&Snapshot::of(host));
}

#[test]
fn a_flushed_firewall_opens_no_other_way() {
    let TwoUplinks { host, first, .. } = &two_uplinks();
    host.ok("runns-exec build -n out -o eth1 && iptables-legacy -A FORWARD -j ACCEPT");
    let seen = host
        .spawn("exec tcpdump -p -Z root -n -l --immediate-mode -i eth0 -Q out net 172.24.0.0/13");
    crate::support::wait_until("tcpdump listens", || {
        seen.stderr().contains("listening on").then_some(())
    });
    host.ok(
        "nft flush ruleset; for table in mangle nat filter; do iptables-legacy -t $table -F; done",
    );
    assert_eq!(host.ok("nft list ruleset"), "");
    assert_ne!(
        host.run(&format!("runns-exec out -- {ASK}")).status,
        0,
        "without NAT there are no answers"
    );
    host.ok("ip link set eth1 down");
    assert_ne!(host.run(&format!("runns-exec out -- {ASK}")).status, 0);
    assert!(
        first.requests().is_empty(),
        "something left by the wrong uplink"
    );
    // A last packet of the same kind proves that tcpdump saw all.
    host.ok(
        "ip address add 172.24.99.1/32 dev lo && ping -c 1 -W 1 -I 172.24.99.1 192.0.2.1 || true",
    );
    crate::support::wait_until("the last packet is seen", || {
        seen.stdout().contains("172.24.99.1").then_some(())
    });
    let packets = seen.stdout();
    assert!(
        packets.lines().all(|line| line.contains("172.24.99.1")),
        "{packets}"
    );
    host.ok("runns-exec clean out -f");
}

#[test]
fn an_uplink_that_is_removed_fails_closed() {
    let TwoUplinks { host, first, .. } = &two_uplinks();
    host.ok("runns-exec build -n out -o eth1");
    host.ok("ip link delete eth1");
    assert_ne!(host.run(&format!("runns-exec out -- {ASK}")).status, 0);
    assert!(first.requests().is_empty());
    host.run("runns-exec clean -n out -r eth1")
        .refused(1, &["eth1"]);
    host.ok("runns-exec clean out -f");
}

#[test]
fn a_namespace_moves_to_another_uplink_with_its_processes() {
    let TwoUplinks { host, .. } = &two_uplinks();
    let alice = host.user("alice");
    let before = Snapshot::of(host);
    host.ok("runns-exec build -n out -o eth1");
    let pid = alice.ok("runns-exec -d out -- sleep 1000");
    for (uplink, seen) in [
        ("eth0", "first 192.0.2.2"),
        ("eth1", "second 198.18.0.2"),
        ("eth0", "first 192.0.2.2"),
    ] {
        host.ok(&format!("runns-exec clean out -r {uplink}"));
        assert_eq!(alice.ok(&format!("runns-exec out -- {ASK}")), seen);
        host.ok(&format!("kill -0 {pid}"));
    }
    host.run("runns-exec clean -n nosuch -r eth0")
        .refused(1, &["nosuch"]);
    host.run("runns-exec clean -n out -r nosuch0")
        .refused(1, &["nosuch0"]);
    host.ok("runns-exec clean out --kill -f");
    before.assert_same(&Snapshot::of(host));
}

#[test]
fn strict_reverse_path_filters_are_no_obstacle() {
    let TwoUplinks { host, .. } = &two_uplinks();
    host.ok("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1 net.ipv4.conf.eth1.rp_filter=1 \
             net.ipv4.conf.default.rp_filter=1");
    let before = Snapshot::of(host);
    host.ok("runns-exec build -n out -o eth1");
    assert_eq!(
        host.user("alice").ok(&format!("runns-exec out -- {ASK}")),
        "second 198.18.0.2"
    );
    host.ok("runns-exec clean out -f");
    before.assert_same(&Snapshot::of(host));
}

#[test]
fn an_uplink_without_a_gateway_reaches_its_own_subnets_only() {
    let TwoUplinks { host, first, .. } = &two_uplinks();
    host.ok("ip route del default dev eth1");
    let built = host.run("runns-exec build -n out -o eth1");
    assert!(
        built.status == 0 && built.stderr.contains("gateway"),
        "{built}"
    );
    host.ok("runns-exec out -- ping -c 1 -W 5 198.18.0.1");
    assert_ne!(host.run(&format!("runns-exec out -- {ASK}")).status, 0);
    assert!(first.requests().is_empty());
    host.ok("runns-exec clean out");
}
