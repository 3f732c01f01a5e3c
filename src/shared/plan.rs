//! What a namespace consists of: pure data, made from a request, kept in the record.

use std::net::IpAddr;

use serde::Serialize;

use crate::json::{self, Fields};
use crate::name::{IfaceName, NetnsName};
use crate::request::Request;
use crate::subnet::{Number, Subnet};

/// The device inside.
pub const INSIDE: &str = "eth0";

/// The origin of a resolver that the tunnels provide.
pub const FROM_TUNNEL: &str = "the tunnel";

/// A resolver of the namespace's own. A namespace without one uses the host's resolv.conf, as it
/// is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resolver {
    /// Where it comes from, for people.
    pub from: String,
    /// The text of resolv.conf; `None` if the administrator's own file in /etc/netns/NAME is used.
    pub text: Option<String>,
    /// The servers that it names.
    pub servers: Vec<IpAddr>,
    /// Every query goes to these servers, wherever it is addressed.
    pub lock: bool,
    /// The text of nsswitch.conf that asks no service of the host's; `None` if there is none to
    /// replace.
    pub nsswitch: Option<String>,
}

/// The request, and what was decided for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The namespace.
    pub name: NetnsName,
    /// The host's end of the veth pair.
    pub interface: IfaceName,
    /// What was asked for.
    #[serde(flatten)]
    pub request: Request,
    /// The number, and that of the subnet unless the section says which one.
    pub number: Number,
    /// Its resolver.
    pub resolver: Option<Resolver>,
    /// The host's address for those inside, if they reach any server of it: that of the name
    /// host.runns.
    pub host: Option<IpAddr>,
    /// The one by IPv6, if a server may listen on ::1 alone.
    pub host_v6: Option<IpAddr>,
}

impl Resolver {
    fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            from: fields.required("from", json::text)?,
            text: fields.optional("text", json::text),
            servers: fields.list("servers", json::address),
            lock: fields.flag("lock"),
            nsswitch: fields.optional("nsswitch", json::text),
        })
    }
}

impl Plan {
    /// From a record.
    pub fn from_fields(fields: &Fields) -> json::Result<Self> {
        let number = fields.required("number", json::number)?;
        let number = u32::try_from(number).ok().and_then(Number::new);
        Ok(Self {
            name: fields.required("name", NetnsName::from_json)?,
            interface: fields.required("interface", IfaceName::from_json)?,
            request: Request::from_fields(fields)?,
            number: number.ok_or("field number: there is no such subnet")?,
            resolver: fields.optional("resolver", |value| {
                Fields::read(value, Resolver::from_fields)
            }),
            host: fields.optional("host", json::address),
            host_v6: fields.optional("host_v6", json::address),
        })
    }

    /// The subnet of the veth pair.
    pub fn subnet(&self) -> Subnet {
        self.request.subnet.unwrap_or(Subnet::of(self.number))
    }

    /// The tag of everything that this namespace puts into tables shared with others.
    pub fn tag(&self) -> String {
        tag(&self.name)
    }
}

/// The tag of everything that namespace `name` puts into tables shared with others.
pub fn tag(name: &NetnsName) -> String {
    format!("runns:{name}")
}
