//! Rows as a few whole numbers, and the store of those of 4 bits.
//!
//! A rotated, centred row becomes whole numbers $y_i$ in -127..=127: of 8 bits, $r / s$ rounded with $s = \max|r| / 127$; of
//! 4 bits, the nearest of the 16 Lloyd-Max levels of a Gaussian (Max 1960, table I), which rotated coordinates follow. A query
//! is 8-bit.

use crate::column::Column;
use crate::tile::{LINE, ROWS, SHIFT, Tiles};
use polmrs_core::simd;

/// The levels of 4 bits: those of a unit Gaussian times 127 / 2.7326.
const GAUSSIAN: [i32; 16] = [-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127];
/// One standard deviation, in levels.
const DEVIATION: f32 = 127.0 / 2.7326;
/// The unsigned levels, for a shuffle.
const TABLE: [u8; 16] = {
    let mut table = [0; 16];
    let mut at = 0;
    while at < 16 {
        table[at] = (GAUSSIAN[at] + SHIFT) as u8;
        at += 1;
    }
    table
};

/// The width of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 16 levels.
    Four,
    /// 255 levels.
    Eight,
}

/// The whole numbers that stand for a row.
pub fn quantize(row: &[f32], width: Width, out: &mut Vec<i8>) {
    out.clear();
    match width {
        Width::Eight => {
            let largest = row.iter().fold(0f32, |a, x| a.max(x.abs()));
            out.resize(row.len(), 0);
            round(row, if largest > 0.0 { 127.0 / largest } else { 0.0 }, out);
        }
        Width::Four => {
            let square = row.iter().map(|x| x * x).sum::<f32>();
            let inverse = if square > 0.0 { DEVIATION * (row.len() as f32 / square).sqrt() } else { 0.0 };
            out.extend(row.iter().map(|x| {
                let x = x * inverse;
                let code = GAUSSIAN.windows(2).filter(|pair| x > (pair[0] + pair[1]) as f32 / 2.0).count();
                GAUSSIAN[code] as i8
            }));
        }
    }
}

simd! {
    fn round(row: &[f32], inverse: f32, out: &mut [i8]) {
        const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: what is added to it is rounded to a whole number, ties to even
        for (x, out) in row.iter().zip(out) {
            *out = ((x * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32) as i8;
        }
    }
}

/// Rows of 4 bits, block after block of 32: for every eight coordinates 4 bytes of each row, whose lower halves are the first
/// four.
#[derive(Clone, Debug)]
pub struct Nibbles {
    blocks: usize,
    rows: usize,
    codes: Column<u8>,
}

impl Nibbles {
    /// No rows yet.
    pub fn new(dim: usize) -> Nibbles {
        Nibbles { blocks: dim.div_ceil(8), rows: 0, codes: Column::default() }
    }

    /// Adds a row of numbers that [`quantize`] gave for four bits.
    pub fn push(&mut self, levels: &[i8]) {
        let (block, at) = (self.rows / ROWS, self.rows % ROWS);
        let size = LINE * self.blocks;
        let all = self.codes.to_mut();
        if at == 0 {
            all.resize((block + 1) * size, 0);
        }
        let code = |level: &i8| GAUSSIAN.iter().position(|known| *known == i32::from(*level)).unwrap_or(0) as u8;
        for (line, eight) in all[block * size..].chunks_exact_mut(LINE).zip(levels.chunks(8)) {
            for (place, level) in eight.iter().enumerate() {
                line[4 * at + place % 4] |= code(level) << (4 * (place / 4));
            }
        }
        self.rows += 1;
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.codes.bytes()
    }

    /// The codes as they are kept.
    pub(crate) fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// These codes of `rows` rows; nothing if there are more or fewer.
    pub(crate) fn with(mut self, rows: usize, codes: Column<u8>) -> Option<Nibbles> {
        (codes.len() == rows.div_ceil(ROWS).checked_mul(LINE * self.blocks)?).then_some(())?;
        (self.rows, self.codes) = (rows, codes);
        Some(self)
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        self.codes.to_mut();
    }
}

impl Tiles for Nibbles {
    fn lines(&self) -> usize {
        2 * self.blocks
    }

    fn unpack(&self, number: usize, tile: &mut [u8]) {
        let size = LINE * self.blocks;
        widen(&self.codes[number * size..(number + 1) * size], tile);
    }
}

/// Levels, unsigned, of the lower halves of a line, then of the upper ones.
fn widen(codes: &[u8], tile: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if simd::level() == simd::Level::Avx512 {
        // SAFETY: the processor has AVX-512 F and BW, which are part of the level.
        return unsafe { widen_avx512(codes, tile) };
    }
    widen_plain(codes, tile);
}

fn widen_plain(codes: &[u8], tile: &mut [u8]) {
    for (line, two) in codes.as_chunks::<LINE>().0.iter().zip(tile.as_chunks_mut::<{ 2 * LINE }>().0) {
        let (low, high) = two.split_at_mut(LINE);
        for ((code, low), high) in line.iter().zip(low).zip(high) {
            (*low, *high) = (TABLE[usize::from(code & 15)], TABLE[usize::from(code >> 4)]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn widen_avx512(codes: &[u8], tile: &mut [u8]) {
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_loadu_si128, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_loadu_si512,
        _mm512_set1_epi8, _mm512_shuffle_epi8, _mm512_srli_epi16, _mm512_storeu_si512,
    };
    // SAFETY: the table is 16 bytes.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(TABLE.as_ptr().cast::<__m128i>()) });
    let low = _mm512_set1_epi8(15);
    for (line, two) in codes.as_chunks::<LINE>().0.iter().zip(tile.as_chunks_mut::<{ 2 * LINE }>().0) {
        for (side, half) in line.as_chunks::<64>().0.iter().enumerate() {
            // SAFETY: `half` is 64 bytes.
            let bytes = unsafe { _mm512_loadu_si512(half.as_ptr().cast::<__m512i>()) };
            let halves = [_mm512_and_si512(bytes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low)];
            for (part, codes) in two.as_chunks_mut::<LINE>().0.iter_mut().zip(halves) {
                let out = &mut part.as_chunks_mut::<64>().0[side];
                // SAFETY: `out` is 64 bytes.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast::<__m512i>(), _mm512_shuffle_epi8(table, codes)) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_widens_to_the_same_levels() {
        let codes: Vec<u8> = (0..3 * LINE).map(|i| (i * 53 % 256) as u8).collect();
        let (mut fast, mut plain) = (vec![0; 6 * LINE], vec![1; 6 * LINE]);
        widen(&codes, &mut fast);
        widen_plain(&codes, &mut plain);
        assert_eq!(fast, plain);
    }

    #[test]
    fn four_bits_take_the_nearest_level() {
        let row: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.618).sin()).collect();
        let mut out = Vec::new();
        quantize(&row, Width::Four, &mut out);
        let rms = (row.iter().map(|x| x * x).sum::<f32>() / 1000.0).sqrt();
        for (x, level) in row.iter().zip(out) {
            let x = x / rms * DEVIATION;
            let nearest = GAUSSIAN.iter().map(|level| (x - *level as f32).abs()).fold(f32::MAX, f32::min);
            assert!((x - f32::from(level)).abs() <= nearest + 1e-3);
        }
    }
}
