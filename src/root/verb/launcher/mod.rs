//! `runns-exec launcher NAME COMMAND [ARG]...`: a desktop entry that starts a program in a
//! namespace. Run by the user whose menu it is for, with no privilege.

mod entry;

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use runns_shared::config::Config;
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::{escape, show};
use runns_shared::name::{NetnsName, RESERVED};
use runns_shared::output::{print, warn};
use runns_shared::record::Record;

use super::word;
use crate::kernel::{file, tool};
use entry::{Entry, MARK};

/// Programs that hand their work to an instance that runs already, perhaps outside the namespace,
/// unless it has another profile; and the option that names the profile's directory.
const BROWSERS: [(&[&str], &str); 2] = [
    (
        &[
            "chromium",
            "chromium-browser",
            "google-chrome",
            "google-chrome-stable",
            "google-chrome-beta",
            "brave",
            "brave-browser",
            "brave-browser-stable",
            "microsoft-edge",
            "microsoft-edge-stable",
            "vivaldi",
            "vivaldi-stable",
            "opera",
        ],
        "--user-data-dir=",
    ),
    (
        &[
            "firefox",
            "firefox-esr",
            "librewolf",
            "waterfox",
            "thunderbird",
        ],
        "--profile",
    ),
];
/// Options by which the user has chosen a profile.
const PROFILES: [&str; 7] = [
    "--user-data-dir",
    "--profile",
    "-profile",
    "-P",
    "--P",
    "-ProfileManager",
    "--ProfileManager",
];

/// What the command line asks for; the name is not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The namespace, or a section.
    pub name: OsString,
    /// The command and its arguments.
    pub words: Vec<OsString>,
    /// What to do with the launcher.
    pub action: Action,
}

/// What to do with a launcher.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Write it.
    Write,
    /// Print it, and change nothing.
    Print,
    /// Remove it.
    Remove,
}

/// Writes, prints or removes a launcher.
pub fn run(options: &Options) -> Result<()> {
    must_be_oneself()?;
    let places = Places::of_user()?;
    let netns = namespace(&options.name)?;
    let words = options.words.iter().map(|word| utf8(word));
    let words = words.collect::<Result<Vec<&str>>>()?;
    let command = words.first().copied().unwrap_or_default();
    let path = places.applications.join(file_name(&netns, command));
    if options.action == Action::Remove {
        return remove(&path, &netns, command);
    }
    let launcher = Launcher::new(&netns, &words, &places)?;
    let text = launcher.text()?;
    if options.action == Action::Print {
        return print(&text);
    }
    if entry::read(&path).is_some_and(|other| Entry::parse(&other).value(MARK).is_none()) {
        let cause = "it exists, and runns-exec did not write it";
        return Err(Error::new(format!("write {}", show(&path)), cause));
    }
    for directory in [Some(&places.applications), launcher.profile.as_ref()] {
        let Some(directory) = directory else { continue };
        let created = std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(directory);
        created.cannot(|| format!("create {}", show(directory)))?;
    }
    file::write(&path, &text)?;
    print(&format!("wrote {}\n", show(&path)))
}

/// With sudo, it would get into root's menu.
fn must_be_oneself() -> Result<()> {
    if nix::unistd::geteuid().is_root() && std::env::var_os("SUDO_UID").is_some() {
        let error = Error::new("write a launcher", "it would be in root's menu");
        return Err(error.hint("run it as yourself, without sudo"));
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(())
}

fn remove(path: &Path, netns: &NetnsName, command: &str) -> Result<()> {
    let cannot = || {
        format!(
            "remove the launcher of {} in {netns}",
            escape(command.as_bytes())
        )
    };
    let is_ours = |text: String| Entry::parse(&text).value(MARK).is_some();
    if !entry::read(path).is_some_and(is_ours) {
        let cause = match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => "there is none",
            _ => "runns-exec did not write it",
        };
        return Err(Error::new(cannot(), format!("{}: {cause}", show(path))));
    }
    std::fs::remove_file(path).cannot(cannot)?;
    print(&format!("removed {}\n", show(path)))
}

/// The namespace that a word names: itself, or that of a section.
fn namespace(name: &OsStr) -> Result<NetnsName> {
    let config = Config::load_default().unwrap_or_default();
    let text = name.to_string_lossy();
    let built = Record::names().unwrap_or_default();
    if let Some(name) = built.into_iter().find(|built| built.as_str() == text) {
        return Ok(name);
    }
    if let Some(section) = word::section(&text, &config) {
        return Ok(section.netns.clone());
    }
    let netns = NetnsName::new(name)?;
    if !Path::new("/run/netns").join(netns.as_str()).exists() {
        let near = word::near(&text, &config);
        let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
        warn(&format!(
            "there is neither a namespace nor a section {netns} yet{near}"
        ));
    }
    Ok(netns)
}

fn utf8(word: &OsStr) -> Result<&str> {
    word.to_str().ok_or_else(|| {
        Error::new(
            format!("write the argument {}", show(word)),
            "it is not UTF-8",
        )
    })
}

/// `runns-exec-work-chromium.desktop`, of letters that the ID of an entry may have.
fn file_name(netns: &NetnsName, command: &str) -> String {
    let base = command.rsplit('/').next().unwrap_or(command);
    let letter = |c: char| match c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+') {
        true => c,
        false => '_',
    };
    let base: String = base.chars().map(letter).take(64).collect();
    format!("runns-exec-{netns}-{base}.desktop")
}

/// Where the user's and the system's entries are (XDG Base Directory Specification).
struct Places {
    /// The user's data.
    data: PathBuf,
    /// The directory of the user's entries.
    applications: PathBuf,
    /// All directories of entries, in the order in which they count.
    all: Vec<PathBuf>,
}

impl Places {
    fn of_user() -> Result<Self> {
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).and_then(absolute);
        let home = || variable("HOME").map(|home| home.join(".local/share"));
        let data = variable("XDG_DATA_HOME").or_else(home).ok_or_else(|| {
            Error::new("find your home directory", "HOME is not an absolute path")
        })?;
        let system = std::env::var("XDG_DATA_DIRS").unwrap_or_default();
        let system = match system.as_str() {
            "" => "/usr/local/share:/usr/share",
            system => system,
        };
        let system = system.split(':').map(PathBuf::from).filter_map(absolute);
        let all = std::iter::once(data.clone()).chain(system);
        Ok(Self {
            applications: data.join("applications"),
            all: all.map(|place| place.join("applications")).collect(),
            data,
        })
    }
}

/// An entry to be written.
struct Launcher<'a> {
    netns: &'a NetnsName,
    /// The program as the user named it, and where it is.
    command: &'a str,
    program: PathBuf,
    /// The arguments, those that name a profile first.
    arguments: Vec<String>,
    /// The directory of the profile, if the launcher chose one.
    profile: Option<PathBuf>,
    /// The program's own entry.
    own: Option<Entry>,
}

impl<'a> Launcher<'a> {
    fn new(netns: &'a NetnsName, words: &[&'a str], places: &Places) -> Result<Self> {
        let command = words.first().copied().unwrap_or_default();
        let program = find(command)?;
        let base = command.rsplit('/').next().unwrap_or(command);
        let mut arguments: Vec<String> = words[1..].iter().map(ToString::to_string).collect();
        let browser = BROWSERS.iter().find(|(names, _)| names.contains(&base));
        let chosen = arguments.iter().any(|word| {
            let option = word.split('=').next().unwrap_or_default();
            PROFILES.contains(&option)
        });
        let mut profile = None;
        if let Some((_, option)) = browser.filter(|_| !chosen) {
            let path = places
                .data
                .join("runns-exec")
                .join(netns.as_str())
                .join(base);
            let text = utf8(path.as_os_str())?;
            let words = match option.ends_with('=') {
                true => vec![format!("{option}{text}")],
                false => vec![option.to_string(), text.to_string()],
            };
            arguments.splice(0..0, words);
            profile = Some(path);
        }
        Ok(Self {
            netns,
            command: base,
            program,
            arguments,
            profile,
            own: entry::of_program(command, &places.all),
        })
    }

    fn text(&self) -> Result<String> {
        let none = Entry::default();
        let own = self.own.as_ref().unwrap_or(&none);
        let mut lines = vec![("Type".to_string(), "Application".to_string())];
        let named = own.translations("Name");
        lines
            .extend(named.map(|(key, name)| (key.to_string(), format!("{name} ({})", self.netns))));
        // The specification requires one without a language.
        if own.value("Name").is_none() {
            let name = format!("{} ({})", self.command, self.netns);
            lines.push(("Name".to_string(), entry::value(&name)));
        }
        let taken_over = own.taken_over();
        lines.extend(taken_over.map(|(key, value)| (key.to_string(), value.to_string())));
        let terminal = own.value("Terminal").unwrap_or("false");
        lines.push(("Terminal".to_string(), terminal.to_string()));
        let program = utf8(self.program.as_os_str())?;
        if self.program.is_absolute() {
            lines.push(("TryExec".to_string(), entry::value(program)));
        }
        let enter = enterer()?;
        // A namespace may have the name of a subcommand.
        let verb = RESERVED.contains(&self.netns.as_str()).then_some("exec");
        let words = std::iter::once(utf8(enter.as_os_str())?)
            .chain(verb)
            .chain([self.netns.as_str(), "--", program])
            .chain(self.arguments.iter().map(String::as_str));
        let words = words.map(entry::quote).collect::<Result<Vec<String>>>()?;
        let exec = words.into_iter().chain(own.field_code());
        lines.push(("Exec".to_string(), exec.collect::<Vec<String>>().join(" ")));
        lines.push((MARK.to_string(), self.netns.to_string()));
        let lines = lines.iter().map(|(key, value)| format!("{key}={value}\n"));
        Ok(format!("[Desktop Entry]\n{}", lines.collect::<String>()))
    }
}

/// The absolute path of a program, which the desktop may not find by the user's PATH. A name that
/// is not found is taken as it is.
fn find(command: &str) -> Result<PathBuf> {
    let current = std::env::current_dir().cannot(|| "find the current directory")?;
    let search = std::env::var_os("PATH");
    let found = which::which_in(command, search, current);
    Ok(found.unwrap_or_else(|_| {
        warn(&format!(
            "{} is not found in PATH",
            escape(command.as_bytes())
        ));
        PathBuf::from(command)
    }))
}

/// The program that enters namespaces, which is installed beside this one.
fn enterer() -> Result<PathBuf> {
    Ok(tool::prefix()?.join("bin/runns-exec"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        let work = NetnsName::new("work").unwrap();
        assert_eq!(
            file_name(&work, "/opt/my app/x y"),
            "runns-exec-work-x_y.desktop"
        );
    }
}
