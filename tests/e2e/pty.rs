//! --pty, on real terminals.

use std::io::Write;
use std::process::Stdio;

use crate::host_with_vpn1;
use crate::support::{Host, Runner, Terminal, wait_until};

/// What the tests run most: `sh -c SCRIPT` on a terminal of its own.
fn on_pty(runner: &Runner, script: &str) -> Terminal {
    Terminal::start(
        runner,
        &["runns-exec", "--pty", "vpn1", "--", "sh", "-c", script],
    )
}

/// The relay, the monitor and the command of the one --pty that alice runs. Until it is executed,
/// the command's process is called runns-exec, too.
fn processes(host: &Host, command: &str) -> [String; 3] {
    let found = wait_until("relay, monitor and command", || {
        let script = format!("pgrep -u alice -x {command} && pgrep -u alice -x runns-exec");
        let found: Vec<String> = host
            .run(&script)
            .stdout
            .lines()
            .map(str::to_string)
            .collect();
        (found.len() == 3).then_some(found)
    });
    let [command, relay, monitor] = found.try_into().expect("three");
    [relay, monitor, command]
}

#[test]
fn size_follows_the_terminal() {
    let host = host_with_vpn1();
    let script =
        "trap 'stty size; exit 3' WINCH; stty size; echo ready; while :; do sleep 0.05; done";
    let mut terminal = on_pty(&host.user("alice"), script);
    terminal.expect("30 100\r\n");
    terminal.expect("ready");
    terminal.wait_raw();
    terminal.resize(40, 120);
    terminal.expect("40 120\r\n");
    assert_eq!(terminal.wait(), 3);
    terminal.wait_modes(&terminal.modes);
    let none = "runns-exec --pty vpn1 -- stty size";
    assert_eq!(host.user("alice").ok(none), "24 80\r", "without a terminal");
}

#[test]
fn keys_signal_the_command() {
    let host = host_with_vpn1();
    for (key, status) in [("\x03", 130), ("\x1c", 131)] {
        let mut terminal = on_pty(&host.user("alice"), "echo ready; exec sleep 1000");
        terminal.expect("ready");
        terminal.wait_raw();
        terminal.enter(key);
        assert_eq!(terminal.wait(), status);
        terminal.wait_modes(&terminal.modes);
    }
}

#[test]
fn a_job_stops_and_goes_on_five_times() {
    let host = host_with_vpn1();
    let mut shell = Terminal::shell(&host.user("alice"));
    let modes = shell.modes_now();
    shell.enter("runns-exec --pty vpn1 -- sh -c 'echo up; while read x; do echo \"<$x>\"; done'\n");
    shell.expect("\nup\r\n");
    for turn in 0..5 {
        shell.wait_raw();
        shell.enter(format!("line{turn}\n"));
        shell.expect(format!("<line{turn}>"));
        shell.enter("\x1a");
        shell.expect("Stopped");
        shell.expect("$ ");
        shell.wait_modes(&modes);
        shell.enter(format!("echo shell-$((100+{turn}))\n"));
        shell.expect(format!("shell-10{turn}\r\n$ "));
        shell.enter("fg\n");
        shell.expect("done'\r\n");
    }
    shell.wait_raw();
    shell.enter("last\n");
    shell.expect("<last>");
    shell.enter("\x04");
    shell.expect("$ ");
    shell.wait_modes(&modes);
    shell.enter("echo status=$?\n");
    shell.expect("status=0\r\n");
}

#[test]
fn a_background_job_leaves_the_terminal_alone() {
    let host = host_with_vpn1();
    let mut shell = Terminal::shell(&host.user("alice"));
    let modes = shell.modes_now();
    shell.enter("set -b; runns-exec --pty vpn1 -- sh -c 'read x; echo \"<$x>\"' &\n");
    shell.expect("Stopped");
    shell.wait_modes(&modes);
    shell.enter("fg\n");
    shell.wait_raw();
    shell.enter("line\n");
    shell.expect("<line>\r\n");
    shell.expect("$ ");
    shell.wait_modes(&modes);
    shell.enter("runns-exec --pty vpn1 -- sh -c 'echo up; exec sleep 1000' &\n");
    shell.expect("up\r\r\n");
    shell.wait_modes(&modes);
    // The shell does not tell a running job that it has come to the foreground.
    shell.enter("fg\n");
    shell.wait_raw();
    shell.enter("\x1a");
    shell.expect("Stopped");
    shell.expect("$ ");
    shell.enter("bg; echo on\n");
    shell.expect("\non\r\n$ ");
    shell.wait_modes(&modes);
    shell.enter("fg\n");
    shell.wait_raw();
    shell.enter("\x03");
    shell.expect("$ ");
    shell.enter("echo status=$?\n");
    shell.expect("status=130\r\n");
    shell.wait_modes(&modes);
}

#[test]
fn a_pager_behind_it_has_the_terminal_until_the_command_wants_it() {
    let host = host_with_vpn1();
    let mut shell = Terminal::shell(&host.user("alice"));
    let modes = shell.modes_now();
    shell.enter("runns-exec --pty vpn1 -- sleep 1000 | (echo up; read x </dev/tty; echo \"<$x>\"; kill 0)\n");
    shell.expect("\nup\r\n");
    shell.enter("key\n");
    shell.expect("<key>");
    shell.expect("$ ");
    shell.wait_modes(&modes);
    shell.enter("runns-exec --pty vpn1 -- sh -c 'read x; echo \"<$x>\"' | cat\n");
    shell.wait_raw();
    shell.enter("line\n");
    shell.expect("<line>");
    shell.expect("$ ");
    shell.wait_modes(&modes);
    shell.enter("echo piped | runns-exec --pty vpn1 -- sh -c 'cat; exec sleep 1000'\n");
    shell.expect("\npiped\r\n");
    shell.enter("\x03");
    shell.expect("$ ");
    shell.enter("echo status=${PIPESTATUS[1]}\n");
    shell.expect("status=130\r\n");
}

#[test]
fn every_byte_passes_both_ways() {
    let host = host_with_vpn1();
    let all: Vec<u8> = (0..=255).collect();
    let mut terminal = on_pty(
        &host.user("alice"),
        "stty raw -echo; echo ready; head -c 256 | od -An -v -tu1; echo end",
    );
    terminal.expect("ready\n");
    terminal.wait_raw();
    terminal.enter(&all);
    let shown = String::from_utf8(terminal.expect("end")).expect("numbers");
    let numbers: Vec<u8> = shown
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(numbers, all);
    assert_eq!(terminal.wait(), 0);
    let alice = host.user("alice");
    alice.ok(
        "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done >all",
    );
    alice.ok("runns-exec --pty vpn1 -- sh -c 'stty raw; cat all' >copy && cmp all copy");
}

#[test]
fn piped_input_arrives_and_its_end_too() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    assert_eq!(
        alice.ok("printf x | runns-exec --pty vpn1 -- sh -c 'cat; cat; cat; echo end'"),
        "xend\r"
    );
    assert_eq!(alice.ok("runns-exec --pty vpn1 -- cat </dev/null"), "");
    assert_eq!(alice.ok("runns-exec --pty vpn1 -- cat <&-"), "");
    assert_eq!(
        alice
            .run("runns-exec --pty vpn1 -- sh -c 'echo lost; exit 5' <&- >&- 2>&-")
            .status,
        5
    );
    alice.ok("seq 200000 >lines; runns-exec --pty vpn1 -- cat <lines | tr -d '\\r' | cmp lines");
    alice.ok(
        "cat lines | runns-exec --pty vpn1 -- sh -c 'sleep 0.2; cat' | tr -d '\\r' | cmp lines",
    );
    alice.ok("head -n 20000 lines | runns-exec --pty vpn1 -- sh -c 'while read x; do echo $x; done' | tail -n 1 | grep ^20000");
    let later = "stty -icanon; echo waiting; sleep 0.3; stty icanon; cat; echo end";
    assert_eq!(
        alice.ok(&format!(
            "printf '' | runns-exec --pty vpn1 -- sh -c '{later}'"
        )),
        "waiting\r\nend\r"
    );
    let shell = "echo 'echo $((3+4)); exit 6' | SHELL=/bin/dash runns-exec --pty vpn1";
    let output = alice.run(shell);
    assert_eq!(output.status, 6, "{output}");
    assert!(output.stdout.contains("7\r\n"), "{output}");
}

#[test]
fn the_last_bytes_are_never_lost() {
    let host = host_with_vpn1();
    let script = "i=0; while [ $i -lt 250 ]; do i=$((i+1));
        runns-exec --pty vpn1 -- sh -c 'printf %05000d 0; printf LAST' >out || exit 1
        [ \"$(wc -c <out)\" = 5004 ] && [ \"$(tail -c 4 out)\" = LAST ] || exit 2; done";
    for _ in 0..4 {
        host.user("alice").ok(script);
    }
    let slow =
        "runns-exec --pty vpn1 -- sh -c 'stty raw; head -c 60000 /dev/zero' | (sleep 0.5; wc -c)";
    assert_eq!(host.user("alice").ok(slow), "60000");
}

#[test]
fn a_slow_reader_gets_everything_and_costs_no_memory() {
    let host = host_with_vpn1();
    let script = "mkfifo out; runns-exec --pty vpn1 -- sh -c 'stty raw; head -c 1073741824 /dev/zero' >out &
        { for i in 1 2 3 4; do head -c 100000000; sleep 0.2; grep VmHWM /proc/$!/status >>peak; done; cat; } <out | wc -c
        wait $! && awk '{ if ($2 > 16384) exit 1 }' peak";
    assert_eq!(host.user("alice").ok(script), "1073741824");
    let stalled = host
        .user("alice")
        .spawn("runns-exec --pty vpn1 -- cat /dev/zero | sleep 1000");
    let [relay, ..] = processes(&host, "cat");
    host.ok(&format!(
        "kill {relay}; while [ -e /proc/{relay} ]; do sleep 0.02; done"
    ));
    host.ok("pkill -x sleep");
    stalled.wait();
}

#[test]
fn a_closed_terminal_or_pipe_ends_the_command() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let script = "trap 'echo hup >hup; exit 1' HUP; echo ready; while :; do sleep 0.05; done";
    let mut terminal = on_pty(&alice, script);
    terminal.expect("ready");
    terminal.wait_raw();
    let mut leader = terminal.close();
    wait_until("the relay's end", || leader.try_wait().expect("wait"));
    alice.ok("while ! grep -q hup hup; do sleep 0.02; done");
    host.ok("while pgrep -u alice .; do sleep 0.02; done");
    let output =
        alice.run("{ runns-exec --pty vpn1 -- yes; echo $? >status; } | head -n 2; cat status");
    assert_eq!(output.stdout, "y\r\ny\r\n129\n", "{output}");
}

#[test]
fn whoever_is_killed_the_terminal_is_as_it_was() {
    let host = host_with_vpn1();
    for (index, status) in [(0, 137), (1, 125), (2, 137)] {
        let mut terminal = on_pty(&host.user("alice"), "echo ready; exec sleep 1000");
        terminal.expect("ready");
        terminal.wait_raw();
        host.ok(&format!("kill -9 {}", processes(&host, "sleep")[index]));
        assert_eq!(terminal.wait(), status, "process {index}");
        terminal.wait_modes(&terminal.modes);
        host.ok("while pgrep -u alice .; do sleep 0.02; done");
    }
    // Stopped by SIGSTOP there is nobody to restore it but the shell; then it goes on.
    let mut shell = Terminal::shell(&host.user("alice"));
    let modes = shell.modes_now();
    shell.enter("runns-exec --pty vpn1 -- sh -c 'echo up; read x; exec sleep 1000'\n");
    shell.expect("\nup\r\n");
    shell.wait_raw();
    host.ok("kill -STOP $(pgrep -u alice -o -x runns-exec)");
    shell.expect("Stopped");
    shell.enter("fg\n");
    shell.wait_raw();
    shell.enter("x\n");
    processes(&host, "sleep");
    shell.enter("\x03");
    shell.expect("$ ");
    shell.wait_modes(&modes);
}

#[test]
fn status_and_signals_are_passed_on() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    assert_eq!(
        alice.run("runns-exec --pty vpn1 -- sh -c 'exit 7'").status,
        7
    );
    alice
        .run("runns-exec --pty vpn1 -- no-such-command")
        .refused(127, &["no-such-command"]);
    alice
        .run("runns-exec --pty vpn1 -- /etc/passwd")
        .refused(126, &["/etc/passwd"]);
    alice
        .run("runns-exec --pty nosuch -- true")
        .refused(125, &["nosuch"]);
    for signal in ["HUP", "INT", "TERM", "USR1", "ALRM", "RTMIN+3", "KILL"] {
        let number: i32 = host
            .ok(&format!("bash -c 'kill -l {signal}'"))
            .parse()
            .expect("a number");
        let own = format!("runns-exec --pty vpn1 -- bash -c 'kill -{signal} $$'");
        assert_eq!(alice.run(&own).status, 128 + number, "{signal}");
        let other = alice.spawn("exec runns-exec --pty vpn1 -- sleep 1000");
        let [relay, ..] = processes(&host, "sleep");
        host.ok(&format!("bash -c 'kill -{signal} {relay}'"));
        assert_eq!(other.wait().status, 128 + number, "{signal}");
        host.ok("while pgrep -u alice .; do sleep 0.02; done");
    }
}

#[test]
fn the_command_inherits_what_the_caller_had() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let state = "grep -E '^(Sig(Blk|Ign)|Cap|Groups|Uid|Gid|NoNewPrivs|Umask)' /proc/self/status; pwd; ls -1 /proc/self/fd";
    let caller =
        format!("trap '' PIPE USR1 CHLD TSTP; umask 027; cd /tmp; exec 5</dev/null; {state}");
    let plain = alice.ok(&format!("bash -c \"{caller}\" </dev/null"));
    let inner = caller.replace(
        state,
        &format!("runns-exec --pty vpn1 -- bash -c \\\"{state}\\\""),
    );
    let pty = alice
        .ok(&format!("bash -c \"{inner}\" </dev/null"))
        .replace('\r', "");
    assert_eq!(pty, plain);
}

#[test]
fn the_outer_terminal_is_out_of_reach() {
    let host = host_with_vpn1();
    let steal = "import fcntl, os, sys, termios
for name, number, value in ('TIOCSTI', termios.TIOCSTI, b'x'), ('TIOCSCTTY', termios.TIOCSCTTY, 0):
    try: fcntl.ioctl(3, number, value); print(name, 'works')
    except OSError: print(name, 'refused')
    sys.stdout.flush()
    if os.fork(): os.wait(); os._exit(0)
    os.setsid()";
    host.write("/tmp/steal.py", steal);
    let script = "exec runns-exec --pty vpn1 -- sh -c 'python3 /tmp/steal.py; sleep 1000' 3<&0";
    let mut terminal = Terminal::start(&host.user("alice"), &["sh", "-c", script]);
    terminal.expect("TIOCSTI refused");
    terminal.expect("TIOCSCTTY refused");
    let [relay, monitor, command] = processes(&host, "sleep");
    for process in [&relay, &monitor] {
        host.ok(&format!(
            "grep -qx 'CapPrm:.0000000000000000' /proc/{process}/status"
        ));
        assert_eq!(
            host.ok(&format!("stat -c %U /proc/{process}/environ")),
            "root",
            "not dumpable"
        );
    }
    let sessions =
        [&relay, &monitor, &command].map(|process| host.ok(&format!("ps -o sid= -p {process}")));
    assert!(
        sessions[0] != sessions[1] && sessions[1] == sessions[2],
        "{sessions:?}"
    );
    terminal.enter("\x03");
    assert_eq!(terminal.wait(), 130);
}

#[test]
fn detached_it_is_drained() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let script = "tty >state; cat; yes | head -n 100000; echo done >>state; exec sleep 1000";
    // The substitution ends when nobody holds the pipe any more.
    let pid = alice.ok(&format!(
        "echo $(runns-exec --pty --detach vpn1 -- sh -c '{script}')"
    ));
    alice.ok("while ! grep -q done state; do sleep 0.02; done");
    assert!(alice.ok("cat state").starts_with("/dev/pts/"));
    assert_eq!(host.ok(&format!("cat /proc/{pid}/comm")), "sleep");
    host.ok(&format!(
        "kill {pid}; while pgrep -u alice .; do sleep 0.02; done"
    ));
    alice
        .run("runns-exec --pty -d vpn1 -- no-such-command")
        .refused(127, &["no-such-command"]);
    alice
        .run("runns-exec --pty -d vpn1 -- /etc/passwd")
        .refused(126, &["/etc/passwd"]);
    host.ok("while pgrep -u alice .; do sleep 0.02; done");
}

#[test]
fn tmux_and_another_runns_exec_run_in_it() {
    let host = host_with_vpn1();
    let alice = host.user("alice").env("TERM", "xterm");
    let words = [
        "runns-exec",
        "--pty",
        "vpn1",
        "--",
        "tmux",
        "-L",
        "vpn1.socket",
        "-f",
        "/dev/null",
        "new-session",
    ];
    let mut terminal = Terminal::start(
        &alice,
        &[&words[..], &["echo in-tmux; read x; echo \"<$x>\"; read y"]].concat(),
    );
    terminal.expect("in-tmux");
    terminal.enter("line\n");
    terminal.expect("<line>");
    terminal.enter("\n");
    assert_eq!(terminal.wait(), 0);
    terminal.wait_modes(&terminal.modes);
    let nested = [
        "runns-exec",
        "--pty",
        "vpn1",
        "--",
        "runns-exec",
        "--pty",
        "vpn1",
        "--",
        "sh",
        "-c",
    ];
    let mut terminal = Terminal::start(
        &alice,
        &[&nested[..], &["stty size; read x; echo \"<$x>\"; exit 4"]].concat(),
    );
    terminal.expect("30 100\r\n");
    terminal.enter("line\n");
    terminal.expect("<line>");
    assert_eq!(terminal.wait(), 4);
}

/// Another tmux is the terminal: it can be typed into, and tmux itself says who is attached.
#[test]
fn a_detached_tmux_is_attached_from_outside_and_is_still_inside() {
    const OUTER: &str = "tmux -L outer -f /dev/null";
    const INNER: &str = "tmux -L vpn123.socket -f /dev/null";
    let host = host_with_vpn1();
    let alice = host.user("alice").env("TERM", "xterm");
    let until = |condition: &str| {
        alice.ok(&format!(
            "i=0; until {condition}; do i=$((i+1)); [ $i -lt 400 ] || exit 1; sleep 0.05; done"
        ));
    };
    let start =
        |command: &str| alice.ok(&format!("{OUTER} new-session -d -x 80 -y 24 \"{command}\""));
    let send = |keys: &str| alice.ok(&format!("{OUTER} send-keys {keys}"));
    let attached = format!("{INNER} list-clients 2>/dev/null | grep -q .");
    let inside = alice.ok("runns-exec vpn1 -- readlink /proc/self/ns/net");
    assert_ne!(alice.ok("readlink /proc/self/ns/net"), inside);

    start(&format!(
        "runns-exec --pty vpn1 -- {INNER}; echo $? >status"
    ));
    until(&attached);
    send("'readlink /proc/self/ns/net >first; echo >>first' Enter");
    until("grep -qs net first");
    assert_eq!(alice.ok("cat first").trim(), inside);
    // The prefix, and d: detach. runns-exec ends with the client that it started.
    send("C-b d");
    until(&format!("! {attached}"));
    until("[ -s status ]");
    assert_eq!(alice.ok("cat status"), "0");
    alice.ok(&format!("{INNER} has-session"));
    until(&format!("! {OUTER} has-session 2>/dev/null"));

    start(&format!("{INNER} attach; echo $? >again"));
    until(&attached);
    send("'readlink /proc/self/ns/net >second; echo >>second; exit' Enter");
    until("[ -s again ]");
    assert_eq!(alice.ok("cat second again"), format!("{inside}\n\n0"));
}

#[test]
fn without_a_pseudo_terminal_the_command_is_not_run() {
    let host = host_with_vpn1();
    host.ok("mount -t tmpfs -o mode=755 none /dev/pts && rm /dev/ptmx");
    let alice = host.user("alice");
    alice
        .run("runns-exec --pty vpn1 -- touch ran")
        .refused(125, &["/dev/ptmx"]);
    alice
        .run("runns-exec --pty -d vpn1 -- touch ran")
        .refused(125, &["/dev/ptmx"]);
    alice.ok("test ! -e ran");
}

#[test]
fn an_orphaned_background_job_does_not_spin() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let orphan = "import os
if os.fork() == 0:
    if os.fork() == 0:
        os.setpgid(0, 0)
        os.execvp('runns-exec', ['runns-exec', '--pty', 'vpn1', '--', 'sh', '-c', 'read x; echo $? >result; exec sleep 1000'])
    os._exit(0)
os.wait()
os.execvp('cat', ['cat'])";
    host.write("/tmp/orphan.py", orphan);
    let mut terminal = Terminal::start(&alice, &["python3", "/tmp/orphan.py"]);
    assert_eq!(
        alice.ok("while [ ! -s result ]; do sleep 0.02; done; cat result"),
        "1",
        "end of input"
    );
    let [relay, ..] = processes(&host, "sleep");
    terminal.wait_modes(&terminal.modes);
    let ticks = || -> u32 {
        host.ok(&format!("awk '{{ print $14 + $15 }}' /proc/{relay}/stat"))
            .parse()
            .expect("ticks")
    };
    let before = ticks();
    host.ok("sleep 1");
    assert!(ticks() - before < 10, "it takes a processor");
    host.ok(&format!("kill {relay}"));
    terminal.enter("\x04");
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn a_write_that_takes_long_stops_nothing() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let mut child = alice
        .command(&[
            "runns-exec",
            "--pty",
            "vpn1",
            "--",
            "sh",
            "-c",
            "cat /dev/zero & while read x; do echo $x >>read; done",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start nsenter");
    let mut input = child.stdin.take().expect("input");
    // Nobody reads the output: input arrives all the same.
    for line in ["one", "two"] {
        input
            .write_all(format!("{line}\n").as_bytes())
            .expect("write");
        alice.ok(&format!("while ! grep -q {line} read; do sleep 0.02; done"));
    }
    host.ok("pkill -u alice -x -o runns-exec");
    drop((input, child.stdout.take()));
    wait_until("the end", || child.try_wait().expect("wait"));
}
