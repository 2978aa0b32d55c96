//! What a merge writes beside the weights: config, tokenizer, card, and the configuration that makes the folder again.

use super::Prepared;
use crate::chain;
use crate::tokenizer::files::Action;
use polmrs_core::Result;
use polmrs_io::output::Output;
use polmrs_model::beside::{self, SIDECARS, TOKENIZER, pretty};
use polmrs_model::build::Contents;
use polmrs_model::card::Card;
use serde_json::Value as Json;

/// A merge whose inputs are here.
pub(super) struct Merged<'a> {
    prepared: &'a Prepared,
    prints: Vec<String>,
}

impl Contents for Merged<'_> {
    fn work(&self) -> Result<Json> {
        self.prepared.work(&self.prints)
    }

    /// Bare files have nothing beside theirs, and so has what is made of them.
    fn beside(&self, output: &Output) -> Result<()> {
        let Prepared { config, models, vocabulary, adapters, .. } = self.prepared;
        if let Some(adapters) = adapters {
            adapters.beside(output, &models[0])?;
            return self.describing(output);
        }
        if models.iter().all(|model| model.config.is_none()) {
            return Ok(());
        }
        let amend =
            |name: &str, json: &mut Json| name == "generation_config.json" && vocabulary.amend_generation_config(json);
        for name in TOKENIZER.into_iter().chain(SIDECARS) {
            match vocabulary.files.action(name, &models[config.donor()].folder) {
                Action::Write(text) => output.put(name, text.as_bytes())?,
                Action::Copy(from) if from.is_file() => beside::copy(output, &from, name, amend)?,
                Action::Copy(_) | Action::Nothing => {}
            }
        }
        if let Some(config) = self.prepared.output_config() {
            output.put("config.json", pretty(&config).as_bytes())?;
        }
        self.describing(output)
    }

    fn reported(&self) -> (String, String) {
        (self.prepared.config.method.spec().name.into(), self.reference())
    }
}

impl<'a> Merged<'a> {
    pub(super) fn new(prepared: &'a Prepared, prints: Vec<String>) -> Merged<'a> {
        Merged { prepared, prints }
    }

    /// What a survey compares results with: the first input of every job.
    fn reference(&self) -> String {
        let Prepared { config, models, adapters, build, .. } = self.prepared;
        if adapters.is_some() {
            return if config.over_zero { "no change".into() } else { models[config.donor()].name() };
        }
        let mut firsts = build.plan().jobs.iter().filter_map(|job| job.inputs.first()).map(|input| input.source);
        match firsts.next() {
            Some(first) if first < models.len() && firsts.all(|other| other == first) => models[first].name(),
            _ => "the first model of each tensor".into(),
        }
    }

    /// Writes the card and the configuration.
    fn describing(&self, output: &Output) -> Result<()> {
        let Prepared { config, models, earlier, adapters, .. } = self.prepared;
        let text = chain::text(&[earlier.as_slice(), &[self.prepared.named()]].concat());
        let role = |at| if config.base == Some(at) { "base" } else { "model" };
        let inputs = models.iter().zip(&self.prints).enumerate();
        let spec = config.method.spec();
        let card = Card {
            title: if adapters.is_some() { "Merged adapter" } else { "Merged model" },
            library: if adapters.is_some() { "peft" } else { "transformers" },
            tag: "merge",
            method: spec.name,
            paper: spec.paper,
            inputs: inputs.map(|(at, (model, print))| (model, role(at), print.as_str())).collect(),
            configuration: &text,
        };
        output.put("README.md", card.markdown()?.as_bytes())?;
        output.put("mergekit_config.yml", text.as_bytes())
    }
}
