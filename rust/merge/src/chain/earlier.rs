//! The results of earlier documents, which later ones name as models, as adapters, or on a side of `model+adapter`.
//!
//! A name comes before a folder of that name.

use crate::run::Prepared;
use polmrs_core::Result;
use polmrs_engine::source::Meta;
use polmrs_model::ModelFolder;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// The result of an earlier document.
pub(crate) struct Earlier {
    /// What later documents call it.
    name: String,
    /// Its configuration, with models by their own names.
    document: Json,
    state: State,
}

enum State {
    Model { tensors: Vec<Meta>, config: Option<Json> },
    Adapter { tensors: Vec<Meta>, config: Json },
    Written(PathBuf),
}

impl Earlier {
    /// A result that is going to be written.
    pub(super) fn planned(name: &str, prepared: &Prepared) -> Earlier {
        let tensors = prepared.tensors().to_vec();
        let state = match prepared.adapter_config() {
            Some(config) => State::Adapter { tensors, config: config.clone() },
            None => State::Model { tensors, config: prepared.output_config() },
        };
        Earlier { name: name.into(), document: prepared.named(), state }
    }

    /// A result that is there.
    pub(super) fn written(name: &str, prepared: &Prepared, folder: &Path) -> Earlier {
        Earlier { name: name.into(), document: prepared.named(), state: State::Written(folder.into()) }
    }

    /// The configurations of results, one YAML document each.
    pub(crate) fn documents(earlier: &[Earlier]) -> Vec<Json> {
        earlier.iter().map(|one| one.document.clone()).collect()
    }

    /// The model that a reference names: an earlier result, a model outside, or one of them on the other.
    pub(crate) fn open(earlier: &[Earlier], reference: &str) -> Result<ModelFolder> {
        let names: Vec<&str> = earlier.iter().map(|one| one.name.as_str()).collect();
        let one = |text: &str| match names.iter().position(|name| *name == text) {
            None => ModelFolder::open_any(text),
            Some(at) => earlier[at].folder(),
        };
        match sides(reference, &names) {
            None => one(reference),
            Some([model, adapter]) => one(model)?.adapted(one(adapter)?, reference),
        }
    }

    fn folder(&self) -> Result<ModelFolder> {
        match &self.state {
            State::Model { tensors, config } => Ok(ModelFolder::announced(&self.name, tensors.clone(), config.clone())),
            State::Adapter { tensors, config } => {
                ModelFolder::announced_adapter(&self.name, tensors.clone(), config.clone())
            }
            State::Written(path) => ModelFolder::at(path, &self.name),
        }
    }
}

/// The documents, by their names, whose results a reference uses.
pub(super) fn uses(reference: &str, names: &[&str]) -> Vec<usize> {
    let parts = sides(reference, names).map_or_else(|| vec![reference], Vec::from);
    parts.iter().filter_map(|part| names.iter().position(|name| name == part && !name.is_empty())).collect()
}

/// The model and the adapter of `model+adapter` where at least one of them is a name.
fn sides<'a>(reference: &'a str, names: &[&str]) -> Option<[&'a str; 2]> {
    if names.contains(&reference) {
        return None;
    }
    let mut parts = reference.match_indices('+').map(|(at, _)| [&reference[..at], &reference[at + 1..]]);
    parts.find(|sides| sides.iter().any(|side| !side.is_empty() && names.contains(side)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_alone_and_on_both_sides_of_a_plus() {
        let names = ["first", "a+b", ""];
        assert_eq!(uses("first", &names), [0]);
        assert_eq!(uses("base+first", &names), [0]);
        assert_eq!(uses("first+a+b", &names), [0, 1]);
        assert_eq!(uses("a+b", &names), [1]);
        assert!(uses("base+other", &names).is_empty() && uses("", &names).is_empty() && uses("x+", &names).is_empty());
    }
}
