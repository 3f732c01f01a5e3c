//! Leaks through files that the host replaces, stubs, built-in servers and IPv6 (for the host's
//! services, see `services`).

use super::{
    HOST_RESOLVER, INSIDE, LEAKED, PUBLIC, PUBLIC_RESOLVER, RESOLVER, World, start_resolver,
};
use crate::support::wait_until;

#[test]
fn resolv_conf_replaced_while_a_command_runs() {
    let world = World::new();
    let (other, ours) = (world.asker_by_ip_netns(), world.asker());
    assert_eq!(
        (other.ask(), ours.ask()),
        (INSIDE.to_string(), INSIDE.to_string())
    );
    world.replace(
        "/etc/resolv.conf",
        &format!("# renewed\nnameserver {HOST_RESOLVER}\n"),
    );
    assert_eq!(
        other.ask(),
        LEAKED,
        "the kernel detaches a mount on a file that is replaced"
    );
    world.asking_nobody_else(|| {
        assert_eq!(ours.ask(), INSIDE);
        assert_eq!(world.getent(), INSIDE);
    });
    world.replace("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    world.asking_nobody_else(|| assert_eq!(ours.ask(), INSIDE));
}

#[test]
fn resolv_conf_is_a_symlink() {
    let world = World::new();
    let target = "/run/NetworkManager/resolv.conf";
    world
        .host
        .write(target, &format!("nameserver {HOST_RESOLVER}\n"));
    world.host.ok(&format!("ln -sfn {target} /etc/resolv.conf"));
    let (other, ours) = (world.asker_by_ip_netns(), world.asker());
    assert_eq!(
        (other.ask(), ours.ask()),
        (INSIDE.to_string(), INSIDE.to_string())
    );
    world.replace(target, &format!("# renewed\nnameserver {HOST_RESOLVER}\n"));
    assert_eq!(other.ask(), LEAKED);
    world.asking_nobody_else(|| assert_eq!(ours.ask(), INSIDE));
    world.host.ok(&format!(
        "ln -s {target} /etc/link && mv -T /etc/link /etc/resolv.conf"
    ));
    world.asking_nobody_else(|| {
        assert_eq!(ours.ask(), INSIDE);
        assert_eq!(world.getent(), INSIDE);
    });
}

#[test]
fn stub_of_the_host() {
    let world = World::new();
    world.replace("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    let dig = "dig +short +tries=1 +time=2 @127.0.0.53 stub.example";
    assert_ne!(
        world.host.run(&format!("ip netns exec open {dig}")).status,
        0,
        "nobody listens there inside"
    );
    world.asking_nobody_else(|| {
        for protocol in ["+notcp", "+tcp"] {
            assert_eq!(
                world
                    .alice()
                    .ok(&format!("runns-exec work -- {dig} {protocol}")),
                INSIDE
            );
        }
        assert_eq!(world.getent(), INSIDE);
    });
}

#[test]
fn servers_that_programs_have_built_in() {
    let world = World::new();
    for server in [PUBLIC_RESOLVER, HOST_RESOLVER, "127.0.0.1", "192.0.2.2"] {
        let answer = if server == PUBLIC_RESOLVER {
            PUBLIC
        } else {
            LEAKED
        };
        for protocol in ["+notcp", "+tcp"] {
            let dig = format!(
                "dig +short +tries=1 +time=2 {protocol} @{server} {}",
                world.fresh_name()
            );
            if server != "127.0.0.1" {
                assert_eq!(world.host.ok(&format!("ip netns exec open {dig}")), answer);
            }
            world.asking_nobody_else(|| {
                assert_eq!(
                    world.alice().ok(&format!("runns-exec work -- {dig}")),
                    INSIDE
                )
            });
        }
    }
}

#[test]
fn resolver_of_a_static_program() {
    let world = World::new();
    world
        .host
        .ok("mv /usr/bin/busybox /usr/bin/busybox.dynamic");
    world.host.unpack("busybox-static");
    world.host.ok("! ldd /bin/busybox");
    let nslookup =
        |server: &str| format!("busybox nslookup -type=a {} {server}", world.fresh_name());
    assert!(
        world
            .host
            .ok(&format!("ip netns exec open {}", nslookup(HOST_RESOLVER)))
            .contains(LEAKED)
    );
    for server in ["", HOST_RESOLVER, PUBLIC_RESOLVER] {
        world.asking_nobody_else(|| {
            let output = world
                .alice()
                .ok(&format!("runns-exec work -- {}", nslookup(server)));
            assert!(output.contains(INSIDE), "{output}");
        });
    }
}

/// The command line of a headless browser.
const CHROMIUM: &str = "$(command -v chromium-headless-shell || echo chromium --headless) --no-sandbox --disable-gpu \
                        --disable-dev-shm-usage --user-data-dir=/home/alice/profile --dump-dom";

#[test]
fn curl() {
    fetches_the_page_of_the_inside("curl -sS");
}

#[test]
fn chromium() {
    fetches_the_page_of_the_inside(CHROMIUM);
}

#[track_caller]
fn fetches_the_page_of_the_inside(program: &str) {
    let world = World::new();
    let _pages =
        [(INSIDE, "page of the inside"), (LEAKED, "page of the host")].map(|(address, name)| {
            world
                .host
                .internet
                .net
                .serve(&format!("{address}:80"), name)
        });
    world.replace(
        "/etc/resolv.conf",
        &format!("# today's\nnameserver {HOST_RESOLVER}\n"),
    );
    let alice = world.alice();
    let get = || format!("{program} http://{}/", world.fresh_name());
    assert!(alice.ok(&get()).contains("page of the host"));
    world.asking_nobody_else(|| {
        let output = alice.ok(&format!("runns-exec work -- {}", get()));
        assert!(output.contains("page of the inside"), "{output}");
    });
    // A browser that sees the host's file, because it was replaced while the command ran.
    let questions = format!("/tmp/{}", world.fresh_name());
    world.host.ok(&format!("mkfifo -m 666 {questions}"));
    let shell = format!(
        "echo ready; read -r _; grep -q today /etc/resolv.conf && {}",
        get()
    );
    let running = alice.spawn(&format!(
        "exec runns-exec work -- sh -c '{shell}' 0<>{questions}"
    ));
    wait_until("the command runs", || {
        running.stdout().contains("ready").then_some(())
    });
    world.replace(
        "/etc/resolv.conf",
        &format!("# today's again\nnameserver {HOST_RESOLVER}\n"),
    );
    world.asking_nobody_else(|| {
        world.host.ok(&format!("echo >{questions}"));
        let output = running.wait().ok();
        assert!(output.contains("page of the inside"), "{output}");
    });
}

#[test]
fn queries_over_ipv6() {
    let world = World::new();
    for (number, name) in ["work", "open"].iter().enumerate() {
        let net = format!("fd00:{number}");
        let script = format!(
            "for end in '' 'ip netns exec {name}'; do $end sysctl -qw net.ipv6.conf.all.disable_ipv6=0; done; \
             sysctl -qw net.ipv6.conf.{name}.disable_ipv6=0; \
             ip netns exec {name} sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0; \
             ip -6 address add {net}::1/64 dev {name} nodad && \
             ip -n {name} -6 address add {net}::2/64 dev eth0 nodad && ip -n {name} -6 route add default via {net}::1"
        );
        world.host.ok(&script);
        start_resolver(&world.host.root(), &format!("{net}::1"), LEAKED);
    }
    for protocol in ["+notcp", "+tcp"] {
        let dig = |net: &str| {
            format!(
                "dig +short +tries=1 +time=2 {protocol} @{net}::1 {}",
                world.fresh_name()
            )
        };
        assert_eq!(
            world
                .host
                .ok(&format!("ip netns exec open {}", dig("fd00:1"))),
            LEAKED
        );
        world.asking_nobody_else(|| {
            let output = world
                .alice()
                .run(&format!("runns-exec work -- {}", dig("fd00:0")));
            assert_ne!(output.status, 0, "{output}");
        });
        world.asking_nobody_else(|| {
            assert_ne!(
                world
                    .alice()
                    .run("runns-exec work -- dig @::1 a.example")
                    .status,
                0
            )
        });
    }
    // Queries are rejected, not dropped, so that programs try the next server at once.
    world.replace(
        "/etc/resolv.conf",
        &format!("nameserver fd00:0::1\nnameserver {HOST_RESOLVER}\n"),
    );
    let ours = world.asker();
    world.replace(
        "/etc/resolv.conf",
        &format!("# renewed\nnameserver fd00:0::1\nnameserver {HOST_RESOLVER}\n"),
    );
    world.asking_nobody_else(|| {
        let start = std::time::Instant::now();
        assert_eq!(ours.ask(), INSIDE);
        assert!(
            start.elapsed().as_secs() < 4,
            "the query over IPv6 was not rejected at once"
        );
    });
}

#[test]
fn resolver_that_is_down_for_a_while() {
    let world = World::new();
    let ours = world.asker();
    assert_eq!(ours.ask(), INSIDE);
    world.stop_own_resolver();
    let dig = "runns-exec work -- dig +tries=1 +time=1 +short";
    let capture = super::Capture::start(&world.host, "any", "port 53");
    for server in ["", "@8.8.8.8", "@127.0.0.53", &format!("@{HOST_RESOLVER}")] {
        let output = world
            .alice()
            .run(&format!("{dig} {server} while.down.example"));
        assert_ne!(output.status, 0, "{output}");
    }
    world.start_own_resolver();
    for line in capture.finish() {
        assert!(
            line.contains(&format!("{RESOLVER}.53")),
            "a packet to another resolver: {line}"
        );
    }
    assert_eq!(ours.ask(), INSIDE);
}
