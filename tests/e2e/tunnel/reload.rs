//! What happens to the table inside a namespace while it is in use: it is loaded again, its host's
//! is lost, its tunnel's server pushes name servers that are not behind the tunnel.

use super::host;
use crate::neighbours::{bring_programs, from_lan, serve};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, wait_until};

const PUSH: &str = "push \"redirect-gateway def1\"\nkeepalive 1 3\n";

fn build(options: &str, push: &str) -> (Host, OpenVpnServer) {
    let host = host();
    bring_programs(&host);
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, &format!("{PUSH}{push}"));
    openvpn::configure_client(&host, "work", 1194);
    host.configure(&format!(
        "[work]\nvpn=/etc/openvpn/work.conf\nKillSwitch=yes\n{options}\n"
    ));
    host.ok("runns-exec build -s work");
    (host, server)
}

#[test]
fn the_way_of_each_flow_is_remembered_when_the_rules_are_loaded_again() {
    let (host, server) = build("Publish=6881/udp", "push \"dhcp-option DNS 10.8.0.1\"\n");
    let inside = |commands: &str| host.ok(&format!("ip netns exec work nft '{commands}'"));
    inside("add element inet runns clients { 198.51.100.7 . 7300 . 6881 timeout 5m }");
    inside("add element inet runns tunnelled { 198.51.100.8 . 7301 . 6881 timeout 5m }");
    let assert_remembered = || {
        let listed = inside("list table inet runns");
        for peer in ["198.51.100.7 . 7300 . 6881", "198.51.100.8 . 7301 . 6881"] {
            assert!(listed.contains(peer), "{listed}");
        }
    };
    // By repair.
    inside("flush chain inet runns beside; add chain inet runns mine");
    assert!(
        host.run("runns-exec status")
            .stdout
            .contains("rules inside")
    );
    host.ok("runns-exec build -s work && runns-exec status");
    assert_remembered();
    // By a server that pushes another name server after it has come back.
    server.stop(&host, 1194);
    let push = format!("{PUSH}push \"dhcp-option DNS 10.8.0.9\"\n");
    let _server = OpenVpnServer::start_with(&host, 1194, 8, &push);
    wait_until("the lock follows", || {
        inside("list table inet runns")
            .contains("dnat ip to 10.8.0.9")
            .then_some(())
    });
    assert_remembered();
    // Where somebody has made another set of it, all is loaded anew.
    inside(
        "flush table inet runns; delete set inet runns clients; add set inet runns clients { type mark; timeout 1m; }",
    );
    host.ok("runns-exec build -s work && runns-exec status && runns-exec clean work -fk");
}

#[test]
fn a_name_server_that_is_not_behind_the_tunnel_is_not_believed() {
    for (option, server) in [
        ("Bypass=203.0.113.8/29", "203.0.113.9"),
        ("HostAccess=yes", "192.0.2.2"),
        ("HostAccess=yes", "172.24.0.1"),
    ] {
        let host = host();
        openvpn::make_certificates(&host);
        let push =
            format!("{PUSH}push \"dhcp-option DNS {server}\"\npush \"dhcp-option DNS 10.8.0.1\"\n");
        let _server = OpenVpnServer::start_with(&host, 1194, 8, &push);
        openvpn::configure_client(&host, "work", 1194);
        host.configure(&format!(
            "[work]\nvpn=/etc/openvpn/work.conf\nKillSwitch=yes\n{option}\n"
        ));
        let output = host.run("runns-exec build -s work");
        assert!(
            output.status == 0
                && output
                    .stderr
                    .contains(&format!("ignoring the name server {server}")),
            "{output}"
        );
        let servers = host.ok("grep nameserver /etc/netns/work/resolv.conf");
        assert_eq!(servers, "nameserver 10.8.0.1", "{option}");
        host.ok("runns-exec status && runns-exec clean work -fk");
    }
}

#[test]
fn without_the_hosts_table_only_published_ports_are_reached() {
    let (host, _server) = build("Publish=8080:80", "");
    host.internet
        .net
        .ip("route add 172.24.0.0/16 via 192.0.2.2");
    let _servers = (
        serve(&host, "ip netns exec work", 80),
        serve(&host, "ip netns exec work", 81),
    );
    host.ok("nft flush ruleset");
    assert!(from_lan(&host, "172.24.0.2", 80, "tcp").starts_with("peer"));
    assert!(from_lan(&host, "172.24.0.2", 81, "tcp").starts_with("failed"));
    host.ok("runns-exec build -s work && runns-exec status && runns-exec clean work -fk");
}
