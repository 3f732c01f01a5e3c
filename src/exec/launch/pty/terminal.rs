//! The two terminals: the caller's, which is borrowed, and the command's, which is made here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, posix_openpt, unlockpt};
use nix::sys::termios::{
    LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, cfmakeraw, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, isatty, tcgetpgrp};

use super::modes::{Modes, Taken};
use runns_shared::error::{Context, Result};
use runns_sys::process::STANDARD;
use runns_sys::tty::{self, WindowSize};

/// The size of a terminal that has none to take it from.
const DEFAULT_SIZE: WindowSize = WindowSize {
    ws_row: 24,
    ws_col: 80,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// Whose the caller's terminal is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This process group's. Also where it is not the controlling terminal: there is no job control
    /// then.
    Ours,
    /// Another process group's.
    Others,
    /// Nobody's: it was hung up.
    Gone,
}

/// The caller's terminal, if standard input is one.
pub struct Outer {
    terminal: OwnedFd,
    /// Taken only once the command wants it. With output to a pipe, the next program of the pipe (a
    /// pager, say) may be reading from the same terminal.
    wanted: bool,
    taken: Option<Taken>,
    raw: bool,
}

impl Outer {
    /// Standard input, if it is a terminal.
    pub fn find() -> Result<Option<Self>> {
        let [input, output, _] = STANDARD;
        if !isatty(input).unwrap_or(false) {
            return Ok(None);
        }
        let terminal = input
            .try_clone_to_owned()
            .cannot(|| "duplicate standard input")?;
        Ok(Some(Self {
            terminal,
            wanted: isatty(output).unwrap_or(false),
            taken: None,
            raw: false,
        }))
    }

    /// For the monitor: the terminal alone.
    pub fn into_terminal(self) -> OwnedFd {
        self.terminal
    }

    /// The command wants to read from its terminal or to change its modes.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// Whose it is now.
    pub fn standing(&self) -> Standing {
        match tcgetpgrp(&self.terminal) {
            Ok(group) if group == getpgrp() => Standing::Ours,
            Ok(_) => Standing::Others,
            Err(Errno::ENOTTY) => Standing::Ours,
            Err(_) => Standing::Gone,
        }
    }

    /// Whether the command wants it.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether it stops those who write to it from the background (stty tostop). With the signal
    /// for that blocked, the kernel would let them.
    pub fn stops_output(&self) -> bool {
        let stops = tcgetattr(&self.terminal)
            .is_ok_and(|modes| modes.local_flags.contains(LocalFlags::TOSTOP));
        stops && isatty(STANDARD[1]).unwrap_or(false) && self.standing() == Standing::Others
    }

    /// Whether it is to be in raw mode now.
    pub fn is_for_command(&self) -> bool {
        self.wanted && self.standing() == Standing::Ours
    }

    /// Whether it is in raw mode by our hand.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// What raw mode will mean, to be told to the monitor before it is set. The modes found now are
    /// the caller's, unless they are still the ones that were set here before.
    pub fn prepare(&mut self) -> Result<Taken> {
        let now = tcgetattr(&self.terminal).cannot(|| "read the modes of the terminal")?;
        let mut raw = now.clone();
        cfmakeraw(&mut raw);
        let taken = match self.taken.take() {
            Some(taken) if taken.raw == Modes::from(&now) => taken,
            _ => Taken {
                saved: Modes::from(&now),
                raw: Modes::from(&raw),
            },
        };
        self.taken = Some(taken.clone());
        Ok(taken)
    }

    /// Raw mode.
    pub fn make_raw(&mut self) -> Result<()> {
        if let Some(taken) = &self.taken {
            taken
                .raw
                .apply(&self.terminal, SetArg::TCSADRAIN)
                .cannot(|| "put the terminal into raw mode")?;
            self.raw = true;
        }
        Ok(())
    }

    /// Raw mode may have been lost without our doing, by being stopped with SIGSTOP.
    pub fn doubt(&mut self) {
        self.raw = false;
    }

    /// The caller's modes again.
    pub fn restore(&mut self) {
        if let Some(taken) = self.taken.as_ref().filter(|_| self.raw) {
            taken.restore(&self.terminal, SetArg::TCSADRAIN);
        }
        self.raw = false;
    }
}

/// The size of the first of the standard descriptors that is a terminal.
pub fn outer_size() -> Option<WindowSize> {
    STANDARD.iter().find_map(|fd| tty::window_size(fd).ok())
}

/// The command's terminal.
pub struct Line {
    master: PtyMaster,
    slave: OwnedFd,
}

impl Line {
    /// A new one, with size and modes of the caller's terminal.
    pub fn open() -> Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let master = posix_openpt(flags).cannot(|| "open /dev/ptmx")?;
        unlockpt(&master).cannot(|| "unlock the pseudo-terminal")?;
        let slave = tty::open_peer(&master).cannot(|| "open the pseudo-terminal")?;
        let line = Self { master, slave };
        line.set_modes()
            .cannot(|| "set the modes of the pseudo-terminal")?;
        line.set_size(&outer_size().unwrap_or(DEFAULT_SIZE))
            .cannot(|| "set the size of the pseudo-terminal")?;
        Ok(line)
    }

    /// Modes as the caller's terminal has them. Input that nobody types is not echoed. Output that
    /// another terminal processes, because input is no terminal and it cannot be made raw, is not
    /// processed here as well.
    fn set_modes(&self) -> Result<(), Errno> {
        let [input, output, _] = STANDARD;
        let outer = STANDARD.iter().find_map(|fd| tcgetattr(fd).ok());
        let mut modes = outer.map_or_else(|| tcgetattr(&self.slave), Ok)?;
        if !isatty(input).unwrap_or(false) {
            modes
                .local_flags
                .remove(LocalFlags::ECHO | LocalFlags::ECHONL);
            if isatty(output).unwrap_or(false) {
                modes.output_flags.remove(OutputFlags::OPOST);
            }
        }
        tcsetattr(&self.slave, SetArg::TCSANOW, &modes)
    }

    /// Sets the size; the kernel tells the command if it is another.
    pub fn set_size(&self, size: &WindowSize) -> Result<(), Errno> {
        tty::set_window_size(&self.master, size)
    }

    /// Only the side that the command gets: the monitor has no master.
    pub fn into_slave(self) -> OwnedFd {
        self.slave
    }

    /// The side that is ours. Reading and writing it does not block.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Signals the foreground process group as a key would: whatever its user. SIGINT, SIGQUIT and
    /// SIGTSTP only.
    pub fn press(&self, signal: i32) -> Result<(), Errno> {
        tty::signal_foreground(&self.master, signal)
    }

    /// The character that stands for the end of input, if the terminal looks for one now.
    pub fn end_of_file(&self) -> Option<u8> {
        let modes = tcgetattr(&self.slave).ok()?;
        let character = modes.control_chars[SpecialCharacterIndices::VEOF as usize];
        let enabled = character != libc::_POSIX_VDISABLE;
        (enabled && modes.local_flags.contains(LocalFlags::ICANON)).then_some(character)
    }

    /// Whether there is a line, or the end of input, that nobody has read yet.
    pub fn has_unread_line(&self) -> bool {
        let mut fds = [PollFd::new(self.slave.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}
