//! Recurrences over time: GAE, returns, V-trace.

use crate::array::{Any, apart, ragged, read, word, write};
use crate::call::quick;
use numpy::{Element, PyArrayDyn, PyUntypedArrayMethods};
use polmrs_rl::float::Float;
use polmrs_rl::gae::Gae;
use polmrs_rl::holes::Holes;
use polmrs_rl::returns;
use polmrs_rl::vtrace::Vtrace;
use pyo3::prelude::*;

fn holes_of(py: Python<'_>, value: &str) -> PyResult<Holes> {
    let table = [("carry", Holes::Carry), ("decay", Holes::Decay), ("ignore", Holes::Ignore), ("reset", Holes::Reset)];
    word(py, "holes", value, &table)
}

#[pyfunction]
#[pyo3(signature = (rewards, values, cu_seqlens, mask, bootstrap, gamma, lam, lam_value, holes, advantages, returns))]
#[allow(clippy::too_many_arguments)] // the columns of the batch
pub(crate) fn gae(
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
pub(crate) fn discounted_returns(
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
pub(crate) fn vtrace<'py>(
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
        &[
            ("log_ratios", Some(log_ratios)),
            ("rewards", Some(rewards)),
            ("values", Some(values)),
            ("mask", mask),
            ("bootstrap", bootstrap),
        ],
    )?;
    by_float!("rewards", rewards, of(settings, &columns, cu_seqlens, mask, bootstrap, &outputs))
}
