//! The parameters set at one place of a configuration.

use super::Settings;
use crate::setting::Setting;
use crate::spec::{Default, Param, Scope, Spec};
use polmrs_core::{Error, Result};
use polmrs_io::yaml::Field;

/// Reads a map of parameters; each must be one of the method's. Where `shared` is not allowed, the place belongs to one
/// model, and parameters of all models together are refused.
pub(super) fn decode(field: &Field<'_>, spec: &'static Spec, shared: bool) -> Result<Settings> {
    let mut fields = field.fields()?;
    let mut settings = Vec::new();
    for param in spec.params {
        if let Default::Ignored(why) = param.default {
            fields.ignored(param.name, &format!("has no effect on {}: {why}", spec.name));
        } else if let Some(setting) = fields.optional(param.name, |field| checked(field, param, shared))? {
            settings.push((param.name, setting));
        }
    }
    fields.finish().map_err(|error| explain(error, spec))?;
    Ok(settings)
}

fn checked(field: &Field<'_>, param: &'static Param, shared: bool) -> Result<Setting> {
    if param.scope == Scope::Shared && !shared {
        return Err(field.error("is for all models at once; set it under the top-level 'parameters'"));
    }
    Setting::decode(field, param)
}

/// Adds what the method does take to an unknown parameter's error.
fn explain(error: Error, spec: &Spec) -> Error {
    let names: Vec<&str> = spec.params.iter().map(|param| param.name).collect();
    Error::Config(format!("{error}; {} takes {}", spec.name, names.join(", ")))
}
