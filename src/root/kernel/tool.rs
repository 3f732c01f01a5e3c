//! External programs that build and clean run as root: looked up in a fixed PATH, and given no
//! environment but PATH.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::output::step;
use runns_shared::trusted;
use runns_sys::process;

/// Bytes that a tool may print. With a thousand namespaces, lists of rules have some MiB.
const MOST: usize = 64 << 20;
/// The same if it asks a tunnel's daemon. wg(8) prints less than three times the bytes of a file.
const MOST_OF_DAEMON: usize = 4 * trusted::MAX_TEXT as usize;
/// How long a tool that asks a tunnel's daemon may take, and the bytes of memory that it may have.
const PATIENCE: Duration = Duration::from_secs(5);
const MEMORY: u64 = 256 << 20;

/// What a tool may take.
struct Limit {
    /// Until when.
    deadline: Option<Instant>,
    /// Bytes that it prints.
    most: usize,
}

impl Limit {
    const NONE: Self = Self {
        deadline: None,
        most: MOST,
    };
}

/// Where tools are looked up.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The same as a C string.
pub const PATH_C: &std::ffi::CStr = c"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The directory below which both programs are installed: this one is
/// `PREFIX/libexec/runns-exec/runns-exec-root`.
pub fn prefix() -> Result<PathBuf> {
    let own = std::env::current_exe().cannot(|| "find this program's own executable")?;
    Ok(own
        .ancestors()
        .nth(3)
        .unwrap_or(Path::new("/"))
        .to_path_buf())
}

/// The path of `program`, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    which::which_in(program, Some(PATH), "/").ok()
}

/// The path of `program`. If it is not installed, the hint of the error names the Debian package
/// that provides it.
pub fn need(program: &str, package: &str) -> Result<PathBuf> {
    find(program).ok_or_else(|| {
        Error::new(
            format!("find the program {program}"),
            format!("it is not in {PATH}"),
        )
        .hint(format!(
            "install it; on Debian and Ubuntu: apt-get install {package}"
        ))
    })
}

/// How long names are looked up. A resolver that asks two servers gives up on each after 5 seconds
/// (resolv.conf(5)).
const LOOKUP: Duration = Duration::from_secs(10);
/// How many names are looked up at once.
const AT_ONCE: usize = 64;
/// How many addresses of a name are used.
const MOST_ADDRESSES: usize = 64;

/// The addresses of a host name, resolved as the host's own programs resolve it (getent(1)); empty
/// if there are none.
pub fn addresses_of(name: &str) -> Vec<IpAddr> {
    addresses_of_all(&[name.to_string()]).remove(0)
}

/// [`addresses_of`] for many names, which are looked up at once. It ends after `LOOKUP`: without
/// the network, each name would take longer.
pub fn addresses_of_all(names: &[String]) -> Vec<Vec<IpAddr>> {
    let limit = Limit {
        deadline: Some(Instant::now() + LOOKUP),
        ..Limit::NONE
    };
    let mut all = Vec::with_capacity(names.len());
    for names in names.chunks(AT_ONCE) {
        let lookups: Vec<Result<Child>> = names
            .iter()
            // It would go on for half a minute without whom it is for.
            .map(|name| start("getent", &["ahosts", name], true))
            .collect();
        for lookup in lookups {
            let found = lookup.and_then(|child| finish("getent", child, "", &limit));
            all.push(addresses(&found.unwrap_or_default()));
        }
    }
    all
}

/// The addresses that getent(1) prints, each once, up to `MOST_ADDRESSES`.
fn addresses(said: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.split_whitespace().next()?.parse::<IpAddr>().ok();
    let mut all = Vec::new();
    // An IPv4-mapped one leads to the IPv4 address (ip(7), ipv6(7)), and is judged like it.
    for address in said
        .lines()
        .filter_map(address)
        .map(|one| one.to_canonical())
    {
        if all.len() < MOST_ADDRESSES && !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Runs `program` with `input` on its stdin and returns its output. If it fails, its error output
/// becomes the cause of ours.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let child = start(program, arguments, false);
    finish(program, child?, input, &Limit::NONE)
}

/// [`run`] for a tool that talks to a tunnel's daemon. One that was taken over may answer without
/// end, or never.
pub fn ask(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let cannot = || format!("run {program}");
    let (soft, hard) = getrlimit(Resource::RLIMIT_DATA).cannot(cannot)?;
    // The child inherits it. This process has far less.
    setrlimit(Resource::RLIMIT_DATA, soft.min(MEMORY), hard).cannot(cannot)?;
    let child = start(program, arguments, false);
    setrlimit(Resource::RLIMIT_DATA, soft, hard).cannot(cannot)?;
    let limit = Limit {
        deadline: Some(Instant::now() + PATIENCE),
        most: MOST_OF_DAEMON,
    };
    finish(program, child?, input, &limit)
}

/// With `bound`, it ends with the calling thread.
fn start(program: &str, arguments: &[&str], bound: bool) -> Result<Child> {
    let cannot = || format!("run {program}");
    step(|| format!("running {program} {}", arguments.join(" ")));
    let path = find(program).ok_or_else(|| Error::new(cannot(), "it is not installed"))?;
    let mut command = Command::new(path);
    process::prepare(&mut command, bound);
    command
        .args(arguments.iter().map(OsStr::new))
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .cannot(cannot)
}

fn finish(program: &str, mut child: Child, input: &str, limit: &Limit) -> Result<String> {
    let cannot = || format!("run {program}");
    if let Some(mut stdin) = child.stdin.take() {
        // These tools read all input before they write, so the pipes cannot deadlock. One that
        // exits early makes the write fail; its exit status is reported below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let said = output(&mut child, limit);
    if said.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().cannot(cannot)?;
    let [said, complaint] = said.cannot(cannot)?;
    if !status.success() {
        let complaint = complaint.trim_ascii();
        let cause = if complaint.is_empty() {
            format!("it ended with {status}")
        } else {
            escape(complaint)
        };
        return Err(Error::new(cannot(), cause));
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// What a tool prints on stdout and stderr until it closes both.
fn output(child: &mut Child, limit: &Limit) -> std::io::Result<[Vec<u8>; 2]> {
    let pipes = [
        child.stdout.take().map(OwnedFd::from),
        child.stderr.take().map(OwnedFd::from),
    ];
    let mut open: Vec<(usize, File)> = pipes
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, pipe)| (index, File::from(pipe)))
        .collect();
    let mut said = [Vec::new(), Vec::new()];
    let mut buffer = vec![0; 1 << 16];
    while !open.is_empty() {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let left = limit.deadline.map(left);
        if left.is_some_and(|left| left.is_zero()) {
            return Err(std::io::Error::other("it did not end in time"));
        }
        let left = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut fds: Vec<PollFd> = open
            .iter()
            .map(|(_, pipe)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, left) {
            Err(nix::errno::Errno::EINTR) => continue,
            polled => polled?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        for at in (0..ready.len()).rev().filter(|at| ready[*at]) {
            let (index, pipe) = &mut open[at];
            let length = pipe.read(&mut buffer)?;
            let said = &mut said[*index];
            said.extend_from_slice(&buffer[..length]);
            if said.len() > limit.most {
                return Err(std::io::Error::other("it printed too much"));
            }
            if length == 0 {
                open.remove(at);
            }
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_name() {
        let said = "192.0.2.1       STREAM vpn.test\n192.0.2.1       DGRAM  \n\
                    ::ffff:127.0.0.1 STREAM \n2001:db8::1 STREAM \nnonsense\n";
        let shown: Vec<String> = addresses(said).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.1", "127.0.0.1", "2001:db8::1"]);
        let many = |number: u32| format!("{} STREAM\n", std::net::Ipv4Addr::from(number));
        let said: String = (0..100_000).map(many).collect();
        assert_eq!(addresses(&said).len(), MOST_ADDRESSES);
    }
}
