//! Tunnels (SPEC 9), with real OpenVPN servers and WireGuard peers reached through the host's
//! uplink.
//!
//! The uplink carries IPv4 and IPv6 and leads to [`FAR`] and [`FAR6`], so that packets that leave
//! outside a tunnel get there as well, and are seen on the way.

mod challenge;
mod confined;
mod corpus;
mod exceptions;
mod files;
mod flows;
mod held;
mod hostile;
mod import;
mod inherited;
mod kill_switch;
mod last_release;
mod live;
mod openconnect;
mod openconnect_day;
mod openconnect_hostile;
mod openconnect_login;
mod openconnect_protocols;
mod openconnect_routes;
mod openconnect_session;
mod openvpn;
mod provider;
mod reach;
mod readme;
mod reload;
mod remotes;
mod repair;
mod soak;
mod storm;
mod table;
mod veth;
mod wireguard;

use crate::support::{Background, Host, wait_until};

/// The probes' destination, which nothing else sends to.
pub const FAR: &str = "198.51.100.77";
pub const FAR6: &str = "2001:db8:77::77";

/// Sends probes of every protocol all the time, and prints how many rounds and packets it has sent.
const PROBE: &str = r#"
import os, socket, struct, sys, time
v4, v6 = sys.argv[1:3]
query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05probe\x07example\x00\x00\x01\x00\x01"
def once(family, kind, protocol, address, data, device=b''):
    try:
        with socket.socket(family, kind, protocol) as s:
            s.setblocking(False)
            if device:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            if kind == socket.SOCK_STREAM:
                s.connect_ex(address)
            else:
                s.sendto(data, address)
            return 1
    except OSError as error:
        print(address, kind, error, file=sys.stderr, flush=True)
        return 0
rounds = sent = 0
while True:
    for family, host, icmp, echo in (
        (socket.AF_INET, v4, socket.IPPROTO_ICMP, b"\x08\x00\x00\x00\x00\x01\x00\x01"),
        (socket.AF_INET6, v6, socket.IPPROTO_ICMPV6, b"\x80\x00\x00\x00\x00\x01\x00\x01"),
    ):
        sent += once(family, socket.SOCK_DGRAM, 0, (host, 53), query)
        sent += once(family, socket.SOCK_DGRAM, 0, (host, 4000), b"probe")
        sent += once(family, socket.SOCK_STREAM, 0, (host, 80), b"")
        sent += once(family, socket.SOCK_DGRAM, icmp, (host, 0), echo)
        # Whoever names the device needs no route, and no privilege.
        once(family, socket.SOCK_DGRAM, 0, (host, 4000), b"probe", b"eth0")
        once(family, socket.SOCK_STREAM, 0, (host, 80), b"", b"eth0")
        once(family, socket.SOCK_DGRAM, icmp, (host, 0), echo, b"eth0")
    rounds += 1
    print(rounds, sent, flush=True)
    time.sleep(0.02)
"#;

/// A host with both families on its uplink, which leads to the probes' destination.
pub fn host() -> Host {
    let host = Host::new();
    for address in [FAR, "198.51.100.7"] {
        host.internet
            .net
            .ip(&format!("address add {address}/32 dev lo"));
    }
    host.internet
        .net
        .ip("-6 address add 2001:db8::1/64 dev eth0 nodad");
    host.internet
        .net
        .ip(&format!("-6 address add {FAR6}/128 dev lo nodad"));
    host.ok("ip -6 address add 2001:db8::2/64 dev eth0 nodad && ip -6 route add default via 2001:db8::1");
    // The host forwards IPv6, so that a leak over IPv6 would be seen as well.
    host.ok("sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=0");
    // Everybody may ping, as systemd sets it up; the namespace inherits the setting.
    host.ok("sysctl -qw net.ipv4.ping_group_range='0 2147483647'");
    host.write("/usr/local/share/probe.py", PROBE);
    host
}

/// Probes that run in a namespace as long as the test lasts.
pub struct Probes(Background);

impl Probes {
    pub fn start(host: &Host, namespace: &str) -> Self {
        let script = format!(
            "exec runns-exec {namespace} -- python3 /usr/local/share/probe.py {FAR} {FAR6}"
        );
        let probes = Self(host.user("alice").spawn(&script));
        probes.go_on();
        probes
    }

    fn last(&self) -> (u64, u64) {
        let output = self.0.stdout();
        // The last line may be incomplete.
        let line = output.rsplit('\n').nth(1).unwrap_or_default();
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// The error of the first probe that could not be sent.
    pub fn first_failure(&self) -> String {
        self.0
            .stderr()
            .lines()
            .next()
            .unwrap_or_default()
            .to_string()
    }

    /// Waits for some more rounds; returns how many packets were sent in them.
    #[track_caller]
    pub fn go_on(&self) -> u64 {
        let (round, sent) = self.last();
        wait_until("more probes", || {
            assert!(self.0.is_running(), "the probes ended: {}", self.0.stderr());
            (self.last().0 >= round + 10).then_some(())
        });
        self.last().1 - sent
    }
}

/// tcpdump(8) on all links of the host, for packets that only probes send and packets that only
/// tunnels may carry.
pub struct Watch<'a> {
    host: &'a Host,
    process: Background,
}

impl<'a> Watch<'a> {
    #[track_caller]
    pub fn start(host: &'a Host) -> Self {
        let filter =
            format!("host {FAR} or host {FAR6} or net 10.0.0.0/8 or ip6 net fd00::/8 or port 53");
        let script =
            format!("echo $$; exec tcpdump -Z root -n -l --immediate-mode -i any '{filter}'");
        let process = host.spawn(&script);
        wait_until("tcpdump listens", || {
            process.stderr().contains("listening on").then_some(())
        });
        Self { host, process }
    }

    /// Returns the packets that were seen. A last packet, sent by the host itself, proves that none
    /// is still to come.
    #[track_caller]
    pub fn finish(self) -> Vec<String> {
        self.host
            .run(&format!(
                "python3 -c 'import socket; \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b\"last\", (\"{FAR}\", 9999))'"
            ))
            .ok();
        wait_until("the last packet is seen", || {
            self.process
                .stdout()
                .contains(&format!("{FAR}.9999"))
                .then_some(())
        });
        let output = self.process.stdout();
        let mut lines = output.lines();
        self.host
            .ok(&format!("kill {}", lines.next().expect("tcpdump's pid")));
        lines
            .filter(|line| !line.contains(".9999"))
            .filter(|line| !line.contains("ICMP") || !line.contains("port 9999"))
            .map(str::to_string)
            .collect()
    }

    /// Fails the test if anything was seen.
    #[track_caller]
    pub fn assert_nothing(self) {
        let seen = self.finish();
        assert!(
            seen.is_empty(),
            "{} packets outside the tunnel: {:#?}",
            seen.len(),
            &seen[..seen.len().min(10)]
        );
    }
}

/// Whether `alice` gets an answer to a ping from the namespace.
pub fn ping(host: &Host, namespace: &str, address: &str) -> bool {
    host.user("alice")
        .run(&format!("runns-exec {namespace} -- ping -c1 -W1 {address}"))
        .status
        == 0
}

/// Waits until [`ping`] gets an answer.
#[track_caller]
pub fn wait_for_ping(host: &Host, namespace: &str, address: &str) {
    wait_until(&format!("{address} answers in {namespace}"), || {
        ping(host, namespace, address).then_some(())
    });
}

/// The pids of a namespace's tunnel daemons, from its record.
pub fn daemons(host: &Host, namespace: &str) -> Vec<String> {
    let script = format!(
        "python3 -c 'import json; [print(d[\"pid\"]) for d in json.load(open(\"/run/runns/{namespace}.json\"))[\"daemons\"]]'"
    );
    host.ok(&script).lines().map(str::to_string).collect()
}

/// A field of the first tunnel in `status --json`.
pub fn tunnel_field(host: &Host, user: &str, namespace: &str, field: &str) -> String {
    let runner = if user == "root" {
        host.root()
    } else {
        host.user(user)
    };
    runner.ok(&format!(
        "runns-exec status {namespace} --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0][\"tunnels\"][0][\"{field}\"])'"
    ))
}

/// Starts a resolver in the internet, at an address of a tunnel's other end that need not exist
/// yet.
pub fn start_resolver(host: &Host, address: &str, answer: &str) -> Background {
    host.root().inside(&host.internet.net).spawn(&format!(
        "exec dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
         --log-facility=- --bind-dynamic --listen-address={address} --address=/#/{answer}"
    ))
}

/// Gives the host's uplink another IPv4 address, brings it up and restores its routes.
pub fn set_uplink_address(host: &Host, address: &str) {
    host.ok(&format!(
        "ip -4 address flush dev eth0; ip link set eth0 up && ip address add {address}/24 dev eth0 && \
         ip route replace default via 192.0.2.1 && ip -6 address replace 2001:db8::2/64 dev eth0 nodad && \
         ip -6 route replace default via 2001:db8::1"
    ));
}
