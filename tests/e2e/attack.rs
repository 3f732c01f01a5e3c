//! An attacker who is a member of the group gains nothing (SPEC 3.2, 3.3): each attack ends in 125,
//! with one line that gives the reason and without the command having run, or the command runs as
//! it should.

use crate::support::{Host, Output, Snapshot};

/// Reports where it runs, to be compared with its report without an attack.
const WITNESS: &str = "#!/bin/sh
stat -Lc %i /proc/self/ns/net
grep ^Cap /proc/self/status
cat /etc/resolv.conf
ls /sys/class/net
";

/// A host with the witness and namespace `vpn1`, built with a resolver of its own.
fn host() -> Host {
    let host = Host::new();
    host.write("/root/resolv.conf", "nameserver 198.51.100.53\n");
    host.ok("runns-exec build -n vpn1 -r /root/resolv.conf");
    host.write("/usr/local/bin/witness", WITNESS);
    host.ok("chmod 755 /usr/local/bin/witness");
    host
}

pub(crate) fn compile(host: &Host, name: &str, source: &str) {
    host.write(&format!("/tmp/{name}.c"), source);
    host.ok(&format!("cc -O1 -o /usr/local/bin/{name} /tmp/{name}.c"));
}

/// Runs `script` as alice; fails the test unless it is refused with a message that contains all
/// `parts`.
#[track_caller]
fn refused(host: &Host, script: &str, parts: &[&str]) -> Output {
    host.user("alice").run(script).refused(125, parts)
}

/// System calls whose failure is always fatal, wherever it happens.
const PRIVILEGED: [&str; 12] = [
    "setns",
    "unshare",
    "mount",
    "umount2",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "capset",
    "capget",
    "setsockopt",
];

/// The system calls that runns-exec makes as alice up to the command's exec, each with its ordinal
/// among those of that name.
fn calls(host: &Host) -> Vec<(String, usize)> {
    host.ok("strace -u alice -o /tmp/trace runns-exec vpn1 -- witness");
    let mut calls: Vec<(String, usize)> = Vec::new();
    for line in host.ok("cat /tmp/trace").lines() {
        if line.starts_with("execve(") && line.contains("witness\", [") {
            break;
        }
        let Some((name, _)) = line.split_once('(') else {
            continue;
        };
        // strace prints a call that it does not know yet by number.
        let name = name
            .strip_prefix("syscall_0x")
            .map_or(name.to_string(), |number| {
                i64::from_str_radix(number, 16)
                    .expect("the number of a system call")
                    .to_string()
            });
        let earlier = calls.iter().filter(|(known, _)| *known == name).count();
        if name != "execve" || earlier > 0 {
            calls.push((name, earlier + 1));
        }
    }
    calls
}

#[test]
fn no_failing_system_call_lets_the_command_out() {
    let host = host();
    host.ok("ip -n vpn1 link set lo down");
    let calls = calls(&host);
    assert!(calls.len() > 60, "{calls:?}");
    let right = host.user("alice").ok("runns-exec vpn1 -- witness");
    let mut attempts = String::new();
    for (name, number) in calls.iter().filter(|(name, _)| name != "exit_group") {
        for errno in ["EPERM", "ENOSPC", "ENOMEM", "EMFILE"] {
            attempts.push_str(&format!("{name} {number} {errno}\n"));
        }
    }
    // strace injects the result without making the call.
    let script = r#"while read -r call number errno; do
        ip -n vpn1 link set lo down
        out=$(strace -u alice -o /dev/null -e trace="$call" -e inject="$call:error=$errno:when=$number" \
            runns-exec vpn1 -- witness 2>/tmp/stderr </dev/null); status=$?
        printf '%s\n' "$out" >/tmp/out
        if cmp -s /tmp/out /tmp/right; then ran=right; elif [ -z "$out" ]; then ran=no; else ran=WRONG; fi
        printf "%s\n" "$call $number $errno: $status $ran $(head -n 1 /tmp/stderr)"
    done"#;
    host.write("/tmp/right", &format!("{right}\n"));
    let results = host.root().run_with(script, attempts.as_bytes()).ok();
    assert_eq!(results.lines().count(), attempts.lines().count());
    for result in results.lines() {
        let (what, outcome) = result.split_once(": ").expect(result);
        let mut words = outcome.split(' ');
        let (status, ran) = (words.next().expect(result), words.next().expect(result));
        assert_ne!(
            ran, "WRONG",
            "the command ran elsewhere or with privilege: {result}"
        );
        assert_eq!(ran == "right", status == "0", "{result}");
        let privileged = PRIVILEGED.contains(&what.split(' ').next().unwrap_or_default());
        if privileged {
            assert!(
                status == "125" && ran == "no" && outcome.contains("runns-exec: cannot "),
                "{result}"
            );
        }
    }
}

#[test]
fn privileges_that_are_missing_are_named() {
    let host = host();
    refused(
        &host,
        "setpriv --no-new-privs runns-exec vpn1 -- witness",
        &["no_new_privs", "hint:"],
    );
    refused(
        &host,
        "strace -o /dev/null runns-exec vpn1 -- witness",
        &["traced"],
    );
    let alice = "setpriv --reuid alice --regid alice --init-groups --bounding-set";
    host.run(&format!("{alice} -sys_admin runns-exec vpn1 -- witness"))
        .refused(125, &["CAP_SYS_ADMIN", "bounding set"]);
    host.run(&format!("{alice} -net_admin runns-exec vpn1 -- witness"))
        .refused(125, &["CAP_NET_ADMIN", "bounding set"]);
    host.ok(
        "mkdir /mnt/nosuid && mount -t tmpfs -o nosuid tmpfs /mnt/nosuid &&
         cp --preserve=all /usr/local/bin/runns-exec /mnt/nosuid && getcap /mnt/nosuid/runns-exec | grep -q cap_sys_admin",
    );
    refused(&host, "/mnt/nosuid/runns-exec vpn1 -- witness", &["nosuid"]);
    host.ok("install -g runns -m 750 /usr/local/bin/runns-exec /opt/runns-exec");
    refused(
        &host,
        "/opt/runns-exec vpn1 -- witness",
        &["the program file has none", "install.sh"],
    );
    let share = "import ctypes, os, platform
number = {'x86_64': 56, 'aarch64': 220}[platform.machine()]
child = ctypes.CDLL(None).syscall(number, 0x200 | 17, 0, 0, 0, 0)
if child == 0: os.execvp('runns-exec', ['runns-exec', 'vpn1', '--', 'witness'])
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))";
    host.write("/tmp/share.py", share);
    refused(&host, "python3 /tmp/share.py", &["CLONE_FS"]);
}

#[test]
fn nobody_enters_from_a_user_namespace() {
    let host = host();
    for unshare in [
        "unshare -U",
        "unshare -Ur",
        "unshare -Urmn",
        "unshare -Urmnpf --mount-proc",
    ] {
        refused(
            &host,
            &format!("{unshare} runns-exec vpn1 -- witness"),
            &["user namespace"],
        );
    }
    // With a network namespace of her own at /run/netns, in which she is root.
    let own = "unshare -Urmn sh -c 'mount -t tmpfs tmpfs /run && mkdir /run/netns && touch /run/netns/vpn1 &&
               mount --bind /proc/self/ns/net /run/netns/vpn1 && exec runns-exec vpn1 -- witness'";
    refused(&host, own, &["user namespace"]);
}

#[test]
fn what_is_no_network_namespace_is_not_entered() {
    let host = host();
    host.configure("AllowUnmanaged=yes\n");
    let make = [
        ("touch /run/netns/x", "not a network namespace"),
        ("mkdir /run/netns/x", "not a network namespace"),
        ("mkfifo /run/netns/x", "not a network namespace"),
        ("ln -s vpn1 /run/netns/x", "symbolic link"),
        ("ln -s /dev/zero /run/netns/x", "symbolic link"),
        (
            "touch /run/netns/x && mount --bind /proc/self/ns/uts /run/netns/x",
            "not a network namespace",
        ),
        (
            "touch /run/netns/x && mount --bind /proc/1/ns/net /run/netns/x",
            "host's own",
        ),
    ];
    for (command, cause) in make {
        host.ok(command);
        refused(&host, "runns-exec x -- witness", &["x", cause]);
        host.ok("umount -l /run/netns/x 2>/dev/null; rm -rf /run/netns/x");
    }
    refused(
        &host,
        "runns-exec nonsuch -- witness",
        &["no such namespace"],
    );
    for name in [
        "../netns/vpn1",
        "/run/netns/vpn1",
        ".",
        "..",
        "vpn1/",
        "-",
        "vpn1\n",
        "",
    ] {
        refused(
            &host,
            &format!("runns-exec -v -- '{name}' witness || exit 125"),
            &["cannot"],
        );
    }
}

#[test]
fn a_name_replaced_all_the_time_leads_nowhere_else() {
    let host = host();
    let right = host.user("alice").ok("runns-exec vpn1 -- witness");
    host.configure("AllowUnmanaged=yes\n");
    let before = Snapshot::of(&host);
    // The name leads to a different file each time, also an empty one and the host's own network
    // namespace.
    let replace = host.spawn(
        "touch /run/netns/.x; while [ ! -e /tmp/stop ]; do
             mount --bind /proc/1/ns/net /run/netns/vpn1; umount -l /run/netns/vpn1
             mount --bind /run/netns/.x /run/netns/vpn1; umount -l /run/netns/vpn1
         done; rm /run/netns/.x",
    );
    let results = host.user("alice").ok(
        "for n in $(seq 300); do out=$(runns-exec vpn1 -- witness 2>/dev/null); echo \"$? $(echo \"$out\" | md5sum)\"; done |
         sort | uniq -c",
    );
    host.ok("touch /tmp/stop");
    replace.wait().ok();
    let sum = host
        .root()
        .run_with("md5sum", format!("{right}\n").as_bytes())
        .ok();
    let nothing = host.root().run_with("md5sum", b"\n").ok();
    for line in results.lines() {
        let line = line.trim().split_once(' ').expect("a count").1;
        assert!(
            line == format!("0 {sum}") || line == format!("125 {nothing}"),
            "{results}"
        );
    }
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn files_that_others_can_change_are_not_put_in_place() {
    let host = host();
    let spoil = [
        ("chown alice /etc/netns/vpn1/resolv.conf", "belongs to uid"),
        (
            "chmod 666 /etc/netns/vpn1/resolv.conf",
            "users other than root can write",
        ),
        (
            "chgrp runns /etc/netns/vpn1/resolv.conf && chmod 664 /etc/netns/vpn1/resolv.conf",
            "users other than root can write",
        ),
        ("chown alice /etc/netns/vpn1", "belongs to uid"),
        ("chmod 777 /etc/netns", "users other than root can write"),
        ("chmod 1777 /run/netns", "users other than root can write"),
        (
            "echo x >/home/alice/r && rm /etc/netns/vpn1/resolv.conf && ln -s /home/alice/r /etc/netns/vpn1/resolv.conf",
            "alice",
        ),
        (
            "rm /etc/netns/vpn1/resolv.conf && mkfifo /etc/netns/vpn1/resolv.conf",
            "neither a regular file",
        ),
        (
            "rm /etc/netns/vpn1/resolv.conf && mkdir /etc/netns/vpn1/resolv.conf",
            "resolv.conf",
        ),
        ("rm /etc/netns/vpn1/resolv.conf", "was removed after"),
        ("touch /etc/netns/vpn1/nonsuch", "touch /etc/nonsuch"),
        (
            "chmod 666 /run/runns/vpn1.json",
            "users other than root can write",
        ),
        ("chown alice /run/runns", "belongs to uid"),
    ];
    host.ok("cp -a /etc/netns /root/netns && cp -a /run/runns /root/runns");
    for (command, cause) in spoil {
        host.ok(command);
        refused(&host, "runns-exec vpn1 -- witness", &[cause]);
        host.ok("rm -rf /etc/netns/* && cp -a /root/netns/. /etc/netns/ && cp -a /root/runns/. /run/runns/ &&
             chown -R root:root /etc/netns /run/runns && chmod 755 /etc/netns /run/netns /run/runns");
    }
    host.user("alice").ok("runns-exec vpn1 -- witness");
}

#[test]
fn a_file_exchanged_meanwhile_is_the_checked_one_or_none() {
    let host = host();
    let alice = host.user("alice");
    let right = alice.ok("runns-exec vpn1 -- cat /etc/resolv.conf");
    host.ok("echo nameserver 203.0.113.66 >/etc/evil && chown alice /etc/evil && cp -p /etc/netns/vpn1/resolv.conf /etc/good");
    let exchange = host.spawn(
        "while [ ! -e /tmp/stop ]; do
             ln -f /etc/evil /etc/netns/vpn1/.new && mv -f /etc/netns/vpn1/.new /etc/netns/vpn1/resolv.conf
             ln -f /etc/good /etc/netns/vpn1/.new && mv -f /etc/netns/vpn1/.new /etc/netns/vpn1/resolv.conf
         done",
    );
    let results = alice.ok(
        "for n in $(seq 300); do runns-exec vpn1 -- cat /etc/resolv.conf >/tmp/out 2>/dev/null; echo \"status $?\"; cat /tmp/out; done |
         sort | uniq",
    );
    host.ok("touch /tmp/stop");
    exchange.wait().ok();
    for line in results.lines() {
        assert!(
            ["status 0", "status 125"].contains(&line) || right.lines().any(|known| known == line),
            "{results}"
        );
    }
}

#[test]
fn no_process_of_the_user_looks_into_a_start() {
    let host = host();
    compile(&host, "peek", include_str!("peek.c"));
    // A command that nobody may read is not dumpable either, so no attempt may succeed, even after
    // the exec.
    host.ok("install -m 711 /bin/true /usr/local/bin/unreadable");
    let said = host
        .user("alice")
        .ok("peek 1000 runns-exec vpn1 -- unreadable");
    assert!(said.contains(" 0 successes"), "{said}");
    let without = host.user("alice").run("peek 20 sleep 0.01");
    assert!(
        without.status == 1 && without.stdout.contains("ways 0xf"),
        "the attack itself works: {without}"
    );
}

#[test]
fn limits_at_their_ends_never_let_the_command_out() {
    let host = host();
    let right = host.user("alice").ok("runns-exec vpn1 -- witness");
    let mut limits: Vec<String> = (0..16).map(|n| format!("--nofile={n}")).collect();
    limits.extend(
        [
            "--fsize=0",
            "--nproc=0",
            "--core=0",
            "--memlock=0",
            "--sigpending=0",
            "--msgqueue=0",
        ]
        .map(String::from),
    );
    limits.extend(
        [16, 64, 256, 1024, 2048, 4096, 8192, 16384].map(|kib| format!("--as={}", kib << 10)),
    );
    limits.extend([4, 16, 64, 128, 256].map(|kib| format!("--stack={}", kib << 10)));
    limits.extend([0, 4, 64, 256].map(|kib| format!("--data={}", kib << 10)));
    for limit in limits {
        let output = host
            .user("alice")
            .run(&format!("exec prlimit {limit} runns-exec vpn1 -- witness"));
        // Programs that the witness runs may themselves fail under the limit, so lines may be
        // missing, but each line that is there must be right.
        let is_right = |line: &str| right.lines().any(|known| known == line);
        assert!(output.stdout.lines().all(is_right), "{limit}: {output}");
        assert!(
            output.status != 0 || !output.stdout.is_empty(),
            "{limit}: {output}"
        );
    }
}

#[test]
fn another_name_evades_no_list() {
    let host = host();
    host.ok("ip netns add secret && touch /run/netns/alias && mount --bind /run/netns/secret /run/netns/alias");
    let configurations = [
        "AllowUnmanaged=yes\n[secret]\nAllowUsers=carol\n",
        "[secret]\nAllowUsers=carol\n[alias]\n",
        "[alias]\n[secret]\nAllowGroups=carol\n",
        "[x]\nNetworkNamespace=secret\nAllowUsers=carol\n[alias]\nAllowUsers=alice\n",
    ];
    for text in configurations {
        host.configure(text);
        for name in ["secret", "alias"] {
            refused(
                &host,
                &format!("runns-exec {name} -- witness"),
                &["do not let you in"],
            );
        }
        if !text.contains("AllowUsers=alice") {
            host.user("carol").ok("runns-exec secret -- true");
        }
    }
    // A backslash at the end of a line, which other INI parsers take for a continuation, hides no
    // list.
    host.configure("[secret]\nResolve=/x\\\nAllowUsers=carol\n");
    refused(
        &host,
        "runns-exec secret -- witness",
        &["do not let you in"],
    );
    // The record keeps the list with which the namespace was built.
    host.configure("[built]\nAllowUsers=carol\n");
    host.ok("runns-exec build -s built && touch /run/netns/again && mount --bind /run/netns/built /run/netns/again");
    for text in ["AllowUnmanaged=yes\n", "[built]\n", "[again]\n"] {
        host.configure(text);
        refused(&host, "runns-exec built -- witness", &[]);
        refused(&host, "runns-exec again -- witness", &[]);
    }
}

#[test]
fn a_name_that_is_used_again_is_another_namespace() {
    let host = host();
    host.ok("ip netns delete vpn1 && ip netns add vpn1");
    refused(&host, "runns-exec vpn1 -- witness", &["another namespace"]);
    host.configure("AllowUnmanaged=yes\n");
    refused(&host, "runns-exec vpn1 -- witness", &["another namespace"]);
    host.ok("runns-exec build -n vpn2");
    for state in ["building", "cleaning"] {
        host.ok(&format!(
            "sed -i 's/\"state\": \"[a-z]*\"/\"state\": \"{state}\"/' /run/runns/vpn2.json"
        ));
        refused(&host, "runns-exec vpn2 -- witness", &["it is being"]);
    }
}
