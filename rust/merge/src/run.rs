//! A merge from a configuration to an output folder.

use crate::card;
use crate::chain::{self, Earlier};
use crate::config::{self, Config};
use crate::extra::Extra;
use crate::model::{self, ModelFolder, read_text};
use crate::program::{self, Opened};
use crate::relayer::relayer;
use crate::report;
use crate::tokenizer::files::{Action, TOKENIZER};
use crate::tokenizer::remap::Remapped;
use crate::tokenizer::{Member, Vocabulary};
use polmrs_core::{Ctl, Dtype, Error, Result};
use polmrs_engine::source::{Meta, Source};
use polmrs_engine::verify::verify;
use polmrs_engine::{Cost, Durable, Options, Plan, Sink, Wanted};
use polmrs_io::output::{self, Output};
use polmrs_io::safetensors::{Layout, Spec, Writer};
use polmrs_io::yaml::Node;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Files beside the weights that go along with those of the tokenizer, where the base has them.
const SIDECARS: [&str; 7] = [
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "LICENSE",
    "NOTICE",
];

/// How to run a merge.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads.
    pub threads: usize,
    /// Bytes of tensors in one output file.
    pub shard_size: u64,
    /// The seed of random masks.
    pub seed: u64,
    /// Replace an output that exists.
    pub overwrite: bool,
    /// Go on with what a run that was interrupted has left, if there is such.
    pub resume: bool,
    /// Let NaN and infinities through.
    pub allow_nonfinite: bool,
    /// Note unknown keys instead of refusing them.
    pub lenient: bool,
    /// The most bytes of buffers and workspaces to hold at once.
    pub max_memory: Option<u64>,
    /// Bytes of output between two points from which another run can go on.
    pub sync_every: u64,
    /// Read the result back and compare it with what was written.
    pub verify: bool,
    /// Write `polmrs_report.json`: what the merge did to every tensor.
    pub report: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            threads: 1,
            shard_size: 5_000_000_000,
            seed: 0,
            overwrite: false,
            resume: false,
            allow_nonfinite: false,
            lenient: false,
            max_memory: None,
            sync_every: 256 << 20,
            verify: false,
            report: false,
        }
    }
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
    /// The output's config but for its type, where there is one.
    config_json: Option<Json>,
    plan: Plan,
    layout: Layout,
    cost: Cost,
    settings: Settings,
}

impl Prepared {
    /// Reads a configuration of one document, opens the models and plans, from headers alone.
    pub fn new(node: &Node, settings: Settings) -> Result<Prepared> {
        Prepared::after(node, settings, Extra::default(), &[])
    }

    /// The same with more than a configuration can name, for a document that may use the results of earlier ones.
    pub(crate) fn after(node: &Node, settings: Settings, mut extra: Extra, earlier: &[Earlier]) -> Result<Prepared> {
        let config = Config::decode(node, settings.lenient)?;
        let mut models = Vec::new();
        for model in &config.models {
            models.push(Earlier::open(earlier, &model.reference).map_err(|error| error.within(&model.place))?);
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
        let specs: Vec<Spec> = plan.outputs.iter().map(spec).collect();
        let layout = Writer::plan(&specs, settings.shard_size)?;
        let cost = plan.cost(&seen(&views, &extra), settings.threads, settings.max_memory)?;
        let document = node.to_json();
        let earlier = Earlier::documents(earlier);
        Ok(Prepared { config, document, earlier, models, vocabulary, extra, config_json, plan, layout, cost, settings })
    }

    /// What was accepted and has no effect, or was left out.
    pub fn notes(&self) -> &[String] {
        &self.plan.notes
    }

    /// What later documents call the result.
    pub(crate) fn name(&self) -> Option<&str> {
        self.config.name.as_deref()
    }

    /// The tensors of the output.
    pub(crate) fn tensors(&self) -> &[Meta] {
        &self.plan.outputs
    }

    /// The configuration with every model by its own name.
    pub(crate) fn named(&self) -> Json {
        card::named(&self.document, &self.config, &self.models)
    }

    /// The bytes of the output's files.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.layout.files().map(|(_, bytes)| bytes).sum()
    }

    /// Brings the weights of models that are on the Hub.
    pub(crate) fn fetch(&self, ctl: &Ctl) -> Result<()> {
        model::fetch(&self.models, ctl)
    }

    /// SHA-256 of everything that the bits of the result depend on. A function has no fingerprint, so with one it is a key
    /// that no other run has.
    pub(crate) fn key(&self) -> Result<String> {
        let prints = self.models.iter().map(ModelFolder::fingerprint).collect::<Result<Vec<_>>>()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let once = self.extra.function.is_some().then(|| format!("{now} {}", std::process::id()));
        let work = json!([self.work(&prints)?, once]).to_string();
        Ok(Sha256::digest(work).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// What is going to happen: inputs, outputs, bytes, passes, memory.
    pub fn describe(&self) -> Json {
        let inputs = self.models.iter().zip(&self.config.models).enumerate();
        json!({
            "schema": "polmrs.plan/1",
            "method": self.config.method.spec().name,
            "inputs": inputs.map(|(at, (opened, model))| json!({
                "model": model.reference,
                "base": self.config.base == Some(at),
                "tensors": opened.source.tensors().len(),
                "bytes": opened.source.tensors().iter().map(Meta::nbytes).sum::<u64>(),
            })).collect::<Vec<_>>(),
            "output": {
                "tensors": self.plan.outputs.len(),
                "parameters": self.plan.outputs.iter().map(Meta::elements).sum::<u64>(),
                "dtype": self.dtype().map(Dtype::torch_name),
                "vocabulary": self.vocabulary.counts().map(|(tokens, rows)| json!({"tokens": tokens, "rows": rows})),
                "files": self.layout.files().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect::<Vec<_>>(),
            },
            "threads": self.settings.threads,
            "seed": self.settings.seed,
            "input_bytes": self.cost.input_bytes,
            "output_bytes": self.cost.output_bytes,
            "disk_bytes": self.disk_bytes(),
            "passes": self.cost.passes,
            "peak_memory_bytes": self.cost.peak_memory,
            "workspace": self.plan.hungriest().map(|(tensor, bytes)| json!({"tensor": tensor, "bytes": bytes})),
            "notes": self.plan.notes,
        })
    }

    /// Merges into `out`, which appears whole at the end.
    ///
    /// An error in the input leaves nothing behind. A cancellation leaves `OUT.partial`, and so does an error of the disk
    /// once anything is whole: the next run goes on from there if `resume` is set, and replaces it if not.
    pub fn run(&self, out: &Path, ctl: &Ctl) -> Result<Json> {
        let begun = Instant::now();
        self.refuse_inputs(out)?;
        if self.settings.resume && self.extra.function.is_some() {
            let rule = "nobody can tell whether a function is the one that an earlier run called; run without it";
            return Err(Error::Usage(format!("resume: {rule}")));
        }
        model::fetch(&self.models, ctl)?;
        let prints = self.models.iter().map(ModelFolder::fingerprint).collect::<Result<Vec<_>>>()?;
        let output = Output::begin(out, self.settings.overwrite, self.settings.resume)?;
        let durable = match self.open(&output, &prints) {
            Ok(durable) => durable,
            Err(error) if output.resumed() => return Err(error),
            Err(error) => {
                output.discard();
                return Err(error);
            }
        };
        let resumed = durable.done().iter().filter(|done| **done).count();
        match self.write(&output, &prints, &durable, ctl) {
            Ok(()) => {}
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error @ Error::Io { .. }) if durable.has_progress() => return Err(error),
            Err(error) => {
                output.discard();
                return Err(error);
            }
        }
        match self.finish(&output, durable, ctl) {
            Ok(()) => output.commit()?,
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => {
                output.discard();
                return Err(error);
            }
        }
        let mut report = self.describe();
        report["schema"] = "polmrs.merge/1".into();
        report["to"] = out.to_string_lossy().into();
        report["resumed_tensors"] = resumed.into();
        report["verified"] = self.settings.verify.into();
        report["seconds"] = begun.elapsed().as_secs_f64().into();
        Ok(report)
    }

    /// Merges into a sink, without the files beside the weights.
    pub fn stream(&self, sink: &dyn Sink, ctl: &Ctl) -> Result<()> {
        model::fetch(&self.models, ctl)?;
        let raw = sources(&self.models);
        let views = self.vocabulary.views(&raw);
        polmrs_engine::run(&seen(&views, &self.extra), &self.plan, sink, self.options(), ctl)
    }

    fn options(&self) -> Options<'_> {
        Options {
            threads: self.settings.threads,
            allow_nonfinite: self.settings.allow_nonfinite,
            max_memory: self.settings.max_memory,
            sync_every: self.settings.sync_every,
            ..Options::default()
        }
    }

    /// Begins the checkpoint, or goes on with one.
    fn open(&self, output: &Output, prints: &[String]) -> Result<Durable> {
        let wanted = Wanted { digests: self.settings.verify || self.settings.report, survey: self.settings.report };
        Durable::begin(output, self.layout.clone(), &self.plan.outputs, &self.work(prints)?, wanted)
    }

    /// Everything that the bits of the result depend on.
    fn work(&self, prints: &[String]) -> Result<Json> {
        let mut inputs = Map::new();
        for ((model, opened), print) in self.config.models.iter().zip(&self.models).zip(prints) {
            let files = files(opened.source.as_ref())?;
            inputs.insert(model.reference.clone(), json!({"files": files, "fingerprint": print}));
        }
        for source in self.extra.sources() {
            inputs.insert(source.label().into(), json!({"files": files(source)?}));
        }
        Ok(json!({
            "schema": "polmrs.journal/1",
            "polmrs": env!("CARGO_PKG_VERSION"),
            "simd": format!("{:?}", polmrs_core::simd::level()), // transcendental functions differ
            "config": self.document,
            "seed": self.settings.seed,
            "shard_size": self.settings.shard_size,
            "inputs": inputs,
            "vocabulary": self.vocabulary.fingerprint(),
        }))
    }

    /// Writes the small files, then the tensors that are not there yet.
    fn write(&self, output: &Output, prints: &[String], durable: &Durable, ctl: &Ctl) -> Result<()> {
        if self.models.iter().any(|model| model.config.is_some()) {
            self.put_files(output, prints)?;
        }
        let options = Options { done: durable.done(), survey: durable.survey(), ..self.options() };
        let raw = sources(&self.models);
        let views = self.vocabulary.views(&raw);
        polmrs_engine::run(&seen(&views, &self.extra), &self.plan, durable, options, ctl)
    }

    /// Makes all of it durable, compares what the disk holds where that is asked for, and writes the report.
    fn finish(&self, output: &Output, durable: Durable, ctl: &Ctl) -> Result<()> {
        let records = durable.finish()?;
        if self.settings.verify {
            let names = self.plan.outputs.iter().map(|meta| meta.name.as_str());
            let digests = records.iter().map(|record| record.digest.as_deref().unwrap_or_default());
            verify(output.folder(), names.zip(digests), self.settings.threads, ctl)?;
        }
        if self.settings.verify || self.settings.report {
            let report = report::write(self.config.method.spec().name, &self.reference(), &self.plan.outputs, &records);
            output.put(report::FILE, pretty(&report).as_bytes())?;
        }
        Ok(())
    }

    /// What a survey compares results with: the first input of every job.
    fn reference(&self) -> String {
        let mut firsts = self.plan.jobs.iter().filter_map(|job| job.inputs.first()).map(|input| input.source);
        match firsts.next() {
            Some(first) if first < self.models.len() && firsts.all(|other| other == first) => self.models[first].name(),
            _ => "the first model of each tensor".into(),
        }
    }

    /// Writes what stands beside the weights. Bare files have nothing beside theirs, and so has what is made of them.
    fn put_files(&self, output: &Output, prints: &[String]) -> Result<()> {
        let donor = &self.models[self.config.donor()];
        for name in TOKENIZER.into_iter().chain(SIDECARS) {
            match self.vocabulary.files.action(name, &donor.folder) {
                Action::Write(text) => output.put(name, text.as_bytes())?,
                Action::Copy(from) if from.is_file() => self.copy_sidecar(output, &from, name)?,
                Action::Copy(_) | Action::Nothing => {}
            }
        }
        if let Some(config) = self.output_config() {
            output.put("config.json", pretty(&config).as_bytes())?;
        }
        let text = chain::text(&[self.earlier.as_slice(), &[self.named()]].concat());
        output.put("README.md", card::write(&self.config, &text, &self.models, prints)?.as_bytes())?;
        output.put("mergekit_config.yml", text.as_bytes())
    }

    /// Refuses to write over a model that is read, or over a folder that holds one.
    pub(crate) fn refuse_inputs(&self, out: &Path) -> Result<()> {
        let target = output::resolve(out)?;
        for (model, opened) in self.config.models.iter().zip(&self.models) {
            for read in opened.folders() {
                let folder = read.canonicalize().map_err(Error::io(read, "find"))?;
                if folder.starts_with(&target) {
                    let (out, reference) = (out.display(), &model.reference);
                    let relation = if folder == target { "is also" } else { "holds" };
                    return Err(Error::Usage(format!("{out}: {relation} the input '{reference}'; write elsewhere")));
                }
            }
        }
        Ok(())
    }

    /// The floating-point type of most bytes of the output.
    fn dtype(&self) -> Option<Dtype> {
        let mut bytes: BTreeMap<Dtype, u64> = BTreeMap::new();
        for meta in self.plan.outputs.iter().filter(|meta| meta.dtype.is_float()) {
            *bytes.entry(meta.dtype).or_default() += meta.nbytes();
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype)
    }

    /// The base's config with the output's type, and without the place that it was loaded from.
    pub(crate) fn output_config(&self) -> Option<Json> {
        let mut config = self.config_json.clone()?;
        if let (Some(map), Some(dtype)) = (config.as_object_mut(), self.dtype()) {
            for part in ["text_config", "vision_config", "audio_config"] {
                if let Some(part) = map.get_mut(part).and_then(Json::as_object_mut) {
                    forget_origin(part);
                    state_type(part, dtype);
                }
            }
            forget_origin(map);
            if !state_type(map, dtype) {
                map.insert("dtype".into(), dtype.torch_name().into());
            }
        }
        self.vocabulary.amend_config(&mut config);
        Some(config)
    }

    /// Copies a file as it is, but for the folder that a tokenizer's config was loaded from, and for token ids of
    /// another vocabulary.
    fn copy_sidecar(&self, output: &Output, from: &Path, name: &str) -> Result<()> {
        if ["tokenizer_config.json", "generation_config.json"].contains(&name)
            && let Some(Ok(mut config)) = read_text(from)?.map(|text| serde_json::from_str::<Json>(&text))
        {
            let changed = match name {
                "tokenizer_config.json" => config.as_object_mut().is_some_and(forget_origin),
                _ => self.vocabulary.amend_generation_config(&mut config),
            };
            if changed {
                return output.put(name, pretty(&config).as_bytes());
            }
        }
        output.copy(from, name)
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

/// Removes the folder that a config or a tokenizer was loaded from; says whether it was there.
pub(crate) fn forget_origin(map: &mut Map<String, Json>) -> bool {
    ["_name_or_path", "name_or_path"].into_iter().filter(|key| map.shift_remove(*key).is_some()).count() > 0
}

/// Sets the element type where a config states one.
fn state_type(map: &mut Map<String, Json>, dtype: Dtype) -> bool {
    let stated: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|key| map.contains_key(*key)).collect();
    stated.iter().for_each(|key| map[*key] = dtype.torch_name().into());
    !stated.is_empty()
}

/// The files of an input: their sizes, and when they were last written.
fn files(source: &dyn Source) -> Result<Json> {
    let mut files = Map::new();
    for path in source.files() {
        let metadata = path.metadata().map_err(Error::io(&path, "look at"))?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let nanoseconds = modified.map(|since| since.as_nanos().to_string());
        files.insert(name, json!({"bytes": metadata.len(), "modified": nanoseconds}));
    }
    Ok(Json::Object(files))
}

fn spec(meta: &Meta) -> Spec {
    Spec { name: meta.name.clone(), dtype: meta.dtype, shape: meta.shape.clone() }
}

/// What the plan reads: the models in the rows of the result's vocabulary, then what else the method reads.
fn seen<'a>(views: &'a [Remapped<'a>], extra: &'a Extra) -> Vec<&'a dyn Source> {
    views.iter().map(|view| view as &dyn Source).chain(extra.sources()).collect()
}

fn sources(models: &[ModelFolder]) -> Vec<&dyn Source> {
    models.iter().map(|model| model.source.as_ref()).collect()
}

pub(crate) fn pretty(json: &Json) -> String {
    format!("{json:#}\n")
}
