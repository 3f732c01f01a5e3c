//! A tunnel without kill switch has a veth beside it: what it is for, and what it is not for.

use super::{FAR, Watch, host, ping, start_resolver, wait_for_ping};
use crate::neighbours::{bring_programs, from_host, serve};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, wait_until};

/// Asks for names by UDP and TCP, from sockets that are bound to a device if its name is given:
/// SERVER [DEVICE]
const ASK: &str = r#"
import socket, struct, sys
query = b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05probe\x07example\x00\x00\x01\x00\x01'
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, kind) as s:
        s.settimeout(0.3)
        try:
            if len(sys.argv) > 2:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[2].encode())
            s.connect((sys.argv[1], 53))
            s.sendall(query if kind == socket.SOCK_DGRAM else struct.pack('!H', len(query)) + query)
            print('answered' if s.recv(512) else 'closed')
        except OSError as error:
            print(error)
"#;

fn host_with_tunnel(push: &str, options: &str) -> (Host, OpenVpnServer) {
    let host = host();
    bring_programs(&host);
    host.write("/tmp/ask.py", ASK);
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, &format!("{push}keepalive 1 3\n"));
    openvpn::configure_client(&host, "work", 1194);
    host.configure(&format!("[work]\nvpn=/etc/openvpn/work.conf\n{options}"));
    host.ok("runns-exec build -s work && runns-exec status");
    (host, server)
}

fn ask(host: &Host, server: &str, device: &str) -> String {
    host.user("alice").ok(&format!(
        "runns-exec work -- python3 /tmp/ask.py {server} {device}"
    ))
}

const PUSH: &str = "push \"redirect-gateway def1\"\npush \"dhcp-option DNS 10.8.0.1\"\n";

#[test]
fn names_are_not_asked_beside_a_tunnel() {
    let (host, server) = host_with_tunnel(PUSH, "");
    let _resolver = start_resolver(&host, "10.8.0.1", "198.51.100.7");
    wait_until("the resolver", || {
        ask(&host, "10.8.0.1", "")
            .starts_with("answered")
            .then_some(())
    });
    let watch = Watch::start(&host);
    let all = |device: &str| {
        for address in ["10.8.0.1", FAR, "192.0.2.1", "127.0.0.53"] {
            let said = ask(&host, address, device);
            assert!(
                device.is_empty() || !said.contains("answered"),
                "{address}: {said}"
            );
        }
    };
    all("eth0");
    // Each guard alone does: the route for bound sockets, the table inside, the table on the host.
    const NO_ROUTE: &str = "while ip -n work rule del priority 899 2>/dev/null; do :; done";
    host.ok("nft delete table inet runns; ip netns exec work nft delete table inet runns");
    all("eth0");
    host.ok("runns-exec build -s work && runns-exec status");
    host.ok(&format!("{NO_ROUTE}; nft delete table inet runns"));
    assert_eq!(host.run("runns-exec status").status, 1);
    all("eth0");
    host.ok("runns-exec build -s work && runns-exec status");
    host.ok(&format!(
        "{NO_ROUTE}; ip netns exec work nft delete table inet runns"
    ));
    all("eth0");
    host.ok("runns-exec build -s work && runns-exec status");
    // While the tunnel is down, its resolver is not asked by anybody else.
    server.stop(&host, 1194);
    wait_until("it is down", || {
        (host
            .run("ip -n work route get 10.8.0.1")
            .stdout
            .contains("eth0"))
        .then_some(())
    });
    all("");
    assert!(ping(&host, "work", FAR), "anything else leaves");
    // With the table inside gone, queries are seen on the veth, and not behind it.
    let seen: Vec<String> = watch
        .finish()
        .into_iter()
        .filter(|line| line.contains("53: ") || line.contains(".53 "))
        .collect();
    assert!(seen.iter().all(|line| line.contains(" work ")), "{seen:#?}");
    assert!(!seen.is_empty(), "the watch works");
    host.ok("runns-exec clean work -fk");
}

#[test]
fn the_resolver_that_a_section_names_is_asked_beside_the_tunnel() {
    // The tunnel is for one network alone.
    let (host, _server) = host_with_tunnel(
        "push \"route 198.51.100.0 255.255.255.0\"\n",
        "DNS=192.0.2.1\n",
    );
    let _resolver = start_resolver(&host, "192.0.2.1", "198.51.100.7");
    wait_until("an answer", || {
        (ask(&host, FAR, "") == "answered\nanswered").then_some(())
    });
    // Nor where the host answers for whatever is taken to be on the veth's link.
    host.ok("sysctl -qw net.ipv4.conf.work.proxy_arp=1");
    for address in ["192.0.2.1", FAR] {
        let said = ask(&host, address, "eth0");
        assert!(!said.contains("answered"), "{address}: {said}");
    }
    host.ok("runns-exec clean work -fk");
    // Whoever switches the lock off may ask whom he likes.
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\nDNS=192.0.2.53\nDNSLock=no\n");
    host.ok("runns-exec build -s work");
    assert_eq!(ask(&host, "192.0.2.1", "eth0"), "answered\nanswered");
    host.ok("runns-exec clean work -fk");
}

#[test]
fn check_shows_that_a_program_can_choose_the_veth() {
    let (host, _server) = host_with_tunnel(PUSH, "");
    let _resolver = start_resolver(&host, "10.8.0.1", "198.51.100.7");
    let alice = host.user("alice");
    wait_until("no leak", || {
        (alice.run("runns-exec check work").status == 0).then_some(())
    });
    let said = alice.ok("runns-exec check work");
    let has = |word: &str, what: &str| {
        said.lines()
            .any(|line| line.starts_with(word) && line.contains(what))
    };
    assert!(
        has("OPEN", "eth0: a program that binds a socket to it"),
        "{said}"
    );
    assert!(has("OK", "query by eth0: is rejected"), "{said}");
    // It is so.
    let watch = host.spawn(&format!("exec tcpdump -Z root -lni eth0 host {FAR}"));
    wait_until("tcpdump listens", || {
        watch.stderr().contains("listening").then_some(())
    });
    alice.run(&format!("runns-exec work -- ping -c1 -W1 -I eth0 {FAR}"));
    wait_until("its packet", || {
        watch.stdout().contains("192.0.2.2 >").then_some(())
    });
    host.ok("ip netns exec work nft delete table inet runns");
    let said = alice.run("runns-exec check work");
    assert!(
        said.status == 1
            && said
                .stdout
                .contains("query by eth0: leaves outside the tunnel"),
        "{said}"
    );
    host.ok("runns-exec build -s work && runns-exec clean work -fk");
    // Under the kill switch, it cannot.
    host.configure("[work]\nKillSwitch=yes\nPublish=8080:80\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work");
    wait_until("no leak", || {
        (alice.run("runns-exec check work").status == 0).then_some(())
    });
    assert!(!alice.ok("runns-exec check work").contains("binds a socket"));
    host.ok("runns-exec clean work -fk");
}

#[test]
fn an_address_that_the_host_no_longer_has_is_not_sent_to_beside_the_tunnel() {
    let push = "server-ipv6 fd08::/64\npush \"redirect-gateway def1 ipv6\"\n";
    for option in ["", "KillSwitch=yes\n"] {
        let (host, _server) = host_with_tunnel(push, &format!("{option}HostAccess=7001,7005\n"));
        host.ok("ip link add br0 type bridge && ip address add 203.0.113.50/32 dev br0 && ip link set br0 up && \
                 ip -6 address add 2001:db8:50::1/128 dev br0 nodad && runns-exec build -s work && runns-exec status");
        let _server = serve(&host, "", 7001);
        let reached = |address: &str, port| {
            from_host(&host, "ip netns exec work", address, port, "tcp").starts_with("peer")
        };
        for address in ["203.0.113.50", "2001:db8:50::1"] {
            assert!(reached(address, 7001), "{address}");
        }
        // A port of the host's that leads to a container is one of its ports.
        host.ok("ip netns add box && ip link add box type veth peer name eth0 netns box && \
                 ip address add 10.50.0.1/24 dev box && ip link set box up && ip -n box link set eth0 up && \
                 ip -n box address add 10.50.0.2/24 dev eth0 && ip -n box route add default via 10.50.0.1 && \
                 iptables -t nat -A PREROUTING -p tcp --dport 7005 -m addrtype --dst-type LOCAL -j DNAT --to 10.50.0.2:80");
        let _box = serve(&host, "ip netns exec box", 80);
        if option.is_empty() {
            assert!(reached("203.0.113.50", 7005));
        }
        // Somebody else gets the addresses.
        host.ok(
            "ip address del 203.0.113.50/32 dev br0; ip -6 address del 2001:db8:50::1/128 dev br0",
        );
        host.internet.net.ip("address add 203.0.113.50/32 dev lo");
        host.internet
            .net
            .ip("-6 address add 2001:db8:50::1/128 dev lo nodad");
        let seen = host.spawn(
            "exec tcpdump -Z root -lni eth0 host 203.0.113.50 or host 2001:db8:50::1 or port 9999",
        );
        wait_until("tcpdump listens", || {
            seen.stderr().contains("listening").then_some(())
        });
        for address in ["203.0.113.50", "2001:db8:50::1"] {
            for port in [7001, 7002] {
                assert!(!reached(address, port), "{address} {port}");
            }
            host.run(&format!("ip netns exec work ping -c1 -W1 {address}"));
        }
        // The table on the host is not what stops it.
        host.ok("nft delete table inet runns");
        assert!(!reached("203.0.113.50", 7001));
        host.ok(&format!(
            "python3 -c 'import socket; socket.socket(2, 2).sendto(b\"last\", (\"{FAR}\", 9999))'"
        ));
        wait_until("the last packet", || {
            seen.stdout().contains("9999").then_some(())
        });
        assert!(
            !seen.stdout().contains("203.0.113.50") && !seen.stdout().contains("2001:db8:50"),
            "{}",
            seen.stdout()
        );
        // Until it is built again; then it is an address like any other.
        let status = host.run("runns-exec status");
        assert!(status.status == 1, "{status}");
        host.ok("runns-exec build -s work");
        assert!(
            host.ok("ip -n work route get 203.0.113.50")
                .contains("tun0")
        );
        assert!(
            host.ok("ip -n work -6 route get 2001:db8:50::1")
                .contains("tun0")
        );
        wait_for_ping(&host, "work", "203.0.113.50");
        host.ok("runns-exec clean work -fk");
    }
}
