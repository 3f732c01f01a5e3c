//! Terminal modes as values: what relay and monitor tell each other of the caller's terminal.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc::termios;
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// Terminal modes (termios(3)), in a form that can be sent to another process. Speed and parity are
/// the line's, not ours, and stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    input: u32,
    output: u32,
    local: u32,
    characters: Vec<u8>,
}

impl From<&Termios> for Modes {
    fn from(modes: &Termios) -> Self {
        let raw: termios = modes.clone().into();
        Self {
            input: raw.c_iflag,
            output: raw.c_oflag,
            local: raw.c_lflag,
            characters: raw.c_cc.to_vec(),
        }
    }
}

impl Modes {
    /// Gives the terminal `fd` these modes.
    pub fn apply(&self, fd: impl AsFd, when: SetArg) -> Result<(), Errno> {
        let mut raw: termios = tcgetattr(fd.as_fd())?.into();
        (raw.c_iflag, raw.c_oflag, raw.c_lflag) = (self.input, self.output, self.local);
        for (to, from) in raw.c_cc.iter_mut().zip(&self.characters) {
            *to = *from;
        }
        tcsetattr(fd, when, &Termios::from(raw))
    }

    /// For a message.
    pub fn to_words(&self) -> Vec<u32> {
        let characters = self
            .characters
            .iter()
            .map(|character| u32::from(*character));
        [self.input, self.output, self.local]
            .into_iter()
            .chain(characters)
            .collect()
    }

    /// What [`Modes::to_words`] made.
    pub fn from_words(words: &[u32]) -> Option<Self> {
        let [input, output, local, characters @ ..] = words else {
            return None;
        };
        let characters = characters
            .iter()
            .map(|character| *character as u8)
            .collect();
        Some(Self {
            input: *input,
            output: *output,
            local: *local,
            characters,
        })
    }

    /// Whether the terminal `fd` has these modes now.
    pub fn are_of(&self, fd: impl AsFd) -> bool {
        tcgetattr(fd).is_ok_and(|now| Self::from(&now) == *self)
    }
}

/// The caller's terminal while it is in raw mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The modes that the caller had.
    pub saved: Modes,
    /// The modes that it has got from us.
    pub raw: Modes,
}

impl Taken {
    /// Gives the caller's modes back to the terminal `fd`, unless somebody else has changed them
    /// since. Nothing that was typed ahead is thrown away.
    pub fn restore(&self, fd: impl AsFd, when: SetArg) {
        if self.raw.are_of(fd.as_fd()) {
            // A terminal that cannot be restored has been hung up.
            let _ = self.saved.apply(fd, when);
        }
    }
}
