//! The files beside the weights: what they are called, and what changes in them on the way to a result.

use crate::folder::read_text;
use polmrs_core::{Dtype, Result};
use polmrs_io::output::Output;
use serde_json::{Map, Value as Json};
use std::path::Path;

/// Files that belong to a tokenizer.
pub const TOKENIZER: [&str; 12] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// Files that go along with those of the tokenizer.
pub const SIDECARS: [&str; 7] = [
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "LICENSE",
    "NOTICE",
];

/// Parts of a config that state an element type of their own.
const PARTS: [&str; 3] = ["text_config", "vision_config", "audio_config"];

/// Copies a file as it is, but for the folder that a tokenizer's config was loaded from, and for what `amend` changes in
/// a JSON file; it says whether it did.
pub fn copy(output: &Output, from: &Path, name: &str, amend: impl Fn(&str, &mut Json) -> bool) -> Result<()> {
    if ["tokenizer_config.json", "generation_config.json"].contains(&name)
        && let Some(Ok(mut json)) = read_text(from)?.map(|text| serde_json::from_str::<Json>(&text))
    {
        let forgot = name == "tokenizer_config.json" && json.as_object_mut().is_some_and(forget_origin);
        if amend(name, &mut json) || forgot {
            return output.put(name, pretty(&json).as_bytes());
        }
    }
    output.copy(from, name)
}

/// A model's config with the element type of a result, and without the places that it was loaded from.
pub fn state(config: &mut Json, dtype: Dtype) {
    let Some(map) = config.as_object_mut() else { return };
    for part in PARTS {
        if let Some(part) = map.get_mut(part).and_then(Json::as_object_mut) {
            forget_origin(part);
            state_type(part, dtype);
        }
    }
    forget_origin(map);
    if !state_type(map, dtype) {
        map.insert("dtype".into(), dtype.torch_name().into());
    }
}

/// Removes the folder that a config or a tokenizer was loaded from; says whether it was there.
pub fn forget_origin(map: &mut Map<String, Json>) -> bool {
    ["_name_or_path", "name_or_path"].into_iter().filter(|key| map.shift_remove(*key).is_some()).count() > 0
}

/// Sets the element type where a config states one.
fn state_type(map: &mut Map<String, Json>, dtype: Dtype) -> bool {
    let stated: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|key| map.contains_key(*key)).collect();
    stated.iter().for_each(|key| map[*key] = dtype.torch_name().into());
    !stated.is_empty()
}

/// JSON as a file holds it.
pub fn pretty(json: &Json) -> String {
    format!("{json:#}\n")
}
