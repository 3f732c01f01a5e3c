//! Warnings about programs that pass their work on to an instance already running outside the
//! namespace, and about launchers that leave the command's view of the file system. Nothing is
//! prevented.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::getuid;

use super::Program;
use runns_privileged::netns;
use runns_shared::escape::{escape, show};
use runns_shared::proc::{Proc, Process, parse_command_line};

/// A program of which only one instance runs for each user or profile.
struct SingleInstance {
    /// Names of its commands.
    commands: &'static [&'static str],
    /// File names of its executables.
    processes: &'static [&'static str],
    /// Options that start a separate instance.
    own_instance: &'static [&'static str],
    /// What the warning recommends.
    advice: &'static str,
}

const CHROMIUM_ADVICE: &str = "--user-data-dir=DIR with a separate directory";
const SINGLE_INSTANCES: [SingleInstance; 13] = [
    SingleInstance {
        commands: &["chromium", "chromium-browser"],
        processes: &["chromium", "chromium-browser"],
        own_instance: &["--user-data-dir"],
        advice: CHROMIUM_ADVICE,
    },
    SingleInstance {
        commands: &[
            "google-chrome",
            "google-chrome-stable",
            "google-chrome-beta",
            "chrome",
        ],
        processes: &["chrome"],
        own_instance: &["--user-data-dir"],
        advice: CHROMIUM_ADVICE,
    },
    SingleInstance {
        commands: &["brave", "brave-browser", "brave-browser-stable"],
        processes: &["brave"],
        own_instance: &["--user-data-dir"],
        advice: CHROMIUM_ADVICE,
    },
    SingleInstance {
        commands: &[
            "microsoft-edge",
            "microsoft-edge-stable",
            "vivaldi",
            "vivaldi-stable",
            "opera",
        ],
        processes: &["msedge", "vivaldi-bin", "opera"],
        own_instance: &["--user-data-dir"],
        advice: CHROMIUM_ADVICE,
    },
    SingleInstance {
        commands: &["firefox", "firefox-esr", "librewolf", "thunderbird"],
        processes: &[
            "firefox",
            "firefox-bin",
            "firefox-esr",
            "librewolf",
            "thunderbird",
            "thunderbird-bin",
        ],
        // An instance answers only for its own profile; --no-remote has no effect any more.
        own_instance: &["--profile", "-profile", "-P", "--P"],
        advice: "--profile DIR with a separate directory",
    },
    SingleInstance {
        commands: &["gnome-terminal"],
        processes: &["gnome-terminal-server"],
        own_instance: &["--app-id"],
        advice: "another terminal program, or runns-exec inside the terminal",
    },
    SingleInstance {
        commands: &["xfce4-terminal"],
        processes: &["xfce4-terminal"],
        own_instance: &["--disable-server"],
        advice: "--disable-server",
    },
    SingleInstance {
        commands: &["mate-terminal"],
        processes: &["mate-terminal"],
        own_instance: &["--disable-factory"],
        advice: "--disable-factory",
    },
    SingleInstance {
        commands: &["konsole"],
        processes: &["konsole"],
        own_instance: &["--separate"],
        advice: "--separate",
    },
    // Every window and session is a child of the server.
    SingleInstance {
        commands: &["tmux"],
        processes: &["tmux"],
        own_instance: &["-L", "-S"],
        advice: "-L NAME for a separate server",
    },
    // A connection is shared with the master of an earlier one (ControlMaster in ssh_config(5)).
    SingleInstance {
        commands: &["ssh", "scp", "sftp"],
        processes: &[SSH],
        // The first is that of `-S none`.
        own_instance: &["none", "-Snone", "ControlPath=none", "-oControlPath=none"],
        advice: "-o ControlPath=none",
    },
    SingleInstance {
        commands: &["qbittorrent"],
        processes: &["qbittorrent"],
        own_instance: &["--profile", "--configuration"],
        advice: "--profile=DIR",
    },
    SingleInstance {
        commands: &["transmission-gtk"],
        processes: &["transmission-gtk"],
        own_instance: &["-g", "--config-dir"],
        advice: "--config-dir=DIR",
    },
];

const SSH: &str = "ssh";
/// How the title of an ssh ends that stays as master when its own session has ended (ControlPersist).
const MASTER: &[u8] = b" [mux]";

/// PATH_MAX (linux/limits.h).
const LONGEST_PATH: usize = 4096;
/// Directories whose programs are started by a launcher with its own view of the file system.
const LAUNCHER_DIRECTORIES: [(&str, &str); 4] = [
    ("/snap/bin", "snap"),
    ("/var/lib/snapd/snap/bin", "snap"),
    ("/var/lib/flatpak/exports/bin", "flatpak"),
    ("/.local/share/flatpak/exports/bin", "flatpak"),
];

/// What the user should know before `program` starts.
pub fn warnings(program: &Program) -> Vec<String> {
    let path = Path::new(OsStr::from_bytes(program.name().to_bytes()));
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_str()
        .unwrap_or_default();
    let mut warnings = Vec::new();
    if let Some(launcher) = launcher(program, path, name) {
        warnings.push(format!(
            "{launcher} starts {name} in a separate view of the file system, without the namespace's resolv.conf and \
             nsswitch.conf"
        ));
    }
    if let Some(kind) = SINGLE_INSTANCES
        .iter()
        .find(|kind| kind.commands.contains(&name))
    {
        let own = program.arguments().any(|argument| {
            kind.own_instance.iter().any(|option| {
                argument
                    .strip_prefix(option.as_bytes())
                    .is_some_and(|rest| rest.is_empty() || rest[0] == b'=')
            })
        });
        if let Some((pid, place)) = (!own).then(|| running_elsewhere(kind)).flatten() {
            warnings.push(format!(
                "{name} is already running as process {pid} {place}, and may open it there: use {}",
                kind.advice
            ));
        }
    }
    warnings
}

/// The launcher that would start the program, if it is one that leaves the view.
fn launcher(program: &Program, path: &Path, name: &str) -> Option<&'static str> {
    let of_directory = |directory: &[u8]| {
        let found = LAUNCHER_DIRECTORIES
            .iter()
            .find(|(known, _)| directory.ends_with(known.as_bytes()));
        found.map(|(_, launcher)| *launcher)
    };
    match name {
        "snap" => return Some("snap"),
        "flatpak" => return Some("flatpak"),
        _ => {}
    }
    if path.components().count() > 1 {
        return of_directory(path.parent()?.as_os_str().as_bytes());
    }
    let search = program.variable("PATH")?;
    // Looks at files only if there is a launcher's directory in PATH at all.
    search.split(|byte| *byte == b':').find_map(&of_directory)?;
    let first = search
        .split(|byte| *byte == b':')
        .find(|directory| Path::new(OsStr::from_bytes(directory)).join(name).exists())?;
    of_directory(first)
}

/// A process of the same user and kind in another network namespace, and where.
fn running_elsewhere(kind: &SingleInstance) -> Option<(i32, String)> {
    let own = fs::metadata("/proc/self/net/dev").ok()?.ino();
    let proc = Proc::open().ok()?;
    proc.pids().ok()?.into_iter().find_map(|pid| {
        let directory = Path::new("/proc").join(pid.to_string());
        let process = proc.process(pid)?;
        // Nothing else of another user's process is looked at.
        if process.real_uid() != Some(getuid().as_raw()) {
            return None;
        }
        let name = process_name(&directory, &process)?;
        if !kind.processes.contains(&name.as_str()) || (name == SSH && !is_master(&process)) {
            return None;
        }
        let there = fs::metadata(directory.join("net/dev")).ok()?.ino();
        (there != own).then(|| (pid, place(&directory)))
    })
}

/// The file name of a process's executable; of its first argument where that may not be read.
fn process_name(directory: &Path, process: &Process) -> Option<String> {
    let path = fs::read_link(directory.join("exe")).ok().or_else(|| {
        let text = process.command_line(LONGEST_PATH)?;
        Some(Path::new(OsStr::from_bytes(parse_command_line(&text).first()?)).to_path_buf())
    })?;
    Some(
        path.file_name()?
            .to_str()?
            .trim_end_matches(" (deleted)")
            .to_string(),
    )
}

/// Whether an ssh stays as master. One without this title may be any session.
fn is_master(process: &Process) -> bool {
    let text = process.command_line(LONGEST_PATH).unwrap_or_default();
    let title = text.split(|byte| *byte == 0).next();
    title.is_some_and(|title| title.ends_with(MASTER))
}

/// The network that a process is in, for people.
fn place(process: &Path) -> String {
    let inode = |path: &Path| fs::metadata(path).map(|data| data.ino()).ok();
    if inode(&process.join("net/dev")) == inode(Path::new("/proc/1/net/dev")) {
        return "in the host's network".to_string();
    }
    let namespace = inode(&process.join("ns/net"));
    let entries = fs::read_dir(netns::DIRECTORY)
        .into_iter()
        .flatten()
        .flatten();
    let named = entries
        .filter(|_| namespace.is_some())
        .find(|entry| inode(&entry.path()) == namespace);
    match named {
        Some(entry) => format!("in namespace {}", show(entry.file_name())),
        None => format!(
            "in another network namespace ({})",
            escape(process.as_os_str().as_bytes())
        ),
    }
}
