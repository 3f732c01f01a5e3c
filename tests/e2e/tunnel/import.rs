//! `runns-exec import` (SPEC 15): from what a provider hands out to a program inside.

use super::wireguard::host_with_peer;
use super::{host, ping, tunnel_field};
use crate::support::openvpn::{self, OpenVpnServer};
use crate::support::terminal::Terminal;
use crate::support::{Host, Snapshot, wait_until};
use crate::turns::{calls, killed, points};

const FILE: &str = "/home/alice/Downloads/us-nyc.prod [udp].ovpn";
const NAME: &str = "us-nyc.prod-udp";
/// Lets in who knows the password.
const STRICT: &str =
    "auth-user-pass-verify /usr/local/sbin/verify via-file\nscript-security 2\nkeepalive 1 3\n";

/// A host with a provider's server, and alice's download of its file, which asks for a password.
fn host_with_download() -> (Host, OpenVpnServer) {
    let host = host();
    openvpn::make_certificates(&host);
    host.write(
        "/usr/local/sbin/verify",
        "#!/bin/sh\n[ \"$(cat \"$1\")\" = \"$(printf 'alice\\nsecret-word')\" ]\n",
    );
    host.ok("chmod 755 /usr/local/sbin/verify");
    let server = OpenVpnServer::start_with(&host, 1194, 8, STRICT);
    openvpn::configure_client(&host, "work", 1194);
    host.ok("cd /etc/openvpn && printf '\\357\\273\\277' >start && cat start work.conf >/tmp/file && \
             printf 'auth-user-pass\\r\\nup /etc/openvpn/update-resolv-conf\\n# Z\\374rich\\n' >>/tmp/file && \
             sed -i 's/client.key/keys\\/client.key/' /tmp/file && chmod 644 client.key");
    host.user("alice").ok(&format!(
        "mkdir -p Downloads/keys && cd Downloads && cp /tmp/file '{FILE}' && cp /etc/openvpn/ca.crt /etc/openvpn/client.crt . \
         && cp /etc/openvpn/client.key keys/ && printf 'alice\\r\\nsecret-word\\r\\n' >login && chmod -R go= ."
    ));
    host.ok("rm /etc/openvpn/client.* /etc/openvpn/work.conf /tmp/file");
    (host, server)
}

/// Root's import of files in alice's downloads.
fn import(arguments: &str) -> String {
    format!("cd /home/alice/Downloads && runns-exec import {arguments}")
}

/// Changes nothing, and says why.
#[track_caller]
fn refused(host: &Host, arguments: &str, parts: &[&str]) {
    let before = Snapshot::of(host);
    for more in ["", "--dry-run "] {
        host.run(&format!(
            "timeout 20 sh -c '{}'",
            import(&format!("{more}{arguments}")).replace('\'', "'\\''")
        ))
        .refused(1, parts);
    }
    before.assert_same(&Snapshot::of(host));
}

#[test]
fn one_command_from_the_download_to_a_program() {
    let (host, _server) = host_with_download();
    let _web = host.internet.net.serve("10.8.0.1:80", "inside");
    let before = Snapshot::of(&host);
    let sum = host.ok(&format!("sha256sum <'{FILE}'"));
    let dry = host.ok(&import(&format!("--dry-run '{FILE}'")));
    assert!(
        dry.starts_with(&format!(
            "would import {NAME}: OpenVPN to 192.0.2.1:1194/udp, kill switch on"
        )),
        "{dry}"
    );
    before.assert_same(&Snapshot::of(&host));
    let said = host.ok(&import(&format!("--auth login --build '{FILE}'")));
    let first = said.lines().next().unwrap();
    for part in [
        &format!("imported {NAME}: OpenVPN to 192.0.2.1:1194/udp, kill switch on"),
        "ignoring up (",
    ] {
        assert!(first.contains(part), "{said}");
    }
    let page = host
        .user("alice")
        .ok(&format!("runns-exec {NAME} -- curl -sS http://10.8.0.1/"));
    assert!(
        page.contains("inside") && page.contains("10.8.0."),
        "{page}"
    );
    // What is kept, and that nothing in the file has changed.
    let directory = format!("/etc/runns/{NAME}");
    assert_eq!(
        host.ok(&format!("sha256sum <'{directory}/us-nyc.prod [udp].ovpn'")),
        sum
    );
    assert_eq!(
        host.ok("find /etc/runns -printf '%y %m %u %P\\n' | sort"),
        format!(
            "d 700 root \nd 700 root {NAME}\nd 700 root {NAME}/keys\nf 600 root {NAME}/auth\nf 600 root {NAME}/ca.crt\n\
         f 600 root {NAME}/client.crt\nf 600 root {NAME}/keys/client.key\nf 600 root {NAME}/us-nyc.prod [udp].ovpn"
        )
    );
    assert_eq!(
        host.ok(&format!("cat {directory}/auth")),
        "alice\nsecret-word"
    );
    let file = format!("/etc/runns.conf.d/{NAME}.conf");
    assert_eq!(host.ok(&format!("stat -c '%a %U' {file}")), "644 root");
    let section = host.ok(&format!("grep -v '^#' {file}"));
    assert_eq!(
        section,
        format!("[{NAME}]\nvpn={directory}/us-nyc.prod [udp].ovpn\nKillSwitch=yes")
    );
    let listed = host.ok("runns-exec import --list");
    let words: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        words[..4],
        [
            NAME,
            "openvpn",
            "192.0.2.1:1194/udp",
            &format!("{directory}/us-nyc.prod")
        ]
    );
    // It exists.
    refused(
        &host,
        &format!("'{FILE}'"),
        &["imported already", "--replace"],
    );
    host.run(&format!("runns-exec import --remove {NAME}"))
        .refused(1, &["is built from it", &format!("clean {NAME}")]);
    host.ok(&format!(
        "runns-exec clean {NAME} -f && runns-exec import --remove {NAME}"
    ));
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn wireguard_likewise() {
    let (host, _peer) = host_with_peer();
    host.ok("install -d -o alice /home/alice/Downloads && cp /etc/wireguard/wg0.conf /home/alice/Downloads/x.txt && \
             chown alice /home/alice/Downloads/x.txt && rm /etc/wireguard/wg0.conf");
    let _web = host.internet.net.serve("10.20.0.1:80", "inside");
    let said = host.ok(&import("-n home --no-kill-switch --build x.txt"));
    assert!(
        said.starts_with(
            "imported home: WireGuard to wg.test:51820, kill switch off; ignoring PostUp"
        ),
        "{said}"
    );
    let page = host
        .user("alice")
        .ok("runns-exec home -- curl -sS http://10.20.0.1/");
    assert!(page.contains("inside"), "{page}");
    assert_eq!(
        host.ok("grep -v '^#' /etc/runns.conf.d/home.conf"),
        "[home]\nWireGuard=/etc/runns/home/x.txt\nKillSwitch=no"
    );
    // What is left to do after a build that failed.
    host.ok("cd /home/alice/Downloads && sed 's/wg.test/no.such.host.invalid/' x.txt >away.txt && chown alice away.txt");
    let failed = host.run(&import("--build away.txt"));
    let hint = "name was not found\nhint: sudo runns-exec build -s away\n";
    assert!(
        failed.status == 1 && failed.stderr.ends_with(hint),
        "{failed}"
    );
    let hint = "hint: sudo runns-exec build -s away  # or replace it with --replace";
    refused(&host, "--build away.txt", &["imported already", hint]);
    let listed = host.ok("runns-exec import --list");
    assert!(listed.contains("wireguard  wg.test:51820"), "{listed}");
}

#[test]
fn the_password_is_asked_once_or_by_build() {
    let (host, _server) = host_with_download();
    // Nobody to ask.
    let said = host.ok(&import(&format!("'{FILE}' </dev/null")));
    assert!(
        said.contains("build will ask for user name and password"),
        "{said}"
    );
    assert!(
        said.contains(&format!("next: sudo runns-exec build -s {NAME}")),
        "{said}"
    );
    let output = host.run(&format!("runns-exec build -s {NAME} </dev/null"));
    assert!(
        output.status == 1 && output.stderr.contains("needs a password"),
        "{output}"
    );
    // What the administrator adds to the section stays.
    let section = format!("/etc/runns.conf.d/{NAME}.conf");
    host.ok(&format!(
        "printf 'AllowUsers=alice\\n[other]\\nKillSwitch=no\\n' >>{section}"
    ));
    let root = host.root();
    let command = import(&format!("--replace --build '{FILE}'"));
    let dry = command.replace("--build", "--dry-run");
    let mut terminal = Terminal::start(&root, &["sh", "-c", &dry]);
    terminal.expect("import will ask for user name and password");
    let mut terminal = Terminal::start(&root, &["sh", "-c", &command]);
    terminal.expect("VPN user name: ");
    terminal.enter("alice\n");
    terminal.expect("VPN password: ");
    terminal.enter("secret-word\n");
    let shown = terminal.expect("run a program in it");
    assert!(!String::from_utf8_lossy(&shown).contains("secret-word"));
    assert_eq!(terminal.wait(), 0);
    assert!(ping(&host, NAME, "10.8.0.1"));
    let kept = host.ok(&format!("grep -v '^#' {section}"));
    assert!(
        kept.ends_with("KillSwitch=yes\nAllowUsers=alice\n[other]\nKillSwitch=no"),
        "{kept}"
    );
    assert_eq!(kept.matches("vpn=").count(), 1, "{kept}");
    assert_eq!(
        host.ok(&format!("stat -c %a /etc/runns/{NAME}/auth")),
        "600"
    );
    // A unit that is started at boot has it as well.
    host.ok(&format!(
        "runns-exec clean {NAME} && runns-exec build -s {NAME} --no-wait </dev/null"
    ));
    wait_until("it is up", || {
        (tunnel_field(&host, "alice", NAME, "up") == "True").then_some(())
    });
    host.ok(&format!("runns-exec clean {NAME} -f"));
    // Replaced without a terminal, they stay; `ask` keeps nothing.
    host.ok(&import(&format!("--replace '{FILE}' </dev/null")));
    host.ok(&format!("grep secret-word /etc/runns/{NAME}/auth"));
    host.ok(&import(&format!("--replace --auth ask '{FILE}'")));
    assert_eq!(host.run("grep -r secret-word /etc/runns").stdout, "");
    for (text, part) in [
        ("alice\\n", "two lines"),
        ("a\\nb\\nc\\n", "two lines"),
        ("a\\n\\0\\n", ""),
        (
            "J\\374rgen\\nb\\n",
            "hint: iconv -f WINDOWS-1252 -t UTF-8 /home/alice/Downloads/wrong >~/wrong-utf8  # then name the copy\n",
        ),
    ] {
        host.ok(&format!("printf '{text}' >/home/alice/Downloads/wrong"));
        refused(
            &host,
            &format!("-n new --auth wrong '{FILE}'"),
            &["Downloads/wrong", part],
        );
    }
}

/// As providers write them: a file beside it by its absolute name, and one with user name and password
/// that everybody has to write for themselves.
#[test]
fn names_that_lead_beside_the_file_and_a_login_that_is_not_there() {
    let (host, _server) = host_with_download();
    host.user("alice").ok(&format!(
        "cd Downloads && sed 's|^ca .*|ca /home/alice/Downloads/ca.crt|; s|^auth-user-pass|& pass.txt|' '{FILE}' >abs.ovpn"
    ));
    let said = host.ok(&import("--auth ask abs.ovpn"));
    for part in [
        "pass.txt (it does not exist)",
        "build will ask for user name and password",
    ] {
        assert!(said.contains(part), "{said}");
    }
    host.ok(&import("--replace --auth login --build abs.ovpn"));
    assert!(ping(&host, "abs", "10.8.0.1"));
}

#[test]
fn a_place_where_import_cannot_read_is_told() {
    let (host, _server) = host_with_download();
    host.ok(
        "mkdir -m 777 /mnt/ntfs && cp /home/alice/Downloads/us* /mnt/ntfs/work.ovpn && \
             install -m 600 /mnt/ntfs/work.ovpn /home/alice/Downloads/root.ovpn",
    );
    refused(
        &host,
        "/mnt/ntfs/work.ovpn",
        &[
            "cannot trust /mnt/ntfs: users other than root can write to it",
            "hint: cp /mnt/ntfs/work.ovpn ~/ ",
        ],
    );
    let words =
        "root.ovpn: Permission denied (alice, to whom its directory belongs, cannot read it)";
    refused(&host, "root.ovpn", &[words]);
}

#[test]
fn what_the_administrator_made_stays() {
    let (host, _server) = host_with_download();
    let file = format!("--auth login '{FILE}'");
    host.ok("mkdir -p -m 700 /etc/runns/hand && echo mine >/etc/runns/hand/key");
    for section in ["", "[hand]\nvpn=/etc/runns/hand/key\n"] {
        host.configure(section);
        let before = Snapshot::of(&host);
        for verb in ["-n hand", "--replace -n hand"] {
            refused(&host, &format!("{verb} {file}"), &["-n"]);
        }
        host.run("runns-exec import --remove hand")
            .refused(1, &["import did not create it"]);
        before.assert_same(&Snapshot::of(&host));
    }
    // Files that are added to those of an import.
    host.ok(&import(&format!("-n work {file}")));
    host.ok("cd /etc/runns/work && mkdir -p own/er && echo mine >own/er/notes && chmod 640 own/er/notes && ln -s ca.crt link");
    host.user("alice").ok(&format!(
        "cd Downloads && sed 's/^cert .*/cert second.crt/' '{FILE}' >new.ovpn && mv client.crt second.crt"
    ));
    let replace = import("-n work --replace new.ovpn </dev/null");
    let files = "cd /etc/runns/work && find . ! -type d -printf '%m %P\\n' | sort";
    let earlier = host.ok(files);
    // If not everything can be exchanged, nothing is.
    let section = "/etc/runns.conf.d/work.conf";
    let fail = "strace -o /dev/null -P /etc/runns.conf.d/.work.conf~ -e inject=rename:error=EBUSY runns-exec";
    host.run(&replace.replace("runns-exec", fail))
        .refused(1, &[section, "busy"]);
    assert_eq!(host.ok(files), earlier);
    // If that fails as well, nothing is lost, and the next import or build finishes it.
    let fail = "strace -o /dev/null -e inject=rename:error=EBUSY -e inject=renameat2:error=EBUSY:when=2+ runns-exec";
    host.run(&replace.replace("runns-exec", fail)).refused(
        1,
        &[section, "busy", "undoing it failed as well", "finishes it"],
    );
    let put_away = files.replace("runns/work", "runns/.work~");
    assert_eq!(host.ok(&put_away), earlier);
    host.ok("grep -q us-nyc /etc/runns.conf.d/work.conf && runns-exec build -n other && \
             grep -q new.ovpn /etc/runns.conf.d/work.conf && runns-exec clean other -f && test ! -e /etc/runns/.work~");
    // A new file gets no added one that it names, and would send to its proxy.
    for name in ["own/er/notes", "link/x"] {
        host.user("alice").ok(&format!(
            "cd Downloads && (cat new.ovpn; echo 'socks-proxy 192.0.2.9 1080 {name}') >sends.ovpn"
        ));
        refused(
            &host,
            "-n work --replace --auth login sends.ovpn",
            &[
                "Downloads/sends.ovpn: ",
                &format!("you added /etc/runns/work/{name}"),
            ],
        );
    }
    host.ok(&replace);
    assert_eq!(
        host.ok(files),
        "600 auth\n600 ca.crt\n600 keys/client.key\n600 new.ovpn\n600 second.crt\n640 own/er/notes\n777 link"
    );
    host.ok(
        "runns-exec import --remove work && test ! -e /etc/runns/work -a -e /etc/runns/hand/key && ls -A /etc/runns",
    );
}

#[test]
fn a_password_goes_to_no_other_provider() {
    let (host, _server) = host_with_download();
    host.user("alice").ok(&format!(
        "cd Downloads && sed 's/192.0.2.1/192.0.2.9/' '{FILE}' >other.ovpn && printf 'alice\\nother-word\\n' >other"
    ));
    host.ok(&import(&format!("-n work --auth login --build '{FILE}'")));
    host.ok(
        "printf '[hand]\\nvpn=%s\\n' /etc/runns/work/us*.ovpn >/etc/hand.conf && \
        runns-exec build --config /etc/hand.conf -s hand --no-wait",
    );
    // The tunnel that runs would send the new one to the old server.
    let replace = "-n work --replace --auth other other.ovpn";
    for namespace in ["hand", "work"] {
        let clean = format!("hint: sudo runns-exec clean {namespace}\n");
        refused(&host, replace, &["is built from it", &clean]);
        host.ok(&format!("runns-exec clean {namespace} -f"));
    }
    // The new server does not get the old one.
    let kept = "cat /etc/runns/work/auth";
    host.ok(&import(&format!("-n work --replace '{FILE}' </dev/null")));
    assert_eq!(host.ok(kept), "alice\nsecret-word");
    for (option, port) in [
        ("http-proxy", 3128),
        ("socks-proxy", 1080),
        ("http-proxy-override", 8080),
    ] {
        host.user("alice").ok(&format!(
            "cd Downloads && (sed 's/^proto .*/proto tcp-client/' '{FILE}'; echo {option} 192.0.2.9 {port}) >proxy.ovpn"
        ));
        let output = host.run(&import("-n work --replace proxy.ovpn </dev/null"));
        assert!(output.status == 0, "{output}");
        assert!(
            output.stderr.contains("other servers or proxies"),
            "{option}: {output}"
        );
        host.ok("test ! -e /etc/runns/work/auth");
        host.ok(&import("-n work --replace --auth login proxy.ovpn"));
        host.ok(&import("-n work --replace proxy.ovpn </dev/null"));
        assert_eq!(host.ok(kept), "alice\nsecret-word");
    }
    let output = host.run(&import("-n work --replace other.ovpn </dev/null"));
    assert!(output.status == 0, "{output}");
    assert!(output.stderr.contains("names other servers"), "{output}");
    assert!(output.stdout.contains("build will ask"), "{output}");
    host.ok("test ! -e /etc/runns/work/auth");
    host.ok(&import(replace));
    assert_eq!(host.ok(kept), "alice\nother-word");
}

#[test]
fn only_root_imports() {
    let (host, _server) = host_with_download();
    let command = import(&format!("'{FILE}'"));
    host.user("alice")
        .run(&command)
        .refused(1, &["only root can", "hint: sudo runns-exec import"]);
    for usage in [
        "import",
        "import --list x",
        "import --remove",
        "import --remove a b",
        "import -n ../x a",
    ] {
        host.run(&format!("runns-exec {usage}")).refused(2, &[]);
    }
    host.run("runns-exec import --remove no/name")
        .refused(2, &["no/name"]);
    host.ok("rm -f /etc/runns.conf.d/*; printf '[a]\\n' >/etc/runns.conf.d/a.conf");
    host.run("runns-exec import --remove a")
        .refused(1, &["import did not create it"]);
    host.run("runns-exec import --remove b")
        .refused(1, &["import did not create it"]);
    host.ok("test -e /etc/runns.conf.d/a.conf && runns-exec import --list | grep -qx 'NAME  KIND  SERVER  FILE'");
}

#[test]
fn names_that_are_taken_and_a_configuration_with_errors() {
    let (host, _server) = host_with_download();
    host.configure("[Work]\nNetworkNamespace=office\n");
    let file = format!("--auth login '{FILE}'");
    for (name, part) in [
        ("work", "section [Work] of /etc/runns.conf"),
        ("office", "section [Work]"),
    ] {
        for replace in ["", "--replace "] {
            refused(&host, &format!("{replace}-n {name} {file}"), &[part, "-n"]);
        }
    }
    host.write("/etc/runns.conf.d/mine.conf", "[else]\n");
    refused(
        &host,
        &format!("--replace -n mine {file}"),
        &["mine.conf exists", "did not write it"],
    );
    host.ok("ip netns add stranger");
    refused(
        &host,
        &format!("-n stranger {file}"),
        &["a namespace of that name exists"],
    );
    host.ok("ip netns delete stranger");
    host.write("/etc/runns.conf.d/mine.conf", "[else]\nColour=red\n");
    refused(&host, &file, &["mine.conf", "Colour"]);
    host.write("/etc/runns.conf.d/mine.conf", "[else]\n");
    host.ok("chmod g+w /etc/runns.conf.d");
    refused(&host, &file, &["/etc/runns.conf.d", "write"]);
    host.ok("chmod 755 /etc/runns.conf.d && mkdir /etc/runns && chown alice /etc/runns");
    host.run(&import(&file))
        .refused(1, &["/etc/runns", "not to root"]);
    host.ok("test ! -e /etc/runns.conf.d/us-nyc.prod-udp.conf && rmdir /etc/runns");
    // A reserved name works.
    host.ok(&import(&format!("-n log {file}")));
    host.user("alice")
        .run("runns-exec exec log -- true")
        .refused(
            125,
            &[
                "hint: sudo runns-exec build -s log ",
                "systemctl enable --now runns@log",
            ],
        );
    let said = host.ok("runns-exec build -s log");
    assert!(
        said.contains("run a program in it: runns-exec exec log -- COMMAND"),
        "{said}"
    );
    assert!(ping(&host, "exec log", "10.8.0.1"));
}

#[test]
fn a_file_of_a_users_gains_nothing_from_roots() {
    let (host, _server) = host_with_download();
    let alice = host.user("alice");
    host.ok("echo root-secret >/root/secret && echo root-secret >/etc/root-only && chmod 600 /etc/root-only && \
             echo root-secret >/home/alice/Downloads/roots && chmod 600 /home/alice/Downloads/roots");
    // As alice can, where nothing keeps users from it (proc_sys_fs(5), protected_hardlinks).
    host.ok("echo root-secret >/home/roots && chmod 600 /home/roots && ln /home/roots /home/alice/Downloads/hard");
    alice.ok("cd Downloads && sed 's/^ca .*/CA/' us*.ovpn >x && mkfifo fifo && mkdir directory && ln -s /etc/root-only link && \
              ln -s /etc up && ln -s /proc/self/environ environ && ln -s ca.crt own");
    for (name, part) in [
        ("/etc/shadow", "/etc/shadow is not in the same directory"),
        ("/root/secret", "/root/secret is not in the same directory"),
        (
            "../../../root/secret",
            "/root/secret is not in the same directory",
        ),
        (
            "up/../../../etc/root-only",
            "root-only is not in the same directory",
        ),
        ("/home/alice/Downloads//root/secret", "/root/secret is not"),
        ("link", "symbolic link"),
        ("own", "symbolic link"),
        ("up/root-only", "symbolic link"),
        ("environ", "symbolic link"),
        ("roots", "Permission denied"),
        ("fifo", "not a regular file"),
        ("directory", "not a regular file"),
        ("missing", "/home/alice/Downloads/missing (ca)"),
        ("hard", "Permission denied"),
    ] {
        alice.ok(&format!("cd Downloads && sed 's|^CA|ca {name}|' x >y.ovpn"));
        refused(&host, "--auth ask y.ovpn", &["Downloads/y.ovpn", part]);
        alice.ok(&format!(
            "cd Downloads && (sed '/^CA/d' x && echo 'http-proxy 192.0.2.1 1 {name}') >y.ovpn"
        ));
        if name != "missing" {
            refused(&host, "--auth ask y.ovpn", &["Downloads/y.ovpn", part]);
        }
    }
    // All that is missing is named at once.
    alice.ok(
        "cd Downloads && (cat x; printf 'ca gone.ca\\ntls-auth gone.ta 1\\n') | sed /^CA/d >y.ovpn",
    );
    refused(
        &host,
        "--auth ask y.ovpn",
        &["Downloads/gone.ca (ca), /home/alice/Downloads/gone.ta (tls-auth)"],
    );
    // The file itself, and the directory.
    host.ok("cp /home/alice/Downloads/y.ovpn /root/z.ovpn && mkdir /root/d && cp /root/z.ovpn /root/d/z.ovpn");
    for (spoil, file, part) in [
        ("ln -s /root/z.ovpn z", "z", "symbolic link"),
        ("ln -s us*.ovpn z", "z", "symbolic link"),
        ("ln -s /root/d z", "z/z.ovpn", "Permission denied"),
        ("ln -s /proc/1/root/root/d z", "z/z.ovpn", "Too many levels"),
        ("mkfifo z", "z", "not a regular file"),
        ("mkdir z", "z", "not a regular file"),
        ("true", "z", "No such file"),
        ("ln -s /dev/zero z", "z", ""),
    ] {
        alice.ok(&format!("cd Downloads && rm -rf z && {spoil}"));
        refused(&host, &format!("--auth ask {file}"), &[part]);
    }
    refused(
        &host,
        "--auth /home/alice/Downloads/link us*.ovpn",
        &["symbolic link"],
    );
    refused(
        &host,
        "--auth /home/alice/Downloads/roots us*.ovpn",
        &["Permission denied"],
    );
    assert_eq!(host.run("grep -rs root-secret /etc/runns").stdout, "");
    // Where nobody knows who put it there.
    host.ok("mkdir -m 777 /srv/drop && cp /root/z.ovpn /srv/drop/");
    refused(
        &host,
        "--auth ask /srv/drop/z.ovpn",
        &["/srv/drop", "write"],
    );
}

#[test]
fn files_that_are_exchanged_during_the_import_gain_nothing() {
    let (host, _server) = host_with_download();
    host.ok("echo root-secret >/root/secret");
    let alice = host.user("alice");
    alice.ok("cd Downloads && sed 's/^ca .*/ca d\\/ca/' us*.ovpn >y.ovpn && mkdir d e && cp ca.crt d/ca && ln -s /root/secret e/ca \
              && ln -s /root/secret link");
    host.ok("cp /root/secret /root/ca");
    let exchange = "
import ctypes, os
os.chdir('/home/alice/Downloads')
rename = ctypes.CDLL(None).renameat2
print('ready', flush=True)
while True:
    rename(-100, b'd', -100, b'e', 2)
    rename(-100, b'd/ca', -100, b'link', 2)
    rename(-100, b'd/ca', -100, b'link', 2)
";
    host.write("/tmp/exchange.py", exchange);
    let attacker = alice.spawn("exec python3 /tmp/exchange.py");
    wait_until("the attack", || {
        attacker.stdout().contains("ready").then_some(())
    });
    let script = "ok=0; for i in $(seq 60); do
        if runns-exec import --replace --auth ask y.ovpn >/dev/null 2>/tmp/said; then ok=$((ok + 1)); cmp ca.crt /etc/runns/y/d/ca || exit 9
        else grep -qE 'symbolic link|No such file|not there' /tmp/said || { cat /tmp/said; exit 8; }; fi
        ! grep -rqs root-secret /etc/runns || exit 7; done; echo $ok";
    host.write(
        "/tmp/trial",
        &script.replace("ca.crt /etc", "/etc/openvpn/ca.crt /etc"),
    );
    let won = host.ok("cd /home/alice/Downloads && sh /tmp/trial");
    assert!(attacker.is_running() && won != "60", "{won}");
}

#[test]
fn options_that_run_programs_are_refused() {
    let (host, _server) = host_with_download();
    for (line, part) in [
        ("tls-verify /usr/bin/touch", "it runs a program"),
        ("setenv opt plugin /usr/lib/x.so", "it loads a library"),
        ("pkcs11-providers ./x.so", "it loads a library"),
        (
            "pkcs11-providers ./x.so\npkcs11-id x",
            "pkcs11-id: the private key is in a smart card",
        ),
        (
            "providers legacy /etc/runns/y/ca.crt",
            "it loads a library by its path",
        ),
        ("engine ./x.so", "it loads a library by its path"),
        ("capath keys", "it names a directory"),
        ("crl-verify keys dir", "it names a directory"),
    ] {
        host.user("alice").ok(&format!(
            "cd Downloads && (cat us*.ovpn; echo '{line}') >y.ovpn"
        ));
        refused(&host, "--auth ask y.ovpn", &["Downloads/y.ovpn", part]);
    }
    for (text, part) in [
        ("", "it is empty"),
        ("<!DOCTYPE html>", "web page"),
        ("hello, world", ""),
        ("\\177ELF\\0", "NUL"),
        (
            "[Interface]\\nPrivateKey=aKQkHzyFqC8wYWnKfXFyJB8oIIUXSnG0JjBlPPrMqGA=\\n",
            "no peer has an Endpoint",
        ),
        (
            "[Interface]\\nPrivateKey = x\\n",
            "line 2: PrivateKey: it is not a key",
        ),
        (
            "[Interface]\\n[Peer]\\nEndpoint = 192.0.2.1\\n",
            "line 3: Endpoint: it is not HOST:PORT",
        ),
        (
            "[Interface]\\n[Peer]\\nAdvancedSecurity = on\\n",
            "line 3: AdvancedSecurity: an option of AmneziaWG",
        ),
        ("Rar!\\032\\007", "it is a .rar archive: unpack it"),
        ("{ \\042remote\\042: 1 }", "it is JSON"),
        ("client\\ndev tun\\n", "names no server"),
    ] {
        host.user("alice")
            .ok(&format!("printf '{text}' >Downloads/y.ovpn"));
        refused(&host, "y.ovpn", &["Downloads/y.ovpn", part]);
    }
    // A name that a terminal would obey.
    host.user("alice")
        .ok("cd Downloads && printf x >\"$(printf 'a\\n\\033[31m.ovpn')\"");
    refused(&host, "a*.ovpn", &["a\\n\\x1b[31m.ovpn"]);
}

/// An OpenVPN that waits for its first command, and then says something for ever.
const ENDLESS: &str = "#!/usr/bin/python3 -IS
import ctypes, socket, time
(management, _) = socket.create_server(('127.0.0.1', 7505)).accept()
ctypes.CDLL(None).prctl(15, b'followed')
while True:
    management.send(b'x')
    time.sleep(0.1)
";

#[test]
fn an_import_can_be_interrupted_while_openvpn_reads() {
    let (host, _server) = host_with_download();
    host.write("/usr/local/sbin/openvpn", ENDLESS);
    host.ok("chmod 755 /usr/local/sbin/openvpn");
    let before = Snapshot::of(&host);
    let import = import(&format!("--auth ask '{FILE}'")).replace("runns-exec", "exec runns-exec");
    let background = host.spawn(&import);
    wait_until("it is followed", || {
        (host.run("pgrep -x followed").status == 0).then_some(())
    });
    host.ok("pkill -INT -f '[i]mport --auth ask'");
    background
        .wait()
        .refused(1, &["have OpenVPN read the file: interrupted by a signal"]);
    assert_eq!(host.run("pgrep -x followed").stdout, "");
    before.assert_same(&Snapshot::of(&host));
}

#[test]
fn what_is_beside_the_file_and_not_for_it() {
    let (host, _server) = host_with_download();
    let alice = host.user("alice");
    // Saved in her home directory.
    alice.ok(
        "mv Downloads/* . && printf 'alice\\nhunter2\\n' | tee .my.cnf >login && sed '/^auth-user-pass/d' us*.ovpn >x",
    );
    host.ok(
        "cp /etc/openvpn/ca.crt /etc/ssl/certs/corp.pem && mkdir -p -m 700 /etc/pki/private && \
             cp /etc/openvpn/ca.crt /etc/pki/private/corp.pem",
    );
    let home = |arguments: &str| format!("cd /home/alice && runns-exec import {arguments}");
    let lines = |lines: &str| alice.ok(&format!("(cat x; printf '{lines}\\n') >y.ovpn"));
    for (line, part) in [
        ("auth-user-pass .my.cnf", "/home/alice/.my.cnf is hidden"),
        (
            "auth-user-pass /etc/ssl/certs/corp.pem",
            "corp.pem (auth-user-pass) is not in the same directory",
        ),
        (
            "auth-user-pass /etc/pki/private/corp.pem",
            "corp.pem is not in the same directory",
        ),
        (
            "ca /etc/pki/private/corp.pem",
            "corp.pem is not in the same directory",
        ),
    ] {
        lines(line);
        host.run(&home("y.ovpn")).refused(1, &[part]);
    }
    lines("auth-user-pass login\\nca /etc/ssl/certs/corp.pem");
    let said = host.ok(&home("y.ovpn"));
    let sent = "; sends user name and password from /home/alice/login to the VPN server\n";
    assert!(said.contains(sent), "{said}");
}

#[test]
fn openvpn_itself_reads_what_is_imported() {
    let (host, _server) = host_with_download();
    let alice = host.user("alice");
    alice.ok("cd Downloads && (cat us*.ovpn; printf 'proto nonsense\nkeysize 256\n') >y.ovpn");
    refused(
        &host,
        "--auth login y.ovpn",
        &["import /home/alice/Downloads/y.ovpn: ", "nonsense"],
    );
    alice.ok("cd Downloads && sed -i '/^proto nonsense/d' y.ovpn");
    let hint = "hint: sed -i -E '/^\\s*(--)?(keysize)\\b/d' /home/alice/Downloads/y.ovpn";
    refused(
        &host,
        "--auth login y.ovpn",
        &[" in ./y.ovpn:", "keysize", hint],
    );
    // Nobody is asked for a password for it.
    let root = host.root();
    let mut terminal = Terminal::start(&root, &["sh", "-c", &import("y.ovpn")]);
    let shown = terminal.expect("keysize");
    assert!(!String::from_utf8_lossy(&shown).contains("user name"));
    assert_eq!(terminal.wait(), 1);
    // What the hint says helps. The files that it names are read, and `cd` counts from it.
    alice.ok(
        "cd Downloads && sed -i -E '/^\\s*(--)?(keysize)\\b/d' y.ovpn && cp ca.crt keys/ && mkdir keys/more && \
         (sed 's/^key .*/key client.key/; /^ca /d; s/^cert .*/cert ..\\/client.crt/' y.ovpn; printf 'cd keys\nca ca.crt\n') >z.ovpn",
    );
    for file in ["y.ovpn", "z.ovpn"] {
        host.ok(&import(&format!("--dry-run --auth login {file}")));
    }
    alice.ok("cd Downloads && echo no-certificate >keys/ca.crt && echo 'cd nowhere' >>y.ovpn");
    refused(&host, "--auth login y.ovpn", &["nowhere"]);
    pack(
        &host,
        "put('a.ovpn', conf); put('b.ovpn', conf + b'\\nnonsense x\\n'); put('c.ovpn', conf + b'\\nverb x\\ncipher\\n')",
    );
    refused(
        &host,
        "--auth login b.zip",
        &["b.zip/b.ovpn: ", "nonsense", "b.zip/c.ovpn: ", "cipher"],
    );
    host.ok("rm \"$(readlink -f /usr/sbin/openvpn)\"");
    refused(
        &host,
        &format!("--auth login '{FILE}'"),
        &["openvpn", "install"],
    );
}

/// Makes alice's Downloads/b.zip of what python code does with `z`, a zipfile.ZipFile.
fn pack(host: &Host, code: &str) {
    let script = format!(
        "import zipfile, io\nfrom zipfile import ZipInfo\nconf = open([f for f in __import__('glob').glob('us*.ovpn')][0], 'rb').read()\n\
         def put(name, data, mode=0o100644):\n    i = ZipInfo('x'); i.filename = name; i.external_attr = mode << 16; i.compress_type = 8; i.create_system = 3; z.writestr(i, data)\n\
         with zipfile.ZipFile('b.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n    for f in ('ca.crt', 'client.crt', 'keys/client.key'): z.write(f)\n{}\n",
        code.lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    );
    host.write("/tmp/pack.py", &script);
    host.user("alice")
        .ok("cd Downloads && rm -f b.zip && python3 -W ignore /tmp/pack.py");
}

#[test]
fn a_bundle_gives_a_section_for_each_file() {
    let (host, _server) = host_with_download();
    let before = Snapshot::of(&host);
    pack(
        &host,
        "put('us [1].ovpn', conf); put('de.ovpn', conf); put('README.txt', 'Dear customer'); put('__MACOSX/._de.ovpn', 'x')\n\
         put('wg/se.conf', '[Interface]\\nPrivateKey = aKQkHzyFqC8wYWnKfXFyJB8oIIUXSnG0JjBlPPrMqGA=\\nAddress = 10.0.0.2/32\\n[Peer]\\nPublicKey = aKQkHzyFqC8wYWnKfXFyJB8oIIUXSnG0JjBlPPrMqGA=\\nEndpoint = a.example:1\\nAllowedIPs = 0.0.0.0/0\\n')",
    );
    let said = host.ok(&import("--auth login -n p b.zip"));
    for part in [
        "imported p-de: OpenVPN",
        "imported p-us-1: OpenVPN",
        "imported p-se: WireGuard to a.example:1",
        "not imported from the archive: README.txt",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(
        host.ok("ls /etc/runns.conf.d /etc/runns"),
        "/etc/runns:\np-de\np-se\np-us-1\n\n/etc/runns.conf.d:\np-de.conf\np-se.conf\np-us-1.conf"
    );
    host.ok("cd /etc/runns/p-us-1 && cmp 'us [1].ovpn' /home/alice/Downloads/us*.ovpn && cmp keys/client.key /home/alice/Downloads/keys/client.key");
    host.ok("runns-exec build -s p-de");
    assert!(ping(&host, "p-de", "10.8.0.1"));
    refused(&host, "--auth login -n p b.zip", &["imported already"]);
    host.ok("runns-exec clean p-de -f; for i in p-de p-us-1 p-se; do runns-exec import --remove $i || exit; done");
    before.assert_same(&Snapshot::of(&host));
    // Two files of one name.
    pack(
        &host,
        "for d in ('tcp', 'udp'):\n    put(d + '/us.ovpn', conf)\n    for f in ('ca.crt', 'client.crt', 'keys/client.key'): z.write(f, d + '/' + f)",
    );
    host.ok(&import("--auth login b.zip"));
    assert_eq!(host.ok("ls /etc/runns"), "tcp-us\nudp-us");
}

#[test]
fn a_hostile_bundle_gains_nothing() {
    let (host, _server) = host_with_download();
    for (code, part) in [
        ("put('../x.ovpn', conf)", "points outside"),
        ("put('a/../../x.ovpn', conf)", "points outside"),
        ("put('/etc/x.ovpn', conf)", "points outside"),
        ("put('..\\\\\\\\x.ovpn', conf)", "backslash"),
        ("put('dir\\\\\\\\x.ovpn', conf)", "\nhint: unpack it"),
        (
            "put('more/in.zip', b'PK\\x03\\x04')",
            "other archives, which have to be unpacked first: more/in.zip",
        ),
        (
            "put('a.ovpn', conf); put('a.conf', conf)",
            "\nhint: unpack the archive",
        ),
        ("put('a\\nb\\x1b[31m.ovpn', conf)", "a\\nb\\x1b[31m.ovpn"),
        (
            "put('a.ovpn', conf); put('link', '/etc/shadow', 0o120777)",
            "symbolic link",
        ),
        (
            "put('a.ovpn', conf); put('A.OVPN', conf)",
            "in a different case",
        ),
        (
            "put('a.ovpn', conf); put('bomb', bytes(30 << 20))",
            "bomb: it is too large when unpacked",
        ),
        (
            "put('a.ovpn', conf)\nimport os\nfor i in range(5): put('b%d' % i, os.urandom(100) * 1000 + bytes(900000)); put('c%d' % i, os.urandom(7 << 20))",
            "larger than 32 MiB",
        ),
        (
            "put('a.ovpn', conf)\nfor i in range(20001): put('%d/' % i, '')",
            "more than 20000 entries",
        ),
        (
            "for i in range(5000): put('%d.ovpn' % i, 'client\\ndev tun\\nremote 192.0.2.1')",
            "more than 4096 configurations",
        ),
        (
            "for i in range(40): put('k%d' % i, bytes(1 << 20))\ntext = 'client\\ndev tun\\nremote 192.0.2.1\\n' + ''.join('http-proxy h 1 k%d\\n' % i for i in range(40))\nfor i in range(2000): put('%d.ovpn' % i, text)",
            "all files together have more than 128 MiB",
        ),
        // The reason of the first five is enough.
        (
            "for i in range(40): put('k%d' % i, bytes(1 << 20))\ntext = 'client\\ndev tun\\nremote 192.0.2.1\\n' + ''.join('http-proxy h 1 k%d\\n' % i for i in range(40))\nfor i in range(5): put('0%d.ovpn' % i, text + 'plugin x\\n')\nfor i in range(5): put('1%d.ovpn' % i, text)",
            "b.zip/04.ovpn: it contains plugin",
        ),
        (
            "put('a.ovpn', conf); put('k', __import__('os').urandom(1 << 20)); first = z.filelist[-1]\nfor i in range(40): more = __import__('copy').copy(first); more.filename = 'k%d' % i; z.filelist.append(more)",
            "it overlaps with other entries",
        ),
        (
            "put('README', 'hello')",
            "no OpenVPN or WireGuard configuration",
        ),
        (
            "put('a.ovpn', conf + b'\\nca ../secret\\n')",
            "is not in the same directory",
        ),
        (
            "put('a.ovpn', conf + b'\\nca /etc/shadow\\n')",
            "/etc/shadow is not in the same directory",
        ),
        (
            "put('a.ovpn', conf + b'\\ntls-auth gone 1\\n')",
            "b.zip/gone (tls-auth)",
        ),
        (
            "put('a.ovpn', conf); put('a.conf', conf)",
            "would both be section a",
        ),
        (
            "put('a.ovpn', conf); put('b.ovpn', conf + b'\\nplugin x\\n')",
            "b.zip/b.ovpn",
        ),
    ] {
        pack(&host, code);
        refused(&host, "--auth ask b.zip", &[part]);
    }
    // A size that is a lie, a torn archive, one with a password.
    pack(&host, "put('a.ovpn', conf); put('bomb', bytes(30 << 20))");
    host.user("alice").ok("cd Downloads && python3 -c \"
import struct
data = bytearray(open('b.zip', 'rb').read())
big = struct.pack('<I', 30 << 20)
while (at := data.find(big)) >= 0: data[at:at + 4] = struct.pack('<I', 10)
open('b.zip', 'wb').write(data)\"");
    refused(&host, "--auth ask b.zip", &["bomb"]);
    pack(&host, "put('a.ovpn', conf)");
    host.user("alice")
        .ok("cd Downloads && truncate -s -100 b.zip");
    refused(&host, "--auth ask b.zip", &["b.zip"]);
    pack(&host, "put('a.ovpn', conf)");
    host.user("alice").ok("cd Downloads && python3 -c \"
data = bytearray(open('b.zip', 'rb').read())
for sign, at in ((b'PK\\x03\\x04', 6), (b'PK\\x01\\x02', 8)):
    found = data.find(sign)
    while found >= 0: data[found + at] |= 1; found = data.find(sign, found + 1)
open('b.zip', 'wb').write(data)\"");
    refused(&host, "--auth ask b.zip", &["b.zip"]);
}

/// What stands in the way of removing an import stands in the way of nothing else.
#[test]
fn files_that_cannot_be_removed_are_in_nobodys_way() {
    let (host, _server) = host_with_download();
    let work = import(&format!("-n work --auth login '{FILE}'"));
    let build = "runns-exec build -n other 2>&1 && runns-exec clean other -f";
    let left = "ls -A /etc/runns /etc/runns.conf.d 2>/dev/null | grep work || true";
    let no_rename = "strace -qq -o /dev/null -P /etc/runns/work \
        -e inject=rename,renameat,renameat2:error=EXDEV runns-exec";
    for program in ["runns-exec", no_rename] {
        host.ok(&work);
        host.ok("mkdir /etc/runns/work/own && mount -t tmpfs none /etc/runns/work/own");
        host.run(&format!("{program} import --remove work"))
            .refused(1, &["work", "/own: Device or resource busy"]);
        // The password is gone.
        assert_eq!(host.run("grep -r secret-word /etc/runns").stdout, "");
        let said = host.ok(build);
        assert_eq!(said.matches("warning: cannot remove").count(), 1, "{said}");
        let output = host.run(&import(&format!("-n next --auth login '{FILE}'")));
        assert_eq!(output.status, 0, "{output}");
        assert_eq!(
            output.stderr.matches("cannot remove").count(),
            1,
            "{output}"
        );
        let output = host.run(&work);
        assert!(
            output.status == 1 && output.stderr.contains("\nrunns-exec: cannot remove"),
            "{output}"
        );
        host.ok("umount /etc/runns/*work*/own || umount /etc/runns/.work~/own");
        host.ok("runns-exec import --remove next");
        assert_eq!(host.ok(left), "");
    }
    // Where directories cannot be renamed, they are removed all the same, but not replaced.
    for error in ["EXDEV", "EINVAL"] {
        host.ok(&work);
        let fail = no_rename.replace("EXDEV", error);
        let replace = import(&format!("-n work --replace --auth login '{FILE}'"));
        let before = Snapshot::of(&host);
        host.run(&replace.replace("runns-exec", &fail)).refused(
            1,
            &[
                "cannot exchange directories",
                "hint: sudo runns-exec import --remove work",
            ],
        );
        before.assert_same(&Snapshot::of(&host));
        host.ok(&format!("{fail} import --remove work"));
        assert_eq!(host.ok(left), "");
    }
    // A first import needs no flags of renameat2.
    let no_flags = "strace -qq -o /dev/null -e inject=renameat2:error=EINVAL runns-exec";
    host.ok(&work.replace("runns-exec", no_flags));
}

#[test]
fn a_removal_that_fails_is_not_done_or_is_finished() {
    let (host, _server) = host_with_download();
    host.ok(&import(&format!("-n work --auth login '{FILE}'")));
    let before = Snapshot::of(&host);
    let failing = |path: &str, call: &str| {
        let fail = format!("strace -qq -o /dev/null -P {path} -e inject={call}:error=ENOSPC");
        host.run(&format!("{fail} runns-exec import --remove work"))
    };
    let build = "runns-exec build -n other && runns-exec clean other -f";
    for (path, call) in [
        ("/etc/runns/work/.section~", "fsync"),
        ("/etc/runns/work", "fsync"),
        ("/etc/runns.conf.d/work.conf", "unlink"),
    ] {
        failing(path, call).refused(1, &["No space left"]);
        host.ok(build);
        before.assert_same(&Snapshot::of(&host));
    }
    failing("/etc/runns.conf.d", "fsync").refused(
        1,
        &["No space left", "the next import or build finishes it"],
    );
    host.ok("test ! -e /etc/runns.conf.d/work.conf && test -e /etc/runns/work/auth");
    host.ok(build);
    host.ok("test ! -e /etc/runns/work");
}

/// Section and files of an import belong together whenever it is killed: those of before or the new
/// ones, once somebody has built or imported.
#[test]
fn an_import_that_replaces_another_and_is_killed_loses_nothing() {
    let (host, _server) = host_with_download();
    let alice = host.user("alice");
    alice.ok(&format!(
        "cd Downloads && sed 's/^cert .*/cert second.crt/' '{FILE}' >new.ovpn && cp client.crt second.crt && sed 's/^ca .*/ca own.crt/' \
         '{FILE}' >old.ovpn && cp ca.crt own.crt"
    ));
    let verb = |file: &str| {
        format!(
            "import -n work --replace --auth /home/alice/Downloads/login /home/alice/Downloads/{file}.ovpn"
        )
    };
    let state = "cd /etc/runns/work && find . -type f | sort | xargs sha256sum && grep -v '^#' /etc/runns.conf.d/work.conf";
    host.ok(&format!("runns-exec {}", verb("old")));
    host.ok("echo AllowUsers=alice >>/etc/runns.conf.d/work.conf");
    let states = ["new", "old"].map(|file| {
        host.ok(&format!("runns-exec {}", verb(file)));
        host.ok(state)
    });
    let mut seen = [0, 0];
    let old = verb("old");
    killed_at_each_change(&host, &verb("new"), &old, |place| {
        host.ok("runns-exec build -s work --no-wait && runns-exec clean work --kill -f");
        let found = host.ok(state);
        let which = states.iter().position(|state| *state == found);
        seen[which.unwrap_or_else(|| panic!("killed at {place}: {found}"))] += 1;
        let left = "ls -A /etc/runns /etc/runns.conf.d | grep -e '~' || true";
        assert_eq!(host.ok(left), "", "killed at {place}");
    });
    assert!(seen[0] > 1 && seen[1] > 1, "{seen:?}");
    // A removal is finished, too.
    killed_at_each_change(&host, "import --remove work", &old, |place| {
        host.ok("runns-exec build -n other && runns-exec clean other -f");
        if host.run("test -e /etc/runns.conf.d/work.conf").status == 0 {
            assert!(states[1].starts_with(&host.ok(state)));
            host.ok("runns-exec import --remove work");
        }
        let left = "ls -A /etc/runns /etc/runns.conf.d | grep work || true";
        assert_eq!(host.ok(left), "", "killed at {place}");
    });
}

/// Runs `verb`, each time after `prepare`, and kills it at each of the system calls by which it
/// changes files; `look` gets the place.
fn killed_at_each_change(host: &Host, verb: &str, prepare: &str, mut look: impl FnMut(&str)) {
    for call in [
        "mkdir",
        "fsync",
        "rename",
        "renameat2",
        "unlink",
        "unlinkat",
        "rmdir",
    ] {
        for number in 1.. {
            host.ok(&format!("runns-exec {prepare}"));
            let inject = format!("-e trace={call} -e inject={call}:signal=KILL:when={number}");
            let output = host.run(&format!(
                "strace -qq -o /dev/null {inject} runns-exec {verb}"
            ));
            if output.status == 0 {
                break;
            }
            assert_eq!(output.status, 137, "{call} {number}: {output}");
            look(&format!("{call} {number}"));
        }
    }
}

#[test]
fn an_import_that_is_killed_leaves_nothing_that_half_works() {
    let (host, _server) = host_with_download();
    let verb = format!("import --auth /home/alice/Downloads/login '{FILE}'");
    let before = Snapshot::of(&host);
    let last = calls(&host, &verb);
    host.ok(&format!("runns-exec import --remove {NAME}"));
    before.assert_same(&Snapshot::of(&host));
    for call in points(last, 24).chain((last - 60..last).step_by(4)) {
        killed(&host, &verb, call);
        let section = format!("/etc/runns.conf.d/{NAME}.conf");
        if host.run(&format!("test -e {section}")).status == 0 {
            // Then all of it is there.
            host.ok(&format!("runns-exec build -s {NAME} --dry-run"));
        }
        host.ok("runns-exec import --list");
        host.ok(&format!(
            "runns-exec {verb} --replace && runns-exec import --remove {NAME}"
        ));
        before.assert_same(&Snapshot::of(&host));
    }
}
