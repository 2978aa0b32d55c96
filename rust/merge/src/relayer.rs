//! What a config says about layers, for an output whose layers were stacked anew: their number, and what it lists by
//! layer.
//!
//! A number is changed where a key that counts layers has the value that the checkpoint's tensors show; a list where it
//! has one item for each layer (`layer_types`: the items go with their layers) or names layers by their numbers
//! (`mlp_only_layers`: counted anew).

use crate::program::Restack;
use serde_json::{Map, Value as Json};

/// Keys that count layers.
const COUNTS: [&str; 6] = ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "depth"];
/// The same for one side of a model with two: module, keys.
const SIDES: [(&str, &[&str]); 2] = [
    ("encoder", &["encoder_layers", "num_encoder_layers", "num_layers", "num_hidden_layers"]),
    ("decoder", &["decoder_layers", "num_decoder_layers"]),
];
/// Lists of the layers that have a property, by number.
const NUMBERED: [&str; 3] = ["mlp_only_layers", "full_attn_idxs", "attn_layer_indices"];
/// Where configs keep what they say of a language model inside a larger one.
const TEXT: [&str; 3] = ["text_config", "llm_config", "language_config"];
/// Where they keep what they say of vision.
const VISION: [&str; 1] = ["vision_config"];

/// Changes the `config` of the output; `configs` are those of all models. Gives a note where no count was found.
pub(crate) fn relayer(config: &mut Json, restack: &Restack, configs: &[Option<&Json>]) -> Option<String> {
    let module = restack.module.as_deref().unwrap_or("default");
    let own = format!("{module}_config");
    let (places, counts): (Vec<&str>, &[&str]) = match module {
        "default" | "text_decoder" => ([""].into_iter().chain(TEXT).collect(), &COUNTS),
        "vision_tower" | "vision_model" | "visual" => (VISION.into(), &COUNTS),
        _ => match SIDES.iter().find(|(side, _)| *side == module) {
            Some((_, counts)) => (vec![""], counts),
            None => (vec![&own], &COUNTS),
        },
    };
    let mut counted = false;
    for place in places {
        let Some(map) = object_mut(config, place) else { continue };
        let theirs: Vec<Option<&Map<String, Json>>> =
            configs.iter().map(|config| config.and_then(|config| object(config, place))).collect();
        counted |= restate(map, restack, counts, &theirs);
    }
    let layers = restack.layers.len();
    (!counted && layers as u64 != restack.before).then(|| {
        format!(
            "config.json: no key that counts the {} layers of '{module}' was found; it has {layers} now",
            restack.before
        )
    })
}

/// Changes one object of a config; gives whether it counts the layers.
fn restate(
    map: &mut Map<String, Json>,
    restack: &Restack,
    counts: &[&str],
    theirs: &[Option<&Map<String, Json>>],
) -> bool {
    let keys: Vec<&str> = counts.iter().copied().filter(|key| map.get(*key) == Some(&restack.before.into())).collect();
    for key in &keys {
        map[*key] = restack.layers.len().into();
    }
    for (key, value) in map.iter_mut().filter(|_| !keys.is_empty()) {
        let Some(list) = value.as_array() else { continue };
        let list_of = |model: usize| theirs[model].and_then(|map| map.get(key)).and_then(Json::as_array);
        if NUMBERED.contains(&key.as_str()) {
            let has = |(model, layer): &(usize, u64)| list_of(*model).unwrap_or(list).contains(&(*layer).into());
            let numbers = restack.layers.iter().enumerate().filter(|(_, from)| has(from)).map(|(at, _)| at);
            *value = numbers.collect();
        } else if key.contains("layer") && list.len() as u64 == restack.before {
            let item = |(model, layer): &(usize, u64)| {
                let from = list_of(*model).unwrap_or(list);
                from.get(*layer as usize).or(list.last()).cloned().unwrap_or_default()
            };
            *value = restack.layers.iter().map(item).collect();
        }
    }
    !keys.is_empty()
}

/// The object at a key; the config itself at "".
fn object<'a>(config: &'a Json, key: &str) -> Option<&'a Map<String, Json>> {
    if key.is_empty() { config.as_object() } else { config.get(key)?.as_object() }
}

fn object_mut<'a>(config: &'a mut Json, key: &str) -> Option<&'a mut Map<String, Json>> {
    if key.is_empty() { config.as_object_mut() } else { config.get_mut(key)?.as_object_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stacked(module: Option<&str>, before: u64, layers: &[(usize, u64)]) -> Restack {
        Restack { module: module.map(str::to_owned), before, layers: layers.to_vec() }
    }

    #[test]
    fn counts_and_lists_follow_the_layers() {
        let a = json!({"num_hidden_layers": 2, "max_window_layers": 2, "layer_types": ["full", "slide"],
                       "mlp_only_layers": [0], "eos_token_id": [1, 2]});
        let b = json!({"num_hidden_layers": 3, "layer_types": ["x", "y", "z"], "mlp_only_layers": [2]});
        let mut out = a.clone();
        let restack = stacked(None, 2, &[(0, 1), (1, 2), (1, 0), (0, 0)]);
        assert_eq!(relayer(&mut out, &restack, &[Some(&a), Some(&b)]), None);
        assert_eq!(
            out,
            json!({"num_hidden_layers": 4, "max_window_layers": 2, "layer_types": ["slide", "z", "x", "full"],
                   "mlp_only_layers": [1, 3], "eos_token_id": [1, 2]})
        );
    }

    #[test]
    fn every_module_has_its_own_count() {
        let a = json!({"num_layers": 2, "num_decoder_layers": 2, "vision_config": {"depth": 2},
                       "text_config": {"num_hidden_layers": 2}});
        let after = |module: &str| {
            let mut out = a.clone();
            let note = relayer(&mut out, &stacked(Some(module), 2, &[(0, 0), (0, 1), (0, 1)]), &[Some(&a)]);
            (out, note.is_some())
        };
        let changed = |pointer: &str| {
            let mut out = a.clone();
            *out.pointer_mut(pointer).unwrap() = 3.into();
            (out, false)
        };
        assert_eq!(after("decoder"), changed("/num_decoder_layers"));
        assert_eq!(after("encoder"), changed("/num_layers"));
        assert_eq!(after("vision_tower"), changed("/vision_config/depth"));
        assert_eq!(after("audio_tower"), (a.clone(), true));
    }
}
