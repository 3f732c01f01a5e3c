//! Any line of mountinfo is parsed or skipped; what the kernel escaped is restored to the original.
#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use runns_privileged::view::parse_mount;

/// Escapes as the kernel does (mangle, fs/proc_namespace.c).
fn mangle(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in bytes {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => text.extend(format!("\\{byte:03o}").bytes()),
            other => text.push(*other),
        }
    }
    text
}

fuzz_target!(|bytes: &[u8]| {
    if parse_mount(bytes).is_some() {
        assert!(bytes.split(|byte| *byte == b' ').count() >= 8);
    }
    let mangled = mangle(bytes);
    let line = [
        &b"36 35 98:0 / "[..],
        &mangled,
        b" rw shared:2 - ext4 ",
        &mangled,
        b" rw",
    ]
    .concat();
    let said = format!("{:?}", parse_mount(&line).unwrap());
    let point = format!("{:?}", Path::new(std::ffi::OsStr::from_bytes(bytes)));
    assert!(
        said.contains(&format!(
            "id: 36, parent: 35, root: [47], point: {point}, source: {bytes:?}"
        )),
        "{said}"
    );
});
