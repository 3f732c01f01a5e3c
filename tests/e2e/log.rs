//! The audit trail (SPEC 3.5), and `runns-exec log` (SPEC 15).

use crate::host_with_vpn1;
use crate::support::wait_until;

#[test]
fn entering_is_logged_with_who_what_and_where() {
    let host = host_with_vpn1();
    let uid = host.ok("id -u alice");
    host.user("alice")
        .ok("runns-exec vpn1 -- echo 'two words' x");
    let line = host.log.wait_for(&["runns-exec[", "netns=vpn1"]);
    assert!(line.starts_with("<85>"), "authpriv.notice: {line}");
    for part in [
        &format!("uid={uid}(alice)"),
        "pid=",
        "tty=",
        "echo",
        "words",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    host.run("runns-exec vpn1 -- true");
    host.log.wait_for(&["uid=0(root)", "netns=vpn1"]);
}

#[test]
fn refusals_are_logged() {
    let host = host_with_vpn1();
    host.ok("ip netns add other");
    host.user("alice")
        .run("runns-exec other -- true")
        .refused(125, &["other"]);
    let line = host.log.wait_for(&["netns=other"]);
    assert!(line.starts_with("<84>"), "authpriv.warning: {line}");
    assert!(line.contains("alice") && line.contains("cannot"), "{line}");
    host.user("alice")
        .run("runns-exec exec \"$(printf 'x\\nforged')\" -- true");
    let line = host.log.wait_for(&["forged"]);
    assert!(!line.contains('\n'), "{line:?}");
}

#[test]
fn lines_cannot_be_forged_and_are_cut() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    alice.ok("runns-exec vpn1 -- true \"$(printf 'a\\nJan  1 00:00:00 runns-exec[1]: forged \\033[31m \\303\\203')\"");
    let line = host.log.wait_for(&["forged"]);
    assert!(!line.contains('\n') && !line.contains('\x1b'), "{line:?}");
    alice.ok("runns-exec vpn1 -- true $(seq 100000 | head -c 20000) tail");
    let line = host.log.wait_for(&["command=true 1"]);
    assert!(
        line.len() < 1024 + 100 && !line.contains("tail"),
        "{} bytes",
        line.len()
    );
    assert_eq!(host.log.ours().len(), 2, "{:#?}", host.log.ours());
}

#[test]
fn a_log_that_does_not_listen_stops_nothing() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    host.ok("mv /dev/log /dev/log.away");
    alice.ok("runns-exec vpn1 -- true");
    // A socket that is bound but never read: its queue is full after net.unix.max_dgram_qlen lines.
    let stuck = host.spawn(
        "python3 -c 'import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
         s.bind(\"/dev/log\"); os.chmod(\"/dev/log\", 0o666); time.sleep(1000)'",
    );
    host.ok("while [ ! -S /dev/log ]; do sleep 0.02; done");
    alice.ok("for i in $(seq 40); do runns-exec vpn1 -- true || exit 1; done");
    assert!(stuck.is_running());
}

#[test]
fn the_log_of_a_namespace_is_one_command_away() {
    let host = host_with_vpn1();
    host.ok("mount -t tmpfs tmpfs /var/log");
    host.configure("[work]\nNetworkNamespace=vpn1\n");
    // Root cannot do more.
    for (runner, hint) in [
        (host.root(), ""),
        (host.user("alice"), "hint: sudo runns-exec log "),
    ] {
        let said = runner.run("runns-exec log work").refused(1, &[hint]);
        assert_eq!(said.stderr.contains("hint: "), !hint.is_empty(), "{said}");
    }
    let line = |time: &str, text: &str| format!("2026-11-08T03:04:{time}+00:00 host {text}\n");
    let daemon = line(
        "05.2",
        "openvpn-vpn1[7]: Initialization \x1b[31mSequence Completed",
    );
    let built = line("05.1", "runns-exec[6]: built vpn1: NAT");
    let entered = line(
        "06",
        "runns-exec[9]: uid=1000(alice) pid=9 tty=- netns=vpn1 command=id",
    );
    let others = [
        line("04", "openvpn-vpn10[7]: Exiting"),
        line(
            "07",
            "runns-exec[9]: uid=1000(alice) netns=other command=echo vpn1",
        ),
        line("08", "bash[3]: built vpn1: NAT"),
    ];
    host.write("/var/log/syslog", &(daemon.clone() + &others.concat()));
    host.write("/var/log/auth.log", &(built.clone() + &entered));
    host.ok("chmod 600 /var/log/auth.log");
    let shown = daemon.replace('\x1b', "\\x1b");
    let all = format!("{built}{shown}{entered}");
    for word in ["vpn1", "work"] {
        assert_eq!(host.run(&format!("runns-exec log {word}")).stdout, all);
    }
    let alice = host.user("alice").run("runns-exec log work");
    assert_eq!(alice.stdout, shown, "only what she may read");
    let follow = host.spawn("exec runns-exec log -f work");
    wait_until("what there is", || (follow.stdout() == all).then_some(()));
    let new = line("09", "openvpn-vpn1[7]: Restart pause");
    // Until tail(1) reads, lines are lost on it.
    wait_until("a new line", || {
        host.ok(&format!("printf '%s' '{new}' >>/var/log/syslog"));
        follow.stdout().contains(&new).then_some(())
    });
    host.run("runns-exec log vpn2")
        .refused(1, &["'vpn2'", "did you mean vpn1?"]);
}
