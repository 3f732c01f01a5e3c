//! Namespace names: an invalid name is refused before any file is accessed.

use crate::host_with_vpn1;

#[test]
fn bad_names_are_refused_before_any_file_is_touched() {
    let host = host_with_vpn1();
    host.ok("ip netns add link && mkdir /run/netns/dir && touch /run/netns/dir/x");
    let long = "x".repeat(65);
    let names = [
        "''",
        ".",
        "..",
        "../netns/vpn1",
        "/run/netns/vpn1",
        "./vpn1",
        "dir/x",
        ".hidden",
        "-vpn1",
        "'a b'",
        "'vpn1 '",
        "'a\nb'",
        "\"$(printf 'a\\033[31m')\"",
        "\"$(printf 'a\\377')\"",
        "vpn1%",
        "'vpn1*'",
        "ä",
        &long,
    ];
    for name in names {
        let output = host
            .user("alice")
            .run(&format!("runns-exec exec -- {name} touch /tmp/ran"));
        let output = if output.status == 127 {
            panic!("{output}")
        } else {
            output
        };
        assert_eq!(output.status, 125, "{output}");
        assert!(
            !output.stderr.contains('\x1b') && output.stderr.lines().count() <= 2,
            "{output}"
        );
        let output = host.run(&format!("runns-exec exec {name} touch /tmp/ran"));
        assert_eq!(output.status, 125, "{output}");
        for verb in ["build -n", "clean -n"] {
            let output = host.run(&format!("runns-exec {verb} {name}"));
            assert!(output.status == 1 || output.status == 2, "{output}");
            assert!(
                !output.stderr.contains('\x1b') && output.stderr.lines().count() <= 2,
                "{output}"
            );
        }
    }
    assert_eq!(host.run("test -e /tmp/ran").status, 1);
    let trace = "strace -f -qq -e trace=openat,open,stat,readlink,newfstatat,statx -o /tmp/trace runns-exec exec ../x true";
    assert_eq!(host.run(trace).status, 125);
    assert_eq!(
        host.run("grep -E 'netns|runns.conf|/run/runns' /tmp/trace")
            .stdout,
        ""
    );
}

#[test]
fn names_of_64_bytes_and_all_characters_work() {
    let host = host_with_vpn1();
    for name in [
        "x".repeat(64),
        "_".to_string(),
        "0".to_string(),
        "a.b-c_D9".to_string(),
    ] {
        host.ok(&format!("ip netns add {name}"));
        host.configure(&format!("[{name}]\n"));
        assert_eq!(
            host.user("alice")
                .ok(&format!("runns-exec {name} -- printenv RUNNS_NETNS")),
            name
        );
    }
}

#[test]
fn the_nearest_name_section_or_subcommand_is_suggested() {
    let host = host_with_vpn1();
    host.configure("[office]\nNetworkNamespace=vpnWork\n");
    for (word, hint) in [
        ("statsu", "runns-exec status?"),
        ("lst", "runns-exec list?"),
        ("biuld", "runns-exec build?"),
        ("vpn2", "did you mean vpn1?"),
        ("vpnwork", "did you mean vpnWork?"),
        (
            "ofice",
            "did you mean vpnWork, the namespace of section [office]?",
        ),
    ] {
        for runner in [host.root(), host.user("alice")] {
            runner
                .run(&format!("runns-exec {word}"))
                .refused(125, &[word, hint]);
        }
    }
    // A name that is like nothing gets no suggestion, nor does one that exists and is refused.
    host.ok("ip netns add foreign");
    for word in ["zzzzzzzz", "foreign"] {
        let output = host.user("alice").run(&format!("runns-exec {word}"));
        assert!(
            output.status == 125 && !output.stderr.contains("did you mean"),
            "{output}"
        );
    }
}
