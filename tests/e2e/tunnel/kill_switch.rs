//! KillSwitch=yes: whatever happens, not a single packet leaves except through the tunnel.

use super::{
    FAR, FAR6, Probes, Watch, daemons, host, ping, set_uplink_address, start_resolver,
    tunnel_field, wait_for_ping,
};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot, wait_until};
use crate::turns::{calls, killed, points};

const SERVER: &str = "server-ipv6 fd08::/64\npush \"redirect-gateway def1 ipv6\"\npush \"dhcp-option DNS 10.8.0.1\"\n\
                      keepalive 1 3\n";

fn host_with_server(config: &str, options: &str) -> (Host, OpenVpnServer) {
    let host = host();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
    openvpn::configure_client(&host, "work", 1194);
    host.root()
        .run_with("cat >>/etc/openvpn/work.conf", config.as_bytes())
        .ok();
    host.configure(&format!(
        "[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n{options}"
    ));
    (host, server)
}

/// Proves that the watch works: without a kill switch, it sees the probes of a namespace whose
/// tunnel is down.
#[test]
fn the_watch_sees_probes_of_a_namespace_without_kill_switch() {
    let (host, server) = host_with_server("", "");
    server.stop(&host, 1194);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work --no-wait");
    let watch = Watch::start(&host);
    let probes = Probes::start(&host, "work");
    assert!(probes.go_on() > 0);
    let seen = watch.finish().join("\n");
    for what in ["77.53", "77.4000", "77.80", "ICMP echo request"] {
        assert!(seen.contains(what), "{what} was not seen: {seen}");
    }
}

/// Prints the state of the host's network, which a build with the kill switch must not change.
const HOST_STATE: &str = "iptables-save | grep -v '^#'; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward; \
                          ip route; ip -6 route; ip -br link";

/// The whole life of a tunnel, with probes all the time.
fn life(config: &str, options: &str) {
    let (host, server) = host_with_server(config, options);
    let before = Snapshot::of(&host);
    let network = host.ok(HOST_STATE);
    let watch = Watch::start(&host);
    host.ok("runns-exec build -s work");
    let has_veth = !options.is_empty();
    if !has_veth {
        assert_eq!(
            host.ok(HOST_STATE),
            network,
            "the host's links, routes, rules and forwarding do not change"
        );
    }
    let links =
        host.ok("ip netns exec work ip -br link | cut -d@ -f1 | cut -d' ' -f1 | sort | xargs");
    assert_eq!(links, if has_veth { "eth0 lo tun0" } else { "lo tun0" });
    let probes = Probes::start(&host, "work");
    // DNS over IPv6 is rejected: the resolver has no IPv6 address.
    assert!(
        probes.go_on() >= 70,
        "while the tunnel is up, all others are sent: {}",
        probes.first_failure()
    );
    assert!(ping(&host, "work", FAR) && ping(&host, "work", "fd08::1"));
    let resolver = start_resolver(&host, "10.8.0.1", "198.51.100.7");
    wait_until("names", || {
        (host
            .user("alice")
            .run("runns-exec work -- getent hosts any.example")
            .status
            == 0)
            .then_some(())
    });

    // The server stops and starts again.
    server.stop(&host, 1194);
    wait_until("it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    probes.go_on();
    let _server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
    wait_for_ping(&host, "work", FAR);
    wait_until("it is up", || {
        (tunnel_field(&host, "alice", "work", "up") == "True").then_some(())
    });
    assert!(ping(&host, "work", FAR6));

    // The uplink goes down and comes back with another address.
    host.ok("ip link set eth0 down");
    wait_until("it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    probes.go_on();
    set_uplink_address(&host, "192.0.2.3");
    wait_for_ping(&host, "work", FAR);

    lose_device_and_daemon(&host, &probes);
    watch.assert_nothing();
    drop(resolver);
    set_uplink_address(&host, "192.0.2.2");
    host.run("pkill dnsmasq");
    before.assert_same(&Snapshot::of(&host));
}

/// Deletes the device, kills the daemon, builds again, kills the new daemon, and cleans.
fn lose_device_and_daemon(host: &Host, probes: &Probes) {
    host.ok("ip netns exec work ip link delete tun0");
    probes.go_on();
    assert!(!ping(host, "work", FAR));
    assert_eq!(
        tunnel_field(host, "alice", "work", "reason"),
        "its device is gone"
    );

    // The daemon is killed.
    host.ok(&format!("kill -9 {}", daemons(host, "work").join(" ")));
    wait_until("it is dead", || {
        tunnel_field(host, "alice", "work", "reason")
            .contains("daemon has exited")
            .then_some(())
    });
    probes.go_on();
    assert!(!host.ok("ip netns exec work ip -br link").contains("tun0"));

    // The namespace is built again, and the daemon killed while the tunnel works.
    host.ok("runns-exec clean work -f --kill && runns-exec build -s work");
    let probes = Probes::start(host, "work");
    assert!(ping(host, "work", FAR));
    host.ok(&format!("kill -9 {}", daemons(host, "work").join(" ")));
    probes.go_on();
    probes.go_on();
    host.ok("runns-exec clean work -f --kill");
}

#[test]
fn nothing_leaves_outside_the_tunnel() {
    life("", "");
}

#[test]
fn nothing_leaves_outside_the_tunnel_with_a_published_port() {
    life("", "Publish=8080:80\nPublish=8080:80/udp\n");
}

#[test]
fn nothing_leaves_outside_the_tunnel_with_access_to_the_host() {
    life("", "HostAccess=yes\n");
}

#[test]
fn nothing_leaves_outside_the_tunnel_but_to_the_networks_beside_it() {
    life("", "Bypass=203.0.113.0/24\n");
}

#[test]
fn nothing_leaves_outside_the_tunnel_with_all_ways_at_once() {
    let all = "Publish=8080:80\nPublish=8080:80/udp\nHostAccess=yes\nBypass=203.0.113.0/24\nMTU=1400\n\
               InterfaceOut=eth0\nSubnet=172.30.9.0/24\n";
    life("persist-tun\n", all);
}

#[test]
fn nothing_leaves_outside_the_tunnel_with_persist_tun() {
    life("persist-tun\n", "");
}

/// Two tables of nftables keep what is not named off the veth, one inside and one on the host.
/// Either is enough.
#[test]
fn the_two_guards_of_the_veth() {
    let (host, _server) = host_with_server("", "Bypass=203.0.113.0/24\nHostAccess=7001\n");
    host.ok("runns-exec build -s work");
    let probes = Probes::start(&host, "work");
    let watch = Watch::start(&host);
    for place in ["", "ip netns exec work "] {
        host.ok(&format!("{place}nft delete table inet runns"));
        probes.go_on();
        let status = host.run("runns-exec status work");
        assert!(
            status.status == 1 && status.stdout.contains("degraded"),
            "{status}"
        );
        host.ok("runns-exec build -s work && runns-exec status");
    }
    // Nor does a route help that leads there.
    const ROUTE: &str = "ip -n work route replace 198.51.100.0/24 via 172.24.0.1";
    for place in ["", "ip netns exec work "] {
        host.ok(&format!("{ROUTE}; {place}nft delete table inet runns"));
        probes.go_on();
        host.ok("ip -n work route del 198.51.100.0/24; runns-exec build -s work");
    }
    // On the veth some are seen while the table inside is gone, and on the uplink none.
    let seen: Vec<String> = watch
        .finish()
        .into_iter()
        .filter(|line| !line.contains(" work "))
        .collect();
    assert!(seen.is_empty(), "{seen:#?}");
    host.ok(ROUTE);
    let watch = Watch::start(&host);
    host.ok("nft delete table inet runns; ip netns exec work nft delete table inet runns");
    probes.go_on();
    let seen = watch.finish();
    assert!(
        seen.iter()
            .any(|line| line.contains("77.4000") && line.contains(" eth0 ")),
        "without both: {seen:#?}"
    );
}

#[test]
fn a_build_that_is_killed_at_any_moment() {
    let (host, _server) = host_with_server("", "");
    let before = Snapshot::of(&host);
    let watch = Watch::start(&host);
    // What enters by means of another program meanwhile cannot reach the network outside.
    host.write("/usr/local/sbin/intruder", &format!(
        "#!/bin/sh\nwhile :; do [ -e /run/netns/work ] && \
         timeout 1 ip netns exec work python3 /usr/local/share/probe.py {FAR} {FAR6} >/dev/null 2>&1; sleep 0.02; done\n"
    ));
    host.ok("chmod 755 /usr/local/sbin/intruder");
    let intruder = host.spawn("echo $$; exec intruder");
    let last = calls(&host, "build -s work");
    host.ok("runns-exec clean work -f --kill");
    for call in points(last, 24) {
        killed(&host, "build -s work", call);
        // Nobody can enter an incomplete namespace.
        if host.user("alice").run("runns-exec work -- true").status != 125 {
            assert!(
                host.ok("runns-exec build -s work").contains("already"),
                "entered at {call}"
            );
        }
        host.ok("runns-exec clean work -f --kill");
        assert_eq!(
            host.run("pgrep -f '[m]anagement /run/runns'").stdout,
            "",
            "killed at {call}"
        );
    }
    host.ok(&format!("kill {}", intruder.stdout().trim()));
    host.run("pkill -f '[p]robe.py'");
    host.ok("runns-exec build -s work && runns-exec clean work -f --kill");
    watch.assert_nothing();
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn each_tunnel_has_a_device_and_the_first_takes_what_no_other_names() {
    let (host, _server) = host_with_server("", "");
    let _second = OpenVpnServer::start_with(
        &host,
        1195,
        9,
        "push \"route 198.51.100.7 255.255.255.255\"\n",
    );
    openvpn::configure_client(&host, "second", 1195);
    host.configure(
        "[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\nvpn=/etc/openvpn/second.conf\n",
    );
    let before = Snapshot::of(&host);
    let _web = host.internet.net.serve("0.0.0.0:80", "seen");
    host.ok("runns-exec build -s work");
    let curl = |address: &str| {
        host.user("alice").ok(&format!(
            "runns-exec work -- curl -sS --max-time 5 http://{address}/"
        ))
    };
    assert_eq!(curl(FAR), "seen 10.8.0.2");
    assert_eq!(curl("198.51.100.7"), "seen 10.9.0.2");
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn clean_while_the_daemon_connects_again() {
    for config in ["", "persist-tun\n"] {
        let (host, server) = host_with_server(config, "");
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        server.stop(&host, 1194);
        wait_until("it is down", || {
            (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
        });
        host.ok("runns-exec clean work -f");
        let _server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn a_tap_device_has_a_gateway() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server =
        OpenVpnServer::start_with(&host, 1194, 8, "dev tap8\npush \"redirect-gateway def1\"\n");
    openvpn::configure_client(&host, "work", 1194);
    host.ok("sed -i 's/^dev tun/dev tap/' /etc/openvpn/work.conf");
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", "10.8.0.1") && ping(&host, "work", FAR));
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn ipv6_can_be_off() {
    let (host, _server) = host_with_server("", "");
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\n{kill_switch}IPv6=no\nvpn=/etc/openvpn/work.conf\n"
        ));
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        assert!(ping(&host, "work", FAR));
        assert_eq!(
            host.ok("ip netns exec work ip -6 address show dev tun0"),
            "",
            "{kill_switch}"
        );
        assert!(!ping(&host, "work", "fd08::1"));
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
}
