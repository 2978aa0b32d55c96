//! Task vectors of a block: every model minus the base.

use crate::ranking::Streams;
use polmrs_core::simd;
use std::sync::Arc;

/// The task vector of each model as a stream; the base is input 0.
pub(super) fn deltas() -> Streams {
    Arc::new(|block, model, out| {
        subtract(out, block.input(model + 1), block.input(0));
        Ok(())
    })
}

simd! {
    pub(super) fn subtract(delta: &mut [f32], x: &[f32], base: &[f32]) {
        for ((delta, x), base) in delta.iter_mut().zip(x).zip(base) {
            *delta = x - base;
        }
    }
}
