//! Adapters without a model: what several change between them, and each of them as the dense changes that it makes.
//!
//! A module's change is `s B A`, of as many rows as the module has outputs; that of an embedding is `s (B A)ᵀ`, as the weight
//! lies in a model. A module that an adapter does not have changes by zero. What was trained whole (`modules_to_save`, biases)
//! is a value and no change, and every adapter must have it: for one that lacks it the value stands in the model. Where an
//! embedding or a head has an adapter, peft writes the model's own weight into the adapter's file, too: it is no part of
//! the changes.

use super::factors::Cache;
use super::weights::{Adapter, PREFIX, Pair, read_f32};
use polmrs_core::{Dtype, Error, Result, dtype};
use polmrs_engine::source::{Meta, Source};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// What several adapters change between them.
#[derive(Debug)]
pub struct Union {
    /// The modules, in the order of their names.
    pub modules: BTreeMap<String, Module>,
    /// The tensors that were trained whole, by their names in the adapters.
    pub replaced: BTreeMap<String, Meta>,
    /// The model's own weights that lie in adapters' files, likewise.
    pub beneath: BTreeMap<String, Meta>,
}

/// A module that at least one adapter changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// The size of what goes in.
    pub inputs: u64,
    /// The size of what comes out.
    pub outputs: u64,
    /// Whether it is an embedding.
    pub embedding: bool,
    /// Whether an adapter changes its bias, too.
    pub bias: bool,
}

impl Module {
    /// The rows and the columns of its change.
    pub fn shape(&self) -> [u64; 2] {
        if self.embedding { [self.inputs, self.outputs] } else { [self.outputs, self.inputs] }
    }
}

impl Union {
    /// Looks at the headers of all adapters.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for DoRA, for modules whose shapes differ, and for tensors trained whole that one lacks.
    pub fn of(adapters: &[Arc<Adapter>]) -> Result<Union> {
        let mut modules: BTreeMap<String, Module> = BTreeMap::new();
        for adapter in adapters {
            let label = adapter.source.label();
            if adapter.config.dora {
                return Err(Error::Checkpoint(format!(
                    "{label}: use_dora: its magnitudes scale the rows of the model's own weights, so without the model \
                     there is no change to merge; write 'MODEL+{label}'"
                )));
            }
            for (name, pair) in &adapter.pairs {
                let [inputs, outputs] = adapter.check(name, pair)?;
                let here = Module { inputs, outputs, embedding: pair.embedding, bias: pair.bias.is_some() };
                let known = modules.entry(name.clone()).or_insert(here);
                known.bias |= here.bias;
                if (Module { bias: known.bias, ..here }) != *known {
                    let [rows, columns] = known.shape();
                    let rule = format!("do not go with a weight of [{rows}, {columns}], which another adapter changes");
                    return Err(adapter.misfit(name, pair, &rule));
                }
            }
        }
        let (beneath, replaced) = whole(adapters).into_iter().partition(|(name, _)| name.contains(".base_layer."));
        check(adapters, &replaced)?;
        Ok(Union { modules, replaced, beneath })
    }
}

/// All tensors that are values and no factors.
fn whole(adapters: &[Arc<Adapter>]) -> BTreeMap<String, Meta> {
    let own = |adapter: &Arc<Adapter>| {
        let tensors = adapter.replaced.values().map(|at| adapter.source.tensors()[*at].clone());
        tensors.map(|meta| (meta.name.clone(), meta)).collect::<Vec<_>>()
    };
    adapters.iter().flat_map(own).collect()
}

/// All adapters must have what was trained whole, in one shape.
fn check(adapters: &[Arc<Adapter>], replaced: &BTreeMap<String, Meta>) -> Result<()> {
    for (adapter, (name, meta)) in adapters.iter().flat_map(|one| replaced.iter().map(move |tensor| (one, tensor))) {
        let label = adapter.source.label();
        match adapter.source.find(name).map(|at| &adapter.source.tensors()[at].shape) {
            Some(shape) if *shape == meta.shape => {}
            Some(shape) => {
                let expected = &meta.shape;
                return Err(Error::Checkpoint(format!(
                    "{label}: '{name}' has shape {shape:?}, but {expected:?} in another"
                )));
            }
            None => {
                return Err(Error::Checkpoint(format!(
                    "{label}: does not have '{name}', which another adapter has trained whole; its value stands in the \
                     model: merge 'MODEL+{label}' and the others so"
                )));
            }
        }
    }
    Ok(())
}

/// One adapter as the changes that it makes.
pub struct Products {
    label: String,
    adapter: Option<Arc<Adapter>>,
    tensors: Vec<Meta>,
    parts: Vec<Part>,
    index: HashMap<String, usize>,
    factors: Cache,
}

/// Where a tensor comes from.
enum Part {
    Nothing,
    Product { pair: Pair, scale: f32, inputs_first: bool },
    Own { at: usize, scale: Option<f32> },
}

impl Products {
    /// The changes that an adapter makes to everything in the union; those of no adapter are zero.
    pub fn new(label: impl Into<String>, adapter: Option<Arc<Adapter>>, union: &Union) -> Products {
        let (mut tensors, mut parts) = (Vec::new(), Vec::new());
        let mut add = |name: String, dtype: Dtype, shape: Vec<u64>, part: Part| {
            tensors.push(Meta { name, dtype, shape });
            parts.push(part);
        };
        for (name, module) in &union.modules {
            let own = adapter.as_ref().and_then(|adapter| Some((adapter.pairs.get(name)?, adapter.config.scale(name))));
            let inputs_first = module.embedding;
            let product = own.map(|(pair, scale)| Part::Product { pair: pair.clone(), scale, inputs_first });
            add(weight(name), Dtype::F32, module.shape().to_vec(), product.unwrap_or(Part::Nothing));
            if module.bias {
                let own = own.and_then(|(pair, scale)| Some(Part::Own { at: pair.bias?, scale: Some(scale) }));
                add(bias(name), Dtype::F32, vec![module.outputs], own.unwrap_or(Part::Nothing));
            }
        }
        for (name, meta) in &union.replaced {
            let own = adapter.as_ref().and_then(|adapter| Some((adapter, adapter.source.find(name)?)));
            let dtype = own.map_or(meta.dtype, |(adapter, at)| adapter.source.tensors()[at].dtype);
            let part = own.map_or(Part::Nothing, |(_, at)| Part::Own { at, scale: None });
            let short = name.strip_prefix(PREFIX).unwrap_or(name);
            add(short.to_owned(), dtype, meta.shape.clone(), part);
        }
        let index = tensors.iter().enumerate().map(|(at, meta)| (meta.name.clone(), at)).collect();
        Products { label: label.into(), adapter, tensors, parts, index, factors: Cache::default() }
    }
}

/// What the change of a module's weight is called.
pub fn weight(module: &str) -> String {
    format!("{module}.weight")
}

/// What the change of a module's bias is called: not as the bias, which may have been trained whole beside it.
pub fn bias(module: &str) -> String {
    format!("{module}.lora_B.bias")
}

impl Source for Products {
    fn label(&self) -> &str {
        &self.label
    }

    fn tensors(&self) -> &[Meta] {
        &self.tensors
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.adapter.as_ref().map(|adapter| adapter.source.files()).unwrap_or_default()
    }

    fn read(&self, tensor: usize, first: u64, bytes: &mut [u8]) -> Result<()> {
        let kind = self.tensors[tensor].dtype;
        let mut values = vec![0.0; bytes.len() / kind.size()];
        match (&self.parts[tensor], &self.adapter) {
            (Part::Product { pair, scale, inputs_first }, Some(adapter)) => {
                let factors = self.factors.factors(tensor, || adapter.factors(pair, *inputs_first))?;
                factors.add(first, &mut values, *scale);
            }
            (Part::Own { at, scale: None }, Some(adapter)) => return adapter.source.read(*at, first, bytes),
            (Part::Own { at, scale: Some(scale) }, Some(adapter)) => {
                read_f32(adapter.source.as_ref(), *at, first, &mut values, &mut Vec::new())?;
                values.iter_mut().for_each(|value| *value *= scale);
            }
            (Part::Nothing, _) | (_, None) => {}
        }
        dtype::from_f32(kind, &values, bytes);
        Ok(())
    }
}
