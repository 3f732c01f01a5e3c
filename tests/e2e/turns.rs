//! Builds and cleans that are killed, and many that run at once (SPEC 5, 6).

use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot};

/// A host with two sections: [work] has every part, [plain] all but the tunnel, which is slow.
fn host() -> (Host, OpenVpnServer) {
    let host = Host::new();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start(&host, 1194, 8, &["redirect-gateway def1"]);
    openvpn::configure_client(&host, "work", 1194);
    host.write("/etc/dns.conf", "nameserver 192.0.2.1\n");
    let parts = "InterfaceOut=eth0\nResolve=/etc/dns.conf\n";
    host.configure(&format!(
        "[work]\n{parts}vpn=/etc/openvpn/work.conf\n[plain]\n{parts}"
    ));
    host.ok("iptables -P FORWARD DROP");
    (host, server)
}

/// Runs `verb` and kills it at its `call`th system call; returns whether it got that far.
pub fn killed(host: &Host, verb: &str, call: u32) -> bool {
    let inject =
        format!("strace -qq -o /dev/null -e inject=all:signal=KILL:when={call} runns-exec {verb}");
    let output = host.run(&inject);
    assert!(
        output.status == 137 || output.status == 0,
        "{verb}, killed at {call}: {output}"
    );
    output.status == 137
}

/// Runs `verb` and returns how many system calls it makes.
pub fn calls(host: &Host, verb: &str) -> u32 {
    host.ok(&format!(
        "strace -qq -o /tmp/trace runns-exec {verb} >/dev/null 2>&1; wc -l </tmp/trace"
    ))
    .parse()
    .expect("a number")
}

/// `count` evenly spaced numbers below `last`, beyond the system calls of the program's startup.
pub fn points(last: u32, count: u32) -> impl Iterator<Item = u32> {
    (1..=count).map(move |step| 40 + (last - 40) * step / (count + 1))
}

#[test]
fn build_killed_anywhere_then_clean_then_build() {
    let (host, _server) = host();
    let before = Snapshot::of(&host);
    for (name, count) in [("plain", 16), ("work", 6)] {
        let last = calls(&host, &format!("build -s {name}"));
        host.ok(&format!("runns-exec clean -s {name} -f"));
        before.assert_same(&Snapshot::of(&host));
        for call in points(last, count) {
            killed(&host, &format!("build -s {name}"), call);
            // Nobody can enter an incomplete namespace.
            if host
                .user("alice")
                .run(&format!("runns-exec {name} -- true"))
                .status
                != 125
            {
                assert!(
                    host.ok(&format!("runns-exec build -s {name}"))
                        .contains("already"),
                    "entered at {call}"
                );
            }
            host.ok(&format!("runns-exec clean {name} -f"));
            let left = host.run("cat /run/runns/.host").stdout;
            assert_eq!(
                left, "",
                "nothing that builds changed is left to restore; killed at call {call}"
            );
            before.assert_same(&Snapshot::of(&host));
        }
        host.ok(&format!(
            "runns-exec build -s {name} && runns-exec clean {name} -f"
        ));
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn clean_killed_anywhere_then_clean() {
    let (host, _server) = host();
    let before = Snapshot::of(&host);
    for (name, count) in [("plain", 16), ("work", 6)] {
        host.ok(&format!("runns-exec build -s {name}"));
        let last = calls(&host, &format!("clean {name} -f"));
        for call in points(last, count) {
            host.ok(&format!("runns-exec build -s {name}"));
            killed(&host, &format!("clean {name} -f"), call);
            host.ok(&format!("runns-exec clean {name} -f"));
            let left = host.run("cat /run/runns/.host").stdout;
            assert_eq!(
                left, "",
                "nothing that builds changed is left to restore; killed at call {call}"
            );
            before.assert_same(&Snapshot::of(&host));
        }
    }
}

#[test]
fn a_clean_killed_anywhere_leaves_the_others_alone() {
    let host = Host::new();
    let _web = host.internet.net.serve("192.0.2.1:80", "seen");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -n a -o eth0 && runns-exec build -n b -o eth0");
    let last = calls(&host, "clean a");
    host.ok("runns-exec build -n a -o eth0");
    // The rules are b's now, then a's again.
    for (name, other) in [("b", "a"), ("a", "b"), ("b", "a")] {
        for call in points(last, 6) {
            killed(&host, &format!("clean {name}"), call);
            let curl = format!("runns-exec {other} -- curl -sS --max-time 5 http://192.0.2.1/");
            assert_eq!(
                host.user("alice").ok(&curl),
                "seen 192.0.2.2",
                "killed at {call}"
            );
            host.ok(&format!("runns-exec clean {name}"));
            assert_eq!(
                host.user("alice").ok(&curl),
                "seen 192.0.2.2",
                "killed at {call}, then cleaned"
            );
            host.ok(&format!("runns-exec build -n {name} -o eth0"));
        }
    }
    host.ok("runns-exec clean a && runns-exec clean b -f");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn any_number_of_builds_and_cleans_take_turns() {
    let host = Host::new();
    let before = Snapshot::of(&host);
    let builds: Vec<_> = (0..8).map(|_| host.spawn("runns-exec build")).collect();
    for build in builds {
        build.wait().ok();
    }
    let names = host.ok("ip netns list | cut -d' ' -f1 | sort");
    assert_eq!(
        names,
        (1..=8)
            .map(|n| format!("vpn{n}"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    let turns: Vec<_> = (1..=8)
        .map(|n| {
            host.spawn(&format!(
                "runns-exec clean vpn{n} -f && runns-exec build -n x{n}"
            ))
        })
        .collect();
    for turn in turns {
        turn.wait().ok();
    }
    let same: Vec<_> = (0..4)
        .map(|_| host.spawn("runns-exec build -n same"))
        .collect();
    let said: Vec<String> = same.into_iter().map(|build| build.wait().ok()).collect();
    assert_eq!(
        said.iter().filter(|said| said.contains("already")).count(),
        3,
        "{said:?}"
    );
    let cleans: Vec<_> = (1..=8)
        .map(|n| format!("x{n}"))
        .chain(["same".into(), "same".into()])
        .map(|name| host.spawn(&format!("runns-exec clean {name} -f")))
        .collect();
    for clean in cleans {
        clean.wait().ok();
    }
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn nobody_but_root_can_hold_the_lock() {
    let host = Host::new();
    host.ok("runns-exec build");
    assert_eq!(
        host.ok("find /run/runns -name 'lock*' -printf '%U %m\\n'"),
        "0 600"
    );
    assert_ne!(
        host.user("alice")
            .run("exec 9</run/runns/lock && flock 9")
            .status,
        0
    );
}

#[test]
fn waiting_for_others_can_be_ended() {
    let host = Host::new();
    host.ok("runns-exec build -n a");
    for signal in ["TERM", "INT", "HUP"] {
        // Python's child does not ignore SIGINT, as one in the background of a shell would.
        let said = host.ok(&format!(
            "flock -o /run/runns/lock python3 -c '
import signal, subprocess
signal.signal(signal.SIGHUP, signal.SIG_DFL)
clean = subprocess.Popen([\"runns-exec\", \"clean\", \"a\"], stderr=subprocess.PIPE, text=True)
print(clean.stderr.readline(), end=\"\")
clean.send_signal(signal.SIG{signal})
print(clean.stderr.read() + str(clean.wait()))'"
        ));
        assert_eq!(
            said,
            "runns-exec: waiting for another build or clean to end\n\
             runns-exec: cannot lock /run/runns/lock: interrupted by a signal\n1"
        );
        host.ok("test -e /run/netns/a");
    }
    // What follows the network's changes does not wait for somebody who is asked for a password.
    let output = host.run("flock -o /run/runns/lock runns-exec build --all --no-wait");
    assert_eq!(output.status, 1, "{output}");
    assert!(
        output.stderr.contains("another build or clean is running"),
        "{output}"
    );
    host.ok("runns-exec clean a");
}
