//! InterfaceOut beside a VPN of the host itself, by the programs and rules of others.

use crate::support::{Host, Snapshot};
use crate::uplink::{ASK, TwoUplinks, two_uplinks};

/// What wg-quick adds for a tunnel that everything is to go through.
const WG_QUICK: &str = "ip rule add not fwmark 51820 table 51820 && ip rule add table main suppress_prefixlength 0 && \
     ip -6 rule add not fwmark 51820 table 51820 && ip -6 rule add table main suppress_prefixlength 0";
const ASK_UDP: &str = "echo | socat -t2 - UDP:203.0.113.5:53";

/// The rules without ours and without their priorities.
fn others(host: &Host) -> Vec<String> {
    let rules = host.ok("ip rule; ip -6 rule");
    let others = rules.lines().filter(|line| !line.contains("lookup 1725"));
    let text = |line: &str| line.split_once(':').expect("a priority").1.to_string();
    others.map(text).collect()
}

/// Two uplinks that answer TCP and UDP, and a VPN of the host for wg-quick, whose server is silent.
fn with_wireguard() -> TwoUplinks {
    let uplinks = two_uplinks();
    uplinks
        .host
        .internet
        .net
        .answer_udp("203.0.113.5:53", "first");
    uplinks.net.answer_udp("203.0.113.5:53", "second");
    let text = "[Interface]\nPrivateKey = aKQkHzyFqC8wYWnKfXFyJB8oIIUXSnG0JjBlPPrMqGA=\nAddress = 10.9.0.2/32\n\
         [Peer]\nPublicKey = 8yKMzSNoCnzhfNiNYIdiUfvfUHDzoxmr7kEJ7Uaf7mw=\nEndpoint = 192.0.2.77:51820\n\
         AllowedIPs = 0.0.0.0/0, ::/0\n";
    uplinks.host.write("/etc/wireguard/wgall.conf", text);
    uplinks.host.ok("chmod 0600 /etc/wireguard/wgall.conf");
    uplinks
}

const UP: &str = "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go wg-quick up wgall";

/// Programs in the namespace use the second uplink, those of the host do not.
#[track_caller]
fn assert_bypasses(host: &Host) {
    let alice = host.user("alice");
    assert_eq!(
        alice.ok(&format!("runns-exec out -- {ASK}")),
        "second 198.18.0.2"
    );
    let udp = format!("runns-exec out -- sh -c '{ASK_UDP}'");
    assert_eq!(alice.ok(&udp), "second 198.18.0.2");
    host.ok("runns-exec status out");
}

#[test]
fn rules_of_others_keep_their_order() {
    let TwoUplinks { host, .. } = &two_uplinks();
    host.ok(WG_QUICK);
    let alone = others(host);
    host.ok("runns-exec build -n before -o eth1");
    assert_eq!(others(host), alone);
    host.ok("runns-exec clean before && for f in -4 -6; do ip $f rule del pref 32764; ip $f rule del pref 32765; done");
    // Of two uplinks, so that several rules of ours are in the way.
    host.ok("runns-exec build -n after -o eth1 && runns-exec build -n other -o eth0");
    host.ok(WG_QUICK);
    assert_eq!(others(host), alone, "{}", host.ok("ip rule"));
    // Ours come first again. Whoever adds rules after that comes ahead of all others, as without ours.
    host.ok("runns-exec build --all");
    assert_eq!(others(host), alone);
    host.ok("ip rule add table 7 && ip rule add table 8");
    let now = others(host);
    assert_eq!(now[1].trim(), "from all lookup 8", "{now:?}");
    assert_eq!(now[2].trim(), "from all lookup 7", "{now:?}");
}

#[test]
fn a_rule_that_leaves_no_room_is_named() {
    let TwoUplinks { host, .. } = &two_uplinks();
    host.ok("ip rule add pref 3 table 7");
    let before = Snapshot::of(host);
    host.run("runns-exec build -n out -o eth1")
        .refused(1, &["priority 3, table 7", "ip rule"]);
    before.assert_same(&Snapshot::of(host));
    // One that is for others does not matter.
    host.ok("ip rule del pref 3 && ip rule add pref 3 from 192.0.2.2 table 7 && ip route add default via 192.0.2.1 table 7");
    host.ok("runns-exec build -n out -o eth1");
    assert_eq!(
        host.ok(&format!("runns-exec out -- {ASK}")),
        "second 198.18.0.2"
    );
}

#[test]
fn a_namespace_bypasses_wg_quick_that_was_up_before() {
    for filter in ["0", "1", "2"] {
        let TwoUplinks { host, .. } = &with_wireguard();
        host.ok(&format!("for i in all default eth0 eth1; do sysctl -qw net.ipv4.conf.$i.rp_filter={filter}; done"));
        host.ok(UP);
        let before = Snapshot::of(host);
        host.ok("runns-exec build -n out -o eth1");
        assert_ne!(host.run(ASK).status, 0, "the host is behind its VPN");
        assert_bypasses(host);
        host.ok("runns-exec clean out -f");
        before.assert_same(&Snapshot::of(host));
    }
}

#[test]
fn a_namespace_bypasses_wg_quick_that_comes_up_later() {
    for filter in ["0", "1", "2"] {
        let TwoUplinks { host, first, .. } = &with_wireguard();
        host.ok(&format!("for i in all default eth0 eth1; do sysctl -qw net.ipv4.conf.$i.rp_filter={filter}; done"));
        host.ok("runns-exec build -n out -o eth1");
        host.ok(UP);
        // Its rules come first.
        assert_ne!(host.run(&format!("runns-exec out -- {ASK}")).status, 0);
        let status = host.run("runns-exec status out");
        assert_eq!(status.status, 1, "{status}");
        assert!(status.stdout.contains("down"), "{status}");
        assert!(
            status.stdout.contains("table 51820") || status.stdout.contains("table 254"),
            "{status}"
        );
        host.ok("runns-exec build -n out -o eth1");
        assert_bypasses(host);
        host.ok("wg-quick down wgall");
        assert_bypasses(host);
        assert!(first.requests().is_empty());
    }
}

#[test]
fn a_namespace_follows_its_uplink_to_another_gateway() {
    let TwoUplinks { host, net, .. } = &two_uplinks();
    host.ok("runns-exec build -n out -o eth1 && runns-exec build -n plain");
    let pid = host.user("alice").ok("runns-exec -d out -- sleep 1000");
    for (called, subnet) in [
        (
            "/usr/lib/NetworkManager/dispatcher.d/90-runns eth1 dhcp4-change",
            "198.19.1",
        ),
        (
            "IFACE=eth1 STATE=routable /usr/lib/networkd-dispatcher/routable.d/90-runns",
            "198.19.2",
        ),
    ] {
        // As another Wi-Fi has it: other addresses, and another gateway.
        net.ip(&format!("address add {subnet}.1/24 dev eth1"));
        host.ok(&format!(
            "ip address flush dev eth1; ip address add {subnet}.2/24 dev eth1; \
             ip route add default via {subnet}.1 dev eth1 metric 500"
        ));
        let status = host.run("runns-exec status out");
        assert!(
            status.status == 1 && status.stdout.contains("down"),
            "{status}"
        );
        assert_eq!(host.ok(called), "");
        assert_eq!(
            host.ok(&format!("runns-exec out -- {ASK}")),
            format!("second {subnet}.2")
        );
        host.ok(&format!("runns-exec status out && kill -0 {pid}"));
    }
    // Other events, and one that cannot be helped.
    host.ok("ip link set eth1 down && /usr/lib/NetworkManager/dispatcher.d/90-runns eth1 hostname");
    host.ok("/usr/lib/NetworkManager/dispatcher.d/90-runns eth1 down");
    assert_eq!(host.run("runns-exec build --all").status, 1);
    assert_eq!(host.run("runns-exec build --all -n out").status, 2);
    host.ok("runns-exec clean out --kill && runns-exec build --all && runns-exec clean plain");
    assert_eq!(host.ok("runns-exec build --all"), "");
}

#[test]
fn a_namespace_bypasses_openvpn_of_the_host() {
    let TwoUplinks { host, first, .. } = &two_uplinks();
    // As OpenVPN does it by redirect-gateway def1: before the build, and behind it.
    let up = "ip link add tun0 type veth peer name tun0p; ip address add 10.8.0.2/24 dev tun0; ip link set tun0 up; \
         ip route add 0.0.0.0/1 via 10.8.0.1 && ip route add 128.0.0.0/1 via 10.8.0.1";
    for [one, other] in [
        [up, "runns-exec build -n out -o eth1"],
        ["runns-exec build -n out -o eth1", up],
    ] {
        host.ok(&format!("{one}; {other}"));
        assert_ne!(host.run(ASK).status, 0);
        assert_eq!(
            host.ok(&format!("runns-exec out -- {ASK}")),
            "second 198.18.0.2"
        );
        host.ok("runns-exec status out && runns-exec clean out && ip link del tun0");
    }
    assert!(first.requests().is_empty());
}

#[test]
fn rules_of_apps_are_bypassed_or_named() {
    let TwoUplinks { host, .. } = &two_uplinks();
    // Tailscale's, with an exit node.
    host.ok("ip link add tailscale0 type veth peer name ts0p && ip link set tailscale0 up && ip route add default dev tailscale0 table 52");
    let tailscale = "ip rule add pref 5210 fwmark 0x80000/0xff0000 table main; \
         ip rule add pref 5230 fwmark 0x80000/0xff0000 table default; \
         ip rule add pref 5250 fwmark 0x80000/0xff0000 unreachable; ip rule add pref 5270 table 52";
    host.ok(&format!(
        "runns-exec build -n out -o eth1 && {{ {tailscale}; }}"
    ));
    assert_ne!(host.run(&format!("runns-exec out -- {ASK}")).status, 0);
    let status = host.run("runns-exec status out");
    assert!(
        status.stdout.contains("priority 5270, table 52") && status.stdout.contains("tailscale0"),
        "{status}"
    );
    // With an exit node it leads answers away as well, and everything else for the LAN.
    let refused = host.run("runns-exec build --all");
    assert!(
        refused.status == 1 && refused.stderr.contains("another program's routing rules"),
        "{refused}"
    );
    let hint = refused
        .stderr
        .lines()
        .nth(1)
        .and_then(|hint| hint.strip_prefix("hint: sudo "));
    host.ok(hint.expect("a command"));
    host.ok("runns-exec build --all");
    assert_eq!(
        host.ok(&format!("runns-exec out -- {ASK}")),
        "second 198.18.0.2"
    );
    host.ok("runns-exec status out && runns-exec clean out");
    // Mullvad's app drops what it does not forward itself, and says which mark it lets pass.
    host.ok("nft -f - <<'E'\ntable inet mullvad {\n chain forward {\n type filter hook forward priority filter; policy drop;\n \
         ct mark 0x00000f41 accept\n }\n}\nE");
    host.run("runns-exec build -n out -o eth1")
        .refused(1, &["inet mullvad forward"]);
}
