//! Bulk conversion of element types to and from `f32`.
//!
//! Bytes are little-endian, as in safetensors. Narrowing rounds to nearest, ties to even; a NaN stays a NaN. E4M3 is the
//! finite-only variant `float8_e4m3fn`, whose overflow is NaN; E5M2 overflows to infinity. (So does ml_dtypes; torch 2.15
//! saturates E4M3. A merge refuses to overflow before it comes to that, unless told otherwise.)

use super::Dtype::{self, BF16, F8E4M3, F8E5M2, F16, F32, F64};
use super::small::{e4m3, e5m2, round_e4m3, round_e5m2};
use crate::simd;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The smallest magnitude that this floating-point type rounds to an infinity or a NaN.
pub fn overflow(dtype: Dtype) -> f32 {
    match dtype {
        F8E4M3 => f32::from_bits(0x43e8_0001), // just above 464, which ties to the even code of 448
        F8E5M2 => 61_440.0,
        F16 => 65_520.0,
        BF16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}

/// The first element whose magnitude reaches `limit`, or that is a NaN.
pub fn first_beyond(x: &[f32], limit: f32) -> Option<usize> {
    let piece = 4096;
    let at = x.chunks(piece).position(|chunk| any_beyond(chunk, limit))? * piece;
    x[at..].iter().position(|x| x.is_nan() || x.abs() >= limit).map(|offset| at + offset)
}

simd! {
    fn any_beyond(x: &[f32], limit: f32) -> bool {
        // On sign-cleared bits the order of floats is the order of integers, with NaN above infinity.
        let mut largest = 0;
        for x in x {
            largest = largest.max(x.to_bits() & 0x7fff_ffff);
        }
        largest >= limit.to_bits()
    }
}

/// Widens little-endian floating-point bytes to `f32`. `bytes` holds exactly `out.len()` elements.
///
/// # Panics
/// On a type that is not floating-point: callers ask [`Dtype::is_float`] first.
pub fn to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len(), out.len() * dtype.size());
    match dtype {
        BF16 => bf16_to_f32(bytes, out),
        F16 => f16_to_f32(bytes, out),
        F32 => f32_to_f32(bytes, out),
        F64 => f64_to_f32(bytes, out),
        F8E4M3 => e4m3_to_f32(bytes, out),
        F8E5M2 => e5m2_to_f32(bytes, out),
        other => unreachable!("{} is not a floating-point type", other.name()),
    }
}

/// Rounds `f32` to little-endian floating-point bytes. `bytes` holds exactly `x.len()` elements.
///
/// # Panics
/// On a type that is not floating-point: callers ask [`Dtype::is_float`] first.
pub fn from_f32(dtype: Dtype, x: &[f32], bytes: &mut [u8]) {
    debug_assert_eq!(bytes.len(), x.len() * dtype.size());
    match dtype {
        BF16 => f32_to_bf16(x, bytes),
        F16 => f32_to_f16(x, bytes),
        F32 => f32_from_f32(x, bytes),
        F64 => f32_to_f64(x, bytes),
        F8E4M3 => f32_to_e4m3(x, bytes),
        F8E5M2 => f32_to_e5m2(x, bytes),
        other => unreachable!("{} is not a floating-point type", other.name()),
    }
}

simd! {
    fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) {
        for (pair, out) in bytes.as_chunks::<2>().0.iter().zip(out) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
        }
    }
}

simd! {
    fn f32_to_bf16(x: &[f32], bytes: &mut [u8]) {
        for (pair, x) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(x) {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
            let quiet = (bits >> 16) | 0x40;
            *pair = (if x.is_nan() { quiet } else { rounded } as u16).to_le_bytes();
        }
    }
}

simd! {
    fn f32_to_f32(bytes: &[u8], out: &mut [f32]) {
        for (four, out) in bytes.as_chunks::<4>().0.iter().zip(out) {
            *out = f32::from_le_bytes(*four);
        }
    }
}

simd! {
    fn f32_from_f32(x: &[f32], bytes: &mut [u8]) {
        for (four, x) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            *four = x.to_le_bytes();
        }
    }
}

simd! {
    fn f64_to_f32(bytes: &[u8], out: &mut [f32]) {
        for (eight, out) in bytes.as_chunks::<8>().0.iter().zip(out) {
            *out = f64::from_le_bytes(*eight) as f32;
        }
    }
}

simd! {
    fn f32_to_f64(x: &[f32], bytes: &mut [u8]) {
        for (eight, x) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(x) {
            *eight = f64::from(*x).to_le_bytes();
        }
    }
}

/// Elements converted at a time where `half` wants them in its own type.
const PIECE: usize = 512;

fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    let mut halves = [f16::ZERO; PIECE];
    for (bytes, out) in bytes.chunks(2 * PIECE).zip(out.chunks_mut(PIECE)) {
        for (half, pair) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*pair);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

fn f32_to_f16(x: &[f32], bytes: &mut [u8]) {
    let mut halves = [f16::ZERO; PIECE];
    for (x, bytes) in x.chunks(PIECE).zip(bytes.chunks_mut(2 * PIECE)) {
        halves[..x.len()].convert_from_f32_slice(x);
        for (half, pair) in halves.iter().zip(bytes.as_chunks_mut::<2>().0) {
            *pair = half.to_le_bytes();
        }
    }
}

simd! {
    fn e4m3_to_f32(bytes: &[u8], out: &mut [f32]) {
        for (byte, out) in bytes.iter().zip(out) {
            *out = e4m3(*byte);
        }
    }
}

simd! {
    fn e5m2_to_f32(bytes: &[u8], out: &mut [f32]) {
        for (byte, out) in bytes.iter().zip(out) {
            *out = e5m2(*byte);
        }
    }
}

simd! {
    fn f32_to_e4m3(x: &[f32], bytes: &mut [u8]) {
        for (byte, x) in bytes.iter_mut().zip(x) {
            *byte = round_e4m3(*x);
        }
    }
}

simd! {
    fn f32_to_e5m2(x: &[f32], bytes: &mut [u8]) {
        for (byte, x) in bytes.iter_mut().zip(x) {
            *byte = round_e5m2(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn narrow(dtype: Dtype, x: f32) -> Vec<u8> {
        let mut bytes = vec![0; dtype.size()];
        from_f32(dtype, &[x], &mut bytes);
        bytes
    }

    fn widen(dtype: Dtype, bytes: &[u8]) -> f32 {
        let mut out = [0.0];
        to_f32(dtype, bytes, &mut out);
        out[0]
    }

    #[test]
    fn every_narrow_value_survives_the_way_there_and_back() {
        for code in 0..=u16::MAX {
            for dtype in [BF16, F16] {
                let bytes = code.to_le_bytes();
                let x = widen(dtype, &bytes);
                if !x.is_nan() {
                    assert_eq!(narrow(dtype, x), bytes, "{} {code:#06x}", dtype.name());
                }
            }
        }
        for code in 0..=u8::MAX {
            for dtype in [F8E4M3, F8E5M2] {
                let x = widen(dtype, &[code]);
                if !x.is_nan() {
                    assert_eq!(narrow(dtype, x), [code], "{} {code:#04x}", dtype.name());
                }
            }
        }
    }

    #[test]
    fn overflow_is_not_a_number_or_infinite() {
        assert_eq!(narrow(F8E4M3, 448.0), [0x7e]);
        assert_eq!(narrow(F8E4M3, 463.9), [0x7e]);
        assert_eq!(narrow(F8E4M3, -500.0), [0xff]);
        assert_eq!(narrow(F8E5M2, 61_439.0), [0x7b]);
        assert_eq!(narrow(F8E5M2, 61_440.0), [0x7c]);
        assert_eq!(narrow(F8E5M2, f32::NEG_INFINITY), [0xfc]);
    }

    #[test]
    fn what_overflows_is_found_and_what_does_not_is_not() {
        for dtype in [F8E4M3, F8E5M2, F16, BF16, F32] {
            let limit = overflow(dtype);
            let below = f32::from_bits(limit.to_bits() - 1);
            assert!(!widen(dtype, &narrow(dtype, limit)).is_finite(), "{}", dtype.name());
            assert!(widen(dtype, &narrow(dtype, below)).is_finite(), "{}", dtype.name());
            let mut x = vec![below; 10_000];
            assert_eq!(first_beyond(&x, limit), None);
            x[9_000] = -limit;
            assert_eq!(first_beyond(&x, limit), Some(9_000));
            x[7] = f32::NAN;
            assert_eq!(first_beyond(&x, limit), Some(7));
        }
    }

    #[test]
    fn a_nan_stays_a_nan() {
        for dtype in Dtype::ALL.into_iter().filter(|dtype| dtype.is_float()) {
            for nan in [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
                assert!(widen(dtype, &narrow(dtype, nan)).is_nan(), "{}", dtype.name());
            }
        }
    }

    /// The nearest of all values of the type, ties to the even code: slow and obvious.
    fn nearest(dtype: Dtype, x: f32) -> f32 {
        let codes: Vec<Vec<u8>> = match dtype.size() {
            1 => (0..=u8::MAX).map(|code| vec![code]).collect(),
            _ => (0..=u16::MAX).map(|code| code.to_le_bytes().to_vec()).collect(),
        };
        let mut best = (f64::INFINITY, true, f32::NAN);
        for code in codes {
            let value = widen(dtype, &code);
            if value.is_finite() && (value.is_sign_negative() == x.is_sign_negative()) {
                let key = ((f64::from(value) - f64::from(x)).abs(), code[0] & 1 == 1, value);
                if (key.0, key.1) < (best.0, best.1) {
                    best = key;
                }
            }
        }
        best.2
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn narrowing_picks_the_nearest_value(exponent in -24f32..8.0, fraction in 1f32..2.0, negative: bool) {
            let x = exponent.exp2() * fraction * if negative { -1.0 } else { 1.0 };
            for dtype in [BF16, F16, F8E4M3, F8E5M2] {
                let got = widen(dtype, &narrow(dtype, x));
                if x.abs() < 440.0 {
                    prop_assert_eq!(got.to_bits(), nearest(dtype, x).to_bits(), "{} of {}", dtype.name(), x);
                }
            }
        }
    }
}
