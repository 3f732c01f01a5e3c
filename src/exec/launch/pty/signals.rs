//! Signals: held back while relay and monitor work, read from a descriptor, and given back to the
//! command as the caller had them.

use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getpid};

use runns_shared::error::{Context, Result};
use runns_sys::process::{self, Disposition, SignalMask};

/// What the caller's signals were.
pub struct Inherited {
    mask: SignalMask,
    child_ignored: bool,
}

impl Inherited {
    /// Blocks every signal, and makes sure that the end of a child is heard of: with SIGCHLD
    /// ignored its status is lost (waitpid(2)). Nothing else changes, so that the command inherits
    /// all dispositions.
    pub fn hold() -> Result<Self> {
        let child_ignored =
            process::is_ignored(Signal::SIGCHLD).cannot(|| "read the disposition of SIGCHLD")?;
        let mask = process::block_signals().cannot(|| "block signals")?;
        if child_ignored {
            process::set_disposition(Signal::SIGCHLD, Disposition::Default)
                .cannot(|| "wait for children")?;
        }
        Ok(Self {
            mask,
            child_ignored,
        })
    }

    /// All as the caller had it. For the command's process only.
    pub fn give_back(&self) -> Result<()> {
        if self.child_ignored {
            process::set_disposition(Signal::SIGCHLD, Disposition::Ignore)
                .cannot(|| "ignore SIGCHLD")?;
        }
        process::set_signal_mask(self.mask).cannot(|| "restore the signal mask")
    }
}

/// A descriptor to read signals from.
pub struct Signals(SignalFd);

/// One signal that was read.
pub struct Received {
    /// Its number.
    pub number: i32,
    info: siginfo,
}

impl Signals {
    /// The signals of `set`, which are blocked.
    pub fn of(set: &SigSet) -> Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(set, flags)
            .map(Self)
            .cannot(|| "create a signal descriptor")
    }

    /// The next one, if there is one.
    pub fn next(&self) -> Option<Received> {
        let info = self.0.read_signal().ok().flatten()?;
        Some(Received {
            number: i32::try_from(info.ssi_signo).unwrap_or_default(),
            info,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Received {
    /// Whether the kernel made it, as for a key that was pressed.
    pub fn is_from_kernel(&self) -> bool {
        self.info.ssi_code == libc::SI_KERNEL
    }

    /// Whether it ends a program that does nothing about it, as a user would have it.
    pub fn asks_to_end(&self) -> bool {
        let ends = [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
        ];
        ends.iter().any(|signal| *signal as i32 == self.number)
    }

    /// Whether this process made it, as SIGPIPE by writing.
    pub fn is_own(&self) -> bool {
        i32::try_from(self.info.ssi_pid) == Ok(getpid().as_raw())
    }
}

/// Stops this process and those of its group, as the job that they are, by `signal`; SIGSTOP stops
/// this process alone, as it did the command. Returns when it is continued, or at once where the
/// kernel does not stop it: there is no shell left that could continue the group (POSIX: orphaned
/// process group).
pub fn stop(signal: Signal) -> Result<()> {
    if signal == Signal::SIGSTOP {
        return kill(getpid(), signal).cannot(|| "stop");
    }
    let ignored =
        process::is_ignored(signal).cannot(|| format!("read the disposition of {signal}"))?;
    process::set_disposition(signal, Disposition::Default).cannot(|| format!("reset {signal}"))?;
    kill(Pid::from_raw(0), signal).cannot(|| "stop the process group")?;
    let only = SigSet::from(signal);
    only.thread_unblock()
        .and_then(|()| only.thread_block())
        .cannot(|| "stop")?;
    if ignored {
        process::set_disposition(signal, Disposition::Ignore)
            .cannot(|| format!("ignore {signal}"))?;
    }
    Ok(())
}
