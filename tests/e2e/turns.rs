//! Builds and cleans that are killed, and many at once (SPEC 5, 6).

use crate::support::{Host, Snapshot, openvpn};

/// A host with a section that has every part.
fn host() -> Host {
    let host = Host::new();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    host.write("/etc/dns.conf", "nameserver 10.9.9.9\n");
    host.configure("[work]\nInterfaceOut=eth0\nResolve=/etc/dns.conf\nvpn=/etc/openvpn/work.conf\n");
    host.ok("iptables -P FORWARD DROP");
    host
}

/// Runs `verb` and kills it at its `call`th system call; whether it got that far.
fn killed(host: &Host, verb: &str, call: u32) -> bool {
    let inject = format!("strace -qq -o /dev/null -e inject=all:signal=KILL:when={call} runns-exec {verb}");
    let output = host.run(&inject);
    assert!(output.status == 137 || output.status == 0, "{verb}, killed at {call}: {output}");
    output.status == 137
}

fn calls(host: &Host, verb: &str) -> u32 {
    host.ok(&format!("strace -qq -o /tmp/trace runns-exec {verb} >/dev/null 2>&1; wc -l </tmp/trace"))
        .parse()
        .expect("a number")
}

/// About `count` numbers up to `last`, evenly, past the program's own start.
fn points(last: u32, count: u32) -> impl Iterator<Item = u32> {
    (1..=count).map(move |step| 40 + (last - 40) * step / (count + 1))
}

#[test]
fn build_killed_anywhere_then_clean_then_build() {
    let host = host();
    let before = Snapshot::of(&host);
    let last = calls(&host, "build -s work");
    host.ok("runns-exec clean -s work -f");
    before.assert_same(&Snapshot::of(&host));
    for call in points(last, 24) {
        killed(&host, "build -s work", call);
        // Nobody enters what is not complete.
        if host.user("alice").run("runns-exec work -- true").status != 125 {
            assert!(host.ok("runns-exec build -s work").contains("already"), "entered at {call}");
        }
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
        host.ok("runns-exec build -s work && runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn clean_killed_anywhere_then_clean() {
    let host = host();
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    let last = calls(&host, "clean work -f");
    for call in points(last, 24) {
        host.ok("runns-exec build -s work");
        killed(&host, "clean work -f", call);
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
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
    assert_eq!(names, (1..=8).map(|n| format!("vpn{n}")).collect::<Vec<_>>().join("\n"));
    let turns: Vec<_> =
        (1..=8).map(|n| host.spawn(&format!("runns-exec clean vpn{n} -f && runns-exec build -n x{n}"))).collect();
    for turn in turns {
        turn.wait().ok();
    }
    let same: Vec<_> = (0..4).map(|_| host.spawn("runns-exec build -n same")).collect();
    let said: Vec<String> = same.into_iter().map(|build| build.wait().ok()).collect();
    assert_eq!(said.iter().filter(|said| said.contains("already")).count(), 3, "{said:?}");
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
    assert_eq!(host.ok("find /run/runns -name 'lock*' -printf '%U %m\\n'"), "0 600");
    assert_ne!(host.user("alice").run("exec 9</run/runns/lock && flock 9").status, 0);
}
