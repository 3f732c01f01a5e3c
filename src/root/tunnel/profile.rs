//! OpenVPN's configuration files, as far as build has to know what is in them: which options it leaves out, and which
//! files they name.

use std::path::{Path, PathBuf};

use crate::confine::view::{Copy, normal};
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::trusted::{self, Trust};

/// Options that run scripts on events that we handle ourselves; the usual ones change the host's resolver.
pub const SCRIPTS: [&str; 6] = ["up", "down", "route-up", "route-pre-down", "ipchange", "iproute"];
/// Options that write files. The daemon can write none, and logs to the system log.
pub const WRITERS: [&str; 5] = ["log", "log-append", "status", "writepid", "replay-persist"];
/// Options about the daemon's user, directory and devices, which it cannot choose.
const OURS: [&str; 7] = ["user", "group", "chroot", "cd", "dev-node", "tmp-dir", "setcon"];
/// How deep files may name each other with `config`.
const DEEPEST: usize = 4;
/// The largest file that is copied; lists of revoked certificates are the largest there are.
const LARGEST: u64 = 16 << 20;

/// One option: its name, without leading dashes, and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    words: Vec<String>,
}

impl Line {
    /// The option's name.
    pub fn option(&self) -> &str {
        &self.words[0]
    }

    /// Its arguments.
    pub fn arguments(&self) -> &[String] {
        &self.words[1..]
    }

    /// Its first argument, empty if there is none.
    pub fn value(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }
}

/// A configuration, with the files that it includes.
#[derive(Debug, Default)]
pub struct Profile {
    directory: PathBuf,
    lines: Vec<Line>,
    /// The paths of the configuration files, with their text as the daemon reads it.
    texts: Vec<(PathBuf, String)>,
}

impl Profile {
    /// Reads a configuration. It, and what it includes, must belong to root and not be writable by others.
    pub fn read(file: &Path) -> Result<Self> {
        let directory = file.parent().unwrap_or(Path::new("/")).to_path_buf();
        let mut profile = Self { directory, ..Self::default() };
        profile.include(file, 0)?;
        Ok(profile)
    }

    fn include(&mut self, file: &Path, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::new(format!("read {}", show(file)), "too many files include each other"));
        }
        let (lines, text) = parse(&trusted::read(file, Trust::Strict)?);
        self.texts.push((normal(file), text));
        for line in lines {
            if line.option() == "config" {
                let included = self.directory.join(line.value());
                if included.exists() {
                    self.include(&included, depth + 1)?;
                }
            }
            self.lines.push(line);
        }
        Ok(())
    }

    /// The first argument of the last line with this option; empty if there is no argument.
    pub fn value(&self, option: &str) -> Option<&str> {
        self.lines.iter().rfind(|line| line.option() == option).map(Line::value)
    }

    /// All lines with this option.
    pub fn all<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.option() == option)
    }

    /// Those of `options` that it contains.
    pub fn which<'a>(&self, options: &[&'a str]) -> Vec<&'a str> {
        options.iter().copied().filter(|option| self.value(option).is_some()).collect()
    }

    /// tun or tap.
    pub fn is_tap(&self) -> bool {
        self.value("dev-type").or(self.value("dev")).is_some_and(|name| name.starts_with("tap"))
    }

    /// Whether a pushed option is accepted: the first of the `pull-filter` lines that fits decides (openvpn(8)).
    pub fn accepts(&self, pushed: &str) -> bool {
        let filter = self
            .all("pull-filter")
            .find(|line| line.words.get(2).is_some_and(|text| pushed.starts_with(text.as_str())));
        filter.is_none_or(|line| line.value() == "accept") && self.value("route-nopull").is_none()
    }

    /// Copies of the configuration and of every file that an option names.
    pub fn copies(&self) -> Result<Vec<Copy>> {
        let text =
            |(at, text): &(PathBuf, String)| Copy { at: at.clone(), contents: text.clone().into(), executable: false };
        let mut copies: Vec<Copy> = self.texts.iter().map(text).collect();
        for file in self.files() {
            let at = normal(&file);
            if copies.iter().all(|copy| copy.at != at) {
                copies.push(copy_of(&file, at)?);
            }
        }
        Ok(copies)
    }

    /// The files that options name, and those in directories that they name.
    fn files(&self) -> Vec<PathBuf> {
        let left_out = |line: &&Line| !is_left_out(line.option());
        let words = self.lines.iter().filter(left_out).flat_map(|line| line.arguments().iter());
        // An argument may be a command line, as that of tls-verify.
        let words = words.flat_map(|word| [Some(word.as_str()), word.split(' ').next()]).flatten();
        let mut files = Vec::new();
        for path in words.filter(|word| !word.is_empty()).map(|word| self.directory.join(word)) {
            if path.is_file() {
                files.push(path);
            } else if path.is_dir() && ["capath", "crl-verify"].iter().any(|option| self.names(option, &path)) {
                let entries = std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path());
                files.extend(entries.filter(|path| path.is_file()));
            }
        }
        files
    }

    fn names(&self, option: &str, path: &Path) -> bool {
        self.lines.iter().any(|line| line.option() == option && self.directory.join(line.value()) == path)
    }
}

fn copy_of(file: &Path, at: PathBuf) -> Result<Copy> {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    let read = || -> std::io::Result<(Vec<u8>, bool)> {
        let mut contents = Vec::new();
        let opened = std::fs::File::open(file)?;
        let executable = opened.metadata()?.permissions().mode() & 0o100 != 0;
        opened.take(LARGEST + 1).read_to_end(&mut contents)?;
        Ok((contents, executable))
    };
    let (contents, executable) = read().cannot(|| format!("read {}", show(file)))?;
    if contents.len() as u64 > LARGEST {
        return Err(Error::new(format!("read {}", show(file)), "it is larger than 16 MiB"));
    }
    Ok(Copy { at, contents, executable })
}

fn is_left_out(option: &str) -> bool {
    SCRIPTS.contains(&option) || WRITERS.contains(&option) || OURS.contains(&option)
}

/// The options of a configuration, and its text with an empty line in place of each that is left out.
fn parse(text: &str) -> (Vec<Line>, String) {
    let (mut lines, mut rest) = (Vec::new(), String::new());
    let mut inline: Option<String> = None;
    for text in text.lines() {
        let mut kept = text;
        match &inline {
            Some(end) if text.trim_start().starts_with(end.as_str()) => inline = None,
            Some(_) => {}
            None => match line(text) {
                Some(line) if is_left_out(line.option()) => {
                    kept = "";
                    lines.push(line);
                }
                Some(line) => match line.option().strip_prefix('<').and_then(|word| word.strip_suffix('>')) {
                    // The lines of a connection are options.
                    Some("connection" | "/connection") => {}
                    Some(tag) if line.words.len() == 1 => inline = Some(format!("</{tag}>")),
                    _ => lines.push(line),
                },
                None => {}
            },
        }
        rest.push_str(kept);
        rest.push('\n');
    }
    (lines, rest)
}

/// The option in a line of text, if there is one.
fn line(text: &str) -> Option<Line> {
    let mut words = words(text);
    let first = words.first_mut()?;
    *first = first.strip_prefix("--").unwrap_or(first).to_string();
    Some(Line { words })
}

/// The words of a line, as OpenVPN splits it (parse_line in options.c): by blanks; quotes of both kinds; a backslash
/// takes the next character as it is, but not within single quotes; comments begin with # or ;.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = line.trim_start_matches('\u{feff}').chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            (_, Some('\'')) => word.get_or_insert_default().push(character),
            ('\\', _) => word.get_or_insert_default().extend(characters.next()),
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            ('#' | ';', None) if word.is_none() => break,
            (blank, None) if blank.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Profile {
        /// Of a single text, without files.
        pub fn of_text(text: &str) -> Self {
            Self { lines: parse(text).0, ..Self::default() }
        }
    }

    fn profile(text: &str) -> Profile {
        Profile::of_text(text)
    }

    #[test]
    fn lines_that_are_left_out_stay_as_empty_lines() {
        let text = "client\nup \"/bin/x 'a'\"\n--down y\n<ca>\nup z\n</ca>\n\"user\" nobody\n# up\n\nverb 3\n";
        let (lines, rest) = parse(text);
        assert_eq!(rest, "client\n\n\n<ca>\nup z\n</ca>\n\n# up\n\nverb 3\n");
        assert_eq!(lines.iter().map(Line::option).collect::<Vec<_>>(), ["client", "up", "down", "user", "verb"]);
    }

    #[test]
    fn words_of_a_line() {
        assert_eq!(words("up \"a b\" 'c \\d' e\\ f # g"), ["up", "a b", "c \\d", "e f"]);
        assert_eq!(words("; x"), [""; 0]);
        assert_eq!(words("x \"\""), ["x", ""]);
    }

    #[test]
    fn devices_and_filters() {
        assert!(profile("client\ndev tap\n").is_tap() && profile("dev myvpn\ndev-type tap\n").is_tap());
        assert!(!profile("--dev tun3\n").is_tap());
        let filters = profile("pull-filter accept \"redirect-gateway def1\"\npull-filter ignore redirect\n");
        assert!(filters.accepts("redirect-gateway def1") && !filters.accepts("redirect-gateway"));
        assert!(filters.accepts("dhcp-option DNS 10.0.0.1") && !profile("route-nopull\n").accepts("redirect-gateway"));
    }

    #[test]
    fn servers() {
        let text = "remote a.example 1194 udp\n<connection>\nremote b.example\n</connection>\n";
        let names: Vec<String> = profile(text).all("remote").map(|line| line.value().to_string()).collect();
        assert_eq!(names, ["a.example", "b.example"]);
    }
}
