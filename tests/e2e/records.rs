//! Records that are damaged, of another version, or of a build that was interrupted; clocks that
//! are wrong.

use crate::support::{Host, Snapshot, openvpn};

const PATH: &str = "/run/runns/work.json";

fn built(config: &str) -> Host {
    let host = Host::new();
    host.configure(&format!("[work]\n{config}"));
    host.ok("runns-exec build -n other && runns-exec build -s work");
    host
}

/// What spoils a record.
const SPOILED: [&str; 7] = [
    "sed -i 's/\"version\": 4/\"version\": 3/' PATH",
    "sed -i 's/\"version\": 4/\"version\": 5/' PATH",
    "truncate -s 100 PATH",
    ">PATH",
    "sed -i 's/\"state\"/\"condition\"/' PATH",
    "echo '{\"version\": 7, \"namespace\": {\"name\": \"work\"}}' >PATH",
    "head -c 3000 /dev/urandom >PATH",
];

#[test]
fn a_record_that_cannot_be_read_is_shown_and_cleaned() {
    let host = Host::new();
    host.write("/etc/vpn.resolv", "nameserver 198.51.100.53\n");
    host.configure("[work]\nInterfaceIn=w0\nInterfaceOut=eth0\nResolve=/etc/vpn.resolv\n");
    host.ok("runns-exec build -n other -r /etc/vpn.resolv");
    let before = Snapshot::of(&host);
    for spoil in SPOILED {
        host.ok("runns-exec build -s work");
        let pid = host.user("alice").ok("runns-exec -d work -- sleep 1000");
        host.ok(&spoil.replace("PATH", PATH));
        for runner in [host.root(), host.user("alice")] {
            let shown = runner.run("runns-exec status");
            assert_eq!(shown.status, 1, "{shown}");
            assert!(shown.stdout.contains("work       down "), "{shown}");
            assert!(
                shown
                    .stdout
                    .contains("  record: cannot read /run/runns/work.json"),
                "{shown}"
            );
            assert!(
                shown
                    .stdout
                    .contains("sudo runns-exec clean work, then build it again"),
                "{shown}"
            );
            assert!(shown.stdout.contains("other      ok "), "{shown}");
        }
        let json = host.run("runns-exec status work --json").stdout;
        assert!(
            json.contains(r#""namespace":"work","state":"down","address":null"#),
            "{json}"
        );
        host.run("runns-exec build -s work")
            .refused(1, &[PATH, "hint: sudo runns-exec clean work"]);
        host.run("runns-exec build -s work --dry-run")
            .refused(1, &[PATH]);
        host.user("alice")
            .run("runns-exec work -- true")
            .refused(125, &[PATH]);
        // Its processes are asked about as ever.
        let refused = host.run("runns-exec clean work");
        assert!(
            refused.status == 1 && refused.stderr.contains(&format!("{pid} (sleep 1000)")),
            "{spoil}: {refused}"
        );
        let cleaned = host.run("runns-exec clean work --kill");
        assert!(
            cleaned.status == 0 && cleaned.stderr.contains("warning: cannot read"),
            "{spoil}: {cleaned}"
        );
        host.ok("runns-exec status other");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn a_record_that_cannot_be_read_of_a_namespace_that_is_half_gone() {
    let host = built("DNS=198.51.100.53\n");
    let before = Snapshot::of(&host);
    for damage in [
        "umount /run/netns/work",
        "ip netns delete work",
        "ip link delete work",
        "nft flush ruleset",
    ] {
        host.ok(&format!("{damage}; >{PATH}; runns-exec clean work --kill"));
        assert!(
            !host
                .ok("ls /run/netns /run/runns /etc/netns 2>/dev/null; ip -br link")
                .contains("work"),
            "{damage}"
        );
        host.ok("runns-exec build -s work");
    }
    host.ok("runns-exec clean other; runns-exec build -n other");
    host.ok("runns-exec status work other");
    drop(before);
}

#[test]
fn a_record_that_cannot_be_read_does_not_make_the_host_a_namespace() {
    let host = built("");
    let links = host.ok("ip -br link | grep -v work");
    host.ok(&format!(
        "ip netns delete work; touch /run/netns/work; mount --bind /proc/1/ns/net /run/netns/work; >{PATH}"
    ));
    host.ok("runns-exec clean work --kill");
    assert_eq!(host.ok("ip -br link"), links);
    host.ok("umount /run/netns/work && rm /run/netns/work");
    host.ok("runns-exec status other");
}

/// Under the kill switch there is no veth pair that would say which number it has.
#[test]
fn a_record_that_cannot_be_read_costs_no_other_namespace_its_tunnel() {
    let host = Host::new();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    let section = "KillSwitch=yes\nvpn=/etc/openvpn/work.conf\n";
    host.configure(&format!("[work]\n{section}[vpn2047]\n{section}"));
    for (name, reservation) in [("work", "kept"), ("work", "gone")] {
        host.run("runns-exec build -s vpn2047 --no-wait");
        host.ok(&format!("runns-exec build -s {name} --no-wait"));
        let other = host.ok("pgrep -u 98288");
        host.ok("pgrep -u 65536");
        host.ok(&format!(">{PATH}"));
        if reservation == "gone" {
            host.ok("pkill -u 65536; rm -f /run/runns/*-work");
        }
        let said = host.ok("runns-exec clean work --kill");
        assert!(!said.contains("172.31.255."), "{said}");
        assert_eq!(host.ok("pgrep -u 98288"), other, "{reservation}");
        assert_eq!(host.run("pgrep -u 65536").stdout, "", "{reservation}");
    }
}

#[test]
fn fields_that_are_optional_may_be_missing() {
    let host = built("");
    host.ok(&format!(
        "python3 -c 'import json; r = json.load(open(\"{PATH}\")); \
         [r.pop(key, None) for key in (\"inside\", \"ipv6\", \"userspace\", \"wireguard\", \"daemons\", \"dns_lock\")]; \
         json.dump(r, open(\"{PATH}\", \"w\"))'"
    ));
    host.ok("runns-exec status work");
    assert_eq!(
        host.ok("runns-exec build -s work"),
        "work is built already, as asked"
    );
    host.ok("runns-exec clean work");
}

#[test]
fn what_is_not_finished_is_shown_as_such() {
    let host = built("");
    for (state, words) in [
        ("building", "build: not finished"),
        ("cleaning", "clean: not finished"),
    ] {
        host.ok(&format!(
            "sed -i 's/\"state\": *\"[a-z]*\"/\"state\": \"{state}\"/' {PATH}"
        ));
        for runner in [host.root(), host.user("alice")] {
            let shown = runner.run("runns-exec status work");
            assert!(
                shown.status == 1
                    && shown.stdout.contains(words)
                    && shown.stdout.contains(" down "),
                "{shown}"
            );
            assert!(
                shown.stdout.contains("sudo runns-exec clean work"),
                "{shown}"
            );
        }
        host.run("runns-exec build -s work")
            .refused(1, &["interrupted", "clean work"]);
    }
    host.ok("runns-exec clean work && runns-exec status");
}

/// The machine's clock cannot be set for a test alone; what would depend on it are times that were
/// written down, and those of files.
#[test]
fn times_in_the_future_change_nothing() {
    let host = built("DNS=198.51.100.53\n");
    host.ok(
        "touch -d 2099-01-01 /run/runns/*.json /etc/netns/work/* && touch -d 1970-01-01 /run/netns",
    );
    host.ok("runns-exec status");
    assert_eq!(
        host.ok("runns-exec build -s work"),
        "work is built already, as asked"
    );
    host.ok(&format!("! grep -q 'since\\|time\"' {PATH}"));
    host.ok("runns-exec clean work");
}
