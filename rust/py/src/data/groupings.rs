//! Packs, batches under a budget, and ranks.

use crate::array::{Any, read, word};
use crate::call::quick;
use numpy::PyArray1;
use polmrs_batch::balance::{Method, balance as spread};
use polmrs_batch::bucket::Buckets;
use polmrs_batch::pack::{Grouping, Strategy, TooLong, pack as pack_up};
use pyo3::prelude::*;

/// Flat integers of 64 bits.
type Longs<'py> = Bound<'py, PyArray1<i64>>;
/// Order, bounds, dropped.
type Grouped<'py> = (Longs<'py>, Longs<'py>, Longs<'py>);

fn arrays(py: Python<'_>, made: Grouping) -> Grouped<'_> {
    (PyArray1::from_vec(py, made.order), PyArray1::from_vec(py, made.bounds), PyArray1::from_vec(py, made.dropped))
}

fn too_long_of(py: Python<'_>, value: &str) -> PyResult<TooLong> {
    word(py, "too_long", value, &[("refuse", TooLong::Refuse), ("drop", TooLong::Drop)])
}

/// Packs of at most `capacity` tokens.
#[pyfunction]
#[pyo3(signature = (lengths, capacity, strategy, too_long, seed))]
pub(crate) fn pack<'py>(
    lengths: &Any<'py>,
    capacity: usize,
    strategy: &str,
    too_long: &str,
    seed: Option<u64>,
) -> PyResult<Grouped<'py>> {
    let py = lengths.py();
    let strategies = [
        ("best_fit_decreasing", Strategy::BestFitDecreasing),
        ("first_fit_decreasing", Strategy::FirstFitDecreasing),
        ("first_fit", Strategy::FirstFit),
        ("sequential", Strategy::Sequential),
    ];
    let (strategy, too_long) = (word(py, "strategy", strategy, &strategies)?, too_long_of(py, too_long)?);
    let lengths = read::<i64>("lengths", lengths)?;
    let lengths = slice!(lengths);
    Ok(arrays(py, quick(py, || pack_up(lengths, capacity, strategy, too_long, seed))?))
}

/// Batches of about equal lengths.
#[pyfunction]
#[pyo3(signature = (lengths, max_tokens, padded, window, too_long, seed))]
pub(crate) fn token_batches<'py>(
    lengths: &Any<'py>,
    max_tokens: usize,
    padded: bool,
    window: usize,
    too_long: &str,
    seed: Option<u64>,
) -> PyResult<Grouped<'py>> {
    let py = lengths.py();
    let buckets = Buckets { max_tokens, padded, window, too_long: too_long_of(py, too_long)?, seed };
    let lengths = read::<i64>("lengths", lengths)?;
    let lengths = slice!(lengths);
    Ok(arrays(py, quick(py, || buckets.run(lengths))?))
}

/// Sequences over ranks.
#[pyfunction]
pub(crate) fn balance<'py>(costs: &Any<'py>, ranks: usize, method: &str, equal: bool) -> PyResult<Grouped<'py>> {
    let py = costs.py();
    let methods = [("karmarkar_karp", Method::KarmarkarKarp), ("greedy", Method::Greedy)];
    let method = word(py, "method", method, &methods)?;
    let costs = read::<i64>("costs", costs)?;
    let costs = slice!(costs);
    Ok(arrays(py, quick(py, || spread(costs, ranks, method, equal))?))
}
