//! OpenVPN: each `vpn=` is one daemon, `openvpn --daemon openvpn-NAME --config FILE`, that runs in the namespace, with
//! its view of /etc.

use std::ffi::CString;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::{Part, Site};
use crate::daemon;
use crate::error::{Context, Error, Result};
use crate::launch::Program;
use crate::plan::Plan;
use crate::privileged::{Privilege, netns, view};
use crate::record::Daemon;
use crate::sys::process::{self, Fork};
use crate::text::{escape, show};
use crate::tool;
use crate::trusted::{self, Trust};

const PROGRAM: &str = "openvpn";
/// From SIGTERM to SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

/// The part.
pub struct OpenVpn;

impl Part for OpenVpn {
    fn describe(&self, plan: &Plan) -> Option<String> {
        let files: Vec<String> = plan.request.vpn.iter().map(show).collect();
        (!files.is_empty()).then(|| format!("OpenVPN ({}): {}", daemon_name(plan), files.join(", ")))
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        let files = site.plan().request.vpn.clone();
        for config in files {
            let daemon = start(site, &config)?;
            site.record.daemons.push(daemon);
            site.save()?;
        }
        Ok(())
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let daemons = daemons(site);
        site.record.daemons.clear();
        daemon::stop_all(&daemons, PATIENCE)
    }
}

/// The namespace's daemons: those of the record, and those of a build that was killed before it could write them down.
pub fn daemons(site: &Site) -> Vec<Daemon> {
    site.record.daemons.iter().cloned().chain(unrecorded(site)).collect()
}

/// Checks the program and the configuration files, before anything is made. OpenVPN runs programs that they name, as
/// root: they must be root's alone.
pub fn check(plan: &Plan) -> Result<()> {
    if plan.request.vpn.is_empty() {
        return Ok(());
    }
    tool::need(PROGRAM, "openvpn")?;
    for config in &plan.request.vpn {
        drop(trusted::open(config, Trust::Strict)?);
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(Error::new("start OpenVPN", "/dev/net/tun does not exist").hint("sudo modprobe tun"));
    }
    Ok(())
}

/// What the daemons are called in the system log.
fn daemon_name(plan: &Plan) -> String {
    format!("{PROGRAM}-{}", plan.request.name)
}

/// OpenVPN daemons of this namespace that are in it but not in the record.
fn unrecorded(site: &Site) -> Vec<Daemon> {
    let Some(identity) = site.record.identity else { return Vec::new() };
    let name = daemon_name(site.plan());
    daemon::in_namespace(identity.inode)
        .into_iter()
        .filter(|pid| {
            let words = daemon::command_line(*pid);
            daemon::is_roots(*pid) && words.windows(2).any(|pair| pair[0] == "--daemon" && pair[1] == name)
        })
        .filter_map(|pid| daemon::identify(pid, Path::new("")))
        .collect()
}

/// Starts one daemon. OpenVPN goes into the background itself, once it has read its configuration; what it says before
/// is the cause of a failure.
fn start(site: &Site, config: &Path) -> Result<Daemon> {
    let cannot = || format!("start OpenVPN with {}", show(config));
    let program = program(site.plan(), config)?;
    let said = memfd_create(c"openvpn", MFdFlags::MFD_CLOEXEC).cannot(cannot)?;
    // The daemon's parent ends; as its subreaper this process gets the daemon as a child, and so knows its pid.
    process::set_child_subreaper(true).cannot(cannot)?;
    let result = match process::fork().cannot(cannot)? {
        Fork::Child => {
            let Err(error) = run(site, config, &program, &said);
            crate::text::complain_error(&error);
            process::exit_now(1)
        }
        Fork::Parent(pid) => wait(pid).and_then(|()| adopted(site, config)),
    };
    process::set_child_subreaper(false).cannot(cannot)?;
    result.map_err(|error| {
        let reason = last_line(said).unwrap_or_else(|| error.cause().to_string());
        Error::new(cannot(), reason).hint(format!("the system log says more, as {}", daemon_name(site.plan())))
    })
}

fn program(plan: &Plan, config: &Path) -> Result<Program> {
    let openvpn = tool::need(PROGRAM, "openvpn")?;
    let directory = config.parent().unwrap_or(Path::new("/"));
    let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let arguments = vec![
        text(openvpn.as_os_str().as_bytes()),
        c"--daemon".into(),
        text(daemon_name(plan).as_bytes()),
        c"--config".into(),
        text(config.as_os_str().as_bytes()),
        c"--cd".into(),
        text(directory.as_os_str().as_bytes()),
    ];
    Ok(Program::of_root(arguments, vec![text(format!("PATH={}", tool::PATH).as_bytes())]))
}

/// In the child: into the namespace and its view, as entering does it, and becomes OpenVPN.
fn run(site: &Site, config: &Path, program: &Program, said: &OwnedFd) -> Result<std::convert::Infallible> {
    // No terminal: a question for a password fails instead of waiting.
    setsid().cannot(|| "start a session")?;
    site.lock.close_on_exec()?;
    let null = std::fs::File::open("/dev/null").cannot(|| "open /dev/null")?;
    dup2_stdin(null.as_fd()).cannot(|| "redirect input")?;
    dup2_stdout(said.as_fd()).cannot(|| "redirect output")?;
    dup2_stderr(said.as_fd()).cannot(|| "redirect error output")?;
    let name = &site.plan().request.name;
    let privilege = Privilege::take()?;
    let namespace = netns::open(name)?;
    let (entered, _) = netns::enter(&privilege, &namespace, site.record.identity.as_ref())?;
    view::make(&privilege, &entered, name, &site.record.files)?;
    let directory = config.parent().unwrap_or(Path::new("/"));
    nix::unistd::chdir(directory).cannot(|| format!("enter {}", show(directory)))?;
    program.execute(&privilege.give_up(entered)?)
}

fn wait(pid: Pid) -> Result<()> {
    loop {
        match waitpid(pid, None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(WaitStatus::Exited(_, code)) => {
                return Err(Error::new("start OpenVPN", format!("it ended with status {code}")));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Err(Error::new("start OpenVPN", format!("it was ended by {signal}")));
            }
            Ok(_) => {}
            Err(errno) => return Err(errno).cannot(|| "wait for OpenVPN"),
        }
    }
}

/// The daemon that has become our child, beside those that are known already.
fn adopted(site: &Site, config: &Path) -> Result<Daemon> {
    let is_known = |pid: &i32| site.record.daemons.iter().any(|daemon| daemon.pid == *pid);
    for pid in daemon::children().into_iter().filter(|pid| !is_known(pid)) {
        if let Ok(WaitStatus::StillAlive) = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            if let Some(daemon) = daemon::identify(pid, config) {
                return Ok(daemon);
            }
        }
    }
    Err(Error::new("start OpenVPN", "it ended at once"))
}

/// The last line that the daemon wrote before it went into the background: its own reason.
fn last_line(said: OwnedFd) -> Option<String> {
    let mut file = std::fs::File::from(said);
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.take(1 << 16).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let telling = |line: &&str| !line.trim().is_empty() && !line.contains("Use --help for more information");
    text.lines().rfind(telling).map(|line| escape(line.trim().as_bytes()))
}
