//! bpf(2), as far as it is needed to mark packets.

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use crate::check;

/// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// The offset of `mark` in struct __sk_buff.
const MARK: i16 = 8;
/// include/uapi/linux/pkt_cls.h: go on as if there were no filter.
const TC_ACT_UNSPEC: i32 = -1;

/// struct bpf_insn: code, registers (destination in the lower half, source in the upper), offset,
/// value.
#[repr(C)]
struct Instruction(u8, u8, i16, i32);

/// The beginning of union bpf_attr for BPF_PROG_LOAD. The kernel takes what follows to be zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Loads a classifier for tc-bpf(8) that sets the mark of each packet and lets it pass.
pub fn marking_classifier(mark: u32) -> Result<OwnedFd, Errno> {
    let program = [
        Instruction(0xb4, 0x02, 0, mark as i32),   // w2 = mark
        Instruction(0x63, 0x21, MARK, 0),          // *(u32 *)(r1 + MARK) = w2
        Instruction(0xb7, 0x00, 0, TC_ACT_UNSPEC), // r0 = TC_ACT_UNSPEC
        Instruction(0x95, 0x00, 0, 0),             // exit
    ];
    let load = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `size` bytes of `load` and, through it, `count` instructions and a
    // string, all of which live until the call returns.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of::<Load>(),
        )
    })?;
    // SAFETY: the kernel returned a new descriptor, which nobody else owns. It is close-on-exec
    // (bpf(2)).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
