//! Exit statuses (SPEC 2).

use crate::host_with_vpn1;

#[test]
fn status_is_the_commands_own() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    for (command, status) in [
        ("true", 0),
        ("sh -c 'exit 7'", 7),
        ("sh -c 'exit 255'", 255),
        ("sh -c 'kill -TERM $$'", 143),
        ("sh -c 'kill -KILL $$'", 137),
    ] {
        let output = alice.run(&format!("exec runns-exec vpn1 -- {command}"));
        assert_eq!(
            (output.status, output.stderr.as_str()),
            (status, ""),
            "{output}"
        );
    }
}

#[test]
fn command_not_found_is_127_and_not_executable_126() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    for missing in ["no-such-command", "/no/such/command", "''", "./none"] {
        alice
            .run(&format!("runns-exec vpn1 -- {missing}"))
            .refused(127, &["cannot execute"]);
    }
    alice.ok(
        "echo text >plain; mkdir dir; printf '#!/no/such/interpreter\\n' >script; chmod +x script",
    );
    for (command, cause) in [
        ("./plain", "Permission denied"),
        ("./dir", "Permission denied"),
        ("/etc/shadow", "Permission denied"),
        ("./script", "interpreter"),
    ] {
        alice
            .run(&format!("runns-exec vpn1 -- {command}"))
            .refused(126, &[command, cause]);
    }
    alice.ok("printf 'echo run by $0 $1\\n' >noheader; chmod +x noheader");
    assert_eq!(
        alice.ok("runns-exec vpn1 -- ./noheader x"),
        "run by ./noheader x"
    );
}

#[test]
fn failures_of_runns_exec_itself() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    for line in [
        "",
        "--bogus",
        "--bogus vpn1 -- true",
        "-x vpn1",
        "exec",
        "exec --bogus vpn1",
        "nosuch -- true",
        "-d",
    ] {
        let output = alice.run(&format!("runns-exec {line}"));
        assert_eq!(
            (output.status, output.stdout.as_str()),
            (125, ""),
            "{output}"
        );
        assert!(output.stderr.starts_with("runns-exec: "), "{output}");
    }
    for line in [
        "build --bogus",
        "clean --bogus",
        "list --bogus",
        "clean",
        "--pty list",
        "build a b",
        "build work -s work",
        "build -n vpn1 vpn1",
        "clean work -s work",
        "clean a b",
    ] {
        let output = alice.run(&format!("runns-exec {line}"));
        assert_eq!((output.status, output.stdout.as_str()), (2, ""), "{output}");
    }
    alice.run("runns-exec import -n -x").refused(
        2,
        &["unexpected argument '-x'", "hint: see runns-exec --help"],
    );
    for line in ["--help", "--version", "build --help", "exec --help", "help"] {
        let output = alice.run(&format!("runns-exec {line}"));
        assert!(
            output.status == 0 && !output.stdout.is_empty() && output.stderr.is_empty(),
            "{output}"
        );
    }
}

#[test]
fn build_and_clean_as_a_user_say_what_to_do() {
    let host = host_with_vpn1();
    for line in [
        "build",
        "build -n vpn5",
        "build --dry-run",
        "clean vpn1",
        "clean -n vpn1 -f",
        "import 'my [udp].ovpn' --auth ask",
        "config edit vpn1",
    ] {
        host.user("alice")
            .run(&format!("runns-exec {line}"))
            .refused(1, &[&format!("hint: sudo runns-exec {line}\n")]);
    }
}

#[test]
fn closed_and_full_descriptors_do_no_harm() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    for closed in [
        "<&-",
        ">&-",
        "2>&-",
        "<&- >&-",
        "<&- 2>&-",
        ">&- 2>&-",
        "<&- >&- 2>&-",
    ] {
        let run = |what: &str| alice.run(&format!("(runns-exec {what}) {closed}")).status;
        assert_eq!(run("vpn1 -- sh -c 'exit 9'"), 9, "{closed}");
        assert_eq!(run("nosuch -- true"), 125, "{closed}");
        assert_eq!(run("--bogus"), 125, "{closed}");
    }
    let full = alice.run("runns-exec --help >/dev/full");
    assert!(
        full.status != 0 && full.stderr.starts_with("runns-exec: cannot "),
        "{full}"
    );
    assert_eq!(
        alice.run("runns-exec nosuch -- true 2>/dev/full").status,
        125
    );
    let broken = alice.run("bash -c 'runns-exec --help | true; echo ${PIPESTATUS[0]}'");
    assert!(
        !broken.stderr.contains("panic") && !broken.stderr.contains("defect"),
        "{broken}"
    );
}
