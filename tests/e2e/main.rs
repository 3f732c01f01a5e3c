//! The installed program on a host of its own, as its users run it.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod attack;
mod build;
mod clean;
mod completions;
mod contents;
mod dns;
mod enter;
mod firewall;
mod handover;
mod install;
mod list;
mod log;
mod main_job;
mod names;
mod options;
mod pty;
mod refusals;
mod state;
mod status;
mod tunnel;
mod turns;
mod two_programs;
mod uplink;
mod view;

use support::Host;

/// A host with a namespace `vpn1` that `ip netns` made and the configuration names.
fn host_with_vpn1() -> Host {
    let host = Host::new();
    host.ok("ip netns add vpn1");
    host.configure("[vpn1]\n");
    host
}
