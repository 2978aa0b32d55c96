//! Per-token estimates of KL(pi || ref) from samples of pi (Schulman, "Approximating KL divergence", 2020), and the
//! KL-shaped reward of RLHF.
//!
//! With `d = log pi - log ref`: `k1 = d`, `k2 = d^2 / 2`, `k3 = exp(-d) - 1 + d`, `abs = |d|`. `k3` is computed without
//! cancellation, so it keeps its digits where the policies are close.

use crate::exp::exp_minus_1_minus;
use crate::float::Float;
use crate::parallel;
use crate::ragged::{Ragged, all_tokens, one_each, same_length, within};
use crate::simd::{Kernel, at_best};
use polmrs_core::{BLOCK, Error, Result};

/// An estimator of the KL divergence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    /// Unbiased, of high variance, may be negative.
    K1,
    /// Biased, of low variance; its gradient is that of the KL divergence.
    K2,
    /// Unbiased, of low variance, never negative.
    K3,
    /// The absolute log-ratio.
    Abs,
}

impl Estimator {
    #[inline(always)]
    fn of(self, d: f64) -> f64 {
        match self {
            Estimator::K1 => d,
            Estimator::K2 => 0.5 * (d * d),
            Estimator::K3 => exp_minus_1_minus(-d),
            Estimator::Abs => d.abs(),
        }
    }
}

/// Writes `factor * estimate` for each token; holes get 0.
pub fn kl<T: Float>(
    logp: &[T],
    ref_logp: &[T],
    mask: Option<&[u8]>,
    estimator: Estimator,
    factor: f64,
    out: &mut [T],
) -> Result<()> {
    let n = logp.len();
    same_length("ref_logp", ref_logp.len(), "logp", n)?;
    same_length("out", out.len(), "logp", n)?;
    mask.map_or(Ok(()), |mask| same_length("mask", mask.len(), "logp", n))?;
    let size = n.div_ceil(parallel::parts(n)?).max(1).next_multiple_of(BLOCK);
    let pieces = out.chunks_mut(size).enumerate().collect();
    let bad = parallel::each(pieces, |(piece, out): (usize, &mut [T])| {
        let span = piece * size..piece * size + out.len();
        let mask = mask.map(|mask| &mask[span.clone()]);
        at_best(Tokens { logp: &logp[span.clone()], ref_logp: &ref_logp[span], mask, estimator, factor, out })
    })?;
    if !bad.contains(&true) {
        return Ok(());
    }
    for t in (0..n).filter(|t| mask.is_none_or(|mask| mask[*t] != 0)) {
        let (p, q) = (logp[t].wide(), ref_logp[t].wide());
        if !(p - q).is_finite() {
            return Err(Error::NonFinite(format!("logp[{t}] - ref_logp[{t}]: {p} - {q} is not a finite number")));
        }
    }
    Err(Error::Internal("kl: a value that is not finite was lost".into()))
}

struct Tokens<'a, T> {
    logp: &'a [T],
    ref_logp: &'a [T],
    mask: Option<&'a [u8]>,
    estimator: Estimator,
    factor: f64,
    out: &'a mut [T],
}

impl<T: Float> Kernel for Tokens<'_, T> {
    type Output = bool;

    /// Whether a log-ratio outside the holes is not finite.
    #[inline(always)]
    fn run(self) -> bool {
        match self.estimator {
            Estimator::K1 => self.each(|d| Estimator::K1.of(d)),
            Estimator::K2 => self.each(|d| Estimator::K2.of(d)),
            Estimator::K3 => self.each(|d| Estimator::K3.of(d)),
            Estimator::Abs => self.each(|d| Estimator::Abs.of(d)),
        }
    }
}

impl<T: Float> Tokens<'_, T> {
    #[inline(always)]
    fn each(self, estimate: impl Fn(f64) -> f64) -> bool {
        let pairs = self.out.iter_mut().zip(self.logp).zip(self.ref_logp);
        let mut bad = false;
        if let Some(mask) = self.mask {
            for (((out, p), q), here) in pairs.zip(mask) {
                let d = if *here != 0 { p.wide() - q.wide() } else { 0.0 };
                bad |= !d.is_finite();
                *out = T::narrow(self.factor * estimate(d) + 0.0); // no -0
            }
        } else {
            for ((out, p), q) in pairs {
                let d = p.wide() - q.wide();
                bad |= !d.is_finite();
                *out = T::narrow(self.factor * estimate(d) + 0.0); // no -0
            }
        }
        bad
    }
}

/// Writes `-beta * estimate` for each token, plus the sequence's score on its last token that is no hole.
#[allow(clippy::too_many_arguments)] // the columns of the batch
pub fn kl_shaped_rewards<T: Float>(
    scores: &[T],
    logp: &[T],
    ref_logp: &[T],
    ragged: &Ragged,
    mask: Option<&[u8]>,
    estimator: Estimator,
    beta: f64,
    out: &mut [T],
) -> Result<()> {
    within("beta", beta, 0.0, f64::INFINITY)?;
    one_each("scores", scores.len(), ragged)?;
    all_tokens("logp", logp.len(), ragged)?;
    kl(logp, ref_logp, mask, estimator, -beta, out)?;
    for (sequence, score) in scores.iter().enumerate() {
        let score = score.wide();
        if !score.is_finite() {
            return Err(Error::NonFinite(format!("scores[{sequence}]: {score} is not a finite number")));
        }
        let last = ragged.range(sequence).rev().find(|t| mask.is_none_or(|mask| mask[*t] != 0));
        match last {
            Some(t) => out[t] = T::narrow(-beta * estimator.of(logp[t].wide() - ref_logp[t].wide()) + score),
            None if score == 0.0 => {}
            None => {
                let rule = "has no token outside the mask to carry its score";
                return Err(Error::Array(format!("scores[{sequence}]: {score}, but sequence {sequence} {rule}")));
            }
        }
    }
    Ok(())
}
