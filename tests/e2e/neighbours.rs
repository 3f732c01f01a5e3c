//! Published ports, servers of the host, networks beside the tunnel; the subnet and its MTU. Each
//! is tried with sockets, and what tcpdump sees.

use crate::support::{Background, Host, Snapshot, wait_until};

/// A server in Python: answers each client by TCP and UDP with the address that it sees. It listens
/// on all addresses, or on those that are given: PORT [ADDRESS]... Ready when it says so.
const SERVER: &str = r#"
import socket, sys, threading
def serve(address, kind):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, int(sys.argv[1])))
    if kind == socket.SOCK_DGRAM:
        def loop():
            while True:
                _, peer = s.recvfrom(100)
                try:
                    s.sendto(('peer ' + peer[0]).encode(), peer)
                except OSError as error:
                    print(peer, error, flush=True)
    else:
        s.listen()
        def loop():
            while True:
                c, peer = s.accept()
                c.sendall(('peer ' + peer[0]).encode())
                c.close()
    threading.Thread(target=loop).start()
for address in sys.argv[2:] or ('0.0.0.0', '::'):
    serve(address, socket.SOCK_STREAM)
    serve(address, socket.SOCK_DGRAM)
print('ready', flush=True)
"#;

/// A client: prints the answer, or how it failed.
const CLIENT: &str = r#"
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM if sys.argv[3] == 'udp' else socket.SOCK_STREAM)
s.settimeout(2)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.send(b'x')
    print(s.recv(100).decode())
except OSError as error:
    print('failed:', error)
"#;

/// Puts server and client on a host.
pub fn bring_programs(host: &Host) {
    host.write("/tmp/server.py", SERVER);
    host.write("/tmp/client.py", CLIENT);
}

pub fn host(config: &str) -> Host {
    let host = Host::new();
    host.configure(config);
    bring_programs(&host);
    host
}

pub fn serve(host: &Host, place: &str, port: u16) -> Background {
    serve_at(host, place, port, "")
}

/// On these addresses alone.
pub fn serve_at(host: &Host, place: &str, port: u16, addresses: &str) -> Background {
    host.ok(&format!("rm -f /tmp/ready{port}"));
    let server = host.root().spawn(&format!(
        "{place} python3 -u /tmp/server.py {port} {addresses} >/tmp/ready{port} & wait"
    ));
    host.ok(&format!(
        "until grep -q ready /tmp/ready{port} 2>/dev/null; do sleep 0.02; done"
    ));
    server
}

pub fn from_lan(host: &Host, address: &str, port: u16, protocol: &str) -> String {
    let output = std::process::Command::new("nsenter")
        .arg(format!("--net={}", host.internet.net.path()))
        .args([
            "python3",
            "-c",
            CLIENT,
            address,
            &port.to_string(),
            protocol,
        ])
        .output()
        .expect("start nsenter");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

pub fn from_host(host: &Host, place: &str, address: &str, port: u16, protocol: &str) -> String {
    host.ok(&format!(
        "{place} python3 /tmp/client.py {address} {port} {protocol}"
    ))
    .trim()
    .to_string()
}

#[test]
fn a_published_port_is_reached_from_the_lan_and_from_the_host_and_nothing_else_is() {
    let host = host("[work]\nPublish=8080:80\nPublish=8080:80/udp\nPublish=127.0.0.1:9000:80\n");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    let _server = serve(&host, "ip netns exec work", 80);
    for protocol in ["tcp", "udp"] {
        assert_eq!(
            from_lan(&host, "192.0.2.2", 8080, protocol),
            "peer 192.0.2.1",
            "the client's own address"
        );
        assert_eq!(
            from_host(&host, "", "192.0.2.2", 8080, protocol),
            "peer 192.0.2.2"
        );
        assert_eq!(
            from_host(&host, "", "127.0.0.1", 8080, protocol),
            "peer 172.24.0.1"
        );
    }
    assert_eq!(
        from_host(&host, "", "127.0.0.1", 9000, "tcp"),
        "peer 172.24.0.1"
    );
    assert!(
        from_lan(&host, "192.0.2.2", 9000, "tcp").starts_with("failed"),
        "published for loopback alone"
    );
    assert!(from_lan(&host, "192.0.2.2", 80, "tcp").starts_with("failed"));
    host.internet
        .net
        .ip("route add 172.24.0.0/16 via 192.0.2.2");
    assert!(
        from_lan(&host, "172.24.0.2", 80, "tcp").starts_with("failed"),
        "not by the address inside"
    );
    // What is published for loopback is for nobody who sends there from outside.
    host.root()
        .inside(&host.internet.net)
        .ok("sysctl -qw net.ipv4.conf.all.route_localnet=1 && ip route del local 127.0.0.0/8 table local; \
         ip route del local 127.0.0.1 table local; ip route add 127.0.0.0/8 via 192.0.2.2");
    let seen = host.spawn("exec tcpdump -Z root -lni work 'tcp[tcpflags] == tcp-syn'");
    wait_until("tcpdump listens", || {
        seen.stderr().contains("listening").then_some(())
    });
    for port in [9000, 8080] {
        assert!(
            from_lan(&host, "127.0.0.1", port, "tcp").starts_with("failed"),
            "{port}"
        );
    }
    assert_eq!(from_lan(&host, "192.0.2.2", 8080, "tcp"), "peer 192.0.2.1");
    wait_until("its packet", || {
        seen.stdout().contains("172.24.0.2.80").then_some(())
    });
    assert_eq!(seen.stdout().lines().count(), 1, "{}", seen.stdout());
    // Another namespace is no neighbour.
    host.ok("runns-exec build -n other");
    for address in ["192.0.2.2", "172.24.0.1", "172.24.1.1"] {
        assert!(
            from_host(&host, "ip netns exec other", address, 8080, "tcp").starts_with("failed"),
            "{address}"
        );
    }
    assert!(
        host.ok("runns-exec status")
            .contains("port 8080:80/tcp published")
    );
    assert!(
        host.run("runns-exec status --json work")
            .stdout
            .contains("\"open\":\"port 8080:80/tcp")
    );
    host.ok("runns-exec clean work -k && runns-exec clean other -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_port_that_is_taken_is_refused_by_whoever_has_it() {
    let host = host("[one]\nPublish=8080\n[two]\nPublish=0.0.0.0:8080:1\n[bad]\nPublish=70000\n");
    let said = host.run("runns-exec build -s one");
    said.refused(1, &["[bad]", "Publish", "70000"]);
    host.configure("[one]\nPublish=8080\n[two]\nPublish=0.0.0.0:8080:1\n[three]\nPublish=9090\n");
    host.ok("runns-exec build -s one");
    host.run("runns-exec build -s two")
        .refused(1, &["8080/tcp", "namespace one"]);
    let _server = serve(&host, "", 9090);
    host.run("runns-exec build -s three")
        .refused(1, &["9090/tcp", "python3"]);
    host.run("runns-exec build -n four --publish 127.0.0.1:9090:1")
        .refused(1, &["9090/tcp", "python3"]);
    host.ok("runns-exec build -n four --publish 9091 && runns-exec clean four && runns-exec clean one -f");
}

#[test]
fn publishing_an_address_that_the_host_does_not_have_is_a_warning() {
    let own = "Publish=192.0.2.2:81\nPublish=127.0.0.1:82\nPublish=[::1]:83\n";
    let host = host(&format!(
        "[work]\n{own}Publish=203.0.113.9:80\nPublish=[2001:db8::9]:80/udp\n"
    ));
    let built = host.run("runns-exec build -s work");
    assert_eq!(built.status, 0, "{built}");
    let warnings: Vec<&str> = built.stderr.lines().collect();
    assert!(
        warnings.len() == 2
            && warnings
                .iter()
                .all(|line| line.contains("warning: this host has no")),
        "{built}"
    );
    assert!(
        warnings[0].contains("203.0.113.9:80") && warnings[1].contains("[2001:db8::9]:80"),
        "{built}"
    );
    host.ok("runns-exec status work && ip address add 203.0.113.9/32 dev lo");
    let _server = serve(&host, "ip netns exec work", 80);
    assert_eq!(
        from_host(&host, "", "203.0.113.9", 80, "tcp"),
        "peer 203.0.113.9",
        "as soon as it has it"
    );
}

#[test]
fn servers_of_the_host_are_reached_as_the_section_says() {
    let host = host("[open]\n[shut]\nHostAccess=no\n[some]\nHostAccess=7001/tcp\n");
    host.ok("for name in open shut some; do runns-exec build -s $name || exit 1; done");
    let _one = serve(&host, "", 7001);
    let _two = serve(&host, "", 7002);
    host.ok(
        "ip link add br0 type bridge && ip address add 10.9.9.1/24 dev br0 && ip link set br0 up",
    );
    for address in ["192.0.2.2", "10.9.9.1", "172.24.0.1"] {
        for (name, port, protocol, reached) in [
            ("open", 7001, "tcp", true),
            ("open", 7002, "udp", true),
            ("shut", 7001, "tcp", false),
            ("shut", 7001, "udp", false),
            ("some", 7001, "tcp", true),
            ("some", 7001, "udp", false),
            ("some", 7002, "tcp", false),
        ] {
            // A server that listens on all addresses answers by UDP from the one that faces the
            // client.
            if reached && protocol == "udp" && address != "172.24.0.1" {
                continue;
            }
            let said = from_host(
                &host,
                &format!("ip netns exec {name}"),
                address,
                port,
                protocol,
            );
            assert_eq!(
                said.starts_with("peer"),
                reached,
                "{name} {address} {port}/{protocol}: {said}"
            );
        }
    }
    // The world is still reached, and flushed rules are noticed and made again.
    let _web = host.internet.net.serve("192.0.2.1:80", "seen");
    assert!(
        host.user("alice")
            .ok("runns-exec shut -- curl -s http://192.0.2.1/")
            .contains("seen")
    );
    host.ok("nft delete table inet runns");
    let status = host.run("runns-exec status shut");
    assert!(
        status.status == 1 && status.stdout.contains("inet runns"),
        "{status}"
    );
    host.ok("runns-exec build -s shut && runns-exec status");
    assert!(from_host(&host, "ip netns exec shut", "192.0.2.2", 7001, "tcp").starts_with("failed"));
    host.ok("for name in open shut some; do runns-exec clean $name -f || exit 1; done");
}

#[test]
fn the_subnet_and_its_mtu_are_those_of_the_section() {
    let host = host("[work]\nSubnet=10.77.0.4/30\nMTU=1300\n[same]\nSubnet=10.77.0.0/24\n");
    host.ok("runns-exec build -s work");
    let shown = host.ok("ip -br address show dev work; ip -n work -br address show dev eth0; ip link show dev work; ip -n work link show dev eth0");
    assert!(
        shown.contains("10.77.0.5/30") && shown.contains("10.77.0.6/30"),
        "{shown}"
    );
    assert_eq!(shown.matches("mtu 1300").count(), 2, "{shown}");
    assert!(host.ok("runns-exec status").contains("10.77.0.6/30"));
    host.run("runns-exec build -s same")
        .refused(1, &["10.77.0.0/24"]);
    host.ok("ip link set work mtu 1500");
    let status = host.run("runns-exec status");
    assert!(
        status.status == 1 && status.stdout.contains("MTU"),
        "{status}"
    );
    host.ok("runns-exec build -s work && runns-exec status && runns-exec clean work -f");
}

#[test]
fn the_host_has_a_name_inside_where_it_is_reached() {
    let host = host("[open]\n[shut]\nHostAccess=no\n[some]\nHostAccess=7001\nDNS=192.0.2.53\n");
    host.ok("for name in open shut some; do runns-exec build -s $name || exit 1; done");
    let _server = serve(&host, "", 7001);
    let alice = host.user("alice");
    let hosts = |name: &str, of: &str| {
        alice
            .run(&format!(
                "runns-exec {name} -- getent ahostsv4 {of} | head -1"
            ))
            .stdout
    };
    for (name, address) in [("open", "172.24.0.1"), ("some", "172.24.2.1")] {
        assert!(hosts(name, "host.runns").starts_with(address), "{name}");
        let said = alice.ok(&format!(
            "runns-exec {name} -- python3 /tmp/client.py host.runns 7001 tcp"
        ));
        assert!(said.starts_with("peer 172.24."), "{said}");
    }
    assert_eq!(hosts("shut", "host.runns"), "");
    let mounted = || alice.ok("runns-exec open -- grep ' /etc/hosts ' /proc/self/mountinfo");
    assert!(
        mounted().contains("/.hosts-open"),
        "that of build is used: {}",
        mounted()
    );
    // It follows the host's file, whatever stands in it, or replaces it.
    host.ok("printf '203.0.113.5 printer' >>/etc/hosts");
    assert!(hosts("open", "printer").starts_with("203.0.113.5"));
    host.ok("printf '203.0.113.6 printer\\n' >/etc/hosts.new && mv /etc/hosts.new /etc/hosts");
    assert!(
        hosts("open", "printer").starts_with("203.0.113.6")
            && hosts("some", "host.runns").starts_with("172.24.2.1")
    );
    assert!(
        mounted().contains(" ro,") && !mounted().contains("/.hosts-open"),
        "made anew: {}",
        mounted()
    );
    host.ok("runns-exec build -s open");
    assert!(
        mounted().contains("/.hosts-open") && hosts("open", "printer").starts_with("203.0.113.6")
    );
    assert!(
        alice
            .ok("cat /etc/hosts")
            .lines()
            .all(|line| !line.contains("host.runns")),
        "outside all is as before"
    );
    host.ok("yes '# more than a megabyte' | head -n 100000 >>/etc/hosts");
    assert!(hosts("open", "host.runns").starts_with("172.24.0.1"));
    // Nobody inside can change it.
    for attempt in [
        "echo x >>/etc/hosts",
        "chmod 666 /etc/hosts",
        "rm -f /etc/hosts",
        "mount -o remount,rw /etc/hosts",
    ] {
        assert_ne!(
            alice
                .run(&format!("runns-exec open -- sh -c '{attempt}'"))
                .status,
            0,
            "{attempt}"
        );
    }
    let unshared = "unshare -rm sh -c 'mount -o remount,bind,rw /etc/hosts && echo x >>/etc/hosts'";
    assert_ne!(
        alice.run(&format!("runns-exec open -- {unshared}")).status,
        0
    );
    // One namespace in another: that of the inner one counts. Root sees the same.
    assert!(
        alice
            .ok("runns-exec open -- runns-exec some -- getent hosts host.runns")
            .starts_with("172.24.2.1")
    );
    assert_eq!(
        alice
            .run("runns-exec open -- runns-exec shut -- getent hosts host.runns")
            .stdout,
        ""
    );
    assert!(
        host.ok("runns-exec open -- getent hosts host.runns")
            .starts_with("172.24.0.1")
    );
    // A file of the administrator's is left alone, and a host without one is no obstacle.
    host.ok("mkdir -p /etc/netns/open && echo '203.0.113.9 own' >/etc/netns/open/hosts");
    assert_eq!(hosts("open", "host.runns"), "");
    assert!(hosts("open", "own").starts_with("203.0.113.9"));
    host.ok("rm -r /etc/netns/open; rm /etc/hosts");
    alice.ok("runns-exec open -- true");
    host.ok("for name in open shut some; do runns-exec clean $name -fk || exit 1; done");
}

#[test]
fn nothing_but_the_absence_of_a_hosts_file_lets_a_command_go_without_the_hosts_name() {
    let host = host("[open]\n");
    host.ok("runns-exec build -s open");
    // With the copy that build left, and with one that is made on entry.
    let calls = [
        "newfstatat:when=1",
        "openat:when=1",
        "read:when=1",
        "read:when=2",
    ];
    for (change, calls) in [
        ("true", &calls[..1]),
        ("echo '203.0.113.5 printer' >>/etc/hosts", &calls),
    ] {
        host.ok(change);
        for (call, errno) in calls
            .iter()
            .flat_map(|call| ["EMFILE", "EACCES", "EIO"].map(|errno| (call, errno)))
        {
            // Of the calls that are about this file.
            let call = call.replace(':', &format!(":error={errno}:"));
            host.run(&format!(
                "strace -u alice -o /tmp/trace -P /etc/hosts -e inject={call} runns-exec open -- echo ran"
            ))
            .refused(125, &["/etc/hosts"]);
            host.ok("grep -q INJECTED /tmp/trace");
        }
        host.user("alice")
            .ok("runns-exec open -- grep -q ' /etc/hosts ' /proc/self/mountinfo");
    }
    host.ok("rm /etc/hosts");
    assert_eq!(
        host.user("alice")
            .run("runns-exec open -- grep -c ' /etc/hosts ' /proc/self/mountinfo")
            .stdout,
        "0\n"
    );
}

/// Sends and receives a megabyte by TCP: `client.py` with more than one segment.
const BULK: &str = r#"
import socket, sys
data = bytes(1 << 20)
if sys.argv[1] == 'serve':
    s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('::', int(sys.argv[2])))
    s.listen()
    print('ready', flush=True)
    while True:
        c, _ = s.accept()
        got = 0
        while got < len(data):
            got += len(c.recv(1 << 16)) or sys.exit('closed')
        c.sendall(data)
        c.close()
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
s.sendall(data)
got = 0
while chunk := s.recv(1 << 16):
    got += len(chunk)
print('all' if got == len(data) else got)
"#;

#[test]
fn nothing_hangs_where_the_way_is_narrow() {
    let host = host("[work]\nIPv6=yes\nPublish=8080:80\n");
    host.internet
        .net
        .ip("-6 address add 2001:db8::1/64 dev eth0 nodad");
    host.ok("ip -6 address add 2001:db8::2/64 dev eth0 nodad");
    host.write("/tmp/bulk.py", BULK);
    let outside = host.root().inside(&host.internet.net);
    let _far = outside.spawn("exec python3 -u /tmp/bulk.py serve 5000 >/tmp/ready5000");
    host.ok("runns-exec build -s work");
    let _inside =
        host.spawn("exec ip netns exec work python3 -u /tmp/bulk.py serve 80 >/tmp/ready80");
    host.ok("until cat /tmp/ready5000 /tmp/ready80 2>/dev/null | grep -c ready | grep -q 2; do sleep 0.02; done");
    // As with PPPoE, or a tunnel of the host's: neither end knows of it. And nobody is told.
    host.ok("ip link set eth0 mtu 1300");
    for program in ["iptables", "ip6tables"] {
        let of = if program == "iptables" {
            "icmp --icmp-type fragmentation-needed"
        } else {
            "icmpv6 --icmpv6-type packet-too-big"
        };
        host.ok(&format!("{program} -A OUTPUT -p {of} -j DROP"));
    }
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(
            host.ok(&format!(
                "ip netns exec work python3 /tmp/bulk.py {address} 5000"
            )),
            "all",
            "{address}"
        );
    }
    for address in ["192.0.2.2", "2001:db8::2"] {
        assert_eq!(
            outside.ok(&format!("python3 /tmp/bulk.py {address} 8080")),
            "all",
            "{address}"
        );
    }
    // Without the rules, it does hang.
    host.ok("{ echo delete table inet runns; nft -s list table inet runns | grep -v maxseg; } | nft -f -");
    assert_ne!(
        host.run("timeout 3 ip netns exec work python3 /tmp/bulk.py 192.0.2.1 5000")
            .status,
        0
    );
    host.ok("runns-exec clean work -fk");
}

/// Prints the ports of an address by which something answers, of all that there are.
const SCAN: &str = r#"
import errno, select, socket, sys, time
address, protocol = sys.argv[1:3]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
found = set()
if protocol == 'udp':
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        for port in range(1, 65536):
            try:
                s.sendto(b'x', (address, port))
            except OSError:
                time.sleep(0.001)
            if port % 64 == 0 or port == 65535:
                while select.select([s], [], [], 0.5 if port == 65535 else 0)[0]:
                    try:
                        found.add(s.recvfrom(100)[1][1])
                    except OSError:
                        pass
else:
    pending = select.epoll()
    sockets = {}
    def collect(timeout):
        for number, _ in pending.poll(timeout):
            s, port = sockets.pop(number)
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.add(port)
            s.close()
    for port in range(1, 65536):
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setblocking(False)
        s.connect_ex((address, port))
        sockets[s.fileno()] = s, port
        pending.register(s, select.EPOLLOUT)
        while len(sockets) > 400:
            collect(0.1)
    for _ in range(20):
        collect(0.1)
print(sorted(found))
"#;

#[test]
fn of_all_ports_those_that_are_published_are_reached() {
    let host =
        host("[work]\nPublish=8080:80\nPublish=[2001:db8::2]:8081:80\nPublish=5353:80/udp\n");
    host.internet
        .net
        .ip("-6 address add 2001:db8::1/64 dev eth0 nodad");
    host.ok("ip -6 address add 2001:db8::2/64 dev eth0 nodad && runns-exec build -s work");
    let _servers = (
        serve(&host, "ip netns exec work", 80),
        serve(&host, "ip netns exec work", 8080),
    );
    host.write("/tmp/scan.py", SCAN);
    // Whoever knows the addresses inside has no use of it.
    host.internet
        .net
        .ip("route add 172.24.0.0/16 via 192.0.2.2");
    host.internet
        .net
        .ip("-6 route add fd72:756e:6e73::/48 via 2001:db8::2");
    let lan = host.root().inside(&host.internet.net);
    for (address, tcp, udp) in [
        ("192.0.2.2", "[8080]", "[5353]"),
        ("2001:db8::2", "[8080, 8081]", "[5353]"),
    ] {
        assert_eq!(
            lan.ok(&format!("python3 /tmp/scan.py {address} tcp")),
            tcp,
            "{address}"
        );
        assert_eq!(
            lan.ok(&format!("python3 /tmp/scan.py {address} udp")),
            udp,
            "{address}"
        );
    }
    for address in ["172.24.0.2", "fd72:756e:6e73::2"] {
        for port in [80, 8080] {
            assert!(
                from_lan(&host, address, port, "tcp").starts_with("failed"),
                "{address}"
            );
        }
    }
    host.ok("runns-exec clean work -fk");
}

/// Serves 256 MB to each client, or fetches it and prints how many seconds that took.
const DOWNLOAD: &str = r#"
import socket, sys, time
if sys.argv[1] == 'serve':
    s = socket.create_server(('0.0.0.0', int(sys.argv[2])))
    chunk = bytes(1 << 20)
    print('ready', flush=True)
    while True:
        c, _ = s.accept()
        for _ in range(256):
            c.sendall(chunk)
        c.close()
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
buffer = bytearray(1 << 20)
start = time.monotonic()
while s.recv_into(buffer):
    pass
print(time.monotonic() - start)
"#;

#[test]
fn a_published_port_is_as_fast_as_a_server_outside() {
    let host = host("[work]\nPublish=8080:80\n");
    host.write("/tmp/download.py", DOWNLOAD);
    host.ok("runns-exec build -s work");
    let _inside =
        host.spawn("exec ip netns exec work python3 -u /tmp/download.py serve 80 >/tmp/ready80");
    let _outside = host.spawn("exec python3 -u /tmp/download.py serve 8081 >/tmp/ready8081");
    host.ok("until cat /tmp/ready80 /tmp/ready8081 2>/dev/null | grep -c ready | grep -q 2; do sleep 0.02; done");
    // A fast link. Without a limit, it is the processor's time for one more hop that is measured.
    host.ok("tc qdisc add dev eth0 root tbf rate 2500mbit burst 1mb latency 20ms");
    let lan = host.root().inside(&host.internet.net);
    let time = |port: u16| {
        lan.ok(&format!("python3 /tmp/download.py 192.0.2.2 {port}"))
            .parse::<f64>()
            .expect("seconds")
    };
    let best = |port: u16| (0..3).map(|_| time(port)).fold(f64::INFINITY, f64::min);
    let (outside, published) = (best(8081), best(8080));
    println!(
        "throughput of a published port: {:.2} of a server outside",
        outside / published
    );
    assert!(
        outside / published >= 0.9,
        "{outside} s outside, {published} s by a published port"
    );
    host.ok("runns-exec clean work -fk");
}

#[test]
fn a_firewall_of_the_hosts_is_opened_for_the_servers_that_the_section_names() {
    let host = host("[some]\nHostAccess=7001\n[all]\nHostAccess=yes\n[default]\n");
    let _servers = (serve(&host, "", 7001), serve(&host, "", 7002));
    let block = "iptables -A INPUT -i lo -j ACCEPT && iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT && \
                 iptables -P INPUT DROP";
    host.ok(block);
    let before = Snapshot::of(&host);
    host.ok("for name in some all default; do runns-exec build -s $name || exit 1; done");
    let asked = |name: &str, port: u16| {
        let said = from_host(
            &host,
            &format!("ip netns exec {name}"),
            "192.0.2.2",
            port,
            "tcp",
        );
        said.starts_with("peer")
    };
    assert!(
        asked("some", 7001) && !asked("some", 7002) && asked("all", 7001) && asked("all", 7002)
    );
    assert!(!asked("default", 7001), "nobody has asked for it");
    assert!(from_lan(&host, "192.0.2.2", 7001, "tcp").starts_with("failed"));
    // A firewall that is loaded later is noticed.
    host.ok(&format!("iptables -F INPUT; {block}"));
    assert!(!asked("some", 7001));
    assert!(
        host.run("runns-exec status some")
            .stdout
            .contains("rules of iptables")
    );
    host.ok("runns-exec build -s some && runns-exec status");
    assert!(asked("some", 7001) && asked("all", 7002));
    host.ok("runns-exec clean all -k && runns-exec status");
    assert!(asked("some", 7001));
    host.ok("runns-exec clean some -k && runns-exec status");
    assert_eq!(
        host.run("iptables-save | grep runns | grep INPUT").stdout,
        ""
    );
    host.ok("runns-exec clean default -fk");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_changed_element_of_a_set_is_seen() {
    let host = host(
        "[shut]\nHostAccess=no\n[open]\nHostAccess=yes\n[work]\nPublish=8080:80\nPublish=8081:81\nHostAccess=7001\n",
    );
    host.ok("for name in shut open work; do runns-exec build -s $name || exit 1; done; runns-exec status");
    let _server = serve(&host, "", 7001);
    let change = |commands: &str| {
        host.ok(&format!("nft '{commands}'"));
        let status = host.run("runns-exec status");
        assert!(
            status.status == 1 && status.stdout.contains("inet runns"),
            "{commands}: {status}"
        );
        host.ok("runns-exec build -s work && runns-exec status");
    };
    // The same words in other places.
    change(r#"delete element inet runns open { "open" }; add element inet runns open { "shut" }"#);
    assert!(from_host(&host, "ip netns exec shut", "192.0.2.2", 7001, "tcp").starts_with("failed"));
    change(
        "delete element inet runns any_tcp { 8080, 8081 }; \
         add element inet runns any_tcp { 8080 : 172.24.2.2 . 81, 8081 : 172.24.2.2 . 80 }",
    );
    change(r#"add element inet runns host_ports { "work" . tcp . 7002 }"#);
    change(r#"add element inet runns opened { "work" }"#);
    host.ok("for name in shut open work; do runns-exec clean $name -kf || exit 1; done");
}

#[test]
fn what_cannot_be_read_in_a_record_is_said_and_removed() {
    let host = host("[work]\nHostAccess=7001\nPublish=8080:80\nPostBuild=/bin/true\n");
    let before = Snapshot::of(&host);
    // As by another version of the program, which knows other words.
    for (known, other, field) in [
        ("7001/tcp", "future", "host_access"),
        ("8080:80/tcp", "future", "publish"),
        ("/bin/true", "future", "post_build"),
    ] {
        host.ok("runns-exec build -s work && runns-exec status");
        host.ok(&format!("sed -i 's|{known}|{other}|' /run/runns/work.json && grep -q {other} /run/runns/work.json"));
        let status = host.run("runns-exec status");
        assert!(
            status.status == 1
                && status
                    .stdout
                    .contains(&format!("work.json: field {field}: expected")),
            "{status}"
        );
        assert_ne!(host.run("runns-exec build -s work").status, 0);
        host.ok("runns-exec clean work -fk");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn a_namespace_that_root_cannot_look_into_is_not_ok() {
    let host = host("[work]\nHostAccess=no\n");
    host.ok("runns-exec build -s work && runns-exec status && chmod 777 /run/netns");
    let status = host.run("runns-exec status");
    assert!(
        status.status == 1 && status.stdout.contains("/run/netns"),
        "{status}"
    );
    host.ok("chmod 755 /run/netns && runns-exec status && runns-exec clean work -f");
}
