//! 8-bit rows as they come: a few of many are looked at for one query, or all of them, tile by tile, for a batch.

use crate::bitmap::eligible_of;
use crate::column::Column;
use crate::factors::Factors;
use crate::shortlist::Shortlist;
use crate::tile::{Asked, LINE, ROWS, SHIFT, Tiles};
use polmrs_core::simd;

/// Rows of whole numbers of -127..=127, shifted to be unsigned.
#[derive(Clone, Debug)]
pub struct Rows8 {
    stride: usize,
    codes: Column<u8>,
}

/// Rows whose keys are looked at together: a word of the bitmap.
const WORD: usize = 64;
/// Rows that are turned from rows of codes to columns at once.
const SIDE: usize = 16;

impl Rows8 {
    /// No rows yet. A row is filled up to whole cache lines.
    pub fn new(dim: usize) -> Rows8 {
        Rows8 { stride: dim.next_multiple_of(64), codes: Column::default() }
    }

    /// Adds a row of numbers that [`quantize`](crate::levels::quantize) gave for eight bits.
    pub fn push(&mut self, levels: &[i8]) {
        let all = self.codes.to_mut();
        let end = all.len() + self.stride;
        all.extend(levels.iter().map(|level| (i32::from(*level) + SHIFT) as u8));
        all.resize(end, SHIFT as u8);
    }

    /// A query as [`dot`](Rows8::dot) wants it, and what its dot products are too large by.
    pub fn query(&self, levels: &[i8]) -> (Vec<i8>, i32) {
        let mut query = levels.to_vec();
        query.resize(self.stride, 0);
        (query, Asked { levels, step: 0.0, reach: 0.0 }.correction())
    }

    /// A row as [`query`](Rows8::query) gives one.
    pub(crate) fn row_query(&self, row: usize, query: &mut Vec<i8>) -> i32 {
        query.clear();
        query.extend(self.row(row).iter().map(|code| (code ^ 128) as i8));
        SHIFT * query.iter().map(|x| i32::from(*x)).sum::<i32>()
    }

    /// The dot products of some rows, by number, with a query of this correction.
    pub(crate) fn dots(&self, rows: &[u32], query: &[i8], dots: &mut [f32], correction: i32) {
        const AHEAD: usize = 4;
        let codes: &[u8] = &self.codes;
        let row = |row: u32| &codes[row as usize * self.stride..][..self.stride];
        rows.iter().take(AHEAD).for_each(|next| prefetch(row(*next)));
        for (at, (this, out)) in rows.iter().zip(dots).enumerate() {
            if let Some(next) = rows.get(at + AHEAD) {
                prefetch(row(*next));
            }
            *out = (dot8(row(*this), query) - correction) as f32;
        }
    }

    /// The dot product with a row, and the query's correction.
    #[inline]
    pub fn dot(&self, row: usize, query: &[i8]) -> i32 {
        dot8(self.row(row), query)
    }

    /// Offers every eligible row to the list of one query.
    pub(crate) fn scan(&self, factors: &Factors, eligible: &[u64], asked: Asked<'_>, list: &mut Shortlist) {
        let n = factors.scales.len();
        let (query, correction) = self.query(asked.levels);
        let (codes, scales, offsets): (&[u8], &[f32], &[f32]) = (&self.codes, &factors.scales, &factors.offsets);
        for first in (0..n).step_by(WORD) {
            let last = n.min(first + WORD);
            let allowed = eligible_of(eligible, first, last);
            if allowed == 0 {
                continue;
            }
            let mut keys = [f32::NEG_INFINITY; WORD];
            let mut dots = [0; WORD];
            for (dot, row) in dots.iter_mut().zip(codes[first * self.stride..].chunks_exact(self.stride)) {
                *dot = dot8(row, &query);
            }
            for row in first..last {
                keys[row - first] = asked.key(dots[row - first] - correction) * scales[row] + offsets[row];
            }
            list.offer(&keys, allowed, first, |row| 2.0 * asked.reach * scales[first + row]);
        }
    }

    fn row(&self, row: usize) -> &[u8] {
        &self.codes[row * self.stride..(row + 1) * self.stride]
    }

    /// Asks for a row that will be needed soon.
    #[inline(always)]
    pub fn prefetch(&self, row: usize) {
        prefetch(self.row(row));
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.codes.bytes()
    }

    /// The codes as they are kept.
    pub(crate) fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The bytes of as many rows.
    pub(crate) fn bytes_of(&self, rows: usize) -> usize {
        rows.saturating_mul(self.stride)
    }

    /// Keeps the rows of this list, in its order, which is increasing.
    pub(crate) fn keep(&mut self, rows: &[usize]) {
        self.codes.keep(self.stride, rows);
    }

    /// These codes of `rows` rows; nothing if there are more or fewer.
    pub(crate) fn with(mut self, rows: usize, codes: Column<u8>) -> Option<Rows8> {
        (codes.len() == self.bytes_of(rows)).then_some(())?;
        self.codes = codes;
        Some(self)
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        self.codes.to_mut();
    }
}

impl Tiles for Rows8 {
    fn lines(&self) -> usize {
        self.stride / 4
    }

    fn unpack(&self, number: usize, tile: &mut [u8]) {
        let start = number * ROWS * self.stride;
        let rows = &self.codes[start..self.codes.len().min(start + ROWS * self.stride)];
        for (side, rows) in rows.chunks(SIDE * self.stride).enumerate() {
            turn(rows, self.stride, side, tile);
        }
    }
}

/// Makes up to 16 rows the first or the second half of every line of a tile.
fn turn(rows: &[u8], stride: usize, side: usize, tile: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if simd::level() == simd::Level::Avx512 && rows.len() == SIDE * stride {
        // SAFETY: the processor has AVX-512 F, which is part of the level.
        return unsafe { turn_avx512(rows, stride, side, tile) };
    }
    turn_plain(rows, stride, side, tile);
}

fn turn_plain(rows: &[u8], stride: usize, side: usize, tile: &mut [u8]) {
    for (row, codes) in rows.chunks_exact(stride).enumerate() {
        let place = 4 * (SIDE * side + row);
        for (line, four) in tile.as_chunks_mut::<LINE>().0.iter_mut().zip(codes.as_chunks::<4>().0) {
            line[place..place + 4].copy_from_slice(four);
        }
    }
}

/// Sixteen by sixteen groups of four bytes at a time: pairs of groups change places, then fours, then eights, then halves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn turn_avx512(rows: &[u8], stride: usize, side: usize, tile: &mut [u8]) {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let blocks = tile.as_chunks_mut::<{ SIDE * LINE }>().0; // the lines of 64 bytes of a row
    for (block, start) in blocks.iter_mut().zip((0..stride).step_by(64)) {
        let load = |row: usize| {
            let bytes = &rows[row * stride + start..][..64];
            // SAFETY: there are 64 bytes.
            unsafe { _mm512_loadu_si512(bytes.as_ptr().cast::<__m512i>()) }
        };
        // `fours[4 * f + c]` has, in each quarter `q`, group `4 * q + c` of the rows `4 * f..4 * f + 4`.
        let mut fours = [load(0); SIDE];
        for four in 0..4 {
            let rows = [load(4 * four), load(4 * four + 1), load(4 * four + 2), load(4 * four + 3)];
            let low = [_mm512_unpacklo_epi32(rows[0], rows[1]), _mm512_unpacklo_epi32(rows[2], rows[3])];
            let high = [_mm512_unpackhi_epi32(rows[0], rows[1]), _mm512_unpackhi_epi32(rows[2], rows[3])];
            fours[4 * four] = _mm512_unpacklo_epi64(low[0], low[1]);
            fours[4 * four + 1] = _mm512_unpackhi_epi64(low[0], low[1]);
            fours[4 * four + 2] = _mm512_unpacklo_epi64(high[0], high[1]);
            fours[4 * four + 3] = _mm512_unpackhi_epi64(high[0], high[1]);
        }
        let mut store = |line: usize, column: __m512i| {
            let half = &mut block[line * LINE + 64 * side..][..64];
            // SAFETY: there are 64 bytes.
            unsafe { _mm512_storeu_si512(half.as_mut_ptr().cast::<__m512i>(), column) };
        };
        for at in 0..4 {
            let pair = |first: usize| [fours[first + at], fours[first + 4 + at]];
            let ([a, b], [c, d]) = (pair(0), pair(8));
            let even = [_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(c, d)];
            let odd = [_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(c, d)];
            store(at, _mm512_shuffle_i32x4::<EVEN>(even[0], even[1]));
            store(4 + at, _mm512_shuffle_i32x4::<EVEN>(odd[0], odd[1]));
            store(8 + at, _mm512_shuffle_i32x4::<ODD>(even[0], even[1]));
            store(12 + at, _mm512_shuffle_i32x4::<ODD>(odd[0], odd[1]));
        }
    }
}

/// Asks the processor for memory that will be read soon.
#[inline(always)]
pub(crate) fn prefetch<T>(of: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(of)).step_by(64) {
        // SAFETY: a prefetch reads nothing that the program could see; the address is inside the slice.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(of.as_ptr().cast::<i8>().add(line));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = of;
}

fn dot8(codes: &[u8], query: &[i8]) -> i32 {
    #[cfg(target_arch = "x86_64")]
    if crate::tile::has_vnni() {
        // SAFETY: the processor has AVX-512 F, BW (part of the level) and VNNI.
        return unsafe { dot8_vnni(codes, query) };
    }
    dot8_plain(codes, query)
}

simd! {
    fn dot8_plain(codes: &[u8], query: &[i8]) -> i32 {
        codes.iter().zip(query).map(|(code, x)| i32::from(*code) * i32::from(*x)).sum()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot8_vnni(codes: &[u8], query: &[i8]) -> i32 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_reduce_add_epi32,
        _mm512_setzero_si512,
    };
    let mut sums = [_mm512_setzero_si512(); 2];
    for (at, (code, x)) in codes.as_chunks::<64>().0.iter().zip(query.as_chunks::<64>().0).enumerate() {
        // SAFETY: both are 64 bytes.
        let (code, x) = unsafe {
            (_mm512_loadu_si512(code.as_ptr().cast::<__m512i>()), _mm512_loadu_si512(x.as_ptr().cast::<__m512i>()))
        };
        sums[at % 2] = _mm512_dpbusd_epi32(sums[at % 2], code, x);
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_has_the_groups_of_rows_side_by_side() {
        let rows: Vec<u8> = (0..SIDE * 192).map(|i| (i * 53 % 256) as u8).collect();
        let (mut fast, mut plain) = (vec![0; 48 * LINE], vec![0; 48 * LINE]);
        for side in 0..2 {
            turn(&rows, 192, side, &mut fast);
            turn_plain(&rows, 192, side, &mut plain);
        }
        assert_eq!(fast, plain);
        assert_eq!(fast[5 * LINE + 64 + 4 * 3..][..4], rows[3 * 192 + 20..][..4]);
    }

    #[test]
    fn one_row_has_its_dot_product_on_every_processor() {
        let mut rows = Rows8::new(70);
        let numbers = |step: i32| (0..70).map(|i| (i * step % 255 - 127) as i8).collect::<Vec<_>>();
        let (row, query) = (numbers(53), numbers(91));
        rows.push(&row);
        let wanted: i32 = row.iter().zip(&query).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
        let (padded, correction) = rows.query(&query);
        assert_eq!(rows.dot(0, &padded) - correction, wanted);
        assert_eq!(dot8_plain(rows.row(0), &padded) - correction, wanted);
    }
}
