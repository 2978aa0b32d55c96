//! Floating-point codes of 8 bits: a sign, then exponent and mantissa, E4M3 (finite alone, `float8_e4m3fn`) or E5M2.

/// What an E4M3 code stands for.
#[inline(always)]
pub fn e4m3(code: u8) -> f32 {
    let value = small_float(code, 3, 7);
    if code & 0x7f == 0x7f { f32::NAN } else { value }
}

/// What an E5M2 code stands for.
#[inline(always)]
pub(super) fn e5m2(code: u8) -> f32 {
    let endless = f32::INFINITY.copysign(if code & 0x80 == 0 { 1.0 } else { -1.0 });
    match code & 0x7f {
        0x7d.. => f32::NAN,
        0x7c => endless,
        _ => small_float(code, 2, 15),
    }
}

/// The E4M3 code of a number.
#[inline(always)]
pub(super) fn round_e4m3(x: f32) -> u8 {
    round_small(x, 3, 7, 0x7e, 0x7f, 0x7f)
}

/// The E5M2 code of a number.
#[inline(always)]
pub(super) fn round_e5m2(x: f32) -> u8 {
    round_small(x, 2, 15, 0x7b, 0x7c, 0x7f)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype::{F8E4M3, F8E5M2};

    #[test]
    fn eight_bit_codes_are_their_definition() {
        for (dtype, mantissa, bias) in [(F8E4M3, 3, 7), (F8E5M2, 2, 15)] {
            let value = if dtype == F8E4M3 { e4m3 } else { e5m2 };
            for code in 0..=u8::MAX {
                let (exponent, fraction) = (i32::from(code & 0x7f) >> mantissa, code & ((1 << mantissa) - 1));
                let part = f32::from(fraction) / f32::from(1_u8 << mantissa);
                let magnitude = match (dtype, code & 0x7f) {
                    (F8E4M3, 0x7f) | (F8E5M2, 0x7d..) => f32::NAN,
                    (F8E5M2, 0x7c) => f32::INFINITY,
                    _ if exponent == 0 => part * 2.0_f32.powi(1 - bias),
                    _ => (1.0 + part) * 2.0_f32.powi(exponent - bias),
                };
                let (got, wanted) = (value(code), if code < 0x80 { magnitude } else { -magnitude });
                let same = got.to_bits() == wanted.to_bits() || (got.is_nan() && wanted.is_nan());
                assert!(same, "{} {code:#04x}: {got} is not {wanted}", dtype.name());
            }
        }
    }
}
