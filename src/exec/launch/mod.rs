//! Starts the command after privileges are dropped: directly, in the background, or on a
//! pseudo-terminal. Everything here requires an [`Unprivileged`].

pub mod command;
pub mod detach;
pub mod handover;
pub mod pty;

use std::convert::Infallible;

pub use command::Program;
use runns_privileged::Unprivileged;
use runns_shared::error::{Error, Result};

/// How the command is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// On a pseudo-terminal of its own.
    pub pty: bool,
    /// In the background, in a session of its own.
    pub detach: bool,
}

/// Starts `program`. Returns only on failure. If this process stays in between, it exits with the
/// program's own status.
pub fn start(
    unprivileged: &Unprivileged,
    program: &Program,
    mode: Mode,
) -> Result<Infallible, Error> {
    match (mode.pty, mode.detach) {
        (false, false) => program.execute(unprivileged),
        (false, true) => detach::start(unprivileged, program),
        (true, _) => pty::start(unprivileged, program, mode.detach),
    }
}
