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
    /// Login shell; may be empty.
    pub shell: String,
}

fn read(path: &str) -> String {
    std::fs::read(Path::new(path))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// All lines of /etc/passwd that are well-formed; none if it can't be read.
pub fn users() -> Vec<User> {
    read("/etc/passwd").lines().filter_map(parse_user).collect()
}

/// The first user with this uid.
pub fn user_by_id(uid: u32) -> Option<User> {
    users().into_iter().find(|user| user.uid == uid)
}

/// The uid of user `name`.
pub fn uid_of(name: &str) -> Option<u32> {
    users()
        .into_iter()
        .find(|user| user.name == name)
        .map(|user| user.uid)
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

fn parse_user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, _, shell] = fields[..] else {
        return None;
    };
    Some(User {
        name: name.to_string(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        shell: shell.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines() {
        let user = parse_user("alice:x:1000:1000:A:/home/alice:/bin/zsh").unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid, user.shell.as_str()),
            ("alice", 1000, "/bin/zsh")
        );
        assert_eq!(parse_user("broken:x:notanumber:0::/:/bin/sh"), None);
        assert_eq!(parse_user("+::::::"), None);
        assert_eq!(parse_user("short:x:1"), None);
    }
}
