//! A hostile server, a daemon that it has taken over, and unauthorized callers of the keeper.

use super::{FAR, Probes, Watch, host, ping, tunnel_field};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot, wait_until};

/// Options that a server can push, aimed at clients that paste them into commands and files.
const HOSTILE: &str = r#"
push "dhcp-option DNS $(touch /tmp/pwned)"
push "dhcp-option DNS 10.8.0.1;touch${IFS}/tmp/pwned"
push "dhcp-option DNS 127.0.0.1"
push "dhcp-option DNS 10.8.0.1"
push "dhcp-option DNS6 ::1"
push "dhcp-option DOMAIN `touch /tmp/pwned`"
push "dhcp-option DOMAIN-SEARCH ../../../etc/passwd"
push "dhcp-option DOMAIN good.example"
push "setenv-safe dev eth0"
push "setenv-safe LD_PRELOAD /tmp/evil.so"
push "route 0.0.0.0 0.0.0.0"
push "route 127.0.0.0 255.0.0.0"
push "route 192.0.2.0 255.255.255.0"
push "route 169.254.0.0 255.255.0.0"
push "route-ipv6 ::/0"
push "redirect-gateway def1 ipv6 block-local"
push "block-ipv6"
push "up /usr/bin/touch"
push "route-up /usr/bin/touch"
push "plugin /tmp/evil.so"
push "script-security 3"
push "dev tun77"
push "tun-mtu 100000"
keepalive 1 3
"#;

fn build(host: &Host, config: &str) {
    openvpn::configure_client(host, "work", 1194);
    host.configure(config);
    host.ok("runns-exec build -s work");
}

#[test]
fn a_hostile_server_gets_nothing_but_its_tunnel() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start_with(&host, 1194, 8, HOSTILE);
    let before = Snapshot::of(&host);
    for kill_switch in ["KillSwitch=yes\n", ""] {
        let network = host.ok("ip route; ip -6 route; ip rule; ip -br address show lo");
        let watch = Watch::start(&host);
        build(
            &host,
            &format!("[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"),
        );
        let resolv = host
            .user("alice")
            .ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
        assert_eq!(resolv, "nameserver 10.8.0.1\nsearch good.example");
        let now = host.ok("ip route | grep -v work; ip -6 route; ip rule; ip -br address show lo");
        assert_eq!(now, network, "the host's routes are its own");
        assert!(ping(&host, "work", FAR));
        if kill_switch.is_empty() {
            watch.finish();
        } else {
            let probes = Probes::start(&host, "work");
            probes.go_on();
            host.ok("runns-exec work -- ping -c1 -W1 127.0.0.1");
            host.ok("runns-exec clean work -f --kill");
            watch.assert_nothing();
        }
        host.run("runns-exec clean work -f --kill");
        host.ok("test ! -e /tmp/pwned");
        assert_eq!(host.ok("cat /etc/resolv.conf"), "nameserver 192.0.2.1");
        before.assert_same(&Snapshot::of(&host));
    }
}

/// An OpenVPN that its server has taken over: it connects to nothing, and tells its keeper what it
/// likes.
const TAKEN_OVER: &str = r#"#!/usr/bin/python3 -I
import fcntl, os, socket, struct, sys
if sys.argv[1:] == ["--version"]:
    print("OpenVPN 2.6.14 x86_64-pc-linux-gnu")
    sys.exit(0)
word = lambda option: sys.argv[sys.argv.index(option) + 1]
listener = socket.socket(socket.AF_UNIX)
listener.bind(word("--management"))
listener.listen()
if os.fork():
    os._exit(0)
os.setsid()
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", word("--dev").encode(), 0x1001))
keeper, _ = listener.accept()
seen = b""
while b"hold release" not in seen:
    seen += keeper.recv(4096)
keeper.sendall(open("/usr/local/share/said", "rb").read())
while keeper.recv(4096):
    pass
os.pause() if hasattr(os, "pause") else __import__("signal").pause()
"#;

/// What it says first: addresses, routes and names that are meant for a shell, a file or somebody
/// else's device.
const SAID: &str = r#"
def say(text):
    out.write(text if isinstance(text, bytes) else text.encode())
    out.write(b"\n")
out = open("/usr/local/share/said", "wb")
say("keeper: stay\nkeeper: failed x\nkeeper: started 1\n>UPDOWN:ENV,END\n>UPDOWN:\n>UPDOWN:DOWN")
say(">UPDOWN:ENV,END\n>\n>STATE:\n>STATE:0,EXITING\n>LOG:,,PUSH: Received control message: 'PUSH_REPLY,\n>UPDOWN:UP")
for name, value in {
    "dev": "eth0/../x", "ifconfig_local": "10.8.0.2", "ifconfig_netmask": "999.0.0.0", "tun_mtu": "-5", "PATH": "/tmp",
    "LD_PRELOAD": "/tmp/evil.so", "route_network_1": "0; reboot", "route_net_gateway": "192.0.2.1",
    "ifconfig_ipv6_local": "fe80::1%eth0", "ifconfig_remote": "::1", "signal": "$(reboot)", "trusted_ip": "192.0.2.1",
    "foreign_option_1": "dhcp-option DNS 6.6.6.6 6.6.6.6", "foreign_option_2": "dhcp-option DNS 127.0.0.1",
    "foreign_option_3": "dhcp-option DNS 10.8.0.1", "foreign_option_4": "dhcp-option DOMAIN ../../etc/passwd",
    "dns_server_1_address_1": "10.8.0.1; reboot", "dns_search_domain_1": "a b", "script_context": "restart",
}.items():
    say(f">UPDOWN:ENV,{name}={value}")
say(b">UPDOWN:ENV,foreign_option_5=dhcp-option DOMAIN \xff\xfe")
for number in range(100000):
    say(f">UPDOWN:ENV,x{number}=y")
say(">UPDOWN:ENV,END\n>STATE:1,CONNECTED,SUCCESS,,,,,")
"#;

#[test]
fn the_keeper_takes_nothing_on_trust() {
    let host = host();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    host.write("/usr/local/sbin/openvpn", TAKEN_OVER);
    host.ok("chmod 755 /usr/local/sbin/openvpn && rm /etc/runns.conf");
    let before = Snapshot::of(&host);
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.root().run_with("python3 -", SAID.as_bytes()).ok();
        host.configure(&format!(
            "[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"
        ));
        let network = host.ok("ip route; ip -6 route; ip -br address show eth0");
        host.ok("runns-exec build -s work");
        let resolv = host
            .user("alice")
            .ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
        assert_eq!(resolv, "nameserver 10.8.0.1");
        let links = host.ok("ip netns exec work ip -br address");
        assert!(
            links.contains("tun0") && links.contains("10.8.0.2/32") && !links.contains("192.0.2"),
            "{links}"
        );
        let now = host.ok("ip route | grep -v work; ip -6 route; ip -br address show eth0");
        assert_eq!(now, network, "the host's own");
        assert_eq!(host.ok("cat /etc/resolv.conf"), "nameserver 192.0.2.1");
        host.ok("runns-exec clean work -f");
        before_without_configuration(&host, &before);
    }
    // It can keep the tunnel from coming up, and no more: a line without an end; nothing at all; a
    // dead end.
    for said in [
        r"yes x | head -c 9000000 | tr -d '\n'",
        "true",
        r"printf '>FATAL:\033[31m\n'",
    ] {
        host.ok(&format!("{said} >/usr/local/share/said"));
        host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
        let refused = host.run("runns-exec build -s work --wait 2");
        let refused = refused.refused(1, &["bring up the tunnel of /etc/openvpn/work.conf"]);
        assert!(!refused.stderr.contains('\x1b'), "{refused}");
        before_without_configuration(&host, &before);
    }
}

/// Python for a daemon that is taken over: what it says of a tunnel with as many routes as any
/// client has, among far more that nobody needs; and, when there is a file for it, what it says
/// later.
const MUCH: &str = r#"
import time
for _ in range(1500):
    keeper.sendall((">LOG:1,," + "x" * 60000 + "\n>STATE:1,WAIT,,,,,,\n>INFO:" + "y" * 60000 + "\n").encode())
keeper.sendall(b">LOG:1,,PUSH: Received control message: 'PUSH_REPLY,route 10.0.0.0 255.0.0.0'\n" * 1000)
keeper.sendall(b">UPDOWN:UP\n>UPDOWN:ENV,ifconfig_local=10.8.0.2\n")
for number in range(1, 10001):
    keeper.sendall((f">UPDOWN:ENV,route_network_{number}=10.{number >> 8}.{number & 255}.0\n"
                    f">UPDOWN:ENV,route_netmask_{number}=255.255.255.0\n>UPDOWN:ENV,x{number}={'z' * 9000}\n").encode())
keeper.sendall(b">UPDOWN:ENV,END\n>STATE:1,CONNECTED,SUCCESS,,,,,\n")
while not os.path.exists("/usr/local/share/later"):
    time.sleep(0.02)
exec(open("/usr/local/share/later").read())
"#;

/// What is too much: options, variables, a line, changes. It has an end, lest a keeper without a limit
/// take the machine's memory.
const TOO_MUCH: [(&str, &str); 4] = [
    (
        "for _ in range(20000): keeper.sendall(b\">LOG:1,,PUSH: Received control message: 'PUSH_REPLY,\" + b'route 1.2.3.4,' * 1000 + b\"'\\n\")",
        "too many routes or options",
    ),
    (
        "keeper.sendall(b'>UPDOWN:UP\\n')\n\
         for n in range(1000000): keeper.sendall(f'>UPDOWN:ENV,foreign_option_{n}=x\\n'.encode())",
        "too many routes or options",
    ),
    (
        "for _ in range(4000): keeper.sendall(b'x' * 65536)",
        "a line that is too long",
    ),
    (
        "for n in range(1000): keeper.sendall(f'>UPDOWN:UP\\n>UPDOWN:ENV,ifconfig_local=10.8.0.2\\n\
         >UPDOWN:ENV,foreign_option_1=dhcp-option DNS 10.8.0.{1 + n % 2}\\n>UPDOWN:ENV,END\\n'.encode())",
        "the daemon came up and went down too often",
    ),
];

#[test]
fn a_keeper_keeps_little_of_what_its_daemon_says() {
    let host = host();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    let said = r#"keeper.sendall(open("/usr/local/share/said", "rb").read())"#;
    let says = r#"exec(open("/usr/local/share/says").read())"#;
    host.write("/usr/local/sbin/openvpn", &TAKEN_OVER.replace(said, says));
    host.ok("chmod 755 /usr/local/sbin/openvpn");
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    let before = Snapshot::of(&host);
    host.write("/usr/local/share/says", MUCH);
    for (too_much, reason) in TOO_MUCH {
        host.ok("rm -f /usr/local/share/later && runns-exec build -s work");
        let keeper = host.ok("pgrep -f '[.]tunnel-keeper work '");
        let peak = host.ok(&format!(
            "awk '/^VmHWM/ {{ print $2 }}' /proc/{keeper}/status"
        ));
        assert!(
            peak.parse::<u32>().expect("a number of KiB") < 32 << 10,
            "{peak} KiB"
        );
        let routes = host.ok("ip netns exec work ip route show dev tun0 | grep -c ^10[.]");
        assert_eq!(routes, "10000", "no route is left out");
        // Then its tunnel ends, and says why.
        host.write("/usr/local/share/soon", too_much);
        host.ok("mv /usr/local/share/soon /usr/local/share/later");
        wait_until("the end of the daemon", || {
            tunnel_field(&host, "alice", "work", "reason")
                .contains(reason)
                .then_some(())
        });
        wait_until("the end of the keeper", || {
            (!host.ok("ps -e -o args").contains("tunnel-keeper")).then_some(())
        });
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
    for (too_much, reason) in TOO_MUCH {
        host.write("/usr/local/share/says", too_much);
        host.run("runns-exec build -s work").refused(
            1,
            &["bring up the tunnel of /etc/openvpn/work.conf", reason],
        );
        before.assert_same(&Snapshot::of(&host));
    }
}

/// Compares snapshots that were taken without /etc/runns.conf.
fn before_without_configuration(host: &Host, before: &Snapshot) {
    host.ok("rm /etc/runns.conf");
    before.assert_same(&Snapshot::of(host));
}

#[test]
fn nobody_but_build_starts_a_keeper() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start(&host, 1194, 8, &[]);
    build(
        &host,
        "[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n",
    );
    const KEEPER: &str = "/usr/local/libexec/runns-exec/runns-exec-root .tunnel-keeper";
    let state = "find /run/runns /etc/netns -type f -exec sha256sum {} +; \
                         ip -o link | cut -d: -f2; ip netns exec work ip -o link | cut -d: -f2";
    let built = host.ok(state);
    for words in [
        "",
        "work",
        "work 0",
        "work 0 x",
        "work -1 alone",
        "work 99999999999999999999 alone",
        "work 0 alone",
    ] {
        for who in ["", "unshare --user --map-root-user "] {
            for runner in [host.root(), host.user("alice")] {
                runner
                    .run(&format!("{who}{KEEPER} {words} </dev/null"))
                    .refused(1, &["keep a tunnel"]);
            }
        }
    }
    // With a socket as its input, too.
    let socat = |keeper: &str| {
        format!(
            "socat -t1 'EXEC:{keeper},nofork' UNIX-CONNECT:/tmp/no 2>&1; socat SYSTEM:'{keeper}' - </dev/null 2>&1"
        )
    };
    assert!(
        host.user("alice")
            .run(&socat(&format!("{KEEPER} work 0 alone")))
            .stdout
            .contains("only build can start it")
    );
    host.user("alice")
        .run("runns-exec .tunnel-keeper work 0 alone")
        .refused(125, &[".tunnel-keeper"]);
    assert_eq!(host.ok(state), built);
    host.ok("runns-exec clean work -f");
}

/// A userspace WireGuard that its server has taken over: it answers wg(8) without end, with more peers
/// and networks than anybody has, late, or never.
const DRIVER: &str = r#"#!/usr/bin/python3 -I
import os, socket, sys, time
if sys.argv[1:] == ["--version"]:
    sys.exit(0)
listener = socket.socket(fileno=int(os.environ["WG_UAPI_FD"]))
held = []
was_set = b""
def answer(asking):
    global was_set
    is_asked_to = lambda name: os.path.exists("/usr/local/share/" + name)
    request = asking.recv(65536)
    if request.startswith(b"set"):
        lines = [line for line in request.splitlines() if line and not line.startswith((b"set", b"replace"))]
        was_set = b"".join(line + b"\n" for line in lines)
        asking.sendall(b"errno=0\n\n")
    elif not request:
        # wg(8) only looks whether somebody listens.
        asking.close()
    elif is_asked_to("late"):
        time.sleep(2)
        asking.sendall(was_set + b"errno=0\n\n")
    elif is_asked_to("many"):
        networks = (b"allowed_ip=10.%d.%d.%d/32\n" % (at >> 16, at >> 8 & 255, at & 255) for at in range(100000))
        peers = (b"public_key=%064x\n" % number for number in range(2, 20000))
        asking.sendall(b"public_key=%064x\n" % 1 + b"".join(networks) + b"".join(peers) + b"errno=0\n\n")
    elif is_asked_to("endless"):
        for number in range(1 << 24):
            asking.sendall(b"".join(b"public_key=%064x\n" % (number << 8 | low) for low in range(256)))
    else:
        held.append(asking)
while True:
    asking, _ = listener.accept()
    try:
        answer(asking)
    except OSError:
        pass
"#;

#[test]
fn a_wireguard_driver_does_not_hold_status_up() {
    let (host, _peer) = super::wireguard::host_with_peer();
    write_driver(&host);
    host.configure(
        "[work]\nKillSwitch=yes\nWG_QUICK_USERSPACE_IMPLEMENTATION=driver\nWireGuard=/etc/wireguard/wg0.conf\n",
    );
    host.ok("runns-exec build -s work --no-wait");
    for prepare in [
        "true",
        "touch /usr/local/share/endless",
        "touch /usr/local/share/many",
    ] {
        host.ok(prepare);
        let status = host.run("ulimit -t 20; timeout 20 runns-exec status work");
        assert!(
            [0, 1].contains(&status.status) && status.stdout.contains("wg0.conf"),
            "{status}"
        );
        assert_eq!(host.run("pgrep -x wg").stdout, "");
    }
    host.ok("runns-exec clean work -f");
    for answer in ["many", "endless"] {
        let refused = host.run("ulimit -t 20; timeout 20 runns-exec build -s work --wait 2");
        assert!(
            refused.status == 1
                && refused
                    .stderr
                    .contains("bring up the tunnel of /etc/wireguard/wg0.conf"),
            "{answer}: {refused}"
        );
        host.ok("rm -f /usr/local/share/many");
    }
}

fn write_driver(host: &Host) {
    host.write("/usr/local/sbin/driver", DRIVER);
    host.ok("chmod 755 /usr/local/sbin/driver");
}

/// The time that a driver takes is none that the servers of other tunnels have had to answer.
#[test]
fn a_late_wireguard_driver_makes_no_other_tunnel_down() {
    let (host, peer) = super::wireguard::host_with_idle_tunnel("0.0.0.0/0");
    write_driver(&host);
    host.ok("runns-exec build -s work && cp /etc/wireguard/wg0.conf /etc/wireguard/late.conf");
    host.configure(
        "[work]\nKillSwitch=yes\nWireGuard=/etc/wireguard/wg0.conf\n\
         [late]\nKillSwitch=yes\nWG_QUICK_USERSPACE_IMPLEMENTATION=driver\nWireGuard=/etc/wireguard/late.conf\n",
    );
    host.ok("runns-exec build -s late --no-wait && touch /usr/local/share/late");
    host.ok(&peer.end_session());
    let built = host.run("runns-exec build --all --wait 1");
    assert!(
        built.status == 1
            && built.stdout.contains("work is built already")
            && built
                .stderr
                .contains("late.conf: no answer from the server")
            && !built.stderr.contains("wg0.conf"),
        "{built}"
    );
    host.ok("runns-exec clean work -f && runns-exec clean late -f");
}

/// What ends them has their user only as its effective one, and holds no descriptor.
#[test]
fn no_process_of_a_daemon_can_stop_what_ends_it() {
    let host = host();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    let stop = "while True:\n try: os.kill(-1, signal.SIGSTOP)\n except OSError: pass";
    let hostile = host.spawn(&format!(
        "exec setpriv --reuid=65536 --regid=65536 --clear-groups python3 -c 'import os, signal\n{stop}'"
    ));
    wait_until("the hostile process", || {
        (host.run("pgrep -u 65536 -x python3").status == 0).then_some(())
    });
    // There is time for it.
    let build = host.spawn(
        "exec timeout 20 strace -D -f -qq -o /dev/null -e trace=kill -e inject=kill:delay_enter=1000000 \
         runns-exec build -s work --no-wait </dev/null >/tmp/out 2>&1",
    );
    let open = wait_until("what ends it", || {
        let listed = host.run("ls /proc/$(pgrep -u 65536 -f '[b]uild -s work')/fd");
        (listed.status == 0).then_some(listed.stdout)
    });
    assert_eq!(build.wait().status, 0, "{}", host.ok("cat /tmp/out"));
    assert_eq!(open, "");
    assert_eq!(host.run("pgrep -u 65536 -x python3").stdout, "");
    hostile.wait();
    // Nobody may have this user.
    host.ok("runns-exec clean work -f && useradd --uid 98305 mallory");
    host.run("runns-exec build -s work")
        .refused(1, &["98305", "belongs to mallory"]);
}

#[test]
fn the_keepers_lookups_have_no_capability_and_end_with_it() {
    let host = host();
    openvpn::make_certificates(&host);
    host.ok("echo 192.0.2.1 vpn.test >>/etc/hosts");
    let server = OpenVpnServer::start_with(&host, 1194, 8, "keepalive 1 3\n");
    openvpn::configure_client(&host, "work", 1194);
    host.ok("sed -i 's/^remote .*/remote vpn.test 1194/' /etc/openvpn/work.conf");
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work");
    // Nobody answers, for longer than wait_until waits.
    host.ok(
        "sed -i /vpn.test/d /etc/hosts && echo 'options timeout:30 attempts:5' >>/etc/resolv.conf",
    );
    let drop = "iptables -I INPUT -p udp --dport 53 -j DROP";
    host.root().inside(&host.internet.net).ok(drop);
    server.stop(&host, 1194);
    let lookup = wait_until("a lookup", || {
        let status = host.run("cat /proc/$(pgrep -x getent | head -n1)/status");
        status.stdout.contains("getent").then_some(status.stdout)
    });
    let value = |field: &str| {
        let line = lookup.lines().find(|line| line.starts_with(field));
        line.and_then(|line| line.split_whitespace().nth(1))
    };
    for field in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "SigBlk:"] {
        assert_eq!(value(field), Some("0000000000000000"), "{lookup}");
    }
    assert_eq!(value("NoNewPrivs:"), Some("1"), "{lookup}");
    host.ok("runns-exec clean work -f");
    wait_until("the end of the lookup", || {
        (host.run("pgrep -x getent").status == 1).then_some(())
    });
}
