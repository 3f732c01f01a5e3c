//! The text of a tunnel's file, and of the files that it names: which kind it is, and who may have
//! written it.

use std::path::Path;

use runns_shared::error::{Error, Result};
use runns_shared::escape::{quote_path, show};
use runns_shared::trusted::{self, MAX_TEXT, Trust};

/// Who can bring up the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `vpn=`
    OpenVpn,
    /// `WireGuard=`
    WireGuard,
}

/// How files begin that providers hand out and that are no configurations, and what they are.
const OTHERS: [(&[u8], &str); 8] = [
    (b"Rar!", "it is a .rar archive: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "it is a .7z archive: unpack it"),
    (b"\x1f\x8b", "it is compressed (gzip, .tar.gz): unpack it"),
    (b"BZh", "it is compressed (bzip2): unpack it"),
    (b"\xfd7zXZ", "it is compressed (xz): unpack it"),
    (b"%PDF-", "it is a PDF document, not a configuration"),
    (b"{\\rtf", "it is an RTF document, not a configuration"),
    (
        b"{",
        "it is JSON, not an OpenVPN or WireGuard configuration",
    ),
];

/// The command that writes `file` in UTF-8, as `us-utf8.ovpn` in the home directory of whoever enters
/// it; `None` if a message cannot show its name. In the directory of `file`, somebody else could have
/// root write to what a link of that name leads to.
pub fn convert(from: &str, file: &Path) -> Option<String> {
    let mut name = file.file_stem()?.to_os_string();
    name.push("-utf8");
    if let Some(extension) = file.extension() {
        name.push(".");
        name.push(extension);
    }
    Some(format!(
        "iconv -f {from} -t UTF-8 {} >~/{}  # then name the copy",
        quote_path(file)?,
        quote_path(name)?
    ))
}

/// The error for a file that import can use.
fn to_import(error: Error, file: &Path) -> Error {
    match quote_path(file) {
        Some(file) => error.hint(format!("sudo runns-exec import {file}")),
        None => error,
    }
}

impl Kind {
    /// The kind of `file`, told by what is in it. An error says what it is instead.
    pub fn of(text: &[u8], file: &Path) -> Result<Self> {
        let start = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let start = start.trim_ascii_start();
        let begins = |with: &str| {
            start
                .get(..with.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
        };
        let error = |what: &str| Error::new(format!("use {}", show(file)), what);
        let wrong = |what: &str| Err(error(what));
        if start.is_empty() {
            return wrong("it is empty");
        }
        if text.starts_with(b"PK\x03\x04") {
            return Err(to_import(error("it is a .zip archive"), file));
        }
        if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
            let error = error("it is UTF-16 text, as Windows saves it");
            return Err(match convert("UTF-16", file) {
                Some(command) => error.hint(command),
                None => error,
            });
        }
        let mut others = OTHERS.iter();
        if let Some((_, what)) = others.find(|(magic, _)| start.starts_with(magic)) {
            return wrong(what);
        }
        if text.contains(&0) {
            return wrong("it is not a text file: it contains a NUL byte");
        }
        if ["<!doctype html", "<html", "<?xml", "<head"]
            .into_iter()
            .any(begins)
        {
            return wrong("it is a web page, not a configuration: did the download need a login?");
        }
        if begins("-----BEGIN ") {
            return wrong("it is a certificate or a key, not a configuration");
        }
        let is_section = |line: &[u8]| {
            [&b"[interface]"[..], b"[peer]"]
                .iter()
                .any(|section| line.trim_ascii().eq_ignore_ascii_case(section))
        };
        Ok(if start.split(|byte| *byte == b'\n').any(is_section) {
            Self::WireGuard
        } else {
            Self::OpenVpn
        })
    }

    /// The option of a section that names such a file, and what it is called.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::OpenVpn => ("vpn", "an OpenVPN configuration"),
            Self::WireGuard => ("WireGuard", "a WireGuard configuration"),
        }
    }
}

/// Reads a file that a tunnel's file names, by its path, if it has at most so many bytes; `None` if
/// it is not there.
pub type Companions<'a> = &'a dyn Fn(&Path, u64) -> Result<Option<Vec<u8>>>;

/// Reads a tunnel's file, which must be root's, as must the files that it names: what is in it runs
/// as root, or goes to the server.
pub fn read(file: &Path, wanted: Kind) -> Result<Vec<u8>> {
    // One that is only not root's alone can be imported.
    let foreign = |error: Error| match trusted::open_named(file) {
        Ok(_) => to_import(error, file),
        Err(_) => error,
    };
    let text = of_root(file, MAX_TEXT).map_err(foreign)?.ok_or_else(|| {
        Error::new(
            format!("open {}", show(file)),
            "there is no such file or directory",
        )
    })?;
    let found = Kind::of(&text, file)?;
    if found != wanted {
        let ((option, what), (instead, _)) = (found.words(), wanted.words());
        return Err(
            Error::new(format!("use {}", show(file)), format!("it is {what}"))
                .hint(format!("write {option}= in place of {instead}=")),
        );
    }
    Ok(text)
}

/// A file of root's.
pub fn of_root(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    trusted::open_if_there(path, Trust::Strict)?
        .map(|(file, _)| trusted::contents(file, path, most))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> Result<Kind> {
        Kind::of(text, Path::new("/d/us.ovpn"))
    }

    #[test]
    fn a_copy_in_utf_8_is_not_beside_the_original() {
        let command = |file: &str| convert("UTF-16", Path::new(file));
        assert_eq!(
            command("/srv/in/us.ovpn").as_deref(),
            Some("iconv -f UTF-16 -t UTF-8 /srv/in/us.ovpn >~/us-utf8.ovpn  # then name the copy")
        );
        let quoted = command("/srv/in/us [udp]").unwrap();
        assert!(quoted.contains(" >~/'us [udp]-utf8'  #"), "{quoted}");
        assert_eq!(command("/srv/in\n/us.ovpn"), None);
    }

    #[test]
    fn kinds_are_told_by_what_is_in_them() {
        for text in ["client\n", "\u{feff}# Prov\r\nremote a\r\n", "<ca>\n"] {
            assert_eq!(of(text.as_bytes()), Ok(Kind::OpenVpn), "{text}");
        }
        for text in ["[Interface]\n", "\u{feff}#x\r\n\r\n [peer] \r\n"] {
            assert_eq!(of(text.as_bytes()), Ok(Kind::WireGuard), "{text}");
        }
        for (text, what) in [
            (&b" \r\n"[..], "empty"),
            (b"PK\x03\x04abc\0", ".zip"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"\xff\xfec\0l\0", "UTF-16"),
            (b"-----BEGIN CERTIFICATE-----\n", "certificate"),
            (b"\x7fELF\0", "NUL"),
            (b"Rar!\x1a\x07\0", ".rar archive"),
            (b"7z\xbc\xaf\x27\x1c\0", ".7z archive"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"%PDF-1.7\n", "PDF"),
            (b"{\n\"remote\": \"a\"}", "JSON"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.cause().contains(what), "{error}");
        }
    }
}
