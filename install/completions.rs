//! Prints the completion script of a shell: `cargo run --package runns-cli --example completions --
//! bash|zsh|fish`.
//!
//! Options and subcommands come from the definition of the command line. What stands for a
//! namespace, a section or an interface there, by its placeholder, is completed with those that
//! this machine has.

use std::io::Write;
use std::process::ExitCode;

use clap::{Arg, Command};
use clap_complete::{Shell, generate};
use runns_cli::{WORD, definition};

/// The subcommands that make something new: no name that is there already can be meant.
const MAKE: [&str; 2] = ["build", "import"];
/// The subcommands after whose name a command line of its own begins.
const WITH_COMMAND: [&str; 2] = ["exec", "launcher"];

fn main() -> ExitCode {
    let Some(script) = std::env::args().nth(1).and_then(|shell| script(&shell)) else {
        eprintln!("usage: completions bash|zsh|fish");
        return ExitCode::from(2);
    };
    match std::io::stdout().write_all(script.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("completions: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The script for `shell`, if that is one of the three.
pub fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

fn generated(shell: Shell, name: &str) -> String {
    let mut script = Vec::new();
    generate(shell, &mut definition(), name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The shell function that lists what a placeholder stands for; `None` if it stands for a file or a
/// number.
fn lister(subcommand: &str, placeholder: &str) -> Option<&'static str> {
    match placeholder {
        "NAME" if !MAKE.contains(&subcommand) => Some("namespaces"),
        WORD => Some("words"),
        "SECTION" => Some("sections"),
        "IFACE" => Some("interfaces"),
        _ => None,
    }
}

/// Each subcommand with its arguments that take a value, and what lists them.
fn with_values(command: &Command) -> Vec<(&str, &Arg, Option<&'static str>)> {
    let mut all = Vec::new();
    for sub in command.get_subcommands() {
        for arg in sub
            .get_arguments()
            .filter(|arg| arg.get_action().takes_values())
        {
            let placeholder = arg
                .get_value_names()
                .and_then(|names| names.first())
                .map_or("", |name| name.as_str());
            all.push((sub.get_name(), arg, lister(sub.get_name(), placeholder)));
        }
    }
    all
}

/// The spellings of an option.
fn spellings(arg: &Arg) -> Vec<String> {
    let short = arg.get_short().map(|short| format!("-{short}"));
    short
        .into_iter()
        .chain(arg.get_long().map(|long| format!("--{long}")))
        .collect()
}

fn built() -> Command {
    let mut command = definition();
    command.build();
    command
}

const BASH: &str = r#"
_runns_exec_list() {
    case $1 in
        namespaces) command ls -1 /run/netns 2>/dev/null ;;
        sections) command sed -n 's/^[[:blank:]]*\[[[:blank:]]*\(.*[^[:blank:]]\)[[:blank:]]*\][[:blank:]]*$/\1/p' /etc/runns.conf /etc/runns.conf.d/*.conf 2>/dev/null ;;
        words) { _runns_exec_list namespaces; _runns_exec_list sections; } | command sort -u ;;
        interfaces) command ls -1 /sys/class/net 2>/dev/null ;;
    esac
}

# Adds what $1 lists and begins with $2.
_runns_exec_add() {
    local line
    while IFS= read -r line; do
        [[ $line == "$2"* ]] && COMPREPLY+=("$line")
    done < <(_runns_exec_list "$1")
}

# What list belongs to the word behind option $2 of subcommand $1; - if it is a file or anything else.
_runns_exec_value() {
    case "$1,$2" in
VALUES
        *) return 1 ;;
    esac
}

# What list belongs to the words of subcommand $1 that are no options.
_runns_exec_positional() {
    case $1 in
POSITIONALS
    esac
}

# A command line of its own that begins at word $1.
_runns_exec_command() {
    local at=$1
    [[ ${COMP_WORDS[at]} == -- ]] && (( at < COMP_CWORD )) && (( at++ ))
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$at"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$at"
    elif (( at == COMP_CWORD )); then
        mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    fi
}

_runns_exec_complete() {
    local at=1 verb= list= cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    COMPREPLY=()
    while (( at < COMP_CWORD )) && [[ ${COMP_WORDS[at]} == -* ]]; do (( at++ )); done
    (( at < COMP_CWORD )) && verb=${COMP_WORDS[at]}
    case $verb in
        '')
            _runns_exec "$1" "$cur" "$prev"
            [[ $cur == -* ]] || _runns_exec_add namespaces "$cur"
            return
            ;;
        exec|launcher)
            (( at++ ))
            while (( at < COMP_CWORD )) && [[ ${COMP_WORDS[at]} == -* ]]; do (( at++ )); done
            if (( at < COMP_CWORD )); then
                _runns_exec_command $(( at + 1 ))
            elif [[ $cur == -* ]]; then
                _runns_exec "$1" "$cur" "$prev"
            elif [[ $verb == launcher ]]; then
                _runns_exec_add words "$cur"
            else
                _runns_exec_add namespaces "$cur"
            fi
            return
            ;;
        SUBCOMMANDS) ;;
        *)
            _runns_exec_command $(( at + 1 ))
            return
            ;;
    esac
    # --name=x is three words here.
    [[ $cur == = ]] && cur=
    [[ $prev == = ]] && (( COMP_CWORD > 1 )) && prev=${COMP_WORDS[COMP_CWORD-2]}
    if list=$(_runns_exec_value "$verb" "$prev") || { [[ $cur != -* ]] && list=$(_runns_exec_positional "$verb") && [[ -n $list ]]; }; then
        if [[ $list == - ]]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        else
            _runns_exec_add "$list" "$cur"
        fi
    else
        _runns_exec "$1" "$cur" "$prev"
    fi
}

complete -F _runns_exec_complete -o bashdefault -o default runns-exec
"#;

/// The generated function lists options and subcommands; it is called from one that knows what a
/// word stands for.
fn bash() -> String {
    let command = built();
    // Under a name without `-`, which the generator mixes up with its own separator.
    let script = generated(Shell::Bash, "runns_exec");
    let functions = script
        .split("\nif [[ \"${BASH_VERSINFO[0]}\" -eq 4")
        .next()
        .unwrap_or_default();
    let (mut values, mut positionals) = (String::new(), String::new());
    for (sub, arg, list) in with_values(&command) {
        if arg.is_positional() {
            positionals.push_str(&format!("        {sub}) echo {} ;;\n", list.unwrap_or("-")));
        } else {
            let patterns: Vec<String> = spellings(arg)
                .iter()
                .map(|option| format!("{sub},{option}"))
                .collect();
            values.push_str(&format!(
                "        {}) echo {} ;;\n",
                patterns.join("|"),
                list.unwrap_or("-")
            ));
        }
    }
    let subcommands: Vec<&str> = command
        .get_subcommands()
        .map(Command::get_name)
        .filter(|sub| !WITH_COMMAND.contains(sub))
        .collect();
    functions.to_string()
        + &BASH
            .replace("VALUES\n", &values)
            .replace("POSITIONALS\n", &positionals)
            .replace("SUBCOMMANDS", &subcommands.join("|"))
}

const ZSH: &str = r#"
_runns-exec_namespaces() {
    local -a names; names=(/run/netns/*(N:t))
    _describe -t namespaces 'network namespace' names
}

_runns-exec_sections() {
    local -a names; names=(${(f)"$(command sed -n 's/^[[:blank:]]*\[[[:blank:]]*\(.*[^[:blank:]]\)[[:blank:]]*\][[:blank:]]*$/\1/p' /etc/runns.conf /etc/runns.conf.d/*.conf(N) 2>/dev/null)"})
    compadd -a names
}

_runns-exec_words() {
    _alternative 'namespaces:network namespace:_runns-exec_namespaces' 'sections:section:_runns-exec_sections'
}

_runns-exec_interfaces() {
    local -a names; names=(/sys/class/net/*(N:t))
    compadd -a names
}

_runns-exec_first() {
    _alternative 'namespaces:network namespace:_runns-exec_namespaces' 'commands:command:_runns-exec_commands'
}

# A command line of its own: the words after the namespace's name and an optional --.
_runns-exec_command() {
    if [[ $words[1] == -- ]] && (( CURRENT > 1 )); then
        shift words
        (( CURRENT-- ))
    fi
    _normal
}

"#;

/// The generated script, with our functions where it says `_default`.
fn zsh() -> String {
    let mut script = String::new();
    let mut sub = String::new();
    for line in generated(Shell::Zsh, "runns-exec").lines() {
        if let Some(name) = line
            .trim()
            .strip_prefix('(')
            .and_then(|rest| rest.strip_suffix(')'))
        {
            sub = name.to_string();
        }
        script.push_str(&zsh_line(&sub, line));
        script.push('\n');
    }
    let command = "        case $line[1] in\n";
    let entering = "        case $line[1] in\n            (SUBCOMMANDS) ;;\n            (*) shift words; (( CURRENT-- )); \
                    _runns-exec_command && return 0 ;;\n        esac\n";
    let built = built();
    let subcommands: Vec<&str> = built.get_subcommands().map(Command::get_name).collect();
    let entering = entering.replace("SUBCOMMANDS", &subcommands.join("|"));
    let script = script.replacen(command, &(entering + command), 1);
    script.replacen(
        "\n_runns-exec() {",
        &(ZSH.to_string() + "_runns-exec() {"),
        1,
    )
}

fn zsh_line(sub: &str, line: &str) -> String {
    if line.contains("\":: :_runns-exec_commands\"") {
        // Not optional: else the second word is completed in its place, too.
        return line.replace(":: :_runns-exec_commands", ": :_runns-exec_first");
    }
    if line.contains("*::external_command:_default") {
        return "':NAME:_runns-exec_namespaces' \\\n'*:::command:_runns-exec_command' \\"
            .to_string();
    }
    let Some(start) = line.strip_suffix(":_default' \\") else {
        return line.to_string();
    };
    if start.contains("::COMMAND") {
        return "'*:::command:_runns-exec_command' \\".to_string();
    }
    // `...]:NAME` of an option, `:NAME -- help` of a word.
    let placeholder = start.rsplit(':').next().unwrap_or_default();
    let placeholder = start
        .split(" -- ")
        .next()
        .filter(|_| !start.contains(']'))
        .map_or(placeholder, |word| {
            word.rsplit([':', '\'', '*']).next().unwrap_or_default()
        });
    match lister(sub, placeholder) {
        Some(list) => format!("{start}:_runns-exec_{list}' \\"),
        None if placeholder == "FILE" => format!("{start}:_files' \\"),
        None => format!("{start}: ' \\"),
    }
}

const FISH: &str = r#"
function __runns_exec_namespaces
    command ls -1 /run/netns 2>/dev/null
end

function __runns_exec_sections
    set -l files /etc/runns.conf /etc/runns.conf.d/*.conf
    command sed -n 's/^[[:blank:]]*\[[[:blank:]]*\(.*[^[:blank:]]\)[[:blank:]]*\][[:blank:]]*$/\1/p' $files 2>/dev/null
end

function __runns_exec_words
    __runns_exec_namespaces
    __runns_exec_sections
end

function __runns_exec_interfaces
    command ls -1 /sys/class/net 2>/dev/null
end

# Prints the words before the cursor that come after the namespace's name and an optional --; fails if there is no name.
function __runns_exec_command_words
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]; and string match -q -- '-*' $words[1]
        set -e words[1]
    end
    if contains -- "$words[1]" exec launcher
        set -e words[1]
        while set -q words[1]; and string match -q -- '-*' $words[1]
            set -e words[1]
        end
    else if contains -- "$words[1]" SUBCOMMANDS
        return 1
    end
    set -q words[1]; or return 1
    set -e words[1]
    test "$words[1]" = --; and set -e words[1]
    set -q words[1]; and printf '%s\n' $words
    return 0
end

# Like it, but for the condition of a completion.
function __runns_exec_in_command
    __runns_exec_command_words >/dev/null
end

function __runns_exec_needs_exec_name
    __fish_runns_exec_using_subcommand exec; and not __runns_exec_in_command
end

function __runns_exec_needs_launcher_name
    __fish_runns_exec_using_subcommand launcher; and not __runns_exec_in_command
end

function __runns_exec_complete_command
    set -l words (__runns_exec_command_words) (commandline -ct)
    complete "--do-complete="(string join ' ' -- (string escape -- $words[1..-2]) $words[-1])
end

complete -c runns-exec -n __fish_runns_exec_needs_command -f -a '(__runns_exec_namespaces)' -d Namespace
complete -c runns-exec -n __runns_exec_needs_exec_name -f -a '(__runns_exec_namespaces)' -d Namespace
complete -c runns-exec -n __runns_exec_needs_launcher_name -f -a '(__runns_exec_words)'
complete -c runns-exec -n __runns_exec_in_command -f -a '(__runns_exec_complete_command)'
"#;

/// The generated script, and what an option or a word stands for added to it.
fn fish() -> String {
    let command = built();
    let subcommands: Vec<&str> = command
        .get_subcommands()
        .map(Command::get_name)
        .filter(|sub| !WITH_COMMAND.contains(sub))
        .collect();
    let mut script =
        generated(Shell::Fish, "runns-exec") + &FISH.replace("SUBCOMMANDS", &subcommands.join(" "));
    for (sub, arg, list) in with_values(&command) {
        let Some(list) = list.filter(|_| !WITH_COMMAND.contains(&sub)) else {
            continue;
        };
        let condition =
            format!("complete -c runns-exec -n \"__fish_runns_exec_using_subcommand {sub}\"");
        let short = arg
            .get_short()
            .map_or(String::new(), |short| format!(" -s {short}"));
        let long = arg
            .get_long()
            .map_or(String::new(), |long| format!(" -l {long} -x"));
        let exclusive = if arg.is_positional() { " -f" } else { "" };
        script.push_str(&format!(
            "{condition}{short}{long}{exclusive} -a '(__runns_exec_{list})'\n"
        ));
    }
    script
}
