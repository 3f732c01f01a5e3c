//! Entering a namespace, and what the command gets (SPEC 3.1).

use crate::support::Host;

/// A host with a namespace `vpn1` that `ip netns` made and the configuration names.
fn host() -> Host {
    let host = Host::new();
    host.ok("ip netns add vpn1");
    host.configure("[vpn1]\n");
    host
}

#[test]
fn command_is_in_the_namespace_as_the_user() {
    let host = host();
    let alice = host.user("alice");
    let inode = host.ok("stat -Lc %i /run/netns/vpn1");
    assert_eq!(alice.ok("runns-exec vpn1 -- stat -Lc %i /proc/self/ns/net"), inode);
    assert_eq!(alice.ok("runns-exec vpn1 id"), alice.ok("id"));
    assert_eq!(alice.ok("runns-exec vpn1 -- ls /sys/class/net"), "lo");
    assert!(alice.ok("runns-exec vpn1 -- ip -o address show dev lo").contains("127.0.0.1/8"));
}
