//! What the command line and a section of the configuration ask for, together.

use std::path::PathBuf;

use runns_shared::config::Section;
use runns_shared::error::{Error, Result};
use runns_shared::escape::{escape, show};
use runns_shared::name::{IfaceName, NetnsName};
use runns_shared::plan::Plan;
use runns_shared::record::Record;
use runns_shared::request::Request;

/// What the command line and the section ask for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The namespace; the next vpnX if `None`.
    pub name: Option<NetnsName>,
    /// The host's end of the veth pair; by default it follows from the name.
    pub interface: Option<IfaceName>,
    /// What it shall have.
    pub request: Request,
}

impl Wanted {
    /// What a section asks for by itself, recorded as `name`.
    pub fn of_section(section: &Section, name: Option<String>) -> Self {
        let mut wanted = Self::default();
        wanted.take(section, name);
        wanted
    }

    /// Takes what was not asked for yet from a section, which is recorded as `name`.
    pub fn take(&mut self, section: &Section, name: Option<String>) {
        self.name.get_or_insert_with(|| section.netns.clone());
        self.interface = self.interface.take().or(section.interface_in.clone());
        let uplink = self.request.uplink.take();
        self.request = Request {
            section: name,
            uplink: uplink.or(section.request.uplink.clone()),
            ..section.request.clone()
        };
    }

    /// Takes what was not asked for yet from what was built.
    pub fn take_built(&mut self, plan: Plan) {
        self.name = Some(plan.name);
        self.interface.get_or_insert(plan.interface);
        let uplink = self.request.uplink.take();
        self.request = Request {
            uplink: uplink.or(plan.request.uplink),
            ..plan.request
        };
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
