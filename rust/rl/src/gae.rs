//! Generalized advantage estimation (Schulman et al., arXiv:1506.02438, eq. 11, 12 and 16) over a ragged batch.
//!
//! $$ \delta_t = r_t + \gamma V_{t+1} - V_t, \qquad A_t = \delta_t + \gamma\lambda A_{t+1}, \qquad G_t = A_t + V_t $$
//!
//! After the last token of a sequence $V$ is its bootstrap value (0 if it ended) and $A$ is 0.

use crate::float::Float;
use crate::holes::{self, CARRY, DECAY, Holes, IGNORE, NONE, RESET};
use crate::ragged::{Ragged, all_tokens, first_bad, one_each, within};
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
        all_tokens("rewards", rewards.len(), ragged)?;
        all_tokens("values", values.len(), ragged)?;
        mask.map_or(Ok(()), |mask| all_tokens("mask", mask.len(), ragged))?;
        bootstrap.map_or(Ok(()), |last| one_each("bootstrap", last.len(), ragged))?;
        let start = |sequence: usize| [bootstrap.map_or(0.0, |last| last[sequence].wide()), 0.0, 0.0];
        let columns = ([rewards, values], [advantages, returns]);
        let bad = match (mask, self.holes) {
            (None, _) => self.sweep::<T, NONE>(ragged, None, columns, start),
            (_, Holes::Carry) => self.sweep::<T, CARRY>(ragged, mask, columns, start),
            (_, Holes::Decay) => self.sweep::<T, DECAY>(ragged, mask, columns, start),
            (_, Holes::Ignore) => self.sweep::<T, IGNORE>(ragged, mask, columns, start),
            (_, Holes::Reset) => self.sweep::<T, RESET>(ragged, mask, columns, start),
        }?;
        let Some(sequence) = bad else { return Ok(()) };
        let seen = mask.filter(|_| self.holes != Holes::Ignore);
        let span = ragged.range(sequence);
        first_bad("rewards", rewards, span.clone(), seen)?;
        first_bad("values", values, span, seen)?;
        bootstrap.map_or(Ok(()), |last| first_bad("bootstrap", last, sequence..sequence + 1, None))?;
        Err(Error::NonFinite(format!("advantages: sequence {sequence} overflows")))
    }

    fn sweep<T: Float, const HOLES: u8>(
        &self,
        ragged: &Ragged,
        mask: Option<&[u8]>,
        (inputs, outputs): ([&[T]; 2], [&mut [T]; 2]),
        start: impl Fn(usize) -> [f64; 3] + Sync,
    ) -> Result<Option<usize>> {
        let (gamma, decay, decay_value) = (self.gamma, self.gamma * self.lam, self.gamma * self.lam_value);
        if self.lam == self.lam_value {
            backward(Step::<HOLES, false> { gamma, decay, decay_value }, ragged, mask, inputs, outputs, start)
        } else {
            backward(Step::<HOLES, true> { gamma, decay, decay_value }, ragged, mask, inputs, outputs, start)
        }
    }
}

#[derive(Clone, Copy)]
struct Step<const HOLES: u8, const DECOUPLED: bool> {
    gamma: f64,
    decay: f64,
    decay_value: f64,
}

/// State: the value of the token after, and its advantages under both lambdas.
impl<const HOLES: u8, const DECOUPLED: bool> Recurrence<3, 2, 2> for Step<HOLES, DECOUPLED> {
    const HOLES: bool = HOLES != NONE;

    #[inline(always)]
    fn step(self, after: [f64; 3], [reward, value]: [f64; 2], here: bool) -> ([f64; 3], [f64; 2]) {
        let [reward, value] = if HOLES == DECAY { holes::or_zero(here, [reward, value]) } else { [reward, value] };
        let delta = reward + self.gamma * after[0] - value;
        let advantage = delta + self.decay * after[1];
        let advantage_value = if DECOUPLED { delta + self.decay_value * after[2] } else { advantage };
        let now = [value, advantage, if DECOUPLED { advantage_value } else { 0.0 }];
        let written = [advantage, advantage_value + value];
        (holes::state::<HOLES, 3>(here, after, now), holes::or_zero(here, written))
    }
}
