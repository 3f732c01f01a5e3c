//! Desktop entries, as the Desktop Entry Specification has them: reads those of installed programs,
//! and quotes what is written.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use runns_shared::error::{Error, Result};
use runns_shared::escape::escape;

/// The key by which a launcher is known as ours; its value is the namespace.
pub const MARK: &str = "X-Runns-Netns";
/// The bytes of a file that is read; entries of programs have a few thousand.
const LARGEST: u64 = 1 << 20;
/// How many files are read.
const MOST: usize = 8192;
/// How many directories deep: an entry in `applications/kde` has the ID `kde-NAME.desktop`.
const DEEPEST: usize = 3;
/// What a launcher takes over from the program's own entry, translations included. Not MimeType: the
/// launcher would be offered for links that are opened outside. Not DBusActivatable: the session's
/// bus would start the program, outside the namespace. Not Actions: each has a command of its own.
const TAKEN_OVER: [&str; 7] = [
    "GenericName",
    "Comment",
    "Icon",
    "Categories",
    "Keywords",
    "StartupWMClass",
    "StartupNotify",
];
/// The characters for which an argument has to be quoted ("The Exec key").
const RESERVED: &str = " \t\n\"'\\><~|&;$*?#()`";

/// The group [Desktop Entry] of a file: its keys with their values, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry(Vec<(String, String)>);

impl Entry {
    /// Reads an entry. Other groups, comments and lines that are none are ignored.
    pub fn parse(text: &str) -> Self {
        let mut in_group = false;
        let mut keys = Vec::new();
        for line in text.lines() {
            if line.starts_with('[') {
                in_group = line.trim_end() == "[Desktop Entry]";
            } else if in_group && !line.starts_with('#') && !line.contains(char::is_control) {
                let pair = line.split_once('=');
                keys.extend(pair.map(|(key, value)| (key.trim().into(), value.trim().into())));
            }
        }
        Self(keys)
    }

    /// The value of a key, without its translations.
    pub fn value(&self, key: &str) -> Option<&str> {
        let mut keys = self.0.iter();
        keys.find(|(own, _)| own == key)
            .map(|(_, value)| value.as_str())
    }

    /// A key with its translations: `Name`, `Name[de]`.
    pub fn translations<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(own, value)| {
            let rest = own.strip_prefix(key)?;
            let fits = rest.is_empty() || rest.starts_with('[') && rest.ends_with(']');
            fits.then_some((own.as_str(), value.as_str()))
        })
    }

    /// The lines that a launcher takes over.
    pub fn taken_over(&self) -> impl Iterator<Item = (&str, &str)> {
        TAKEN_OVER.iter().flat_map(|key| self.translations(key))
    }

    /// Whether it starts this program, and how well it fits: the fewer other words, the better.
    fn starts(&self, program: &str) -> Option<usize> {
        let is_shown = self.value("Type") == Some("Application")
            && self.value("Hidden") != Some("true")
            && self.value(MARK).is_none();
        let words = words(self.value("Exec")?);
        let mut words = words.iter().map(String::as_str).peekable();
        if words.peek().is_some_and(|first| base(first) == "env") {
            words.next();
            while words.next_if(|word| word.contains('=')).is_some() {}
        }
        let starts = base(words.next()?) == base(program);
        let others = words.filter(|word| field_code(word).is_none()).count();
        let hidden = usize::from(self.value("NoDisplay") == Some("true"));
        (is_shown && starts).then_some(others + hidden)
    }

    /// The field code with which the program is given files or addresses: `%U`, `%f`.
    pub fn field_code(&self) -> Option<String> {
        let words = words(self.value("Exec")?);
        words
            .into_iter()
            .find(|word| field_code(word).is_some_and(|code| "fFuU".contains(code)))
    }
}

fn field_code(word: &str) -> Option<char> {
    let mut letters = word.strip_prefix('%')?.chars();
    letters.next().filter(|_| letters.next().is_none())
}

fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// The words of an Exec line, without their quotes.
fn words(line: &str) -> Vec<String> {
    let line = unescaped(line);
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            ' ' if !quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// A value of type string, without its escape sequences.
fn unescaped(value: &str) -> String {
    let mut text = String::new();
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        text.push(match letter {
            '\\' => match letters.next() {
                Some('s') => ' ',
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(other) => other,
                None => break,
            },
            letter => letter,
        });
    }
    text
}

/// One argument of an Exec line.
pub fn quote(argument: &str) -> Result<String> {
    if argument
        .chars()
        .any(|c| c.is_control() && c != '\t' && c != '\n')
    {
        return Err(Error::new(
            format!("write the argument {}", escape(argument.as_bytes())),
            "a desktop entry cannot contain control characters",
        ));
    }
    let argument = argument.replace('%', "%%");
    let argument = match argument.is_empty() || argument.contains(|c| RESERVED.contains(c)) {
        false => argument,
        true => {
            let mut quoted = String::from("\"");
            for letter in argument.chars() {
                if matches!(letter, '"' | '`' | '$' | '\\') {
                    quoted.push('\\');
                }
                quoted.push(letter);
            }
            quoted + "\""
        }
    };
    Ok(value(&argument))
}

/// A value of type string, with its escape sequences.
pub fn value(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\t', "\\t")
}

/// The own entry of a program, from the first of these directories that has one.
pub fn of_program(program: &str, directories: &[PathBuf]) -> Option<Entry> {
    directories.iter().find_map(|directory| {
        let named = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == base(program));
        let fits = files(directory).into_iter().filter_map(|path| {
            let entry = Entry::parse(&read(&path)?);
            let others = entry.starts(program)?;
            Some(((!named(&path), others, path), entry))
        });
        fits.min_by(|(one, _), (other, _)| one.cmp(other))
            .map(|(_, entry)| entry)
    })
}

/// The text of an entry. A file that is none, or is too large, is none.
pub fn read(path: &Path) -> Option<String> {
    // Opening a FIFO would wait for somebody who writes to it.
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).ok()?;
    String::from_utf8(text).ok()
}

fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut directories = vec![(directory.to_path_buf(), 1)];
    while let Some((directory, depth)) = directories.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "desktop")
            {
                found.insert(path);
            } else if depth < DEEPEST && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push((path, depth + 1));
            }
            if found.len() >= MOST {
                return found;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_as_the_specification_says() {
        for (argument, written) in [
            ("plain-1.x", "plain-1.x"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("50%", "50%%"),
            ("$HOME", "\"\\\\$HOME\""),
            ("a\\b", "\"a\\\\\\\\b\""),
            ("say \"x\"", "\"say \\\\\"x\\\\\"\""),
        ] {
            assert_eq!(quote(argument).unwrap(), written);
            let read: Vec<String> = words(written);
            assert_eq!(read, [argument.replace('%', "%%")], "{written}");
        }
        assert!(quote("a\u{1b}b").is_err());
    }

    #[test]
    fn the_entry_that_starts_a_program() {
        let entry = |exec: &str, more: &str| {
            Entry::parse(&format!(
                "# x\n[Desktop Entry]\nType=Application\nName=A\nName[de]=B\nExec={exec}\n{more}\n[Desktop Action x]\nExec=other\n"
            ))
        };
        assert_eq!(entry("/usr/bin/a %U", "").starts("a"), Some(0));
        assert_eq!(entry("env X=1 a --new", "").starts("/opt/a"), Some(1));
        assert_eq!(entry("b %U", "").starts("a"), None);
        assert_eq!(entry("a", "Hidden=true").starts("a"), None);
        assert_eq!(entry("a --x %F", "").field_code().as_deref(), Some("%F"));
        let names = entry("a", "NameOther=x");
        let names: Vec<_> = names.translations("Name").collect();
        assert_eq!(names, [("Name", "A"), ("Name[de]", "B")]);
    }
}
