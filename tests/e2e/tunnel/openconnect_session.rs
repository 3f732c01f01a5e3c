//! How long an OpenConnect session lasts: through new keys, and until the server ends it.

use super::openconnect::{host_with_server, wait_until_down};
use super::{FAR, Probes, Watch, ping, tunnel_field, wait_for_ping};
use crate::support::ocserv::Ocserv;
use crate::support::{Host, wait_until};

/// The state of the namespace, as root sees it.
fn state(host: &Host) -> String {
    host.ok("runns-exec status --json work | python3 -c 'import json, sys; print(json.load(sys.stdin)[0][\"state\"])'")
}

/// What was built without the kill switch has a way out left, but its tunnel is down, whether it can
/// come back by itself or only after another login.
#[test]
fn a_session_that_has_ended_is_down_without_the_kill_switch_too() {
    let (host, server) = host_with_server("route = default\n", "");
    host.ok("runns-exec build -s work");
    assert_eq!(state(&host), "ok");
    server.stop(&host);
    wait_until("it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    assert_eq!(state(&host), "down");
    // A new one does not know the session.
    let server = Ocserv::again(&host);
    wait_until_down(&host, "the session has ended");
    assert_eq!(state(&host), "down");
    // A login that is refused does not change that.
    host.ok("echo wrong >/etc/openconnect/password");
    let refused = host.run("runns-exec build -s work");
    refused.refused(1, &["the server refused the login"]);
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains("the session has ended"),
        "{status}"
    );
    assert_eq!(state(&host), "down");
    host.ok("echo secret >/etc/openconnect/password && runns-exec build -s work");
    assert_eq!(state(&host), "ok");
    assert!(ping(&host, "work", FAR));
    server.disconnect(&host, "alice");
    wait_until_down(&host, "the session has ended: the server ended it");
    assert_eq!(state(&host), "down");
}

/// In both ways that a server may ask for: within the connection, and by a new one.
#[test]
fn new_keys_do_not_interrupt_what_runs_inside() {
    for method in ["ssl", "new-tunnel"] {
        let more = format!("route = default\nrekey-time = 5\nrekey-method = {method}\n");
        let (host, _server) = host_with_server(&more, "KillSwitch=yes\n");
        let watch = Watch::start(&host);
        host.ok("runns-exec build -s work");
        let address = "ip netns exec work ip -br -4 address show tun0";
        let built = host.ok(address);
        let probes = Probes::start(&host, "work");
        host.log.wait_for(&["openconnect-work", "CSTP rekey due"]);
        probes.go_on();
        wait_for_ping(&host, "work", FAR);
        wait_until("it is up", || (state(&host) == "ok").then_some(()));
        assert_eq!(host.ok(address), built, "{method}");
        host.ok("runns-exec clean work -f --kill");
        watch.assert_nothing();
    }
}

/// Nothing is sent inside.
#[test]
fn an_idle_session_ends() {
    let (host, _server) = host_with_server(
        "route = default\nidle-timeout = 5\nmobile-idle-timeout = 5\n",
        "KillSwitch=yes\n",
    );
    host.ok("runns-exec build -s work");
    wait_until_down(&host, "the session has ended");
    assert_eq!(state(&host), "down");
    assert!(!ping(&host, "work", FAR));
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
}
