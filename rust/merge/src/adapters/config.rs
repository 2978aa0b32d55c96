//! `adapter_config.json` of a merged adapter: the first adapter's, with what has changed.

use polmrs_model::adapter::Union;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;

/// Which layers of which modules peft looks for.
const WHERE: [&str; 4] = ["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"];
/// What of a start says nothing any more.
const STARTS: [&str; 3] = ["eva_config", "corda_config", "loftq_config"];

/// The config of the result, and what a person should know.
pub(super) fn merged(configs: &[&Json], union: &Union, rank: u64) -> (Json, Vec<String>) {
    let maps: Vec<&Map<String, Json>> = configs.iter().filter_map(|config| config.as_object()).collect();
    let mut merged = maps.first().map(|map| (*map).clone()).unwrap_or_default();
    for (key, value) in [
        ("r", json!(rank)),
        ("lora_alpha", json!(rank)),
        ("use_rslora", json!(false)),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("init_lora_weights", json!(true)),
        ("lora_bias", json!(union.modules.values().any(|module| module.bias))),
    ] {
        merged.insert(key.into(), value);
    }
    for key in STARTS {
        merged.shift_remove(key);
    }
    let same = |key: &str| maps.iter().all(|map| canonical(map.get(key)) == canonical(maps[0].get(key)));
    if !WHERE.iter().all(|key| same(key)) {
        WHERE.iter().for_each(|key| drop(merged.insert((*key).into(), Json::Null)));
        merged.insert("target_modules".into(), targets(&maps, union));
    }
    let mut notes = Vec::new();
    if !same("base_model_name_or_path") {
        let bases: BTreeSet<String> =
            maps.iter().filter_map(|map| map.get("base_model_name_or_path")).map(Json::to_string).collect();
        let bases: Vec<String> = bases.into_iter().collect();
        notes.push(format!("the adapters say that they are of different models: {}", bases.join(", ")));
    }
    (Json::Object(merged), notes)
}

/// What peft is to look for where the adapters differ: all that they list, if lists alone say it, else every module by name.
fn targets(maps: &[&Map<String, Json>], union: &Union) -> Json {
    let is_set = |map: &Map<String, Json>, key: &str| map.get(key).is_some_and(|value| !value.is_null());
    let restricted = maps.iter().any(|map| WHERE[1..].iter().any(|key| is_set(map, key)));
    let lists: Option<Vec<&Vec<Json>>> = maps.iter().map(|map| map.get(WHERE[0])?.as_array()).collect();
    let all: BTreeSet<String> = match lists {
        Some(lists) if !restricted => lists.into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => union.modules.keys().cloned().collect(),
    };
    json!(all)
}

/// A value to compare: a list in no order, nothing where it is null or empty.
fn canonical(value: Option<&Json>) -> Vec<String> {
    let mut parts: Vec<String> = match value {
        None | Some(Json::Null) => Vec::new(),
        Some(Json::Array(items)) => items.iter().map(Json::to_string).collect(),
        Some(other) => vec![other.to_string()],
    };
    parts.sort_unstable();
    parts
}
