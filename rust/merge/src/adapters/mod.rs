//! Adapters merged into an adapter, without any model.
//!
//! ```text
//! every module:  M = merge of the changes s_i B_i A_i;   B A = the nearest to M of rank R,  r = lora_alpha = R
//! ```
//! The changes are sources like any models, over a base of zero where the method has one, so every method, filter, gradient
//! and seed holds as it does for models. What comes out is factored a module at a time:
//!
//! * linear methods (linear, task_arithmetic, expo, passthrough) have factors that depend on the parameters alone; they are
//!   found by merging unit vectors. The factors `c_i s_i B_i` and `A_i` side by side are the result exactly (`cat`), or are
//!   brought to rank R without ever making M (`svd`);
//! * for other methods M is computed in memory, one module per worker, and its nearest matrix of rank R taken.
//!
//! Modules of a lower rank are filled up with zeros, so one rank holds for all.
//!
//! | module | holds |
//! |---|---|
//! | this one | what is refused, and the plan |
//! | [`coefficients`] | what a linear method multiplies every adapter with |
//! | [`job`] | the jobs of one module |
//! | [`config`] | `adapter_config.json` of the result |

mod coefficients;
mod config;
mod job;

use crate::config::{Combination, Config};
use crate::extra::Extra;
use crate::program::{self, Opened};
use crate::tokenizer;
use job::{Factored, Share, Way};
use polmrs_core::philox::Key;
use polmrs_core::{Dtype, Error, Result};
use polmrs_engine::source::{Meta, Source};
use polmrs_engine::{Input, Job, Plan, Stage, Target};
use polmrs_io::output::Output;
use polmrs_model::ModelFolder;
use polmrs_model::adapter::products::{Module, bias, weight};
use polmrs_model::adapter::weights::PREFIX;
use polmrs_model::adapter::{Adapter, Products, Union};
use polmrs_model::beside::{self, SIDECARS, TOKENIZER, pretty};
use polmrs_model::folder::ADAPTER_CONFIG;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Whether the models of a configuration are adapters.
///
/// # Errors
/// [`Error::Config`] if only some are, and for keys that are not for what they are.
pub(crate) fn alone(config: &Config, models: &[ModelFolder]) -> Result<bool> {
    let is_adapter = |at: &usize| models[*at].adapter().is_some();
    let (adapter, model) = ((0..models.len()).find(is_adapter), (0..models.len()).find(|at| !is_adapter(at)));
    let named = |at: usize| (&config.models[at].place, &config.models[at].reference);
    match (adapter, model) {
        (Some(adapter), Some(model)) => {
            let ((place, adapter), (other, model)) = (named(adapter), named(model));
            Err(Error::Config(format!(
                "{place}: '{adapter}' is an adapter, and '{model}' ({other}) a model; write 'MODEL+{adapter}' for a merged \
                 model, or name adapters alone, without a model as base_model, for a merged adapter"
            )))
        }
        (Some(_), None) => Ok(true),
        _ if config.factors != crate::config::Factors::default() => {
            Err(Error::Config("combination_type, svd_rank: are for a merge of adapters; these are models".into()))
        }
        _ => Ok(false),
    }
}

/// Adapters that are going to be one.
pub(crate) struct Adapters {
    products: Vec<Products>,
    own: Vec<Arc<dyn Source>>,
    config: Json,
    rank: u64,
    combination: Combination,
    modules: usize,
    lost: Lost,
}

/// The share of its squared norm that each module lost to the rank, by name.
type Lost = Arc<Mutex<BTreeMap<String, f64>>>;

impl Adapters {
    /// Plans the merge of adapters; `models` are those of the configuration, but for a base of zero.
    pub(crate) fn plan(
        config: &mut Config,
        models: &[ModelFolder],
        seed: u64,
        extra: &mut Extra,
    ) -> Result<(Adapters, Plan)> {
        let (adapters, configs): (Vec<Arc<Adapter>>, Vec<&Json>) = models
            .iter()
            .filter_map(ModelFolder::adapter)
            .map(|(adapter, config)| (Arc::clone(adapter), config))
            .unzip();
        let union = Union::of(&adapters)?;
        refuse(config, &union)?;
        let label = |at: usize| if at < adapters.len() { config.models[at].reference.as_str() } else { "zero" };
        let products: Vec<Products> =
            (0..config.models.len()).map(|at| Products::new(label(at), adapters.get(at).cloned(), &union)).collect();
        let opened: Vec<Opened<'_>> = products.iter().map(|source| Opened { source, tied: false }).collect();
        let given = config.out_dtype.or(config.dtype);
        let kind = given.unwrap_or_else(|| widest(&adapters));
        (config.dtype, config.out_dtype) = (None, None);
        let coefficients = if config.method.is_linear() { Some(coefficients::of(config, &products)?) } else { None };
        config.out_dtype = given; // of what was trained whole
        let combination = config.factors.combination.unwrap_or(Combination::Svd);
        let rank = rank(config, &adapters, &union)?;
        let dense = program::plan(config, &opened, seed, extra)?;
        let lost = Lost::default();
        let factored = |name: &str| Factored {
            name: name.to_owned(),
            module: union.modules[name],
            rank,
            kind,
            lost: Arc::clone(&lost),
        };
        let way = |name: &str| match &coefficients {
            None => Way::Dense { key: Key::new(seed, &weight(name), "svd") },
            Some(coefficients) => {
                let each = adapters.iter().zip(&coefficients[&weight(name)]).enumerate();
                let shares = each.filter_map(|(at, (adapter, coefficient))| {
                    Share::of((at, adapter), name, products.len() + at, *coefficient)
                });
                Way::Shares { shares: shares.collect(), combination }
            }
        };
        let mut plan = factor(dense, &union, |name, job, at| factored(name).job(job, way(name), at))?;
        beneath(&mut plan, &adapters, &union, products.len())?;
        plan.notes.extend(lacking(config, &adapters, &union));
        let (config, notes) = config::merged(&configs, &union, rank);
        plan.notes.extend(notes);
        let own = adapters.iter().map(|adapter| Arc::clone(&adapter.source)).collect();
        let modules = union.modules.len();
        Ok((Adapters { products, own, config, rank, combination, modules, lost }, plan))
    }

    /// What the plan reads.
    pub(crate) fn sources(&self) -> Vec<&dyn Source> {
        let products = self.products.iter().map(|source| source as &dyn Source);
        products.chain(self.own.iter().map(AsRef::as_ref)).collect()
    }

    /// `adapter_config.json` of the result.
    pub(crate) fn config(&self) -> &Json {
        &self.config
    }

    /// What a plan and a report say of it; once it has run, how much the rank has left out `of` the modules of this run.
    pub(crate) fn describe(&self) -> Json {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let worst = lost.iter().max_by(|a, b| a.1.total_cmp(b.1));
        json!({
            "rank": self.rank,
            "combination_type": self.combination.name(),
            "modules": self.modules,
            "lost": worst.map(|(module, share)| json!({
                "mean": lost.values().sum::<f64>() / lost.len() as f64, "most": share, "module": module, "of": lost.len(),
            })),
        })
    }

    /// Writes the config, and the tokenizer's files where the first adapter has them.
    pub(crate) fn beside(&self, output: &Output, donor: &ModelFolder) -> Result<()> {
        output.put(ADAPTER_CONFIG, pretty(&self.config).as_bytes())?;
        for name in TOKENIZER.into_iter().chain(SIDECARS) {
            let from = donor.folder.join(name);
            if from.is_file() {
                beside::copy(output, &from, name, |_, _| false)?;
            }
        }
        Ok(())
    }
}

/// The plan of dense changes with factors in their place; what is no module's weight stays as it is. `job` gives the tensors
/// and the job of a module, of which the first tensor will be that of a number.
fn factor(dense: Plan, union: &Union, job: impl Fn(&str, Job, usize) -> Result<([Meta; 2], Job)>) -> Result<Plan> {
    let modules: BTreeMap<String, &String> = union.modules.keys().map(|name| (weight(name), name)).collect();
    let mut plan = Plan { notes: dense.notes, ..Plan::default() };
    for (mut whole, meta) in dense.jobs.into_iter().zip(dense.outputs) {
        let at = plan.outputs.len();
        if let Some(name) = modules.get(&meta.name) {
            let (outputs, factors) = job(name, whole, at)?;
            plan.outputs.extend(outputs);
            plan.jobs.push(factors);
        } else {
            whole.outputs = vec![Target { tensor: at, first: 0, len: meta.elements() }];
            plan.outputs.push(Meta { name: format!("{PREFIX}{}", meta.name), ..meta });
            plan.jobs.push(whole);
        }
    }
    Ok(plan)
}

/// Refuses what makes no sense without a model.
fn refuse(config: &Config, union: &Union) -> Result<()> {
    let name = config.method.spec().name;
    let refused = |rule: String| Err(Error::Config(rule));
    if config.method.statistic().is_some() {
        return refused(format!(
            "{name}: reads statistics of whole models, which there are none of for adapters alone"
        ));
    }
    if config.modules.iter().flat_map(|module| &module.parts).any(|part| part.layers().is_some()) {
        return refused("slices: adapters are merged with all their layers; write 'models'".into());
    }
    if config.tokenizer != tokenizer::Settings::default() {
        return refused("tokenizer, chat_template: are for models; adapters share the vocabulary of theirs".into());
    }
    if config.factors.combination == Some(Combination::Cat) && !config.method.is_linear() {
        return refused(format!(
            "combination_type: {name} has no factors to put side by side; only linear, task_arithmetic, expo and \
             passthrough have; take svd"
        ));
    }
    match union.replaced.keys().next() {
        Some(tensor) if config.over_zero => refused(format!(
            "{name}: '{tensor}' was trained whole (modules_to_save or bias), so its change is not known without the model; \
             take linear, or an adapter as base_model, or merge 'MODEL+ADAPTER'"
        )),
        _ => Ok(()),
    }
}

/// The rank of the result.
fn rank(config: &Config, adapters: &[Arc<Adapter>], union: &Union) -> Result<u64> {
    let of = |name: &String| -> Vec<u64> {
        let having = adapters.iter().filter(|adapter| adapter.pairs.contains_key(name));
        having.map(|adapter| adapter.config.rank(name)).collect()
    };
    let all = union.modules.keys().map(of);
    let most = match config.factors.combination {
        Some(Combination::Cat) => all.map(|ranks| ranks.iter().sum()).max(),
        _ => all.flatten().max(),
    };
    let most = most.ok_or_else(|| Error::Checkpoint("none of the adapters changes any module".into()))?;
    let largest = union.modules.values().map(|module| module.inputs.min(module.outputs)).max().unwrap_or(most);
    match config.factors.rank.map(|rank| rank as u64) {
        Some(rank) if rank > largest => Err(Error::Config(format!(
            "svd_rank: {rank} is more than {largest}, the most that a module's weight can have"
        ))),
        given => Ok(given.unwrap_or(most)),
    }
}

/// The type that holds every adapter's factors.
fn widest(adapters: &[Arc<Adapter>]) -> Dtype {
    let pairs = |adapter: &Arc<Adapter>| {
        let tensors = adapter.source.tensors();
        let used = adapter.pairs.values().flat_map(|pair| [pair.a, pair.b]).flatten();
        used.map(|at| tensors[at].dtype).collect::<Vec<_>>()
    };
    adapters.iter().flat_map(pairs).reduce(Dtype::promote).unwrap_or(Dtype::F32)
}

/// The jobs that copy the model's own weights out of the adapters' files, which must agree.
fn beneath(plan: &mut Plan, adapters: &[Arc<Adapter>], union: &Union, first: usize) -> Result<()> {
    for (name, meta) in &union.beneath {
        let mut inputs = Vec::new();
        for (at, adapter) in adapters.iter().enumerate() {
            let Some(tensor) = adapter.source.find(name) else { continue };
            let other = &adapter.source.tensors()[tensor];
            if (other.dtype, &other.shape) != (meta.dtype, &meta.shape) {
                let (label, kind, shape) = (adapter.source.label(), other.dtype.name(), &other.shape);
                let (expected, sizes) = (meta.dtype.name(), &meta.shape);
                return Err(Error::Checkpoint(format!(
                    "{label}: '{name}' is {kind} of {shape:?}, but {expected} of {sizes:?} in another adapter"
                )));
            }
            inputs.push(Input { source: first + at, tensor, first: 0, len: meta.elements(), round: None });
        }
        let outputs = vec![Target { tensor: plan.outputs.len(), first: 0, len: meta.elements() }];
        plan.outputs.push(meta.clone());
        plan.jobs.push(Job { name: name.clone(), inputs, outputs, stages: vec![Stage::Copy] });
    }
    Ok(())
}

/// What is said of modules, and of biases, that not every adapter has.
fn lacking(config: &Config, adapters: &[Arc<Adapter>], union: &Union) -> Option<String> {
    let lacks = |name: &str, module: &Module, at: usize| {
        let pair = adapters[at].pairs.get(name);
        match pair {
            None => Some(weight(name)),
            Some(pair) if module.bias && pair.bias.is_none() => Some(bias(name)),
            Some(_) => None,
        }
    };
    let found: Vec<(String, usize)> = union
        .modules
        .iter()
        .filter_map(|(name, module)| (0..adapters.len()).find_map(|at| Some((lacks(name, module, at)?, at))))
        .collect();
    let (first, at) = found.first()?;
    let (count, all, label) = (found.len(), union.modules.len(), &config.models[*at].reference);
    Some(format!(
        "{count} of {all} modules are not in every adapter, such as '{first}' in {label}: no change counts as zero"
    ))
}
