//! Nearest entries of a sorted table, scaled by each block's largest magnitude: NF4 (QLoRA, arXiv:2305.14314, eq. 4 and
//! appendix E) and the 8-bit dynamic map that its double quantization stores scales in (arXiv:1511.04561). bitsandbytes'
//! other table of 16 values, FP4, is read and not written.
//!
//! Arithmetic follows bitsandbytes: a block is multiplied by the reciprocal of its largest magnitude (a last block that
//! is shorter is divided by it), and a value halfway between two entries takes the lower one.

use crate::group::absmax;
use crate::table::{First, look_up};
use polmrs_core::simd;
use std::sync::OnceLock;

/// The 16 values of NF4: quantiles of a normal distribution, with an exact zero, scaled to -1 to 1.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The 16 values of bitsandbytes' FP4, a sign above three bits: 0, .0625, 8, 12, 4, 6, 2 and 3 over 12. (Not E2M1, whose
/// codes are in the order of their values; nor is the zero with a sign negative.)
pub const FP4: [f32; 16] = {
    let mut values = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, 0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];
    let mut at = 0;
    while at < 16 {
        values[at] /= 12.0;
        at += 1;
    }
    values
};

/// The values that 4-bit codes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// [`NF4`].
    Nf4,
    /// [`FP4`].
    Fp4,
}

impl Table {
    /// Its name in bitsandbytes' files.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Nf4 => "nf4",
            Table::Fp4 => "fp4",
        }
    }

    /// Its values.
    pub const fn values(self) -> &'static [f32; 16] {
        match self {
            Table::Nf4 => &NF4,
            Table::Fp4 => &FP4,
        }
    }
}

/// Below it a block counts as zeros.
const LEAST: f32 = 1e-38;

/// NF4 codes of blocks of `block` elements (the last may be shorter), and each block's largest magnitude.
///
/// # Panics
/// If there are not as many codes as elements and as many `scales` as blocks.
pub fn encode_nf4(x: &[f32], block: usize, scales: &mut [f32], codes: &mut [u8]) {
    assert_eq!((codes.len(), scales.len()), (x.len(), x.len().div_ceil(block)));
    for ((x, codes), scale) in x.chunks(block).zip(codes.chunks_mut(block)).zip(scales) {
        *scale = absmax(x);
        let divisor = scale.max(LEAST);
        if x.len() == block { nearest(x, 1.0 / divisor, 1.0, codes) } else { nearest(x, 1.0, divisor, codes) }
    }
}

/// What packed codes, the first of a byte in the high half, stand for: `table[code] * scale`.
///
/// # Panics
/// If `block` is odd, or there is not a byte for every two elements and a scale for every block.
pub fn decode(table: Table, packed: &[u8], block: usize, scales: &[f32], x: &mut [f32]) {
    look_up(table.values(), First::High, packed, block, scales, x);
}

simd! {
    /// The number of midpoints that lie below `x factor / divisor`: one of the two is 1.
    fn nearest(x: &[f32], factor: f32, divisor: f32, codes: &mut [u8]) {
        let bounds = midpoints(&NF4);
        for (x, code) in x.iter().zip(codes) {
            let at = x * factor / divisor;
            let mut below = 0;
            for bound in bounds {
                below += u32::from(at > bound);
            }
            *code = below as u8;
        }
    }
}

#[inline(always)]
fn midpoints(table: &[f32; 16]) -> [f32; 15] {
    std::array::from_fn(|at| (table[at] + table[at + 1]) / 2.0)
}

/// Two codes in a byte, the first in the high half, as bitsandbytes stores them; an odd last one stands alone.
///
/// # Panics
/// If there is not one byte for every two codes.
pub fn pack_high_first(codes: &[u8], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), codes.len().div_ceil(2));
    let (pairs, rest) = codes.as_chunks::<2>();
    for (pair, byte) in pairs.iter().zip(bytes.iter_mut()) {
        *byte = pair[0] << 4 | pair[1];
    }
    if let ([code], Some(byte)) = (rest, bytes.last_mut()) {
        // What bitsandbytes pads with is the code of zero.
        *byte = code << 4 | 7;
    }
}

/// Scales stored in 8 bits: `DYNAMIC[code] * nested + offset`.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    /// One code for each scale.
    pub codes: Vec<u8>,
    /// The largest magnitude of each 256 scales, after the offset is taken off.
    pub scales: Vec<f32>,
    /// The mean of all scales.
    pub offset: f32,
}

/// Scales that share one of their own.
pub const NESTED_BLOCK: usize = 256;

/// Double quantization (arXiv:2305.14314, section 3): the scales of NF4 blocks, their mean taken off, in 8 bits.
pub fn nest(scales: &[f32]) -> Nested {
    let sum: f64 = scales.iter().map(|scale| f64::from(*scale)).sum();
    nest_around(scales, (sum / scales.len().max(1) as f64) as f32)
}

/// The same for whole blocks of [`NESTED_BLOCK`] scales of a tensor, whose mean is known.
pub fn nest_around(scales: &[f32], offset: f32) -> Nested {
    let centred: Vec<f32> = scales.iter().map(|scale| scale - offset).collect();
    let bounds: Vec<f32> = dynamic_map().windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    let (mut codes, mut nested) = (Vec::with_capacity(scales.len()), Vec::new());
    for block in centred.chunks(NESTED_BLOCK) {
        let largest = absmax(block);
        let factor = if largest < LEAST { 0.0 } else { 1.0 / largest };
        codes.extend(block.iter().map(|x| bounds.partition_point(|bound| x * factor > *bound) as u8));
        nested.push(largest);
    }
    Nested { codes, scales: nested, offset }
}

/// The scales that [`nest`] stored.
pub fn unnest(nested: &Nested) -> Vec<f32> {
    let table = dynamic_map();
    let blocks = nested.codes.chunks(NESTED_BLOCK).zip(&nested.scales);
    blocks
        .flat_map(|(codes, scale)| codes.iter().map(move |code| table[usize::from(*code)] * scale + nested.offset))
        .collect()
}

/// The 256 values of bitsandbytes' signed dynamic map: 0, 1, and for each of seven decades the middles of 2^i equal
/// pieces of .1 to 1, with both signs.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut values = vec![0.0, 1.0];
        for decade in 0..7 {
            let pieces = 1_usize << decade;
            let power = 10_f64.powi(decade - 6) as f32;
            for piece in 0..pieces {
                let middle = (border(piece, pieces) + border(piece + 1, pieces)) / 2.0;
                values.extend([power * middle, -power * middle]);
            }
        }
        values.sort_by(f32::total_cmp);
        std::array::from_fn(|at| values[at])
    })
}

/// The border `at` of `pieces` equal pieces of .1 to 1, counted from the nearer end and fused, as torch's `linspace` does.
fn border(at: usize, pieces: usize) -> f32 {
    let step = (1.0 - 0.1_f32) / pieces as f32;
    if at < pieces.div_ceil(2) { step.mul_add(at as f32, 0.1) } else { step.mul_add(-((pieces - at) as f32), 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_code_is_the_nearest_value(x in prop::collection::vec(-3.0_f32..3.0, 1..200)) {
            let (mut scales, mut codes) = (vec![0.0; x.len().div_ceil(64)], vec![0; x.len()]);
            encode_nf4(&x, 64, &mut scales, &mut codes);
            for (at, x) in x.iter().enumerate() {
                let scaled = x / scales[at / 64];
                let chosen = (scaled - NF4[usize::from(codes[at])]).abs();
                let best = NF4.iter().map(|value| (scaled - value).abs()).fold(f32::INFINITY, f32::min);
                prop_assert!(chosen <= best + 2e-7, "{x}: {chosen} is more than {best}");
            }
        }

        #[test]
        fn values_of_the_table_come_back(codes in prop::collection::vec(0_u8..16, 64)) {
            prop_assume!(codes.iter().any(|code| *code == 0 || *code == 15));
            let (mut x, mut scales, mut packed, mut again) = (vec![0.0; 64], [3.0], [0; 32], vec![0; 64]);
            pack_high_first(&codes, &mut packed);
            decode(Table::Nf4, &packed, 64, &scales, &mut x);
            encode_nf4(&x, 64, &mut scales, &mut again);
            prop_assert_eq!(scales, [3.0]);
            prop_assert_eq!(again, codes);
        }

        #[test]
        fn pairs_stand_first_in_the_high_half(codes in prop::collection::vec(0_u8..16, 0..50)) {
            let mut bytes = vec![0; codes.len().div_ceil(2)];
            pack_high_first(&codes, &mut bytes);
            for (at, code) in codes.iter().enumerate() {
                prop_assert_eq!((bytes[at / 2] >> (4 - at % 2 * 4)) & 15, *code);
            }
        }

        #[test]
        fn nested_scales_are_near(scales in prop::collection::vec(0.01_f32..1.0, 1..600)) {
            let nested = nest(&scales);
            for (at, (scale, back)) in scales.iter().zip(unnest(&nested)).enumerate() {
                // The widest gap of the map is 0.0142 near 1.
                prop_assert!((scale - back).abs() <= 0.0072 * nested.scales[at / NESTED_BLOCK] + 1e-6);
            }
        }
    }

    #[test]
    fn a_value_between_two_entries_takes_the_lower() {
        let bounds = midpoints(&NF4);
        let mut x = [0.0; 64];
        x[0] = 1.0;
        x[1..16].copy_from_slice(&bounds);
        let (mut scales, mut codes) = ([0.0], [0; 64]);
        encode_nf4(&x, 64, &mut scales, &mut codes);
        assert_eq!(codes[1..16], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    }

    #[test]
    fn the_dynamic_map_has_the_values_of_bitsandbytes() {
        let bits: Vec<u32> = dynamic_map().iter().map(|value| value.to_bits()).collect();
        let some = [0, 127, 128, 129, 130, 200, 254, 255].map(|at| bits[at]);
        let theirs = [0xbf7e_3333, 0, 0x3513_a3b7, 0x365a_1a94, 0x3702_05ff, 0x3e6f_3333, 0x3f7e_3333, 0x3f80_0000];
        assert_eq!(some, theirs);
        // All of them, from `create_dynamic_map()` of bitsandbytes 0.50.2.
        let sum = bits.iter().fold(0_u64, |sum, bits| sum.wrapping_mul(31).wrapping_add(u64::from(*bits)));
        assert_eq!(sum, 13_604_123_696_666_077_804);
    }
}
