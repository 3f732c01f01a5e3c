//! `runns-exec config`: shows the configuration that is in force, and what is wrong in it; `config
//! edit` changes one of its files, as visudo(8) does: an editor gets a copy, which takes the file's
//! place only if the whole configuration is valid.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::prepare;
use crate::import::download::Download;
use crate::kernel::prompt::ask;
use crate::kernel::{file, tool};
use crate::lock::Lock;
use crate::seen::check;
use runns_shared::account::{self, User};
use runns_shared::config::{DEFAULT_PATH, DIRECTORY, FILE_OPTIONS, Text, lines_in_force, mistake};
use runns_shared::error::{Context, Error, Result, status};
use runns_shared::escape::{escape, one_line, show};
use runns_shared::log;
use runns_shared::output::{self, complain_error, warn};
use runns_shared::trusted::{self, MAX_TEXT, Trust};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Options {
    /// Show what is in force.
    Show,
    /// Edit a file; /etc/runns.conf if none is named.
    Edit(Option<OsString>),
}

/// Shows or edits the configuration; returns whether it is valid.
pub fn run(options: &Options) -> Result<bool> {
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    prepare("config").map_err(|error| error.within("show or edit the configuration"))?;
    match options {
        Options::Show => display(&Text::read()?),
        Options::Edit(word) => edit(&place(word.as_ref())?, &environment).map(|()| true),
    }
}

/// Prints the lines in force, file by file, and complains of each error.
fn display(text: &Text) -> Result<bool> {
    let mut shown = Vec::new();
    for (path, text) in text.files() {
        let mut part = format!("# {}\n", show(path));
        for (_, line) in lines_in_force(text) {
            part.push_str(&one_line(line));
            part.push('\n');
        }
        shown.push(part);
    }
    output::print(&shown.join("\n"))?;
    let wrong = check(text).1;
    wrong.iter().for_each(complain_error);
    if wrong.is_empty() {
        missing_files(text).iter().for_each(|what| warn(what));
    }
    Ok(wrong.is_empty())
}

/// The files that are named and cannot be used, each with the option that names it. A namespace that
/// was built from them before can still be entered.
fn missing_files(text: &Text) -> Vec<String> {
    let mut missing = Vec::new();
    for (path, text) in text.files() {
        for (number, line) in lines_in_force(text) {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            if !FILE_OPTIONS
                .iter()
                .any(|option| option.eq_ignore_ascii_case(key))
            {
                continue;
            }
            if let Err(error) = trusted::locate(Path::new(value), Trust::Strict) {
                let hint = mistake(key, value).map_or(String::new(), |hint| format!(" ({hint})"));
                missing.push(format!(
                    "{}: line {number}: {key}: {error}{hint}",
                    show(path)
                ));
            }
        }
    }
    missing
}

/// The file that is meant: its path, its name in /etc/runns.conf.d, or a section in it.
fn place(word: Option<&OsString>) -> Result<PathBuf> {
    let Some(word) = word else {
        return Ok(PathBuf::from(DEFAULT_PATH));
    };
    let path = Path::new(word);
    if !word.as_bytes().contains(&b'/') {
        let (config, _) = Text::read()?.check();
        let name = word.to_string_lossy();
        let is_it =
            |section: &&runns_shared::config::Section| section.name.eq_ignore_ascii_case(&name);
        if let Some(section) = config.sections.iter().find(is_it) {
            return Ok(section.file.clone());
        }
        let mut file = word.clone();
        if !word.as_bytes().ends_with(b".conf") {
            file.push(".conf");
        }
        return checked(&Path::new(DIRECTORY).join(file));
    }
    checked(path)
}

fn checked(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let is_more = path.parent() == Some(Path::new(DIRECTORY))
        && name.ends_with(b".conf")
        && !name.starts_with(b".");
    if path == Path::new(DEFAULT_PATH) || is_more {
        return Ok(path.to_path_buf());
    }
    let cause = "it is not a file of the configuration";
    let error = Error::new(format!("edit {}", show(path)), cause).with_status(status::USAGE);
    Err(error.hint(format!("these are {DEFAULT_PATH} and {DIRECTORY}/*.conf")))
}

/// What the editor gets: a file in a directory of its own, which goes when this value does.
struct Copy {
    path: PathBuf,
    /// The directory itself: its owner decides what its name leads to.
    directory: Dir,
    file: PathBuf,
    is_kept: bool,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // Only what its owner could remove as well: the names in that directory, with those of the
        // editor's own files, and no other directory unless it is empty.
        let names: Vec<_> = self
            .directory
            .iter()
            .flatten()
            .map(|entry| entry.file_name().to_owned())
            .collect();
        for name in names {
            let _ = unlinkat(&self.directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

impl Copy {
    fn new(name: &OsStr, text: &str, caller: Option<&Caller>) -> Result<Self> {
        const TEMPLATE: &str = "/tmp/runns-config.XXXXXX";
        let path = nix::unistd::mkdtemp(TEMPLATE).cannot(|| format!("create {TEMPLATE}"))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory =
            Dir::open(&path, flags, Mode::empty()).cannot(|| format!("open {}", show(&path)))?;
        let file = path.join(name);
        let copy = Self {
            path,
            directory,
            file,
            is_kept: false,
        };
        let cannot = || format!("write {}", show(&copy.file));
        let mut options = File::options();
        let mut open = options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&copy.file)
            .cannot(cannot)?;
        open.write_all(text.as_bytes()).cannot(cannot)?;
        if let Some(Caller { uid, gid, .. }) = caller {
            fchown(&open, Some(*uid), Some(*gid)).cannot(cannot)?;
            // At last: from now on it is that user who decides what is in there.
            fchown(&copy.directory, Some(*uid), Some(*gid)).cannot(cannot)?;
        }
        Ok(copy)
    }

    /// What is in it now, read with the rights of its owner.
    fn read(&self) -> Result<String> {
        let cannot = || format!("read {}", show(&self.file));
        let bytes = Download::open(&self.file)?.contents(MAX_TEXT)?;
        let text = String::from_utf8(bytes)
            .ok()
            .filter(|text| !text.contains('\0'));
        text.ok_or_else(|| Error::new(cannot(), "it is not UTF-8 text"))
    }

    /// Leaves it to the user, because of this error.
    fn keep(&mut self, error: Error) -> Error {
        self.is_kept = true;
        error.hint(format!("your text is in {}", show(&self.file)))
    }
}

/// The user who called sudo(8) to become root, whose editor it is. The editor runs as that user: it
/// runs commands, and must not be able to do more than this subcommand.
struct Caller {
    uid: u32,
    gid: u32,
    /// What /etc/passwd says, if that has it.
    user: Option<User>,
}

/// Who that is; `None` if root was not called by sudo, doas or pkexec. What these programs say must
/// not be in doubt: otherwise the editor, and all that it runs, would be root's.
fn caller(environment: &[(OsString, OsString)]) -> Result<Option<Caller>> {
    const CALLERS: [&str; 3] = ["SUDO_UID", "PKEXEC_UID", "DOAS_USER"];
    let value = |name: &str| {
        let found = environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.to_string_lossy().into_owned())
    };
    let named = CALLERS.iter().find_map(|name| Some((name, value(name)?)));
    let Some((name, word)) = named else {
        return Ok(None);
    };
    let uid = word.parse().ok().or_else(|| account::uid_of(&word));
    let uid = uid.ok_or_else(|| {
        let cause = format!("{name} is '{}'", escape(word.as_bytes()));
        Error::new("find out whose editor to run", cause)
    })?;
    let user = account::user_by_id(uid);
    let gid = value("SUDO_GID").filter(|_| *name == CALLERS[0]);
    let gid = gid.and_then(|gid| gid.parse().ok());
    Ok((uid != 0).then(|| Caller {
        uid,
        gid: gid.unwrap_or_else(|| user.as_ref().map_or(uid, |user| user.gid)),
        user,
    }))
}

fn edit(path: &Path, environment: &[(OsString, OsString)]) -> Result<()> {
    let before = trusted::read_if_there(path, Trust::Strict)?;
    let before = before.as_deref();
    let caller = caller(environment)?;
    let name = path.file_name().unwrap_or_default();
    let mut copy = Copy::new(name, before.unwrap_or_default(), caller.as_ref())?;
    loop {
        run_editor(&copy.file, environment, caller.as_ref())?;
        match take(path, before, &copy) {
            Ok(Taken::Unchanged) => return output::print(&format!("{} unchanged\n", show(path))),
            Ok(Taken::Saved) => return output::print(&format!("saved {}\n", show(path))),
            Ok(Taken::Wrong(wrong)) => wrong.iter().for_each(complain_error),
            Err(error) => return Err(copy.keep(error)),
        }
        if !wants_to_go_on().map_err(|error| copy.keep(error))? {
            let cause = "the configuration would contain an error; nothing was saved";
            return Err(Error::new(format!("save {}", show(path)), cause));
        }
    }
}

/// What became of the text that the editor left.
enum Taken {
    /// It is the one that was there.
    Unchanged,
    /// It is in place.
    Saved,
    /// With it, the configuration would contain these errors.
    Wrong(Vec<Error>),
}

/// Puts the text in place if the whole configuration is right with it. That is judged under the
/// lock: another file may have been changed meanwhile.
fn take(path: &Path, before: Option<&str>, copy: &Copy) -> Result<Taken> {
    let text = copy.read()?;
    if before.unwrap_or_default() == text {
        return Ok(Taken::Unchanged);
    }
    let wrong = check(&Text::read()?.with(path, text.clone())).1;
    if !wrong.is_empty() {
        return Ok(Taken::Wrong(wrong));
    }
    let lock = Lock::take()?;
    let wrong = Text::read().map(|now| check(&now.with(path, text.clone())).1);
    let result = wrong.and_then(|wrong| match wrong.is_empty() {
        true => save(path, before, &text).map(|()| Taken::Saved),
        false => Ok(Taken::Wrong(wrong)),
    });
    lock.release();
    result
}

/// Puts the text in place, unless somebody has changed the file meanwhile.
fn save(path: &Path, before: Option<&str>, text: &str) -> Result<()> {
    if trusted::read_if_there(path, Trust::Strict)?.as_deref() != before {
        let cause = "it has been changed by somebody else meanwhile";
        return Err(Error::new(format!("save {}", show(path)), cause));
    }
    if path != Path::new(DEFAULT_PATH) {
        file::make_directory(Path::new(DIRECTORY), 0o755)?;
    }
    // Where it is a link, the file that it leads to; root alone decides where.
    let place = std::fs::canonicalize(path).unwrap_or(path.to_path_buf());
    file::write(&place, text)?;
    log::notice(|| format!("changed {}", show(path)));
    Ok(())
}

fn wants_to_go_on() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    loop {
        match ask("(e)dit it again, or (q)uit without saving? ", true)?.trim() {
            "e" | "E" => return Ok(true),
            "q" | "Q" => return Ok(false),
            _ => {}
        }
    }
}

/// Runs the editor, and waits for its end.
fn run_editor(
    copy: &Path,
    environment: &[(OsString, OsString)],
    caller: Option<&Caller>,
) -> Result<()> {
    const EDITORS: [&str; 3] = ["SUDO_EDITOR", "VISUAL", "EDITOR"];
    const COMMON: [&str; 4] = ["sensible-editor", "editor", "nano", "vi"];
    let given = |name: &&str| {
        let found = environment.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    };
    let named = EDITORS.iter().find_map(given);
    let common = || {
        COMMON
            .iter()
            .find_map(|name| Some(tool::find(name)?.into_os_string()))
    };
    let editor = named.or_else(common).ok_or_else(|| {
        Error::new("find an editor", "none is installed")
            .hint("install one, or name one in the variable EDITOR")
    })?;
    // It may have arguments, as other programs understand these variables.
    let mut script = OsString::from("exec ");
    script.push(&editor);
    script.push(" \"$1\"");
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).arg("sh").arg(copy);
    command.current_dir("/").env_clear();
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    if let Some(Caller { uid, gid, user }) = caller {
        // With a uid, and without groups, std drops all supplementary groups.
        command.uid(*uid).gid(*gid);
        if let Some(user) = user {
            command.env("HOME", &user.home);
            command.env("USER", &user.name).env("LOGNAME", &user.name);
        } else {
            // Root's are not for this user.
            for name in ["HOME", "USER", "LOGNAME"] {
                command.env_remove(name);
            }
        }
    }
    let cannot = || format!("run the editor {}", escape(editor.as_bytes()));
    let status = command.status().cannot(cannot)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(
            cannot(),
            format!("it ended with {status}; nothing was saved"),
        )),
    }
}
