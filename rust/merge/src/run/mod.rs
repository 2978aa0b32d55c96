//! A merge from a configuration to an output folder.

mod contents;

use crate::adapters::{self, Adapters};
use crate::chain::Earlier;
use crate::config::{self, Config};
use crate::extra::Extra;
use crate::program::{self, Opened};
use crate::relayer::relayer;
use crate::tokenizer::files::Action;
use crate::tokenizer::remap::Remapped;
use crate::tokenizer::{Member, Vocabulary};
use contents::Merged;
use polmrs_core::{Ctl, Error, Result};
use polmrs_engine::Sink;
use polmrs_engine::source::{Meta, Source};
use polmrs_io::yaml::Node;
use polmrs_model::beside::{SIDECARS, TOKENIZER};
use polmrs_model::build::{self, Build};
use polmrs_model::{ModelFolder, beside, card, fetch};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How to run a merge.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How its folder is built.
    pub build: build::Settings,
    /// The seed of random masks.
    pub seed: u64,
    /// Note unknown keys instead of refusing them.
    pub lenient: bool,
}

/// A merge that is understood, open and planned, with nothing written yet.
pub struct Prepared {
    config: Config,
    document: Json,
    /// The documents whose results it may use, with models by their own names.
    earlier: Vec<Json>,
    models: Vec<ModelFolder>,
    vocabulary: Vocabulary,
    extra: Extra,
    /// The models as changes, where all of them are adapters.
    adapters: Option<Adapters>,
    /// The output's config but for its type, where there is one.
    config_json: Option<Json>,
    build: Build,
    seed: u64,
}

impl Prepared {
    /// Reads a configuration of one document, opens the models and plans, from headers alone.
    pub fn new(node: &Node, settings: Settings) -> Result<Prepared> {
        Prepared::after(node, settings, Extra::default(), &[])
    }

    /// The same with more than a configuration can name, for a document that may use the results of earlier ones.
    pub(crate) fn after(node: &Node, settings: Settings, mut extra: Extra, earlier: &[Earlier]) -> Result<Prepared> {
        let mut config = Config::decode_any(node, settings.lenient)?;
        let mut models = Vec::new();
        for model in &config.models[..config.models.len() - usize::from(config.over_zero)] {
            models.push(Earlier::open(earlier, &model.reference).map_err(|error| error.within(&model.place))?);
        }
        let document = node.to_json();
        let earlier = Earlier::documents(earlier);
        if adapters::alone(&config, &models)? {
            let (adapters, plan) = Adapters::plan(&mut config, &models, settings.seed, &mut extra)?;
            let build = Build::adapter(plan, &adapters.sources(), settings.build)?;
            let (vocabulary, adapters, seed) = (Vocabulary::default(), Some(adapters), settings.seed);
            let config_json = None;
            return Ok(Prepared {
                config,
                document,
                earlier,
                models,
                vocabulary,
                extra,
                adapters,
                config_json,
                build,
                seed,
            });
        }
        if config.over_zero {
            config = Config::decode(node, settings.lenient)?; // models need a base: it says so
        }
        let members: Vec<Member<'_>> = models.iter().zip(&config.models).map(member).collect();
        let vocabulary = config.tokenizer.plan(&members, config.base, config.dtype)?;
        let raw = sources(&models);
        let views = vocabulary.views(&raw);
        let opened: Vec<Opened<'_>> =
            views.iter().zip(&models).map(|(view, model)| Opened { source: view, tied: model.tied() }).collect();
        let mut plan = program::plan(&config, &opened, settings.seed, &mut extra)?;
        let config_json = restacked(&config, &opened, &models, &mut plan.notes)?;
        plan.notes.extend(vocabulary.notes.iter().cloned());
        let build = Build::new(plan, &seen(&views, &extra), settings.build)?;
        let (adapters, seed) = (None, settings.seed);
        Ok(Prepared { config, document, earlier, models, vocabulary, extra, adapters, config_json, build, seed })
    }

    /// What was accepted and has no effect, or was left out.
    pub fn notes(&self) -> &[String] {
        &self.build.plan().notes
    }

    /// `adapter_config.json` of the result, where it is an adapter.
    pub(crate) fn adapter_config(&self) -> Option<&Json> {
        self.adapters.as_ref().map(Adapters::config)
    }

    /// What later documents call the result.
    pub(crate) fn name(&self) -> Option<&str> {
        self.config.name.as_deref()
    }

    /// The tensors of the output.
    pub(crate) fn tensors(&self) -> &[Meta] {
        &self.build.plan().outputs
    }

    /// The configuration with every model by its own name.
    pub(crate) fn named(&self) -> Json {
        renamed(&self.document, &self.config, &card::names(&self.models))
    }

    /// The bytes of the output's files.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.build.disk_bytes()
    }

    /// Brings the weights of models that are on the Hub.
    pub(crate) fn fetch(&self, ctl: &Ctl) -> Result<()> {
        fetch(&self.models, ctl)
    }

    /// SHA-256 of everything that the files of the result depend on. A function has no fingerprint, so with one it is a key
    /// that no other run has.
    pub(crate) fn key(&self) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let once = self.extra.function.is_some().then(|| format!("{now} {}", std::process::id()));
        let work = json!([self.build.identity(), self.work(&self.prints()?)?, self.beside()?, once]).to_string();
        Ok(Sha256::digest(work).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// What stands beside the weights: what is written, and the files that are copied.
    fn beside(&self) -> Result<Json> {
        let donor = if self.adapters.is_some() { 0 } else { self.config.donor() };
        let (mut written, mut copied) = (Vec::new(), Vec::new());
        for name in TOKENIZER.into_iter().chain(SIDECARS) {
            match self.vocabulary.files.action(name, &self.models[donor].folder) {
                Action::Write(text) => written.push(text),
                Action::Copy(from) if from.is_file() => copied.push(from),
                Action::Copy(_) | Action::Nothing => {}
            }
        }
        Ok(json!([self.output_config(), written, build::files(copied)?]))
    }

    /// What is going to happen: inputs, outputs, bytes, passes, memory.
    pub fn describe(&self) -> Json {
        let inputs = self.models.iter().zip(&self.config.models).enumerate();
        let mut described = json!({
            "schema": "polmrs.plan/1",
            "method": self.config.method.spec().name,
            "inputs": inputs.map(|(at, (opened, model))| json!({
                "model": model.reference,
                "base": self.config.base == Some(at),
                "tensors": opened.source.tensors().len(),
                "bytes": opened.source.tensors().iter().map(Meta::nbytes).sum::<u64>(),
            })).collect::<Vec<_>>(),
            "seed": self.seed,
        });
        extend(&mut described, self.build.describe());
        let vocabulary = self.vocabulary.counts().map(|(tokens, rows)| json!({"tokens": tokens, "rows": rows}));
        described["output"]["vocabulary"] = vocabulary.into();
        if let Some(adapters) = &self.adapters {
            described["adapter"] = adapters.describe();
        }
        described
    }

    /// Merges into `out`, which appears whole at the end.
    ///
    /// An error in the input leaves nothing behind. A cancellation leaves `OUT.partial`, and so does an error of the disk
    /// once anything is whole: the next run goes on from there if `resume` is set, and replaces it if not.
    pub fn run(&self, out: &Path, ctl: &Ctl) -> Result<Json> {
        self.refuse_inputs(out)?;
        if self.build.settings().resume && self.extra.function.is_some() {
            let rule = "nobody can tell whether a function is the one that an earlier run called; run without it";
            return Err(Error::Usage(format!("resume: {rule}")));
        }
        self.fetch(ctl)?;
        let contents = Merged::new(self, self.prints()?);
        let done = self.reading(|sources| self.build.run(sources, &contents, out, ctl))?;
        let mut report = self.describe();
        report["schema"] = "polmrs.merge/1".into();
        extend(&mut report, done);
        Ok(report)
    }

    /// Merges into a sink, without the files beside the weights.
    pub fn stream(&self, sink: &dyn Sink, ctl: &Ctl) -> Result<()> {
        self.fetch(ctl)?;
        self.reading(|sources| self.build.stream(sources, sink, ctl))
    }

    /// Does something with all that the plan reads.
    fn reading<T>(&self, work: impl FnOnce(&[&dyn Source]) -> T) -> T {
        if let Some(adapters) = &self.adapters {
            return work(&adapters.sources());
        }
        let raw = sources(&self.models);
        let views = self.vocabulary.views(&raw);
        work(&seen(&views, &self.extra))
    }

    fn prints(&self) -> Result<Vec<String>> {
        self.models.iter().map(ModelFolder::fingerprint).collect()
    }

    /// Everything that the bits of the result depend on.
    fn work(&self, prints: &[String]) -> Result<Json> {
        let mut inputs = Map::new();
        for ((model, opened), print) in self.config.models.iter().zip(&self.models).zip(prints) {
            let files = build::files(opened.source.files())?;
            inputs.insert(model.reference.clone(), json!({"files": files, "fingerprint": print}));
        }
        for source in self.extra.sources() {
            inputs.insert(source.label().into(), json!({"files": build::files(source.files())?}));
        }
        Ok(json!({
            "config": self.document,
            "seed": self.seed,
            "inputs": inputs,
            "vocabulary": self.vocabulary.fingerprint(),
        }))
    }

    /// Refuses to write over a model that is read, or over a folder that holds one.
    pub(crate) fn refuse_inputs(&self, out: &Path) -> Result<()> {
        let references = self.config.models.iter().map(|model| model.reference.as_str());
        build::refuse_inputs(out, references.zip(&self.models))
    }

    /// The base's config with the output's type, and without the place that it was loaded from.
    pub(crate) fn output_config(&self) -> Option<Json> {
        let mut config = self.config_json.clone()?;
        if let Some(dtype) = self.build.dtype() {
            beside::state(&mut config, dtype);
        }
        self.vocabulary.amend_config(&mut config);
        Some(config)
    }
}

/// The donor's config, with the layers of an output that is stacked anew.
fn restacked(
    config: &Config,
    opened: &[Opened<'_>],
    models: &[ModelFolder],
    notes: &mut Vec<String>,
) -> Result<Option<Json>> {
    let mut json = models[config.donor()].config.clone();
    let configs: Vec<Option<&Json>> = models.iter().map(|model| model.config.as_ref()).collect();
    if let Some(json) = &mut json {
        for restack in program::restacks(config, opened)? {
            notes.extend(relayer(json, &restack, &configs));
        }
    }
    Ok(json)
}

/// A model as the vocabulary's planning sees it.
fn member<'a>((opened, model): (&'a ModelFolder, &'a config::Model)) -> Member<'a> {
    Member {
        reference: &model.reference,
        folder: &opened.folder,
        source: opened.source.as_ref(),
        config: opened.config.as_ref(),
        tied: opened.tied(),
    }
}

/// The configuration with every model reference replaced by the model's own name.
fn renamed(document: &Json, config: &Config, names: &[String]) -> Json {
    match document {
        Json::String(text) => match config.models.iter().position(|model| model.reference == *text) {
            Some(at) => Json::String(names[at].clone()),
            None => document.clone(),
        },
        Json::Array(items) => items.iter().map(|item| renamed(item, config, names)).collect(),
        Json::Object(map) => map.iter().map(|(key, value)| (key.clone(), renamed(value, config, names))).collect(),
        other => other.clone(),
    }
}

/// Adds the entries of one JSON object to another.
fn extend(json: &mut Json, more: Json) {
    if let (Some(map), Json::Object(more)) = (json.as_object_mut(), more) {
        map.extend(more);
    }
}

/// What the plan reads: the models in the rows of the result's vocabulary, then what else the method reads.
fn seen<'a>(views: &'a [Remapped<'a>], extra: &'a Extra) -> Vec<&'a dyn Source> {
    views.iter().map(|view| view as &dyn Source).chain(extra.sources()).collect()
}

fn sources(models: &[ModelFolder]) -> Vec<&dyn Source> {
    models.iter().map(|model| model.source.as_ref()).collect()
}
