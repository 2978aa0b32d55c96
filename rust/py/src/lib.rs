//! The extension module `polmrs._core`: array conversions, the two call wrappers and the error map. No logic.

mod array;
mod call;
mod error;

use pyo3::prelude::*;

/// The native half of polmrs.
#[pymodule]
mod _core {
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
