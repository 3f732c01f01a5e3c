//! The recipe for a port that the provider forwards, with its commands as docs/RECIPES.md has them.

use super::host;
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::wait_until;

/// A provider's NAT-PMP (RFC 6886): it gives out port 40001, and prints what was asked for.
const GATEWAY: &str = r"
import socket, struct
gateway = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
gateway.bind(('10.2.0.1', 5351))
while True:
    request, client = gateway.recvfrom(64)
    operation = request[1]
    if operation == 0:
        answer = struct.pack('!BBHI', 0, 128, 0, 1) + socket.inet_aton('192.0.2.1')
    else:
        port, _, lifetime = struct.unpack('!HHI', request[4:12])
        answer = struct.pack('!BBHIHHI', 0, 128 + operation, 0, 1, port, 40001, lifetime)
        print({1: 'udp', 2: 'tcp'}[operation], client[0], lifetime, flush=True)
    gateway.sendto(answer, client)
";

/// The commands of the recipe.
fn commands() -> Vec<String> {
    let page = include_str!("../../../docs/RECIPES.md");
    let recipe = page
        .split("\n## ")
        .find(|part| part.starts_with("A port forwarded"));
    let blocks = recipe.expect("the recipe").split("\n\n");
    let commands = blocks.filter(|block| block.starts_with("    "));
    commands.map(str::to_string).collect()
}

#[test]
fn a_port_is_asked_for_through_the_tunnel() {
    let host = host();
    openvpn::make_certificates(&host);
    let _server = OpenVpnServer::start(&host, 1194, 2, &["redirect-gateway def1"]);
    openvpn::configure_client(&host, "torrent", 1194);
    host.configure("[torrent]\nvpn=/etc/openvpn/torrent.conf\nKillSwitch=yes\n");
    host.ok("runns-exec build -s torrent");
    let outside = host.root().inside(&host.internet.net);
    host.write("/usr/local/share/natpmp.py", GATEWAY);
    let gateway = outside.spawn("exec python3 /usr/local/share/natpmp.py");
    wait_until("the gateway", || {
        assert!(gateway.is_running(), "{}", gateway.stderr());
        let listening = outside.run("ss -Hlun src 10.2.0.1:5351").stdout;
        (!listening.is_empty()).then_some(())
    });
    let alice = host.user("alice");
    let commands = commands();
    let [once, always] = &commands[..] else {
        panic!("{commands:?}");
    };
    let answer = alice.ok(once);
    assert!(answer.contains("Mapped public port 40001"), "{answer}");
    assert_eq!(gateway.stdout(), "tcp 10.2.0.2 60\n");
    let unnamed = alice.run(&once.replace("-g 10.2.0.1 ", ""));
    assert_ne!(unnamed.status, 0, "it finds no gateway: {unnamed}");
    alice.ok(always);
    wait_until("both are kept open", || {
        let asked = "tcp 10.2.0.2 60\nudp 10.2.0.2 60\ntcp 10.2.0.2 60\n";
        (gateway.stdout() == asked).then_some(())
    });
    // Nothing is published.
    let _client =
        alice.spawn("runns-exec torrent -- socat tcp-listen:40001,fork system:'echo seed'");
    wait_until("the client is reached", || {
        (outside.run("socat - tcp:10.2.0.2:40001").stdout == "seed\n").then_some(())
    });
    host.ok("runns-exec clean torrent -fk");
}
