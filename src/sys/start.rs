//! A panic ends the process: nothing is ever unwound, and no backtrace is printed. Without these
//! definitions the linker would take the unwinder from libgcc and, behind `_Unwind_Backtrace`, the
//! standard library's reader of debugging information: 140 KB of parsers in a program that has
//! capabilities.
//!
//! Only where that is so: in a static program that is built with `panic = "abort"`.

#![cfg(all(panic = "abort", target_feature = "crt-static", not(test)))]

use std::ffi::{c_int, c_void};

/// _URC_END_OF_STACK (Itanium C++ ABI, exception handling, 1.1).
const END_OF_STACK: c_int = 5;

/// There is no frame to be told about.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_frame: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// Functions that only an unwinder calls.
macro_rules! never_called {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)]
        extern "C" fn $name() -> ! {
            crate::process::die("runns-exec: cannot go on: defect: unwinding\n")
        })*
    };
}

never_called! {
    _Unwind_DeleteException _Unwind_FindEnclosingFunction _Unwind_ForcedUnwind _Unwind_GetCFA
    _Unwind_GetDataRelBase _Unwind_GetGR _Unwind_GetIP _Unwind_GetIPInfo _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart _Unwind_GetTextRelBase _Unwind_RaiseException _Unwind_Resume _Unwind_SetGR _Unwind_SetIP
}
