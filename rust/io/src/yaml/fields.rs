//! A map with a known schema: keys are taken one by one, and what nobody took is refused.

use polmrs_core::error::{did_you_mean, nearest};
use polmrs_core::{Error, Result};

use super::{Field, Map, Value, quoted};

/// The keys of a map, taken one by one.
#[derive(Debug)]
#[must_use = "unknown keys are refused by `finish`"]
pub struct Fields<'a> {
    field: Field<'a>,
    map: &'a Map,
    asked: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(field: Field<'a>, map: &'a Map) -> Fields<'a> {
        Fields { field, map, asked: Vec::new() }
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// [`Error::Config`] if it is missing or null, and whatever `decode` finds.
    pub fn required<T>(&mut self, key: &'a str, decode: impl FnOnce(&Field<'a>) -> Result<T>) -> Result<T> {
        if let Some(value) = self.optional(key, decode)? {
            return Ok(value);
        }
        if let Some(node) = self.map.get(key) {
            return Err(self.field.below(node, self.field.path_to(key)).error("a value is missing"));
        }
        let strangers = self.map.iter().map(|entry| entry.key.as_str()).filter(|key| !self.asked.contains(key));
        let hint = nearest(key, strangers).map_or_else(String::new, |near| format!("; is {} meant?", quoted(near)));
        Err(self.field.error(format_args!("'{key}' is missing{hint}")))
    }

    /// The value of a key that may be absent or null.
    ///
    /// # Errors
    /// Whatever `decode` finds.
    pub fn optional<T>(&mut self, key: &'a str, decode: impl FnOnce(&Field<'a>) -> Result<T>) -> Result<Option<T>> {
        self.asked.push(key);
        match self.map.get(key) {
            None => Ok(None),
            Some(node) if matches!(node.value, Value::Null) => Ok(None),
            Some(node) => decode(&self.field.below(node, self.field.path_to(key))).map(Some),
        }
    }

    /// A key that is accepted and has no effect: noted if it is there, with the reason.
    pub fn ignored(&mut self, key: &'a str, reason: &str) {
        self.asked.push(key);
        if let Some(node) = self.map.get(key) {
            self.field.below(node, self.field.path_to(key)).note(reason);
        }
    }

    /// Refuses the keys that were not asked for; under [`Field::lenient`] notes them.
    ///
    /// # Errors
    /// [`Error::Config`] for the first unknown key, with the nearest known one.
    pub fn finish(self) -> Result<()> {
        for entry in self.map {
            if self.asked.contains(&entry.key.as_str()) {
                continue;
            }
            let field = self.field.below(&entry.value, self.field.path_to(&entry.key));
            let hint = did_you_mean(&entry.key, self.asked.iter().copied());
            let message = field.located(&entry.at, &format_args!("unknown key{hint}"));
            if !self.field.lenient {
                return Err(Error::Config(message));
            }
            self.field.push_note(message);
        }
        Ok(())
    }
}
