//! The word after `build`, `clean` and `status`, which is a namespace's name or a section's.

use runns_shared::config::{Config, Section};
use runns_shared::error::{Error, Result};
use runns_shared::escape::escape;
use runns_shared::name::NetnsName;
use runns_shared::plan::Plan;
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

/// Refuses a `word` that is a namespace's name and the name of a section whose namespace is another
/// one. `commands` are those for the first, which may have a section, and for the second.
pub fn is_one_thing(
    verb: &str,
    word: &str,
    config: &Config,
    commands: impl Fn(Option<&str>) -> [String; 2],
) -> Result<()> {
    let records = Record::readable()?.0;
    let is_word = |section: &str| section.eq_ignore_ascii_case(word);
    let built_from_it = |plan: &&Plan| plan.request.section.as_deref().is_some_and(is_word);
    let mut plans = records.iter().map(|record| &record.plan);
    let built = plans.clone().find(|plan| plan.name.as_str() == word);
    if built.as_ref().is_some_and(built_from_it) {
        return Ok(());
    }
    let of_section = config.sections.iter().find(|one| is_word(&one.name));
    let other = of_section
        .map(|section| &section.netns)
        .or_else(|| plans.find(built_from_it).map(|plan| &plan.name))
        .filter(|name| name.as_str() != word);
    let described = config.sections.iter();
    let described = described.map(|section| (&section.netns, section.name.as_str()));
    let owner = described
        .filter(|(netns, _)| netns.as_str() == word)
        .map(|(_, name)| name)
        .next()
        .or(built.and_then(|plan| plan.request.section.as_deref()));
    let Some(other) = other.filter(|_| built.is_some() || owner.is_some()) else {
        return Ok(());
    };
    let cause = format!("it is a namespace, and also the section of namespace {other}");
    let [namespace, section] = commands(owner);
    Err(
        Error::new(format!("{verb} '{}'", escape(word.as_bytes())), cause).hint(format!(
            "for the namespace: {namespace}; for the section: {section}"
        )),
    )
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
