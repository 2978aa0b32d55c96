//! `polmrs._core.rl`: the kernels of `polmrs-rl` on flat numpy arrays. Outputs are arrays that Python made.

use crate::array::{read, write};
use crate::call::quick;
use crate::error::to_py;
use numpy::{Element, PyArrayDescrMethods, PyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use polmrs_core::{Error, Result};
use polmrs_rl::entropy::Direction;
use polmrs_rl::estimators::{self, Ties};
use polmrs_rl::float::Float;
use polmrs_rl::gae::Gae;
use polmrs_rl::group::{GroupNorm, Scale};
use polmrs_rl::groups::{Alone, Counts, Groups, Missing};
use polmrs_rl::holes::Holes;
use polmrs_rl::kl::{self, Estimator};
use polmrs_rl::moments::{self, Moments};
use polmrs_rl::ragged::Ragged;
use polmrs_rl::vtrace::Vtrace;
use polmrs_rl::whiten::Whiten;
use polmrs_rl::{baselines, passk, pruning, returns};
use pyo3::prelude::*;

type Any<'py> = Bound<'py, PyAny>;

/// Advantages, returns, KL and whitening over ragged batches.
#[pymodule]
pub(crate) mod rl {
    #[pymodule_export]
    use super::{
        adaptive_entropy, discounted_returns, gae, group_advantages, kl_shaped_rewards, kl_tokens, leave_one_out,
        maj_at_k, maxrl, moments_of, opo, pass_at_k, passk_advantages, passk_training_advantages, process_advantages,
        trajectory_pruning, vtrace, whiten,
    };
}

/// Calls a generic function with the element type of an array: `float32` or `float64`.
macro_rules! by_float {
    ($name:literal, $array:expr, $call:ident($($arg:expr),* $(,)?)) => {
        if $array.cast::<PyArrayDyn<f32>>().is_ok() {
            $call::<f32>($($arg),*)
        } else if $array.cast::<PyArrayDyn<f64>>().is_ok() {
            $call::<f64>($($arg),*)
        } else {
            Err(no_float($name, $array))
        }
    };
}

fn no_float(name: &str, array: &Any<'_>) -> PyErr {
    let got = array.getattr("dtype").map_or_else(|_| array.get_type().to_string(), |dtype| dtype.to_string());
    to_py(array.py(), &Error::Array(format!("{name}: expected an array of float32 or float64, got {got}")))
}

/// Borrows an optional read-only array.
macro_rules! read_if {
    ($name:literal, $array:expr, $type:ty) => {
        match $array {
            Some(array) => Some(read::<$type>($name, array)?),
            None => None,
        }
    };
}

/// The elements of a borrowed array; `read` and `write` admit only contiguous ones.
macro_rules! slice {
    ($array:expr) => {
        $array.as_slice().unwrap_or_default()
    };
}

/// The elements of an exclusively borrowed array.
macro_rules! slice_mut {
    ($array:expr) => {
        $array.as_slice_mut().unwrap_or_default()
    };
}

/// Refuses outputs that share memory with each other or with an input. The borrows of the numpy crate see arrays cut
/// from one array; this also sees views of one tensor or buffer.
fn apart(outputs: &[(&str, &Any<'_>)], inputs: &[(&str, Option<&Any<'_>>)]) -> PyResult<()> {
    let mut seen = Vec::new();
    for (name, array) in inputs.iter().filter_map(|(name, array)| array.map(|array| (*name, array))) {
        seen.push((name, bytes(array)));
    }
    for (name, array) in outputs {
        let mine = bytes(array);
        for (other, theirs) in &seen {
            if mine.0 < theirs.1 && theirs.0 < mine.1 {
                return Err(to_py(
                    array.py(),
                    &Error::Array(format!("{name}: shares memory with {other}; pass another array")),
                ));
            }
        }
        seen.push((*name, mine));
    }
    Ok(())
}

/// The addresses of an array's elements; the array is contiguous, or will be refused by `read` or `write`.
fn bytes(array: &Any<'_>) -> (usize, usize) {
    let Ok(array) = array.cast::<PyUntypedArray>() else { return (0, 0) };
    // SAFETY: a live array object; its data pointer is read, not followed.
    let start = unsafe { (*array.as_array_ptr()).fields.data } as usize;
    (start, start + array.len() * array.dtype().itemsize())
}

/// Reads `cu_seqlens` of either width.
fn ragged(cu_seqlens: &Any<'_>, total: usize, of: &str) -> PyResult<Ragged> {
    let checked = if cu_seqlens.cast::<PyArrayDyn<i32>>().is_ok() {
        Ragged::new(slice!(read::<i32>("cu_seqlens", cu_seqlens)?), total, of)
    } else {
        Ragged::new(slice!(read::<i64>("cu_seqlens", cu_seqlens)?), total, of)
    };
    checked.map_err(|error| to_py(cu_seqlens.py(), &error))
}

/// A word as one of the values that it may name.
fn word<T: Copy>(py: Python<'_>, name: &str, value: &str, table: &[(&str, T)]) -> PyResult<T> {
    table.iter().find(|(known, _)| *known == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known: Vec<_> = table.iter().map(|(known, _)| format!("'{known}'")).collect();
        to_py(py, &Error::Usage(format!("{name}: '{value}' is not one of {}", known.join(", "))))
    })
}

fn holes_of(py: Python<'_>, value: &str) -> PyResult<Holes> {
    let table = [("carry", Holes::Carry), ("decay", Holes::Decay), ("ignore", Holes::Ignore), ("reset", Holes::Reset)];
    word(py, "holes", value, &table)
}

fn estimator_of(py: Python<'_>, value: &str) -> PyResult<Estimator> {
    let table = [("k1", Estimator::K1), ("k2", Estimator::K2), ("k3", Estimator::K3), ("abs", Estimator::Abs)];
    word(py, "estimator", value, &table)
}

fn scale_of(py: Python<'_>, value: &str) -> PyResult<Scale> {
    word(py, "scale", value, &[("std", Scale::Std), ("mad", Scale::Mad), ("none", Scale::One)])
}

fn missing_of(py: Python<'_>, value: &str) -> PyResult<Missing> {
    word(py, "missing", value, &[("exclude", Missing::Exclude), ("refuse", Missing::Refuse)])
}

fn alone_of(py: Python<'_>, value: &str) -> PyResult<Alone> {
    word(py, "alone", value, &[("zero", Alone::Zero), ("reward", Alone::Reward)])
}

#[pyfunction]
#[pyo3(signature = (rewards, values, cu_seqlens, mask, bootstrap, gamma, lam, lam_value, holes, advantages, returns))]
#[allow(clippy::too_many_arguments)] // the columns of the batch
fn gae(
    py: Python<'_>,
    rewards: &Any<'_>,
    values: &Any<'_>,
    cu_seqlens: &Any<'_>,
    mask: Option<&Any<'_>>,
    bootstrap: Option<&Any<'_>>,
    gamma: f64,
    lam: f64,
    lam_value: f64,
    holes: &str,
    advantages: &Any<'_>,
    returns: &Any<'_>,
) -> PyResult<()> {
    let settings = Gae { gamma, lam, lam_value, holes: holes_of(py, holes)? };
    apart(
        &[("advantages", advantages), ("returns", returns)],
        &[("rewards", Some(rewards)), ("values", Some(values)), ("mask", mask), ("bootstrap", bootstrap)],
    )?;
    by_float!("rewards", rewards, gae_of(settings, rewards, values, cu_seqlens, mask, bootstrap, advantages, returns))
}

#[allow(clippy::too_many_arguments)] // the columns of the batch
fn gae_of<T: Float + Element>(
    settings: Gae,
    rewards: &Any<'_>,
    values: &Any<'_>,
    cu_seqlens: &Any<'_>,
    mask: Option<&Any<'_>>,
    bootstrap: Option<&Any<'_>>,
    advantages: &Any<'_>,
    returns: &Any<'_>,
) -> PyResult<()> {
    let py = rewards.py();
    let (rewards, values) = (read::<T>("rewards", rewards)?, read::<T>("values", values)?);
    let (mask, bootstrap) = (read_if!("mask", mask, u8), read_if!("bootstrap", bootstrap, T));
    let (mut advantages, mut returns) = (write::<T>("advantages", advantages)?, write::<T>("returns", returns)?);
    let ragged = ragged(cu_seqlens, rewards.len(), "rewards")?;
    let (rewards, values) = (slice!(rewards), slice!(values));
    let (mask, bootstrap) = (mask.as_ref().map(|a| slice!(a)), bootstrap.as_ref().map(|a| slice!(a)));
    let (advantages, returns) = (slice_mut!(advantages), slice_mut!(returns));
    quick(py, || settings.run(rewards, values, &ragged, mask, bootstrap, advantages, returns))
}

#[pyfunction]
#[pyo3(signature = (rewards, cu_seqlens, mask, bootstrap, gamma, holes, out))]
#[allow(clippy::too_many_arguments)] // the columns of the batch
fn discounted_returns(
    py: Python<'_>,
    rewards: &Any<'_>,
    cu_seqlens: &Any<'_>,
    mask: Option<&Any<'_>>,
    bootstrap: Option<&Any<'_>>,
    gamma: f64,
    holes: &str,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(
        rewards: &Any<'_>,
        cu_seqlens: &Any<'_>,
        mask: Option<&Any<'_>>,
        bootstrap: Option<&Any<'_>>,
        gamma: f64,
        holes: Holes,
        out: &Any<'_>,
    ) -> PyResult<()> {
        let py = rewards.py();
        let rewards = read::<T>("rewards", rewards)?;
        let (mask, bootstrap) = (read_if!("mask", mask, u8), read_if!("bootstrap", bootstrap, T));
        let mut out = write::<T>("out", out)?;
        let ragged = ragged(cu_seqlens, rewards.len(), "rewards")?;
        let (rewards, out) = (slice!(rewards), slice_mut!(out));
        let (mask, bootstrap) = (mask.as_ref().map(|a| slice!(a)), bootstrap.as_ref().map(|a| slice!(a)));
        quick(py, || returns::discounted_returns(rewards, &ragged, mask, bootstrap, gamma, holes, out))
    }
    let holes = holes_of(py, holes)?;
    apart(&[("out", out)], &[("rewards", Some(rewards)), ("mask", mask), ("bootstrap", bootstrap)])?;
    by_float!("rewards", rewards, of(rewards, cu_seqlens, mask, bootstrap, gamma, holes, out))
}

#[pyfunction]
#[pyo3(signature = (columns, cu_seqlens, mask, bootstrap, gamma, lam, rho_bar, c_bar, holes, outputs))]
#[allow(clippy::too_many_arguments)] // the columns of the batch
fn vtrace<'py>(
    py: Python<'py>,
    columns: [Any<'py>; 3],
    cu_seqlens: &Any<'py>,
    mask: Option<&Any<'py>>,
    bootstrap: Option<&Any<'py>>,
    gamma: f64,
    lam: f64,
    rho_bar: f64,
    c_bar: f64,
    holes: &str,
    outputs: [Any<'py>; 2],
) -> PyResult<()> {
    fn of<T: Float + Element>(
        settings: Vtrace,
        [log_ratios, rewards, values]: &[Any<'_>; 3],
        cu_seqlens: &Any<'_>,
        mask: Option<&Any<'_>>,
        bootstrap: Option<&Any<'_>>,
        [advantages, targets]: &[Any<'_>; 2],
    ) -> PyResult<()> {
        let py = rewards.py();
        let log_ratios = read::<T>("log_ratios", log_ratios)?;
        let (rewards, values) = (read::<T>("rewards", rewards)?, read::<T>("values", values)?);
        let (mask, bootstrap) = (read_if!("mask", mask, u8), read_if!("bootstrap", bootstrap, T));
        let (mut advantages, mut targets) = (write::<T>("advantages", advantages)?, write::<T>("targets", targets)?);
        let ragged = ragged(cu_seqlens, rewards.len(), "rewards")?;
        let columns = [slice!(log_ratios), slice!(rewards), slice!(values)];
        let (mask, bootstrap) = (mask.as_ref().map(|a| slice!(a)), bootstrap.as_ref().map(|a| slice!(a)));
        let (advantages, targets) = (slice_mut!(advantages), slice_mut!(targets));
        quick(py, || settings.run(columns, &ragged, mask, bootstrap, advantages, targets))
    }
    let settings = Vtrace { gamma, lam, rho_bar, c_bar, holes: holes_of(py, holes)? };
    let [log_ratios, rewards, values] = &columns;
    apart(
        &[("advantages", &outputs[0]), ("targets", &outputs[1])],
        &[("log_ratios", Some(log_ratios)), ("rewards", Some(rewards)), ("values", Some(values)), ("mask", mask)],
    )?;
    by_float!("rewards", rewards, of(settings, &columns, cu_seqlens, mask, bootstrap, &outputs))
}

/// Runs a group kernel: rewards and ids in, one advantage for each sample out.
fn by_group<T: Float + Element, R: Send>(
    rewards: &Any<'_>,
    groups: &Any<'_>,
    out: &Any<'_>,
    kernel: impl FnOnce(&[T], &Groups, &mut [T]) -> Result<R> + Send,
) -> PyResult<R> {
    let py = rewards.py();
    apart(&[("out", out)], &[("rewards", Some(rewards))])?;
    let (rewards, ids) = (read::<T>("rewards", rewards)?, read::<i64>("groups", groups)?);
    let mut out = write::<T>("out", out)?;
    let (rewards, ids, out) = (slice!(rewards), slice!(ids), slice_mut!(out));
    quick(py, || kernel(rewards, &Groups::new(ids), out))
}

/// Groups, samples, missing, empty, alone, flat, and the sum of the scored rewards.
type Counted = (usize, usize, usize, usize, usize, usize, f64);

#[pyfunction]
#[allow(clippy::too_many_arguments)] // the settings of one method
fn group_advantages(
    py: Python<'_>,
    rewards: &Any<'_>,
    groups: &Any<'_>,
    scale: &str,
    ddof: usize,
    eps: f64,
    missing: &str,
    alone: &str,
    out: &Any<'_>,
) -> PyResult<Counted> {
    fn of<T: Float + Element>(
        norm: GroupNorm,
        conventions: (Missing, Alone),
        rewards: &Any<'_>,
        groups: &Any<'_>,
        out: &Any<'_>,
    ) -> PyResult<Counts> {
        by_group::<T, _>(rewards, groups, out, |rewards, groups, out| norm.run(rewards, groups, conventions, out))
    }
    let norm = GroupNorm { scale: scale_of(py, scale)?, ddof, eps };
    let conventions = (missing_of(py, missing)?, alone_of(py, alone)?);
    let seen = by_float!("rewards", rewards, of(norm, conventions, rewards, groups, out))?;
    Ok((seen.groups, seen.samples, seen.missing, seen.empty, seen.alone, seen.flat, seen.sum))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)] // the columns of the batch
fn process_advantages(
    py: Python<'_>,
    rewards: &Any<'_>,
    step_ends: &Any<'_>,
    cu_seqlens: &Any<'_>,
    groups: &Any<'_>,
    scale: &str,
    ddof: usize,
    eps: f64,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(
        norm: GroupNorm,
        rewards: &Any<'_>,
        step_ends: &Any<'_>,
        cu_seqlens: &Any<'_>,
        groups: &Any<'_>,
        out: &Any<'_>,
    ) -> PyResult<()> {
        let py = rewards.py();
        let (rewards, step_ends) = (read::<T>("rewards", rewards)?, read::<u8>("step_ends", step_ends)?);
        let ids = read::<i64>("groups", groups)?;
        let mut out = write::<T>("out", out)?;
        let ragged = ragged(cu_seqlens, rewards.len(), "rewards")?;
        let (rewards, step_ends, ids) = (slice!(rewards), slice!(step_ends), slice!(ids));
        let out = slice_mut!(out);
        quick(py, || norm.process(rewards, step_ends, &ragged, &Groups::new(ids), out))
    }
    let norm = GroupNorm { scale: scale_of(py, scale)?, ddof, eps };
    apart(&[("out", out)], &[("rewards", Some(rewards)), ("step_ends", Some(step_ends))])?;
    by_float!("rewards", rewards, of(norm, rewards, step_ends, cu_seqlens, groups, out))
}

#[pyfunction]
fn leave_one_out(
    py: Python<'_>,
    rewards: &Any<'_>,
    groups: &Any<'_>,
    missing: &str,
    alone: &str,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(c: (Missing, Alone), rewards: &Any<'_>, groups: &Any<'_>, out: &Any<'_>) -> PyResult<()> {
        by_group::<T, _>(rewards, groups, out, |rewards, groups, out| baselines::leave_one_out(rewards, groups, c, out))
    }
    let conventions = (missing_of(py, missing)?, alone_of(py, alone)?);
    by_float!("rewards", rewards, of(conventions, rewards, groups, out))
}

#[pyfunction]
fn opo(
    py: Python<'_>,
    rewards: &Any<'_>,
    lengths: &Any<'_>,
    groups: &Any<'_>,
    missing: &str,
    alone: &str,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(
        conventions: (Missing, Alone),
        rewards: &Any<'_>,
        lengths: &[i64],
        groups: &Any<'_>,
        out: &Any<'_>,
    ) -> PyResult<()> {
        by_group::<T, _>(rewards, groups, out, |rewards, groups, out| {
            baselines::opo(rewards, lengths, groups, conventions, out)
        })
    }
    let conventions = (missing_of(py, missing)?, alone_of(py, alone)?);
    let lengths = read::<i64>("lengths", lengths)?;
    by_float!("rewards", rewards, of(conventions, rewards, slice!(lengths), groups, out))
}

#[pyfunction]
fn maxrl(py: Python<'_>, rewards: &Any<'_>, groups: &Any<'_>, missing: &str, out: &Any<'_>) -> PyResult<()> {
    fn of<T: Float + Element>(missing: Missing, rewards: &Any<'_>, groups: &Any<'_>, out: &Any<'_>) -> PyResult<()> {
        by_group::<T, _>(rewards, groups, out, |rewards, groups, out| baselines::maxrl(rewards, groups, missing, out))
    }
    let missing = missing_of(py, missing)?;
    by_float!("rewards", rewards, of(missing, rewards, groups, out))
}

#[pyfunction]
fn passk_advantages(
    py: Python<'_>,
    rewards: &Any<'_>,
    groups: &Any<'_>,
    k: usize,
    missing: &str,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(
        m: Missing,
        k: usize,
        rewards: &Any<'_>,
        groups: &Any<'_>,
        out: &Any<'_>,
    ) -> PyResult<()> {
        by_group::<T, _>(rewards, groups, out, |rewards, groups, out| passk::passk(rewards, groups, k, m, out))
    }
    let missing = missing_of(py, missing)?;
    by_float!("rewards", rewards, of(missing, k, rewards, groups, out))
}

#[pyfunction]
fn passk_training_advantages(
    py: Python<'_>,
    rewards: &Any<'_>,
    groups: &Any<'_>,
    k: usize,
    missing: &str,
    out: &Any<'_>,
) -> PyResult<()> {
    fn of<T: Float + Element>(
        m: Missing,
        k: usize,
        rewards: &Any<'_>,
        groups: &Any<'_>,
        out: &Any<'_>,
    ) -> PyResult<()> {
        by_group::<T, _>(rewards, groups, out, |rewards, groups, out| passk::passk_training(rewards, groups, k, m, out))
    }
    let missing = missing_of(py, missing)?;
    by_float!("rewards", rewards, of(missing, k, rewards, groups, out))
}

#[pyfunction]
fn pass_at_k(py: Python<'_>, samples: &Any<'_>, correct: &Any<'_>, k: usize, out: &Any<'_>) -> PyResult<()> {
    let (samples, correct) = (read::<i64>("samples", samples)?, read::<i64>("correct", correct)?);
    let mut out = write::<f64>("out", out)?;
    let (samples, correct, out) = (slice!(samples), slice!(correct), slice_mut!(out));
    quick(py, || estimators::pass_at_k(samples, correct, k, out))
}

#[pyfunction]
fn maj_at_k(
    py: Python<'_>,
    answers: &Any<'_>,
    correct: &Any<'_>,
    groups: &Any<'_>,
    k: usize,
    ties: &str,
) -> PyResult<Vec<f64>> {
    let ties = word(py, "ties", ties, &[("shared", Ties::Shared), ("lost", Ties::Lost)])?;
    let (answers, correct) = (read::<i64>("answers", answers)?, read::<u8>("correct", correct)?);
    let ids = read::<i64>("groups", groups)?;
    let (answers, correct, ids) = (slice!(answers), slice!(correct), slice!(ids));
    quick(py, || estimators::maj_at_k(answers, correct, &Groups::new(ids), k, ties))
}

#[pyfunction]
#[pyo3(signature = (x, mask))]
fn moments_of(x: &Any<'_>, mask: Option<&Any<'_>>) -> PyResult<(f64, f64, f64)> {
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
fn whiten(
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
fn kl_tokens(
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
fn kl_shaped_rewards(
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
fn adaptive_entropy(
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
fn trajectory_pruning(
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
