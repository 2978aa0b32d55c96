//! A ragged batch: flat values, cut into sequences by `cu_seqlens`. Everything is checked here, once; kernels trust it.

use crate::{Error, Result};
use std::fmt::Display;
use std::ops::Range;

/// An element type of `cu_seqlens`.
pub trait Offset: Copy + Display + PartialOrd {
    /// The offset as an index, unless it is negative.
    fn index(self) -> Option<usize>;
}

impl Offset for i32 {
    fn index(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

impl Offset for i64 {
    fn index(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

/// The sequences of a flat array: sequence `i` is `bounds[i] .. bounds[i + 1]`, and may be empty.
#[derive(Clone, Debug)]
pub struct Ragged {
    bounds: Vec<usize>,
}

impl Ragged {
    /// Checks `cu_seqlens`: it starts with 0, never decreases, and ends with `total`, the length of the array `of`.
    pub fn new<O: Offset>(cu_seqlens: &[O], total: usize, of: &str) -> Result<Ragged> {
        let refuse = |rule: String| Err(Error::Array(format!("cu_seqlens{rule}")));
        let (Some(first), Some(last)) = (cu_seqlens.first(), cu_seqlens.last()) else {
            return refuse(format!(": empty; it starts with 0 and ends with {total}, the length of {of}"));
        };
        if first.index() != Some(0) {
            return refuse(format!("[0]: {first} is not 0"));
        }
        let mut bounds = Vec::with_capacity(cu_seqlens.len());
        let mut previous = 0;
        for (at, offset) in cu_seqlens.iter().enumerate() {
            match offset.index() {
                Some(index) if index >= previous => previous = index,
                _ => {
                    return refuse(format!(
                        "[{at}]: {offset} is less than {previous} before it; offsets never decrease"
                    ));
                }
            }
            bounds.push(previous);
        }
        if previous != total {
            return refuse(format!("[{}]: {last} is not {total}, the length of {of}", cu_seqlens.len() - 1));
        }
        Ok(Ragged { bounds })
    }

    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.bounds.len() - 1
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.bounds[self.sequences()]
    }

    /// Where the tokens of a sequence lie.
    pub fn range(&self, sequence: usize) -> Range<usize> {
        self.bounds[sequence]..self.bounds[sequence + 1]
    }

    /// Where the tokens of neighbouring sequences lie.
    pub fn span(&self, sequences: &Range<usize>) -> Range<usize> {
        self.bounds[sequences.start]..self.bounds[sequences.end]
    }

    /// Cuts the sequences into `parts` runs of about as many tokens each.
    pub fn cut(&self, parts: usize) -> Vec<Range<usize>> {
        let mut start = 0;
        let mut runs = Vec::with_capacity(parts);
        for part in 1..=parts {
            let goal = (self.tokens() as u128 * part as u128 / parts as u128) as usize;
            let end = if part == parts { self.sequences() } else { self.bounds.partition_point(|b| *b < goal) };
            let end = end.clamp(start, self.sequences());
            runs.push(start..end);
            start = end;
        }
        runs
    }
}

/// Refuses an array that is not as long as the one it goes with.
pub fn same_length(name: &str, length: usize, of: &str, wanted: usize) -> Result<()> {
    if length == wanted {
        return Ok(());
    }
    Err(Error::Array(format!("{name}: {length} elements, but {of} has {wanted}")))
}

/// Refuses an array without one element for each token.
pub fn all_tokens(name: &str, length: usize, ragged: &Ragged) -> Result<()> {
    let tokens = ragged.tokens();
    if length == tokens {
        return Ok(());
    }
    Err(Error::Array(format!("{name}: {length} elements, but cu_seqlens has {tokens} tokens")))
}

/// Refuses an array without one element for each sequence.
pub fn one_each(name: &str, length: usize, ragged: &Ragged) -> Result<()> {
    let sequences = ragged.sequences();
    if length == sequences {
        return Ok(());
    }
    Err(Error::Array(format!("{name}: {length} elements, but cu_seqlens has {sequences} sequences")))
}

/// Refuses a number outside `low ..= high`.
pub fn within(name: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let rule = match (low.is_finite(), high.is_finite()) {
        (_, true) => format!("in [{low}, {high}]"),
        (true, false) => format!("a finite number, {low} or more"),
        (false, false) => "a number".into(),
    };
    Err(Error::Usage(format!("{name}: {value} is not {rule}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(cu_seqlens: &[i64], total: usize) -> String {
        Ragged::new(cu_seqlens, total, "rewards").unwrap_err().to_string()
    }

    #[test]
    fn offsets_that_break_a_rule_are_named() {
        assert_eq!(refused(&[], 3), "cu_seqlens: empty; it starts with 0 and ends with 3, the length of rewards");
        assert_eq!(refused(&[1, 3], 3), "cu_seqlens[0]: 1 is not 0");
        assert_eq!(refused(&[0, -2, 3], 3), "cu_seqlens[1]: -2 is less than 0 before it; offsets never decrease");
        assert_eq!(refused(&[0, 2, 1, 3], 3), "cu_seqlens[2]: 1 is less than 2 before it; offsets never decrease");
        assert_eq!(refused(&[0, 2, 4], 3), "cu_seqlens[2]: 4 is not 3, the length of rewards");
    }

    #[test]
    fn a_cut_covers_every_sequence_once_and_is_even() {
        let bounds: Vec<i32> = (0..=100).map(|i| i * 7).collect();
        let ragged = Ragged::new(&bounds, 700, "x").unwrap();
        for parts in [1, 2, 3, 7, 100, 300] {
            let runs = ragged.cut(parts);
            assert_eq!(runs.len(), parts);
            assert_eq!((runs[0].start, runs[parts - 1].end), (0, 100));
            assert!(runs.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(runs.iter().all(|run| ragged.span(run).len() <= 700 / parts + 7));
        }
    }
}
