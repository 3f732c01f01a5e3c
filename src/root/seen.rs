//! What can be seen of the host and of the inside of a namespace, for [`crate::part::Part::look`].
//! What is the same for all namespaces is looked up once, when it is first asked for.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;

use ipnet::Ipv4Net;

use crate::finding::Finding;
use crate::kernel::netlink::{Link, Netlink, Route, in_namespace, in_thread};
use crate::kernel::nfnetlink;
use crate::kernel::sysctl::sysctl;
use crate::namespace;
use runns_privileged::{Privilege, netns};
use runns_shared::config::{Config, Text};
use runns_shared::error::{Error, Result};
use runns_shared::escape::{one_line, show};
use runns_shared::inside::Inside;
use runns_shared::proc::Proc;
use runns_shared::record::Record;

/// The host, as it was when it was first looked at.
pub struct Seen {
    /// Whether root looks, who sees everything.
    pub root: bool,
    /// What another process saw inside the namespaces.
    handed_over: Vec<Inside>,
    netlink: OnceCell<Result<Netlink>>,
    links: OnceCell<Result<Vec<Link>>>,
    addresses: OnceCell<Result<Vec<(u32, Ipv4Net)>>>,
    routes: OnceCell<Result<Vec<Route>>>,
    config: OnceCell<(Config, Option<Error>)>,
    findings: RefCell<BTreeMap<String, Result<Vec<Finding>>>>,
    texts: RefCell<BTreeMap<String, Result<String>>>,
}

impl Seen {
    /// Nothing has been looked at yet but what was `handed_over`.
    pub fn new(handed_over: Vec<Inside>) -> Self {
        Self {
            root: nix::unistd::geteuid().is_root(),
            handed_over,
            netlink: OnceCell::new(),
            links: OnceCell::new(),
            addresses: OnceCell::new(),
            routes: OnceCell::new(),
            config: OnceCell::new(),
            findings: RefCell::new(BTreeMap::new()),
            texts: RefCell::new(BTreeMap::new()),
        }
    }

    /// The host's network.
    pub fn netlink(&self) -> Result<&Netlink> {
        self.netlink
            .get_or_init(Netlink::here)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The host's devices.
    pub fn links(&self) -> Result<&[Link]> {
        let links = self.links.get_or_init(|| self.netlink()?.links());
        links.as_deref().map_err(Clone::clone)
    }

    /// The host's device called `name`.
    pub fn link(&self, name: &str) -> Result<Option<&Link>> {
        Ok(self.links()?.iter().find(|link| link.name == name))
    }

    /// The host's IPv4 addresses, each with the index of its device.
    pub fn addresses(&self) -> Result<&[(u32, Ipv4Net)]> {
        let addresses = self.addresses.get_or_init(|| self.netlink()?.addresses());
        addresses.as_deref().map_err(Clone::clone)
    }

    /// The host's IPv4 routes in all tables.
    pub fn routes(&self) -> Result<&[Route]> {
        let routes = self.routes.get_or_init(|| self.netlink()?.routes());
        routes.as_deref().map_err(Clone::clone)
    }

    /// Whether the host's sysctl `name` has this value. One that does not exist is taken to have
    /// it.
    pub fn has_sysctl(&self, name: &str, value: &str) -> Result<bool> {
        Ok(sysctl(name)?.is_none_or(|now| now == value))
    }

    /// What is right in the configuration, and an error in it, with which only root can enter
    /// namespaces.
    pub fn configuration(&self) -> (&Config, Option<&Error>) {
        let read = || match Text::read() {
            Ok(text) => {
                let (config, wrong) = check(&text);
                (config, wrong.into_iter().next())
            }
            Err(error) => (Config::default(), Some(error)),
        };
        let (config, error) = self.config.get_or_init(read);
        (config, error.as_ref())
    }

    /// The configuration, if there is no error in it.
    pub fn config(&self) -> Option<&Config> {
        let (config, error) = self.configuration();
        error.is_none().then_some(config)
    }

    /// What `look` finds, which is the same for every namespace that has `what`: it looks once.
    pub fn once(
        &self,
        what: &str,
        look: impl FnOnce() -> Result<Vec<Finding>>,
    ) -> Result<Vec<Finding>> {
        if let Some(found) = self.findings.borrow().get(what) {
            return found.clone();
        }
        let found = look();
        self.findings
            .borrow_mut()
            .insert(what.to_string(), found.clone());
        found
    }

    /// The text that `read` returns, which is the same for all namespaces: it is read once.
    pub fn text(&self, what: &str, read: impl FnOnce() -> Result<String>) -> Result<String> {
        if let Some(text) = self.texts.borrow().get(what) {
            return text.clone();
        }
        let text = read();
        self.texts
            .borrow_mut()
            .insert(what.to_string(), text.clone());
        text
    }

    /// Whether the processes of other users can be seen (proc(5), hidepid).
    pub fn sees_processes(&self) -> bool {
        self.root || Proc::open().is_ok_and(|proc| proc.network(1).is_some())
    }

    fn inside(&self, record: &Record) -> Result<Option<Inside>> {
        let name = &record.plan.name;
        if self.root {
            // clean leaves a process alone of which only a thread is inside.
            let look = || {
                let (privilege, netns) = (Privilege::take()?, netns::open(name)?);
                netns::visit(&privilege, &netns, |_| Ok(()), || netns::look_here(name))
            };
            return in_thread(look).map(Some);
        }
        Ok(self
            .handed_over
            .iter()
            .find(|inside| inside.name == name.as_str())
            .cloned())
    }
}

/// What is right in the configuration, and everything that is wrong.
pub fn check(text: &Text) -> (Config, Vec<Error>) {
    let (config, mut wrong) = text.check();
    wrong.extend(ambiguity(&config));
    (config, wrong)
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

/// A namespace that is looked at.
pub struct Subject<'a> {
    /// What was built.
    pub record: &'a Record,
    /// What it shows of itself inside; `None` if it could not be entered by its name.
    pub inside: Option<Inside>,
    /// Why root could not enter it.
    pub closed: Option<Error>,
    /// Its name leads to another namespace.
    pub replaced: bool,
    /// The host.
    pub seen: &'a Seen,
    deep: OnceCell<Result<Option<Deep>>>,
}

impl<'a> Subject<'a> {
    /// Looks inside.
    pub fn new(record: &'a Record, seen: &'a Seen) -> Self {
        let (inside, closed) = match seen.inside(record) {
            Ok(inside) => (inside, None),
            Err(error) => (None, Some(error)),
        };
        let same = |inside: &Inside| {
            record
                .identity
                .is_some_and(|built| built.cookie == inside.identity.cookie)
        };
        let replaced = inside.as_ref().is_some_and(|inside| !same(inside));
        Self {
            record,
            inside: inside.filter(|_| !replaced),
            closed,
            replaced,
            seen,
            deep: OnceCell::new(),
        }
    }

    /// What only root can look at inside; `None` for everybody else, or if the namespace could not
    /// be entered.
    pub fn deep(&self) -> Result<Option<&Deep>> {
        if !self.seen.root || self.inside.is_none() {
            return Ok(None);
        }
        let look = || {
            let look_here = || Ok((Netlink::here()?.links()?, nfnetlink::generation_here()));
            let Some(file) = namespace::open_recorded(self.record)? else {
                return Ok(None);
            };
            let (links, generation) = in_namespace(file.as_fd(), look_here)?;
            Ok(Some(Deep {
                file,
                links,
                generation,
            }))
        };
        self.deep
            .get_or_init(look)
            .as_ref()
            .map(Option::as_ref)
            .map_err(Clone::clone)
    }
}

/// What only root can look at inside of a namespace.
pub struct Deep {
    /// The namespace.
    pub file: File,
    /// Its devices.
    pub links: Vec<Link>,
    /// The generation of its nftables ruleset.
    pub generation: Option<u64>,
}
