//! FP4 E2M1: 0, .5, 1, 1.5, 2, 3, 4, 6 with a sign, in blocks that share a scale.
//!
//! MXFP4 (OCP Microscaling 1.0): 32 elements and a power of two. NVFP4: 16 elements and an E4M3 scale, under one f32
//! scale of the whole tensor. Rounding and scales follow compressed-tensors: to nearest, ties to the even code.

use crate::table::{First, look_up};
use polmrs_core::{Dtype, dtype, simd};

/// The values of codes 0 to 7, and of codes 8 to 15, their negatives.
pub const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
/// Elements that share a scale in MXFP4.
pub const MX_BLOCK: usize = 32;
/// Elements that share a scale in NVFP4.
pub const NV_BLOCK: usize = 16;

simd! {
    /// The E2M1 codes of blocks over their scales.
    fn encode(x: &[f32], block: usize, scales: &[f32], codes: &mut [u8]) {
        match block {
            NV_BLOCK => encode_all::<NV_BLOCK>(x, scales, codes),
            _ => encode_all::<MX_BLOCK>(x, scales, codes),
        }
    }
}

simd! {
    /// The largest magnitude of each block.
    fn largest(x: &[f32], block: usize, most: &mut [f32]) {
        match block {
            NV_BLOCK => largest_all::<NV_BLOCK>(x, most),
            _ => largest_all::<MX_BLOCK>(x, most),
        }
    }
}

#[inline(always)]
fn encode_all<const B: usize>(x: &[f32], scales: &[f32], codes: &mut [u8]) {
    for ((x, codes), scale) in x.as_chunks::<B>().0.iter().zip(codes.as_chunks_mut::<B>().0).zip(scales) {
        for (x, code) in x.iter().zip(codes) {
            let m = (x / scale).abs();
            // A tie goes up where the code above is even.
            let code_of = u32::from(m > 0.25)
                + u32::from(m >= 0.75)
                + u32::from(m > 1.25)
                + u32::from(m >= 1.75)
                + u32::from(m > 2.5)
                + u32::from(m >= 3.5)
                + u32::from(m > 5.0);
            *code = (code_of | (x.to_bits() >> 31) << 3) as u8;
        }
    }
}

/// As whole numbers, which magnitudes are ordered by: their maximum may be taken in any order.
#[inline(always)]
fn largest_all<const B: usize>(x: &[f32], most: &mut [f32]) {
    for (x, most) in x.as_chunks::<B>().0.iter().zip(most) {
        *most = f32::from_bits(x.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff)));
    }
}

/// MXFP4 codes of whole blocks of 32, and the exponent (E8M0, bias 127) of each block.
///
/// The exponent is that of the largest magnitude less 2, one more where its mantissa is 1.75 or above.
///
/// # Panics
/// If there are not as many codes as elements, and as many `exponents` as blocks.
pub fn encode_mx(x: &[f32], exponents: &mut [u8], codes: &mut [u8]) {
    assert_eq!((x.len(), x.len()), (codes.len(), MX_BLOCK * exponents.len()));
    let mut scales = vec![0.0; exponents.len()];
    largest(x, MX_BLOCK, &mut scales);
    for (scale, exponent) in scales.iter_mut().zip(exponents) {
        let nearest = (scale.to_bits() + (1 << 21)) >> 23;
        *exponent = nearest.saturating_sub(2) as u8;
        *scale = power(*exponent);
    }
    encode(x, MX_BLOCK, &scales, codes);
}

/// What packed MXFP4 codes, the first of a byte in the low half, stand for.
///
/// # Panics
/// If there is not a byte for every two elements, and an exponent for every block.
pub fn decode_mx(packed: &[u8], exponents: &[u8], x: &mut [f32]) {
    let scales: Vec<f32> = exponents.iter().map(|exponent| power(*exponent)).collect();
    look_up(&E2M1, First::Low, packed, MX_BLOCK, &scales, x);
}

/// `2^(exponent - 127)`.
fn power(exponent: u8) -> f32 {
    f32::from_bits(if exponent == 0 { 1 << 22 } else { u32::from(exponent) << 23 })
}

/// NVFP4's scale of a whole tensor with this largest magnitude: `448 * 6 / max|x|`. A tensor of zeros has 1.
///
/// Tensors that a runtime fuses (q, k and v; gate and up) must share it: pass the largest magnitude of all.
pub fn nv_global(largest: f32) -> f32 {
    let scale = largest.max(f32::MIN_POSITIVE).recip() * (448.0 * 6.0); // in this order, as torch divides a number
    if scale.is_finite() { scale } else { 1.0 }
}

/// NVFP4 codes of whole blocks of 16, and the E4M3 byte of each block's scale.
///
/// # Panics
/// If there are not as many codes as elements, and as many `scales` as blocks.
pub fn encode_nv(x: &[f32], global: f32, scales: &mut [u8], codes: &mut [u8]) {
    assert_eq!((x.len(), x.len()), (codes.len(), NV_BLOCK * scales.len()));
    let mut wanted = vec![0.0; scales.len()];
    largest(x, NV_BLOCK, &mut wanted);
    wanted.iter_mut().for_each(|scale| *scale = (global * (*scale / 6.0)).min(crate::fp8::MAX));
    dtype::from_f32(Dtype::F8E4M3, &wanted, scales);
    // 0.125, so that nothing divides by zero.
    scales.iter_mut().filter(|scale| **scale == 0).for_each(|scale| *scale = 0x20);
    encode(x, NV_BLOCK, &under(global, scales), codes);
}

/// What packed NVFP4 codes, the first of a byte in the low half, stand for.
///
/// # Panics
/// If there is not a byte for every two elements, and a scale for every block.
pub fn decode_nv(packed: &[u8], global: f32, scales: &[u8], x: &mut [f32]) {
    look_up(&E2M1, First::Low, packed, NV_BLOCK, &under(global, scales), x);
}

/// E4M3 scales under the tensor's.
fn under(global: f32, scales: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; scales.len()];
    dtype::to_f32(Dtype::F8E4M3, scales, &mut values);
    values.iter_mut().for_each(|value| *value /= global);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The code of a magnitude as IEEE rounding has it: the nearest, of two equally near the even one.
    fn nearest(x: f32) -> u8 {
        let distance = |code: u8| (E2M1[usize::from(code)] - x.abs()).abs();
        let best = (0..8).min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then((a % 2).cmp(&(b % 2)))).unwrap();
        best | u8::from(x.is_sign_negative()) << 3
    }

    fn packed(codes: &[u8]) -> Vec<u8> {
        let mut packed = vec![0; codes.len() / 2];
        crate::bits::pack(4, codes, &mut packed);
        packed
    }

    /// A sign, two bits of exponent with a bias of 1, and one of mantissa.
    #[test]
    fn codes_stand_for_their_values() {
        for (code, value) in (0_u8..).zip(E2M1) {
            let (exponent, half) = (i32::from(code >> 1 & 3), f32::from(code & 1) / 2.0);
            let magnitude = if exponent == 0 { half } else { (1.0 + half) * 2.0_f32.powi(exponent - 1) };
            assert_eq!(value.to_bits(), magnitude.copysign(if code < 8 { 1.0 } else { -1.0 }).to_bits(), "{code}");
        }
    }

    proptest! {
        #[test]
        fn a_code_is_the_nearest_value(eighths in prop::collection::vec(-60_i32..60, 32)) {
            let x: Vec<f32> = eighths.iter().map(|eighth| *eighth as f32 / 8.0).collect();
            let mut codes = [0; 32];
            encode(&x, MX_BLOCK, &[1.0], &mut codes);
            prop_assert_eq!(codes.to_vec(), x.iter().map(|x| nearest(*x)).collect::<Vec<_>>());
        }

        #[test]
        fn blocks_come_back_within_half_a_step(x in prop::collection::vec(-50.0_f32..50.0, 64)) {
            let (mut exponents, mut codes, mut back) = ([0; 2], [0; 64], [0.0; 64]);
            encode_mx(&x, &mut exponents, &mut codes);
            decode_mx(&packed(&codes), &exponents, &mut back);
            for (at, (x, back)) in x.iter().zip(&back).enumerate() {
                let scale = power(exponents[at / 32]);
                // The widest step is 2; a largest element of up to 7 is clipped to 6.
                prop_assert!((x - back).abs() <= scale * 1.000_001, "{x} came back as {back}");
            }
            let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let (global, mut scales) = (nv_global(largest), [0; 4]);
            encode_nv(&x, global, &mut scales, &mut codes);
            decode_nv(&packed(&codes), global, &scales, &mut back);
            for (at, (x, back)) in x.iter().zip(&back).enumerate() {
                prop_assert!((x - back).abs() <= under(global, &scales)[at / 16] * 1.3, "{x} came back as {back}");
            }
        }
    }

    #[test]
    fn the_exponent_goes_up_where_the_largest_element_would_be_clipped_much() {
        let exponent = |largest: f32| {
            let (mut exponents, mut x) = ([0], [0.0; 32]);
            x[5] = -largest;
            encode_mx(&x, &mut exponents, &mut [0; 32]);
            i32::from(exponents[0]) - 127
        };
        assert_eq!([exponent(4.0), exponent(6.9), exponent(7.0), exponent(8.0)], [0, 0, 1, 1]);
        assert_eq!(exponent(0.0), -127);
    }

    #[test]
    fn nvfp4_of_one_block_uses_the_whole_range() {
        let mut x = [0.0; 16];
        (x[0], x[1]) = (3.0, -1.5);
        let (global, mut scales, mut codes, mut back) = (nv_global(3.0), [0], [0; 16], [0.0; 16]);
        encode_nv(&x, global, &mut scales, &mut codes);
        assert_eq!((scales[0], codes[0], codes[1]), (0x7e, 7, 13)); // 448; 6; -3
        decode_nv(&packed(&codes), global, &scales, &mut back);
        assert_eq!(back[..2], [3.0, -1.5]);
    }
}
