//! An openconnect that its server has taken over, and one that is told which protocol to speak.

use super::openconnect::{host_with_server, wait_until_down};
use super::{FAR, Probes, Watch, daemons, host, ping};
use crate::support::ocserv::section;
use crate::support::{Host, Snapshot, wait_until};

/// It logs in to nothing, and as a daemon hands over what it likes. Its command line is kept.
const TAKEN_OVER: &str = r#"#!/usr/bin/python3 -I
import fcntl, os, struct, sys, signal
if "--authenticate" in sys.argv:
    config = open(sys.argv[sys.argv.index("--config") + 1]).read()
    sys.stderr.write("protocol: " + config.replace("\n", ";") + "\n")
    sys.stderr.write("keeper: started 1\nbuild: answer x\n\033]0;evil\007\n")
    print("COOKIE='it'\nCONNECT_URL='https://192.0.2.1/'\nFINGERPRINT='pin-sha256:AA'\nRESOLVE='a:192.0.2.1'")
    sys.exit(0)
word = lambda option: sys.argv[sys.argv.index(option) + 1]
cookie = os.read(0, 100)
assert cookie == b"it\n", cookie
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", word("--interface").encode(), 0x1001))
print("keeper: stay\nkeeper: failed x\n>FATAL:x\n>STATE:0,CONNECTED,\n\033]0;evil\007", flush=True)
said = open("/usr/local/share/said", "rb").read()
while said:
    said = said[os.write(0, said):]
signal.pause()
"#;

const SAID: &str = r#"
import sys
out = open("/usr/local/share/said", "wb")
def say(**variables):
    for name, value in variables.items():
        out.write(f"{name}={value}".encode() + b"\0")
    out.write(b"\0")
out.write(b"\0\0no variable\0=\0reason\0\0")
say(reason="disconnect; reboot")
say(reason="attempt-reconnect")
evil = "$(touch /tmp/pwned)\nnameserver 6.6.6.6"
say(reason="connect", TUNDEV="eth0", INTERNAL_IP4_ADDRESS="10.66.0.2", INTERNAL_IP4_NETMASKLEN="24; reboot",
    INTERNAL_IP4_MTU="99999999999999999999", INTERNAL_IP4_DNS=f"127.0.0.1 10.66.0.1 {evil}",
    INTERNAL_IP6_NETMASK="::1/0", INTERNAL_IP6_DNS="::1 ::ffff:127.0.0.1",
    CISCO_DEF_DOMAIN=f"good.example ../../etc {evil}", VPNGATEWAY=evil, LD_PRELOAD="/tmp/evil.so",
    CISCO_SPLIT_INC="18446744073709551616", CISCO_SPLIT_INC_0_ADDR="0.0.0.0",
    CISCO_IPV6_SPLIT_INC="-1", CISCO_SPLIT_EXC="3", CISCO_SPLIT_EXC_0_ADDR="0.0.0.0", CISCO_SPLIT_EXC_0_MASKLEN="0",
    CISCO_SPLIT_EXC_1_ADDR="192.0.2.0", CISCO_SPLIT_EXC_1_MASKLEN="24",
    CISCO_SPLIT_EXC_2_ADDR="fe80::1", CISCO_SPLIT_EXC_2_MASKLEN="33")
"#;

fn take_over(host: &Host, options: &str) {
    host.write("/usr/local/sbin/openconnect", TAKEN_OVER);
    host.ok("chmod 755 /usr/local/sbin/openconnect");
    host.write("/root/said.py", SAID);
    host.ok("python3 /root/said.py && mkdir -p /etc/openconnect");
    host.write("/etc/openconnect/work.conf", "protocol=gp\nuser=alice\n");
    host.configure(&format!(
        "[work]\nOpenConnect=192.0.2.1\nOpenConnectOptions=/etc/openconnect/work.conf\n{options}"
    ));
}

#[test]
fn a_daemon_that_was_taken_over_gets_nothing_but_its_tunnel() {
    let host = host();
    take_over(&host, "KillSwitch=yes\n");
    let before = Snapshot::of(&host);
    let network = host.ok("ip route; ip -6 route; ip rule; ip -br address show lo");
    let watch = Watch::start(&host);
    let built = host.run("script -qec 'runns-exec build -s work' /dev/null </dev/null");
    assert_eq!(built.status, 0, "{built}");
    assert!(!built.stdout.contains('\u{1b}'), "{built:?}");
    assert!(built.stdout.contains("protocol: protocol=gp"), "{built}");
    let inside = host.ok("ip netns exec work ip -br -4 address show tun0");
    assert!(inside.trim_end().ends_with(" 10.66.0.2/32"), "{inside}");
    let resolv = host
        .user("alice")
        .ok("runns-exec work -- grep -v '^#' /etc/resolv.conf");
    assert_eq!(
        resolv,
        "nameserver 10.66.0.1\nnameserver 6.6.6.6\nsearch good.example"
    );
    assert_eq!(
        host.ok("ip route; ip -6 route; ip rule; ip -br address show lo"),
        network
    );
    Probes::start(&host, "work").go_on();
    host.ok("test ! -e /tmp/pwned && runns-exec clean work -f --kill");
    watch.assert_nothing();
    before.assert_same(&Snapshot::of(&host));
}

/// A daemon that hands over more than its keeper has room for is stopped.
#[test]
fn a_keeper_has_a_limit() {
    let host = host();
    take_over(&host, "KillSwitch=yes\n");
    let flood = |said: &str, words: &str| {
        host.ok(&format!("python3 -c \"{said}\" >/usr/local/share/said"));
        let failed = host.run("runns-exec build -s work");
        failed.refused(1, &[words]);
        host.ok("! pgrep -f [.]tunnel-keeper");
    };
    flood("print('x' * (1 << 20), end='')", "a variable is too long");
    flood(
        "import sys; sys.stdout.write(''.join(f'INTERNAL_IP4_{n}={\\\"x\\\" * 1000}' + chr(0) for n in range(20000)))",
        "too many routes or options",
    );
}

/// What a daemon says that comes up again and again, each time with another name server.
const RESTLESS: &str = r#"
for number in range(1000):
    print(f"reason=connect\0INTERNAL_IP4_ADDRESS=10.66.0.2\0INTERNAL_IP4_NETMASKLEN=24\0"
          f"INTERNAL_IP4_DNS=10.66.0.{1 + number % 2}\0\0", end="")
"#;

/// Each time, root loads rules and writes files for it.
#[test]
fn a_daemon_that_comes_up_without_end_is_stopped() {
    let host = host();
    take_over(&host, "KillSwitch=yes\n");
    host.write("/root/restless.py", RESTLESS);
    host.ok("runns-exec build -s work");
    let pid = host.user("alice").ok("runns-exec -d work -- sleep 1000");
    // The same daemon, started again by a repair.
    host.ok(&format!(
        "python3 /root/restless.py >/usr/local/share/said && kill -9 {}",
        daemons(&host, "work").concat()
    ));
    wait_until_down(&host, "its daemon has exited");
    host.run("runns-exec build -s work");
    wait_until_down(&host, "the daemon came up and went down too often");
    wait_until("all is gone", || {
        (host
            .run("pgrep openconnect || pgrep -f [.]tunnel-keeper")
            .status
            != 0)
            .then_some(())
    });
    host.ok(&format!("kill -0 {pid}"));
    host.ok("test \"$(ip netns exec work ip -br link | cut -d' ' -f1)\" = lo");
}

/// What somebody can do in the place of the daemon.
#[test]
fn the_daemon_is_confined() {
    let (host, _server) = host_with_server("route = default\n", "KillSwitch=yes\n");
    host.ok("LC_ALL=de_DE.UTF-8 LANGUAGE=de runns-exec build -s work");
    let pid = daemons(&host, "work").concat();
    let status = host.ok(&format!("cat /proc/{pid}/status"));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap()
            .split_whitespace()
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    let user: u32 = field("Uid:")[0].parse().unwrap();
    assert!((65536..98304).contains(&user) && field("Groups:").is_empty());
    // What it prints is read: nothing has it speak another language.
    let environment = host.ok(&format!("tr '\\0' '\\n' </proc/{pid}/environ"));
    assert_eq!(environment.lines().count(), 1, "{environment}");
    assert!(environment.starts_with("PATH="), "{environment}");
    let view = host.ok(&format!(
        "ls /proc/{pid}/root /proc/{pid}/root/etc/openconnect"
    ));
    for hidden in ["home", "root", "var", "proc", "password"] {
        assert!(
            !view.split_whitespace().any(|name| name == hidden),
            "{view}"
        );
    }
    let opened = host.ok(&format!("ls -l /proc/{pid}/fd"));
    assert!(
        !opened.contains("/run/") && !opened.contains("/root"),
        "{opened}"
    );
}

/// The end of the daemon, whatever it has said, is the end of the tunnel.
#[test]
fn the_end_of_build_is_the_end_of_its_keeper() {
    let host = host();
    take_over(&host, "KillSwitch=yes\n");
    host.ok(": >/usr/local/share/said");
    let build = host.spawn("exec runns-exec build -s work --wait 60");
    wait_until("the daemon runs", || {
        (host.run("pgrep -f 'openconnect.*[-]-interface'").status == 0).then_some(())
    });
    host.ok("pkill -KILL -f 'runns-exec [b]uild'");
    let _ = build.wait();
    wait_until("all is gone", || {
        (host
            .run("pgrep openconnect || pgrep -f [.]tunnel-keeper")
            .status
            != 0)
            .then_some(())
    });
    host.ok("runns-exec clean work");
}

#[test]
fn a_daemon_that_ends_without_a_word() {
    let (host, _server) = host_with_server("route = default\n", "KillSwitch=yes\n");
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
    host.ok(&format!("kill -9 {}", daemons(&host, "work").concat()));
    wait_until_down(&host, "its daemon has exited without a message");
    host.configure(&section("KillSwitch=yes\n"));
    host.ok("runns-exec build -s work");
    assert!(ping(&host, "work", FAR));
}

/// Logs in without an end: it talks, or closes its output and goes on.
const ENDLESS: &str = r#"#!/usr/bin/python3 -I
import os, sys, time
talks = os.path.exists("/usr/local/share/talks")
if not talks:
    os.close(1)
while True:
    print("please wait", file=sys.stderr, flush=True)
    time.sleep(0.1)
"#;

/// A login that does not end keeps neither build, for which others wait, nor the keeper.
#[test]
fn a_login_has_an_end() {
    let host = host();
    take_over(&host, "KillSwitch=yes\n");
    host.write("/usr/local/sbin/openconnect", ENDLESS);
    host.ok("chmod 755 /usr/local/sbin/openconnect");
    let nothing_is_left = || {
        host.run("pgrep openconnect || pgrep -f [.]tunnel-keeper")
            .status
            != 0
    };
    host.ok("touch /usr/local/share/talks");
    let failed = host.run("timeout 60 runns-exec build -s work --wait 2");
    failed.refused(1, &["did not complete the authentication in time"]);
    assert!(nothing_is_left());
    host.ok("rm /usr/local/share/talks");
    let build = host.spawn("exec runns-exec build -s work");
    wait_until("it has closed its output", || {
        let script = "test ! -e /proc/$(pgrep -f 'openconnect.*[-]-authenticate')/fd/1";
        (host.run(&format!("pgrep openconnect && {script}")).status == 0).then_some(())
    });
    host.ok("pkill -KILL -f 'runns-exec [b]uild'");
    let _ = build.wait();
    wait_until("all is gone", || nothing_is_left().then_some(()));
    host.ok("runns-exec clean work");
}
