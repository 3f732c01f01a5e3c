//! What documents for developers name exists: files of the repository, and chains of our tables.

use std::collections::BTreeSet;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words of `text` that are set as code, without any that contain blanks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|word| !word.is_empty() && !word.contains(' '))
}

/// The words of a list, each set as code, at the beginning of `text`.
fn list(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some((word, after)) = rest.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
        words.push(word);
        rest = after.trim_start_matches([',', ' ']);
    }
    words
}

/// Whether a word is a path in the repository, as opposed to one of the system, an option or a
/// port.
fn is_path(word: &str) -> bool {
    let is_ours = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._/-".contains(c);
    word.contains('/')
        && !word.starts_with(|c: char| c == '/' || c.is_ascii_digit())
        && word.chars().all(is_ours)
        && !word.starts_with("target/")
}

/// Files are named as they are, or from `src` on; of those in Rust, the ending may be left out.
fn exists(word: &str) -> bool {
    let named = [word.to_string(), format!("{word}.rs")];
    let places = [root().to_path_buf(), root().join("src")];
    places
        .iter()
        .any(|place| named.iter().any(|word| place.join(word).exists()))
}

/// In a row of a table, the first file may have a path, and the others be named without: they are
/// beside it.
fn map_of(document: &str) -> Vec<String> {
    let mut files = Vec::new();
    for cell in document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
    {
        let Some((folder, _)) = code(cell).next().and_then(|word| word.rsplit_once('/')) else {
            continue;
        };
        let beside = |word: &str| match word.contains('/') {
            true => word.to_string(),
            false => format!("{folder}/{word}"),
        };
        files.extend(code(cell).map(beside).filter(|word| is_path(word)));
    }
    files
}

/// The modules in the table of the rooms of src/root.
fn rooms(architecture: &str) -> Vec<String> {
    let table = architecture
        .split_once("| room | modules |")
        .expect("the rooms")
        .1;
    let rows = table
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| "));
    rows.filter_map(|row| row.split(" | ").nth(1))
        .flat_map(code)
        .map(|module| format!("src/root/{}", module.trim_end_matches("/*")))
        .collect()
}

#[test]
fn files_that_documents_name_exist() {
    let documents = [
        "CONTRIBUTING.md",
        "RELEASE.md",
        "docs/ARCHITECTURE.md",
        "docs/PERFORMANCE.md",
        "docs/SECURITY.md",
        "docs/TUNNELS.md",
    ];
    for document in documents {
        let text = read(document);
        let named: BTreeSet<String> = code(&text)
            .filter(|word| is_path(word))
            .map(str::to_string)
            .chain(map_of(&text))
            .collect();
        assert!(!named.is_empty(), "{document} names no file");
        for word in named {
            assert!(
                exists(&word),
                "{document} names `{word}`, which does not exist"
            );
        }
    }
}

/// The chains, sets and maps of the complete tables in src/root/table/golden, on the host or inside.
fn tables(is_inside: bool) -> BTreeSet<String> {
    let directory = root().join("src/root/table/golden");
    let entries = std::fs::read_dir(directory).expect("list the golden files");
    let texts = entries.map(|entry| {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a golden file");
        let (host, inside) = text.split_once("# Inside\n").expect("both tables");
        if is_inside { inside } else { host }.to_string()
    });
    let name = |line: &str| {
        let mut words = line.split_whitespace();
        ["chain", "set", "map"]
            .contains(&words.next()?)
            .then(|| words.next().map(str::to_string))?
    };
    texts
        .flat_map(|text| text.lines().filter_map(name).collect::<Vec<_>>())
        .collect()
}

/// "host: `CHAIN`, `CHAIN`; inside: `CHAIN`"
#[test]
fn chains_that_tunnels_names_exist() {
    let page = read("docs/TUNNELS.md").replace('\n', " ");
    for (marker, is_inside) in [("host: ", false), ("inside: ", true)] {
        let named: BTreeSet<&str> = page.split(marker).skip(1).flat_map(list).collect();
        assert!(named.len() > 5, "{marker}{named:?}");
        let known = tables(is_inside);
        for name in named {
            assert!(
                known.contains(name),
                "TUNNELS.md: {marker}`{name}` does not exist"
            );
        }
    }
}

#[test]
fn the_rooms_of_architecture_exist() {
    let modules = rooms(&read("docs/ARCHITECTURE.md"));
    assert!(modules.len() > 15, "{modules:?}");
    for module in modules {
        assert!(exists(&module), "there is no {module}");
    }
}

#[test]
fn targets_of_make_that_documents_name_exist() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| line.contains(" ## "))
        .filter_map(|line| Some(line.split_once(':')?.0))
        .collect();
    for document in ["CONTRIBUTING.md", "RELEASE.md"] {
        let text = read(document);
        let lines = text.lines().map(str::trim_start);
        for target in lines.filter_map(|line| line.strip_prefix("make ")?.split(' ').next()) {
            assert!(targets.contains(target), "{document}: make {target}");
        }
    }
}

#[test]
fn the_oldest_kernel_is_stated() {
    let words = format!("Linux {} or later", runns_sys::net::OLDEST_KERNEL);
    for path in ["README.md", "docs/runns-exec.8"] {
        assert!(read(path).contains(&words), "{path}: {words}");
    }
}
