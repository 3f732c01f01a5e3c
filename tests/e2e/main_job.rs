//! The main purpose of runns-exec, from end to end: a configured VPN, some programs in it, and
//! everything removed.

use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot, wait_until};

const CONFIG: &str = "[work]\nNetworkNamespace=vpnWork\nInterfaceIn=vpnWorkd\n\
                      vpn=/etc/openvpn/work.conf\nvpn=/etc/openvpn/myvps.conf\n";

/// A typical host, with a firewall and a configuration, and two VPN servers and a web site
/// elsewhere.
fn host() -> (Host, [OpenVpnServer; 2]) {
    let host = Host::new();
    host.internet.net.ip("address add 198.51.100.1/32 dev lo");
    host.internet.net.ip("address add 203.0.113.1/32 dev lo");
    host.ok("iptables -A INPUT -i eth0 -p tcp --dport 25 -j DROP && iptables -t nat -A POSTROUTING -s 10.77.0.0/24 -j MASQUERADE");
    host.ok("iptables -N keep && iptables -A FORWARD -i lo -m comment --comment 'runns:vpnWork2' -j keep");
    host.ok(
        "ip6tables -A FORWARD -j DROP && iptables-legacy -A OUTPUT -p tcp --dport 25 -j REJECT",
    );
    openvpn::make_certificates(&host);
    let redirect = ["redirect-gateway def1"];
    let servers = [
        OpenVpnServer::start(&host, 1194, 8, &redirect),
        OpenVpnServer::start(&host, 1195, 9, &["route 203.0.113.0 255.255.255.0"]),
    ];
    openvpn::configure_client(&host, "work", 1194);
    openvpn::configure_client(&host, "myvps", 1195);
    host.configure(CONFIG);
    (host, servers)
}

#[test]
fn a_vpn_by_configuration_some_programs_in_it_and_everything_undone() {
    let (host, _servers) = host();
    let _web = host.internet.net.serve("0.0.0.0:80", "seen");
    let alice = host.user("alice");
    let before = Snapshot::of(&host);

    let made = host.run("runns-exec build -s work");
    assert_eq!(made.status, 0, "{made}");
    assert!(
        made.stdout
            .starts_with("work is up: vpnWork, 172.24.0.2, tun0, tun1, DNS ")
            && made.stdout.ends_with(
                ", kill switch off\nrun a program in it: runns-exec vpnWork -- COMMAND\n"
            )
            && made.stdout.lines().count() == 2,
        "{made}"
    );
    assert!(
        made.stderr.contains("unprotected"),
        "without a kill switch it warns: {made}"
    );
    // openvpn.service of Debian is installed.
    assert!(
        made.stderr
            .contains("openvpn.service starts /etc/openvpn/work.conf, /etc/openvpn/myvps.conf")
            && made.stderr.contains("runns-exec import"),
        "{made}"
    );
    assert_eq!(
        host.ok("ip netns list | cut -d' ' -f1"),
        "vpnWork",
        "ip netns sees it"
    );
    host.ok("ip link show vpnWorkd");

    // Both tunnels come up; the first carries all traffic except that to the second's own network.
    let curl = |address: &str| format!("curl -sS --max-time 5 http://{address}/");
    wait_until("the first tunnel", || {
        let seen = alice
            .run(&format!("runns-exec vpnWork -- {}", curl("198.51.100.1")))
            .stdout;
        (seen.trim() == "seen 10.8.0.2").then_some(())
    });
    wait_until("the second tunnel", || {
        let seen = alice
            .run(&format!("runns-exec vpnWork -- {}", curl("203.0.113.1")))
            .stdout;
        (seen.trim() == "seen 10.9.0.2").then_some(())
    });
    assert_eq!(
        alice.ok(&curl("198.51.100.1")),
        "seen 192.0.2.2",
        "without runns-exec it is the host's own way"
    );

    // There are two daemons, with their names in the log and as processes in the namespace.
    let line = host
        .log
        .wait_for(&["openvpn-vpnWork[", "Initialization Sequence Completed"]);
    assert!(!line.contains("runns-exec["), "{line}");
    let daemons = host.ok("pgrep -f '[o]penvpn --daemon openvpn-vpnWork' | sort");
    assert_eq!(daemons.lines().count(), 2, "{daemons}");
    let inside = host.ok("ip netns pids vpnWork | sort");
    assert_eq!(inside, daemons);
    for pid in daemons.lines() {
        host.log.wait_for(&[&format!("openvpn-vpnWork[{pid}]")]);
    }
    assert_eq!(
        host.ok(&format!(
            "readlink /proc/{}/cwd",
            daemons.lines().next().unwrap_or("none")
        )),
        "/etc/openvpn"
    );
    host.log.wait_for(&["runns-exec[", "built vpnWork"]);

    // list shows the user's own process; list -a shows the daemons as well.
    let pid = alice.ok("runns-exec -d vpnWork -- sleep 1000");
    let listed = alice.ok("runns-exec list vpnWork");
    assert!(
        listed.contains("vpnWork") && listed.contains("sleep 1000") && listed.contains(&pid),
        "{listed}"
    );
    assert_eq!(alice.ok("runns-exec list -q"), pid);
    assert!(
        alice
            .ok("runns-exec list -a")
            .contains("openvpn --daemon openvpn-vpnWork")
    );
    host.ok(&format!("kill {pid}"));
    wait_until("the end of sleep", || {
        (host.run(&format!("kill -0 {pid}")).status != 0).then_some(())
    });

    // Building again reports that it is built already.
    let again = host.run("runns-exec build -s work");
    assert_eq!(
        (again.status, again.stdout.contains("already")),
        (0, true),
        "{again}"
    );

    host.ok("runns-exec clean -n vpnWork -f");
    host.log.wait_for(&["runns-exec[", "clean", "vpnWork"]);
    before.assert_same(&Snapshot::of(&host));
    let nothing = host.run("runns-exec clean -n vpnWork -f");
    assert!(
        nothing.status == 0 && nothing.stdout.contains("nothing"),
        "{nothing}"
    );
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn clean_by_section_and_after_the_configuration_was_edited() {
    let (host, _servers) = host();
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    host.ok("runns-exec clean -s work -f");
    before.assert_same(&Snapshot::of(&host));
    host.ok("runns-exec build -s work");
    host.configure("[work]\nNetworkNamespace=other\nInterfaceIn=elsewhere\n");
    host.ok("rm /etc/openvpn/work.conf");
    host.ok("runns-exec clean vpnWork -f");
    host.configure(CONFIG);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_daemon_that_cannot_start_undoes_the_build_and_says_why() {
    let (host, _servers) = host();
    let before = Snapshot::of(&host);
    let work = host.ok("cat /etc/openvpn/myvps.conf");
    for (text, reason) in [
        ("client\nno-such-option-at-all\n", "no-such-option-at-all"),
        (
            "client\ndev tun\nremote 192.0.2.1\nca ca.crt\nproto no-such-protocol\n",
            "no-such-protocol",
        ),
    ] {
        host.write("/etc/openvpn/myvps.conf", text);
        host.run("runns-exec build -s work")
            .refused(1, &["/etc/openvpn/myvps.conf", "hint: ", "openvpn-vpnWork"]);
        host.log.wait_for(&["openvpn-vpnWork", reason]);
        host.write("/etc/openvpn/myvps.conf", &work);
        before.assert_same(&Snapshot::of(&host));
    }
    for (spoil, repair) in [
        (
            "chmod 666 /etc/openvpn/work.conf",
            "chmod 644 /etc/openvpn/work.conf",
        ),
        (
            "chown alice /etc/openvpn/work.conf",
            "chown root /etc/openvpn/work.conf",
        ),
        ("chmod 777 /etc/openvpn", "chmod 755 /etc/openvpn"),
        (
            "mv /etc/openvpn/work.conf /tmp/w",
            "mv /tmp/w /etc/openvpn/work.conf",
        ),
        (
            "mv /usr/sbin/openvpn /usr/sbin/openvpn.away",
            "mv /usr/sbin/openvpn.away /usr/sbin/openvpn",
        ),
    ] {
        host.ok(spoil);
        host.run("runns-exec build -s work")
            .refused(1, &["openvpn"]);
        host.ok(repair);
    }
    before.assert_same(&Snapshot::of(&host));
}
