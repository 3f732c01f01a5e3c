//! What a provider hands out, made ready to be kept: configurations of tunnels, each with the files
//! that it names.
//!
//! | module | what it does |
//! |---|---|
//! | [`download`] | reads files with the rights of those whom their directory belongs to |
//! | [`bundle`] | reads .zip archives |
//! | [`store`] | /etc/runns and /etc/runns.conf.d: writes, lists and removes |

pub mod bundle;
pub mod download;
pub mod store;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::confine::view::{Copy, normal};
use crate::tunnel::check::{self, Checked};
use crate::tunnel::options;
use crate::tunnel::profile::Profile;
use crate::tunnel::rehearsal::{Reading, read_by_openvpn};
use crate::tunnel::source::{Kind, of_root};
use crate::tunnel::{IMPORTED, LOGIN};
use bundle::Bundle;
use download::Download;
use runns_shared::config::MOST_FILES;
use runns_shared::error::{Error, Result};
use runns_shared::escape::{escape, show};
use runns_shared::name::NetnsName;
use runns_shared::trusted::MAX_TEXT;

/// The bytes of a file that a configuration names.
const LARGEST_COMPANION: u64 = 16 << 20;
/// The bytes of all of them, as for what build copies.
const LARGEST_COMPANIONS: u64 = 48 << 20;
/// How many there may be.
const MOST_COMPANIONS: usize = 256;
/// How many components its path may have, below the configuration's directory.
const DEEPEST: usize = 32;
/// The bytes of all that is imported at once.
const LARGEST_IMPORTS: u64 = 128 << 20;
/// Where everybody finds the certificates of public authorities; files there are not copied.
/// Private keys are in none of them, as they are in others below /etc/pki.
const PUBLIC: [&str; 7] = [
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust",
    "/etc/pki/trust",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
];
/// The options that may name files there. What others name goes to the server, or could.
const OF_AUTHORITIES: [&str; 2] = ["ca", "crl-verify"];
/// Options by which a configuration runs a program or loads a library, and those that name
/// directories.
const REFUSED: [(&str, &str); 5] = [
    ("tls-verify", "it runs a program"),
    ("plugin", "it loads a library"),
    ("pkcs11-providers", "it loads a library"),
    ("capath", "it names a directory"),
    ("tls-export-cert", "it writes files"),
];
/// Options of OpenSSL that load a library: one of its own by its name, or any by its path
/// (OSSL_PROVIDER_load(3), ENGINE_by_id(3)).
const OF_OPENSSL: [&str; 2] = ["providers", "engine"];

/// A configuration with its files.
pub struct Import {
    /// The section, and its namespace.
    pub name: NetnsName,
    /// Where it comes from, for messages.
    pub source: PathBuf,
    /// What is in it.
    pub checked: Checked,
    /// Its own place among the files.
    pub main: PathBuf,
    /// All files, by their place below the section's directory.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Import {
    /// The directory in which it is kept.
    pub fn directory(&self) -> PathBuf {
        directory(&self.name)
    }

    /// What OpenVPN is to read of it, where it will be kept.
    fn reading(&self) -> Result<Reading> {
        let directory = self.directory();
        let contents = |path: &Path, most: u64| {
            let path = normal(path);
            match path.strip_prefix(&directory) {
                Ok(relative) => Ok(self.files.get(relative).cloned()),
                Err(_) => public(&path, most),
            }
        };
        let copy = |path: &Path, at: PathBuf| {
            let contents = contents(path, LARGEST_COMPANION)?;
            Ok(contents.map(|contents| Copy {
                at,
                contents,
                executable: false,
                original: None,
            }))
        };
        let file = directory.join(&self.main);
        let profile = Profile::new(&file, &self.files[&self.main], &contents)?;
        let answered = profile.credentials_in(&contents)?.is_some();
        // One in an archive cannot be edited.
        let edit = self.source.is_file().then(|| (self.source.clone(), "sed"));
        Ok(Reading {
            action: format!("import {}", show(&self.source)),
            name: Path::new(".").join(&self.main),
            copies: profile.copies_by(answered, &copy)?,
            answered,
            edit,
            profile,
        })
    }
}

/// Has OpenVPN read those of the files that are its own.
pub fn rehearse(imports: &[Import]) -> Result<()> {
    let is_openvpn = |import: &&Import| import.checked.kind == Kind::OpenVpn;
    read_by_openvpn(imports.iter().filter(is_openvpn).map(Import::reading))
}

/// The directory of what is kept for a section.
pub fn directory(name: &NetnsName) -> PathBuf {
    Path::new(IMPORTED).join(name.as_str())
}

/// All that there is in `files`. `prefix` is -n: the name, or of several sections its beginning.
/// The second value is what was left out of archives.
pub fn read(files: &[PathBuf], prefix: Option<&str>) -> Result<(Vec<Import>, Vec<String>)> {
    let (mut imports, mut unused) = (Vec::new(), Vec::new());
    let mut room = LARGEST_IMPORTS;
    for path in files {
        let download = Download::open(path)?;
        let bytes = download.contents(bundle::LARGEST)?;
        if bundle::is_archive(&bytes) {
            let (found, others) = of_bundle(&download.path, &bytes, prefix, &mut room)?;
            imports.extend(found);
            unused.extend(others);
            continue;
        }
        if bytes.len() as u64 > MAX_TEXT {
            let cause = format!("it is larger than {} MiB", MAX_TEXT >> 20);
            return Err(Error::new(format!("use {}", show(&download.path)), cause));
        }
        let name = match prefix {
            Some(name) if files.len() == 1 => NetnsName::new(name)?,
            _ => name_of(&download.path, prefix)?,
        };
        let read = |relative: &Path, most| download.read(relative, most);
        let import = checked(name, &download.path, bytes, &read)?;
        take_room(&mut room, &import)?;
        imports.push(import);
    }
    let mut known: BTreeMap<String, &Import> = BTreeMap::new();
    for import in &imports {
        if let Some(other) = known.insert(import.name.as_str().to_ascii_lowercase(), import) {
            let cause = format!(
                "{} and {} would both be section {}",
                show(&other.source),
                show(&import.source),
                import.name
            );
            let hint = match other.source.is_file() && import.source.is_file() {
                true => "rename one of the files",
                false => "unpack the archive, and rename one of the files",
            };
            return Err(Error::new("choose names", cause).hint(hint));
        }
    }
    Ok((imports, unused))
}

/// Counts what an import keeps in memory.
fn take_room(room: &mut u64, import: &Import) -> Result<()> {
    let size: usize = import.files.values().map(Vec::len).sum();
    *room = room.checked_sub(size as u64).ok_or_else(|| {
        let cause = format!(
            "all files together have more than {} MiB",
            LARGEST_IMPORTS >> 20
        );
        Error::new(format!("import {}", show(&import.source)), cause)
    })?;
    Ok(())
}

/// How many errors of an archive are reported.
const MOST_ERRORS: usize = 5;

/// The configurations in an archive, and the files in it that none of them names.
fn of_bundle(
    path: &Path,
    bytes: &[u8],
    prefix: Option<&str>,
    room: &mut u64,
) -> Result<(Vec<Import>, Vec<String>)> {
    let bundle = Bundle::read(bytes, path)?;
    let found = bundle.configurations();
    must_have_some(path, &bundle, found.len())?;
    let mut stems: BTreeMap<_, usize> = BTreeMap::new();
    for (place, _) in &found {
        *stems.entry(place.file_stem()).or_default() += 1;
    }
    let mut used = BTreeSet::new();
    let (mut imports, mut errors) = (Vec::new(), Vec::new());
    for (place, text) in &found {
        let source = path.join(place);
        // Files of one name in several directories (udp/us.ovpn, tcp/us.ovpn) get that of theirs.
        let named = match stems[&place.file_stem()] > 1 {
            true => PathBuf::from(place.to_string_lossy().replace('/', "-")),
            false => place.to_path_buf(),
        };
        let directory = place.parent().unwrap_or(Path::new(""));
        let read = |relative: &Path, most: u64| {
            let file = bundle.file(&directory.join(relative));
            Ok(file
                .filter(|contents| contents.len() as u64 <= most)
                .map(<[u8]>::to_vec))
        };
        match name_of(&named, prefix).and_then(|name| checked(name, &source, text.to_vec(), &read))
        {
            Ok(import) => {
                take_room(room, &import)?;
                used.insert(place.to_path_buf());
                used.extend(import.files.keys().map(|file| directory.join(file)));
                imports.push(import);
            }
            Err(error) => errors.push(error),
        }
        if errors.len() == MOST_ERRORS {
            break;
        }
    }
    if let Some(error) = Error::all(errors) {
        return Err(error);
    }
    let unused = bundle.places().filter(|place| !used.contains(*place));
    let unused = unused.map(show).collect();
    Ok((imports, unused))
}

/// Checks the number of configurations in an archive.
fn must_have_some(path: &Path, bundle: &Bundle, found: usize) -> Result<()> {
    const NONE: &str = "there is no OpenVPN or WireGuard configuration in it";
    let cause = match (found, bundle.archives()) {
        (0, archives) if archives.is_empty() => NONE.to_string(),
        (0, archives) => format!(
            "{NONE}, but other archives, which have to be unpacked first: {}",
            archives.join(", ")
        ),
        (found, _) if found > MOST_FILES => {
            format!("it has more than {MOST_FILES} configurations")
        }
        _ => return Ok(()),
    };
    Err(Error::new(format!("use the archive {}", show(path)), cause))
}

/// A section's name, made of a file's: `us-nyc.prod [udp].ovpn` gives `us-nyc.prod-udp`.
fn name_of(file: &Path, prefix: Option<&str>) -> Result<NetnsName> {
    const ENDINGS: [&str; 4] = ["ovpn", "conf", "txt", "config"];
    let is_ending = file.extension().is_some_and(|extension| {
        ENDINGS
            .iter()
            .any(|ending| extension.eq_ignore_ascii_case(ending))
    });
    let stem = if is_ending {
        file.file_stem()
    } else {
        file.file_name()
    };
    let stem = stem.unwrap_or_default().to_string_lossy().into_owned();
    let is_joined = |prefix: &str| prefix.ends_with(['-', '_', '.']);
    let text = match prefix {
        Some(prefix) if is_joined(prefix) => format!("{prefix}{stem}"),
        Some(prefix) => format!("{prefix}-{stem}"),
        None => stem,
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut name = String::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        // What cannot stand in a name becomes one hyphen, with the hyphens around it.
        let run = rest.find(|c| is_plain(c) && c != '-').unwrap_or(rest.len());
        let gap = &rest[..run];
        if gap.chars().all(is_plain) {
            name.push_str(gap);
        } else {
            name.push('-');
        }
        rest = &rest[run..];
        if run == 0 {
            name.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    let name = name.trim_start_matches(['-', '.']);
    let name: String = name.chars().take(64).collect();
    NetnsName::new(name.trim_end_matches(['-', '.'])).map_err(|_| {
        let cause = "the file's name has no usable characters";
        Error::new(format!("choose a name for {}", show(file)), cause).hint("give one with -n")
    })
}

/// Reads a file beside the configuration, of so many bytes at most.
type Read<'a> = &'a dyn Fn(&Path, u64) -> Result<Option<Vec<u8>>>;

/// Checks a configuration as build does, and collects the files that it names.
fn checked(name: NetnsName, source: &Path, text: Vec<u8>, read: Read) -> Result<Import> {
    let cannot = || format!("import {}", show(source));
    let found = Companions {
        base: source.parent().unwrap_or(Path::new("/")),
        read,
        files: RefCell::default(),
        refused: RefCell::default(),
        room: Cell::new(LARGEST_COMPANIONS),
    };
    let (text, unused) = adapted(text, found.base, read);
    let companions = |path: &Path, most: u64| found.get(path, most);
    let refuse_options = || match Kind::of(&text, source) {
        Ok(Kind::OpenVpn) => {
            let profile = Profile::new(source, &text, &companions)?;
            profile.need_key_in_file()?;
            must_be_harmless(&profile)?;
            found.refuse_for_others(&profile)
        }
        _ => Ok(()),
    };
    let result = refuse_options().and_then(|()| {
        let mut checked = check::check(source, &text, &companions)?;
        checked.left_out.extend(unused);
        for path in &checked.companions {
            companions(path, LARGEST_COMPANION)?;
        }
        Ok(checked)
    });
    let refused = found.refused.into_inner();
    if !refused.is_empty() {
        let refused: Vec<String> = refused.into_iter().collect();
        return Err(Error::new(cannot(), refused.join("; ")).hint(TO_COPY));
    }
    let checked = result.map_err(|error| error.within(cannot()))?;
    let files = found.files.into_inner().into_iter();
    let files = files.filter_map(|(place, contents)| Some((place, contents?)));
    let import = Import {
        main: main_file(&name, source, checked.kind),
        source: source.to_path_buf(),
        files: files.collect(),
        name,
        checked,
    };
    complete(import, text).map_err(|error| error.within(cannot()))
}

/// What to do about files elsewhere.
const TO_COPY: &str = "copy these files into the same directory, readable by its owner, under names without a dot at the beginning, and remove the paths from their names";

/// The text as it is kept, and what is left out of it: files beside it are named without `base`, its
/// directory, and user name and password are asked for if their file does not exist. All checks see
/// this text.
fn adapted(text: Vec<u8>, base: &Path, read: Read) -> (Vec<u8>, Vec<String>) {
    if Kind::of(&text, base) != Ok(Kind::OpenVpn) {
        return (text, Vec::new());
    }
    let prefix = [base.as_os_str().as_bytes(), b"/"].concat();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let login = missing_login(&lines, base, read);
    let mut kept = Vec::with_capacity(text.len());
    for (at, line) in lines.into_iter().enumerate() {
        if login.as_ref().is_some_and(|(place, _)| *place == at) {
            kept.extend_from_slice(b"auth-user-pass\n");
            continue;
        }
        let mut rest = line;
        while let Some((first, after)) = rest.split_first() {
            kept.push(*first);
            let begins_word = first.is_ascii_whitespace() || matches!(first, b'"' | b'\'');
            rest = match after.strip_prefix(&prefix[..]) {
                Some(relative) if begins_word => relative,
                _ => after,
            };
        }
    }
    let login = login.map(|(_, name)| format!("{name} (it does not exist)"));
    (kept, login.into_iter().collect())
}

/// The line that counts of those that name a file with user name and password, and that name, if it
/// is to be beside the configuration and is not there.
fn missing_login(lines: &[&[u8]], base: &Path, read: Read) -> Option<(usize, String)> {
    let parse = |line: &[u8]| options::parse(line, |_| false).lines;
    let is_login = |line: &&[u8]| {
        let lines = parse(line);
        lines.iter().any(|line| line.option() == "auth-user-pass")
    };
    let at = lines.iter().rposition(is_login)?;
    let line = parse(lines[at]).pop()?;
    let [name] = line.arguments() else {
        return None;
    };
    let path = normal(&base.join(name));
    let found = read(path.strip_prefix(base).ok()?, LARGEST_COMPANION);
    (name != "stdin" && matches!(found, Ok(None))).then(|| (at, show(name)))
}

/// The files that a configuration names, as far as they have been asked for.
struct Companions<'a> {
    /// The directory of the configuration.
    base: &'a Path,
    read: Read<'a>,
    /// Their contents, by their places below it; `None` for one that does not exist.
    files: RefCell<BTreeMap<PathBuf, Option<Vec<u8>>>>,
    /// Why some cannot be imported.
    refused: RefCell<BTreeSet<String>>,
    /// How many bytes the others may still have.
    room: Cell<u64>,
}

impl Companions<'_> {
    /// The contents of one. One that is refused is empty, so that all of these are found.
    fn get(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
        let path = normal(path);
        let refuse = |why: String| {
            self.refused.borrow_mut().insert(why);
            Some(Vec::new())
        };
        let Ok(relative) = path.strip_prefix(self.base) else {
            let public = public(&path, most)?;
            return Ok(
                public.or_else(|| refuse(format!("{} is not in the same directory", show(&path))))
            );
        };
        if relative.components().count() > DEEPEST {
            let start: PathBuf = relative.components().take(2).collect();
            let start = show(self.base.join(start));
            return Ok(refuse(format!(
                "a path that begins with {start} has more than {DEEPEST} components"
            )));
        }
        if let Some(known) = self.files.borrow().get(relative) {
            return Ok(known.clone());
        }
        if self.files.borrow().len() >= MOST_COMPANIONS {
            let cause = format!("it names more than {MOST_COMPANIONS} files");
            return Err(Error::new("read its files", cause));
        }
        let is_hidden = |name: &OsStr| name.as_bytes().starts_with(b".");
        let found = match relative.iter().any(is_hidden) {
            // In somebody's home directory, they are the settings and the keys of other programs.
            true => refuse(format!("{} is hidden", show(&path))),
            false => (self.read)(relative, most).unwrap_or_else(|error| refuse(error.to_string())),
        };
        let size = found.as_ref().map_or(0, Vec::len) as u64;
        self.room
            .set(self.room.get().checked_sub(size).ok_or_else(|| {
                let most = LARGEST_COMPANIONS >> 20;
                let cause = format!("the files that it names have more than {most} MiB");
                Error::new("read its files", cause)
            })?);
        let place = relative.to_path_buf();
        self.files.borrow_mut().insert(place, found.clone());
        Ok(found)
    }

    /// Refuses the certificates of public authorities to options that are about others.
    fn refuse_for_others(&self, profile: &Profile) -> Result<()> {
        let others = profile.named()?.into_iter();
        let others = others.filter(|(option, path)| {
            !OF_AUTHORITIES.contains(option) && is_public(path) && !path.starts_with(self.base)
        });
        let why = |(option, path): (&str, PathBuf)| {
            format!("{} ({option}) is not in the same directory", show(path))
        };
        self.refused.borrow_mut().extend(others.map(why));
        Ok(())
    }
}

/// Adds the configuration itself, and checks that everything is found where it will be.
fn complete(mut import: Import, text: Vec<u8>) -> Result<Import> {
    let wrong = |why: String| Err(Error::new("import it", why));
    if import.checked.servers.is_empty() {
        return wrong("it names no server, so it is not a provider's configuration".to_string());
    }
    match import.files.insert(import.main.clone(), text.clone()) {
        Some(other) if other != text => {
            return wrong(format!(
                "a file that it names is also called {}",
                show(&import.main)
            ));
        }
        _ => {}
    }
    let directory = import.directory();
    let absolute = RefCell::new(BTreeSet::new());
    let kept = |path: &Path, most: u64| {
        let path = normal(path);
        match path.strip_prefix(&directory) {
            // Whatever reads it would get, and perhaps send elsewhere, what is kept there later.
            Ok(relative) if import.checked.asks_login && relative.starts_with(LOGIN) => {
                let cause = format!(
                    "it names {}, and import keeps user name and password in a file {LOGIN}: rename the other",
                    show(relative)
                );
                Err(Error::new("import it", cause))
            }
            Ok(relative) => Ok(import.files.get(relative).cloned()),
            Err(_) => {
                let public = public(&path, most)?;
                if public.is_none() {
                    absolute.borrow_mut().insert(show(&path));
                }
                Ok(public.or(Some(Vec::new())))
            }
        }
    };
    let result = check::check(&directory.join(&import.main), &text, &kept).and_then(|checked| {
        let mut companions = checked.companions.iter();
        companions.try_for_each(|path| kept(path, LARGEST_COMPANION).map(drop))
    });
    let absolute: Vec<String> = absolute.into_inner().into_iter().collect();
    if !absolute.is_empty() {
        let absolute = absolute.join(", ");
        let cause =
            format!("it names files by absolute paths, which import does not follow: {absolute}");
        return Err(Error::new("import it", cause).hint(TO_COPY));
    }
    result.map(|()| import)
}

fn is_public(path: &Path) -> bool {
    PUBLIC.iter().any(|directory| path.starts_with(directory))
}

/// A certificate of a public authority, which root keeps and everybody may read.
fn public(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let may_everybody = || {
        std::fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o004 != 0)
    };
    match is_public(path) && may_everybody() {
        true => of_root(path, most),
        false => Ok(None),
    }
}

/// Refuses what a file from the internet has no business with.
fn must_be_harmless(profile: &Profile) -> Result<()> {
    let is_directory = |option: &str| {
        let mut lines = profile.all(option);
        lines.any(|line| line.arguments().get(1).is_some_and(|word| word == "dir"))
    };
    let is_path = |word: &OsString| word.as_bytes().contains(&b'/');
    let loads = |option: &&str| {
        let mut lines = profile.all(option);
        lines.any(|line| line.is_inline() || line.arguments().iter().any(is_path))
    };
    let refused = REFUSED
        .iter()
        .find(|(option, _)| profile.value(option).is_some())
        .copied()
        .or_else(|| {
            let option = OF_OPENSSL.into_iter().find(loads)?;
            Some((option, "it loads a library by its path"))
        })
        .or_else(|| is_directory("crl-verify").then_some(("crl-verify", "it names a directory")));
    match refused {
        Some((option, why)) => Err(Error::new(
            "import it",
            format!("it contains {option}: {why}, which import does not take from a file"),
        )
        .hint("if you trust it, name it in a section that you write yourself (runns.conf(5))")),
        None => Ok(()),
    }
}

/// The configuration's own name, if a line of /etc/runns.conf.d can contain it.
fn main_file(name: &NetnsName, source: &Path, kind: Kind) -> PathBuf {
    let own = source.file_name().unwrap_or_default();
    let text = own.to_str().unwrap_or_default();
    let is_plain = !text.is_empty()
        && escape(text.as_bytes()) == text
        && text.trim() == text
        && !text.starts_with('.')
        && text != LOGIN;
    match (is_plain, kind) {
        (true, _) => PathBuf::from(own),
        (false, Kind::OpenVpn) => PathBuf::from(format!("{name}.ovpn")),
        (false, Kind::WireGuard) => PathBuf::from(format!("{name}.conf")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sections() {
        let name = |file: &str, prefix| {
            name_of(Path::new(file), prefix).map(|name| name.as_str().to_string())
        };
        for (file, wanted) in [
            ("/d/us-nyc.prod [udp].ovpn", "us-nyc.prod-udp"),
            ("a--b.conf", "a--b"),
            ("a - b.conf", "a-b"),
            ("US Los Angeles #42.OVPN", "US-Los-Angeles-42"),
            ("wg0.conf", "wg0"),
            ("v1.2", "v1.2"),
            ("Zürich.ovpn", "Z-rich"),
            ("(new) x\n.ovpn", "new-x"),
            ("..ovpn..ovpn", "ovpn"),
        ] {
            assert_eq!(name(file, None).as_deref(), Ok(wanted), "{file}");
        }
        assert_eq!(name("us.ovpn", Some("m")).as_deref(), Ok("m-us"));
        assert_eq!(name("us.ovpn", Some("m_")).as_deref(), Ok("m_us"));
        assert_eq!(name(&"x".repeat(99), None).unwrap().len(), 64);
        assert!(name("[].ovpn", None).is_err() && name("--.conf", None).is_err());
    }

    fn import(text: &str, files: &[(&str, &str)]) -> Result<Import> {
        let read = |relative: &Path, _: u64| {
            let found = files.iter().find(|(name, _)| relative == Path::new(name));
            Ok(found.map(|(_, contents)| contents.as_bytes().to_vec()))
        };
        let name = NetnsName::new("us").unwrap();
        checked(name, Path::new("/home/a/us.ovpn"), text.into(), &read)
    }

    #[test]
    fn what_is_read_has_limits() {
        for (number, size, most, part) in [
            (2000, 1, MOST_COMPANIONS, "more than 256 files"),
            (200, 1 << 20, 49, "more than 48 MiB"),
        ] {
            let reads = Cell::new(0);
            let read = |_: &Path, _: u64| {
                reads.set(reads.get() + 1);
                Ok(Some(vec![0; size]))
            };
            let lines = (0..number).map(|file| format!("http-proxy h 1 f{file}\n"));
            let text = format!("client\nremote h\n{}", lines.collect::<String>());
            let name = NetnsName::new("us").unwrap();
            let error = checked(name, Path::new("/d/us.ovpn"), text.into(), &read);
            let error = error.err().unwrap();
            assert!(error.cause().contains(part), "{error}");
            assert!(reads.get() <= most, "{reads:?}");
        }
        let mut import = import("client\nremote h\n", &[]).unwrap();
        import.files.insert("ca".into(), vec![0; 1 << 20]);
        let mut room = LARGEST_IMPORTS;
        let fit = (0..200).take_while(|_| take_room(&mut room, &import).is_ok());
        assert_eq!(fit.count(), 127);
    }

    #[test]
    fn whose_contents_are_sent_is_told() {
        let files = [("login", "a\nb\n"), ("k/proxy", "c\nd\n"), ("ca", "CA")];
        let text = "client\nremote h\nca ca\nauth-user-pass login\nsocks-proxy evil 1080 k/proxy\n\
                    http-proxy-user-pass login\nhttp-proxy h 1 auto\n";
        assert_eq!(
            import(text, &files).unwrap().checked.logins,
            [
                "/home/a/login to the VPN server",
                "/home/a/k/proxy to the proxy evil",
                "/home/a/login to the proxy"
            ]
        );
    }

    const START: &str = "client\ndev tun\nremote vpn.example 443 tcp\n";
    const FILES: [(&str, &str); 7] = [
        ("ca.crt", "CA"),
        ("k/client.key", "KEY"),
        ("more", "key k/client.key\n"),
        ("auth/ca.crt", "CA"),
        (".my.cnf", "me\nsecret\n"),
        (".ssh/id", "KEY\n"),
        ("k/.more", ""),
    ];

    /// Imports a file with these lines, and with these words in the error.
    #[track_caller]
    fn refused(lines: &str, words: &str) {
        let error = import(&format!("{START}{lines}\n"), &FILES).err().unwrap();
        assert!(error.to_string().contains(words), "{lines}: {error}");
    }

    #[test]
    fn files_come_from_beside_it() {
        let found = import(&format!("{START}ca ca.crt\nconfig more\n"), &FILES).unwrap();
        let places: Vec<String> = found.files.keys().map(show).collect();
        assert_eq!(places, ["ca.crt", "k/client.key", "more", "us.ovpn"]);
        // By absolute names, with blanks around them or in quotes.
        let found = import(
            &format!("{START}ca\t\"/home/a/ca.crt\"\nhttp-proxy h 1 /home/a/k/client.key\n"),
            &FILES,
        )
        .unwrap();
        let kept = String::from_utf8_lossy(&found.files[Path::new("us.ovpn")]).into_owned();
        let lines = "ca\t\"ca.crt\"\nhttp-proxy h 1 k/client.key\n";
        assert_eq!(kept, format!("{START}{lines}"));
        // A file with user name and password that the provider does not hand out.
        let text = format!("{START}auth-user-pass pass.txt\r\nca ca.crt\n");
        let found = import(&text, &FILES).unwrap();
        let kept = String::from_utf8_lossy(&found.files[Path::new("us.ovpn")]).into_owned();
        assert_eq!(kept, format!("{START}auth-user-pass\nca ca.crt\n"));
        assert!(found.checked.asks_login && found.files.len() == 2);
        assert_eq!(found.checked.left_out, ["pass.txt (it does not exist)"]);
    }

    #[test]
    fn files_come_from_nowhere_else() {
        for (lines, path) in [
            ("ca ../ca.crt", "/home/ca.crt"),
            ("auth-user-pass ../../etc/shadow", "/etc/shadow"),
            ("tls-auth /root/key 1", "/root/key"),
            ("config /etc/passwd", "/etc/passwd"),
            ("ca /home/a//etc/passwd", "/etc/passwd"),
            ("cd /etc\nca passwd", "/etc/passwd"),
            (
                "auth-user-pass gone\nca ca.crt\nauth-user-pass ../gone",
                "/home/gone",
            ),
            // The certificates of public authorities are for some options alone.
            (
                "auth-user-pass /etc/ssl/certs/a.pem",
                "a.pem (auth-user-pass)",
            ),
            ("key /etc/pki/tls/certs/a.pem", "a.pem (key)"),
            (
                "ca /etc/ssl/certs/a.pem\nhttp-proxy h 1 /etc/ssl/certs/a.pem",
                "a.pem (http-proxy)",
            ),
            ("ca /etc/pki/libvirt/private/key", "/key"),
        ] {
            refused(lines, &format!("{path} is not in the same directory"));
        }
        refused("cd /home/a\nca ca.crt", "absolute paths");
        refused(
            "cert gone.crt\nkey gone.key",
            "/home/a/gone.crt (cert), /home/a/gone.key (key)",
        );
        refused("auth-user-pass .my.cnf", "/home/a/.my.cnf is hidden");
        refused("socks-proxy evil 1080 .ssh/id", "/home/a/.ssh/id is hidden");
        refused("config k/.more", "/home/a/k/.more is hidden");
        let deep = "a/".repeat(32);
        refused(
            &format!("ca {deep}ca.crt"),
            "a path that begins with /home/a/a/a has",
        );
        let deep = "cd a/a/a/a\n".repeat(10);
        refused(&format!("{deep}ca ca.crt"), "has more than 32");
    }

    #[test]
    fn no_option_names_what_is_kept_later() {
        for lines in [
            "http-proxy h 1 auth basic",
            "socks-proxy h 1 ./auth",
            "http-proxy-user-pass k/../auth",
            "config auth",
        ] {
            refused(&format!("auth-user-pass\n{lines}"), "a file auth");
        }
        refused("auth-user-pass\nca auth/ca.crt", "it names auth/ca.crt");
    }

    #[test]
    fn nothing_is_run_or_loaded() {
        for (lines, words) in [
            ("\"/home/a/plugin\" /x.so", "plugin: it loads a library"),
            ("setenv opt plugin /x.so", "plugin"),
            ("tls-verify ./x", "tls-verify"),
            ("crl-verify crl dir", "crl-verify"),
            ("providers default ./p/ca.so", "providers: it loads a"),
            (
                "setenv opt engine /etc/runns/us/ca.so",
                "engine: it loads a",
            ),
            ("<engine>\n/x.so\n</engine>", "engine: it loads a"),
        ] {
            refused(lines, words);
        }
        // Those that OpenSSL brings along.
        assert!(import(&format!("{START}providers legacy default\nengine\n"), &[]).is_ok());
        let error = import("hello\n", &[]).err().unwrap();
        assert!(error.cause().contains("no server"), "{error}");
    }
}
