//! OpenConnect tunnels, with real ocserv servers.

use super::{
    FAR, FAR6, Probes, Watch, daemons, host, ping, set_uplink_address, start_resolver,
    tunnel_field, wait_for_ping,
};
use crate::support::ocserv::{self, INSIDE, Ocserv, section};
use crate::support::{Host, Snapshot, wait_until};

/// Everything goes through the tunnel, IPv6 as well.
const WHOLE: &str = "route = default\nipv6-network = fd77::/64\n";

pub fn host_with_server(more: &str, options: &str) -> (Host, Ocserv) {
    let host = host();
    ocserv::prepare(&host);
    let server = Ocserv::start(&host, more);
    host.configure(&section(options));
    (host, server)
}

pub fn wait_until_down(host: &Host, reason: &str) {
    wait_until("it is down", || {
        tunnel_field(host, "alice", "work", "reason")
            .contains(reason)
            .then_some(())
    });
}

/// The whole life of a tunnel, with probes all the time.
#[test]
fn nothing_leaves_outside_the_tunnel() {
    let (host, server) = host_with_server(WHOLE, "KillSwitch=yes\n");
    let before = Snapshot::of(&host);
    let watch = Watch::start(&host);
    host.ok("runns-exec build -s work");
    let links = host.ok("ip netns exec work ip -br link | cut -d' ' -f1 | sort | xargs");
    assert_eq!(links, "lo tun0");
    let probes = Probes::start(&host, "work");
    assert!(probes.go_on() >= 70, "{}", probes.first_failure());
    assert!(ping(&host, "work", FAR) && ping(&host, "work", FAR6));
    let resolver = start_resolver(&host, INSIDE, "198.51.100.7");
    let resolv = host
        .user("alice")
        .ok("runns-exec work -- cat /etc/resolv.conf");
    assert!(
        resolv.contains(INSIDE) && resolv.contains("search corp.test"),
        "{resolv}"
    );
    wait_until("names", || {
        let names = host
            .user("alice")
            .run("runns-exec work -- getent hosts any.example");
        (names.status == 0).then_some(())
    });

    // The uplink goes down and comes back with another address.
    host.ok("ip link set eth0 down");
    wait_until_down(&host, "");
    probes.go_on();
    set_uplink_address(&host, "192.0.2.3");
    wait_for_ping(&host, "work", FAR);
    wait_until("it is up", || {
        (tunnel_field(&host, "alice", "work", "up") == "True").then_some(())
    });

    // The server ends the session.
    server.disconnect(&host, "alice");
    wait_until_down(&host, "the session has ended");
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains("down"),
        "{status}"
    );
    probes.go_on();
    host.ok("runns-exec build -s work");
    wait_for_ping(&host, "work", FAR);

    // The daemon is killed, and the keeper.
    host.ok(&format!("kill -9 {}", daemons(&host, "work").join(" ")));
    wait_until_down(&host, "daemon has exited");
    probes.go_on();
    host.ok("runns-exec build -s work");
    wait_for_ping(&host, "work", FAR);
    host.ok("pkill -KILL -f '[.]tunnel-keeper'");
    wait_until_down(&host, "its keeper has exited");
    host.ok("runns-exec build -s work");
    wait_for_ping(&host, "work", FAR);

    host.ok("runns-exec clean work -f --kill");
    watch.assert_nothing();
    drop(resolver);
    set_uplink_address(&host, "192.0.2.2");
    host.run("pkill dnsmasq");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn without_the_kill_switch() {
    let (host, _server) = host_with_server(WHOLE, "");
    let before = Snapshot::of(&host);
    let built = host.run("runns-exec build -s work").ok();
    let summary = format!("tun0, DNS {INSIDE}, kill switch off");
    assert!(built.contains(&summary), "{built}");
    assert!(ping(&host, "work", FAR) && ping(&host, "work", FAR6) && ping(&host, "work", INSIDE));
    let source = host.ok(&format!("ip netns exec work ip -j route get {FAR}"));
    assert!(source.contains("\"tun0\""), "{source}");
    host.ok("runns-exec status work");
    let resolver = start_resolver(&host, INSIDE, "198.51.100.7");
    wait_until("no leak", || {
        (host.run("runns-exec check work").status == 0).then_some(())
    });
    drop(resolver);
    host.ok("runns-exec clean work -f; pkill dnsmasq");
    before.assert_same(&Snapshot::of(&host));
}
