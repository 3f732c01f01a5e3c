//! build
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// What the command line asks for; names are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// -n
    pub name: Option<OsString>,
    /// -s
    pub section: Option<OsString>,
    /// -i
    pub interface: Option<OsString>,
    /// -o
    pub uplink: Option<OsString>,
    /// -r
    pub resolve: Option<PathBuf>,
    /// --config
    pub config: Option<PathBuf>,
    /// --dry-run
    pub dry_run: bool,
}
/// Builds.
pub fn run(_options: Options) -> Result<()> {
    Err(Error::new("build", "not there yet"))
}
