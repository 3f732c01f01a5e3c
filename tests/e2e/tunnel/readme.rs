//! The first minute, as README.md shows it: each command, and what it prints on a real host.
//!
//! With RUNNS_WRITE_README in the environment, the transcript there is replaced by the one that was
//! found.

use super::host;
use crate::support::openvpn::{self, OpenVpnServer};

/// What alice types. She may use sudo for everything.
const COMMANDS: [&str; 3] = [
    "sudo runns-exec import --build ~/Downloads/work.ovpn",
    "runns-exec work -- ip -brief address",
    "sudo runns-exec status",
];

#[test]
fn the_first_minute() {
    let host = host();
    openvpn::make_certificates(&host);
    let push = "push \"redirect-gateway def1\"\npush \"dhcp-option DNS 10.8.0.1\"\n";
    let _server = OpenVpnServer::start_with(&host, 1194, 8, push);
    openvpn::configure_client(&host, "work", 1194);
    let alice = host.user("alice");
    // As providers hand it out: one file, with the certificates in it.
    host.ok(
        "install -d -o alice /home/alice/Downloads && cd /etc/openvpn &&
        { grep -v -e ^ca -e ^cert -e ^key work.conf
          for file in ca.crt client.crt client.key; do
              case $file in ca*) option=ca ;; *) option=$(echo ${file#client.} | sed s/crt/cert/) ;; esac
              printf '<%s>\n' $option && cat $file && printf '</%s>\n' $option
          done; } >/home/alice/Downloads/work.ovpn",
    );
    let mut found = String::new();
    for command in COMMANDS {
        let shown = match command.strip_prefix("sudo ") {
            Some(command) => host.root().env("HOME", "/home/alice").run(command),
            None => alice.run(command),
        };
        found += &format!("    $ {command}\n");
        for line in (shown.stderr.clone() + &shown.stdout).lines() {
            found += format!("    {line}").trim_end();
            found.push('\n');
        }
        assert_eq!(shown.status, 0, "{found}");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let page = std::fs::read_to_string(path).expect("README.md");
    let begin = page
        .find(&format!("    $ {}", COMMANDS[0]))
        .expect("the transcript");
    let end = begin + page[begin..].find("\n\n").expect("its end") + 1;
    if std::env::var_os("RUNNS_WRITE_README").is_some() {
        let page = format!("{}{found}{}", &page[..begin], &page[end..]);
        std::fs::write(path, page).expect("write the transcript");
    } else {
        assert_eq!(&page[begin..end], found);
    }
}
