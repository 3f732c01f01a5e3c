//! PostBuild and PreClean: programs that root runs inside.

use crate::support::{Host, Snapshot, wait_until};

/// Notes what a program sees of its surroundings.
const NOTE: &str = "#!/bin/sh\n{ env | sort; id -u; ip -br address show dev \"$RUNNS_INTERFACE\"; cat /etc/resolv.conf; readlink /proc/self/fd/0; \
                    ls /sys/class/net; } >/tmp/note\necho said; echo complained >&2\n";

fn host_with(options: &str, scripts: &[(&str, &str)]) -> Host {
    let host = Host::new();
    host.configure(&format!("[work]\nDNS=192.0.2.53\n{options}"));
    for (name, text) in scripts {
        let path = format!("/usr/local/sbin/{name}");
        host.write(&path, text);
        host.ok(&format!("chmod 755 {path}"));
    }
    host
}

#[test]
fn a_program_runs_inside_when_all_is_built() {
    let host = host_with(
        "PostBuild=/usr/local/sbin/up\nInterfaceIn=outer\n",
        &[("up", NOTE)],
    );
    let rehearsed = host.ok("runns-exec build -s work --dry-run");
    assert!(
        rehearsed.contains("\n  PostBuild: /usr/local/sbin/up\n"),
        "{rehearsed}"
    );
    let built = host.run("runns-exec build -s work");
    assert!(
        built.status == 0
            && built.stdout.contains("said\n")
            && built.stderr.contains("complained\n"),
        "{built}"
    );
    let note = host.ok("cat /tmp/note");
    let wanted = [
        "RUNNS_ADDRESS=172.24.0.2\nRUNNS_HOST_ADDRESS=172.24.0.1\nRUNNS_INTERFACE=eth0\nRUNNS_NETNS=work\n0\n",
        "eth0@",
        "172.24.0.2/24",
        "nameserver 192.0.2.53\n",
        "/dev/null\neth0\nlo",
    ];
    wanted
        .iter()
        .for_each(|wanted| assert!(note.contains(wanted), "{wanted}: {note}"));
    let names = note
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect::<Vec<_>>();
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("RUNNS_") || ["PATH", "PWD"].contains(name)),
        "{names:?}"
    );
    // Nothing is run again if something is repaired.
    host.ok("rm /tmp/note; ip link set outer down; runns-exec build -s work; runns-exec status; test ! -e /tmp/note");
    host.ok("runns-exec clean work -f");
}

#[test]
fn what_a_program_leaves_running_holds_nothing() {
    let up = "#!/bin/sh\n(exec sleep 1003) &\nls -l /proc/self/fd >/tmp/descriptors\n";
    let host = host_with("PostBuild=/usr/local/sbin/up\n", &[("up", up)]);
    host.ok("runns-exec build -s work </dev/null >/tmp/said 2>&1");
    let open = host.ok("cat /tmp/descriptors");
    assert!(
        !open.contains("/run/runns") && !open.contains("memfd"),
        "{open}"
    );
    host.ok("timeout 5 runns-exec build -n other && runns-exec clean other && runns-exec clean work -fk");
}

#[test]
fn a_program_that_fails_undoes_the_build() {
    let up = "#!/bin/sh\n(exec sleep 1000) & ip link add extra type bridge\nexit 3\n";
    let host = host_with("PostBuild=/usr/local/sbin/up\n", &[("up", up)]);
    let before = Snapshot::of(&host);
    host.run("runns-exec build -s work")
        .refused(1, &["PostBuild /usr/local/sbin/up", "exit status 3"]);
    before.assert_same(&Snapshot::of(&host));
    assert_eq!(
        host.run("pgrep -f '[s]leep 1000'").status,
        1,
        "what it left running has ended"
    );
    // Neither a script without an interpreter, nor one whose interpreter is missing.
    for (text, words) in [("exit 0\n", "#! line"), ("#!/nowhere\n", "interpreter")] {
        host.write("/usr/local/sbin/up", text);
        host.ok("chmod 755 /usr/local/sbin/up");
        host.run("runns-exec build -s work")
            .refused(1, &["PostBuild", words]);
    }
    host.write("/usr/local/sbin/up", "#!/bin/sh\nkill -SEGV $$\n");
    host.ok("chmod 755 /usr/local/sbin/up");
    host.run("runns-exec build -s work")
        .refused(1, &["PostBuild", "SIGSEGV"]);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_program_that_takes_too_long_is_ended() {
    let up =
        "#!/bin/sh\ntrap '' TERM\n(trap '' TERM; exec sleep 1001) &\nwhile :; do sleep 0.1; done\n";
    let host = host_with(
        "PostBuild=/usr/local/sbin/up\nHookTimeout=1\n",
        &[("up", up)],
    );
    let before = Snapshot::of(&host);
    host.run("runns-exec build -s work")
        .refused(1, &["longer than 1 s", "HookTimeout"]);
    before.assert_same(&Snapshot::of(&host));
    assert_eq!(host.run("pgrep -f '[s]leep 1001'").status, 1);
    // Whoever interrupts build does not wait for it either.
    host.configure("[work]\nPostBuild=/usr/local/sbin/up\n");
    let build = host.spawn("echo $$; exec runns-exec build -s work");
    wait_until("it runs", || {
        (host.run("pgrep -f '[s]leep 1001'").status == 0).then_some(())
    });
    let pid = build.stdout().lines().next().expect("a pid").to_string();
    host.ok(&format!("kill -INT {pid}"));
    wait_until("build has ended", || (!build.is_running()).then_some(()));
    assert!(
        build.stderr().contains("interrupted by a signal"),
        "{}",
        build.stderr()
    );
    before.assert_same(&Snapshot::of(&host));
    host.configure("[work]\nPostBuild=/usr/local/sbin/up\nHookTimeout=0\n");
    host.run("runns-exec build -s work")
        .refused(1, &["HookTimeout", "'0'"]);
}

#[test]
fn only_a_program_of_roots_is_run() {
    let host = host_with(
        "PostBuild=/usr/local/sbin/up\n",
        &[("up", "#!/bin/sh\ntouch /tmp/ran\n")],
    );
    let before = Snapshot::of(&host);
    for (spoil, words, repair) in [
        (
            "chmod 775 F; chgrp runns F",
            "writ",
            "chmod 755 F; chgrp root F",
        ),
        ("chown alice F", "root", "chown root F"),
        ("chmod 644 F", "not executable", "chmod 755 F"),
        ("mv F F.away", "No such file", "mv F.away F"),
        (
            "mv F F.away; mkdir F",
            "not a regular file",
            "rmdir F; mv F.away F",
        ),
        (
            "chmod 1777 /usr/local/sbin",
            "/usr/local/sbin",
            "chmod 755 /usr/local/sbin",
        ),
        (
            "mv F F.away; ln -s /home/alice/up F",
            "/home/alice",
            "rm F; mv F.away F",
        ),
    ] {
        host.ok("cp /usr/local/sbin/up /home/alice/up; chown alice /home/alice/up");
        host.ok(&spoil.replace('F', "/usr/local/sbin/up"));
        host.run("runns-exec build -s work").refused(1, &[words]);
        host.run("runns-exec build -s work --dry-run")
            .refused(1, &[words]);
        host.ok(&repair.replace('F', "/usr/local/sbin/up"));
    }
    host.ok("rm /home/alice/up");
    before.assert_same(&Snapshot::of(&host));
    assert_eq!(host.run("test -e /tmp/ran").status, 1);
    host.configure("[work]\nPostBuild=up\n");
    host.run("runns-exec build -s work")
        .refused(1, &["PostBuild", "must start with /"]);
}

#[test]
fn a_program_runs_before_clean() {
    let down = format!("{NOTE}ip link show dev eth0 >/tmp/link\nexit $(cat /tmp/status)\n");
    let host = host_with("PreClean=/usr/local/sbin/down\n", &[("down", &down)]);
    let before = Snapshot::of(&host);
    for status in [0, 7] {
        host.write("/tmp/status", &status.to_string());
        let rehearsed = host.ok("runns-exec build -s work --dry-run");
        assert!(
            rehearsed.contains("clean would run /usr/local/sbin/down inside first (PreClean)"),
            "{rehearsed}"
        );
        host.ok("runns-exec build -s work && test ! -e /tmp/note");
        let cleaned = host.run("runns-exec clean work -f");
        assert!(
            cleaned.status == 0 && cleaned.stdout.contains("said\n"),
            "{cleaned}"
        );
        assert_eq!(
            cleaned.stderr.contains("exit status 7"),
            status == 7,
            "{cleaned}"
        );
        assert!(
            host.ok("cat /tmp/note /tmp/link")
                .contains("RUNNS_ADDRESS=172.24.0.2")
        );
        host.ok("rm /tmp/note /tmp/link");
    }
    // Asked about running programs first, and not run if the answer is no.
    host.ok("runns-exec build -s work");
    let inside = host.root().spawn("exec ip netns exec work sleep 1002");
    wait_until("it is inside", || {
        (host.run("ip netns pids work | grep .").status == 0).then_some(())
    });
    host.run("runns-exec clean work -f </dev/null")
        .refused(1, &["sleep 1002"]);
    assert_eq!(host.run("test -e /tmp/note").status, 1);
    host.ok("runns-exec clean work -fk && rm /tmp/note /tmp/link /tmp/status");
    drop(inside);
    before.assert_same(&Snapshot::of(&host));
}
