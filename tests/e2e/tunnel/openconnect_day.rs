//! An employee's day: a login with a code, the uplink away for a while, the end of the session, and
//! another login; the programs inside go on, and nothing of theirs leaves outside the tunnel.

use super::openconnect::wait_until_down;
use super::openconnect_login::build;
use super::{
    FAR, Probes, Watch, host, ping, set_uplink_address, start_resolver, tunnel_field, wait_for_ping,
};
use crate::support::ocserv::{self, INSIDE, Ocserv, section};
use crate::support::{Snapshot, wait_until};

const SERVER: &str =
    "route = default\nauth = \"plain[passwd=/srv/ocserv/passwd,otp=/srv/ocserv/otp]\"\n";

#[test]
fn of_an_employee() {
    let host = host();
    ocserv::prepare(&host);
    // HOTP with the secret 00: 328482 is the code of the counter 0, 812658 that of 1 (RFC 4226).
    host.write("/srv/ocserv/otp", "HOTP alice - 00\n");
    let server = Ocserv::start(&host, SERVER);
    host.configure(&section("KillSwitch=yes\n"));
    let before = Snapshot::of(&host);
    let watch = Watch::start(&host);
    let built = build(&host, &[": =>328482"]);
    assert!(
        built.status == 0 && !built.stdout.contains("NOT ASKED"),
        "{built}"
    );
    let resolver = start_resolver(&host, INSIDE, FAR);
    let web = host.internet.net.serve(&format!("{FAR}:80"), "company");
    let probes = Probes::start(&host, "work");
    let browse = || {
        wait_until("a page", || {
            let page = host
                .user("alice")
                .run("runns-exec work -- curl -sS -m 5 http://intranet.corp.test/");
            page.stdout.contains("company").then_some(())
        });
    };
    browse();

    // The lid is closed, and opened at home.
    host.ok("ip link set eth0 down");
    wait_until_down(&host, "");
    probes.go_on();
    set_uplink_address(&host, "192.0.2.3");
    wait_for_ping(&host, "work", FAR);
    browse();

    // The session ends. A new one needs a new code, for which somebody has to be there.
    server.disconnect(&host, "alice");
    wait_until_down(&host, "the session has ended");
    probes.go_on();
    let alone = host.run("runns-exec build -s work");
    alone.refused(1, &["no terminal to ask on"]);
    assert!(!ping(&host, "work", FAR));
    probes.go_on();
    let built = build(&host, &[": =>812658"]);
    assert!(
        built.status == 0 && built.stdout.contains("work repaired"),
        "{built}"
    );
    assert_eq!(tunnel_field(&host, "alice", "work", "up"), "True");
    browse();
    probes.go_on();

    host.ok("runns-exec clean work -f --kill");
    watch.assert_nothing();
    drop((resolver, web));
    set_uplink_address(&host, "192.0.2.2");
    host.run("pkill dnsmasq; rm -f /root/typist.py");
    before.assert_same(&Snapshot::of(&host));
}
