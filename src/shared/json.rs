//! The fields of a JSON object, as records have them. Reading is written out: what serde derives for it takes a twentieth
//! of the size of the program that has capabilities. Writing, which only root's program does, is derived.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

/// Why a text is not what it should be.
pub type Result<T> = std::result::Result<T, String>;

/// An object's fields. One that is absent is like one that is null.
pub struct Fields<'a>(&'a Value);

impl<'a> Fields<'a> {
    /// Those of `value`.
    pub fn of(value: &'a Value) -> Result<Self> {
        if value.is_object() { Ok(Self(value)) } else { Err("it is not an object".to_string()) }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The field `name`, read by `read`, or `None` if it is not there.
    pub fn optional<T>(&self, name: &str, read: impl FnOnce(&'a Value) -> Result<T>) -> Result<Option<T>> {
        self.get(name).map(read).transpose().map_err(|cause| format!("field {name}: {cause}"))
    }

    /// The field `name`, read by `read`; it must be there.
    pub fn required<T>(&self, name: &str, read: impl FnOnce(&'a Value) -> Result<T>) -> Result<T> {
        self.optional(name, read)?.ok_or_else(|| format!("field {name} is missing"))
    }

    /// The elements of the list `name`, each read by `read`; none if it is not there.
    pub fn list<T>(&self, name: &str, read: impl Fn(&'a Value) -> Result<T>) -> Result<Vec<T>> {
        Ok(self.optional(name, |value| list(value, read))?.unwrap_or_default())
    }

    /// The switch `name`; off if it is not there.
    pub fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.optional(name, flag)?.unwrap_or(false))
    }
}

/// The elements of a list, each read by `read`.
pub fn list<'a, T>(value: &'a Value, read: impl Fn(&'a Value) -> Result<T>) -> Result<Vec<T>> {
    value.as_array().ok_or("it is not a list")?.iter().map(read).collect()
}

/// A text.
pub fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_string).ok_or_else(|| "it is not a text".to_string())
}

/// A switch.
pub fn flag(value: &Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| "it is neither true nor false".to_string())
}

/// A whole number that is not negative.
pub fn number(value: &Value) -> Result<u64> {
    value.as_u64().ok_or_else(|| "it is not a whole number".to_string())
}

/// A path.
pub fn path(value: &Value) -> Result<PathBuf> {
    text(value).map(PathBuf::from)
}

/// An address of either family.
pub fn address(value: &Value) -> Result<IpAddr> {
    text(value)?.parse().map_err(|_| "it is not an address".to_string())
}
