//! The two ways into Rust: `quick` for calls of milliseconds, `long` for calls that a person may want to stop.

use crate::error::to_py;
use polmrs_core::{Ctl, Error, Result};
use pyo3::prelude::*;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Between two looks at signals and progress.
const POLL: Duration = Duration::from_millis(50);

/// Runs `work` with the GIL released.
pub(crate) fn quick<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| to_py(py, &error))
}

/// Runs `work` on a thread of its own with the GIL released; every 50 ms, answers Ctrl-C and calls
/// `progress(done, total)` (bytes). An exception in either cancels the work and is raised once it has stopped.
pub(crate) fn long<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Ctl) -> Result<T> + Send,
) -> PyResult<T> {
    let ctl = Ctl::new();
    thread::scope(|scope| {
        let (finished, mut waiting) = mpsc::channel::<()>();
        let worker = scope.spawn(|| {
            let result = work(&ctl);
            drop(finished);
            result
        });
        let mut seen = (0, 0);
        let interrupted = loop {
            let (next, still) = py.detach(|| {
                let outcome = waiting.recv_timeout(POLL);
                (waiting, outcome == Err(mpsc::RecvTimeoutError::Timeout))
            });
            waiting = next;
            if !still {
                break None;
            }
            let now = ctl.progress();
            let watched = py.check_signals().and_then(|()| match progress {
                Some(callback) if now != seen => callback.call1(now).map(drop),
                _ => Ok(()),
            });
            seen = now;
            if let Err(raised) = watched {
                ctl.cancel();
                break Some(raised);
            }
        };
        let outcome = py.detach(|| worker.join());
        if let Some(raised) = interrupted {
            return Err(raised);
        }
        match outcome {
            Ok(result) => result.map_err(|error| to_py(py, &error)),
            Err(_) => Err(to_py(py, &Error::Internal("a worker thread panicked".into()))),
        }
    })
}
