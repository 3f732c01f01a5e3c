//! Exceptions to a tunnel that takes all traffic: answers leave as their questions came, and what
//! bypasses the tunnel never enters it.

use super::{FAR, Watch, host, ping, tunnel_field};
use crate::neighbours::{bring_programs, from_host, from_lan, serve, serve_at};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, wait_until};

#[test]
fn exceptions_to_openvpn_with_redirect_gateway() {
    exceptions_to_openvpn("");
}

#[test]
fn exceptions_under_the_kill_switch() {
    exceptions_to_openvpn("KillSwitch=yes\n");
}

fn exceptions_to_openvpn(option: &str) {
    let host = host();
    bring_programs(&host);
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(
        &host,
        1194,
        8,
        "push \"redirect-gateway def1\"\nkeepalive 1 3\n",
    );
    openvpn::configure_client(&host, "work", 1194);
    host.internet.net.ip("address add 203.0.113.9/32 dev lo");
    host.internet
        .net
        .ip("-6 address add 2001:db8:9::9/128 dev lo nodad");
    host.configure(&format!(
        "[work]\n{option}vpn=/etc/openvpn/work.conf\nPublish=8080:80\nPublish=8080:80/udp\nHostAccess=7001,7001/tcp\n\
         Bypass=203.0.113.8/29, 203.0.113.9, 2001:db8:9::/64\nHookTimeout=5\n"
    ));
    host.ok("runns-exec build -s work");
    let _inside = serve(&host, "ip netns exec work", 80);
    let _outside = serve(&host, "", 7001);
    let tunnel = host
        .root()
        .spawn("exec ip netns exec work tcpdump -lni tun0 2>/tmp/dump.err >/tmp/dump");
    host.ok("until grep -q listening /tmp/dump.err; do sleep 0.02; done");
    for protocol in ["tcp", "udp"] {
        assert_eq!(
            from_lan(&host, "192.0.2.2", 8080, protocol),
            "peer 192.0.2.1",
            "{protocol}"
        );
        assert_eq!(
            from_host(&host, "", "192.0.2.2", 8080, protocol),
            "peer 192.0.2.2",
            "{protocol}"
        );
        assert_eq!(
            from_host(&host, "", "127.0.0.1", 8080, protocol),
            "peer 172.24.0.1",
            "{protocol}"
        );
        assert_eq!(
            from_lan(&host, "2001:db8::2", 8080, protocol),
            "peer 2001:db8::1",
            "{protocol}"
        );
        assert_eq!(
            from_host(&host, "", "::1", 8080, protocol),
            "peer fd72:756e:6e73::1",
            "{protocol}"
        );
    }
    // By the gateway and by another address of the host, one port and no other.
    for address in ["172.24.0.1", "192.0.2.2"] {
        assert_eq!(
            from_host(&host, "ip netns exec work", address, 7001, "tcp"),
            "peer 172.24.0.2",
            "{address}"
        );
        assert!(
            from_host(&host, "ip netns exec work", address, 7001, "udp").starts_with("failed"),
            "{address}"
        );
    }
    for address in ["fd72:756e:6e73::1", "2001:db8::2"] {
        let said = from_host(&host, "ip netns exec work", address, 7001, "tcp");
        assert_eq!(said, "peer fd72:756e:6e73::2", "{address}");
        assert!(
            from_host(&host, "ip netns exec work", address, 7001, "udp").starts_with("failed"),
            "{address}"
        );
    }
    assert!(ping(&host, "work", "203.0.113.9") && ping(&host, "work", "2001:db8:9::9"));
    assert!(
        !ping(&host, "work", super::FAR6),
        "nothing else leaves by IPv6"
    );
    let route = |to: &str| host.ok(&format!("ip -n work route get {to}"));
    assert!(
        route("203.0.113.9").contains("dev eth0") && route("203.0.113.17").contains("dev tun0")
    );
    let said = host.user("alice").run("runns-exec check work");
    let opened = [
        "Publish=8080:80",
        "HostAccess=7001",
        "Bypass=203.0.113.8/29",
    ]
    .iter()
    .all(|way| said.stdout.contains(way));
    assert!(
        opened && said.stdout.contains("OPEN") && !said.stdout.contains("another way"),
        "{said}"
    );
    // What is seen in the tunnel is of neither.
    assert!(
        ping(&host, "work", super::FAR),
        "the tunnel carries the rest"
    );
    host.ok("until grep -q 198.51.100.77 /tmp/dump; do sleep 0.02; done");
    let seen = host.ok("cat /tmp/dump");
    drop(tunnel);
    for (address, port) in [
        ("203.0.113.9", ""),
        ("2001:db8", ""),
        ("192.0.2.2", ""),
        ("192.0.2.1", ""),
        ("", ".80:"),
        ("", ".80 >"),
    ] {
        let hit = if address.is_empty() { port } else { address };
        assert!(!seen.contains(hit), "{hit} in the tunnel: {seen}");
    }
    the_servers_end_reaches_nothing_beside_the_tunnel(&host);
    // Without the tunnel, all of it works as before, and the rest nowhere or, without kill switch,
    // beside it.
    server.stop(&host, 1194);
    wait_until("it is down", || {
        (tunnel_field(&host, "root", "work", "up") == "False").then_some(())
    });
    for protocol in ["tcp", "udp"] {
        assert_eq!(
            from_lan(&host, "192.0.2.2", 8080, protocol),
            "peer 192.0.2.1",
            "{protocol}"
        );
        assert_eq!(
            from_lan(&host, "2001:db8::2", 8080, protocol),
            "peer 2001:db8::1",
            "{protocol}"
        );
    }
    assert!(ping(&host, "work", "2001:db8:9::9") && !ping(&host, "work", super::FAR6));
    assert_eq!(
        from_host(&host, "ip netns exec work", "172.24.0.1", 7001, "tcp"),
        "peer 172.24.0.2"
    );
    assert!(ping(&host, "work", "203.0.113.9"));
    assert_eq!(ping(&host, "work", super::FAR), option.is_empty());
    let _server = OpenVpnServer::start_with(
        &host,
        1194,
        8,
        "push \"redirect-gateway def1\"\nkeepalive 1 3\n",
    );
    wait_until("it is up", || {
        (tunnel_field(&host, "root", "work", "up") == "True").then_some(())
    });
    // Should the veth go, what bypasses the tunnel does not enter it.
    host.ok("ip -n work link set eth0 down");
    assert!(
        !host
            .run("ip -n work route get 203.0.113.9")
            .stdout
            .contains("tun0")
    );
    host.ok("runns-exec build -s work && runns-exec status");
    assert!(ping(&host, "work", "203.0.113.9"));
    host.ok("ip -n work rule del priority 901");
    let status = host.run("runns-exec status");
    assert!(status.status == 1, "{status}");
    host.ok("runns-exec build -s work && runns-exec status && runns-exec clean work -f -k");
}

/// Sends a UDP packet by a TUN device: SOURCE DESTINATION.
const INJECT: &str = r#"
import fcntl, os, socket, struct, sys, time
tun = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH', b'tun9', 0x1001))
def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
source, destination = map(socket.inet_aton, sys.argv[1:3])
header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 32, 1, 0, 64, 17, 0, source, destination)
header = header[:10] + struct.pack('!H', checksum(header)) + header[12:]
for _ in range(5):
    os.write(tun, header + struct.pack('!HHHH', 4999, 80, 12, 0) + b'evil')
    time.sleep(0.02)
"#;

/// Who serves a tunnel chooses the addresses of what it sends.
fn the_servers_end_reaches_nothing_beside_the_tunnel(host: &Host) {
    host.write("/tmp/inject.py", INJECT);
    host.ok("ip -n work tuntap add dev tun9 mode tun && ip -n work address add 10.66.0.2/24 dev tun9 && \
             ip -n work link set tun9 up && ip netns exec work sysctl -qw net.ipv4.conf.all.rp_filter=0");
    let seen =
        host.spawn("echo $$; exec tcpdump -Z root -lni any udp port 4999 or host 203.0.113.9");
    wait_until("tcpdump listens", || {
        seen.stderr().contains("listening").then_some(())
    });
    for (source, destination) in [
        ("203.0.113.9", "10.66.0.2"),
        ("192.0.2.2", "10.66.0.2"),
        ("203.0.113.9", "172.24.0.2"),
        ("172.24.0.77", "203.0.113.9"),
        ("172.24.0.77", "192.0.2.2"),
        ("10.66.0.9", "203.0.113.9"),
    ] {
        host.ok(&format!(
            "ip netns exec work python3 /tmp/inject.py {source} {destination}"
        ));
    }
    // That the watch works.
    host.ok("ip netns exec work ping -c1 -W1 203.0.113.9");
    wait_until("the last packet", || {
        seen.stdout().contains("ICMP").then_some(())
    });
    let seen = seen.stdout();
    assert!(!seen.contains("UDP"), "{seen}");
    host.ok("ip -n work link delete tun9");
}

/// What comes by a tunnel is not answered by the veth, whatever route leads there; the table inside
/// sees to it alone.
#[test]
fn the_guard_inside_knows_which_way_a_flow_came() {
    let host = host();
    bring_programs(&host);
    host.write("/tmp/inject.py", INJECT);
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start_with(&host, 1194, 8, "keepalive 1 3\n");
    openvpn::configure_client(&host, "work", 1194);
    for way in ["Publish=8080:80", "Bypass=203.0.113.8/29"] {
        host.configure(&format!(
            "[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n{way}\n"
        ));
        host.ok("runns-exec build -s work");
        host.ok("ip -n work tuntap add dev tun9 mode tun && ip -n work address add 10.66.0.2/24 dev tun9 && \
                 ip -n work link set tun9 up && ip netns exec work sysctl -qw net.ipv4.conf.all.rp_filter=0 && \
                 ip -n work route add 10.66.0.9 via 172.24.0.1 && nft delete table inet runns");
        // A server that answers from the address that was asked.
        let server =
            host.spawn("exec ip netns exec work socat UDP4-RECVFROM:80,bind=10.66.0.2,fork PIPE");
        wait_until("the server", || {
            host.ok("ip netns exec work ss -Huln")
                .contains("10.66.0.2:80")
                .then_some(())
        });
        let seen = host.spawn("exec tcpdump -Z root -lni work udp port 4999 or udp port 4998");
        wait_until("tcpdump listens", || {
            seen.stderr().contains("listening").then_some(())
        });
        let inject = || host.ok("ip netns exec work python3 /tmp/inject.py 10.66.0.9 10.66.0.2");
        inject();
        host.ok("ip netns exec work nft delete table inet runns");
        // Without the guard, the answers are seen.
        let inject_other =
            "sed s/4999/4998/ /tmp/inject.py | ip netns exec work python3 - 10.66.0.9 10.66.0.2";
        host.ok(inject_other);
        wait_until("answers without the guard", || {
            seen.stdout().contains(".4998: ").then_some(())
        });
        assert!(!seen.stdout().contains("4999"), "{way}: {}", seen.stdout());
        drop(server);
        host.ok("runns-exec clean work -fk");
    }
}

#[test]
fn with_a_tunnel_the_host_is_not_reached_unless_the_section_says_so() {
    let host = host();
    bring_programs(&host);
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start_with(&host, 1194, 8, "keepalive 1 3\n");
    openvpn::configure_client(&host, "work", 1194);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work");
    let _outside = serve(&host, "", 7001);
    for address in ["172.24.0.1", "192.0.2.2"] {
        for protocol in ["tcp", "udp"] {
            let said = from_host(&host, "ip netns exec work", address, 7001, protocol);
            assert!(said.starts_with("failed"), "{address} {protocol}: {said}");
        }
    }
    host.ok("runns-exec status && runns-exec clean work -f -k");
}

#[test]
fn loopback_servers_beside_openvpn() {
    loopback_servers("");
}

#[test]
fn loopback_servers_under_the_kill_switch() {
    loopback_servers("KillSwitch=yes\n");
}

/// Both directions, while the tunnel takes all traffic, and while it is down.
fn loopback_servers(option: &str) {
    let host = host();
    bring_programs(&host);
    openvpn::make_certificates(&host);
    let push = "push \"redirect-gateway def1\"\nkeepalive 1 3\n";
    let server = OpenVpnServer::start_with(&host, 1194, 8, push);
    openvpn::configure_client(&host, "work", 1194);
    host.configure(&format!(
        "[work]\n{option}vpn=/etc/openvpn/work.conf\nPublish=8080:80\nPublish=8080:80/udp\nPublish=81\nPublish=81/udp\n\
         HostAccess=localhost:7001,localhost:7001/udp,localhost:7002\n"
    ));
    host.ok("runns-exec build -s work && runns-exec status");
    let inside = "ip netns exec work";
    let _servers = [
        serve_at(&host, inside, 80, "127.0.0.1"),
        serve_at(&host, "", 7001, "127.0.0.1"),
        serve_at(&host, "", 7002, "::1"),
        serve_at(&host, "", 7003, "127.0.0.1"),
    ];
    let watch = Watch::start(&host);
    let all = || {
        for protocol in ["tcp", "udp"] {
            let lan = from_lan(&host, "192.0.2.2", 8080, protocol);
            assert_eq!(lan, "peer 192.0.2.1", "{protocol}");
            let own = from_host(&host, "", "127.0.0.1", 8080, protocol);
            assert_eq!(own, "peer 172.24.0.1", "{protocol}");
            let of_host = |address: &str, port| from_host(&host, inside, address, port, protocol);
            assert_eq!(
                of_host("172.24.0.1", 7001),
                "peer 127.114.0.0",
                "{protocol}"
            );
            for (address, port) in [("192.0.2.2", 7001), ("172.24.0.1", 7003)] {
                assert!(
                    of_host(address, port).starts_with("failed"),
                    "{address} {port}"
                );
            }
        }
        let v6 = from_host(&host, inside, "fd72:756e:6e73::1", 7002, "tcp");
        assert_eq!(v6, "peer fd72:756e:6e73::2");
    };
    all();
    // A program that begins something from the port of such a server stays in the tunnel.
    for kind in ["1", "2"] {
        host.run(&format!(
            "ip netns exec work python3 -c 'import socket; s = socket.socket(2, {kind}); s.settimeout(1); \
             s.bind((\"127.0.0.1\", 81)); s.connect((\"{FAR}\", 443)); s.send(b\"x\")'"
        ));
    }
    server.stop(&host, 1194);
    wait_until("it is down", || {
        (tunnel_field(&host, "root", "work", "up") == "False").then_some(())
    });
    all();
    let seen = watch.finish();
    assert!(
        !seen.iter().any(|line| line.contains(FAR)),
        "beside the tunnel: {seen:#?}"
    );
    host.ok("runns-exec clean work -fk");
}
