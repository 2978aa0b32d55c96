//! Batches of about equal lengths under a token budget.
//!
//! Sequences are shuffled, cut into windows, sorted by length inside each window and taken in order until the next one
//! would pass the budget; then the batches are shuffled. A budget counts what the model will see: `rows x longest` when
//! it pads, the sum of the lengths when it does not.

use crate::pack::{Grouping, TooLong, checked};
use crate::permute::permutation;
use polmrs_core::{Error, Result};

/// How batches are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// The most tokens of a batch.
    pub max_tokens: usize,
    /// Whether padding counts.
    pub padded: bool,
    /// How many shuffled sequences are sorted together; 0 for all.
    pub window: usize,
    /// What becomes of a sequence longer than the budget.
    pub too_long: TooLong,
    /// The order of everything; nothing is shuffled without one.
    pub seed: Option<u64>,
}

impl Buckets {
    /// The batches of sequences of these lengths.
    ///
    /// # Errors
    /// [`Error::Usage`] for a budget of 0; [`Error::Array`] for a length that is negative or, under
    /// [`TooLong::Refuse`], more than the budget.
    pub fn run(&self, lengths: &[i64]) -> Result<Grouping> {
        checked("lengths", lengths)?;
        if self.max_tokens == 0 {
            return Err(Error::Usage("max_tokens: 0 is not 1 or more".into()));
        }
        let budget = i64::try_from(self.max_tokens).unwrap_or(i64::MAX);
        if let (TooLong::Refuse, Some(at)) = (self.too_long, lengths.iter().position(|length| *length > budget)) {
            let length = lengths[at];
            return Err(Error::Array(format!(
                "lengths[{at}]: {length} is more than max_tokens, {budget}; cut it, or pass too_long='drop'"
            )));
        }
        let mut order: Vec<u32> = match self.seed {
            Some(seed) => permutation(lengths.len(), seed, "sequences"),
            None => (0..lengths.len() as u32).collect(),
        };
        order.retain(|i| lengths[*i as usize] <= budget);
        let window = if self.window == 0 { order.len().max(1) } else { self.window };
        let (mut made, mut batch_of) = (0, Vec::with_capacity(order.len()));
        for part in order.chunks_mut(window) {
            part.sort_by_key(|i| lengths[*i as usize]); // stable: equal lengths stay shuffled
            let (mut rows, mut tokens) = (0, 0);
            for sequence in part {
                let length = lengths[*sequence as usize];
                let with = if self.padded { (rows + 1) * length } else { tokens + length };
                if rows == 0 || with > budget {
                    (rows, tokens) = (0, 0);
                    made += 1;
                }
                rows += 1;
                tokens += length;
                batch_of.push(made as u32 - 1);
            }
        }
        let mut batches = Grouping::of(&order, &batch_of, made);
        batches.dropped = (0..lengths.len() as i64).filter(|i| lengths[*i as usize] > budget).collect();
        Ok(match self.seed {
            Some(seed) => batches.shuffled(seed, "batches"),
            None => batches,
        })
    }
}
