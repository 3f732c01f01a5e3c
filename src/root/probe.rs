//! Whether the host's firewall lets a namespace's traffic through is tried, not predicted: a packet
//! from inside ends in our table's chain `tried`, behind the last forward hook, which remembers the
//! interface and the port that it came from. It never leaves the host. In nftables every base chain
//! can drop a packet, whatever other chains say, so if none arrives the rule that dropped it is
//! asked for (nft(8), monitor).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, getsockopt,
    setsockopt, socket, sockopt,
};
use serde_json::Value;

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::name::IfaceName;
use runns_shared::output::{step, warn};

use crate::facts::uplinks::{self, FAR};
use crate::facts::veth::INSIDE;
use crate::kernel::netlink::in_namespace;
use crate::kernel::nft::{Listed, TABLE};
use crate::kernel::tool;
use crate::part::Site;
use crate::seen::Subject;

/// What is tried. A firewall that lets either through lets traffic through.
const TCP_PORT: u16 = 443;
const UDP_PORT: u16 = 53;
/// How long it may take until a packet gets through. The kernel may drop what is sent in the first
/// second after a device came up (net/core/link_watch.c).
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for status, which looks at what worked before.
const GLANCE: Duration = Duration::from_millis(200);
/// How often status sends at least: on a busy machine, a single look at the table takes as long.
const LEAST_TRIES: usize = 3;
/// How long the kernel's trace may take to say what became of it.
const TRACE_PATIENCE: Duration = Duration::from_secs(2);
/// Between two packets.
const PAUSE: Duration = Duration::from_millis(20);
/// The table that marks packets to be traced.
const TRACE_TABLE: &str = "runns_trace";

/// What only such a packet has: a DSCP (RFC 2474) that nobody assigned, and a TTL that is used up
/// behind the host.
const DSCP: u8 = 0x2d;
const TTL: u32 = 2;

/// The chain of our table in which they end, as nft's trace names it.
const TRIED: &str = "inet runns tried";

/// A packet that was sent: the veth that it arrived on, and its source port.
type Sent = (String, u16);

/// Sends packets until one gets through. If none does, the error names the rule that dropped them.
/// Nothing is sent where the host has no way out by which it could go, or where somebody has
/// removed the table that keeps it on the host.
pub fn run(site: &Site) -> Result<()> {
    let Some(target) = uplinks::reachable(&site.host, site.plan().request.uplink.as_ref())?
        .map(|only| only.unwrap_or(FAR))
    else {
        warn_of_no_route(FAR);
        return Ok(());
    };
    step(|| {
        format!(
            "sending a packet to {target} through the host's firewall; it is dropped before it leaves"
        )
    });
    let Some(earlier) = passed()? else {
        return Ok(());
    };
    let interface = site.plan().interface.to_string();
    let deadline = Instant::now() + PATIENCE;
    // Usually the first packet gets through at once, and nothing has to be waited for.
    let mut sent = vec![in_namespace(open(site)?.as_fd(), || {
        Ok(send_udp(target).unwrap_or_default())
    })?];
    let mut failure = None;
    let has_passed = |sent: &[u16]| {
        let passed: BTreeSet<Sent> = passed()?
            .unwrap_or_default()
            .difference(&earlier)
            .cloned()
            .collect();
        Ok(sent
            .iter()
            .any(|port| passed.contains(&(interface.clone(), *port))))
    };
    let mut is_through = has_passed(&sent)?;
    while !is_through && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
        let (ports, failed) = in_namespace(open(site)?.as_fd(), || send(target))?;
        (sent, failure) = ([sent, ports].concat(), failed.or(failure));
        is_through = has_passed(&sent)?;
    }
    if is_through {
        return Ok(());
    }
    let explained = explain(site, target, failure);
    // Later than we had patience for, but it got through.
    if explained.is_err() && has_passed(&sent)? {
        Ok(())
    } else {
        explained
    }
}

/// Whether a packet from each of the namespaces gets through; `None` for one from which none could
/// be sent, and for all of them where our table is missing.
pub fn pass(subjects: &[&Subject]) -> Result<Vec<Option<bool>>> {
    let Some(earlier) = passed()? else {
        return Ok(vec![None; subjects.len()]);
    };
    let mut sent: Vec<Vec<Sent>> = vec![Vec::new(); subjects.len()];
    let mut is_through = vec![false; subjects.len()];
    let deadline = Instant::now() + GLANCE;
    // A firewall may let UDP or TCP through; what arrives may take a moment.
    for tries in 1.. {
        for (at, subject) in subjects
            .iter()
            .enumerate()
            .filter(|(at, _)| !is_through[*at])
        {
            let Some(inside) = subject.deep()? else {
                continue;
            };
            let (ports, _) = in_namespace(inside.file.as_fd(), || {
                if sent[at].is_empty() {
                    first(FAR)
                } else {
                    send(FAR)
                }
            })?;
            let interface = subject.record.plan.interface.to_string();
            sent[at].extend(ports.into_iter().map(|port| (interface.clone(), port)));
        }
        let passed = passed()?.unwrap_or_default();
        for (at, sent) in sent.iter().enumerate() {
            is_through[at] |= sent
                .iter()
                .any(|one| passed.contains(one) && !earlier.contains(one));
        }
        let is_settled = is_through
            .iter()
            .zip(&sent)
            .all(|(through, sent)| *through || sent.is_empty());
        if is_settled || tries >= LEAST_TRIES && Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    let found = sent.iter().zip(is_through);
    Ok(found
        .map(|(sent, through)| (!sent.is_empty()).then_some(through))
        .collect())
}

fn warn_of_no_route(target: Ipv4Addr) {
    warn(&format!(
        "the host has no route to {target}: programs inside cannot use the Internet until it has one"
    ));
}

/// The packets that got through in the last seconds; `None` if our table is not there. Ports are
/// used again, so a packet counts only if it is not among those from before the first was sent.
fn passed() -> Result<Option<BTreeSet<Sent>>> {
    match tool::run("nft", &["-j", "list", "set", "inet", "runns", "passed"], "") {
        Ok(text) => parse_passed(&text).map(Some),
        Err(_) if Listed::here()?.is_empty() => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_passed(text: &str) -> Result<BTreeSet<Sent>> {
    let listing: Value =
        serde_json::from_str(text).map_err(|error| Error::new("read what got through", error))?;
    let objects = listing["nftables"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let elements = objects
        .iter()
        .filter_map(|object| object["set"]["elem"].as_array())
        .flatten();
    let sent = |element: &Value| {
        let words = element["elem"]["val"]["concat"].as_array()?;
        Some((
            words.first()?.as_str()?.to_string(),
            words.get(1)?.as_u64()?.try_into().ok()?,
        ))
    };
    Ok(elements.filter_map(sent).collect())
}

/// In a namespace: sends a UDP packet; returns its source port.
fn send_udp(target: Ipv4Addr) -> std::io::Result<u16> {
    let udp = from_privileged_port(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    disguise(&udp)?;
    udp.send_to(&[], (target, UDP_PORT))?;
    Ok(udp.local_addr()?.port())
}

/// Calls `bind` with one port after the other that only root can use (ip-sysctl.rst,
/// ip_unprivileged_port_start), from one that depends on the time on, until one is free.
fn from_privileged_port<T>(bind: impl Fn(u16) -> std::io::Result<T>) -> std::io::Result<T> {
    const PORTS: std::ops::Range<u16> = 512..1024;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    let first = (now % u32::from(PORTS.end - PORTS.start)) as u16;
    let mut result = Err(ErrorKind::AddrInUse.into());
    for offset in 0..PORTS.end - PORTS.start {
        result = bind(PORTS.start + (first + offset) % (PORTS.end - PORTS.start));
        if !result
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
        {
            break;
        }
    }
    result
}

/// In a namespace: sends the packet that nearly always gets through.
fn first(target: Ipv4Addr) -> Result<(Vec<u16>, Option<ErrorKind>)> {
    Ok((send_udp(target).into_iter().collect(), None))
}

/// In a namespace: sends a TCP SYN, and does not wait for an answer.
fn send_tcp(target: Ipv4Addr) -> std::io::Result<OwnedFd> {
    let tcp = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    disguise(&tcp)?;
    from_privileged_port(|port| {
        bind(
            tcp.as_raw_fd(),
            &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)),
        )
        .map_err(Into::into)
    })?;
    match connect(
        tcp.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(target, TCP_PORT)),
    ) {
        Err(Errno::EINPROGRESS) | Ok(()) => Ok(tcp),
        Err(errno) => Err(errno.into()),
    }
}

/// In a namespace: sends a UDP packet and a TCP SYN; their source ports, and how the latter failed
/// at once, if it did.
fn send(target: Ipv4Addr) -> Result<(Vec<u16>, Option<ErrorKind>)> {
    let mut ports: Vec<u16> = send_udp(target).into_iter().collect();
    let tcp = match send_tcp(target) {
        Ok(tcp) => tcp,
        Err(error) => return Ok((ports, Some(error.kind()))),
    };
    ports.extend(getsockname::<SockaddrIn>(tcp.as_raw_fd()).map(|address| address.port()));
    // A firewall that rejects the packet, or a host without a route, answers.
    let mut events = [PollFd::new(tcp.as_fd(), PollFlags::POLLOUT)];
    let _ = poll(&mut events, PollTimeout::from(PAUSE.as_millis() as u16));
    let error = getsockopt(&tcp, sockopt::SocketError).unwrap_or_default();
    Ok((
        ports,
        (error != 0).then(|| std::io::Error::from_raw_os_error(error).kind()),
    ))
}

fn open(site: &Site) -> Result<File> {
    site.open_namespace()?
        .ok_or_else(|| Error::new("try the host's firewall", "the namespace is gone"))
}

/// Makes the packets of a socket known to our table, and has them leave through the veth, whatever
/// tunnels there are.
fn disguise(socket: &impl AsFd) -> Result<(), Errno> {
    setsockopt(socket, sockopt::BindToDevice, &OsString::from(INSIDE))?;
    setsockopt(socket, sockopt::Ipv4Tos, &(i32::from(DSCP) << 2))?;
    setsockopt(socket, sockopt::Ipv4Ttl, &(TTL as i32))
}

/// Why no packet got through, as an error that names the rule. A host without a route is warned of
/// only: it may get one later, by a lease for example.
fn explain(site: &Site, target: Ipv4Addr, failure: Option<ErrorKind>) -> Result<()> {
    let interface = &site.plan().interface;
    let refuse = |cause: String| Error::new(format!("forward the traffic of {interface}"), cause);
    match dropping_rule(site, target)? {
        // Of ours, only the check of the source address drops it here: the route back is not the veth's.
        Some(rule) if rule.chain.starts_with(&format!("{TABLE} ")) => {
            let subnet = site.plan().subnet();
            Err(refuse(format!(
                "another program's routing rules send packets for {subnet} elsewhere"
            ))
            .hint(format!("sudo ip rule add to {subnet} table main priority 100")))
        }
        Some(rule) => {
            Err(refuse(format!("the nftables chain '{}' drops it: {}", rule.chain, rule.text))
                .hint(cure(&rule, interface)))
        }
        None if matches!(failure, Some(ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable)) => {
            warn_of_no_route(target);
            Ok(())
        }
        None => Err(refuse(
            "a packet from inside did not get through the host; the rule that dropped it was not found".to_string(),
        )
        .hint(
            "look for rules that drop it: nft list ruleset, iptables-save, iptables-legacy-save, and for BPF programs",
        )),
    }
}

fn cure(rule: &Rule, interface: &IfaceName) -> String {
    if rule.chain.split(' ').nth(1) == Some("firewalld") {
        return format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={interface} && firewall-cmd --reload"
        );
    }
    format!(
        "accept traffic from {interface}, and replies to it, in chain '{}'",
        rule.chain
    )
}

/// A rule or policy that dropped a packet.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    /// `FAMILY TABLE CHAIN`.
    chain: String,
    /// The rule, or the chain's policy.
    text: String,
}

/// The rule that drops the packets, by the kernel's trace; `None` if nft(8) is not installed or
/// nothing was seen.
fn dropping_rule(site: &Site, target: Ipv4Addr) -> Result<Option<Rule>> {
    let Some(nft) = tool::find("nft") else {
        return Ok(None);
    };
    let source = site.plan().subnet().inside();
    let table = format!(
        "add table ip {TRACE_TABLE}\n\
         add chain ip {TRACE_TABLE} prerouting {{ type filter hook prerouting priority -2000000000; }}\n\
         add rule ip {TRACE_TABLE} prerouting ip saddr {source} ip daddr {target} th sport < 1024 meta nftrace set 1\n"
    );
    let mut monitor = Command::new(nft)
        .args(["monitor", "trace"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .cannot(|| "run nft monitor trace")?;
    let result = match monitor.stdout.take().map(|output| Lines {
        output,
        read: Vec::new(),
    }) {
        Some(mut lines) => {
            tool::run("nft", &["-f", "-"], &table).and_then(|_| watch(site, target, &mut lines))
        }
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

/// What the monitor prints, line by line. No thread reads it: build has to fork, and what the
/// monitor has started may keep its output open.
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
            if poll(
                &mut events,
                PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX),
            )? == 0
            {
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
        in_namespace(open(site)?.as_fd(), || send(target))?;
        // Programs inside can send as well.
        while Instant::now() < deadline {
            match lines.next(PAUSE) {
                Ok(Some(line)) => {
                    let rule = parse_drop(&line);
                    // Behind all others.
                    if rule.as_ref().is_some_and(|rule| rule.chain == TRIED) {
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

/// The rule of a line of `nft monitor trace` that says that the packet was dropped: `trace id
/// 1a2b3c4d inet firewalld filter_FORWARD rule reject with icmpx admin-prohibited (verdict drop)`,
/// or `trace id 1a2b3c4d inet guard forwarding policy drop`.
fn parse_drop(line: &str) -> Option<Rule> {
    let rest = line.trim().strip_prefix("trace id ")?.split_once(' ')?.1;
    let mut words = rest.splitn(4, ' ');
    let chain = [words.next()?, words.next()?, words.next()?].join(" ");
    let what = words.next()?;
    let text = match what.strip_prefix("rule ") {
        Some(rule) => rule.strip_suffix("(verdict drop)")?,
        // The packet's mark may follow.
        None => what
            .trim()
            .strip_prefix("policy drop")
            .map(|_| "policy drop")?,
    };
    Some(Rule {
        chain: escape(chain.as_bytes()),
        text: escape(text.trim().as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_name_the_rule_that_drops() {
        let reject = "trace id 1a2b3c4d inet firewalld filter_FORWARD rule reject with icmpx admin-prohibited (verdict drop)";
        let rule = parse_drop(reject).unwrap();
        assert_eq!(rule.chain, "inet firewalld filter_FORWARD");
        assert_eq!(rule.text, "reject with icmpx admin-prohibited");
        assert!(cure(&rule, &IfaceName::new("vpn1").unwrap()).contains("--add-interface=vpn1"));
        let policy = parse_drop("trace id 1a2b3c4d inet guard forwarding policy drop ").unwrap();
        assert_eq!(
            (policy.chain.as_str(), policy.text.as_str()),
            ("inet guard forwarding", "policy drop")
        );
        let marked =
            parse_drop("trace id 1a2b3c4d inet guard forwarding policy drop meta mark 0x80000000 ");
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
    fn packets_that_got_through_are_known_by_interface_and_port() {
        let text = r#"{"nftables":[{"metainfo":{}},{"set":{"name":"passed","elem":[
            {"elem":{"val":{"concat":["vpn1",40000]},"timeout":60,"expires":58}}]}}]}"#;
        assert_eq!(
            parse_passed(text).unwrap(),
            BTreeSet::from([("vpn1".to_string(), 40000)])
        );
        assert!(
            parse_passed(r#"{"nftables":[{"set":{"name":"passed"}}]}"#)
                .unwrap()
                .is_empty()
        );
    }
}
