//! The word after `build`, `clean` and `status`, which is a namespace's name or a section's.

use runns_shared::config::{Config, Section};
use runns_shared::error::Error;
use runns_shared::escape::escape;
use runns_shared::name::NetnsName;
use runns_shared::record::Record;
use runns_shared::suggest::nearest;

/// The section that is called `word`, compared without case, or else the one whose namespace is.
pub fn section<'a>(word: &str, config: &'a Config) -> Option<&'a Section> {
    let find = |is_it: &dyn Fn(&&Section) -> bool| config.sections.iter().find(is_it);
    find(&|section| section.name.eq_ignore_ascii_case(word))
        .or_else(|| find(&|section| section.netns.as_str() == word))
}

/// The name of a namespace that was built, or of a section or its namespace, that is nearest to
/// `word`.
pub fn near(word: &str, config: &Config) -> Option<String> {
    let built = Record::names().unwrap_or_default();
    let sections = config.sections.iter();
    let described = sections.flat_map(|section| [section.name.as_str(), section.netns.as_str()]);
    let known = built.iter().map(NetnsName::as_str).chain(described);
    nearest(word, known).map(str::to_string)
}

/// The error for a word that is neither.
pub fn unknown(verb: &str, word: &str, near: Option<&str>) -> Error {
    let error = Error::new(
        format!("{verb} '{}'", escape(word.as_bytes())),
        "it is neither a namespace that runns-exec built nor a section of the configuration",
    );
    match near {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error,
    }
}
