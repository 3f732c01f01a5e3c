//! How each tunnel is, as the process that knows it has written to /run/runns/NAME.d.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::json::{self, Fields};
use crate::name::NetnsName;
use crate::record::DIRECTORY;

/// The state of one tunnel. Anyone may read it: no keys, no names of users.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TunnelState {
    /// The device inside.
    pub device: String,
    /// Whether it is up.
    pub up: bool,
    /// Why it is not up, if that is known.
    pub reason: Option<String>,
    /// Whether its session has ended: it does not come back by itself, somebody has to log in.
    pub ended: bool,
    /// Since when, in seconds since the epoch.
    pub since: i64,
    /// Name servers that the other end named.
    pub servers: Vec<IpAddr>,
    /// Search domains that the other end named, checked to be domains.
    pub search: Vec<String>,
}

/// Where the states and sockets of a namespace's tunnels are.
pub fn directory(name: &NetnsName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}.d"))
}

/// The file with the state of tunnel `index`.
pub fn state_file(name: &NetnsName, index: usize) -> PathBuf {
    directory(name).join(format!("{index}.json"))
}

impl TunnelState {
    /// The state of tunnel `index`; the default one if nothing is known.
    pub fn load(name: &NetnsName, index: usize) -> Self {
        let text = std::fs::read_to_string(state_file(name, index)).unwrap_or_default();
        serde_json::from_str(&text)
            .ok()
            .and_then(|value: Value| Fields::read(&value, Self::from_fields).ok())
            .unwrap_or_default()
    }

    fn from_fields(fields: &Fields) -> json::Result<Self> {
        Ok(Self {
            device: fields.optional("device", json::text).unwrap_or_default(),
            up: fields.flag("up"),
            reason: fields.optional("reason", json::text),
            ended: fields.flag("ended"),
            since: fields
                .optional("since", json::number)
                .and_then(|since| since.try_into().ok())
                .unwrap_or_default(),
            servers: fields.list("servers", json::address),
            search: fields.list("search", json::text),
        })
    }
}
