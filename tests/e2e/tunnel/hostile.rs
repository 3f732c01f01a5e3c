//! A hostile server, and unauthorized callers of the hook.

use super::{FAR, Probes, Watch, host, ping};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot};

/// Options that a server can push, aimed at clients that paste them into commands and files.
const HOSTILE: &str = r#"
push "dhcp-option DNS $(touch /tmp/pwned)"
push "dhcp-option DNS 10.8.0.1;touch${IFS}/tmp/pwned"
push "dhcp-option DNS 127.0.0.1"
push "dhcp-option DNS 10.8.0.1"
push "dhcp-option DNS6 ::1"
push "dhcp-option DOMAIN `touch /tmp/pwned`"
push "dhcp-option DOMAIN-SEARCH ../../../etc/passwd"
push "dhcp-option DOMAIN good.example"
push "setenv-safe dev eth0"
push "setenv-safe LD_PRELOAD /tmp/evil.so"
push "route 0.0.0.0 0.0.0.0"
push "route 127.0.0.0 255.0.0.0"
push "route 192.0.2.0 255.255.255.0"
push "route 169.254.0.0 255.255.0.0"
push "route-ipv6 ::/0"
push "redirect-gateway def1 ipv6 block-local"
push "block-ipv6"
push "up /usr/bin/touch"
push "route-up /usr/bin/touch"
push "plugin /tmp/evil.so"
push "script-security 3"
push "dev tun77"
push "tun-mtu 100000"
keepalive 1 3
"#;

fn build(host: &Host, config: &str) {
    openvpn::configure_client(host, "work", 1194);
    host.configure(config);
    host.ok("runns-exec build -s work");
}

#[test]
fn a_hostile_server_gets_nothing_but_its_tunnel() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start_with(&host, 1194, 8, HOSTILE);
    let before = Snapshot::of(&host);
    for kill_switch in ["KillSwitch=yes\n", ""] {
        let network = host.ok("ip route; ip -6 route; ip rule; ip -br address show lo");
        let watch = Watch::start(&host);
        build(&host, &format!("[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"));
        let resolv = host.user("alice").ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
        assert_eq!(resolv, "nameserver 10.8.0.1\nsearch good.example");
        let now = host.ok("ip route | grep -v work; ip -6 route; ip rule; ip -br address show lo");
        assert_eq!(now, network, "the host's routes are its own");
        assert!(ping(&host, "work", FAR));
        if kill_switch.is_empty() {
            watch.finish();
        } else {
            let probes = Probes::start(&host, "work");
            probes.go_on();
            host.ok("runns-exec work -- ping -c1 -W1 127.0.0.1");
            host.ok("runns-exec clean work -f --kill");
            watch.assert_nothing();
        }
        host.run("runns-exec clean work -f --kill");
        host.ok("test ! -e /tmp/pwned");
        assert_eq!(host.ok("cat /etc/resolv.conf"), "nameserver 192.0.2.1");
        before.assert_same(&Snapshot::of(&host));
    }
}

/// `text` as one word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[test]
fn the_hook_takes_nothing_on_trust() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start_with(&host, 1194, 8, "push \"dhcp-option DNS 10.8.0.1\"\n");
    let before = Snapshot::of(&host);
    build(&host, "[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    let built = host.ok("find /run/runns /etc/netns -type f ! -name 0.json -exec sha256sum {} +; ip -br link; ip netns exec work ip -br link");
    const HOOK: &str = "/usr/local/libexec/runns-exec/runns-exec-root .tunnel-hook";
    // Root can pretend to be OpenVPN, which is recognized by the management socket on its command line.
    let as_openvpn = |line: &str| {
        format!("bash -c {} bash --management /run/runns/work.d/private/0.sock", quoted(&format!("{line}; exit $?")))
    };
    for words in [
        "",
        "up",
        "up work",
        "up work x",
        "up work -1",
        "up work 99999999999999999999",
        "up ../../etc 0",
        "up work/../x 0",
        "up other 0",
        "nonsense work 0",
        "route-up work 0",
        "route-up '' 0",
    ] {
        let line = format!("env dev=eth0/../x ifconfig_local=x {HOOK} {words}");
        for line in [as_openvpn(&line), line] {
            let output = host.run(&line);
            assert!(output.stdout.is_empty() && output.status < 126, "{words}: {output}");
            assert!(!output.stderr.contains("defect"), "{words}: {output}");
        }
    }
    let hostile = "dev=tun0 PATH=/tmp LD_PRELOAD=/tmp/evil.so foreign_option_1=\"$(printf 'dhcp-option DNS 10.8.0.66\\nnameserver 6.6.6.6')\" \
         foreign_option_2='dhcp-option DNS 6.6.6.6 6.6.6.6' foreign_option_3=\"$(printf 'dhcp-option DOMAIN \\377\\376')\" \
         dns_server_1_address_1='10.8.0.1; reboot' dns_search_domain_1='a b' signal='$(reboot)' route_network_1=0 \
         ifconfig_netmask=999.0.0.0 tun_mtu=-5 script_context=restart";
    host.ok(&as_openvpn(&format!("env {hostile} {HOOK} up work 0")));
    let resolv = host.user("alice").ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
    assert_eq!(resolv, "nameserver 10.8.0.1");
    let now = host.ok("find /run/runns /etc/netns -type f ! -name 0.json -exec sha256sum {} +; ip -br link; ip netns exec work ip -br link");
    assert_eq!(now, built);
    let state = host.ok("cat /run/runns/work.d/0.json");
    for (who, status) in [("", 1), ("unshare --user --map-root-user ", 1)] {
        host.run(&format!("{who}env dev=tun0 {HOOK} down work 0")).refused(status, &["handle an event of a tunnel"]);
        host.user("alice")
            .run(&format!("{who}env dev=tun0 {HOOK} down work 0"))
            .refused(status, &["handle an event of a tunnel"]);
    }
    host.run("runns-exec .tunnel-hook down work 0").refused(125, &[".tunnel-hook"]);
    host.run("unshare --user --map-root-user runns-exec .tunnel-hook up w 0").refused(125, &[".tunnel-hook"]);
    host.user("alice").run("dev=tun0 runns-exec .tunnel-hook down work 0").refused(125, &[".tunnel-hook"]);
    assert_eq!(host.ok("cat /run/runns/work.d/0.json"), state);
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
}
