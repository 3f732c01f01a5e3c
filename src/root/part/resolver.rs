//! The namespace's own resolver: resolv.conf and nsswitch.conf in /etc/netns/NAME, where
//! ip-netns(8) looks for them.
//!
//! resolv.conf is a copy of `Resolve`, or generated from `DNS`, or a copy of the host's upstream
//! servers if the host's own file lists only loopback servers, which cannot be reached from inside.
//! nsswitch.conf is a copy of the host's in which host names are looked up only in files and by
//! DNS: other modules ask services of the host (nscd, systemd-resolved, avahi), which answer from
//! outside the namespace.

use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::netns::remove_made_directory;
use super::{Part, Site};
use crate::facts::pushed;
use crate::file;
use crate::finding::Finding;
use crate::host::make_directory_for_now;
use crate::seen::Subject;
use runns_privileged::view::{ETC_NETNS, NAME_SERVICES};
use runns_shared::config::Dns;
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::name::NetnsName;
use runns_shared::output::warn;
use runns_shared::plan::{self, Plan, Request};
use runns_shared::record::Record;
use runns_shared::resolv_conf::{OWN_MODULES, servers};
use runns_shared::trusted::{self, Trust};

/// The beginning of every file that build creates in /etc/netns. After a reboot the record is gone
/// but the file is not: this mark identifies it.
const MARK: &str = "# Made by runns-exec build, removed by runns-exec clean.";
const HOST_FILE: &str = "/etc/resolv.conf";
/// The servers behind the stub of systemd-resolved (systemd-resolved.service(8)).
const UPSTREAM_FILE: &str = "/run/systemd/resolve/resolv.conf";
const RESOLV_CONF: &str = "resolv.conf";
const NSSWITCH: &str = "nsswitch.conf";
/// The part.
pub struct Resolver;

fn directory(name: &NetnsName) -> PathBuf {
    Path::new(ETC_NETNS).join(name.as_str())
}

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

    fn apply(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan().clone();
        remove_leftovers(&plan.request.name)?;
        let Some(resolver) = &plan.resolver else {
            return Ok(());
        };
        let directory = directory(&plan.request.name);
        // The services' directories must exist to be masked for programs inside. An existing one
        // may belong to its service; one whose parent (/run/systemd, say) does not exist will never
        // have a service.
        let services = NAME_SERVICES.iter().map(Path::new);
        let services =
            services.filter(|path| !path.exists() && path.parent().is_some_and(Path::exists));
        for made in [Path::new(ETC_NETNS), &directory]
            .into_iter()
            .chain(services)
        {
            make_directory_for_now(site.lock, made)?;
        }
        for (name, text) in files(resolver) {
            file::write(&directory.join(name), text)?;
            site.record.files.push(name.to_string());
        }
        site.save()
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let name = site.plan().request.name.clone();
        let removed = remove_marked(&name)?;
        remove_made_directory(site, &directory(&name))?;
        remove_made_directory(site, Path::new(ETC_NETNS))?;
        if Record::names()?.iter().all(|other| *other == name) {
            NAME_SERVICES
                .iter()
                .try_for_each(|path| remove_made_directory(site, Path::new(path)))?;
        }
        Ok(removed)
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let plan = &subject.record.plan;
        let directory = directory(&plan.request.name);
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
                plan.request.name
            );
            found.push(Finding::degraded(show(&own), "gone").cure(cure));
        }
        Ok(found)
    }

    fn mend(&self, site: &mut Site, _found: &[Finding]) -> Result<()> {
        let Some(resolver) = current(site.plan()) else {
            return Ok(());
        };
        let directory = directory(&site.plan().request.name);
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

/// Decides which resolver the namespace gets, and reads the files that it is made from.
pub fn decide(request: &Request) -> Result<Option<plan::Resolver>> {
    let own = directory(&request.name).join(RESOLV_CONF);
    let (from, text) = if let Some(file) = &request.resolve {
        let text = if request.resolve_named {
            trusted::read_named(file)?
        } else {
            trusted::read(file, Trust::Strict)?
        };
        (show(file), Some(text))
    } else if let Some(dns) = &request.dns {
        ("DNS".to_string(), Some(text_of(dns)))
    } else if own.exists() && !is_marked(&own) {
        (show(&own), None)
    } else if let Some((file, text)) = of_host(request.dns_lock == Some(true))? {
        (show(file), Some(text))
    } else {
        return Ok(None);
    };
    let servers = match &text {
        Some(text) => servers(text),
        None => servers(&trusted::read(&own, Trust::Strict)?),
    };
    decided(request, from, text, servers).map(Some)
}

/// The resolver that asks the servers of `dns`.
pub fn from_dns(request: &Request, from: &str, dns: &Dns) -> Result<plan::Resolver> {
    decided(
        request,
        from.to_string(),
        Some(text_of(dns)),
        dns.servers.clone(),
    )
}

fn decided(
    request: &Request,
    from: String,
    text: Option<String>,
    servers: Vec<IpAddr>,
) -> Result<plan::Resolver> {
    let reachable = servers.iter().any(|server| !server.is_loopback());
    if !reachable && request.dns_lock == Some(true) {
        warn("DNSLock=yes has no effect: the resolver is a loopback address, or there is none");
    }
    let lock = reachable && request.dns_lock != Some(false);
    Ok(plan::Resolver {
        from,
        text,
        servers,
        lock,
        nsswitch: nsswitch(&request.name)?,
    })
}

/// Replaces the servers in a resolv.conf that build created. The file is rewritten in place, so
/// that processes that have it mounted see the change.
pub fn rewrite(name: &NetnsName, from: &str, dns: &Dns) -> Result<()> {
    let path = directory(name).join(RESOLV_CONF);
    if !is_marked(&path) {
        return Ok(());
    }
    let text = format!("{MARK} From {from}\n{}", text_of(dns));
    file::overwrite(&path, text)
}

/// The host's servers, if the namespace cannot simply use the host's own file: because that lists
/// only loopback servers, or because the namespace is to be locked to its current servers
/// (`as_it_is`).
fn of_host(as_it_is: bool) -> Result<Option<(&'static Path, String)>> {
    let host = trusted::read_named(Path::new(HOST_FILE)).unwrap_or_default();
    let upstream = Path::new(UPSTREAM_FILE);
    if only_loopback(&host) && upstream.exists() {
        let text = trusted::read_named(upstream)?;
        if !only_loopback(&text) {
            return Ok(Some((upstream, text)));
        }
    }
    Ok(as_it_is.then_some((Path::new(HOST_FILE), host)))
}

/// Checks that the files can be put in place, before anything is created.
pub fn check(plan: &Plan) -> Result<()> {
    let Some(resolver) = &plan.resolver else {
        if only_loopback(&trusted::read_named(Path::new(HOST_FILE)).unwrap_or_default()) {
            warn(&format!(
                "{HOST_FILE} lists only loopback servers, which programs inside cannot reach: set Resolve or DNS"
            ));
        }
        return Ok(());
    };
    for (name, text) in [
        (RESOLV_CONF, &resolver.text),
        (NSSWITCH, &resolver.nsswitch),
    ] {
        let (ours, namesake) = (
            directory(&plan.request.name).join(name),
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
            .hint("remove it, or leave out Resolve and DNS to use it as it is"));
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

fn text_of(dns: &Dns) -> String {
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

/// Whether only loopback servers are asked. If the file lists none, the C library asks 127.0.0.1.
fn only_loopback(text: &str) -> bool {
    servers(text).iter().all(IpAddr::is_loopback)
}

/// The host's nsswitch.conf with a `hosts:` line that asks no service of the host. `None` if the
/// host has no such file (the C library's default asks files and DNS only), or if the administrator
/// provided one for the namespace.
fn nsswitch(name: &NetnsName) -> Result<Option<String>> {
    let (host, own) = (
        Path::new("/etc").join(NSSWITCH),
        directory(name).join(NSSWITCH),
    );
    if !host.exists() || (own.exists() && !is_marked(&own)) {
        return Ok(None);
    }
    Ok(Some(without_host_modules(&trusted::read_named(&host)?)))
}

/// `text` with only [`OWN_MODULES`] left in its `hosts:` lines, and dns added if it is missing.
fn without_host_modules(text: &str) -> String {
    let mut lines = String::new();
    let mut seen = false;
    for line in text.lines() {
        match line.trim_start().split_once(':') {
            Some((database, modules)) if database.trim_end() == "hosts" => {
                seen = true;
                lines.push_str(&format!("hosts: {}\n", own_modules(modules)));
            }
            _ => lines.push_str(&format!("{line}\n")),
        }
    }
    if !seen {
        lines.push_str("hosts: files dns\n");
    }
    lines
}

/// The modules of a line that ask no service. Actions on results (`[NOTFOUND=return]`) are dropped
/// with the other modules.
fn own_modules(line: &str) -> String {
    let line = line.split('#').next().unwrap_or_default();
    let mut modules: Vec<&str> = Vec::new();
    for module in line
        .split_whitespace()
        .filter(|word| OWN_MODULES.contains(word))
    {
        if !modules.contains(&module) {
            modules.push(module);
        }
    }
    if !modules.contains(&"dns") {
        modules.push("dns");
    }
    modules.join(" ")
}

fn is_marked(path: &Path) -> bool {
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

/// The resolver that the namespace has now: the one that was built, with the servers that its
/// tunnels provide by now.
pub fn current(plan: &Plan) -> Option<plan::Resolver> {
    let built = plan.resolver.as_ref()?;
    let dns = pushed::collect(plan);
    if built.from != plan::FROM_TUNNEL || dns.servers.is_empty() {
        return Some(built.clone());
    }
    Some(plan::Resolver {
        text: Some(text_of(&dns)),
        servers: dns.servers,
        ..built.clone()
    })
}

/// The files that build creates in /etc/netns/NAME, each with its text.
fn files(resolver: &plan::Resolver) -> Vec<(&'static str, String)> {
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
        mode if mode & 0o022 != 0 => {
            Some(format!("others than root can write it (mode {mode:04o})"))
        }
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
        assert_eq!(
            servers("# nameserver 1.1.1.1\nnameserver 8.8.8.8 # x\n"),
            ["8.8.8.8".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn hosts_line_asks_no_service() {
        let hosts = |line: &str| without_host_modules(&format!("passwd: files\nhosts: {line}\n"));
        assert_eq!(
            hosts("files mdns4_minimal [NOTFOUND=return] dns mymachines myhostname # x"),
            "passwd: files\nhosts: files dns myhostname\n"
        );
        assert_eq!(
            hosts("files resolve [!UNAVAIL=return]"),
            "passwd: files\nhosts: files dns\n"
        );
        assert_eq!(
            without_host_modules("passwd: files"),
            "passwd: files\nhosts: files dns\n"
        );
    }

    #[test]
    fn text_of_servers() {
        let dns = Dns {
            servers: vec!["10.0.0.1".parse().unwrap()],
            search: vec!["lan".into()],
        };
        assert_eq!(text_of(&dns), "nameserver 10.0.0.1\nsearch lan\n");
    }
}
