//! Programs that root runs inside, as PostBuild and PreClean name them. They belong to root like
//! everything else that a configuration names, run with all of root's rights, and see the
//! namespace's network and files as those do who enter.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, pipe2};

use super::{Part, Site};
use crate::facts::veth::INSIDE;
use crate::finding::Finding;
use crate::kernel::daemon::{self, Detached};
use crate::kernel::file::of_option;
use crate::kernel::tool;
use crate::seen::Subject;
use crate::tunnel::daemons;
use runns_privileged::view::{self, Wanted};
use runns_privileged::{Privilege, netns};
use runns_shared::error::{Context, Error, Result, words};
use runns_shared::escape::show;
use runns_shared::hosts;
use runns_shared::log;
use runns_shared::output;
use runns_shared::plan::Plan;
use runns_shared::record::{Record, State};
use runns_shared::trusted::{self, Trust};
use runns_sys::process::{self, Disposition, Fork};

/// From SIGTERM to SIGKILL.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look whether it has ended, or whether somebody wants it to.
const ROUND: Duration = Duration::from_millis(20);

/// How long it may take, in seconds, unless HookTimeout says so.
const TIMEOUT: u32 = 30;

/// When root runs a program inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// When all is built.
    Built,
    /// Before anything is removed.
    Cleaned,
}

/// A program that root runs inside.
struct Hook {
    /// The option that names it.
    option: &'static str,
    /// Its absolute path.
    path: PathBuf,
    /// How long it may take.
    timeout: Duration,
}

impl Hook {
    /// That of a plan, if it names one for this moment.
    fn of(plan: &Plan, moment: Moment) -> Option<Self> {
        let request = &plan.request;
        let (option, path) = match moment {
            Moment::Built => ("PostBuild", &request.post_build),
            Moment::Cleaned => ("PreClean", &request.pre_clean),
        };
        Some(Self {
            option,
            path: path.clone()?,
            timeout: Duration::from_secs(request.hook_timeout.unwrap_or(TIMEOUT).into()),
        })
    }
}

/// What PostBuild sets up.
pub struct PostBuild;

impl Part for PostBuild {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.post_build.is_some() || plan.request.pre_clean.is_some()
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        let hook = Hook::of(plan, Moment::Built)?;
        Some(format!("PostBuild: {}", show(&hook.path)))
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        check(plan)
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        run(site, Moment::Built)
    }

    /// What a program has set up is undone with the namespace, and by PreClean. Of one that failed,
    /// processes may be left.
    fn undo(&self, site: &mut Site) -> Result<bool> {
        if site.record.state == State::Building {
            empty(site)?;
        }
        Ok(false)
    }

    /// What a program has set up is not known.
    fn look(&self, _subject: &Subject) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}

/// Ends all processes inside, but for the namespace's own daemons.
fn empty(site: &Site) -> Result<()> {
    let Some(identity) = site.record.identity else {
        return Ok(());
    };
    let is_spared = daemons::is_spared(&site.record);
    daemon::empty_namespace(identity.inode, PATIENCE, is_spared).map(drop)
}

/// Checks, before anything is made, that the programs can be run.
fn check(plan: &Plan) -> Result<()> {
    for moment in [Moment::Built, Moment::Cleaned] {
        if let Some(hook) = Hook::of(plan, moment) {
            locate(&hook)?;
        }
    }
    Ok(())
}

fn locate(hook: &Hook) -> Result<()> {
    let wrong = |why: &str| Error::new(format!("use {} {}", hook.option, show(&hook.path)), why);
    let (_, stat) = trusted::locate(&hook.path, Trust::Strict)
        .map_err(|error| of_option(hook.option, &hook.path, 755, &error))?;
    if trusted::kind(&stat) != SFlag::S_IFREG {
        return Err(wrong("it is not a regular file"));
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(
            wrong("it is not executable").hint(format!("sudo chmod 755 {}", show(&hook.path)))
        );
    }
    Ok(())
}

/// Runs what belongs to this moment, if anything does.
pub fn run(site: &Site, moment: Moment) -> Result<()> {
    let Some(hook) = Hook::of(site.plan(), moment) else {
        return Ok(());
    };
    locate(&hook)?;
    let shown = format!("{} {}", hook.option, show(&hook.path));
    output::step(|| format!("running {shown} inside"));
    log::notice(|| format!("{}: running {shown}", site.plan().name));
    let cannot = || format!("run {shown}");
    // It is closed when the program starts. Until then, it takes the reason why that cannot be.
    let mut failure = File::from(memfd_create(c"runns", MFdFlags::MFD_CLOEXEC).cannot(cannot)?);
    let (mut output, ends) = Said::new().cannot(cannot)?;
    match process::fork().cannot(cannot)? {
        Fork::Child => {
            let Err(error) = site
                .lock
                .close_on_exec()
                .and_then(|()| become_hook(&site.record, &hook.path, &ends));
            let _ = failure.write_all(error.cause().as_bytes());
            process::exit_now(1)
        }
        Fork::Parent(pid) => {
            drop(ends);
            let waited = wait(pid, hook.timeout, &mut output);
            // What it said at its end; others may still hold the pipes.
            output.pass_on(Duration::ZERO);
            let mut cause = String::new();
            let _ = failure
                .rewind()
                .and_then(|()| failure.read_to_string(&mut cause));
            let waited = waited.map_err(|failure| if cause.is_empty() { failure } else { cause });
            waited.map_err(|cause| Error::new(cannot(), cause))
        }
    }
}

/// As many bytes as a pipe holds (pipe(7)).
const PIPE: usize = 1 << 16;

/// What a program says, on its output and its error output. It gets pipes: a process that it leaves
/// running holds nothing of build's caller, neither a terminal nor the pipe of a command
/// substitution.
struct Said(Vec<Stream>);

struct Stream {
    from: File,
    /// The same descriptor of ours.
    to: File,
}

impl Said {
    /// New pipes; their other ends are for the program.
    fn new() -> Result<(Self, [OwnedFd; 2]), Errno> {
        let ((output, its_output), (errors, its_errors)) =
            (pipe2(OFlag::O_CLOEXEC)?, pipe2(OFlag::O_CLOEXEC)?);
        let mut streams = Vec::new();
        for (from, to) in [
            (output, process::STANDARD[1]),
            (errors, process::STANDARD[2]),
        ] {
            let to = to
                .try_clone_to_owned()
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
            streams.push(Stream {
                from: from.into(),
                to: to.into(),
            });
        }
        Ok((Self(streams), [its_output, its_errors]))
    }

    /// Passes on what comes within `longest`, as far as somebody takes it.
    fn pass_on(&mut self, longest: Duration) {
        let mut fds: Vec<PollFd> = self
            .0
            .iter()
            .map(|stream| PollFd::new(stream.from.as_fd(), PollFlags::POLLIN))
            .collect();
        let _ = poll(
            &mut fds,
            PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX),
        );
        let mut ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        // Until the end of each.
        self.0
            .retain_mut(|stream| !ready.remove(0) || stream.pass_on());
    }
}

impl Stream {
    /// Passes on what is there; `false` at the end.
    fn pass_on(&mut self) -> bool {
        let mut bytes = vec![0; PIPE];
        match self.from.read(&mut bytes) {
            Ok(0) => false,
            Ok(length) => {
                let _ = self.to.write_all(&bytes[..length]);
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::Interrupted,
        }
    }
}

/// Waits for the program; how it failed, in words, if it did. Ended early, it is ended with its
/// process group.
fn wait(pid: Pid, timeout: Duration, output: &mut Said) -> std::result::Result<(), String> {
    let mut reason = None;
    let mut deadline = Instant::now() + timeout;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, 0)) if reason.is_none() => return Ok(()),
            Ok(WaitStatus::Exited(_, status)) => {
                return Err(reason.unwrap_or(format!("exit status {status}")));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Err(reason.unwrap_or(format!("ended by {signal}")));
            }
            Ok(_) => {}
            Err(errno) => return Err(words(errno)),
        }
        let is_late = Instant::now() >= deadline;
        let group = Pid::from_raw(-pid.as_raw());
        match (&reason, is_late) {
            (None, _) if process::was_interrupted() || is_late => {
                let late = || format!("it took longer than {} s (HookTimeout)", timeout.as_secs());
                reason = Some(if is_late {
                    late()
                } else {
                    "interrupted by a signal".to_string()
                });
                let _ = process::signal(group, Signal::SIGTERM as i32);
                deadline = Instant::now() + PATIENCE;
            }
            (Some(_), true) => {
                let _ = process::signal(group, Signal::SIGKILL as i32);
            }
            _ => {}
        }
        output.pass_on(ROUND);
    }
}

/// In the child: enters the namespace and becomes the program.
fn become_hook(
    record: &Record,
    path: &Path,
    [output, errors]: &[OwnedFd; 2],
) -> Result<Infallible> {
    // Without a terminal: it has nobody to ask.
    Detached::begin()?.redirect(None, Some(output.as_fd()), Some(errors.as_fd()))?;
    process::set_disposition(Signal::SIGPIPE, Disposition::Default).cannot(|| "restore SIGPIPE")?;
    umask(Mode::from_bits_truncate(0o022));
    chdir("/").cannot(|| "enter /")?;
    let name = &record.plan.name;
    let privilege = Privilege::take()?;
    let built = record
        .identity
        .as_ref()
        .ok_or_else(|| Error::new("enter the namespace", "it was not built"))?;
    let entered = netns::enter(&privilege, &netns::open(name)?, |arrival| {
        arrival.must_be(built)
    })?;
    view::make(
        &privilege,
        &entered,
        name,
        &Wanted {
            files: &record.files,
            hosts: hosts::lines(&record.plan),
        },
    )?;
    entered.bring_up_loopback(&privilege)?;
    let path_c = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let environment = environment(&record.plan);
    let environment: Vec<&CStr> = environment.iter().map(CString::as_c_str).collect();
    let cause = match process::execute(&path_c, &[&path_c], &environment) {
        Errno::ENOEXEC => "it is neither a binary nor a script with a #! line".to_string(),
        Errno::ENOENT => {
            "its interpreter (the #! line, or the dynamic loader) does not exist".to_string()
        }
        errno => words(errno),
    };
    Err(Error::new("execute it", cause))
}

/// All that it gets. Without a veth pair, the three that describe it are empty.
fn environment(plan: &Plan) -> Vec<CString> {
    let request = &plan.request;
    let of_veth = |text: String| {
        if request.has_veth() {
            text
        } else {
            String::new()
        }
    };
    let variables = [
        ("PATH", tool::PATH.to_string()),
        ("RUNNS_NETNS", plan.name.to_string()),
        ("RUNNS_INTERFACE", of_veth(INSIDE.to_string())),
        ("RUNNS_ADDRESS", of_veth(plan.subnet().inside().to_string())),
        (
            "RUNNS_HOST_ADDRESS",
            of_veth(plan.subnet().host().to_string()),
        ),
    ];
    variables
        .into_iter()
        .map(|(name, value)| CString::new(format!("{name}={value}")).unwrap_or_default())
        .collect()
}
