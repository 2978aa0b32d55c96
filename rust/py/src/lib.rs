//! The extension module `polmrs._core`: array conversions, the two call wrappers and the error map. No logic.

#[macro_use] // the macros below it
mod array;
mod bm25;
mod call;
mod config;
mod data;
mod error;
mod merge;
mod quant;
mod rl;
mod search;
mod soup;
mod sweep;

use pyo3::prelude::*;
use std::ffi::OsString;

/// The native half of polmrs.
#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::{cli, python_verb};
    #[pymodule_export]
    use crate::config::config;
    #[pymodule_export]
    use crate::data::data;
    #[pymodule_export]
    use crate::merge::merge;
    #[pymodule_export]
    use crate::quant::quant;
    #[pymodule_export]
    use crate::rl::rl;
    #[pymodule_export]
    use crate::search::search;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        polmrs_cli::compose();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// Runs a command line, its first item the program's name; gives the exit code.
#[pyfunction]
fn cli(py: Python<'_>, args: Vec<OsString>) -> PyResult<i32> {
    call::long(py, None, |ctl| Ok(polmrs_cli::run(args, ctl)))
}

/// The verb and arguments, as JSON, of a command line that Python carries out; none for one that [`cli`] does.
#[pyfunction]
fn python_verb(args: Vec<OsString>) -> Option<String> {
    polmrs_cli::python_verb(args).map(|asked| asked.to_string())
}
