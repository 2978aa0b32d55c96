//! What groups need of their elements.

use polmrs_core::dtype::{self, Dtype};
use polmrs_core::simd;

/// Independent partial results, so that a reduction is not one long chain.
const LANES: usize = 32;

/// `out = f(x)` for each element.
#[inline(always)]
pub(crate) fn map<T, U>(x: &[T], out: &mut [U], f: impl Fn(&T) -> U) {
    x.iter().zip(out).for_each(|(x, out)| *out = f(x));
}

/// Lanes to one, by halves: a chain over all of them would take longer than a group of elements does. `N` is a power of two.
#[inline(always)]
pub(crate) fn together<const N: usize>(mut lanes: [f32; N], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for at in 0..half {
            lanes[at] = f(lanes[at], lanes[at + half]);
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn less(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

#[inline(always)]
fn more(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The least and the greatest of some elements and a first one.
#[inline(always)]
fn extent_from(first: f32, x: &[f32]) -> (f32, f32) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let (mut low, mut high) = ([first; LANES], [first; LANES]);
    for x in whole {
        for lane in 0..LANES {
            low[lane] = less(low[lane], x[lane]);
            high[lane] = more(high[lane], x[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        low[lane] = less(low[lane], *x);
        high[lane] = more(high[lane], *x);
    }
    (together(low, less), together(high, more))
}

simd! {
    /// The least and the greatest element, with 0 among them: a grid always holds exact zero.
    pub(crate) fn extent(x: &[f32]) -> (f32, f32) {
        extent_from(0.0, x)
    }
}

simd! {
    /// The least and the greatest element.
    pub(crate) fn range(x: &[f32]) -> (f32, f32) {
        extent_from(x.first().copied().unwrap_or(0.0), x)
    }
}

simd! {
    /// The [`extent`] of each group.
    pub(crate) fn extents(x: &[f32], group: usize, out: &mut [(f32, f32)]) {
        for (x, out) in x.chunks(group.max(1)).zip(out) {
            *out = extent_from(0.0, x);
        }
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
    const PIECE: usize = 32;
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
