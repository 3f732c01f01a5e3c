//! A configuration that parses contains only validated values; one that does not is refused with
//! one line.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use runns_shared::config::{Config, DEFAULT_PATH};
use runns_shared::name::{IfaceName, NetnsName};

fuzz_target!(|text: &str| {
    let path = Path::new(DEFAULT_PATH);
    let config = match Config::parse(text, path) {
        Ok(config) => config,
        Err(error) => {
            let said = error.to_string();
            assert!(
                said.starts_with("cannot use /etc/runns.conf: ")
                    && !said.contains(char::is_control),
                "{said:?}"
            );
            return;
        }
    };
    // There is no section and no AllowUnmanaged that the text does not contain.
    let headers = text
        .lines()
        .filter(|line| line.trim_start().starts_with('['))
        .count();
    assert_eq!(config.sections.len(), headers);
    assert!(!config.allow_unmanaged || text.to_ascii_lowercase().contains("allowunmanaged"));
    for (at, section) in config.sections.iter().enumerate() {
        assert!(NetnsName::new(section.netns.as_str()).is_ok());
        for interface in section.interface_in.iter().chain(&section.request.uplink) {
            assert!(IfaceName::new(interface.as_str()).is_ok());
        }
        for file in section.request.vpn.iter().chain(&section.request.resolve) {
            assert!(file.is_absolute());
            assert!(
                !file
                    .to_str()
                    .unwrap()
                    .contains(|c: char| c.is_control() && c != '\t'),
                "{file:?}"
            );
            assert!(
                text.contains(file.to_str().unwrap()),
                "a value is taken literally"
            );
        }
        let access = &section.request.access;
        for list in access.users.iter().chain(&access.groups) {
            assert!(!list.is_empty(), "a list is never empty");
            for name in list {
                assert!(
                    !name.is_empty()
                        && !name.contains([',', ' ', '\t', ':', '/'])
                        && text.contains(name.as_str())
                );
            }
        }
        assert!(
            config.sections[..at]
                .iter()
                .all(|other| !other.name.eq_ignore_ascii_case(&section.name))
        );
        assert_eq!(config.section(&section.name, path).unwrap(), section);
    }
    // Comments, blank lines and blanks around a line change nothing but where a section stands.
    let same: String = text
        .lines()
        .map(|line| format!("  {}\t\n# [comment]\n\n", line))
        .collect();
    let mut moved = config;
    for section in &mut moved.sections {
        section.line = 3 * (section.line - 1) + 1;
    }
    assert_eq!(Config::parse(&same, path).unwrap(), moved);
});
