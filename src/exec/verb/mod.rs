//! One subcommand a file.

pub mod check;
pub mod enter;
pub mod list;
pub mod status;
