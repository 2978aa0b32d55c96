//! Word n-grams that a training set shares with test sets (Brown et al., 2020, appendix C: 13 words).
//!
//! Every n-gram of the test items goes into a table; training documents are walked with a rolling hash, and a hit is
//! compared word by word. A test item of fewer than `n` words is looked for whole if it has `least` words, else left out
//! and counted. Neighbouring hits of the same pair are one match. As in that paper, an n-gram that stands in more than
//! `common` training documents is no evidence, if that is asked for.

use crate::parallel;
use crate::words::mix;
use polmrs_core::{Ctl, Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// What counts as a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Words of an n-gram.
    pub n: usize,
    /// The fewest words of a test item that is looked for.
    pub least: usize,
    /// In how many training documents an n-gram may stand before it is passed over; nothing for no limit.
    pub common: Option<usize>,
}

/// Words of a training document that also stand in a test item, in that order. Places count words from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The training document.
    pub train: usize,
    /// The test item.
    pub test: usize,
    /// Where the words begin in the training document.
    pub train_word: usize,
    /// Where they begin in the test item.
    pub test_word: usize,
    /// How many there are.
    pub words: usize,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In the order of training documents, then test items, then places.
    pub matches: Vec<Match>,
    /// Test items of too few words.
    pub skipped: Vec<usize>,
    /// N-grams that stand in too many training documents.
    pub passed_over: usize,
}

type Table = HashMap<u64, Vec<(u32, u32)>, BuildHasherDefault<AsItIs>>;

/// The hashes are mixed already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = mix(self.0 ^ u64::from(*byte)));
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Check {
    /// Looks for the test items in the training documents; both are rows of word hashes.
    ///
    /// # Errors
    /// [`Error::Usage`] for `n` or `least` of 0, or `least` above `n`; [`Error::Cancelled`].
    pub fn run(&self, train: &[Vec<u64>], tests: &[Vec<u64>], ctl: &Ctl) -> Result<Found> {
        let (n, least) = (self.n, self.least);
        if n == 0 || least == 0 || least > n {
            return Err(Error::Usage(format!("n, least: {n} and {least}, but 1 <= least <= n")));
        }
        let mut table = Table::default();
        let mut widths = BTreeSet::new();
        let mut found = Found::default();
        for (item, words) in tests.iter().enumerate() {
            if words.len() < least {
                found.skipped.push(item);
                continue;
            }
            let width = n.min(words.len());
            widths.insert(width);
            rolling(words, width, |at, hash| table.entry(hash).or_default().push((item as u32, at as u32)));
        }
        let widths: Vec<usize> = widths.into_iter().collect();
        let hits = parallel::map(train.len(), ctl, |document| hits(&train[document], tests, &table, &widths))?;
        let mut standing: HashMap<u64, usize> = HashMap::new();
        if self.common.is_some() {
            for hits in &hits {
                let once: BTreeSet<u64> = hits.iter().map(|hit| hit.ngram).collect();
                once.into_iter().for_each(|ngram| *standing.entry(ngram).or_insert(0) += 1);
            }
        }
        let too_common = |ngram: u64| self.common.is_some_and(|most| standing.get(&ngram).is_some_and(|n| *n > most));
        found.passed_over = standing.keys().filter(|ngram| too_common(**ngram)).count();
        for (document, mut hits) in hits.into_iter().enumerate() {
            hits.retain(|hit| !too_common(hit.ngram));
            found.matches.extend(joined(document, hits));
        }
        Ok(found)
    }
}

#[derive(Clone, Copy, Debug)]
struct Hit {
    ngram: u64,
    test: usize,
    train_word: usize,
    test_word: usize,
    words: usize,
}

fn hits(words: &[u64], tests: &[Vec<u64>], table: &Table, widths: &[usize]) -> Vec<Hit> {
    let mut hits = Vec::new();
    for width in widths {
        rolling(words, *width, |at, ngram| {
            for (test, place) in table.get(&ngram).into_iter().flatten() {
                let (test, place) = (*test as usize, *place as usize);
                if tests[test].get(place..place + width) == Some(&words[at..at + width]) {
                    hits.push(Hit { ngram, test, train_word: at, test_word: place, words: *width });
                }
            }
        });
    }
    hits
}

/// Overlapping and touching hits of one test item at one distance become one match.
fn joined(train: usize, mut hits: Vec<Hit>) -> Vec<Match> {
    let shift = |hit: &Hit| hit.train_word.wrapping_sub(hit.test_word);
    hits.sort_unstable_by_key(|hit| (hit.test, shift(hit), hit.train_word));
    let mut matches: Vec<Match> = Vec::new();
    let mut last = None;
    for hit in &hits {
        let same = (hit.test, shift(hit));
        match matches.last_mut() {
            Some(open) if last == Some(same) && hit.train_word <= open.train_word + open.words => {
                open.words = open.words.max(hit.train_word + hit.words - open.train_word);
            }
            _ => matches.push(Match {
                train,
                test: hit.test,
                train_word: hit.train_word,
                test_word: hit.test_word,
                words: hit.words,
            }),
        }
        last = Some(same);
    }
    matches.sort_unstable();
    matches
}

/// Calls `each(at, hash)` for every window of `width` words; the hash of a window follows from the one before it.
fn rolling(words: &[u64], width: usize, mut each: impl FnMut(usize, u64)) {
    const BASE: u64 = 0x9E37_79B9_7F4A_7C15;
    if words.len() < width {
        return;
    }
    let highest = BASE.wrapping_pow(width as u32);
    let mut hash = words[..width].iter().fold(0u64, |hash, word| hash.wrapping_mul(BASE).wrapping_add(*word));
    for at in 0..=words.len() - width {
        if at > 0 {
            let (gone, come) = (words[at - 1], words[at + width - 1]);
            hash = hash.wrapping_mul(BASE).wrapping_add(come).wrapping_sub(gone.wrapping_mul(highest));
        }
        each(at, mix(hash ^ width as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(check: Check, train: &[Vec<u64>], tests: &[Vec<u64>]) -> Found {
        check.run(train, tests, &Ctl::new()).unwrap()
    }

    #[test]
    fn a_run_of_hits_is_one_match_and_short_items_are_looked_for_whole() {
        let train = vec![vec![0, 1, 2, 3, 4, 5, 9], vec![7, 8, 7, 8]];
        let tests = vec![vec![1, 2, 3, 4, 5, 6], vec![7, 8], vec![9]];
        let seen = found(Check { n: 3, least: 2, common: None }, &train, &tests);
        let at = |train, test, train_word, test_word, words| Match { train, test, train_word, test_word, words };
        assert_eq!(seen.matches, [at(0, 0, 1, 0, 5), at(1, 1, 0, 0, 2), at(1, 1, 2, 0, 2)]);
        assert_eq!(seen.skipped, [2]);
    }

    #[test]
    fn what_stands_everywhere_is_no_evidence() {
        let train = vec![vec![1, 2, 3], vec![1, 2, 4], vec![5, 6, 1]];
        let tests = vec![vec![1, 2, 5, 6]];
        let check = |common| found(Check { n: 2, least: 2, common }, &train, &tests);
        assert_eq!(check(None).matches.len(), 3);
        let seen = check(Some(1));
        assert_eq!((seen.matches.len(), seen.matches[0].train, seen.passed_over), (1, 2, 1));
    }

    proptest! {
        #[test]
        fn every_shared_window_is_inside_a_match(
            train in prop::collection::vec(prop::collection::vec(0u64..4, 0..20), 0..8),
            tests in prop::collection::vec(prop::collection::vec(0u64..4, 0..12), 0..6), n in 1usize..6
        ) {
            let seen = found(Check { n, least: n, common: None }, &train, &tests);
            for (i, document) in train.iter().enumerate() {
                for (j, item) in tests.iter().enumerate() {
                    for (a, window) in document.windows(n).enumerate() {
                        for (b, other) in item.windows(n).enumerate().filter(|(_, other)| *other == window) {
                            let covers = |m: &&Match| m.train == i && m.test == j && m.train_word <= a && m.test_word <= b
                                && a + n <= m.train_word + m.words && a - m.train_word == b - m.test_word;
                            prop_assert_eq!(seen.matches.iter().filter(covers).count(), 1, "{:?}", other);
                        }
                    }
                }
            }
            for m in &seen.matches {
                prop_assert_eq!(
                    &train[m.train][m.train_word..m.train_word + m.words],
                    &tests[m.test][m.test_word..m.test_word + m.words]
                );
            }
        }
    }
}
