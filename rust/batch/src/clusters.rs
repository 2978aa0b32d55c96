//! Near-duplicates: documents whose sets of word n-grams have a Jaccard index of at least a threshold, found by MinHash
//! or exactly, and joined into clusters of which the first document stays.
//!
//! MinHash may miss a pair; what it finds is checked on the sets themselves, so it never joins a pair below the
//! threshold. Being alike is not transitive: a cluster may hold documents that are alike only through others.

use crate::minhash::{Bands, MinHash};
use crate::novel::above_zero;
use crate::overlap::{Index, rarest_first};
use crate::parallel;
use crate::shingles::{jaccard, ratio};
use polmrs_core::{Ctl, Result};
use std::collections::HashMap;

/// How pairs are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Search {
    /// All of them, by an index of rare n-grams.
    Exact,
    /// Those whose signatures agree in a band: of `functions` hash functions, with at least the chance `recall` at the
    /// threshold.
    MinHash {
        /// How many hash functions.
        functions: usize,
        /// The chance to find a pair at the threshold.
        recall: f64,
        /// The seed of the hash functions.
        seed: u64,
    },
}

/// A pair of documents and their Jaccard index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The earlier document.
    pub a: u32,
    /// The later.
    pub b: u32,
    /// |A and B| / |A or B|.
    pub jaccard: f64,
}

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clusters {
    /// Of each document, the first of its cluster; itself if it is kept.
    pub first: Vec<i64>,
    /// The Jaccard index with that document.
    pub jaccard: Vec<f64>,
    /// Documents without a word, which are kept.
    pub wordless: usize,
    /// Clusters of two or more.
    pub clusters: usize,
}

/// All pairs found, in order. Documents are sorted sets; those without an element are in no pair.
pub fn pairs(sets: &[Vec<u64>], threshold: f64, search: Search, ctl: &Ctl) -> Result<Vec<Pair>> {
    let mut found = Vec::new();
    let all: Vec<u32> = (0..sets.len() as u32).collect();
    candidates(sets, &all, threshold, search, ctl, |a, b| found.push((a.min(b), a.max(b))))?;
    found.sort_unstable();
    found.dedup();
    let scored = parallel::map(found.len(), ctl, |i| {
        let (a, b) = found[i];
        Pair { a, b, jaccard: jaccard(&sets[a as usize], &sets[b as usize]) }
    })?;
    Ok(scored.into_iter().filter(|pair| pair.jaccard >= threshold).collect())
}

/// Joins the documents that are alike, and keeps the first of each cluster.
///
/// # Errors
/// `Error::Usage` for a threshold outside (0, 1] or settings that cannot reach the recall; `Error::Cancelled`.
pub fn clusters(sets: &[Vec<u64>], threshold: f64, search: Search, ctl: &Ctl) -> Result<Clusters> {
    let mut forest = Forest::new(sets.len());
    let mut first_of: HashMap<&[u64], u32> = HashMap::new();
    let mut distinct = Vec::new();
    for (document, set) in sets.iter().enumerate().filter(|(_, set)| !set.is_empty()) {
        let first = *first_of.entry(set).or_insert(document as u32);
        forest.join(first, document as u32);
        if first as usize == document {
            distinct.push(first);
        }
    }
    drop(first_of);
    candidates(sets, &distinct, threshold, search, ctl, |a, b| {
        if forest.root(a) != forest.root(b) && jaccard(&sets[a as usize], &sets[b as usize]) >= threshold {
            forest.join(a, b);
        }
    })?;
    let mut found = Clusters { wordless: sets.iter().filter(|set| set.is_empty()).count(), ..Clusters::default() };
    found.first = (0..sets.len() as u32).map(|document| i64::from(forest.root(document))).collect();
    found.jaccard = parallel::map(sets.len(), ctl, |document| {
        let first = found.first[document] as usize;
        if first == document { 1.0 } else { jaccard(&sets[first], &sets[document]) }
    })?;
    let mut joined: Vec<i64> =
        found.first.iter().enumerate().filter(|(i, first)| **first != *i as i64).map(|(_, first)| *first).collect();
    joined.sort_unstable();
    joined.dedup();
    found.clusters = joined.len();
    Ok(found)
}

/// Calls `each` for the pairs of `documents` that may be alike, some of them more than once.
fn candidates(
    sets: &[Vec<u64>],
    documents: &[u32],
    threshold: f64,
    search: Search,
    ctl: &Ctl,
    mut each: impl FnMut(u32, u32),
) -> Result<()> {
    above_zero(threshold)?;
    match search {
        Search::Exact => {
            let (ranked, elements) = ranked(sets, documents);
            let mut index = Index::new(elements, threshold, ratio);
            let mut found = Vec::new();
            for (number, set) in ranked.iter().enumerate() {
                ctl.check()?;
                index.probe(set, &mut found);
                found.iter().for_each(|other| each(documents[*other as usize], documents[number]));
                index.add(set);
            }
        }
        Search::MinHash { functions, recall, seed } => {
            let minhash = MinHash::new(functions, seed)?;
            let bands = Bands::choose(functions, threshold, recall)?;
            let set = |i: usize| &sets[documents[i] as usize];
            let signatures = parallel::map(documents.len(), ctl, |i| minhash.sign(set(i)))?;
            for bucket in bands.buckets(&signatures, |i| set(i).is_empty(), ctl)?.iter().flatten() {
                ctl.check()?;
                for (i, b) in bucket.iter().enumerate() {
                    bucket[..i].iter().for_each(|a| each(documents[*a as usize], documents[*b as usize]));
                }
            }
        }
    }
    Ok(())
}

/// The sets with small numbers for elements, rarest first.
fn ranked(sets: &[Vec<u64>], documents: &[u32]) -> (Vec<Vec<u32>>, usize) {
    let mut numbers: HashMap<u64, u32> = HashMap::new();
    let number = |set: &Vec<u64>, numbers: &mut HashMap<u64, u32>| {
        let one = |element: &u64| {
            let next = numbers.len() as u32;
            *numbers.entry(*element).or_insert(next)
        };
        set.iter().map(one).collect()
    };
    let mut ranked: Vec<Vec<u32>> = documents.iter().map(|i| number(&sets[*i as usize], &mut numbers)).collect();
    rarest_first(&mut ranked, numbers.len());
    (ranked, numbers.len())
}

/// Disjoint sets; the root of a set is its least member.
struct Forest {
    parent: Vec<u32>,
}

impl Forest {
    fn new(n: usize) -> Forest {
        Forest { parent: (0..n as u32).collect() }
    }

    fn root(&mut self, mut at: u32) -> u32 {
        while self.parent[at as usize] != at {
            let above = self.parent[self.parent[at as usize] as usize];
            self.parent[at as usize] = above; // halves the path
            at = above;
        }
        at
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shingles::shingles;
    use proptest::prelude::*;

    const MINHASH: Search = Search::MinHash { functions: 128, recall: 0.99, seed: 1 };

    #[test]
    fn a_chain_is_one_cluster_and_its_first_stays() {
        let sets: Vec<Vec<u64>> =
            [&[1u64, 2, 3][..], &[9], &[2, 3, 4], &[], &[3, 4, 5], &[], &[9]].map(Vec::from).into();
        for search in [Search::Exact, Search::MinHash { functions: 512, recall: 0.99, seed: 1 }] {
            let found = clusters(&sets, 0.5, search, &Ctl::new()).unwrap();
            assert_eq!(found.first, [0, 1, 0, 3, 0, 5, 1], "{search:?}");
            assert_eq!(found.jaccard, [1.0, 1.0, 0.5, 1.0, 0.2, 1.0, 1.0]);
            assert_eq!((found.clusters, found.wordless), (2, 2));
        }
    }

    proptest! {
        #[test]
        fn the_exact_search_finds_every_pair_and_minhash_no_other(
            documents in prop::collection::vec(prop::collection::vec(0u64..6, 0..12), 0..30), threshold in 0.05f64..=1.0
        ) {
            let sets: Vec<Vec<u64>> = documents.iter().map(|words| shingles(words, 2)).collect();
            let mut slow = Vec::new();
            for b in 0..sets.len() {
                for a in (0..b).filter(|a| !sets[*a].is_empty() && !sets[b].is_empty()) {
                    let jaccard = jaccard(&sets[a], &sets[b]);
                    if jaccard >= threshold {
                        slow.push(Pair { a: a as u32, b: b as u32, jaccard });
                    }
                }
            }
            slow.sort_by_key(|pair| (pair.a, pair.b));
            let exact = pairs(&sets, threshold, Search::Exact, &Ctl::new()).unwrap();
            prop_assert_eq!(&exact, &slow);
            if threshold > 0.5 {
                let found = pairs(&sets, threshold, MINHASH, &Ctl::new()).unwrap();
                prop_assert!(found.iter().all(|pair| slow.contains(pair)));
            }
        }
    }
}
