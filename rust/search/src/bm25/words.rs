//! Texts as words: runs of two letters, digits or underscores or more, in lower case, without the words to leave out.

use polmrs_core::{Ctl, Result};
use std::collections::{BTreeSet, HashMap};

/// Which words of a text count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splitter {
    /// Words that do not, in lower case.
    pub stopwords: BTreeSet<Box<str>>,
}

/// Documents or queries.
#[derive(Clone, Debug)]
pub enum Texts {
    /// As they are written.
    Plain(Vec<String>),
    /// As words, which are taken as they are.
    Split(Vec<Vec<String>>),
}

/// The numbers of words.
pub(super) type Vocabulary = HashMap<Box<str>, u32>;

/// The words of a document, by number, and how often each is there.
pub(super) type Bag = Vec<(u32, u32)>;

/// The largest count: those beyond are no whole numbers in f32.
pub(super) const MOST: u32 = 1 << 24;

impl Splitter {
    /// Calls `each` for every word of a text.
    pub fn split(&self, text: &str, mut each: impl FnMut(&str)) {
        let lower = text.to_lowercase();
        for word in lower.split(|c: char| !c.is_alphanumeric() && c != '_') {
            if word.chars().nth(1).is_some() && !self.stopwords.contains(word) {
                each(word);
            }
        }
    }
}

impl Texts {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Texts::Plain(all) => all.len(),
            Texts::Split(all) => all.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` for every word of one text.
    fn each(&self, one: usize, splitter: &Splitter, mut each: impl FnMut(&str)) {
        match self {
            Texts::Plain(all) => splitter.split(&all[one], each),
            Texts::Split(all) => all[one].iter().for_each(|word| each(word)),
        }
    }

    /// The words of every text, by number, and their counts; and the words that are not known, with the numbers that follow.
    pub(super) fn bags(&self, splitter: &Splitter, known: &Vocabulary, ctl: &Ctl) -> Result<(Vec<Bag>, Vocabulary)> {
        let mut new = Vocabulary::new();
        let bag = |one| {
            ctl.check()?;
            let mut numbers = Vec::new();
            self.each(one, splitter, |word| {
                let next = (known.len() + new.len()) as u32; // there are fewer words than bytes of memory
                numbers.push(match known.get(word).or_else(|| new.get(word)) {
                    Some(number) => *number,
                    None => *new.entry(word.into()).or_insert(next),
                });
            });
            numbers.sort_unstable();
            let counted = numbers.chunk_by(|a, b| a == b);
            Ok(counted.map(|same| (same[0], same.len().min(MOST as usize) as u32)).collect())
        };
        let bags: Result<Vec<Bag>> = (0..self.len()).map(bag).collect();
        Ok((bags?, new))
    }

    /// The known words of one query in their order, each once, and how often they are there.
    pub(super) fn asked(&self, one: usize, splitter: &Splitter, vocabulary: &Vocabulary) -> Vec<(u32, f64)> {
        let mut found = Vec::new();
        self.each(one, splitter, |word| found.extend(vocabulary.get(word).map(|number| (*number, found.len()))));
        found.sort_unstable();
        let mut words: Vec<_> = found.chunk_by(|a, b| a.0 == b.0).map(|same| (same[0], same.len())).collect();
        words.sort_unstable_by_key(|((_, place), _)| *place);
        words.into_iter().map(|((number, _), times)| (number, times as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_two_letters_or_more_and_no_capitals() {
        let splitter = Splitter { stopwords: BTreeSet::from(["the".into()]) };
        let mut found = Vec::new();
        splitter.split("The a __init__ of It's ÄRGER, x1 and हिन्दी!", |word| found.push(word.to_owned()));
        assert_eq!(found, ["__init__", "of", "it", "ärger", "x1", "and", "हिन", "दी"]);
    }

    #[test]
    fn a_query_keeps_its_order_and_counts_its_words() {
        let vocabulary = HashMap::from([("aa".into(), 7), ("bb".into(), 3)]);
        let texts = Texts::Plain(vec!["bb zz aa bb".into()]);
        assert_eq!(texts.asked(0, &Splitter::default(), &vocabulary), [(3, 2.0), (7, 1.0)]);
    }
}
