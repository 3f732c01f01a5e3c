//! Snapshots of a host's state, to compare it before and after.

use std::fs;

use super::Host;

/// Everything that build may touch, as text.
#[derive(PartialEq, Eq)]
pub struct Snapshot(String);

impl Snapshot {
    /// Takes a snapshot of `host`.
    pub fn of(host: &Host) -> Self {
        Self(host.root().ok(include_str!("snapshot.sh")))
    }

    /// Fails the test if `self` (before) and `after` differ, and shows how.
    #[track_caller]
    pub fn assert_same(&self, after: &Self) {
        if self == after {
            return;
        }
        let directory = super::host::scratch_directory();
        let paths = ["before", "after"].map(|name| directory.join(name));
        for (path, text) in paths.iter().zip([&self.0, &after.0]) {
            fs::write(path, text).expect("write a snapshot");
        }
        let diff = std::process::Command::new("diff")
            .arg("-U2")
            .args(&paths)
            .output()
            .expect("start diff");
        let _ = fs::remove_dir_all(&directory);
        panic!(
            "the host is not as it was:\n{}",
            String::from_utf8_lossy(&diff.stdout)
        );
    }

    /// The text, for assertions on a part of it.
    pub fn text(&self) -> &str {
        &self.0
    }
}
