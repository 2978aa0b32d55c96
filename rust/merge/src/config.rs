//! A merge configuration: mergekit's YAML, read strictly.
//!
//! An unknown key or parameter is an error with the nearest right one; what mergekit documents but ignores is accepted
//! with a note. A parameter is looked up at the model, then at the top level, then in the method's defaults.

use crate::methods;
use crate::setting::Setting;
use crate::spec::{Base, Default, Method, Param, Scope, Spec};
use polmrs_core::error::did_you_mean;
use polmrs_core::{Dtype, Result};
use polmrs_io::yaml::{Field, Fields, Node};

/// What to merge, and how.
pub struct Config {
    /// The method.
    pub method: &'static dyn Method,
    /// Every model, in the order of the configuration; a base that is not listed comes last.
    pub models: Vec<Model>,
    /// Which of the models is the base.
    pub base: Option<usize>,
    /// Parameters for all models.
    pub parameters: Settings,
    /// The type that inputs are rounded to before merging.
    pub dtype: Option<Dtype>,
    /// The type of the result.
    pub out_dtype: Option<Dtype>,
    /// What was accepted and has no effect.
    pub notes: Vec<String>,
}

/// One model of a configuration.
#[derive(Clone, Debug)]
pub struct Model {
    /// As written: a folder, a file, or a name.
    pub reference: String,
    /// Its place, for messages: `models[1]`.
    pub place: String,
    /// Its own parameters.
    pub parameters: Settings,
}

/// Parameters set at one place.
pub type Settings = Vec<(&'static str, Setting)>;

impl Config {
    /// Reads a document. Parts of mergekit's schema that this version lacks are refused by name.
    pub fn decode(node: &Node, lenient: bool) -> Result<Config> {
        let root = if lenient { node.root().lenient() } else { node.root() };
        let mut fields = root.fields()?;
        let method =
            fields.required("merge_method", |field| methods::find(&field.as_text()?).map_err(|e| field.error(e)))?;
        let spec = method.spec();
        for key in ["slices", "modules", "tokenizer_source", "tokenizer", "chat_template", "name"] {
            fields.optional(key, |field| Err::<(), _>(field.error("not supported by this version of polmrs")))?;
        }
        let mut models = fields.required("models", |field| field.each(|model| decode_model(model, spec)))?;
        let base = fields.optional("base_model", |field| reference(field))?;
        let parameters = fields.optional("parameters", |field| settings(field, spec))?.unwrap_or_default();
        let dtype = fields.optional("dtype", float_type)?;
        let out_dtype = fields.optional("out_dtype", float_type)?;
        fields.finish()?;
        let base = base.map(|base| {
            models.iter().position(|model| model.reference == base).unwrap_or_else(|| {
                models.push(Model { reference: base, place: "base_model".into(), parameters: Vec::new() });
                models.len() - 1
            })
        });
        let config = Config { method, models, base, parameters, dtype, out_dtype, notes: root.take_notes() };
        config.check_count(&root)?;
        Ok(config)
    }

    /// The base, where the method has one, apart from the models it merges: `(base, models)`, as indices.
    pub fn roles(&self) -> (Option<usize>, Vec<usize>) {
        let base = self.base.filter(|_| self.method.spec().base != Base::Ignored);
        (base, (0..self.models.len()).filter(|model| Some(*model) != base).collect())
    }

    fn check_count(&self, root: &Field<'_>) -> Result<()> {
        let spec = self.method.spec();
        if spec.base == Base::Required && self.base.is_none() {
            return Err(root.error(format_args!("'base_model' is missing; {} needs it", spec.name)));
        }
        let (count, (least, most)) = (self.roles().1.len(), spec.models);
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let rule = if least == most { least.to_string() } else { format!("{least} or more") };
        let beside = if self.roles().0.is_some() { " besides the base" } else { "" };
        Err(root.error(format_args!("models: {} takes {rule}{beside}, not {count}", spec.name)))
    }
}

fn decode_model(field: &Field<'_>, spec: &'static Spec) -> Result<Model> {
    let mut fields = field.fields()?;
    let model = Model {
        reference: fields.required("model", reference)?,
        place: field.path().into(),
        parameters: fields.optional("parameters", |field| settings(field, spec))?.unwrap_or_default(),
    };
    fields.finish()?;
    Ok(model)
}

/// A model reference as text.
fn reference(field: &Field<'_>) -> Result<String> {
    let text = field.as_text()?.into_owned();
    if text.is_empty() { Err(field.error("a model needs a name")) } else { Ok(text) }
}

fn float_type(field: &Field<'_>) -> Result<Dtype> {
    let name = field.as_text()?;
    Dtype::from_torch_name(&name).filter(|dtype| dtype.is_float()).ok_or_else(|| {
        let known: Vec<&str> = Dtype::ALL.iter().filter(|dtype| dtype.is_float()).map(|d| d.torch_name()).collect();
        let hint = did_you_mean(&name, known.iter().copied());
        field.error(format_args!("'{name}' is not one of {}{hint}", known.join(", ")))
    })
}

/// The parameters set at one place; each must be one of the method's.
fn settings(field: &Field<'_>, spec: &'static Spec) -> Result<Settings> {
    let mut fields: Fields<'_> = field.fields()?;
    let mut settings = Vec::new();
    for param in spec.params {
        if let Default::Ignored(why) = param.default {
            fields.ignored(param.name, &format!("has no effect on {}: {why}", spec.name));
        } else if let Some(setting) = fields.optional(param.name, |field| checked(field, param))? {
            settings.push((param.name, setting));
        }
    }
    fields.finish().map_err(|error| explain(error, spec))?;
    Ok(settings)
}

/// A setting, and the rule that a shared parameter is not set for one model.
fn checked(field: &Field<'_>, param: &'static Param) -> Result<Setting> {
    if param.scope == Scope::Shared && field.path().starts_with("models[") {
        return Err(field.error("is for all models at once; set it under the top-level 'parameters'"));
    }
    Setting::decode(field, param)
}

/// Adds what the method does take to an unknown parameter's error.
fn explain(error: polmrs_core::Error, spec: &Spec) -> polmrs_core::Error {
    let names: Vec<&str> = spec.params.iter().map(|param| param.name).collect();
    polmrs_core::Error::Config(format!("{error}; {} takes {}", spec.name, names.join(", ")))
}
