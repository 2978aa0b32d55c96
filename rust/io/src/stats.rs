//! Statistics of a model's weights and their inputs: what merging, quantization and pruning share.
//!
//! `stats.safetensors` is one safetensors file (or shards of one). For a weight `W` of a linear layer with `in` inputs,
//! over the `count` tokens `x` that passed through it, it holds any of:
//!
//! | tensor | type, shape | holds |
//! |---|---|---|
//! | `W::gram` | F32 `[in, in]` | sum of `x xᵀ`; the Hessian of the layer's squared error is `2 gram / count` |
//! | `W::sumsq` | F32 `[in]` | sum of `x²`: the diagonal of `gram` |
//! | `W::mean` | F32 `[in]` | mean of `x` |
//! | `W::absmax` | F32 `[in]` | largest `abs(x)` |
//! | `W::fisher` | F32, shape of `W` | mean of the squared gradient |
//! | `W::count` | I64 `[]` | tokens, 1 or more; there wherever `gram` or `sumsq` is |
//!
//! Metadata: `schema` is [`SCHEMA`]; `model` is a hash of the headers of the model measured; `source` says on what.

use crate::safetensors::Checkpoint;
use polmrs_core::error::did_you_mean;
use polmrs_core::{Dtype, Error, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The version of the format: the value of the metadata key `schema`.
pub const SCHEMA: &str = "polmrs.stats/1";

/// What stands between a weight's name and the name of a statistic.
pub const SEPARATOR: &str = "::";

/// A statistic of one weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sum of outer products of inputs.
    Gram,
    /// Sum of squared inputs.
    Sumsq,
    /// Mean of inputs.
    Mean,
    /// Largest absolute input.
    Absmax,
    /// Mean squared gradient.
    Fisher,
    /// Tokens.
    Count,
}

impl Kind {
    /// Every statistic.
    pub const ALL: [Kind; 6] = [Kind::Gram, Kind::Sumsq, Kind::Mean, Kind::Absmax, Kind::Fisher, Kind::Count];

    /// The part of a tensor's name after the [`SEPARATOR`].
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Gram => "gram",
            Kind::Sumsq => "sumsq",
            Kind::Mean => "mean",
            Kind::Absmax => "absmax",
            Kind::Fisher => "fisher",
            Kind::Count => "count",
        }
    }

    /// The type of its tensor.
    pub const fn dtype(self) -> Dtype {
        if matches!(self, Kind::Count) { Dtype::I64 } else { Dtype::F32 }
    }

    /// The name of the tensor that holds this statistic of `weight`.
    pub fn tensor(self, weight: &str) -> String {
        format!("{weight}{SEPARATOR}{}", self.name())
    }
}

/// An open, valid statistics file.
#[derive(Debug)]
pub struct Stats {
    checkpoint: Arc<Checkpoint>,
    weights: BTreeMap<String, [Option<usize>; Kind::ALL.len()]>,
}

impl Stats {
    /// Opens a file or folder, and checks names, types, shapes and counts.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], naming file and tensor.
    pub fn open(path: &Path) -> Result<Stats> {
        let checkpoint = Arc::new(Checkpoint::open(path)?);
        let within = |error: Error| error.within(&path.display().to_string());
        check_metadata(&checkpoint).map_err(within)?;
        let mut weights: BTreeMap<String, [Option<usize>; Kind::ALL.len()]> = BTreeMap::new();
        for (at, tensor) in checkpoint.tensors().iter().enumerate() {
            let (weight, kind) = split(&tensor.name).map_err(within)?;
            if tensor.dtype != kind.dtype() {
                let (is, needs) = (tensor.dtype.name(), kind.dtype().name());
                return Err(within(bad(&tensor.name, format!("is {is}, must be {needs}"))));
            }
            weights.entry(weight.to_owned()).or_default()[kind as usize] = Some(at);
        }
        let stats = Stats { checkpoint, weights };
        stats.weights.keys().try_for_each(|weight| stats.check(weight)).map_err(within)?;
        Ok(stats)
    }

    /// The tensors behind.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// The weights that have statistics, in the order of their names.
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        self.weights.keys().map(String::as_str)
    }

    /// The position in [`checkpoint`](Stats::checkpoint) of a statistic of a weight.
    pub fn find(&self, weight: &str, kind: Kind) -> Option<usize> {
        self.weights.get(weight)?[kind as usize]
    }

    /// The number of inputs of a weight, where a statistic tells it.
    pub fn inputs(&self, weight: &str) -> Option<u64> {
        let of_inputs = [Kind::Gram, Kind::Sumsq, Kind::Mean, Kind::Absmax];
        let at = of_inputs.into_iter().find_map(|kind| self.find(weight, kind))?;
        self.checkpoint.tensors()[at].shape.first().copied()
    }

    /// The tokens that a weight's statistics were taken over.
    pub fn count(&self, weight: &str) -> Result<Option<u64>> {
        let Some(at) = self.find(weight, Kind::Count) else { return Ok(None) };
        let mut bytes = [0; 8];
        self.checkpoint.read(at, 0, &mut bytes)?;
        match i64::from_le_bytes(bytes) {
            count @ 1.. => Ok(Some(count.unsigned_abs())),
            count => Err(bad(&Kind::Count.tensor(weight), format!("{count} tokens are not at least 1"))),
        }
    }

    /// The hash of the headers of the model measured.
    pub fn model(&self) -> &str {
        self.checkpoint.metadata().get("model").map_or("", String::as_str)
    }

    /// What the model was measured on.
    pub fn source(&self) -> &str {
        self.checkpoint.metadata().get("source").map_or("", String::as_str)
    }

    /// The shapes of one weight's statistics fit each other, and its sums have a count.
    fn check(&self, weight: &str) -> Result<()> {
        let inputs = self.inputs(weight);
        for kind in Kind::ALL {
            let Some(at) = self.find(weight, kind) else { continue };
            let shape = &self.checkpoint.tensors()[at].shape[..];
            let fits = match (kind, inputs) {
                (Kind::Count, _) => shape.is_empty(),
                (Kind::Fisher, Some(inputs)) => shape.contains(&inputs),
                (Kind::Gram, Some(inputs)) => shape == [inputs, inputs],
                (_, Some(inputs)) => shape == [inputs],
                (kind, None) => kind == Kind::Fisher,
            };
            if !fits {
                let inputs = inputs.map_or_else(String::new, |inputs| format!(", and this weight has {inputs} inputs"));
                return Err(bad(&kind.tensor(weight), format!("shape {shape:?}; it must be {}{inputs}", rule(kind))));
            }
        }
        for sum in [Kind::Gram, Kind::Sumsq] {
            if self.find(weight, sum).is_some() && self.find(weight, Kind::Count).is_none() {
                let count = Kind::Count.tensor(weight);
                return Err(bad(&sum.tensor(weight), format!("is a sum over tokens, but '{count}' is missing")));
            }
        }
        self.count(weight).map(drop)
    }
}

fn bad(tensor: &str, rule: String) -> Error {
    Error::Checkpoint(format!("tensor '{}': {rule}", tensor.escape_debug()))
}

fn rule(kind: Kind) -> &'static str {
    match kind {
        Kind::Gram => "[in, in]",
        Kind::Sumsq | Kind::Mean | Kind::Absmax => "[in]",
        Kind::Fisher => "that of the weight",
        Kind::Count => "[]",
    }
}

fn check_metadata(checkpoint: &Checkpoint) -> Result<()> {
    let metadata = checkpoint.metadata();
    match metadata.get("schema").map(String::as_str) {
        Some(SCHEMA) => {}
        other => {
            let is = other.map_or_else(|| "missing".to_owned(), |other| format!("'{}'", other.escape_debug()));
            return Err(Error::Checkpoint(format!("metadata: schema is {is}, must be '{SCHEMA}'")));
        }
    }
    for key in ["model", "source"] {
        if metadata.get(key).is_none_or(String::is_empty) {
            return Err(Error::Checkpoint(format!("metadata: {key} is missing")));
        }
    }
    Ok(())
}

/// `W::gram` -> `W` and `gram`.
fn split(name: &str) -> Result<(&str, Kind)> {
    let names = || Kind::ALL.map(Kind::name);
    let Some((weight, suffix)) = name.rsplit_once(SEPARATOR).filter(|(weight, _)| !weight.is_empty()) else {
        return Err(bad(name, format!("is not named <weight>{SEPARATOR}<{}>", names().join("|"))));
    };
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == suffix).ok_or_else(|| {
        let near = if suffix.len() < 40 { did_you_mean(suffix, names()) } else { String::new() };
        bad(name, format!("the statistic is not one of {}{near}", names().join(", ")))
    })?;
    Ok((weight, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors::{Layout, Spec, Writer};

    /// A file with these statistics, all zeros but for counts of `count`.
    fn made(schema: &str, tensors: &[(&str, Dtype, &[u64])], count: i64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let pairs = [("schema", schema), ("model", "sha256:00"), ("source", "made")];
        let metadata = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let spec = |(name, dtype, shape): &(&str, Dtype, &[u64])| Spec {
            name: (*name).into(),
            dtype: *dtype,
            shape: shape.to_vec(),
        };
        let specs: Vec<Spec> = tensors.iter().map(spec).collect();
        let layout = Layout::new("stats", &metadata, &specs, u64::MAX).unwrap();
        let writer = Writer::create(folder.path(), layout).unwrap();
        for (at, (name, dtype, shape)) in tensors.iter().enumerate() {
            let zeros = vec![0; shape.iter().product::<u64>() as usize * dtype.size()];
            let is_count = name.ends_with("::count") && zeros.len() == 8;
            writer.write(at, 0, if is_count { count.to_le_bytes().to_vec() } else { zeros }.as_slice()).unwrap();
        }
        writer.finish().unwrap();
        folder
    }

    const GOOD: [(&str, Dtype, &[u64]); 7] = [
        ("a.weight::gram", Dtype::F32, &[3, 3]),
        ("a.weight::sumsq", Dtype::F32, &[3]),
        ("a.weight::mean", Dtype::F32, &[3]),
        ("a.weight::absmax", Dtype::F32, &[3]),
        ("a.weight::fisher", Dtype::F32, &[5, 3]),
        ("a.weight::count", Dtype::I64, &[]),
        ("odd::name::fisher", Dtype::F32, &[2]),
    ];

    fn refused(tensors: &[(&str, Dtype, &[u64])]) -> String {
        Stats::open(made(SCHEMA, tensors, 7).path()).unwrap_err().to_string()
    }

    #[test]
    fn statistics_are_found_by_weight_and_kind() {
        let folder = made(SCHEMA, &GOOD, 7);
        let stats = Stats::open(folder.path()).unwrap();
        assert_eq!(stats.weights().collect::<Vec<_>>(), ["a.weight", "odd::name"]);
        for (name, _, shape) in GOOD {
            let (weight, kind) = split(name).unwrap();
            let tensor = &stats.checkpoint().tensors()[stats.find(weight, kind).unwrap()];
            assert_eq!((tensor.name.as_str(), &tensor.shape[..]), (name, shape));
        }
        assert_eq!((stats.inputs("a.weight"), stats.inputs("odd::name")), (Some(3), None));
        assert_eq!((stats.count("a.weight").unwrap(), stats.count("odd::name").unwrap()), (Some(7), None));
        assert_eq!((stats.model(), stats.source()), ("sha256:00", "made"));
    }

    #[test]
    fn shapes_must_fit_each_other() {
        let mean = ("w::mean", Dtype::F32, &[4][..]);
        assert!(refused(&[mean, ("w::absmax", Dtype::F32, &[5])]).contains("'w::absmax': shape [5]; it must be [in]"));
        let count = ("w::count", Dtype::I64, &[][..]);
        assert!(refused(&[("w::gram", Dtype::F32, &[4, 5]), count]).contains("'w::gram': shape [4, 5]"));
        assert!(refused(&[mean, ("w::fisher", Dtype::F32, &[3, 5])]).contains("this weight has 4 inputs"));
        assert!(refused(&[("w::count", Dtype::I64, &[1])]).contains("it must be []"));
        assert!(refused(&[("w::mean", Dtype::F32, &[])]).contains("it must be [in]"));
    }

    #[test]
    fn names_types_and_counts_are_checked() {
        assert!(refused(&[("w::grm", Dtype::F32, &[4, 4])]).contains("did you mean 'gram'?"));
        assert!(refused(&[("weight", Dtype::F32, &[4])]).contains("is not named <weight>::<gram|"));
        assert!(refused(&[("w::mean", Dtype::F64, &[4])]).contains("is F64, must be F32"));
        assert!(refused(&[("w::sumsq", Dtype::F32, &[4])]).contains("'w::count' is missing"));
        let none = made(SCHEMA, &GOOD, 0);
        assert!(Stats::open(none.path()).unwrap_err().to_string().contains("0 tokens are not at least 1"));
    }

    #[test]
    fn another_schema_is_refused() {
        let other = made("polmrs.stats/2", &GOOD, 7);
        let message = Stats::open(other.path()).unwrap_err().to_string();
        assert!(message.ends_with("metadata: schema is 'polmrs.stats/2', must be 'polmrs.stats/1'"), "{message}");
    }
}
