//! A configuration and open models to a plan, from headers alone: which tensors, which roles, which stages.
//!
//! The output has the tensors of the base (of the first model where there is none), with their names, shapes and order.
//! Every other model must have the same tensors, but for a head that is tied to the embedding: a model whose config ties
//! them may leave it out, and one that stores it although the base ties it has it left out, with a note.

use crate::config::Config;
use crate::params::Params;
use crate::setting::{Place, layer};
use crate::spec::{Tensor, Value, WholeModel};
use polmrs_core::error::did_you_mean;
use polmrs_core::{Dtype, Error, Result};
use polmrs_engine::source::{Meta, Source};
use polmrs_engine::{Input, Job, Plan, Stage, Target};
use std::collections::HashMap;

/// A model that is open.
#[derive(Clone, Copy)]
pub struct Opened<'a> {
    /// Its tensors.
    pub source: &'a dyn Source,
    /// Whether its config ties the output head to the input embedding.
    pub tied: bool,
}

/// Plans the merge of open models, given in the order of the configuration.
pub fn plan(config: &Config, models: &[Opened<'_>], seed: u64) -> Result<Plan> {
    let (base, merged) = config.roles();
    let donor = config.base.unwrap_or(0);
    let order: Vec<usize> = base.into_iter().chain(merged.iter().copied()).collect();
    let depths = Depths::of(models[donor].source);
    let mut plan = Plan { notes: config.notes.clone(), ..Plan::default() };
    let mut found: Vec<usize> = vec![0; models.len()];
    let whole_model = WholeModel::default();
    for (index, meta) in models[donor].source.tensors().iter().enumerate() {
        let mut inputs = Vec::new();
        for model in &order {
            let tensor = if *model == donor { index } else { locate(models, *model, donor, meta)? };
            found[*model] += usize::from(models[*model].source.find(&meta.name).is_some());
            inputs.push(Input { source: *model, tensor, first: 0, len: meta.elements(), round: None });
        }
        let place = Place { name: &meta.name, depth: depths.at(&meta.name) };
        let params = resolve(config, &merged, place)?;
        let output = add_job(&mut plan, config, models, meta, inputs, &params, Whole { seed, model: &whole_model })?;
        plan.outputs.push(output);
    }
    for model in &merged {
        refuse_extra(models, *model, donor, found[*model], &mut plan.notes)?;
    }
    Ok(plan)
}

/// What all tensors of a merge share.
#[derive(Clone, Copy)]
struct Whole<'a> {
    seed: u64,
    model: &'a WholeModel,
}

/// Adds the job of one tensor and gives the tensor it writes.
fn add_job(
    plan: &mut Plan,
    config: &Config,
    models: &[Opened<'_>],
    meta: &Meta,
    mut inputs: Vec<Input>,
    params: &Params,
    whole: Whole<'_>,
) -> Result<Meta> {
    let types: Vec<Dtype> =
        inputs.iter().map(|input| models[input.source].source.tensors()[input.tensor].dtype).collect();
    let output = plan.outputs.len();
    let target = Target { tensor: output, first: 0, len: meta.elements() };
    let floats = types.iter().filter(|dtype| dtype.is_float()).count();
    let (dtype, stages) = if floats == types.len() {
        let promoted = types.iter().fold(types[0], |all, dtype| all.promote(*dtype));
        let working = config.dtype.unwrap_or(promoted);
        for (input, dtype) in inputs.iter_mut().zip(&types) {
            input.round = Some(working).filter(|working| loses(*dtype, *working));
        }
        let dtype = config.out_dtype.unwrap_or(working);
        let unrounded = inputs.len() == 1 && inputs[0].round.is_none() && types[0] == dtype;
        let untouched = meta.elements() == 0 || (unrounded && params.each_is("scale", 1.0));
        let tensor = Tensor {
            name: &meta.name,
            elements: meta.elements(),
            columns: meta.shape.last().copied().unwrap_or(1),
            leading: meta.shape.first().copied().unwrap_or(1),
            has_base: config.roles().0.is_some(),
            whole_model: whole.model,
            seed: whole.seed,
        };
        let stages = if untouched { vec![Stage::Copy] } else { config.method.stages(&tensor, params)? };
        (dtype, stages)
    } else if floats == 0 && types.iter().all(|dtype| *dtype == types[0]) {
        (types[0], vec![Stage::Copy])
    } else {
        let names: Vec<&str> = types.iter().map(|dtype| dtype.name()).collect();
        return Err(Error::Checkpoint(format!("'{}': types {} do not go together", meta.name, names.join(", "))));
    };
    plan.jobs.push(Job { name: meta.name.clone(), inputs, outputs: vec![target], stages });
    Ok(Meta { name: meta.name.clone(), dtype, shape: meta.shape.clone() })
}

/// Whether rounding a value of type `from` to type `to` can change it.
fn loses(from: Dtype, to: Dtype) -> bool {
    from != to && from.promote(to) != to
}

/// The tensor of `model` that goes with a tensor of the donor, with the same shape.
fn locate(models: &[Opened<'_>], model: usize, donor: usize, meta: &Meta) -> Result<usize> {
    let source = models[model].source;
    let label = source.label();
    let Some(at) = source.find(&meta.name).or_else(|| tied_head(models[model], meta)) else {
        let hint = did_you_mean(&meta.name, source.tensors().iter().map(|tensor| tensor.name.as_str()));
        let from = models[donor].source.label();
        return Err(Error::Checkpoint(format!("{label}: tensor '{}' of {from} is missing{hint}", meta.name)));
    };
    let other = &source.tensors()[at];
    if other.shape != meta.shape {
        let (name, shape, from, expected) = (&meta.name, &other.shape, models[donor].source.label(), &meta.shape);
        return Err(Error::Checkpoint(format!("{label}: '{name}' has shape {shape:?}, but {expected:?} in {from}")));
    }
    Ok(at)
}

const HEADS: [&str; 2] = ["lm_head.weight", "output.weight"];

/// The embedding that stands for a head which a tied model does not store.
fn tied_head(model: Opened<'_>, head: &Meta) -> Option<usize> {
    if !model.tied || !HEADS.iter().any(|name| head.name.ends_with(name)) {
        return None;
    }
    let embeddings = ["embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight"];
    model
        .source
        .tensors()
        .iter()
        .position(|tensor| tensor.shape == head.shape && embeddings.iter().any(|name| tensor.name.ends_with(name)))
}

/// Refuses tensors that the donor does not have, but for a head that the donor ties.
fn refuse_extra(
    models: &[Opened<'_>],
    model: usize,
    donor: usize,
    found: usize,
    notes: &mut Vec<String>,
) -> Result<()> {
    let source = models[model].source;
    if found == source.tensors().len() {
        return Ok(());
    }
    let known = models[donor].source;
    for tensor in source.tensors().iter().filter(|tensor| known.find(&tensor.name).is_none()) {
        let (label, name, base) = (source.label(), &tensor.name, known.label());
        if models[donor].tied && HEADS.iter().any(|head| name.ends_with(head)) {
            notes.push(format!("{label}: '{name}' is left out, because {base} ties it to the embedding"));
        } else {
            let hint = did_you_mean(name, known.tensors().iter().map(|tensor| tensor.name.as_str()));
            return Err(Error::Checkpoint(format!("{label}: tensor '{name}' is not in {base}{hint}")));
        }
    }
    Ok(())
}

/// The method's parameters for one tensor: at the model, then at the top level, then the defaults.
fn resolve(config: &Config, merged: &[usize], place: Place<'_>) -> Result<Params> {
    let look = |settings: &[(&'static str, crate::setting::Setting)], name: &str| -> Option<Value> {
        settings.iter().find(|(known, _)| *known == name).and_then(|(_, setting)| setting.at(place))
    };
    Params::resolve(
        config.method.spec(),
        merged.len(),
        |param, model| {
            let own = model.and_then(|model| look(&config.models[merged[model]].parameters, param.name));
            Ok(own.or_else(|| look(&config.parameters, param.name)))
        },
        |model| match model {
            None => "parameters".into(),
            Some(model) => {
                let model = &config.models[merged[model]];
                format!("{} ('{}')", model.place, model.reference)
            }
        },
    )
    .map_err(|error| error.within(&format!("tensor '{}'", place.name)))
}

/// How many layers each stack of a model has, by what stands before the layer's number.
struct Depths(HashMap<String, u64>);

impl Depths {
    fn of(source: &dyn Source) -> Depths {
        let mut layers: HashMap<String, u64> = HashMap::new();
        for (stack, number) in source.tensors().iter().filter_map(|tensor| layer(&tensor.name)) {
            let count = layers.entry(stack.to_owned()).or_default();
            *count = (*count).max(number + 1);
        }
        Depths(layers)
    }

    fn at(&self, name: &str) -> f64 {
        match layer(name) {
            None => 0.0,
            Some((stack, number)) => match self.0.get(stack) {
                Some(count) if *count > 1 => number as f64 / (count - 1) as f64,
                _ => 1.0,
            },
        }
    }
}
