//! Bytes on their way: a bounded buffer, and the standard descriptors that they come from and go
//! to. Those are shared with other processes, so their O_NONBLOCK is never touched.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::unistd::{isatty, read, write};

use runns_sys::process::STANDARD;

/// Bytes held in each direction.
const CAPACITY: usize = 64 * 1024;
/// A write of this size to a pipe that poll(2) calls writable does not wait (pipe(7)).
const CHUNK: usize = 4096;
/// Device number of /dev/ptmx (Documentation/admin-guide/devices.txt): to open it is to make a new
/// terminal.
const PTMX: (u64, u64) = (5, 2);

/// Bytes that were read and not yet written.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; CAPACITY],
            start: 0,
            end: 0,
        }
    }

    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// No room to read into.
    pub fn is_full(&self) -> bool {
        self.end - self.start == CAPACITY
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Adds `bytes`, as far as there is room.
    pub fn push(&mut self, bytes: &[u8]) {
        let _ = self.fill(|room| {
            let length = bytes.len().min(room.len());
            room[..length].copy_from_slice(&bytes[..length]);
            Ok(length)
        });
    }

    /// Lets `read` put bytes into the free room; it returns how many.
    pub fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if self.end == CAPACITY {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let length = read(&mut self.bytes[self.end..])?;
        self.end += length;
        Ok(length)
    }

    /// Lets `write` take bytes from the front; it returns how many.
    pub fn empty(
        &mut self,
        write: impl FnOnce(&[u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let length = write(&self.bytes[self.start..self.end])?;
        self.start += length;
        if self.is_empty() {
            self.clear();
        }
        Ok(length)
    }
}

/// Standard input or output.
pub struct Standard {
    fd: BorrowedFd<'static>,
    /// The same terminal, opened once more so that waiting for it cannot be forced on us: a write
    /// to a terminal waits until all is written, a read until somebody types, whatever poll(2) said
    /// before.
    own: Option<OwnedFd>,
    terminal: bool,
}

impl Standard {
    /// Standard input.
    pub fn input() -> Self {
        Self::new(STANDARD[0], "/proc/self/fd/0", OFlag::O_RDONLY)
    }

    /// Standard output.
    pub fn output() -> Self {
        Self::new(STANDARD[1], "/proc/self/fd/1", OFlag::O_WRONLY)
    }

    fn new(fd: BorrowedFd<'static>, path: &str, access: OFlag) -> Self {
        let terminal = isatty(fd).unwrap_or(false);
        let device = fstat(fd).map(|file| (major(file.st_rdev), minor(file.st_rdev)));
        let again = terminal && device.is_ok_and(|device| device != PTMX);
        let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let own = if again {
            open(path, flags, Mode::empty()).ok()
        } else {
            None
        };
        Self { fd, own, terminal }
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Reads what there is. 0 at the end.
    pub fn read(&self, to: &mut [u8]) -> Result<usize, Errno> {
        read(self.as_fd(), to)
    }

    /// Writes some of `from`.
    pub fn write(&self, from: &[u8]) -> Result<usize, Errno> {
        let length = if self.own.is_some() {
            from.len()
        } else {
            from.len().min(CHUNK)
        };
        write(self.as_fd(), &from[..length])
    }
}

impl AsFd for Standard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_ref().map_or(self.fd, |own| own.as_fd())
    }
}

/// Whether a failed read or write is to be tried again once poll(2) says so.
pub fn is_temporary(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EINTR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_keeps_order_and_its_bound() {
        let mut buffer = Buffer::new();
        let all: Vec<u8> = (0..3 * CAPACITY).map(|index| (index % 251) as u8).collect();
        let (mut given, mut taken) = (0, Vec::new());
        while taken.len() < all.len() {
            given += buffer
                .fill(|room| {
                    let length = room.len().min(7001).min(all.len() - given);
                    room[..length].copy_from_slice(&all[given..given + length]);
                    Ok(length)
                })
                .unwrap();
            assert!(given - taken.len() <= CAPACITY);
            let _ = buffer.empty(|bytes| {
                let length = bytes.len().min(6007);
                taken.extend_from_slice(&bytes[..length]);
                Ok(length)
            });
        }
        assert!(buffer.is_empty() && taken == all);
        assert_eq!(buffer.empty(|bytes| Ok(bytes.len())), Ok(0));
        buffer.push(&vec![1; 2 * CAPACITY]);
        assert!(buffer.is_full());
    }
}
