//! A namespace that somebody still holds after `clean`, by a descriptor or a socket that was passed
//! to a process outside, has nothing left but loopback (SPEC 6).

use super::wireguard::host_with_peer;
use super::{FAR, Watch, host, wait_for_ping};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::{Background, Host, Snapshot, wait_until};
use crate::turns::{calls, killed, points};

const SERVER: &str = "push \"redirect-gateway def1\"\nkeepalive 1 5\n";

/// Passes the namespace that it runs in, and a socket made there, to the process outside.
const GIVE: &str = r#"
import os, socket
with socket.socket(socket.AF_UNIX) as outside:
    outside.connect("/tmp/holder")
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    socket.send_fds(outside, [b"x"], [made.fileno(), os.open("/proc/self/ns/net", os.O_RDONLY)])
    outside.recv(1)
"#;

/// Holds what it is given, sends through the socket all the time, and says what comes of it.
const HOLD: &str = r#"
import os, socket, sys, time
os.path.exists("/tmp/holder") and os.unlink("/tmp/holder")
listening = socket.socket(socket.AF_UNIX)
listening.bind("/tmp/holder")
os.chmod("/tmp/holder", 0o666)
listening.listen()
print("ready", os.getpid(), flush=True)
giver, _ = listening.accept()
_, (given, namespace), _, _ = socket.recv_fds(giver, 1, 2)
giver.send(b"x")
given = socket.socket(fileno=given)
given.settimeout(0.02)
print("namespace", namespace, flush=True)
while True:
    try:
        given.sendto(b"held", (sys.argv[1], 4000))
    except OSError as error:
        print("refused", flush=True)
        time.sleep(0.02)
        continue
    try:
        given.recv(9)
        print("answered", flush=True)
    except OSError:
        pass
"#;

const ECHO: &str = r#"
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 4000))
print("ready", flush=True)
while True:
    data, peer = server.recvfrom(99)
    server.sendto(data, peer)
"#;

/// The process outside that holds the namespace.
struct Holder<'a> {
    host: &'a Host,
    process: Background,
}

impl<'a> Holder<'a> {
    fn start(host: &'a Host) -> Self {
        host.write("/usr/local/share/give.py", GIVE);
        host.write("/usr/local/share/hold.py", HOLD);
        let process = host
            .user("alice")
            .spawn(&format!("exec python3 /usr/local/share/hold.py {FAR}"));
        wait_until("the holder listens", || {
            process.stdout().contains("ready").then_some(())
        });
        Self { host, process }
    }

    /// One that was given namespace `name` by a program of alice's.
    fn of(host: &'a Host, name: &str) -> Self {
        let holder = Self::start(host);
        host.user("alice").ok(&format!(
            "runns-exec {name} -- python3 /usr/local/share/give.py"
        ));
        holder
    }

    fn word(&self, key: &str) -> String {
        let word = || {
            self.process
                .stdout()
                .lines()
                .find_map(|line| Some(line.strip_prefix(key)?.trim().to_string()))
        };
        wait_until(key, word)
    }

    fn count(&self, word: &str) -> usize {
        self.process
            .stdout()
            .lines()
            .filter(|line| *line == word)
            .count()
    }

    #[track_caller]
    fn wait_for(&self, word: &str) {
        let before = self.count(word);
        wait_until(word, || (self.count(word) > before).then_some(()));
    }

    /// The devices in the namespace that it holds.
    fn links(&self) -> String {
        let (pid, namespace) = (self.word("ready"), self.word("namespace"));
        let links =
            format!("nsenter --net=/proc/{pid}/fd/{namespace} ip -o link | cut -d: -f2 | xargs");
        self.host.ok(&links)
    }

    /// Fails the test unless nothing is left in the namespace, and nobody hears its socket.
    #[track_caller]
    fn assert_empty(self) {
        assert_eq!(self.links(), "lo");
        self.wait_for("refused");
        let answered = self.count("answered");
        self.wait_for("refused");
        assert_eq!(self.count("answered"), answered);
        self.host.ok(&format!("kill {}", self.word("ready")));
    }
}

fn echo(host: &Host) -> Background {
    host.write("/usr/local/share/echo.py", ECHO);
    let server = host
        .root()
        .inside(&host.internet.net)
        .spawn(&format!("exec python3 /usr/local/share/echo.py {FAR}"));
    wait_until("the echo server", || {
        server.stdout().contains("ready").then_some(())
    });
    server
}

fn host_with_server(options: &str) -> (Host, OpenVpnServer, Background) {
    let host = host();
    openvpn::make_certificates(&host);
    let server = OpenVpnServer::start_with(&host, 1194, 8, SERVER);
    openvpn::configure_client(&host, "work", 1194);
    host.root()
        .run_with("cat >>/etc/openvpn/work.conf", b"explicit-exit-notify 1\n")
        .ok();
    host.configure(&format!("[work]\nvpn=/etc/openvpn/work.conf\n{options}"));
    let echo = echo(&host);
    (host, server, echo)
}

#[test]
fn by_a_socket_that_was_passed_outside() {
    for options in ["KillSwitch=yes\n", "KillSwitch=yes\nHostAccess=yes\n", ""] {
        let (host, server, _echo) = host_with_server(options);
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        // What root has added to it goes as well, and a device that is in the way of none.
        host.ok("ip -n work link add extra type bridge && ip -n work link set extra up");
        host.ok(
            "ip -n work link add other type veth peer name inner && ip -n work link set inner up",
        );
        let holder = Holder::of(&host, "work");
        holder.wait_for("answered");
        let watch = Watch::start(&host);
        // The host's end has another name by now. (Then nothing leaves by it, nor would the
        // daemon's farewell.)
        if !options.is_empty() {
            host.run("ip link set work down && ip link set work name renamed");
            host.run("ip link set renamed up");
        }
        // A second signal would end the daemon at once.
        let _signals = host.spawn(
            "exec strace -qq -o /tmp/signals -e trace=none -e signal=term -p $(pgrep -f '[o]penvpn-work')",
        );
        wait_until("strace", || {
            let traced = "grep -q 'TracerPid:[^0]*[1-9]' /proc/$(pgrep -f '[o]penvpn-work')/status";
            (host.run(traced).status == 0).then_some(())
        });
        host.ok("runns-exec clean work -f");
        assert_eq!(host.ok("grep -c '^--- SIGTERM' /tmp/signals").trim(), "1");
        holder.assert_empty();
        watch.assert_nothing();
        // OpenVPN 2.6 and later, and earlier ones.
        let told = || {
            ["exit message received", "remote-exit"]
                .iter()
                .any(|words| server.log().contains(words))
        };
        wait_until("the server was told", || told().then_some(()));
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn a_wireguard_device_that_outlives_its_driver() {
    // As the kernel's does, and as one of a hostile driver could.
    const DRIVER: &str = "#!/usr/bin/python3\nimport fcntl, os, sys\nif \"WG_TUN_FD\" in os.environ:\n    \
                          fcntl.ioctl(int(os.environ[\"WG_TUN_FD\"]), 0x400454cb, 1)\n\
                          os.execv(\"/usr/bin/wireguard-go\", [\"wireguard-go\"] + sys.argv[1:])\n";
    let (host, _peer) = host_with_peer();
    let _echo = echo(&host);
    host.write("/usr/local/sbin/driver", DRIVER);
    host.ok("chmod 755 /usr/local/sbin/driver");
    for kill_switch in ["KillSwitch=yes\n", ""] {
        host.configure(&format!(
            "[work]\n{kill_switch}WireGuard=/etc/wireguard/wg0.conf\nWG_QUICK_USERSPACE_IMPLEMENTATION=driver\n"
        ));
        let before = Snapshot::of(&host);
        host.ok("runns-exec build -s work");
        let holder = Holder::of(&host, "work");
        holder.wait_for("answered");
        host.ok("runns-exec clean work -f");
        holder.assert_empty();
        before.assert_same(&Snapshot::of(&host));
    }
}

#[test]
fn after_a_build_that_failed() {
    let (host, _server, _echo) = host_with_server("PostBuild=/usr/local/sbin/up\n");
    host.write(
        "/usr/local/sbin/up",
        "#!/bin/sh\nip link add extra type bridge\npython3 /usr/local/share/give.py\nexit 3\n",
    );
    host.ok("chmod 755 /usr/local/sbin/up");
    let before = Snapshot::of(&host);
    let holder = Holder::start(&host);
    host.run("runns-exec build -s work")
        .refused(1, &["exit status 3"]);
    holder.assert_empty();
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn after_a_keeper_that_was_killed_and_a_name_that_is_gone() {
    let (host, _server, _echo) = host_with_server("KillSwitch=yes\n");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    let holder = Holder::of(&host, "work");
    holder.wait_for("answered");
    let pid = host.user("alice").ok("runns-exec -d work -- sleep 1000");
    host.ok("pkill -KILL -f '[.]tunnel-keeper'; pkill -KILL -f '[o]penvpn-work'");
    // Found by the process that is in it.
    host.ok("umount /run/netns/work && rm /run/netns/work && runns-exec clean work -f --kill");
    assert_ne!(host.run(&format!("kill -0 {pid}")).status, 0);
    holder.assert_empty();
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn after_a_clean_that_was_killed_anywhere() {
    let (host, _server, _echo) = host_with_server("KillSwitch=yes\n");
    let before = Snapshot::of(&host);
    host.ok("runns-exec build -s work");
    let last = calls(&host, "clean work -f");
    for call in points(last, 8) {
        host.ok("runns-exec build -s work");
        wait_for_ping(&host, "work", FAR);
        let holder = Holder::of(&host, "work");
        killed(&host, "clean work -f", call);
        host.ok("runns-exec clean work -f");
        holder.assert_empty();
        before.assert_same(&Snapshot::of(&host));
    }
}
