//! The tensors of an adapter, by the module that they belong to.
//!
//! peft writes `base_model.model.<module>.<part>`, the part being `lora_A.weight` (rank x in), `lora_B.weight` (out x
//! rank), `lora_B.bias`, `lora_embedding_A` (rank x rows), `lora_embedding_B` (columns x rank), `lora_magnitude_vector`;
//! `base_layer.weight` where the base's embedding was saved too; a plain `weight` or `bias` where that was trained whole.

use super::config::LoraConfig;
use super::factors::Factors;
use polmrs_core::{Dtype, Error, Result, dtype};
use polmrs_engine::Source;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the names of an adapter's tensors begin with.
pub const PREFIX: &str = "base_model.model.";

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

    /// The inputs and the outputs of a pair, by the shapes of A (rank x inputs) and B (outputs x rank); `None` where one is
    /// no matrix.
    pub fn ends(&self, pair: &Pair) -> Option<[u64; 2]> {
        match (self.shape(pair.a)?, self.shape(pair.b)?) {
            ([_, inputs], [outputs, _]) => Some([*inputs, *outputs]),
            _ => None,
        }
    }

    /// The same, after a look at everything that has to fit.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for factors that are no matrices, or not of the rank that the config says.
    pub fn check(&self, module: &str, pair: &Pair) -> Result<[u64; 2]> {
        let rank = self.config.rank(module);
        let [inputs, outputs] = self
            .ends(pair)
            .ok_or_else(|| self.misfit(module, pair, "are not matrices; only linear layers and embeddings are read"))?;
        if self.shape(pair.a) != Some(&[rank, inputs]) || self.shape(pair.b) != Some(&[outputs, rank]) {
            let rule = format!("are not of rank {rank}, which adapter_config.json says");
            return Err(self.misfit(module, pair, &rule));
        }
        Ok([inputs, outputs])
    }

    /// An error about the factors of a module.
    pub fn misfit(&self, module: &str, pair: &Pair, rule: &str) -> Error {
        let (a, b) = (self.shape(pair.a).unwrap_or_default(), self.shape(pair.b).unwrap_or_default());
        let label = self.source.label();
        Error::Checkpoint(format!("{label}: module '{module}': A of {a:?} and B of {b:?} {rule}"))
    }

    /// The factors of a pair that fits, of a tensor whose rows are outputs, or inputs if they come first.
    ///
    /// # Errors
    /// Whatever reading meets.
    pub fn factors(&self, pair: &Pair, inputs_first: bool) -> Result<Factors> {
        let read = |at: Option<usize>| -> Result<Vec<f32>> {
            let at = at.ok_or_else(|| Error::Internal("a pair without a factor".into()))?;
            let mut values = vec![0.0; self.source.tensors()[at].elements() as usize];
            read_f32(self.source.as_ref(), at, 0, &mut values, &mut Vec::new())?;
            Ok(values)
        };
        let (a, b) = (read(pair.a)?, read(pair.b)?);
        let [inputs, outputs] = self.ends(pair).unwrap_or_default().map(|size| size as usize);
        let rank = a.len() / inputs.max(1);
        Ok(if inputs_first {
            Factors { left: transposed(&a, rank), right: transposed(&b, outputs), rank, columns: outputs }
        } else {
            Factors { left: b, right: a, rank, columns: inputs }
        })
    }

    fn shape(&self, at: Option<usize>) -> Option<&[u64]> {
        Some(&self.source.tensors()[at?].shape)
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

/// Elements of any floating-point tensor as `f32`; `raw` is a buffer.
pub(super) fn read_f32(
    source: &dyn Source,
    tensor: usize,
    first: u64,
    values: &mut [f32],
    raw: &mut Vec<u8>,
) -> Result<()> {
    let kind: Dtype = source.tensors()[tensor].dtype;
    raw.resize(values.len() * kind.size(), 0);
    source.read(tensor, first, raw)?;
    dtype::to_f32(kind, raw, values);
    Ok(())
}

/// A matrix of `rows` rows with its rows as columns.
pub fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len() / rows.max(1);
    (0..matrix.len()).map(|at| matrix[(at % rows) * columns + at / rows]).collect()
}
