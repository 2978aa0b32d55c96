//! Which tensors have a row per token.
//!
//! By name: the input embedding, the head and its bias. By size: any other tensor outside the layers whose first
//! dimension is the `vocab_size` of the config in every model, where those sizes differ, or no other size in the configs
//! is the same.

use super::Member;
use super::remap::{Mapped, Maps};
use super::rows::Rows;
use crate::setting::layer;
use polmrs_core::{Dtype, Error, Result};
use polmrs_engine::source::Meta;
use serde_json::Value as Json;
use std::sync::{Arc, Mutex};

/// The ends of the names of input embeddings; the first that a model has tells how many rows it has.
const EMBEDDINGS: [&str; 7] = [
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "embeddings.weight",
    "shared.weight",
];
/// The ends of the names of heads.
const HEADS: [&str; 7] = [
    "lm_head.weight",
    "lm_head.bias",
    "embed_out.weight",
    "output.weight",
    "predictions.decoder.weight",
    "predictions.decoder.bias",
    "predictions.bias",
];

/// The vocabulary matrices of all models.
pub(crate) struct Matrices {
    matrices: Vec<Matrix>,
    /// The rows of each model.
    pub(crate) counts: Vec<u64>,
}

/// A tensor with a row per token.
struct Matrix {
    /// Its name in the result.
    name: String,
    /// The tensor of every model that goes with it: the embedding, where a model ties its head.
    places: Vec<Option<usize>>,
}

/// Whether a name is that of an embedding or a head.
pub(crate) fn by_name(name: &str) -> bool {
    let ends = |end: &&str| match name.strip_suffix(*end) {
        Some("") => true,
        // `output.weight` is a head by itself, and anything in a larger model.
        Some(rest) => rest.ends_with('.') && *end != "output.weight",
        None => false,
    };
    layer(name).is_none() && EMBEDDINGS.iter().chain(&HEADS).any(ends)
}

/// Finds them; the donor's names tell which tensors the result has.
pub(crate) fn find(models: &[Member<'_>], donor: usize) -> Result<Matrices> {
    let mut counts = Vec::new();
    for model in models {
        counts.push(rows_of(model)?);
    }
    let mut matrices = Vec::new();
    for meta in models[donor].source.tensors() {
        let places: Vec<Option<usize>> = models.iter().map(|model| locate(model, meta)).collect();
        let follows = by_name(&meta.name) || by_size(models, &counts, &places, meta);
        if follows {
            for ((model, rows), place) in models.iter().zip(&counts).zip(&places) {
                check(model, *place, *rows)?;
            }
            matrices.push(Matrix { name: meta.name.clone(), places });
        }
    }
    Ok(Matrices { matrices, counts })
}

impl Matrices {
    /// How every tensor of every model is made.
    pub(crate) fn map(&self, models: &[Member<'_>], rows: &[Arc<Rows>], dtype: Option<Dtype>) -> Result<Vec<Maps>> {
        let mut all = Vec::new();
        for (model, rows) in rows.iter().enumerate() {
            let source = models[model].source;
            let tensors = source.tensors().iter().map(|_| None).collect();
            let mut maps = Maps { tensors, heads: Vec::new() };
            for Matrix { name, places } in &self.matrices {
                let Some(own) = places[model].filter(|_| !rows.are_all_of(model, self.counts[model])) else { continue };
                let map = mapped(models, name, places, own, model, rows, dtype)?;
                if source.tensors()[own].name == *name {
                    maps.tensors[own] = Some(map);
                } else {
                    maps.heads.push((name.clone(), map));
                }
            }
            all.push(maps);
        }
        Ok(all)
    }
}

/// How a model's matrix is made: in its own type if that holds all of it.
fn mapped(
    models: &[Member<'_>],
    name: &str,
    places: &[Option<usize>],
    own: usize,
    model: usize,
    rows: &Arc<Rows>,
    dtype: Option<Dtype>,
) -> Result<Mapped> {
    let mut widest = models[model].source.tensors()[own].dtype;
    for donor in rows.donors() {
        let Some(at) = places[donor] else {
            let donor = models[donor].reference;
            return Err(Error::Checkpoint(format!("{donor}: '{name}' is missing, and its tokens need rows of it")));
        };
        widest = widest.promote(models[donor].source.tensors()[at].dtype);
    }
    if let Some(asked) = dtype.filter(|_| rows.computes()) {
        widest = widest.promote(asked);
    }
    Ok(Mapped { rows: Arc::clone(rows), tensors: places.into(), dtype: widest, mean: Mutex::new(None) })
}

/// The tensor of a model that goes with one of the donor's: of that name, or the embedding for a head that it ties.
fn locate(model: &Member<'_>, meta: &Meta) -> Option<usize> {
    let source = model.source;
    let is_head = || HEADS.iter().any(|head| head.ends_with("weight") && meta.name.ends_with(head));
    source.find(&meta.name).or_else(|| if model.tied && is_head() { embedding(model) } else { None })
}

fn embedding(model: &Member<'_>) -> Option<usize> {
    let tensors = model.source.tensors();
    EMBEDDINGS.iter().find_map(|end| {
        tensors.iter().position(|tensor| tensor.shape.len() == 2 && by_name(&tensor.name) && tensor.name.ends_with(end))
    })
}

/// The rows of a model's input embedding.
fn rows_of(model: &Member<'_>) -> Result<u64> {
    let tensors = model.source.tensors();
    embedding(model).map(|at| tensors[at].shape[0]).ok_or_else(|| {
        let names = EMBEDDINGS.map(|name| format!("*.{name}")).join(", ");
        Error::Checkpoint(format!("{}: no input embedding (a matrix named {names})", model.reference))
    })
}

/// The `vocab_size` that a config states.
fn stated(config: &Json) -> Option<u64> {
    let of = |config: &Json| config.get("vocab_size").and_then(Json::as_u64);
    of(config).or_else(|| config.get("text_config").and_then(of))
}

/// Whether a tensor of another name has one row per token in every model.
fn by_size(models: &[Member<'_>], counts: &[u64], places: &[Option<usize>], meta: &Meta) -> bool {
    let is_position = ["position", "wpe", "token_type"].iter().any(|part| meta.name.contains(part));
    if is_position || layer(&meta.name).is_some() || !matches!(meta.shape.len(), 1 | 2) {
        return false;
    }
    let mut unmistakable = counts.iter().any(|count| *count != counts[0]);
    for ((model, count), place) in models.iter().zip(counts).zip(places) {
        let size = place.map(|at| model.source.tensors()[at].shape[0]);
        if size != Some(*count) || model.config.and_then(stated) != Some(*count) {
            return false;
        }
        unmistakable |= !model.config.is_some_and(|config| other_size(config, *count));
    }
    unmistakable
}

/// Whether a config states a size besides that of the vocabulary.
fn other_size(config: &Json, size: u64) -> bool {
    config.as_object().is_some_and(|map| {
        map.iter().any(|(key, value)| match value {
            Json::Object(_) => other_size(value, size),
            value => !key.contains("vocab") && value.as_u64() == Some(size),
        })
    })
}

/// Refuses a vocabulary matrix that has other rows than its model's embedding, or whose elements are no numbers.
fn check(model: &Member<'_>, place: Option<usize>, rows: u64) -> Result<()> {
    let Some(at) = place else { return Ok(()) };
    let (meta, label) = (&model.source.tensors()[at], model.reference);
    if !meta.dtype.is_float() {
        let kind = meta.dtype.name();
        return Err(Error::Checkpoint(format!(
            "{label}: '{}' is of type {kind}; rows of it cannot be mixed",
            meta.name
        )));
    }
    if meta.shape.first() != Some(&rows) {
        return Err(Error::Checkpoint(format!(
            "{label}: '{}' of shape {:?} does not have the {rows} rows of the input embedding",
            meta.name, meta.shape
        )));
    }
    Ok(())
}
