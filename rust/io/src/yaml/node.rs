//! What a YAML document is made of, and its twin in JSON.

use std::fmt;
use std::sync::Arc;

use serde_json::Value as Json;

use super::emit;

/// Where something stands: file, line and column, both from 1. `Display` writes `cfg.yml:3:7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The name of the file, or of whatever else the text came from.
    pub origin: Arc<str>,
    /// Line, from 1; 0 where the value was not read from text.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.origin),
            line => write!(f, "{}:{line}:{}", self.origin, self.column),
        }
    }
}

/// A value and its position. Two nodes are equal if their values are, wherever they stand.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it starts: for a block after `|` its first line, for a copy made by an alias the original.
    pub at: Position,
    /// How a null, boolean or number was written.
    pub(super) source: Option<Box<str>>,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `~`, `null` or nothing.
    Null,
    /// `true`, `yes`, `on` and their opposites.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// A float, `.inf` and `.nan` included.
    Float(f64),
    /// Everything else, and whatever stands in quotes.
    Text(String),
    /// `- a` or `[a]`.
    List(Vec<Node>),
    /// `key: value` or `{key: value}`.
    Map(Map),
}

/// Keys and values in the order of the file. A key occurs once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    pub(super) entries: Vec<Entry>,
}

/// One `key: value` of a map. Two entries are equal if keys and values are, wherever they stand.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key, as written.
    pub key: String,
    /// Where the key starts.
    pub at: Position,
    /// Its value.
    pub value: Node,
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.key == other.key && self.value == other.value
    }
}

impl Map {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The value of `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.value)
    }

    /// Sets `key`, in its place if it is there and at the end if not.
    pub fn insert(&mut self, key: impl Into<String>, value: Node) {
        let entry = Entry { key: key.into(), at: value.at.clone(), value };
        match self.entries.iter_mut().find(|old| old.key == entry.key) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
    }

    /// Takes `key` out; its value, if it was there.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at).value)
    }

    /// Entries in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// Values in order, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.entries.iter_mut().map(|entry| &mut entry.value)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Node {
    /// A node that was not read from text; `origin` stands for its position in messages.
    pub fn new(value: Value, origin: &str) -> Node {
        Node { value, at: Position { origin: origin.into(), line: 0, column: 0 }, source: None }
    }

    /// The text of a scalar: text itself, and a null, boolean or number as it was written (`1e5` stays `1e5`).
    /// `None` for a list or a map.
    pub fn text(&self) -> Option<std::borrow::Cow<'_, str>> {
        match (&self.value, &self.source) {
            (Value::List(_) | Value::Map(_), _) => None,
            (Value::Text(text), _) => Some(text.as_str().into()),
            (_, Some(source)) => Some((&**source).into()),
            (value, None) => Some(emit::scalar(value).into()),
        }
    }

    /// The node as JSON, order kept; `.inf`, `-.inf` and `.nan` become text.
    pub fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Float(x) if x.is_finite() => Json::from(*x),
            Value::Float(_) => Json::String(emit::scalar(&self.value)),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(map) => map.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
        }
    }

    /// JSON as a node; `origin` stands for its position in messages. An integer above `i64::MAX` becomes text.
    pub fn from_json(json: &Json, origin: &str) -> Node {
        from_json(json, &Position { origin: origin.into(), line: 0, column: 0 })
    }
}

fn from_json(json: &Json, at: &Position) -> Node {
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(x)) if number.is_f64() => Value::Float(x),
            _ => Value::Text(number.to_string()),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(|item| from_json(item, at)).collect()),
        Json::Object(map) => {
            let entry = |(key, value): (&String, &Json)| Entry {
                key: key.clone(),
                at: at.clone(),
                value: from_json(value, at),
            };
            Value::Map(Map { entries: map.iter().map(entry).collect() })
        }
    };
    Node { value, at: at.clone(), source: None }
}
