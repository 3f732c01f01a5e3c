//! The audit trail (SPEC 3.5).

use crate::host_with_vpn1;

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
