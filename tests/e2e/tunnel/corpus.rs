//! Every option of OpenVPN's, in the shapes in which files have it: plain openvpn and a build that
//! changes nothing accept and refuse the same files.

use super::host;
use crate::support::Host;
use crate::support::openvpn;

/// What is common to all files; `tls-auth` and others are added.
const BASE: &str =
    "client\ndev tun\nremote 127.0.0.1 9\nca ca.crt\ncert client.crt\nkey client.key\n";

/// Options with arguments that a provider's file may have, one shape a line; `|` separates the lines
/// of one file.
const SHAPES: &str = "\
proto udp;proto tcp;proto tcp-client;proto udp6;proto tcp6-client;proto udp4;proto ipx;proto
dev tun0;dev tap;dev-type tun;dev-type x;dev null;dev-node /dev/net/tun;topology subnet;topology net30;topology x
remote vpn.example 1194 udp;remote a 443 tcp|remote b;remote a 0;remote a 99999;remote a x;remote
remote-random;remote-random-hostname;resolv-retry infinite;resolv-retry 5;nobind;bind;lport 0;rport 443;port 1194;port x
<connection>|remote a 443 tcp|</connection>;<connection>|remote a|nonsense|</connection>;<connection>|remote a
float;persist-key;persist-tun;ping 10;ping-restart 60;ping-exit 60;keepalive 10 60;keepalive 10;inactive 100;explicit-exit-notify 2
cipher AES-256-CBC;cipher BF-CBC;cipher NONSENSE;data-ciphers AES-256-GCM:AES-128-GCM;data-ciphers X;data-ciphers-fallback AES-256-CBC;ncp-ciphers AES-256-GCM;ncp-disable
auth SHA512;auth SHA1;auth none;auth NONSENSE;keysize 256;no-iv;no-replay;prng SHA1;engine;tls-cipher DEFAULT;tls-version-min 1.2;tls-version-min 9;tls-cert-profile preferred;tls-groups x25519
comp-lzo;comp-lzo no;comp-lzo adaptive;comp-lzo maybe;comp-noadapt;compress;compress lz4-v2;compress stub-v2;compress zip;allow-compression no;allow-compression x
remote-cert-tls server;remote-cert-tls x;ns-cert-type server;verify-x509-name x name;verify-x509-name;tls-remote x;x509-username-field CN;remote-cert-eku x;remote-cert-ku a0
reneg-sec 0;hand-window 30;tran-window 10;tls-timeout 2;connect-retry 1;connect-retry 1 60;connect-retry-max 3;connect-timeout 20;server-poll-timeout 4
verb 3;verb 11;verb 12;verb x;mute 20;mute-replay-warnings;log /tmp/x;status /tmp/x 10;writepid /tmp/x;syslog;suppress-timestamps;machine-readable-output
up /bin/true;down /bin/true;script-security 2;route-up /bin/true;up-delay;down-pre;user nobody;group nogroup;iproute /bin/ip
pull;route 10.0.0.0 255.0.0.0;route x y z;route-nopull;route-metric 5;route-delay 2;redirect-gateway def1;redirect-gateway x;redirect-private;route-ipv6 2000::/3;route-ipv6 x;block-ipv6;max-routes 100
pull-filter ignore x;pull-filter x y;dhcp-option DNS 10.0.0.1;dhcp-option DOMAIN x;dhcp-option X;dns server 0 address 10.0.0.1;dns x
tun-mtu 1400;tun-mtu 10;mssfix 1300;mssfix;fragment 1300;link-mtu 1400;mtu-disc yes;mtu-disc x;mtu-test;tun-mtu-extra 32;tun-ipv6;sndbuf 0;rcvbuf 0;socket-flags TCP_NODELAY;txqueuelen 100;fast-io;nice 5;mlock
http-proxy p.example 3128;http-proxy p 3128 auto;http-proxy p;http-proxy-option AGENT x;http-proxy-retry;socks-proxy p 1080;socks-proxy p
auth-nocache;auth-retry nointeract;auth-retry x;auth-token x;auth-user-pass login;auth-user-pass gone;auth-user-pass a b c;static-challenge x 1;static-challenge x;push-peer-info
key-direction 1;key-direction 2;tls-auth ta.key 1;tls-auth gone 1;tls-crypt ta.key;tls-crypt gone;secret ta.key;pkcs12 gone;crl-verify gone;extra-certs ca.crt;capath .;capath gone;dh none;dh gone
setenv UV_ID x;setenv opt block-outside-dns;setenv opt nonsense x;setenv opt;setenv FORWARD_COMPATIBLE 1|nonsense;setenv CLIENT_CERT 0;setenv-safe X y;ignore-unknown-option nonsense|nonsense x
block-outside-dns;register-dns;service x 1;ip-win32 dynamic;route-method exe;win-sys env;tap-sleep 1;dhcp-release;show-net-up;pause-exit;cryptoapicert x;windows-driver wintun
nonsense;nonsense x;--verb 3;-verb 3;verb 3 extra;\"verb\" '3';'verb' 3;verb \"3;verb 3 # comment;;comment;client x;server 10.0.0.0 255.255.255.0;push x;mode server;config gone;cd gone;cd /etc
<ca>|x|</ca>;<nonsense>|x|</nonsense>;<verb>|3|</verb>;<auth-user-pass>|a|b|</auth-user-pass>;<tls-auth>|x|</tls-auth>;echo x;parameter x;local 127.0.0.1;management 127.0.0.1 7000;daemon;inetd;chroot /tmp;test-crypto;x;<html>";

/// Plain openvpn with the file, on hold once it has read it; and ours. A line for each on which they
/// differ.
const COMPARE: &str = r#"
import concurrent.futures, os, re, socket as sockets, subprocess, sys, time
def goes_on(path):
    # Behind the hold, it loads its keys and certificates, and connects.
    connection = sockets.socket(sockets.AF_UNIX)
    connection.settimeout(3)
    end = time.monotonic() + 3
    # The socket has its name before it listens.
    while connection.connect_ex(path) != 0:
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    connection.sendall(b"state on\nhold off\nhold release\n")
    said = b""
    while not re.search(rb">STATE:\d+,(RESOLVE|TCP_CONNECT|WAIT|RECONNECTING),|'Private Key'", said):
        try:
            more = connection.recv(4096)
        except TimeoutError:
            return True
        except ConnectionError:
            return False
        if not more:
            return False
        for kind in re.findall(rb"Need ('[^']+') username/password", more):
            connection.sendall(b"username %b x\npassword %b x\n" % (kind, kind))
        said += more
    return True
def plain(n):
    # One that has read its options waits on its management socket; the directory is its own.
    socket = f"/tmp/corpus/{n}.socket"
    child = subprocess.Popen(["openvpn", "--cd", "/etc/openvpn", "--config", f"/etc/openvpn/c{n}.conf", "--management", socket, "unix",
        "--management-hold", "--management-query-passwords"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while child.poll() is None and not os.path.exists(socket):
        try:
            child.wait(0.005)
        except subprocess.TimeoutExpired:
            pass
    # With `daemon`, another process makes it after this one has ended well.
    end = time.monotonic() + 2
    while child.poll() == 0 and not os.path.exists(socket) and time.monotonic() < end:
        time.sleep(0.01)
    accepted = os.path.exists(socket) and goes_on(socket)
    child.kill()
    return accepted, child.communicate()[0].decode(errors="replace")
def ours(n):
    done = subprocess.run(["runns-exec", "build", "-s", f"c{n}", "--dry-run"], stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode == 0, done.stderr.decode()
def both(n):
    return n, plain(n), ours(n)
os.makedirs("/tmp/corpus")
counts = [0, 0]
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for n, (theirs, said), (mine, complaint) in pool.map(both, range(int(sys.argv[1]))):
        counts[theirs] += 1
        if theirs != mine:
            print(n, "openvpn accepts" if theirs else "openvpn refuses", said.splitlines()[-3:], complaint)
print("compared", *counts)
"#;

/// What the two differ on, on purpose: these options are left out.
const APART: [&str; 2] = ["iproute /bin/ip", "chroot /tmp"];

fn write(host: &Host, shapes: &[String]) {
    let mut config = String::new();
    for (number, shape) in shapes.iter().enumerate() {
        host.write(
            &format!("/etc/openvpn/c{number}.conf"),
            &format!("{BASE}{shape}\n"),
        );
        config.push_str(&format!(
            "[c{number}]\nKillSwitch=yes\nvpn=/etc/openvpn/c{number}.conf\n"
        ));
    }
    host.configure(&config);
}

/// The shapes, and each of them together with another one that is far from it in the list, whose
/// options are thus of another kind.
fn crossed(mut shapes: Vec<String>) -> Vec<String> {
    let count = shapes.len();
    for (at, step) in (0..count).zip([61, 97, 139].into_iter().cycle()) {
        shapes.push(format!("{}\n{}", shapes[at], shapes[(at + step) % count]));
    }
    shapes
}

#[test]
fn openvpn_and_we_accept_the_same_files() {
    let host = host();
    openvpn::make_certificates(&host);
    host.ok(
        "cd /etc/openvpn && openvpn --genkey secret ta.key && printf 'alice\\nsecret\\n' >login",
    );
    let shapes: Vec<String> = SHAPES
        .lines()
        .flat_map(|line| line.split(';'))
        .map(|shape| shape.replace('|', "\n"))
        .filter(|shape| !APART.contains(&shape.as_str()))
        .collect();
    assert!(shapes.len() > 151, "{}", shapes.len());
    let shapes = crossed(shapes);
    write(&host, &shapes);
    host.write("/root/compare.py", COMPARE);
    let compared = host.ok(&format!(
        "timeout 300 python3 /root/compare.py {}",
        shapes.len()
    ));
    let lines: Vec<String> = compared
        .lines()
        .filter(|line| line.contains("openvpn accepts") || line.contains("openvpn refuses"))
        .map(|line| {
            let number: usize = line
                .split(' ')
                .next()
                .unwrap_or_default()
                .parse()
                .unwrap_or(0);
            format!("{:?}: {line}", shapes[number])
        })
        .collect();
    assert!(lines.is_empty(), "{} files: {lines:#?}", lines.len());
    assert!(compared.contains("compared "), "{compared}");
}
