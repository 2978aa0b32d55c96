//! From the tensors that a checkpoint holds for a module to the layout that they are in.

use super::{Format, Layout, Part, awq, bnb, compressed_tensors, fp8, gptq};
use polmrs_core::{Dtype, Error, Result};

/// The tensors of one module: suffix, type and shape, and the bytes of the small ones.
pub struct Held<'a> {
    /// Suffix, type, shape.
    pub tensors: Vec<(&'a str, Dtype, &'a [u64])>,
    /// The bytes of a tensor, by its suffix. Asked only for `weight_shape` and bitsandbytes' state.
    pub bytes: &'a dyn Fn(&str) -> Result<Vec<u8>>,
}

/// What a configuration says of every module, for what their tensors leave open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stated {
    /// Bits of a code, where rows are short.
    pub bits: Option<u32>,
    /// Rows and columns of FP8's blocks; 128 of both without it.
    pub block: Option<[usize; 2]>,
}

/// A weight that is stored in a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How.
    pub layout: Layout,
    /// The weight's rows.
    pub rows: usize,
    /// The weight's columns.
    pub columns: usize,
}

impl Held<'_> {
    /// Type and shape of a tensor.
    pub(super) fn find(&self, suffix: &str) -> Option<(Dtype, &[u64])> {
        self.tensors.iter().find(|(name, ..)| *name == suffix).map(|(_, dtype, shape)| (*dtype, *shape))
    }

    /// An axis of a tensor that has to be there.
    pub(super) fn axis(&self, suffix: &str, at: usize) -> Result<usize> {
        let (_, shape) = self.find(suffix).ok_or_else(|| Error::Checkpoint(format!("{suffix}: not there")))?;
        match shape.get(at) {
            Some(size) if (1..1 << 40).contains(size) => Ok(*size as usize),
            _ => Err(Error::Checkpoint(format!("{suffix}: shape {shape:?} has no axis {at}, or an empty one"))),
        }
    }

    /// The layout of these tensors.
    ///
    /// # Errors
    /// A tensor is missing, or has another type or shape than the format gives it.
    pub fn recognise(&self, format: Format, stated: Stated) -> Result<Stored> {
        let stored = match format {
            Format::CompressedTensors => compressed_tensors::recognise(self, stated.bits),
            Format::Gptq | Format::GptqV2 => gptq::recognise(self, format),
            Format::Awq => awq::recognise(self),
            Format::Bnb => bnb::recognise(self),
            Format::Fp8 => fp8::recognise(self, stated.block),
        }?;
        if !stored.layout.dtype.is_float() {
            return Err(Error::Checkpoint(format!("scales: {} is no type of scales", stored.layout.dtype.name())));
        }
        for tensor in stored.layout.tensors(stored.rows, stored.columns)? {
            let Some((dtype, shape)) = self.find(tensor.suffix) else {
                return Err(Error::Checkpoint(format!("{}: not there", tensor.suffix)));
            };
            // What is written once may be a scalar; the state's length is the writer's own.
            let size = |shape: &[u64]| shape.iter().try_fold(1_u64, |size, axis| size.checked_mul(*axis));
            let free = tensor.part == Part::Whole && size(shape) == size(&tensor.shape);
            if dtype != tensor.dtype || !(free || shape == tensor.shape || bnb::is_state(tensor.suffix)) {
                let (name, wanted) = (dtype.name(), tensor.dtype.name());
                let rule = format!("{} of {:?} is expected", wanted, tensor.shape);
                return Err(Error::Checkpoint(format!("{}: {name} of {shape:?}, where {rule}", tensor.suffix)));
            }
        }
        Ok(stored)
    }
}
