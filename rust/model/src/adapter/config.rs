//! `adapter_config.json` of peft, as far as a merge needs it.
//!
//! LoRA (arXiv 2106.09685), rsLoRA (2312.03732: alpha / sqrt(r) instead of alpha / r) and DoRA (2402.09353). A kind of
//! adapter, or a switch of LoRA, that changes what the tensors mean is refused by its name.

use polmrs_core::{Error, Result};
use regex_lite::Regex;
use serde_json::{Map, Value as Json};

/// Switches of peft's `LoraConfig` that change what the tensors mean.
const REFUSED: [&str; 10] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];
/// Ways to start from which the base stays as it was.
const STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What the config of a LoRA adapter says.
#[derive(Debug)]
pub struct LoraConfig {
    /// The rank where no pattern says another.
    pub rank: u64,
    /// Alpha where no pattern says another.
    pub alpha: f64,
    /// The scale is alpha / sqrt(rank), not alpha / rank.
    pub rslora: bool,
    /// Rows have magnitudes of their own.
    pub dora: bool,
    /// Weights are stored inputs first (GPT-2's `Conv1D`).
    pub fan_in_fan_out: bool,
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
}

impl LoraConfig {
    /// Reads the config.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for another kind of adapter, a refused switch, or a value of the wrong type.
    pub fn decode(config: &Json) -> Result<LoraConfig> {
        let map = config.as_object().ok_or_else(|| bad("not a JSON object".into()))?;
        let kind = map.get("peft_type").and_then(Json::as_str).unwrap_or("not stated");
        if kind != "LORA" {
            return Err(bad(format!(
                "peft_type is {kind}; of peft's adapters only LORA (with rslora and dora) is read"
            )));
        }
        if let Some(switch) = REFUSED.into_iter().find(|switch| map.get(*switch).is_some_and(is_set)) {
            return Err(bad(format!("'{switch}' is set; this variant of LoRA is not read")));
        }
        if let Some(Json::String(start)) = map.get("init_lora_weights")
            && !STARTS.contains(&start.as_str())
        {
            return Err(bad(format!(
                "init_lora_weights is '{start}', which changes the base; save the adapter with peft's \
                 path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
            )));
        }
        let rank = map.get("r").and_then(Json::as_u64).filter(|rank| *rank > 0);
        Ok(LoraConfig {
            rank: rank.ok_or_else(|| bad("r is not a whole number above 0".into()))?,
            alpha: map
                .get("lora_alpha")
                .and_then(Json::as_f64)
                .ok_or_else(|| bad("lora_alpha is not a number".into()))?,
            rslora: flag(map, "use_rslora")?,
            dora: flag(map, "use_dora")?,
            fan_in_fan_out: flag(map, "fan_in_fan_out")?,
            ranks: patterns(map, "rank_pattern")?,
            alphas: patterns(map, "alpha_pattern")?,
        })
    }

    /// The rank of a module.
    pub fn rank(&self, module: &str) -> u64 {
        matched(&self.ranks, module).map_or(self.rank, |rank| rank as u64)
    }

    /// What the product of a module's factors is multiplied by.
    pub fn scale(&self, module: &str) -> f32 {
        let (alpha, rank) = (matched(&self.alphas, module).unwrap_or(self.alpha), self.rank(module) as f64);
        (if self.rslora { alpha / rank.sqrt() } else { alpha / rank }) as f32
    }
}

fn bad(rule: String) -> Error {
    Error::Checkpoint(format!("adapter_config.json: {rule}"))
}

/// Whether a switch is on: anything but null, false and the empty.
fn is_set(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => false,
        Json::Array(items) => !items.is_empty(),
        Json::Object(items) => !items.is_empty(),
        _ => true,
    }
}

fn flag(map: &Map<String, Json>, name: &str) -> Result<bool> {
    match map.get(name) {
        None | Some(Json::Null) => Ok(false),
        Some(Json::Bool(on)) => Ok(*on),
        Some(other) => Err(bad(format!("{name}: {other} is not true or false"))),
    }
}

/// `{pattern: number}` in order: a regular expression that the end of a module's name matches, after a dot or whole.
fn patterns(map: &Map<String, Json>, name: &str) -> Result<Vec<(Regex, f64)>> {
    let Some(given) = map.get(name).filter(|given| !given.is_null()) else { return Ok(Vec::new()) };
    let given = given.as_object().ok_or_else(|| bad(format!("{name}: {given} is not an object")))?;
    let read = |(pattern, value): (&String, &Json)| {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        let regex = regex.map_err(|error| bad(format!("{name}: '{pattern}' is no regular expression: {error}")))?;
        let value = value.as_f64().filter(|value| *value > 0.0);
        Ok((regex, value.ok_or_else(|| bad(format!("{name}: '{pattern}' has no number above 0")))?))
    };
    given.iter().map(read).collect()
}

fn matched(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(config: &Json) -> String {
        LoraConfig::decode(config).unwrap_err().to_string()
    }

    #[test]
    fn the_first_pattern_that_ends_a_name_decides() {
        let config = LoraConfig::decode(&json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": null,
            "rank_pattern": {"1.q_proj": 2, "^model.layers.0.k_proj": 16, "(up|down)_proj": 1},
            "alpha_pattern": {"q_proj": 3},
        }))
        .unwrap();
        let rank = |module: &str| config.rank(module);
        assert_eq!((rank("model.layers.1.q_proj"), rank("model.layers.11.q_proj")), (2, 4));
        assert_eq!((rank("model.layers.0.k_proj"), rank("x.model.layers.0.k_proj"), rank("a.down_proj")), (16, 4, 1));
        assert_eq!((config.scale("a.q_proj"), config.scale("a.v_proj")), (0.75, 2.0));
    }

    #[test]
    fn other_adapters_and_variants_are_refused_by_name() {
        assert!(refused(&json!({"peft_type": "LOHA"})).contains("peft_type is LOHA; of peft's adapters only LORA"));
        let lora = |key: &str, value: Json| json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, key: value});
        assert!(refused(&lora("layer_replication", json!([[0, 1]]))).contains("'layer_replication' is set"));
        assert!(refused(&lora("init_lora_weights", json!("pissa"))).contains("'pissa', which changes the base"));
        assert!(refused(&lora("r", json!(0))).contains("r is not a whole number above 0"));
        assert!(refused(&lora("rank_pattern", json!({"(": 1}))).contains("rank_pattern: '(' is no regular expression"));
        assert!(LoraConfig::decode(&lora("target_parameters", json!([]))).is_ok());
    }
}
