//! WireGuard with wg-quick files as providers hand them out, and wireguard-go on both sides.

use super::{
    FAR, FAR6, Probes, Watch, daemons, host, ping, set_uplink_address, start_resolver,
    tunnel_field, wait_for_ping,
};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Background, Host, Snapshot, wait_until};
use crate::turns::{calls, killed, points};

/// A peer in the internet, which lives as long as its host: 10.`net`.0.1 and fd`net`::1, reached
/// through port 518`net`.
pub struct Peer {
    host_key: String,
    own_public: String,
    preshared: String,
    net: u8,
    process: Background,
}

impl Peer {
    fn start(host: &Host, net: u8) -> Self {
        let keys = host.ok(
            "a=$(wg genkey); b=$(wg genkey); echo $a; echo $b; echo $b | wg pubkey; wg genpsk; echo $a | wg pubkey",
        );
        let keys: Vec<&str> = keys.lines().collect();
        let [host_key, own_key, own_public, preshared, host_public] = keys[..] else {
            panic!("{keys:?}")
        };
        host.write(
            &format!("/root/peer{net}"),
            &format!(
                "[Interface]\nPrivateKey={own_key}\nListenPort=518{net}\n[Peer]\nPublicKey={host_public}\n\
             PresharedKey={preshared}\nAllowedIPs=10.{net}.0.2/32,fd{net}::2/128\n"
            ),
        );
        Self {
            host_key: host_key.to_string(),
            own_public: own_public.to_string(),
            preshared: preshared.to_string(),
            net,
            process: Self::run(host, net),
        }
    }

    fn run(host: &Host, net: u8) -> Background {
        let process = host.root().inside(&host.internet.net).spawn(&format!(
            "wireguard-go -f peer{net} & wait_for() {{ until \"$@\" 2>/dev/null; do sleep 0.02; done; }}; \
             wait_for wg setconf peer{net} /root/peer{net} && ip address add 10.{net}.0.1/24 dev peer{net} && \
             ip address add fd{net}::1/64 dev peer{net} nodad && ip link set peer{net} up && echo ready && wait"
        ));
        wait_until("the peer's start", || {
            process.stdout().contains("ready").then_some(())
        });
        process
    }

    fn stop(&self, host: &Host) {
        host.ok(&format!(
            "pkill -KILL -f '[w]ireguard-go -f peer{}'; rm -f /run/wireguard/peer{}.sock",
            self.net, self.net
        ));
        wait_until("the peer's end", || {
            (!self.process.is_running()).then_some(())
        });
    }

    /// Makes the tunnel one that has never had a handshake, as after minutes without traffic; returns
    /// the command.
    pub fn end_session(&self) -> String {
        let public = &self.own_public;
        format!(
            "wg showconf rwg0-0 >/root/same && wg set rwg0-0 peer {public} remove && wg addconf rwg0-0 /root/same && \
             wg show rwg0-0 latest-handshakes | grep -P '\\t0$'"
        )
    }

    fn start_again(&mut self, host: &Host) {
        self.process = Self::run(host, self.net);
    }

    /// The file that a provider would send to its customer.
    fn file(&self, endpoint: &str, more: &str) -> String {
        let net = self.net;
        format!(
            "# Your provider\r\n[interface]\r\nPrivateKey = {}\r\nAddress = 10.{net}.0.2/32, fd{net}::2/128 # yours\r\n{more}\
             PostUp = touch /etc/pwned\r\nPreDown = touch /etc/pwned\r\nTable = off\r\nSaveConfig = true\r\n\r\n[PEER]\r\n\
             publickey={}\r\nPresharedKey = {}\r\nAllowedIPs = 0.0.0.0/0, ::/0\r\nEndpoint = {endpoint}:518{net}\r\n\
             PersistentKeepalive = 1\r\n",
            self.host_key, self.own_public, self.preshared
        )
    }
}

pub fn host_with_peer() -> (Host, Peer) {
    let host = host();
    // The peers' sockets are in this host's /run as well.
    host.ok("mkdir -p /run/wireguard && echo '192.0.2.1 wg.test' >>/etc/hosts");
    let peer = Peer::start(&host, 20);
    host.write(
        "/etc/wireguard/wg0.conf",
        &peer.file("wg.test", "DNS = 10.20.0.1, example.org\r\nMTU = 1380\r\n"),
    );
    host.ok("chmod 600 /etc/wireguard/wg0.conf");
    (host, peer)
}

/// Prints every process's command line and environment once, searching for new ones as fast as it
/// can.
const SAMPLER: &str = r#"
import glob
seen = set()
print("ready", flush=True)
while True:
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            text = open(path, "rb").read()
        except OSError:
            continue
        if text not in seen:
            seen.add(text)
            print(text, flush=True)
"#;

#[test]
fn a_providers_file_works_as_it_is() {
    let (host, peer) = host_with_peer();
    let _resolver = start_resolver(&host, "10.20.0.1", "198.51.100.7");
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\n");
    host.write("/root/sampler.py", SAMPLER);
    let sampler = host.spawn("echo $$; exec python3 /root/sampler.py");
    wait_until("the sampler", || {
        sampler.stdout().contains("ready").then_some(())
    });
    let sampler_pid = sampler
        .stdout()
        .lines()
        .next()
        .unwrap_or_default()
        .to_string();
    let file = host.ok("sha256sum /etc/wireguard/wg0.conf");
    let before = Snapshot::of(&host);
    let built =
        host.spawn("exec strace -f -qq -o /tmp/trace -e trace=execve,write,sendto -s 4096 runns-exec -v build -s work");
    // strace keeps running as long as wireguard-go does.
    wait_until("the build's end", || {
        assert!(built.is_running(), "{}", built.stderr());
        built.stdout().contains("run a program in it").then_some(())
    });
    let made = format!("{}{}", built.stdout(), built.stderr());
    assert!(
        made.contains("ignoring PostUp, PreDown, Table, SaveConfig"),
        "{made}"
    );
    host.user("alice")
        .ok(&format!("runns-exec work -- ping -c1 -W5 {FAR}"));
    host.user("alice")
        .ok("runns-exec work -- ping -c1 -W5 fd20::1");
    assert_eq!(
        host.user("alice")
            .ok("runns-exec work -- grep -v '^#' /etc/resolv.conf"),
        "nameserver 10.20.0.1\nsearch example.org"
    );
    assert!(
        host.user("alice")
            .ok("runns-exec work -- getent hosts any.example")
            .contains("198.51.100.7")
    );
    assert!(
        host.ok("ip netns exec work ip link show wg0")
            .contains("mtu 1380")
    );
    assert_eq!(host.ok("cat /etc/resolv.conf"), "nameserver 192.0.2.1");
    assert_eq!(
        tunnel_field(&host, "alice", "work", "handshake"),
        "None",
        "for root only"
    );
    assert!(tunnel_field(&host, "root", "work", "handshake").starts_with("20"));
    for user in ["root", "alice"] {
        let runner = if user == "root" {
            host.root()
        } else {
            host.user(user)
        };
        let status = runner.ok("runns-exec status; runns-exec status --json");
        assert!(status.contains("wg0.conf up"), "{status}");
        assert!(!status.contains(&peer.own_public), "{status}");
    }

    // Keys are in no command line, message, log or file of ours; they are written to wg's input
    // only.
    host.ok(&format!("kill {sampler_pid}"));
    for key in [&peer.host_key, &peer.preshared] {
        assert!(
            !sampler.stdout().contains(key.as_str()),
            "a key in a command line or environment"
        );
        assert!(!made.contains(key.as_str()), "{made}");
        let found = host.run(&format!(
            "grep -rsl '{key}' /run /etc/netns /tmp /var/log | grep -v ^/tmp/trace"
        ));
        assert_eq!(found.stdout, "", "{found}");
        let traced = host.run(&format!("grep -F '{key}' /tmp/trace | grep execve"));
        assert_eq!(traced.stdout, "", "{traced}");
        assert!(!host.log.ours().join("\n").contains(key.as_str()));
    }
    host.ok("runns-exec clean work -f");
    built.wait();
    host.ok("rm /tmp/trace && test ! -e /etc/pwned");
    assert_eq!(host.ok("sha256sum /etc/wireguard/wg0.conf"), file);
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_name_server_that_is_not_behind_the_tunnel_is_not_used() {
    let (host, peer) = host_with_peer();
    for (option, server) in [
        ("Bypass=203.0.113.8/29", "203.0.113.9"),
        ("HostAccess=yes", "192.0.2.2"),
    ] {
        let dns = format!("DNS = {server}, 10.20.0.1\r\n");
        host.write("/etc/wireguard/wg0.conf", &peer.file("wg.test", &dns));
        host.configure(&format!(
            "[work]\nWireGuard=/etc/wireguard/wg0.conf\nKillSwitch=yes\n{option}\n"
        ));
        let output = host.run("runns-exec build -s work");
        let warning = format!("ignoring the name server {server}");
        assert!(
            output.status == 0 && output.stderr.contains(&warning),
            "{output}"
        );
        let servers = host.ok("grep nameserver /etc/netns/work/resolv.conf");
        assert_eq!(servers, "nameserver 10.20.0.1", "{option}");
        host.ok("runns-exec clean work -fk");
    }
}

#[test]
fn another_key_or_peer_is_seen_and_repaired() {
    let (host, peer) = host_with_peer();
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\nKillSwitch=yes\n");
    host.ok("runns-exec build -s work && runns-exec status work");
    let device = host.ok("basename /run/wireguard/rwg*.sock .sock");
    let public = &peer.own_public;
    for (damage, how) in [
        (
            format!("wg set {device} peer {public} remove"),
            "other peers than its file",
        ),
        (
            format!("wg set {device} peer {public} preshared-key /dev/null"),
            "other peers than its file",
        ),
        (
            format!("wg set {device} peer {public} allowed-ips 10.20.0.0/24"),
            "other AllowedIPs than its file",
        ),
        (
            format!("wg genkey >/root/other && wg set {device} private-key /root/other"),
            "another private key",
        ),
    ] {
        host.ok(&damage);
        let status = host.run("runns-exec status work");
        assert_eq!(status.status, 1, "{damage}: {status}");
        assert!(status.stdout.contains(how), "{damage}: {status}");
        assert!(
            host.ok("runns-exec build -s work").contains("repaired"),
            "{damage}"
        );
        host.ok("runns-exec status work");
        host.user("alice")
            .ok(&format!("runns-exec work -- ping -c1 -W5 {FAR}"));
    }
}

/// A host with the namespace `work`, whose only tunnel has no keepalive and these AllowedIPs.
pub fn host_with_idle_tunnel(allowed: &str) -> (Host, Peer) {
    let (host, peer) = host_with_peer();
    host.ok(&format!(
        "sed -i 's|^AllowedIPs.*|AllowedIPs = {allowed}|; /PersistentKeepalive/d' /etc/wireguard/wg0.conf"
    ));
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\nKillSwitch=yes\n");
    (host, peer)
}

/// As if a tunnel that is built had been built long ago.
const MAKE_OLD: &str = "sed -i 's/\"since\": *[0-9]*/\"since\":1000/' /run/runns/work.d/0.json";

/// Neither its addresses, nor what programs inside use up, keep a tunnel's server from being asked.
#[test]
fn a_server_can_always_be_asked() {
    for allowed in [
        "10.20.0.2/32",
        "255.255.255.255/32",
        "127.0.0.0/8",
        "fd20::2/128",
    ] {
        let (host, _peer) = host_with_idle_tunnel(allowed);
        host.ok("runns-exec build -s work --wait 10");
        host.ok("runns-exec clean work -f");
    }
    let (host, peer) = host_with_idle_tunnel("0.0.0.0/0");
    host.ok("runns-exec build -s work");
    host.ok("ip netns exec work sysctl -qw net.ipv4.ip_local_port_range='40000 40001'");
    let ports = host.user("alice").spawn(
        "exec runns-exec work -- python3 -c '\nimport socket, time\n\
         def bind(port): s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", port)); return s\n\
         all = [bind(port) for port in (40000, 40001)]\nprint(\"bound\", flush=True)\ntime.sleep(1000)'",
    );
    wait_until("all ports", || {
        ports.stdout().contains("bound").then_some(())
    });
    host.ok(&peer.end_session());
    host.ok(MAKE_OLD);
    let built = host.ok("runns-exec build -s work --wait 10");
    assert!(built.contains("as asked"), "{built}");
    host.ok("runns-exec status work");
    peer.stop(&host);
    host.ok(&peer.end_session());
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains("its server does not answer"),
        "{status}"
    );
    host.ok("runns-exec clean work -fk");
    // A server that was never asked is not to blame.
    host.ok("sed -i /^AllowedIPs/d /etc/wireguard/wg0.conf");
    let built = host.run("runns-exec build -s work --wait 1");
    assert!(
        built.status == 1
            && built.stderr.contains("no AllowedIPs")
            && !built.stderr.contains("no answer"),
        "{built}"
    );
    host.ok("runns-exec build -s work --no-wait");
    host.ok(MAKE_OLD);
    let status = host.run("runns-exec status work");
    assert!(
        status.stdout.contains("its server could not be asked")
            && status.stdout.contains("wg0.conf up"),
        "{status}"
    );
    host.ok("runns-exec clean work -fk");
}

/// What its device has says how, not what its file has come to say.
#[test]
fn a_server_is_asked_although_its_file_was_edited() {
    let (host, peer) = host_with_idle_tunnel("0.0.0.0/0");
    host.ok("runns-exec build -s work && echo '# a remark' >>/etc/wireguard/wg0.conf");
    host.ok(MAKE_OLD);
    host.ok(&peer.end_session());
    host.run("runns-exec status work");
    let handshake = host.ok("wg show rwg0-0 latest-handshakes | cut -f2");
    assert_ne!(handshake.trim(), "0", "it was asked");
    peer.stop(&host);
    host.ok(&peer.end_session());
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains("its server does not answer"),
        "{status}"
    );
    let built = host.run("runns-exec build -s work --wait 1");
    assert!(
        built.status == 1 && built.stderr.contains("no answer from the server"),
        "{built}"
    );
    host.ok("runns-exec clean work -f");
}

/// A server that nothing reaches may begin handshakes again and again.
#[test]
fn a_server_that_gets_nothing_is_silent() {
    let (host, peer) = host_with_peer();
    let file = peer.file("wg.test", "ListenPort = 5000\r\n");
    host.write("/etc/wireguard/wg0.conf", &file);
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\nKillSwitch=yes\n");
    host.ok(
        "wg set peer20 peer $(wg show peer20 peers) endpoint 192.0.2.2:5000 persistent-keepalive 1 && \
         iptables -I OUTPUT -p udp --dport 51820 -j DROP && runns-exec build -s work --no-wait",
    );
    let received = || -> u64 {
        let received = host.ok("wg show rwg0-0 transfer | cut -f2");
        received.trim().parse().expect("a number")
    };
    wait_until("an initiation", || (received() > 0).then_some(()));
    let before = received();
    // It comes every five seconds.
    let built = host.run("runns-exec build -s work --wait 12");
    assert!(
        built.status == 1 && built.stderr.contains("no answer from the server"),
        "{built}"
    );
    let more = received() - before;
    assert!(more > 0 && more % 148 == 0, "{more}");
    host.ok("iptables -D OUTPUT -p udp --dport 51820 -j DROP && runns-exec build -s work");
    host.ok("runns-exec clean work -f");
}

/// The question does not go further than to the server, however many networks are behind it.
#[test]
fn strangers_are_not_asked() {
    // All but private networks, as providers list them.
    let (host, peer) = host_with_idle_tunnel(
        "0.0.0.0/5, 8.0.0.0/7, 11.0.0.0/8, 12.0.0.0/6, 16.0.0.0/4, 32.0.0.0/3, 64.0.0.0/2, 128.0.0.0/3, 2000::/3",
    );
    let dump = host
        .root()
        .inside(&host.internet.net)
        .spawn("exec tcpdump -lnv -i peer20");
    wait_until("tcpdump", || {
        dump.stderr().contains("listening on").then_some(())
    });
    host.ok("runns-exec build -s work");
    wait_until("the question", || {
        dump.stdout().contains("IP (").then_some(())
    });
    peer.stop(&host);
    wait_until("tcpdump's end", || (!dump.is_running()).then_some(()));
    let seen = dump.stdout();
    assert!(!seen.contains("bad cksum"), "{seen}");
    let packets: Vec<&str> = seen.lines().filter(|line| line.contains(" IP")).collect();
    assert!(packets.len() < 20, "{seen}");
    for packet in packets {
        assert!(
            packet.contains("ttl 1,") || packet.contains("hlim 1,") || packet.contains("ICMP"),
            "{seen}"
        );
    }
    host.ok("runns-exec clean work -fk");
}

/// A clock that was set makes handshakes look older or younger than they are. No test can set the
/// clock of programs alone, so it changes what wg(8) says.
#[test]
fn a_server_that_answers_is_up_whatever_the_clock_says() {
    let (host, peer) = host_with_peer();
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\nKillSwitch=yes\n");
    let shift = |seconds: i64| {
        host.write(
            "/usr/local/sbin/wg",
            &format!(
                "#!/bin/sh\n/usr/bin/wg \"$@\" | \
                 awk -v OFS='\\t' -F'\\t' 'NF == 8 && $5 > 0 {{ $5 += {seconds} }} {{ print }}'\n"
            ),
        );
        host.ok("chmod 755 /usr/local/sbin/wg");
    };
    for keepalive in ["PersistentKeepalive = 25", "#"] {
        host.ok(&format!(
            "sed -i 's/^PersistentKeepalive.*/{keepalive}/' /etc/wireguard/wg0.conf"
        ));
        host.ok("runns-exec build -s work && runns-exec status work");
        for seconds in [-600, 3600] {
            shift(seconds);
            host.ok("runns-exec status work");
            host.ok("runns-exec build -s work");
        }
        host.ok("rm /usr/local/sbin/wg");
        if keepalive != "#" {
            host.ok("runns-exec clean work -f");
        }
    }
    // Nor is one up that is gone.
    peer.stop(&host);
    shift(3600);
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains("its server does not answer"),
        "{status}"
    );
    host.ok("rm /usr/local/sbin/wg && runns-exec clean work -f");
}

/// A `status` is neither in the way, nor ended, nor does it take a namespace for one that is built
/// when that is gone.
#[test]
fn clean_beside_a_status_that_asks() {
    let (host, peer) = host_with_idle_tunnel("0.0.0.0/0");
    peer.stop(&host);
    host.ok("runns-exec build -s work --no-wait");
    host.ok(MAKE_OLD);
    let inode = host.ok("stat -Lc %i /run/netns/work");
    // It stays inside for a while each time that it asks.
    let status = host.spawn("exec strace -f -qq -o /dev/null -e inject=ioctl:delay_enter=2000000 runns-exec status work");
    let is_inside = format!(
        "ls -l /proc/$(pgrep -f '^runns-exec status')/task/*/ns/net | grep -F 'net:[{inode}]'"
    );
    wait_until("status inside", || {
        (host.run(&is_inside).status == 0).then_some(())
    });
    host.ok("runns-exec clean work -f");
    let said = status.wait();
    assert!(
        said.status == 1 && said.stdout.contains("removed or built anew"),
        "{said}"
    );
}

/// Others need not wait until servers answer, or name servers.
#[test]
fn builds_that_wait_do_not_keep_others_waiting() {
    let (host, peer) = host_with_idle_tunnel("0.0.0.0/0");
    host.ok("sed 's/^Endpoint.*/Endpoint = 192.0.2.1:51899/' /etc/wireguard/wg0.conf >/etc/wireguard/wg1.conf");
    host.configure(
        "[work]\nWireGuard=/etc/wireguard/wg0.conf\nKillSwitch=yes\n\
         [home]\nWireGuard=/etc/wireguard/wg1.conf\nKillSwitch=yes\n",
    );
    host.ok("runns-exec build -s work && runns-exec build -s home --no-wait");
    peer.stop(&host);
    host.ok(&peer.end_session());
    let begin = std::time::Instant::now();
    let built = host.run("runns-exec build --all --wait 8");
    assert!(
        begin.elapsed().as_secs() < 15,
        "one after the other: {built}"
    );
    let silent = built.stderr.matches("no answer from the server").count();
    assert_eq!((built.status, silent), (1, 2), "{built}");

    host.ok(&peer.end_session());
    let build = host.spawn("exec runns-exec build -s work --wait 50");
    wait_until("the question", || {
        let sent = "wg show rwg0-0 transfer | awk '{exit !$3}'";
        (host.run(sent).status == 0).then_some(())
    });
    host.ok("runns-exec clean work -f");
    let built = build.wait();
    assert!(
        built.status == 1 && !built.stderr.contains("no answer"),
        "{built}"
    );

    // Three names, and no name server that answers.
    host.ok("runns-exec clean home -f");
    for name in ["a", "b", "c"] {
        host.ok(&format!(
            "echo 192.0.2.1 {name}.test >>/etc/hosts && printf '[Peer]\\nPublicKey=%s\\nAllowedIPs=10.99.0.0/24\\n\
             Endpoint={name}.test:5\\n' $(wg genkey | wg pubkey) >>/etc/wireguard/wg0.conf"
        ));
    }
    host.ok("runns-exec build -s work --no-wait && sed -i '/test/d' /etc/hosts");
    let drop = "iptables -I INPUT -p udp --dport 53 -j DROP";
    host.root().inside(&host.internet.net).ok(drop);
    let begin = std::time::Instant::now();
    let build = host.spawn("exec runns-exec build --all --no-wait");
    wait_until("the names", || {
        (host.run("pgrep -x getent").status == 0).then_some(())
    });
    host.ok("runns-exec clean work -f");
    assert!(build.is_running(), "clean had to wait");
    let built = build.wait();
    assert_eq!(built.status, 0, "{built}");
    assert!(begin.elapsed().as_secs() < 25, "one after the other");
}

/// Nothing but asking tells a tunnel that nobody uses from one whose server is gone. A peer that is
/// set anew has no session, as after minutes without traffic.
#[test]
fn an_idle_tunnel_asks_its_server() {
    let (host, mut peer) = host_with_peer();
    host.ok("sed -i /PersistentKeepalive/d /etc/wireguard/wg0.conf");
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\nKillSwitch=yes\n");
    host.ok("runns-exec build -s work && runns-exec status work");
    // A first handshake may take half a minute.
    let built = std::time::Instant::now();
    wait_until("a tunnel that is no longer new", || {
        (built.elapsed().as_secs() > 31).then_some(())
    });
    let end_session = peer.end_session();
    let handshake = || host.ok("wg show rwg0-0 latest-handshakes | cut -f2");
    host.ok(&end_session);
    // Another tunnel's route, to where the question is addressed.
    host.ok("ip -n work route add 240.0.0.0/4 dev lo");
    host.ok("runns-exec status work");
    assert_ne!(handshake().trim(), "0", "it was asked");
    // A member cannot ask.
    host.ok(&end_session);
    host.user("alice").run("runns-exec status work");
    assert_eq!(handshake().trim(), "0");

    peer.stop(&host);
    // A change of the network does not wait for it.
    let built = host.ok("runns-exec build --all --no-wait");
    assert!(built.contains("as asked"), "{built}");
    let status = host.run("runns-exec status work");
    assert!(
        status.status == 1 && status.stdout.contains("its server does not answer"),
        "{status}"
    );
    assert!(status.stdout.contains("wg0.conf down"), "{status}");
    let built = host.run("runns-exec build -s work --wait 1");
    assert!(
        built.status == 1 && built.stderr.contains("no answer from the server"),
        "{built}"
    );
    peer.start_again(&host);
    host.ok("runns-exec build -s work && runns-exec status work");
    assert!(ping(&host, "work", "10.20.0.1"));
    // A peer without an endpoint cannot be asked, so its silence says nothing.
    host.ok("runns-exec clean work -fk");
    peer.stop(&host);
    host.ok(
        "printf '[Peer]\\nPublicKey=%s\\nAllowedIPs=10.99.0.0/24\\n' $(wg genkey | wg pubkey) >>/etc/wireguard/wg0.conf && \
         runns-exec build -s work --no-wait && runns-exec status work",
    );
    // It is not asked because it has called once, either.
    host.ok(
        "wg set rwg0-0 peer $(wg show rwg0-0 endpoints | awk '$2 == \"(none)\" { print $1 }') endpoint 192.0.2.77:5 && \
         ! wg show rwg0-0 endpoints | grep none && runns-exec build -s work --wait 3 && runns-exec status work",
    );
    host.ok("runns-exec clean work -fk");
}

#[test]
fn a_server_that_moved_is_found_again() {
    let (host, mut peer) = host_with_peer();
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\n");
    host.ok("runns-exec build -s work");
    let endpoint = || host.ok("wg show rwg0-0 endpoints | cut -f2");
    assert_eq!(endpoint().trim(), "192.0.2.1:51820");
    let as_asked = host.ok("runns-exec build -s work");
    assert!(as_asked.contains("as asked"), "{as_asked}");
    // One address among several stays.
    host.internet.net.ip("address add 192.0.2.9/24 dev lo");
    host.ok("sed -i 's/.* wg.test/192.0.2.9 wg.test\\n192.0.2.1 wg.test/' /etc/hosts && runns-exec build -s work");
    assert_eq!(endpoint().trim(), "192.0.2.1:51820");
    host.ok("sed -i '/192.0.2.1 wg.test/d' /etc/hosts");
    let said = host.ok("runns-exec build -s work");
    assert!(said.contains("wg.test: 192.0.2.1 -> 192.0.2.9"), "{said}");
    assert_eq!(endpoint().trim(), "192.0.2.9:51820");
    assert!(ping(&host, "work", "10.20.0.1"), "the session goes on");
    host.ok("runns-exec status && runns-exec clean work -fk");
    // A server that does not answer is seen, and waited for.
    peer.stop(&host);
    host.ok("runns-exec build -s work --no-wait");
    wait_until("status sees the silence", || {
        let status = host.run("runns-exec status");
        (status.status == 1 && status.stdout.contains("its server does not answer")).then_some(())
    });
    let built = host.run("runns-exec build -s work --wait 1");
    assert!(
        built.status == 1 && built.stderr.contains("no answer"),
        "{built}"
    );
    peer.start_again(&host);
    host.ok("runns-exec build -s work && runns-exec status");
    assert!(ping(&host, "work", "10.20.0.1"));
    host.ok("runns-exec clean work -fk");
}

/// Somebody may have held the lock for hours.
#[test]
fn addresses_from_before_a_wait_for_the_lock_are_not_used() {
    let (host, _peer) = host_with_peer();
    host.configure("[work]\nWireGuard=/etc/wireguard/wg0.conf\n");
    host.ok("runns-exec build -s work");
    let holder = host.spawn(
        "exec flock -o /run/runns/lock sh -c 'echo held; until test -e /root/go; do sleep 0.02; done'",
    );
    wait_until("the lock", || {
        holder.stdout().contains("held").then_some(())
    });
    host.ok("sed -i 's/.* wg.test/192.0.2.9 wg.test/' /etc/hosts");
    let build = host.spawn("exec runns-exec build --all");
    wait_until("the wait", || {
        build.stderr().contains("waiting for another").then_some(())
    });
    host.ok("sed -i 's/.* wg.test/192.0.2.1 wg.test/' /etc/hosts && touch /root/go");
    let built = build.wait();
    assert!(
        built.status == 0 && built.stdout.contains("as asked"),
        "{built}"
    );
    let endpoint = host.ok("wg show rwg0-0 endpoints | cut -f2");
    assert_eq!(endpoint.trim(), "192.0.2.1:51820");
    host.ok("runns-exec clean work -f");
}

#[test]
fn nothing_leaves_outside_the_tunnel() {
    let (host, mut peer) = host_with_peer();
    host.configure("[work]\nKillSwitch=yes\nWireGuard=/etc/wireguard/wg0.conf\n");
    let before = Snapshot::of(&host);
    let state = "iptables-save | grep -v '^#'; cat /proc/sys/net/ipv4/ip_forward; ip route; ip -6 route; ip -br link";
    let network = host.ok(state);
    let watch = Watch::start(&host);
    host.ok("runns-exec build -s work");
    assert_eq!(host.ok(state), network);
    assert_eq!(
        host.ok("ip netns exec work ip -br link | cut -d' ' -f1"),
        "lo\nwg0"
    );
    let probes = Probes::start(&host, "work");
    // DNS over IPv6 is rejected: the resolver has no IPv6 address.
    assert!(
        probes.go_on() >= 70,
        "while the tunnel is up, all others are sent: {}",
        probes.first_failure()
    );
    assert!(ping(&host, "work", FAR) && ping(&host, "work", FAR6));

    peer.stop(&host);
    probes.go_on();
    peer.start_again(&host);
    wait_for_ping(&host, "work", FAR);

    host.ok("ip link set eth0 down");
    probes.go_on();
    set_uplink_address(&host, "192.0.2.3");
    wait_for_ping(&host, "work", FAR);

    host.ok("ip netns exec work ip link delete wg0");
    probes.go_on();
    let reason = tunnel_field(&host, "alice", "work", "reason");
    assert!(
        reason.contains("gone") || reason.contains("daemon has exited"),
        "{reason}"
    );
    host.ok("runns-exec clean work -f --kill && runns-exec build -s work");
    let probes = Probes::start(&host, "work");
    host.ok(&format!("kill -9 {}", daemons(&host, "work").join(" ")));
    probes.go_on();
    let reason = tunnel_field(&host, "alice", "work", "reason");
    assert!(reason.contains("daemon has exited"), "{reason}");
    assert_eq!(
        host.ok("ip netns exec work ip -br link | cut -d' ' -f1"),
        "lo"
    );
    host.ok("runns-exec clean work -f --kill");
    watch.assert_nothing();
    set_uplink_address(&host, "192.0.2.2");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_build_that_fails_says_why_and_undoes_everything() {
    let (host, peer) = host_with_peer();
    host.ok("rm /etc/runns.conf");
    let before = Snapshot::of(&host);
    let good = peer.file("wg.test", "");
    for (file, parts) in [
        (
            good.replace("wg.test:51820", "wg.test:51899"),
            &["no answer from the server", "handshake"][..],
        ),
        (
            good.replace("wg.test", "no.such.host.invalid"),
            &["no.such.host.invalid", "name was not found"],
        ),
        (
            good.replace(&peer.own_public, "short"),
            &["publickey: it is not a key"],
        ),
        (
            good.replace("AllowedIPs", "AlowedIPs"),
            &["line 13", "AlowedIPs", "unknown option"],
        ),
        (
            good.replace("Address = ", "ListenPort = x\r\nAddress = "),
            &["did not accept the file"],
        ),
        (good.replace("PrivateKey = ", "PrivateKey "), &["line 3"]),
        (good.replace("Endpoint", "#Endpoint"), &["Endpoint"]),
    ] {
        for kill_switch in ["", "KillSwitch=yes\n"] {
            host.write("/etc/wireguard/bad.conf", &file);
            host.configure(&format!(
                "[work]\n{kill_switch}WireGuard=/etc/wireguard/bad.conf\n"
            ));
            let output = host.run("runns-exec build -s work --wait 2");
            assert_eq!((output.status, output.stdout.as_str()), (1, ""), "{output}");
            for part in ["/etc/wireguard/bad.conf"].iter().chain(parts) {
                assert!(output.stderr.contains(part), "lacks {part}: {output}");
            }
            assert!(
                !output.stderr.contains(&peer.host_key) && !output.stderr.contains(&peer.preshared),
                "{output}"
            );
            host.ok("rm /etc/runns.conf");
            before.assert_same(&Snapshot::of(&host));
        }
    }
    for (spoil, repair) in [
        (
            "chmod 666 /etc/wireguard/bad.conf",
            "chmod 600 /etc/wireguard/bad.conf",
        ),
        (
            "chown alice /etc/wireguard/bad.conf",
            "chown root /etc/wireguard/bad.conf",
        ),
        ("chmod 777 /etc/wireguard", "chmod 755 /etc/wireguard"),
    ] {
        host.configure("[work]\nWireGuard=/etc/wireguard/bad.conf\n");
        host.ok(spoil);
        host.run("runns-exec build -s work")
            .refused(1, &["/etc/wireguard"]);
        host.ok(&format!("{repair}; rm /etc/runns.conf"));
    }
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn a_build_that_is_killed_at_any_moment() {
    let (host, _peer) = host_with_peer();
    host.configure("[work]\nKillSwitch=yes\nWireGuard=/etc/wireguard/wg0.conf\n");
    let before = Snapshot::of(&host);
    let last = calls(&host, "build -s work");
    host.ok("runns-exec clean work -f");
    for call in points(last, 20) {
        killed(&host, "build -s work", call);
        host.ok("runns-exec clean work -f");
        assert_eq!(
            host.run("pgrep -f '[r]wg[0-9]'").stdout,
            "",
            "killed at {call}"
        );
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn two_tunnels_without_ipv6_by_another_program() {
    let (host, peer) = host_with_peer();
    let other = Peer::start(&host, 21);
    host.write("/etc/wireguard/wg0.conf", &peer.file("192.0.2.1", ""));
    let second = other
        .file("192.0.2.1", "")
        .replace("0.0.0.0/0, ::/0", "10.21.0.0/24, 198.51.100.7");
    host.write("/etc/wireguard/wg1.conf", &second);
    host.ok("cp /usr/bin/wireguard-go /usr/local/sbin/other-wireguard");
    let _web = host.internet.net.serve("0.0.0.0:80", "seen");
    host.ok("rm /etc/runns.conf");
    let before = Snapshot::of(&host);
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\n{kill_switch}IPv6=no\nWG_QUICK_USERSPACE_IMPLEMENTATION=other-wireguard\n\
             WireGuard=/etc/wireguard/wg0.conf\nWireGuard=/etc/wireguard/wg1.conf\n"
        ));
        host.ok("runns-exec build -s work");
        let curl = |address: &str| {
            host.user("alice").ok(&format!(
                "runns-exec work -- curl -sS --max-time 5 http://{address}/"
            ))
        };
        assert_eq!(
            (curl(FAR), curl("198.51.100.7")),
            ("seen 10.20.0.2".into(), "seen 10.21.0.2".into())
        );
        assert!(
            host.ok("ip netns exec work ip link show wg1")
                .contains("mtu 1420")
        );
        assert_eq!(host.ok("ip netns exec work ip -6 address show dev wg0"), "");
        assert_eq!(host.ok("pgrep -cf '[o]ther-wireguard rwg'"), "2");
        host.ok("runns-exec clean work -f && rm /etc/runns.conf");
        before.assert_same(&Snapshot::of(&host));
    }
    host.configure(
        "[work]\nWG_QUICK_USERSPACE_IMPLEMENTATION=no-such\nWireGuard=/etc/wireguard/wg0.conf\n",
    );
    host.run("runns-exec build -s work");
    host.ok("cp /usr/bin/wireguard-go /tmp/evil");
    host.configure(
        "[work]\nWG_QUICK_USERSPACE_IMPLEMENTATION=/tmp/evil\nWireGuard=/etc/wireguard/wg0.conf\n",
    );
    host.run("runns-exec build -s work")
        .refused(1, &["/tmp", "users other than root can write"]);
}

#[test]
fn beside_openvpn_in_one_namespace() {
    let (host, peer) = host_with_peer();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start_with(
        &host,
        1194,
        8,
        "push \"route 198.51.100.7 255.255.255.255\"\n",
    );
    openvpn::configure_client(&host, "work", 1194);
    host.write("/etc/wireguard/wg0.conf", &peer.file("192.0.2.1", ""));
    host.configure(
        "[work]\nKillSwitch=yes\nWireGuard=/etc/wireguard/wg0.conf\nvpn=/etc/openvpn/work.conf\n",
    );
    let _web = host.internet.net.serve("0.0.0.0:80", "seen");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    let status = host.user("alice").ok("runns-exec status work");
    assert!(
        status.contains("work.conf up") && status.contains("wg0.conf up"),
        "{status}"
    );
    let curl = |address: &str| {
        host.user("alice").ok(&format!(
            "runns-exec work -- curl -sS --max-time 5 http://{address}/"
        ))
    };
    // OpenVPN comes first, in whatever order the options are.
    assert_eq!(
        (curl(FAR), curl("198.51.100.7")),
        ("seen 10.8.0.2".into(), "seen 10.8.0.2".into())
    );
    host.ok("ip netns exec work ip link set tun0 down");
    assert_eq!(curl(FAR), "seen 10.20.0.2");
    host.ok("runns-exec clean work -f");
    before.assert_same(&Snapshot::of(&host));
}
