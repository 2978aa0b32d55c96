//! Methods on task vectors: what a fine-tune added to its base. One mechanism, a method a row.
//!
//! ```text
//! d_i = x_i - base                               delta
//! d_i = sparsify(d_i)                            drop some elements, perhaps rescale the rest
//! D_i = w_i d_i                                  weight
//! s   = sign(sum_i D_i), sum 0 counts as +       consensus: only D_i of sign s take part
//! m   = sum_i D_i / (sum_i w_i if normalize)     combine: both sums over those that take part
//! out = base + lambda m                          scale
//! ```
//!
//! | method | sparsify | consensus | normalize | rescale |
//! |---|---|---|---|---|
//! | task_arithmetic (arXiv:2212.04089) | no | no | no | |
//! | ties (arXiv:2306.01708) | largest magnitudes, per tensor | sign | yes | no |
//! | dare_ties (arXiv:2311.03099) | Bernoulli(density) | sign | no | yes |
//! | dare_linear (arXiv:2311.03099) | Bernoulli(density) | no | no | yes |
//! | breadcrumbs (arXiv:2312.06795) | a band of magnitudes | no | no | no |
//! | breadcrumbs_ties | a band of magnitudes | sign | no | no |
//! | della (arXiv:2406.11617) | Bernoulli, by rank within a row | sign | yes | yes |
//! | della_linear | Bernoulli, by rank within a row | no | no | yes |
//!
//! Defaults and semantics are mergekit's. `rescale` matches the L1 norm from before the dropping (not at all where
//! either norm is below 1e-7), where DARE's paper divides by the density. With `normalize`, a divisor below 1e-8 (no
//! consensus) or of 0 (consensus) counts as 1. We depart in a few places: everything is computed in f32 and rounded once
//! (mergekit: in the inputs' dtype); of equal magnitudes at the TIES threshold the lowest index stays (mergekit: an
//! arbitrary one); random masks come from Philox, keyed by seed, tensor and model; a row of DELLA is the last dimension
//! (mergekit: the second, which differs for three or more), and a row of one element is kept with probability `density`
//! (mergekit fails).

use super::delta::{deltas, subtract};
use crate::params::Params;
use crate::sparsify::{Dropper, at_random, band, by_rank, largest};
use crate::spec::{Base, Default, Method, Param, Range, Scope, Spec, Tensor, Value};
use polmrs_core::reduce::{Ordered, sum_abs};
use polmrs_core::{Error, Result, simd};
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

const WEIGHT: Param = Param::weight("Weight of the model's task vector.");
const LAMBDA: Param = Param::number("lambda", 1.0, Range::Finite, "Factor on the merged task vector.");
const INT8_MASK: Param = Param::ignored("int8_mask", Scope::Shared, "it changes the type of temporaries only");
const DENSITY: Param = Param {
    name: "density",
    scope: Scope::PerModel,
    default: Default::Is(Value::Number(1.0)),
    range: Range::Unit,
    doc: "Share of the task vector's elements that is kept.",
};

const GAMMA: Param = Param {
    name: "gamma",
    scope: Scope::PerModel,
    default: Default::Is(Value::Number(0.01)),
    range: Range::Unit,
    doc: "Share of the very largest elements that is dropped too.",
};
const EPSILON: Param = Param {
    name: "epsilon",
    scope: Scope::PerModel,
    default: Default::Is(Value::Number(0.15)),
    range: Range::Unit,
    doc: "How far the probability of keeping departs from the density, at the smallest and at the largest element.",
};

const fn normalize(default: bool) -> Param {
    Param::flag("normalize", default, "Divide by the sum of the weights that take part.")
}

const fn rescale(default: bool) -> Param {
    Param::flag("rescale", default, "Scale what is kept to the L1 norm from before.")
}

pub(super) static TASK_ARITHMETIC: TaskVectors = TaskVectors {
    spec: Spec {
        name: "task_arithmetic",
        class: "TaskArithmetic",
        id: "merge.task-arithmetic",
        in_ledger: true,
        paper: "arXiv:2212.04089",
        doc: "Weighted sum of task vectors on the base.",
        formula: r"\theta = \theta_0 + \lambda\sum_i w_i(\theta_i - \theta_0)",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[
            WEIGHT,
            normalize(false),
            LAMBDA,
            INT8_MASK,
            Param::ignored("density", Scope::PerModel, "nothing is dropped; use ties or dare_linear"),
            Param::ignored("rescale", Scope::Shared, "nothing is dropped, so nothing is rescaled"),
        ],
        paper_values: &[],
    },
    sparsify: Sparsify::Nothing,
    consensus: false,
};

pub(super) static TIES: TaskVectors = TaskVectors {
    spec: Spec {
        name: "ties",
        class: "TIES",
        id: "merge.ties",
        in_ledger: true,
        paper: "arXiv:2306.01708",
        doc: "Keep the largest elements of each task vector, elect a sign, average what agrees with it.",
        formula: r"\theta = \theta_0 + \lambda\frac{\sum_{i \in A} w_i d_i}{\sum_{i \in A} w_i},\quad A = \{i : \mathrm{sgn}(w_i d_i) = \mathrm{sgn}\textstyle\sum_j w_j d_j\}",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, normalize(true), rescale(false), LAMBDA, INT8_MASK],
        paper_values: &[("density", Value::Number(0.2))],
    },
    sparsify: Sparsify::Largest,
    consensus: true,
};

pub(super) static DARE_TIES: TaskVectors = TaskVectors {
    spec: Spec {
        name: "dare_ties",
        class: "DARETIES",
        id: "merge.dare",
        in_ledger: true,
        paper: "arXiv:2311.03099",
        doc: "Drop elements of each task vector at random, rescale, then merge as TIES does.",
        formula: r"d_i = m_i \odot (\theta_i - \theta_0)\,r_i,\quad m_i \sim \mathrm{Bernoulli}(density)",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, normalize(false), rescale(true), LAMBDA, INT8_MASK],
        paper_values: &[("density", Value::Number(0.1))],
    },
    sparsify: Sparsify::AtRandom,
    consensus: true,
};

pub(super) static DARE_LINEAR: TaskVectors = TaskVectors {
    spec: Spec {
        name: "dare_linear",
        class: "DARE",
        id: "merge.dare",
        in_ledger: true,
        paper: "arXiv:2311.03099",
        doc: "Drop elements of each task vector at random, rescale, then add them up.",
        formula: r"\theta = \theta_0 + \lambda\sum_i w_i\,r_i\,m_i \odot (\theta_i - \theta_0),\quad m_i \sim \mathrm{Bernoulli}(density)",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, normalize(false), rescale(true), LAMBDA, INT8_MASK],
        paper_values: &[("density", Value::Number(0.1))],
    },
    sparsify: Sparsify::AtRandom,
    consensus: false,
};

pub(super) static BREADCRUMBS: TaskVectors = TaskVectors {
    spec: Spec {
        name: "breadcrumbs",
        class: "Breadcrumbs",
        id: "merge.breadcrumbs",
        in_ledger: false,
        paper: "arXiv:2312.06795",
        doc: "Drop the smallest and the very largest elements of each task vector, then add them up.",
        formula: r"\theta = \theta_0 + \lambda\sum_i w_i\,m_i \odot (\theta_i - \theta_0),\quad m_i = [\gamma n \le \mathrm{rank} < (\gamma + density)\,n]",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, GAMMA, normalize(false), rescale(false), LAMBDA, INT8_MASK],
        paper_values: &[],
    },
    sparsify: Sparsify::Band,
    consensus: false,
};

pub(super) static BREADCRUMBS_TIES: TaskVectors = TaskVectors {
    spec: Spec {
        name: "breadcrumbs_ties",
        class: "BreadcrumbsTIES",
        id: "merge.breadcrumbs",
        in_ledger: false,
        paper: "arXiv:2312.06795",
        doc: "Drop the smallest and the very largest elements of each task vector, then merge as TIES does.",
        formula: r"d_i = m_i \odot (\theta_i - \theta_0),\quad m_i = [\gamma n \le \mathrm{rank} < (\gamma + density)\,n]",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, GAMMA, normalize(false), rescale(false), LAMBDA, INT8_MASK],
        paper_values: &[],
    },
    sparsify: Sparsify::Band,
    consensus: true,
};

pub(super) static DELLA: TaskVectors = TaskVectors {
    spec: Spec {
        name: "della",
        class: "DELLA",
        id: "merge.della",
        in_ledger: false,
        paper: "arXiv:2406.11617",
        doc: "Drop elements of each task vector at random, small ones more often, rescale, then merge as TIES does.",
        formula: r"m_i \sim \mathrm{Bernoulli}(density - \epsilon + 2\epsilon\,\mathrm{rank}/(columns - 1))",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, EPSILON, normalize(true), rescale(true), LAMBDA, INT8_MASK],
        paper_values: &[],
    },
    sparsify: Sparsify::ByRank,
    consensus: true,
};

pub(super) static DELLA_LINEAR: TaskVectors = TaskVectors {
    spec: Spec {
        name: "della_linear",
        class: "DELLALinear",
        id: "merge.della",
        in_ledger: false,
        paper: "arXiv:2406.11617",
        doc: "Drop elements of each task vector at random, small ones more often, rescale, then add them up.",
        formula: r"m_i \sim \mathrm{Bernoulli}(density - \epsilon + 2\epsilon\,\mathrm{rank}/(columns - 1))",
        base: Base::Required,
        models: (1, usize::MAX),
        params: &[WEIGHT, DENSITY, EPSILON, normalize(false), rescale(true), LAMBDA, INT8_MASK],
        paper_values: &[],
    },
    sparsify: Sparsify::ByRank,
    consensus: false,
};

impl Method for TaskVectors {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn stages(&self, tensor: &Tensor<'_>, params: &Params) -> Result<Vec<Stage>> {
        let mut stages = Vec::new();
        let densities = match self.sparsify {
            Sparsify::Nothing => vec![1.0; params.models()],
            _ => params.each("density"),
        };
        let grain = match self.sparsify {
            Sparsify::ByRank => Grain::Rows(tensor.rows()),
            _ => Grain::Elements,
        };
        let droppers = match self.sparsify {
            Sparsify::Nothing => vec![Dropper::Keep; params.models()],
            Sparsify::Largest => largest(tensor, &deltas(), &densities, &mut stages),
            Sparsify::Band => band(tensor, &deltas(), &densities, &params.each("gamma"), &mut stages),
            Sparsify::AtRandom => at_random(tensor, &densities),
            Sparsify::ByRank => {
                let epsilons = params.each("epsilon");
                check_epsilons(self.spec.name, &densities, &epsilons)?;
                by_rank(tensor, &densities, &epsilons)
            }
        };
        let rescaled = self.sparsify != Sparsify::Nothing && params.flag("rescale");
        let factors = if rescaled && densities.iter().any(|density| *density < 1.0) {
            l1_factors(&droppers, grain, &mut stages)
        } else {
            let ones = Later::default();
            ones.set(vec![1.0; params.models()]);
            ones
        };
        stages.push(combine(Combination {
            weights: params.each("weight").iter().map(|weight| *weight as f32).collect(),
            consensus: self.consensus,
            normalize: params.flag("normalize"),
            lambda: params.number("lambda") as f32,
            droppers,
            factors,
            grain,
        }));
        Ok(stages)
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
            let mut words = Vec::new();
            for (model, (dropper, sums)) in droppers.iter().zip(sums.iter_mut()).enumerate() {
                subtract(&mut delta, block.input(model + 1), block.input(0));
                let before = sum_abs(&delta);
                dropper.apply(block, 0, &mut delta, &mut words)?;
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

struct Combination {
    weights: Vec<f32>,
    consensus: bool,
    normalize: bool,
    lambda: f32,
    droppers: Vec<Dropper>,
    factors: Later<Vec<f32>>,
    grain: Grain,
}

/// Elements combined at a time, so that every model's stretch stays in the first-level cache.
const STRETCH: usize = 2048;

/// The last stage: weight, consensus, combine, scale.
fn combine(with: Combination) -> Stage {
    let total: f32 = with.weights.iter().sum();
    let divisor = if with.normalize && total.abs() >= 1e-8 { total } else { 1.0 };
    let whole = with.droppers.iter().any(Dropper::needs_whole_block);
    Stage::map_at(with.grain, move |block, out| {
        let factors = with.factors.get()?;
        let base = block.input(0);
        let stretch = if whole { base.len() } else { STRETCH };
        let mut deltas = vec![vec![0.0; stretch.min(base.len())]; with.weights.len()];
        let mut words = Vec::new();
        for at in (0..base.len()).step_by(stretch) {
            let end = base.len().min(at + stretch);
            for (model, delta) in deltas.iter_mut().enumerate() {
                delta.resize(end - at, 0.0);
                subtract(delta, &block.input(model + 1)[at..end], &base[at..end]);
                with.droppers[model].apply(block, at, delta, &mut words)?;
                scale(delta, factors[model], with.weights[model]);
            }
            for start in (at..end).step_by(STRETCH) {
                let stop = end.min(start + STRETCH);
                let pieces: Vec<&[f32]> = deltas.iter().map(|delta| &delta[start - at..stop - at]).collect();
                let (base, out) = (&base[start..stop], &mut out[start..stop]);
                if with.consensus {
                    add_agreeing(out, base, &pieces, &with.weights, with.normalize, with.lambda);
                } else {
                    add_all(out, base, &pieces, divisor, with.lambda);
                }
            }
        }
        Ok(())
    })
}

simd! {
    fn scale(delta: &mut [f32], factor: f32, weight: f32) {
        for delta in delta {
            *delta = *delta * factor * weight;
        }
    }
}

simd! {
    /// out = base + lambda sum_i D_i / divisor
    fn add_all(out: &mut [f32], base: &[f32], deltas: &[&[f32]], divisor: f32, lambda: f32) {
        out.fill(0.0);
        for delta in deltas {
            for (out, delta) in out.iter_mut().zip(*delta) {
                *out += delta;
            }
        }
        for (out, base) in out.iter_mut().zip(base) {
            *out = base + *out / divisor * lambda;
        }
    }
}

simd! {
    /// out = base + lambda sum_{i agrees} D_i / sum_{i agrees} w_i, over at most `STRETCH` elements
    fn add_agreeing(
        out: &mut [f32], base: &[f32], deltas: &[&[f32]], weights: &[f32], normalize: bool, lambda: f32,
    ) {
        out.fill(0.0);
        for delta in deltas {
            for (out, delta) in out.iter_mut().zip(*delta) {
                *out += delta;
            }
        }
        let n = out.len();
        let (mut sum, mut weight_sum) = ([0.0f32; STRETCH], [0.0f32; STRETCH]);
        for (delta, &weight) in deltas.iter().zip(weights) {
            for (((sum, weight_sum), delta), elected) in sum[..n].iter_mut().zip(&mut weight_sum[..n]).zip(*delta).zip(&*out) {
                let agrees = if *elected >= 0.0 { *delta > 0.0 } else { *delta < 0.0 };
                *sum += if agrees { *delta } else { 0.0 };
                *weight_sum += if agrees { weight } else { 0.0 };
            }
        }
        for (((out, base), sum), weight_sum) in out.iter_mut().zip(base).zip(&sum[..n]).zip(&weight_sum[..n]) {
            let divisor = if normalize && *weight_sum != 0.0 { *weight_sum } else { 1.0 };
            *out = base + *sum / divisor * lambda;
        }
    }
}
