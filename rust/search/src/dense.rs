//! The scan of full vectors: dot products of many rows with many queries in f32.
//!
//! A batch works like a matrix product: 32 rows are transposed once, so that a register holds one coordinate of 16 rows, and
//! meet 8 queries at a time whose coordinates are broadcast; 16 accumulators stay in registers, and only sums that reach a
//! query's threshold leave the cache. One to three queries read the rows as they lie, at the speed of memory.
//!
//! Sums are rounded differently on each path; that is within the margin of the shortlist.

use crate::bitmap::eligible_of;
use crate::metric::Metric;
use crate::shortlist::Shortlist;
use crate::vectors::Vectors;
use polmrs_core::simd;
use std::ops::Range;

/// Rows of a block: half a word of the bitmap.
const ROWS: usize = 32;
/// Queries that meet a block together.
const QUERIES: usize = 8;
/// Rows that are transposed before queries come by, so that queries are read once for all of them.
const TILE: usize = 128;
/// Queries from which transposing pays.
const BATCH: usize = 4;

/// What a scan needs of the rows.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The vectors.
    pub vectors: &'a Vectors,
    /// How their dot products become keys, see [`Metric::ranking`].
    pub rankings: &'a [[f32; 2]],
    /// A bit a row: which may be found.
    pub eligible: &'a [u64],
    /// The length of a vector.
    pub dim: usize,
}

/// Offers every eligible row to the list of every query. `queries` holds `lists.len()` rows.
///
/// `widths` are the margins of the queries, for which nothing is missed.
pub fn scan(rows: Rows<'_>, queries: &[f32], widths: &[f32], lists: &mut [Shortlist]) {
    if lists.len() < BATCH {
        return scan_by_row(rows, queries, widths, lists);
    }
    let groups = group_queries(queries, rows.dim);
    let mut tile = vec![0f32; TILE * rows.dim];
    let n = rows.vectors.len();
    for first in (0..n).step_by(TILE) {
        let last = n.min(first + TILE);
        if rows.eligible[first / 64..last.div_ceil(64)].iter().all(|word| *word == 0) {
            continue;
        }
        transpose(&rows.vectors.rows(first, last), rows.dim, &mut tile);
        let asked = lists.chunks_mut(QUERIES).zip(widths.chunks(QUERIES));
        for (group, (lists, widths)) in groups.chunks_exact(QUERIES * rows.dim).zip(asked) {
            for (block, packed) in tile.chunks_exact(ROWS * rows.dim).enumerate() {
                let start = first + block * ROWS;
                if start < last {
                    offer_block(rows, packed, group, start..last.min(start + ROWS), widths, lists);
                }
            }
        }
    }
}

fn offer_block(
    rows: Rows<'_>,
    packed: &[f32],
    group: &[f32],
    span: Range<usize>,
    widths: &[f32],
    lists: &mut [Shortlist],
) {
    let (first, last) = (span.start, span.end);
    let eligible = eligible_of(rows.eligible, first, last);
    if eligible == 0 {
        return;
    }
    let mut dots = [[0f32; ROWS]; QUERIES];
    block_dots(packed, group, &mut dots);
    let (mut scales, mut offsets) = ([0f32; ROWS], [0f32; ROWS]);
    for (row, ranking) in rows.rankings[first..last].iter().enumerate() {
        [scales[row], offsets[row]] = *ranking;
    }
    for ((dots, list), width) in dots.iter_mut().zip(lists).zip(widths) {
        for row in 0..ROWS {
            dots[row] = dots[row] * scales[row] + offsets[row];
        }
        list.offer(dots, eligible, first, |_| *width);
    }
}

fn scan_by_row(rows: Rows<'_>, queries: &[f32], widths: &[f32], lists: &mut [Shortlist]) {
    let n = rows.vectors.len();
    for first in (0..n).step_by(64) {
        let last = n.min(first + 64);
        let eligible = eligible_of(rows.eligible, first, last);
        if eligible == 0 {
            continue;
        }
        let vectors = rows.vectors.rows(first, last);
        for ((query, list), width) in queries.chunks_exact(rows.dim).zip(&mut *lists).zip(widths) {
            let mut keys = [f32::NEG_INFINITY; 64];
            row_dots(query, &vectors, &mut keys);
            for (key, [scale, offset]) in keys.iter_mut().zip(&rows.rankings[first..last]) {
                *key = *key * scale + offset;
            }
            list.offer(&keys, eligible, first, |_| *width);
        }
    }
}

/// Queries eight by eight, the same coordinate of eight side by side; the last group is filled up with zeros.
fn group_queries(queries: &[f32], dim: usize) -> Vec<f32> {
    let n = queries.len() / dim;
    let mut groups = vec![0f32; n.next_multiple_of(QUERIES) * dim];
    for (number, query) in queries.chunks_exact(dim).enumerate() {
        let start = number / QUERIES * QUERIES * dim + number % QUERIES;
        for (at, x) in query.iter().enumerate() {
            groups[start + at * QUERIES] = *x;
        }
    }
    groups
}

/// Row-major rows as blocks of 32, the same coordinate of 32 rows side by side. What is past the rows keeps old values.
fn transpose(rows: &[f32], dim: usize, tile: &mut [f32]) {
    for (rows, block) in rows.chunks(ROWS * dim).zip(tile.chunks_exact_mut(ROWS * dim)) {
        transpose_block(rows, dim, block);
    }
}

simd! {
    fn transpose_block(rows: &[f32], dim: usize, block: &mut [f32]) {
        let mut row = 0;
        let mut eights = rows.chunks_exact(8 * dim);
        for eight in &mut eights {
            let mut lines = eight.chunks_exact(dim);
            let mut next = || lines.next().unwrap_or_default();
            let lines: [&[f32]; 8] = [next(), next(), next(), next(), next(), next(), next(), next()];
            for (at, out) in block.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                for line in 0..8 {
                    out[row + line] = lines[line][at];
                }
            }
            row += 8;
        }
        for line in eights.remainder().chunks_exact(dim) {
            for (out, x) in block.as_chunks_mut::<ROWS>().0.iter_mut().zip(line) {
                out[row] = *x;
            }
            row += 1;
        }
    }
}

fn block_dots(rows: &[f32], queries: &[f32], out: &mut [[f32; ROWS]; QUERIES]) {
    #[cfg(target_arch = "x86_64")]
    if simd::level() == simd::Level::Avx512 {
        // SAFETY: `level` answers `Avx512` only where the processor has AVX-512 F.
        return unsafe { block_dots_avx512(rows, queries, out) };
    }
    block_dots_plain(rows, queries, out);
}

simd! {
    fn block_dots_plain(rows: &[f32], queries: &[f32], out: &mut [[f32; ROWS]; QUERIES]) {
        for (number, sums) in out.iter_mut().enumerate() {
            let mut lanes = [0f32; ROWS];
            for (x, q) in rows.as_chunks::<ROWS>().0.iter().zip(queries.as_chunks::<QUERIES>().0) {
                for lane in 0..ROWS {
                    lanes[lane] += x[lane] * q[number];
                }
            }
            *sums = lanes;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn block_dots_avx512(rows: &[f32], queries: &[f32], out: &mut [[f32; ROWS]; QUERIES]) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    let mut sums = [[_mm512_setzero_ps(); 2]; QUERIES];
    for (x, q) in rows.as_chunks::<ROWS>().0.iter().zip(queries.as_chunks::<QUERIES>().0) {
        // SAFETY: `x` is 32 floats.
        let halves = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] };
        for (sums, q) in sums.iter_mut().zip(q) {
            let q = _mm512_set1_ps(*q);
            *sums = [_mm512_fmadd_ps(halves[0], q, sums[0]), _mm512_fmadd_ps(halves[1], q, sums[1])];
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        // SAFETY: `out` is 32 floats.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(out.as_mut_ptr().add(16), sums[1]);
        }
    }
}

/// Rows that queries meet eight by eight, with the same bits on every processor.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    dim: usize,
    rows: usize,
    blocks: Vec<f32>,
}

impl Packed {
    pub(crate) fn new(rows: &[f32], dim: usize) -> Packed {
        let n = rows.len() / dim;
        let mut blocks = vec![0.0; n.next_multiple_of(ROWS) * dim];
        transpose(rows, dim, &mut blocks);
        Packed { dim, rows: n, blocks }
    }

    /// Gives the dot products of each query, by number, with the rows from `first` on, at most 32 at a time and in order.
    pub(crate) fn dots(&self, queries: &[f32], mut take: impl FnMut(usize, usize, &[f32])) {
        let n = queries.len() / self.dim;
        for (number, group) in group_queries(queries, self.dim).chunks_exact(QUERIES * self.dim).enumerate() {
            for (block, packed) in self.blocks.chunks_exact(ROWS * self.dim).enumerate() {
                let mut dots = [[0f32; ROWS]; QUERIES];
                block_dots_plain(packed, group, &mut dots);
                let first = block * ROWS;
                for (query, dots) in (number * QUERIES..n).zip(&dots) {
                    take(query, first, &dots[..ROWS.min(self.rows - first)]);
                }
            }
        }
    }
}

/// The dot product of one query with each row, with the same bits on every processor.
pub(crate) fn row_dots(query: &[f32], rows: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if simd::level() == simd::Level::Avx512 {
        // SAFETY: `level` answers `Avx512` only where the processor has AVX-512 F and DQ.
        return unsafe { row_dots_avx512(query, rows, out) };
    }
    row_dots_plain(query, rows, out);
}

simd! {
    fn row_dots_plain(query: &[f32], rows: &[f32], out: &mut [f32]) {
        for (row, out) in rows.chunks_exact(query.len()).zip(out) {
            let mut lanes = [0f32; 64];
            let ((x, x_rest), (q, q_rest)) = (row.as_chunks::<64>(), query.as_chunks::<64>());
            for (x, q) in x.iter().zip(q) {
                for lane in 0..64 {
                    lanes[lane] += x[lane] * q[lane];
                }
            }
            for (lane, (x, q)) in x_rest.iter().zip(q_rest).enumerate() {
                lanes[lane] += x * q;
            }
            for half in [32, 16, 8, 4, 2, 1] {
                for lane in 0..half {
                    lanes[lane] += lanes[lane + half];
                }
            }
            *out = lanes[0];
        }
    }
}

/// The 64 lanes are four registers. Rows of a page further on are asked for: without that, the processor waits at every page.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn row_dots_avx512(query: &[f32], rows: &[f32], out: &mut [f32]) {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm_prefetch,
        _mm256_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm512_add_ps, _mm512_castps512_ps256,
        _mm512_extractf32x8_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_setzero_ps,
    };
    const AHEAD: usize = 1024; // numbers
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        let mut sums = [_mm512_setzero_ps(); 4];
        for (x, q) in row.chunks(64).zip(query.chunks(64)) {
            for (part, sum) in sums.iter_mut().enumerate() {
                let left = x.len().saturating_sub(16 * part).min(16);
                let mask = ((1u32 << left) - 1) as u16;
                let (x, q) = (x.as_ptr().wrapping_add(16 * part), q.as_ptr().wrapping_add(16 * part));
                // SAFETY: the mask leaves what both chunks have. A prefetch reads nothing that the program could see.
                let (x, q) = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add(AHEAD).cast());
                    (_mm512_maskz_loadu_ps(mask, x), _mm512_maskz_loadu_ps(mask, q))
                };
                *sum = _mm512_add_ps(*sum, _mm512_mul_ps(x, q));
            }
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[2]), _mm512_add_ps(sums[1], sums[3]));
        let sum = _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum));
        let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        *out = _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
    }
}

/// How far apart keys of a query may be that are in the wrong order.
pub fn margin(metric: Metric, query: &[f32], largest_norm: f64) -> f32 {
    metric.slack(query.len(), crate::metric::squared_norm(query).sqrt(), largest_norm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use polmrs_core::Dtype;
    use proptest::prelude::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let step = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| step(&mut state)).collect()
    }

    #[test]
    fn a_query_and_a_row_have_the_same_dot_product_on_every_processor() {
        for dim in [1, 15, 16, 17, 63, 64, 100, 384, 450] {
            let (query, rows) = (numbers(dim, 1), numbers(5 * dim, 2));
            let (mut fast, mut plain) = ([0f32; 5], [0f32; 5]);
            row_dots(&query, &rows, &mut fast);
            row_dots_plain(&query, &rows, &mut plain);
            assert_eq!(fast.map(f32::to_bits), plain.map(f32::to_bits), "{dim}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// The twin is the metric's score of every row.
        #[test]
        fn the_best_rows_are_always_among_the_candidates(
            dim in 1usize..80, n in 1usize..300, queries in 1usize..20, k in 1usize..12, seed: u64, half: bool,
        ) {
            for (_, metric) in Metric::NAMES {
                let mut vectors = Vectors::new(dim, if half { Dtype::BF16 } else { Dtype::F32 });
                vectors.push(&numbers(n * dim, seed));
                let asked = numbers(queries * dim, !seed);
                let norms: Vec<f64> = (0..n).map(|row| crate::metric::squared_norm(&vectors.row(row))).collect();
                let largest = norms.iter().fold(0f64, |a, b| a.max(*b)).sqrt();
                let rankings: Vec<[f32; 2]> = norms.iter().map(|norm| metric.ranking(*norm)).collect();
                let eligible: Vec<u64> = (0..n.div_ceil(64)).map(|word| seed.rotate_left(word as u32) | 1).collect();
                let widths: Vec<f32> = asked.chunks(dim).map(|query| margin(metric, query, largest)).collect();
                let mut lists: Vec<Shortlist> = widths.iter().map(|_| Shortlist::new(k)).collect();
                let rows = Rows { vectors: &vectors, rankings: &rankings, eligible: &eligible, dim };
                scan(rows, &asked, &widths, &mut lists);
                for (query, list) in asked.chunks(dim).zip(lists) {
                    let found: Vec<u32> = list.finish().iter().map(|candidate| candidate.slot).collect();
                    let mut scores: Vec<(f32, u32)> = (0..n).filter(|row| eligible[row / 64] >> (row % 64) & 1 == 1)
                        .map(|row| (metric.score(query, &vectors.row(row)), row as u32)).collect();
                    scores.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                    for (_, row) in scores.iter().take(k) {
                        prop_assert!(found.contains(row));
                    }
                    prop_assert!(found.iter().all(|row| scores.iter().any(|(_, other)| other == row)));
                }
            }
        }
    }
}
