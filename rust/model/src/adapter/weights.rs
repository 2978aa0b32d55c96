//! The tensors of an adapter, by the module that they belong to.
//!
//! peft writes `base_model.model.<module>.<part>`, the part being `lora_A.weight` (rank x in), `lora_B.weight` (out x
//! rank), `lora_B.bias`, `lora_embedding_A` (rank x rows), `lora_embedding_B` (columns x rank), `lora_magnitude_vector`;
//! `base_layer.weight` where the base's embedding was saved too; a plain `weight` or `bias` where that was trained whole.

use super::config::LoraConfig;
use polmrs_core::{Error, Result};
use polmrs_engine::Source;
use std::collections::BTreeMap;
use std::sync::Arc;

const PREFIX: &str = "base_model.model.";

/// An adapter that is open.
pub struct Adapter {
    /// Scale and rank of its modules.
    pub config: LoraConfig,
    /// Its tensors.
    pub source: Arc<dyn Source>,
    /// The pairs of factors, by module.
    pub pairs: BTreeMap<String, Pair>,
    /// Tensors of the base that it replaces: name in the base, index in the source.
    pub replaced: BTreeMap<String, usize>,
}

/// The factors of one module, as indices of the adapter's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// `lora_A` or `lora_embedding_A`.
    pub a: Option<usize>,
    /// `lora_B` or `lora_embedding_B`.
    pub b: Option<usize>,
    /// DoRA's magnitudes.
    pub magnitude: Option<usize>,
    /// `lora_B.bias`.
    pub bias: Option<usize>,
    /// Of an embedding.
    pub embedding: bool,
}

impl Adapter {
    /// Sorts the tensors of an adapter by module.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a tensor of a name that peft's LoRA does not write, or half a pair.
    pub fn new(config: LoraConfig, source: Arc<dyn Source>) -> Result<Adapter> {
        let (mut pairs, mut replaced) = (BTreeMap::<String, Pair>::new(), BTreeMap::new());
        for (at, meta) in source.tensors().iter().enumerate() {
            let bad = |rule: &str| Error::Checkpoint(format!("{}: tensor '{}': {rule}", source.label(), meta.name));
            let name = meta.name.strip_prefix(PREFIX).ok_or_else(|| bad("does not begin with 'base_model.model.'"))?;
            if !meta.dtype.is_float() {
                return Err(bad("is not of a floating-point type"));
            }
            let Some((module, part)) = part_of(name) else {
                if name.contains("lora_") || name.contains("ada_") {
                    return Err(bad("is none that a plain LoRA has"));
                }
                replaced.insert(name.replacen(".base_layer.", ".", 1).replacen(".modules_to_save.", ".", 1), at);
                continue;
            };
            let pair = pairs.entry(module.into()).or_default();
            let slot = match part {
                "lora_A.weight" => &mut pair.a,
                "lora_B.weight" => &mut pair.b,
                "lora_B.bias" => &mut pair.bias,
                "lora_embedding_A" => {
                    pair.embedding = true;
                    &mut pair.a
                }
                "lora_embedding_B" => &mut pair.b,
                _ => &mut pair.magnitude,
            };
            if slot.replace(at).is_some() {
                return Err(bad("is there in two forms"));
            }
        }
        for (module, pair) in &pairs {
            let bad = |rule: &str| Err(Error::Checkpoint(format!("{}: module '{module}': {rule}", source.label())));
            if pair.a.is_none() || pair.b.is_none() {
                return bad("has one factor of its pair, A or B, but not the other");
            }
            if pair.magnitude.is_some() != config.dora {
                return bad("has magnitudes if, and only if, adapter_config.json says use_dora");
            }
        }
        Ok(Adapter { config, source, pairs, replaced })
    }
}

const PARTS: [&str; 7] = [
    "lora_A.weight",
    "lora_B.weight",
    "lora_B.bias",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "lora_magnitude_vector.weight",
];

/// The module and the part of a LoRA tensor.
fn part_of(name: &str) -> Option<(&str, &str)> {
    PARTS.iter().find_map(|part| Some((name.strip_suffix(part)?.strip_suffix('.')?, *part)))
}
