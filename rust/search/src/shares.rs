//! The queries of a batch, in shares that threads take.

use polmrs_core::{Ctl, Result, pool};
use rayon::prelude::*;
use std::ops::Range;

/// So few queries are not worth a second thread.
const FEW: usize = 8;
/// Queries that a thread takes at a time, so that what is made of rows is shared by many.
const MOST: usize = 256;

/// What is found for `n` queries, share by share.
pub(crate) fn in_shares<T: Send>(n: usize, ctl: &Ctl, find: impl Fn(Range<usize>) -> Vec<T> + Sync) -> Result<Vec<T>> {
    let work = |queries: Range<usize>| {
        ctl.check()?;
        Ok(find(queries))
    };
    if n <= FEW {
        return work(0..n);
    }
    let pool = pool::shared()?;
    let share = n.div_ceil(pool.current_num_threads()).clamp(FEW, MOST).next_multiple_of(FEW);
    let shares = (0..n.div_ceil(share)).into_par_iter().map(|at| work(at * share..n.min((at + 1) * share)));
    let shares: Result<Vec<Vec<T>>> = pool.install(|| shares.collect());
    Ok(shares?.into_iter().flatten().collect())
}
