//! OpenVPN: build ends with a working tunnel or a clear reason; what the server pushes is followed.

use super::challenge::TYPIST;
use super::{FAR, daemons, host, start_resolver, tunnel_field, wait_for_ping};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot, wait_until};

const PUSH: &str = "push \"redirect-gateway def1\"\npush \"dhcp-option DNS 10.8.0.1\"\n\
                    push \"dhcp-option DOMAIN example.org\"\nkeepalive 1 3\n";

fn host_with_server(more: &str) -> (Host, OpenVpnServer) {
    let host = host();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, more);
    openvpn::configure_client(&host, "work", 1194);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    (host, server)
}

fn append(host: &Host, text: &str) {
    host.root()
        .run_with("cat >>/etc/openvpn/work.conf", text.as_bytes())
        .ok();
}

/// A line of the namespace's resolv.conf that tells something.
fn resolv_conf(host: &Host) -> String {
    host.user("alice")
        .ok("runns-exec work -- grep -v '^#' /etc/resolv.conf")
}

#[test]
fn build_waits_and_pushed_dns_is_used_and_followed() {
    let (host, server) = host_with_server(PUSH);
    let _resolver = start_resolver(&host, "10.8.0.1", "198.51.100.7");
    append(
        &host,
        "up \"/usr/bin/touch /etc/pwned\"\ndown \"/usr/bin/touch /etc/pwned\"\nscript-security 2\n\
                   route-up \"/usr/bin/touch /etc/pwned\"\nroute-pre-down \"/usr/bin/touch /etc/pwned\"\n\
                   user nobody\ngroup nogroup\npersist-tun\n",
    );
    let before = Snapshot::of(&host);
    let made = host.run("runns-exec build -s work");
    assert_eq!(made.status, 0, "{made}");
    assert!(
        made.stderr
            .contains("ignoring up, down, route-up, route-pre-down"),
        "{made}"
    );
    // At once, without waiting for anything.
    host.user("alice")
        .ok(&format!("runns-exec work -- ping -c1 -W5 {FAR}"));
    assert_eq!(
        resolv_conf(&host),
        "nameserver 10.8.0.1\nsearch example.org"
    );
    assert!(
        host.user("alice")
            .ok("runns-exec work -- getent hosts any.example")
            .contains("198.51.100.7")
    );
    assert_eq!(
        host.ok("cat /etc/resolv.conf"),
        "nameserver 192.0.2.1",
        "the host's own stays"
    );
    for user in ["root", "alice"] {
        assert_eq!(tunnel_field(&host, user, "work", "up"), "True");
        let runner = if user == "root" {
            host.root()
        } else {
            host.user(user)
        };
        let line = runner.ok("runns-exec status work");
        assert!(
            line.contains("  work.conf up  10.8.0.1 (locked)  "),
            "{line}"
        );
        assert!(
            runner.ok("runns-exec status --json").contains(
                r#""resolver":{"from":"the tunnel","servers":["10.8.0.1"],"locked":true}"#
            )
        );
    }

    // The server comes back and names another resolver.
    server.stop(&host, 1194);
    wait_until("status says that it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    assert!(tunnel_field(&host, "alice", "work", "reason").contains("does not answer"));
    let _server = OpenVpnServer::start_with(
        &host,
        1194,
        8,
        &PUSH.replace("DNS 10.8.0.1", "DNS 10.8.0.9"),
    );
    wait_until("the new resolver", || {
        resolv_conf(&host)
            .contains("nameserver 10.8.0.9")
            .then_some(())
    });
    assert!(
        host.ok("ip netns exec work nft list table inet runns")
            .contains("dnat ip to 10.8.0.9"),
        "the lock follows"
    );
    wait_until("status says that it is up", || {
        (tunnel_field(&host, "alice", "work", "up") == "True").then_some(())
    });
    wait_for_ping(&host, "work", FAR);

    // A daemon that is killed.
    host.ok(&format!("kill -9 {}", daemons(&host, "work").join(" ")));
    wait_until("status says that it is dead", || {
        tunnel_field(&host, "alice", "work", "reason")
            .contains("daemon has exited")
            .then_some(())
    });
    host.ok("test ! -e /etc/pwned");
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
}

/// Sockets that programs have bound to a device know it by its index.
#[test]
fn the_device_stays_when_the_daemon_connects_again() {
    let (host, mut server) = host_with_server(PUSH);
    for kill_switch in ["", "KillSwitch=yes\n"] {
        host.configure(&format!(
            "[work]\nvpn=/etc/openvpn/work.conf\n{kill_switch}"
        ));
        host.ok("runns-exec build -s work");
        let index = || host.ok("ip netns exec work cat /sys/class/net/tun0/ifindex");
        let before = index();
        server.stop(&host, 1194);
        wait_until("status says that it is down", || {
            (tunnel_field(&host, "root", "work", "up") == "False").then_some(())
        });
        server = OpenVpnServer::start_with(
            &host,
            1194,
            8,
            &PUSH.replace("DNS 10.8.0.1", "DNS 10.8.0.9"),
        );
        wait_until("status says that it is up", || {
            (tunnel_field(&host, "root", "work", "up") == "True").then_some(())
        });
        host.user("alice")
            .ok(&format!("runns-exec work -- ping -c1 -W5 {FAR}"));
        assert_eq!(index(), before, "{kill_switch}");
        host.ok("runns-exec status work && runns-exec clean work -f");
    }
}

/// New namespaces begin with the settings of the machine's first one, which may be strict. Here that
/// is what the administrator sets inside.
#[test]
fn a_strict_reverse_path_filter_does_not_cut_the_tunnel_off() {
    let (host, _server) = host_with_server("push \"redirect-gateway def1\"\nkeepalive 1 5\n");
    host.ok("runns-exec build -s work");
    host.ok("ip netns exec work sysctl -qw net.ipv4.conf.all.rp_filter=1");
    host.user("alice")
        .ok(&format!("runns-exec work -- ping -c1 -W5 {FAR}"));
    host.ok("runns-exec status work");
}

#[test]
fn a_build_that_fails_says_why_and_undoes_everything() {
    let (host, _server) =
        host_with_server("auth-user-pass-verify /bin/false via-file\nscript-security 2\n");
    host.internet.net.ip("route add blackhole 198.51.100.250");
    host.write(
        "/etc/openvpn/openssl.cnf",
        "[req]\ndistinguished_name=dn\n[dn]\n",
    );
    host.ok("cd /etc/openvpn && openssl req -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -subj /CN=old -keyout old.key -out old.csr 2>&1 && printf 'keyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n' \
        >old.ext && openssl x509 -req -in old.csr -CA ca.crt -CAkey ca.key -days 0 -extfile old.ext -out old.crt 2>&1");
    let old = "cert old.crt\nkey old.key\n";
    let _old = OpenVpnServer::start_with(&host, 1196, 6, old);
    host.write("/etc/openvpn/login", "alice\nwrong\n");
    let work = host.ok("cat /etc/openvpn/work.conf");
    let before = Snapshot::of(&host);
    for (change, parts) in [
        ("s/1194/1196/", &["certificate has expired"][..]),
        (
            "s/remote.*/remote 198.51.100.250 1194/",
            &["no answer from the server"],
        ),
        ("s/1194/1199/", &["refused the connection"]),
        ("s/192.0.2.1/no.such.host.invalid/", &["name was not found"]),
        (
            "$aauth-user-pass login",
            &["authentication failed", "refused user name or password"],
        ),
        (
            "$aauth-user-pass",
            &["needs a password (Auth)", "no terminal", "auth-user-pass"],
        ),
        (
            "$anonsense here",
            &["/etc/openvpn/work.conf:13", "nonsense"],
        ),
        ("s/ca.crt/none.crt/", &["none.crt"]),
        (
            "s/client.key/server.key/",
            &["the private key does not belong to the certificate"],
        ),
        (
            "$averify-x509-name nope name",
            &["the server's certificate has another name: CN=server, must be nope"],
        ),
    ] {
        for kill_switch in ["", "KillSwitch=yes\n"] {
            host.write("/etc/openvpn/work.conf", &format!("{work}\n"));
            host.ok(&format!("sed -i '{change}' /etc/openvpn/work.conf"));
            host.configure(&format!(
                "[work]\nvpn=/etc/openvpn/work.conf\n{kill_switch}"
            ));
            let output = host.run("runns-exec build -s work --wait 4");
            assert_eq!(
                (output.status, output.stdout.as_str()),
                (1, ""),
                "{change}: {output}"
            );
            for part in ["/etc/openvpn/work.conf"].iter().chain(parts) {
                assert!(
                    output.stderr.contains(part),
                    "{change}: lacks {part}: {output}"
                );
            }
            host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
            before.assert_same(&Snapshot::of(&host));
        }
    }
}

#[test]
fn a_daemon_that_dies_while_build_waits() {
    let (host, _server) = host_with_server("");
    host.internet.net.ip("route add blackhole 198.51.100.250");
    host.ok("sed -i 's/remote.*/remote 198.51.100.250 1194/' /etc/openvpn/work.conf");
    let before = Snapshot::of(&host);
    let build = host.spawn("exec runns-exec build -s work");
    let pid = wait_until("a daemon", || daemon_of_build(&host));
    host.ok(&format!("kill -9 {pid}"));
    let output = build.wait();
    assert_eq!(output.status, 1, "{output}");
    assert!(output.stderr.contains("OpenVPN exited"), "{output}");
    before.assert_same(&Snapshot::of(&host));

    // Interrupted, it undoes everything as well.
    let build = host.spawn("exec runns-exec build -s work");
    wait_until("a daemon", || daemon_of_build(&host));
    host.ok("pkill -INT -f '[r]unns-exec build -s work'");
    let output = build.wait();
    assert!(
        output.status == 1 && output.stderr.contains("interrupted"),
        "{output}"
    );
    before.assert_same(&Snapshot::of(&host));
}

fn daemon_of_build(host: &Host) -> Option<String> {
    if host.run("test -e /run/runns/work.json").status != 0 {
        return None;
    }
    daemons(host, "work").pop()
}

#[test]
fn a_password_is_asked_on_the_terminal_and_goes_nowhere_else() {
    let verify = "#!/bin/sh\n[ \"$(cat \"$1\")\" = \"$(printf 'alice\\nsecret-word')\" ]\n";
    let (host, _server) = host_with_server("");
    host.write("/usr/local/sbin/verify", verify);
    host.ok("chmod 755 /usr/local/sbin/verify");
    const STRICT: &str =
        "auth-user-pass-verify /usr/local/sbin/verify via-file\nscript-security 2\nkeepalive 1 3\n";
    let strict = OpenVpnServer::start_with(&host, 1195, 9, STRICT);
    openvpn::configure_client(&host, "work", 1195);
    append(&host, "auth-user-pass\n");
    host.write("/root/typist.py", TYPIST);
    let built = host.run(
        "python3 /root/typist.py 'runns-exec build -s work' 'user name: =>alice' 'password: =>secret-word'",
    );
    assert_eq!(built.status, 0, "{built}");
    for part in ["resolving", "connecting", "authenticating", "connected"] {
        assert!(
            built.stdout.contains(part) || part == "resolving",
            "progress lacks {part}: {built}"
        );
    }
    assert!(
        !built.stdout.contains("secret-word"),
        "it is not echoed: {built}"
    );
    assert_eq!(tunnel_field(&host, "alice", "work", "up"), "True");
    let found = host.run(
        "grep -rsl secret-[w]ord /run /etc/netns /etc/openvpn /var/log; grep -sl secret-[w]ord /proc/[0-9]*/cmdline",
    );
    assert_eq!(found.stdout, "", "{found}");
    let private = host.user("alice").run("ls /run/runns/work.d/private");
    assert!(private.stderr.contains("Permission denied"), "{private}");
    // A reconnect needs nobody at the terminal.
    strict.stop(&host, 1195);
    wait_until("it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    let _strict = OpenVpnServer::start_with(&host, 1195, 9, STRICT);
    wait_until("it is up again", || {
        (tunnel_field(&host, "alice", "work", "up") == "True").then_some(())
    });
    host.ok("runns-exec clean work -f");
}

#[test]
fn a_change_of_the_network_repeats_no_refused_login() {
    const STRICT: &str =
        "auth-user-pass-verify /usr/local/sbin/verify via-file\nscript-security 2\nkeepalive 1 3\n";
    let (host, _server) = host_with_server("");
    host.write(
        "/usr/local/sbin/verify",
        "#!/bin/sh\necho >>/tmp/logins\ntest -e /tmp/open\n",
    );
    host.ok("chmod 755 /usr/local/sbin/verify && touch /tmp/open");
    let strict = OpenVpnServer::start_with(&host, 1195, 9, STRICT);
    openvpn::configure_client(&host, "work", 1195);
    append(&host, "auth-user-pass login\n");
    host.write("/etc/openvpn/login", "alice\nword\n");
    host.ok("chmod 600 /etc/openvpn/login");
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\nKillSwitch=yes\n");
    host.ok("runns-exec build -s work");
    // The password has been changed.
    host.ok("rm /tmp/open");
    strict.stop(&host, 1195);
    let strict = OpenVpnServer::start_with(&host, 1195, 9, STRICT);
    let is_refused = || {
        host.run("runns-exec status work")
            .stdout
            .contains("refused")
    };
    wait_until("it is refused", || is_refused().then_some(()));
    let ended = daemons(&host, "work");
    wait_until("openvpn has ended", || {
        (host.run(&format!("kill -0 {}", ended[0])).status != 0).then_some(())
    });
    let logins = host.ok("cat /tmp/logins");
    for _ in 0..3 {
        host.run("runns-exec build --all --no-wait");
    }
    assert!(is_refused());
    assert_eq!(daemons(&host, "work"), ended);
    assert_eq!(host.ok("cat /tmp/logins"), logins);
    // One that is being connected goes on as it is.
    host.ok("touch /tmp/open");
    host.ok("runns-exec build work");
    strict.stop(&host, 1195);
    wait_until("it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    let before = daemons(&host, "work");
    host.run("runns-exec build --all --no-wait");
    assert_eq!(daemons(&host, "work"), before);
    host.ok("runns-exec clean work -f");
}

#[test]
fn the_servers_name_is_asked_outside() {
    let (host, server) = host_with_server("push \"redirect-gateway def1\"\nkeepalive 1 3\n");
    let _resolver = start_resolver(&host, "10.8.0.1", "198.51.100.7");
    host.ok("echo '192.0.2.1 vpn.test' >>/etc/hosts");
    host.ok("sed -i 's/192.0.2.1/vpn.test/' /etc/openvpn/work.conf");
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\nDNS=10.8.0.1\n");
    host.ok("runns-exec build -s work");
    assert!(
        host.user("alice")
            .ok("runns-exec work -- getent hosts any.example")
            .contains("198.51.100.7")
    );
    server.stop(&host, 1194);
    wait_until("it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    let _server = OpenVpnServer::start_with(
        &host,
        1194,
        8,
        "push \"redirect-gateway def1\"\nkeepalive 1 3\n",
    );
    wait_until("it is up again", || {
        (tunnel_field(&host, "alice", "work", "up") == "True").then_some(())
    });
    wait_for_ping(&host, "work", FAR);
    host.ok("runns-exec clean work -f");
}

/// Without the kill switch, the daemon is in the namespace, where it cannot look the name up.
#[test]
fn a_server_that_moved_is_found_again() {
    const PUSH: &str = "push \"redirect-gateway def1\"\nkeepalive 1 3\n";
    let (host, server) = host_with_server(PUSH);
    host.internet.net.ip("address add 192.0.2.9/32 dev lo");
    host.ok("sed -i 's/192.0.2.1/vpn.test/' /etc/openvpn/work.conf");
    append(&host, "hand-window 5\n");
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\nDNS=10.8.0.1\n");
    // What the host's resolver answers, if it does.
    let answer = |address: Option<&str>| {
        host.run("pkill -KILL -x dnsmasq");
        address.map(|address| start_resolver(&host, "192.0.2.1", address));
        wait_until("the answer", || {
            let found = host.run("getent ahosts vpn.test").stdout;
            (found.split(' ').next() == address.or(Some(""))).then_some(())
        });
    };
    let up = |is: &str| {
        wait_until(&format!("the tunnel's state: up {is}"), || {
            (tunnel_field(&host, "root", "work", "up") == is).then_some(())
        })
    };
    answer(Some("192.0.2.1"));
    host.ok("runns-exec build -s work");
    server.stop(&host, 1194);
    up("False");
    let server = OpenVpnServer::start_at("192.0.2.9", &host, (1194, 8), PUSH);
    answer(Some("192.0.2.9"));
    up("True");
    wait_for_ping(&host, "work", FAR);
    // When nobody answers, it is the last address that counts.
    answer(None);
    server.stop(&host, 1194);
    up("False");
    let _server = OpenVpnServer::start_at("192.0.2.9", &host, (1194, 8), PUSH);
    up("True");
    host.ok("runns-exec clean work -f");
    // Built before the host has a network, it comes up when there is one.
    let built = host.run("runns-exec build -s work --no-wait");
    assert!(
        built.status == 0 && built.stderr.contains("name vpn.test was not found"),
        "{built}"
    );
    answer(Some("192.0.2.9"));
    up("True");
    host.ok("runns-exec clean work -f");
}

#[test]
fn without_waiting() {
    let (host, server) = host_with_server(PUSH);
    let before = Snapshot::of(&host);
    server.stop(&host, 1194);
    let made = host.run("runns-exec build -s work --no-wait");
    assert_eq!(made.status, 0, "{made}");
    assert!(
        made.stderr.contains("--no-wait: set DNS or Resolve"),
        "{made}"
    );
    assert_eq!(tunnel_field(&host, "alice", "work", "up"), "False");
    assert_eq!(
        tunnel_field(&host, "alice", "work", "reason"),
        "not connected"
    );
    let _server = OpenVpnServer::start_with(&host, 1194, 8, PUSH);
    wait_until("the tunnel", || {
        (tunnel_field(&host, "alice", "work", "up") == "True").then_some(())
    });
    assert_eq!(
        resolv_conf(&host),
        "nameserver 192.0.2.1",
        "the resolver stays what it was"
    );
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
    host.run("runns-exec build -s work --no-wait --wait 3")
        .refused(2, &["--wait"]);
}

#[test]
fn a_copy_of_the_hosts_servers_gives_way_to_what_is_pushed() {
    let (host, _server) = host_with_server(PUSH);
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    host.write("/run/systemd/resolve/resolv.conf", "nameserver 192.0.2.1\n");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    assert_eq!(
        resolv_conf(&host),
        "nameserver 10.8.0.1\nsearch example.org"
    );
    let rules = host.ok("ip netns exec work nft list table inet runns");
    assert!(
        rules.contains("10.8.0.1") && !rules.contains("192.0.2.1"),
        "{rules}"
    );
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
}
