//! Flows of published ports beside a tunnel: each stays on the way by which it began, whatever
//! strangers send to the port, and nobody closes the port for others.

use super::{FAR, FAR6, host};
use crate::neighbours::{bring_programs, serve};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Background, Host, wait_until};

/// A program with one socket, as file sharing has them: PORT PEER PEERS-PORT. It sends to the peer
/// all the time, prints what it receives, and answers whoever asks.
const TALKER: &str = r#"
import select, socket, sys, time
port, peer, peers_port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ':' in peer else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind(('', port))
while True:
    try:
        s.sendto(b'talk', (peer, peers_port))
    except OSError as error:
        print('failed', error, flush=True)
    end = time.monotonic() + 0.02
    while (left := end - time.monotonic()) > 0:
        if select.select([s], [], [], left)[0]:
            data, sender = s.recvfrom(100)
            print(data.decode(), sender[0], sender[1], flush=True)
            if data == b'ask':
                s.sendto(b'answer', sender)
"#;

/// The peer: ADDRESS PORT HOST HOSTS-PORT. It answers the talker, prints who has sent to it and, as
/// long as there is a file /tmp/go, sends to the host's port as well; as often as it did so, there
/// is a byte in /tmp/sent.
const PEER: &str = r#"
import os, select, socket, struct, sys
address, port, host, hosts_port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
is_v4 = ':' not in address
s = socket.socket(socket.AF_INET if is_v4 else socket.AF_INET6, socket.SOCK_DGRAM)
s.bind((address, port))
def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def too_big():
    # "Fragmentation needed" (RFC 1191), as if about a packet of the talker's.
    udp = struct.pack('!HHHH', hosts_port, port, 12, 0) + b'talk'
    ends = socket.inet_aton(host) + socket.inet_aton(address)
    inner = struct.pack('!BBHHHBBH', 0x45, 0, 32, 1, 0x4000, 64, 17, 0) + ends
    inner = inner[:10] + struct.pack('!H', checksum(inner)) + inner[12:]
    message = struct.pack('!BBHHH', 3, 4, 0, 0, 600) + inner + udp
    message = message[:2] + struct.pack('!H', checksum(message)) + message[4:]
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.bind((address, 0))
    raw.sendto(message, (host, 0))
print('ready', flush=True)
while True:
    if select.select([s], [], [], 0.02)[0]:
        data, sender = s.recvfrom(100)
        print(data.decode(), sender[0], sender[1], flush=True)
        if data == b'talk':
            s.sendto(b'reply', sender)
    if os.path.exists('/tmp/go'):
        s.sendto(b'stranger', (host, hosts_port))
        if is_v4:
            too_big()
        with open('/tmp/sent', 'a') as count:
            count.write('x')
"#;

const PUSH: &str = "server-ipv6 fd08::/64\npush \"redirect-gateway def1 ipv6\"\nkeepalive 1 3\n";

fn host_with_tunnel(options: &str) -> (Host, OpenVpnServer) {
    let host = host();
    bring_programs(&host);
    host.write("/tmp/talker.py", TALKER);
    host.write("/tmp/peer.py", PEER);
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, PUSH);
    openvpn::configure_client(&host, "work", 1194);
    host.configure(&format!("[work]\nvpn=/etc/openvpn/work.conf\n{options}"));
    host.ok("runns-exec build -s work");
    (host, server)
}

fn start_peer(host: &Host, address: &str, port: u16) -> Background {
    let to = if address.contains(':') {
        "2001:db8::2"
    } else {
        "192.0.2.2"
    };
    let outside = host.root().inside(&host.internet.net);
    let peer = outside.spawn(&format!(
        "exec python3 /tmp/peer.py {address} {port} {to} 6881"
    ));
    wait_until("the peer", || peer.stdout().contains("ready").then_some(()));
    peer
}

/// What is seen on the host's links of flows with the peer's port.
fn watch(host: &Host, port: u16) -> Background {
    let seen = host.spawn(&format!(
        "exec tcpdump -Z root -lni any --immediate-mode port {port}"
    ));
    wait_until("tcpdump listens", || {
        seen.stderr().contains("listening").then_some(())
    });
    seen
}

/// Has the peer send to the published port, until it has done so some times and heard more of the
/// talker (or not, if the tunnel is down).
fn molest(host: &Host, more: &dyn Fn() -> usize, is_down: bool) {
    host.ok("rm -f /tmp/sent; touch /tmp/go");
    let before = more();
    wait_until("strangers' packets", || {
        let sent: usize = host
            .run("wc -c </tmp/sent")
            .stdout
            .trim()
            .parse()
            .unwrap_or(0);
        (sent >= 30 && (is_down || more() >= before + 30)).then_some(())
    });
    host.ok("rm /tmp/go");
}

fn lines(text: &str, start: &str) -> usize {
    text.lines().filter(|line| line.starts_with(start)).count()
}

fn a_flow_of_the_tunnel_stays_there(option: &str) {
    let (host, server) = host_with_tunnel(&format!("{option}Publish=6881/udp\n"));
    for (address, tunnels, port) in [(FAR, "10.8.0.2", 7000), (FAR6, "fd08::1000", 7001)] {
        let peer = start_peer(&host, address, port);
        let seen = watch(&host, port);
        let talker = host.user("alice").spawn(&format!(
            "exec runns-exec work -- python3 /tmp/talker.py 6881 {address} {port}"
        ));
        wait_until("the first flow", || {
            (lines(&talker.stdout(), "reply") > 3).then_some(())
        });
        molest(&host, &|| lines(&peer.stdout(), "talk"), false);
        let heard = peer.stdout();
        assert!(
            heard
                .lines()
                .skip(1)
                .all(|line| line == format!("talk {tunnels} 6881")),
            "{address}: {heard}"
        );
        assert!(!talker.stdout().contains("stranger"), "{}", talker.stdout());
        wait_until("the strangers are seen", || {
            seen.stdout().contains(" > ").then_some(())
        });
        assert!(!seen.stdout().contains(".6881 > "), "{}", seen.stdout());
        let route = host.ok(&format!("ip -n work route get {address}"));
        assert!(route.contains("tun0") && !route.contains("mtu"), "{route}");
        // Somebody else is a client of the published port, answered as he asked, also if it is the
        // same machine.
        let from = if address == FAR {
            "192.0.2.2"
        } else {
            "2001:db8::2"
        };
        let ask = format!(
            "import socket; s = socket.socket(socket.AF_INET{}, socket.SOCK_DGRAM); s.settimeout(2); \
                           s.bind(('{address}', 7100)); s.connect(('{from}', 6881)); s.send(b'ask'); print(s.recv(9))",
            if address == FAR { "" } else { "6" }
        );
        for _ in 0..2 {
            let said = host
                .root()
                .inside(&host.internet.net)
                .ok(&format!("python3 -c \"{ask}\""));
            assert_eq!(said, "b'answer'");
        }
        assert_eq!(heard.lines().count(), lines(&heard, "talk") + 1);
        drop((talker, peer));
        host.run("pkill -f [t]alker.py; pkill -f [p]eer.py");
    }
    if !option.is_empty() {
        while_the_tunnel_is_down(&host, server);
    }
    host.ok("runns-exec clean work -fk");
}

/// What the program goes on sending is meant for the tunnel.
fn while_the_tunnel_is_down(host: &Host, server: OpenVpnServer) {
    let peer = start_peer(host, FAR, 7002);
    let seen = watch(host, 7002);
    server.stop(host, 1194);
    wait_until("it is down", || {
        (host.run("ip -n work link show tun0").status != 0).then_some(())
    });
    let talker = host.spawn(&format!(
        "exec ip netns exec work python3 /tmp/talker.py 6881 {FAR} 7002"
    ));
    wait_until("it tries", || {
        (lines(&talker.stdout(), "failed") > 3).then_some(())
    });
    molest(host, &|| 0, true);
    wait_until("the strangers are seen", || {
        (lines(&seen.stdout(), "") > 30).then_some(())
    });
    assert!(!seen.stdout().contains(".6881 > "), "{}", seen.stdout());
    assert_eq!(peer.stdout().trim(), "ready");
}

#[test]
fn a_flow_of_the_tunnel_stays_there_whatever_strangers_send() {
    a_flow_of_the_tunnel_stays_there("KillSwitch=yes\n");
}

#[test]
fn a_flow_of_the_tunnel_stays_there_without_kill_switch() {
    a_flow_of_the_tunnel_stays_there("");
}

/// A program with one socket that says something only when it is told to: PORT PEER PEERS-PORT.
/// It prints what it receives, and sends to the peer as often as /tmp/say is created.
const LISTENER: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', int(sys.argv[1])))
s.settimeout(0.05)
print('ready', flush=True)
while True:
    try:
        print(s.recv(100).decode(), flush=True)
    except TimeoutError:
        pass
    if os.path.exists('/tmp/say'):
        s.sendto(b'said', (sys.argv[2], int(sys.argv[3])))
        os.remove('/tmp/say')
"#;

/// The peer that speaks first, or not: ADDRESS PORT INSIDE HOST. It prints what it receives, sends
/// to the address inside as long as there is a file /tmp/talk, and to the published port as long as
/// there is /tmp/go; for each of the latter there is a byte in /tmp/sent.
const SPEAKER: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
s.settimeout(0.05)
print('ready', flush=True)
while True:
    try:
        data, sender = s.recvfrom(100)
        print(data.decode(), sender[0], flush=True)
    except TimeoutError:
        pass
    if os.path.exists('/tmp/talk'):
        s.sendto(b'data', (sys.argv[3], 6881))
    if os.path.exists('/tmp/go'):
        s.sendto(b'stranger', (sys.argv[4], 6881))
        with open('/tmp/sent', 'a') as count:
            count.write('x')
"#;

/// What is remembered of a flow does not run out under a stranger's packets: `set` has it.
fn a_silent_program_keeps_its_peer(host: &Host, port: u16, set: &str) {
    let lan = host.root().inside(&host.internet.net);
    let peer = lan.spawn(&format!(
        "exec python3 /tmp/speaker.py {FAR} {port} 10.8.0.2 192.0.2.2"
    ));
    let program = host.user("alice").spawn(&format!(
        "exec runns-exec work -- python3 /tmp/listener.py 6881 {FAR} {port}"
    ));
    for process in [&peer, &program] {
        wait_until("the programs", || {
            process.stdout().contains("ready").then_some(())
        });
    }
    let said = |times: usize| {
        host.ok("touch /tmp/say");
        wait_until("the program's word", || {
            (lines(&peer.stdout(), "said 10.8.0.2") >= times).then_some(())
        });
    };
    let seen = watch(host, port);
    if set == "heard" {
        host.ok("touch /tmp/talk");
        wait_until("the peer's word", || {
            program.stdout().contains("data").then_some(())
        });
    } else {
        said(1);
    }
    // Two seconds are left of it.
    let element = format!("{FAR} . {port} . 6881");
    host.ok(&format!(
        "ip netns exec work nft 'delete element inet runns {set} {{ {element} }}; \
            add element inet runns {set} {{ {element} timeout 30s expires 2s }}'"
    ));
    host.ok("rm -f /tmp/sent; touch /tmp/go");
    wait_until("four seconds of strangers' packets", || {
        (host
            .run("wc -c </tmp/sent")
            .stdout
            .trim()
            .parse::<usize>()
            .is_ok_and(|sent| sent >= 80))
        .then_some(())
    });
    host.ok("rm -f /tmp/talk");
    assert!(!program.stdout().contains("stranger"), "{set}");
    let before = lines(&peer.stdout(), "said 10.8.0.2");
    said(before + 1);
    wait_until("the strangers are seen", || {
        seen.stdout().contains(".6881: ").then_some(())
    });
    assert!(!seen.stdout().contains(".6881 > "), "{}", seen.stdout());
    host.ok("rm -f /tmp/go; pkill -f [l]istener.py; pkill -f [s]peaker.py");
}

#[test]
fn a_flow_of_the_tunnel_stays_there_while_the_program_is_silent() {
    let (host, _server) = host_with_tunnel("KillSwitch=yes\nPublish=6881/udp\n");
    host.write("/tmp/listener.py", LISTENER);
    host.write("/tmp/speaker.py", SPEAKER);
    // /tmp is sticky, and the program removes the file.
    host.ok("chmod 777 /tmp");
    a_silent_program_keeps_its_peer(&host, 7000, "heard");
    a_silent_program_keeps_its_peer(&host, 7001, "tunnelled");
    host.ok("runns-exec clean work -fk");
}

/// By TCP, each connection has its own address inside. OWN-PORT PEER PEERS-PORT HOST: outside, the
/// peer accepts a connection, then connects from the same port to the host's; inside, one program
/// does both on its port.
const TCP: &str = r#"
import socket, sys
def stream():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.settimeout(5)
    return s
place, own, peer, port, host = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
listener = stream()
listener.bind(('', own) if place == 'inside' else (peer, port))
listener.listen()
print('ready', flush=True)
if place == 'inside':
    first = stream()
    first.bind(('', own))
    first.connect((peer, port))
    first.sendall(b'one')
    second, _ = listener.accept()
    second.sendall(b'two')
    first.sendall(b'three')
    print(second.recv(9).decode(), first.recv(9).decode())
else:
    first, sender = listener.accept()
    assert first.recv(9) == b'one'
    second = stream()
    second.bind((peer, port))
    second.connect((host, own))
    print(sender[0], second.recv(9).decode(), first.recv(9).decode())
    second.sendall(b'four')
    first.sendall(b'five')
"#;

#[test]
fn a_connection_of_the_tunnel_stays_there() {
    let (host, _server) = host_with_tunnel("KillSwitch=yes\nPublish=6881\n");
    host.write("/tmp/tcp.py", TCP);
    let arguments = format!("6881 {FAR} 7000 192.0.2.2");
    let peer = host
        .root()
        .inside(&host.internet.net)
        .spawn(&format!("exec python3 /tmp/tcp.py outside {arguments}"));
    wait_until("the peer", || peer.stdout().contains("ready").then_some(()));
    let seen = watch(&host, 7000);
    assert_eq!(
        host.ok(&format!(
            "ip netns exec work python3 /tmp/tcp.py inside {arguments}"
        )),
        "ready\nfour five"
    );
    assert!(peer.wait().ok().ends_with("10.8.0.2 two three"));
    wait_until("the last packet", || {
        seen.stdout().contains("Flags [F").then_some(())
    });
    assert!(!seen.stdout().contains("10.8.0."), "{}", seen.stdout());
    host.ok("runns-exec clean work -fk");
}

/// Sends to each of the ports from all ports of an address, or from many addresses of a network of
/// IPv6.
const FLOOD: &str = r#"
import socket, sys
source, target, ports = sys.argv[1], sys.argv[2], [int(port) for port in sys.argv[3:]]
family = socket.AF_INET6 if ':' in target else socket.AF_INET
for number in set(range(1024, 65536)) - {1194}:
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_IP, 15, 1) # IP_FREEBIND
        s.bind((f'{source}{number:x}', 5000) if source.endswith(':') else (source, number))
        for port in ports:
            s.sendto(b'x', (target, port))
"#;

/// Prints what fills the set of clients but for one element, in pieces that one message to the
/// kernel has room for.
const FILL: &str = r#"
for start in range(0, (1 << 18) - 1, 1024):
    numbers = range(start, min(start + 1024, (1 << 18) - 1))
    elements = ', '.join(f'10.{n >> 16}.{n >> 8 & 255}.{n & 255} . 1 . 6881 timeout 5m' for n in numbers)
    print(f'add element inet runns clients {{ {elements} }}')
"#;

fn elements(host: &Host, set: &str) -> usize {
    let script =
        format!("ip netns exec work nft list set inet runns {set} | grep -o expires | wc -l");
    host.ok(&script).parse().expect("a number")
}

#[test]
fn one_neighbour_does_not_close_a_published_port_for_others() {
    let (host, _server) = host_with_tunnel("KillSwitch=yes\nPublish=6881/udp\nPublish=6882/udp\n");
    host.write("/tmp/flood.py", FLOOD);
    let lan = host.root().inside(&host.internet.net);
    lan.ok(
        "ip address add 192.0.2.99/24 dev eth0; ip -6 address add 2001:db8:1::1/64 dev eth0 nodad; \
            ip -6 route add local 2001:db8:0:0:1::/80 dev lo",
    );
    host.ok("ip -6 route add 2001:db8:1::/64 dev eth0");
    let _servers = (
        serve(&host, "ip netns exec work", 6881),
        serve(&host, "ip netns exec work", 6882),
    );
    for (source, neighbour, target, set) in [
        ("192.0.2.1", "192.0.2.99", "192.0.2.2", "clients"),
        (
            "2001:db8:0:0:1::",
            "2001:db8:1::1",
            "2001:db8::2",
            "clients_v6",
        ),
    ] {
        let ask = |port: u16| {
            let bind = format!("s.bind(('{neighbour}', {port}))");
            lan.ok(&format!(
                "sed \"s/^try:/{bind}\\ntry:/\" /tmp/client.py | python3 - {target} 6881 udp"
            ))
        };
        assert_eq!(ask(4000), format!("peer {neighbour}"));
        lan.ok(&format!(
            "python3 /tmp/flood.py {source} {target} 6881 6882"
        ));
        let count = elements(&host, set);
        assert!((300..4000).contains(&count), "{count} elements of {set}");
        for port in [4000, 4001] {
            assert_eq!(ask(port), format!("peer {neighbour}"), "{port}");
        }
    }
    // What comes and goes is no change, and what does not is one.
    host.ok("runns-exec status && ip netns exec work nft add element inet runns bypassed { 198.51.100.0/24 }");
    let status = host.run("runns-exec status");
    assert!(
        status.status == 1 && status.stdout.contains("rules inside"),
        "{status}"
    );
    host.ok("runns-exec build -s work && runns-exec status");
    // Were the set full, for a neighbour may have many addresses, those who are known would still
    // be served.
    let ask = |port: u16| {
        let bind = format!("s.bind(('192.0.2.99', {port}))");
        lan.ok(&format!(
            "sed \"s/^try:/{bind}\\ntry:/\" /tmp/client.py | python3 - 192.0.2.2 6881 udp"
        ))
    };
    host.write("/tmp/fill.py", FILL);
    host.ok("ip netns exec work nft flush set inet runns clients");
    assert_eq!(ask(4000), "peer 192.0.2.99");
    host.ok("python3 /tmp/fill.py >/tmp/fill && ip netns exec work nft -f /tmp/fill");
    assert_eq!(ask(4000), "peer 192.0.2.99");
    assert!(ask(4002).starts_with("failed"), "the set is full");
    host.ok("runns-exec clean work -fk");
}

#[test]
fn a_section_without_tunnel_remembers_no_clients() {
    let host = host();
    bring_programs(&host);
    host.write("/tmp/flood.py", FLOOD);
    host.configure("[work]\nPublish=6881/udp\n");
    host.ok("runns-exec build -s work");
    let _server = serve(&host, "ip netns exec work", 6881);
    let lan = host.root().inside(&host.internet.net);
    lan.ok("ip address add 192.0.2.99/24 dev eth0; python3 /tmp/flood.py 192.0.2.1 192.0.2.2 6881 6881");
    let ask = "sed \"s/^try:/s.bind(('192.0.2.99', 0))\\ntry:/\" /tmp/client.py | python3 - 192.0.2.2 6881 udp";
    assert_eq!(lan.ok(ask), "peer 192.0.2.99");
    let sets = host.ok("ip netns exec work nft list table inet runns");
    // Packets add to none.
    assert!(!sets.contains("dynamic"), "{sets}");
    host.ok("runns-exec clean work -fk");
}
