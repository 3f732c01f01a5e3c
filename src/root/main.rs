//! runns-exec-root. It starts as runns-exec does: it notes which of the descriptors 0 to 2 were
//! closed, and uses the same panic hook and allocator.

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
    runns_exec_root::run(unsafe { invocation(argc, argv) })
}
