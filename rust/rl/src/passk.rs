//! Advantages that raise pass@k: the best of k samples instead of the average one.

use crate::baselines::binary;
use crate::float::Float;
use crate::groups::{Alone, Groups, Missing, each_group};
use polmrs_core::{Error, Result};

/// PKPO (arXiv:2505.15201, eq. 33): an unbiased gradient of the expected best of `k`, for any real rewards. Over the
/// subsets of `k` samples that contain sample `i`, the mean gain of the best reward by `i`, times `k`:
///
/// $$ A_i = \frac{n}{\binom{n}{k}} \sum_{|I| = k,\, i \in I} \Big( \max_{j \in I} r_j - \max_{j \in I \setminus i} r_j \Big) $$
///
/// The factor `n` is ours: the paper adds over samples, everything here is averaged over them.
///
/// A subset gains only if `i` is its best, so with rewards sorted upwards and `W_i = n C(i-1, k-1) / C(n, k)`, the sum
/// is `A_{i+1} = A_i + W_{i+1} (r_{i+1} - r_i)`: no term is negative and nothing cancels.
pub fn passk<T: Float>(rewards: &[T], groups: &Groups, k: usize, missing: Missing, out: &mut [T]) -> Result<()> {
    if k < 2 {
        return Err(Error::Usage(format!(
            "k: {k} is not 2 or more; at k = 1 nothing is left to subtract, use leave_one_out"
        )));
    }
    let mut order: Vec<usize> = Vec::new();
    let mut weights: Vec<f64> = Vec::new();
    each_group(rewards, groups, (missing, Alone::Zero), out, |group| {
        let rewards = group.rewards;
        let n = rewards.len();
        if n < k {
            rewards.fill(0.0);
            return;
        }
        order.clear();
        order.extend(0..n);
        order.sort_by(|a, b| rewards[*a].total_cmp(&rewards[*b]));
        weights.clear();
        weights.resize(n, k as f64); // W of the best; downwards, W_i = W_{i+1} (i - k + 1) / i
        for i in (1..n).rev() {
            weights[i - 1] = if i + 1 > k { weights[i] * (i + 1 - k) as f64 / i as f64 } else { 0.0 };
        }
        let (mut advantage, mut below) = (0.0, rewards[order[0]]);
        for (i, sample) in order.iter().enumerate() {
            let reward = rewards[*sample];
            advantage += weights[i] * (reward - below);
            below = reward;
            rewards[*sample] = advantage;
        }
    })?;
    Ok(())
}

/// Pass@k training (arXiv:2508.10751, section 2.3): the advantages of GRPO over all groups of `k` samples whose reward
/// is that of their best, each sample taking the mean over the groups that contain it. Rewards are 0 or 1.
///
/// $$ \bar R = 1 - \binom{n_0}{k} \Big/ \binom{n}{k}, \quad \sigma = \sqrt{\bar R (1 - \bar R)}, \quad
///    A_1 = \frac{1 - \bar R}{\sigma}, \quad A_0 = \frac{1 - \bar R - \binom{n_0 - 1}{k - 1} \big/ \binom{n - 1}{k - 1}}{\sigma} $$
///
/// with `n_0` wrong samples of `n`. Where every subset holds a right one, or none does, the advantages are 0.
pub fn passk_training<T: Float>(
    rewards: &[T],
    groups: &Groups,
    k: usize,
    missing: Missing,
    out: &mut [T],
) -> Result<()> {
    if k < 1 {
        return Err(Error::Usage("k: 0 is not 1 or more".into()));
    }
    binary(rewards, "pass@k training is for answers that are right or wrong")?;
    each_group(rewards, groups, (missing, Alone::Zero), out, |group| {
        let n = group.rewards.len();
        let wrong = group.rewards.iter().filter(|reward| **reward == 0.0).count();
        if n < k || wrong < k {
            group.rewards.fill(0.0);
            return;
        }
        let none_right = ratio(wrong, n, k);
        let sigma = (none_right * (1.0 - none_right)).sqrt();
        for reward in group.rewards {
            let lost = if *reward == 0.0 { ratio(wrong - 1, n - 1, k - 1) } else { 0.0 };
            *reward = (none_right - lost) / sigma;
        }
    })?;
    Ok(())
}

/// `C(a, k) / C(n, k)` as a product: the chance that `k` of `n` samples all lie among `a`.
pub(crate) fn ratio(a: usize, n: usize, k: usize) -> f64 {
    if a < k {
        return 0.0;
    }
    (0..k).map(|i| (a - i) as f64 / (n - i) as f64).product()
}
