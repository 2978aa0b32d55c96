//! A model with an adapter on it, computed as it is read: nothing larger than a block and the adapter's factors is held.
//!
//! * LoRA: `W + s B A`; an embedding and GPT-2's `Conv1D` hold the transpose of `B A`.
//! * DoRA: `m_o / |W_o + s (B A)_o| * (W_o + s (B A)_o)` for every output o, the norms in f64.
//! * `lora_bias`: the bias plus `s` times the adapter's; biases and modules that were trained whole replace the base's.
//!
//! Sums are in f32, k in order, and rounded once to the base's type: what peft's `merge_and_unload` gives for an f32
//! adapter, within rounding. peft gives a replaced module in the adapter's type; here it has the base's.

use super::factors::{Cache, Factors, by_rows};
use super::weights::{Adapter, Pair, read_f32};
use polmrs_core::error::did_you_mean;
use polmrs_core::{BLOCK, Error, Result, dtype, reduce};
use polmrs_engine::source::{Meta, Source};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A model with an adapter on it.
pub struct Applied {
    label: String,
    base: Arc<dyn Source>,
    adapter: Arc<Adapter>,
    tensors: Vec<Meta>,
    changes: HashMap<usize, Change>,
    factors: Cache,
}

/// What becomes of one tensor of the base.
struct Change {
    /// The adapter's tensor that stands in for the base's.
    instead: Option<usize>,
    low: Option<Low>,
    /// The adapter's tensor to add, and by what.
    plus: Option<(usize, f32)>,
}

/// A low-rank change of a weight.
struct Low {
    pair: Pair,
    scale: f32,
    /// Rows of the stored tensor are inputs: `B A` is transposed.
    inputs_first: bool,
    /// `m / norm` of every output, once computed: DoRA.
    ratios: Mutex<Option<Arc<Vec<f32>>>>,
}

impl Applied {
    /// Finds for every part of the adapter the base's tensor that it changes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the base has no such module, or shapes do not go together.
    pub fn new(label: impl Into<String>, base: Arc<dyn Source>, adapter: Arc<Adapter>) -> Result<Applied> {
        let mut tensors = base.tensors().to_vec();
        let mut changes: HashMap<usize, Change> = HashMap::new();
        let stays = || Change { instead: None, low: None, plus: None };
        for (name, at) in &adapter.replaced {
            let tensor = locate(&adapter, base.as_ref(), name)?;
            let (old, new) = (&tensors[tensor].shape, &adapter.source.tensors()[*at].shape);
            if old.len() != new.len() || old.get(1..) != new.get(1..) {
                same_shape(&adapter, *at, &tensors[tensor])?;
            }
            tensors[tensor].shape.clone_from(new); // a vocabulary may have grown
            changes.entry(tensor).or_insert_with(stays).instead = Some(*at);
        }
        let inputs_first = holds_inputs_first(&adapter, base.as_ref());
        for (module, pair) in &adapter.pairs {
            let tensor = locate(&adapter, base.as_ref(), &format!("{module}.weight"))?;
            let low = low(&adapter, module, pair, &tensors[tensor], inputs_first)?;
            if let Some(bias) = pair.bias {
                let tensor = locate(&adapter, base.as_ref(), &format!("{module}.bias"))?;
                same_shape(&adapter, bias, &tensors[tensor])?;
                changes.entry(tensor).or_insert_with(stays).plus = Some((bias, low.scale));
            }
            changes.entry(tensor).or_insert_with(stays).low = Some(low);
        }
        Ok(Applied { label: label.into(), base, adapter, tensors, changes, factors: Cache::default() })
    }

    /// The elements of a changed tensor from `first` on, before DoRA's ratios.
    fn sum(&self, tensor: usize, change: &Change, first: u64, values: &mut [f32], raw: &mut Vec<u8>) -> Result<()> {
        match change.instead {
            Some(at) => {
                read_f32(self.adapter.source.as_ref(), at, first, values, raw)?;
                let kind = self.tensors[tensor].dtype; // as peft, which loads it into the base
                raw.resize(values.len() * kind.size(), 0);
                dtype::from_f32(kind, values, raw);
                dtype::to_f32(kind, raw, values);
            }
            None => read_f32(self.base.as_ref(), tensor, first, values, raw)?,
        }
        if let Some(low) = &change.low {
            self.factors_of(tensor, low)?.add(first, values, low.scale);
        }
        if let Some((at, scale)) = change.plus {
            let mut plus = vec![0.0; values.len()];
            read_f32(self.adapter.source.as_ref(), at, first, &mut plus, raw)?;
            values.iter_mut().zip(plus).for_each(|(value, plus)| *value += scale * plus);
        }
        Ok(())
    }

    /// The factors of a tensor: kept ones, or read anew.
    fn factors_of(&self, tensor: usize, low: &Low) -> Result<Arc<Factors>> {
        self.factors.factors(tensor, || self.adapter.factors(&low.pair, low.inputs_first))
    }

    /// DoRA's `m / norm` of every output of a tensor; the first to ask computes them in one pass over the tensor.
    fn ratios(&self, tensor: usize, change: &Change, low: &Low, magnitude: usize) -> Result<Arc<Vec<f32>>> {
        let mut ratios = guard(&low.ratios);
        if let Some(known) = ratios.as_ref() {
            return Ok(Arc::clone(known));
        }
        let [rows, columns] = [self.tensors[tensor].shape[0] as usize, self.tensors[tensor].shape[1] as usize];
        let mut squares = vec![0.0f64; if low.inputs_first { columns } else { rows }];
        let (at_once, mut raw) = ((BLOCK / columns.max(1)).max(1), Vec::new());
        let mut values = vec![0.0; at_once.min(rows) * columns];
        for row in (0..rows).step_by(at_once) {
            let values = &mut values[..at_once.min(rows - row) * columns];
            self.sum(tensor, change, (row * columns) as u64, values, &mut raw)?;
            for (at, values) in values.chunks_exact(columns).enumerate() {
                if low.inputs_first {
                    squares.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
                } else {
                    squares[row + at] = values.chunks(BLOCK).map(|piece| reduce::dot(piece, piece)).sum();
                }
            }
        }
        let mut found = vec![0.0; squares.len()];
        read_f32(self.adapter.source.as_ref(), magnitude, 0, &mut found, &mut raw)?;
        found.iter_mut().zip(squares).for_each(|(ratio, square)| *ratio /= square.sqrt() as f32);
        let found = Arc::new(found);
        *ratios = Some(Arc::clone(&found));
        Ok(found)
    }
}

impl Source for Applied {
    fn label(&self) -> &str {
        &self.label
    }

    fn tensors(&self) -> &[Meta] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.base.find(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        self.base.files().into_iter().chain(self.adapter.source.files()).collect()
    }

    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        let Some(change) = self.changes.get(&tensor) else { return self.base.read(tensor, first, bytes) };
        let kind = self.tensors[tensor].dtype;
        let mut values = vec![0.0; bytes.len() / kind.size()];
        self.sum(tensor, change, first, &mut values, &mut Vec::new())?;
        if let Some(low) = &change.low
            && let Some(magnitude) = low.pair.magnitude
        {
            let ratios = self.ratios(tensor, change, low, magnitude)?;
            let columns = self.tensors[tensor].shape[1] as usize;
            for (row, column, values) in by_rows(first, &mut values, columns) {
                if low.inputs_first {
                    values.iter_mut().zip(&ratios[column..]).for_each(|(value, ratio)| *value *= ratio);
                } else {
                    values.iter_mut().for_each(|value| *value *= ratios[row]);
                }
            }
        }
        dtype::from_f32(kind, &values, bytes);
        Ok(())
    }
}

/// The base's tensor of a name as peft has it, which knows the class of the model: a checkpoint may lack the first step
/// of the name (`transformer.h.0...` is `h.0...`), or have one more.
fn locate(adapter: &Adapter, base: &dyn Source, name: &str) -> Result<usize> {
    let shorter = name.split_once('.').and_then(|(_, rest)| base.find(rest));
    let longer = || ["model", "transformer"].iter().find_map(|first| base.find(&format!("{first}.{name}")));
    let found = base.find(name).or(shorter).or_else(longer);
    let at = found.ok_or_else(|| {
        let hint = did_you_mean(name, base.tensors().iter().map(|tensor| tensor.name.as_str()));
        let (adapter, base) = (adapter.source.label(), base.label());
        Error::Checkpoint(format!("{adapter}: changes '{name}', a tensor that {base} does not have{hint}"))
    })?;
    let meta = &base.tensors()[at];
    if meta.dtype.is_float() {
        return Ok(at);
    }
    let (adapter, base, kind) = (adapter.source.label(), base.label(), meta.dtype.name());
    Err(Error::Checkpoint(format!(
        "{adapter}: changes '{name}', which is of type {kind} in {base}, not floating-point"
    )))
}

/// Whether the model stores its weights inputs first: the adapter's config says so, or a weight that is not square shows
/// it. (peft's config speaks of the last module that it looked at, so it may say no although most modules do.)
fn holds_inputs_first(adapter: &Adapter, base: &dyn Source) -> bool {
    let shown = |(module, pair): (&String, &Pair)| {
        let at = locate(adapter, base, &format!("{module}.weight")).ok()?;
        let [inputs, outputs] = adapter.ends(pair)?;
        (!pair.embedding && inputs != outputs).then(|| base.tensors()[at].shape == [inputs, outputs])
    };
    adapter.config.fan_in_fan_out || adapter.pairs.iter().any(|pair| shown(pair) == Some(true))
}

/// The change of one weight, after a look at all shapes.
fn low(adapter: &Adapter, module: &str, pair: &Pair, weight: &Meta, inputs_first: bool) -> Result<Low> {
    let [inputs, outputs] = adapter.check(module, pair)?;
    let bad = |rule: String| Err(adapter.misfit(module, pair, &rule));
    let (as_stored, turned) = (weight.shape == [outputs, inputs], weight.shape == [inputs, outputs]);
    if !(turned || as_stored && !pair.embedding) {
        return bad(format!("do not go with '{}' of {:?}", weight.name, weight.shape));
    }
    let low = Low {
        pair: pair.clone(),
        scale: adapter.config.scale(module),
        inputs_first: pair.embedding || (turned && (!as_stored || inputs_first)),
        ratios: Mutex::default(),
    };
    match pair.magnitude {
        Some(at) if adapter.source.tensors()[at].elements() != outputs => bad(format!("need {outputs} magnitudes")),
        _ => Ok(low),
    }
}

fn same_shape(adapter: &Adapter, at: usize, base: &Meta) -> Result<()> {
    let meta = &adapter.source.tensors()[at];
    if meta.shape == base.shape {
        return Ok(());
    }
    let (label, name, shape, to, expected) = (adapter.source.label(), &meta.name, &meta.shape, &base.name, &base.shape);
    Err(Error::Checkpoint(format!("{label}: '{name}' of {shape:?} does not go with '{to}' of {expected:?}")))
}

/// A lock that outlives a panic elsewhere: what it guards is left consistent between statements.
fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
