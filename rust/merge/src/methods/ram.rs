//! RAM: task vectors of agents, summed where one model moved and averaged where several did (arXiv:2601.13572).
//!
//! ```text
//! moved_i = |d_i| > epsilon;   n = number of models that moved the element
//! out     = base + sum_i lambda_i moved_i d_i            where n = 1
//!         = base + sum_i moved_i d_i / n                 where n > 1
//! ram:        lambda_i = 1
//! ramplus_tl: lambda_i = 1 + r clamp(shared_i / unique_i, 0, alpha)      counts over the tensor
//! ```

use super::delta::subtract;
use crate::params::Params;
use crate::spec::{Base, Method, Param, Range, Spec, Tensor};
use polmrs_core::{Result, simd};
use polmrs_engine::{Accumulate, Block, Grain, Later, Scope, Stage};

pub(super) struct Ram {
    spec: Spec,
    plus: bool,
}

const EPSILON: Param =
    Param::number("epsilon", 1e-5, Range::Finite, "The magnitude above which an element counts as moved.");

pub(super) static RAM: Ram = Ram {
    spec: Spec {
        name: "ram",
        class: "RAM",
        id: "merge.ram",
        in_ledger: false,
        paper: "arXiv:2601.13572",
        doc: "Sum of task vectors, averaged over the models that moved an element.",
        formula: r"\theta = \theta_0 + \frac{1}{n}\sum_{i:\,|d_i| > \epsilon} d_i",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[EPSILON],
        preset: None,
    },
    plus: false,
};

pub(super) static RAMPLUS_TL: Ram = Ram {
    spec: Spec {
        name: "ramplus_tl",
        class: "RAMPlusTL",
        id: "merge.ram",
        in_ledger: false,
        paper: "arXiv:2601.13572",
        doc: "RAM, with more weight on what only one model moved, the more of it is shared with others.",
        formula: r"\theta = \theta_0 + \lambda_i d_i \text{ (one model moved)},\quad \lambda_i = 1 + r\min(\alpha, \mathrm{shared}_i/\mathrm{unique}_i)",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[
            Param::number("r", 0.1, Range::Finite, "How much the ratio of shared to unique elements adds."),
            Param::number("alpha", 0.2, Range::Finite, "The most that the ratio counts."),
            EPSILON,
        ],
        preset: None,
    },
    plus: true,
};

/// How many elements each model moved together with others, and alone.
struct Moved {
    shared: Vec<u64>,
    unique: Vec<u64>,
}

impl Accumulate for Moved {
    fn merge(&mut self, other: Self) {
        self.shared.iter_mut().zip(other.shared).for_each(|(mine, theirs)| *mine += theirs);
        self.unique.iter_mut().zip(other.unique).for_each(|(mine, theirs)| *mine += theirs);
    }
}

impl Method for Ram {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn stages(&self, _: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let (models, epsilon) = (params.models(), params.number("epsilon"));
        let factors = Later::<Vec<f32>>::default();
        let mut stages = Vec::new();
        if self.plus {
            let (r, alpha, found) = (params.number("r"), params.number("alpha"), factors.clone());
            stages.push(Stage::reduce(
                Grain::Elements,
                Scope::Tensor,
                move || Moved { shared: vec![0; models], unique: vec![0; models] },
                move |moved, block| {
                    tally(block, epsilon as f32, moved);
                    Ok(())
                },
                move |moved| {
                    let factor = |(shared, unique): (&u64, &u64)| {
                        let ratio = *shared as f64 / (*unique as f64).max(epsilon);
                        (1.0 + r * ratio.clamp(0.0, alpha)) as f32
                    };
                    found.set(moved.shared.iter().zip(&moved.unique).map(factor).collect());
                    Ok(())
                },
            ));
        } else {
            factors.set(vec![1.0; models]);
        }
        stages.push(Stage::map(move |block, out| {
            let counts = moves(block, epsilon as f32);
            out.fill(0.0);
            let mut delta = block.scratch(out.len());
            for (model, factor) in factors.get()?.iter().enumerate() {
                subtract(&mut delta, block.input(model + 1), block.input(0));
                add_moved(out, &delta, &counts, epsilon as f32, *factor);
            }
            for (out, base) in out.iter_mut().zip(block.input(0)) {
                *out += base;
            }
            Ok(())
        }));
        Ok(stages)
    }
}

/// How many models moved each element of a block.
fn moves(block: &Block<'_>, epsilon: f32) -> Vec<u32> {
    let mut counts = vec![0; block.input(0).len()];
    for x in &block.inputs[1..] {
        count_moved(&mut counts, x, block.input(0), epsilon);
    }
    counts
}

fn tally(block: &Block<'_>, epsilon: f32, moved: &mut Moved) {
    let counts = moves(block, epsilon);
    for (model, x) in block.inputs[1..].iter().enumerate() {
        let mine = x.iter().zip(block.input(0)).zip(&counts).filter(|((x, base), _)| (*x - *base).abs() > epsilon);
        let (mut all, mut unique) = (0, 0);
        for (_, count) in mine {
            all += 1;
            unique += u64::from(*count == 1);
        }
        moved.unique[model] += unique;
        moved.shared[model] += all - unique;
    }
}

simd! {
    fn count_moved(counts: &mut [u32], x: &[f32], base: &[f32], epsilon: f32) {
        for ((count, x), base) in counts.iter_mut().zip(x).zip(base) {
            *count += u32::from((x - base).abs() > epsilon);
        }
    }
}

simd! {
    fn add_moved(out: &mut [f32], delta: &[f32], counts: &[u32], epsilon: f32, factor: f32) {
        for ((out, delta), count) in out.iter_mut().zip(delta).zip(counts) {
            let moved = if delta.abs() > epsilon { *delta } else { 0.0 };
            *out += if *count > 1 { moved / *count as f32 } else { moved * factor };
        }
    }
}
