//! clean
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::time::Duration;

/// Which namespace; not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// By its name.
    Name(OsString),
    /// By the section that it was built from.
    Section(OsString),
}
/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Which.
    pub target: Target,
    /// -f
    pub disable_forward: bool,
    /// -k
    pub kill: bool,
    /// --timeout
    pub timeout: Duration,
    /// -r
    pub reattach: Option<OsString>,
}
/// Cleans.
pub fn run(_options: Options) -> Result<()> {
    Err(Error::new("clean", "not there yet"))
}
