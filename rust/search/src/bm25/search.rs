//! The one search: words with the largest bound first, then the scores of what may be among the best.

use super::scan::{Part, candidates};
use super::{Bm25, Texts};
use crate::bitmap::ones;
use crate::filter::Filter;
use crate::index::{Hits, ranked};
use crate::shares::in_shares;
use polmrs_core::{Ctl, Error, Result};
use std::borrow::Cow;
use std::ops::Range;

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Each is a text.
    pub texts: &'a Texts,
    /// At most how many documents each finds.
    pub k: usize,
    /// Which documents count.
    pub filter: Option<&'a Filter>,
    /// The lowest score that counts.
    pub min_score: Option<f32>,
}

impl Bm25 {
    /// The best documents of every query: those that have a word of it with any weight.
    ///
    /// # Errors
    /// [`Error::Usage`] for `k` of 0; [`Error::Cancelled`].
    pub fn search(&self, query: Query<'_>, ctl: &Ctl) -> Result<Hits> {
        if query.k == 0 {
            return Err(Error::Usage("k: 0 is not at least 1".into()));
        }
        let halves = self.halves(query.filter);
        let find = |queries: Range<usize>| {
            let mut sums = vec![0.0; self.rows.len()];
            queries.map(|one| self.best(one, query, &halves, &mut sums)).collect()
        };
        Ok(Hits::of(&self.rows.names, in_shares(query.texts.len(), ctl, find)?))
    }

    /// [`Formula::half`] of the documents that live and pass, infinite for the others: they get nothing of any word.
    fn halves(&self, filter: Option<&Filter>) -> Cow<'_, [f32]> {
        let all = self.halves.get_or_init(|| {
            let mut halves = vec![f32::INFINITY; self.rows.len()];
            for row in ones(&self.rows.eligible(None)) {
                halves[row] = self.half(row) as f32;
            }
            halves
        });
        let Some(filter) = filter else { return Cow::Borrowed(all) };
        let mut halves = vec![f32::INFINITY; all.len()];
        for row in ones(&self.rows.eligible(Some(filter))) {
            halves[row] = all[row];
        }
        Cow::Owned(halves)
    }

    fn half(&self, row: usize) -> f64 {
        self.formula.half(self.lengths[row] as f64 * self.len() as f64 / self.total.max(1) as f64)
    }

    /// The best documents of one query, equal ones by row. `sums` are zeros, and are again.
    fn best(&self, one: usize, query: Query<'_>, halves: &[f32], sums: &mut [f32]) -> Vec<(f32, u32)> {
        let all = self.len() as f64;
        let (scale, _) = self.formula.scale();
        let least = self.formula.half(0.0);
        let asked = query.texts.asked(one, &self.splitter, &self.vocabulary).into_iter();
        let known = asked.map(|(word, times)| (&self.terms[word as usize], times)).filter(|(term, _)| term.living > 0);
        let parts: Vec<Part<'_>> = known
            .map(|(term, times)| {
                let (weight, most) = (times * self.formula.idf(f64::from(term.living), all), f64::from(term.most));
                Part { term, weight, bound: (weight * scale * most / (most + least)) as f32 }
            })
            .collect();
        let mut order: Vec<&Part<'_>> = parts.iter().collect();
        order.sort_by(|a, b| b.bound.total_cmp(&a.bound));
        let found = candidates(&order, query.k, scale as f32, halves, sums);
        sums.fill(0.0);
        ranked(found.into_iter().map(|row| (self.score(&parts, row), row)).collect(), query.k, query.min_score)
    }

    /// The score of a document, rounded once.
    fn score(&self, parts: &[Part<'_>], row: u32) -> f32 {
        let (scale, floor) = self.formula.scale();
        let half = self.half(row as usize);
        let gain = |part: &Part<'_>| {
            let found = part.term.postings.binary_search_by_key(&row, |[row, _]| *row);
            let count = found.map_or(0.0, |at| f64::from(part.term.postings[at][1]));
            part.weight * (scale * count / (count + half) + floor)
        };
        parts.iter().map(gain).sum::<f64>() as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Formula, Splitter, Variant};
    use super::*;
    use crate::ids::Ids;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_scan_misses_nothing_that_scoring_everything_finds(
            documents in proptest::collection::vec(proptest::collection::vec(0u8..30, 0..12), 1..300),
            asked in proptest::collection::vec(0u8..30, 0..12),
            k in 1usize..20,
            variant in 0usize..5,
            b in 0.0f64..=1.0,
        ) {
            let words = |numbers: &Vec<u8>| numbers.iter().map(|n| format!("w{}", u32::from(*n).pow(2) / 30)).collect::<Vec<_>>();
            let formula = Formula { variant: Variant::NAMES[variant].1, k1: 1.2, b, delta: 0.5 };
            let mut index = Bm25::new(formula, Splitter::default(), String::new()).unwrap();
            let ids = Ids::Numbers((0..documents.len() as i64).collect());
            index.add(&ids, &Texts::Split(documents.iter().map(words).collect()), &[], &Ctl::new()).unwrap();
            let texts = Texts::Split(vec![words(&asked)]);
            let query = Query { texts: &texts, k, filter: None, min_score: None };
            let hits = index.search(query, &Ctl::new()).unwrap();

            let parts: Vec<Part<'_>> = texts.asked(0, &index.splitter, &index.vocabulary).into_iter().map(|(word, times)| {
                let term = &index.terms[word as usize];
                Part { term, weight: times * formula.idf(f64::from(term.living), documents.len() as f64), bound: 0.0 }
            }).collect();
            let least = parts.iter().map(|part| part.weight * formula.scale().1).sum::<f64>() as f32;
            let every: Vec<(f32, u32)> = (0..documents.len() as u32).map(|row| (index.score(&parts, row), row)).collect();
            let wanted = ranked(every.into_iter().filter(|(score, _)| *score > least).collect(), k, None);
            prop_assert_eq!(hits, Hits::of(&index.rows.names, vec![wanted]));
        }
    }
}
