//! The command line of the program for root, which runns-exec passes on unchanged.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use runns_cli::{WORD, definition};
use runns_shared::error::{Error, Result, status};
use runns_shared::name::NetnsName;

use crate::part::Wait;
use crate::verb::{build, clean, config, import, launcher, log, status as report};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Build a namespace.
    Build(build::Options),
    /// Remove a namespace.
    Clean(clean::Options),
    /// Show or edit the configuration.
    Config(config::Options),
    /// Import a provider's files, or remove or list what was imported.
    Import(import::Options),
    /// Write, print or remove a launcher.
    Launcher(launcher::Options),
    /// Print the processes that runns-exec found.
    List {
        /// As JSON.
        json: bool,
    },
    /// Show what the log has about a namespace.
    Log(log::Options),
    /// Show the state of the namespaces that were built.
    Status(report::Options),
    /// Print this text, that of --help or --version, and exit.
    Print(String),
}

/// A parsed command line: what to do, and whether to report each step.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What to do.
    pub request: Request,
    /// -v
    pub verbose: bool,
}

/// Parses the words of the command line, the program's name first.
pub fn parse(words: Vec<OsString>) -> Result<Parsed> {
    let parsed = match definition().try_get_matches_from(words) {
        Ok(matches) => interpret(matches),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) =>
        {
            Ok(Parsed {
                request: Request::Print(error.to_string()),
                verbose: false,
            })
        }
        Err(error) => Err(explain(&error)),
    };
    parsed.map_err(|error| error.with_status(status::USAGE))
}

fn usage(cause: impl std::fmt::Display) -> Error {
    Error::new("parse the command line", cause)
}

/// Clap's message as one line, its tip as the hint.
fn explain(error: &clap::Error) -> Error {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut paragraphs = text.split("\n\n");
    let cause: Vec<&str> = paragraphs
        .next()
        .unwrap_or_default()
        .lines()
        .map(str::trim)
        .collect();
    let hint = paragraphs.find_map(|paragraph| paragraph.trim().strip_prefix("tip: "));
    // Who mistypes an option does not mean a file of that name.
    let hint = hint.filter(|hint| !hint.starts_with("to pass "));
    usage(cause.join(" ")).hint(
        hint.unwrap_or("see runns-exec --help")
            .lines()
            .next()
            .unwrap_or_default(),
    )
}

fn interpret(mut matches: ArgMatches) -> Result<Parsed> {
    let verbose = matches.get_flag("verbose");
    let for_entering = ["pty", "detach", "no-new-privs"]
        .iter()
        .any(|option| matches.get_flag(option));
    let (verb, mut sub) = matches
        .remove_subcommand()
        .ok_or_else(|| usage("no subcommand is given"))?;
    let request = match verb.as_str() {
        "build" | "clean" | "config" | "import" | "launcher" | "list" | "log" | "status"
            if for_entering =>
        {
            return Err(usage(only_for_entering(&verb)));
        }
        "build" => Request::Build(build_options(&mut sub)),
        "clean" => Request::Clean(clean_options(&mut sub)?),
        "config" => Request::Config(match sub.contains_id("edit") {
            true => config::Options::Edit(sub.remove_one("FILE")),
            false => config::Options::Show,
        }),
        "import" => Request::Import(import_options(&mut sub)?),
        "launcher" => Request::Launcher(launcher_options(&mut sub)),
        "list" => Request::List {
            json: sub.get_flag("json"),
        },
        "log" => Request::Log(log::Options {
            word: sub.remove_one(WORD).unwrap_or_default(),
            follow: sub.get_flag("follow"),
        }),
        "status" => Request::Status(report::Options {
            words: sub
                .remove_many(WORD)
                .map(Iterator::collect)
                .unwrap_or_default(),
            json: sub.get_flag("json"),
            watch: sub.get_flag("watch"),
        }),
        _ => {
            return Err(usage(
                "this program has only build, clean, config, import, launcher, log and status; runns-exec has the other subcommands",
            ));
        }
    };
    Ok(Parsed { request, verbose })
}

fn only_for_entering(verb: &str) -> String {
    format!("--pty, --detach and --no-new-privs are for entering, not for {verb}")
}

fn build_options(matches: &mut ArgMatches) -> build::Options {
    let seconds = matches.get_one::<u32>("wait").copied().unwrap_or(30);
    let wait = (!matches.get_flag("no-wait")).then(|| Wait {
        time: Duration::from_secs(seconds.into()),
        fixed: matches.value_source("wait") == Some(ValueSource::CommandLine),
    });
    let publish = matches
        .remove_many::<OsString>("publish")
        .map(Iterator::collect)
        .unwrap_or_default();
    let mut take = |name: &str| matches.remove_one::<OsString>(name);
    build::Options {
        word: take(WORD),
        name: take("name"),
        section: take("section"),
        interface: take("int"),
        uplink: take("out"),
        resolve: take("resolve").map(PathBuf::from),
        publish,
        config: take("config").map(PathBuf::from),
        wait,
        all: matches.get_flag("all"),
        change: matches.get_flag("change"),
        authenticated: matches.get_flag("authenticated"),
        at_boot: matches.get_flag("at-boot"),
        dry_run: matches.get_flag("dry-run"),
    }
}

fn import_options(matches: &mut ArgMatches) -> Result<import::Options> {
    if matches.get_flag("list") {
        return Ok(import::Options::List);
    }
    let mut take = |name: &str| matches.remove_one::<OsString>(name);
    if let Some(name) = take("remove") {
        return Ok(import::Options::Remove(name));
    }
    let (name, auth) = (take("name"), take("auth").map(PathBuf::from));
    let name = name.map(|name| {
        // Of several sections, it is the beginning of a name.
        NetnsName::new(&name).map(|_| name.to_string_lossy().into_owned())
    });
    let files = matches.remove_many::<OsString>("FILE");
    let given = |flag: &str| matches.get_flag(flag);
    Ok(import::Options::Import(import::Wanted {
        kill_switch: !given("no-kill-switch"),
        build: given("build"),
        replace: given("replace"),
        dry_run: given("dry-run"),
        files: files.into_iter().flatten().map(PathBuf::from).collect(),
        name: name.transpose()?,
        auth,
    }))
}

fn launcher_options(matches: &mut ArgMatches) -> launcher::Options {
    let words = matches.remove_many::<OsString>("COMMAND");
    let action = match (matches.get_flag("remove"), matches.get_flag("print")) {
        (true, _) => launcher::Action::Remove,
        (_, true) => launcher::Action::Print,
        _ => launcher::Action::Write,
    };
    launcher::Options {
        name: matches.remove_one(WORD).unwrap_or_default(),
        words: words.into_iter().flatten().collect(),
        action,
    }
}

fn clean_options(matches: &mut ArgMatches) -> Result<clean::Options> {
    let mut take = |name: &str| matches.remove_one::<OsString>(name);
    let target = match (take(WORD), take("name"), take("section")) {
        (Some(word), ..) => clean::Target::Word(word),
        (None, Some(name), _) => clean::Target::Name(name),
        (None, None, Some(section)) => clean::Target::Section(section),
        (None, None, None) => {
            return Err(
                usage("no namespace is named").hint("runns-exec clean NAME, or clean SECTION")
            );
        }
    };
    let reattach = take("reattach");
    Ok(clean::Options {
        target,
        disable_forward: matches.get_flag("disable-forward"),
        kill: matches.get_flag("kill"),
        timeout: Duration::from_secs(
            matches
                .get_one::<u32>("timeout")
                .copied()
                .unwrap_or(5)
                .into(),
        ),
        reattach,
    })
}
