//! The files of namespaces in /etc/netns/NAME, where ip-netns(8) looks for them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::host::{make_directory_for_now, remove_made_directory};
use crate::kernel::file;
use crate::lock::Lock;
use runns_privileged::view::{EMPTY, ETC_NETNS, NAME_SERVICES};
use runns_shared::error::{Context, Result};
use runns_shared::escape::show;
use runns_shared::name::NetnsName;
use runns_shared::plan::Resolver;
use runns_shared::record::Record;
use runns_shared::request::Dns;

/// The beginning of every file that build creates in /etc/netns. After a reboot the record is gone
/// but the file is not: this mark identifies it.
const MARK: &str = "# Made by runns-exec build, removed by runns-exec clean.";

/// resolv.conf(5).
pub const RESOLV_CONF: &str = "resolv.conf";
/// nsswitch.conf(5).
pub const NSSWITCH: &str = "nsswitch.conf";

/// The directory of namespace `name`.
pub fn directory(name: &NetnsName) -> PathBuf {
    Path::new(ETC_NETNS).join(name.as_str())
}

/// Writes the files of the resolver that the record names.
pub fn write(lock: &Lock, record: &mut Record) -> Result<()> {
    let Some(resolver) = &record.plan.resolver else {
        return Ok(());
    };
    let directory = directory(&record.plan.name);
    make_directories(lock, &directory)?;
    for (name, text) in files(resolver) {
        file::write(&directory.join(name), text)?;
        record.files.push(name.to_string());
    }
    lock.save(record)
}

/// Makes the directories of what a namespace with a resolver of its own has.
fn make_directories(lock: &Lock, directory: &Path) -> Result<()> {
    // The services' directories must exist to be masked for programs inside. An existing one may
    // belong to its service; one whose parent (/run/systemd, say) does not exist will never have a
    // service.
    let services = NAME_SERVICES.iter().map(Path::new);
    let services =
        services.filter(|path| !path.exists() && path.parent().is_some_and(Path::exists));
    [Path::new(ETC_NETNS), directory, Path::new(EMPTY)]
        .into_iter()
        .chain(services)
        .try_for_each(|made| make_directory_for_now(lock, made))?;
    // For programs inside that ask for the mode of what covers a service's directory.
    std::fs::set_permissions(EMPTY, Permissions::from_mode(0o555))
        .cannot(|| format!("set the mode of {EMPTY}"))
}

/// Brings the files to those of `resolver`. One that stays is rewritten where it is, for programs
/// that have it mounted.
pub fn exchange(lock: &Lock, record: &mut Record, resolver: Option<&Resolver>) -> Result<()> {
    let directory = directory(&record.plan.name);
    let files = resolver.map_or(Vec::new(), files);
    if !files.is_empty() {
        make_directories(lock, &directory)?;
    }
    for (name, text) in &files {
        let path = directory.join(name);
        match std::fs::symlink_metadata(&path) {
            Ok(data) if data.is_file() && is_marked(&path) => {
                if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
                    file::overwrite(&path, text)?;
                }
            }
            _ => file::write(&path, text)?,
        }
    }
    let names = files.iter().map(|(name, _)| name.to_string()).collect();
    let old = std::mem::replace(&mut record.files, names);
    // Whoever enters needs those that are recorded.
    lock.save(record)?;
    for path in old
        .iter()
        .filter(|name| !record.files.contains(name))
        .map(|name| directory.join(name))
        .filter(|path| is_marked(path))
    {
        std::fs::remove_file(&path).cannot(|| format!("remove {}", show(&path)))?;
    }
    match files.is_empty() {
        true => remove_directories(lock, &record.plan.name),
        false => Ok(()),
    }
}

/// Removes what [`write()`] created; returns whether there was anything.
pub fn remove(lock: &Lock, name: &NetnsName) -> Result<bool> {
    let removed = remove_marked(name)?;
    remove_directories(lock, name)?;
    Ok(removed)
}

/// Removes the directories that were made for `name`, and, if it has the last record, those for all.
fn remove_directories(lock: &Lock, name: &NetnsName) -> Result<()> {
    remove_made_directory(lock, &directory(name))?;
    remove_made_directory(lock, Path::new(ETC_NETNS))?;
    if Record::names()?.iter().all(|other| other == name) {
        NAME_SERVICES
            .iter()
            .chain([&EMPTY])
            .try_for_each(|path| remove_made_directory(lock, Path::new(path)))?;
    }
    Ok(())
}

/// Brings the files that build created to those of `resolver`. Each is rewritten in place, so that
/// processes that have it mounted see the change.
pub fn rewrite(name: &NetnsName, resolver: &Resolver) -> Result<()> {
    for (file, text) in files(resolver) {
        let path = directory(name).join(file);
        if is_marked(&path) {
            file::overwrite(&path, text)?;
        }
    }
    Ok(())
}

/// The text of a resolv.conf with these servers.
pub fn text_of(dns: &Dns) -> String {
    let mut text: String = dns
        .servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    if !dns.search.is_empty() {
        text.push_str(&format!("search {}\n", dns.search.join(" ")));
    }
    text
}

/// Whether a build created the file.
pub fn is_marked(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|text| text.starts_with(MARK.as_bytes()))
}

/// Removes what a build left in /etc/netns/`name` before a reboot, which took its record, and then
/// the directory if it is empty; returns whether there was anything.
pub fn remove_leftovers(name: &NetnsName) -> Result<bool> {
    let removed = remove_marked(name)?;
    if removed {
        // It fails if the directory holds other files, and is to stay then.
        let _ = std::fs::remove_dir(directory(name));
    }
    Ok(removed)
}

/// Removes the files in /etc/netns/`name` that carry the mark, or are not complete; returns whether
/// there was one.
fn remove_marked(name: &NetnsName) -> Result<bool> {
    let directory = directory(name);
    let Ok(entries) = std::fs::read_dir(&directory) else {
        return Ok(false);
    };
    let mut removed = false;
    for name in [RESOLV_CONF, NSSWITCH] {
        removed |= file::remove_unfinished(&directory.join(name));
    }
    for entry in entries {
        let path = entry
            .cannot(|| format!("list {}", show(&directory)))?
            .path();
        if std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_file()) && is_marked(&path) {
            std::fs::remove_file(&path).cannot(|| format!("remove {}", show(&path)))?;
            removed = true;
        }
    }
    Ok(removed)
}

/// The files that build creates in /etc/netns/NAME, each with its text.
pub fn files(resolver: &Resolver) -> Vec<(&'static str, String)> {
    let marked = |text: &String| format!("{MARK} From {}\n{text}", resolver.from);
    let texts = [
        (RESOLV_CONF, &resolver.text),
        (NSSWITCH, &resolver.nsswitch),
    ];
    texts
        .into_iter()
        .filter_map(|(name, text)| Some((name, marked(text.as_ref()?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_servers() {
        let dns = Dns {
            servers: vec!["10.0.0.1".parse().unwrap()],
            search: vec!["lan".into()],
        };
        assert_eq!(text_of(&dns), "nameserver 10.0.0.1\nsearch lan\n");
    }
}
