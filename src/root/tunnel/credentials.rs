//! User names and passwords in files (openvpn(8), auth-user-pass).

/// A word of a management command has fewer bytes than OPTION_PARM_SIZE. What is longer can only be
/// in a file that the daemon reads itself.
pub const LONGEST: usize = 255;
/// User name and password of a file. The password is asked for if the file has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The first line.
    pub user: String,
    /// The second line.
    pub password: Option<String>,
}

impl Credentials {
    /// From the text of a file; `None` if it is for the daemon to read, or to complain about.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        let mut line = || lines.next().map(|line| line.trim_end_matches('\r'));
        let user = line().filter(|user| !user.is_empty())?;
        let password = line().filter(|password| !password.is_empty());
        let fits = |word: &str| word.len() <= LONGEST;
        (fits(user) && password.is_none_or(fits)).then(|| Self {
            user: user.to_string(),
            password: password.map(str::to_string),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_file() {
        let parse = |text: &str| Credentials::parse(text.as_bytes());
        let both = parse("alice\r\nse cret\r\nmore\n").unwrap();
        assert_eq!(
            (both.user.as_str(), both.password.as_deref()),
            ("alice", Some("se cret"))
        );
        assert_eq!(parse("alice\n").unwrap().password, None);
        assert_eq!(parse(""), None);
        assert_eq!(parse(&format!("alice\n{}\n", "x".repeat(300))), None);
    }
}
