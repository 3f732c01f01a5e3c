//! NAT and forwarding (SPEC 5), on hosts with firewalls of their own.

use crate::support::{Host, Net, Snapshot, WebServer};

fn host() -> (Host, WebServer) {
    let host = Host::new();
    let web = host.internet.net.serve("192.0.2.1:80", "seen");
    (host, web)
}

#[track_caller]
fn has_connection(host: &Host, name: &str) {
    let curl = format!("runns-exec {name} -- curl -sS --max-time 5 http://192.0.2.1/");
    assert_eq!(host.user("alice").ok(&curl), "seen 192.0.2.2");
}

#[test]
fn every_rule_carries_the_tag_and_goes_again() {
    let (host, _web) = host();
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -n a && runns-exec build -n ab");
    let rules = host.ok("iptables-save | grep -c 'runns:a\"\\|runns:a$\\|runns:a '");
    assert_ne!(rules, "0");
    let added = host.ok("iptables-save | grep '^-A'");
    assert!(added.lines().all(|rule| rule.contains("runns:a")), "{added}");
    host.ok("runns-exec clean a");
    let left = host.ok("iptables-save | grep '^-A'");
    assert!(!left.is_empty() && left.lines().all(|rule| rule.contains("runns:ab")), "only a's rules go: {left}");
    has_connection(&host, "ab");
    host.ok("runns-exec clean ab -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn policies_and_rules_that_drop_are_passed() {
    for (backend, prepare) in [
        ("nft", "iptables -P FORWARD DROP"),
        ("nft", "iptables -A FORWARD -j REJECT"),
        (
            "nft",
            "iptables -P FORWARD DROP && iptables -N DOCKER-USER && iptables -A FORWARD -j DOCKER-USER && \
                 iptables -A DOCKER-USER -j RETURN",
        ),
        ("nft", "iptables -N DOCKER-USER && iptables -A FORWARD -j DOCKER-USER && iptables -A DOCKER-USER -j DROP"),
        ("legacy", "iptables-legacy -P FORWARD DROP"),
        ("legacy", "iptables-legacy -A FORWARD -j DROP"),
    ] {
        let (host, _web) = host();
        host.ok(prepare);
        let before = Snapshot::of(&host);
        host.ok("runns-exec build");
        has_connection(&host, "vpn1");
        let rules = host.ok(&format!("iptables-{backend}-save | grep -c runns:vpn1"));
        assert_ne!(rules, "0", "{prepare}");
        host.ok("runns-exec clean vpn1 -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn iptables_may_be_the_legacy_one() {
    let (host, _web) = host();
    host.ok("for name in iptables iptables-save iptables-restore; do \
             ln -sf xtables-legacy-multi /usr/sbin/$name; done; iptables -P FORWARD DROP");
    assert!(host.ok("iptables --version").contains("legacy"));
    let before = Snapshot::of(&host);
    host.ok("runns-exec build");
    has_connection(&host, "vpn1");
    assert_ne!(host.ok("iptables-legacy-save | grep -c runns:vpn1"), "0");
    host.ok("runns-exec clean vpn1 -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_native_nft_chain_that_drops_is_named() {
    let (host, _web) = host();
    host.ok("nft add table inet guard && nft 'add chain inet guard forwarding { type filter hook forward priority 10; policy drop; }'");
    let before = Snapshot::of(&host);
    host.run("runns-exec build").refused(1, &["guard", "forwarding"]);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn neighbours_reach_no_server_inside_and_foreign_sources_do_not_leave() {
    let (host, web) = host();
    host.ok("runns-exec build");
    let inside = host.spawn("runns-exec vpn1 -- python3 -m http.server 8000");
    // Its own host reaches it; a neighbour that uses the host as a router does not.
    host.ok("i=0; until curl -sS --max-time 2 http://172.24.1.2:8000/ >/dev/null; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.05; done");
    host.internet.net.ip("route add 172.24.0.0/16 via 192.0.2.2");
    let neighbour = host.root().inside(&host.internet.net);
    assert_ne!(neighbour.run("curl -sS --max-time 2 http://172.24.1.2:8000/").status, 0);
    assert!(inside.is_running());
    // Packets that leave the namespace with another source address are dropped on the host.
    host.ok("ip -n vpn1 address add 172.24.99.2/32 dev eth0");
    let foreign = "runns-exec vpn1 -- curl -sS --max-time 2 --interface 172.24.99.2 http://192.0.2.1/";
    assert_ne!(host.run(foreign).status, 0);
    assert!(web.requests().is_empty(), "{:?}", web.requests());
    has_connection(&host, "vpn1");
}

#[test]
fn namespaces_do_not_reach_each_other() {
    let (host, _web) = host();
    host.ok("runns-exec build && runns-exec build");
    let _inside = host.spawn("runns-exec vpn1 -- python3 -m http.server 8000");
    host.ok("i=0; until curl -sS --max-time 2 http://172.24.1.2:8000/ >/dev/null; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.05; done");
    let curl = "runns-exec vpn2 -- curl -sS --max-time 2 http://172.24.1.2:8000/";
    assert_ne!(host.run(curl).status, 0, "inward only RELATED,ESTABLISHED");
}

#[test]
fn forwarding_is_restored_with_each_interfaces_own() {
    let (host, _web) = host();
    let lan = Net::new();
    host.add_uplink("lan0", "10.50.0.1/24", &lan, "10.50.0.2/24");
    host.ok("sysctl -qw net.ipv4.conf.lan0.forwarding=1 net.ipv4.conf.eth0.forwarding=0");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build && runns-exec build");
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    let said = host.run("runns-exec clean vpn1 -f");
    assert!(said.status == 0 && format!("{said}").contains("forward"), "left on for vpn2, and says so: {said}");
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    let said = host.run("runns-exec clean vpn2");
    assert!(said.status == 0 && format!("{said}").contains("forward"), "left on, and says so: {said}");
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    host.ok("runns-exec build && runns-exec clean vpn1 -f");
    before.assert_same(&Snapshot::of(&host));
    // A host that forwarded before keeps forwarding.
    host.ok("sysctl -qw net.ipv4.ip_forward=1");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build && runns-exec clean vpn1 -f");
    before.assert_same(&Snapshot::of(&host));
}
