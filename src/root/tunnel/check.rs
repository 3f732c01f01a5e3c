//! Tunnels' files as providers hand them out: which kind a file is, what is in it, and what stands
//! in the way of using it, as far as that can be told without connecting.

use std::path::{Path, PathBuf};

use super::profile::{Profile, SCRIPTS, WRITERS};
use super::wgquick;
use runns_shared::error::{Error, Result};
use runns_shared::escape::{escape, quote_path, show};
use runns_shared::trusted::{self, MAX_TEXT, Trust};

/// Who can bring up the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `vpn=`
    OpenVpn,
    /// `WireGuard=`
    WireGuard,
}

impl Kind {
    /// The kind of a file, told by what is in it. An error says what it is instead.
    pub fn of(text: &[u8]) -> Result<Self> {
        let start = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let start = start.trim_ascii_start();
        let begins = |with: &str| {
            start
                .get(..with.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
        };
        let wrong = |what: &str| Err(Error::new("use it", what));
        if start.is_empty() {
            return wrong("it is empty");
        }
        if text.starts_with(b"PK\x03\x04") {
            return wrong("it is a .zip archive");
        }
        if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
            return Err(
                Error::new("use it", "it is UTF-16 text, as Windows saves it")
                    .hint("iconv -f UTF-16 -t UTF-8 FILE >NEW_FILE"),
            );
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

/// What is in a file that can be used.
#[derive(Debug)]
pub struct Checked {
    /// Its kind.
    pub kind: Kind,
    /// The servers that it names, as HOST:PORT, for OpenVPN as HOST:PORT/PROTOCOL.
    pub servers: Vec<String>,
    /// The files that it names, those that it includes among them, by their paths.
    pub companions: Vec<PathBuf>,
    /// Whether somebody has to type a user name and a password.
    pub asks_login: bool,
    /// What of it is not used, and why.
    pub left_out: Vec<String>,
}

/// Checks a tunnel's file, whatever its kind, with the files that it names. `file` is where it is,
/// or will be: names in it are relative to that directory.
pub fn check(file: &Path, text: &[u8], companions: Companions) -> Result<Checked> {
    let unusable = |error: Error| error.within(format!("use {}", show(file)));
    match Kind::of(text).map_err(unusable)? {
        Kind::OpenVpn => {
            let profile = Profile::new(file, text, companions)?;
            profile.need_companions(companions)?;
            Ok(Checked {
                kind: Kind::OpenVpn,
                servers: profile.servers(),
                companions: profile.companions()?,
                asks_login: profile.asks_login(),
                left_out: left_out(&profile),
            })
        }
        Kind::WireGuard => {
            let config = wgquick::parse(&String::from_utf8_lossy(text)).map_err(unusable)?;
            let left_out = (!config.left_out.is_empty()).then(|| config.left_out.join(", "));
            Ok(Checked {
                kind: Kind::WireGuard,
                servers: config.endpoints,
                companions: Vec::new(),
                asks_login: false,
                left_out: left_out.into_iter().collect(),
            })
        }
    }
}

/// What is left out of OpenVPN's configuration.
fn left_out(profile: &Profile) -> Vec<String> {
    let reasons = [
        (
            profile.which(&SCRIPTS),
            "these scripts would change the host's own resolver",
        ),
        (
            profile.which(&WRITERS),
            "the daemon can write no files; it logs to the system log",
        ),
    ];
    let left_out = reasons
        .into_iter()
        .filter(|(options, _)| !options.is_empty());
    left_out
        .map(|(options, why)| format!("{} ({why})", options.join(", ")))
        .collect()
}

/// [`check`] for a file of root's that a section names.
pub fn check_named(file: &Path, wanted: Kind) -> Result<Checked> {
    check(file, &read(file, wanted)?, &of_root)
}

/// Reads a tunnel's file, which must be root's, as must the files that it names: what is in it runs
/// as root, or goes to the server.
pub fn read(file: &Path, wanted: Kind) -> Result<Vec<u8>> {
    let import = |error: Error| match quote_path(file) {
        Some(file) => error.hint(format!("sudo runns-exec import {file}")),
        None => error,
    };
    let text = of_root(file, MAX_TEXT).map_err(import)?.ok_or_else(|| {
        Error::new(
            format!("open {}", show(file)),
            "there is no such file or directory",
        )
    })?;
    let cannot = || format!("use {}", show(file));
    let found = Kind::of(&text).map_err(|error| import(error.within(cannot())))?;
    if found != wanted {
        let ((option, what), (instead, _)) = (found.words(), wanted.words());
        return Err(Error::new(cannot(), format!("it is {what}"))
            .hint(format!("write {option}= in place of {instead}=")));
    }
    Ok(text)
}

/// A file of root's.
pub fn of_root(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    trusted::open_if_there(path, Trust::Strict)?
        .map(|(file, _)| trusted::contents(file, path, most))
        .transpose()
}

/// Names for a message, with the option that names each.
pub fn list(names: &[(String, PathBuf)]) -> String {
    let words: Vec<String> = names
        .iter()
        .map(|(option, path)| format!("{} ({})", show(path), escape(option.as_bytes())))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_what_is_in_them() {
        for text in ["client\n", "\u{feff}# Prov\r\nremote a\r\n", "<ca>\n"] {
            assert_eq!(Kind::of(text.as_bytes()), Ok(Kind::OpenVpn), "{text}");
        }
        for text in ["[Interface]\n", "\u{feff}#x\r\n\r\n [peer] \r\n"] {
            assert_eq!(Kind::of(text.as_bytes()), Ok(Kind::WireGuard), "{text}");
        }
        for (text, what) in [
            (&b" \r\n"[..], "empty"),
            (b"PK\x03\x04abc\0", ".zip"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"\xff\xfec\0l\0", "UTF-16"),
            (b"-----BEGIN CERTIFICATE-----\n", "certificate"),
            (b"\x7fELF\0", "NUL"),
        ] {
            let error = Kind::of(text).unwrap_err();
            assert!(error.cause().contains(what), "{error}");
        }
    }

    #[test]
    fn companions_come_from_wherever_they_are_kept() {
        let text =
            b"client\nremote vpn.example 443 tcp\nremote b.example\nport 1195\nca keys/ca.crt\n\
                     auth-user-pass\nconfig more\nup x\n";
        let there = |path: &Path, _: u64| {
            Ok(match path.to_str() {
                Some("/d/more") => Some(b"cert c.crt\nkey gone.key\ntls-auth gone.ta\n".to_vec()),
                Some("/d/keys/ca.crt" | "/d/c.crt") => Some(Vec::new()),
                _ => None,
            })
        };
        let error = check(Path::new("/d/a.ovpn"), text, &there).unwrap_err();
        let cause = error.cause();
        assert!(
            cause.contains("/d/gone.key (key), /d/gone.ta (tls-auth)"),
            "{error}"
        );
        let all = |path: &Path, most: u64| Ok(there(path, most)?.or(Some(Vec::new())));
        let checked = check(Path::new("/d/a.ovpn"), text, &all).unwrap();
        assert_eq!(
            checked.servers,
            ["vpn.example:443/tcp", "b.example:1195/udp"]
        );
        let names = ["more", "keys/ca.crt", "c.crt", "gone.key", "gone.ta"];
        let mut wanted: Vec<PathBuf> = names.map(|name| Path::new("/d").join(name)).into();
        wanted.sort();
        let mut companions = checked.companions;
        companions.sort();
        assert_eq!(companions, wanted);
        assert!(checked.asks_login && checked.left_out[0].starts_with("up ("));
    }
}
