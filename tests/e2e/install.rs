//! install/install.sh and install/uninstall.sh (SPEC 10).

use crate::support::{Host, Runner};

const PROGRAM: &str = "/usr/local/bin/runns-exec";
const FILES: &str =
    "find /etc /usr /opt -xdev \\( -type f -o -type l \\) -newer /tmp/start -print | sort";

/// Runs commands with the environment that makes the installer use a finished build instead of
/// building.
fn installer(host: &Host) -> Runner {
    host.install_environment()
}

#[test]
fn program_has_owner_mode_and_capabilities() {
    let host = Host::new();
    assert_eq!(
        host.ok(&format!("stat -c '%U:%G %a' {PROGRAM}")),
        "root:runns 750"
    );
    assert_eq!(
        host.ok(&format!("getcap {PROGRAM}")),
        format!("{PROGRAM} cap_net_admin,cap_sys_admin=p")
    );
    assert_eq!(
        host.ok("ls -A /usr/local/bin | grep '^\\.runns' || true"),
        ""
    );
    assert_eq!(
        host.user("alice")
            .ok("runns-exec --version | cut -d' ' -f1"),
        "runns-exec"
    );
}

#[test]
fn everything_is_installed_whatever_the_umask_and_removed_again() {
    let host = Host::without_program();
    host.ok("rm -rf /usr/local/bin /usr/local/share; touch /tmp/start");
    let before = host.ok(FILES);
    installer(&host).ok("umask 0777; /runns-source/install/install.sh");
    for file in [
        "/etc/runns.conf",
        "/usr/local/share/man/man8/runns-exec.8",
        "/usr/local/share/man/man5/runns.conf.5",
        "/usr/local/share/bash-completion/completions/runns-exec",
        "/usr/local/share/zsh/site-functions/_runns-exec",
        "/usr/local/share/fish/vendor_completions.d/runns-exec.fish",
        "/usr/local/lib/systemd/system/runns@.service",
        "/usr/lib/firewalld/zones/runns.xml",
        "/usr/local/lib/sysusers.d/runns-exec.conf",
        "/usr/local/share/doc/runns-exec/examples/service.conf",
        "/usr/share/polkit-1/rules.d/50-runns.rules",
    ] {
        assert_eq!(
            host.ok(&format!("stat -c '%U:%G %a' {file}")),
            "root:root 644",
            "{file}"
        );
    }
    assert_eq!(
        host.ok("stat -c %a /usr/local/bin /usr/local/share/man/man8 /usr/local/share"),
        "755\n755\n755"
    );
    assert_eq!(
        host.ok("stat -c '%U:%G %a' /etc/runns.conf.d"),
        "root:root 755"
    );
    // What root has added is named.
    host.ok("mkdir -p /etc/polkit-1/rules.d; cp /usr/share/polkit-1/rules.d/50-runns.rules /etc/polkit-1/rules.d/copy.rules");
    assert!(
        installer(&host)
            .ok("/runns-source/install/install.sh")
            .contains("note: /etc/polkit-1/rules.d/copy.rules")
    );
    let said = host.ok("/runns-source/install/uninstall.sh; rm /etc/polkit-1/rules.d/copy.rules");
    assert!(
        said.contains("note: /etc/polkit-1/rules.d/copy.rules"),
        "{said}"
    );
    let after = host.ok(FILES);
    let account = |text: &str| {
        text.lines()
            .filter(|line| !line.contains("/etc/g"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(
        account(&after),
        account(&before),
        "nothing is left but the group"
    );
    host.ok("getent group runns");
    host.ok("/runns-source/install/uninstall.sh");
}

#[test]
fn apparmors_profiles_get_what_tunnels_need_and_lose_it_again() {
    let host = Host::without_program();
    host.ok("mkdir -p /etc/apparmor.d/local && cd /etc/apparmor.d && touch openvpn wg && printf %s 'file r /mine,' >local/openvpn");
    for _ in 0..2 {
        installer(&host).ok("umask 0777; /runns-source/install/install.sh");
        let local = host.ok("cd /etc/apparmor.d/local && cat openvpn wg && stat -c '%U %a' wg");
        let lines: Vec<&str> = local.lines().collect();
        assert_eq!(lines.len(), 4, "{local}");
        assert_eq!(lines[0], "file r /mine,");
        assert!(lines[1].starts_with("file rw /run/runns/"), "{local}");
        assert!(lines[2].contains(" /run/wireguard/"), "{local}");
        assert_eq!(lines[3], "root 644");
    }
    host.ok("/runns-source/install/uninstall.sh");
    assert_eq!(
        host.ok("cd /etc/apparmor.d/local && ! test -e wg && cat openvpn"),
        "file r /mine,"
    );
}

#[test]
fn an_upgrade_replaces_the_program_at_once_and_keeps_the_configuration() {
    let host = Host::new();
    let running = host
        .user("alice")
        .spawn("runns-exec list >/dev/null; while :; do runns-exec --version || exit 1; done");
    host.configure("[mine]\n");
    host.write("/etc/runns.conf.d/more.conf", "[more]\n");
    let gid = host.ok("getent group runns");
    for _ in 0..3 {
        let inode = host.ok(&format!("stat -c %i {PROGRAM}"));
        host.install();
        assert_ne!(
            host.ok(&format!("stat -c %i {PROGRAM}")),
            inode,
            "a new file"
        );
    }
    assert!(
        running.is_running(),
        "never half a program: {}",
        running.stderr()
    );
    assert_eq!(host.ok("cat /etc/runns.conf"), "[mine]");
    assert_eq!(host.ok("getent group runns"), gid);
    let said = host.ok("/runns-source/install/uninstall.sh");
    for kept in ["kept /etc/runns.conf:", "kept /etc/runns.conf.d:"] {
        assert!(said.contains(kept), "{said}");
    }
    assert_eq!(
        host.ok("cat /etc/runns.conf /etc/runns.conf.d/*"),
        "[mine]\n[more]"
    );
}

#[test]
fn where_capabilities_cannot_be_kept_it_fails_loudly() {
    let host = Host::without_program();
    let prefix = |directory: &str| {
        let output = installer(&host)
            .env("PREFIX", directory)
            .run("/runns-source/install/install.sh");
        assert_eq!(output.status, 1, "{output}");
        assert_eq!(
            host.run(&format!("ls -A {directory}/bin")).stdout,
            "",
            "nothing is left: {output}"
        );
        output.stderr
    };
    host.ok("mkdir /mnt/nosuid /mnt/ramfs && mount -t tmpfs -o nosuid,mode=755 tmpfs /mnt/nosuid");
    assert!(prefix("/mnt/nosuid").contains("nosuid"));
    host.ok("mkdir '/mnt/no suid' && mount -t tmpfs -o nosuid,mode=755 tmpfs '/mnt/no suid'");
    let output = installer(&host)
        .env("PREFIX", "/mnt/no suid")
        .run("/runns-source/install/install.sh");
    assert!(
        output.status == 1 && output.stderr.contains("nosuid"),
        "{output}"
    );
    host.ok("mount -t ramfs -o mode=755 ramfs /mnt/ramfs");
    assert!(prefix("/mnt/ramfs").contains("extended attributes"));
    host.ok("mv /usr/sbin/setcap /usr/sbin/setcap.away");
    assert!(prefix("/opt/runns").contains("libcap2-bin"));
    let user = host.user("alice").run("/runns-source/install/install.sh");
    assert!(user.status == 1 && user.stderr.contains("sudo"), "{user}");
}

#[test]
fn prefix_and_destdir() {
    let host = Host::without_program();
    installer(&host)
        .env("PREFIX", "/opt/runns")
        .ok("/runns-source/install/install.sh");
    assert_eq!(
        host.ok("stat -c '%U:%G %a' /opt/runns/bin/runns-exec"),
        "root:runns 750"
    );
    let unit = host.ok("cat /opt/runns/lib/systemd/system/runns@.service");
    assert!(
        unit.contains("ExecStart=:\"/opt/runns/bin/runns-exec\" build ")
            && !unit.contains("@PREFIX@"),
        "{unit}"
    );
    host.root()
        .env("PREFIX", "/opt/runns")
        .ok("/runns-source/install/uninstall.sh");
    assert_eq!(host.ok("find /opt/runns -type f"), "");
    // A system below DESTDIR gets its own group.
    host.ok("mkdir -p /mnt/system/etc && echo 'root:x:0:' >/mnt/system/etc/group && groupmod -g 4242 runns");
    installer(&host)
        .env("DESTDIR", "/mnt/system")
        .ok("/runns-source/install/install.sh");
    let gid = host.ok("sed -n 's/^runns:[^:]*:\\([0-9]*\\):.*/\\1/p' /mnt/system/etc/group");
    assert_eq!(
        host.ok("stat -c '%u:%g %a' /mnt/system/usr/local/bin/runns-exec"),
        format!("0:{gid} 750")
    );
    // In a directory in which a package is staged there is no group: only root may run the program.
    let said = installer(&host)
        .env("DESTDIR", "/mnt/stage")
        .ok("/runns-source/install/install.sh");
    assert_eq!(
        host.ok("stat -c '%u:%g %a' /mnt/stage/usr/local/bin/runns-exec"),
        "0:0 750"
    );
    assert!(said.contains("note: "), "{said}");
    // Staging needs no root.
    let alice = installer(&host).env("DESTDIR", "/home/alice/stage");
    alice.ok("install -d -o alice /home/alice/stage && setpriv --reuid alice --clear-groups /runns-source/install/install.sh");
    assert_eq!(
        host.ok("stat -c '%U %a' /home/alice/stage/usr/local/bin/runns-exec"),
        "alice 750"
    );
    host.root()
        .env("DESTDIR", "/mnt/stage")
        .ok("/runns-source/install/uninstall.sh");
    assert_eq!(host.ok("find /mnt/stage -type f"), "");
}
