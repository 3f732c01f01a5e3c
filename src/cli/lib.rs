//! The command line, as clap has it. This one definition is the source of the completions, of
//! `--help`, of the table by which runns-exec parses (its build script reads it: the program itself
//! has no clap) and of the parser of runns-exec-root. A test holds the manual against it.

#![forbid(unsafe_code)]

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgGroup, Command, value_parser};

/// The subcommands of the program for root. runns-exec executes that program for them.
pub const OF_ROOT: [&str; 6] = ["build", "clean", "config", "import", "launcher", "log"];

/// The placeholder of a word that is a namespace's name or a section's, whichever it is.
pub const WORD: &str = "NAME|SECTION";

const USAGE: &str = "runns-exec [OPTIONS] NAME [--] [COMMAND [ARG]...]\n       \
                     runns-exec exec [OPTIONS] NAME [--] [COMMAND [ARG]...]\n       \
                     runns-exec SUBCOMMAND [OPTIONS] ...";

const AFTER_HELP: &str = "\
Without COMMAND, your shell is started. Nothing after NAME is an option of
runns-exec. Example: runns-exec work -- chromium

The exit status is the command's own; 125 if runns-exec itself failed, 126 if
the command cannot be executed, 127 if it was not found. The other subcommands
exit with 0 on success, 1 on failure and 2 on a usage error.

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
            "Run in the background, and print the process ID",
        ))
        .arg(flag(
            "no-new-privs",
            None,
            "Keep the command from gaining privileges (setuid)",
        ))
        .arg(flag("verbose", Some('v'), "Report each step"))
        .allow_external_subcommands(true)
        .external_subcommand_value_parser(value_parser!(OsString))
        .subcommand_required(true)
        .subcommand_value_name("NAME [--] [COMMAND [ARG]...]")
}

/// A subcommand, whose arguments are defined when they are needed.
fn subcommand(name: &'static str, about: &'static str, define: fn(Command) -> Command) -> Command {
    Command::new(name).about(about).defer(define)
}

/// The whole definition, from which completions are generated too.
pub fn definition() -> Command {
    entering(Command::new("runns-exec"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run a program in a network namespace, under your own user ID")
        .override_usage(USAGE)
        .after_help(AFTER_HELP)
        .subcommand(
            Command::new("exec")
                .about("Run a program in a namespace, whatever its name")
                .defer(|command| {
                    entering(command)
                        .after_help("Example: runns-exec exec list -- ip address")
                        .override_usage("runns-exec exec [OPTIONS] NAME [--] [COMMAND [ARG]...]")
                        .disable_help_subcommand(true)
                }),
        )
        .subcommand(subcommand(
            "build",
            "Build or repair a namespace (root)",
            define_build,
        ))
        .subcommand(subcommand(
            "clean",
            "Remove a namespace (root)",
            define_clean,
        ))
        .subcommand(subcommand(
            "import",
            "Import the files of a VPN provider (root)",
            define_import,
        ))
        .subcommand(subcommand(
            "check",
            "Test a namespace for leaks",
            define_check,
        ))
        .subcommand(subcommand(
            "list",
            "List the processes in namespaces",
            define_list,
        ))
        .subcommand(subcommand(
            "status",
            "Show the state of namespaces and tunnels",
            define_status,
        ))
        .subcommand(subcommand(
            "config",
            "Show or edit the configuration (root)",
            define_config,
        ))
        .subcommand(subcommand("log", "Show the log of a namespace", define_log))
        .subcommand(subcommand(
            "launcher",
            "Add a program in a namespace to your desktop's menu",
            define_launcher,
        ))
}

fn define_build(command: Command) -> Command {
    define_settings(command)
        .after_help("Example: sudo runns-exec build -s work")
        .arg(
            Arg::new("wait")
                .long("wait")
                .value_name("SECONDS")
                .value_parser(value_parser!(u32).range(1..=3600))
                .default_value("30")
                .help("Wait up to SECONDS for each tunnel"),
        )
        .arg(flag("no-wait", None, "Do not wait for the tunnels").conflicts_with("wait"))
        .arg(
            flag(
                "change",
                None,
                "Apply a changed section to the running namespace",
            )
            .requires("of"),
        )
        .group(ArgGroup::new("of").args([WORD, "section", "all"]))
        .arg(
            flag("all", None, "Repair every namespace that is built").conflicts_with_all([
                WORD, "name", "section", "int", "out", "resolve", "publish", "config",
            ]),
        )
        .arg(flag(
            "authenticated",
            None,
            "Read the output of openconnect --authenticate",
        ))
        .arg(
            flag("at-boot", None, "Build it at each boot as well (systemd)").conflicts_with_all([
                "all",
                "name",
                "int",
                "out",
                "resolve",
                "publish",
                "config",
                "authenticated",
            ]),
        )
        .arg(flag(
            "dry-run",
            None,
            "Print what would be done, and change nothing",
        ))
}

/// What to build.
fn define_settings(command: Command) -> Command {
    command
        .arg(word("Section to build, or namespace to build again"))
        .arg(value(
            "name",
            Some('n'),
            "NAME",
            "Name of the namespace [default: the section's]",
        ))
        .arg(value(
            "section",
            Some('s'),
            "SECTION",
            "Read settings from this section",
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
            "Uplink that traffic must leave through (InterfaceOut)",
        ))
        .arg(value(
            "resolve",
            Some('r'),
            "FILE",
            "File to use as resolv.conf (Resolve)",
        ))
        .arg(
            value(
                "publish",
                None,
                "PORT",
                "Forward [ADDR:]PORT[:INSIDE][/udp] (Publish)",
            )
            .action(ArgAction::Append),
        )
        .arg(value(
            "config",
            None,
            "FILE",
            "Read this configuration instead of /etc/runns.conf",
        ))
}

fn define_clean(command: Command) -> Command {
    command
        .after_help("Example: sudo runns-exec clean work -f")
        .arg(word("Namespace to remove, or its section"))
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
            "Restore IPv4 forwarding after the last namespace",
        ))
        .arg(flag(
            "kill",
            Some('k'),
            "Kill the processes inside without asking",
        ))
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .value_parser(value_parser!(u32).range(0..=3600))
                .default_value("5")
                .help("Seconds from SIGTERM to SIGKILL"),
        )
        .arg(value(
            "reattach",
            Some('r'),
            "IFACE",
            "Move the namespace to this uplink instead",
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
        .after_help("Example: sudo runns-exec import --build ~/Downloads/work.ovpn")
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
            "Name of the section [default: from the file's name]",
        ))
        .arg(flag(
            "no-kill-switch",
            None,
            "Do not block traffic while the tunnel is down",
        ))
        .arg(value(
            "auth",
            None,
            "FILE",
            "File with user name and password; ask: keep neither",
        ))
        .arg(flag("build", None, "Build the namespace as well"))
        .arg(flag("replace", None, "Replace an import of the same name"))
        .arg(flag("dry-run", None, "Check the files, and change nothing"))
        .arg(
            value("remove", None, "SECTION", "Remove the import of this name")
                .conflicts_with_all(OF_IMPORT),
        )
        .arg(
            flag("list", None, "List the imports")
                .conflicts_with_all(OF_IMPORT)
                .conflicts_with("remove"),
        )
}

fn define_check(command: Command) -> Command {
    command
        .after_help("Example: runns-exec check work")
        .arg(
            value("NAME", None, "NAME", "Namespace to test")
                .long(None)
                .required(true),
        )
        .arg(flag(
            "here",
            None,
            "Test the calling process instead of entering NAME",
        ))
        .arg(flag("json", None, "Print JSON"))
}

fn define_status(command: Command) -> Command {
    command
        .after_help("Example: runns-exec status work")
        .arg(words(WORD, "Only these namespaces and sections"))
        .arg(flag("json", None, "Print JSON"))
        .arg(
            flag(
                "watch",
                None,
                "Show it every 2 seconds, with the tunnels' traffic",
            )
            .conflicts_with("json"),
        )
}

fn define_config(command: Command) -> Command {
    command
        .after_help("Example: sudo runns-exec config edit")
        .arg(
            Arg::new("edit")
                .value_name("edit")
                .value_parser(["edit"])
                .hide_possible_values(true)
                .help("Change a file of the configuration with your editor"),
        )
        .arg(
            value(
                "FILE",
                None,
                "FILE",
                "File to edit, or a section in it [default: /etc/runns.conf]",
            )
            .long(None),
        )
}

fn define_log(command: Command) -> Command {
    command
        .after_help("Example: sudo runns-exec log -f work")
        .arg(
            value(
                WORD,
                None,
                WORD,
                "Namespace whose log to show, or its section",
            )
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
        .after_help("Example: runns-exec launcher work chromium")
        .arg(flag(
            "print",
            None,
            "Print the desktop entry, and write nothing",
        ))
        .arg(flag("remove", None, "Remove the launcher").conflicts_with("print"))
        .arg(
            value(WORD, None, WORD, "Namespace to run it in, or its section")
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
        .after_help("Example: runns-exec list -a")
        .arg(words("NAME", "Only processes in these namespaces"))
        .arg(flag("all", Some('a'), "List the processes of all users"))
        .arg(flag("quiet", Some('q'), "Print only process IDs"))
        .arg(flag("json", None, "Print JSON").conflicts_with("quiet"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Of a terminal's columns, and so that every subcommand shows how it is used.
    #[test]
    fn help_fits_on_a_terminal_and_has_an_example() {
        let mut definition = definition();
        definition.build();
        let own = definition.render_help().to_string();
        let subcommands = definition.get_subcommands_mut();
        let helps = subcommands
            .filter(|sub| sub.get_name() != "help")
            .map(|sub| sub.render_help().to_string());
        for help in helps.chain([own]) {
            assert!(help.contains("Example: "), "{help}");
            let long = help.lines().filter(|line| line.chars().count() > 80);
            assert_eq!(long.collect::<Vec<_>>(), [""; 0]);
        }
    }

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
