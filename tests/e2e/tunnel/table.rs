//! The table of docs/TUNNELS.md of what gets out and in, by option: each of its fields is what was
//! tried.
//!
//! With RUNNS_WRITE_TABLE in the environment, the table there is replaced by the one that was
//! found.

use std::collections::BTreeMap;

use super::wireguard::host_with_peer;
use super::{FAR, FAR6, wait_for_ping};
use crate::neighbours::{bring_programs, serve};
use crate::support::ocserv::{self, Ocserv};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Runner};

/// Connects to all addresses at once; prints for each who answered, and as whom it saw the client.
const MANY: &str = r#"
import socket, sys, threading
def ask(word):
    address, port = word.rsplit(',', 1)
    try:
        s = socket.create_connection((address, int(port)), 0.7)
        print(word, s.recv(100).decode(), flush=True)
    except OSError as error:
        print(word, 'failed', flush=True)
threads = [threading.Thread(target=ask, args=(word,)) for word in sys.argv[1:]]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"#;

const BYPASSED: &str = "203.0.113.9";
const ELSEWHERE: &str = "192.0.2.1";

/// What each line of the table has in its section.
const ROWS: [(&str, &str); 16] = [
    ("nothing", ""),
    ("`IPv6=yes`", "IPv6=yes\n"),
    ("`HostAccess=no`", "HostAccess=no\n"),
    ("`Publish=8080:80`", "Publish=8080:80\n"),
    ("OpenVPN", "vpn=/etc/openvpn/work.conf\n"),
    (
        "OpenVPN, `Publish=8080:80`",
        "vpn=/etc/openvpn/work.conf\nPublish=8080:80\n",
    ),
    (
        "OpenVPN, `HostAccess=7001`",
        "vpn=/etc/openvpn/work.conf\nHostAccess=7001\n",
    ),
    (
        "OpenVPN, `Bypass=203.0.113.8/29`",
        "vpn=/etc/openvpn/work.conf\nBypass=203.0.113.8/29\n",
    ),
    (
        "OpenVPN, `KillSwitch=yes`",
        "vpn=/etc/openvpn/work.conf\nKillSwitch=yes\n",
    ),
    (
        "the same, `Publish=8080:80`",
        "vpn=/etc/openvpn/work.conf\nKillSwitch=yes\nPublish=8080:80\n",
    ),
    (
        "the same, `HostAccess=7001`",
        "vpn=/etc/openvpn/work.conf\nKillSwitch=yes\nHostAccess=7001\n",
    ),
    (
        "the same, `Bypass=203.0.113.8/29`",
        "vpn=/etc/openvpn/work.conf\nKillSwitch=yes\nBypass=203.0.113.8/29\n",
    ),
    (
        "OpenConnect, all three",
        "OpenConnect=192.0.2.1\nOpenConnectOptions=/etc/openconnect/work.conf\nOpenConnectPassword=/etc/openconnect/password\n\
         Publish=8080:80\nHostAccess=7001\nBypass=203.0.113.8/29\n",
    ),
    (
        "OpenConnect, `KillSwitch=yes`, all three",
        "OpenConnect=192.0.2.1\nOpenConnectOptions=/etc/openconnect/work.conf\nOpenConnectPassword=/etc/openconnect/password\n\
         KillSwitch=yes\nPublish=8080:80\nHostAccess=7001\nBypass=203.0.113.8/29\n",
    ),
    (
        "WireGuard, all three",
        "WireGuard=/etc/wireguard/wg0.conf\nPublish=8080:80\nHostAccess=7001\nBypass=203.0.113.8/29\n",
    ),
    (
        "WireGuard, `KillSwitch=yes`, all three",
        "WireGuard=/etc/wireguard/wg0.conf\nKillSwitch=yes\nPublish=8080:80\nHostAccess=7001\nBypass=203.0.113.8/29\n",
    ),
];

const HEAD: &str = "\
| section | Internet, IPv4 | IPv6 | without the tunnel | 203.0.113.9 | servers of the host | from the LAN |
|---|---|---|---|---|---|---|
";

/// The way by which a server saw the client come.
fn way(seen: &str) -> &'static str {
    match seen.strip_prefix("peer ") {
        Some(peer)
            if ["10.8.0.", "10.20.0.", "10.77.0.", "fd08:", "fd20:", "fd77:"]
                .iter()
                .any(|net| peer.starts_with(net)) =>
        {
            "tunnel"
        }
        Some("192.0.2.2" | "2001:db8::2") => "uplink",
        Some(peer) => panic!("it came from {peer}"),
        None => "-",
    }
}

fn ask(runner: &Runner, place: &str, addresses: &[&str]) -> BTreeMap<String, String> {
    let said = runner.ok(&format!(
        "{place} python3 /tmp/many.py {}",
        addresses.join(" ")
    ));
    said.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(word, said)| (word.into(), said.into()))
        .collect()
}

/// Tries everything in a namespace that is built from this section.
fn row(host: &Host, name: &str, options: &str) -> String {
    host.configure(&format!("[work]\n{options}"));
    host.ok("runns-exec build -s work");
    let device = if options.contains("WireGuard") {
        "wg0"
    } else {
        "tun0"
    };
    let tunnelled = options.contains("/etc/");
    if tunnelled {
        wait_for_ping(
            host,
            "work",
            match options {
                _ if options.contains("WireGuard") => "10.20.0.1",
                _ if options.contains("OpenConnect") => ocserv::INSIDE,
                _ => "10.8.0.1",
            },
        );
    }
    let inside = serve(host, "ip netns exec work", 80);
    let far = [
        format!("{FAR},80"),
        format!("{FAR6},80"),
        format!("{BYPASSED},80"),
    ];
    let gates = [
        "172.24.0.1,7001",
        "172.24.0.1,7002",
        "192.0.2.2,7001",
        "192.0.2.2,7002",
        "2001:db8::2,7001",
    ];
    let other = ["172.24.1.2,80", "172.24.1.1,80"];
    let words: Vec<&str> = far
        .iter()
        .map(String::as_str)
        .chain(gates)
        .chain(other)
        .collect();
    let alice = host.user("alice");
    let seen = ask(&alice, "runns-exec work --", &words);
    assert!(
        other.iter().all(|word| seen[*word] == "failed"),
        "another namespace was reached: {seen:?}"
    );
    let reached = |port: &str| {
        // By each address, or by none; by IPv6 if there is any.
        let by: Vec<bool> = ["172.24.0.1", "192.0.2.2"]
            .map(|gate| seen[&format!("{gate},{port}")] != "failed")
            .into();
        assert!(by.iter().all(|reached| *reached == by[0]), "{seen:?}");
        by[0]
    };
    let servers = match (reached("7001"), reached("7002")) {
        (true, true) => "all",
        (true, false) => "7001",
        (false, false) => "none",
        (false, true) => panic!("{seen:?}"),
    };
    let from_lan = || {
        let words = [
            "192.0.2.2,8080",
            "2001:db8::2,8080",
            "192.0.2.2,80",
            "2001:db8::2,80",
            "172.24.0.2,80",
        ];
        let seen = ask(&host.root().inside(&host.internet.net), "", &words);
        let reached = words.map(|word| seen[word] != "failed");
        assert!(
            reached[0] == reached[1] && reached[2..] == [false; 3],
            "{seen:?}"
        );
        reached[0]
    };
    let published = if from_lan() { "port 8080" } else { "nothing" };
    let mut down = "";
    if tunnelled {
        host.ok(&format!("ip -n work link delete {device}"));
        let seen = ask(&alice, "runns-exec work --", &words);
        down = way(&seen[&far[0]]);
        assert_eq!(way(&seen[&far[1]]), "-", "IPv6 without the tunnel");
        assert!(
            options.contains("Bypass") == (way(&seen[&far[2]]) == "uplink") || down == "uplink",
            "{seen:?}"
        );
        assert_eq!(from_lan(), published == "port 8080");
    }
    drop(inside);
    host.ok("runns-exec clean work -fk");
    let [v4, v6, bypassed] = far.map(|word| way(&seen[&word]).to_string());
    format!("| {name} | {v4} | {v6} | {down} | {bypassed} | {servers} | {published} |\n")
}

#[test]
fn what_gets_out_and_in_is_what_the_table_says() {
    let (host, _peer) = host_with_peer();
    bring_programs(&host);
    host.write("/tmp/many.py", MANY);
    host.internet
        .net
        .ip(&format!("address add {BYPASSED}/32 dev lo"));
    host.internet
        .net
        .ip("route add 172.24.0.0/16 via 192.0.2.2");
    openvpn::make_certificates(&host);
    let push = "server-ipv6 fd08::/64\npush \"redirect-gateway def1 ipv6\"\nkeepalive 1 3\n";
    let _server = OpenVpnServer::start_with(&host, 1194, 8, push);
    openvpn::configure_client(&host, "work", 1194);
    ocserv::prepare(&host);
    let _company = Ocserv::start(&host, "route = default\nipv6-network = fd77::/64\n");
    let _internet = host
        .root()
        .inside(&host.internet.net)
        .spawn("exec python3 -u /tmp/server.py 80 >/tmp/ready-far");
    host.ok("until grep -q ready /tmp/ready-far 2>/dev/null; do sleep 0.02; done");
    let (_one, _two) = (serve(&host, "", 7001), serve(&host, "", 7002));
    host.ok(&format!(
        "runns-exec build -n vpn1 && ip netns exec vpn1 python3 /tmp/client.py {ELSEWHERE} 80 tcp"
    ));
    let _neighbour = serve(&host, "ip netns exec vpn1", 80);
    let found: String = ROWS
        .iter()
        .map(|(name, options)| row(&host, name, options))
        .collect();
    let found = format!("{HEAD}{found}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/TUNNELS.md");
    let page = std::fs::read_to_string(path).expect("docs/TUNNELS.md");
    let begin = page.find("| section | Internet").expect("the table");
    let end = begin + page[begin..].find("\n\n").expect("its end") + 1;
    if std::env::var_os("RUNNS_WRITE_TABLE").is_some() {
        std::fs::write(path, format!("{}{found}{}", &page[..begin], &page[end..]))
            .expect("write the table");
    } else {
        assert_eq!(&page[begin..end], found);
    }
}
