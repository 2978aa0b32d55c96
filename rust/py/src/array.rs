//! Arrays across the boundary, never copied: bf16, f16 and fp8 cross as unsigned integers of their width.

use crate::error::to_py;
use numpy::{
    Element, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods,
};
use polmrs_core::ragged::Ragged;
use polmrs_core::{Error, Result};
use pyo3::prelude::*;

pub(crate) type Any<'py> = Bound<'py, PyAny>;

/// Borrows an optional read-only array.
macro_rules! read_if {
    ($name:literal, $array:expr, $type:ty) => {
        match $array {
            Some(array) => Some(read::<$type>($name, array)?),
            None => None,
        }
    };
}

/// The elements of a borrowed array; `read` and `write` admit only contiguous ones.
macro_rules! slice {
    ($array:expr) => {
        $array.as_slice().unwrap_or_default()
    };
}

/// The elements of an exclusively borrowed array.
macro_rules! slice_mut {
    ($array:expr) => {
        $array.as_slice_mut().unwrap_or_default()
    };
}

/// A read-only borrow of a C-contiguous array; an error names the argument.
pub(crate) fn read<'py, T: Element>(name: &str, array: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let borrowed = typed::<T>(name, array).and_then(|array| {
        let shared = array.try_readonly().map_err(|_| refuse(name, "is being written by another call"))?;
        if array.is_c_contiguous() {
            Ok(shared)
        } else {
            Err(refuse(name, "is not C-contiguous; pass a contiguous copy"))
        }
    });
    borrowed.map_err(|error| to_py(array.py(), &error))
}

/// An exclusive borrow of a writable C-contiguous array; an error names the argument.
pub(crate) fn write<'py, T: Element>(name: &str, array: &Bound<'py, PyAny>) -> PyResult<PyReadwriteArrayDyn<'py, T>> {
    let borrowed = typed::<T>(name, array).and_then(|array| {
        let exclusive =
            array.try_readwrite().map_err(|_| refuse(name, "is read-only, or shares memory with another argument"))?;
        check_layout(name, array, exclusive.as_slice().is_ok())?;
        Ok(exclusive)
    });
    borrowed.map_err(|error| to_py(array.py(), &error))
}

fn typed<'py, 'a, T: Element>(name: &str, array: &'a Bound<'py, PyAny>) -> Result<&'a Bound<'py, PyArrayDyn<T>>> {
    array.cast::<PyArrayDyn<T>>().map_err(|_| {
        let wanted = T::get_dtype(array.py()).to_string();
        let got = array.getattr("dtype").map_or_else(|_| array.get_type().to_string(), |dtype| dtype.to_string());
        Error::Array(format!("{name}: expected an array of {wanted}, got {got}"))
    })
}

/// `is_slice`: whether numpy's crate gives the elements as a slice, for which they must be contiguous and aligned.
fn check_layout<T: Element>(name: &str, array: &Bound<'_, PyArrayDyn<T>>, is_slice: bool) -> Result<()> {
    match (array.is_c_contiguous(), is_slice) {
        (true, true) => Ok(()),
        (true, false) => Err(refuse(name, "is not aligned to its element size; pass a copy")),
        (false, _) => Err(refuse(name, "is not C-contiguous; pass a contiguous copy")),
    }
}

fn refuse(name: &str, rule: &str) -> Error {
    Error::Array(format!("{name}: the array {rule}"))
}

/// A read-only borrow of an array of unsigned integers of any width.
pub(crate) enum Bits<'py> {
    /// One byte an element.
    B1(PyReadonlyArrayDyn<'py, u8>),
    /// Two bytes.
    B2(PyReadonlyArrayDyn<'py, u16>),
    /// Four bytes.
    B4(PyReadonlyArrayDyn<'py, u32>),
    /// Eight bytes.
    B8(PyReadonlyArrayDyn<'py, u64>),
}

impl<'py> Bits<'py> {
    /// Borrows an array whose elements are `width` bytes wide.
    pub(crate) fn borrow(name: &str, array: &Bound<'py, PyAny>, width: usize) -> PyResult<Bits<'py>> {
        Ok(match width {
            1 => Bits::B1(read(name, array)?),
            2 => Bits::B2(read(name, array)?),
            4 => Bits::B4(read(name, array)?),
            _ => Bits::B8(read(name, array)?),
        })
    }

    /// The elements' bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // `read` admits C-contiguous arrays only, so `as_slice` always answers.
        match self {
            Bits::B1(array) => array.as_slice().unwrap_or_default(),
            Bits::B2(array) => bytemuck::cast_slice(array.as_slice().unwrap_or_default()),
            Bits::B4(array) => bytemuck::cast_slice(array.as_slice().unwrap_or_default()),
            Bits::B8(array) => bytemuck::cast_slice(array.as_slice().unwrap_or_default()),
        }
    }
}

impl Bits<'_> {
    /// The sizes of the dimensions.
    pub(crate) fn shape(&self) -> Vec<u64> {
        let shape = match self {
            Bits::B1(array) => array.shape(),
            Bits::B2(array) => array.shape(),
            Bits::B4(array) => array.shape(),
            Bits::B8(array) => array.shape(),
        };
        shape.iter().map(|size| *size as u64).collect()
    }
}

/// An exclusive borrow of an array of unsigned integers of any width.
pub(crate) enum Exclusive<'py> {
    /// One byte an element.
    B1(PyReadwriteArrayDyn<'py, u8>),
    /// Two bytes.
    B2(PyReadwriteArrayDyn<'py, u16>),
    /// Four bytes.
    B4(PyReadwriteArrayDyn<'py, u32>),
    /// Eight bytes.
    B8(PyReadwriteArrayDyn<'py, u64>),
}

impl<'py> Exclusive<'py> {
    /// Borrows an array, whatever the width of its elements.
    pub(crate) fn borrow(name: &str, array: &Bound<'py, PyAny>) -> PyResult<Exclusive<'py>> {
        Ok(match array.getattr("itemsize")?.extract()? {
            1 => Exclusive::B1(write(name, array)?),
            2 => Exclusive::B2(write(name, array)?),
            4 => Exclusive::B4(write(name, array)?),
            _ => Exclusive::B8(write(name, array)?),
        })
    }

    /// The elements' bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // `write` admits C-contiguous arrays only, so `as_slice_mut` always answers.
        match self {
            Exclusive::B1(array) => array.as_slice_mut().unwrap_or_default(),
            Exclusive::B2(array) => bytemuck::cast_slice_mut(array.as_slice_mut().unwrap_or_default()),
            Exclusive::B4(array) => bytemuck::cast_slice_mut(array.as_slice_mut().unwrap_or_default()),
            Exclusive::B8(array) => bytemuck::cast_slice_mut(array.as_slice_mut().unwrap_or_default()),
        }
    }
}

/// Refuses outputs that share memory with each other or with an input. The borrows of the numpy crate see arrays cut
/// from one array; this also sees views of one tensor or buffer.
pub(crate) fn apart(outputs: &[(&str, &Any<'_>)], inputs: &[(&str, Option<&Any<'_>>)]) -> PyResult<()> {
    let mut seen = Vec::new();
    for (name, array) in inputs.iter().filter_map(|(name, array)| array.map(|array| (*name, array))) {
        seen.push((name, bytes(array)));
    }
    for (name, array) in outputs {
        let mine = bytes(array);
        for (other, theirs) in &seen {
            if mine.0 < theirs.1 && theirs.0 < mine.1 {
                return Err(to_py(
                    array.py(),
                    &Error::Array(format!("{name}: shares memory with {other}; pass another array")),
                ));
            }
        }
        seen.push((*name, mine));
    }
    Ok(())
}

/// The addresses of an array's elements; the array is contiguous, or will be refused by `read` or `write`.
fn bytes(array: &Any<'_>) -> (usize, usize) {
    let Ok(array) = array.cast::<PyUntypedArray>() else { return (0, 0) };
    // SAFETY: a live array object; its data pointer is read, not followed.
    let start = unsafe { (*array.as_array_ptr()).fields.data } as usize;
    (start, start + array.len() * array.dtype().itemsize())
}

/// Reads `cu_seqlens` of either width.
pub(crate) fn ragged(cu_seqlens: &Any<'_>, total: usize, of: &str) -> PyResult<Ragged> {
    let checked = if cu_seqlens.cast::<PyArrayDyn<i32>>().is_ok() {
        Ragged::new(slice!(read::<i32>("cu_seqlens", cu_seqlens)?), total, of)
    } else {
        Ragged::new(slice!(read::<i64>("cu_seqlens", cu_seqlens)?), total, of)
    };
    checked.map_err(|error| to_py(cu_seqlens.py(), &error))
}

/// A word as one of the values that it may name.
pub(crate) fn word<T: Copy>(py: Python<'_>, name: &str, value: &str, table: &[(&str, T)]) -> PyResult<T> {
    table.iter().find(|(known, _)| *known == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known: Vec<_> = table.iter().map(|(known, _)| format!("'{known}'")).collect();
        to_py(py, &Error::Usage(format!("{name}: '{value}' is not one of {}", known.join(", "))))
    })
}
