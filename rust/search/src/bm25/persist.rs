//! The documents as a file. A record holds documents as words, with their postings, and the ids to delete before they are
//! added. The first is everything, and has the lengths of documents and the largest counts of words too, so that postings may
//! stay in the file; those after it are replayed when the file is opened.

use super::inverted::{Posting, Term, counted};
use super::words::{MOST, Vocabulary};
use super::{Bm25, Formula, Splitter, Variant};
use crate::column::Column;
use crate::file::{self, Extent, Record, Sections};
use crate::rows::record::{Appended, Told};
use memmap2::Mmap;
use polmrs_core::{Ctl, Error, Result};
use serde_json::json;
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// More words than any documents have: their sum is a whole number in f64.
const MOST_WORDS: u64 = 1 << 52;

impl Bm25 {
    /// Writes everything to a file that appears whole, in place of one that is there. Dead documents are dropped first.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Cancelled`].
    pub fn save(&mut self, path: &Path, ctl: &Ctl) -> Result<()> {
        self.tidy();
        let extent = self.write(path, ctl)?;
        self.attach(path, extent);
        Ok(())
    }

    /// Drops dead documents, which a file has not.
    pub fn tidy(&mut self) {
        if self.rows.living() < self.rows.len() {
            self.compact();
        }
    }

    /// Writes everything to a file that appears whole, in place of one that is there.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is not [tidy](Bm25::tidy); [`Error::Io`]; [`Error::Cancelled`].
    pub fn write(&self, path: &Path, ctl: &Ctl) -> Result<Extent> {
        self.rows.check_tidy()?;
        let rows: Vec<usize> = (0..self.rows.len()).collect();
        let mut content = self.rows.content(&rows, None);
        let name =
            Variant::NAMES.iter().find(|(_, variant)| *variant == self.formula.variant).map_or("", |(name, _)| name);
        content.facts.insert("variant".into(), name.into());
        for (name, value) in [("k1", self.formula.k1), ("b", self.formula.b), ("delta", self.formula.delta)] {
            content.facts.insert(name.into(), value.into());
        }
        content.facts.insert("stopwords".into(), json!(self.splitter.stopwords));
        content.facts.insert("note".into(), self.note.as_str().into());
        content.sections.extend(sections(&self.vocabulary, &self.terms, 0, &rows));
        let most = self.terms.iter().filter(|term| !term.postings.is_empty()).map(|term| term.most);
        content.sections.push(("most", Cow::Owned(bytemuck::cast_slice(&most.collect::<Vec<u32>>()).to_vec())));
        content.sections.push(("lengths", Cow::Borrowed(bytemuck::cast_slice(&self.lengths))));
        file::create(path, &content, ctl)
    }

    /// From now on what changes is added to this file, which was [written](Bm25::write) as the index is.
    pub fn attach(&mut self, path: &Path, extent: Extent) {
        self.rows.attach(path, extent);
    }

    /// Adds to the file what has changed since it was saved, opened or brought up to date; how many documents and deletions.
    ///
    /// # Errors
    /// Those of [`append`](Bm25::append).
    pub fn sync(&mut self) -> Result<(usize, usize)> {
        let appended = self.append()?;
        Ok(self.advance(appended))
    }

    /// Adds to the file what it does not know.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no file yet; [`Error::Exists`] if another process has written it; [`Error::Io`].
    pub fn append(&self) -> Result<Appended> {
        self.rows.append(|first, rows| sections(&self.vocabulary, &self.terms, first, rows))
    }

    /// From now on the file knows what was [added](Bm25::append) to it; how many documents and deletions.
    pub fn advance(&mut self, appended: Appended) -> (usize, usize) {
        self.rows.advance(appended)
    }

    /// Whether a file is an index of words, not of vectors.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Checkpoint`] if it is neither.
    pub fn is_at(path: &Path) -> Result<bool> {
        Ok(file::open(path, false)?.records.first().is_some_and(is_of_words))
    }

    /// Opens a file. With `mapped`, postings and lengths stay in it, and are read when they are looked at; their checksum is
    /// compared only if `verify` is set. Words whose documents have changed since are in memory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`], or [`Error::Checkpoint`] that says what is wrong with the file.
    pub fn open(path: &Path, mapped: bool, verify: bool) -> Result<Bm25> {
        let opened = file::open(path, verify || !mapped)?;
        let wrong = |what: &str| Error::Checkpoint(format!("{}: {what}", path.display()));
        let first = opened.records.first().filter(|record| is_of_words(record));
        let first = first.ok_or_else(|| wrong("an index of vectors, not of words; open it with Index"))?;
        let index = base(first, &opened.map, mapped);
        let mut index = index.ok_or_else(|| wrong("its first record is damaged"))?;
        for record in &opened.records[1..] {
            replay(&mut index, record, &opened.map).ok_or_else(|| wrong("a record is damaged"))??;
        }
        if !mapped {
            for term in &mut index.terms {
                term.postings.to_mut();
            }
        }
        index.rows.attach(path, opened.extent);
        Ok(index)
    }
}

/// The words that these rows have, none of which is before `first`, and where.
fn sections(vocabulary: &Vocabulary, terms: &[Term], first: usize, rows: &[usize]) -> Sections<'static> {
    let mut places = vec![u32::MAX; rows.last().map_or(0, |last| last + 1 - first)];
    for (to, from) in rows.iter().enumerate() {
        places[from - first] = to as u32;
    }
    let mut words: Vec<(&str, u32)> = vocabulary.iter().map(|(word, number)| (&**word, *number)).collect();
    words.sort_unstable_by_key(|(_, number)| *number);
    let (mut text, mut word_ends, mut postings, mut ends) = (String::new(), Vec::new(), Vec::new(), Vec::new());
    for (word, number) in words {
        let all = &terms[number as usize].postings;
        let new = &all[all.partition_point(|[row, _]| (*row as usize) < first)..];
        let before = postings.len();
        postings.extend(new.iter().filter_map(|[row, count]| {
            let place = *places.get((*row as usize).checked_sub(first)?).filter(|place| **place != u32::MAX)?;
            Some([place, *count])
        }));
        if postings.len() > before {
            text.push_str(word);
            word_ends.push(text.len() as u64);
            ends.push(postings.len() as u64);
        }
    }
    let bytes = |numbers: &[u64]| Cow::Owned(bytemuck::cast_slice(numbers).to_vec());
    vec![
        ("words", Cow::Owned(text.into_bytes())),
        ("word_ends", bytes(&word_ends)),
        ("postings", Cow::Owned(bytemuck::cast_slice(&postings).to_vec())),
        ("posting_ends", bytes(&ends)),
    ]
}

/// Whether the first record of a file is one of words.
pub(crate) fn is_of_words(record: &Record) -> bool {
    record.facts.contains_key("variant")
}

fn empty(record: &Record) -> Option<Bm25> {
    let facts = &record.facts;
    let variant = facts.get("variant")?.as_str()?;
    let number = |name: &str| facts.get(name)?.as_f64();
    let formula = Formula {
        variant: Variant::NAMES.iter().find(|(name, _)| *name == variant)?.1,
        k1: number("k1")?,
        b: number("b")?,
        delta: number("delta")?,
    };
    let stopwords = facts.get("stopwords")?.as_array()?.iter();
    let stopwords = stopwords.map(|word| Some(word.as_str()?.into())).collect::<Option<_>>()?;
    Bm25::new(formula, Splitter { stopwords }, facts.get("note")?.as_str()?.into()).ok()
}

/// Everything, from the first record; nothing if it does not fit together. Postings are looked at if they will not stay where
/// they are, or if the file is of those that lack what is known by that.
fn base(record: &Record, map: &Arc<Mmap>, mapped: bool) -> Option<Bm25> {
    let mut index = empty(record)?;
    let Told { ids, metadata, .. } = Told::of(record, map)?;
    index.rows.check(&ids, &metadata).ok()?;
    index.rows.push(&ids, &metadata).is_empty().then_some(())?;
    index.bags = None;
    let numbers = |name: &str| Column::<u64>::map(map, record.section(name)?);
    let text = std::str::from_utf8(&map[record.section("words")?]).ok()?;
    let (word_ends, ends) = (numbers("word_ends")?, numbers("posting_ends")?);
    (word_ends.len() == ends.len()).then_some(())?;
    let (mut rest, mut at, mut start) = (record.section("postings")?, 0, 0);
    for (word_end, end) in word_ends.iter().zip(ends.iter()) {
        let (word_end, end) = (usize::try_from(*word_end).ok()?, usize::try_from(*end).ok()?);
        let number = index.vocabulary.len() as u32;
        index.vocabulary.insert(text.get(at..word_end)?.into(), number).is_none().then_some(())?;
        let postings: Column<Posting> = Column::take(map, &mut rest, end.checked_sub(start)?)?;
        (1..=ids.len()).contains(&postings.len()).then_some(())?;
        let living = postings.len() as u32; // no more than rows, of which `check` saw that they fit
        index.terms.push(Term { postings, living, most: 0 });
        (at, start) = (word_end, end);
    }
    index.lengths = match record.section("lengths").zip(record.section("most")).filter(|_| mapped) {
        Some((lengths, most)) => {
            let most = Column::<u32>::map(map, most)?;
            (most.len() == index.terms.len() && most.iter().all(|most| *most > 0)).then_some(())?;
            index.terms.iter_mut().zip(most.iter()).for_each(|(term, most)| term.most = *most);
            Column::map(map, lengths)?
        }
        None => Column::Owned(counted(&mut index.terms, ids.len())?),
    };
    (index.lengths.len() == ids.len()).then_some(())?;
    let total = index.lengths.iter().try_fold(0u64, |sum, length| sum.checked_add(*length));
    index.total = total.filter(|total| *total <= MOST_WORDS)?;
    Some(index)
}

/// Deletes and adds what a record says; nothing if it does not fit together.
fn replay(index: &mut Bm25, record: &Record, map: &Mmap) -> Option<Result<()>> {
    let section = |name: &str| record.section(name).map(|range| &map[range]);
    let Told { deleted, ids, metadata } = Told::of(record, map)?;
    let text = std::str::from_utf8(section("words")?).ok()?;
    let word_ends: &[u64] = bytemuck::try_cast_slice(section("word_ends")?).ok()?;
    let postings: &[[u32; 2]] = bytemuck::try_cast_slice(section("postings")?).ok()?;
    let ends: &[u64] = bytemuck::try_cast_slice(section("posting_ends")?)
        .ok()
        .filter(|ends: &&[u64]| ends.len() == word_ends.len())?;
    let mut bags = vec![Vec::new(); ids.len()];
    let mut seen = HashSet::new();
    let (mut at, mut start) = (0, 0);
    for (word_end, end) in word_ends.iter().zip(ends) {
        let (word_end, end) = (usize::try_from(*word_end).ok()?, usize::try_from(*end).ok()?);
        let next = index.vocabulary.len() as u32;
        let number = *index.vocabulary.entry(text.get(at..word_end)?.into()).or_insert(next);
        if !seen.insert(number) {
            return None;
        }
        let mut before = None;
        for [row, count] in postings.get(start..end)? {
            if before.is_some_and(|before| before >= *row) || !(1..=MOST).contains(count) {
                return None;
            }
            before = Some(*row);
            bags.get_mut(*row as usize)?.push((number, *count));
        }
        (at, start) = (word_end, end);
    }
    let deleted = deleted.map_or(Ok(0), |ids| index.delete(&ids));
    Some(deleted.and_then(|_| index.rows.check(&ids, &metadata)).map(|()| index.push(&ids, &bags, &metadata)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bm25::{Query, Texts};
    use crate::file::Content;
    use crate::ids::Ids;
    use proptest::prelude::*;
    use serde_json::Value as Json;

    proptest! {
        #[test]
        fn a_sealed_file_of_any_content_is_an_index_or_an_error(
            ids in proptest::collection::vec(-3i64..9, 0..6),
            text in "[a-cä]{0,8}",
            word_ends in proptest::collection::vec(0u64..10, 0..5),
            postings in proptest::collection::vec((0u32..6, prop_oneof![Just(0u32), 1u32..4, Just(u32::MAX)]), 0..8),
            ends in proptest::collection::vec(0u64..10, 0..5),
            most in proptest::collection::vec(0u32..4, 0..5),
            lengths in proptest::collection::vec(prop_oneof![0u64..9, Just(u64::MAX)], 0..6),
            mapped in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("index");
            let facts = json!({"variant": "bm25l", "k1": 1.5, "b": 0.75, "delta": 0.5, "stopwords": ["the"], "note": "",
                "rows": ids.len()});
            let Json::Object(facts) = facts else { unreachable!() };
            let postings: Vec<[u32; 2]> = postings.into_iter().map(|(row, count)| [row, count]).collect();
            let sections: [(&'static str, &[u8]); 8] = [
                ("ids", bytemuck::cast_slice(&ids)),
                ("metadata", b"[]"),
                ("words", text.as_bytes()),
                ("word_ends", bytemuck::cast_slice(&word_ends)),
                ("postings", bytemuck::cast_slice(&postings)),
                ("posting_ends", bytemuck::cast_slice(&ends)),
                ("most", bytemuck::cast_slice(&most)),
                ("lengths", bytemuck::cast_slice(&lengths)),
            ];
            let sections = sections.map(|(name, bytes)| (name, Cow::Borrowed(bytes))).to_vec();
            file::create(&path, &Content { facts, sections }, &Ctl::new()).unwrap();
            if let Ok(mut index) = Bm25::open(&path, mapped, true) {
                let texts = Texts::Split(vec![vec!["a".into(), "b".into(), text.clone()]]);
                let query = Query { texts: &texts, k: 3, filter: None, min_score: None };
                let hits = index.search(query, &Ctl::new()).unwrap();
                if mapped {
                    // Nobody has looked at the postings, so this is all that is asked of them.
                    index.add(&Ids::Numbers(vec![1, 7]), &Texts::Plain(vec!["ab a".into(); 2]), &[], &Ctl::new()).unwrap();
                    index.delete(&Ids::Numbers((-3..5).collect())).unwrap();
                    index.search(query, &Ctl::new()).unwrap();
                    index.save(&path, &Ctl::new()).unwrap();
                    return Ok(());
                }
                prop_assert!(hits.scores.iter().all(|score| score.is_finite()));
                index.save(&path, &Ctl::new()).unwrap();
                for mapped in [false, true] {
                    let opened = Bm25::open(&path, mapped, false).unwrap();
                    prop_assert_eq!(opened.search(query, &Ctl::new()).unwrap(), hits.clone());
                }
            }
        }
    }
}
