//! Search by words: an inverted index, scored by a formula of the BM25 family.
//!
//! Every formula of the family is one curve. With $L$ a document's length over the mean, a word that is there $f$ times adds
//!
//! $$\mathrm{idf} \cdot \Bigl( s \, \frac{f}{f + \kappa (1 - b + b L)} + c \Bigr)$$
//!
//! | variant | idf | $\kappa$ | $s$ | $c$ | source |
//! |---|---|---|---|---|---|
//! | `robertson` | $\max(0, \ln \frac{N - n + 0.5}{n + 0.5})$ | $k_1$ | 1 | 0 | Robertson and Zaragoza 2009 |
//! | `lucene` | $\ln(1 + \frac{N - n + 0.5}{n + 0.5})$ | $k_1$ | 1 | 0 | Lucene, accurate lengths |
//! | `atire` | $\ln \frac{N}{n}$ | $k_1$ | $k_1 + 1$ | 0 | Trotman et al. 2012 |
//! | `bm25l` | $\ln \frac{N + 1}{n + 0.5}$ | $k_1 + \delta$ | $\frac{(k_1 + 1) k_1}{k_1 + \delta}$ | $\frac{(k_1 + 1) \delta}{k_1 + \delta}$ | Lv and Zhai, SIGIR 2011 |
//! | `bm25+` | $\ln \frac{N + 1}{n}$ | $k_1$ | $k_1 + 1$ | $\delta$ | Lv and Zhai, CIKM 2011 |
//!
//! with $N$ documents, $n$ of them with the word. For `bm25l` that is $\frac{(k_1 + 1)(c' + \delta)}{k_1 + c' + \delta}$ with
//! $c' = f / (1 - b + b L)$, rearranged. The floor $c$ is added for every word of the query that any document has, whether or
//! not this one does, as the libraries bm25s and rank_bm25 do (the papers: only where the word is there).
//!
//! $N$, $n$ and the mean length are those of the moment, so nothing is computed again when documents come or go: a posting
//! holds a document and a count. The scan, in f32, takes the rarest words first and stops where the words that are left
//! cannot lift a document it has not met to the `k`-th place (MaxScore, Turtle and Flood 1995); what may be among the best is
//! scored in f64 and rounded once.

mod formula;
mod persist;
mod scan;
mod words;

pub use formula::{Formula, Variant};
use words::{Bag, Vocabulary};
pub use words::{Splitter, Texts};

use crate::bitmap::ones;
use crate::filter::Filter;
use crate::ids::Ids;
use crate::index::{Hits, ranked};
use crate::rows::Rows;
use crate::shares::in_shares;
use polmrs_core::{Ctl, Error, Result};
use scan::{Part, candidates};
use serde_json::{Map, Value as Json};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

/// A document that has a word, and how often.
#[derive(Clone, Copy, Debug)]
struct Posting {
    row: u32,
    count: f32,
}

/// The documents that have a word, dead ones too, in order.
#[derive(Clone, Debug, Default)]
struct Term {
    postings: Vec<Posting>,
    /// How many of them live.
    living: u32,
    /// The largest count.
    most: f32,
}

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

/// Documents under names, searched by their words.
#[derive(Debug)]
pub struct Bm25 {
    formula: Formula,
    splitter: Splitter,
    /// What the caller wants to know when the file is opened.
    note: String,
    rows: Rows,
    vocabulary: Vocabulary,
    terms: Vec<Term>,
    /// Of all documents, dead ones too: the words of each, once, and where they end.
    words: Vec<u32>,
    ends: Vec<usize>,
    lengths: Vec<u64>,
    /// The words of all living documents.
    total: u64,
    /// [`Formula::half`] of every document, infinite for dead ones; made at the first search after a change.
    halves: OnceLock<Vec<f32>>,
}

/// Documents that are ready to join the index that they were made for.
#[derive(Debug)]
pub struct Addition<'a> {
    ids: &'a Ids,
    metadata: &'a [Map<String, Json>],
    version: u64,
    bags: Vec<Bag>,
    /// New ones.
    words: Vocabulary,
}

impl Bm25 {
    /// An empty index; `note` is kept with it.
    ///
    /// # Errors
    /// [`Error::Usage`] for a parameter out of range.
    pub fn new(formula: Formula, splitter: Splitter, note: String) -> Result<Bm25> {
        formula.check()?;
        Ok(Bm25 {
            formula,
            splitter,
            note,
            rows: Rows::new(),
            vocabulary: Vocabulary::new(),
            terms: Vec::new(),
            words: Vec::new(),
            ends: Vec::new(),
            lengths: Vec::new(),
            total: 0,
            halves: OnceLock::new(),
        })
    }

    /// The formula.
    pub fn formula(&self) -> Formula {
        self.formula
    }

    /// How texts are split.
    pub fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    /// What was to be kept with it.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// How many documents it holds.
    pub fn len(&self) -> usize {
        self.rows.living()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many words the living documents have, and how many different ones.
    pub fn counts(&self) -> (u64, usize) {
        (self.total, self.terms.iter().filter(|term| term.living > 0).count())
    }

    /// Bytes of postings and of the words of each document.
    pub fn bytes(&self) -> usize {
        let postings: usize = self.terms.iter().map(|term| size_of_val(term.postings.as_slice())).sum();
        postings + size_of_val(self.words.as_slice())
    }

    /// Adds documents, with as many metadata or none; one whose id is there already replaces it, metadata and all. Of two
    /// equal ids the later stands.
    ///
    /// # Errors
    /// Those of [`prepare`](Bm25::prepare). Nothing is added then.
    pub fn add(&mut self, ids: &Ids, texts: &Texts, metadata: &[Map<String, Json>], ctl: &Ctl) -> Result<()> {
        let addition = self.prepare(ids, texts, metadata, ctl)?;
        self.commit(addition)
    }

    /// Makes ready what [`add`](Bm25::add) adds.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of another kind than before, or as many texts or metadata as there are not ids;
    /// [`Error::Cancelled`].
    pub fn prepare<'a>(
        &self,
        ids: &'a Ids,
        texts: &Texts,
        metadata: &'a [Map<String, Json>],
        ctl: &Ctl,
    ) -> Result<Addition<'a>> {
        if texts.len() != ids.len() {
            return Err(Error::Usage(format!("texts: {} for {} ids", texts.len(), ids.len())));
        }
        self.rows.check(ids, metadata)?;
        let (bags, words) = texts.bags(&self.splitter, &self.vocabulary, ctl)?;
        Ok(Addition { ids, metadata, version: self.rows.version(), bags, words })
    }

    /// Adds what was made ready.
    ///
    /// # Errors
    /// [`Error::Usage`] if the index has got or moved documents since. Nothing is added then.
    pub fn commit(&mut self, addition: Addition<'_>) -> Result<()> {
        self.rows.check_version(addition.version)?;
        self.vocabulary.extend(addition.words);
        self.push(addition.ids, &addition.bags, addition.metadata);
        Ok(())
    }

    /// Adds documents as words, by number, and their counts.
    fn push(&mut self, ids: &Ids, bags: &[Bag], metadata: &[Map<String, Json>]) {
        self.terms.resize_with(self.vocabulary.len(), Term::default);
        for (row, bag) in (self.rows.len()..).zip(bags) {
            let mut length = 0.0;
            for (word, count) in bag {
                let term = &mut self.terms[*word as usize];
                term.postings.push(Posting { row: row as u32, count: *count }); // `check` saw that rows fit
                term.living += 1;
                term.most = term.most.max(*count);
                length += f64::from(*count);
                self.words.push(*word);
            }
            self.ends.push(self.words.len());
            self.lengths.push(length as u64);
            self.total += length as u64;
        }
        for row in self.rows.push(ids, metadata) {
            self.uncount(row);
        }
        self.settle();
    }

    /// Takes a document out of the statistics.
    fn uncount(&mut self, row: u32) {
        for word in &self.words[self.span(row as usize)] {
            self.terms[*word as usize].living -= 1;
        }
        self.total -= self.lengths[row as usize];
    }

    /// Where the words of a document are.
    fn span(&self, row: usize) -> Range<usize> {
        row.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[row]
    }

    /// Deletes; how many were there.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of the other kind.
    pub fn delete(&mut self, ids: &Ids) -> Result<usize> {
        let rows = self.rows.of(ids)?;
        Ok(self.delete_rows(&rows))
    }

    /// Deletes every document that passes; how many did.
    pub fn delete_where(&mut self, filter: &Filter) -> usize {
        let rows = self.rows.passing(filter);
        self.delete_rows(&rows)
    }

    fn delete_rows(&mut self, rows: &[u32]) -> usize {
        for row in rows {
            self.uncount(*row);
        }
        self.rows.delete(rows);
        self.settle();
        rows.len()
    }

    /// After a change.
    fn settle(&mut self) {
        self.halves.take();
        if self.rows.is_sparse() {
            self.compact();
        }
    }

    /// Moves the living documents together.
    fn compact(&mut self) {
        let old = self.rows.len();
        let keep = self.rows.compact();
        let mut places = vec![u32::MAX; old];
        for (to, from) in keep.iter().enumerate() {
            places[*from] = to as u32;
        }
        for term in &mut self.terms {
            for posting in &mut term.postings {
                posting.row = places[posting.row as usize];
            }
            term.postings.retain(|posting| posting.row != u32::MAX);
            term.most = term.postings.iter().fold(0.0, |most, posting| most.max(posting.count));
        }
        let spans = keep.iter().map(|row| self.span(*row));
        let words: Vec<&[u32]> = spans.map(|span| &self.words[span]).collect();
        let ends = words.iter().scan(0, |end, words| {
            *end += words.len();
            Some(*end)
        });
        self.ends = ends.collect();
        self.words = words.concat();
        self.lengths = keep.iter().map(|row| self.lengths[*row]).collect();
        self.halves.take();
    }

    /// The metadata of each id that is there.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of the other kind.
    pub fn metadata(&self, ids: &Ids) -> Result<Vec<Option<Map<String, Json>>>> {
        self.rows.metadata(ids)
    }

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
            let found = part.term.postings.binary_search_by_key(&row, |posting| posting.row);
            let count = found.map_or(0.0, |at| f64::from(part.term.postings[at].count));
            part.weight * (scale * count / (count + half) + floor)
        };
        parts.iter().map(gain).sum::<f64>() as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_addition_that_is_cancelled_adds_nothing() {
        let formula = Formula { variant: Variant::Lucene, k1: 1.5, b: 0.75, delta: 0.0 };
        let mut index = Bm25::new(formula, Splitter::default(), String::new()).unwrap();
        let (ids, texts) = (Ids::Numbers(vec![1]), Texts::Plain(vec!["red wine".into()]));
        let ctl = Ctl::new();
        ctl.cancel();
        assert!(matches!(index.add(&ids, &texts, &[], &ctl), Err(Error::Cancelled)));
        assert_eq!((index.len(), index.counts()), (0, (0, 0)));
        index.add(&ids, &texts, &[], &Ctl::new()).unwrap();
        assert_eq!((index.len(), index.counts()), (1, (2, 2)));
    }

    #[test]
    fn documents_are_found_once_they_joined_and_only_beside_those_they_were_made_for() {
        let formula = Formula { variant: Variant::Lucene, k1: 1.5, b: 0.75, delta: 0.0 };
        let mut index = Bm25::new(formula, Splitter::default(), String::new()).unwrap();
        let asked = Texts::Plain(vec!["wine".into()]);
        let found = |index: &Bm25| {
            let query = Query { texts: &asked, k: 3, filter: None, min_score: None };
            index.search(query, &Ctl::new()).unwrap().ids
        };
        let (one, two) = (Ids::Numbers(vec![1]), Ids::Numbers(vec![2]));
        let texts = |text: &str| Texts::Plain(vec![text.into()]);
        let red = index.prepare(&one, &texts("red wine"), &[], &Ctl::new()).unwrap();
        let beer = index.prepare(&two, &texts("beer"), &[], &Ctl::new()).unwrap();
        assert_eq!((found(&index).len(), index.counts()), (0, (0, 0)));
        index.commit(red).unwrap();
        assert_eq!(found(&index), one);
        assert!(matches!(index.commit(beer), Err(Error::Usage(_)))); // its word has the number of another now
        assert_eq!((found(&index), index.counts()), (one, (2, 2)));
    }

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
