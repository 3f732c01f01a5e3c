//! A session that somebody has logged in to: what `openconnect --authenticate` prints, lines for a
//! shell. It is text of a daemon's, or a user's, and each field is checked.

use std::ffi::CString;

use runns_shared::error::{Error, Result};

use crate::tunnel::said::SEPARATOR;

/// Bytes of all that is read. Cookies of some protocols have some KiB.
pub const LARGEST: u64 = 64 << 10;
/// Bytes of the cookie: openconnect reads a line into a buffer of 1 KiB at a time.
const LONGEST_COOKIE: usize = 16 << 10;

/// A session.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The secret.
    cookie: String,
    /// The server: a URL, or a host in the output of old versions.
    pub url: String,
    /// The fingerprint of its certificate.
    pub fingerprint: String,
    /// The address of its name, `HOST:ADDRESS`.
    resolve: Option<String>,
}

impl Session {
    /// From the output of `openconnect --authenticate`.
    pub fn parse(text: &str) -> Result<Self> {
        let value = |name: &str| {
            let line = text.lines().filter_map(|line| line.split_once('='));
            let mut values = line.filter(|(known, _)| known.trim() == name);
            values.next().map(|(_, value)| unquoted(value.trim()))
        };
        let need = |name: &str| {
            value(name)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| {
                    Error::new("read the session", format!("there is no {name} in it"))
                        .hint("openconnect --authenticate SERVER prints one")
                })
        };
        let cookie = need("COOKIE")?;
        let url = value("CONNECT_URL").filter(|url| !url.is_empty());
        let url = url.map_or_else(|| need("HOST"), Ok)?;
        let resolve = value("RESOLVE").filter(|resolve| !resolve.is_empty());
        Self::new(cookie, url, need("FINGERPRINT")?, resolve)
    }

    fn new(
        cookie: String,
        url: String,
        fingerprint: String,
        resolve: Option<String>,
    ) -> Result<Self> {
        let wrong = |what: &str| Error::new("use the session", format!("its {what} is malformed"));
        let is_word = |text: &str| {
            !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_graphic())
                && text.len() < 2048
        };
        if cookie.contains(char::is_control) || cookie.len() > LONGEST_COOKIE {
            return Err(wrong("COOKIE"));
        }
        if !is_word(&url) || url.contains(['\'', '"', '\\', '`', '$']) {
            return Err(wrong("CONNECT_URL"));
        }
        let of_fingerprint = |c: char| c.is_ascii_alphanumeric() || "+/=:-".contains(c);
        if !is_word(&fingerprint) || !fingerprint.chars().all(of_fingerprint) {
            return Err(wrong("FINGERPRINT"));
        }
        if let Some(resolve) = &resolve {
            let address = resolve.split_once(':').map(|(_, address)| address);
            let address = address.map(|text| text.trim_matches(['[', ']']));
            if !is_word(resolve)
                || address.is_none_or(|text| text.parse::<std::net::IpAddr>().is_err())
            {
                return Err(wrong("RESOLVE"));
            }
        }
        Ok(Self {
            cookie,
            url,
            fingerprint,
            resolve,
        })
    }

    /// As a line for the keeper.
    pub fn to_line(&self) -> String {
        [
            self.cookie.as_str(),
            &self.url,
            &self.fingerprint,
            self.resolve.as_deref().unwrap_or_default(),
        ]
        .join(&SEPARATOR.to_string())
    }

    /// From such a line.
    pub fn from_line(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(SEPARATOR).collect();
        let [cookie, url, fingerprint, resolve] = fields[..] else {
            return Err(Error::new("read the session", "it is incomplete"));
        };
        let resolve = (!resolve.is_empty()).then(|| resolve.to_string());
        Self::new(
            cookie.to_string(),
            url.to_string(),
            fingerprint.to_string(),
            resolve,
        )
    }

    /// The cookie's line for the daemon.
    pub fn cookie_line(&self) -> String {
        format!("{}\n", self.cookie)
    }

    /// The end of the daemon's command line: all but the secret. A name whose address is known is not
    /// looked up; a host that is an address already is none.
    pub fn words(&self) -> Vec<CString> {
        let mut words = vec!["--servercert", &self.fingerprint];
        if let Some(resolve) = &self.resolve {
            words.extend(["--resolve", resolve]);
        }
        words.extend(["--", &self.url]);
        let words = words.into_iter().map(CString::new);
        words.map(Result::unwrap_or_default).collect()
    }
}

/// A word for a shell, as openconnect prints it: between apostrophes, with `'\''` for one in it.
fn unquoted(value: &str) -> String {
    let inner = value
        .strip_prefix('\'')
        .and_then(|value| value.strip_suffix('\''));
    inner.map_or(value.to_string(), |inner| inner.replace("'\\''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "COOKIE='webvpn=it'\\''s; x'\nHOST='192.0.2.1'\n\
        CONNECT_URL='https://vpn.example.org:443/'\nFINGERPRINT='pin-sha256:AB+/='\n\
        RESOLVE='vpn.example.org:192.0.2.1'\n";

    #[test]
    fn the_output_of_authenticate() {
        let session = Session::parse(OUTPUT).unwrap();
        assert_eq!(session.cookie_line(), "webvpn=it's; x\n");
        let words = session.words();
        assert_eq!(
            words.last().unwrap().to_str(),
            Ok("https://vpn.example.org:443/")
        );
        assert!(!format!("{words:?}").contains("webvpn"));
        let again = Session::from_line(&session.to_line()).unwrap();
        assert!(again == session);
        // Before 8.10, there was only the host.
        let old = "COOKIE=a@b\nHOST=192.0.2.1\nFINGERPRINT=sha256:ab\n";
        assert_eq!(Session::parse(old).unwrap().url, "192.0.2.1");
    }

    #[test]
    fn a_field_is_one_word() {
        for (from, to) in [
            ("https://vpn", "--script=x https://vpn"),
            ("https://vpn", "-"),
            ("pin-sha256:AB", "pin;sha"),
            (":192.0.2.1", ":reboot"),
            ("it", "\u{1f}"),
        ] {
            assert!(Session::parse(&OUTPUT.replace(from, to)).is_err(), "{to}");
        }
        assert!(Session::parse("COOKIE=x\nHOST=y\n").is_err());
    }
}
