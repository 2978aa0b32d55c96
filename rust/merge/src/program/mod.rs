//! A configuration and open models to a plan, from headers alone: which tensors, which roles, which stages.
//!
//! A part of the output has the tensors of its base (of its first model where there is none), with their names, shapes
//! and order; where it takes layers out of a model, they are numbered anew. Embeddings come from the first part of a
//! module, final norms and heads from the last. Every other model must have the same tensors, but for
//!
//! * a head that is tied to the embedding: a model whose config ties them may leave it out, and one that stores it
//!   although the output ties it has it left out, with a note;
//! * tensors of a kind that only the base has, which are copied untouched, with a note, as are tensors that belong to
//!   no module of the configuration.

mod heads;
mod job;
mod restack;

pub use restack::{Restack, restacks};

use crate::config::{Config, Module, Part};
use crate::extra::Extra;
use crate::outline::{Depths, Modules, Outline, depth, kind};
use crate::params::Params;
use crate::setting::{Place, Setting};
use crate::spec::{Value, WholeModel};
use crate::tokenizer;
use polmrs_core::error::did_you_mean;
use polmrs_core::{Error, Result};
use polmrs_engine::source::Source;
use polmrs_engine::{Input, Plan};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// A model that is open.
#[derive(Clone, Copy)]
pub struct Opened<'a> {
    /// Its tensors.
    pub source: &'a dyn Source,
    /// Whether its config ties the output head to the input embedding.
    pub tied: bool,
}

/// Plans the merge of open models, given in the order of [`Config::models`]; the sources of `extra` follow them.
pub fn plan(config: &Config, models: &[Opened<'_>], seed: u64, extra: &mut Extra) -> Result<Plan> {
    let modules = Modules::of(config)?;
    let mut planner = Planner {
        config,
        models,
        modules: &modules,
        seed,
        extra,
        whole_model: WholeModel::default(),
        kinds: HashMap::new(),
        only_in_base: Vec::new(),
        plan: Plan { notes: config.notes.clone(), ..Plan::default() },
    };
    for (at, module) in config.modules.iter().enumerate() {
        match module.parts.as_slice() {
            [part] if part.layers().is_none() => planner.all_layers(at, part)?,
            _ => planner.slices(at)?,
        }
    }
    planner.the_unnamed()?;
    planner.finish()
}

struct Planner<'a> {
    config: &'a Config,
    models: &'a [Opened<'a>],
    modules: &'a Modules<'a>,
    seed: u64,
    extra: &'a mut Extra,
    whole_model: WholeModel,
    /// The kinds of tensors that a model has, once somebody asked.
    kinds: HashMap<usize, HashSet<String>>,
    only_in_base: Vec<String>,
    plan: Plan,
}

/// Tensors of a part that correspond, model by model.
struct Group<'a> {
    module: &'a Module,
    part: &'a Part,
    /// The donor's tensors, with the names that they have in the output.
    tensors: Vec<(usize, String)>,
    /// The tensors of every member that must find their counterpart.
    theirs: Vec<Vec<usize>>,
    /// What the names begin with in every member, and in the output.
    prefixes: Vec<String>,
    out: String,
    /// How deep all of them lie; by name, if not given.
    depth: Option<f64>,
}

impl<'a> Planner<'a> {
    fn source(&self, part: &Part, member: usize) -> &'a dyn Source {
        self.models[part.members[member].model].source
    }

    /// A module that takes all layers of its models.
    fn all_layers(&mut self, at: usize, part: &'a Part) -> Result<()> {
        let theirs: Vec<Vec<usize>> = (0..part.members.len())
            .map(|member| {
                let tensors = self.source(part, member).tensors();
                (0..tensors.len()).filter(|tensor| self.modules.find(&tensors[*tensor].name) == Some(at)).collect()
            })
            .collect();
        let module = &self.config.modules[at];
        if theirs[part.donor()].is_empty() && module.name.is_some() {
            return Err(self.no_such_module(module, self.source(part, part.donor())));
        }
        self.loose(module, part, theirs, None)
    }

    fn no_such_module(&self, module: &Module, source: &dyn Source) -> Error {
        let mut words: Vec<&str> = Vec::new();
        for word in source.tensors().iter().flat_map(|tensor| tensor.name.split('.').take(2)) {
            if !words.contains(&word) && words.len() < 20 && word.parse::<u64>().is_err() {
                words.push(word);
            }
        }
        let (place, label) = (&module.place, source.label());
        Error::Config(format!(
            "{place}: no tensor of {label} belongs to it; its tensors begin with {}",
            words.join(", ")
        ))
    }

    /// A module that is made of slices.
    fn slices(&mut self, at: usize) -> Result<()> {
        let module = &self.config.modules[at];
        let mut outlines: HashMap<usize, Outline> = HashMap::new();
        for member in module.parts.iter().flat_map(|part| &part.members) {
            let source = self.models[member.model].source;
            let outline = match outlines.entry(member.model) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(Outline::of(source, self.modules, (at, module))?),
            };
            restack::check(member, source, outline.layers.len())?;
        }
        let of = |part: &Part, member: usize| &outlines[&part.members[member].model];
        let loose = |part: &Part, pick: fn(&Outline) -> &Vec<usize>| -> Vec<Vec<usize>> {
            (0..part.members.len()).map(|member| pick(of(part, member)).clone()).collect()
        };
        let (first, last) = (&module.parts[0], &module.parts[module.parts.len() - 1]);
        self.loose(module, first, loose(first, |outline| &outline.before), Some(0.0))?;
        let mut number = 0;
        for part in &module.parts {
            let layers = part.layers().unwrap_or(0);
            for layer in 0..layers {
                let theirs = part.members.iter().enumerate().map(|(member, one)| {
                    let start = one.layers.as_ref().map_or(0, |layers| layers.start);
                    let outline = of(part, member);
                    (format!("{}.{}.", outline.stack, start + layer), outline.layers[(start + layer) as usize].clone())
                });
                let (prefixes, theirs): (Vec<String>, Vec<Vec<usize>>) = theirs.unzip();
                let out = format!("{}.{number}.", of(part, part.donor()).stack);
                let skip = prefixes[part.donor()].len();
                let names = self.source(part, part.donor()).tensors();
                let named = |tensor: &usize| (*tensor, format!("{out}{}", &names[*tensor].name[skip..]));
                let tensors = theirs[part.donor()].iter().map(named).collect();
                let depth = Some(depth(layer, layers));
                self.group(&Group { module, part, tensors, theirs, prefixes, out, depth })?;
                number += 1;
            }
        }
        self.loose(module, last, loose(last, |outline| &outline.after), Some(0.0))
    }

    /// Tensors that keep their names.
    fn loose(&mut self, module: &Module, part: &Part, theirs: Vec<Vec<usize>>, depth: Option<f64>) -> Result<()> {
        let names = self.source(part, part.donor()).tensors();
        let mut tensors: Vec<(usize, String)> =
            theirs[part.donor()].iter().map(|tensor| (*tensor, names[*tensor].name.clone())).collect();
        self.settle_head(part, &mut tensors);
        let prefixes = vec![String::new(); part.members.len()];
        self.group(&Group { module, part, tensors, theirs, prefixes, out: String::new(), depth })
    }

    /// One job for every tensor of a group.
    fn group(&mut self, group: &Group<'_>) -> Result<()> {
        let part = group.part;
        let donor = part.donor();
        let (base, merged) = part.roles(self.config.method);
        let order: Vec<usize> = base.into_iter().chain(merged.iter().copied()).collect();
        let depths = group.depth.is_none().then(|| Depths::of(self.source(part, donor)));
        let mut found = vec![0; part.members.len()];
        for (tensor, name) in &group.tensors {
            let meta = &self.source(part, donor).tensors()[*tensor];
            let mut inputs = Vec::with_capacity(order.len());
            let mut missing = None;
            for member in &order {
                let model = self.models[part.members[*member].model];
                let theirs = format!("{}{}", group.prefixes[*member], &name[group.out.len()..]);
                let direct = if *member == donor { Some(*tensor) } else { model.source.find(&theirs) };
                found[*member] += usize::from(direct.is_some());
                match direct.or_else(|| heads::tied(model, &theirs, &meta.shape)) {
                    None => missing = missing.or(Some((*member, theirs))),
                    Some(at) => {
                        self.check_shape(part, *member, at, meta)?;
                        let source = part.members[*member].model;
                        inputs.push(Input { source, tensor: at, first: 0, len: meta.elements(), round: None });
                    }
                }
            }
            if let Some((member, theirs)) = missing {
                if part.base != Some(donor) || inputs.len() > 1 || !self.unknown_to_others(part, name) {
                    return Err(self.missing(part, member, &theirs));
                }
                self.only_in_base.push(name.clone());
                self.copy(part.members[donor].model, *tensor, name);
                continue;
            }
            let depth = group.depth.or(depths.as_ref().map(|depths| depths.at(name))).unwrap_or(0.0);
            let params = self.resolve(group, &merged, Place { name, depth })?;
            self.merge(name, meta, inputs, &params, base.is_some())?;
        }
        for member in merged.into_iter().filter(|member| *member != donor) {
            if found[member] != group.theirs[member].len() {
                self.refuse_extra(group, member)?;
            }
        }
        Ok(())
    }

    fn check_shape(&self, part: &Part, member: usize, at: usize, meta: &polmrs_engine::source::Meta) -> Result<()> {
        let (source, donor) = (self.source(part, member), self.source(part, part.donor()));
        let other = &source.tensors()[at];
        if other.shape == meta.shape {
            return Ok(());
        }
        let (label, name, shape, from, expected) =
            (source.label(), &other.name, &other.shape, donor.label(), &meta.shape);
        let hint = tokenizer::hint(name, shape, expected);
        Err(Error::Checkpoint(format!("{label}: '{name}' has shape {shape:?}, but {expected:?} in {from}{hint}")))
    }

    fn missing(&self, part: &Part, member: usize, name: &str) -> Error {
        let (source, from) = (self.source(part, member), self.source(part, part.donor()).label());
        let hint = did_you_mean(name, source.tensors().iter().map(|tensor| tensor.name.as_str()));
        Error::Checkpoint(format!("{}: tensor '{name}' of {from} is missing{hint}", source.label()))
    }

    /// Whether no model but the base has any tensor of this kind, and it is no head.
    fn unknown_to_others(&mut self, part: &Part, name: &str) -> bool {
        let kind = kind(name);
        let mut others = part.members.iter().enumerate().filter(|(at, _)| Some(*at) != part.base);
        !heads::is_head(name)
            && others.all(|(_, member)| {
                let source = self.models[member.model].source;
                let known = self.kinds.entry(member.model).or_insert_with(|| {
                    source.tensors().iter().map(|tensor| crate::outline::kind(&tensor.name)).collect()
                });
                !known.contains(&kind)
            })
    }

    /// Refuses tensors that the donor does not have, but for a head that the output ties.
    fn refuse_extra(&mut self, group: &Group<'_>, member: usize) -> Result<()> {
        let (source, known) = (self.source(group.part, member), self.source(group.part, group.part.donor()));
        let (label, base) = (source.label(), known.label());
        for tensor in &group.theirs[member] {
            let name = &source.tensors()[*tensor].name;
            let wanted = format!("{}{}", group.prefixes[group.part.donor()], &name[group.prefixes[member].len()..]);
            if known.find(&wanted).is_some() {
                continue;
            }
            if !self.models[self.config.donor()].tied || !heads::is_head(name) {
                let hint = did_you_mean(&wanted, known.tensors().iter().map(|tensor| tensor.name.as_str()));
                return Err(Error::Checkpoint(format!("{label}: tensor '{name}' is not in {base}{hint}")));
            }
            let base = self.models[self.config.donor()].source.label();
            self.plan.notes.push(format!("{label}: '{name}' is left out, because {base} ties it to the embedding"));
        }
        Ok(())
    }

    /// Copies the donor's tensors that belong to no module.
    fn the_unnamed(&mut self) -> Result<()> {
        let donor = self.config.donor();
        let source = self.models[donor].source;
        let unnamed = |tensor: &usize| self.modules.find(&source.tensors()[*tensor].name).is_none();
        let tensors: Vec<usize> = (0..source.tensors().len()).filter(unnamed).collect();
        for tensor in &tensors {
            self.copy(donor, *tensor, &source.tensors()[*tensor].name);
        }
        if let Some(first) = tensors.first() {
            let (label, name, count) = (source.label(), &source.tensors()[*first].name, tensors.len());
            self.plan.notes.push(format!(
                "copied untouched: {count} tensors of {label} that belong to no module, such as '{name}'"
            ));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Plan> {
        self.plan.notes.extend(self.extra.notes(self.config.method));
        let models = |part: &Part| part.members.iter().map(|member| member.model).collect::<Vec<_>>();
        let mut parts = self.config.modules.iter().flat_map(|module| &module.parts);
        let first = parts.next().map(models);
        if self.whole_model.is_used() && parts.any(|part| Some(models(part)) != first) {
            let name = self.config.method.spec().name;
            return Err(Error::Config(format!(
                "{name}: looks at the whole model here, so every slice and module needs the same models in the same order"
            )));
        }
        if let Some(first) = self.only_in_base.first() {
            let (count, label) = (self.only_in_base.len(), self.models[self.config.donor()].source.label());
            let note = format!("copied untouched: {count} tensors that only {label} has, such as '{first}'");
            self.plan.notes.push(note);
            if self.only_in_base.len() == self.plan.outputs.len() {
                return Err(Error::Checkpoint(format!("{label}: no other model has any of its tensors")));
            }
        }
        let mut names = HashSet::new();
        match self.plan.outputs.iter().find(|meta| !names.insert(meta.name.as_str())) {
            None => Ok(self.plan),
            Some(twice) => Err(Error::Checkpoint(format!("'{}' would be written twice", twice.name))),
        }
    }

    /// The method's parameters for one tensor: at the model, its slice, its module, the top level, then the defaults.
    fn resolve(&self, group: &Group<'_>, merged: &[usize], place: Place<'_>) -> Result<Params> {
        let look = |settings: &[(&'static str, Setting)], name: &str| -> Option<Value> {
            settings.iter().find(|(known, _)| *known == name).and_then(|(_, setting)| setting.at(place))
        };
        let members = &group.part.members;
        let above = [&group.part.parameters, &group.module.parameters, &self.config.parameters];
        Params::resolve(
            self.config.method.spec(),
            merged.len(),
            |param, model| {
                let own = model.map(|model| &members[merged[model]].parameters);
                Ok(own.into_iter().chain(above).find_map(|settings| look(settings, param.name)))
            },
            |model| match model {
                None => "parameters".into(),
                Some(model) => {
                    let member = &members[merged[model]];
                    format!("{} ('{}')", member.place, self.config.models[member.model].reference)
                }
            },
        )
        .map_err(|error| error.within(&format!("tensor '{}'", place.name)))
    }
}
