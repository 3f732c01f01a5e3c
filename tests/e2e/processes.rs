//! Processes that try not to be seen, or to be too much to look at (SPEC 3.2, 6, 8).

use crate::attack::compile;
use crate::support::{Host, Runner, wait_until};

/// A namespace vpn1 that was built, and the program of threads.c.
fn host() -> Host {
    let host = Host::new();
    host.ok("runns-exec build -n vpn1");
    compile(&host, "threads", include_str!("threads.c"));
    host
}

/// Starts `script` and waits for its first line.
fn start(runner: &Runner, script: &str) {
    let process = runner.spawn(script);
    wait_until(script, || process.stdout().contains("ready").then_some(()));
}

/// The pids of the processes called `threads`, as ps says.
fn processes(host: &Host) -> Vec<String> {
    host.run("ps -o pid= -C threads")
        .stdout
        .split_whitespace()
        .map(str::to_string)
        .collect()
}

/// The number of processes in vpn1, as status says.
fn count(runner: &Runner) -> i64 {
    let text = runner.run("runns-exec status vpn1 --json").stdout;
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    status[0]["processes"].as_i64().expect("a number")
}

#[test]
fn a_process_whose_main_thread_has_ended_is_seen_and_ended() {
    let host = host();
    start(&host.user("carol"), "exec runns-exec vpn1 -- threads ended");
    let pid = processes(&host).join("\n");
    for runner in [host.root(), host.user("alice"), host.user("carol")] {
        assert_eq!(runner.ok("runns-exec list -aq vpn1"), pid);
        assert!(runner.ok("runns-exec list -a").ends_with("  threads ended"));
    }
    assert_eq!(host.user("carol").ok("runns-exec list -q"), pid);
    assert_eq!((count(&host.root()), count(&host.user("alice"))), (1, 1));
    host.run("runns-exec clean vpn1")
        .refused(1, &[&pid, "threads ended", "--kill"]);
    assert_eq!(processes(&host), [pid.as_str()]);
    host.ok("runns-exec clean vpn1 --kill");
    assert_eq!(processes(&host), [""; 0]);
}

#[test]
fn a_namespace_is_known_by_a_process_whose_main_thread_has_ended() {
    let host = host();
    start(&host.user("carol"), "exec runns-exec vpn1 -- threads ended");
    host.ok("umount /run/netns/vpn1 && rm /run/netns/vpn1");
    host.ok("runns-exec build -n vpn1");
    host.user("alice").ok("runns-exec vpn1 -- true");
    host.ok("umount /run/netns/vpn1 && rm /run/netns/vpn1 && runns-exec clean vpn1 --kill");
    assert_eq!(processes(&host), [""; 0]);
}

#[test]
fn a_process_with_one_thread_inside_is_seen_and_ended() {
    let host = host();
    start(&host.root(), "exec threads ended");
    let outside = processes(&host).join("");
    start(&host.root(), "exec threads inside /run/netns/vpn1");
    let pid = host.ok("pgrep -xf 'threads inside /run/netns/vpn1'");
    host.run("runns-exec clean vpn1")
        .refused(1, &[&pid, "threads inside", "--kill"]);
    host.ok("runns-exec clean vpn1 --kill");
    assert_eq!(
        host.ok("ps -o pid=,nlwp= -C threads")
            .split_whitespace()
            .collect::<Vec<_>>(),
        [&outside, "2"]
    );
}

/// Enough memory for everything but what is without end.
const FRUGAL: &str = "prlimit --as=268435456";

#[test]
fn command_lines_without_end_exhaust_nobody() {
    let host = host();
    compile(&host, "endless", include_str!("endless.c"));
    // A stranger's, which is looked at where a browser is about to start.
    start(&host.user("bob"), "exec endless");
    host.write("/usr/local/bin/firefox", "#!/bin/sh\necho started\n");
    host.ok("chmod 755 /usr/local/bin/firefox");
    let alice = host.user("alice");
    assert_eq!(
        alice.ok(&format!("{FRUGAL} runns-exec vpn1 -- firefox")),
        "started"
    );
    // A member's, inside.
    start(&host.user("carol"), "exec runns-exec vpn1 -- endless");
    let pid = host.ok("pgrep -u carol -x endless");
    for runner in [host.root(), alice] {
        assert_eq!(runner.ok(&format!("{FRUGAL} runns-exec list -aq")), pid);
        assert_eq!(
            runner
                .ok(&format!("{FRUGAL} runns-exec list -a"))
                .lines()
                .count(),
            2
        );
        let rows: serde_json::Value =
            serde_json::from_str(&runner.ok(&format!("{FRUGAL} runns-exec list -a --json")))
                .expect("JSON");
        assert_eq!(rows[0]["pid"].to_string(), pid);
    }
    host.run(&format!("{FRUGAL} runns-exec clean vpn1"))
        .refused(1, &[&pid, "--kill"]);
    host.ok(&format!("{FRUGAL} runns-exec clean vpn1 --kill"));
    assert_eq!(host.ok("pgrep -x endless | wc -l"), "1", "the stranger's");
}
