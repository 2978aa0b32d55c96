//! One tensor as a header describes it.

use super::json::quote;
use polmrs_core::Dtype;

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name in the checkpoint.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// The sizes of the dimensions; none for a scalar.
    pub shape: Vec<u64>,
    /// Which file of the checkpoint holds it.
    pub(super) file: u32,
    /// First byte: from the end of the header in a [`Header`], from the start of the file in a checkpoint.
    pub(super) start: u64,
    /// One past the last byte, counted alike.
    pub(super) end: u64,
}

impl Tensor {
    /// How many numbers it holds.
    pub fn elements(&self) -> u64 {
        self.nbytes() / self.dtype.size() as u64
    }

    /// How many bytes it takes.
    pub fn nbytes(&self) -> u64 {
        self.end - self.start
    }

    /// `tensor 'name'`, for messages.
    pub(super) fn called(&self) -> String {
        format!("tensor {}", quote(&self.name))
    }
}

/// The bytes that a tensor takes, multiplied from the left; none where a product leaves 64 bits.
pub(super) fn nbytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size))?.checked_mul(dtype.size() as u64)
}

/// Positions of the tensors in the order of their names: found by binary search.
pub(super) fn by_name(tensors: &[Tensor]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by(|a, b| tensors[*a as usize].name.cmp(&tensors[*b as usize].name));
    order
}
