//! The scan of 4-bit and 8-bit codes: integer dot products by VNNI.
//!
//! A rotated, centred row becomes whole numbers $y_i$ in -127..=127: of 8 bits, $r / s$ rounded with $s = \max|r| / 127$; of
//! 4 bits, the nearest of the 16 Lloyd-Max levels of a Gaussian (Max 1960, table I), which rotated coordinates follow. A query
//! is 8-bit. Codes are stored as $y + 128$, the unsigned side of `vpdpbusd`.
//!
//! A block is 32 rows. For every four coordinates it has 4 bytes of each row side by side, so a register holds four
//! coordinates of 16 rows, and meets 8 queries that are broadcast. With 4 bits, the upper halves of the bytes are the next
//! four coordinates. Integer sums, so the same bits on every processor.

use crate::column::Column;
use polmrs_core::simd;

/// Rows of a block: half a word of the bitmap.
pub const ROWS: usize = 32;
/// Queries that meet a block together.
pub const QUERIES: usize = 8;
/// Bytes of a block for one group of coordinates.
const LINE: usize = 4 * ROWS;
/// What codes are shifted by to be unsigned.
const SHIFT: i32 = 128;

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

/// The codes of rows, block after block.
#[derive(Debug)]
pub struct Levels {
    width: Width,
    lines: usize,
    rows: usize,
    codes: Column<u8>,
}

impl Levels {
    /// No rows yet.
    pub fn new(dim: usize, width: Width) -> Levels {
        let lines = if width == Width::Four { dim.div_ceil(8) } else { dim.div_ceil(4) };
        Levels { width, lines, rows: 0, codes: Column::default() }
    }

    /// Adds a row of numbers that [`quantize`] gave for this width.
    pub fn push(&mut self, levels: &[i8]) {
        let (block, at) = (self.rows / ROWS, self.rows % ROWS);
        let size = LINE * self.lines;
        let all = self.codes.to_mut();
        if at == 0 {
            all.resize((block + 1) * size, 0);
        }
        let lines = all[block * size..].chunks_exact_mut(LINE);
        match self.width {
            Width::Eight => {
                for (line, four) in lines.zip(levels.chunks(4)) {
                    for (byte, level) in line[4 * at..].iter_mut().zip(four) {
                        *byte = (i32::from(*level) + SHIFT) as u8;
                    }
                }
            }
            Width::Four => {
                let code =
                    |level: &i8| GAUSSIAN.iter().position(|known| *known == i32::from(*level)).unwrap_or(0) as u8;
                for (line, eight) in lines.zip(levels.chunks(8)) {
                    for (place, level) in eight.iter().enumerate() {
                        line[4 * at + place % 4] |= code(level) << (4 * (place / 4));
                    }
                }
            }
        }
        self.rows += 1;
    }

    /// The dot products of a block's rows with eight queries.
    pub fn dots(&self, block: usize, queries: &Group, out: &mut [[i32; ROWS]; QUERIES]) {
        let size = LINE * self.lines;
        let codes = &self.codes[block * size..(block + 1) * size];
        match self.width {
            Width::Eight => dots8(codes, &queries.fours, out),
            Width::Four => dots4(codes, &queries.fours, out),
        }
        for (sums, correction) in out.iter_mut().zip(queries.corrections) {
            for sum in sums {
                *sum -= correction;
            }
        }
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
    pub(crate) fn with(mut self, rows: usize, codes: Column<u8>) -> Option<Levels> {
        (codes.len() == rows.div_ceil(ROWS).checked_mul(LINE * self.lines)?).then_some(())?;
        (self.rows, self.codes) = (rows, codes);
        Some(self)
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        self.codes.to_mut();
    }
}

/// Up to eight 8-bit queries: for every four coordinates, four bytes of each query side by side.
#[derive(Clone, Debug)]
pub struct Group {
    fours: Vec<[[i8; 4]; QUERIES]>,
    corrections: [i32; QUERIES],
}

impl Group {
    /// Of up to eight queries of one length.
    pub fn new(queries: &[Vec<i8>]) -> Group {
        let dim = queries.first().map_or(0, Vec::len);
        let mut fours = vec![[[0i8; 4]; QUERIES]; 2 * dim.div_ceil(8)];
        let mut corrections = [0; QUERIES];
        for (number, query) in queries.iter().take(QUERIES).enumerate() {
            corrections[number] = SHIFT * query.iter().map(|x| i32::from(*x)).sum::<i32>();
            for (at, x) in query.iter().enumerate() {
                fours[at / 4][number][at % 4] = *x;
            }
        }
        Group { fours, corrections }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    simd::level() == simd::Level::Avx512 && is_x86_feature_detected!("avx512vnni")
}

fn dots8(codes: &[u8], queries: &[[[i8; 4]; QUERIES]], out: &mut [[i32; ROWS]; QUERIES]) {
    #[cfg(target_arch = "x86_64")]
    if has_vnni() {
        // SAFETY: the processor has AVX-512 F, BW (part of the level) and VNNI.
        return unsafe { dots8_vnni(codes, queries, out) };
    }
    dots8_plain(codes, queries, out);
}

fn dots4(codes: &[u8], queries: &[[[i8; 4]; QUERIES]], out: &mut [[i32; ROWS]; QUERIES]) {
    #[cfg(target_arch = "x86_64")]
    if has_vnni() {
        // SAFETY: as in `dots8`.
        return unsafe { dots4_vnni(codes, queries, out) };
    }
    let mut wide = Vec::with_capacity(2 * codes.len());
    for line in codes.as_chunks::<LINE>().0 {
        wide.extend(line.iter().map(|code| TABLE[usize::from(code & 15)]));
        wide.extend(line.iter().map(|code| TABLE[usize::from(code >> 4)]));
    }
    dots8_plain(&wide, queries, out);
}

simd! {
    fn dots8_plain(codes: &[u8], queries: &[[[i8; 4]; QUERIES]], out: &mut [[i32; ROWS]; QUERIES]) {
        *out = [[0; ROWS]; QUERIES];
        for (line, queries) in codes.as_chunks::<LINE>().0.iter().zip(queries) {
            for (sums, query) in out.iter_mut().zip(queries) {
                for (sum, code) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
                    let product = |at: usize| i32::from(code[at]) * i32::from(query[at]);
                    *sum += product(0) + product(1) + product(2) + product(3);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dots8_vnni(codes: &[u8], queries: &[[[i8; 4]; QUERIES]], out: &mut [[i32; ROWS]; QUERIES]) {
    use std::arch::x86_64::{
        __m512i, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512,
    };
    let mut sums = [[_mm512_setzero_si512(); 2]; QUERIES];
    for (line, queries) in codes.as_chunks::<LINE>().0.iter().zip(queries) {
        // SAFETY: a line is 128 bytes.
        let rows = unsafe {
            [
                _mm512_loadu_si512(line.as_ptr().cast::<__m512i>()),
                _mm512_loadu_si512(line.as_ptr().add(64).cast::<__m512i>()),
            ]
        };
        for (sums, query) in sums.iter_mut().zip(queries) {
            let query = _mm512_set1_epi32(i32::from_le_bytes(query.map(|x| x as u8)));
            *sums = [_mm512_dpbusd_epi32(sums[0], rows[0], query), _mm512_dpbusd_epi32(sums[1], rows[1], query)];
        }
    }
    store(sums, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dots4_vnni(codes: &[u8], queries: &[[[i8; 4]; QUERIES]], out: &mut [[i32; ROWS]; QUERIES]) {
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_loadu_si128, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_dpbusd_epi32,
        _mm512_loadu_si512, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8,
        _mm512_srli_epi16,
    };
    // SAFETY: the table is 16 bytes.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(TABLE.as_ptr().cast::<__m128i>()) });
    let low = _mm512_set1_epi8(15);
    let mut sums = [[_mm512_setzero_si512(); 2]; QUERIES];
    for (line, queries) in codes.as_chunks::<LINE>().0.iter().zip(queries.as_chunks::<2>().0) {
        // SAFETY: a line is 128 bytes.
        let bytes = unsafe {
            [
                _mm512_loadu_si512(line.as_ptr().cast::<__m512i>()),
                _mm512_loadu_si512(line.as_ptr().add(64).cast::<__m512i>()),
            ]
        };
        let first = bytes.map(|bytes| _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, low)));
        let second =
            bytes.map(|bytes| _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low)));
        for (rows, queries) in [first, second].into_iter().zip(queries) {
            for (sums, query) in sums.iter_mut().zip(queries) {
                let query = _mm512_set1_epi32(i32::from_le_bytes(query.map(|x| x as u8)));
                *sums = [_mm512_dpbusd_epi32(sums[0], rows[0], query), _mm512_dpbusd_epi32(sums[1], rows[1], query)];
            }
        }
    }
    store(sums, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn store(sums: [[std::arch::x86_64::__m512i; 2]; QUERIES], out: &mut [[i32; ROWS]; QUERIES]) {
    use std::arch::x86_64::{__m512i, _mm512_storeu_si512};
    for (out, sums) in out.iter_mut().zip(sums) {
        // SAFETY: `out` is 128 bytes.
        unsafe {
            _mm512_storeu_si512(out.as_mut_ptr().cast::<__m512i>(), sums[0]);
            _mm512_storeu_si512(out.as_mut_ptr().add(16).cast::<__m512i>(), sums[1]);
        }
    }
}

/// 8-bit rows as they come, for looking at a few of many.
#[derive(Debug)]
pub struct Rows8 {
    stride: usize,
    codes: Column<u8>,
}

impl Rows8 {
    /// No rows yet. A row is filled up to whole cache lines.
    pub fn new(dim: usize) -> Rows8 {
        Rows8 { stride: dim.next_multiple_of(64), codes: Column::default() }
    }

    /// Adds a row.
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
        (query, SHIFT * levels.iter().map(|x| i32::from(*x)).sum::<i32>())
    }

    /// A row as [`query`](Rows8::query) gives one.
    pub(crate) fn row_query(&self, row: usize, query: &mut Vec<i8>) -> i32 {
        query.clear();
        query.extend(self.codes[row * self.stride..(row + 1) * self.stride].iter().map(|code| (code ^ 128) as i8));
        SHIFT * query.iter().map(|x| i32::from(*x)).sum::<i32>()
    }

    /// The dot products of some rows, by number, with a query of this correction.
    pub(crate) fn dots(&self, rows: &[u32], query: &[i8], dots: &mut [f32], correction: i32) {
        const AHEAD: usize = 4;
        rows.iter().take(AHEAD).for_each(|row| self.prefetch(*row as usize));
        for (at, (row, out)) in rows.iter().zip(dots).enumerate() {
            if let Some(next) = rows.get(at + AHEAD) {
                self.prefetch(*next as usize);
            }
            *out = (self.dot(*row as usize, query) - correction) as f32;
        }
    }

    /// The dot product with a row, and the query's correction.
    #[inline]
    pub fn dot(&self, row: usize, query: &[i8]) -> i32 {
        dot8(&self.codes[row * self.stride..(row + 1) * self.stride], query)
    }

    /// Asks for a row that will be needed soon.
    #[inline(always)]
    pub fn prefetch(&self, row: usize) {
        prefetch(&self.codes[row * self.stride..(row + 1) * self.stride]);
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
    if has_vnni() {
        // SAFETY: as in `dots8`.
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

    fn levels(n: usize, step: i32) -> Vec<i8> {
        (0..n as i32).map(|i| (i * step % 255 - 127) as i8).collect()
    }

    #[test]
    fn dots_are_those_of_the_numbers() {
        for (rows, dim) in [(1, 1), (31, 3), (32, 4), (33, 9), (70, 64), (40, 390)] {
            for width in [Width::Eight, Width::Four] {
                let mut stored = Vec::new();
                let mut codes = Levels::new(dim, width);
                let mut single = Rows8::new(dim);
                for row in 0..rows {
                    let raw: Vec<f32> = (0..dim).map(|at| ((row * 37 + at * 11) as f32).sin()).collect();
                    let mut numbers = Vec::new();
                    quantize(&raw, width, &mut numbers);
                    codes.push(&numbers);
                    single.push(&numbers);
                    stored.push(numbers);
                }
                let queries: Vec<Vec<i8>> = (0..5).map(|number| levels(dim, 31 + number)).collect();
                let group = Group::new(&queries);
                for (row, numbers) in stored.iter().enumerate() {
                    let mut out = [[0; ROWS]; QUERIES];
                    codes.dots(row / ROWS, &group, &mut out);
                    for (query, sums) in queries.iter().zip(out) {
                        let wanted: i32 = numbers.iter().zip(query).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                        assert_eq!(sums[row % ROWS], wanted, "{dim} {width:?}");
                        let (padded, correction) = single.query(query);
                        assert_eq!(single.dot(row, &padded) - correction, wanted);
                    }
                }
            }
        }
    }

    #[test]
    fn plain_loops_give_the_same_sums() {
        let codes: Vec<u8> = (0..LINE * 9).map(|i| (i * 53 % 256) as u8).collect();
        let queries: Vec<[[i8; 4]; QUERIES]> = (0..18i32)
            .map(|at| {
                std::array::from_fn(|q| std::array::from_fn(|i| (at * 7 + q as i32 * 31 + i as i32 * 3 - 100) as i8))
            })
            .collect();
        let (mut a, mut b) = ([[0; ROWS]; QUERIES], [[1; ROWS]; QUERIES]);
        dots8(&codes, &queries, &mut a);
        dots8_plain(&codes, &queries, &mut b);
        assert_eq!(a, b);
        let query: Vec<i8> = (0..codes.len() as i32).map(|i| (i * 91 % 255 - 127) as i8).collect();
        assert_eq!(dot8(&codes, &query), dot8_plain(&codes, &query));
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
