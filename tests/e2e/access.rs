//! AllowUsers and AllowGroups (SPEC 3.3).

use crate::host_with_vpn1;
use crate::support::Host;

#[track_caller]
fn expect(host: &Host, options: &str, allowed: &[&str]) {
    host.configure(&format!("[vpn1]\n{options}\n"));
    for user in ["alice", "carol"] {
        let output = host.user(user).run("runns-exec vpn1 -- true");
        if allowed.contains(&user) {
            assert_eq!(output.status, 0, "{options}: {output}");
        } else {
            output.refused(125, &["AllowUsers"]);
        }
    }
}

#[test]
fn lists_say_who_may_enter() {
    let host = host_with_vpn1();
    let uid = host.ok("id -u alice");
    let gid = host.ok("groupadd drivers; usermod -aG drivers carol; getent group drivers | cut -d: -f3");
    expect(&host, "", &["alice", "carol"]);
    expect(&host, "AllowUsers=alice", &["alice"]);
    expect(&host, "allowusers = bob, carol", &["carol"]);
    expect(&host, "AllowUsers=bob carol\talice", &["alice", "carol"]);
    expect(&host, &format!("AllowUsers={uid}"), &["alice"]);
    expect(&host, "AllowUsers=nobody-at-all", &[]);
    expect(&host, "AllowUsers=Alice", &[]);
    expect(&host, "AllowGroups=drivers", &["carol"]);
    expect(&host, &format!("AllowGroups={gid}"), &["carol"]);
    expect(&host, "AllowGroups=runns", &["alice", "carol"]);
    expect(&host, "AllowUsers=alice\nAllowGroups=drivers", &["alice", "carol"]);
    expect(&host, "AllowUsers=alice\nAllowGroups=no-such-group", &["alice"]);
    expect(&host, "AllowGroups=root", &[]);
    // The lists do not restrict root, and no option overrides them.
    host.ok("runns-exec vpn1 -- true");
    host.configure("AllowUnmanaged=yes\n[vpn1]\nAllowUsers=carol\n");
    host.user("alice").run("runns-exec vpn1 -- true").refused(125, &["AllowUsers"]);
    // Only the groups of the process itself count: one that the caller has dropped does not.
    host.configure("[vpn1]\nAllowGroups=drivers\n");
    let without = "setpriv --reuid carol --regid carol --groups runns runns-exec vpn1 -- true";
    host.run(without).refused(125, &["AllowGroups"]);
}

#[test]
fn another_name_for_the_same_namespace_is_no_way_round_a_list() {
    let host = host_with_vpn1();
    host.ok("touch /run/netns/alias && mount --bind /run/netns/vpn1 /run/netns/alias");
    for config in ["AllowUnmanaged=yes\n[vpn1]\nAllowUsers=carol\n", "[alias]\n[vpn1]\nAllowUsers=carol\n"] {
        host.configure(config);
        host.user("alice").run("runns-exec alias -- true").refused(125, &["AllowUsers"]);
        host.user("carol").ok("runns-exec alias -- true");
    }
}
