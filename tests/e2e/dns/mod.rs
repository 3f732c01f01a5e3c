//! Name resolution inside a namespace (SPEC 7): every known way around its resolver is first shown
//! to leak in a namespace without the lock, and then to be closed in one with it.
//!
//! Three resolvers answer every query, each with an address of its own: the host's, the namespace's
//! and a public one. The answer shows which of them answered; tcpdump on all devices of the host
//! shows which others were asked.

mod check;
mod leaks;
mod lock;
mod services;

use std::cell::{Cell, RefCell};

use crate::support::{Background, Host, Runner, wait_until};

/// The namespace's resolver, reached through the uplink.
pub const RESOLVER: &str = "198.51.100.53";
/// A public resolver, such as programs have built in, reached through the uplink.
pub const PUBLIC_RESOLVER: &str = "8.8.8.8";
/// The host's own, which also listens on 127.0.0.1 and on the uplink.
pub const HOST_RESOLVER: &str = "10.99.0.1";

/// What the namespace's resolver answers.
pub const INSIDE: &str = "203.0.113.1";
/// What the host's answers.
pub const LEAKED: &str = "203.0.113.66";
/// What the public one answers.
pub const PUBLIC: &str = "203.0.113.8";

/// Resolves each name that it reads, all in one process, and prints the answer.
const ASK: &str = r#"
import socket, sys
for line in sys.stdin:
    name = line.strip()
    try:
        answer = socket.getaddrinfo(name, 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        answer = "none"
    print(name, answer, flush=True)
"#;

/// A host with the three resolvers and two namespaces: `work`, whose DNS is locked, and `open`,
/// which has a resolver of its own but no lock, as with other tools.
pub struct World {
    pub host: Host,
    numbers: Cell<u32>,
    resolver: RefCell<Option<Background>>,
}

impl World {
    /// Creates the world with both namespaces built.
    pub fn new() -> Self {
        let world = Self::without_namespaces();
        world.build();
        world
    }

    /// Builds both namespaces.
    pub fn build(&self) {
        self.host.configure(
            "[work]\nResolve=/etc/vpn.resolv\n\n[open]\nResolve=/etc/vpn.resolv\nDNSLock=no\n",
        );
        self.host
            .ok("runns-exec build -s work && runns-exec build -s open");
        // Other tools create no such file.
        self.host.ok("rm /etc/netns/open/nsswitch.conf");
    }

    /// Creates the host and its resolvers only.
    pub fn without_namespaces() -> Self {
        let host = Host::new();
        for address in [RESOLVER, PUBLIC_RESOLVER, INSIDE, LEAKED, PUBLIC] {
            host.internet
                .net
                .ip(&format!("address add {address}/32 dev lo"));
        }
        host.ok(&format!("ip address add {HOST_RESOLVER}/32 dev lo"));
        host.write("/etc/resolv.conf", &format!("nameserver {HOST_RESOLVER}\n"));
        host.write("/etc/vpn.resolv", &format!("nameserver {RESOLVER}\n"));
        host.write("/usr/local/share/ask.py", ASK);
        let world = Self {
            host,
            numbers: Cell::new(0),
            resolver: RefCell::new(None),
        };
        for address in ["127.0.0.1", "192.0.2.2", HOST_RESOLVER] {
            start_resolver(&world.host.root(), address, LEAKED);
        }
        start_resolver(&world.internet(), PUBLIC_RESOLVER, PUBLIC);
        world.start_own_resolver();
        world
    }

    fn internet(&self) -> Runner {
        self.host.root().inside(&self.host.internet.net)
    }

    /// Starts the namespace's resolver.
    pub fn start_own_resolver(&self) {
        *self.resolver.borrow_mut() = Some(start_resolver(&self.internet(), RESOLVER, INSIDE));
    }

    /// Stops the namespace's resolver.
    pub fn stop_own_resolver(&self) {
        let resolver = self
            .resolver
            .borrow_mut()
            .take()
            .expect("a running resolver");
        stop(&self.host, resolver);
    }

    /// An ordinary user who may enter.
    pub fn alice(&self) -> Runner {
        self.host.user("alice")
    }

    /// A name that has never been resolved, so that no cache has it.
    pub fn fresh_name(&self) -> String {
        self.numbers.set(self.numbers.get() + 1);
        format!("name{}.example", self.numbers.get())
    }

    /// The result of getent(1) for a fresh name in `open`, entered as other tools do it.
    #[track_caller]
    pub fn getent_by_ip_netns(&self) -> String {
        getent(&self.host.root(), "ip netns exec open", &self.fresh_name())
    }

    /// The result of getent(1) for a fresh name in `work`.
    #[track_caller]
    pub fn getent(&self) -> String {
        getent(&self.alice(), "runns-exec work --", &self.fresh_name())
    }

    /// Starts a process that resolves names in `open`, entered as other tools do it.
    pub fn asker_by_ip_netns(&self) -> Asker<'_> {
        Asker::start(self, &self.host.root(), "ip netns exec open")
    }

    /// Starts a process that resolves names in `work`.
    pub fn asker(&self) -> Asker<'_> {
        Asker::start(self, &self.alice(), "runns-exec work --")
    }

    /// Replaces a file by renaming a new one over it, as editors, DHCP clients and NetworkManager
    /// do.
    pub fn replace(&self, path: &str, text: &str) {
        self.host.write(&format!("{path}.new"), text);
        self.host.ok(&format!("mv {path}.new {path}"));
    }

    /// Runs `act` and fails the test if a resolver other than the namespace's was asked meanwhile.
    #[track_caller]
    pub fn asking_nobody_else(&self, act: impl FnOnce()) {
        let capture = Capture::start(&self.host, "any", "port 53");
        act();
        for line in capture.finish() {
            assert!(
                line.contains(&format!("{RESOLVER}.53")),
                "a packet to another resolver: {line}"
            );
        }
    }
}

/// Starts a resolver that answers every query with `answer`, and waits until it does.
#[track_caller]
pub fn start_resolver(place: &Runner, address: &str, answer: &str) -> Background {
    let resolver = place.spawn(&format!(
        "echo $$ && exec dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root \
         --pid-file= --log-facility=- --address=/#/{answer} --bind-interfaces --listen-address={address}"
    ));
    wait_until(&format!("{address} answers"), || {
        assert!(
            resolver.is_running(),
            "dnsmasq ended: {}",
            resolver.stderr()
        );
        let answer = place.run(&format!(
            "dig +short +tries=1 +time=1 @{address} ready.example"
        ));
        (answer.status == 0).then_some(())
    });
    resolver
}

/// Ends a program that printed its pid first.
pub fn stop(host: &Host, program: Background) {
    let pid = wait_until("a program says its pid", || {
        program.stdout().lines().next().map(str::to_string)
    });
    host.ok(&format!("kill {pid}"));
    program.wait();
}

/// The first address that getent(1) finds; "none" if it finds nothing.
#[track_caller]
pub fn getent(runner: &Runner, enter: &str, name: &str) -> String {
    let output = runner.run(&format!("{enter} getent ahostsv4 {name}"));
    assert!(matches!(output.status, 0 | 2), "{output}");
    output
        .stdout
        .split_whitespace()
        .next()
        .unwrap_or("none")
        .to_string()
}

/// A process that resolves names as long as the test lasts.
pub struct Asker<'a> {
    world: &'a World,
    process: Background,
    questions: String,
}

impl<'a> Asker<'a> {
    fn start(world: &'a World, runner: &Runner, enter: &str) -> Self {
        let questions = format!("/tmp/questions.{}", world.fresh_name());
        world.host.ok(&format!("mkfifo -m 666 {questions}"));
        // Opened for reading and writing, the FIFO never reaches its end.
        let process = runner.spawn(&format!(
            "exec {enter} python3 /usr/local/share/ask.py 0<>{questions}"
        ));
        Self {
            world,
            process,
            questions,
        }
    }

    /// The answer that the process gets for a fresh name.
    #[track_caller]
    pub fn ask(&self) -> String {
        self.ask_for(&self.world.fresh_name())
    }

    /// The answer that the process gets for `name`, for which it has not asked before.
    #[track_caller]
    pub fn ask_for(&self, name: &str) -> String {
        self.world
            .host
            .ok(&format!("echo {name} >{}", self.questions));
        wait_until("an answer", || {
            assert!(
                self.process.is_running(),
                "the asking process ended: {}",
                self.process.stderr()
            );
            let output = self.process.stdout();
            output
                .lines()
                .find_map(|line| Some(line.strip_prefix(name)?.trim().to_string()))
        })
    }
}

/// tcpdump(8) on the host.
pub struct Capture<'a> {
    host: &'a Host,
    process: Background,
}

impl<'a> Capture<'a> {
    /// Starts to capture on `interface`.
    #[track_caller]
    pub fn start(host: &'a Host, interface: &str, filter: &str) -> Self {
        let script = format!(
            "echo $$ && exec tcpdump -Z root -n -l --immediate-mode -i {interface} '{filter}'"
        );
        let process = host.spawn(&script);
        wait_until("tcpdump listens", || {
            process.stderr().contains("listening on").then_some(())
        });
        Self { host, process }
    }

    /// Returns what was captured, once a last packet, sent after those of the test, has been seen.
    #[track_caller]
    pub fn finish(self) -> Vec<String> {
        const LAST: &str = "last.in.capture";
        self.host.ok(&format!("dig +short @{RESOLVER} {LAST}"));
        wait_until("the last packet is seen", || {
            self.process.stdout().contains(LAST).then_some(())
        });
        let lines = self
            .process
            .stdout()
            .lines()
            .skip(1)
            .map(str::to_string)
            .collect();
        stop(self.host, self.process);
        lines
    }
}
