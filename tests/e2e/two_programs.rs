//! The program with capabilities executes the one for root: found from its own place, checked, and
//! without privileges.

use crate::support::Host;

const OF_ROOT: &str = "/usr/local/libexec/runns-exec/runns-exec-root";

/// A host where the program for root is a script that says what it was given.
fn with_stand_in() -> Host {
    let host = Host::new();
    host.write(
        OF_ROOT,
        "#!/bin/sh\nprintf '%s;' \"$@\"; echo\ngrep -E '^(Cap(Inh|Prm|Eff|Amb)|Uid)' /proc/self/status\nprintenv X\nexit 7\n",
    );
    host.ok(&format!("chmod 755 {OF_ROOT}"));
    host
}

#[test]
fn arguments_environment_and_status_pass_and_capabilities_do_not() {
    let host = with_stand_in();
    for line in [
        "build -s 'a b' --dry-run",
        "clean x -f",
        "-v build",
        "help build",
    ] {
        let output = host
            .user("alice")
            .env("X", "kept")
            .run(&format!("runns-exec {line}"));
        assert_eq!(output.status, 7, "{output}");
        assert!(
            output.stdout.starts_with(
                &format!("{};\n", line.replace('\'', "").replace(' ', ";")).replace("a;b", "a b")
            ),
            "{output}"
        );
        assert!(output.stdout.contains("kept"), "{output}");
        for set in ["Inh", "Prm", "Eff", "Amb"] {
            assert!(
                output
                    .stdout
                    .contains(&format!("Cap{set}:\t0000000000000000")),
                "{output}"
            );
        }
        assert!(!output.stdout.contains("Uid:\t0"), "{output}");
    }
    // A member's status is preceded by what was seen inside with the capabilities; root's program
    // sees that itself.
    let output = host.run("runns-exec status x --json");
    assert!(
        output.status == 7 && output.stdout.starts_with("status;x;--json;\n"),
        "{output}"
    );
    let output = host.user("alice").run("runns-exec status x --json");
    assert!(
        output.status == 7 && output.stdout.starts_with(".handed-over;"),
        "{output}"
    );
    assert!(
        output
            .stdout
            .lines()
            .next()
            .unwrap()
            .ends_with(";status;x;--json;"),
        "{output}"
    );
    for set in ["Inh", "Prm", "Eff", "Amb"] {
        assert!(
            output
                .stdout
                .contains(&format!("Cap{set}:\t0000000000000000")),
            "{output}"
        );
    }
}

#[test]
fn it_is_found_from_the_programs_own_place_alone() {
    let host = with_stand_in();
    let alice = host.user("alice");
    // Neither by PATH nor in the working directory nor by the name that the program was called by.
    alice.ok("mkdir -p libexec/runns-exec bin && cp /bin/true libexec/runns-exec/runns-exec-root && cp /bin/true bin/runns-exec-root");
    let output =
        alice.run("cd bin && PATH=$PWD:$PATH bash -c 'exec -a ./bin/runns-exec runns-exec build'");
    assert_eq!(output.status, 7, "{output}");
    alice.ok("ln -s /usr/local/bin/runns-exec bin/runns-exec");
    assert_eq!(alice.run("bin/runns-exec build").status, 7);
    // With another prefix, another program.
    host.ok("PREFIX=/opt/runns; mkdir -p /opt/runns/bin && cp -a /usr/local/bin/runns-exec /opt/runns/bin/");
    alice.run("/opt/runns/bin/runns-exec build").refused(
        1,
        &["/opt/runns/libexec/runns-exec/runns-exec-root", "install"],
    );
}

#[test]
fn one_that_others_can_change_is_not_executed() {
    let host = with_stand_in();
    for (spoil, repair) in [
        (
            format!("chmod 775 {OF_ROOT}"),
            format!("chmod 755 {OF_ROOT}"),
        ),
        (
            format!("chown alice {OF_ROOT}"),
            format!("chown root {OF_ROOT}"),
        ),
        (
            "chmod 777 /usr/local/libexec/runns-exec".to_string(),
            "chmod 755 /usr/local/libexec/runns-exec".to_string(),
        ),
        (
            "chown alice /usr/local/libexec".to_string(),
            "chown root /usr/local/libexec".to_string(),
        ),
        (
            format!("mv {OF_ROOT} /tmp/x; mkdir {OF_ROOT}"),
            format!("rmdir {OF_ROOT}; mv /tmp/x {OF_ROOT}"),
        ),
    ] {
        host.ok(&spoil);
        for runner in [host.root(), host.user("alice")] {
            runner
                .run("runns-exec build")
                .refused(1, &["/usr/local/libexec"]);
        }
        host.ok(&repair);
        assert_eq!(host.run("runns-exec build").status, 7, "{repair}");
    }
}

#[test]
fn an_ordinary_user_is_told_to_use_sudo() {
    let host = Host::new();
    let alice = host.user("alice");
    alice
        .run("runns-exec build -s work")
        .refused(1, &["root", "sudo runns-exec build"]);
    alice
        .run("runns-exec clean work")
        .refused(1, &["root", "sudo runns-exec clean"]);
    alice
        .run("runns-exec build --bogus")
        .refused(2, &["--bogus"]);
    alice.run("runns-exec clean").refused(2, &["no namespace"]);
    alice.run("runns-exec --pty build").refused(2, &["--pty"]);
    assert!(alice.ok("runns-exec build --help").contains("--dry-run"));
    assert_eq!(
        alice.ok("runns-exec help clean"),
        alice.ok("runns-exec clean --help")
    );
    alice
        .run("unshare --user --map-root-user runns-exec build")
        .refused(1, &["user namespace"]);
    // By itself the program for root does what it is for, and nothing else.
    assert_eq!(
        host.ok(&format!("stat -c '%U:%G %a' {OF_ROOT}; getcap {OF_ROOT}")),
        "root:root 755"
    );
    alice
        .run(&format!("{OF_ROOT} build"))
        .refused(1, &["root", "sudo runns-exec build"]);
    alice
        .run(&format!("{OF_ROOT} vpn1 -- id"))
        .refused(2, &["parse the command line"]);
    assert!(
        host.ok(&format!("{OF_ROOT} build -n direct --dry-run"))
            .starts_with("would build direct:\n  network namespace ")
    );
}
