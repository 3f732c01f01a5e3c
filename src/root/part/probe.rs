//! Whether the host's firewall lets the namespace's traffic through is tried, not predicted: a packet from inside is
//! counted and dropped in mangle POSTROUTING, behind the last forward hook, and never leaves the host. In nftables every
//! base chain can drop a packet, whatever other chains say, so the rule that dropped it is asked for (nft(8), monitor).

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::name::IfaceName;
use runns_shared::output::{step, warn};
use runns_shared::plan::Plan;

use super::{Site, firewall, netns, uplink};
use crate::netlink::in_namespace;
use crate::tool;

/// A destination as programs have it, which no list of reserved networks contains: a.root-servers.net.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);
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

/// Decides where the packet is sent to. There is none under the kill switch, where nothing is forwarded, and where the
/// host has no way out by which it could go.
pub fn prepare(site: &mut Site) -> Result<()> {
    if !site.plan().request.kill_switch {
        site.probe = uplink::reachable(site)?.map(|only| only.unwrap_or(FAR));
    }
    Ok(())
}

/// The rule that counts and drops the packet, for iptables-restore: the first of its chain.
pub fn rule(plan: &Plan, target: Ipv4Addr) -> String {
    format!("-s {} -d {target} -m comment --comment {} -j DROP", plan.number.inside(), plan.tag())
}

/// Sends packets until one has been counted by [`rule`], which is there, and takes the rule away. If none is, the error
/// names the rule that dropped them.
pub fn run(site: &Site, target: Ipv4Addr) -> Result<()> {
    let plan = site.plan();
    step(|| format!("sending a packet to {target} through the host's firewall; it is dropped before it leaves"));
    let cannot = |cause: &dyn std::fmt::Display| Error::new("try the host's firewall", cause);
    let iptables = iptables::new(false).map_err(|error| cannot(&error))?;
    let was_counted = || -> Result<bool> {
        let listed = iptables.execute("mangle", "-v -S POSTROUTING").map_err(|error| cannot(&error))?;
        Ok(is_counted(&String::from_utf8_lossy(&listed.stdout), &plan.tag()))
    };
    let deadline = Instant::now() + PATIENCE;
    let mut failure = send(site, target)?;
    let mut passed = was_counted()?;
    while !passed && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
        failure = send(site, target)?.or(failure);
        passed = was_counted()?;
    }
    let mut result = if passed { Ok(()) } else { explain(site, target, failure) };
    if result.is_err() && was_counted()? {
        // Later than we had patience for, but it got through.
        result = Ok(());
    }
    iptables.delete("mangle", "POSTROUTING", &rule(plan, target)).map_err(|error| cannot(&error))?;
    result
}

/// Whether a rule with the comment `tag` has counted a packet, in the output of `iptables -v -S`.
fn is_counted(listed: &str, tag: &str) -> bool {
    let counted = |line: &str| {
        let mut words = line.split(' ').skip_while(|word| *word != "-c");
        words.nth(1).and_then(|packets| packets.parse::<u64>().ok()).is_some_and(|packets| packets > 0)
    };
    listed.lines().any(|line| firewall::has_comment(line, tag) && line.ends_with("-j DROP") && counted(line))
}

/// Sends a TCP SYN and a UDP packet from inside; how the first one failed at once, if it did.
fn send(site: &Site, target: Ipv4Addr) -> Result<Option<ErrorKind>> {
    let namespace =
        netns::open_built(site)?.ok_or_else(|| Error::new("try the host's firewall", "the namespace is gone"))?;
    in_namespace(namespace.as_fd(), || {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).cannot(|| "make a socket in the namespace")?;
        // One router further the packet would end, if another program took the rule away in this moment.
        let _ = udp.set_ttl(2);
        let _ = udp.send_to(&[], (target, UDP_PORT));
        let attempt = TcpStream::connect_timeout(&SocketAddr::from((target, TCP_PORT)), PAUSE);
        Ok(attempt.err().map(|error| error.kind()).filter(|kind| *kind != ErrorKind::TimedOut))
    })
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
            warn(&format!("the host has no route to {target}: nothing inside reaches the Internet until it has one"));
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
    let source = site.plan().number.inside();
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
    let lines = lines_of(&mut monitor);
    let result = tool::run("nft", &["-f", "-"], &table).and_then(|_| watch(site, target, &lines));
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

fn lines_of(monitor: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(output) = monitor.stdout.take() {
        // It ends with the monitor.
        let read = move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
        let _ = std::thread::Builder::new().spawn(read);
    }
    receiver
}

/// Sends packets until the trace of one tells which rule dropped it.
fn watch(site: &Site, target: Ipv4Addr, lines: &Receiver<String>) -> Result<Option<Rule>> {
    let deadline = Instant::now() + TRACE_PATIENCE;
    while Instant::now() < deadline {
        send(site, target)?;
        loop {
            match lines.recv_timeout(PAUSE) {
                Ok(line) => {
                    let rule = parse_drop(&line);
                    // Our own rule, behind all others.
                    if rule.as_ref().is_some_and(|rule| rule.text.contains(&target.to_string())) {
                        return Ok(None);
                    }
                    if rule.is_some() {
                        return Ok(rule);
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
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
        let rule = |packets: u32, comment: &str, target: &str| {
            format!("-A POSTROUTING -s 172.24.1.2/32 -m comment --comment {comment} -c {packets} 60 -j {target}\n")
        };
        assert!(is_counted(&rule(1, "\"runns:vpn1\"", "DROP"), "runns:vpn1"));
        assert!(is_counted(&rule(1, "runns:vpn1", "DROP"), "runns:vpn1"));
        assert!(!is_counted(&rule(0, "runns:vpn1", "DROP"), "runns:vpn1"));
        assert!(!is_counted(&rule(5, "runns:vpn11", "DROP"), "runns:vpn1"));
        assert!(!is_counted(&rule(5, "runns:vpn1", "ACCEPT"), "runns:vpn1"));
    }
}
