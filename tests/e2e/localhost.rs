//! Servers that listen on a loopback address alone: those of the host, from inside, and those
//! inside, through a published port. Nothing else of either loopback opens.

use crate::neighbours::{from_host, from_lan, host, serve, serve_at};
use crate::support::{Host, Snapshot, wait_until};

const INSIDE: &str = "ip netns exec work";
/// What a server on 127.0.0.1 sees of the first namespace.
const PEER: &str = "peer 127.114.0.0";

/// Connects to a name, to one of its addresses after the other.
fn by_name(host: &Host, port: u16) -> String {
    host.user("alice").ok(&format!(
        "runns-exec work -- python3 -c 'import socket; print(socket.create_connection((\"host.runns\", {port}), 2).recv(99).decode())' 2>&1 || true"
    ))
}

fn fails(said: &str) -> bool {
    said.starts_with("failed")
}

/// No interface of the host admits packets to its loopback addresses.
fn route_localnet_is_off(host: &Host) {
    let values = host.ok(
        "sysctl -n net.ipv4.conf.all.route_localnet; sysctl -n net.ipv4.conf.work.route_localnet",
    );
    assert_eq!(values.trim(), "0\n0");
}

#[test]
fn servers_on_loopback_of_the_host_are_reached_by_the_ports_that_are_named() {
    let host = host(
        "[work]\nHostAccess=localhost:7001,localhost:7001/udp,7003,localhost:7005\n[open]\n\
         [shut]\nHostAccess=no\n",
    );
    let before = Snapshot::of(&host);
    host.ok("for name in work open shut; do runns-exec build -s $name || exit 1; done");
    let _servers = [
        serve_at(&host, "", 7001, "127.0.0.1"),
        serve_at(&host, "", 7002, "127.0.0.1 ::1"),
        serve_at(&host, "", 7003, "127.0.0.1"),
        serve(&host, "", 7005),
    ];
    for protocol in ["tcp", "udp"] {
        let at = |place: &str, address: &str| from_host(&host, place, address, 7001, protocol);
        assert_eq!(at(INSIDE, "172.24.0.1"), PEER);
        assert_eq!(at("", "127.0.0.1"), "peer 127.0.0.1", "the host's own");
        for address in ["192.0.2.2", "127.0.0.1", "172.24.1.1"] {
            assert!(fails(&at(INSIDE, address)), "{address}");
        }
        for other in ["open", "shut"] {
            for address in ["172.24.0.1", "172.24.1.1", "172.24.2.1", "192.0.2.2"] {
                let said = at(&format!("ip netns exec {other}"), address);
                assert!(fails(&said), "{other} {address}: {said}");
            }
        }
        assert!(fails(&from_lan(&host, "192.0.2.2", 7001, protocol)));
    }
    // A port that is not named, or named for all addresses or another protocol.
    for (port, protocol) in [(7002, "tcp"), (7002, "udp"), (7003, "tcp"), (7005, "udp")] {
        for address in ["172.24.0.1", "fd72:756e:6e73::1"] {
            let said = from_host(&host, INSIDE, address, port, protocol);
            assert!(fails(&said), "{port}/{protocol} {address}: {said}");
        }
    }
    // One that listens on all addresses listens on this one too.
    assert_eq!(from_host(&host, INSIDE, "172.24.0.1", 7005, "tcp"), PEER);
    assert!(fails(&from_host(&host, INSIDE, "192.0.2.2", 7005, "tcp")));
    // Neighbours who send there as if they were the namespace.
    let route = "route add 172.24.0.1/32 via 192.0.2.2";
    host.internet.net.ip(route);
    assert!(fails(&from_lan(&host, "172.24.0.1", 7001, "tcp")));
    host.internet.net.ip("address add 172.24.0.2/32 dev lo");
    assert!(fails(&from_lan(&host, "172.24.0.1", 7001, "tcp")));
    route_localnet_is_off(&host);
    assert!(
        host.ok("runns-exec status work")
            .contains("localhost:7001/tcp")
    );
    host.ok("for name in work open shut; do runns-exec clean $name -fk || exit 1; done");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_server_on_either_loopback_address_has_the_name_of_the_host() {
    let host = host("[work]\nHostAccess=localhost:7001,localhost:7002\n");
    host.ok("runns-exec build -s work");
    let _servers = [
        serve_at(&host, "", 7001, "127.0.0.1"),
        serve_at(&host, "", 7002, "::1"),
        serve_at(&host, "", 7003, "::1"),
    ];
    assert_eq!(by_name(&host, 7001).trim(), PEER);
    assert_eq!(by_name(&host, 7002).trim(), "peer fd72:756e:6e73::2");
    assert!(by_name(&host, 7003).contains("refused") || by_name(&host, 7003).contains("timed out"));
    // Enough for many segments, and for a datagram in fragments.
    host.ok("head -c 3000000 /dev/urandom >/tmp/big && chmod 644 /tmp/big");
    let _web = host.spawn("cd /tmp && exec python3 -m http.server -b 127.0.0.1 7005");
    host.ok("until ss -ltn | grep -q 127.0.0.1:7005; do sleep 0.02; done");
    host.configure("[work]\nHostAccess=localhost:7005,localhost:7006/udp\n");
    host.ok("runns-exec build -s work --change");
    host.ok("ip netns exec work curl -sSf -m 20 http://172.24.0.1:7005/big | cmp - /tmp/big");
    let _echo = host.spawn(
        "exec python3 -c 'import socket; s = socket.socket(2, 2); s.bind((\"127.0.0.1\", 7006))\n\
         while True: d, p = s.recvfrom(9999); s.sendto(d * 9, p)'",
    );
    host.ok("until ss -lun | grep -q 127.0.0.1:7006; do sleep 0.02; done");
    let answer = host.ok(
        "ip netns exec work python3 -c 'import socket; s = socket.socket(2, 2); s.settimeout(5)\n\
         s.connect((\"172.24.0.1\", 7006)); s.send(b\"x\" * 999); print(len(s.recv(99999)))'",
    );
    assert_eq!(answer.trim(), "8991");
    assert!(by_name(&host, 7001).contains("refused") || by_name(&host, 7001).contains("timed out"));
    host.ok("runns-exec clean work -fk");
}

#[test]
fn loopback_of_the_host_stays_closed_when_its_firewall_is_flushed() {
    let host = host("[work]\nHostAccess=localhost:7001\n");
    host.ok("runns-exec build -s work");
    let _servers = [
        serve_at(&host, "", 7001, "127.0.0.1"),
        serve_at(&host, "", 7002, "127.0.0.1"),
    ];
    let reached = |address: &str, port| from_host(&host, INSIDE, address, port, "tcp");
    assert_eq!(reached("172.24.0.1", 7001), PEER);
    host.ok("nft flush ruleset; iptables -F; ip netns exec work nft flush ruleset");
    // Whoever is root inside may send to any address.
    host.ok(
        "ip -n work route del local 127.0.0.0/8 dev lo table local; \
             ip -n work route del local 127.0.0.1 dev lo table local; \
             ip -n work route add 127.0.0.0/8 via 172.24.0.1",
    );
    for address in ["172.24.0.1", "127.0.0.1", "127.114.0.0"] {
        for port in [7001, 7002] {
            assert!(fails(&reached(address, port)), "{address} {port}");
        }
    }
    route_localnet_is_off(&host);
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains("inet runns"),
        "{status}"
    );
    host.ok("ip -n work route del 127.0.0.0/8; ip -n work route add local 127.0.0.0/8 dev lo table local src 127.0.0.1; runns-exec build -s work");
    assert_eq!(reached("172.24.0.1", 7001), PEER);
    assert!(fails(&reached("172.24.0.1", 7002)));
    host.configure("[work]\nHostAccess=no\n");
    host.ok("runns-exec build -s work --change");
    assert!(fails(&reached("172.24.0.1", 7001)));
    host.configure("[work]\nHostAccess=localhost:7001\n");
    host.ok("runns-exec build -s work --change && runns-exec status");
    assert_eq!(reached("172.24.0.1", 7001), PEER);
    host.ok("runns-exec clean work -fk");
}

#[test]
fn a_published_port_reaches_a_server_on_loopback_inside() {
    let host =
        host("[work]\nPublish=8080:80\nPublish=8080:80/udp\nPublish=8082:82\nPublish=8083:83\n");
    host.ok("runns-exec build -s work");
    let server = serve_at(&host, INSIDE, 80, "127.0.0.1");
    let _others = [
        serve_at(&host, INSIDE, 81, "127.0.0.1"),
        serve_at(&host, INSIDE, 82, "172.24.0.2"),
        serve(&host, INSIDE, 83),
    ];
    let all_reach_it = || {
        for protocol in ["tcp", "udp"] {
            let lan = from_lan(&host, "192.0.2.2", 8080, protocol);
            assert_eq!(
                lan, "peer 192.0.2.1",
                "{protocol}: the client's own address"
            );
            let own = from_host(&host, "", "127.0.0.1", 8080, protocol);
            assert_eq!(own, "peer 172.24.0.1", "{protocol}");
        }
    };
    all_reach_it();
    assert_eq!(
        from_host(&host, INSIDE, "127.0.0.1", 80, "tcp"),
        "peer 127.0.0.1"
    );
    for port in [8082, 8083] {
        assert_eq!(
            from_lan(&host, "192.0.2.2", port, "tcp"),
            "peer 192.0.2.1",
            "{port}"
        );
    }
    for address in ["172.24.0.2", "127.0.0.1"] {
        let said = from_host(&host, "", address, 81, "tcp");
        assert!(fails(&said), "{address}: {said}");
    }
    let values = "ip netns exec work sysctl -n net.ipv4.conf.all.route_localnet net.ipv4.conf.eth0.route_localnet";
    assert_eq!(host.ok(values).trim(), "0\n0");
    // What leads there is seen, and repaired.
    for broken in [
        "ip -n work rule del priority 898",
        "ip -n work route flush table 17251003",
        "ip netns exec work nft flush chain inet runns to_loopback",
        "ip netns exec work nft flush ruleset",
    ] {
        host.ok(broken);
        assert!(
            fails(&from_lan(&host, "192.0.2.2", 8080, "tcp")),
            "{broken}"
        );
        assert_eq!(host.run("runns-exec status").status, 1, "{broken}");
        host.ok("runns-exec build -s work && runns-exec status");
        all_reach_it();
    }
    // A server that takes its place on all addresses gets what is for it.
    drop(server);
    host.ok(
        "kill $(ip netns exec work ss -Hltnp 'sport = :80' | grep -o 'pid=[0-9]*' | cut -d= -f2)",
    );
    host.ok("while ip netns exec work ss -Hlntu 'sport = :80' | grep -q .; do sleep 0.02; done");
    let _server = serve(&host, INSIDE, 80);
    all_reach_it();
    host.configure("[work]\n");
    host.ok("runns-exec build -s work --change && runns-exec status");
    assert!(
        !host
            .ok("ip -n work rule; ip -n work route show table all")
            .contains("17251003")
    );
    host.ok("runns-exec clean work -fk");
}

#[test]
fn the_hosts_resolver_on_loopback_is_asked_if_the_section_opens_it() {
    let host = host("[work]\n");
    host.write(
        "/etc/resolv.conf",
        "search example.org\nnameserver 127.0.0.1\n",
    );
    let resolver = host.spawn(
        "exec dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
         --address=/#/203.0.113.1 --bind-interfaces --listen-address=127.0.0.1",
    );
    wait_until("the resolver answers", || {
        assert!(resolver.is_running(), "{}", resolver.stderr());
        (host
            .run("dig +short +time=1 @127.0.0.1 a.example")
            .stdout
            .trim()
            == "203.0.113.1")
            .then_some(())
    });
    let opened = "HostAccess=localhost:53,localhost:53/udp";
    let built = host.run("runns-exec build -s work");
    assert!(
        built.status == 0 && built.stderr.contains(opened),
        "{built}"
    );
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains(opened),
        "{status}"
    );
    host.configure(&format!("[work]\n{opened}\n"));
    host.ok("runns-exec build -s work --change && runns-exec status work");
    let alice = host.user("alice");
    let said = alice.ok("runns-exec work -- getent ahostsv4 a.example && runns-exec check work");
    assert!(said.contains("203.0.113.1"), "{said}");
    assert!(
        alice
            .ok("runns-exec work -- cat /etc/resolv.conf")
            .contains("search example.org")
    );
    host.ok("runns-exec clean work -fk");
}
