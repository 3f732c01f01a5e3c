//! Who listens on a port of the host.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;

use runns_shared::exceptions::Published;

/// The program that listens on the host's port, in words.
pub fn of(port: &Published) -> Option<String> {
    let protocol = port.port.protocol.to_string();
    // Line by line: anybody makes as many sockets as there is room for.
    let files = ["", "6"]
        .into_iter()
        .filter_map(|family| File::open(format!("/proc/net/{protocol}{family}")).ok());
    let sockets = files.flat_map(|file| BufReader::new(file).lines().map_while(Result::ok).skip(1));
    let inode = sockets.filter_map(|line| listening(&line, port)).next()?;
    let link = format!("socket:[{inode}]");
    let holds = |pid: &i32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        fds.into_iter()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == Path::new(&link)))
    };
    let process = crate::kernel::daemon::all().into_iter().find(holds);
    Some(
        process.map_or("another program of the host".to_string(), |pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!(
                "{} (pid {pid})",
                runns_shared::escape::escape(name.trim().as_bytes())
            )
        }),
    )
}

/// The inode of the socket in a line of /proc/net/tcp, tcp6, udp or udp6 (proc(5)) if it would get
/// what is published.
fn listening(line: &str, port: &Published) -> Option<u64> {
    /// TCP_LISTEN and, of UDP, TCP_CLOSE: a socket that is not connected (net/tcp_states.h).
    const STATES: [&str; 2] = ["0A", "07"];
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, number) = fields.get(1)?.split_once(':')?;
    if u16::from_str_radix(number, 16).ok()? != port.port.number || !STATES.contains(fields.get(3)?)
    {
        return None;
    }
    let words: Option<Vec<[u8; 4]>> = address.as_bytes().chunks(8).map(word).collect();
    let bytes = words?.concat();
    let address = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    // A socket on :: usually takes IPv4 connections as well (ipv6(7), IPV6_V6ONLY).
    let theirs = if address.is_unspecified() {
        None
    } else {
        Some(address)
    };
    let theirs = if theirs.is_none() && address.is_ipv4() {
        Some(address)
    } else {
        theirs
    };
    Published {
        address: theirs,
        ..*port
    }
    .conflicts(port)
    .then(|| fields.get(9)?.parse().ok())
    .flatten()
}

/// Eight hexadecimal digits: four bytes, printed as a number of the machine.
fn word(digits: &[u8]) -> Option<[u8; 4]> {
    Some(
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16)
            .ok()?
            .to_ne_bytes(),
    )
}
