//! Exactly the names that match the pattern and are not reserved are accepted, and they are kept
//! unchanged.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use runns_shared::name::{IfaceName, NetnsName};

fn follows_pattern(bytes: &[u8], longest: usize) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let Some((first, rest)) = bytes.split_first() else {
        return false;
    };
    word(first)
        && rest.len() < longest
        && rest
            .iter()
            .all(|byte| word(byte) || *byte == b'.' || *byte == b'-')
}

fuzz_target!(|bytes: &[u8]| {
    let name = OsStr::from_bytes(bytes);
    match NetnsName::new(name) {
        Ok(parsed) => {
            assert!(follows_pattern(bytes, 64));
            assert_eq!(parsed.as_str().as_bytes(), bytes);
            assert_eq!(parsed.to_cstring().as_bytes(), bytes);
            let interface = parsed.default_interface();
            assert_eq!(IfaceName::new(interface.as_str()).unwrap(), interface);
            if let Some(number) = parsed.vpn_number() {
                let digits = parsed.as_str().strip_prefix("vpn").unwrap();
                assert_eq!(digits.parse::<u32>().unwrap(), number);
            }
        }
        Err(error) => {
            assert!(!follows_pattern(bytes, 64));
            assert!(!error.to_string().contains(char::is_control));
        }
    }
    let reserved = [&b"lo"[..], b"all", b"default"].contains(&bytes);
    match IfaceName::new(name) {
        Ok(parsed) => {
            assert!(follows_pattern(bytes, 15) && !reserved && parsed.as_str().as_bytes() == bytes)
        }
        Err(error) => {
            assert!(!follows_pattern(bytes, 15) || reserved);
            assert!(!error.to_string().contains(char::is_control));
        }
    }
});
