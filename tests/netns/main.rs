//! Parts of a namespace on the real kernel, one at a time: the library's own functions, looked at with other tools.

#[path = "../support/mod.rs"]
mod support;

mod daemon;
mod identity;
mod netlink;
