//! What each verb does, in terms of the libraries.

pub(crate) mod about;
pub(crate) mod check;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod diff;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod quantize;
pub(crate) mod report;
mod scoring;
pub(crate) mod search;
pub(crate) mod soup;
mod sweep;
pub(crate) mod then;

use polmrs_core::{Result, pool};

/// The number of threads that was asked for, or the default.
fn threads(asked: Option<usize>) -> Result<usize> {
    asked.map_or_else(pool::default_threads, Ok)
}
