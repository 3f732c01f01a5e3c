//! Hosts on which something that a namespace needs is not there, or is taken: it is told.

use crate::support::{Host, Snapshot};

#[test]
fn a_route_that_takes_the_whole_range_is_named() {
    let host = Host::new();
    host.ok("ip route add 172.16.0.0/12 via 192.0.2.1");
    host.configure("[plain]\n\n[small]\nSubnet=10.201.7.0/24\n");
    let before = Snapshot::of(&host);
    for build in ["build -s plain", "build", "build -n vpn7"] {
        host.run(&format!("runns-exec {build}"))
            .refused(1, &["172.16.0.0/12", "Subnet="]);
    }
    // Many that take it together, as Docker's.
    host.ok("ip route del 172.16.0.0/12; for i in $(seq 24 31); do ip route add 172.$i.0.0/16 via 192.0.2.1; done");
    host.run("runns-exec build -s plain")
        .refused(1, &["172.24.0.0/16", "Subnet="]);
    host.ok("for i in $(seq 24 31); do ip route del 172.$i.0.0/16; done; ip route add 172.16.0.0/12 via 192.0.2.1");
    // One with another subnet, and one without a veth pair, need none of it.
    host.ok("runns-exec build -s small && runns-exec status small");
    host.ok("runns-exec clean small -f");
    host.ok("ip route del 172.16.0.0/12; ip route add 172.16.0.0/12 via 192.0.2.1");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_resolver_that_programs_inside_cannot_reach_is_told() {
    let host = Host::new();
    for (servers, how) in [
        ("nameserver 127.0.0.1\nnameserver ::1\n", "loopback"),
        ("nameserver fe80::1%eth0\n", "link"),
        ("nameserver 2001:db8::53\n", "IPv6"),
    ] {
        host.write("/etc/resolv.conf", servers);
        let built = host.run("runns-exec build -n w");
        assert_eq!(built.status, 0, "{built}");
        assert!(
            built.stderr.contains(how) && built.stderr.contains("DNS="),
            "{built}"
        );
        let status = host.run("runns-exec status w");
        assert_eq!(status.status, 1, "{status}");
        assert!(
            status.stdout.contains("down") && status.stdout.contains(how),
            "{status}"
        );
        // It is the host's to change; a build repairs all else.
        host.ok("ip netns exec w ip link set eth0 down && runns-exec build -n w");
        host.ok("ip netns exec w ip -o link show eth0 | grep -w UP");
        host.ok("runns-exec clean w");
    }
    // A resolver inside answers at the loopback address.
    host.write("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    host.ok("runns-exec build -n w");
    let _inside =
        host.spawn("exec ip netns exec w socat UDP4-RECVFROM:53,bind=127.0.0.1,fork PIPE");
    crate::support::wait_until("a resolver listens inside", || {
        (host.run("runns-exec status w").status == 0).then_some(())
    });
    // What the section names leads somewhere.
    host.ok("runns-exec clean w --kill");
    host.configure("[w]\nDNS=192.0.2.1\n");
    host.ok("runns-exec build -s w && runns-exec status w");
    host.write(
        "/etc/zoned",
        "nameserver fe80::1%up0\nnameserver 192.0.2.1\n",
    );
    let zoned = host.run("runns-exec build -n v -r /etc/zoned");
    assert!(
        zoned.status == 0 && zoned.stderr.contains("fe80::1%up0"),
        "{zoned}"
    );
}

#[test]
fn a_host_without_ipv4_is_told() {
    let host = Host::new();
    host.ok("ip route del default && ip -6 address add 2001:db8::2/64 dev eth0 && ip -6 route add default via 2001:db8::1");
    host.configure("[four]\n\n[six]\nIPv6=yes\nDNS=2001:db8::1\n");
    let built = host.run("runns-exec build -s four");
    assert!(
        built.status == 0 && built.stderr.contains("no route"),
        "{built}"
    );
    let status = host.run("runns-exec status four");
    assert_eq!(status.status, 1, "{status}");
    assert!(
        status.stdout.contains("IPv4") && status.stdout.contains("IPv6=yes"),
        "{status}"
    );
    host.ok("runns-exec build -s six && runns-exec status six");
}

#[test]
fn a_resolver_that_is_silent_is_no_leak() {
    let host = Host::new();
    host.configure("[w]\nDNS=192.0.2.200\n");
    host.ok("runns-exec build -s w");
    let check = host.user("alice").run("runns-exec check w");
    assert_eq!(check.status, 1, "{check}");
    assert!(
        check.stdout.contains("192.0.2.200 does not answer"),
        "{check}"
    );
    assert!(
        !check.stderr.contains("it leaks") && check.stderr.contains("not resolved"),
        "{check}"
    );
}

#[test]
fn directories_that_a_group_shares_stay_as_they_are() {
    let host = Host::new();
    // Debian's /usr/local, and the store of Nix.
    host.ok("chgrp staff /usr/local && chmod 2775 /usr/local && mkdir -p /nix/store/x && chmod 1775 /nix/store && \
         echo client >/nix/store/x/a.ovpn");
    let refused = host
        .run("runns-exec build -n w")
        .refused(1, &["/usr/local", "mode 2775", "PREFIX="]);
    assert!(!refused.stderr.contains("chmod"), "{refused}");
    let installed = host
        .install_environment()
        .run("/runns-source/install/install.sh");
    assert!(
        installed.status == 1
            && installed.stderr.contains("/usr/local")
            && installed.stderr.contains("PREFIX="),
        "{installed}"
    );
    host.install_environment()
        .ok("PREFIX=/opt/runns-exec /runns-source/install/install.sh");
    host.configure("[w]\nvpn=/nix/store/x/a.ovpn\n");
    let refused = host
        .run("/opt/runns-exec/bin/runns-exec build -s w")
        .refused(1, &["/nix/store", "mode 1775", "runns-exec import"]);
    assert!(!refused.stderr.contains("chmod"), "{refused}");
}

#[test]
fn the_hint_for_a_symbolic_link_binds_what_it_leads_to() {
    let host = Host::new();
    host.write("/etc/runns.conf", "AllowUnmanaged=yes\n");
    let pid = host.ok("unshare -n sleep 1000 >/dev/null 2>&1 & echo $!");
    crate::support::wait_until("another namespace", || {
        (host.ok(&format!("readlink /proc/{pid}/ns/net")) != host.ok("readlink /proc/1/ns/net"))
            .then_some(())
    });
    host.ok(&format!(
        "mkdir -p /run/netns && ln -s /proc/{pid}/ns/net /run/netns/other"
    ));
    let alice = host.user("alice");
    let refused = alice
        .run("runns-exec other -- true")
        .refused(125, &["symbolic link", "mount --bind"]);
    let command = refused
        .stderr
        .lines()
        .nth(1)
        .and_then(|hint| hint.split_once("sudo "))
        .expect("a command")
        .1
        .to_string();
    host.ok(&command);
    let inside = alice.ok("runns-exec other -- readlink /proc/self/ns/net");
    assert_eq!(inside, host.ok(&format!("readlink /proc/{pid}/ns/net")));
}
