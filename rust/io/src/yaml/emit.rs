//! Nodes back to text: block style, text in quotes where it would read as something else, here or in PyYAML.
//!
//! What is emitted reads back equal. Lists of numbers stay on one line, as mergekit writes gradients.

use serde_json::Value as Json;

use super::{Map, Node, Value, scalar as types, syntax};

/// A node as YAML, with a line break at the end.
pub fn emit(node: &Node) -> String {
    let mut out = String::new();
    block(&mut out, &node.value, 0, Place::Root);
    out
}

/// JSON as YAML, with a line break at the end. An integer above `i64::MAX` becomes text.
pub fn emit_json(json: &Json) -> String {
    emit(&Node::from_json(json, ""))
}

/// What stands on the line before a value.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    AfterKey,
    AfterDash,
}

/// Writes a value and ends its line; `indent` is the indentation of what belongs to it.
fn block(out: &mut String, value: &Value, indent: usize, place: Place) {
    let space = if place == Place::AfterKey { " " } else { "" };
    match value {
        Value::Map(map) if !map.is_empty() => entries(out, map, indent, place),
        Value::List(items) if !items.is_empty() && !items.iter().all(is_number) => {
            for (i, item) in items.iter().enumerate() {
                start_line(out, indent, place, i);
                out.push_str("- ");
                block(out, &item.value, indent + 2, Place::AfterDash);
            }
        }
        Value::Text(text) if is_literal(text) => {
            out.push_str(space);
            literal(out, text, indent.max(2));
        }
        _ => {
            out.push_str(space);
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

fn entries(out: &mut String, map: &Map, indent: usize, place: Place) {
    /// A key without `? ` must be shorter than 1024 characters.
    const LONG: usize = 1000;
    for (i, entry) in map.iter().enumerate() {
        start_line(out, indent, place, i);
        let key = if is_plain(&entry.key) { entry.key.clone() } else { in_quotes(&entry.key) };
        if key.chars().count() > LONG {
            out.push_str(&format!("? {key}\n{:indent$}:", ""));
        } else {
            out.push_str(&key);
            out.push(':');
        }
        block(out, &entry.value.value, indent + 2, Place::AfterKey);
    }
}

/// Brings the cursor to the indentation of the `i`th item: a map or list after a dash begins on the dash's line.
fn start_line(out: &mut String, indent: usize, place: Place, i: usize) {
    match (place, i) {
        (Place::AfterKey, 0) => out.push_str(&format!("\n{:indent$}", "")),
        (_, 0) => {}
        _ => out.push_str(&format!("{:indent$}", "")),
    }
}

/// A value on one line.
pub(super) fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(x) => float(*x),
        Value::Text(text) if is_plain(text) => text.clone(),
        Value::Text(text) => in_quotes(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| scalar(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(_) => "{}".to_owned(), // others never come here
    }
}

/// The shortest digits that read back, with the point and the signed exponent that PyYAML wants.
fn float(x: f64) -> String {
    if x.is_nan() {
        return ".nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let digits = format!("{x:?}");
    match digits.split_once('e') {
        None => digits,
        Some((mantissa, exponent)) => {
            let point = if mantissa.contains('.') { "" } else { ".0" };
            let plus = if exponent.starts_with('-') { "" } else { "+" };
            format!("{mantissa}{point}e{plus}{exponent}")
        }
    }
}

fn is_number(node: &Node) -> bool {
    matches!(node.value, Value::Int(_) | Value::Float(_))
}

/// Whether text may stand without quotes in a block. Cautious: quotes never hurt.
fn is_plain(text: &str) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '/' | '('))
        || text.starts_with("./")
        || text.starts_with("../");
    let reads_well = text.chars().all(|c| c.is_alphanumeric() || " _-./+@=()<>,'!?%*&$~^;|\\".contains(c));
    // Other readers of YAML 1.1 take these for booleans, and PyYAML dates and the like for what they are.
    let other = matches!(text, "y" | "Y" | "n" | "N") || is_numeric(text);
    starts_well && reads_well && !text.ends_with(' ') && !other && matches!(types::plain(text), Ok(Value::Text(_)))
}

/// Whether text has nothing but what numbers and dates are made of.
fn is_numeric(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_hexdigit() || " _-.+:xoTtZz".contains(c))
}

/// Single quotes if that is all it takes, else double quotes with escapes.
fn in_quotes(text: &str) -> String {
    if text.chars().all(|c| syntax::is_readable(c) && !"\t\n\r".contains(c)) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if syntax::is_readable(c) => quoted.push(c),
            c if u32::from(c) > 0xFFFF => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether text of several lines reads back from a literal block: no odd characters, no blank edges.
fn is_literal(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n')
        && !body.starts_with([' ', '\t', '\n'])
        && !body.ends_with('\n')
        && body.chars().all(|c| syntax::is_readable(c) && c != '\r')
        && body.split('\n').all(|line| line.is_empty() || !line.chars().all(|c| c == ' ' || c == '\t'))
}

fn literal(out: &mut String, text: &str, indent: usize) {
    out.push_str(if text.ends_with('\n') { "|\n" } else { "|-\n" });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            out.push_str(&format!("{:indent$}{line}", ""));
        }
        out.push('\n');
    }
}
