//! Packed words turned over: formats that pack along the other axis.
//!
//! Codes that lie down a column are packed as those along a row are, and the 32-bit words then change places. So GPTQ's
//! `qweight` `[in b / 32, out]` is the transpose of rows packed along `in`: one code path packs, one turns.

use crate::bits;
use polmrs_core::simd;

/// Rows and columns of a tile: a cache line of words.
pub(super) const TILE: usize = 16;

/// Each column of a matrix of codes that is `width` wide as a stream of its own, one stream after the other.
pub(super) fn pack_down(bits: usize, codes: &[u8], width: usize) -> Vec<u8> {
    let count = codes.len() / width.max(1);
    let each = bits::packed_bytes(count, bits);
    let (mut column, mut streams) = (Vec::with_capacity(count), vec![0; width * each]);
    for (at, stream) in streams.chunks_exact_mut(each.max(1)).enumerate() {
        column.clear();
        column.extend(codes.iter().skip(at).step_by(width).copied());
        bits::pack(bits, &column, stream);
    }
    streams
}

/// The codes of `width` streams of `count` codes each, as columns.
pub(super) fn unpack_down(bits: usize, streams: &[u8], width: usize, count: usize) -> Vec<u8> {
    let each = bits::packed_bytes(count, bits);
    let (mut column, mut codes) = (vec![0; count], vec![0; width * count]);
    for (at, stream) in streams.chunks_exact(each.max(1)).enumerate() {
        bits::unpack(bits, stream, &mut column);
        codes.iter_mut().skip(at).step_by(width).zip(&column).for_each(|(code, from)| *code = *from);
    }
    codes
}

/// The transpose of a matrix of words with this many rows.
pub(super) fn turn(words: &[u8], rows: usize) -> Vec<u8> {
    let mut turned = vec![0; words.len()];
    turn_words(words.as_chunks::<4>().0, rows, turned.as_chunks_mut::<4>().0);
    turned
}

/// The transpose of a matrix of numbers with this many rows.
pub(super) fn turned(x: &[f32], rows: usize) -> Vec<f32> {
    let mut turned = vec![0.0; x.len()];
    turn_floats(x, rows, &mut turned);
    turned
}

simd! {
    fn turn_words(words: &[[u8; 4]], rows: usize, turned: &mut [[u8; 4]]) {
        turn_all(words, rows, turned);
    }
}

simd! {
    fn turn_floats(x: &[f32], rows: usize, turned: &mut [f32]) {
        turn_all(x, rows, turned);
    }
}

/// In tiles that are read and written a cache line at a time. Rows are often a power of two apart, where all lines of a
/// tile would drive each other out of the cache if they were needed twice.
#[inline(always)]
fn turn_all<T: Copy + Default>(from: &[T], rows: usize, to: &mut [T]) {
    let columns = from.len() / rows.max(1);
    let mut tile = [[T::default(); TILE]; TILE];
    for left in (0..columns).step_by(TILE) {
        for top in (0..rows).step_by(TILE) {
            let (width, height) = (TILE.min(columns - left), TILE.min(rows - top));
            for (row, line) in tile.iter_mut().take(height).enumerate() {
                copy_line(&from[(top + row) * columns + left..][..width], line);
            }
            for column in 0..width {
                let mut line = [T::default(); TILE];
                for row in 0..TILE {
                    line[row] = tile[row][column];
                }
                copy_line(&line[..height], &mut to[(left + column) * rows + top..]);
            }
        }
    }
}

/// Copies a line, whose usual length the compiler knows.
#[inline(always)]
pub(super) fn copy_line<T: Copy>(from: &[T], to: &mut [T]) {
    if let (Some(from), Some(to)) = (from.first_chunk::<TILE>(), to.first_chunk_mut::<TILE>()) {
        *to = *from;
    } else {
        to[..from.len()].copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_transpose_changes_places(rows in 1_usize..40, columns in 1_usize..40) {
            let words: Vec<u8> = (0..rows * columns).flat_map(|at| (at as u32).to_le_bytes()).collect();
            let turned = turn(&words, rows);
            for (at, word) in turned.as_chunks::<4>().0.iter().enumerate() {
                let (column, row) = (at / rows, at % rows);
                prop_assert_eq!(u32::from_le_bytes(*word), (row * columns + column) as u32);
            }
            prop_assert_eq!(turn(&turned, columns), words);
        }

        #[test]
        fn columns_are_streams(bits in 1_usize..=8, width in 1_usize..5, count in 1_usize..70, seed in any::<u8>()) {
            let mask = 0xff >> (8 - bits);
            let codes: Vec<u8> = (0..width * count).map(|at| (at as u8).wrapping_mul(seed | 1) & mask).collect();
            let streams = pack_down(bits, &codes, width);
            let first: Vec<u8> = codes.iter().step_by(width).copied().collect();
            let mut packed = vec![0; bits::packed_bytes(count, bits)];
            bits::pack(bits, &first, &mut packed);
            prop_assert_eq!(&streams[..packed.len()], &packed[..]);
            prop_assert_eq!(unpack_down(bits, &streams, width, count), codes);
        }
    }
}
