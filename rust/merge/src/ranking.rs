//! The largest magnitudes of a whole tensor, found block by block.
//!
//! What is ranked is a *stream*: values computed from a block, such as the task vector of one model, or the variance over
//! models. A query asks for the k largest of one stream. Three passes answer all queries together (see [`crate::select`]);
//! a tensor of one block needs none, since the block itself is sorted out where it is used. The same passes rank over the
//! whole model, where the tensors' elements count as one run in the order of the tensors.

use crate::select::{Cut, Cutoff, Histogram, count_equal, kept};
use polmrs_core::{BLOCK, Result};
use polmrs_engine::{Accumulate, Block, Grain, Later, Scope, Stage};
use std::sync::Arc;

/// Computes the values of one stream of a block.
pub(crate) type Streams = Arc<dyn Fn(&Block<'_>, usize, &mut [f32]) -> Result<()> + Send + Sync>;

/// A question: the `count` largest of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub(crate) stream: usize,
    pub(crate) count: Count,
}

/// How many elements are chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    Exactly(u64),
    /// This share of all elements, rounded down, but at least one.
    OfAll(f64),
    /// This share of the elements that are not zero, rounded down.
    OfNonzero(f64),
}

impl Count {
    fn of(self, elements: u64, zeros: u64) -> u64 {
        match self {
            Count::Exactly(count) => count,
            Count::OfAll(share) => kept(share, elements),
            Count::OfNonzero(share) => (share * (elements - zeros) as f64) as u64,
        }
    }
}

/// The answer to one query.
#[derive(Clone)]
pub(crate) enum Chosen {
    /// From earlier stages.
    Found { answers: Answers, at: usize },
    /// The tensor is one block.
    InBlock(Count),
}

/// What the passes leave for one another, and for the stage that asks.
#[derive(Clone, Default)]
pub(crate) struct Answers {
    buckets: Later<Vec<Bucket>>,
    cutoffs: Later<Vec<Cutoff>>,
    equals: Later<Equals>,
}

impl Chosen {
    /// The cutoff at a block whose stream has these values.
    pub(crate) fn cut(&self, block: &Block<'_>, values: &[f32]) -> Result<Cut> {
        match self {
            Chosen::InBlock(count) => {
                let cutoff = Cutoff::of(values, count.of(values.len() as u64, count_equal(values, 0)));
                Ok(Cut { cutoff, seen: 0, here: cutoff.equal })
            }
            Chosen::Found { answers, at } => {
                let cutoff = answers.cutoffs.get()?[*at];
                let (seen, here) =
                    if cutoff.is_plain() { (0, 0) } else { answers.equals.get()?.at(block.ordinal, *at) };
                Ok(Cut { cutoff, seen, here })
            }
        }
    }
}

/// Adds the stages that answer the queries over a tensor of `elements`, at a grain that cuts all stages alike.
pub(crate) fn choose(
    streams: &Streams,
    queries: Vec<Query>,
    elements: u64,
    grain: Grain,
    stages: &mut Vec<Stage>,
) -> Vec<Chosen> {
    if elements <= BLOCK as u64 || queries.is_empty() {
        return queries.iter().map(|query| Chosen::InBlock(query.count)).collect();
    }
    answer(streams, &queries, grain, [Scope::Tensor; 3], &Answers::default(), stages)
}

/// The groups of a ranking over the whole model.
const MODEL: [Scope; 3] = [Scope::Group(1), Scope::Group(2), Scope::Group(3)];

/// Adds the stages that answer the queries over the whole model; every tensor asks the same ones of the same `answers`.
pub(crate) fn choose_over_model(
    streams: &Streams,
    queries: &[Query],
    answers: &Answers,
    stages: &mut Vec<Stage>,
) -> Vec<Chosen> {
    if queries.is_empty() { Vec::new() } else { answer(streams, queries, Grain::Elements, MODEL, answers, stages) }
}

fn answer(
    streams: &Streams,
    queries: &[Query],
    grain: Grain,
    scopes: [Scope; 3],
    answers: &Answers,
    stages: &mut Vec<Stage>,
) -> Vec<Chosen> {
    let [upper, lower, equals] = scopes;
    stages.push(count_upper(streams, queries, (grain, upper), answers.buckets.clone()));
    stages.push(count_lower(streams, queries, (grain, lower), answers.buckets.clone(), answers.cutoffs.clone()));
    stages.push(count_equals(streams, queries, (grain, equals), answers.cutoffs.clone(), answers.equals.clone()));
    (0..queries.len()).map(|at| Chosen::Found { answers: answers.clone(), at }).collect()
}

/// Where a query's k-th largest lies by its upper bits.
#[derive(Clone, Copy)]
pub(crate) struct Bucket {
    count: u64,
    upper: u32,
    above: u64,
}

/// Counts of one stream's upper bits, and of its elements that are exactly zero.
struct Upper {
    histogram: Histogram,
    zeros: u64,
}

impl Accumulate for Upper {
    fn merge(&mut self, other: Self) {
        self.histogram.merge(other.histogram);
        self.zeros += other.zeros;
    }
}

/// Leaves every query's bucket.
fn count_upper(
    streams: &Streams,
    queries: &[Query],
    (grain, scope): (Grain, Scope),
    found: Later<Vec<Bucket>>,
) -> Stage {
    let mut used: Vec<usize> = queries.iter().map(|query| query.stream).collect();
    used.dedup();
    let (streams, queries, known) = (Arc::clone(streams), queries.to_vec(), used.clone());
    let count = used.len();
    let counts_zeros = queries.iter().any(|query| matches!(query.count, Count::OfNonzero(_)));
    Stage::reduce(
        grain,
        scope,
        move || (0..count).map(|_| Upper { histogram: Histogram::upper(), zeros: 0 }).collect::<Vec<_>>(),
        move |uppers, block| {
            let mut values = block.scratch(block.input(0).len());
            for (upper, stream) in uppers.iter_mut().zip(&used) {
                streams(block, *stream, &mut values)?;
                upper.histogram.count_upper(&values);
                if counts_zeros {
                    upper.zeros += count_equal(&values, 0);
                }
            }
            Ok(())
        },
        move |uppers| {
            let bucket = |query: &Query| {
                let at = known.iter().position(|stream| *stream == query.stream).unwrap_or(0);
                let count = query.count.of(uppers[at].histogram.total(), uppers[at].zeros);
                let (upper, above) = uppers[at].histogram.kth(count.max(1));
                Bucket { count, upper, above }
            };
            found.set(queries.iter().map(bucket).collect());
            Ok(())
        },
    )
}

/// Leaves every query's exact cutoff.
fn count_lower(
    streams: &Streams,
    queries: &[Query],
    (grain, scope): (Grain, Scope),
    buckets: Later<Vec<Bucket>>,
    found: Later<Vec<Cutoff>>,
) -> Stage {
    let (streams, queries, known) = (Arc::clone(streams), queries.to_vec(), buckets.clone());
    let count = queries.len();
    Stage::reduce(
        grain,
        scope,
        move || (0..count).map(|_| Histogram::lower()).collect::<Vec<_>>(),
        move |histograms, block| {
            let mut values = block.scratch(block.input(0).len());
            let mut held = None;
            for ((histogram, query), bucket) in histograms.iter_mut().zip(&queries).zip(buckets.get()?) {
                if held != Some(query.stream) {
                    streams(block, query.stream, &mut values)?;
                    held = Some(query.stream);
                }
                histogram.count_lower(&values, bucket.upper);
            }
            Ok(())
        },
        move |histograms| {
            let cutoff = |(histogram, bucket): (&Histogram, &Bucket)| match bucket.count {
                0 => Cutoff::none(),
                count => Cutoff::from_lower(histogram, bucket.upper, bucket.above, count),
            };
            found.set(histograms.iter().zip(known.get()?).map(cutoff).collect());
            Ok(())
        },
    )
}

/// By block, in the order of ordinals: how many elements equal each query's threshold, before it and in it.
#[derive(Debug)]
pub(crate) struct Equals(Vec<(u64, Vec<(u64, u64)>)>);

impl Equals {
    /// Adds up along the blocks.
    fn running(mut counted: Vec<(u64, Vec<u64>)>, queries: usize) -> Equals {
        counted.sort_unstable();
        let mut before = vec![0; queries];
        let step = |(ordinal, counts): (u64, Vec<u64>)| {
            let pairs = counts.iter().zip(&mut before).map(|(here, before)| {
                *before += here;
                (*before - here, *here)
            });
            (ordinal, pairs.collect())
        };
        Equals(counted.into_iter().map(step).collect())
    }

    /// A block's counts for one query; a block that was never counted has none.
    fn at(&self, ordinal: u64, query: usize) -> (u64, u64) {
        self.0.binary_search_by_key(&ordinal, |(ordinal, _)| *ordinal).map_or((0, 0), |at| self.0[at].1[query])
    }
}

/// Counts of equals by block, in any order.
#[derive(Default)]
struct Counted(Vec<(u64, Vec<u64>)>);

impl Accumulate for Counted {
    fn merge(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

/// Leaves how many equals lie before and in each block, for the queries where some of them stay and some go.
fn count_equals(
    streams: &Streams,
    queries: &[Query],
    (grain, scope): (Grain, Scope),
    cutoffs: Later<Vec<Cutoff>>,
    found: Later<Equals>,
) -> Stage {
    let (streams, queries, needed) = (Arc::clone(streams), queries.to_vec(), cutoffs.clone());
    let count = queries.len();
    Stage::reduce(
        grain,
        scope,
        Counted::default,
        move |counted, block| {
            let cutoffs = cutoffs.get()?;
            let mut counts = vec![0; cutoffs.len()];
            let mut values = block.scratch(block.input(0).len());
            for ((count, query), cutoff) in counts.iter_mut().zip(&queries).zip(cutoffs) {
                if !cutoff.is_plain() {
                    streams(block, query.stream, &mut values)?;
                    *count = count_equal(&values, cutoff.bits);
                }
            }
            counted.0.push((block.ordinal, counts));
            Ok(())
        },
        move |counted| {
            found.set(Equals::running(counted.0, count));
            Ok(())
        },
    )
    .when(move || needed.get().map_or(true, |cutoffs| cutoffs.iter().any(|cutoff| !cutoff.is_plain())))
}
