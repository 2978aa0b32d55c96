//! Element types of checkpoints, and their bulk conversion to and from `f32`.
//!
//! Bytes are little-endian, as in safetensors. Narrowing rounds to nearest, ties to even; a NaN stays a NaN. E4M3 is the
//! finite-only variant `float8_e4m3fn`, whose overflow is NaN; E5M2 overflows to infinity. (So does ml_dtypes; torch 2.15
//! saturates E4M3. A merge refuses to overflow before it comes to that, unless told otherwise.)

use crate::simd;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// An element type, named as safetensors names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

use Dtype::{BF16, Bool, F8E4M3, F8E5M2, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};

impl Dtype {
    /// Every element type.
    pub const ALL: [Dtype; 15] = [Bool, U8, I8, F8E4M3, F8E5M2, I16, U16, F16, BF16, I32, U32, F32, I64, U64, F64];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Bool | U8 | I8 | F8E4M3 | F8E5M2 => 1,
            I16 | U16 | F16 | BF16 => 2,
            I32 | U32 | F32 => 4,
            I64 | U64 | F64 => 8,
        }
    }

    /// The name in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Bool => "BOOL",
            U8 => "U8",
            I8 => "I8",
            F8E4M3 => "F8_E4M3",
            F8E5M2 => "F8_E5M2",
            I16 => "I16",
            U16 => "U16",
            F16 => "F16",
            BF16 => "BF16",
            I32 => "I32",
            U32 => "U32",
            F32 => "F32",
            I64 => "I64",
            U64 => "U64",
            F64 => "F64",
        }
    }

    /// The name in torch and in a mergekit file: `bfloat16`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            Bool => "bool",
            U8 => "uint8",
            I8 => "int8",
            F8E4M3 => "float8_e4m3fn",
            F8E5M2 => "float8_e5m2",
            I16 => "int16",
            U16 => "uint16",
            F16 => "float16",
            BF16 => "bfloat16",
            I32 => "int32",
            U32 => "uint32",
            F32 => "float32",
            I64 => "int64",
            U64 => "uint64",
            F64 => "float64",
        }
    }

    /// The type with this safetensors name.
    pub fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The type with this torch name, with or without `torch.` before it.
    pub fn from_torch_name(name: &str) -> Option<Dtype> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        Dtype::ALL.into_iter().find(|dtype| dtype.torch_name() == name)
    }

    /// Whether arithmetic on weights makes sense: the floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, F8E4M3 | F8E5M2 | F16 | BF16 | F32 | F64)
    }

    /// The smallest floating-point type that holds both, as torch promotes: bf16 with f16 gives f32.
    #[must_use]
    pub fn promote(self, other: Dtype) -> Dtype {
        match (self, other) {
            (a, b) if a == b => a,
            (F64, _) | (_, F64) => F64,
            (F8E4M3 | F8E5M2, wide @ (F16 | BF16)) | (wide @ (F16 | BF16), F8E4M3 | F8E5M2) => wide,
            _ => F32,
        }
    }
}

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
            let endless = f32::INFINITY.copysign(if byte & 0x80 == 0 { 1.0 } else { -1.0 });
            *out = match byte & 0x7f {
                0x7d.. => f32::NAN,
                0x7c => endless,
                _ => small_float(*byte, 2, 15),
            };
        }
    }
}

/// What an E4M3 code stands for.
#[inline(always)]
pub fn e4m3(code: u8) -> f32 {
    let value = small_float(code, 3, 7);
    if code & 0x7f == 0x7f { f32::NAN } else { value }
}

/// The value of a finite 8-bit code. Exponent and mantissa move to where `f32` has them, but a subnormal is so many units:
/// exact either way, and without a table, whose look-ups no processor does in lanes.
#[inline(always)]
fn small_float(code: u8, mantissa: u32, bias: u32) -> f32 {
    let (sign, magnitude) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7f));
    let normal = (magnitude << (23 - mantissa)) + ((127 - bias) << 23);
    let unit = f32::from_bits((127 + 1 - bias - mantissa) << 23);
    let subnormal = (magnitude as f32 * unit).to_bits();
    f32::from_bits(sign | if magnitude < 1 << mantissa { subnormal } else { normal })
}

/// Rounds to an 8-bit code; `overflow` is the code of what lies beyond the largest finite value.
#[inline(always)]
fn round_small(x: f32, mantissa: u32, bias: u32, largest: u32, overflow: u32, nan: u32) -> u8 {
    let bits = x.to_bits();
    let sign = (bits >> 24) & 0x80;
    let magnitude = bits & 0x7fff_ffff;
    // Normal results: drop mantissa bits, rounding to nearest even; the carry may step into the next exponent.
    let drop = 23 - mantissa;
    let even = (magnitude >> drop) & 1;
    let rebased = magnitude.wrapping_sub((127 - bias) << 23);
    let normal = rebased.wrapping_add((1 << (drop - 1)) - 1 + even) >> drop;
    // Subnormal results: adding a power of two whose last bit is the subnormal unit rounds in hardware.
    let magic = (127 + 1 - bias + drop) << 23;
    let subnormal = (f32::from_bits(magnitude) + f32::from_bits(magic)).to_bits().wrapping_sub(magic);
    let smallest_normal = (127 + 1 - bias) << 23;
    let code = if magnitude < smallest_normal { subnormal } else { normal };
    let code = if magnitude >= smallest_normal && code > largest { overflow } else { code };
    let code = if magnitude > 0x7f80_0000 { nan } else { code };
    (sign | code) as u8
}

simd! {
    fn f32_to_e4m3(x: &[f32], bytes: &mut [u8]) {
        for (byte, x) in bytes.iter_mut().zip(x) {
            *byte = round_small(*x, 3, 7, 0x7e, 0x7f, 0x7f);
        }
    }
}

simd! {
    fn f32_to_e5m2(x: &[f32], bytes: &mut [u8]) {
        for (byte, x) in bytes.iter_mut().zip(x) {
            *byte = round_small(*x, 2, 15, 0x7b, 0x7c, 0x7f);
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
    fn eight_bit_codes_are_their_definition() {
        for (dtype, mantissa, bias) in [(F8E4M3, 3, 7), (F8E5M2, 2, 15)] {
            for code in 0..=u8::MAX {
                let (exponent, fraction) = (i32::from(code & 0x7f) >> mantissa, code & ((1 << mantissa) - 1));
                let part = f32::from(fraction) / f32::from(1_u8 << mantissa);
                let magnitude = match (dtype, code & 0x7f) {
                    (F8E4M3, 0x7f) | (F8E5M2, 0x7d..) => f32::NAN,
                    (F8E5M2, 0x7c) => f32::INFINITY,
                    _ if exponent == 0 => part * 2.0_f32.powi(1 - bias),
                    _ => (1.0 + part) * 2.0_f32.powi(exponent - bias),
                };
                let (got, wanted) = (widen(dtype, &[code]), if code < 0x80 { magnitude } else { -magnitude });
                let same = got.to_bits() == wanted.to_bits() || (got.is_nan() && wanted.is_nan());
                assert!(same, "{} {code:#04x}: {got} is not {wanted}", dtype.name());
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
