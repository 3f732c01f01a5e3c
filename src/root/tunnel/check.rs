//! Tunnels' files as providers hand them out: what is in a file, and what stands in the way of using
//! it, as far as that can be told without connecting.

use std::path::{Path, PathBuf};

use super::options::Line;
use super::profile::{OURS, Profile, SCRIPTS, WRITERS};
use super::source::{Companions, Kind, of_root, read};
use super::wgquick;
use runns_shared::error::{Error, Result};
use runns_shared::escape::show;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::trusted::MAX_TEXT;

/// Options that name a proxy: its host and its port. The last one overrides the host of `http-proxy`
/// (options.c of OpenVPN's sources).
const PROXIES: [&str; 3] = ["http-proxy", "socks-proxy", "http-proxy-override"];

/// What is in a file that can be used.
#[derive(Debug)]
pub struct Checked {
    /// Its kind.
    pub kind: Kind,
    /// The servers that it names, as HOST:PORT, for OpenVPN as HOST:PORT/PROTOCOL.
    pub servers: Vec<String>,
    /// The proxies that it names, as HOST PORT. Whoever runs one can play the server.
    pub proxies: Vec<String>,
    /// The files that it names, those that it includes among them, by their paths.
    pub companions: Vec<PathBuf>,
    /// Whether somebody has to type a user name and a password.
    pub asks_login: bool,
    /// What else somebody has to type.
    pub asks: Vec<&'static str>,
    /// What of it is not used, and why.
    pub left_out: Vec<String>,
    /// The files from which it sends user name and password, and to whom.
    pub logins: Vec<String>,
}

/// Checks a tunnel's file, whatever its kind, with the files that it names. `file` is where it is,
/// or will be: names in it are relative to that directory.
pub fn check(file: &Path, text: &[u8], companions: Companions) -> Result<Checked> {
    let unusable = |error: Error| error.within(format!("use {}", show(file)));
    match Kind::of(text, file)? {
        Kind::OpenVpn => {
            let profile = Profile::new(file, text, companions)?;
            profile.need_key_in_file()?;
            profile.need_companions(companions)?;
            Ok(Checked {
                kind: Kind::OpenVpn,
                servers: profile.servers(),
                proxies: proxies(&profile),
                companions: profile.companions()?,
                asks_login: profile.asks_login(),
                asks: asks(&profile, text, companions)?,
                left_out: left_out(&profile),
                logins: profile.logins()?,
            })
        }
        Kind::WireGuard => {
            let config = wgquick::parse(&String::from_utf8_lossy(text)).map_err(unusable)?;
            let left_out = (!config.left_out.is_empty()).then(|| config.left_out.join(", "));
            Ok(Checked {
                kind: Kind::WireGuard,
                servers: config.endpoints,
                proxies: Vec::new(),
                companions: Vec::new(),
                asks_login: false,
                asks: Vec::new(),
                left_out: left_out.into_iter().collect(),
                logins: Vec::new(),
            })
        }
    }
}

fn proxies(profile: &Profile) -> Vec<String> {
    let lines = PROXIES.iter().flat_map(|option| profile.all(option));
    let proxy = |line: &Line| {
        let words = line.arguments().iter().take(2);
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    };
    lines.map(proxy).collect()
}

/// What OpenVPN asks for, apart from user name and password: what unlocks the key, and a code.
fn asks(profile: &Profile, text: &[u8], companions: Companions) -> Result<Vec<&'static str>> {
    // RFC 7468, 11 and RFC 1421, 4.6.1.1.
    const LOCKED: [&[u8]; 2] = [
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
        b"Proc-Type: 4,ENCRYPTED",
    ];
    let is_locked = |text: &[u8]| {
        LOCKED
            .iter()
            .any(|mark| text.windows(mark.len()).any(|window| window == *mark))
    };
    let file = profile.value("key").filter(|name| !name.is_empty());
    let key = match file {
        Some(name) => companions(&profile.directory().join(name), MAX_TEXT)?,
        None => Some(text.to_vec()),
    };
    let has_password = profile
        .value("askpass")
        .is_some_and(|name| !matches!(name, "" | "stdin"));
    let asks = [
        (
            !has_password && key.is_some_and(|key| is_locked(&key)),
            "the private key's password",
        ),
        (
            profile.value("static-challenge").is_some(),
            "a one-time code",
        ),
    ];
    Ok(asks
        .into_iter()
        .filter_map(|(is_asked, what)| is_asked.then_some(what))
        .collect())
}

/// What is left out of OpenVPN's configuration.
fn left_out(profile: &Profile) -> Vec<String> {
    let reasons = [
        (
            profile.which(&SCRIPTS),
            "runns-exec sets up addresses, routes and DNS itself, without scripts",
        ),
        (
            profile.which(&WRITERS),
            "the daemon cannot write files; it logs to the system log",
        ),
        (
            profile.which(&OURS),
            "runns-exec confines and controls the daemon itself",
        ),
    ];
    let left_out = reasons
        .into_iter()
        .filter(|(options, _)| !options.is_empty());
    left_out
        .map(|(options, why)| format!("{} ({why})", options.join(", ")))
        .collect()
}

/// [`check`] for a file of root's that a section names.
pub fn check_named(file: &Path, wanted: Kind) -> Result<Checked> {
    check(file, &read(file, wanted)?, &of_root)
}

/// Warns of tunnels that Debian's openvpn.service starts as well, for the whole host, at boot: its
/// generator takes each /etc/openvpn/*.conf unless AUTOSTART says otherwise (openvpn-generator of
/// the package).
pub fn warn_of_service(plan: &Plan) {
    const GENERATOR: &str = "/usr/lib/systemd/system-generators/openvpn-generator";
    let settings = std::fs::read_to_string("/etc/default/openvpn").unwrap_or_default();
    let is_none =
        |line: &str| line.trim() == "AUTOSTART=none" || line.trim() == "AUTOSTART=\"none\"";
    if !Path::new(GENERATOR).exists() || settings.lines().any(is_none) {
        return;
    }
    let is_started = |file: &&PathBuf| {
        file.parent() == Some(Path::new("/etc/openvpn"))
            && file
                .extension()
                .is_some_and(|extension| extension == "conf")
    };
    let files: Vec<String> = plan
        .request
        .vpn
        .iter()
        .filter(is_started)
        .map(show)
        .collect();
    if !files.is_empty() {
        warn(&format!(
            "openvpn.service starts {} for the whole host at the next boot; move it to /etc/openvpn/client, or use \
             runns-exec import",
            files.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_typed_is_known() {
        const KEY: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n";
        let there = |path: &Path, _: u64| Ok((path == Path::new("/d/key")).then(|| KEY.to_vec()));
        let inline = format!("<key>\n{}</key>\n", String::from_utf8_lossy(KEY));
        for (more, wanted) in [
            ("", &[][..]),
            ("key key\n", &["the private key's password"]),
            (&inline, &["the private key's password"]),
            ("key key\naskpass key\n", &[]),
            ("key other\n", &[]),
            ("static-challenge Code 1\n", &["a one-time code"]),
        ] {
            let text = format!("client\nremote a\n{more}");
            let profile = Profile::new(Path::new("/d/a.ovpn"), text.as_bytes(), &there).unwrap();
            assert_eq!(
                asks(&profile, text.as_bytes(), &there).unwrap(),
                wanted,
                "{more}"
            );
        }
    }

    #[test]
    fn companions_come_from_wherever_they_are_kept() {
        let text =
            b"client\nremote vpn.example 443 tcp\nremote b.example\nport 1195\nca keys/ca.crt\n\
                     auth-user-pass\nconfig more\nup x\n";
        let there = |path: &Path, _: u64| {
            Ok(match path.to_str() {
                Some("/d/more") => Some(b"cert c.crt\nkey gone.key\ntls-auth gone.ta\n".to_vec()),
                Some("/d/keys/ca.crt" | "/d/c.crt") => Some(Vec::new()),
                _ => None,
            })
        };
        let error = check(Path::new("/d/a.ovpn"), text, &there).unwrap_err();
        let cause = error.cause();
        assert!(
            cause.contains("/d/gone.key (key), /d/gone.ta (tls-auth)"),
            "{error}"
        );
        let all = |path: &Path, most: u64| Ok(there(path, most)?.or(Some(Vec::new())));
        let checked = check(Path::new("/d/a.ovpn"), text, &all).unwrap();
        assert_eq!(
            checked.servers,
            ["vpn.example:443/tcp", "b.example:1195/udp"]
        );
        let names = ["more", "keys/ca.crt", "c.crt", "gone.key", "gone.ta"];
        let mut wanted: Vec<PathBuf> = names.map(|name| Path::new("/d").join(name)).into();
        wanted.sort();
        let mut companions = checked.companions;
        companions.sort();
        assert_eq!(companions, wanted);
        assert!(checked.asks_login && checked.left_out[0].starts_with("up ("));
    }
}
