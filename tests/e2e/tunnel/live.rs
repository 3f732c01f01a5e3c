//! What a terminal shows while it is watched: `status --watch`, and the time left for a tunnel.

use super::{host, wait_for_ping};
use crate::support::Terminal;
use crate::support::openvpn::{self, OpenVpnServer};

/// What comes before each table: the upper left corner, and everything behind it cleared.
const CLEAR: &str = "\x1b[H\x1b[J";

/// The next table, as it is shown.
#[track_caller]
fn next(terminal: &mut Terminal) -> String {
    let shown = terminal.expect(CLEAR);
    String::from_utf8_lossy(&shown).replace(CLEAR, "")
}

#[test]
fn watch_shows_traffic_until_ctrl_c() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start(&host, 1194, 8, &[]);
    openvpn::configure_client(&host, "work", 1194);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\nKillSwitch=yes\n[idle]\n");
    host.ok("runns-exec build -s work && runns-exec build -s idle");
    wait_for_ping(&host, "work", "10.8.0.1");
    // 20 packets of 1228 bytes in a second, both ways.
    let _traffic = host
        .user("alice")
        .spawn("exec runns-exec work -- ping -q -i 0.05 -s 1200 10.8.0.1");
    for runner in [host.root(), host.user("alice")] {
        let mut terminal = Terminal::start(
            &runner.env("NO_COLOR", ""),
            &["runns-exec", "status", "--watch"],
        );
        let modes = terminal.modes.clone();
        next(&mut terminal);
        let first = next(&mut terminal);
        let cells = "NAMESPACE  STATE  TUNNEL        RX/s  TX/s  DNS";
        assert!(first.starts_with(cells), "{first}");
        let second = next(&mut terminal);
        let of = |table: &str, name: &str| {
            let row = table.lines().find(|line| line.starts_with(name));
            row.unwrap_or_else(|| panic!("{name}: {table}")).to_string()
        };
        let work = of(&second, "work ");
        assert!(work.contains("\x1b[32mok\x1b[0m"), "{work}");
        let rates: Vec<f64> = work
            .split("  ")
            .filter_map(|cell| cell.trim().strip_suffix(" kB")?.parse().ok())
            .collect();
        assert!(
            rates.len() == 2 && rates.iter().all(|rate| (10.0..=40.0).contains(rate)),
            "{second}"
        );
        assert!(
            of(&second, "idle ").contains("ok\x1b[0m     -  "),
            "{second}"
        );
        // What is cleaned meanwhile is not shown any more.
        host.ok("runns-exec clean idle");
        terminal.resize(30, 54);
        next(&mut terminal);
        let narrow = next(&mut terminal);
        assert!(
            of(&narrow, "NAMESPACE").trim_end().ends_with("TX/s"),
            "{narrow}"
        );
        assert!(of(&narrow, "idle ").contains("not built"), "{narrow}");
        terminal.resize(3, 100);
        next(&mut terminal);
        let low = next(&mut terminal);
        assert!(low.contains("more lines: "), "{low}");
        terminal.enter("\x03");
        assert_eq!(terminal.wait(), 130);
        terminal.wait_modes(&modes);
        host.ok("runns-exec build -s idle");
    }
    let plain = host.root().env("NO_COLOR", "1");
    let mut terminal = Terminal::start(&plain, &["runns-exec", "status", "--watch", "work"]);
    next(&mut terminal);
    let table = next(&mut terminal);
    assert!(
        !table.contains('\x1b') && !table.contains("idle"),
        "{table}"
    );
    terminal.enter("\x03");
    assert_eq!(terminal.wait(), 130);
}

#[test]
fn watch_needs_a_terminal() {
    let host = host();
    for runner in [host.root(), host.user("alice")] {
        runner
            .run("runns-exec status --watch")
            .refused(1, &["not a terminal"]);
        runner
            .run("runns-exec status --watch --json")
            .refused(2, &["--json"]);
        let mut terminal = Terminal::start(&runner, &["runns-exec", "status", "--watch", "nosuch"]);
        terminal.expect("cannot show 'nosuch': it is neither");
        assert_eq!(terminal.wait(), 1);
    }
}

#[test]
fn a_terminal_shows_the_time_left_for_a_tunnel() {
    let host = host();
    openvpn::make_certificates(&host);
    // Nobody answers there.
    openvpn::configure_client(&host, "work", 1194);
    host.configure("[work]\nvpn=/etc/openvpn/work.conf\nKillSwitch=yes\n");
    let build = ["runns-exec", "build", "-s", "work", "--wait", "6"];
    let mut terminal = Terminal::start(&host.root(), &build);
    let mut left = 7;
    for _ in 0..2 {
        terminal.expect("waiting for the tunnel of work: ");
        // It is overwritten with blanks before the next line.
        let shown = terminal.expect(" s left\r ");
        let number = String::from_utf8_lossy(&shown);
        let number = number.split(' ').next().unwrap_or_default();
        let earlier = std::mem::replace(&mut left, number.parse().expect("seconds"));
        assert!(left <= earlier, "{left} {earlier}");
    }
    terminal.expect(" \rrunns-exec: cannot ");
    assert_eq!(terminal.wait(), 1);
    let plain = host.run(&build.join(" "));
    assert!(
        plain.status == 1 && !plain.stderr.contains("s left"),
        "{plain}"
    );
}
