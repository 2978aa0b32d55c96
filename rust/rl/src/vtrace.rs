//! V-trace targets and advantages (Espeholt et al., IMPALA, arXiv:1802.01561, section 4.1) over a ragged batch.
//!
//! With $\rho_t = \min(\bar\rho, \pi/\mu)$ and $c_t = \lambda \min(\bar c, \pi/\mu)$,
//!
//! $$ \delta_t = \rho_t (r_t + \gamma V_{t+1} - V_t), \qquad v_t = V_t + \delta_t + \gamma c_t (v_{t+1} - V_{t+1}) $$
//! $$ A_t = \rho_t (r_t + \gamma v_{t+1} - V_t) $$
//!
//! After the last token of a sequence $v = V$ is its bootstrap value, 0 if it ended.

use crate::exp::exp;
use crate::float::Float;
use crate::holes::{self, CARRY, DECAY, Holes, IGNORE, NONE, RESET};
use crate::ragged::{Ragged, all_tokens, first_bad, one_each, within};
use crate::sweep::{Recurrence, backward};
use polmrs_core::{Error, Result};

/// The settings of V-trace.
#[derive(Clone, Copy, Debug)]
pub struct Vtrace {
    /// Discount, in \[0, 1\].
    pub gamma: f64,
    /// Lambda of the trace (remark 2), in \[0, 1\].
    pub lam: f64,
    /// Limit of the importance weight of a temporal difference.
    pub rho_bar: f64,
    /// Limit of the importance weight of the trace, at most `rho_bar`.
    pub c_bar: f64,
    /// What a masked token means.
    pub holes: Holes,
}

impl Vtrace {
    /// Writes advantages and value targets; both are 0 on holes. `columns` are log pi - log mu, rewards and values.
    pub fn run<T: Float>(
        &self,
        columns: [&[T]; 3],
        ragged: &Ragged,
        mask: Option<&[u8]>,
        bootstrap: Option<&[T]>,
        advantages: &mut [T],
        targets: &mut [T],
    ) -> Result<()> {
        within("gamma", self.gamma, 0.0, 1.0)?;
        within("lam", self.lam, 0.0, 1.0)?;
        within("rho_bar", self.rho_bar, 0.0, f64::INFINITY)?;
        within("c_bar", self.c_bar, 0.0, self.rho_bar)?;
        let names = ["log_ratios", "rewards", "values"];
        for (name, column) in names.iter().zip(columns) {
            all_tokens(name, column.len(), ragged)?;
        }
        mask.map_or(Ok(()), |mask| all_tokens("mask", mask.len(), ragged))?;
        bootstrap.map_or(Ok(()), |last| one_each("bootstrap", last.len(), ragged))?;
        let start = |sequence: usize| [bootstrap.map_or(0.0, |last| last[sequence].wide()), 0.0];
        let outputs = [advantages, targets];
        let bad = match (mask, self.holes) {
            (None, _) => backward(Step::<NONE>(*self), ragged, None, columns, outputs, start),
            (_, Holes::Carry) => backward(Step::<CARRY>(*self), ragged, mask, columns, outputs, start),
            (_, Holes::Decay) => backward(Step::<DECAY>(*self), ragged, mask, columns, outputs, start),
            (_, Holes::Ignore) => backward(Step::<IGNORE>(*self), ragged, mask, columns, outputs, start),
            (_, Holes::Reset) => backward(Step::<RESET>(*self), ragged, mask, columns, outputs, start),
        }?;
        let Some(sequence) = bad else { return Ok(()) };
        let seen = mask.filter(|_| self.holes != Holes::Ignore);
        for (name, column) in names.iter().zip(columns) {
            first_bad(name, column, ragged.range(sequence), seen)?;
        }
        bootstrap.map_or(Ok(()), |last| first_bad("bootstrap", last, sequence..sequence + 1, None))?;
        Err(Error::NonFinite(format!("targets: sequence {sequence} overflows")))
    }
}

#[derive(Clone, Copy)]
struct Step<const HOLES: u8>(Vtrace);

/// State: V and v - V of the token after.
impl<const HOLES: u8> Recurrence<2, 3, 2> for Step<HOLES> {
    const HOLES: bool = HOLES != NONE;

    #[inline(always)]
    fn step(self, after: [f64; 2], input: [f64; 3], here: bool) -> ([f64; 2], [f64; 2]) {
        let [log_ratio, reward, value] = if HOLES == DECAY { holes::or_zero(here, input) } else { input };
        let Vtrace { gamma, lam, rho_bar, c_bar, .. } = self.0;
        let ratio = exp(log_ratio);
        let rho = clip(ratio, rho_bar);
        let c = lam * clip(ratio, c_bar);
        let excess = rho * (reward + gamma * after[0] - value) + gamma * c * after[1];
        let advantage = rho * (reward + gamma * (after[0] + after[1]) - value);
        let now = [value, excess];
        (holes::state::<HOLES, 2>(here, after, now), holes::or_zero(here, [advantage, value + excess]))
    }
}

/// The smaller of the two; NaN stays NaN.
#[inline(always)]
fn clip(ratio: f64, limit: f64) -> f64 {
    if ratio > limit { limit } else { ratio }
}
