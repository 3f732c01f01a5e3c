//! Servers and proxies wherever they are: by IPv6 alone, on the host's loopback, behind a proxy with
//! a name; and a DNS that does not answer.

use std::time::{Duration, Instant};

use super::challenge::TYPIST;
use super::{FAR, Watch, host, ping};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Host, Snapshot, wait_until};

const REDIRECT: &str = "push \"redirect-gateway def1\"\n";

fn host_with_server(more: &str) -> (Host, OpenVpnServer) {
    let host = host();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, &format!("{REDIRECT}{more}"));
    openvpn::configure_client(&host, "work", 1194);
    (host, server)
}

/// Builds in both modes, and expects traffic through the tunnel and nothing beside it.
#[track_caller]
fn comes_up(host: &Host) {
    for kill_switch in ["", "KillSwitch=yes\n"] {
        host.configure(&format!(
            "[work]\nvpn=/etc/openvpn/work.conf\n{kill_switch}"
        ));
        let before = Snapshot::of(host);
        host.ok("runns-exec build -s work");
        let watch = Watch::start(host);
        assert!(ping(host, "work", FAR), "{kill_switch}");
        watch.assert_nothing();
        host.ok("runns-exec status work");
        // A daemon that is killed comes back in the same way.
        host.ok(&format!(
            "kill -9 {}",
            super::daemons(host, "work").join(" ")
        ));
        wait_until("status says that it is dead", || {
            (host.run("runns-exec status work").status == 1).then_some(())
        });
        host.ok("runns-exec build -s work");
        assert!(ping(host, "work", FAR), "{kill_switch}");
        host.ok("runns-exec status work; runns-exec clean work -f");
        before.assert_same(&Snapshot::of(host));
    }
}

#[test]
fn a_server_with_ipv6_alone() {
    let (host, _server) = host_with_server("proto udp6\nlocal 2001:db8::1\n");
    for remote in ["2001:db8::1 1194 udp6", "six.test 1194"] {
        host.ok(&format!(
            "grep -q six.test /etc/hosts || echo '2001:db8::1 six.test' >>/etc/hosts; \
             sed -i 's/^remote .*/remote {remote}/; s/^proto.*//' /etc/openvpn/work.conf"
        ));
        comes_up(&host);
    }
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\nInterfaceOut=eth0\n");
    host.run("runns-exec build -s work").refused(
        1,
        &[
            "its servers have only IPv6 or loopback addresses",
            "hint: remove InterfaceOut",
        ],
    );
}

#[test]
fn a_file_that_names_an_address_of_the_host() {
    let (host, _server) = host_with_server("");
    // The server would take a daemon that returns at the same port for the one before.
    for lines in ["local 192.0.2.2\\nlport 0", "nobind\\nbind-dev eth0"] {
        openvpn::configure_client(&host, "work", 1194);
        host.ok(&format!(
            "sed -i 's/^nobind/{lines}/' /etc/openvpn/work.conf"
        ));
        comes_up(&host);
    }
}

#[test]
fn a_server_on_the_hosts_loopback() {
    let (host, _server) = host_with_server("");
    let _relay = host.spawn("exec socat UDP-LISTEN:1300,bind=127.0.0.1,fork UDP:192.0.2.1:1194");
    wait_until("the relay", || {
        (host.run("ss -lun | grep -q 127.0.0.1:1300").status == 0).then_some(())
    });
    host.ok("sed -i 's/^remote .*/remote 127.0.0.1 1300/' /etc/openvpn/work.conf");
    comes_up(&host);
}

/// A proxy that wants a login, and writes down what it gets.
const PROXY: &str = r#"
import base64, socket, threading
listener = socket.create_server(("192.0.2.1", 3128))
print("ready", flush=True)
def copy(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    b.close()
def serve(client):
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(4096)
    lines = head.decode().split("\r\n")
    logins = [base64.b64decode(l.split()[-1]).decode() for l in lines if l.lower().startswith("proxy-authorization")]
    print(logins, flush=True)
    if logins != ["proxyuser:proxyword"]:
        client.sendall(b"HTTP/1.0 407 Login\r\nProxy-Authenticate: Basic realm=x\r\n\r\n")
        client.close()
        return
    name, port = lines[0].split()[1].rsplit(":", 1)
    server = socket.create_connection((name, int(port)))
    client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    threading.Thread(target=copy, args=(server, client)).start()
    copy(client, server)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],)).start()
"#;

#[test]
fn a_proxy_has_its_own_name_and_its_own_questions() {
    let (host, _server) = host_with_server("proto tcp-server\n");
    host.write("/root/proxy.py", PROXY);
    host.write("/root/typist.py", TYPIST);
    let proxy = host
        .root()
        .inside(&host.internet.net)
        .spawn("exec python3 /root/proxy.py");
    wait_until("the proxy", || {
        proxy.stdout().contains("ready").then_some(())
    });
    host.ok(
        "echo '192.0.2.1 proxy.test' >>/etc/hosts; cd /etc/openvpn && sed -i 's/^proto.*/proto tcp-client/' work.conf && \
         printf 'http-proxy proxy.test 3128 stdin basic\\nauth-user-pass\\n' >>work.conf",
    );
    for kill_switch in ["KillSwitch=yes\n", "DNS=10.8.0.1\n"] {
        host.configure(&format!(
            "[work]\nvpn=/etc/openvpn/work.conf\n{kill_switch}"
        ));
        let built = host.run(
            "timeout 60 python3 /root/typist.py 'runns-exec build -s work' \
             'HTTP proxy proxy.test:3128 user name: =>proxyuser' 'HTTP proxy proxy.test:3128 password: =>proxyword' \
             'VPN user name: =>alice' 'VPN password: =>secret'",
        );
        assert_eq!(built.status, 0, "{built}");
        assert!(
            ping(&host, "work", FAR) && !proxy.stdout().contains("secret"),
            "{}",
            proxy.stdout()
        );
        host.ok("runns-exec clean work -f");
    }
}

#[test]
fn names_are_looked_up_at_once() {
    let (host, _server) = host_with_server("");
    host.internet.net.ip("route add blackhole 198.51.100.250");
    let names: String = (1..=12)
        .map(|n| format!("remote s{n}.test 1194\\n"))
        .collect();
    host.ok(&format!(
        "echo 'nameserver 198.51.100.250' >/etc/resolv.conf; printf '{names}' >>/etc/openvpn/work.conf"
    ));
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\n");
    let start = Instant::now();
    let built = host.run("runns-exec build -s work --no-wait");
    assert!(start.elapsed() < Duration::from_secs(25), "{built}");
    assert!(
        built.status == 0 && built.stderr.contains("s12.test was not found"),
        "{built}"
    );
    host.ok("runns-exec clean work -f");
}
