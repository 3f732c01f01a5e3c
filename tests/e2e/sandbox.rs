//! Sandboxes that change what runns-exec sees of the host (SPEC 3.1, 3.2): they open nothing, and
//! nothing of an outer namespace is left behind one.

use crate::support::{Host, Runner, Snapshot};

const FIREJAIL: &str = "firejail --quiet --noprofile";
const RECORDS_HIDDEN: &str = "firejail --quiet --noprofile --whitelist=/run/netns";
/// The mark of namespace vpn1.
const MARK: &str = "ip netns exec vpn1 cat /sys/class/net/lo/tx_queue_len";
/// The mark of the host's.
const MARK_OF_HOST: &str = "cat /sys/class/net/lo/tx_queue_len";

/// A host with firejail(1), a setuid program that lets its users rearrange the file system and hide
/// processes.
fn with_firejail() -> Host {
    let host = Host::new();
    host.unpack("firejail");
    host.write(
        "/etc/firejail/firejail.config",
        "network yes\nrestricted-network no\n",
    );
    // Where it sees none of the kernel's threads among the first pids, it takes itself for
    // sandboxed and does nothing.
    host.ok("cp /usr/bin/sleep /usr/local/bin/kthreadd && echo 1 >/proc/sys/kernel/ns_last_pid && \
         { kthreadd 1000000 >/dev/null 2>&1 & } && until grep -qx kthreadd /proc/[2-9]/comm; do sleep 0.02; done");
    let alice = host.user("alice");
    let inside = |sandbox: &str, script: &str| alice.ok(&format!("{sandbox} -- sh -c '{script}'"));
    assert_eq!(
        inside(FIREJAIL, "cat /proc/1/comm"),
        "firejail",
        "the sandbox does not run"
    );
    host.ok("mkdir -p /run/netns");
    assert_eq!(
        inside(RECORDS_HIDDEN, "ls /run"),
        "firejail\nnetns",
        "the sandbox hides nothing"
    );
    host
}

/// What a setuid sandbox can do: a mount namespace that root has rearranged by `mounts`, for a
/// command of alice's.
fn rearranged(mounts: &str, command: &str) -> String {
    format!(
        "unshare --mount --propagation slave sh -c '{mounts} && exec setpriv --reuid alice --regid alice --init-groups \
         {command}'"
    )
}

#[track_caller]
fn refused(runner: &Runner, command: &str, parts: &[&str]) {
    runner.run(command).refused(125, parts);
}

#[test]
fn a_hidden_record_opens_nothing() {
    let host = with_firejail();
    let alice = host.user("alice");
    host.ok("rm /etc/runns.conf");
    let before = Snapshot::of(&host);
    host.configure("[vpn1]\nAllowUsers=carol\n");
    host.ok("runns-exec build -s vpn1");
    for config in ["[vpn1]\n", "AllowUnmanaged=yes\n"] {
        host.configure(config);
        refused(&alice, "runns-exec vpn1 -- true", &["AllowUsers"]);
        refused(
            &alice,
            &format!("{FIREJAIL} -- runns-exec vpn1 -- true"),
            &["AllowUsers"],
        );
        refused(
            &alice,
            &format!("{RECORDS_HIDDEN} -- runns-exec vpn1 -- true"),
            &["runns-exec built it", "hint: "],
        );
        let hidden = rearranged(
            "mount -t tmpfs -o mode=755 none /run/runns",
            "runns-exec vpn1 -- true",
        );
        refused(&host.root(), &hidden, &["runns-exec built it"]);
        // Nor does another name of it.
        host.ok("touch /run/netns/alias && mount --bind /run/netns/vpn1 /run/netns/alias");
        refused(
            &alice,
            &format!("{RECORDS_HIDDEN} -- runns-exec alias -- true"),
            &[],
        );
        host.ok("umount /run/netns/alias && rm /run/netns/alias");
    }
    // What runns-exec did not build can be entered from there.
    host.ok("ip netns add other");
    alice.ok(&format!("{RECORDS_HIDDEN} -- runns-exec other -- true"));
    host.ok("ip netns delete other && runns-exec clean -f vpn1 && rm /etc/runns.conf");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn the_mark_inside_outlives_what_is_done_inside_and_is_repaired() {
    let host = Host::new();
    host.ok("runns-exec build -n vpn1");
    assert_eq!(host.ok(MARK), "1725");
    host.ok("ip -n vpn1 link set lo down && ip netns exec vpn1 nft flush ruleset && ip -n vpn1 address flush dev lo");
    host.user("alice").ok("runns-exec vpn1 -- true");
    assert_eq!(host.ok(MARK), "1725");
    // Only CAP_NET_ADMIN there can clear it.
    let clear = "sh -c 'echo 1000 >/sys/class/net/lo/tx_queue_len'";
    assert_ne!(
        host.user("alice")
            .run(&format!("runns-exec vpn1 -- {clear}"))
            .status,
        0
    );
    assert_ne!(
        host.user("alice")
            .run(&format!("runns-exec vpn1 -- unshare -Urm {clear}"))
            .status,
        0
    );
    host.ok(&format!("ip netns exec vpn1 {clear}"));
    for runner in [host.root(), host.user("alice")] {
        let status = runner.run("runns-exec status vpn1");
        assert!(
            status.status == 1 && status.stdout.contains("mark inside: gone"),
            "{status}"
        );
    }
    assert!(host.ok("runns-exec build -n vpn1").contains("mark inside"));
    assert_eq!(host.ok(MARK), "1725");
    host.ok("runns-exec status vpn1");
}

#[test]
fn a_sandbox_with_a_pid_1_of_its_own_does_not_open_the_hosts_namespace() {
    let host = with_firejail();
    let alice = host.user("alice");
    host.ok("rm /etc/runns.conf");
    let before = Snapshot::of(&host);
    let mark = host.ok(MARK_OF_HOST);
    host.ok("runns-exec build -n vpn1 && touch /run/netns/mine && mount --bind /proc/1/ns/net /run/netns/mine");
    for config in ["[mine]\n", "AllowUnmanaged=yes\n"] {
        host.configure(config);
        for sandbox in [
            "",
            "firejail --quiet --noprofile --net=none --",
            &format!("{RECORDS_HIDDEN} --net=none --"),
        ] {
            refused(
                &alice,
                &format!("{sandbox} runns-exec mine -- true"),
                &["the host's own"],
            );
        }
        let pid_1 = "unshare --net --pid --fork --mount-proc setpriv --reuid alice --regid alice --init-groups \
                     runns-exec mine -- true";
        refused(&host.root(), pid_1, &["the host's own"]);
    }
    // A mark that is lost is repaired.
    host.ok("echo 1000 >/sys/class/net/lo/tx_queue_len");
    assert!(
        host.run("runns-exec status")
            .stdout
            .contains("mark of the host's namespace: missing")
    );
    host.ok("runns-exec build -n vpn1 && runns-exec status");
    refused(
        &alice,
        "firejail --quiet --noprofile --net=none -- runns-exec mine -- true",
        &["the host's own"],
    );
    host.ok(
        "umount /run/netns/mine && rm /run/netns/mine /etc/runns.conf && runns-exec clean -f vpn1",
    );
    before.assert_same(&Snapshot::of(&host));
    assert_eq!(host.ok(MARK_OF_HOST), mark);
}

#[test]
fn a_hidden_configuration_opens_nothing() {
    let host = with_firejail();
    let alice = host.user("alice");
    host.ok("runns-exec build -n vpn1");
    host.configure("[vpn1]\nAllowUsers=carol\n");
    refused(&alice, "runns-exec vpn1 -- true", &["AllowUsers"]);
    for hidden in [
        "--private-etc=passwd,group,nsswitch.conf",
        "--whitelist=/etc/nsswitch.conf",
    ] {
        let command = format!("{FIREJAIL} {hidden} -- runns-exec vpn1 -- true");
        refused(&alice, &command, &["/etc/runns.conf is missing", "hint: "]);
    }
    refused(
        &alice,
        &format!("{FIREJAIL} --blacklist=/etc/runns.conf -- runns-exec vpn1 -- true"),
        &["/etc/runns.conf"],
    );
    // Nor does a part of it that is hidden.
    host.configure("AllowUnmanaged=yes\n");
    host.write("/etc/runns.conf.d/a.conf", "[a]\n");
    host.write(
        "/etc/runns.conf.d/b.conf",
        "[vpn1]\nAllowUsers=carol\n[mine]\nAllowUsers=carol\n",
    );
    host.ok("ip netns add mine");
    let shown = "--whitelist=/etc/runns.conf --whitelist=/etc/nsswitch.conf";
    for name in ["vpn1", "mine"] {
        for (hidden, part) in [
            ("", "AllowUsers"),
            (shown, "/etc/runns.conf.d is missing"),
            ("--private-etc=runns.conf", "/etc/runns.conf.d is missing"),
            (
                &format!("{shown} --whitelist=/etc/runns.conf.d/a.conf"),
                "mounted on it",
            ),
            ("--blacklist=/etc/runns.conf.d", "Permission denied"),
            ("--blacklist=/etc/runns.conf.d/b.conf", "b.conf"),
        ] {
            let command = format!("{FIREJAIL} {hidden} -- runns-exec {name} -- true");
            refused(
                &alice,
                &command,
                &["/etc/runns.conf.d", part][usize::from(hidden.is_empty())..],
            );
        }
    }
    host.ok("ip netns delete mine && rm /etc/runns.conf.d/*");
    // Without one, nothing is hidden.
    host.ok("rm /etc/runns.conf");
    alice.ok("runns-exec vpn1 -- true");
    alice.ok(&format!("{FIREJAIL} -- runns-exec vpn1 -- true"));
}

#[test]
fn whoever_is_refused_inside_waits_outside() {
    let host = Host::new();
    host.ok("runns-exec build -n vpn1");
    host.configure("AllowUnmanaged=yes\n");
    // The message of the refusal does not fit into the pipe, so that the process does not end.
    let stuck = "import os
read, write = os.pipe()
os.set_blocking(write, False)
try:
    while True: os.write(write, b'x')
except BlockingIOError: os.set_blocking(write, True)
os.dup2(write, 2)
os.set_inheritable(read, True)
open('/tmp/pid', 'w').write(str(os.getpid()))
os.execvp('sh', ['sh', '-c', os.environ['HIDDEN']])";
    host.write("/tmp/stuck.py", stuck);
    let hidden = rearranged(
        "mount -t tmpfs -o mode=755 none /run/runns",
        "runns-exec vpn1 -- true",
    );
    let process = host
        .root()
        .env("HIDDEN", &format!("exec {hidden}"))
        .spawn("exec python3 /tmp/stuck.py");
    let [own, vpn1] =
        ["/proc/1/ns/net", "/run/netns/vpn1"].map(|path| host.ok(&format!("stat -Lc %i {path}")));
    // It is outside at first, then inside for a moment, then in an empty namespace.
    crate::support::wait_until("it has left the namespace", || {
        let inode = host.run("stat -Lc %i /proc/$(cat /tmp/pid)/ns/net").stdout;
        let inode = inode.trim();
        (!inode.is_empty() && inode != own && inode != vpn1).then_some(())
    });
    assert!(process.is_running());
    assert_eq!(host.ok("ip netns pids vpn1"), "");
    host.ok("kill -9 $(cat /tmp/pid)");
}

/// What shows whose view it is.
const SHOW: &str = "sh -c 'cat /etc/resolv.conf /etc/hosts /etc/nsswitch.conf /etc/skel/inner; ls /run/nscd /sys/class/net'";

#[test]
fn entered_through_a_sandbox_nothing_of_the_outer_namespace_is_left() {
    let host = with_firejail();
    let alice = host.user("alice");
    host.write("/root/resolv.conf", "nameserver 198.51.100.53\n");
    host.write("/etc/skel/inner", "the host's\n");
    host.write("/run/nscd/file", "the host's\n");
    host.configure("[own]\nResolve=/root/resolv.conf\nHostAccess=yes\n[bare]\n");
    host.ok("chmod 755 /root && runns-exec build -s own && ip netns add bare");
    host.write("/etc/netns/own/skel/inner", "own\n");
    let direct = alice.ok(&format!("{FIREJAIL} -- runns-exec bare -- {SHOW}"));
    assert!(
        direct.contains("nameserver 192.0.2.1") && direct.contains("\nthe host's\n"),
        "{direct}"
    );
    let nested = format!("runns-exec own -- {FIREJAIL} -- runns-exec bare -- {SHOW}");
    let same = |what: &str| assert_eq!(alice.ok(&nested), direct, "{what}");
    same("files of the namespace");
    let other = alice.ok(&format!("{FIREJAIL} -- runns-exec own -- {SHOW}"));
    assert!(
        other.contains("nameserver 198.51.100.53") && other.contains("host.runns"),
        "{other}"
    );
    assert_eq!(
        alice.ok(&format!(
            "runns-exec own -- {FIREJAIL} -- runns-exec own -- {SHOW}"
        )),
        other
    );
    let twice =
        format!("runns-exec own -- {FIREJAIL} -- runns-exec own -- runns-exec bare -- {SHOW}");
    assert_eq!(alice.ok(&twice), direct);
    host.ok("echo '203.0.113.5 printer' >>/etc/hosts");
    let direct = alice.ok(&format!("{FIREJAIL} -- runns-exec bare -- {SHOW}"));
    assert_eq!(
        alice.ok(&nested),
        direct,
        "a hosts file that was made on entry"
    );
    host.ok("cd /etc/netns/own && mv resolv.conf /etc/target.conf && ln -s /etc/target.conf resolv.conf");
    assert_eq!(alice.ok(&nested), direct, "a link");
    // What the sandbox covers stays covered.
    let covered = format!(
        "runns-exec own -- {FIREJAIL} --blacklist=/etc/skel -- runns-exec bare -- ls /etc/skel"
    );
    assert_ne!(alice.run(&covered).status, 0);
    // A file that has been replaced meanwhile.
    host.write("/etc/netns/own/resolv.conf", "nameserver 198.51.100.54\n");
    let replaced =
        "sh -c 'touch /tmp/in; until [ -e /tmp/go ]; do sleep 0.02; done; exec \"$@\"' sh";
    let running = alice.spawn(&format!(
        "runns-exec own -- {replaced} {FIREJAIL} -- runns-exec bare -- cat /etc/resolv.conf"
    ));
    host.ok("until [ -e /tmp/in ]; do sleep 0.02; done");
    host.write("/etc/netns/own/new", "nameserver 198.51.100.55\n");
    host.ok("mv /etc/netns/own/new /etc/netns/own/resolv.conf && touch /tmp/go");
    assert_eq!(running.wait().ok(), "nameserver 192.0.2.1");
}
