//! What the command line and a section of the configuration ask for, together.

use std::fmt::Display;
use std::path::PathBuf;

use runns_shared::config::Section;
use runns_shared::error::{Error, Result};
use runns_shared::escape::{escape, show};
use runns_shared::exceptions::Published;
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::plan::Plan;
use runns_shared::record::Record;
use runns_shared::request::Request;

/// What options of build say instead of a section, or in addition to it. A record keeps them as
/// words ([`Request::given`]): what the section says changes, and they hold on.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// --name
    pub name: Option<NetnsName>,
    /// --int
    pub interface: Option<IfaceName>,
    /// --out
    pub uplink: Option<IfaceName>,
    /// --resolve, an absolute path.
    pub resolve: Option<PathBuf>,
    /// --publish, each.
    pub published: Vec<Published>,
}

impl Given {
    /// Those of a record.
    pub fn of(words: &[String]) -> Self {
        let mut given = Self::default();
        for word in words {
            match word.split_once('=') {
                Some(("--name", name)) => given.name = NetnsName::new(name).ok(),
                Some(("--int", name)) => given.interface = IfaceName::new(name).ok(),
                Some(("--out", name)) => given.uplink = IfaceName::new(name).ok(),
                Some(("--resolve", file)) => given.resolve = Some(file.into()),
                Some(("--publish", port)) => given.published.extend(Published::parse(port).ok()),
                _ => {}
            }
        }
        given
    }

    /// As words of the command line.
    pub fn words(&self) -> Vec<String> {
        let word = |option: &str, value: &dyn Display| format!("--{option}={value}");
        let name = self.name.iter().map(|name| word("name", name));
        let interface = self.interface.iter().map(|name| word("int", name));
        let uplink = self.uplink.iter().map(|name| word("out", name));
        let resolve = self.resolve.iter();
        let resolve = resolve.map(|file| word("resolve", &file.display()));
        let published = self.published.iter().map(|port| word("publish", port));
        let all = name.chain(interface).chain(uplink).chain(resolve);
        all.chain(published).collect()
    }

    /// These, and those of `earlier` that are not among them.
    fn or(self, earlier: Self) -> Self {
        Self {
            name: self.name.or(earlier.name),
            interface: self.interface.or(earlier.interface),
            uplink: self.uplink.or(earlier.uplink),
            resolve: self.resolve.or(earlier.resolve),
            published: match self.published.is_empty() {
                true => earlier.published,
                false => self.published,
            },
        }
    }
}

/// What the command line and the section ask for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The namespace; the next vpnX if `None`.
    pub name: Option<NetnsName>,
    /// The host's end of the veth pair; by default it follows from the name.
    pub interface: Option<IfaceName>,
    /// What it shall have.
    pub request: Request,
    /// The section, of which options that are given may have changed something.
    section: Option<Section>,
}

impl Wanted {
    /// What a section, which is recorded as `name`, asks for.
    pub fn of_section(section: &Section, name: Option<String>) -> Self {
        Self {
            name: Some(section.netns.clone()),
            interface: section.interface_in.clone(),
            request: Request {
                section: name,
                ..section.request.clone()
            },
            section: Some(section.clone()),
        }
    }

    /// What was built, from no section.
    pub fn of_plan(plan: Plan) -> Self {
        Self {
            name: Some(plan.name),
            interface: Some(plan.interface),
            request: plan.request,
            section: None,
        }
    }

    /// Adds what options say. An error names a port that is published already; the others are added
    /// all the same.
    pub fn add(&mut self, given: &Given) -> Result<()> {
        self.name = given.name.clone().or(self.name.take());
        self.interface = given.interface.clone().or(self.interface.take());
        let request = &mut self.request;
        request.given = given.words();
        request.uplink = given.uplink.clone().or(request.uplink.take());
        if let Some(file) = &given.resolve {
            request.resolve = Some(file.clone());
            request.resolve_named = true;
            request.dns = None;
        }
        let mut publish = |port: &Published| {
            let added = request.exceptions.publish(*port);
            added.map_err(|error| error.within(format!("publish {port}")))
        };
        let errors = given
            .published
            .iter()
            .filter_map(|port| publish(port).err());
        Error::all(errors.collect()).map_or(Ok(()), Err)
    }

    /// The same for a namespace that was built from this section: with the options that it was built
    /// with, unless others are given now.
    pub fn of_built(&self, record: &Record) -> Self {
        let built = &record.plan.request;
        let recorded = self.request.section.as_ref();
        let section = self.section.as_ref();
        let is_same = |(now, then): (&String, &String)| now.eq_ignore_ascii_case(then);
        let is_its = recorded.zip(built.section.as_ref()).is_some_and(is_same);
        let Some(section) = section.filter(|_| is_its) else {
            return self.clone();
        };
        let given = Given::of(&self.request.given).or(Given::of(&built.given));
        let mut wanted = Self::of_section(section, recorded.cloned());
        // By its name, if a word named it.
        wanted.name.clone_from(&self.name);
        // The section may have got a port since.
        let _ = wanted.add(&given);
        wanted
    }

    /// The interface of the namespace `name`.
    pub fn interface_of(&self, name: &NetnsName) -> IfaceName {
        self.interface
            .clone()
            .unwrap_or_else(|| name.default_interface())
    }

    /// The record of the namespace that is asked for.
    pub fn recorded(&self) -> Result<Option<Record>> {
        let Some(name) = &self.name else {
            return Ok(None);
        };
        let hint = || format!("sudo runns-exec clean {name}, then build it again");
        Record::load(name).map_err(|error| error.hint(hint()))
    }

    /// Checks that the files that options name are there; an error says which option it is.
    pub fn files_exist(&self) -> Result<()> {
        let request = &self.request;
        let of = |option: &'static str| move |file: &PathBuf| (option, file.clone());
        let openconnect = request.openconnect.as_ref();
        let options = openconnect.and_then(|one| one.options.as_ref());
        let password = openconnect.and_then(|one| one.password.as_ref());
        let resolve = request.resolve.as_ref().filter(|_| !request.resolve_named);
        let files = request.vpn.iter().map(of("vpn"));
        let files = files
            .chain(request.wireguard.iter().map(of("WireGuard")))
            .chain(resolve.map(of("Resolve")))
            .chain(options.map(of("OpenConnectOptions")))
            .chain(password.map(of("OpenConnectPassword")))
            .chain(request.post_build.as_ref().map(of("PostBuild")))
            .chain(request.pre_clean.as_ref().map(of("PreClean")));
        for (option, file) in files {
            let found = file.symlink_metadata();
            if found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                let section = request.section.as_ref();
                let section = section.map_or(String::new(), |section| {
                    format!("[{}] ", escape(section.as_bytes()))
                });
                let cause = format!("No such file or directory ({section}{option}=)");
                return Err(Error::new(format!("open {}", show(&file)), cause));
            }
        }
        Ok(())
    }
}
