//! Logging in to OpenConnect servers: on the terminal, from a file, and with a session that somebody
//! has logged in to; and why it did not work.

use super::challenge::TYPIST;
use super::openconnect::host_with_server;
use super::{FAR, host, ping};
use crate::support::Host;
use crate::support::command::Output;
use crate::support::ocserv::{self, ADDRESS, Ocserv};

const GROUPS: &str = "route = default\nselect-group = staff\nselect-group = it\n";

/// Builds on a terminal, and types what follows the texts.
pub fn build(host: &Host, answers: &[&str]) -> Output {
    host.write("/root/typist.py", TYPIST);
    let answers: Vec<String> = answers.iter().map(|pair| format!("'{pair}'")).collect();
    host.run(&format!(
        "timeout 60 python3 /root/typist.py 'runns-exec build -s work' {}",
        answers.join(" ")
    ))
}

/// A section without a password.
fn ask(host: &Host, options: &str) {
    host.write("/etc/openconnect/work.conf", options);
    host.configure(&format!(
        "[work]\nKillSwitch=yes\nOpenConnect={ADDRESS}\nOpenConnectOptions=/etc/openconnect/work.conf\n"
    ));
}

/// Nothing of a build that failed is left.
fn assert_clean(host: &Host) {
    host.ok("! pgrep openconnect && ! pgrep -f [.]tunnel-keeper");
    host.ok("test -z \"$(ls /run/netns /etc/netns 2>/dev/null)\" && ! ip -br link | grep rvpn");
}

#[test]
fn group_user_and_password_are_asked_on_the_terminal() {
    let (host, _server) = host_with_server(GROUPS, "KillSwitch=yes\n");
    ask(&host, "cafile=ca.pem\n");
    let built = build(
        &host,
        &[
            "staff|it]: =>staff",
            "Username: =>bob",
            "Password: =>secret",
        ],
    );
    assert_eq!(built.status, 0, "{built}");
    assert!(!built.stdout.contains("NOT ASKED"), "{built}");
    assert!(
        built.stdout.contains("Please enter your username"),
        "{built}"
    );
    // The terminal shows what may be seen.
    assert!(
        built.stdout.contains("bob") && !built.stdout.contains("secret"),
        "{built}"
    );
    assert!(ping(&host, "work", FAR));
    let seen = host.ok("occtl -s /srv/ocserv/occtl.sock show user bob");
    assert!(seen.contains("staff"), "{seen}");
}

/// HOTP with the secret 00 and the counter 0 (RFC 4226).
#[test]
fn a_one_time_code_is_asked_after_the_password_of_the_file() {
    let (host, server) = host_with_server("", "KillSwitch=yes\n");
    server.stop(&host);
    host.write("/srv/ocserv/otp", "HOTP alice - 00\n");
    let _server = Ocserv::start(
        &host,
        "route = default\nauth = \"plain[passwd=/srv/ocserv/passwd,otp=/srv/ocserv/otp]\"\n",
    );
    let failed = host.run("runns-exec build -s work");
    failed.refused(1, &["no terminal to ask on"]);
    assert_clean(&host);
    let built = build(&host, &[": =>328482"]);
    assert_eq!(built.status, 0, "{built}");
    assert!(!built.stdout.contains("NOT ASKED"), "{built}");
    assert!(ping(&host, "work", FAR));
}

#[test]
fn each_failure_has_a_message_of_its_own() {
    let (host, server) = host_with_server(GROUPS, "KillSwitch=yes\n");
    let configuration = host.ok("cat /etc/openconnect/work.conf");
    let fails = |options: &str, words: &[&str]| {
        host.write("/etc/openconnect/work.conf", options);
        let failed = host.run("runns-exec build -s work");
        failed.refused(1, words);
        assert_clean(&host);
    };
    // The certificate.
    let pin = host.ok(
        "certtool --infile /srv/ocserv/server.pem --key-id --hash sha256 | \
         python3 -c 'import sys, base64; print(base64.b64encode(bytes.fromhex(sys.stdin.read().strip())).decode())'",
    );
    fails(
        "user=alice\nauthgroup=staff\n",
        &[
            "the server's certificate does not verify",
            &format!("echo 'servercert=pin-sha256:{pin}' | sudo tee -a /etc/openconnect/work.conf"),
        ],
    );
    fails(
        "user=bob\nauthgroup=staff\nservercert=pin-sha256:AAAAC3h34m8mz3aUkmTvUibPXXdE2waxbsm+u1M=\n",
        &["does not verify", &pin],
    );
    host.write(
        "/etc/openconnect/work.conf",
        &format!("user=bob\nauthgroup=staff\nservercert=pin-sha256:{pin}\n"),
    );
    host.ok("runns-exec build -s work && runns-exec clean work");
    // The group.
    fails(
        "user=bob\nauthgroup=nosuch\ncafile=ca.pem\n",
        &["the server has no group nosuch", "staff, it"],
    );
    // The user, which nobody can be asked for.
    fails(
        "authgroup=staff\ncafile=ca.pem\n",
        &["Username", "set user="],
    );
    // The password.
    host.ok("echo wrong >/etc/openconnect/password");
    fails(
        "user=bob\nauthgroup=staff\ncafile=ca.pem\n",
        &["the server refused the login: Login failed."],
    );
    host.ok("chmod 644 /etc/openconnect/password");
    fails(
        "user=bob\ncafile=ca.pem\n",
        &[
            "other users can read it",
            "chmod 600 /etc/openconnect/password",
        ],
    );
    host.ok("chmod 600 /etc/openconnect/password");
    // Files that are not there, or not root's.
    fails("cafile=nosuch.pem\n", &["nosuch.pem", "no such file"]);
    // An option that openconnect does not know.
    fails("nosuchoption=1\n", &["nosuchoption"]);
    // The server.
    server.stop(&host);
    fails(
        &configuration,
        &["cannot connect to the server", "Connection refused"],
    );
    host.configure("[work]\nOpenConnect=nosuch.invalid\nKillSwitch=yes\n");
    let failed = host.run("runns-exec build -s work");
    failed.refused(1, &["the server's name was not found"]);
    assert_clean(&host);
}

#[test]
fn what_is_left_out_is_named() {
    let (host, _server) = host_with_server("route = default\n", "KillSwitch=yes\n");
    host.ok("printf 'script=/tmp/evil\\ncsd-wrapper=/tmp/evil\\ninterface=eth0\\nbackground\\nsetuid=root\\n\
             pid-file=/run/x\\nscript-tun\\nxmlconfig=/tmp/x\\n' >>/etc/openconnect/work.conf");
    let built = host.run("runns-exec build -s work");
    let named = "ignoring script, csd-wrapper, interface, background, setuid, pid-file, script-tun, xmlconfig";
    assert!(built.status == 0 && built.stderr.contains(named), "{built}");
    assert!(ping(&host, "work", FAR));
}

/// What the daemon and its keeper show of a session to others.
fn assert_not_visible(host: &Host, secret: &str) {
    host.write("/tmp/secret", secret);
    for place in [
        "/run/runns /etc/netns /tmp/log",
        "/proc/[0-9]*/cmdline /proc/[0-9]*/environ",
    ] {
        let found = host.run(&format!("grep -laF -f /tmp/secret -r {place} 2>/dev/null"));
        assert_eq!(found.stdout, "", "{found}");
    }
    host.ok("rm /tmp/secret");
}

#[test]
fn a_session_from_standard_input() {
    let (host, _server) = host_with_server("route = default\n", "KillSwitch=yes\n");
    ask(&host, "cafile=ca.pem\n");
    let session = host.ok(&format!(
        "openconnect --cafile /etc/openconnect/ca.pem --user alice --passwd-on-stdin --authenticate {ADDRESS} \
         </etc/openconnect/password 2>/dev/null"
    ));
    let build = |session: &str| {
        let script = "runns-exec build -s work --authenticated";
        host.root().run_with(script, session.as_bytes())
    };
    build("").refused(1, &["there is no COOKIE in it"]);
    build(&session.replace("pin-sha256:", "x --script=")).refused(1, &["FINGERPRINT"]);
    build(&session).ok();
    assert!(ping(&host, "work", FAR));
    let cookie = session
        .lines()
        .find_map(|line| line.strip_prefix("COOKIE="))
        .unwrap();
    let secret: String = cookie.chars().rev().skip(1).take(30).collect();
    assert_not_visible(&host, &secret.chars().rev().collect::<String>());
    let daemon = host.ok("tr '\\0' ' ' </proc/$(pgrep -n openconnect)/cmdline");
    assert!(daemon.contains("--cookie-on-stdin"), "{daemon}");
    // Another section has nothing to log in to.
    host.configure("[other]\n");
    let script = "runns-exec build -s other --authenticated";
    let failed = host.root().run_with(script, session.as_bytes());
    failed.refused(1, &["has no OpenConnect"]);
}

#[test]
fn build_that_is_interrupted_leaves_no_login() {
    let host = host();
    ocserv::prepare(&host);
    let _server = Ocserv::start(&host, "route = default\n");
    ask(&host, "cafile=ca.pem\n");
    host.write("/root/typist.py", TYPIST);
    let failed = host.run("timeout 60 python3 /root/typist.py 'runns-exec build -s work' \"$(printf 'Username: =>\\003')\"");
    assert_ne!(failed.status, 0, "{failed}");
    assert_clean(&host);
}

/// As PEM, and as PKCS#12 with its password in the options.
#[test]
fn a_certificate_of_the_clients() {
    let host = host();
    ocserv::prepare(&host);
    host.ok(
        "cd /srv/ocserv && certtool --generate-privkey --ecc --outfile client.key && \
         printf 'cn=\"alice\"\\ntls_www_client\\nsigning_key\\nexpiration_days=9\\n' >client.tmpl && \
         certtool --generate-certificate --load-privkey client.key --load-ca-certificate ca.pem --load-ca-privkey ca.key \
             --template client.tmpl --outfile client.pem && \
         certtool --to-p12 --load-privkey client.key --load-certificate client.pem --p12-name alice --password opensesame \
             --outder --outfile client.p12 && \
         install -m 600 client.key client.pem client.p12 /etc/openconnect/",
    );
    let auth = "auth = \"certificate\"\ncert-user-oid = 2.5.4.3\nroute = default\n";
    let _server = Ocserv::start(&host, auth);
    ask(&host, "cafile=ca.pem\n");
    let failed = host.run("runns-exec build -s work");
    failed.refused(1, &["cannot connect to 192.0.2.1"]);
    assert_clean(&host);
    ask(
        &host,
        "cafile=ca.pem\ncertificate=client.pem\nsslkey=client.key\n",
    );
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
    host.ok("runns-exec clean work");
    ask(
        &host,
        "cafile=ca.pem\ncertificate=client.p12\nkey-password=opensesame\n",
    );
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
}
