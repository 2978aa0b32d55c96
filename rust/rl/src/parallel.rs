//! Work for one thread or many; the result is the same bits.

use polmrs_core::{Result, pool};
use rayon::prelude::*;

/// Tokens below which a call stays on its own thread: 0.7 ms of GAE.
///
/// Measured with two threads: on idle cores waking the pool costs 15 us; on cores that others keep busy it costs up to a
/// millisecond, and a call breaks even only near four million tokens.
const ALONE: usize = 1 << 19;

/// In how many parts to do `work` tokens: 1, or a few for each thread of the pool, so that uneven parts even out.
pub(crate) fn parts(work: usize) -> Result<usize> {
    if work < ALONE {
        return Ok(1);
    }
    let threads = pool::shared()?.current_num_threads();
    Ok(if threads == 1 { 1 } else { (threads * 4).min(work / (ALONE / 4)) })
}

/// Does every item, on the pool if there are several; the answers come in the order of the items.
pub(crate) fn each<W: Send, R: Send>(items: Vec<W>, work: impl Fn(W) -> R + Sync + Send) -> Result<Vec<R>> {
    if items.len() < 2 {
        return Ok(items.into_iter().map(work).collect());
    }
    Ok(pool::shared()?.install(|| items.into_par_iter().map(work).collect()))
}
