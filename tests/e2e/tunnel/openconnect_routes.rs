//! What an OpenConnect server wants: routes, name servers, MTU; and what the section says of it.

use super::openconnect::host_with_server;
use super::{FAR, FAR6, daemons, ping, tunnel_field, wait_for_ping};
use crate::support::ocserv::{Ocserv, section};
use crate::support::{Host, wait_until};

fn route(host: &Host, address: &str) -> String {
    let route = host.ok(&format!("ip netns exec work ip -o route get {address}"));
    let words: Vec<&str> = route.split_whitespace().collect();
    let device = words.iter().position(|word| *word == "dev").unwrap();
    words[device + 1].to_string()
}

const SPLIT: &str = "route = 198.51.100.0/255.255.255.0\nroute = 10.88.0.0/255.255.0.0\n\
    no-route = 198.51.100.7/255.255.255.255\ndns = 203.0.113.53\nsplit-dns = corp.test\nmtu = 1300\n";

#[test]
fn split_includes_and_excludes() {
    let (host, _server) = host_with_server(SPLIT, "");
    host.ok("runns-exec build -s work");
    for (address, device) in [
        (FAR, "tun0"),
        ("10.88.1.1", "tun0"),
        ("203.0.113.53", "tun0"),
        ("198.51.100.7", "eth0"),
        ("203.0.113.9", "eth0"),
    ] {
        assert_eq!(route(&host, address), device, "{address}");
    }
    let link = host.ok("ip netns exec work ip -o link show tun0");
    let mtu = link
        .split_whitespace()
        .skip_while(|word| *word != "mtu")
        .nth(1);
    // ocserv takes its own headers from what is configured.
    let mtu: u32 = mtu.unwrap().parse().unwrap();
    assert!((1200..=1300).contains(&mtu), "{link}");
    assert!(ping(&host, "work", FAR));
    let resolv = host
        .user("alice")
        .ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
    assert_eq!(
        resolv,
        "nameserver 10.77.0.1\nnameserver 203.0.113.53\nsearch corp.test"
    );
    // What the server wanted beside the tunnel goes with it.
    let beside = "ip -n work route show 198.51.100.7";
    assert!(host.ok(beside).contains("dev eth0"));
    host.ok(&format!("kill {}", daemons(&host, "work").join(" ")));
    wait_until("the route beside the tunnel is gone", || {
        host.ok(beside).is_empty().then_some(())
    });
}

#[test]
fn with_the_kill_switch_everything_goes_through_the_tunnel() {
    let (host, _server) = host_with_server(SPLIT, "KillSwitch=yes\n");
    host.ok("runns-exec build -s work");
    for address in [FAR, "198.51.100.7", "203.0.113.9"] {
        assert_eq!(route(&host, address), "tun0", "{address}");
    }
}

#[test]
fn ipv6_no_is_ipv4_only() {
    let more = "route = default\nipv6-network = fd77::/64\n";
    let (host, _server) = host_with_server(more, "KillSwitch=yes\nIPv6=no\n");
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR) && !ping(&host, "work", FAR6));
    let addresses = host.ok("ip netns exec work ip -6 address show tun0");
    assert_eq!(addresses, "");
}

/// DTLS, and TLS where UDP does not get through.
#[test]
fn dtls_and_the_fall_back_to_tls() {
    let (host, _server) = host_with_server("route = default\n", "KillSwitch=yes\n");
    let sent = |protocol: &str| {
        let counter = format!("nft list counter inet test {protocol}");
        let words = host.ok(&counter);
        let words: Vec<&str> = words.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").unwrap();
        words[at + 1].parse::<u64>().unwrap()
    };
    host.ok("nft -f - <<'END'
table inet test {
  counter datagrams { }
  counter segments { }
  chain out {
    type filter hook output priority 0
    ip daddr 192.0.2.1 udp dport 443 counter name datagrams
    ip daddr 192.0.2.1 tcp dport 443 counter name segments
  }
}
END");
    host.ok("runns-exec build -s work");
    wait_until("DTLS", || {
        let before = sent("datagrams");
        ping(&host, "work", FAR).then_some(())?;
        (sent("datagrams") > before).then_some(())
    });
    host.ok("nft insert rule inet test out udp dport 443 drop");
    wait_for_ping(&host, "work", FAR);
    host.ok("runns-exec clean work");
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
    assert_eq!(tunnel_field(&host, "alice", "work", "up"), "True");
    host.ok("nft delete table inet test");
}

#[test]
fn the_name_of_the_server_is_looked_up_outside() {
    for options in ["", "KillSwitch=yes\n"] {
        let (host, _server) = host_with_server("route = default\n", options);
        host.ok("echo 192.0.2.1 vpn.test >>/etc/hosts");
        host.configure(&section(options).replace("https://192.0.2.1", "vpn.test"));
        host.ok("runns-exec build -s work");
        wait_for_ping(&host, "work", FAR);
        host.ok("runns-exec clean work");
    }
}

#[test]
fn a_change_exchanges_the_tunnel_if_its_options_changed() {
    let (host, _server) = host_with_server("route = default\n", "KillSwitch=yes\n");
    host.ok("runns-exec build -s work");
    let before = daemons(&host, "work");
    let sleeper = host
        .user("alice")
        .spawn("exec runns-exec work -- sleep 1000");
    host.configure(&section("KillSwitch=yes\nAllowUsers=alice\n"));
    host.ok("runns-exec build -s work --change");
    assert_eq!(
        daemons(&host, "work"),
        before,
        "nothing of the tunnel has changed"
    );
    host.ok("echo no-dtls >>/etc/openconnect/work.conf");
    let status = host.ok("runns-exec status work");
    assert!(status.contains("/etc/openconnect/work.conf"), "{status}");
    host.ok("runns-exec build -s work --change");
    assert_ne!(daemons(&host, "work"), before);
    assert!(ping(&host, "work", FAR) && sleeper.is_running());
    // Another kind of tunnel, and back.
    host.configure("[work]\nDNS=10.77.0.1\n");
    host.ok("runns-exec build -s work --change");
    host.ok("! pgrep openconnect && ! ip -n work link show tun0");
    host.configure(&section("KillSwitch=yes\n"));
    host.ok("runns-exec build -s work --change");
    assert!(ping(&host, "work", FAR) && sleeper.is_running());
    host.ok("runns-exec clean work --kill");
}

#[test]
fn without_waiting() {
    let (host, _server) = host_with_server("route = default\n", "KillSwitch=yes\n");
    host.ok("runns-exec build -s work --no-wait");
    wait_for_ping(&host, "work", FAR);
}

/// The server is away for a moment: the same session goes on.
#[test]
fn a_server_that_is_away_for_a_moment() {
    let (host, server) = host_with_server("route = default\n", "KillSwitch=yes\n");
    host.ok("runns-exec build -s work");
    server.stop(&host);
    wait_until("it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    let reason = tunnel_field(&host, "alice", "work", "reason");
    assert!(
        reason.contains("Connection refused") || reason.contains("connection was lost"),
        "{reason}"
    );
    // A new one does not know the session.
    let _server = Ocserv::again(&host);
    wait_until("the session has ended", || {
        let reason = tunnel_field(&host, "alice", "work", "reason");
        reason.contains("the session has ended").then_some(())
    });
    let status = host.run("runns-exec status work");
    assert!(
        status.stdout.contains("journalctl -t openconnect-work"),
        "{status}"
    );
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
}
