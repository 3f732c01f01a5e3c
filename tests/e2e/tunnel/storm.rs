//! A storm: random damage of many kinds, one or several at once, to namespaces of every kind with
//! programs inside. Building again repairs all of it, the programs go on, and at no moment does a
//! packet leave by a way that its namespace does not have.
//!
//! | variable | meaning |
//! |---|---|
//! | `RUNNS_STORM_SECONDS` | how long it lasts (20) |
//! | `RUNNS_STORM_SEED` | the seed of an earlier storm, which a failure names |

use std::time::{Duration, Instant};

use super::{FAR6, daemons, host, start_resolver, wireguard};
use crate::neighbours::{bring_programs, from_lan, serve};
use crate::support::ocserv::{self, Ocserv};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Background, Host, Net, wait_until};

/// Each namespace with the address that only its program sends to, and the uplinks by which that
/// may leave as it is.
const NAMESPACES: [(&str, &str, &[&str]); 5] = [
    ("plain", "198.51.100.70", &["eth0"]),
    ("bound", "198.51.100.71", &["eth1"]),
    ("killed", "198.51.100.72", &[]),
    ("guarded", "198.51.100.73", &[]),
    ("company", "198.51.100.74", &[]),
];

const CONFIG: &str = "[plain]\nPublish=8080:80\n\n[bound]\nInterfaceOut=eth1\nDNS=198.51.100.53\n\n\
    [killed]\nKillSwitch=yes\nvpn=/etc/openvpn/work.conf\nPublish=8081:80\nHostAccess=7001\nBypass=203.0.113.0/24\n\n\
    [guarded]\nKillSwitch=yes\nWireGuard=/etc/wireguard/wg0.conf\n\n\
    [company]\nKillSwitch=yes\nOpenConnect=192.0.2.1\nOpenConnectOptions=/etc/openconnect/work.conf\n\
    OpenConnectPassword=/etc/openconnect/password\n";

const SERVER: &str =
    "push \"redirect-gateway def1\"\npush \"dhcp-option DNS 10.8.0.1\"\nkeepalive 1 3\n";

/// Damage to any namespace.
const ANY: [&str; 6] = [
    "umount /run/netns/NAME",
    "umount /run/netns/NAME && rm /run/netns/NAME",
    "ip -n NAME link set lo down",
    "ip netns exec NAME sysctl -qw net.ipv4.ip_unprivileged_port_start=7",
    "mount --make-private /run/netns",
    "true",
];

/// Damage to those with a veth pair.
const VETH: [&str; 9] = [
    "sysctl -qw net.ipv4.ip_forward=0",
    "sysctl -qw net.ipv4.conf.NAME.forwarding=0",
    "ip link set NAME down",
    "ip link delete NAME",
    "ip link set NAME down && ip link set NAME name x$$ && ip link set x$$ up",
    "ip address flush dev NAME",
    "ip -n NAME link set eth0 down",
    "ip -n NAME address flush dev eth0",
    "ip -n NAME route flush dev eth0",
];

/// Damage to those with ways of their own.
const WAYS: [&str; 9] = [
    "ip -n NAME rule del priority 900",
    "ip -n NAME -6 rule del priority 900",
    "ip -n NAME rule del priority 901",
    "ip -n NAME route flush table 17251000",
    "ip netns exec NAME nft delete table inet runns",
    "ip netns exec NAME sysctl -qw net.ipv4.tcp_fwmark_accept=0",
    "sysctl -qw net.ipv6.conf.all.forwarding=0",
    "ip -6 address flush dev NAME",
    "rm -f /run/runns/.hosts-NAME",
];

/// Damage to those with a resolver of their own.
const RESOLVER: [&str; 9] = [
    "echo nameserver 192.0.2.1 >/etc/netns/NAME/resolv.conf",
    "rm /etc/netns/NAME/*",
    "ln -sf /etc/resolv.conf /etc/netns/NAME/resolv.conf",
    ">/etc/netns/NAME/nsswitch.conf",
    "chown alice /etc/netns/NAME/nsswitch.conf",
    "ip netns exec NAME nft flush ruleset",
    "ip netns exec NAME nft flush chain inet runns redirecting",
    "ip netns exec NAME nft flush set inet runns resolvers",
    "ip netns exec NAME sysctl -qw net.ipv4.conf.all.route_localnet=0",
];

/// Damage to the uplink of `bound`. It comes back, for nothing else could repair it.
const UPLINK: [&str; 4] = [
    "ip link set eth1 down; sleep 0.1; ip link set eth1 up; ip route add default via 198.18.0.1 dev eth1 metric 500",
    "ip route del default dev eth1; ip route add default via 198.18.0.9 dev eth1 metric 500",
    "sysctl -qw net.ipv4.conf.eth1.rp_filter=1",
    "sysctl -qw net.ipv4.conf.eth1.forwarding=0",
];

/// Two guards keep a namespace from leaving by another uplink: the mark with its routing rule and
/// table, and the firewall's rules for the group of its veth. These remove the first one.
const ROUTING: [&str; 3] = [
    "ip rule del priority 1",
    "for table in $(ip rule | grep -o 'lookup 17[0-9]*' | cut -d' ' -f2); do ip route flush table $table; done",
    "tc qdisc del dev bound ingress",
];

const TUNNEL: [&str; 4] = [
    "kill -9 DAEMONS",
    "ip -n NAME link delete DEVICE",
    "ip -n NAME link set DEVICE down",
    "ip -n NAME route flush dev DEVICE",
];

/// These remove the second one.
const FIREWALL: [&str; 8] = [
    "ip link set bound group 7",
    "iptables -F",
    "nft flush chain inet runns masquerading",
    "nft flush table inet runns",
    "nft delete table inet runns",
    "nft flush ruleset",
    "iptables -P FORWARD DROP",
    "nft flush set inet runns uplinks",
];

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    /// A command that damages something; `guard` is which of the two guards it may remove.
    fn damage(&mut self, guard: &[&'static str]) -> (&'static str, &'static str) {
        let any = NAMESPACES[self.below(5)].0;
        let veth = NAMESPACES[self.below(3)].0;
        match self.below(9) {
            0 => (any, self.of(&ANY)),
            1 | 2 => (veth, self.of(&VETH)),
            3 => (
                ["bound", "killed", "guarded", "company"][self.below(4)],
                self.of(&RESOLVER),
            ),
            4 => ("bound", self.of(&UPLINK)),
            8 => (["plain", "killed"][self.below(2)], self.of(&WAYS)),
            5 => (
                ["killed", "guarded", "company"][self.below(3)],
                self.of(&TUNNEL),
            ),
            _ => ("bound", self.of(guard)),
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .and_then(|value| value.parse().ok())
}

/// What arrives at the other end of the uplink `name` although it belongs to a namespace without
/// it.
fn watch(host: &Host, net: &Net, name: &str) -> Background {
    let foreign = NAMESPACES
        .iter()
        .filter(|(_, _, uplinks)| !uplinks.contains(&name));
    let filter: Vec<String> = foreign
        .map(|(_, address, _)| format!("host {address}"))
        .collect();
    let filter = format!("inbound and ({} or ip6 host {FAR6})", filter.join(" or "));
    let watch = host.root().inside(net).spawn(&format!(
        "exec tcpdump -Z root -nl --immediate-mode -i {name} '{filter}'"
    ));
    wait_until("tcpdump listens", || {
        watch.stderr().contains("listening on").then_some(())
    });
    watch
}

struct Storm {
    host: Host,
    log: Vec<String>,
    seed: u64,
    programs: Vec<(String, String)>,
    watches: Vec<Background>,
}

impl Storm {
    fn start(host: Host, nets: &[(&Net, &str)], seed: u64) -> Self {
        let start = |(name, address, _): &(&str, &str, &[&str])| {
            let script = format!(
                "exec runns-exec -d {name} -- python3 /usr/local/share/probe.py {address} {FAR6}"
            );
            let pid = host.user("alice").ok(&format!(
                "{{ {script}; }} 2>/dev/null >/dev/null; pgrep -nf 'probe.py {address}'"
            ));
            let identity = identity(&host, &pid);
            (pid, identity)
        };
        let programs = NAMESPACES.iter().map(start).collect();
        let watches = nets
            .iter()
            .map(|(net, name)| watch(&host, net, name))
            .collect();
        Self {
            host,
            log: Vec::new(),
            seed,
            programs,
            watches,
        }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let last = self.log.len().saturating_sub(12);
        panic!(
            "seed {}: {what}\nafter: {:#?}",
            self.seed,
            &self.log[last..]
        );
    }

    fn round(&mut self, random: &mut Random) {
        let guard: &[&str] = if random.below(2) == 0 {
            &ROUTING
        } else {
            &FIREWALL
        };
        for _ in 0..=random.below(3) {
            let (name, command) = random.damage(guard);
            let device = if name == "guarded" { "wg0" } else { "tun0" };
            let mut command = command.replace("NAME", name).replace("DEVICE", device);
            if command.contains("DAEMONS") {
                command = command.replace("DAEMONS", &daemons(&self.host, name).join(" "));
            }
            // What an earlier one has damaged already may fail.
            self.host.run(&command);
            self.log.push(command);
        }
        for (name, ..) in NAMESPACES {
            let built = self.host.run(&format!("runns-exec build -s {name}"));
            if built.status != 0 {
                self.fail(&format!("{built}"));
            }
            self.log
                .extend(built.stdout.lines().map(|line| format!("  {name}: {line}")));
        }
        self.check();
    }

    fn check(&self) {
        let shown = self.host.run("runns-exec status");
        if shown.status != 0 {
            self.fail(&format!("{shown}"));
        }
        for ((name, address, _), (pid, known)) in NAMESPACES.iter().zip(&self.programs) {
            if identity(&self.host, pid) != *known {
                self.fail(&format!("the program in {name} is not the same any more"));
            }
            let end = Instant::now() + Duration::from_secs(10);
            while self
                .host
                .user("alice")
                .run(&format!("runns-exec {name} -- ping -c1 -W1 {address}"))
                .status
                != 0
            {
                if Instant::now() > end {
                    self.fail(&format!("nothing gets through {name}"));
                }
            }
        }
        for port in [8080, 8081] {
            let said = from_lan(&self.host, "192.0.2.2", port, "tcp");
            if said != "peer 192.0.2.1" {
                self.fail(&format!("port {port} leads nowhere: {said}"));
            }
        }
        for watch in &self.watches {
            let seen = watch.stdout();
            if !seen.is_empty() {
                self.fail(&format!(
                    "packets left by a way that is not theirs: {}",
                    seen.lines().take(10).collect::<Vec<_>>().join("\n")
                ));
            }
        }
    }
}

fn identity(host: &Host, pid: &str) -> String {
    host.run(&format!(
        "cut -d' ' -f22 /proc/{pid}/stat; readlink /proc/{pid}/ns/net"
    ))
    .stdout
}

#[test]
fn of_damage_is_survived() {
    let seed = number("RUNNS_STORM_SEED").unwrap_or_else(|| {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros() as u64
            | 1
    });
    println!("RUNNS_STORM_SEED={seed}");
    let (host, _peer) = wireguard::host_with_peer();
    let net = Net::new();
    host.add_uplink("eth1", "198.18.0.2/24", &net, "198.18.0.1/24");
    net.ip("address add 198.18.0.9/24 dev eth1");
    host.ok("ip route add default via 198.18.0.1 dev eth1 metric 500");
    for (_, address, _) in NAMESPACES {
        host.internet
            .net
            .ip(&format!("address add {address}/32 dev lo"));
        net.ip(&format!("address add {address}/32 dev lo"));
    }
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
    openvpn::configure_client(&host, "work", 1194);
    ocserv::prepare(&host);
    let _company = Ocserv::start(&host, "route = default\n");
    host.configure(CONFIG);
    for (name, ..) in NAMESPACES {
        host.ok(&format!("runns-exec build -s {name}"));
    }
    bring_programs(&host);
    let _servers =
        ["plain", "killed"].map(|name| serve(&host, &format!("ip netns exec {name}"), 80));
    let _resolver = start_resolver(&host, "10.8.0.1", "198.51.100.7");
    let nets = [(&Net::clone_of(&host.internet.net), "eth0"), (&net, "eth1")];
    let mut storm = Storm::start(host, &nets, seed);
    storm.check();
    let mut random = Random(seed);
    let end = Instant::now() + Duration::from_secs(number("RUNNS_STORM_SECONDS").unwrap_or(20));
    let mut rounds = 0;
    while Instant::now() < end {
        storm.round(&mut random);
        rounds += 1;
    }
    println!(
        "{rounds} rounds, {} lines: {:#?}",
        storm.log.len(),
        storm.log
    );
}

/// Proves that the watches work: a packet of a namespace that leaves by the wrong uplink is seen.
#[test]
fn the_watches_see_what_leaves_by_the_wrong_uplink() {
    let host = host();
    let net = Net::clone_of(&host.internet.net);
    let watch = watch(&host, &net, "eth0");
    wait_until("the packet", || {
        host.run("ping -c1 -W1 198.51.100.71");
        watch.stdout().contains("198.51.100.71").then_some(())
    });
}
