//! What build creates, namely names, subnets and addresses, and what it refuses.

use crate::support::{Host, Snapshot};

/// The IPv4 addresses of the host and of the namespace, as `ip -br` prints them.
fn addresses(host: &Host, name: &str, interface: &str) -> (String, String) {
    let format = "| awk '{print $1, $2, $3}' | sed 's/@[^ ]*//'";
    (
        host.ok(&format!("ip -4 -br address show dev {interface} {format}")),
        host.ok(&format!(
            "ip -n {name} -4 -br address show dev eth0 {format}"
        )),
    )
}

#[test]
fn names_count_up_and_addresses_follow() {
    let host = Host::new();
    let _web = host.internet.net.serve("0.0.0.0:80", "seen");
    for number in [1, 2] {
        let name = format!("vpn{number}");
        let said = host.ok("runns-exec build");
        assert!(
            said.contains(&name) && said.contains(&format!("172.24.{number}.")),
            "{said}"
        );
        let expected = (
            format!("{name} UP 172.24.{number}.1/24"),
            format!("eth0 UP 172.24.{number}.2/24"),
        );
        assert_eq!(addresses(&host, &name, &name), expected);
        assert_eq!(
            host.ok(&format!(
                "ip -n {name} route show default | cut -d' ' -f1-5"
            )),
            format!("default via 172.24.{number}.1 dev eth0")
        );
        assert!(
            host.ok(&format!("ip -n {name} -br link show lo"))
                .contains("LOOPBACK,UP")
        );
        let curl = format!("runns-exec {name} -- curl -sS --max-time 5 http://192.0.2.1/");
        assert_eq!(
            host.user("alice").ok(&curl),
            "seen 192.0.2.2",
            "NAT: the source is the host's address"
        );
    }
    host.ok("runns-exec build -n vpn7");
    assert!(host.ok("runns-exec build").contains("vpn8"));
    assert_eq!(
        host.ok("ip netns list | cut -d' ' -f1 | sort"),
        "vpn1\nvpn2\nvpn7\nvpn8"
    );
    // A namespace created with ip netns counts as well.
    host.ok("ip netns add vpn20");
    assert!(host.ok("runns-exec build").contains("vpn21"));
    host.ok("runns-exec build -n other");
    assert_eq!(
        addresses(&host, "other", "other").1,
        "eth0 UP 172.24.0.2/24"
    );
    host.ok("runns-exec build -n third");
    assert_eq!(
        addresses(&host, "third", "third").1,
        "eth0 UP 172.24.3.2/24",
        "the lowest free number"
    );
    host.ok("for name in vpn1 vpn2 vpn7 vpn8 vpn21 other third; do runns-exec clean $name || exit 1; done");
}

#[test]
fn subnets_of_the_host_are_never_used() {
    let host = Host::new();
    // An address, a route in the main table and one in another table; and a default route in two
    // halves, which makes no subnet taken.
    host.ok("ip address add 172.24.1.77/32 dev eth0 && ip route add 172.24.2.0/25 via 192.0.2.1 && \
             ip route add blackhole 172.24.3.128/25 table 77 && ip route add 0.0.0.0/1 via 192.0.2.1 && \
             ip link add vpn4 type veth peer name vpn4peer");
    let said = host.ok("runns-exec build");
    assert!(
        said.contains("vpn5") && said.contains("172.24.5."),
        "name and subnet stay together: {said}"
    );
    host.ok("runns-exec build -n vpn2");
    assert_eq!(
        addresses(&host, "vpn2", "vpn2").1,
        "eth0 UP 172.24.0.2/24",
        "asked for by name: the next free subnet"
    );
    host.run("runns-exec build -n vpn4").refused(1, &["vpn4"]);
    // The whole /12 except for its end.
    host.ok(
        "ip route add unreachable 172.24.0.0/14 && ip route add unreachable 172.28.0.0/15 && \
             ip route add unreachable 172.30.0.0/16 && ip route add unreachable 172.31.0.0/17 ",
    );
    host.ok("runns-exec build -n far");
    assert_eq!(addresses(&host, "far", "far").1, "eth0 UP 172.31.128.2/24");
    host.ok("ip route add unreachable 172.31.128.0/17");
    host.run("runns-exec build -n none").refused(1, &["subnet"]);
    host.run("runns-exec build").refused(1, &[]);
    host.run("runns-exec build -n vpn5000").refused(1, &[]);
}

#[test]
fn interface_names() {
    let host = Host::new();
    let long = "a-namespace-with-quite-a-long-name";
    host.ok(&format!("runns-exec build -n {long}"));
    let interface =
        host.ok("ip -o link show type veth | sed -E 's/^[0-9]+: ([^@:]+).*/\\1/' | grep -v eth0");
    assert!(
        interface.len() <= 15 && interface.starts_with("a-"),
        "{interface}"
    );
    host.ok(&format!(
        "runns-exec clean {long} && runns-exec build -n {long} && ip link show {interface}"
    ));
    host.ok("runns-exec build -n x -i inside0");
    assert_eq!(
        addresses(&host, "x", "inside0").0,
        "inside0 UP 172.24.1.1/24"
    );
    for bad in [
        "lo",
        "all",
        "default",
        "a+",
        "%d",
        "'a b'",
        "abcdefghijklmnop",
        "''",
    ] {
        host.run(&format!("runns-exec build -n y -i {bad}"))
            .refused(2, &["interface"]);
    }
    host.run("runns-exec build -n y -i inside0")
        .refused(1, &["inside0"]);
    host.run("runns-exec build -n y -o nosuch0")
        .refused(1, &["nosuch0"]);
}

#[test]
fn sysctls_inside_are_the_hosts_and_ipv6_is_off_on_the_pair() {
    let host = Host::new();
    host.ok("sysctl -qw net.ipv4.ping_group_range='5 4242' net.ipv4.ip_unprivileged_port_start=77");
    host.ok("runns-exec build");
    let show = "sysctl -n net.ipv4.ping_group_range net.ipv4.ip_unprivileged_port_start";
    assert_eq!(
        host.ok(&format!("runns-exec vpn1 -- {show}")),
        "5\t4242\n77"
    );
    assert_eq!(host.ok("sysctl -n net.ipv4.ip_forward"), "1");
    assert_eq!(host.ok("sysctl -n net.ipv6.conf.vpn1.disable_ipv6"), "1");
    assert_eq!(
        host.ok("runns-exec vpn1 -- sysctl -n net.ipv6.conf.eth0.disable_ipv6"),
        "1"
    );
    assert_eq!(
        host.ok("ip -6 address show dev vpn1; runns-exec vpn1 -- ip -6 address show dev eth0"),
        ""
    );
}

#[test]
fn dry_run_prints_the_same_and_changes_nothing() {
    let host = Host::new();
    host.write("/etc/dns.conf", "nameserver 10.9.9.9\n");
    host.configure("[work]\nResolve=/etc/dns.conf\nInterfaceIn=workd\n");
    let before = Snapshot::of(&host);
    let dry = host.ok("runns-exec build -s work --dry-run");
    for part in ["work", "workd", "172.24.0.", "/etc/dns.conf"] {
        assert!(dry.contains(part), "{dry}");
    }
    before.assert_same(&Snapshot::of(&host));
    host.run("runns-exec build --dry-run -i eth0")
        .refused(1, &["eth0"]);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn building_again_and_building_with_other_settings() {
    let host = Host::new();
    host.ok("runns-exec build -n a");
    let before = Snapshot::of(&host);
    let again = host.run("runns-exec build -n a");
    assert!(
        again.status == 0 && again.stdout.contains("already"),
        "{again}"
    );
    host.run("runns-exec build -n a -i other")
        .refused(1, &["different settings", "clean"]);
    host.ok("ip netns add b");
    host.run("runns-exec build -n b").refused(1, &["b"]);
    host.ok("ip netns delete b");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_word_is_a_section_or_what_was_built() {
    let host = Host::new();
    host.configure("[work]\nNetworkNamespace=vpnWork\n[my mail]\nNetworkNamespace=mail\n");
    host.write("/etc/vpn.resolv", "nameserver 198.51.100.53\n");
    let section = |name: &str| {
        host.ok(&format!(
            "sed -n 's/.*\"section\": *\"\\([^\"]*\\)\".*/\\1/p' /run/runns/{name}.json"
        ))
    };
    for word in ["WORK", "vpnWork"] {
        host.ok(&format!("runns-exec build {word} --dry-run"));
        host.ok(&format!("runns-exec build {word}"));
        assert_eq!(section("vpnWork"), "work");
        for again in ["work", "vpnWork"] {
            let said = host.ok(&format!(
                "ip link set vpnWork down; runns-exec build {again}"
            ));
            assert!(said.contains("vpnWork repaired"), "{said}");
        }
        host.ok("runns-exec clean vpnWork");
    }
    host.ok("runns-exec build 'My mail' && runns-exec build -s work -n other");
    assert_eq!(
        (section("mail"), section("other")),
        ("my mail".into(), "work".into())
    );
    host.ok("ip link set other down; runns-exec build other && runns-exec status other mail");
    // What was built without a section has all that the command line said then.
    host.ok("runns-exec build -n by-hand -i byhand0 -o eth0 -r /etc/vpn.resolv --publish 8080:80");
    host.ok("ip link set byhand0 down");
    let said = host.ok("runns-exec build by-hand");
    assert!(said.contains("by-hand repaired"), "{said}");
    host.run("runns-exec build by-hand -i byhand1")
        .refused(1, &["different settings", "byhand1"]);

    let before = Snapshot::of(&host);
    for (word, near) in [
        ("wrok", "did you mean work?"),
        ("'my mial'", "did you mean my mail?"),
        ("vpnWrok", "did you mean vpnWork?"),
        ("by-hnad", "did you mean by-hand?"),
        ("something", "sudo runns-exec build -n something"),
        ("../x", "neither"),
    ] {
        host.run(&format!("runns-exec build {word}"))
            .refused(1, &["neither", near]);
    }
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_word_that_is_a_namespace_and_the_section_of_another_is_refused() {
    let host = Host::new();
    host.configure("[a]\nNetworkNamespace=b\n[b]\nNetworkNamespace=c\n");
    host.ok("runns-exec build -s a && runns-exec build -s b");
    for (verb, hint) in [
        (
            "build",
            "hint: for the namespace: sudo runns-exec build -s a; for the section: sudo runns-exec build -s b\n",
        ),
        (
            "clean",
            "hint: for the namespace: sudo runns-exec clean -n b; for the section: sudo runns-exec clean -s b\n",
        ),
    ] {
        host.run(&format!("runns-exec {verb} b"))
            .refused(1, &["'b'", "section of namespace c", hint]);
    }
    // Options always mean what they say, and status shows both.
    assert_eq!(host.ok("runns-exec status b").lines().count(), 3);
    host.ok("runns-exec build -s b && runns-exec clean -n b && runns-exec clean -s b");
}

#[test]
fn a_missing_file_is_named_with_its_option() {
    let host = Host::new();
    for option in ["vpn", "WireGuard", "Resolve", "PostBuild", "PreClean"] {
        host.configure(&format!("[w]\n{option}=/etc/nosuch\n"));
        host.run("runns-exec build w").refused(
            1,
            &[
                "cannot open /etc/nosuch: No such file or directory",
                &format!("([w] {option}=)"),
            ],
        );
    }
}

#[test]
fn errors_in_what_is_asked_for_change_nothing() {
    let host = Host::new();
    host.ok("ip netns add unrelated");
    let before = Snapshot::of(&host);
    for (config, line, status, parts) in [
        (
            "[w]\nInterfaceInn=x\n",
            "build -s w",
            1,
            ["[w]", "InterfaceIn?"],
        ),
        ("[w]\n", "build -s ww", 1, ["[ww]", "[w]"]),
        (
            "[w]\nInterfaceOut=none0\n",
            "build -s w",
            1,
            ["none0", "cannot"],
        ),
        (
            "[w]\nResolve=/etc/no-such-file\n",
            "build -s w",
            1,
            ["/etc/no-such-file", "cannot"],
        ),
        (
            "[w]\nvpn=/etc/no-such-file\n",
            "build -s w",
            1,
            ["/etc/no-such-file", "cannot"],
        ),
        ("[w]\n", "build -r /no/such", 1, ["/no/such", "cannot"]),
        (
            "[w]\n",
            "build --config /no/such -s w",
            1,
            ["/no/such", "cannot"],
        ),
        ("[w]\n", "build -n lo/x", 2, ["lo/x", "name"]),
        (
            "[w]\n",
            "clean -n unrelated",
            1,
            ["unrelated", "did not build"],
        ),
        ("[w]\n", "clean -s ww", 1, ["[ww]", "[w]"]),
    ] {
        host.configure(config);
        host.run(&format!("runns-exec {line}"))
            .refused(status, &parts);
    }
    host.install();
    host.ok("rm -f /etc/runns.conf; cp /runns-source/install/runns.conf /etc/runns.conf 2>/dev/null; true");
    let same = |text: &str| {
        text.lines()
            .filter(|line| !line.contains("runns.conf"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(same(Snapshot::of(&host).text()), same(before.text()));
}

#[test]
fn only_on_the_host_itself() {
    let host = Host::new();
    host.ok("ip netns add other");
    host.run("ip netns exec other runns-exec build")
        .refused(1, &["namespace"]);
    host.run("unshare -m runns-exec build")
        .refused(1, &["mount namespace"]);
    host.run("unshare -Ur /usr/local/bin/runns-exec build")
        .refused(1, &["user namespace"]);
    host.user("alice")
        .run("runns-exec build")
        .refused(1, &["hint: sudo"]);
}

#[test]
fn a_hostile_environment_changes_nothing() {
    let host = Host::new();
    host.ok("mkdir /tmp/bin && for tool in ip iptables iptables-save iptables-restore nft openvpn sysctl; do \
             printf '#!/bin/sh\\ntouch /tmp/hijacked\\n' >/tmp/bin/$tool; chmod 755 /tmp/bin/$tool; done");
    let root = host
        .root()
        .env("IPTABLES_LIB_DIR", "/tmp")
        .env("XTABLES_LIBDIR", "/tmp")
        .env("LD_LIBRARY_PATH", "/tmp");
    root.ok("umask 0777; PATH=/tmp/bin:$PATH runns-exec build -n a");
    assert_eq!(
        host.ok("stat -c '%U %a' /run/runns /run/netns /run/runns/a.json"),
        "root 755\nroot 755\nroot 644"
    );
    root.ok("umask 0777; PATH=/tmp/bin:$PATH runns-exec clean a");
    assert_eq!(host.run("test -e /tmp/hijacked").status, 1);
}

/// Most of a build's time is that of the programs that it executes. It loads its two tables; to
/// find out that a new namespace has none, it executes nothing.
#[test]
fn a_build_does_not_list_the_tables_of_a_new_namespace() {
    let host = Host::new();
    host.configure("[work]\nDNS=192.0.2.1\n");
    host.ok("strace -f -qq -e trace=execve -o /tmp/trace runns-exec build -s work");
    let executed = host.ok("grep 'execve(.*/nft\"' /tmp/trace | grep -v ENOENT");
    // Whether the test packet got through is asked until it has.
    let others = executed.lines().filter(|line| !line.contains("\"passed\""));
    let loading = others.clone().filter(|line| line.contains("\"-f\""));
    assert_eq!((others.count(), loading.count()), (2, 2), "{executed}");
    host.ok("runns-exec status work");
}

/// On booted systems, tests/systems/scenarios/units.sh tests the rest.
#[test]
fn at_boot_needs_a_section_and_systemd() {
    let host = Host::new();
    host.configure("[work]\n[my site]\nNetworkNamespace=site\n");
    host.ok("runns-exec build -n plain");
    let before = Snapshot::of(&host);
    for line in [
        "--at-boot",
        "plain --at-boot",
        "-n other --at-boot",
        "work --at-boot -o up0",
        "work --at-boot --authenticated",
        "--all --at-boot",
        "-s work --config /etc/runns.conf --at-boot",
        "--at-boot --dry-run",
    ] {
        host.run(&format!("runns-exec build {line}"))
            .refused(2, &["at-boot"]);
    }
    for line in ["work", "-s work", "-s work --dry-run"] {
        host.run(&format!("runns-exec build {line} --at-boot"))
            .refused(1, &["at each boot", "systemd is not running"]);
    }
    host.ok("mkdir -p /run/systemd/system");
    host.run("runns-exec build -s 'my site' --at-boot")
        .refused(1, &["[my site]", "its name"]);
    host.ok("rmdir /run/systemd/system && rmdir /run/systemd");
    before.assert_same(&Snapshot::of(&host));
    host.ok("runns-exec clean plain");
}
