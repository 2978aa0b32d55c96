//! Methods on task vectors: what a fine-tune added to its base. One mechanism, a method a row.
//!
//! ```text
//! d_i = x_i - base                               delta
//! d_i = sparsify(d_i)                            drop some elements, perhaps rescale the rest
//! D_i = w_i d_i                                  weight
//! s   = sign(sum_i D_i), by zero_sign at 0       consensus: only D_i of sign s take part
//! m   = sum_i D_i / (sum_i w_i if normalize)     combine: both sums over those that take part
//! out = base + lambda m                          scale
//! ```
//!
//! | method | sparsify | consensus | normalize | rescale |
//! |---|---|---|---|---|
//! | task_arithmetic (arXiv:2212.04089) | no | no | no | |
//! | ties (arXiv:2306.01708) | largest magnitudes, of a tensor or the model | sign | yes | no |
//! | dare_ties (arXiv:2311.03099) | Bernoulli(density) | sign | no | yes |
//! | dare_linear (arXiv:2311.03099) | Bernoulli(density) | no | no | yes |
//! | breadcrumbs (arXiv:2312.06795) | a band of magnitudes | no | no | no |
//! | breadcrumbs_ties | a band of magnitudes | sign | no | no |
//! | della (arXiv:2406.11617) | Bernoulli, by rank within a row | sign | yes | yes |
//! | della_linear | Bernoulli, by rank within a row | no | no | yes |
//!
//! Defaults and semantics are mergekit's; three switches give the papers' forms:
//!
//! | switch | mergekit | paper |
//! |---|---|---|
//! | `rescale` of what random dropping left | `l1`: to the L1 norm from before (not where either is below 1e-7) | `expected`: divided by the probability of being kept |
//! | `trim_scope` of ties | `tensor`: the largest of each tensor | `model`: one threshold for the whole model, as the TIES authors' code has it |
//! | `zero_sign` where a sum is 0 | `positive` | `majority`: the sign that most sums of the whole model have (the TIES authors' code) |
//!
//! With `normalize`, a divisor below 1e-8 (no consensus) or of 0 (consensus) counts as 1. We depart in a few places:
//! everything is computed in f32 and rounded once
//! (mergekit: in the inputs' dtype); of equal magnitudes at the TIES threshold the lowest index stays (mergekit: an
//! arbitrary one); random masks come from Philox, keyed by seed, tensor and model; a row of DELLA is the last dimension
//! (mergekit: the second, which differs for three or more), and a row of one element is kept with probability `density`
//! (mergekit fails).

mod combine;
mod rows;

pub(super) use rows::*;

use super::delta::{deltas, subtract};
use crate::params::Params;
use crate::sparsify::{Dropper, WholeTrim, at_random, band, by_rank, largest, largest_of_model};
use crate::spec::{Method, Spec, Tensor};
use combine::{Combination, ZeroSign};
use polmrs_core::reduce::{Ordered, sum_abs};
use polmrs_core::{Error, Result};
use polmrs_engine::{Grain, Later, Scope as Gather, Stage};

/// A method of the family.
pub(super) struct TaskVectors {
    spec: Spec,
    sparsify: Sparsify,
    consensus: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sparsify {
    Nothing,
    Largest,
    Band,
    AtRandom,
    ByRank,
}

impl Method for TaskVectors {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn is_linear(&self) -> bool {
        self.sparsify == Sparsify::Nothing && !self.consensus
    }

    fn stages(&self, tensor: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let mut stages = Vec::new();
        let grain = match self.sparsify {
            Sparsify::ByRank => Grain::Rows(tensor.rows()),
            _ => Grain::Elements,
        };
        let densities = match self.sparsify {
            Sparsify::Nothing => vec![1.0; params.models()],
            _ => params.each("density"),
        };
        let droppers = self.droppers(tensor, params, &densities, &mut stages)?;
        let factors = self.factors(params, &densities, &droppers, grain, &mut stages);
        let weights = params.each("weight").iter().map(|weight| *weight as f32).collect();
        let combination = Combination { droppers, factors, weights, grain };
        let (normalize, lambda) = (params.flag("normalize"), params.number("lambda") as f32);
        if self.consensus {
            let zero_sign = match params.choice("zero_sign") {
                "majority" => ZeroSign::majority(&combination, tensor, &mut stages),
                _ => ZeroSign::Positive,
            };
            stages.push(combination.agreeing(normalize, zero_sign, lambda));
        } else {
            stages.push(combination.all(normalize, lambda));
        }
        Ok(stages)
    }
}

impl TaskVectors {
    /// What drops elements of each model, and the stages that decide which.
    fn droppers(
        &self,
        tensor: &Tensor<'_>,
        params: &Params,
        densities: &[f64],
        stages: &mut Vec<Stage>,
    ) -> Result<Vec<Dropper>> {
        Ok(match self.sparsify {
            Sparsify::Nothing => vec![Dropper::Keep; params.models()],
            Sparsify::Largest if params.choice("trim_scope") == "model" => {
                let shared = tensor.whole_model.share::<WholeTrim>();
                largest_of_model(&shared, &deltas(), densities, stages).map_err(|e| e.within(self.spec.name))?
            }
            Sparsify::Largest => largest(tensor, &deltas(), densities, stages),
            Sparsify::Band => band(tensor, &deltas(), densities, &params.each("gamma"), stages),
            Sparsify::AtRandom => at_random(tensor, densities),
            Sparsify::ByRank => {
                let epsilons = params.each("epsilon");
                check_epsilons(self.spec.name, densities, &epsilons)?;
                by_rank(tensor, densities, &epsilons, params.choice("rescale") == "expected")
            }
        })
    }

    /// What each model's kept elements are multiplied by.
    fn factors(
        &self,
        params: &Params,
        densities: &[f64],
        droppers: &[Dropper],
        grain: Grain,
        stages: &mut Vec<Stage>,
    ) -> Later<Vec<f32>> {
        let rescale = if self.sparsify == Sparsify::Nothing { "none" } else { params.choice("rescale") };
        if rescale == "l1" && densities.iter().any(|density| *density < 1.0) {
            return l1_factors(droppers, grain, stages);
        }
        let factor = |density: &f64| match (self.sparsify, rescale) {
            (Sparsify::AtRandom, "expected") if *density > 0.0 => (1.0 / density) as f32,
            _ => 1.0,
        };
        let factors = Later::default();
        factors.set(densities.iter().map(factor).collect());
        factors
    }
}

/// Every probability must lie between 0 and 1, both excluded.
fn check_epsilons(method: &str, densities: &[f64], epsilons: &[f64]) -> Result<()> {
    for (density, epsilon) in densities.iter().zip(epsilons).filter(|(density, _)| **density > 0.0 && **density < 1.0) {
        if density - epsilon <= 0.0 || density + epsilon >= 1.0 {
            return Err(Error::Config(format!(
                "{method}.epsilon: {epsilon} takes the density {density} to {} .. {}, which is not inside (0, 1)",
                density - epsilon,
                density + epsilon
            )));
        }
    }
    Ok(())
}

/// Leaves the factor that brings every model's kept elements back to the L1 norm of all of them.
fn l1_factors(droppers: &[Dropper], grain: Grain, stages: &mut Vec<Stage>) -> Later<Vec<f32>> {
    let factors = Later::default();
    let found = factors.clone();
    let droppers = droppers.to_vec();
    let models = droppers.len();
    stages.push(Stage::reduce(
        grain,
        Gather::Tensor,
        move || vec![Ordered::<2>::default(); models],
        move |sums, block| {
            let mut delta = block.scratch(block.input(0).len());
            for (model, (dropper, sums)) in droppers.iter().zip(sums.iter_mut()).enumerate() {
                subtract(&mut delta, block.input(model + 1), block.input(0));
                let before = sum_abs(&delta);
                dropper.apply(block, 0, &mut delta)?;
                dropper.remember(block, &delta);
                sums.push(block.ordinal, [before, sum_abs(&delta)]);
            }
            Ok(())
        },
        move |sums| {
            let factor = |sums: Ordered<2>| match sums.total() {
                [before, after] if before < 1e-7 || after < 1e-7 => 1.0,
                [before, after] => (before / after) as f32,
            };
            found.set(sums.into_iter().map(factor).collect());
            Ok(())
        },
    ));
    factors
}
