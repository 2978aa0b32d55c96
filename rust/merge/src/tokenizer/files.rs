//! The tokenizer's files of the result: those of the model whose vocabulary it has, with the tokens that were added.

use super::vocab::{Added, read, read_json};
use polmrs_core::{Error, Result};
use polmrs_model::beside::{TOKENIZER, forget_origin, pretty};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where the files beside the weights come from.
#[derive(Debug, Default)]
pub struct Files {
    /// The folder that the tokenizer's files are copied from, where it is not that of the base.
    pub(crate) folder: Option<PathBuf>,
    /// Files that are written, not copied.
    pub(crate) written: BTreeMap<&'static str, String>,
    /// Files that the result does not have.
    pub(crate) left_out: BTreeSet<&'static str>,
}

/// What becomes of one file.
#[derive(Debug)]
pub enum Action<'a> {
    /// It has this text.
    Write(&'a str),
    /// It is copied from this path, if it is there.
    Copy(PathBuf),
    /// The result has no such file.
    Nothing,
}

impl Files {
    /// What becomes of `name`, in a merge whose base lies in `donor`.
    pub fn action(&self, name: &str, donor: &Path) -> Action<'_> {
        if let Some(text) = self.written.get(name) {
            return Action::Write(text);
        }
        if self.left_out.contains(name) {
            return Action::Nothing;
        }
        let folder = self.folder.as_deref().filter(|_| TOKENIZER.contains(&name)).unwrap_or(donor);
        Action::Copy(folder.join(name))
    }

    /// Writes `tokenizer.json` and the files that repeat it with these added tokens, by id.
    pub(crate) fn set_added(&mut self, folder: &Path, added: &BTreeMap<u32, Added>) -> Result<()> {
        let path = folder.join("tokenizer.json");
        let text = read(&path)?.ok_or_else(|| Error::Internal(format!("{}: gone", path.display())))?;
        self.written.insert(
            "tokenizer.json",
            with_added(&text, added).map_err(|error| Error::Checkpoint(format!("{}: {error}", path.display())))?,
        );
        let as_json = |token: &Added| {
            json!({
                "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
                "rstrip": token.rstrip, "normalized": token.normalized, "special": token.special,
            })
        };
        if let Some(mut config) = read_json(&folder.join("tokenizer_config.json"))?
            && let Some(map) = config.as_object_mut()
            && map.contains_key("added_tokens_decoder")
        {
            let decoder: Map<String, Json> = added.iter().map(|(id, token)| (id.to_string(), as_json(token))).collect();
            map["added_tokens_decoder"] = Json::Object(decoder);
            forget_origin(map);
            self.written.insert("tokenizer_config.json", pretty(&config));
        }
        if folder.join("added_tokens.json").is_file() {
            let ids: Map<String, Json> =
                added.iter().map(|(id, token)| (token.content.clone(), (*id).into())).collect();
            self.written.insert("added_tokens.json", pretty(&Json::Object(ids)));
        }
        Ok(())
    }

    /// Writes the chat template, in the one place that transformers reads first.
    pub(crate) fn set_template(&mut self, donor: &Path, template: String) -> Result<()> {
        let folder = self.folder.as_deref().unwrap_or(donor);
        let config = match self.written.get("tokenizer_config.json") {
            Some(text) => serde_json::from_str(text).ok(),
            None => read_json(&folder.join("tokenizer_config.json"))?,
        };
        if let Some(mut config) = config
            && let Some(map) = config.as_object_mut()
            && map.shift_remove("chat_template").is_some()
        {
            forget_origin(map);
            self.written.insert("tokenizer_config.json", pretty(&config));
        }
        self.left_out.insert("chat_template.json");
        self.written.insert("chat_template.jinja", template);
        Ok(())
    }
}

/// The text of a `tokenizer.json` with other added tokens; all else stays as it is, byte for byte.
fn with_added(text: &str, added: &BTreeMap<u32, Added>) -> Result<String, serde_json::Error> {
    let parts: Parts<'_> = serde_json::from_str(text)?;
    let mut tokens = String::from("[");
    for (at, (id, token)) in added.iter().enumerate() {
        let Added { content, single_word, lstrip, rstrip, normalized, special } = token;
        let separator = if at == 0 { "" } else { "," };
        let content = Json::String(content.clone());
        let _ = write!(
            tokens,
            "{separator}\n    {{\"id\": {id}, \"content\": {content}, \"single_word\": {single_word}, \"lstrip\": \
             {lstrip}, \"rstrip\": {rstrip}, \"normalized\": {normalized}, \"special\": {special}}}"
        );
    }
    tokens.push_str("\n  ]");
    let mut out = String::with_capacity(text.len() + tokens.len());
    let mut separator = "{";
    let mut written = false;
    for (key, value) in &parts.0 {
        let is_added = key == "added_tokens";
        written |= is_added;
        let _ = write!(
            out,
            "{separator}\n  {}: {}",
            Json::String(key.clone()),
            if is_added { &tokens } else { value.get() }
        );
        separator = ",";
    }
    if !written {
        let _ = write!(out, "{separator}\n  \"added_tokens\": {tokens}");
    }
    out.push_str("\n}\n");
    Ok(out)
}

/// A JSON object's keys, in order, with their values as written.
struct Parts<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Parts<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Parts<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Parts<'de>, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = map.next_entry()? {
                    parts.push(part);
                }
                Ok(Parts(parts))
            }
        }
        from.deserialize_map(Visitor)
    }
}

/// Parts of a config that describe the language model of a larger one.
pub(crate) const TEXT_PARTS: [&str; 3] = ["text_config", "llm_config", "language_config"];

/// A config's special token ids replaced by those of the model whose vocabulary the result has.
pub(crate) fn take_token_ids(config: &mut Json, source: &Json) {
    let (Some(map), Some(source)) = (config.as_object_mut(), source.as_object()) else { return };
    let is_id = |key: &str| key.ends_with("_token_id") || key.ends_with("_token_ids");
    map.retain(|key, _| !is_id(key) || source.contains_key(key));
    for (key, value) in source.iter().filter(|(key, _)| is_id(key)) {
        map.insert(key.clone(), value.clone());
    }
}

/// States the number of rows wherever a config does.
pub(crate) fn state_vocab_size(config: &mut Json, size: u64) {
    let mut stated = false;
    for part in TEXT_PARTS {
        if let Some(stale) = config.get_mut(part).and_then(|part| part.get_mut("vocab_size")) {
            *stale = size.into();
            stated = true;
        }
    }
    if let Some(map) = config.as_object_mut()
        && (map.contains_key("vocab_size") || !stated)
    {
        map.insert("vocab_size".into(), size.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_added_tokens_of_a_tokenizer_change() {
        let text = r#"{"version":"1.0", "added_tokens":[{"id":0}], "model":{"vocab":{"a":1e-0,"é":[1 ,2]}}}"#;
        let added = BTreeMap::from([(7, Added { content: "\"<é>\n".into(), special: true, ..Added::default() })]);
        let out = with_added(text, &added).unwrap();
        assert!(out.contains(r#""model": {"vocab":{"a":1e-0,"é":[1 ,2]}}"#));
        let json: Json = serde_json::from_str(&out).unwrap();
        assert_eq!(json["added_tokens"][0]["content"], "\"<é>\n");
        assert_eq!((json["added_tokens"].as_array().unwrap().len(), &json["version"]), (1, &"1.0".into()));
    }

    #[test]
    fn token_ids_are_those_of_the_other_config_and_no_others() {
        let mut config = json!({"bos_token_id": 1, "hidden": 4, "image_token_id": 9});
        take_token_ids(&mut config, &json!({"bos_token_id": 3, "eos_token_id": [4, 5], "x": 1}));
        assert_eq!(config, json!({"bos_token_id": 3, "hidden": 4, "eos_token_id": [4, 5]}));
    }
}
