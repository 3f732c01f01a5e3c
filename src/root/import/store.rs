//! What import keeps: the files of each section in /etc/runns/NAME, and the section in
//! /etc/runns.conf.d/NAME.conf.
//!
//! The two belong together, also after a crash. New files are written in a directory that takes the
//! place of the earlier one in one step, with a copy of the section in it (`PENDING`), which stays
//! until the section is in place. Whoever finds one puts that section in place ([`recover`]). The
//! earlier files are removed after that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirEntry, File, Metadata, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{Import, directory};
use crate::kernel::file::{self, make_directory, make_own_directory};
use crate::namespace;
use crate::tunnel::check::{Checked, check_named};
use crate::tunnel::source::Kind;
use crate::tunnel::{IMPORTED, LOGIN};
use runns_shared::config::{self, Config, MOST_FILES, Section, Text};
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::{escape, quote, show};
use runns_shared::name::NetnsName;
use runns_shared::output::warn;
use runns_shared::trusted::{self, MAX_TEXT, Trust};

/// The first line of a file of ours in /etc/runns.conf.d.
const MARK: &str = "# Made by runns-exec import, removed by runns-exec import --remove.";
/// In the directory of a section: the text of its file, until that is in place. If it is empty, both
/// are to be removed.
const PENDING: &str = ".section~";
/// Begin and end of the name of a directory that is not in place yet, or no longer.
const UNFINISHED: (&str, &str) = (".", "~");

/// The file of a section.
pub fn section_file(name: &NetnsName) -> PathBuf {
    Path::new(config::DIRECTORY).join(format!("{name}.conf"))
}

/// Where the directory of a section is before and after its time.
fn unfinished(name: &NetnsName) -> PathBuf {
    let (start, end) = UNFINISHED;
    Path::new(IMPORTED).join(format!("{start}{name}{end}"))
}

/// Whether the section of these files is still to be put in place, or to be removed.
fn is_pending(name: &NetnsName) -> bool {
    directory(name).join(PENDING).exists()
}

/// Whether this is the text of a file that import wrote.
fn is_ours(text: &str) -> bool {
    text.lines().next() == Some(MARK)
}

/// The names of what import has written, with the sections as they are today.
pub fn imported<'a>(text: &Text, config: &'a Config) -> Vec<(NetnsName, Option<&'a Section>)> {
    let named = |(path, text): &(PathBuf, String)| {
        let name = NetnsName::new(path.file_stem()?).ok()?;
        is_ours(text).then_some((name, path.clone()))
    };
    let section = |(name, path): (NetnsName, PathBuf)| {
        let mut sections = config.sections.iter();
        let section = sections.find(|section| {
            section.file == path && section.name.eq_ignore_ascii_case(name.as_str())
        });
        (name, section)
    };
    text.more.iter().filter_map(named).map(section).collect()
}

/// The text of `name`'s file, if import wrote it; an error if anything else has the name.
fn standing<'a>(name: &NetnsName, text: &'a Text, config: &Config) -> Result<Option<&'a str>> {
    let path = section_file(name);
    let cannot = || format!("import {name}");
    let own = text.more.iter().find(|(file, _)| *file == path);
    let own = own.map(|(_, text)| text.as_str());
    if own.is_some_and(|text| !is_ours(text)) {
        let cause = format!("{} exists, and import did not write it", show(&path));
        return Err(Error::new(cannot(), cause).hint("choose another name with -n"));
    }
    let taken = config.sections.iter().find(|section| {
        section.file != path
            && (section.name.eq_ignore_ascii_case(name.as_str()) || section.netns == *name)
    });
    match taken {
        Some(section) => {
            let cause = format!(
                "section [{}] of {} has that name",
                escape(section.name.as_bytes()),
                show(&section.file)
            );
            Err(Error::new(cannot(), cause).hint("choose another name with -n"))
        }
        None if own.is_none() && namespace::path(name).exists() => {
            let error = Error::new(cannot(), "a namespace of that name exists");
            Err(error.hint("choose another name with -n"))
        }
        None if own.is_none() && directory(name).exists() && !is_pending(name) => {
            let cause = format!(
                "{} exists, and import did not create it",
                show(directory(name))
            );
            Err(Error::new(cannot(), cause).hint("choose another name with -n"))
        }
        None => Ok(own),
    }
}

/// The text of a section's file. Of an `earlier` one, what the administrator has added stays.
fn section_text(import: &Import, kill_switch: bool, earlier: Option<&str>) -> Result<String> {
    let option = match import.checked.kind {
        Kind::OpenVpn => "vpn",
        Kind::WireGuard => "WireGuard",
    };
    let own = format!(
        "[{}]\n{option}={}\nKillSwitch={}\n",
        import.name,
        import.directory().join(&import.main).display(),
        if kill_switch { "yes" } else { "no" }
    );
    let Some(earlier) = earlier else {
        return Ok(format!("{MARK}\n{own}"));
    };
    let (mut text, mut is_own, mut found) = (String::new(), false, false);
    for line in earlier.lines() {
        let bare = line.trim();
        if let Some(name) = bare
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            is_own = name.trim().eq_ignore_ascii_case(import.name.as_str());
            if is_own {
                found = true;
                text.push_str(&own);
                continue;
            }
        }
        let key = bare.split('=').next().unwrap_or_default().trim();
        let replaced = ["vpn", "WireGuard", "KillSwitch"];
        if !(is_own && replaced.iter().any(|name| name.eq_ignore_ascii_case(key))) {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !found {
        let path = section_file(&import.name);
        let cause = format!("it has no section [{}] any more", import.name);
        return Err(Error::new(format!("change {}", show(path)), cause));
    }
    Ok(text)
}

/// What is to be written, checked as a whole.
pub struct Plan<'a> {
    imports: &'a [Import],
    /// The text of each section's file.
    texts: Vec<String>,
    /// The text that it had, if there was one.
    earlier: Vec<Option<String>>,
    /// The files in each directory that import did not write.
    added: Vec<Vec<PathBuf>>,
}

impl<'a> Plan<'a> {
    /// Decides what the files of `imports` will contain. The whole configuration must be right with
    /// them. Without `replace`, nothing of these names may exist.
    pub fn new(imports: &'a [Import], kill_switch: bool, replace: bool) -> Result<Self> {
        let mut text = Text::read()?;
        let config = text.parse()?;
        let (mut texts, mut all_earlier, mut added_files) = (Vec::new(), Vec::new(), Vec::new());
        for import in imports {
            let name = &import.name;
            let earlier = standing(name, &text, &config)?;
            if earlier.is_some() && !replace {
                let cause = "it has been imported already";
                return Err(Error::new(format!("import {name}"), cause).hint(format!(
                    "{}  # or replace it with --replace, or choose another name with -n",
                    build_command(name)
                )));
            }
            texts.push(section_text(import, kill_switch, earlier)?);
            all_earlier.push(earlier.map(str::to_string));
            added_files.push(match earlier {
                Some(_) => added(import, kept(name, &text, &config))?,
                None => Vec::new(),
            });
        }
        let mut files: BTreeMap<PathBuf, String> = text.more.into_iter().collect();
        let written = imports.iter().map(|import| section_file(&import.name));
        files.extend(written.zip(texts.iter().cloned()));
        text.more = files.into_iter().collect();
        let size: u64 = text.more.iter().map(|(_, text)| text.len() as u64).sum();
        if text.more.len() > MOST_FILES || size > MAX_TEXT {
            let cause = format!(
                "it would contain more than {MOST_FILES} files, or more than {} MiB",
                MAX_TEXT >> 20
            );
            return Err(Error::new(format!("add to {}", config::DIRECTORY), cause));
        }
        let config = text.parse()?;
        if let Some((first, second)) = config.ambiguity() {
            let cause = format!(
                "[{}] and [{}] both name namespace {}",
                escape(first.name.as_bytes()),
                escape(second.name.as_bytes()),
                first.netns
            );
            return Err(Error::new(format!("use {}", show(&second.file)), cause));
        }
        Ok(Self {
            imports,
            texts,
            earlier: all_earlier,
            added: added_files,
        })
    }

    /// Writes it. Until all files have been written, under other names, nothing is changed.
    pub fn write(&self) -> Result<()> {
        make_directory(Path::new(IMPORTED), 0o700)?;
        make_directory(Path::new(config::DIRECTORY), 0o755)?;
        // What could not be removed earlier does not become part of it.
        for import in self.imports {
            finish(&import.name)?;
            remove_directory(&unfinished(&import.name))?;
        }
        let Err(error) = self.write_files().and_then(|()| self.put_in_place()) else {
            return self.clear();
        };
        match self.undo() {
            Ok(()) => self.clear().and(Err(error)),
            Err(second) => {
                let cause = format!("{}; undoing it failed as well: {second}", error.cause());
                Err(later(Error::new(error.action(), cause)))
            }
        }
    }

    /// Removes what it has replaced, or what was written in vain.
    fn clear(&self) -> Result<()> {
        for import in self.imports {
            finish(&import.name)?;
            if let Err(error) = remove_directory(&unfinished(&import.name)) {
                warn(&error.to_string());
            }
        }
        Ok(())
    }

    fn write_files(&self) -> Result<()> {
        let texts = self.texts.iter().zip(&self.added);
        self.imports
            .iter()
            .zip(texts)
            .try_for_each(|(import, (text, added))| write_files(import, text, added))
    }

    /// Gives everything its name, the files first.
    fn put_in_place(&self) -> Result<()> {
        for import in self.imports {
            let name = &import.name;
            exchange(name, &unfinished(name), &import.directory())?;
        }
        sync(Path::new(IMPORTED))?;
        let mut texts = self.imports.iter().zip(&self.texts);
        texts.try_for_each(|(import, text)| write_section(&import.name, text))
    }

    /// Puts back what was there, the section first: as long as its files are the new ones, a crash
    /// leads to the new section.
    fn undo(&self) -> Result<()> {
        let put_back = |(import, earlier): (&Import, &Option<String>)| {
            let name = &import.name;
            match earlier {
                Some(text) => write_section(name, text),
                None => remove_section(name),
            }?;
            exchange(name, &import.directory(), &unfinished(name))
        };
        let all = self.imports.iter().zip(&self.earlier);
        let moved = all.filter(|(import, _)| is_pending(&import.name));
        let errors = moved.filter_map(|one| put_back(one).err());
        Error::all(errors.collect()).map_or(Ok(()), Err)
    }
}

/// Gives a directory of `name` another name; what has that name gets its name.
fn exchange(name: &NetnsName, from: &Path, to: &Path) -> Result<()> {
    let action = || format!("rename {} to {}", show(from), show(to));
    if !to.exists() {
        // Without flags, which ZFS before 2.2 and NFS refuse: it replaces no more than an empty
        // directory.
        return std::fs::rename(from, to).cannot(action);
    }
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_EXCHANGE) {
        Err(errno @ (Errno::EXDEV | Errno::EBUSY | Errno::EINVAL)) => {
            let why = "overlays, mount points and some file systems cannot exchange directories";
            let hint = "then import it again; this also removes what you added to it";
            let error = Error::new(action(), format!("{} ({why})", errno.desc()));
            Err(error.hint(format!(
                "sudo runns-exec import --remove {}  # {hint}",
                quote(name.as_str())
            )))
        }
        exchanged => exchanged.cannot(action),
    }
}

/// Puts the file of a section in place.
fn write_section(name: &NetnsName, text: &str) -> Result<()> {
    let path = section_file(name);
    if std::fs::read(&path).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    file::write(&path, text)?;
    sync(&path)?;
    sync(Path::new(config::DIRECTORY))
}

fn remove_section(name: &NetnsName) -> Result<()> {
    let path = section_file(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.cannot(|| format!("remove {}", show(&path))),
    }?;
    sync(Path::new(config::DIRECTORY))
}

/// Whether an import or a removal was interrupted.
pub fn is_interrupted() -> Result<bool> {
    Ok(names()?.iter().any(is_pending) || !unfinished_names()?.is_empty())
}

/// Finishes what an import or a removal that was interrupted has left. Needs the lock, so that none
/// of them runs. Files that cannot be removed are no error: their section is gone, and others do not
/// depend on them.
pub fn recover() -> Result<()> {
    if let Some(error) = finish_all()? {
        warn(&error.to_string());
    }
    Ok(())
}

/// The same without a warning. Returns what could not be removed.
pub fn finish_all() -> Result<Option<Error>> {
    let mut errors = Vec::new();
    for name in names()?.into_iter().filter(is_pending) {
        let mark = std::fs::metadata(directory(&name).join(PENDING));
        let is_removed = |mark: Metadata| mark.len() == 0 && !section_file(&name).exists();
        match finish(&name) {
            Err(error) if mark.is_ok_and(is_removed) => errors.push(error),
            finished => finished?,
        }
    }
    for name in unfinished_names()? {
        let removed = remove_directory(&unfinished(&name));
        errors.extend(removed.err().filter(|error| !errors.contains(error)));
    }
    Ok(Error::all(errors))
}

/// Finishes what is pending for one section.
fn finish(name: &NetnsName) -> Result<()> {
    let (files, put_away) = (directory(name), unfinished(name));
    let pending = files.join(PENDING);
    let Some(text) = trusted::read_if_there(&pending, Trust::Strict)? else {
        return Ok(());
    };
    file::remove_unfinished(&section_file(name));
    if !text.is_empty() {
        write_section(name, &text)?;
        return std::fs::remove_file(&pending).cannot(|| format!("remove {}", show(&pending)));
    }
    remove_section(name)?;
    // In one step, where that is possible: not for a mount point, or what an overlay has below.
    match std::fs::rename(&files, &put_away) {
        Ok(()) => remove_directory(&put_away),
        Err(_) => remove_directory(&files),
    }
}

/// An error after which something is still pending.
fn later(error: Error) -> Error {
    let cause = format!("{}; the next import or build finishes it", error.cause());
    Error::new(error.action(), cause)
}

/// What is in the directory of all imports.
fn entries() -> Result<Vec<String>> {
    let cannot = || format!("list {IMPORTED}");
    let entries = match std::fs::read_dir(IMPORTED) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.cannot(cannot)?,
    };
    entries
        .map(|entry| {
            Ok(entry
                .cannot(cannot)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

/// The names of which there are files.
fn names() -> Result<Vec<NetnsName>> {
    let entries = entries()?.into_iter();
    Ok(entries
        .filter_map(|name| NetnsName::new(name).ok())
        .collect())
}

/// The names of which there are files that are not in place yet, or no longer.
fn unfinished_names() -> Result<Vec<NetnsName>> {
    let (start, end) = UNFINISHED;
    let name = |entry: String| {
        let name = entry.strip_prefix(start)?.strip_suffix(end)?;
        NetnsName::new(name).ok()
    };
    Ok(entries()?.into_iter().filter_map(name).collect())
}

/// Removes a directory of files, `PENDING` after all others. What can be removed is removed, whatever
/// happens to the rest.
fn remove_directory(path: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.cannot(|| format!("list {}", show(path)))?,
    };
    let remove = |entry: std::io::Result<DirEntry>| {
        let entry = entry.cannot(|| format!("list {}", show(path)))?;
        let path = entry.path();
        match entry.file_type() {
            _ if entry.file_name() == PENDING => Ok(()),
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
            _ => std::fs::remove_file(&path),
        }
        .cannot(|| format!("remove {}", show(&path)))
    };
    entries.map(remove).fold(Ok(()), Result::and)?;
    sync(path)?;
    match std::fs::remove_file(path.join(PENDING)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => std::fs::remove_dir(path),
    }
    .cannot(|| format!("remove {}", show(path)))
}

/// The files in the directory of an import that the administrator has added: all but those that
/// belong to `file`, which it replaces. It must not name one of them: it could send what is in it
/// elsewhere.
fn added(import: &Import, file: Option<PathBuf>) -> Result<Vec<PathBuf>> {
    let directory = import.directory();
    let mut own = vec![directory.join(LOGIN)];
    if let Some(file) = file {
        own.extend(checked(&file).into_iter().flat_map(|file| file.companions));
        own.push(file);
    }
    let (mut found, mut directories) = (Vec::new(), vec![directory.clone()]);
    while let Some(directory) = directories.pop() {
        let cannot = || format!("list {}", show(&directory));
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.cannot(cannot)?,
        };
        for entry in entries {
            let entry = entry.cannot(cannot)?;
            match entry.file_type().cannot(cannot)?.is_dir() {
                true => directories.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.retain(|path| !own.contains(path));
    let base = import.source.parent().unwrap_or(Path::new("/"));
    let named = import.checked.companions.iter();
    let named = named.filter_map(|path| path.strip_prefix(base).ok());
    let mut missing = named.filter(|place| !import.files.contains_key(*place));
    // The added one can be a link to a directory.
    let is_added = |place: &&Path| {
        found
            .iter()
            .any(|file| directory.join(place).starts_with(file))
    };
    match missing.find(is_added) {
        Some(place) => {
            let cause = format!(
                "it names {0}, which does not exist, but you added {1} to the files of {2}",
                show(base.join(place)),
                show(directory.join(place)),
                import.name
            );
            let hint = "copy the file that is meant into the same directory, or remove the option";
            Err(Error::new(format!("import {}", show(&import.source)), cause).hint(hint))
        }
        None => Ok(found),
    }
}

/// Writes the files of an import under names that they do not keep, and those that the
/// administrator has `added` beside them (as links: what is in them, and whose they are, stays).
/// `section` is the text of the section's file.
fn write_files(import: &Import, section: &str, added: &[PathBuf]) -> Result<()> {
    let base = unfinished(&import.name);
    make_own_directory(&base, 0o700)?;
    write_file(&base.join(PENDING), section.as_bytes(), 0o600)?;
    let mut directories = BTreeSet::from([base.clone()]);
    let mut make_above = |place: &Path| {
        let mut path = base.clone();
        for word in place.parent().into_iter().flatten() {
            path.push(word);
            make_own_directory(&path, 0o700)?;
            directories.insert(path.clone());
        }
        Ok(base.join(place))
    };
    for (place, contents) in &import.files {
        write_file(&make_above(place)?, contents, 0o600)?;
    }
    let directory = import.directory();
    for file in added {
        let place = file.strip_prefix(&directory).unwrap_or(file);
        if !import.files.contains_key(place) {
            let linked = std::fs::hard_link(file, make_above(place)?);
            linked.cannot(|| format!("keep {}", show(file)))?;
        }
    }
    directories.iter().try_for_each(|path| sync(path))
}

/// Writes a new file that survives a crash, once its directory has been synced as well.
fn write_file(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::options()
            .create_new(true)
            .write(true)
            .mode(mode)
            .open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(contents)?;
        file.sync_all()
    };
    write().cannot(|| format!("write {}", show(path)))
}

fn sync(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .cannot(|| format!("write {}", show(directory)))
}

/// The user name and password that are kept for each section, if its import sends them to no other
/// servers than the file that is kept with them.
pub fn logins(imports: &[&Import]) -> Result<Vec<Option<Vec<u8>>>> {
    let text = Text::read()?;
    let config = text.parse()?;
    let login = |import: &&Import| {
        let name = &import.name;
        let path = import.directory().join(LOGIN);
        let login = trusted::read_bytes_if_there(&path, Trust::Strict)?;
        let earlier = kept(name, &text, &config).and_then(|file| checked(&file));
        let hosts = hosts(&import.checked);
        let is_same = earlier.is_some_and(|earlier| hosts.is_subset(&self::hosts(&earlier)));
        if login.is_some() && !is_same {
            warn(&format!(
                "the user name and password of {name} will not be kept: the new file names other servers or proxies"
            ));
        }
        Ok(login.filter(|_| is_same))
    };
    imports.iter().map(login).collect()
}

/// Where a user name and a password can get to. A proxy is no server that was named before, and a
/// server no proxy.
fn hosts(checked: &Checked) -> BTreeSet<String> {
    let host = |server: &String| Some(server.rsplit_once(':')?.0.to_ascii_lowercase());
    let proxy = |proxy: &String| format!("proxy {}", proxy.to_ascii_lowercase());
    let servers = checked.servers.iter().filter_map(host);
    servers.chain(checked.proxies.iter().map(proxy)).collect()
}

/// The file of a section that was imported, in the directory that import made for it.
fn kept(name: &NetnsName, text: &Text, config: &Config) -> Option<PathBuf> {
    let path = section_file(name);
    text.more
        .iter()
        .find(|(file, text)| *file == path && is_ours(text))?;
    let mut sections = config.sections.iter();
    let section = sections
        .find(|section| section.file == path && section.name.eq_ignore_ascii_case(name.as_str()))?;
    let mut files = section.request.vpn.iter().chain(&section.request.wireguard);
    files
        .find(|file| file.parent() == Some(&directory(name)))
        .cloned()
}

/// What is in a file that is kept, if it can still be used.
fn checked(file: &Path) -> Option<Checked> {
    let kinds = [Kind::OpenVpn, Kind::WireGuard];
    kinds.iter().find_map(|kind| check_named(file, *kind).ok())
}

/// Removes a section that was imported, and its files.
pub fn remove(name: &NetnsName) -> Result<()> {
    let was_pending = is_pending(name);
    finish(name)?;
    recover()?;
    let text = Text::read()?;
    let path = section_file(name);
    let section = text.more.iter().find(|(file, _)| *file == path);
    let is_ours = section.is_some_and(|(_, text)| is_ours(text));
    if !is_ours && !was_pending {
        let config = text.parse().unwrap_or_default();
        let imported = imported(&text, &config);
        let names = imported.iter().map(|(name, _)| name.as_str());
        let error = Error::new(format!("remove {name}"), "import did not create it");
        return Err(match runns_shared::suggest::nearest(name.as_str(), names) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint("runns-exec import --list shows what it created"),
        });
    }
    if is_ours {
        give_up(name)?;
        finish(name)?;
    }
    // If it was the last one.
    let _ = std::fs::remove_dir(IMPORTED);
    Ok(())
}

/// Removes a section. From here on, its files are to be removed, too; but not after an error that
/// leaves the section.
fn give_up(name: &NetnsName) -> Result<()> {
    let files = directory(name);
    let pending = files.join(PENDING);
    let unmark = || drop(std::fs::remove_file(&pending));
    if files.exists() {
        write_file(&pending, b"", 0o600)
            .and_then(|()| sync(&files))
            .inspect_err(|_| unmark())?;
    }
    remove_section(name).map_err(|error| match section_file(name).exists() {
        true => {
            unmark();
            error
        }
        false => later(error),
    })
}

/// The command that builds a section.
pub fn build_command(name: &NetnsName) -> String {
    format!("sudo runns-exec build -s {}", quote(name.as_str()))
}
