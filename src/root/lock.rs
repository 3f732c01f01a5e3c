//! The lock of /run/runns: one build or clean at a time. Who holds it writes records.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::record::{DIRECTORY, Record, path};
use runns_shared::trusted::{self, Trust};

const LOCK: &str = "/run/runns/lock";
/// Extension of a file that is being written.
const HALF_WRITTEN: &str = "new";

/// The turn of one build or clean: while it lives, nobody else changes what is built.
pub struct Lock {
    file: Flock<File>,
}

impl Lock {
    /// Writes a record, replacing an earlier one at once.
    pub fn save(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_string_pretty(record).map_err(|error| Error::new("write a record", error))?;
        self.write_file(&path(&record.plan.request.name), &text)
    }

    /// Removes a record. One that is not there is no error.
    pub fn remove(&self, record: &Record) -> Result<()> {
        let path = path(&record.plan.request.name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).cannot(|| format!("remove {}", show(&path)))
            }
            _ => Ok(()),
        }
    }

    /// Waits for the turn. Makes /run/runns if there is none. The file is 0600, so that only root can hold it.
    pub fn take() -> Result<Self> {
        loop {
            make_directory(Path::new(DIRECTORY))?;
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
            let file = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| errno)
                .cannot(|| format!("lock {LOCK}"))?;
            // Inherited by the tools that are run: should this process be killed, the next one waits for its tool too.
            let lock = Self { file };
            lock.inherit()?;
            let held = lock.file.metadata().cannot(|| format!("lock {LOCK}"))?.ino();
            // The holder before us may have removed the file with the last record.
            if std::fs::symlink_metadata(LOCK).is_ok_and(|now| now.ino() == held) {
                remove_half_written()?;
                return Ok(lock);
            }
        }
    }

    /// Writes `text` to `path` in /run/runns by way of a temporary file: whoever reads sees the old or the new text.
    pub fn write_file(&self, path: &Path, text: &str) -> Result<()> {
        let temporary = path.with_extension(HALF_WRITTEN);
        let write = || -> std::io::Result<()> {
            let _ = std::fs::remove_file(&temporary);
            let mut file = File::options().create_new(true).write(true).mode(0o644).open(&temporary)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&temporary, path)
        };
        write().cannot(|| format!("write {}", show(path)))
    }

    /// In a child that becomes a daemon: it does not inherit the turn.
    pub fn close_on_exec(&self) -> Result<()> {
        fcntl(&*self.file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop).cannot(|| format!("let go of {LOCK}"))
    }

    /// What is run next inherits the turn again.
    pub fn inherit(&self) -> Result<()> {
        fcntl(&*self.file, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).cannot(|| format!("keep {LOCK}"))
    }

    /// Gives the turn back; where nothing is recorded any more, /run/runns goes too.
    pub fn release(self) {
        let left = std::fs::read_dir(DIRECTORY).map_or(1, |entries| {
            entries.filter(|entry| entry.as_ref().map_or(true, |entry| entry.path() != Path::new(LOCK))).count()
        });
        if left == 0 {
            let _ = std::fs::remove_file(LOCK);
            let _ = std::fs::remove_dir(DIRECTORY);
        }
        drop(self.file);
    }
}

/// Removes what a build or clean that was killed had begun to write.
fn remove_half_written() -> Result<()> {
    for entry in std::fs::read_dir(DIRECTORY).cannot(|| format!("list {DIRECTORY}"))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == HALF_WRITTEN) {
            std::fs::remove_file(entry.path()).cannot(|| format!("remove {}", show(entry.path())))?;
        }
    }
    Ok(())
}

/// Makes a directory of mode 0755 whatever the umask; one that is there must be root's.
pub fn make_directory(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, mode).cannot(|| format!("make {}", show(path)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let (_, stat) = trusted::locate(path, Trust::Strict)?;
            if trusted::kind(&stat) != nix::sys::stat::SFlag::S_IFDIR {
                return Err(Error::new(format!("use {}", show(path)), "it is not a directory"));
            }
            Ok(())
        }
        Err(error) => Err(error).cannot(|| format!("make {}", show(path))),
    }
}
