//! Texts as token rows, by a `tokenizer.json`.

use super::store::Flat;
use crate::call::{long, quick};
use numpy::PyArray1;
use polmrs_batch::text::{self, Settings};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use std::path::PathBuf;

/// An open tokenizer.
#[pyclass(frozen)]
pub(crate) struct Tokenizer(text::Tokenizer);

#[pymethods]
impl Tokenizer {
    #[new]
    #[pyo3(signature = (path, special_tokens, eos, max_length))]
    fn new(
        path: PathBuf,
        special_tokens: bool,
        eos: Option<String>,
        max_length: Option<usize>,
        py: Python<'_>,
    ) -> PyResult<Tokenizer> {
        let settings = Settings { special_tokens, eos, max_length };
        quick(py, || text::Tokenizer::open(&path, &settings)).map(Tokenizer)
    }

    /// Flat ids and offsets of texts; an error calls them `documents`, and counts from `first`.
    fn rows<'py>(&self, py: Python<'py>, texts: Vec<PyBackedStr>, first: usize) -> PyResult<Flat<'py>> {
        let row = |i: usize| {
            let named = || format!("documents[{}]", first + i);
            self.0.row(&texts[i]).map_err(|error| error.within(&named()))
        };
        let (ids, offsets) = long(py, None, |ctl| text::rows(texts.len(), ctl, row))?;
        Ok((PyArray1::from_vec(py, ids), PyArray1::from_vec(py, offsets)))
    }
}
