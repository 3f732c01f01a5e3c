//! Protocols other than AnyConnect's: a GlobalProtect gateway that is written for the test, and for
//! each of the others the first request of a client.

use super::{FAR, host, ping};
use crate::support::ocserv::{self, ADDRESS};
use crate::support::{Background, Host, wait_until};

const GATEWAY: &str = include_str!("gateway.py");

/// Writes down the first request of each client, and has nothing to offer.
const LISTENER: &str = r#"
import http.server, ssl
class Listener(http.server.BaseHTTPRequestHandler):
    def answer(self):
        print(self.command, self.path, self.headers.get("Upgrade", ""), self.headers["User-Agent"], flush=True)
        self.send_error(404)
    do_GET = do_POST = answer
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("192.0.2.1", 443), Listener)
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
fn each_protocol_reaches_openconnect() {
    let (host, server) = serve(LISTENER, "");
    for (protocol, request) in [
        ("anyconnect", "POST / "),
        ("gp", "POST /global-protect/prelogin.esp"),
        ("pulse", "GET / IF-T/TLS 1.0"),
    ] {
        options(&host, &format!("protocol={protocol}\n"));
        let before = server.stdout();
        let failed = host.run("runns-exec build -s work");
        failed.refused(1, &["Unexpected 404 result from server"]);
        let said = server.stdout();
        assert!(said[before.len()..].contains(request), "{protocol}: {said}");
    }
    options(&host, "protocol=nosuch\n");
    let failed = host.run("runns-exec build -s work");
    failed.refused(1, &["nosuch"]);
}
