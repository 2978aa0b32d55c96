//! A quantization from a model to an output folder.

use crate::format::{Layout, quantization_config};
use crate::program::{self, Config, Planned};
use crate::select;
use polmrs_core::{Ctl, Dtype, Error, Result};
use polmrs_engine::source::Meta;
use polmrs_io::output::Output;
use polmrs_io::yaml;
use polmrs_model::beside::{self, SIDECARS, TOKENIZER, pretty};
use polmrs_model::build::{self, Build, Contents, Settings};
use polmrs_model::card::Card;
use polmrs_model::{ModelFolder, fetch};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Models whose layers are stored `[in, out]`, the other way round.
const TRANSPOSED: [&str; 4] = ["gpt2", "openai-gpt", "ctrl", "imagegpt"];

/// What a model was merged by, where it was.
const MERGED: &str = "mergekit_config.yml";

/// A quantization that is understood, open and planned, with nothing written yet.
pub struct Prepared {
    reference: String,
    config: Config,
    model: [ModelFolder; 1],
    layouts: Vec<(String, Layout)>,
    kept: Vec<String>,
    build: Build,
}

impl Prepared {
    /// Opens a model and plans, from headers alone.
    ///
    /// # Errors
    /// [`Error::Usage`] and [`Error::Config`] for what does not go together, [`Error::Checkpoint`] for a model that has
    /// nothing to quantize, or codes without a config that says what they are.
    pub fn new(reference: &str, config: Config, settings: Settings) -> Result<Prepared> {
        Prepared::of(ModelFolder::open(reference)?, reference, config, settings)
    }

    /// The same for a model that is open, or only announced; `reference` is what messages call it.
    pub fn of(model: ModelFolder, reference: &str, config: Config, settings: Settings) -> Result<Prepared> {
        if let Some(kind) = stored_transposed(&model) {
            let rule = "its layers are stored [in, out], and no loader reads those quantized";
            return Err(Error::Checkpoint(format!("{reference}: model_type '{kind}': {rule}")));
        }
        let Planned { mut plan, layouts, kept } =
            program::plan(&config, model.source.as_ref(), settings.threads, settings.max_memory)?;
        if model.config.is_none() {
            plan.notes.push("there is no config.json to state the quantization in: the result is tensors alone".into());
        }
        // NaN and infinities have no codes.
        let settings = Settings { allow_nonfinite: false, ..settings };
        let build = Build::new(plan, &[model.source.as_ref()], settings)?;
        let prepared = Prepared { reference: reference.into(), config, model: [model], layouts, kept, build };
        prepared.quantization()?; // what the format cannot state
        Ok(prepared)
    }

    /// What a person should know.
    pub fn notes(&self) -> &[String] {
        &self.build.plan().notes
    }

    /// What is going to happen: input, schemes, outputs, bytes, passes, memory.
    pub fn describe(&self) -> Json {
        let source = self.tensors();
        let mut described = json!({
            "schema": "polmrs.plan/1",
            "method": self.method(),
            "inputs": [{
                "model": self.reference,
                "base": false,
                "tensors": source.len(),
                "bytes": source.iter().map(Meta::nbytes).sum::<u64>(),
            }],
            "format": self.config.format.name(),
            "quantized": self.layouts.len(),
            "bits_per_weight": self.bits_per_weight(),
        });
        if let (Some(map), Json::Object(build)) = (described.as_object_mut(), self.build.describe()) {
            map.extend(build);
        }
        described["output"]["parameters"] = source.iter().map(Meta::elements).sum::<u64>().into();
        described["output"]["dtype"] = self.dtype().torch_name().into();
        described
    }

    /// Quantizes into `out`, which appears whole at the end.
    ///
    /// An error in the input leaves nothing behind. A cancellation leaves `OUT.partial`, and so does an error of the disk
    /// once anything is whole: the next run goes on from there if `resume` is set, and replaces it if not.
    pub fn run(&self, out: &Path, ctl: &Ctl) -> Result<Json> {
        let [model] = &self.model;
        build::refuse_inputs(out, [(self.reference.as_str(), model)])?;
        fetch(&self.model, ctl)?;
        let contents = Quantized { prepared: self, print: model.fingerprint()? };
        let done = self.build.run(&[model.source.as_ref()], &contents, out, ctl)?;
        let mut report = self.describe();
        report["schema"] = "polmrs.quantize/1".into();
        if let (Some(map), Json::Object(done)) = (report.as_object_mut(), done) {
            map.extend(done);
        }
        Ok(report)
    }

    fn tensors(&self) -> &[Meta] {
        self.model[0].source.tensors()
    }

    /// Scheme, method and format in one line.
    fn method(&self) -> String {
        let Config { scheme, method, compat, .. } = &self.config;
        format!("{scheme}, {method}{}", if *compat { ", compat" } else { "" })
    }

    /// Bits that the quantized weights take, scales and zero points counted in, over their elements.
    fn bits_per_weight(&self) -> f64 {
        let plan = self.build.plan();
        let (mut bits, mut elements) = (0, 0);
        for job in plan.jobs.iter().filter(|job| job.outputs.len() > 1) {
            bits += job.outputs.iter().map(|target| 8 * plan.outputs[target.tensor].nbytes()).sum::<u64>();
            elements += job.inputs.iter().map(|input| input.len).sum::<u64>();
        }
        bits as f64 / elements as f64
    }

    /// The type that the model computes in: that of most of its bytes.
    fn dtype(&self) -> Dtype {
        let mut bytes: BTreeMap<Dtype, u64> = BTreeMap::new();
        for meta in self.tensors().iter().filter(|meta| meta.dtype.is_float()) {
            *bytes.entry(meta.dtype).or_default() += meta.nbytes();
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or(Dtype::F32, |(dtype, _)| dtype)
    }

    /// `quantization_config`: the layout of most layers first, for all that no other names.
    fn quantization(&self) -> Result<Json> {
        let mut groups: Vec<(Layout, Vec<String>)> = Vec::new();
        for (module, layout) in &self.layouts {
            let alike = |known: &Layout| (known.coding, known.activations) == (layout.coding, layout.activations);
            match groups.iter_mut().find(|(known, _)| alike(known)) {
                Some((_, modules)) => modules.push(module.clone()),
                None => groups.push((*layout, vec![module.clone()])),
            }
        }
        groups.sort_by_key(|(_, modules)| std::cmp::Reverse(modules.len()));
        if let Some((_, targets)) = groups.first_mut() {
            *targets = vec!["Linear".into()];
        }
        let mut ignore: Vec<String> =
            self.kept.iter().filter(|module| select::may_be_linear(module)).cloned().collect();
        let head = "lm_head".to_owned(); // a tied one is no tensor of its own, and yet a layer
        if !ignore.contains(&head) && !self.layouts.iter().any(|(module, _)| *module == head) {
            ignore.push(head);
        }
        quantization_config(&groups, &ignore)
    }

    /// What was asked for, as YAML.
    fn configuration(&self) -> String {
        let Config { scheme, method, format, rules, compat, .. } = &self.config;
        let rules: Vec<String> = rules.iter().map(|rule| rule.text()).collect();
        yaml::emit_json(&json!({
            "model": self.model[0].name(),
            "scheme": scheme.to_string(),
            "method": method.to_string(),
            "format": format.name(),
            "rules": rules,
            "compat": compat,
        }))
    }
}

fn stored_transposed(model: &ModelFolder) -> Option<&str> {
    let kind = model.config.as_ref()?.get("model_type")?.as_str()?;
    TRANSPOSED.contains(&kind).then_some(kind)
}

/// A prepared quantization on its way into a folder.
struct Quantized<'a> {
    prepared: &'a Prepared,
    print: String,
}

impl Contents for Quantized<'_> {
    fn work(&self) -> Result<Json> {
        let Prepared { model: [model], reference, .. } = self.prepared;
        let stats = self.prepared.config.stats.iter().flat_map(|stats| stats.checkpoint().files());
        Ok(json!({
            "config": self.prepared.configuration(),
            "inputs": {reference: {"files": build::files(model.source.files())?, "fingerprint": self.print}},
            "stats": build::files(stats.map(PathBuf::from))?,
        }))
    }

    fn beside(&self, output: &Output) -> Result<()> {
        let [model] = &self.prepared.model;
        let Some(mut config) = model.config.clone() else { return Ok(()) };
        for name in TOKENIZER.into_iter().chain(SIDECARS).chain([MERGED]) {
            let from = model.folder.join(name);
            if from.is_file() {
                beside::copy(output, &from, name, |_, _| false)?;
            }
        }
        beside::state(&mut config, self.prepared.dtype());
        config["quantization_config"] = self.prepared.quantization()?;
        output.put("config.json", pretty(&config).as_bytes())?;
        let card = Card {
            library: "transformers",
            title: "Quantized model",
            tag: "quantized",
            method: &self.prepared.method(),
            paper: "-",
            inputs: vec![(model, "model", &self.print)],
            configuration: &self.prepared.configuration(),
        };
        output.put("README.md", card.markdown()?.as_bytes())
    }

    fn reported(&self) -> (String, String) {
        (self.prepared.method(), self.prepared.model[0].name())
    }
}
