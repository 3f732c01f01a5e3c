//! A machine of the test's own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::command::{Background, Output, Runner};
use super::internet::{Internet, Net};
use super::syslog::Syslog;

/// A machine of the test's own: see the module above. Its end ends everything in it.
pub struct Host {
    pid: i32,
    child: Child,
    input: Option<ChildStdin>,
    directory: PathBuf,
    /// What is behind the uplink.
    pub internet: Internet,
    /// What was logged.
    pub log: Syslog,
}

/// A new directory, for one use.
pub(super) fn scratch_directory() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("runns-test-{}-{number}", std::process::id()));
    std::fs::create_dir(&path).expect("make a scratch directory");
    path
}

/// The program that is tested, with the one for root beside it: tests/run.sh builds both as the
/// installer does.
pub fn program() -> PathBuf {
    std::env::var_os("RUNNS_EXEC_BINARY")
        .map(PathBuf::from)
        .expect("RUNNS_EXEC_BINARY is not set: run tests/run.sh")
}

/// A completion as tests/run.sh had it generated; else a stand-in.
fn completion(file: &str) -> String {
    std::env::var_os("RUNNS_EXEC_COMPLETIONS").map_or_else(
        || format!("# {file}\n"),
        |directory| {
            std::fs::read_to_string(Path::new(&directory).join(file)).expect("read a completion")
        },
    )
}

impl Host {
    /// A host with users, uplink and log, and the program installed by install/install.sh.
    ///
    /// alice and carol are in group runns, bob is not.
    pub fn new() -> Self {
        let host = Self::without_program();
        host.install();
        host.ok("usermod -aG runns alice && usermod -aG runns carol");
        host
    }

    /// A host with users, uplink and log, and nothing of runns-exec.
    pub fn without_program() -> Self {
        super::require_root();
        let directory = scratch_directory();
        let program = program();
        let mut child = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
                "--propagation",
                "private",
            ])
            .args(["bash", "-c", include_str!("host.sh"), "host.sh"])
            .args([
                &directory,
                Path::new(env!("CARGO_MANIFEST_DIR")),
                program.parent().expect("a directory"),
            ])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("output"))
            .read_line(&mut line)
            .expect("hear from the host");
        let pid = line
            .trim()
            .strip_prefix("ready ")
            .and_then(|pid| pid.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("the host did not start: {line:?}"));
        let input = child.stdin.take();
        let internet = Internet { net: Net::new() };
        let host = Self {
            pid,
            child,
            input,
            directory,
            internet,
            log: Syslog::start(pid),
        };
        host.connect();
        host.ok("for user in alice bob carol; do useradd --create-home --user-group --shell /bin/sh $user; done");
        host
    }

    /// The uplink: eth0, 192.0.2.2/24, to 192.0.2.1.
    fn connect(&self) {
        self.add_uplink("eth0", "192.0.2.2/24", &self.internet.net, "192.0.2.1/24");
        self.ok("ip route add default via 192.0.2.1");
    }

    /// Joins the host to `net`: an interface of the same name on both sides, with these addresses,
    /// both up.
    pub fn add_uplink(&self, interface: &str, address: &str, net: &Net, other: &str) {
        let peer = format!(
            "link add {interface} type veth peer name {interface} netns {}",
            net.path()
        );
        // In the host's network, but by the machine's /proc, in which the other namespace has a
        // path.
        let output = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.pid))
            .arg("ip")
            .args(peer.split_whitespace())
            .output()
            .expect("start nsenter");
        assert!(
            output.status.success(),
            "add {interface}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.ok(&format!(
            "ip address add {address} dev {interface} && ip link set {interface} up"
        ));
        net.ip(&format!("address add {other} dev {interface}"));
        net.ip(&format!("link set {interface} up"));
    }

    /// Installs the program; what the installer said.
    #[track_caller]
    pub fn install(&self) -> String {
        self.install_environment()
            .ok("/runns-source/install/install.sh")
    }

    /// Commands as root, with what the installer needs instead of building.
    pub fn install_environment(&self) -> Runner {
        for file in ["runns-exec.bash", "_runns-exec", "runns-exec.fish"] {
            self.write(&format!("/tmp/completions/{file}"), &completion(file));
        }
        let name = program()
            .file_name()
            .expect("a file name")
            .to_string_lossy()
            .into_owned();
        self.root()
            .env("RUNNS_EXEC_BINARY", &format!("/runns-build/{name}"))
            .env("RUNNS_EXEC_COMPLETIONS", "/tmp/completions")
    }

    /// pid 1 of the host, as this machine knows it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Commands as root.
    pub fn root(&self) -> Runner {
        let target = format!("--target={}", self.pid);
        let place = [&target, "--mount", "--pid", "--uts", "--ipc", "--net"]
            .map(str::to_string)
            .to_vec();
        Runner {
            place,
            user: None,
            environment: Vec::new(),
            directory: "/root".into(),
        }
    }

    /// Commands as a user.
    pub fn user(&self, name: &str) -> Runner {
        self.root().user(name)
    }

    /// Runs a script as root.
    #[track_caller]
    pub fn run(&self, script: &str) -> Output {
        self.root().run(script)
    }

    /// Runs a script as root and fails the test unless it succeeds; its output without the last
    /// line feed.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        self.root().ok(script)
    }

    /// Starts a script as root that goes on by itself.
    pub fn spawn(&self, script: &str) -> Background {
        self.root().spawn(script)
    }

    /// Writes a file of root's, mode 0644.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let script = format!(
            "umask 022; mkdir -p \"$(dirname '{path}')\" && rm -f '{path}' && cat >'{path}'"
        );
        let text = if text.is_empty() { "\n" } else { text };
        self.root().run_with(&script, text.as_bytes()).ok();
    }

    /// Unpacks a Debian package on this host only: installed on the machine that runs the tests, it
    /// would change how names are resolved there, or add a setuid program.
    pub fn unpack(&self, package: &str) {
        let directory = std::env::var_os("RUNNS_TEST_PACKAGES").map(PathBuf::from);
        let directory = directory.expect("RUNNS_TEST_PACKAGES is not set: run tests/run.sh");
        let entries = std::fs::read_dir(&directory).expect("list RUNNS_TEST_PACKAGES");
        let mut files = entries.map(|entry| entry.expect("an entry").path());
        let start = format!("{package}_");
        let file = files.find(|file| {
            file.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&start))
        });
        let file = file.unwrap_or_else(|| {
            panic!(
                "no package {package} in {}: run tests/run.sh",
                directory.display()
            )
        });
        let script = "cat >/tmp/package.deb && dpkg-deb --fsys-tarfile /tmp/package.deb | \
                      tar -C / -x --keep-directory-symlink && ldconfig";
        self.root()
            .run_with(script, &std::fs::read(file).expect("read a package"))
            .ok();
    }

    /// Replaces /etc/runns.conf.
    #[track_caller]
    pub fn configure(&self, text: &str) {
        self.write("/etc/runns.conf", text);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // End of input ends pid 1, and with it everything in the host.
        self.input.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir(&self.directory);
    }
}
