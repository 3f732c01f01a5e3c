//! Terminals: window size and controlling terminal (ioctl_tty(2)).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use super::check;

/// Rows, columns and pixels of a terminal.
pub type WindowSize = libc::winsize;

/// The size of the terminal `fd`.
pub fn window_size(fd: impl AsFd) -> Result<WindowSize, Errno> {
    let mut size = WindowSize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes a winsize.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &mut size) }.into())?;
    Ok(size)
}

/// Gives the terminal `fd` a size; the kernel sends SIGWINCH to its foreground process group when
/// it changed.
pub fn set_window_size(fd: impl AsFd, size: &WindowSize) -> Result<(), Errno> {
    // SAFETY: TIOCSWINSZ reads a winsize.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, size) }.into()).map(drop)
}

/// Makes `fd` the controlling terminal of the calling session leader, which must have none.
pub fn make_controlling(fd: impl AsFd) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes a number; 0 never steals a terminal.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Opens the other side of the pseudo-terminal `master` (TIOCGPTPEER, ioctl_tty(2)): without a
/// path, so whatever is mounted at /dev/pts. It is close-on-exec and does not become the
/// controlling terminal.
pub fn open_peer(master: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags.
    let fd =
        check(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends `signal` to the foreground process group of the pseudo-terminal `master`, as its keyboard
/// would: SIGINT, SIGQUIT or SIGTSTP (TIOCSIG; drivers/tty/pty.c, pty_signal).
pub fn signal_foreground(master: impl AsFd, signal: i32) -> Result<(), Errno> {
    // SAFETY: TIOCSIG takes a number.
    check(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSIG, signal) }.into())
        .map(drop)
}
