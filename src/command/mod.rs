//! One verb a file.

pub mod build;
pub mod check;
pub mod clean;
pub mod enter;
pub mod hook;
pub mod list;
pub mod status;
