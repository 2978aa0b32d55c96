//! What groups need of their elements.

use polmrs_core::dtype::{self, Dtype};
use polmrs_core::simd;

/// Independent partial results, so that a reduction is not one long chain.
const LANES: usize = 32;

simd! {
    /// The least and the greatest element, with 0 among them: a grid always holds exact zero.
    pub(crate) fn extent(x: &[f32]) -> (f32, f32) {
        let (whole, rest) = x.as_chunks::<LANES>();
        let (mut low, mut high) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        for x in whole {
            for lane in 0..LANES {
                low[lane] = if x[lane] < low[lane] { x[lane] } else { low[lane] };
                high[lane] = if x[lane] > high[lane] { x[lane] } else { high[lane] };
            }
        }
        for (lane, x) in rest.iter().enumerate() {
            low[lane] = low[lane].min(*x);
            high[lane] = high[lane].max(*x);
        }
        (low.into_iter().fold(0.0, f32::min), high.into_iter().fold(0.0, f32::max))
    }
}

/// The greatest magnitude.
pub(crate) fn absmax(x: &[f32]) -> f32 {
    let (low, high) = extent(x);
    high.max(-low)
}

/// Rounds scales to the type that a file stores them in; a scale of 0 becomes the type's epsilon, so that nothing
/// divides by it (as compressed-tensors has it).
pub(crate) fn round_scales(scales: &mut [f32], dtype: Dtype) {
    const PIECE: usize = 256;
    let mut bytes = [0; 8 * PIECE];
    for scales in scales.chunks_mut(PIECE) {
        let bytes = &mut bytes[..scales.len() * dtype.size()];
        dtype::from_f32(dtype, scales, bytes);
        dtype::to_f32(dtype, bytes, scales);
        scales.iter_mut().filter(|scale| **scale == 0.0).for_each(|scale| *scale = epsilon(dtype));
    }
}

/// The distance from 1 to the next number of a type.
fn epsilon(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F8E4M3 => 0.125,
        Dtype::F8E5M2 => 0.25,
        Dtype::F16 => 9.765_625e-4,
        Dtype::BF16 => 7.812_5e-3,
        _ => f32::EPSILON,
    }
}

/// Calls `f` for each group of `x` with the items of the same place in `per_group`.
pub(crate) fn each<'a, T>(
    x: &'a [f32],
    group: usize,
    per_group: &'a mut [T],
) -> impl Iterator<Item = (&'a [f32], &'a mut T)> {
    assert_eq!(x.len(), group * per_group.len(), "{} elements are not {} groups of {group}", x.len(), per_group.len());
    x.chunks_exact(group.max(1)).zip(per_group)
}
