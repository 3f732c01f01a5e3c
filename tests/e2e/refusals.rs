//! Everything that must not be entered, and configurations that are not to be trusted (SPEC 3.2,
//! 3.3, 4). Each case ends in 125 with one clear line; the command is not run, and nothing is
//! changed.

use runns_shared::record::VERSION;

use crate::host_with_vpn1;
use crate::support::{Host, Output, Snapshot};

/// Asserts that `user` fails to enter `name`, with a line that contains all `parts`.
#[track_caller]
fn refused(host: &Host, user: &str, name: &str, parts: &[&str]) -> Output {
    let output = host
        .user(user)
        .run(&format!("runns-exec {name} -- touch /tmp/ran"))
        .refused(125, parts);
    assert_eq!(
        host.run("test -e /tmp/ran").status,
        1,
        "the command was run: {output}"
    );
    output
}

#[test]
fn somebody_outside_the_group_cannot_execute_it() {
    let host = host_with_vpn1();
    let output = host
        .user("bob")
        .run("/usr/local/bin/runns-exec vpn1 -- true");
    assert_eq!(output.status, 126, "the shell's own answer: {output}");
    assert!(output.stderr.contains("Permission denied"), "{output}");
    assert_eq!(
        host.user("bob")
            .run("cp /usr/local/bin/runns-exec /tmp/copy")
            .status,
        1,
        "nor read it"
    );
}

#[test]
fn limits_of_the_kernel_and_hidden_processes_are_named() {
    let host = host_with_vpn1();
    let with = |fault: &str, command: &str| {
        host.run(&format!(
            "strace -f -qq -o /dev/null -e inject={fault} {command}"
        ))
    };
    with(
        "move_mount:error=ENOSPC",
        "runns-exec vpn1 -- touch /tmp/ran",
    )
    .refused(125, &["fs.mount-max", "sudo sysctl"]);
    host.ok("! test -e /tmp/ran");
    with("unshare:error=ENOSPC", "runns-exec build -n other")
        .refused(1, &["user.max_net_namespaces", "sudo sysctl"]);
    with("getsockopt:error=ENOPROTOOPT", "runns-exec build -n other")
        .refused(1, &["Linux 5.14 or later"]);
    host.configure("AllowUnmanaged=yes\n");
    host.ok("ip netns add theirs && mount -o remount,hidepid=2 /proc");
    refused(
        &host,
        "alice",
        "theirs",
        &["/proc hides", "hidepid", "hint: sudo mount -o remount,gid="],
    );
    let listed = host.user("alice").run("runns-exec list -a");
    assert!(listed.stderr.contains("hidepid"), "{listed}");
    assert_eq!(listed.status, 0, "{listed}");
    let own = host.user("alice").run("runns-exec list");
    assert_eq!(own.stderr, "", "{own}");
}

#[test]
fn a_copy_without_capabilities_says_so() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    alice.ok("cp /usr/local/bin/runns-exec copy && chmod 755 copy");
    alice
        .run("./copy vpn1 -- true")
        .refused(125, &["capabilities", "install.sh"]);
    alice
        .run("setpriv --no-new-privs runns-exec vpn1 -- true")
        .refused(125, &["no_new_privs"]);
    let bounded = "setpriv --bounding-set -sys_admin setpriv --reuid alice --regid alice --init-groups \
                   runns-exec vpn1 -- true";
    // The kernel does not even execute a program whose file capabilities it cannot grant in full
    // (EPERM).
    let output = host.run(bounded);
    assert!(output.status != 0 && !output.stderr.is_empty(), "{output}");
    host.ok("mkdir /mnt/nosuid && mount -t tmpfs -o nosuid,mode=755 tmpfs /mnt/nosuid");
    host.ok(
        "cp -a /usr/local/bin/runns-exec /mnt/nosuid/ && setcap cap_net_admin,cap_sys_admin=p /mnt/nosuid/runns-exec",
    );
    alice
        .run("/mnt/nosuid/runns-exec vpn1 -- true")
        .refused(125, &["nosuid"]);
    alice
        .run("unshare -Ur runns-exec vpn1 -- true")
        .refused(125, &["user namespace"]);
    alice
        .run("unshare -U runns-exec vpn1 -- true")
        .refused(125, &["user namespace"]);
    let own = "unshare -Urmn sh -c 'mount -t tmpfs none /run && mkdir /run/netns && touch /run/netns/vpn1 && \
               mount --bind /proc/self/ns/net /run/netns/vpn1 && exec runns-exec vpn1 -- true'";
    alice.run(own).refused(125, &["user namespace"]);
    alice
        .run("strace -o /dev/null runns-exec vpn1 -- true")
        .refused(125, &["traced"]);
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    let host = host_with_vpn1();
    host.configure("AllowUnmanaged=yes\n");
    host.ok(
        "cd /run/netns && touch file && mkdir dir && mkfifo fifo && ln -s vpn1 link && ln -s /no/where dangling && \
             touch pidns mnt uts && mount --bind /proc/1/ns/pid pidns && mount --bind /proc/1/ns/uts uts && \
             mknod null c 1 3 && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
    );
    host.ok("mv /run/netns/fifo /tmp/fifo");
    let before = Snapshot::of(&host);
    host.ok("mv /tmp/fifo /run/netns/fifo");
    for name in ["file", "dir", "fifo", "pidns", "uts"] {
        refused(
            &host,
            "alice",
            name,
            &["open namespace", "not a network namespace"],
        );
    }
    for name in ["socket", "null"] {
        refused(&host, "alice", name, &["open namespace"]);
    }
    refused(&host, "alice", "link", &["symbolic link"]);
    refused(&host, "alice", "dangling", &["symbolic link"]);
    // ip itself would wait for a writer of the FIFO forever.
    host.ok("mv /run/netns/fifo /tmp/fifo");
    refused(&host, "alice", "nosuch", &["no such namespace", "hint: "]);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn the_hosts_own_namespace_under_another_name_is_refused() {
    let host = host_with_vpn1();
    host.ok("touch /run/netns/mine && mount --bind /proc/1/ns/net /run/netns/mine");
    for config in ["[mine]\n", "AllowUnmanaged=yes\n"] {
        host.configure(config);
        refused(&host, "alice", "mine", &["host's own"]);
    }
}

#[test]
fn unmanaged_namespaces_are_refused_unless_the_configuration_opens_them() {
    let host = host_with_vpn1();
    host.ok("ip netns add other");
    refused(
        &host,
        "alice",
        "other",
        &["did not build", "/etc/runns.conf", "hint: "],
    );
    assert_eq!(
        host.ok("runns-exec other -- printenv RUNNS_NETNS"),
        "other",
        "root is not restricted"
    );
    host.configure("AllowUnmanaged=yes\n[vpn1]\n");
    host.user("alice").ok("runns-exec other -- true");
    host.configure("AllowUnmanaged=no\n[vpn1]\n");
    refused(&host, "alice", "other", &["did not build"]);
    host.ok("rm /etc/runns.conf");
    refused(&host, "alice", "vpn1", &["did not build"]);
    host.ok("ip netns add vpm1");
    host.configure("[vpn1]\n");
    refused(&host, "alice", "vpm1", &["did you mean vpn1?"]);
}

#[test]
fn every_error_in_the_configuration_refuses_everybody_but_root() {
    let host = host_with_vpn1();
    let cases: [(&str, &[&str]); 12] = [
        (
            "[vpn1]\nInterfaceInn=x\n",
            &["[vpn1]", "InterfaceInn", "did you mean InterfaceIn?"],
        ),
        (
            "[vpn1]\nFrobnicate=yes\n",
            &["[vpn1]", "Frobnicate", "unknown option"],
        ),
        (
            "[vpn1]\nInterfaceIn=a\nInterfaceIn=b\n",
            &["[vpn1]", "InterfaceIn", "twice"],
        ),
        ("[vpn1]\nInterfaceIn=a+\n", &["[vpn1]", "InterfaceIn"]),
        ("[vpn1]\nResolve=relative\n", &["[vpn1]", "Resolve"]),
        (
            "[vpn1]\nNetworkNamespace=../x\n",
            &["[vpn1]", "NetworkNamespace"],
        ),
        (
            "[vpn1]\nAllowUnmanaged=yes\n",
            &["[vpn1]", "AllowUnmanaged"],
        ),
        ("[vpn1]\n[VPN1]\n", &["duplicate section"]),
        (
            "[vpn1]\n[other]\nNetworkNamespace=vpn1\n",
            &["vpn1", "other"],
        ),
        ("[vpn1]\nnonsense\n", &["line 2"]),
        (
            "AllowUnmanaged=perhaps\n[vpn1]\n",
            &["AllowUnmanaged", "perhaps"],
        ),
        ("[vpn1]\nvpn=\n", &["[vpn1]", "vpn"]),
    ];
    let before = Snapshot::of(&host);
    for (text, parts) in cases {
        host.configure(text);
        refused(
            &host,
            "alice",
            "vpn1",
            &[&["/etc/runns.conf"], parts].concat(),
        );
        host.ok("runns-exec vpn1 -- true");
    }
    host.configure("[vpn1]\n");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_configuration_that_is_not_roots_alone_refuses_everybody() {
    let host = host_with_vpn1();
    let cases = [
        ("chmod 666 /etc/runns.conf", "write"),
        ("chmod 664 /etc/runns.conf", "write"),
        ("chown alice /etc/runns.conf", "not to root"),
        (
            "mkdir /home/alice/etc && cp /etc/runns.conf /home/alice/etc/ && ln -sf /home/alice/etc/runns.conf /etc/runns.conf",
            "/home/alice",
        ),
        ("rm /etc/runns.conf && mkdir /etc/runns.conf", "directory"),
        (
            "rm -rf /etc/runns.conf && mkfifo /etc/runns.conf",
            "regular file",
        ),
        (
            "rm -f /etc/runns.conf && ln -s /dev/zero /etc/runns.conf",
            "/dev/zero",
        ),
        (
            "rm -f /etc/runns.conf && head -c 2000000 /dev/zero | tr '\\0' '#' >/etc/runns.conf",
            "larger",
        ),
        ("printf '[vpn1]\\n\\000' >/etc/runns.conf", "NUL"),
        ("printf '[vpn1]\\n#\\377\\n' >/etc/runns.conf", "UTF-8"),
        (
            "printf '[vpn1]\\n' >/etc/runns.conf; chmod 0 /etc/runns.conf",
            "Permission denied",
        ),
        ("chmod 644 /etc/runns.conf; chmod 777 /etc", "/etc"),
    ];
    for (spoil, part) in cases {
        host.ok(&format!("umask 022; {spoil}"));
        refused(&host, "alice", "vpn1", &[part]);
    }
}

#[test]
fn directories_and_files_that_are_not_roots_alone_are_refused() {
    let host = host_with_vpn1();
    let cases = [
        ("chmod 777 /run/netns", "chmod 755 /run/netns", "/run/netns"),
        ("chmod 775 /run/netns", "chmod 755 /run/netns", "/run/netns"),
        (
            "chown alice /run/netns",
            "chown root /run/netns",
            "/run/netns",
        ),
        (
            "mkdir -p /etc/netns/vpn1; chmod 777 /etc/netns",
            "chmod 755 /etc/netns",
            "/etc/netns",
        ),
        (
            "chown alice /etc/netns/vpn1",
            "chown root /etc/netns/vpn1",
            "/etc/netns/vpn1",
        ),
        (
            "chmod 775 /etc/netns/vpn1",
            "chmod 755 /etc/netns/vpn1",
            "/etc/netns/vpn1",
        ),
        (
            "echo >/etc/netns/vpn1/hosts; chown alice /etc/netns/vpn1/hosts",
            "chown root /etc/netns/vpn1/hosts",
            "hosts",
        ),
        (
            "chmod 666 /etc/netns/vpn1/hosts",
            "chmod 644 /etc/netns/vpn1/hosts",
            "hosts",
        ),
        (
            "echo >/home/alice/x; ln -sf /home/alice/x /etc/netns/vpn1/hosts",
            "rm /etc/netns/vpn1/hosts",
            "/home/alice",
        ),
        (
            "mkfifo /etc/netns/vpn1/hosts",
            "rm /etc/netns/vpn1/hosts",
            "hosts",
        ),
        (
            "mkdir /etc/netns/vpn1/hosts",
            "rmdir /etc/netns/vpn1/hosts",
            "hosts",
        ),
        (
            "ln -s nowhere /etc/netns/vpn1/hosts",
            "rm /etc/netns/vpn1/hosts",
            "hosts",
        ),
        (
            "echo >/etc/netns/vpn1/no-namesake",
            "rm /etc/netns/vpn1/no-namesake",
            "touch /etc/no-namesake",
        ),
        (
            "ln -s /home /tmp/l; rm -rf /etc/netns/vpn1; ln -s /home/alice /etc/netns/vpn1",
            "rm /etc/netns/vpn1",
            "/",
        ),
    ];
    for (spoil, repair, part) in cases {
        host.ok(&format!("umask 022; {spoil}"));
        refused(&host, "alice", "vpn1", &[part]);
        host.ok(repair);
        host.user("alice").ok("runns-exec vpn1 -- true");
    }
}

#[test]
fn records_of_namespaces_that_are_being_built_or_cleaned_or_gone_refuse() {
    let host = host_with_vpn1();
    for state in ["building", "cleaning"] {
        host.write("/run/runns/vpn1.json", &record(state, "null"));
        let output = refused(&host, "alice", "vpn1", &["being", "hint: "]);
        assert!(output.stderr.contains("clean vpn1"), "{output}");
    }
    host.write(
        "/run/runns/vpn1.json",
        &record("built", r#"{"cookie":1,"inode":2,"proc_inode":3}"#),
    );
    refused(&host, "alice", "vpn1", &["another namespace"]);
    host.write("/run/runns/vpn1.json", "{ nonsense");
    refused(&host, "alice", "vpn1", &["/run/runns/vpn1.json"]);
    host.write("/run/runns/vpn1.json", &record("built", "null"));
    host.ok("chmod 666 /run/runns/vpn1.json");
    refused(&host, "alice", "vpn1", &["/run/runns/vpn1.json"]);
}

fn record(state: &str, identity: &str) -> String {
    format!(
        r#"{{"version":{VERSION},"state":"{state}","name":"vpn1","section":null,"interface":"vpn1","uplink":null,"resolve":null,"vpn":[],
            "access":{{"users":null,"groups":null}},"number":1,"identity":{identity}}}"#
    )
}
