//! /etc/runns.conf.d (SPEC 2, 4): its files and /etc/runns.conf are one text.

use crate::host_with_vpn1;
use crate::support::{Host, Snapshot};

const DIRECTORY: &str = "/etc/runns.conf.d";

#[track_caller]
fn refused(host: &Host, parts: &[&str]) {
    host.user("alice")
        .run("runns-exec vpn1 -- true")
        .refused(125, parts);
}

#[test]
fn sections_stand_in_any_file() {
    let host = Host::new();
    let alice = host.user("alice");
    host.ok("ip netns add other && rm /etc/runns.conf");
    host.write(
        "/etc/runns.conf.d/20-b.conf",
        "[Work]\nNetworkNamespace=vpn1\n",
    );
    host.write("/etc/runns.conf.d/10-a.conf", "[other]\n");
    host.ok("runns-exec build -s work");
    for name in ["vpn1", "other"] {
        alice.ok(&format!("runns-exec {name} -- true"));
    }
    // What does not count.
    for name in [
        ".hidden.conf",
        "20-b.conf~",
        "a.conf.dpkg-new",
        "readme",
        ".conf",
    ] {
        host.write(&format!("{DIRECTORY}/{name}"), "nonsense\n");
    }
    host.configure("AllowUnmanaged=no\n[one]\n");
    alice.ok("runns-exec vpn1 -- true");
    // Lists in it hold, links to root's files included.
    host.write("/etc/lists/a", "[vpn1]\nAllowUsers=carol\n");
    host.ok("rm /etc/runns.conf.d/20-b.conf && ln -s ../lists/a /etc/runns.conf.d/x.conf");
    refused(&host, &["AllowUsers"]);
    host.user("carol").ok("runns-exec vpn1 -- true");
    // A file that is named is read alone.
    host.run("runns-exec build --config /etc/runns.conf -s other --dry-run")
        .refused(1, &["/etc/runns.conf", "no section [other]"]);
    host.run("runns-exec build -s othr --dry-run")
        .refused(1, &["no section [othr]", "[other]"]);
}

#[test]
fn errors_name_the_file() {
    let host = host_with_vpn1();
    let before = Snapshot::of(&host);
    for (a, b, parts) in [
        (
            "[x]\nColour=red\n",
            "[y]\n",
            &["a.conf", "[x]", "Colour"][..],
        ),
        (
            "[x]\n",
            "[X]\n",
            &["b.conf", "line 1", "/etc/runns.conf.d/a.conf"],
        ),
        (
            "[x]\n",
            "#\n[VPN1]\n",
            &["b.conf", "line 2", "/etc/runns.conf, too"],
        ),
        (
            "[x]\n",
            "AllowUnmanaged=yes\n",
            &["b.conf", "line 1", "AllowUnmanaged"],
        ),
        (
            "[x]\n",
            "AllowUsers=carol\n[y]\n",
            &["b.conf", "line 1", "AllowUsers"],
        ),
        (
            "[x]\n",
            "[y]\nNetworkNamespace=x\n",
            &["b.conf", "[x]", "[y]"],
        ),
        ("[x]\n", "[y]\nnonsense\n", &["b.conf", "line 2"]),
    ] {
        host.write("/etc/runns.conf.d/a.conf", a);
        host.write("/etc/runns.conf.d/b.conf", b);
        refused(&host, parts);
        host.ok("runns-exec vpn1 -- true && rm /etc/runns.conf.d/*.conf");
    }
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn what_is_not_roots_alone_or_too_much_refuses_everybody() {
    let host = host_with_vpn1();
    let repair = "rm -rf /etc/runns.conf.d && mkdir -m 755 /etc/runns.conf.d && cd /etc/runns.conf.d && echo '[x]' >x.conf";
    for (spoil, part) in [
        ("chmod g+w .", "mode 0775"),
        ("chmod o+w .", "mode 0757"),
        ("chown alice .", "not to root"),
        ("chmod 666 x.conf", "mode 0666"),
        ("chmod 664 x.conf", "mode 0664"),
        ("chown alice x.conf", "not to root"),
        ("chmod 0 x.conf", "Permission denied"),
        ("chmod 0 .", "Permission denied"),
        (
            "cp x.conf /home/alice/y && ln -s /home/alice/y y.conf",
            "/home/alice",
        ),
        ("ln -s nowhere y.conf", "No such file"),
        ("ln -s /dev/zero y.conf", "/dev/zero"),
        ("mkdir y.conf", "directory"),
        ("mkfifo y.conf", "regular file"),
        ("mknod y.conf c 1 5", "regular file"),
        ("head -c 2000000 /dev/zero | tr '\\0' '#' >y.conf", "larger"),
        (
            "for i in 1 2 3; do head -c 400000 /dev/zero | tr '\\0' '#' >$i.conf; done",
            "in all",
        ),
        ("seq -f '%g.conf' 4097 | xargs touch", "more than 4096"),
        ("printf '[y]\\n\\000' >y.conf", "NUL"),
        ("printf '#\\377\\n' >y.conf", "UTF-8"),
        (
            "cd .. && rm -r runns.conf.d && touch runns.conf.d",
            "not a directory",
        ),
        (
            "cd .. && rm -r runns.conf.d && ln -s nowhere runns.conf.d",
            "leads nowhere",
        ),
        (
            "cd .. && mv runns.conf.d /home/alice/d && ln -s /home/alice/d runns.conf.d",
            "/home/alice",
        ),
    ] {
        host.ok(&format!("umask 022; {repair}"));
        host.user("alice").ok("runns-exec vpn1 -- true");
        host.ok(&format!("umask 022; cd /etc/runns.conf.d && {spoil}"));
        refused(&host, &[part]);
    }
    host.ok("rm -rf /etc/runns.conf.d && mv /home/alice/d /etc/d && ln -s d /etc/runns.conf.d");
    host.user("alice").ok("runns-exec vpn1 -- true");
}

/// Each file that is there costs a few system calls; a directory that is not there costs one.
#[test]
fn a_missing_directory_costs_one_call() {
    let host = host_with_vpn1();
    let trace =
        "strace -f -qq -o /tmp/trace runns-exec vpn1 -- true && grep -c 'runns.conf.d' /tmp/trace";
    host.ok("rm -rf /etc/runns.conf.d");
    assert_eq!(host.ok(trace), "1");
}
