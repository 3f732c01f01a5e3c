//! Untrusted bytes as text on one line. Every message goes through here.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `bytes` as text on one line: UTF-8 stays, but control characters, invalid bytes, backslashes and the characters
/// that change the direction or visibility of text are written as `\n`, `\x1b` or `\u{202e}`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() && u32::from(c) < 0x100 => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if is_invisible(c) => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
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
    let parts: Vec<String> = text.split('\\').map(|part| escape(part.as_bytes())).collect();
    parts.join("\\")
}

/// Format and separator characters: they move the cursor, reorder text or show nothing.
fn is_invisible(character: char) -> bool {
    matches!(u32::from(character),
        0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb
        | 0xe0000..=0xe007f)
}

/// [`escape`] for a path.
pub fn show(path: impl AsRef<Path>) -> String {
    escape(path.as_ref().as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_keeps_one_line_and_shows_everything() {
        assert_eq!(escape(b"plain \xc3\xa9"), "plain é");
        assert_eq!(escape(b"a\nb\x1b[31m\\\xff"), "a\\nb\\x1b[31m\\\\\\xff");
        assert_eq!(escape("\u{202e}evil\u{9b}".as_bytes()), "\\u{202e}evil\\x9b");
    }
}
