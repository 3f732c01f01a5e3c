//! One-time passwords: static and dynamic challenges, asked on the terminal of the build, and what
//! becomes of them when nobody is there.

use super::{host, tunnel_field, wait_for_ping};
use crate::support::command::Output;
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Background, Host, Snapshot, wait_until};

/// Accepts alice with one password, and writes down each that it sees.
const VERIFY: &str = "#!/bin/sh\n{ cat \"$1\"; echo; } >>/tmp/seen\n\
                      [ \"$(cat \"$1\")\" = \"$(printf 'alice\\nWANTED')\" ]\n";
const STATIC: &str =
    "auth-user-pass-verify /usr/local/sbin/verify via-file\nscript-security 2\nkeepalive 1 3\n";
/// `SCRV1:` with `secret` and `123456` in base64.
const STATIC_ANSWER: &str = "SCRV1:c2VjcmV0:MTIzNDU2";

/// Types the second of each pair when what is shown ends with the first; says what was shown, and
/// whether each answer was.
pub const TYPIST: &str = r#"
import os, pty, sys
answers = [pair.split("=>") for pair in sys.argv[2:]]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
seen = b""
while True:
    try:
        more = os.read(terminal, 4096)
    except OSError:
        break
    if not more:
        break
    seen += more
    for answer in answers:
        if seen.endswith(answer[0].encode()):
            os.write(terminal, answer[1].encode() + b"\n")
            answers.remove(answer)
            break
sys.stdout.write(seen.decode())
if answers:
    print("NOT ASKED", answers)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// The client of a server's management interface: denies each login, with a reason for the client,
/// but the one that is wanted, or so many; writes down what it sees.
const GATE: &str = r#"
import socket, sys, time
reason, wanted = sys.argv[1:3]
denials = int(sys.argv[3]) if sys.argv[3:] else 1000
while True:
    try:
        gate = socket.socket(socket.AF_UNIX)
        gate.connect("/tmp/gate")
        break
    except OSError:
        gate.close()
        time.sleep(0.05)
lines, client, login = gate.makefile("rw"), "", {}
for line in lines:
    line = line.rstrip()
    if line.startswith(">INFO:"):
        print("connected", file=sys.stderr, flush=True)
    if line.startswith((">CLIENT:CONNECT,", ">CLIENT:REAUTH,")):
        client, login = " ".join(line.split(",")[1:3]), {}
    elif line.startswith(">CLIENT:ENV,") and "=" in line:
        name, value = line.split(",", 1)[1].split("=", 1)
        login[name] = value
    elif line == ">CLIENT:ENV,END" and client:
        got = login.get("username", "") + ":" + login.get("password", "")
        print(got, flush=True)
        if got == wanted or not denials:
            answer = f"client-auth-nt {client}"
        else:
            denials -= 1
            answer = f'client-deny {client} "no" "{reason}"'
        lines.write(answer + "\n")
        lines.flush()
        client = ""
"#;

pub fn host_with_client(more: &str) -> Host {
    let host = host();
    openvpn::make_certificates(&host);
    openvpn::configure_client(&host, "work", 1194);
    host.root()
        .run_with("cat >>/etc/openvpn/work.conf", more.as_bytes())
        .ok();
    host.configure("[work]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\n");
    host.write("/root/typist.py", TYPIST);
    host.write("/root/gate.py", GATE);
    accept(&host, STATIC_ANSWER);
    host.ok(": >/tmp/seen");
    host.write("/etc/openvpn/login", "alice\nsecret\n");
    host
}

/// Has the server accept this password.
fn accept(host: &Host, password: &str) {
    let script = VERIFY.replace("WANTED", password);
    host.write("/usr/local/sbin/verify", &script);
    host.ok("chmod 755 /usr/local/sbin/verify");
}

/// Builds on a terminal, and types what follows the texts.
fn build(host: &Host, answers: &[&str]) -> Output {
    let answers: Vec<String> = answers.iter().map(|pair| format!("'{pair}'")).collect();
    host.run(&format!(
        "timeout 60 python3 /root/typist.py 'runns-exec build -s work' {}",
        answers.join(" ")
    ))
}

#[track_caller]
fn assert_asked(built: &Output) {
    assert_eq!(built.status, 0, "{built}");
    assert!(!built.stdout.contains("NOT ASKED"), "{built}");
}

#[test]
fn a_static_challenge() {
    let host = host_with_client("static-challenge \"Enter OTP\" 1\nauth-user-pass\n");
    let server = OpenVpnServer::start_with(&host, 1194, 8, STATIC);
    let before = Snapshot::of(&host);
    let code = "one-time code (Enter OTP): =>123456";
    let built = build(
        &host,
        &["VPN user name: =>alice", "VPN password: =>secret", code],
    );
    assert_asked(&built);
    assert!(
        built.stdout.contains("123456") && !built.stdout.contains("secret"),
        "the code is to be seen: {built}"
    );
    // The server comes back, and nobody is there.
    server.stop(&host, 1194);
    accept(&host, "no longer");
    let _server = OpenVpnServer::start_with(&host, 1194, 8, STATIC);
    wait_until("status says that a code is needed", || {
        tunnel_field(&host, "alice", "work", "reason")
            .contains("the server asks for a new one-time code")
            .then_some(())
    });
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains("sudo runns-exec build -s work"),
        "{status}"
    );
    accept(&host, STATIC_ANSWER);
    // What it says to type works.
    let built = build(
        &host,
        &["VPN user name: =>alice", "VPN password: =>secret", code],
    );
    assert_asked(&built);
    wait_for_ping(&host, "work", super::FAR);
    host.ok("runns-exec clean work -f");

    // User name and password come from a file; the code is not to be seen.
    for login in [
        "auth-user-pass login",
        "<auth-user-pass>\nalice\nsecret\n</auth-user-pass>",
    ] {
        host.ok("sed -i '/^auth-user-pass/,$d; s/OTP\" 1/OTP\" 0/' /etc/openvpn/work.conf");
        host.root()
            .run_with(
                "cat >>/etc/openvpn/work.conf",
                format!("{login}\n").as_bytes(),
            )
            .ok();
        let refused = host.run("runns-exec build -s work").refused(
            1,
            &[
                "it needs a one-time code (Enter OTP), and there is no terminal",
                "hint: sudo runns-exec build -s work",
            ],
        );
        assert!(refused.stderr.lines().count() == 2, "{refused}");
        let built = build(&host, &[code]);
        assert_asked(&built);
        assert!(!built.stdout.contains("123456"), "{built}");
        host.ok("runns-exec clean work -f");
    }
    host.ok("sed -i '/^auth-user-pass/,$d; s/OTP\" 0/OTP\" 1/' /etc/openvpn/work.conf; echo auth-user-pass >>/etc/openvpn/work.conf");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_token_makes_renegotiations_work_without_a_code() {
    let host = host_with_client("static-challenge OTP 0\nauth-user-pass login\nreneg-sec 0\n");
    let more = format!("{STATIC}auth-gen-token 0 120\nreneg-sec 3\n");
    let server = OpenVpnServer::start_with(&host, 1194, 8, &more);
    assert_asked(&build(&host, &["one-time code (OTP): =>123456"]));
    wait_until("two renegotiations", || {
        (server.log().matches("auth-token").count() >= 2
            && server.log().matches("TLS: soft reset").count() >= 2)
            .then_some(())
    });
    wait_for_ping(&host, "work", super::FAR);
    assert_eq!(tunnel_field(&host, "alice", "work", "up"), "True");
    assert_eq!(
        host.ok("grep -c SCRV1 /tmp/seen"),
        "1",
        "the code was asked for once, and sent once"
    );
    host.ok("runns-exec clean work -f");
}

fn gate_of(host: &Host, reason: &str, wanted: &str) -> Background {
    let gate = format!("exec python3 /root/gate.py '{reason}' {wanted}");
    host.root().inside(&host.internet.net).spawn(&gate)
}

/// A server that denies logins with a reason: all but `wanted`, or as many as that says after a
/// blank.
pub fn start_gate(host: &Host, reason: &str, wanted: &str) -> (OpenVpnServer, Background) {
    let gate = gate_of(host, reason, wanted);
    let more = "management /tmp/gate unix\nmanagement-client-auth\nkeepalive 1 3\n";
    let server = OpenVpnServer::start_with(host, 1194, 8, more);
    // A login before that would never be answered.
    wait_until("the gate is connected", || {
        gate.stderr().contains("connected").then_some(())
    });
    (server, gate)
}

#[test]
fn a_dynamic_challenge() {
    let host = host_with_client("auth-user-pass\n");
    let reason = "CRV1:R,E:state-1:YWxpY2U=:Please enter: PIN";
    let (_server, gate) = start_gate(&host, reason, "'alice:CRV1::state-1::86 75\"309'");
    let before = Snapshot::of(&host);
    let code = "one-time code (Please enter: PIN): =>86 75\"309";
    let built = build(
        &host,
        &["VPN user name: =>alice", "VPN password: =>sec\"ret", code],
    );
    assert_asked(&built);
    assert!(built.stdout.contains("86 75\"309"), "{built}");
    assert_eq!(
        gate.stdout(),
        "alice:sec\"ret\nalice:CRV1::state-1::86 75\"309\n"
    );
    wait_for_ping(&host, "work", super::FAR);
    host.ok("runns-exec clean work -f");
    // Credentials from a file; a login that is refused is not repeated.
    for retry in ["", "auth-retry nointeract\n", "auth-retry interact\n"] {
        host.ok("cp /etc/openvpn/work.conf /tmp/keep");
        host.ok(&format!(
            "sed -i '$d' /etc/openvpn/work.conf && printf 'auth-user-pass login\\n{retry}' >>/etc/openvpn/work.conf"
        ));
        assert_asked(&build(&host, &[code]));
        host.ok("runns-exec clean work -f");
        host.run("runns-exec build -s work").refused(
            1,
            &[
                "one-time code (Please enter: PIN), and there is no terminal",
                "hint: sudo runns-exec build -s work",
            ],
        );
        host.ok("cp /tmp/keep /etc/openvpn/work.conf");
    }
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_user_name_of_the_servers_is_no_command() {
    let host = host_with_client("auth-user-pass login\n");
    let user = host.ok("printf 'x\\nkeeper: stay\\nauth-retry interact\\nusername Auth mallory\\npassword Auth injected\\n' | base64 -w0");
    let (_server, gate) = start_gate(&host, &format!("CRV1:E:s:{user}:t"), "nobody:x");
    let before = Snapshot::of(&host);
    let words = "the server asks for a code in a way that cannot be read";
    host.run("runns-exec build -s work").refused(1, &[words]);
    assert_eq!(gate.stdout(), "alice:secret\n");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_repair_that_is_refused_does_not_log_in_again() {
    let host = host_with_client("auth-user-pass login\n");
    let (server, gate) = start_gate(&host, "no", "alice:secret");
    host.ok("runns-exec build -s work");
    server.stop(&host, 1194);
    drop(gate);
    let (_server, gate) = start_gate(&host, "suspended", "nobody:x");
    let words = "the server refused the login: suspended";
    // The daemon has exited, or stays: both are told with the server's words.
    let is_told = || {
        let reason = tunnel_field(&host, "alice", "work", "reason");
        reason.ends_with(words).then_some(())
    };
    wait_until("status says that the login is refused", is_told);
    let before = gate.stdout().lines().count();
    host.run("runns-exec build -s work").refused(1, &[words]);
    // What must not happen cannot be awaited; it happened each second.
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!(
        gate.stdout().lines().count(),
        before + 1,
        "{}",
        gate.stdout()
    );
    is_told().expect("the reason is still that of the server");
    // Building again asks the server again.
    host.ok("pkill -f '[g]ate.py'");
    let _gate = gate_of(&host, "no", "alice:secret");
    host.ok("runns-exec build -s work");
    wait_for_ping(&host, "work", super::FAR);
    host.ok("runns-exec clean work -f");
}

#[test]
fn a_server_is_quoted() {
    let host = host_with_client("auth-user-pass login\n");
    let (_server, _gate) = start_gate(&host, "Your subscription has expired", "nobody:x");
    let before = Snapshot::of(&host);
    let words = "the server refused the login: Your subscription has expired";
    host.run("runns-exec build -s work").refused(1, &[words]);
    before.assert_same(&Snapshot::of(&host));
}
