//! list
use crate::error::{Error, Result};
use std::ffi::OsString;
/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Only these namespaces; all if empty.
    pub names: Vec<OsString>,
    /// Everybody's processes.
    pub all: bool,
    /// Pids only.
    pub quiet: bool,
    /// JSON.
    pub json: bool,
}
/// Lists.
pub fn run(_options: &Options) -> Result<()> {
    Err(Error::new("list", "not there yet"))
}
