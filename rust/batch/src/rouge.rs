//! ROUGE-L (Lin, 2004), equal to the last digit to the package `rouge-score`.
//!
//! Tokens are runs of `a-z0-9` of the lower-case text, those of more than three letters stemmed if asked. With the
//! longest common subsequence `c` of `a` and `b` tokens: `P = c / a`, `R = c / b`, `F = 2 P R / (P + R)`, in `f64` and in
//! that order. The subsequence is found by bits (Hyyro, 2004): one addition for 64 tokens against one.

use crate::porter::stem;
use std::collections::HashMap;

/// Cuts a text as `rouge-score` does.
pub fn tokens(text: &str, stemmed: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut token = String::new();
    let mut end = |token: &mut String| {
        if token.is_empty() {
            return;
        }
        let whole = std::mem::take(token);
        found.push(if stemmed && whole.len() > 3 { stem(&whole) } else { whole });
    };
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            token.push(c);
        } else {
            end(&mut token);
        }
    }
    end(&mut token);
    found
}

/// Numbers for tokens, by first appearance.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    numbers: HashMap<String, u32>,
}

impl Vocabulary {
    /// A text's tokens as numbers.
    pub fn number(&mut self, text: &str, stemmed: bool) -> Vec<u32> {
        let tokens = tokens(text, stemmed).into_iter();
        let known = &mut self.numbers;
        tokens
            .map(|token| {
                let next = known.len() as u32;
                *known.entry(token).or_insert(next)
            })
            .collect()
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

/// Precision, recall and F-measure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// `c` over the tokens of the prediction.
    pub precision: f64,
    /// `c` over the tokens of the reference.
    pub recall: f64,
    /// Their harmonic mean; 0 where both are.
    pub fmeasure: f64,
}

impl Score {
    /// The score of texts of these lengths with a common subsequence of `common`.
    #[inline]
    pub fn new(common: usize, prediction: usize, reference: usize) -> Score {
        if prediction == 0 || reference == 0 {
            return Score::default();
        }
        let (precision, recall) = (common as f64 / prediction as f64, common as f64 / reference as f64);
        let sum = precision + recall;
        let fmeasure = if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 };
        Score { precision, recall, fmeasure }
    }
}

const ABSENT: u32 = u32::MAX;

/// A text that others are compared with: for each token, the bits of the places where it stands.
#[derive(Debug)]
pub struct Pattern {
    slot_of: Vec<u32>, // of each token of the vocabulary
    tokens: Vec<u32>,
    masks: Vec<u64>,
    row: Vec<u64>,
}

impl Pattern {
    /// An empty pattern over a vocabulary of this size.
    pub fn new(vocabulary: usize) -> Pattern {
        Pattern { slot_of: vec![ABSENT; vocabulary], tokens: Vec::new(), masks: Vec::new(), row: Vec::new() }
    }

    /// Becomes the pattern of another text.
    pub fn set(&mut self, text: &[u32]) {
        for token in self.tokens.drain(..) {
            self.slot_of[token as usize] = ABSENT;
        }
        let words = text.len().div_ceil(64);
        self.masks.clear();
        self.row.resize(words, 0);
        for (at, token) in text.iter().enumerate() {
            let slot = &mut self.slot_of[*token as usize];
            if *slot == ABSENT {
                *slot = (self.masks.len() / words) as u32;
                self.masks.resize(self.masks.len() + words, 0);
            }
            self.masks[*slot as usize * words + at / 64] |= 1 << (at % 64);
            self.tokens.push(*token);
        }
    }

    /// How many tokens the pattern has.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The length of the longest common subsequence with another text of the vocabulary.
    ///
    /// A bit of the row is 0 where the subsequence grows by one: `row = (row + (row & m)) | (row & !m)`.
    pub fn common(&mut self, text: &[u32]) -> usize {
        let words = self.row.len();
        if words == 1 {
            let mut row = !0u64;
            for token in text {
                let slot = self.slot_of[*token as usize];
                if slot != ABSENT {
                    let mask = self.masks[slot as usize];
                    row = row.wrapping_add(row & mask) | (row & !mask);
                }
            }
            return (!row).count_ones() as usize;
        }
        self.row.fill(!0);
        for token in text {
            let slot = self.slot_of[*token as usize];
            if slot == ABSENT {
                continue;
            }
            let mut carry = false;
            let masks = &self.masks[slot as usize * words..][..words];
            for (row, mask) in self.row.iter_mut().zip(masks) {
                let (sum, one) = row.overflowing_add(*row & mask);
                let (sum, two) = sum.overflowing_add(u64::from(carry));
                carry = one || two;
                *row = sum | (*row & !mask);
            }
        }
        self.row.iter().map(|row| (!row).count_ones() as usize).sum()
    }

    /// The score of the pattern as the prediction and a text as the reference.
    pub fn score(&mut self, reference: &[u32]) -> Score {
        Score::new(self.common(reference), self.len(), reference.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(a: &[u32], b: &[u32]) -> usize {
        let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 0..a.len() {
            for j in 0..b.len() {
                table[i + 1][j + 1] = if a[i] == b[j] { table[i][j] + 1 } else { table[i][j + 1].max(table[i + 1][j]) };
            }
        }
        table[a.len()][b.len()]
    }

    proptest! {
        #[test]
        fn bits_find_what_the_table_finds(
            a in prop::collection::vec(0u32..12, 0..200), b in prop::collection::vec(0u32..12, 0..200)
        ) {
            let mut pattern = Pattern::new(12);
            pattern.set(&b); // what was set before leaves nothing behind
            pattern.set(&a);
            prop_assert_eq!(pattern.common(&b), slow(&a, &b));
        }
    }

    #[test]
    fn a_text_is_cut_as_rouge_score_cuts_it() {
        assert_eq!(
            tokens("The cat's 3 RUNNING_dogs \u{212A}", false),
            ["the", "cat", "s", "3", "running", "dogs", "k"]
        );
        assert_eq!(tokens("running dogs run", true), ["run", "dog", "run"]);
        assert!(tokens(" -- ", true).is_empty());
    }
}
