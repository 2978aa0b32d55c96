//! The largest magnitudes of a whole tensor, found block by block.
//!
//! What is ranked is a *stream*: values computed from a block, such as the task vector of one model, or the variance over
//! models. A query asks for the k largest of one stream. Three passes answer all queries together (see [`crate::select`]);
//! a tensor of one block needs none, since the block itself is sorted out where it is used.

use crate::select::{Cut, Cutoff, Histogram, count_equal};
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
    /// This share of the elements that are not zero, rounded down.
    OfNonzero(f64),
}

impl Count {
    fn of(self, nonzero: u64) -> u64 {
        match self {
            Count::Exactly(count) => count,
            Count::OfNonzero(share) => (share * nonzero as f64) as u64,
        }
    }
}

/// The answer to one query.
#[derive(Clone)]
pub(crate) enum Chosen {
    /// From earlier stages.
    Found { cutoffs: Later<Vec<Cutoff>>, equals: Later<Vec<Vec<(u64, u64)>>>, at: usize },
    /// The tensor is one block.
    InBlock(Count),
}

impl Chosen {
    /// The cutoff at a block whose stream has these values.
    pub(crate) fn cut(&self, block: &Block<'_>, values: &[f32]) -> Result<Cut> {
        match self {
            Chosen::InBlock(count) => {
                let nonzero = values.len() as u64 - count_equal(values, 0);
                let cutoff = Cutoff::of(values, count.of(nonzero));
                Ok(Cut { cutoff, seen: 0, here: cutoff.equal })
            }
            Chosen::Found { cutoffs, equals, at } => {
                let cutoff = cutoffs.get()?[*at];
                let (seen, here) = if cutoff.is_plain() { (0, 0) } else { equals.get()?[*at][block.index as usize] };
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
    let buckets = Later::default();
    let (cutoffs, equals) = (Later::default(), Later::default());
    let chosen =
        (0..queries.len()).map(|at| Chosen::Found { cutoffs: cutoffs.clone(), equals: equals.clone(), at }).collect();
    stages.push(count_upper(streams, &queries, elements, grain, buckets.clone()));
    stages.push(count_lower(streams, &queries, grain, buckets, cutoffs.clone()));
    stages.push(count_equals(streams, &queries, grain, cutoffs, equals));
    chosen
}

/// Where a query's k-th largest lies by its upper bits.
#[derive(Clone, Copy)]
struct Bucket {
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
fn count_upper(streams: &Streams, queries: &[Query], elements: u64, grain: Grain, found: Later<Vec<Bucket>>) -> Stage {
    let mut used: Vec<usize> = queries.iter().map(|query| query.stream).collect();
    used.dedup();
    let (streams, queries, known) = (Arc::clone(streams), queries.to_vec(), used.clone());
    let count = used.len();
    let counts_zeros = queries.iter().any(|query| matches!(query.count, Count::OfNonzero(_)));
    Stage::reduce(
        grain,
        Scope::Tensor,
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
                let count = query.count.of(elements - uppers[at].zeros);
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
    grain: Grain,
    buckets: Later<Vec<Bucket>>,
    found: Later<Vec<Cutoff>>,
) -> Stage {
    let (streams, queries, known) = (Arc::clone(streams), queries.to_vec(), buckets.clone());
    let count = queries.len();
    Stage::reduce(
        grain,
        Scope::Tensor,
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

/// Every block's number of elements equal to each query's threshold, by block.
#[derive(Default)]
struct Equals(Vec<(u64, Vec<u64>)>);

impl Accumulate for Equals {
    fn merge(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

/// Leaves how many equals lie before and in each block, for the queries where some of them stay and some go.
fn count_equals(
    streams: &Streams,
    queries: &[Query],
    grain: Grain,
    cutoffs: Later<Vec<Cutoff>>,
    found: Later<Vec<Vec<(u64, u64)>>>,
) -> Stage {
    let (streams, queries, needed) = (Arc::clone(streams), queries.to_vec(), cutoffs.clone());
    let count = queries.len();
    Stage::reduce(
        grain,
        Scope::Tensor,
        Equals::default,
        move |equals, block| {
            let cutoffs = cutoffs.get()?;
            let mut counts = vec![0; cutoffs.len()];
            let mut values = block.scratch(block.input(0).len());
            for ((count, query), cutoff) in counts.iter_mut().zip(&queries).zip(cutoffs) {
                if !cutoff.is_plain() {
                    streams(block, query.stream, &mut values)?;
                    *count = count_equal(&values, cutoff.bits);
                }
            }
            equals.0.push((block.index, counts));
            Ok(())
        },
        move |mut equals| {
            equals.0.sort_unstable();
            let running = |at: usize| {
                let mut before = 0;
                let step = |(_, counts): &(u64, Vec<u64>)| {
                    let here = counts[at];
                    before += here;
                    (before - here, here)
                };
                equals.0.iter().map(step).collect()
            };
            found.set((0..count).map(running).collect());
            Ok(())
        },
    )
    .when(move || needed.get().map_or(true, |cutoffs| cutoffs.iter().any(|cutoff| !cutoff.is_plain())))
}
