//! runns-exec, without the standard library's start-up code, which would change what the command
//! inherits (SIGPIPE, descriptors 0 to 2).

#![no_main]

use std::ffi::{c_char, c_int};

use runns_sys::process::{Allocator, invocation};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Entry point.
///
/// # Safety
/// Only the C library calls it, once, with the process's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: these are main's own arguments, and nothing has run before.
    runns_exec::run(unsafe { invocation(argc, argv) })
}
