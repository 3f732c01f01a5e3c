//! Processes in a namespace: found by its inode, identified by pid and start time.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use runns_exec_root::confine;
use runns_exec_root::kernel::daemon;
use runns_shared::record::Daemon;

use crate::support::{Net, wait_until};

const READY: &str = "echo ready; exec sleep 1000";

/// A process in a namespace, killed at the end of the test.
struct Process(Child);

impl Process {
    /// Starts a script and waits until it reports that it is ready.
    fn start(net: &Net, script: &str) -> Self {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", net.path()))
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inode(net: &Net) -> u64 {
    use std::os::unix::fs::MetadataExt;
    net.file().metadata().unwrap().ino()
}

#[test]
fn only_what_is_in_the_namespace_is_found() {
    let (net, other) = (Net::new(), Net::new());
    let inside = [Process::start(&net, READY), Process::start(&net, READY)];
    let _outside = Process::start(&other, READY);
    let mut pids = inside.each_ref().map(Process::pid);
    pids.sort();
    let mut found = daemon::in_namespace(inode(&net)).unwrap();
    found.sort();
    assert_eq!(found, pids);
    drop(inside);
    assert!(daemon::in_namespace(inode(&net)).unwrap().is_empty());
}

#[test]
fn a_daemon_is_known_by_pid_and_start_time() {
    let net = Net::new();
    let process = Process::start(&net, READY);
    let known = Daemon::identify(process.pid(), Path::new("/etc/x.conf")).unwrap();
    assert!(known.is_running());
    wait_until("sleep", || {
        (daemon::command_line(process.pid()) == ["sleep", "1000"]).then_some(())
    });
    let mut reused = known.clone();
    reused.start_time += 1;
    assert!(!reused.is_running(), "another process with its pid");
    drop(process);
    assert!(!known.is_running());
}

/// A user that no account has.
const NOBODYS: u32 = 65_599;

const CHAIN: &str = "
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setgid(65599); os.setuid(65599)
while True:
    if os.fork(): os._exit(0)
";

fn processes_of_nobody() -> usize {
    daemon::all()
        .into_iter()
        .filter(|pid| daemon::user_of(*pid) == Some(NOBODYS))
        .count()
}

#[test]
fn who_forks_all_the_time_does_not_escape() {
    let mut first = std::process::Command::new("python3")
        .args(["-c", CHAIN])
        .spawn()
        .expect("start python3");
    first.wait().expect("wait for its end");
    wait_until("the chain", || (processes_of_nobody() > 0).then_some(()));
    confine::end_user(NOBODYS).expect("end them");
    wait_until("the end of those that were killed", || {
        (processes_of_nobody() == 0).then_some(())
    });
    // One that lives may be between two processes.
    for _ in 0..200 {
        assert_eq!(processes_of_nobody(), 0);
    }
}
