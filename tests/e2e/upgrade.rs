//! Namespaces that an earlier version built.

use crate::support::{Host, Snapshot};

/// Turns a namespace into what version 0.1.0 made of it: rules, routing rule and table of its own, no group, no mark.
const AS_BEFORE: &str = "
    nft flush ruleset
    tc qdisc del dev old ingress && ip link set old group default
    ip rule del fwmark 0x81000000/0xff000000 && ip route flush table 17250001
    ip route add unreachable default table 17240000 metric 4294967295 proto 172
    ip route add default via 192.0.2.1 dev eth0 onlink table 17240000 proto 172
    ip rule add iif old lookup 17240000 priority 1 protocol 172
    iptables-restore <<END
*mangle
-A PREROUTING ! -s 172.24.0.0/24 -i old -m comment --comment runns:old -j DROP
-A FORWARD -o old -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment runns:old -j DROP
-A FORWARD -i old ! -o eth0 -m comment --comment runns:old -j DROP
COMMIT
*filter
-I FORWARD 1 -d 172.24.0.0/24 -o old -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment runns:old -j ACCEPT
-I FORWARD 1 -s 172.24.0.0/24 -i old -m comment --comment runns:old -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 172.24.0.0/24 ! -o old -m comment --comment runns:old -j MASQUERADE
COMMIT
END
    python3 - <<END
import json
host = json.load(open('/run/runns/.host'))
del host['uplinks'], host['firewalld_zone']
json.dump(host, open('/run/runns/.host', 'w'))
record = json.load(open('/run/runns/old.json'))
del record['version'], record['lock_generation']
json.dump(record, open('/run/runns/old.json', 'w'))
END";

#[test]
fn what_an_earlier_version_built_is_entered_and_cleaned() {
    let host = Host::new();
    let _web = host.internet.net.serve("192.0.2.1:80", "seen");
    let before = Snapshot::of(&host);
    let curl = |name: &str| format!("runns-exec {name} -- curl -sS --max-time 5 http://192.0.2.1/");
    let build = || {
        host.ok("runns-exec build -n old -o eth0");
        host.ok(AS_BEFORE);
        assert_eq!(host.user("alice").ok(&curl("old")), "seen 192.0.2.2");
    };
    build();
    host.ok("runns-exec list old -a");
    for runner in [host.root(), host.user("alice")] {
        let shown = runner.run("runns-exec status old");
        assert!(shown.stdout.contains("old        degraded") && shown.stdout.contains("earlier version"), "{shown}");
    }
    // Beside one of this version, which comes and goes.
    host.ok("runns-exec build -n new -o eth0");
    for name in ["old", "new"] {
        assert_eq!(host.user("alice").ok(&curl(name)), "seen 192.0.2.2");
    }
    host.ok("runns-exec clean new");
    assert_eq!(host.user("alice").ok(&curl("old")), "seen 192.0.2.2");
    host.ok("runns-exec clean old -f");
    before.assert_same(&Snapshot::of(&host));
    // Moved to another uplink, or built again, it is one of this version.
    for renew in ["clean old -r eth0", "build -n old -o eth0"] {
        build();
        host.ok(&format!("runns-exec {renew}"));
        is_of_this_version(&host);
        host.ok("runns-exec clean old -f");
        before.assert_same(&Snapshot::of(&host));
    }
}

fn is_of_this_version(host: &Host) {
    let curl = "runns-exec old -- curl -sS --max-time 5 http://192.0.2.1/";
    assert_eq!(host.user("alice").ok(curl), "seen 192.0.2.2");
    let old = host.run("iptables-save | grep -e '-i old'; ip rule | grep 'iif old'; ip route show table 17240000");
    assert_eq!(old.stdout, "", "{old}");
    host.ok("runns-exec status old");
}
