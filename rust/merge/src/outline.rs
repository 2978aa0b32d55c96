//! Where a model's tensors belong: to a module, to a layer, or outside the layers. Names alone say so.
//!
//! A tensor's layer is the first number in its name that stands between dots; what stands before it is its *stack*. So
//! `model.layers.7.mlp.experts.3.w1.weight` is of layer 7, whatever the expert. A module of a configuration takes the
//! tensors that have its name among the parts of theirs (`vision_tower`, `model.encoder`), or one of the names that
//! checkpoints use for what mergekit calls so; `default` and `text_decoder` take what no other module takes.

use crate::config::{Config, Module};
use crate::setting::layer;
use polmrs_core::{Error, Result};
use polmrs_engine::source::{Meta, Source};
use std::collections::{BTreeMap, HashMap};

/// The modules that take what no other does.
const THE_REST: [&str; 2] = ["default", "text_decoder"];

/// What checkpoints call mergekit's modules, where that is not the module's own name.
const ALIASES: [(&str, &[&str]); 5] = [
    ("vision_tower", &["visual", "vision_model"]),
    ("vision_model", &["visual", "vision_tower"]),
    ("multi_modal_projector", &["visual.merger", "visual.deepstack_merger_list", "mm_projector"]),
    ("audio_tower", &["audio_encoder"]),
    ("decoder", &["lm_head", "proj_out"]),
];

/// Names that are read before the first layer: embeddings of tokens and positions.
const BEFORE: [&str; 6] = ["wte", "wpe", "shared", "embeddings", "word_embeddings", "tok_embeddings"];

/// Which module each tensor belongs to.
pub(crate) struct Modules<'a> {
    /// The names by which a module's tensors are known, longest first, and the module.
    claims: Vec<(&'a str, usize)>,
    rest: Option<usize>,
}

impl<'a> Modules<'a> {
    pub(crate) fn of(config: &'a Config) -> Result<Modules<'a>> {
        let mut claims: Vec<(&str, usize)> = Vec::new();
        let mut rest = None;
        for (at, module) in config.modules.iter().enumerate() {
            match module.name.as_deref() {
                Some(name) if !THE_REST.contains(&name) => {
                    claims.push((name, at));
                    let aliases = ALIASES.iter().filter(|(known, _)| *known == name).flat_map(|(_, names)| *names);
                    claims.extend(aliases.map(|alias| (*alias, at)));
                }
                _ if rest.is_some() => {
                    let place = &module.place;
                    return Err(Error::Config(format!("{place}: 'default' and 'text_decoder' are the same module")));
                }
                _ => rest = Some(at),
            }
        }
        claims.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Ok(Modules { claims, rest })
    }

    /// The module of a tensor, if the configuration has it.
    pub(crate) fn find(&self, tensor: &str) -> Option<usize> {
        self.claims.iter().find(|(name, _)| has_parts(tensor, name)).map(|(_, at)| *at).or(self.rest)
    }
}

/// Whether `parts`, one or more words with dots between them, stand in `name` as whole words.
fn has_parts(name: &str, parts: &str) -> bool {
    let bounded = |at: usize| {
        let after = at + parts.len();
        (at == 0 || name.as_bytes()[at - 1] == b'.') && (after == name.len() || name.as_bytes()[after] == b'.')
    };
    name.match_indices(parts).any(|(at, _)| bounded(at))
}

/// The tensors of one module of one model: in its layers, before them and after them, as indices.
pub(crate) struct Outline {
    /// What stands before the layer's number: `model.layers`.
    pub(crate) stack: String,
    /// The tensors of every layer.
    pub(crate) layers: Vec<Vec<usize>>,
    /// Embeddings.
    pub(crate) before: Vec<usize>,
    /// Final norms, heads, everything else.
    pub(crate) after: Vec<usize>,
}

impl Outline {
    /// Finds the layers of a module.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the module has no layers, or several stacks of them.
    pub(crate) fn of(source: &dyn Source, modules: &Modules<'_>, module: (usize, &Module)) -> Result<Outline> {
        let tensors = source.tensors();
        let own: Vec<usize> =
            (0..tensors.len()).filter(|at| modules.find(&tensors[*at].name) == Some(module.0)).collect();
        let stack = only_stack(tensors, &own).map_err(|found| {
            let found = if found.is_empty() { "no layers".into() } else { format!("several: {}", found.join(", ")) };
            let name = module.1.name.as_ref().map_or_else(String::new, |name| format!("module '{name}': "));
            Error::Checkpoint(format!(
                "{}: {name}'layer_range' needs one stack of layers such as 'model.layers.N.', and this model has {found}",
                source.label()
            ))
        })?;
        let mut outline = Outline { stack, layers: Vec::new(), before: Vec::new(), after: Vec::new() };
        for at in own {
            match layer(&tensors[at].name) {
                Some((stack, number)) if stack == outline.stack => {
                    let number = number as usize;
                    if number >= tensors.len() {
                        let (label, name) = (source.label(), &tensors[at].name);
                        return Err(Error::Checkpoint(format!("{label}: '{name}': there are not so many layers")));
                    }
                    if outline.layers.len() <= number {
                        outline.layers.resize(number + 1, Vec::new());
                    }
                    outline.layers[number].push(at);
                }
                _ if is_before(&tensors[at].name) => outline.before.push(at),
                _ => outline.after.push(at),
            }
        }
        Ok(outline)
    }
}

/// Whether a tensor outside the layers is read before them.
fn is_before(name: &str) -> bool {
    let mut parts = name.split('.');
    parts.any(|part| BEFORE.contains(&part) || (part.starts_with("embed") && part != "embed_out"))
}

/// The one stack whose layers have parts of their own (`layers.0.mlp.up.weight`, not `mlp.0.weight`); if there is none
/// such, the one stack there is. What else was found, otherwise.
fn only_stack(tensors: &[Meta], own: &[usize]) -> std::result::Result<String, Vec<String>> {
    let mut stacks: BTreeMap<&str, bool> = BTreeMap::new();
    for (stack, _, rest) in own.iter().filter_map(|at| split(&tensors[*at].name)) {
        *stacks.entry(stack).or_default() |= rest.contains('.');
    }
    let deep: Vec<&str> = stacks.iter().filter(|(_, deep)| **deep).map(|(stack, _)| *stack).collect();
    let found = if deep.is_empty() { stacks.into_keys().collect() } else { deep };
    match found.as_slice() {
        [stack] => Ok((*stack).to_owned()),
        _ => Err(found.into_iter().map(str::to_owned).collect()),
    }
}

/// A tensor of a layer as its stack, the layer's number, and the rest of its name.
fn split(name: &str) -> Option<(&str, u64, &str)> {
    let (stack, number) = layer(name)?;
    let rest = &name[stack.len() + 1..];
    Some((stack, number, &rest[rest.find('.')? + 1..]))
}

/// A tensor's name with its layer's number left open: what is the same in all layers.
pub(crate) fn kind(name: &str) -> String {
    split(name).map_or_else(|| name.to_owned(), |(stack, _, rest)| format!("{stack}.N.{rest}"))
}

/// How many layers each stack of a model has.
pub(crate) struct Depths(HashMap<String, u64>);

impl Depths {
    pub(crate) fn of(source: &dyn Source) -> Depths {
        let mut layers: HashMap<String, u64> = HashMap::new();
        for (stack, number) in source.tensors().iter().filter_map(|tensor| layer(&tensor.name)) {
            match layers.get_mut(stack) {
                Some(count) => *count = (*count).max(number + 1),
                None => drop(layers.insert(stack.to_owned(), number + 1)),
            }
        }
        Depths(layers)
    }

    /// How deep a tensor lies: 0 in the first layer and outside the layers, 1 in the last.
    pub(crate) fn at(&self, name: &str) -> f64 {
        layer(name).map_or(0.0, |(stack, number)| depth(number, self.0.get(stack).copied().unwrap_or(1)))
    }
}

/// How deep a layer lies among so many; the only one lies at 1.
pub(crate) fn depth(layer: u64, layers: u64) -> f64 {
    if layers > 1 { layer as f64 / (layers - 1) as f64 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polmrs_core::Dtype;

    #[test]
    fn a_module_s_name_stands_as_whole_words() {
        assert!(has_parts("model.vision_tower.blocks.0.w", "vision_tower"));
        assert!(has_parts("visual.merger.mlp.0.w", "visual.merger"));
        assert!(!has_parts("model.vision_tower_extra.w", "vision_tower"));
        assert!(!has_parts("my_encoder.w", "encoder"));
    }

    #[test]
    fn a_kind_leaves_the_layer_open_and_the_expert_not() {
        assert_eq!(kind("model.layers.7.mlp.experts.3.w1.weight"), "model.layers.N.mlp.experts.3.w1.weight");
        assert_eq!(kind("lm_head.weight"), "lm_head.weight");
    }

    #[test]
    fn embeddings_stand_before_the_layers_and_heads_after() {
        for name in ["model.embed_tokens.weight", "transformer.wpe.weight", "embed_in.weight", "bert.embeddings.norm.w"]
        {
            assert!(is_before(name), "{name}");
        }
        for name in ["lm_head.weight", "model.norm.weight", "embed_out.weight", "transformer.ln_f.bias"] {
            assert!(!is_before(name), "{name}");
        }
    }

    #[test]
    fn a_numbered_list_of_matrices_is_no_stack_of_layers() {
        let named = |names: &[&str]| -> Vec<Meta> {
            let meta = |name: &&str| Meta { name: (*name).into(), dtype: Dtype::F32, shape: vec![1] };
            names.iter().map(meta).collect()
        };
        let tensors =
            named(&["visual.merger.mlp.0.weight", "visual.merger.mlp.2.weight", "visual.blocks.0.norm.weight"]);
        assert_eq!(only_stack(&tensors, &[0, 1, 2]), Ok("visual.blocks".into()));
        assert_eq!(only_stack(&tensors, &[0, 1]), Ok("visual.merger.mlp".into()));
        let tensors = named(&["encoder.block.0.a.w", "decoder.block.0.a.w"]);
        assert_eq!(only_stack(&tensors, &[0, 1]), Err(vec!["decoder.block".into(), "encoder.block".into()]));
        assert_eq!(only_stack(&tensors, &[]), Err(Vec::new()));
    }
}
