//! The options in OpenVPN's configuration files, read as OpenVPN reads them: read_config_file,
//! parse_line, check_inline_file and add_option in options.c of its sources (options_parse.c from
//! 2.7). Text in which we saw other options than the daemon could hide one from us.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// OPTION_LINE_SIZE and OPTION_PARM_SIZE, in bytes.
const SIZE: usize = 256;
/// MAX_PARMS: what stands after so many words of a line is not read.
const WORDS: usize = 16;
/// A byte order mark, which is skipped at the beginning of a file.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// One option: its name, without leading dashes, and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    words: Vec<OsString>,
    /// Of a block with the contents of a file (`<ca>`), those contents; of all but
    /// `<auth-user-pass>` only that they are there.
    inside: Option<Vec<u8>>,
    /// Whether OpenVPN goes on if it does not know it.
    optional: bool,
}

impl Line {
    /// The option that these words are. `setenv opt OPTION` is OPTION, but that OpenVPN goes on if
    /// it does not know it; this holds only once, and dashes are removed only before it.
    fn of(mut words: Vec<OsString>) -> Self {
        let optional = words.len() > 2 && words[0] == "setenv" && words[1] == "opt";
        if optional {
            words.drain(..2);
        }
        Self {
            words,
            inside: None,
            optional,
        }
    }

    /// A block with the contents of a file.
    fn block(tag: &[u8], inside: &[u8]) -> Self {
        let kept = if tag == b"auth-user-pass" {
            inside
        } else {
            &[]
        };
        Self {
            words: vec![OsStr::from_bytes(tag).to_owned()],
            inside: Some(kept.to_vec()),
            optional: false,
        }
    }

    /// A pushed option; `None` if OpenVPN refuses it.
    pub fn parse(pushed: &[u8]) -> Option<Self> {
        words(pushed)
            .filter(|words| !words.is_empty())
            .map(|words| Self {
                words,
                inside: None,
                optional: false,
            })
    }

    /// Whether it is a block with the contents of a file.
    pub fn is_inline(&self) -> bool {
        self.inside.is_some()
    }

    /// The contents of a block, as far as they are kept.
    pub fn inside(&self) -> Option<&[u8]> {
        self.inside.as_deref()
    }

    /// Whether OpenVPN goes on if it does not know it (`setenv opt`).
    pub fn is_optional(&self) -> bool {
        self.optional
    }

    /// The option's name; empty if it is not text.
    pub fn option(&self) -> &str {
        self.words[0].to_str().unwrap_or_default()
    }

    /// Its arguments.
    pub fn arguments(&self) -> &[OsString] {
        &self.words[1..]
    }

    /// Its first argument; empty if there is none, or if it is not text.
    pub fn value(&self) -> &str {
        self.words
            .get(1)
            .and_then(|word| word.to_str())
            .unwrap_or_default()
    }
}

/// The options of a file, in their order, and its text as the daemon is to read it.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The options, those that are left out included.
    pub lines: Vec<Line>,
    /// The text, with an empty line in place of each option that is left out. All else is
    /// unchanged, byte for byte.
    pub text: Vec<u8>,
}

/// Reads a file. Lines that OpenVPN refuses stay in the text, for the daemon to complain about.
pub fn parse(text: &[u8], is_left_out: fn(&str) -> bool) -> Parsed {
    let mut parsed = Parsed::default();
    let start = if text.starts_with(MARK) {
        MARK.len()
    } else {
        0
    };
    parsed.text.extend_from_slice(&text[..start]);
    parsed.add(
        &mut Input {
            rest: &text[start..],
            of_file: true,
        },
        is_left_out,
    );
    parsed
}

impl Parsed {
    fn add(&mut self, input: &mut Input, is_left_out: fn(&str) -> bool) {
        while let Some(piece) = input.option() {
            let words = option_words(piece.read).filter(|words| !words.is_empty());
            if let Some(tag) = words.as_deref().and_then(tag) {
                self.text.extend_from_slice(piece.taken);
                let (inside, end) = input.block(tag);
                if input.of_file && tag == b"connection" {
                    // Its lines are options.
                    self.add(
                        &mut Input {
                            rest: inside,
                            of_file: false,
                        },
                        is_left_out,
                    );
                } else {
                    self.text.extend_from_slice(inside);
                    self.lines.push(Line::block(tag, inside));
                }
                self.text.extend_from_slice(end);
                continue;
            }
            let line = words.map(Line::of);
            let left_out = line.as_ref().is_some_and(|line| is_left_out(line.option()));
            self.text
                .extend_from_slice(if left_out { b"\n" } else { piece.taken });
            self.lines.extend(line);
        }
    }
}

/// The name in `<NAME>`, if that is all of a line.
fn tag(words: &[OsString]) -> Option<&[u8]> {
    match words {
        [word] => word.as_bytes().strip_prefix(b"<")?.strip_suffix(b">"),
        _ => None,
    }
}

/// Text that is read line by line.
struct Input<'a> {
    rest: &'a [u8],
    /// Whether it is read with fgets(3). Otherwise it is the inside of a block, read with buf_parse
    /// (buffer.c).
    of_file: bool,
}

/// What OpenVPN takes from the text at once, and what it makes of it.
struct Piece<'a> {
    taken: &'a [u8],
    read: &'a [u8],
}

impl<'a> Input<'a> {
    /// The next line, or as much of it as fits in `room` bytes; the rest of a longer one counts as
    /// the next. buf_parse loses two bytes of a longer one.
    fn next(&mut self, room: usize) -> Option<Piece<'a>> {
        let line = self
            .rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(self.rest.len(), |end| end + 1);
        let (taken, read) = match self.of_file {
            true => (line.min(room), line.min(room)),
            false if line <= room + 1 => (line, line),
            false => ((room + 2).min(self.rest.len()), room),
        };
        let (taken, rest) = self.rest.split_at(taken);
        self.rest = rest;
        (!taken.is_empty()).then(|| Piece {
            taken,
            read: &taken[..read],
        })
    }

    /// The next line of options. In a file, one that does not fit is an error for OpenVPN.
    fn option(&mut self) -> Option<Piece<'a>> {
        self.next(if self.of_file { SIZE } else { SIZE - 1 })
    }

    /// What is in a block, and the line that ends it.
    fn block(&mut self, tag: &[u8]) -> (&'a [u8], &'a [u8]) {
        let (all, end) = (self.rest, [b"</", tag, b">"].concat());
        while let Some(piece) = self.next(SIZE - 1) {
            let blanks = piece
                .read
                .iter()
                .take_while(|byte| is_blank(**byte))
                .count();
            if piece.read[blanks..].starts_with(&end) {
                return (
                    &all[..all.len() - self.rest.len() - piece.taken.len()],
                    piece.taken,
                );
            }
        }
        (all, &[])
    }
}

/// isspace(3) in the C locale.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

/// The words of a line, of which the first is the name of an option; `None` if OpenVPN refuses the
/// line.
fn option_words(line: &[u8]) -> Option<Vec<OsString>> {
    let mut words = words(line)?;
    if let Some(first) = words.first_mut().filter(|first| first.len() > 2) {
        if let Some(bare) = first.as_bytes().strip_prefix(b"--") {
            *first = OsStr::from_bytes(bare).to_owned();
        }
    }
    Some(words)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Between,
    Bare,
    Double,
    Single,
}

/// The words of a line (parse_line): separated by blanks; whole words may be quoted; a backslash
/// takes the next character as it is, but not within single quotes; a comment begins where a word
/// would. `None` if OpenVPN refuses the line.
pub fn words(line: &[u8]) -> Option<Vec<OsString>> {
    let (mut words, mut word, mut place, mut escaped) =
        (Vec::new(), Vec::new(), Place::Between, false);
    // The NUL byte that ends a C string ends a word.
    for byte in line.iter().copied().chain([0]) {
        if byte == b'\\' && !escaped && place != Place::Single {
            escaped = true;
            continue;
        }
        let blank = is_blank(byte) || byte == 0;
        let ends = match place {
            Place::Between => match byte {
                _ if blank => {
                    escaped = false;
                    continue;
                }
                b';' | b'#' => break,
                b'"' | b'\'' if !escaped => {
                    place = if byte == b'"' {
                        Place::Double
                    } else {
                        Place::Single
                    };
                    continue;
                }
                _ => {
                    place = Place::Bare;
                    false
                }
            },
            Place::Bare => blank && !escaped,
            Place::Double => byte == b'"' && !escaped,
            Place::Single => byte == b'\'',
        };
        if ends {
            words.push(OsString::from_vec(std::mem::take(&mut word)));
            place = Place::Between;
            if words.len() == WORDS {
                break;
            }
        } else if byte != 0 {
            let refused = escaped && !(byte == b'\\' || byte == b'"' || blank);
            if refused || word.len() == SIZE {
                return None;
            }
            word.push(byte);
        }
        escaped = false;
    }
    (place == Place::Between).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> (Vec<String>, Vec<u8>) {
        let parsed = parse(text, |option| ["up", "down", "user"].contains(&option));
        let words = |line: &Line| {
            line.words
                .iter()
                .map(|word| word.to_string_lossy())
                .collect::<Vec<_>>()
                .join("|")
        };
        let options = parsed.lines.iter().filter(|line| !line.is_inline());
        (options.map(words).collect(), parsed.text)
    }

    #[test]
    fn lines_that_are_left_out_stay_as_empty_lines() {
        let text = b"client\nup \"/bin/x 'a'\"\n--down y\n<ca>\nup z\n</ca>\n\"user\" nobody\n# up\n\nverb 3\n";
        let (lines, rest) = read(text);
        assert_eq!(rest, b"client\n\n\n<ca>\nup z\n</ca>\n\n# up\n\nverb 3\n");
        assert_eq!(
            lines,
            ["client", "up|/bin/x 'a'", "down|y", "user|nobody", "verb|3"]
        );
    }

    /// parse_line of OpenVPN 2.6.14 makes the same of each line.
    #[test]
    fn words_of_a_line() {
        let joined = |line: &str| {
            words(line.as_bytes()).map(|words| words.join(OsStr::new("|")).into_string().unwrap())
        };
        for (line, wanted) in [
            ("up \"a b\" 'c \\d' e\\ f # g", Some("up|a b|c \\d|e f")),
            ("; x", Some("")),
            ("x \"\"", Some("x|")),
            // A quotation is a word by itself, and a quote within a word is a character.
            ("'up'/bin/x", Some("up|/bin/x")),
            ("up /bin/\"x y\"", Some("up|/bin/\"x|y\"")),
            ("\u{b}up\u{c}x\r\n", Some("up|x")),
            ("a \\# b", Some("a")),
            ("a\u{a0}b c", Some("a\u{a0}b|c")),
            ("up \\x", None),
            ("up \"x", None),
            ("up x\\", None),
        ] {
            assert_eq!(joined(line).as_deref(), wanted, "{line:?}");
        }
        assert_eq!(words("x ".repeat(40).as_bytes()).unwrap().len(), WORDS);
    }

    #[test]
    fn setenv_opt_is_the_option_behind_it() {
        for line in [
            "setenv opt up x",
            "--setenv opt up x",
            "\"setenv\" 'opt' \"up\" x",
            "\t setenv\topt up\tx\r",
        ] {
            assert_eq!(
                read(format!("{line}\nverb 3\n").as_bytes()),
                (vec!["up|x".into(), "verb|3".into()], b"\nverb 3\n".to_vec()),
                "{line}"
            );
        }
        for (line, wanted) in [
            ("setenv opt", "setenv|opt"),
            ("setenv OPT up x", "setenv|OPT|up|x"),
            ("setenv-safe opt up", "setenv-safe|opt|up"),
            ("setenv opt --up x", "--up|x"),
            ("setenv opt setenv opt up", "setenv|opt|up"),
        ] {
            assert_eq!(
                read(line.as_bytes()),
                (vec![wanted.to_string()], line.into()),
                "{line}"
            );
        }
        // It does not begin a block.
        assert_eq!(read(b"setenv opt <ca>\nup x\n").0, ["<ca>", "up|x"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_passed_on() {
        let text = b"\xef\xbb\xbf# B\xfcro\r\nremote a\r\nsetenv X \xfc\n<ca>\n\xfc\n</ca>\n\xef\xbb\xbfup x\nup \xfc";
        let (lines, rest) = read(text);
        assert_eq!(rest, [&text[..text.len() - 4], b"\n"].concat());
        assert_eq!(lines.len(), 4, "{lines:?}");
    }

    #[test]
    fn blocks_end_where_openvpn_ends_them() {
        assert_eq!(read(b"<ca>\nup x\n \t</ca> y\nverb 3").0, ["verb|3"]);
        assert_eq!(read(b"--<ca>\nup x").0, [""; 0]);
        // A line of a block that is longer than the buffer is read in pieces, each of which can end
        // the block.
        let long = format!(
            "<ca>\n{}</ca>{}up y\nverb 3\n",
            "x".repeat(255),
            " ".repeat(250)
        );
        assert_eq!(read(long.as_bytes()).0, ["up|y", "verb|3"]);
        // The inside of a connection is read as a whole before its lines are.
        let text = b"<connection>\nremote a 1\n<tls-auth>\n</connection>\nup x\n</tls-auth>\n";
        assert_eq!(read(text).0, ["remote|a|1", "up|x"]);
        let text = format!("<connection>\n{} up x\n</connection>\n", " ".repeat(256));
        assert_eq!(read(text.as_bytes()).0, ["up|x"]);
    }
}
