//! `runns-exec import`: from a provider's file to a section that can be built.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::{build, prepare};
use crate::import::store::{self, Plan, build_command, imported};
use crate::import::{self, Import, download::Download};
use crate::kernel::prompt;
use crate::kernel::text_table::{self, Heading};
use crate::lock::Lock;
use crate::tunnel::LOGIN;
use crate::tunnel::check::check_named;
use crate::tunnel::credentials::LONGEST;
use crate::tunnel::source::{Kind, convert};
use runns_shared::config::{Section, Text};
use runns_shared::error::{Error, Result, status};
use runns_shared::escape::{escape, show};
use runns_shared::log;
use runns_shared::name::NetnsName;
use runns_shared::output::{self, warn};
use runns_shared::record::Record;

/// What most files ask for.
const LOGIN_WORDS: &str = "user name and password";
/// How many servers, and files that were left out, are named.
const NAMED: usize = 3;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Options {
    /// Import files.
    Import(Wanted),
    /// --remove
    Remove(OsString),
    /// --list
    List,
}

/// What is to be imported, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// FILE, at least one.
    pub files: Vec<PathBuf>,
    /// -n
    pub name: Option<String>,
    /// Unless --no-kill-switch.
    pub kill_switch: bool,
    /// --auth
    pub auth: Option<PathBuf>,
    /// Build, too.
    pub build: bool,
    /// Replace what was imported under the same names.
    pub replace: bool,
    /// Change nothing.
    pub dry_run: bool,
}

/// Imports, removes or lists.
pub fn run(options: Options) -> Result<()> {
    prepare("import")?;
    match options {
        Options::Import(wanted) => import(&wanted),
        Options::Remove(name) => remove(&name),
        Options::List => list(),
    }
}

fn import(wanted: &Wanted) -> Result<()> {
    let (mut imports, unused) = import::read(&wanted.files, wanted.name.as_deref())?;
    if !wanted.dry_run && store::is_interrupted()? {
        let lock = Lock::take()?;
        let recovered = store::recover();
        lock.release();
        recovered?;
    }
    plan(wanted, &imports)?;
    import::rehearse(&imports)?;
    let logins = logins(wanted, &imports)?;
    let asking = imports.iter_mut().filter(|one| one.checked.asks_login);
    for (import, login) in asking.zip(logins) {
        if let Some(text) = login {
            import.files.insert(PathBuf::from(LOGIN), text);
        }
    }
    if wanted.dry_run {
        return report(wanted, &imports, &unused);
    }
    let lock = Lock::take()?;
    let result = keep(wanted, &imports);
    lock.release();
    result?;
    report(wanted, &imports, &unused)?;
    if !wanted.build {
        return Ok(());
    }
    let built = imports.iter().map(|import| build(&import.name));
    Error::all(built.filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

/// What is to be written. What a tunnel that runs was built from is not exchanged: when it
/// reconnects, the user name and password that are kept by then go to the server of the old file.
fn plan<'a>(wanted: &Wanted, imports: &'a [Import]) -> Result<Plan<'a>> {
    let plan = Plan::new(imports, wanted.kill_switch, wanted.replace)?;
    must_not_be_built(imports.iter().map(|import| &import.name))?;
    Ok(plan)
}

/// Writes files and sections, while no build or clean runs.
fn keep(wanted: &Wanted, imports: &[Import]) -> Result<()> {
    store::finish_all()?;
    plan(wanted, imports)?.write()?;
    for import in imports {
        let source = show(&import.source);
        log::notice(|| format!("imported {} from {source}", import.name));
    }
    Ok(())
}

fn build(name: &NetnsName) -> Result<()> {
    build::run(build::Options {
        section: Some(name.as_str().into()),
        ..build::Options::default()
    })
    .map_err(|error| error.hint(build_command(name)))
}

fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// User name and password for each of those files that ask for them, or none, if build is to ask.
/// New ones are the same for all.
fn logins(wanted: &Wanted, imports: &[Import]) -> Result<Vec<Option<Vec<u8>>>> {
    let asking: Vec<&Import> = imports
        .iter()
        .filter(|import| import.checked.asks_login)
        .collect();
    let Some(first) = asking.first() else {
        if wanted
            .auth
            .as_deref()
            .is_some_and(|file| file != Path::new("ask"))
        {
            warn("--auth has no effect: no file asks for a user name and a password");
        }
        return Ok(Vec::new());
    };
    let all = |login: Option<Vec<u8>>| vec![login; asking.len()];
    match &wanted.auth {
        Some(file) if file == Path::new("ask") => return Ok(all(None)),
        Some(file) => return credentials(file).map(|login| all(Some(login))),
        None => {}
    }
    let earlier = store::logins(&asking)?;
    let is_complete = earlier.iter().all(Option::is_some);
    if is_complete || wanted.dry_run || !stdin_is_terminal() {
        return Ok(earlier);
    }
    let shown = match asking.len() {
        1 => first.name.to_string(),
        several => format!("{several} sections"),
    };
    let user = prompt::ask(&format!("{shown}: VPN user name: "), true)?;
    let password = prompt::ask(&format!("{shown}: VPN password: "), false)?;
    login(&user, &password)
        .map(|login| all(Some(login)))
        .map_err(|why| Error::new("keep user name and password", why))
}

/// The contents of a file with user name and password.
fn credentials(file: &Path) -> Result<Vec<u8>> {
    let download = Download::open(file)?;
    let bytes = download.contents(4 * LONGEST as u64)?;
    let wrong = |why: &str| Error::new(format!("use {}", show(&download.path)), why);
    let text = String::from_utf8(bytes).map_err(|_| {
        let error = wrong("it is not UTF-8 text");
        match convert("WINDOWS-1252", &download.path) {
            Some(command) => error.hint(command),
            None => error,
        }
    })?;
    two_lines(&text).map_err(wrong)
}

/// User name and password, each on a line, as OpenVPN reads them.
fn two_lines(text: &str) -> Result<Vec<u8>, &'static str> {
    // A file written on Windows may begin with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text.trim_end_matches(['\r', '\n']).lines();
    match (lines.next(), lines.next(), lines.next()) {
        (Some(user), Some(password), None) => login(user, password),
        (_, _, Some(_)) => Err("expected two lines: user name and password; it has more"),
        _ => Err("expected two lines: user name and password"),
    }
}

/// The same of both words.
fn login(user: &str, password: &str) -> Result<Vec<u8>, &'static str> {
    let is_wrong = |word: &str| word.len() > LONGEST || word.contains('\0');
    if user.is_empty() {
        return Err("the user name is empty");
    }
    if password.is_empty() {
        return Err("the password is empty");
    }
    if is_wrong(user) || is_wrong(password) {
        return Err("user name and password have 255 bytes at most, and no NUL byte");
    }
    Ok(format!("{user}\n{password}\n").into_bytes())
}

/// Says what was imported, or would be.
fn report(wanted: &Wanted, imports: &[Import], unused: &[String]) -> Result<()> {
    let verb = match wanted.dry_run {
        true => "would import",
        false => "imported",
    };
    let mut text = String::new();
    for import in imports {
        let mut parts = vec![format!(
            "{verb} {}: {}, kill switch {}",
            import.name,
            servers(import.checked.kind, &import.checked.servers),
            if wanted.kill_switch { "on" } else { "off" }
        )];
        if !import.checked.left_out.is_empty() {
            parts.push(format!("ignoring {}", import.checked.left_out.join("; ")));
        }
        if !import.checked.logins.is_empty() {
            let logins = import.checked.logins.join(", ");
            parts.push(format!("sends {LOGIN_WORDS} from {logins}"));
        }
        let asked_now = wanted.dry_run && wanted.auth.is_none() && stdin_is_terminal();
        let mut asks = import.checked.asks.clone();
        if import.checked.asks_login && !import.files.contains_key(Path::new(LOGIN)) {
            match asked_now {
                true => parts.push(format!("import will ask for {LOGIN_WORDS}")),
                false => asks.insert(0, LOGIN_WORDS),
            }
        }
        if !asks.is_empty() {
            parts.push(format!("build will ask for {}", asks.join(" and ")));
        }
        text.push_str(&format!("{}\n", parts.join("; ")));
    }
    if !unused.is_empty() {
        text.push_str(&format!(
            "not imported from the archive: {}\n",
            some(unused)
        ));
    }
    if !wanted.build && !wanted.dry_run {
        if let Some(import) = imports.first() {
            let more = if imports.len() > 1 {
                " (and so on)"
            } else {
                ""
            };
            text.push_str(&format!("next: {}{more}\n", build_command(&import.name)));
        }
    }
    output::print(&text)
}

/// Protocol and servers, in a few words.
fn servers(kind: Kind, servers: &[String]) -> String {
    let what = match kind {
        Kind::OpenVpn => "OpenVPN",
        Kind::WireGuard => "WireGuard",
    };
    let shown: Vec<String> = servers
        .iter()
        .map(|server| escape(server.as_bytes()))
        .collect();
    format!("{what} to {}", some(&shown))
}

/// The first of `words`, and how many more there are.
fn some(words: &[String]) -> String {
    let named: Vec<&str> = words.iter().take(NAMED).map(String::as_str).collect();
    match words.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// An error if a namespace is built from what was imported under one of these names.
fn must_not_be_built<'a>(mut names: impl Iterator<Item = &'a NetnsName>) -> Result<()> {
    let (records, _) = Record::readable()?;
    let is_built_from = |record: &Record, name: &NetnsName| {
        let request = &record.plan.request;
        let section = request.section.as_deref();
        let directory = import::directory(name);
        let mut files = request.vpn.iter().chain(&request.wireguard);
        section.is_some_and(|section| section.eq_ignore_ascii_case(name.as_str()))
            || files.any(|file| file.starts_with(&directory))
    };
    let built = names.find_map(|name| {
        let mut records = records.iter();
        let record = records.find(|record| is_built_from(record, name))?;
        Some((name, &record.plan.name))
    });
    match built {
        Some((name, namespace)) => Err(Error::new(
            format!("change {name}"),
            format!("namespace {namespace} is built from it"),
        )
        .hint(format!("sudo runns-exec clean {namespace}"))),
        None => Ok(()),
    }
}

fn remove(name: &OsString) -> Result<()> {
    let name = NetnsName::new(name).map_err(|error| error.with_status(status::USAGE))?;
    let lock = Lock::take()?;
    let result = must_not_be_built([&name].into_iter()).and_then(|()| store::remove(&name));
    lock.release();
    result?;
    log::notice(|| format!("removed import {name}"));
    output::print(&format!("removed {name}\n"))
}

/// A row for each section that was imported.
fn list() -> Result<()> {
    const HEADINGS: [Heading; 4] = [
        Heading("NAME", false),
        Heading("KIND", false),
        Heading("SERVER", false),
        Heading("FILE", false),
    ];
    let text = Text::read()?;
    let config = text.parse()?;
    let rows: Vec<Vec<String>> = imported(&text, &config)
        .iter()
        .map(|(name, section)| {
            let (kind, server, file) = section.and_then(described).unwrap_or_default();
            vec![name.to_string(), kind.to_string(), server, file]
        })
        .collect();
    let lines = text_table::lines(&HEADINGS, rows, text_table::terminal_width());
    output::print(&format!("{}\n", lines.join("\n")))
}

/// Kind, first server and file of a section.
fn described(section: &Section) -> Option<(&'static str, String, String)> {
    let (kind, word, file) = match (
        section.request.vpn.first(),
        section.request.wireguard.first(),
    ) {
        (Some(file), _) => (Kind::OpenVpn, "openvpn", file),
        (None, Some(file)) => (Kind::WireGuard, "wireguard", file),
        (None, None) => return None,
    };
    let server = match check_named(file, kind) {
        Ok(checked) => some(&checked.servers[..1.min(checked.servers.len())]),
        Err(error) => format!("? ({})", error.cause()),
    };
    Some((word, escape(server.as_bytes()), show(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_name_and_password_are_two_lines() {
        for good in ["a\nb", "a\r\nb\r\n", "a b\nc d\n\n"] {
            assert!(two_lines(good).is_ok(), "{good:?}");
        }
        assert_eq!(two_lines("a\r\nb\r\n"), Ok(b"a\nb\n".to_vec()));
        assert_eq!(two_lines("\u{feff}a\r\nb"), Ok(b"a\nb\n".to_vec()));
        for bad in ["", "a", "a\n", "\nb\n", "a\nb\nc\n", "a\n\0\n"] {
            assert!(two_lines(bad).is_err(), "{bad:?}");
        }
        assert_eq!(login("a", ""), Err("the password is empty"));
    }
}
