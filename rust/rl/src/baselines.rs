//! Group baselines other than the mean over the group: leave-one-out, length-weighted, and MaxRL's division by the mean.

use crate::float::Float;
use crate::groups::{Alone, Groups, Missing, each_group};
use crate::ragged::same_length;
use polmrs_core::{Error, Result};

/// RLOO (arXiv:2402.14740, section 3.3): the baseline of a sample is the mean reward of the others.
///
/// $$ A_i = r_i - \frac{1}{n-1}\sum_{j \ne i} r_j = \frac{n}{n-1}(r_i - \bar r) $$
pub fn leave_one_out<T: Float>(
    rewards: &[T],
    groups: &Groups,
    conventions: (Missing, Alone),
    out: &mut [T],
) -> Result<()> {
    each_group(rewards, groups, conventions, out, |group| {
        let (mean, n) = (group.mean(), group.rewards.len() as f64);
        for reward in group.rewards {
            *reward = (*reward - mean) * (n / (n - 1.0));
        }
    })?;
    Ok(())
}

/// OPO (arXiv:2505.23585): the baseline that minimises the variance of the gradient, if its norm grows with length.
///
/// $$ A_i = r_i - \frac{\sum_j l_j r_j}{\sum_j l_j} $$
pub fn opo<T: Float>(
    rewards: &[T],
    lengths: &[i64],
    groups: &Groups,
    conventions: (Missing, Alone),
    out: &mut [T],
) -> Result<()> {
    same_length("lengths", lengths.len(), "rewards", rewards.len())?;
    if let Some(sample) = lengths.iter().position(|length| *length < 0) {
        return Err(Error::Array(format!("lengths[{sample}]: {} is negative", lengths[sample])));
    }
    each_group(rewards, groups, conventions, out, |group| {
        let (mut weighted, mut total) = (0.0, 0.0);
        for (reward, sample) in group.rewards.iter().zip(group.samples.iter()) {
            weighted += lengths[sample] as f64 * reward;
            total += lengths[sample] as f64;
        }
        for reward in group.rewards {
            *reward = if total > 0.0 { *reward - weighted / total } else { 0.0 };
        }
    })?;
    Ok(())
}

/// MaxRL (arXiv:2602.02710, algorithm 1): the likelihood of success rather than its rate. Rewards are 0 or 1.
///
/// $$ A_i = (r_i - \bar r) / \bar r $$
pub fn maxrl<T: Float>(rewards: &[T], groups: &Groups, missing: Missing, out: &mut [T]) -> Result<()> {
    binary(rewards, "MaxRL divides by the group's rate of success")?;
    each_group(rewards, groups, (missing, Alone::Zero), out, |group| {
        let mean = group.mean();
        for reward in group.rewards {
            *reward = (*reward - mean) / mean;
        }
    })?;
    Ok(())
}

/// Refuses a reward that is neither 0, 1 nor NaN.
pub(crate) fn binary<T: Float>(rewards: &[T], why: &str) -> Result<()> {
    let one = |reward: &T| matches!(reward.wide(), 0.0 | 1.0) || reward.wide().is_nan();
    match rewards.iter().position(|reward| !one(reward)) {
        None => Ok(()),
        Some(at) => Err(Error::Array(format!("rewards[{at}]: {} is not 0 or 1; {why}", rewards[at].wide()))),
    }
}
