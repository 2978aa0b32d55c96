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
mod inverted;
mod persist;
mod scan;
mod search;
mod words;

pub use formula::{Formula, Variant};
pub(crate) use persist::is_of_words;
pub use search::Query;
pub use words::{Splitter, Texts};

use crate::column::Column;
use crate::filter::Filter;
use crate::ids::Ids;
use crate::rows::Rows;
use inverted::{Bags, Term};
use polmrs_core::{Ctl, Error, Result};
use serde_json::{Map, Value as Json};
use std::sync::OnceLock;
use words::{Bag, Vocabulary};

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
    /// What a document is taken out of the statistics by; of an opened file, made when that is first done.
    bags: Option<Bags>,
    /// Of all documents, dead ones too, in words.
    lengths: Column<u64>,
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
            bags: Some(Bags::default()),
            lengths: Column::default(),
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

    /// Bytes in memory of postings and of the words of each document.
    pub fn bytes(&self) -> usize {
        let postings: usize = self.terms.iter().map(|term| term.postings.bytes()).sum();
        postings + self.bags.as_ref().map_or(0, Bags::bytes)
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
            for (word, count) in bag {
                self.terms[*word as usize].push(row as u32, *count); // `check` saw that rows fit
            }
            if let Some(bags) = &mut self.bags {
                bags.push(bag);
            }
            let length = bag.iter().map(|(_, count)| u64::from(*count)).sum();
            self.lengths.to_mut().push(length);
            self.total += length;
        }
        let replaced = self.rows.push(ids, metadata);
        self.uncount(&replaced);
        self.settle();
    }

    /// Takes documents out of the statistics.
    fn uncount(&mut self, rows: &[u32]) {
        if rows.is_empty() {
            return;
        }
        let bags = self.bags.get_or_insert_with(|| Bags::turned(&self.terms, self.rows.len()));
        for row in rows {
            for word in bags.words(*row as usize) {
                let living = &mut self.terms[*word as usize].living;
                *living = living.saturating_sub(1); // a damaged file may have a word twice
            }
            self.total -= self.lengths[*row as usize];
        }
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
        self.uncount(rows);
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
            term.keep(&places);
        }
        if let Some(bags) = &mut self.bags {
            bags.keep(&keep);
        }
        self.lengths.keep(1, &keep);
        self.halves.take();
    }

    /// The metadata of each id that is there.
    ///
    /// # Errors
    /// [`Error::Usage`] for ids of the other kind.
    pub fn metadata(&self, ids: &Ids) -> Result<Vec<Option<Map<String, Json>>>> {
        self.rows.metadata(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
