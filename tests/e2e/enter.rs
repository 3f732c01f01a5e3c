//! Entering a namespace, and what the command inherits from its caller (SPEC 3, 3.1).

use crate::host_with_vpn1;

#[test]
fn command_is_in_the_namespace_as_the_user() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let inode = host.ok("stat -Lc %i /run/netns/vpn1");
    assert_eq!(
        alice.ok("runns-exec vpn1 -- stat -Lc %i /proc/self/ns/net"),
        inode
    );
    assert_eq!(
        alice.ok("runns-exec exec vpn1 stat -Lc %i /proc/self/ns/net"),
        inode
    );
    assert_eq!(alice.ok("runns-exec vpn1 id"), alice.ok("id"));
    assert!(
        alice
            .ok("runns-exec vpn1 -- ip -o address show dev lo")
            .contains("127.0.0.1/8"),
        "loopback is up"
    );
    assert_eq!(
        alice.ok("runns-exec vpn1 -- ip -j route show table main"),
        "[]"
    );
}

#[test]
fn no_command_is_the_users_shell() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let inode = host.ok("stat -Lc %i /run/netns/vpn1");
    let ask = b"stat -Lc %i /proc/self/ns/net; echo $0\n";
    assert_eq!(
        alice.run_with("runns-exec vpn1", ask).ok(),
        format!("{inode}\n/bin/sh")
    );
    let shell = |value: &str| {
        alice
            .env("SHELL", value)
            .run_with("runns-exec vpn1 --", b"echo $0\n")
            .ok()
    };
    assert_eq!(shell("/bin/bash"), "/bin/bash");
    assert_eq!(
        shell("bash"),
        "/bin/sh",
        "a relative SHELL is ignored in favour of that of /etc/passwd"
    );
    host.ok("usermod -s /bin/bash alice");
    assert_eq!(shell(""), "/bin/bash");
    let numbers = "--reuid 4242 --regid 4242 --groups $(getent group runns | cut -d: -f3)";
    let stranger = format!("unset SHELL; setpriv {numbers} runns-exec vpn1");
    assert_eq!(
        host.root().run_with(&stranger, b"echo $0; id -u\n").ok(),
        "/bin/sh\n4242",
        "no passwd entry"
    );
}

#[test]
fn nothing_after_the_name_is_an_option() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    assert_eq!(
        alice.ok("runns-exec vpn1 -- printf '%s|' -- --pty -d"),
        "--|--pty|-d|"
    );
    assert_eq!(
        alice.ok("runns-exec vpn1 printf '%s|' --detach -- x"),
        "--detach|--|x|"
    );
    alice.run("runns-exec vpn1 -- -d").refused(127, &["-d"]);
}

#[test]
fn a_namespace_may_be_called_as_a_subcommand() {
    let host = host_with_vpn1();
    for name in ["list", "exec", "build", "clean", "check", "status", "help"] {
        host.ok(&format!("ip netns add {name}"));
        host.configure(&format!("[{name}]\n"));
        let inode = host.ok(&format!("stat -Lc %i /run/netns/{name}"));
        let entered = host.user("alice").ok(&format!(
            "runns-exec exec {name} -- stat -Lc %i /proc/self/ns/net"
        ));
        assert_eq!(entered, inode, "{name}");
    }
}

#[test]
fn environment_is_kept_byte_for_byte_and_marked() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let print = "python3 -c 'import os; print(os.environb)'";
    let variables = [
        ("LD_LIBRARY_PATH", "/tmp/x"),
        ("TMPDIR", "/tmp/y"),
        ("GCONV_PATH", "z"),
        ("RUNNS_NETNS", "old"),
    ];
    let mut runner = alice.clone();
    for (name, value) in variables {
        runner = runner.env(name, value);
    }
    let raw = "python3 -c 'import sys; sys.stdout.buffer.write(open(\"/proc/self/environ\", \"rb\").read())' | tr '\\0' '\\n'";
    let before = runner.ok(&format!("exec {raw}"));
    let after = runner.ok(&format!("runns-exec vpn1 -- {raw}"));
    let mut expected: Vec<&str> = before
        .lines()
        .filter(|line| !line.starts_with("RUNNS_NETNS="))
        .collect();
    expected.push("RUNNS_NETNS=vpn1");
    assert_eq!(after.lines().collect::<Vec<_>>(), expected);
    // Variables without a name, without a value, defined twice, and with bytes that are not text.
    let strange = "import os; os.execve(\"/usr/local/bin/runns-exec\", [\"x\", \"vpn1\", \"--\", \"cat\", \"/proc/self/environ\"], {b\"PATH\": b\"/bin:/usr/bin\", b\"\\xff\\xfe\": b\"\\x80\", b\"E\": b\"\"})";
    assert_eq!(
        alice
            .run(&format!(
                "python3 -c '{strange}' | od -An -c | tr -d ' \\n'"
            ))
            .ok(),
        "PATH=/bin:/usr/bin\\0377376=200\\0E=\\0RUNNS_NETNS=vpn1\\0"
    );
    assert!(
        alice
            .ok(&format!("runns-exec vpn1 -- {print}"))
            .contains("vpn1")
    );
}

#[test]
fn process_attributes_are_the_callers() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    host.write(
        "/tmp/show",
        "grep -E '^(Uid|Gid|Groups|Umask|Cap|NoNewPrivs|Seccomp|Sig[BIQ]|Threads)' /proc/self/status\n\
         cat /proc/self/limits; nice; umask; pwd; ls /proc/self/fd\n",
    );
    let prepare = "umask 027; ulimit -n 77; ulimit -c 0; trap '' PIPE INT USR1; exec 5</dev/null 9>/dev/null; \
                   cd /usr/share; exec nice -n 5";
    let direct = alice.ok(&format!("{prepare} sh /tmp/show"));
    assert!(
        direct.contains("1202\nCapInh") && direct.lines().any(|line| line == "9"),
        "{direct}"
    );
    assert_eq!(
        direct,
        alice.ok(&format!("{prepare} runns-exec vpn1 -- sh /tmp/show"))
    );
    let group = "ps -o pgid=,sid= -p";
    let same = alice.ok(&format!(
        "{group} $$; runns-exec vpn1 -- sh -c '{group} $$'"
    ));
    let lines: Vec<&str> = same.lines().collect();
    assert_eq!(lines[0], lines[1], "process group and session");
}

#[test]
fn no_capability_is_left_and_setuid_programs_work() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    let sets = alice.ok("runns-exec vpn1 -- grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status");
    assert_eq!(sets.lines().count(), 4);
    assert!(
        sets.lines()
            .all(|line| line.ends_with("\t0000000000000000")),
        "{sets}"
    );
    let bounding = "grep CapBnd /proc/self/status";
    assert_eq!(
        alice.ok(&format!("runns-exec vpn1 -- {bounding}")),
        alice.ok(bounding)
    );
    host.write("/etc/sudoers.d/alice", "alice ALL=(ALL) NOPASSWD: ALL\n");
    assert_eq!(alice.ok("runns-exec vpn1 -- sudo -n id -u"), "0");
    // Some systems let everybody ping by a sysctl instead.
    host.ok("setcap cap_net_raw=ep $(readlink -f $(command -v ping))");
    alice.ok("runns-exec vpn1 -- ping -c 1 -W 5 127.0.0.1");
    alice
        .run("runns-exec vpn1 -- ip link add dummy0 type dummy")
        .status
        .eq(&0)
        .then(|| panic!("alice is privileged"));
}

#[test]
fn runs_as_root_for_root_with_a_hint_under_sudo() {
    let host = host_with_vpn1();
    let inode = host.ok("stat -Lc %i /run/netns/vpn1");
    let output = host.run("runns-exec vpn1 -- stat -Lc %i /proc/self/ns/net");
    assert_eq!(
        (output.stdout.trim(), output.stderr.as_str()),
        (inode.as_str(), ""),
        "{output}"
    );
    let sets = "grep -E ^Cap /proc/self/status";
    assert_eq!(
        host.ok(&format!("runns-exec vpn1 -- {sets}")),
        host.ok(sets),
        "root keeps its capabilities"
    );
    host.write("/etc/sudoers.d/alice", "alice ALL=(ALL) NOPASSWD: ALL\n");
    let sudo = host.user("alice").run("sudo -n runns-exec vpn1 -- id -u");
    assert_eq!((sudo.status, sudo.stdout.trim()), (0, "0"), "{sudo}");
    assert!(sudo.stderr.contains("hint: "), "{sudo}");
}

#[test]
fn working_directory_below_sys_is_entered_again() {
    let host = host_with_vpn1();
    let below = |directory: &str| {
        host.user("alice")
            .at(directory)
            .run("runns-exec vpn1 -- sh -c 'pwd -P; ls'")
    };
    assert_eq!(below("/sys/class/net").ok(), "/sys/class/net\nlo");
    assert!(below("/sys/kernel").ok().starts_with("/sys/kernel"));
    assert!(below("/sys/fs/cgroup").ok().starts_with("/sys/fs/cgroup"));
    below("/sys/class/net/eth0").refused(125, &["/sys/", "eth0"]);
}

#[test]
fn entering_is_one_process_and_uses_no_network() {
    let host = host_with_vpn1();
    let trace = "strace -f -qq -o /tmp/trace runns-exec vpn1 -- true; grep -cE ' (clone|clone3|fork|vfork)\\(' /tmp/trace";
    assert_eq!(host.run(trace).stdout.trim(), "0");
    assert_eq!(
        host.run("grep -E 'AF_(INET|NETLINK)|nscd|nsswitch' /tmp/trace")
            .stdout,
        ""
    );
}
