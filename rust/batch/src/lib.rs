//! What stands between a data set and a training step, at memory speed. No model, no tensor library.
//!
//! | module | holds |
//! |---|---|
//! | [`store`] | a file of token rows, memory-mapped |
//! | `text` | rows straight from text, by a `tokenizer.json` (feature `text`) |
//! | [`collate`] | rows of a store as one ragged batch: pairs, ranked lists, completions, rollouts |
//! | [`pack`] | sequences into packs of a fixed size |
//! | [`bucket`] | batches of about equal lengths under a token budget |
//! | [`balance`] | sequences over ranks, so that all have as much to do |
//! | [`words`], [`shingles`] | texts and token rows as words, and as sets of word n-grams |
//! | [`porter`], [`rouge`] | ROUGE-L to the last digit of `rouge-score` |
//! | [`overlap`], [`novel`] | the pool filter of Self-Instruct, with upper bounds instead of most comparisons |
//! | [`minhash`], [`clusters`] | near-duplicates, by MinHash and exactly |
//! | [`contamination`] | word n-grams that a training set shares with test sets |
//!
//! [`parallel`] does the same for many documents. Results never depend on the number of threads.

pub mod balance;
pub mod bucket;
pub mod clusters;
pub mod collate;
pub mod contamination;
pub mod minhash;
pub mod novel;
pub mod overlap;
pub mod pack;
pub mod parallel;
mod permute;
pub mod porter;
pub mod rouge;
pub mod shingles;
pub mod store;
mod stream;
#[cfg(feature = "text")]
pub mod text;
pub mod words;
