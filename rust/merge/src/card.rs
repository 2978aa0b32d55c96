//! The model card of a merge: what went in, how, and nothing about the machine.

use crate::config::Config;
use crate::model::ModelFolder;
use polmrs_core::Result;
use polmrs_io::yaml;
use serde_json::Value as Json;
use std::fmt::Write;

/// The card as Markdown with a front matter that model hubs read; `text` is the configuration, models by their own names,
/// `prints` are the models' fingerprints.
pub fn write(config: &Config, text: &str, models: &[ModelFolder], prints: &[String]) -> Result<String> {
    let spec = config.method.spec();
    let names = names(models);
    let mut licences = Vec::new();
    let mut rows = String::new();
    for (at, model) in models.iter().enumerate() {
        let licence = model.licence()?;
        let role = if config.base == Some(at) { "base" } else { "model" };
        let shown = licence.as_deref().unwrap_or("not stated");
        let _ = writeln!(rows, "| {} | {role} | {shown} | `{}` |", names[at], prints[at]);
        licences.extend(licence.filter(|licence| !licences.contains(licence)));
    }
    let mut card = String::from("---\nlibrary_name: transformers\ntags:\n- merge\n- polmrs\n");
    if let [licence] = licences.as_slice() {
        let _ = write!(card, "license: {}", yaml::emit_json(&Json::String(licence.clone())));
    }
    let paper = if spec.paper == "-" { String::new() } else { format!(" ({})", spec.paper) };
    let _ = write!(
        card,
        "---\n\n# Merged model\n\nMade with [polmrs](https://github.com/polmrs/polmrs) {} by `{}`{paper}.\n\n\
         | model | role | licence | fingerprint |\n|---|---|---|---|\n{rows}\n\
         The fingerprint is SHA-256 over every tensor's name, type, shape and first 4 KiB.\n\n\
         ```yaml\n{text}```\n",
        env!("CARGO_PKG_VERSION"),
        spec.name,
    );
    Ok(card)
}

/// The models' own names; those that several share are numbered.
fn names(models: &[ModelFolder]) -> Vec<String> {
    let names: Vec<String> = models.iter().map(ModelFolder::name).collect();
    let told_apart = |(at, name): (usize, &String)| {
        let earlier = names[..at].iter().filter(|other| *other == name).count();
        let shared = names.iter().filter(|other| *other == name).count() > 1;
        if shared { format!("{name} ({})", earlier + 1) } else { name.clone() }
    };
    names.iter().enumerate().map(told_apart).collect()
}

/// The configuration with every model reference replaced by the model's own name.
pub fn named(document: &Json, config: &Config, models: &[ModelFolder]) -> Json {
    rename(document, config, &names(models))
}

fn rename(document: &Json, config: &Config, names: &[String]) -> Json {
    match document {
        Json::String(text) => match config.models.iter().position(|model| model.reference == *text) {
            Some(at) => Json::String(names[at].clone()),
            None => document.clone(),
        },
        Json::Array(items) => items.iter().map(|item| rename(item, config, names)).collect(),
        Json::Object(map) => map.iter().map(|(key, value)| (key.clone(), rename(value, config, names))).collect(),
        other => other.clone(),
    }
}
