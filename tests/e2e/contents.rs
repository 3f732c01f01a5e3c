//! What the program with capabilities is made of, held against docs/SECURITY.md.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::{Host, program};

/// At most 1.2 MB.
const LARGEST: u64 = 1_200_000;
/// Parts of names that have no place in it.
const FOREIGN: [&str; 9] = [
    "tokio", "netlink", "futures", "clap", "iptables", "regex", "toml", "mio", "which",
];

fn document() -> &'static str {
    let text = include_str!("../../docs/SECURITY.md");
    let start = text
        .find("### What is in the program")
        .expect("the section about what is in the program");
    text[start..].split("\n## ").next().expect("a section")
}

/// The crates in the first column of the section's tables.
fn documented() -> BTreeSet<String> {
    let rows = document()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    rows.flat_map(|cell| cell.split("`, `"))
        .map(|name| name.trim_end_matches('`').to_string())
        .collect()
}

#[test]
fn the_crates_are_those_that_are_documented() {
    let output = Command::new(std::env::var_os("CARGO").expect("cargo runs the tests"))
        .args([
            "tree",
            "--package",
            "runns-exec",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .args(["--locked", "--offline", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("start cargo tree");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8_lossy(&output.stdout);
    let linked: BTreeSet<String> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_string)
        .collect();
    assert_eq!(linked, documented());
    for name in &linked {
        assert!(
            FOREIGN.iter().all(|foreign| !name.contains(foreign)),
            "{name}"
        );
    }
}

/// The paths of sources that messages of panics name.
#[test]
fn the_binary_names_no_other_crate() {
    let bytes = std::fs::read(program()).expect("read the program");
    let text = String::from_utf8_lossy(&bytes);
    let documented = documented();
    let mut seen = BTreeSet::new();
    for (at, _) in text.match_indices("crates/") {
        // crates/REGISTRY/NAME-VERSION/src/...
        let Some(name) = text[at..]
            .split('/')
            .nth(2)
            .and_then(|name| Some(name.rsplit_once('-')?.0))
        else {
            continue;
        };
        assert!(documented.contains(name), "{name} is in the program");
        seen.insert(name.to_string());
    }
    assert!(seen.contains("nix"), "no crate was seen: {seen:?}");
    assert!(
        !text.contains("/.cargo/") && !text.contains("/home/"),
        "the builder's directories are in the program"
    );
}

#[test]
fn it_is_small_and_static() {
    let program = program();
    let size = std::fs::metadata(&program)
        .expect("look at the program")
        .len();
    assert!(size <= LARGEST, "{size} bytes");
    let host = Host::new();
    let elf = host.ok("readelf --program-headers --sections --wide /usr/local/bin/runns-exec");
    assert!(
        !elf.contains("INTERP") && !elf.contains(".symtab") && !elf.contains("DYNAMIC"),
        "{elf}"
    );
    assert!(
        elf.contains("GNU_RELRO") && elf.contains("GNU_STACK") && !elf.contains("RWE"),
        "{elf}"
    );
}

/// What the compiler emitted is linked as it is: no section is left out.
#[test]
fn tables_for_unwinding_are_in_it() {
    let elf = Command::new("readelf")
        .args(["--sections", "--wide"])
        .arg(program())
        .output()
        .expect("start readelf");
    let elf = String::from_utf8_lossy(&elf.stdout);
    for section in [".eh_frame ", ".eh_frame_hdr ", ".gcc_except_table "] {
        assert!(elf.contains(section), "{section}: {elf}");
    }
}

#[test]
fn the_numbers_of_lines_are_right() {
    for row in document()
        .lines()
        .filter_map(|line| line.strip_prefix("| `runns-"))
    {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().expect("a name").trim_end_matches('`');
        let stated: usize = cells
            .next()
            .and_then(|cell| cell.parse().ok())
            .expect("a number of lines");
        let counted = lines_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name));
        assert!(
            stated.abs_diff(counted) <= 100,
            "runns-{name} has {counted} lines, not {stated}"
        );
    }
}

/// Lines of code below `directory`, without comments, blank lines and unit tests.
fn lines_of(directory: &Path) -> usize {
    let mut lines = 0;
    for entry in std::fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("list a directory").path();
        if path.is_dir() {
            lines += lines_of(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("read a file");
            let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
            lines += code
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with("//"))
                .count();
        }
    }
    lines
}
