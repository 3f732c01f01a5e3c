//! NAT and forwarding, on hosts with firewalls of their own.

use crate::support::{Background, Host, Net, Snapshot, WebServer, wait_until};

fn host() -> (Host, WebServer) {
    let host = Host::new();
    let web = host.internet.net.serve("192.0.2.1:80", "seen");
    (host, web)
}

#[track_caller]
fn has_connection(host: &Host, name: &str) {
    let curl = format!("runns-exec {name} -- curl -sS --max-time 5 http://192.0.2.1/");
    assert_eq!(host.user("alice").ok(&curl), "seen 192.0.2.2");
}

/// tcpdump(8) on the uplink, for everything that is forwarded to it.
struct Uplink<'a> {
    host: &'a Host,
    process: Background,
}

impl<'a> Uplink<'a> {
    fn watch(host: &'a Host) -> Self {
        let process =
            host.spawn("echo $$; exec tcpdump -p -Z root -n -l --immediate-mode -i eth0 -Q out ip");
        wait_until("tcpdump listens", || {
            process.stderr().contains("listening on").then_some(())
        });
        Self { host, process }
    }

    /// What was seen; a last packet of the host's own proves that all was.
    fn packets(self) -> Vec<String> {
        self.host.ok("python3 -c 'import socket; socket.socket(2, 2).sendto(b\"last\", (\"192.0.2.1\", 9999))'");
        wait_until("the last packet is seen", || {
            self.process
                .stdout()
                .contains("192.0.2.1.9999")
                .then_some(())
        });
        let output = self.process.stdout();
        let mut lines = output.lines();
        self.host
            .ok(&format!("kill {}", lines.next().expect("tcpdump's pid")));
        lines
            .filter(|line| !line.contains("192.0.2.1.9999"))
            .map(str::to_string)
            .collect()
    }
}

#[test]
fn everything_stands_in_one_table_and_goes_with_the_last_namespace() {
    let (host, _web) = host();
    host.ok("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -n a && runns-exec build -n ab");
    let tables = host.ok("nft list tables | grep -v ' filter$'");
    assert_eq!(tables, "table inet runns");
    // iptables' tables get what accepts, and nothing else.
    let added = host.ok("iptables-save | grep '^-A'");
    assert!(
        added
            .lines()
            .all(|rule| rule.ends_with("-m comment --comment runns -j ACCEPT")),
        "{added}"
    );
    assert_eq!(
        host.run("ip6tables-save | grep '^-A'").stdout,
        "",
        "neither has IPv6"
    );
    let text = host.ok("cat /run/runns/host.nft");
    host.ok("runns-exec clean a");
    has_connection(&host, "ab");
    assert_ne!(host.ok("cat /run/runns/host.nft"), text);
    // The text is the table: loading it changes nothing.
    let list = "nft -s list table inet runns";
    let listed = host.ok(list);
    host.ok("nft -f /run/runns/host.nft");
    assert_eq!(host.ok(list), listed);
    host.ok("runns-exec clean ab -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn nft_accepts_the_text_for_each_kind_of_section() {
    let host = Host::new();
    host.ok("cp -r /runns-source/src/root/table/golden /tmp/golden");
    let files = host.ok("ls /tmp/golden/*.nft");
    assert!(files.lines().count() > 10, "{files}");
    for file in files.lines() {
        // Each holds two tables of one name: the host's, and that inside.
        host.ok(&format!("sed '/^# Inside/,$d' {file} | nft -c -f - && sed -n '/^# Inside/,$p' {file} | nft -c -f -"));
    }
}

#[test]
fn a_build_shows_the_table_before_it_loads_it() {
    let (host, _web) = host();
    let planned = host.ok("runns-exec build -n a -o eth0 --publish 8080:80 --dry-run");
    let planned = planned
        .split_once("table inet runns {")
        .expect("the table")
        .1
        .trim()
        .to_string();
    host.ok("runns-exec build -n a -o eth0 --publish 8080:80");
    let loaded = host.ok("cat /run/runns/host.nft");
    assert_eq!(
        loaded
            .split_once("table inet runns {")
            .expect("the table")
            .1
            .trim(),
        planned
    );
}

#[test]
fn a_record_that_cannot_be_read_loses_its_permissions_and_no_guard() {
    let (host, web) = host();
    host.ok("runns-exec build -n a && runns-exec build -n b --publish 8080:80");
    host.ok("echo '{' >/run/runns/b.json");
    host.ok("nft delete table inet runns && runns-exec build -n a");
    has_connection(&host, "a");
    let seen = web.requests().len();
    // What is in b already, from a descriptor of its namespace: members cannot enter without a
    // record.
    let curl = "ip netns exec b curl -sS --max-time 2 http://192.0.2.1/";
    assert_ne!(host.run(curl).status, 0);
    assert_ne!(
        host.run("ip netns exec b curl -sS --max-time 2 http://172.24.0.1/")
            .status,
        0
    );
    assert_eq!(web.requests().len(), seen);
    host.ok("runns-exec clean a && runns-exec clean b -f");
    assert_eq!(host.ok("nft list tables | grep -c runns || true"), "0");
}

/// Rules that a packet can meet: lines of iptables-save, of nft and of `ip rule`.
fn rules(host: &Host) -> usize {
    let count = "{ iptables-save; ip6tables-save; iptables-legacy-save 2>/dev/null; } | grep -c ^-A; \
                 nft list table inet runns | grep -cE '^\t\t[a-z].*(accept|drop|return|jump|goto|set|masquerade)'; ip rule | wc -l; ip -6 rule | wc -l";
    host.ok(count)
        .lines()
        .map(|line| line.trim().parse::<usize>().expect("a number"))
        .sum()
}

#[test]
fn rules_do_not_grow_with_the_number_of_namespaces() {
    let (host, _web) = host();
    let lan = Net::new();
    host.add_uplink("lan0", "10.50.0.1/24", &lan, "10.50.0.2/24");
    host.ok("iptables-legacy -P FORWARD DROP");
    let before = Snapshot::of(&host);
    host.ok(
        "runns-exec build -n a && runns-exec build -n b -o eth0 && runns-exec build -n c -o lan0",
    );
    let few = rules(&host);
    host.ok(
        "for i in 1 2 3 4 5; do runns-exec build -n p$i && runns-exec build -n e$i -o eth0 && \
             runns-exec build -n l$i -o lan0 || exit 1; done",
    );
    assert_eq!(rules(&host), few);
    for name in ["a", "b", "p5", "e5"] {
        has_connection(&host, name);
    }
    host.ok("for name in a b c p1 p2 p3 p4 p5; do runns-exec clean $name || exit 1; done");
    has_connection(&host, "e1");
    host.ok(
        "for i in 1 2 3 4 5; do runns-exec clean e$i && runns-exec clean l$i -f || exit 1; done",
    );
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn the_host_does_not_become_a_router_for_others() {
    let (host, web) = host();
    let lan = Net::new();
    host.add_uplink("lan0", "10.50.0.1/24", &lan, "10.50.0.2/24");
    lan.ip("route add default via 10.50.0.1");
    host.internet.net.ip("route add 10.50.0.0/24 via 192.0.2.2");
    let lan_web = lan.serve("10.50.0.2:80", "lan");
    let from_lan = host.root().inside(&lan);
    let from_uplink = host.root().inside(&host.internet.net);
    let (to_uplink, to_lan) = (
        "curl -sS --max-time 2 http://192.0.2.1/",
        "curl -sS --max-time 2 http://10.50.0.2/",
    );
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -n a && runns-exec build -n b");
    for _ in 0..2 {
        assert_ne!(from_lan.run(to_uplink).status, 0, "lan0 to eth0");
        assert_ne!(from_uplink.run(to_lan).status, 0, "eth0 to lan0");
        has_connection(&host, "b");
        assert_eq!(
            host.ok("runns-exec b -- curl -sS --max-time 5 http://10.50.0.2/"),
            "lan 10.50.0.1"
        );
        // The rules are the last one's now.
        host.run("runns-exec clean a -f");
    }
    assert!(web.requests().iter().all(|from| from == "192.0.2.2") && lan_web.requests().len() == 2);
    host.ok("runns-exec clean b -f");
    before.assert_same(&Snapshot::of(&host));
    // A host that was one before goes on.
    host.ok("sysctl -qw net.ipv4.ip_forward=1 && runns-exec build");
    assert_eq!(from_lan.ok(to_uplink), "seen 10.50.0.2");
    assert_eq!(from_uplink.ok(to_lan), "lan 192.0.2.1");
    host.ok("runns-exec clean vpn1 -f");
    assert_eq!(from_lan.ok(to_uplink), "seen 10.50.0.2");
}

#[test]
fn forwarding_stays_on_where_a_bridge_has_come_to_rely_on_it() {
    let (host, _web) = host();
    host.ok("runns-exec build");
    // As Docker does it, which finds forwarding on and leaves it at that.
    host.ok("ip link add docker0 type bridge && ip address add 10.60.0.1/24 dev docker0 && ip link set docker0 up");
    let container = Net::new();
    host.add_uplink("port0", "10.61.0.1/32", &container, "10.60.0.2/24");
    host.ok(
        "ip address flush dev port0; ip link set port0 master docker0; \
             iptables -t nat -A POSTROUTING -s 10.60.0.0/24 ! -o docker0 -j MASQUERADE",
    );
    container.ip("route add default via 10.60.0.1");
    let from_container = host.root().inside(&container);
    let curl = "curl -sS --max-time 5 http://192.0.2.1/";
    assert_eq!(
        from_container.ok(curl),
        "seen 192.0.2.2",
        "beside a namespace"
    );
    let said = host.run("runns-exec clean vpn1 -f");
    assert!(
        said.status == 0 && said.stdout.contains("docker0"),
        "{said}"
    );
    assert_eq!(from_container.ok(curl), "seen 192.0.2.2", "without one");
    host.ok("ip link delete docker0 && runns-exec build && runns-exec clean vpn1 -f");
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "0");
}

#[test]
fn policies_and_rules_that_drop_are_passed() {
    for (backend, prepare) in [
        ("nft", "iptables -P FORWARD DROP"),
        ("nft", "iptables -A FORWARD -j REJECT"),
        (
            "nft",
            "iptables -P FORWARD DROP && iptables -N DOCKER-USER && iptables -A FORWARD -j DOCKER-USER && \
                 iptables -A DOCKER-USER -j RETURN",
        ),
        (
            "nft",
            "iptables -N DOCKER-USER && iptables -A FORWARD -j DOCKER-USER && iptables -A DOCKER-USER -j DROP",
        ),
        ("legacy", "iptables-legacy -P FORWARD DROP"),
        ("legacy", "iptables-legacy -A FORWARD -j DROP"),
    ] {
        let (host, _web) = host();
        host.ok(prepare);
        let before = Snapshot::of(&host);
        host.ok("runns-exec build");
        has_connection(&host, "vpn1");
        let rules = host.ok(&format!(
            "iptables-{backend}-save | grep -c -- '--comment runns'"
        ));
        assert_ne!(rules, "0", "{prepare}");
        host.ok("runns-exec clean vpn1 -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn iptables_may_be_the_legacy_one() {
    let (host, _web) = host();
    host.ok("for name in iptables iptables-save iptables-restore; do \
             ln -sf xtables-legacy-multi /usr/sbin/$name; done; iptables -P FORWARD DROP");
    assert!(host.ok("iptables --version").contains("legacy"));
    let before = Snapshot::of(&host);
    host.ok("runns-exec build");
    has_connection(&host, "vpn1");
    assert_ne!(
        host.ok("iptables-legacy-save | grep -c -- '--comment runns'"),
        "0"
    );
    host.ok("runns-exec clean vpn1 -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_native_nft_chain_that_drops_is_named() {
    let (host, _web) = host();
    host.ok("nft add table inet guard && nft 'add chain inet guard forwarding { type filter hook forward priority 10; policy drop; }'");
    let before = Snapshot::of(&host);
    host.run("runns-exec build")
        .refused(1, &["guard", "forwarding"]);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn the_rule_that_drops_is_found_by_a_packet() {
    let chain = |rules: &str| {
        format!(
            "nft 'add table inet guard; add chain inet guard zone; \
             add chain inet guard forwarding {{ type filter hook forward priority 10; policy accept; }}; {rules}'"
        )
    };
    let add = "add rule inet guard";
    for (rules, named) in [
        // As firewalld has it: replies, then a jump by zone, then everything else.
        (
            format!(
                "{add} forwarding ct state {{ established, related }} accept; {add} forwarding jump zone; \
                 {add} forwarding reject with icmpx admin-prohibited; {add} zone iifname lo accept"
            ),
            vec![
                "'inet guard forwarding'",
                "reject with icmpx admin-prohibited",
            ],
        ),
        (
            format!("{add} forwarding jump zone; {add} zone ip saddr 172.16.0.0/12 drop"),
            vec!["'inet guard zone'", "drop"],
        ),
        // Seen by no look at forward hooks.
        (
            "add chain inet guard early { type filter hook prerouting priority -400; }; \
             add rule inet guard early iifname vpn1 drop"
                .to_string(),
            vec!["'inet guard early'"],
        ),
    ] {
        let (host, _web) = host();
        host.ok(&chain(&rules));
        let before = Snapshot::of(&host);
        let watch = Uplink::watch(&host);
        host.run("runns-exec build").refused(
            1,
            &[&["cannot forward the traffic of vpn1"], &named[..]].concat(),
        );
        before.assert_same(&Snapshot::of(&host));
        assert_eq!(
            watch.packets(),
            Vec::<String>::new(),
            "what is tried never leaves the host"
        );
    }
}

#[test]
fn a_firewall_that_lets_something_through_is_passed() {
    let (host, _web) = host();
    // Web pages, and nothing else.
    host.ok("nft 'add table inet guard; add chain inet guard forwarding { type filter hook forward priority 10; \
             policy drop; }; add rule inet guard forwarding ct state established,related accept; \
             add rule inet guard forwarding tcp dport { 80, 443 } accept'");
    let before = Snapshot::of(&host);
    let watch = Uplink::watch(&host);
    host.ok("runns-exec build");
    assert_eq!(
        watch.packets(),
        Vec::<String>::new(),
        "what is tried never leaves the host"
    );
    has_connection(&host, "vpn1");
    host.ok("runns-exec clean vpn1 -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_host_without_a_route_builds_all_the_same() {
    let (host, _web) = host();
    host.ok("ip route delete default");
    host.ok("runns-exec build -n none");
    // One that leads nowhere is like none.
    host.ok(
        "ip route add unreachable default metric 5 && ip route add default via 192.0.2.1 metric 9",
    );
    let output = host.run("runns-exec build -n unreachable");
    assert!(
        output.status == 0 && output.stderr.contains("no route"),
        "{output}"
    );
    host.ok("ip route delete unreachable default");
    // An uplink that has no gateway: a neighbour is tried.
    let lan = Net::new();
    host.add_uplink("lan0", "10.50.0.1/24", &lan, "10.50.0.2/24");
    host.ok("runns-exec build -n lan -o lan0");
    host.ok("nft 'add table inet guard; add chain inet guard forwarding { type filter hook forward priority 10; \
             policy drop; }'");
    let output = host.run("runns-exec build -n lan2 -o lan0");
    assert!(
        output.status == 1
            && output
                .stderr
                .contains("'inet guard forwarding' drops it: policy drop"),
        "{output}"
    );
}

#[test]
fn neighbours_reach_no_server_inside_and_foreign_sources_do_not_leave() {
    let (host, web) = host();
    host.ok("runns-exec build");
    let inside = host.spawn("runns-exec vpn1 -- python3 -m http.server 8000");
    // Its own host reaches it; a neighbour that uses the host as a router does not.
    host.ok("i=0; until curl -sS --max-time 2 http://172.24.1.2:8000/ >/dev/null; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.05; done");
    host.internet
        .net
        .ip("route add 172.24.0.0/16 via 192.0.2.2");
    let neighbour = host.root().inside(&host.internet.net);
    assert_ne!(
        neighbour
            .run("curl -sS --max-time 2 http://172.24.1.2:8000/")
            .status,
        0
    );
    assert!(inside.is_running());
    // Packets that leave the namespace with another source address are dropped on the host.
    host.ok("ip -n vpn1 address add 172.24.99.2/32 dev eth0");
    let foreign =
        "runns-exec vpn1 -- curl -sS --max-time 2 --interface 172.24.99.2 http://192.0.2.1/";
    assert_ne!(host.run(foreign).status, 0);
    assert!(web.requests().is_empty(), "{:?}", web.requests());
    has_connection(&host, "vpn1");
}

#[test]
fn namespaces_do_not_reach_each_other() {
    let (host, _web) = host();
    host.ok("runns-exec build && runns-exec build");
    let _inside = host.spawn("runns-exec vpn1 -- python3 -m http.server 8000");
    host.ok("i=0; until curl -sS --max-time 2 http://172.24.1.2:8000/ >/dev/null; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.05; done");
    let curl = "runns-exec vpn2 -- curl -sS --max-time 2 http://172.24.1.2:8000/";
    assert_ne!(host.run(curl).status, 0, "inward only RELATED,ESTABLISHED");
}

#[test]
fn forwarding_is_restored_with_each_interfaces_own() {
    let (host, _web) = host();
    let lan = Net::new();
    host.add_uplink("lan0", "10.50.0.1/24", &lan, "10.50.0.2/24");
    host.ok("sysctl -qw net.ipv4.conf.lan0.forwarding=1 net.ipv4.conf.eth0.forwarding=0");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build && runns-exec build");
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    let said = host.run("runns-exec clean vpn1 -f");
    assert!(
        said.status == 0 && format!("{said}").contains("forward"),
        "left on for vpn2, and says so: {said}"
    );
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    let said = host.run("runns-exec clean vpn2");
    assert!(
        said.status == 0 && format!("{said}").contains("forward"),
        "left on, and says so: {said}"
    );
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    host.ok("runns-exec build && runns-exec clean vpn1 -f");
    before.assert_same(&Snapshot::of(&host));
    // A host that forwarded before keeps forwarding.
    host.ok("sysctl -qw net.ipv4.ip_forward=1");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build && runns-exec clean vpn1 -f");
    before.assert_same(&Snapshot::of(&host));
}

/// A child that was forked while another thread ran may find a lock held for ever.
#[test]
fn build_forks_with_one_thread_only() {
    // The rule goes when it is looked for; until build has ended, a process that was left has the
    // monitor's output open.
    const NFT: &str = "#!/bin/sh\n[ \"$1\" = monitor ] || exec /usr/sbin/nft \"$@\"\n/usr/sbin/nft delete table inet guard\n\
                       while kill -0 $PPID; do sleep 0.05; done &\nwait\n";
    let host = Host::new();
    host.ok("nft add table inet guard && nft 'add chain inet guard forwarding { type filter hook forward priority 10; policy drop; }'");
    for (path, text) in [
        ("/usr/local/sbin/nft", NFT),
        ("/usr/local/sbin/up", "#!/bin/sh\n"),
    ] {
        host.write(path, text);
        host.ok(&format!("chmod 755 {path}"));
    }
    host.configure("[work]\nPostBuild=/usr/local/sbin/up\n");
    host.ok("strace -f -qq -o /tmp/trace -e trace=clone,clone3,fork,vfork,exit runns-exec build -s work");
    let trace = host.ok("cat /tmp/trace");
    let main = trace.split_whitespace().next().expect("a pid");
    let (mut threads, mut forks) = (0, 0);
    for (pid, call) in trace
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
    {
        match call.trim() {
            call if pid != main => threads -= i32::from(call.starts_with("exit(")),
            call if call.contains("CLONE_THREAD") => threads += 1,
            call if call.starts_with("vfork")
                || call.contains("CLONE_VM")
                || call.starts_with("<...") => {}
            call => {
                assert_eq!(threads, 0, "{call} with {threads} threads: {trace}");
                forks += 1;
            }
        }
    }
    assert!(forks > 0, "the hook: {trace}");
}

#[test]
fn a_host_that_clean_leaves_forwarding_is_no_router() {
    let (host, _web) = host();
    let lan = Net::new();
    host.add_uplink("lan0", "10.50.0.1/24", &lan, "10.50.0.2/24");
    lan.ip("route add default via 10.50.0.1");
    host.internet.net.ip("route add 10.50.0.0/24 via 192.0.2.2");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -n a && runns-exec clean a");
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    let from_uplink = host.root().inside(&host.internet.net);
    assert_ne!(from_uplink.run("ping -c 1 -W 1 10.50.0.2").status, 0);
    host.ok("runns-exec clean a -f");
    before.assert_same(&Snapshot::of(&host));
    // The test sees it.
    host.ok("sysctl -qw net.ipv4.ip_forward=1");
    from_uplink.ok("ping -c 1 -W 1 10.50.0.2");
}

#[test]
fn a_connection_that_began_without_the_table_ends_with_it() {
    let (host, _web) = host();
    host.ok("runns-exec build");
    host.internet
        .net
        .ip("route add 172.24.0.0/16 via 192.0.2.2");
    // As many an /etc/nftables.conf has it; it keeps connections known while our table is missing.
    host.ok("nft flush ruleset; nft 'table inet guard { chain input { type filter hook forward priority 0; \
             ct state established,related accept; }; }'");
    let listener = host.spawn("exec ip netns exec vpn1 socat -u TCP-LISTEN:81,fork STDOUT");
    wait_until("it listens", || {
        host.ok("ip netns exec vpn1 ss -ltn")
            .contains(":81")
            .then_some(())
    });
    let neighbour = host.root().inside(&host.internet.net);
    let _sender = neighbour
        .spawn("(while :; do echo lan; sleep 0.05; done) | exec socat -u STDIN TCP:172.24.1.2:81");
    wait_until("the connection", || {
        listener.stdout().contains("lan").then_some(())
    });
    host.ok("runns-exec build -n vpn1 && runns-exec status");
    let heard = listener.stdout().len();
    // A packet that gets through later than what was sent over the connection.
    for _ in 0..5 {
        has_connection(&host, "vpn1");
    }
    assert!(listener.stdout().len() <= heard + 8, "it goes on");
    host.run("pkill socat");
    host.ok("runns-exec clean vpn1 -fk");
}

#[test]
fn replies_leave_by_the_uplink_that_the_question_came_through() {
    let (host, _web) = host();
    crate::neighbours::bring_programs(&host);
    let net = Net::new();
    host.add_uplink("eth1", "198.18.0.2/24", &net, "198.18.0.1/24");
    host.ok("ip route add default via 198.18.0.1 dev eth1 metric 500");
    host.configure("[a]\nInterfaceOut=eth0\nPublish=8080:80\n[b]\nInterfaceOut=eth1\n");
    host.ok("runns-exec build -s a && runns-exec build -s b");
    let _server = crate::neighbours::serve(&host, "ip netns exec a", 80);
    let said = host
        .root()
        .inside(&net)
        .ok("python3 /tmp/client.py 198.18.0.2 8080 tcp");
    assert_eq!(said, "peer 198.18.0.1");
    host.ok("runns-exec status && runns-exec clean a -k && runns-exec clean b -fk");
}

#[test]
fn loopback_servers_of_the_host_stay_closed_where_route_localnet_is_on() {
    let (host, _web) = host();
    host.ok("sysctl -qw net.ipv4.conf.all.route_localnet=1 && runns-exec build");
    let listener = host.spawn("exec socat -u UDP-RECV:5000,bind=127.0.0.1 STDOUT");
    wait_until("it listens", || {
        host.ok("ss -lun").contains("127.0.0.1:5000").then_some(())
    });
    let send = |address: &str| {
        let send = format!(
            "import socket; s = socket.socket(2, 2); s.setsockopt(1, 25, b\"eth0\"); s.sendto(b\"inside\", (\"{address}\", 5000))"
        );
        host.run(&format!("ip netns exec vpn1 python3 -c '{send}'"))
    };
    host.ok("ip netns exec vpn1 sysctl -qw net.ipv4.conf.all.route_localnet=1");
    send("127.0.0.1");
    host.ok("echo last | socat -u STDIN UDP:127.0.0.1:5000");
    wait_until("the last one", || {
        listener.stdout().contains("last").then_some(())
    });
    assert!(
        !listener.stdout().contains("inside"),
        "{}",
        listener.stdout()
    );
    host.run("pkill socat");
    host.ok("runns-exec clean vpn1 -fk");
}

/// IFACE HARDWARE-ADDRESS SOURCE PORT DESTINATION PORT: sends a UDP packet with any source.
const FORGE: &str = r#"
import socket, struct, sys
interface, hardware, source, source_port, target, target_port = sys.argv[1:7]
ends = socket.inet_aton(source) + socket.inet_aton(target)
udp = struct.pack('!HHHH', int(source_port), int(target_port), 9, 0) + b'x'
header = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + ends
total = sum(struct.unpack('!10H', header))
total = (total & 0xffff) + (total >> 16)
header = header[:10] + struct.pack('!H', ~total & 0xffff) + header[12:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((interface, 0))
s.send(bytes.fromhex(hardware.replace(':', '')) + s.getsockname()[4] + b'\x08\x00' + header + udp)
"#;

/// A packet from outside that claims to come from a namespace would begin a connection, of which
/// whatever its sender sends afterwards would be the reply.
#[test]
fn what_claims_to_come_from_a_namespace_opens_nothing() {
    let ask = |host: &Host, port: u16| {
        host.root().inside(&host.internet.net).ok(&format!(
            "sed \"s/^try:/s.bind(('', {port}))\\ntry:/\" /tmp/client.py | python3 - 172.24.0.2 80 udp"
        ))
    };
    for options in ["", "HostAccess=no\n", "InterfaceOut=eth0\n"] {
        let host = Host::new();
        crate::neighbours::bring_programs(&host);
        host.write("/tmp/forge.py", FORGE);
        // The host was a router before, and believes any source.
        host.ok("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0");
        host.configure(&format!("[work]\n{options}"));
        host.ok("runns-exec build -s work");
        let _server = crate::neighbours::serve(&host, "ip netns exec work", 80);
        let lan = host.root().inside(&host.internet.net);
        lan.ok("ip route add 172.24.0.0/16 via 192.0.2.2");
        let forge = || {
            let hardware = host.ok("cat /sys/class/net/eth0/address");
            lan.ok(&format!(
                "python3 /tmp/forge.py eth0 {hardware} 172.24.0.2 80 192.0.2.1 5555"
            ));
        };
        forge();
        assert!(ask(&host, 5555).starts_with("failed"), "{options}");
        // The kernel knows the subnet of a namespace whose record does not.
        host.ok("echo x >/run/runns/work.json; runns-exec build -n other");
        forge();
        assert!(ask(&host, 5555).starts_with("failed"), "{options}");
        host.ok("runns-exec clean other -fk; runns-exec clean work -fk");
    }
}

#[test]
fn the_test_packet_stays_on_a_host_that_rewrites_packets() {
    for rule in [
        "iptables -t mangle -A FORWARD -j TTL --ttl-set 64",
        "iptables -t mangle -A PREROUTING -j TTL --ttl-inc 1",
        "iptables -t mangle -A PREROUTING -j DSCP --set-dscp 0",
        "nft 'add table ip q; add chain ip q f { type filter hook forward priority 0; }; add rule ip q f ip dscp set cs0'",
    ] {
        let (host, _web) = host();
        host.ok(rule);
        let uplink = Uplink::watch(&host);
        host.ok("runns-exec build -n work && runns-exec status work");
        let packets = uplink.packets();
        assert!(packets.is_empty(), "{rule}: {packets:?}");
        host.ok("runns-exec clean work -f");
    }
}
