//! Whether the host's firewall lets the namespace's traffic through is tried, not predicted: a packet from inside is
//! counted and dropped in mangle POSTROUTING, behind the last forward hook, and never leaves the host. In nftables every
//! base chain can drop a packet, whatever other chains say, so the rule that dropped it is asked for (nft(8), monitor).

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, setsockopt, socket, sockopt,
};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::name::IfaceName;
use runns_shared::output::{step, warn};

use super::{Site, netns, uplink, veth::INSIDE};
use crate::netlink::in_namespace;
use crate::seen::Subject;
use crate::tool;

/// A destination as programs have it, which no list of reserved networks contains: a.root-servers.net.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);
/// What is tried. A firewall that lets either through lets traffic through.
const TCP_PORT: u16 = 443;
const UDP_PORT: u16 = 53;
/// How long it may take until a packet gets through. The kernel may drop what is sent in the first second after a device
/// came up (net/core/link_watch.c).
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the kernel's trace may take to say what became of it.
const TRACE_PATIENCE: Duration = Duration::from_secs(2);
/// Between two packets.
const PAUSE: Duration = Duration::from_millis(20);
/// The table that marks packets to be traced.
const TRACE_TABLE: &str = "runns_trace";

/// What only such a packet has: a DSCP (RFC 2474) that nobody assigned, and a TTL that is used up behind the host.
const DSCP: u8 = 0x2d;
const TTL: u32 = 2;

/// The rule that counts and drops the packets, as far as they come from a namespace: what it matches, for iptables and
/// for nft's trace.
pub const MATCHES: &str = "-m ttl --ttl-eq 1 -m dscp --dscp 0x2d";
const TRACED: &str = "ip dscp 0x2d";

/// Sends packets until one has been counted. If none is, the error names the rule that dropped them. Nothing is sent where
/// the host has no way out by which it could go, or where somebody has flushed the rule that keeps it on the host.
pub fn run(site: &Site) -> Result<()> {
    let Some(target) = uplink::reachable(site)?.map(|only| only.unwrap_or(FAR)) else {
        warn_of_no_route(FAR);
        return Ok(());
    };
    step(|| format!("sending a packet to {target} through the host's firewall; it is dropped before it leaves"));
    let Some(before) = counted()? else { return Ok(()) };
    let has_passed = || Ok(counted()?.is_some_and(|now| now > before));
    let deadline = Instant::now() + PATIENCE;
    // Usually the first packet is counted, and nothing has to be waited for.
    in_namespace(open(site)?.as_fd(), || {
        let _ = send_udp(target);
        Ok(())
    })?;
    let mut failure = None;
    let mut passed = has_passed()?;
    while !passed && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
        failure = send_from(site, target)?.or(failure);
        passed = has_passed()?;
    }
    if passed {
        return Ok(());
    }
    let explained = explain(site, target, failure);
    // Later than we had patience for, but it got through.
    if explained.is_err() && has_passed()? { Ok(()) } else { explained }
}

/// How many namespaces are tried at one go: fewer than packets may wait for the kernel (net.core.netdev_max_backlog).
const BATCH: usize = 64;

/// Whether a packet from each of the namespaces gets through; `None` for one from which none could be sent.
pub fn pass(subjects: &[&Subject]) -> Result<Vec<Option<bool>>> {
    let mut passed = Vec::new();
    for batch in subjects.chunks(BATCH) {
        passed.extend(pass_batch(batch)?);
    }
    Ok(passed)
}

/// Counts what arrives from all of them, and looks at each only where some of it is missing.
fn pass_batch(subjects: &[&Subject]) -> Result<Vec<Option<bool>>> {
    let Some(before) = counted()? else { return Ok(vec![None; subjects.len()]) };
    let sent = send_each(subjects, &|| send_udp(FAR).is_ok())?;
    let all = sent.iter().filter(|sent| **sent).count() as u64;
    let result = |passed: bool| Ok(sent.iter().map(|sent| sent.then_some(passed)).collect());
    if counted()?.is_some_and(|now| now >= before + all) {
        return result(true);
    }
    // Perhaps TCP alone gets through.
    std::thread::sleep(PAUSE);
    let before = counted()?.unwrap_or_default();
    send_each(subjects, &|| send_tcp(FAR).is_ok())?;
    std::thread::sleep(PAUSE);
    match counted()?.unwrap_or_default().saturating_sub(before) {
        0 => return result(false),
        passed if passed >= all => return result(true),
        _ => {}
    }
    let each = subjects.iter().zip(&sent).map(|(subject, sent)| {
        let Some(inside) = subject.deep()?.filter(|_| *sent) else { return Ok(None) };
        let before = counted()?;
        in_namespace(inside.file.as_fd(), || send(FAR))?;
        Ok(Some(counted()? > before))
    });
    each.collect()
}

/// Calls `send` in each of the namespaces; what it returned, and `false` where it was not called.
fn send_each(subjects: &[&Subject], send: &(dyn Fn() -> bool + Sync)) -> Result<Vec<bool>> {
    let in_one = |subject: &&Subject| -> Result<bool> {
        let Some(inside) = subject.deep()? else { return Ok(false) };
        in_namespace(inside.file.as_fd(), || Ok(send()))
    };
    subjects.iter().map(in_one).collect()
}

fn warn_of_no_route(target: Ipv4Addr) {
    warn(&format!("the host has no route to {target}: nothing inside reaches the Internet until it has one"));
}

/// How many packets the rule has counted; `None` if it is not there.
fn counted() -> Result<Option<u64>> {
    let cannot = |cause: &dyn std::fmt::Display| Error::new("try the host's firewall", cause);
    let iptables = iptables::new(false).map_err(|error| cannot(&error))?;
    let listed = iptables.execute("mangle", "-v -S POSTROUTING").map_err(|error| cannot(&error))?;
    Ok(packets(&String::from_utf8_lossy(&listed.stdout)))
}

/// The packets that our rule has counted, in the output of `iptables -v -S`.
fn packets(listed: &str) -> Option<u64> {
    let rule = listed.lines().find(|line| line.contains(MATCHES) && line.contains("runns:"))?;
    rule.split(' ').skip_while(|word| *word != "-c").nth(1)?.parse().ok()
}

/// In a namespace: sends a UDP packet.
fn send_udp(target: Ipv4Addr) -> std::io::Result<()> {
    let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    disguise(&udp)?;
    udp.send_to(&[], (target, UDP_PORT)).map(drop)
}

/// In a namespace: sends a TCP SYN, and does not wait for an answer.
fn send_tcp(target: Ipv4Addr) -> std::io::Result<OwnedFd> {
    let tcp = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    disguise(&tcp)?;
    match connect(tcp.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(target, TCP_PORT))) {
        Err(Errno::EINPROGRESS) | Ok(()) => Ok(tcp),
        Err(errno) => Err(errno.into()),
    }
}

/// In a namespace: sends a UDP packet and a TCP SYN; how the latter failed at once, if it did.
fn send(target: Ipv4Addr) -> Result<Option<ErrorKind>> {
    let _ = send_udp(target);
    let tcp = match send_tcp(target) {
        Ok(tcp) => tcp,
        Err(error) => return Ok(Some(error.kind())),
    };
    // A firewall that rejects the packet, or a host without a route, answers.
    let mut events = [PollFd::new(tcp.as_fd(), PollFlags::POLLOUT)];
    let _ = poll(&mut events, PollTimeout::from(PAUSE.as_millis() as u16));
    let error = getsockopt(&tcp, sockopt::SocketError).unwrap_or_default();
    Ok((error != 0).then(|| std::io::Error::from_raw_os_error(error).kind()))
}

fn send_from(site: &Site, target: Ipv4Addr) -> Result<Option<ErrorKind>> {
    in_namespace(open(site)?.as_fd(), || send(target))
}

fn open(site: &Site) -> Result<File> {
    netns::open_built(site)?.ok_or_else(|| Error::new("try the host's firewall", "the namespace is gone"))
}

/// Has the packets of a socket be those that the rule counts, and leave by the veth whatever tunnels there are.
fn disguise(socket: &impl AsFd) -> Result<(), Errno> {
    setsockopt(socket, sockopt::BindToDevice, &OsString::from(INSIDE))?;
    setsockopt(socket, sockopt::Ipv4Tos, &(i32::from(DSCP) << 2))?;
    setsockopt(socket, sockopt::Ipv4Ttl, &(TTL as i32))
}

/// Why no packet got through, as an error that names the rule. A host without a route is warned of only: it may get one
/// later, by a lease for example.
fn explain(site: &Site, target: Ipv4Addr, failure: Option<ErrorKind>) -> Result<()> {
    let interface = &site.plan().request.interface;
    let refuse = |cause: String| Error::new(format!("forward the traffic of {interface}"), cause);
    match dropping_rule(site, target)? {
        Some(rule) => {
            Err(refuse(format!("the nftables chain '{}' drops it: {}", rule.chain, rule.text))
                .hint(cure(&rule, interface)))
        }
        None if matches!(failure, Some(ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable)) => {
            warn_of_no_route(target);
            Ok(())
        }
        None => Err(refuse(
            "a packet from inside did not get through the host, and no rule was seen that dropped it".to_string(),
        )
        .hint(
            "look for rules that drop it: nft list ruleset, iptables-save, iptables-legacy-save, and for BPF programs",
        )),
    }
}

fn cure(rule: &Rule, interface: &IfaceName) -> String {
    if rule.chain.split(' ').nth(1) == Some("firewalld") {
        return format!("firewall-cmd --permanent --zone=trusted --add-interface={interface} && firewall-cmd --reload");
    }
    format!("accept what comes in by {interface}, and the replies to it, in '{}'", rule.chain)
}

/// A rule or policy that dropped a packet.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    /// `FAMILY TABLE CHAIN`.
    chain: String,
    /// The rule, or the chain's policy.
    text: String,
}

/// The rule that drops the packets, by the kernel's trace; `None` if nft(8) is not installed or nothing was seen.
fn dropping_rule(site: &Site, target: Ipv4Addr) -> Result<Option<Rule>> {
    let Some(nft) = tool::find("nft") else { return Ok(None) };
    let source = site.plan().subnet().inside();
    let table = format!(
        "add table ip {TRACE_TABLE}\n\
         add chain ip {TRACE_TABLE} prerouting {{ type filter hook prerouting priority -2000000000; }}\n\
         add rule ip {TRACE_TABLE} prerouting ip saddr {source} ip daddr {target} meta nftrace set 1\n"
    );
    let mut monitor = Command::new(nft)
        .args(["monitor", "trace"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .cannot(|| "run nft monitor trace")?;
    let result = match monitor.stdout.take().map(|output| Lines { output, read: Vec::new() }) {
        Some(mut lines) => tool::run("nft", &["-f", "-"], &table).and_then(|_| watch(site, target, &mut lines)),
        None => Ok(None),
    };
    let _ = monitor.kill();
    let _ = monitor.wait();
    remove_trace()?;
    result
}

/// Removes the table that marks packets to be traced, also one that a build left which was killed.
pub fn remove_trace() -> Result<()> {
    let commands = format!("add table ip {TRACE_TABLE}\ndelete table ip {TRACE_TABLE}\n");
    tool::run("nft", &["-f", "-"], &commands).map(drop)
}

/// What the monitor prints, line by line. No thread reads it: build has to fork, and what the monitor has started may keep
/// its output open.
struct Lines {
    output: ChildStdout,
    read: Vec<u8>,
}

impl Lines {
    /// The next line; `None` if there is none within `longest`. The end of the output is an error.
    fn next(&mut self, longest: Duration) -> std::io::Result<Option<String>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            let mut events = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            if poll(&mut events, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX))? == 0 {
                return Ok(None);
            }
            let mut more = [0; 4096];
            match self.output.read(&mut more)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => self.read.extend_from_slice(&more[..length]),
            }
        }
    }
}

/// Sends packets until the trace of one tells which rule dropped it.
fn watch(site: &Site, target: Ipv4Addr, lines: &mut Lines) -> Result<Option<Rule>> {
    let deadline = Instant::now() + TRACE_PATIENCE;
    while Instant::now() < deadline {
        send_from(site, target)?;
        loop {
            match lines.next(PAUSE) {
                Ok(Some(line)) => {
                    let rule = parse_drop(&line);
                    // Our own rule, behind all others.
                    if rule.as_ref().is_some_and(|rule| rule.text.contains(TRACED)) {
                        return Ok(None);
                    }
                    if rule.is_some() {
                        return Ok(rule);
                    }
                }
                Ok(None) => break,
                Err(_) => return Ok(None),
            }
        }
    }
    Ok(None)
}

/// The rule of a line of `nft monitor trace` that says that the packet was dropped:
/// `trace id 1a2b3c4d inet firewalld filter_FORWARD rule reject with icmpx admin-prohibited (verdict drop)`, or
/// `trace id 1a2b3c4d inet guard forwarding policy drop`.
fn parse_drop(line: &str) -> Option<Rule> {
    let rest = line.trim().strip_prefix("trace id ")?.split_once(' ')?.1;
    let mut words = rest.splitn(4, ' ');
    let chain = [words.next()?, words.next()?, words.next()?].join(" ");
    let what = words.next()?;
    let text = match what.strip_prefix("rule ") {
        Some(rule) => rule.strip_suffix("(verdict drop)")?,
        // The packet's mark may follow.
        None => what.trim().strip_prefix("policy drop").map(|_| "policy drop")?,
    };
    Some(Rule { chain: escape(chain.as_bytes()), text: escape(text.trim().as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_name_the_rule_that_drops() {
        let reject =
            "trace id 1a2b3c4d inet firewalld filter_FORWARD rule reject with icmpx admin-prohibited (verdict drop)";
        let rule = parse_drop(reject).unwrap();
        assert_eq!(rule.chain, "inet firewalld filter_FORWARD");
        assert_eq!(rule.text, "reject with icmpx admin-prohibited");
        assert!(cure(&rule, &IfaceName::new("vpn1").unwrap()).contains("--add-interface=vpn1"));
        let policy = parse_drop("trace id 1a2b3c4d inet guard forwarding policy drop ").unwrap();
        assert_eq!((policy.chain.as_str(), policy.text.as_str()), ("inet guard forwarding", "policy drop"));
        let marked = parse_drop("trace id 1a2b3c4d inet guard forwarding policy drop meta mark 0x80000000 ");
        assert_eq!(marked, Some(policy));
        for line in [
            "trace id 1a2b3c4d ip filter FORWARD packet: iif \"vpn1\" oif \"eth0\" ip saddr 172.24.1.2",
            "trace id 1a2b3c4d ip filter FORWARD rule counter packets 1 bytes 40 accept (verdict accept)",
            "trace id 1a2b3c4d inet firewalld filter_FORWARD verdict continue ",
            "trace id 1a2b3c4d ip filter FORWARD policy accept ",
            "",
        ] {
            assert_eq!(parse_drop(line), None, "{line}");
        }
    }

    #[test]
    fn counters_of_the_probe_alone_count() {
        let rule = |packets: u32, matches: &str| {
            format!(
                "-A POSTROUTING -m mark --mark 0x80000000/0xff000000 {matches} -m comment --comment \"runns:a\" -c {packets} 60 -j DROP\n"
            )
        };
        assert_eq!(packets(&(rule(5, "-p tcp") + &rule(3, MATCHES))), Some(3));
        assert_eq!(packets(&rule(5, "-p tcp")), None);
        assert_eq!(packets(""), None);
    }
}
