//! DNS, DNSLock, and what the lock adds to a namespace.

use super::{
    Capture, HOST_RESOLVER, INSIDE, LEAKED, PUBLIC, PUBLIC_RESOLVER, RESOLVER, World, getent,
    start_resolver,
};
use crate::support::{Background, Host, Snapshot, wait_until};

/// Prints the payload of every packet to port 7777.
const RECEIVE: &str = r#"
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 7777))
print("listening", flush=True)
while True:
    print(server.recv(99).decode(), flush=True)
"#;

/// Sends a raw UDP packet; arguments: interface, hardware address, source, destination, payload.
const SEND: &str = r#"
import socket, struct, sys
interface, hardware, source, destination, payload = sys.argv[1:]
payload = payload.encode()
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((interface, 0))
length = 28 + len(payload)
head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 17, 0,
                   socket.inet_aton(source), socket.inet_aton(destination))
total = sum(struct.unpack("!10H", head))
total = (total & 0xffff) + (total >> 16)
head = head[:10] + struct.pack("!H", ~((total & 0xffff) + (total >> 16)) & 0xffff) + head[12:]
ethernet = bytes.fromhex(hardware.replace(":", "")) + wire.getsockname()[4] + b"\x08\x00"
wire.send(ethernet + head + struct.pack("!HHHH", 7777, 7777, length - 20, 0) + payload)
"#;

fn tables(host: &Host, namespace: &str) -> String {
    host.ok(&format!("ip netns exec {namespace} nft list tables"))
}

#[test]
fn rules_stand_in_one_table_and_are_not_there_without_the_lock() {
    let world = World::new();
    assert_eq!(tables(&world.host, "work"), "table inet runns");
    assert_eq!(tables(&world.host, "open"), "");
    let route_localnet = |name: &str| {
        world.host.ok(&format!(
            "ip netns exec {name} sysctl -n net.ipv4.conf.all.route_localnet"
        ))
    };
    assert_eq!(
        (route_localnet("work"), route_localnet("open")),
        ("1".to_string(), "0".to_string())
    );
    assert_eq!(
        world.host.ok("sysctl -n net.ipv4.conf.all.route_localnet"),
        "0",
        "only inside"
    );
}

/// Sends packets to and from loopback addresses through the host's end of work's veth pair; returns
/// what a server inside receives.
fn heard_by_server(world: &World, server: &Background) -> Vec<String> {
    let hardware = world
        .host
        .ok("ip netns exec work cat /sys/class/net/eth0/address");
    let address = world
        .host
        .ok("ip -n work -4 -o address show eth0 | grep -Eo '172[.0-9]+' | head -1");
    let host_end = world
        .host
        .ok("ip -4 -o address show work | grep -Eo '172[.0-9]+' | head -1");
    let heard = server.stdout().lines().count();
    for (source, destination, payload) in [
        (host_end.as_str(), "127.0.0.1", "to-loopback"),
        ("127.0.0.2", address.as_str(), "from-loopback"),
        (host_end.as_str(), address.as_str(), "honest"),
    ] {
        world.host.ok(&format!(
            "python3 /tmp/send.py work {hardware} {source} {destination} {payload}"
        ));
    }
    wait_until("the honest packet arrives", || {
        server
            .stdout()
            .lines()
            .skip(heard)
            .any(|l| l == "honest")
            .then_some(())
    });
    server
        .stdout()
        .lines()
        .skip(heard)
        .map(str::to_string)
        .collect()
}

#[test]
fn loopback_inside_is_closed_to_the_tunnel_end() {
    let world = World::new();
    world.host.write("/tmp/receive.py", RECEIVE);
    world.host.write("/tmp/send.py", SEND);
    let server = world
        .host
        .spawn("exec ip netns exec work python3 /tmp/receive.py");
    wait_until("the server listens", || {
        server.stdout().contains("listening").then_some(())
    });
    for setting in ["all", "default", "eth0"] {
        world.host.ok(&format!(
            "ip netns exec work sysctl -qw net.ipv4.conf.{setting}.rp_filter=0"
        ));
    }
    assert_eq!(heard_by_server(&world, &server), ["honest"]);
    world
        .host
        .ok("ip netns exec work nft flush chain inet runns loopback");
    assert_eq!(
        heard_by_server(&world, &server),
        ["to-loopback", "from-loopback", "honest"],
        "what the rules are for"
    );
}

#[test]
fn resolver_without_a_file() {
    let world = World::without_namespaces();
    world.host.configure(&format!(
        "[work]\nDNS={RESOLVER}, 203.0.113.99 corp.example lab.example\n"
    ));
    world.host.ok("runns-exec build -s work");
    let alice = world.alice();
    let file = alice.ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
    let expected =
        format!("nameserver {RESOLVER}\nnameserver 203.0.113.99\nsearch corp.example lab.example");
    assert_eq!(file, expected);
    let capture = Capture::start(&world.host, "eth0", "port 53");
    assert_eq!(getent(&alice, "runns-exec work --", "printer"), INSIDE);
    let lines = capture.finish();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("printer.corp.example")),
        "{lines:#?}"
    );
    // The second server is reached under its own address; queries to any other address go to the
    // first.
    let capture = Capture::start(&world.host, "eth0", "port 53");
    alice.run("runns-exec work -- dig +tries=1 +time=1 @203.0.113.99 a.example");
    assert_eq!(
        alice.ok("runns-exec work -- dig +short @203.0.113.98 a.example"),
        INSIDE
    );
    let lines = capture.finish();
    assert!(
        lines.iter().any(|line| line.contains("> 203.0.113.99.53")),
        "{lines:#?}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("203.0.113.98")),
        "{lines:#?}"
    );
}

#[test]
fn lock_is_off_when_asked_and_with_a_loopback_resolver() {
    let world = World::without_namespaces();
    world.host.configure(
        "[work]\nDNS=127.0.0.1\n\n[forced]\nDNS=127.0.0.1\nDNSLock=yes\n\n[open]\nDNS=198.51.100.53\nDNSLock=no\n",
    );
    let built = world
        .host
        .run("runns-exec build -s work && runns-exec build -s open");
    assert!(!built.stderr.contains("DNSLock"), "{built}");
    let forced = world.host.run("runns-exec build -s forced");
    assert!(
        forced.stderr.contains("DNSLock=yes has no effect"),
        "{forced}"
    );
    for name in ["work", "forced", "open"] {
        assert_eq!(tables(&world.host, name), "");
    }
    // A resolver inside the namespace, such as dnscrypt-proxy or tor.
    let inside = world.host.root();
    let resolver = inside.spawn(
        "exec ip netns exec work dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts \
         --user=root --pid-file= --address=/#/203.0.113.1 --bind-interfaces --listen-address=127.0.0.1",
    );
    wait_until("the resolver inside answers", || {
        assert!(resolver.is_running(), "{}", resolver.stderr());
        (world.getent() == INSIDE).then_some(())
    });
    let dig = "runns-exec open -- dig +short";
    assert_eq!(
        world
            .alice()
            .ok(&format!("{dig} @{PUBLIC_RESOLVER} a.example")),
        PUBLIC
    );
    assert_eq!(
        world
            .alice()
            .ok(&format!("{dig} @{HOST_RESOLVER} a.example")),
        LEAKED
    );
}

/// Gives `work` an IPv6 network: fd00::1 outside, fd00::2 inside.
fn with_ipv6(world: &World) {
    world.host.ok("for end in '' 'ip netns exec work'; do $end sysctl -qw net.ipv6.conf.all.disable_ipv6=0; done
         sysctl -qw net.ipv6.conf.work.disable_ipv6=0
         ip netns exec work sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0
         ip -6 address add fd00::1/64 dev work nodad && ip -6 address add fd00::53/64 dev work nodad
         ip -n work -6 address add fd00::2/64 dev eth0 nodad && ip -n work -6 route add default via fd00::1");
}

#[test]
fn resolvers_of_both_families() {
    let world = World::without_namespaces();
    world
        .host
        .configure(&format!("[work]\nDNS=fd00::53, {RESOLVER}\n"));
    world.host.ok("runns-exec build -s work");
    with_ipv6(&world);
    const INSIDE_V6: &str = "203.0.113.6";
    start_resolver(&world.host.root(), "fd00::53", INSIDE_V6);
    start_resolver(&world.host.root(), "fd00::1", LEAKED);
    for protocol in ["+notcp", "+tcp"] {
        let dig = |server: &str| {
            let name = world.fresh_name();
            world.alice().ok(&format!(
                "runns-exec work -- dig +short +tries=1 +time=2 {protocol} @{server} {name}"
            ))
        };
        assert_eq!(
            [dig("fd00::1"), dig("fd00::53"), dig("2001:db8::1")],
            [INSIDE_V6; 3]
        );
        assert_eq!(
            [dig(RESOLVER), dig(HOST_RESOLVER), dig("127.0.0.53")],
            [INSIDE; 3]
        );
    }
}

#[test]
fn resolver_of_the_other_family_only() {
    let world = World::without_namespaces();
    world.host.configure("[work]\nDNS=fd00::53\n");
    world.host.ok("runns-exec build -s work");
    with_ipv6(&world);
    start_resolver(&world.host.root(), "fd00::53", INSIDE);
    assert_eq!(world.getent(), INSIDE);
    for server in [HOST_RESOLVER, PUBLIC_RESOLVER, "127.0.0.53"] {
        for protocol in ["+notcp", "+tcp"] {
            let dig =
                format!("runns-exec work -- dig +tries=1 +time=5 {protocol} @{server} a.example");
            let start = std::time::Instant::now();
            let output = world.alice().run(&dig);
            assert!(
                output.status != 0 && output.stdout.contains("refused"),
                "{output}"
            );
            assert!(start.elapsed().as_secs() < 4, "rejected at once");
        }
    }
}

/// A host without resolvers, whose processes would show up in snapshots.
fn quiet_host() -> Host {
    let host = Host::new();
    host.write("/etc/vpn.resolv", &format!("nameserver {RESOLVER}\n"));
    host.configure("[work]\nResolve=/etc/vpn.resolv\n[other]\nResolve=/etc/vpn.resolv\n");
    host
}

const SERVICE_DIRECTORIES: &str =
    "ls -d /run/nscd /run/avahi-daemon /run/systemd/resolve 2>/dev/null; true";

#[test]
fn clean_leaves_the_host_as_it_was() {
    let host = quiet_host();
    host.ok("mkdir -p /run/systemd");
    let before = Snapshot::of(&host);
    assert_eq!(host.ok(SERVICE_DIRECTORIES), "");
    host.ok("runns-exec build -s work && runns-exec build -s other");
    let all = "/run/avahi-daemon\n/run/nscd\n/run/systemd/resolve";
    assert_eq!(host.ok(SERVICE_DIRECTORIES), all);
    assert_eq!(host.ok("stat -c '%u:%g %a' /run/nscd"), "0:0 755");
    host.ok("runns-exec clean work -f");
    assert_eq!(
        host.ok(SERVICE_DIRECTORIES),
        all,
        "the other namespace needs them"
    );
    host.ok("runns-exec clean other -f");
    assert_eq!(host.ok(SERVICE_DIRECTORIES), "");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn directories_of_services_stay_the_services() {
    let host = quiet_host();
    host.ok("mkdir -p /run/nscd /run/systemd/resolve && chown alice /run/systemd/resolve");
    host.ok("runns-exec build -s work");
    host.ok("touch /run/avahi-daemon/pid");
    host.ok("runns-exec clean work -f");
    assert_eq!(
        host.ok(SERVICE_DIRECTORIES),
        "/run/avahi-daemon\n/run/nscd\n/run/systemd/resolve"
    );
    assert_eq!(host.ok("stat -c %U /run/systemd/resolve"), "alice");
}

#[test]
fn a_resolver_by_option_is_asked_inside_and_the_hosts_outside() {
    let world = World::without_namespaces();
    world
        .host
        .ok("runns-exec build -n named -r /etc/vpn.resolv");
    let name = world.fresh_name();
    let found = |prefix: &str| getent(&world.alice(), prefix, &name);
    assert_eq!(found("runns-exec named --"), INSIDE);
    assert_eq!(found(""), LEAKED);
}
