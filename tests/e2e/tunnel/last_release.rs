//! Namespaces that the last release built (tests/LAST_RELEASE) go on under this version.

use std::path::Path;
use std::process::Command;

use super::wireguard::host_with_peer;
use super::{daemons, start_resolver, wait_for_ping};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot};

const SECTIONS: [&str; 3] = ["plain", "work", "home"];

/// Installs the programs of the last release, by the installer in its tarball.
fn install_last_release(host: &Host) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/last-release.sh");
    let output = Command::new(script)
        .output()
        .expect("start last-release.sh");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let tarball = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let tarball = std::fs::read(&tarball).unwrap_or_else(|error| panic!("{tarball}: {error}"));
    host.root()
        .run_with(
            "mkdir /root/last && tar -x -z --strip-components=1 -C /root/last && /root/last/install/install.sh",
            &tarball,
        )
        .ok();
}

/// The processes in the namespaces and those that serve their tunnels.
fn processes(host: &Host) -> Vec<String> {
    let commands = host.ok("pgrep -f '^sleep 7777$|[t]unnel-keeper'");
    let mut pids: Vec<String> = commands.lines().map(str::to_string).collect();
    for section in SECTIONS {
        pids.extend(daemons(host, section));
    }
    pids
}

#[test]
fn namespaces_of_the_last_release_go_on() {
    let (host, _peer) = host_with_peer();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start(
        &host,
        1194,
        8,
        &["redirect-gateway def1", "dhcp-option DNS 10.8.0.1"],
    );
    let _resolver = start_resolver(&host, "10.20.0.1", "198.51.100.7");
    openvpn::configure_client(&host, "work", 1194);
    host.configure(
        "[plain]\nDNS=192.0.2.1\nPublish=8080:80\n\
         [work]\nvpn=/etc/openvpn/work.conf\nKillSwitch=yes\n\
         [home]\nWireGuard=/etc/wireguard/wg0.conf\nHostAccess=7001\n",
    );
    let before = Snapshot::of(&host);
    install_last_release(&host);
    for section in SECTIONS {
        host.ok(&format!("runns-exec build -s {section}"));
        host.user("alice")
            .ok(&format!("runns-exec -d {section} -- sleep 7777"));
    }
    let running = processes(&host);
    assert_eq!(running.len(), 3 + 1 + 2, "{running:?}");

    host.install();
    for section in SECTIONS {
        let namespace = host.ok(&format!("stat -Lc %i /run/netns/{section}"));
        let inside = host.user("alice").ok(&format!(
            "runns-exec {section} -- stat -Lc %i /proc/self/ns/net"
        ));
        assert_eq!(inside, namespace, "{section}");
    }
    let status = host.run("runns-exec status");
    assert!(!status.stdout.contains(" down "), "{status}");
    // Brings up to date what this version does in another way, such as a rule of the firewall.
    for section in SECTIONS {
        host.ok(&format!("runns-exec build -s {section}"));
    }
    host.ok("runns-exec status");
    assert_eq!(processes(&host), running);
    for (section, server) in [("work", "10.8.0.1"), ("home", "10.20.0.1")] {
        wait_for_ping(&host, section, server);
    }
    for section in SECTIONS {
        host.ok(&format!("runns-exec clean {section} --kill -f"));
    }
    host.ok("rm -r /root/last");
    before.assert_same(&Snapshot::of(&host));
}
