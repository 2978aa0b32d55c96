//! The last steps of the family: weight, consensus, combine, scale.

use super::subtract;
use crate::sparsify::Dropper;
use crate::spec::Tensor;
use polmrs_core::{Result, simd};
use polmrs_engine::{Accumulate, Block, Grain, Later, Scope, Stage};

/// Elements combined at a time, so that every model's stretch stays in the first-level cache.
const STRETCH: usize = 2048;

/// What makes a model's share `D_i` of its task vector, and at which grain.
#[derive(Clone)]
pub(super) struct Combination {
    pub(super) droppers: Vec<Dropper>,
    pub(super) factors: Later<Vec<f32>>,
    pub(super) weights: Vec<f32>,
    pub(super) grain: Grain,
}

/// The sign that a sum of 0 elects.
#[derive(Clone)]
pub(super) enum ZeroSign {
    Positive,
    Majority(Majority),
}

/// How many more sums of the whole model are above 0 than below.
#[derive(Clone, Default)]
pub(super) struct Majority(Later<i64>);

/// A count over the blocks of all tensors.
#[derive(Default)]
struct Lean(i64);

impl Accumulate for Lean {
    fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// The group of the majority, after those of a ranking over the whole model.
const MODEL: Scope = Scope::Group(4);

impl ZeroSign {
    /// Adds the stage that finds the majority.
    pub(super) fn majority(combination: &Combination, tensor: &Tensor<'_>, stages: &mut Vec<Stage>) -> ZeroSign {
        let majority = tensor.whole_model.share::<Majority>();
        let (found, combination, grain) = (majority.clone(), combination.clone(), combination.grain);
        let fold = move |lean: &mut Lean, block: &Block<'_>| {
            let mut sums = [0.0; STRETCH];
            combination.each_stretch(block, |_, _, deltas| {
                lean.0 += self::lean(&mut sums[..deltas[0].len()], deltas);
            })
        };
        stages.push(Stage::reduce(grain, MODEL, Lean::default, fold, move |lean| {
            found.0.set(lean.0);
            Ok(())
        }));
        ZeroSign::Majority(majority)
    }

    /// The least sum that elects the positive sign: 0, or the least positive number.
    fn least(&self) -> Result<f32> {
        Ok(match self {
            ZeroSign::Majority(Majority(lean)) if *lean.get()? < 0 => f32::from_bits(1),
            _ => 0.0,
        })
    }
}

impl Combination {
    /// out = base + lambda sum_i D_i / (sum_i w_i if normalize)
    pub(super) fn all(self, normalize: bool, lambda: f32) -> Stage {
        let total: f32 = self.weights.iter().sum();
        let divisor = if normalize && total.abs() >= 1e-8 { total } else { 1.0 };
        Stage::map_at(self.grain, move |block, out| {
            self.each_stretch(block, |at, base, deltas| {
                add_all(&mut out[at..at + base.len()], base, deltas, divisor, lambda);
            })
        })
    }

    /// The same over the models that agree with the elected sign.
    pub(super) fn agreeing(self, normalize: bool, zero_sign: ZeroSign, lambda: f32) -> Stage {
        Stage::map_at(self.grain, move |block, out| {
            let least = zero_sign.least()?;
            self.each_stretch(block, |at, base, deltas| {
                add_agreeing(&mut out[at..at + base.len()], base, deltas, &self.weights, least, normalize, lambda);
            })
        })
    }

    /// Calls `visit(at, base, shares)` for one stretch of a block after the other.
    fn each_stretch(&self, block: &Block<'_>, mut visit: impl FnMut(usize, &[f32], &[&[f32]])) -> Result<()> {
        let factors = self.factors.get()?;
        let base = block.input(0);
        let whole = self.droppers.iter().any(Dropper::needs_whole_block);
        let stretch = if whole { base.len() } else { STRETCH };
        let mut deltas: Vec<_> = self.weights.iter().map(|_| block.scratch(stretch.min(base.len()))).collect();
        for at in (0..base.len()).step_by(stretch.max(1)) {
            let end = base.len().min(at + stretch);
            for (model, delta) in deltas.iter_mut().enumerate() {
                let delta = &mut delta[..end - at];
                subtract(delta, &block.input(model + 1)[at..end], &base[at..end]);
                self.droppers[model].apply(block, at, delta)?;
                scale(delta, factors[model], self.weights[model]);
            }
            for start in (at..end).step_by(STRETCH) {
                let stop = end.min(start + STRETCH);
                let pieces: Vec<&[f32]> = deltas.iter().map(|delta| &delta[start - at..stop - at]).collect();
                visit(start, &base[start..stop], &pieces);
            }
        }
        Ok(())
    }
}

simd! {
    fn scale(delta: &mut [f32], factor: f32, weight: f32) {
        for delta in delta {
            *delta = *delta * factor * weight;
        }
    }
}

/// out = sum_i D_i
#[inline(always)]
fn add_up(out: &mut [f32], deltas: &[&[f32]]) {
    out.fill(0.0);
    for delta in deltas {
        for (out, delta) in out.iter_mut().zip(*delta) {
            *out += delta;
        }
    }
}

simd! {
    /// How many more sums are above 0 than below.
    fn lean(sums: &mut [f32], deltas: &[&[f32]]) -> i64 {
        add_up(sums, deltas);
        sums.iter().map(|sum| i32::from(*sum > 0.0) - i32::from(*sum < 0.0)).sum::<i32>().into()
    }
}

simd! {
    /// out = base + lambda sum_i D_i / divisor
    fn add_all(out: &mut [f32], base: &[f32], deltas: &[&[f32]], divisor: f32, lambda: f32) {
        add_up(out, deltas);
        for (out, base) in out.iter_mut().zip(base) {
            *out = base + *out / divisor * lambda;
        }
    }
}

simd! {
    /// out = base + lambda sum_{i agrees} D_i / sum_{i agrees} w_i, over at most `STRETCH` elements; sums from `least`
    /// on elect the positive sign
    fn add_agreeing(
        out: &mut [f32], base: &[f32], deltas: &[&[f32]], weights: &[f32], least: f32, normalize: bool, lambda: f32,
    ) {
        add_up(out, deltas);
        let n = out.len();
        let (mut sum, mut weight_sum) = ([0.0f32; STRETCH], [0.0f32; STRETCH]);
        for (delta, &weight) in deltas.iter().zip(weights) {
            for (((sum, weight_sum), delta), elected) in sum[..n].iter_mut().zip(&mut weight_sum[..n]).zip(*delta).zip(&*out) {
                let agrees = if *elected >= least { *delta > 0.0 } else { *delta < 0.0 };
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
