//! IPv6 on the veth pair, where it was asked for, and nowhere else.

use crate::neighbours::{bring_programs, from_host, from_lan, serve};
use crate::support::{Background, Host, Snapshot};

/// A host with IPv6 on its uplink, which leads to an address that has no IPv4.
fn host(config: &str) -> Host {
    let host = Host::new();
    host.internet
        .net
        .ip("-6 address add 2001:db8::1/64 dev eth0 nodad");
    host.internet
        .net
        .ip("-6 address add 2001:db8:77::77/128 dev lo nodad");
    host.ok("ip -6 address add 2001:db8::2/64 dev eth0 nodad && ip -6 route add default via 2001:db8::1");
    bring_programs(&host);
    host.configure(config);
    host
}

/// A server on an address of the Internet that has IPv6 only.
fn internet(host: &Host) -> Background {
    let server = host
        .root()
        .inside(&host.internet.net)
        .spawn("exec python3 -u /tmp/server.py 80 >/tmp/ready-internet");
    host.ok("until grep -q ready /tmp/ready-internet 2>/dev/null; do sleep 0.02; done");
    server
}

const FAR: &str = "2001:db8:77::77";

#[test]
fn a_namespace_has_ipv6_if_it_was_asked_for() {
    let host = host("[with]\nIPv6=yes\n[without]\n[closed]\nIPv6=yes\nHostAccess=no\n");
    let before = Snapshot::of(&host);
    let _server = internet(&host);
    host.ok("for name in with without closed; do runns-exec build -s $name || exit 1; done");
    for (address, protocol) in [(FAR, "tcp"), ("2001:db8::1", "udp")] {
        let said = from_host(&host, "ip netns exec with", address, 80, protocol);
        assert_eq!(
            said, "peer 2001:db8::2",
            "the host's address is seen outside"
        );
        assert_eq!(
            from_host(&host, "ip netns exec closed", address, 80, protocol),
            "peer 2001:db8::2"
        );
        assert!(
            from_host(&host, "ip netns exec without", address, 80, protocol).contains("failed")
        );
    }
    let addresses = host.ok("ip -n with -6 -br address show dev eth0");
    assert!(
        addresses.contains("fd72:756e:6e73::2/64") && !addresses.contains("fe80"),
        "{addresses}"
    );
    assert_eq!(
        host.ok("ip -n without -6 address show dev eth0; ip -6 address show dev without"),
        ""
    );
    // Names that have IPv6 addresses only.
    host.ok("mkdir -p /etc/netns/with && printf '2001:db8:77::77 only.example\\n' >/etc/netns/with/hosts");
    let said = host
        .user("alice")
        .ok("runns-exec with -- python3 /tmp/client.py 2001:db8:77::77 80 tcp");
    assert_eq!(said.trim(), "peer 2001:db8::2");
    assert!(
        host.user("alice")
            .ok("runns-exec with -- getent ahosts only.example")
            .contains(FAR)
    );
    host.ok("rm -r /etc/netns/with");
    let said = host.user("alice").ok("runns-exec check with; true");
    assert!(
        said.lines().any(|line| line.contains("IPv6")
            && line.contains("OK")
            && line.contains("through eth0")),
        "{said}"
    );
    // Servers of the host, by each of its addresses; no other namespace.
    let _own = serve(&host, "", 7001);
    let _inside = serve(&host, "ip netns exec closed", 80);
    for address in ["fd72:756e:6e73::1", "2001:db8::2", "fd72:756e:6e73:2::1"] {
        let said = from_host(&host, "ip netns exec with", address, 7001, "tcp");
        assert_eq!(said, "peer fd72:756e:6e73::2", "{address}");
        let said = from_host(&host, "ip netns exec closed", address, 7001, "tcp");
        assert!(said.starts_with("failed"), "{address}: {said}");
    }
    assert!(
        from_host(
            &host,
            "ip netns exec with",
            "fd72:756e:6e73:2::2",
            80,
            "tcp"
        )
        .starts_with("failed")
    );
    // Whoever uses another address as its source gets nowhere.
    host.ok("ip -n with -6 address add 2001:db8:5::5/128 dev eth0 nodad");
    host.ok("ip -n with -6 route replace default via fd72:756e:6e73::1 src 2001:db8:5::5 dev eth0");
    assert!(from_host(&host, "ip netns exec with", FAR, 80, "tcp").starts_with("failed"));
    host.ok("ip -n with -6 address del 2001:db8:5::5/128 dev eth0; runns-exec build -s with; runns-exec status");
    assert_eq!(
        from_host(&host, "ip netns exec with", FAR, 80, "tcp"),
        "peer 2001:db8::2"
    );
    host.ok("for name in with without closed; do runns-exec clean $name -fk || exit 1; done");
    drop((_own, _inside));
    host.ok("rm -f /tmp/ready*; rmdir /etc/netns");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_host_that_forwards_ipv6_for_a_namespace_is_no_router() {
    let host = host("[with]\nIPv6=yes\n");
    host.ok("ip link add br0 type bridge && ip -6 address add 2001:db8:9::1/64 dev br0 nodad && ip link set br0 up");
    let settings = "cd /proc/sys/net/ipv6/conf && grep . */forwarding */accept_ra | grep -v -e ^all/forwarding -e ^with/ -e ^far/";
    let before = host.ok(settings);
    // What it has learnt from a router outlasts the change.
    const ADVERTISE: &str = "import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex('eth0'))
s.sendto(struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0), ('ff02::1', 0))";
    host.write("/tmp/advertise.py", ADVERTISE);
    let learnt = "ip -6 route show default proto ra";
    let lan = host.root().inside(&host.internet.net);
    crate::support::wait_until("a router is known", || {
        lan.ok("python3 /tmp/advertise.py");
        (!host.ok(learnt).is_empty()).then_some(())
    });
    host.ok("runns-exec build -s with");
    assert_eq!(host.ok("cat /proc/sys/net/ipv6/conf/all/forwarding"), "1");
    assert_eq!(host.ok(settings), before);
    assert!(!host.ok(learnt).is_empty(), "the router is still known");
    // A neighbour cannot use the host as its router.
    host.internet
        .net
        .ip("-6 route add 2001:db8:9::/64 via 2001:db8::2");
    host.ok(
        "ip netns add far && ip link add far type veth peer name eth0 netns far && ip link set far master br0 up && \
             ip -n far -6 address add 2001:db8:9::9/64 dev eth0 nodad && ip -n far link set eth0 up && \
             ip -n far -6 route add default via 2001:db8:9::1",
    );
    let ping = |address: &str| lan.run(&format!("ping -6 -c1 -W1 {address}")).status == 0;
    crate::support::wait_until("the bridge carries", || {
        (host.run("ping -6 -c1 -W1 2001:db8:9::9").status == 0).then_some(())
    });
    assert!(!ping("2001:db8:9::9") && !ping("fd72:756e:6e73::2"));
    host.internet
        .net
        .ip("-6 route add fd72:756e:6e73::/48 via 2001:db8::2");
    assert!(!ping("fd72:756e:6e73::2"));
    // It goes with the last namespace that needs it, whatever others there are.
    host.ok("runns-exec build -n plain && runns-exec clean with");
    assert_eq!(host.ok("cat /proc/sys/net/ipv6/conf/all/forwarding"), "0");
    host.ok("runns-exec clean plain -f");
    assert_eq!(host.ok(settings), before);
}

#[test]
fn ports_are_published_by_ipv6() {
    let host = host(
        "[work]\nPublish=8080:80\nPublish=8080:80/udp\nPublish=[::1]:9000:80\n[old]\nPublish=8081:80\nIPv6=no\n",
    );
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work && runns-exec build -s old");
    let _server = serve(&host, "ip netns exec work", 80);
    let _old = serve(&host, "ip netns exec old", 80);
    for protocol in ["tcp", "udp"] {
        assert_eq!(
            from_lan(&host, "2001:db8::2", 8080, protocol),
            "peer 2001:db8::1",
            "the client's own address"
        );
        assert_eq!(
            from_lan(&host, "192.0.2.2", 8080, protocol),
            "peer 192.0.2.1"
        );
        assert_eq!(
            from_host(&host, "", "2001:db8::2", 8080, protocol),
            "peer 2001:db8::2"
        );
        assert_eq!(
            from_host(&host, "", "::1", 8080, protocol),
            "peer fd72:756e:6e73::1"
        );
    }
    assert_eq!(
        from_host(&host, "", "::1", 9000, "tcp"),
        "peer fd72:756e:6e73::1"
    );
    for (address, port) in [
        ("2001:db8::2", 9000),
        ("2001:db8::2", 80),
        ("2001:db8::2", 8081),
        ("fd72:756e:6e73::2", 80),
    ] {
        assert!(
            from_lan(&host, address, port, "tcp").starts_with("failed"),
            "{address} {port}"
        );
    }
    assert_eq!(host.ok("ip -n old -6 address show dev eth0"), "");
    assert!(from_host(&host, "ip netns exec old", "192.0.2.2", 8080, "tcp").starts_with("failed"));
    // There is no way out by it.
    let _internet = internet(&host);
    assert!(from_host(&host, "ip netns exec work", FAR, 80, "tcp").starts_with("failed"));
    host.ok("ip -n work -6 route add default via fd72:756e:6e73::1");
    assert!(from_host(&host, "ip netns exec work", FAR, 80, "tcp").starts_with("failed"));
    host.ok("ip -n work -6 route del default; runns-exec status");
    for damage in [
        "ip -6 address flush dev work",
        "ip -n work -6 address flush dev eth0",
        "ip -n work -6 rule del priority 900",
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        "ip netns exec work sysctl -qw net.ipv6.conf.eth0.accept_ra=1",
        "nft flush table inet runns",
        "ip netns exec work nft delete table inet runns",
        "ip link set work down",
    ] {
        host.ok(damage);
        assert_eq!(host.run("runns-exec status work").status, 1, "{damage}");
        host.ok("runns-exec build -s work && runns-exec status");
        assert_eq!(
            from_lan(&host, "2001:db8::2", 8080, "tcp"),
            "peer 2001:db8::1",
            "{damage}"
        );
    }
    host.ok("runns-exec clean work -k && runns-exec clean old -fk && rm /tmp/ready*");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_firewall_of_the_hosts_lets_it_pass() {
    let host = host(
        "[with]\nIPv6=yes\nInterfaceOut=eth0\nPublish=8080:80\n[other]\nIPv6=yes\nInterfaceOut=br0\n",
    );
    host.ok("ip link add br0 type veth peer name br1 && ip address add 10.9.9.1/24 dev br0 && ip link set br0 up");
    host.ok("ip6tables -P FORWARD DROP");
    let before = Snapshot::of(&host);
    let _server = internet(&host);
    host.ok("runns-exec build -s with && runns-exec build -s other");
    assert_eq!(
        from_host(&host, "ip netns exec with", FAR, 80, "tcp"),
        "peer 2001:db8::2"
    );
    let inside = serve(&host, "ip netns exec with", 80);
    assert_eq!(
        from_lan(&host, "2001:db8::2", 8080, "tcp"),
        "peer 2001:db8::1"
    );
    drop(inside);
    // The host's route leads by another uplink than the one that it is bound to.
    assert!(from_host(&host, "ip netns exec other", FAR, 80, "tcp").starts_with("failed"));
    host.ok("ip6tables -F FORWARD");
    assert!(
        host.run("runns-exec status with")
            .stdout
            .contains("rules of ip6tables")
    );
    host.ok("runns-exec build -s with && runns-exec status with");
    assert_eq!(
        from_host(&host, "ip netns exec with", FAR, 80, "tcp"),
        "peer 2001:db8::2"
    );
    host.ok("runns-exec clean with -k && runns-exec status && runns-exec clean other -f && rm /tmp/ready*");
    before.assert_same(&Snapshot::of(&host));
}
