//! Turns the command line's definition into a table for the program, which has no clap: options,
//! operands and help texts of every subcommand. Everything that depends on the definition is done
//! here, before the program exists.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, ArgAction, Command};

fn main() {
    println!("cargo::rerun-if-changed=../cli");
    let mut definition = runns_cli::definition();
    definition.build();
    let subcommands: Vec<String> = definition
        .get_subcommands()
        .map(|sub| sub.get_name().to_string())
        .filter(|name| name != "help")
        .collect();
    let mut table = format!(
        "/// The program itself, then its subcommands.\npub static COMMANDS: [Command; {}] = [\n",
        subcommands.len() + 1
    );
    describe(&mut table, "", &mut definition);
    for name in &subcommands {
        describe(
            &mut table,
            name,
            definition.find_subcommand_mut(name).expect("it was listed"),
        );
    }
    table.push_str("];\n");
    let directory = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&directory).join("commands.rs"), table).expect("write the table");
}

fn describe(table: &mut String, name: &str, command: &mut Command) {
    let of_root = runns_cli::OF_ROOT.contains(&name);
    // The program for root has its own.
    let help = if of_root {
        String::new()
    } else {
        command.render_help().to_string()
    };
    let flags: Vec<String> = command
        .get_opts()
        .chain(flags(command))
        .filter(|_| !of_root)
        .map(|arg| flag(name, command, arg))
        .collect();
    let (least, most) = operands(command);
    let flags = flags.join(", ");
    writeln!(
        table,
        "    Command {{ name: {name:?}, help: {help:?}, flags: &[{flags}], least: {least}, most: {most}, of_root: {of_root} }},"
    )
    .expect("write to a string");
}

/// Options without a value, but for --help and --version, which the parser knows by itself.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
}

fn flag(name: &str, command: &Command, arg: &Arg) -> String {
    assert!(
        !arg.get_action().takes_values(),
        "'{name}' has an option with a value: the program's parser has none yet"
    );
    // clap has a conflict at one of the two options; it holds whichever comes first.
    let conflicts = |one: &Arg, other: &Arg| {
        command
            .get_arg_conflicts_with(one)
            .iter()
            .any(|arg| arg.get_id() == other.get_id())
    };
    let excluded: Vec<&str> = flags(command)
        .filter(|other| conflicts(arg, other) || conflicts(other, arg))
        .filter_map(Arg::get_long)
        .collect();
    let long = arg.get_long().expect("every option has a long name");
    format!(
        "Flag {{ long: {long:?}, short: {:?}, excludes: &{excluded:?} }}",
        arg.get_short()
    )
}

/// How many words that are no options the command takes, at least and at most.
fn operands(command: &Command) -> (usize, String) {
    let least = command
        .get_positionals()
        .filter(|arg| arg.is_required_set())
        .count();
    let most: usize = command
        .get_positionals()
        .map(|arg| arg.get_num_args().map_or(1, |range| range.max_values()))
        .fold(0, usize::saturating_add);
    (
        least,
        if most == usize::MAX {
            "usize::MAX".to_string()
        } else {
            most.to_string()
        },
    )
}
