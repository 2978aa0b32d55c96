//! The survey's trajectory pruning: stop a path whose value falls well below the best that it had.
//!
//! $$ \text{stop at } t \quad \text{if} \quad V(s_t) < \gamma \max_{k \le t} V(s_k) $$
//!
//! `gamma` is a ratio here, no discount.

use crate::float::Float;
use crate::ragged::{Ragged, all_tokens, one_each};
use polmrs_core::{Error, Result};

/// Writes how many tokens of each sequence are kept, up to and with the one whose value stopped it, and whether it was
/// stopped. Only tokens where `step_ends` is set have a value.
pub fn trajectory_pruning<T: Float>(
    values: &[T],
    ragged: &Ragged,
    step_ends: Option<&[u8]>,
    ratio: f64,
    kept: &mut [i64],
    pruned: &mut [u8],
) -> Result<()> {
    if !(ratio > 0.0 && ratio <= 1.0) {
        return Err(Error::Usage(format!("ratio: {ratio} is not in (0, 1]")));
    }
    all_tokens("values", values.len(), ragged)?;
    step_ends.map_or(Ok(()), |ends| all_tokens("step_ends", ends.len(), ragged))?;
    one_each("kept", kept.len(), ragged)?;
    one_each("pruned", pruned.len(), ragged)?;
    let valued = |t: &usize| step_ends.is_none_or(|ends| ends[*t] != 0);
    for sequence in 0..ragged.sequences() {
        let range = ragged.range(sequence);
        let mut best = 0.0;
        let mut stop = None;
        for t in range.clone().filter(valued) {
            let value = values[t].wide();
            if !value.is_finite() {
                return Err(Error::NonFinite(format!("values[{t}]: {value} is not a finite number")));
            }
            if value < 0.0 {
                let rule = "is negative: below zero a share of the best value lies above it, and every path is \
                            stopped; pass values through softplus or sigmoid";
                return Err(Error::Array(format!("values[{t}]: {value} {rule}")));
            }
            best = if value > best { value } else { best };
            if stop.is_none() && value < ratio * best {
                stop = Some(t);
            }
        }
        kept[sequence] = stop.map_or(range.len(), |t| t + 1 - range.start) as i64;
        pruned[sequence] = u8::from(stop.is_some());
    }
    Ok(())
}
