//! Programs that pass their work to an instance outside the namespace: the user is warned before
//! the exec.

use crate::support::{Background, Host, Runner, wait_until};

/// A host with two namespaces and a stand-in for each browser; only the name of the executable
/// matters.
fn host() -> Host {
    let host = Host::new();
    host.configure("[vpn1]\n[vpn2]\n");
    host.ok("ip netns add vpn1 && ip netns add vpn2");
    host.ok("mkdir -p /opt/run /snap/bin /var/lib/flatpak/exports/bin");
    for program in [
        "chromium",
        "firefox-esr",
        "gnome-terminal-server",
        "chrome",
        "qbittorrent",
    ] {
        host.ok(&format!("cp /bin/sleep /opt/run/{program}"));
    }
    let quiet = "#!/bin/sh\nexit 0\n";
    for path in [
        "/usr/local/bin/chromium",
        "/usr/local/bin/firefox",
        "/usr/local/bin/google-chrome",
        "/usr/local/bin/gnome-terminal",
        "/usr/local/bin/qbittorrent",
        "/usr/local/bin/flatpak",
        "/snap/bin/spotify",
        "/var/lib/flatpak/exports/bin/org.example.App",
    ] {
        host.write(path, quiet);
        host.ok(&format!("chmod 755 {path}"));
    }
    host
}

/// Starts a stand-in; returns it and its pid.
fn start(runner: &Runner, enter: &str, program: &str) -> (Background, String) {
    let script = format!("echo $$; exec {enter} /opt/run/{program} 1000");
    let running = runner.spawn(&script);
    let pid = wait_until("a pid", || {
        running.stdout().lines().next().map(str::to_string)
    });
    wait_until("the program runs", || {
        let exe = runner.run(&format!("readlink /proc/{pid}/exe"));
        exe.stdout.contains(program).then_some(())
    });
    (running, pid)
}

/// Runs `words` in vpn1 and returns what is printed on stderr.
#[track_caller]
fn said(runner: &Runner, words: &str) -> String {
    let output = runner.run(&format!("runns-exec vpn1 -- {words}"));
    assert_eq!(output.status, 0, "{output}");
    output.stderr
}

#[test]
fn browser_that_runs_outside() {
    let host = host();
    let alice = host.user("alice");
    assert_eq!(said(&alice, "chromium"), "", "none runs");
    let (_running, pid) = start(&alice, "", "chromium");
    let warning = said(&alice, "chromium http://example.com");
    assert_eq!(warning.lines().count(), 1, "{warning}");
    for part in [
        "runns-exec: warning: ",
        &format!("process {pid} "),
        "in the host's network",
        "--user-data-dir",
    ] {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(said(&alice, "chromium --user-data-dir=/tmp/other"), "");
    assert_eq!(said(&alice, "chromium --user-data-dir /tmp/other"), "");
    assert_eq!(said(&host.user("carol"), "chromium"), "", "another user's");
    assert_eq!(said(&alice, "firefox"), "", "another program");
    assert_eq!(said(&alice, "true chromium"), "", "an argument");
}

#[test]
fn browser_that_runs_in_a_namespace() {
    let host = host();
    let alice = host.user("alice");
    let (_other, pid) = start(&alice, "runns-exec vpn2", "chromium");
    let warning = said(&alice, "/usr/local/bin/chromium");
    assert!(
        warning.contains(&format!("process {pid} in namespace vpn2")),
        "{warning}"
    );
    let same = alice.run("runns-exec vpn2 -- chromium");
    assert_eq!(
        (same.status, same.stderr.as_str()),
        (0, ""),
        "in the same namespace all is well"
    );
}

#[test]
fn other_programs_that_run_once() {
    let host = host();
    let alice = host.user("alice");
    let running = [
        "firefox-esr",
        "gnome-terminal-server",
        "chrome",
        "qbittorrent",
    ]
    .map(|program| start(&alice, "", program));
    for ((_, pid), (command, option)) in running.iter().zip([
        ("firefox", "--profile DIR"),
        ("gnome-terminal", "terminal"),
        ("google-chrome", "--user-"),
        ("qbittorrent", "--profile="),
    ]) {
        let warning = said(&alice, command);
        assert!(
            warning.contains(&format!("process {pid} ")) && warning.contains(option),
            "{warning}"
        );
    }
    assert_eq!(said(&alice, "firefox -P vpn"), "");
    assert!(said(&alice, "firefox --no-remote").contains("--profile DIR"));
    // What a server of tmux outside starts is outside.
    alice.ok("tmux new-session -d");
    assert!(said(&alice, "tmux ls").contains("-L NAME"));
    assert_eq!(said(&alice, "tmux -L own new-session -d"), "");
    alice.ok("tmux kill-server; tmux -L own kill-server");
}

#[test]
fn a_connection_of_ssh_that_is_shared() {
    let host = host();
    let alice = host.user("alice");
    host.ok("cp /bin/sleep /opt/run/ssh");
    host.ok("for name in ssh scp; do printf '#!/bin/sh\\n' >/usr/local/bin/$name; chmod 755 /usr/local/bin/$name; done");
    // A session is nobody else's.
    let (_session, _) = start(&alice, "", "ssh");
    assert_eq!(said(&alice, "ssh host.example"), "");
    let title = "ssh: /home/alice/.ssh/master [mux]";
    let master = alice.spawn(&format!(
        "exec bash -c \"exec -a '{title}' /opt/run/ssh 1000\""
    ));
    wait_until("the master", || {
        let titles = alice.run("cat /proc/[0-9]*/cmdline").stdout;
        assert!(master.is_running(), "{}", master.stderr());
        titles.contains(&format!("{title}\0")).then_some(())
    });
    for words in ["ssh host.example", "scp file host.example:"] {
        let warning = said(&alice, words);
        assert!(warning.contains("-o ControlPath=none"), "{warning}");
        assert!(warning.contains("in the host's network"), "{warning}");
    }
    for own in [
        "-S none",
        "-Snone",
        "-o ControlPath=none",
        "-oControlPath=none",
    ] {
        assert_eq!(said(&alice, &format!("ssh {own} host.example")), "");
    }
}

#[test]
fn launchers_that_leave_the_view() {
    let host = host();
    let alice = host.user("alice").env(
        "PATH",
        "/usr/local/bin:/usr/bin:/bin:/snap/bin:/var/lib/flatpak/exports/bin",
    );
    for (words, launcher) in [
        ("spotify", "snap"),
        ("/snap/bin/spotify", "snap"),
        ("flatpak run org.example.App", "flatpak"),
        ("org.example.App", "flatpak"),
    ] {
        let warning = said(&alice, words);
        assert!(
            warning.contains(&format!("warning: {launcher} starts")),
            "{words}: {warning}"
        );
    }
    assert_eq!(
        said(&alice, "chromium"),
        "",
        "found in PATH before the launchers"
    );
}

#[test]
fn processes_are_looked_at_for_those_programs_only() {
    let host = host();
    let listed = |words: &str| {
        let script = format!(
            "strace -f -o /tmp/trace -e trace=openat,open runns-exec vpn1 -- {words}; cat /tmp/trace"
        );
        let trace = host.ok(&script);
        assert!(trace.contains("openat("), "{trace}");
        trace
            .lines()
            .any(|line| line.contains("\"/proc\", ") || line.contains("\"/proc/\""))
    };
    assert!(!listed("true"));
    assert!(!listed("curl --version"));
    assert!(listed("chromium"), "what the assertions above look for");
}
