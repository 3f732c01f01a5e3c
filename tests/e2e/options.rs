//! --detach, --no-new-privs and -v. The pseudo-terminal has tests of its own.

use crate::host_with_vpn1;

#[test]
fn detach_prints_the_pid_of_a_session_of_its_own() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let inode = host.ok("stat -Lc %i /run/netns/vpn1");
    let pid = alice.ok("runns-exec -d vpn1 -- sleep 1000");
    assert!(
        !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()),
        "{pid:?}"
    );
    assert_eq!(host.ok(&format!("stat -Lc %i /proc/{pid}/ns/net")), inode);
    assert_eq!(
        host.ok(&format!("tr '\\0' ' ' </proc/{pid}/cmdline")),
        "sleep 1000 "
    );
    assert_eq!(
        host.ok(&format!("ps -o sid= -p {pid}")).trim(),
        pid,
        "a session of its own"
    );
    assert_eq!(host.ok(&format!("readlink /proc/{pid}/fd/0")), "/dev/null");
    assert_eq!(host.ok(&format!("stat -c %U /proc/{pid}")), "alice");
    alice.ok(&format!("kill {pid}"));
    let long = alice.ok("runns-exec exec --detach vpn1 -- sh -c 'echo started >out; sleep 1000'");
    alice.ok("while [ ! -s out ]; do sleep 0.02; done");
    alice.ok(&format!("kill {long}"));
}

#[test]
fn detach_tells_when_the_command_cannot_be_executed() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    alice
        .run("runns-exec -d vpn1 -- no-such-command")
        .refused(127, &["no-such-command"]);
    alice
        .run("runns-exec -d vpn1 -- /etc/passwd")
        .refused(126, &["/etc/passwd"]);
    alice
        .run("runns-exec -d nosuch -- true")
        .refused(125, &["nosuch"]);
    assert_eq!(
        alice
            .run("runns-exec -d vpn1 -- sleep 1000 >/dev/full")
            .status,
        125,
        "nobody learns of the pid"
    );
    host.ok(
        "i=0; while pgrep -x sleep >/dev/null; do i=$((i+1)); [ $i -lt 200 ]; sleep 0.02; done",
    );
}

#[test]
fn detached_output_goes_where_it_was_redirected() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    alice.ok(
        "runns-exec -d vpn1 -- sh -c 'echo out; echo err >&2; read x; echo \"end $?\"' >log 2>&1",
    );
    alice.ok("while ! grep -q end log; do sleep 0.02; done");
    let log = alice.ok("sort log");
    assert!(
        log.contains("end 1\nerr\nout") || log.contains("end 1"),
        "input is at its end: {log}"
    );
}

/// Whoever reads until the end of the output, as $(...) and ssh do, does not wait for the command.
#[test]
fn detach_keeps_no_pipe_and_no_terminal_but_files() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let outputs = |pid: &str| host.ok(&format!("readlink /proc/{pid}/fd/1 /proc/{pid}/fd/2"));
    for redirection in ["2>&1", "2>/dev/null", ""] {
        let pid = alice.ok(&format!(
            "timeout 5 bash -c 'pid=$(runns-exec -d vpn1 -- sleep 60 {redirection}); echo $pid'"
        ));
        assert!(outputs(&pid).starts_with("/dev/null\n"), "{redirection}");
        alice.ok(&format!("kill {pid}"));
    }
    let pid = alice.ok("timeout 5 bash -c 'runns-exec -d vpn1 -- sleep 60 2>&1 | cat'");
    assert_eq!(outputs(&pid), "/dev/null\n/dev/null");
    alice.ok(&format!("kill {pid}"));
    // Standard output is a file, error output a socket.
    let socket = "import socket, subprocess, sys; ours, theirs = socket.socketpair(); \
                  subprocess.run(['runns-exec', '-d', 'vpn1', '--', 'sleep', '60'], stderr=theirs); theirs.close(); \
                  assert ours.recv(100) == b''";
    alice.ok(&format!("timeout 5 python3 -c \"{socket}\" >pid"));
    let pid = alice.ok("cat pid");
    let file = host.ok(&format!("readlink /proc/{pid}/fd/1"));
    assert!(file.ends_with("/pid"), "{file}");
    assert_eq!(host.ok(&format!("readlink /proc/{pid}/fd/2")), "/dev/null");
    alice.ok(&format!("kill {pid}"));
    // With a terminal of its own the same, and what it writes there is read.
    let pid = alice.ok("timeout 5 bash -c 'pid=$(runns-exec -d -t vpn1 -- sh -c \"yes | head -c 1000000; echo >done; exec sleep 60\" 2>&1); echo $pid'");
    alice.ok("i=0; until [ -e done ]; do i=$((i+1)); [ $i -lt 200 ] || exit 1; sleep 0.05; done");
    alice.ok(&format!("kill {pid}"));
    // Why a command was not executed is still said.
    let output = alice
        .run("timeout 5 bash -c 'x=$(runns-exec -d vpn1 -- no-such-command 2>&1); echo \"$? $x\"'");
    assert!(
        output
            .stdout
            .starts_with("127 runns-exec: cannot execute no-such-command"),
        "{output}"
    );
}

#[test]
fn no_new_privs_is_set_for_the_command() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let ask = "grep NoNewPrivs /proc/self/status";
    assert_eq!(
        alice.ok(&format!("runns-exec --no-new-privs vpn1 -- {ask}")),
        "NoNewPrivs:\t1"
    );
    assert_eq!(
        alice.ok(&format!("runns-exec exec --no-new-privs vpn1 -- {ask}")),
        "NoNewPrivs:\t1"
    );
    assert_eq!(
        alice.ok(&format!("runns-exec vpn1 -- {ask}")),
        "NoNewPrivs:\t0"
    );
}

#[test]
fn verbose_says_each_step_on_stderr() {
    let host = host_with_vpn1();
    host.write("/etc/netns/vpn1/hosts", "10.1.1.1 inside\n");
    let output = host.user("alice").run("runns-exec -v vpn1 -- echo result");
    assert_eq!(
        (output.status, output.stdout.as_str()),
        (0, "result\n"),
        "{output}"
    );
    for part in ["vpn1", "/etc/hosts", "capabilit", "echo result"] {
        assert!(output.stderr.contains(part), "{part}: {output}");
    }
}
