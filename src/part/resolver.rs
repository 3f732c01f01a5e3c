//! The namespace's resolv.conf, at /etc/netns/NAME/resolv.conf as ip-netns(8) has it: a copy of `Resolve`, or of the
//! host's upstream servers where the host's own file names only servers on loopback, which the inside cannot reach.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::netns::remove_made_directory;
use super::{Part, Site};
use crate::error::{Context, Error, Result};
use crate::host::HostState;
use crate::name::NetnsName;
use crate::plan::Plan;
use crate::privileged::view::ETC_NETNS;
use crate::record::make_directory;
use crate::text::{show, warn};
use crate::trusted::{self, Trust};

/// First line of every file that build makes in /etc/netns. After a reboot the record is gone and the file is not: by
/// this line it is known.
const MARK: &str = "# Made by runns-exec build, removed by runns-exec clean.";
const HOST_FILE: &str = "/etc/resolv.conf";
/// The servers behind the stub of systemd-resolved (systemd-resolved.service(8)).
const UPSTREAM_FILE: &str = "/run/systemd/resolve/resolv.conf";
const NAME: &str = "resolv.conf";

/// The part.
pub struct Resolver;

fn directory(name: &NetnsName) -> PathBuf {
    Path::new(ETC_NETNS).join(name.as_str())
}

/// Where the text of the namespace's resolv.conf comes from, if it has one of its own.
enum Source {
    /// This file's text.
    File(PathBuf, String),
    /// The host's file, as it is.
    Host,
}

impl Part for Resolver {
    fn describe(&self, plan: &Plan) -> Option<String> {
        let from = match &plan.request.resolve {
            Some(file) => show(file),
            None => format!("the host's {HOST_FILE}"),
        };
        Some(format!("resolver from {from}"))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan().clone();
        let name = &plan.request.name;
        remove_marked(name)?;
        let path = directory(name).join(NAME);
        let Source::File(source, text) = choose(&plan)? else { return Ok(()) };
        if plan.request.resolve.is_none() && path.exists() {
            // The administrator's own; it is in force as it is.
            return Ok(());
        }
        for made in [Path::new(ETC_NETNS), directory(name).as_path()] {
            if make_directory(made)? {
                HostState::update(site.lock, |host| host.directories.push(made.to_path_buf()))?;
            }
        }
        let write = || -> std::io::Result<()> {
            let mut file = File::options().write(true).create_new(true).mode(0o644).open(&path)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            file.write_all(format!("{MARK} From {}\n{text}", show(&source)).as_bytes())
        };
        write().cannot(|| format!("make {}", show(&path)))?;
        site.record.files = vec![NAME.to_string()];
        site.save()
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let name = site.plan().request.name.clone();
        let removed = remove_marked(&name)?;
        remove_made_directory(site, &directory(&name))?;
        remove_made_directory(site, Path::new(ETC_NETNS))?;
        Ok(removed)
    }
}

/// Checks, before anything is made, that the files can be read and put in place.
pub fn check(plan: &Plan) -> Result<()> {
    let path = directory(&plan.request.name).join(NAME);
    let source = choose(plan)?;
    if std::fs::symlink_metadata(HOST_FILE).is_err() {
        return Err(Error::new(format!("put a {NAME} in place"), format!("there is no {HOST_FILE}"))
            .hint(format!("sudo touch {HOST_FILE}")));
    }
    if plan.request.resolve.is_some() && path.exists() && !is_marked(&path) {
        return Err(Error::new(format!("make {}", show(&path)), "it is there already, and runns-exec did not make it")
            .hint("remove it, or leave Resolve out: it is used as it is"));
    }
    match source {
        Source::Host if plan.request.resolve.is_none() && !path.exists() => {
            let text = std::fs::read_to_string(HOST_FILE).unwrap_or_default();
            if only_loopback(&text) {
                warn(&format!(
                    "{HOST_FILE} names only servers on loopback, which programs inside cannot reach: set Resolve"
                ));
            }
        }
        Source::File(file, text) if servers(&text).is_empty() => {
            warn(&format!("{} names no server: programs inside will find no names", show(file)));
        }
        _ => {}
    }
    Ok(())
}

fn choose(plan: &Plan) -> Result<Source> {
    let request = &plan.request;
    if let Some(file) = &request.resolve {
        let text = if request.resolve_named { trusted::read_named(file)? } else { trusted::read(file, Trust::Strict)? };
        return Ok(Source::File(file.clone(), text));
    }
    let host = std::fs::read_to_string(HOST_FILE).unwrap_or_default();
    let upstream = Path::new(UPSTREAM_FILE);
    if only_loopback(&host) && upstream.exists() {
        let text = trusted::read_named(upstream)?;
        if !only_loopback(&text) {
            return Ok(Source::File(upstream.to_path_buf(), text));
        }
    }
    Ok(Source::Host)
}

/// The servers of a resolv.conf(5).
fn servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())??.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(server).collect()
}

/// Whether only loopback servers are asked: with none named, the C library asks 127.0.0.1.
fn only_loopback(text: &str) -> bool {
    servers(text).iter().all(IpAddr::is_loopback)
}

fn is_marked(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|text| text.starts_with(MARK.as_bytes()))
}

/// Removes the files of /etc/netns/`name` that carry the mark, and the directory if it is empty then; whether there
/// was one.
pub fn remove_marked(name: &NetnsName) -> Result<bool> {
    let directory = directory(name);
    let Ok(entries) = std::fs::read_dir(&directory) else { return Ok(false) };
    let mut removed = false;
    for entry in entries {
        let path = entry.cannot(|| format!("list {}", show(&directory)))?.path();
        if std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_file()) && is_marked(&path) {
            std::fs::remove_file(&path).cannot(|| format!("remove {}", show(&path)))?;
            removed = true;
        }
    }
    if removed {
        // Not empty: it is somebody else's too.
        let _ = std::fs::remove_dir(&directory);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_are_told_apart() {
        assert!(only_loopback("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(only_loopback("nameserver ::1\n"));
        assert!(only_loopback(""));
        assert!(!only_loopback("nameserver 127.0.0.1\nnameserver 9.9.9.9\n"));
        assert!(!only_loopback("nameserver\tfe80::1%eth0\n"));
        assert_eq!(servers("# nameserver 1.1.1.1\nnameserver 8.8.8.8 # x\n"), ["8.8.8.8".parse::<IpAddr>().unwrap()]);
    }
}
