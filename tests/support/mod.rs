//! Support for the tests: each gets a [`Host`] of its own, on the real kernel.
//!
//! A host has its own network, mount, pid, uts and ipc namespaces, a pid 1, a private copy of the
//! whole file system, users, the program as install/install.sh installs it, and an uplink to an
//! [`Internet`]. Nothing of it outlives the test, and the machine that runs the tests is not
//! changed.

// Each test binary uses a different part of this module.
#![allow(dead_code, unused_imports)]

pub mod command;
pub mod host;
pub mod internet;
pub mod ocserv;
pub mod openvpn;
pub mod snapshot;
pub mod syslog;
pub mod terminal;

pub use command::{Background, Output, Runner};
pub use host::{Host, program};
pub use internet::{Internet, Net, WebServer};
pub use snapshot::Snapshot;
pub use terminal::Terminal;

use std::time::{Duration, Instant};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done` returns a value, for conditions that can only be polled.
#[track_caller]
pub fn wait_until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The uid that every test needs.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the tests must be run as root: sudo tests/run.sh"
    );
}
