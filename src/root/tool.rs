//! External programs that build and clean run as root: looked up in a fixed PATH, and given no environment but PATH.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::output::step;

/// Where tools are looked up.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The same as a C string.
pub const PATH_C: &std::ffi::CStr = c"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The path of `program`, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    which::which_in(program, Some(PATH), "/").ok()
}

/// The path of `program`. If it is not installed, the hint of the error names the Debian package that provides it.
pub fn need(program: &str, package: &str) -> Result<PathBuf> {
    find(program).ok_or_else(|| {
        Error::new(format!("find the program {program}"), format!("it is not in {PATH}"))
            .hint(format!("install it; on Debian and Ubuntu: apt-get install {package}"))
    })
}

/// The addresses of a host name, resolved as the host's own programs resolve it (getent(1)); empty if there are none.
pub fn addresses_of(name: &str) -> Vec<std::net::IpAddr> {
    let found = run("getent", &["ahosts", name], "").unwrap_or_default();
    let mut addresses = Vec::new();
    for address in found.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Runs `program` with `input` on its stdin and returns its output. If it fails, its error output becomes the cause of
/// ours.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let cannot = || format!("run {program}");
    step(|| format!("running {program} {}", arguments.join(" ")));
    let mut child = Command::new(find(program).ok_or_else(|| Error::new(cannot(), "it is not installed"))?)
        .args(arguments.iter().map(OsStr::new))
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .cannot(cannot)?;
    if let Some(mut stdin) = child.stdin.take() {
        // These tools read all input before they write, so the pipes cannot deadlock. One that exits early makes the
        // write fail; its exit status is reported below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().cannot(cannot)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        let cause = if said.is_empty() { format!("it ended with {}", output.status) } else { escape(said.as_bytes()) };
        return Err(Error::new(cannot(), cause));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
