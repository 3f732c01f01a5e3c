//! What keeper and build say to each other, beside the lines of OpenVPN's management interface.

/// To build: the daemon runs, with this pid.
pub const STARTED: &str = "keeper: started ";
/// To build: the daemon could not be started; the cause, and the hint behind [`SEPARATOR`].
pub const FAILED: &str = "keeper: failed ";
/// Between cause and hint.
pub const SEPARATOR: char = '\u{1f}';
/// From build: go on when build has ended. Without it, the end of build is the end of the tunnel.
pub const STAY: &str = "keeper: stay";
/// To build: somebody has to log in. build answers with [`SESSION`] or [`LOG_IN`].
pub const LOGIN: &str = "keeper: login";
/// From build: the session that somebody has logged in to, its fields between [`SEPARATOR`]s.
pub const SESSION: &str = "build: session ";
/// From build: log in.
pub const LOG_IN: &str = "build: log in";
/// To build: a question, behind `+` if the answer may be seen, `-` if not. build answers with
/// [`ANSWER`] or [`NO_ANSWER`].
pub const QUESTION: &str = "keeper: question ";
/// From build: what somebody typed, with a [`SEPARATOR`] behind it, for it may end in a blank.
pub const ANSWER: &str = "build: answer ";
/// From build: there is nobody to ask.
pub const NO_ANSWER: &str = "build: no answer";
/// To build: a line for whoever logs in.
pub const MESSAGE: &str = "keeper: message ";
