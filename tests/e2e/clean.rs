//! What clean does with processes inside, and what it leaves alone (SPEC 6).

use crate::support::{Host, Snapshot, wait_until};

const ALIVE: &str = "pgrep -x sleep | wc -l";

fn built() -> (Host, Snapshot) {
    let host = Host::new();
    let before = Snapshot::of(&host);
    host.ok("runns-exec build");
    (host, before)
}

#[test]
fn without_a_terminal_processes_inside_are_not_killed() {
    let (host, _) = built();
    let pid = host.user("alice").ok("runns-exec -d vpn1 -- sleep 1000");
    let during = Snapshot::of(&host);
    host.run("runns-exec clean vpn1")
        .refused(1, &[&pid, "sleep 1000", "--kill"]);
    host.ok(&format!("kill -0 {pid}"));
    during.assert_same(&Snapshot::of(&host));
    host.user("alice").ok("runns-exec vpn1 -- true");
}

#[test]
fn on_a_terminal_it_asks() {
    let (host, before) = built();
    let pid = host.user("alice").ok("runns-exec -d vpn1 -- sleep 1000");
    for answer in ["n\n", "\n", "maybe\n"] {
        let asked = host.root().run_with(
            "script -qec 'runns-exec clean vpn1' /dev/null",
            answer.as_bytes(),
        );
        assert_eq!(asked.status, 1, "{asked}");
        assert!(
            asked.stdout.contains(&pid) && asked.stdout.contains("sleep 1000"),
            "{asked}"
        );
        host.ok(&format!("kill -0 {pid}"));
    }
    let asked = host
        .root()
        .run_with("script -qec 'runns-exec clean vpn1 -f' /dev/null", b"yes\n");
    assert_eq!(asked.status, 0, "{asked}");
    assert_ne!(host.run(&format!("kill -0 {pid}")).status, 0);
    before.assert_same(&Snapshot::of(&host));
}

/// It has been killed, or ends by itself, and executes nothing any more.
#[test]
fn a_process_that_its_tracer_keeps_from_ending_does_not_hold_clean_up() {
    let host = Host::new();
    host.write("/tmp/seize.py", include_str!("seize.py"));
    host.ok("runns-exec build -n work");
    let alice = host.user("alice");
    let pid = alice.ok("runns-exec -d work -- sleep 1000");
    let tracer = alice.spawn(&format!("exec python3 /tmp/seize.py {pid} >/tmp/said"));
    wait_until("the tracer", || {
        (host.run("cat /tmp/said").stdout.trim() == "0").then_some(())
    });
    host.ok("timeout 60 runns-exec clean work --kill --timeout 1");
    assert_eq!(host.ok(&format!("cat /proc/{pid}/comm")), "sleep");
    host.ok("runns-exec build -n work");
    host.ok("pkill -KILL -f '[s]eize.py'");
    tracer.wait();
    alice.ok("mkfifo /tmp/go");
    let pid = alice.ok("runns-exec -d work -- cat /tmp/go");
    let tracer = alice.spawn(&format!("exec python3 /tmp/seize.py {pid} >/tmp/again"));
    wait_until("the tracer", || {
        (host.run("cat /tmp/again").stdout.trim() == "0").then_some(())
    });
    alice.ok(": >/tmp/go");
    wait_until("its end", || {
        host.ok(&format!("cat /proc/{pid}/stat"))
            .contains(") t ")
            .then_some(())
    });
    host.ok("timeout 60 runns-exec clean work --kill --timeout 1");
    assert_eq!(host.ok(&format!("cat /proc/{pid}/comm")), "cat");
    host.ok("pkill -KILL -f '[s]eize.py'");
    tracer.wait();
}

#[test]
fn kill_ends_what_is_inside_and_nothing_else() {
    let host = Host::new();
    host.configure("");
    let before = Snapshot::of(&host);
    host.ok(
        "runns-exec build && runns-exec build -n vpn11 && ip netns add vpn && ip netns add vpn1x",
    );
    host.configure("[vpn]\n[vpn1x]\n");
    let alice = host.user("alice");
    let outside: Vec<String> = ["vpn11", "vpn", "vpn1x"]
        .iter()
        .map(|name| alice.ok(&format!("runns-exec -d {name} -- sleep 1000")))
        .chain([alice.ok("sleep 1000 >/dev/null 2>&1 & echo $!")])
        .collect();
    alice.ok("runns-exec -d vpn1 -- sleep 1000; runns-exec -d vpn1 -- sleep 1000");
    // A process that ignores SIGTERM, and one that keeps starting children, on SIGTERM as well.
    alice.ok(
        "runns-exec -d vpn1 -- sh -c 'trap \"\" TERM HUP; touch /tmp/deaf; sleep 1000; sleep 1000'",
    );
    alice.ok("runns-exec -d vpn1 -- sh -c 'trap \"sleep 1000 & sleep 1000 &\" TERM; while :; do sleep 0.01; done'");
    host.ok("while [ ! -e /tmp/deaf ]; do sleep 0.02; done");
    host.ok("runns-exec clean vpn1 --kill --timeout 1");
    for pid in &outside {
        assert_eq!(host.ok(&format!("cat /proc/{pid}/comm")), "sleep");
    }
    assert_eq!(host.ok(ALIVE), outside.len().to_string());
    host.ok("runns-exec clean -n vpn11 -k -f && ip netns delete vpn && ip netns delete vpn1x && rm /etc/runns.conf");
    host.ok(&format!("kill {}", outside[1..].join(" ")));
    let state = |snapshot: &Snapshot| {
        snapshot
            .text()
            .lines()
            .filter(|l| !l.contains("runns.conf"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(state(&before).contains("== mounts"));
    host.ok("umount /run/netns 2>/dev/null; rmdir /run/netns 2>/dev/null; true");
}

#[test]
fn what_is_gone_already_is_no_error() {
    let (host, before) = built();
    for remove in [
        "ip link delete vpn1",
        "ip netns delete vpn1",
        "iptables -F FORWARD; iptables -t nat -F POSTROUTING",
        "iptables -F; iptables -X; iptables -t nat -F; iptables -t nat -X; ip netns delete vpn1",
        "umount /run/netns/vpn1",
        "rm -f /run/runns/lock",
    ] {
        host.ok(remove);
        host.ok("runns-exec clean vpn1 -f");
        host.ok("umount /run/netns 2>/dev/null; rmdir /run/netns 2>/dev/null; true");
        before.assert_same(&Snapshot::of(&host));
        let again = host.run("runns-exec clean vpn1");
        assert!(
            again.status == 0 && again.stdout.contains("nothing"),
            "{again}"
        );
        host.ok("runns-exec build");
    }
}

#[test]
fn what_runns_exec_did_not_build_is_untouched() {
    let host = Host::new();
    host.ok("ip netns add mine && ip link add mine type veth peer name eth0 netns mine");
    host.write("/etc/netns/mine/resolv.conf", "nameserver 10.9.9.9\n");
    let before = Snapshot::of(&host);
    host.run("runns-exec clean mine")
        .refused(1, &["did not build"]);
    host.run("runns-exec clean -n mine --kill -f")
        .refused(1, &["did not build"]);
    let nothing = host.run("runns-exec clean nothing");
    assert!(
        nothing.status == 0 && nothing.stdout.contains("nothing"),
        "{nothing}"
    );
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_word_is_a_name_or_a_section() {
    let host = Host::new();
    host.configure("[work]\nNetworkNamespace=vpnWork\n[my mail]\nNetworkNamespace=mail\n");
    let gone =
        |name: &str| assert_eq!(host.ok(&format!("ls /run/runns | grep {name} || true")), "");
    for word in ["WORK", "vpnWork"] {
        host.ok(&format!(
            "runns-exec build -s work && runns-exec clean {word}"
        ));
        gone("vpnWork");
    }
    host.ok("runns-exec build -s work -n other && runns-exec clean work");
    gone("other");
    host.ok("runns-exec build -s work && runns-exec build -n vpn1 && runns-exec build -n vpn2");
    // The record says from which section it was built, whatever the configuration says now.
    host.configure("[my mail]\nNetworkNamespace=mail\nNonsense=1\n");
    host.ok("runns-exec clean work");
    gone("vpnWork");

    host.configure("[work]\nNetworkNamespace=vpnWork\n[my mail]\nNetworkNamespace=mail\n");
    let before = Snapshot::of(&host);
    for nothing in [
        "work",
        "vpnWork",
        "'my mail'",
        "mail",
        "vpn3",
        "-n wrok",
        "nothing",
    ] {
        let said = host.ok(&format!("runns-exec clean {nothing}"));
        assert!(said.contains("nothing to clean"), "{said}");
    }
    for (word, near) in [
        ("wrok", "did you mean work?"),
        ("'my mial'", "did you mean my mail?"),
        ("vpnWrok", "did you mean vpnWork?"),
    ] {
        host.run(&format!("runns-exec clean {word}"))
            .refused(1, &["neither", near]);
    }
    host.run("runns-exec clean 'no such'")
        .refused(2, &["no such"]);
    before.assert_same(&Snapshot::of(&host));
    host.ok("runns-exec clean vpn1 && runns-exec clean vpn1 && runns-exec clean vpn2");
}

#[test]
fn names_that_were_built_anew_are_not_entered_by_an_old_record() {
    let (host, _) = built();
    host.ok("ip netns delete vpn1 && ip netns add vpn1");
    host.user("alice")
        .run("runns-exec vpn1 -- true")
        .refused(125, &["another namespace"]);
    let output = host.run("runns-exec clean vpn1 -f");
    assert_eq!(
        host.run("ip netns list").stdout.trim(),
        "vpn1",
        "it is somebody else's by now: {output}"
    );
}

#[test]
fn resolver_files_go_with_the_namespace() {
    let host = Host::new();
    host.write("/tmp/dns", "nameserver 10.9.9.9\n");
    let before = Snapshot::of(&host);
    host.ok("umask 0777; runns-exec build -n a -r /tmp/dns");
    assert_eq!(
        host.ok("stat -c '%U %a' /etc/netns /etc/netns/a /etc/netns/a/resolv.conf"),
        "root 755\nroot 755\nroot 644"
    );
    assert!(
        host.user("alice")
            .ok("runns-exec a -- cat /etc/resolv.conf")
            .contains("nameserver 10.9.9.9")
    );
    // If a file that the record lists is missing, nobody can enter without the resolver.
    host.ok("mv /etc/netns/a/resolv.conf /tmp/away");
    host.user("alice")
        .run("runns-exec a -- true")
        .refused(125, &["resolv.conf"]);
    host.ok("mv /tmp/away /etc/netns/a/resolv.conf");
    host.ok("runns-exec clean a -f");
    before.assert_same(&Snapshot::of(&host));
    // After a reboot the record is gone but the files are not: build replaces them, clean removes
    // them, and neither touches files of others.
    host.ok("runns-exec build -n a -r /tmp/dns && cp -a /etc/netns /tmp/netns && runns-exec clean a -f && cp -a /tmp/netns /etc/");
    host.ok(
        "runns-exec build -n a -r /tmp/dns && runns-exec clean a -f && cp -a /tmp/netns /etc/ && runns-exec clean a",
    );
    host.ok("rmdir /etc/netns"); // There is no record of who created it any more.
    before.assert_same(&Snapshot::of(&host));
    host.write("/etc/netns/a/resolv.conf", "nameserver 10.1.1.1\n");
    host.run("runns-exec build -n a -r /tmp/dns")
        .refused(1, &["/etc/netns/a/resolv.conf"]);
    host.ok("runns-exec clean a");
    assert_eq!(
        host.ok("cat /etc/netns/a/resolv.conf"),
        "nameserver 10.1.1.1"
    );
}
