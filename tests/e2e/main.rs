//! The installed program on a host of its own, as its users run it.

#[path = "../support/mod.rs"]
mod support;

mod dns;
mod enter;
mod handover;
mod install;
