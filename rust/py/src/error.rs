//! The one conversion from the library's error to the classes of `polmrs.errors`.

use polmrs_core::Error;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

/// The Python exception for an error: the class in `polmrs.errors` that also inherits the stdlib type.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    let message = error.to_string();
    let class = match error {
        Error::Cancelled => return PyKeyboardInterrupt::new_err(()),
        Error::Usage(_) => "UsageError",
        Error::Config(_) => "ConfigError",
        Error::Checkpoint(_) => "CheckpointError",
        Error::Array(_) => "ArrayError",
        Error::NotFound(_) => "NotFoundError",
        Error::Exists(_) => "OutputExistsError",
        Error::Io { .. } => "StorageError",
        Error::NonFinite(_) => "NonFiniteError",
        Error::Internal(_) => "InternalError",
    };
    let errno = match error {
        Error::Io { source, .. } => source.raw_os_error(),
        _ => None,
    };
    let raised = py.import("polmrs.errors").and_then(|errors| errors.getattr(class)).and_then(|class| match errno {
        Some(errno) => class.call1((errno, message)),
        None => class.call1((message,)),
    });
    raised.map_or_else(|import_failed| import_failed, |value| PyErr::from_value(value))
}
