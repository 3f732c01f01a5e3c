//! Nothing that build and clean start (daemons, keepers, hooks, tools) gets a descriptor of whoever
//! called them (SPEC 5).

use super::daemons;
use super::wireguard::host_with_peer;
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot, wait_until};

/// Programs that build and clean run, each replaced by one that first notes what it has open.
const TOOLS: [&str; 7] = [
    "nft",
    "wg",
    "getent",
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables-restore",
];

/// Ends if a descriptor is open that it needs not have.
const DRIVER: &str = r#"#!/usr/bin/python3
import os, sys
if "WG_TUN_FD" in os.environ:
    needed = [0, 1, 2, int(os.environ["WG_TUN_FD"]), int(os.environ["WG_UAPI_FD"])]
    for descriptor in range(1024):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        if descriptor not in needed:
            sys.exit(1)
    if any(os.fstat(d).st_rdev != os.stat("/dev/null").st_rdev for d in range(3)):
        sys.exit(1)
os.execv("/usr/bin/wireguard-go", ["wireguard-go"] + sys.argv[1:])
"#;

/// What root's shell has open: 0, 1 and 2 on files, a directory from which every file can be
/// reached, a secret.
const OPEN: &str = "exec </tmp/caller-input >/tmp/caller-output 2>/tmp/caller-errors 7</ 8</etc/shadow 9<>/tmp/caller-other";

fn host_with_everything() -> (Host, OpenVpnServer, super::wireguard::Peer) {
    let (host, peer) = host_with_peer();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, "keepalive 1 5\n");
    openvpn::configure_client(&host, "work", 1194);
    let note = |name: &str, then: &str| {
        let path = format!("/usr/local/sbin/{name}");
        let list =
            "for d in /proc/$$/fd/*; do echo \"NAME ${d##*/} $(readlink $d)\"; done >>/tmp/noted";
        host.write(
            &path,
            &format!("#!/bin/sh\n{}\n{then}\n", list.replace("NAME", name)),
        );
        host.ok(&format!("chmod 755 {path}"));
    };
    for tool in TOOLS {
        let program = host.ok(&format!("command -v {tool}"));
        note(tool, &format!("exec {program} \"$@\""));
    }
    note("hook", "(exec sleep 1004) &");
    host.write("/usr/local/sbin/driver", DRIVER);
    host.ok("chmod 755 /usr/local/sbin/driver; touch /tmp/caller-input");
    (host, server, peer)
}

#[test]
fn nothing_of_the_callers() {
    let (host, _server, _peer) = host_with_everything();
    let before = Snapshot::of(&host);
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\nWireGuard=/etc/wireguard/wg0.conf\n\
             WG_QUICK_USERSPACE_IMPLEMENTATION=driver\nPostBuild=/usr/local/sbin/hook\nPreClean=/usr/local/sbin/hook\n"
        ));
        let is_callers = |line: &&str| {
            let target = line.rsplit(' ').next().unwrap_or_default();
            ["/", "/etc/shadow"].contains(&target) || target.starts_with("/tmp/caller")
        };
        host.ok("rm -f /tmp/noted");
        let built = host.run(&format!("{OPEN}; runns-exec build -s work"));
        assert_eq!(built.status, 0, "{}", host.ok("cat /tmp/caller-errors"));
        let keepers = host.ok("pgrep -f '[.]tunnel-keeper work '");
        let left = host.ok("pgrep -xf 'sleep 1004'");
        for pid in daemons(&host, "work")
            .iter()
            .map(String::as_str)
            .chain(keepers.lines())
            .chain(left.lines())
        {
            let open = host.ok(&format!(
                "find /proc/{pid}/fd -printf '%p %l\\n'; cat /proc/{pid}/cmdline"
            ));
            assert_eq!(open.lines().find(is_callers), None, "{open}");
            assert_eq!(
                open.lines().find(|line| line.ends_with("/run/runns/lock")),
                None,
                "{open}"
            );
        }
        host.ok(&format!(
            "{OPEN}; runns-exec status; runns-exec clean work -f --kill"
        ));
        let noted = host.ok("cat /tmp/noted");
        assert_eq!(noted.lines().find(is_callers), None, "{noted}");
        let run = ["getent", "wg", "hook"]
            .into_iter()
            .chain(Some("nft").filter(|_| kill_switch.is_empty()));
        for name in run {
            assert!(
                noted
                    .lines()
                    .any(|line| line.starts_with(&format!("{name} 0 "))),
                "{name} was not run: {noted}"
            );
        }
        host.ok("rm /tmp/noted /tmp/caller-o* /tmp/caller-e*");
        before.assert_same(&Snapshot::of(&host));
    }
}

/// A command substitution ends when build does, whatever a hook leaves running.
#[test]
fn output_of_a_hook_is_passed_on() {
    let host = Host::new();
    host.configure("[work]\nPostBuild=/usr/local/sbin/hook\n");
    // More than a pipe holds, and what is said last.
    let hook = "#!/bin/sh\n(exec sleep 1005) &\nseq 100000\necho wrong >&2\nprintf last\n";
    host.write("/usr/local/sbin/hook", hook);
    host.ok("chmod 755 /usr/local/sbin/hook");
    let said = host
        .ok("said=$(timeout 20 runns-exec build -s work 2>/tmp/errors) && printf '%s' \"$said\" ");
    assert!(
        said.starts_with("1\n2\n") && said.contains("\n100000\nlast"),
        "{} bytes",
        said.len()
    );
    assert_eq!(host.ok("cat /tmp/errors"), "wrong");
    // It still runs.
    assert_eq!(host.ok("pgrep -cxf 'sleep 1005'"), "1");
    // Nobody reads what it says.
    host.ok("runns-exec clean work -fk && runns-exec build -s work >/dev/full; runns-exec clean work -fk");
    wait_until("it has ended", || {
        (host.run("pgrep -xf 'sleep 1005'").status != 0).then_some(())
    });
}
