//! The scan of 1-bit codes: the sign of every rotated, centred coordinate.
//!
//! Six signs are one index into a table of the 64 sums $\sum \pm q_i$ that a query can make of its six coordinates, in steps
//! of 1/127 of the widest table. One `vpermb` looks 64 rows up, so a row costs as many bytes as it has groups of six, and the
//! sum over groups is the query's dot product with the signs, in steps. (FastScan of faiss looks up 4 bits in 16 entries.)
//! Integer sums, so the same bits on every processor.
//!
//! A block is 64 rows: for every group, 64 bytes, row `r` at byte `2 (r mod 32) + r / 32`, so that the even bytes are the
//! first 32 rows, in order.

use crate::bitmap::eligible_of;
use crate::column::Column;
use crate::rows8::prefetch;
use crate::shortlist::Shortlist;
use polmrs_core::simd::{Level, level};
use std::ops::Range;

/// Rows of a block: a word of the bitmap.
pub const ROWS: usize = 64;
/// Coordinates of a group.
const GROUP: usize = 6;
/// The largest entry of a table: two fit into a byte.
const TOP: f32 = 127.0;
/// Groups whose sums fit into 16 bits.
const SPAN: usize = 512;

/// The codes of rows, block after block.
#[derive(Clone, Debug)]
pub struct Signs {
    groups: usize,
    rows: usize,
    codes: Column<u8>,
}

/// What makes the sums of rows keys.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Is added to a dot product, so that the key is one at best; half of what it may be too high by.
    pub reach: f32,
    /// Multiplies the dot product of each row.
    pub scales: &'a [f32],
    /// Is added to it, row by row.
    pub offsets: &'a [f32],
    /// Is added to all.
    pub shift: f32,
    /// The slot of the first row.
    pub base: usize,
    /// A bit a row: which may be found.
    pub eligible: &'a [u64],
}

/// A query's tables; its dot product with the signs of a row is `base + step * sum`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tables {
    entries: Vec<u8>,
    /// The value of a sum of 0.
    pub base: f32,
    /// The value of one more.
    pub step: f32,
    dim: usize,
}

impl Signs {
    /// No rows yet.
    pub fn new(dim: usize) -> Signs {
        Signs { groups: dim.div_ceil(GROUP), rows: 0, codes: Column::default() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: &[f32]) {
        let (block, at) = (self.rows / ROWS, self.rows % ROWS);
        let all = self.codes.to_mut();
        if at == 0 {
            all.resize((block + 1) * ROWS * self.groups, 0);
        }
        let place = 2 * (at % 32) + at / 32;
        let codes = all[block * ROWS * self.groups..].chunks_exact_mut(ROWS);
        for (codes, group) in codes.zip(row.chunks(GROUP)) {
            codes[place] = group.iter().rev().fold(0, |code, x| code << 1 | u8::from(*x > 0.0));
        }
        self.rows += 1;
    }

    /// Offers the eligible rows of `span`, which begins with a block, to a query's list. A row's key is
    /// `(base + step * sum + reach) * scale + offset`.
    pub fn scan(&self, span: Range<usize>, tables: &Tables, line: Line<'_>, list: &mut Shortlist) {
        #[cfg(target_arch = "x86_64")]
        {
            if level() == Level::Avx512 && is_x86_feature_detected!("avx512vbmi") {
                // SAFETY: the processor has AVX-512 F, BW, DQ, VL (they are the level) and VBMI.
                return unsafe { self.scan_avx512(span, tables, line, list) };
            }
            if level() >= Level::Avx2 {
                // SAFETY: the processor has AVX2, which is part of the level.
                return unsafe { self.scan_avx2(span, tables, line, list) };
            }
        }
        self.scan_by(add_span_plain, reached_plain, span, tables, line, list);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn scan_avx512(&self, span: Range<usize>, tables: &Tables, line: Line<'_>, list: &mut Shortlist) {
        let add_span = |codes: &[u8], entries: &[u8], sums: &mut [u16; ROWS]| add_span_avx512(codes, entries, sums);
        self.scan_by(add_span, |keys, threshold| reached_avx512(keys, threshold), span, tables, line, list);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn scan_avx2(&self, span: Range<usize>, tables: &Tables, line: Line<'_>, list: &mut Shortlist) {
        let add_span = |codes: &[u8], entries: &[u8], sums: &mut [u16; ROWS]| add_span_avx2(codes, entries, sums);
        self.scan_by(add_span, reached_plain, span, tables, line, list);
    }

    #[inline(always)]
    fn scan_by(
        &self,
        add_span: impl Fn(&[u8], &[u8], &mut [u16; ROWS]),
        reached: impl Fn(&[f32; ROWS], f32) -> u64,
        span: Range<usize>,
        tables: &Tables,
        line: Line<'_>,
        list: &mut Shortlist,
    ) {
        let (size, all) = (ROWS * self.groups, &*self.codes);
        let (base, step) = (tables.base + line.reach, tables.step);
        for first in span.clone().step_by(ROWS) {
            let last = span.end.min(first + ROWS);
            let allowed = eligible_of(line.eligible, first, last);
            if allowed == 0 {
                continue;
            }
            let (block, rest) = all[first / ROWS * size..].split_at(size);
            prefetch(&rest[..size.min(rest.len())]);
            let mut sums = [0u32; ROWS];
            for (codes, entries) in block.chunks(ROWS * SPAN).zip(tables.entries.chunks(ROWS * SPAN)) {
                let mut part = [0u16; ROWS];
                add_span(codes, entries, &mut part);
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum += u32::from(part);
                }
            }
            let (scales, offsets) = (&line.scales[first..last], &line.offsets[first..last]);
            let mut keys = [f32::NEG_INFINITY; ROWS];
            if let (Ok(scales), Ok(offsets)) = (<&[f32; ROWS]>::try_from(scales), <&[f32; ROWS]>::try_from(offsets)) {
                for row in 0..ROWS {
                    keys[row] = (base + step * sums[row] as i32 as f32) * scales[row] + (offsets[row] + line.shift);
                }
            } else {
                for (row, (scale, offset)) in scales.iter().zip(offsets).enumerate() {
                    keys[row] = (base + step * sums[row] as i32 as f32) * scale + (offset + line.shift);
                }
            }
            let rows = reached(&keys, list.threshold()) & allowed;
            list.take(&keys, rows, line.base + first, |row| 2.0 * line.reach * scales[row]);
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

    /// The bytes of as many rows.
    pub(crate) fn bytes_of(&self, rows: usize) -> usize {
        rows.div_ceil(ROWS).saturating_mul(ROWS * self.groups)
    }

    /// These codes of `rows` rows; nothing if there are more or fewer.
    pub(crate) fn with(mut self, rows: usize, codes: Column<u8>) -> Option<Signs> {
        (codes.len() == self.bytes_of(rows)).then_some(())?;
        (self.rows, self.codes) = (rows, codes);
        Some(self)
    }

    /// Copies what is mapped into memory.
    pub(crate) fn to_mut(&mut self) {
        self.codes.to_mut();
    }
}

impl Tables {
    /// The tables of a rotated, centred query.
    pub fn new(query: &[f32]) -> Tables {
        let reach = |group: &[f32]| group.iter().map(|x| x.abs()).sum::<f32>();
        let widest = query.chunks(GROUP).map(reach).fold(0f32, f32::max);
        let step = if widest > 0.0 { 2.0 * widest / TOP } else { 1.0 };
        let inverse = 1.0 / step;
        let mut entries = vec![0u8; query.len().div_ceil(GROUP) * ROWS];
        let mut base = 0f32;
        for (group, entries) in query.chunks(GROUP).zip(entries.as_chunks_mut::<ROWS>().0) {
            base -= reach(group);
            fill(group, inverse, entries);
        }
        Tables { entries, base, step, dim: query.len() }
    }

    /// The variance that a coordinate would have, had not tables been rounded, uniformly over a step, but coordinates.
    pub(crate) fn rounding(&self) -> f32 {
        self.step * self.step / 12.0 * self.dim.div_ceil(GROUP) as f32 / self.dim as f32
    }
}

polmrs_core::simd! {
    /// Entry `c` is twice the sum of `|x|` over the coordinates whose sign agrees with bit of `c`, in steps.
    fn fill(group: &[f32], inverse: f32, entries: &mut [u8; ROWS]) {
        let mut q = [0f32; GROUP];
        q[..group.len()].copy_from_slice(group);
        let q = q.map(|x| 2.0 * inverse * x);
        const MAGIC: f32 = 8_388_608.0; // 2^23: what is added to it is rounded to a whole number
        // All signs minus, then what each plus adds.
        let clear = -q.iter().map(|x| x.min(0.0)).sum::<f32>();
        let mut low = [clear; 16];
        for (code, sum) in low.iter_mut().enumerate() {
            for (bit, x) in q[..4].iter().enumerate() {
                *sum += if code >> bit & 1 == 1 { *x } else { 0.0 };
            }
        }
        for (quarter, entries) in entries.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let more = if quarter & 1 == 1 { q[4] } else { 0.0 } + if quarter & 2 == 2 { q[5] } else { 0.0 };
            for (entry, sum) in entries.iter_mut().zip(low) {
                *entry = (sum + more + MAGIC).to_bits() as u8;
            }
        }
    }
}

/// A bit for each key that reaches a threshold.
#[inline(always)]
fn reached_plain(keys: &[f32; ROWS], threshold: f32) -> u64 {
    if keys.iter().all(|key| *key < threshold) {
        return 0;
    }
    keys.iter().rev().fold(0, |bits, key| bits << 1 | u64::from(*key >= threshold))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn reached_avx512(keys: &[f32; ROWS], threshold: f32) -> u64 {
    use std::arch::x86_64::{_CMP_GE_OQ, _mm512_cmp_ps_mask, _mm512_loadu_ps, _mm512_set1_ps};
    let threshold = _mm512_set1_ps(threshold);
    keys.as_chunks::<16>().0.iter().rev().fold(0, |bits, keys| {
        // SAFETY: a chunk is 16 floats.
        let keys = unsafe { _mm512_loadu_ps(keys.as_ptr()) };
        bits << 16 | u64::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(keys, threshold))
    })
}

#[inline(always)]
fn add_span_plain(codes: &[u8], entries: &[u8], sums: &mut [u16; ROWS]) {
    for (codes, entries) in codes.as_chunks::<ROWS>().0.iter().zip(entries.as_chunks::<ROWS>().0) {
        for (place, code) in codes.iter().enumerate() {
            sums[place / 2 + 32 * (place % 2)] += u16::from(entries[usize::from(*code) % ROWS]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn add_span_avx512(codes: &[u8], entries: &[u8], sums: &mut [u16; ROWS]) {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi8, _mm512_add_epi16, _mm512_loadu_si512, _mm512_permutexvar_epi8, _mm512_setzero_si512,
        _mm512_slli_epi16, _mm512_srli_epi16, _mm512_storeu_si512, _mm512_sub_epi16,
    };
    // SAFETY: a chunk is 64 bytes.
    let load = |bytes: &[u8; ROWS]| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast::<__m512i>()) };
    let look = |codes: &[u8; ROWS], entries: &[u8; ROWS]| _mm512_permutexvar_epi8(load(codes), load(entries));
    // `all` takes bytes in pairs as 16-bit numbers, `odd` the upper ones alone; the lower ones are the difference.
    let (mut all, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let (codes, entries) = (codes.as_chunks::<ROWS>().0, entries.as_chunks::<ROWS>().0);
    let ((code_pairs, code_rest), (entry_pairs, entry_rest)) = (codes.as_chunks::<2>(), entries.as_chunks::<2>());
    for (codes, entries) in code_pairs.iter().zip(entry_pairs) {
        let both = _mm512_add_epi8(look(&codes[0], &entries[0]), look(&codes[1], &entries[1]));
        all = _mm512_add_epi16(all, both);
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(both));
    }
    for (codes, entries) in code_rest.iter().zip(entry_rest) {
        let one = look(codes, entries);
        all = _mm512_add_epi16(all, one);
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(one));
    }
    let even = _mm512_sub_epi16(all, _mm512_slli_epi16::<8>(odd));
    // SAFETY: `sums` is 128 bytes.
    unsafe {
        _mm512_storeu_si512(sums.as_mut_ptr().cast::<__m512i>(), even);
        _mm512_storeu_si512(sums.as_mut_ptr().add(32).cast::<__m512i>(), odd);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn add_span_avx2(codes: &[u8], entries: &[u8], sums: &mut [u16; ROWS]) {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_loadu_si128, _mm256_add_epi16, _mm256_blendv_epi8, _mm256_broadcastsi128_si256,
        _mm256_loadu_si256, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srli_epi16,
        _mm256_storeu_si256, _mm256_sub_epi16,
    };
    let zero = _mm256_setzero_si256();
    let mut totals = [[zero; 2]; 2];
    for (codes, entries) in codes.as_chunks::<ROWS>().0.iter().zip(entries.as_chunks::<ROWS>().0) {
        // SAFETY: `quarter` is 16 bytes.
        let table = |quarter: &[u8; 16]| unsafe {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(quarter.as_ptr().cast::<__m128i>()))
        };
        let quarters = entries.as_chunks::<16>().0;
        let tables = [table(&quarters[0]), table(&quarters[1]), table(&quarters[2]), table(&quarters[3])];
        for (half, [all, odd]) in codes.as_chunks::<32>().0.iter().zip(&mut totals) {
            // SAFETY: `half` is 32 bytes.
            let code = unsafe { _mm256_loadu_si256(half.as_ptr().cast::<__m256i>()) };
            // A shuffle reads the low four bits of a byte; a blend reads the top bit, where bits 4 and 5 are moved.
            let (bit4, bit5) = (_mm256_slli_epi16::<3>(code), _mm256_slli_epi16::<2>(code));
            let look = |table| _mm256_shuffle_epi8(table, code);
            let low = _mm256_blendv_epi8(look(tables[0]), look(tables[1]), bit4);
            let high = _mm256_blendv_epi8(look(tables[2]), look(tables[3]), bit4);
            let found = _mm256_blendv_epi8(low, high, bit5);
            *all = _mm256_add_epi16(*all, found);
            *odd = _mm256_add_epi16(*odd, _mm256_srli_epi16::<8>(found));
        }
    }
    for (half, [all, odd]) in totals.into_iter().enumerate() {
        let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
        // SAFETY: `sums` is 128 bytes, of which each of the four stores takes 32.
        unsafe {
            _mm256_storeu_si256(sums.as_mut_ptr().add(16 * half).cast::<__m256i>(), even);
            _mm256_storeu_si256(sums.as_mut_ptr().add(32 + 16 * half).cast::<__m256i>(), odd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, dim: usize) -> Vec<Vec<f32>> {
        (0..n).map(|row| (0..dim).map(|at| ((row * 131 + at * 71 + row * at) as f32 * 0.37).sin()).collect()).collect()
    }

    #[test]
    fn sums_are_dot_products_with_signs() {
        for (n, dim) in [(1, 1), (63, 6), (64, 7), (130, 64), (70, 384), (3, 3200)] {
            let mut signs = Signs::new(dim);
            let rows = rows(n, dim);
            rows.iter().for_each(|row| signs.push(row));
            let query: Vec<f32> = (0..dim).map(|at| (at as f32 * 0.9 + 0.1).cos()).collect();
            let tables = Tables::new(&query);
            let mut list = Shortlist::new(n);
            let (scales, offsets, eligible) = (vec![1.0; n], vec![0.0; n], vec![u64::MAX; n.div_ceil(ROWS)]);
            let line =
                Line { reach: 0.0, scales: &scales, offsets: &offsets, shift: 0.0, base: 0, eligible: &eligible };
            signs.scan(0..n, &tables, line, &mut list);
            for (row, candidate) in rows.iter().zip(list.finish()) {
                let wanted: f32 = row.iter().zip(&query).map(|(x, q)| if *x > 0.0 { *q } else { -q }).sum();
                // Every table rounds to half a step.
                let bound = 0.5 * tables.step * dim.div_ceil(GROUP) as f32 + 1e-3;
                assert!((candidate.key - wanted).abs() <= bound, "{dim}: {} {wanted}", candidate.key);
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_sums() {
        let bytes =
            |n: usize, modulus: usize, step: usize| -> Vec<u8> { (0..n).map(|i| (i * step % modulus) as u8).collect() };
        for groups in [1, 2, 7, 64, 512] {
            let (codes, entries) = (bytes(ROWS * groups, 64, 37), bytes(ROWS * groups, 128, 89));
            let mut wanted = [0; ROWS];
            add_span_plain(&codes, &entries, &mut wanted);
            let mut got = [0; ROWS];
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vl") {
                // SAFETY: just asked for; a processor that has VBMI has BW and DQ.
                unsafe { add_span_avx512(&codes, &entries, &mut got) };
                assert_eq!(got, wanted);
            }
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                // SAFETY: just asked for.
                unsafe { add_span_avx2(&codes, &entries, &mut got) };
                assert_eq!(got, wanted);
            }
        }
    }
}
