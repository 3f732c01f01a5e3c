//! System calls that `nix` and `caps` do not have, as thin safe functions, each with the contract
//! that it relies on; and what a program needs before its first line. The only crate with `unsafe`
//! code. No policy here.

pub mod bpf;
pub mod mount;
pub mod net;
pub mod process;
mod start;
pub mod tty;
pub mod tun;

use nix::errno::Errno;
use nix::libc;

/// The result of a raw system call: its value, or the thread's `errno`.
fn check(value: libc::c_long) -> Result<libc::c_long, Errno> {
    if value < 0 {
        Err(Errno::last())
    } else {
        Ok(value)
    }
}
