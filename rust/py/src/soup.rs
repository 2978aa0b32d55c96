//! Soups from Python: folders scored by a function of the caller's or by a command, and the recipe alone.

use crate::call::long;
use crate::error::to_py;
use crate::merge::{Raised, known, settings};
use crate::sweep::{By, Scorer};
use polmrs_core::{Dtype, Error};
use polmrs_merge::run::Settings;
use polmrs_merge::soup::{Soup, greedy};
use polmrs_merge::trial::Goal;
use polmrs_model::build;
use pyo3::prelude::*;
use std::path::PathBuf;

/// Scores models and their averages and keeps the greedy soup; gives the table as JSON.
///
/// `score` is a function, a command line or its words.
#[pyfunction]
#[pyo3(signature = (
    models, to, *, score, maximize, dtype, out_dtype, threads, shard_size, overwrite, resume, sync_every, verify, report,
    max_memory, allow_nonfinite, progress,
))]
#[allow(clippy::too_many_arguments, reason = "one Python call, keywords only")]
pub(crate) fn soup_folder(
    py: Python<'_>,
    models: Vec<String>,
    to: PathBuf,
    score: Bound<'_, PyAny>,
    maximize: bool,
    dtype: Option<String>,
    out_dtype: Option<String>,
    threads: Option<usize>,
    shard_size: u64,
    overwrite: bool,
    resume: bool,
    sync_every: u64,
    verify: bool,
    report: bool,
    max_memory: Option<u64>,
    allow_nonfinite: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<String> {
    let raised = Raised::default();
    let by = By::new(py, &score, raised.clone())?;
    let done = long(py, progress.as_ref(), |ctl| {
        let planned = settings(threads, shard_size, 0, max_memory)?;
        let build = build::Settings { overwrite, resume, sync_every, verify, report, allow_nonfinite, ..planned.build };
        let typed = |name: Option<String>| name.map(|name| known(&name)).transpose();
        let types: [Option<Dtype>; 2] = [typed(dtype)?, typed(out_dtype)?];
        let soup = Soup::new(&models, types, Settings { build, ..planned })?;
        let command = by.words();
        Ok(soup.greedy(&to, goal(maximize), &command, &mut Scorer { by, ctl }, ctl)?.to_string())
    });
    raised.instead_of(done)
}

/// A model that was tried: which, its score alone, that of the soup with it, whether it stayed.
type Row = (usize, f64, f64, bool);

/// The recipe over models that are known by their numbers: `(members, score, tried)`. `score` gets the numbers of
/// those that are averaged.
#[pyfunction]
pub(crate) fn greedy_recipe(
    py: Python<'_>,
    count: usize,
    maximize: bool,
    score: Bound<'_, PyAny>,
) -> PyResult<(Vec<usize>, f64, Vec<Row>)> {
    let raised = Raised::default();
    let found = greedy(count, goal(maximize), |members| {
        let score = score.call1((members.to_vec(),)).and_then(|score| score.extract::<f64>());
        score.map_err(|error| {
            raised.set(error);
            Error::Internal("the score raised an exception".into())
        })
    });
    let found = raised.instead_of(found.map_err(|error| to_py(py, &error)))?;
    let tried = found.tried.iter().map(|one| (one.model, one.alone, one.with_it, one.kept)).collect();
    Ok((found.members, found.score, tried))
}

fn goal(maximize: bool) -> Goal {
    if maximize { Goal::Maximize } else { Goal::Minimize }
}
