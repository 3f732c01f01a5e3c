//! Parts of a namespace on the real kernel, one at a time.

#[path = "../support/mod.rs"]
mod support;
