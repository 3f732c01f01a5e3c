//! Files that are written while there is no room.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use runns_exec_root::kernel::file;

use crate::support::require_root;

/// Runs `work` in a directory with room for `pages`, which is this thread's alone.
fn with_room(pages: usize, work: impl FnOnce(&Path) + Send) {
    require_root();
    let in_thread = || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        let directory = Path::new("/mnt");
        let options = format!("size={}", pages * 4096);
        mount(
            Some("full"),
            directory,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        work(directory);
    };
    std::thread::scope(|scope| scope.spawn(in_thread).join().unwrap());
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

const FULL: &str = "No space left on device";

#[test]
fn a_file_appears_whole_or_not_at_all() {
    with_room(2, |directory| {
        let path = directory.join("a");
        for text in ["x".repeat(3 * 4096), "x".repeat(4 * 4096 + 1)] {
            assert!(
                file::write(&path, text)
                    .unwrap_err()
                    .to_string()
                    .contains(FULL)
            );
            assert_eq!(names(directory), [""; 0]);
        }
        file::write(&path, "old").unwrap();
        assert!(
            file::write(&path, "x".repeat(2 * 4096))
                .unwrap_err()
                .to_string()
                .contains(FULL)
        );
        assert_eq!(
            (names(directory), std::fs::read_to_string(&path).unwrap()),
            (vec!["a".into()], "old".into())
        );
        file::write(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    });
}

#[test]
fn a_file_that_is_overwritten_is_never_cut() {
    with_room(2, |directory| {
        let path = directory.join("a");
        let old = "old\n".repeat(1000);
        file::write(&path, &old).unwrap();
        std::fs::write(directory.join("other"), "x").unwrap();
        assert!(
            file::overwrite(&path, "new\n".repeat(1100))
                .unwrap_err()
                .to_string()
                .contains(FULL)
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), old);
        // What takes no more room than before needs none, and others see it.
        let mut open = std::fs::File::open(&path).unwrap();
        for text in [
            "new\n".repeat(1000),
            "short\n".to_string(),
            String::new(),
            "new\n".to_string(),
        ] {
            file::overwrite(&path, &text).unwrap();
            std::io::Seek::rewind(&mut open).unwrap();
            assert_eq!(std::io::read_to_string(&open).unwrap(), text);
        }
        std::os::unix::fs::symlink("a", directory.join("link")).unwrap();
        assert!(file::overwrite(&directory.join("link"), "x").is_err());
    });
}
