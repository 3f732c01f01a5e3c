//! The table and the JSON of `status`.

use crate::support::{Host, Terminal};

fn host() -> Host {
    let host = Host::new();
    host.write("/etc/vpn.resolv", "nameserver 198.51.100.53\n");
    host.configure("[work]\nInterfaceOut=eth0\nResolve=/etc/vpn.resolv\n\n[a-longer-name]\n");
    host.ok("runns-exec build -s work && runns-exec build -s a-longer-name");
    host
}

#[test]
fn the_table_is_aligned_and_names_can_be_chosen() {
    let host = host();
    host.user("alice")
        .ok("runns-exec -d work -- sleep 1000; runns-exec -d work -- sleep 1000");
    let table = [
        "NAMESPACE      STATE  TUNNEL  DNS                     ADDRESS        UPLINK     PROCESSES",
        "a-longer-name  ok     -       the host's              172.24.1.2/24  any        0",
        "work           ok     -       198.51.100.53 (locked)  172.24.0.2/24  eth0 only  2",
    ];
    assert_eq!(host.ok("runns-exec status"), table.join("\n"));
    let member = host.user("alice").ok("runns-exec status");
    assert_eq!(
        member,
        format!(
            "{}\nnot checked (needs root): firewall rules, whether traffic gets through the host's firewall, DNS lock rules; run sudo runns-exec status",
            table.join("\n")
        )
    );
    assert_eq!(
        host.ok("runns-exec status work a-longer-name work | cut -d' ' -f1"),
        "NAMESPACE\na-longer-name\nwork"
    );
    assert_eq!(
        host.ok("runns-exec status a-longer-name").lines().count(),
        2
    );
    for runner in [host.root(), host.user("alice")] {
        runner
            .run("runns-exec status work wrok")
            .refused(1, &["wrok", "did you mean work?"]);
        runner.run("runns-exec status ..").refused(2, &[".."]);
        runner
            .run("runns-exec status --bogus")
            .refused(2, &["--bogus"]);
    }
    host.ok("runns-exec clean work --kill && runns-exec clean a-longer-name");
    host.configure("");
    assert_eq!(
        host.ok("runns-exec status"),
        "NAMESPACE  STATE  TUNNEL  DNS  ADDRESS  UPLINK  PROCESSES"
    );
    assert_eq!(host.ok("runns-exec status --json"), "[]");
}

#[test]
fn sections_that_are_not_built_have_a_row() {
    let host = host();
    host.configure(
        "[Work]\nNetworkNamespace=work\nInterfaceOut=eth0\nResolve=/etc/vpn.resolv\n[a-longer-name]\n\
         [my mail]\nNetworkNamespace=mail\nKillSwitch=yes\nvpn=/etc/none\n[late]\n",
    );
    host.ok("runns-exec build -s late -n early");
    let states = "awk -F '  +' '{print $1, $2}' | grep -v '^ \\|^not'";
    for runner in [host.root(), host.user("alice")] {
        // Nobody asked for it: no failure.
        let table = runner.ok("runns-exec status");
        let row = table.lines().find(|line| line.starts_with("mail")).unwrap();
        let cells: Vec<&str> = row
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        assert_eq!(
            cells,
            ["mail", "not built", "-", "-", "-", "-", "-"],
            "{table}"
        );
        assert_eq!(
            runner.ok(&format!("runns-exec status | {states}")),
            "NAMESPACE STATE\na-longer-name ok\nearly ok\nmail not built\nwork ok"
        );
        let json: serde_json::Value =
            serde_json::from_str(&runner.run("runns-exec status --json mail").stdout).unwrap();
        assert_eq!(
            (
                &json[0]["namespace"],
                &json[0]["state"],
                &json[0]["kill_switch"],
                &json[0]["processes"]
            ),
            (
                &"mail".into(),
                &"not built".into(),
                &true.into(),
                &serde_json::Value::Null
            )
        );
        for word in ["mail", "'MY mail'"] {
            assert_eq!(runner.run(&format!("runns-exec status {word}")).status, 1);
        }
        // A member sees the inside of what a section names, as well.
        let late = runner.ok("runns-exec status LATE early");
        assert!(
            late.lines().nth(1).unwrap().starts_with("early      ok "),
            "{late}"
        );
        assert!(!late.contains("the inside"), "{late}");
        runner
            .run("runns-exec status wrok")
            .refused(1, &["wrok", "neither", "did you mean work?"]);
        runner
            .run("runns-exec status 'my mial'")
            .refused(1, &["did you mean my mail?"]);
    }
}

/// Only root can enter then (SPEC 4), and so nothing that is built is ok.
#[test]
fn an_error_in_the_configuration_is_told_with_what_can_be_shown() {
    let host = host();
    let sections = "[work]\nInterfaceOut=eth0\nResolve=/etc/vpn.resolv\n[a-longer-name]\n[mail]\n";
    for (more, parts) in [
        ("[x]\nColour=red\n", ["a.conf", "[x]", "Colour"]),
        ("nonsense\n", ["a.conf", "line 1", "nonsense"]),
        ("[x]\nNetworkNamespace=mail\n", ["a.conf", "[x]", "[mail]"]),
    ] {
        host.configure(sections);
        host.write("/etc/runns.conf.d/a.conf", more);
        host.user("alice")
            .run("runns-exec work -- true")
            .refused(125, &["a.conf"]);
        for runner in [host.root(), host.user("alice")] {
            let shown = runner.run("runns-exec status");
            assert_eq!(shown.status, 1, "{shown}");
            let rows = shown.stdout.lines().filter(|line| !line.starts_with(' '));
            let rows: Vec<Vec<&str>> = rows
                .skip(1)
                .map(|row| row.split_whitespace().take(2).collect())
                .collect();
            assert_eq!(rows[0], ["a-longer-name", "down"], "{shown}");
            assert!(rows.contains(&vec!["mail", "not"]), "{shown}");
            assert!(rows.contains(&vec!["work", "down"]), "{shown}");
            let line = shown.stdout.lines().nth(2).unwrap();
            for part in parts
                .iter()
                .chain(&["configuration: ", "sudo runns-exec config"])
            {
                assert!(line.contains(part), "{part}: {shown}");
            }
            runner
                .run("runns-exec status elsewhere")
                .refused(1, &["a.conf"]);
        }
    }
    // What cannot be read at all, and nothing is built.
    host.ok("runns-exec clean work && runns-exec clean a-longer-name");
    host.ok("chown alice /etc/runns.conf.d/a.conf");
    host.run("runns-exec status")
        .refused(1, &["a.conf", "not to root"]);
    host.ok("rm /etc/runns.conf.d/a.conf && runns-exec status");
}

#[test]
fn a_section_that_is_gone_is_told() {
    let host = host();
    host.configure("[a-longer-name]\n");
    for runner in [host.root(), host.user("alice")] {
        let shown = runner.ok("runns-exec status work");
        let line = "  its section [work] is no longer in the configuration; remove the namespace: sudo runns-exec clean work";
        assert_eq!(shown.lines().nth(2), Some(line), "{shown}");
        assert!(
            !runner
                .ok("runns-exec status a-longer-name")
                .contains("section")
        );
    }
}

#[test]
fn a_narrow_terminal_leaves_out_whole_columns_but_never_the_tunnel() {
    let host = host();
    host.ok("ip link set work down");
    let mut terminal = Terminal::shell(&host.root());
    let mut shown = |columns: u16| {
        terminal.resize(30, columns);
        terminal.enter("runns-exec status; echo EN''D\n");
        let shown = String::from_utf8_lossy(&terminal.expect("END\r\n")).into_owned();
        // What is typed before the prompt stands behind the echo, not before it.
        terminal.expect("$ ");
        let lines = shown.lines().skip(1).map(str::trim_end);
        lines.take(3).map(str::to_string).collect::<Vec<String>>()
    };
    assert_eq!(
        shown(80)[0],
        "NAMESPACE      STATE  TUNNEL  DNS                     ADDRESS        UPLINK"
    );
    assert_eq!(
        shown(50),
        [
            "NAMESPACE      STATE  TUNNEL",
            "a-longer-name  ok     -",
            "work           down   -"
        ]
    );
    assert_eq!(shown(20)[0], "NAMESPACE      STATE  TUNNEL");
}

#[test]
fn json_has_the_fields_of_the_manual() {
    let host = host();
    host.ok("ip link set work down");
    let json = host.run("runns-exec status --json work");
    let alias = "sudo runns-exec build -s work";
    assert_eq!(json.status, 1);
    assert_eq!(
        json.stdout.trim_end(),
        format!(
            "[{{\"namespace\":\"work\",\"state\":\"down\",\"address\":\"172.24.0.2/24\",\"uplink\":\"eth0\",\
             \"kill_switch\":false,\"resolver\":{{\"from\":\"/etc/vpn.resolv\",\"servers\":[\"198.51.100.53\"],\
             \"locked\":true}},\"tunnels\":[],\"processes\":0,\"problems\":[{{\"what\":\"interface work: down\",\
             \"cure\":\"{alias}\"}}],\"unseen\":[]}}]"
        )
    );
    let json = host
        .user("alice")
        .run("runns-exec status --json work")
        .stdout;
    assert!(
        json.contains("\"unseen\":[\"firewall rules") && json.contains("\"DNS lock rules\"]"),
        "{json}"
    );
    // The command that repairs it is the one that built it.
    host.ok("runns-exec build -n by-hand -i byhand0 -o eth0 -r /etc/vpn.resolv && ip link set byhand0 down");
    let shown = host.run("runns-exec status by-hand").stdout;
    let command = "sudo runns-exec build -n by-hand -i byhand0 -o eth0 -r /etc/vpn.resolv";
    assert!(shown.contains(command), "{shown}");
    host.ok(command.strip_prefix("sudo ").unwrap());
    host.ok("runns-exec status by-hand");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let host = host();
    host.ok("ip -n work link set lo down && ip link set a-longer-name down");
    let shown_by = |set: &str, verb: &str| {
        let script = format!("{set} runns-exec {verb}; echo END");
        let mut terminal = Terminal::start(&host.root(), &["sh", "-c", &script]);
        String::from_utf8_lossy(&terminal.expect("END\r\n")).into_owned()
    };
    let shown = |set: &str| shown_by(set, "status");
    for set in ["TERM=xterm", "TERM=xterm NO_COLOR="] {
        let shown = shown(set);
        assert!(
            shown.contains("work           \x1b[33mdegraded\x1b[0m")
                && shown.contains("\x1b[31mdown\x1b[0m"),
            "{shown}"
        );
    }
    for set in ["TERM=dumb", "NO_COLOR=1", "TERM=xterm NO_COLOR=0"] {
        assert!(!shown(set).contains('\x1b'), "{set}");
        assert!(
            !shown_by(set, "check a-longer-name").contains('\x1b'),
            "{set}"
        );
    }
    assert!(shown_by("TERM=xterm", "check a-longer-name").contains("\x1b[32mOK"));
    assert!(
        !host
            .run("TERM=xterm runns-exec status")
            .stdout
            .contains('\x1b')
    );
}

#[test]
fn what_a_member_cannot_see_is_never_called_ok_without_saying_so() {
    let host = host();
    let alice = host.user("alice");
    host.ok("mount -o remount,hidepid=2 /proc");
    let shown = alice.ok("runns-exec status work");
    assert!(
        shown.contains("eth0 only  -\n") && shown.contains("processes of other users"),
        "{shown}"
    );
    let json = alice.ok("runns-exec status work --json");
    assert!(
        json.contains("\"processes\":null") && json.contains("\"processes of other users\""),
        "{json}"
    );
    host.ok("mount -o remount,hidepid=0 /proc");
    // Without its capabilities it cannot look inside.
    let shown = alice.ok("setpriv --no-new-privs runns-exec status work");
    assert!(shown.contains("the inside of the namespace"), "{shown}");
    // What another process claims to have seen is nothing that it could not see itself.
    let program = "/usr/local/libexec/runns-exec/runns-exec-root";
    for words in [
        "list",
        ".handed-over",
        ".handed-over x status",
        ".handed-over 99 status",
        ".handed-over 0 status",
        ".handed-over 0 list",
    ] {
        let output = alice.run(&format!("{program} {words} </etc/passwd"));
        assert!(
            output.status != 0 && output.stderr.starts_with("runns-exec: cannot "),
            "{output}"
        );
    }
}
