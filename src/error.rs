//! The one error type: what could not be done, why, and what to do about it. Printed once, by `lib.rs`.

use std::fmt;

use crate::text::one_line;

/// Exit statuses (env(1) and sudo(8) use the same for the last three).
pub mod status {
    /// A subcommand other than entering failed.
    pub const FAILED: u8 = 1;
    /// A subcommand other than entering was called wrongly.
    pub const USAGE: u8 = 2;
    /// Entering failed: runns-exec itself, usage included.
    pub const ENTER_FAILED: u8 = 125;
    /// The command was found but cannot be executed.
    pub const CANNOT_EXECUTE: u8 = 126;
    /// The command was not found.
    pub const NOT_FOUND: u8 = 127;
}

/// `cannot ACTION: CAUSE`, with a hint for the user and, where it is not the subcommand's usual one, an exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    action: String,
    cause: String,
    hint: Option<String>,
    status: Option<u8>,
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `action` is a verb and its object ("open /etc/runns.conf"); untrusted bytes in it are already escaped.
    pub fn new(action: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self { action: action.into(), cause: cause.to_string(), hint: None, status: None }
    }

    /// Adds what the user can do. The first hint wins: it is nearest to the cause.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert(hint.into());
        self
    }

    /// Sets the exit status.
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = Some(status);
        self
    }

    /// The exit status, if it is not the subcommand's usual one.
    pub fn status(&self) -> Option<u8> {
        self.status
    }

    /// The hint alone.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Why it failed, for a message of a larger action.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// The message as one text, to be sent to another process of ours.
    pub fn to_wire(&self) -> String {
        format!("{}\0{}\0{}", self.action, self.cause, self.hint.as_deref().unwrap_or_default())
    }

    /// What [`Error::to_wire`] made.
    pub fn from_wire(text: &str) -> Self {
        let mut parts = text.splitn(3, '\0');
        let error = Self::new(parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match parts.next() {
            Some(hint) if !hint.is_empty() => error.hint(hint),
            _ => error,
        }
    }

    /// Joins several errors into one that names all causes; `None` if there are none.
    pub fn all(errors: Vec<Error>) -> Option<Error> {
        let mut errors = errors.into_iter();
        let mut first = errors.next()?;
        for error in errors {
            first.cause = format!("{}; cannot {}: {}", first.cause, error.action, error.cause);
        }
        Some(first)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "cannot {}: {}", one_line(&self.action), one_line(&self.cause))
    }
}

impl std::error::Error for Error {}

/// Turns a cause into an [`Error`].
pub trait Context<T> {
    /// `action` is made only if it is needed.
    fn cannot<A: Into<String>>(self, action: impl FnOnce() -> A) -> Result<T>;
}

impl<T, E: Cause> Context<T> for std::result::Result<T, E> {
    fn cannot<A: Into<String>>(self, action: impl FnOnce() -> A) -> Result<T> {
        self.map_err(|cause| Error::new(action(), cause.describe()))
    }
}

/// What can stand behind the colon of a message.
pub trait Cause {
    /// In the words of strerror(3) where there is an errno.
    fn describe(&self) -> String;
}

impl Cause for nix::errno::Errno {
    fn describe(&self) -> String {
        self.desc().to_string()
    }
}

impl Cause for std::io::Error {
    fn describe(&self) -> String {
        self.raw_os_error()
            .map_or_else(|| self.to_string(), |code| nix::errno::Errno::from_raw(code).desc().to_string())
    }
}

impl Cause for String {
    fn describe(&self) -> String {
        self.clone()
    }
}

impl Cause for &str {
    fn describe(&self) -> String {
        (*self).to_string()
    }
}
