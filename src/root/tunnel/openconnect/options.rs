//! openconnect's configuration file (openconnect(8), `--config`), as far as it has to be known what
//! is in it: which options are left out, and which files they name.

use std::ffi::{CString, OsStr};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::PROGRAM;
use crate::confine::view::{Copy, normal};
use crate::kernel::file::of_option;
use crate::kernel::tool;
use crate::tunnel::source::of_root;
use runns_shared::config::is_domain;
use runns_shared::error::{Error, Result};
use runns_shared::escape::{escape, quote, quote_path, show};
use runns_shared::request::OpenConnect;
use runns_shared::trusted::MAX_TEXT;

/// Options that are left out: those that execute programs, those about the process and its device,
/// which the daemon cannot choose, and those that change what it prints, which its keeper reads.
const LEFT_OUT: [&str; 26] = [
    "authenticate",
    "background",
    "config",
    "cookie",
    "cookie-on-stdin",
    "cookieonly",
    "csd-user",
    "csd-wrapper",
    "dump-http-traffic",
    "external-browser",
    "help",
    "interface",
    "non-inter",
    "passwd-on-stdin",
    "pid-file",
    "printcookie",
    "quiet",
    "script",
    "script-tun",
    "server",
    "setuid",
    "syslog",
    "timestamp",
    "force-trojan",
    "version",
    "xmlconfig",
];
/// Options that name a file.
const FILES: [&str; 6] = [
    "cafile",
    "certificate",
    "mca-certificate",
    "mca-key",
    "sslkey",
    "token-secret",
];
/// Bytes of a file that an option names.
const LARGEST: u64 = 1 << 20;

/// A server and the options for it.
#[derive(Debug)]
pub struct Options {
    /// The server, as openconnect takes it.
    pub server: String,
    /// The file that they are in.
    pub file: Option<PathBuf>,
    /// The file with the password.
    pub password: Option<PathBuf>,
    lines: Vec<Line>,
    /// The options of the file that are not used.
    pub left_out: Vec<String>,
}

/// An option, and its value if it has one.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    name: String,
    value: Vec<u8>,
}

impl Options {
    /// Reads the file, which must be root's: what is in it decides what is trusted.
    pub fn read(one: &OpenConnect) -> Result<Self> {
        let text = match &one.options {
            Some(file) => {
                let text = needed(file, MAX_TEXT);
                let wrong = |error| of_option("OpenConnectOptions", file, 600, &error);
                Some(text.map_err(wrong)?)
            }
            None => None,
        };
        let mut options = Self {
            server: one.server.clone(),
            file: one.options.clone(),
            password: one.password.clone(),
            lines: Vec::new(),
            left_out: Vec::new(),
        };
        options.parse(&text.unwrap_or_default())?;
        Ok(options)
    }

    fn parse(&mut self, text: &[u8]) -> Result<()> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        if text.contains(&0) {
            let file = self.file.as_deref().unwrap_or(Path::new(""));
            let cause = "it is not a text file: it contains a NUL byte";
            return Err(Error::new(format!("use {}", show(file)), cause));
        }
        for line in text.split(|byte| *byte == b'\n').filter_map(parse_line) {
            if !LEFT_OUT.contains(&line.name.as_str()) {
                self.lines.push(line);
            } else if !self.left_out.contains(&line.name) {
                self.left_out.push(line.name);
            }
        }
        Ok(())
    }

    /// The last value of an option.
    pub fn value(&self, name: &str) -> Option<String> {
        let line = self.lines.iter().rfind(|line| line.name == name)?;
        Some(String::from_utf8_lossy(&line.value).into_owned())
    }

    /// The file's text for openconnect.
    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for line in &self.lines {
            text.extend_from_slice(line.name.as_bytes());
            if !line.value.is_empty() {
                text.push(b'=');
                text.extend_from_slice(&line.value);
            }
            text.push(b'\n');
        }
        text
    }

    /// The directory to which names in the file are relative.
    pub fn directory(&self) -> &Path {
        let parent = self.file.as_deref().and_then(Path::parent);
        parent.unwrap_or(Path::new("/"))
    }

    /// The files that the options name. What a token provider has is none (`pkcs11:`, `tpmkey:`).
    fn files(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.lines.iter().filter_map(|line| {
            let value = match line.name.as_str() {
                "token-secret" => line.value.strip_prefix(b"@")?,
                name if FILES.contains(&name) => &line.value,
                _ => return None,
            };
            let is_token = value.split(|byte| *byte == b'/').next()?.contains(&b':');
            let path = self.directory().join(OsStr::from_bytes(value));
            (!is_token && !value.is_empty()).then_some((line.name.as_str(), path))
        })
    }

    /// Copies of the options, without those that are left out, and of the files that they name, which
    /// must be root's.
    pub fn copies(&self) -> Result<Vec<Copy>> {
        let copy = |at: &Path, contents| Copy {
            at: normal(at),
            contents,
            executable: false,
            original: None,
        };
        let mut copies = Vec::new();
        let Some(file) = &self.file else {
            return Ok(copies);
        };
        copies.push(copy(file, self.text()));
        for (option, path) in self.files() {
            let at = normal(&path);
            if copies.iter().any(|copy| copy.at == at) {
                continue;
            }
            let contents = needed(&path, LARGEST).map_err(|error| {
                let what = format!("use {} ({option} in {})", show(&path), show(file));
                error.within(what)
            })?;
            copies.push(copy(&path, contents));
        }
        Ok(copies)
    }

    /// The password of OpenConnectPassword: the first line of the file.
    pub fn read_password(&self) -> Result<Option<String>> {
        let Some(file) = &self.password else {
            return Ok(None);
        };
        let text = secret(file);
        let text = text.map_err(|error| of_option("OpenConnectPassword", file, 600, &error))?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Ok(line) if !line.is_empty() && !line.contains(char::is_control) => {
                Ok(Some(line.to_string()))
            }
            _ => Err(Error::new(
                format!("use {}", show(file)),
                "its first line is not a password: it is empty, contains control characters, or is not UTF-8",
            )),
        }
    }

    /// The host names of the server and the proxy.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for host in self.hosts() {
            if host.parse::<IpAddr>().is_err() && is_domain(&host) && !names.contains(&host) {
                names.push(host);
            }
        }
        names
    }

    fn hosts(&self) -> Vec<String> {
        let proxy = self.value("proxy");
        let all = [Some(&self.server), proxy.as_ref()];
        all.into_iter().flatten().map(|url| host_of(url)).collect()
    }

    /// Whether the server, or the proxy, is where a veth pair with IPv4 does not lead. `addresses_of`
    /// knows the addresses of names.
    pub fn is_beyond_veth(&self, addresses_of: &dyn Fn(&str) -> Vec<IpAddr>) -> bool {
        let Some(host) = self.hosts().pop() else {
            return false;
        };
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => addresses_of(&host),
        };
        let beyond = |address: &IpAddr| address.is_ipv6() || address.is_loopback();
        !addresses.is_empty() && addresses.iter().all(beyond)
    }

    /// The beginning of a command line: the program and the file.
    pub fn words(&self) -> Result<Vec<CString>> {
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let program = tool::need(PROGRAM, "openconnect")?;
        let mut words = vec![text(program.as_os_str().as_bytes())];
        if let Some(file) = &self.file {
            words.extend([text(b"--config"), text(normal(file).as_os_str().as_bytes())]);
        }
        Ok(words)
    }

    /// How to add a line to the file, and when, for a hint.
    pub fn advise(&self, line: &str, when: &str) -> String {
        match self.file.as_deref().and_then(quote_path) {
            Some(file) => format!("echo {} | sudo tee -a {file}  # {when}", quote(line)),
            None => format!("{when}, write {line} to a file, and name that in OpenConnectOptions="),
        }
    }
}

/// The host of a server or a proxy: `HOST`, `[HOST]:PORT`, `https://USER@HOST:PORT/PATH`.
fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?']).next().unwrap_or_default();
    let rest = rest.rsplit('@').next().unwrap_or_default();
    let host = match rest.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or_default(),
        None if rest.matches(':').count() > 1 => rest,
        None => rest.split(':').next().unwrap_or_default(),
    };
    host.to_string()
}

/// A line as openconnect reads it (next_option in main.c of its sources): the option's name, then
/// its value behind blanks or `=`.
fn parse_line(line: &[u8]) -> Option<Line> {
    // A blank for isspace(3), though not for Rust.
    let line: Vec<u8> = line
        .iter()
        .map(|byte| if *byte == 0x0b { b' ' } else { *byte })
        .collect();
    let line = line.trim_ascii();
    if line.is_empty() || line[0] == b'#' {
        return None;
    }
    let ends = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'=';
    let end = line.iter().position(ends).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(b"=").unwrap_or(rest);
    Some(Line {
        name: String::from_utf8_lossy(name).into_owned(),
        value: rest.trim_ascii_start().to_vec(),
    })
}

/// A file of root's that must be there.
fn needed(file: &Path, most: u64) -> Result<Vec<u8>> {
    of_root(file, most)?.ok_or_else(|| {
        Error::new(
            format!("open {}", show(file)),
            "there is no such file or directory",
        )
    })
}

/// A file of root's that nobody else can read.
fn secret(file: &Path) -> Result<Vec<u8>> {
    use std::os::unix::fs::PermissionsExt;
    let text = needed(file, MAX_TEXT)?;
    let mode = std::fs::metadata(file).map(|data| data.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        let error = Error::new(format!("use {}", show(file)), "other users can read it");
        return Err(match quote_path(file) {
            Some(path) => error.hint(format!("sudo chmod 600 {path}")),
            None => error,
        });
    }
    Ok(text)
}

/// Shows words of the server's.
pub fn shown(words: &str) -> String {
    let words: Vec<&str> = words.split_whitespace().collect();
    let words: String = words.join(" ").chars().take(SHOWN).collect();
    escape(words.as_bytes())
}

/// How many characters of a server's words are shown.
const SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        let mut options = Options {
            server: "vpn.example.org".to_string(),
            file: Some("/etc/openconnect/work.conf".into()),
            password: None,
            lines: Vec::new(),
            left_out: Vec::new(),
        };
        options.parse(text.as_bytes()).unwrap();
        options
    }

    #[test]
    fn lines_are_read_as_openconnect_reads_them() {
        let options = options(
            "# comment\r\n  user = alice\nauthgroup staff\nscript\x0b/bin/x\nno-dtls\n script-tun\ncafile=ca.pem\n\
             certificate=pkcs11:model=x\ntoken-secret=@otp\n",
        );
        assert_eq!(options.value("user").as_deref(), Some("alice"));
        assert_eq!(options.left_out, ["script", "script-tun"]);
        let files: Vec<_> = options.files().map(|(_, path)| path).collect();
        assert_eq!(
            files,
            [
                PathBuf::from("/etc/openconnect/ca.pem"),
                PathBuf::from("/etc/openconnect/otp")
            ]
        );
        let text = String::from_utf8(options.text()).unwrap();
        assert!(
            text.starts_with("user=alice\nauthgroup=staff\nno-dtls\ncafile"),
            "{text}"
        );
    }

    #[test]
    fn hosts_of_servers() {
        for (url, host) in [
            ("vpn.example.org", "vpn.example.org"),
            ("https://vpn.example.org:8443/group?x", "vpn.example.org"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("socks5://me:pw@proxy:1080", "proxy"),
        ] {
            assert_eq!(host_of(url), host);
        }
    }
}
