//! What an index looks through instead of all its vectors: the parts that differ between kinds.

use crate::graph::Graph;
use crate::index::Kind;
use crate::ivf::Lists;
use crate::metric::Metric;
use crate::quantized::Quantized;
use crate::shortlist::Candidate;
use crate::vectors::{Joined, Vectors};
use memmap2::Mmap;
use polmrs_core::{Ctl, Result, pool};
use serde_json::Value as Json;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// As many rows are copied as fast as one is coded, or linked.
const CODED: usize = 32;
const LINKED: usize = 1024;
/// From so many on, rows are coded where they can be stopped.
const IN_PLACE: usize = 10_000;

/// Codes or links beside the vectors.
#[derive(Clone, Debug)]
pub(crate) enum Finder {
    /// None: every vector is looked at.
    All,
    Codes(Quantized),
    Graph(Graph),
    Lists(Lists),
}

/// What is searched for: whole rows, part of a batch of so many; how many are wanted of the `count` that are eligible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) dim: usize,
    pub(crate) batch: usize,
    pub(crate) k: usize,
    pub(crate) eligible: &'a [u64],
    pub(crate) count: usize,
    pub(crate) effort: Option<usize>,
}

/// What was found for a query.
#[derive(Debug)]
pub struct Found {
    /// What may be among the best.
    pub candidates: Vec<Candidate>,
    /// Factor and summand that make an estimate a score.
    pub line: [f32; 2],
}

impl Found {
    /// The rows, with their estimated scores.
    pub(crate) fn estimates(&self) -> Vec<(f32, u32)> {
        let [factor, summand] = self.line;
        self.candidates.iter().map(|one| (one.estimate * factor + summand, one.slot)).collect()
    }
}

impl Finder {
    pub(crate) fn new(dim: usize, metric: Metric, kind: Kind) -> Finder {
        match kind {
            Kind::Flat => Finder::All,
            Kind::Quantized { bits, margin } => Finder::Codes(Quantized::new(dim, metric, bits, margin)),
            Kind::Hnsw(settings) => Finder::Graph(Graph::new(dim, metric, settings)),
            Kind::Ivf(settings) => Finder::Lists(Lists::new(dim, metric, settings)),
        }
    }

    /// Whether taking in so many rows takes longer than copying what is there, so that it is better done beside it.
    pub(crate) fn is_long(&self, more: usize) -> bool {
        let many = |len| more >= IN_PLACE || more.saturating_mul(CODED) >= len;
        match self {
            Finder::All => false,
            Finder::Codes(codes) => codes.is_due(more) || many(codes.len()),
            Finder::Graph(graph) => more.saturating_mul(LINKED) >= graph.len(),
            Finder::Lists(lists) => lists.is_due(more) || many(lists.len()),
        }
    }

    /// How many rows it knows, if it knows any.
    pub(crate) fn len(&self) -> usize {
        match self {
            Finder::All => 0,
            Finder::Codes(codes) => codes.len(),
            Finder::Graph(graph) => graph.len(),
            Finder::Lists(lists) => lists.len(),
        }
    }

    /// What it is with the rows that came since, or made anew from all where that is due.
    ///
    /// # Errors
    /// [`polmrs_core::Error::Cancelled`]; those of making a thread pool.
    pub(crate) fn extended(&self, vectors: Joined<'_>, ctl: &Ctl) -> Result<Finder> {
        let more = vectors.len() - self.len();
        Ok(match self {
            Finder::Codes(codes) if codes.is_due(more) => Finder::Codes(codes.remade(vectors, ctl)?),
            Finder::Lists(lists) if more > 0 && lists.is_due(more) => Finder::Lists(lists.remade(vectors, ctl)?),
            _ => {
                let mut extended = self.clone();
                extended.extend(vectors, ctl)?;
                extended
            }
        })
    }

    /// Takes in the rows that came since. If it is stopped, it knows some of them, and all is well with those.
    ///
    /// # Errors
    /// [`polmrs_core::Error::Cancelled`]; those of making a thread pool, before anything is done.
    pub(crate) fn extend(&mut self, vectors: Joined<'_>, ctl: &Ctl) -> Result<()> {
        match self {
            Finder::All => ctl.check(),
            Finder::Codes(codes) => codes.extend(vectors, ctl),
            Finder::Graph(graph) => graph.extend(vectors, ctl),
            Finder::Lists(lists) => lists.extend(vectors, ctl),
        }
    }

    /// Refuses to go on if there are no threads for what [`keep`](Finder::keep) does, which cannot fail after that.
    pub(crate) fn check_threads(&self) -> Result<()> {
        match self {
            Finder::All | Finder::Codes(_) => Ok(()),
            Finder::Graph(_) | Finder::Lists(_) => pool::shared().map(drop),
        }
    }

    /// Keeps these rows alone, which are what is left of `vectors`.
    pub(crate) fn keep(&mut self, rows: &[usize], vectors: &Vectors) -> Result<()> {
        match self {
            Finder::All => Ok(()),
            Finder::Codes(codes) => {
                *codes = codes.remade(vectors.into(), &Ctl::new())?;
                Ok(())
            }
            Finder::Graph(graph) => graph.keep(rows),
            Finder::Lists(lists) => lists.regroup(vectors.into(), &Ctl::new()),
        }
    }

    /// What may be among the best, query by query; nothing if only a look at all vectors tells.
    pub(crate) fn candidates(&self, wanted: Wanted<'_>) -> Option<Vec<Found>> {
        let Wanted { queries, dim, batch, k, eligible, count, effort } = wanted;
        match self {
            Finder::All => None,
            Finder::Codes(codes) => Some(codes.candidates(queries, batch, k, eligible)),
            Finder::Graph(graph) => {
                let one = |query| graph.candidates(query, k, eligible, count, effort);
                Some(queries.chunks_exact(dim).map(one).collect())
            }
            Finder::Lists(lists) => {
                let one = |query| lists.candidates(query, k, eligible, count, effort);
                Some(queries.chunks_exact(dim).map(one).collect())
            }
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Finder::All => 0,
            Finder::Codes(codes) => codes.bytes(),
            Finder::Graph(graph) => graph.bytes(),
            Finder::Lists(lists) => lists.bytes(),
        }
    }

    /// What a file keeps besides sections.
    pub(crate) fn facts(&self) -> Json {
        match self {
            Finder::All => Json::Null,
            Finder::Codes(codes) => codes.facts(),
            Finder::Graph(graph) => graph.facts(),
            Finder::Lists(lists) => lists.facts(),
        }
    }

    /// The parts that a file keeps.
    pub(crate) fn sections(&self) -> Vec<(&'static str, Cow<'_, [u8]>)> {
        match self {
            Finder::All => Vec::new(),
            Finder::Codes(codes) => codes.sections(),
            Finder::Graph(graph) => graph.sections(),
            Finder::Lists(lists) => lists.sections(),
        }
    }

    /// An empty one, with what a file keeps of `rows` rows; nothing if it does not fit together.
    pub(crate) fn mapped(
        self,
        rows: usize,
        facts: &Json,
        map: &Arc<Mmap>,
        section: &dyn Fn(&str) -> Option<Range<usize>>,
    ) -> Option<Finder> {
        Some(match self {
            Finder::All => Finder::All,
            Finder::Codes(codes) => Finder::Codes(codes.mapped(rows, facts, map, section)?),
            Finder::Graph(graph) => Finder::Graph(graph.mapped(rows, facts, map, section)?),
            Finder::Lists(lists) => Finder::Lists(lists.mapped(rows, facts, map, section)?),
        })
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        match self {
            Finder::All => {}
            Finder::Codes(codes) => codes.to_mut(),
            Finder::Graph(graph) => graph.to_mut(),
            Finder::Lists(lists) => lists.to_mut(),
        }
    }
}
