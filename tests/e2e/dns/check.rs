//! `runns-exec check`, as an ordinary user: green for what is locked, red for each defence that is
//! broken.

use super::services::start_nscd;
use super::{HOST_RESOLVER, RESOLVER, World};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Output, wait_until};

/// The line of `check` in the output of `runns-exec check`.
#[track_caller]
fn line(output: &Output, check: &str) -> String {
    let line = output
        .stdout
        .lines()
        .find(|line| line.contains(&format!("  {check}: ")));
    line.unwrap_or_else(|| panic!("no line of {check}\n{output}"))
        .to_string()
}

/// Fails the test unless exactly these checks are not OK and the exit status matches.
#[track_caller]
fn assert_red(output: &Output, red: &[&str]) {
    assert_eq!(output.status, i32::from(!red.is_empty()), "{output}");
    // What is open on purpose is not red.
    let others = output
        .stdout
        .lines()
        .filter(|line| !line.starts_with("OK ") && !line.starts_with("OPEN "));
    let others: Vec<&str> = others
        .filter_map(|line| line[10..].trim().split(": ").next())
        .collect();
    assert_eq!(others, red, "{output}");
}

#[test]
fn a_locked_namespace_is_green() {
    let world = World::new();
    start_nscd(&world);
    let output = world.alice().run("runns-exec check work");
    assert_red(&output, &[]);
    assert_eq!(output.stderr, "");
    for check in [
        "access",
        "resolv.conf",
        "nsswitch.conf",
        "nscd",
        "systemd-resolved",
        "avahi",
        "resolver",
    ] {
        line(&output, check);
    }
    assert!(
        line(&output, "query by UDP").ends_with("arrives at the namespace's resolver"),
        "{output}"
    );
    assert!(
        line(&output, "query by TCP").ends_with("arrives at the namespace's resolver"),
        "{output}"
    );
    assert!(
        line(&output, "query by IPv6").ends_with("rejected"),
        "{output}"
    );
    assert!(
        line(&output, "default route").ends_with("through eth0"),
        "{output}"
    );
    world.asking_nobody_else(|| assert_eq!(world.alice().run("runns-exec check work").status, 0));
}

#[test]
fn here_it_tests_what_the_process_itself_sees() {
    let world = World::new();
    start_nscd(&world);
    let alice = world.alice();
    let inside = alice.run("runns-exec work -- runns-exec check --here work");
    assert_red(&inside, &[]);
    // As a service whose drop-in sets only the network namespace.
    let half = world
        .host
        .run("nsenter --net=/run/netns/work runns-exec check --here work");
    assert_eq!(half.status, 1, "{half}");
    for check in ["resolv.conf", "nscd"] {
        assert!(line(&half, check).starts_with("NOT OK "), "{half}");
    }
    assert!(line(&half, "query by UDP").starts_with("OK "), "{half}");
    for outside in [
        alice.run("runns-exec check --here work"),
        world.host.run("runns-exec check --here work"),
    ] {
        outside.refused(1, &["work", "not in it"]);
    }
    // Nothing that only a privileged program could do: without file capabilities it is the same.
    let copy = "cp /usr/local/bin/runns-exec /tmp/copy && chmod 755 /tmp/copy";
    world.host.ok(copy);
    assert_red(
        &alice.run("runns-exec work -- /tmp/copy check --here work"),
        &[],
    );
}

#[test]
fn json() {
    let world = World::new();
    let shape = r#"
import json, sys
value = json.load(sys.stdin)
assert list(value) == ["namespace", "ok", "checks"] or sorted(value) == ["checks", "namespace", "ok"], value
assert all(sorted(check) == ["check", "detail", "ok"] for check in value["checks"]), value
assert all(check["ok"] in (True, False, None) for check in value["checks"]), value
assert value["ok"] == all(check["ok"] for check in value["checks"]), value
print(value["namespace"], value["ok"])
"#;
    world.host.write("/tmp/shape.py", shape);
    let alice = world.alice();
    assert_eq!(
        alice.ok("runns-exec check work --json | python3 /tmp/shape.py"),
        "work True"
    );
    world
        .host
        .ok("ip netns exec work nft flush chain inet runns redirecting");
    assert_eq!(
        alice.ok("runns-exec check work --json | python3 /tmp/shape.py"),
        "work False"
    );
    assert_eq!(alice.run("runns-exec check --json work").status, 1);
}

#[test]
fn names_that_are_no_namespaces() {
    let world = World::without_namespaces();
    let alice = world.alice();
    for (name, status) in [
        ("nowhere", 1),
        ("../etc", 2),
        ("''", 2),
        ("a/b", 2),
        ("", 2),
    ] {
        let output = alice.run(&format!("runns-exec check {name}"));
        assert_eq!(
            (output.status, output.stdout.as_str()),
            (status, ""),
            "{output}"
        );
    }
    assert_ne!(
        world.host.user("bob").run("runns-exec check work").status,
        0
    );
}

/// Sends every query back as it came, by UDP and by TCP.
const ECHO: &str = r#"
import socket, sys, threading
address = (sys.argv[1], 53)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(address)
tcp = socket.create_server(address)
def stream():
    while True:
        client, _ = tcp.accept()
        client.sendall(client.recv(512))
threading.Thread(target=stream, daemon=True).start()
print("ready", flush=True)
while True:
    udp.sendto(*udp.recvfrom(512))
"#;

#[test]
fn an_echo_is_no_answer() {
    let world = World::new();
    world.stop_own_resolver();
    world.host.write("/tmp/echo.py", ECHO);
    let echo = world
        .internet()
        .spawn(&format!("exec python3 /tmp/echo.py {RESOLVER}"));
    wait_until("the echo", || echo.stdout().contains("ready").then_some(()));
    let output = world.alice().run("runns-exec check work");
    assert_red(
        &output,
        &[
            "resolver",
            "query by UDP",
            "query by TCP",
            "query to the stub",
        ],
    );
}

#[test]
fn broken_rules_are_red() {
    let world = World::new();
    let (alice, host) = (world.alice(), &world.host);
    let inside = |commands: &str| host.ok(&format!("ip netns exec work nft '{commands}'"));
    host.ok("{ echo delete table inet runns; ip netns exec work nft list table inet runns; } >/tmp/rules");
    let restore = || {
        host.ok("ip netns exec work nft -f /tmp/rules");
    };
    let open = "flush chain inet runns redirecting; flush chain inet runns only_resolvers";
    inside(open);
    assert_red(
        &alice.run("runns-exec check work"),
        &["query by UDP", "query by TCP", "query to the stub"],
    );
    restore();
    assert_red(&alice.run("runns-exec check work"), &[]);
    inside("flush chain inet runns redirecting");
    let output = alice.run("runns-exec check work");
    assert_red(
        &output,
        &["query by UDP", "query by TCP", "query to the stub"],
    );
    assert!(
        line(&output, "query by UDP").contains("rejected"),
        "{output}"
    );
    restore();
    // A router on the path that answers every query itself, as in hotels: not the namespace's
    // doing.
    inside(open);
    host.ok("iptables -t nat -I PREROUTING -i work -p udp --dport 53 -j DNAT --to-destination 10.99.0.1");
    let output = alice.run("runns-exec check work");
    assert!(
        line(&output, "query by UDP").ends_with("not through the DNS lock"),
        "{output}"
    );
    host.ok("iptables -t nat -D PREROUTING 1");
    restore();
    host.ok("ip netns exec work sysctl -qw net.ipv4.conf.all.route_localnet=0");
    assert!(line(&alice.run("runns-exec check work"), "query to the stub").starts_with("NOT OK"));
    host.ok("ip netns exec work sysctl -qw net.ipv4.conf.all.route_localnet=1");
    host.ok("for end in '' 'ip netns exec work'; do $end sysctl -qw net.ipv6.conf.all.disable_ipv6=0; done
         ip netns exec work sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0
         ip -n work link add link eth0 name mac0 type macvlan && ip -n work link set mac0 up
         ip -n work -6 address add fd00::2/64 dev mac0 nodad && ip -n work -6 route add default via fd00::1 dev mac0");
    let output = alice.run("runns-exec check work");
    assert_red(&output, &["IPv6"]);
    assert!(line(&output, "IPv6").contains("mac0"), "{output}");
    inside("flush chain inet runns only_resolvers");
    assert_red(
        &alice.run("runns-exec check work"),
        &["query by IPv6", "IPv6"],
    );
}

#[test]
fn resolver_that_does_not_answer_is_red() {
    let world = World::new();
    world.stop_own_resolver();
    let output = world.alice().run("runns-exec check work");
    assert_eq!(output.status, 1);
    assert!(!line(&output, "resolver").starts_with("OK"), "{output}");
}

#[test]
fn namespace_without_a_resolver_of_its_own_says_so_first() {
    let world = World::without_namespaces();
    world.host.configure("[plain]\n");
    world.host.ok("runns-exec build -s plain");
    world.host.write(
        "/etc/nsswitch.conf",
        "hosts: files mdns4_minimal [NOTFOUND=return] resolve dns\n",
    );
    start_nscd(&world);
    let output = world.alice().run("runns-exec check plain");
    // Nothing was promised, so nothing is broken.
    assert_eq!(output.status, 0, "{output}");
    let first = output.stdout.lines().next().unwrap_or_default();
    assert!(
        first.starts_with("NOT SET ")
            && first.contains("the host's resolver")
            && first.contains("Resolve="),
        "{output}"
    );
    assert!(!output.stdout.contains("NOT OK"), "{output}");
    assert!(line(&output, "default route").starts_with("OK"), "{output}");
    let json = world.alice().run("runns-exec check --json plain").stdout;
    assert!(
        json.contains(r#""ok":true,"checks""#)
            && json.contains(r#"{"check":"resolver","ok":null,"#),
        "{json}"
    );
    // Traffic that is to leave by one interface only is another matter.
    world.host.ok("runns-exec build -n direct -o eth0");
    let output = world.alice().run("runns-exec check direct");
    assert!(
        output.status == 1 && output.stdout.starts_with("NOT SET "),
        "{output}"
    );
    world.host.ok("runns-exec clean direct");
    // Its section sets a resolver now; what was not asked for before is promised from the next
    // build on.
    world.host.ok("runns-exec clean plain");
    world
        .host
        .configure(&format!("[plain]\nDNS={HOST_RESOLVER}\n"));
    world.host.ok("runns-exec build -s plain");
    assert!(line(&world.alice().run("runns-exec check plain"), "resolv.conf").starts_with("OK"));
}

#[test]
fn nsswitch_of_the_administrators_own_is_looked_at() {
    let world = World::without_namespaces();
    world.host.write(
        "/etc/netns/work/nsswitch.conf",
        "hosts: files resolve [!UNAVAIL=return] dns\n",
    );
    world.build();
    let output = world.alice().run("runns-exec check work");
    assert_red(&output, &["nsswitch.conf"]);
    assert!(
        line(&output, "nsswitch.conf").contains("asks resolve"),
        "{output}"
    );
}

/// The mask is mounted on the service's directory: if that is missing when the command starts,
/// nothing is masked.
#[test]
fn directory_of_nscd_that_is_missing_is_not_called_well() {
    let world = World::new();
    world.host.ok("rmdir /run/nscd");
    let output = world.alice().run("runns-exec check work");
    assert_red(&output, &["nscd"]);
    assert!(line(&output, "nscd").starts_with("NOT TESTED"), "{output}");
    start_nscd(&world);
    assert_red(&world.alice().run("runns-exec check work"), &[]);
}

#[test]
fn traffic_around_the_tunnel_is_red() {
    let world = World::without_namespaces();
    openvpn::make_certificates(&world.host);
    let redirect = ["redirect-gateway def1"];
    // One server pushes a default route, the other none.
    let servers: [(u16, u8, &[&str]); 2] = [(1194, 8, &redirect), (1195, 9, &[])];
    let _servers =
        servers.map(|(port, net, push)| OpenVpnServer::start(&world.host, port, net, push));
    openvpn::configure_client(&world.host, "work", 1194);
    openvpn::configure_client(&world.host, "split", 1195);
    let section =
        |name: &str| format!("[{name}]\nResolve=/etc/vpn.resolv\nvpn=/etc/openvpn/{name}.conf\n");
    world.host.configure(&(section("work") + &section("split")));
    world
        .host
        .ok("runns-exec build -s work && runns-exec build -s split");
    let output = world.alice().run("runns-exec check work");
    assert_red(&output, &[]);
    assert!(
        line(&output, "default route").contains("through tun"),
        "{output}"
    );
    assert!(line(&output, "eth0").starts_with("OPEN "), "{output}");
    let output = world.alice().run("runns-exec check split");
    assert_red(&output, &["default route"]);
    assert!(
        line(&output, "default route").contains("through eth0, not through the tunnel"),
        "{output}"
    );
    // The tunnel's routes are removed.
    world
        .host
        .ok("ip -n work route del 0.0.0.0/1 && ip -n work route del 128.0.0.0/1");
    assert_red(
        &world.alice().run("runns-exec check work"),
        &["default route"],
    );
}

#[test]
fn host_that_replaced_its_files_stays_green() {
    let world = World::new();
    world.replace(
        "/etc/resolv.conf",
        &format!("# today's\nnameserver {HOST_RESOLVER}\n"),
    );
    world.replace(
        "/etc/nsswitch.conf",
        "hosts: files resolve [!UNAVAIL=return] dns\n",
    );
    assert_red(&world.alice().run("runns-exec check work"), &[]);
}
