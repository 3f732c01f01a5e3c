//! The lock of /run/runns, which admits one build or clean at a time. Only its holder writes
//! records.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::kernel::file::{self, make_directory};
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::hosts;
use runns_shared::output;
use runns_shared::plan::Plan;
use runns_shared::record::{DIRECTORY, Record, path, reservation};
use runns_sys::process::was_interrupted;

const LOCK: &str = "/run/runns/lock";
/// How often to try to take it.
const ROUND: Duration = Duration::from_millis(20);
/// After how long to say that it is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// The lock, held: while this value lives, no other build or clean runs.
pub struct Lock {
    file: Flock<File>,
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).cannot(|| format!("remove {}", show(path)))
        }
        _ => Ok(()),
    }
}

impl Lock {
    /// Removes a file in /run/runns. It is not an error if there is none.
    pub fn remove_file(&self, path: &Path) -> Result<()> {
        remove_file(path)
    }

    /// Writes a record, replacing an earlier one atomically.
    pub fn save(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_string_pretty(record)
            .map_err(|error| Error::new("write a record", error))?;
        self.write_file(&path(&record.plan.name), &text)
    }

    /// Reserves the namespace's number, which is in its record already.
    pub fn reserve(&self, record: &Record) -> Result<()> {
        let path = reservation(record.plan.number, &record.plan.name);
        File::create(&path)
            .map(drop)
            .cannot(|| format!("create {}", show(&path)))
    }

    /// Removes a record. It is not an error if there is none.
    pub fn remove(&self, record: &Record) -> Result<()> {
        let name = &record.plan.name;
        // By its name: the number in a damaged record is not known.
        for (_, number) in Record::names_and_numbers()?
            .1
            .into_iter()
            .filter(|(reserved, _)| reserved == name)
        {
            let file = reservation(number, name);
            std::fs::remove_file(&file).cannot(|| format!("remove {}", show(&file)))?;
        }
        remove_file(&hosts::path(name))?;
        remove_file(&path(name))
    }

    /// Leaves the hosts file of a namespace that reaches the host; another one has none.
    pub fn save_hosts(&self, plan: &Plan) -> Result<()> {
        let Some(lines) = hosts::lines(plan) else {
            return remove_file(&hosts::path(&plan.name));
        };
        let Some((seconds, nanoseconds, _)) = hosts::stamp()? else {
            return Ok(());
        };
        // Should it change from now on, the times will differ.
        let Some(text) = hosts::text_with(&lines)? else {
            return Ok(());
        };
        let path = hosts::path(&plan.name);
        self.write_file(&path, text)?;
        let time = TimeSpec::new(seconds, nanoseconds);
        utimensat(
            AT_FDCWD,
            &path,
            &TimeSpec::UTIME_OMIT,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
        .cannot(|| format!("set the time of {}", show(&path)))
    }

    /// Creates /run/runns if it does not exist, and waits for the lock. The file has mode 0600, so
    /// that only root can hold it.
    pub fn take() -> Result<Self> {
        Self::take_within(Duration::MAX)
    }

    /// The same, but waits for so long at most. Whoever holds it may be asking for a password.
    pub fn take_within(patience: Duration) -> Result<Self> {
        let begin = Instant::now();
        let mut is_told = false;
        loop {
            if was_interrupted() {
                return Err(Error::new(
                    format!("lock {LOCK}"),
                    "interrupted by a signal",
                ));
            }
            make_directory(Path::new(DIRECTORY), 0o755)?;
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
                .open(LOCK);
            let file = match file {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                file => file.cannot(|| format!("open {LOCK}"))?,
            };
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Err((_, Errno::EWOULDBLOCK)) if begin.elapsed() < patience => {
                    if !is_told && begin.elapsed() > SILENCE {
                        output::complain("waiting for another build or clean to end");
                        is_told = true;
                    }
                    std::thread::sleep(ROUND);
                    continue;
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    let cause = "another build or clean is running";
                    return Err(Error::new(format!("lock {LOCK}"), cause));
                }
                file => file
                    .map_err(|(_, errno)| errno)
                    .cannot(|| format!("lock {LOCK}"))?,
            };
            // Tools inherit the lock: if this process is killed while one runs, the next build or
            // clean waits for it.
            let lock = Self { file };
            lock.inherit()?;
            let held = lock
                .file
                .metadata()
                .cannot(|| format!("lock {LOCK}"))?
                .ino();
            // The previous holder may have removed the file together with the last record.
            if std::fs::symlink_metadata(LOCK).is_ok_and(|now| now.ino() == held) {
                file::remove_all_unfinished(Path::new(DIRECTORY))?;
                return Ok(lock);
            }
        }
    }

    /// Writes a file in /run/runns (see [`file::write`]), which only the holder of the lock may do.
    pub fn write_file(&self, path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
        file::write(path, text)
    }

    /// Sets close-on-exec, so that a daemon that is about to be executed does not inherit the lock.
    pub fn close_on_exec(&self) -> Result<()> {
        fcntl(&*self.file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map(drop)
            .cannot(|| format!("set flags of {LOCK}"))
    }

    /// In a child, which must not drop it: leaves the lock to the parent (flock(2)).
    pub fn close_in_child(&self) -> Result<()> {
        nix::unistd::close(self.file.as_raw_fd()).cannot(|| format!("close {LOCK}"))
    }

    /// Clears close-on-exec: programs that are run from now on inherit the lock.
    pub fn inherit(&self) -> Result<()> {
        fcntl(&*self.file, FcntlArg::F_SETFD(FdFlag::empty()))
            .map(drop)
            .cannot(|| format!("set flags of {LOCK}"))
    }

    /// Releases the lock. If nothing is recorded any more, /run/runns is removed first.
    pub fn release(self) {
        let left = std::fs::read_dir(DIRECTORY).map_or(1, |entries| {
            entries
                .filter(|entry| {
                    entry
                        .as_ref()
                        .map_or(true, |entry| entry.path() != Path::new(LOCK))
                })
                .count()
        });
        if left == 0 {
            let _ = std::fs::remove_file(LOCK);
            let _ = std::fs::remove_dir(DIRECTORY);
        }
        drop(self.file);
    }
}
