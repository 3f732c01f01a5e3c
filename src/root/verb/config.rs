//! `runns-exec config`: shows the configuration that is in force, and what is wrong in it; `config
//! edit` changes one of its files, as visudo(8) does: an editor gets a copy, which takes the file's
//! place only if the whole configuration is valid.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, fchown, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::prepare;
use crate::import::download::Download;
use crate::kernel::prompt::prompt;
use crate::kernel::{file, tool};
use crate::lock::Lock;
use runns_shared::account::{self, User};
use runns_shared::config::{
    Config, DEFAULT_PATH, DIRECTORY, FILE_OPTIONS, Text, lines_in_force, mistake,
};
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
    let wrong = errors(text);
    wrong.iter().for_each(complain_error);
    if wrong.is_empty() {
        missing_files(text).iter().for_each(|what| warn(what));
    }
    Ok(wrong.is_empty())
}

/// Everything that is wrong in it.
fn errors(text: &Text) -> Vec<Error> {
    let (config, mut wrong) = text.check();
    wrong.extend(ambiguity(&config));
    wrong
}

fn ambiguity(config: &Config) -> Option<Error> {
    let (first, second) = config.ambiguity()?;
    let cause = format!(
        "line {}: [{}] names namespace {}, and so does [{}] in line {} of {}",
        second.line,
        one_line(&second.name),
        second.netns,
        one_line(&first.name),
        first.line,
        show(&first.file)
    );
    Some(Error::new(format!("use {}", show(&second.file)), cause))
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
    directory: PathBuf,
    file: PathBuf,
    is_kept: bool,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

impl Copy {
    fn new(name: &OsStr, text: &str, caller: Option<&Caller>) -> Result<Self> {
        const TEMPLATE: &str = "/tmp/runns-config.XXXXXX";
        let directory = nix::unistd::mkdtemp(TEMPLATE).cannot(|| format!("create {TEMPLATE}"))?;
        let file = directory.join(name);
        let copy = Self {
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
            lchown(&copy.directory, Some(*uid), Some(*gid)).cannot(cannot)?;
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

/// Who that is; `None` if root was not called by sudo.
fn caller(environment: &[(OsString, OsString)]) -> Option<Caller> {
    let number = |name: &str| {
        let found = environment.iter().find(|(key, _)| key == name);
        found.and_then(|(_, value)| value.to_str()?.parse().ok())
    };
    let uid = number("SUDO_UID").filter(|uid| *uid != 0)?;
    Some(Caller {
        uid,
        gid: number("SUDO_GID").unwrap_or(uid),
        user: account::user_by_id(uid),
    })
}

fn edit(path: &Path, environment: &[(OsString, OsString)]) -> Result<()> {
    let before = trusted::read_if_there(path, Trust::Strict)?;
    let caller = caller(environment);
    let name = path.file_name().unwrap_or_default();
    let mut copy = Copy::new(name, before.as_deref().unwrap_or_default(), caller.as_ref())?;
    loop {
        run_editor(&copy.file, environment, caller.as_ref())?;
        let text = copy.read()?;
        if before.as_deref().unwrap_or_default() == text {
            return output::print(&format!("{} unchanged\n", show(path)));
        }
        let wrong = errors(&Text::read()?.with(path, text.clone()));
        if wrong.is_empty() {
            return save(path, before.as_deref(), &text).map_err(|error| copy.keep(error));
        }
        wrong.iter().for_each(complain_error);
        if !wants_to_go_on()? {
            let cause = "the configuration would contain an error; it is as it was";
            return Err(Error::new(format!("save {}", show(path)), cause));
        }
    }
}

/// Puts the text in place, unless somebody has changed the file meanwhile.
fn save(path: &Path, before: Option<&str>, text: &str) -> Result<()> {
    let lock = Lock::take()?;
    let write = || {
        if trusted::read_if_there(path, Trust::Strict)?.as_deref() != before {
            let cause = "it has been changed by somebody else meanwhile";
            return Err(Error::new(format!("save {}", show(path)), cause));
        }
        if path != Path::new(DEFAULT_PATH) {
            file::make_directory(Path::new(DIRECTORY), 0o755)?;
        }
        // Where it is a link, the file that it leads to; root alone decides where.
        let place = std::fs::canonicalize(path).unwrap_or(path.to_path_buf());
        file::write(&place, text)
    };
    let result = write();
    lock.release();
    result?;
    log::notice(|| format!("changed {}", show(path)));
    output::print(&format!("saved {}\n", show(path)))
}

fn wants_to_go_on() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    loop {
        prompt("(e)dit it again, or (q)uit without saving? ");
        let mut answer = String::new();
        let length = std::io::stdin()
            .lock()
            .read_line(&mut answer)
            .cannot(|| "read the answer")?;
        match answer.trim() {
            "e" | "E" => return Ok(true),
            "q" | "Q" => return Ok(false),
            _ if length == 0 => return Ok(false),
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
        Error::new("find an editor", "none is installed").hint("EDITOR names another one")
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
        }
    }
    let cannot = || format!("run the editor {}", escape(editor.as_bytes()));
    let status = command.status().cannot(cannot)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(
            cannot(),
            format!("it ended with {status}; nothing is changed"),
        )),
    }
}
