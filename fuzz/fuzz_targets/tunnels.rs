//! A wg-quick file is parsed, or refused with one line; a line of OpenVPN's management interface is
//! always parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runns_exec_root::tunnel::{event, wgquick};

fuzz_target!(|text: &str| {
    if let Err(error) = wgquick::parse(text) {
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }
    for line in text.lines() {
        event::parse(line);
    }
});
