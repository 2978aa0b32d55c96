//! Documents: positions, anchors, `<<`, keys, blocks, and what is said of those that cannot be read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use polmrs_io::yaml::{Node, Value, parse, parse_one, read, read_one};
use serde_json::json;

/// A merge as mergekit's users write it: base with anchors, overrides, gradients, filters, brackets at the margin.
const MERGE: &str = "\
# a merge of three
defaults: &defaults
  parameters: &parameters
    weight: 0.5
    density: 1e-1   # text in PyYAML
models:
  - model: ./base
  - <<: *defaults
    model: org/math@main+org/lora
  - model: org/code
    parameters:
      <<: *parameters
      weight: [0, 0.3,
    0.7, 1
  ]
      density:
        - filter: self_attn
          value: .5
        - value: 1.
merge_method: dare_ties
base_model: ./base
tokenizer_source: union
chat_template: |
  {% for m in messages %}
    {{ m }}
  {% endfor %}
normalize: yes
dtype: bfloat16
";

fn json(text: &str) -> serde_json::Value {
    parse_one(text, "f").map_or_else(|error| json!(error.to_string()), |node| node.to_json())
}

fn error(text: &str) -> String {
    parse(text, "cfg.yml").unwrap_err().to_string()
}

/// The position of the value at a path of keys.
fn place(node: &Node, path: &[&str]) -> (u32, u32) {
    let mut node = node;
    for key in path {
        node = match &node.value {
            Value::Map(map) => map.get(key).unwrap(),
            Value::List(items) => &items[key.parse::<usize>().unwrap()],
            other => panic!("{key} of {other:?}"),
        };
    }
    (node.at.line, node.at.column)
}

#[test]
fn a_merge_with_anchors_and_gradients_is_read_as_mergekit_reads_it() {
    let parameters = json!({"weight": 0.5, "density": 0.1});
    let expected = json!({
        "defaults": {"parameters": parameters},
        "models": [
            {"model": "./base"},
            {"parameters": parameters, "model": "org/math@main+org/lora"},
            {"model": "org/code", "parameters": {
                "weight": [0, 0.3, 0.7, 1],
                "density": [{"filter": "self_attn", "value": 0.5}, {"value": 1.0}],
            }},
        ],
        "merge_method": "dare_ties",
        "base_model": "./base",
        "tokenizer_source": "union",
        "chat_template": "{% for m in messages %}\n  {{ m }}\n{% endfor %}\n",
        "normalize": true,
        "dtype": "bfloat16",
    });
    assert_eq!(json(MERGE), expected);
    let order: Vec<_> = expected.as_object().unwrap().keys().cloned().collect();
    assert_eq!(json(MERGE).as_object().unwrap().keys().cloned().collect::<Vec<_>>(), order);
}

#[test]
fn everything_knows_where_it_stands() {
    let node = parse_one(MERGE, "cfg.yml").unwrap();
    assert_eq!(place(&node, &["models"]), (7, 3));
    assert_eq!(place(&node, &["models", "1", "model"]), (9, 12));
    assert_eq!(place(&node, &["models", "1", "parameters", "density"]), (5, 14), "a copy stands where it was written");
    assert_eq!(place(&node, &["models", "2", "parameters", "weight", "1"]), (13, 19));
    assert_eq!(place(&node, &["models", "2", "parameters", "weight", "2"]), (14, 5), "as in the file, though moved");
    assert_eq!(place(&node, &["dtype"]), (28, 8));
    let Value::Map(map) = &node.value else { panic!("a map") };
    let keys: Vec<_> = map.iter().map(|entry| entry.at.to_string()).collect();
    assert_eq!(keys[..3], ["cfg.yml:2:1", "cfg.yml:6:1", "cfg.yml:20:1"]);
}

#[test]
fn columns_count_characters() {
    let node = parse_one("\u{FEFF}é😀: 'é' # ü\n- x: 1", "f");
    assert!(node.is_err());
    let node = parse_one("\u{FEFF}é😀: {é: 'é', x: y} # ü\r\nb: 1\rc: 2", "f").unwrap();
    assert_eq!(place(&node, &["é😀", "x"]), (1, 17));
    assert_eq!(place(&node, &["b"]), (2, 4));
    assert_eq!(place(&node, &["c"]), (3, 4));
}

#[test]
fn explicit_keys_win_over_merged_ones_and_earlier_maps_over_later_ones() {
    let bases = "x: &x {alpha: 1, gamma: 1}\ny: &y {alpha: 2, beta: 2}\n";
    assert_eq!(
        json(&format!("{bases}z:\n  beta: 9\n  <<: [*x, *y]\n"))["z"],
        json!({"alpha": 1, "beta": 9, "gamma": 1})
    );
    assert_eq!(json("z: {<<: {a: 1, b: 2}, b: 3}")["z"], json!({"a": 1, "b": 3}));
    assert_eq!(json("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {!!merge <<: *b}")["c"], json!({"x": 1, "y": 2}));
    assert_eq!(json("z: {'<<': 1}")["z"], json!({"<<": 1}), "in quotes it is a key like any other");
    assert_eq!(json("z: {<<: [], a: 1}")["z"], json!({"a": 1}));
    for (text, message) in [
        ("z: {<<: 1}", "cfg.yml:1:9: '<<' merges a map or a list of maps, and this is neither"),
        ("z: {<<: [{a: 1}, 2]}", "cfg.yml:1:18: '<<' merges a map or a list of maps, and this is neither"),
        ("<<: {a: 1}\n<<: {b: 1}", "cfg.yml:2:1: the key '<<' is given twice, first at 1:1"),
    ] {
        assert_eq!(error(text), message);
    }
}

#[test]
fn keys_are_text_as_written_and_occur_once() {
    assert_eq!(json("1: a\nyes: b\n1e5: c\n~: d\n'': e"), json!({"1": "a", "yes": "b", "1e5": "c", "~": "d", "": "e"}));
    assert_eq!(json("x: &k 017\n*k : a\n? &l b\n: *l"), json!({"x": 15, "017": "a", "b": "b"}));
    for (text, message) in [
        (
            "a: 1\nb: 2\n a: 3",
            "cfg.yml:3:3: a ':' is not expected here; quote the text if it holds ': ', or look at the indentation",
        ),
        ("a: 1\nb: 2\n'a': 3", "cfg.yml:3:1: the key 'a' is given twice, first at 1:1"),
        ("{a: 1, b: {a: 1, a: 2}}", "cfg.yml:1:18: the key 'a' is given twice, first at 1:12"),
        ("[a]: 1", "cfg.yml:1:1: a key must be text, not a list or a map; if it is text, quote it"),
        ("? {a: 1}\n: 1", "cfg.yml:1:3: a key must be text, not a list or a map; if it is text, quote it"),
        (": 1", "cfg.yml:1:1: a key is missing before this ':'"),
        ("{?a: 1}", "cfg.yml:1:2: text that starts with '?' must be quoted"),
    ] {
        assert_eq!(error(text), message);
    }
}

#[test]
fn an_alias_that_nothing_answers_is_refused_with_the_nearest_anchor() {
    for (text, message) in [
        (
            "a: &weights 1\nb: *weihgts",
            "cfg.yml:2:4: no anchor '&weihgts' stands above this alias; did you mean 'weights'?",
        ),
        (
            "filter: *.mlp",
            "cfg.yml:1:9: no anchor '&.mlp' stands above this alias; quote the text if it starts with '*'",
        ),
        ("filter: *", "cfg.yml:1:9: a name is expected after '&' or '*'; quote the text if it starts with one"),
        (
            "a: *later\nb: &later 1",
            "cfg.yml:1:4: no anchor '&later' stands above this alias; quote the text if it starts with '*'",
        ),
        (
            "a: &a 1\n---\nb: *a",
            "cfg.yml:3:4: no anchor '&a' stands above this alias; quote the text if it starts with '*'",
        ),
        ("a: &a [1, *a]", "cfg.yml:1:11: this alias stands inside the value that it refers to"),
        ("a: &a {b: {<<: *a}}", "cfg.yml:1:16: this alias stands inside the value that it refers to"),
        ("a: &a 1\nb: !!str &a 2", "cfg.yml:2:4: the anchor '&a' is given twice, first at 1:4"),
        ("a: &a.b 1", "cfg.yml:1:4: the name of an anchor is of ASCII letters, digits, '_' and '-'"),
    ] {
        assert_eq!(error(text), message);
    }
}

#[test]
fn tags_other_than_the_five_are_refused() {
    assert_eq!(json("a: !!map {b: !!seq [!!str 1]}"), json!({"a": {"b": ["1"]}}));
    for tag in ["!!python/object/apply:os.system", "!foo", "!!binary", "!!set", "!!timestamp"] {
        let message = format!("cfg.yml:2:4: the tag '{tag}' is not supported here");
        assert!(error(&format!("a: 1\nb: {tag} x")).starts_with(&message), "{tag}");
    }
    assert!(error("a: !!str [x]").contains("the tag '!!str' is not supported here"));
}

#[test]
fn a_stream_may_hold_several_documents_where_that_is_asked_for() {
    let documents = parse("a: 1\n---\n- 2\n...\n---\n", "f").unwrap();
    assert_eq!(documents.iter().map(Node::to_json).collect::<Vec<_>>(), [json!({"a": 1}), json!([2]), json!(null)]);
    assert!(parse("# nothing\n", "f").unwrap().is_empty());
    assert_eq!(parse_one("", "cfg.yml").unwrap_err().to_string(), "cfg.yml:1:1: the file is empty");
    assert_eq!(
        parse_one("a: 1\n---\nb: 2\n", "cfg.yml").unwrap_err().to_string(),
        "cfg.yml:3:1: a second document starts here, where one is expected"
    );
}

#[test]
fn lines_in_brackets_and_quotes_may_start_anywhere() {
    assert_eq!(
        json("a:\n  b: [\n1,\n  {c: 2,\nd: 3}\n]\n  e: 4\n"),
        json!({"a": {"b": [1, {"c": 2, "d": 3}], "e": 4}})
    );
    assert_eq!(json("a:\n  b: \"x\\\n   y\nz\\\"\n\nw\"\n  c: 1\n"), json!({"a": {"b": "xy z\"\nw", "c": 1}}));
    assert_eq!(json("a:\n  - 'it''s\n\nso' # c\n  - 2\n"), json!({"a": ["it's\nso", 2]}));
    assert_eq!(error("a: [\nb: c: d\n]"), "cfg.yml:2:5: a ',' or the closing bracket is expected here");
    assert_eq!(error("a: [1,\n---\n2]"), "cfg.yml:2:1: a value is expected here");
}

#[test]
fn a_block_ends_as_in_pyyaml() {
    for (text, expected) in [
        ("a: |\n  x\n", "x\n"),
        ("a: |\n  x", "x"),
        ("a: |+\n  x\n\n", "x\n\n"),
        ("a: |+\n  x", "x"),
        ("a: |-\n  x\n\n", "x"),
        ("a: |\n  x\n ", "x\n"),
        ("a: |\n  x\n  ", "x\n"),
        ("a: |\n  x\n    ", "x\n  "),
        ("a: >\n  x\n  y\n\n  z", "x y\nz"),
        ("a: |2\n    x\n", "  x\n"),
        ("a: |", ""),
    ] {
        assert_eq!(json(text)["a"], json!(expected), "{text:?}");
    }
}

#[test]
fn characters_that_readers_disagree_about_are_refused() {
    for (bad, what) in [
        ('\u{0}', "U+0000 is a control character"),
        ('\u{7f}', "U+007F is a control character"),
        ('\u{85}', "U+0085 ends a line in YAML 1.1 but not in 1.2"),
        ('\u{2028}', "U+2028 ends a line in YAML 1.1 but not in 1.2"),
        ('\u{feff}', "U+FEFF is a byte order mark, which may only begin a file"),
    ] {
        let message = error(&format!("a: 1\nb: é{bad}"));
        assert!(message.starts_with(&format!("cfg.yml:2:5: {what}; if it belongs there write \"\\u")), "{message}");
    }
    assert_eq!(json(r#"a: "\u2028\0\x41\U0001F600\e""#), json!({"a": "\u{2028}\0A😀\u{1b}"}));
}

#[test]
fn syntax_errors_are_in_plain_words() {
    for (text, message) in [
        ("a:\n\tb: 1", "2:2: a tab is used as indentation; YAML wants spaces"),
        ("a:\tb", "1:4: a tab follows ':' or '-'; YAML wants a space"),
        ("a: b: c", "1:5: a ':' is not expected here; quote the text if it holds ': ', or look at the indentation"),
        ("a:\n  b: 1\n c: 2", "3:2: a key is expected here; look at the indentation of this line"),
        ("a: 1\nb\nc: 2", "3:1: the line above is a key without its ':'"),
        ("- a\nb: 1", "2:1: a '- ' is expected at this indentation"),
        ("a: - b", "1:4: a '- ' is not expected here; start the list on a line of its own"),
        ("a: [1, - 2]", "1:8: a '- ' is not expected inside [ ] or { }"),
        ("a: [1, 2", "2:1: a ',' or the closing bracket is expected here"),
        ("a: {b: 1\nc: 2", "2:2: a ',' or the closing bracket is expected here"),
        ("a: [", "2:1: a value is expected here"),
        ("a: ]", "1:4: this bracket closes none"),
        ("a: 'b", "1:4: a quote is opened and never closed"),
        ("a: 'b' c", "1:8: text after the closing quote; quote the whole, or double the quote inside"),
        ("a: @b", "1:4: text that starts with '%', '@' or '`' must be quoted"),
        ("a: \"C:\\dir\"", "1:4: a backslash in double quotes starts an escape; use single quotes to keep it"),
        ("a: ? b", "1:4: a '?' is not expected here; quote the text if it starts with one"),
        ("a: |x", "1:4: text after '|' or '>' starts on the next line"),
        ("a: {b:[1]}", "1:6: a space is missing after this ':'"),
        ("  a: 1\nb: 2", "2:1: this line does not belong to what stands above; look at its indentation"),
    ] {
        assert_eq!(error(text), format!("cfg.yml:{message}"));
    }
}

#[test]
fn a_file_is_read_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cfg.yml");
    std::fs::write(&path, "a: 1\n---\nb: x\n").unwrap();
    assert_eq!(read(&path).unwrap()[1].at.to_string(), format!("{}:3:1", path.display()));
    assert!(read_one(&path).unwrap_err().to_string().contains("a second document"));
    std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    assert_eq!(read(&path).unwrap_err().to_string(), format!("{}:2: not UTF-8 text", path.display()));
    assert_eq!(read(&folder.path().join("none")).unwrap_err().exit_code(), 3);
}
