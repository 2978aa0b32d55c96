//! Which type a scalar has: YAML 1.1 as PyYAML's `resolver.py` and `constructor.py` read it, and mergekit's floats.
//!
//! The patterns, `D` a decimal digit and `_` allowed after the first one:
//!
//! | type | pattern |
//! |---|---|
//! | null | `~`, `null`, `Null`, `NULL`, nothing |
//! | bool | `yes no on off true false`, each in lower case, upper case or capitalised |
//! | int | `[-+]?` and `0`, `[1-9]D*`, `0b[01]+`, `0[0-7]+` (octal), `0x[0-9a-fA-F]+` |
//! | float | `[-+]?(D+\.?D* or \.D+)([eE][-+]?[0-9]+)?` with a point or an exponent; `[-+]?\.inf`; `\.nan` |
//!
//! The float pattern is wider than PyYAML's, which wants a point and a signed exponent and leaves `1e-5` text.

use super::{Value, quoted};

/// The value of a scalar without quotes or tag; the error says why it is refused.
pub(super) fn plain(text: &str) -> Result<Value, String> {
    check_start(text)?;
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => Value::Bool(true),
        "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
        _ => match (integer(text)?, float(text)) {
            (Some(i), _) => Value::Int(i),
            (None, Some(x)) => Value::Float(x),
            (None, None) => Value::Text(text.to_owned()),
        },
    })
}

/// Refuses what begins a key in PyYAML, inside brackets, and text here.
pub(super) fn check_start(text: &str) -> Result<(), String> {
    if text.starts_with('?') { Err("text that starts with '?' must be quoted".to_owned()) } else { Ok(()) }
}

/// The value of a scalar with the tag `!!kind`; `None` if there is no such kind.
pub(super) fn tagged(kind: &str, text: &str) -> Option<Result<Value, String>> {
    if !matches!(kind, "str" | "null" | "bool" | "int" | "float") {
        return None;
    }
    if kind == "str" {
        return Some(Ok(Value::Text(text.to_owned())));
    }
    Some(plain(text).and_then(|value| match (kind, value) {
        ("null", value @ Value::Null) | ("bool", value @ Value::Bool(_)) => Ok(value),
        ("int", value @ Value::Int(_)) | ("float", value @ Value::Float(_)) => Ok(value),
        ("float", Value::Int(i)) => Ok(Value::Float(i as f64)),
        _ => Err(format!("{} is not of type !!{kind}", quoted(text))),
    }))
}

/// The number that text in quotes spells, where a number is wanted: decimal only, as pydantic takes it.
pub(super) fn spelled(text: &str) -> Option<f64> {
    let digits = unsigned(text).1;
    let decimal = is_digits(digits) && (digits == "0" || !digits.starts_with('0'));
    if decimal { text.replace('_', "").parse().ok() } else { float(text).filter(|x| x.is_finite()) }
}

/// The integer that text in quotes spells.
pub(super) fn spelled_integer(text: &str) -> Option<i64> {
    let digits = unsigned(text).1;
    (is_digits(digits) && (digits == "0" || !digits.starts_with('0'))).then(|| integer(text).ok().flatten()).flatten()
}

/// Why text that looks like a number is not taken for one, to follow `'...' is not a number`.
pub(super) fn why_not_a_number(text: &str) -> &'static str {
    let digits = unsigned(text).1;
    if is_base_60(digits) {
        "; YAML 1.1 reads it in base 60, so write the number out"
    } else if is_digits(digits) && digits.starts_with('0') {
        "; a leading zero means octal in YAML 1.1, so write it without"
    } else if float_digits(digits) {
        "; it is too large for a 64-bit float"
    } else {
        ""
    }
}

/// An integer in any of its notations. The error: it does not fit.
fn integer(text: &str) -> Result<Option<i64>, String> {
    let (sign, body) = unsigned(text);
    let (digits, radix) = if let Some(digits) = body.strip_prefix("0b") {
        (digits, 2)
    } else if let Some(digits) = body.strip_prefix("0x") {
        (digits, 16)
    } else if body.len() > 1 && body.starts_with('0') {
        (body, 8)
    } else {
        (body, 10)
    };
    let starts_well = radix != 10 || !digits.starts_with('_');
    let digits: String = digits.chars().filter(|&c| c != '_').collect();
    if !starts_well || digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    match i64::from_str_radix(&format!("{sign}{digits}"), radix) {
        Ok(i) => Ok(Some(i)),
        Err(_) => Err(format!("{} does not fit in 64 bits; quote it if it is text", quoted(text))),
    }
}

/// A float, infinities included. One that overflows is not a float.
fn float(text: &str) -> Option<f64> {
    let (sign, body) = unsigned(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") {
        return Some(if sign == "-" { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if !float_digits(body) {
        return None;
    }
    text.replace('_', "").parse().ok().filter(|x: &f64| x.is_finite())
}

/// `D+\.?D*` or `\.D+`, then an exponent; one of point and exponent must be there.
fn float_digits(body: &str) -> bool {
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (body, None),
    };
    let exponent_reads = exponent.is_none_or(|e| {
        let digits = unsigned(e).1;
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    });
    let mantissa_reads = match mantissa.split_once('.') {
        Some(("", fraction)) => is_digits(fraction),
        Some((whole, fraction)) => is_digits(whole) && fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_'),
        None => exponent.is_some() && is_digits(mantissa),
    };
    exponent_reads && mantissa_reads
}

/// `1:30`, `1:30:00.5`.
fn is_base_60(body: &str) -> bool {
    let mut parts = body.split(':');
    let first = parts.next().is_some_and(is_digits);
    let rest: Vec<&str> = parts.map(|part| part.split_once('.').map_or(part, |(whole, _)| whole)).collect();
    first && !rest.is_empty() && rest.iter().all(|part| matches!(part.len(), 1 | 2) && is_digits(part))
}

/// `[0-9][0-9_]*`.
fn is_digits(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

/// The sign, if any, and what follows.
fn unsigned(text: &str) -> (&str, &str) {
    text.split_at(usize::from(text.starts_with(['-', '+'])))
}
