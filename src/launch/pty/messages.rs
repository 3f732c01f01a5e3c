//! What relay and monitor say to each other: one message a datagram, on a socket pair.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::terminal::Modes;
use crate::error::{Context, Error, Result};

/// Longest message in bytes: two sets of terminal modes as JSON are below 1000.
const LONGEST: usize = 4096;

/// From the relay to the monitor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Whether the command is to be in the foreground of its terminal.
    Foreground(bool),
    /// Signal the command.
    Signal {
        /// Number of the signal; real-time signals too.
        number: i32,
        /// Who gets it.
        to: Target,
    },
    /// The terminal of the caller is about to get other modes, or has its own again.
    Outer(Option<Taken>),
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The command alone, as if it had been signalled by its pid.
    Command,
    /// The command's process group, as for job control.
    Group,
    /// The foreground process group of its terminal, as from the keyboard.
    Foreground,
}

/// The caller's terminal while it is in raw mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The modes that the caller had.
    pub saved: Modes,
    /// The modes that it has got from us.
    pub raw: Modes,
}

/// From the monitor to the relay.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The command's process is there, with this pid. It has not been executed yet.
    Started(i32),
    /// An order about the foreground has been carried out.
    Settled,
    /// The command was stopped.
    Stopped {
        /// By this signal.
        signal: i32,
        /// Whether it was in the foreground of its terminal.
        foreground: bool,
    },
    /// The command ended.
    Ended(End),
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// One end of the connection: sends `S`, receives `R`.
pub struct Channel<S, R> {
    socket: OwnedFd,
    messages: PhantomData<(S, R)>,
}

/// The relay's end.
pub type RelayEnd = Channel<Order, Report>;
/// The monitor's end.
pub type MonitorEnd = Channel<Report, Order>;

/// Both ends of a new connection.
pub fn connection() -> Result<(RelayEnd, MonitorEnd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .cannot(|| "make a socket pair")?;
    Ok((Channel { socket: ours, messages: PhantomData }, Channel { socket: theirs, messages: PhantomData }))
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// Sends one message. EPIPE if the other process has gone.
    pub fn send(&self, message: &S) -> Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|error| Error::new("write a message", error))?;
        loop {
            match send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                result => return result.map(drop).cannot(|| "send a message"),
            }
        }
    }

    /// Receives one message; waits for it. `None` if the other process has gone.
    pub fn receive(&self) -> Result<Option<R>> {
        let mut bytes = [0; LONGEST];
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                // The other end was closed with messages of ours unread.
                Err(Errno::ECONNRESET) => break 0,
                result => break result.cannot(|| "receive a message")?,
            }
        };
        match length {
            0 => Ok(None),
            length => serde_json::from_slice(&bytes[..length])
                .map(Some)
                .map_err(|error| Error::new("understand a message", error)),
        }
    }
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cross_and_the_end_is_seen() {
        let (relay, monitor) = connection().unwrap();
        relay.send(&Order::Signal { number: 34, to: Target::Foreground }).unwrap();
        assert!(matches!(monitor.receive(), Ok(Some(Order::Signal { number: 34, to: Target::Foreground }))));
        monitor.send(&Report::Ended(End::Signaled(9))).unwrap();
        drop(monitor);
        assert!(matches!(relay.receive(), Ok(Some(Report::Ended(End::Signaled(9))))));
        assert!(matches!(relay.receive(), Ok(None)));
        assert!(relay.send(&Order::Foreground(true)).is_err());
    }
}
