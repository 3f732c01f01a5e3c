//! `runns-exec status [NAME]`, as root sees it.

use runns_privileged::{Privilege, netns};
use runns_shared::error::Result;
use runns_shared::name::NetnsName;
use runns_shared::status::{self, Options, Sources};

use crate::part::wireguard::last_handshake;

/// Prints the state of the namespaces that were built.
pub fn run(options: &Options) -> Result<()> {
    let devices = |name: &NetnsName| netns::devices(&Privilege::take().ok()?, name).ok();
    status::print(&status::records(options)?, options, &Sources { devices: &devices, last_handshake: &last_handshake })
}
