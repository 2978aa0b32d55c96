//! The inverted index: the documents of every word; and the words of every document, by which it is taken out again.

use super::words::MOST;
use crate::column::Column;

/// The row of a document that has a word, and how often it has it. A file holds them so.
pub(super) type Posting = [u32; 2];

/// The documents that have a word, dead ones too, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Term {
    pub(super) postings: Column<Posting>,
    /// How many of them live.
    pub(super) living: u32,
    /// The largest count.
    pub(super) most: u32,
}

impl Term {
    /// Adds a document that comes after all others.
    pub(super) fn push(&mut self, row: u32, count: u32) {
        self.postings.to_mut().push([row, count]);
        self.living += 1;
        self.most = self.most.max(count);
    }

    /// Moves documents to their new places; those that have none go.
    pub(super) fn keep(&mut self, places: &[u32]) {
        let postings = self.postings.to_mut();
        for [row, _] in postings.iter_mut() {
            *row = places.get(*row as usize).copied().unwrap_or(u32::MAX);
        }
        postings.retain(|[row, _]| *row != u32::MAX);
        self.most = postings.iter().map(|[_, count]| *count).max().unwrap_or(0);
    }
}

/// Sets the largest count of each word; the lengths of so many documents. Nothing if documents are not in order or counts out
/// of range.
pub(super) fn counted(terms: &mut [Term], rows: usize) -> Option<Vec<u64>> {
    let mut lengths = vec![0; rows];
    for Term { postings, most, .. } in terms {
        let mut before = None;
        for [row, count] in postings.iter() {
            (before < Some(*row) && (1..=MOST).contains(count)).then_some(())?;
            *lengths.get_mut(*row as usize)? += u64::from(*count);
            before = Some(*row);
            *most = (*most).max(*count);
        }
    }
    Some(lengths)
}

/// The words of every document, dead ones too, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Bags {
    words: Vec<u32>,
    ends: Vec<usize>,
}

impl Bags {
    /// Those of so many documents, from the documents of every word.
    pub(super) fn turned(terms: &[Term], rows: usize) -> Bags {
        let mut ends = vec![0; rows];
        for [row, _] in terms.iter().flat_map(|term| term.postings.iter()) {
            if let Some(count) = ends.get_mut(*row as usize) {
                *count += 1;
            }
        }
        let mut all = 0;
        for end in &mut ends {
            all += std::mem::replace(end, all); // where the document begins
        }
        let mut words = vec![0; all];
        for (word, term) in (0..).zip(terms) {
            for [row, _] in term.postings.iter() {
                if let Some(end) = ends.get_mut(*row as usize) {
                    words[*end] = word;
                    *end += 1;
                }
            }
        }
        Bags { words, ends }
    }

    /// Adds a document.
    pub(super) fn push(&mut self, bag: &[(u32, u32)]) {
        self.words.extend(bag.iter().map(|(word, _)| word));
        self.ends.push(self.words.len());
    }

    /// The words of a document.
    pub(super) fn words(&self, row: usize) -> &[u32] {
        &self.words[row.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[row]]
    }

    /// Keeps the documents of this list, in its order, which is increasing.
    pub(super) fn keep(&mut self, rows: &[usize]) {
        let mut kept = Bags::default();
        for row in rows {
            kept.words.extend_from_slice(self.words(*row));
            kept.ends.push(kept.words.len());
        }
        *self = kept;
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.words.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::Bag;
    use super::*;

    #[test]
    fn words_by_document_are_documents_by_word_turned_round() {
        let bags: [Bag; 4] = [vec![(0, 2), (2, 1)], vec![], vec![(1, 7)], vec![(0, 1), (1, 1), (2, 9)]];
        let (mut terms, mut wanted) = (vec![Term::default(); 3], Bags::default());
        for (row, bag) in (0..).zip(&bags) {
            wanted.push(bag);
            bag.iter().for_each(|(word, count)| terms[*word as usize].push(row, *count));
        }
        let turned = Bags::turned(&terms, 4);
        assert_eq!((&turned.words, &turned.ends), (&wanted.words, &wanted.ends));
        assert_eq!(turned.words(3), [0, 1, 2]);
        let mut again: Vec<Term> = terms.iter().map(|term| Term { most: 0, ..term.clone() }).collect();
        assert_eq!(counted(&mut again, 4), Some(vec![3, 0, 7, 11]));
        assert_eq!(again.iter().map(|term| term.most).collect::<Vec<u32>>(), [2, 7, 9]);
        assert_eq!(counted(&mut again, 3), None);
    }
}
