//! `runns-exec check NAME`: tests from inside, as the calling user, whether DNS queries or packets
//! can leave by another way. Every line is the result of a test that was carried out; what could
//! not be tested is never reported as OK.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::Serialize;

use super::enter::go_in;
use crate::policy::{self, Decision};
use runns_privileged::Unprivileged;
use runns_privileged::capability::renounce;
use runns_privileged::netns::identity_here;
use runns_privileged::view::ETC_NETNS;
use runns_shared::error::{Error, Result, status};
use runns_shared::escape::one_line;
use runns_shared::inside::routes_v4;
use runns_shared::name::NetnsName;
use runns_shared::output;
use runns_shared::plan::INSIDE;
use runns_shared::resolv_conf::{OWN_MODULES, servers};
use runns_sys::mount::mounted_at;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The namespace, not checked yet.
    pub name: OsString,
    /// Test this process's own surroundings instead of entering.
    pub here: bool,
    /// As JSON.
    pub json: bool,
}

const RESOLV_CONF: &str = "resolv.conf";
/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses that nobody has: 240.0.0.0/4 is reserved (RFC 1112), 2001:db8::/32 for documentation
/// (RFC 3849).
const NOBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 0, 0, 53));
const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53));
/// The port of a service that nobody has (RFC 863).
const DISCARD: u16 = 9;
/// The result of a namespace that uses the host's resolver.
const NOT_SET: &str = "NOT SET   ";
/// The stub of systemd-resolved.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));

/// The result of one test.
#[derive(Debug, Serialize)]
struct Finding {
    /// The name of the test.
    check: &'static str,
    /// Whether it passed; `None` if it could not be carried out.
    ok: Option<bool>,
    /// What was found.
    detail: String,
    /// The word to print instead of NOT TESTED.
    #[serde(skip)]
    word: Option<&'static str>,
    /// Nothing leaks by it: it does not work.
    #[serde(skip)]
    fails: bool,
}

/// All findings.
#[derive(Debug, Serialize)]
struct Report<'a> {
    namespace: &'a str,
    ok: bool,
    checks: &'a [Finding],
}

impl Finding {
    fn new(check: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self {
            check,
            ok: Some(ok),
            detail: detail.into(),
            word: None,
            fails: false,
        }
    }

    /// What does not work, and so does not leak.
    fn failed(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            fails: true,
            ..Self::new(check, false, detail)
        }
    }

    fn untested(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            ok: None,
            detail: detail.into(),
            word: None,
            fails: false,
        }
    }
}

/// Tests a namespace and prints the findings.
pub fn run(options: &Options) -> Result<()> {
    let name = NetnsName::new(&options.name).map_err(|error| error.with_status(status::USAGE))?;
    let (_, decision) = if options.here {
        stay(&name)?
    } else {
        go_in(&name)?
    };
    let servers = servers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let mut findings = if has_resolver(&name, &decision) {
        let mut findings = vec![access(&decision), resolv_conf(&name, &servers), nsswitch()];
        findings.extend(services());
        findings.extend(queries(&servers));
        findings
    } else {
        vec![no_resolver(&servers), access(&decision)]
    };
    findings.extend(routes(&decision));
    findings.extend(bound(&decision));
    findings.extend(opened(&decision));
    let promises = promises(&decision);
    let is_fine = |one: &Finding| one.ok == Some(true) || one.word == Some(NOT_SET) && !promises;
    let ok = findings.iter().all(is_fine);
    if options.json {
        output::print_json(&Report {
            namespace: name.as_str(),
            ok,
            checks: &findings,
        })?;
    } else {
        output::print(&findings.iter().map(line).collect::<String>())?;
    }
    if ok {
        return Ok(());
    }
    let wrong = || findings.iter().filter(|finding| finding.ok == Some(false));
    let cause = if wrong().any(|finding| !finding.fails) {
        "it leaks: see the lines marked NOT OK"
    } else if wrong().next().is_some() {
        "names are not resolved: see the lines marked NOT OK"
    } else {
        "see the lines that are not marked OK"
    };
    Err(Error::new(
        format!("confirm that namespace {name} does not leak"),
        cause,
    ))
}

/// Drops all privileges where this process is, which must be in namespace `name` already: a
/// service, say, whose view of the file system systemd has made.
fn stay(name: &NetnsName) -> Result<(Unprivileged, Decision)> {
    let unprivileged = renounce()?;
    let decision = policy::decide(name)?;
    let built = decision
        .record
        .as_ref()
        .and_then(|record| record.identity.as_ref());
    if built.map(|built| built.cookie) == Some(identity_here()?.cookie) {
        return Ok((unprivileged, decision));
    }
    Err(Error::new(
        format!("check namespace {name}"),
        "this process is not in it",
    ))
}

/// Whether the namespace is meant to have a resolver of its own. Without one, nothing is promised
/// about names.
fn has_resolver(name: &NetnsName, decision: &Decision) -> bool {
    let planned = decision
        .record
        .as_ref()
        .is_some_and(|record| record.plan.resolver.is_some());
    planned
        || Path::new(ETC_NETNS)
            .join(name.as_str())
            .join(RESOLV_CONF)
            .exists()
}

/// Whether its traffic has a way of its own. Where it leaves as the host's does, names may be
/// looked up as on the host, too.
fn promises(decision: &Decision) -> bool {
    let request = decision.record.as_ref().map(|record| &record.plan.request);
    request.is_some_and(|request| request.has_tunnel() || request.uplink.is_some())
}

fn no_resolver(servers: &[IpAddr]) -> Finding {
    let detail = format!(
        "it uses the host's resolver ({}); set DNS= or Resolve= in its section to give it its own",
        list(servers)
    );
    Finding {
        word: Some(NOT_SET),
        ..Finding::untested("resolver", detail)
    }
}

/// The servers of a resolv.conf, in words.
fn list(servers: &[IpAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    if servers.is_empty() {
        "no servers".to_string()
    } else {
        format!("servers: {}", servers.join(", "))
    }
}

fn line(finding: &Finding) -> String {
    let (word, colour) = match (finding.word, finding.ok) {
        (Some(word), _) => (word, "33"),
        (None, Some(true)) => ("OK        ", "32"),
        (None, Some(false)) => ("NOT OK    ", "31"),
        (None, None) => ("NOT TESTED", "33"),
    };
    let word = if output::is_coloured() {
        format!("\x1b[{colour}m{word}\x1b[0m")
    } else {
        word.to_string()
    };
    format!("{word}  {}: {}\n", finding.check, one_line(&finding.detail))
}

/// The exceptions that the section makes on purpose: no leak, but to be known.
fn opened(decision: &Decision) -> Option<Finding> {
    let exceptions = &decision.record.as_ref()?.plan.request.exceptions;
    exceptions.any().then(|| Finding {
        word: Some("OPEN      "),
        ..Finding::new("opened", true, exceptions.opening().join(", "))
    })
}

fn access(decision: &Decision) -> Finding {
    Finding::new(
        "access",
        true,
        match decision.who() {
            Some(who) => format!("only {who} may enter"),
            None => "every member of group runns may enter".to_string(),
        },
    )
}

fn resolv_conf(name: &NetnsName, servers: &[IpAddr]) -> Finding {
    let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let own = identity(&Path::new(ETC_NETNS).join(name.as_str()).join(RESOLV_CONF));
    if own.is_some() && own == identity(Path::new("/etc/resolv.conf")) {
        return Finding::new(
            RESOLV_CONF,
            !servers.is_empty(),
            format!("the namespace's own, {}", list(servers)),
        );
    }
    Finding::new(
        RESOLV_CONF,
        false,
        format!("not the namespace's own, {}", list(servers)),
    )
}

fn nsswitch() -> Finding {
    const CHECK: &str = "nsswitch.conf";
    let text = match fs::read_to_string("/etc/nsswitch.conf") {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Finding::new(
                CHECK,
                true,
                "there is none; the C library's default is files and dns",
            );
        }
        Err(error) => return Finding::untested(CHECK, error.to_string()),
        Ok(text) => text,
    };
    let hosts = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("hosts:"))
        .unwrap_or("files dns");
    let hosts = hosts.split('#').next().unwrap_or_default().trim();
    let is_module = |word: &&str| !word.starts_with(['[', '!']) && !word.ends_with(']');
    let others: Vec<&str> = hosts
        .split_whitespace()
        .filter(is_module)
        .filter(|word| !OWN_MODULES.contains(word))
        .collect();
    match &others[..] {
        [] => Finding::new(CHECK, true, format!("hosts: {hosts}")),
        others => Finding::new(CHECK, false, format!("hosts: asks {}", others.join(", "))),
    }
}

/// The name services of the host, by their sockets.
fn services() -> Vec<Finding> {
    const SERVICES: [(&str, &[&str]); 3] = [
        ("nscd", &["/run/nscd/socket", "/var/run/nscd/socket"]),
        (
            "systemd-resolved",
            &["/run/systemd/resolve/io.systemd.Resolve"],
        ),
        ("avahi", &["/run/avahi-daemon/socket"]),
    ];
    let service = |(name, sockets): (&'static str, &[&str])| {
        let reached = sockets.iter().find(|socket| {
            let failure = UnixStream::connect(socket).err().map(|error| error.kind());
            !matches!(
                failure,
                Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused)
            )
        });
        match reached {
            Some(socket) => Finding::new(
                name,
                false,
                format!("{socket} can be reached, and answers from outside"),
            ),
            None if sockets.iter().any(|socket| is_uncovered(socket)) => Finding::untested(
                name,
                "it does not answer now, but its directory is not covered: if it starts later, it can be reached",
            ),
            None if sockets.iter().all(|socket| is_missing(socket)) => Finding::untested(
                name,
                "it does not answer now, but it has no directory to cover: if it starts later, it can be reached",
            ),
            None => Finding::new(name, true, "cannot be reached"),
        }
    };
    SERVICES.into_iter().map(service).collect()
}

/// Whether the directory of `socket` does not exist but could be created.
fn is_missing(socket: &str) -> bool {
    let directory = Path::new(socket)
        .parent()
        .filter(|directory| !directory.exists());
    directory.and_then(Path::parent).is_some_and(Path::exists)
}

/// Whether the directory of `socket` is the host's, not covered by a read-only mount of its own. That
/// need not be empty: systemd makes a stub-resolv.conf in it where a service's resolv.conf is a link
/// to one.
fn is_uncovered(socket: &str) -> bool {
    let Some(directory) = Path::new(socket)
        .parent()
        .filter(|directory| directory.is_dir())
    else {
        return false;
    };
    let read_only = statvfs(directory).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
    let is_mount = open(directory, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(mounted_at)
        .is_ok_and(|mount| mount.is_some());
    !(read_only && is_mount)
}

/// What became of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Answered,
    /// Rejected within the namespace: nothing left it.
    Rejected,
    /// No answer, or an error from the network.
    Lost,
}

/// Queries to addresses that nobody has. The lock treats them like those to loopback, which cannot
/// leave. An answer to both comes through the lock, an answer to the former alone from somebody on
/// the way.
fn queries(servers: &[IpAddr]) -> Vec<Finding> {
    let resolver = resolver(servers);
    // Where a query went to that nobody answers can only be told if the resolver answers.
    let answers = resolver.ok == Some(true);
    let query = |check, address, resolved, seen: (Answer, Answer)| match seen.0 {
        Answer::Lost if !answers => {
            let detail = format!("no answer to a query to {address}, and none from the resolver");
            Finding::untested(check, detail)
        }
        _ => query(check, address, resolved, seen),
    };
    let mut findings = vec![resolver];
    let v4 = servers.iter().any(IpAddr::is_ipv4);
    let stub = udp(STUB);
    let udp_v4 = udp(NOBODY_V4);
    findings.push(query("query by UDP", NOBODY_V4, v4, (udp_v4, stub)));
    findings.push(query(
        "query by TCP",
        NOBODY_V4,
        v4,
        (tcp(NOBODY_V4), tcp(STUB)),
    ));
    findings.push(match stub {
        Answer::Answered => Finding::new(
            "query to the stub",
            true,
            format!("a query to {STUB} arrives at the resolver"),
        ),
        Answer::Rejected if !v4 => Finding::new(
            "query to the stub",
            true,
            format!("a query to {STUB} is rejected"),
        ),
        _ => {
            let detail = format!("no answer from {STUB}: programs that ask there find no names");
            Finding::failed("query to the stub", detail)
        }
    });
    // IPv6 has no such loopback address; the rules for IPv4 stand for both.
    let local = if v4 || udp_v4 != Answer::Rejected {
        stub
    } else {
        Answer::Answered
    };
    let v6 = servers.iter().any(IpAddr::is_ipv6);
    findings.push(query(
        "query by IPv6",
        NOBODY_V6,
        v6,
        (udp(NOBODY_V6), local),
    ));
    findings
}

fn resolver(servers: &[IpAddr]) -> Finding {
    const CHECK: &str = "resolver";
    match servers.first() {
        None => Finding::failed(CHECK, "none is named"),
        Some(server) if udp(*server) == Answer::Answered => {
            Finding::new(CHECK, true, format!("{server} answers"))
        }
        Some(server) => Finding::failed(CHECK, format!("{server} does not answer")),
    }
}

/// Judges a query to `address`, and one to loopback; `resolved`: the resolver has an address of
/// this family.
fn query(
    check: &'static str,
    address: IpAddr,
    resolved: bool,
    (answer, local): (Answer, Answer),
) -> Finding {
    let (ok, what) = match (answer, resolved) {
        (Answer::Answered, true) if local == Answer::Answered => {
            (true, "arrives at the namespace's resolver")
        }
        (Answer::Answered, _) => (
            false,
            "is answered by a machine on the path, not through the DNS lock",
        ),
        (Answer::Rejected, false) => (true, "is rejected"),
        (Answer::Rejected, true) => (
            false,
            "is rejected, and does not arrive at the namespace's resolver",
        ),
        (Answer::Lost, _) => (
            false,
            "leaves the namespace unchanged (DNSLock is off), or the resolver is down",
        ),
    };
    Finding::new(check, ok, format!("a query to {address} {what}"))
}

/// A query (RFC 1035) for a nonexistent name under .invalid (RFC 2606), from which an observer
/// learns nothing.
fn question(id: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(64);
    packet.extend(id.to_be_bytes());
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let label = format!("runns-exec-{id:04x}");
    for label in [label.as_str(), "invalid"] {
        packet.push(label.len() as u8);
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

fn new_id() -> u16 {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    (time.subsec_nanos() >> 8) as u16 ^ std::process::id() as u16
}

fn udp(server: IpAddr) -> Answer {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let id = new_id();
    let send = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(SocketAddr::new(server, 53))?;
        socket.send(&question(id))?;
        Ok(socket)
    };
    // A failure to send the first packet comes from this namespace, a later one from the network.
    let Ok(socket) = send() else {
        return Answer::Rejected;
    };
    match is_answered(&socket, id) {
        Ok(false) => match socket
            .send(&question(id))
            .and_then(|_| is_answered(&socket, id))
        {
            Ok(true) => Answer::Answered,
            _ => Answer::Lost,
        },
        Ok(true) => Answer::Answered,
        Err(_) => Answer::Lost,
    }
}

/// Whether an answer to question `id` comes in time; whatever else comes is ignored.
fn is_answered(socket: &UdpSocket, id: u16) -> std::io::Result<bool> {
    let end = Instant::now() + PATIENCE;
    let mut packet = [0; 512];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut packet) {
            Ok(length) if answers(&packet[..length], &question(id)) => return Ok(true),
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(error);
            }
            _ => {}
        }
    }
}

/// Whether `packet` is an answer to `question`, not its echo: a response (QR) to a query, with the
/// same id and question.
fn answers(packet: &[u8], question: &[u8]) -> bool {
    const HEADER: usize = 12;
    packet.len() >= question.len()
        && packet[..2] == question[..2]
        && packet[2] & 0xf8 == 0x80
        && packet[4..6] == question[4..6]
        && packet[HEADER..question.len()].eq_ignore_ascii_case(&question[HEADER..])
}

fn tcp(server: IpAddr) -> Answer {
    let ask = |mut stream: &TcpStream| -> std::io::Result<bool> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let (question, mut length) = (question(new_id()), [0; 2]);
        stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat())?;
        stream.read_exact(&mut length)?;
        let mut packet = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut packet)?;
        Ok(answers(&packet, &question))
    };
    match TcpStream::connect_timeout(&SocketAddr::new(server, 53), PATIENCE) {
        Ok(stream) if ask(&stream).unwrap_or(false) => Answer::Answered,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Answer::Rejected,
        _ => Answer::Lost,
    }
}

/// The devices by which packets leave.
fn routes(decision: &Decision) -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let v4 = default_device_v4(&read("/proc/net/route"));
    let v6 = default_device_v6(&read("/proc/net/if_inet6"));
    let tunnel = decision
        .record
        .as_ref()
        .is_some_and(|record| record.plan.request.has_tunnel());
    let mut findings = vec![match v4.as_deref() {
        None => Finding::new("default route", true, "none: nothing leaves"),
        Some(device) if tunnel && device == INSIDE => Finding::new(
            "default route",
            false,
            format!("through {device}, not through the tunnel"),
        ),
        Some(device) => Finding::new("default route", true, format!("through {device}")),
    }];
    findings.push(match v6.as_deref() {
        None => Finding::new("IPv6", true, "no default route: nothing leaves"),
        Some(device) => {
            let same = v4.as_deref() == Some(device);
            Finding::new(
                "IPv6",
                same,
                format!(
                    "through {device}{}",
                    if same {
                        ""
                    } else {
                        ", not the same device as IPv4"
                    }
                ),
            )
        }
    });
    findings
}

/// What a socket does that is bound to the veth beside a tunnel: the routes of the tunnel do not
/// count for it, and no privilege is needed (socket(7), SO_BINDTODEVICE).
fn bound(decision: &Decision) -> Vec<Finding> {
    let request = decision.record.as_ref().map(|record| &record.plan.request);
    let Some(request) = request.filter(|request| request.has_tunnel() && !request.kill_switch)
    else {
        return Vec::new();
    };
    let send = |port: u16, packet: &[u8]| -> std::io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        setsockopt(&socket, BindToDevice, &OsString::from(INSIDE))?;
        // Connecting it looks the route up and sends nothing (udp(7)).
        let connected = socket.connect((NOBODY_V4, port));
        Ok(connected.is_ok() && (packet.is_empty() || socket.send(packet).is_ok()))
    };
    let judge = |check,
                 sent: std::io::Result<bool>,
                 (word, good): (Option<&'static str>, bool),
                 said: [&str; 2]| match sent {
        Ok(true) => Finding {
            word,
            ..Finding::new(check, good, said[0])
        },
        Ok(false) => Finding::new(check, true, said[1]),
        Err(error) => Finding::untested(check, error.to_string()),
    };
    const LEAVES: &str = "a program that binds a socket to it sends outside the tunnel; KillSwitch=yes prevents that";
    let open = (Some("OPEN      "), true);
    let mut findings = vec![judge(
        INSIDE,
        send(DISCARD, b""),
        open,
        [LEAVES, "a socket bound to it has no route"],
    )];
    if request.dns_lock != Some(false) {
        let sent = send(53, &question(new_id()));
        findings.push(judge(
            "query by eth0",
            sent,
            (None, false),
            ["leaves outside the tunnel", "is rejected"],
        ));
    }
    findings
}

/// The device of the best default route, or of its two halves as VPNs set them, in the text of
/// /proc/net/route.
fn default_device_v4(text: &str) -> Option<String> {
    let defaults = routes_v4(text).filter(|route| {
        let (address, prefix) = route.network;
        prefix == 0
            || prefix == 1
                && [[0, 0, 0, 0], [128, 0, 0, 0]]
                    .map(IpAddr::from)
                    .contains(&address)
    });
    // A half is more specific.
    defaults
        .min_by_key(|route| (route.network.1 == 0, route.metric))
        .map(|route| route.device)
}

/// The device by which packets to the Internet leave: that of the address which they have as their
/// source. Connecting a datagram socket looks the route up and sends nothing (udp(7));
/// /proc/net/ipv6_route has the routes of all tables.
fn default_device_v6(addresses: &str) -> Option<String> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((NOBODY_V6, 53)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V6(address) => device_of(address, addresses),
        IpAddr::V4(_) => None,
    }
}

/// The device that has an address, in the text of /proc/net/if_inet6.
fn device_of(address: Ipv6Addr, addresses: &str) -> Option<String> {
    let digits = format!("{:032x}", address.to_bits());
    let line = addresses.lines().find(|line| line.starts_with(&digits))?;
    line.split_whitespace().last().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes() {
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        // As the kernel of this machine prints addresses.
        let half = format!("{:08X}", u32::from_ne_bytes([128, 0, 0, 0]));
        let eth = "eth0 00000000 010018AC 0003 0 0 100 00000000 0 0 0\n";
        let better = "wlan0 00000000 010018AC 0003 0 0 20 00000000 0 0 0\n";
        let tun = format!(
            "tun0 00000000 0101090A 0003 0 0 900 {half} 0 0 0\ntun0 {half} 0101090A 0003 0 0 900 {half} 0 0 0\n"
        );
        let lan = "eth1 000018AC 00000000 0001 0 0 0 00FFFFFF 0 0 0\n* 00000000 00000000 0200 0 0 0 00000000 0 0 0\n";
        assert_eq!(
            default_device_v4(&format!("{head}{lan}{eth}{better}")).as_deref(),
            Some("wlan0")
        );
        assert_eq!(
            default_device_v4(&format!("{head}{lan}")),
            None,
            "an unreachable route is no way out"
        );
        assert_eq!(
            default_device_v4(&format!("{head}{eth}")).as_deref(),
            Some("eth0")
        );
        assert_eq!(
            default_device_v4(&format!("{head}{eth}{tun}")).as_deref(),
            Some("tun0")
        );
        assert_eq!(default_device_v4(head), None);
        let text = "fe800000000000000000000000000001 03 40 20 80     eth0\nfd080000000000000000000000000002 04 40 00 80     tun0\n";
        assert_eq!(
            device_of("fd08::2".parse().unwrap(), text).as_deref(),
            Some("tun0")
        );
        assert_eq!(device_of("fd08::3".parse().unwrap(), text), None);
    }

    #[test]
    fn answers_are_judged_by_family() {
        use Answer::{Answered, Lost, Rejected};
        let ok = |resolved, answers| query("query", NOBODY_V4, resolved, answers).ok == Some(true);
        assert!(ok(true, (Answered, Answered)) && ok(false, (Rejected, Rejected)));
        assert!(!ok(true, (Answered, Lost)), "somebody on the way answers");
        assert!(!ok(false, (Answered, Answered)) && !ok(true, (Rejected, Rejected)));
        assert!(!ok(true, (Lost, Answered)) && !ok(false, (Lost, Lost)));
    }

    #[test]
    fn questions_are_well_formed() {
        let packet = question(0x1234);
        assert_eq!(&packet[..2], [0x12, 0x34]);
        assert_eq!(packet.len(), 12 + 1 + 15 + 1 + 7 + 1 + 4);
        assert!(!answers(&packet, &packet), "an echo");
        let with = |at: usize, byte: u8| {
            let mut answer = [&packet[..], b"more"].concat();
            answer[2] |= 0x80;
            answer[at] = byte;
            answers(&answer, &packet)
        };
        assert!(with(3, 0x83) && with(14, packet[14].to_ascii_uppercase()));
        for (at, byte) in [
            (0, 0),
            (2, 0x81 | 0x28),
            (5, 0),
            (13, b'x'),
            (packet.len() - 1, 2),
        ] {
            assert!(!with(at, byte), "{at}");
        }
        assert!(!answers(&packet[..11], &packet) && !answers(b"", &packet));
    }
}
