//! `build --change`: what is built becomes what the section says now, under running programs
//! (SPEC 12.5).

use crate::neighbours::{bring_programs, from_lan, serve};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Background, Host, Net, Snapshot, wait_until};
use crate::tunnel::{self, FAR, Watch, daemons, ping};
use crate::turns::{calls, killed, points};

/// Everything that a section has an effect on, on the host and inside, without what is different
/// each time that it is built.
const STATE: &str = r#"
echo '# inside'
ip netns exec work sh -c '
    ip rule; ip -6 rule; ip route show table all | sort; ip -6 route show table all | grep -v -e "^multicast" -e "^local" | sort
    ip -br address | sed "s/@[^ ]*//" | tr -s " "; grep -H . /sys/class/net/*/mtu
    nft list table inet runns; sysctl net.ipv4.conf.all.route_localnet
    sysctl -a 2>/dev/null | grep "disable_ipv6" | grep -v default' | sed 's/fe80:[0-9a-f:]*/fe80/g'
echo '# host'
nft list table inet runns | sed '/ expires /d'
ip rule; ip -6 rule; iptables-save | grep '^-A'
ip route show table all | grep -v -e '^local' -e '^broadcast'; ip -6 route show table all | grep -v -e multicast -e '^local'
ip -br address | sed 's/@[^ ]*//' | tr -s ' ' | grep '^work'; grep -H . /sys/class/net/work/netdev_group /sys/class/net/work/mtu
tc filter show dev work ingress | grep -o 'runns:[^ ]*'
sysctl net.ipv4.conf.eth0.rp_filter net.ipv4.conf.eth1.rp_filter
grep -rH . /etc/netns; ls -A /run/runns /run/runns/work.d /run/wireguard
python3 - <<'END'
import json
record = json.load(open("/run/runns/work.json"))
for field in ("identity", "inside", "etc"):
    record.pop(field)
for field in ("daemons", "keepers"):
    record[field] = [one["config"] for one in record[field]]
print(json.dumps(record, indent=1))
END
true
"#;

/// A host that forwards, with a second uplink and two WireGuard files whose servers do not answer.
fn host() -> (Host, Net) {
    let host = tunnel::host();
    let net = Net::new();
    host.add_uplink("eth1", "198.18.0.2/24", &net, "198.18.0.1/24");
    host.ok("ip route add default via 198.18.0.1 dev eth1 metric 500");
    host.ok("sysctl -qw net.ipv4.ip_forward=1; mkdir -p /run/wireguard");
    for number in [0, 1] {
        let key = host.ok("wg genkey");
        let peer = host.ok("wg genkey | wg pubkey");
        host.write(
            &format!("/etc/wireguard/w{number}.conf"),
            &format!(
                "[Interface]\nPrivateKey={key}\nAddress=10.6{number}.0.2/32, fd6{number}::2/128\nDNS=10.6{number}.0.1\n\
                 [Peer]\nPublicKey={peer}\nAllowedIPs=0.0.0.0/0, ::/0\nEndpoint=192.0.2.1:5{number}820\n"
            ),
        );
    }
    (host, net)
}

/// Sections of every kind. Their number is a prime.
const SECTIONS: [&str; 7] = [
    "",
    "Publish=8080:80\nHostAccess=no\nMTU=1400\nDNS=192.0.2.53\nNoNewPrivs=yes\n",
    "InterfaceOut=eth1\nIPv6=yes\nPublish=5353:53/udp\nResolve=/etc/dns.conf\n",
    "WireGuard=/etc/wireguard/w0.conf\n",
    "WireGuard=/etc/wireguard/w1.conf\nKillSwitch=yes\nAllowUsers=alice\n",
    "WireGuard=/etc/wireguard/w1.conf\nKillSwitch=yes\nPublish=8080:80\nPublish=6881/udp\nHostAccess=7001\n\
     Bypass=203.0.113.0/24,2001:db8:5::/48\nMTU=1300\n",
    "WireGuard=/etc/wireguard/w0.conf\nWireGuard=/etc/wireguard/w1.conf\nDNSLock=no\nBypass=198.18.5.0/24\n\
     IPv6=no\nInterfaceOut=eth1\n",
];

/// From each kind of section to each other one, under one program that goes on.
#[test]
fn what_was_changed_is_as_if_it_had_been_built_so() {
    let (host, _net) = host();
    host.write("/etc/dns.conf", "nameserver 192.0.2.1\n");
    let configure = |at: usize| host.configure(&format!("[work]\n{}", SECTIONS[at]));
    let before = Snapshot::of(&host);
    let built: Vec<String> = (0..SECTIONS.len())
        .map(|at| {
            configure(at);
            host.ok("runns-exec build -s work --no-wait");
            let state = host.ok(STATE);
            host.ok("runns-exec clean work --kill -f");
            state
        })
        .collect();
    configure(0);
    host.ok("runns-exec build -s work");
    let program = host
        .user("alice")
        .spawn("exec runns-exec work -- sleep 1000");
    wait_until("a program", || {
        (host.ok("runns-exec list -aq").lines().count() == 1).then_some(())
    });
    let mut from = 0;
    for step in 1..SECTIONS.len() {
        for count in 1..=SECTIONS.len() {
            let to = step * count % SECTIONS.len();
            configure(to);
            let said = host.ok("runns-exec build -s work --change --no-wait");
            assert!(said.contains("changed "), "{from} -> {to}: {said}");
            let state = host.ok(STATE);
            assert!(
                state == built[to],
                "{from} -> {to}: {said}\n{}",
                difference(&host, &built[to], &state)
            );
            assert_eq!(
                host.ok("runns-exec status work | grep -v ^NAMESPACE | awk '{print $2}' | head -1"),
                "ok"
            );
            from = to;
        }
    }
    assert!(program.is_running());
    host.ok("runns-exec clean work --kill -f");
    before.assert_same(&Snapshot::of(&host));
}

fn difference(host: &Host, wanted: &str, found: &str) -> String {
    host.write("/tmp/wanted", wanted);
    host.write("/tmp/found", found);
    host.run("diff -U1 /tmp/wanted /tmp/found").stdout
}

/// Sends to [`FAR`] all the time, as a program does that knows nothing of devices, and counts what
/// it sent.
const SENDER: &str = r#"
import socket, sys, time
sent = 0
while True:
    for kind, port in ((socket.SOCK_DGRAM, 4000), (socket.SOCK_STREAM, 80), (socket.SOCK_DGRAM, 53)):
        try:
            with socket.socket(socket.AF_INET, kind) as s:
                s.setblocking(False)
                if kind == socket.SOCK_STREAM:
                    s.connect_ex((sys.argv[1], port))
                else:
                    s.sendto(b"probe", (sys.argv[1], port))
            sent += 1
        except OSError:
            pass
    print(sent, flush=True)
    time.sleep(0.005)
"#;

/// Programs of alice's in the namespace: one that sends, and one that downloads.
struct Programs {
    sender: Background,
    downloads: Background,
    places: String,
}

/// The pid of each program inside, and its network namespace. A shell forks before it executes.
const PLACES: &str = "for pid in $(pgrep -of '[s]ender.py') $(pgrep -of '[d]ownloads.sh'); do echo $pid $(readlink /proc/$pid/ns/net); done";

impl Programs {
    fn start(host: &Host) -> Self {
        host.write("/tmp/sender.py", SENDER);
        host.write(
            "/tmp/downloads.sh",
            &format!("while :; do curl -sSf -m 5 http://{FAR}/ && echo downloaded; done"),
        );
        let sender = host.user("alice").spawn(&format!(
            "exec runns-exec work -- python3 /tmp/sender.py {FAR}"
        ));
        let downloads = host
            .user("alice")
            .spawn("exec runns-exec work -- sh /tmp/downloads.sh 2>/dev/null");
        let inside = format!("net:[{}]", host.ok("stat -Lc %i /run/netns/work"));
        let places = wait_until("the programs", || {
            let places = host.ok(PLACES);
            (places.matches(&inside).count() == 2).then_some(places)
        });
        let programs = Self {
            sender,
            downloads,
            places,
        };
        programs.download();
        programs
    }

    fn sent(&self) -> u64 {
        let output = self.sender.stdout();
        let line = output.rsplit('\n').nth(1).unwrap_or_default();
        line.parse().unwrap_or(0)
    }

    /// Waits for a download that begins now.
    #[track_caller]
    fn download(&self) {
        let done = || self.downloads.stdout().matches("downloaded").count();
        let before = done();
        wait_until("a download", || (done() > before + 1).then_some(()));
    }

    /// The same processes are still where they were.
    #[track_caller]
    fn assert_untouched(&self, host: &Host) {
        assert!(self.sender.is_running() && self.downloads.is_running());
        assert_eq!(host.ok(PLACES), self.places);
    }
}

const PUSHED: [&str; 2] = ["redirect-gateway def1", "dhcp-option DNS 10.8.0.1"];

/// A host with a web site at [`FAR`] and two OpenVPN servers, of which /etc/openvpn/one.conf and
/// two.conf name one each.
fn with_servers() -> (Host, Vec<OpenVpnServer>) {
    let host = tunnel::host();
    openvpn::make_certificates(&host);
    let servers = [(1194, 8), (1195, 9)]
        .map(|(port, net)| {
            OpenVpnServer::start(
                &host,
                port,
                net,
                &[PUSHED[0], &format!("dhcp-option DNS 10.{net}.0.1")],
            )
        })
        .into_iter()
        .collect();
    openvpn::configure_client(&host, "one", 1194);
    openvpn::configure_client(&host, "two", 1195);
    (host, servers)
}

fn configure(host: &Host, section: &str) {
    host.configure(&format!("[work]\n{section}"));
}

const CHANGE: &str = "runns-exec build -s work --change";

/// What the namespace sends reaches the Internet with this address of a tunnel.
fn comes_from(host: &Host) -> String {
    let said = host
        .user("alice")
        .run(&format!("runns-exec work -- curl -sS -m 5 http://{FAR}/"))
        .stdout;
    said.split_whitespace()
        .last()
        .unwrap_or_default()
        .to_string()
}

#[test]
fn a_server_is_exchanged_for_another_and_nothing_leaves_beside_the_tunnel() {
    let (host, _servers) = with_servers();
    let _site = host.internet.net.serve(&format!("{FAR}:80"), "site");
    configure(&host, "KillSwitch=yes\nvpn=/etc/openvpn/one.conf\n");
    let before = Snapshot::of(&host);
    let watch = Watch::start(&host);
    host.ok("runns-exec build -s work");
    let programs = Programs::start(&host);
    assert!(comes_from(&host).starts_with("10.8.0."));
    let old = daemons(&host, "work");
    // By another file, and by other contents of the same file.
    configure(&host, "KillSwitch=yes\nvpn=/etc/openvpn/two.conf\n");
    let said = host.ok(CHANGE);
    assert_eq!(
        said,
        "changed vpn: /etc/openvpn/one.conf -> /etc/openvpn/two.conf"
    );
    assert!(comes_from(&host).starts_with("10.9.0."));
    assert!(
        host.ok("cat /etc/netns/work/resolv.conf")
            .contains("nameserver 10.9.0.1")
    );
    let seen = "cat /proc/$(pgrep -f '[s]ender.py')/root/etc/resolv.conf";
    assert!(
        host.ok(seen).contains("nameserver 10.9.0.1"),
        "a program that runs sees it"
    );
    let new = daemons(&host, "work");
    assert!(new.len() == 1 && new != old);
    assert_ne!(host.run(&format!("kill -0 {}", old[0])).status, 0);
    let sent = programs.sent();
    programs.download();
    programs.assert_untouched(&host);
    assert!(programs.sent() > sent);
    host.ok("sed -i 's/1195/1194/' /etc/openvpn/two.conf");
    let said = host.run("runns-exec build -s work");
    assert!(
        said.stderr
            .contains("/etc/openvpn/two.conf has changed since work was built"),
        "{said}"
    );
    assert_eq!(daemons(&host, "work"), new);
    host.ok(CHANGE);
    assert!(comes_from(&host).starts_with("10.8.0."));
    programs.download();
    programs.assert_untouched(&host);
    // Nothing differs, and nothing is touched.
    let same = daemons(&host, "work");
    assert!(host.ok(CHANGE).contains("as asked"));
    assert_eq!(daemons(&host, "work"), same);
    watch.assert_nothing();
    host.ok("runns-exec clean work --kill");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn without_the_kill_switch_nothing_leaves_beside_tunnels_that_are_exchanged() {
    let (host, _servers) = with_servers();
    let _site = host.internet.net.serve(&format!("{FAR}:80"), "site");
    configure(&host, "vpn=/etc/openvpn/one.conf\n");
    host.ok("runns-exec build -s work");
    let watch = Watch::start(&host);
    let programs = Programs::start(&host);
    for (file, address) in [("two", "10.9.0."), ("one", "10.8.0.")] {
        configure(&host, &format!("vpn=/etc/openvpn/{file}.conf\n"));
        host.ok(CHANGE);
        assert!(comes_from(&host).starts_with(address));
        programs.download();
        programs.assert_untouched(&host);
    }
    watch.assert_nothing();
}

/// Through all kinds: without and with a veth pair, the daemon inside and outside.
#[test]
fn the_kill_switch_is_turned_on_and_off_without_a_packet_beside_the_tunnel() {
    let (host, _servers) = with_servers();
    let _site = host.internet.net.serve(&format!("{FAR}:80"), "site");
    let sections = [
        "vpn=/etc/openvpn/one.conf\n",
        "vpn=/etc/openvpn/one.conf\nKillSwitch=yes\n",
        "vpn=/etc/openvpn/two.conf\nKillSwitch=yes\nPublish=8080:80\n",
        "vpn=/etc/openvpn/two.conf\nPublish=8080:80\n",
        "vpn=/etc/openvpn/two.conf\nKillSwitch=yes\n",
        "vpn=/etc/openvpn/two.conf\n",
        "vpn=/etc/openvpn/two.conf\nKillSwitch=yes\nPublish=8080:80\n",
    ];
    configure(&host, sections[0]);
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    let watch = Watch::start(&host);
    let programs = Programs::start(&host);
    for section in &sections[1..] {
        configure(&host, section);
        let said = host.ok(CHANGE);
        assert!(said.contains("changed "), "{said}");
        let address = if section.contains("one") {
            "10.8.0."
        } else {
            "10.9.0."
        };
        assert!(comes_from(&host).starts_with(address), "{section}");
        programs.download();
        programs.assert_untouched(&host);
        let (killed, has_veth) = (section.contains("Kill"), section.contains("Publish"));
        let links = host.ok("ip netns exec work ip -br link");
        assert_eq!(
            links.contains("eth0"),
            !killed || has_veth,
            "{section}: {links}"
        );
        let routes = host.ok("ip netns exec work ip route");
        assert_eq!(
            routes.contains("default via 172.24."),
            !killed,
            "{section}: {routes}"
        );
        host.ok("runns-exec status work");
    }
    watch.assert_nothing();
    host.ok("runns-exec clean work --kill -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn lists_ports_and_the_rest_change_and_the_tunnel_stays() {
    let (host, _servers) = with_servers();
    let _site = host.internet.net.serve(&format!("{FAR}:80"), "site");
    bring_programs(&host);
    let tunnel = "vpn=/etc/openvpn/one.conf\nKillSwitch=yes\nHostAccess=no\nPublish=8081:81\n";
    configure(&host, tunnel);
    host.ok("runns-exec build -s work");
    let watch = Watch::start(&host);
    let programs = Programs::start(&host);
    let _server = serve(&host, "ip netns exec work", 80);
    let daemon = daemons(&host, "work");
    let carol = |host: &Host| host.user("carol").run("runns-exec work -- true").status;
    assert_eq!(carol(&host), 0);
    configure(
        &host,
        &format!(
            "{tunnel}Publish=8080:80\nAllowUsers=alice\nNoNewPrivs=yes\nMTU=1400\nBypass=203.0.113.0/24\n"
        ),
    );
    assert!(from_lan(&host, "192.0.2.2", 8080, "tcp").starts_with("failed"));
    host.ok(CHANGE);
    assert_eq!(from_lan(&host, "192.0.2.2", 8080, "tcp"), "peer 192.0.2.1");
    assert_eq!(carol(&host), 125);
    let alice = host.user("alice");
    assert!(
        alice
            .ok("runns-exec work -- grep NoNewPrivs /proc/self/status")
            .ends_with('1')
    );
    assert!(
        host.ok("ip netns exec work ip link show eth0")
            .contains("mtu 1400")
    );
    assert!(
        host.ok("ip netns exec work ip route get 203.0.113.7")
            .contains("dev eth0")
    );
    configure(&host, &format!("{tunnel}DNS=10.8.0.1\nDNSLock=no\n"));
    host.ok(CHANGE);
    assert!(from_lan(&host, "192.0.2.2", 8080, "tcp").starts_with("failed"));
    assert_eq!(carol(&host), 0);
    assert!(
        host.ok("ip netns exec work ip link show eth0")
            .contains("mtu 1500")
    );
    assert!(
        host.ok("ip netns exec work ip route get 203.0.113.7")
            .contains("dev tun0")
    );
    assert_eq!(
        host.ok("grep -v '^#' /etc/netns/work/resolv.conf"),
        "nameserver 10.8.0.1"
    );
    assert_eq!(daemons(&host, "work"), daemon, "the tunnel was not touched");
    programs.download();
    programs.assert_untouched(&host);
    watch.assert_nothing();
}

#[test]
fn the_uplink_changes() {
    let host = Host::new();
    let net = Net::new();
    host.add_uplink("eth1", "198.18.0.2/24", &net, "198.18.0.1/24");
    host.ok("ip route add default via 198.18.0.1 dev eth1 metric 500");
    for net in [&host.internet.net, &net] {
        net.ip("address add 203.0.113.5/32 dev lo");
    }
    let _first = host.internet.net.serve("203.0.113.5:80", "first");
    let _second = net.serve("203.0.113.5:80", "second");
    let ask = "runns-exec work -- curl -sS --max-time 5 http://203.0.113.5/";
    configure(&host, "");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    for (section, answer) in [
        ("InterfaceOut=eth1\n", "second 198.18.0.2"),
        ("InterfaceOut=eth0\n", "first 192.0.2.2"),
        ("InterfaceOut=eth1\n", "second 198.18.0.2"),
        ("", "first 192.0.2.2"),
    ] {
        configure(&host, section);
        host.ok(CHANGE);
        assert_eq!(host.user("alice").ok(ask), answer, "{section}");
        host.ok("runns-exec status work");
    }
    let rules = host.ok("ip rule; tc filter show dev work ingress");
    assert!(
        !rules.contains("1725") && !rules.contains("runns"),
        "{rules}"
    );
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn what_cannot_change_is_refused_and_nothing_has_changed() {
    let (host, _net) = host();
    host.write("/usr/local/bin/hook", "#!/bin/sh\n");
    host.ok("chmod 755 /usr/local/bin/hook");
    configure(&host, "Publish=8080:80\n");
    host.ok("runns-exec build -s work");
    let state = || host.ok(&format!("{STATE}\ncat /run/runns/work.json"));
    let before = state();
    for (section, parts) in [
        (
            "Subnet=10.99.0.0/24\n",
            ["Subnet cannot change", "not set -> 10.99.0.0/24"],
        ),
        (
            "InterfaceIn=other\n",
            ["InterfaceIn cannot change", "work -> other"],
        ),
        (
            "NetworkNamespace=home\n",
            ["NetworkNamespace cannot change", "work -> home"],
        ),
        (
            "PostBuild=/usr/local/bin/hook\n",
            ["PostBuild cannot change", "not set -> "],
        ),
        ("InterfaceOut=eth7\n", ["uplink eth7", "no such interface"]),
        ("vpn=/etc/none.conf\n", ["/etc/none.conf", ""]),
    ] {
        configure(&host, &format!("AllowUsers=alice\n{section}"));
        let refused = host.run(CHANGE).refused(1, &parts);
        assert_eq!(state(), before, "{section}");
        // Nobody is sent to a command that refuses.
        if parts[0].ends_with("cannot change") {
            let hint = "hint: sudo runns-exec clean work && sudo runns-exec build -s work\n";
            assert!(refused.stderr.ends_with(hint), "{refused}");
            let status = host.user("alice").ok("runns-exec status work");
            let again = "apply it: sudo runns-exec clean work && sudo runns-exec build -s work\n";
            assert!(status.contains(again), "{section}: {status}");
        }
    }
    // A word does, too.
    for command in ["build -n work --change", "build --change"] {
        host.run(&format!("runns-exec {command}"))
            .refused(2, &["--section", "NAME|SECTION"]);
    }
}

#[test]
fn without_change_build_says_what_differs() {
    let (host, _net) = host();
    configure(&host, "Publish=8080:80\n");
    host.ok("runns-exec build -s work");
    configure(&host, "Publish=8081:80\nNoNewPrivs=yes\n");
    host.run("runns-exec build -s work").refused(
        1,
        &[
            "built already, with different settings: NoNewPrivs: no -> yes; Publish: 8080:80/tcp -> 8081:80/tcp",
            "sudo runns-exec build -s work --change",
        ],
    );
    let record =
        host.ok("cat /run/runns/work.json /run/runns/host.nft; nft -t list table inet runns");
    let rehearsed = host.ok("runns-exec build -s work --change --dry-run");
    assert!(
        rehearsed.starts_with(
            "would change NoNewPrivs: no -> yes\nwould change Publish: 8080:80/tcp -> 8081:80/tcp\n"
        ),
        "{rehearsed}"
    );
    assert!(rehearsed.contains("would load this nftables table") && rehearsed.contains("8081 :"));
    assert_eq!(
        host.ok("cat /run/runns/work.json /run/runns/host.nft; nft -t list table inet runns"),
        record
    );
    // It is as it was built, which is what `ok` says.
    for user in ["root", "alice"] {
        let runner = if user == "root" {
            host.root()
        } else {
            host.user(user)
        };
        let status = runner.ok("runns-exec status work");
        assert!(status.contains("work       ok"), "{status}");
        assert!(
            status.contains("differs from its section: Publish: 8080:80/tcp -> 8081:80/tcp; apply it: sudo runns-exec build -s work --change"),
            "{status}"
        );
        let json = runner.ok("runns-exec status work --json");
        assert!(
            json.contains(r#"{"option":"Publish","built":"8080:80/tcp","section":"8081:80/tcp"}"#),
            "{json}"
        );
    }
    host.ok(CHANGE);
    assert!(!host.ok("runns-exec status work").contains("differs"));
}

#[test]
fn everything_that_is_built_is_changed_at_once() {
    let host = Host::new();
    host.configure("[a]\n[b]\nNetworkNamespace=bee\n[c]\n[gone]\n");
    host.ok("for i in a b c gone; do runns-exec build -s $i || exit; done; runns-exec build -n hand -i hand0");
    host.ok("runns-exec build -s c -n more -o eth0");
    host.configure("[a]\nMTU=1400\n[b]\nNetworkNamespace=bee\nMTU=1300\n[c]\n");
    host.ok("ip link set hand0 down && ip link set c down");
    let state = "cd /run/runns && cat *.json; ip -br link";
    let before = host.ok(state);
    let gone =
        "cannot change namespace gone: cannot use /etc/runns.conf: there is no section [gone]\n";
    let said = host.run("runns-exec build --all --change --dry-run");
    assert!(said.status == 1 && said.stderr.contains(gone), "{said}");
    for line in [
        "a: would change MTU: not set -> 1400\n",
        "bee: would change MTU: not set -> 1300\n",
        "more is built already, as asked\n",
    ] {
        assert!(said.stdout.contains(line), "{said}");
    }
    assert_eq!(host.ok(state), before);
    // It does not keep the others from being changed.
    let said = host.run("runns-exec build --all --change");
    assert!(
        said.status == 1
            && said
                .stderr
                .ends_with(&format!("{gone}hint: sudo runns-exec clean gone\n")),
        "{said}"
    );
    for line in [
        "a: changed MTU: not set -> 1400\n",
        "bee: changed MTU: not set -> 1300\n",
        "c repaired\n",
        "hand repaired\n",
        "more is built already, as asked\n",
    ] {
        assert!(said.stdout.contains(line), "{said}");
    }
    for (name, mtu) in [("a", 1400), ("bee", 1300), ("c", 1500)] {
        let link = host.ok(&format!("ip netns exec {name} ip link show eth0"));
        assert!(link.contains(&format!("mtu {mtu}")), "{link}");
    }
    host.ok("runns-exec clean gone && runns-exec build --all --change && runns-exec status");
    // Without --change, the configuration is not read.
    host.configure("[a]\nColour=red\n");
    host.ok("runns-exec build --all");
    host.run("runns-exec build --all --change")
        .refused(1, &["Colour"]);
    for usage in ["--change", "--all --change -s a", "a --all --change"] {
        host.run(&format!("runns-exec build {usage}"))
            .refused(2, &[]);
    }
}

/// What options of build say is no difference of the section, and a change keeps it.
#[test]
fn options_of_build_hold_on_when_the_section_changes() {
    let (host, _net) = host();
    bring_programs(&host);
    host.write("/tmp/dns.conf", "nameserver 192.0.2.1\n");
    configure(&host, "MTU=1400\nDNS=192.0.2.7\n");
    let built = "runns-exec build -s work -n other";
    host.ok(&format!(
        "{built} -i veth9 -o eth1 -r /tmp/dns.conf --publish 8080:80"
    ));
    let _server = serve(&host, "ip netns exec other", 80);
    let hold = || {
        let status = host.ok("runns-exec status other");
        assert!(!status.contains("differs"), "{status}");
        for command in [
            built,
            "runns-exec build other",
            &format!("{built} --dry-run"),
        ] {
            let said = host.ok(command);
            assert!(said.contains("as asked"), "{command}: {said}");
        }
        assert_eq!(
            host.ok("grep -v '^#' /etc/netns/other/resolv.conf"),
            "nameserver 192.0.2.1"
        );
        host.ok("ip link show veth9");
        assert_eq!(from_lan(&host, "192.0.2.2", 8080, "tcp"), "peer 192.0.2.1");
    };
    hold();
    let uplink =
        "tc filter show dev veth9 ingress; ip route show table all | grep '^default.*table 17'";
    assert!(host.ok(uplink).contains("dev eth1"));
    // Another option is a difference, and the hint says how to apply it.
    let output = host.run(&format!("{built} -o eth0"));
    let output = output.refused(1, &["InterfaceOut: eth1 -> eth0"]);
    let hint = output.stderr.split("hint: ").nth(1).expect("a hint");
    let hint = hint
        .split(": ")
        .nth(1)
        .expect("a command")
        .replace("sudo ", "");
    // The section changes, also where an option says something else.
    configure(
        &host,
        "MTU=1300\nDNS=192.0.2.8\nInterfaceOut=eth0\nInterfaceIn=in0\nPublish=9090:90\n",
    );
    let status = host.ok("runns-exec status other");
    let lines: Vec<&str> = status
        .lines()
        .filter(|line| line.contains("differs"))
        .collect();
    assert_eq!(lines.len(), 2, "{status}");
    assert!(lines[0].contains("Publish: 8080:80/tcp -> 9090:90/tcp, 8080:80/tcp"));
    assert!(lines[1].contains("MTU: 1400 -> 1300") && lines[1].contains("--name=other"));
    let said = host.ok(CHANGE);
    assert_eq!(said.matches("changed ").count(), 2, "{said}");
    hold();
    assert!(host.ok(uplink).contains("dev eth1"));
    assert!(
        host.ok("ip netns exec other ip link show eth0")
            .contains("mtu 1300")
    );
    // An option that is given anew counts from then on.
    let said = host.ok(&hint);
    assert!(
        said.contains("changed InterfaceOut: eth1 -> eth0"),
        "{said}"
    );
    hold();
    assert!(host.ok(uplink).contains("dev eth0"));
    // A port of both.
    configure(&host, "MTU=1300\nPublish=8080:80\n");
    host.ok(CHANGE);
    hold();
    // One of another section, or of none, has nothing to do with it.
    host.configure("[work]\n[third]\nNetworkNamespace=other\n");
    host.run("runns-exec build -s third").refused(
        1,
        &["section: work -> third", "InterfaceOut: eth0 -> not set"],
    );
    host.ok("runns-exec clean other -kf && test ! -e /run/runns/other.json");
}

#[test]
fn a_change_that_is_only_rehearsed_has_openvpn_read_what_is_new() {
    let (host, _servers) = with_servers();
    configure(&host, "vpn=/etc/openvpn/one.conf\nKillSwitch=yes\n");
    host.ok("runns-exec build -s work");
    host.ok("echo 'proto nonsense' >>/etc/openvpn/two.conf");
    configure(
        &host,
        "vpn=/etc/openvpn/one.conf\nvpn=/etc/openvpn/two.conf\nKillSwitch=yes\n",
    );
    let before = Snapshot::of(&host);
    host.run(&format!("{CHANGE} --dry-run"))
        .refused(1, &["use /etc/openvpn/two.conf: ", "nonsense"]);
    host.ok("sed -i '/nonsense/d' /etc/openvpn/two.conf");
    host.ok(&format!("{CHANGE} --dry-run"));
    // One whose contents have changed is new as well.
    configure(&host, "vpn=/etc/openvpn/one.conf\nKillSwitch=yes\n");
    host.ok("echo 'proto nonsense' >>/etc/openvpn/one.conf");
    host.run(&format!("{CHANGE} --dry-run"))
        .refused(1, &["use /etc/openvpn/one.conf: ", "nonsense"]);
    host.ok("sed -i '/nonsense/d' /etc/openvpn/one.conf");
    configure(
        &host,
        "vpn=/etc/openvpn/one.conf\nvpn=/etc/openvpn/two.conf\nKillSwitch=yes\n",
    );
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_tunnel_that_does_not_come_up_leaves_everything_as_it_was() {
    let (host, mut servers) = with_servers();
    let _site = host.internet.net.serve(&format!("{FAR}:80"), "site");
    openvpn::configure_client(&host, "dead", 1199);
    configure(&host, "vpn=/etc/openvpn/one.conf\nKillSwitch=yes\n");
    host.ok("runns-exec build -s work");
    let watch = Watch::start(&host);
    let programs = Programs::start(&host);
    configure(
        &host,
        "vpn=/etc/openvpn/dead.conf\nKillSwitch=yes\nAllowUsers=alice,bob\nPublish=8080:80\n",
    );
    host.run(&format!("{CHANGE} --wait 2"))
        .refused(1, &["/etc/openvpn/dead.conf", "the change was undone"]);
    assert!(comes_from(&host).starts_with("10.8.0."));
    programs.download();
    programs.assert_untouched(&host);
    assert!(!host.ok("ip -br link").contains("work"));
    host.ok("runns-exec status work --json | grep -v closed | grep '\"problems\":\\[\\]'");
    // The old one does not come up either.
    servers.remove(0).stop(&host, 1194);
    host.run(&format!("{CHANGE} --wait 2")).refused(
        1,
        &[
            "undoing it failed as well",
            "nothing leaves outside its tunnels",
        ],
    );
    let status = host.run("runns-exec status work");
    assert_eq!(status.status, 1);
    assert!(status.stdout.contains("change: not finished"), "{status}");
    programs.assert_untouched(&host);
    // As long as it is not finished, the lists of both sections have to allow.
    configure(&host, "vpn=/etc/openvpn/dead.conf\nKillSwitch=yes\n");
    let carol = host.user("carol").run("runns-exec work -- true");
    carol.refused(125, &["AllowUsers"]);
    // A section that works ends it.
    configure(&host, "vpn=/etc/openvpn/two.conf\nKillSwitch=yes\n");
    host.ok(CHANGE);
    assert!(comes_from(&host).starts_with("10.9.0."));
    programs.download();
    programs.assert_untouched(&host);
    host.ok("runns-exec status work");
    watch.assert_nothing();
}

#[test]
fn an_interrupted_change_goes_back() {
    let (host, _servers) = with_servers();
    openvpn::configure_client(&host, "dead", 1199);
    host.root()
        .inside(&host.internet.net)
        .ok("iptables -A INPUT -p udp --dport 1199 -j DROP");
    configure(&host, "vpn=/etc/openvpn/one.conf\n");
    host.ok("runns-exec build -s work");
    configure(&host, "vpn=/etc/openvpn/dead.conf\n");
    let change = host.spawn(&format!("exec {CHANGE}"));
    wait_until("the new tunnel's start", || {
        host.ok("pgrep -af '[o]penvpn.*dead.conf' || true")
            .lines()
            .next()
            .map(drop)
    });
    host.ok("pkill -INT -f '[b]uild -s work --change'");
    let output = change.wait();
    output.refused(1, &["interrupted", "the change was undone"]);
    assert!(ping(&host, "work", FAR));
    assert!(
        host.ok("ip netns exec work ip route")
            .contains("default via 172.24.")
    );
}

/// Wherever it is killed: a clean, a build and a further change all work, and nothing has left
/// beside the tunnel.
#[test]
fn a_change_that_is_killed_anywhere_is_finished_or_cleaned() {
    let (host, _net) = host();
    let sections = [
        format!("{}Publish=8080:80\nInterfaceOut=eth1\n", SECTIONS[3]),
        SECTIONS[4].to_string(),
    ];
    let before = Snapshot::of(&host);
    configure(&host, &sections[1]);
    host.ok("runns-exec build -s work --no-wait");
    let wanted = host.ok(STATE);
    host.ok("runns-exec clean work -f");
    let verb = "build -s work --change --no-wait";
    let start = || {
        configure(&host, &sections[0]);
        host.ok("runns-exec build -s work --no-wait");
        configure(&host, &sections[1]);
    };
    start();
    let last = calls(&host, verb);
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
    for (round, call) in points(last, 18).enumerate() {
        start();
        let was_killed = killed(&host, verb, call);
        match round % 3 {
            0 => drop(host.ok("runns-exec clean work -f")),
            1 => {
                host.ok(&format!("runns-exec {verb}"));
                let state = host.ok(STATE);
                assert!(
                    state == wanted,
                    "killed at {call}: {}",
                    difference(&host, &wanted, &state)
                );
            }
            _ => {
                // As the section was, before the record said otherwise; else what was begun.
                let built = host.run("runns-exec build -s work --no-wait");
                if built.status != 0 {
                    configure(&host, &sections[0]);
                    host.ok("runns-exec build -s work --no-wait");
                }
                host.ok("runns-exec status work");
            }
        }
        assert!(was_killed || round > 0);
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn reloading_and_building_what_is_not_there() {
    let (host, _net) = host();
    configure(&host, "");
    assert!(host.ok(CHANGE).contains("work is up: 172.24.0.2"));
    assert!(host.ok("grep ExecReload /usr/local/lib/systemd/system/runns@.service || grep -r ExecReload /usr/lib/systemd/system/runns@.service").contains("--change"));
}

/// Asks the server at the other end again and again, over one connection or from one socket, and
/// says which answer it got last.
const TALKER: &str = r#"
import socket, sys, time
kind = socket.SOCK_DGRAM if sys.argv[3] == 'udp' else socket.SOCK_STREAM
s = socket.create_connection((sys.argv[1], int(sys.argv[2]))) if kind == socket.SOCK_STREAM else socket.socket(socket.AF_INET, kind)
s.connect((sys.argv[1], int(sys.argv[2]))) if kind == socket.SOCK_DGRAM else None
s.settimeout(3)
count = 0
try:
    while True:
        s.send(b'x')
        if not s.recv(100):
            break
        count += 1
        print(count, flush=True)
        time.sleep(0.02)
except OSError as error:
    pass
print('lost', flush=True)
"#;

/// Echoes what each client sends, and sends on by itself to those that it has heard of.
const TALKATIVE: &str = r#"
import socket, threading, time
def connection(c):
    try:
        while c.recv(100):
            c.sendall(b'y')
    except OSError:
        pass
def tcp():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('0.0.0.0', 80))
    s.listen()
    while True:
        threading.Thread(target=connection, args=(s.accept()[0],)).start()
peers = set()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(('0.0.0.0', 80))
def push():
    while True:
        for peer in list(peers):
            try:
                u.sendto(b'z', peer)
            except OSError:
                pass
        time.sleep(0.02)
threading.Thread(target=tcp).start()
threading.Thread(target=push).start()
print('ready', flush=True)
while True:
    peers.add(u.recvfrom(100)[1])
"#;

/// Whoever was connected to a port that is published no longer is not served beside the tunnel any
/// more, and hears nothing.
#[test]
fn a_port_that_is_published_no_longer_is_closed_to_those_who_are_connected() {
    let (host, _servers) = with_servers();
    host.write("/tmp/talker.py", TALKER);
    host.write("/tmp/talkative.py", TALKATIVE);
    for kept in ["Publish=8081:81/udp\n", "Bypass=203.0.113.0/24\n"] {
        let tunnel = format!("vpn=/etc/openvpn/one.conf\nKillSwitch=yes\n{kept}");
        configure(
            &host,
            &format!("{tunnel}Publish=8080:80\nPublish=8080:80/udp\n"),
        );
        host.ok("runns-exec build -s work");
        let server = host.spawn("exec ip netns exec work python3 -u /tmp/talkative.py");
        wait_until("the server", || {
            server.stdout().contains("ready").then_some(())
        });
        let talkers = ["tcp", "udp"].map(|protocol| {
            host.root().inside(&host.internet.net).spawn(&format!(
                "exec python3 -u /tmp/talker.py 192.0.2.2 8080 {protocol}"
            ))
        });
        for talker in &talkers {
            wait_until("answers", || {
                talker.stdout().contains("\n3\n").then_some(())
            });
        }
        configure(&host, &tunnel);
        host.ok(CHANGE);
        for (talker, protocol) in talkers.iter().zip(["tcp", "udp"]) {
            wait_until(&format!("the end of {protocol} with {kept}"), || {
                talker.stdout().contains("lost").then_some(())
            });
        }
        host.ok("runns-exec clean work --kill");
    }
}

/// What the section says when a change gets its turn counts, not what it said when it was called.
#[test]
fn a_change_that_waits_for_its_turn_applies_what_the_section_says_by_then() {
    let (host, _net) = host();
    configure(&host, "");
    host.ok("runns-exec build -s work");
    let _holder = host.spawn("exec flock -F /run/runns/lock sleep 1234");
    wait_until("the lock", || {
        (host.run("flock -n /run/runns/lock true").status != 0).then_some(())
    });
    configure(&host, "MTU=1400\n");
    let change = host.spawn(&format!("exec {CHANGE}"));
    wait_until("a change that waits", || {
        let opened = "readlink /proc/$(pgrep -f '[b]uild -s work --change')/fd/* | grep -q lock";
        (host.run(opened).status == 0).then_some(())
    });
    configure(&host, "MTU=1300\n");
    host.ok("pkill -f '[s]leep 1234'");
    let output = change.wait();
    assert_eq!(output.status, 0, "{output}");
    assert!(host.ok("ip link show work").contains("mtu 1300"));
}

/// Killed where a tunnel has been stopped, or is about to be, and then told to leave it: what is
/// recorded of it says whether it runs, and nothing leaves until it does.
#[test]
fn a_change_that_is_killed_while_a_tunnel_ends_can_be_taken_back() {
    let (host, _servers) = with_servers();
    let _site = host.internet.net.serve(&format!("{FAR}:80"), "site");
    configure(&host, "vpn=/etc/openvpn/one.conf\n");
    host.ok("runns-exec build -s work");
    let watch = Watch::start(&host);
    let programs = Programs::start(&host);
    for file in ["private/0.start", "0.json"] {
        configure(&host, "vpn=/etc/openvpn/two.conf\n");
        let killed = host.run(&format!(
            "strace -qq -o /dev/null -P /run/runns/work.d/{file} -e inject=unlink,unlinkat:signal=KILL {CHANGE}"
        ));
        assert_eq!(killed.status, 137, "{file}: {killed}");
        configure(&host, "vpn=/etc/openvpn/one.conf\n");
        host.ok(CHANGE);
        host.ok("runns-exec status work");
        assert!(comes_from(&host).starts_with("10.8.0."), "{file}");
        programs.download();
        programs.assert_untouched(&host);
    }
    watch.assert_nothing();
}

/// Sends from a port that is published, all the time.
const FROM_PUBLISHED: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('0.0.0.0', 6881))
print('ready', flush=True)
while True:
    try:
        s.sendto(b'probe', (sys.argv[1], 4000))
    except OSError:
        pass
"#;

/// Under the kill switch, such a port has a way of its own to those who have asked it something.
#[test]
fn the_kill_switch_is_turned_off_without_a_packet_from_a_published_port() {
    let (host, _servers) = with_servers();
    host.write("/tmp/from_published.py", FROM_PUBLISHED);
    let section =
        |on: &str| format!("vpn=/etc/openvpn/one.conf\nPublish=6881/udp\nKillSwitch={on}\n");
    configure(&host, &section("yes"));
    host.ok("runns-exec build -s work");
    let watch = Watch::start(&host);
    let sender = host.user("alice").spawn(&format!(
        "exec runns-exec work -- python3 /tmp/from_published.py {FAR}"
    ));
    wait_until("the sender", || {
        sender.stdout().contains("ready").then_some(())
    });
    for on in ["no", "yes", "no"] {
        configure(&host, &section(on));
        host.ok(CHANGE);
    }
    assert!(sender.is_running());
    watch.assert_nothing();
}
