//! Rows of a token store as one ragged batch.
//!
//! An example is a prompt (a row, or none) and its completions (rows): two for a preference pair, K for a ranked list, one
//! for prompt and completion, G for rollouts. A sequence is the prompt and one completion, joined. A token is a target
//! if it belongs to a completion, the source's mask keeps it, and there is a token before it to predict it from.
//!
//! What is too long is cut by a rule that the caller names, and every cut is counted. All sequences of an example lose
//! the same tokens of their prompt, so that they still share it.

use crate::stream;
use polmrs_core::ragged::Ragged;
use polmrs_core::{Error, Result, pool};
use rayon::prelude::*;
use std::ops::Range;

/// What becomes of a sequence longer than `max_length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// An error that names the first.
    Refuse,
    /// Its example is left out, and listed.
    Drop,
    /// The prompt loses its beginning; at least one token of it stays.
    PromptStart,
    /// The prompt loses its end; at least one token of it stays.
    PromptEnd,
    /// The completion loses its end; at least one token of it stays.
    CompletionEnd,
}

/// The examples of a batch, as rows of a source.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    /// The prompt of each example; -1 for none.
    pub prompts: &'a [i64],
    /// The completions, example by example.
    pub completions: &'a [i64],
    /// Which completions belong to which example.
    pub members: &'a Ragged,
}

/// One batch, laid out.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    parts: Vec<(Range<usize>, Range<usize>)>,
    /// Where sequences begin, and the end.
    pub cu_seqlens: Vec<i32>,
    /// The example of each sequence.
    pub example: Vec<i64>,
    /// The place of each sequence in its example, from 0.
    pub place: Vec<i32>,
    /// How many tokens each sequence lost.
    pub cut: Vec<i32>,
    /// Examples left out.
    pub dropped: Vec<i64>,
}

impl Plan {
    /// Lays out a batch.
    ///
    /// # Errors
    /// [`Error::Array`] for a row that the source lacks, a sequence that is too long and cannot be cut by the rule, or
    /// a batch of 2^31 tokens or more.
    pub fn new(source: &Ragged, examples: Examples<'_>, max_length: Option<usize>, rule: TooLong) -> Result<Plan> {
        let mut plan = Plan { cu_seqlens: vec![0], ..Plan::default() };
        let row = |name: &str, at: usize, row: i64| match usize::try_from(row) {
            Ok(row) if row < source.sequences() => Ok(source.range(row)),
            _ => {
                let rows = source.sequences();
                Err(Error::Array(format!("{name}[{at}]: {row} is no row of the source, which has {rows}")))
            }
        };
        let mut total = 0;
        let mut completions = Vec::new();
        for (example, given) in examples.prompts.iter().enumerate() {
            let mut prompt = if *given == -1 { 0..0 } else { row("prompts", example, *given)? };
            completions.clear();
            for at in examples.members.range(example) {
                completions.push(row("completions", at, examples.completions[at])?);
            }
            let longest = completions.iter().map(Range::len).max().unwrap_or(0);
            let over = max_length.map_or(0, |most| (prompt.len() + longest).saturating_sub(most));
            let mut kept = usize::MAX;
            if over > 0 {
                let most = max_length.unwrap_or(0);
                let (has, room) = match rule {
                    TooLong::Drop => {
                        plan.dropped.push(example as i64);
                        continue;
                    }
                    TooLong::Refuse => (0, 0),
                    TooLong::PromptStart | TooLong::PromptEnd => (prompt.len(), over),
                    TooLong::CompletionEnd => (longest, over),
                };
                if has <= room {
                    let (long, prompt) = (longest, prompt.len());
                    let rule = match rule {
                        TooLong::PromptStart | TooLong::PromptEnd => "no token of the prompt would be left",
                        TooLong::CompletionEnd => "no token of the completion would be left",
                        _ => "cut it, drop it, or name a rule with too_long=",
                    };
                    return Err(Error::Array(format!(
                        "example {example}: a prompt of {prompt} and a completion of {long} tokens are more than \
                         max_length, {most}; {rule}"
                    )));
                }
                match rule {
                    TooLong::PromptStart => prompt.start += over,
                    TooLong::PromptEnd => prompt.end -= over,
                    _ => kept = longest - over,
                }
            }
            let lost = if kept == usize::MAX { over } else { 0 };
            for (place, completion) in completions.iter().enumerate() {
                let end = completion.start + completion.len().min(kept);
                total += prompt.len() + end - completion.start;
                plan.cu_seqlens.push(i32::try_from(total).map_err(|_| {
                    Error::Array(format!("example {example}: with it, the batch has more than 2^31 - 1 tokens"))
                })?);
                plan.example.push(example as i64);
                plan.place.push(place as i32);
                plan.cut.push((lost + completion.end - end) as i32);
                plan.parts.push((prompt.clone(), completion.start..end));
            }
        }
        Ok(plan)
    }

    /// Tokens of the batch.
    pub fn tokens(&self) -> usize {
        self.cu_seqlens[self.parts.len()] as usize
    }

    /// Writes the tokens and the targets. `ids` and `mask` are those of the source; both outputs have [`Plan::tokens`]
    /// elements.
    pub fn fill(&self, ids: &[i32], mask: Option<&[u8]>, out: &mut [i32], target: &mut [u8]) -> Result<()> {
        let threads = if self.tokens() < ALONE { 1 } else { pool::shared()?.current_num_threads() };
        if threads == 1 {
            self.fill_run(0..self.parts.len(), ids, mask, out, target);
            return Ok(());
        }
        let mut runs = Vec::new();
        let (mut out, mut target) = (out, target);
        for run in Ragged::new(&self.cu_seqlens, self.tokens(), "the batch")?.cut(threads * 4) {
            let tokens = (self.cu_seqlens[run.end] - self.cu_seqlens[run.start]) as usize;
            let (here, rest) = out.split_at_mut(tokens);
            let (here_target, rest_target) = target.split_at_mut(tokens);
            (out, target) = (rest, rest_target);
            runs.push((run, here, here_target));
        }
        let work = |(run, out, target)| self.fill_run(run, ids, mask, out, target);
        pool::shared()?.install(|| runs.into_par_iter().for_each(work));
        Ok(())
    }

    fn fill_run(&self, run: Range<usize>, ids: &[i32], mask: Option<&[u8]>, out: &mut [i32], target: &mut [u8]) {
        let (mut out, mut target) = (out, target);
        let copy =
            if self.tokens() < LARGE { |from: &[i32], to: &mut [i32]| to.copy_from_slice(from) } else { stream::copy };
        for (prompt, completion) in &self.parts[run] {
            let (head, rest) = out.split_at_mut(prompt.len());
            let (tail, rest) = rest.split_at_mut(completion.len());
            copy(&ids[prompt.clone()], head);
            copy(&ids[completion.clone()], tail);
            let (before, rest_target) = target.split_at_mut(prompt.len());
            let (here, rest_target) = rest_target.split_at_mut(completion.len());
            before.fill(0);
            match mask {
                Some(mask) => here.copy_from_slice(&mask[completion.clone()]),
                None => here.fill(1),
            }
            if let ([], [first, ..]) = (&before, &mut *here) {
                *first = 0; // nothing stands before it
            }
            (out, target) = (rest, rest_target);
        }
        stream::finish();
    }
}

/// Tokens below which a call stays on its own thread; see the same figure in `polmrs-rl`.
const ALONE: usize = 1 << 21;

/// Tokens from which a batch is written past the caches: 4 MiB.
const LARGE: usize = 1 << 20;

/// The side that padding stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before the sequence.
    Left,
    /// After it.
    Right,
}

/// Writes sequences as rows of `width`, with `filler` around them. `out` has `sequences x width` elements, and `width` is
/// at least the longest sequence.
pub fn pad<T: Copy>(values: &[T], sequences: &Ragged, width: usize, side: Side, filler: T, out: &mut [T]) {
    for (row, out) in out.chunks_exact_mut(width.max(1)).enumerate().take(sequences.sequences()) {
        let values = &values[sequences.range(row)];
        let (before, after) = match side {
            Side::Left => (out.len() - values.len(), out.len()),
            Side::Right => (0, values.len()),
        };
        out[..before].fill(filler);
        out[before..after].copy_from_slice(values);
        out[after..].fill(filler);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(max_length: usize, rule: TooLong) -> Result<(Plan, Vec<i32>, Vec<u8>)> {
        let ids = [1, 2, 3, 10, 11, 20]; // rows: a prompt, a long and a short completion
        let source = Ragged::new(&[0i64, 3, 5, 6], 6, "ids").unwrap();
        let members = Ragged::new(&[0i64, 2], 2, "completions").unwrap();
        let examples = Examples { prompts: &[0], completions: &[1, 2], members: &members };
        let plan = Plan::new(&source, examples, Some(max_length), rule)?;
        let (mut out, mut target) = (vec![0; plan.tokens()], vec![9; plan.tokens()]);
        plan.fill(&ids, None, &mut out, &mut target)?;
        Ok((plan, out, target))
    }

    #[test]
    fn every_rule_cuts_what_it_names_and_counts_it() {
        let (plan, out, target) = planned(5, TooLong::Refuse).unwrap();
        assert_eq!((out, target), (vec![1, 2, 3, 10, 11, 1, 2, 3, 20], vec![0, 0, 0, 1, 1, 0, 0, 0, 1]));
        assert_eq!((plan.cu_seqlens, plan.cut, plan.place), (vec![0, 5, 9], vec![0, 0], vec![0, 1]));
        let (plan, out, _) = planned(4, TooLong::PromptStart).unwrap();
        assert_eq!((out, plan.cut), (vec![2, 3, 10, 11, 2, 3, 20], vec![1, 1]));
        let (plan, out, _) = planned(4, TooLong::PromptEnd).unwrap();
        assert_eq!((out, plan.cut), (vec![1, 2, 10, 11, 1, 2, 20], vec![1, 1]));
        let (plan, out, _) = planned(4, TooLong::CompletionEnd).unwrap();
        assert_eq!((out, plan.cut), (vec![1, 2, 3, 10, 1, 2, 3, 20], vec![1, 0]));
        let (plan, out, _) = planned(4, TooLong::Drop).unwrap();
        assert_eq!((out, plan.dropped), (vec![], vec![0]));
        for (most, rule) in [(4, TooLong::Refuse), (2, TooLong::PromptStart), (3, TooLong::CompletionEnd)] {
            assert!(planned(most, rule).unwrap_err().to_string().contains("more than max_length"), "{rule:?}");
        }
    }

    #[test]
    fn padding_stands_on_the_side_that_was_asked_for() {
        let sequences = Ragged::new(&[0i32, 2, 2, 3], 3, "values").unwrap();
        let mut out = [0; 9];
        pad(&[5, 6, 7], &sequences, 3, Side::Left, -1, &mut out);
        assert_eq!(out, [-1, 5, 6, -1, -1, -1, -1, -1, 7]);
        pad(&[5, 6, 7], &sequences, 3, Side::Right, -1, &mut out);
        assert_eq!(out, [5, 6, -1, -1, -1, -1, 7, -1, -1]);
    }
}
