//! Files as providers hand them out: what cannot be used is told before anything is created, with
//! what it is and what to do.

use super::wireguard::host_with_peer;
use super::{host, ping};
use crate::support::openvpn;
use crate::support::{Host, Snapshot, wait_until};

/// Both ways to ask for a build, refused with all of `parts`.
#[track_caller]
fn refused(host: &Host, parts: &[&str]) {
    for command in ["build -s work", "build -s work --dry-run"] {
        host.run(&format!("timeout 20 runns-exec {command}"))
            .refused(1, parts);
    }
}

#[test]
fn a_file_that_is_something_else() {
    let (host, _peer) = host_with_peer();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    host.ok("cd /etc/openvpn && : >empty && printf '\\r\\n' >blank && printf 'PK\\003\\004x\\0' >zip && cp ca.crt certificate \
             && mkdir directory && printf '<!DOCTYPE html>\\n<html>' >page && iconv -t UTF-16 work.conf >utf16");
    host.configure("");
    let before = Snapshot::of(&host);
    let zip = "\nhint: sudo runns-exec import /etc/openvpn/zip\n";
    let convert =
        "\nhint: iconv -f UTF-16 -t UTF-8 /etc/openvpn/utf16 >~/utf16-utf8  # then name the copy\n";
    for (file, what, hint) in [
        ("empty", "it is empty", ""),
        ("blank", "it is empty", ""),
        ("zip", "it is a .zip archive", zip),
        ("page", "it is a web page", ""),
        ("utf16", "it is UTF-16 text", convert),
        ("certificate", "it is a certificate or a key", ""),
        ("directory", "it is a directory", ""),
    ] {
        for option in ["vpn", "WireGuard"] {
            host.configure(&format!("[work]\n{option}=/etc/openvpn/{file}\n"));
            let name = format!(" /etc/openvpn/{file}: ");
            refused(&host, &[&name, what, hint]);
            // No command that would only say the same again.
            let said = host.run("runns-exec build -s work");
            assert_eq!(said.stderr.contains("hint: "), !hint.is_empty(), "{said}");
        }
    }
    host.configure("[work]\nvpn=/etc/wireguard/wg0.conf\n");
    let words = "hint: write WireGuard= in place of vpn=";
    refused(&host, &["it is a WireGuard configuration", words]);
    host.configure("[work]\nWireGuard=/etc/openvpn/work.conf\n");
    let words = "hint: write vpn= in place of WireGuard=";
    refused(&host, &["it is an OpenVPN configuration", words]);
    for key in ["Jc = 4", "Jmin = 40", "S1 = 72", "H4 = 4", "I1 = <b 0xff>"] {
        host.ok(&format!(
            "sed 's/^Address.*/&\\n{key}/' /etc/wireguard/wg0.conf >/etc/wireguard/awg.conf; chmod 600 /etc/wireguard/awg.conf"
        ));
        host.configure("[work]\nWireGuard=/etc/wireguard/awg.conf\n");
        refused(&host, &["line 5: ", "AmneziaWG"]);
    }
    host.ok("rm /etc/wireguard/awg.conf");
    host.configure("");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn all_files_that_are_missing_are_told_at_once() {
    let host = host();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    host.ok("cd /etc/openvpn && printf 'ca gone-before\\nca ca.crt\\ntls-auth ta.key 1\\nauth-user-pass login\\n' >>work.conf \
             && rm client.crt client.key");
    let before = Snapshot::of(&host);
    let names = "/etc/openvpn/client.crt (cert), /etc/openvpn/client.key (key), /etc/openvpn/ta.key (tls-auth), \
                 /etc/openvpn/login (auth-user-pass)";
    refused(&host, &["use /etc/openvpn/work.conf", names]);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_file_in_a_home_directory_is_to_be_imported() {
    let host = host();
    host.ok("printf 'client\\nremote 192.0.2.1\\n' >'/tmp/it'\"'\"'s us.ovpn'");
    host.user("alice")
        .ok("cp \"/tmp/it's us.ovpn\" '/home/alice/us-nyc [udp].ovpn'");
    for (file, quoted) in [
        (
            "/home/alice/us-nyc [udp].ovpn",
            "'/home/alice/us-nyc [udp].ovpn'",
        ),
        ("/tmp/it's us.ovpn", "'/tmp/it'\\''s us.ovpn'"),
    ] {
        for option in ["vpn", "WireGuard"] {
            host.configure(&format!("[work]\n{option}={file}\n"));
            let output = host
                .run("runns-exec build -s work")
                .refused(1, &["cannot trust "]);
            let hint = output.stderr.split("hint: ").nth(1).expect("a hint");
            assert_eq!(hint.trim_end(), format!("sudo runns-exec import {quoted}"));
        }
    }
    // A file of somebody else's among root's own is given to root.
    host.ok("install -o alice -m 644 /tmp/it* /etc/openvpn/us.ovpn");
    host.configure("[work]\nvpn=/etc/openvpn/us.ovpn\n");
    host.run("runns-exec build -s work").refused(
        1,
        &[
            "cannot trust /etc/openvpn/us.ovpn",
            "hint: sudo chown root:root /etc/openvpn/us.ovpn\n",
        ],
    );
}

/// Other files of root's are named with their option, and the hint copies them.
#[test]
fn any_other_file_in_a_home_directory_is_to_be_copied() {
    let host = host();
    host.user("alice")
        .ok("printf '#!/bin/sh\\nnameserver 192.0.2.53\\n' >/home/alice/it");
    for (option, mode) in [
        ("Resolve", 644),
        ("PostBuild", 755),
        ("PreClean", 755),
        ("OpenConnect=192.0.2.1\nOpenConnectOptions", 600),
    ] {
        let name = option.rsplit('\n').next().unwrap();
        host.configure(&format!("[work]\n{option}=/home/alice/it\n"));
        let cause =
            format!("cannot use {name} /home/alice/it: cannot trust /home/alice: it belongs");
        let output = host.run("runns-exec build -s work").refused(1, &[&cause]);
        let hint = output.stderr.split("hint: ").nth(1).expect("a hint");
        let (command, then) = hint.split_once("  # ").expect("a command");
        assert_eq!(then, format!("then set {name}=/etc/runns-it\n"));
        host.ok(&format!("rm -f /etc/runns-it; {command}"));
        assert_eq!(
            host.ok("stat -c '%a %U' /etc/runns-it && cmp /etc/runns-it /home/alice/it"),
            format!("{mode} root")
        );
    }
}

#[test]
fn the_own_address_is_the_first_of_a_peers_network() {
    let (host, _peer) = host_with_peer();
    host.configure("[work]\nKillSwitch=yes\nWireGuard=/etc/wireguard/wg0.conf\n");
    host.root().inside(&host.internet.net).ok(
        "wg set peer20 peer $(wg show peer20 peers) allowed-ips 10.20.0.33/32,fd20::2/128 && \
         ip address add 10.20.0.34/32 dev peer20",
    );
    // Nothing but build itself makes it send anything.
    host.ok(
        "cd /etc/wireguard && sed -i '/^PersistentKeepalive/d; s/^Address.*/Address = 10.20.0.33\\r/; \
         s/^AllowedIPs.*/AllowedIPs = 10.20.0.32\\/27\\r/; s/^DNS.*/DNS = 10.20.0.34, ~corp.example, ~.\\r/' wg0.conf",
    );
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work --wait 10");
    assert!(ping(&host, "work", "10.20.0.34"));
    let resolver = host
        .user("alice")
        .ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
    assert_eq!(resolver, "nameserver 10.20.0.34");
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
    // The server is on the link, and the peer has IPv6 only.
    let link = host
        .internet
        .net
        .ip("-6 -o address show dev eth0 scope link");
    let link = link.split_whitespace().nth(3).expect("an address");
    let link = link.split('/').next().expect("an address");
    host.ok(&format!(
        "sed -i 's/^Address.*/Address = fd20::2/; s/^AllowedIPs.*/AllowedIPs = fd20::\\/64/; \
         s/^Endpoint.*/Endpoint = [{link}%eth0]:51820/; s/^DNS.*/DNS = fd20::1/' /etc/wireguard/wg0.conf"
    ));
    host.ok("runns-exec build -s work --wait 10");
    assert!(ping(&host, "work", "fd20::1"));
    host.ok("runns-exec clean work -f");
}

#[test]
fn a_listener_on_the_host_does_not_answer_for_openvpn() {
    let host = host();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    let traced = "strace -f -v -s 99 -e trace=execve,prctl,setresuid -o /tmp/trace runns-exec build -s work --dry-run";
    host.ok(traced);
    let trace = host.ok("cat /tmp/trace");
    for part in [
        "\"--script-security\", \"0\"",
        "setresuid(98304, 98304, 98304)",
        "prctl(PR_SET_PDEATHSIG, SIGKILL)",
    ] {
        assert!(trace.contains(part), "{part}: {trace}");
    }
    host.ok("echo 'no-such-option x' >>/etc/openvpn/work.conf");
    let _listener = host
        .user("alice")
        .spawn("exec socat TCP-LISTEN:7505,bind=127.0.0.1,fork -");
    wait_until("the listener", || {
        host.ok("ss -Hltn").contains("127.0.0.1:7505").then_some(())
    });
    for _ in 0..5 {
        host.run("runns-exec build -s work --dry-run")
            .refused(1, &["no-such-option"]);
    }
}

#[test]
fn a_directory_in_a_file_counts_from_where_the_file_is() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server = openvpn::OpenVpnServer::start(&host, 1194, 8, &["redirect-gateway def1"]);
    openvpn::configure_client(&host, "work", 1194);
    host.ok(
        "cd /etc/openvpn && mkdir -p keys/own && mv client.* ca.crt keys/own/ && \
             (printf 'cd keys\ncd own\n'; cat work.conf) >x && mv x work.conf",
    );
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\nKillSwitch=yes\n");
    host.ok("runns-exec build -s work --dry-run && runns-exec build -s work");
    assert!(ping(&host, "work", "10.8.0.1"));
}

#[test]
fn a_key_that_is_in_no_file_is_refused_with_the_reason() {
    let host = host();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    openvpn::configure_client(&host, "plain", 1194);
    host.ok("sed -i '/^cert\\|^key/d' /etc/openvpn/work.conf && mv /etc/openvpn/work.conf /etc/openvpn/start");
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    let before = Snapshot::of(&host);
    for (lines, option) in [
        (
            "pkcs11-providers /usr/lib/p11.so\npkcs11-id x\n",
            "pkcs11-id: ",
        ),
        (
            "setenv opt pkcs11-id-management\n",
            "pkcs11-id-management: ",
        ),
        ("management-external-key\n", "management-external-key: "),
        ("management-external-cert x\n", "management-external-cert: "),
    ] {
        host.root()
            .run_with(
                "cd /etc/openvpn && cat start - >work.conf",
                lines.as_bytes(),
            )
            .ok();
        let words = "the private key is in a smart card, a token or another program";
        refused(
            &host,
            &["use /etc/openvpn/work.conf", option, words, "hint: "],
        );
    }
    host.ok("rm /etc/openvpn/work.conf");
    before.assert_same(&Snapshot::of(&host));
    // A library without the key of one is nothing to refuse.
    host.ok("cd /etc/openvpn && cp plain.conf work.conf && echo 'pkcs11-pin-cache 5' >>work.conf");
    host.ok("runns-exec build -s work --dry-run");
}

#[test]
fn keys_and_certificates_are_loaded_before_a_build() {
    let host = host();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    host.write("/etc/openvpn/login", "alice\nsecret\n");
    host.ok("cd /etc/openvpn && openssl pkey -in client.key -aes128 -passout pass:x -out locked.key && echo garbage >garbage && \
             (echo '<cert>'; head -n 5 client.crt; echo '</cert>') >inline && openvpn --genkey secret ta.key");
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    let work = host.ok("cat /etc/openvpn/work.conf");
    let before = Snapshot::of(&host);
    for (change, parts) in [
        (
            "s/^ca .*/ca garbage/",
            &["Cannot load CA certificate file garbage"][..],
        ),
        (
            "s/^cert .*/cert garbage/",
            &["Cannot load certificate file garbage"],
        ),
        (
            "/^cert /{s/.*//;r /etc/openvpn/inline\n}",
            &["Cannot load inline certificate file"],
        ),
        (
            "s/^key .*/key garbage/",
            &["the private key cannot be loaded"],
        ),
        (
            "s/^key .*/key server.key/",
            &["does not belong to the certificate"],
        ),
        ("$atls-crypt garbage", &["Insufficient key material"]),
        ("$atls-auth garbage 1", &["Insufficient key material"]),
        ("$atls-crypt ta.key", &[]),
        (
            "s/^key .*/key locked.key/;s/^nobind/local 192.0.2.2\\nlport 500/",
            &[],
        ),
        ("s/^nobind/local 192.0.2.2\\nlport 500/", &[]),
        ("$aauth-user-pass", &[]),
        ("$aauth-user-pass login\\nverb 0\\nmute 1", &[]),
    ] {
        host.write("/etc/openvpn/work.conf", &format!("{work}\n"));
        host.ok(&format!("sed -i -e '{change}' /etc/openvpn/work.conf"));
        let output = host.run("timeout 9 runns-exec build -s work --dry-run");
        if parts.is_empty() {
            assert_eq!(output.status, 0, "{change}: {output}");
        } else {
            output.refused(1, parts);
        }
    }
    host.write("/etc/openvpn/work.conf", &format!("{work}\n"));
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn options_that_openvpn_does_not_know_are_told_with_what_removes_them() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server = openvpn::OpenVpnServer::start(&host, 1194, 8, &[]);
    openvpn::configure_client(&host, "us [udp] work", 1194);
    host.ok("sed -i 's/^remote-cert-tls.*/ns-cert-type server\\ncomp-lzo no/' '/etc/openvpn/us [udp] work.conf'");
    host.configure("[work]\nvpn=/etc/openvpn/us [udp] work.conf\n");
    for (lines, option) in [
        ("block-outside-dns\nregister-dns\n", "block-outside-dns"),
        ("keysize 256\n", "keysize"),
        ("tls-remote server\n", "tls-remote"),
        ("tls-remote \"/CN=server\"\nkeysize 256\n", "tls-remote"),
        ("service x 1\nkey-method 2\n", "service"),
    ] {
        host.root()
            .run_with(
                "cat >>\"/etc/openvpn/us [udp] work.conf\"",
                lines.as_bytes(),
            )
            .ok();
        let before = Snapshot::of(&host);
        let file = "/etc/openvpn/us [udp] work.conf";
        refused(&host, &[file, option, "hint: sudo sed -i "]);
        before.assert_same(&Snapshot::of(&host));
        // What the hint says helps.
        let output = host.run("runns-exec build -s work");
        let hint = output.stderr.split("hint: ").nth(1).expect("a hint");
        host.ok(&hint.replace("sudo ", ""));
        host.ok("runns-exec build -s work --dry-run");
        // What checks the server, or what OpenVPN still knows, is not removed.
        let text = host.ok(&format!("cat '{file}'"));
        for kept in ["ns-cert-type server", "comp-lzo no"] {
            assert!(text.contains(kept), "{text}");
        }
        let checks = match lines {
            _ if !lines.contains("tls-remote") => "",
            _ if lines.contains("/CN=") => "verify-x509-name \"CN=server\"\n",
            _ => "verify-x509-name server name\n",
        };
        assert!(format!("{text}\n").ends_with(checks), "{text}");
        host.ok(&format!("runns-exec build -s work && runns-exec clean work -f && sed -i '/^verify-x509-name/d' '{file}'"));
    }
    // What else OpenVPN says is in its log, which the hint shows.
    host.ok("echo 'proto nonsense' >>\"/etc/openvpn/us [udp] work.conf\"");
    host.run("runns-exec build -s work").refused(
        1,
        &[
            "nonsense",
            "hint: runns-exec log work  # or journalctl -t openvpn-work\n",
        ],
    );
    host.run("runns-exec build -s work --dry-run")
        .refused(1, &["nonsense"]);
}
