//! A build that fails leaves the host as it was before that build, whatever earlier builds and
//! cleans have left (SPEC 5.1).

use crate::support::{Host, Snapshot};

/// The whole host, with what is recorded of it.
fn state(host: &Host) -> (Snapshot, String) {
    (
        Snapshot::of(host),
        host.run("cat /run/runns/.host; ls -d /run/nscd /run/wireguard /etc/netns")
            .stdout,
    )
}

/// A host with a section that fails when all is built.
fn host_with(options: &str) -> Host {
    let host = Host::new();
    host.write("/usr/local/sbin/up", "#!/bin/sh\nexit 3\n");
    host.write("/etc/dns.conf", "nameserver 192.0.2.53\n");
    host.ok("chmod 755 /usr/local/sbin/up");
    host.configure(&format!(
        "[work]\n{options}PostBuild=/usr/local/sbin/up\n[good]\n{options}"
    ));
    host
}

#[track_caller]
fn assert_restores(host: &Host) {
    let (before, recorded) = state(host);
    host.run("runns-exec build -s work")
        .refused(1, &["exit status 3"]);
    let (after, now) = state(host);
    before.assert_same(&after);
    assert_eq!(recorded, now);
}

#[test]
fn forwarding_stays_as_it_was() {
    let host = host_with("Resolve=/etc/dns.conf\n");
    assert_restores(&host);
    // Left on by a clean, and switched off since.
    host.ok("runns-exec build -s good && runns-exec clean -s good");
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    assert_restores(&host);
    host.ok("sysctl -qw net.ipv4.ip_forward=0");
    assert_restores(&host);
    // Beside one that was built, that has no file in /etc.
    host.ok("runns-exec build -n other");
    assert_restores(&host);
    host.ok("sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.eth0.forwarding=1");
    assert_restores(&host);
    host.ok("runns-exec clean other -f");
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "0");
}

/// clean finds it by the record.
#[test]
fn what_a_build_that_fails_cannot_remove_is_recorded() {
    let host = host_with("Resolve=/etc/dns.conf\n");
    // Its directory cannot be removed while something is mounted there.
    host.write(
        "/usr/local/sbin/up",
        "#!/bin/sh\nnsenter --mount=/proc/$PPID/ns/mnt mount --bind /mnt /etc/netns/work\nexit 3\n",
    );
    host.ok("chmod 755 /usr/local/sbin/up");
    let failed = host.run("runns-exec build -s work");
    assert!(
        failed.status == 1
            && failed.stderr.contains("cannot remove /etc/netns/work: ")
            && failed
                .stderr
                .contains("hint: to remove what is left: sudo runns-exec clean work\n"),
        "{failed}"
    );
    host.run("runns-exec build -s work")
        .refused(1, &["sudo runns-exec clean work"]);
    host.ok("umount /etc/netns/work && runns-exec clean work");
    let shown = host.run("runns-exec status work").stdout;
    assert!(shown.contains("not built"), "{shown}");
}

#[test]
fn so_does_that_of_ipv6() {
    let host = host_with("IPv6=yes\n");
    assert_restores(&host);
    // A bridge relies on it, which clean leaves it on for, and is gone since.
    host.ok("runns-exec build -s good && ip link add br0 type bridge && runns-exec clean -s good && ip link del br0");
    assert_eq!(host.ok("sysctl -n net.ipv6.conf.all.forwarding"), "1");
    assert_restores(&host);
    host.ok("runns-exec build -s good && sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv6.conf.eth0.forwarding=1");
    assert_restores(&host);
}

#[test]
fn so_does_the_reverse_path_filter() {
    let host = host_with("InterfaceOut=eth0\n");
    host.ok("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
    assert_restores(&host);
    host.ok("runns-exec build -s good");
    assert_eq!(host.ok("sysctl -n net.ipv4.conf.eth0.rp_filter"), "2");
    assert_restores(&host);
    host.ok("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
    assert_restores(&host);
    host.ok("runns-exec clean -s good -f");
    assert_eq!(host.ok("sysctl -n net.ipv4.conf.eth0.rp_filter"), "1");
}

/// Whichever of the times that it is written.
#[test]
fn a_record_that_cannot_be_saved() {
    let host = host_with("Resolve=/etc/dns.conf\n");
    host.ok("runns-exec build -s good && runns-exec clean -s good -f");
    let before = Snapshot::of(&host);
    let mut failures = 0;
    loop {
        let inject = format!("inject=rename:error=ENOSPC:when={}", failures + 1);
        let place = "-P /run/runns/good.json -P /run/runns/.good.json~ -P /run/runns/good.new";
        let built = host.run(&format!(
            "strace -qq -o /dev/null {place} -e {inject} runns-exec build -s good"
        ));
        if built.status == 0 {
            break;
        }
        built.refused(1, &["/run/runns/good.json", "No space left"]);
        before.assert_same(&Snapshot::of(&host));
        failures += 1;
    }
    assert!(failures > 2, "{failures}");
}
