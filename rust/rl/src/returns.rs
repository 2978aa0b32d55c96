//! Discounted returns (reward to go) over a ragged batch.
//!
//! $$ G_t = r_t + \gamma G_{t+1} $$
//!
//! After the last token of a sequence $G$ is its bootstrap value, 0 if it ended.

use crate::float::Float;
use crate::holes::{self, CARRY, DECAY, Holes, IGNORE, NONE, RESET};
use crate::ragged::{Ragged, all_tokens, first_bad, one_each, within};
use crate::sweep::{Recurrence, backward};
use polmrs_core::{Error, Result};

/// Writes the returns; they are 0 on holes.
pub fn discounted_returns<T: Float>(
    rewards: &[T],
    ragged: &Ragged,
    mask: Option<&[u8]>,
    bootstrap: Option<&[T]>,
    gamma: f64,
    holes: Holes,
    returns: &mut [T],
) -> Result<()> {
    within("gamma", gamma, 0.0, 1.0)?;
    all_tokens("rewards", rewards.len(), ragged)?;
    mask.map_or(Ok(()), |mask| all_tokens("mask", mask.len(), ragged))?;
    bootstrap.map_or(Ok(()), |last| one_each("bootstrap", last.len(), ragged))?;
    let start = |sequence: usize| [bootstrap.map_or(0.0, |last| last[sequence].wide())];
    let bad = match (mask, holes) {
        (None, _) => backward(Step::<NONE>(gamma), ragged, None, [rewards], [returns], start),
        (_, Holes::Carry) => backward(Step::<CARRY>(gamma), ragged, mask, [rewards], [returns], start),
        (_, Holes::Decay) => backward(Step::<DECAY>(gamma), ragged, mask, [rewards], [returns], start),
        (_, Holes::Ignore) => backward(Step::<IGNORE>(gamma), ragged, mask, [rewards], [returns], start),
        (_, Holes::Reset) => backward(Step::<RESET>(gamma), ragged, mask, [rewards], [returns], start),
    }?;
    let Some(sequence) = bad else { return Ok(()) };
    first_bad("rewards", rewards, ragged.range(sequence), mask.filter(|_| holes != Holes::Ignore))?;
    bootstrap.map_or(Ok(()), |last| first_bad("bootstrap", last, sequence..sequence + 1, None))?;
    Err(Error::NonFinite(format!("returns: sequence {sequence} overflows")))
}

#[derive(Clone, Copy)]
struct Step<const HOLES: u8>(f64);

/// State: the return of the token after.
impl<const HOLES: u8> Recurrence<1, 1, 1> for Step<HOLES> {
    const HOLES: bool = HOLES != NONE;

    #[inline(always)]
    fn step(self, after: [f64; 1], [reward]: [f64; 1], here: bool) -> ([f64; 1], [f64; 1]) {
        let [reward] = if HOLES == DECAY { holes::or_zero(here, [reward]) } else { [reward] };
        let now = [reward + self.0 * after[0]];
        (holes::state::<HOLES, 1>(here, after, now), holes::or_zero(here, now))
    }
}
