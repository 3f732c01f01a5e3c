//! resolv.conf(5) and nsswitch.conf(5), as far as a namespace's own resolver depends on them.

use std::net::IpAddr;

/// Modules of nsswitch.conf(5) that ask no service of the host's.
pub const OWN_MODULES: [&str; 3] = ["files", "myhostname", "dns"];

/// The servers of a resolv.conf(5).
pub fn servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver")
            .then(|| words.next())??
            .split('%')
            .next()?
            .parse()
            .ok()
    };
    text.lines().filter_map(server).collect()
}
