//! Commands on a host, run as root or as a user, with a time limit.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;

use super::PATIENCE;

/// The result of a command: its exit status (128 + signal, as shells report it) and output.
#[derive(Debug, Clone)]
pub struct Output {
    /// The script, for failure messages.
    pub script: String,
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Fails the test unless the command succeeded; returns its output without the last line feed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self}");
        self.stdout.trim_end_matches('\n').to_string()
    }

    /// Fails the test unless the command failed with `status` and wrote nothing to stdout, and to
    /// stderr one message of runns-exec, of one line that contains all `parts`, followed by at most
    /// one hint.
    #[track_caller]
    pub fn refused(self, status: i32, parts: &[&str]) -> Self {
        assert_eq!(self.status, status, "{self}");
        assert_eq!(self.stdout, "", "{self}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert!(
            lines
                .first()
                .is_some_and(|line| line.starts_with("runns-exec: ")),
            "{self}"
        );
        assert!(
            lines.len() == 1 || lines.len() == 2 && lines[1].starts_with("hint: "),
            "{self}"
        );
        for part in parts {
            assert!(self.stderr.contains(part), "stderr lacks {part:?}\n{self}");
        }
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self {
            script,
            status,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "command: {script}\nstatus: {status}\nstdout: {stdout}\nstderr: {stderr}"
        )
    }
}

/// Runs commands in a certain place, as a certain user.
#[derive(Clone)]
pub struct Runner {
    /// Arguments of nsenter(1).
    pub(super) place: Vec<String>,
    /// Name of the user; root if `None`.
    pub(super) user: Option<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) directory: PathBuf,
}

impl Runner {
    /// The same runner as another user.
    pub fn user(&self, name: &str) -> Self {
        Self {
            user: Some(name.to_string()),
            directory: format!("/home/{name}").into(),
            ..self.clone()
        }
    }

    /// The same runner in another network namespace.
    pub fn inside(&self, net: &super::Net) -> Self {
        let mut place: Vec<String> = self
            .place
            .iter()
            .filter(|word| !word.starts_with("--net"))
            .cloned()
            .collect();
        place.push(format!("--net={}", net.path()));
        Self {
            place,
            ..self.clone()
        }
    }

    /// The same runner with one more variable in the environment.
    pub fn env(&self, name: &str, value: &str) -> Self {
        let mut runner = self.clone();
        runner
            .environment
            .push((name.to_string(), value.to_string()));
        runner
    }

    /// The same runner in another working directory.
    pub fn at(&self, directory: &str) -> Self {
        Self {
            directory: directory.into(),
            ..self.clone()
        }
    }

    /// `words` as a [`Command`] of std, for tests that need more than [`Runner::run`]. Its
    /// environment is small and always the same. (The pid that std reports is that of nsenter,
    /// which waits for the command.)
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(&self.place)
            .arg(format!("--wdns={}", self.directory.display()))
            .arg("--");
        let user = self.user.as_deref().unwrap_or("root");
        if self.user.is_some() {
            command.args([
                "setpriv",
                "--reuid",
                user,
                "--regid",
                user,
                "--init-groups",
                "--inh-caps=-all",
                "--",
            ]);
        }
        let home = if self.user.is_some() {
            format!("/home/{user}")
        } else {
            "/root".to_string()
        };
        command.args(words).env_clear().env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command
            .env("HOME", home)
            .env("USER", user)
            .env("LOGNAME", user)
            .env("SHELL", "/bin/sh")
            .env("LC_ALL", "C.UTF-8");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a script of sh(1) without input, and waits for its end.
    #[track_caller]
    pub fn run(&self, script: &str) -> Output {
        self.run_with(script, b"")
    }

    /// Runs a script and fails the test unless it succeeds; returns its output without the last
    /// line feed.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        self.run(script).ok()
    }

    /// Runs a script with `input` on its stdin.
    #[track_caller]
    pub fn run_with(&self, script: &str, input: &[u8]) -> Output {
        self.start(script, input).wait()
    }

    /// Starts a script in the background.
    #[track_caller]
    pub fn spawn(&self, script: &str) -> Background {
        self.start(script, b"")
    }

    fn start(&self, script: &str, input: &[u8]) -> Background {
        let (stdin, stdout, stderr) = (memory_file(), memory_file(), memory_file());
        let mut given = &stdin;
        given
            .write_all(input)
            .and_then(|()| given.rewind())
            .expect("write a command's input");
        let share = |file: &File| Stdio::from(file.try_clone().expect("duplicate a descriptor"));
        let child = self
            .command(&["sh", "-c", script])
            .stdin(if input.is_empty() {
                Stdio::null()
            } else {
                share(&stdin)
            })
            .stdout(share(&stdout))
            .stderr(share(&stderr))
            .spawn()
            .expect("start nsenter");
        Background {
            script: script.to_string(),
            pid: child.id(),
            ended: watch(child),
            stdout,
            stderr,
        }
    }
}

fn memory_file() -> File {
    File::from(memfd_create("output", MFdFlags::MFD_CLOEXEC).expect("memfd_create"))
}

fn watch(mut child: Child) -> mpsc::Receiver<ExitStatus> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(child.wait().expect("wait for a command"));
    });
    receiver
}

/// A command in the background. It ends with its host at the latest.
pub struct Background {
    script: String,
    pid: u32,
    ended: mpsc::Receiver<ExitStatus>,
    stdout: File,
    stderr: File,
}

impl Background {
    /// Its standard output so far.
    pub fn stdout(&self) -> String {
        content(&self.stdout)
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> String {
        content(&self.stderr)
    }

    /// Waits for its end; fails the test if it does not end in time.
    #[track_caller]
    pub fn wait(self) -> Output {
        match self.ended.recv_timeout(PATIENCE) {
            Ok(status) => self.output(status),
            Err(_) => {
                let _ = kill(Pid::from_raw(self.pid as i32), Signal::SIGKILL);
                panic!(
                    "no end after {PATIENCE:?}: {}\nstdout: {}\nstderr: {}",
                    self.script,
                    self.stdout(),
                    self.stderr()
                )
            }
        }
    }

    /// Whether it is still running.
    pub fn is_running(&self) -> bool {
        matches!(self.ended.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    fn output(self, status: ExitStatus) -> Output {
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        Output {
            status: code,
            stdout: self.stdout(),
            stderr: self.stderr(),
            script: self.script,
        }
    }
}

fn content(file: &File) -> String {
    // Through an open file description of its own: the command shares the offset of this one.
    use std::os::fd::AsRawFd;
    let mut bytes = Vec::new();
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .expect("read a command's output");
    String::from_utf8_lossy(&bytes).into_owned()
}
