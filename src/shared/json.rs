//! The fields of a JSON object, as records have them. Reading is written out: what serde derives
//! for it takes a twentieth of the size of the program that has capabilities. Writing, which only
//! root's program does, is derived.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

/// Why a text is not what it should be.
pub type Result<T> = std::result::Result<T, String>;

/// An object's fields. One that is absent is like one that is null. What is wrong with those that
/// may be absent is kept until the end, so that no reader has to give up half-way, each at every
/// field.
pub struct Fields<'a> {
    value: &'a Value,
    wrong: RefCell<Option<String>>,
}

impl<'a> Fields<'a> {
    /// What `make` reads from those of `value`.
    pub fn read<T>(value: &'a Value, make: fn(&Self) -> Result<T>) -> Result<T> {
        if !value.is_object() {
            return Err("it is not an object".to_string());
        }
        let fields = Self {
            value,
            wrong: RefCell::new(None),
        };
        let made = make(&fields)?;
        fields.wrong.into_inner().map_or(Ok(made), Err)
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name).filter(|value| !value.is_null())
    }

    fn keep<T>(&self, name: &str, read: Result<T>) -> Option<T> {
        read.map_err(|cause| self.wrong.replace(Some(wrong(name, &cause))))
            .ok()
    }

    /// The field `name`, read by `read`, or `None` if it is not there.
    pub fn optional<T>(&self, name: &str, read: fn(&'a Value) -> Result<T>) -> Option<T> {
        self.keep(name, read(self.get(name)?))
    }

    /// The field `name`, read by `read`; it must be there.
    pub fn required<T>(&self, name: &str, read: fn(&'a Value) -> Result<T>) -> Result<T> {
        let value = self
            .get(name)
            .ok_or_else(|| format!("field {name} is missing"))?;
        read(value).map_err(|cause| wrong(name, &cause))
    }

    /// The elements of the list `name`, each read by `read`; none if it is not there.
    pub fn list<T>(&self, name: &str, read: fn(&'a Value) -> Result<T>) -> Vec<T> {
        self.get(name)
            .and_then(|value| self.keep(name, list(value, read)))
            .unwrap_or_default()
    }

    /// The switch `name`; off if it is not there.
    pub fn flag(&self, name: &str) -> bool {
        self.optional(name, flag).unwrap_or(false)
    }
}

fn wrong(name: &str, cause: &str) -> String {
    format!("field {name}: {cause}")
}

/// The elements of a list, each read by `read`.
pub fn list<'a, T>(value: &'a Value, read: fn(&'a Value) -> Result<T>) -> Result<Vec<T>> {
    value
        .as_array()
        .ok_or("it is not a list")?
        .iter()
        .map(read)
        .collect()
}

/// A text.
pub fn text(value: &Value) -> Result<String> {
    value
        .as_str()
        .map(str::to_string)
        .ok_or_else(|| "it is not a text".to_string())
}

/// What `parse` reads from a text.
pub fn parsed<T>(value: &Value, parse: fn(&str) -> crate::error::Result<T>) -> Result<T> {
    parse(&text(value)?).map_err(|error| error.cause().to_string())
}

/// A switch.
pub fn flag(value: &Value) -> Result<bool> {
    value
        .as_bool()
        .ok_or_else(|| "it is neither true nor false".to_string())
}

/// A whole number that is not negative.
pub fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .ok_or_else(|| "it is not a whole number".to_string())
}

/// A whole number of 32 bits.
pub fn short_number(value: &Value) -> Result<u32> {
    u32::try_from(number(value)?).map_err(|_| "it is too large".to_string())
}

/// A path.
pub fn path(value: &Value) -> Result<PathBuf> {
    text(value).map(PathBuf::from)
}

/// A path from the root.
pub fn absolute_path(value: &Value) -> Result<PathBuf> {
    let path = path(value)?;
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("expected a path that starts with /".to_string())
    }
}

/// An address of either family.
pub fn address(value: &Value) -> Result<IpAddr> {
    text(value)?
        .parse()
        .map_err(|_| "it is not an address".to_string())
}
