//! The one YAML reader, for Python: documents as JSON text.

use crate::error::to_py;
use polmrs_core::Error;
use polmrs_io::yaml;
use pyo3::prelude::*;

/// Reading and writing YAML.
#[pymodule(submodule)]
pub(crate) mod config {
    #[pymodule_export]
    use super::{emit, parse};
}

/// Every document of a YAML text, as a JSON list; `origin` is its name in messages.
#[pyfunction]
fn parse(py: Python<'_>, text: &str, origin: &str) -> PyResult<String> {
    let documents = yaml::parse(text, origin).map_err(|error| to_py(py, &error))?;
    Ok(documents.iter().map(yaml::Node::to_json).collect::<serde_json::Value>().to_string())
}

/// JSON text as YAML.
#[pyfunction]
fn emit(py: Python<'_>, json: &str) -> PyResult<String> {
    let value = serde_json::from_str(json).map_err(|error| to_py(py, &Error::Config(error.to_string())))?;
    Ok(yaml::emit_json(&value))
}
