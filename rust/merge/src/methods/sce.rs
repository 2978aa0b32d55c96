//! SCE: select by variance, calculate weights, erase minorities (FuseChat, arXiv:2408.07990).
//!
//! ```text
//! select     keep the elements whose variance over the models is among the largest select_topk of the non-zero ones
//! calculate  w_i = mean d_i^2 / sum_k mean d_k^2, of what was kept; 1/n where the sum is below 1e-6
//! erase      only entries with the sign of sum_i d_i take part (0 counts as +)
//! out = base + sum_i w_i d_i / max(sum_i w_i, 1e-6), both sums over what takes part
//! ```
//! Of equal variances the lowest index is kept. The variance is the mean squared deviation, in f32.

use crate::params::Params;
use crate::ranking::{Chosen, Count, Query, Streams, choose};
use crate::spec::{Base, Method, Param, Preset, Range, Scope, Spec, Tensor, Value};
use polmrs_core::reduce::{Ordered, dot};
use polmrs_core::{Result, simd};
use polmrs_engine::{Block, Grain, Later, Scope as Gather, Scratch, Stage};
use std::sync::Arc;

pub(super) struct Sce;

static SPEC: Spec = Spec {
    name: "sce",
    class: "SCE",
    id: "merge.sce",
    in_ledger: false,
    paper: "arXiv:2408.07990",
    doc: "Task vectors weighted by their energy, where models differ most, without the minority sign.",
    formula: r"\theta = \theta_0 + \frac{\sum_{i \in A} w_i d_i}{\sum_{i \in A} w_i},\quad w_i = \frac{\overline{d_i^2}}{\sum_k \overline{d_k^2}}",
    base: Base::Required,
    models: (1, usize::MAX),
    params: &[
        Param::number(
            "select_topk",
            1.0,
            Range::Unit,
            "Share of the elements, by variance over the models, that is kept.",
        ),
        Param::ignored("int8_mask", Scope::Shared, "it changes the type of temporaries only"),
    ],
    preset: Some(Preset {
        values: &[("select_topk", Value::Number(0.1))],
        source: "The value that FuseChat was merged with: `fusechat-sce.yml` of fanqiwan/FuseAI.",
    }),
};

impl Method for Sce {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn stages(&self, tensor: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let models = params.models();
        let share = params.number("select_topk");
        let mut stages = Vec::new();
        let chosen = if share < 1.0 {
            let streams: Streams = Arc::new(|block, _, out| {
                variance(out, block.input(0), &block.inputs[1..]);
                Ok(())
            });
            let query = Query { stream: 0, count: Count::OfNonzero(share) };
            choose(&streams, vec![query], tensor.elements, Grain::Elements, &mut stages).into_iter().next()
        } else {
            None
        };
        let weights = Later::<Vec<f32>>::default();
        let (found, kept, elements) = (weights.clone(), chosen.clone(), tensor.elements);
        stages.push(Stage::reduce(
            Grain::Elements,
            Gather::Tensor,
            move || vec![Ordered::<1>::default(); models],
            move |sums, block| {
                let selected = select(block, kept.as_ref())?;
                for (model, sums) in sums.iter_mut().enumerate() {
                    let delta = selected.delta(block, model);
                    sums.push(block.ordinal, [dot(&delta, &delta)]);
                }
                Ok(())
            },
            move |sums| {
                let energies: Vec<f64> =
                    sums.into_iter().map(|sums| sums.total()[0] / elements.max(1) as f64).collect();
                let total: f64 = energies.iter().sum();
                let weight = |energy: &f64| if total < 1e-6 { 1.0 / models as f64 } else { energy / total };
                found.set(energies.iter().map(|energy| weight(energy) as f32).collect());
                Ok(())
            },
        ));
        stages.push(Stage::map(move |block, out| {
            let selected = select(block, chosen.as_ref())?;
            erase(out, block.input(0), &block.inputs[1..], selected.mask(), weights.get()?);
            Ok(())
        }));
        Ok(stages)
    }
}

/// Which elements of a block are selected: those where the mask is not zero.
struct Selected<'a>(Option<Scratch<'a>>);

fn select<'a>(block: &'a Block<'_>, chosen: Option<&Chosen>) -> Result<Selected<'a>> {
    let Some(chosen) = chosen else { return Ok(Selected(None)) };
    let mut mask = block.scratch(block.input(0).len());
    variance(&mut mask, block.input(0), &block.inputs[1..]);
    chosen.cut(block, &mask)?.keep(&mut mask);
    Ok(Selected(Some(mask)))
}

impl Selected<'_> {
    fn mask(&self) -> Option<&[f32]> {
        self.0.as_deref()
    }

    /// The selected part of a model's task vector.
    fn delta<'b>(&self, block: &'b Block<'_>, model: usize) -> Scratch<'b> {
        let mut delta = block.scratch(block.input(0).len());
        task_vector(&mut delta, block.input(model + 1), block.input(0), self.mask());
        delta
    }
}

/// Elements computed at a time, so that what is summed up for them stays in the first-level cache.
const STRETCH: usize = 256;

/// x - base, and 0 where there is a mask and it is 0
#[inline(always)]
fn subtract_masked(delta: &mut [f32], x: &[f32], base: &[f32], mask: Option<&[f32]>) {
    for ((delta, x), base) in delta.iter_mut().zip(x).zip(base) {
        *delta = x - base;
    }
    for (delta, mask) in delta.iter_mut().zip(mask.unwrap_or_default()) {
        *delta = if *mask == 0.0 { 0.0 } else { *delta };
    }
}

simd! {
    fn task_vector(delta: &mut [f32], x: &[f32], base: &[f32], mask: Option<&[f32]>) {
        subtract_masked(delta, x, base, mask);
    }
}

simd! {
    /// The variance of the task vectors over the models, element by element.
    fn variance(out: &mut [f32], base: &[f32], models: &[Vec<f32>]) {
        let count = models.len() as f32;
        let mut mean = [0.0f32; STRETCH];
        for (piece, out) in out.chunks_mut(STRETCH).enumerate() {
            let at = piece * STRETCH..piece * STRETCH + out.len();
            let (mean, base) = (&mut mean[..out.len()], &base[at.clone()]);
            mean.fill(0.0);
            for x in models {
                for ((mean, x), base) in mean.iter_mut().zip(&x[at.clone()]).zip(base) {
                    *mean += x - base;
                }
            }
            mean.iter_mut().for_each(|mean| *mean /= count);
            out.fill(0.0);
            for x in models {
                for (((out, x), base), mean) in out.iter_mut().zip(&x[at.clone()]).zip(base).zip(&*mean) {
                    *out += (x - base - mean) * (x - base - mean);
                }
            }
            out.iter_mut().for_each(|out| *out /= count);
        }
    }
}

simd! {
    /// out = base + sum_i w_i d_i / max(sum_i w_i, 1e-6) over the entries with the sign of sum_i d_i
    fn erase(out: &mut [f32], base: &[f32], models: &[Vec<f32>], mask: Option<&[f32]>, weights: &[f32]) {
        let (mut delta, mut elected, mut total) = ([0.0f32; STRETCH], [0.0f32; STRETCH], [0.0f32; STRETCH]);
        for (piece, out) in out.chunks_mut(STRETCH).enumerate() {
            let at = piece * STRETCH..piece * STRETCH + out.len();
            let (base, mask) = (&base[at.clone()], mask.map(|mask| &mask[at.clone()]));
            let delta = &mut delta[..out.len()];
            elected.fill(0.0);
            for x in models {
                subtract_masked(delta, &x[at.clone()], base, mask);
                for (elected, delta) in elected.iter_mut().zip(&*delta) {
                    *elected += delta;
                }
            }
            out.fill(0.0);
            total.fill(0.0);
            for (x, weight) in models.iter().zip(weights) {
                subtract_masked(delta, &x[at.clone()], base, mask);
                for (((out, total), delta), elected) in out.iter_mut().zip(&mut total).zip(&*delta).zip(&elected) {
                    let agrees = if *elected >= 0.0 { *delta > 0.0 } else { *delta < 0.0 };
                    *out += if agrees { *delta * *weight } else { 0.0 };
                    *total += if agrees { *weight } else { 0.0 };
                }
            }
            for ((out, total), base) in out.iter_mut().zip(&total).zip(base) {
                *out = base + *out / total.max(1e-6);
            }
        }
    }
}
