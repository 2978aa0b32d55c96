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
//!
//! Defaults and semantics are mergekit's. `rescale` matches the L1 norm from before the dropping (not at all where
//! either norm is below 1e-7), where DARE's paper divides by the density. With `normalize`, a divisor below 1e-8 (no
//! consensus) or of 0 (consensus) counts as 1. We depart in three places: everything is computed in f32 and rounded once
//! (mergekit: in the inputs' dtype); of equal magnitudes at the TIES threshold the lowest index stays (mergekit: an
//! arbitrary one); DARE's masks come from Philox, keyed by seed, tensor and model.

use crate::params::Params;
use crate::select::{Cutoff, Histogram, count_equal, kept};
use crate::spec::{Base, Default, Method, Param, Range, Scope, Spec, Tensor, Value};
use polmrs_core::philox::{self, Key};
use polmrs_core::reduce::{Ordered, sum_abs};
use polmrs_core::{BLOCK, Result, simd};
use polmrs_engine::{Accumulate, Block, Grain, Later, Scope as Gather, Stage};

/// A method of the family.
pub(super) struct TaskVectors {
    spec: Spec,
    sparsify: Sparsify,
    consensus: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sparsify {
    Nothing,
    Magnitude,
    Bernoulli,
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
    sparsify: Sparsify::Magnitude,
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
    sparsify: Sparsify::Bernoulli,
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
    sparsify: Sparsify::Bernoulli,
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
        let droppers = match self.sparsify {
            Sparsify::Nothing => vec![Dropper::Keep; params.models()],
            Sparsify::Magnitude => largest(tensor, &densities, &mut stages),
            Sparsify::Bernoulli => at_random(tensor, &densities),
        };
        let rescaled = self.sparsify != Sparsify::Nothing && params.flag("rescale");
        let factors = if rescaled && densities.iter().any(|density| *density < 1.0) {
            l1_factors(&droppers, &mut stages)
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
        }));
        Ok(stages)
    }
}

/// Zeroes the elements of one model's task vector that are not kept.
#[derive(Clone)]
enum Dropper {
    Keep,
    /// By magnitude; the threshold comes from earlier stages, or, for a tensor of one block, from the block itself.
    Largest {
        found: Later<Threshold>,
        model: usize,
    },
    LargestOfBlock {
        keep: u64,
    },
    AtRandom {
        key: Key,
        threshold: u64,
    },
}

/// The threshold of each model, and how many of its equals lie before and in each block.
struct Threshold {
    cutoffs: Vec<Cutoff>,
    equals: Later<Vec<Vec<(u64, u64)>>>,
}

impl Dropper {
    /// Applies to elements `at ..` of the block, a stretch that starts on a multiple of 64.
    fn apply(&self, block: &Block<'_>, at: usize, delta: &mut [f32], words: &mut Vec<u32>) -> Result<()> {
        match self {
            Dropper::Keep => {}
            Dropper::Largest { found, model } => {
                let threshold = found.get()?;
                let cutoff = &threshold.cutoffs[*model];
                let (seen, here) = match cutoff.is_plain() {
                    true => (0, 0),
                    false => threshold.equals.get()?[*model][block.index as usize],
                };
                cutoff.apply(delta, seen, here);
            }
            Dropper::LargestOfBlock { keep } => {
                let cutoff = Cutoff::of(delta, *keep);
                cutoff.apply(delta, 0, cutoff.equal);
            }
            Dropper::AtRandom { key, threshold } => {
                words.resize(delta.len(), 0);
                philox::fill(*key, block.first + at as u64, words);
                keep_drawn(delta, words, *threshold);
            }
        }
        Ok(())
    }

    /// Whether it must see a whole block at once, because it counts along it.
    fn needs_whole_block(&self) -> bool {
        matches!(self, Dropper::Largest { .. } | Dropper::LargestOfBlock { .. })
    }
}

simd! {
    fn keep_drawn(delta: &mut [f32], words: &[u32], threshold: u64) {
        for (delta, word) in delta.iter_mut().zip(words) {
            *delta = if u64::from(*word) < threshold { *delta } else { 0.0 };
        }
    }
}

fn at_random(tensor: &Tensor<'_>, densities: &[f64]) -> Vec<Dropper> {
    let draw = |(model, density): (usize, &f64)| match *density {
        density if density >= 1.0 => Dropper::Keep,
        density => Dropper::AtRandom {
            key: Key::new(tensor.seed, tensor.name, &format!("dare:{model}")),
            threshold: philox::threshold(density),
        },
    };
    densities.iter().enumerate().map(draw).collect()
}

/// Finds every model's threshold by two histograms and a count of equals; a tensor of one block needs no stage.
fn largest(tensor: &Tensor<'_>, densities: &[f64], stages: &mut Vec<Stage>) -> Vec<Dropper> {
    let keep: Vec<u64> = densities.iter().map(|density| kept(*density, tensor.elements)).collect();
    let trims = |model: usize| keep[model] < tensor.elements;
    if tensor.elements <= BLOCK as u64 {
        let dropper = |model| if trims(model) { Dropper::LargestOfBlock { keep: keep[model] } } else { Dropper::Keep };
        return (0..keep.len()).map(dropper).collect();
    }
    let trimmed: Vec<usize> = (0..keep.len()).filter(|model| trims(*model)).collect();
    let found = Later::<Threshold>::default();
    let droppers = (0..keep.len())
        .map(|model| match trims(model) {
            true => Dropper::Largest { found: found.clone(), model },
            false => Dropper::Keep,
        })
        .collect();
    if !trimmed.is_empty() {
        let buckets = Later::default();
        stages.push(count_upper(trimmed.clone(), keep.clone(), buckets.clone()));
        stages.push(count_lower(trimmed.clone(), keep, buckets, found.clone()));
        stages.push(count_equals(trimmed, found));
    }
    droppers
}

/// Leaves, for every model, the bucket of the upper bits where its k-th largest lies, and how many lie above.
fn count_upper(trimmed: Vec<usize>, keep: Vec<u64>, buckets: Later<Vec<(u32, u64)>>) -> Stage {
    let count = trimmed.len();
    let chosen = trimmed.clone();
    Stage::reduce(
        Grain::Elements,
        Gather::Tensor,
        move || (0..count).map(|_| Histogram::upper()).collect::<Vec<_>>(),
        move |histograms, block| {
            let mut delta = block.scratch(block.input(0).len());
            for (histogram, model) in histograms.iter_mut().zip(&trimmed) {
                subtract(&mut delta, block.input(model + 1), block.input(0));
                histogram.count_upper(&delta);
            }
            Ok(())
        },
        move |histograms| {
            let find = |(histogram, model): (&Histogram, &usize)| histogram.kth(keep[*model].max(1));
            buckets.set(histograms.iter().zip(&chosen).map(find).collect());
            Ok(())
        },
    )
}

/// Leaves every model's exact threshold.
fn count_lower(trimmed: Vec<usize>, keep: Vec<u64>, buckets: Later<Vec<(u32, u64)>>, found: Later<Threshold>) -> Stage {
    let count = trimmed.len();
    let (chosen, known) = (trimmed.clone(), buckets.clone());
    Stage::reduce(
        Grain::Elements,
        Gather::Tensor,
        move || (0..count).map(|_| Histogram::lower()).collect::<Vec<_>>(),
        move |histograms, block| {
            let mut delta = block.scratch(block.input(0).len());
            for ((histogram, model), (bucket, _)) in histograms.iter_mut().zip(&trimmed).zip(buckets.get()?) {
                subtract(&mut delta, block.input(model + 1), block.input(0));
                histogram.count_lower(&delta, *bucket);
            }
            Ok(())
        },
        move |histograms| {
            let mut cutoffs = vec![Cutoff::all(); keep.len()];
            for ((histogram, model), (bucket, above)) in histograms.iter().zip(&chosen).zip(known.get()?) {
                cutoffs[*model] = match keep[*model] {
                    0 => Cutoff::none(),
                    k => Cutoff::from_lower(histogram, *bucket, *above, k),
                };
            }
            found.set(Threshold { cutoffs, equals: Later::default() });
            Ok(())
        },
    )
}

/// Every block's number of elements equal to the threshold, by block and model.
#[derive(std::default::Default)]
struct Equals(Vec<(u64, Vec<u64>)>);

impl Accumulate for Equals {
    fn merge(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

/// Leaves how many equals lie before and in each block, for the models where some of them stay and some go.
fn count_equals(trimmed: Vec<usize>, found: Later<Threshold>) -> Stage {
    let (threshold, needed) = (found.clone(), found.clone());
    Stage::reduce(
        Grain::Elements,
        Gather::Tensor,
        Equals::default,
        move |equals, block| {
            let cutoffs = &found.get()?.cutoffs;
            let mut counts = vec![0; cutoffs.len()];
            let mut delta = block.scratch(block.input(0).len());
            for model in trimmed.iter().filter(|model| !cutoffs[**model].is_plain()) {
                subtract(&mut delta, block.input(model + 1), block.input(0));
                counts[*model] = count_equal(&delta, cutoffs[*model].bits);
            }
            equals.0.push((block.index, counts));
            Ok(())
        },
        move |mut equals| {
            equals.0.sort_unstable();
            let threshold = threshold.get()?;
            let running = |model: usize| {
                let mut before = 0;
                let step = |(_, counts): &(u64, Vec<u64>)| {
                    let here = counts[model];
                    before += here;
                    (before - here, here)
                };
                equals.0.iter().map(step).collect()
            };
            threshold.equals.set((0..threshold.cutoffs.len()).map(running).collect());
            Ok(())
        },
    )
    .when(move || needed.get().map_or(true, |threshold| threshold.cutoffs.iter().any(|cutoff| !cutoff.is_plain())))
}

/// Leaves the factor that brings every model's kept elements back to the L1 norm of all of them.
fn l1_factors(droppers: &[Dropper], stages: &mut Vec<Stage>) -> Later<Vec<f32>> {
    let factors = Later::default();
    let found = factors.clone();
    let droppers = droppers.to_vec();
    let models = droppers.len();
    stages.push(Stage::reduce(
        Grain::Elements,
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
}

/// Elements combined at a time, so that every model's stretch stays in the first-level cache.
const STRETCH: usize = 2048;

/// The last stage: weight, consensus, combine, scale.
fn combine(with: Combination) -> Stage {
    let total: f32 = with.weights.iter().sum();
    let divisor = if with.normalize && total.abs() >= 1e-8 { total } else { 1.0 };
    let stretch = if with.droppers.iter().any(Dropper::needs_whole_block) { BLOCK } else { STRETCH };
    Stage::map(move |block, out| {
        let factors = with.factors.get()?;
        let base = block.input(0);
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
    fn subtract(delta: &mut [f32], x: &[f32], base: &[f32]) {
        for ((delta, x), base) in delta.iter_mut().zip(x).zip(base) {
            *delta = x - base;
        }
    }
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
        for (delta, weight) in deltas.iter().zip(weights) {
            for (((sum, weight_sum), delta), elected) in sum[..n].iter_mut().zip(&mut weight_sum[..n]).zip(*delta).zip(&*out) {
                let agrees = if *elected >= 0.0 { *delta > 0.0 } else { *delta < 0.0 };
                *sum += if agrees { *delta } else { 0.0 };
                *weight_sum += if agrees { *weight } else { 0.0 };
            }
        }
        for (((out, base), sum), weight_sum) in out.iter_mut().zip(base).zip(&sum[..n]).zip(&weight_sum[..n]) {
            let divisor = if normalize && *weight_sum != 0.0 { *weight_sum } else { 1.0 };
            *out = base + *sum / divisor * lambda;
        }
    }
}
