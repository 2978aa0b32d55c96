//! Looking at weights without changing them: statistics of one checkpoint, differences of two.

use crate::job::{Accumulate, Grain, Input, Job, Later, Scope, Stage};
use crate::plan::Plan;
use crate::schedule::{self, Options};
use crate::sink::Nowhere;
use crate::source::{Meta, Source};
use polmrs_core::reduce::{Ordered, dot, sum};
use polmrs_core::{Ctl, Error, Result};

/// Statistics of one tensor. Non-finite elements are counted and left out of the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The tensor's name.
    pub name: String,
    /// The arithmetic mean.
    pub mean: f64,
    /// The standard deviation, over all elements.
    pub std: f64,
    /// The largest magnitude.
    pub abs_max: f32,
    /// How many elements are zero.
    pub zeros: u64,
    /// How many elements are NaN or infinite.
    pub nonfinite: u64,
}

/// How one tensor differs from another of the same shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The tensor's name.
    pub name: String,
    /// How many elements there are.
    pub elements: u64,
    /// How many differ (two NaN do not).
    pub changed: u64,
    /// The largest magnitude of `b - a`.
    pub max_abs: f32,
    /// The norm of `b - a`, over the norm of `a`; infinite where only `a` is zero.
    pub relative: f64,
    /// The cosine of the angle between the two; 1 where both are zero.
    pub cosine: f64,
}

/// Extremes and counts of one tensor, mergeable in any order.
#[derive(Default)]
struct Tally {
    abs_max: f32,
    counts: [u64; 2],
}

impl Accumulate for Tally {
    fn merge(&mut self, other: Self) {
        self.abs_max = self.abs_max.max(other.abs_max);
        self.counts = [self.counts[0] + other.counts[0], self.counts[1] + other.counts[1]];
    }
}

impl<A: Accumulate, B: Accumulate> Accumulate for (A, B) {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
        self.1.merge(other.1);
    }
}

/// Statistics of every floating-point tensor.
pub fn statistics(source: &dyn Source, threads: usize, ctl: &Ctl) -> Result<Vec<Statistics>> {
    let mut found = Vec::new();
    let mut plan = Plan::default();
    for (tensor, meta) in floats(source) {
        let later = Later::<Statistics>::default();
        found.push(later.clone());
        let (name, elements) = (meta.name.clone(), meta.elements());
        let stage = Stage::reduce(
            Grain::Elements,
            Scope::Tensor,
            <(Ordered<2>, Tally)>::default,
            |(sums, tally), block| {
                let mut x = block.input(0).to_vec();
                for x in &mut x {
                    if !x.is_finite() {
                        tally.counts[1] += 1;
                        *x = 0.0;
                    } else {
                        tally.counts[0] += u64::from(*x == 0.0);
                        tally.abs_max = tally.abs_max.max(x.abs());
                    }
                }
                sums.push(block.ordinal, [sum(&x), dot(&x, &x)]);
                Ok(())
            },
            move |(sums, Tally { abs_max, counts: [zeros, nonfinite] })| {
                let [total, squares] = sums.total();
                let n = (elements - nonfinite).max(1) as f64;
                let mean = total / n;
                let std = (squares / n - mean * mean).max(0.0).sqrt();
                later.set(Statistics { name: name.clone(), mean, std, abs_max, zeros, nonfinite });
                Ok(())
            },
        );
        plan.jobs.push(job(meta, &[(0, tensor)], stage));
    }
    schedule::run(&[source], &plan, &Nowhere, Options { threads, allow_nonfinite: true, ..Options::default() }, ctl)?;
    found.iter().map(|later| later.get().cloned()).collect()
}

/// Differences of every floating-point tensor that both have; the others' names are an error's business.
pub fn differences(a: &dyn Source, b: &dyn Source, threads: usize, ctl: &Ctl) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let mut plan = Plan::default();
    for (tensor, meta) in floats(a) {
        let Some(other) = b.find(&meta.name) else { continue };
        let rival = &b.tensors()[other];
        if rival.shape != meta.shape || !rival.dtype.is_float() {
            continue;
        }
        let later = Later::<Difference>::default();
        found.push(later.clone());
        let (name, elements) = (meta.name.clone(), meta.elements());
        let stage = Stage::reduce(
            Grain::Elements,
            Scope::Tensor,
            <(Ordered<4>, Tally)>::default,
            |(sums, tally), block| {
                let (a, b) = (block.input(0), block.input(1));
                let delta: Vec<f32> = a.iter().zip(b).map(|(a, b)| b - a).collect();
                for ((delta, a), b) in delta.iter().zip(a).zip(b) {
                    tally.counts[0] += u64::from(a != b && !(a.is_nan() && b.is_nan()));
                    tally.abs_max = tally.abs_max.max(delta.abs());
                }
                sums.push(block.ordinal, [dot(a, a), dot(b, b), dot(a, b), dot(&delta, &delta)]);
                Ok(())
            },
            move |(sums, Tally { abs_max: max_abs, counts: [changed, _] })| {
                let [aa, bb, ab, dd] = sums.total();
                let relative = if dd == 0.0 { 0.0 } else { (dd / aa).sqrt() };
                let cosine = if aa * bb == 0.0 { f64::from(u8::from(aa == bb)) } else { ab / (aa * bb).sqrt() };
                later.set(Difference { name: name.clone(), elements, changed, max_abs, relative, cosine });
                Ok(())
            },
        );
        plan.jobs.push(job(meta, &[(0, tensor), (1, other)], stage));
    }
    schedule::run(&[a, b], &plan, &Nowhere, Options { threads, allow_nonfinite: true, ..Options::default() }, ctl)?;
    found.iter().map(|later| later.get().cloned()).collect()
}

/// Names and shapes that only one of two checkpoints has, as sentences.
pub fn mismatches(a: &dyn Source, b: &dyn Source) -> Vec<String> {
    let mut found = Vec::new();
    for meta in a.tensors() {
        match b.find(&meta.name).map(|at| &b.tensors()[at]) {
            None => found.push(format!("'{}' is in {} only", meta.name, a.label())),
            Some(other) if other.shape != meta.shape => {
                found.push(format!("'{}' has shape {:?} and {:?}", meta.name, meta.shape, other.shape));
            }
            Some(_) => {}
        }
    }
    let only_b = b.tensors().iter().filter(|meta| a.find(&meta.name).is_none());
    found.extend(only_b.map(|meta| format!("'{}' is in {} only", meta.name, b.label())));
    found
}

fn floats(source: &dyn Source) -> impl Iterator<Item = (usize, &Meta)> {
    source.tensors().iter().enumerate().filter(|(_, meta)| meta.dtype.is_float())
}

fn job(meta: &Meta, tensors: &[(usize, usize)], stage: Stage) -> Job {
    let len = meta.elements();
    let input =
        |(source, tensor): &(usize, usize)| Input { source: *source, tensor: *tensor, first: 0, len, round: None };
    Job { name: meta.name.clone(), inputs: tensors.iter().map(input).collect(), outputs: vec![], stages: vec![stage] }
}

/// Refuses two checkpoints that share no tensor.
pub fn require_common(a: &dyn Source, b: &dyn Source) -> Result<()> {
    if a.tensors().iter().any(|meta| b.find(&meta.name).is_some()) {
        return Ok(());
    }
    Err(Error::Checkpoint(format!("{} and {} have no tensor in common", a.label(), b.label())))
}
