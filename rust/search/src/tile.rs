//! Rows of bytes beside queries of bytes: integer dot products by VNNI, for a batch.
//!
//! A tile is 32 rows, unpacked for all queries to come by: for every four coordinates it has 4 bytes of each row side by side,
//! so a register holds four coordinates of 16 rows, and meets 8 queries that are broadcast. Dot products become keys and
//! meet the threshold of their query while they are in registers; few leave them. Codes are stored as $y + 128$, the unsigned
//! side of `vpdpbusd`. Integer sums, and keys by the same operations, so the same bits on every processor.

use crate::bitmap::eligible_of;
use crate::factors::Factors;
use crate::shortlist::Shortlist;
use polmrs_core::simd;

/// Rows of a tile: half a word of the bitmap.
pub(crate) const ROWS: usize = 32;
/// Bytes of a tile for four coordinates.
pub(crate) const LINE: usize = 4 * ROWS;
/// What codes are shifted by to be unsigned.
pub(crate) const SHIFT: i32 = 128;
/// Queries that meet a tile together.
const QUERIES: usize = 8;

/// Rows that can be unpacked, tile by tile.
pub(crate) trait Tiles {
    /// Groups of four coordinates.
    fn lines(&self) -> usize;

    /// Fills in a tile, of [`LINE`] bytes a group. What is past the last row may keep old values.
    fn unpack(&self, number: usize, tile: &mut [u8]);
}

/// A query of whole numbers. Its key for a row is `key(dot) * scale + offset`, so that it is one at best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The numbers.
    pub(crate) levels: &'a [i8],
    /// The value of one.
    pub(crate) step: f32,
    /// Half of what a dot product may be too high by.
    pub(crate) reach: f32,
}

impl Asked<'_> {
    #[inline(always)]
    pub(crate) fn key(&self, dot: i32) -> f32 {
        self.step * dot as f32 + self.reach
    }

    /// What dot products with codes are too large by.
    pub(crate) fn correction(&self) -> i32 {
        SHIFT * self.levels.iter().map(|x| i32::from(*x)).sum::<i32>()
    }
}

/// Offers every eligible row to the list of every query.
pub(crate) fn scan(
    rows: &dyn Tiles,
    factors: &Factors,
    eligible: &[u64],
    asked: &[Asked<'_>],
    lists: &mut [Shortlist],
) {
    let n = factors.scales.len();
    let groups: Vec<Group<'_>> = asked.chunks(QUERIES).map(|asked| Group::new(asked, rows.lines())).collect();
    let mut tile = vec![0; LINE * rows.lines()];
    for first in (0..n).step_by(ROWS) {
        let last = n.min(first + ROWS);
        let allowed = eligible_of(eligible, first, last);
        if allowed == 0 {
            continue;
        }
        rows.unpack(first / ROWS, &mut tile);
        let mut span = Span { first, allowed, scales: [0.0; ROWS], offsets: [0.0; ROWS] };
        span.scales[..last - first].copy_from_slice(&factors.scales[first..last]);
        span.offsets[..last - first].copy_from_slice(&factors.offsets[first..last]);
        for (group, lists) in groups.iter().zip(lists.chunks_mut(QUERIES)) {
            group.offer(&tile, &span, lists);
        }
    }
}

/// What makes dot products with the rows of a tile keys, and which of them count.
struct Span {
    first: usize,
    allowed: u64,
    scales: [f32; ROWS],
    offsets: [f32; ROWS],
}

/// Up to eight queries: for every four coordinates, four bytes of each query side by side.
struct Group<'a> {
    asked: &'a [Asked<'a>],
    fours: Vec<[[i8; 4]; QUERIES]>,
    corrections: [i32; QUERIES],
}

impl<'a> Group<'a> {
    fn new(asked: &'a [Asked<'a>], lines: usize) -> Group<'a> {
        let mut fours = vec![[[0; 4]; QUERIES]; lines];
        let mut corrections = [0; QUERIES];
        for (number, one) in asked.iter().enumerate() {
            corrections[number] = one.correction();
            for (line, four) in fours.iter_mut().zip(one.levels.chunks(4)) {
                line[number][..four.len()].copy_from_slice(four);
            }
        }
        Group { asked, fours, corrections }
    }

    fn offer(&self, tile: &[u8], span: &Span, lists: &mut [Shortlist]) {
        #[cfg(target_arch = "x86_64")]
        if has_vnni() {
            // SAFETY: the processor has AVX-512 F, BW (part of the level) and VNNI.
            return unsafe { self.offer_vnni(tile, span, lists) };
        }
        self.offer_plain(tile, span, lists);
    }

    fn offer_plain(&self, tile: &[u8], span: &Span, lists: &mut [Shortlist]) {
        let mut dots = [[0; ROWS]; QUERIES];
        dots_plain(tile, &self.fours, &mut dots);
        let queries = self.asked.iter().zip(self.corrections).zip(dots);
        for (((one, correction), dots), list) in queries.zip(lists) {
            let mut keys = [0f32; ROWS];
            for row in 0..ROWS {
                keys[row] = one.key(dots[row] - correction) * span.scales[row] + span.offsets[row];
            }
            list.offer(&keys, span.allowed, span.first, |row| 2.0 * one.reach * span.scales[row]);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn offer_vnni(&self, tile: &[u8], span: &Span, lists: &mut [Shortlist]) {
        use std::arch::x86_64::{
            __m512i, _CMP_GE_OQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32,
            _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps,
            _mm512_setzero_si512, _mm512_storeu_ps, _mm512_sub_epi32,
        };
        let mut sums = [[_mm512_setzero_si512(); 2]; QUERIES];
        for (line, queries) in tile.as_chunks::<LINE>().0.iter().zip(&self.fours) {
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
        // SAFETY: there are 32 numbers.
        let halves =
            |all: &[f32; ROWS]| unsafe { [_mm512_loadu_ps(all.as_ptr()), _mm512_loadu_ps(all.as_ptr().add(16))] };
        let (scales, offsets) = (halves(&span.scales), halves(&span.offsets));
        let queries = self.asked.iter().zip(self.corrections).zip(sums);
        for (((one, correction), sums), list) in queries.zip(lists) {
            let (step, reach) = (_mm512_set1_ps(one.step), _mm512_set1_ps(one.reach));
            let threshold = _mm512_set1_ps(list.threshold());
            let key = |half: usize| {
                let dot = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[half], _mm512_set1_epi32(correction)));
                let key = _mm512_add_ps(_mm512_mul_ps(step, dot), reach);
                _mm512_add_ps(_mm512_mul_ps(key, scales[half]), offsets[half])
            };
            let keys = [key(0), key(1)];
            let [low, high] = keys.map(|keys| u64::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(keys, threshold)));
            let reached = (low | high << 16) & span.allowed;
            if reached != 0 {
                let mut all = [0f32; ROWS];
                // SAFETY: `all` is 32 numbers.
                unsafe {
                    _mm512_storeu_ps(all.as_mut_ptr(), keys[0]);
                    _mm512_storeu_ps(all.as_mut_ptr().add(16), keys[1]);
                }
                list.take(&all, reached, span.first, |row| 2.0 * one.reach * span.scales[row]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_vnni() -> bool {
    simd::level() == simd::Level::Avx512 && is_x86_feature_detected!("avx512vnni")
}

simd! {
    fn dots_plain(tile: &[u8], queries: &[[[i8; 4]; QUERIES]], out: &mut [[i32; ROWS]; QUERIES]) {
        for (line, queries) in tile.as_chunks::<LINE>().0.iter().zip(queries) {
            for (sums, query) in out.iter_mut().zip(queries) {
                for (sum, code) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
                    let product = |at: usize| i32::from(code[at]) * i32::from(query[at]);
                    *sum += product(0) + product(1) + product(2) + product(3);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::Column;
    use crate::levels::{Nibbles, Width, quantize};
    use crate::rows8::Rows8;

    fn levels(n: usize, step: i32) -> Vec<i8> {
        (0..n as i32).map(|i| (i * step % 255 - 127) as i8).collect()
    }

    #[test]
    fn keys_are_those_of_dot_products_on_every_processor() {
        for (n, dim, queries) in [(1, 1, 1), (31, 3, 2), (32, 4, 8), (33, 9, 9), (70, 64, 5), (40, 390, 17)] {
            for width in [Width::Eight, Width::Four] {
                let (mut eight, mut four, mut stored) = (Rows8::new(dim), Nibbles::new(dim), Vec::new());
                for row in 0..n {
                    let raw: Vec<f32> = (0..dim).map(|at| ((row * 37 + at * 11) as f32).sin()).collect();
                    let mut numbers = Vec::new();
                    quantize(&raw, width, &mut numbers);
                    if width == Width::Eight {
                        eight.push(&numbers)
                    } else {
                        four.push(&numbers)
                    }
                    stored.push(numbers);
                }
                let rows: &dyn Tiles = if width == Width::Eight { &eight } else { &four };
                let (scales, offsets): (Vec<f32>, Vec<f32>) = (0..n).map(|row| (0.5, row as f32)).unzip();
                let factors = Factors::with(n, Column::Owned(scales), Column::Owned(offsets), [0.0; 3]).unwrap();
                let eligible = vec![!2u64; n.div_ceil(64)]; // all but one of every 64
                let all: Vec<Vec<i8>> = (0..queries).map(|number| levels(dim, 31 + number)).collect();
                let asked: Vec<Asked<'_>> = all.iter().map(|levels| Asked { levels, step: 0.25, reach: 3.0 }).collect();
                let lists = || asked.iter().map(|_| Shortlist::new(n)).collect::<Vec<_>>();
                let mut found = lists();
                scan(rows, &factors, &eligible, &asked, &mut found);

                let (mut plain, mut tile) = (lists(), vec![7; LINE * rows.lines()]);
                for first in (0..n).step_by(ROWS) {
                    rows.unpack(first / ROWS, &mut tile);
                    let of = |all: &[f32]| std::array::from_fn(|row| all.get(first + row).copied().unwrap_or(0.0));
                    let allowed = eligible_of(&eligible, first, n.min(first + ROWS));
                    let span = Span { first, allowed, scales: of(&factors.scales), offsets: of(&factors.offsets) };
                    for (asked, plain) in asked.chunks(QUERIES).zip(plain.chunks_mut(QUERIES)) {
                        Group::new(asked, rows.lines()).offer_plain(&tile, &span, plain);
                    }
                }
                for ((found, plain), query) in found.into_iter().zip(plain).zip(&all) {
                    let found = found.finish();
                    assert_eq!(found, plain.finish());
                    assert_eq!(found.len(), (0..n).filter(|row| row % 64 != 1).count());
                    for one in found {
                        let row = &stored[one.slot as usize];
                        let dot: i32 = row.iter().zip(query).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                        assert_eq!(one.key, (0.25 * dot as f32 + 3.0) * 0.5 + one.slot as f32, "{dim} {width:?}");
                    }
                }
            }
        }
    }
}
