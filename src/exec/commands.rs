//! The subcommands with their options and help texts: a table that the build script makes from the
//! one definition of the command line.

/// An option; none of this program's takes a value.
#[derive(Debug)]
pub struct Flag {
    /// Its name, without the two hyphens.
    pub long: &'static str,
    /// Its letter.
    pub short: Option<char>,
    /// Options that it cannot be given with.
    pub excludes: &'static [&'static str],
}

/// A subcommand; the program itself has an empty name.
#[derive(Debug)]
pub struct Command {
    /// What it is called.
    pub name: &'static str,
    /// What --help prints.
    pub help: &'static str,
    /// Its options; none are listed for a subcommand of the program for root.
    pub flags: &'static [Flag],
    /// How many operands it takes at least.
    pub least: usize,
    /// How many operands it takes at most.
    pub most: usize,
    /// It belongs to the program for root.
    pub of_root: bool,
}

include!(concat!(env!("OUT_DIR"), "/commands.rs"));

/// The subcommand called `name`.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// The names of the subcommands that there are, for hints.
pub fn words<'a>() -> impl Iterator<Item = &'a str> {
    let named = COMMANDS.iter().map(|command| command.name);
    named.filter(|name| !name.is_empty()).chain(["help"])
}
