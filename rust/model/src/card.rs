//! The model card of a result: what went in, how, and nothing about the machine.

use crate::folder::ModelFolder;
use polmrs_core::Result;
use polmrs_io::yaml;
use serde_json::Value as Json;
use std::fmt::Write;

/// What a card says.
pub struct Card<'a> {
    /// Its title.
    pub title: &'a str,
    /// The library that loads it.
    pub library: &'a str,
    /// What model hubs file it under.
    pub tag: &'a str,
    /// The method's name.
    pub method: &'a str,
    /// Its paper; `-` where there is none.
    pub paper: &'a str,
    /// Every input: what it was, and its fingerprint.
    pub inputs: Vec<(&'a ModelFolder, &'static str, &'a str)>,
    /// The configuration as YAML, models by their own names.
    pub configuration: &'a str,
}

impl Card<'_> {
    /// The card as Markdown with a front matter that model hubs read.
    pub fn markdown(&self) -> Result<String> {
        let names = names(self.inputs.iter().map(|(model, ..)| *model));
        let mut licences = Vec::new();
        let mut rows = String::new();
        for ((model, role, print), name) in self.inputs.iter().zip(names) {
            let licence = model.licence()?;
            let shown = licence.as_deref().unwrap_or("not stated");
            let _ = writeln!(rows, "| {name} | {role} | {shown} | `{print}` |");
            licences.extend(licence.filter(|licence| !licences.contains(licence)));
        }
        let mut card = format!("---\nlibrary_name: {}\ntags:\n- {}\n- polmrs\n", self.library, self.tag);
        if let [licence] = licences.as_slice() {
            let _ = write!(card, "license: {}", yaml::emit_json(&Json::String(licence.clone())));
        }
        let paper = if self.paper == "-" { String::new() } else { format!(" ({})", self.paper) };
        let _ = write!(
            card,
            "---\n\n# {}\n\nMade with [polmrs](https://github.com/polmrs/polmrs) {} by `{}`{paper}.\n\n\
             | model | role | licence | fingerprint |\n|---|---|---|---|\n{rows}\n\
             The fingerprint is SHA-256 over every tensor's name, type, shape and first 4 KiB.\n\n\
             ```yaml\n{}```\n",
            self.title,
            env!("CARGO_PKG_VERSION"),
            self.method,
            self.configuration,
        );
        Ok(card)
    }
}

/// The models' own names; those that several share are numbered.
pub fn names<'a>(models: impl IntoIterator<Item = &'a ModelFolder>) -> Vec<String> {
    let names: Vec<String> = models.into_iter().map(ModelFolder::name).collect();
    let told_apart = |(at, name): (usize, &String)| {
        let earlier = names[..at].iter().filter(|other| *other == name).count();
        let shared = names.iter().filter(|other| *other == name).count() > 1;
        if shared { format!("{name} ({})", earlier + 1) } else { name.clone() }
    };
    names.iter().enumerate().map(told_apart).collect()
}
