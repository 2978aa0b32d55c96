//! `model.safetensors.index.json`: which shard holds which tensor.

use super::MAX_HEADER;
use super::json::{self, Text, Value, quote, refuse_text, value_of};
use polmrs_core::{Error, Result};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// The most shards of a checkpoint: as many as their five digits can number.
pub const MAX_SHARDS: usize = 99_999;

/// A parsed index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    shards: Vec<String>,
    /// Tensor names in order, and each one's shard.
    tensors: Vec<(String, u32)>,
}

impl Index {
    /// Reads the JSON of an index. Keys other than `weight_map` are skipped.
    ///
    /// Errors are [`Error::Checkpoint`] and name the tensor, not the file.
    pub fn parse(json: &[u8]) -> Result<Index> {
        let bad = |rule: String| Error::Checkpoint(rule);
        if json.len() as u64 > MAX_HEADER {
            return Err(bad(format!("{} bytes are more than {MAX_HEADER}", json.len())));
        }
        let text = str::from_utf8(json).map_err(|error| bad(format!("not UTF-8: {error}")))?;
        let mut index = json::parse(text, Top).map_err(|error| bad(error.to_string()))?;
        index.tensors.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = index.tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(bad(format!("weight_map: tensor {} appears twice", quote(&pair[0].0))));
        }
        if index.tensors.is_empty() {
            return Err(bad("weight_map is empty".to_owned()));
        }
        Ok(index)
    }

    /// The shards' file names, in order.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// Every tensor and the position of its shard, in the order of the names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tensors.iter().map(|(name, shard)| (name.as_str(), *shard as usize))
    }

    /// The position of the shard that holds a tensor.
    pub fn find(&self, tensor: &str) -> Option<usize> {
        let at = self.tensors.binary_search_by(|(name, _)| name.as_str().cmp(tensor)).ok()?;
        Some(self.tensors[at].1 as usize)
    }
}

/// A shard lies beside its index: its name may not lead elsewhere.
pub(super) fn check_shard(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.contains(['/', '\\', '\0']) {
        return Err("is not a plain file name: shards lie beside their index");
    }
    match name.strip_suffix(".safetensors") {
        None => Err("does not end in .safetensors (pickles are refused)"),
        Some("" | ".") => Err("is not a file name"),
        Some(_) => Ok(()),
    }
}

struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
        let mut index = None;
        while let Some(key) = map.next_key_seed(Value(Text))? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
            } else if index.replace(value_of(&mut map, WeightMap, || key)?).is_some() {
                return Err(A::Error::custom("weight_map appears twice"));
            }
        }
        index.ok_or_else(|| A::Error::custom("weight_map is missing"))
    }

    refuse_text!();
}

struct WeightMap;

impl<'de> Visitor<'de> for WeightMap {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensor and file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key_seed(Value(Text))? {
            if name.is_empty() {
                return Err(A::Error::custom("a tensor has an empty name"));
            }
            let shard = value_of(&mut map, Text, || format!("tensor {}", quote(&name)))?;
            let fresh = seen.len() as u32;
            let id = match seen.get(&shard) {
                Some(id) => *id,
                None if seen.len() == MAX_SHARDS => {
                    return Err(A::Error::custom(format_args!("more than {MAX_SHARDS} shards")));
                }
                None => {
                    check_shard(&shard).map_err(|rule| {
                        A::Error::custom(format_args!("tensor {}: shard {} {rule}", quote(&name), quote(&shard)))
                    })?;
                    seen.insert(shard, fresh);
                    fresh
                }
            };
            tensors.push((name, id));
        }
        // Shards were numbered as they came; number them in the order of their names.
        let mut place = vec![0; seen.len()];
        for (at, id) in seen.values().enumerate() {
            place[*id as usize] = at as u32;
        }
        for (_, id) in &mut tensors {
            *id = place[*id as usize];
        }
        Ok(Index { shards: seen.into_keys().collect(), tensors })
    }

    refuse_text!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Index::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn shards_are_sorted_and_tensors_found() {
        let text = r#"{"metadata": {"total_size": 1.5, "x": [[]]}, "weight_map":
            {"z": "b.safetensors", "a": "b.safetensors", "m": "a.safetensors"}, "other": null}"#;
        let index = Index::parse(text.as_bytes()).unwrap();
        assert_eq!(index.shards(), ["a.safetensors", "b.safetensors"]);
        assert_eq!(index.tensors().collect::<Vec<_>>(), [("a", 1), ("m", 0), ("z", 1)]);
        assert_eq!((index.find("m"), index.find("nothing")), (Some(0), None));
    }

    #[test]
    fn a_shard_lies_beside_its_index() {
        for name in
            ["../w.safetensors", "/etc/w.safetensors", "a/w.safetensors", r"a\\w.safetensors", "w\\u0000.safetensors"]
        {
            let message = refused(&format!(r#"{{"weight_map": {{"w": "{name}"}}}}"#));
            assert!(message.contains("tensor 'w'") && message.contains("not a plain file name"), "{message}");
        }
        for name in ["", ".", "..", ".safetensors", "..safetensors", "pytorch_model.bin"] {
            let message = refused(&format!(r#"{{"weight_map": {{"w": "{name}"}}}}"#));
            assert!(message.contains("weight_map: tensor 'w': shard"), "{message}");
        }
    }

    #[test]
    fn nothing_appears_twice() {
        let message = refused(r#"{"weight_map": {"w": "a.safetensors", "w": "a.safetensors"}}"#);
        assert_eq!(message, "weight_map: tensor 'w' appears twice");
        assert!(refused(r#"{"weight_map": {}, "weight_map": {}}"#).contains("weight_map appears twice"));
    }

    #[test]
    fn the_map_is_there_and_holds_texts() {
        assert!(refused("{}").contains("weight_map is missing"));
        assert!(refused(r#"{"weight_map": {}}"#).contains("weight_map is empty"));
        assert!(refused(r#"{"weight_map": {"w": 3}}"#).contains("tensor 'w': invalid type: integer `3`"));
        assert!(refused(r#"{"weight_map": []}"#).contains("expected an object of tensor and file names"));
        assert!(refused("[]").contains("expected an object with a weight_map"));
    }

    #[test]
    fn depth_costs_no_stack() {
        let bomb = format!(r#"{{"metadata": {}"#, "[".repeat(1 << 20));
        assert!(refused(&bomb).contains("EOF"));
    }
}
