//! The one search: candidates by the index's kind, then scores from stored vectors.

use super::{Index, check};
use crate::bitmap::ones;
use crate::dense;
use crate::filter::Filter;
use crate::finder::{Finder, Found, Wanted};
use crate::ids::{Ids, Names};
use crate::shares::in_shares;
use crate::shortlist::Shortlist;
use polmrs_core::{Ctl, Error, Result};
use std::ops::Range;

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Vectors, row after row.
    pub vectors: &'a [f32],
    /// At most how many rows each finds.
    pub k: usize,
    /// Which rows count.
    pub filter: Option<&'a Filter>,
    /// The lowest score that counts.
    pub min_score: Option<f32>,
    /// How much of a graph, or how many lists, are looked at, in place of its own setting.
    pub effort: Option<usize>,
    /// Scores are those of codes, and full vectors are not looked at; `Flat` has no codes.
    pub estimate: bool,
}

/// What was found: the hits of query `i` are `offsets[i]..offsets[i + 1]`, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    /// Names.
    pub ids: Ids,
    /// Scores, larger for nearer.
    pub scores: Vec<f32>,
    /// Where each query's hits begin and end.
    pub offsets: Vec<i64>,
}

impl Hits {
    /// The scores and rows of every query.
    pub(crate) fn of(names: &Names, found: Vec<Vec<(f32, u32)>>) -> Hits {
        let mut offsets = vec![0];
        offsets.extend(found.iter().scan(0, |end, hits| {
            *end += hits.len() as i64;
            Some(*end)
        }));
        let ids = names.select(found.iter().flatten().map(|(_, row)| *row as usize));
        Hits { ids, scores: found.into_iter().flatten().map(|(score, _)| score).collect(), offsets }
    }
}

/// So few rows are scored without a look at codes.
const FEW: usize = 64;
/// Rows that are asked for before the first of them is scored.
const PREFETCHED: usize = 64;

impl Index {
    /// The best rows of every query.
    ///
    /// # Errors
    /// [`Error::Array`] for a wrong length, a NaN or an infinity; [`Error::Usage`] for `k` of 0; [`Error::Cancelled`].
    pub fn search(&self, query: Query<'_>, ctl: &Ctl) -> Result<Hits> {
        let dim = self.settings.dim;
        check(query.vectors, dim, "queries")?;
        for (name, value) in [("k", query.k), ("effort", query.effort.unwrap_or(1))] {
            if value == 0 {
                return Err(Error::Usage(format!("{name}: 0 is not at least 1")));
            }
        }
        let n = query.vectors.len() / dim;
        let eligible = self.rows.eligible(query.filter);
        let share = |range: Range<usize>| {
            let queries = &query.vectors[range.start * dim..range.end * dim];
            self.share(queries, n, query, &eligible)
        };
        Ok(Hits::of(&self.rows.names, in_shares(n, ctl, share)?))
    }

    /// The best rows of a few queries of a batch, on this thread.
    fn share(&self, queries: &[f32], batch: usize, query: Query<'_>, eligible: &[u64]) -> Vec<Vec<(f32, u32)>> {
        let count: usize = eligible.iter().map(|word| word.count_ones() as usize).sum();
        let dim = self.settings.dim;
        let vectors = queries.chunks_exact(dim);
        if count <= FEW.max(query.k) {
            return vectors.map(|vector| self.best(vector, ones(eligible).map(|row| row as u32), query)).collect();
        }
        let wanted = Wanted { queries, dim, batch, k: query.k, eligible, count, effort: query.effort };
        let found = self.finder.candidates(wanted).unwrap_or_else(|| self.scanned(queries, query.k, eligible));
        let best = |(vector, found): (&[f32], Found)| {
            if query.estimate && !matches!(self.finder, Finder::All) {
                return ranked(found.estimates(), query.k, query.min_score);
            }
            self.best(vector, found.candidates.iter().map(|candidate| candidate.slot), query)
        };
        vectors.zip(found).map(best).collect()
    }

    /// What is found by a look at all vectors.
    fn scanned(&self, queries: &[f32], k: usize, eligible: &[u64]) -> Vec<Found> {
        let (dim, metric) = (self.settings.dim, self.settings.metric);
        let width = |query| dense::margin(metric, query, self.largest_norm);
        let widths: Vec<f32> = queries.chunks_exact(dim).map(width).collect();
        let mut lists: Vec<Shortlist> = widths.iter().map(|_| Shortlist::new(k)).collect();
        let rows = dense::Rows { vectors: &self.vectors, rankings: &self.rankings, eligible, dim };
        dense::scan(rows, queries, &widths, &mut lists);
        let found = |list: Shortlist| Found { candidates: list.finish(), line: [1.0, 0.0] };
        lists.into_iter().map(found).collect()
    }

    /// These rows by their scores; equal ones by row.
    fn best(&self, vector: &[f32], rows: impl Iterator<Item = u32> + Clone, query: Query<'_>) -> Vec<(f32, u32)> {
        rows.clone().take(PREFETCHED).for_each(|row| self.vectors.prefetch(row as usize));
        let score = |row: u32| (self.settings.metric.score(vector, &self.vectors.row(row as usize)), row);
        ranked(rows.map(score).collect(), query.k, query.min_score)
    }
}

/// The `k` best scores, equal ones by row, that reach the least.
pub(crate) fn ranked(mut scored: Vec<(f32, u32)>, k: usize, least: Option<f32>) -> Vec<(f32, u32)> {
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.truncate(k);
    if let Some(least) = least {
        scored.retain(|(score, _)| *score >= least);
    }
    scored
}
