//! `runns-exec list` (SPEC 8).

use crate::host_with_vpn1;
use crate::support::Host;

/// Runs `list` as alice with these arguments.
fn list(host: &Host, arguments: &str) -> String {
    host.user("alice")
        .ok(&format!("runns-exec list {arguments}"))
}

/// The pids that `list` prints with these arguments.
fn pids(host: &Host, arguments: &str) -> Vec<String> {
    list(host, &format!("-q {arguments}"))
        .lines()
        .map(str::to_string)
        .collect()
}

#[test]
fn detached_commands_are_listed_by_their_pid() {
    let host = host_with_vpn1();
    let pid = host.user("alice").ok("runns-exec -d vpn1 -- sleep 1000");
    assert_eq!(pids(&host, ""), [pid.as_str()]);
    assert_eq!(pids(&host, "vpn1"), [pid.as_str()]);
    let table = list(&host, "");
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("NAMESPACE") && lines[0].ends_with("COMMAND"),
        "{table}"
    );
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        (words[0], words[1], words[2]),
        ("vpn1", pid.as_str(), "alice")
    );
    assert_eq!(
        lines[1].find("sleep 1000"),
        lines[0].find("COMMAND"),
        "{table}"
    );
    host.ok(&format!("kill {pid}"));
}

#[test]
fn everybodys_processes_are_found_without_being_root() {
    let host = host_with_vpn1();
    let alice = host.user("alice").ok("runns-exec -d vpn1 -- sleep 1000");
    let carol = host.user("carol").ok("runns-exec -d vpn1 -- sleep 1001");
    let root = host.ok("ip netns exec vpn1 setsid sh -c 'sleep 1002 >/dev/null 2>&1 & echo $!'");
    assert_eq!(pids(&host, ""), [alice.as_str()]);
    let mut all = vec![alice.clone(), carol, root.clone()];
    all.sort_by_key(|pid| pid.parse::<i32>().unwrap());
    assert_eq!(
        pids(&host, "-a"),
        all,
        "the namespace has no record: its number comes from entering it"
    );
    assert_eq!(
        host.ok("runns-exec list -aq").lines().collect::<Vec<_>>(),
        all
    );
    assert_eq!(host.ok("runns-exec list -q"), root, "root's own");
    let unprivileged = host
        .user("alice")
        .ok("setpriv --no-new-privs runns-exec list -aq");
    assert_eq!(
        unprivileged, alice,
        "without privilege, what can be known is listed"
    );
}

#[test]
fn a_built_namespace_is_known_by_its_record() {
    let host = Host::new();
    host.ok("runns-exec build -n built");
    let carol = host.user("carol").ok("runns-exec -d built -- sleep 1001");
    let seen = host
        .user("alice")
        .ok("setpriv --no-new-privs runns-exec list -aq");
    assert_eq!(seen, carol, "no privilege is needed");
}

#[test]
fn json_has_what_ps_says() {
    let host = host_with_vpn1();
    let started = host
        .user("alice")
        .ok("runns-exec -d vpn1 -- sh -c 'sleep 1000; :' 'a b' ''; date +%s");
    let (pid, now) = started.split_once('\n').unwrap();
    let text = list(&host, "--json");
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["pid"] == pid.parse::<i32>().unwrap())
        .unwrap();
    let fields: Vec<&str> = row
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        fields,
        [
            "command",
            "namespace",
            "pid",
            "ppid",
            "started",
            "uid",
            "user"
        ]
    );
    assert_eq!(
        row["command"],
        serde_json::json!(["sh", "-c", "sleep 1000; :", "a b", ""])
    );
    assert_eq!(
        row["ppid"].to_string(),
        host.ok(&format!("ps -o ppid= -p {pid}")).trim()
    );
    assert_eq!(row["uid"].to_string(), host.ok("id -u alice"));
    assert_eq!(
        (row["user"].as_str(), row["namespace"].as_str()),
        (Some("alice"), Some("vpn1"))
    );
    let parsed = host.ok(&format!("date -d {} +%s", row["started"].as_str().unwrap()));
    let (parsed, now): (i64, i64) = (parsed.parse().unwrap(), now.parse().unwrap());
    assert!((parsed - now).abs() <= 2, "started {parsed}, now {now}");
}

#[test]
fn what_a_process_calls_itself_is_one_harmless_line() {
    let host = host_with_vpn1();
    let name = "$(printf 'x\\033[2J\\ny\\342\\200\\256')";
    host.user("alice").ok(&format!(
        "runns-exec -d vpn1 -- sh -c 'sleep 1000; :' \"{name}\""
    ));
    let table = list(&host, "");
    assert!(
        table.contains("x\\x1b[2J\\ny\\u{202e}") && !table.contains('\u{1b}'),
        "{table}"
    );
    // On a real terminal of 60 columns.
    let cut = host
        .user("alice")
        .ok("script -qec 'stty cols 60; runns-exec list' /dev/null </dev/null");
    assert!(
        cut.lines()
            .all(|line| line.trim_end().chars().count() <= 60),
        "{cut}"
    );
    assert!(cut.contains("NAMESPACE"), "{cut}");
}

#[test]
fn json_has_no_character_that_a_terminal_obeys() {
    let host = host_with_vpn1();
    // U+009B, U+202E, U+061C, DEL and U+E0041; and others that are harmless.
    let name = "x\u{9b}2J\u{202e}\u{61c}\u{7f}\u{e0041}\u{e9}\u{1f600}";
    host.user("alice").ok(&format!(
        "runns-exec -d vpn1 -- sh -c 'sleep 1000; :' '{name}'"
    ));
    let text = list(&host, "--json");
    assert!(
        text.contains(r"x\u009b2J\u202e\u061c\u007f\udb40\udc41é"),
        "{text}"
    );
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows[0]["command"][3], name);
    assert!(list(&host, "").contains(r"x\x9b2J\u{202e}\u{61c}\x7f\u{e0041}"));
}

#[test]
fn nothing_to_list_is_no_error() {
    let host = Host::new();
    assert_eq!(list(&host, "").lines().count(), 1);
    assert_eq!(
        (list(&host, "-q").as_str(), list(&host, "--json").as_str()),
        ("", "[]")
    );
    host.ok("ip netns add vpn1; touch /run/netns/empty '/run/netns/no name'");
    assert_eq!(list(&host, "-q vpn1"), "");
    assert_eq!(list(&host, "--json"), "[]");
}

#[test]
fn unknown_names_are_errors() {
    let host = host_with_vpn1();
    let alice = host.user("alice");
    alice
        .run("runns-exec list vpn2")
        .refused(1, &["vpn2", "no such namespace", "did you mean vpn1?"]);
    alice
        .run("runns-exec list vpn1 zzz")
        .refused(1, &["zzz", "no such namespace"]);
    alice
        .run("runns-exec list ../vpn1")
        .refused(2, &["'../vpn1'"]);
    host.ok("touch /run/netns/empty");
    alice
        .run("runns-exec list empty")
        .refused(1, &["empty", "not a network namespace"]);
    alice
        .run("runns-exec list -q --json")
        .refused(2, &["--json"]);
}

#[test]
fn of_two_names_the_first_is_shown_once() {
    let host = host_with_vpn1();
    let pid = host.user("alice").ok("runns-exec -d vpn1 -- sleep 1000");
    host.ok("touch /run/netns/also && mount --bind /run/netns/vpn1 /run/netns/also");
    assert_eq!(pids(&host, ""), [pid.as_str()]);
    assert!(list(&host, "").contains("\nalso  "), "the first by name");
    assert!(
        list(&host, "vpn1").contains("\nvpn1  "),
        "the one that was asked for"
    );
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let host = host_with_vpn1();
    host.user("alice")
        .run("runns-exec list >/dev/full")
        .refused(1, &["standard output"]);
    host.run("runns-exec list >&-")
        .refused(1, &["standard output"]);
}
