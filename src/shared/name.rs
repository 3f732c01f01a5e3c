//! Names become types at the edge: whoever holds one knows that it is safe in a path, a rule and a
//! message.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::escape::escape;
use crate::json;

/// Words that are subcommands, now or later; a namespace of such a name is reached by `runns-exec
/// exec NAME`.
pub const RESERVED: [&str; 11] = [
    "exec", "build", "clean", "list", "check", "status", "import", "launcher", "config", "log",
    "help",
];

/// Bytes that an interface name can have (IFNAMSIZ without the NUL).
const INTERFACE_MAX: usize = 15;

/// The name of a network namespace: a file name in /run/netns, `[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct NetnsName(String);

/// The name of a network interface: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}`, but not lo, all or default.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct IfaceName(String);

fn is_name(bytes: &[u8], longest: usize) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    bytes.first().is_some_and(word)
        && bytes.len() <= longest
        && bytes
            .iter()
            .all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

impl NetnsName {
    /// Checks `name`.
    pub fn new(name: impl AsRef<OsStr>) -> Result<Self> {
        let bytes = name.as_ref().as_bytes();
        if is_name(bytes, 64) {
            return Ok(Self(String::from_utf8_lossy(bytes).into_owned()));
        }
        Err(Error::new(
            format!("use '{}' as a namespace name", escape(bytes)),
            "a name is 1 to 64 letters, digits, '_', '.' or '-', and starts with a letter, digit or '_'",
        ))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name for a system call.
    pub fn to_cstring(&self) -> CString {
        CString::new(self.0.as_str()).unwrap_or_default()
    }

    /// The host's end of the veth pair where none is configured: the namespace's name, or where
    /// that is too long or not allowed, its beginning and a hash of the whole.
    pub fn default_interface(&self) -> IfaceName {
        IfaceName::new(&self.0).unwrap_or_else(|_| {
            let start: String = self.0.chars().take(INTERFACE_MAX - 9).collect();
            IfaceName(format!("{start}-{:08x}", fnv1a(self.0.as_bytes())))
        })
    }

    /// The number X of a name `vpnX`, written without leading zeroes.
    pub fn vpn_number(&self) -> Option<u32> {
        let digits = self.0.strip_prefix("vpn")?;
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    }
}

impl IfaceName {
    /// Checks `name`.
    pub fn new(name: impl AsRef<OsStr>) -> Result<Self> {
        let bytes = name.as_ref().as_bytes();
        if is_name(bytes, INTERFACE_MAX) && !matches!(bytes, b"lo" | b"all" | b"default") {
            return Ok(Self(String::from_utf8_lossy(bytes).into_owned()));
        }
        Err(Error::new(
            format!("use '{}' as an interface name", escape(bytes)),
            "a name is 1 to 15 letters, digits, '_', '.' or '-', starts with a letter, digit or '_', and is not lo, \
             all or default",
        ))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// FNV-1a, 32 bit: stable across versions and machines, which the standard library's hashers are
/// not.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

macro_rules! text_conversions {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl $name {
            /// From a record.
            pub fn from_json(value: &Value) -> json::Result<Self> {
                Self::new(json::text(value)?).map_err(|error| error.cause().to_string())
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}
text_conversions!(NetnsName);
text_conversions!(IfaceName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_names_follow_the_pattern() {
        for good in ["a", "vpn1", "_x", "0", "a.b-c_d", &"x".repeat(64), "list"] {
            assert!(NetnsName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            ".a",
            "a/b",
            "a b",
            "a\n",
            "é",
            "a%",
            &"x".repeat(65),
        ] {
            assert!(NetnsName::new(bad).is_err(), "{bad}");
        }
        assert!(NetnsName::new(OsStr::from_bytes(b"a\xff")).is_err());
    }

    #[test]
    fn interface_names_are_no_patterns() {
        for good in ["vpn1", "eth0.5", "wlp3s0", &"x".repeat(15)] {
            assert!(IfaceName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "lo",
            "all",
            "default",
            "a+",
            "%d",
            "eth%d",
            "-a",
            ".x",
            "a/b",
            "eth0:1",
            &"x".repeat(16),
        ] {
            assert!(IfaceName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_names_get_a_stable_interface() {
        let long = NetnsName::new("a-namespace-with-a-long-name").unwrap();
        assert_eq!(long.default_interface(), long.default_interface());
        assert!(IfaceName::new(long.default_interface().as_str()).is_ok());
        let other = NetnsName::new("a-namespace-with-a-long-nama").unwrap();
        assert_ne!(long.default_interface(), other.default_interface());
        assert_eq!(
            NetnsName::new("vpn1").unwrap().default_interface().as_str(),
            "vpn1"
        );
        assert!(IfaceName::new(NetnsName::new("lo").unwrap().default_interface().as_str()).is_ok());
    }

    #[test]
    fn vpn_numbers() {
        let number = |name: &str| NetnsName::new(name).unwrap().vpn_number();
        assert_eq!(
            (
                number("vpn7"),
                number("vpn"),
                number("vpnWork"),
                number("vpn7x")
            ),
            (Some(7), None, None, None)
        );
        assert_eq!((number("xvpn7"), number("vpn4294967296")), (None, None));
    }
}
