//! The pool filter of Self-Instruct (arXiv:2212.10560, section 2.2): an instruction joins the pool if its ROUGE-L with
//! every one already there is below 0.7.
//!
//! A common subsequence is no longer than the tokens that two texts share, counted with their repetitions, so the index
//! of [`overlap`](crate::overlap) names every text that can reach the threshold, and the rest are not compared. What is
//! kept, and which partner is named for what is not, are those of comparing with all.

use crate::overlap::{Index, rarest_first};
use crate::rouge::{Pattern, Score, Vocabulary};
use polmrs_core::{Ctl, Error, Result};
use std::collections::HashMap;

/// What became of each candidate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    /// Of each candidate: -1 if it was kept, else the text of the pool that it is most like (the first of equals): the
    /// pool's by number, then the candidates after them.
    pub partner: Vec<i64>,
    /// The ROUGE-L F-measure with the partner; 0 for what was kept.
    pub score: Vec<f64>,
    /// How many pairs were compared.
    pub compared: u64,
}

/// Goes through the candidates in order; those that stay join the pool. Without `prune`, every pair is compared.
///
/// # Errors
/// [`Error::Usage`] for a threshold outside (0, 1]; [`Error::Cancelled`].
pub fn novel<S: AsRef<str>>(
    pool: &[S],
    candidates: &[S],
    threshold: f64,
    stemmed: bool,
    prune: bool,
    ctl: &Ctl,
) -> Result<Verdicts> {
    above_zero(threshold)?;
    let mut vocabulary = Vocabulary::default();
    let texts: Vec<Vec<u32>> =
        pool.iter().chain(candidates).map(|text| vocabulary.number(text.as_ref(), stemmed)).collect();
    let mut index = Index::new(0, threshold, fmeasure);
    let mut sets = Vec::new();
    if prune {
        let elements;
        (sets, elements) = counted(&texts);
        rarest_first(&mut sets, elements);
        index = Index::new(elements, threshold, fmeasure);
    }
    let mut pattern = Pattern::new(vocabulary.len());
    let mut members: Vec<u32> = Vec::new(); // of the pool, as numbers of texts
    let mut found = Vec::new();
    let mut verdicts = Verdicts::default();
    ctl.expect(candidates.iter().map(|text| text.as_ref().len() as u64).sum());
    for (number, text) in texts.iter().enumerate() {
        if number >= pool.len() {
            ctl.check()?;
            if prune {
                index.probe(&sets[number], &mut found);
            } else {
                found.clear();
                found.extend(0..members.len() as u32);
            }
            if !found.is_empty() {
                pattern.set(text);
            }
            let mut best: Option<(f64, u32)> = None;
            for member in &found {
                let other = members[*member as usize];
                let score = pattern.score(&texts[other as usize]).fmeasure;
                let better = best.is_none_or(|(most, first)| score > most || score == most && other < first);
                if score >= threshold && better {
                    best = Some((score, other));
                }
            }
            verdicts.compared += found.len() as u64;
            verdicts.partner.push(best.map_or(-1, |(_, other)| i64::from(other)));
            verdicts.score.push(best.map_or(0.0, |(score, _)| score));
            ctl.advance(candidates[number - pool.len()].as_ref().len() as u64);
            if best.is_some() {
                continue;
            }
        }
        members.push(number as u32);
        if prune {
            index.add(&sets[number]);
        }
    }
    Ok(verdicts)
}

fn fmeasure(shared: usize, a: usize, b: usize) -> f64 {
    Score::new(shared, a, b).fmeasure
}

/// Refuses a threshold that everything reaches, or nothing.
pub(crate) fn above_zero(threshold: f64) -> Result<()> {
    if threshold > 0.0 && threshold <= 1.0 {
        return Ok(());
    }
    Err(Error::Usage(format!("threshold: {threshold} is not in (0, 1]")))
}

/// Texts as sets: the second `the` of a text is another element than the first.
fn counted(texts: &[Vec<u32>]) -> (Vec<Vec<u32>>, usize) {
    let mut elements: HashMap<(u32, u32), u32> = HashMap::new();
    let mut times: HashMap<u32, u32> = HashMap::new();
    let sets = texts.iter().map(|text| {
        times.clear();
        let element = |token: &u32| {
            let nth = times.entry(*token).or_insert(0);
            *nth += 1;
            let next = elements.len() as u32;
            *elements.entry((*token, *nth)).or_insert(next)
        };
        text.iter().map(element).collect()
    });
    let sets = sets.collect();
    (sets, elements.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_like_the_pool_goes_and_names_its_partner() {
        let pool = ["Write a poem about the sea."];
        let candidates = ["write a poem about the sea", "Sort these numbers", "Sort those numbers", "?"];
        let seen = novel(&pool, &candidates, 0.66, false, true, &Ctl::new()).unwrap();
        assert_eq!(seen.partner, [0, -1, 2, -1]);
        assert_eq!(seen.score[0], 1.0);
        assert!(novel(&pool, &candidates, 0.0, false, true, &Ctl::new()).is_err());
    }

    proptest! {
        #[test]
        fn pruning_changes_nothing(
            texts in prop::collection::vec("[ab c-e]{0,24}", 0..40), threshold in 0.01f64..=1.0, pool in 0usize..5
        ) {
            let (pool, candidates) = texts.split_at(pool.min(texts.len()));
            let pruned = novel(pool, candidates, threshold, false, true, &Ctl::new()).unwrap();
            let all = novel(pool, candidates, threshold, false, false, &Ctl::new()).unwrap();
            prop_assert_eq!((pruned.partner, pruned.score), (all.partner, all.score));
        }
    }
}
