//! Tags: `!!str`, `!!int`, `!!float`, `!!bool` and `!!null` decide a type, every other is refused.

use saphyr_parser::{ScalarStyle, Tag};

use super::{Value, quoted, scalar};

/// The value of a scalar by its tag, its quotes or its looks.
pub(super) fn typed(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag {
        None if style == ScalarStyle::Plain => scalar::plain(text),
        None => Ok(Value::Text(text.to_owned())),
        Some(tag) => kind(tag).and_then(|kind| scalar::tagged(kind, text)).unwrap_or_else(|| Err(unknown(tag))),
    }
}

/// `str` of `!!str`, however the tag is spelled.
pub(super) fn kind(tag: &Tag) -> Option<&str> {
    const YAML: &str = "tag:yaml.org,2002:";
    match tag.handle.as_str() {
        YAML => Some(&tag.suffix),
        "" => tag.suffix.strip_prefix(YAML),
        _ => None,
    }
}

/// Refuses the tag of a list or map unless it says just that: `seq` or `map`.
pub(super) fn expect(tag: Option<&Tag>, expected: &str) -> Result<(), String> {
    match tag {
        Some(tag) if kind(tag) != Some(expected) => Err(unknown(tag)),
        _ => Ok(()),
    }
}

fn unknown(tag: &Tag) -> String {
    let shown = kind(tag).map_or_else(|| format!("{}{}", tag.handle, tag.suffix), |kind| format!("!!{kind}"));
    format!("the tag {} is not supported here; known are !!str, !!int, !!float, !!bool and !!null", quoted(&shown))
}
