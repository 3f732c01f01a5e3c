//! The configuration, /etc/runns.conf and the files in /etc/runns.conf.d: INI text to checked
//! values. The only file that knows rust-ini.
//!
//! The text is checked line by line first, because this program's grammar is narrower than any INI
//! library's: what another reader might take as a continuation, a quote or a second separator is an
//! error or plain text here.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption};
use nix::dir::{Dir, Type};

use crate::access::Access;
use crate::error::{Context, Error, Result};
use crate::escape::{escape, show};
use crate::exceptions::{Exceptions, HostAccess, Published, networks};
use crate::name::{IfaceName, NetnsName};
use crate::request::{Dns, OpenConnect, Request};
use crate::subnet::Subnet;
use crate::suggest::nearest;
use crate::trusted::{self, MAX_TEXT, Trust};

/// Where the configuration is, if not named on the command line.
pub const DEFAULT_PATH: &str = "/etc/runns.conf";
/// Where the rest of it is: the files whose names end in `.conf`.
pub const DIRECTORY: &str = "/etc/runns.conf.d";
/// How many files that may be. All of them are read whenever somebody enters.
pub const MOST_FILES: usize = 4096;

/// The options of a section, as they are spelled in the manual.
pub const OPTIONS: [&str; 25] = [
    "NetworkNamespace",
    "InterfaceIn",
    "InterfaceOut",
    "Resolve",
    "DNS",
    "DNSLock",
    "vpn",
    "OpenConnect",
    "OpenConnectOptions",
    "OpenConnectPassword",
    "WireGuard",
    "KillSwitch",
    "IPv6",
    "Publish",
    "HostAccess",
    "Bypass",
    "Subnet",
    "MTU",
    "PostBuild",
    "PreClean",
    "HookTimeout",
    USERSPACE,
    "AllowUsers",
    "AllowGroups",
    "NoNewPrivs",
];
/// Options that may stand more than once in a section.
const REPEATABLE: [&str; 3] = ["vpn", "WireGuard", "Publish"];
/// Options that are yes or no, HostAccess among other things.
const SWITCHES: [&str; 6] = [
    "DNSLock",
    "KillSwitch",
    "IPv6",
    "NoNewPrivs",
    "HostAccess",
    GLOBAL_OPTION,
];
/// Options that name a file of root's.
pub const FILE_OPTIONS: [&str; 7] = [
    "Resolve",
    "vpn",
    "OpenConnectOptions",
    "OpenConnectPassword",
    "WireGuard",
    "PostBuild",
    "PreClean",
];
/// Called as wg-quick(8) calls it.
const USERSPACE: &str = "WG_QUICK_USERSPACE_IMPLEMENTATION";
/// The option before the first section.
const GLOBAL_OPTION: &str = "AllowUnmanaged";

/// One section: one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The name in brackets.
    pub name: String,
    /// The file that it stands in.
    pub file: PathBuf,
    /// The line of its heading, from 1.
    pub line: usize,
    /// NetworkNamespace, or the section's name.
    pub netns: NetnsName,
    /// InterfaceIn.
    pub interface_in: Option<IfaceName>,
    /// The other options.
    pub request: Request,
}

/// The text of the configuration, file by file.
#[derive(Debug, Default)]
pub struct Text {
    /// The file that may have options before its first section: /etc/runns.conf, or the one that
    /// was named.
    pub main: Option<(PathBuf, String)>,
    /// Those in /etc/runns.conf.d, in the order of their names.
    pub more: Vec<(PathBuf, String)>,
    /// /etc/runns.conf or /etc/runns.conf.d, if it is not there.
    pub missing: Option<&'static str>,
}

impl Text {
    /// Reads /etc/runns.conf and the files in /etc/runns.conf.d, which must all be root's.
    pub fn read() -> Result<Self> {
        let path = Path::new(DEFAULT_PATH);
        let main = trusted::read_if_there(path, Trust::Strict)?;
        if main.is_none() {
            must_not_exist(path)?;
        }
        let more = read_directory()?;
        let missing = [(DEFAULT_PATH, main.is_none()), (DIRECTORY, more.is_none())]
            .into_iter()
            .find_map(|(path, is_missing)| is_missing.then_some(path));
        Ok(Self {
            main: main.map(|text| (path.to_path_buf(), text)),
            more: more.unwrap_or_default(),
            missing,
        })
    }

    /// Parses it; an error if anything in it is wrong.
    pub fn parse(&self) -> Result<Config> {
        only_if_right(self.check())
    }

    /// What is right in it, and everything that is wrong.
    pub fn check(&self) -> (Config, Vec<Error>) {
        let mut lines = Lines::default();
        if let Some((path, text)) = &self.main {
            lines.add(path, text, true);
        }
        for (path, text) in &self.more {
            lines.add(path, text, false);
        }
        lines.parse(self.main.as_ref().map_or(Path::new(""), |(path, _)| path))
    }

    /// The same with another text in one file, which may be a new one.
    pub fn with(mut self, path: &Path, text: String) -> Self {
        let file = (path.to_path_buf(), text);
        if path == Path::new(DEFAULT_PATH) {
            self.main = Some(file);
        } else {
            self.more.retain(|(other, _)| other != path);
            self.more.push(file);
            self.more
                .sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        }
        self
    }

    /// Its files, in the order in which they are read.
    pub fn files(&self) -> impl Iterator<Item = &(PathBuf, String)> {
        self.main.iter().chain(&self.more)
    }
}

/// What was not found must not be a link that leads nowhere: it may do so only in the caller's
/// view.
fn must_not_exist(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => Err(Error::new(
            format!("read {}", show(path)),
            "it is a symbolic link that leads nowhere",
        )),
    }
}

/// The files in /etc/runns.conf.d that count; `None` if there is no such directory.
fn read_directory() -> Result<Option<Vec<(PathBuf, String)>>> {
    let place = Path::new(DIRECTORY);
    let cannot = || format!("read {DIRECTORY}");
    // The directories above it have just been checked.
    if std::fs::symlink_metadata(place).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(None);
    }
    let Some(directory) = trusted::directory(place)? else {
        return must_not_exist(place).map(|()| None);
    };
    let mut open = Dir::from_fd(directory.try_clone().cannot(cannot)?).cannot(cannot)?;
    let mut entries = Vec::new();
    for entry in open.iter() {
        let entry = entry.cannot(cannot)?;
        let name = entry.file_name().to_bytes();
        if name.ends_with(b".conf") && !name.starts_with(b".") {
            let name = OsStr::from_bytes(name).to_os_string();
            entries.push((name, entry.file_type() == Some(Type::File)));
        }
        if entries.len() > MOST_FILES {
            let cause = format!("it contains more than {MOST_FILES} files");
            return Err(Error::new(cannot(), cause));
        }
    }
    entries.sort_unstable();
    let (mut files, mut size) = (Vec::with_capacity(entries.len()), 0);
    for (name, is_file) in entries {
        let path = place.join(name);
        let text = match is_file {
            true => trusted::read_in(&directory, &path)?,
            false => Some(trusted::read(&path, Trust::Strict)?),
        };
        // One that is gone has been removed meanwhile.
        let Some(text) = text else { continue };
        size += text.len() as u64;
        if size > MAX_TEXT {
            let cause = format!("its files are larger than {} MiB in all", MAX_TEXT >> 20);
            return Err(Error::new(cannot(), cause));
        }
        files.push((path, text));
    }
    Ok(Some(files))
}

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// AllowUnmanaged: the group may enter every named namespace.
    pub allow_unmanaged: bool,
    /// In the order of the text.
    pub sections: Vec<Section>,
}

impl Config {
    /// Reads `path` alone, which must be root's.
    pub fn load(path: &Path) -> Result<Self> {
        let trust = if path == Path::new(DEFAULT_PATH) {
            Trust::Strict
        } else {
            Trust::AllowSticky
        };
        Self::parse(&trusted::read(path, trust)?, path)
    }

    /// Reads /etc/runns.conf and /etc/runns.conf.d; without either, it is empty.
    pub fn load_default() -> Result<Self> {
        Text::read()?.parse()
    }

    /// Parses `text`; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut lines = Lines::default();
        lines.add(path, text, true);
        only_if_right(lines.parse(path))
    }

    /// The section called `name`, compared without case.
    pub fn section(&self, name: &str, path: &Path) -> Result<&Section> {
        self.sections
            .iter()
            .find(|section| section.name.eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let error = refuse(
                    path,
                    format!("there is no section [{}]", escape(name.as_bytes())),
                );
                match nearest(
                    name,
                    self.sections.iter().map(|section| section.name.as_str()),
                ) {
                    Some(near) => error.hint(format!("did you mean [{near}]?")),
                    None => error,
                }
            })
    }

    /// A namespace that two sections name: nobody can say whose options hold for it.
    pub fn ambiguity(&self) -> Option<(&Section, &Section)> {
        let mut known: HashMap<String, usize> = HashMap::new();
        self.sections.iter().enumerate().find_map(|(at, section)| {
            let earlier = known.insert(section.netns.to_string(), at)?;
            Some((&self.sections[earlier], section))
        })
    }
}

fn refuse(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(format!("use {}", show(path)), why)
}

fn only_if_right((config, wrong): (Config, Vec<Error>)) -> Result<Config> {
    wrong.into_iter().next().map_or(Ok(config), Err)
}

/// The lines of a text that are neither empty nor comments, without the blanks around them, with
/// their numbers.
pub fn lines_in_force(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', ';']))
        .map(|(index, line)| (index + 1, line))
}

/// Stands for a backslash in the text that rust-ini sees: it would join a line that ends with one
/// and the next, and take `\]` for a part of a section's name. No line has this character of its
/// own: control characters are refused.
const BACKSLASH: char = '\x01';

/// Whether a line has a control character other than a tab. Most lines have printable ASCII alone,
/// which takes no decoding: all of them are looked at whenever somebody enters.
fn has_control(line: &str) -> bool {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) || byte == b'\t';
    !line.bytes().all(is_plain) && line.contains(|c: char| c.is_control() && c != '\t')
}

/// What rust-ini read, as it stood in the file.
fn restore(text: &str) -> Cow<'_, str> {
    match text.contains(BACKSLASH) {
        true => text.replace(BACKSLASH, "\\").into(),
        false => text.into(),
    }
}

/// An option as the manual spells it.
fn spelled(key: &str) -> &str {
    let known = OPTIONS.iter().chain([&GLOBAL_OPTION]);
    let mut known = known.filter(|name| name.eq_ignore_ascii_case(key));
    known.next().map_or(key, |name| name)
}

/// Where a section stands: its file, its own line and those of its options.
struct Place<'a> {
    path: &'a Path,
    line: usize,
    options: Vec<usize>,
}

/// The text as rust-ini shall see it, each line checked: empty, a comment, `[section]` or
/// `key=value`.
#[derive(Default)]
struct Lines<'a> {
    clean: String,
    /// The lines of the options before the first section.
    globals: Vec<usize>,
    /// Where each section stands, in their order.
    places: Vec<Place<'a>>,
    /// The files that were added.
    files: Vec<&'a Path>,
    /// The file of each section, by its name in lower case.
    known: HashMap<String, usize>,
    wrong: Vec<Error>,
}

impl<'a> Lines<'a> {
    /// Adds a file. Unless `with_globals`, it can have no option before its first section.
    fn add(&mut self, path: &'a Path, text: &str, with_globals: bool) {
        let before = self.places.len();
        self.files.push(path);
        // The options of a section whose heading is wrong are left out, too.
        let mut is_left_out = false;
        for (number, line) in lines_in_force(text) {
            let added = if has_control(line) {
                Err("control character".to_string())
            } else if let Some(rest) = line.strip_prefix('[') {
                let added = self.add_heading(path, number, rest);
                is_left_out = added.is_err();
                added
            } else if is_left_out {
                Ok(())
            } else {
                let is_allowed = with_globals || self.places.len() > before;
                self.add_option(line, number, is_allowed)
            };
            if let Err(why) = added {
                let shown = escape(line.as_bytes());
                let error = refuse(path, format!("line {number}: {why}: {shown}"));
                self.wrong.push(match has_comment(line) {
                    true => error.hint(COMMENTS),
                    false => error,
                });
            }
        }
    }

    /// Adds a section; `rest` is what follows the `[`.
    fn add_heading(&mut self, path: &'a Path, line: usize, rest: &str) -> Result<(), String> {
        let name = rest.strip_suffix(']').map(str::trim);
        let name = name.ok_or("section without ']'")?;
        if name.is_empty() || name.contains(['[', ']']) {
            return Err("bad section name".to_string());
        }
        let file = self.files.len() - 1;
        match self.known.insert(name.to_ascii_lowercase(), file) {
            Some(earlier) if earlier == file => {
                return Err("duplicate section".to_string());
            }
            Some(earlier) => {
                return Err(format!(
                    "duplicate section: it is in {}, too",
                    show(self.files[earlier])
                ));
            }
            None => {}
        }
        self.places.push(Place {
            path,
            line,
            options: Vec::new(),
        });
        self.clean.extend(["[", name, "]\n"]);
        Ok(())
    }

    fn add_option(&mut self, line: &str, number: usize, is_allowed: bool) -> Result<(), String> {
        let (key, value) = line
            .split_once('=')
            .ok_or("neither a comment, [section] nor key=value")?;
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("bad option name".to_string());
        }
        if !is_allowed {
            return Err(format!(
                "an option before the first section belongs in {DEFAULT_PATH}"
            ));
        }
        let place = self.places.last_mut();
        place
            .map_or(&mut self.globals, |place| &mut place.options)
            .push(number);
        self.clean.extend([key, "=", value.trim(), "\n"]);
        Ok(())
    }

    /// Parses what was added; options before the first section stand in `main`.
    fn parse(mut self, main: &Path) -> (Config, Vec<Error>) {
        let option = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            enabled_indented_mutiline_value: false,
            ..Default::default()
        };
        let clean = self.clean.replace('\\', &BACKSLASH.to_string());
        let mut config = Config::default();
        let ini = match Ini::load_from_str_opt(&clean, option) {
            Ok(ini) => ini,
            Err(error) => {
                self.wrong.push(refuse(main, error.to_string()));
                return (config, self.wrong);
            }
        };
        let mut places = self.places.into_iter();
        for (section, properties) in ini.iter() {
            let section = section.map(restore);
            let place = section.as_ref().and_then(|_| places.next());
            let place = place.unwrap_or(Place {
                path: main,
                line: 0,
                options: std::mem::take(&mut self.globals),
            });
            let values = properties.iter().zip(&place.options);
            let mut options = Options {
                path: place.path,
                section: section.as_deref(),
                line: place.line,
                values: values
                    .map(|((key, value), line)| (*line, spelled(key), restore(value)))
                    .collect(),
                wrong: RefCell::default(),
            };
            match &section {
                None => config.allow_unmanaged = options.globals(),
                Some(name) => config.sections.extend(options.section(name)),
            }
            self.wrong.append(options.wrong.get_mut());
        }
        (config, self.wrong)
    }
}

/// The hint for a comment that stands behind something else.
const COMMENTS: &str = "comments have lines of their own";

fn has_comment(line: &str) -> bool {
    [" #", "\t#", " ;", "\t;"]
        .iter()
        .any(|mark| line.contains(mark))
}

/// What may have been meant by a value that an option cannot have: as other programs' files spell
/// it.
pub fn mistake(option: &str, value: &str) -> Option<String> {
    let bare = value.trim_matches(['"', '\'']);
    if has_comment(value) {
        return Some(COMMENTS.to_string());
    }
    if bare != value {
        return Some(format!("there are no quotes: write {option}={bare}"));
    }
    let word = match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "1" | "y" | "enable" | "enabled" => "yes",
        "false" | "off" | "0" | "n" | "disable" | "disabled" => "no",
        _ => return None,
    };
    let is_switch = SWITCHES
        .iter()
        .any(|switch| switch.eq_ignore_ascii_case(option));
    is_switch.then(|| format!("{value} is {word} here: write {option}={word}"))
}

/// The options of one section while they are being read.
struct Options<'a> {
    path: &'a Path,
    section: Option<&'a str>,
    /// The line of its heading.
    line: usize,
    /// Each with its line.
    values: Vec<(usize, &'a str, Cow<'a, str>)>,
    /// What is wrong in it.
    wrong: RefCell<Vec<Error>>,
}

impl Options<'_> {
    /// The error for the option on this line.
    fn wrong_at(&self, line: usize, option: &str, why: impl std::fmt::Display) -> Error {
        let place = self
            .section
            .map_or("before the first section".to_string(), |name| {
                format!("[{}]", escape(name.as_bytes()))
            });
        let option = escape(option.as_bytes());
        refuse(self.path, format!("line {line}: {place} {option}: {why}"))
    }

    fn refuse(&self, error: Error) {
        self.wrong.borrow_mut().push(error);
    }

    /// Refuses an option as it was given first, or the section where it is not.
    fn refuse_option(&self, option: &str, why: impl std::fmt::Display) {
        let line = self.all(option).next().map_or(self.line, |(line, _)| line);
        self.refuse(self.wrong_at(line, option, why));
    }

    /// Refuses options that are not in `known`, single-valued ones that repeat, and empty values.
    fn check(&self, known: &[&str]) {
        for (at, (line, key, value)) in self.values.iter().enumerate() {
            let Some(name) = known.iter().find(|name| *name == key) else {
                let error = self.wrong_at(*line, key, "unknown option");
                let global = self.section.is_some() && *key == GLOBAL_OPTION;
                self.refuse(match nearest(key, known.iter().copied()) {
                    _ if global => {
                        error.hint(format!("{GLOBAL_OPTION} belongs before the first section"))
                    }
                    Some(near) => error.hint(format!("did you mean {near}?")),
                    None => error.hint("man runns.conf describes all options"),
                });
                continue;
            };
            if value.is_empty() {
                self.refuse(self.wrong_at(*line, name, "no value"));
            }
            let repeated = self.values[..at]
                .iter()
                .any(|(_, earlier, _)| earlier == key);
            if repeated && !REPEATABLE.contains(name) {
                self.refuse(self.wrong_at(*line, name, "given twice"));
            }
        }
    }

    /// The values of an option, each with its line.
    fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = (usize, &'a str)> + 'a {
        self.values
            .iter()
            .filter(move |(_, key, value)| *key == option && !value.is_empty())
            .map(|(line, _, value)| (*line, value.as_ref()))
    }

    fn one<T>(&self, option: &str, parse: impl Fn(&str) -> Result<T>) -> Option<T> {
        self.each(option, parse).into_iter().next()
    }

    /// The values of an option, parsed; those that are wrong are refused.
    fn each<T>(&self, option: &str, mut parse: impl FnMut(&str) -> Result<T>) -> Vec<T> {
        let mut parsed = Vec::new();
        for (line, value) in self.all(option) {
            match parse(value) {
                Ok(value) => parsed.push(value),
                Err(error) => self.refuse(self.bad_value(line, option, value, error.cause())),
            }
        }
        parsed
    }

    fn bad_value(&self, line: usize, option: &str, value: &str, why: &str) -> Error {
        let shown = escape(value.as_bytes());
        let error = self.wrong_at(line, option, format!("cannot be '{shown}': {why}"));
        match mistake(option, value) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn globals(&self) -> bool {
        for (line, key, _) in &self.values {
            if OPTIONS.contains(key) {
                self.refuse(self.wrong_at(*line, key, "this option belongs in a section"));
                return false;
            }
        }
        self.check(&[GLOBAL_OPTION]);
        self.one(GLOBAL_OPTION, yes_or_no).unwrap_or(false)
    }

    /// Under the kill switch the tunnel is the only way out: there is one, and without a veth
    /// nothing that is for one.
    fn check_kill_switch(&self, request: &Request) {
        let given = |option: &str| self.all(option).next().is_some();
        if request.kill_switch && !request.has_tunnel() {
            self.refuse_option(
                "KillSwitch",
                "needs vpn, OpenConnect or WireGuard: without a tunnel, nothing could leave the namespace",
            );
        }
        const OF_VETH: [&str; 4] = ["InterfaceIn", "InterfaceOut", "Subnet", "MTU"];
        let lacks_veth = !request.has_veth();
        if let Some(option) = OF_VETH
            .into_iter()
            .find(|option| lacks_veth && given(option))
        {
            self.refuse_option(
                option,
                "has no effect with KillSwitch=yes, which creates no veth pair without Publish, HostAccess or Bypass",
            );
        }
    }

    fn exceptions(&self) -> Exceptions {
        let mut exceptions = Exceptions {
            published: Vec::new(),
            host_access: self.one("HostAccess", HostAccess::parse),
            bypassed: self.one("Bypass", networks).unwrap_or_default(),
        };
        self.each("Publish", |word| {
            exceptions.publish(Published::parse(word)?)
        });
        exceptions
    }

    fn openconnect(&self) -> Option<OpenConnect> {
        for option in ["OpenConnectOptions", "OpenConnectPassword"] {
            let given = |option: &str| self.all(option).next().is_some();
            if given(option) && !given("OpenConnect") {
                self.refuse_option(option, "has no effect without OpenConnect=SERVER");
            }
        }
        let (options, password) = (
            self.one("OpenConnectOptions", absolute),
            self.one("OpenConnectPassword", absolute),
        );
        Some(OpenConnect {
            server: self.one("OpenConnect", server)?,
            options,
            password,
        })
    }

    fn request(&self) -> Request {
        Request {
            section: None,
            given: Vec::new(),
            uplink: self.one("InterfaceOut", |value| IfaceName::new(value)),
            resolve: self.one("Resolve", absolute),
            resolve_named: false,
            dns: self.one("DNS", dns),
            dns_lock: self.one("DNSLock", yes_or_no),
            vpn: self.each("vpn", absolute),
            openconnect: self.openconnect(),
            wireguard: self.each("WireGuard", absolute),
            userspace: self.one(USERSPACE, program),
            kill_switch: self.one("KillSwitch", yes_or_no).unwrap_or(false),
            ipv6: self.one("IPv6", yes_or_no),
            exceptions: self.exceptions(),
            subnet: self.one("Subnet", Subnet::parse),
            mtu: self.one("MTU", mtu),
            post_build: self.one("PostBuild", absolute),
            pre_clean: self.one("PreClean", absolute),
            hook_timeout: self.one("HookTimeout", seconds),
            access: Access {
                users: self.one("AllowUsers", list),
                groups: self.one("AllowGroups", list),
            },
            no_new_privs: self.one("NoNewPrivs", yes_or_no).unwrap_or(false),
        }
    }

    /// The section; `None` if anything in it is wrong.
    fn section(&self, name: &str) -> Option<Section> {
        self.check(&OPTIONS);
        let netns = match self.all("NetworkNamespace").next() {
            Some(_) => self.one("NetworkNamespace", |value| NetnsName::new(value)),
            None => NetnsName::new(name)
                .map_err(|error| {
                    let cause = error.cause();
                    let why = format!(
                        "is required, because the section's name is not a namespace name: {cause}"
                    );
                    self.refuse_option("NetworkNamespace", why);
                })
                .ok(),
        };
        if self.all("Resolve").next().is_some() && self.all("DNS").next().is_some() {
            self.refuse_option(
                "DNS",
                "cannot be combined with Resolve: both name the servers to ask",
            );
        }
        let request = self.request();
        let interface_in = self.one("InterfaceIn", |value| IfaceName::new(value));
        // An option that is wrong may be the one that is missed.
        if self.wrong.borrow().is_empty() {
            self.check_kill_switch(&request);
        }
        if !self.wrong.borrow().is_empty() {
            return None;
        }
        Some(Section {
            name: name.to_string(),
            file: self.path.to_path_buf(),
            line: self.line,
            netns: netns?,
            interface_in,
            request,
        })
    }
}

/// In bytes.
fn mtu(value: &str) -> Result<u32> {
    // The least that IPv4 hosts have to cope with (RFC 791), and the most that a veth has.
    let mtu = value.parse().ok().filter(|mtu| (576..=65535).contains(mtu));
    mtu.ok_or_else(|| {
        Error::new(
            "read an MTU",
            "expected a number of bytes from 576 to 65535",
        )
    })
}

fn seconds(value: &str) -> Result<u32> {
    let seconds = value.parse().ok();
    seconds
        .filter(|seconds| (1..=86_400).contains(seconds))
        .ok_or_else(|| Error::new("read a time", "expected seconds, from 1 to 86400"))
}

fn yes_or_no(value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Error::new("read a switch", "it must be yes or no")),
    }
}

/// A program: its name, to be looked for among root's, or its absolute path.
fn program(value: &str) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    if path.is_absolute() || !value.contains(['/', ' ', '\t']) && value != ".." && value != "." {
        return Ok(path);
    }
    Err(Error::new(
        "use a program",
        "expected the name of a program, or a path that starts with /",
    ))
}

/// A server of openconnect: `HOST`, `HOST:PORT` or a URL with a path.
fn server(value: &str) -> Result<String> {
    let refuse = |why: &str| Err(Error::new("use a server", why));
    let rest = match value.split_once("://") {
        Some(("https", rest)) => rest,
        Some(_) => return refuse("openconnect speaks https:// only"),
        None => value,
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._~:/?=&%+[]@,".contains(c);
    if !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') || !rest.chars().all(fits)
    {
        return refuse(
            "expected a name or address, with :PORT or /PATH if need be, or https://...",
        );
    }
    Ok(value.to_string())
}

fn absolute(value: &str) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Error::new("use a path", "a path must start with /"))
    }
}

/// Addresses, then search domains, by commas or blanks.
fn dns(value: &str) -> Result<Dns> {
    let dns = dns_words(value)?;
    if dns.servers.is_empty() {
        return Err(Error::new("read DNS", "it names no server's address"));
    }
    Ok(dns)
}

/// Addresses and search domains; there may be none of either.
pub fn dns_words(value: &str) -> Result<Dns> {
    let mut dns = Dns {
        servers: Vec::new(),
        search: Vec::new(),
    };
    for word in value
        .split([',', ' ', '\t'])
        .filter(|word| !word.is_empty())
    {
        match word.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() || address.is_multicast() => {
                return Err(Error::new(
                    "read DNS",
                    format!("{address} is not the address of a server"),
                ));
            }
            Ok(address) => dns.servers.push(address),
            Err(_) if is_domain(word) => dns.search.push(word.to_string()),
            Err(_) => {
                let cause = if word.contains('@') {
                    "servers for single domains are not supported; name a resolver that has them, such as dnsmasq \
                     --server=/DOMAIN/ADDRESS on the host"
                } else {
                    "expected addresses, then search domains"
                };
                return Err(Error::new("read DNS", cause));
            }
        }
    }
    Ok(dns)
}

/// A domain name: letters, digits, hyphens, underscores and dots, and not the number that a
/// mistyped address is.
pub fn is_domain(word: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    word.len() <= 253
        && word.trim_end_matches('.').split('.').all(label)
        && word.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// A list by commas or blanks.
fn list(value: &str) -> Result<Vec<String>> {
    let names: Vec<String> = value
        .split([',', ' ', '\t'])
        .filter(|name| !name.is_empty())
        .map(str::to_string)
        .collect();
    match names
        .iter()
        .find(|name| name.contains([':', '/', '"', '\'']))
    {
        _ if names.is_empty() => Err(Error::new("read a list", "it names nobody")),
        Some(_) => Err(Error::new(
            "read a list",
            "expected names or numbers, separated by commas or blanks",
        )),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new(DEFAULT_PATH))
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_line() {
        let text = "# comment\n[a]\nKilSwitch=yes\nvpn=etc/x\nKillSwitch=true\n\n[b\nvpn=/etc/x\n[c]\n\
                    MTU=9 # small\nResolve=\"/etc/y\"\nDNSLock=0\nPreClean=etc/z\n[a]\n[d]\nhello\nwrong\n";
        let mut lines = Lines::default();
        lines.add(Path::new(DEFAULT_PATH), text, true);
        let (config, wrong) = lines.parse(Path::new(DEFAULT_PATH));
        assert_eq!(config.sections.len(), 1);
        assert_eq!(config.sections[0].name, "d");
        assert_eq!(config.sections[0].line, 15);
        let mut said: Vec<String> = wrong
            .iter()
            .map(|error| format!("{error} | {}", error.hint_text().unwrap_or_default()))
            .collect();
        said.sort_unstable();
        let expected = [
            (
                "line 10: [c] MTU: cannot be '9 # small': ",
                "comments have lines of their own",
            ),
            (
                "line 11: [c] Resolve: cannot be '\"/etc/y\"'",
                "there are no quotes: write Resolve=/etc/y",
            ),
            (
                "line 12: [c] DNSLock: cannot be '0'",
                "0 is no here: write DNSLock=no",
            ),
            ("line 13: [c] PreClean: cannot be 'etc/z'", ""),
            ("line 14: duplicate section", ""),
            ("line 16: neither a comment", ""),
            ("line 17: neither a comment", ""),
            (
                "line 3: [a] KilSwitch: unknown option",
                "did you mean KillSwitch?",
            ),
            ("line 4: [a] vpn: cannot be 'etc/x'", ""),
            (
                "line 5: [a] KillSwitch: cannot be 'true'",
                "true is yes here: write KillSwitch=yes",
            ),
            ("line 7: section without ']'", ""),
        ];
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, (start, hint)) in said.iter().zip(expected) {
            assert!(
                said.contains(&format!("use /etc/runns.conf: {start}")),
                "{said} {start}"
            );
            assert!(said.ends_with(&format!("| {hint}")), "{said} {hint}");
        }
    }

    fn refused(text: &str, parts: &[&str]) {
        let error = parse(text).expect_err(text);
        let said = format!("{error}\n{}", error.hint_text().unwrap_or_default());
        for part in ["/etc/runns.conf"].iter().chain(parts) {
            assert!(said.contains(part), "{said:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_domain_has_no_servers_of_its_own() {
        let text = "[work]\nDNS=corp.example@192.0.2.53\n";
        let error = Config::parse(text, Path::new("/etc/runns.conf"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("corp.example@192.0.2.53") && error.contains("dnsmasq"),
            "{error}"
        );
    }

    #[test]
    fn the_sample_of_the_manual() {
        let config = parse(
            "# comment\nAllowUnmanaged = no\n[work]\nNetworkNamespace=vpnWork\ninterfacein = vpnWorkd\n\
             vpn=/etc/openvpn/work.conf\nVPN=/etc/openvpn/myvps.conf\n; another\nAllowUsers=alice, bob 1000\n",
        )
        .unwrap();
        let work = &config.sections[0];
        assert_eq!(
            (work.name.as_str(), work.netns.as_str()),
            ("work", "vpnWork")
        );
        assert_eq!(work.interface_in.as_ref().unwrap().as_str(), "vpnWorkd");
        assert_eq!(
            work.request.vpn,
            [
                PathBuf::from("/etc/openvpn/work.conf"),
                PathBuf::from("/etc/openvpn/myvps.conf")
            ]
        );
        assert_eq!(
            work.request.access.users.as_deref().unwrap(),
            ["alice", "bob", "1000"]
        );
        assert!(config.section("WORK", Path::new("/x")).is_ok());
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        let config = parse("[a]\nvpn=/etc/a b#c;d=\"e\\n.conf\n").unwrap();
        assert_eq!(
            config.sections[0].request.vpn,
            [PathBuf::from("/etc/a b#c;d=\"e\\n.conf")]
        );
        let quoted = parse("[a]\nResolve=\"/etc/x\"\n");
        assert!(quoted.is_err(), "quotes are part of the value");
        let config =
            parse("[a\\]\nNetworkNamespace=a\nvpn=/etc/x\\\nAllowUsers=alice\n[b]\n").unwrap();
        assert_eq!(
            (
                config.sections[0].name.as_str(),
                config.sections[1].name.as_str()
            ),
            ("a\\", "b")
        );
        assert_eq!(config.sections[0].request.vpn, [PathBuf::from("/etc/x\\")]);
        assert_eq!(
            config.sections[0].request.access.users.as_deref(),
            Some(&["alice".to_string()][..])
        );
    }

    #[test]
    fn refusals_name_file_section_and_option() {
        refused(
            "[w]\nInterfaceInn=a\n",
            &["[w]", "InterfaceInn", "did you mean InterfaceIn?"],
        );
        refused("[w]\nColour=red\n", &["[w]", "Colour", "unknown option"]);
        refused(
            "[w]\nKillSwitch=yes\n",
            &["[w]", "KillSwitch", "nothing could leave"],
        );
        refused(
            "[w]\nKillSwitch=yes\nvpn=/x\nInterfaceOut=eth0\n",
            &["[w]", "InterfaceOut"],
        );
        refused(
            "[w]\nInterfaceIn=a\nInterfaceIn=b\n",
            &["[w]", "InterfaceIn", "twice"],
        );
        refused("[w]\n[W]\n", &["duplicate section"]);
        refused("[w]\nInterfaceIn=a+\n", &["[w]", "InterfaceIn", "a+"]);
        refused("[w]\nResolve=x\n", &["Resolve", "start with /"]);
        refused("[w w]\n", &["[w w]", "NetworkNamespace"]);
        refused("[w]\nnonsense\n", &["line 2"]);
        refused("[w]\nResolve:/etc/x\n", &["line 2"]);
        refused("[w]\nAllowUsers=,\n", &["AllowUsers", "nobody"]);
        refused("[w]\nAllowUnmanaged=yes\n", &["before the first section"]);
        refused("Resolve=/x\n", &["belongs in a section"]);
        refused("AllowUnmanaged=maybe\n", &["AllowUnmanaged", "maybe"]);
        refused("[w]\nvpn=\n", &["vpn", "no value"]);
        refused(
            "[w]\nWG_QUICK_USERSPACE_IMPLEMENTATION=bin/x\n",
            &["[w]", "WG_QUICK_USERSPACE_IMPLEMENTATION"],
        );
    }

    #[test]
    fn files_of_the_directory_are_one_text() {
        let text = |main: Option<&str>, more: &[(&str, &str)]| Text {
            main: main.map(|text| (DEFAULT_PATH.into(), text.into())),
            more: more
                .iter()
                .map(|(name, text)| (Path::new(DIRECTORY).join(name), text.to_string()))
                .collect(),
            missing: None,
        };
        let files = [
            ("a.conf", "[two]\nAllowUsers=x\\\n"),
            ("b.conf", "#\n[three]\n"),
        ];
        let config = text(Some("AllowUnmanaged=yes\n[one]"), &files)
            .parse()
            .unwrap();
        let found: Vec<(&str, String)> = config
            .sections
            .iter()
            .map(|section| (section.name.as_str(), show(&section.file)))
            .collect();
        let wanted = [
            ("one", "/etc/runns.conf"),
            ("two", "/etc/runns.conf.d/a.conf"),
            ("three", "/etc/runns.conf.d/b.conf"),
        ];
        assert_eq!(found, wanted.map(|(name, file)| (name, file.to_string())));
        assert!(config.allow_unmanaged);
        assert_eq!(text(None, &files).parse().unwrap().sections.len(), 2);
        for (main, file, parts) in [
            ("[w]\n", "[W]\n", &["line 1", "/etc/runns.conf, too"][..]),
            ("", "AllowUnmanaged=yes\n", &["line 1", "AllowUnmanaged"]),
            // It must not become an option of the last section before it.
            ("[w]\n", "\nAllowUsers=a\n[x]\n", &["line 2", "AllowUsers"]),
            ("", "[w]\nColour=red\n", &["[w]", "Colour"]),
        ] {
            let error = text(Some(main), &[("a.conf", file)]).parse().unwrap_err();
            let said = error.to_string();
            for part in ["use /etc/runns.conf.d/a.conf"].iter().chain(parts) {
                assert!(said.contains(part), "{said:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn name_servers() {
        let config = parse("[w]\nDNS=10.0.0.1, fd00::1 example.org,lan\ndnslock=no\n").unwrap();
        let dns = config.sections[0].request.dns.clone().unwrap();
        assert_eq!(
            dns.servers,
            [
                "10.0.0.1".parse::<IpAddr>().unwrap(),
                "fd00::1".parse().unwrap()
            ]
        );
        assert_eq!(
            (dns.search, config.sections[0].request.dns_lock),
            (vec!["example.org".into(), "lan".into()], Some(false))
        );
        refused("[w]\nDNS=example.org\n", &["[w]", "DNS", "no server"]);
        refused("[w]\nDNS=10.0.0\n", &["[w]", "DNS", "10.0.0"]);
        refused("[w]\nDNS=0.0.0.0\n", &["[w]", "DNS"]);
        refused("[w]\nDNS=1.1.1.1 a$b\n", &["[w]", "DNS"]);
        refused("[w]\nDNS=1.1.1.1\nResolve=/x\n", &["[w]", "Resolve"]);
        refused("[w]\nDNSLock=1\n", &["[w]", "DNSLock", "yes or no"]);
    }

    #[test]
    fn two_sections_with_one_namespace_are_found() {
        assert!(
            parse("[a]\n[b]\nNetworkNamespace=a\n")
                .unwrap()
                .ambiguity()
                .is_some()
        );
        assert!(parse("[a]\n[b]\n").unwrap().ambiguity().is_none());
    }

    #[test]
    fn the_manual_has_every_option_and_no_other() {
        let manual = include_str!("../../docs/runns.conf.5");
        let mut documented: Vec<&str> = manual
            .lines()
            .filter_map(|line| line.strip_prefix(".It Va "))
            .collect();
        let mut options: Vec<&str> = OPTIONS.iter().copied().chain([GLOBAL_OPTION]).collect();
        documented.sort_unstable();
        options.sort_unstable();
        assert_eq!(documented, options);
    }

    #[test]
    fn the_installed_sample_is_empty_and_would_be_valid() {
        let sample = include_str!("../../install/runns.conf");
        assert_eq!(parse(sample).unwrap(), Config::default());
        let mut given = Vec::new();
        let line = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => {
                given.push(setting.split('=').next().unwrap_or_default().to_string());
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        };
        let text: String = sample.lines().map(line).collect();
        assert_eq!(parse(&text).unwrap().sections.len(), 2);
        for option in OPTIONS {
            assert!(
                given.iter().any(|given| given == option),
                "the sample lacks {option}"
            );
        }
    }
}
