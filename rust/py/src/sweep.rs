//! Sweeps from Python: candidates are scored by a function of the caller's or by a command.

use crate::call::long;
use crate::error::to_py;
use crate::merge::{Raised, settings};
use polmrs_core::{Ctl, Error, Result};
use polmrs_io::yaml::{self, Node, Value};
use polmrs_merge::run::Settings;
use polmrs_merge::score::Command;
use polmrs_merge::sweep::{Over, Sweep};
use polmrs_merge::trial::{Goal, Judge, Trial};
use polmrs_model::build;
use pyo3::prelude::*;
use std::path::{Path, PathBuf};

/// Merges every candidate, scores it and keeps the best; gives the table as JSON.
///
/// `over` is a JSON object of lists, `score` a function, a command line or its words.
#[pyfunction]
#[pyo3(signature = (
    config, origin, to, *, over, score, maximize, threads, shard_size, seed, overwrite, resume, sync_every, verify, report,
    max_memory, allow_nonfinite, progress,
))]
#[allow(clippy::too_many_arguments, reason = "one Python call, keywords only")]
pub(crate) fn sweep_folder(
    py: Python<'_>,
    config: &str,
    origin: &str,
    to: PathBuf,
    over: &str,
    score: Bound<'_, PyAny>,
    maximize: bool,
    threads: Option<usize>,
    shard_size: u64,
    seed: u64,
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
    let goal = if maximize { Goal::Maximize } else { Goal::Minimize };
    let done = long(py, progress.as_ref(), |ctl| {
        let over = overrides(over)?;
        let planned = settings(threads, shard_size, seed, max_memory)?;
        let build = build::Settings { overwrite, resume, sync_every, verify, report, allow_nonfinite, ..planned.build };
        let settings = Settings { build, ..planned };
        let sweep = Sweep::new(&yaml::parse(config, origin)?, &over, settings)?;
        let command = by.words();
        Ok(sweep.run(&to, goal, &command, &mut Scorer { by, ctl }, ctl)?.to_string())
    });
    raised.instead_of(done)
}

/// What scores.
pub(crate) enum By {
    Function(Py<PyAny>, Raised),
    Command(Command),
}

impl By {
    pub(crate) fn new(py: Python<'_>, score: &Bound<'_, PyAny>, raised: Raised) -> PyResult<By> {
        if score.is_callable() {
            return Ok(By::Function(score.clone().unbind(), raised));
        }
        let command = match score.extract::<String>() {
            Ok(line) => Command::parse(&line),
            Err(_) => Command::new(score.extract::<Vec<String>>()?),
        };
        command.map(By::Command).map_err(|error| to_py(py, &error))
    }

    /// What tells one scorer from another, as far as anything can.
    pub(crate) fn words(&self) -> Vec<String> {
        match self {
            By::Function(..) => vec!["a function".into()],
            By::Command(command) => command.words().to_vec(),
        }
    }
}

/// Scores for a run that may be cancelled.
pub(crate) struct Scorer<'a> {
    pub(crate) by: By,
    pub(crate) ctl: &'a Ctl,
}

impl Judge for Scorer<'_> {
    fn score(&mut self, trial: Trial<'_>, model: &Path, scratch: &Path) -> Result<f64> {
        match &self.by {
            By::Command(command) => command.score(model, scratch, self.ctl),
            By::Function(function, raised) => {
                let call = |py: Python<'_>| function.call1(py, (model,))?.extract::<f64>(py);
                let score = Python::attach(|py| {
                    call(py).map_err(|error| {
                        let noted =
                            error.value(py).call_method1("add_note", (format!("in the score of {}", trial.label),));
                        raised.set(noted.map_or_else(|failed| failed, |_| error));
                        Error::Internal("the score raised an exception".into())
                    })
                })?;
                if score.is_finite() {
                    Ok(score)
                } else {
                    Err(Error::Usage(format!("score: {score} is not a finite number")))
                }
            }
        }
    }
}

/// `{"density": [0.1, 0.3]}` as parameters and their values.
fn overrides(json: &str) -> Result<Vec<Over>> {
    let node: Node = yaml::parse_one(json, "over")?;
    let Value::Map(map) = node.value else {
        return Err(Error::Usage("over: a map of parameters to values is needed".into()));
    };
    let one = |entry: &yaml::Entry| match &entry.value.value {
        Value::List(values) => Over::new(&entry.key, values.clone()),
        _ => Err(Error::Usage(format!("over['{}']: a list of values is needed", entry.key))),
    };
    map.iter().map(one).collect()
}
