//! The modules of this crate stand in rooms, one above the other, and import only from their own
//! room or a lower one. No part imports another part, and no files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

/// The rooms, the lowest first, each with its modules; `part/*` is what is below `part`. A module is
/// in the room that names the longest beginning of its path. docs/ARCHITECTURE.md has this table.
const ROOMS: [(&str, &[&str]); 10] = [
    ("kernel", &["kernel"]),
    (
        "records",
        &["lock", "host", "namespace", "etc_netns", "confine"],
    ),
    ("facts", &["facts"]),
    ("tables", &["table", "seen", "finding"]),
    ("contract", &["part", "probe", "tunnel", "import"]),
    ("parts", &["part/*"]),
    (
        "walk",
        &["walk", "repair", "salvage", "wanted", "plans", "difference"],
    ),
    ("report", &["report"]),
    ("verbs", &["verb"]),
    ("command line", &["cli"]),
];

/// The imports of each module, by the paths of modules: `part/veth/routes`.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// The room of a module, by its place in the table.
fn room(module: &str) -> usize {
    let fit = |path: &str| {
        let whole = path.strip_suffix('*').unwrap_or(path);
        let rest = module.strip_prefix(whole)?;
        let fits = rest.is_empty() || rest.starts_with('/') || whole.ends_with('/');
        fits.then_some(whole.len())
    };
    let longest = |at: &usize| ROOMS[*at].1.iter().filter_map(|path| fit(path)).max();
    let best = (0..ROOMS.len()).max_by_key(longest);
    best.filter(|at| longest(at).is_some())
        .unwrap_or_else(|| panic!("{module} is in no room"))
}

/// The part that a module belongs to, if it is one.
fn part(module: &str) -> Option<&str> {
    module.strip_prefix("part/")?.split('/').next()
}

/// Whether a module may import another.
fn may_import(module: &str, imported: &str) -> bool {
    let is_other_part = part(imported).is_some() && part(module) != part(imported);
    room(imported) <= room(module) && !(part(module).is_some() && is_other_part)
}

/// The modules of this crate, each with its source.
fn modules(directory: &Path, prefix: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let module = format!("{prefix}{stem}");
        if path.is_dir() {
            found.extend(modules(&path, &format!("{module}/")));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            let module = module.strip_suffix("/mod").unwrap_or(&module);
            found.insert(module.to_string(), source);
        }
    }
    if prefix.is_empty() {
        found.retain(|module, _| !["lib", "main", "rooms"].contains(&module.as_str()));
    }
    found
}

/// The paths in a file, without those of its unit tests: what `use` names, and what is named in
/// between, by `crate`, `super` or a module that `use` brought in.
fn paths(source: &str) -> Vec<Vec<String>> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let (mut used, mut inline) = (Vec::new(), Vec::new());
    collect(source.parse().unwrap(), &mut used, &mut inline);
    let through_use = inline.iter().flat_map(|path| {
        let begins = |known: &&Vec<String>| known.last() == path.first();
        used.iter()
            .filter(begins)
            .map(|known| [known.as_slice(), &path[1..]].concat())
    });
    let all = through_use
        .chain(inline.iter().cloned())
        .collect::<Vec<_>>();
    used.into_iter().chain(all).collect()
}

fn collect(stream: TokenStream, used: &mut Vec<Vec<String>>, inline: &mut Vec<Vec<String>>) {
    let mut tokens = stream.into_iter().peekable();
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(word) if word == "use" => {
                let is_inside = |token: &TokenTree| token.to_string() != ";";
                let mut tree = Vec::new();
                while let Some(token) = tokens.next_if(is_inside) {
                    tree.push(token);
                }
                expand(&[], tree, used);
            }
            TokenTree::Ident(word) => {
                if colons != 2 {
                    inline.push(std::mem::take(&mut path));
                }
                path.push(word.to_string());
                colons = 0;
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                inline.push(std::mem::take(&mut path));
                collect(group.stream(), used, inline);
                colons = 0;
            }
            _ => colons = 0,
        }
    }
    inline.push(path);
    inline.retain(|path| path.len() > 1);
}

/// The paths of a tree of `use`, `a::{b, c::d}`, below `prefix`.
fn expand(prefix: &[String], tree: Vec<TokenTree>, used: &mut Vec<Vec<String>>) {
    let is_comma = |token: &TokenTree| token.to_string() == ",";
    for branch in tree.split(is_comma).filter(|branch| !branch.is_empty()) {
        let mut path = prefix.to_vec();
        let mut is_group = false;
        for token in branch {
            match token {
                TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
                TokenTree::Ident(word) if word == "as" => break,
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) => {
                    expand(&path, group.stream().into_iter().collect(), used);
                    is_group = true;
                }
                _ => {}
            }
        }
        if !is_group {
            used.push(path);
        }
    }
}

/// The module that a path in `module` leads to: the longest beginning that is one.
fn resolve(module: &str, path: &[String], known: &BTreeMap<String, String>) -> Option<String> {
    let mut from: Vec<&str> = Vec::new();
    let mut rest = path;
    match path[0].as_str() {
        "crate" => rest = &path[1..],
        "self" | "super" => {
            from = module.split('/').collect();
            while rest.first().is_some_and(|word| word == "super") {
                from.pop();
                rest = &rest[1..];
            }
        }
        // What a module calls its own submodules by.
        _ => from = module.split('/').collect(),
    }
    let words: Vec<&str> = from
        .into_iter()
        .chain(rest.iter().map(String::as_str))
        .collect();
    let beginnings = (1..=words.len()).rev().map(|end| words[..end].join("/"));
    beginnings
        .into_iter()
        .find(|beginning| known.contains_key(beginning))
        .filter(|found| found != module)
}

fn imports() -> Imports {
    let known = modules(Path::new(env!("CARGO_MANIFEST_DIR")), "");
    let of = |(module, source): (&String, &String)| {
        let resolve = |path: &Vec<String>| resolve(module, path, &known);
        (
            module.clone(),
            paths(source).iter().filter_map(resolve).collect(),
        )
    };
    known.iter().map(of).collect()
}

#[test]
fn modules_import_only_downwards() {
    let imports = imports();
    assert!(imports["part/veth"].contains("part/veth/routes"));
    assert!(imports["walk"].contains("part/veth"));
    let arrows = imports
        .iter()
        .flat_map(|(module, imported)| imported.iter().map(move |other| (module, other)));
    let wrong: Vec<_> = arrows
        .filter(|(module, imported)| !may_import(module, imported))
        .map(|(module, imported)| format!("{module} -> {imported}"))
        .collect();
    assert!(
        wrong.is_empty(),
        "upwards, or from part to part: {wrong:#?}"
    );
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut left = imports();
    // What imports nothing that is left is in no circle.
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, imported| imported.iter().any(|other| names.contains(other)));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn the_map_has_these_rooms() {
    let map = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/ARCHITECTURE.md"
    ))
    .unwrap();
    let row = |(room, modules): &(&str, &[&str])| {
        let modules: Vec<String> = modules.iter().map(|path| format!("`{path}`")).collect();
        format!("| {room} | {} |", modules.join(", "))
    };
    let begins = |row: &String| map.lines().any(|line| line.starts_with(row.as_str()));
    let missing: Vec<String> = ROOMS.iter().map(row).filter(|row| !begins(row)).collect();
    assert!(
        missing.is_empty(),
        "not in docs/ARCHITECTURE.md: {missing:#?}"
    );
}

#[test]
fn paths_are_found() {
    let source = "use crate::a::{self, b::{C, D}}; fn f() { a::e::g(crate::h::I, \"crate::x\"); }";
    let found: Vec<String> = paths(source).iter().map(|path| path.join("::")).collect();
    for path in [
        "crate::a",
        "crate::a::b::C",
        "crate::a::e::g",
        "crate::h::I",
    ] {
        assert!(found.iter().any(|found| found == path), "{path} {found:?}");
    }
    assert!(!found.iter().any(|found| found.contains('x')));
}
