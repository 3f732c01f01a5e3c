//! What the command line of `build` asks for.

use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::word;
use crate::part::Wait;
use crate::tunnel::openconnect::session::{LARGEST, Session};
use crate::wanted::{Given, Wanted};
use runns_shared::config::{Config, DEFAULT_PATH};
use runns_shared::error::{Context, Error, Result, status};
use runns_shared::escape::{escape, quote, show};
use runns_shared::exceptions::Published;
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::output::warn;
use runns_shared::record::Record;

/// How long to wait for a tunnel unless another time is asked for.
pub const WAIT: Wait = Wait {
    time: Duration::from_secs(30),
    fixed: false,
};

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// A section, or a namespace that was built; neither -n nor -s is given with it.
    pub word: Option<OsString>,
    /// -n
    pub name: Option<OsString>,
    /// -s
    pub section: Option<OsString>,
    /// -i
    pub interface: Option<OsString>,
    /// -o
    pub uplink: Option<OsString>,
    /// -r
    pub resolve: Option<PathBuf>,
    /// --publish, each.
    pub publish: Vec<OsString>,
    /// --config
    pub config: Option<PathBuf>,
    /// Everything that is built; nothing else is asked for then.
    pub all: bool,
    /// Change what is built already to what is asked for.
    pub change: bool,
    /// Read the session of an OpenConnect login from standard input.
    pub authenticated: bool,
    /// Have systemd build it at each boot.
    pub at_boot: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// How long to wait for each tunnel; not at all if `None`.
    pub wait: Option<Wait>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            word: None,
            name: None,
            section: None,
            interface: None,
            uplink: None,
            resolve: None,
            publish: Vec::new(),
            config: None,
            all: false,
            change: false,
            authenticated: false,
            at_boot: false,
            dry_run: false,
            wait: Some(WAIT),
        }
    }
}

impl Options {
    /// The session on standard input, if there is to be one.
    pub fn session(&self) -> Result<Option<Session>> {
        if !self.authenticated {
            return Ok(None);
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let error = Error::new("read a session", "standard input is a terminal");
            return Err(error.hint(
                "openconnect --authenticate SERVER | sudo runns-exec build -s SECTION --authenticated",
            ));
        }
        let mut text = Vec::new();
        stdin
            .take(LARGEST)
            .read_to_end(&mut text)
            .cannot(|| "read standard input")?;
        Session::parse(&String::from_utf8_lossy(&text)).map(Some)
    }
}

impl Given {
    fn new(options: &Options) -> Result<Self> {
        let usage = |error: Error| error.with_status(status::USAGE);
        let interface = |word: &Option<OsString>| {
            let name = word.as_ref().map(IfaceName::new);
            name.transpose().map_err(usage)
        };
        let port = |word: &OsString| {
            let word = word.to_string_lossy();
            Published::parse(&word).map_err(|error| {
                usage(error.within(format!("publish {}", escape(word.as_bytes()))))
            })
        };
        let name = options.name.as_ref().map(NetnsName::new);
        let resolve = options.resolve.as_ref().map(|file| absolute(file));
        Ok(Self {
            name: name.transpose().map_err(usage)?,
            interface: interface(&options.interface)?,
            uplink: interface(&options.uplink)?,
            resolve: resolve.transpose()?,
            published: options.publish.iter().map(port).collect::<Result<_>>()?,
        })
    }
}

impl Wanted {
    /// What the command line asks for, with what its section says.
    pub fn new(options: &Options) -> Result<Self> {
        let given = Given::new(options)?;
        let path = absolute(options.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH)))?;
        // A configuration that is wrong is told also where no section of it is asked for.
        let config = if options.config.is_some() {
            Config::load(&path)?
        } else {
            Config::load_default()?
        };
        if let Some((first, second)) = config.ambiguity() {
            warn(&format!(
                "[{}] and [{}] both name namespace {}: until one of them is changed, only root can enter namespaces",
                first.name, second.name, first.netns
            ));
        }
        let mut wanted = Self::default();
        let section = match &options.word {
            Some(word) => wanted.take_word(&word.to_string_lossy(), &config)?,
            None => options
                .section
                .as_ref()
                .map(|section| section.to_string_lossy().into_owned()),
        };
        if let Some(section) = section {
            let section = config.section(&section, &path)?;
            let of_default = path == Path::new(DEFAULT_PATH);
            let named = wanted.name.take();
            wanted = Self::of_section(section, of_default.then(|| section.name.clone()));
            wanted.name = named.or(wanted.name);
        }
        wanted
            .add(&given)
            .map_err(|error| error.with_status(status::USAGE))?;
        Ok(wanted)
    }

    /// Takes what a word alone says: returns the section to take the rest from, unless it names
    /// what was built without one.
    fn take_word(&mut self, word: &str, config: &Config) -> Result<Option<String>> {
        word::is_one_thing("build", word, config, |owner| {
            let build =
                |option: &str, of: &str| format!("sudo runns-exec build {option} {}", quote(of));
            let first = owner.map_or(build("-n", word), |owner| build("-s", owner));
            [first, build("-s", word)]
        })?;
        let section = word::section(word, config).map(|section| section.name.clone());
        if section
            .as_ref()
            .is_some_and(|name| name.eq_ignore_ascii_case(word))
        {
            return Ok(section);
        }
        self.name = NetnsName::new(word).ok();
        if let Some(Record { plan, .. }) = self.recorded()? {
            let section = plan.request.section.clone();
            if section.is_none() {
                *self = Self::of_plan(plan);
            }
            return Ok(section);
        }
        if section.is_some() {
            return Ok(section);
        }
        let (near, is_name) = (word::near(word, config), self.name.is_some());
        let unknown = word::unknown("build", word, near.as_deref());
        Err(match near {
            None if is_name => unknown.hint(format!(
                "to build a namespace of this name: sudo runns-exec build -n {word}"
            )),
            _ => unknown,
        })
    }
}

/// `path` from the root; it need not exist.
fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().as_bytes().is_empty() {
        return Err(Error::new("use ''", "the path is empty"));
    }
    std::path::absolute(path).cannot(|| format!("use {}", show(path)))
}
