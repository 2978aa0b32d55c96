//! Arcee Fusion: takes over the elements of the other model that matter most.
//!
//! ```text
//! importance = |b - a| KL(softmax(b) || softmax(a))       softmax over each row, + 1e-8
//! threshold  = median + 1.5 (q3 - q1) of the importances; quantile q is element floor(q (n-1)) in ascending order
//! out        = b where importance >= threshold, else a    a the base, b the other
//! ```
//! The divergence is computed in f64: in f32, as mergekit has it, it is noise of about a percent of itself. Quantiles are
//! exact (mergekit samples a million elements of a larger tensor).

use super::delta::subtract;
use crate::params::Params;
use crate::ranking::{Count, Query, Streams, choose};
use crate::spec::{Base, Method, Spec, Tensor};
use polmrs_core::Result;
use polmrs_engine::{Accumulate, Block, Grain, Later, Scope, Stage};
use std::sync::Arc;

pub(super) struct ArceeFusion;

static SPEC: Spec = Spec {
    name: "arcee_fusion",
    class: "ArceeFusion",
    id: "merge.arcee-fusion",
    in_ledger: false,
    paper: "-",
    doc: "The other model's most important elements in the base.",
    formula: r"\theta = \theta_0 + (\theta_1 - \theta_0)\,[s \ge \mathrm{median}(s) + 1.5\,\mathrm{IQR}(s)],\quad s = |\theta_1 - \theta_0|\,\mathrm{KL}(\mathrm{softmax}\,\theta_1 \,\|\, \mathrm{softmax}\,\theta_0)",
    base: Base::Required,
    models: (1, 1),
    params: &[],
    preset: None,
};

impl Method for ArceeFusion {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn stages(&self, tensor: &Tensor<'_>, _: &Params) -> Result<Vec<Stage>> {
        let (grain, columns) = (Grain::Rows(tensor.rows()), tensor.columns.max(1) as usize);
        let divergences = Later::<Vec<f32>>::default();
        let (found, known) = (divergences.clone(), divergences.clone());
        let mut stages = vec![Stage::reduce(
            grain,
            Scope::Tensor,
            Rows::default,
            move |rows, block| {
                let each = block.input(0).chunks(columns).zip(block.input(1).chunks(columns));
                rows.0.push((block.first, each.map(|(a, b)| divergence(b, a) as f32).collect()));
                Ok(())
            },
            move |mut rows| {
                rows.0.sort_unstable_by_key(|(first, _)| *first);
                found.set(rows.0.into_iter().flat_map(|(_, values)| values).collect());
                Ok(())
            },
        )];
        let importances: Streams = Arc::new(move |block, _, out| importance(block, known.get()?, columns, out));
        let quantile = |q: f64| (q * (tensor.elements.max(1) - 1) as f64) as u64;
        let query = |q: f64| Query { stream: 0, count: Count::Exactly(tensor.elements - quantile(q)) };
        let queries = [0.25, 0.5, 0.75].map(query).to_vec();
        let chosen = choose(&importances, queries, tensor.elements, grain, &mut stages);
        stages.push(Stage::map_at(grain, move |block, out| {
            let mut scores = block.scratch(out.len());
            importance(block, divergences.get()?, columns, &mut scores)?;
            let mut quartiles = [0.0; 3];
            for (quartile, chosen) in quartiles.iter_mut().zip(&chosen) {
                *quartile = f32::from_bits(chosen.cut(block, &scores)?.cutoff.bits);
            }
            let threshold = quartiles[1] + 1.5 * (quartiles[2] - quartiles[0]);
            for (((out, a), b), score) in out.iter_mut().zip(block.input(0)).zip(block.input(1)).zip(scores.iter()) {
                *out = if *score >= threshold { a + (b - a) } else { *a };
            }
            Ok(())
        }));
        Ok(stages)
    }
}

/// Divergences of rows, by the first row of their block.
#[derive(Default)]
struct Rows(Vec<(u64, Vec<f32>)>);

impl Accumulate for Rows {
    fn merge(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

fn importance(block: &Block<'_>, divergences: &[f32], columns: usize, out: &mut [f32]) -> Result<()> {
    subtract(out, block.input(1), block.input(0));
    for (row, out) in out.chunks_mut(columns).enumerate() {
        let divergence = divergences[block.first as usize + row];
        out.iter_mut().for_each(|out| *out = out.abs() * divergence);
    }
    Ok(())
}

/// sum p ln(p / q), where p and q are the softmax of two rows plus 1e-8.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let top = |x: &[f32]| x.iter().fold(f64::NEG_INFINITY, |top, x| top.max(f64::from(*x)));
    let (top_p, top_q) = (top(p), top(q));
    let total = |x: &[f32], top: f64| x.iter().map(|x| (f64::from(*x) - top).exp()).sum::<f64>();
    let (total_p, total_q) = (total(p, top_p), total(q, top_q));
    let term = |(p, q): (&f32, &f32)| {
        let p = (f64::from(*p) - top_p).exp() / total_p + 1e-8;
        let q = (f64::from(*q) - top_q).exp() / total_q + 1e-8;
        p * (p / q).ln()
    };
    p.iter().zip(q).map(term).sum()
}
