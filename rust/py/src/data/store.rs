//! Token stores, and rows of Python as flat arrays.

use crate::array::{Any, read};
use crate::call::{long, quick};
use crate::error::to_py;
use numpy::{PyArray1, PyArrayDyn, PyUntypedArrayMethods};
use polmrs_batch::store::{self, Store};
use polmrs_core::Error;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Rows, tokens, and the first bytes of ids, offsets and mask.
type Places = (usize, usize, usize, usize, Option<usize>);

/// Ids and offsets.
pub(super) type Flat<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<i64>>);

/// Checks a store; gives its counts and where its columns lie.
#[pyfunction]
pub(crate) fn open_store(py: Python<'_>, path: PathBuf) -> PyResult<Places> {
    let layout = quick(py, || Ok(Store::open(&path)?.layout()))?;
    Ok((layout.rows, layout.tokens, layout.ids, layout.offsets, layout.mask))
}

/// Compares the bytes of a store with the hash that was written.
#[pyfunction]
pub(crate) fn verify_store(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    long(py, None, |ctl| Store::open(&path)?.verify(ctl))
}

/// A store in the making.
#[pyclass]
pub(crate) struct Writer(Mutex<Option<store::Writer>>);

#[pymethods]
impl Writer {
    #[new]
    fn new(path: PathBuf, with_mask: bool, overwrite: bool, append: bool, py: Python<'_>) -> PyResult<Writer> {
        let made = quick(py, || match append {
            true => store::Writer::append(&path),
            false => store::Writer::create(&path, with_mask, overwrite),
        })?;
        Ok(Writer(Mutex::new(Some(made))))
    }

    /// Adds rows.
    #[pyo3(signature = (ids, offsets, mask))]
    fn push(&self, ids: &Any<'_>, offsets: &Any<'_>, mask: Option<&Any<'_>>) -> PyResult<usize> {
        let py = ids.py();
        let (ids, offsets) = (read::<i32>("ids", ids)?, read::<i64>("offsets", offsets)?);
        let mask = read_if!("mask", mask, u8);
        let (ids, offsets, mask) = (slice!(ids), slice!(offsets), mask.as_ref().map(|mask| slice!(mask)));
        quick(py, || {
            let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let writer = writer.as_mut().ok_or_else(closed)?;
            writer.push_rows(ids, offsets, mask)?;
            Ok(writer.rows())
        })
    }

    /// Gives the file its name.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        quick(py, || {
            let writer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            writer.ok_or_else(closed)?.finish().map(drop)
        })
    }

    /// Removes what was written.
    fn discard(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn closed() -> Error {
    Error::Usage("this writer is closed".into())
}

/// Rows (lists of integers, or arrays of int32 or int64) as flat int32 ids and int64 offsets.
#[pyfunction]
pub(crate) fn flatten<'py>(py: Python<'py>, rows: Vec<Any<'py>>) -> PyResult<Flat<'py>> {
    let mut ids: Vec<i32> = Vec::new();
    let mut offsets = Vec::with_capacity(rows.len() + 1);
    offsets.push(0);
    for (number, row) in rows.iter().enumerate() {
        let name = || format!("rows[{number}]");
        if row.cast::<PyArrayDyn<i32>>().is_ok() {
            ids.extend_from_slice(slice!(read::<i32>(&name(), row)?));
        } else if row.cast::<PyArrayDyn<i64>>().is_ok() {
            let row = read::<i64>(&name(), row)?;
            narrow_into(slice!(row), &mut ids).map_err(|error| to_py(py, &error.within(&name())))?;
        } else {
            let row: Vec<i64> = row.extract().map_err(|_| {
                let kind = row.getattr("dtype").map_or_else(|_| row.get_type().to_string(), |kind| kind.to_string());
                let rule = "expected a list of integers, or an array of int32 or int64";
                to_py(py, &Error::Array(format!("{}: {rule}, got {kind}", name())))
            })?;
            narrow_into(&row, &mut ids).map_err(|error| to_py(py, &error.within(&name())))?;
        }
        offsets.push(ids.len() as i64);
    }
    Ok((PyArray1::from_vec(py, ids), PyArray1::from_vec(py, offsets)))
}

/// Token ids of 64 bits as 32 bits.
#[pyfunction]
pub(crate) fn narrow<'py>(ids: &Any<'py>) -> PyResult<Bound<'py, PyArray1<i32>>> {
    let py = ids.py();
    let wide = read::<i64>("ids", ids)?;
    let mut narrow = Vec::with_capacity(wide.len());
    let wide = slice!(wide);
    quick(py, || narrow_into(wide, &mut narrow).map_err(|error| error.within("ids")))?;
    Ok(PyArray1::from_vec(py, narrow))
}

fn narrow_into(wide: &[i64], ids: &mut Vec<i32>) -> Result<(), Error> {
    if wide.iter().fold(0, |all, id| all | *id) as u64 <= i32::MAX as u64 {
        ids.extend(wide.iter().map(|id| *id as i32));
        return Ok(());
    }
    let bad = wide.iter().position(|id| !(0..=i64::from(i32::MAX)).contains(id)).unwrap_or(0);
    Err(Error::Array(format!("element {bad}: {} is not a token id, 0 to 2^31 - 1", wide[bad])))
}
