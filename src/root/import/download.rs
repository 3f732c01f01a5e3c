//! Reads what lies in a directory of somebody else's, with that user's rights: who can write the
//! directory decides what its names lead to, while they are read as well, and must not have root
//! read what they cannot read themselves.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid, getgroups, setfsgid, setfsuid, setgroups};

use runns_shared::account;
use runns_shared::error::{Context, Error, Result, words};
use runns_shared::escape::{escape, quote_path, show};
use runns_shared::trusted::{self, kind};

/// The user whose rights are used; without supplementary groups.
#[derive(Clone, Copy)]
struct Owner {
    uid: Uid,
    gid: Gid,
}

/// A file that root names, and the directory in which it is.
pub struct Download {
    /// Its absolute path.
    pub path: PathBuf,
    directory: OwnedFd,
    /// `None` if root alone decides what is on the path.
    owner: Option<Owner>,
    /// Whether users can put other names for root's files there (link(2)).
    is_shared: bool,
}

impl Download {
    /// Finds out whose rights it takes to read `path`: those of the first user other than root to
    /// whom something on the path belongs, who decides about all that follows.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("read {}", show(path));
        let path = std::path::absolute(path).cannot(cannot)?;
        let (mut uid, mut is_shared, mut unsafe_place) = (0, false, None);
        let found = trusted::walk(&path, &mut |stat, reached| {
            if uid == 0 {
                uid = stat.st_uid;
            }
            is_shared |= trusted::is_sticky(stat);
            if unsafe_place.is_none() && !trusted::is_sticky(stat) {
                unsafe_place = trusted::check(stat, reached).err();
            }
            Ok(())
        })?;
        if found.is_none() {
            return Err(Error::new(cannot(), words(Errno::ENOENT)));
        }
        if let (0, Some(error)) = (uid, unsafe_place) {
            return Err(match quote_path(&path) {
                Some(file) => error.hint(format!("cp {file} ~/  # then name the copy")),
                None => error,
            });
        }
        let owner = (uid != 0).then(|| Owner {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(account::user_by_id(uid).map_or(uid, |user| user.gid)),
        });
        let parent = path.parent().unwrap_or(Path::new("/"));
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let open = || openat2(AT_FDCWD, parent, how).map_err(|errno| denied(errno, owner, &path));
        let directory = with_rights_of(owner, open)?;
        Ok(Self {
            directory,
            owner,
            is_shared,
            path,
        })
    }

    /// The file itself.
    pub fn contents(&self, most: u64) -> Result<Vec<u8>> {
        let name = Path::new(self.path.file_name().unwrap_or_default());
        self.read(name, most)?
            .ok_or_else(|| Error::new(format!("read {}", show(&self.path)), words(Errno::ENOENT)))
    }

    /// A regular file of at most `most` bytes beside it, or in a directory beside it; `None` if
    /// there is none. No symlink is followed.
    pub fn read(&self, relative: &Path, most: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path.with_file_name(relative);
        let cannot = || format!("read {}", show(&path));
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        with_rights_of(self.owner, || {
            let file = match openat2(&self.directory, relative, how) {
                Err(Errno::ENOENT) => return Ok(None),
                Err(Errno::ELOOP) => {
                    let cause =
                        "it is a symbolic link, or its path contains one, and import follows none";
                    return Err(Error::new(cannot(), cause));
                }
                file => file.map_err(|errno| denied(errno, self.owner, &path))?,
            };
            let stat = fstat(&file).cannot(cannot)?;
            if kind(&stat) != SFlag::S_IFREG {
                return Err(Error::new(cannot(), "it is not a regular file"));
            }
            if self.owner.is_none() && (stat.st_uid != 0 || self.is_shared && stat.st_nlink > 1) {
                let cause = "users other than root can change it";
                return Err(Error::new(cannot(), cause));
            }
            trusted::contents(File::from(file), &path, most).map(Some)
        })
    }
}

/// Why `path` cannot be read with the rights of `owner`.
fn denied(errno: Errno, owner: Option<Owner>, path: &Path) -> Error {
    let mut cause = words(errno);
    if let Some(Owner { uid, .. }) = owner.filter(|_| errno == Errno::EACCES) {
        let known = account::user_by_id(uid.as_raw());
        let name = known.map_or(format!("uid {uid}"), |user| escape(user.name.as_bytes()));
        cause += &format!(" ({name}, to whom its directory belongs, cannot read it)");
    }
    Error::new(format!("read {}", show(path)), cause)
}

/// Does `work` with the rights of `owner`, as far as files are concerned (setfsuid(2)).
fn with_rights_of<T>(owner: Option<Owner>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(owner) = owner else {
        return work();
    };
    const ACTION: &str = "take on the rights of the file's owner";
    let groups = getgroups().cannot(|| ACTION)?;
    let own = (setfsuid(INVALID_USER), setfsgid(INVALID_GROUP));
    setgroups(&[]).cannot(|| ACTION)?;
    setfsgid(owner.gid);
    setfsuid(owner.uid);
    let result = has_rights_of(owner).and_then(|has| match has {
        true => work(),
        false => Err(Error::new(ACTION, "the kernel did not change them")),
    });
    setfsuid(own.0);
    setfsgid(own.1);
    setgroups(&groups).cannot(|| "return to root's rights")?;
    result
}

/// With these, setfsuid(2) and setfsgid(2) change nothing, and return what is set.
const INVALID_USER: Uid = Uid::from_raw(u32::MAX);
const INVALID_GROUP: Gid = Gid::from_raw(u32::MAX);

/// Capabilities that override rights go with the user id, unless securebits keep them
/// (capabilities(7)).
fn has_rights_of(owner: Owner) -> Result<bool> {
    let overrides = [
        Capability::CAP_DAC_OVERRIDE,
        Capability::CAP_DAC_READ_SEARCH,
    ];
    let effective = caps::read(None, CapSet::Effective)
        .map_err(|error| Error::new("read the capabilities", error.to_string()))?;
    Ok(setfsuid(INVALID_USER) == owner.uid
        && setfsgid(INVALID_GROUP) == owner.gid
        && overrides
            .iter()
            .all(|capability| !effective.contains(capability)))
}
