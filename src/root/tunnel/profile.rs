//! OpenVPN's configuration files, as far as build has to know what is in them: which options it
//! leaves out, and which files they name.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::dir::{Dir, Entry};

use super::credentials::Credentials;
use super::options::{Line, parse, words};
use super::source::{Companions, Kind, of_root, read};
use super::{IMPORTED, LOGIN};
use crate::confine::view::{Copy, normal};
use crate::kernel::file::copy_command;
use runns_shared::config::is_domain;
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::{escape, quote_path, show};
use runns_shared::trusted::{self, MAX_TEXT, Trust};

/// OpenVPN's program.
pub const PROGRAM: &str = "openvpn";

/// Options that run scripts on events that we handle ourselves.
pub const SCRIPTS: [&str; 6] = [
    "up",
    "down",
    "route-up",
    "route-pre-down",
    "ipchange",
    "iproute",
];
/// Options that write files. The daemon can write none, and logs to the system log.
pub const WRITERS: [&str; 6] = [
    "log",
    "log-append",
    "memstats",
    "status",
    "writepid",
    "replay-persist",
];
/// Options about the daemon's process, user and devices, and who controls it, which it cannot choose.
pub const OURS: [&str; 12] = [
    "user",
    "group",
    "chroot",
    "daemon",
    "dev-node",
    "tmp-dir",
    "setcon",
    "management",
    "management-client",
    "management-client-user",
    "management-client-group",
    "management-forget-disconnect",
];
/// Options that name a file, and which of their arguments it is (add_option in options.c of
/// OpenVPN's sources).
const FILES: [(&str, usize); 17] = [
    ("askpass", 0),
    ("auth-gen-token-secret", 0),
    ("auth-user-pass", 0),
    ("ca", 0),
    ("cert", 0),
    ("crl-verify", 0),
    ("dh", 0),
    ("extra-certs", 0),
    ("http-proxy", 2),
    ("http-proxy-user-pass", 0),
    ("key", 0),
    ("pkcs12", 0),
    ("secret", 0),
    ("socks-proxy", 2),
    ("tls-auth", 0),
    ("tls-crypt", 0),
    ("tls-crypt-v2", 0),
];
/// Those of them without whose file OpenVPN does not start (options_postprocess_filechecks in
/// options.c). Only the last line with such an option counts.
const NEEDED: [&str; 12] = [
    "askpass",
    "auth-user-pass",
    "ca",
    "cert",
    "crl-verify",
    "extra-certs",
    "key",
    "pkcs12",
    "secret",
    "tls-auth",
    "tls-crypt",
    "tls-crypt-v2",
];
/// Options of OpenVPN for Windows, which it does not know elsewhere.
const OF_WINDOWS: [&str; 16] = [
    "block-outside-dns",
    "cryptoapicert",
    "dhcp-pre-release",
    "dhcp-release",
    "dhcp-renew",
    "ip-win32",
    "pause-exit",
    "rdns-internal-only",
    "register-dns",
    "service",
    "show-net-up",
    "tap-sleep",
    "win-sys",
    "windows-driver",
    "allow-nonadmin",
    "dhcp-internal",
];
/// Options that OpenVPN no longer knows, and that change nothing with a server of today
/// (doc/man-sections/unsupported-options.rst of OpenVPN's sources). Others that are listed there are
/// still known, and are left to it.
const OF_THE_PAST: [&str; 7] = [
    "client-cert-not-required",
    "ifconfig-pool-linear",
    "inetd",
    "key-method",
    "keysize",
    "ncp-disable",
    "no-iv",
];
/// One that checks who the server is, and so is replaced, never removed.
const TLS_REMOTE: &str = "tls-remote";
/// The commands for sed that replace it: a name like /C=NL/CN=x is compared as a whole, others with the
/// common name (openvpn(8), verify-x509-name).
const REPLACE_TLS_REMOTE: [&str; 3] = [
    r#"s@^\s*(--)?tls-remote\s+("/([^"]*)"|/(\S+)).*@verify-x509-name "\3\4"@"#,
    r#"/^verify-x509-name "\w+=/s@/(\w+=)@, \1@g"#,
    r#"s@^\s*(--)?tls-remote\s+("[^"]*"|\S+).*@verify-x509-name \2 name@"#,
];
/// Options with which another program signs for OpenVPN: that of a smart card or another token, or one
/// that listens to OpenVPN's questions (NEED-OK, NEED-STR, PK_SIGN in management-notes.txt).
const OF_SIGNERS: [&str; 4] = [
    "pkcs11-id",
    "pkcs11-id-management",
    "management-external-key",
    "management-external-cert",
];
/// What can stand in the place of a file's name and is none.
const NO_FILES: [&str; 5] = ["", "stdin", "none", "auto", "auto-nct"];
/// How deep files may include each other; OpenVPN has the same limit (read_config_file).
const DEEPEST: usize = 10;
/// How many files may be included in all. Each of ten could include ten others.
const MOST_INCLUDED: usize = 64;
/// The bytes of all of them.
const LONGEST: usize = 4 << 20;
/// The bytes of a file that is copied; lists of revoked certificates are the largest there are.
const LARGEST: u64 = 16 << 20;
/// How many files are copied at most.
const MOST_COPIED: usize = 4096;
/// The bytes of all of them. They are in memory twice: here, and in the daemon's view.
const LARGEST_COPIED: usize = 48 << 20;
/// The bytes of the working directory's path, with the NUL byte that ends it (PATH_MAX in limits.h).
const LONGEST_DIRECTORY: usize = 4096;

/// A configuration, with the files that it includes.
#[derive(Debug, Default)]
pub struct Profile {
    file: PathBuf,
    /// The daemon's working directory when it has read all of it (`cd`).
    directory: PathBuf,
    lines: Vec<Line>,
    /// The paths of the configuration files, with their text as the daemon reads it, as often as
    /// they are included.
    texts: Vec<(PathBuf, Vec<u8>)>,
}

/// Makes the copy of a file, from its path and the place of the copy; `None` if it is not there.
type CopyOf<'a> = &'a dyn Fn(&Path, PathBuf) -> Result<Option<Copy>>;

/// A file that an option names.
struct Named<'a> {
    by: &'a Line,
    path: PathBuf,
}

impl Profile {
    /// Reads a configuration. It, and what it includes, must belong to root and not be writable by
    /// others.
    pub fn read(file: &Path) -> Result<Self> {
        let text = read(file, Kind::OpenVpn)?;
        Self::new(file, &text, &of_root)
    }

    /// The configuration `text`, which is that of `file`.
    pub fn new(file: &Path, text: &[u8], companions: Companions) -> Result<Self> {
        let directory = file.parent().unwrap_or(Path::new("/")).to_path_buf();
        let mut profile = Self {
            file: file.to_path_buf(),
            directory,
            ..Self::default()
        };
        profile.include(file, text, companions, 1)?;
        Ok(profile)
    }

    fn include(
        &mut self,
        file: &Path,
        text: &[u8],
        companions: Companions,
        depth: usize,
    ) -> Result<()> {
        let action = format!("read {}", show(&self.file));
        let too_much = |what: &str| Err(Error::new(action.as_str(), what));
        // It would end a line for OpenVPN, but not here.
        if text.contains(&0) {
            return too_much("it is not a text file: it contains a NUL byte");
        }
        if depth > DEEPEST {
            return too_much("it includes files more than ten deep");
        }
        if self.texts.len() > MOST_INCLUDED {
            return too_much("it includes more than 64 files");
        }
        if self.texts.iter().map(|(_, text)| text.len()).sum::<usize>() + text.len() > LONGEST {
            return too_much("it and the files that it includes are larger than 4 MiB");
        }
        let parsed = parse(text, is_left_out);
        self.texts.push((normal(file), parsed.text));
        for line in parsed.lines {
            match (line.option(), line.arguments()) {
                ("config", [name]) if name != "stdin" => {
                    let path = self.directory.join(name);
                    let named = Named {
                        by: &line,
                        path: path.clone(),
                    };
                    let text = companions(&path, MAX_TEXT)
                        .map_err(|error| self.refusal(&named, &error))?;
                    // One that is not there is for the daemon to report.
                    if let Some(text) = text {
                        self.include(&path, &text, companions, depth + 1)?;
                    }
                }
                // It takes effect at once.
                ("cd", [directory]) => {
                    self.directory = self.directory.join(directory);
                    if self.directory.as_os_str().len() >= LONGEST_DIRECTORY {
                        return too_much("its working directory (cd) is longer than 4095 bytes");
                    }
                }
                _ => {}
            }
            self.lines.push(line);
        }
        Ok(())
    }

    /// An error if the private key is not in a file. The daemon's view and its user exclude all that
    /// it could be in: readers of smart cards (pcscd), TPMs, the directories of tokens in software.
    pub fn need_key_in_file(&self) -> Result<()> {
        let Some(option) = self.which(&OF_SIGNERS).first().copied() else {
            return Ok(());
        };
        let cause = format!(
            "{option}: the private key is in a smart card, a token or another program, which the confined OpenVPN daemon cannot reach"
        );
        Err(Error::new(format!("use {}", show(&self.file)), cause)
            .hint("use a certificate whose key is in a file (cert and key, or pkcs12)"))
    }

    /// The error that names every file that OpenVPN needs and does not find.
    pub fn need_companions(&self, companions: Companions) -> Result<()> {
        let needed = self.lines.iter().map(|line| (line.option(), line));
        let needed = needed.filter(|(option, _)| NEEDED.contains(option));
        // Of several lines with an option, the last.
        let last: BTreeMap<&str, &Line> = needed.collect();
        let counts = |named: &Named| {
            let last = last.get(named.by.option());
            last.is_some_and(|line| line.arguments() == named.by.arguments())
        };
        let mut missing = Vec::new();
        for named in self.files()?.into_iter().filter(counts) {
            let found =
                companions(&named.path, LARGEST).map_err(|error| self.refusal(&named, &error))?;
            if found.is_none() {
                missing.push(format!("{} ({})", show(&named.path), named.by.option()));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let cause = format!("these files do not exist: {}", missing.join(", "));
        Err(Error::new(format!("use {}", show(&self.file)), cause))
    }

    /// The files that it names, those that it includes among them.
    pub fn companions(&self) -> Result<Vec<PathBuf>> {
        let all: BTreeSet<PathBuf> = self.named()?.into_iter().map(|(_, path)| path).collect();
        Ok(all.into_iter().collect())
    }

    /// The same, each with the option that names it.
    pub fn named(&self) -> Result<Vec<(&str, PathBuf)>> {
        let included = self.texts.iter().skip(1);
        let included = included.map(|(path, _)| ("config", path.clone()));
        let files = self.files()?.into_iter();
        let named = files.map(|named| (named.by.option(), normal(&named.path)));
        Ok(included.chain(named).collect())
    }

    /// The files whose first two lines are sent as user name and password, and to whom.
    pub fn logins(&self) -> Result<Vec<String>> {
        let files = self.files()?.into_iter();
        let login = |named: Named| {
            let to = match named.by.option() {
                "auth-user-pass" => "the VPN server".to_string(),
                "http-proxy-user-pass" => "the proxy".to_string(),
                "http-proxy" | "socks-proxy" => {
                    format!("the proxy {}", escape(named.by.value().as_bytes()))
                }
                _ => return None,
            };
            Some(format!("{} to {to}", show(normal(&named.path))))
        };
        Ok(files.filter_map(login).collect())
    }

    /// Its servers, as HOST:PORT/PROTOCOL.
    pub fn servers(&self) -> Vec<String> {
        let usual = |options: [&str; 2], usual: &str| {
            let given = options.iter().find_map(|option| self.value(option));
            given.unwrap_or(usual).to_string()
        };
        let (port, protocol) = (usual(["rport", "port"], "1194"), usual(["proto"; 2], "udp"));
        let server = |line: &Line| {
            let word = |at: usize| line.arguments().get(at).map(|word| word.to_string_lossy());
            let host = word(0)?;
            let port = word(1).unwrap_or(port.as_str().into());
            let protocol = word(2).unwrap_or(protocol.as_str().into());
            Some(format!("{host}:{port}/{protocol}"))
        };
        self.all("remote").filter_map(server).collect()
    }

    /// The lines that name a proxy.
    fn proxies(&self) -> impl Iterator<Item = &Line> {
        self.all("http-proxy").chain(self.all("socks-proxy"))
    }

    /// The host names of servers and proxies; addresses need no lookup.
    pub fn names(&self) -> Vec<String> {
        let mut known = HashSet::new();
        let hosts = self.all("remote").chain(self.proxies()).map(Line::value);
        let is_name = |host: &&str| host.parse::<IpAddr>().is_err() && is_domain(host);
        let names = hosts.filter(is_name).filter(|host| known.insert(*host));
        names.map(str::to_string).collect()
    }

    /// Whether it can connect only from outside the namespace, where a veth pair with IPv4 does not
    /// lead: all servers or proxies are at addresses of IPv6 or on this host's loopback, or the
    /// file names an address or an interface of the host. `addresses_of` knows those of names.
    pub fn is_beyond_veth(&self, addresses_of: &dyn Fn(&str) -> Vec<IpAddr>) -> bool {
        let is_one = |line: &Line| {
            let address = line.value().parse::<IpAddr>();
            line.value() != "*" && !address.is_ok_and(|address| address.is_unspecified())
        };
        if self.value("bind-dev").is_some() || self.all("local").any(is_one) {
            return true;
        }
        let beyond = |address: &IpAddr| address.is_ipv6() || address.is_loopback();
        let is_beyond = |line: &Line| {
            let protocol = line.arguments().get(2).and_then(|word| word.to_str());
            let protocol = protocol.or(self.value("proto")).unwrap_or_default();
            let addresses = match line.value().parse() {
                Ok(address) => vec![address],
                Err(_) => addresses_of(line.value()),
            };
            (line.option() == "remote" && protocol.contains('6'))
                || (!addresses.is_empty() && addresses.iter().all(beyond))
        };
        let peers: Vec<&Line> = match self.proxies().next() {
            Some(_) => self.proxies().collect(),
            None => self.all("remote").collect(),
        };
        !peers.is_empty() && peers.into_iter().all(is_beyond)
    }

    /// How long all servers but one may be silent before OpenVPN tries the last (openvpn(8),
    /// hand-window, connect-timeout and connect-retry, with their defaults).
    pub fn time_for_others(&self) -> Duration {
        let seconds = |option: &str, usual: u64| {
            let given = self.value(option).and_then(|value| value.parse().ok());
            given.unwrap_or(usual)
        };
        let connect = seconds("connect-timeout", seconds("server-poll-timeout", 120));
        let handshake = seconds("hand-window", 60).min(connect);
        let pause = seconds("connect-retry", 5);
        let each = self.servers().into_iter().map(|server| {
            let silent = if server.contains("/udp") {
                handshake
            } else {
                connect
            };
            silent.saturating_add(pause)
        });
        Duration::from_secs(each.skip(1).fold(0, u64::saturating_add))
    }

    /// The command that makes the file usable, if OpenVPN `said` that it does not know an option of
    /// Windows or of an earlier version.
    pub fn advice(&self, said: &str) -> Option<String> {
        self.advice_for(said, &self.file, "sudo sed")
    }

    /// The same for `file`, of which it is a copy; `sed` is the command with which it is edited.
    pub fn advice_for(&self, said: &str, file: &Path, sed: &str) -> Option<String> {
        let lines = self.lines.iter().filter(|line| !line.is_optional());
        let given: BTreeSet<&str> = lines.map(Line::option).collect();
        let all = OF_WINDOWS.iter().chain(&OF_THE_PAST).copied();
        let mut removed: Vec<&str> = all.filter(|option| given.contains(option)).collect();
        let replaces = given.contains(TLS_REMOTE);
        let is_refused = |option: &&str| {
            let mut words = said.split([' ', ',']);
            words.any(|word| word.trim_start_matches('-') == *option)
        };
        let mut all = removed.iter().chain(replaces.then_some(&TLS_REMOTE));
        if !all.any(is_refused) {
            return None;
        }
        let mut script = Vec::new();
        if !removed.is_empty() {
            script.push(format!("/^\\s*(--)?({})\\b/d", removed.join("|")));
        }
        if replaces {
            script.extend(REPLACE_TLS_REMOTE.map(str::to_string));
            removed.push(TLS_REMOTE);
        }
        let is_windows = |option: &&str| OF_WINDOWS.contains(option);
        let what = match removed.iter().filter(|option| is_windows(option)).count() {
            0 => "they are for an older OpenVPN",
            windows if windows == removed.len() => "they are for Windows",
            _ => "they are for Windows, or for an older OpenVPN",
        };
        let (script, file) = (script.join(";"), quote_path(file)?);
        Some(format!("{sed} -i -E '{script}' {file}  # {what}"))
    }

    /// Whether OpenVPN asks for user name and password.
    pub fn asks_login(&self) -> bool {
        let last = self.all("auth-user-pass").last();
        last.is_some_and(|line| !line.is_inline() && matches!(line.value(), "" | "stdin"))
    }

    /// User name and password of the file, or the block, of `auth-user-pass`, as they are now. What
    /// cannot be read as such is for the daemon.
    pub fn credentials(&self) -> Result<Option<Credentials>> {
        self.credentials_in(&of_root)
    }

    /// The same, of a file among `companions`.
    pub fn credentials_in(&self, companions: Companions) -> Result<Option<Credentials>> {
        let Some(line) = self.all("auth-user-pass").last() else {
            return Ok(None);
        };
        if let Some(inside) = line.inside() {
            return Ok(Credentials::parse(inside));
        }
        let name = line.arguments().first().filter(|name| *name != "stdin");
        let named = Named {
            by: line,
            path: match name {
                Some(name) => self.directory.join(name),
                None => match self.imported_login() {
                    Some(path) => path,
                    None => return Ok(None),
                },
            },
        };
        let text =
            companions(&named.path, LARGEST).map_err(|error| self.refusal(&named, &error))?;
        Ok(text.and_then(|text| Credentials::parse(&text)))
    }

    /// Where import has put user name and password for a file that asks for them.
    fn imported_login(&self) -> Option<PathBuf> {
        let directory = self.file.parent()?;
        (directory.parent() == Some(Path::new(IMPORTED))).then(|| directory.join(LOGIN))
    }

    /// The file itself.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The directory in which the daemon runs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All options, in their order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The first argument of the last line with this option; empty if there is no argument.
    pub fn value(&self, option: &str) -> Option<&str> {
        self.lines
            .iter()
            .rfind(|line| line.option() == option)
            .map(Line::value)
    }

    /// All lines with this option.
    pub fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines
            .iter()
            .filter(move |line| line.option() == option)
    }

    /// Those of `options` that it contains.
    pub fn which<'a>(&self, options: &[&'a str]) -> Vec<&'a str> {
        options
            .iter()
            .copied()
            .filter(|option| self.value(option).is_some())
            .collect()
    }

    /// tun or tap.
    pub fn is_tap(&self) -> bool {
        self.value("dev-type")
            .or(self.value("dev"))
            .is_some_and(|name| name.starts_with("tap"))
    }

    /// Whether a pushed option is accepted: the first of the `pull-filter` lines that fits decides
    /// (openvpn(8)). Lines with another number of arguments do not count: behind `setenv opt`,
    /// OpenVPN only warns of them.
    pub fn accepts(&self, pushed: &str) -> bool {
        let pushed = pushed.as_bytes().trim_ascii_start();
        let filter = self
            .all("pull-filter")
            .find_map(|line| match line.arguments() {
                [kind, text] if pushed.starts_with(text.as_bytes()) => Some(kind == "accept"),
                _ => None,
            });
        filter.unwrap_or(true)
            && self
                .all("route-nopull")
                .all(|line| !line.arguments().is_empty())
    }

    /// Copies of the configuration and of every file that an option names. Each of them must be
    /// root's, as the configuration must: what is in it goes to the server, or decides what is
    /// trusted.
    pub fn copies(&self) -> Result<Vec<Copy>> {
        self.copies_by(self.credentials()?.is_some(), &copy_of)
    }

    /// The same, each made by `copy` of its path as it is written and as it is in the view. If the
    /// daemon is `answered` from outside, it needs no file with user name and password.
    pub fn copies_by(&self, answered: bool, copy: CopyOf) -> Result<Vec<Copy>> {
        let mut seen = BTreeSet::new();
        let mut copies = Vec::new();
        for (at, text) in &self.texts {
            if seen.insert(at.clone()) {
                copies.push(Copy {
                    at: at.clone(),
                    contents: text.clone(),
                    executable: false,
                    original: None,
                });
            }
        }
        let mut room = LARGEST_COPIED;
        let is_ours = |named: &Named| answered && named.by.option() == "auth-user-pass";
        for named in self.files()?.into_iter().filter(|named| !is_ours(named)) {
            let at = normal(&named.path);
            if !seen.insert(at.clone()) {
                continue;
            }
            let Some(copy) = copy(&named.path, at).map_err(|error| self.refusal(&named, &error))?
            else {
                continue;
            };
            room = match room.checked_sub(copy.contents.len()) {
                Some(room) if seen.len() <= MOST_COPIED => room,
                _ => return Err(self.too_many()),
            };
            copies.push(copy);
        }
        Ok(copies)
    }

    /// The error for one that names more than is copied.
    fn too_many(&self) -> Error {
        Error::new(
            format!("copy the files that {} names", show(&self.file)),
            "more than 4096 files, or more than 48 MiB",
        )
    }

    /// The files that options name, and those in directories that they name.
    fn files(&self) -> Result<Vec<Named<'_>>> {
        let (mut files, mut known) = (Vec::new(), HashSet::new());
        for by in self.lines.iter().filter(|line| !is_left_out(line.option())) {
            if known.insert((by.option(), by.arguments())) {
                let paths = self.paths(by)?.into_iter();
                files.extend(paths.map(|path| Named { by, path }));
            }
            if files.len() > MOST_COPIED {
                return Err(self.too_many());
            }
        }
        Ok(files)
    }

    /// Those of one line.
    fn paths(&self, by: &Line) -> Result<Vec<PathBuf>> {
        Ok(match (by.option(), by.arguments()) {
            ("capath", [directory]) => self.entries(by, directory)?,
            ("crl-verify", [directory, kind]) if kind == "dir" => self.entries(by, directory)?,
            // In its command, commas stand for blanks.
            ("tls-verify", [command, ..]) => {
                let blanks = |byte: &u8| if *byte == b',' { b' ' } else { *byte };
                let command: Vec<u8> = command.as_bytes().iter().map(blanks).collect();
                self.regular(&words(&command).unwrap_or_default())
            }
            // Without a directory, it is one of OpenVPN's own (plugin_init_item in plugin.c),
            // which are in /usr.
            ("plugin", [name, parameters @ ..])
                if !name.as_bytes().starts_with(b"/") && !name.as_bytes().starts_with(b".") =>
            {
                self.regular(parameters)
            }
            ("plugin" | "pkcs11-providers", names) => self.regular(names),
            (option, arguments) => {
                let place = FILES.iter().find(|(name, _)| *name == option);
                let name = place.and_then(|(_, place)| arguments.get(*place));
                let name =
                    name.filter(|name| !NO_FILES.iter().any(|other| name.as_os_str() == *other));
                name.map(|name| self.directory.join(name))
                    .into_iter()
                    .collect()
            }
        })
    }

    /// Those of `words`, which mean something to a command or a library, that are the names of
    /// files.
    fn regular(&self, words: &[OsString]) -> Vec<PathBuf> {
        words
            .iter()
            .map(|word| self.directory.join(word))
            .filter(|path| path.is_file())
            .collect()
    }

    /// The files in a directory.
    fn entries(&self, by: &Line, directory: &OsStr) -> Result<Vec<PathBuf>> {
        let named = Named {
            by,
            path: self.directory.join(directory),
        };
        let list = || -> Result<Vec<PathBuf>> {
            let Some(open) = trusted::directory(&named.path)? else {
                return Ok(Vec::new());
            };
            let mut open = Dir::from_fd(open).cannot(|| format!("list {}", show(&named.path)))?;
            let path = |entry: Entry| {
                named
                    .path
                    .join(OsStr::from_bytes(entry.file_name().to_bytes()))
            };
            Ok(open
                .iter()
                .flatten()
                .map(path)
                .filter(|path| path.is_file())
                .take(MOST_COPIED)
                .collect())
        };
        list().map_err(|error| self.refusal(&named, &error))
    }

    /// The error for a file that cannot be used. A file in somebody else's directory is to be
    /// copied, with that user's rights: it could be a link to what only root can read.
    fn refusal(&self, named: &Named, error: &Error) -> Error {
        let (option, path, file) = (named.by.option(), show(&named.path), show(&self.file));
        let refused = Error::new(format!("use {option} {path} of {file}"), error);
        let name = named.path.file_name().unwrap_or_default();
        let copy = self.file.with_file_name(name);
        match copy_command(&named.path, &copy, 600) {
            Some(command) => {
                refused.hint(format!("{command}  # then name {} in {file}", show(copy)))
            }
            None => match error.hint_text() {
                Some(hint) => refused.hint(hint),
                None => refused,
            },
        }
    }
}

fn copy_of(file: &Path, at: PathBuf) -> Result<Option<Copy>> {
    let Some((opened, stat)) = trusted::open_if_there(file, Trust::Strict)? else {
        return Ok(None);
    };
    let original = (stat.st_mode & 0o004 != 0).then_some((stat.st_dev, stat.st_ino));
    let contents = trusted::contents(opened, file, LARGEST)?;
    Ok(Some(Copy {
        at,
        contents,
        executable: stat.st_mode & 0o100 != 0,
        original,
    }))
}

fn is_left_out(option: &str) -> bool {
    SCRIPTS.contains(&option) || WRITERS.contains(&option) || OURS.contains(&option)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Profile {
        /// Of a single text, without files.
        pub fn of_text(text: &str) -> Self {
            Self {
                lines: parse(text.as_bytes(), is_left_out).lines,
                ..Self::default()
            }
        }
    }

    fn profile(text: &str) -> Profile {
        Profile::of_text(text)
    }

    #[test]
    fn devices_and_filters() {
        assert!(
            profile("client\ndev tap\n").is_tap() && profile("dev myvpn\ndev-type tap\n").is_tap()
        );
        assert!(!profile("--dev tun3\n").is_tap() && profile("setenv opt dev tap\n").is_tap());
        let filters = profile(
            "pull-filter accept \"redirect-gateway def1\"\nsetenv opt pull-filter ignore redirect\n",
        );
        assert!(filters.accepts("redirect-gateway def1") && !filters.accepts("redirect-gateway"));
        assert!(
            filters.accepts("dhcp-option DNS 10.0.0.1")
                && !profile("route-nopull\n").accepts("redirect-gateway")
        );
        // OpenVPN only warns of what it does not understand behind `setenv opt`.
        let wrong =
            profile("setenv opt route-nopull x\nsetenv opt pull-filter ignore redirect x\n");
        assert!(wrong.accepts("redirect-gateway"));
    }

    #[test]
    fn servers() {
        let text = "remote a.example 1194 udp\n<connection>\nremote b.example\n</connection>\nsetenv opt remote c.example\n";
        assert_eq!(
            profile(text).names(),
            ["a.example", "b.example", "c.example"]
        );
        let text = "remote 192.0.2.1\nremote a.example\nhttp-proxy p.example 3128\n";
        assert_eq!(profile(text).names(), ["a.example", "p.example"]);
    }

    #[test]
    fn where_a_veth_pair_does_not_lead() {
        let known = |name: &str| match name {
            "six.example" => vec!["2001:db8::1".parse().unwrap()],
            "both.example" => ["2001:db8::1", "192.0.2.1"]
                .map(|a| a.parse().unwrap())
                .into(),
            _ => Vec::new(),
        };
        for (text, beyond) in [
            ("remote 2001:db8::1\n", true),
            ("remote six.example 1194\nremote 127.0.0.1\n", true),
            ("remote both.example\n", false),
            ("remote both.example 1194 udp6\n", true),
            ("proto udp6\nremote both.example\n", true),
            ("remote unknown.example\n", false),
            ("remote 192.0.2.1\nhttp-proxy 127.0.0.1 3128\n", true),
            ("remote six.example\nhttp-proxy 192.0.2.1 3128\n", false),
            ("remote 192.0.2.1\nlocal 192.0.2.2\n", true),
            ("remote 192.0.2.1\nlocal host.example\n", true),
            ("remote 192.0.2.1\nlocal 0.0.0.0\nlocal *\n", false),
            ("remote 192.0.2.1\nbind-dev eth0\n", true),
            ("dev tun\n", false),
        ] {
            assert_eq!(profile(text).is_beyond_veth(&known), beyond, "{text}");
        }
    }

    #[test]
    fn only_what_is_refused_is_removed() {
        let said = |option| {
            format!(
                "Options error: Unrecognized option or missing or extra parameter(s) in x.conf:3: {option} (2.6.14)"
            )
        };
        let advice =
            |text: &str, said: &str| profile(text).advice_for(said, Path::new("/x.conf"), "sed");
        let kept = "ns-cert-type server\ncomp-lzo no\nsecret x\nno-replay\n";
        let mixed = format!("{kept}register-dns\nkeysize 256\ntls-remote x\n");
        for (option, parts) in [
            (
                "register-dns",
                ["(register-dns|keysize)", "verify-x509-name"],
            ),
            ("tls-remote", ["(register-dns|keysize)", "verify-x509-name"]),
        ] {
            let advice = advice(&mixed, &said(option)).unwrap();
            assert!(parts.iter().all(|part| advice.contains(part)), "{advice}");
            for option in [
                "ns-cert-type",
                "comp-lzo",
                "secret",
                "no-replay",
                "tls-remote)",
            ] {
                assert!(!advice.contains(option), "{advice}");
            }
        }
        assert_eq!(advice(kept, &said("ns-cert-type")), None);
        assert_eq!(advice(&mixed, "Options error: Bad protocol"), None);
        assert_eq!(advice("setenv opt keysize 256\n", &said("keysize")), None);
    }

    #[test]
    fn time_for_servers_that_are_silent() {
        for (text, seconds) in [
            ("remote a\n", 0),
            ("remote a\nremote b\n", 65),
            ("remote a 1 tcp\nremote b 1 tcp\n", 125),
            (
                "remote a\nremote b\nremote c\nhand-window 10\nconnect-retry 1\n",
                22,
            ),
        ] {
            assert_eq!(profile(text).time_for_others().as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn what_it_names_has_limits() {
        let read =
            |text: &str| Profile::new(Path::new("/d/a.ovpn"), text.as_bytes(), &|_, _| Ok(None));
        let deep = format!("cd {}\n", "a/".repeat(100)).repeat(21);
        let error = read(&deep).unwrap_err();
        assert!(error.cause().contains("(cd) is longer"), "{error}");
        // Once, however often it is named.
        let same = read(&"ca x\n".repeat(90_000)).unwrap();
        assert_eq!(same.files().unwrap().len(), 1);
        let line = |option: &str, number| format!("{option} f{number}\n");
        let lines = |most| {
            (0..most)
                .map(|number| line("ca", number))
                .collect::<String>()
        };
        let error = read(&lines(5000)).unwrap().files().err().unwrap();
        assert!(error.cause().contains("more than 4096 files"), "{error}");
        // Neither grows with the square of the file's size.
        let hosts: String = (0..100_000).map(|number| line("remote", number)).collect();
        let large = read(&(lines(4000) + &hosts)).unwrap();
        let started = std::time::Instant::now();
        let error = large.need_companions(&|_, _| Ok(None)).unwrap_err();
        assert!(error.cause().ends_with(": /d/f3999 (ca)"), "{error}");
        assert_eq!(large.names().len(), 100_000);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn options_that_name_files() {
        let text = "ca ca.crt\nsetenv opt cert /c.crt\ntls-auth ta.key 1\nhttp-proxy h 1 creds basic\nhttp-proxy h 1 auto\n\
                    socks-proxy h 1 socks\nauth-user-pass\naskpass stdin\ndh none\nverb 3\nup up.sh\nremote a 1\n";
        let profile = Profile {
            directory: "/d".into(),
            ..profile(text)
        };
        let files: Vec<PathBuf> = profile
            .files()
            .unwrap()
            .into_iter()
            .map(|named| named.path)
            .collect();
        let wanted = ["/d/ca.crt", "/c.crt", "/d/ta.key", "/d/creds", "/d/socks"];
        assert_eq!(files, wanted.map(PathBuf::from));
    }
}
