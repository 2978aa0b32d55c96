//! Generalized advantage estimation (Schulman et al., arXiv:1506.02438, eq. 11, 12 and 16) over a ragged batch.
//!
//! $$ \delta_t = r_t + \gamma V_{t+1} - V_t, \qquad A_t = \delta_t + \gamma\lambda A_{t+1}, \qquad G_t = A_t + V_t $$
//!
//! After the last token of a sequence $V$ is its bootstrap value (0 if it ended) and $A$ is 0.

use crate::float::Float;
use crate::holes::Holes;
use crate::ragged::{Ragged, first_bad, one_each, same_length, within};
use crate::sweep::{Recurrence, backward};
use polmrs_core::{Error, Result};

/// The settings of GAE.
#[derive(Clone, Copy, Debug)]
pub struct Gae {
    /// Discount, in \[0, 1\].
    pub gamma: f64,
    /// Lambda of the advantages, in \[0, 1\].
    pub lam: f64,
    /// Lambda of the returns, the critic's target; VAPO (arXiv:2504.05118) sets it to 1.
    pub lam_value: f64,
    /// What a masked token means.
    pub holes: Holes,
}

impl Gae {
    /// Writes advantages and returns; both are 0 on holes.
    #[allow(clippy::too_many_arguments)] // the columns of the batch
    pub fn run<T: Float>(
        &self,
        rewards: &[T],
        values: &[T],
        ragged: &Ragged,
        mask: Option<&[u8]>,
        bootstrap: Option<&[T]>,
        advantages: &mut [T],
        returns: &mut [T],
    ) -> Result<()> {
        within("gamma", self.gamma, 0.0, 1.0)?;
        within("lam", self.lam, 0.0, 1.0)?;
        within("lam_value", self.lam_value, 0.0, 1.0)?;
        let tokens = ragged.tokens();
        same_length("values", values.len(), "rewards", tokens)?;
        mask.map_or(Ok(()), |mask| same_length("mask", mask.len(), "rewards", tokens))?;
        bootstrap.map_or(Ok(()), |last| one_each("bootstrap", last.len(), ragged))?;
        let start = |sequence: usize| [0.0, 0.0, bootstrap.map_or(0.0, |last| last[sequence].wide())];
        let bad = match (mask, self.holes) {
            (None, _) => backward(self.step::<NONE>(), ragged, None, [rewards, values], [advantages, returns], start),
            (_, Holes::Carry) => {
                backward(self.step::<CARRY>(), ragged, mask, [rewards, values], [advantages, returns], start)
            }
            (_, Holes::Decay) => {
                backward(self.step::<DECAY>(), ragged, mask, [rewards, values], [advantages, returns], start)
            }
            (_, Holes::Ignore) => {
                backward(self.step::<IGNORE>(), ragged, mask, [rewards, values], [advantages, returns], start)
            }
            (_, Holes::Reset) => {
                backward(self.step::<RESET>(), ragged, mask, [rewards, values], [advantages, returns], start)
            }
        }?;
        let Some(sequence) = bad else { return Ok(()) };
        let seen = mask.filter(|_| self.holes != Holes::Ignore);
        let span = ragged.range(sequence);
        first_bad("rewards", rewards, span.clone(), seen)?;
        first_bad("values", values, span, seen)?;
        bootstrap.map_or(Ok(()), |last| first_bad("bootstrap", last, sequence..sequence + 1, None))?;
        Err(Error::NonFinite(format!("advantages: sequence {sequence} overflows")))
    }

    fn step<const HOLES: u8>(&self) -> Step<HOLES> {
        Step { gamma: self.gamma, decay: self.gamma * self.lam, decay_value: self.gamma * self.lam_value }
    }
}

const NONE: u8 = u8::MAX;
const CARRY: u8 = Holes::Carry as u8;
const DECAY: u8 = Holes::Decay as u8;
const IGNORE: u8 = Holes::Ignore as u8;
const RESET: u8 = Holes::Reset as u8;

#[derive(Clone, Copy)]
struct Step<const HOLES: u8> {
    gamma: f64,
    decay: f64,
    decay_value: f64,
}

/// State: the advantages under both lambdas, and the value, of the token after.
impl<const HOLES: u8> Recurrence<3, 2, 2> for Step<HOLES> {
    const HOLES: bool = HOLES != NONE;

    #[inline(always)]
    fn step<T: Float, const L: usize>(
        self,
        state: &mut [[f64; L]; 3],
        input: &[[T; L]; 2],
        here: &[bool; L],
        output: &mut [[T; L]; 2],
    ) {
        for l in 0..L {
            let after = [state[0][l], state[1][l], state[2][l]];
            let blank = HOLES == DECAY && !here[l];
            let (reward, value) = if blank { (0.0, 0.0) } else { (input[0][l].wide(), input[1][l].wide()) };
            let delta = reward + self.gamma * after[2] - value;
            let advantage = delta + self.decay * after[0];
            let advantage_value = delta + self.decay_value * after[1];
            let now = [advantage, advantage_value, value];
            for (s, numbers) in state.iter_mut().enumerate() {
                numbers[l] = match HOLES {
                    CARRY if !here[l] => after[s],
                    RESET if !here[l] => after[s] * 0.0, // not 0: a NaN must be seen at the first token
                    _ => now[s],
                };
            }
            output[0][l] = if here[l] { T::narrow(advantage) } else { T::ZERO };
            output[1][l] = if here[l] { T::narrow(advantage_value + value) } else { T::ZERO };
        }
    }
}
