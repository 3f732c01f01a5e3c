//! `runns-exec status [NAME]` for members of the group. For root, the program for root prints it.

use runns_privileged::capability::renounce;
use runns_privileged::{Privilege, netns};
use runns_shared::error::Result;
use runns_shared::status::{self, Options, Sources};

/// Prints the state of what was built.
pub fn run(options: &Options) -> Result<()> {
    let records = status::records(options)?;
    let names = records.iter().map(|record| record.plan.request.name.clone());
    // Without the privilege to enter, the last recorded state is shown.
    let privilege = Privilege::take().ok();
    let devices: Vec<_> =
        names.map(|name| (netns::devices(privilege.as_ref()?, &name).ok()).map(|text| (name, text))).collect();
    let _unprivileged = renounce()?;
    let devices = |name: &_| devices.iter().flatten().find(|(known, _)| known == name).map(|(_, text)| text.clone());
    status::print(&records, options, &Sources { devices: &devices, last_handshake: &|_, _| None })
}
