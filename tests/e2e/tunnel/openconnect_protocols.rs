//! Protocols other than AnyConnect's: a GlobalProtect gateway that is written for the test, and for
//! each of the others the first request of a client.

use super::{FAR, host, ping};
use crate::support::ocserv::{self, ADDRESS};
use crate::support::{Background, Host, wait_until};

const GATEWAY: &str = include_str!("gateway.py");

/// Writes down the first request of each client, and has nothing to offer.
const LISTENER: &str = r#"
import http.server, ssl
class Answer(http.server.BaseHTTPRequestHandler):
    def answer(self):
        print(self.command, self.path, self.headers.get("Upgrade", ""), self.headers["User-Agent"], flush=True)
        self.send_error(404)
    do_GET = do_POST = answer
    def log_message(self, *_):
        pass
"#;

/// Demands that the client runs a program of the server's, as AnyConnect's hostscan.
const EXAMINER: &str = r#"
import http.server, ssl
XML = b"""<config-auth client="vpn" type="auth-request"><auth id="main"><form method="post" action="/"></form></auth><host-scan>
<host-scan-ticket>1</host-scan-ticket><host-scan-token>2</host-scan-token><host-scan-base-uri>/CACHE</host-scan-base-uri>
<host-scan-wait-uri>/wait</host-scan-wait-uri></host-scan></config-auth>"""
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(XML)))
        self.end_headers()
        self.wfile.write(XML)
    def log_message(self, *_):
        pass
"#;

/// What serves the class `Answer` of one of these by HTTPS.
const SERVER: &str = r#"
server = http.server.HTTPServer(("192.0.2.1", 443), Answer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/ocserv/server.pem", "/srv/ocserv/server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"#;

fn serve(script: &str, arguments: &str) -> (Host, Background) {
    let host = host();
    ocserv::prepare(&host);
    host.configure(&ocserv::section("KillSwitch=yes\n"));
    host.write("/srv/server.py", script);
    let run = format!("exec python3 -u /srv/server.py {arguments}");
    let server = host.root().inside(&host.internet.net).spawn(&run);
    wait_until("the server's start", || {
        assert!(server.is_running(), "{}", server.stderr());
        server.stdout().contains("ready").then_some(())
    });
    (host, server)
}

fn options(host: &Host, options: &str) {
    host.write(
        "/etc/openconnect/work.conf",
        &format!("user=alice\ncafile=ca.pem\n{options}"),
    );
}

#[test]
fn a_global_protect_gateway() {
    let keys = "/srv/ocserv/server.pem /srv/ocserv/server.key";
    let (host, server) = serve(GATEWAY, &format!("{ADDRESS} {keys}"));
    options(&host, "protocol=gp\nusergroup=gateway\n");
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR) && ping(&host, "work", "10.66.0.1"));
    let resolv = host
        .user("alice")
        .ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
    assert_eq!(resolv, "nameserver 10.66.0.1\nsearch corp.test");
    let said = server.stdout();
    assert!(
        said.contains("/ssl-vpn/login.esp") && said.contains("/ssl-tunnel-connect.sslvpn"),
        "{said}"
    );
    host.ok("runns-exec clean work && echo wrong >/etc/openconnect/password");
    let failed = host.run("runns-exec build -s work");
    failed.refused(1, &["cannot connect to https://192.0.2.1"]);
    host.ok("! pgrep openconnect");
}

#[test]
fn a_server_that_wants_to_examine_the_machine() {
    let (host, _server) = serve(&format!("{EXAMINER}{SERVER}"), "");
    let failed = host.run("runns-exec build -s work");
    failed.refused(
        1,
        &[
            "its own program examines this machine",
            "openconnect --authenticate",
        ],
    );
}

#[test]
fn each_protocol_reaches_openconnect() {
    let (host, server) = serve(&format!("{LISTENER}{SERVER}"), "");
    for (protocol, request) in [
        ("anyconnect", "POST / "),
        ("gp", "POST /global-protect/prelogin.esp"),
        ("pulse", "GET / IF-T/TLS 1.0"),
        ("fortinet", "GET /  Mozilla/5.0 SV1"),
        ("f5", "GET / "),
        ("nc", "GET / "),
    ] {
        options(&host, &format!("protocol={protocol}\n"));
        let before = server.stdout();
        let failed = host.run("runns-exec build -s work");
        failed.refused(1, &["Unexpected 404 result from server"]);
        let said = server.stdout();
        assert!(
            said[before.len()..].starts_with(request),
            "{protocol}: {said}"
        );
    }
    // Asks before it speaks to the server.
    options(&host, "protocol=array\n");
    host.run("runns-exec build -s work")
        .refused(1, &["asks for authgroup", "hint: set authgroup="]);
    options(&host, "protocol=nosuch\n");
    let failed = host.run("runns-exec build -s work");
    failed.refused(1, &["nosuch"]);
}
