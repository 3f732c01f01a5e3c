//! Whether a command was started is told truly: by 0 and its pid, or by 125, after which nothing
//! runs (SPEC 3.4).

use crate::host_with_vpn1;
use crate::support::{Host, Output, wait_until};

/// Runs `runns-exec OPTIONS vpn1 -- COMMAND` as alice, and `kill` while the process that is to be
/// the command executes it. COMMAND says so in a file if it is executed all the same.
fn start_and_kill(host: &Host, options: &str, kill: &str) -> Output {
    host.write(
        "/tmp/command",
        "#!/bin/sh\ntrap '' HUP\ntouch /tmp/ran\nexec sleep 1000\n",
    );
    host.write("/tmp/hold.py", include_str!("hold.py"));
    host.ok("chmod 755 /tmp/command; rm -f /tmp/go /tmp/ran");
    let hold = host.spawn("exec python3 /tmp/hold.py /tmp/command /tmp/go");
    wait_until("a lease", || hold.stdout().contains("ready").then_some(()));
    let start = host
        .user("alice")
        .spawn(&format!("exec runns-exec {options} vpn1 -- /tmp/command"));
    wait_until("an exec", || hold.stdout().contains("waits").then_some(()));
    host.ok(kill);
    host.ok("touch /tmp/go");
    hold.wait().ok();
    start.wait()
}

/// The nth process of runns-exec, in the order of their starts.
fn nth(number: usize) -> String {
    format!("kill -KILL $(pgrep -u alice -x runns-exec | sort -n | sed -n {number}p)")
}

/// Nothing of alice's is left. What has been killed may take a moment to end.
#[track_caller]
fn gone(host: &Host) {
    host.ok("while pgrep -u alice . >/dev/null; do sleep 0.02; done");
}

#[track_caller]
fn nothing_runs(host: &Host) {
    gone(host);
    assert_ne!(
        host.run("test -e /tmp/ran").status,
        0,
        "the command has run"
    );
}

#[test]
fn a_process_killed_before_the_exec_was_not_started() {
    let host = host_with_vpn1();
    // Itself, relay and monitor come before it.
    for (options, last) in [("-d", 2), ("-t", 3), ("-d -t", 4)] {
        let output = start_and_kill(&host, options, &nth(last));
        output.refused(125, &["cannot start the command", "killed"]);
        nothing_runs(&host);
    }
}

#[test]
fn a_command_whose_relay_or_monitor_is_killed_at_the_start_does_not_run_on() {
    let host = host_with_vpn1();
    for process in [2, 3] {
        start_and_kill(&host, "-d -t", &nth(process)).refused(125, &["was killed"]);
        nothing_runs(&host);
    }
}

#[test]
fn a_command_that_ends_at_once_was_started() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    for options in ["-d", "-d -t"] {
        let script =
            format!("for n in $(seq 100); do runns-exec {options} vpn1 -- true || exit; done");
        assert_eq!(alice.ok(&script).lines().count(), 100);
        // The shell that ignores SIGCHLD is not told of its children's end, nor is what it starts.
        assert_eq!(
            alice.ok(&format!("trap '' CHLD; {script}")).lines().count(),
            100
        );
    }
}

/// Each system call of the process that waits for the start fails in turn.
#[test]
fn after_a_failure_to_follow_the_start_nothing_runs() {
    let host = host_with_vpn1();
    host.write("/tmp/command", "#!/bin/sh\ntrap '' HUP TERM\nsleep 1000\n");
    host.ok("chmod 755 /tmp/command");
    for options in ["-d", "-d -t"] {
        let start = format!("runns-exec {options} vpn1 -- /tmp/command");
        host.ok(&format!(
            "strace -u alice -o /tmp/trace {start}; pkill -KILL -u alice ."
        ));
        let calls = host.ok("sed -n 's/^\\([a-z0-9_]*\\)(.*/\\1/p' /tmp/trace");
        let calls: Vec<&str> = calls.lines().collect();
        let fork = calls
            .iter()
            .rposition(|call| call.starts_with("clone"))
            .expect("a fork");
        let mut failed = 0;
        // A close that fails has closed all the same (close(2)), unlike one that strace makes fail.
        let is_tried = |call: &str| !call.starts_with("exit") && call != "close";
        for (at, call) in calls
            .iter()
            .enumerate()
            .skip(fork + 1)
            .filter(|(_, call)| is_tried(call))
        {
            let ordinal = calls[..=at].iter().filter(|other| other == &call).count();
            let output = host.run(&format!(
                "strace -u alice -o /tmp/trace -e inject={call}:error=EIO:when={ordinal} {start} >/tmp/out 2>/tmp/err </dev/null"
            ));
            if output.status == 125 {
                failed += 1;
                gone(&host);
            } else {
                assert_eq!(output.status, 0, "{call} {ordinal}: {output}");
                // It goes on, and the relay with it.
                host.ok("read pid </tmp/out && kill -0 $pid && sleep 0.1 && kill -0 $pid && pkill -KILL -u alice .");
                gone(&host);
            }
        }
        assert!(failed > 0, "{calls:?}");
    }
}
