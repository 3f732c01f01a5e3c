//! The command line. The only file that knows clap.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::command::{build, check, clean, enter, list, status as tunnel_status};
use crate::error::{Error, Result, status};
use crate::launch::Mode;
use crate::name::RESERVED;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Enter a namespace.
    Enter(enter::Options),
    /// Build one.
    Build(build::Options),
    /// Look at one from inside.
    Check(check::Options),
    /// Clean one away.
    Clean(clean::Options),
    /// List processes.
    List(list::Options),
    /// Say how tunnels are.
    Status(tunnel_status::Options),
    /// Print this text, of --help or --version, and be done.
    Print(String),
}

/// A parsed command line: what to do, and whether to say each step.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What to do.
    pub request: Request,
    /// -v
    pub verbose: bool,
}

const USAGE: &str = "runns-exec [OPTIONS] NAME [--] [COMMAND [ARG]...]\n       \
                     runns-exec exec [OPTIONS] NAME [--] [COMMAND [ARG]...]\n       \
                     runns-exec build|clean|list|check|status [OPTIONS] ...";

const AFTER_HELP: &str = "\
Without COMMAND, your shell is started. Nothing after NAME is taken as an option of runns-exec.

Exit status when entering: the command's own; 125 if runns-exec itself failed, 126 if the command cannot be
executed, 127 if it was not found. Other subcommands: 0 done, 1 failed, 2 wrong usage.

See runns-exec(8) and runns.conf(5).";

/// The exit status for a failure, by the words of the command line alone.
pub fn failure_status(words: &[OsString]) -> u8 {
    if enters(words) { status::ENTER_FAILED } else { status::FAILED }
}

/// Whether the command line is about entering: so is every one that is not clearly about something else.
fn enters(words: &[OsString]) -> bool {
    let first = words.iter().skip(1).find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    !first.is_some_and(|word| *word != "exec" && RESERVED.iter().any(|reserved| word == reserved))
}

/// Whether a namespace comes first. Nothing after its name is ours: there is nothing to parse, and the greater part of
/// the time that parsing takes, which is that of setting the parser up, is saved where it counts.
fn is_plain(words: &[OsString]) -> bool {
    words.get(1).is_some_and(|first| {
        let bytes = first.as_encoded_bytes();
        !bytes.is_empty() && !bytes.starts_with(b"-") && RESERVED.iter().all(|reserved| first != reserved)
    })
}

/// Parses the words of the command line, the program's name first.
pub fn parse(words: Vec<OsString>) -> Result<Parsed> {
    if is_plain(&words) {
        let mut words = words.into_iter().skip(1);
        let name = words.next().unwrap_or_default();
        let options = named(enter::Options::default(), name, words.collect());
        return Ok(Parsed { request: Request::Enter(options), verbose: false });
    }
    let usage_status = if enters(&words) { status::ENTER_FAILED } else { status::USAGE };
    let parsed = match definition().try_get_matches_from(words) {
        Ok(matches) => interpret(matches),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed { request: Request::Print(error.to_string()), verbose: false })
        }
        Err(error) => Err(explain(&error)),
    };
    parsed.map_err(|error| error.with_status(usage_status))
}

fn usage(cause: impl std::fmt::Display) -> Error {
    Error::new("parse the command line", cause)
}

/// Clap's message as one line, its tip or usage as the hint.
fn explain(error: &clap::Error) -> Error {
    if error.kind() == ErrorKind::MissingSubcommand {
        return usage("no namespace is named")
            .hint("runns-exec NAME [--] [COMMAND [ARG]...], or see runns-exec --help");
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut paragraphs = text.split("\n\n");
    let cause: Vec<&str> = paragraphs.next().unwrap_or_default().lines().map(str::trim).collect();
    let hint = paragraphs.find_map(|paragraph| paragraph.trim().strip_prefix("tip: "));
    usage(cause.join(" ")).hint(hint.unwrap_or("see runns-exec --help").lines().next().unwrap_or_default())
}

fn flag(name: &'static str, short: Option<char>, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    match short {
        Some(short) => arg.short(short),
        None => arg,
    }
}

fn value(name: &'static str, short: Option<char>, placeholder: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).value_name(placeholder).value_parser(value_parser!(OsString)).help(help);
    match short {
        Some(short) => arg.short(short),
        None => arg,
    }
}

fn entering(command: Command) -> Command {
    command
        .arg(flag("pty", Some('t'), "Run on a new pseudo-terminal"))
        .arg(flag("detach", Some('d'), "Start in the background, print the pid"))
        .arg(flag("no-new-privs", None, "The command can gain no privileges (no setuid, no file capabilities)"))
        .arg(flag("verbose", Some('v'), "Say each step on stderr"))
        .allow_external_subcommands(true)
        .external_subcommand_value_parser(value_parser!(OsString))
        .subcommand_required(true)
        .subcommand_value_name("NAME [--] [COMMAND [ARG]...]")
}

/// The whole definition, from which completions are generated too.
pub fn definition() -> Command {
    entering(Command::new("runns-exec"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run a program in a network namespace, as yourself")
        .override_usage(USAGE)
        .after_help(AFTER_HELP)
        .subcommand(Command::new("exec").about("Enter a namespace, also one that is named like a subcommand").defer(
            |command| {
                entering(command)
                    .override_usage("runns-exec exec [OPTIONS] NAME [--] [COMMAND [ARG]...]")
                    .disable_help_subcommand(true)
            },
        ))
        .subcommand(Command::new("build").about("Build a namespace (root)").defer(define_build))
        .subcommand(Command::new("clean").about("Remove what build made (root)").defer(define_clean))
        .subcommand(Command::new("check").about("Prove from inside that a namespace does not leak").defer(define_check))
        .subcommand(Command::new("list").about("List the processes in namespaces").defer(define_list))
        .subcommand(Command::new("status").about("Say how namespaces and their tunnels are").defer(define_status))
}

fn define_build(command: Command) -> Command {
    command
        .arg(value("name", Some('n'), "NAME", "Name of the namespace [default: the section's, else the next vpnX]"))
        .arg(value(
            "section",
            Some('s'),
            "SECTION",
            "Take what is not given here from this section of the configuration",
        ))
        .arg(value("int", Some('i'), "IFACE", "Host's end of the veth pair (InterfaceIn)"))
        .arg(value("out", Some('o'), "IFACE", "Uplink that traffic must leave by (InterfaceOut)"))
        .arg(value("resolve", Some('r'), "FILE", "File to use as resolv.conf inside (Resolve)"))
        .arg(value("config", None, "FILE", "Configuration to read [default: /etc/runns.conf]"))
        .arg(
            Arg::new("wait")
                .long("wait")
                .value_name("SECONDS")
                .value_parser(value_parser!(u32).range(1..=3600))
                .default_value("30")
                .help("Wait so long for each tunnel to come up"),
        )
        .arg(flag("no-wait", None, "Do not wait for the tunnels").conflicts_with("wait"))
        .arg(flag("dry-run", None, "Print what would be made, and change nothing"))
}

fn define_clean(command: Command) -> Command {
    command
        .arg(value("NAME", None, "NAME", "Namespace to remove").long(None).conflicts_with_all(["name", "section"]))
        .arg(value("name", Some('n'), "NAME", "Namespace to remove").conflicts_with("section"))
        .arg(value("section", Some('s'), "SECTION", "Remove the namespace of this section"))
        .arg(flag("disable-forward", Some('f'), "Restore IPv4 forwarding, once no built namespace is left"))
        .arg(flag("kill", Some('k'), "End the processes inside without asking"))
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .value_parser(value_parser!(u32).range(0..=3600))
                .default_value("5")
                .help("Wait so long after SIGTERM before SIGKILL"),
        )
        .arg(value("reattach", Some('r'), "IFACE", "Only move the namespace to this uplink"))
}

fn define_check(command: Command) -> Command {
    command
        .arg(value("NAME", None, "NAME", "Namespace to look at").long(None).required(true))
        .arg(flag("json", None, "As JSON"))
}

fn define_status(command: Command) -> Command {
    command.arg(value("NAME", None, "NAME", "Only this namespace").long(None)).arg(flag("json", None, "As JSON"))
}

fn define_list(command: Command) -> Command {
    command
        .arg(
            Arg::new("NAME")
                .value_name("NAME")
                .num_args(0..)
                .value_parser(value_parser!(OsString))
                .help("Only processes in these namespaces"),
        )
        .arg(flag("all", Some('a'), "Everybody's processes, not only yours"))
        .arg(flag("quiet", Some('q'), "Only pids, one a line"))
        .arg(flag("json", None, "As JSON").conflicts_with("quiet"))
}

fn interpret(mut matches: ArgMatches) -> Result<Parsed> {
    let mut verbose = matches.get_flag("verbose");
    let mut options = enter_options(&matches);
    let given = options.mode.pty || options.mode.detach || options.no_new_privs;
    let (verb, mut sub) = matches.remove_subcommand().ok_or_else(|| usage("no namespace is named"))?;
    let request = match verb.as_str() {
        "exec" => {
            let inner = enter_options(&sub);
            verbose |= sub.get_flag("verbose");
            options.mode.pty |= inner.mode.pty;
            options.mode.detach |= inner.mode.detach;
            options.no_new_privs |= inner.no_new_privs;
            let (name, sub) = sub.remove_subcommand().ok_or_else(|| usage("no namespace is named"))?;
            Request::Enter(named(options, name.into(), external(sub)))
        }
        "build" | "clean" | "list" | "check" | "status" if given => {
            return Err(usage(format!("--pty, --detach and --no-new-privs are for entering, not for {verb}"))
                .hint(format!("a namespace of that name: runns-exec exec {verb}")));
        }
        "build" => Request::Build(build_options(&mut sub)),
        "check" => Request::Check(check::Options {
            name: sub.remove_one("NAME").unwrap_or_default(),
            json: sub.get_flag("json"),
        }),
        "status" => {
            Request::Status(tunnel_status::Options { name: sub.remove_one("NAME"), json: sub.get_flag("json") })
        }
        "clean" => Request::Clean(clean_options(&mut sub)?),
        "list" => Request::List(list_options(&mut sub)),
        name => Request::Enter(named(options, name.into(), external(sub))),
    };
    Ok(Parsed { request, verbose })
}

fn enter_options(matches: &ArgMatches) -> enter::Options {
    enter::Options {
        name: OsString::new(),
        words: Vec::new(),
        mode: Mode { pty: matches.get_flag("pty"), detach: matches.get_flag("detach") },
        no_new_privs: matches.get_flag("no-new-privs"),
    }
}

/// The words after the name of a namespace.
fn external(mut matches: ArgMatches) -> Vec<OsString> {
    matches.remove_many("").map(Iterator::collect).unwrap_or_default()
}

/// `options` with the namespace and the command, taken as they stand but for one `--` between them.
fn named(options: enter::Options, name: OsString, mut words: Vec<OsString>) -> enter::Options {
    if words.first().map(OsString::as_os_str) == Some(OsStr::new("--")) {
        words.remove(0);
    }
    enter::Options { name, words, ..options }
}

fn build_options(matches: &mut ArgMatches) -> build::Options {
    let seconds = matches.get_one::<u32>("wait").copied().unwrap_or(30);
    let wait = (!matches.get_flag("no-wait")).then(|| Duration::from_secs(seconds.into()));
    let mut take = |name: &str| matches.remove_one::<OsString>(name);
    build::Options {
        name: take("name"),
        section: take("section"),
        interface: take("int"),
        uplink: take("out"),
        resolve: take("resolve").map(PathBuf::from),
        config: take("config").map(PathBuf::from),
        wait,
        dry_run: matches.get_flag("dry-run"),
    }
}

fn clean_options(matches: &mut ArgMatches) -> Result<clean::Options> {
    let mut take = |name: &str| matches.remove_one::<OsString>(name);
    let target = match (take("NAME").or_else(|| take("name")), take("section")) {
        (Some(name), _) => clean::Target::Name(name),
        (None, Some(section)) => clean::Target::Section(section),
        (None, None) => return Err(usage("no namespace is named").hint("runns-exec clean NAME, or clean -s SECTION")),
    };
    let reattach = take("reattach");
    Ok(clean::Options {
        target,
        disable_forward: matches.get_flag("disable-forward"),
        kill: matches.get_flag("kill"),
        timeout: Duration::from_secs(matches.get_one::<u32>("timeout").copied().unwrap_or(5).into()),
        reattach,
    })
}

fn list_options(matches: &mut ArgMatches) -> list::Options {
    list::Options {
        names: matches.remove_many("NAME").map(Iterator::collect).unwrap_or_default(),
        all: matches.get_flag("all"),
        quiet: matches.get_flag("quiet"),
        json: matches.get_flag("json"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        std::iter::once("runns-exec").chain(line.iter().copied()).map(OsString::from).collect()
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
    fn definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn nothing_after_the_name_is_ours() {
        let options = entered(&["-t", "vpn1", "--", "tmux", "-L", "--", "--pty"]);
        assert_eq!((options.name, options.mode.pty), ("vpn1".into(), true));
        assert_eq!(options.words, ["tmux", "-L", "--", "--pty"]);
        assert_eq!(entered(&["vpn1", "--detach"]).words, ["--detach"]);
        assert_eq!(entered(&["vpn1", "--", "--", "x"]).words, ["--", "x"]);
        assert_eq!(entered(&["vpn1", "--help"]).words, ["--help"]);
        assert!(entered(&["vpn1"]).words.is_empty());
    }

    #[test]
    fn the_plain_form_is_what_the_parser_makes_of_it() {
        for line in [&["vpn1"][..], &["vpn1", "--"], &["a", "b", "-t"], &["a", "--", "--", "b"], &["x", "exec", ""]] {
            assert!(is_plain(&words(line)));
            let parsed = interpret(definition().try_get_matches_from(words(line)).unwrap()).unwrap();
            assert_eq!(parse(words(line)).unwrap(), parsed, "{line:?}");
        }
        for line in [&[][..], &[""], &["-t", "vpn1"], &["exec", "vpn1"], &["list"], &["help"]] {
            assert!(!is_plain(&words(line)), "{line:?}");
        }
    }

    #[test]
    fn exec_reaches_names_of_subcommands() {
        assert_eq!(entered(&["exec", "list", "--", "true"]).name, "list");
        assert_eq!(entered(&["exec", "help", "true"]).name, "help");
        let options = entered(&["exec", "-d", "exec", "true"]);
        assert_eq!((options.name, options.mode.detach), ("exec".into(), true));
    }

    #[test]
    fn exit_status_of_usage_errors() {
        for line in [&[][..], &["--bogus"], &["--bogus", "vpn1"], &["exec"], &["exec", "--bogus", "x"]] {
            assert_eq!(refused(line), Some(125), "{line:?}");
        }
        for line in [
            &["build", "--bogus"][..],
            &["clean"],
            &["list", "--json", "-q"],
            &["--pty", "list"],
            &["status", "--bogus"],
            &["check"],
        ] {
            assert_eq!(refused(line), Some(2), "{line:?}");
        }
    }

    /// The words of the `.It` lines of the manual that start with `-` and are longer than one letter: `-pty`.
    fn documented_options(manual: &str) -> BTreeSet<&str> {
        let items = manual.lines().filter_map(|line| line.strip_prefix(".It "));
        items.flat_map(str::split_whitespace).filter_map(|word| word.strip_prefix('-')).collect()
    }

    #[test]
    fn the_manual_has_every_option_and_subcommand_and_no_other() {
        let manual = include_str!("../docs/runns-exec.8");
        let mut definition = definition();
        definition.build();
        let subcommands = definition.get_subcommands().filter(|sub| sub.get_name() != "help");
        let commands: Vec<&Command> = std::iter::once(&definition).chain(subcommands).collect();
        let options: BTreeSet<&str> =
            commands.iter().flat_map(|command| command.get_arguments()).filter_map(Arg::get_long).collect();
        assert_eq!(documented_options(manual), options);
        for command in &commands[1..] {
            assert!(manual.contains(&format!("\n.Cm {}\n", command.get_name())), "{}", command.get_name());
            let short = command.get_arguments().filter_map(Arg::get_short);
            for letter in short {
                assert!(manual.contains(&format!("Fl {letter} , ")), "-{letter}");
            }
        }
    }
}
