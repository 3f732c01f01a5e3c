//! OpenConnect: VPNs of AnyConnect and ocserv, GlobalProtect, Fortinet, Pulse, F5 and Array.
//!
//! One openconnect logs in (`--authenticate`, [`login`]) and ends; its output is a [`session`].
//! Another one is the daemon ([`client`]), which gets the session's cookie on its standard input. It
//! has a device that was created for it, and reports what the server wants by a script for
//! vpnc-script(8)'s variables ([`variables`]).

pub mod client;
pub mod login;
pub mod options;
pub mod said;
pub mod session;
pub mod variables;

/// Its program.
pub const PROGRAM: &str = "openconnect";
