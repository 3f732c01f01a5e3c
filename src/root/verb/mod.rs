//! The subcommands, one per file.

pub mod build;
pub mod clean;
pub mod status;
