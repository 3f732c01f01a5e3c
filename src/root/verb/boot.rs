//! `build --at-boot`: the unit `runns@SECTION.service`, which builds a section's namespace at each
//! boot.

use std::path::Path;

use crate::kernel::tool;
use runns_shared::error::{Error, Result, status};
use runns_shared::escape::{escape, quote, show};
use runns_shared::output;

/// Where `systemctl enable` puts links to units, in a directory for each target that wants them.
const UNITS: &str = "/etc/systemd/system";

/// The name of a section's unit; `None` if it cannot have one. systemd escapes all other bytes
/// (systemd-escape(1)), and the unit passes its instance to build as it stands.
fn unit_of(section: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.".contains(&byte);
    let is_unit = !section.is_empty() && section.bytes().all(is_plain);
    is_unit.then(|| format!("runns@{section}.service"))
}

/// A unit that can be enabled.
#[derive(Debug)]
pub struct Unit(String);

impl Unit {
    /// The unit of a section, which systemd must know.
    pub fn find(section: Option<&str>) -> Result<Self> {
        const ACTION: &str = "build it at each boot";
        let Some(section) = section else {
            let error = Error::new(ACTION, "only the namespace of a section can be");
            let error = error.hint("sudo runns-exec build SECTION --at-boot");
            return Err(error.with_status(status::USAGE));
        };
        // sd_booted(3)
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(Error::new(ACTION, "systemd is not running here")
                .hint("have this host's own init run: runns-exec build -s SECTION"));
        }
        let unit = unit_of(section).ok_or_else(|| {
            let cause = "its name contains more than letters, digits, colons, hyphens, underscores and full stops";
            Error::new(format!("create a unit for section [{}]", escape(section.as_bytes())), cause)
        })?;
        let words = ["show", "--property=LoadState", "--value", "--", &unit];
        let state = tool::run("systemctl", &words, "")?;
        match state.trim() {
            "loaded" => Ok(Self(unit)),
            "masked" => Err(Error::new(format!("enable {unit}"), "the unit is masked")
                .hint(format!("sudo systemctl unmask {unit}"))),
            state => {
                let cause = format!(
                    "systemd cannot load the unit ({})",
                    escape(state.as_bytes())
                );
                Err(Error::new(format!("enable {unit}"), cause).hint(how_to_install()))
            }
        }
    }

    /// Has systemd start it at each boot.
    pub fn enable(&self) -> Result<()> {
        let Self(unit) = self;
        tool::run("systemctl", &["enable", "--", unit], "")?;
        output::print(&format!(
            "{unit} is enabled: it builds the namespace at each boot\n"
        ))
    }

    /// What --dry-run prints.
    pub fn rehearse(&self) -> Result<()> {
        output::print(&format!("would enable {}\n", self.0))
    }
}

/// systemd does not look below every PREFIX (systemd.unit(5)).
fn how_to_install() -> String {
    let template = tool::prefix().map(|prefix| prefix.join("lib/systemd/system/runns@.service"));
    match template.ok().filter(|template| template.exists()) {
        Some(template) => format!("sudo systemctl link {}", quote(&show(&template))),
        None => "install it with install/install.sh, or install the package".to_string(),
    }
}

/// The unit that builds this section again at the next boot, if it is enabled.
pub fn enabled(section: &str) -> Option<String> {
    let unit = unit_of(section)?;
    let mut wanted = std::fs::read_dir(UNITS).ok()?.flatten();
    let has_it = |directory: std::fs::DirEntry| {
        directory.file_name().to_string_lossy().ends_with(".wants")
            && directory.path().join(&unit).symlink_metadata().is_ok()
    };
    wanted.any(has_it).then_some(unit)
}
