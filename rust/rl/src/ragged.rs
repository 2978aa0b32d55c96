//! The ragged batch of `polmrs-core`, and the search for its first number that is none.

use crate::float::Float;
use polmrs_core::{Error, Result};
use std::ops::Range;

pub use polmrs_core::ragged::{Offset, Ragged, all_tokens, one_each, same_length, within};

/// The first element of `column[span]`, not a hole, that is NaN or infinite, as an error that names it.
pub(crate) fn first_bad<T: Float>(name: &str, column: &[T], span: Range<usize>, mask: Option<&[u8]>) -> Result<()> {
    for t in span {
        let value = column[t].wide();
        if !value.is_finite() && mask.is_none_or(|mask| mask[t] != 0) {
            return Err(Error::NonFinite(format!("{name}[{t}]: {value} is not a finite number")));
        }
    }
    Ok(())
}
