//! Users and groups by /etc/passwd and /etc/group alone. No NSS: its modules would ask daemons or
//! the network, and on the way into a namespace they would run in a privileged process.

use std::path::Path;

/// A line of /etc/passwd (passwd(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Numeric user id.
    pub uid: u32,
    /// The group that it logs in with.
    pub gid: u32,
    /// Home directory; may be empty.
    pub home: String,
    /// Login shell; may be empty.
    pub shell: String,
}

fn read(path: &str) -> String {
    std::fs::read(Path::new(path))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The first line of /etc/passwd that is well-formed and of whose name and uid `is_wanted` holds.
fn find(is_wanted: impl Fn(&str, u32) -> bool) -> Option<User> {
    read("/etc/passwd")
        .lines()
        .filter_map(parse_user)
        .find(|(name, uid, ..)| is_wanted(name, *uid))
        .map(|(name, uid, gid, home, shell)| User {
            name: name.to_string(),
            uid,
            gid,
            home: home.to_string(),
            shell: shell.to_string(),
        })
}

/// The first user with this uid.
pub fn user_by_id(uid: u32) -> Option<User> {
    find(|_, known| known == uid)
}

/// The uid of user `name`.
pub fn uid_of(name: &str) -> Option<u32> {
    find(|known, _| known == name).map(|user| user.uid)
}

/// The gid of group `name` (group(5)).
pub fn gid_of(name: &str) -> Option<u32> {
    read("/etc/group").lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

/// Name, uid, gid, home and shell.
fn parse_user(line: &str) -> Option<(&str, u32, u32, &str, &str)> {
    let mut fields = line.split(':');
    let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
    let (home, shell) = (fields.nth(1)?, fields.next()?);
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    fields
        .next()
        .is_none()
        .then_some((name, uid, gid, home, shell))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        assert_eq!(
            parse_user("alice:x:1000:1000:A:/home/alice:/bin/zsh"),
            Some(("alice", 1000, 1000, "/home/alice", "/bin/zsh"))
        );
        assert_eq!(parse_user("broken:x:notanumber:0::/:/bin/sh"), None);
        assert_eq!(parse_user("+::::::"), None);
        assert_eq!(parse_user("short:x:1"), None);
        assert_eq!(parse_user("long:x:1:1:::/bin/sh:"), None);
    }
}
