//! The one error type: what could not be done, why, and what to do about it. Printed once, by
//! `lib.rs`.

use std::fmt;

use nix::errno::Errno;

use crate::escape::one_line;

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

/// `cannot ACTION: CAUSE`, with a hint for the user and, where it is not the subcommand's usual
/// one, an exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Failure>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    action: String,
    cause: String,
    hint: Option<String>,
    status: Option<u8>,
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `action` is a verb and its object ("open /etc/runns.conf"); untrusted bytes in it are
    /// already escaped.
    pub fn new(action: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self::of(action.into(), &cause)
    }

    #[cold]
    #[inline(never)]
    fn of(action: String, cause: &dyn fmt::Display) -> Self {
        Self(Box::new(Failure {
            action,
            cause: cause.to_string(),
            hint: None,
            status: None,
        }))
    }

    /// Adds what the user can do. The first hint wins: it is nearest to the cause.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert(hint.into());
        self
    }

    /// The same failure under another name, with the same cause, hint and exit status.
    pub fn within(mut self, action: impl Into<String>) -> Self {
        self.0.action = action.into();
        self
    }

    /// This failure as the cause of that of a larger action, with the same hint and exit status.
    pub fn as_cause_of(mut self, action: impl Into<String>) -> Self {
        self.0.cause = format!("cannot {}: {}", self.0.action, self.0.cause);
        self.0.action = action.into();
        self
    }

    /// Sets the exit status.
    pub fn with_status(mut self, status: u8) -> Self {
        self.0.status = Some(status);
        self
    }

    /// The exit status, if it is not the subcommand's usual one.
    pub fn status(&self) -> Option<u8> {
        self.0.status
    }

    /// The hint alone.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// What could not be done: a verb and its object.
    pub fn action(&self) -> &str {
        &self.0.action
    }

    /// Why it failed, for a message of a larger action.
    pub fn cause(&self) -> &str {
        &self.0.cause
    }

    /// The message as one text, to be sent to another process of ours.
    pub fn to_wire(&self) -> String {
        format!(
            "{}\0{}\0{}",
            self.0.action,
            self.0.cause,
            self.0.hint.as_deref().unwrap_or_default()
        )
    }

    /// What [`Error::to_wire`] made.
    pub fn from_wire(text: &str) -> Self {
        let mut parts = text.splitn(3, '\0');
        let error = Self::new(
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
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
            first.0.cause = format!(
                "{}; cannot {}: {}",
                first.0.cause, error.0.action, error.0.cause
            );
        }
        Some(first)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "cannot {}: {}",
            one_line(&self.0.action),
            one_line(&self.0.cause)
        )
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
        self.map_err(|cause| failed(action().into(), &cause))
    }
}

#[cold]
#[inline(never)]
fn failed(action: String, cause: &dyn Cause) -> Error {
    Error::new(action, cause.describe())
}

/// What can stand behind the colon of a message.
pub trait Cause {
    /// In the words of strerror(3) where there is an errno.
    fn describe(&self) -> String;
}

impl Cause for Errno {
    fn describe(&self) -> String {
        words(*self)
    }
}

/// The failure of a call that a limit of the kernel may have stopped: ENOSPC, whose usual words are
/// those of a full disk (namespaces(7), proc(5)).
pub struct AtLimit(pub Errno, pub &'static str);

/// The limits of new network namespaces, of new mount namespaces, and of mounts in each of these.
pub const NET_NAMESPACES: &str = "user.max_net_namespaces";
/// See [`NET_NAMESPACES`].
pub const MOUNT_NAMESPACES: &str = "user.max_mnt_namespaces";
/// See [`NET_NAMESPACES`].
pub const MOUNTS: &str = "fs.mount-max";

impl Cause for AtLimit {
    fn describe(&self) -> String {
        let Self(errno, limit) = self;
        if *errno == Errno::ENOSPC {
            format!(
                "the kernel's limit {limit} is reached; to raise it: sudo sysctl {limit}=NUMBER"
            )
        } else {
            words(*errno)
        }
    }
}

impl Cause for std::io::Error {
    fn describe(&self) -> String {
        let text = self.to_string();
        match self.raw_os_error() {
            // It adds " (os error N)" to the words of strerror(3).
            Some(_) => text
                .split('(')
                .next()
                .unwrap_or_default()
                .trim_end()
                .to_string(),
            None => text,
        }
    }
}

/// `errno` in the words of strerror(3). nix has words of its own, and some of them are others.
pub fn words(errno: Errno) -> String {
    std::io::Error::from(errno).describe()
}

impl Cause for serde_json::Error {
    fn describe(&self) -> String {
        self.to_string()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_can_be_the_cause_of_another() {
        let error = Error::new("find x", "it is gone").hint("make it");
        assert_eq!((error.action(), error.cause()), ("find x", "it is gone"));
        let outer = error.as_cause_of("repair y");
        assert_eq!(
            outer.to_string(),
            "cannot repair y: cannot find x: it is gone"
        );
        assert_eq!(outer.hint_text(), Some("make it"));
    }
}
