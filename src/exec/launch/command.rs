//! The command with its arguments and environment, found and executed as a shell would (execvp(3)).

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsString};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::unistd::getuid;

use runns_privileged::Unprivileged;
use runns_shared::account;
use runns_shared::error::{Context, Error, Result, status, words};
use runns_shared::escape::escape;
use runns_shared::name::NetnsName;
use runns_sys::process;

/// The variable that contains the name of the namespace.
const VARIABLE: &str = "RUNNS_NETNS=";
/// How many bytes of a command line are described at least; the log shortens it further.
const DESCRIBED: usize = 4096;
/// The search path if PATH is not set (confstr(3), _CS_PATH).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// A program with its arguments and environment, byte for byte as the user gave them.
pub struct Program {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    no_new_privs: bool,
}

impl Program {
    /// The command of `words`, or the user's shell if there are none, for namespace `name`.
    pub fn new(
        words: Vec<OsString>,
        environment: &[&CStr],
        name: &NetnsName,
        no_new_privs: bool,
    ) -> Self {
        let to_c = |word: OsString| CString::new(word.into_vec()).unwrap_or_default();
        let mut arguments: Vec<CString> = words.into_iter().map(to_c).collect();
        if arguments.is_empty() {
            arguments.push(shell(environment));
        }
        let kept = environment
            .iter()
            .filter(|variable| !variable.to_bytes().starts_with(VARIABLE.as_bytes()));
        let mut environment: Vec<CString> = kept.map(|variable| CString::from(*variable)).collect();
        environment.push(CString::new(format!("{VARIABLE}{name}")).unwrap_or_default());
        Self {
            arguments,
            environment,
            no_new_privs,
        }
    }

    /// Sets no_new_privs for the command.
    pub fn forbid_new_privs(&mut self) {
        self.no_new_privs = true;
    }

    /// The command and its arguments, escaped, for the log and for `-v`. Very long ones are
    /// shortened.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for word in &self.arguments {
            let word = word.to_bytes();
            text.push_str(&escape(&word[..word.len().min(DESCRIBED)]));
            text.push(' ');
            if text.len() > DESCRIBED {
                break;
            }
        }
        text.trim_end_matches(' ').to_string()
    }

    /// The command's name as the user gave it.
    pub fn name(&self) -> &CStr {
        self.arguments.first().map_or(c"", CString::as_c_str)
    }

    /// Its arguments, without its name.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        self.arguments
            .iter()
            .skip(1)
            .map(|argument| argument.to_bytes())
    }

    /// The value of variable `name` in its environment.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        let value = |variable: &'_ CString| -> Option<usize> {
            let rest = variable.to_bytes().strip_prefix(name.as_bytes())?;
            rest.starts_with(b"=").then_some(name.len() + 1)
        };
        self.environment
            .iter()
            .find_map(|variable| Some(&variable.to_bytes()[value(variable)?..]))
    }

    /// Executes the program. Returns only on failure.
    pub fn execute(&self, _unprivileged: &Unprivileged) -> Result<Infallible> {
        if self.no_new_privs {
            nix::sys::prctl::set_no_new_privs().cannot(|| "set no_new_privs")?;
        }
        let name = self.name();
        let failure = if name.to_bytes().contains(&b'/') {
            self.try_path(name)
        } else {
            self.search(name)
        };
        let error = Error::new(
            format!("execute {}", escape(name.to_bytes())),
            failure.cause,
        );
        Err(error.with_status(if failure.found {
            status::CANNOT_EXECUTE
        } else {
            status::NOT_FOUND
        }))
    }

    /// Tries every directory of PATH in turn.
    fn search(&self, name: &CStr) -> Failure {
        let path = self.variable("PATH");
        let mut denied = None;
        if !name.is_empty() {
            for directory in path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':') {
                let directory = if directory.is_empty() {
                    b"."
                } else {
                    directory
                };
                let candidate =
                    CString::new([directory, b"/", name.to_bytes()].concat()).unwrap_or_default();
                let failure = self.try_path(&candidate);
                if failure.found {
                    denied.get_or_insert(failure);
                }
            }
        }
        denied.unwrap_or(Failure {
            found: false,
            cause: "command not found".to_string(),
        })
    }

    /// Tries to execute one file, and returns why it failed.
    fn try_path(&self, path: &CStr) -> Failure {
        let arguments: Vec<&CStr> = self.arguments.iter().map(CString::as_c_str).collect();
        let environment: Vec<&CStr> = self.environment.iter().map(CString::as_c_str).collect();
        match process::execute(path, &arguments, &environment) {
            // A script without #! is run by the shell, as with execvp(3).
            Errno::ENOEXEC => {
                let script: Vec<&CStr> = [c"/bin/sh", path]
                    .into_iter()
                    .chain(arguments[1..].iter().copied())
                    .collect();
                Failure {
                    found: true,
                    cause: words(process::execute(c"/bin/sh", &script, &environment)),
                }
            }
            Errno::ENOENT if nix::sys::stat::stat(path).is_ok() => Failure {
                found: true,
                cause: "its interpreter (the #! line, or the dynamic loader) does not exist"
                    .to_string(),
            },
            errno => {
                let found = !matches!(
                    errno,
                    Errno::ENOENT
                        | Errno::ENOTDIR
                        | Errno::ESTALE
                        | Errno::ENODEV
                        | Errno::ETIMEDOUT
                );
                Failure {
                    found,
                    cause: words(errno),
                }
            }
        }
    }
}

/// Why a program could not be executed, and whether it exists.
struct Failure {
    found: bool,
    cause: String,
}

/// The user's shell: $SHELL if absolute, else that of /etc/passwd, else /bin/sh.
fn shell(environment: &[&CStr]) -> CString {
    let variable = environment
        .iter()
        .find_map(|variable| variable.to_bytes().strip_prefix(b"SHELL="));
    if let Some(shell) = variable.filter(|shell| shell.starts_with(b"/")) {
        return CString::new(shell).unwrap_or_default();
    }
    let shell = account::user_by_id(getuid().as_raw())
        .map(|user| user.shell)
        .filter(|shell| shell.starts_with('/'));
    CString::new(shell.unwrap_or_else(|| "/bin/sh".to_string())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(environment: &[&CStr]) -> Program {
        Program::new(
            vec!["true".into()],
            environment,
            &NetnsName::new("vpn1").unwrap(),
            false,
        )
    }

    #[test]
    fn environment_is_kept_in_order_and_marked() {
        let environment = [
            c"A=1",
            c"",
            c"RUNNS_NETNS=old",
            c"novalue",
            c"A=2",
            c"LD_PRELOAD=x",
        ];
        let kept: Vec<CString> = program(&environment).environment;
        let expected = [
            c"A=1",
            c"",
            c"novalue",
            c"A=2",
            c"LD_PRELOAD=x",
            c"RUNNS_NETNS=vpn1",
        ];
        assert_eq!(
            kept.iter().map(CString::as_c_str).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn shell_must_be_absolute() {
        assert_eq!(shell(&[c"SHELL=/bin/zsh"]).as_c_str(), c"/bin/zsh");
        assert_ne!(shell(&[c"SHELL=zsh"]).as_c_str(), c"zsh");
    }
}
