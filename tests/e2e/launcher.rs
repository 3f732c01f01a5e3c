//! `runns-exec launcher`: entries of the desktop's menu (SPEC 15).

use crate::host_with_vpn1;
use crate::support::{Host, wait_until};

const OWN: &str = "[Desktop Entry]\nType=Application\nName=Probe\nName[de]=Sonde\nIcon=probe-icon\nComment=Tries it\n\
    Categories=Network;\nMimeType=text/html;\nDBusActivatable=true\nActions=other;\nExec=env A=1 probe %U\n\n\
    [Desktop Action other]\nName=Other\nExec=probe --other\n";

/// What alice types, with a home directory of her own and programs in /tmp/data.
fn alice(host: &Host, line: &str) -> String {
    host.user("alice").ok(&format!("{PLACES} {line}"))
}

const PLACES: &str = "export HOME=/tmp/home XDG_DATA_DIRS=/tmp/data PATH=/tmp/bin:$PATH;";
const ENTRIES: &str = "/tmp/home/.local/share/applications";

fn read(host: &Host, path: &str) -> String {
    host.run(&format!("cat {path}")).stdout
}

/// A host with the program `probe`, which notes its network and its arguments.
fn host_with_probe() -> Host {
    let host = host_with_vpn1();
    host.write("/tmp/data/applications/kde/probe.desktop", OWN);
    host.write(
        "/tmp/bin/probe",
        "#!/bin/sh\n{ readlink /proc/self/ns/net; printf '%s\\n' \"$@\"; } >/tmp/home/said.new && mv /tmp/home/said.new /tmp/home/said\n",
    );
    // Nobody writes to it.
    host.ok("mkfifo /tmp/data/applications/a.desktop");
    host.ok("chmod 755 /tmp/bin/probe && mkdir /tmp/home && chown alice /tmp/home");
    host
}

#[test]
fn a_launcher_starts_a_program_inside() {
    let host = host_with_probe();
    let path = format!("{ENTRIES}/runns-exec-vpn1-probe.desktop");
    let said = alice(
        &host,
        r#"runns-exec launcher vpn1 probe --flag 'a  b' '50%u' '$HOME\`x"' ''"#,
    );
    assert_eq!(said, format!("wrote {path}"));
    assert_eq!(host.ok(&format!("desktop-file-validate {path}")), "");
    let text = read(&host, &path);
    for line in [
        "Name=Probe (vpn1)",
        "Name[de]=Sonde (vpn1)",
        "Icon=probe-icon",
        "Comment=Tries it",
    ] {
        assert!(text.lines().any(|own| own == line), "{line}: {text}");
    }
    for key in ["MimeType", "DBusActivatable", "Action"] {
        assert!(!text.contains(key), "{key}: {text}");
    }
    alice(&host, &format!("gio launch {path} /tmp/x.html"));
    wait_until("the program", || {
        (host.run("test -e /tmp/home/said").status == 0).then_some(())
    });
    let inside = host.ok("ip netns exec vpn1 readlink /proc/self/ns/net");
    assert_eq!(
        read(&host, "/tmp/home/said"),
        format!("{inside}\n--flag\na  b\n50%u\n$HOME\\`x\"\n\n/tmp/x.html\n")
    );
    // Again, and by the name of the section.
    host.configure("[job]\nNetworkNamespace=vpn1\n");
    alice(&host, "runns-exec launcher job probe");
    assert!(!read(&host, &path).contains("--flag"));
    assert_eq!(
        alice(&host, "runns-exec launcher --remove job probe"),
        format!("removed {path}")
    );
    host.ok(&format!("test ! -e {path}"));
    host.user("alice")
        .run(&format!("{PLACES} runns-exec launcher --remove vpn1 probe"))
        .refused(1, &["cannot remove", "there is none"]);
}

#[test]
fn browsers_get_a_profile_for_each_namespace() {
    let host = host_with_probe();
    host.ok("ln -s probe /tmp/bin/chromium && ln -s probe /tmp/bin/firefox");
    let profile = |browser: &str| format!("/tmp/home/.local/share/runns-exec/vpn1/{browser}");
    for (browser, option) in [("chromium", "--user-data-dir="), ("firefox", "--profile ")] {
        let text = alice(
            &host,
            &format!("runns-exec launcher --print vpn1 {browser} --x"),
        );
        let words = format!(
            "bin/runns-exec vpn1 -- /tmp/bin/{browser} {option}{} --x",
            profile(browser)
        );
        assert!(text.contains(&words), "{text}");
        assert!(
            text.contains(&format!("\nName={browser} (vpn1)\n")),
            "{text}"
        );
        host.ok("test ! -e /tmp/home/.local");
    }
    let own = alice(
        &host,
        "runns-exec launcher --print vpn1 chromium --user-data-dir=/tmp/other",
    );
    assert!(!own.contains(&profile("chromium")), "{own}");
    alice(&host, "runns-exec launcher vpn1 chromium");
    assert_eq!(
        host.ok(&format!("stat -c '%U %a' {}", profile("chromium"))),
        "alice 700"
    );
}

#[test]
fn what_is_not_ours_stays() {
    let host = host_with_probe();
    let path = format!("{ENTRIES}/runns-exec-vpn1-probe.desktop");
    host.ok(&format!(
        "mkdir -p {ENTRIES} && echo '[Desktop Entry]' >{path} && chown -R alice /tmp/home"
    ));
    for option in ["", "--remove"] {
        host.user("alice")
            .run(&format!("{PLACES} runns-exec launcher {option} vpn1 probe"))
            .refused(1, &["runns-exec did not write it"]);
    }
    assert_eq!(read(&host, &path), "[Desktop Entry]\n");
    let sudo = host.run("SUDO_UID=1000 runns-exec launcher vpn1 probe");
    sudo.refused(1, &["root's menu", "without sudo"]);
    host.configure("[job]\nNetworkNamespace=vpn1\n");
    let unknown = host
        .user("alice")
        .run(&format!("{PLACES} runns-exec launcher --print vpm1 probe"));
    assert!(
        unknown.status == 0 && unknown.stderr.contains("did you mean vpn1?"),
        "{unknown}"
    );
    let option = host
        .user("alice")
        .run("runns-exec launcher --bogus vpn1 probe");
    option.refused(2, &["--bogus"]);
}
