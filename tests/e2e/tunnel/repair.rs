//! Tunnels that are damaged: `status` says it, `build` repairs it, and under the kill switch nothing
//! leaves meanwhile.

use super::{FAR, Probes, Watch, daemons, host, openconnect, ping, wait_for_ping, wireguard};
use crate::support::ocserv::Ocserv;
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, wait_until};

const SERVER: &str =
    "push \"redirect-gateway def1\"\npush \"dhcp-option DNS 10.8.0.1\"\nkeepalive 1 3\n";

/// Damage to a tunnel with a daemon, and what is said of it.
const DAEMON: [(&str, &str); 3] = [
    ("kill -9 DAEMONS", "its daemon has exited"),
    ("ip -n work link delete tun0", "its device is gone"),
    ("ip -n work link set tun0 down", "its device is down"),
];

/// Does `damage`; it is shown to root and to members, and building again repairs it, with `words` in
/// the report.
#[track_caller]
fn damage(host: &Host, damage: &str, words: &str) {
    // A busy machine may let a tunnel lapse, which then connects anew by itself.
    wait_until("the tunnels are up", || {
        (host.run("runns-exec status work").status == 0).then_some(())
    });
    let ended = daemons(host, "work");
    host.ok(&damage.replace("DAEMONS", &ended.join(" ")));
    if damage.starts_with("kill") {
        let runs = |pid: &String| host.run(&format!("kill -0 {pid}")).status == 0;
        wait_until("the daemons have ended", || {
            (!ended.iter().any(runs)).then_some(())
        });
    }
    let shown = host.run("runns-exec status work");
    assert!(
        shown.status == 1 && shown.stdout.contains(words),
        "{damage}: {shown}"
    );
    let shown = host.user("alice").run("runns-exec status work");
    let is_for_root = ["lost", "the route to 0", "the route to its server"]
        .iter()
        .any(|part| words.contains(part));
    assert!(
        is_for_root || shown.status == 1 && shown.stdout.contains(words),
        "{damage}: {shown}"
    );
    let built = host.run("runns-exec build -s work");
    assert!(
        built.status == 0 && built.stdout.contains(&format!("repaired {words}")),
        "{damage}: {built}"
    );
    let shown = host.user("alice").run("runns-exec status work");
    assert_eq!(shown.status, 0, "{damage}: {shown}");
    assert_eq!(
        host.ok("runns-exec build -s work"),
        "work is built already, as asked"
    );
    wait_for_ping(host, "work", FAR);
}

fn host_with_server() -> (Host, OpenVpnServer) {
    let host = host();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
    openvpn::configure_client(&host, "work", 1194);
    (host, server)
}

#[test]
fn openvpn_with_kill_switch() {
    let (host, server) = host_with_server();
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    let watch = Watch::start(&host);
    host.ok("runns-exec build -s work");
    let probes = Probes::start(&host, "work");
    for (what, words) in DAEMON {
        damage(
            &host,
            what,
            &format!("tunnel of /etc/openvpn/work.conf: {words}"),
        );
        probes.go_on();
    }
    let lost = "tunnel of /etc/openvpn/work.conf: its default route is gone";
    damage(&host, "ip -n work route flush dev tun0", lost);
    // A server that does not answer: an error, and the daemon goes on trying.
    server.stop(&host, 1194);
    host.ok(&format!("kill -9 {}", daemons(&host, "work").join(" ")));
    let refused = host.run("runns-exec build -s work --wait 3");
    assert!(
        refused.status == 1
            && refused
                .stderr
                .contains("cannot repair tunnel of /etc/openvpn/work.conf"),
        "{refused}"
    );
    assert!(
        host.run("runns-exec status work")
            .stdout
            .contains("tunnel of /etc/openvpn/work.conf: ")
    );
    let _server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
    wait_for_ping(&host, "work", FAR);
    host.ok("runns-exec status work");
    probes.go_on();
    watch.assert_nothing();
}

#[test]
fn openvpn_without_kill_switch() {
    let (host, _server) = host_with_server();
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work");
    let pid = host.user("alice").ok("runns-exec -d work -- sleep 10000");
    for (what, words) in DAEMON {
        damage(
            &host,
            what,
            &format!("tunnel of /etc/openvpn/work.conf: {words}"),
        );
    }
    // A tunnel that stands on the veth is connected anew.
    damage(
        &host,
        "ip -n work link set eth0 down",
        "interface eth0 inside: down",
    );
    damage(&host, "ip link delete work", "interface work: gone");
    for damage_of_way in [
        "ip -n work route flush table 172",
        "ip -n work rule del priority 1000",
    ] {
        damage(
            &host,
            damage_of_way,
            "tunnel of /etc/openvpn/work.conf: the route to its server is gone",
        );
    }
    // Name servers that were pushed.
    damage(
        &host,
        "echo 'nameserver 9.9.9.9' >/etc/netns/work/resolv.conf",
        "/etc/netns/work/resolv.conf: changed",
    );
    assert!(
        host.ok("cat /etc/netns/work/resolv.conf")
            .contains("nameserver 10.8.0.1")
    );
    host.ok(&format!("kill -0 {pid}"));
}

#[test]
fn openconnect() {
    let tunnel = |words: &str| format!("tunnel of https://192.0.2.1: {words}");
    for kill_switch in ["KillSwitch=yes\n", ""] {
        let (host, server) = openconnect::host_with_server("route = default\n", kill_switch);
        let watch = (!kill_switch.is_empty()).then(|| Watch::start(&host));
        host.ok("runns-exec build -s work");
        let pid = host.user("alice").ok("runns-exec -d work -- sleep 10000");
        for (what, words) in DAEMON {
            damage(&host, what, &tunnel(words));
        }
        if watch.is_some() {
            let lost = tunnel("its default route is gone");
            damage(&host, "ip -n work route flush dev tun0", &lost);
            // A server that does not answer: an error, and no daemon.
            server.stop(&host);
            host.ok(&format!("kill -9 {}", daemons(&host, "work").join(" ")));
            let refused = host.run("runns-exec build -s work --wait 3");
            refused.refused(
                1,
                &[
                    &format!("cannot repair {}", tunnel("")),
                    "Connection refused",
                ],
            );
            let _server = Ocserv::again(&host);
            host.ok("runns-exec build -s work");
            wait_for_ping(&host, "work", FAR);
        } else {
            let way = tunnel("the route to its server is gone");
            damage(&host, "ip -n work route flush table 172", &way);
            damage(&host, "ip link delete work", "interface work: gone");
        }
        host.ok(&format!("kill -0 {pid}"));
        watch.into_iter().for_each(Watch::assert_nothing);
    }
}

#[test]
fn wireguard() {
    let (host, _peer) = wireguard::host_with_peer();
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\n{kill_switch}WireGuard=/etc/wireguard/wg0.conf\n"
        ));
        host.ok("runns-exec build -s work");
        let watch = (!kill_switch.is_empty()).then(|| Watch::start(&host));
        let probes = Probes::start(&host, "work");
        let words = |how: &str| format!("tunnel of /etc/wireguard/wg0.conf: {how}");
        for (what, how) in [
            ("kill -9 DAEMONS", "its daemon has exited"),
            ("ip -n work link set wg0 down", "its device is down"),
            (
                "ip -n work address del 10.20.0.2/32 dev wg0",
                "its device wg0 has lost the address 10.20.0.2",
            ),
            ("ip -n work route flush dev wg0", "the route to 0.0.0.0"),
            ("rm /run/runns/work.d/0.json", "not connected"),
        ] {
            damage(&host, what, &words(how));
            probes.go_on();
        }
        // wireguard-go may have noticed by then that its device is gone.
        host.ok("ip -n work link delete wg0");
        assert_eq!(host.run("runns-exec status work").status, 1);
        host.ok("runns-exec build -s work && runns-exec status work");
        assert!(ping(&host, "work", FAR));
        if let Some(watch) = watch {
            watch.assert_nothing();
        }
        host.ok("runns-exec clean work --kill");
        drop(probes);
    }
}
