//! Services of the host that resolve names through a socket: nscd, systemd-resolved and avahi, all
//! of them real.

use super::{HOST_RESOLVER, INSIDE, LEAKED, RESOLVER, World, getent};
use crate::support::wait_until;

/// Starts nscd(8), which the C library asks through a socket path, whatever is in nsswitch.conf.
pub fn start_nscd(world: &World) {
    world.host.write(
        "/etc/nscd.conf",
        "enable-cache hosts yes\nenable-cache passwd yes\nenable-cache group yes\n",
    );
    if world.host.run("command -v nscd").status != 0 {
        world.host.unpack("nscd");
    }
    world.host.ok("mkdir -p /run/nscd /var/cache/nscd");
    world.host.spawn("exec nscd --foreground");
    wait_until("nscd listens", || {
        (world.host.run("nscd -g").status == 0).then_some(())
    });
}

/// Starts systemd-resolved(8) with `servers` as its upstream servers.
fn start_resolved(world: &World, servers: &str, stub: &str) {
    if world
        .host
        .run("test -x /lib/systemd/systemd-resolved")
        .status
        != 0
    {
        world.host.unpack("libsystemd-shared");
        world.host.unpack("systemd-resolved");
    }
    if world
        .host
        .run("ldconfig -p | grep -q libnss_resolve")
        .status
        != 0
    {
        world.host.unpack("libnss-resolve");
    }
    world.host.write(
        "/etc/systemd/resolved.conf",
        &format!(
            "[Resolve]\nDNS={servers}\nDNSStubListener={stub}\nDNSSEC=no\nCache=no\nLLMNR=no\nMulticastDNS=no\n\
             FallbackDNS=\n"
        ),
    );
    world.host.ok(
        "getent passwd systemd-resolve >/dev/null || useradd --system systemd-resolve
         mkdir -p /run/systemd/resolve && chown systemd-resolve: /run/systemd/resolve",
    );
    world.host.spawn("exec /lib/systemd/systemd-resolved");
    wait_until("systemd-resolved listens", || {
        let script = "test -S /run/systemd/resolve/io.systemd.Resolve -a -s /run/systemd/resolve/resolv.conf";
        (world.host.run(script).status == 0).then_some(())
    });
}

/// An nsswitch.conf with these modules for host names.
fn nsswitch(hosts: &str) -> String {
    format!("passwd: files\ngroup: files\nshadow: files\nhosts: {hosts}\n")
}

#[test]
fn nscd_that_started_before_the_command_or_after_it() {
    let world = World::new();
    let before = world.asker();
    assert_eq!(world.getent_by_ip_netns(), INSIDE);
    start_nscd(&world);
    assert_eq!(world.getent_by_ip_netns(), LEAKED);
    world.asking_nobody_else(|| {
        assert_eq!(before.ask(), INSIDE);
        assert_eq!(world.asker().ask(), INSIDE);
        assert_eq!(world.getent(), INSIDE);
    });
    // The same from inside its directory.
    let from_there = world.alice().at("/run/nscd");
    assert_eq!(from_there.ok("runns-exec work -- ls"), "");
    assert_eq!(
        getent(&from_there, "runns-exec work --", &world.fresh_name()),
        INSIDE
    );
}

/// Set-user-ID programs ask nscd about users through its path, so nobody but root may decide what
/// is there.
#[test]
fn covered_directories_are_roots_and_sudo_works() {
    let world = World::new();
    start_nscd(&world);
    world
        .host
        .write("/etc/sudoers", "alice ALL=(ALL) NOPASSWD: ALL\n");
    world.host.ok("chmod 0440 /etc/sudoers");
    let alice = world.alice();
    assert_eq!(
        alice.ok("runns-exec work -- stat -c '%u %g %a' /run/nscd"),
        "0 0 555"
    );
    assert_ne!(
        alice
            .run("runns-exec work -- touch /run/nscd/socket")
            .status,
        0
    );
    assert_ne!(alice.run("runns-exec work -- umount /run/nscd").status, 0);
    let script = "runns-exec work -- unshare --user --map-root-user --mount umount /run/nscd";
    assert_ne!(alice.run(script).status, 0);
    assert_eq!(
        alice.ok("runns-exec work -- sudo -n sh -c 'echo $(id -un) $(logname 2>/dev/null)'"),
        "root"
    );
    assert_eq!(
        alice.ok("runns-exec work -- sudo -n -u carol id -un"),
        "carol"
    );
    let root = "runns-exec work -- sudo -n sh -c 'touch /run/nscd/socket'";
    assert_ne!(alice.run(root).status, 0, "the cover is read-only");
}

/// Covering costs less with the directory that build keeps, and works without it.
#[test]
fn the_cover_is_a_directory_that_build_keeps() {
    let world = World::new();
    start_nscd(&world);
    let alice = world.alice();
    let mounted = "runns-exec work -- sh -c 'findmnt -rno FSROOT,OPTIONS /run/nscd; stat -c %u%g%a /run/nscd'";
    let kept = alice.ok(mounted);
    assert!(
        kept.starts_with("/runns/.empty ro,nosuid,nodev,noexec"),
        "{kept}"
    );
    // From inside another namespace, nothing is covered twice.
    let twice = alice
        .ok("runns-exec work -- runns-exec work -- grep -c ' /run/nscd ' /proc/self/mountinfo");
    assert_eq!(twice, "1");
    world.host.ok("rmdir /run/runns/.empty");
    let new = alice.ok(mounted);
    assert!(new.starts_with("/ ro,nosuid,nodev,noexec"), "{new}");
    assert!(
        kept.ends_with("00555") && new.ends_with("00555"),
        "{kept} {new}"
    );
}

#[test]
fn systemd_resolved() {
    let world = World::without_namespaces();
    start_resolved(&world, HOST_RESOLVER, "no");
    world.host.write(
        "/etc/nsswitch.conf",
        &nsswitch("files resolve [!UNAVAIL=return] dns"),
    );
    world.build();
    let hosts = "grep ^hosts: /etc/nsswitch.conf";
    assert_eq!(
        world.alice().ok(&format!("runns-exec work -- {hosts}")),
        "hosts: files dns"
    );
    let ours = world.asker();
    assert_eq!(world.getent_by_ip_netns(), LEAKED);
    world.asking_nobody_else(|| {
        assert_eq!(ours.ask(), INSIDE);
        assert_eq!(world.getent(), INSIDE);
    });
    // The host's nsswitch.conf becomes visible to a running command.
    world.replace(
        "/etc/nsswitch.conf",
        &nsswitch("files resolve [!UNAVAIL=return] dns # today's"),
    );
    world.asking_nobody_else(|| assert_eq!(ours.ask(), INSIDE));
}

#[test]
fn stub_of_systemd_resolved() {
    let world = World::without_namespaces();
    start_resolved(&world, HOST_RESOLVER, "yes");
    world
        .host
        .ok("ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf");
    world.build();
    let dig = || {
        format!(
            "dig +short +tries=1 +time=2 @127.0.0.53 {}",
            world.fresh_name()
        )
    };
    assert_eq!(
        world.host.ok(&dig()),
        LEAKED,
        "the stub answers on the host"
    );
    assert_ne!(
        world
            .host
            .run(&format!("ip netns exec open {}", dig()))
            .status,
        0
    );
    world.asking_nobody_else(|| {
        assert_eq!(
            world.alice().ok(&format!("runns-exec work -- {}", dig())),
            INSIDE
        );
        assert_eq!(world.getent(), INSIDE);
    });
}

#[test]
fn servers_behind_the_stub_are_taken_where_none_is_set() {
    let world = World::without_namespaces();
    start_resolved(&world, RESOLVER, "yes");
    world
        .host
        .ok("ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf");
    world.host.configure("[work]\n");
    world.host.ok("runns-exec build -s work");
    let file = world.host.ok("cat /etc/netns/work/resolv.conf");
    assert!(
        file.contains("/run/systemd/resolve/resolv.conf")
            && file.contains(&format!("nameserver {RESOLVER}"))
    );
    assert!(
        !file.lines().any(|line| line.starts_with("nameserver 127.")),
        "{file}"
    );
    assert_eq!(world.getent(), INSIDE);
}

#[test]
fn avahi() {
    let world = World::without_namespaces();
    for package in [
        "libavahi-common3",
        "libavahi-core7",
        "libdaemon0",
        "avahi-daemon",
        "libnss-mdns",
    ] {
        world.host.unpack(package);
    }
    world.host.write(
        "/etc/nsswitch.conf",
        &nsswitch("files mdns4_minimal [NOTFOUND=return] dns"),
    );
    world.build();
    let ours = world.asker();
    world.host.write(
        "/etc/avahi/avahi-daemon.conf",
        "[server]\nhost-name=printer\nallow-interfaces=eth0\nenable-dbus=no\nuse-ipv6=no\n",
    );
    world.host.ok("useradd --system avahi");
    world
        .host
        .spawn("exec avahi-daemon --no-drop-root --no-chroot --no-rlimits");
    let (other, work) = ("ip netns exec open", "runns-exec work --");
    wait_until("avahi answers", || {
        (getent(&world.host.root(), other, "printer.local") == "192.0.2.2").then_some(())
    });
    world.asking_nobody_else(|| assert_eq!(getent(&world.alice(), work, "printer.local"), INSIDE));
    world.replace(
        "/etc/nsswitch.conf",
        &nsswitch("files mdns4_minimal [NOTFOUND=return] dns # today's"),
    );
    world.asking_nobody_else(|| assert_eq!(ours.ask_for("printer.local"), INSIDE));
}
