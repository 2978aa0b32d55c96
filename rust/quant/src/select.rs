//! Which tensors are quantized, and how: by their names and shapes, from headers alone.
//!
//! A candidate is the matrix `[out, in]` of a linear layer: a floating-point tensor of two dimensions whose name ends in
//! `.weight`. Embeddings, the output layer, and routers of experts are candidates that stay as they are unless a rule
//! names them: their bits are few or matter most.

use crate::scheme::Scheme;
use polmrs_core::{Error, Result};
use polmrs_engine::source::Meta;
use regex_lite::Regex;
use std::collections::HashMap;

/// Embeddings, as whole parts of a name.
const EMBEDDINGS: [&str; 9] = [
    "embed_tokens",
    "embed_in",
    "embed_positions",
    "embeddings",
    "word_embeddings",
    "position_embeddings",
    "patch_embed",
    "wte",
    "wpe",
];

/// Linear layers that stay as they are, as whole parts of a name.
const DELICATE: [&str; 5] = ["lm_head", "embed_out", "output_projection", "router", "shared_expert_gate"];

/// What is done with the modules whose names a pattern finds.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: Regex,
    /// The scheme, or nothing: they stay as they are.
    scheme: Option<Scheme>,
}

impl Rule {
    /// Reads `PATTERN=SCHEME`; the scheme `none` leaves what it finds as it is.
    pub fn parse(text: &str) -> Result<Rule> {
        let Some((pattern, scheme)) = split(text) else {
            let rule = "a rule is PATTERN=SCHEME, such as mlp.down_proj=w8a16";
            return Err(Error::Usage(format!("rule: '{text}': {rule}")));
        };
        let within = |error: Error| error.within(&format!("rule: '{text}'"));
        let scheme = if scheme == "none" { None } else { Some(Scheme::parse(scheme).map_err(within)?) };
        Ok(Rule { pattern: compile("rule", pattern)?, scheme })
    }

    /// A rule that leaves what it finds as it is.
    pub fn exclude(pattern: &str) -> Result<Rule> {
        Ok(Rule { pattern: compile("exclude", pattern)?, scheme: None })
    }

    /// As it is written.
    pub fn text(&self) -> String {
        let scheme = self.scheme.map_or_else(|| "none".into(), |scheme| scheme.to_string());
        format!("{}={scheme}", self.pattern)
    }
}

/// Parts a rule at the `=` before its scheme; the scheme's own settings, and the pattern, may hold others.
fn split(text: &str) -> Option<(&str, &str)> {
    let head = text.find(char::is_whitespace).unwrap_or(text.len());
    let at = text[..head].rfind('=')?;
    Some((&text[..at], text[at + 1..].trim())).filter(|(pattern, scheme)| !pattern.is_empty() && !scheme.is_empty())
}

fn compile(what: &str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern)
        .map_err(|error| Error::Usage(format!("{what}: '{pattern}' is not a regular expression: {error}")))
}

/// What each tensor becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The scheme of each tensor, in the source's order; `None` for one that stays as it is.
    pub schemes: Vec<Option<Scheme>>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// The module of experts that a tensor stacks in more than two dimensions.
pub fn stacked(meta: &Meta) -> Option<&str> {
    let stacked = meta.shape.len() > 2 && meta.dtype.is_float() && meta.name.contains("experts");
    meta.name.rsplit_once('.').filter(|_| stacked).map(|(module, _)| module)
}

/// Chooses a scheme for each tensor: that of the first rule that finds its module's name, else `scheme`.
///
/// # Errors
/// [`Error::Usage`] for a rule that finds nothing, [`Error::Checkpoint`] if nothing is left to quantize.
pub fn choose(tensors: &[Meta], scheme: Scheme, rules: &[Rule]) -> Result<Chosen> {
    let mut found = vec![false; rules.len()];
    let mut schemes = Vec::with_capacity(tensors.len());
    let mut thick: Vec<&str> = Vec::new();
    for meta in tensors {
        let Some(module) = module(meta) else {
            thick.extend(stacked(meta).map(|_| meta.name.as_str()));
            schemes.push(None);
            continue;
        };
        let mut rule = None;
        for (rule_of, found) in rules.iter().zip(&mut found) {
            if rule_of.pattern.is_match(module) {
                *found = true;
                rule = rule.or(Some(rule_of.scheme));
            }
        }
        schemes.push(rule.unwrap_or_else(|| (!stays(module)).then_some(scheme)));
    }
    if let Some(idle) = found.iter().position(|found| !found) {
        let pattern = &rules[idle].pattern;
        return Err(Error::Usage(format!("rule: '{pattern}' finds no linear layer of this checkpoint")));
    }
    if schemes.iter().all(Option::is_none) {
        return Err(Error::Checkpoint("no tensor is left to quantize: none is a matrix called *.weight".into()));
    }
    let mut notes = Vec::new();
    if let Some(first) = thick.first() {
        let (count, rule) = (thick.len(), "no format here has a place for their codes, so they stay as they are");
        notes.push(format!("{count} tensors stack experts in more than two dimensions ('{first}'): {rule}"));
    }
    Ok(Chosen { schemes, notes })
}

/// The name of the linear layer that a tensor is the weight of, if it may be one.
pub fn module(meta: &Meta) -> Option<&str> {
    let matrix = meta.shape.len() == 2 && meta.elements() > 0 && meta.dtype.is_float();
    meta.name.strip_suffix(".weight").filter(|_| matrix)
}

/// Whether a module may be a linear layer, by its name.
pub fn may_be_linear(module: &str) -> bool {
    !module.split('.').any(|part| EMBEDDINGS.contains(&part))
}

fn stays(module: &str) -> bool {
    // A router of experts is called `mlp.gate`, a gate of a feed-forward layer `mlp.gate_proj`.
    let delicate = module.ends_with(".gate") || module.split('.').any(|part| DELICATE.contains(&part));
    delicate || !may_be_linear(module)
}

/// For each tensor, the first of those that a runtime fuses with it and that must share a scale: q, k and v of a layer,
/// gate and up. One that is alone comes first itself.
pub fn fused(tensors: &[Meta]) -> Vec<usize> {
    const TOGETHER: [&[&str]; 3] = [&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"], &["w1", "w3"]];
    let mut first: HashMap<(String, usize), usize> = HashMap::new();
    let lead = |(at, meta): (usize, &Meta)| {
        let Some((parent, last)) = module(meta).and_then(|module| module.rsplit_once('.')) else { return at };
        match TOGETHER.iter().position(|together| together.contains(&last)) {
            Some(kind) => *first.entry((parent.to_owned(), kind)).or_insert(at),
            None => at,
        }
    };
    tensors.iter().enumerate().map(lead).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use polmrs_core::Dtype;

    fn tensors() -> Vec<Meta> {
        let matrix = |name: &str| Meta { name: name.into(), dtype: Dtype::BF16, shape: vec![64, 64] };
        let mut tensors: Vec<Meta> = [
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.v_proj.weight",
            "model.layers.0.mlp.gate.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
            "lm_head.weight",
        ]
        .map(matrix)
        .into();
        tensors.push(Meta { name: "model.norm.weight".into(), dtype: Dtype::BF16, shape: vec![64] });
        tensors.push(Meta { name: "model.experts.up".into(), dtype: Dtype::BF16, shape: vec![2, 64, 64] });
        tensors.push(Meta { name: "model.positions.weight".into(), dtype: Dtype::I64, shape: vec![4, 4] });
        tensors
    }

    fn names(rules: &[&str]) -> Vec<String> {
        let rules: Vec<Rule> = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect();
        let scheme = Scheme::parse("w4a16 group=32").unwrap();
        let chosen = choose(&tensors(), scheme, &rules).unwrap();
        let short = |(meta, scheme): (&Meta, &Option<Scheme>)| {
            scheme.map(|scheme| format!("{} {}", meta.name.split('.').rev().nth(1).unwrap(), scheme.spec.name))
        };
        tensors().iter().zip(&chosen.schemes).filter_map(short).collect()
    }

    #[test]
    fn linear_layers_are_quantized_and_what_is_delicate_is_not() {
        assert_eq!(names(&[]), ["q_proj w4a16", "v_proj w4a16", "gate_proj w4a16", "down_proj w4a16"]);
        let chosen = choose(&tensors(), Scheme::parse("fp8").unwrap(), &[]).unwrap();
        let note = "1 tensors stack experts in more than two dimensions ('model.experts.up'): ";
        assert!(chosen.notes[0].starts_with(note) && chosen.notes.len() == 1, "{:?}", chosen.notes);
    }

    #[test]
    fn the_first_rule_that_finds_a_name_decides() {
        let rules = ["lm_head=w8a16", r"layers\.0\.self_attn\.v=none", "self_attn|down_proj$=w8a16 group=32 asym"];
        assert_eq!(names(&rules), ["q_proj w8a16", "gate_proj w4a16", "down_proj w8a16", "lm_head w8a16"]);
        assert_eq!(Rule::parse(rules[2]).unwrap().text(), rules[2]);
        assert_eq!(Rule::parse("a=b=none").unwrap().text(), "a=b=none");
    }

    #[test]
    fn a_rule_that_says_nothing_is_refused() {
        for (text, rule) in [
            ("down_proj", "rule: 'down_proj': a rule is PATTERN=SCHEME"),
            ("down_proj=w9", "rule: 'down_proj=w9': scheme: 'w9' is not one of"),
            ("(=w4a16", "rule: '(' is not a regular expression"),
        ] {
            let error = Rule::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(rule), "{error}");
        }
        let idle = [Rule::exclude("dwn_proj").unwrap()];
        let error = choose(&tensors(), Scheme::parse("fp8").unwrap(), &idle).unwrap_err().to_string();
        assert_eq!(error, "rule: 'dwn_proj' finds no linear layer of this checkpoint");
        let all = [Rule::exclude("").unwrap()];
        let error = choose(&tensors(), Scheme::parse("fp8").unwrap(), &all).unwrap_err().to_string();
        assert!(error.starts_with("no tensor is left to quantize"), "{error}");
    }

    #[test]
    fn what_a_runtime_fuses_has_one_leader() {
        assert_eq!(fused(&tensors()), [0, 1, 1, 3, 4, 5, 6, 7, 8, 9]);
    }
}
