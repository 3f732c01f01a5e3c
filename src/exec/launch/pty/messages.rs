//! What relay and monitor say to each other: one message a datagram, on a socket pair.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::modes::{Modes, Taken};
use runns_shared::error::{Context, Error, Result};

/// Longest message in words: two sets of terminal modes, and what they are for.
const LONGEST: usize = 128;

/// What can be sent: as words, the first of which says what it is. Both processes are the same
/// program.
pub trait Message: Sized {
    /// As words.
    fn to_words(&self) -> Vec<u32>;
    /// From words; `None` if they are no message.
    fn from_words(words: &[u32]) -> Option<Self>;
}

/// From the relay to the monitor.
#[derive(Debug)]
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
    /// Whoever wanted the command has been told of it.
    Keep,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The command alone, as if it had been signalled by its pid.
    Command,
    /// The command's process group, as for job control.
    Group,
    /// The foreground process group of its terminal, as from the keyboard.
    Foreground,
}

/// From the monitor to the relay.
#[derive(Debug)]
pub enum Report {
    /// The command's process is there, with this pid. It has not been executed yet.
    Forked(i32),
    /// The command has been executed.
    Executed,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl Message for Order {
    fn to_words(&self) -> Vec<u32> {
        match self {
            Self::Foreground(on) => vec![0, u32::from(*on)],
            Self::Signal { number, to } => vec![1, *number as u32, *to as u32],
            Self::Outer(None) => vec![2],
            Self::Keep => vec![4],
            Self::Outer(Some(taken)) => {
                [vec![3], taken.saved.to_words(), taken.raw.to_words()].concat()
            }
        }
    }

    fn from_words(words: &[u32]) -> Option<Self> {
        const TARGETS: [Target; 3] = [Target::Command, Target::Group, Target::Foreground];
        Some(match words {
            [0, on] => Self::Foreground(*on != 0),
            [1, number, to] => Self::Signal {
                number: *number as i32,
                to: *TARGETS.get(*to as usize)?,
            },
            [2] => Self::Outer(None),
            [4] => Self::Keep,
            [3, modes @ ..] => {
                let (saved, raw) = modes.split_at_checked(modes.len() / 2)?;
                Self::Outer(Some(Taken {
                    saved: Modes::from_words(saved)?,
                    raw: Modes::from_words(raw)?,
                }))
            }
            _ => return None,
        })
    }
}

impl Message for Report {
    fn to_words(&self) -> Vec<u32> {
        match *self {
            Self::Forked(pid) => vec![0, pid as u32],
            Self::Executed => vec![5],
            Self::Settled => vec![1],
            Self::Stopped { signal, foreground } => vec![2, signal as u32, u32::from(foreground)],
            Self::Ended(End::Exited(status)) => vec![3, status as u32],
            Self::Ended(End::Signaled(signal)) => vec![4, signal as u32],
        }
    }

    fn from_words(words: &[u32]) -> Option<Self> {
        Some(match *words {
            [0, pid] => Self::Forked(pid as i32),
            [5] => Self::Executed,
            [1] => Self::Settled,
            [2, signal, foreground] => Self::Stopped {
                signal: signal as i32,
                foreground: foreground != 0,
            },
            [3, status] => Self::Ended(End::Exited(status as i32)),
            [4, signal] => Self::Ended(End::Signaled(signal as i32)),
            _ => return None,
        })
    }
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
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .cannot(|| "create a socket pair")?;
    Ok((
        Channel {
            socket: ours,
            messages: PhantomData,
        },
        Channel {
            socket: theirs,
            messages: PhantomData,
        },
    ))
}

impl<S: Message, R: Message> Channel<S, R> {
    /// Sends one message. EPIPE if the other process has gone.
    pub fn send(&self, message: &S) -> Result<()> {
        let bytes: Vec<u8> = message
            .to_words()
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        loop {
            match send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                result => return result.map(drop).cannot(|| "send a message"),
            }
        }
    }

    /// Receives one message; waits for it. `None` if the other process has gone.
    pub fn receive(&self) -> Result<Option<R>> {
        let mut bytes = [0; LONGEST * size_of::<u32>()];
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                // The other end was closed with messages of ours unread.
                Err(Errno::ECONNRESET) => break 0,
                result => break result.cannot(|| "receive a message")?,
            }
        };
        let word = |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).unwrap_or_default();
        let words: Vec<u32> = bytes[..length].chunks(size_of::<u32>()).map(word).collect();
        match length {
            0 => Ok(None),
            _ => R::from_words(&words)
                .map(Some)
                .ok_or_else(|| Error::new("receive a message", "it is malformed")),
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
        relay
            .send(&Order::Signal {
                number: 34,
                to: Target::Foreground,
            })
            .unwrap();
        assert!(matches!(
            monitor.receive(),
            Ok(Some(Order::Signal {
                number: 34,
                to: Target::Foreground
            }))
        ));
        let modes = |byte: u32| Modes::from_words(&[u32::MAX, 0, 7, byte, 255]).unwrap();
        let taken = Taken {
            saved: modes(1),
            raw: modes(2),
        };
        relay.send(&Order::Outer(Some(taken.clone()))).unwrap();
        assert!(
            matches!(monitor.receive(), Ok(Some(Order::Outer(Some(received)))) if received == taken)
        );
        monitor.send(&Report::Ended(End::Signaled(9))).unwrap();
        drop(monitor);
        assert!(matches!(
            relay.receive(),
            Ok(Some(Report::Ended(End::Signaled(9))))
        ));
        assert!(matches!(relay.receive(), Ok(None)));
        assert!(relay.send(&Order::Foreground(true)).is_err());
    }
}
