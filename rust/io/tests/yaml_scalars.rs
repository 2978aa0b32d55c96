//! Which type a scalar has. The facts are PyYAML 6.0.3 `safe_load("k: " + text)` and pydantic 2.14.4, run once.

#![allow(clippy::unwrap_used, reason = "a test may")]

use polmrs_io::yaml::{Field, Node, Value, parse_one};

/// Read as PyYAML reads them.
const AS_PYYAML: [(&str, &str); 88] = [
    ("yes", "bool True"),
    ("Yes", "bool True"),
    ("YES", "bool True"),
    ("on", "bool True"),
    ("On", "bool True"),
    ("ON", "bool True"),
    ("true", "bool True"),
    ("True", "bool True"),
    ("TRUE", "bool True"),
    ("no", "bool False"),
    ("NO", "bool False"),
    ("off", "bool False"),
    ("Off", "bool False"),
    ("false", "bool False"),
    ("False", "bool False"),
    ("yEs", "str"),
    ("tRue", "str"),
    ("y", "str"),
    ("N", "str"),
    ("t", "str"),
    ("", "None"),
    ("~", "None"),
    ("null", "None"),
    ("Null", "None"),
    ("NULL", "None"),
    ("nULL", "str"),
    ("None", "str"),
    ("0", "int 0"),
    ("-0", "int 0"),
    ("00", "int 0"),
    ("0_", "int 0"),
    ("1", "int 1"),
    ("-1", "int -1"),
    ("+1", "int 1"),
    ("1_000", "int 1000"),
    ("1__0", "int 10"),
    ("1_", "int 1"),
    ("_1", "str"),
    ("017", "int 15"),
    ("-017", "int -15"),
    ("0_7", "int 7"),
    ("08", "str"),
    ("0o17", "str"),
    ("0x1F", "int 31"),
    ("-0x1f", "int -31"),
    ("0x_f", "int 15"),
    ("0X1F", "str"),
    ("0x", "str"),
    ("0x-1", "str"),
    ("0b101", "int 5"),
    ("0b12", "str"),
    ("9223372036854775807", "int 9223372036854775807"),
    ("-9223372036854775808", "int -9223372036854775808"),
    ("1:75", "str"),
    ("01:30", "str"),
    ("1.", "float 1.0"),
    (".5", "float 0.5"),
    ("-1.5", "float -1.5"),
    ("1_0.5", "float 10.5"),
    ("1._5", "float 1.5"),
    ("08.5", "float 8.5"),
    ("1.0e+5", "float 100000.0"),
    ("1.e-1", "float 0.1"),
    (".5E-3", "float 0.0005"),
    ("1e", "str"),
    ("1e5x", "str"),
    ("e5", "str"),
    (".", "str"),
    (".e1", "str"),
    ("._5", "str"),
    ("0.1.2", "str"),
    ("1,000", "str"),
    ("1 000", "str"),
    ("--1", "str"),
    ("+-1", "str"),
    ("-", "error"),
    ("+", "str"),
    ("7B", "str"),
    ("1-2", "str"),
    (".inf", "float inf"),
    ("-.INF", "float -inf"),
    ("+.Inf", "float inf"),
    (".iNf", "str"),
    (".nan", "float nan"),
    (".NaN", "float nan"),
    ("-.nan", "str"),
    ("inf", "str"),
    ("nan", "str"),
];

/// Read otherwise: the text, PyYAML's reading, ours, and why.
const DEPARTURES: [(&str, &str, &str, &str); 22] = [
    ("1e5", "str", "float 100000.0", "pydantic makes it a number wherever one is wanted"),
    ("1e-5", "str", "float 1e-5", "likewise"),
    ("1E5", "str", "float 100000.0", "likewise"),
    ("1.0e5", "str", "float 100000.0", "likewise"),
    ("1.e5", "str", "float 100000.0", "likewise"),
    ("-1e-5", "str", "float -1e-5", "likewise"),
    ("1_0e5", "str", "float 1000000.0", "likewise"),
    ("1e-400", "str", "float 0.0", "likewise"),
    ("-.5", "str", "float -0.5", "likewise"),
    ("+.5", "str", "float 0.5", "likewise"),
    (".5e3", "str", "float 500.0", "likewise"),
    ("1:30", "int 90", "str", "base 60 is never meant; refused as a number"),
    ("-1:30:30", "int -5430", "str", "likewise"),
    ("1:30.5", "float 90.5", "str", "likewise"),
    ("1.0e+400", "float inf", "str", "too large; refused as a number"),
    ("2001-01-01", "date", "str", "no recipe wants a date"),
    ("2001-01-01 10:00:00", "datetime", "str", "likewise"),
    ("=", "error", "str", "PyYAML fails on its own type `value`"),
    ("0b_", "error", "str", "PyYAML fails on no digits"),
    ("0x_", "error", "str", "likewise"),
    ("9223372036854775808", "int 9223372036854775808", "error", "does not fit"),
    ("?x", "str", "error", "a key inside brackets, in PyYAML"),
];

fn shown(result: polmrs_core::Result<Node>) -> String {
    let Ok(node) = result else { return "error".into() };
    let Value::Map(map) = &node.value else { return "no map".into() };
    match map.get("k").map(|node| &node.value) {
        Some(Value::Null) => "None".into(),
        Some(Value::Bool(true)) => "bool True".into(),
        Some(Value::Bool(false)) => "bool False".into(),
        Some(Value::Int(i)) => format!("int {i}"),
        Some(Value::Float(x)) => format!("float {x:?}").to_lowercase(),
        Some(Value::Text(_)) => "str".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn scalars_have_the_type_that_pyyaml_gives_them() {
    for (text, expected) in AS_PYYAML {
        assert_eq!(shown(parse_one(&format!("k: {text}\n"), "f")), expected, "{text:?}");
    }
}

#[test]
fn scalars_that_depart_from_pyyaml_are_the_documented_ones() {
    for (text, pyyaml, ours, why) in DEPARTURES {
        assert_ne!(pyyaml, ours);
        assert_eq!(shown(parse_one(&format!("k: {text}\n"), "f")), ours, "{text:?}: {why}");
    }
}

#[test]
fn quotes_make_text_of_everything() {
    for (text, _) in AS_PYYAML {
        let node = parse_one(&format!("'{text}'"), "f").unwrap();
        assert_eq!(node.value, Value::Text(text.into()));
    }
}

#[test]
fn a_scalar_keeps_the_way_it_was_written() {
    let node = parse_one("[1e5, on, 017, ~, 0.50, 1:30, !!int 0x10]", "f").unwrap();
    let Value::List(items) = &node.value else { panic!("a list") };
    let texts: Vec<_> = items.iter().map(|item| item.text().unwrap()).collect();
    assert_eq!(texts, ["1e5", "on", "017", "~", "0.50", "1:30", "0x10"]);
    assert_eq!(node.text(), None);
}

#[test]
fn tags_decide_the_type() {
    for (text, expected) in [
        ("!!str 12", "str"),
        ("!!str", "str"),
        ("!!str null", "str"),
        ("!!int '12'", "int 12"),
        ("!!int 017", "int 15"),
        ("!!float 1", "float 1.0"),
        ("!!float '1e5'", "float 100000.0"),
        ("!!bool 'yes'", "bool True"),
        ("!!null ''", "None"),
        ("!<tag:yaml.org,2002:int> 3", "int 3"),
        ("!!int 1e3", "error"),
        ("!!float abc", "error"),
        ("!!bool y", "error"),
        ("!!null x", "error"),
        ("! 12", "error"),
    ] {
        assert_eq!(shown(parse_one(&format!("k: {text}\n"), "f")), expected, "{text:?}");
    }
}

/// The value of `k: text` through `decode`, or the message without its position.
fn decoded<'a, T>(node: &'a Node, decode: impl FnOnce(&Field<'a>) -> polmrs_core::Result<T>) -> Result<T, String> {
    let decoded = node.root().fields().unwrap().required("k", decode);
    decoded.map_err(|error| error.to_string().trim_start_matches("f:1:4: k: ").to_owned())
}

#[test]
fn numbers_are_taken_as_pydantic_takes_them_but_for_what_surprises() {
    for (text, expected) in [
        ("0.5", Ok(0.5)),
        ("2", Ok(2.0)),
        ("1e-5", Ok(1e-5)),
        ("'1e-5'", Ok(1e-5)),
        ("'12'", Ok(12.0)),
        ("\"-.5\"", Ok(-0.5)),
        ("017", Ok(15.0)),
        (".inf", Ok(f64::INFINITY)),
        ("abc", Err("'abc' is not a number")),
        ("yes", Err("'yes' is not a number")),
        (".nan", Err("'.nan' is not a number")),
        ("nan", Err("'nan' is not a number")),
        ("'0x1F'", Err("'0x1F' is not a number")),
        ("1:30", Err("'1:30' is not a number; YAML 1.1 reads it in base 60, so write the number out")),
        ("08", Err("'08' is not a number; a leading zero means octal in YAML 1.1, so write it without")),
        ("1e400", Err("'1e400' is not a number; it is too large for a 64-bit float")),
        ("[1]", Err("a list is not a number")),
        ("{a: 1}", Err("a map is not a number")),
        ("~", Err("a value is missing")),
    ] {
        let node = parse_one(&format!("k: {text}"), "f").unwrap();
        assert_eq!(decoded(&node, Field::as_f64), expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn integers_may_be_floats_without_a_fraction() {
    for (text, expected) in [
        ("12", Ok(12)),
        ("1e3", Ok(1000)),
        ("2.0", Ok(2)),
        ("'-7'", Ok(-7)),
        ("2.5", Err("'2.5' is not an integer of 64 bits")),
        ("1e300", Err("'1e300' is not an integer of 64 bits")),
        ("'08'", Err("'08' is not an integer; a leading zero means octal in YAML 1.1, so write it without")),
        ("true", Err("'true' is not an integer")),
    ] {
        let node = parse_one(&format!("k: {text}"), "f").unwrap();
        assert_eq!(decoded(&node, Field::as_i64), expected.map_err(str::to_owned), "{text}");
    }
    let node = parse_one("k: -1", "f").unwrap();
    assert_eq!(decoded(&node, Field::as_count), Err("-1 is not a count of 0 or more".into()));
}

#[test]
fn booleans_may_be_the_words_and_numbers_that_pydantic_takes() {
    for yes in ["yes", "True", "1", "1.0", "y", "T", "'true'", "\"ON\"", "yEs", "'1'"] {
        let node = parse_one(&format!("k: {yes}"), "f").unwrap();
        assert_eq!(decoded(&node, Field::as_bool), Ok(true), "{yes}");
    }
    for no in ["no", "FALSE", "0", "0.0", "n", "'off'", "f"] {
        let node = parse_one(&format!("k: {no}"), "f").unwrap();
        assert_eq!(decoded(&node, Field::as_bool), Ok(false), "{no}");
    }
    for neither in ["2", "0.5", "maybe", "[true]", "''"] {
        let node = parse_one(&format!("k: {neither}"), "f").unwrap();
        assert!(decoded(&node, Field::as_bool).unwrap_err().ends_with("is not true or false"), "{neither}");
    }
}

#[test]
fn text_may_be_a_number_or_a_boolean_as_it_was_written() {
    for (text, expected) in [("1e5", "1e5"), ("on", "on"), ("7", "7"), ("'a b'", "a b"), ("''", "")] {
        let node = parse_one(&format!("k: {text}"), "f").unwrap();
        assert_eq!(decoded(&node, Field::as_text).unwrap(), expected);
    }
    let node = parse_one("k: [a]", "f").unwrap();
    assert_eq!(decoded(&node, Field::as_text), Err("a list is not text".into()));
}
