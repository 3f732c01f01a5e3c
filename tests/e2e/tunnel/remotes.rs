//! Files with several servers, and servers that refuse once: OpenVPN decides when it is over.

use std::time::{Duration, Instant};

use super::challenge::{host_with_client, start_gate};
use super::{host, ping, tunnel_field};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot};

/// Servers with a wrong certificate at ports 1200 and 1201, and a right one at 1194.
fn host_with_servers() -> (Host, [OpenVpnServer; 3]) {
    let host = host();
    openvpn::make_certificates(&host);
    host.ok("cd /etc/openvpn && mkdir right && cp ca.crt server.* client.* right");
    openvpn::make_certificates(&host);
    let wrong =
        [(1200, 6), (1201, 7)].map(|(port, net)| OpenVpnServer::start_with(&host, port, net, ""));
    host.ok("cd /etc/openvpn && cp right/* .");
    let right = OpenVpnServer::start_with(&host, 1194, 8, "push \"redirect-gateway def1\"\n");
    openvpn::configure_client(&host, "work", 1194);
    let [first, second] = wrong;
    (host, [first, second, right])
}

/// Names these servers in the file.
fn name(host: &Host, servers: &[&str]) {
    let lines: Vec<String> = servers
        .iter()
        .map(|server| format!("remote {server}\\n"))
        .collect();
    host.ok(&format!(
        "sed -i '/^remote /d' /etc/openvpn/work.conf && printf '{}' >>/etc/openvpn/work.conf",
        lines.concat()
    ));
}

#[test]
fn a_server_with_another_certificate_is_not_the_end() {
    let (host, _servers) = host_with_servers();
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\nvpn=/etc/openvpn/work.conf\n{kill_switch}"
        ));
        name(&host, &["192.0.2.1 1200", "192.0.2.1 1194"]);
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        assert!(ping(&host, "work", super::FAR));
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
    // Where all are wrong, nothing is gained by waiting.
    name(&host, &["192.0.2.1 1200", "192.0.2.1 1201"]);
    let before = Snapshot::of(&host);
    let start = Instant::now();
    let refused = host.run("runns-exec build -s work --wait 60").refused(
        1,
        &[
            "none of 2 servers: 192.0.2.1:1200: the server's certificate could not be verified; \
             192.0.2.1:1201: the server's certificate could not be verified",
        ],
    );
    assert!(start.elapsed() < Duration::from_secs(30), "{refused}");
    let hint = refused.stderr.lines().nth(1).unwrap_or_default();
    assert!(
        hint.starts_with(
            "hint: runns-exec log work  # or journalctl -t openvpn-work; last lines: "
        ) && hint.contains("certificate verify failed")
            && !hint.contains("MANAGEMENT")
            && !hint.contains("Preserving"),
        "{hint}"
    );
    // What each said, of whatever kind.
    host.ok("echo 'hand-window 3' >>/etc/openvpn/work.conf");
    name(
        &host,
        &[
            "192.0.2.1 1200",
            "192.0.2.1 1299",
            "no.such.host.invalid 1194",
        ],
    );
    let output = host.run("runns-exec build -s work --wait 15");
    for said in [
        "192.0.2.1:1200: the server's certificate could not be verified",
        "192.0.2.1:1299: the server refused the connection",
        "no.such.host.invalid:1194: the server's name was not found",
    ] {
        assert!(
            output.status == 1 && output.stderr.contains(said),
            "{output}"
        );
    }
    host.ok("sed -i '/^hand-window/d' /etc/openvpn/work.conf");
    name(&host, &["192.0.2.1 1200", "192.0.2.1 1201"]);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_silent_server_is_not_the_end() {
    let (host, _servers) = host_with_servers();
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    host.internet.net.ip("route add blackhole 198.51.100.250");
    host.ok("echo 'hand-window 33' >>/etc/openvpn/work.conf");
    name(&host, &["198.51.100.250 1194", "192.0.2.1 1194"]);
    // Who asks for less is told what is enough.
    host.run("runns-exec build -s work --wait 2").refused(
        1,
        &[
            "no answer from the server",
            "hint: sudo runns-exec build -s work --wait 40\n",
        ],
    );
    let start = Instant::now();
    host.ok("runns-exec build -s work");
    assert!(start.elapsed() > Duration::from_secs(31), "it was silent");
    assert_eq!(tunnel_field(&host, "alice", "work", "up"), "True");
    host.ok("runns-exec clean work -f");
}

#[test]
fn a_server_that_refuses_once() {
    let host = host_with_client("auth-user-pass login\n");
    for (reason, more) in [
        ("TEMP[backoff 1]: too many logins", ""),
        ("not yet", "auth-retry nointeract\n"),
    ] {
        host.ok("cp /etc/openvpn/work.conf /tmp/keep");
        host.ok(&format!("printf '{more}' >>/etc/openvpn/work.conf"));
        let (server, gate) = start_gate(&host, reason, "nobody 1");
        host.ok("runns-exec build -s work");
        assert_eq!(gate.stdout(), "alice:secret\nalice:secret\n");
        host.ok("runns-exec clean work -f");
        server.stop(&host, 1194);
        host.ok("cp /tmp/keep /etc/openvpn/work.conf; rm -f /tmp/gate");
        // It refuses until the end.
        let (server, _gate) = start_gate(&host, reason, "nobody");
        host.ok(&format!("printf '{more}' >>/etc/openvpn/work.conf"));
        host.run("runns-exec build -s work --wait 4")
            .refused(1, &["the server refused the login: ", reason]);
        server.stop(&host, 1194);
        host.ok("cp /tmp/keep /etc/openvpn/work.conf; rm -f /tmp/gate");
    }
}
