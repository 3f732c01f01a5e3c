//! The installed program, run as its users run it, on a host of its own for each test.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod around;
mod attack;
mod build;
mod change;
mod clean;
mod completions;
mod configuration;
mod contents;
mod detach;
mod dns;
mod enter;
mod failed;
mod firewall;
mod full;
mod handover;
mod hooks;
mod host_vpn;
mod install;
mod ipv6;
mod launcher;
mod list;
mod localhost;
mod log;
mod main_job;
mod names;
mod neighbours;
mod options;
mod processes;
mod pty;
mod records;
mod refusals;
mod report;
mod sandbox;
mod state;
mod status;
mod truth;
mod tunnel;
mod turns;
mod two_programs;
mod uplink;
mod view;

use support::Host;

/// A host with a namespace `vpn1` that was created with `ip netns` and is named in the
/// configuration.
fn host_with_vpn1() -> Host {
    let host = Host::new();
    host.ok("ip netns add vpn1");
    host.configure("[vpn1]\n");
    host
}
