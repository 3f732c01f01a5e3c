//! What is done many times leaves nothing behind: no descriptor, mount, process, rule, route, file
//! or memory.
//!
//! With `RUNNS_SOAK` set, it is done 10 000, 500 and 100 times.

use super::{FAR, daemons, host, wait_for_ping};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot, wait_until};

const SERVER: &str =
    "push \"redirect-gateway def1\"\npush \"dhcp-option DNS 10.8.0.1\"\nkeepalive 1 3\n";

/// Numbers that must not grow: open descriptors and processes of the host, and the memory of the
/// tunnel's processes in KiB.
struct Used {
    descriptors: u64,
    processes: u64,
    memory: u64,
}

impl Used {
    fn by(host: &Host) -> Self {
        let number = |script: &str| host.ok(script).trim().parse().expect("a number");
        let keepers = "pgrep -f '[t]unnel-keeper work|[o]penvpn.*work'";
        Self {
            descriptors: number(&format!(
                "for pid in $({keepers}); do ls /proc/$pid/fd; done | wc -l"
            )),
            processes: number("ls -d /proc/[0-9]* | wc -l"),
            memory: number(&format!(
                "for pid in $({keepers}); do cat /proc/$pid/status; done | awk '/^VmRSS/ {{ sum += $2 }} END {{ print sum }}'"
            )),
        }
    }
}

fn device(host: &Host) -> String {
    host.run("cat /run/runns/work.d/0.json; ip -n work -o link show tun0 | cut -d: -f1")
        .stdout
}

#[test]
fn nothing_is_left_of_many_entries_builds_and_reconnects() {
    let long = std::env::var_os("RUNNS_SOAK").is_some();
    let (entries, builds, reconnects) = if long {
        (10_000, 500, 100)
    } else {
        (100, 5, 3)
    };
    let host = host();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
    openvpn::configure_client(&host, "work", 1194);
    host.configure(
        "[work]\nvpn=/etc/openvpn/work.conf\n[again]\nInterfaceOut=eth0\nDNS=192.0.2.1\n",
    );
    host.ok("runns-exec build -s work && runns-exec build -s again && runns-exec clean again");
    wait_for_ping(&host, "work", FAR);
    let (before, used) = (Snapshot::of(&host), Used::by(&host));
    // In batches, each of which ends before the time limit of a script.
    for _ in 0..entries / 100 {
        host.user("alice").ok(
            "i=0; while [ $i -lt 100 ]; do runns-exec work -- true || exit 1; i=$((i+1)); done",
        );
    }
    for _ in 0..builds {
        host.ok("runns-exec build -s again >/dev/null && runns-exec clean again >/dev/null");
    }
    for _ in 0..reconnects {
        let device_before = device(&host);
        host.ok(&format!("kill -USR1 {}", daemons(&host, "work").join(" ")));
        wait_until("another device", || {
            let now = device(&host);
            (now != device_before && now.contains("\"up\":true")).then_some(())
        });
        wait_for_ping(&host, "work", FAR);
    }
    host.ok("runns-exec status");
    before.assert_same(&Snapshot::of(&host));
    // One that has just ended may not have been waited for yet.
    let now = wait_until("no more processes than before", || {
        Some(Used::by(&host)).filter(|now| now.processes <= used.processes)
    });
    assert_eq!(now.descriptors, used.descriptors);
    assert!(
        now.memory <= used.memory + 1024,
        "{} KiB, {} before",
        now.memory,
        used.memory
    );
    host.ok("runns-exec clean work -f");
}
