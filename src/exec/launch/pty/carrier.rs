//! What the relay carries: bytes from the caller's descriptors to the command's terminal and back,
//! in bounded buffers, and the end of input.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};

use super::signals::Signals;
use super::stream::{Buffer, Standard, is_temporary};
use super::terminal::Line;

/// How often to look whether the end of input can be told, in milliseconds: at first, and at last.
const END_TICKS: (u16, u16) = (10, 320);
/// How long output may take before the job is stopped, in milliseconds.
const STOP_PATIENCE: u16 = 500;
/// What is read after the command's end, in bytes: more than a pseudo-terminal holds, less than
/// what a process that it left behind could write for ever.
const LAST_OUTPUT: usize = 256 * 1024;

/// Where bytes can move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The caller's input.
    Input,
    /// The caller's output.
    Output,
    /// The command's terminal.
    Master,
}

/// What came of moving bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Nothing special.
    Goes,
    /// The caller's terminal may be another process group's now.
    Refused,
    /// The other side has gone.
    HungUp,
}

/// Input has ended, and the command is to know.
struct EndOfInput {
    /// Whether it was told at all.
    told: bool,
    /// When to look again whether it can be told, or has been read and is to be told again.
    due: Instant,
    /// How long to wait after that, in milliseconds.
    tick: u16,
}

/// Both directions.
pub struct Carrier {
    /// None after it was hung up.
    line: Option<Line>,
    /// None after its end.
    input: Option<Standard>,
    to_command: Buffer,
    /// The last byte that came from input.
    last: u8,
    end: Option<EndOfInput>,
    output: Standard,
    from_command: Buffer,
}

impl Carrier {
    /// Between standard input, `line` and standard output.
    pub fn new(line: Line) -> Self {
        Self {
            line: Some(line),
            input: Some(Standard::input()),
            to_command: Buffer::new(),
            last: b'\n',
            end: None,
            output: Standard::output(),
            from_command: Buffer::new(),
        }
    }

    /// The command's terminal, if it was not hung up.
    pub fn line(&self) -> Option<&Line> {
        self.line.as_ref()
    }

    /// What to wait for. Input only `with_input`: in the background it is not ours to read.
    pub fn wanted(&self, with_input: bool) -> Vec<(Side, BorrowedFd<'_>, PollFlags)> {
        let mut wanted = Vec::with_capacity(3);
        if let Some(input) = self
            .input
            .as_ref()
            .filter(|_| with_input && !self.to_command.is_full())
        {
            wanted.push((Side::Input, input.as_fd(), PollFlags::POLLIN));
        }
        if !self.from_command.is_empty() {
            wanted.push((Side::Output, self.output.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(line) = &self.line {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, !self.from_command.is_full());
            events.set(PollFlags::POLLOUT, !self.to_command.is_empty());
            if !events.is_empty() {
                wanted.push((Side::Master, line.master(), events));
            }
        }
        wanted
    }

    /// How long to wait at most, in milliseconds, if there is a limit.
    pub fn patience(&self) -> Option<u16> {
        let end = self
            .end
            .as_ref()
            .filter(|_| self.line.is_some() && self.to_command.is_empty())?;
        let left = end
            .due
            .saturating_duration_since(Instant::now())
            .as_millis();
        // Rounded up: to look too early is to look in vain.
        Some(u16::try_from(left + 1).unwrap_or(END_TICKS.1))
    }

    /// Moves bytes where poll(2) has `found` something.
    pub fn advance(&mut self, side: Side, found: PollFlags) -> Flow {
        match side {
            Side::Input => self.read_input(found.contains(PollFlags::POLLHUP)),
            Side::Output => self.write_output(),
            Side::Master => {
                self.write_master();
                self.read_master()
            }
        }
    }

    fn read_input(&mut self, hung_up: bool) -> Flow {
        let Some(input) = &self.input else {
            return Flow::Goes;
        };
        let terminal = input.is_terminal();
        let mut last = self.last;
        let result = self.to_command.fill(|room| {
            let length = input.read(room)?;
            last = room[..length].last().copied().unwrap_or(last);
            Ok(length)
        });
        self.last = last;
        match result {
            Ok(1..) => self.write_master(),
            Err(errno) if is_temporary(errno) => {}
            // Somebody has taken the terminal out of raw mode, and the user has pressed ^D.
            Ok(0) if terminal && !hung_up => {
                if let Some(character) = self.line.as_ref().and_then(Line::end_of_file) {
                    self.to_command.push(&[character]);
                }
            }
            Err(Errno::EIO) if terminal => return Flow::Refused,
            _ if terminal => return Flow::HungUp,
            _ => self.end_input(),
        }
        Flow::Goes
    }

    /// There will be no more input.
    pub fn end_input(&mut self) {
        self.input = None;
        self.end = Some(EndOfInput {
            told: false,
            due: Instant::now(),
            tick: END_TICKS.0,
        });
    }

    /// Tells the command that input has ended, while its terminal is in a mode in which that can be
    /// told. Every read after the first is to find it too: it is told again as soon as it was read.
    pub fn tell_end_of_input(&mut self) {
        let (Some(line), Some(end)) = (&self.line, &mut self.end) else {
            return;
        };
        let now = Instant::now();
        if !self.to_command.is_empty() || now < end.due {
            return;
        }
        match line
            .end_of_file()
            .filter(|_| !end.told || !line.has_unread_line())
        {
            None => end.tick = (end.tick * 2).min(END_TICKS.1),
            Some(character) => {
                // After a line without its end, the first only ends that line (termios(3), VEOF).
                let count = if !end.told && self.last != b'\n' {
                    2
                } else {
                    1
                };
                self.to_command.push(&[character; 2][..count]);
                (end.told, end.tick) = (true, END_TICKS.0);
            }
        }
        end.due = now + Duration::from_millis(end.tick.into());
        self.write_master();
    }

    fn write_master(&mut self) {
        let Some(line) = &self.line else { return };
        // What cannot be written now is written when poll(2) says so.
        while !self.to_command.is_empty()
            && self
                .to_command
                .empty(|bytes| write(line.master(), bytes))
                .is_ok()
        {}
    }

    fn read_master(&mut self) -> Flow {
        let Some(line) = &self.line else {
            return Flow::Goes;
        };
        while !self.from_command.is_full() {
            match self.from_command.fill(|room| read(line.master(), room)) {
                Ok(1..) => {}
                Err(errno) if is_temporary(errno) => break,
                // Somebody has hung it up from inside (vhangup(2)).
                _ => return Flow::HungUp,
            }
        }
        Flow::Goes
    }

    fn write_output(&mut self) -> Flow {
        let output = &self.output;
        match self.from_command.empty(|bytes| output.write(bytes)) {
            Err(errno) if is_temporary(errno) => Flow::Goes,
            Err(errno) => {
                self.from_command.clear();
                // Output that was closed from the start has not gone away: nobody wanted it.
                if errno == Errno::EBADF {
                    Flow::Goes
                } else {
                    Flow::HungUp
                }
            }
            Ok(_) => Flow::Goes,
        }
    }

    /// Shows what the command has written so far, before it is stopped; not for long if output is
    /// slow.
    pub fn show(&mut self) {
        loop {
            self.read_master();
            let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLOUT)];
            if self.from_command.is_empty()
                || !poll(&mut fds, STOP_PATIENCE).is_ok_and(|ready| ready > 0)
            {
                return;
            }
            self.write_output();
        }
    }

    /// Delivers what the command has written before its end, all of it, however slow the reader is:
    /// unless one of `signals` asks to end, or output is stuck for `patience` milliseconds, if
    /// there is a limit.
    pub fn deliver_last(&mut self, signals: &Signals, patience: Option<u16>) {
        let patience = patience.map_or(PollTimeout::NONE, PollTimeout::from);
        let mut left = LAST_OUTPUT;
        loop {
            self.read_last(&mut left);
            if self.from_command.is_empty() {
                return;
            }
            let mut fds = [
                PollFd::new(self.output.as_fd(), PollFlags::POLLOUT),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, patience) {
                Ok(1..) => {}
                Err(Errno::EINTR) => continue,
                _ => return,
            }
            let [writable, signalled] = fds.map(|fd| fd.any().unwrap_or(true));
            if writable {
                self.write_output();
            } else if signalled
                && std::iter::from_fn(|| signals.next()).any(|signal| signal.asks_to_end())
            {
                return;
            }
        }
    }

    /// The kernel has ready what was written before: a read from the master waits for what is under
    /// way (drivers/tty/n_tty.c, n_tty_read, tty_buffer_flush_work).
    fn read_last(&mut self, left: &mut usize) {
        let Some(line) = &self.line else { return };
        while *left > 0 && !self.from_command.is_full() {
            let result = self.from_command.fill(|room| {
                let length = room.len().min(*left);
                read(line.master(), &mut room[..length])
            });
            match result {
                Ok(length @ 1..) => *left -= length,
                Err(Errno::EINTR) => {}
                _ => *left = 0,
            }
        }
    }

    /// Closes the command's terminal.
    pub fn hang_up(&mut self) {
        (self.input, self.line) = (None, None);
        self.to_command.clear();
    }
}
