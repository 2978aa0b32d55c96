//! The same work for many items, on the pool if there are enough; the answers come in the order of the items.

use polmrs_core::{Ctl, Result, pool};
use rayon::prelude::*;

/// Items below which waking the pool costs more than it saves.
const ALONE: usize = 256;

/// `work(i)` for every `i < n`; stops when `ctl` is cancelled.
pub fn map<R: Send>(n: usize, ctl: &Ctl, work: impl Fn(usize) -> R + Sync + Send) -> Result<Vec<R>> {
    let one = |i| {
        ctl.check()?;
        Ok(work(i))
    };
    if n < ALONE {
        return (0..n).map(one).collect();
    }
    pool::shared()?.install(|| (0..n).into_par_iter().with_min_len(16).map(one).collect())
}

/// The same for a few long works.
pub(crate) fn bands<R: Send>(n: usize, ctl: &Ctl, work: impl Fn(usize) -> R + Sync + Send) -> Result<Vec<R>> {
    let one = |i| {
        ctl.check()?;
        Ok(work(i))
    };
    pool::shared()?.install(|| (0..n).into_par_iter().map(one).collect())
}
