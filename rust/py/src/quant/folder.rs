//! Whole checkpoints: `polmrs.quantize.quantize` and its plan.

use crate::call::{long, quick};
use polmrs_core::{Result, pool};
use polmrs_model::build::Settings;
use polmrs_quant::check;
use polmrs_quant::program::Config;
use polmrs_quant::run::Prepared;
use pyo3::prelude::*;
use std::path::PathBuf;

/// What is asked for, as the command line says it.
#[derive(FromPyObject)]
pub(super) struct Asked {
    source: String,
    scheme: String,
    method: String,
    format: Option<String>,
    exclude: Vec<String>,
    rules: Vec<String>,
    compat: bool,
    stats: Option<PathBuf>,
}

impl Asked {
    fn prepare(&self, settings: Settings) -> Result<Prepared> {
        let Asked { source, scheme, method, format, exclude, rules, compat, stats } = self;
        let config = Config::parse(scheme, method, format.as_deref(), exclude, rules, *compat, stats.as_deref())?;
        Prepared::new(source, config, settings)
    }
}

fn settings(threads: Option<usize>, shard_size: u64, max_memory: Option<u64>) -> Result<Settings> {
    let threads = threads.map_or_else(pool::default_threads, Ok)?;
    Ok(Settings { threads, shard_size, max_memory, ..Settings::default() })
}

/// Quantizes a model into a folder; gives the report as JSON.
#[pyfunction]
#[pyo3(signature = (
    asked, to, *, threads, shard_size, overwrite, resume, sync_every, verify, report, max_memory, progress
))]
#[allow(clippy::too_many_arguments, reason = "one Python call, keywords only")]
pub(super) fn quantize_folder(
    py: Python<'_>,
    asked: Asked,
    to: PathBuf,
    threads: Option<usize>,
    shard_size: u64,
    overwrite: bool,
    resume: bool,
    sync_every: u64,
    verify: bool,
    report: bool,
    max_memory: Option<u64>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<String> {
    long(py, progress.as_ref(), |ctl| {
        let planned = settings(threads, shard_size, max_memory)?;
        let report = report || asked.stats.is_some();
        let settings = Settings { overwrite, resume, sync_every, verify, report, ..planned };
        Ok(asked.prepare(settings)?.run(&to, ctl)?.to_string())
    })
}

/// Plans the same from headers alone; gives the plan as JSON.
#[pyfunction]
#[pyo3(signature = (asked, *, threads, shard_size, max_memory))]
pub(super) fn plan_folder(
    py: Python<'_>,
    asked: Asked,
    threads: Option<usize>,
    shard_size: u64,
    max_memory: Option<u64>,
) -> PyResult<String> {
    long(py, None, |_| {
        // A model on the Hub may keep it waiting.
        Ok(asked.prepare(settings(threads, shard_size, max_memory)?)?.describe().to_string())
    })
}

/// What a loader would trip over in a folder, as JSON.
#[pyfunction]
pub(super) fn check_folder(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    quick(py, || Ok(check::check_folder(&path)?.to_json().to_string()))
}
