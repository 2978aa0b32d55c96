//! The values of a method's parameters for one tensor, after filters, gradients, precedence and defaults.

use crate::spec::{Default, Param, Scope, Spec, Value};
use polmrs_core::{Error, Result};
use std::sync::Arc;

/// One tensor's parameter values.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    shared: Vec<(&'static str, Value)>,
    per_model: Vec<Vec<(&'static str, Value)>>,
}

impl Params {
    /// Resolves every parameter of `spec` for `models` models: `given(param, model)` answers what the configuration
    /// says, if anything (`model` is `None` for shared parameters).
    pub fn resolve(
        spec: &Spec,
        models: usize,
        given: impl Fn(&Param, Option<usize>) -> Result<Option<Value>>,
        describe: impl Fn(Option<usize>) -> String,
    ) -> Result<Params> {
        let value = |param: &Param, model: Option<usize>| -> Result<Option<(&'static str, Value)>> {
            let value = match (given(param, model)?, &param.default) {
                (_, Default::Ignored(_)) => return Ok(None),
                (Some(value), _) => value,
                (None, Default::Is(value)) => value.clone(),
                (None, Default::Required(_)) => {
                    let (name, method, place) = (param.name, spec.name, describe(model));
                    return Err(Error::Config(format!("{place}: parameter '{name}' is missing; {method} needs it")));
                }
            };
            if let Value::Number(number) = value
                && !param.range.contains(number)
            {
                let (place, name, range) = (describe(model), param.name, param.range.text());
                return Err(Error::Config(format!("{place}.{name}: {number} is not {range}")));
            }
            Ok(Some((param.name, value)))
        };
        let of = |scope: Scope, model: Option<usize>| -> Result<Vec<(&'static str, Value)>> {
            let params = spec.params.iter().filter(|param| param.scope == scope);
            params.filter_map(|param| value(param, model).transpose()).collect()
        };
        Ok(Params {
            shared: of(Scope::Shared, None)?,
            per_model: (0..models).map(|model| of(Scope::PerModel, Some(model))).collect::<Result<_>>()?,
        })
    }

    /// How many models there are, without the base where the method has one.
    pub fn models(&self) -> usize {
        self.per_model.len()
    }

    /// A shared number.
    pub fn number(&self, name: &str) -> f64 {
        number(find(&self.shared, name))
    }

    /// A shared yes or no.
    pub fn flag(&self, name: &str) -> bool {
        find(&self.shared, name) == Some(Value::Flag(true))
    }

    /// A shared choice.
    pub fn choice(&self, name: &str) -> &'static str {
        match find(&self.shared, name) {
            Some(Value::Choice(choice)) => choice,
            _ => "",
        }
    }

    /// A per-model number, for every model.
    pub fn each(&self, name: &str) -> Vec<f64> {
        self.per_model.iter().map(|values| number(find(values, name))).collect()
    }

    /// A per-model text, for every model.
    pub fn texts(&self, name: &str) -> Vec<Arc<str>> {
        let text = |values: &Vec<(&'static str, Value)>| match find(values, name) {
            Some(Value::Text(text)) => text,
            _ => "".into(),
        };
        self.per_model.iter().map(text).collect()
    }

    /// Whether a per-model number, if the method has it, is `value` for every model.
    pub fn each_is(&self, name: &str, value: f64) -> bool {
        let known = |values: &Vec<(&'static str, Value)>| find(values, name) == Some(Value::Number(value));
        self.per_model.iter().all(known)
    }
}

fn find(values: &[(&'static str, Value)], name: &str) -> Option<Value> {
    values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
}

/// `resolve` puts every parameter of the method in place, so asking for another one is a slip in the method's code,
/// which every test of that method would show as NaN.
fn number(value: Option<Value>) -> f64 {
    match value {
        Some(Value::Number(number)) => number,
        Some(Value::Flag(flag)) => f64::from(u8::from(flag)),
        Some(Value::Choice(_) | Value::Text(_)) | None => f64::NAN,
    }
}
