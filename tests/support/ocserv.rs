//! Real OpenConnect servers (ocserv) outside the host, with certificates created for the test.

use super::{Background, Host};

/// Where a server listens.
pub const ADDRESS: &str = "192.0.2.1";
/// The server's end of the tunnel.
pub const INSIDE: &str = "10.77.0.1";

/// A server, which lives as long as its host.
pub struct Ocserv {
    process: Background,
}

/// Creates certificates and the users: alice, and bob in the groups staff and it, with the password
/// `secret`.
pub fn prepare(host: &Host) {
    host.ok(
        "mkdir -p /etc/openconnect /srv/ocserv && cd /srv/ocserv
        certtool --generate-privkey --ecc --outfile ca.key
        printf 'cn=\"Test CA\"\\nca\\ncert_signing_key\\nexpiration_days=9\\n' >ca.tmpl
        certtool --generate-self-signed --load-privkey ca.key --template ca.tmpl --outfile ca.pem
        certtool --generate-privkey --ecc --outfile server.key
        printf 'cn=\"vpn.test\"\\ndns_name=\"vpn.test\"\\nip_address=\"192.0.2.1\"\\ntls_www_server\\nsigning_key\\nexpiration_days=9\\n' >server.tmpl
        certtool --generate-certificate --load-privkey server.key --load-ca-certificate ca.pem --load-ca-privkey ca.key \
            --template server.tmpl --outfile server.pem
        cp ca.pem /etc/openconnect/ca.pem
        printf 'secret\\nsecret\\n' | ocpasswd -c passwd alice
        printf 'secret\\nsecret\\n' | ocpasswd -c passwd -g staff,it bob
        printf 'secret\\n' >/etc/openconnect/password; chmod 600 /etc/openconnect/password
        printf 'user=alice\\ncafile=ca.pem\\n' >/etc/openconnect/work.conf",
    );
}

/// The section of a client that logs in by itself.
pub fn section(more: &str) -> String {
    format!(
        "[work]\nOpenConnect=https://{ADDRESS}\nOpenConnectOptions=/etc/openconnect/work.conf\n\
         OpenConnectPassword=/etc/openconnect/password\n{more}"
    )
}

impl Ocserv {
    /// Starts a server with additional lines of configuration.
    pub fn start(host: &Host, more: &str) -> Self {
        let auth = match more.contains("auth = ") {
            true => "",
            false => "auth = \"plain[passwd=/srv/ocserv/passwd]\"\n",
        };
        host.write(
            "/srv/ocserv/ocserv.conf",
            &format!(
                "{auth}tcp-port = 443\nudp-port = 443\nlisten-host = {ADDRESS}\n\
                 run-as-user = root\nrun-as-group = root\nsocket-file = /srv/ocserv/ocserv.sock\n\
                 occtl-socket-file = /srv/ocserv/occtl.sock\nuse-occtl = true\npid-file = /srv/ocserv/pid\n\
                 isolate-workers = false\nmax-clients = 0\nmax-same-clients = 0\nserver-cert = /srv/ocserv/server.pem\n\
                 server-key = /srv/ocserv/server.key\nca-cert = /srv/ocserv/ca.pem\nkeepalive = 5\ndpd = 2\n\
                 mobile-dpd = 2\ntry-mtu-discovery = false\ncookie-timeout = 300\ndevice = vpns\n\
                 predictable-ips = true\ndefault-domain = corp.test\nipv4-network = 10.77.0.0\n\
                 ipv4-netmask = 255.255.255.0\ndns = {INSIDE}\ncisco-client-compat = true\n{more}"
            ),
        );
        Self::again(host)
    }

    /// Starts it as it was.
    pub fn again(host: &Host) -> Self {
        let script = "rm -f /srv/ocserv/*.sock*; exec ocserv -f -c /srv/ocserv/ocserv.conf";
        let process = host.root().inside(&host.internet.net).spawn(script);
        let server = Self { process };
        super::wait_until("ocserv's start", || {
            assert!(server.process.is_running(), "{}", server.log());
            let listens = host
                .root()
                .inside(&host.internet.net)
                .run("ss -Hltn 'sport = :443'");
            (!listens.stdout.is_empty() && host.run("ls /srv/ocserv/occtl.sock").status == 0)
                .then_some(())
        });
        server
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// Has it end the sessions of a user.
    pub fn disconnect(&self, host: &Host, user: &str) {
        host.ok(&format!(
            "occtl -s /srv/ocserv/occtl.sock disconnect user {user}"
        ));
    }

    /// Kills it and all its processes; clients get no notice.
    pub fn stop(self, host: &Host) {
        host.ok("pkill -KILL ocserv");
        let _ = self.process.wait();
    }
}
