//! The factors of linear methods.

use crate::config::Config;
use crate::extra::Extra;
use crate::program::{self, Opened};
use polmrs_core::{Ctl, Dtype, Result};
use polmrs_engine::Options;
use polmrs_engine::sink::MemorySink;
use polmrs_engine::source::{MemorySource, Meta, Source};
use polmrs_model::adapter::Products;
use std::collections::BTreeMap;

/// What a linear method multiplies every model with, by tensor: it merges vectors, each model's being 1 at its own place.
pub(super) fn of(config: &Config, products: &[Products]) -> Result<BTreeMap<String, Vec<f32>>> {
    let count = products.len() - usize::from(config.over_zero);
    let unit =
        |own: usize| -> Vec<u8> { (0..count).flat_map(|at| f32::from(u8::from(at == own)).to_le_bytes()).collect() };
    let units: Vec<Vec<u8>> = (0..products.len()).map(unit).collect();
    let mut sources = Vec::new();
    for (product, unit) in products.iter().zip(&units) {
        let vector = |meta: &Meta| Meta { name: meta.name.clone(), dtype: Dtype::F32, shape: vec![count as u64] };
        let tensors = product.tensors().iter().map(|meta| (vector(meta), unit.as_slice()));
        sources.push(MemorySource::new(product.label(), tensors.collect())?);
    }
    let opened: Vec<Opened<'_>> = sources.iter().map(|source| Opened { source, tied: false }).collect();
    let plan = program::plan(config, &opened, 0, &mut Extra::default())?;
    let mut found = vec![vec![0; 4 * count]; plan.outputs.len()];
    let sink = MemorySink::new(found.iter_mut().map(Vec::as_mut_slice).collect());
    let sources: Vec<&dyn Source> = sources.iter().map(|source| source as &dyn Source).collect();
    polmrs_engine::run(&sources, &plan, &sink, Options::default(), &Ctl::new())?;
    drop(sink);
    let numbers = |bytes: &Vec<u8>| bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    Ok(plan.outputs.iter().zip(&found).map(|(meta, bytes)| (meta.name.clone(), numbers(bytes))).collect())
}
