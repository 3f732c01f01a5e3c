//! The truth, and repair (SPEC 12): every kind of damage is shown by `status`, to root and to
//! members of the group, and repaired by `build`, while the programs inside go on.

use crate::support::{Host, Net, WebServer};

/// A host with two uplinks, a web site behind each, and a resolver file.
struct World {
    host: Host,
    _sites: [WebServer; 2],
    _net: Net,
}

const SECTIONS: &str = "[plain]\n\n[bound]\nInterfaceOut=eth1\nResolve=/etc/vpn.resolv\n";

impl World {
    fn new() -> Self {
        let host = Host::new();
        let net = Net::new();
        host.add_uplink("eth1", "198.18.0.2/24", &net, "198.18.0.1/24");
        host.ok("ip route add default via 198.18.0.1 dev eth1 metric 500");
        for net in [&host.internet.net, &net] {
            net.ip("address add 203.0.113.5/32 dev lo");
        }
        let sites = [
            host.internet.net.serve("203.0.113.5:80", "first"),
            net.serve("203.0.113.5:80", "second"),
        ];
        host.write("/etc/vpn.resolv", "nameserver 198.51.100.53\n");
        host.configure(SECTIONS);
        Self {
            host,
            _sites: sites,
            _net: net,
        }
    }

    fn built() -> Self {
        let world = Self::new();
        world
            .host
            .ok("runns-exec build -s plain && runns-exec build -s bound");
        world
    }

    /// Each namespace reaches the web site by its uplink.
    #[track_caller]
    fn assert_connected(&self) {
        let ask = |name: &str| {
            self.host.user("alice").ok(&format!(
                "runns-exec {name} -- curl -sS --max-time 5 http://203.0.113.5/"
            ))
        };
        assert_eq!(ask("plain"), "first 192.0.2.2");
        assert_eq!(ask("bound"), "second 198.18.0.2");
    }

    /// A program in the namespace `name`, by its pid.
    fn program(&self, name: &str) -> Program<'_> {
        let pid = self
            .host
            .user("alice")
            .ok(&format!("runns-exec -d {name} -- sleep 10000"));
        Program {
            host: &self.host,
            identity: identity(&self.host, &pid),
            pid,
        }
    }

    /// `status NAME` fails as root and, where `member` is given, as a member, and says each of
    /// `words`.
    #[track_caller]
    fn assert_shown(&self, name: &str, words: &[&str], member: &[&str]) {
        for (runner, words) in [(self.host.root(), words), (self.host.user("alice"), member)] {
            let shown = runner.run(&format!("runns-exec status {name}"));
            assert_eq!(shown.status, i32::from(!words.is_empty()), "{shown}");
            assert!(
                words.iter().all(|word| shown.stdout.contains(word)),
                "{words:?}: {shown}"
            );
            assert_eq!(shown.stderr, "", "{shown}");
        }
    }

    #[track_caller]
    fn assert_ok(&self, name: &str) {
        for runner in [self.host.root(), self.host.user("alice")] {
            let shown = runner.ok(&format!("runns-exec status {name}"));
            assert!(
                shown
                    .lines()
                    .nth(1)
                    .is_some_and(|line| line.contains(" ok ")),
                "{shown}"
            );
        }
        let again = self.host.ok(&format!("runns-exec build -s {name}"));
        assert_eq!(again, format!("{name} is built already, as asked"));
    }

    /// Does `damage`; it is shown, a rehearsal changes nothing, and building again repairs it.
    #[track_caller]
    fn damage(&self, name: &str, damage: &str, words: &[&str], member: &[&str]) {
        self.assert_ok(name);
        self.host.ok(damage);
        self.assert_shown(name, words, member);
        let rehearsed = self
            .host
            .ok(&format!("runns-exec build -s {name} --dry-run"));
        assert!(
            rehearsed.contains("would repair ") && rehearsed.contains(words[0]),
            "{damage}: {rehearsed}"
        );
        self.assert_shown(name, words, member);
        let built = self.host.run(&format!("runns-exec build -s {name}"));
        assert_eq!(built.status, 0, "{damage}: {built}");
        assert!(
            built.stdout.contains("repaired ") && built.stdout.contains(words[0]),
            "{damage}: {built}"
        );
        self.assert_ok(name);
    }
}

/// When a process was started, and its network namespace.
fn identity(host: &Host, pid: &str) -> String {
    host.ok(&format!(
        "cut -d' ' -f22 /proc/{pid}/stat; readlink /proc/{pid}/ns/net"
    ))
}

struct Program<'a> {
    host: &'a Host,
    pid: String,
    identity: String,
}

impl Program<'_> {
    /// It is the same process as at the beginning, in the same namespace.
    #[track_caller]
    fn assert_goes_on(&self) {
        assert_eq!(identity(self.host, &self.pid), self.identity);
    }
}

#[test]
fn forwarding_and_the_veth_are_repaired() {
    let world = World::built();
    let programs = [world.program("plain"), world.program("bound")];
    world.assert_connected();
    for (damage, words) in [
        ("sysctl -qw net.ipv4.ip_forward=0", "IPv4 forwarding: off"),
        (
            "sysctl -qw net.ipv4.conf.NAME.forwarding=0",
            "interface NAME: it does not forward",
        ),
        (
            "sysctl -qw net.ipv6.conf.NAME.disable_ipv6=0",
            "interface NAME: IPv6 is on",
        ),
        ("ip link set NAME down", "interface NAME: down"),
        (
            "ip link set NAME group default",
            "interface NAME: in the wrong interface group",
        ),
        ("ip link delete NAME", "interface NAME: gone"),
        (
            "ip address flush dev NAME",
            "interface NAME: without its address",
        ),
        (
            "ip route del $(ip -o -4 route show dev NAME | cut -d' ' -f1)",
            "interface NAME: the route to its subnet is gone",
        ),
        (
            "ip -n NAME link set eth0 down",
            "interface eth0 inside: down",
        ),
        ("ip -n NAME link delete eth0", "interface eth0 inside: gone"),
        (
            "ip -n NAME address flush dev eth0",
            "interface eth0 inside: without its address",
        ),
        (
            "ip -n NAME route del default",
            "interface eth0 inside: the default route is gone",
        ),
        (
            "ip -n NAME route flush dev eth0",
            "interface eth0 inside: the route to its subnet is gone",
        ),
        (
            "ip -n NAME link set eth0 down && ip -n NAME link set eth0 name x0",
            "interface eth0 inside: gone",
        ),
        ("ip -n NAME link set lo down", "loopback inside: down"),
        (
            "ip netns exec NAME sysctl -qw net.ipv4.ip_unprivileged_port_start=7",
            "ip_unprivileged_port_start inside: 7, which differs from the host's value",
        ),
        (
            "ip netns exec NAME sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0",
            "interface eth0 inside: IPv6 is on",
        ),
        (
            "ip netns exec NAME sysctl -qw net.ipv4.conf.eth0.rp_filter=1",
            "interface eth0 inside: rp_filter is strict",
        ),
    ] {
        for name in ["plain", "bound"] {
            let words = words.replace("NAME", name);
            world.damage(name, &damage.replace("NAME", name), &[&words], &[&words]);
        }
        world.assert_connected();
    }
    // Only root can find out what it is called now.
    for name in ["plain", "bound"] {
        let damage = format!(
            "ip link set {name} down && ip link set {name} name other && ip link set other up"
        );
        world.damage(
            name,
            &damage,
            &[&format!("interface {name}: renamed to other")],
            &[&format!("interface {name}: gone")],
        );
    }
    world.assert_connected();
    programs.iter().for_each(Program::assert_goes_on);
}

#[test]
fn firewall_rules_are_repaired() {
    let world = World::built();
    let programs = [world.program("plain"), world.program("bound")];
    const GONE: &str = "firewall: the nftables table 'inet runns' is gone";
    for (damage, words) in [
        ("nft flush ruleset", GONE),
        ("nft delete table inet runns", GONE),
        (
            "nft flush chain inet runns masquerading",
            "changed in the nftables table 'inet runns': chain masquerading",
        ),
        (
            "nft flush set inet runns open",
            "changed in the nftables table 'inet runns': set open",
        ),
        // An element that moves to another set is seen, though the same words are there.
        (
            "nft 'delete element inet runns leaving { ipv4 . \"plain\" }; add element inet runns leaving { ipv6 . \"plain\" }'",
            "set leaving",
        ),
        ("nft add rule inet runns leaving accept", "chain leaving"),
        ("nft add set inet runns mine '{ type ifname; }'", "set mine"),
        (
            "iptables -F FORWARD && iptables -P FORWARD DROP",
            "the rules of iptables that accept the namespaces' traffic are missing",
        ),
    ] {
        world.damage("plain", damage, &[words], &[]);
        world.assert_connected();
    }
    for program in &programs {
        program.assert_goes_on();
    }
}

#[test]
fn whether_traffic_gets_through_is_tried() {
    let world = World::built();
    world.assert_ok("plain");
    world.host.ok(
        "nft 'add table inet guard; add chain inet guard forwarding { type filter hook forward priority 10; \
                   policy drop; }; add rule inet guard forwarding ct state established,related accept; \
                   add rule inet guard forwarding iifname bound accept'",
    );
    // What got through before says nothing of what does now, although its ports are used again.
    let ports: Vec<String> = (1..1024).map(|port| format!("plain . {port}")).collect();
    let earlier = format!("add element inet runns passed {{ {} }}\n", ports.join(", "));
    world.host.write("/tmp/earlier", &earlier);
    world.host.ok("nft -f /tmp/earlier");
    let shown = world.host.run("runns-exec status --json");
    let statuses: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let state = |name: &str| {
        let all = statuses.as_array().expect("an array").iter();
        all.into_iter()
            .find(|status| status["namespace"] == name)
            .expect("a namespace")["state"]
            .clone()
    };
    assert_eq!(
        (state("plain"), state("bound"), shown.status),
        ("down".into(), "ok".into(), 1),
        "{shown}"
    );
    world
        .host
        .run("runns-exec build -s plain")
        .refused(1, &["guard", "forwarding", "policy drop"]);
    world.host.ok("nft flush set inet runns passed");
    world.host.ok("nft delete table inet guard");
    world.assert_ok("plain");
    // A firewall that lets only some of it through.
    world.host.ok(
        "nft 'add table inet guard; add chain inet guard forwarding { type filter hook forward priority 10; \
                   policy drop; }; add rule inet guard forwarding ct state established,related accept; \
                   add rule inet guard forwarding tcp dport { 80, 443 } accept'",
    );
    world.assert_ok("plain");
}

#[test]
fn a_foreign_interface_in_the_place_of_ours_is_an_error() {
    let world = World::built();
    world
        .host
        .ok("ip link delete plain && ip link add plain type bridge");
    world.assert_shown(
        "plain",
        &["interface plain: not linked to the namespace"],
        &["interface plain: "],
    );
    world.host.run("runns-exec build -s plain").refused(
        1,
        &["cannot repair interface plain", "exists already", "hint"],
    );
    world.host.ok("ip -d link show plain | grep -q bridge && ip link delete plain && runns-exec build -s plain");
    world.assert_ok("plain");
}

#[test]
fn the_uplink_is_followed() {
    let world = World::built();
    let program = world.program("bound");
    let route = "ip route add default via 198.18.0.1 dev eth1 metric 500";
    let table = "$(ip rule | grep -o 'lookup 17[0-9]*' | cut -d' ' -f2)";
    for (damage, words) in [
        (
            format!("ip link set eth1 down; ip link set eth1 up; {route}"),
            "uplink eth1: its routes differ from the host's",
        ),
        (
            "ip route del default dev eth1 && ip route add default via 198.18.0.77 dev eth1 metric 500".to_string(),
            "uplink eth1: its routes differ from the host's",
        ),
        (
            format!("ip route del default dev eth1 && {route}; ip route flush table {table} type unicast"),
            "uplink eth1: its routes differ from the host's",
        ),
        (
            format!("ip route del unreachable default table {table} metric 4294967295"),
            "uplink eth1: the route that keeps",
        ),
        (format!("ip rule del lookup {table}"), "uplink eth1: its routing rule is gone"),
        ("sysctl -qw net.ipv4.conf.eth1.rp_filter=1".to_string(), "uplink eth1: rp_filter is strict"),
        ("sysctl -qw net.ipv4.conf.eth1.forwarding=0".to_string(), "uplink eth1: it does not forward"),
        ("tc qdisc del dev bound ingress".to_string(), "interface bound: arriving packets are not marked for the uplink"),
    ] {
        world.damage("bound", &damage, &[words], &[words]);
        world.assert_ok("plain");
        let gateway = world.host.ok(&format!("ip route show table {table}"));
        let host = world.host.ok("ip route show default dev eth1 | cut -d' ' -f3");
        assert!(gateway.contains(&format!("default via {host} ")), "{gateway}");
    }
    world.host.ok("ip route del default dev eth1 && ip route add default via 198.18.0.1 dev eth1 metric 500 && runns-exec build -s bound");
    world.assert_connected();
    // What only the administrator can repair.
    world.host.ok("ip link set eth1 down");
    world.assert_shown(
        "bound",
        &["uplink eth1: down", "sudo ip link set eth1 up"],
        &["uplink eth1: down"],
    );
    world.host.run("runns-exec build -s bound").refused(
        1,
        &["cannot repair uplink eth1: down", "hint: sudo ip link"],
    );
    world.host.ok("ip link delete eth1");
    world.assert_shown(
        "bound",
        &["uplink eth1: there is no such interface"],
        &["uplink eth1: there is no"],
    );
    world
        .host
        .run("runns-exec build -s bound")
        .refused(1, &["cannot repair uplink eth1"]);
    world.assert_ok("plain");
    program.assert_goes_on();
}

#[test]
fn files_and_the_dns_lock_are_repaired() {
    let world = World::built();
    let program = world.program("bound");
    let directory = "/etc/netns/bound";
    let before = world.host.ok(&format!("cat {directory}/*"));
    for file in ["resolv.conf", "nsswitch.conf"] {
        let path = format!("{directory}/{file}");
        for (damage, how) in [
            ("echo '# mine' >>PATH", "changed"),
            ("sed -i 1d PATH", "changed"),
            (">PATH", "empty"),
            ("rm PATH", "gone"),
            ("ln -sf /etc/passwd PATH", "a symbolic link"),
            ("rm PATH && mkdir PATH", "not a regular file"),
            ("chown alice PATH", "owned by uid"),
            ("chmod 666 PATH", "users other than root can write to it"),
            ("chmod 600 PATH", "not everybody can read it"),
        ] {
            let words = format!("{path}: {how}");
            let member = if how == "changed" || how == "empty" {
                &[words.as_str()][..]
            } else {
                &["/etc/netns/bound"]
            };
            world.damage("bound", &damage.replace("PATH", &path), &[&words], member);
            assert_eq!(
                world.host.ok(&format!("stat -c '%F %U %a' {path}")),
                "regular file root 644",
                "{damage}"
            );
        }
    }
    assert_eq!(world.host.ok(&format!("cat {directory}/*")), before);
    world.damage(
        "bound",
        "rm -r /etc/netns/bound",
        &["/etc/netns/bound/resolv.conf: gone"],
        &["gone"],
    );
    world.damage(
        "bound",
        "chmod 777 /etc/netns/bound",
        &["/etc/netns/bound: users other than root"],
        &["/etc/netns/bound: "],
    );
    // A program that has the file mounted sees the change.
    world.host.ok(&format!(
        "echo 'nameserver 9.9.9.9' >{directory}/resolv.conf && runns-exec build -s bound"
    ));
    assert!(
        world
            .host
            .ok(&format!("cat /proc/{}/root/etc/resolv.conf", program.pid))
            .contains("198.51.100.53")
    );
    world.host.ok(&format!(
        "nsenter -t {} -m cat /etc/resolv.conf | grep -q 198.51.100.53",
        program.pid
    ));

    let inside = "ip netns exec bound";
    let rules = world
        .host
        .ok(&format!("{inside} nft -s list table inet runns"));
    for (damage, how) in [
        ("nft flush ruleset", "gone"),
        (
            "nft flush chain inet runns redirecting",
            "changed: chain redirecting",
        ),
        (
            "nft delete element inet runns resolvers '{ 198.51.100.53 }'",
            "changed: set resolvers",
        ),
        (
            "nft insert rule inet runns redirecting accept",
            "changed: chain redirecting",
        ),
    ] {
        // As a member, nothing is seen of it, which is said.
        world.damage(
            "bound",
            &format!("{inside} {damage}"),
            &[&format!("rules inside: {how}")],
            &[],
        );
        let seen = world.host.user("alice").ok("runns-exec status bound");
        assert!(
            seen.contains("not checked (needs root): ") && seen.contains("DNS lock rules"),
            "{seen}"
        );
    }
    assert_eq!(
        world
            .host
            .ok(&format!("{inside} nft -s list table inet runns")),
        rules
    );
    // A rule of somebody else stays, and is asked too late to change anything.
    world.host.ok(&format!(
        "{inside} iptables -t nat -I OUTPUT -p udp --dport 53 -j ACCEPT"
    ));
    world.assert_ok("bound");
    world.damage(
        "bound",
        &format!("{inside} sysctl -qw net.ipv4.conf.all.route_localnet=0"),
        &["DNS lock: route_localnet is off"],
        &["DNS lock: route_localnet is off"],
    );
    program.assert_goes_on();
}

#[test]
fn a_name_that_was_unmounted_comes_back() {
    let world = World::built();
    let program = world.program("plain");
    for damage in [
        "umount /run/netns/plain",
        "umount /run/netns/plain && rm /run/netns/plain",
    ] {
        let words = &["/run/netns/plain: not mounted"];
        world.damage("plain", damage, words, words);
        assert_eq!(
            world.host.ok("stat -Lc 'net:[%i]' /run/netns/plain"),
            program.identity.lines().nth(1).unwrap()
        );
    }
    world.assert_connected();
    program.assert_goes_on();
    // Another namespace under the name, and one that nobody is in.
    world
        .host
        .ok("umount /run/netns/plain && rm /run/netns/plain && ip netns add plain");
    world.assert_shown(
        "plain",
        &["/run/netns/plain: another namespace"],
        &["/run/netns/plain: another namespace"],
    );
    world
        .host
        .run("runns-exec build -s plain")
        .refused(1, &["cannot repair /run/netns/plain", "clean plain"]);
    world
        .host
        .ok("ip netns delete plain && runns-exec build -s plain && umount /run/netns/bound");
    world.assert_shown(
        "bound",
        &["/run/netns/bound: gone, and no process"],
        &["/run/netns/bound: not mounted"],
    );
    world
        .host
        .run("runns-exec build -s bound")
        .refused(1, &["cannot repair /run/netns/bound", "clean bound"]);
    world
        .host
        .ok("runns-exec clean bound && runns-exec build -s bound");
    world.assert_ok("plain");
    world.assert_ok("bound");
    program.assert_goes_on();
}
