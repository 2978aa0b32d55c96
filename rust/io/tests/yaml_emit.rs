//! What is emitted reads back equal, and looks like a file that a person would write.

use polmrs_io::yaml::{Map, Node, Value, emit, emit_json, parse_one};
use proptest::prelude::*;
use serde_json::json;

/// Words that read as something else without quotes, here or in PyYAML.
const WORDS: [&str; 44] = [
    "",
    "~",
    "null",
    "yes",
    "On",
    "y",
    "N",
    "1",
    "-1",
    "017",
    "08",
    "1_000",
    "0x1F",
    "1e5",
    "1.0e+5",
    ".5",
    ".inf",
    ".nan",
    "1:30",
    "2001-01-01",
    "2001-01-01 10:00:00",
    "=",
    "<<",
    "- a",
    "? a",
    ": a",
    "a: b",
    "a #b",
    "#a",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
    "'a",
    "[a]",
    "{a}",
    " a",
    "a ",
    "a\nb",
    "\na\n\n",
    "---",
    "...",
    "99999999999999999999",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(&WORDS[..]).prop_map(str::to_owned),
        "[a-z]{0,8}",
        "[ab01 :#?!&*'\"\\\\\\[\\]{},|>%@`~=<.\n\t_+e\u{e9}\u{2028}\u{85}\u{feff}\u{1}\u{1f600}\r-]{0,10}",
        any::<String>(),
        "([ \ta-c]{0,5}\n){1,4}",
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_filter("NaN is equal to nothing", |x| !x.is_nan()).prop_map(Value::Float),
        text().prop_map(Value::Text),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = scalar().prop_map(|value| Node::new(value, "made"));
    leaf.prop_recursive(5, 60, 5, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List);
        let map = prop::collection::vec((text(), inner), 0..5).prop_map(|entries| {
            let mut map = Map::default();
            entries.into_iter().for_each(|(key, value)| map.insert(key, value));
            Value::Map(map)
        });
        prop_oneof![list, map].prop_map(|value| Node::new(value, "made"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_emitted_reads_back_equal(node in node()) {
        let text = emit(&node);
        prop_assert_eq!(&parse_one(&text, &text)?, &node, "{}", text);
    }

    #[test]
    fn json_survives_yaml(node in node()) {
        let json = node.to_json();
        prop_assert_eq!(parse_one(&emit_json(&json), "emitted")?.to_json(), json);
    }
}

#[test]
fn a_resolved_merge_looks_like_one() {
    let config = json!({
        "merge_method": "ties",
        "models": [
            {"model": "./math", "parameters": {"density": [0, 0.5, 1e-5], "weight": 0.3}},
            {"model": "org/code@v1+org/lora", "parameters": {}},
        ],
        "slices": [],
        "tokens": {"<|im_end|>": {"source": "y", "force": true}, "a: b": null},
        "chat_template": "{% for m in messages %}\n  {{ m }}\n{% endfor %}\n",
        "note": "it's\tso",
        "nested": [[["x"]], [1, 2], [{"a": [], "b": "1.5"}]],
        "limit": 1e300,
    });
    let expected = "\
merge_method: ties
models:
  - model: ./math
    parameters:
      density: [0, 0.5, 1.0e-5]
      weight: 0.3
  - model: org/code@v1+org/lora
    parameters: {}
slices: []
tokens:
  '<|im_end|>':
    source: 'y'
    force: true
  'a: b': null
chat_template: |
  {% for m in messages %}
    {{ m }}
  {% endfor %}
note: \"it's\\tso\"
nested:
  - - - x
  - [1, 2]
  - - a: []
      b: '1.5'
limit: 1.0e+300
";
    assert_eq!(emit_json(&config), expected);
    assert_eq!(parse_one(expected, "f").unwrap().to_json(), config);
}

#[test]
fn what_reads_as_something_else_is_quoted() {
    for word in WORDS {
        let text = emit(&Node::new(Value::Text(word.into()), ""));
        assert!(text.starts_with(['\'', '"', '|']), "{text}");
        assert_eq!(parse_one(&text, "f").unwrap().value, Value::Text(word.into()));
    }
}

#[test]
fn keys_too_long_for_one_line_are_still_keys() {
    let mut map = Map::default();
    map.insert("k".repeat(3000), Node::new(Value::List(vec![Node::new(Value::Text("a b".into()), "")]), ""));
    let node = Node::new(Value::List(vec![Node::new(Value::Map(map), "")]), "");
    assert_eq!(parse_one(&emit(&node), "f").unwrap(), node);
}

#[test]
fn numbers_without_a_json_twin_become_text() {
    let node = parse_one("[.inf, -.inf, .nan, 1e400]", "f").unwrap();
    assert_eq!(node.to_json(), json!([".inf", "-.inf", ".nan", "1e400"]));
    assert_eq!(emit(&node), "- .inf\n- -.inf\n- .nan\n- '1e400'\n");
    assert_eq!(emit_json(&json!(u64::MAX)), "'18446744073709551615'\n");
}
