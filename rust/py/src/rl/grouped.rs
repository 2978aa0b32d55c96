//! Advantages relative to the samples of the same prompt, and what is estimated over them.

use crate::array::{Any, apart, ragged, read, word, write};
use crate::call::quick;
use numpy::{Element, PyArrayDyn, PyUntypedArrayMethods};
use polmrs_core::Result;
use polmrs_rl::estimators::{self, Ties};
use polmrs_rl::float::Float;
use polmrs_rl::group::{GroupNorm, Scale};
use polmrs_rl::groups::{Alone, Counts, Groups, Missing};
use polmrs_rl::{baselines, passk};
use pyo3::prelude::*;

fn scale_of(py: Python<'_>, value: &str) -> PyResult<Scale> {
    word(py, "scale", value, &[("std", Scale::Std), ("mad", Scale::Mad), ("none", Scale::One)])
}

fn missing_of(py: Python<'_>, value: &str) -> PyResult<Missing> {
    word(py, "missing", value, &[("exclude", Missing::Exclude), ("refuse", Missing::Refuse)])
}

fn alone_of(py: Python<'_>, value: &str) -> PyResult<Alone> {
    word(py, "alone", value, &[("zero", Alone::Zero), ("reward", Alone::Reward)])
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
pub(crate) fn group_advantages(
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
pub(crate) fn process_advantages(
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
pub(crate) fn leave_one_out(
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
pub(crate) fn opo(
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
pub(crate) fn maxrl(py: Python<'_>, rewards: &Any<'_>, groups: &Any<'_>, missing: &str, out: &Any<'_>) -> PyResult<()> {
    fn of<T: Float + Element>(missing: Missing, rewards: &Any<'_>, groups: &Any<'_>, out: &Any<'_>) -> PyResult<()> {
        by_group::<T, _>(rewards, groups, out, |rewards, groups, out| baselines::maxrl(rewards, groups, missing, out))
    }
    let missing = missing_of(py, missing)?;
    by_float!("rewards", rewards, of(missing, rewards, groups, out))
}

#[pyfunction]
pub(crate) fn passk_advantages(
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
pub(crate) fn passk_training_advantages(
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
pub(crate) fn pass_at_k(py: Python<'_>, samples: &Any<'_>, correct: &Any<'_>, k: usize, out: &Any<'_>) -> PyResult<()> {
    let (samples, correct) = (read::<i64>("samples", samples)?, read::<i64>("correct", correct)?);
    let mut out = write::<f64>("out", out)?;
    let (samples, correct, out) = (slice!(samples), slice!(correct), slice_mut!(out));
    quick(py, || estimators::pass_at_k(samples, correct, k, out))
}

#[pyfunction]
pub(crate) fn maj_at_k(
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
