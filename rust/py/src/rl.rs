//! `polmrs._core.rl`: the kernels of `polmrs-rl` on flat numpy arrays. Outputs are arrays that Python made.

use crate::array::read;
use crate::error::to_py;
use numpy::{PyArrayDescrMethods, PyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use polmrs_core::Error;
use polmrs_rl::ragged::Ragged;
use pyo3::prelude::*;

type Any<'py> = Bound<'py, PyAny>;

/// Advantages, returns, KL and whitening over ragged batches.
#[pymodule]
pub(crate) mod rl {
    #[pymodule_export]
    use super::grouped::{
        group_advantages, leave_one_out, maj_at_k, maxrl, opo, pass_at_k, passk_advantages, passk_training_advantages,
        process_advantages,
    };
    #[pymodule_export]
    use super::recurrences::{discounted_returns, gae, vtrace};
    #[pymodule_export]
    use super::tokens::{adaptive_entropy, kl_shaped_rewards, kl_tokens, moments_of, trajectory_pruning, whiten};
}

/// Calls a generic function with the element type of an array: `float32` or `float64`.
macro_rules! by_float {
    ($name:literal, $array:expr, $call:ident($($arg:expr),* $(,)?)) => {
        if $array.cast::<PyArrayDyn<f32>>().is_ok() {
            $call::<f32>($($arg),*)
        } else if $array.cast::<PyArrayDyn<f64>>().is_ok() {
            $call::<f64>($($arg),*)
        } else {
            Err($crate::rl::no_float($name, $array))
        }
    };
}

fn no_float(name: &str, array: &Any<'_>) -> PyErr {
    let got = array.getattr("dtype").map_or_else(|_| array.get_type().to_string(), |dtype| dtype.to_string());
    to_py(array.py(), &Error::Array(format!("{name}: expected an array of float32 or float64, got {got}")))
}

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

mod grouped; // after the macros, which these use
mod recurrences;
mod tokens;

/// Refuses outputs that share memory with each other or with an input. The borrows of the numpy crate see arrays cut
/// from one array; this also sees views of one tensor or buffer.
fn apart(outputs: &[(&str, &Any<'_>)], inputs: &[(&str, Option<&Any<'_>>)]) -> PyResult<()> {
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
fn ragged(cu_seqlens: &Any<'_>, total: usize, of: &str) -> PyResult<Ragged> {
    let checked = if cu_seqlens.cast::<PyArrayDyn<i32>>().is_ok() {
        Ragged::new(slice!(read::<i32>("cu_seqlens", cu_seqlens)?), total, of)
    } else {
        Ragged::new(slice!(read::<i64>("cu_seqlens", cu_seqlens)?), total, of)
    };
    checked.map_err(|error| to_py(cu_seqlens.py(), &error))
}

/// A word as one of the values that it may name.
fn word<T: Copy>(py: Python<'_>, name: &str, value: &str, table: &[(&str, T)]) -> PyResult<T> {
    table.iter().find(|(known, _)| *known == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let known: Vec<_> = table.iter().map(|(known, _)| format!("'{known}'")).collect();
        to_py(py, &Error::Usage(format!("{name}: '{value}' is not one of {}", known.join(", "))))
    })
}
