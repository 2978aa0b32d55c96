//! The adaptive entropy coefficient of the survey's eq. 22, from the spread of the rewards seen so far.
//!
//! $$ \lambda_t = \alpha \exp(-\beta\, \mathrm{Var}(R(\tau_{1:t}))) $$
//!
//! The variance is the population variance of the rewards of the trajectory up to token t. As printed, a steady
//! trajectory explores more; the sentence below the equation wants the opposite, which is [`Direction::Inverse`].

use crate::exp::exp;
use crate::float::Float;
use crate::ragged::{Ragged, all_tokens, within};
use polmrs_core::{Error, Result};

/// The sign of the exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `exp(-beta Var)`: the equation.
    AsPrinted,
    /// `exp(+beta Var)`: the sentence.
    Inverse,
}

/// Writes the coefficient of each token; only tokens where `step_ends` is set carry a reward. Answers whether any
/// variance was above 0.
pub fn adaptive_entropy<T: Float>(
    rewards: &[T],
    ragged: &Ragged,
    step_ends: Option<&[u8]>,
    (alpha, beta): (f64, f64),
    direction: Direction,
    out: &mut [T],
) -> Result<bool> {
    within("alpha", alpha, 0.0, f64::INFINITY)?;
    within("beta", beta, 0.0, f64::INFINITY)?;
    all_tokens("rewards", rewards.len(), ragged)?;
    step_ends.map_or(Ok(()), |ends| all_tokens("step_ends", ends.len(), ragged))?;
    all_tokens("out", out.len(), ragged)?;
    let rate = if direction == Direction::AsPrinted { -beta } else { beta };
    let mut varied = false;
    for sequence in 0..ragged.sequences() {
        let (mut n, mut mean, mut m2, mut coefficient) = (0.0, 0.0, 0.0, alpha);
        for t in ragged.range(sequence) {
            if step_ends.is_none_or(|ends| ends[t] != 0) {
                let reward = rewards[t].wide();
                if !reward.is_finite() {
                    return Err(Error::NonFinite(format!("rewards[{t}]: {reward} is not a finite number")));
                }
                n += 1.0;
                let apart = reward - mean;
                mean += apart / n;
                m2 += apart * (reward - mean);
                varied |= m2 > 0.0;
                coefficient = alpha * exp(rate * (m2 / n));
            }
            out[t] = T::narrow(coefficient);
        }
    }
    Ok(varied)
}
