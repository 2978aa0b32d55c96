//! FP8 E4M3 with a scale for each group, or each block of rows and columns: `s = max|x| / 448`, `q = e4m3(x / s)`.

use crate::group::{absmax, each, map, round_scales};
use polmrs_core::{Dtype, dtype, simd};

/// The greatest E4M3 number.
pub const MAX: f32 = 448.0;

/// The scale of each group of `group` elements, rounded to the type that it is stored in.
///
/// # Panics
/// If `x` is not as many whole groups as there are `scales`.
pub fn fit(x: &[f32], group: usize, scale_dtype: Dtype, scales: &mut [f32]) {
    each(x, group, scales).for_each(|(x, scale)| *scale = absmax(x) / MAX);
    round_scales(scales, scale_dtype);
}

/// The scale of each `wide` columns of all these rows (the last may be fewer), rounded as in [`fit`].
///
/// # Panics
/// If there is not a scale for each.
pub fn fit_block(x: &[f32], columns: usize, wide: usize, scale_dtype: Dtype, scales: &mut [f32]) {
    assert_eq!(scales.len(), columns.div_ceil(wide));
    scales.fill(0.0);
    for row in x.chunks_exact(columns) {
        row.chunks(wide).zip(&mut *scales).for_each(|(x, scale)| *scale = scale.max(absmax(x)));
    }
    scales.iter_mut().for_each(|scale| *scale /= MAX);
    round_scales(scales, scale_dtype);
}

/// The E4M3 bytes of groups of `group` elements; the last may be shorter.
///
/// # Panics
/// If there are not as many bytes as elements, and a scale for each group.
pub fn encode(x: &[f32], group: usize, scales: &[f32], bytes: &mut [u8]) {
    const PIECE: usize = 1024;
    assert_eq!((bytes.len(), scales.len()), (x.len(), x.len().div_ceil(group)));
    let mut divided = [0.0; PIECE];
    for ((x, bytes), scale) in x.chunks(group.max(1)).zip(bytes.chunks_mut(group.max(1))).zip(scales) {
        for (x, bytes) in x.chunks(PIECE).zip(bytes.chunks_mut(PIECE)) {
            divide(x, *scale, &mut divided[..x.len()]);
            dtype::from_f32(Dtype::F8E4M3, &divided[..x.len()], bytes);
        }
    }
}

/// What E4M3 bytes stand for.
///
/// # Panics
/// As [`encode`].
pub fn decode(bytes: &[u8], group: usize, scales: &[f32], x: &mut [f32]) {
    assert_eq!((bytes.len(), scales.len()), (x.len(), x.len().div_ceil(group)));
    decode_groups(bytes, group, scales, x);
}

simd! {
    fn decode_groups(bytes: &[u8], group: usize, scales: &[f32], x: &mut [f32]) {
        let groups = bytes.chunks(group.max(1)).zip(x.chunks_mut(group.max(1)));
        for ((bytes, x), scale) in groups.zip(scales) {
            map(bytes, x, |byte| dtype::e4m3(*byte) * scale);
        }
    }
}

simd! {
    /// `x / scale`, kept within E4M3: a scale that was rounded down would push the largest element out.
    fn divide(x: &[f32], scale: f32, out: &mut [f32]) {
        for (x, out) in x.iter().zip(out) {
            *out = (x / scale).clamp(-MAX, MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_error_is_half_a_step(x in prop::collection::vec(-9.0_f32..9.0, 64)) {
            let (mut scales, mut bytes, mut back) = ([0.0; 4], [0; 64], [0.0; 64]);
            fit(&x, 16, Dtype::F32, &mut scales);
            encode(&x, 16, &scales, &mut bytes);
            decode(&bytes, 16, &scales, &mut back);
            for (at, (x, back)) in x.iter().zip(&back).enumerate() {
                // Three bits after the point: 2^-4 of the value, or half the least subnormal, 2^-10.
                let step = (x.abs() / 16.0).max(scales[at / 16] / 1024.0);
                prop_assert!((x - back).abs() <= step * 1.000_001);
            }
        }
    }

    #[test]
    fn the_largest_element_stays_within_reach_of_a_rounded_scale() {
        let (mut scales, mut bytes, mut back) = ([0.0], [0; 2], [0.0; 2]);
        fit(&[1.001, -1.0], 2, Dtype::BF16, &mut scales);
        assert!(1.001 / scales[0] > MAX);
        encode(&[1.001, -1.0], 2, &scales, &mut bytes);
        decode(&bytes, 2, &scales, &mut back);
        assert_eq!(back, [448.0 * scales[0], -448.0 * scales[0]]);
    }
}
