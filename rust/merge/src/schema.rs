//! The JSON Schema of a merge configuration, from the methods' own rows.

use crate::methods::METHODS;
use crate::spec::{Base, Default, Param, Range, Scope, Spec, Value};
use polmrs_core::Dtype;
use serde_json::{Map, Value as Json, json};

/// The schema, one alternative per method.
pub fn merge() -> Json {
    let methods: Vec<Json> = METHODS.iter().map(|method| alternative(method.spec())).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "polmrs merge configuration",
        "type": "object",
        "oneOf": methods,
        "$defs": {"tokenizer": tokenizer()},
    })
}

/// The tokenizer section, the same for every method.
fn tokenizer() -> Json {
    let reference = json!({"type": "string"});
    let another = json!({"kind": {"const": "model_token"}, "model": reference, "token": {"type": "string"},
                         "token_id": {"type": "integer", "minimum": 0}});
    let mut row = object(another, &["kind", "model"]);
    row["oneOf"] = json!([{"required": ["token"]}, {"required": ["token_id"]}]);
    let zero = object(json!({"kind": {"const": "zero"}}), &["kind"]);
    let source = json!({"anyOf": [reference, row, zero, {"type": "null"}]});
    let rule = object(json!({"source": source, "force": {"type": "boolean"}}), &[]);
    object(
        json!({
            "source": {"type": "string", "description": "union, base, or one of the models", "default": "union"},
            "tokens": {"type": "object", "additionalProperties": rule},
            "pad_to_multiple_of": {"type": ["integer", "null"], "minimum": 1},
        }),
        &[],
    )
}

fn alternative(spec: &Spec) -> Json {
    let dtypes: Vec<&str> =
        Dtype::ALL.iter().filter(|dtype| dtype.is_float()).map(|dtype| dtype.torch_name()).collect();
    let all = parameters(spec, |_| true);
    let own = parameters(spec, |param| param.scope == Scope::PerModel);
    let reference = json!({"type": "string"});
    let models = list(object(json!({"model": reference, "parameters": own}), &["model"]));
    let layers = json!({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2});
    let source = json!({"model": reference, "layer_range": layers, "parameters": own});
    let sources = list(object(source, &["model", "layer_range"]));
    let ignored = json!({"description": "no effect"});
    let slice = json!({"sources": sources, "base_model": reference, "parameters": all, "residual_weight": ignored});
    let slices = list(object(slice, &["sources"]));
    let mut module = object(json!({"models": models, "slices": slices, "parameters": all}), &[]);
    module["oneOf"] = json!([{"required": ["models"]}, {"required": ["slices"]}]);
    let mut whole = object(
        json!({
            "name": {"type": "string"},
            "merge_method": {"const": spec.name},
            "base_model": reference,
            "models": models,
            "slices": slices,
            "modules": {"type": "object", "additionalProperties": module, "minProperties": 1},
            "parameters": all,
            "dtype": {"enum": dtypes},
            "out_dtype": {"enum": dtypes},
            "combination_type": {"enum": ["svd", "cat"], "description": "how a merged adapter's factors are made"},
            "svd_rank": {"type": "integer", "minimum": 1, "description": "the rank of a merged adapter"},
            "tokenizer": {"$ref": "#/$defs/tokenizer"},
            "tokenizer_source": {"type": "string"},
            "chat_template": {"type": "string"},
        }),
        &["merge_method"],
    );
    // Adapters may have zero for their base, but not where the method goes from a base to one model.
    let models = if spec.base == Base::Required && spec.models.1 == 1 {
        json!(["models", "base_model"])
    } else {
        json!(["models"])
    };
    let ways = json!([{"required": models}, {"required": ["slices"]}, {"required": ["modules"]}]);
    whole["description"] = spec.doc.into();
    whole["oneOf"] = ways;
    whole
}

fn object(properties: Json, required: &[&str]) -> Json {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn list(items: Json) -> Json {
    json!({"type": "array", "items": items})
}

fn parameters(spec: &Spec, keep: impl Fn(&Param) -> bool) -> Json {
    let properties: Map<String, Json> =
        spec.params.iter().filter(|param| keep(param)).map(|param| (param.name.into(), setting(param))).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// A value, a gradient of values, or values by filter.
fn setting(param: &Param) -> Json {
    let mut value = match (&param.default, param.range) {
        (Default::Ignored(_), _) => return json!({"description": format!("no effect: {}", param.doc)}),
        (Default::Is(Value::Flag(_)), _) => json!({"type": "boolean"}),
        (_, Range::OneOf(choices)) if choices.flags.is_some() => {
            json!({"anyOf": [{"enum": choices.names}, {"type": "boolean"}]})
        }
        (_, Range::OneOf(choices)) => json!({"enum": choices.names}),
        (_, Range::Unit) => json!({"type": "number", "minimum": 0, "maximum": 1}),
        (_, Range::Count) => json!({"type": "integer", "minimum": 0}),
        (_, Range::Text) => json!({"type": "string"}),
        (_, Range::Finite) => json!({"type": "number"}),
    };
    let gradient = json!({"type": "array", "items": value, "minItems": 1});
    let plain = json!({"anyOf": [value, gradient]});
    let filtered = json!({
        "type": "object",
        "properties": {"filter": {"type": ["string", "null"]}, "value": plain},
        "additionalProperties": false,
    });
    value = json!({
        "description": param.doc,
        "anyOf": [value, gradient, filtered, {"type": "array", "items": filtered, "minItems": 1}],
    });
    match &param.default {
        Default::Is(Value::Number(number)) => value["default"] = (*number).into(),
        Default::Is(Value::Flag(flag)) => value["default"] = (*flag).into(),
        Default::Is(Value::Choice(name)) => value["default"] = (*name).into(),
        _ => {}
    }
    value
}
