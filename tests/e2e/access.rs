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
    let gid =
        host.ok("groupadd drivers; usermod -aG drivers carol; getent group drivers | cut -d: -f3");
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
    expect(
        &host,
        "AllowUsers=alice\nAllowGroups=drivers",
        &["alice", "carol"],
    );
    expect(
        &host,
        "AllowUsers=alice\nAllowGroups=no-such-group",
        &["alice"],
    );
    expect(&host, "AllowGroups=root", &[]);
    // The lists do not restrict root, and no option overrides them.
    host.ok("runns-exec vpn1 -- true");
    host.configure("AllowUnmanaged=yes\n[vpn1]\nAllowUsers=carol\n");
    host.user("alice")
        .run("runns-exec vpn1 -- true")
        .refused(125, &["AllowUsers"]);
    // Only the groups of the process itself count: one that the caller has dropped does not.
    host.configure("[vpn1]\nAllowGroups=drivers\n");
    let without = "setpriv --reuid carol --regid carol --groups runns runns-exec vpn1 -- true";
    host.run(without).refused(125, &["AllowGroups"]);
}

#[test]
fn another_name_for_the_same_namespace_is_no_way_round_a_list() {
    let host = host_with_vpn1();
    host.ok("touch /run/netns/alias && mount --bind /run/netns/vpn1 /run/netns/alias");
    for config in [
        "AllowUnmanaged=yes\n[vpn1]\nAllowUsers=carol\n",
        "[alias]\n[vpn1]\nAllowUsers=carol\n",
    ] {
        host.configure(config);
        host.user("alice")
            .run("runns-exec alias -- true")
            .refused(125, &["AllowUsers"]);
        host.user("carol").ok("runns-exec alias -- true");
    }
}

/// How often a command of this user enters a namespace.
fn entered(host: &Host, user: &str, command: &str) -> usize {
    host.run(&format!(
        "strace -f -u {user} -e trace=setns -o /tmp/trace {command}"
    ));
    host.ok("cat /tmp/trace")
        .lines()
        .filter(|line| line.contains("setns(") && line.ends_with("= 0"))
        .count()
}

#[test]
fn nobody_looks_into_a_namespace_that_they_may_not_enter() {
    let host = Host::new();
    host.configure("[built]\nAllowUsers=carol\n[also]\n");
    host.ok(
        "runns-exec build -s built && ip netns add other && touch /run/netns/also && \
             mount --bind /run/netns/built /run/netns/also",
    );
    // Of root's, for which list has to ask the namespaces without a record for their numbers.
    host.ok("ip netns exec other setsid sleep 1000 >/dev/null 2>&1 &");
    for command in [
        "status",
        "status built",
        "status built other also",
        "check built",
        "check also",
        "list -a",
    ] {
        assert_eq!(
            entered(&host, "alice", &format!("runns-exec {command}")),
            0,
            "{command}"
        );
    }
    assert!(
        host.user("alice")
            .run("runns-exec status built")
            .stdout
            .contains("built"),
        "the record is for everybody"
    );
    assert!(entered(&host, "carol", "runns-exec status built") > 0);
    host.configure("AllowUnmanaged=yes\n[built]\nAllowUsers=carol\n");
    assert!(entered(&host, "alice", "runns-exec list -a") > 0);
    assert_eq!(
        entered(&host, "alice", "runns-exec status"),
        0,
        "another name of it is no way round"
    );
}

#[test]
fn whoever_is_refused_has_changed_nothing() {
    let host = Host::new();
    host.write("/etc/vpn.resolv", "nameserver 198.51.100.53\n");
    host.configure("[built]\nAllowUsers=carol\nResolve=/etc/vpn.resolv\n");
    host.ok("runns-exec build -s built && ip -n built link set lo down && ip netns add secret");
    for name in ["built", "secret"] {
        host.ok(&format!("touch /run/netns/alias-{name} && mount --bind /run/netns/{name} /run/netns/alias-{name}"));
    }
    let is_down = |name: &str| {
        assert_eq!(
            host.ok(&format!("ip -n {name} link show lo up")),
            "",
            "{name}"
        )
    };
    host.configure("AllowUnmanaged=yes\n[secret]\nAllowUsers=carol\n");
    let alice = host.user("alice");
    for name in ["built", "secret"] {
        alice
            .run(&format!("runns-exec {name} -- true"))
            .refused(125, &["AllowUsers"]);
        alice
            .run(&format!("runns-exec alias-{name} -- true"))
            .refused(125, &["AllowUsers"]);
        is_down(name);
    }
    // Its own name is gone: only inside is it known to be the one that was built.
    host.ok("umount /run/netns/built && rm /run/netns/built");
    alice
        .run("runns-exec alias-built -- true")
        .refused(125, &["AllowUsers"]);
    is_down("alias-built");
    host.ok("touch /run/netns/built && mount --bind /run/netns/alias-built /run/netns/built");
    host.ok("mv /etc/netns/built/resolv.conf /root/");
    host.user("carol")
        .run("runns-exec built -- true")
        .refused(125, &["resolv.conf", "removed"]);
    is_down("built");
    host.ok("mv /root/resolv.conf /etc/netns/built/");
    host.user("carol")
        .ok("runns-exec built -- true && runns-exec secret -- true");
    assert!(
        host.ok("ip -n built link show lo up").contains("UP")
            && host.ok("ip -n secret link show lo").contains("UP")
    );
}

#[test]
fn a_section_keeps_every_command_from_gaining_privileges() {
    let host = host_with_vpn1();
    host.write(
        "/etc/sudoers.d/network",
        "alice 10.99.0.0/16=(root) NOPASSWD: ALL\n",
    );
    host.ok(
        "chmod 440 /etc/sudoers.d/network && ip -n vpn1 link add tun0 type veth peer tun1 && \
         ip -n vpn1 address add 10.99.0.1/16 dev tun0 && ip -n vpn1 link set tun0 up",
    );
    let alice = host.user("alice");
    let is_set = |runner: &crate::support::Runner, options: &str| {
        runner
            .ok(&format!(
                "runns-exec {options} -- grep NoNewPrivs /proc/self/status"
            ))
            .trim_end()
            .ends_with('1')
    };
    // What is to be prevented: an address in the namespace makes alice root.
    assert_ne!(alice.run("sudo -n id -u").status, 0);
    assert_eq!(alice.ok("runns-exec vpn1 -- sudo -n id -u"), "0");
    host.configure("[vpn1]\nNoNewPrivs=yes\n");
    assert_ne!(alice.run("runns-exec vpn1 -- sudo -n id -u").status, 0);
    for runner in [&alice, &host.root()] {
        assert!(is_set(runner, "vpn1") && is_set(runner, "--pty vpn1"));
    }
    // By another name too; in no other namespace.
    host.ok("touch /run/netns/alias && mount --bind /run/netns/vpn1 /run/netns/alias && ip netns add other");
    host.configure("AllowUnmanaged=yes\n[vpn1]\nnonewprivs = Yes\n");
    assert!(is_set(&alice, "alias") && !is_set(&alice, "other"));
    // The record keeps it, and today's configuration adds to it.
    host.configure("[strict]\nNoNewPrivs=yes\n[lax]\n");
    host.ok("runns-exec build -s strict && runns-exec build -s lax");
    assert!(is_set(&alice, "strict") && !is_set(&alice, "lax"));
    host.configure("[strict]\nNoNewPrivs=no\n[lax]\nNoNewPrivs=yes\n");
    for runner in [&alice, &host.root()] {
        assert!(is_set(runner, "strict") && is_set(runner, "lax"));
    }
    host.run("runns-exec build -s strict")
        .refused(1, &["different settings"]);
    host.configure("[vpn1]\nNoNewPrivs=1\n");
    alice
        .run("runns-exec vpn1 -- true")
        .refused(125, &["NoNewPrivs", "yes or no"]);
    host.ok("runns-exec strict -- true");
}

#[test]
fn a_configuration_that_a_link_leads_to_nowhere_refuses() {
    let host = Host::new();
    host.ok(
        "runns-exec build && mkdir /srv/conf && mv /etc/runns.conf /srv/conf/ 2>/dev/null; touch /srv/conf/runns.conf",
    );
    host.ok("ln -s /srv/conf/runns.conf /etc/runns.conf");
    let alice = host.user("alice");
    alice.ok("runns-exec vpn1 -- true");
    // As a sandbox may have it that shows another /srv.
    host.ok("mv /srv/conf /srv/other");
    alice
        .run("runns-exec vpn1 -- true")
        .refused(125, &["/etc/runns.conf", "leads nowhere"]);
}

#[test]
fn new_privileges_stay_forbidden_under_another_name() {
    let host = Host::new();
    host.configure("AllowUnmanaged=yes\n[vpn1]\nNoNewPrivs=yes\n");
    host.ok("runns-exec build -s vpn1 && touch /run/netns/alias && mount --bind /run/netns/vpn1 /run/netns/alias");
    let shown = "runns-exec alias -- grep NoNewPrivs /proc/self/status";
    let alice = host.user("alice");
    assert!(alice.ok(shown).ends_with('1'));
    host.ok("umount /run/netns/vpn1 && rm /run/netns/vpn1");
    assert!(alice.ok(shown).ends_with('1'));
}
