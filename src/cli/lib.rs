//! The command line, as clap has it. This one definition is the source of the completions, of
//! `--help`, of the table by which runns-exec parses (its build script reads it: the program itself
//! has no clap) and of the parser of runns-exec-root. A test holds the manual against it.

#![forbid(unsafe_code)]

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, value_parser};

/// The subcommands of the program for root. runns-exec executes that program for them.
pub const OF_ROOT: [&str; 5] = ["build", "clean", "import", "launcher", "log"];

/// The placeholder of a word that is a namespace's name or a section's, whichever it is.
pub const WORD: &str = "NAME|SECTION";

const USAGE: &str = "runns-exec [OPTIONS] NAME [--] [COMMAND [ARG]...]\n       \
                     runns-exec exec [OPTIONS] NAME [--] [COMMAND [ARG]...]\n       \
                     runns-exec build|clean|import|list|check|status|log|launcher [OPTIONS] ...";

const AFTER_HELP: &str = "\
Without COMMAND, your shell is started. Nothing after NAME is taken as an option of runns-exec.

Exit status when entering: the command's own; 125 if runns-exec itself failed, 126 if the command cannot be
executed, 127 if it was not found. Other subcommands: 0 done, 1 failed, 2 wrong usage.

See runns-exec(8) and runns.conf(5).";

fn flag(name: &'static str, short: Option<char>, help: &'static str) -> Arg {
    let arg = Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help);
    match short {
        Some(short) => arg.short(short),
        None => arg,
    }
}

fn value(
    name: &'static str,
    short: Option<char>,
    placeholder: &'static str,
    help: &'static str,
) -> Arg {
    let arg = Arg::new(name)
        .long(name)
        .value_name(placeholder)
        .value_parser(value_parser!(OsString))
        .help(help);
    match short {
        Some(short) => arg.short(short),
        None => arg,
    }
}

fn word(help: &'static str) -> Arg {
    value(WORD, None, WORD, help)
        .long(None)
        .conflicts_with_all(["name", "section"])
}

fn words(placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(placeholder)
        .value_name(placeholder)
        .num_args(0..)
        .value_parser(value_parser!(OsString))
        .help(help)
}

fn entering(command: Command) -> Command {
    command
        .arg(flag("pty", Some('t'), "Run on a new pseudo-terminal"))
        .arg(flag(
            "detach",
            Some('d'),
            "Start in the background, print the pid",
        ))
        .arg(flag(
            "no-new-privs",
            None,
            "The command can gain no privileges (no setuid, no file capabilities)",
        ))
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
        .subcommand(
            Command::new("exec")
                .about("Enter a namespace, also one that is named like a subcommand")
                .defer(|command| {
                    entering(command)
                        .override_usage("runns-exec exec [OPTIONS] NAME [--] [COMMAND [ARG]...]")
                        .disable_help_subcommand(true)
                }),
        )
        .subcommand(
            Command::new("build")
                .about("Build a namespace (root)")
                .defer(define_build),
        )
        .subcommand(
            Command::new("clean")
                .about("Remove what build made (root)")
                .defer(define_clean),
        )
        .subcommand(
            Command::new("import")
                .about("Take over a VPN provider's files (root)")
                .defer(define_import),
        )
        .subcommand(
            Command::new("check")
                .about("Prove from inside that a namespace does not leak")
                .defer(define_check),
        )
        .subcommand(
            Command::new("list")
                .about("List the processes in namespaces")
                .defer(define_list),
        )
        .subcommand(
            Command::new("status")
                .about("Say whether namespaces are as they were built, and how their tunnels are")
                .defer(define_status),
        )
        .subcommand(
            Command::new("log")
                .about("Show the log of a namespace: tunnels, builds, entries")
                .defer(define_log),
        )
        .subcommand(
            Command::new("launcher")
                .about("Add a program to your desktop's menu that runs in a namespace")
                .defer(define_launcher),
        )
}

fn define_build(command: Command) -> Command {
    command
        .arg(word("Section to build, or namespace to build again"))
        .arg(value(
            "name",
            Some('n'),
            "NAME",
            "Name of the namespace [default: the section's, else the next vpnX]",
        ))
        .arg(value(
            "section",
            Some('s'),
            "SECTION",
            "Take what is not given here from this section of the configuration",
        ))
        .arg(value(
            "int",
            Some('i'),
            "IFACE",
            "Host's end of the veth pair (InterfaceIn)",
        ))
        .arg(value(
            "out",
            Some('o'),
            "IFACE",
            "Uplink that traffic must leave by (InterfaceOut)",
        ))
        .arg(value(
            "resolve",
            Some('r'),
            "FILE",
            "File to use as resolv.conf inside (Resolve)",
        ))
        .arg(
            value(
                "publish",
                None,
                "PORT",
                "Lead [ADDRESS:]PORT[:INSIDE][/udp] of the host inside (Publish)",
            )
            .action(ArgAction::Append),
        )
        .arg(value(
            "config",
            None,
            "FILE",
            "Configuration to read [default: /etc/runns.conf and /etc/runns.conf.d/*.conf]",
        ))
        .arg(
            Arg::new("wait")
                .long("wait")
                .value_name("SECONDS")
                .value_parser(value_parser!(u32).range(1..=3600))
                .default_value("30")
                .help("Wait so long for each tunnel to come up"),
        )
        .arg(flag("no-wait", None, "Do not wait for the tunnels").conflicts_with("wait"))
        .arg(
            flag(
                "change",
                None,
                "Change what is built to what the section says, under running programs",
            )
            .requires("section"),
        )
        .arg(flag(
            "dry-run",
            None,
            "Print what would be made, and change nothing",
        ))
}

fn define_clean(command: Command) -> Command {
    command
        .arg(word(
            "Namespace to remove, or the section it was built from",
        ))
        .arg(value("name", Some('n'), "NAME", "Namespace to remove").conflicts_with("section"))
        .arg(value(
            "section",
            Some('s'),
            "SECTION",
            "Remove the namespace of this section",
        ))
        .arg(flag(
            "disable-forward",
            Some('f'),
            "Restore IPv4 forwarding, once no built namespace is left",
        ))
        .arg(flag(
            "kill",
            Some('k'),
            "End the processes inside without asking",
        ))
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .value_parser(value_parser!(u32).range(0..=3600))
                .default_value("5")
                .help("Wait so long after SIGTERM before SIGKILL"),
        )
        .arg(value(
            "reattach",
            Some('r'),
            "IFACE",
            "Only move the namespace to this uplink",
        ))
}

fn define_import(command: Command) -> Command {
    const OF_IMPORT: [&str; 7] = [
        "FILE",
        "name",
        "no-kill-switch",
        "auth",
        "build",
        "replace",
        "dry-run",
    ];
    command
        .arg(
            Arg::new("FILE")
                .value_name("FILE")
                .num_args(1..)
                .required_unless_present_any(["remove", "list"])
                .value_parser(value_parser!(OsString))
                .help("OpenVPN or wg-quick file, or a .zip of them"),
        )
        .arg(value(
            "name",
            Some('n'),
            "NAME",
            "Name of the section and its namespace; of several, the beginning [default: the file's name]",
        ))
        .arg(flag(
            "no-kill-switch",
            None,
            "Let traffic out beside the tunnel while it is down (KillSwitch=no)",
        ))
        .arg(value(
            "auth",
            None,
            "FILE",
            "File with user name and password, a line each; ask: keep none, let build ask",
        ))
        .arg(flag("build", None, "Build the namespace as well"))
        .arg(flag(
            "replace",
            None,
            "Replace what was imported under the same name",
        ))
        .arg(flag("dry-run", None, "Check the files, and change nothing"))
        .arg(
            value("remove", None, "SECTION", "Remove what was imported under this name")
                .conflicts_with_all(OF_IMPORT),
        )
        .arg(
            flag("list", None, "List what was imported")
                .conflicts_with_all(OF_IMPORT)
                .conflicts_with("remove"),
        )
}

fn define_check(command: Command) -> Command {
    command
        .arg(
            value("NAME", None, "NAME", "Namespace to look at")
                .long(None)
                .required(true),
        )
        .arg(flag(
            "here",
            None,
            "Do not enter it: look at where this process is, say a service",
        ))
        .arg(flag("json", None, "As JSON"))
}

fn define_status(command: Command) -> Command {
    command
        .arg(words(WORD, "Only these namespaces and sections"))
        .arg(flag("json", None, "As JSON"))
}

fn define_log(command: Command) -> Command {
    command
        .arg(
            value(WORD, None, WORD, "Namespace, or section, whose log to show")
                .long(None)
                .required(true),
        )
        .arg(flag(
            "follow",
            Some('f'),
            "Show new lines as they are written",
        ))
}

fn define_launcher(command: Command) -> Command {
    command
        .arg(flag(
            "print",
            None,
            "Print the desktop entry, and write nothing",
        ))
        .arg(flag("remove", None, "Remove the launcher").conflicts_with("print"))
        .arg(
            value(WORD, None, WORD, "Namespace, or section, to run it in")
                .long(None)
                .required(true),
        )
        .arg(
            value("COMMAND", None, "COMMAND", "Program, and its arguments")
                .long(None)
                .required(true)
                .num_args(1..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true),
        )
}

fn define_list(command: Command) -> Command {
    command
        .arg(words("NAME", "Only processes in these namespaces"))
        .arg(flag(
            "all",
            Some('a'),
            "Everybody's processes, not only yours",
        ))
        .arg(flag("quiet", Some('q'), "Only pids, one a line"))
        .arg(flag("json", None, "As JSON").conflicts_with("quiet"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn definition_is_sound() {
        definition().debug_assert();
    }

    /// The words of the `.It` lines of the manual that start with `-` and are longer than one
    /// letter: `-pty`.
    fn documented_options(manual: &str) -> BTreeSet<&str> {
        let items = manual.lines().filter_map(|line| line.strip_prefix(".It "));
        items
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.strip_prefix('-'))
            .collect()
    }

    #[test]
    fn the_manual_has_every_option_and_subcommand_and_no_other() {
        let manual = include_str!("../../docs/runns-exec.8");
        let mut definition = definition();
        definition.build();
        let subcommands = definition
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help");
        let commands: Vec<&Command> = std::iter::once(&definition).chain(subcommands).collect();
        let options: BTreeSet<&str> = commands
            .iter()
            .flat_map(|command| command.get_arguments())
            .filter_map(Arg::get_long)
            .collect();
        assert_eq!(documented_options(manual), options);
        for command in &commands[1..] {
            assert!(
                manual.contains(&format!("\n.Cm {}\n", command.get_name())),
                "{}",
                command.get_name()
            );
            let short = command.get_arguments().filter_map(Arg::get_short);
            for letter in short {
                assert!(manual.contains(&format!("Fl {letter} , ")), "-{letter}");
            }
        }
    }
}
