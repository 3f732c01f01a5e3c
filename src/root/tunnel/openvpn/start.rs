//! Starts an OpenVPN daemon: `openvpn --daemon openvpn-NAME --config FILE`. It executes nothing, and
//! is on hold until its keeper lets it connect.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::facts::ipv6::in_tunnels;
use crate::kernel::{daemon, tool};
use crate::tunnel::launch::{Tunnel, end_child, last_line};
use crate::tunnel::profile::{PROGRAM, Profile};
use crate::tunnel::{own_directory, socket};
use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::show;
use runns_shared::record::Daemon;
use runns_sys::process::{self, Fork};

/// How long OpenVPN may take to report why it does not start.
const EXPLANATION: Duration = Duration::from_secs(3);

/// A daemon to be started.
pub struct Start<'a> {
    /// Its tunnel.
    pub tunnel: &'a Tunnel,
    /// Its file.
    pub profile: &'a Profile,
}

impl Start<'_> {
    /// Its output goes to `said`.
    fn become_openvpn(&self, words: &[CString], said: Option<&OwnedFd>) -> Result<Infallible> {
        let at = self.tunnel.config().parent().unwrap_or(Path::new("/"));
        self.tunnel.become_daemon(words, at, [None, said, said])
    }

    /// Starts it. It goes into the background by itself once it has read its
    /// configuration. With `ask`, it asks for passwords.
    pub fn run(&self, ask: bool) -> Result<Daemon> {
        let cannot = || format!("start OpenVPN with {}", show(self.tunnel.config()));
        let words = self.words(ask, true)?;
        // The daemon's parent exits. As subreaper, this process then becomes the daemon's parent
        // and so learns its pid.
        process::set_child_subreaper(true).cannot(cannot)?;
        let result = match process::fork().cannot(cannot)? {
            Fork::Child => end_child(self.become_openvpn(&words, None)),
            Fork::Parent(pid) => wait(pid).and_then(|()| adopted(self.tunnel.config())),
        };
        result.map_err(|error| {
            let reason = self
                .explain(ask)
                .unwrap_or_else(|| error.cause().to_string());
            let advice = self.profile.advice(&reason);
            let error = Error::new(cannot(), reason);
            match advice {
                Some(advice) => error.hint(advice),
                None => error.hint(self.tunnel.log_hint()),
            }
        })
    }

    /// The daemon's command line. Options after `--config` override those in the file, but `--cd`
    /// only keeps the daemon in the directory that it is in by then, when it goes into the
    /// background.
    fn words(&self, ask: bool, background: bool) -> Result<Vec<CString>> {
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let mut words = vec![text(tool::need(PROGRAM, "openvpn")?.as_os_str().as_bytes())];
        let mut add = |more: &[&[u8]]| words.extend(more.iter().map(|word| text(word)));
        if background {
            add(&[b"--daemon", self.tunnel.daemon_name().as_bytes()]);
        }
        let (config, directory) = (
            self.tunnel.config().as_os_str(),
            self.profile.directory().as_os_str(),
        );
        add(&[
            b"--config",
            config.as_bytes(),
            b"--cd",
            directory.as_bytes(),
        ]);
        let socket = socket(self.tunnel.name(), self.tunnel.index);
        // It waits for its keeper before it connects, so that the keeper sees every event.
        add(&[
            b"--management",
            socket.as_os_str().as_bytes(),
            b"unix",
            b"--management-hold",
            b"--management-up-down",
        ]);
        let answered = self.profile.credentials()?.is_some();
        if ask || answered {
            add(&[b"--management-query-passwords"]);
        }
        // Its keeper answers from the file (see `login`).
        if answered {
            add(&[b"--auth-user-pass"]);
        }
        add(script_security(self.profile));
        let own = own_directory(self.tunnel.name(), self.tunnel.index);
        add(&[
            b"--tmp-dir",
            own.as_os_str().as_bytes(),
            b"--ifconfig-noexec",
            b"--route-noexec",
        ]);
        let device = self.tunnel.device();
        add(&[
            b"--dev",
            device.as_bytes(),
            b"--dev-type",
            if self.profile.is_tap() {
                b"tap"
            } else {
                b"tun"
            },
        ]);
        words.extend(self.adjustments());
        Ok(words)
    }

    /// The options that depend on the file, the section and OpenVPN's version.
    fn adjustments(&self) -> Vec<CString> {
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let mut words = Vec::new();
        let mut add = |more: &[&[u8]]| words.extend(more.iter().map(|word| text(word)));
        // Below 3, OpenVPN does not report what the server pushed.
        let verb = self.profile.value("verb");
        let verb = verb.and_then(|verb| verb.parse::<u8>().ok());
        if verb.is_none_or(|verb| verb < 3) {
            add(&[b"--verb", b"3"]);
        }
        let version = version();
        // The kernel's driver (DCO) is controlled with CAP_NET_ADMIN.
        if version >= (2, 6) {
            add(&[b"--disable-dco"]);
        }
        // The default updown command would change the host's own resolver (openvpn(8) of 2.7).
        if version >= (2, 7) {
            add(&[b"--dns-updown", b"disable"]);
        }
        if !in_tunnels(self.tunnel.request()) {
            for option in ["ifconfig-ipv6", "route-ipv6", "redirect-gateway ipv6"] {
                add(&[b"--pull-filter", b"ignore", option.as_bytes()]);
            }
        }
        words
    }

    /// Finds out why OpenVPN did not start. A daemon reports errors to the system log only, so
    /// OpenVPN is started again in the foreground, where it fails in the same way and prints the
    /// reason.
    fn explain(&self, ask: bool) -> Option<String> {
        let said = memfd_create(c"openvpn", MFdFlags::MFD_CLOEXEC).ok()?;
        let words = self.words(ask, false).ok()?;
        match process::fork().ok()? {
            Fork::Child => end_child(self.become_openvpn(&words, Some(&said))),
            Fork::Parent(pid) => match daemon::wait_or_kill(pid, EXPLANATION).ok()? {
                WaitStatus::Signaled(_, Signal::SIGKILL, _) => None,
                _ => last_line(said),
            },
        }
    }
}

/// What keeps OpenVPN from executing anything. tls-verify checks the server, and so is the one
/// script that is not left out.
pub fn script_security(profile: &Profile) -> &'static [&'static [u8]] {
    match profile.value("tls-verify") {
        None => &[b"--script-security", b"0"],
        Some(_) => &[],
    }
}

/// OpenVPN's version; 0.0 if it does not report one.
fn version() -> (u32, u32) {
    let said = tool::run(PROGRAM, &["--version"], "").unwrap_or_default();
    parse_version(&said).unwrap_or_default()
}

/// From `OpenVPN 2.6.14 x86_64-...` or `OpenVPN 2.7_rc1 ...`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said
        .strip_prefix("OpenVPN ")?
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn wait(pid: Pid) -> Result<()> {
    loop {
        match waitpid(pid, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(WaitStatus::Exited(_, code)) => {
                return Err(Error::new(
                    "start OpenVPN",
                    format!("it exited with status {code}"),
                ));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Err(Error::new(
                    "start OpenVPN",
                    format!("it was killed by {signal}"),
                ));
            }
            Ok(_) => {}
            Err(errno) => return Err(errno).cannot(|| "wait for OpenVPN"),
        }
    }
}

/// The daemon that has become our child, the only one.
fn adopted(config: &Path) -> Result<Daemon> {
    for pid in daemon::children() {
        if let Ok(WaitStatus::StillAlive) = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG))
        {
            if let Some(daemon) = Daemon::identify(pid, config) {
                return Ok(daemon);
            }
        }
    }
    Err(Error::new("start OpenVPN", "it exited at once"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(
            parse_version("OpenVPN 2.6.14 x86_64-pc-linux-gnu [SSL (OpenSSL)]\n"),
            Some((2, 6))
        );
        assert_eq!(parse_version("OpenVPN 2.7_rc1 x86_64"), Some((2, 7)));
        assert_eq!(parse_version("OpenVPN"), None);
    }
}
