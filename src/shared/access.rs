//! `AllowUsers` and `AllowGroups`: who may enter a namespace.

use serde::Serialize;

use crate::account;
use crate::error::Result;
use crate::json::{self, Fields};

/// Who may enter a namespace: everybody who may run the program, or only those in one of the lists.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Access {
    /// Names or numbers of users.
    pub users: Option<Vec<String>>,
    /// Names or numbers of groups.
    pub groups: Option<Vec<String>>,
}

impl Access {
    /// From a record.
    pub fn from_fields(fields: &Fields) -> json::Result<Self> {
        let names = |value| json::list(value, json::text);
        Ok(Self {
            users: fields.optional("users", names),
            groups: fields.optional("groups", names),
        })
    }

    /// Whether there is a list at all.
    pub fn is_restricted(&self) -> bool {
        self.users.is_some() || self.groups.is_some()
    }

    /// Whether the user `uid` is in the list of users, or one of `groups` in that of groups;
    /// without a list nobody is. A name that no account has stands for nobody.
    pub fn names(&self, uid: u32, groups: impl FnOnce() -> Result<Vec<u32>>) -> Result<bool> {
        let is_user = |name: &String| numeric(name).or_else(|| account::uid_of(name)) == Some(uid);
        if self.users.iter().flatten().any(is_user) {
            return Ok(true);
        }
        let Some(names) = &self.groups else {
            return Ok(false);
        };
        let groups = groups()?;
        let group = |name: &String| numeric(name).or_else(|| account::gid_of(name));
        Ok(names
            .iter()
            .filter_map(group)
            .any(|gid| groups.contains(&gid)))
    }

    /// The names in the lists that no account has.
    pub fn unknown_names(&self) -> Vec<String> {
        let user = |name: &&String| numeric(name).or_else(|| account::uid_of(name)).is_none();
        let group = |name: &&String| numeric(name).or_else(|| account::gid_of(name)).is_none();
        let users = self.users.iter().flatten().filter(user);
        users
            .chain(self.groups.iter().flatten().filter(group))
            .cloned()
            .collect()
    }
}

/// The number that `name` is, if it is written as one.
fn numeric(name: &str) -> Option<u32> {
    name.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| name.parse().ok())
        .flatten()
}
