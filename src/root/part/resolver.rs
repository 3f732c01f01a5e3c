//! The namespace's own resolver: resolv.conf and nsswitch.conf in /etc/netns/NAME, where
//! ip-netns(8) looks for them.
//!
//! resolv.conf is a copy of `Resolve`, or generated from `DNS`, or a copy of the host's upstream
//! servers if the host's own file lists only loopback servers, which cannot be reached from inside.
//! nsswitch.conf is a copy of the host's in which host names are looked up only in files and by
//! DNS: other modules ask services of the host (nscd, systemd-resolved, avahi), which answer from
//! outside the namespace.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{Part, Site};
use crate::etc_netns::{self, NSSWITCH, RESOLV_CONF, directory, files, is_marked};
use crate::facts::resolver::{HOST_FILE, cure, current, unreachable};
use crate::finding::Finding;
use crate::host::make_directory_for_now;
use crate::kernel::file;
use crate::seen::Subject;
use runns_privileged::view::ETC_NETNS;
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::{escape, show};
use runns_shared::output::warn;
use runns_shared::plan::Plan;

/// The part.
pub struct Resolver;

impl Part for Resolver {
    fn is_in(&self, _plan: &Plan) -> bool {
        true
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        let from = plan
            .resolver
            .as_ref()
            .map_or(format!("the host's {HOST_FILE}"), |resolver| {
                resolver.from.clone()
            });
        Some(format!("resolver from {from}"))
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        check(plan)
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        etc_netns::remove_leftovers(&site.plan().name)?;
        etc_netns::write(site.lock, &mut site.record)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        etc_netns::remove(site.lock, &site.plan().name)
    }

    fn change(&self, site: &mut Site) -> Result<()> {
        let resolver = current(site.plan());
        etc_netns::exchange(site.lock, &mut site.record, resolver.as_ref())
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let plan = &subject.record.plan;
        let directory = directory(&plan.name);
        let Some(resolver) = current(plan) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        if let Ok(data) = std::fs::symlink_metadata(&directory).as_ref() {
            found.extend(objection(data, true).map(|how| Finding::degraded(show(&directory), how)));
        }
        for (name, text) in files(&resolver) {
            let path = directory.join(name);
            found.extend(wrong(&path, &text).map(|how| Finding::degraded(show(&path), how)));
        }
        let own = directory.join(RESOLV_CONF);
        if resolver.text.is_none() && !own.exists() {
            let cure = format!(
                "put it back, or: sudo runns-exec clean {}, then build it again",
                plan.name
            );
            found.push(Finding::degraded(show(&own), "gone").cure(cure));
        }
        Ok(found)
    }

    fn repair(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        let Some(resolver) = current(site.plan()) else {
            return Ok(());
        };
        let directory = directory(&site.plan().name);
        if std::fs::symlink_metadata(&directory).is_ok_and(|data| !data.is_dir()) {
            std::fs::remove_file(&directory).cannot(|| format!("remove {}", show(&directory)))?;
        }
        for made in [Path::new(ETC_NETNS), &directory] {
            if std::fs::symlink_metadata(made).is_err() {
                make_directory_for_now(site.lock, made)?;
            }
        }
        own(&directory, 0o755)?;
        for (name, text) in files(&resolver) {
            let path = directory.join(name);
            if wrong(&path, &text).is_some() {
                restore(&path, &text)?;
            }
        }
        Ok(())
    }
}

/// Checks that the files can be put in place, before anything is created.
fn check(plan: &Plan) -> Result<()> {
    if let Some(how) = unreachable(plan) {
        warn(&format!("{how}: {}", cure(plan)));
    }
    let Some(resolver) = &plan.resolver else {
        return Ok(());
    };
    let text = resolver.text.as_deref().unwrap_or_default();
    let zoned = text
        .lines()
        .find(|line| line.trim_start().starts_with("nameserver") && line.contains('%'));
    if let Some(server) = zoned.and_then(|line| line.split_whitespace().nth(1)) {
        let server = escape(server.as_bytes());
        warn(&format!(
            "{server} is on a link of the host, which programs inside cannot reach"
        ));
    }
    for (name, text) in [
        (RESOLV_CONF, &resolver.text),
        (NSSWITCH, &resolver.nsswitch),
    ] {
        let (ours, namesake) = (
            directory(&plan.name).join(name),
            Path::new("/etc").join(name),
        );
        if std::fs::symlink_metadata(&namesake).is_err() && (text.is_some() || ours.exists()) {
            return Err(Error::new(
                format!("put a {name} in place"),
                format!("there is no {}", show(&namesake)),
            )
            .hint(format!("sudo touch {}", show(&namesake))));
        }
        if text.is_some() && std::fs::symlink_metadata(&ours).is_ok() && !is_marked(&ours) {
            return Err(Error::new(
                format!("create {}", show(&ours)),
                "it exists already, and runns-exec did not create it",
            )
            .hint("remove it, or use it unchanged: without Resolve and DNS in the section"));
        }
    }
    if resolver.servers.is_empty() {
        warn(&format!(
            "{} lists no server: programs inside cannot resolve names",
            resolver.from
        ));
    }
    Ok(())
}

/// Why nobody enters with such a file or directory, or nothing.
fn objection(data: &std::fs::Metadata, directory: bool) -> Option<String> {
    match data.mode() & 0o7777 {
        _ if data.file_type().is_symlink() => Some("a symbolic link".to_string()),
        _ if directory != data.is_dir() => Some(format!(
            "not a {}",
            if directory {
                "directory"
            } else {
                "regular file"
            }
        )),
        _ if data.uid() != 0 => Some(format!("owned by uid {}, not by root", data.uid())),
        mode if mode & 0o022 != 0 => Some(format!(
            "users other than root can write to it (mode {mode:04o})"
        )),
        mode if mode & 0o444 != 0o444 => {
            Some(format!("not everybody can read it (mode {mode:04o})"))
        }
        _ => None,
    }
}

/// What is wrong with a file that build created with `text`.
fn wrong(path: &Path, text: &str) -> Option<String> {
    let Ok(data) = std::fs::symlink_metadata(path) else {
        return Some("gone".to_string());
    };
    objection(&data, false).or_else(|| match std::fs::read(path) {
        Ok(now) if now == text.as_bytes() => None,
        Ok(now) if now.is_empty() => Some("empty".to_string()),
        Ok(_) => Some("changed".to_string()),
        Err(error) => Some(format!("cannot be read: {error}")),
    })
}

fn own(path: &Path, mode: u32) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(0), Some(0))
        .cannot(|| format!("set the owner of {}", show(path)))?;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).cannot(|| format!("set the mode of {}", show(path)))
}

/// Restores a file. A regular file of root's alone is rewritten in place, so that programs that
/// have it mounted see the change. Whoever could write another one may still have it open: it is
/// replaced.
fn restore(path: &Path, text: &str) -> Result<()> {
    let data = std::fs::symlink_metadata(path).ok();
    match data {
        Some(data) if objection(&data, false).is_none() && data.nlink() == 1 => {
            return file::overwrite(path, text);
        }
        Some(data) if data.is_dir() => {
            std::fs::remove_dir_all(path).cannot(|| format!("remove {}", show(path)))?;
        }
        _ => {}
    }
    file::write(path, text)
}
