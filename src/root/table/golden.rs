//! The texts of the tables for the sections whose effect docs/TUNNELS.md tells: compared with the
//! files in `golden`, so that whoever changes a rule sees in review what becomes of the text. To
//! write the files anew after a change: `RUNNS_GOLDEN=write cargo test -p runns-exec-root --lib
//! golden`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{host, inside};
use crate::facts::veth::Veth;
use crate::facts::{self, uplinks::Bound};
use runns_shared::config::Config;
use runns_shared::plan::{Plan, Resolver};
use runns_shared::subnet::Number;

/// A name for the file, and the lines of the section.
const SECTIONS: [(&str, &str); 19] = [
    ("nothing", ""),
    ("ipv6", "IPv6=yes"),
    ("no-host", "HostAccess=no"),
    (
        "localhost",
        "HostAccess=7001,localhost:7002,localhost:53/udp",
    ),
    ("publish", "Publish=8080:80 Publish=192.0.2.2:53/udp"),
    ("uplink", "InterfaceOut=eth0"),
    ("openvpn", "vpn"),
    ("openvpn-publish", "vpn Publish=8080:80 Publish=6881/udp"),
    ("openvpn-host", "vpn HostAccess=7001"),
    (
        "openvpn-bypass",
        "vpn Bypass=203.0.113.8/29,2001:db8:1::/48",
    ),
    ("openvpn-dns", "vpn DNS=192.0.2.53"),
    ("openvpn-kill", "vpn KillSwitch=yes"),
    (
        "openvpn-kill-publish",
        "vpn KillSwitch=yes Publish=8080:80 Publish=6881/udp",
    ),
    ("openvpn-kill-host", "vpn KillSwitch=yes HostAccess=7001"),
    (
        "openvpn-kill-localhost",
        "vpn KillSwitch=yes HostAccess=localhost:7002",
    ),
    (
        "openvpn-kill-bypass",
        "vpn KillSwitch=yes Bypass=203.0.113.8/29",
    ),
    (
        "wireguard-all",
        "wireguard Publish=8080:80 HostAccess=7001 Bypass=203.0.113.8/29",
    ),
    (
        "wireguard-kill-all",
        "wireguard KillSwitch=yes Publish=8080:80 HostAccess=7001 Bypass=203.0.113.8/29",
    ),
    (
        "uplink-all",
        "wireguard InterfaceOut=eth0 Publish=8080:80 HostAccess=yes Bypass=203.0.113.8/29",
    ),
];

/// The plan of a section with these lines.
pub fn plan(section: &str) -> Plan {
    let line = |word| match word {
        "vpn" => "vpn=/etc/a.ovpn",
        "wireguard" => "WireGuard=/etc/a.conf",
        option => option,
    };
    let lines: Vec<&str> = section.split_whitespace().map(line).collect();
    let text = format!("[a]\n{}\n", lines.join("\n"));
    let config = Config::parse(&text, Path::new("golden")).unwrap();
    let section = config.sections.into_iter().next().unwrap();
    let dns = section.request.dns.as_ref();
    let resolver = dns.map(|dns| Resolver {
        from: "DNS".to_string(),
        text: None,
        nsswitch: None,
        servers: dns.servers.clone(),
        lock: true,
    });
    Plan {
        interface: section.netns.default_interface(),
        name: section.netns,
        request: section.request,
        number: Number::new(1).unwrap(),
        resolver,
        host: None,
        host_v6: None,
    }
}

/// What would be loaded on the host and inside.
fn text(section: &str) -> String {
    let plan = plan(section);
    let veth = Veth::on(&plan, true).unwrap();
    let uplinks = plan
        .request
        .uplink
        .iter()
        .map(|uplink| (uplink.to_string(), Bound::numbered(1)));
    let not_routed = BTreeSet::from(["eth0".to_string()]);
    let host = facts::Facts {
        veths: veth.iter().cloned().collect(),
        uplinks: uplinks.collect::<BTreeMap<_, _>>(),
        subnets: veth.iter().map(|veth| veth.subnet.to_string()).collect(),
        not_routed_v6: not_routed.clone(),
        not_routed,
    };
    let of_host = veth.as_ref().filter(|veth| veth.has_tunnel);
    let inside = facts::inside::Facts {
        host: of_host.map_or(Vec::new(), |veth| {
            vec![veth.subnet.host(), "192.0.2.2".parse().unwrap()]
        }),
        host_v6: Vec::new(),
        veth,
        locked: plan.request.has_tunnel().then(|| {
            let own = plan.resolver.as_ref();
            own.map_or(vec!["10.8.0.1".parse().unwrap()], |own| own.servers.clone())
        }),
    };
    let host = if plan.request.has_veth() {
        host::text(&host)
    } else {
        String::new()
    };
    format!(
        "# On the host: {section}\n{host}# Inside\n{}",
        inside::text(&inside)
    )
}

#[test]
fn golden() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("table/golden");
    let writes = std::env::var_os("RUNNS_GOLDEN").is_some_and(|word| word == "write");
    for (name, section) in SECTIONS {
        let file = directory.join(name).with_extension("nft");
        let text = text(section);
        if writes {
            std::fs::write(&file, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            text == golden,
            "{name}: the text has changed; see the head of table/golden.rs:\n{text}"
        );
    }
    assert_eq!(
        std::fs::read_dir(&directory).unwrap().count(),
        SECTIONS.len(),
        "files without a section"
    );
}

/// The rules' files name groups, marks and addresses as numbers; the code has them as constants.
#[test]
fn the_files_name_the_same_numbers_as_the_code() {
    let text = text("InterfaceOut=eth0 Publish=1");
    for number in [
        "0x72756e01 . \"eth0\"",
        "0x81000000 . \"eth0\"",
        "iifgroup 0x72756e00/24",
        "0xfe000000",
        "0xff000000",
    ] {
        assert!(text.contains(number), "{number}");
    }
    let pair = Veth::on(&plan("IPv6=yes"), true)
        .unwrap()
        .unwrap()
        .ipv6
        .unwrap();
    assert!(
        pair.host.to_string().starts_with("fd72:756e:6e73:1::")
            && text.contains("fd72:756e:6e73::/48")
    );
}
