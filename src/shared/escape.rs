//! Untrusted bytes as text on one line. Every message goes through here.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `bytes` as text on one line: UTF-8 stays, but control characters, invalid bytes, backslashes and
/// the characters that change the direction or visibility of text are written as `\n`, `\x1b` or
/// `\u{202e}`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() && u32::from(c) < 0x100 => {
                    text.push_str(&format!("\\x{:02x}", u32::from(c)))
                }
                c if is_unsafe(c) => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// `text` on one line: like [`escape`], but what is escaped already stays as it is.
pub fn one_line(text: &str) -> String {
    let parts: Vec<String> = text
        .split('\\')
        .map(|part| escape(part.as_bytes()))
        .collect();
    parts.join("\\")
}

/// A JSON text in which the characters that a terminal would obey are written as `\u009b` (RFC
/// 8259, 7), those beyond U+FFFF as two surrogates. They can only be in its strings.
pub fn escape_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unsafe(character) {
            let units = character
                .encode_utf16(&mut [0; 2])
                .iter()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect::<String>();
            text.push_str(&units);
        } else {
            text.push(character);
        }
    }
    text
}

/// Control characters, C1 included, and format and separator characters: they move the cursor,
/// reorder text or show nothing.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(u32::from(character),
        0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb
        | 0xe0000..=0xe007f)
}

/// [`escape`] for a path.
pub fn show(path: impl AsRef<Path>) -> String {
    escape(path.as_ref().as_os_str().as_bytes())
}

/// A word for a shell, as part of a command that is shown to be pasted. Quotes keep everything but
/// control characters, which [`one_line`] would change: with them, the word is not the same.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// [`quote`] for a path; `None` if a message cannot show it as it is.
pub fn quote_path(path: impl AsRef<Path>) -> Option<String> {
    let word = path.as_ref().to_str()?;
    (escape(word.as_bytes()) == word).then(|| quote(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quote("a-b.c"), "a-b.c");
        assert_eq!(quote("my work's"), "'my work'\\''s'");
        assert_eq!(quote(""), "''");
        assert_eq!(
            quote_path("/home/nina/us [udp].ovpn").as_deref(),
            Some("'/home/nina/us [udp].ovpn'")
        );
        assert_eq!(quote_path("/a\n"), None);
    }

    #[test]
    fn escape_keeps_one_line_and_shows_everything() {
        assert_eq!(escape(b"plain \xc3\xa9"), "plain é");
        assert_eq!(escape(b"a\nb\x1b[31m\\\xff"), "a\\nb\\x1b[31m\\\\\\xff");
        assert_eq!(
            escape("\u{202e}evil\u{9b}".as_bytes()),
            "\\u{202e}evil\\x9b"
        );
    }

    /// Control characters (general category Cc) and those with the property Bidi_Control (Unicode,
    /// PropList.txt).
    fn unsafe_characters() -> impl Iterator<Item = char> {
        let ranges = [
            0..=0x1f,
            0x7f..=0x9f,
            0x61c..=0x61c,
            0x200e..=0x200f,
            0x202a..=0x202e,
            0x2066..=0x2069,
        ];
        ranges.into_iter().flatten().filter_map(char::from_u32)
    }

    #[test]
    fn no_character_that_a_terminal_obeys_passes() {
        for character in unsafe_characters() {
            let text = format!("a{character}b");
            for escaped in [escape(text.as_bytes()), one_line(&text)] {
                assert!(
                    escaped.bytes().all(|byte| byte.is_ascii_graphic()),
                    "{escaped:?}"
                );
            }
            let json = escape_json(&serde_json::to_string(&text).unwrap());
            assert!(json.bytes().all(|byte| byte.is_ascii_graphic()), "{json:?}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
        let json = escape_json("\"\u{e0041}\u{e9}\u{1f600}\"");
        assert_eq!(json, "\"\\udb40\\udc41\u{e9}\u{1f600}\"");
    }
}
