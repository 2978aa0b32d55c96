//! Nodes to Rust types: a schema reads like a table, and every message names the value's place and path.
//!
//! A decoder is a function from [`Field`] to a type; [`Fields`] applies decoders to the keys of a map, one by one,
//! and at the end refuses the keys that nobody asked for.
//!
//! ```
//! use polmrs_core::Result;
//! use polmrs_io::yaml::{self, Field};
//!
//! struct Model { name: String, weight: f64 }
//!
//! fn model(field: &Field<'_>) -> Result<Model> {
//!     let mut fields = field.fields()?;
//!     let model = Model {
//!         name: fields.required("model", Field::as_text)?.into_owned(),
//!         weight: fields.optional("weight", Field::as_f64)?.unwrap_or(1.0),
//!     };
//!     fields.finish()?;
//!     Ok(model)
//! }
//!
//! let node = yaml::parse_one("- model: a\n  wieght: 0.3\n", "cfg.yml")?;
//! let error = node.root().each(model).err().unwrap();
//! assert_eq!(error.to_string(), "cfg.yml:2:3: [0].wieght: unknown key; did you mean 'weight'?");
//! # Ok::<(), polmrs_core::Error>(())
//! ```

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

use polmrs_core::{Error, Result};

use super::{Fields, Node, Position, Value, quoted, scalar};

/// A node and the path that led to it, such as `models[1].parameters.density`.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    node: &'a Node,
    path: String,
    notes: Rc<RefCell<Vec<String>>>,
    pub(super) lenient: bool,
}

impl Node {
    /// The node as the root of a schema.
    pub fn root(&self) -> Field<'_> {
        Field { node: self, path: String::new(), notes: Rc::default(), lenient: false }
    }
}

impl<'a> Field<'a> {
    /// The same field, where unknown keys below it are noted instead of refused.
    #[must_use]
    pub fn lenient(self) -> Field<'a> {
        Field { lenient: true, ..self }
    }

    /// The value, for decoders that look at its type.
    pub fn value(&self) -> &'a Value {
        &self.node.value
    }

    /// Where the value stands.
    pub fn at(&self) -> &'a Position {
        &self.node.at
    }

    /// The path from the root: `models[1].parameters.density`, empty at the root.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// An error about this value: `cfg.yml:3:7: density: ` and the message.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::Config(self.located(self.at(), &message))
    }

    /// Notes something about this value for the user, without refusing it.
    pub fn note(&self, message: impl std::fmt::Display) {
        self.push_note(self.located(self.at(), &message));
    }

    pub(super) fn push_note(&self, note: String) {
        self.notes.borrow_mut().push(note);
    }

    /// Takes the notes that decoding left at this field's root.
    pub fn take_notes(&self) -> Vec<String> {
        self.notes.take()
    }

    /// Text: as it stands, and a number or a boolean as it was written.
    ///
    /// # Errors
    /// [`Error::Config`] for a null, a list or a map.
    pub fn as_text(&self) -> Result<Cow<'a, str>> {
        match self.node.text() {
            Some(text) if !matches!(self.value(), Value::Null) => Ok(text),
            _ => Err(self.is_not("text")),
        }
    }

    /// A number: an integer, a float, or text in quotes that spells one in decimal. Infinities pass, NaN does not.
    ///
    /// # Errors
    /// [`Error::Config`] for anything else.
    pub fn as_f64(&self) -> Result<f64> {
        match self.value() {
            Value::Int(i) => Ok(*i as f64),
            Value::Float(x) if !x.is_nan() => Ok(*x),
            Value::Text(text) => scalar::spelled(text).ok_or_else(|| self.is_not_number("a number", text)),
            _ => Err(self.is_not("a number")),
        }
    }

    /// An integer: one of 64 bits, a float without a fraction, or text in quotes that spells one in decimal.
    ///
    /// # Errors
    /// [`Error::Config`] for anything else.
    pub fn as_i64(&self) -> Result<i64> {
        match self.value() {
            Value::Int(i) => Ok(*i),
            Value::Float(x) => whole(*x).ok_or_else(|| self.is_not("an integer of 64 bits")),
            Value::Text(text) => scalar::spelled_integer(text).ok_or_else(|| self.is_not_number("an integer", text)),
            _ => Err(self.is_not("an integer")),
        }
    }

    /// A count: an integer that is not negative.
    ///
    /// # Errors
    /// [`Error::Config`] for anything else.
    pub fn as_count(&self) -> Result<usize> {
        let count = self.as_i64()?;
        usize::try_from(count).map_err(|_| self.error(format_args!("{count} is not a count of 0 or more")))
    }

    /// A boolean: one of YAML's, 0 or 1, or a word that pydantic takes for one (`"true"`, `y`).
    ///
    /// # Errors
    /// [`Error::Config`] for anything else.
    pub fn as_bool(&self) -> Result<bool> {
        let bool = match self.value() {
            Value::Bool(b) => Some(*b),
            Value::Int(0) => Some(false),
            Value::Int(1) => Some(true),
            Value::Float(x) => [false, true].into_iter().find(|&b| f64::from(u8::from(b)) == *x),
            Value::Text(word) => match word.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
                "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        bool.ok_or_else(|| self.is_not("true or false"))
    }

    /// The items of a list.
    ///
    /// # Errors
    /// [`Error::Config`] for anything else.
    pub fn as_list(&self) -> Result<Vec<Field<'a>>> {
        let Value::List(items) = self.value() else { return Err(self.is_not("a list")) };
        Ok(items.iter().enumerate().map(|(i, item)| self.below(item, format!("{}[{i}]", self.path))).collect())
    }

    /// Keys and values of a map.
    ///
    /// # Errors
    /// [`Error::Config`] for anything else.
    pub fn as_map(&self) -> Result<Vec<(&'a str, Field<'a>)>> {
        let Value::Map(map) = self.value() else { return Err(self.is_not("a map")) };
        Ok(map.iter().map(|entry| (entry.key.as_str(), self.below(&entry.value, self.path_to(&entry.key)))).collect())
    }

    /// Every item of a list, decoded.
    ///
    /// # Errors
    /// The first error of `decode`, or [`Error::Config`] if this is no list.
    pub fn each<T>(&self, decode: impl FnMut(&Field<'a>) -> Result<T>) -> Result<Vec<T>> {
        self.as_list()?.iter().map(decode).collect()
    }

    /// Every value of a map, decoded, with its key.
    ///
    /// # Errors
    /// The first error of `decode`, or [`Error::Config`] if this is no map.
    pub fn each_entry<T>(&self, mut decode: impl FnMut(&Field<'a>) -> Result<T>) -> Result<Vec<(String, T)>> {
        self.as_map()?.iter().map(|(key, field)| Ok(((*key).to_owned(), decode(field)?))).collect()
    }

    /// The keys of a map whose schema is known.
    ///
    /// # Errors
    /// [`Error::Config`] if this is no map.
    pub fn fields(&self) -> Result<Fields<'a>> {
        let Value::Map(map) = self.value() else { return Err(self.is_not("a map")) };
        Ok(Fields::new(self.clone(), map))
    }

    pub(super) fn below(&self, node: &'a Node, path: String) -> Field<'a> {
        Field { node, path, notes: Rc::clone(&self.notes), lenient: self.lenient }
    }

    /// `path.key`, or `path['a key']` where a dot would mislead.
    pub(super) fn path_to(&self, key: &str) -> String {
        let path = &self.path;
        let simple =
            (1..=60).contains(&key.len()) && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        match (simple, path.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{path}.{key}"),
            (false, _) => format!("{path}[{}]", quoted(key)),
        }
    }

    pub(super) fn located(&self, at: &Position, message: &dyn std::fmt::Display) -> String {
        if self.path.is_empty() { format!("{at}: {message}") } else { format!("{at}: {}: {message}", self.path) }
    }

    fn is_not(&self, wanted: &str) -> Error {
        let found = match self.value() {
            Value::Null => "an empty value".into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
            _ => quoted(&self.node.text().unwrap_or_default()),
        };
        self.error(format_args!("{found} is not {wanted}"))
    }

    fn is_not_number(&self, wanted: &str, text: &str) -> Error {
        self.error(format_args!("{} is not {wanted}{}", quoted(text), scalar::why_not_a_number(text)))
    }
}

/// A float without a fraction that fits an `i64`.
fn whole(x: f64) -> Option<i64> {
    let fits = x.fract() == 0.0 && (-(2f64.powi(63))..2f64.powi(63)).contains(&x);
    fits.then_some(x as i64)
}
