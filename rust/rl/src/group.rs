//! Group-relative advantages, outcome and process form (GRPO: DeepSeekMath, arXiv:2402.03300, sections 4.1.2, 4.1.3).
//!
//! $$ A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{scale}(r) + \varepsilon} $$

use crate::float::Float;
use crate::groups::{Alone, Counts, Groups, Missing, each_group};
use crate::ragged::{Ragged, all_tokens, one_each, within};
use polmrs_core::{Error, Result};

/// What the centred rewards of a group are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The standard deviation plus eps (GRPO).
    Std,
    /// The mean absolute deviation from the mean plus eps (DGPO, arXiv:2601.20614).
    Mad,
    /// One (Dr.GRPO, arXiv:2503.20783).
    One,
}

/// The settings of group normalisation.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    /// The divisor.
    pub scale: Scale,
    /// Degrees of freedom taken off the count in the standard deviation: 0 or 1.
    pub ddof: usize,
    /// Added to the divisor; of no effect with [`Scale::One`].
    pub eps: f64,
}

impl GroupNorm {
    fn check(&self) -> Result<()> {
        if self.ddof > 1 {
            return Err(Error::Usage(format!("ddof: {} is not 0 or 1", self.ddof)));
        }
        within("eps", self.eps, 0.0, f64::INFINITY)
    }

    /// The divisor of two or more different rewards.
    #[inline(always)]
    fn divisor(&self, rewards: &[f64], mean: f64) -> f64 {
        let n = rewards.len() as f64;
        match self.scale {
            Scale::Std => {
                let squares: f64 = rewards.iter().map(|r| (r - mean) * (r - mean)).sum();
                (squares / (n - self.ddof as f64)).sqrt() + self.eps
            }
            Scale::Mad => rewards.iter().map(|r| (r - mean).abs()).sum::<f64>() / n + self.eps,
            Scale::One => 1.0,
        }
    }

    /// Outcome form: one reward and one advantage for each sample.
    pub fn run<T: Float>(
        &self,
        rewards: &[T],
        groups: &Groups,
        conventions: (Missing, Alone),
        out: &mut [T],
    ) -> Result<Counts> {
        self.check()?;
        each_group(rewards, groups, conventions, out, |group| {
            let mean = group.mean();
            let divisor = self.divisor(group.rewards, mean);
            for reward in group.rewards {
                *reward = (*reward - mean) / divisor;
            }
        })
    }

    /// Process form: rewards on the tokens that end a step, normalised over all steps of the group; a token's advantage
    /// is the sum of the normalised rewards of the steps that end at it or later. NaN rewards are steps not scored.
    pub fn process<T: Float>(
        &self,
        rewards: &[T],
        step_ends: &[u8],
        ragged: &Ragged,
        groups: &Groups,
        out: &mut [T],
    ) -> Result<()> {
        self.check()?;
        all_tokens("rewards", rewards.len(), ragged)?;
        all_tokens("step_ends", step_ends.len(), ragged)?;
        all_tokens("out", out.len(), ragged)?;
        one_each("groups", groups.samples(), ragged)?;
        let mut steps = Vec::new();
        for group in 0..groups.count() {
            steps.clear();
            for sequence in groups.members(group).iter() {
                for t in ragged.range(sequence).filter(|t| step_ends[*t] != 0) {
                    let reward = rewards[t].wide();
                    if reward.is_infinite() {
                        return Err(Error::NonFinite(format!("rewards[{t}]: {reward} is not a finite number")));
                    }
                    if !reward.is_nan() {
                        steps.push(reward);
                    }
                }
            }
            let flat = steps.iter().all(|reward| *reward == steps[0]);
            let mean = steps.iter().sum::<f64>() / steps.len() as f64;
            let (mean, divisor) = if flat { (0.0, f64::INFINITY) } else { (mean, self.divisor(&steps, mean)) };
            for sequence in groups.members(group).iter() {
                let mut later = 0.0;
                for t in ragged.range(sequence).rev() {
                    let reward = rewards[t].wide();
                    if step_ends[t] != 0 && !reward.is_nan() {
                        later += (reward - mean) / divisor;
                    }
                    out[t] = T::narrow(later);
                }
            }
        }
        Ok(())
    }
}
