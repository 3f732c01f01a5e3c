//! Other people's programs that build and clean run as root: found in a fixed PATH, with an empty environment.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use runns_shared::error::{Context, Error, Result};
use runns_shared::escape::escape;
use runns_shared::output::step;

/// Where root's tools are.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The same for the C library.
pub const PATH_C: &std::ffi::CStr = c"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where `program` is, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    which::which_in(program, Some(PATH), "/").ok()
}

/// Where `program` is; the hint names the Debian package that has it.
pub fn need(program: &str, package: &str) -> Result<PathBuf> {
    find(program).ok_or_else(|| {
        Error::new(format!("find the program {program}"), format!("it is in none of {PATH}"))
            .hint(format!("install it; on Debian and Ubuntu: apt-get install {package}"))
    })
}

/// The addresses of a host's name, as the host's other programs find them (getent(1)); none if it is not found.
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

/// Runs `program` with `input` on its stdin, and returns its output. Its error is our cause.
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
        // The tools here read all their input before they write, or end early with an error, which is told below.
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
