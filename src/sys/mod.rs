//! The only module with `unsafe` code: thin, safe functions over system calls that `nix` has not, each with the
//! contract that it relies on. No policy here.

pub mod capability;
pub mod clock;
pub mod mount;
pub mod net;
pub mod process;
pub mod tty;

use nix::errno::Errno;
use nix::libc;

/// The result of a raw system call: its value, or the thread's `errno`.
fn check(value: libc::c_long) -> Result<libc::c_long, Errno> {
    if value < 0 { Err(Errno::last()) } else { Ok(value) }
}
