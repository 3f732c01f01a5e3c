//! --pty: placeholder.
use super::Program;
use crate::error::{Error, Result};
use crate::privileged::Unprivileged;
use std::convert::Infallible;

/// Starts `program` on a new pseudo-terminal.
pub fn start(_unprivileged: &Unprivileged, _program: &Program, _detach: bool) -> Result<Infallible> {
    Err(Error::new("use --pty", "not there yet"))
}
