//! A schema written with `Field` and `Fields`: mergekit's, small, as a proof that it reads like a table.

use polmrs_core::Result;
use polmrs_io::yaml::{Field, Node, Value, parse_one};

#[derive(Debug, PartialEq)]
struct Merge {
    method: String,
    base: Option<String>,
    inputs: Vec<Slice>,
    parameters: Settings,
}

#[derive(Debug, PartialEq)]
struct Slice {
    model: String,
    layers: Option<(usize, usize)>,
    parameters: Settings,
}

type Settings = Vec<(String, Vec<Setting>)>;

/// A value or a gradient, and the part of a tensor's name that it is for.
#[derive(Debug, PartialEq)]
struct Setting {
    filter: Option<String>,
    value: Vec<f64>,
}

fn merge(field: &Field<'_>) -> Result<Merge> {
    let mut fields = field.fields()?;
    let models = fields.optional("models", |models| models.each(slice))?;
    let slices = fields.optional("slices", |slices| slices.each(slice))?;
    let merge = Merge {
        method: fields.required("merge_method", Field::as_text)?.into_owned(),
        base: fields.optional("base_model", Field::as_text)?.map(Into::into),
        parameters: fields.optional("parameters", settings)?.unwrap_or_default(),
        inputs: match (models, slices) {
            (Some(inputs), None) | (None, Some(inputs)) => inputs,
            _ => return Err(field.error("exactly one of 'models' and 'slices' is wanted")),
        },
    };
    fields.ignored("residual_weight", "mergekit reads this and never uses it");
    fields.finish()?;
    Ok(merge)
}

fn slice(field: &Field<'_>) -> Result<Slice> {
    let mut fields = field.fields()?;
    let slice = Slice {
        model: fields.required("model", Field::as_text)?.into_owned(),
        layers: fields.optional("layer_range", range)?,
        parameters: fields.optional("parameters", settings)?.unwrap_or_default(),
    };
    fields.finish()?;
    Ok(slice)
}

fn range(field: &Field<'_>) -> Result<(usize, usize)> {
    match field.each(Field::as_count)?[..] {
        [start, end] if start < end => Ok((start, end)),
        _ => Err(field.error("a layer range is [start, end] with start < end")),
    }
}

fn settings(field: &Field<'_>) -> Result<Settings> {
    field.each_entry(|field| match field.value() {
        Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))) => field.each(setting),
        _ => Ok(vec![setting(field)?]),
    })
}

fn setting(field: &Field<'_>) -> Result<Setting> {
    if !matches!(field.value(), Value::Map(_)) {
        return Ok(Setting { filter: None, value: gradient(field)? });
    }
    let mut fields = field.fields()?;
    let setting = Setting {
        value: fields.required("value", gradient)?,
        filter: fields.optional("filter", Field::as_text)?.map(Into::into),
    };
    fields.finish()?;
    Ok(setting)
}

fn gradient(field: &Field<'_>) -> Result<Vec<f64>> {
    match field.value() {
        Value::List(_) => field.each(Field::as_f64),
        _ => Ok(vec![field.as_f64()?]),
    }
}

fn decode(text: &str) -> Result<Merge> {
    merge(&parse_one(text, "cfg.yml")?.root())
}

const GOOD: &str = "\
merge_method: ties
slices:
  - model: 1e5
    layer_range: [0, 16]
  - model: on
    parameters:
      density: [0, 1e-1]
      weight:
        - {filter: mlp, value: 0.5}
        - value: \"1\"
base_model: ~
";

#[test]
fn a_merge_is_decoded() {
    let of = |filter: Option<&str>, value: &[f64]| Setting { filter: filter.map(Into::into), value: value.to_vec() };
    let expected = Merge {
        method: "ties".into(),
        base: None,
        inputs: vec![
            Slice { model: "1e5".into(), layers: Some((0, 16)), parameters: vec![] },
            Slice {
                model: "on".into(),
                layers: None,
                parameters: vec![
                    ("density".into(), vec![of(None, &[0.0, 0.1])]),
                    ("weight".into(), vec![of(Some("mlp"), &[0.5]), of(None, &[1.0])]),
                ],
            },
        ],
        parameters: vec![],
    };
    assert_eq!(decode(GOOD).unwrap(), expected);
}

#[test]
fn messages_name_place_path_value_and_rule() {
    for (from, to, message) in [
        ("0.5", "abc", "9:32: slices[1].parameters.weight[0].value: 'abc' is not a number"),
        ("1e-1", "[2]", "7:20: slices[1].parameters.density[1]: a list is not a number"),
        ("16]", "-1]", "4:22: slices[0].layer_range[1]: -1 is not a count of 0 or more"),
        ("16]", "0]", "4:18: slices[0].layer_range: a layer range is [start, end] with start < end"),
        ("filter:", "filtre:", "9:12: slices[1].parameters.weight[0].filtre: unknown key; did you mean 'filter'?"),
        ("layer_range", "anything", "4:5: slices[0].anything: unknown key"),
        ("merge_method", "merge_metod", "1:1: 'merge_method' is missing; is 'merge_metod' meant?"),
        ("ties", "", "1:13: merge_method: a value is missing"),
        ("ties", "{a: 1}", "1:15: merge_method: a map is not text"),
        ("slices", "models: []\nslices", "1:1: exactly one of 'models' and 'slices' is wanted"),
        ("  - model: 1e5\n    layer_range: [0, 16]", "  - x", "3:5: slices[0]: 'x' is not a map"),
        ("base_model: ~", "parameters: 3", "11:13: parameters: '3' is not a map"),
        ("density:", "a.b:", "7:13: slices[1].parameters['a.b'][0]: 'q' is not a number"),
    ] {
        let text = GOOD.replacen(from, to, 1).replace("a.b: [0,", "a.b: [q,");
        assert_eq!(decode(&text).unwrap_err().to_string(), format!("cfg.yml:{message}"));
        assert_eq!(decode(&text).unwrap_err().exit_code(), 3);
    }
}

#[test]
fn a_lenient_decoder_notes_what_it_does_not_know() {
    let node = parse_one(&format!("{GOOD}residual_weight: 1\ndensitty: 2\nbase_modle: x\n"), "cfg.yml").unwrap();
    let root = node.root().lenient();
    merge(&root).unwrap();
    assert_eq!(
        root.take_notes(),
        [
            "cfg.yml:12:18: residual_weight: mergekit reads this and never uses it",
            "cfg.yml:13:1: densitty: unknown key",
            "cfg.yml:14:1: base_modle: unknown key; did you mean 'base_model'?",
        ]
    );
    assert!(merge(&node.root()).unwrap_err().to_string().contains("densitty: unknown key"));
}

#[test]
fn text_of_the_file_cannot_break_a_message() {
    let node = parse_one(&format!("a: \"x\\n\\e[31m{}\"", "y".repeat(100)), "f").unwrap();
    let error = node.root().fields().unwrap().required("a", Field::as_f64).unwrap_err().to_string();
    assert_eq!(error, format!("f:1:4: a: 'x\\n\\u{{1b}}[31m{}...' is not a number", "y".repeat(53)));
}

#[test]
fn json_is_decoded_with_the_same_schema() {
    let json = serde_json::json!({"merge_method": "linear", "models": [{"model": "a", "layer_range": [3, 1]}]});
    let error = merge(&Node::from_json(&json, "config").root()).unwrap_err();
    assert_eq!(error.to_string(), "config: models[0].layer_range: a layer range is [start, end] with start < end");
}

#[test]
fn maps_can_be_changed_in_place() {
    let mut node = parse_one("a: 1\nb: 2", "f").unwrap();
    let Value::Map(map) = &mut node.value else { panic!("a map") };
    map.insert("a", parse_one("[3]", "--set").unwrap());
    map.insert("c", Node::new(Value::Bool(true), "here"));
    map.get_mut("b").unwrap().value = Value::Null;
    assert_eq!((map.len(), map.is_empty()), (3, false));
    assert_eq!(map.get("a").unwrap().at.to_string(), "--set:1:1");
    assert_eq!(map.get("c").unwrap().at.to_string(), "here");
    assert_eq!(node.to_json(), serde_json::json!({"a": [3], "b": null, "c": true}));
}
