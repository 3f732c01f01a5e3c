//! Real OpenVPN servers outside the host, with certificates created for the test.

use super::{Background, Host};

/// A server, which lives as long as its host.
pub struct OpenVpnServer {
    process: Background,
}

/// Creates a certificate authority and certificates for a server and a client in /etc/openvpn of
/// `host`.
pub fn make_certificates(host: &Host) {
    host.write(
        "/etc/openvpn/openssl.cnf",
        "[req]\ndistinguished_name=dn\n[dn]\n",
    );
    host.ok("cd /etc/openvpn
        issue() { name=$1; shift; openssl req -config openssl.cnf -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
            -nodes -days 2 -subj \"/CN=$name\" -keyout $name.key -out $name.crt \"$@\" 2>&1; }
        issue ca -addext basicConstraints=critical,CA:TRUE &&
        issue server -CA ca.crt -CAkey ca.key -addext keyUsage=digitalSignature -addext extendedKeyUsage=serverAuth &&
        issue client -CA ca.crt -CAkey ca.key -addext keyUsage=digitalSignature -addext extendedKeyUsage=clientAuth");
}

/// Writes a client configuration as a provider hands it out: /etc/openvpn/`name`.conf, with its
/// files beside it.
pub fn configure_client(host: &Host, name: &str, port: u16) {
    host.write(
        &format!("/etc/openvpn/{name}.conf"),
        &format!(
            "client\ndev tun\nproto udp\nremote 192.0.2.1 {port}\nnobind\nresolv-retry infinite\npersist-key\n\
             remote-cert-tls server\nca ca.crt\ncert client.crt\nkey client.key\nverb 3\n"
        ),
    );
}

impl OpenVpnServer {
    /// Starts a server at 192.0.2.1:`port` that assigns addresses from 10.`net`.0.0/24 and pushes
    /// `push`.
    pub fn start(host: &Host, port: u16, net: u8, push: &[&str]) -> Self {
        let pushed: String = push
            .iter()
            .map(|option| format!("push \"{option}\"\n"))
            .collect();
        Self::start_with(host, port, net, &pushed)
    }

    /// The same with additional lines of configuration.
    pub fn start_with(host: &Host, port: u16, net: u8, more: &str) -> Self {
        Self::start_at("192.0.2.1", host, (port, net), more)
    }

    /// The same at another address of the Internet's.
    pub fn start_at(address: &str, host: &Host, (port, net): (u16, u8), more: &str) -> Self {
        host.write(
            &format!("/etc/openvpn/server{port}.conf"),
            &format!(
                "mode server\ntls-server\ndev tun{net}\nproto udp\nlocal {address}\nport {port}\ntopology subnet\n\
                 server 10.{net}.0.0 255.255.255.0\nca ca.crt\ncert server.crt\nkey server.key\ndh none\nverb 3\n\
                 keepalive 1 10\n{more}"
            ),
        );
        let script = format!("exec openvpn --cd /etc/openvpn --config server{port}.conf");
        let process = host.root().inside(&host.internet.net).spawn(&script);
        let server = Self { process };
        super::wait_until("the OpenVPN server's start", || {
            assert!(
                server.process.is_running(),
                "{}{}",
                server.process.stdout(),
                server.process.stderr()
            );
            server
                .process
                .stdout()
                .contains("Initialization Sequence Completed")
                .then_some(())
        });
        server
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.process.stdout()
    }

    /// Kills it.
    pub fn stop(self, host: &Host, port: u16) {
        host.ok(&format!("pkill -KILL -f 'server{port}[.]conf'"));
        let _ = self.process.wait();
    }
}
