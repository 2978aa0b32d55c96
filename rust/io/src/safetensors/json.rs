//! Values of a stranger's JSON, read one at a time and never kept when refused.
//!
//! Everything goes through `deserialize_any` to a visitor of ours: serde_json's typed calls copy a refused string into
//! the error message, six bytes for one at worst, and a tree of `Value`s costs more than that.

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, Expected, MapAccess, Visitor};
use std::fmt;

/// A name as it appears in a message: quoted, escaped, of bounded length.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 100;
    let shown: String = text.chars().take(SHOWN).collect();
    let rest = if shown.len() < text.len() { "…" } else { "" };
    format!("'{}{rest}'", shown.escape_debug())
}

/// Reads the next value, whatever it is, with this visitor.
pub(super) struct Value<V>(pub(super) V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Value<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_any(self.0)
    }
}

/// Reads a whole text of one value.
pub(super) fn parse<'de, V: Visitor<'de>>(text: &'de str, visitor: V) -> Result<V::Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Value(visitor).deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The error for a string where something else belongs.
pub(super) fn not_text<E: Error>(text: &str, expected: &dyn Expected) -> E {
    E::custom(format_args!("the text {} where {expected} belongs", quote(text)))
}

/// In a visitor that wants no string: refuses one without copying it.
macro_rules! refuse_text {
    () => {
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Err(crate::safetensors::json::not_text(text, &self))
        }
    };
}
pub(super) use refuse_text;

/// A string, kept.
pub(super) struct Text;

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// A whole number of 64 bits.
pub(super) struct Whole;

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a whole number from 0 to 2^64 - 1")
    }

    fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    refuse_text!();
}

/// The value of the key just read, with `context` before any error in it.
pub(super) fn value_of<'de, A: MapAccess<'de>, V: Visitor<'de>>(
    map: &mut A,
    visitor: V,
    context: impl FnOnce() -> String,
) -> Result<V::Value, A::Error> {
    map.next_value_seed(Value(visitor)).map_err(|error| A::Error::custom(format_args!("{}: {error}", context())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_or_odd_name_is_shown_short_and_escaped() {
        assert_eq!(quote("a.weight"), "'a.weight'");
        assert_eq!(quote("a\u{1b}[2J\n'"), r"'a\u{1b}[2J\n\''");
        assert!(quote(&"x".repeat(1 << 20)).len() < 120);
    }

    #[test]
    fn a_refused_text_is_not_copied_into_the_message() {
        let text = format!("\"{}\"", "\u{7f}".repeat(1 << 20));
        assert!(parse(&text, Whole).unwrap_err().to_string().len() < 1000);
    }

    #[test]
    fn numbers_are_whole_and_fit() {
        assert_eq!(parse("18446744073709551615", Whole).unwrap(), u64::MAX);
        for text in ["18446744073709551616", "-1", "-0", "1.0", "1e3", "true", "null", "[1]", "{}", "1 2", ""] {
            assert!(parse(text, Whole).is_err(), "{text}");
        }
    }
}
