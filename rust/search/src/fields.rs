//! What is known about rows besides their vectors: named values, column after column, as filters read them.

use polmrs_core::{Error, Result};
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, HashMap};

/// A value of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Value {
    /// The row has no such field.
    #[default]
    Missing,
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A number in the column's list of texts.
    Text(u32),
}

/// The values of one name; rows past the end have none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    values: Vec<Value>,
    texts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Column {
    /// The value of a row.
    #[inline]
    pub(crate) fn value(&self, row: usize) -> Value {
        self.values.get(row).copied().unwrap_or_default()
    }

    /// The text behind its number.
    pub(crate) fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }

    /// A value as this column would hold it; a text that no row has is missing.
    pub(crate) fn known(&self, json: &Json) -> Option<Value> {
        match json {
            Json::String(text) => Some(self.numbers.get(text.as_str()).map_or(Value::Missing, |at| Value::Text(*at))),
            other => plain(other),
        }
    }

    fn put(&mut self, row: usize, json: &Json) {
        let value = match json {
            Json::String(text) => match self.numbers.get(text.as_str()) {
                Some(number) => Value::Text(*number),
                None => {
                    let number = self.texts.len() as u32; // no more than rows, which are counted in 32 bits
                    self.texts.push(text.as_str().into());
                    self.numbers.insert(text.as_str().into(), number);
                    Value::Text(number)
                }
            },
            other => plain(other).unwrap_or_default(),
        };
        self.values.resize(row, Value::Missing);
        self.values.push(value);
    }

    fn json(&self, row: usize) -> Option<Json> {
        Some(match self.value(row) {
            Value::Missing => return None,
            Value::Null => Json::Null,
            Value::Bool(value) => value.into(),
            Value::Int(value) => value.into(),
            Value::Float(value) => value.into(),
            Value::Text(number) => self.text(number).into(),
        })
    }
}

/// The fields of all rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    columns: BTreeMap<Box<str>, Column>,
}

impl Fields {
    /// Refuses what cannot be a field.
    pub(crate) fn check(metadata: &[Map<String, Json>]) -> Result<()> {
        for (row, (name, value)) in
            metadata.iter().enumerate().flat_map(|(row, map)| map.iter().map(move |pair| (row, pair)))
        {
            if name.starts_with('$') {
                return Err(Error::Usage(format!("metadata[{row}]: '{name}': names do not begin with '$'")));
            }
            if !value.is_string() && plain(value).is_none() {
                let rule = "is not a string, a number of 64 bits, a boolean or null";
                return Err(Error::Usage(format!("metadata[{row}].{name}: {value} {rule}")));
            }
        }
        Ok(())
    }

    /// The fields of rows `first..`, which passed [`check`](Fields::check).
    pub(crate) fn push(&mut self, metadata: &[Map<String, Json>], first: usize) {
        for (at, map) in metadata.iter().enumerate() {
            for (name, value) in map {
                match self.columns.get_mut(name.as_str()) {
                    Some(column) => column.put(first + at, value),
                    None => self.columns.entry(name.as_str().into()).or_default().put(first + at, value),
                }
            }
        }
    }

    /// The column of a name.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(name)
    }

    /// The fields of a row.
    pub(crate) fn row(&self, row: usize) -> Map<String, Json> {
        let values = self.columns.iter().map(|(name, column)| (name, column.json(row)));
        values.filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
    }

    /// The fields of these rows, as a JSON list; empty if no row has any.
    pub(crate) fn json(&self, rows: impl Iterator<Item = usize>) -> String {
        let rows = rows.take_while(|_| !self.columns.is_empty());
        Json::from_iter(rows.map(|row| self.row(row))).to_string()
    }

    /// The fields of these rows alone.
    pub(crate) fn select(&self, rows: &[usize]) -> Fields {
        let mut fields = Fields::default();
        for (to, from) in rows.iter().enumerate() {
            fields.push(&[self.row(*from)], to);
        }
        fields
    }
}

/// What is no text.
fn plain(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value),
            None => Value::Float(number.as_f64().filter(|value| value.is_finite() && !number.is_u64())?),
        },
        _ => return None,
    })
}
