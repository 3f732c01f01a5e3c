//! The command's view of the file system: /sys and the files of /etc/netns/NAME, and that the host
//! sees none of it.

use crate::host_with_vpn1;
use crate::support::Snapshot;

#[test]
fn sys_is_the_namespaces_and_keeps_what_was_mounted_below() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    host.ok("mkdir /sys/kernel/debug/x 2>/dev/null; mount -t tmpfs -o mode=755 tmpfs /sys/kernel/security; touch /sys/kernel/security/mine");
    assert_eq!(alice.ok("runns-exec vpn1 -- ls /sys/class/net"), "lo");
    assert_eq!(
        alice.ok("runns-exec vpn1 -- ls /sys/kernel/security"),
        "mine"
    );
    assert_eq!(
        alice.ok("runns-exec vpn1 -- ls /sys/fs/cgroup"),
        alice.ok("ls /sys/fs/cgroup")
    );
    let options = alice.ok("runns-exec vpn1 -- findmnt -n -o OPTIONS /sys");
    for option in ["rw", "nosuid", "nodev", "noexec"] {
        assert!(options.split(',').any(|word| word == option), "{options}");
    }
    host.ok("mount -o remount,bind,ro /sys");
    assert!(
        alice
            .ok("runns-exec vpn1 -- findmnt -n -o VFS-OPTIONS /sys")
            .starts_with("ro,")
    );
    assert!(
        alice
            .ok("runns-exec vpn1 -- findmnt -n -o FS-OPTIONS /sys")
            .starts_with("rw")
    );
}

#[test]
fn files_of_the_namespace_stand_in_etc() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    host.write("/etc/netns/vpn1/resolv.conf", "nameserver 10.9.9.9\n");
    host.write("/etc/netns/vpn1/hosts", "10.1.1.1 inside\n");
    host.write("/etc/netns/vpn1/skel/inner", "a directory\n");
    host.write("/etc/netns/vpn1/.hidden", "x\n");
    host.write("/etc/netns/vpn1/hosts~", "x\n");
    let before = Snapshot::of(&host);
    let inside = |file: &str| alice.ok(&format!("runns-exec vpn1 -- cat {file}"));
    assert_eq!(inside("/etc/resolv.conf"), "nameserver 10.9.9.9");
    assert_eq!(inside("/etc/hosts"), "10.1.1.1 inside");
    assert_eq!(inside("/etc/skel/inner"), "a directory");
    assert_eq!(
        alice.ok("cat /etc/resolv.conf"),
        "nameserver 192.0.2.1",
        "the host's own stays"
    );
    before.assert_same(&Snapshot::of(&host));
    // Symlinks, even dangling ones, are covered themselves: their target belongs to another
    // program.
    for target in ["/run/resolve/stub.conf", "../run/resolve/none.conf"] {
        host.write("/run/resolve/stub.conf", "nameserver 127.0.0.53\n");
        host.ok(&format!("ln -sfn {target} /etc/resolv.conf"));
        assert_eq!(
            inside("/etc/resolv.conf"),
            "nameserver 10.9.9.9",
            "{target}"
        );
        assert_eq!(host.ok("readlink /etc/resolv.conf"), target);
        assert_eq!(inside("/run/resolve/stub.conf"), "nameserver 127.0.0.53");
    }
    host.ok("ln -sfn resolv.real /etc/netns/vpn1/resolv.conf");
    host.write("/etc/netns/vpn1/resolv.real", "nameserver 10.8.8.8\n");
    host.ok("touch /etc/resolv.real");
    assert_eq!(inside("/etc/resolv.conf"), "nameserver 10.8.8.8");
}

#[test]
fn the_host_sees_nothing_of_it_and_its_mounts_come_through() {
    let host = host_with_vpn1();
    host.write("/etc/netns/vpn1/hosts", "10.1.1.1 inside\n");
    host.ok("mkdir /mnt/disk /mnt/later && mount -t tmpfs disk /mnt/disk");
    let before = Snapshot::of(&host);
    let inside = host.user("alice").spawn(
        "runns-exec vpn1 -- sh -c 'touch /tmp/in; while [ ! -e /tmp/go ]; do sleep 0.02; done; ls /mnt/later; \
         grep -c /mnt/disk /proc/self/mountinfo; stat -c %i /proc/self/ns/mnt'",
    );
    host.ok("while [ ! -e /tmp/in ]; do sleep 0.02; done");
    let during = Snapshot::of(&host);
    // The command itself is in the list of daemons.
    let mounts = |snapshot: &Snapshot| {
        snapshot
            .text()
            .split("== mounts")
            .nth(1)
            .map(str::to_string)
    };
    assert_eq!(
        mounts(&before).map(|t| t.split("== daemons").next().map(str::to_string)),
        mounts(&during).map(|t| t.split("== daemons").next().map(str::to_string))
    );
    // Mounts and unmounts on the host propagate to the command's view, so it does not keep a disk
    // busy.
    host.ok("umount /mnt/disk && mount -t tmpfs later /mnt/later && touch /mnt/later/seen && touch /tmp/go");
    let output = inside.wait();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[..2], ["seen", "0"], "{output}");
    host.ok("umount /mnt/later && mount -t tmpfs disk /mnt/disk");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn entered_from_inside_another_namespace_nothing_of_it_is_left() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    host.ok("ip netns add vpn2; ip netns add vpn3");
    host.configure("[vpn1]\n[vpn2]\n[vpn3]\n");
    host.write("/etc/netns/vpn1/resolv.conf", "nameserver 10.1.1.1\n");
    host.write("/etc/netns/vpn1/hosts", "10.1.1.1 outer\n");
    host.write("/etc/netns/vpn2/resolv.conf", "nameserver 10.2.2.2\n");
    let show = "sh -c 'cat /etc/resolv.conf /etc/hosts; printenv RUNNS_NETNS; ls /sys/class/net; \
                cut -d\" \" -f4- /proc/self/mountinfo | sed -E \"s/(shared|master):[0-9]+/x/g\"'";
    for name in ["vpn1", "vpn2", "vpn3"] {
        let direct = alice.ok(&format!("runns-exec {name} -- {show}"));
        let nested = alice.ok(&format!("runns-exec vpn1 -- runns-exec {name} -- {show}"));
        assert_eq!(direct, nested, "{name}");
        let deeper = alice.ok(&format!(
            "runns-exec vpn3 runns-exec vpn2 runns-exec vpn1 runns-exec {name} -- {show}"
        ));
        assert_eq!(direct, deeper, "{name}");
    }
}
