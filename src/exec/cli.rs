//! Parses the command line: lexopt knows the syntax, the table in [`crate::commands`] the options.

use std::ffi::{OsStr, OsString};

use lexopt::Parser;
use lexopt::prelude::{Long, Short, Value};
use runns_shared::error::{Error, Result, status};
use runns_shared::escape::escape;
use runns_shared::name::RESERVED;
use runns_shared::suggest::nearest;

use crate::commands::{COMMANDS, Command, find, words as words_of_commands};
use crate::launch::Mode;
use crate::verb::{check, enter, list, status as report};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Enter a namespace.
    Enter(enter::Options),
    /// Test one for leaks, from inside.
    Check(check::Options),
    /// List processes.
    List(list::Options),
    /// Show the state of what was built.
    Status(report::Options),
    /// Execute the program for root, to which this subcommand belongs.
    OfRoot,
    /// Print this text, for --help or --version.
    Print(String),
}

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What to do.
    pub request: Request,
    /// -v
    pub verbose: bool,
}

/// The exit status for failures, according to the words of the command line.
pub fn failure_status(words: &[OsString]) -> u8 {
    if enters(words) {
        status::ENTER_FAILED
    } else {
        status::FAILED
    }
}

/// Whether the command line asks to enter a namespace, which is so unless it clearly asks for
/// something else.
fn enters(words: &[OsString]) -> bool {
    let is_option = |word: &OsString| word.as_encoded_bytes().starts_with(b"-") && word != "--";
    let first = words.iter().skip(1).find(|word| !is_option(word));
    !first.is_some_and(|word| *word != "exec" && RESERVED.iter().any(|reserved| word == reserved))
}

/// Parses the words of the command line, the program's name first.
pub fn parse(words: Vec<OsString>) -> Result<Parsed> {
    let usage_status = if enters(&words) {
        status::ENTER_FAILED
    } else {
        status::USAGE
    };
    interpret(words).map_err(|error| error.with_status(usage_status))
}

fn interpret(words: Vec<OsString>) -> Result<Parsed> {
    let count = words.len();
    let mut parser = Parser::from_iter(words.iter().cloned());
    let mut flags = Vec::new();
    let top = &COMMANDS[0];
    let first = match next(top, &mut parser, &mut flags)? {
        Next::Help => {
            return Ok(Parsed {
                request: Request::Print(top.help.to_string()),
                verbose: false,
            });
        }
        Next::Version => {
            let version = format!("runns-exec {}\n", env!("CARGO_PKG_VERSION"));
            return Ok(Parsed {
                request: Request::Print(version),
                verbose: false,
            });
        }
        Next::End => return Err(no_namespace()),
        Next::Operand(word) => word,
    };
    let rest: Vec<OsString> = parser
        .raw_args()
        .map_err(|error| usage(error.to_string()))?
        .collect();
    let verbose = flags.contains(&"verbose");
    // What follows `--` is a name, whatever it looks like.
    let is_name = words[count - rest.len() - 2] == "--";
    let verb = first
        .to_str()
        .filter(|word| !is_name && RESERVED.contains(word));
    let request = match verb {
        Some("exec") => return enter_explicitly(rest, flags),
        Some("help") => help(&rest)?,
        Some(verb) => {
            if ["pty", "detach", "no-new-privs"]
                .iter()
                .any(|option| flags.contains(option))
            {
                return Err(usage(format!(
                    "--pty, --detach and --no-new-privs are for entering, not for {verb}"
                ))
                .hint(format!("a namespace of that name: runns-exec exec {verb}")));
            }
            subcommand(find(verb).ok_or_else(no_namespace)?, rest)?
        }
        None => Request::Enter(enter_options(&flags, first, rest)),
    };
    Ok(Parsed { request, verbose })
}

fn usage(cause: impl std::fmt::Display) -> Error {
    Error::new("parse the command line", cause)
}

fn no_namespace() -> Error {
    usage("no namespace is named")
        .hint("runns-exec NAME [--] [COMMAND [ARG]...], or see runns-exec --help")
}

/// What follows the options on the command line.
enum Next {
    Operand(OsString),
    Help,
    Version,
    End,
}

/// Parses options of `command` up to the next operand, and adds their names to `flags`.
fn next(command: &Command, parser: &mut Parser, flags: &mut Vec<&'static str>) -> Result<Next> {
    loop {
        let argument = parser.next().map_err(|error| usage(error.to_string()))?;
        let flag = match &argument {
            None => return Ok(Next::End),
            Some(Value(word)) => return Ok(Next::Operand(word.clone())),
            Some(Short('h') | Long("help")) => return Ok(Next::Help),
            Some(Short('V') | Long("version")) if command.name.is_empty() => {
                return Ok(Next::Version);
            }
            Some(Long(name)) => command.flags.iter().find(|flag| flag.long == *name),
            Some(Short(letter)) => command
                .flags
                .iter()
                .find(|flag| flag.short == Some(*letter)),
        };
        let Some(flag) = flag else {
            return Err(unknown(command, argument));
        };
        if flags.contains(&flag.long) {
            return Err(usage(format!("--{} is given twice", flag.long)));
        }
        if let Some(other) = flag.excludes.iter().find(|other| flags.contains(other)) {
            return Err(usage(format!(
                "--{other} and --{} cannot be given together",
                flag.long
            )));
        }
        flags.push(flag.long);
    }
}

fn unknown(command: &Command, argument: Option<lexopt::Arg>) -> Error {
    let see = if command.name.is_empty() {
        String::new()
    } else {
        format!("{} ", command.name)
    };
    let see = format!("see runns-exec {see}--help");
    match argument {
        Some(Long(name)) => {
            let error = usage(format!("there is no option --{}", escape(name.as_bytes())));
            match nearest(name, command.flags.iter().map(|flag| flag.long)) {
                Some(near) => error.hint(format!("did you mean --{near}?")),
                None => error.hint(see),
            }
        }
        Some(Short(letter)) => usage(format!("there is no option -{letter}")).hint(see),
        _ => usage("unexpected word").hint(see),
    }
}

/// `exec [OPTIONS] NAME [--] [COMMAND...]`, with `flags` given before it.
fn enter_explicitly(words: Vec<OsString>, mut flags: Vec<&'static str>) -> Result<Parsed> {
    let exec = find("exec").ok_or_else(no_namespace)?;
    let mut parser = Parser::from_args(words);
    let mut own = Vec::new();
    match next(exec, &mut parser, &mut own)? {
        Next::Operand(name) => {
            let rest = parser
                .raw_args()
                .map_err(|error| usage(error.to_string()))?
                .collect();
            flags.extend(own);
            let request = Request::Enter(enter_options(&flags, name, rest));
            Ok(Parsed {
                request,
                verbose: flags.contains(&"verbose"),
            })
        }
        Next::End => Err(no_namespace()),
        _ => Ok(Parsed {
            request: Request::Print(exec.help.to_string()),
            verbose: false,
        }),
    }
}

/// The namespace and the command, taken verbatim except for one `--` between them.
fn enter_options(flags: &[&str], name: OsString, mut words: Vec<OsString>) -> enter::Options {
    if words.first().map(OsString::as_os_str) == Some(OsStr::new("--")) {
        words.remove(0);
    }
    let mode = Mode {
        pty: flags.contains(&"pty"),
        detach: flags.contains(&"detach"),
    };
    enter::Options {
        name,
        words,
        mode,
        no_new_privs: flags.contains(&"no-new-privs"),
    }
}

fn help(words: &[OsString]) -> Result<Request> {
    let Some(word) = words.first() else {
        return Ok(Request::Print(COMMANDS[0].help.to_string()));
    };
    match word.to_str().filter(|word| !word.is_empty()).and_then(find) {
        Some(command) if command.of_root => Ok(Request::OfRoot),
        Some(command) => Ok(Request::Print(command.help.to_string())),
        None => {
            let error = usage(format!(
                "there is no subcommand '{}'",
                escape(word.as_encoded_bytes())
            ));
            Err(
                match nearest(&word.to_string_lossy(), words_of_commands()) {
                    Some(near) => error.hint(format!("did you mean {near}?")),
                    None => error.hint("see runns-exec --help"),
                },
            )
        }
    }
}

fn subcommand(command: &'static Command, words: Vec<OsString>) -> Result<Request> {
    if command.of_root {
        return Ok(Request::OfRoot);
    }
    let mut parser = Parser::from_args(words);
    let (mut flags, mut operands) = (Vec::new(), Vec::new());
    loop {
        match next(command, &mut parser, &mut flags)? {
            Next::Operand(word) => operands.push(word),
            Next::End => break,
            _ => return Ok(Request::Print(command.help.to_string())),
        }
    }
    let see = || format!("see runns-exec {} --help", command.name);
    if let Some(word) = operands.get(command.most) {
        return Err(usage(format!(
            "unexpected argument '{}'",
            escape(word.as_encoded_bytes())
        ))
        .hint(see()));
    }
    if operands.len() < command.least {
        return Err(usage("no namespace is named").hint(see()));
    }
    let given = |flag: &str| flags.contains(&flag);
    let mut operands = operands.into_iter();
    Ok(match command.name {
        "check" => Request::Check(check::Options {
            name: operands.next().unwrap_or_default(),
            here: given("here"),
            json: given("json"),
        }),
        "status" => Request::Status(report::Options {
            words: operands.collect(),
            json: given("json"),
        }),
        _ => Request::List(list::Options {
            names: operands.collect(),
            all: given("all"),
            quiet: given("quiet"),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        std::iter::once("runns-exec")
            .chain(line.iter().copied())
            .map(OsString::from)
            .collect()
    }

    fn entered(line: &[&str]) -> enter::Options {
        match parse(words(line)).unwrap().request {
            Request::Enter(options) => options,
            other => panic!("{other:?}"),
        }
    }

    fn refused(line: &[&str]) -> Option<u8> {
        parse(words(line)).unwrap_err().status()
    }

    #[test]
    fn nothing_after_the_name_is_ours() {
        let options = entered(&["-t", "vpn1", "--", "tmux", "-L", "--", "--pty"]);
        assert_eq!((options.name, options.mode.pty), ("vpn1".into(), true));
        assert_eq!(options.words, ["tmux", "-L", "--", "--pty"]);
        assert_eq!(entered(&["vpn1", "--detach"]).words, ["--detach"]);
        assert_eq!(entered(&["vpn1", "--", "--", "x"]).words, ["--", "x"]);
        assert_eq!(entered(&["vpn1", "--help"]).words, ["--help"]);
        assert_eq!(
            entered(&["-td", "vpn1", "-x"]).mode,
            Mode {
                pty: true,
                detach: true
            }
        );
        assert!(entered(&["vpn1"]).words.is_empty());
    }

    #[test]
    fn exec_and_two_hyphens_reach_names_of_subcommands() {
        assert_eq!(entered(&["exec", "list", "--", "true"]).name, "list");
        assert_eq!(entered(&["exec", "help", "true"]).name, "help");
        assert_eq!(entered(&["exec", "log", "true"]).name, "log");
        assert_eq!(entered(&["exec", "--", "exec", "true"]).name, "exec");
        assert_eq!(entered(&["--", "list", "true"]).name, "list");
        assert_eq!(entered(&["-t", "--", "list"]).name, "list");
        let options = entered(&["exec", "-d", "exec", "true"]);
        assert_eq!((options.name, options.mode.detach), ("exec".into(), true));
    }

    #[test]
    fn exit_status_of_usage_errors() {
        for line in [
            &[][..],
            &["--bogus"],
            &["--bogus", "vpn1"],
            &["exec"],
            &["exec", "--bogus", "x"],
            &["-t=x", "y"],
        ] {
            assert_eq!(refused(line), Some(125), "{line:?}");
        }
        for line in [
            &["list", "--json", "-q"][..],
            &["list", "--json=1"],
            &["list", "-a", "-a"],
            &["--pty", "list"],
            &["--pty", "build"],
            &["status", "--bogus"],
            &["status", "--json", "--json"],
            &["check"],
            &["help", "nope"],
        ] {
            assert_eq!(refused(line), Some(2), "{line:?}");
        }
    }

    #[test]
    fn subcommands_for_root_are_passed_on_unread() {
        for line in [
            &["build"][..],
            &["build", "--bogus"],
            &["-v", "build"],
            &["clean", "-n", "x", "--help"],
            &["help", "build"],
            &["config", "x"],
        ] {
            assert_eq!(
                parse(words(line)).unwrap().request,
                Request::OfRoot,
                "{line:?}"
            );
        }
    }

    /// What clap makes of a line, in the words of [`Request`]; `None` where it is refused.
    fn by_clap(line: &[&str]) -> Option<Request> {
        let mut matches = match runns_cli::definition().try_get_matches_from(words(line)) {
            Ok(matches) => matches,
            Err(error) if matches!(error.kind(), clap::error::ErrorKind::DisplayHelp) => {
                return Some(Request::Print(error.to_string()));
            }
            Err(_) => return None,
        };
        let mode = Mode {
            pty: matches.get_flag("pty"),
            detach: matches.get_flag("detach"),
        };
        let no_new_privs = matches.get_flag("no-new-privs");
        let (verb, mut sub) = matches.remove_subcommand()?;
        let flag = |sub: &clap::ArgMatches, name: &str| sub.get_flag(name);
        Some(match verb.as_str() {
            "list" => Request::List(list::Options {
                all: flag(&sub, "all"),
                quiet: flag(&sub, "quiet"),
                names: sub
                    .remove_many("NAME")
                    .map(Iterator::collect)
                    .unwrap_or_default(),
            }),
            "status" => Request::Status(report::Options {
                json: flag(&sub, "json"),
                words: sub
                    .remove_many(runns_cli::WORD)
                    .map(Iterator::collect)
                    .unwrap_or_default(),
            }),
            "check" => Request::Check(check::Options {
                here: flag(&sub, "here"),
                json: flag(&sub, "json"),
                name: sub.remove_one("NAME").unwrap_or_default(),
            }),
            name => {
                let mut words: Vec<OsString> = sub
                    .remove_many("")
                    .map(Iterator::collect)
                    .unwrap_or_default();
                if words.first().is_some_and(|word| word == "--") {
                    words.remove(0);
                }
                Request::Enter(enter::Options {
                    name: name.into(),
                    words,
                    mode,
                    no_new_privs,
                })
            }
        })
    }

    #[test]
    fn clap_reads_every_line_the_same_way() {
        let lines = "vpn1|vpn1 -- a -t|-t vpn1|-td --no-new-privs vpn1 x --|--pty --bogus x|list|list -aq|list -a -- -x|\
            list a b --json|list --json -q|list --al|list --all=1|list -h|list --help x|status|status a|status a b|\
            status --json a|check|check a|check --json a|check a b|check --here a|status a b --json|-h|--help|help list|help check|exec --help|\
            -v list a|list -v|-t|-x|--pty=1 a";
        for line in lines.split('|') {
            let line: Vec<&str> = line.split_whitespace().collect();
            let ours = parse(words(&line)).ok().map(|parsed| parsed.request);
            assert_eq!(ours, by_clap(&line), "{line:?}");
        }
    }
}
