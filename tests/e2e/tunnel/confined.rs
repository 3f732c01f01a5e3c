//! Tunnel daemons are worth little to a server that takes them over (SPEC 14.4): seen in /proc, and
//! tried in their place.

use super::wireguard::host_with_peer;
use super::{FAR, daemons, host, ping, tunnel_field, wait_for_ping};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot, wait_until};

const SERVER: &str =
    "push \"redirect-gateway def1\"\npush \"dhcp-option DNS 10.8.0.1\"\nkeepalive 1 3\n";

/// The fields of /proc/PID/status that say what a process may do.
fn identity(host: &Host, pid: &str) -> String {
    host.ok(&format!(
        "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' /proc/{pid}/status | tr -s '\\t ' ' '"
    ))
}

/// That of a daemon with this user id, and with these capabilities, in hexadecimal.
fn confined(user: u32, capabilities: &str) -> String {
    let sets: String = ["Inh", "Prm", "Eff", "Bnd", "Amb"]
        .map(|set| format!("Cap{set}: {capabilities}\n"))
        .concat();
    format!(
        "Uid: {user} {user} {user} {user}\nGid: {user} {user} {user} {user}\nGroups: \n{sets}NoNewPrivs: 1"
    )
}

const NONE: &str = "0000000000000000";

fn keepers(host: &Host, namespace: &str) -> Vec<String> {
    host.ok(&format!("pgrep -f '[.]tunnel-keeper {namespace} '"))
        .lines()
        .map(str::to_string)
        .collect()
}

/// Runs a script in the place of a daemon: in its namespaces, with its root directory, user, group
/// and capabilities. The shell is busybox, since the daemon's view has the host's programs.
fn instead(host: &Host, pid: &str, script: &str) -> (i32, String) {
    let user = host.ok(&format!("stat -c %u /proc/{pid}"));
    let words = format!(
        "nsenter --target {pid} --mount --net --wdns=/ setpriv --reuid={user} --regid={user} \
         --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs sh -c '{script}' 2>&1"
    );
    let output = host.run(&words);
    (output.status, output.stdout)
}

/// What nobody who took over the daemon can do.
#[track_caller]
fn assert_harmless(host: &Host, pid: &str, own: Option<&str>) {
    // A secret that everybody may read, which only the view keeps out of sight.
    for secret in [
        "/home/alice/secret",
        "/root/secret",
        "/var/lib/secret",
        "/srv/secret",
        "/etc/ssl/private/key",
        "/etc/secret",
    ] {
        host.write(secret, "secret");
        host.ok(&format!("chmod 755 $(dirname {secret}) && cat {secret}"));
        let (status, said) = instead(host, pid, &format!("cat {secret}"));
        assert!(
            status != 0 && !said.contains("secret\n"),
            "{secret}: {said}"
        );
        host.ok(&format!("rm {secret}"));
    }
    for file in [
        "/etc/shadow",
        "/etc/passwd",
        "/etc/runns.conf",
        "/proc/1/environ",
        "/proc/self/status",
        "/sys/kernel",
    ] {
        let (status, said) = instead(host, pid, &format!("ls {file}"));
        assert!(
            status != 0 && said.contains("No such file"),
            "{file}: {said}"
        );
    }
    host.ok(
        "mkdir -p /run/systemd /run/dbus && touch /run/systemd/private /run/dbus/system_bus_socket",
    );
    let (_, run) = instead(host, pid, "find /run | sort");
    assert!(
        !run.contains("systemd") && !run.contains("dbus") && !run.contains("netns"),
        "{run}"
    );
    host.ok("rm -r /run/systemd /run/dbus");
    let places = "find / -xdev -type d 2>/dev/null; find /usr /etc /dev /run -type d 2>/dev/null";
    let (_, writable) = instead(
        host,
        pid,
        &format!(
            "for d in $({places}); do if (: >$d/.probe) 2>/dev/null; then rm $d/.probe; echo $d; fi; done | sort -u"
        ),
    );
    assert_eq!(
        writable.trim(),
        own.unwrap_or_default(),
        "where it can write"
    );
    for change in [
        "ip link add dummy0 type dummy",
        "ip link set lo down",
        "iptables -F",
        "mount -t tmpfs none /usr",
        "unshare --mount true",
        "kill -0 1",
        "chroot /usr /bin/true",
        "mknod /run/x c 1 3",
    ] {
        let (status, said) = instead(host, pid, change);
        assert_ne!(status, 0, "{change}: {said}");
    }
}

fn host_with_server(more: &str) -> (Host, OpenVpnServer) {
    let host = host();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, more);
    openvpn::configure_client(&host, "work", 1194);
    // As a provider's instructions say; only root can read it.
    host.ok("chmod 600 /etc/openvpn/work.conf /etc/openvpn/client.key");
    (host, server)
}

#[test]
fn openvpn_has_no_capability_and_sees_no_secret() {
    let (host, _server) = host_with_server(SERVER);
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"
        ));
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        assert!(ping(&host, "work", FAR));
        let pid = &daemons(&host, "work")[0];
        assert_eq!(identity(&host, pid), confined(65536, NONE));
        assert_harmless(&host, pid, Some("/run/runns/work.d/private/0/own"));
        // Its own key is there for it alone, and no other's.
        let (_, keys) = instead(&host, pid, "ls /etc/openvpn");
        assert_eq!(keys.trim(), "ca.crt\nclient.crt\nclient.key\nwork.conf");
        let [keeper] = &keepers(&host, "work")[..] else {
            panic!("one keeper")
        };
        // cap_kill, cap_net_admin, cap_net_raw, cap_sys_admin
        let kept = "0000000000203020";
        let status = identity(&host, keeper);
        assert!(
            status.contains(&format!("CapBnd: {kept}"))
                && status.contains(&format!("CapPrm: {kept}")),
            "{status}"
        );
        assert!(status.contains("NoNewPrivs: 1"), "{status}");
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

/// Without the kill switch, the daemon is in the namespace. A program with its user ID is not one.
#[test]
fn list_marks_the_daemon() {
    let (host, _server) = host_with_server(SERVER);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work");
    let _other = host
        .root()
        .spawn("ip netns exec work setpriv --reuid 65536 --clear-groups sleep 1000");
    let alice = host.user("alice");
    let listed = wait_until("both are listed", || {
        let listed = alice.ok("runns-exec list -a work");
        let is_there = listed.contains(" sleep 1000") && !listed.contains("setpriv");
        is_there.then_some(listed)
    });
    let user_of = |command: &str| {
        let line = listed.lines().find(|line| line.contains(command));
        let word = line.and_then(|line| line.split_whitespace().nth(2));
        word.map(str::to_string)
    };
    assert_eq!(user_of("openvpn").as_deref(), Some("(tunnel)"), "{listed}");
    assert_eq!(user_of("sleep 1000").as_deref(), Some("65536"), "{listed}");
    let json = alice.ok("runns-exec list -a --json work");
    assert!(!json.contains("(tunnel)"), "{json}");
}

#[test]
fn a_daemon_that_is_taken_over_cannot_reach_another() {
    let (host, _server) = host_with_server(SERVER);
    let _second = OpenVpnServer::start_with(&host, 1195, 9, "");
    openvpn::configure_client(&host, "second", 1195);
    host.configure(
        "[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\nvpn=/etc/openvpn/second.conf\n",
    );
    host.ok("runns-exec build -s work");
    let pids = daemons(&host, "work");
    let users: Vec<String> = pids
        .iter()
        .map(|pid| host.ok(&format!("stat -c %u /proc/{pid}")))
        .collect();
    assert_eq!(users, ["65536", "65537"]);
    let (status, said) = instead(&host, &pids[0], &format!("kill -TERM {}", pids[1]));
    assert!(status != 0 && said.contains("not permitted"), "{said}");
    let (status, _) = instead(&host, &pids[0], "ls /run/runns/work.d/private/1");
    assert_ne!(status, 0);
    host.ok("runns-exec clean work -f");
    // An id that somebody has is not used.
    host.ok("useradd --uid 65537 mallory");
    host.run("runns-exec build -s work")
        .refused(1, &["65537", "belongs to mallory"]);
    host.ok("userdel mallory; echo carol:65000:1000 >/etc/subuid");
    host.run("runns-exec build -s work")
        .refused(1, &["65536", "subordinate ids of carol"]);
}

#[test]
fn what_a_daemon_leaves_behind_is_ended_with_it() {
    let (host, _server) = host_with_server(SERVER);
    let before = Snapshot::of(&host);
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work");
    let pid = &daemons(&host, "work")[0];
    let orphan = host.spawn(&format!(
        "exec nsenter --target {pid} --mount --net --wdns=/ setpriv --reuid=65536 --regid=65536 \
         --clear-groups setsid sleep 1000"
    ));
    wait_until("the orphan", || {
        (host.run("pgrep -u 65536 sleep").status == 0).then_some(())
    });
    host.ok("runns-exec clean work -f && rm /etc/runns.conf");
    assert_eq!(host.run("pgrep -u 65536").stdout, "");
    orphan.wait();
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    before.assert_same(&Snapshot::of(&host));
}

/// It keeps the daemon from ending, which nothing but its own end undoes.
#[test]
fn a_tracer_of_a_daemon_is_ended_with_it() {
    let (host, _server) = host_with_server(SERVER);
    host.write("/tmp/seize.py", include_str!("../seize.py"));
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work");
    let pid = &daemons(&host, "work")[0];
    let tracer = host.spawn(&format!(
        "exec setpriv --reuid=65536 --regid=65536 --clear-groups python3 /tmp/seize.py {pid} >/tmp/said"
    ));
    wait_until("the tracer", || {
        (host.run("cat /tmp/said").stdout.trim() == "0").then_some(())
    });
    host.ok("timeout 60 runns-exec clean work -f");
    assert_eq!(host.run("pgrep -u 65536").stdout, "");
    tracer.wait();
}

#[test]
fn without_its_keeper_a_tunnel_stays_safe() {
    for kill_switch in ["KillSwitch=yes\n", ""] {
        let (host, server) = host_with_server(SERVER);
        host.configure(&format!(
            "[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"
        ));
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        host.ok(&format!("kill -9 {}", keepers(&host, "work").join(" ")));
        assert!(ping(&host, "work", FAR), "the tunnel itself goes on");
        wait_until("status tells", || {
            tunnel_field(&host, "alice", "work", "reason")
                .contains("keeper has exited")
                .then_some(())
        });
        if !kill_switch.is_empty() {
            // Nobody can make a new device for it, or move it in.
            server.stop(&host, 1194);
            let _server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
            wait_until("its end", || {
                tunnel_field(&host, "alice", "work", "reason")
                    .contains("daemon has exited")
                    .then_some(())
            });
            assert!(!ping(&host, "work", FAR));
        }
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn files_that_only_root_can_read_serve_for_reconnecting() {
    const STRICT: &str = "auth-user-pass-verify /usr/local/sbin/verify via-file\nscript-security 2\nkeepalive 1 3\n\
                          tls-auth ta.key 0\npush \"redirect-gateway def1\"\n";
    let host = host();
    openvpn::make_certificates(&host);
    host.write(
        "/usr/local/sbin/verify",
        "#!/bin/sh\n[ \"$(cat \"$1\")\" = \"$(printf 'alice\\nword')\" ]\n",
    );
    host.ok("chmod 755 /usr/local/sbin/verify; openvpn --genkey secret /etc/openvpn/ta.key");
    host.ok("cd /etc/openvpn && touch index.txt && echo 01 >crlnumber && printf '[ca]\\ndefault_ca=d\\n[d]\\n\
        database=index.txt\\ncrlnumber=crlnumber\\ndefault_md=sha256\\ndefault_crl_days=9\\n' >crl.cnf && \
        openssl ca -config crl.cnf -gencrl -keyfile ca.key -cert ca.crt -out crl.pem 2>&1");
    let server = OpenVpnServer::start_with(&host, 1194, 8, STRICT);
    openvpn::configure_client(&host, "work", 1194);
    host.write("/etc/vpn/login", "alice\nword\n");
    host.root()
        .run_with(
            "sed -i /persist-key/d /etc/openvpn/work.conf && cat >>/etc/openvpn/work.conf && chmod 600 /etc/openvpn/* /etc/vpn/*",
            b"auth-user-pass ../vpn/login\nauth-nocache\ntls-auth ta.key 1\ncrl-verify crl.pem\nuser nobody\ngroup nogroup\n\
              chroot /var/empty\nmanagement /run/openvpn.socket unix\nlog /var/log/openvpn.log\nstatus status.log 1\nmemstats /run/openvpn.mem\nwritepid /run/openvpn.pid\nverb 0\n",
        )
        .ok();
    let mut server = Some(server);
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"
        ));
        let before = Snapshot::of(&host);
        let made = host.run("runns-exec build -s work");
        assert_eq!(made.status, 0, "{made}");
        for ignored in [
            "ignoring log, memstats, status, writepid (the daemon cannot write files",
            "ignoring user, group, chroot, management (runns-exec confines",
        ] {
            assert!(made.stderr.contains(ignored), "{made}");
        }
        assert!(ping(&host, "work", FAR));
        server.take().expect("a server").stop(&host, 1194);
        wait_until("it is down", || {
            (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
        });
        server = Some(OpenVpnServer::start_with(&host, 1194, 8, STRICT));
        wait_for_ping(&host, "work", FAR);
        host.ok("runns-exec clean work -f && test ! -e /run/openvpn.pid && test ! -e /etc/openvpn/status.log");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn the_server_changes_what_it_pushes() {
    for (kill_switch, persist) in [
        ("KillSwitch=yes\n", "persist-tun\n"),
        ("KillSwitch=yes\n", ""),
        ("", "persist-tun\n"),
        ("", ""),
    ] {
        let (host, server) = host_with_server(SERVER);
        host.root()
            .run_with("cat >>/etc/openvpn/work.conf", persist.as_bytes())
            .ok();
        host.configure(&format!(
            "[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"
        ));
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        server.stop(&host, 1194);
        wait_until("it is down", || {
            (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
        });
        // Another MTU, route and resolver, and no default route.
        let changed = "push \"route 198.51.100.77 255.255.255.255\"\npush \"dhcp-option DNS 10.8.0.9\"\nkeepalive 1 3\n\
                       tun-mtu 1400\n";
        let _server = OpenVpnServer::start_with(&host, 1194, 8, changed);
        wait_until("the new MTU", || {
            host.run("ip netns exec work ip link show tun0")
                .stdout
                .contains("mtu 1400")
                .then_some(())
        });
        wait_for_ping(&host, "work", FAR);
        let routes = host.ok("ip netns exec work ip route");
        assert!(routes.contains("198.51.100.77 dev tun0"), "{routes}");
        assert_eq!(
            routes.contains("default dev tun0"),
            !kill_switch.is_empty(),
            "{routes}"
        );
        assert!(!routes.contains("0.0.0.0/1"), "{routes}");
        wait_until("the new resolver", || {
            host.user("alice")
                .ok("runns-exec work -- cat /etc/resolv.conf")
                .contains("10.8.0.9")
                .then_some(())
        });
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn a_resolver_of_the_host_that_is_replaced_is_seen() {
    let (host, server) = host_with_server(SERVER);
    host.ok("echo '192.0.2.1 vpn.test' >>/etc/hosts && sed -i 's/192.0.2.1/vpn.test/' /etc/openvpn/work.conf");
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    host.ok("runns-exec build -s work");
    let pid = &daemons(&host, "work")[0];
    server.stop(&host, 1194);
    wait_until("it is down", || {
        (tunnel_field(&host, "alice", "work", "up") == "False").then_some(())
    });
    host.ok("echo 'nameserver 192.0.2.77' >/etc/new && mv /etc/new /etc/resolv.conf");
    wait_until("the daemon sees it", || {
        (instead(&host, pid, "cat /etc/resolv.conf").1 == "nameserver 192.0.2.77\n").then_some(())
    });
    let _server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
    wait_for_ping(&host, "work", FAR);
}

#[test]
fn wireguard_go_has_no_capability_and_sees_no_secret() {
    let (host, _peer) = host_with_peer();
    for (kill_switch, mark) in [
        ("KillSwitch=yes\n", ""),
        ("", ""),
        ("KillSwitch=yes\n", "FwMark = 0x77\\r\\n"),
    ] {
        host.ok(&format!(
            "sed '/^PrivateKey/s/$/\\n{mark}/' /etc/wireguard/wg0.conf >/etc/wireguard/a.conf"
        ));
        host.configure(&format!(
            "[work]\n{kill_switch}WireGuard=/etc/wireguard/a.conf\n"
        ));
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        assert!(ping(&host, "work", FAR));
        let pid = &daemons(&host, "work")[0];
        // cap_net_admin, for SO_MARK, if the file asks for it.
        let capabilities = if mark.is_empty() {
            NONE
        } else {
            "0000000000001000"
        };
        assert_eq!(identity(&host, pid), confined(65536, capabilities));
        assert_harmless(&host, pid, None);
        let (status, said) = instead(&host, pid, "ls /etc/wireguard /run/runns");
        assert!(
            status != 0 && said.matches("No such file").count() == 2,
            "{said}"
        );
        // wg(8) works as usual, and the daemon's socket is root's.
        assert_eq!(
            host.ok("wg show rwg0-0 fwmark"),
            if mark.is_empty() { "off" } else { "0x77" }
        );
        host.ok("wg set rwg0-0 listen-port 51999 && ss -Hlun | grep -q :51999");
        assert_ne!(host.user("alice").run("wg show rwg0-0").status, 0);
        assert!(ping(&host, "work", FAR));
        host.ok("runns-exec clean work -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

/// Another process of its user could stop it there, and with it the lock.
#[test]
fn wireguard_go_never_holds_the_lock_as_its_user() {
    let (host, _peer) = host_with_peer();
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\n");
    let program = host.ok("command -v wireguard-go");
    let build = host.spawn(&format!(
        "exec strace -D -f -qq -o /dev/null -P {program} -e inject=execve:delay_enter=1000000 \
         runns-exec build -s work --no-wait </dev/null >/tmp/out 2>&1"
    ));
    let open = wait_until("its user", || {
        let listed = host.run("ls -l /proc/$(pgrep -u 65536 -f '[b]uild -s work')/fd");
        (listed.status == 0).then_some(listed.stdout)
    });
    assert!(
        open.contains("/dev/net/tun") && !open.contains("/run/runns/lock"),
        "{open}"
    );
    assert_eq!(build.wait().status, 0, "{}", host.ok("cat /tmp/out"));
}
