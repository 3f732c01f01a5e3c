//! What is in an OpenVPN configuration, and the files that it names: who may have written them,
//! what the daemon sees of them, and that every option is read as OpenVPN reads it.

use super::{FAR, Watch, host, ping};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot};

const REDIRECT: &str = "push \"redirect-gateway def1\"\n";

fn host_with_server(more: &str) -> (Host, OpenVpnServer) {
    let host = host();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, more);
    openvpn::configure_client(&host, "work", 1194);
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    (host, server)
}

fn append(host: &Host, bytes: &[u8]) {
    host.root()
        .run_with("cat >>/etc/openvpn/work.conf", bytes)
        .ok();
}

/// Every option with which OpenVPN 2.5 to 2.7 reads a file, with FILE in the place of its name.
const NAMING: [&str; 22] = [
    "askpass FILE",
    "auth-user-pass FILE",
    "--auth-user-pass FILE",
    "setenv opt auth-user-pass FILE",
    "\"auth-user-pass\" 'FILE'",
    "ca FILE",
    "cert FILE",
    "config FILE",
    "crl-verify FILE",
    "crl-verify DIRECTORY dir",
    "capath DIRECTORY",
    "dh FILE",
    "extra-certs FILE",
    "http-proxy 192.0.2.1 3128 FILE basic",
    "http-proxy-user-pass FILE",
    "key FILE",
    "pkcs12 FILE",
    "plugin FILE",
    "socks-proxy 192.0.2.1 1080 FILE",
    "tls-auth FILE 1",
    "tls-crypt-v2 FILE",
    "tls-verify FILE,x",
];

#[test]
fn a_file_that_a_user_could_exchange_is_refused() {
    let (host, _server) = host_with_server(REDIRECT);
    host.write("/root/secret", "root\nhunter2\n");
    let uid = host
        .user("alice")
        .ok("ln -s /root/secret /home/alice/creds && id -u");
    let config = host.ok("cat /etc/openvpn/work.conf");
    host.write("/etc/openvpn/mine", "alice\nword\n");
    host.ok("mkdir /etc/openvpn/shared && cp /etc/openvpn/mine /etc/openvpn/shared && chmod g+w /etc/openvpn/shared");
    host.ok("chown alice /etc/openvpn/mine; ln -s /home/alice/creds /etc/openvpn/link");
    let before = Snapshot::of(&host);
    for option in NAMING {
        let name = option
            .split(['"', ' ', '-'])
            .find(|word| !["", "setenv", "opt"].contains(word))
            .expect("a name");
        for (file, directory, why) in [
            (
                "/home/alice/creds",
                "/home/alice",
                format!("cannot trust /home/alice: it belongs to uid {uid}, not to root"),
            ),
            (
                "../../home/alice/creds",
                "../../home/alice/",
                format!("/home/alice: it belongs to uid {uid}"),
            ),
            (
                "./link",
                "/home/alice",
                format!("/home/alice: it belongs to uid {uid}"),
            ),
            ("./mine", "/home/alice", "it belongs to uid".to_string()),
            (
                "./shared/mine",
                "shared",
                "/etc/openvpn/shared: users other than root can write to it (mode 0775)"
                    .to_string(),
            ),
        ] {
            let line = option.replace("FILE", file).replace("DIRECTORY", directory);
            host.write(
                "/etc/openvpn/work.conf",
                &format!("{config}\n<connection>\nremote a\n</connection>\n{line}\n"),
            );
            let refused = host
                .run("timeout 20 runns-exec build -s work")
                .refused(1, &[name, &why, "/etc/openvpn/work.conf"]);
            assert!(!refused.stderr.contains("hunter2"), "{refused}");
        }
    }
    host.write(
        "/etc/openvpn/work.conf",
        &format!("{config}\nauth-user-pass /home/alice/creds\n"),
    );
    let refused = host.run("runns-exec build -s work").refused(1, &[]);
    // What the hint says works, and gives away nothing that alice cannot read.
    let hint = refused.stderr.split("hint: ").nth(1).expect("a hint");
    let command = hint.split("  #").next().expect("a command");
    let copied = host.run(command);
    assert!(
        copied.stderr.contains("Permission denied")
            && !host.ok("cat /etc/openvpn/creds").contains("hunter2"),
        "{copied}"
    );
    host.user("alice")
        .ok("rm creds && printf 'alice\\nword\\n' >creds");
    host.ok(&format!(
        "{command} && grep -q word /etc/openvpn/creds && rm /etc/openvpn/creds"
    ));
    assert!(
        hint.contains("then name /etc/openvpn/creds in /etc/openvpn/work.conf"),
        "{hint}"
    );
    host.user("alice").ok("cp creds 'my creds'");
    host.write(
        "/etc/openvpn/work.conf",
        &format!("{config}\nauth-user-pass \"/home/alice/my creds\"\n"),
    );
    let refused = host.run("runns-exec build -s work").refused(1, &[]);
    let hint = refused.stderr.split("hint: ").nth(1).expect("a hint");
    let command = hint.split("  #").next().expect("a command");
    host.ok(&format!(
        "{command} && grep -q word '/etc/openvpn/my creds' && rm '/etc/openvpn/my creds' '/home/alice/my creds'"
    ));
    // A name is never a part of it that a shell would take for more.
    host.write(
        "/etc/openvpn/work.conf",
        &format!("{config}\nauth-user-pass \"/home/alice/x;reboot\"\n"),
    );
    let refused = host
        .run("runns-exec build -s work")
        .refused(1, &["x;reboot"]);
    assert!(!refused.stderr.contains("sudo"), "{refused}");
    host.write("/etc/openvpn/work.conf", &config);
    host.user("alice")
        .ok("rm creds && ln -s /root/secret creds");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn reading_a_file_ends() {
    let (host, _server) = host_with_server(REDIRECT);
    let config = host.ok("cat /etc/openvpn/work.conf");
    host.ok("cd /etc/openvpn && mkfifo fifo && truncate -s 17M large && mkdir many && cp large many/1 && \
             for i in 2 3; do ln many/1 many/$i; done; mknod watchdog c 10 130 && \
             for i in 1 2 3 4 5 6 7 8; do truncate -s 15M many/$i; done");
    host.write("/etc/openvpn/self", "config self\n");
    host.write("/etc/openvpn/fork", "config leaf\n".repeat(70).as_str());
    host.write("/etc/openvpn/leaf", "verb 3\n");
    host.write("/etc/openvpn/long", "# a comment\n".repeat(80_000).as_str());
    let before = Snapshot::of(&host);
    for (line, why) in [
        ("auth-user-pass fifo", "it is not a regular file"),
        ("auth-user-pass watchdog", "it is not a regular file"),
        (
            "auth-user-pass /dev/zero",
            "users other than root can write to it",
        ),
        ("auth-user-pass /etc", "it is a directory"),
        ("ca large", "it is larger than 16 MiB"),
        ("config fifo", "it is not a regular file"),
        ("config large", "it is larger than 1 MiB"),
        ("config self", "it includes files more than ten deep"),
        ("config fork", "it includes more than 64 files"),
        (
            "config long\nconfig long\nconfig long\nsetenv opt config long\nconfig long",
            "are larger than 4 MiB",
        ),
        ("crl-verify many dir", "more than 48 MiB"),
    ] {
        host.write("/etc/openvpn/work.conf", &format!("{config}\n{line}\n"));
        host.run("timeout 20 runns-exec build -s work")
            .refused(1, &["/etc/openvpn/work.conf", why]);
        host.write("/etc/openvpn/work.conf", &config);
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn files_that_lie_elsewhere() {
    let (host, _server) = host_with_server(REDIRECT);
    host.ok("cd /etc/openvpn && mkdir keys hashed /etc/corp && mv client.* keys && \
             cp ca.crt /usr/local/share/ca-certificates/corp.crt && cp ca.crt /etc/corp && \
             install -m 600 ca.crt /usr/local/share/ca-certificates/private.crt && \
             ln -s /usr/local/share/ca-certificates/corp.crt /etc/ssl/certs/corp.pem && \
             ln -s /usr/local/share/ca-certificates/private.crt /etc/ssl/certs/private.pem && \
             ln -s /etc/corp/ca.crt /etc/ssl/certs/elsewhere.pem && ln -s /etc/corp /usr/local/corp && \
             hash=$(openssl x509 -hash -noout -in ca.crt) && ln -s corp.pem /etc/ssl/certs/$hash.0 && \
             cp ca.crt hashed/ca.pem && ln -s ca.pem hashed/$hash.0 && printf 'ca ../ca.crt\\n' >keys/more");
    let config = host.ok("grep -vE '^(ca|cert|key) ' /etc/openvpn/work.conf");
    const KEYS: &str = "cert keys/client.crt\nkey keys/client.key";
    for (ca, client) in [
        ("ca /etc/ssl/certs/corp.pem", KEYS),
        ("ca /etc/ssl/certs/private.pem", KEYS),
        ("ca /etc/ssl/certs/elsewhere.pem", KEYS),
        ("ca /usr/local/corp/ca.crt", KEYS),
        ("capath /etc/ssl/certs", KEYS),
        ("capath hashed", KEYS),
        (
            "ca /etc/openvpn/ca.crt\ncd keys",
            "cert client.crt\nkey client.key",
        ),
        (
            "cd /etc/openvpn/keys\nconfig more",
            "cert client.crt\nkey client.key",
        ),
        (
            "ca /etc/corp/ca.crt\nsetenv opt cd /var/lib",
            "cert ../../etc/openvpn/keys/client.crt\nkey /etc/openvpn/keys/client.key",
        ),
    ] {
        host.write(
            "/etc/openvpn/work.conf",
            &format!("{config}\n{ca}\n{client}\n"),
        );
        for kill_switch in ["KillSwitch=yes\n", ""] {
            host.configure(&format!(
                "[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"
            ));
            let before = Snapshot::of(&host);
            let made = host.run("runns-exec build -s work");
            assert_eq!(made.status, 0, "{ca}: {made}");
            assert!(ping(&host, "work", FAR), "{ca}");
            host.ok("runns-exec clean work -f");
            before.assert_same(&Snapshot::of(&host));
        }
    }
}

#[test]
fn an_option_behind_setenv_opt_counts() {
    let (host, _server) = host_with_server("");
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    let config = host.ok("cat /etc/openvpn/work.conf");
    for (line, through) in [
        ("setenv opt redirect-gateway def1", true),
        ("\t--setenv 'opt' \"redirect-gateway\" def1 # all", true),
        ("'redirect-gateway'def1", true),
        ("setenv opt route 198.51.100.0 255.255.255.0", true),
        // None of these is an option for OpenVPN either.
        ("setenv OPT redirect-gateway", false),
        ("setenv-safe opt redirect-gateway", false),
        ("<ca>\nsetenv opt redirect-gateway\n</ca>\nca ca.crt", false),
    ] {
        host.write("/etc/openvpn/work.conf", &format!("{config}\n{line}\n"));
        host.ok("runns-exec build -s work");
        let watch = Watch::start(&host);
        assert!(ping(&host, "work", FAR), "{line}");
        let beside = watch.finish();
        assert_eq!(beside.is_empty(), through, "{line}: {beside:#?}");
        host.ok("runns-exec clean work -f");
    }
}

#[test]
fn an_option_behind_setenv_opt_is_left_out() {
    let (host, _server) = host_with_server(REDIRECT);
    append(
        &host,
        b"setenv opt script-security 2\nsetenv opt up \"/usr/bin/touch /tmp/pwned\"\n'setenv' opt user nobody\n\
          setenv opt log /tmp/pwned\n--setenv \"opt\" route-up \"/usr/bin/touch /tmp/pwned\"\nsetenv opt chroot /var/empty\n\
          setenv opt no-such-option x\nignore-unknown-option other\nother y\nsetenv FORWARD_COMPATIBLE 1\nanother z\n",
    );
    let before = Snapshot::of(&host);
    let made = host.run("runns-exec build -s work");
    assert_eq!(made.status, 0, "{made}");
    assert!(
        made.stderr.contains("ignoring up, route-up (") && made.stderr.contains("ignoring log ("),
        "{made}"
    );
    assert!(ping(&host, "work", FAR));
    host.ok("runns-exec clean work -f && test ! -e /tmp/pwned");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn bytes_that_are_no_text_are_passed_on() {
    let (host, _server) = host_with_server(REDIRECT);
    append(&host, b"# B\xfcro\r\nsetenv OFFICE B\xfcro\r\n");
    host.ok("sed -i '1s/^/\\xef\\xbb\\xbf/' /etc/openvpn/work.conf && cp /etc/openvpn/ca.crt \"$(printf '/etc/openvpn/B\\374ro')\"");
    host.ok("sed -i '/^ca /d' /etc/openvpn/work.conf");
    append(&host, b"ca B\xfcro\n");
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
    host.ok("runns-exec clean work -f");
}

#[test]
fn bytes_that_are_no_text_in_a_wireguard_file() {
    let (host, _peer) = super::wireguard::host_with_peer();
    host.root()
        .run_with("cat >>/etc/wireguard/wg0.conf", b"# B\xfcro\r\n")
        .ok();
    host.ok("sed -i '1s/^/\\xef\\xbb\\xbf/' /etc/wireguard/wg0.conf");
    host.configure("[work]\nKillSwitch=yes\nWireGuard=/etc/wireguard/wg0.conf\n");
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
    host.ok("runns-exec clean work -f");
}

#[test]
fn a_large_hosts_file() {
    let (host, _server) = host_with_server(REDIRECT);
    host.ok("echo '192.0.2.1 vpn.test' >>/etc/hosts && sed -i 's/192.0.2.1/vpn.test/' /etc/openvpn/work.conf");
    // As lists of advertisers are.
    host.ok("yes '0.0.0.0 advertiser.example' | head -100000 >>/etc/hosts");
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\n{kill_switch}vpn=/etc/openvpn/work.conf\n"
        ));
        host.ok("runns-exec build -s work");
        assert!(ping(&host, "work", FAR));
        host.ok("runns-exec clean work -f");
    }
    host.ok("yes '0.0.0.0 advertiser.example' | head -250000 >>/etc/hosts");
    host.run("runns-exec build -s work")
        .refused(1, &["read /etc/hosts", "larger than 8 MiB"]);
}
