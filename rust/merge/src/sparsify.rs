//! Dropping elements of a task vector: by magnitude, at random, or both.
//!
//! | dropper | keeps | paper |
//! |---|---|---|
//! | largest | the `density n` largest magnitudes | TIES, arXiv:2306.01708 |
//! | band | the `density n` largest after the `gamma n` very largest | breadcrumbs, arXiv:2312.06795 |
//! | at random | each element with probability `density` | DARE, arXiv:2311.03099 |
//! | by rank | each element with a probability that rises with its rank within its row | DELLA, arXiv:2406.11617 |
//!
//! Of equal magnitudes, the lowest index counts as the larger; over a whole model, tensors come in the order of its
//! checkpoint.

use crate::drawn::Drawn;
use crate::rank_draw::{self, Odds};
use crate::ranking::{Answers, Chosen, Count, Query, Streams, choose, choose_over_model};
use crate::spec::Tensor;
use polmrs_core::philox::{self, Key};
use polmrs_core::{Error, Result, simd};
use polmrs_engine::{Block, Grain, Later, Stage};
use std::cell::RefCell;

/// Zeroes the elements of one model's task vector that are not kept.
#[derive(Clone)]
pub(crate) enum Dropper {
    Keep,
    Zero,
    Largest(Chosen),
    Band { largest: Chosen, outliers: Chosen },
    AtRandom { key: Key, threshold: u64 },
    ByRank { key: Key, columns: usize, odds: Odds, drawn: Drawn },
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    words: Vec<u32>,
    ranks: rank_draw::Scratch,
}

impl Scratch {
    /// Random words for elements `first ..` of a tensor.
    fn draw(&mut self, key: Key, first: u64, len: usize) -> &[u32] {
        self.words.resize(len, 0);
        philox::fill(key, first, &mut self.words);
        &self.words
    }
}

impl Dropper {
    /// Applies to elements `at ..` of the block, a stretch that starts on a multiple of 64 within it.
    pub(crate) fn apply(&self, block: &Block<'_>, at: usize, delta: &mut [f32]) -> Result<()> {
        let first = block.element + at as u64;
        match self {
            Dropper::Keep => {}
            Dropper::Zero => delta.fill(0.0),
            Dropper::Largest(chosen) => chosen.cut(block, delta)?.keep(delta),
            Dropper::Band { largest, outliers } => {
                let (outer, inner) = (largest.cut(block, delta)?, outliers.cut(block, delta)?);
                outer.keep(delta);
                inner.remove(delta);
            }
            Dropper::AtRandom { key, threshold } => {
                SCRATCH
                    .with_borrow_mut(|scratch| keep_drawn(delta, scratch.draw(*key, first, delta.len()), *threshold));
            }
            Dropper::ByRank { drawn, key, .. } if drawn.take((*key, first), delta) => {}
            Dropper::ByRank { key, columns, odds, .. } => SCRATCH.with_borrow_mut(|scratch| {
                scratch.draw(*key, first, delta.len());
                let Scratch { words, ranks } = scratch;
                for (row, words) in delta.chunks_mut(*columns).zip(words.chunks(*columns)) {
                    rank_draw::keep(row, words, *odds, ranks);
                }
            }),
        }
        Ok(())
    }

    /// Remembers what was kept of a whole block, for the next time that it is applied there, if finding it was dear.
    pub(crate) fn remember(&self, block: &Block<'_>, kept: &[f32]) {
        if let Dropper::ByRank { key, drawn, .. } = self {
            drawn.put((*key, block.element), kept);
        }
    }

    /// Whether it must see a whole block at once, because it counts along it.
    pub(crate) fn needs_whole_block(&self) -> bool {
        matches!(self, Dropper::Largest(_) | Dropper::Band { .. } | Dropper::ByRank { .. })
    }
}

/// Keeps the largest of every model, counted by tensor.
pub(crate) fn largest(
    tensor: &Tensor<'_>,
    streams: &Streams,
    densities: &[f64],
    stages: &mut Vec<Stage>,
) -> Vec<Dropper> {
    let chosen = choose(streams, shares(densities), tensor.elements, Grain::Elements, stages);
    one_each(densities, chosen)
}

/// Keeps the largest of every model, counted over the whole model; `shared` is the same for all of its tensors.
///
/// # Errors
/// [`Error::Config`] if the tensors' densities differ.
pub(crate) fn largest_of_model(
    shared: &WholeTrim,
    streams: &Streams,
    densities: &[f64],
    stages: &mut Vec<Stage>,
) -> Result<Vec<Dropper>> {
    shared.densities.set(densities.to_vec());
    let first = shared.densities.get()?;
    if first != densities {
        return Err(Error::Config(format!(
            "density: {densities:?} here and {first:?} elsewhere; with trim_scope: model one holds for all tensors"
        )));
    }
    let chosen = choose_over_model(streams, &shares(densities), &shared.answers, stages);
    Ok(one_each(densities, chosen))
}

/// What the tensors of a model share where elements are ranked over all of it.
#[derive(Clone, Default)]
pub(crate) struct WholeTrim {
    densities: Later<Vec<f64>>,
    answers: Answers,
}

/// A query for each model of which something is dropped, and something kept.
fn shares(densities: &[f64]) -> Vec<Query> {
    let trims = |(_, density): &(usize, &f64)| **density > 0.0 && **density < 1.0;
    let query = |(stream, density): (usize, &f64)| Query { stream, count: Count::OfAll(*density) };
    densities.iter().enumerate().filter(trims).map(query).collect()
}

/// The answers to [`shares`], with those of the models that asked nothing.
fn one_each(densities: &[f64], chosen: Vec<Chosen>) -> Vec<Dropper> {
    let mut chosen = chosen.into_iter();
    let dropper =
        |density: &f64| plain(*density).unwrap_or_else(|| chosen.next().map_or(Dropper::Keep, Dropper::Largest));
    densities.iter().map(dropper).collect()
}

/// Keeps the largest of every model but for its `gammas n` very largest.
pub(crate) fn band(
    tensor: &Tensor<'_>,
    streams: &Streams,
    densities: &[f64],
    gammas: &[f64],
    stages: &mut Vec<Stage>,
) -> Vec<Dropper> {
    let n = tensor.elements;
    let mut queries = Vec::new();
    for (stream, (density, gamma)) in
        densities.iter().zip(gammas).enumerate().filter(|(_, (density, _))| **density < 1.0)
    {
        let (target, top) = ((density * n as f64) as u64, (gamma * n as f64) as u64);
        // Where both do not fit, the band slides up over the outliers rather than shrink.
        let upper = n - n.saturating_sub(target + top);
        queries.push(Query { stream, count: Count::Exactly(upper) });
        queries.push(Query { stream, count: Count::Exactly(upper - target) });
    }
    let mut chosen = choose(streams, queries, n, Grain::Elements, stages).into_iter();
    let next = |density: &f64| match (*density < 1.0).then(|| (chosen.next(), chosen.next())) {
        Some((Some(largest), Some(outliers))) => Dropper::Band { largest, outliers },
        _ => Dropper::Keep,
    };
    densities.iter().map(next).collect()
}

/// Keeps each element with probability `density`.
pub(crate) fn at_random(tensor: &Tensor<'_>, densities: &[f64]) -> Vec<Dropper> {
    let draw = |(model, density): (usize, &f64)| {
        let threshold = philox::threshold(*density);
        plain(*density).unwrap_or(Dropper::AtRandom { key: key(tensor, "dare", model), threshold })
    };
    densities.iter().enumerate().map(draw).collect()
}

/// Keeps each element with a probability from `density - epsilon` for the smallest of its row to `density + epsilon`;
/// `expected` divides what is kept by that probability.
pub(crate) fn by_rank(tensor: &Tensor<'_>, densities: &[f64], epsilons: &[f64], expected: bool) -> Vec<Dropper> {
    let columns = tensor.columns.max(1) as usize;
    let draw = |(model, (density, epsilon)): (usize, (&f64, &f64))| {
        let odds = Odds { lowest: density - epsilon, spread: 2.0 * epsilon, expected };
        let drawn = tensor.whole_model.share::<Drawn>();
        plain(*density).unwrap_or(Dropper::ByRank { key: key(tensor, "della", model), columns, odds, drawn })
    };
    densities.iter().zip(epsilons).enumerate().map(draw).collect()
}

/// The dropper of a density at which nothing has to be decided.
fn plain(density: f64) -> Option<Dropper> {
    match density {
        density if density >= 1.0 => Some(Dropper::Keep),
        density if density <= 0.0 => Some(Dropper::Zero),
        _ => None,
    }
}

fn key(tensor: &Tensor<'_>, purpose: &str, model: usize) -> Key {
    Key::new(tensor.seed, tensor.name, &format!("{purpose}:{model}"))
}

simd! {
    fn keep_drawn(delta: &mut [f32], words: &[u32], threshold: u64) {
        for (delta, word) in delta.iter_mut().zip(words) {
            *delta = if u64::from(*word) < threshold { *delta } else { 0.0 };
        }
    }
}
