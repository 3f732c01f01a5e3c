//! Whatever a process puts where /proc shows it is read correctly or not at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runns_shared::proc::{parse_command_line, parse_namespace_link, parse_real_uid, parse_stat};

fuzz_target!(|bytes: &[u8]| {
    parse_stat(bytes);
    parse_real_uid(bytes);
    if let Some(inode) = parse_namespace_link(bytes) {
        let plain = format!("net:[{inode}]").into_bytes();
        assert_eq!(parse_namespace_link(&plain), Some(inode));
    }
    // A process chooses its own name; it cannot forge another field with it.
    let line = [
        b"42 (",
        bytes,
        b") S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9\n",
    ]
    .concat();
    let stat = parse_stat(&line).unwrap();
    assert_eq!(
        (stat.comm.as_slice(), stat.state, stat.ppid, stat.start_time),
        (bytes, b'S', 7, 123456)
    );
    // In status the name is escaped, so it contains no line feed.
    if !bytes.contains(&b'\n') {
        let status = [b"Name:\t", bytes, b"\nUmask:\t0022\nUid:\t1000\t0\t0\t0\n"].concat();
        assert_eq!(parse_real_uid(&status), Some(1000));
    }
    let words = parse_command_line(bytes);
    assert!(words.iter().all(|word| !word.contains(&0)));
    let joined = words.join(&0);
    assert_eq!(joined, bytes.strip_suffix(b"\0").unwrap_or(bytes));
});
