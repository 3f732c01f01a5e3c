//! A wg-quick file is parsed, or refused with one line; a line of OpenVPN's management interface, and
//! what openconnect prints and hands over, is always parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runns_exec_root::tunnel::openconnect::{said, session::Session, variables};
use runns_exec_root::tunnel::{event, wgquick};

fuzz_target!(|text: &str| {
    if let Err(error) = wgquick::parse(text) {
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }
    for line in text.lines() {
        event::parse(line);
        said::reason(line);
        said::groups(line);
    }
    if let Ok(session) = Session::parse(text) {
        assert!(!session.to_line().contains('\n'));
        assert!(Session::from_line(&session.to_line()).is_ok_and(|again| again == session));
    }
    let named = text.lines().filter_map(|line| line.split_once('='));
    let all = named
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    for only_way in [false, true] {
        let pushed = variables::pushed(&all, only_way, true);
        assert!(pushed.setup.addresses.len() <= 2);
        let words = pushed.dns.search.iter();
        assert!(
            words
                .flat_map(|word| word.chars())
                .all(|c| c.is_ascii_graphic())
        );
    }
});
