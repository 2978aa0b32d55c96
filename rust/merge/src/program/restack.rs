//! Which layers of which models the layers of the output come from.

use super::Opened;
use crate::config::{Config, Member};
use crate::outline::{Modules, Outline};
use polmrs_core::{Error, Result};
use polmrs_engine::source::Source;

/// The layers of a module that is made of slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restack {
    /// The module's name; `None` for the whole model.
    pub module: Option<String>,
    /// How many layers the model that gives the config has there.
    pub before: u64,
    /// For every output layer, the model and the layer whose place it takes.
    pub layers: Vec<(usize, u64)>,
}

/// The modules that are made of slices, for what a config says by layer.
pub fn restacks(config: &Config, models: &[Opened<'_>]) -> Result<Vec<Restack>> {
    let modules = Modules::of(config)?;
    let sliced = config.modules.iter().enumerate().filter(|(_, module)| module.parts[0].layers().is_some());
    sliced
        .map(|(at, module)| {
            let before = Outline::of(models[config.donor()].source, &modules, (at, module))?.layers.len() as u64;
            let layers = module.parts.iter().flat_map(|part| {
                let donor = &part.members[part.donor()];
                donor.layers.clone().into_iter().flatten().map(|layer| (donor.model, layer))
            });
            Ok(Restack { module: module.name.clone(), before, layers: layers.collect() })
        })
        .collect()
}

/// Whether a model has the layers that are asked for.
pub(super) fn check(member: &Member, source: &dyn Source, count: usize) -> Result<()> {
    match &member.layers {
        Some(layers) if layers.end > count as u64 => {
            let (place, label, start, end) = (&member.place, source.label(), layers.start, layers.end);
            Err(Error::Config(format!(
                "{place}.layer_range: [{start}, {end}] ends beyond the {count} layers of {label}"
            )))
        }
        _ => Ok(()),
    }
}
