//! Output heads that are tied to the input embedding.

use super::{Opened, Planner};
use crate::config::Part;

const HEADS: [&str; 2] = ["lm_head.weight", "output.weight"];
const EMBEDDINGS: [&str; 4] = ["embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight"];

/// Whether this is the name of an output head.
pub(super) fn is_head(name: &str) -> bool {
    HEADS.iter().any(|head| name.ends_with(head))
}

/// The embedding that stands for a head which a tied model does not store.
pub(super) fn tied(model: Opened<'_>, head: &str, shape: &[u64]) -> Option<usize> {
    if !model.tied || !is_head(head) {
        return None;
    }
    let mut tensors = model.source.tensors().iter();
    tensors.position(|tensor| tensor.shape == shape && EMBEDDINGS.iter().any(|name| tensor.name.ends_with(name)))
}

impl Planner<'_> {
    /// Where the part's donor is not the model that gives the config: gives the output the head that the config asks
    /// for, or leaves out the one that it ties.
    pub(super) fn settle_head(&mut self, part: &Part, tensors: &mut Vec<(usize, String)>) {
        let (giver, donor) = (self.models[self.config.donor()], self.models[part.members[part.donor()].model]);
        if self.config.donor() == part.members[part.donor()].model {
            return;
        }
        if giver.tied {
            let (label, by) = (donor.source.label(), giver.source.label());
            for (_, name) in tensors.extract_if(.., |(_, name)| is_head(name)) {
                let note = format!("{label}: '{name}' is left out, because {by} ties it to the embedding");
                self.plan.notes.push(note);
            }
        } else if donor.tied && !tensors.iter().any(|(_, name)| is_head(name)) {
            let head = giver.source.tensors().iter().find(|tensor| is_head(&tensor.name));
            let taken = head.and_then(|head| Some((tied(donor, &head.name, &head.shape)?, head.name.clone())));
            tensors.extend(taken);
        }
    }
}
