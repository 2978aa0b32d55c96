//! `polmrs._core.rl`: the kernels of `polmrs-rl` on flat numpy arrays. Outputs are arrays that Python made.

use crate::array::Any;
use crate::error::to_py;
use polmrs_core::Error;
use pyo3::prelude::*;

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

mod grouped; // after the macros, which these use
mod recurrences;
mod tokens;
