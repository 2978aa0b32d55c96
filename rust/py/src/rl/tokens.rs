//! What is computed token by token: whitening, KL, the entropy coefficient, pruning.

use crate::array::{Any, apart, ragged, read, word, write};
use crate::call::quick;
use numpy::{Element, PyArrayDyn, PyUntypedArrayMethods};
use polmrs_rl::entropy::Direction;
use polmrs_rl::float::Float;
use polmrs_rl::kl::{self, Estimator};
use polmrs_rl::moments::{self, Moments};
use polmrs_rl::pruning;
use polmrs_rl::whiten::Whiten;
use pyo3::prelude::*;

fn estimator_of(py: Python<'_>, value: &str) -> PyResult<Estimator> {
    let table = [("k1", Estimator::K1), ("k2", Estimator::K2), ("k3", Estimator::K3), ("abs", Estimator::Abs)];
    word(py, "estimator", value, &table)
}

#[pyfunction]
#[pyo3(signature = (x, mask))]
pub(crate) fn moments_of(x: &Any<'_>, mask: Option<&Any<'_>>) -> PyResult<(f64, f64, f64)> {
    fn of<T: Float + Element>(x: &Any<'_>, mask: Option<&Any<'_>>) -> PyResult<(f64, f64, f64)> {
        let py = x.py();
        let (x, mask) = (read::<T>("x", x)?, read_if!("mask", mask, u8));
        let (x, mask) = (slice!(x), mask.as_ref().map(|a| slice!(a)));
        let Moments { n, mean, m2 } = quick(py, || moments::moments(x, mask))?;
        Ok((n, mean, m2))
    }
    by_float!("x", x, of(x, mask))
}

#[pyfunction]
#[pyo3(signature = (x, mask, moments, ddof, eps, center, out))]
pub(crate) fn whiten(
    x: &Any<'_>,
    mask: Option<&Any<'_>>,
    moments: (f64, f64, f64),
    ddof: f64,
    eps: f64,
    center: bool,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(settings: Whiten, x: &Any<'_>, mask: Option<&Any<'_>>, out: &Any<'_>) -> PyResult<()> {
        let py = x.py();
        let (x, mask) = (read::<T>("x", x)?, read_if!("mask", mask, u8));
        let mut out = write::<T>("out", out)?;
        let (x, mask, out) = (slice!(x), mask.as_ref().map(|a| slice!(a)), slice_mut!(out));
        quick(py, || settings.run(x, mask, out))
    }
    let (n, mean, m2) = moments;
    let settings = Whiten { moments: Moments { n, mean, m2 }, ddof, eps, center };
    apart(&[("out", out)], &[("x", Some(x)), ("mask", mask)])?;
    by_float!("x", x, of(settings, x, mask, out))
}

#[pyfunction]
#[pyo3(signature = (logp, ref_logp, mask, estimator, out))]
pub(crate) fn kl_tokens(
    py: Python<'_>,
    logp: &Any<'_>,
    ref_logp: &Any<'_>,
    mask: Option<&Any<'_>>,
    estimator: &str,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(
        estimator: Estimator,
        logp: &Any<'_>,
        ref_logp: &Any<'_>,
        mask: Option<&Any<'_>>,
        out: &Any<'_>,
    ) -> PyResult<()> {
        let py = logp.py();
        let (logp, ref_logp) = (read::<T>("logp", logp)?, read::<T>("ref_logp", ref_logp)?);
        let mask = read_if!("mask", mask, u8);
        let mut out = write::<T>("out", out)?;
        let (logp, ref_logp, mask) = (slice!(logp), slice!(ref_logp), mask.as_ref().map(|a| slice!(a)));
        let out = slice_mut!(out);
        quick(py, || kl::kl(logp, ref_logp, mask, estimator, 1.0, out))
    }
    let estimator = estimator_of(py, estimator)?;
    apart(&[("out", out)], &[("logp", Some(logp)), ("ref_logp", Some(ref_logp)), ("mask", mask)])?;
    by_float!("logp", logp, of(estimator, logp, ref_logp, mask, out))
}

#[pyfunction]
#[pyo3(signature = (scores, logp, ref_logp, cu_seqlens, mask, estimator, beta, out))]
#[allow(clippy::too_many_arguments)] // the columns of the batch
pub(crate) fn kl_shaped_rewards(
    py: Python<'_>,
    scores: &Any<'_>,
    logp: &Any<'_>,
    ref_logp: &Any<'_>,
    cu_seqlens: &Any<'_>,
    mask: Option<&Any<'_>>,
    estimator: &str,
    beta: f64,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(
        (estimator, beta): (Estimator, f64),
        scores: &Any<'_>,
        logp: &Any<'_>,
        ref_logp: &Any<'_>,
        cu_seqlens: &Any<'_>,
        mask: Option<&Any<'_>>,
        out: &Any<'_>,
    ) -> PyResult<()> {
        let py = logp.py();
        let (logp, ref_logp) = (read::<T>("logp", logp)?, read::<T>("ref_logp", ref_logp)?);
        let (scores, mask) = (read::<T>("scores", scores)?, read_if!("mask", mask, u8));
        let mut out = write::<T>("out", out)?;
        let ragged = ragged(cu_seqlens, logp.len(), "logp")?;
        let (scores, logp, ref_logp) = (slice!(scores), slice!(logp), slice!(ref_logp));
        let (mask, out) = (mask.as_ref().map(|a| slice!(a)), slice_mut!(out));
        quick(py, || kl::kl_shaped_rewards(scores, logp, ref_logp, &ragged, mask, estimator, beta, out))
    }
    let estimator = estimator_of(py, estimator)?;
    apart(
        &[("out", out)],
        &[("scores", Some(scores)), ("logp", Some(logp)), ("ref_logp", Some(ref_logp)), ("mask", mask)],
    )?;
    by_float!("logp", logp, of((estimator, beta), scores, logp, ref_logp, cu_seqlens, mask, out))
}

#[pyfunction]
#[pyo3(signature = (rewards, cu_seqlens, step_ends, alpha, beta, mode, out))]
#[allow(clippy::too_many_arguments)] // the columns of the batch
pub(crate) fn adaptive_entropy(
    py: Python<'_>,
    rewards: &Any<'_>,
    cu_seqlens: &Any<'_>,
    step_ends: Option<&Any<'_>>,
    alpha: f64,
    beta: f64,
    mode: &str,
    out: &Any<'_>,
) -> PyResult<bool> {
    fn of<T: Float + Element>(
        rewards: &Any<'_>,
        cu_seqlens: &Any<'_>,
        step_ends: Option<&Any<'_>>,
        coefficients: (f64, f64),
        direction: Direction,
        out: &Any<'_>,
    ) -> PyResult<bool> {
        let py = rewards.py();
        let (rewards, ends) = (read::<T>("rewards", rewards)?, read_if!("step_ends", step_ends, u8));
        let mut out = write::<T>("out", out)?;
        let ragged = ragged(cu_seqlens, rewards.len(), "rewards")?;
        let (rewards, ends, out) = (slice!(rewards), ends.as_ref().map(|a| slice!(a)), slice_mut!(out));
        quick(py, || polmrs_rl::entropy::adaptive_entropy(rewards, &ragged, ends, coefficients, direction, out))
    }
    let direction = word(py, "mode", mode, &[("as_printed", Direction::AsPrinted), ("inverse", Direction::Inverse)])?;
    apart(&[("out", out)], &[("rewards", Some(rewards)), ("step_ends", step_ends)])?;
    by_float!("rewards", rewards, of(rewards, cu_seqlens, step_ends, (alpha, beta), direction, out))
}

#[pyfunction]
#[pyo3(signature = (values, cu_seqlens, step_ends, ratio, kept, pruned))]
pub(crate) fn trajectory_pruning(
    values: &Any<'_>,
    cu_seqlens: &Any<'_>,
    step_ends: Option<&Any<'_>>,
    ratio: f64,
    kept: &Any<'_>,
    pruned: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(
        values: &Any<'_>,
        cu_seqlens: &Any<'_>,
        step_ends: Option<&Any<'_>>,
        ratio: f64,
        kept: &Any<'_>,
        pruned: &Any<'_>,
    ) -> PyResult<()> {
        let py = values.py();
        let (values, ends) = (read::<T>("values", values)?, read_if!("step_ends", step_ends, u8));
        let (mut kept, mut pruned) = (write::<i64>("kept", kept)?, write::<u8>("pruned", pruned)?);
        let ragged = ragged(cu_seqlens, values.len(), "values")?;
        let (values, ends) = (slice!(values), ends.as_ref().map(|a| slice!(a)));
        let (kept, pruned) = (slice_mut!(kept), slice_mut!(pruned));
        quick(py, || pruning::trajectory_pruning(values, &ragged, ends, ratio, kept, pruned))
    }
    by_float!("values", values, of(values, cu_seqlens, step_ends, ratio, kept, pruned))
}
