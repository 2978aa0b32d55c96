//! A merge configuration: mergekit's YAML, read strictly.
//!
//! `models`, `slices` and `modules` are three ways to write the same thing: an output of *modules* (the whole model is
//! one), each of which is a run of *parts*, each made of one or more models' layers. `models` is one module of one part
//! that takes all layers of every model.
//!
//! An unknown key or parameter is an error with the nearest right one; what mergekit documents but ignores is accepted
//! with a note. A parameter is looked up at the model, then at its slice, its module, the top level, and then in the
//! method's defaults.

mod adapter;
mod parameters;
mod parts;

pub use adapter::{Combination, Factors};

use crate::methods;
use crate::setting::Setting;
use crate::spec::{Base, Method};
use crate::tokenizer;
use parts::References;
use polmrs_core::error::did_you_mean;
use polmrs_core::{Dtype, Result};
use polmrs_io::yaml::{Field, Node, Value};
use std::ops::Range;

/// What to merge, and how.
pub struct Config {
    /// What later documents of the same file call the result.
    pub name: Option<String>,
    /// The method.
    pub method: &'static dyn Method,
    /// Every model once, in the order in which they are named; a base that is not listed comes after.
    pub models: Vec<Model>,
    /// Which of the models is the base; it also gives the output its config and its other files.
    pub base: Option<usize>,
    /// What the output is made of.
    pub modules: Vec<Module>,
    /// Parameters for everything.
    pub parameters: Settings,
    /// The type that inputs are rounded to before merging.
    pub dtype: Option<Dtype>,
    /// The type of the result.
    pub out_dtype: Option<Dtype>,
    /// How the factors of a merged adapter are made.
    pub factors: Factors,
    /// The base is no model but zero: adapters are changes already.
    pub over_zero: bool,
    /// The vocabulary and the chat template of the result.
    pub tokenizer: tokenizer::Settings,
    /// What was accepted and has no effect.
    pub notes: Vec<String>,
}

/// One model of a configuration.
#[derive(Clone, Debug)]
pub struct Model {
    /// As written: a folder, a file, or a name.
    pub reference: String,
    /// The place that names it first, for messages: `models[1]`.
    pub place: String,
}

/// A part of a model with layers of its own: the whole of a language model, the vision tower of another.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name under `modules`; `None` for the whole model.
    pub name: Option<String>,
    /// Its place, for messages; empty for the whole model.
    pub place: String,
    /// Its layers from first to last.
    pub parts: Vec<Part>,
    /// Parameters for all of it.
    pub parameters: Settings,
}

/// A run of output layers that is made of as many layers of each of its members.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its place, for messages: `slices[1]`; empty for all layers of the whole model.
    pub place: String,
    /// The models that it is made of.
    pub members: Vec<Member>,
    /// Which of the members is the base.
    pub base: Option<usize>,
    /// Parameters for all of it.
    pub parameters: Settings,
}

/// One model's share of a part.
#[derive(Clone, Debug)]
pub struct Member {
    /// Which of the configuration's models.
    pub model: usize,
    /// Its place, for messages: `slices[1].sources[0]`.
    pub place: String,
    /// Which of its layers; `None` for all.
    pub layers: Option<Range<u64>>,
    /// Its own parameters.
    pub parameters: Settings,
}

/// Parameters set at one place.
pub type Settings = Vec<(&'static str, Setting)>;

impl Config {
    /// Reads a document.
    pub fn decode(node: &Node, lenient: bool) -> Result<Config> {
        Config::read(node, lenient, false)
    }

    /// Reads a document whose models may be adapters: a method that needs a base has zero for it, the last of the models,
    /// where the document names none.
    pub fn decode_any(node: &Node, lenient: bool) -> Result<Config> {
        Config::read(node, lenient, false).or_else(|_| Config::read(node, lenient, true))
    }

    fn read(node: &Node, lenient: bool, over_zero: bool) -> Result<Config> {
        let root = if lenient { node.root().lenient() } else { node.root() };
        refuse_other_commands(&root)?;
        let mut fields = root.fields()?;
        let method =
            fields.required("merge_method", |field| methods::find(&field.as_text()?).map_err(|e| field.error(e)))?;
        let name = fields.optional("name", document_name)?;
        let given = fields.optional("base_model", reference)?;
        let over_zero = over_zero && given.is_none() && adapter::has_zero_base(method.spec());
        let base = given.or_else(|| over_zero.then(|| adapter::ZERO.to_owned()));
        let mut references = References::default();
        let reader = parts::Reader { spec: method.spec(), base: base.as_deref() };
        let modules = reader.modules(&root, &mut fields, &mut references)?;
        let base = base.map(|base| references.intern(base, "base_model"));
        let parameters = fields.optional("parameters", |field| parameters::decode(field, method.spec(), true))?;
        let dtype = fields.optional("dtype", float_type)?;
        let out_dtype = fields.optional("out_dtype", float_type)?;
        let factors = Factors::decode(&mut fields)?;
        let tokenizer = tokenizer::Settings::decode(&mut fields, reference)?;
        fields.finish()?;
        Ok(Config {
            name,
            method,
            models: references.models,
            base,
            modules,
            parameters: parameters.unwrap_or_default(),
            dtype,
            out_dtype,
            factors,
            over_zero,
            tokenizer,
            notes: root.take_notes(),
        })
    }

    /// The model that gives the output its config, its tokenizer and its other files: the base, else the first.
    pub fn donor(&self) -> usize {
        self.base.unwrap_or(0)
    }
}

impl Part {
    /// The base, where the method has one, apart from the members it merges: `(base, members)`, as indices.
    pub fn roles(&self, method: &dyn Method) -> (Option<usize>, Vec<usize>) {
        let base = self.base.filter(|_| method.spec().base != Base::Ignored);
        (base, (0..self.members.len()).filter(|member| Some(*member) != base).collect())
    }

    /// The member whose tensors the part has: the base, else the first.
    pub fn donor(&self) -> usize {
        self.base.unwrap_or(0)
    }

    /// How many output layers it has; `None` for all of its models'.
    pub fn layers(&self) -> Option<u64> {
        self.members[0].layers.as_ref().map(|layers| layers.end - layers.start)
    }
}

/// Keys of configurations that are no merges, and the command of mergekit that reads them.
const OTHER_COMMANDS: [(&str, &str); 2] = [("experts", "mergekit-moe"), ("genome", "mergekit-evolve")];

fn refuse_other_commands(root: &Field<'_>) -> Result<()> {
    let Value::Map(map) = root.value() else { return Ok(()) };
    let other = OTHER_COMMANDS.iter().find(|(key, _)| map.get(key).is_some());
    match other.filter(|_| map.get("merge_method").is_none()) {
        None => Ok(()),
        Some((key, command)) => {
            Err(root.error(format_args!("'{key}': this is a configuration of {command}, which is not in polmrs")))
        }
    }
}

/// A model reference as text.
fn reference(field: &Field<'_>) -> Result<String> {
    let text = field.as_text()?.into_owned();
    if text.is_empty() { Err(field.error("a model needs a name")) } else { Ok(text) }
}

/// The name of a document, which also names a folder.
fn document_name(field: &Field<'_>) -> Result<String> {
    let name = reference(field)?;
    if name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(field.error(format_args!("'{name}' is not the name of a folder")));
    }
    Ok(name)
}

fn float_type(field: &Field<'_>) -> Result<Dtype> {
    let name = field.as_text()?;
    Dtype::from_torch_name(&name).filter(|dtype| dtype.is_float()).ok_or_else(|| {
        let known: Vec<&str> = Dtype::ALL.iter().filter(|dtype| dtype.is_float()).map(|d| d.torch_name()).collect();
        let hint = did_you_mean(&name, known.iter().copied());
        field.error(format_args!("'{name}' is not one of {}{hint}", known.join(", ")))
    })
}
