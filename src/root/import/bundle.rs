//! A .zip archive of tunnels' files, read into memory. Nothing is unpacked into the file system.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::read::ZipFile;

use crate::tunnel::options;
use crate::tunnel::source::Kind;
use runns_shared::error::{Error, Result};
use runns_shared::escape::{escape, show};
use runns_shared::trusted::MAX_TEXT;

/// The bytes of an archive.
pub const LARGEST: u64 = 32 << 20;
/// The entries of an archive, directories included.
const MOST_ENTRIES: usize = 20_000;
/// The bytes of all its files.
const LARGEST_UNPACKED: u64 = 64 << 20;
/// How many times larger than packed a file of more than [`MAX_TEXT`] may be. Text shrinks to a
/// tenth, perhaps.
const LARGEST_RATIO: u64 = 100;
/// The start of an entry in the archive's directory.
const SIGNATURE: &[u8] = b"PK\x01\x02";
/// The starts of the records at the end of that directory (of ZIP64, too). An archive has one, and so
/// has each archive that is stored in it.
const ENDS: [&[u8]; 2] = [b"PK\x05\x06", b"PK\x06\x06"];
/// How many of each there may be: for each that it does not believe, the reader starts anew.
const MOST_ENDS: usize = 64;

/// Whether `bytes` are such an archive: it starts with an entry, or is empty.
pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

/// The files in an archive, by their paths in it.
pub struct Bundle {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Bundle {
    /// Reads an archive; `path` is for messages.
    pub fn read(bytes: &[u8], path: &Path) -> Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| {
            Error::new(format!("use the archive {}", show(path)), why)
        };
        let has_more = |most: usize, signature: &[u8]| {
            let mut windows = bytes.windows(signature.len());
            windows
                .by_ref()
                .filter(|start| *start == signature)
                .nth(most)
                .is_some()
        };
        // The reader would make room for all of them.
        if has_more(MOST_ENTRIES, SIGNATURE) {
            return Err(wrong(&format!("it has more than {MOST_ENTRIES} entries")));
        }
        if ENDS.iter().any(|end| has_more(MOST_ENDS, end)) {
            return Err(wrong(&"its end is there many times"));
        }
        let mut archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|error| wrong(&escape(error.to_string().as_bytes())))?;
        let (mut files, mut known) = (BTreeMap::new(), BTreeMap::new());
        let mut room = LARGEST_UNPACKED;
        // Entries that share their contents could have them read any number of times.
        let mut packed = bytes.len() as u64;
        for index in 0..archive.len() {
            let mut entry = archive
                .by_index(index)
                .map_err(|error| wrong(&escape(error.to_string().as_bytes())))?;
            let shown = escape(entry.name().as_bytes());
            let wrong = |why: &str| wrong(&format!("{shown}: {why}"));
            let unpack_it = |why| wrong(why).hint("unpack it, and import the files from there");
            let place = place(entry.name()).map_err(unpack_it)?;
            if entry.is_dir() || is_clutter(&place) {
                continue;
            }
            packed = packed
                .checked_sub(entry.compressed_size())
                .ok_or_else(|| wrong("it overlaps with other entries"))?;
            let folded = place.to_string_lossy().to_lowercase();
            if known.insert(folded, ()).is_some() {
                return Err(wrong("another entry has the same name in a different case"));
            }
            files.insert(place, unpack(&mut entry, &mut room).map_err(wrong)?);
        }
        Ok(Self { files })
    }

    /// The configurations in it.
    pub fn configurations(&self) -> Vec<(&Path, &[u8])> {
        self.files
            .iter()
            .filter(|(_, text)| is_configuration(text))
            .map(|(place, text)| (place.as_path(), text.as_slice()))
            .collect()
    }

    /// The file at this place.
    pub fn file(&self, place: &Path) -> Option<&[u8]> {
        self.files.get(place).map(Vec::as_slice)
    }

    /// The archives in it.
    pub fn archives(&self) -> Vec<String> {
        let files = self.files.iter();
        let archives = files.filter(|(_, contents)| is_archive(contents));
        archives.map(|(place, _)| show(place)).collect()
    }

    /// The places of all files.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }
}

/// An entry's name as a path below the archive, or what is wrong with it.
fn place(name: &str) -> Result<PathBuf, &'static str> {
    if name.contains('\\') || name.chars().any(char::is_control) {
        return Err("its name contains a backslash or a control character");
    }
    let relative = name.strip_suffix('/').unwrap_or(name);
    if relative
        .split('/')
        .any(|word| matches!(word, "" | "." | "..") || word.len() > 255)
    {
        return Err("its name is empty or points outside the archive");
    }
    Ok(PathBuf::from(relative))
}

/// What programs that make archives add to them, and hidden files.
fn is_clutter(place: &Path) -> bool {
    place
        .iter()
        .filter_map(|word| word.to_str())
        .any(|word| word.starts_with('.') || word == "__MACOSX")
}

/// An entry's contents, of which no more than `room` is read, whatever size it claims to have.
fn unpack(entry: &mut ZipFile<Cursor<&[u8]>>, room: &mut u64) -> Result<Vec<u8>, &'static str> {
    const REGULAR: u32 = 0o100_000;
    let kind = entry.unix_mode().unwrap_or(0) & 0o170_000;
    if kind != 0 && kind != REGULAR {
        return Err("it is a symbolic link or another special file");
    }
    let mut contents = Vec::new();
    entry
        .take(*room + 1)
        .read_to_end(&mut contents)
        .map_err(|_| "it cannot be unpacked: the archive is damaged")?;
    let size = contents.len() as u64;
    let packed = entry.compressed_size().max(1);
    *room = room
        .checked_sub(size)
        .filter(|_| size <= MAX_TEXT || size / packed <= LARGEST_RATIO)
        .ok_or("it is too large when unpacked")?;
    Ok(contents)
}

/// Whether a file in an archive is a configuration of its own, and not a readme or a certificate.
fn is_configuration(text: &[u8]) -> bool {
    if text.len() as u64 > MAX_TEXT {
        return false;
    }
    match Kind::of(text, Path::new("")) {
        Ok(Kind::WireGuard) => true,
        Ok(Kind::OpenVpn) => {
            let lines = options::parse(text, |_| false).lines;
            ["remote", "dev"]
                .iter()
                .all(|option| lines.iter().any(|line| line.option() == *option))
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for good in ["a.ovpn", "dir/a b [c].ovpn", "dir/"] {
            assert!(place(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "/etc/x",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a\\b",
            "..\\x",
            "a\nb",
            "a\0",
            "C:\\x",
            "a/..",
        ] {
            assert!(place(bad).is_err(), "{bad:?}");
        }
        assert!(is_clutter(Path::new("__MACOSX/._a.ovpn")) && is_clutter(Path::new("a/.git/b")));
    }

    #[test]
    fn an_archive_ends_once() {
        for end in ENDS {
            // Each is the end of an empty archive.
            let last = [ENDS[0], &[0; 18]].concat();
            let bytes = [&[end, &[0; 18]].concat().repeat(MOST_ENDS + 1)[..], &last].concat();
            let error = Bundle::read(&bytes, Path::new("/d/a.zip")).err().unwrap();
            assert!(error.cause().contains("many times"), "{error}");
        }
        let nested = [ENDS[0], &[0; 18]].concat().repeat(8);
        assert!(Bundle::read(&nested, Path::new("/d/a.zip")).is_ok());
    }

    #[test]
    fn configurations_are_told_by_what_is_in_them() {
        for (text, wanted) in [
            ("client\ndev tun\nremote a 1194\n", true),
            ("dev tun\n<connection>\nremote a\n</connection>\n", true),
            ("[Interface]\nPrivateKey = x\n", true),
            ("Dear customer,\nremote servers are listed below.\n", false),
            ("user\npassword\n", false),
            ("-----BEGIN CERTIFICATE-----\n", false),
        ] {
            assert_eq!(is_configuration(text.as_bytes()), wanted, "{text}");
        }
    }
}
