//! /etc/runns.conf.d (SPEC 2, 4): its files and /etc/runns.conf are one text.

use crate::host_with_vpn1;
use crate::support::{Host, Snapshot, Terminal};

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

#[test]
fn config_shows_what_is_in_force_and_everything_that_is_wrong() {
    let host = Host::new();
    host.configure("# a comment\nAllowUnmanaged = no\n\n[work]\n  vpn=/etc/none.conf # old\n");
    host.write("/etc/runns.conf.d/a.conf", "; none\n[a]\nDNS=192.0.2.1\n");
    let shown = host.run("runns-exec config");
    assert_eq!(
        shown.stdout,
        "# /etc/runns.conf\nAllowUnmanaged = no\n[work]\nvpn=/etc/none.conf # old\n\n\
         # /etc/runns.conf.d/a.conf\n[a]\nDNS=192.0.2.1\n"
    );
    // A file that is not there keeps nobody out.
    let warning = "warning: /etc/runns.conf: line 5: vpn: cannot open /etc/none.conf # old: ";
    assert!(
        shown.status == 0
            && shown.stderr.contains(warning)
            && shown.stderr.contains("comments have lines of their own"),
        "{shown}"
    );
    host.configure("[work]\nDNSLock=true\n[x\nDNS=1\n[b]\nNetworkNamespace=a\n");
    host.write(
        "/etc/runns.conf.d/a.conf",
        "[a]\nResolv=/x\n[c]\nNetworkNamespace=b\n",
    );
    let shown = host.run("runns-exec config");
    assert_eq!(shown.status, 1);
    let expected = [
        "runns-exec: cannot use /etc/runns.conf: line 3: section without ']': [x",
        "runns-exec: cannot use /etc/runns.conf: line 2: [work] DNSLock: cannot be 'true': it must be yes or no",
        "hint: true is yes here: write DNSLock=yes",
        "runns-exec: cannot use /etc/runns.conf.d/a.conf: line 2: [a] Resolv: unknown option",
        "hint: did you mean Resolve?",
    ];
    assert_eq!(shown.stderr.lines().collect::<Vec<_>>(), expected);
    host.configure("[work]\nNetworkNamespace=a\n");
    host.write("/etc/runns.conf.d/a.conf", "[a]\n");
    host.run("runns-exec config >/dev/null").refused(
        1,
        &[
            "a.conf: line 1: [a] names namespace a",
            "[work] in line 1 of /etc/runns.conf",
        ],
    );
    host.user("alice")
        .run("runns-exec config")
        .refused(1, &["only root", "hint: sudo runns-exec config"]);
    host.run("runns-exec config other").refused(2, &["other"]);
}

/// An editor that runs `script` with the file as `$1`.
fn editor(host: &Host, script: &str) {
    host.write("/usr/local/bin/ed-test", &format!("#!/bin/sh\n{script}\n"));
    host.ok("chmod 755 /usr/local/bin/ed-test");
}

#[test]
fn config_edit_puts_only_a_valid_configuration_in_place() {
    let host = Host::new();
    host.configure("[work]\nDNS=192.0.2.1\n");
    host.ok("chmod 644 /etc/runns.conf");
    let root = host.root().env("EDITOR", "ed-test --wait");
    let temporary = "ls -d /tmp/runns-config* 2>/dev/null | wc -l";
    editor(&host, "[ \"$1\" = --wait ] && echo '[new]' >>\"$2\"");
    assert_eq!(root.ok("runns-exec config edit"), "saved /etc/runns.conf");
    assert_eq!(
        host.ok("cat /etc/runns.conf; stat -c %a:%U /etc/runns.conf"),
        "[work]\nDNS=192.0.2.1\n[new]\n644:root"
    );
    host.log.wait_for(&["changed /etc/runns.conf"]);
    editor(&host, "true");
    assert_eq!(
        root.ok("runns-exec config edit"),
        "/etc/runns.conf unchanged"
    );
    // Of the whole: another file has this section already. A file that is not there is new.
    editor(&host, "echo '[NEW]' >>\"$2\"");
    let refused = root.run("runns-exec config edit more");
    assert_eq!(refused.status, 1, "{refused}");
    assert!(
        refused.stderr.contains(
            "/etc/runns.conf.d/more.conf: line 1: duplicate section: it is in /etc/runns.conf"
        ),
        "{refused}"
    );
    host.ok("! test -e /etc/runns.conf.d/more.conf");
    editor(&host, "echo '[More]' >>\"$2\"");
    root.ok("runns-exec config edit more");
    // By a section; and an editor that fails changes nothing.
    editor(&host, "echo 'MTU=1400' >>\"$2\"");
    assert_eq!(
        root.ok("runns-exec config edit MORE"),
        "saved /etc/runns.conf.d/more.conf"
    );
    editor(&host, "echo >>\"$2\"; exit 3");
    root.run("runns-exec config edit more.conf")
        .refused(1, &["ed-test", "exit status: 3"]);
    assert_eq!(
        host.ok("cat /etc/runns.conf.d/more.conf"),
        "[More]\nMTU=1400"
    );
    // What somebody else writes meanwhile is not lost, and neither is what was typed.
    editor(
        &host,
        "echo '#typed' >>\"$2\"; echo '#other' >>/etc/runns.conf",
    );
    let refused = root
        .run("runns-exec config edit")
        .refused(1, &["meanwhile", "hint: your text is in /tmp/"]);
    let copy = refused
        .stderr
        .trim_end()
        .rsplit(' ')
        .next()
        .unwrap()
        .to_string();
    assert!(host.ok(&format!("cat {copy}")).ends_with("[new]\n#typed"));
    assert!(host.ok("cat /etc/runns.conf").ends_with("#other"));
    host.ok("rm -r /tmp/runns-config*");
    for place in [
        "/etc/passwd",
        "/etc/runns.conf.d/../passwd.conf",
        "/etc/runns.conf.d/x",
        "../x",
        ".x",
    ] {
        let output = root.run(&format!("runns-exec config edit {place}"));
        assert_eq!(output.status, 2, "{output}");
    }
    assert_eq!(host.ok(temporary), "0");
}

#[test]
fn config_edit_asks_what_to_do_about_an_error() {
    let host = Host::new();
    host.configure("[work]\n");
    editor(
        &host,
        "grep -q nonsense \"$1\" && echo '[right]' >\"$1\" || echo nonsense >>\"$1\"",
    );
    let mut terminal = Terminal::shell(&host.root().env("VISUAL", "ed-test"));
    let question = "(e)dit it again, or (q)uit without saving? ";
    terminal.enter("runns-exec config edit\n");
    let shown = String::from_utf8_lossy(&terminal.expect(question)).into_owned();
    assert!(shown.contains("line 2: neither a comment"), "{shown}");
    terminal.enter("q\n");
    terminal.expect("nothing was saved");
    assert_eq!(host.ok("cat /etc/runns.conf"), "[work]");
    terminal.enter("runns-exec config edit\n");
    terminal.expect(question);
    terminal.enter("e\n");
    terminal.expect("saved /etc/runns.conf");
    assert_eq!(host.ok("cat /etc/runns.conf"), "[right]");
}

#[test]
fn the_editor_has_only_the_rights_of_who_called_sudo() {
    let host = Host::new();
    host.configure("[work]\n");
    let uid = host.ok("id -u alice");
    let sudo = host
        .root()
        .env("SUDO_UID", &uid)
        .env("SUDO_GID", &uid)
        .env("SUDO_EDITOR", "ed-test");
    editor(
        &host,
        "(id -u; id -G; echo $HOME; grep -c Cap.*0000000000000000 /proc/self/status) >/tmp/who; echo '[x]' >>\"$1\"",
    );
    sudo.ok("runns-exec config edit");
    assert_eq!(
        host.ok("cat /tmp/who"),
        format!("{uid}\n{uid}\n/home/alice\n4")
    );
    assert_eq!(
        host.ok("stat -c %U /etc/runns.conf; cat /etc/runns.conf"),
        "root\n[work]\n[x]"
    );
    // What it leaves in place of the copy is read with these rights as well.
    host.ok("echo '[secret]' >/etc/secret && chmod 600 /etc/secret");
    for trick in [
        "ln -sf /etc/secret \"$1\"",
        "rm \"$1\"; mkfifo \"$1\"",
        "d=${1%/*}; mv $d $d.away; ln -s /etc $d; mv /etc/x /y 2>/dev/null; true",
        "d=${1%/*}; mv $d $d.away; mkdir $d; ln -s /etc/secret $d/runns.conf",
    ] {
        editor(&host, trick);
        let output = sudo.run("runns-exec config edit");
        // Where the directory leads to /etc, it reads the file itself.
        let is_unchanged = output.stdout == "/etc/runns.conf unchanged\n";
        assert!(output.status == 1 || is_unchanged, "{trick} {output}");
        assert!(!output.stderr.contains("secret]"), "{trick} {output}");
        assert_eq!(
            host.ok("cat /etc/runns.conf /etc/secret"),
            "[work]\n[x]\n[secret]"
        );
    }
}

#[test]
fn root_removes_nothing_of_its_own_with_the_copy() {
    let host = Host::new();
    host.configure("[work]\n");
    let uid = host.ok("id -u alice");
    let sudo = host.root().env("SUDO_UID", &uid).env("EDITOR", "ed-test");
    // Another directory of alice's takes the name of the copy's.
    host.ok("mkdir -p /tmp/web/backups && echo kept >/tmp/web/backups/file && chmod 700 /tmp/web/backups && chown alice /tmp/web");
    editor(
        &host,
        "d=${1%/*}; mv $d /tmp/old; mv /tmp/web $d; cp /tmp/old/runns.conf $d/",
    );
    assert_eq!(
        sudo.ok("runns-exec config edit"),
        "/etc/runns.conf unchanged"
    );
    assert_eq!(host.ok("cat /tmp/runns-config.*/backups/file"), "kept");
    // Whose editor it is must not be in doubt.
    editor(&host, "touch /tmp/ran");
    for name in ["SUDO_UID", "PKEXEC_UID", "DOAS_USER"] {
        for value in ["-1", "", " 7", "nobody-knows"] {
            host.root()
                .env(name, value)
                .env("EDITOR", "ed-test")
                .run("runns-exec config edit")
                .refused(1, &["whose editor", name]);
        }
    }
    host.ok("! test -e /tmp/ran");
    editor(&host, "id -un >/tmp/ran; id -gn >>/tmp/ran");
    for (name, value) in [("PKEXEC_UID", uid.as_str()), ("DOAS_USER", "alice")] {
        let root = host.root().env(name, value).env("EDITOR", "ed-test");
        root.ok("runns-exec config edit");
        assert_eq!(host.ok("cat /tmp/ran; rm -f /tmp/ran"), "alice\nalice");
    }
}

#[test]
fn what_two_editors_leave_is_judged_together() {
    let host = Host::new();
    host.configure("[work]\n");
    editor(&host, "echo '[new]' >>\"$1\"");
    host.ok("install -d -m 755 /run/runns");
    // It waits for the lock, and meanwhile somebody else adds that section.
    let said = host.ok(
        "flock -o /run/runns/lock sh -c 'EDITOR=ed-test runns-exec config edit more 2>/tmp/said & pid=$!
         until grep -q waiting /tmp/said; do sleep 0.05; done
         echo \"[new]\" >/etc/runns.conf.d/other.conf; echo $pid >/tmp/pid'
         while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 0.05; done; cat /tmp/said",
    );
    assert!(said.contains("duplicate section"), "{said}");
    assert!(
        said.contains("your text is in") || said.contains("nothing was saved"),
        "{said}"
    );
    host.ok("! test -e /etc/runns.conf.d/more.conf && runns-exec config");
}
