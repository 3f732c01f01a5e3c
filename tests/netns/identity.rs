//! How a namespace is identified.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use runns_exec_root::kernel::netlink::in_namespace;
use runns_privileged::netns::identity_here;
use runns_sys::net::is_network_namespace;

use crate::support::Net;

#[test]
fn cookies_are_never_used_again() {
    let identity = |net: &Net| in_namespace(net.file().as_fd(), identity_here).unwrap();
    let mut cookies = Vec::new();
    for _ in 0..20 {
        let net = Net::new();
        let known = identity(&net);
        assert_eq!(known, identity(&net));
        assert_eq!(known.inode, net.file().metadata().unwrap().ino());
        assert!(!cookies.contains(&known.cookie));
        cookies.push(known.cookie);
    }
}

#[test]
fn a_network_namespace_is_told_from_everything_else() {
    let is = |path: &str| is_network_namespace(std::fs::File::open(path).unwrap()).unwrap_or(false);
    assert!(is("/proc/self/ns/net"));
    for other in [
        "/proc/self/ns/mnt",
        "/proc/self/ns/user",
        "/proc/self/ns/pid",
        "/dev/null",
        "/etc/passwd",
        "/",
    ] {
        assert!(!is(other), "{other}");
    }
}
