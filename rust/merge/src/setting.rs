//! What a configuration says about one parameter: a value, a gradient over layers, or values by tensor name.
//!
//! mergekit's rules: a filter is a substring of the tensor's name, `*` and none match everything, the first match wins,
//! and where nothing matches, the next place that may set the parameter is asked. A gradient `[v_0 .. v_m]` is read at
//! `t = layer / (layers - 1)` (1 where there is one layer), linearly between its neighbours; tensors outside the layers,
//! embeddings and heads alike, are at `t = 0`. A gradient of flags or choices takes element `int(t m)`.

use crate::spec::{Choices, Default, Param, Range, Value};
use polmrs_core::{Result, error::did_you_mean};
use polmrs_io::yaml::{self, Field};

/// One parameter's setting at one place of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// The same everywhere.
    Constant(Value),
    /// By layer.
    Gradient(Vec<Value>),
    /// By name: the first whose filter matches.
    ByName(Vec<(Option<String>, Option<Setting>)>),
}

/// Where a tensor stands in its model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// How deep it lies: 0 in the first layer and outside the layers, 1 in the last.
    pub depth: f64,
}

impl Setting {
    /// Reads a setting of `param`.
    pub fn decode(field: &Field<'_>, param: &Param) -> Result<Setting> {
        let one = |field: &Field<'_>| match (&param.default, param.range) {
            (Default::Is(Value::Flag(_)), _) => field.as_bool().map(Value::Flag),
            (_, Range::Text) => Ok(Value::Text(field.as_text()?.into())),
            (_, Range::OneOf(choices)) => choose(field, choices).map(Value::Choice),
            _ => field.as_f64().map(Value::Number),
        };
        let by_name = |field: &Field<'_>| {
            let mut fields = field.fields()?;
            let filter = fields.optional("filter", |filter| Ok(filter.as_text()?.into_owned()))?;
            let value = fields.optional("value", |value| Setting::decode(value, param))?;
            fields.finish()?;
            Ok((filter.filter(|filter| filter != "*"), value))
        };
        match field.value() {
            yaml::Value::Map(_) => Ok(Setting::ByName(vec![by_name(field)?])),
            yaml::Value::List(items) if items.is_empty() => Err(field.error("an empty list has no value")),
            yaml::Value::List(items) if items.iter().all(|item| matches!(item.value, yaml::Value::Map(_))) => {
                Ok(Setting::ByName(field.each(by_name)?))
            }
            yaml::Value::List(_) => Ok(Setting::Gradient(field.each(one)?)),
            _ => Ok(Setting::Constant(one(field)?)),
        }
    }

    /// The value for a tensor, if this setting has one for it.
    pub fn at(&self, place: Place<'_>) -> Option<Value> {
        match self {
            Setting::Constant(value) => Some(value.clone()),
            Setting::Gradient(values) => Some(along(values, place.depth)),
            Setting::ByName(choices) => choices
                .iter()
                .find(|(filter, _)| filter.as_ref().is_none_or(|filter| place.name.contains(filter)))
                .and_then(|(_, setting)| setting.as_ref()?.at(place)),
        }
    }
}

/// A choice by its name, or by the flag that stands for it.
fn choose(field: &Field<'_>, choices: &Choices) -> Result<&'static str> {
    let text = field.as_text()?;
    if let Some(name) = choices.named(&text) {
        return Ok(name);
    }
    match (choices.flags, field.as_bool()) {
        (Some([no, yes]), Ok(flag)) => Ok(if flag { yes } else { no }),
        _ => {
            let hint = did_you_mean(&text, choices.names.iter().copied());
            Err(field.error(format_args!("'{text}' is not one of {}{hint}", choices.names.join(", "))))
        }
    }
}

/// A gradient's value at depth `t`.
fn along(values: &[Value], t: f64) -> Value {
    let scaled = t * (values.len() - 1) as f64;
    let left = scaled as usize;
    match (&values[left], values.get(left + 1)) {
        (Value::Number(a), Some(Value::Number(b))) => {
            let share = scaled - left as f64;
            Value::Number((1.0 - share) * a + share * b)
        }
        (value, _) => value.clone(),
    }
}

/// The layer of a tensor: what stands before the first `.N.` of its name, and N.
pub fn layer(name: &str) -> Option<(&str, u64)> {
    let mut start = 0;
    for part in name.split('.') {
        let end = start + part.len();
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && start > 0 && end < name.len() {
            return part.parse().ok().map(|number| (&name[..start - 1], number));
        }
        start = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHT: Param = Param::weight("");

    fn read(text: &str) -> Setting {
        Setting::decode(&yaml::parse_one(text, "t.yml").unwrap().root(), &WEIGHT).unwrap()
    }

    fn number(setting: &Setting, name: &str, depth: f64) -> Option<f64> {
        match setting.at(Place { name, depth })? {
            Value::Number(number) => Some(number),
            Value::Flag(_) | Value::Choice(_) | Value::Text(_) => None,
        }
    }

    #[test]
    fn the_first_matching_filter_wins_and_none_matches_all() {
        let setting = read("[{filter: self_attn, value: 0.3}, {filter: mlp, value: [0, 1]}, {value: 0.5}]");
        assert_eq!(number(&setting, "model.layers.1.self_attn.q_proj.weight", 0.5), Some(0.3));
        assert_eq!(number(&setting, "model.layers.1.mlp.up_proj.weight", 0.5), Some(0.5));
        assert_eq!(number(&setting, "lm_head.weight", 0.0), Some(0.5));
        assert_eq!(number(&read("{filter: mlp, value: 1}"), "lm_head.weight", 0.0), None);
        assert_eq!(number(&read("[{filter: mlp}, {value: 2}]"), "mlp", 0.0), None);
    }

    #[test]
    fn a_gradient_is_linear_between_its_neighbours() {
        let setting = read("[0, 0.5, 2]");
        for (depth, value) in [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.75, 1.25), (1.0, 2.0)] {
            assert_eq!(number(&setting, "x", depth), Some(value));
        }
    }

    #[test]
    fn a_layer_is_found_by_its_number() {
        assert_eq!(layer("model.layers.12.mlp.experts.3.w1.weight"), Some(("model.layers", 12)));
        assert_eq!(layer("transformer.h.0.ln_1.weight"), Some(("transformer.h", 0)));
        assert_eq!(layer("lm_head.weight"), None);
        assert_eq!(layer("head.1"), None);
    }
}
