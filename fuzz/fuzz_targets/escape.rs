//! Escaped text is one line without control characters, and different bytes stay different.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runns_shared::escape::{escape, one_line};
use runns_shared::suggest::nearest;

/// Undoes `escape`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != '\\' {
            bytes.extend(character.to_string().as_bytes());
            continue;
        }
        let (used, made) = match rest.as_bytes()[0] {
            b'\\' => (1, b"\\".to_vec()),
            b'n' => (1, b"\n".to_vec()),
            b't' => (1, b"\t".to_vec()),
            b'r' => (1, b"\r".to_vec()),
            // A control character of U+0080 to U+009F and a byte that is not UTF-8 are escaped in
            // the same way.
            b'x' => (3, vec![u8::from_str_radix(&rest[1..3], 16).unwrap()]),
            b'u' => {
                let end = rest.find('}').unwrap();
                let code = u32::from_str_radix(&rest[2..end], 16).unwrap();
                (
                    end + 1,
                    char::from_u32(code).unwrap().to_string().into_bytes(),
                )
            }
            other => panic!("{other}"),
        };
        bytes.extend(made);
        rest = &rest[used..];
    }
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let escaped = escape(bytes);
    assert!(!escaped.contains(char::is_control), "{escaped:?}");
    assert!(!escaped.contains(['\u{2028}', '\u{2029}', '\u{202e}', '\u{200b}']));
    let c1 = std::str::from_utf8(bytes)
        .unwrap_or_default()
        .chars()
        .any(|c| ('\u{80}'..='\u{9f}').contains(&c));
    if !c1 && std::str::from_utf8(bytes).is_ok() {
        assert_eq!(unescape(&escaped), bytes);
    }
    assert!(!one_line(&escaped).contains(char::is_control));
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(!one_line(text).contains(char::is_control));
        if text.len() < 64 {
            nearest(text, ["InterfaceIn", "Resolve", text]);
        }
    }
});
