//! Completions in real shells, with the names that exist on a host.

#[path = "../../install/completions.rs"]
#[allow(dead_code)]
mod scripts;

use crate::support::Host;

/// A host with namespaces and a section to complete.
fn host_with_names() -> Host {
    let host = Host::without_program();
    for shell in ["bash", "zsh", "fish"] {
        let name = if shell == "zsh" {
            "zsh/_runns-exec".to_string()
        } else {
            format!("runns-exec.{shell}")
        };
        host.write(&format!("/tmp/c/{name}"), &scripts::script(shell).unwrap());
    }
    host.ok("ip netns add vpnWork && ip netns add vpnXyz && ip netns add list");
    host.configure("[work]\n");
    host.write("/etc/runns.conf.d/home.conf", "[home]\n");
    host
}

/// What is typed before the Tab key, and what it is completed to.
const CASES: [(&str, &str); 21] = [
    ("vpnW", "vpnWork"),
    ("-v vpnW", "vpnWork"),
    ("exec li", "list"),
    ("clean vpnW", "vpnWork"),
    ("clean -n vpnW", "vpnWork"),
    ("clean -s wo", "work"),
    ("check vpnX", "vpnXyz"),
    ("list vpnX vpnW", "vpnWork"),
    ("build -s wo", "work"),
    ("build -s ho", "home"),
    ("build vpnW", "vpnWork"),
    ("build ho", "home"),
    ("clean ho", "home"),
    ("status vpnX ho", "home"),
    ("import --remove ho", "home"),
    ("import --no-k", "--no-kill-switch"),
    ("import /tmp/c/runns-exec.b", "/tmp/c/runns-exec.bash"),
    ("build --dry", "--dry-run"),
    ("clea", "clean"),
    ("launcher ho", "home"),
    ("--pt", "--pty"),
];

/// The same for words of a command line inside.
const COMMANDS: [(&str, &str); 3] = [
    ("vpnWork -- gete", "getent"),
    ("exec list gete", "getent"),
    ("launcher home gete", "getent"),
];

#[test]
fn bash() {
    let host = host_with_names();
    for (typed, wanted) in CASES {
        let script = format!(
            "bash -c 'source /tmp/c/runns-exec.bash; COMP_WORDS=(runns-exec {typed}); \
             COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _runns_exec_complete runns-exec; echo \"${{COMPREPLY[@]}}\"'"
        );
        assert_eq!(host.ok(&script), wanted, "{typed}");
    }
}

#[test]
fn fish() {
    let host = host_with_names();
    for (typed, wanted) in CASES.into_iter().chain(COMMANDS) {
        let script = format!(
            "fish --no-config -c \"source /tmp/c/runns-exec.fish; complete -C 'runns-exec {typed}'\""
        );
        let found = host.ok(&script);
        let words: Vec<&str> = found
            .lines()
            .map(|line| line.split('\t').next().unwrap_or_default())
            .collect();
        assert_eq!(words, [wanted], "{typed}");
    }
}

/// zsh completes only on a terminal. This script types the line there and reads until its
/// completion is shown.
const ZSH: &str = r#"
import os, pty, select, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.environ["TERM"] = "dumb"
    os.execvp("zsh", ["zsh", "-f", "-i"])
seen = b""
def until(wanted):
    global seen
    end = time.time() + 30
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(0, end - time.time()))
        if not ready:
            sys.exit("no %r in %r" % (wanted, seen))
        seen += os.read(fd, 65536)
    seen = b""
os.write(fd, b"fpath=(/tmp/c/zsh $fpath); autoload -U compinit; compinit -u -D; PS1=; unsetopt beep; print re''ady\n")
until(b"ready")
os.write(fd, b"runns-exec " + sys.argv[1].encode() + b"\t")
until(sys.argv[2].encode() + b" ")
os.kill(pid, 9)
os.waitpid(pid, 0)
"#;

#[test]
fn zsh() {
    let host = host_with_names();
    host.write("/tmp/c/zsh.py", ZSH);
    for (typed, wanted) in CASES.into_iter().chain(COMMANDS) {
        host.ok(&format!("python3 /tmp/c/zsh.py '{typed}' '{wanted}'"));
    }
}
