//! Parts of a namespace on the real kernel, one at a time: calls the library's functions and checks
//! the result with other tools.

#[path = "../support/mod.rs"]
mod support;

mod daemon;
mod file;
mod identity;
mod netlink;
